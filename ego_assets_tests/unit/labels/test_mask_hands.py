"""Masks of hands and of what they hold, and label maps at the size of a frame."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest

from ego_assets.labels.masks import LearntColours, at_frame_size, hand_mask, held_mask

SKIN, TABLE = (110, 140, 205), (90, 110, 60)

#: An open hand that points upwards: wrist, then five fingers of four landmarks, in units of the palm's length.
LANDMARKS = np.array(
    [[0.0, 0.0]]
    + [[-0.30 - 0.17 * k, -0.20 - 0.22 * k] for k in range(4)]
    + [
        [x, y - 0.28 * k]
        for x, y in ((-0.28, -0.95), (0.0, -1.0), (0.2, -0.95), (0.38, -0.85))
        for k in range(4)
    ],
    np.float32,
)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))


def draw(
    size: float = 70.0, at: tuple[float, float] = (150.0, 170.0)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A picture of a hand with its forearm, the true mask of the hand, and its landmarks."""
    landmarks = (LANDMARKS * size + np.array(at, np.float32)).astype(np.float32)
    hand = np.zeros((240, 320), np.uint8)
    points = np.rint(landmarks).astype(int)
    cv2.fillConvexPoly(hand, cv2.convexHull(points[[0, 1, 2, 5, 9, 13, 17]]), (1,))
    for finger in range(5):
        joints = [points[0], *points[1 + 4 * finger : 5 + 4 * finger]]
        for a, b in itertools.pairwise(joints):
            cv2.line(hand, a.tolist(), b.tolist(), (1,), round(0.26 * size))
    image = np.full((240, 320, 3), TABLE, np.uint8)
    cv2.line(image, (150, 175), (150, 239), SKIN, round(0.5 * size))
    image[hand > 0] = SKIN
    noise = np.random.default_rng(0).integers(-6, 7, image.shape)
    return np.clip(image.astype(int) + noise, 0, 255).astype(np.uint8), hand > 0, landmarks


def box_of(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(mask)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float32)


def test_a_hand_ends_where_its_colour_does_and_at_the_wrist() -> None:
    image, true, landmarks = draw()
    found = hand_mask(image, box_xyxy=box_of(true), landmarks_xy=landmarks, colours=LearntColours())
    assert overlap(found, true) > 0.85
    assert not found[215:].any(), "the forearm is no hand"


def test_landmarks_that_lie_a_little_off_are_corrected_by_the_picture() -> None:
    image, true, landmarks = draw()
    off = landmarks + np.float32(5)
    skeleton = hand_mask(
        np.full_like(image, 90), box_xyxy=box_of(true), landmarks_xy=off, colours=LearntColours()
    )
    found = hand_mask(image, box_xyxy=box_of(true), landmarks_xy=off, colours=LearntColours())
    assert overlap(found, true) > overlap(skeleton, true) + 0.03


def test_without_landmarks_the_box_has_to_do() -> None:
    image, true, _ = draw()
    missing = np.full((21, 2), np.nan, np.float32)
    found = hand_mask(image, box_xyxy=box_of(true), landmarks_xy=missing, colours=LearntColours())
    assert overlap(found, true) > 0.5


@pytest.mark.parametrize("shift", [(-400, 0), (0, 400), (148, 68)])
def test_hands_outside_or_at_the_border_of_the_picture(shift: tuple[int, int]) -> None:
    image, true, landmarks = draw()
    moved = landmarks + np.array(shift, np.float32)
    found = hand_mask(
        image,
        box_xyxy=box_of(true) + np.tile(np.array(shift, np.float32), 2),
        landmarks_xy=moved,
        colours=LearntColours(),
    )
    assert found.shape == true.shape
    if max(map(abs, shift)) > 300:
        assert not found.any()


def test_landmarks_in_one_point_give_no_hand() -> None:
    image, true, _ = draw()
    landmarks = np.full((21, 2), 100, np.float32)
    assert not hand_mask(image, box_xyxy=box_of(true), landmarks_xy=landmarks, colours=LearntColours()).any()


def test_what_a_hand_holds_is_told_from_the_table_and_from_the_hand() -> None:
    image, hand, _ = draw()
    true = np.zeros(hand.shape, bool)
    true[60:110, 230:280] = True
    image[true] = (200, 90, 30)
    box = np.array([222, 52, 288, 118], np.float32)
    assert overlap(held_mask(image, box_xyxy=box, hands=hand), true) > 0.85
    covered = true.copy()
    covered[:, 260:] = False
    held = held_mask(image, box_xyxy=box, hands=true & ~covered)
    assert not (held & true & ~covered).any()


def test_nothing_is_cut_out_of_a_plain_surface() -> None:
    image = np.full((120, 160, 3), TABLE, np.uint8)
    nobody = np.zeros((120, 160), bool)
    filled = held_mask(image, box_xyxy=np.array([40, 40, 90, 90], np.float32), hands=nobody)
    # Colours say nothing, so the ellipse in the box is all there is to say, or nothing.
    assert not filled[:, :35].any() and not filled[:35].any()
    assert not held_mask(image, box_xyxy=np.array([-90, -90, -50, -50], np.float32), hands=nobody).any()


def test_borders_move_to_the_edges_of_the_full_picture() -> None:
    image = np.full((360, 640, 3), TABLE, np.uint8)
    cv2.circle(image, (300, 180), 97, SKIN, -1)
    true = np.zeros((360, 640), np.uint8)
    cv2.circle(true, (300, 180), 97, 1, -1)
    small = cv2.resize(true, (160, 90), interpolation=cv2.INTER_NEAREST).astype(np.int32) * 5
    large = at_frame_size(small, image)
    assert large.shape == (360, 640) and set(np.unique(large)) == {0, 5}
    assert overlap(large == 5, true > 0) > 0.975
    blocky = cv2.resize(small, (640, 360), interpolation=cv2.INTER_NEAREST) == 5
    assert overlap(large == 5, true > 0) > overlap(blocky, true > 0)


def test_thin_instances_survive_the_change_of_size() -> None:
    small = np.zeros((90, 160), np.int32)
    small[40, :] = 3
    large = at_frame_size(small, np.full((360, 640, 3), 90, np.uint8))
    assert (large == 3).any()
