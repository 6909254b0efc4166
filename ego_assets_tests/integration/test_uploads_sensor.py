"""The uploads sensor against a real instance: what it launches, what it leaves alone, what it rejects."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance, SensorEvaluationContext
from dagster._core.definitions.sensor_definition import SensorExecutionData

from ego_assets.definitions import build_definitions
from ego_assets.partitions import clip_partitions
from ego_assets.schema.vocabulary import VaultPurpose
from ego_assets.settings import Settings
from resources.intake import Intake
from resources.platform import build_resources

LONG_AGO_S = 3600.0


@dataclass
class Folder:
    """The watched folder with its sensor; ticks are evaluated as the daemon does it."""

    settings: Settings
    instance: DagsterInstance
    cursor: str | None = None

    @property
    def database(self) -> Any:
        return build_resources(self.settings)["database"].get()

    @property
    def intake(self) -> Intake:
        intake: Intake = build_resources(self.settings)["vault"].intake()
        return intake

    def drop(self, name: str, content: bytes = b"pictures", *, age_s: float = LONG_AGO_S) -> Path:
        """A file whose last change lies in the past."""
        path = self.settings.uploads / "raw" / "c042" / "2026-05-14" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.age(path, age_s)
        return path

    def age(self, path: Path, age_s: float) -> None:
        changed = time.time() - age_s
        os.utime(path, (changed, changed))

    def tick(self, *, arrives: bool = True) -> SensorExecutionData:
        """One tick; without ``arrives`` the daemon dies before it has done what the sensor asks for."""
        repository = build_definitions(self.settings).get_repository_def()
        resources = repository.get_top_level_resources()
        # `build_sensor_context` leaves out the reference by which a tick finds the partitions it adds.
        with SensorEvaluationContext(
            instance_ref=self.instance.get_ref(),
            instance=self.instance,
            last_tick_completion_time=None,
            last_run_key=None,
            cursor=self.cursor,
            repository_name=repository.name,
            repository_def=repository,
            resources={key: resources[key] for key in ("settings", "database", "vault")},
        ) as context:
            result = repository.get_sensor_def("uploads_sensor").evaluate_tick(context)
        if arrives:
            self.cursor = result.cursor
            for request in result.dynamic_partitions_requests or []:
                name = request.partitions_def_name
                self.instance.add_dynamic_partitions(name, list(request.partition_keys))
        return result

    def ticks_until_accepted(self) -> list[str]:
        """Clips that two looks at the folder accept."""
        self.tick()
        return clip_ids(self.tick())

    def original(self, clip_id: str) -> bytes:
        """What the vault holds of a clip."""
        vault = build_resources(self.settings)["vault"].get()
        with vault.open(clip_id, purpose=VaultPurpose.INGEST, actor="test") as original:
            content: bytes = original.read()
        return content

    def kept(self) -> dict[str, bytes]:
        """Content by name of what was rejected and kept."""
        vault = build_resources(self.settings)["vault"].get()
        found = {}
        for path in (self.settings.vault / "rejected").rglob("*.mp4"):
            key = path.relative_to(self.settings.vault).as_posix()
            with vault.open_rejected(key, purpose=VaultPurpose.INGEST, actor="test") as upload:
                found[path.name] = upload.read()
        return found

    def rejected(self) -> dict[str, str]:
        """Message by name of the rejected file."""
        folder = self.settings.vault / "rejected"
        reasons = folder.rglob("*.reason.json") if folder.exists() else []
        return {
            path.name.removesuffix(".reason.json"): json.loads(path.read_text())["reason"] for path in reasons
        }


def clip_ids(result: SensorExecutionData) -> list[str]:
    """Clips whose runs are asked for; each request must be complete."""
    found = []
    for request in result.run_requests or []:
        assert request.run_key == request.partition_key is not None
        assert request.tags["ego_assets/clip"] == request.partition_key
        found.append(request.partition_key)
    added = [key for change in result.dynamic_partitions_requests or [] for key in change.partition_keys]
    assert added == found, "a run without its partition could not start"
    return found


def skip_message(result: SensorExecutionData) -> str:
    assert result.skip_message is not None
    return result.skip_message


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterInstance]:
    """An instance on disk: partitions of one in memory are not seen by a tick."""
    with DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster"))) as instance:
        yield instance


@pytest.fixture
def make_folder(tmp_path: Path, instance: DagsterInstance) -> Callable[..., Folder]:
    return lambda **options: Folder(Settings(data_dir=tmp_path / "data", **options), instance)


@pytest.fixture
def folder(make_folder: Callable[..., Folder]) -> Folder:
    return make_folder()


def test_an_upload_is_accepted_at_the_second_look(folder: Folder) -> None:
    assert "0 upload(s)" in skip_message(folder.tick())
    path = folder.drop("clip.mp4")
    first = folder.tick()
    assert clip_ids(first) == [] and "1 upload(s) still growing or waiting" in skip_message(first)
    assert folder.database.clips() == []
    second = folder.tick()
    [clip_id] = clip_ids(second)
    [clip] = folder.database.clips()
    assert (clip.clip_id, clip.source_name, clip.upload_uri) == (clip_id, "clip.mp4", path.as_uri())
    assert (clip.collector_id, str(clip.recording_date)) == ("c042", "2026-05-14")
    assert (second.run_requests or [])[0].tags["ego_assets/collector"] == "c042"
    assert path.exists(), "the run takes the file, not the sensor"


def test_sidecars_and_unfinished_files_are_no_uploads(folder: Folder) -> None:
    folder.drop("clip.mp4")
    folder.drop("clip.json", json.dumps({"activity": "cooking", "collector_id": "c007"}).encode())
    folder.drop("other.mp4.part")
    folder.drop(".hidden.mp4")
    assert len(folder.ticks_until_accepted()) == 1
    [clip] = folder.database.clips()
    assert (clip.activity_category, clip.collector_id) == ("cooking", "c007")
    assert folder.rejected() == {}


def test_a_tick_takes_on_no_more_than_the_cap(make_folder: Callable[..., Folder]) -> None:
    folder = make_folder(uploads_per_tick=2)
    for number in range(5):
        folder.drop(f"clip{number}.mp4", bytes([number]))
    taken = [clip_ids(folder.tick()) for _ in range(5)]
    assert [len(ids) for ids in taken] == [0, 2, 2, 1, 0]
    names = {clip.clip_id: clip.source_name for clip in folder.database.clips()}
    assert [names[clip_id] for ids in taken for clip_id in ids] == [f"clip{n}.mp4" for n in range(5)]


def test_a_file_that_grows_is_left_alone(folder: Folder) -> None:
    path = folder.drop("clip.mp4", b"1", age_s=100)
    for size in range(2, 5):
        assert clip_ids(folder.tick()) == []
        path.write_bytes(b"1" * size)
        folder.age(path, 100 - size)
    assert folder.ticks_until_accepted() != []
    assert path.stat().st_size == 4 and folder.rejected() == {}


def test_a_file_that_was_just_written_is_left_alone(make_folder: Callable[..., Folder]) -> None:
    folder = make_folder(upload_quiet_s=600)
    path = folder.drop("clip.mp4", age_s=30)
    assert folder.ticks_until_accepted() == []
    folder.age(path, 700)
    assert len(folder.ticks_until_accepted()) == 1


def test_what_cannot_be_accepted_is_moved_with_its_reason(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "outside.mp4").write_bytes(b"not yours")
    names = {"empty.mp4": b"", "notes.txt": b"text", "bad.mp4": b"video"}
    for name, content in names.items():
        folder.drop(name, content)
    folder.drop("bad.json", b'{"location_type": "moon"}')
    (folder.settings.uploads / "link.mp4").symlink_to(tmp_path / "outside.mp4")
    good = folder.drop("good.mp4")
    assert len(folder.ticks_until_accepted()) == 1
    reasons = folder.rejected()
    assert set(reasons) == {*names, "link.mp4"}
    assert "0 bytes" in reasons["empty.mp4"] and "no video" in reasons["notes.txt"]
    assert "location_type is 'moon'" in reasons["bad.mp4"] and "link" in reasons["link.mp4"]
    left = {path.name for path in folder.settings.uploads.rglob("*") if not path.is_dir()}
    assert left == {good.name}
    kept = folder.kept()
    assert kept["bad.mp4"] == b"video" and "link.mp4" not in kept
    assert (tmp_path / "outside.mp4").read_bytes() == b"not yours"
    folder.tick()
    assert folder.rejected() == reasons, "once"


@pytest.mark.parametrize(
    "cursor",
    [None, "", "not json", "[]", "3", '{"a.mp4": 3}', '{"a.mp4": {"size": 1}}', '{"a.mp4": {"x": 1}}'],
)
def test_a_cursor_that_is_not_ours_costs_one_tick(folder: Folder, cursor: str | None) -> None:
    folder.drop("a.mp4")
    folder.cursor = cursor
    assert clip_ids(folder.tick()) == []
    assert json.loads(folder.cursor or "").keys() == {"raw/c042/2026-05-14/a.mp4"}
    assert len(clip_ids(folder.tick())) == 1


def test_a_clip_that_waits_for_its_run_is_not_requested_again(folder: Folder) -> None:
    folder.drop("clip.mp4")
    assert len(folder.ticks_until_accepted()) == 1
    assert [clip_ids(folder.tick()) for _ in range(3)] == [[], [], []]


def test_a_request_that_got_lost_is_repeated_under_the_same_key(folder: Folder) -> None:
    folder.drop("clip.mp4")
    folder.tick()
    lost = clip_ids(folder.tick(arrives=False))
    assert len(lost) == 1
    assert clip_ids(folder.tick()) == lost
    assert len(folder.database.clips()) == 1


def test_the_same_name_again_is_another_clip_once_the_first_was_taken(folder: Folder) -> None:
    path = folder.drop("GX010001.MP4", b"first card")
    [first] = folder.ticks_until_accepted()
    folder.intake.take(first, path, move=True, actor="test")
    folder.drop("GX010001.MP4", b"second card", age_s=LONG_AGO_S / 2)
    [second] = folder.ticks_until_accepted()
    assert second != first
    folder.intake.take(second, path, move=True, actor="test")
    digests = {clip.clip_id: clip.raw_sha256 for clip in folder.database.clips()}
    assert len(set(digests.values())) == 2 and digests.keys() == {first, second}


def test_the_very_file_again_is_cleared_away(folder: Folder) -> None:
    name = f"{uuid.uuid4()}.mp4"
    path = folder.drop(name)
    [clip_id] = folder.ticks_until_accepted()
    assert clip_id == path.stem
    folder.intake.take(clip_id, path, move=True, actor="test")
    folder.drop(name)
    assert folder.ticks_until_accepted() == [] and not path.exists()
    assert folder.rejected() == {}
    [clip] = folder.database.clips()
    assert folder.original(clip.clip_id) == b"pictures"


def test_other_content_under_a_used_id_is_rejected(folder: Folder) -> None:
    name = f"{uuid.uuid4()}.mp4"
    path = folder.drop(name)
    [clip_id] = folder.ticks_until_accepted()
    folder.intake.take(clip_id, path, move=True, actor="test")
    folder.drop(name, b"other pictures")
    assert folder.ticks_until_accepted() == []
    assert "never reused" in folder.rejected()[name] and not path.exists()
    assert folder.original(clip_id) == b"pictures"


def test_the_partitions_are_those_of_the_assets(folder: Folder) -> None:
    name = clip_partitions.name or ""
    before = set(folder.instance.get_dynamic_partitions(name))
    folder.drop("clip.mp4")
    accepted = folder.ticks_until_accepted()
    assert set(folder.instance.get_dynamic_partitions(name)) - before == set(accepted) != set()
