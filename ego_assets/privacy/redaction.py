"""Making regions unrecognisable, on the YUV planes of a frame.

A region is replaced by its own Gaussian blur, by a few cells of its own mean colours, or by a neutral grey.
Nothing outside the region takes part, so no sharp content runs into it.

*blur* and *pixelate* keep the mean colour of a face-sized region and nothing else that a matcher could use; *solid*
keeps nothing at all. `benchmarks/privacy.py` measures it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import cast, get_args

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.video.plane import VideoPlane

from ego_assets.media.orientation import boxes_to_coded
from ego_assets.schema.vocabulary import RedactionMethod

#: A redacted region: left, top, right, bottom in pixels of the coded picture.
Region = tuple[int, int, int, int]

#: Cells per standard deviation of the coarse picture in which the Gaussian is computed.
_CELLS_PER_SIGMA = 6
#: The kernel reaches at least this many standard deviations to both sides.
_KERNEL_SIGMAS = 4
#: Regions that together have this many times the picture's area are covered as one, which bounds the cost.
_MAX_AREA_SHARE = 4

#: Pixel formats that are redacted as they are: 8 bits, planar, chroma halved both ways.
_PLANAR_420 = frozenset({"yuv420p", "yuvj420p"})
#: Value of `VideoFrame.color_range` for luma from 0 to 255; otherwise it runs from 16 to 235.
_FULL_RANGE = 2


@dataclass(frozen=True, kw_only=True)
class RedactionStyle:
    """How regions are covered.

    Attributes:
        method: ``blur``, ``pixelate`` or ``solid`` (a neutral grey).
        box_margin: Share by which each side of a box moves out first.
        min_sigma: Least standard deviation of the blur in pixels of the luma plane.
        sigma_per_size: Standard deviation relative to a region's longer side. Relative to the square root of its
            area, half a face at the picture's edge would still be told from others.
    """

    method: RedactionMethod = "blur"
    box_margin: float = 0.2
    min_sigma: float = 30.0
    sigma_per_size: float = 0.75

    def __post_init__(self) -> None:
        if self.method not in get_args(RedactionMethod):
            raise ValueError(f"method: expected one of {get_args(RedactionMethod)}, got {self.method!r}")
        if self.box_margin < 0:
            raise ValueError(f"box_margin: expected 0 or more, got {self.box_margin}")
        for name in ("min_sigma", "sigma_per_size"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: expected more than 0, got {getattr(self, name)}")

    def sigma(self, width: float, height: float) -> float:
        """Standard deviation in pixels for a region: a share of its longer side, never below the minimum."""
        return max(self.min_sigma, self.sigma_per_size * max(width, height))

    def cell(self, width: int, height: int) -> float:
        """Least side in pixels of a region's pixelation cells.

        It is two standard deviations of the blur that a square region of the same area would get. A face, clipped
        by the picture's edge or not, becomes one cell, a line of text several. With two cells each way template
        correlation finds the right one of 40 faces in 20 % of cases, with three in 40 %.
        """
        side = math.sqrt(width * height)
        return 2 * self.sigma(side, side)


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


def as_planar_420(frame: av.VideoFrame) -> av.VideoFrame:
    """``frame`` itself where its planes can be redacted as they are, else an 8-bit 4:2:0 copy."""
    if frame.format.name in _PLANAR_420:
        return frame
    return frame.reformat(format="yuv420p", threads=1)


def redact_frame(
    frame: av.VideoFrame,
    boxes_xyxy: npt.NDArray[np.float32],
    *,
    rotation_deg: int,
    style: RedactionStyle,
) -> list[Region]:
    """Cover regions of a frame in place, on all three planes.

    A region within another is covered with it. Where regions overlap, the later one covers what the earlier
    one left, so nothing sharp comes back.

    Args:
        frame: 8-bit planar 4:2:0, see :func:`as_planar_420`.
        boxes_xyxy: ``float32 [N, 4]``, regions without margin, in pixels of the upright picture.
        rotation_deg: Clockwise turn that makes the coded picture upright.
        style: How they are covered.

    Returns:
        The covered regions in pixels of the coded picture, margin included.

    Raises:
        ValueError: The frame has another pixel format, or a box is not finite.
    """
    if frame.format.name not in _PLANAR_420:
        raise ValueError(f"frame: expected 8-bit planar 4:2:0, got {frame.format.name}")
    if not len(boxes_xyxy):
        return []
    if not np.isfinite(boxes_xyxy).all():
        raise ValueError("boxes_xyxy: expected finite coordinates, got NaN or infinity")
    coded = boxes_to_coded(
        boxes_xyxy, rotation_deg=rotation_deg, coded_width=frame.width, coded_height=frame.height
    )
    grown = expand_boxes(coded, margin=style.box_margin, width=frame.width, height=frame.height)
    regions = _simplified(
        [region for box in grown if (region := _even_region(box, frame.width, frame.height))],
        max_area=_MAX_AREA_SHARE * frame.width * frame.height,
    )
    # The decoder may still need its copy to predict the frames that follow.
    frame.make_writable()
    for plane_index, plane in enumerate(frame.planes[:3]):
        samples = plane_samples(plane)
        step = 1 if plane_index == 0 else 2
        neutral = _neutral_luma(frame) if plane_index == 0 else 128
        for left, top, right, bottom in regions:
            area = samples[top // step : -(-bottom // step), left // step : -(-right // step)]
            size = (right - left, bottom - top)
            if style.method == "solid":
                area[:] = neutral
            elif style.method == "pixelate":
                area[:] = pixelated(area, cell=style.cell(*size) / step)
            else:
                area[:] = blurred(area, sigma=style.sigma(*size) / step)
    return regions


def plane_samples(plane: VideoPlane) -> npt.NDArray[np.uint8]:
    """The samples of an 8-bit plane, ``uint8 [height, width]``, without a copy and writable."""
    rows = np.frombuffer(cast("bytes", plane), dtype=np.uint8).reshape(-1, plane.line_size)
    return rows[: plane.height, : plane.width]


def blurred(area: npt.NDArray[np.uint8], *, sigma: float) -> npt.NDArray[np.uint8]:
    """Gaussian blur of a ``uint8 [height, width]`` area, which is continued periodically beyond its edges.

    The periodic continuation cancels the slow gradients by which template correlation would still tell one
    blurred face from another. The area is averaged down to cells of a sixth of ``sigma``, blurred there and
    interpolated up again. Averaging and interpolation only add to the blur, and the cost hardly depends on
    ``sigma``.

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


def pixelated(area: npt.NDArray[np.uint8], *, cell: float) -> npt.NDArray[np.uint8]:
    """Equal cells, each the mean of what it covers, of a ``uint8 [height, width]`` area.

    Args:
        area: The samples.
        cell: Least side of a cell in samples; an axis that is shorter is one cell.
    """
    height, width = area.shape
    rows, columns = (max(1, math.floor(side / cell)) for side in (height, width))
    means = cv2.resize(area, (columns, rows), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(means, (width, height), interpolation=cv2.INTER_NEAREST))


@lru_cache(maxsize=1024)
def _periodic_gaussian(cells: int, sigma_cells: float) -> npt.NDArray[np.float32]:
    """Symmetric ``float32 [cells, cells]`` matrix that blurs one axis of a periodic signal."""
    distance = np.arange(cells)
    turns = math.ceil(_KERNEL_SIGMAS * sigma_cells / cells) + 1
    repeated = distance[:, None] + cells * np.arange(-turns, turns + 1)[None]
    weights = np.exp(-0.5 * (repeated / sigma_cells) ** 2).sum(axis=1)
    weights /= weights.sum()
    return np.asarray(weights[(distance[:, None] - distance[None]) % cells], dtype=np.float32)


def _neutral_luma(frame: av.VideoFrame) -> int:
    """Mid-grey in the frame's range of values."""
    full_range = frame.format.name.startswith("yuvj") or frame.color_range == _FULL_RANGE
    return 128 if full_range else 126


def _even_region(box: npt.NDArray[np.float32], width: int, height: int) -> Region | None:
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


def _simplified(regions: list[Region], *, max_area: int) -> list[Region]:
    """The regions without those within another; their common bounding box where they add up to too much."""
    if len(regions) < 2:
        return regions
    boxes = np.array(regions, dtype=np.int64)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = np.zeros((0, 4), dtype=np.int64)
    for box in boxes[np.argsort(-areas, kind="stable")]:
        within = (kept[:, :2] <= box[:2]).all(axis=1) & (kept[:, 2:] >= box[2:]).all(axis=1)
        if not within.any():
            kept = np.concatenate([kept, box[None]])
    total = int(((kept[:, 2] - kept[:, 0]) * (kept[:, 3] - kept[:, 1])).sum())
    if total > max_area:
        kept = np.concatenate([kept[:, :2].min(axis=0), kept[:, 2:].max(axis=0)])[None]
    return [cast("Region", tuple(int(value) for value in box)) for box in kept]
