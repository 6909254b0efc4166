"""Depth maps and the protocol of the backends that make them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ego_assets.schema.arrays import read_only
from ego_assets.schema.camera import CameraTrajectory, PinholeCamera, Scale
from ego_assets.schema.detections import BackendInfo
from ego_assets.schema.frames import ClipFrame

#: What stands behind a map: evidence; a camera that did not move, so that nothing can be said; or a failure.
DepthStatus = Literal["estimated", "no_parallax", "failed"]


@dataclass(frozen=True, eq=False, kw_only=True)
class DepthFrame:
    """Depth of one frame, along the optical axis.

    Attributes:
        frame_index: The frame.
        timestamp_ns: Its presentation time.
        depth: ``float32 [height, width]`` at the frame's size: metres for a metric scale, otherwise in units in which
            the median of the segment's measured depth is 1. 0 where nothing is known.
        confidence: ``uint8 [height, width]``: 0 where nothing is known, 1-127 where it was completed between
            measurements, 128-255 where it was measured.
        scale: Unit of ``depth``.
        status: What stands behind it.
        segment: Maps share one unit only within a segment.
        camera_motion: How far the camera moved between the pictures compared, in units of ``depth``; NaN where unknown.
    """

    frame_index: int
    timestamp_ns: int
    depth: npt.NDArray[np.float32]
    confidence: npt.NDArray[np.uint8]
    scale: Scale
    status: DepthStatus = "estimated"
    segment: int = 0
    camera_motion: float = float("nan")

    def __post_init__(self) -> None:
        if self.depth.ndim != 2 or self.depth.dtype != np.float32:
            raise ValueError(
                f"depth: expected float32 [h, w], got {self.depth.dtype} {list(self.depth.shape)}"
            )
        if self.confidence.shape != self.depth.shape or self.confidence.dtype != np.uint8:
            raise ValueError(
                f"confidence: expected uint8 {list(self.depth.shape)}, got {self.confidence.dtype} "
                f"{list(self.confidence.shape)}"
            )
        if not np.isfinite(self.depth).all() or (self.depth < 0).any():
            raise ValueError("depth: expected finite values of 0 or more")
        if ((self.depth > 0) != (self.confidence > 0)).any():
            raise ValueError("confidence: expected more than 0 exactly where depth is known")
        object.__setattr__(self, "depth", read_only(self.depth))
        object.__setattr__(self, "confidence", read_only(self.confidence))


@runtime_checkable
class DepthEstimator(Protocol):
    """Estimates the depth of a clip's frames."""

    @property
    def info(self) -> BackendInfo:
        """What runs."""
        ...

    @property
    def is_dense(self) -> bool:
        """Whether every pixel gets a depth (a network), or only those with evidence (depth from motion)."""
        ...

    def estimate(
        self,
        frames: Iterable[ClipFrame],
        *,
        camera: PinholeCamera,
        poses: CameraTrajectory | None = None,
        baseline_m: float | None = None,
    ) -> Iterator[DepthFrame]:
        """One map per frame, in order; nothing is remembered from one call to the next.

        Args:
            frames: Frames of one clip in order of time.
            camera: Intrinsics for pictures of the frames' size.
            poses: Where the camera was, where a sensor or another layer knows it.
            baseline_m: Median distance in metres that the camera moves between neighbouring frames given, where it
                is known (a rail, a robot) and ``poses`` are not metric.
        """
        ...
