"""Fetching checkpoints from a real server on loopback, through the failures of real ones."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import random
import resource
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest

from ego_assets.schema.errors import BackendUnavailable, ConfigurationError, InsufficientDisk
from ego_assets_tests.model_server import COMMIT, ModelServer, serve_models
from resources.models.downloads import Downloader, DownloadFailed, hub_endpoint, is_complete, wanted_files
from resources.models.registry import ModelCard, ModelFile
from resources.models.weights import (
    LOCK_FILE,
    card_digest,
    file_states,
    joint_digest,
    locate,
    locate_unread,
    read_lock,
    record,
    unrecorded_files,
)

WEIGHTS = random.Random(1).randbytes(1_500_000)
OTHER = random.Random(2).randbytes(1_500_000)
SHARDS = {
    "config.json": b'{"model_type": "small"}',
    "model-00001-of-00002.safetensors": WEIGHTS,
    "model-00002-of-00002.safetensors": OTHER,
    "model.safetensors.index.json": b'{"weight_map": {}}',
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "README.md": b"# small",
    "LICENSE": b"free",
    "pytorch_model-00001-of-00001.bin": b"the same again",
    "pytorch_model.bin.index.json": b"{}",
    "onnx/model.onnx": b"the same again",
}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def card(**changes: object) -> ModelCard:
    values: dict[str, object] = {
        "key": "small",
        "name": "Small",
        "task": "depth",
        "source": "https://example.org/small",
        "licence": "MIT",
        "commercial_use": True,
        "files": (ModelFile(path="net.pt"),),
        "input_contract": "-",
    }
    return ModelCard(**{**values, **changes})  # type: ignore[arg-type]


HUB = card(hub="someone/small", folder="small", files=(ModelFile(path="config.json"),))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServer]:
    with serve_models() as server:
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield server


def url_card(server: ModelServer, *, pinned: bool = True) -> ModelCard:
    server.files["/net.pt"] = WEIGHTS
    file = ModelFile(path="net.pt", url=f"{server.url}/net.pt", sha256=sha256(WEIGHTS) if pinned else "")
    return card(files=(file,))


def sized(wanted: ModelCard, size_bytes: int) -> ModelCard:
    [file] = wanted.files
    return dataclasses.replace(wanted, files=(dataclasses.replace(file, size_bytes=size_bytes),))


def downloader(folder: Path, said: list[str] | None = None) -> Downloader:
    say = (said if said is not None else []).append
    return Downloader(folder, attempts=3, first_pause_s=0.01, say=say)


def refusing(number: int) -> Callable[[int], None]:
    """What a system call on an open file raises."""

    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and ".part" in path.name)


# --- one file -----------------------------------------------------------------------------------------


def test_a_file_is_fetched_verified_and_recorded(server: ModelServer, tmp_path: Path) -> None:
    wanted = url_card(server)
    pulled = downloader(tmp_path).pull(wanted)
    assert pulled.fetched == (tmp_path / "net.pt",) and pulled.kept == ()
    assert locate(wanted, tmp_path).read_bytes() == WEIGHTS
    entry = read_lock(tmp_path).files["net.pt"]
    assert (entry.sha256, entry.size_bytes, entry.models) == (sha256(WEIGHTS), len(WEIGHTS), ("small",))
    assert left_behind(tmp_path) == []
    again = downloader(tmp_path).pull(wanted)
    assert again.kept == (tmp_path / "net.pt",) and len(server.requests) == 1


def test_a_dropped_connection_is_continued_where_it_stopped(server: ModelServer, tmp_path: Path) -> None:
    wanted = url_card(server)
    server.drops = [600_000, 500_000]
    downloader(tmp_path).pull(wanted)
    first, second, third = server.requests
    assert [first.status, second.status, third.status] == [200, 206, 206]
    assert second.headers["if-range"] == server.etag("/net.pt")
    assert second.begin == first.sent and third.begin == first.sent + second.sent
    assert sum(request.sent for request in server.requests) == len(WEIGHTS)


def test_progress_that_never_comes_is_given_up_and_resumed_later(server: ModelServer, tmp_path: Path) -> None:
    wanted = url_card(server)
    server.drops = [700_000, 0, 0, 0]
    with pytest.raises(DownloadFailed, match=r"Given up after 3 attempts.*goes on"):
        downloader(tmp_path).pull(wanted)
    assert not (tmp_path / "net.pt").exists() and len(left_behind(tmp_path)) == 2
    server.drops = []
    downloader(tmp_path).pull(wanted)
    assert server.requests[-1].begin == 700_000 and left_behind(tmp_path) == []


def test_failures_between_progress_are_not_added_up(server: ModelServer, tmp_path: Path) -> None:
    wanted = url_card(server)
    server.drops = [200_000] * 7
    downloader(tmp_path).pull(wanted)
    assert locate(wanted, tmp_path).read_bytes() == WEIGHTS


def test_a_server_that_ignores_ranges_is_read_from_the_start(server: ModelServer, tmp_path: Path) -> None:
    wanted = url_card(server)
    server.ignores_range = True
    server.drops = [600_000]
    downloader(tmp_path).pull(wanted)
    assert [request.status for request in server.requests] == [200, 200]
    assert locate(wanted, tmp_path).read_bytes() == WEIGHTS


@pytest.mark.parametrize("ignores_if_range", [False, True])
def test_a_file_that_changed_meanwhile_is_read_from_the_start(
    server: ModelServer, tmp_path: Path, ignores_if_range: bool
) -> None:
    wanted = url_card(server)
    server.files["/net.pt"] = OTHER
    server.drops = [900_000, 0, 0, 0]
    with pytest.raises(DownloadFailed, match="Given up"):
        downloader(tmp_path).pull(wanted)
    server.files["/net.pt"] = WEIGHTS
    server.drops = []
    server.ignores_if_range = ignores_if_range
    server.requests.clear()
    downloader(tmp_path).pull(wanted)
    assert [request.status for request in server.requests] == [206, 200] if ignores_if_range else [200]
    assert "range" in server.requests[0].headers
    assert (tmp_path / "net.pt").read_bytes() == WEIGHTS


def test_parts_of_two_versions_are_never_joined(server: ModelServer, tmp_path: Path) -> None:
    """Nobody states a digest, and the server continues a file although it changed."""
    wanted = url_card(server, pinned=False)
    server.becomes["/net.pt"] = OTHER
    server.drops = [900_000]
    server.ignores_if_range = True
    downloader(tmp_path).pull(wanted)
    assert [request.status for request in server.requests] == [200, 206, 200]
    assert (tmp_path / "net.pt").read_bytes() == OTHER


def test_a_server_that_sends_less_than_was_asked_is_asked_on(server: ModelServer, tmp_path: Path) -> None:
    wanted = url_card(server, pinned=False)
    server.drops = [100_000]
    server.most_bytes = 400_000
    downloader(tmp_path).pull(wanted)
    assert [request.begin for request in server.requests] == [0, 100_000, 500_000, 900_000, 1_300_000]
    assert (tmp_path / "net.pt").read_bytes() == WEIGHTS


def test_a_beginning_of_another_file_is_found_by_the_digest(server: ModelServer, tmp_path: Path) -> None:
    """The server states nothing that tells two versions apart, and continues whatever is asked."""
    wanted = url_card(server)
    server.etags["/net.pt"] = ""
    (tmp_path / ".net.pt.part").write_bytes(OTHER[:500_000])
    (tmp_path / ".net.pt.part.json").write_text(json.dumps({"url": f"{server.url}/net.pt", "validator": ""}))
    downloader(tmp_path).pull(wanted)
    assert [request.status for request in server.requests] == [206, 200]
    assert (tmp_path / "net.pt").read_bytes() == WEIGHTS


def test_without_a_digest_or_validator_nothing_is_continued(server: ModelServer, tmp_path: Path) -> None:
    wanted = url_card(server, pinned=False)
    server.etags["/net.pt"] = ""
    server.drops = [600_000]
    downloader(tmp_path).pull(wanted)
    assert [request.begin for request in server.requests] == [0, 0]


def test_a_wrong_body_is_refused_and_nothing_of_it_stays(server: ModelServer, tmp_path: Path) -> None:
    wanted = url_card(server)
    server.files["/net.pt"] = OTHER
    with pytest.raises(DownloadFailed, match=f"sha256 {sha256(OTHER)}, expected {sha256(WEIGHTS)}"):
        downloader(tmp_path).pull(wanted)
    assert left_behind(tmp_path) == [] and not (tmp_path / "net.pt").exists()
    assert read_lock(tmp_path).files == {}


def test_the_first_digits_of_a_digest_are_demanded(server: ModelServer, tmp_path: Path) -> None:
    wanted = url_card(server, pinned=False)
    file = dataclasses.replace(wanted.files[0], sha256_begins=sha256(WEIGHTS)[:8])
    downloader(tmp_path).pull(card(files=(file,)))
    server.files["/net.pt"] = OTHER
    with pytest.raises(DownloadFailed, match="expected"):
        downloader(tmp_path / "other").pull(card(files=(file,)))


@pytest.mark.parametrize("encodes", [False, True])
@pytest.mark.parametrize("ignores_range", [False, True])
def test_an_answer_of_no_stated_size_that_was_cut_is_completed(
    server: ModelServer, tmp_path: Path, ignores_range: bool, encodes: bool
) -> None:
    server.states_size, server.ignores_range, server.encodes = False, ignores_range, encodes
    server.drops = [600_000, 500_000]
    said: list[str] = []
    downloader(tmp_path, said).pull(sized(url_card(server), len(WEIGHTS)))
    assert (tmp_path / "net.pt").read_bytes() == WEIGHTS and left_behind(tmp_path) == []
    begins = [request.begin for request in server.requests]
    assert begins == ([0, 0, 0] if ignores_range or encodes else [0, 600_000, 1_100_000])
    assert len(said) == 2 and f"of {len(WEIGHTS)} bytes" in said[0]


def test_a_continued_answer_in_an_encoding_is_not_joined(server: ModelServer, tmp_path: Path) -> None:
    wanted = sized(url_card(server), len(WEIGHTS))
    server.drops = [600_000, 0, 0, 0]
    with pytest.raises(DownloadFailed, match="Given up"):
        downloader(tmp_path).pull(wanted)
    server.drops, server.encodes = [], True
    downloader(tmp_path).pull(wanted)
    assert [request.status for request in server.requests[-2:]] == [206, 200]
    assert (tmp_path / "net.pt").read_bytes() == WEIGHTS


@pytest.mark.parametrize("ignores_range", [False, True])
@pytest.mark.parametrize("encodes", [False, True])
def test_a_file_that_ends_early_every_time_is_given_up(
    server: ModelServer, tmp_path: Path, ignores_range: bool, encodes: bool
) -> None:
    """The publisher replaced it by a shorter one, and the server states no size."""
    wanted = sized(url_card(server), len(WEIGHTS) + 1)
    server.states_size, server.ignores_range, server.encodes = False, ignores_range, encodes
    with pytest.raises(
        DownloadFailed,
        match=rf"after {len(WEIGHTS)} of {len(WEIGHTS) + 1} bytes.*publisher replaced the file.*after 3 attempts",
    ):
        downloader(tmp_path).pull(wanted)
    assert len(server.requests) == 3 and not (tmp_path / "net.pt").exists()


def test_the_size_that_a_server_says_when_it_refuses_to_continue_decides(
    server: ModelServer, tmp_path: Path
) -> None:
    wanted = sized(url_card(server), len(WEIGHTS))
    server.drops = [900_000, 0, 0, 0]
    with pytest.raises(DownloadFailed, match="Given up"):
        downloader(tmp_path).pull(wanted)
    server.files["/net.pt"], server.etags["/net.pt"] = WEIGHTS[:800_000], server.etag("/net.pt")
    server.drops = []
    server.requests.clear()
    with pytest.raises(DownloadFailed, match=f"it has 800000 bytes, expected {len(WEIGHTS)}"):
        downloader(tmp_path).pull(wanted)
    assert [request.status for request in server.requests] == [416] and left_behind(tmp_path) == []


def test_a_file_of_another_size_is_refused_before_it_is_read(server: ModelServer, tmp_path: Path) -> None:
    wanted = url_card(server)
    file = dataclasses.replace(wanted.files[0], size_bytes=len(WEIGHTS) + 1)
    with pytest.raises(DownloadFailed, match=f"{len(WEIGHTS)} bytes, expected {len(WEIGHTS) + 1}"):
        downloader(tmp_path).pull(card(files=(file,)))
    assert left_behind(tmp_path) == []


def test_a_damaged_file_is_replaced(server: ModelServer, tmp_path: Path) -> None:
    wanted = url_card(server)
    (tmp_path / "net.pt").write_bytes(OTHER)
    with pytest.raises(BackendUnavailable, match="run `ego-assets models pull small`"):
        locate(wanted, tmp_path)
    downloader(tmp_path).pull(wanted)
    assert locate(wanted, tmp_path).read_bytes() == WEIGHTS


def test_what_was_recorded_at_the_first_pull_is_demanded(server: ModelServer, tmp_path: Path) -> None:
    wanted = url_card(server, pinned=False)
    downloader(tmp_path).pull(wanted)
    (tmp_path / "net.pt").write_bytes(OTHER)
    with pytest.raises(BackendUnavailable, match=f"{sha256(OTHER)}, expected {sha256(WEIGHTS)}"):
        locate(wanted, tmp_path)
    server.files["/net.pt"] = OTHER
    (tmp_path / "net.pt").unlink()
    with pytest.raises(DownloadFailed, match=f"expected {sha256(WEIGHTS)}"):
        downloader(tmp_path).pull(wanted)
    downloader(tmp_path).pull(wanted, again=True)
    assert locate(wanted, tmp_path).read_bytes() == OTHER


def test_a_server_that_is_busy_is_asked_again(server: ModelServer, tmp_path: Path) -> None:
    wanted = url_card(server)
    server.statuses = [503, 429, 408, 425]
    said: list[str] = []
    Downloader(tmp_path, attempts=5, first_pause_s=0.01, say=said.append).pull(wanted)
    assert [sentence.partition(": ")[2] for sentence in said] == [
        f"status {status}. Tried again in 0 s." for status in (503, 429, 408, 425)
    ]
    assert [request.status for request in server.requests] == [503, 429, 408, 425, 200]


def test_a_file_that_is_gone_is_said_at_once(server: ModelServer, tmp_path: Path) -> None:
    wanted = url_card(server)
    del server.files["/net.pt"]
    with pytest.raises(DownloadFailed, match=r"status 404.*by hand"):
        downloader(tmp_path).pull(wanted)
    assert len(server.requests) == 1


def test_a_host_that_does_not_answer_is_given_up(
    server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = ModelFile(path="net.pt", url="http://127.0.0.1:9/net.pt")
    with pytest.raises(DownloadFailed, match=r"ConnectionError\. Given up after 3.*HTTPS_PROXY") as failure:
        downloader(tmp_path).pull(card(files=(file,)))
    assert "HF_ENDPOINT" not in str(failure.value), "no hub is asked"
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadFailed, match=r"HF_ENDPOINT names the hub \(now http://127\.0\.0\.1:9\)"):
        downloader(tmp_path).pull(HUB)


@pytest.mark.parametrize("endpoint", ["hub.example", "ftp://hub.example", "localhost:8080"])
def test_an_endpoint_that_is_no_address_is_refused_at_once(
    server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(ConfigurationError, match=f"HF_ENDPOINT.*{endpoint}"):
        hub_endpoint()
    said: list[str] = []
    with pytest.raises(ConfigurationError, match="HF_ENDPOINT"):
        downloader(tmp_path, said).pull(HUB)
    assert said == []


def test_an_address_that_cannot_be_asked_is_not_tried_again(server: ModelServer, tmp_path: Path) -> None:
    server.files["/net.pt"] = WEIGHTS
    server.redirects["/net.pt"] = "gopher://127.0.0.1/net.pt"
    file = ModelFile(path="net.pt", url=f"{server.url}/net.pt")
    with pytest.raises(DownloadFailed, match="cannot be asked for"):
        downloader(tmp_path).pull(card(files=(file,)))
    assert len(server.requests) == 1


def test_room_is_asked_for_before_anything_is_written(server: ModelServer, tmp_path: Path) -> None:
    def full(needed_bytes: int) -> None:
        if needed_bytes >= len(WEIGHTS):
            raise InsufficientDisk(f"{needed_bytes} bytes")

    server.add_repository("someone/small", SHARDS)
    for wanted in (url_card(server), HUB):
        with pytest.raises(InsufficientDisk):
            Downloader(tmp_path, require_space=full).pull(wanted)
    assert left_behind(tmp_path) == [] and not (tmp_path / "small").exists()


def test_room_is_asked_for_by_the_size_it_is_about_where_none_is_stated(
    server: ModelServer, tmp_path: Path
) -> None:
    asked: list[int] = []

    def full(needed_bytes: int) -> None:
        asked.append(needed_bytes)
        raise InsufficientDisk("full")

    about = dataclasses.replace(url_card(server), about_bytes=10**9)
    with pytest.raises(InsufficientDisk):
        Downloader(tmp_path, require_space=full).pull(about)
    assert asked == [10**9] and server.requests == []
    (stated,) = about.files
    exact = dataclasses.replace(about, files=(dataclasses.replace(stated, size_bytes=len(WEIGHTS)),))
    with pytest.raises(InsufficientDisk):
        Downloader(tmp_path, require_space=full).pull(exact)
    assert asked[1:] == [len(WEIGHTS)], "what is known exactly counts"
    # It is never compared with what comes.
    assert downloader(tmp_path).pull(about).fetched == (tmp_path / "net.pt",)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["fsync", "fdatasync"])
def test_a_disk_that_fills_up_is_said_and_what_is_there_is_kept(
    server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str
) -> None:
    """Quotas of network file systems are told when data reach the disk."""
    wanted = sized(url_card(server), len(WEIGHTS))
    monkeypatch.setattr("resources.models.downloads._SYNC_EVERY_BYTES", 500_000)
    with monkeypatch.context() as patch, pytest.raises(InsufficientDisk) as failure:
        patch.setattr(os, call, refusing(number))
        downloader(tmp_path).pull(wanted)
    assert f"The disk of {tmp_path} is full" in str(failure.value)
    assert os.strerror(number) in str(failure.value) and "goes on from here" in str(failure.value)
    there = (tmp_path / ".net.pt.part").stat().st_size
    assert there >= 500_000 and not (tmp_path / "net.pt").exists()
    downloader(tmp_path).pull(wanted)
    assert locate(wanted, tmp_path).read_bytes() == WEIGHTS
    assert [request.begin for request in server.requests] == [0] + [there] * (there < len(WEIGHTS))


@pytest.mark.parametrize("limit", [700_001, len(WEIGHTS) - 1])
def test_a_full_disk_leaves_a_beginning_without_gaps(server: ModelServer, tmp_path: Path, limit: int) -> None:
    """A process may write no file beyond a size: the system takes a part of a chunk, then refuses."""
    wanted = url_card(server)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(
            DownloadFailed, match=r"\.net\.pt\.part cannot be read or written: File too large"
        ):
            downloader(tmp_path).pull(wanted)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / ".net.pt.part").read_bytes() == WEIGHTS[:limit]
    assert len(server.requests) == 1, "no further attempt would help"
    downloader(tmp_path).pull(wanted)
    assert server.requests[-1].begin == limit and locate(wanted, tmp_path).read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("in_the_way", "named"),
    [
        ("small/config.json/", "small/config.json"),
        ("small/.config.json.part/", "small/.config.json.part"),
        ("small", "small/.LICENSE.part"),
        (".pull-small.lock/", ".pull-small.lock"),
    ],
)
def test_what_lies_in_the_way_of_a_file_is_named(
    server: ModelServer, tmp_path: Path, in_the_way: str, named: str
) -> None:
    server.add_repository("someone/small", SHARDS)
    path = tmp_path / in_the_way
    path.parent.mkdir(exist_ok=True)
    path.mkdir() if in_the_way.endswith("/") else path.write_text("mine")
    with pytest.raises(DownloadFailed, match=f"{tmp_path / named} cannot be read or written: "):
        downloader(tmp_path).pull(HUB)
    path.rmdir() if path.is_dir() else path.unlink()
    downloader(tmp_path).pull(HUB)
    assert locate(HUB, tmp_path)


def test_two_pulls_at_once_fetch_once(server: ModelServer, tmp_path: Path) -> None:
    wanted = url_card(server)
    server.hold_after = 100_000
    results = []
    said: list[str] = []
    waits = threading.Event()

    def say(sentence: str) -> None:
        said.append(sentence)
        waits.set()

    def pull() -> None:
        results.append(Downloader(tmp_path, say=say).pull(wanted))

    threads = [threading.Thread(target=pull) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert server.held.wait(20) and waits.wait(20)
    assert said == ["Another process is pulling small; this one waits for it."]
    server.release.set()
    for thread in threads:
        thread.join(20)
    assert sorted(len(pulled.fetched) for pulled in results) == [0, 1]
    assert len(server.requests) == 1 and locate(wanted, tmp_path).read_bytes() == WEIGHTS


def test_pulls_of_different_models_at_once_record_both(server: ModelServer, tmp_path: Path) -> None:
    names = [f"model-{number}" for number in range(6)]
    cards = []
    for name in names:
        server.files[f"/{name}.pt"] = name.encode()
        file = ModelFile(path=f"{name}.pt", url=f"{server.url}/{name}.pt")
        cards.append(card(key=name, files=(file,)))
    threads = [threading.Thread(target=downloader(tmp_path).pull, args=(one,)) for one in cards]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(read_lock(tmp_path).files) == [f"{name}.pt" for name in names]


# --- repositories of a hub ----------------------------------------------------------------------------


def test_a_repository_brings_its_shards_and_companions(server: ModelServer, tmp_path: Path) -> None:
    server.add_repository("someone/small", SHARDS)
    downloader(tmp_path).pull(HUB)
    assert sorted(path.name for path in (tmp_path / "small").iterdir()) == [
        "LICENSE",
        "chat_template.jinja",
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
    ]
    repository = read_lock(tmp_path).repositories["small"]
    assert (repository.hub, repository.revision, repository.commit) == ("someone/small", "main", COMMIT)
    digests = [
        sha256(SHARDS[name]) for name in ("config.json", *sorted(n for n in SHARDS if "of-00002" in n))
    ]
    assert card_digest(HUB, tmp_path) == joint_digest(digests)


@pytest.mark.parametrize("name", ["model-00002-of-00002.safetensors", "tokenizer.json"])
def test_a_damaged_or_missing_shard_refuses_to_run(server: ModelServer, tmp_path: Path, name: str) -> None:
    server.add_repository("someone/small", SHARDS)
    downloader(tmp_path).pull(HUB)
    path = tmp_path / "small" / name
    path.write_bytes(SHARDS[name][:-1] + b"!")
    with pytest.raises(BackendUnavailable, match=f"{name} has sha256"):
        locate(HUB, tmp_path)
    assert {s.path.name for s in file_states(HUB, tmp_path) if s.state == "damaged"} == {name}
    path.unlink()
    for check in (locate, locate_unread):
        with pytest.raises(BackendUnavailable, match=f"there is no .*{name}"):
            check(HUB, tmp_path)
    downloader(tmp_path).pull(HUB)
    assert path.read_bytes() == SHARDS[name] and locate(HUB, tmp_path)
    assert len(server.of(f"/someone/small/resolve/{COMMIT}/config.json")) == 1, "what is right is kept"


def test_a_branch_is_followed_once(server: ModelServer, tmp_path: Path) -> None:
    server.add_repository("someone/small", SHARDS)
    downloader(tmp_path).pull(HUB)
    later = {**SHARDS, "config.json": b'{"later": true}'}
    server.add_repository("someone/small", later, commit="d" * 40)
    (tmp_path / "small" / "config.json").unlink()
    downloader(tmp_path).pull(HUB)
    assert locate(HUB, tmp_path).read_bytes() == SHARDS["config.json"], "the recorded commit"
    downloader(tmp_path).pull(HUB, again=True)
    assert locate(HUB, tmp_path).read_bytes() == later["config.json"]
    assert read_lock(tmp_path).repositories["small"].commit == "d" * 40
    fewer = {name: content for name, content in later.items() if name != "tokenizer.json"}
    server.add_repository("someone/small", fewer, commit="e" * 40)
    downloader(tmp_path).pull(HUB, again=True)
    assert "small/tokenizer.json" not in read_lock(tmp_path).files
    assert is_complete(HUB, tmp_path)
    assert locate(HUB, tmp_path), "what the repository holds no more is not in the way"
    assert not (tmp_path / "small" / "tokenizer.json").exists()
    assert (tmp_path / "small" / ".tokenizer.json.replaced").read_bytes() == SHARDS["tokenizer.json"]


WITHOUT_TOKENIZER = {name: content for name, content in SHARDS.items() if name != "tokenizer.json"}


def recorded_beside_a_pull(server: ModelServer, models_dir: Path) -> Path:
    """A file of one's own in the folder of a repository that was pulled."""
    server.add_repository("someone/small", WITHOUT_TOKENIZER)
    downloader(models_dir).pull(HUB)
    mine = models_dir / "small" / "tokenizer.json"
    mine.write_bytes(b"mine")
    assert record(HUB, models_dir) == [mine]
    return mine


@pytest.mark.parametrize("again", [False, True])
def test_what_people_recorded_beside_a_repository_stays_at_the_same_commit(
    server: ModelServer, tmp_path: Path, again: bool
) -> None:
    mine = recorded_beside_a_pull(server, tmp_path)
    (tmp_path / "small" / "config.json").write_bytes(b"damaged")
    pulled = downloader(tmp_path).pull(HUB, again=again)
    assert [path.name for path in pulled.fetched] == ["config.json"] and pulled.set_aside == ()
    assert mine.read_bytes() == b"mine" and is_complete(HUB, tmp_path) and locate(HUB, tmp_path)
    assert read_lock(tmp_path).files["small/tokenizer.json"].sha256 == sha256(b"mine")


def test_what_people_recorded_is_set_aside_with_a_word_at_another_commit(
    server: ModelServer, tmp_path: Path
) -> None:
    mine = recorded_beside_a_pull(server, tmp_path)
    server.add_repository("someone/small", WITHOUT_TOKENIZER, commit="d" * 40)
    said: list[str] = []
    pulled = downloader(tmp_path, said).pull(HUB, again=True)
    assert pulled.set_aside == (mine,) and not mine.exists()
    assert said == [
        f"small: someone/small does not hold {mine} now; it is set aside as .tokenizer.json.replaced."
    ]
    assert mine.with_name(".tokenizer.json.replaced").read_bytes() == b"mine" and locate(HUB, tmp_path)


def test_a_pull_that_is_killed_before_it_sets_files_aside_is_not_complete(
    server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add_repository("someone/small", SHARDS)
    downloader(tmp_path).pull(HUB)
    server.add_repository("someone/small", WITHOUT_TOKENIZER, commit="d" * 40)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Downloader, "_set_aside", mock.Mock(side_effect=KeyboardInterrupt))
        downloader(tmp_path).pull(HUB, again=True)
    left = tmp_path / "small" / "tokenizer.json"
    assert left.is_file()
    assert downloader(tmp_path).pull(HUB, again=True).set_aside == (left,)
    assert locate(HUB, tmp_path) and not left.exists()


def test_missing_certificates_are_named(
    server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://127.0.0.1:9")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "company.pem"))
    with pytest.raises(DownloadFailed, match=r"company\.pem\. Check REQUESTS_CA_BUNDLE"):
        downloader(tmp_path).pull(HUB)


def test_what_people_recorded_and_no_server_has_is_never_taken_for_right(
    server: ModelServer, tmp_path: Path
) -> None:
    mine = recorded_beside_a_pull(server, tmp_path)
    mine.write_bytes(b"another")
    (tmp_path / "small" / "config.json").unlink()
    said: list[str] = []
    for _ in range(2):
        with pytest.raises(
            DownloadFailed,
            match=rf"{mine} has sha256 {sha256(b'another')}, expected {sha256(b'mine')}.*remove it",
        ):
            downloader(tmp_path, said).pull(HUB)
        assert mine.read_bytes() == b"another" and said == []
    assert (tmp_path / "small" / "config.json").read_bytes() == SHARDS["config.json"]
    mine.unlink()
    downloader(tmp_path, said).pull(HUB)
    [sentence] = said
    assert f"{mine} was recorded and is gone" in sentence and "no longer demanded" in sentence
    assert is_complete(HUB, tmp_path) and locate(HUB, tmp_path)


def test_files_recorded_by_hand_stay_beside_what_the_first_pull_brings(
    server: ModelServer, tmp_path: Path
) -> None:
    server.add_repository("someone/small", WITHOUT_TOKENIZER)
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes(b"mine")
    record(HUB, tmp_path)
    assert downloader(tmp_path).pull(HUB).set_aside == ()
    assert locate(HUB, tmp_path) and (folder / "tokenizer.json").read_bytes() == b"mine"


def test_files_recorded_by_hand_give_way_to_what_is_published_now(
    server: ModelServer, tmp_path: Path
) -> None:
    """Nobody knows of which commit they are: beside the shards a library would load these weights."""
    server.add_repository("someone/small", SHARDS)
    earlier = tmp_path / "small" / "model.safetensors"
    earlier.parent.mkdir()
    earlier.write_bytes(b"earlier")
    record(HUB, tmp_path)
    assert downloader(tmp_path).pull(HUB, again=True).set_aside == (earlier,)
    assert locate(HUB, tmp_path) and not earlier.exists()


def test_another_revision_in_the_registry_is_fetched(server: ModelServer, tmp_path: Path) -> None:
    server.add_repository("someone/small", SHARDS)
    downloader(tmp_path).pull(HUB)
    server.add_repository(
        "someone/small", {**SHARDS, "tokenizer.json": b"[]"}, revision="v2", commit="e" * 40
    )
    later = dataclasses.replace(HUB, revision="v2")
    assert is_complete(HUB, tmp_path) and not is_complete(later, tmp_path)
    pulled = downloader(tmp_path).pull(later)
    assert [path.name for path in pulled.fetched] == ["tokenizer.json"]


def test_files_placed_by_hand_are_compared_and_kept(server: ModelServer, tmp_path: Path) -> None:
    server.add_repository("someone/small", SHARDS)
    (tmp_path / "small").mkdir()
    for name in ("config.json", "model-00001-of-00002.safetensors"):
        (tmp_path / "small" / name).write_bytes(SHARDS[name])
    (tmp_path / "small" / "tokenizer.json").write_bytes(b"another")
    pulled = downloader(tmp_path).pull(HUB)
    kept = {path.name for path in pulled.kept}
    assert kept == {"config.json", "model-00001-of-00002.safetensors"}
    assert (tmp_path / "small" / "tokenizer.json").read_bytes() == SHARDS["tokenizer.json"]


def test_a_small_file_that_is_not_what_git_knows_is_refused(server: ModelServer, tmp_path: Path) -> None:
    server.add_repository("someone/small", SHARDS)
    path = f"/someone/small/resolve/{COMMIT}/config.json"
    server.files[path] = server.files[path].replace(b"small", b"SMALL")
    with pytest.raises(DownloadFailed, match="git knows it as"):
        downloader(tmp_path).pull(HUB)
    assert not (tmp_path / "small" / "config.json").exists()


def test_a_digest_of_the_registry_wins_over_the_hub(server: ModelServer, tmp_path: Path) -> None:
    server.add_repository("someone/small", {"model.safetensors": OTHER, "config.json": b"{}"})
    pinned = ModelFile(path="model.safetensors", sha256=sha256(WEIGHTS))
    with pytest.raises(DownloadFailed, match=r"holds another model\.safetensors"):
        downloader(tmp_path).pull(dataclasses.replace(HUB, files=(pinned,)))


def test_the_token_goes_to_the_hub_and_not_where_it_redirects(
    server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    server.add_repository("someone/small", SHARDS)
    name = "model-00001-of-00002.safetensors"
    with serve_models() as storage:
        storage.files["/blob"] = SHARDS[name]
        storage.drops = [300_000]
        path = f"/someone/small/resolve/{COMMIT}/{name}"
        server.redirects[path] = f"{storage.url}/blob"
        downloader(tmp_path).pull(HUB)
        assert all(request.headers["authorization"] == "Bearer hf_secret" for request in server.requests)
        assert [request.status for request in storage.requests] == [200, 206]
        assert all("authorization" not in request.headers for request in storage.requests)
        downloader(tmp_path).pull(url_card(storage))
        assert "authorization" not in storage.of("/net.pt")[0].headers
    assert (tmp_path / "small" / name).read_bytes() == SHARDS[name]


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_repository_says_what_to_do(server: ModelServer, tmp_path: Path, status: int) -> None:
    server.statuses = [status]
    with pytest.raises(DownloadFailed, match=r"Accept the licence at .*/someone/small.*HF_TOKEN"):
        downloader(tmp_path).pull(HUB)


def test_what_is_no_hub_is_said(server: ModelServer, tmp_path: Path) -> None:
    server.files["/api/models/someone/small/revision/main"] = b"<html>Please log in</html>"
    with pytest.raises(DownloadFailed, match="Check HF_ENDPOINT"):
        downloader(tmp_path).pull(HUB)
    server.files["/api/models/someone/small/revision/main"] = b"[]"
    with pytest.raises(DownloadFailed, match="Check HF_ENDPOINT"):
        downloader(tmp_path).pull(HUB)


def test_which_files_of_a_repository_are_wanted() -> None:
    named = dataclasses.replace(
        HUB, files=(ModelFile(path="model.safetensors"), ModelFile(path="config.json"))
    )
    listed = dict.fromkeys(
        [
            "config.json",
            "model.safetensors",
            "other.safetensors",
            "model.fp16.safetensors",
            "a.py",
            "../up.json",
            "/up.json",
            "a/../up.json",
        ]
    )
    assert wanted_files(named, listed) == ["config.json", "model.safetensors"]
    paddle = dataclasses.replace(HUB, files=(ModelFile(path="inference.pdiparams"),))
    listed = dict.fromkeys(["inference.pdiparams", "inference.json", "inference.yml", "README.md"])
    assert wanted_files(paddle, listed) == ["inference.json", "inference.pdiparams", "inference.yml"]
    with pytest.raises(DownloadFailed, match=r"holds no model\.safetensors"):
        wanted_files(named, {"config.json": None})
    with pytest.raises(DownloadFailed, match="no weights as safetensors"):
        wanted_files(HUB, {"config.json": None, "pytorch_model.bin": None})


# --- offline, and files placed by hand ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_asks_nobody_and_says_what_to_bring(
    server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    server.add_repository("someone/small", SHARDS)
    monkeypatch.setenv(name, "1")
    with pytest.raises(
        BackendUnavailable, match=rf"resolve/main/config\.json -> {tmp_path}/small/config\.json"
    ):
        downloader(tmp_path).pull(HUB)
    assert server.requests == []
    monkeypatch.setenv(name, "0")
    downloader(tmp_path).pull(HUB)
    monkeypatch.setenv(name, "1")
    asked = len(server.requests)
    assert len(downloader(tmp_path).pull(HUB).kept) == 7 and len(server.requests) == asked


def test_files_placed_by_hand_are_recorded_and_demanded(tmp_path: Path) -> None:
    own = card(key="own-captions", folder="own-captions", files=(ModelFile(path="config.json"),))
    folder = tmp_path / "own-captions"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / ".cache").write_bytes(b"hidden")
    assert [s.state for s in file_states(own, tmp_path)] == ["unknown"]
    assert sorted(path.name for path in record(own, tmp_path)) == ["config.json", "model.safetensors"]
    assert record(own, tmp_path) == []
    assert [s.state for s in file_states(own, tmp_path)] == ["ok", "ok"]
    (folder / "model.safetensors").write_bytes(b"others!")
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert record(own, tmp_path) == [], "what was recorded stays"
    with pytest.raises(BackendUnavailable, match=r"models verify own-captions --record --replace"):
        locate(own, tmp_path)
    record(own, tmp_path, replace=True)
    assert locate(own, tmp_path)


def test_of_a_recorded_checkpoint_nothing_unrecorded_is_loaded(server: ModelServer, tmp_path: Path) -> None:
    server.add_repository("someone/small", SHARDS)
    downloader(tmp_path).pull(HUB)
    folder = tmp_path / "small"
    (folder / "notes.md").write_text("mine")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "hidden.json").write_text("{}")
    assert locate(HUB, tmp_path)
    assert [file.path for file in unrecorded_files(HUB, tmp_path)] == ["notes.md"]
    assert is_complete(HUB, tmp_path), "what lies beside it is no matter for a pull"
    (folder / "templates").mkdir()
    for name in ("adapter_config.json", "model-00003-of-00003.safetensors", "templates/other.jinja"):
        (folder / name).write_bytes(b"{}")
        with pytest.raises(
            BackendUnavailable, match=rf"{name}, which nobody recorded.*verify small --record.*remove it"
        ):
            locate(HUB, tmp_path)
        (folder / name).unlink()
    assert locate(HUB, tmp_path)


def test_weights_of_any_name_have_to_be_there(tmp_path: Path) -> None:
    own = card(
        key="own-captions",
        folder="own-captions",
        files=(ModelFile(path="config.json"),),
        weights_pattern="*.safetensors",
    )
    folder = tmp_path / "own-captions"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    for look in (locate, locate_unread):
        with pytest.raises(BackendUnavailable, match=r"there is no .*own-captions/\*\.safetensors"):
            look(own, tmp_path)
    assert [state.state for state in file_states(own, tmp_path)] == ["unknown", "missing"]
    (folder / "model-00001-of-00001.safetensors").write_bytes(b"weights")
    assert locate(own, tmp_path)
    locate_unread(own, tmp_path)


def test_files_of_a_repository_that_were_recorded_by_hand_are_complete(
    server: ModelServer, tmp_path: Path
) -> None:
    server.add_repository("someone/small", SHARDS)
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "config.json").write_bytes(SHARDS["config.json"])
    record(HUB, tmp_path)
    assert not is_complete(HUB, tmp_path), "no weights"
    (folder / "model-00001-of-00002.safetensors").write_bytes(WEIGHTS)
    assert not is_complete(HUB, tmp_path), "weights that nobody recorded"
    record(HUB, tmp_path)
    assert is_complete(HUB, tmp_path)
    (folder / "config.json").unlink()
    assert not is_complete(HUB, tmp_path)
    downloader(tmp_path).pull(HUB)
    assert (folder / "tokenizer.json").is_file() and "small" in read_lock(tmp_path).repositories
    record(HUB, tmp_path, replace=True)
    assert "small" not in read_lock(tmp_path).repositories, "people may have brought another commit"


@pytest.mark.parametrize("name", ["config.json", "model-00001-of-00002.safetensors"])
def test_what_was_recorded_by_hand_is_not_replaced_by_what_is_published_now(
    server: ModelServer, tmp_path: Path, name: str
) -> None:
    server.add_repository("someone/small", SHARDS)
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / name).write_bytes(b"earlier")
    record(HUB, tmp_path)
    with pytest.raises(DownloadFailed, match=f"expected {sha256(b'earlier')}|--again"):
        downloader(tmp_path).pull(HUB)
    assert (folder / name).read_bytes() == b"earlier"
    downloader(tmp_path).pull(HUB, again=True)
    assert (folder / name).read_bytes() == SHARDS[name]


def test_the_digest_of_a_checkpoint_does_not_depend_on_what_was_recorded(tmp_path: Path) -> None:
    own = card(key="own-captions", folder="own-captions", files=(ModelFile(path="config.json"),))
    folder = tmp_path / "own-captions"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    alone = card_digest(own, tmp_path)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "notes.txt").write_text("mine")
    both = card_digest(own, tmp_path)
    assert both == joint_digest([alone, sha256(b"weights")])
    record(own, tmp_path)
    assert card_digest(own, tmp_path) == both


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"format": 2, "files": {}}', '{"format": 1, "files": {"a": {}}}', '{"files": {}}']
)
def test_a_lock_that_cannot_be_read_is_never_ignored(tmp_path: Path, content: str) -> None:
    (tmp_path / LOCK_FILE).write_text(content)
    with pytest.raises(BackendUnavailable, match=rf"{LOCK_FILE} cannot be read.*verify --record"):
        locate(card(), tmp_path)


def test_paths_in_the_lock_are_relative_and_stay_when_the_folder_moves(
    server: ModelServer, tmp_path: Path
) -> None:
    server.add_repository("someone/small", SHARDS)
    downloader(tmp_path / "first").pull(HUB)
    (tmp_path / "first").rename(tmp_path / "second")
    assert str(tmp_path) not in (tmp_path / "second" / LOCK_FILE).read_text()
    assert is_complete(HUB, tmp_path / "second")


def test_a_folder_that_cannot_be_written_is_said(server: ModelServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(BackendUnavailable, match=r"cannot be written: Not a directory.*EGO_MODELS_DIR"):
        downloader(tmp_path / "file" / "models").pull(url_card(server))
    assert server.requests == []


def test_a_complete_folder_is_not_written(server: ModelServer, tmp_path: Path) -> None:
    wanted = url_card(server)
    (tmp_path / "net.pt").write_bytes(WEIGHTS)
    assert downloader(tmp_path).pull(wanted).kept == (tmp_path / "net.pt",)
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt"]
