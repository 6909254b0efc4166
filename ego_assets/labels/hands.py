"""Shape of a hand: its size, how far the fingers are bent, where it points, and smooth landmarks.

Landmarks are ``[21, 2]`` in pixels, in the order of :mod:`ego_assets.schema.hands`. Lengths that must not depend on how
near a hand is are given in *palms*: the distance from the wrist to the base of the middle finger, in pixels.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ego_assets.schema.hands import LANDMARK_COUNT

FloatArray = npt.NDArray[np.float64]

WRIST = 0
THUMB = (1, 2, 3, 4)
#: Base, two joints and tip of index, middle, ring and little finger.
FINGERS = ((5, 6, 7, 8), (9, 10, 11, 12), (13, 14, 15, 16), (17, 18, 19, 20))
TIPS = (4, 8, 12, 16, 20)
KNUCKLES = (5, 9, 13, 17)
#: Pairs of landmarks between which there is a bone.
BONES = tuple((a, b) for chain in (THUMB, *FINGERS) for a, b in zip((WRIST, *chain), chain, strict=False))

#: Half a finger's width in palms: 8 of about 100 mm, and the skin around the outermost joints.
FINGER_RADIUS = 0.11
_PALM_OUTLINE = (WRIST, 1, 2, *KNUCKLES)

#: Longest time without a sighting of a hand, in seconds, over which it is the same hand in the same motion: two frames
#: at 10 frames/s, and some tolerance.
MAX_GAP_S = 0.35

# Distance from knuckle to fingertip over the length of the bones between: 1 straight; a finger in a fist gets below
# this one.
_FIST_REACH = 0.35

# One-Euro filter (Casiez, Roussel and Vogel, CHI 2012): cut-off in hertz of a hand at rest, how much it rises with
# speed (per palm a second), and the cut-off of the speed itself.
_MIN_CUTOFF_HZ = 1.5
_SPEED_GAIN = 1.0
_SPEED_CUTOFF_HZ = 2.0


def palm_length(landmarks_xy: npt.NDArray[np.floating[Any]]) -> float:
    """One palm in pixels; a hand seen end on counts as wide as its knuckles. At least 1."""
    points = np.asarray(landmarks_xy, dtype=np.float64)
    length = float(np.linalg.norm(points[9] - points[WRIST]))
    knuckles = float(np.linalg.norm(points[17] - points[5]))
    return max(length, knuckles, 1.0)


def palm_centre(landmarks_xy: npt.NDArray[np.floating[Any]]) -> FloatArray:
    """Middle of the palm, ``float64 [2]``: the mean of wrist and knuckles."""
    return np.asarray(np.asarray(landmarks_xy, dtype=np.float64)[[WRIST, *KNUCKLES]].mean(axis=0))


def finger_flexion(landmarks_xy: npt.NDArray[np.floating[Any]]) -> FloatArray:
    """How far index, middle, ring and little finger are bent, ``float64 [4]``: 0 straight, 1 as in a fist.

    Measured as the straight distance from knuckle to tip over the length of the bones between, which needs no depth. A
    finger that points at the camera looks bent.
    """
    points = np.asarray(landmarks_xy, dtype=np.float64)
    flexion = np.zeros(len(FINGERS))
    for number, finger in enumerate(FINGERS):
        bones = np.linalg.norm(np.diff(points[list(finger)], axis=0), axis=1).sum()
        if bones > 0:
            reach = float(np.linalg.norm(points[finger[-1]] - points[finger[0]])) / float(bones)
            flexion[number] = min(max((1 - reach) / (1 - _FIST_REACH), 0.0), 1.0)
    return flexion


def forearm_direction(landmarks_xy: npt.NDArray[np.floating[Any]]) -> FloatArray:
    """Unit vector from the knuckles to the wrist, ``float64 [2]``: where the forearm lies. Zero where unknown."""
    points = np.asarray(landmarks_xy, dtype=np.float64)
    towards = points[WRIST] - points[list(KNUCKLES)].mean(axis=0)
    length = float(np.linalg.norm(towards))
    return np.asarray(towards / length) if length > 0 else np.zeros(2)


def smooth_landmarks(landmarks_xy: FloatArray, times_s: FloatArray) -> FloatArray:
    """Landmarks of one uninterrupted stretch of frames, smoothed without delay.

    A One-Euro filter runs over the stretch forwards and backwards, and both are averaged: a hand at rest stops
    trembling, a fast one is followed.

    Args:
        landmarks_xy: ``float64 [N, 21, 2]``.
        times_s: ``float64 [N]``, ascending.
    """
    if landmarks_xy.shape[1:] != (LANDMARK_COUNT, 2) or times_s.shape != landmarks_xy.shape[:1]:
        raise ValueError(
            f"landmarks_xy, times_s: expected [N, {LANDMARK_COUNT}, 2] and [N], got {list(landmarks_xy.shape)} and "
            f"{list(times_s.shape)}"
        )
    if len(times_s) < 2:
        return landmarks_xy.copy()
    palm = float(np.median([palm_length(points) for points in landmarks_xy]))
    forwards = _one_euro(landmarks_xy / palm, times_s)
    backwards = _one_euro(landmarks_xy[::-1] / palm, -times_s[::-1])[::-1]
    return np.asarray((forwards + backwards) / 2 * palm)


def _one_euro(values: FloatArray, times_s: FloatArray) -> FloatArray:
    """The filter over ``values [N, 21, 2]``, with one speed for each landmark."""
    filtered = values.copy()
    speed = np.zeros_like(values[0])
    for step in range(1, len(values)):
        passed = max(float(times_s[step] - times_s[step - 1]), 1e-6)
        share = _share(_SPEED_CUTOFF_HZ, passed)
        speed = speed + share * ((values[step] - filtered[step - 1]) / passed - speed)
        cutoff = _MIN_CUTOFF_HZ + _SPEED_GAIN * np.linalg.norm(speed, axis=1, keepdims=True)
        filtered[step] = filtered[step - 1] + _share(cutoff, passed) * (values[step] - filtered[step - 1])
    return filtered


def _share(cutoff_hz: npt.ArrayLike, passed_s: float) -> FloatArray:
    """Weight of a new sample in a first-order low-pass filter."""
    turn = 2 * math.pi * np.asarray(cutoff_hz, dtype=np.float64) * passed_s
    return np.asarray(turn / (turn + 1))


#: Room around the outermost landmarks, in palms: they lie on joints, and skin goes on around them.
BOX_MARGIN = 0.12


def hand_box(landmarks_xy: npt.NDArray[np.floating[Any]], *, width: int, height: int) -> FloatArray:
    """Box around a hand, ``float64 [4]`` xyxy in pixels, inside a picture of that size."""
    points = np.asarray(landmarks_xy, dtype=np.float64)
    margin = BOX_MARGIN * palm_length(points)
    low, high = points.min(axis=0) - margin, points.max(axis=0) + margin
    limits = np.array([width, height], dtype=np.float64)
    return np.concatenate([np.clip(low, 0, limits), np.clip(high, 0, limits)])


def hand_silhouette(
    landmarks_xy: npt.NDArray[np.floating[Any]], *, width: int, height: int, margin_palms: float = 0.0
) -> npt.NDArray[np.bool_]:
    """Where a hand is drawn by its landmarks, ``bool [height, width]``: the palm's hull and a capsule for every bone.

    Args:
        landmarks_xy: ``[21, 2]`` in pixels of the picture; they may lie outside of it.
        width: Width of the picture in pixels.
        height: Its height.
        margin_palms: Room around the outline.
    """
    points = np.asarray(landmarks_xy, dtype=np.float64)
    drawn = np.zeros((height, width), np.uint8)
    corners = np.rint(points).astype(np.int32)
    thickness = max(1, round(2 * (FINGER_RADIUS + margin_palms) * palm_length(points)))
    palm = cv2.convexHull(corners[list(_PALM_OUTLINE)])
    cv2.fillConvexPoly(drawn, palm, (1,))
    cv2.polylines(drawn, [palm], True, (1,), thickness)
    for a, b in BONES:
        cv2.line(drawn, corners[a].tolist(), corners[b].tolist(), (1,), thickness)
    return drawn > 0
