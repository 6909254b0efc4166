"""What detectors return, and the protocols that detection backends implement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ego_assets.schema.arrays import read_only

#: ``uint8 [height, width, 3]`` in BGR order, upright.
BgrImage = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Detections:
    """Boxes found in one image.

    Attributes:
        boxes_xyxy: ``float32 [N, 4]``, left, top, right, bottom in pixels of the image given to the detector.
        scores: ``float32 [N]`` in 0-1.
    """

    boxes_xyxy: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        boxes, scores = self.boxes_xyxy, self.scores
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError(f"boxes_xyxy: expected [N, 4], got {list(boxes.shape)}")
        if scores.shape != (boxes.shape[0],):
            raise ValueError(f"scores: expected [{boxes.shape[0]}], got {list(scores.shape)}")
        object.__setattr__(self, "boxes_xyxy", read_only(boxes.astype(np.float32, copy=False)))
        object.__setattr__(self, "scores", read_only(scores.astype(np.float32, copy=False)))

    def __len__(self) -> int:
        return int(self.scores.size)

    @classmethod
    def empty(cls) -> Detections:
        """No boxes."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))

    def scaled(self, scale_x: float, scale_y: float) -> Detections:
        """The same boxes in an image that is ``scale_x`` times as wide and ``scale_y`` times as high."""
        factors = np.array([scale_x, scale_y, scale_x, scale_y], dtype=np.float32)
        return Detections(self.boxes_xyxy * factors, self.scores)


def iou_matrix(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Intersection over union of each box in ``a [N, 4]`` with each in ``b [M, 4]`` (xyxy), ``float64 [N, M]``.

    Boxes without area overlap nothing.
    """
    rows, columns = a[:, None].astype(np.float64), b[None].astype(np.float64)
    overlap = np.minimum(rows[..., 2:], columns[..., 2:]) - np.maximum(rows[..., :2], columns[..., :2])
    intersection = np.clip(overlap, 0, None).prod(axis=-1)
    areas = (rows[..., 2:] - rows[..., :2]).prod(axis=-1) + (columns[..., 2:] - columns[..., :2]).prod(
        axis=-1
    )
    return np.asarray(intersection / np.maximum(areas - intersection, 1e-9), dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class BackendInfo:
    """Who produced a result: recorded in every artifact document and PII report.

    Attributes:
        task: Task of the profile, such as ``faces``.
        backend: Name used in profiles.
        model: Name of the model, with its version.
        weights_sha256: Digest of the weights file, or a joint one of several; empty for weight-free backends.
        licence: SPDX identifier or name of the weights' licence.
    """

    task: str
    backend: str
    model: str
    weights_sha256: str = ""
    licence: str = ""


@runtime_checkable
class RegionDetector(Protocol):
    """Finds regions of one kind (faces, text or plates) in upright images."""

    @property
    def info(self) -> BackendInfo:
        """What runs."""
        ...

    def detect(self, images: Sequence[BgrImage], *, strict: bool = False) -> list[Detections]:
        """One :class:`Detections` per image, in its pixels; an empty list for no images.

        With ``strict`` the backend's lower threshold holds: more is found, and more of it is wrong. The pass after
        an incident or a leak asks for that.
        """
        ...
