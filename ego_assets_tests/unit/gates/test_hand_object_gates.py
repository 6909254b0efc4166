"""Gates of ``hand_object``."""

from __future__ import annotations

from typing import Any

import pytest

from ego_assets.gates.hand_object import GATES, is_about_handling, judge_hand_object
from ego_assets.schema.gates import GateOutcome, GateResult

GOOD: dict[str, Any] = {
    "records": 100,
    "valid_records": 100,
    "first_problem": "",
    "boxes": 150,
    "boxes_outside": 0,
    "steps": 90,
    "illegal_steps": 0,
    "state_counts": {"free": 50, "pre-grasp": 5, "grasp": 30, "post-release": 5},
    "frames_with_hand": 80,
    "activity": "cooking",
}


def judged(**changes: Any) -> dict[str, GateResult]:
    verdicts = judge_hand_object(**(GOOD | changes))
    assert [verdict.spec for verdict in verdicts] == list(GATES)
    return {verdict.spec.name: verdict for verdict in verdicts}


def test_a_good_layer_passes_everything() -> None:
    assert {verdict.outcome for verdict in judged().values()} == {GateOutcome.PASSED}
    assert judged()["hands_visible"].value == pytest.approx(0.8)


def test_one_invalid_record_blocks_and_is_named() -> None:
    verdict = judged(valid_records=99, first_problem="record 7: mood is not known")["schema"]
    assert verdict.blocks and verdict.value == 1 and "record 7: mood" in verdict.message


def test_no_records_block_and_leave_the_rest_open() -> None:
    verdicts = judged(records=0, valid_records=0, boxes=0, steps=0, frames_with_hand=0, first_problem="")
    assert verdicts["schema"].blocks
    others = [verdicts[name].outcome for name in ("boxes_inside", "states", "hands_visible")]
    assert set(others) == {GateOutcome.NOT_EVALUATED}


def test_a_box_outside_blocks() -> None:
    verdict = judged(boxes_outside=1)["boxes_inside"]
    assert verdict.blocks and verdict.value == 1


def test_impossible_steps_fail_without_blocking() -> None:
    verdict = judged(illegal_steps=9)["states"]
    assert verdict.outcome is GateOutcome.FAILED and not verdict.blocks
    assert verdict.value == pytest.approx(0.1)


def test_a_clip_without_hands_is_fine() -> None:
    """A walk needs none, and where nothing is said nothing is expected."""
    nothing: dict[str, Any] = {"boxes": 0, "steps": 0, "frames_with_hand": 0}
    for activity in ("walking", ""):
        verdicts = judged(activity=activity, **nothing)
        assert not any(
            verdict.outcome in (GateOutcome.FAILED, GateOutcome.WARNED) for verdict in verdicts.values()
        )
        assert verdicts["hands_visible"].outcome is GateOutcome.NOT_EVALUATED
        assert verdicts["boxes_inside"].outcome is GateOutcome.PASSED


@pytest.mark.parametrize(
    ("frames", "outcome"), [(39, GateOutcome.WARNED), (40, GateOutcome.PASSED), (0, GateOutcome.WARNED)]
)
def test_few_hands_warn_where_things_are_handled(frames: int, outcome: GateOutcome) -> None:
    verdict = judged(frames_with_hand=frames)["hands_visible"]
    assert verdict.outcome is outcome and not verdict.blocks


@pytest.mark.parametrize(
    ("activity", "expected"),
    [
        ("cooking", True),
        ("Assembling furniture", True),
        ("desk_work", True),
        ("", None),
        ("  ", None),
        ("Walking", False),
        ("city-walk", False),
        ("driving", False),
    ],
)
def test_what_is_about_handling(activity: str, expected: bool | None) -> None:
    assert is_about_handling(activity) is expected
