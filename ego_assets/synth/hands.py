"""The wearer's hands: articulated shapes that reach for an object, hold it and let go.

A hand is a palm and five fingers of camera-facing discs and bands, each with the depth of its joints, so that
the depth of every drawn pixel is known exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ego_assets.schema.hands import HandSide, HandState
from ego_assets.synth.raster import NEAR_M, FloatArray, Rendering

#: What :attr:`Rendering.owner` says where a forearm or a hand is seen.
OWNER_FOREARM = -4
_OWNERS: dict[HandSide, int] = {"left": -2, "right": -3}

_SKIN_TONES_BGR = ((134, 172, 224), (108, 146, 198), (78, 112, 164), (52, 78, 122))
_SLEEVES_BGR = ((120, 84, 52), (70, 96, 62), (66, 62, 120), (96, 96, 92))

# In the hand's own axes, metres: u towards the fingertips, v towards the little finger.
_KNUCKLES_UV = ((0.092, -0.034), (0.096, -0.011), (0.090, 0.011), (0.080, 0.031))
_FINGER_BONES = ((0.042, 0.026, 0.020), (0.047, 0.030, 0.021), (0.043, 0.028, 0.020), (0.034, 0.021, 0.018))
_FINGER_SPREAD_RAD = (-0.12, -0.02, 0.08, 0.20)
_FINGER_RADIUS_M = 0.0085
_THUMB_BASE_UV = (0.028, -0.030)
_THUMB_BONES = (0.042, 0.032, 0.026)
_THUMB_SPREAD_RAD = -0.85
_THUMB_RADIUS_M = 0.0105


@dataclass(frozen=True)
class GraspSchedule:
    """When a hand reaches, holds and lets go, as fractions of the clip."""

    reach: float
    hold: float
    release: float
    rest: float

    def state(self, progress: float) -> HandState:
        """The state at ``progress`` (0-1) through the clip."""
        if self.reach <= progress < self.hold:
            return "pre-grasp"
        if self.hold <= progress < self.release:
            return "grasp"
        if self.release <= progress < self.rest:
            return "post-release"
        return "free"

    def reach_fraction(self, progress: float) -> float:
        """0 with the hand at rest, 1 at the object."""
        there = _smooth_step((progress - self.reach) / (self.hold - self.reach))
        back = _smooth_step((progress - self.release) / (self.rest - self.release))
        return there - back

    def hold_fraction(self, progress: float) -> float:
        """How far through the hold, clipped to 0-1."""
        return min(max((progress - self.hold) / (self.release - self.hold), 0.0), 1.0)


#: The two hands take turns.
SCHEDULES: dict[HandSide, GraspSchedule] = {
    "right": GraspSchedule(0.10, 0.22, 0.42, 0.52),
    "left": GraspSchedule(0.52, 0.64, 0.82, 0.92),
}


def _smooth_step(value: float) -> float:
    value = min(max(value, 0.0), 1.0)
    return value * value * (3 - 2 * value)


@dataclass(frozen=True, eq=False)
class _Piece:
    """A band between two joints with round ends; equal joints make a disc."""

    start: FloatArray
    end: FloatArray
    radius_start_m: float
    radius_end_m: float
    forearm: bool

    @property
    def depth_m(self) -> float:
        return float(self.start[2] + self.end[2]) / 2


@dataclass(frozen=True)
class VisibleHand:
    """Box in pixels around what is seen of a hand, and the share of the hand that is seen."""

    box_xyxy: tuple[float, float, float, float]
    visible_fraction: float


def wrist_at_rest(side: HandSide, time_s: float, phase_rad: float) -> FloatArray:
    """Where the wrist of an idle hand hangs, in camera axes, metres."""
    sign = 1.0 if side == "right" else -1.0
    sway = math.sin(2 * math.pi * 0.35 * time_s + phase_rad)
    return np.array([sign * (0.20 + 0.015 * sway), 0.215 + 0.025 * math.sin(1.3 * time_s + phase_rad), 0.40])


def _hand_pieces(side: HandSide, wrist: FloatArray, curl: float) -> list[_Piece]:
    sign = 1.0 if side == "right" else -1.0
    elbow = np.array([sign * 0.34, 0.46, max(0.18, float(wrist[2]) - 0.2)])
    axis_u = wrist - elbow
    axis_u = axis_u / np.linalg.norm(axis_u)
    back = np.array([0.0, -0.75, -0.66])
    back = back - (back @ axis_u) * axis_u
    back = back / np.linalg.norm(back)
    # Seen from its back, the right hand has the little finger on the right; the left hand mirrors it.
    axis_v = sign * np.cross(axis_u, back)

    def at(u: float, v: float) -> FloatArray:
        return np.asarray(wrist + u * axis_u + v * axis_v)

    pieces = [_Piece(elbow, wrist, 0.042, 0.029, True)]
    for u, v in _KNUCKLES_UV:
        pieces.append(_Piece(at(0.012, v * 0.62), at(u - 0.006, v), 0.019, 0.0135, False))
    fingers = [
        (at(*base), bones, spread, _FINGER_RADIUS_M, curl)
        for base, bones, spread in zip(_KNUCKLES_UV, _FINGER_BONES, _FINGER_SPREAD_RAD, strict=True)
    ]
    fingers.append(
        (at(*_THUMB_BASE_UV), _THUMB_BONES, _THUMB_SPREAD_RAD * (1 - 0.45 * curl), _THUMB_RADIUS_M, curl / 2)
    )
    for joint, bones, spread, radius, bend_share in fingers:
        direction = math.cos(spread) * axis_u + math.sin(spread) * axis_v
        bend = 0.0
        for number, bone in enumerate(bones):
            bend += bend_share * 0.95
            end = joint + bone * (math.cos(bend) * direction - math.sin(bend) * back)
            pieces.append(
                _Piece(joint, end, radius * (1 - 0.08 * number), radius * (0.92 - 0.08 * number), False)
            )
            joint = end
    return pieces


def draw_hand(
    rendering: Rendering,
    *,
    side: HandSide,
    wrist: FloatArray,
    curl: float,
    intrinsics: FloatArray,
    tone: int,
) -> int:
    """Draw one hand with its forearm over a rendering, in place.

    Args:
        rendering: What is behind it.
        side: Which hand.
        wrist: Position in camera axes, metres.
        curl: 0 for straight fingers, 1 for a fist.
        intrinsics: Camera matrix, 3x3.
        tone: Number of the skin tone and sleeve.

    Returns:
        Pixels of the hand without the forearm, in the picture or not; 0 where it is not drawn.
    """
    height, width = rendering.owner.shape
    pieces = [
        piece for piece in _hand_pieces(side, wrist, curl) if min(piece.start[2], piece.end[2]) > 2 * NEAR_M
    ]
    hand = [piece for piece in pieces if not piece.forearm]
    if not hand:
        return 0
    # The canvas holds all of the hand, to know the share in view, and the part of the forearm in view.
    limits = np.array([width, height])
    low, high = _bounds(hand, intrinsics, -limits, 2 * limits)
    if np.any(low >= limits) or np.any(high <= 0) or np.any(high <= low):
        return 0
    arm_low, arm_high = _bounds(pieces, intrinsics, np.zeros(2), limits)
    left, top = np.minimum(low, arm_low)
    right, bottom = np.maximum(high, arm_high)
    canvas = _Canvas.blank(int(left), int(top), int(right - left), int(bottom - top))
    skin, sleeve = _SKIN_TONES_BGR[tone % 4], _SLEEVES_BGR[tone % 4]
    for piece in sorted(pieces, key=lambda each: -each.depth_m):
        canvas.paint(piece, intrinsics, sleeve if piece.forearm else skin)

    inner = (slice(max(0, -top), height - top), slice(max(0, -left), width - left))
    window = (slice(max(0, top), min(height, bottom)), slice(max(0, left), min(width, right)))
    inverse, is_hand = canvas.inverse_depth[inner], canvas.is_hand[inner]
    nearer = cv2.compare(inverse, rendering.inverse_depth[window], cv2.CMP_GT)
    cv2.copyTo(canvas.colour[inner], nearer, rendering.image[window])
    cv2.copyTo(inverse, nearer, rendering.inverse_depth[window])
    owners = np.where(is_hand > 0, _OWNERS[side], OWNER_FOREARM).astype(np.int16)
    cv2.copyTo(owners, nearer, rendering.owner[window])
    return int(np.count_nonzero(canvas.is_hand))


def visible_hand(rendering: Rendering, side: HandSide, pixel_count: int) -> VisibleHand | None:
    """Where a hand is seen in a finished rendering.

    Args:
        rendering: With everything drawn.
        side: Which hand.
        pixel_count: What :func:`draw_hand` returned.
    """
    seen = (rendering.owner == _OWNERS[side]).astype(np.uint8)
    left, top, width, height = cv2.boundingRect(seen)
    if width == 0 or pixel_count == 0:
        return None
    box = (float(left), float(top), float(left + width), float(top + height))
    return VisibleHand(box, min(int(np.count_nonzero(seen)) / pixel_count, 1.0))


def _bounds(
    pieces: list[_Piece],
    intrinsics: FloatArray,
    lowest: npt.NDArray[np.generic],
    highest: npt.NDArray[np.generic],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    spans = np.concatenate([_span(piece, intrinsics) for piece in pieces])
    low = np.clip(np.floor(spans.min(axis=0)) - 2, lowest, highest)
    high = np.clip(np.ceil(spans.max(axis=0)) + 3, lowest, highest)
    return low.astype(np.int64), high.astype(np.int64)


def _span(piece: _Piece, intrinsics: FloatArray) -> FloatArray:
    ends: list[FloatArray] = []
    for point, radius in ((piece.start, piece.radius_start_m), (piece.end, piece.radius_end_m)):
        pixel = (intrinsics @ point)[:2] / point[2]
        reach = intrinsics[0, 0] * radius / point[2]
        ends.extend((pixel - reach, pixel + reach))
    return np.array(ends)


_SUBPIXEL_BITS = 4

_ANGLES = np.linspace(0, 2 * math.pi, 24, endpoint=False)
_UNIT_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)

#: Width, upward shift (both in radii) and brightness of the bands that make a piece look round.
_BANDS = ((1.0, 0.0, 0.70), (0.72, 0.14, 0.92), (0.40, 0.26, 1.06))


@dataclass(frozen=True, eq=False)
class _Canvas:
    left: int
    top: int
    colour: npt.NDArray[np.uint8]
    inverse_depth: npt.NDArray[np.float32]
    is_hand: npt.NDArray[np.uint8]

    @classmethod
    def blank(cls, left: int, top: int, width: int, height: int) -> _Canvas:
        return cls(
            left,
            top,
            np.zeros((height, width, 3), np.uint8),
            np.zeros((height, width), np.float32),
            np.zeros((height, width), np.uint8),
        )

    def paint(self, piece: _Piece, intrinsics: FloatArray, colour: tuple[int, int, int]) -> None:
        """Paint a piece over what is there, rounded by lighter bands towards its upper side."""
        corner = np.array([self.left, self.top])
        for scale, lift, shade in _BANDS:
            discs = []
            for point, radius_m in ((piece.start, piece.radius_start_m), (piece.end, piece.radius_end_m)):
                centre = (intrinsics @ point)[:2] / point[2] - corner
                radius = float(intrinsics[0, 0] * radius_m / point[2])
                discs.append(centre - [0.0, lift * radius] + max(radius * scale, 0.5) * _UNIT_CIRCLE)
            outline = np.rint(np.concatenate(discs) * (1 << _SUBPIXEL_BITS)).astype(np.int32)
            hull = cv2.convexHull(outline)
            painted = [min(int(channel * shade), 255) for channel in colour]
            cv2.fillConvexPoly(self.colour, hull, painted, cv2.LINE_8, _SUBPIXEL_BITS)
            if scale == 1.0:
                nearness = (1.0 / piece.depth_m,)
                cv2.fillConvexPoly(self.inverse_depth, hull, nearness, cv2.LINE_8, _SUBPIXEL_BITS)
                cv2.fillConvexPoly(self.is_hand, hull, (int(not piece.forearm),), cv2.LINE_8, _SUBPIXEL_BITS)
