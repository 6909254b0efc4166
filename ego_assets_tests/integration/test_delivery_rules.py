"""What may be delivered, and what a delivery survives."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ego_assets.delivery import dataset
from ego_assets.project import Project
from ego_assets.reviewing import MissedRegion, record_review
from ego_assets.schema.corrections import Correction
from ego_assets.schema.vocabulary import ReviewKind, ReviewRisk
from ego_assets.settings import Settings
from ego_assets_tests.clips import write_clip
from resources.corrections import CorrectionLog


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    return Project(Settings(data_dir=tmp_path / "data", free_disk_reserve_bytes=0))


def processed(project: Project, path: Path, *, seed: int = 0) -> str:
    clip = project.ingest(path.parent, write_clip(path, seed=seed, frames=6, rate=6), {})
    assert project.run_clip(clip.clip_id, [spec.name for spec in project.specs]).success
    return clip.clip_id


def newest_delivery(project: Project) -> Path:
    return Path(project.database.deliveries()[-1].uri)


def delivered_clips(project: Project) -> set[str]:
    assert project.run_collection() == ""
    delivery = project.database.deliveries()[-1]
    return {clip.clip_id for clip in project.database.delivery_clips(delivery.id)}


def refuse_privacy(project: Project, clip_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the privacy layer again with a gate that fails."""
    from ego_assets.assets import blurred_video
    from ego_assets.gates.blurred_video import GATES

    def failing(**_: object) -> list[object]:
        return [GATES[0].failed("A face is left."), *(gate.passed("Fine.") for gate in GATES[1:])]

    with monkeypatch.context() as patched:
        patched.setattr(blurred_video, "judge_privacy", failing)
        assert not project.run_clip(clip_id, ["blurred_video"]).success


def test_a_clip_whose_privacy_gate_failed_stays_out_whatever_passes_later(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip_id = processed(project, tmp_path / "clip.mp4")
    assert delivered_clips(project) == {clip_id}
    before = project.store.document(clip_id, "blurred_video")
    refuse_privacy(project, clip_id, monkeypatch)
    assert project.store.document(clip_id, "blurred_video") == before, "what failed was not published"
    assert delivered_clips(project) == set()

    assert project.run_clip(clip_id, ["clip_quality"]).success
    for item in project.database.review_items("open", clip_id):
        project.database.resolve_review_item(item.id, resolution="looked at", actor="test")
    assert project.database.clip(clip_id).failed
    assert delivered_clips(project) == set()
    assert "A face is left." in project.left_out_of_delivery()[clip_id]


def while_written(monkeypatch: pytest.MonkeyPatch, *acts: Callable[[], object]) -> None:
    """Let others act each time a version was written, before it is recorded."""
    write, left = dataset.write_delivery, list(acts)

    def interrupted(*arguments: Any, **options: Any) -> Any:
        written = write(*arguments, **options)
        if left:
            left.pop(0)()
        return written

    monkeypatch.setattr(dataset, "write_delivery", interrupted)


def test_what_is_found_while_a_delivery_is_written_is_not_delivered(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = processed(project, tmp_path / "a.mp4", seed=1)
    intact = processed(project, tmp_path / "b.mp4", seed=2)
    [audit] = [
        item for item in project.database.review_items("open", found) if item.kind is ReviewKind.RANDOM_AUDIT
    ]
    miss = MissedRegion(kind="faces", first_frame=0, last_frame=1, box_xyxy=(1, 2, 30, 40))

    def record() -> None:
        recorded = record_review(
            audit.id, database=project.database, store=project.store, reviewer="ann", missed=[miss]
        )
        assert recorded.corrections and not recorded.incident_commands

    while_written(monkeypatch, record)
    assert delivered_clips(project) == {intact}
    versions = project.settings.deliveries / "dataset"
    assert [path.name for path in sorted(versions.glob("v*"))] == ["v0002"]
    [delivery] = project.database.deliveries()
    assert delivery.version == "v0002" and "a review is open" in delivery.definition["left_out"][found]
    assert list(versions.rglob(f"*{found}*")) == []
    assert project.delivery_is_current()


def test_an_order_alone_keeps_a_clip_out_of_what_is_being_written(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip_id = processed(project, tmp_path / "a.mp4")
    order = Correction(clip_id=clip_id, kind="faces", first_frame=0, last_frame=1)
    while_written(monkeypatch, lambda: CorrectionLog(project.database).add(order))
    assert delivered_clips(project) == set()
    assert "not covered yet" in project.left_out_of_delivery()[clip_id]


def test_a_rendering_that_was_replaced_meanwhile_is_not_delivered(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip_id = processed(project, tmp_path / "a.mp4")
    before = project.store.document(clip_id, "blurred_video")
    assert before is not None
    order = Correction(clip_id=clip_id, kind="faces", first_frame=0, last_frame=1, box_xyxy=(1, 2, 30, 40))

    def render_anew() -> None:
        CorrectionLog(project.database).add(order)
        assert project.run_clip(clip_id, ["blurred_video"]).success

    while_written(monkeypatch, render_anew)
    assert delivered_clips(project) == set()
    assert "blurred_video has changed" in project.left_out_of_delivery()[clip_id]


def test_a_delivery_whose_clips_never_rest_is_left_to_the_next_run(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = processed(project, tmp_path / "first.mp4", seed=1)
    assert delivered_clips(project) == {first}
    second = processed(project, tmp_path / "second.mp4", seed=2)

    assembling = importlib.import_module("ego_assets.assembling")
    monkeypatch.setattr(assembling, "changed_since", lambda *_: {second: "it moves"})
    assert "it moves" in project.run_collection()
    assert [delivery.version for delivery in project.database.deliveries()] == ["v0001"]
    versions = project.settings.deliveries / "dataset"
    assert [path.name for path in versions.glob("v*")] == ["v0001"], "what is recorded stays"


def test_an_open_review_of_high_risk_holds_a_clip_back(project: Project, tmp_path: Path) -> None:
    clip_id = processed(project, tmp_path / "clip.mp4")
    number = project.database.add_review_item(
        clip_id,
        layer="blurred_video",
        kind=ReviewKind.PII_DENSITY,
        risk=ReviewRisk.HIGH,
        reason="Many faces.",
    )
    assert delivered_clips(project) == set()
    project.database.resolve_review_item(number, resolution="all blurred", actor="test")
    assert delivered_clips(project) == {clip_id}


def test_a_package_older_than_its_layers_is_not_delivered(project: Project, tmp_path: Path) -> None:
    clip_id = processed(project, tmp_path / "clip.mp4")
    project.settings = project.settings.model_copy(update={"frames_per_second": 2.0})
    del project.definitions
    assert project.run_clip(clip_id, ["frames"]).success
    assert delivered_clips(project) == set()
    assert "frames has changed" in project.left_out_of_delivery()[clip_id]
    assert project.run_clip(clip_id, ["manifest", "clip_package"]).success
    assert delivered_clips(project) == {clip_id}


def test_a_lost_delivery_folder_is_written_again_as_a_new_version(project: Project, tmp_path: Path) -> None:
    clip_id = processed(project, tmp_path / "clip.mp4")
    assert delivered_clips(project) == {clip_id}
    assert project.delivery_is_current()
    shutil.rmtree(project.settings.deliveries)
    assert not project.delivery_is_current()
    assert delivered_clips(project) == {clip_id}
    assert newest_delivery(project).name == "v0002"
    assert (newest_delivery(project) / clip_id / "metadata.json").exists()


def test_a_new_version_links_what_has_not_changed(project: Project, tmp_path: Path) -> None:
    first = processed(project, tmp_path / "a.mp4", seed=1)
    delivered_clips(project)
    second = processed(project, tmp_path / "b.mp4", seed=2)
    assert delivered_clips(project) == {first, second}
    versions = project.settings.deliveries / "dataset"
    for name in (f"{first}.tar.gz", f"{first}/metadata.json"):
        assert (versions / "v0001" / name).samefile(versions / "v0002" / name)
    manifest = json.loads((versions / "v0002" / "delivery.json").read_text())
    assert set(manifest["packages"]) == {first, second}


def test_a_damaged_document_costs_its_own_layer_only(project: Project, tmp_path: Path) -> None:
    damaged = processed(project, tmp_path / "a.mp4", seed=1)
    intact = processed(project, tmp_path / "b.mp4", seed=2)
    pointer = project.settings.root / "store" / damaged / "frames" / "artifact.json"
    pointer.write_text("{")
    assert delivered_clips(project) == {intact}
    assert project.reindex() == 2 * len(project.specs) - 1
    plans = {plan.clip_id: plan.pending for plan in project.plans()}
    assert plans[intact] == []
    assert plans[damaged][0] == "frames"
    assert project.run_clip(damaged, plans[damaged]).success
    assert delivered_clips(project) == {intact, damaged}
