"""Decoding on the processor and on the GPU's decoder, the frames ending in system memory as BGR either way."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from _harness import Better

if TYPE_CHECKING:
    from ego_assets.media.decode import Decoder

#: Metric, unit and direction of the rows, in order.
ROWS: tuple[tuple[str, str, Better], ...] = (
    ("decode on the CPU", "frames/s", "higher"),
    ("decode on the GPU", "frames/s", "higher"),
    ("largest difference between the two", "8-bit steps", "lower"),
)
#: Both decode the same standard, which leaves nothing open: pixels are equal.
MAX_DIFFERENCE = 0.0


def measure(
    video: Path, *, tell: Callable[[str, float | None, str], None], decoder: Decoder = "cuda", runs: int = 5
) -> None:
    """Compare the CPU with a decoder on one video.

    Args:
        video: The video.
        tell: Hears (metric, value, reason) as soon as it is known.
        decoder: The decoder to compare with.
        runs: Runs of each, in turn; the medians count.
    """
    names: tuple[Decoder, Decoder] = ("cpu", decoder)
    count, _ = _decode(video, "cpu")
    speeds: list[list[float]] = [[], []]
    try:
        for run in range(runs + 1):
            for speed, name in zip(speeds, names, strict=True):
                frames, seconds = _decode(video, name)
                if frames != count:
                    raise RuntimeError(f"{name} gave {frames} frames of {count}")
                if run:
                    speed.append(frames / seconds)
    finally:
        for (metric, _, _), speed in zip(ROWS, speeds, strict=False):
            if speed:
                tell(metric, statistics.median(speed), f"{count} frames, n={len(speed)}")
    tell(ROWS[2][0], _largest_difference(video, decoder), f"{count} frames")


def _decode(video: Path, decoder: Decoder) -> tuple[int, float]:
    from ego_assets.media.decode import decode_frames

    started = time.perf_counter()
    count = 0
    for frame in decode_frames(video, decoder=decoder):
        frame.bgr()
        count += 1
    return count, time.perf_counter() - started


def _largest_difference(video: Path, decoder: Decoder) -> float:
    from ego_assets.media.decode import decode_frames

    largest = 0
    for ours, theirs in zip(decode_frames(video), decode_frames(video, decoder=decoder), strict=True):
        # uint8 differences would wrap around.
        difference = np.abs(ours.bgr().astype(np.int16) - theirs.bgr())
        largest = max(largest, int(difference.max()))
    return float(largest)
