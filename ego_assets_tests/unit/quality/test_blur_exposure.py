from dataclasses import asdict

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ego_assets.quality.assessment import ExposureSamples
from ego_assets.quality.blur import laplacian_variance, reduce_to_short_side
from ego_assets.quality.exposure import measure_exposure

LUMA = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40))


def badly_exposed(luma, *, full_range):
    """Whether a single frame counts as over-exposed, and as under-exposed."""
    measured = {
        name: np.array([share])
        for name, share in asdict(measure_exposure(luma, full_range=full_range)).items()
    }
    first = np.zeros(1, np.int64)
    samples = ExposureSamples(frame_index=first, timestamps_ns=first, **measured)
    return bool(samples.over_exposed[0]), bool(samples.under_exposed[0])


@settings(max_examples=60, deadline=None)
@given(luma=LUMA)
def test_laplacian_variance_equals_the_guides_formula(luma):
    assert laplacian_variance(luma) == pytest.approx(
        float(cv2.Laplacian(luma, cv2.CV_64F).var()), rel=1e-9, abs=1e-9
    )


def test_padded_rows_change_nothing():
    padded = np.random.default_rng(0).integers(0, 256, (50, 96), dtype=np.uint8)
    assert laplacian_variance(padded[:, :80]) == laplacian_variance(padded[:, :80].copy())


def test_blurring_lowers_the_variance():
    sharp = np.random.default_rng(0).integers(0, 256, (90, 160), dtype=np.uint8)
    assert laplacian_variance(cv2.GaussianBlur(sharp, (0, 0), 2)) < 0.1 * laplacian_variance(sharp)


@pytest.mark.parametrize(
    "luma", [np.zeros((0, 4), np.uint8), np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4))]
)
def test_what_is_no_luma_plane_is_refused(luma):
    with pytest.raises(ValueError, match="uint8"):
        laplacian_variance(luma)
    with pytest.raises(ValueError, match="uint8"):
        measure_exposure(luma, full_range=True)


@pytest.mark.parametrize(
    ("shape", "expected"), [((720, 1280), (360, 640)), ((1280, 720), (640, 360)), ((90, 160), (90, 160))]
)
def test_frames_are_reduced_but_never_enlarged(shape, expected):
    assert reduce_to_short_side(np.zeros(shape, np.uint8), 360).shape == expected


@pytest.mark.parametrize(
    ("level", "full_range", "over", "under"),
    [
        (255, True, True, False),
        (235, False, True, False),
        (235, True, True, False),
        (200, True, False, False),
        (200, False, False, False),
        (128, True, False, False),
        (30, True, False, False),
        (30, False, False, True),
        (25, True, False, True),
        (16, False, False, True),
        (0, False, False, True),
    ],
)
def test_even_frames(level, full_range, over, under):
    luma = np.full((90, 160), level, np.uint8)
    assert badly_exposed(luma, full_range=full_range) == (over, under)


def test_limited_range_is_expanded():
    exposure = measure_exposure(np.full((8, 8), 235, np.uint8), full_range=False)
    assert exposure.mean_luma == pytest.approx(255)


@pytest.mark.parametrize(("columns", "over"), [(20, False), (60, True)])
def test_a_window_may_be_clipped_a_quarter_of_the_picture_may_not(columns, over):
    luma = np.full((90, 160), 120, np.uint8)
    luma[:, :columns] = 255
    assert badly_exposed(luma, full_range=True) == (over, False)


def test_fisheye_corners_are_not_under_exposure():
    luma = np.zeros((300, 400), np.uint8)
    cv2.circle(luma, (200, 150), 150, 120, -1)
    assert badly_exposed(luma, full_range=True) == (False, False)


@settings(max_examples=60, deadline=None)
@given(luma=LUMA, full_range=st.booleans())
def test_shares_are_shares_of_all_pixels(luma, full_range):
    exposure = measure_exposure(luma, full_range=full_range)
    assert 0 <= exposure.clipped_share <= exposure.bright_share <= 1
    assert exposure.dark_share + exposure.bright_share <= 1 + 1e-9
    if full_range:
        assert exposure.dark_share == pytest.approx(float((luma <= 25).mean()))
        assert exposure.mean_luma == pytest.approx(float(luma.mean()))


def test_large_frames_are_sampled_evenly():
    luma = np.tile(np.repeat(np.arange(256, dtype=np.uint8), 8), (1080, 1))
    exposure = measure_exposure(luma, full_range=True)
    assert exposure.mean_luma == pytest.approx(float(luma.mean()), abs=1.5)
    assert exposure.dark_share == pytest.approx(float((luma <= 25).mean()), abs=0.01)
