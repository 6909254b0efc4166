"""What box detectors share before and after the network: anchors, decoding, suppression, letterboxing, batches.

Plain numpy, so that it is the same on every device and needs no model library.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from ego_assets.schema.detections import BgrImage, Detections
from resources.models.images import resized

FloatArray = npt.NDArray[np.float32]

#: What shifts of centres and logarithms of sizes are divided by: as in SSD (Liu et al., 2016), so in RetinaFace.
CENTER_VARIANCE, SIZE_VARIANCE = 0.1, 0.2


def check_finite(*outputs: npt.NDArray[np.float32]) -> None:
    """Refuse what a network answers when it has broken down: it must not pass for one that saw nothing.

    Raises:
        ValueError: A value is NaN or infinite.
    """
    if not all(np.isfinite(output).all() for output in outputs):
        raise ValueError("expected finite values from the network, got NaN or infinite ones")


def positions_by_size(sizes: Iterable[tuple[int, ...]]) -> Iterator[list[int]]:
    """Positions of entries of equal size, each position once; the size that comes first is the first group."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for position, size in enumerate(sizes):
        groups.setdefault(size, []).append(position)
    yield from groups.values()


def suppressed(
    boxes_xyxy: FloatArray, scores: FloatArray, *, iou: float, width: int, height: int
) -> Detections:
    """The boxes inside the picture that no stronger one overlaps by more than ``iou``, strongest first.

    Args:
        boxes_xyxy: ``float32 [N, 4]`` in pixels of the picture; clipped to it, and dropped where nothing is left.
        scores: ``float32 [N]``, clipped to 0-1.
        iou: Overlap from which the weaker of two is dropped.
        width: Of the picture in pixels.
        height: Of the picture in pixels.

    Raises:
        ValueError: A box or score is not finite.
    """
    check_finite(boxes_xyxy, scores)
    boxes = np.clip(boxes_xyxy, 0, np.array([width, height] * 2, np.float32)).astype(np.float32)
    sizes = boxes[:, 2:] - boxes[:, :2]
    valid = np.all(sizes > 0, axis=1)
    boxes, sizes = boxes[valid], sizes[valid]
    scores = np.clip(scores[valid], 0, 1).astype(np.float32)
    if scores.size == 0:
        return Detections.empty()
    left_top_size = np.concatenate([boxes[:, :2], sizes], axis=1).astype(np.float64)
    kept = np.asarray(
        cv2.dnn.NMSBoxes(left_top_size.tolist(), scores.tolist(), 0.0, iou), dtype=np.int64
    ).reshape(-1)
    return Detections(boxes[kept], scores[kept])


# --- anchors (SSD, RetinaFace) ------------------------------------------------------------------------


def prior_boxes(
    *, width: int, height: int, strides: Sequence[int], sides: Sequence[Sequence[int]]
) -> FloatArray:
    """Square anchors of a single-shot detector: ``float32 [N, 4]``, centre and side in input pixels.

    One map per stride, finest first; in each, cell after cell by row, and in each cell one anchor per side. An
    incomplete cell at the right or lower edge counts.

    Args:
        width: Of the network's input in pixels.
        height: Of the network's input in pixels.
        strides: Input pixels per cell of each map.
        sides: Sides in input pixels of the anchors of each map.
    """
    levels = []
    for stride, level_sides in zip(strides, sides, strict=True):
        columns, rows = -(-width // stride), -(-height // stride)
        grid_y, grid_x, grid_side = np.meshgrid(
            (np.arange(rows) + 0.5) * stride,
            (np.arange(columns) + 0.5) * stride,
            np.asarray(level_sides, np.float64),
            indexing="ij",
        )
        levels.append(np.stack([grid_x, grid_y, grid_side, grid_side], axis=-1).reshape(-1, 4))
    return np.asarray(np.concatenate(levels), np.float32)


def decode_priors(priors: FloatArray, regression: FloatArray) -> FloatArray:
    """Boxes of anchors and what the network says about each (Liu et al., SSD, 2016).

    Args:
        priors: ``float32 [N, 4]``, see :func:`prior_boxes`.
        regression: ``float32 [N, 4]``: shift of the centre in sides and logarithm of the size in sides, divided by
            :data:`CENTER_VARIANCE` and :data:`SIZE_VARIANCE`.

    Returns:
        ``float32 [N, 4]`` xyxy in input pixels, not clipped.
    """
    centers = priors[:, :2] + regression[:, :2] * CENTER_VARIANCE * priors[:, 2:]
    halves = priors[:, 2:] * np.exp(regression[:, 2:] * SIZE_VARIANCE) / 2
    return np.asarray(np.concatenate([centers - halves, centers + halves], axis=1), np.float32)


# --- letterbox (YOLO) ---------------------------------------------------------------------------------


class Letterbox(NamedTuple):
    """A picture shrunk or enlarged without distortion into a canvas.

    Attributes:
        canvas: ``uint8 [height, width, 3]``.
        scale: Canvas pixels per picture pixel.
        left: Width of the margin at the left in canvas pixels.
        top: Height of the margin at the top in canvas pixels.
    """

    canvas: BgrImage
    scale: float
    left: int
    top: int

    def to_picture(self, boxes_xyxy: FloatArray) -> FloatArray:
        """Boxes in canvas pixels as boxes in picture pixels, ``float32 [N, 4]``."""
        offset = np.array([self.left, self.top] * 2, np.float32)
        return ((boxes_xyxy - offset) / np.float32(self.scale)).astype(np.float32)


def letterbox(image: BgrImage, *, width: int, height: int, fill: int) -> Letterbox:
    """Fit a picture into a canvas of ``width`` x ``height`` pixels, centred on the grey value ``fill``."""
    rows, columns = image.shape[:2]
    scale = min(width / columns, height / rows)
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    canvas = np.full((height, width, 3), fill, np.uint8)
    canvas[top : top + size[1], left : left + size[0]] = resized(image, size)
    return Letterbox(canvas, scale, left, top)


def xywh_to_xyxy(boxes: FloatArray) -> FloatArray:
    """Centre, width and height as left, top, right and bottom, ``float32 [N, 4]``."""
    halves = boxes[:, 2:4] / 2
    return np.concatenate([boxes[:, :2] - halves, boxes[:, :2] + halves], axis=1).astype(np.float32)
