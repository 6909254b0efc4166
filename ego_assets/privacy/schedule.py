"""Which frames are examined for which kind of region."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from ego_assets.privacy.config import PrivacyConfig
from ego_assets.schema.timeline import Timeline

#: Whatever a kind's own rule says, no second goes by without a look (collection guide, step 3).
MIN_LOOKS_PER_S = Fraction(1)


def detection_schedule(
    kinds: Iterable[str], timeline: Timeline, config: PrivacyConfig
) -> Mapping[str, npt.NDArray[np.int64]]:
    """Frame indices to examine, for each kind.

    Args:
        kinds: Tasks of the detectors: ``faces``, ``text``, ``plates``.
        timeline: Time stamps of the clip.
        config: Rates.

    Returns:
        Kind -> ascending unique ``int64`` frame indices. The first and the last frame are always among them.

    Raises:
        ValueError: A kind has no rule.
    """
    return {kind: _frames_for(kind, timeline, config) for kind in kinds}


def _frames_for(kind: str, timeline: Timeline, config: PrivacyConfig) -> npt.NDArray[np.int64]:
    if kind == "faces":
        frames = timeline.frames_at_rate(config.faces_per_s)
    elif kind == "plates":
        frames = timeline.frames_at_rate(config.plates_per_s)
    elif kind == "text":
        every = np.arange(0, timeline.frame_count, config.text_every_frames, dtype=np.int64)
        frames = np.union1d(every, timeline.frames_at_rate(MIN_LOOKS_PER_S))
    else:
        raise ValueError(f"kind: expected faces, text or plates, got {kind!r}")
    ends = np.array([0, timeline.frame_count - 1] if timeline.frame_count else [], dtype=np.int64)
    return np.union1d(frames, ends).astype(np.int64)
