"""Detectors without weights, so that a whole chain takes a second: they see nothing, and a hand that always grasps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from ego_assets.labels.hands import hand_box
from ego_assets.schema.detections import BackendInfo, BgrImage, Detections
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.hands import HandDetections

#: The profile that names these backends.
PROFILE = Path(__file__).with_name("profile.yaml")


class _SeesNothing:
    task = ""

    @property
    def info(self) -> BackendInfo:
        return BackendInfo(task=self.task, backend="nothing", model="nothing 1")

    def detect(self, images: Sequence[BgrImage], *, strict: bool = False) -> list[Detections]:
        return [Detections.empty() for _ in images]


class NoFaces(_SeesNothing):
    task = "faces"


class NoText(_SeesNothing):
    task = "text"


class NoPlates(_SeesNothing):
    task = "plates"


class OneHand:
    """A right hand at the lower edge that holds something."""

    @property
    def info(self) -> BackendInfo:
        return BackendInfo(task="hands", backend="one_hand", model="one hand 1")

    def detect(self, frames: Iterable[ClipFrame]) -> Iterator[HandDetections]:
        thumb = np.array([(0.0, 0.0), (-0.3, -0.3), (-0.5, -0.55), (-0.6, -0.8), (-0.55, -1.05)])
        fingers = np.array([(c, r) for c in (-0.3, -0.1, 0.1, 0.3) for r in (-1.0, -1.2, -1.4, -1.5)])
        for frame in frames:
            width, height = frame.size
            points = np.concatenate([thumb, fingers]) * height / 6 + np.array([width * 0.7, height * 0.9])
            box = hand_box(points.astype(np.float32), width=width, height=height)
            yield HandDetections(
                boxes_xyxy=np.asarray(box, np.float32)[None],
                scores=np.full(1, 0.9, np.float32),
                right_scores=np.full(1, 0.8, np.float32),
                landmarks_xy=points[None].astype(np.float32),
                contact_scores=np.full(1, 0.95, np.float32),
                contact_boxes_xyxy=np.array([[10, 10, 40, 40]], np.float32),
            )


def register() -> None:
    """Make the backends known under the names that the profile uses."""
    import resources.profiles.lookup
    from resources.models.backends import BACKENDS, BackendSpec

    added = {
        "faces": ("nothing", NoFaces),
        "text": ("nothing", NoText),
        "plates": ("nothing", NoPlates),
        "hands": ("one_hand", OneHand),
    }
    known = {task: dict(backends) for task, backends in BACKENDS.items()}
    for task, (name, backend) in added.items():
        known[task][name] = BackendSpec(
            task=task,
            backend=name,
            module=__name__,
            class_name=backend.__name__,
            settings={},
            requires=(),
            extra="dev",
        )
    resources.profiles.lookup.BACKENDS = MappingProxyType(known)  # type: ignore[misc]
