"""The vault's encryption: nothing in it is readable, nothing can be exchanged, and keys can be changed at any time."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import av
import pytest

from ego_assets.schema.errors import ConfigurationError
from ego_assets.schema.vocabulary import VaultPurpose
from ego_assets_tests.clips import write_clip
from ego_assets_tests.vault_contents import clear_contents
from resources.database import Database
from resources.keys import KeyMissing, VaultKeys
from resources.vault import Vault, VaultError

ROOT = Path(__file__).resolve().parents[3]
CLIP = "3b241101-e2bb-4255-8caf-4136c566a962"
OTHER = "9a1e2f3c-0000-4000-8000-000000000001"
MARKER = b"a marker that is in every file"
KEY, NEW_KEY = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))


@pytest.fixture
def uploads(tmp_path: Path) -> Path:
    folder = tmp_path / "uploads"
    folder.mkdir()
    return folder


def opened(tmp_path: Path, database: Database, **options: object) -> Vault:
    return Vault(tmp_path / "vault", database, keys=VaultKeys(tmp_path / "keys" / "vault.key", **options))  # type: ignore[arg-type]


def write(folder: Path, name: str, content: bytes = MARKER) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def fill(vault: Vault, uploads: Path) -> None:
    """An original with its sidecar, a rejected upload with its sidecar, and something in quarantine."""
    write(uploads, "clip.json")
    vault.take(CLIP, write(uploads, "clip.mp4"), move=True, actor="test")
    write(uploads, "bad.json")
    vault.reject(write(uploads, "bad.mp4"), code="c", reason="r", move=True, actor="test")
    with vault.quarantine(7) as quarantine:
        quarantine.take(write(uploads, "leak.jpg"), "frames", "v")


def read(vault: Vault, clip_id: str = CLIP) -> bytes:
    with vault.open(clip_id, purpose=VaultPurpose.INGEST, actor="test") as original:
        return original.read()


def everything(vault: Vault) -> list[bytes]:
    return [
        content
        for room in ("originals/", "rejected/", "quarantine/")
        for content in clear_contents(vault, room).values()
    ]


def readable(tmp_path: Path) -> list[str]:
    """Files of the vault that hold the plain text."""
    files = [path for path in (tmp_path / "vault").rglob("*") if path.is_file()]
    assert len(files) > 5, "nothing was searched"
    return [path.name for path in files if MARKER in path.read_bytes()]


# --- nothing is readable ---


def test_no_plain_text_lies_in_the_vault(tmp_path: Path, database: Database, uploads: Path) -> None:
    vault = opened(tmp_path, database)
    fill(vault, uploads)
    assert readable(tmp_path) == []
    assert everything(vault) == [MARKER] * 5
    assert sum(vault.status().encrypted.values()) == 5 and vault.status().clear == 0


def test_the_search_finds_plain_text_that_is_there(tmp_path: Path, database: Database, uploads: Path) -> None:
    vault = opened(tmp_path, database, encrypts=False)
    fill(vault, uploads)
    assert len(readable(tmp_path)) == 5
    assert vault.status().clear == 5


def test_a_video_leaves_no_trace_of_its_container(tmp_path: Path, database: Database, uploads: Path) -> None:
    source = write_clip(uploads / "clip.mp4", frames=30)
    assert b"ftyp" in source.read_bytes() and b"moov" in source.read_bytes()
    vault = opened(tmp_path, database)
    vault.take(CLIP, source, move=False, actor="test")
    stored = b"".join(path.read_bytes() for path in (tmp_path / "vault").rglob("*") if path.is_file())
    # Long enough that encrypted bytes do not have them by chance.
    for at in range(0, source.stat().st_size - 8, 997):
        assert source.read_bytes()[at : at + 8] not in stored
    assert b"ftypiso" not in stored


# --- nothing can be exchanged ---


@pytest.mark.parametrize("beside", ["", ".key.json"])
def test_any_changed_byte_is_told_with_the_clip(
    tmp_path: Path, database: Database, uploads: Path, beside: str
) -> None:
    vault = opened(tmp_path, database)
    stored = vault.take(CLIP, write(uploads, "clip.mp4"), move=False, actor="test")
    path = tmp_path / "vault" / f"{stored.key}{beside}"
    content = path.read_bytes()
    undetected = b""
    for at in range(0, len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        try:
            assert read(vault) == MARKER
            undetected += content[at : at + 1]
        except (VaultError, KeyMissing) as error:
            assert f"original of clip {CLIP} cannot be read" in str(error)
    assert undetected.strip() == b"", "only white space between the parts of an envelope may change"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(VaultError, match=f"original of clip {CLIP}.*backup"):
        read(vault)
    path.write_bytes(content)
    assert read(vault) == MARKER


def test_files_cannot_take_one_anothers_place(tmp_path: Path, database: Database, uploads: Path) -> None:
    vault = opened(tmp_path, database)
    for clip_id, name in ((CLIP, "a.mp4"), (OTHER, "b.mp4")):
        vault.take(clip_id, write(uploads, name), move=False, actor="test")
    mine, theirs = (tmp_path / "vault" / "originals" / clip_id for clip_id in (CLIP, OTHER))
    shutil.copy(theirs / "original.mp4", mine / "original.mp4")
    with pytest.raises(VaultError, match="that of another file"):
        read(vault)
    shutil.copy(theirs / "original.mp4.key.json", mine / "original.mp4.key.json")
    with pytest.raises(VaultError, match="that of another file"):
        read(vault)
    (mine / "original.mp4").write_bytes(MARKER)
    with pytest.raises(VaultError, match="clear file lies in the place"):
        read(vault)
    assert read(vault, OTHER) == MARKER


def test_damage_shows_while_a_video_is_decoded(tmp_path: Path, database: Database, uploads: Path) -> None:
    vault = opened(tmp_path, database)
    source = write_clip(uploads / "clip.mp4", frames=60, width=640, height=480)
    stored = vault.take(CLIP, source, move=False, actor="test")
    path = tmp_path / "vault" / stored.key
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with (
        vault.open(CLIP, purpose=VaultPurpose.INGEST, actor="test") as original,
        pytest.raises(VaultError, match=f"original of clip {CLIP} cannot be read: chunk"),
        av.open(original) as container,
    ):
        list(container.decode(video=0))


# --- keys ---


def test_a_wrong_key_is_told_from_damage(tmp_path: Path, database: Database, uploads: Path) -> None:
    vault = opened(tmp_path, database, environment_key=KEY)
    vault.take(CLIP, write(uploads, "clip.mp4"), move=False, actor="test")
    [key_id] = vault.status().encrypted
    wrong = opened(tmp_path, database, environment_key=NEW_KEY)
    with pytest.raises(KeyMissing, match=f"clip {CLIP} cannot be read. The key {key_id}"):
        read(wrong)
    assert read(opened(tmp_path, database, environment_key=NEW_KEY, previous=KEY)) == MARKER
    wrong.take(OTHER, write(uploads, "other.mp4"), move=False, actor="test")
    assert len(wrong.status().encrypted) == 2
    with pytest.raises(KeyMissing, match=key_id):
        wrong.rotate(actor="test")


def test_a_lost_key_file_is_not_replaced_in_silence(
    tmp_path: Path, database: Database, uploads: Path
) -> None:
    vault = opened(tmp_path, database)
    vault.take(CLIP, write(uploads, "clip.mp4"), move=False, actor="test")
    kept = (tmp_path / "keys" / "vault.key").read_bytes()
    (tmp_path / "keys" / "vault.key").unlink()
    other = write(uploads, "other.mp4")
    with pytest.raises(KeyMissing, match="Restore it from its backup"):
        vault.take(OTHER, other, move=True, actor="test")
    assert other.exists() and not (tmp_path / "keys" / "vault.key").exists()
    with pytest.raises(KeyMissing, match=CLIP):
        vault.rotate(actor="test", new_key=True)
    vault.take(OTHER, other, move=True, actor="test")
    assert read(vault, OTHER) == MARKER
    (tmp_path / "keys" / "vault.key").write_bytes(kept)
    assert read(vault) == MARKER


def test_rotation_rewrites_wrapped_keys_and_no_content(
    tmp_path: Path, database: Database, uploads: Path
) -> None:
    fill(opened(tmp_path, database, environment_key=KEY), uploads)

    def contents() -> dict[Path, tuple[bytes, int]]:
        files = (path for path in (tmp_path / "vault").rglob("*") if path.is_file())
        return {
            path: (path.read_bytes(), path.stat().st_ino)
            for path in files
            if not path.name.endswith(".key.json") and path.name != "vault.json"
        }

    before = contents()
    vault = opened(tmp_path, database, environment_key=NEW_KEY, previous=KEY)
    seen: list[str] = []
    assert vault.rotate(actor="test", on_file=seen.append) == len(seen) == 5
    assert vault.rotate(actor="test") == 0
    assert contents() == before
    alone = opened(tmp_path, database, environment_key=NEW_KEY)
    assert everything(alone) == [MARKER] * 5 and len(alone.status().encrypted) == 1
    assert "vault.rotate" in [entry.action for entry in database.audit_log()]
    with pytest.raises(KeyMissing):
        read(opened(tmp_path, database, environment_key=KEY))


def test_contents_are_encrypted_anew_where_that_is_asked_for(
    tmp_path: Path, database: Database, uploads: Path
) -> None:
    vault = opened(tmp_path, database)
    fill(vault, uploads)
    stored = tmp_path / "vault" / "originals" / CLIP / "original.mp4"
    before, envelope = stored.read_bytes(), json.loads(stored.with_name("original.mp4.key.json").read_text())
    assert vault.rotate(actor="test", new_key=True, contents_too=True) == 5
    assert stored.read_bytes() != before
    after = json.loads(stored.with_name("original.mp4.key.json").read_text())
    assert len(after["keys"]) == 1 and after["keys"][0]["file_id"] != envelope["keys"][0]["file_id"]
    assert everything(vault) == [MARKER] * 5
    opened_for = [(entry.action, entry.clip_id) for entry in database.audit_log()]
    assert ("vault.encrypt", CLIP) in opened_for and ("vault.new_key", "") in opened_for


def test_who_opens_a_file_while_it_is_encrypted_anew_reads_it(
    tmp_path: Path, database: Database, uploads: Path
) -> None:
    vault = opened(tmp_path, database, encrypts=False)
    content = os.urandom(1 << 20)
    key = vault.take(CLIP, write(uploads, "clip.mp4", content), move=False, actor="test").key
    files = opened(tmp_path, database)._files
    done, problems = threading.Event(), []

    def look() -> None:
        while not done.is_set():
            try:
                with files.open(key, what="it") as file:
                    assert file.read() == content
            except BaseException as error:
                problems.append(error)
                return

    looking = [threading.Thread(target=look) for _ in range(2)]
    for thread in looking:
        thread.start()
    files.encrypt(key, what="it")
    for _ in range(10):
        files.encrypt_anew(key, what="it")
    done.set()
    for thread in looking:
        thread.join()
    assert problems == []


# --- clear files from before ---


def test_a_clear_vault_stays_readable_and_is_encrypted_in_place(
    tmp_path: Path, database: Database, uploads: Path
) -> None:
    fill(opened(tmp_path, database, encrypts=False), uploads)
    vault = opened(tmp_path, database)
    assert everything(vault) == [MARKER] * 5 and read(vault) == MARKER
    kept = vault.reject_stored(CLIP, code="c", reason="r", actor="test")
    assert vault.status().clear == 4, "the sidecar moved as it was"
    seen: list[str] = []
    assert vault.encrypt(actor="test", on_file=seen.append) == len(seen) == 4
    assert vault.encrypt(actor="test") == 0
    assert readable(tmp_path) == [] and everything(vault) == [MARKER] * 5
    with vault.open_rejected(kept, purpose=VaultPurpose.REVIEW, actor="test") as stream:
        assert stream.read() == MARKER
    assert vault.status().clear == 0


def test_a_clear_original_that_was_changed_is_not_sealed(
    tmp_path: Path, database: Database, uploads: Path
) -> None:
    clear = opened(tmp_path, database, encrypts=False)
    stored = tmp_path / "vault" / clear.take(CLIP, write(uploads, "a.mp4"), move=False, actor="test").key
    stored.write_bytes(MARKER.upper())
    vault = opened(tmp_path, database)
    with pytest.raises(VaultError, match=f"clip {CLIP} has sha256"):
        vault.encrypt(actor="test")
    assert stored.read_bytes() == MARKER.upper() and vault.status().clear == 1


def test_switched_off_new_files_are_clear_and_others_readable(
    tmp_path: Path, database: Database, uploads: Path
) -> None:
    opened(tmp_path, database).take(CLIP, write(uploads, "a.mp4"), move=False, actor="test")
    vault = opened(tmp_path, database, encrypts=False)
    vault.take(OTHER, write(uploads, "b.mp4"), move=False, actor="test")
    assert read(vault) == read(vault, OTHER) == MARKER
    assert (sum(vault.status().encrypted.values()), vault.status().clear) == (1, 1)
    for change in (vault.encrypt, lambda actor: vault.rotate(actor=actor, contents_too=True)):
        with pytest.raises(ConfigurationError, match="EGO_VAULT_ENCRYPTION"):
            change(actor="test")


def test_an_encrypted_file_without_its_envelope_is_counted(
    tmp_path: Path, database: Database, uploads: Path
) -> None:
    vault = opened(tmp_path, database)
    key = vault.take(CLIP, write(uploads, "a.mp4"), move=False, actor="test").key
    (tmp_path / "vault" / f"{key}.key.json").unlink()
    assert vault.status().without_key == (key,)
    with pytest.raises(VaultError, match="key envelope is missing"):
        read(vault)


# --- killed at any instant ---

KILLED = """
import json, os, pathlib, shutil, signal, sys
sys.path.insert(0, sys.argv[2])
from ego_assets.schema.vocabulary import VaultPurpose
from resources.keys import VaultKeys
from resources.vault import Vault

root, clip_id, what = pathlib.Path(sys.argv[1]), sys.argv[3], sys.argv[4]


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


def vault(**options):
    keys = VaultKeys(root / "keys" / "vault.key", **options)
    return Vault(root / "vault", Database(), keys=keys)


def change(resumed):
    if what == "encrypt":
        vault().encrypt(actor="test")
    else:
        vault().rotate(actor="test", new_key=not resumed, contents_too=what == "contents")


for step in range(1, 200):
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    upload = root / "upload.mp4"
    upload.write_bytes(b"content")
    vault(encrypts=what != "encrypt").take(clip_id, upload, move=True, actor="test")
    child = os.fork()
    if child == 0:
        die_at(step)
        change(False)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    good = []
    for resumed in (False, True):
        if resumed:
            change(True)
        with vault().open(clip_id, purpose=VaultPurpose.INGEST, actor="test") as original:
            good.append(original.read() == b"content")
    state = vault().status()
    done = state.clear == 0 and list(state.encrypted) == [vault()._keys.present().key_id]
    left = [path.name for path in root.rglob("*") if b"content" in (path.read_bytes() if path.is_file() else b"")]
    print(json.dumps([os.WTERMSIG(status), good, done, left]), flush=True)
    if os.WIFEXITED(status):
        break
"""


@pytest.mark.parametrize("what", ["encrypt", "rotate", "contents"])
def test_a_change_that_is_killed_leaves_every_file_readable_and_goes_on(tmp_path: Path, what: str) -> None:
    out = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "work"), str(ROOT), CLIP, what],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    *killed, last = [json.loads(line) for line in out.splitlines()]
    assert len(killed) >= 5 and last == [0, [True, True], True, []]
    assert all(line == [9, [True, True], True, []] for line in killed), killed
