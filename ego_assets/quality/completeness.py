"""How many frames a clip should have."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ego_assets.schema.media import MediaProbe
from ego_assets.schema.timeline import NANOSECONDS, Timeline

#: An interval lies on a grid when it is this near to a whole number of steps, as millisecond stamps are.
_GRID_TOLERANCE = 0.25
#: Share of intervals that have to lie on a grid for the camera to count as one of constant rate.
_GRID_SHARE = 0.95
#: This many equal long intervals in a row are a lower rate (dim light on some cameras), not lost frames.
_RATE_CHANGE_RUN = 10
#: In footage without any grid only intervals beyond this many medians are gaps.
_VARIABLE_GAP = 4.0
#: A declared duration may differ from the time stamps by this many frames: containers round differently.
_ROUNDING_FRAMES = 1.5
#: Where other streams exist, a container's duration may be theirs; sound ends up to this much later.
_OTHER_STREAMS_TAIL_S = 0.1


@dataclass(frozen=True, kw_only=True)
class FrameExpectation:
    """How many frames a clip should have, and how that was found.

    Attributes:
        expected_frame_count: Duration times rate.
        gap_frame_count: Frames that gaps between the time stamps show to be missing.
        duration_s: Duration that was used.
        rate_hz: Rate that was used: frames a second without the gaps.
    """

    expected_frame_count: int
    gap_frame_count: int
    duration_s: float
    rate_hz: float


def expect_frames(timeline: Timeline, probe: MediaProbe) -> FrameExpectation:
    """Find out how many frames a clip should have (collection guide, step 2: duration times rate).

    The rate is measured: the frames listed, with those that gaps show to be missing, over the time they
    span. A declared rate is an average in some containers, and then hides missing frames, and a maximum in
    others, and then invents some. The duration is the declared one wherever that says something else than
    the time stamps: longer for files that were cut off or whose header is damaged, shorter where an edit
    list leaves frames out.

    Args:
        timeline: Time stamps of the frames that the container lists.
        probe: The container's declarations.

    Returns:
        The expectation; 0 frames where neither time stamps nor a duration exist.
    """
    declared_s = usable_duration_s(probe.declared_duration_s)
    if timeline.frame_count == 0:
        duration_s = declared_s or 0.0
        rate_hz = float(probe.frame_rate)
        return FrameExpectation(
            expected_frame_count=round(duration_s * rate_hz),
            gap_frame_count=0,
            duration_s=duration_s,
            rate_hz=rate_hz,
        )
    gaps = count_gap_frames(timeline.timestamps_ns)
    spanned = timeline.frame_count + gaps
    spanned_s = _spanned_s(timeline, spanned)
    rate_hz = spanned / spanned_s
    allowance_s = _ROUNDING_FRAMES / rate_hz
    if probe.other_streams:
        allowance_s = max(allowance_s, _OTHER_STREAMS_TAIL_S)
    # Some containers count the duration from zero rather than from the first frame.
    end_s = float(timeline.timestamps_ns[0]) / NANOSECONDS + spanned_s
    differs = (
        declared_s is not None and min(abs(declared_s - spanned_s), abs(declared_s - end_s)) > allowance_s
    )
    duration_s = declared_s if differs and declared_s is not None else spanned_s
    return FrameExpectation(
        expected_frame_count=round(duration_s * rate_hz) if differs else spanned,
        gap_frame_count=gaps,
        duration_s=duration_s,
        rate_hz=rate_hz,
    )


def usable_duration_s(declared_duration_s: float | None) -> float | None:
    """The declared duration, or ``None`` where it is absent, not finite or not positive."""
    if declared_duration_s is None or not math.isfinite(declared_duration_s) or declared_duration_s <= 0:
        return None
    return declared_duration_s


def count_gap_frames(timestamps_ns: npt.NDArray[np.int64]) -> int:
    """Frames that gaps between time stamps show to be missing.

    Lost frames leave intervals of two, three or more steps on the camera's grid. A camera that lowers its
    rate leaves long runs of equal longer intervals, and one without a fixed rate has no grid: neither is
    counted, save for gaps of more than four median intervals. Frames that repeat the time stamp before or behind
    a gap fill it: they are there and only their stamps are wrong.

    Args:
        timestamps_ns: ``int64 [N]``, ascending, nanoseconds.

    Returns:
        Number of missing frames, 0 or more.
    """
    stamps, repeats = np.unique(timestamps_ns, return_counts=True)
    intervals = np.diff(stamps).astype(np.float64)
    if intervals.size < 2:
        return 0
    shortest_usual = float(np.percentile(intervals, 25, method="lower"))
    usual = intervals[np.abs(intervals / shortest_usual - 1) < 0.5]
    steps = intervals / float(usual.mean())
    nearest = np.maximum(np.rint(steps), 1)
    if float(np.mean(np.abs(steps - nearest) <= _GRID_TOLERANCE)) < _GRID_SHARE:
        relative = intervals / float(np.median(intervals))
        missing = np.where(relative > _VARIABLE_GAP, np.rint(relative) - 1, 0)
    else:
        missing = np.where(_in_long_run(nearest), 0, nearest - 1)
    return int(np.sum(missing)) - _filled_by_repeats(missing, repeats - 1)


def _filled_by_repeats(missing: npt.NDArray[np.float64], repeats: npt.NDArray[np.int64]) -> int:
    """Missing frames that repeated time stamps on either side of their gap account for, each repetition once."""
    left = repeats.copy()
    filled = 0
    for gap in np.flatnonzero(missing):
        needed = int(missing[gap])
        for side in (gap, gap + 1):
            taken = min(needed, int(left[side]))
            left[side] -= taken
            needed -= taken
            filled += taken
    return filled


def _in_long_run(values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Marks the members of runs of at least :data:`_RATE_CHANGE_RUN` equal values."""
    starts = np.flatnonzero(np.concatenate(([True], np.diff(values) != 0)))
    lengths = np.diff(np.concatenate((starts, [values.size])))
    return np.asarray(np.repeat(lengths >= _RATE_CHANGE_RUN, lengths), dtype=np.bool_)


def _spanned_s(timeline: Timeline, spanned_frames: int) -> float:
    """Seconds from the first frame to the end of the last, which lasts as long as the average frame."""
    first_to_last_s = float(timeline.timestamps_ns[-1] - timeline.timestamps_ns[0]) / NANOSECONDS
    if spanned_frames < 2 or first_to_last_s <= 0:
        return timeline.duration_s
    return first_to_last_s * spanned_frames / (spanned_frames - 1)
