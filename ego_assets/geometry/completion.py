"""Fills gaps between measurements, and brings small maps to the size of the picture, along the picture's edges."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from ego_assets.schema.detections import BgrImage

Map = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]

#: Reach of completion from a measurement, as a share of the picture's longer side; edges count as distance.
_REACH = 0.08
#: Pixels of distance that one grey level of difference is worth.
_EDGE_COST_PX = 0.4
#: The two sides of a gap belong to one surface if their depths differ by less than this share.
_SAME_SURFACE = 0.2
#: Differences in grey level beyond which pixels are taken for different surfaces when a map is enlarged.
_SIMILAR_GREY = 12.0
#: Neighbours whose inverse depths differ by less than this share lie on one surface.
_ONE_SURFACE = 0.04


def complete_between(
    inverse_depth: Map, known: Mask, forbidden: Mask, image: BgrImage, *, footprint_px: int = 0
) -> tuple[Map, Map]:
    """Inverse depth of gaps that have measurements on both sides.

    A pixel is filled if the nearest measurements to its left and right, or above and below, lie within reach and agree:
    then both sides are one surface and the value lies between them. Edges of the picture count as distance. Nothing
    grows outwards, and nothing is filled across ``forbidden`` pixels.

    Args:
        inverse_depth: ``float32 [height, width]``.
        known: ``bool [height, width]``, where it was measured.
        forbidden: ``bool [height, width]``, pixels that moved by themselves.
        image: The picture, ``uint8 [height, width, 3]``.
        footprint_px: Each measurement also holds for the pixels this near, of which it is the nearest.

    Returns:
        The inverse depth of filled pixels, and their certainty in 0-1; both 0 elsewhere.
    """
    if footprint_px > 0:
        spread, held = _spread(inverse_depth, known, forbidden, reach_px=footprint_px)
        filled, certainty = complete_between(spread, held, forbidden, image)
        near = held & ~known
        return np.where(near, spread, filled), np.where(near, np.float32(0.9), certainty)
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), (0, 0), 1.0).astype(np.float32)
    reach = np.float32(_REACH * max(known.shape))
    total, weights, certainty = (np.zeros(known.shape, np.float32) for _ in range(3))
    for turned in (False, True):
        if turned:
            value, sure = _along_rows(inverse_depth.T, known.T, forbidden.T, grey.T, reach=reach)
            value, sure = value.T, sure.T
        else:
            value, sure = _along_rows(inverse_depth, known, forbidden, grey, reach=reach)
        total += value * sure
        weights += sure
        np.maximum(certainty, sure, out=certainty)
    filled = np.divide(total, weights, out=np.zeros_like(total), where=weights > 0)
    return filled, certainty


def _spread(inverse_depth: Map, known: Mask, forbidden: Mask, *, reach_px: int) -> tuple[Map, Mask]:
    """Every pixel near a measurement takes over the nearest one."""
    if not known.any():
        return inverse_depth, known
    distance, label = cv2.distanceTransformWithLabels(
        (~known).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    by_label = np.zeros(int(label.max()) + 1, np.float32)
    by_label[label[known]] = inverse_depth[known]
    held = (distance <= reach_px) & ~forbidden | known
    return np.where(held, by_label[label], np.float32(0)), held


def _along_rows(
    inverse_depth: Map, known: Mask, forbidden: Mask, grey: Map, *, reach: np.float32
) -> tuple[Map, Map]:
    height, width = known.shape
    steps = np.ones((height, width), np.float32)
    steps[:, 1:] += _EDGE_COST_PX * np.abs(np.diff(grey, axis=1))
    # Stepping on a forbidden pixel takes one out of reach.
    steps[forbidden] += 2 * reach
    travelled = np.cumsum(steps, axis=1, dtype=np.float64).astype(np.float32)
    columns = np.arange(width)
    left = np.maximum.accumulate(np.where(known, columns, -1), axis=1)
    right = np.minimum.accumulate(np.where(known, columns, width)[:, ::-1], axis=1)[:, ::-1]
    rows, middle = np.nonzero(~known & ~forbidden & (left >= 0) & (right < width))
    value, certainty = np.zeros((2, height, width), np.float32)
    if rows.size == 0:
        return value, certainty
    start, end = left[rows, middle], right[rows, middle]
    here = travelled[rows, middle]
    before, after = here - travelled[rows, start], travelled[rows, end] - here
    one, other = inverse_depth[rows, start], inverse_depth[rows, end]
    difference = np.abs(one - other) / np.maximum(np.maximum(one, other), 1e-9)
    good = (np.maximum(before, after) < reach) & (difference < _SAME_SURFACE)
    between = (one * after + other * before) / (before + after)
    value[rows, middle] = np.where(good, between, 0)
    sure = (1 - np.maximum(before, after) / reach) * (1 - difference / _SAME_SURFACE)
    certainty[rows, middle] = np.where(good, np.maximum(sure, 0.02), 0)
    return value, certainty


def enlarge_mask(mask: Mask, width: int, height: int) -> Mask:
    """Bring a mask to another size: every pixel takes the nearest one, so that shares stay."""
    return mask[_nearest(height, mask.shape[0])][:, _nearest(width, mask.shape[1])]


def enlarge(values: Map, certainty: Map, small: BgrImage, large: BgrImage) -> tuple[Map, Map]:
    """Bring a map to the size of a larger picture, along the picture's edges.

    Each pixel takes the mean of its four neighbours in the small map, weighted by nearness. Where these differ, or are
    not all known, likeness to the small picture counts as well (joint bilateral upsampling, Kopf et al. 2007, with four
    neighbours). A pixel is known only where neighbours that are known carry more than half of the weight.

    Args:
        values: ``float32 [height, width]``.
        certainty: ``float32 [height, width]``, 0 where nothing is known.
        small: The picture that the map belongs to.
        large: The picture at the size wanted.

    Returns:
        Values and certainty at the size of ``large``; both 0 where nothing is known.
    """
    if small.shape == large.shape:
        return values.copy(), certainty.copy()
    height, width = large.shape[:2]
    known = certainty > 0
    result, sure = (
        np.asarray(cv2.resize(array, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
        for array in (values, certainty)
    )
    around = np.ones((3, 3), np.uint8)
    highest, lowest = cv2.dilate(values, around), cv2.erode(values, around)
    known_nearby = cv2.dilate(known.astype(np.uint8), around) > 0
    differs = known_nearby & (
        (lowest < (1 - _ONE_SURFACE) * highest) | (cv2.erode(known.astype(np.uint8), around) == 0)
    )
    result[~enlarge_mask(known_nearby, width, height)] = 0
    sure[result == 0] = 0
    rows, columns = np.nonzero(enlarge_mask(differs, width, height))
    if rows.size:
        result[rows, columns], sure[rows, columns] = _mixed(values, certainty, small, large, rows, columns)
    return result, sure


def _nearest(size: int, low_size: int) -> Indices:
    return np.minimum(((np.arange(size) + 0.5) * (low_size / size)).astype(np.intp), low_size - 1)


def _mixed(
    values: Map, certainty: Map, small: BgrImage, large: BgrImage, rows: Indices, columns: Indices
) -> tuple[Map, Map]:
    """Joint bilateral upsampling at some pixels of the large picture."""
    height, width = large.shape[:2]
    low_height, low_width = small.shape[:2]
    guide = cv2.cvtColor(large, cv2.COLOR_BGR2GRAY)[rows, columns].astype(np.int16)
    low_guide = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY).astype(np.int16)
    likeness = (np.exp(-((np.arange(256) / _SIMILAR_GREY) ** 2) / 2) + 0.01).astype(np.float32)
    y = (rows.astype(np.float32) + 0.5) * (low_height / height) - 0.5
    x = (columns.astype(np.float32) + 0.5) * (low_width / width) - 0.5
    top, left = np.floor(y).astype(np.intp), np.floor(x).astype(np.intp)
    share_y, share_x = (y - top).astype(np.float32), (x - left).astype(np.float32)
    total, weight, all_weight, sure = np.zeros((4, rows.size), np.float32)
    for down in (0, 1):
        for across in (0, 1):
            place = np.clip(top + down, 0, low_height - 1) * low_width + np.clip(
                left + across, 0, low_width - 1
            )
            near = (share_y if down else 1 - share_y) * (share_x if across else 1 - share_x) + np.float32(
                1e-3
            )
            near *= likeness[np.abs(guide - low_guide.ravel()[place])]
            all_weight += near
            there = certainty.ravel()[place]
            near *= there > 0
            weight += near
            total += near * values.ravel()[place]
            sure += near * there
    enough = weight > 0.5 * all_weight
    divisor = np.where(enough, weight, np.float32(1))
    return np.where(enough, total / divisor, 0), np.where(enough, sure / divisor, 0)
