from __future__ import annotations

import datetime as dt
import hashlib
import io
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ego_assets.schema.errors import ArtifactMissing, TransientError, UploadRejected
from ego_assets.schema.vocabulary import VaultPurpose
from resources.database import Database
from resources.keys import VaultKeys
from resources.vault import StoredOriginal, Vault, VaultError, files, service

ROOT = Path(__file__).resolve().parents[3]
CLIP = "3b241101-e2bb-4255-8caf-4136c566a962"
OTHER = "9a1e2f3c-0000-4000-8000-000000000001"


@pytest.fixture
def uploads(tmp_path: Path) -> Path:
    folder = tmp_path / "uploads"
    folder.mkdir()
    return folder


@pytest.fixture(params=["encrypted", "clear"])
def vault(request: pytest.FixtureRequest, tmp_path: Path, database: Database) -> Vault:
    """The guarantees are the same with and without encryption."""
    keys = VaultKeys(tmp_path / "keys" / "vault.key", encrypts=request.param == "encrypted")
    return Vault(tmp_path / "vault", database, keys=keys)


def write(folder: Path, name: str = "clip.MP4", content: bytes = b"original") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def take(
    vault: Vault, source: Path, clip_id: str = CLIP, *, move: bool = False, **options: object
) -> StoredOriginal:
    return vault.take(clip_id, source, move=move, actor="test", **options)  # type: ignore[arg-type]


def read(vault: Vault, clip_id: str = CLIP) -> bytes:
    with vault.open(clip_id, purpose=VaultPurpose.INGEST, actor="test") as original:
        return original.read()


def kept_bytes(vault: Vault, key: str) -> bytes:
    with vault.open_rejected(key, purpose=VaultPurpose.REVIEW, actor="test") as stream:
        return stream.read()


def files_in(root: Path) -> list[str]:
    """All files but the description of the vault itself."""
    return [path.name for path in root.rglob("*") if path.is_file() and path.name != "vault.json"]


def modes(root: Path) -> set[tuple[bool, int]]:
    found = [root, *root.rglob("*")]
    return {(path.is_dir(), stat.S_IMODE(path.lstat().st_mode)) for path in found}


# --- in ---


def test_a_copied_upload_stays(vault: Vault, uploads: Path, tmp_path: Path) -> None:
    source = write(uploads)
    stored = take(vault, source)
    assert stored.key == f"originals/{CLIP}/original.mp4"
    assert (stored.sha256, stored.bytes) == (hashlib.sha256(b"original").hexdigest(), 8)
    assert source.read_bytes() == read(vault) == b"original"
    description = json.loads((tmp_path / "vault" / "originals" / CLIP / "original.json").read_text())
    assert (description["name"], description["sha256"]) == ("clip.MP4", stored.sha256)


def test_a_moved_upload_is_in_the_vault_only(vault: Vault, uploads: Path) -> None:
    source = write(uploads)
    write(uploads, "clip.json", b"{}")
    take(vault, source, move=True)
    assert list(uploads.iterdir()) == []
    assert read(vault) == b"original"


def test_folders_and_files_are_private(vault: Vault, uploads: Path, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        (tmp_path / "vault").mkdir(mode=0o777)
        for name, clip_id in (("a.mp4", CLIP), ("b.mkv", OTHER)):
            write(uploads, name).chmod(0o666)
            write(uploads, Path(name).stem + ".json", b"{}").chmod(0o666)
            take(vault, uploads / name, clip_id, move=True)
        write(uploads, "c.txt").chmod(0o666)
        vault.reject(uploads / "c.txt", code="extension", reason="no video", move=True, actor="test")
    finally:
        os.umask(before)
    assert modes(tmp_path / "vault") == {(True, 0o700), (False, 0o600)}


def test_the_sidecar_travels_along(vault: Vault, uploads: Path) -> None:
    def kept() -> str:
        return vault._files.sha256(f"originals/{CLIP}/sidecar.json", what="The sidecar")

    source = write(uploads)
    write(uploads, "clip.json", b'{"licence": "CC0"}')
    take(vault, source)
    assert kept() == hashlib.sha256(b'{"licence": "CC0"}').hexdigest()
    assert (uploads / "clip.json").exists()
    (uploads / "clip.json").write_bytes(b'{"licence": "other"}')
    take(vault, source, move=True)
    assert kept() == hashlib.sha256(b'{"licence": "CC0"}').hexdigest()
    assert (uploads / "clip.json").exists(), "a sidecar with other content must not be lost"


def test_taking_again_is_harmless(vault: Vault, uploads: Path, database: Database) -> None:
    source = write(uploads)
    first = take(vault, source)
    assert take(vault, source) == first
    assert take(vault, source, move=True) == first
    assert not source.exists()
    assert take(vault, source, move=True) == first
    assert [entry.action for entry in database.audit_log(CLIP)] == ["vault.take"]


def test_other_content_under_a_used_id_is_refused(vault: Vault, uploads: Path) -> None:
    take(vault, write(uploads))
    other = write(uploads, "other.mp4", b"changed!")
    with pytest.raises(UploadRejected, match="never reused") as caught:
        take(vault, other, move=True)
    assert caught.value.code == "clip_id_taken"
    assert (other.read_bytes(), read(vault)) == (b"changed!", b"original")


def test_a_damaged_vault_keeps_the_upload(vault: Vault, uploads: Path, tmp_path: Path) -> None:
    source = write(uploads)
    stored = tmp_path / "vault" / take(vault, source).key
    content = stored.read_bytes()
    for damaged in (content[:-1] + bytes([content[-1] ^ 1]), content[:-1], content + b"x", b""):
        stored.write_bytes(damaged)
        with pytest.raises(VaultError, match="Restore"):
            take(vault, source, move=True)
        assert source.read_bytes() == b"original"
    stored.write_bytes(content)
    take(vault, source, move=True)
    assert not source.exists()


@pytest.mark.parametrize("move", [True, False])
def test_a_file_that_changes_while_it_is_read(
    vault: Vault, uploads: Path, tmp_path: Path, move: bool
) -> None:
    source = write(uploads)

    def grow(_: str) -> None:
        raise AssertionError("accepted a torn file")

    blocks = files.blocks

    def growing(path: Path) -> object:
        yield from blocks(path)
        with source.open("ab") as file:
            file.write(b"more")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "blocks", growing)
        with pytest.raises(TransientError, match="still being written"):
            take(vault, source, move=move, accept=grow)
    assert source.read_bytes().startswith(b"original")
    assert files_in(tmp_path / "vault") == []
    take(vault, source, move=move)
    assert read(vault) == b"originalmore"


def test_what_is_not_accepted_stays_outside(vault: Vault, uploads: Path, tmp_path: Path) -> None:
    source = write(uploads)

    def refuse(sha256: str) -> None:
        assert sha256 == hashlib.sha256(b"original").hexdigest()
        raise UploadRejected("no", "no")

    with pytest.raises(UploadRejected):
        take(vault, source, move=True, accept=refuse)
    assert source.read_bytes() == b"original"
    assert files_in(tmp_path / "vault") == []
    with pytest.raises(ArtifactMissing):
        read(vault)


def test_what_cannot_be_taken(vault: Vault, uploads: Path) -> None:
    target = write(uploads)
    (uploads / "link.mp4").symlink_to(target)
    (uploads / "folder.mp4").mkdir()
    for name, code in (("link.mp4", "symlink"), ("folder.mp4", "not_a_file"), ("gone.mp4", "vanished")):
        with pytest.raises(UploadRejected) as caught:
            take(vault, uploads / name, move=True)
        assert caught.value.code == code
    assert target.exists()
    with pytest.raises(ValueError, match="clip_id"):
        take(vault, target, "../../outside")


@pytest.mark.parametrize("move", [True, False])
def test_a_link_put_in_between_is_not_followed(
    vault: Vault, uploads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, move: bool
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    link = uploads / "link.mp4"
    link.symlink_to(secret)
    monkeypatch.setattr(service, "regular", lambda path: path.stat())
    with pytest.raises(OSError, match="symbolic links"):
        take(vault, link, move=move)
    monkeypatch.undo()
    stored = take(vault, write(uploads))
    original = tmp_path / "vault" / stored.key
    original.unlink()
    original.symlink_to("../../../aaaaaa")
    (tmp_path / "aaaaaa").write_bytes(b"x" * original.lstat().st_size)
    description = original.with_name("original.json")
    described = json.loads(description.read_text())
    description.write_text(json.dumps({**described, "bytes": original.lstat().st_size}))
    with pytest.raises(OSError, match="symbolic links"):
        read(vault)


def test_what_somebody_else_can_still_write_to_is_not_the_original(vault: Vault, uploads: Path) -> None:
    source = write(uploads)
    (uploads / "second.mp4").hardlink_to(source)
    with source.open("r+b") as still_open:
        take(vault, source, move=True)
        (uploads / "second.mp4").write_bytes(b"tampered")
        still_open.write(b"TAMPERED")
    assert read(vault) == b"original"


def test_takers_of_one_clip_wait_for_one_another(vault: Vault, uploads: Path) -> None:
    sources = [write(uploads, f"{number}.mp4", bytes([number])) for number in range(6)]
    outcomes: list[str] = []

    def run(source: Path) -> None:
        try:
            take(vault, source, move=True)
            outcomes.append("taken")
        except UploadRejected as rejection:
            outcomes.append(rejection.code)

    threads = [threading.Thread(target=run, args=(source,)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["clip_id_taken"] * 5 + ["taken"]
    kept = {read(vault), *(path.read_bytes() for path in uploads.iterdir())}
    assert kept == {bytes([number]) for number in range(6)}


KILLED = """
import hashlib, json, os, pathlib, shutil, signal, sys
sys.path.insert(0, sys.argv[2])
from resources.keys import VaultKeys
from resources.vault import Vault
from ego_assets.schema.vocabulary import VaultPurpose

root, clip_id = pathlib.Path(sys.argv[1]), sys.argv[3]
encrypts = sys.argv[4] == "encrypted"


class Database:
    def write_audit(self, **row):
        pass


def die_at(step):
    # Dies before the step-th call that changes something on the disk.
    count = 0
    for name in ("fsync", "rename", "replace", "mkdir", "unlink", "chmod"):
        def wrapped(*arguments, _call=getattr(os, name), **options):
            nonlocal count
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return _call(*arguments, **options)
        setattr(os, name, wrapped)


for step in range(1, 200):
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    upload = root / "upload.mp4"
    upload.write_bytes(b"content")
    keys = VaultKeys(root / "keys" / "vault.key", encrypts=encrypts)
    vault = Vault(root / "vault", Database(), keys=keys)

    def take():
        return vault.take(clip_id, upload, move=True, actor="test")

    child = os.fork()
    if child == 0:
        die_at(step)
        take()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    safe = upload.exists() or (root / "vault" / "originals" / clip_id / "original.mp4").exists()
    stored = take()
    with vault.open(clip_id, purpose=VaultPurpose.INGEST, actor="test") as original:
        content = original.read()
    good = hashlib.sha256(content).hexdigest() == stored.sha256 and content == b"content"
    print(json.dumps([os.WTERMSIG(status), safe, good, upload.exists()]), flush=True)
    if os.WIFEXITED(status):
        break
"""


@pytest.mark.parametrize("way", ["encrypted", "clear"])
def test_kill_9_at_any_instant(tmp_path: Path, way: str) -> None:
    out = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "work"), str(ROOT), CLIP, way],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    *killed, last = [json.loads(line) for line in out.splitlines()]
    assert len(killed) >= 10
    assert last == [0, True, True, False]
    assert all(line == [9, True, True, False] for line in killed), killed


# --- out ---


def test_every_open_is_audited(vault: Vault, uploads: Path, database: Database) -> None:
    take(vault, write(uploads))
    with vault.open(CLIP, purpose=VaultPurpose.DEIDENTIFY, actor="asset:blurred_video", run_id="r1"):
        pass
    entry = database.audit_log(CLIP)[-1]
    assert (entry.actor, entry.action, entry.purpose, entry.run_id) == (
        "asset:blurred_video",
        "vault.open",
        "deidentify",
        "r1",
    )


def test_nothing_is_opened_when_the_audit_fails(
    vault: Vault, uploads: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(vault, write(uploads))
    opened: list[object] = []
    real_open = os.open

    def watch(path: object, *arguments: int, **options: int) -> int:
        opened.append(path)
        return real_open(path, *arguments, **options)  # type: ignore[arg-type]

    def fail(**_: object) -> None:
        raise TransientError("database gone")

    monkeypatch.setattr(os, "open", watch)
    monkeypatch.setattr(database, "write_audit", fail)
    with pytest.raises(TransientError, match="database gone"):
        read(vault)
    assert opened == []


@pytest.mark.parametrize("purpose", ["deidentify", None, "enrichment", 1])
def test_a_purpose_is_demanded(vault: Vault, uploads: Path, database: Database, purpose: object) -> None:
    take(vault, write(uploads))
    with pytest.raises(TypeError, match="purpose"), vault.open(CLIP, purpose=purpose, actor="x"):  # type: ignore[arg-type]
        pass
    assert [entry.action for entry in database.audit_log()] == ["vault.take"]


def test_an_attempt_on_an_unknown_original_is_audited_too(vault: Vault, database: Database) -> None:
    with pytest.raises(ArtifactMissing, match=CLIP):
        read(vault)
    assert [entry.action for entry in database.audit_log(CLIP)] == ["vault.open"]
    with pytest.raises(ValueError, match="clip_id"):
        read(vault, "../rejected")


def test_the_stream_does_not_say_where_it_lies(vault: Vault, uploads: Path, tmp_path: Path) -> None:
    take(vault, write(uploads, content=bytes(range(256)) * 10))
    with vault.open(CLIP, purpose=VaultPurpose.REVIEW, actor="x") as original:
        assert original.name == "original.mp4"
        shown = [repr(original), str(vars(original)), str(getattr(original, "raw", ""))]
        assert not any(str(tmp_path) in text or CLIP in text for text in shown)
        assert original.seekable() and not original.writable()
        assert original.seek(-6, io.SEEK_END) == 2554
        assert original.read() == bytes(range(250, 256))
    assert original.closed


def test_a_video_can_be_decoded_from_the_stream(vault: Vault, uploads: Path) -> None:
    source = uploads / "clip.mp4"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for shade in range(5):
            picture = np.full((120, 160, 3), 40 * shade, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    take(vault, source)
    with vault.open(CLIP, purpose=VaultPurpose.INGEST, actor="x") as original, av.open(original) as container:
        assert sum(1 for _ in container.decode(video=0)) == 5


# --- rejected ---


def reject(vault: Vault, path: Path, *, move: bool = True, reason: str = "no video") -> str:
    return vault.reject(path, code="extension", reason=reason, move=move, actor="test")


def reason_of(root: Path, key: str) -> dict[str, object]:
    return dict(json.loads((root / "vault" / f"{key.removesuffix('.reason.json')}.reason.json").read_text()))


def test_a_rejected_upload_is_kept_with_its_reason(
    vault: Vault, uploads: Path, tmp_path: Path, database: Database
) -> None:
    source = write(uploads, "notes.txt", b"text")
    write(uploads, "notes.json", b"{}")
    kept = reject(vault, source)
    assert kept == f"rejected/{dt.datetime.now(dt.UTC).date()}/notes.txt"
    assert kept_bytes(vault, kept) == b"text"
    assert kept_bytes(vault, f"{kept}.sidecar.json") == b"{}"
    assert list(uploads.iterdir()) == []
    reason = reason_of(tmp_path, kept)
    assert (reason["code"], reason["reason"], reason["source"]) == ("extension", "no video", str(source))
    assert [entry.detail for entry in database.audit_log() if entry.action == "vault.reject"] == ["extension"]
    opened = [entry.detail for entry in database.audit_log() if entry.action == "vault.open"]
    assert len({*opened}) == 2 and all("notes" not in detail for detail in opened)
    digest = hashlib.sha256(b"notes.txt").hexdigest()[:16]
    assert opened[0] == f"{kept.rpartition('/')[0]}/sha256:{digest}"


def test_equal_names_do_not_replace_one_another(vault: Vault, uploads: Path) -> None:
    kept = [reject(vault, write(uploads, "a.txt", content)) for content in (b"1", b"2", b"2")]
    assert [key.rpartition("/")[2] for key in kept] == ["a.txt", "a-2.txt", "a-3.txt"]
    assert [kept_bytes(vault, key) for key in kept] == [b"1", b"2", b"2"]


@pytest.mark.parametrize(
    "key", ["rejected/../originals", "originals/x/y", "rejected/a", "rejected/a/b/c", "/x"]
)
def test_nothing_else_is_opened_as_a_rejected_upload(vault: Vault, database: Database, key: str) -> None:
    with pytest.raises(ValueError, match="rejected/DATE/NAME"):
        kept_bytes(vault, key)
    with pytest.raises(ArtifactMissing, match="2026-01-01"):
        kept_bytes(vault, "rejected/2026-01-01/a.mp4")


def test_without_move_only_the_reason_is_written_and_only_once(
    vault: Vault, uploads: Path, tmp_path: Path
) -> None:
    source = write(uploads, "a.txt")
    first = reject(vault, source, move=False)
    assert first.endswith("/a.txt.reason.json")
    assert reject(vault, source, move=False) == first
    assert reject(vault, source, move=False, reason="another") != first
    assert source.read_bytes() == b"original"
    assert {path.suffix for path in (tmp_path / "vault" / first).parent.iterdir()} == {".json"}


def test_of_a_link_its_target_is_noted(vault: Vault, uploads: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (uploads / "a.mp4").symlink_to(secret)
    key = reject(vault, uploads / "a.mp4")
    assert reason_of(tmp_path, key)["link_target"] == str(secret)
    assert not os.path.lexists(uploads / "a.mp4")
    assert secret.read_text() == "secret"
    assert [p.name for p in (tmp_path / "vault" / key).parent.iterdir()] == ["a.mp4.reason.json"]


def test_a_vanished_upload_leaves_its_reason(vault: Vault, uploads: Path, tmp_path: Path) -> None:
    assert reason_of(tmp_path, reject(vault, uploads / "gone.mp4"))["bytes"] is None


def test_where_a_copy_came_from_is_noted(vault: Vault, uploads: Path, tmp_path: Path) -> None:
    key = vault.reject(
        write(uploads), code="c", reason="r", move=True, actor="test", origin="s3://bucket/raw/clip.MP4"
    )
    assert reason_of(tmp_path, key)["source"] == "s3://bucket/raw/clip.MP4"


NAMES = [
    "with space.txt",
    "-rf",
    "日本語 é.mp4",
    "new\nline.mp4",
    ".hidden",
    "x" * 255,
    "é" * 127,
    "a." + "b" * 253,
    "nul_" + "y" * 240 + ".mp4",
    os.fsdecode(b"caf\xe9.mp4"),
    os.fsdecode(b"\xe9" * 255),
    # What the vault itself writes has such names.
    "a.mp4.key.json",
    "a.mp4.reason.json",
    "a.mp4.sidecar.json",
    ".incoming-a.mp4",
]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_names_of_all_kinds(vault: Vault, uploads: Path, tmp_path: Path, name: str) -> None:
    kept = []
    for content in (b"1", b"2"):
        source = write(uploads, name, content)
        kept.append(reject(vault, source))
        assert reason_of(tmp_path, kept[-1])["name"] == os.fsencode(name).decode("utf-8", "backslashreplace")
        assert not source.exists()
    assert [kept_bytes(vault, key) for key in kept] == [b"1", b"2"]
    status = vault.status()
    assert sum(status.encrypted.values()) + status.clear == 2


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    name=st.text(
        st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=80
    ).filter(lambda text: text not in (".", "..")),
    content=st.binary(max_size=20),
)
def test_nothing_is_lost(vault: Vault, uploads: Path, name: str, content: bytes) -> None:
    assert kept_bytes(vault, reject(vault, write(uploads, name, content))) == content


def test_a_stored_original_can_be_rejected(vault: Vault, uploads: Path, tmp_path: Path) -> None:
    name = "é" * 120 + ".mp4"
    write(uploads, "é" * 120 + ".json", b"{}")
    take(vault, write(uploads, name), move=True)
    kept = vault.reject_stored(CLIP, code="duplicate", reason="again", actor="test")
    assert kept_bytes(vault, kept) == b"original"
    assert kept_bytes(vault, f"{kept}.sidecar.json") == b"{}"
    assert reason_of(tmp_path, kept)["name"] == name
    with pytest.raises(ArtifactMissing):
        read(vault)
    with pytest.raises(ArtifactMissing):
        vault.reject_stored(CLIP, code="duplicate", reason="again", actor="test")
    take(vault, write(uploads))
    assert read(vault) == b"original"


# --- erased ---


def test_everything_of_a_clip_is_erased_and_nothing_else(vault: Vault, uploads: Path, tmp_path: Path) -> None:
    write(uploads, "clip.json", b"{}")
    take(vault, write(uploads), move=True)
    take(vault, write(uploads, "other.mp4", b"of another"), OTHER)
    named = reject(vault, write(uploads, f"{CLIP}.mp4", b"cut off"))
    noted = vault.reject(
        write(uploads, "b.mp4", b"b"), code="c", reason="r", move=True, actor="test", clip_id=CLIP
    )
    same = vault.reject(
        write(uploads, "same.mp4"), code="c", reason="r", move=True, actor="test", clip_id=OTHER
    )
    others = reject(vault, write(uploads, "keep.mp4", b"ORIGINAL"))
    assert vault.erase(CLIP) == 5
    left = [path.relative_to(tmp_path / "vault").as_posix() for path in (tmp_path / "vault").rglob("*")]
    assert not [path for path in left if CLIP in path or path.startswith((named, noted, same))]
    assert kept_bytes(vault, others) == b"ORIGINAL"
    assert read(vault, OTHER) == b"of another"
    with pytest.raises(ArtifactMissing):
        read(vault)
    assert vault.erase(CLIP) == 0
    with pytest.raises(ValueError, match="clip_id"):
        vault.erase("..")


def test_a_rejected_upload_from_before_digests_were_noted_is_erased_by_its_content(
    vault: Vault, uploads: Path, tmp_path: Path
) -> None:
    take(vault, write(uploads))
    for name, content in (("same.mp4", b"original"), ("size.mp4", b"0riginal")):
        key = reject(vault, write(uploads, name, content))
        path = tmp_path / "vault" / f"{key}.reason.json"
        reason = {name: value for name, value in json.loads(path.read_text()).items() if name != "sha256"}
        path.write_text(json.dumps(reason))
    assert vault.erase(CLIP) == 2
    assert [name for name in files_in(tmp_path / "vault") if "same" in name or "original" in name] == []
    assert kept_bytes(vault, key) == b"0riginal"


def test_an_erasure_that_was_interrupted_is_completed(
    vault: Vault, uploads: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    take(vault, write(uploads))
    same = vault.reject(write(uploads, "same.mp4"), code="c", reason="r", move=True, actor="test")
    unlink = Path.unlink
    for survivors in range(20):
        left = survivors

        def interrupted(self: Path, missing_ok: bool = False) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            unlink(self, missing_ok=missing_ok)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", interrupted)
            try:
                vault.erase(CLIP)
                break
            except KeyboardInterrupt:
                continue
    assert survivors >= 3
    assert files_in(tmp_path / "vault") == []
    assert not (tmp_path / "vault" / same).exists()


# --- what killed processes leave ---


def test_what_killed_processes_leave_is_removed_and_nothing_else(
    vault: Vault, uploads: Path, tmp_path: Path
) -> None:
    write(uploads, "clip.json", b"{}")
    take(vault, write(uploads))
    kept = reject(vault, write(uploads, "a.mp4"))
    assert vault.unfinished() == []
    for key in (f"originals/{CLIP}/.incoming-1", f"{kept}.old.key.json", "quarantine/3/frames/.incoming-2/x"):
        path = tmp_path / "vault" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"left")
    before = sum(vault.status().encrypted.values()) + vault.status().clear
    assert len(vault.unfinished()) == 3
    assert vault.remove_unfinished() == 3
    assert vault.unfinished() == [] and vault.remove_unfinished() == 0
    assert sum(vault.status().encrypted.values()) + vault.status().clear == before
    assert read(vault) == kept_bytes(vault, kept) == b"original"
