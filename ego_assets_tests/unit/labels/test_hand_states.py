"""States of a hand over time."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ego_assets.labels.hand_object import find_hand_objects
from ego_assets.labels.hand_states import (
    REACH_S,
    TRANSITIONS,
    WITHDRAWAL_S,
    HandSignals,
    HandStates,
    contact_probability,
    is_legal,
    judge_states,
)
from ego_assets.media.sampling import sample_frames
from ego_assets.schema.errors import BackendUnavailable
from ego_assets.schema.hands import HAND_STATES, HandDetector, HandState
from ego_assets.synth import SceneSpec, render_clip
from resources.profiles import BackendConfig, Profile, build_backend


def signals(count: int, **given_values: Any) -> HandSignals:
    unknown = np.full(count, np.nan)
    values: dict[str, Any] = {
        "times_s": np.arange(count) / 10,
        "places_xy": np.zeros((count, 2)),
        "palm_px": 20.0,
        "flexion": unknown,
        "together": unknown,
        "speed_palms": unknown,
        "camera_palms": unknown,
        "distinct": unknown,
        "contact_scores": unknown,
    }
    return HandSignals(**(values | given_values))


def judged(*letters_and_places: tuple[float, float]) -> HandStates:
    """States from a detector's contact scores and the hand's place along a line, in palms."""
    contact, places = zip(*letters_and_places, strict=True)
    along = np.array([[20.0 * place, 0.0] for place in places])
    return judge_states(signals(len(contact), contact_scores=np.array(contact), places_xy=along))


#: Rests, reaches over five palms, holds, lifts, lets go and comes back, rests.
REST, REACH = [(0.02, 0.0)] * 8, [(0.02, place) for place in (0.5, 1.5, 3.0, 4.5)]
HOLD = [(0.98, 5.0)] * 10
BACK, REST_AGAIN = [(0.02, place) for place in (4.5, 3.0, 1.5, 0.5)], [(0.02, 0.4)] * 8


def test_a_whole_grasp_goes_through_all_states() -> None:
    found = judged(*REST, *REACH, *HOLD, *BACK, *REST_AGAIN)
    assert set(found.states) == set(HAND_STATES)
    assert found.states[:6] == ("free",) * 6
    assert found.states[9:12] == ("pre-grasp",) * 3
    assert found.states[12:22] == ("grasp",) * 10
    assert found.states[22:26] == ("post-release",) * 4
    assert found.states[-6:] == ("free",) * 6
    assert (found.contact_scores[12:22] > 0.5).all()
    # How sure contact is, or its absence; ways to an object and back follow from a rule that is not sure of anything.
    moving = np.array([state in ("pre-grasp", "post-release") for state in found.states])
    assert np.isnan(found.state_scores[moving]).all() and (found.state_scores[~moving] >= 0.5).all()


def test_a_hand_that_drops_something_and_stays_is_free_at_once() -> None:
    found = judged(*HOLD, *[(0.02, 5.0)] * 8)
    assert found.states[:10] == ("grasp",) * 10 and found.states[10:] == ("free",) * 8


def test_a_hand_that_takes_hold_without_a_reach_in_view() -> None:
    assert judged(*[(0.02, 5.0)] * 8, *HOLD).states[7:9] == ("free", "grasp")


def test_letting_go_and_taking_hold_of_the_next_thing() -> None:
    over = [(0.02, place) for place in (5.8, 7.0, 8.2, 9.4)]
    found = judged(*HOLD, *over, *[(0.98, 10.0)] * 8)
    assert found.states[10] == "post-release" and found.states[14:] == ("grasp",) * 8
    assert all(is_legal(a, b) for a, b in pairwise(found.states))


def test_one_contradicting_frame_changes_nothing() -> None:
    held = [(0.8, 5.0)] * 12
    held[6] = (0.3, 5.0)
    assert set(judged(*held).states) == {"grasp"}
    away = [(0.2, 5.0)] * 12
    away[6] = (0.7, 5.0)
    assert set(judged(*away).states) == {"free"}


def test_what_moves_with_the_hand_is_held() -> None:
    moving = {"speed_palms": np.full(10, 0.4), "camera_palms": np.zeros(10)}
    with_it = judge_states(signals(10, together=np.full(10, 0.8), **moving))
    without = judge_states(signals(10, together=np.zeros(10), flexion=np.ones(10), **moving))
    assert set(with_it.states) == {"grasp"} and with_it.contact_scores.min() > 0.9
    assert set(without.states) == {"free"} and without.contact_scores.max() < 0.4


def test_a_hand_that_stays_in_the_scene_while_the_camera_moves_touches_it() -> None:
    still = np.full(10, 0.01)
    anchored = judge_states(signals(10, speed_palms=still, camera_palms=np.full(10, 0.5)))
    unknown = judge_states(signals(10, speed_palms=still, camera_palms=np.zeros(10)))
    assert anchored.contact_scores.mean() > 0.9 > unknown.contact_scores.mean()


def test_without_evidence_it_says_how_unsure_it_is() -> None:
    found = judge_states(signals(5))
    assert np.abs(found.contact_scores - 0.5).max() < 0.1
    assert (found.state_scores < 0.6).all()
    # The prior alone is no grasp.
    assert set(found.states) == {"free"}


#: A clip in which the left hand stays in sight of a common detector from reach to withdrawal.
CLIP = SceneSpec(
    seed=53,
    width=960,
    height=540,
    frame_rate=Fraction(10),
    duration_s=5.0,
    location="office",
    camera_motion="still",
)

#: What the hand does at 10 frames a second, and how far along its way it is, in palms.
SCRIPT: list[tuple[HandState, float]] = (
    [("free", 0.0)] * 12
    + [("pre-grasp", place) for place in (0.3, 0.9, 1.7, 2.5, 3.1, 3.4)]
    + [("grasp", place) for place in (3.5, 3.4, 3.1, 2.8, 2.6, 2.5, 2.6, 2.8, 3.1, 3.4, 3.5, 3.5)]
    + [("post-release", place) for place in (3.2, 2.5, 1.7, 0.9, 0.4, 0.1)]
    + [("free", 0.0)] * 12
)


def seen(script: list[tuple[HandState, float]], *, seed: int) -> HandSignals:
    """What a noisy observation of a script says: no opinion about contact, and often nothing about motion."""
    random = np.random.default_rng(seed)
    states, along = zip(*script, strict=True)
    count = len(script)
    places = 30.0 * np.stack([along, np.zeros(count)], axis=1) + random.normal(0, 0.6, (count, 2))
    speed = np.abs(np.gradient(np.array(along))) + np.abs(random.normal(0, 0.02, count))
    held = np.array(states) == "grasp"
    together = np.clip(np.where(held, 0.65, 0.04) + random.normal(0, 0.1, count), 0, 1)
    # Only a hand that moves shows what moves with it; and one frame in five shows nothing.
    together[(speed < 0.06) | (random.random(count) < 0.2)] = np.nan
    flexion = np.clip(np.where(held, 0.5, 0.1) + random.normal(0, 0.1, count), 0, 1)
    return signals(
        count,
        places_xy=places,
        palm_px=30.0,
        together=together,
        speed_palms=speed,
        camera_palms=np.zeros(count),
        flexion=flexion,
    )


def test_reach_hold_and_release_are_told_apart_from_noisy_rules() -> None:
    right = {state: 0 for state in HAND_STATES}
    for seed in range(8):
        found = judge_states(seen(SCRIPT, seed=seed)).states
        assert all(is_legal(a, b) for a, b in pairwise(found))
        for (state, _), judged_state in zip(SCRIPT, found, strict=True):
            right[state] += judged_state == state
    recall = {state: count / (8 * sum(state == told for told, _ in SCRIPT)) for state, count in right.items()}
    assert min(recall.values()) > 0.6, recall


def carried(*, held: float) -> HandSignals:
    """A hand that comes in over three palms, rests on a thing while the camera moves, and goes back."""
    along = np.array([0, 0.6, 1.3, 2.1, 2.7, *[3.0] * 10, 2.7, 2.1, 1.3, 0.6, 0])
    resting = along == 3.0
    return signals(
        along.size,
        places_xy=np.stack([20 * along, np.zeros(along.size)], axis=1),
        speed_palms=np.where(resting, 0.01, 0.6),
        camera_palms=np.where(resting, 0.3, 0.0),
        together=np.where(resting, np.nan, held),
    )


def test_a_hand_that_comes_into_view_reaching_reaches() -> None:
    found = judge_states(carried(held=0.0))
    assert found.states[:5] == ("pre-grasp",) * 5
    assert found.states[5:15] == ("grasp",) * 10
    assert found.states[15:] == ("post-release",) * 5
    on_a_way = np.array([state != "grasp" for state in found.states])
    assert (found.contact_scores[on_a_way] <= 0.5).all()


def test_a_hand_that_carries_something_holds_it_all_the_way() -> None:
    assert set(judge_states(carried(held=0.9)).states) == {"grasp"}


def test_a_hand_that_goes_away_holding_does_not_let_go_for_want_of_evidence() -> None:
    """Before a contact nothing known is enough for a reach; after it, letting go has to be seen."""
    states = judge_states(carried(held=np.nan)).states
    assert states[:5] == ("pre-grasp",) * 5 and set(states[5:]) == {"grasp"}


def test_ways_are_bounded() -> None:
    """A hand that comes from far sets out for the thing only towards the end."""
    far = [(0.02, place) for place in np.linspace(-1.0, 4.9, 25)]
    found = judged(*far, *HOLD, *far[::-1]).states
    longest = round(max(REACH_S, WITHDRAWAL_S) * 10)
    assert 0 < found.count("pre-grasp") <= longest and 0 < found.count("post-release") <= longest


def test_a_rendered_hand_goes_through_all_states(tmp_path: Path) -> None:
    """A detector, tracks, motion in the picture and states, from pixels."""
    profile = Profile(name="t", backends={"hands": BackendConfig(backend="mediapipe_hands")})
    try:
        detector: HandDetector = build_backend(profile, "hands")
    except BackendUnavailable as error:
        pytest.skip(str(error))
    truth = render_clip(CLIP, tmp_path / "clip.mp4")
    frames = sample_frames(tmp_path / "clip.mp4", frames_per_second=10.0)
    track = find_hand_objects(frames.stream(), detector, resolution=frames.size).left
    assert truth.left_hand_state
    for name in HAND_STATES:
        rows = [row for row, at in enumerate(frames.frame_index) if truth.left_hand_state[at] == name]
        assert any(track.states[row] == name for row in rows), name


def test_a_detectors_opinion_replaces_the_rules() -> None:
    rules = {"together": np.ones(6), "speed_palms": np.ones(6), "camera_palms": np.zeros(6)}
    assert set(judge_states(signals(6, contact_scores=np.full(6, 0.05), **rules)).states) == {"free"}


def test_no_frames_and_one_frame() -> None:
    assert judge_states(signals(0)).states == ()
    assert judged((0.98, 0.0)).states == ("grasp",) and judged((0.02, 0.0)).states == ("free",)


def test_evidence_is_carried_over_time_and_fades() -> None:
    log_odds = np.zeros(200)
    log_odds[0] = 4.0
    probability = contact_probability(log_odds, np.arange(200) / 10)
    assert probability[0] > 0.9 and (np.diff(probability) <= 1e-9).all() and probability[-1] < 0.51


def test_every_state_can_be_reached_and_left() -> None:
    reached = set().union(*(set(after) - {before} for before, after in TRANSITIONS.items()))
    assert set(TRANSITIONS) == reached == set(HAND_STATES)
    assert not is_legal("free", "post-release") and not is_legal("pre-grasp", "post-release")
    assert is_legal(None, "post-release") and is_legal("grasp", None)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(-8, 8)), min_size=1, max_size=60))
def test_every_sequence_is_legal(frames: list[tuple[float, float]]) -> None:
    found = judged(*frames)
    assert all(is_legal(a, b) for a, b in pairwise(found.states))
    assert np.isfinite(found.contact_scores).all()
    assert ((found.contact_scores >= 0) & (found.contact_scores <= 1)).all()


def test_arrays_must_agree() -> None:
    with pytest.raises(ValueError, match=r"flexion: expected \[3\]"):
        signals(3, flexion=np.zeros(2))
    with pytest.raises(ValueError, match="places_xy"):
        signals(3, places_xy=np.zeros((3, 3)))
