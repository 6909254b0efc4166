"""`ego-assets gc`: what nobody needs is listed, then removed, and nothing else is."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ego_assets.housekeeping import ABANDONED_S, Housekeeping, WasteKind
from ego_assets.project import Project
from ego_assets.schema.clip import Clip
from ego_assets.schema.errors import ConfigurationError
from ego_assets.settings import Settings
from resources.incidents import IncidentLog

from .test_command_line import CommandLine, command_line

CLIP = str(uuid.UUID(int=1, version=4))


@pytest.fixture
def ego(tmp_path: Path) -> Iterator[CommandLine]:
    with command_line(tmp_path / "data") as command:
        yield command


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(Settings(data_dir=tmp_path / "data"))
    project.database.add_clip(Clip(clip_id=CLIP, source_name="a.mp4"))
    return project


def keeper(project: Project) -> Housekeeping:
    return Housekeeping(
        database=project.database,
        store=project.store,
        vault=project.vault,
        deliveries=project.settings.deliveries,
    )


def commit(project: Project, content: str, *, clip_id: str = CLIP) -> str:
    """A version of a layer; returns its id."""
    with project.store.stage(clip_id, "frames") as staged:
        staged.path("frames.txt").write_text(content)
        document = staged.commit(config={}, inputs={})
    project.database.record_artifact(document, uri=project.store.uri(document))
    return document.version_id


def age(folder: Path, seconds: float) -> None:
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (time.time() - seconds, time.time() - seconds))


def test_only_superseded_versions_are_found_and_removed(project: Project) -> None:
    first, second = commit(project, "one"), commit(project, "two")
    [waste] = keeper(project).find(older_than_s=0)
    assert (waste.kind, waste.clip_id, waste.bytes) == (WasteKind.SUPERSEDED, CLIP, 3)
    assert waste.place.endswith(first)
    waste.remove()
    assert project.store.version_ids(CLIP, "frames") == [second]
    assert [row.version_id for row in project.database.artifacts(CLIP, current_only=False)] == [second]
    assert list(keeper(project).find(older_than_s=0)) == []


def test_a_version_that_was_superseded_lately_stays_however_old_it_is(project: Project) -> None:
    first = commit(project, "one")
    folder = project.settings.root / "store" / CLIP / "frames" / first
    age(folder, 30 * 24 * 3600)
    commit(project, "two")
    assert list(keeper(project).find()) == [], "a run may have opened it a moment ago"


def test_what_leaked_is_left_to_its_incident(project: Project) -> None:
    commit(project, "one")
    commit(project, "two")
    IncidentLog(project.database).add(
        CLIP, kind="faces", first_frame=0, last_frame=1, box_xyxy=None, note="",
        layers=["frames"], background=False, actor="test",
    )  # fmt: skip
    assert list(keeper(project).find(older_than_s=0)) == []


def test_a_version_that_became_current_meanwhile_is_not_removed(project: Project) -> None:
    commit(project, "one")
    commit(project, "two")
    [waste] = keeper(project).find(older_than_s=0)
    again = commit(project, "one")
    with pytest.raises(Exception, match="current"):
        waste.remove()
    assert again in project.store.version_ids(CLIP, "frames")


def test_what_killed_processes_left_is_found_once_it_is_old(project: Project) -> None:
    with project.store.stage(CLIP, "frames") as staged:
        staged.path("half.txt").write_text("half")
        assert list(keeper(project).find(older_than_s=0)) == []
        age(staged.folder, ABANDONED_S + 60)
        [waste] = keeper(project).find(older_than_s=0)
        assert (waste.kind, waste.bytes) == (WasteKind.UNFINISHED, 4)
        waste.remove()
        assert not staged.folder.exists()


def test_deliveries_that_nobody_recorded_are_found(project: Project) -> None:
    root = project.settings.deliveries / "dataset"
    for name in ("v0001", "v0002", ".staging-abc", "notes"):
        (root / name).mkdir(parents=True)
        (root / name / "file.txt").write_text("12345")
        age(root / name, 30 * 24 * 3600)
    project.database.add_delivery(
        name="dataset", version="v0001", uri="", definition={}, bytes=5, clips={CLIP: {}}
    )
    found = {Path(waste.place).name: waste for waste in keeper(project).find()}
    assert {name: waste.kind for name, waste in found.items()} == {
        "v0002": WasteKind.UNRECORDED,
        ".staging-abc": WasteKind.UNFINISHED,
    }
    for waste in found.values():
        waste.remove()
    assert sorted(path.name for path in root.iterdir()) == ["notes", "v0001"]


def test_orphans_are_looked_for_when_asked(project: Project) -> None:
    commit(project, "kept")
    stranger = str(uuid.UUID(int=2, version=4))
    project.database.add_clip(Clip(clip_id=stranger, source_name="b.mp4"))
    commit(project, "lost", clip_id=stranger)
    other = Project(
        Settings(data_dir=project.settings.data_dir, database_url=f"sqlite:///{project.settings.root}/b.db")
    )
    with pytest.raises(ConfigurationError, match="EGO_DATABASE_URL"):
        list(keeper(other).find(orphans=True))
    other.database.add_clip(Clip(clip_id=CLIP, source_name="a.mp4"))
    assert list(keeper(other).find(older_than_s=0)) == []
    [waste] = keeper(other).find(older_than_s=0, orphans=True)
    assert (waste.kind, waste.clip_id, waste.bytes) == (WasteKind.ORPHAN, stranger, 4)
    waste.remove()
    assert project.store.document(stranger, "frames") is None
    assert project.store.document(CLIP, "frames") is not None


def test_orphans_without_a_pointer_and_originals_without_a_clip_are_named(
    project: Project, tmp_path: Path
) -> None:
    stranger = str(uuid.UUID(int=2, version=4))
    project.database.add_clip(Clip(clip_id=stranger, source_name="b.mp4"))
    commit(project, "lost", clip_id=stranger)
    (project.settings.root / "store" / stranger / "frames" / "artifact.json").unlink()
    upload = tmp_path / "b.mp4"
    upload.write_bytes(b"recording")
    project.vault.take(stranger, upload, move=False, actor="test")
    other = Project(
        Settings(data_dir=project.settings.data_dir, database_url=f"sqlite:///{project.settings.root}/b.db")
    )
    other.database.add_clip(Clip(clip_id=CLIP, source_name="a.mp4"))
    found = {waste.kind: waste for waste in keeper(other).find(older_than_s=0, orphans=True)}
    assert set(found) == {WasteKind.ORPHAN, WasteKind.UNKNOWN_ORIGINAL}
    for waste in found.values():
        assert waste.clip_id == stranger
        waste.remove()
    assert project.vault.clip_ids() == {stranger}, "an original is never removed"
    assert project.store.version_ids(stranger, "frames") == []


def test_the_command_lists_before_it_removes(ego: CommandLine) -> None:
    assert "nothing to remove" in ego("gc").out
    project = ego.project
    project.database.add_clip(Clip(clip_id=CLIP, source_name="a.mp4"))
    first = commit(project, "one")
    commit(project, "two")
    assert "nothing to remove" in ego("gc").out, "it was superseded a moment ago"
    listed = ego("gc", "--days", "0")
    assert listed.code == 0 and first in listed.out and "gc --apply" in listed.out
    assert first in project.store.version_ids(CLIP, "frames")
    removed = ego("gc", "--days", "0", "--apply", "--json")
    assert removed.code == 0 and removed.json["failed"] == []
    assert [waste["kind"] for waste in removed.json["found"]] == ["superseded version"]
    assert first not in project.store.version_ids(CLIP, "frames")
    assert [row.action for row in project.database.audit_log(action="gc")] == ["gc"]


def test_one_thing_that_cannot_be_removed_does_not_keep_the_others(
    ego: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = ego.project
    project.database.add_clip(Clip(clip_id=CLIP, source_name="a.mp4"))
    versions = [commit(project, text) for text in ("one", "two", "three")]
    from resources.storage import ArtifactStore

    remove: Callable[..., None] = ArtifactStore.remove_version

    def failing(store: ArtifactStore, clip_id: str, layer: str, version_id: str) -> None:
        if version_id == versions[0]:
            raise OSError(30, "Read-only file system")
        remove(store, clip_id, layer, version_id)

    monkeypatch.setattr(ArtifactStore, "remove_version", failing)
    outcome = ego("gc", "--days", "0", "--apply")
    assert outcome.code == 1 and "Read-only" in outcome.err
    assert sorted(project.store.version_ids(CLIP, "frames")) == sorted([versions[0], versions[2]])
