from __future__ import annotations

import os
import threading
import uuid
from pathlib import Path

import pytest

from ego_assets.media.uploads import UploadDescription, describe_upload
from ego_assets.schema.clip import Clip
from ego_assets.schema.errors import DuplicateUpload, UnknownClip, UploadRejected
from ego_assets.schema.vocabulary import LocationType
from ego_assets_tests.vault_contents import clear_contents
from resources.database import Database
from resources.intake import Intake
from resources.vault import Vault

DATABASES = ("sqlite", "postgres")


@pytest.fixture
def intake(database: Database, vault: Vault) -> Intake:
    return Intake(database, vault)


@pytest.fixture
def uploads(tmp_path: Path) -> Path:
    folder = tmp_path / "uploads" / "raw" / "c01" / "2026-05-04"
    folder.mkdir(parents=True)
    return folder


def describe(path: Path) -> UploadDescription:
    return describe_upload(path.parents[3], path)


def upload(folder: Path, name: str = "", content: bytes = b"video") -> Path:
    path = folder / (name or f"{uuid.uuid4()}.mp4")
    path.write_bytes(content)
    return path


def register(intake: Intake, path: Path) -> Clip:
    return intake.register(describe(path), upload_uri=path.as_uri())


def take(intake: Intake, path: Path, *, move: bool = True) -> Clip:
    clip = register(intake, path)
    return intake.take(clip.clip_id, path, move=move, actor="test", run_id="r")


def rejected(vault: Vault) -> dict[str, bytes]:
    kept = clear_contents(vault, "rejected/").items()
    return {key.rpartition("/")[2]: content for key, content in kept if not key.endswith(".json")}


def test_an_upload_becomes_a_clip(intake: Intake, database: Database, uploads: Path) -> None:
    path = upload(uploads)
    path.with_suffix(".json").write_text('{"location": "office", "collector_id": "c02"}')
    clip = register(intake, path)
    assert clip.clip_id == path.stem
    assert (clip.collector_id, str(clip.recording_date), clip.location_type) == (
        "c02",
        "2026-05-04",
        LocationType.OFFICE,
    )
    assert (clip.source_name, clip.upload_uri, clip.raw_key) == (path.name, path.as_uri(), "")
    assert register(intake, path) == database.clip(clip.clip_id)
    assert len(database.clips()) == 1


def test_a_sidecar_that_comes_late_counts_until_the_original_is_taken(intake: Intake, uploads: Path) -> None:
    path = upload(uploads)
    register(intake, path)
    sidecar = path.with_suffix(".json")
    sidecar.write_text('{"activity": "cooking"}')
    assert register(intake, path).activity_category == "cooking"
    take(intake, path, move=False)
    sidecar.write_text('{"activity": "painting"}')
    assert register(intake, path).activity_category == "cooking"


@pytest.mark.parametrize("move", [True, False])
def test_taking(intake: Intake, uploads: Path, move: bool) -> None:
    path = upload(uploads)
    clip = take(intake, path, move=move)
    assert (clip.raw_key, clip.raw_bytes) == (f"originals/{clip.clip_id}/original.mp4", 5)
    assert path.exists() != move
    again = intake.take(clip.clip_id, path, move=move, actor="test")
    assert (again.raw_sha256, again.duplicate_of) == (clip.raw_sha256, "")


def test_a_moved_file_that_comes_again_is_taken_out_of_the_folder(intake: Intake, uploads: Path) -> None:
    path = upload(uploads)
    first = take(intake, path)
    upload(uploads, path.name)
    assert take(intake, path).raw_sha256 == first.raw_sha256
    assert not path.exists()


def test_other_content_under_the_id_of_a_taken_clip(intake: Intake, uploads: Path) -> None:
    path = upload(uploads)
    take(intake, path)
    for content in (b"longer content", b"VIDEO"):
        upload(uploads, path.name, content)
        with pytest.raises(UploadRejected, match="never reused") as caught:
            register(intake, path)
        assert caught.value.code == "clip_id_taken"
        assert path.read_bytes() == content


def test_two_uploads_with_one_id(intake: Intake, uploads: Path) -> None:
    first = upload(uploads)
    folder = uploads.parent / "2026-05-05"
    folder.mkdir()
    second = upload(folder, first.name, b"another")
    register(intake, first)
    with pytest.raises(UploadRejected, match="Rename one of the two") as caught:
        register(intake, second)
    assert caught.value.code == "clip_id_taken"
    first.unlink()
    assert register(intake, second).upload_uri == second.as_uri()


def test_the_same_content_twice(intake: Intake, database: Database, uploads: Path, vault: Vault) -> None:
    first = take(intake, upload(uploads))
    path = upload(uploads, "again.mp4")
    path.with_suffix(".json").write_text("{}")
    with pytest.raises(DuplicateUpload, match=first.clip_id) as caught:
        take(intake, path)
    assert caught.value.first_clip_id == first.clip_id
    assert rejected(vault) == {"again.mp4": b"video"}
    assert list(uploads.iterdir()) == []
    duplicate = next(clip for clip in database.clips() if clip.source_name == "again.mp4")
    assert (duplicate.duplicate_of, duplicate.raw_key, duplicate.raw_sha256) == (first.clip_id, "", "")
    refusal = database.refusal(duplicate.clip_id, inputs=[])
    assert refusal is not None and first.clip_id in refusal
    with pytest.raises(DuplicateUpload):
        intake.take(duplicate.clip_id, path, move=True, actor="test")
    assert database.clip(first.clip_id).duplicate_of == ""


def test_a_duplicate_that_is_copied_stays_where_it_is(intake: Intake, uploads: Path, vault: Vault) -> None:
    take(intake, upload(uploads), move=False)
    path = upload(uploads, "again.mp4")
    for _ in range(2):
        with pytest.raises(DuplicateUpload):
            take(intake, path, move=False)
    assert path.read_bytes() == b"video"
    assert rejected(vault) == {}


def test_new_content_frees_a_clip_from_being_a_duplicate(intake: Intake, uploads: Path) -> None:
    take(intake, upload(uploads))
    path = upload(uploads)
    with pytest.raises(DuplicateUpload):
        take(intake, path)
    upload(uploads, path.name, b"the right file")
    clip = take(intake, path)
    assert (clip.duplicate_of, clip.raw_bytes) == ("", 14)


@pytest.mark.parametrize("move", [True, False])
def test_the_same_content_taken_at_once(
    intake: Intake, database: Database, uploads: Path, vault: Vault, tmp_path: Path, move: bool
) -> None:
    paths = [upload(uploads, f"{number}.mp4") for number in range(5)]
    outcomes: list[str] = []

    def run(path: Path) -> None:
        try:
            outcomes.append(take(intake, path, move=move).raw_sha256)
        except DuplicateUpload as duplicate:
            outcomes.append(duplicate.code)

    threads = [threading.Thread(target=run, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes)[1:] == ["duplicate"] * 4
    owners = [clip.clip_id for clip in database.clips() if clip.raw_key]
    assert len(owners) == 1
    assert {clip.duplicate_of for clip in database.clips()} == {"", owners[0]}
    originals = [path.parent.name for path in (tmp_path / "vault").glob("originals/*/original.mp4")]
    assert originals == owners
    if move:
        assert list(rejected(vault).values()) == [b"video"] * 4
    else:
        assert all(path.exists() for path in paths)


def test_a_race_that_is_lost_late_moves_the_second_copy_away(
    intake: Intake,
    database: Database,
    uploads: Path,
    vault: Vault,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = take(intake, upload(uploads))
    monkeypatch.setattr(database, "clip_with_digest", lambda _: None)
    with pytest.raises(DuplicateUpload, match=first.clip_id):
        take(intake, upload(uploads, "late.mp4"))
    assert rejected(vault) == {"late.mp4": b"video"}
    assert len(list((tmp_path / "vault").glob("originals/*/original.mp4"))) == 1


def test_an_upload_that_vanished(intake: Intake, uploads: Path) -> None:
    path = upload(uploads)
    clip = register(intake, path)
    path.unlink()
    with pytest.raises(UploadRejected, match="Upload it again") as caught:
        intake.take(clip.clip_id, path, move=True, actor="test")
    assert caught.value.code == "vanished"


def test_a_link_is_not_taken(intake: Intake, uploads: Path, tmp_path: Path) -> None:
    path = upload(uploads)
    clip = register(intake, path)
    secret = tmp_path / "secret.mp4"
    path.rename(secret)
    path.symlink_to(secret)
    with pytest.raises(UploadRejected) as caught:
        intake.take(clip.clip_id, path, move=True, actor="test")
    assert caught.value.code == "symlink"
    intake.reject(path, caught.value, move=True, actor="test")
    assert secret.exists() and not os.path.lexists(path)


def test_unknown_clips_are_not_taken(intake: Intake, uploads: Path) -> None:
    with pytest.raises(UnknownClip):
        intake.take(str(uuid.uuid4()), upload(uploads), move=True, actor="test")
