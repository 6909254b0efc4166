"""Detection of number plates as lines of text of a plate's shape; nothing is ever read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ego_assets.schema.detections import BackendInfo, BgrImage, Detections
from resources.models.registry import PP_OCR_DETECTOR
from resources.models.text import PPOCRTextDetector

#: Width over height of the upright box of a plate's characters, slanted and two-line plates included: 0.9-7.2 in
#: 115 photographs of European, American and Brazilian cars.
_LEAST_ASPECT = 0.8
_MOST_ASPECT = 9.0
#: Highest plate relative to the picture's shorter side: a bumper is not filmed from closer.
_MOST_HEIGHT_SHARE = 0.35
#: Share of its width and of its height by which each side of the characters' box moves out to the plate's edge.
#: American plates carry a state's name above and a slogan below the characters.
_EDGE_WIDTH_SHARE = 0.08
_EDGE_HEIGHT_SHARE = 0.2


class PlateDetector:
    """Finds number plates with the text network and a plate's shape, without a network of its own.

    A plate is made to be read, so the text network finds it; of its lines those are kept that have a plate's
    proportions, grown to the plate's edge. Other short words pass as well: this answers where plates may be. They
    are covered as text anyway.

    Args:
        max_side: Longer side in pixels at which the network looks at most; larger pictures are shrunk to it.
            Plates narrower than about 35 pixels there are not found. With the settings of the text backend, a
            picture in which text was just looked for costs nothing more.
        score_threshold: Candidates with a lower text score are dropped.
        strict_score_threshold: The same where a strict search is asked for.
        threads: Threads per call; 0 takes one per core, at most 4.

    Raises:
        BackendUnavailable: The weights are not installed or damaged.
    """

    def __init__(
        self,
        *,
        max_side: int = 1920,
        score_threshold: float = 0.25,
        strict_score_threshold: float = 0.12,
        threads: int = 0,
    ) -> None:
        self._text = PPOCRTextDetector(
            max_side=max_side,
            score_threshold=score_threshold,
            strict_score_threshold=strict_score_threshold,
            threads=threads,
        )

    @property
    def info(self) -> BackendInfo:
        """What runs."""
        return BackendInfo(
            task="plates",
            backend="text_shape",
            model=PP_OCR_DETECTOR.name,
            weights_sha256=PP_OCR_DETECTOR.sha256,
            licence=PP_OCR_DETECTOR.licence,
        )

    def detect(self, images: Sequence[BgrImage], *, strict: bool = False) -> list[Detections]:
        """Places that may be number plates in each image, in its pixels."""
        found = self._text.detect(images, strict=strict)
        return [
            plates_among_lines(lines, width=image.shape[1], height=image.shape[0])
            for image, lines in zip(images, found, strict=True)
        ]


def plates_among_lines(lines: Detections, *, width: int, height: int) -> Detections:
    """Lines of text that may be number plates, grown to the plate's edge.

    Args:
        lines: Lines of text in pixels of the picture.
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.
    """
    sizes = lines.boxes_xyxy[:, 2:] - lines.boxes_xyxy[:, :2]
    aspects = sizes[:, 0] / np.maximum(sizes[:, 1], 1e-6)
    kept = (aspects >= _LEAST_ASPECT) & (aspects <= _MOST_ASPECT)
    kept &= sizes[:, 1] <= _MOST_HEIGHT_SHARE * min(height, width)
    reach = sizes[kept] * np.array([_EDGE_WIDTH_SHARE, _EDGE_HEIGHT_SHARE], dtype=np.float32)
    boxes = lines.boxes_xyxy[kept]
    grown = np.concatenate([boxes[:, :2] - reach, boxes[:, 2:] + reach], axis=1)
    return Detections(np.clip(grown, 0, np.array([width, height] * 2, dtype=np.float32)), lines.scores[kept])
