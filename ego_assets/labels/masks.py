"""Masks of the wearer's hands, of people and of instances at the size of a frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
import numpy.typing as npt

from ego_assets.labels.hands import FINGER_RADIUS, hand_silhouette, palm_length
from ego_assets.labels.regions import LabelMap, Mask, fill_lines, used_labels
from ego_assets.schema.detections import BgrImage

#: How far from the skeleton's outline a pixel can still be hand, in palms.
_REACH = 0.16
#: Skin is told from what is around it in Lab colour, with this many bins for lightness and for each colour axis.
_BINS = (12, 24, 24)
#: How much a clip's colours so far count against those of the present frame.
_MEMORY = 0.8
#: Votes of the colours and of the distance to the skeleton are limited to these odds (natural logarithm).
_COLOUR_LIMIT, _PLACE_LIMIT = 2.5, 3.0
#: Without landmarks there is only an ellipse, whose outline errs by this much.
_ELLIPSE_REACH = 0.45
#: A mask that leaves this range of the skeleton's own area was led astray by the colours: the skeleton stands. An
#: ellipse holds more than the hand.
_AREA_RANGE, _ELLIPSE_AREA_RANGE = (0.5, 1.9), (0.2, 1.3)

#: A thing in a hand is compared with what is around it up to this share of its box's sides.
_SURROUNDINGS = 0.4
#: How much of the ellipse in its box a thing fills, where its colours tell it from the rest.
_HELD_RANGE = (0.25, 1.35)


@dataclass(frozen=True, eq=False, kw_only=True)
class FoundPerson:
    """One person, or several who overlap.

    Attributes:
        mask: ``bool [h, w]`` over the whole picture, at any resolution.
        score: How sure it is that this is a person, 0-1.
    """

    mask: Mask
    score: float


@runtime_checkable
class PersonFinder(Protocol):
    """Finds other people in a picture."""

    def find(self, image: BgrImage) -> Sequence[FoundPerson]:
        """The people in one picture; nothing is remembered from one call to the next."""
        ...


class LearntColours:
    """What tells one thing from what is around it in this very clip, learnt from where it is known to lie.

    Args:
        decay: How much the frames before count.
    """

    def __init__(self, *, decay: float = _MEMORY) -> None:
        self._decay = decay
        self._thing = np.zeros(_BINS, np.float32)
        self._around = np.zeros(_BINS, np.float32)

    def learn(self, lab: BgrImage, thing: Mask, around: Mask) -> None:
        """Take up the colours of pixels that surely are the thing and others; ``lab`` is 8-bit CIELAB."""
        for histogram, mask in ((self._thing, thing), (self._around, around)):
            histogram *= self._decay
            found = cv2.calcHist([lab], [0, 1, 2], mask.astype(np.uint8), list(_BINS), [0, 256] * 3)
            histogram += found / max(1.0, float(found.sum()))

    def odds(self, lab: BgrImage) -> npt.NDArray[np.float32]:
        """Logarithm of the odds that a pixel's colour is that of the thing, ``float32 [h, w]``."""
        thing, around = (_smoothed(histogram) for histogram in (self._thing, self._around))
        table = np.log((thing + 2e-4) / (around + 2e-4))
        places = [np.asarray(lab[..., axis], np.int32) * bins // 256 for axis, bins in enumerate(_BINS)]
        limited = np.clip(table[places[0], places[1], places[2]], -_COLOUR_LIMIT, _COLOUR_LIMIT)
        return np.asarray(limited, dtype=np.float32)


def hand_mask(
    image: BgrImage,
    *,
    box_xyxy: npt.NDArray[np.float32],
    landmarks_xy: npt.NDArray[np.float32],
    colours: LearntColours,
) -> Mask:
    """The pixels of a hand, up to the wrist, ``bool [h, w]``.

    A skeleton of capsules says where it can be, its colours against those around it where it ends, and a guided filter
    (He et al., 2013) makes the edge follow the picture's.

    Args:
        image: ``uint8 [h, w, 3]``, BGR.
        box_xyxy: ``float32 [4]``, box of the hand.
        landmarks_xy: ``float32 [21, 2]`` in pixels; NaN where there are none: an ellipse in the box stands for them.
        colours: Colours of this hand in the clip; learns from the picture.
    """
    height, width = image.shape[:2]
    mask = np.zeros((height, width), np.bool_)
    has_landmarks = bool(np.isfinite(landmarks_xy).all())
    size = palm_length(landmarks_xy) if has_landmarks else 0.6 * float(np.max(box_xyxy[2:] - box_xyxy[:2]))
    # Landmarks that fall into one point give no skeleton.
    if size < 2:
        return mask
    points = landmarks_xy if has_landmarks else box_xyxy.reshape(2, 2)
    reach = _REACH if has_landmarks else _ELLIPSE_REACH
    margin = (FINGER_RADIUS + 2 * reach) * size + 4
    left, top = np.maximum(np.floor(points.min(axis=0) - margin), 0).astype(int)
    right, bottom = np.minimum(np.ceil(points.max(axis=0) + margin), (width, height)).astype(int)
    if right - left < 3 or bottom - top < 3:
        return mask
    window = (slice(top, bottom), slice(left, right))
    crop = np.ascontiguousarray(image[window])
    shape = (
        hand_silhouette(landmarks_xy - (left, top), width=crop.shape[1], height=crop.shape[0]).astype(
            np.uint8
        )
        if has_landmarks
        else _ellipse(box_xyxy - (left, top, left, top), crop.shape[:2])
    )
    if not shape.any():
        return mask
    # Positive inside the skeleton's outline, in units of how far the outline may err.
    inside = cv2.distanceTransform(shape, cv2.DIST_L2, 3)
    outside = cv2.distanceTransform(1 - shape, cv2.DIST_L2, 3)
    distance = (inside - outside) / max(1.0, reach * size)
    lab = np.asarray(cv2.cvtColor(cv2.GaussianBlur(crop, (3, 3), 0), cv2.COLOR_BGR2Lab), dtype=np.uint8)
    colours.learn(lab, distance > 0.25, distance < -1.0)
    votes = colours.odds(lab) + np.clip(distance * _PLACE_LIMIT, -2 * _PLACE_LIMIT, _PLACE_LIMIT)
    votes = np.where(distance < -1.2, -2 * _PLACE_LIMIT, votes).astype(np.float32)
    radius = max(2, round(0.06 * size))
    guided = np.asarray(cv2.ximgproc.guidedFilter(crop, votes, radius, (0.03 * 255) ** 2))
    found = _connected(guided > 0, shape > 0)
    share = found.sum() / max(1, int(shape.sum()))
    lowest, highest = _AREA_RANGE if has_landmarks else _ELLIPSE_AREA_RANGE
    mask[window] = found if lowest <= share <= highest else shape > 0
    return mask


def held_mask(image: BgrImage, *, box_xyxy: npt.NDArray[np.float32], hands: Mask) -> Mask:
    """The thing in a hand, told by its colours from what is around its box, ``bool [h, w]``; empty where that fails.

    Args:
        image: ``uint8 [h, w, 3]``, BGR.
        box_xyxy: ``float32 [4]``, box of the thing.
        hands: ``bool [h, w]``, pixels of hands.
    """
    height, width = image.shape[:2]
    mask = np.zeros((height, width), np.bool_)
    margin = np.maximum(_SURROUNDINGS * (box_xyxy[2:] - box_xyxy[:2]), 4)
    left, top = np.maximum(np.floor(box_xyxy[:2] - margin), 0).astype(int)
    right, bottom = np.minimum(np.ceil(box_xyxy[2:] + margin), (width, height)).astype(int)
    if right - left < 8 or bottom - top < 8:
        return mask
    window = (slice(top, bottom), slice(left, right))
    crop, hand = np.ascontiguousarray(image[window]), hands[window]
    inside = _ellipse(box_xyxy - (left, top, left, top), crop.shape[:2])
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, 3) - cv2.distanceTransform(
        1 - inside, cv2.DIST_L2, 3
    )
    distance = distance / max(2.0, 0.25 * float(np.min(box_xyxy[2:] - box_xyxy[:2])))
    seed, around = (distance > 0.5) & ~hand, (distance < -0.7) & ~hand
    if not seed.any() or not around.any():
        return mask
    lab = np.asarray(cv2.cvtColor(cv2.GaussianBlur(crop, (3, 3), 0), cv2.COLOR_BGR2Lab), dtype=np.uint8)
    colours = LearntColours()
    colours.learn(lab, seed, around)
    votes = colours.odds(lab) + np.clip(distance, -_PLACE_LIMIT, 1.5)
    votes[hand] = -_PLACE_LIMIT
    guided = np.asarray(cv2.ximgproc.guidedFilter(crop, votes.astype(np.float32), 3, (0.03 * 255) ** 2))
    found = _connected((guided > 0) & ~hand, seed)
    room = int((np.asarray(inside, np.bool_) & ~hand).sum())
    if room and _HELD_RANGE[0] <= found.sum() / room <= _HELD_RANGE[1]:
        mask[window] = found
    return mask


def at_frame_size(labels: LabelMap, image: BgrImage) -> LabelMap:
    """A label map of a reduced picture at the size of the picture, its borders moved to the nearest edges.

    Borders are found anew by a watershed in a band as wide as the map is uncertain about them.

    Args:
        labels: ``int32 [h, w]``, 0 or more.
        image: ``uint8 [H, W, 3]``, BGR, not smaller than the map.
    """
    height, width = image.shape[:2]
    large = cv2.resize(
        labels.astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST_EXACT
    ).astype(np.int32)
    scale = max(height / labels.shape[0], width / labels.shape[1])
    reach = 2 * max(1, round(scale)) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    as_float = large.astype(np.float32)
    uncertain = cv2.dilate(as_float, kernel) != cv2.erode(as_float, kernel)
    # Zero stands for what the watershed has to decide, so that every label moves up by one.
    markers = np.where(uncertain, 0, large + 1).astype(np.int32)
    lost = np.setdiff1d(used_labels(large)[0], used_labels(markers)[0] - 1)
    if lost.size:
        # Instances thinner than the band keep all their pixels.
        thin = np.isin(large, lost)
        markers[thin] = large[thin] + 1
    if markers.any():
        smooth = cv2.GaussianBlur(image, (0, 0), 0.6 * scale)
        markers = fill_lines(np.asarray(cv2.watershed(smooth, markers), dtype=np.int32))
    return np.maximum(markers - 1, 0).astype(np.int32)


def _ellipse(box: npt.NDArray[np.float32], shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    drawn = np.zeros(shape, np.uint8)
    centre = np.rint((box[:2] + box[2:]) / 2).astype(int)
    axes = np.maximum(np.rint((box[2:] - box[:2]) / 2), 1).astype(int)
    cv2.ellipse(drawn, centre.tolist(), axes.tolist(), 0, 0, 360, (1,), cv2.FILLED)
    return drawn


def _smoothed(histogram: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A colour histogram with some of each bin given to its neighbours, its sum 1."""
    smooth = histogram
    for axis in range(3):
        padded = np.concatenate(
            [smooth.take([0], axis), smooth, smooth.take([-1], axis)], axis=axis, dtype=np.float32
        )
        count = smooth.shape[axis]
        before, at, after = (padded.take(range(k, k + count), axis) for k in range(3))
        smooth = np.asarray(0.25 * before + 0.5 * at + 0.25 * after, dtype=np.float32)
    total = float(smooth.sum())
    return smooth / total if total else smooth


def _connected(found: Mask, core: Mask) -> Mask:
    """The pieces of ``found`` that share a good part of their pixels with the skeleton, holes filled."""
    count, pieces = cv2.connectedComponents(found.astype(np.uint8), connectivity=4)
    areas = np.bincount(pieces.ravel(), minlength=count)
    shared = np.bincount(pieces[core], minlength=count)
    kept = (shared >= 0.05 * max(1, int(core.sum()))) & (shared * 2 >= areas)
    kept[0] = False
    closed = cv2.morphologyEx(
        kept[pieces].astype(np.uint8), cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    )
    return np.asarray(closed > 0, dtype=np.bool_)
