"""The second, tiled look: a detector sees a large picture in overlapping windows, so that small regions count.

A detector shrinks what it is given. A region that is too small in the shrunk picture is large enough in a window of
it. What lies across windows is seen whole by one of them where it is smaller than the overlap; what is larger is
found by the look at the whole picture, which goes on beside this one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ego_assets.schema.detections import BgrImage, Detections, RegionDetector, iou_matrix

#: A box lies within another one from this share of its area on.
_CONTAINED_SHARE = 0.8
#: A box more times as large as the one within it is another region.
_MOST_TIMES_LARGER = 4.0
#: Two windows place the same region within a few pixels of each other; neighbours overlap less than this.
_SAME_REGION_IOU = 0.3
#: A side of a box this near to an edge of its window, in pixels, may have been cut there.
_CUT_DISTANCE_PX = 2.0


def tile_windows(
    width: int, height: int, *, tile_side: int, overlap: float
) -> list[tuple[int, int, int, int]]:
    """Windows that cover a picture, spread evenly, row by row.

    Args:
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.
        tile_side: Side of the square windows in pixels; a picture that is smaller in one direction gets windows
            as small as itself there.
        overlap: Least share of a window's side that it has in common with the next one, 0 up to 0.9.

    Returns:
        Windows as left, top, right, bottom in pixels.
    """
    if width < 1 or height < 1:
        raise ValueError(f"expected a width and height of 1 or more, got {width}, {height}")
    if tile_side < 1:
        raise ValueError(f"tile_side: expected 1 or more, got {tile_side}")
    if not 0 <= overlap <= 0.9:
        raise ValueError(f"overlap: expected 0 to 0.9, got {overlap}")
    columns = _starts(width, tile_side, overlap)
    rows = _starts(height, tile_side, overlap)
    return [
        (left, top, min(left + tile_side, width), min(top + tile_side, height))
        for top in rows
        for left in columns
    ]


def detect_tiled(
    detector: RegionDetector, image: BgrImage, *, tile_side: int, overlap: float, strict: bool = False
) -> Detections:
    """What a detector finds in the windows of :func:`tile_windows`, each region once.

    A box that touches an edge which its window does not share with the picture may show part of a region only. It is
    dropped where another window shows more of the region, and kept where none does.

    Args:
        detector: Any detector of regions.
        image: ``uint8 [height, width, 3]``, BGR, upright.
        tile_side: Side of a window in pixels. A detector that shrinks pictures to a longer side of 960 sees the
            windows of a 1080p frame at full size with 960.
        overlap: Least share of a window's side in common with the next; choose it so that the overlap is larger
            than the regions that only this look finds.
        strict: Passed to the detector.

    Returns:
        Boxes in pixels of ``image``, strongest first.
    """
    height, width = image.shape[:2]
    windows = tile_windows(width, height, tile_side=tile_side, overlap=overlap)
    views = [np.ascontiguousarray(image[top:bottom, left:right]) for left, top, right, bottom in windows]
    parts = []
    cut_parts = []
    for window, found in zip(windows, detector.detect(views, strict=strict), strict=True):
        offset = np.array([window[0], window[1]] * 2, dtype=np.float32)
        cut = _is_cut(found.boxes_xyxy, window, width=width, height=height)
        moved = found.boxes_xyxy + offset
        parts.append(Detections(moved[~cut], found.scores[~cut]))
        cut_parts.append(Detections(moved[cut], found.scores[cut]))
    whole = merge_detections(parts, iou=_SAME_REGION_IOU)
    pieces = merge_detections(cut_parts, iou=_SAME_REGION_IOU)
    shown_whole = _contained_share(pieces.boxes_xyxy, whole.boxes_xyxy).max(axis=1, initial=0)
    lone = shown_whole < _CONTAINED_SHARE
    lone_pieces = Detections(pieces.boxes_xyxy[lone], pieces.scores[lone])
    return merge_detections([whole, lone_pieces], iou=_SAME_REGION_IOU)


def merge_detections(parts: Sequence[Detections], *, iou: float) -> Detections:
    """Join detections of several looks at one image; each region stays once.

    Two boxes are one region where they overlap by more than ``iou``, or where one lies within the other and is not
    smaller than a quarter of it (a small face may stand before a large one). One that lies within the other
    showed less of the region, so the larger box stays; of others the stronger stays. The score is the better
    of both.

    Args:
        parts: Detections in pixels of the same image.
        iou: Intersection over union above which two boxes are one region, above 0 up to 1.

    Returns:
        Boxes, strongest first; no two of them are one region.
    """
    if not 0 < iou <= 1:
        raise ValueError(f"iou: expected more than 0 and at most 1, got {iou}")
    if not parts:
        return Detections.empty()
    boxes = np.concatenate([part.boxes_xyxy for part in parts])
    scores = np.concatenate([part.scores for part in parts])
    while True:
        order = np.argsort(-scores, kind="stable")
        merged_boxes, merged_scores = _merge_once(boxes[order], scores[order], iou=iou)
        # A box that grew to the larger one may now be one region with a third.
        if len(merged_scores) == len(scores):
            return Detections(merged_boxes, merged_scores)
        boxes, scores = merged_boxes, merged_scores


def _merge_once(
    boxes: npt.NDArray[np.float32], scores: npt.NDArray[np.float32], *, iou: float
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """One sweep over boxes in the order of falling scores."""
    kept_boxes = np.zeros_like(boxes)
    kept_scores = np.zeros_like(scores)
    count = 0
    for box, score in zip(boxes, scores, strict=True):
        kept = kept_boxes[:count]
        within_kept = _contained_share(box[None], kept)[0]
        around_kept = _contained_share(kept, box[None])[:, 0]
        contained = np.maximum(within_kept, around_kept) >= _CONTAINED_SHARE
        alike = _areas(np.concatenate([kept, box[None]]))
        contained &= np.minimum(alike[:-1], alike[-1]) * _MOST_TIMES_LARGER >= np.maximum(
            alike[:-1], alike[-1]
        )
        overlap = iou_matrix(box[None], kept)[0]
        same = np.flatnonzero((overlap > iou) | contained)
        if not same.size:
            kept_boxes[count], kept_scores[count] = box, score
            count += 1
            continue
        nearest = int(same[np.argmax(overlap[same])])
        if around_kept[nearest] >= _CONTAINED_SHARE and alike[-1] > alike[nearest]:
            kept_boxes[nearest] = box
    return kept_boxes[:count], kept_scores[:count]


def _starts(length: int, side: int, overlap: float) -> list[int]:
    """First pixel of each window along one axis."""
    if length <= side:
        return [0]
    step = max(1, math.floor(side * (1 - overlap)))
    count = math.ceil((length - side) / step) + 1
    return [round(index * (length - side) / (count - 1)) for index in range(count)]


def _is_cut(
    boxes: npt.NDArray[np.float32], window: tuple[int, int, int, int], *, width: int, height: int
) -> npt.NDArray[np.bool_]:
    """Whether each box, in pixels of its window, touches an edge that is none of the picture."""
    left, top, right, bottom = window
    limits = np.array([right - left, bottom - top], dtype=np.float32)
    near_start = boxes[:, :2] <= _CUT_DISTANCE_PX
    near_end = boxes[:, 2:] >= limits - _CUT_DISTANCE_PX
    inner_start = np.array([left > 0, top > 0])
    inner_end = np.array([right < width, bottom < height])
    return np.asarray(((near_start & inner_start) | (near_end & inner_end)).any(axis=1))


def _contained_share(
    inner: npt.NDArray[np.float32], outer: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Share of each of the ``inner [N, 4]`` boxes that lies within each of ``outer [M, 4]``, ``float64 [N, M]``."""
    rows, columns = inner[:, None].astype(np.float64), outer[None].astype(np.float64)
    shared = np.minimum(rows[..., 2:], columns[..., 2:]) - np.maximum(rows[..., :2], columns[..., :2])
    return np.asarray(np.clip(shared, 0, None).prod(axis=-1) / np.maximum(_areas(inner), 1e-9)[:, None])


def _areas(boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    return np.asarray(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).astype(np.float64).prod(axis=1))
