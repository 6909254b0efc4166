"""How the camera moved and how much the picture changed, from frame to frame, at the cost of a thumbnail.

The first pass over a clip measures this on every decoded frame. It decides how often detectors look, and lets
regions be followed in coordinates in which the camera stands still.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ego_assets.media.decode import DecodedFrame
from ego_assets.media.orientation import check_rotation
from ego_assets.schema.motion import CameraMotion

#: Longer side in pixels of the picture that is compared. A shift is found to about a tenth of its pixels, which
#: is one to two pixels at 1080p.
_THUMBNAIL_SIDE = 160
#: Points of a regular grid whose motion is measured, along the longer and along the shorter side.
_GRID = (10, 6)
#: Window in thumbnail pixels and pyramid levels of the optical flow: reaches shifts of a third of the picture.
_FLOW_WINDOW = (13, 13)
_FLOW_LEVELS = 3
#: A point follows the camera when its motion differs from the others' median by at most this many pixels, plus a
#: tenth of the motion: turning and coming nearer moves points differently.
_FLOW_TOLERANCE_PX = 0.75
_FLOW_TOLERANCE_SHARE = 0.1
#: Fewest points, and least share of the measured ones, that must agree; else the whole pictures are compared.
_MIN_AGREEING_POINTS = 6
_MIN_AGREEING_SHARE = 0.4
#: Grey levels that noise may change a thumbnail by without counting as change.
_NOISE_GREY_LEVELS = 3.0
#: Standard deviation of a thumbnail below which the picture shows next to nothing. Pictures of a lit room have 18 and
#: more, a nearly black video of the benchmarks 8, a covered lens and a room in the dark 2.
_MIN_CONTRAST_GREY_LEVELS = 4.0
#: Change from which a frame may begin a new scene, and how many times the change of the frame before it must be:
#: a fast turn changes many frames in a row, a cut only one.
_CUT_CHANGE = 0.5
_CUT_RISE = 2.5


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameMotion:
    """What changed from the previous frame to this one.

    Attributes:
        shift_x: How far the still part of the scene moved to the right, in pixels of the upright full-size picture.
        shift_y: The same, downwards.
        change: What the shift does not explain: mean squared difference relative to the pictures' variance. 0 for
            equal pictures, around 1 for unrelated ones, at most 2. Brightness as a whole does not count.
        is_cut: Whether a new scene begins with this frame.
    """

    shift_x: float = 0.0
    shift_y: float = 0.0
    change: float = 0.0
    is_cut: bool = False

    def __post_init__(self) -> None:
        if not (np.isfinite(self.shift_x) and np.isfinite(self.shift_y)):
            raise ValueError(f"shift: expected finite pixels, got {self.shift_x}, {self.shift_y}")
        if not 0 <= self.change <= 2:
            raise ValueError(f"change: expected 0 to 2, got {self.change}")


class MotionMeter:
    """Measures every frame against the one before it; frames must come in order, all of one size and rotation.

    Shifts are the median of sparse optical flow (pyramidal Lucas-Kanade) on a grid of points, or, where these do
    not agree, the phase correlation of the whole pictures. Of these and of no shift at all, the one that leaves
    the least change counts. It costs about 1 ms of CPU time for a 1080p frame.
    """

    def __init__(self) -> None:
        self._previous: npt.NDArray[np.uint8] | None = None
        self._points = np.zeros((0, 1, 2), np.float32)
        self._previous_change = 0.0
        self._position = np.zeros(2)
        self._positions = array("d")
        self._change = array("f")
        self._is_cut = array("b")
        self._unseen = array("b")

    def measure(self, frame: DecodedFrame) -> FrameMotion:
        """The motion since the frame given before; none for the first one."""
        luma = frame.luma()
        thumbnail = _thumbnail(luma)
        motion = FrameMotion()
        if self._previous is not None:
            shift, change = self._compare(self._previous, thumbnail)
            is_cut = change >= _CUT_CHANGE and change >= _CUT_RISE * self._previous_change
            scale = (luma.shape[1] / thumbnail.shape[1], luma.shape[0] / thumbnail.shape[0])
            x, y = _upright_shift(shift[0] * scale[0], shift[1] * scale[1], frame.rotation_deg)
            # Across a cut there is no motion to follow.
            motion = (
                FrameMotion(change=change, is_cut=True)
                if is_cut
                else FrameMotion(shift_x=x, shift_y=y, change=change)
            )
            self._previous_change = change
        else:
            self._points = _grid_points(thumbnail.shape[1], thumbnail.shape[0])
        self._previous = thumbnail
        self._position += np.array([motion.shift_x, motion.shift_y])
        self._positions.extend(self._position.tolist())
        self._change.append(motion.change)
        self._is_cut.append(motion.is_cut)
        self._unseen.append(float(thumbnail.std()) < _MIN_CONTRAST_GREY_LEVELS)
        return motion

    def camera_motion(self) -> CameraMotion:
        """The motion over all frames so far."""
        return CameraMotion(
            positions_xy=np.array(self._positions, np.float64).reshape(-1, 2),
            change=np.array(self._change, np.float32),
            is_cut=np.array(self._is_cut, np.bool_),
            unseen=np.array(self._unseen, np.bool_),
        )

    def _compare(
        self, previous: npt.NDArray[np.uint8], current: npt.NDArray[np.uint8]
    ) -> tuple[tuple[float, float], float]:
        """Shift in thumbnail pixels, and the change it leaves."""
        unmoved = _change_after(previous, current, (0.0, 0.0))
        if unmoved == 0:
            return (0.0, 0.0), 0.0
        candidates = [((0.0, 0.0), unmoved)]
        shift = self._flow(previous, current)
        if shift is None:
            shift = _phase_shift(previous, current)
        candidates.append((shift, _change_after(previous, current, shift)))
        return min(candidates, key=lambda candidate: candidate[1])

    def _flow(
        self, previous: npt.NDArray[np.uint8], current: npt.NDArray[np.uint8]
    ) -> tuple[float, float] | None:
        """Median motion of the grid points, or ``None`` where they do not agree."""
        moved, found, _ = cv2.calcOpticalFlowPyrLK(
            previous,
            current,
            self._points,
            np.zeros_like(self._points),
            winSize=_FLOW_WINDOW,
            maxLevel=_FLOW_LEVELS,
            minEigThreshold=1e-3,
        )
        flow = (moved - self._points)[found.reshape(-1) == 1].reshape(-1, 2)
        if flow.shape[0] < _MIN_AGREEING_POINTS:
            return None
        median = np.median(flow, axis=0)
        tolerance = _FLOW_TOLERANCE_PX + _FLOW_TOLERANCE_SHARE * float(np.hypot(*median))
        agreeing = flow[np.hypot(*(flow - median).T) <= tolerance]
        if agreeing.shape[0] < max(_MIN_AGREEING_POINTS, _MIN_AGREEING_SHARE * flow.shape[0]):
            return None
        x, y = agreeing.mean(axis=0).tolist()
        return float(x), float(y)


def _thumbnail(luma: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The picture with a longer side of at most ``_THUMBNAIL_SIDE`` pixels."""
    height, width = luma.shape
    scale = min(1.0, _THUMBNAIL_SIDE / max(width, height))
    # Two rows for each row of the thumbnail are smooth enough, and a fraction of the memory to read.
    rows = luma[:: max(1, int(0.5 / scale))]
    size = (max(16, round(width * scale)), max(16, round(height * scale)))
    return np.asarray(
        cv2.resize(np.ascontiguousarray(rows), size, interpolation=cv2.INTER_AREA), dtype=np.uint8
    )


def _grid_points(width: int, height: int) -> npt.NDArray[np.float32]:
    """Points spread evenly over a picture, ``float32 [N, 1, 2]``."""
    columns, rows = _GRID if width >= height else _GRID[::-1]
    x, y = np.meshgrid((np.arange(columns) + 0.5) * width / columns, (np.arange(rows) + 0.5) * height / rows)
    points = np.stack([x.reshape(-1), y.reshape(-1)], axis=1)[:, None]
    return np.asarray(points, dtype=np.float32)


def _phase_shift(previous: npt.NDArray[np.uint8], current: npt.NDArray[np.uint8]) -> tuple[float, float]:
    window = cv2.createHanningWindow((previous.shape[1], previous.shape[0]), cv2.CV_32F)
    (x, y), _ = cv2.phaseCorrelate(previous.astype(np.float32), current.astype(np.float32), window)
    return float(x), float(y)


def _change_after(
    previous: npt.NDArray[np.uint8], current: npt.NDArray[np.uint8], shift: tuple[float, float]
) -> float:
    """Mean squared difference of the common part, relative to its variance; see :class:`FrameMotion`."""
    height, width = previous.shape
    margin_x, margin_y = int(np.ceil(abs(shift[0]))), int(np.ceil(abs(shift[1])))
    # With less than half of the picture in common a shift says nothing.
    if 2 * margin_x > width or 2 * margin_y > height:
        return 2.0
    moved = previous
    if shift != (0.0, 0.0):
        matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float64)
        moved = np.asarray(cv2.warpAffine(previous, matrix, (width, height)), dtype=np.uint8)
    left, right = (margin_x, width) if shift[0] > 0 else (0, width - margin_x)
    top, bottom = (margin_y, height) if shift[1] > 0 else (0, height - margin_y)
    a, b = moved[top:bottom, left:right], current[top:bottom, left:right]
    difference = cv2.subtract(a, b, dtype=cv2.CV_16S)
    _, deviation = cv2.meanStdDev(difference)
    deviations = [float(cv2.meanStdDev(part)[1][0, 0]) for part in (a, b)]
    noise = 2 * _NOISE_GREY_LEVELS**2
    changed = max(0.0, float(deviation[0, 0]) ** 2 - noise)
    return min(2.0, changed / (deviations[0] ** 2 + deviations[1] ** 2 + noise))


def _upright_shift(x: float, y: float, rotation_deg: int) -> tuple[float, float]:
    """A shift in the coded picture as seen in the upright one."""
    return {0: (x, y), 90: (-y, x), 180: (-x, -y), 270: (y, -x)}[check_rotation(rotation_deg)]
