"""How much of what had to be hidden was hidden, and how sure a measured share is."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt


def covered_share(
    true_boxes: npt.NDArray[np.float32], redaction_boxes: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Share of each true box that lies under the union of the redaction boxes.

    Exact for rectangles: the edges of all boxes divide a true box into cells that are covered wholly or not at all.

    Args:
        true_boxes: ``float32 [N, 4]``, xyxy in pixels, each with an area.
        redaction_boxes: ``float32 [M, 4]``, xyxy in pixels; boxes without area cover nothing.

    Returns:
        ``float64 [N]`` in 0-1.

    Raises:
        ValueError: A true box has no area.
    """
    for name, boxes in (("true_boxes", true_boxes), ("redaction_boxes", redaction_boxes)):
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError(f"{name}: expected [N, 4], got {list(boxes.shape)}")
    truth = true_boxes.astype(np.float64)
    redaction = redaction_boxes.astype(np.float64)
    if bool(np.any(truth[:, 2:] <= truth[:, :2])):
        raise ValueError("true_boxes: expected right > left and bottom > top for every box")
    shares = [_union_area(_clipped(redaction, box)) / float((box[2:] - box[:2]).prod()) for box in truth]
    return np.clip(np.array(shares, dtype=np.float64), 0, 1)


def wilson_interval(successes: float, n: float) -> tuple[float, float]:
    """Interval that holds the true share with a confidence of 95 % (Wilson, 1927).

    Unlike the normal approximation it stays within 0-1 and is meaningful for few trials and shares near 0 or 1.

    Args:
        successes: Trials that succeeded, 0 to ``n``.
        n: Trials, or the effective number of dependent ones; with none the share may be anything, so 0 to 1.

    Returns:
        Lower and upper bound.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes: expected 0 to n ({n}), got {successes}")
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.975)
    share = successes / n
    scale = 1 + z * z / n
    center = (share + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At the ends the bound is exactly 0 or 1; rounding would leave it a hair off.
    low = 0.0 if successes == 0 else max(0.0, center - half)
    high = 1.0 if successes == n else min(1.0, center + half)
    return low, high


def _clipped(boxes: npt.NDArray[np.float64], limit: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The parts of the boxes within ``limit``; boxes without such a part are left out."""
    inside = np.concatenate(
        [np.maximum(boxes[:, :2], limit[:2]), np.minimum(boxes[:, 2:], limit[2:])], axis=1
    )
    return np.asarray(inside[np.all(inside[:, 2:] > inside[:, :2], axis=1)])


def _union_area(boxes: npt.NDArray[np.float64]) -> float:
    """Area of the union of boxes that each have an area."""
    if not len(boxes):
        return 0.0
    x = np.unique(boxes[:, [0, 2]])
    y = np.unique(boxes[:, [1, 3]])
    covered = np.zeros((y.size - 1, x.size - 1), dtype=bool)
    for left, top, right, bottom in boxes:
        columns = slice(*np.searchsorted(x, (left, right)))
        rows = slice(*np.searchsorted(y, (top, bottom)))
        covered[rows, columns] = True
    return float(np.diff(y) @ covered @ np.diff(x))
