"""EgoBlur Gen2 detectors of faces and number plates (Raina et al., 2023), from their TorchScript files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ego_assets.schema.detections import BackendInfo, BgrImage, Detections
from ego_assets.schema.errors import BackendUnavailable
from resources.models.backends import BACKENDS
from resources.models.boxes import positions_by_size, suppressed
from resources.models.images import check_image
from resources.models.registry import EGOBLUR_FACES, EGOBLUR_PLATES, ModelCard
from resources.models.torch_runtime import Batches, shared_detector
from resources.models.weights import locate, weights_digest


def egoblur_size(width: int, height: int, *, longer_side: int) -> tuple[int, int]:
    """Width and height at which EgoBlur looks: the longer side exactly ``longer_side``, in proportion."""
    scale = longer_side / max(width, height)
    return max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5))


class _EgoBlurDetector:
    """One of the two models: a Faster R-CNN that was scripted with its resizing left out."""

    _card: ModelCard
    #: Number of the class that counts; both models were scripted from one list of classes.
    _class: int

    def __init__(
        self,
        *,
        models_dir: Path | None = None,
        longer_side: int = 1200,
        score_threshold: float = 0.3,
        strict_score_threshold: float = 0.1,
        nms_iou: float = 0.5,
        device: str = "auto",
        batch_size: int = 4,
    ) -> None:
        BACKENDS[self._card.task]["egoblur"].check_arguments(locals())
        self._longer_side = longer_side
        self._score_threshold = score_threshold
        self._strict_score_threshold = strict_score_threshold
        self._nms_iou = nms_iou
        path = locate(self._card, models_dir)
        self._digest = weights_digest(path)
        self._held = shared_detector(self._card, path, self._digest, lambda: _load(path), device=device)
        self._batches = Batches(batch_size, device=self._held.device)

    @property
    def info(self) -> BackendInfo:
        """What runs."""
        return BackendInfo(
            task=self._card.task,
            backend="egoblur",
            model=self._card.name,
            weights_sha256=self._digest,
            licence=self._card.licence,
        )

    def detect(self, images: Sequence[BgrImage], *, strict: bool = False) -> list[Detections]:
        """Regions in each image, strongest first, in its pixels; images of equal size share a call."""
        for image in images:
            check_image(image)
        threshold = self._strict_score_threshold if strict else self._score_threshold
        sizes = [
            egoblur_size(image.shape[1], image.shape[0], longer_side=self._longer_side) for image in images
        ]
        found = [Detections.empty()] * len(images)
        for positions in positions_by_size(sizes):
            pictures = (_resized(images[position], sizes[position]) for position in positions)
            answers = self._batches.stream(pictures, self._run)
            for position, (boxes, scores, classes) in zip(positions, answers, strict=True):
                kept = (classes == self._class) & ~(scores < threshold)
                height, width = images[position].shape[:2]
                scale = np.array([width / sizes[position][0], height / sizes[position][1]] * 2, np.float32)
                found[position] = suppressed(
                    boxes[kept] * scale, scores[kept], iou=self._nms_iou, width=width, height=height
                )
        return found

    def _run(self, pictures: Sequence[BgrImage]) -> list[tuple[Any, ...]]:
        """Boxes, scores and classes of each resized picture."""
        import torch  # type: ignore[import-not-found,unused-ignore]

        with self._held.in_use() as network:
            answers = network([torch.from_numpy(picture).to(self._held.device) for picture in pictures])
            return [tuple(values.cpu().numpy() for values in answer) for answer in answers]


def _resized(image: BgrImage, size: tuple[int, int]) -> BgrImage:
    """``uint8 [3, height, width]`` in BGR; the model normalises by itself."""
    height, width = image.shape[:2]
    if size != (width, height):
        interpolation = cv2.INTER_AREA if size[0] < width else cv2.INTER_LINEAR
        image = np.asarray(cv2.resize(image, size, interpolation=interpolation), np.uint8)
    return np.ascontiguousarray(image.transpose(2, 0, 1))


def _load(path: Path) -> Any:
    import torch  # type: ignore[import-not-found,unused-ignore]

    from resources.models.egoblur_network import EgoBlurAnswers

    try:
        model = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call,unused-ignore]
        return torch.jit.script(EgoBlurAnswers(model.eval()))
    except (RuntimeError, ValueError) as error:
        raise BackendUnavailable(
            f"{path} is no EgoBlur Gen2 model: {str(error)[:300]}. Put the published .jit file there."
        ) from error


class EgoBlurFaceDetector(_EgoBlurDetector):
    """Faces, by EgoBlur Gen2.

    Args:
        models_dir: Folder of the weights.
        longer_side: Pixels to which the longer side is scaled, up or down (1200 in EgoBlur).
        score_threshold: Detections below are dropped. EgoBlur publishes 0.674 for the RGB camera of Aria glasses; a
            missed face costs more here than a needless blur.
        strict_score_threshold: The same where ``strict`` is asked for (0.1 was the default of the first generation).
        nms_iou: Of two detections that overlap by more than this, the weaker is dropped (0.5 in EgoBlur).
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        batch_size: Most pictures in one call.

    Raises:
        BackendUnavailable: The weights are missing or no EgoBlur model, or the device is not there.
    """

    _card = EGOBLUR_FACES
    _class = 0


class EgoBlurPlateDetector(_EgoBlurDetector):
    """Number plates, by EgoBlur Gen2. Arguments as of :class:`EgoBlurFaceDetector`; EgoBlur publishes 0.745."""

    _card = EGOBLUR_PLATES
    _class = 1
