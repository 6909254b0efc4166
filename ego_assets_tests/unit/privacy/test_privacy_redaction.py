from __future__ import annotations

import math
from typing import get_args

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ego_assets.media.orientation import boxes_to_upright
from ego_assets.privacy.config import PrivacyConfig
from ego_assets.privacy.redaction import (
    RedactionMethod,
    RedactionStyle,
    as_planar_420,
    blurred,
    expand_boxes,
    pixelated,
    plane_samples,
    redact_frame,
)


def noise_frame(width: int, height: int, *, pixel_format: str = "yuv420p") -> av.VideoFrame:
    samples = np.random.default_rng(0).integers(0, 256, (height * 3 // 2, width), dtype=np.uint8)
    return av.VideoFrame.from_ndarray(samples, format="yuv420p").reformat(format=pixel_format)


def gray_frame(luma: npt.NDArray[np.uint8]) -> av.VideoFrame:
    frame = av.VideoFrame(luma.shape[1], luma.shape[0], "yuv420p")
    plane_samples(frame.planes[0])[:] = luma
    for plane in frame.planes[1:]:
        plane_samples(plane)[:] = 128
    return frame


METHODS: tuple[RedactionMethod, ...] = get_args(RedactionMethod)


def cover(
    frame: av.VideoFrame, boxes: object, *, rotation_deg: int = 0, method: RedactionMethod = "blur"
) -> list[tuple[int, int, int, int]]:
    return redact_frame(
        frame,
        np.array(boxes, np.float32).reshape(-1, 4),
        rotation_deg=rotation_deg,
        style=PrivacyConfig(method=method).style,
    )


def copies(frame: av.VideoFrame) -> list[npt.NDArray[np.uint8]]:
    return [plane_samples(plane).copy() for plane in frame.planes]


@given(
    left=st.floats(0, 500),
    top=st.floats(0, 300),
    width=st.floats(1, 140),
    height=st.floats(1, 60),
)
def test_each_side_moves_out_by_its_share(left: float, top: float, width: float, height: float) -> None:
    box = np.array([[left, top, left + width, top + height]], np.float32)
    grown = expand_boxes(box, margin=0.2, width=640, height=360)[0]
    assert grown[0] == pytest.approx(max(0, left - 0.2 * width), abs=1e-2)
    assert grown[1] == pytest.approx(max(0, top - 0.2 * height), abs=1e-2)
    assert grown[2] == pytest.approx(min(640, left + 1.2 * width), abs=1e-2)
    assert grown[3] == pytest.approx(min(360, top + 1.2 * height), abs=1e-2)


@pytest.mark.parametrize("sigma", [30.0, 45.0])
def test_blur_is_at_least_the_stated_gaussian(sigma: float) -> None:
    # The slope of a blurred edge is the kernel. The edge is as high as 8 bits allow, so that rounding hardly
    # cuts the kernel's tails, and the periodic continuation's edge lies far away.
    side = round(20 * sigma)
    area = np.zeros((side, side), np.uint8)
    area[:, side // 2 :] = 255
    middle = np.s_[side // 4 : 3 * side // 4]
    kernel = np.diff(blurred(area, sigma=sigma)[side // 2].astype(np.float64))[middle]
    position = np.arange(kernel.size)
    mean = (kernel * position).sum() / kernel.sum()
    spread = np.sqrt((kernel * (position - mean) ** 2).sum() / kernel.sum())
    guide = np.diff(cv2.GaussianBlur(area, (99, 99), 30)[side // 2].astype(np.float64))[middle]
    assert kernel.sum() == 255
    assert spread >= 0.98 * sigma
    assert np.count_nonzero(kernel) >= 99
    # Sums over ten neighbours, because single differences of 8-bit values are coarse.
    assert np.convolve(kernel, np.ones(10)).max() <= np.convolve(guide, np.ones(10)).max()


@pytest.mark.parametrize(("width", "height"), [(24, 24), (300, 20), (20, 300), (1080, 1080)])
def test_strength_grows_with_the_region_and_never_falls_below_the_minimum(width: int, height: int) -> None:
    style = RedactionStyle()
    assert style.sigma(width, height) >= max(30, 0.75 * max(width, height))
    assert style.cell(width, height) >= max(60, 1.5 * (width * height) ** 0.5)


@given(width=st.integers(1, 400), height=st.integers(1, 400), cell=st.floats(1, 500))
def test_pixelation_leaves_one_mean_per_cell_and_no_small_cells(width: int, height: int, cell: float) -> None:
    area = np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)
    made = pixelated(area, cell=cell)
    columns, rows = max(1, math.floor(width / cell)), max(1, math.floor(height / cell))
    # Where cells meet, and nowhere else, values change.
    changes = np.count_nonzero((np.diff(made.astype(int), axis=1) != 0).any(axis=0))
    assert changes <= columns - 1
    assert np.count_nonzero((np.diff(made.astype(int), axis=0) != 0).any(axis=1)) <= rows - 1
    assert made.mean() == pytest.approx(area.mean(), abs=1 + 128 * (columns > 1 or rows > 1))


def test_pixelation_keeps_the_means_of_the_cells() -> None:
    area = np.zeros((60, 120), np.uint8)
    area[:, :60], area[:, 60:] = 40, 200
    area[::2] += 10
    made = pixelated(area, cell=60)
    assert np.unique(made[:, :60]).tolist() == [45] and np.unique(made[:, 60:]).tolist() == [205]


@pytest.mark.parametrize(
    ("pixel_format", "color_range", "luma"),
    [
        ("yuv420p", 1, 126),
        ("yuv420p", 0, 126),
        ("yuv420p", 2, 128),
        ("yuvj420p", 0, 128),
    ],
)
def test_solid_is_the_same_grey_whatever_was_there(pixel_format: str, color_range: int, luma: int) -> None:
    frame = av.VideoFrame(320, 240, pixel_format)
    for plane in frame.planes:
        plane_samples(plane)[:] = np.random.default_rng(1).integers(0, 256, (plane.height, plane.width))
    frame.color_range = color_range
    ((left, top, right, bottom),) = cover(frame, [[101, 61, 181, 141]], method="solid")
    for plane, step, value in zip(frame.planes, (1, 2, 2), (luma, 128, 128), strict=True):
        area = plane_samples(plane)[top // step : bottom // step, left // step : right // step]
        assert np.unique(area).tolist() == [value]


def test_solid_shows_as_a_neutral_middle_grey() -> None:
    frame = noise_frame(64, 64)
    cover(frame, [[0, 0, 64, 64]], method="solid")
    shown = frame.to_ndarray(format="bgr24")
    assert shown.min() == shown.max() and abs(int(shown.max()) - 128) <= 1


@pytest.mark.parametrize(
    "wrong", [{"method": "smear"}, {"box_margin": -0.1}, {"min_sigma": 0.0}, {"sigma_per_size": 0.0}]
)
def test_impossible_styles_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RedactionStyle(**wrong)


def test_boxes_that_are_no_numbers_are_refused() -> None:
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match="finite"):
            cover(noise_frame(64, 48), [[value, 0, 20, 20]])


@pytest.mark.parametrize("method", METHODS)
def test_a_whole_4k_picture_is_one_region(method: RedactionMethod) -> None:
    frame = noise_frame(3840, 2160)
    assert cover(frame, [[0, 0, 3840, 2160]], method=method) == [(0, 0, 3840, 2160)]
    for plane in frame.planes:
        assert np.ptp(plane_samples(plane)) <= 2


def test_regions_within_others_are_covered_with_them() -> None:
    boxes = [[100, 100, 120, 120], [60, 60, 200, 200], [60, 60, 200, 200], [300, 200, 310, 210]]
    regions = cover(noise_frame(320, 240), boxes)
    assert regions == [(32, 32, 228, 228), (298, 198, 312, 212)]


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 1000),
    size=st.floats(4, 200),
    count=st.integers(2, 60),
    method=st.sampled_from(METHODS),
)
def test_many_regions_leave_no_sharp_content_and_nothing_uncovered(
    seed: int, size: float, count: int, method: RedactionMethod
) -> None:
    frame = noise_frame(320, 240)
    before = copies(frame)
    corners = np.random.default_rng(seed).uniform([-50, -50], [320, 240], (count, 2))
    boxes = np.concatenate([corners, corners + size], axis=1).astype(np.float32)
    regions = cover(frame, boxes, method=method)
    covered = np.zeros((240, 320), bool)
    for left, top, right, bottom in regions:
        covered[top:bottom, left:right] = True
    for left, top, right, bottom in expand_boxes(boxes, margin=0.2, width=320, height=240):
        assert covered[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))].all()
    luma = plane_samples(frame.planes[0])
    assert np.array_equal(luma[~covered], before[0][~covered])
    # Every covered sample is followed by its like but where regions meet: noise would step at nearly each.
    steps = np.abs(np.diff(luma.astype(int), axis=1))[covered[:, 1:] & covered[:, :-1]]
    assert steps.size == 0 or np.count_nonzero(steps > 2) <= 0.35 * steps.size


def test_a_thousand_large_regions_are_covered_as_one() -> None:
    frame = noise_frame(640, 480)
    corners = np.random.default_rng(0).uniform([100, 100], [300, 200], (1000, 2))
    boxes = np.concatenate([corners, corners + np.array([90, 110])], axis=1)
    (region,) = cover(frame, boxes)
    grown = expand_boxes(boxes.astype(np.float32), margin=0.2, width=640, height=480)
    assert region[0] <= grown[:, 0].min() and region[2] >= grown[:, 2].max()
    assert region[1] <= grown[:, 1].min() and region[3] >= grown[:, 3].max()


@settings(max_examples=40, deadline=None)
@given(
    box=st.tuples(st.floats(-20, 200), st.floats(-20, 120), st.floats(1, 120), st.floats(1, 80)),
    rotation_deg=st.sampled_from([0, 90, 180, 270]),
)
def test_all_of_the_grown_region_changes_and_nothing_else(
    box: tuple[float, float, float, float], rotation_deg: int
) -> None:
    frame = noise_frame(200, 120)
    before = copies(frame)
    coded = np.clip(
        np.array([[box[0], box[1], box[0] + box[2], box[1] + box[3]]], np.float32), 0, [200, 120] * 2
    )
    upright = boxes_to_upright(coded, rotation_deg=rotation_deg, coded_width=200, coded_height=120)
    regions = cover(frame, upright, rotation_deg=rotation_deg)
    inside = np.zeros((120, 200), bool)
    for left, top, right, bottom in regions:
        inside[top:bottom, left:right] = True
    left, top, right, bottom = expand_boxes(coded, margin=0.2, width=200, height=120)[0]
    if right > left and bottom > top:
        assert inside[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))].all()
    for plane, old, step in zip(frame.planes, before, (1, 2, 2), strict=True):
        outside = ~inside[::step, ::step]
        assert np.array_equal(plane_samples(plane)[outside], old[outside])


def test_luma_and_chroma_lose_their_detail() -> None:
    frame = noise_frame(320, 240)
    before = copies(frame)
    ((left, top, right, bottom),) = cover(frame, [[101, 61, 181, 141]])
    for plane, old, step in zip(frame.planes, before, (1, 2, 2), strict=True):
        area = np.s_[top // step : bottom // step, left // step : right // step]
        assert plane_samples(plane)[area].std() < 4 < old[area].std()


def test_nothing_sharp_runs_in_from_outside() -> None:
    luma = np.zeros((240, 320), np.uint8)
    luma[:, :100] = 255
    frame = gray_frame(luma)
    ((left, _, _, _),) = cover(frame, [[124, 100, 184, 160]])
    assert left >= 100
    assert plane_samples(frame.planes[0])[100:160, left:196].max() == 0


@pytest.mark.parametrize("box", [[-5, -5, 12, 12], [310, 230, 320, 240], [0, 0, 320, 240], [3, 3, 4, 4]])
def test_regions_at_the_border_and_tiny_ones(box: list[float]) -> None:
    frame = noise_frame(320, 240)
    ((left, top, right, bottom),) = cover(frame, [box])
    assert plane_samples(frame.planes[0])[top:bottom, left:right].std() < 4


def test_odd_sides_are_covered_to_the_last_sample() -> None:
    frame = av.VideoFrame(63, 47, "yuv420p")
    for plane in frame.planes:
        plane_samples(plane)[:] = np.random.default_rng(1).integers(0, 256, (plane.height, plane.width))
    cover(frame, [[40, 30, 63, 47]])
    for plane, step in zip(frame.planes, (1, 2, 2), strict=True):
        assert plane_samples(plane)[-10 // step :, -10 // step :].std() < 4


def test_deeper_and_other_formats_become_planar_420() -> None:
    for pixel_format in ("yuv420p10le", "yuv422p", "rgb24", "nv12"):
        frame = noise_frame(64, 48, pixel_format=pixel_format)
        with pytest.raises(ValueError, match="4:2:0"):
            cover(frame, [[10, 10, 40, 40]])
        planar = as_planar_420(frame)
        assert planar.format.name == "yuv420p"
        assert cover(planar, [[10, 10, 40, 40]])
