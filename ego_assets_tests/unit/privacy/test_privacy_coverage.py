from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ego_assets.privacy.coverage import covered_share, wilson_interval

SIDE = 24


@st.composite
def boxes(draw: st.DrawFn, *, least: int) -> npt.NDArray[np.float32]:
    corners = st.tuples(*[st.integers(0, SIDE)] * 4)
    drawn = draw(st.lists(corners, min_size=least, max_size=6))
    array = np.array(drawn, np.float32).reshape(-1, 4)
    ordered = np.concatenate(
        [np.minimum(array[:, :2], array[:, 2:]), np.maximum(array[:, :2], array[:, 2:])], axis=1
    )
    return ordered


@given(truth=boxes(least=1), redaction=boxes(least=0))
def test_the_share_is_that_of_a_mask_on_whole_pixels(
    truth: npt.NDArray[np.float32], redaction: npt.NDArray[np.float32]
) -> None:
    truth[:, 2:] = np.maximum(truth[:, 2:], truth[:, :2] + 1)
    mask = np.zeros((SIDE + 1, SIDE + 1), bool)
    for left, top, right, bottom in redaction.astype(int):
        mask[top:bottom, left:right] = True
    expected = [mask[top:bottom, left:right].mean() for left, top, right, bottom in truth.astype(int)]
    assert covered_share(truth, redaction) == pytest.approx(expected)


def test_fractions_of_pixels_count_and_overlap_counts_once() -> None:
    truth = np.array([[0, 0, 10, 10]], np.float32)
    halves = np.array([[-5, -5, 5.5, 20], [4.5, 0, 7.5, 10]], np.float32)
    assert covered_share(truth, halves).tolist() == [pytest.approx(0.75)]


def test_nothing_covers_nothing() -> None:
    none = np.zeros((0, 4), np.float32)
    assert covered_share(none, none).shape == (0,)
    assert covered_share(np.array([[1, 1, 2, 2]], np.float32), none).tolist() == [0]


@pytest.mark.parametrize("box", [[2, 0, 2, 4], [3, 0, 2, 4]])
def test_a_true_box_without_area_is_refused(box: list[int]) -> None:
    with pytest.raises(ValueError, match="right > left"):
        covered_share(np.array([box], np.float32), np.zeros((0, 4), np.float32))


def test_boxes_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"redaction_boxes: expected \[N, 4\]"):
        covered_share(np.array([[0, 0, 1, 1]], np.float32), np.zeros((2, 5), np.float32))


@pytest.mark.parametrize(
    ("successes", "n", "expected"),
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    [
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_published_intervals(successes: int, n: int, expected: tuple[float, float]) -> None:
    assert wilson_interval(successes, n) == pytest.approx(expected, abs=1e-4)


@given(n=st.integers(0, 5000), data=st.data())
def test_the_interval_holds_the_share_and_mirrors(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, n))
    low, high = wilson_interval(successes, n)
    assert 0 <= low <= high <= 1
    if n:
        assert low - 1e-12 <= successes / n <= high + 1e-12
        assert (low == 0) == (successes == 0) and (high == 1) == (successes == n)
    mirrored = wilson_interval(n - successes, n)
    assert (1 - high, 1 - low) == pytest.approx(mirrored, abs=1e-9)


def test_more_trials_narrow_the_interval() -> None:
    def width(successes: int, n: int) -> float:
        low, high = wilson_interval(successes, n)
        return high - low

    assert width(196, 200) < width(98, 100) < width(49, 50)


@pytest.mark.parametrize(("successes", "n"), [(3, 2), (-1, 2)])
def test_impossible_counts_are_refused(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        wilson_interval(successes, n)
