"""What the picture says about a hand touching something, frame by frame.

An object that is held moves with the hand. Between two frames the camera's own motion is fitted to the scene (an affine
map of dense flow), and every pixel around the fingers is explained in two ways: it moved as the scene did, or as the
hand did. Where one explanation fits clearly better, the pixel is decided; the share of pixels that go with the hand is
evidence of contact, and their region is the object. A hand that rests against the scene gives no such evidence.

Besides: whether what lies between and under the fingers looks like its surroundings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ego_assets.geometry.flow import dense_flow
from ego_assets.labels.hands import (
    KNUCKLES,
    MAX_GAP_S,
    TIPS,
    WRIST,
    FloatArray,
    forearm_direction,
    hand_silhouette,
    palm_centre,
    palm_length,
)
from ego_assets.media.resize import shrink
from ego_assets.schema.detections import BgrImage
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.hands import HandDetections
from ego_assets.schema.timeline import NANOSECONDS

# Longer side in pixels of the copy on which motion is measured: a palm at arm's length has about 20 pixels there.
_MAX_SIDE = 384
_GRID_STEP = 8
# Nothing can be said about motion in smaller pictures.
_MIN_SIDE = 2 * _GRID_STEP
# Flow may miss the fitted map by this many pixels and still be scene.
_SCENE_TOLERANCE_PX = 1.5
_SCENE_POINTS = 24

# Landmarks are off, and skin lies around them: what is this near to the silhouette counts as hand, in palms.
_MASK_MARGIN = 0.23
# How far around the fingers contact is looked for, and how far an object may reach, in palms.
_NEAR, _REACH = 0.55, 2.4
# The hand has to move against the scene by so many pixels, and palms, to tell what moves with it.
_MIN_MOTION_PX, _MIN_MOTION_PALMS = 1.2, 0.06
# One explanation fits better than the other by so many grey levels (of 255).
_CLEARLY_BETTER = 5.0
# Flow of what moves with the hand differs from the hand's by less than this share of its motion, and these pixels.
_FLOW_SHARE, _FLOW_PX = 0.4, 0.75
# Pixels must be decided on this area, in square palms, for their share to count.
_MIN_DECIDED_AREA = 0.08
_MIN_OBJECT_AREA = 0.06
_BOX_PERCENTILES = (3.0, 97.0)
# Colours within so many standard deviations of the palm's are skin.
_SKIN_DEVIATIONS = 2.5
# Colours rarer than this around the hand are not those of the surroundings.
_RARE_SHARE = 0.01


@dataclass(frozen=True, eq=False, kw_only=True)
class ContactEvidence:
    """What one frame says about one detection; NaN where it says nothing.

    Attributes:
        speed_palms: How far the hand moved against the scene since the frame before, in palms.
        camera_palms: How far the scene moved in the picture at the hand since then, in palms.
        together: Share of the decided pixels around the fingers that moved with the hand, 0-1.
        distinct: Share of the pixels around the fingers whose colour is not that of the surroundings, 0-1.
        object_xyxy: ``float64 [4]``, box in pixels of the frame around what moves with the hand.
    """

    speed_palms: float
    camera_palms: float
    together: float
    distinct: float
    object_xyxy: FloatArray


@dataclass(frozen=True, eq=False, kw_only=True)
class FrameEvidence:
    """What one frame says about all detections.

    Attributes:
        hands: One per detection.
        scene_map: ``float64 [2, 3]``, takes pixels of the still scene to where they were in the frame before: the
            camera's motion. ``None`` on the first frame, where the two cannot be compared, and where no hand is in
            sight or was lately.
    """

    hands: tuple[ContactEvidence, ...]
    scene_map: FloatArray | None


def observe_contact(looks: Iterable[tuple[ClipFrame, HandDetections]]) -> Iterator[FrameEvidence]:
    """Judge each frame against the one before; only these two are held.

    Without a hand in sight, or one that can still be carried over a gap, no motion is measured.

    Args:
        looks: Frames with what was detected in them, in order, of one size.
    """
    before: _Copy | None = None
    seen_ns: int | None = None
    for frame, detections in looks:
        now = _Copy.of(frame.image, detections)
        if len(detections):
            seen_ns = frame.timestamp_ns
        wanted = seen_ns is not None and frame.timestamp_ns - seen_ns <= MAX_GAP_S * NANOSECONDS
        scene = None
        if wanted and before is not None and now.can_be_compared(before):
            # From now to before: every pixel asks where it was.
            scene = _scene_motion(dense_flow(now.grey, before.grey, preset="ultrafast"), now)
        hands = tuple(
            _nothing()
            if now.landmarks[place] is None
            else _judge(now, before, scene, np.asarray(now.landmarks[place]))
            for place in range(len(detections))
        )
        yield FrameEvidence(hands=hands, scene_map=None if scene is None else scene.map_at_scale(now.scale))
        before = now


@dataclass(frozen=True, eq=False)
class _Copy:
    """A small copy of a frame with the landmarks in its pixels; ``None`` for hands without landmarks."""

    grey: npt.NDArray[np.uint8]
    colour: BgrImage
    scale: float
    landmarks: tuple[FloatArray | None, ...]
    boxes: FloatArray

    @classmethod
    def of(cls, image: BgrImage, detections: HandDetections) -> _Copy:
        colour = shrink(image, _MAX_SIDE)
        scale = min(1.0, _MAX_SIDE / max(image.shape[:2]))
        landmarks = tuple(
            points.astype(np.float64) * scale if np.isfinite(points).all() else None
            for points in detections.landmarks_xy
        )
        grey = np.asarray(cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY), dtype=np.uint8)
        return cls(grey, colour, scale, landmarks, detections.boxes_xyxy.astype(np.float64) * scale)

    def can_be_compared(self, other: _Copy) -> bool:
        return self.grey.shape == other.grey.shape and min(self.grey.shape) >= _MIN_SIDE


@dataclass(frozen=True, eq=False)
class _Scene:
    """How the scene moved from now to before: an affine map of pixels, and the flow it was fitted to."""

    map: FloatArray
    field: npt.NDArray[np.float32]

    def map_at_scale(self, scale: float) -> FloatArray:
        """The map in pixels of the frame that was shrunk by ``scale``."""
        return np.column_stack([self.map[:, :2], self.map[:, 2] / scale])

    def shift_at(self, point: FloatArray) -> FloatArray:
        return np.asarray(self.map @ np.append(point, 1.0) - point)


def _scene_motion(field: npt.NDArray[np.float32], now: _Copy) -> _Scene | None:
    """Fit the camera's motion to the flow outside the hands; ``None`` where nothing fits."""
    height, width = now.grey.shape
    y, x = np.mgrid[_GRID_STEP // 2 : height : _GRID_STEP, _GRID_STEP // 2 : width : _GRID_STEP]
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    outside = np.ones(len(points), np.bool_)
    for left, top, right, bottom in now.boxes:
        outside &= ~(
            (points[:, 0] >= left)
            & (points[:, 0] <= right)
            & (points[:, 1] >= top)
            & (points[:, 1] <= bottom)
        )
    points = points[outside]
    if len(points) < _SCENE_POINTS:
        return None
    shifts = field[points[:, 1], points[:, 0]].astype(np.float64)
    fitted, inliers = cv2.estimateAffine2D(
        points.astype(np.float64),
        points + shifts,
        method=cv2.RANSAC,
        ransacReprojThreshold=_SCENE_TOLERANCE_PX,
        maxIters=300,
        confidence=0.98,
        refineIters=3,
    )
    if fitted is None or np.count_nonzero(inliers) < max(_SCENE_POINTS, 0.25 * len(points)):
        return None
    return _Scene(np.asarray(fitted, dtype=np.float64), field)


def _nothing(
    *, speed_palms: float = math.nan, camera_palms: float = math.nan, distinct: float = math.nan
) -> ContactEvidence:
    return ContactEvidence(
        speed_palms=speed_palms,
        camera_palms=camera_palms,
        together=math.nan,
        distinct=distinct,
        object_xyxy=np.full(4, np.nan),
    )


@dataclass(frozen=True, eq=False)
class _Window:
    """The square around the fingers that is judged, and what lies where in it.

    Attributes:
        left: Its left edge in the small copy.
        top: Its upper edge.
        hand: ``bool [h, w]``, the hand with a margin.
        near: Where an object may lie, around the fingers.
        ring: The same, farther out.
        allowed: Where an object may lie: neither hand nor skin, and not on the forearm's side of the wrist.
    """

    left: int
    top: int
    hand: npt.NDArray[np.bool_]
    near: npt.NDArray[np.bool_]
    ring: npt.NDArray[np.bool_]
    allowed: npt.NDArray[np.bool_]

    @property
    def place(self) -> tuple[slice, slice]:
        height, width = self.hand.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def _window(now: _Copy, points: FloatArray, palm: float) -> _Window | None:
    height, width = now.grey.shape
    middle = points[[*TIPS, *KNUCKLES]].mean(axis=0)
    reach = _REACH * palm
    left, top = (max(0, math.floor(value - reach)) for value in middle)
    right, bottom = (
        min(limit, math.ceil(value + reach)) for value, limit in zip(middle, (width, height), strict=True)
    )
    if right - left < 8 or bottom - top < 8:
        return None
    local = points - (left, top)
    hand = hand_silhouette(local, width=right - left, height=bottom - top, margin_palms=_MASK_MARGIN)
    fingers = np.zeros(hand.shape, np.uint8)
    hull = cv2.convexHull(np.rint(local[[*TIPS, *KNUCKLES, 6, 10, 14, 18, 3]]).astype(np.int32))
    cv2.fillConvexPoly(fingers, hull, (1,))
    near = cv2.dilate(fingers, _disc(_NEAR * palm)) > 0
    y, x = np.mgrid[: hand.shape[0], : hand.shape[1]]
    forearm = forearm_direction(points)
    wrist = local[WRIST]
    behind = (x - wrist[0]) * forearm[0] + (y - wrist[1]) * forearm[1] > -0.2 * palm
    allowed = ~hand & ~behind & ~_skin(now.colour[top:bottom, left:right], local)
    return _Window(left, top, hand, near & allowed, ~near & allowed, allowed)


def _disc(radius: float) -> npt.NDArray[np.uint8]:
    size = 2 * max(1, round(radius)) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)), dtype=np.uint8)


def _skin(colour: BgrImage, local: FloatArray) -> npt.NDArray[np.bool_]:
    """Pixels with the colours of this palm, whose chrominance varies less than its brightness."""
    height, width = colour.shape[:2]
    palm = np.zeros((height, width), np.uint8)
    cv2.fillConvexPoly(palm, cv2.convexHull(np.rint(local[[WRIST, *KNUCKLES]]).astype(np.int32)), (1,))
    chroma = np.asarray(cv2.cvtColor(colour, cv2.COLOR_BGR2YCrCb), dtype=np.float32)
    samples = chroma[palm > 0]
    if len(samples) < 12:
        return np.zeros((height, width), np.bool_)
    middle = np.median(samples, axis=0)
    # Floors in grey levels: an evenly lit palm must not make its own edges foreign.
    spread = np.maximum(1.4826 * np.median(np.abs(samples - middle), axis=0), (14.0, 3.0, 3.0))
    return np.asarray((np.abs(chroma - middle) <= _SKIN_DEVIATIONS * spread).all(axis=2))


def _judge(now: _Copy, before: _Copy | None, scene: _Scene | None, points: FloatArray) -> ContactEvidence:
    palm = palm_length(points)
    window = _window(now, points, palm)
    if window is None:
        return _nothing()
    distinct = _distinct(now, window)
    if scene is None or before is None or not window.hand.any():
        return _nothing(distinct=distinct)
    centre = palm_centre(points)
    scene_shift = scene.shift_at(centre)
    scene_error = _error(now, before, window, scene.map)
    hand_shift, hand_error = _hand_motion(now, before, scene, window, points, palm)
    motion = hand_shift - scene_shift
    distance = float(np.linalg.norm(motion))
    speed, camera = distance / palm, float(np.linalg.norm(scene_shift)) / palm
    if distance < max(_MIN_MOTION_PX, _MIN_MOTION_PALMS * palm):
        return _nothing(speed_palms=speed, camera_palms=camera, distinct=distinct)
    if hand_error[window.hand].mean() >= scene_error[window.hand].mean():
        # The motion of the hand does not even explain the hand.
        return _nothing(speed_palms=speed, camera_palms=camera, distinct=distinct)
    # What the hand uncovered was hidden before, so neither explanation can be trusted there.
    uncovered = _moved(window.hand, motion)
    gain = scene_error - hand_error
    candidates = window.allowed & ~uncovered
    # What is nearer or farther than the rest of the scene fits neither; its own flow tells it from an object.
    apart = np.linalg.norm(scene.field[window.place] - hand_shift.astype(np.float32), axis=2)
    with_hand = candidates & (gain > _CLEARLY_BETTER) & (apart < _FLOW_SHARE * distance + _FLOW_PX)
    with_scene = candidates & (gain < -_CLEARLY_BETTER)
    decided = np.count_nonzero((with_hand | with_scene) & window.near)
    together = math.nan
    if decided >= _MIN_DECIDED_AREA * palm**2:
        together = np.count_nonzero(with_hand & window.near) / decided
    return ContactEvidence(
        speed_palms=speed,
        camera_palms=camera,
        together=together,
        distinct=distinct,
        object_xyxy=_object_box(with_hand, window, palm) / now.scale,
    )


def _hand_motion(
    now: _Copy, before: _Copy, scene: _Scene, window: _Window, points: FloatArray, palm: float
) -> tuple[FloatArray, npt.NDArray[np.float32]]:
    """Where the hand was before, relative to now, and how badly that explains each pixel of the window.

    Flow loses fast hands, landmarks tremble: whichever explains the hand better is taken.
    """
    flow = scene.field[window.place][window.hand]
    candidates = [np.median(flow, axis=0).astype(np.float64)]
    for earlier in before.landmarks:
        if earlier is not None and np.linalg.norm(palm_centre(earlier) - palm_centre(points)) < 2 * palm:
            candidates.append(np.median(earlier - points, axis=0))
    errors = [
        _error(now, before, window, np.array([[1, 0, shift[0]], [0, 1, shift[1]]])) for shift in candidates
    ]
    best = int(np.argmin([error[window.hand].mean() for error in errors]))
    return candidates[best], errors[best]


def _error(now: _Copy, before: _Copy, window: _Window, to_before: FloatArray) -> npt.NDArray[np.float32]:
    """Mean absolute difference in grey levels around each pixel of the window, if it moved by the map."""
    height, width = window.hand.shape
    # The window's pixels start at its corner.
    local = to_before.copy()
    local[:, 2] += to_before[:, :2] @ (window.left, window.top)
    warped = cv2.warpAffine(
        before.grey,
        local,
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    difference = cv2.absdiff(now.grey[window.place], warped).astype(np.float32)
    return np.asarray(cv2.blur(difference, (5, 5)), dtype=np.float32)


def _moved(mask: npt.NDArray[np.bool_], by: FloatArray) -> npt.NDArray[np.bool_]:
    height, width = mask.shape
    shift = np.array([[1.0, 0, by[0]], [0, 1.0, by[1]]])
    return np.asarray(cv2.warpAffine(mask.astype(np.uint8), shift, (width, height)) > 0)


def _distinct(now: _Copy, window: _Window) -> float:
    """Share of what is near the fingers that has no colour of what lies farther out."""
    near, ring = np.count_nonzero(window.near), np.count_nonzero(window.ring)
    if min(near, ring) < 16:
        return math.nan
    colour = now.colour[window.place] >> 5
    bins = colour[..., 0].astype(np.int32) * 64 + colour[..., 1] * 8 + colour[..., 2]
    around = np.bincount(bins[window.ring], minlength=512) / ring
    return float(np.mean(around[bins[window.near]] < _RARE_SHARE))


def _object_box(with_hand: npt.NDArray[np.bool_], window: _Window, palm: float) -> FloatArray:
    """Box around the regions that move with the hand and come near its fingers, in the small copy; or NaN."""
    # Opening drops lines of pixels along the edges of the scene, closing joins the textured parts of one object.
    kernel = np.ones((3, 3), np.uint8)
    region = cv2.morphologyEx(with_hand.astype(np.uint8), cv2.MORPH_OPEN, kernel)
    region = cv2.morphologyEx(region, cv2.MORPH_CLOSE, _disc(0.2 * palm))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(region, connectivity=8)
    touching = set(np.unique(labels[window.near & (region > 0)]).tolist())
    parts = [
        label
        for label in range(1, count)
        if label in touching and stats[label, cv2.CC_STAT_AREA] >= _MIN_OBJECT_AREA * palm**2
    ]
    if not parts:
        return np.full(4, np.nan)
    rows, columns = np.nonzero(np.isin(labels, parts))
    # A few stray pixels must not widen the box.
    left, right = np.percentile(columns, _BOX_PERCENTILES)
    top, bottom = np.percentile(rows, _BOX_PERCENTILES)
    box = np.array([left, top, right + 1, bottom + 1], dtype=np.float64)
    return np.asarray(box + np.tile([window.left, window.top], 2))
