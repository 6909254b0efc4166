"""Dense optical flow without weights."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ego_assets.geometry.flow import DisPreset, dense_flow
from ego_assets.schema.detections import BackendInfo, BgrImage
from ego_assets.schema.flow import FlowField
from resources.models.backends import BACKENDS


class DisFlow:
    """Dense inverse search (Kroeger et al. 2016, in OpenCV). Implements :class:`ego_assets.schema.flow.FlowEstimator`.

    Args:
        preset: ``ultrafast``, ``fast`` or ``medium``; each step is two to four times as slow and more exact.
    """

    def __init__(self, *, preset: DisPreset = "medium") -> None:
        BACKENDS["flow"]["dis"].check_arguments(locals())
        self._preset = preset

    @property
    def info(self) -> BackendInfo:
        """What runs."""
        return BackendInfo(task="flow", backend="dis", model=f"OpenCV DIS flow, {self._preset}")

    def flow(self, pairs: Sequence[tuple[BgrImage, BgrImage]]) -> list[FlowField]:
        """One field per pair, in pixels of the pictures given.

        Raises:
            ValueError: The pictures of a pair differ in size.
        """
        return [dense_flow(_grey(first), _grey(second), preset=self._preset) for first, second in pairs]


def _grey(image: BgrImage) -> BgrImage:
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGR2GRAY), np.uint8)
