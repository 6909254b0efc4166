"""Which frames of a blurred video a person looks at."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

#: Share of the frames that people look at. Source: collection guide, pitfalls ("a human review pass on a 5%
#: sample of blurred frames").
AUDIT_SHARE = 0.05
_STRETCH_FRAMES = round(1 / AUDIT_SHARE)


def audit_sample(clip_id: str, frame_count: int, *, salt: str = "") -> npt.NDArray[np.int64]:
    """Choose the frames of a clip that are audited: one of every ``1 / AUDIT_SHARE`` that follow one another.

    Which one is decided by a hash of the clip and of the position of the stretch, so that the choice is the same
    on every machine and in every version, is spread evenly over time, and keeps no step with anything that repeats
    in the picture. A last stretch that is shorter is sampled at the same share, so it may go without; the sample
    is never empty.

    Args:
        clip_id: The clip.
        frame_count: Frames of its blurred video.
        salt: Draws another sample. A rendering with corrections is audited with the corrections' version as salt:
            the frames in which something was found and corrected say nothing about the rest of the clip.

    Returns:
        ``int64 [frames]``, ascending frame indices.

    Raises:
        ValueError: There are no frames.
    """
    if frame_count < 1:
        raise ValueError(f"frame_count: expected 1 or more, got {frame_count}")
    starts = range(0, frame_count, _STRETCH_FRAMES)
    chosen = [
        start + _draw(f"{clip_id}:{salt}:{start // _STRETCH_FRAMES}", _STRETCH_FRAMES) for start in starts
    ]
    inside = [frame for frame in chosen if frame < frame_count]
    return np.array(inside or [_draw(f"{clip_id}:{salt}:only", frame_count)], dtype=np.int64)


def _draw(key: str, choices: int) -> int:
    """A number from 0 to ``choices - 1`` that depends on ``key`` alone."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % choices
