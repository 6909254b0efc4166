"""Erasing clips and removing what no pointer names, in a folder and in a bucket; what uploads leave behind."""

from __future__ import annotations

import datetime as dt
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from ego_assets.schema.artifact import ArtifactDocument
from ego_assets.schema.errors import ArtifactCorrupted, ArtifactMissing, TransientError
from ego_assets_tests.bucket_server import BucketServer
from resources.storage import ArtifactStore

CLIP = "3b241101-e2bb-4255-8caf-4136c566a962"
OTHER = "3b241101-e2bb-4255-8caf-4136c566a963"


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, bucket_server: BucketServer) -> ArtifactStore:
    if request.param == "folder":
        return ArtifactStore(str(tmp_path / "store"))
    return ArtifactStore(f"s3://{bucket_server.make_bucket()}/store", bucket_server.access())


def commit(
    store: ArtifactStore, files: Mapping[str, bytes], *, clip_id: str = CLIP, layer: str = "frames"
) -> ArtifactDocument:
    with store.stage(clip_id, layer) as staged:
        for name, content in files.items():
            staged.path(name).write_bytes(content)
        return staged.commit(config={}, inputs={})


def test_an_erased_clip_is_gone_and_others_stay(store: ArtifactStore) -> None:
    commit(store, {"a": b"1", "deep/b": b"2"})
    newest = commit(store, {"a": b"3"})
    commit(store, {"a": b"4"}, layer="masks")
    other = commit(store, {"a": b"5"}, clip_id=OTHER)
    with store.stage(CLIP, "depth_maps") as staged:
        staged.path("x").write_bytes(b"6")
        # Four files in three versions; the two pointers went before.
        assert store.erase(CLIP) == 4
        assert not staged.folder.exists()
    assert store.document(CLIP, "frames") is None and store.version_ids(CLIP, "frames") == []
    with pytest.raises(ArtifactMissing):
        store.read_bytes(newest, "a")
    assert list(store.documents()) == [other]
    store.verify(other)
    assert store.erase(CLIP) == 0
    with pytest.raises(ValueError, match="clip_id"):
        store.erase("..")


def test_versions_that_no_pointer_names_are_found_and_removed(store: ArtifactStore) -> None:
    old = commit(store, {"a": b"one", "b/c": b"12"})
    new = commit(store, {"a": b"two"})
    [found] = store.superseded()
    assert (found.clip_id, found.layer, found.version_id, found.bytes) == (CLIP, "frames", old.version_id, 5)
    assert abs(dt.datetime.now(dt.UTC) - found.modified_at) < dt.timedelta(minutes=5)
    store.remove_version(CLIP, "frames", old.version_id)
    assert list(store.superseded()) == [] and store.version_ids(CLIP, "frames") == [new.version_id]
    store.verify(new)
    store.remove_version(CLIP, "frames", old.version_id)
    with pytest.raises(TransientError, match="current"):
        store.remove_version(CLIP, "frames", new.version_id)
    store.verify(new)


def test_a_pointer_that_cannot_be_read_may_mean_any_version(store: ArtifactStore) -> None:
    old = commit(store, {"a": b"one"})
    commit(store, {"a": b"two"})
    store._files.replace(f"{CLIP}/frames/artifact.json", b"{")
    assert list(store.superseded()) == []
    with pytest.raises(ArtifactCorrupted):
        store.remove_version(CLIP, "frames", old.version_id)


def test_a_version_that_becomes_current_again_is_not_old(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    first = commit(store, {"a": b"one"})
    commit(store, {"a": b"two"})
    folder = tmp_path / CLIP / "frames" / first.version_id
    for path in (folder / "a", folder):
        os.utime(path, (0, 0))
    assert next(store.superseded()).modified_at.year == 1970
    assert commit(store, {"a": b"one"}).version_id == first.version_id
    commit(store, {"a": b"three"})
    times = {version.version_id: version.modified_at.year for version in store.superseded()}
    assert times[first.version_id] > 1970


def test_a_range_of_a_file(store: ArtifactStore) -> None:
    document = commit(store, {"a": b"0123456789"})
    assert store.read_range(document, "a", 3, 4) == b"3456"
    assert store.read_range(document, "a", 8, 4) == b"89"
    store._files.remove(f"{CLIP}/frames/{document.version_id}/a")
    with pytest.raises(ArtifactMissing):
        store.read_range(document, "a", 0, 1)


def test_uploads_that_a_killed_process_left_are_removed_with_its_staging(
    bucket_server: BucketServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Staging of other processes is left alone.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    name = bucket_server.make_bucket()
    store = ArtifactStore(f"s3://{name}/store", bucket_server.access())
    document = commit(store, {"a": b"1"})
    client = bucket_server.client("s3")
    key = f"store/{CLIP}/frames/0123456789abcdef/a"
    upload = client.create_multipart_upload(Bucket=name, Key=key)["UploadId"]
    client.upload_part(Bucket=name, Key=key, UploadId=upload, PartNumber=1, Body=b"x")
    assert list(store.superseded()) == [] and store.document(CLIP, "frames") == document
    assert store.clean_staging(older_than_s=0.0) == 1
    assert "Uploads" not in client.list_multipart_uploads(Bucket=name)


def test_the_pointer_is_the_last_request_of_a_commit(bucket_server: BucketServer) -> None:
    store = ArtifactStore(f"s3://{bucket_server.make_bucket()}/store", bucket_server.access())
    commit(store, {"a": b"1", "b": b"2"})
    written = [
        request.path.rpartition("/")[2]
        for request in bucket_server.faults.requests
        if request.method == "PUT"
    ]
    assert written == ["a", "b", "artifact.json"]
    assert bucket_server.faults.requests[-1].path.endswith("artifact.json")


def test_a_file_that_arrived_incomplete_is_not_published(
    bucket_server: BucketServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArtifactStore(f"s3://{bucket_server.make_bucket()}/store", bucket_server.access())
    old = commit(store, {"a": b"1"})
    bucket = store._files._bucket  # type: ignore[attr-defined]
    monkeypatch.setattr(bucket, "put_file", lambda path, key: bucket.put(key, b""))
    with pytest.raises(TransientError, match="expected 3 bytes after the upload, found 0"):
        commit(store, {"a": b"two"})
    assert store.document(CLIP, "frames") == old
