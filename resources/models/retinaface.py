"""RetinaFace face detectors on PyTorch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ego_assets.schema.detections import BackendInfo, BgrImage, Detections
from resources.models.backends import BACKENDS
from resources.models.boxes import (
    FloatArray,
    decode_priors,
    positions_by_size,
    prior_boxes,
    suppressed,
)
from resources.models.images import IMAGENET_DEVIATION, IMAGENET_MEAN, check_image, fit
from resources.models.registry import RETINAFACE_MOBILENET, RETINAFACE_RESNET50, ModelCard
from resources.models.torch_runtime import Batches, shared_detector
from resources.models.torch_weights import load_weights
from resources.models.weights import locate, weights_digest

_STRIDES = (8, 16, 32)

#: What the ResNet weights were trained with: RGB, on values of 0-255.
_MEAN = np.array(IMAGENET_MEAN, np.float32) * 255
_DEVIATION = np.array(IMAGENET_DEVIATION, np.float32) * 255

#: Means that the mobilenet weights were trained with, in BGR.
_CAFFE_MEAN = np.array([104, 117, 123], np.float32)


class _RetinaFaceDetector:
    """What both networks share: resizing, batches, decoding, suppression."""

    _card: ModelCard
    _backend: str
    _prior_sides: tuple[tuple[int, int], ...]

    def __init__(
        self,
        *,
        models_dir: Path | None = None,
        max_side: int = 1280,
        large_face_side: int = 320,
        score_threshold: float = 0.3,
        strict_score_threshold: float = 0.1,
        nms_iou: float = 0.4,
        device: str = "auto",
        batch_size: int = 8,
    ) -> None:
        BACKENDS["faces"][self._backend].check_arguments(locals())
        self._sides = [max_side] if large_face_side in (0, max_side) else [max_side, large_face_side]
        self._score_threshold = score_threshold
        self._strict_score_threshold = strict_score_threshold
        self._nms_iou = nms_iou
        path = locate(self._card, models_dir)
        self._digest = weights_digest(path)
        self._held = shared_detector(
            self._card, path, self._digest, lambda: self._loaded(path), device=device
        )
        self._batches = Batches(batch_size, device=self._held.device)

    def _loaded(self, path: Path) -> Any:
        network = self._make_network()
        load_weights(network, path)
        return network

    def _make_network(self) -> Any:
        raise NotImplementedError

    def _normalised(self, image: BgrImage) -> FloatArray:
        raise NotImplementedError

    @property
    def info(self) -> BackendInfo:
        """What runs."""
        return BackendInfo(
            task="faces",
            backend=self._backend,
            model=self._card.name,
            weights_sha256=self._digest,
            licence=self._card.licence,
        )

    def detect(self, images: Sequence[BgrImage], *, strict: bool = False) -> list[Detections]:
        """Faces in each image, strongest first, in its pixels; images of equal size share a call."""
        for image in images:
            check_image(image)
        threshold = self._strict_score_threshold if strict else self._score_threshold
        looks = [self._look(images, max_side=side, threshold=threshold) for side in self._sides]
        found = []
        for image, *answers in zip(images, *looks, strict=True):
            boxes = np.concatenate([boxes for boxes, _ in answers])
            scores = np.concatenate([scores for _, scores in answers])
            height, width = image.shape[:2]
            found.append(suppressed(boxes, scores, iou=self._nms_iou, width=width, height=height))
        return found

    def _look(
        self, images: Sequence[BgrImage], *, max_side: int, threshold: float
    ) -> list[tuple[FloatArray, FloatArray]]:
        """Boxes in pixels of each image, not clipped, and scores, at one size of the network's input."""
        fitted = [fit(image, max_side=max_side) for image in images]
        sizes = [(picture.shape[1], picture.shape[0]) for picture in fitted]
        answers: dict[int, tuple[FloatArray, FloatArray]] = {}
        for positions in positions_by_size(sizes):
            pictures = (self._normalised(fitted[position]) for position in positions)
            found = self._batches.stream(pictures, self._run)
            for position, (regression, scores) in zip(positions, found, strict=True):
                width, height = sizes[position]
                boxes, kept_scores = decode_faces(
                    regression,
                    scores,
                    width=width,
                    height=height,
                    prior_sides=self._prior_sides,
                    threshold=threshold,
                )
                rows, columns = images[position].shape[:2]
                scale = np.array([columns / width, rows / height] * 2, np.float32)
                answers[position] = (boxes * scale, kept_scores)
        return [answers[position] for position in range(len(images))]

    def _run(self, pictures: Sequence[FloatArray]) -> list[tuple[FloatArray, FloatArray]]:
        """Regression ``[N, 4]`` and probability of a face ``[N]`` of each normalised picture; all are of one size."""
        import torch  # type: ignore[import-not-found,unused-ignore]

        blob = np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2))
        with self._held.in_use() as network:
            regression, logits = network(torch.from_numpy(blob).to(self._held.device))[:2]
            scores = torch.softmax(logits, dim=-1)[..., 1]
            return list(zip(regression.float().cpu().numpy(), scores.float().cpu().numpy(), strict=True))


def decode_faces(
    regression: FloatArray,
    scores: FloatArray,
    *,
    width: int,
    height: int,
    prior_sides: Sequence[Sequence[int]],
    threshold: float,
) -> tuple[FloatArray, FloatArray]:
    """Boxes and scores of all anchors at or above a threshold.

    Args:
        regression: ``float32 [N, 4]``, see :func:`resources.models.boxes.decode_priors`.
        scores: ``float32 [N]``. NaN is kept, so that it is noticed.
        width: Of the network's input in pixels.
        height: Of the network's input in pixels.
        prior_sides: Sides of the anchors at strides 8, 16 and 32.
        threshold: Least score.

    Returns:
        ``float32 [M, 4]`` xyxy in input pixels, not clipped, and ``float32 [M]``.

    Raises:
        ValueError: The network has another number of anchors.
    """
    priors = prior_boxes(width=width, height=height, strides=_STRIDES, sides=prior_sides)
    if regression.shape != priors.shape or scores.shape != priors.shape[:1]:
        raise ValueError(
            f"expected {len(priors)} anchors for {width} x {height} pixels, got {list(regression.shape)} and "
            f"{list(scores.shape)}"
        )
    kept = ~(scores < threshold)
    return decode_priors(priors[kept], regression[kept]), scores[kept]


class RetinaFaceResNet50Detector(_RetinaFaceDetector):
    """RetinaFace (Deng et al., 2020) on ResNet-50: the network of ``retinaface-pytorch`` with its published weights.

    Only the network is taken from the package. Its own prediction fetches weights, takes one picture at a time and
    pads it to a square.

    Args:
        models_dir: Folder of the weights.
        max_side: Longer side in pixels at which the network looks; larger pictures are shrunk to it.
        large_face_side: Longer side in pixels of a second, cheap look, for faces larger than the largest anchor: at
            full size the network answers those in pieces or not at all. 0 leaves it out.
        score_threshold: Detections below are dropped. The package takes 0.7; a missed face costs more here than a
            needless blur.
        strict_score_threshold: The same where ``strict`` is asked for.
        nms_iou: Of two detections that overlap by more than this, the weaker is dropped (0.4 in the package).
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        batch_size: Most pictures in one call.

    Raises:
        BackendUnavailable: The weights are missing or others, or the device is not there.
    """

    _card = RETINAFACE_RESNET50
    _backend = "retinaface_resnet50"
    _prior_sides = ((16, 32), (64, 128), (256, 512))

    def _make_network(self) -> Any:
        network: Callable[..., Any] = importlib.import_module("retinaface.network").RetinaFace
        return network(
            name="Resnet50",
            # False keeps torchvision from fetching ImageNet weights.
            pretrained=False,
            return_layers={"layer2": 1, "layer3": 2, "layer4": 3},
            in_channels=256,
            out_channels=256,
        )

    def _normalised(self, image: BgrImage) -> FloatArray:
        return np.asarray((image[..., ::-1] - _MEAN) / _DEVIATION, np.float32)


class RetinaFaceMobileNetDetector(_RetinaFaceDetector):
    """RetinaFace on MobileNet v1 0.25 with the weights of Face-Detector-1MB: small enough for a CPU.

    Args:
        models_dir: Folder of the weights.
        max_side: Longer side in pixels at which the network looks; larger pictures are shrunk to it.
        large_face_side: Longer side in pixels of a second, cheap look, for faces larger than the largest anchor: at
            full size the network answers those in pieces or not at all. 0 leaves it out.
        score_threshold: Detections below are dropped.
        strict_score_threshold: The same where ``strict`` is asked for.
        nms_iou: Of two detections that overlap by more than this, the weaker is dropped.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        batch_size: Most pictures in one call.

    Raises:
        BackendUnavailable: The weights are missing or others, or the device is not there.
    """

    _card = RETINAFACE_MOBILENET
    _backend = "retinaface_mobilenet"
    _prior_sides = ((10, 20), (32, 64), (128, 256))

    def _make_network(self) -> Any:
        from resources.models.retinaface_network import RetinaFaceMobileNet

        return RetinaFaceMobileNet()

    def _normalised(self, image: BgrImage) -> FloatArray:
        return np.asarray(image - _CAFFE_MEAN, np.float32)
