"""One clip through the whole chain with the artifacts in a bucket that fails now and then, and one that stays down."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from ego_assets.media.frame_archive import FrameArchive, FrameArchiveIndex
from ego_assets.project import Project
from ego_assets.settings import Settings
from ego_assets_tests.bucket_server import BucketServer
from ego_assets_tests.clips import write_clip
from resources.buckets import Bucket
from resources.deliveries import MARKER, PublishedDeliveries


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    return write_clip(tmp_path / "clip.mp4")


def settings_for(server: BucketServer, folder: Path, **changes: object) -> Settings:
    """Artifacts and deliveries in a bucket of their own, by way of the proxy."""
    bucket = f"s3://{server.make_bucket()}"
    values: dict[str, object] = {
        "data_dir": folder,
        "free_disk_reserve_bytes": 0,
        "store_url": f"{bucket}/store",
        "deliveries_url": f"{bucket}/deliveries",
        "store_s3_endpoint_url": server.endpoint_url,
        "store_s3_region": server.region,
        "store_aws_access_key_id": server.access_key_id,
        "store_aws_secret_access_key": server.secret_access_key,
        "bucket_max_attempts": 3,
        "bucket_timeout_s": 5.0,
    }
    return Settings(**{**values, **changes})  # type: ignore[arg-type]


def run_pending(project: Project, clip_id: str) -> bool:
    [plan] = project.plans([project.database.clip(clip_id)])
    return not plan.pending or project.run_clip(clip_id, plan.pending).success


def versions(project: Project) -> Mapping[str, str]:
    return {document.layer: document.data_version for document in project.store.documents()}


def test_a_store_that_fails_now_and_then_loses_nothing(
    bucket_server: BucketServer, tmp_path: Path, clip: Path
) -> None:
    local = Project(Settings(data_dir=tmp_path / "local", free_disk_reserve_bytes=0))
    expected = local.ingest(tmp_path, clip, {})
    assert run_pending(local, expected.clip_id)

    project = Project(settings_for(bucket_server, tmp_path / "remote"))
    registered = project.ingest(tmp_path, clip, {})
    assert registered.clip_id == expected.clip_id
    faults = bucket_server.faults
    faults.fail(2, status=500, method="PUT")
    faults.fail(2, status=503, method="GET")
    faults.fail(1, status=500, method="HEAD")
    faults.cut(2, contains="blurred_video")
    faults.alter(2, contains="frames")
    faults.alter_answer(1, contains="frames")
    faults.slow(3, delay_s=0.2)
    faults.drop(1, method="PUT", contains="artifact.json")
    assert run_pending(project, registered.clip_id)
    assert faults.injected == {
        "status": 5, "cut": 2, "alter": 2, "alter_answer": 1, "slow": 3, "drop": 1,
    }  # fmt: skip

    found, wanted = versions(project), versions(local)
    assert len(found) == len(project.specs) and found.keys() == wanted.keys()
    # These two say where the other layers lie.
    assert {layer for layer in found if found[layer] != wanted[layer]} == {"manifest", "clip_package"}
    for document in project.store.documents():
        project.store.verify(document)
    assert list(project.store.superseded()) == []
    [plan] = project.plans([project.database.clip(registered.clip_id)])
    assert plan.pending == []
    check_one_frame(project, registered.clip_id, bucket_server)
    check_delivery(project, bucket_server)
    assert project.store.erase(registered.clip_id) > 0
    assert list(project.store.documents()) == []


def check_one_frame(project: Project, clip_id: str, server: BucketServer) -> None:
    """One frame is one request once the index is at hand."""
    document = project.store.document(clip_id, "frames")
    assert document is not None
    [archive_name] = [entry.name for entry in document.files if entry.name == "frames.tar"]
    with project.store.open(document, "frames.parquet") as file:
        index = FrameArchiveIndex.read(file)
    archive = FrameArchive(
        lambda start, size: project.store.read_range(document, archive_name, start, size), index
    )
    server.faults.reset()
    assert archive.read(index.entry(int(index.frame_indices[1])).frame_index).startswith(b"\xff\xd8")
    assert [request.method for request in server.faults.requests] == ["GET"]


def check_delivery(project: Project, server: BucketServer) -> None:
    """The copy is whole when its marker is there, and a copy that stopped is continued."""
    server.faults.reset()
    server.faults.fail(3, status=503, method="PUT", contains="manifest.parquet")
    assert "cannot be reached" in project.run_collection()
    bucket = Bucket(project.settings.deliveries_url, project.settings.store_access)
    [name] = bucket.folders()
    [version] = bucket.folders(name)
    assert bucket.info(f"{name}/{version}/{MARKER}") is None
    assert not project.delivery_is_current()
    sent = {item.key for item in bucket.list(f"{name}/{version}")}
    server.faults.reset()
    assert project.run_collection() == ""
    assert project.delivery_is_current()
    again = [request.path for request in server.faults.requests if request.method == "PUT"]
    assert sent and not [key for key in sent if any(path.endswith(key) for path in again)]
    folder = project.settings.deliveries / name / version
    listed = {entry["name"] for entry in json.loads(bucket.get(f"{name}/{version}/{MARKER}") or b"")["files"]}
    present = {item.key.removeprefix(f"{name}/{version}/") for item in bucket.list(f"{name}/{version}")}
    assert listed | {MARKER} == present
    assert listed == {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}

    published = PublishedDeliveries(project.settings.deliveries_url, project.settings.store_access)
    [clip_id] = [clip.clip_id for clip in project.database.clips()]
    assert [path for path in folder.iterdir() if path.name.startswith(clip_id)]
    for path in sorted(folder.rglob("*"), reverse=True):
        if clip_id in path.relative_to(folder).as_posix():
            path.rmdir() if path.is_dir() else path.unlink()
    (folder / "RECALLED.json").write_text("{}")
    assert published.recall(clip_id, project.settings.deliveries) == [f"{name}/{version}"]
    left = {item.key.removeprefix(f"{name}/{version}/") for item in bucket.list(f"{name}/{version}")}
    assert not [key for key in left if clip_id in key] and {"RECALLED.json", MARKER} <= left
    assert published.is_published(folder)
    assert published.recall(clip_id, project.settings.deliveries) == []


def test_a_store_that_is_down_postpones_and_the_next_run_completes(
    bucket_server: BucketServer, tmp_path: Path, clip: Path
) -> None:
    project = Project(
        settings_for(bucket_server, tmp_path / "data", bucket_max_attempts=1, deliveries_url="")
    )
    registered = project.ingest(tmp_path, clip, {})
    essential = [spec.name for spec in project.specs if spec.stage <= 2]
    assert project.run_clip(registered.clip_id, essential).success
    before = versions(project)

    # Everything works until a layer after the privacy pass wants to publish.
    bucket_server.faults.fail(1000, status=503, contains="/frames/")
    project.run_clip(registered.clip_id, ["frames"])
    [state] = [
        state for state in project.database.layer_states(registered.clip_id) if state.layer == "frames"
    ]
    assert "cannot be reached" in state.reason and "Try again later" in state.reason
    bucket_server.faults.reset()
    assert versions(project) == before
    clip_row = project.database.clip(registered.clip_id)
    assert not clip_row.failed
    [plan] = project.plans([clip_row])
    assert "frames" in plan.pending
    assert run_pending(project, registered.clip_id)
    assert len(versions(project)) == len(project.specs)
