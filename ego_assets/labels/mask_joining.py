"""Which proposed masks are whole objects, and which of them are instances that are known already.

Everything is told from areas and from how many pixels two masks share, so that masks may lie on any device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.integer[Any]]

#: Two masks with more than this intersection over union are one.
_SAME_IOU = 0.5
#: A mask with this share of its pixels in another lies in it.
_INSIDE = 0.8
#: One that lies in another is that one as long as it has this share of its area; smaller ones are on it, or of it.
_SAME_AREA = 0.25
#: A mask with this share of its pixels on known instances shows nothing new.
_KNOWN = 0.5
#: What is larger than this share of the picture is a surface or a background: things in it are no parts of it.
_WHOLE_SHARE = 0.25
#: What is larger still is the picture.
_PICTURE_SHARE = 0.8


def whole_objects(
    shared: Counts, scores: npt.NDArray[np.floating[Any]], *, pixels: int, min_share: float, max_count: int
) -> npt.NDArray[np.intp]:
    """Choose masks of many whole objects out of proposals of parts, objects and groups.

    Of proposals that are the same, the best stands. What lies in a larger one is a part of it, unless that is larger
    than an object is. The largest are taken first.

    Args:
        shared: ``int [M, M]``, pixels that two proposals share; areas are on the diagonal.
        scores: ``float [M]``, how good each is.
        pixels: Pixels of the picture that areas refer to.
        min_share: Smallest mask, as share of the picture.
        max_count: Most masks.

    Returns:
        ``intp [K]``, positions of the masks, the largest first.
    """
    areas = np.diagonal(shared).astype(np.float64)
    fits = (areas > 0) & (areas >= min_share * pixels) & (areas <= _PICTURE_SHARE * pixels)
    distinct: list[int] = []
    for place in np.argsort(-np.asarray(scores, np.float64), kind="stable"):
        if fits[place]:
            union = areas[place] + areas[distinct] - shared[place, distinct]
            if not (shared[place, distinct] > _SAME_IOU * union).any():
                distinct.append(int(place))
    chosen: list[int] = []
    for place in sorted(distinct, key=lambda k: (-areas[k], k)):
        wholes = [k for k in chosen if areas[k] <= _WHOLE_SHARE * pixels]
        if len(chosen) < max_count and not (shared[place, wholes] >= _INSIDE * areas[place]).any():
            chosen.append(place)
    return np.array(chosen, dtype=np.intp)


@dataclass(frozen=True, eq=False, kw_only=True)
class Joined:
    """What each of several new masks is.

    Attributes:
        known: ``intp [K]``, position of the known instance that a mask is; -1 where it is none.
        is_new: ``bool [K]``, whether it is an instance that was not known. What is neither shows parts of known ones.
    """

    known: npt.NDArray[np.intp]
    is_new: npt.NDArray[np.bool_]


def join_by_overlap(shared: Counts, new_areas: Counts, known_areas: Counts, *, pixels: int) -> Joined:
    """Tell which new masks are known instances: one to one, those that overlap most first.

    A mask that lies mostly on known instances shows nothing new, unless they are surfaces, on which things lie.

    Args:
        shared: ``int [K, N]``, pixels that new masks share with those of known instances.
        new_areas: ``int [K]``, pixels of the new masks.
        known_areas: ``int [N]``, pixels of the known instances in the same picture; no two of them overlap.
        pixels: Pixels of the picture.

    Raises:
        ValueError: The shapes do not fit.
    """
    count, others = new_areas.size, known_areas.size
    if shared.shape != (count, others):
        raise ValueError(f"shared: expected {[count, others]}, got {list(shared.shape)}")
    overlap = shared.astype(np.float64)
    a, b = new_areas.astype(np.float64)[:, None], known_areas.astype(np.float64)[None]
    iou = overlap / np.maximum(a + b - overlap, 1)
    smaller, larger = np.minimum(a, b), np.maximum(a, b)
    is_inside = (overlap >= _INSIDE * smaller) & (smaller >= _SAME_AREA * larger)
    rows, columns = np.nonzero((overlap > 0) & ((iou >= _SAME_IOU) | is_inside))
    known = np.full(count, -1, dtype=np.intp)
    given = np.zeros(others, np.bool_)
    for place in np.argsort(-iou[rows, columns], kind="stable"):
        row, column = rows[place], columns[place]
        if known[row] < 0 and not given[column]:
            known[row], given[column] = column, True
    on_things = overlap[:, known_areas <= _WHOLE_SHARE * pixels].sum(axis=1)
    is_new = (known < 0) & (new_areas > 0) & (on_things < _KNOWN * a[:, 0])
    return Joined(known=known, is_new=is_new)
