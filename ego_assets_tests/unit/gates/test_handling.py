"""Whether a clip is about handling things."""

from __future__ import annotations

import numpy as np
import pytest

from ego_assets.gates.handling import MIN_CONTACT_SHARE, contact_share, is_about_handling
from ego_assets.schema.hands import HandObjectTracks, HandSide, HandState, HandTrack


def track(side: HandSide, states: tuple[HandState | None, ...]) -> HandTrack:
    count = len(states)
    return HandTrack(
        side=side,
        visible=np.array([state is not None for state in states], np.bool_),
        boxes_xyxy=np.zeros((count, 4), np.float32),
        scores=np.zeros(count, np.float32),
        landmarks_xy=np.zeros((count, 21, 2), np.float32),
        states=states,
        state_scores=np.zeros(count, np.float32),
        contact_boxes_xyxy=np.zeros((count, 4), np.float32),
        contact_scores=np.zeros(count, np.float32),
    )


def hands(left: tuple[HandState | None, ...], right: tuple[HandState | None, ...]) -> HandObjectTracks:
    return HandObjectTracks(
        frame_index=np.arange(len(left), dtype=np.int64),
        timestamps_ns=np.arange(len(left), dtype=np.int64),
        resolution=(64, 48),
        left=track("left", left),
        right=track("right", right),
        other_hands=np.zeros(len(left), np.int64),
    )


@pytest.mark.parametrize(
    "activity",
    [
        "cooking", "Assembling furniture", "desk_work", "watch repair", "driving screws", "running a sewing machine",
        "cooking and talking", "ridge sanding", "bicycle-repair", "Cutting vegetables", "dishes", "meal prep",
    ],
)  # fmt: skip
def test_a_word_of_handling_decides(activity: str) -> None:
    assert is_about_handling(activity, contact_share=0.0) is True


@pytest.mark.parametrize(
    "activity", ["Walking", "city-walk", "driving", "commuting to work", "watching television", "a long ride"]
)
def test_words_of_anything_else_decide_where_none_of_handling_occurs(activity: str) -> None:
    assert is_about_handling(activity, contact_share=1.0) is False


@pytest.mark.parametrize("activity", ["", "  ", "something", "ridge", "runway", "tourniquet"])
def test_otherwise_the_hands_decide(activity: str) -> None:
    assert is_about_handling(activity, contact_share=None) is None
    assert is_about_handling(activity, contact_share=MIN_CONTACT_SHARE) is True
    assert is_about_handling(activity, contact_share=MIN_CONTACT_SHARE / 2) is False


def test_the_share_counts_frames_in_which_either_hand_reaches_holds_or_lets_go() -> None:
    found = hands(("free", "pre-grasp", None, "grasp"), ("free", "grasp", None, None))
    assert contact_share(found) == pytest.approx(0.5)
    assert contact_share(hands(("post-release", "free"), (None, None))) == pytest.approx(0.5)


def test_without_a_frame_nothing_is_known() -> None:
    assert contact_share(None) is None
    assert contact_share(hands((), ())) is None
