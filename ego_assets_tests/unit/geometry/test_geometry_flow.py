from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ego_assets.geometry.flow import DIS_PRESETS, dense_flow, inside, pixel_grid, there_and_back

#: OpenCV ends the whole process on some of these, without an exception.
STRIPS = ((160, 10), (160, 31), (448, 24), (200, 3), (1, 1), (10, 160), (90, 40), (4000, 40))
_IN_A_PROCESS_OF_ITS_OWN = """
import sys
import numpy as np
from ego_assets.geometry.flow import dense_flow
random = np.random.default_rng(0)
for size in sys.argv[2:]:
    width, height = map(int, size.split("x"))
    first = random.integers(0, 255, (height, width), np.uint8)
    field = dense_flow(first, np.roll(first, 2, 1), preset=sys.argv[1])
    assert field.shape == (height, width, 2) and field.dtype == np.float32 and np.isfinite(field).all()
    print(size)
"""


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed).integers(0, 255, (height, width), np.uint8)
    return np.asarray(cv2.GaussianBlur(random, (0, 0), 2))


@pytest.mark.parametrize("preset", sorted(DIS_PRESETS))
def test_flat_strips_and_single_pixels_are_answered(preset: str) -> None:
    sizes = [f"{width}x{height}" for width, height in STRIPS]
    command = [sys.executable, "-c", _IN_A_PROCESS_OF_ITS_OWN, preset, *sizes]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout.split()) == (0, sizes), ended.stderr


@pytest.mark.parametrize("preset", sorted(DIS_PRESETS))
@pytest.mark.parametrize("size", [(160, 96), (200, 40)])
def test_a_shift_is_found_and_nothing_is_remembered(preset: str, size: tuple[int, int]) -> None:
    first = noise(*size)
    second = np.roll(first, 3, axis=1)
    field = dense_flow(first, second, preset=preset)  # type: ignore[arg-type]
    assert np.median(field[8:-8, 16:-16], axis=(0, 1)) == pytest.approx([3, 0], abs=0.3)
    dense_flow(second, noise(*size, seed=5), preset=preset)  # type: ignore[arg-type]
    assert np.array_equal(field, dense_flow(first, second, preset=preset))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("first", "second"),
    [((20, 30), (30, 20)), ((20, 30, 3), (20, 30, 3)), ((0, 30), (0, 30))],
)
def test_other_pictures_are_refused(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="two grey ones of one size"):
        dense_flow(np.zeros(first, np.uint8), np.zeros(second, np.uint8), preset="fast")


@settings(deadline=None, max_examples=30)
@given(x=st.integers(-5, 5), y=st.integers(-5, 5))
def test_flow_that_returns_is_believed_where_it_stays_inside(x: int, y: int) -> None:
    there = np.full((20, 30, 2), (x, y), np.float32)
    places, believable = there_and_back(there, -there)
    assert np.array_equal(places, pixel_grid(30, 20) + there)
    assert np.array_equal(believable, inside(places, 30, 20))
    assert believable.sum() == (30 - abs(x)) * (20 - abs(y))


def test_flow_that_does_not_return_is_not() -> None:
    there = np.full((20, 30, 2), (4, 0), np.float32)
    back = np.full((20, 30, 2), (-2.5, 0), np.float32)
    assert not there_and_back(there, back)[1].any()
    # One and a half pixels are within 1.2 pixels and a tenth of four.
    assert there_and_back(there, back, max_error_px=1.2, max_error_share=0.1)[1].any()


def test_it_may_begin_between_pixels() -> None:
    field = np.zeros((20, 30, 2), np.float32)
    field[..., 0] = np.arange(30) / 10
    start = pixel_grid(30, 20) + np.float32(0.5)
    places, _ = there_and_back(field, -field, start=start)
    assert places[5, 10] == pytest.approx([10.5 + 1.05, 5.5], abs=1e-3)
