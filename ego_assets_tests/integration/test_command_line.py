"""The `ego-assets` command as a user types it: what it prints, what it leaves, and its exit status."""

from __future__ import annotations

import contextlib
import getpass
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml

from ego_assets.cli import main
from ego_assets.project import Project
from ego_assets.schema.errors import ArtifactMissing
from ego_assets.schema.vocabulary import ReviewKind, ReviewRisk
from ego_assets.settings import load_settings
from ego_assets_tests.clips import write_clip, write_renamed_picture
from resources import profiles
from resources.database import Database

UNKNOWN = "3b241101-e2bb-4255-8caf-4136c566a962"


@dataclass(frozen=True)
class Outcome:
    """How a command ended. Text is on one line, because the width of a terminal decides where it wraps."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class CommandLine:
    """The command on a data folder of its own."""

    data: Path

    def __call__(self, *arguments: object) -> Outcome:
        load_settings.cache_clear()
        out, err = io.StringIO(), io.StringIO()
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.object(sys, "argv", ["ego-assets", *map(str, arguments)]))
            stack.enter_context(contextlib.redirect_stdout(out))
            stack.enter_context(contextlib.redirect_stderr(err))
            stop = stack.enter_context(pytest.raises(SystemExit))
            main()
        printed = out.getvalue()
        plain = printed if "--json" in arguments else " ".join(printed.split())
        return Outcome(int(stop.value.code or 0), plain, " ".join(err.getvalue().split()))

    @property
    def project(self) -> Project:
        load_settings.cache_clear()
        return Project(load_settings())


@contextlib.contextmanager
def command_line(data: Path) -> Iterator[CommandLine]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EGO_DATA_DIR", str(data))
        patch.setenv("EGO_FREE_DISK_RESERVE_BYTES", "0")
        patch.setenv("DAGSTER_HOME", str(data / "dagster_home"))
        yield CommandLine(data)
    load_settings.cache_clear()


@pytest.fixture
def ego(tmp_path: Path) -> Iterator[CommandLine]:
    """The command on an empty data folder."""
    with command_line(tmp_path / "data") as command:
        yield command


@dataclass(frozen=True)
class Processed:
    """A folder of one good video, one that is none, and things that are no videos, after `demo --clips`."""

    ego: CommandLine
    folder: Path
    demo: Outcome

    def clip_id(self, name: str) -> str:
        return next(str(clip["clip_id"]) for clip in self.demo.json["clips"] if clip["name"] == name)


@pytest.fixture(scope="module")
def processed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processed]:
    folder = tmp_path_factory.mktemp("own")
    write_clip(folder / "good.mp4")
    write_renamed_picture(folder / "picture.mp4")
    (folder / "empty.mov").touch()
    (folder / "GX010001.THM").write_bytes(b"thumbnail")
    (folder / "notes.txt").write_text("not a video")
    with command_line(tmp_path_factory.mktemp("processed") / "data") as command:
        yield Processed(command, folder, command("demo", "--clips", folder, "--json"))


# --- ingest -------------------------------------------------------------------------------------------


def test_options_win_over_the_sidecar(ego: CommandLine, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in" / "clip.mp4")
    sidecar = {"collector_id": "from_sidecar", "activity": "cooking", "location_type": "office"}
    path.with_suffix(".json").write_text(json.dumps(sidecar))
    options = ("--collector", "c042", "--date", "2026-05-14", "--camera", "gopro_hero12")
    outcome = ego("ingest", path, *options, "--location", "kitchen", "--json")
    assert outcome.code == 0
    [clip] = ego.project.database.clips()
    assert outcome.json == {
        "ingested": [{"path": str(path), "clip_id": clip.clip_id}],
        "duplicates": [],
        "rejected": [],
    }
    assert (clip.collector_id, clip.source_camera, clip.location_type) == ("c042", "gopro_hero12", "kitchen")
    assert clip.activity_category == "cooking", "what only the sidecar says stays"
    assert str(clip.recording_date) == "2026-05-14"
    assert path.exists() and path.with_suffix(".json").exists(), "ingest copies"


def test_a_folder_is_searched_and_what_cannot_be_taken_is_named(ego: CommandLine, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_clip(folder / "a.mp4")
    write_clip(folder / "deeper" / "b.MOV", seed=1)
    (folder / "deeper" / "empty.mp4").touch()
    (folder / ".hidden.mp4").write_bytes(b"x")
    outcome = ego("ingest", folder)
    assert outcome.code == 1
    assert "'deeper/empty.mp4' has no content" in outcome.err
    [reason] = ego.project.settings.vault.rglob("rejected/**/*.reason.json")
    assert "0 bytes" in reason.read_text(), "the reason is kept, the file stays where it is"
    names = {clip.source_name for clip in ego.project.database.clips()}
    assert names == {"a.mp4", "b.MOV"}
    assert all(name in outcome.err for name in names)


def test_the_same_content_again_is_no_failure_and_never_becomes_one(ego: CommandLine, tmp_path: Path) -> None:
    path = write_renamed_picture(tmp_path / "in" / "a.mp4")
    assert ego("ingest", path).code == 0
    assert ego("ingest", path).code == 0
    [first] = ego.project.database.clips()
    (tmp_path / "in" / "b.mp4").write_bytes(path.read_bytes())
    outcome = ego("ingest", tmp_path / "in" / "b.mp4")
    assert outcome.code == 0 and f"same content as clip {first.clip_id}" in outcome.err
    second = next(clip for clip in ego.project.database.clips() if clip.clip_id != first.clip_id)
    outcome = ego("run", "--clip", second.clip_id)
    assert outcome.code == 0 and "Nothing is pending." in outcome.err


def test_paths_may_lead_upwards_and_links_are_refused(
    ego: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_renamed_picture(tmp_path / "in" / "a.mp4")
    (tmp_path / "link.mp4").symlink_to(tmp_path / "in" / "a.mp4")
    (tmp_path / "elsewhere" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere" / "below")
    assert ego("ingest", "../../in/a.mp4").code == 0
    [clip] = ego.project.database.clips()
    assert ego("ingest", "../../in").code == 0
    assert [row.clip_id for row in ego.project.database.clips()] == [clip.clip_id]
    outcome = ego("ingest", "../../link.mp4")
    assert outcome.code == 1 and "is a link" in outcome.err


def test_what_does_not_exist_is_named_and_the_rest_is_taken(ego: CommandLine, tmp_path: Path) -> None:
    path = write_renamed_picture(tmp_path / "a.mp4")
    outcome = ego("ingest", tmp_path / "missing.mp4", path)
    assert outcome.code == 1 and "missing.mp4 does not exist" in outcome.err
    assert [clip.source_name for clip in ego.project.database.clips()] == ["a.mp4"]


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("--date", "yesterday", "recording_date is 'yesterday'"),
        ("--camera", "phone", "expected one of gopro_hero12"),
        ("--location", "moon", "location_type is 'moon'"),
    ],
)
def test_a_wrong_option_is_wrong_usage(
    ego: CommandLine, tmp_path: Path, option: str, value: str, named: str
) -> None:
    path = write_renamed_picture(tmp_path / "a.mp4")
    outcome = ego("ingest", path, option, value)
    assert outcome.code == 2 and named in outcome.err
    assert not ego.data.exists(), "nothing was started"


# --- demo ---------------------------------------------------------------------------------------------


def test_demo_on_own_clips_shows_what_stopped_and_delivers_the_rest(processed: Processed) -> None:
    demo = processed.demo
    assert demo.code == 1, "one file was rejected"
    assert "'empty.mov' has no content" in demo.err
    assert "notes.txt" not in demo.err and "THM" not in demo.err, (
        "cameras leave other files beside the videos"
    )
    rows = {row["name"]: row for row in demo.json["clips"]}
    assert set(rows) == {"good.mp4", "picture.mp4"}
    assert rows["good.mp4"]["processing_status"] == "delivered" and rows["good.mp4"]["failed"] == 0
    assert rows["good.mp4"]["score"] > 0.5 and rows["good.mp4"]["pending"] == []
    assert rows["picture.mp4"]["failed"] == 1 and "blurred_video" not in rows["picture.mp4"]["layers"]
    assert "parse of clip_quality failed" in " ".join(rows["picture.mp4"]["notes"])
    paths = {name: Path(path) for name, path in demo.json["paths"].items()}
    assert paths["delivery"] == processed.ego.data / "deliveries" / "dataset" / "v0001"
    assert {path.name for path in paths["delivery"].iterdir() if path.is_dir()} == {
        processed.clip_id("good.mp4")
    }
    assert paths["report"].read_text().startswith("<!")
    assert (processed.folder / "good.mp4").exists(), "the videos are copied"


def test_demo_needs_a_folder_with_videos(ego: CommandLine, tmp_path: Path) -> None:
    assert ego("demo", "--clips", tmp_path / "missing").code == 2
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no video")
    outcome = ego("demo", "--clips", tmp_path / "empty")
    assert outcome.code == 2 and "holds no .mp4, .mov or .mkv files" in outcome.err


# --- run ----------------------------------------------------------------------------------------------


def test_a_second_run_finds_nothing_to_do(processed: Processed) -> None:
    good = processed.clip_id("good.mp4")
    delivered = processed.ego.project.database.deliveries()
    outcome = processed.ego("run", "--clip", good)
    assert outcome.code == 0 and "Nothing is pending." in outcome.err
    outcome = processed.ego("run")
    assert outcome.code == 0, "only what this run stopped counts"
    assert "Nothing is pending." in outcome.err and "picture.mp4" in outcome.out
    assert processed.ego.project.database.deliveries() == delivered


def test_a_layer_is_made_again_on_request_only(processed: Processed) -> None:
    good = processed.clip_id("good.mp4")
    project = processed.ego.project
    before = {row.layer: row for row in project.database.layer_states(good)}
    outcome = processed.ego("run", "--again", "--layer", "frames", "--clip", good.upper(), "--json")
    assert outcome.code == 0
    assert [row["clip_id"] for row in outcome.json["clips"]] == [good]
    after = {row.layer: row for row in project.database.layer_states(good)}
    assert {layer for layer in after if after[layer].run_id != before[layer].run_id} == {"frames"}
    assert processed.ego("run", "--layer", "frames", "--clip", good).err == "Nothing is pending."


def test_a_delivery_that_was_interrupted_is_made_up_for(ego: CommandLine, tmp_path: Path) -> None:
    assert ego("ingest", write_clip(tmp_path / "a.mp4")).code == 0
    project = ego.project
    [clip] = project.database.clips()
    assert project.run_clip(clip.clip_id, [spec.name for spec in project.specs]).success
    assert not (ego.data / "deliveries").exists()
    outcome = ego("run")
    assert outcome.code == 0 and "Nothing is pending." in outcome.err
    assert (ego.data / "deliveries" / "dataset" / "v0001" / clip.clip_id).is_dir()


def test_a_chosen_layer_brings_what_it_still_needs(ego: CommandLine, tmp_path: Path) -> None:
    assert ego("ingest", write_clip(tmp_path / "a.mp4")).code == 0
    outcome = ego("run", "--layer", "clip_quality", "--json")
    assert outcome.code == 0
    assert outcome.json["clips"][0]["layers"] == ["raw_clip", "clip_quality"]
    assert ego.project.database.review_items() == []


def test_reviews_decide_what_the_next_run_delivers(processed: Processed) -> None:
    database = processed.ego.project.database
    good = processed.clip_id("good.mp4")
    database.add_review_item(
        good,
        layer="blurred_video",
        kind=ReviewKind.PII_DENSITY,
        risk=ReviewRisk.HIGH,
        reason="Many faces.",
    )
    assert processed.ego("run", "--clip", good).code == 0
    assert good in processed.ego.project.left_out_of_delivery()
    [item] = [entry for entry in database.review_items("open", good) if entry.kind is ReviewKind.PII_DENSITY]

    listed = processed.ego("review")
    line = f"{item.id} {good} blurred_video: pii_density (high risk) Many faces."
    assert listed.code == 0 and line in listed.out
    assert processed.ego("review", "resolve", item.id).code == 2, "a note is needed"
    resolved = processed.ego("review", "resolve", item.id, "--note", "Only posters.", "--json")
    assert resolved.code == 0 and resolved.json["id"] == item.id
    assert item.id not in [entry["id"] for entry in processed.ego("review", "list", "--json").json]
    entry = next(entry for entry in database.review_items("resolved", good) if entry.id == item.id)
    assert (entry.resolution, entry.resolved_by) == ("Only posters.", f"cli:{getpass.getuser()}")
    again = processed.ego("review", "resolve", item.id, "--note", "Twice.")
    assert again.code == 1 and "resolved" in again.err

    assert processed.ego("run", "--clip", good).code == 0
    assert good not in processed.ego.project.left_out_of_delivery()


def test_unknown_layers_clips_and_items_are_named(processed: Processed) -> None:
    outcome = processed.ego("run", "--layer", "unknown")
    assert outcome.code == 2
    assert "No layer unknown. There are: raw_clip, clip_quality, blurred_video, frames" in outcome.err
    assert processed.ego("run", "--again").code == 2
    outcome = processed.ego("run", "--clip", UNKNOWN)
    assert outcome.code == 1 and f"No clip '{UNKNOWN}' is registered" in outcome.err
    outcome = processed.ego("run", "--clip", "clip-7")
    assert outcome.code == 2 and "expected a UUID" in outcome.err
    outcome = processed.ego("release", UNKNOWN)
    assert outcome.code == 1 and UNKNOWN in outcome.err
    outcome = processed.ego("review", "resolve", 999, "--note", "x")
    assert outcome.code == 1 and "no review item 999" in outcome.err


def test_a_layer_that_this_machine_cannot_make_is_status_three(
    processed: Processed, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = processed.clip_id("good.mp4")
    with monkeypatch.context() as patch:
        patch.setenv("EGO_DECODER", "cuda")
        outcome = processed.ego("run", "--again", "--layer", "embeddings", "--clip", good)
    assert outcome.code == 3
    assert "embeddings of 1 clip(s) was postponed:" in outcome.err and "EGO_DECODER" in outcome.err
    assert "The next `ego-assets run` tries again. `ego-assets doctor` lists" in outcome.err
    assert "earlier version is not used" in outcome.err and "earlier version is not used" in outcome.out
    # What was asked for went well.
    assert processed.ego("run", "--again", "--layer", "frames", "--clip", good).code == 0
    outcome = processed.ego("run", "--json")
    assert outcome.code == 0 and "postponed" not in outcome.err
    assert "embeddings" in next(row["layers"] for row in outcome.json["clips"] if row["clip_id"] == good)


def test_what_nothing_was_postponed_of_costs_no_look_at_the_gates(
    processed: Processed, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, good = processed.ego.project, processed.clip_id("good.mp4")

    def gates(self: Database, clip_id: str | None = None) -> None:
        raise AssertionError("asked for gates")

    def layer_states(self: Database, clip_id: str | None = None) -> None:
        raise AssertionError("asked for states")

    monkeypatch.setattr(Database, "gates", gates)
    assert project.tried_with_other_profiles(good, ["frames", "embeddings"], retry_failed=True) == {}
    monkeypatch.setattr(Database, "layer_states", layer_states)
    assert project.tried_with_other_profiles(good, [], retry_failed=True) == {}


def write_profile(path: Path, **backends: str) -> Path:
    """The profile ``local`` with other backends for some tasks."""
    profile = yaml.safe_load((Path(profiles.__file__).parent / "local.yaml").read_text())
    profile["backends"] |= {task: {"backend": backend} for task, backend in backends.items()}
    path.write_text(yaml.safe_dump(profile))
    return path


@pytest.fixture
def other_detector(tmp_path: Path) -> Path:
    """A profile whose privacy pass this machine cannot make."""
    return write_profile(tmp_path / "mine.yaml", faces="egoblur")


def test_a_clip_that_waits_for_the_privacy_pass_is_not_blamed(
    ego: CommandLine, tmp_path: Path, other_detector: Path
) -> None:
    assert ego("ingest", write_clip(tmp_path / "a.mp4")).code == 0
    outcome = ego("run", "--profile", other_detector)
    assert outcome.code == 3 and "blurred_video of 1 clip(s) was postponed:" in outcome.err
    [row] = ego("status", "--json").json["clips"]
    [note] = row["notes"]
    assert (
        "waits: blurred_video was postponed" in note
        and "The next run with the same profile tries again" in note
    )
    assert "better recording" not in note and "earlier version" not in note
    # Privacy fails closed: other detectors than those that were asked for do not step in unasked.
    left = ego("run", "--json")
    assert left.code == 2 and "Left as it is: blurred_video of 1 clip(s)" in left.err
    assert left.json["clips"][0]["layers"] == ["raw_clip", "clip_quality"]
    assert ego("run", "--profile", "local", "--layer", "blurred_video").code == 0
    assert ego("status", "--json").json["clips"][0]["notes"] == []


def test_advice_on_what_was_left_asks_for_no_more_than_the_command_did(
    ego: CommandLine, tmp_path: Path, other_detector: Path
) -> None:
    for seed in range(4):
        path = write_clip(tmp_path / f"{seed}.mp4", seed=seed, frames=6, rate=6)
        assert ego("ingest", path).code == 0
    assert ego("run", "--profile", other_detector).code == 3
    clips = [clip.clip_id for clip in ego.project.database.clips()]

    def advised(*arguments: str) -> str:
        """The arguments that are advised with the one profile, and again with the other."""
        left = ego("run", *arguments)
        assert left.code == 2 and "stopped" not in left.err, left.err
        found = re.search(
            r"Go on with `ego-assets (.*?) --profile .*? with `ego-assets (.*?) --profile", left.err
        )
        assert found and found[1] == found[2], left.err
        assert ("Name the clips with --clip." in left.err) == (arguments.count("--clip") > 3)
        return found[1]

    def chosen(count: int) -> list[str]:
        return [argument for clip_id in clips[:count] for argument in ("--clip", clip_id)]

    assert advised() == "run"
    assert advised(*chosen(3)) == " ".join(["run", *chosen(3)])
    assert advised(*chosen(4)) == "run"
    assert advised("--retry-failed", *chosen(1)) == " ".join(["run --retry-failed", *chosen(1)])
    # What needs the layer that was left is not forced without it.
    again = ["--again", "--layer", "frames"]
    assert advised(*again, *chosen(1)) == " ".join(["run", *again, *chosen(1)])
    assert advised(*again) == " ".join(["run", *again])
    states = {state.layer for state in ego.project.database.layer_states(clips[0])}
    assert "frames" not in states, "it was not tried"


@pytest.fixture
def other_profile(tmp_path: Path) -> Path:
    """A profile whose embeddings this machine cannot make; its name has to be quoted."""
    return write_profile(tmp_path / "of mine.yaml", embeddings="open_clip")


def test_what_one_profile_was_asked_for_no_other_makes_unasked(
    ego: CommandLine, tmp_path: Path, other_profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (1, 2):
        assert ego("ingest", write_clip(tmp_path / f"{seed}.mp4", seed=seed)).code == 0
    same = f"--profile '{other_profile}'`"
    waits = ego("run", "--profile", other_profile, "--layer", "embeddings")
    assert (
        waits.code == 3
        and waits.err.count("backend 'open_clip'") == 1
        and "embeddings of 2 clip(s)" in waits.err
    )
    assert f"The next `ego-assets run {same} tries again." in waits.err
    assert f"`ego-assets doctor {same} lists all that is missing." in waits.err
    assert waits.out.count("backend 'open_clip'") == 1 and "embeddings: as for 1.mp4" in waits.out

    first = ego.project.database.clips()[0].clip_id
    left = ego("run", "--layer", "embeddings", "--layer", "frames", "--clip", first, "--json")
    assert left.code == 2 and "Left as it is: embeddings of 1 clip(s)" in left.err
    asked = f"run --layer embeddings --layer frames --clip {first}"
    assert (
        f"`ego-assets {asked} {same}, or choose this one with `ego-assets {asked} --profile local`"
        in left.err
    )
    layers = left.json["clips"][0]["layers"]
    assert "frames" in layers and "embeddings" not in layers, "the rest goes on"
    nothing = ego("run", "--layer", "embeddings", "--clip", first)
    assert nothing.code == 2 and "Nothing is pending" not in nothing.err
    assert ego("run", "--layer", "frames", "--clip", first).code == 0, "what is not asked for is no matter"

    # The same profile, whichever way and from wherever it is named.
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setenv("EGO_PROFILE", other_profile.name)
        waits = ego("run", "--layer", "embeddings", "--clip", first)
    assert waits.code == 3 and "The next `ego-assets run` tries again. `ego-assets doctor` lists" in waits.err

    def embedded() -> set[str]:
        return {
            row["clip_id"] for row in ego("status", "--json").json["clips"] if "embeddings" in row["layers"]
        }

    second = ego.project.database.clips()[1].clip_id
    assert ego("run", "--layer", "embeddings", "--clip", first, "--profile", "local").code == 0
    assert embedded() == {first}
    assert ego("run", "--layer", "embeddings", "--clip", second, "--again").code == 0
    assert embedded() == {first, second}
    assert ego("run", "--layer", "embeddings").code == 0


def test_what_failed_with_one_profile_is_retried_with_another_only_where_that_is_named(
    ego: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resources.models.embeddings import AppearanceEmbedder

    def fails(self: AppearanceEmbedder, images: object) -> None:
        raise ArtifactMissing("There is no picture.")

    mine = tmp_path / "mine.yaml"
    mine.write_text((Path(profiles.__file__).parent / "local.yaml").read_text())
    assert ego("ingest", write_clip(tmp_path / "a.mp4")).code == 0
    only = ("--layer", "embeddings")
    with monkeypatch.context() as patch:
        patch.setattr(AppearanceEmbedder, "embed_images", fails)
        ego("run", "--profile", mine, *only)
    [clip] = ego.project.database.clips()
    states = {state.layer: state.state for state in ego.project.database.layer_states(clip.clip_id)}
    assert states["embeddings"] == "given_up"
    assert ego("run", *only).code == 0, "nobody asked for another try"
    left = ego("run", "--retry-failed", *only)
    asked = "ego-assets run --retry-failed --layer embeddings --profile"
    assert left.code == 2 and f"`{asked} {mine}`" in left.err and f"`{asked} local`" in left.err
    assert ego("run", "--retry-failed", "--profile", "local", *only).code == 0
    assert "embeddings" in ego("status", "--json").json["clips"][0]["layers"]


def test_try_ends_as_run_does(ego: CommandLine, tmp_path: Path, other_profile: Path) -> None:
    video = write_clip(tmp_path / "a.mp4")
    lacks = ego("try", "embeddings", video, "--out", tmp_path / "out", "--profile", other_profile)
    assert lacks.code == 3 and "embeddings of a.mp4: " in lacks.err and "backend 'open_clip'" in lacks.err
    content = yaml.safe_load(other_profile.read_text())
    del content["backends"]["embeddings"]
    other_profile.write_text(yaml.safe_dump(content))
    wrong = ego("try", "embeddings", video, "--out", tmp_path / "out", "--profile", other_profile)
    assert wrong.code == 2 and "names no backend for 'embeddings'" in wrong.err
    content["backends"]["faces"] = {"backend": "egoblur"}
    other_profile.write_text(yaml.safe_dump(content))
    lacks = ego("try", "frames", video, "--out", tmp_path / "out", "--profile", other_profile)
    assert lacks.code == 3 and "blurred_video of a.mp4: " in lacks.err
    assert not (tmp_path / "out").exists()


def test_release_lets_a_held_clip_go_on(processed: Processed) -> None:
    clip_id = processed.clip_id("good.mp4")
    database = processed.ego.project.database
    database.update_clip(clip_id, held=True, held_reason="Dark.")
    assert processed.ego("release", clip_id.upper()).code == 0
    clip = database.clip(clip_id)
    assert not clip.held and clip.held_reason == ""
    assert ("cli:release", "release") in {
        (entry.actor, entry.action) for entry in database.audit_log(clip_id)
    }


def test_interrupted_it_stops_at_once_and_goes_on_later(ego: CommandLine, tmp_path: Path) -> None:
    assert ego("ingest", write_clip(tmp_path / "a.mp4")).code == 0
    marker = tmp_path / "inside"
    code = f"""
import pathlib, sys, time
from ego_assets import cli
from resources.storage import StagedLayer

def hang(self, **_):
    pathlib.Path({str(marker)!r}).touch()
    time.sleep(600)

StagedLayer.commit = hang
sys.argv = ["ego-assets", "run"]
cli.main()
"""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not marker.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    try:
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "Interrupted. What is finished is kept" in err and "Traceback" not in err
    [clip] = ego.project.database.clips()
    assert not clip.failed and ego.project.store.document(clip.clip_id, "raw_clip") is None
    outcome = ego("run", "--layer", "raw_clip", "--json")
    assert outcome.code == 0 and outcome.json["clips"][0]["layers"] == ["raw_clip"]


# --- status, reindex, errors --------------------------------------------------------------------------


def test_status_by_collector(ego: CommandLine, tmp_path: Path) -> None:
    assert "No clips yet" in ego("status").out
    assert ego("status", "--json").json == {"clips": []}
    for number, collector in enumerate(("c1", "c2")):
        path = write_renamed_picture(tmp_path / f"{collector}.mp4", seed=number)
        assert ego("ingest", path, "--collector", collector).code == 0
    [row] = ego("status", "--collector", "c2", "--json").json["clips"]
    assert (row["name"], row["collector_id"], row["layers"], row["score"]) == ("c2.mp4", "c2", [], None)
    assert row["pending"][0] == "raw_clip"
    shown = ego("status", "--collector", "c1")
    assert shown.code == 0 and "c1.mp4" in shown.out and "c2.mp4" not in shown.out
    assert "No clips of collector nobody" in ego("status", "--collector", "nobody").out


def test_reindex_rebuilds_what_the_database_lost(processed: Processed) -> None:
    from sqlalchemy import text

    database = processed.ego.project.database
    good = processed.clip_id("good.mp4")
    before = {row.layer: row for row in database.artifacts(good)}
    with database.engine.begin() as connection:
        connection.execute(text("DELETE FROM artifacts"))
    outcome = processed.ego("reindex", "--json")
    assert outcome.code == 0 and outcome.json["artifacts"] >= len(before) > 5
    assert {row.layer: row for row in database.artifacts(good)} == before


@pytest.mark.parametrize(
    ("variable", "value", "code", "named"),
    [
        ("EGO_FRAMES_PER_SECOND", "fast", 2, "EGO_FRAMES_PER_SECOND"),
        ("EGO_FRAMES_INPUT", "thumbnail", 2, "EGO_FRAMES_INPUT"),
        ("EGO_DATABASE_URL", "mysql://somewhere/x", 2, "EGO_DATABASE_URL names 'mysql'"),
        ("EGO_DATABASE_URL", "sqlite://", 2, "in memory"),
    ],
)
def test_expected_errors_are_one_line(
    ego: CommandLine, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, code: int, named: str
) -> None:
    monkeypatch.setenv(variable, value)
    outcome = ego("status")
    assert outcome.code == code and named in outcome.err
    assert "Traceback" not in outcome.err and outcome.out == ""


def test_what_the_machine_lacks_is_status_three(
    ego: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ego("ingest", write_clip(tmp_path / "a.mp4")).code == 0
    [clip] = ego.project.database.clips()
    ego.project.database.update_clip(clip.clip_id, duration_s=1e9)
    outcome = ego("run")
    assert outcome.code == 3 and "Free some space" in outcome.err
    assert ego.project.database.layer_states() == [], "nothing was started"
    monkeypatch.setenv("EGO_PROFILE", "nowhere")
    outcome = ego("doctor", "--json")
    assert outcome.code == 3
    assert [row["subject"] for row in outcome.json if row["state"] == "missing"] == ["profile nowhere"]


def test_without_arguments_there_is_help(ego: CommandLine) -> None:
    outcome = ego()
    assert outcome.code in (0, 2) and "ingest" in outcome.out + outcome.err
    assert ego("ingest").code == 2
