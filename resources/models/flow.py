"""Dense optical flow without weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import cv2
import numpy as np

from ego_assets.schema.detections import BackendInfo, BgrImage
from ego_assets.schema.flow import FlowField

#: How thoroughly the flow is computed.
Preset = Literal["ultrafast", "fast", "medium"]

_PRESETS: Mapping[str, int] = MappingProxyType(
    {
        "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
        "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
        "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
    }
)

#: The method compares patches of 8x8 pixels; of smaller pictures it knows nothing.
_MIN_SIDE = 16


class DisFlow:
    """Dense inverse search (Kroeger et al. 2016, in OpenCV). Implements :class:`ego_assets.schema.flow.FlowEstimator`.

    Args:
        preset: ``ultrafast``, ``fast`` or ``medium``; each step is two to four times as slow and more exact.
    """

    def __init__(self, *, preset: Preset = "medium") -> None:
        if preset not in _PRESETS:
            raise ValueError(f"preset: expected one of {', '.join(_PRESETS)}, got {preset!r}")
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
        # Made anew: an instance keeps buffers of the pictures before.
        method = cv2.DISOpticalFlow.create(_PRESETS[self._preset])
        return [self._one(method, first, second) for first, second in pairs]

    @staticmethod
    def _one(method: cv2.DISOpticalFlow, first: BgrImage, second: BgrImage) -> FlowField:
        if first.shape != second.shape:
            raise ValueError(
                f"pair: expected pictures of one size, got {list(first.shape)} and {list(second.shape)}"
            )
        height, width = first.shape[:2]
        below, beside = max(0, _MIN_SIDE - height), max(0, _MIN_SIDE - width)
        grey = [cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGR2GRAY) for image in (first, second)]
        if below or beside:
            grey = [cv2.copyMakeBorder(image, 0, below, 0, beside, cv2.BORDER_REPLICATE) for image in grey]
        field = method.calc(grey[0], grey[1], np.zeros((*grey[0].shape, 2), np.float32))
        field = np.nan_to_num(np.asarray(field[:height, :width], np.float32))
        return np.ascontiguousarray(field)
