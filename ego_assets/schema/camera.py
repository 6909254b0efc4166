"""The camera as geometry sees it: a pinhole, and where it was."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np
import numpy.typing as npt

from ego_assets.schema.arrays import hold_arrays

#: Where intrinsics come from: the clip's sidecar, an assumed field of view of that kind of camera, or such a one whose
#: focal length was corrected by what the picture shows.
IntrinsicsSource = Literal["sidecar", "assumed", "estimated"]


class Scale(StrEnum):
    """Whether lengths are in metres or only in proportion to one another."""

    METRIC = "metric"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class PinholeCamera:
    """Intrinsics for pictures of one size; pixel centres lie on whole numbers.

    Attributes:
        width: Width in pixels.
        height: Height in pixels.
        fx: Focal length in pixels, along the rows.
        fy: The same, along the columns.
        cx: Principal point, column in pixels.
        cy: Principal point, row in pixels.
        source: Where the values come from.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    source: IntrinsicsSource = "assumed"

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"size: expected 1 pixel or more, got {self.width}x{self.height}")
        if not all(np.isfinite(value) and value > 0 for value in (self.fx, self.fy)):
            raise ValueError(f"fx, fy: expected finite values above 0, got {self.fx}, {self.fy}")
        if not (np.isfinite(self.cx) and np.isfinite(self.cy)):
            raise ValueError(f"cx, cy: expected finite values, got {self.cx}, {self.cy}")

    @property
    def matrix(self) -> npt.NDArray[np.float64]:
        """``float64 [3, 3]``, the camera matrix."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1]], dtype=np.float64)

    def scaled(self, width: int, height: int) -> PinholeCamera:
        """The same camera with pictures of another size."""
        x, y = width / self.width, height / self.height
        return PinholeCamera(
            width=width,
            height=height,
            fx=self.fx * x,
            fy=self.fy * y,
            cx=(self.cx + 0.5) * x - 0.5,
            cy=(self.cy + 0.5) * y - 0.5,
            source=self.source,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class CameraTrajectory:
    """Where the camera was. Estimated from the picture, or supplied by sensors through the same type.

    Attributes:
        frame_index: ``int64 [N]``, ascending.
        timestamps_ns: ``int64 [N]``.
        T_world_camera: ``float64 [N, 4, 4]``, takes points in camera axes (x right, y down, z forward) to the world.
            NaN where the pose is not known.
        segment: ``int64 [N]``: poses are comparable, and share one scale, only within a segment.
        scale: Unit of the translations: metres, or one that differs between segments.
    """

    frame_index: npt.NDArray[np.int64]
    timestamps_ns: npt.NDArray[np.int64]
    T_world_camera: npt.NDArray[np.float64]
    segment: npt.NDArray[np.int64]
    scale: Scale

    def __post_init__(self) -> None:
        count = self.frame_index.size
        hold_arrays(
            self,
            frame_index=(count,),
            timestamps_ns=(count,),
            T_world_camera=(count, 4, 4),
            segment=(count,),
        )
        if np.any(np.diff(self.frame_index) <= 0):
            raise ValueError("frame_index: expected ascending frames, got a step back or a repetition")
