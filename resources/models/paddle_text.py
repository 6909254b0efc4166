"""Text detection by PaddleOCR's own package; nothing is ever read."""

from __future__ import annotations

import importlib
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ego_assets.schema.detections import BackendInfo, BgrImage, Detections
from ego_assets.schema.errors import BackendUnavailable
from resources.models.backends import BACKENDS
from resources.models.boxes import positions_by_size
from resources.models.images import check_image
from resources.models.registry import PADDLE_TEXT
from resources.models.torch_device import torch_device
from resources.models.torch_runtime import Batches
from resources.models.weights import card_digest, locate

_log = logging.getLogger(__name__)


class PaddleTextDetector:
    """PP-OCRv5 server text detection through ``paddleocr.TextDetection``.

    Args:
        models_dir: Folder in which the model's own folder lies. Nothing is fetched.
        max_side: Longer side in pixels at which the network looks; larger pictures are shrunk to it.
        score_threshold: Lines whose core has a mean probability below are dropped (PaddleOCR: 0.6; missing a line
            costs more here than a needless blur).
        strict_score_threshold: The same where ``strict`` is asked for.
        pixel_threshold: Probability from which a pixel belongs to the core of a line (PaddleOCR: 0.3).
        unclip_ratio: How far a core is grown: area times this, divided by perimeter, on each side.
        device: ``cpu``, ``gpu`` or ``gpu:N``, as PaddlePaddle names them; ``auto`` takes the GPU that this process
            has for PyTorch's networks, and the CPU, with a warning, where PaddlePaddle can use none.
        batch_size: Most pictures in one call.

    Raises:
        BackendUnavailable: The model is missing, or PaddlePaddle cannot load it.
    """

    def __init__(
        self,
        *,
        models_dir: Path | None = None,
        max_side: int = 1280,
        score_threshold: float = 0.4,
        strict_score_threshold: float = 0.25,
        pixel_threshold: float = 0.3,
        unclip_ratio: float = 1.6,
        device: str = "auto",
        batch_size: int = 8,
    ) -> None:
        BACKENDS["text"]["paddleocr"].check_arguments(locals())
        self._score_threshold = score_threshold
        self._strict_score_threshold = strict_score_threshold
        self._batches = Batches(batch_size, device="PaddlePaddle's device")
        # A predictor of PaddlePaddle serves one thread.
        self._one_at_a_time = threading.Lock()
        path = locate(PADDLE_TEXT, models_dir)
        self._digest = card_digest(PADDLE_TEXT, models_dir)
        # PaddleX asks four model hosts whether they answer as soon as it is imported, unless it is told not to.
        os.environ.setdefault("PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK", "True")
        try:
            with _log_as_it_was():
                self._model: Any = importlib.import_module("paddleocr").TextDetection(
                    model_name=path.parent.name,
                    model_dir=str(path.parent),
                    device=_own_device() if device == "auto" else device,
                    limit_side_len=max_side,
                    limit_type="max",
                    thresh=pixel_threshold,
                    unclip_ratio=unclip_ratio,
                )
        except (RuntimeError, AssertionError, OSError, KeyError, ValueError) as error:
            raise BackendUnavailable(
                f"{PADDLE_TEXT.name} in {path.parent} cannot be loaded: {str(error)[:300]}. Put the published "
                "inference model there, and install paddlepaddle (or paddlepaddle-gpu for device: gpu)."
            ) from error

    @property
    def info(self) -> BackendInfo:
        """What runs."""
        return BackendInfo(
            task="text",
            backend="paddleocr",
            model=PADDLE_TEXT.name,
            weights_sha256=self._digest,
            licence=PADDLE_TEXT.licence,
        )

    def detect(self, images: Sequence[BgrImage], *, strict: bool = False) -> list[Detections]:
        """Lines of text in each image as upright boxes in its pixels; images of equal size share a call."""
        for image in images:
            check_image(image)
        threshold = self._strict_score_threshold if strict else self._score_threshold
        found = [Detections.empty()] * len(images)
        sizes = [(image.shape[1], image.shape[0]) for image in images]
        for positions in positions_by_size(sizes):
            group = [images[position] for position in positions]
            answers = self._batches.run(group, partial(self._predict, threshold=threshold))
            for position, answer in zip(positions, answers, strict=True):
                found[position] = boxes_of_polygons(
                    answer["dt_polys"],
                    answer["dt_scores"],
                    width=sizes[position][0],
                    height=sizes[position][1],
                )
        return found

    def _predict(self, group: Sequence[BgrImage], *, threshold: float) -> list[Any]:
        """PaddleOCR's answer to each image."""
        try:
            with self._one_at_a_time:
                return list(self._model.predict(list(group), batch_size=len(group), box_thresh=threshold))
        except Exception as error:
            # Its class differs by release.
            if "out of memory" not in str(error).lower():
                raise
            raise RuntimeError(f"out of memory: {str(error).strip()[:300]}") from error


def _own_device() -> str:
    """The GPU of this process, if PaddlePaddle can use it, and the CPU otherwise."""
    paddle = importlib.import_module("paddle")
    if paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count():
        # Both number GPUs as CUDA does.
        return f"gpu:{torch_device('auto').index or 0}"
    _warn_of_cpu(paddle.__version__, is_for_gpus=paddle.is_compiled_with_cuda())
    return "cpu"


@cache
def _warn_of_cpu(release: str, *, is_for_gpus: bool) -> None:
    """Say once that text detection will be slow, and why."""
    why = (
        "finds no GPU (nvidia-smi says more)"
        if is_for_gpus
        else "is built without CUDA: install paddlepaddle-gpu in its place where there is a GPU"
    )
    _log.warning("text, device: auto takes the CPU, because PaddlePaddle %s %s.", release, why)


@contextmanager
def _log_as_it_was() -> Iterator[None]:
    """Undo what loading does to the log of the whole process: PaddlePaddle prints everybody's messages."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def boxes_of_polygons(
    polygons: Iterable[npt.ArrayLike], scores: Iterable[float], *, width: int, height: int
) -> Detections:
    """Upright boxes around polygons, clipped to the picture; those without area are dropped.

    Args:
        polygons: Each ``[corners, 2]``, x and y in pixels of the picture.
        scores: One per polygon.
        width: Of the picture in pixels.
        height: Of the picture in pixels.
    """
    boxes: list[npt.NDArray[np.float32]] = []
    kept: list[float] = []
    limits = np.array([width, height], np.float32)
    for polygon, score in zip(polygons, scores, strict=True):
        corners = np.clip(np.asarray(polygon, np.float32).reshape(-1, 2), 0, limits)
        left_top, right_bottom = corners.min(axis=0), corners.max(axis=0)
        if np.all(right_bottom > left_top):
            boxes.append(np.concatenate([left_top, right_bottom]))
            kept.append(float(score))
    return Detections(np.array(boxes, np.float32).reshape(-1, 4), np.array(kept, np.float32))
