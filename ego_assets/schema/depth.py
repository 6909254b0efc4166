"""Depth maps and the protocol of the backends that make them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ego_assets.schema.arrays import hold_arrays, read_only
from ego_assets.schema.camera import CameraTrajectory, PinholeCamera, Scale
from ego_assets.schema.detections import BackendInfo
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.vocabulary import LocationType

#: What stands behind a map: evidence; a camera that was seen not to move, so that nothing can be said; or a failure:
#: a frame without texture, or one that could not be compared with any other.
DepthStatus = Literal["estimated", "no_parallax", "failed"]

#: Confidence from which a depth was measured; below it was completed between measurements.
MEASURED_FROM = 128


def is_outdoors(location: LocationType) -> bool:
    """Whether depth is to be expected as under the open sky; a place that is not stated counts as a room."""
    return location is LocationType.OUTDOOR


def constant_confidence(height: int, width: int, value: int = MEASURED_FROM) -> npt.NDArray[np.uint8]:
    """``uint8 [height, width]`` of one value: a view of a single byte, which is cheap to make, check and store."""
    return np.broadcast_to(np.uint8(value), (height, width))


@dataclass(frozen=True, eq=False, kw_only=True)
class DepthFrame:
    """Depth of one frame, along the optical axis.

    Attributes:
        frame_index: The frame.
        timestamp_ns: Its presentation time.
        depth: ``float32 [height, width]`` at the frame's size: metres for a metric scale, otherwise in units in which
            the median of the measured depth is 1 in the segment's first map. 0 where nothing is known.
        confidence: ``uint8 [height, width]``: 0 where nothing is known, 1-127 where it was completed between
            measurements, 128-255 where it was measured. Where all of a map is equally sure, see
            :func:`constant_confidence`.
        scale: Unit of ``depth``.
        status: What stands behind it.
        segment: Maps share one unit only within a segment.
        camera_motion: How far the camera moved since the frame before, in units of ``depth``; NaN where unknown.
        camera: Intrinsics that the map was computed with, where the backend corrected the ones it was given.
    """

    frame_index: int
    timestamp_ns: int
    depth: npt.NDArray[np.float32]
    confidence: npt.NDArray[np.uint8]
    scale: Scale
    status: DepthStatus = "estimated"
    segment: int = 0
    camera_motion: float = float("nan")
    camera: PinholeCamera | None = None

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
        # Comparisons with NaN are false, and the least and largest of an array with NaN are NaN.
        nearest, farthest = (self.depth.min(), self.depth.max()) if self.depth.size else (0, 0)
        if not (nearest >= 0 and farthest < np.inf):
            raise ValueError("depth: expected finite values of 0 or more")
        sure = self.constant_confidence
        if sure is None:
            agrees = np.array_equal(self.depth > 0, self.confidence > 0)
        else:
            agrees = bool(nearest > 0 if sure else farthest == 0) or not self.depth.size
        if not agrees:
            raise ValueError("confidence: expected more than 0 exactly where depth is known")
        object.__setattr__(self, "depth", read_only(self.depth))
        object.__setattr__(self, "confidence", read_only(self.confidence))

    @property
    def constant_confidence(self) -> int | None:
        """The confidence of all pixels where it was given as one value; ``None`` where every pixel has its own."""
        if self.confidence.size and self.confidence.strides == (0, 0):
            return int(self.confidence[0, 0])
        return None


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
        cuts: frozenset[int] = frozenset(),
        location: LocationType = LocationType.OTHER,
    ) -> Iterator[DepthFrame]:
        """One map per frame, in order; nothing is remembered from one call to the next.

        Args:
            frames: Frames of one clip in order of time.
            camera: Intrinsics for pictures of the frames' size.
            poses: Where the camera was, where a sensor or another layer knows it.
            baseline_m: Median distance in metres that the camera moves between neighbouring frames given, where it
                is known (a rail, a robot) and ``poses`` are not metric.
            cuts: Indices of those frames on which a new scene begins: they are not compared with earlier ones.
            location: Kind of place that the clip shows; see :func:`is_outdoors`.
        """
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class DepthMeasurements:
    """What was measured on the maps of one clip: one value a frame, for gates and records.

    Attributes:
        frame_index: ``int64 [N]``, ascending.
        timestamps_ns: ``int64 [N]``.
        status: What stands behind each map.
        is_metric: ``bool [N]``, whether the map is in metres.
        segment: ``int64 [N]``, maps share one unit only within a segment.
        measured_share: ``float64 [N]``, share of the pixels whose depth was measured, 0-1.
        completed_share: ``float64 [N]``, share of the pixels whose depth was completed between measurements, 0-1.
        median: ``float64 [N]``, median of the known depth in the map's unit; NaN where nothing is known.
        maximum: ``float64 [N]``, 99.9th percentile of the known depth in the map's unit: single wrong pixels do not
            count. NaN where nothing is known.
        change: ``float64 [N]``, mean absolute difference from the map before, over the pixels known in both, in the
            map's unit; NaN where the two cannot be compared.
        camera_motion: ``float64 [N]``, as :class:`DepthFrame` has it.
        picture_shift: ``float64 [N]``, how far the picture moved since the frame before, as share of its width; NaN
            where that is not known.
    """

    frame_index: npt.NDArray[np.int64]
    timestamps_ns: npt.NDArray[np.int64]
    status: tuple[DepthStatus, ...]
    is_metric: npt.NDArray[np.bool_]
    segment: npt.NDArray[np.int64]
    measured_share: npt.NDArray[np.float64]
    completed_share: npt.NDArray[np.float64]
    median: npt.NDArray[np.float64]
    maximum: npt.NDArray[np.float64]
    change: npt.NDArray[np.float64]
    camera_motion: npt.NDArray[np.float64]
    picture_shift: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        count = len(self.status)
        hold_arrays(self, **{name: (count,) for name in self.__dataclass_fields__ if name != "status"})

    @property
    def valid_share(self) -> npt.NDArray[np.float64]:
        """``float64 [N]``, share of the pixels whose depth is known, measured or completed."""
        return self.measured_share + self.completed_share

    @property
    def can_be_judged(self) -> npt.NDArray[np.bool_]:
        """``bool [N]``, false where the camera stood still, so that there is nothing that a map could show."""
        return np.array([status != "no_parallax" for status in self.status], np.bool_)

    @property
    def scale(self) -> Scale:
        """Metric where all maps that know anything are; otherwise unknown."""
        known = self.valid_share > 0
        return Scale.METRIC if known.any() and bool(self.is_metric[known].all()) else Scale.UNKNOWN
