"""How the picture moves from moment to moment: shake, stillness, tumbling and turns, from thumbnails.

All limits are in shares of the picture's longer side and in seconds, so that they hold at any resolution and frame
rate. At most :data:`SAMPLES_PER_SECOND` pictures are compared a second, whatever the frame rate is.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ego_assets.quality.blur import require_luma
from ego_assets.schema.arrays import read_only
from ego_assets.schema.timeline import NANOSECONDS

#: Pictures a second that are compared: enough to see shake of up to 6 Hz, at half the cost of every frame at 30/s.
SAMPLES_PER_SECOND = 15
#: Longer side in pixels of the thumbnails.
THUMBNAIL_SIDE_PX = 160
#: Pictures further apart than this are not compared: frames were left out.
_LONGEST_STEP_S = 0.5
#: Frames come a little early or late.
_EARLY_S = 0.001

#: Points whose motion is measured, along the longer and along the shorter side.
_GRID = (8, 5)
_FLOW_WINDOW = (13, 13)
_FLOW_LEVELS = 3
_MIN_POINTS = 6
#: Least share of the points that must follow one shift and turn.
_MIN_AGREEING_SHARE = 0.35
#: Points follow the common motion when they are off by at most this many pixels and this share of the motion. The
#: first figure pair is for a common shift, before turning is taken into account.
_SHIFT_TOLERANCE = (1.5, 0.35)
_FIT_TOLERANCE = (0.75, 0.1)

#: Time over which shake is told from wanted motion: the distance of a position from the middle between those this much
#: before and after. A swing of 6 Hz counts in full, one of 2 Hz (steps) a quarter, a turn of the head over half a
#: second next to nothing.
SHAKE_SPAN_S = 1 / 12
#: Distance from smooth motion, as a share of the picture's longer side, from which a second shakes: 6 pixels of 1920.
#: Measured: the median second of 19 clips from a camera on the move lies between 0.0002 and 0.0017.
SHAKE_LIMIT = 0.003
#: Time over which standing still is judged.
STILL_SPAN_S = 2.0
#: Share of lost comparisons from which a stretch has no known motion.
_MAX_LOST_SHARE = 0.25

FloatArray = npt.NDArray[np.float64]
LumaArray = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False, kw_only=True)
class MotionSeconds:
    """How the picture moved, one entry per second of the clip; NaN where that is not known.

    Attributes:
        shake: ``float64 [N]``, median distance from smooth motion, as a share of the longer side.
        reach: ``float64 [N]``, how far apart the positions of the surrounding :data:`STILL_SPAN_S` seconds lie, as a
            share of the longer side.
        speed: ``float64 [N]``, mean speed in longer sides a second.
        slide: ``float64 [N]``, net shift to the right in the upright picture, as a share of the longer side.
        turn_deg: ``float64 [N]``, net clockwise turn about the picture's middle.
        spin_deg: ``float64 [N]``, the same with every turn counted positive.
        lost_share: ``float64 [N]``, share of the comparisons that found no common motion.
    """

    shake: FloatArray
    reach: FloatArray
    speed: FloatArray
    slide: FloatArray
    turn_deg: FloatArray
    spin_deg: FloatArray
    lost_share: FloatArray


class MotionTrack:
    """The path of the picture over a clip. Thumbnails must come in order, all of one size.

    Args:
        rotation_deg: Clockwise turn (0, 90, 180, 270) that makes the thumbnails upright.
    """

    def __init__(self, rotation_deg: int = 0) -> None:
        # A clockwise turn of the picture is a multiplication by i where y points down.
        self._upright = 1j ** (rotation_deg // 90)
        self._previous: tuple[int, LumaArray] | None = None
        self._grid = np.zeros((0, 1, 2), np.float32)
        self._times_ns = array("q")
        self._steps = array("d")
        self._found = array("b")

    def due(self, timestamp_ns: int) -> bool:
        """Whether the frame shown at ``timestamp_ns`` is to be compared."""
        if self._previous is None:
            return True
        return timestamp_ns - self._previous[0] >= (1 / SAMPLES_PER_SECOND - _EARLY_S) * NANOSECONDS

    def add(self, timestamp_ns: int, picture: LumaArray) -> None:
        """Compare a thumbnail with the one before it."""
        motion: tuple[complex, float] | None = None
        first = self._previous is None
        if self._previous is None:
            self._grid = _grid_points(picture.shape[1], picture.shape[0])
        elif timestamp_ns - self._previous[0] <= _LONGEST_STEP_S * NANOSECONDS:
            motion = _common_motion(self._previous[1], picture, self._grid)
        shift, turn = motion or (0j, 0.0)
        shift *= self._upright
        self._previous = (timestamp_ns, picture)
        self._times_ns.append(timestamp_ns)
        self._steps.extend((shift.real, shift.imag, turn))
        self._found.append(first or motion is not None)

    def seconds(self, start_ns: int, count: int) -> MotionSeconds:
        """The motion in ``count`` seconds from ``start_ns`` on."""
        times_s = (np.array(self._times_ns, np.int64) - start_ns) / NANOSECONDS
        steps = np.array(self._steps, np.float64).reshape(-1, 3)
        found = np.array(self._found, np.bool_)
        path = np.cumsum(steps[:, 0] + 1j * steps[:, 1])
        swing = _swing(times_s, path, found)
        bins = np.clip(times_s.astype(np.int64), 0, max(0, count - 1))
        columns = np.full((7, count), np.nan)
        for second in range(count):
            inside = bins == second
            if not inside.any():
                continue
            within = steps[inside]
            moved = np.hypot(within[:, 0], within[:, 1])
            lost_share = float(1 - found[inside].mean())
            known = swing[inside][np.isfinite(swing[inside])]
            columns[:, second] = (
                np.median(known) if known.size >= inside.sum() / 2 else np.nan,
                _reach(times_s, path, found, second),
                moved.sum() if lost_share <= _MAX_LOST_SHARE else np.nan,
                within[:, 0].sum(),
                np.degrees(within[:, 2].sum()),
                np.degrees(np.abs(within[:, 2]).sum()),
                lost_share,
            )
        return MotionSeconds(
            **{
                name: read_only(column)
                for name, column in zip(MotionSeconds.__annotations__, columns, strict=True)
            }
        )

    def travel(self) -> tuple[float, float]:
        """How far the picture moved sideways and up and down, as shares of the longer side, without the extremes."""
        if not self._times_ns:
            return 0.0, 0.0
        path = np.cumsum(np.array(self._steps, np.float64).reshape(-1, 3)[:, :2], axis=0)
        low, high = np.quantile(path, (0.1, 0.9), axis=0)
        return float(high[0] - low[0]), float(high[1] - low[1])


def thumbnail(luma: LumaArray) -> LumaArray:
    """The picture with a longer side of at most :data:`THUMBNAIL_SIDE_PX`, ``uint8 [height', width']``."""
    require_luma(luma)
    height, width = luma.shape
    scale = min(1.0, THUMBNAIL_SIDE_PX / max(width, height))
    # Two rows for each row of the thumbnail are smooth enough, and a fraction of the memory to read.
    rows = np.ascontiguousarray(luma[:: max(1, int(0.5 / scale))])
    size = (max(16, round(width * scale)), max(16, round(height * scale)))
    return np.asarray(cv2.resize(rows, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _grid_points(width: int, height: int) -> npt.NDArray[np.float32]:
    columns, rows = _GRID if width >= height else _GRID[::-1]
    x, y = np.meshgrid((np.arange(columns) + 0.5) * width / columns, (np.arange(rows) + 0.5) * height / rows)
    return np.asarray(np.stack([x.ravel(), y.ravel()], axis=1)[:, None], dtype=np.float32)


def _common_motion(
    previous: LumaArray, current: LumaArray, grid: npt.NDArray[np.float32]
) -> tuple[complex, float] | None:
    """Shift of the picture's middle (share of the longer side, x + iy) and clockwise turn in radians.

    ``None`` where the points follow no common motion.
    """
    moved, status, _ = cv2.calcOpticalFlowPyrLK(
        previous,
        current,
        grid,
        np.zeros_like(grid),
        winSize=_FLOW_WINDOW,
        maxLevel=_FLOW_LEVELS,
        minEigThreshold=1e-3,
    )
    tracked = status.ravel() == 1
    if tracked.sum() < _MIN_POINTS:
        return None
    start = grid[tracked, 0].astype(np.float64) @ np.array([1, 1j])
    end = moved[tracked, 0].astype(np.float64) @ np.array([1, 1j])
    flow = end - start
    shift = complex(np.median(flow.real), np.median(flow.imag))
    agreeing = np.abs(flow - shift) <= _SHIFT_TOLERANCE[0] + _SHIFT_TOLERANCE[1] * abs(shift)
    height, width = current.shape
    middle = complex(width / 2, height / 2)
    factor = 1 + 0j
    for _ in range(2):
        if agreeing.sum() < max(_MIN_POINTS, _MIN_AGREEING_SHARE * tracked.sum()):
            return None
        from_mean, to_mean = start[agreeing].mean(), end[agreeing].mean()
        spread = start[agreeing] - from_mean
        factor = complex((spread.conj() @ (end[agreeing] - to_mean)) / (spread.conj() @ spread).real)
        fitted = to_mean + factor * (start - from_mean)
        agreeing = np.abs(fitted - end) <= _FIT_TOLERANCE[0] + _FIT_TOLERANCE[1] * abs(shift)
        shift = complex(to_mean + factor * (middle - from_mean) - middle)
    if agreeing.sum() < max(_MIN_POINTS, _MIN_AGREEING_SHARE * tracked.sum()):
        return None
    # What moves by itself, such as hands, pulls at a mean, and a camera that stands still must not seem to drift.
    turned = (factor - 1) * (start[agreeing] - middle)
    rest = flow[agreeing] - turned
    shift = complex(np.median(rest.real), np.median(rest.imag))
    return shift / max(width, height), float(np.angle(factor))


def _swing(times_s: FloatArray, path: npt.NDArray[np.complex128], found: npt.NDArray[np.bool_]) -> FloatArray:
    """Distance from smooth motion of every position, halved so that a swing of 6 Hz counts with its amplitude.

    NaN where the pictures are too far apart to tell, and beside lost comparisons.
    """
    swing = np.full(times_s.size, np.nan)
    if times_s.size < 3:
        return swing
    # The span on both sides of a position must lie within two steps, which must both be known.
    inner = np.flatnonzero(
        (times_s >= times_s[0] + SHAKE_SPAN_S)
        & (times_s <= times_s[-1] - SHAKE_SPAN_S)
        & (np.diff(times_s, append=np.inf) <= SHAKE_SPAN_S + _EARLY_S)
        & found
        & np.append(found[1:], False)
    )
    at = times_s[inner]
    before, after = (
        np.interp(at + span, times_s, path.real) + 1j * np.interp(at + span, times_s, path.imag)
        for span in (-SHAKE_SPAN_S, SHAKE_SPAN_S)
    )
    swing[inner] = np.abs(before - 2 * path[inner] + after) / 4
    return swing


def _reach(
    times_s: FloatArray, path: npt.NDArray[np.complex128], found: npt.NDArray[np.bool_], second: int
) -> float:
    """How far apart the positions around a second lie; NaN where too many are unknown."""
    last_s = float(times_s[-1])
    if last_s < STILL_SPAN_S * 0.9:
        return float("nan")
    start_s = min(max(0.0, second + (1 - STILL_SPAN_S) / 2), last_s - STILL_SPAN_S)
    low, high = np.searchsorted(times_s, (start_s - _EARLY_S, start_s + STILL_SPAN_S + _EARLY_S))
    if high - low < 2 or 1 - found[low + 1 : high].mean() > _MAX_LOST_SHARE:
        return float("nan")
    around = path[low:high]
    return float(np.hypot(np.ptp(around.real), np.ptp(around.imag)))
