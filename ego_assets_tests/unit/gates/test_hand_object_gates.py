"""Gates of ``hand_object``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ego_assets.gates.hand_object import GATES, frame_verdicts, judge_hand_object
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
    "hand_share": 0.8,
    "contact_share": 0.4,
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
    verdicts = judged(
        records=0, valid_records=0, boxes=0, steps=0, hand_share=0.0, contact_share=None, first_problem=""
    )
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


def states_of(**counts: int) -> dict[str, int]:
    return {"free": 0, "pre-grasp": 0, "grasp": 0, "post-release": 0} | counts


def test_one_state_alone_in_a_long_clip_about_handling_warns_and_names_the_others() -> None:
    for state in ("grasp", "free"):
        verdict = judged(state_counts=states_of(**{state: 50}))["states"]
        assert verdict.outcome is GateOutcome.WARNED and not verdict.blocks and verdict.value == 0
        missing = [other for other in states_of() if other != state]
        assert verdict.details["never_reached"] == missing and ", ".join(missing) in verdict.message


@pytest.mark.parametrize(
    "changes",
    [
        {"state_counts": states_of(grasp=49)},
        {"state_counts": states_of(grasp=50), "frames_per_second": 30.0},
        {"state_counts": states_of(grasp=49, free=1)},
        {"state_counts": states_of(free=500), "activity": "walking"},
        {"state_counts": states_of(free=500), "activity": "", "contact_share": 0.0},
    ],
)
def test_one_state_alone_is_fine_where_no_other_is_expected(changes: dict[str, Any]) -> None:
    assert judged(**changes)["states"].outcome is GateOutcome.PASSED


def test_impossible_steps_outrank_a_single_state() -> None:
    assert judged(state_counts=states_of(grasp=90), illegal_steps=1)["states"].outcome is GateOutcome.FAILED


def test_a_clip_without_hands_is_fine() -> None:
    """A walk needs none, and where nothing is said nothing is expected."""
    nothing: dict[str, Any] = {"boxes": 0, "steps": 0, "hand_share": 0.0, "contact_share": 0.0}
    for activity in ("walking", ""):
        verdicts = judged(activity=activity, **nothing)
        assert not any(
            verdict.outcome in (GateOutcome.FAILED, GateOutcome.WARNED) for verdict in verdicts.values()
        )
        assert verdicts["hands_visible"].outcome is GateOutcome.NOT_EVALUATED
        assert verdicts["boxes_inside"].outcome is GateOutcome.PASSED


@pytest.mark.parametrize(
    ("share", "outcome"),
    [(0.39, GateOutcome.WARNED), (0.40, GateOutcome.PASSED), (0.0, GateOutcome.WARNED)],
)
def test_few_hands_warn_where_things_are_handled(share: float, outcome: GateOutcome) -> None:
    verdict = judged(hand_share=share)["hands_visible"]
    assert verdict.outcome is outcome and not verdict.blocks


def test_what_the_hands_do_decides_where_the_activity_does_not_tell() -> None:
    busy = judged(activity="", hand_share=0.3, contact_share=0.2)["hands_visible"]
    assert busy.outcome is GateOutcome.WARNED and busy.details["contact_share"] == 0.2
    idle = judged(activity="", hand_share=0.3, contact_share=0.0)["hands_visible"]
    assert idle.outcome is GateOutcome.NOT_EVALUATED
    assert judged(activity="watch repair", hand_share=0.3)["hands_visible"].outcome is GateOutcome.WARNED


def test_verdicts_of_single_frames_are_words_under_the_names_of_the_gates() -> None:
    def flags(*values: int) -> Any:
        return np.array(values, np.bool_)

    columns = {
        "is_valid": flags(1, 1, 1, 0),
        "boxes_inside": flags(1, 0, 1, 0),
        "has_step": flags(0, 1, 1, 0),
        "step_is_legal": flags(1, 1, 0, 0),
        "has_hand": flags(1, 1, 0, 0),
    }
    found = frame_verdicts(**columns, about_handling=True)
    assert list(found) == [gate.name for gate in GATES]
    words = {name: [str(outcome) for outcome in outcomes] for name, outcomes in found.items()}
    nothing = "not_evaluated"
    assert words == {
        "schema": ["passed", "passed", "passed", "failed"],
        "boxes_inside": ["passed", "failed", "passed", nothing],
        "states": [nothing, "passed", "failed", nothing],
        "hands_visible": ["passed", "passed", "warned", nothing],
    }
    for about in (False, None):
        assert set(frame_verdicts(**columns, about_handling=about)["hands_visible"]) == {
            GateOutcome.NOT_EVALUATED
        }
