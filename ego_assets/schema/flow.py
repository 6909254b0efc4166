"""Dense optical flow, as several layers use it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ego_assets.schema.detections import BackendInfo, BgrImage

#: ``float32 [height, width, 2]``: offset (x, y) in pixels from a pixel of the first picture to its
#: place in the second.
FlowField = npt.NDArray[np.float32]


@runtime_checkable
class FlowEstimator(Protocol):
    """Finds where every pixel of one picture went in another."""

    @property
    def info(self) -> BackendInfo:
        """What runs."""
        ...

    def flow(self, pairs: Sequence[tuple[BgrImage, BgrImage]]) -> list[FlowField]:
        """One field per pair, in pixels of the pictures given; both pictures of a pair have one size."""
        ...
