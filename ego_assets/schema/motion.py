"""How the camera moved, as the picture shows it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ego_assets.schema.arrays import read_only


@dataclass(frozen=True, eq=False, kw_only=True)
class CameraMotion:
    """How the picture moved and changed over a whole clip, measured on every frame.

    Attributes:
        positions_xy: ``float64 [N, 2]``, where a point of the still scene lies on each frame relative to the first, in
            pixels of the upright picture: the sum of all shifts up to that frame.
        change: ``float32 [N]``, what the shift does not explain, 0-2: 0 for equal pictures, about 1 for unrelated.
        is_cut: ``bool [N]``, whether a new scene begins with the frame.
        unseen: ``bool [N]``, whether the picture shows too little to measure by (dark, covered): no shift and no change
            mean nothing there. ``None`` where it always shows enough.
    """

    positions_xy: npt.NDArray[np.float64]
    change: npt.NDArray[np.float32]
    is_cut: npt.NDArray[np.bool_]
    unseen: npt.NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        count = self.change.size
        if self.positions_xy.shape != (count, 2):
            raise ValueError(f"positions_xy: expected [{count}, 2], got {list(self.positions_xy.shape)}")
        if self.change.shape != (count,) or self.is_cut.shape != (count,):
            raise ValueError(
                f"change and is_cut: expected [{count}], got {list(self.change.shape)}, {list(self.is_cut.shape)}"
            )
        if self.unseen is None:
            object.__setattr__(self, "unseen", np.zeros(count, np.bool_))
        elif self.unseen.shape != (count,):
            raise ValueError(f"unseen: expected [{count}], got {list(self.unseen.shape)}")
        if not np.isfinite(self.positions_xy).all():
            raise ValueError("positions_xy: expected finite pixels")
        for name in ("positions_xy", "change", "is_cut", "unseen"):
            object.__setattr__(self, name, read_only(getattr(self, name)))

    @classmethod
    def still(cls, frame_count: int) -> CameraMotion:
        """A camera that never moves, over a scene that never changes."""
        return cls(
            positions_xy=np.zeros((frame_count, 2)),
            change=np.zeros(frame_count, np.float32),
            is_cut=np.zeros(frame_count, np.bool_),
        )

    def unseen_share(self, frames: npt.NDArray[np.int64]) -> float:
        """Share of these frames on which the picture shows too little to measure by, 0-1; 0 for no frames."""
        return float(np.asarray(self.unseen)[frames].mean()) if frames.size else 0.0

    @property
    def frame_count(self) -> int:
        """Number of frames."""
        return int(self.change.size)

    @property
    def scenes(self) -> npt.NDArray[np.int64]:
        """``int64 [N]``, number of the scene that each frame belongs to, from 0."""
        return np.cumsum(self.is_cut, dtype=np.int64)
