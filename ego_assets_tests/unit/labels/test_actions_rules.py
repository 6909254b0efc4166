"""Evidence from motion and hands, and the activities that the rules make of it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ego_assets.gates.actions import least_score
from ego_assets.labels.action_features import StepFeatures, step_features
from ego_assets.labels.actions import ACTION_LABELS, ActionSteps, MotionRules, rule_probabilities
from ego_assets.schema.hands import HandObjectTracks, HandSide, HandState, HandTrack
from ego_assets.schema.motion import CameraMotion

SIZE = (640, 360)
LONGER = 640.0


def times_of(seconds: float, rate: float = 30.0, start_s: float = 0.0) -> npt.NDArray[np.int64]:
    return np.rint((start_s + np.arange(max(1, round(seconds * rate))) / rate) * 1e9).astype(np.int64)


def motion_of(
    times: npt.NDArray[np.int64],
    *,
    bob_hz: float = 0.0,
    bob_per_s: float = 0.04,
    turn_per_s: float = 0.0,
    residual_rate: float = 0.0,
    size: tuple[int, int] = SIZE,
) -> CameraMotion:
    """A camera that turns evenly and goes up and down, in shares of the longer side per second."""
    seconds = (times - times[0]) / 1e9
    positions = np.zeros((times.size, 2))
    positions[:, 0] = turn_per_s * seconds * max(size)
    if bob_hz:
        angular = 2 * math.pi * bob_hz
        positions[:, 1] = bob_per_s / angular * np.sin(angular * seconds + 0.4) * max(size)
    rate = (times.size - 1) / seconds[-1] if times.size > 1 else 1.0
    change = np.full(times.size, (residual_rate / rate) ** 2, np.float32)
    return CameraMotion(positions_xy=positions, change=change, is_cut=np.zeros(times.size, bool))


def hands_of(
    seconds: float, state: HandState | None, *, moving_per_s: float = 0.0, start_s: float = 0.0
) -> HandObjectTracks:
    """A right hand at 10 frames/s that is in one state all the time and moves to and fro; no left hand."""
    times = times_of(seconds, 10.0, start_s)
    count = times.size
    swing = moving_per_s * 0.1 * (np.arange(count) % 2) * LONGER
    left_edge = np.float32(300) + swing.astype(np.float32)
    boxes = np.stack([left_edge, np.full(count, 200.0), left_edge + 80, np.full(count, 260.0)], axis=1)

    def track(side: HandSide, seen: bool) -> HandTrack:
        nothing = np.full((count, 4), np.nan, np.float32)
        return HandTrack(
            side=side,
            visible=np.full(count, seen),
            boxes_xyxy=boxes.astype(np.float32) if seen else nothing,
            scores=np.full(count, 0.9, np.float32),
            landmarks_xy=np.full((count, 21, 2), np.nan, np.float32),
            states=(state if seen else None,) * count,
            state_scores=np.full(count, 0.9, np.float32),
            contact_boxes_xyxy=nothing,
            contact_scores=np.zeros(count, np.float32),
        )

    return HandObjectTracks(
        frame_index=np.arange(count, dtype=np.int64) * 3,
        timestamps_ns=times,
        resolution=SIZE,
        left=track("left", False),
        right=track("right", state is not None),
        other_hands=np.zeros(count, np.int64),
    )


def labels_of(
    times: npt.NDArray[np.int64], motion: CameraMotion, hands: HandObjectTracks | None
) -> list[str]:
    steps = ActionSteps.of(times)
    features = step_features(steps.times_ns, motion=motion, timestamps_ns=times, hands=hands, resolution=SIZE)
    table = rule_probabilities(features)
    return [ACTION_LABELS[number] for number in table.argmax(axis=1)]


STILL: dict[str, float] = {}
STEPS = {"bob_hz": 1.9, "residual_rate": 4.0}
TURN = {"turn_per_s": 0.6, "residual_rate": 3.0}


@pytest.mark.parametrize(
    ("moves", "state", "hand_speed", "expected"),
    [
        (STILL, None, 0.0, "idle"),
        (STILL, "free", 0.0, "idle"),
        (STILL, "free", 0.5, "manipulating"),
        (STILL, "pre-grasp", 0.0, "manipulating"),
        (STILL, "grasp", 0.0, "manipulating"),
        (STILL, "post-release", 0.3, "manipulating"),
        (STEPS, None, 0.0, "walking"),
        (STEPS, "free", 0.0, "walking"),
        (STEPS, "grasp", 0.0, "carrying"),
        (STEPS, "grasp", 0.8, "manipulating"),
        (TURN, None, 0.0, "looking around"),
        (TURN, "free", 0.0, "looking around"),
        (TURN, "grasp", 0.0, "manipulating"),
    ],
)
def test_rules(moves: dict[str, float], state: HandState | None, hand_speed: float, expected: str) -> None:
    times = times_of(6.0)
    hands = hands_of(6.0, state, moving_per_s=hand_speed)
    assert labels_of(times, motion_of(times, **moves), hands) == [expected] * 6


@pytest.mark.parametrize(("bob_hz", "walks"), [(0.7, False), (1.6, True), (2.3, True), (3.2, False)])
def test_only_the_rhythm_of_steps_is_walking(bob_hz: float, walks: bool) -> None:
    times = times_of(8.0)
    labels = labels_of(times, motion_of(times, bob_hz=bob_hz, residual_rate=4.0), None)
    assert labels == ["walking" if walks else "idle"] * 8


def test_a_rhythm_in_front_of_a_scene_that_stands_still_is_not_walking() -> None:
    times = times_of(6.0)
    assert labels_of(times, motion_of(times, bob_hz=1.9, residual_rate=0.5), None) == ["idle"] * 6


def test_shaking_without_rhythm_is_not_walking() -> None:
    times = times_of(8.0)
    shaken = motion_of(times, residual_rate=4.0)
    noise = np.random.default_rng(3).normal(0, 0.002 * LONGER, (times.size, 2))
    motion = CameraMotion(positions_xy=noise, change=shaken.change, is_cut=shaken.is_cut)
    assert "walking" not in labels_of(times, motion, None)


def test_each_second_is_told_by_what_is_around_it() -> None:
    times = times_of(12.0)
    moves = motion_of(times, **STEPS)
    still = times > 6e9
    positions = np.array(moves.positions_xy)
    positions[still] = positions[~still][-1]
    change = np.array(moves.change)
    change[still] = 0
    motion = CameraMotion(positions_xy=positions, change=change, is_cut=moves.is_cut)
    labels = labels_of(times, motion, None)
    assert labels[:5] == ["walking"] * 5 and labels[-4:] == ["idle"] * 4


@given(
    scale=st.sampled_from([0.25, 0.5, 2.0, 3.0]),
    rate=st.sampled_from([20.0, 25.0, 50.0, 60.0]),
    start_s=st.sampled_from([0.0, 12.5]),
)
def test_neither_resolution_nor_frame_rate_nor_start_changes_the_evidence(
    scale: float, rate: float, start_s: float
) -> None:
    def features(size: tuple[int, int], rate: float, start_s: float) -> StepFeatures:
        times = times_of(6.0, rate, start_s)
        motion = motion_of(times, bob_hz=1.9, turn_per_s=0.2, residual_rate=3.0, size=size)
        steps = ActionSteps.of(times)
        return step_features(steps.times_ns, motion=motion, timestamps_ns=times, hands=None, resolution=size)

    size = (round(SIZE[0] * scale), round(SIZE[1] * scale))
    ours, reference = features(size, rate, start_s), features(SIZE, 30.0, 0.0)
    assert np.allclose(ours.turn_speed, reference.turn_speed, rtol=0.05)
    assert np.allclose(ours.bob_speed, reference.bob_speed, rtol=0.1)
    assert np.allclose(ours.bob_share, reference.bob_share, atol=0.1)
    assert np.allclose(ours.residual_rate, reference.residual_rate, rtol=0.1)


def scores_of(
    times: npt.NDArray[np.int64], motion: CameraMotion, hands: HandObjectTracks | None
) -> npt.NDArray[np.float32]:
    steps = ActionSteps.of(times)
    return rule_probabilities(
        step_features(steps.times_ns, motion=motion, timestamps_ns=times, hands=hands, resolution=SIZE)
    )


@pytest.mark.parametrize("layer", [True, False])
def test_without_a_visible_hand_nobody_knows_whether_hands_are_idle_or_at_work(layer: bool) -> None:
    times = times_of(5.0)
    scores = scores_of(times, motion_of(times), hands_of(5.0, None) if layer else None)
    idle, work = (scores[:, ACTION_LABELS.index(label)] for label in ("idle", "manipulating"))
    assert (idle > work).all() and (idle < least_score(len(ACTION_LABELS))).all() and (work > 0.3).all()
    # A hand that is seen to rest tells.
    resting = scores_of(times, motion_of(times), hands_of(5.0, "free"))
    assert (resting[:, ACTION_LABELS.index("idle")] > 0.8).all()
    # So do steps, whatever the hands.
    walking = scores_of(times, motion_of(times, **STEPS), hands_of(5.0, None) if layer else None)
    assert (walking[:, ACTION_LABELS.index("walking")] > 0.8).all()


def test_pictures_too_dark_to_measure_by_say_nothing_about_motion() -> None:
    times = times_of(6.0)
    still = motion_of(times)
    dark = replace(still, unseen=np.ones(times.size, np.bool_))
    assert (scores_of(times, dark, None).max(axis=1) < least_score(len(ACTION_LABELS))).all()
    half = replace(still, unseen=np.arange(times.size) % 4 == 0)
    assert np.array_equal(scores_of(times, half, None), scores_of(times, still, None))


def test_hands_lost_on_half_of_the_frames_still_work() -> None:
    times = times_of(4.0)
    full = hands_of(4.0, "grasp")
    seen = np.arange(full.frame_index.size) % 2 == 0
    track = replace(
        full.right, visible=seen, states=tuple("grasp" if each else None for each in seen.tolist())
    )
    assert labels_of(times, motion_of(times), replace(full, right=track)) == ["manipulating"] * 4


@given(data=st.data())
def test_probabilities_sum_to_one_whatever_the_evidence(data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 5))
    columns = {
        name: np.array(data.draw(st.lists(st.floats(0, 100), min_size=count, max_size=count)), np.float64)
        for name in StepFeatures.__dataclass_fields__
    }
    table = rule_probabilities(StepFeatures(**columns))
    assert table.shape == (count, 5) and table.dtype == np.float32
    assert np.all((table >= 0) & (table <= 1)) and np.allclose(table.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("frames", [1, 2, 7])
def test_clips_of_a_few_frames_are_idle(frames: int) -> None:
    times = times_of(1.0)[:frames]
    assert labels_of(times, CameraMotion.still(frames), None) == ["idle"]


def test_evidence_that_does_not_belong_together_is_refused() -> None:
    times = times_of(2.0)
    steps = ActionSteps.of(times)
    with pytest.raises(ValueError, match="timestamps_ns: expected"):
        step_features(
            steps.times_ns, motion=CameraMotion.still(3), timestamps_ns=times, hands=None, resolution=SIZE
        )
    with pytest.raises(ValueError, match="hands: expected a resolution"):
        step_features(
            steps.times_ns,
            motion=motion_of(times),
            timestamps_ns=times,
            hands=hands_of(2.0, "grasp"),
            resolution=(1280, 720),
        )


@pytest.mark.parametrize(
    "wrong", [{"certainty": 1.0}, {"certainty": 0.4}, {"turn_speed": (0.4, 0.2)}, {"usual_work": 1.0}]
)
def test_rules_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        MotionRules(**wrong)  # type: ignore[arg-type]
