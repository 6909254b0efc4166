"""What becomes of a clip whose finished video leaks, and how orders of people change a rendering."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ego_assets.assets.blurred_video import plates_expected
from ego_assets.privacy.leaks import Leak
from ego_assets.project import Project
from ego_assets.schema.clip import Clip
from ego_assets.schema.corrections import Correction
from ego_assets.schema.vocabulary import LocationType, PrivacyStatus, ReviewKind
from ego_assets.settings import Settings
from ego_assets_tests.clips import write_clip

FRAMES = 12


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    return Project(Settings(data_dir=tmp_path / "data", free_disk_reserve_bytes=0, plates="never"))


@pytest.fixture
def clip_id(project: Project, tmp_path: Path) -> str:
    path = write_clip(tmp_path / "clip.mp4", frames=FRAMES, rate=6)
    return project.ingest(tmp_path, path, {}).clip_id


def run(project: Project, clip_id: str, *, retry_failed: bool = False) -> bool:
    (plan,) = project.plans([project.database.clip(clip_id)], retry_failed=retry_failed)
    layers = [name for name in plan.pending if name in ("raw_clip", "clip_quality", "blurred_video")]
    return bool(layers) and project.run_clip(clip_id, layers).success


def report_of(project: Project, clip_id: str) -> dict[str, Any]:
    document = project.store.document(clip_id, "blurred_video")
    assert document is not None
    report: dict[str, Any] = json.loads(project.store.read_bytes(document, "pii_report.json"))
    return report


def test_a_leak_that_remains_stops_the_clip_until_it_is_tried_again(
    project: Project, clip_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leak = Leak(kind="faces", frame_index=5, box_xyxy=(20.0, 10.0, 60.0, 50.0), score=0.9)

    def leaking(*_: object, **__: object) -> Sequence[Leak]:
        return [leak]

    with monkeypatch.context() as patched:
        patched.setattr("ego_assets.privacy.deidentify.find_leaks", leaking)
        assert not run(project, clip_id)
    assert project.store.document(clip_id, "blurred_video") is None
    clip = project.database.clip(clip_id)
    assert clip.failed and clip.privacy_status is PrivacyStatus.PENDING
    found = {item.kind: item for item in project.database.review_items("open", clip_id)}
    assert found[ReviewKind.PII_LEAK].details["leaks"][0]["frame_index"] == 5
    assert not run(project, clip_id), "it waits for somebody to look"

    assert run(project, clip_id, retry_failed=True)
    report = report_of(project, clip_id)
    assert report["corrections"] == {"faces": 1}
    assert report["redacted_share"] > 0
    assert project.database.clip(clip_id).privacy_status is PrivacyStatus.BLURRED


@pytest.mark.parametrize("box", [(20.0, 10.0, 60.0, 50.0), None])
def test_an_order_makes_the_layer_pending_and_is_covered(
    project: Project, clip_id: str, box: tuple[float, float, float, float] | None
) -> None:
    assert run(project, clip_id)
    assert not run(project, clip_id), "nothing is pending"
    before = report_of(project, clip_id)
    project.services.corrections.add(
        Correction(
            clip_id=clip_id, kind="other", first_frame=4, last_frame=5, box_xyxy=box, origin="review:1"
        )
    )
    assert run(project, clip_id)
    after = report_of(project, clip_id)
    assert after["corrections"] == {"other": 1} and before["corrections"] == {}
    # Where nobody could say where it is, the two frames are covered whole.
    whole = 2 / FRAMES
    gained = after["redacted_share"] - before["redacted_share"]
    assert gained > 0.9 * whole * (1 - before["redacted_share"]) if box is None else 0 < gained < whole
    assert not run(project, clip_id), "the order is carried out"


def test_an_order_for_a_plate_looks_for_plates_whatever_the_settings_say(
    project: Project, clip_id: str
) -> None:
    assert run(project, clip_id)
    assert "plates" not in report_of(project, clip_id)["kinds"]
    project.services.corrections.add(
        Correction(
            clip_id=clip_id, kind="plates", first_frame=4, last_frame=5, box_xyxy=(20.0, 10.0, 60.0, 50.0)
        )
    )
    assert run(project, clip_id)
    assert "plates" in report_of(project, clip_id)["kinds"]


@pytest.mark.parametrize(
    ("location", "activity", "setting", "expected"),
    [
        (LocationType.KITCHEN, "cooking", "auto", False),
        (LocationType.KITCHEN, "cooking", "always", True),
        (LocationType.WORKSHOP, "Car repair", "auto", True),
        (LocationType.OFFICE, "carpentry", "auto", False),
        (LocationType.OUTDOOR, "", "auto", True),
        (LocationType.OTHER, "", "auto", True),
        (LocationType.OUTDOOR, "parking", "never", False),
    ],
)
def test_plates_are_looked_for_where_vehicles_may_be(
    location: LocationType, activity: str, setting: Any, expected: bool
) -> None:
    clip = Clip(clip_id="0" * 8, source_name="clip.mp4", location_type=location, activity_category=activity)
    assert plates_expected(clip, setting) is expected
