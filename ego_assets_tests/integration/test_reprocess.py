"""`ego-assets reprocess`: a layer of chosen clips is made anew, and what depends on it follows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ego_assets.processing import Outcome
from ego_assets_tests.clips import write_clip

from .test_command_line import CommandLine, command_line


@pytest.fixture(scope="module")
def ego(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """A project of two processed clips."""
    folder = tmp_path_factory.mktemp("clips")
    for number, activity in enumerate(("cooking", "cleaning")):
        write_clip(folder / activity / "clip.mp4", seed=number, frames=6, rate=6)
    with command_line(tmp_path_factory.mktemp("reprocess") / "data") as command:
        for activity in ("cooking", "cleaning"):
            assert command("ingest", folder / activity, "--activity", activity).code == 0
        assert command("run", "--json").code == 0
        yield command


def clip_id(ego: CommandLine, activity: str) -> str:
    return next(clip.clip_id for clip in ego.project.database.clips() if clip.activity_category == activity)


def runs(ego: CommandLine) -> dict[tuple[str, str], str]:
    """The run that last made every layer of every clip."""
    return {(state.clip_id, state.layer): state.run_id for state in ego.project.database.layer_states()}


def test_only_clips_that_fit_are_made_anew_and_equal_results_change_nothing_else(ego: CommandLine) -> None:
    before = runs(ego)
    outcome = ego("reprocess", "--layer", "frames", "--where", "activity == 'cooking'", "--json")
    assert outcome.code == 0
    assert outcome.json["clips"] == [clip_id(ego, "cooking")]
    changed = {key for key, run_id in runs(ego).items() if run_id != before[key]}
    assert changed == {(clip_id(ego, "cooking"), "frames")}


def test_what_depends_on_a_changed_layer_follows(ego: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    before = runs(ego)
    monkeypatch.setenv("EGO_FRAMES_PER_SECOND", "3")
    chosen = clip_id(ego, "cleaning")
    assert ego("reprocess", "--layer", "frames", "--clip", chosen, "--only").code == 0
    only = {layer for (_, layer), run_id in runs(ego).items() if run_id not in before.values()}
    assert only == {"frames"}
    monkeypatch.setenv("EGO_FRAMES_PER_SECOND", "2")
    assert ego("reprocess", "--layer", "frames", "--where", "activity=='cleaning'").code == 0
    changed = {key for key, run_id in runs(ego).items() if run_id != before[key]}
    assert changed == {(chosen, layer) for layer in ("frames", "manifest", "clip_package")}
    assert ego("run").err == "Nothing is pending."


@pytest.mark.parametrize("left", [(1, 0), (0, 1), (2, 1)])
def test_what_either_pass_left_decides_the_exit_status(
    ego: CommandLine, monkeypatch: pytest.MonkeyPatch, left: tuple[int, int]
) -> None:
    outcomes = iter([Outcome(left=clips) for clips in left])
    monkeypatch.setattr("ego_assets.commands.reprocess.process_clips", lambda *_, **__: next(outcomes))
    outcome = ego("reprocess", "--layer", "frames", "--json")
    assert (outcome.code, outcome.json["left"]) == (2, max(left))


def test_a_dry_run_changes_nothing(ego: CommandLine) -> None:
    before = runs(ego)
    outcome = ego("reprocess", "--layer", "frames", "--where", "state('frames') == 'committed'", "--dry-run")
    assert outcome.code == 0 and "2 clip(s) fit." in outcome.out
    assert all(clip.clip_id in outcome.out for clip in ego.project.database.clips())
    assert runs(ego) == before


def test_a_clip_that_may_not_be_processed_is_left_alone(ego: CommandLine) -> None:
    chosen = clip_id(ego, "cooking")
    ego.project.database.update_clip(chosen, withdrawn=True, withdrawn_reason="The collector asked.")
    try:
        before = runs(ego)
        outcome = ego("reprocess", "--layer", "frames", "--clip", chosen, "--json")
        assert outcome.code == 0
        assert (outcome.json["clips"], outcome.json["left_alone"]) == ([], 1)
        assert runs(ego) == before
    finally:
        ego.project.database.update_clip(chosen, withdrawn=False, withdrawn_reason="")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--layer", "dept"), "No layer dept"),
        (("--layer", "frames", "--where", "activty == 'x'"), "did you mean 'activity'"),
        (("--layer", "frames", "--background", "--profile", "local"), "EGO_PROFILE"),
    ],
)
def test_wrong_usage_is_explained(ego: CommandLine, arguments: tuple[str, ...], said: str) -> None:
    outcome = ego("reprocess", *arguments)
    assert outcome.code == 2
    assert said in outcome.err


def test_the_daemon_is_asked_for_a_backfill(ego: CommandLine) -> None:
    outcome = ego(
        "reprocess", "--layer", "frames", "--where", "activity=='cooking'", "--background", "--json"
    )
    assert outcome.code == 0
    instance = ego.project.instance
    backfill = instance.get_backfill(outcome.json["backfill"])
    assert backfill is not None
    assert {key.to_user_string() for key in backfill.asset_selection or []} == {
        "frames",
        "manifest",
        "clip_package",
    }
