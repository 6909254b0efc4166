from __future__ import annotations

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data

from ego_assets.media.orientation import boxes_to_upright
from ego_assets.privacy.config import PrivacyConfig
from ego_assets.privacy.redaction import (
    as_planar_420,
    blur_frame,
    blur_sigma,
    blurred,
    expand_boxes,
    plane_samples,
)

CONFIG = PrivacyConfig()


def noise_frame(width: int, height: int, *, pixel_format: str = "yuv420p") -> av.VideoFrame:
    samples = np.random.default_rng(0).integers(0, 256, (height * 3 // 2, width), dtype=np.uint8)
    return av.VideoFrame.from_ndarray(samples, format="yuv420p").reformat(format=pixel_format)


def gray_frame(luma: npt.NDArray[np.uint8]) -> av.VideoFrame:
    frame = av.VideoFrame(luma.shape[1], luma.shape[0], "yuv420p")
    plane_samples(frame.planes[0])[:] = luma
    for plane in frame.planes[1:]:
        plane_samples(plane)[:] = 128
    return frame


def blur(frame: av.VideoFrame, boxes: object, *, rotation_deg: int = 0) -> list[tuple[int, int, int, int]]:
    return blur_frame(
        frame,
        np.array(boxes, np.float32).reshape(-1, 4),
        rotation_deg=rotation_deg,
        box_margin=CONFIG.box_margin,
        min_sigma=CONFIG.blur_min_sigma,
        sigma_per_size=CONFIG.blur_sigma_per_size,
    )


def copies(frame: av.VideoFrame) -> list[npt.NDArray[np.uint8]]:
    return [plane_samples(plane).copy() for plane in frame.planes]


def correlation(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> float:
    a_centred, b_centred = (x.astype(np.float64) - x.mean() for x in (a, b))
    norm = np.linalg.norm(a_centred) * np.linalg.norm(b_centred)
    return float((a_centred * b_centred).sum() / norm) if norm > 0 else 0.0


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


@pytest.mark.parametrize(("width", "height"), [(24, 24), (300, 20), (1080, 1080)])
def test_sigma_grows_with_the_region_and_never_falls_below_the_minimum(width: int, height: int) -> None:
    sigma = blur_sigma(width, height, min_sigma=30, sigma_per_size=0.6)
    assert sigma >= 30
    assert sigma >= 0.6 * (width * height) ** 0.5


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
    regions = blur(frame, upright, rotation_deg=rotation_deg)
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
    ((left, top, right, bottom),) = blur(frame, [[101, 61, 181, 141]])
    for plane, old, step in zip(frame.planes, before, (1, 2, 2), strict=True):
        area = np.s_[top // step : bottom // step, left // step : right // step]
        assert plane_samples(plane)[area].std() < 4 < old[area].std()


def test_nothing_sharp_runs_in_from_outside() -> None:
    luma = np.zeros((240, 320), np.uint8)
    luma[:, :100] = 255
    frame = gray_frame(luma)
    ((left, _, _, _),) = blur(frame, [[124, 100, 184, 160]])
    assert left >= 100
    assert plane_samples(frame.planes[0])[100:160, left:196].max() == 0


@pytest.mark.parametrize("box", [[-5, -5, 12, 12], [310, 230, 320, 240], [0, 0, 320, 240], [3, 3, 4, 4]])
def test_regions_at_the_border_and_tiny_ones(box: list[float]) -> None:
    frame = noise_frame(320, 240)
    ((left, top, right, bottom),) = blur(frame, [box])
    assert plane_samples(frame.planes[0])[top:bottom, left:right].std() < 4


def test_odd_sides_are_covered_to_the_last_sample() -> None:
    frame = av.VideoFrame(63, 47, "yuv420p")
    for plane in frame.planes:
        plane_samples(plane)[:] = np.random.default_rng(1).integers(0, 256, (plane.height, plane.width))
    blur(frame, [[40, 30, 63, 47]])
    for plane, step in zip(frame.planes, (1, 2, 2), strict=True):
        assert plane_samples(plane)[-10 // step :, -10 // step :].std() < 4


def test_deeper_and_other_formats_become_planar_420() -> None:
    for pixel_format in ("yuv420p10le", "yuv422p", "rgb24", "nv12"):
        frame = noise_frame(64, 48, pixel_format=pixel_format)
        with pytest.raises(ValueError, match="4:2:0"):
            blur(frame, [[10, 10, 40, 40]])
        planar = as_planar_420(frame)
        assert planar.format.name == "yuv420p"
        assert blur(planar, [[10, 10, 40, 40]])


def faces(count: int) -> list[npt.NDArray[np.uint8]]:
    crops = (data.lfw_subset()[: count - 1] * 255).astype(np.uint8)
    astronaut = cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2GRAY)[60:180, 165:285]
    return [astronaut, *crops]


@pytest.mark.parametrize("size", [24, 48, 96, 320, 1080])
def test_a_blurred_face_is_no_closer_to_itself_than_to_others(size: int) -> None:
    gallery = faces(25)
    margin = round(0.2 * size)
    templates = [cv2.resize(face, (32, 32), interpolation=cv2.INTER_AREA) for face in gallery]
    recognised = recognised_unblurred = 0
    for index, face in enumerate(gallery):
        side = 2 * ((size + 2 * margin + 8) // 2)
        picture = np.full((side, side), 90, np.uint8)
        start = (side - size) // 2
        picture[start : start + size, start : start + size] = cv2.resize(face, (size, size))
        frame = gray_frame(picture)
        blur(frame, [[start, start, start + size, start + size]])

        def best_match(luma: npt.NDArray[np.uint8], start: int = start) -> tuple[int, float]:
            shown = luma[start : start + size, start : start + size]
            reduced = cv2.resize(shown, (32, 32), interpolation=cv2.INTER_AREA)
            scores = [correlation(reduced, template) for template in templates]
            return int(np.argmax(scores)), max(scores)

        blurred_match, score = best_match(plane_samples(frame.planes[0]))
        recognised += blurred_match == index and score > 0.05
        recognised_unblurred += best_match(picture)[0] == index
    assert recognised_unblurred >= 24
    # Chance is 1 in 25; three or more by chance alone is rarer than 1 in 12.
    assert recognised <= 2
