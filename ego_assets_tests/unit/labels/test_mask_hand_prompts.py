"""What the hand layer knows of hands, as prompts for a network."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from ego_assets.labels.mask_hands import SeenHand, seen_hands
from ego_assets.schema.frames import ClipFrame
from ego_assets_tests.unit.models.test_conformance_masks import clip, hands_on

WIDTH, HEIGHT = 120, 80


def hand(*, landmarks: bool = False) -> SeenHand:
    places = np.full((21, 2), np.nan, np.float32)
    if landmarks:
        steps = np.linspace(0, 1, 4)[None, :, None]
        bases = np.array([[46, 44], [50, 36], [56, 34], [62, 36], [67, 40]], np.float32)[:, None]
        places[0] = 56, 60
        places[1:] = (bases + steps * np.array([0, -8])).reshape(20, 2)
    return SeenHand(
        side="right",
        score=0.8,
        box_xyxy=np.array([40, 20, 72, 64], np.float32),
        landmarks_xy=places,
    )


def inside(mask: npt.NDArray[np.bool_]) -> bool:
    rows, columns = np.nonzero(mask)
    return bool(rows.min() >= 13 and rows.max() <= 71 and columns.min() >= 35 and columns.max() <= 77)


@pytest.mark.parametrize("landmarks", [False, True])
def test_masks_that_are_no_hand_become_the_outline(landmarks: bool) -> None:
    seen = hand(landmarks=landmarks)
    outline = seen.outline(WIDTH, HEIGHT)
    assert outline.any() and inside(outline)
    empty, everything = np.zeros((HEIGHT, WIDTH), np.bool_), np.ones((HEIGHT, WIDTH), np.bool_)
    elsewhere = empty.copy()
    elsewhere[:20, 90:] = True
    for wrong in (empty, everything, elsewhere):
        assert np.array_equal(seen.accepted(wrong), outline)


def test_a_mask_in_the_box_stands_and_ends_at_it() -> None:
    drawn = np.zeros((HEIGHT, WIDTH), np.bool_)
    drawn[24:79, 44:70] = True  # A forearm reaches below the box.
    kept = hand().accepted(drawn)
    assert inside(kept) and kept[30:60, 46:68].all() and not (kept & ~drawn).any()


def test_landmarks_prompt_where_they_are_known() -> None:
    assert hand().inner_points_xy.shape == (0, 2) and not hand().has_landmarks
    points = hand(landmarks=True).inner_points_xy
    assert len(points) == 5 and np.isfinite(points).all()


def test_hands_come_in_pixels_of_the_frame() -> None:
    shown: list[ClipFrame] = clip(2)
    tracks = hands_on(shown, resolution=(642, 358))
    found = seen_hands(tracks, shown[1].frame_index, width=321, height=179)
    assert [item.side for item in found] == ["right"]
    assert found[0].box_xyxy == pytest.approx([192.6, 89.5, 256.8, 170.05], abs=0.2)
    assert found[0].score == pytest.approx(0.9)
    assert seen_hands(tracks, 999, width=321, height=179) == []
    assert seen_hands(None, 0, width=321, height=179) == []
