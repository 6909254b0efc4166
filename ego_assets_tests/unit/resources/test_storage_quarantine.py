"""Versions leave the store for the vault: first the pointer, then the files, and nothing stays behind."""

from __future__ import annotations

import errno
import stat
import tempfile
import uuid
from pathlib import Path

import pytest

from ego_assets.schema.artifact import ArtifactDocument
from ego_assets.schema.errors import TransientError
from ego_assets.schema.vocabulary import VaultPurpose
from ego_assets_tests.vault_contents import clear_contents
from resources.storage import ArtifactStore
from resources.vault import QUARANTINE, Vault, VaultError

CLIP, OTHER = str(uuid.UUID(int=1, version=4)), str(uuid.UUID(int=2, version=4))


@pytest.fixture(params=["local", "remote"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    if request.param == "local":
        return ArtifactStore(str(tmp_path / "store"))
    return ArtifactStore(f"memory://{uuid.uuid4().hex}/store")


def commit(
    store: ArtifactStore, text: str, *, clip_id: str = CLIP, layer: str = "frames"
) -> ArtifactDocument:
    with store.stage(clip_id, layer) as staged:
        staged.path("video.mp4").write_text(text)
        staged.path("rgb/0.jpg").write_text(f"picture of {text}")
        return staged.commit(config={}, inputs={})


def quarantined(vault: Vault, incident: int = 1) -> dict[str, str]:
    contents = clear_contents(vault, f"{QUARANTINE}/{incident}/")
    return {name: content.decode() for name, content in contents.items()}


def test_every_version_moves_into_the_vault_and_no_other_clip_does(
    store: ArtifactStore, vault: Vault, tmp_path: Path
) -> None:
    first, second = commit(store, "old"), commit(store, "new")
    kept = commit(store, "old", clip_id=OTHER)
    assert set(store.version_ids(CLIP, "frames")) == {first.version_id, second.version_id}
    assert store.revoke(CLIP, "frames")
    assert not store.revoke(CLIP, "frames")
    assert store.document(CLIP, "frames") is None
    with vault.quarantine(1) as quarantine:
        for version in store.version_ids(CLIP, "frames"):
            store.move_version(
                CLIP,
                "frames",
                version,
                take=lambda folder, version=version: quarantine.take(folder, "frames", version),
            )
    assert store.version_ids(CLIP, "frames") == []
    for document in (first, second):
        with pytest.raises(Exception, match="gone from the store"):
            store.read_bytes(document, "rgb/0.jpg")
    assert quarantined(vault) == {
        f"frames/{document.version_id}/{name}": content
        for document, text in ((first, "old"), (second, "new"))
        for name, content in (("video.mp4", text), ("rgb/0.jpg", f"picture of {text}"))
    }
    store.verify(kept)
    assert store.document(OTHER, "frames") == kept


def test_the_current_version_is_not_moved(store: ArtifactStore) -> None:
    made = commit(store, "good")
    with pytest.raises(TransientError, match="is the current one"):
        store.move_version(CLIP, "frames", made.version_id, take=lambda folder: None)
    store.verify(made)


def test_what_cannot_be_taken_stays(store: ArtifactStore) -> None:
    made = commit(store, "leak")
    store.revoke(CLIP, "frames")

    def full(folder: Path) -> None:
        assert (folder / "video.mp4").read_text() == "leak"
        raise OSError(errno.ENOSPC, "the vault is full")

    with pytest.raises(OSError, match="full"):
        store.move_version(CLIP, "frames", made.version_id, take=full)
    store.verify(made)
    assert store.version_ids(CLIP, "frames") == [made.version_id]


def test_moving_what_is_gone_does_nothing(store: ArtifactStore) -> None:
    def never(folder: Path) -> None:
        raise AssertionError(folder)

    store.move_version(CLIP, "frames", "0" * 16, take=never)
    assert store.version_ids(CLIP, "frames") == []


def test_a_discarded_version_takes_its_own_pointer_only(store: ArtifactStore) -> None:
    first, second = commit(store, "old"), commit(store, "new")
    store.discard(first)
    assert store.document(CLIP, "frames") == second
    assert store.version_ids(CLIP, "frames") == [second.version_id]
    store.discard(second)
    assert store.document(CLIP, "frames") is None
    assert store.version_ids(CLIP, "frames") == []


def test_what_is_being_made_of_a_clip_is_removed(store: ArtifactStore) -> None:
    with store.stage(CLIP, "frames") as mine, store.stage(OTHER, "frames") as theirs:
        mine.path("video.mp4").write_text("leak")
        theirs.path("video.mp4").write_text("fine")
        assert store.discard_staging(CLIP) == 1
        assert not mine.folder.exists()
        assert theirs.path("video.mp4").read_text() == "fine"
        with pytest.raises((ValueError, OSError)):
            mine.commit(config={}, inputs={})


def test_downloads_that_a_killed_process_left_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = ArtifactStore(f"memory://{uuid.uuid4().hex}/store")
    made, other = commit(store, "leak"), commit(store, "fine", clip_id=OTHER)
    # What a process leaves that is killed here: nobody cleans up after it.
    monkeypatch.setattr(tempfile.TemporaryDirectory, "__exit__", lambda *arguments: None)
    monkeypatch.setattr(tempfile.TemporaryDirectory, "_cleanup", lambda *arguments, **options: None)
    with store.local_path(other, "video.mp4") as kept:
        pass
    with store.local_path(made, "video.mp4") as left:
        assert left.read_text() == "leak"
    store.revoke(CLIP, "frames")
    with pytest.raises(KeyboardInterrupt):
        store.move_version(CLIP, "frames", made.version_id, take=interrupted)

    def leaking() -> list[Path]:
        return [path for path in tmp_path.rglob("*") if path.is_file() and "leak" in path.read_text()]

    assert len(leaking()) == 3, "one file that was read, and a version of two files"
    assert store.discard_staging(CLIP) == 2
    assert leaking() == []
    assert kept.read_text() == "fine"


def interrupted(folder: Path) -> None:
    raise KeyboardInterrupt


# --- the vault's side ---------------------------------------------------------------------------------


def leak(tmp_path: Path) -> Path:
    folder = tmp_path / "outside" / "version"
    (folder / "rgb").mkdir(parents=True)
    (folder / "rgb" / "0.jpg").write_text("a face")
    (folder / "rgb").chmod(0o755)
    return folder


@pytest.mark.parametrize("elsewhere", [False, True], ids=["renamed", "copied"])
def test_the_quarantine_is_for_the_owner_only(
    vault: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    source = leak(tmp_path)
    if elsewhere:
        rename = Path.rename

        def crosses(self: Path, target: Path) -> Path:
            if self == source:
                raise OSError(errno.EXDEV, "another file system")
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", crosses)
    with vault.quarantine(4) as quarantine:
        quarantine.take(source, "frames", "v")
        assert quarantine.names() == ["frames/v/rgb/0.jpg"]
    assert not source.exists()
    assert quarantined(vault, 4) == {"frames/v/rgb/0.jpg": "a face"}
    for path in (tmp_path / "vault").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert stat.S_IMODE((tmp_path / "vault").stat().st_mode) == 0o700


def test_what_is_in_quarantine_is_encrypted(vault: Vault, tmp_path: Path) -> None:
    with vault.quarantine(4) as quarantine:
        quarantine.take(leak(tmp_path), "frames", "v")
        # What a process leaves that is killed between moving and encrypting.
        quarantine._place.adopt(leak(tmp_path), "quarantine/4/frames/w")
        assert vault.status().clear == 1
        quarantine.restrict()
        assert quarantine.names() == ["frames/v/rgb/0.jpg", "frames/w/rgb/0.jpg"]
    assert vault.status().clear == 0
    assert quarantined(vault, 4) == {"frames/v/rgb/0.jpg": "a face", "frames/w/rgb/0.jpg": "a face"}
    assert not [p for p in (tmp_path / "vault").rglob("*") if p.is_file() and b"a face" in p.read_bytes()]


def test_a_second_version_of_the_same_name_stays_beside_the_first(vault: Vault, tmp_path: Path) -> None:
    with vault.quarantine(4) as quarantine:
        for _ in range(2):
            quarantine.take(leak(tmp_path), "frames", "v")
        assert quarantine.names() == ["frames/v-2/rgb/0.jpg", "frames/v/rgb/0.jpg"]


def test_purging_removes_one_incident_and_nothing_else(vault: Vault, tmp_path: Path) -> None:
    original = tmp_path / "clip.mp4"
    original.write_text("original")
    vault.take(CLIP, original, move=False, actor="test")
    for number in (4, 5):
        with vault.quarantine(number) as quarantine:
            quarantine.take(leak(tmp_path), "frames", "v")
    with vault.quarantine(4) as quarantine:
        assert quarantine.purge() == 1
        assert quarantine.purge() == 0
    assert quarantined(vault, 4) == {}
    assert len(quarantined(vault, 5)) == 1
    with vault.open(CLIP, purpose=VaultPurpose.REVIEW, actor="test") as kept:
        assert kept.read() == b"original"


def test_a_purge_that_leaves_something_is_no_purge(
    vault: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with vault.quarantine(4) as quarantine:
        quarantine.take(leak(tmp_path), "frames", "v")
        monkeypatch.setattr("resources.vault.places.shutil.rmtree", lambda *args, **kwargs: None)
        with pytest.raises(VaultError, match="cannot be removed"):
            quarantine.purge()
