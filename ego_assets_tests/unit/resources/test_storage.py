from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ego_assets.schema.artifact import ArtifactDocument
from ego_assets.schema.buckets import BucketAccess
from ego_assets.schema.detections import BackendInfo
from ego_assets.schema.errors import ArtifactCorrupted, ArtifactMissing, ConfigurationError, TransientError
from resources.storage import ArtifactStore

ROOT = Path(__file__).resolve().parents[3]
CLIP = "3b241101-e2bb-4255-8caf-4136c566a962"


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if request.param == "folder":
        return ArtifactStore(str(tmp_path / "store"))
    return ArtifactStore(f"memory://{uuid.uuid4()}/store")


@pytest.fixture
def local(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "store"))


def commit(
    store: ArtifactStore,
    files: dict[str, bytes],
    layer: str = "frames",
    clip_id: str = CLIP,
    **options: object,
) -> ArtifactDocument:
    values: dict[str, object] = {"config": {"rate": 5}, "inputs": {"blurred_video": "v"}, **options}
    with store.stage(clip_id, layer) as staged:
        for name, content in files.items():
            staged.path(name).write_bytes(content)
        return staged.commit(**values)  # type: ignore[arg-type]


def visible(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


# --- commit and read ---


def test_what_is_committed_can_be_read(store: ArtifactStore) -> None:
    assert store.document(CLIP, "frames") is None
    document = commit(
        store,
        {"a.tar": b"0123456789", "sub/b.json": b"{}"},
        backends=(BackendInfo(task="faces", backend="centerface", model="CenterFace"),),
        attempts=({"backend": "x", "reason": "slow"},),
        counts={"frames": 3},
        resolution=(640, 360),
    )
    assert store.document(CLIP, "frames") == document
    assert [entry.name for entry in document.files] == ["a.tar", "sub/b.json"]
    assert document.version_id == document.data_version[:16]
    assert (document.resolution, document.counts, document.inputs) == (
        (640, 360),
        {"frames": 3},
        {"blurred_video": "v"},
    )
    assert document.software.startswith("ego_assets ") and document.committed_at.endswith("+00:00")
    assert store.read_bytes(document, "sub/b.json") == b"{}"
    with store.open(document, "a.tar") as file:
        file.seek(4)
        assert file.read(3) == b"456"
        file.seek(-1, os.SEEK_END)
        assert file.read() == b"9"
    with store.local_path(document, "a.tar") as path:
        assert path.read_bytes() == b"0123456789"
    store.verify(document)
    assert store.uri(document).endswith(f"store/{CLIP}/frames/{document.version_id}")


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    files=st.dictionaries(
        st.text(st.sampled_from("abé 日.-_"), min_size=1, max_size=8).filter(lambda name: name.strip(".")),
        st.binary(max_size=64),
        min_size=1,
        max_size=4,
    )
)
def test_any_files_come_back_as_written(store: ArtifactStore, files: dict[str, bytes]) -> None:
    document = commit(store, files)
    assert {entry.name: store.read_bytes(document, entry.name) for entry in document.files} == files
    assert {entry.name: entry.bytes for entry in document.files} == {n: len(c) for n, c in files.items()}


def test_the_version_depends_on_content_configuration_and_inputs_only(store: ArtifactStore) -> None:
    first = commit(store, {"a": b"1"})
    assert (
        commit(store, {"a": b"1"}, counts={"n": 1}, attempts=({"x": 1},)).data_version == first.data_version
    )
    others = {
        commit(store, {"a": b"2"}).data_version,
        commit(store, {"b": b"1"}).data_version,
        commit(store, {"a": b"1"}, config={"rate": 6}).data_version,
        commit(store, {"a": b"1"}, inputs={"blurred_video": "w"}).data_version,
    }
    assert len(others | {first.data_version}) == 5


def test_settings_that_are_no_json_are_kept_as_text(store: ArtifactStore) -> None:
    document = commit(store, {"a": b"1"}, config={"path": Path("x"), "pair": (1, 2)})
    assert document.config == {"path": "x", "pair": [1, 2]}
    stored = store.document(CLIP, "frames")
    assert stored is not None and stored.config_digest == document.config_digest


def test_older_versions_stay_readable(store: ArtifactStore) -> None:
    old = commit(store, {"a": b"old"})
    with store.open(old, "a") as reader:
        new = commit(store, {"a": b"new"})
        assert reader.read() == b"old"
    assert store.document(CLIP, "frames") == new
    assert store.read_bytes(old, "a") == b"old"


def test_going_back_to_an_older_version(store: ArtifactStore) -> None:
    old = commit(store, {"a": b"old"})
    commit(store, {"a": b"new"})
    again = commit(store, {"a": b"old"})
    assert again.version_id == old.version_id
    current = store.document(CLIP, "frames")
    assert current is not None and current.data_version == old.data_version


def test_layers_and_clips_are_apart(store: ArtifactStore) -> None:
    other = str(uuid.uuid4())
    made = {
        (document.clip_id, document.layer)
        for document in (
            commit(store, {"a": b"1"}),
            commit(store, {"a": b"1"}, layer="masks"),
            commit(store, {"a": b"1"}, clip_id=other),
        )
    }
    found = [(document.clip_id, document.layer) for document in store.documents()]
    assert found == sorted(made)
    assert list(ArtifactStore("memory://nothing/here").documents()) == []


# --- what goes wrong ---


def test_nothing_is_visible_without_a_commit(store: ArtifactStore, tmp_path: Path) -> None:
    with store.stage(CLIP, "frames") as staged:
        staged.path("a").write_bytes(b"1")
        assert store.document(CLIP, "frames") is None
    with pytest.raises(RuntimeError, match="stop"), store.stage(CLIP, "frames") as staged:
        staged.path("a").write_bytes(b"1")
        raise RuntimeError("stop")
    assert store.document(CLIP, "frames") is None
    assert visible(tmp_path) == set()


def test_a_version_is_committed_once(store: ArtifactStore) -> None:
    with store.stage(CLIP, "frames") as staged:
        staged.path("a").write_bytes(b"1")
        staged.commit(config={}, inputs={})
        with pytest.raises(RuntimeError, match="already"):
            staged.commit(config={}, inputs={})


def test_an_empty_version_is_refused(store: ArtifactStore) -> None:
    with store.stage(CLIP, "frames") as staged, pytest.raises(ValueError, match="nothing"):
        staged.commit(config={}, inputs={})
    assert store.document(CLIP, "frames") is None


def test_links_are_not_committed(store: ArtifactStore, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    with store.stage(CLIP, "frames") as staged:
        staged.path("a").symlink_to(secret)
        with pytest.raises(ValueError, match="a is no ordinary file"):
            staged.commit(config={}, inputs={})


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../a", "a/../../b", "a//b", ".", "a/", "a\\b", "a\0"])
def test_names_stay_inside(store: ArtifactStore, name: str) -> None:
    with store.stage(CLIP, "frames") as staged, pytest.raises(ValueError, match="name"):
        staged.path(name)


@pytest.mark.parametrize(
    ("clip_id", "layer"),
    [
        ("..", "frames"),
        ("", "frames"),
        (CLIP.upper(), "frames"),
        (CLIP, "../x"),
        (CLIP, ""),
        (CLIP, "a b"),
        (CLIP, "A"),
    ],
)
def test_keys_stay_inside(store: ArtifactStore, clip_id: str, layer: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        store.document(clip_id, layer)
    with pytest.raises(ValueError, match="expected"), store.stage(clip_id, layer):
        pass


def test_a_pointer_cannot_lead_out_of_the_store(local: ArtifactStore, tmp_path: Path) -> None:
    document = commit(local, {"a": b"1"})
    pointer = tmp_path / "store" / CLIP / "frames" / "artifact.json"
    # Whoever changes it on purpose leaves its digest out.
    content = {k: v for k, v in json.loads(pointer.read_text()).items() if k != "document_sha256"}
    for change in ({"version_id": "../../../.."}, {"files": [{"name": "../../x", "bytes": 1, "sha256": ""}]}):
        pointer.write_text(json.dumps({**content, **change}))
        with pytest.raises(ArtifactCorrupted, match="expected"):
            local.document(CLIP, "frames")
    pointer.write_text(json.dumps({**content, "clip_id": str(uuid.uuid4())}))
    with pytest.raises(ArtifactCorrupted, match="describes layer frames of clip"):
        local.document(CLIP, "frames")
    with pytest.raises(KeyError, match="no 'b'"):
        local.open(document, "b")


def test_a_document_of_a_newer_version_is_never_taken_for_damage(
    local: ArtifactStore, tmp_path: Path
) -> None:
    commit(local, {"a": b"1"})
    (tmp_path / "store" / CLIP / "frames" / "artifact.json").write_text('{"format": 99}')
    with pytest.raises(ConfigurationError, match="upgrade"):
        local.document(CLIP, "frames")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_damaged_pointer(local: ArtifactStore, tmp_path: Path, content: str) -> None:
    commit(local, {"a": b"1"})
    commit(local, {"a": b"1"}, layer="masks")
    (tmp_path / "store" / CLIP / "frames" / "artifact.json").write_text(content)
    with pytest.raises(ArtifactCorrupted, match=f"ego-assets run --clip {CLIP} --layer frames"):
        local.document(CLIP, "frames")
    with pytest.raises(ArtifactCorrupted):
        list(local.documents())
    heard: list[ArtifactCorrupted] = []
    assert [document.layer for document in local.documents(on_error=heard.append)] == ["masks"]
    assert len(heard) == 1


@pytest.mark.parametrize("damage", [b"9", b"", None], ids=["changed", "truncated", "gone"])
def test_damage_is_found_and_healed_by_making_the_layer_again(
    local: ArtifactStore, tmp_path: Path, damage: bytes | None
) -> None:
    document = commit(local, {"a": b"1", "sub/b": b"2"})
    path = tmp_path / "store" / CLIP / "frames" / document.version_id / "sub" / "b"
    if damage is None:
        path.unlink()
        path.parent.rmdir()
        with pytest.raises(ArtifactMissing, match="sub/b of layer frames"):
            local.open(document, "sub/b")
        with pytest.raises(ArtifactMissing), local.local_path(document, "sub/b"):
            pass
    else:
        path.write_bytes(damage)
    with pytest.raises(ArtifactCorrupted) as caught:
        local.verify(document)
    for part in ("sub/b", "frames", CLIP, document.file("sub/b").sha256, "ego-assets run"):
        assert part in str(caught.value)
    assert commit(local, {"a": b"1", "sub/b": b"2"}).version_id == document.version_id
    local.verify(document)


def test_a_network_failure_is_worth_retrying(monkeypatch: pytest.MonkeyPatch) -> None:
    store = ArtifactStore(f"memory://{uuid.uuid4()}")

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", fail)
    with pytest.raises(TransientError, match="no route"):
        commit(store, {"a": b"1"})


def test_a_remote_upload_that_stops_half_way_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    store = ArtifactStore(f"memory://{uuid.uuid4()}", BucketAccess(max_attempts=1))
    old = commit(store, {"a": b"1", "b": b"2"})
    put, calls = MemoryFileSystem.put_file, []

    def stop_at_the_second(*arguments: object, **options: object) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise TimeoutError("slow")
        put(*arguments, **options)

    monkeypatch.setattr(MemoryFileSystem, "put_file", stop_at_the_second)
    with pytest.raises(TransientError):
        commit(store, {"a": b"3", "b": b"4"})
    assert store.document(CLIP, "frames") == old
    store.verify(old)
    assert commit(store, {"a": b"3", "b": b"4"}) == store.document(CLIP, "frames")


def test_committers_of_one_layer_do_not_disturb_one_another(local: ArtifactStore, tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def make(number: int) -> None:
        try:
            for _ in range(5):
                local.verify(commit(local, {"a": b"same" if number % 2 else bytes([number])}))
                document = local.document(CLIP, "frames")
                assert document is not None
                local.verify(document)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert list((tmp_path / "store" / ".staging").iterdir()) == []


# --- killed at any instant ---

KILLED = """
import json, os, pathlib, signal, sys
sys.path.insert(0, sys.argv[2])
from resources.storage import ArtifactStore

root, clip_id = sys.argv[1], sys.argv[3]
store = ArtifactStore(root)


def commit(content):
    with store.stage(clip_id, "frames") as staged:
        for name in ("a", "sub/b"):
            staged.path(name).write_bytes(content)
        staged.commit(config={}, inputs={})


def die_at(step):
    # Dies before the step-th call that changes something on the disk.
    count = 0
    for name in ("fsync", "rename", "replace", "mkdir"):
        def wrapped(*arguments, _call=getattr(os, name), **options):
            nonlocal count
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return _call(*arguments, **options)
        setattr(os, name, wrapped)


commit(b"old")
for step in range(1, 100):
    child = os.fork()
    if child == 0:
        die_at(step)
        commit(b"new %d" % step)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    document = store.document(clip_id, "frames")
    store.verify(document)
    content = store.read_bytes(document, "sub/b").decode()
    left = len(os.listdir(os.path.join(root, ".staging")))
    print(json.dumps([os.WTERMSIG(status), content.replace(f" {step}", ""), left]), flush=True)
    commit(b"old")
    if os.WIFEXITED(status):
        break
"""


def test_kill_9_at_any_instant(tmp_path: Path) -> None:
    root = tmp_path / "store"
    out = subprocess.run(
        [sys.executable, "-c", KILLED, str(root), str(ROOT), CLIP], check=True, capture_output=True, text=True
    ).stdout
    *killed, (last_signal, last_content, _) = [json.loads(line) for line in out.splitlines()]
    assert len(killed) >= 8
    assert (last_signal, last_content) == (0, "new")
    assert {signal_number for signal_number, _, _ in killed} == {signal.SIGKILL}
    assert {content for _, content, _ in killed} == {"old", "new"}
    contents = [content for _, content, _ in killed]
    assert contents == sorted(contents, reverse=True), "visible from one step on, and never before"
    assert killed[-1][2] > 0, "the killed processes left folders behind"
    store = ArtifactStore(str(root))
    assert store.clean_staging(older_than_s=3600) == 0
    assert store.clean_staging(older_than_s=0) > 0
    assert list((root / ".staging").iterdir()) == []
    document = store.document(CLIP, "frames")
    assert document is not None
    store.verify(document)


def test_a_long_running_layer_keeps_its_staging_folder(store: ArtifactStore) -> None:
    with store.stage(CLIP, "frames") as staged:
        growing = staged.path("a")
        growing.write_bytes(b"1")
        os.utime(staged.folder, (0, 0))
        assert store.clean_staging(older_than_s=3600) == 0
        os.utime(growing, (0, 0))
        os.utime(staged.folder, (0, 0))
        assert store.clean_staging(older_than_s=3600) == 1
        assert not staged.folder.exists()


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_local_roots(tmp_path: Path, form: str) -> None:
    store = ArtifactStore(form.format(tmp_path / "a"))
    assert store.local_root == tmp_path / "a"
    assert ArtifactStore("memory://x").local_root is None
