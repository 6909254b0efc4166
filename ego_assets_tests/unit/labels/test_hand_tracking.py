"""Which detections are the wearer's left and right hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ego_assets.labels.hand_tracking import WearerHands, track_wearer_hands
from ego_assets.labels.hands import (
    finger_flexion,
    hand_box,
    hand_silhouette,
    palm_length,
    smooth_landmarks,
)
from ego_assets.schema.hands import HandDetections

WIDTH, HEIGHT = 640, 360
FloatArray = npt.NDArray[np.float64]


def hand(x: float, y: float, *, palm: float = 40.0, lean: float = 0.0, curl: float = 0.0) -> FloatArray:
    """A hand with its wrist at (x, y); fingers point up, ``lean`` radians to the right, ``curl`` 0-1 bends them."""
    points = [(0.0, 0.0), (-0.3, -0.3), (-0.5, -0.55), (-0.65, -0.75), (-0.75, -0.95)]
    for column in (-0.3, 0.0, 0.2, 0.4):
        bend = 0.0
        place = np.array([column, -1.0])
        points.append((place[0], place[1]))
        for bone in (0.45, 0.3, 0.25):
            bend += curl * 1.6
            place = place + bone * np.array([0.0, -np.cos(bend)])
            points.append((place[0], place[1]))
    turn = np.array([[np.cos(lean), -np.sin(lean)], [np.sin(lean), np.cos(lean)]])
    return np.asarray(np.array(points) @ turn.T * palm + (x, y))


def detections(
    *hands: FloatArray, right: Sequence[float] | float = 0.5, scores: float = 0.9
) -> HandDetections:
    if not hands:
        return HandDetections.empty()
    count = len(hands)
    return HandDetections(
        boxes_xyxy=np.stack([hand_box(points, width=WIDTH, height=HEIGHT) for points in hands]).astype(
            np.float32
        ),
        scores=np.full(count, scores, np.float32),
        right_scores=np.broadcast_to(np.asarray(right, np.float32), (count,)).copy(),
        landmarks_xy=np.stack(hands).astype(np.float32),
        contact_scores=np.full(count, np.nan, np.float32),
        contact_boxes_xyxy=np.full((count, 4), np.nan, np.float32),
    )


def track(
    frames: Sequence[HandDetections], *, step_s: float = 0.1, cuts: npt.NDArray[np.bool_] | None = None
) -> WearerHands:
    times = (np.arange(len(frames)) * step_s * 1e9).astype(np.int64)
    return track_wearer_hands(frames, times, width=WIDTH, height=HEIGHT, cuts=cuts)


def left_hand(x: float = 200, y: float = 300, **options: float) -> FloatArray:
    return hand(x, y, lean=0.4, **options)


def right_hand(x: float = 440, y: float = 300, **options: float) -> FloatArray:
    return hand(x, y, lean=-0.4, **options)


def test_both_hands_find_their_side_in_any_order() -> None:
    frames = [detections(*((left_hand(), right_hand())[:: (-1) ** number])) for number in range(8)]
    hands = track(frames)
    assert hands.left.visible.all() and hands.right.visible.all()
    assert hands.left.detection.tolist() == [0, 1] * 4 and hands.right.detection.tolist() == [1, 0] * 4
    assert hands.other_hands.tolist() == [0] * 8


def test_one_wrong_opinion_does_not_move_a_hand_to_the_other_side() -> None:
    opinions = [0.9, 0.9, 0.1, 0.9, 0.05, 0.9, 0.9, 0.9]
    hands = track([detections(right_hand(), right=opinion) for opinion in opinions])
    assert hands.right.visible.all() and not hands.left.visible.any()


def test_crossed_hands_keep_their_sides() -> None:
    """The forearm tells: a right hand that works on the left still comes from the right."""
    frames = [detections(left_hand(200 + 20 * n), right_hand(440 - 20 * n)) for n in range(10)]
    hands = track(frames)
    assert hands.left.detection.tolist() == [0] * 10 and hands.right.detection.tolist() == [1] * 10


def test_hands_of_others_are_counted_not_taken() -> None:
    across = hand(320, 90, palm=16, lean=np.pi)
    hands = track([detections(right_hand(), across) for _ in range(6)])
    assert hands.right.visible.all() and not hands.left.visible.any()
    assert hands.other_hands.tolist() == [1] * 6


def test_a_third_hand_of_the_wearer_is_not_possible() -> None:
    extra = hand(560, 320, lean=-0.3)
    hands = track([detections(left_hand(), right_hand(), extra) for _ in range(6)])
    assert hands.left.visible.all() and hands.right.visible.all()
    assert hands.other_hands.tolist() == [1] * 6


@pytest.mark.parametrize(("missed", "bridged"), [(1, True), (2, True), (4, False)])
def test_short_gaps_are_bridged_and_long_ones_are_not(missed: int, bridged: bool) -> None:
    frames = [detections(right_hand(420 + 2 * n)) for n in range(14)]
    frames[5 : 5 + missed] = [HandDetections.empty()] * missed
    hands = track(frames)
    gap = slice(5, 5 + missed)
    assert hands.right.visible[gap].tolist() == [bridged] * missed
    assert (hands.right.detection[gap] == -1).all()
    if bridged:
        middle = hands.right.landmarks_xy[gap].mean(axis=(0, 1))
        around = hands.right.landmarks_xy[[4, 5 + missed]].mean(axis=(0, 1))
        assert np.allclose(middle, around, atol=2)
        assert (hands.right.scores[gap] < hands.right.scores[4]).all()


def test_nothing_is_carried_over_a_cut() -> None:
    frames = [detections(right_hand()) for _ in range(10)]
    frames[5] = HandDetections.empty()
    cuts = np.zeros(10, np.bool_)
    cuts[6] = True
    assert not track(frames, cuts=cuts).right.visible[5]
    assert track(frames).right.visible[5]


def test_a_hand_found_again_where_it_was_keeps_its_side() -> None:
    """Seen from the side for a while, it looks like the other one; it has not changed places with it."""
    sure = [detections(left_hand()) for _ in range(12)]
    gone = [HandDetections.empty()] * 6
    doubtful = [detections(hand(215, 300, lean=-0.5), right=0.65) for _ in range(6)]
    hands = track([*sure, *gone, *doubtful])
    assert hands.left.visible[-6:].all() and not hands.right.visible.any()


def test_a_single_weak_sighting_is_noise_unless_it_is_all_there_is() -> None:
    weak = detections(right_hand(), scores=0.5)
    assert not track([HandDetections.empty(), weak, HandDetections.empty()]).right.visible.any()
    assert track([weak]).right.visible.all()


def test_trembling_is_smoothed_and_motion_is_followed() -> None:
    rng = np.random.default_rng(0)
    still = [right_hand() + rng.normal(0, 2, (21, 2)) for _ in range(30)]
    smooth = track([detections(points) for points in still]).right.landmarks_xy
    assert np.diff(smooth, axis=0).std() < 0.5 * np.diff(np.stack(still), axis=0).std()
    moving = [right_hand(300 + 12 * n) for n in range(20)]
    followed = track([detections(points) for points in moving]).right.landmarks_xy
    assert np.abs(followed - np.stack(moving))[2:-2].max() < 6


def test_boxes_stay_inside_the_picture() -> None:
    hands = track([detections(hand(620, 340, palm=90)) for _ in range(3)])
    boxes = hands.right.boxes_xyxy
    assert (boxes >= 0).all() and (boxes[:, 2] <= WIDTH).all() and (boxes[:, 3] <= HEIGHT).all()


def test_a_detector_without_landmarks_decides_by_its_own_opinion() -> None:
    def boxes_only(right: float) -> HandDetections:
        found = detections(right_hand(340), right=right)
        return HandDetections(
            boxes_xyxy=found.boxes_xyxy,
            scores=found.scores,
            right_scores=found.right_scores,
            landmarks_xy=np.full((1, 21, 2), np.nan, np.float32),
            contact_scores=found.contact_scores,
            contact_boxes_xyxy=found.contact_boxes_xyxy,
        )

    assert track([boxes_only(0.02)] * 4).left.visible.all()
    assert track([boxes_only(0.98)] * 4).right.visible.all()


def test_no_frames_and_no_hands() -> None:
    assert track([]).left.visible.size == 0
    empty = track([HandDetections.empty()] * 3)
    assert not empty.left.visible.any() and empty.right.runs == []


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="expected 2, got 1"):
        track_wearer_hands([HandDetections.empty()], np.array([0, 1]), width=WIDTH, height=HEIGHT)
    with pytest.raises(ValueError, match="expected"):
        smooth_landmarks(np.zeros((2, 20, 2)), np.arange(2.0))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.lists(
            st.tuples(
                st.floats(-50, 700),
                st.floats(-50, 400),
                st.floats(5, 120),
                st.floats(-3.1, 3.1),
                st.floats(0, 1),
            ),
            max_size=4,
        ),
        max_size=8,
    )
)
def test_every_detection_has_at_most_one_role(frames: list[list[tuple[float, ...]]]) -> None:
    found = [
        detections(
            *(hand(x, y, palm=palm, lean=lean) for x, y, palm, lean, _ in each),
            right=[right for *_, right in each],
        )
        for each in frames
    ]
    hands = track(found)
    for frame, each in enumerate(found):
        taken = [int(side.detection[frame]) for side in (hands.left, hands.right)]
        taken = [place for place in taken if place >= 0]
        assert len(set(taken)) == len(taken) and all(place < len(each) for place in taken)
        assert len(taken) + hands.other_hands[frame] <= len(each)
    for side in (hands.left, hands.right):
        assert np.isfinite(side.boxes_xyxy[side.visible]).all()
        assert np.isnan(side.boxes_xyxy[~side.visible]).all()


def test_shape_of_a_hand_does_not_depend_on_where_and_how_large_it_is() -> None:
    near, far = hand(100, 100, palm=80, curl=0.6), hand(300, 50, palm=20, curl=0.6)
    assert palm_length(near) == pytest.approx(4 * palm_length(far))
    assert finger_flexion(near) == pytest.approx(finger_flexion(far))
    assert finger_flexion(hand(0, 0)).max() < 0.05 < finger_flexion(hand(0, 0, curl=1.0)).min()
    assert finger_flexion(np.zeros((21, 2))).tolist() == [0.0] * 4


def test_the_silhouette_holds_the_landmarks_and_a_finger_s_width_around_them() -> None:
    points = hand(100, 120, palm=40)
    mask = hand_silhouette(points, width=200, height=180)
    assert mask.shape == (180, 200) and mask.dtype == np.bool_
    columns, rows = np.rint(points).astype(int).T
    assert mask[rows, columns].all()
    y, x = np.nonzero(mask)
    distance = np.linalg.norm(np.stack([x, y], axis=1)[:, None] - points[None], axis=2).min(axis=1)
    # Nothing is farther from every joint than half a long bone and half a finger's width.
    assert distance.max() < 40
    wider = hand_silhouette(points, width=200, height=180, margin_palms=0.2)
    assert (wider | mask == wider).all() and wider.sum() > 1.3 * mask.sum()


def test_the_silhouette_of_a_hand_beside_the_picture_is_empty() -> None:
    assert not hand_silhouette(hand(-500, -500), width=64, height=48).any()
    assert hand_silhouette(np.zeros((21, 2)), width=64, height=48).sum() < 12
