"""A fixed selection of faults of every kind; `benchmarks/faults.py` draws more of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ego_assets import cli
from ego_assets.commands import verify
from ego_assets_tests.faults.campaign import DAMAGES, KINDS, Kind
from ego_assets_tests.faults.harness import Ground, Outcome, in_child, signalled
from ego_assets_tests.faults.injection import DELIVERY, INTAKE, Fault
from ego_assets_tests.faults.invariants import wrong_in_delivery

#: Change it to see other faults.
SEED = int(os.environ.get("EGO_TEST_FAULTS_SEED", "5"))
#: How many of each kind; the slow ones, which start Dagster or a server, less often.
COUNTS = {"kill_command": 1, "store_outage": 1, "database_restart": 2, "damaged_file": 6}
USUAL_COUNT = 3

LAYERS = (
    INTAKE, "raw_clip", "clip_quality", "blurred_video", "frames", "hand_object", "depth_maps", "embeddings", "masks",
    "actions", "captions", "manifest", "clip_package", DELIVERY,
)  # fmt: skip


def expect_no_harm(outcome: Outcome) -> None:
    assert not outcome.problems, f"{outcome.kind}, {outcome.what}: {outcome.problems}"


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        pytest.param(kind, number, id=f"{kind.name}-{number}")
        for kind in KINDS
        for number in range(COUNTS.get(kind.name, USUAL_COUNT))
    ],
)
def test_a_fault_loses_nothing(ground_of: Callable[[str], Ground], kind: Kind, number: int) -> None:
    expect_no_harm(kind.draw(ground_of(kind.needs), seed=SEED, number=number))


@pytest.mark.parametrize("layer", LAYERS)
def test_kill_9_in_the_middle_of_every_asset(ground: Ground, layer: str) -> None:
    at = max(1, ground.counts["writes"][layer] // 2)
    outcome = ground.disturb(
        "kill", layer, in_child(Fault(layer=layer, at=at)), second_run=layer == "blurred_video"
    )
    assert outcome.injected
    expect_no_harm(outcome)


@pytest.mark.parametrize("layer", [layer for layer in LAYERS if layer not in (INTAKE, DELIVERY)])
def test_kill_9_between_publishing_and_recording_of_every_asset(ground: Ground, layer: str) -> None:
    """The version is there and nobody judged it: it counts as not made."""
    fault = in_child(Fault(layer=layer, at=ground.counts["all"][layer] - 2))
    unjudged: list[bool] = []

    def happen(ground: Ground) -> bool:
        happened = fault(ground)
        with ground.project() as project:
            clip = next(clip for clip in project.database.clips() if clip.source_name == "clip_1.mp4")
            published = project.store.document(clip.clip_id, layer) is not None
            unjudged.append(published and not project.database.gates(clip.clip_id, layer))
        return happened

    outcome = ground.disturb("kill before the commit", layer, happen)
    assert outcome.injected and unjudged == [True]
    expect_no_harm(outcome)


def test_every_way_of_damage_is_drawn() -> None:
    assert set(DAMAGES) == {"a flipped bit", "truncation", "zeros", "removal"}


def test_a_full_disk_is_nobodys_fault(ground: Ground) -> None:
    """The next run goes on by itself: nobody has to say --retry-failed."""
    fault = in_child(Fault(action="error", layer="clip_quality", at=1, count=0))
    outcome = ground.disturb("disk full", "clip_quality", fault)
    assert outcome.injected and not outcome.retried
    expect_no_harm(outcome)


def test_ctrl_c_ends_at_once_and_leaves_no_staging_folder(ground: Ground) -> None:
    outcome = ground.disturb("Ctrl-C", "early", signalled(signal.SIGINT, ground.seconds / 3), second_run=True)
    expect_no_harm(outcome)


def test_the_harness_sees_a_half_written_artifact(ground: Ground) -> None:
    """It would be worth nothing if it could not fail."""

    def spoil(ground: Ground) -> bool:
        ground.work()
        with ground.project() as project:
            document = next(project.store.documents())
            path = ground.data / "store" / document.clip_id / document.layer / document.version_id
            target = path / document.files[0].name
            target.write_bytes(target.read_bytes()[:-1])
        return True

    outcome = ground.disturb("spoiled", "a file of the store", spoil)
    assert any("is damaged" in text for text in outcome.half_written)
    assert outcome.findings.half_written


def test_the_harness_sees_a_lost_upload_and_a_changed_original(ground: Ground) -> None:
    def lose(ground: Ground) -> bool:
        (ground.data / "uploads" / "clip_0.mp4").unlink()
        other = ground.data / "uploads" / "clip_1.mp4"
        other.write_bytes(other.read_bytes() + b"\0")
        return True

    findings = ground.disturb("lost", "an upload", lose).findings
    assert any("clip_0.mp4 is neither" in text for text in findings.lost)
    assert any("clip_1.mp4" in text for text in findings.originals_changed)


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_package_is_left_out_of_the_delivery_and_made_again(ground: Ground) -> None:
    def happen(ground: Ground) -> bool:
        with ground.project() as project:
            clips = {clip.source_name: clip.clip_id for clip in project.database.clips()}
            package = project.store.document(clips["clip_1.mp4"], "clip_package")
            assert package is not None
            spoil(Path(project.store.uri(package)) / f"{package.clip_id}.tar.gz")
        shutil.rmtree(ground.data / "deliveries")
        ground.work()
        [delivery] = (ground.data / "deliveries" / "dataset").glob("v*")
        assert wrong_in_delivery(delivery) == []
        assert not (delivery / f"{package.clip_id}.tar.gz").exists()
        return True

    outcome = ground.disturb("damaged package", "delivery", happen, state="complete", corrupts=True)
    expect_no_harm(outcome)


def test_verify_names_what_is_damaged_and_repairs_it(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(ground.data / "dagster_home"))
    ground.start_from("complete")
    runner = CliRunner()
    with ground.project() as project:
        monkeypatch.setattr(verify, "open_project", lambda: project)
        assert runner.invoke(cli.app, ["verify", "--originals"]).exit_code == 0
        document = next(found for found in project.store.documents() if found.layer == "masks")
        spoil(Path(project.store.uri(document)) / "masks.tar")
        delivery = next((ground.data / "deliveries" / "dataset").glob("v*"))
        spoil(next(delivery.glob("*.tar.gz")))
        told = runner.invoke(cli.app, ["verify", "--json"])
        assert told.exit_code == 1
        damaged = json.loads(told.stdout)["damaged"]
        assert [(entry["kind"], entry["made_again"]) for entry in damaged] == [
            ("layer", True),
            ("delivery", False),
        ]
        assert "masks.tar" in damaged[0]["message"] and damaged[0]["clip_id"] == document.clip_id
        [plan] = project.plans([project.database.clip(document.clip_id)])
        assert plan.pending == ["masks"]
        runner.invoke(cli.app, ["verify", "--repair", "--clip", document.clip_id])
        assert runner.invoke(cli.app, ["verify", "--clip", document.clip_id]).exit_code == 0
        project.store.verify(document)
