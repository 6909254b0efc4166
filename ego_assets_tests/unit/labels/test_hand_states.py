"""States of a hand over time."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ego_assets.labels.hand_states import (
    TRANSITIONS,
    HandSignals,
    HandStates,
    contact_probability,
    is_legal,
    judge_states,
)
from ego_assets.schema.hands import HAND_STATES


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
    assert set(without.states) == {"free"} and without.contact_scores.max() < 0.2


def test_a_hand_that_stays_in_the_scene_while_the_camera_moves_touches_it() -> None:
    still = np.full(10, 0.01)
    anchored = judge_states(signals(10, speed_palms=still, camera_palms=np.full(10, 0.5)))
    unknown = judge_states(signals(10, speed_palms=still, camera_palms=np.zeros(10)))
    assert anchored.contact_scores.mean() > 0.9 > unknown.contact_scores.mean()


def test_without_evidence_it_says_how_unsure_it_is() -> None:
    found = judge_states(signals(5))
    assert np.abs(found.contact_scores - 0.5).max() < 0.1
    assert (found.state_scores < 0.6).all()


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
