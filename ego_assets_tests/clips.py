"""Small video files for the tests that need many or damaged ones; `ego_assets.synth` makes the real scenes."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from ego_assets.media.encode import VideoWriter


def write_clip(
    path: Path, *, seed: int = 0, frames: int = 15, width: int = 192, height: int = 108, rate: int = 15
) -> Path:
    """A sharp, evenly lit pattern that moves; equal seeds give equal files."""
    rng = np.random.default_rng(seed)
    texture = rng.integers(60, 190, (height // 4 + 8, width // 4 + 8, 3), dtype=np.uint8)
    picture = np.kron(texture, np.ones((4, 4, 1), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(
        path, width=width, height=height, time_base=Fraction(1, 15360), frame_rate=Fraction(rate)
    ) as writer:
        for index in range(frames):
            shift = index % 32
            view = np.ascontiguousarray(picture[shift : shift + height, shift : shift + width])
            frame = av.VideoFrame.from_ndarray(view, format="rgb24").reformat(format="yuv420p")
            writer.write(frame, timestamp_ns=round(index * 1e9 / rate))
    return path


def write_truncated_clip(path: Path, *, seed: int = 0) -> Path:
    """A file that was cut off while it was copied."""
    write_clip(path, seed=seed, frames=60)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    return path


def write_renamed_picture(path: Path, *, seed: int = 0) -> Path:
    """A JPEG that was given a video's name."""
    import cv2

    picture = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".jpg", picture)[1].tobytes())
    return path
