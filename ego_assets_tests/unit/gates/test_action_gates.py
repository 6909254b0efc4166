"""Gates of the activity segments."""

from __future__ import annotations

import pytest

from ego_assets.gates.actions import CONFIDENCE, GATES, SEGMENTS, judge_actions
from ego_assets.schema.actions import ActionSegment
from ego_assets.schema.gates import GateOutcome, GateResult

SECOND = 1_000_000_000


def segment(start_s: float, end_s: float, label: str = "idle", score: float = 0.8) -> ActionSegment:
    return ActionSegment(
        start_ns=round(start_s * SECOND), end_ns=round(end_s * SECOND), label=label, score=score
    )


def judged(*segments: ActionSegment, **options: object) -> tuple[GateResult, GateResult]:
    arguments: dict[str, object] = {
        "labels": ("walking", "idle"),
        "known_labels": 5,
        "start_ns": 0,
        "end_ns": 4 * SECOND,
        "hand_share": 0.7,
        "needs_hands": True,
    }
    verdicts = judge_actions(segments, **{**arguments, **options})  # type: ignore[arg-type]
    assert [verdict.spec for verdict in verdicts] == list(GATES)
    first, second = verdicts
    return first, second


def test_segments_that_cover_the_clip_pass() -> None:
    segments, confidence = judged(segment(0, 1.5), segment(1.5, 4, "walking"))
    assert segments.outcome is GateOutcome.PASSED and segments.value == 0
    assert confidence.outcome is GateOutcome.PASSED and confidence.value == 0


@pytest.mark.parametrize(
    ("segments", "said"),
    [
        ((), "no segment"),
        ((segment(0, 2), segment(1, 4)), "Number 2 overlaps"),
        ((segment(0, 2), segment(3, 4)), "Number 2 leaves a gap"),
        ((segment(2, 4), segment(0, 2)), "Number 1 leaves a gap"),
        ((segment(1, 4),), "Number 1 leaves a gap"),
        ((segment(0, 3),), "Number 1 ends at 3000000000 ns, expected the clip's end"),
        ((segment(0, 5),), "expected the clip's end, 4000000000 ns"),
        ((segment(0, 4, "dancing"),), "label 'dancing', expected one of walking, idle"),
    ],
)
def test_segments_that_are_wrong_block(segments: tuple[ActionSegment, ...], said: str) -> None:
    verdict, _ = judged(*segments)
    assert verdict.outcome is GateOutcome.FAILED and verdict.blocks
    assert said in verdict.message and (verdict.value or 0) > 0


def test_a_score_outside_0_to_1_blocks() -> None:
    wrong = segment(0, 4)
    object.__setattr__(wrong, "score", 1.5)
    verdict, _ = judged(wrong)
    assert verdict.blocks and "score 1.5" in verdict.message


@pytest.mark.parametrize(
    ("score", "known_labels", "outcome"),
    [
        (0.49, 5, GateOutcome.WARNED),
        (0.51, 5, GateOutcome.PASSED),
        (0.01, 5, GateOutcome.WARNED),
        (0.1, 400, GateOutcome.PASSED),
        (0.9, 2, GateOutcome.PASSED),
    ],
)
def test_labels_hardly_better_than_a_draw_are_warned_of(
    score: float, known_labels: int, outcome: GateOutcome
) -> None:
    _, confidence = judged(segment(0, 4, score=score), known_labels=known_labels)
    assert confidence.outcome is outcome and not confidence.spec.blocking
    assert ("Do not rely" in confidence.message) is (outcome is GateOutcome.WARNED)
    assert confidence.value == (1.0 if outcome is GateOutcome.WARNED else 0.0)


def test_a_fifth_of_the_clip_may_say_nothing() -> None:
    _, confidence = judged(segment(0, 3.2), segment(3.2, 4, "walking", score=0.3))
    assert confidence.outcome is GateOutcome.PASSED and confidence.value == pytest.approx(0.2)
    _, confidence = judged(segment(0, 3), segment(3, 4, "walking", score=0.3))
    assert confidence.outcome is GateOutcome.WARNED and confidence.value == pytest.approx(0.25)


def test_missing_hands_are_said_where_they_matter() -> None:
    _, confidence = judged(segment(0, 4), hand_share=None)
    assert confidence.outcome is GateOutcome.WARNED and "no hand_object layer" in confidence.message
    assert judged(segment(0, 4), hand_share=None, needs_hands=False)[1].outcome is GateOutcome.PASSED
    _, confidence = judged(segment(0, 4, score=0.45), hand_share=0.0)
    assert confidence.outcome is GateOutcome.WARNED and "No hand was found" in confidence.message
    # Whoever walks needs no hand in the picture.
    assert judged(segment(0, 4, "walking", score=0.85), hand_share=0.0)[1].outcome is GateOutcome.PASSED


def test_what_cannot_be_judged_is_not_evaluated() -> None:
    assert judged()[1].outcome is GateOutcome.NOT_EVALUATED
    assert judged(segment(0, 4), known_labels=1)[1].outcome is GateOutcome.NOT_EVALUATED


def test_the_gates_state_where_their_thresholds_come_from() -> None:
    assert SEGMENTS.blocking and not CONFIDENCE.blocking
    assert all(gate.source and gate.unit for gate in GATES)


def test_what_is_none_of_the_activities_says_nothing_however_likely() -> None:
    labels = ("cooking", "other")
    options = {"labels": labels, "known_labels": 30, "needs_hands": False}
    _, confidence = judged(segment(0, 2, "cooking", 0.2), segment(2, 4, "other", 0.9), **options)
    assert confidence.outcome is GateOutcome.WARNED and confidence.value == pytest.approx(0.5)
    assert "are 'other' in 50%" in confidence.message
    _, confidence = judged(segment(0, 4, "cooking", 0.2), **options)
    assert confidence.outcome is GateOutcome.PASSED and "other" not in confidence.message
