"""Time stamps of a video's frames, whatever its rate does."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ego_assets.schema.arrays import read_only

NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, eq=False)
class Timeline:
    """Presentation times of all frames, in decoded order.

    Attributes:
        timestamps_ns: ``int64 [N]``, presentation time of each frame in nanoseconds, ascending.
            Equal neighbours are duplicates.
        frame_rate: Nominal rate of the stream in frames per second, as the container declares it.
        time_base: Seconds per tick of the stream the time stamps were read from.
        stepped_back_count: Frames that were moved because the file's clock steps back.
    """

    timestamps_ns: npt.NDArray[np.int64]
    frame_rate: Fraction
    time_base: Fraction
    stepped_back_count: int = 0

    def __post_init__(self) -> None:
        stamps = self.timestamps_ns
        if stamps.ndim != 1 or stamps.dtype != np.int64:
            raise ValueError(f"timestamps_ns: expected int64 [N], got {stamps.dtype} {list(stamps.shape)}")
        if stamps.size > 1 and bool(np.any(np.diff(stamps) < 0)):
            raise ValueError("timestamps_ns: expected ascending time stamps, got a step back")
        if self.frame_rate <= 0:
            raise ValueError(f"frame_rate: expected a positive rate, got {self.frame_rate}")
        object.__setattr__(self, "timestamps_ns", read_only(stamps))

    @property
    def frame_count(self) -> int:
        """Number of frames."""
        return int(self.timestamps_ns.size)

    @property
    def frame_interval_ns(self) -> int:
        """Nominal time between two frames, in nanoseconds."""
        return round(NANOSECONDS / self.frame_rate)

    @property
    def duration_ns(self) -> int:
        """From the first frame to the end of the last one."""
        if self.frame_count == 0:
            return 0
        return int(self.timestamps_ns[-1] - self.timestamps_ns[0]) + self.frame_interval_ns

    @property
    def duration_s(self) -> float:
        """:attr:`duration_ns` in seconds."""
        return self.duration_ns / NANOSECONDS

    @cached_property
    def is_variable(self) -> bool:
        """Whether more than 1 % of the intervals differ from their median by over 10 %."""
        if self.frame_count < 3:
            return False
        intervals = np.diff(self.timestamps_ns)
        median = float(np.median(intervals))
        return bool(np.mean(np.abs(intervals - median) > 0.1 * median) > 0.01)

    @cached_property
    def duplicate_count(self) -> int:
        """Frames whose time stamp equals that of the frame before."""
        return int(np.sum(np.diff(self.timestamps_ns) == 0))

    @cached_property
    def missing_count(self) -> int:
        """Frames that gaps in the time stamps show to be missing; 0 for a variable rate."""
        if self.frame_count < 2 or self.is_variable:
            return 0
        intervals = np.diff(self.timestamps_ns)
        steps = np.rint(intervals / self.frame_interval_ns).astype(np.int64)
        return int(np.sum(np.maximum(steps - 1, 0)))

    def frames_at_rate(self, frames_per_second: Fraction | float) -> npt.NDArray[np.int64]:
        """Indices of the frames nearest to a regular grid that starts at the first frame.

        A grid finer than the video yields every frame once. Returns ascending unique ``int64`` indices.
        """
        if frames_per_second <= 0:
            raise ValueError(f"frames_per_second: expected more than 0, got {frames_per_second}")
        if self.frame_count == 0:
            return np.zeros(0, dtype=np.int64)
        start, end = int(self.timestamps_ns[0]), int(self.timestamps_ns[-1])
        step = NANOSECONDS / Fraction(frames_per_second)
        # Half a frame beyond the last stamp: stamps are rounded, and a finer grid must reach the last frame.
        reach = end - start + NANOSECONDS / (2 * self.frame_rate)
        count = int(reach / step) + 1
        grid = np.array([start + round(step * i) for i in range(count)], dtype=np.int64)
        return self.nearest_frames(grid)

    def nearest_frames(self, times_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Unique indices of the frames nearest in time to ``times_ns``, ascending."""
        stamps = self.timestamps_ns
        right = np.clip(np.searchsorted(stamps, times_ns), 0, stamps.size - 1)
        left = np.clip(right - 1, 0, stamps.size - 1)
        nearer_left = np.abs(times_ns - stamps[left]) <= np.abs(stamps[right] - times_ns)
        return np.asarray(np.unique(np.where(nearer_left, left, right)), dtype=np.int64)
