from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ego_assets.media.orientation import boxes_to_coded, boxes_to_upright, rotate_upright, upright_size

ROTATIONS = st.sampled_from([0, 90, 180, 270])


@st.composite
def boxes_in_pictures(draw: st.DrawFn) -> tuple[np.ndarray, int, int]:
    width, height = draw(st.integers(1, 4000)), draw(st.integers(1, 4000))
    count = draw(st.integers(0, 5))
    xs = np.sort(
        np.array(draw(st.lists(st.integers(0, width), min_size=2 * count, max_size=2 * count))).reshape(-1, 2)
    )
    ys = np.sort(
        np.array(draw(st.lists(st.integers(0, height), min_size=2 * count, max_size=2 * count))).reshape(
            -1, 2
        )
    )
    return np.stack([xs[:, 0], ys[:, 0], xs[:, 1], ys[:, 1]], axis=1).astype(np.float32), width, height


@given(boxes_in_pictures(), ROTATIONS)
def test_turning_there_and_back_changes_nothing(case: tuple[np.ndarray, int, int], rotation_deg: int) -> None:
    boxes, width, height = case
    options = {"rotation_deg": rotation_deg, "coded_width": width, "coded_height": height}
    upright = boxes_to_upright(boxes, **options)
    assert np.array_equal(boxes_to_coded(upright, **options), boxes)
    upright_width, upright_height = upright_size(width, height, rotation_deg)
    assert np.all(upright[:, :2] <= upright[:, 2:])
    assert np.all(upright >= 0)
    assert np.all(upright[:, [0, 2]] <= upright_width) and np.all(upright[:, [1, 3]] <= upright_height)


@given(ROTATIONS, st.integers(0, 8), st.integers(0, 5))
def test_boxes_turn_as_the_picture_does(rotation_deg: int, left: int, top: int) -> None:
    picture = np.zeros((9, 14), np.uint8)
    picture[top : top + 3, left : left + 5] = 255
    box = np.array([[left, top, left + 5, top + 3]], np.float32)
    upright = rotate_upright(picture, rotation_deg)
    assert upright.shape[::-1] == upright_size(14, 9, rotation_deg)
    turned = boxes_to_upright(box, rotation_deg=rotation_deg, coded_width=14, coded_height=9)
    x0, y0, x1, y1 = turned[0].astype(int)
    assert upright[y0:y1, x0:x1].min() == 255
    assert upright.sum() == 255 * (x1 - x0) * (y1 - y0)


def test_clockwise() -> None:
    assert rotate_upright(np.array([[1, 2], [3, 4]], np.uint8), 90).tolist() == [[3, 1], [4, 2]]


def test_wrong_values_are_refused() -> None:
    with pytest.raises(ValueError, match="got 45"):
        upright_size(2, 2, 45)
    with pytest.raises(ValueError, match=r"expected \[N, 4\], got \[4\]"):
        boxes_to_coded(np.zeros(4, np.float32), rotation_deg=0, coded_width=1, coded_height=1)
