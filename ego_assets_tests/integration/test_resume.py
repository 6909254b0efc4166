"""A second run does nothing twice, and a kill at any instant leaves the previous version readable."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ego_assets.planning import LayerPlan
from ego_assets.project import Project
from ego_assets.settings import Settings
from ego_assets_tests.clips import write_clip

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    return Project(Settings(data_dir=tmp_path / "data", free_disk_reserve_bytes=0))


def run_pending(project: Project, clip_id: str) -> list[str]:
    [plan] = project.plans([project.database.clip(clip_id)])
    if plan.pending:
        assert project.run_clip(clip_id, plan.pending).success
    return plan.pending


def test_what_is_done_is_not_done_again(project: Project, tmp_path: Path) -> None:
    clip = project.ingest(tmp_path, write_clip(tmp_path / "clip.mp4"), {})
    assert run_pending(project, clip.clip_id) == [spec.name for spec in project.specs]
    assert run_pending(project, clip.clip_id) == []


def test_a_new_version_of_an_input_makes_what_depends_on_it_pending(project: Project, tmp_path: Path) -> None:
    clip = project.ingest(tmp_path, write_clip(tmp_path / "clip.mp4"), {})
    run_pending(project, clip.clip_id)
    project.settings = project.settings.model_copy(update={"frames_per_second": 5.0})
    del project.definitions
    assert project.run_clip(clip.clip_id, ["frames"]).success
    [plan] = project.plans([project.database.clip(clip.clip_id)])
    assert plan.pending == ["manifest", "clip_package"]
    assert plan.layers["blurred_video"] is LayerPlan.DONE


def test_a_version_that_was_not_judged_is_made_again(project: Project, tmp_path: Path) -> None:
    clip = project.ingest(tmp_path, write_clip(tmp_path / "clip.mp4"), {})
    run_pending(project, clip.clip_id)
    from sqlalchemy import text

    with project.database.engine.begin() as connection:
        connection.execute(text("UPDATE gate_results SET data_version = 'other' WHERE layer = 'frames'"))
    [plan] = project.plans([project.database.clip(clip.clip_id)])
    assert plan.pending == ["frames", "manifest", "clip_package"]


def test_held_clips_stop_before_enrichment_until_released(project: Project, tmp_path: Path) -> None:
    from ego_assets.synth import SceneSpec, render_clip

    project.settings = project.settings.model_copy(update={"hold_flagged": True})
    dark = SceneSpec(width=160, height=96, duration_s=0.4, brightness=0.1, blur_sigma_px=3.0)
    render_clip(dark, tmp_path / "dark.mp4")
    clip = project.ingest(tmp_path, tmp_path / "dark.mp4", {})
    [plan] = project.plans([clip])
    assert not project.run_clip(clip.clip_id, plan.pending).success
    row = project.database.clip(clip.clip_id)
    assert row.held and not row.failed and row.privacy_status.value == "blurred"
    assert project.store.document(clip.clip_id, "frames") is None
    [plan] = project.plans([row])
    assert plan.pending == [] and "held" in plan.reason
    project.release(clip.clip_id)
    pending = run_pending(project, clip.clip_id)
    assert pending == [spec.name for spec in project.specs if spec.stage >= 3]


@pytest.mark.parametrize("layer", ["clip_quality", "blurred_video", "frames", "clip_package"])
def test_kill_9_in_a_layer_leaves_the_previous_version_and_resumes(
    project: Project, tmp_path: Path, layer: str
) -> None:
    clip = project.ingest(tmp_path, write_clip(tmp_path / "clip.mp4", frames=40), {})
    run_pending(project, clip.clip_id)
    before = project.store.document(clip.clip_id, layer)
    marker = tmp_path / "inside"
    # The layer runs to the point where its files are staged and never returns.
    code = f"""
import sys, time, pathlib
sys.path.insert(0, {str(ROOT)!r})
from ego_assets.project import Project
from ego_assets.settings import Settings
from resources.storage import StagedLayer

def hang(self, **_):
    pathlib.Path({str(marker)!r}).touch()
    time.sleep(600)

StagedLayer.commit = hang
project = Project(Settings(data_dir={str(project.settings.root)!r}, free_disk_reserve_bytes=0, frames_per_second=3))
project.run_clip({clip.clip_id!r}, [{layer!r}])
"""
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not marker.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.stderr
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    assert project.store.document(clip.clip_id, layer) == before
    project.store.verify(before)
    folder = project.settings.root / "store" / clip.clip_id / layer
    assert {path.name for path in folder.iterdir()} == {"artifact.json", before.version_id}
    assert project.run_clip(clip.clip_id, [layer]).success
    assert run_pending(project, clip.clip_id) == []
