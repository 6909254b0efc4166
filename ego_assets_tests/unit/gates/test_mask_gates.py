"""Gates of ``masks``."""

from __future__ import annotations

import numpy as np
import pytest

from ego_assets.gates.masks import GATES, frame_verdicts, judge_masks
from ego_assets.ladder import blocking_refusal
from ego_assets.schema.gates import GateOutcome, GateResult
from ego_assets.schema.hands import HandObjectTracks, HandSide, HandState, HandTrack
from ego_assets.schema.masks import MaskMeasurements

N = 20


def measured(count: int = N, **columns: object) -> MaskMeasurements:
    values = {"segmented_share": 0.9, "largest_share": 0.3, "hand_share": 0.05, "consistency": 0.9} | columns
    return MaskMeasurements(
        frame_index=np.arange(count, dtype=np.int64) * 6,
        timestamps_ns=np.arange(count, dtype=np.int64) * 200_000_000,
        **{name: np.broadcast_to(np.asarray(value, np.float64), (count,)) for name, value in values.items()},
    )


def hands(state: HandState | None, *, busy: int = N, count: int = N) -> HandObjectTracks:
    """A right hand in one state in some frames, free in the others."""

    def track(side: HandSide, states: tuple[HandState | None, ...]) -> HandTrack:
        return HandTrack(
            side=side,
            visible=np.array([one is not None for one in states], np.bool_),
            boxes_xyxy=np.zeros((count, 4), np.float32),
            scores=np.ones(count, np.float32),
            landmarks_xy=np.full((count, 21, 2), np.nan, np.float32),
            states=states,
            state_scores=np.ones(count, np.float32),
            contact_boxes_xyxy=np.full((count, 4), np.nan, np.float32),
            contact_scores=np.zeros(count, np.float32),
        )

    return HandObjectTracks(
        frame_index=np.arange(count, dtype=np.int64) * 6,
        timestamps_ns=np.arange(count, dtype=np.int64) * 200_000_000,
        resolution=(64, 48),
        left=track("left", (None,) * count),
        right=track("right", (state,) * busy + ("free",) * (count - busy)),
        other_hands=np.zeros(count, np.int64),
    )


def judged(
    measurements: MaskMeasurements, tracks: HandObjectTracks | None = None, *, activity: str = ""
) -> dict[str, GateResult]:
    verdicts = judge_masks(measurements, tracks, activity=activity)
    assert [verdict.spec for verdict in verdicts] == list(GATES)
    return {verdict.spec.name: verdict for verdict in verdicts}


def first(share: float, good: float, bad: float) -> np.ndarray:
    """So much of the frames bad, the others good."""
    return np.where(np.arange(N) < round(share * N), bad, good)


def test_good_masks_pass_everything() -> None:
    verdicts = judged(measured(), hands("grasp"))
    assert {verdict.outcome for verdict in verdicts.values()} == {GateOutcome.PASSED}
    assert verdicts["hand_presence"].value == 1.0


@pytest.mark.parametrize(
    ("gate", "column", "good", "bad", "outcome"),
    [
        ("segmented_area", "segmented_share", 0.9, 0.2, GateOutcome.FAILED),
        ("largest_instance", "largest_share", 0.8, 0.81, GateOutcome.FAILED),
        ("hand_area", "hand_share", 0.15, 0.16, GateOutcome.WARNED),
        ("hand_area", "hand_share", 0.005, 0.004, GateOutcome.WARNED),
    ],
)
def test_a_tenth_of_the_frames_may_fall_through(
    gate: str, column: str, good: float, bad: float, outcome: GateOutcome
) -> None:
    allowed = judged(measured(**{column: first(0.1, good, bad)}))[gate]
    assert allowed.outcome is GateOutcome.PASSED and allowed.value == pytest.approx(0.1)
    refused = judged(measured(**{column: first(0.15, good, bad)}))[gate]
    assert refused.outcome is outcome and refused.value == pytest.approx(0.15)
    assert refused.details["first_failing_frames"] == [0, 6, 12]


def test_only_area_and_largest_instance_ask_for_another_attempt() -> None:
    bad = measured(segmented_share=0.1, largest_share=0.9, hand_share=0.4, consistency=0.1)
    verdicts = judge_masks(bad, hands("grasp"), activity="")
    assert [verdict.spec.name for verdict in verdicts if verdict.blocks] == [
        "segmented_area",
        "largest_instance",
    ]
    refusal = blocking_refusal(verdicts)
    assert "20%" in refusal and "80%" in refusal


def test_hands_must_be_there_in_two_fifths_of_a_clip_about_handling_things() -> None:
    few, enough = measured(hand_share=first(0.65, 0.05, 0)), measured(hand_share=first(0.6, 0.05, 0))
    assert judged(few, hands("grasp"))["hand_presence"].outcome is GateOutcome.FAILED
    assert judged(enough, hands("grasp"))["hand_presence"].outcome is GateOutcome.PASSED


@pytest.mark.parametrize("tracks", [None, hands("free"), hands(None), hands("grasp", busy=1)])
def test_presence_is_not_judged_where_nobody_handles_anything(tracks: HandObjectTracks | None) -> None:
    verdict = judged(measured(hand_share=0), tracks)["hand_presence"]
    assert verdict.outcome is GateOutcome.NOT_EVALUATED and verdict.value is None


@pytest.mark.parametrize(
    ("activity", "tracks", "outcome"),
    [
        ("cooking", hands("free"), GateOutcome.FAILED),
        ("walking", hands("grasp"), GateOutcome.NOT_EVALUATED),
        ("cooking", None, GateOutcome.NOT_EVALUATED),
    ],
)
def test_the_activity_decides_where_it_tells(
    activity: str, tracks: HandObjectTracks | None, outcome: GateOutcome
) -> None:
    assert judged(measured(hand_share=0), tracks, activity=activity)["hand_presence"].outcome is outcome


def test_frames_without_hands_say_nothing_about_their_area() -> None:
    assert judged(measured(hand_share=0))["hand_area"].outcome is GateOutcome.NOT_EVALUATED
    some = judged(measured(hand_share=first(0.5, 0.05, 0)))["hand_area"]
    assert some.outcome is GateOutcome.PASSED and some.details["judged_frames"] == 10


def test_consistency_warns_and_ignores_frames_that_cannot_be_compared() -> None:
    assert judged(measured(consistency=np.nan))["consistency"].outcome is GateOutcome.NOT_EVALUATED
    assert judged(measured(consistency=first(0.2, 0.9, 0.1)))["consistency"].outcome is GateOutcome.PASSED
    assert judged(measured(consistency=first(0.25, 0.9, 0.1)))["consistency"].outcome is GateOutcome.WARNED
    cut = judged(measured(consistency=first(0.5, 0.9, np.nan)))["consistency"]
    assert cut.outcome is GateOutcome.PASSED and cut.details["judged_frames"] == 10


def test_a_clip_without_frames_is_not_evaluated() -> None:
    assert {verdict.outcome for verdict in judged(measured(count=0)).values()} == {GateOutcome.NOT_EVALUATED}


def test_every_frame_has_its_verdicts() -> None:
    verdicts = frame_verdicts(
        measured(
            count=2,
            segmented_share=[0.1, 0.9],
            hand_share=[0, 0.5],
            consistency=[np.nan, 0.2],
        ),
        hands("grasp"),
        activity="",
    )
    assert set(verdicts) == {gate.name for gate in GATES}
    assert verdicts["segmented_area"] == (GateOutcome.FAILED, GateOutcome.PASSED)
    assert verdicts["hand_area"] == (GateOutcome.NOT_EVALUATED, GateOutcome.WARNED)
    assert verdicts["consistency"] == (GateOutcome.NOT_EVALUATED, GateOutcome.WARNED)
    assert verdicts["hand_presence"] == (GateOutcome.FAILED, GateOutcome.PASSED)


@pytest.mark.parametrize("tracks", [None, hands("free"), hands("grasp")])
@pytest.mark.parametrize("activity", ["", "walking", "cooking"])
@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"hand_share": 0},
        {"hand_share": 0.5, "consistency": 0.1},
        {"segmented_share": 0.1, "largest_share": 0.9, "consistency": np.nan},
    ],
)
def test_frames_never_contradict_their_clip(
    tracks: HandObjectTracks | None, activity: str, columns: dict[str, float]
) -> None:
    """All frames are alike here, so the clip's verdict is that of every frame."""
    clip = judged(measured(**columns), tracks, activity=activity)
    frames = frame_verdicts(measured(**columns), tracks, activity=activity)
    assert {name: set(outcomes) for name, outcomes in frames.items()} == {
        name: {verdict.outcome} for name, verdict in clip.items()
    }
