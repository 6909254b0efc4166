"""Pictures at reduced size."""

from __future__ import annotations

import numpy as np
import pytest

from ego_assets.media.resize import shrink


@pytest.mark.parametrize(
    ("height", "width", "max_side", "expected"),
    [(90, 160, 80, (45, 80)), (160, 90, 80, (80, 45)), (3, 1000, 100, (1, 100)), (321, 179, 100, (100, 56))],
)
def test_the_longer_side_is_reduced(
    height: int, width: int, max_side: int, expected: tuple[int, int]
) -> None:
    small = shrink(np.full((height, width, 3), 77, np.uint8), max_side)
    assert small.shape == (*expected, 3) and small.dtype == np.uint8 and (small == 77).all()


@pytest.mark.parametrize("max_side", [160, 400])
def test_what_is_small_enough_stays_as_it_is(max_side: int) -> None:
    image = np.zeros((90, 160, 3), np.uint8)
    assert shrink(image, max_side) is image


def test_a_side_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="1 or more, got 0"):
        shrink(np.zeros((2, 2, 3), np.uint8), 0)
