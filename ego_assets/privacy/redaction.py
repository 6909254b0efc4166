"""Making regions unrecognisable, on the YUV planes of a frame.

A region is replaced by its own Gaussian blur. Nothing outside the region takes part, so no sharp content runs
into it. The picture is continued periodically beyond the region's edges: that cancels the slow gradients by
which template correlation would still tell one blurred face from another.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import cast

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.video.plane import VideoPlane

from ego_assets.media.orientation import boxes_to_coded

#: Cells per standard deviation of the coarse picture in which the Gaussian is computed.
_CELLS_PER_SIGMA = 6
#: The kernel reaches at least this many standard deviations to both sides.
_KERNEL_SIGMAS = 4

#: Pixel formats that are blurred as they are: 8 bits, planar, chroma halved both ways.
_PLANAR_420 = frozenset({"yuv420p", "yuvj420p"})


def expand_boxes(
    boxes_xyxy: npt.NDArray[np.float32], *, margin: float, width: int, height: int
) -> npt.NDArray[np.float32]:
    """Move each side of each box out by ``margin`` times its width or height, within the picture.

    Args:
        boxes_xyxy: ``float32 [N, 4]`` in pixels.
        margin: Share of the box's width (left, right) and height (top, bottom).
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.
    """
    sizes = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    grown = np.concatenate([boxes_xyxy[:, :2] - margin * sizes, boxes_xyxy[:, 2:] + margin * sizes], axis=1)
    return np.clip(grown, 0, np.array([width, height] * 2)).astype(np.float32)


def blur_sigma(width: int, height: int, *, min_sigma: float, sigma_per_size: float) -> float:
    """Standard deviation in pixels for a region: a share of its size, and never below the minimum."""
    return max(min_sigma, sigma_per_size * math.sqrt(width * height))


def as_planar_420(frame: av.VideoFrame) -> av.VideoFrame:
    """``frame`` itself where its planes can be blurred as they are, else an 8-bit 4:2:0 copy."""
    if frame.format.name in _PLANAR_420:
        return frame
    return frame.reformat(format="yuv420p", threads=1)


def blur_frame(
    frame: av.VideoFrame,
    boxes_xyxy: npt.NDArray[np.float32],
    *,
    rotation_deg: int,
    box_margin: float,
    min_sigma: float,
    sigma_per_size: float,
) -> list[tuple[int, int, int, int]]:
    """Blur regions of a frame in place, on all three planes.

    Args:
        frame: 8-bit planar 4:2:0, see :func:`as_planar_420`.
        boxes_xyxy: ``float32 [N, 4]``, regions without margin, in pixels of the upright picture.
        rotation_deg: Clockwise turn that makes the coded picture upright.
        box_margin: Share by which each side moves out first.
        min_sigma: Least standard deviation in pixels of the luma plane.
        sigma_per_size: Standard deviation relative to the square root of a region's area.

    Returns:
        The blurred regions: left, top, right, bottom in pixels of the coded picture.

    Raises:
        ValueError: The frame has another pixel format.
    """
    if frame.format.name not in _PLANAR_420:
        raise ValueError(f"frame: expected 8-bit planar 4:2:0, got {frame.format.name}")
    if not len(boxes_xyxy):
        return []
    coded = boxes_to_coded(
        boxes_xyxy, rotation_deg=rotation_deg, coded_width=frame.width, coded_height=frame.height
    )
    grown = expand_boxes(coded, margin=box_margin, width=frame.width, height=frame.height)
    regions = [region for box in grown if (region := _even_region(box, frame.width, frame.height))]
    # The decoder may still need its copy to predict the frames that follow.
    frame.make_writable()
    for plane_index, plane in enumerate(frame.planes[:3]):
        samples = plane_samples(plane)
        step = 1 if plane_index == 0 else 2
        for left, top, right, bottom in regions:
            sigma = blur_sigma(right - left, bottom - top, min_sigma=min_sigma, sigma_per_size=sigma_per_size)
            area = samples[top // step : -(-bottom // step), left // step : -(-right // step)]
            area[:] = blurred(area, sigma=sigma / step)
    return regions


def plane_samples(plane: VideoPlane) -> npt.NDArray[np.uint8]:
    """The samples of an 8-bit plane, ``uint8 [height, width]``, without a copy and writable."""
    rows = np.frombuffer(cast("bytes", plane), dtype=np.uint8).reshape(-1, plane.line_size)
    return rows[: plane.height, : plane.width]


def blurred(area: npt.NDArray[np.uint8], *, sigma: float) -> npt.NDArray[np.uint8]:
    """Gaussian blur of a ``uint8 [height, width]`` area, which is continued periodically beyond its edges.

    The area is averaged down to cells of a sixth of ``sigma``, blurred there and interpolated up again. Averaging
    and interpolation only add to the blur, and the cost hardly depends on ``sigma``.

    Args:
        area: The samples.
        sigma: Standard deviation in samples.
    """
    height, width = area.shape
    rows, columns = (
        min(side, max(1, math.ceil(_CELLS_PER_SIGMA * side / sigma))) for side in (height, width)
    )
    coarse = cv2.resize(area, (columns, rows), interpolation=cv2.INTER_AREA).reshape(rows, columns)
    vertical = _periodic_gaussian(rows, round(sigma * rows / height, 2))
    horizontal = _periodic_gaussian(columns, round(sigma * columns / width, 2))
    smooth = np.rint(vertical @ coarse.astype(np.float32) @ horizontal)
    return np.asarray(cv2.resize(smooth.astype(np.uint8), (width, height), interpolation=cv2.INTER_LINEAR))


@lru_cache(maxsize=4096)
def _periodic_gaussian(cells: int, sigma_cells: float) -> npt.NDArray[np.float32]:
    """Symmetric ``float32 [cells, cells]`` matrix that blurs one axis of a periodic signal."""
    distance = np.arange(cells)
    turns = math.ceil(_KERNEL_SIGMAS * sigma_cells / cells) + 1
    repeated = distance[:, None] + cells * np.arange(-turns, turns + 1)[None]
    weights = np.exp(-0.5 * (repeated / sigma_cells) ** 2).sum(axis=1)
    weights /= weights.sum()
    return np.asarray(weights[(distance[:, None] - distance[None]) % cells], dtype=np.float32)


def _even_region(box: npt.NDArray[np.float32], width: int, height: int) -> tuple[int, int, int, int] | None:
    """The box rounded outwards to even coordinates, where luma and chroma samples meet; ``None`` if empty."""
    left, top, right, bottom = (float(value) for value in box)
    if right <= left or bottom <= top:
        return None
    return (
        math.floor(left / 2) * 2,
        math.floor(top / 2) * 2,
        min(width, math.ceil(right / 2) * 2),
        min(height, math.ceil(bottom / 2) * 2),
    )
