"""Activity segments and the protocol of the backends that find them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ego_assets.schema.detections import BackendInfo
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.hands import HandObjectTracks
from ego_assets.schema.motion import CameraMotion

#: Label of what is none of the activities that a recognizer knows: it covers the clip like any other, but says nothing.
OTHER_ACTION = "other"


@dataclass(frozen=True, kw_only=True)
class ActionSegment:
    """One stretch of one activity.

    Attributes:
        start_ns: Where it begins, in nanoseconds of presentation time.
        end_ns: Where it ends; the next one begins there or later.
        label: Activity, out of the recognizer's labels.
        score: How sure it is, 0-1.
    """

    start_ns: int
    end_ns: int
    label: str
    score: float

    def __post_init__(self) -> None:
        if self.end_ns <= self.start_ns:
            raise ValueError(f"end_ns: expected more than {self.start_ns}, got {self.end_ns}")
        if not 0 <= self.score <= 1:
            raise ValueError(f"score: expected 0 to 1, got {self.score}")


@runtime_checkable
class ActionRecognizer(Protocol):
    """Says how likely each activity is at each second of a clip."""

    @property
    def info(self) -> BackendInfo:
        """What runs."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """The activities it knows, in the order of the scores."""
        ...

    @property
    def frames_per_second(self) -> float | None:
        """Rate at which it wants frames; ``None`` where hands and motion are enough and nothing needs decoding."""
        ...

    def score(
        self,
        times_ns: npt.NDArray[np.int64],
        *,
        frames: Iterable[ClipFrame],
        hands: HandObjectTracks | None,
        motion: CameraMotion,
        timestamps_ns: npt.NDArray[np.int64],
        resolution: tuple[int, int],
    ) -> npt.NDArray[np.float32]:
        """``float32 [T, L]``, the probability of every label at every time; rows sum to 1.

        Args:
            times_ns: ``int64 [T]``, centres of the steps, ascending, in nanoseconds of presentation time.
            frames: Frames at :attr:`frames_per_second`; empty where it wants none.
            hands: The wearer's hands, where the hand layer has them.
            motion: How the picture moved, on every frame of the video.
            timestamps_ns: ``int64 [N]``, presentation times of these frames.
            resolution: Width and height in pixels that ``motion`` and ``hands`` refer to.
        """
        ...
