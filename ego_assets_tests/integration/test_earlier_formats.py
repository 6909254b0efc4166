"""Projects of every format that was released open with this version: nothing in them may become unreadable."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import runpy
import shutil
import sqlite3
import tarfile
from functools import partial
from pathlib import Path

import pytest

from ego_assets.project import Project
from ego_assets.schema.artifact import ARTIFACT_FORMAT
from ego_assets.schema.vocabulary import VaultPurpose
from ego_assets.settings import Settings
from resources.database import SCHEMA_REVISION

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
NAMES = sorted(path.name.removesuffix(".tar.gz") for path in FIXTURES.glob("project_*.tar.gz"))
#: The key of their vaults, as `tools/make_format_fixture.py` sets it.
VAULT_KEY = runpy.run_path(str(FIXTURES.parents[1] / "tools" / "make_format_fixture.py"))["VAULT_KEY"]


@pytest.fixture(scope="module", params=NAMES)
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project, unpacked somewhere else than where it was made."""
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(FIXTURES / f"{request.param}.tar.gz") as tar:
        tar.extractall(folder, filter="data")
    settings = Settings(data_dir=folder, vault_key=VAULT_KEY, free_disk_reserve_bytes=0)
    return Project(settings)


def test_there_is_one_of_the_present_formats(tmp_path: Path) -> None:
    found = set()
    for name in NAMES:
        with tarfile.open(FIXTURES / f"{name}.tar.gz") as tar:
            tar.extractall(tmp_path / name, filter="data")
        with contextlib.closing(sqlite3.connect(tmp_path / name / "metadata.db")) as database:
            [(revision,)] = database.execute("SELECT version_num FROM alembic_version")
        formats = {
            json.loads(path.read_text())["format"]
            for path in (tmp_path / name).glob("store/*/*/artifact.json")
        }
        found.add((revision, *sorted(formats)))
    assert (SCHEMA_REVISION, ARTIFACT_FORMAT) in found, "make one with tools/make_format_fixture.py"


def test_the_database_upgrades_and_its_records_are_there(project: Project) -> None:
    [clip] = project.database.clips()
    assert (clip.collector_id, clip.activity_category) == ("c001", "cooking")
    assert project.database.gates(clip.clip_id) and project.database.audit_log(clip.clip_id)
    assert project.status(), "what the status table says can be derived"


def test_every_layer_is_intact_and_the_original_opens(project: Project) -> None:
    [clip] = project.database.clips()
    documents = list(project.store.documents())
    layers = {document.layer for document in documents}
    assert {
        "raw_clip",
        "blurred_video",
        "frames",
        "depth_maps",
        "embeddings",
        "manifest",
        "clip_package",
    } <= layers
    for document in documents:
        project.store.verify(document)
    with project.vault.open(clip.clip_id, purpose=VaultPurpose.INGEST, actor="test") as original:
        assert hashlib.sha256(original.read()).hexdigest() == clip.raw_sha256


def test_what_the_layers_hold_can_be_read(project: Project) -> None:
    from ego_assets.labels.embeddings import read_embedding
    from ego_assets.labels.hand_object import read_tracks
    from ego_assets.media.frame_archive import FrameArchive, FrameArchiveIndex
    from ego_assets.media.motion_table import MOTION_FILE, read_motion
    from ego_assets.media.rasters import decode_png

    [clip] = project.database.clips()
    store, found = project.store, {document.layer: document for document in project.store.documents()}
    motion, times_ns = read_motion(
        store.read_bytes(found["blurred_video"], MOTION_FILE), resolution=(256, 144)
    )
    assert len(times_ns) == clip.frame_count and motion is not None
    assert read_embedding(
        store.read_bytes(found["embeddings"], "embedding.parquet")
    ).embedding.vector.shape == (768,)
    if "hand_object" in found:
        assert read_tracks(partial(store.read_bytes, found["hand_object"])).frame_index.size
    for layer, name in (("depth_maps", "depth"), ("masks", "masks")):
        if layer in found:
            index = FrameArchiveIndex.read(io.BytesIO(store.read_bytes(found[layer], f"{name}.parquet")))
            with store.open(found[layer], f"{name}.tar") as file:
                assert decode_png(FrameArchive(file, index).read(int(index.frame_indices[0]))).ndim == 2


def test_its_indexes_are_rebuilt_and_the_planner_understands_it(project: Project) -> None:
    before = {(row.layer, row.version_id) for row in project.database.artifacts()}
    assert project.reindex() == len(before)
    assert {(row.layer, row.version_id) for row in project.database.artifacts()} == before
    [plan] = project.plans()
    assert plan.reason == ""


def test_its_delivery_opens_with_its_own_reader_and_with_the_present_one(
    project: Project, tmp_path: Path
) -> None:
    import importlib.util

    from ego_assets.delivery import egodata as present

    [clip] = project.database.clips()
    folders = sorted(path.parent for path in project.settings.deliveries.rglob("egodata.py"))
    assert folders
    for folder in folders:
        beside = tmp_path / f"{folder.parent.name}_{folder.name}.py"
        shutil.copy(folder / "egodata.py", beside)
        spec = importlib.util.spec_from_file_location(beside.stem, beside)
        assert spec is not None and spec.loader is not None
        own = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(own)
        for reader in (own, present):
            dataset = reader.Dataset(folder)
            with dataset.load_clip(clip.clip_id) as opened:
                assert opened.rgb[0].shape == (144, 256, 3)
            assert sum(1 for _ in dataset.stream()) > 0
