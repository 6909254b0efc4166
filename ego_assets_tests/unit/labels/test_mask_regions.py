"""Regions of one picture."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ego_assets.labels.regions import RegionOptions, fill_lines, segment_regions, used_labels

GREY, RED, BLUE = (128, 128, 128), (40, 40, 200), (200, 60, 40)


def picture(scale: int = 1) -> np.ndarray:
    """A grey picture with a red square and a blue one, a little noisy."""
    image = np.full((120, 160, 3), GREY, np.uint8)
    image[20:60, 20:70] = RED
    image[70:110, 90:140] = BLUE
    image = np.kron(image, np.ones((scale, scale, 1), np.uint8))
    noise = np.random.default_rng(0).integers(-4, 5, image.shape)
    return np.clip(image.astype(int) + noise, 0, 255).astype(np.uint8)


def region_at(labels: np.ndarray, row: int, column: int) -> np.ndarray:
    return labels == labels[row, column]


def test_squares_of_another_colour_are_regions_with_their_edges() -> None:
    regions = segment_regions(picture(3), options=RegionOptions())
    assert 3 <= len(regions) <= 5
    for rows, columns in ((slice(60, 180), slice(60, 210)), (slice(210, 330), slice(270, 420))):
        true = np.zeros(regions.labels.shape, bool)
        true[rows, columns] = True
        found = region_at(regions.labels, rows.start + 20, columns.start + 20)
        assert (true & found).sum() / (true | found).sum() > 0.9
    assert (regions.contrast[regions.labels[[120, 270], [120, 330]]] > 20).all()


def test_a_plain_picture_is_one_region_without_neighbours() -> None:
    regions = segment_regions(np.full((90, 160, 3), 7, np.uint8), options=RegionOptions())
    assert len(regions) == 1 and not regions.labels.any()
    assert np.isinf(regions.contrast).all()


def test_a_higher_threshold_merges_more() -> None:
    image = picture()
    image[:, 80:] = np.clip(image[:, 80:].astype(int) + 14, 0, 255)
    fine = segment_regions(image, options=RegionOptions(merge_threshold=2.0))
    coarse = segment_regions(image, options=RegionOptions(merge_threshold=500.0))
    assert len(fine) > len(coarse) == 1


def test_small_regions_are_merged_and_their_number_is_limited() -> None:
    image = np.random.default_rng(1).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    mosaic = np.kron(image, np.ones((10, 10, 1), np.uint8))
    regions = segment_regions(
        mosaic, options=RegionOptions(merge_threshold=0.5, max_regions=9, min_share=0.02)
    )
    counts = np.bincount(regions.labels.ravel())
    assert len(regions) <= 9
    assert counts.min() >= 0.02 * regions.labels.size


def test_taken_pixels_belong_to_no_region() -> None:
    exclude = np.zeros((120, 160), bool)
    exclude[20:60, 20:70] = True
    regions = segment_regions(picture(), options=RegionOptions(), exclude=exclude)
    assert (regions.labels[exclude] == -1).all() and (regions.labels[~exclude] >= 0).all()
    nothing = segment_regions(picture(), options=RegionOptions(), exclude=np.ones((120, 160), bool))
    assert len(nothing) == 0 and (nothing.labels == -1).all()


def test_what_was_two_instances_stays_two_and_one_stays_one() -> None:
    image = np.full((120, 160, 3), GREY, np.uint8)
    image[:, 80:] = (136, 140, 142)
    options = RegionOptions(merge_threshold=3.4)
    before = np.ones((120, 160), np.int32)
    apart = before.copy()
    apart[:, 80:] = 2
    assert len(segment_regions(image, options=options, prior=apart)) == 2
    assert len(segment_regions(image, options=options, prior=before)) == 1


@pytest.mark.parametrize(
    "option", [{"superpixel_px": 2}, {"merge_threshold": 0}, {"min_share": 1}, {"max_regions": 0}]
)
def test_wrong_options_are_refused(option: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        RegionOptions(**option)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_any_picture_is_covered_by_regions_numbered_without_gaps(height: int, width: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    regions = segment_regions(image, options=RegionOptions(superpixel_px=5))
    assert sorted(np.unique(regions.labels)) == list(range(len(regions)))


def test_labels_that_occur_and_their_places() -> None:
    labels = np.array([[0, 7], [7, 3]], np.int32)
    used, places = used_labels(labels)
    assert used.tolist() == [0, 3, 7]
    assert places.tolist() == [[0, 2], [2, 1]]


def test_lines_are_given_to_a_neighbour() -> None:
    labels = np.array([[1, -1, 2], [1, -1, 2], [-1, -1, -1]], np.int32)
    filled = fill_lines(labels)
    assert (filled > 0).all() and filled[0, 0] == 1 and filled[0, 2] == 2
    assert not fill_lines(np.full((2, 2), -1, np.int32)).any()
