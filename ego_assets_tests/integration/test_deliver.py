"""Deliveries that somebody asks for by name, their corrections, and the commands around them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ego_assets.assembling import DeliveryMaker
from ego_assets.delivery.corrections import CORRECTIONS, read_corrections
from ego_assets.delivery.definition import FORMATS, DeliveryDefinition, SplitShares
from ego_assets.execution import LayerState
from ego_assets.incidents import IncidentReport, incident_desk
from ego_assets.project import Project
from ego_assets.schema.vocabulary import ReviewKind, ReviewRisk
from ego_assets.settings import Settings
from ego_assets_tests.clips import write_clip
from ego_assets_tests.integration.test_command_line import CommandLine, command_line

ALL = DeliveryDefinition(name="all-v1", formats=tuple(FORMATS))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    return Project(Settings(data_dir=tmp_path / "data", free_disk_reserve_bytes=0))


def processed(project: Project, path: Path, *, seed: int = 0, **given: Any) -> str:
    clip = project.ingest(path.parent, write_clip(path, seed=seed, frames=6, rate=6), given)
    assert project.run_clip(clip.clip_id, [spec.name for spec in project.specs]).success
    return clip.clip_id


def clips_of(project: Project, name: str) -> set[str]:
    newest = project.deliveries.versions(name)[-1]
    return {clip.clip_id for clip in project.database.delivery_clips(newest.id)}


def corrections(project: Project, name: str) -> list[tuple[str, str, str]]:
    listed = read_corrections(project.deliveries.root(name) / CORRECTIONS)
    return [(entry.clip_id, entry.action, entry.version) for entry in listed]


def open_item(project: Project, clip_id: str, kind: ReviewKind, risk: ReviewRisk) -> int:
    return int(
        project.database.add_review_item(
            clip_id, layer="blurred_video", kind=kind, risk=risk, reason="look", details={}
        )
    )


def test_the_one_rule_of_open_reviews(project: Project, tmp_path: Path) -> None:
    clip_id = processed(project, tmp_path / "a.mp4")
    reviewed = DeliveryDefinition(name="x")
    unreviewed = DeliveryDefinition(name="x", include_unreviewed=True)
    assert not project.deliveries.select(reviewed).omitted, (
        "the random sample of every clip holds nothing back"
    )
    open_item(project, clip_id, ReviewKind.GATE_FAILED, ReviewRisk.NORMAL)
    assert not project.deliveries.select(reviewed).omitted, "it is not about privacy"
    open_item(project, clip_id, ReviewKind.PII_LOW_CONFIDENCE, ReviewRisk.NORMAL)
    assert "a review is open" in project.deliveries.select(reviewed).left_out[clip_id]
    assert not project.deliveries.select(unreviewed).omitted
    open_item(project, clip_id, ReviewKind.PII_LEAK, ReviewRisk.HIGH)
    assert clip_id in project.deliveries.select(unreviewed).omitted


def test_the_default_delivery_takes_clips_with_single_doubtful_sightings(
    project: Project, tmp_path: Path
) -> None:
    clip_id = processed(project, tmp_path / "a.mp4")
    open_item(project, clip_id, ReviewKind.PII_LOW_CONFIDENCE, ReviewRisk.NORMAL)
    assert project.run_collection() == ""
    assert clips_of(project, "dataset") == {clip_id}
    open_item(project, clip_id, ReviewKind.PII_LOW_CONFIDENCE, ReviewRisk.HIGH)
    assert project.run_collection() == ""
    assert clips_of(project, "dataset") == set()


def test_an_incident_corrects_every_delivery_with_the_next_run(project: Project, tmp_path: Path) -> None:
    leaking = processed(project, tmp_path / "a.mp4", seed=1)
    intact = processed(project, tmp_path / "b.mp4", seed=2)
    assert project.run_collection() == ""
    made = project.deliveries.make(ALL)
    assert clips_of(project, "all-v1") == {leaking, intact}

    report = IncidentReport(clip_id=leaking, kind="faces", first_frame=0, last_frame=1)
    incident_desk(project).open(report, actor="test")
    for name in ("dataset", "all-v1"):
        assert corrections(project, name) == [(leaking, "withdrawn", "v0002")], "consumers hear of it at once"
    assert not list(made.written.folder.rglob(f"{leaking}*")) and not list(
        made.written.folder.glob("*/*.tar")
    )
    assert "all-v1" in project.deliveries.outdated() and not project.delivery_is_current()

    later = processed(project, tmp_path / "c.mp4", seed=3)
    assert project.run_collection() == ""
    assert clips_of(project, "all-v1") == {intact}, "a corrected version has no new clips"
    assert clips_of(project, "dataset") == {intact, later}
    assert project.delivery_is_current()
    newest = Path(project.deliveries.versions("all-v1")[-1].uri)
    assert newest.name == "v0002" and len(list(newest.glob("webdataset/*.tar"))) == 1

    assert project.run_clip(
        leaking, incident_desk(project).layers_to_run(incident_desk(project).log.incident(1))
    ).success
    incident_desk(project).resolve(1, note="looked at", actor="test")
    assert project.run_collection() == ""
    assert clips_of(project, "all-v1") == {intact, leaking}
    assert (leaking, "replaced", "v0003") in corrections(project, "all-v1")


def test_a_damaged_layer_is_named_left_out_and_comes_back(project: Project, tmp_path: Path) -> None:
    damaged = processed(project, tmp_path / "a.mp4", seed=1)
    intact = processed(project, tmp_path / "b.mp4", seed=2)
    document = project.store.document(damaged, "frames")
    assert document is not None
    path = Path(project.store.uri(document)) / document.files[0].name
    content = bytearray(path.read_bytes())
    content[-700] ^= 1
    path.write_bytes(content)
    streamed = DeliveryDefinition(name="shards", formats=("webdataset",))
    made = project.deliveries.make(streamed)
    assert clips_of(project, "shards") == {intact}
    record = json.loads((made.written.folder / "delivery.json").read_text())
    assert record["incomplete"] and record["damaged"] == {damaged: ["frames"]}
    states = {state.layer: state.state for state in project.database.layer_states(damaged)}
    assert states["frames"] == LayerState.DAMAGED
    plan = project.plans([project.database.clip(damaged)])[0]
    assert project.run_clip(damaged, plan.pending).success
    assert not json.loads((project.deliveries.make(streamed).written.folder / "delivery.json").read_text())[
        "incomplete"
    ]
    assert clips_of(project, "shards") == {intact, damaged}


def test_nobody_changes_the_split_in_a_later_version(project: Project, tmp_path: Path) -> None:
    for number, collector in enumerate(("ann", "bob", "cleo")):
        processed(project, tmp_path / f"{collector}.mp4", seed=number, collector_id=collector)
    asked = DeliveryDefinition(name="split", formats=("egovid",), split=SplitShares.parse("0.5/0.25/0.25"))

    def splits(maker: DeliveryMaker) -> dict[str, str]:
        chosen = maker.make(asked).selection.clips
        recorded = maker.versions("split")[-1].definition["splits"]
        return {one.clip.collector_id: recorded[one.clip.collector_id] for one in chosen}

    first = splits(project.deliveries)
    assert set(first.values()) == {"train", "validation", "test"}
    gone = project.database.clips(collector_id="ann")[0].clip_id
    project.database.update_clip(gone, withdrawn=True, withdrawn_reason="asked for it")
    assert splits(project.deliveries) == {name: first[name] for name in ("bob", "cleo")}
    project.database.update_clip(gone, withdrawn=False, withdrawn_reason="")
    assert splits(project.deliveries) == first, "also after a version without them"


# --- commands -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ego(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """A project of two processed clips."""
    folder = tmp_path_factory.mktemp("own")
    for number, activity in enumerate(("cooking", "cleaning")):
        path = write_clip(folder / f"clip{number}.mp4", seed=number, frames=6, rate=6)
        path.with_suffix(".json").write_text(json.dumps({"activity": activity}))
    with command_line(tmp_path_factory.mktemp("deliver") / "data") as command:
        assert command("demo", "--clips", folder, "--json").code == 0
        yield command


def test_a_dry_run_writes_nothing_and_says_what_would_be_in_it(ego: CommandLine) -> None:
    asked = (
        "--name",
        "dry",
        "--where",
        "activity == 'cooking'",
        "--formats",
        "folder,hf,hdf5",
        "--split",
        "0.9/0.1",
    )
    outcome = ego("deliver", *asked, "--dry-run", "--json")
    assert outcome.code == 0 and len(outcome.json["clips"]) == 1
    assert set(outcome.json["bytes"]) == {"folder", "hf", "hdf5"} and min(outcome.json["bytes"].values()) > 0
    assert outcome.json["left_out_counts"] == {"outside the filter": 1}
    assert "would be delivered" in ego("deliver", *asked, "--dry-run").out
    assert not (ego.data / "deliveries" / "dry").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--name", "a/b"), "expected lower-case letters"),
        (("--name", "../up"), "expected lower-case letters"),
        (("--name", "dataset"), "Choose another name"),
        (
            ("--name", "x", "--formats", "zip"),
            "expected some of folder, webdataset, hf, lerobot, egovid, hdf5",
        ),
        (("--name", "x", "--where", "colour == 'red'"), "There is no field 'colour'"),
        (("--name", "x", "--where", "activity == 'sleeping'"), "cooking (1)"),
        (("--name", "x", "--split", "0.9/0.9"), "add up to 1"),
    ],
)
def test_what_cannot_be_made_says_what_can(ego: CommandLine, options: tuple[str, ...], said: str) -> None:
    outcome = ego("deliver", *options)
    assert outcome.code == 2 and said in outcome.err
    assert not (ego.data / "deliveries" / "x").exists()


def test_the_commands_around_a_delivery(ego: CommandLine) -> None:
    asked = ("deliver", "--name", "both", "--formats", ",".join(FORMATS), "--json")
    first = ego(*asked)
    assert first.code == 0 and first.json["problems"] == [] and first.json["new"]
    assert not ego(*asked).json["new"]
    assert ego("deliveries", "verify", "both").code == 0
    clip_id = first.json["clips"][0]
    assert ego("deliveries", "withdraw", "both@v0001", "--clip", clip_id, "--yes").code == 0
    assert ego("deliveries", "verify", "both").code == 0, "what was taken back is no damage"
    assert "1 clip(s) were recalled" in ego("deliveries", "list").out
    assert corrections(ego.project, "both") == [(clip_id, "withdrawn", "v0002")]
    assert ego.project.run_collection() == ""
    shown = ego("deliveries", "show", "both", "--json").json
    assert shown["version"] == "v0002" and shown["clips"] == first.json["clips"][1:]
    assert ego(*asked).json["left_out"] == {clip_id: "it was taken back from this delivery"}
    changes = ego("diff", "both", "v0001", "v0002", "--json").json
    assert changes["removed"] == [clip_id] and changes["unchanged"] == 1
    (ego.data / "deliveries/both/v0002/README.md").write_text("other")
    outcome = ego("deliveries", "verify", "both@v0002")
    assert outcome.code == 1 and "README.md has sha256" in outcome.out
    assert "There are: both, dataset" in ego("deliveries", "show", "nothing").err
    assert "There are: v0001, v0002" in ego("diff", "both", "v0001", "v0009").err
