"""The share rule of gates that judge frame by frame."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ego_assets.gates.per_frame import FrameTest
from ego_assets.schema.gates import GateOutcome, GateSpec

GATE = GateSpec(name="g", description="", threshold=0.25, unit="share of frames")


def made(judged: list[bool], failing: list[bool], outcome: GateOutcome = GateOutcome.FAILED) -> FrameTest:
    return FrameTest(
        gate=GATE, judged=np.array(judged, np.bool_), failing=np.array(failing, np.bool_), outcome=outcome
    )  # type: ignore[arg-type]


def test_only_judged_frames_count() -> None:
    test = made([True, True, False, True], [False, True, True, False])
    assert (test.judged_count, test.failing_count) == (3, 1) and test.failing_share == pytest.approx(1 / 3)
    assert test.outcomes() == (
        GateOutcome.PASSED,
        GateOutcome.FAILED,
        GateOutcome.NOT_EVALUATED,
        GateOutcome.PASSED,
    )
    assert test.details(np.array([5, 6, 7, 8])) == {
        "judged_frames": 3,
        "failing_frames": 1,
        "first_failing_frames": [6],
    }


@pytest.mark.parametrize("outcome", [GateOutcome.FAILED, GateOutcome.WARNED])
def test_the_allowed_share_passes_and_more_does_not(outcome: GateOutcome) -> None:
    frames = np.arange(4)
    allowed = made([True] * 4, [True, False, False, False], outcome).verdict(
        frames, seen="1 of 4", advice="Act."
    )
    assert (allowed.outcome, allowed.value, allowed.message) == (GateOutcome.PASSED, 0.25, "1 of 4.")
    refused = made([True] * 4, [True, True, False, False], outcome).verdict(
        frames, seen="2 of 4", advice="Act.", more=7
    )
    assert (refused.outcome, refused.value) == (outcome, 0.5)
    assert refused.message == "2 of 4; 25% are allowed. Act."
    assert refused.details["first_failing_frames"] == [0, 1] and refused.details["more"] == 7


def test_frames_and_criterion_must_fit() -> None:
    with pytest.raises(ValueError, match="expected"):
        made([True], [True, False])


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=30))
def test_frames_add_up_to_the_clip(rows: list[tuple[bool, bool]]) -> None:
    test = made([judged for judged, _ in rows], [failing for _, failing in rows])
    outcomes = test.outcomes()
    assert outcomes.count(GateOutcome.FAILED) == test.failing_count
    assert outcomes.count(GateOutcome.NOT_EVALUATED) == len(rows) - test.judged_count
    verdict = test.verdict(np.arange(len(rows)), seen="", advice="")
    exceeded = 4 * test.failing_count > test.judged_count
    assert verdict.outcome is (GateOutcome.FAILED if exceeded else GateOutcome.PASSED)
