"""Number plates by networks whose weights the user supplies: YOLO exports and WPOD-NET."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ego_assets.schema.detections import BackendInfo, BgrImage, Detections
from ego_assets.schema.errors import BackendUnavailable
from resources.models.backends import BACKENDS
from resources.models.boxes import (
    FloatArray,
    letterbox,
    positions_by_size,
    suppressed,
    xywh_to_xyxy,
)
from resources.models.images import STRIDE, check_image
from resources.models.onnx_session import cpu_session
from resources.models.registry import HYPERLPR_PLATES, OWN_LICENCE, WPOD_NET, YOLO_PLATES, ModelCard
from resources.models.torch_runtime import Batches, shared_detector
from resources.models.torch_weights import load_weights
from resources.models.weights import locate, weights_digest

#: Grey of the margin in YOLO's training.
_YOLO_FILL = 114

#: Strides of the maps of YOLO networks; each has two or more neighbouring ones, mostly 8, 16 and 32.
_YOLO_STRIDES = (4, 8, 16, 32, 64)

_WPOD_STRIDE = 16

#: Half the mean side of a plate in WPOD-NET's training, in cells: ((208 + 40) / 2) / 16.
_WPOD_SIDE_CELLS = 7.75


def decode_yolo(
    output: FloatArray, *, class_count: int, corner_count: int = 0
) -> tuple[FloatArray, FloatArray]:
    """Boxes and scores of a YOLO export, both layouts.

    Args:
        output: Of one picture. ``[4 + classes, N]`` as YOLOv8 and later export it: box and the score of each class.
            ``[N, 5 + 2 * corners + classes]`` as YOLOv5 and later up to 7 export it: box, whether there is anything,
            corners where the network gives them, and the probability of each class if so. Boxes are centre, width
            and height in input pixels.
        class_count: Classes of the network.
        corner_count: Corners that lie between box and classes.

    Returns:
        ``float32 [N, 4]`` xyxy in input pixels and ``float32 [N]``, the score of the likeliest class.

    Raises:
        ValueError: The output has neither layout.
    """
    anchored = 5 + 2 * corner_count + class_count
    plain = 4 + class_count
    if output.ndim == 2 and output.shape[1] == anchored and output.shape[0] != plain:
        class_scores = output[:, anchored - class_count :].max(axis=1)
        return xywh_to_xyxy(output[:, :4]), (output[:, 4] * class_scores).astype(np.float32)
    if output.ndim == 2 and output.shape[0] == plain and corner_count == 0:
        return xywh_to_xyxy(output[:4].T), output[4:].max(axis=0).astype(np.float32)
    raise ValueError(
        f"expected a YOLO output of [{plain}, N] or [N, {anchored}] for {class_count} class(es), got "
        f"{list(output.shape)}; check class_count in the profile, and export without non-maximum suppression"
    )


def decode_affine(
    probability: FloatArray, affine: FloatArray, *, threshold: float
) -> tuple[FloatArray, FloatArray]:
    """Corners and scores of the plates that WPOD-NET sees.

    Each cell gives an affine transform of a square around its centre to the plate. Negative scales, which would
    mirror the plate, count as zero.

    Args:
        probability: ``float32 [rows, columns]``. NaN is kept, so that it is noticed.
        affine: ``float32 [6, rows, columns]``: the two rows of each 2 x 3 matrix.
        threshold: Least probability.

    Returns:
        ``float32 [N, 4, 2]``, corners x and y in input pixels from the upper left one clockwise, and
        ``float32 [N]``.
    """
    rows, columns = np.nonzero(~(probability < threshold))
    matrices = affine[:, rows, columns].T.reshape(-1, 2, 3).copy()
    matrices[:, 0, 0] = np.maximum(matrices[:, 0, 0], 0)
    matrices[:, 1, 1] = np.maximum(matrices[:, 1, 1], 0)
    square = np.array([[-0.5, -0.5, 1], [0.5, -0.5, 1], [0.5, 0.5, 1], [-0.5, 0.5, 1]], np.float32)
    corners = np.einsum("nij,kj->nki", matrices, square) * _WPOD_SIDE_CELLS
    centers = np.stack([columns + 0.5, rows + 0.5], axis=1)[:, None]
    return ((corners + centers) * _WPOD_STRIDE).astype(np.float32), probability[rows, columns]


def is_grid_output(count: int, *, width: int, height: int) -> bool:
    """Whether a YOLO network of this input can have ``count`` answers: one to three per cell of all its maps.

    An export with non-maximum suppression in it has some round number instead, and its columns mean something else:
    read as a plain output it would show no plate at all.

    Args:
        count: Answers in the output.
        width: Of the network's input in pixels.
        height: Of the network's input in pixels.
    """
    grids = [-(-width // stride) * -(-height // stride) for stride in _YOLO_STRIDES]
    return any(
        count == anchors * sum(grids[first:last])
        for anchors in (1, 2, 3)
        for first in range(len(grids))
        for last in range(first + 2, len(grids) + 1)
    )


class _OnnxPlates:
    """A YOLO network of one file: its input size, batches, letterbox and suppression."""

    _card: ModelCard
    _backend: str
    _fill: int
    _corner_count: int

    def __init__(
        self,
        *,
        models_dir: Path | None,
        input_side: int,
        score_threshold: float,
        strict_score_threshold: float,
        nms_iou: float,
        class_count: int,
        batch_size: int,
        threads: int,
        licence: str = OWN_LICENCE,
    ) -> None:
        self._score_threshold = score_threshold
        self._strict_score_threshold = strict_score_threshold
        self._nms_iou = nms_iou
        self._class_count = class_count
        self._licence = self._card.licence_stated(licence)
        path = locate(self._card, models_dir)
        self._digest = weights_digest(path)
        try:
            self._session = cpu_session(path, threads=threads)
        # ONNX Runtime's errors have no base class but Exception.
        except Exception as error:
            raise BackendUnavailable(
                f"{self._card.name}: {path} is no ONNX model that can run here: {str(error)[:300]}. Export it anew."
            ) from error
        declared = self._session.get_inputs()[0]
        if len(declared.shape) != 4 or (isinstance(declared.shape[1], int) and declared.shape[1] != 3):
            raise BackendUnavailable(
                f"{self._card.name}: {path} takes {declared.shape}, expected [batch, 3, height, width]."
            )
        self._input = declared.name
        batch, _, height, width = declared.shape
        # What the file fixes holds; a batch or size that it names or leaves open is free.
        self._batch_size = batch if isinstance(batch, int) else batch_size
        side = -(-input_side // STRIDE) * STRIDE
        self._height = height if isinstance(height, int) else side
        self._width = width if isinstance(width, int) else side

    @property
    def info(self) -> BackendInfo:
        """What runs."""
        return BackendInfo(
            task="plates",
            backend=self._backend,
            model=self._card.name,
            weights_sha256=self._digest,
            licence=self._licence,
        )

    def detect(self, images: Sequence[BgrImage], *, strict: bool = False) -> list[Detections]:
        """Plates in each image, strongest first, in its pixels."""
        for image in images:
            check_image(image)
        threshold = self._strict_score_threshold if strict else self._score_threshold
        found: list[Detections] = []
        for start in range(0, len(images), self._batch_size):
            group = images[start : start + self._batch_size]
            fitted = [letterbox(i, width=self._width, height=self._height, fill=self._fill) for i in group]
            for image, picture, output in zip(group, fitted, self._run(fitted), strict=True):
                boxes, scores = decode_yolo(
                    output, class_count=self._class_count, corner_count=self._corner_count
                )
                if not is_grid_output(len(scores), width=self._width, height=self._height):
                    raise ValueError(
                        f"expected answers for each cell of {self._width} x {self._height} pixels, got {len(scores)}: "
                        f"{self._card.name}, {self._card.file}; "
                        "export without non-maximum suppression (`nms=False`, not end-to-end)"
                    )
                kept = ~(scores < threshold)
                height, width = image.shape[:2]
                found.append(
                    suppressed(
                        picture.to_picture(boxes[kept]),
                        scores[kept],
                        iou=self._nms_iou,
                        width=width,
                        height=height,
                    )
                )
        return found

    def _run(self, fitted: Sequence[Any]) -> npt.NDArray[np.float32]:
        blob = np.stack([picture.canvas[..., ::-1] for picture in fitted]).astype(np.float32) / 255
        output = self._session.run(None, {self._input: np.ascontiguousarray(blob.transpose(0, 3, 1, 2))})[0]
        return np.asarray(output, np.float32)


class YoloPlateDetector(_OnnxPlates):
    """A YOLO number-plate detector that the user exported to ONNX, on ONNX Runtime.

    Both common outputs are read, see :func:`decode_yolo`. The network has to be exported without non-maximum
    suppression.

    Args:
        models_dir: Folder of the file.
        input_side: Side in pixels of the square that pictures are fitted into, where the file leaves it open.
        score_threshold: Detections below are dropped (0.25 in YOLO's own prediction).
        strict_score_threshold: The same where ``strict`` is asked for.
        nms_iou: Of two detections that overlap by more than this, the weaker is dropped.
        class_count: Classes of the network; each is taken for a plate.
        batch_size: Most pictures in one call, where the file leaves it open.
        threads: Threads per call; 0 takes one per core, at most 4.
        licence: Licence of the weights, for the records: nobody but you knows where they come from.
        licence_permits_commercial_use: Your statement that it does; a profile that demands ``commercial_use`` refuses
            the weights without it.

    Raises:
        BackendUnavailable: The file is missing or no model that can run here.
    """

    _card = YOLO_PLATES
    _backend = "yolo_plates"
    _fill = _YOLO_FILL
    _corner_count = 0

    def __init__(
        self,
        *,
        models_dir: Path | None = None,
        input_side: int = 1280,
        score_threshold: float = 0.2,
        strict_score_threshold: float = 0.1,
        nms_iou: float = 0.5,
        class_count: int = 1,
        batch_size: int = 8,
        threads: int = 0,
        licence: str = OWN_LICENCE,
        licence_permits_commercial_use: bool = False,
    ) -> None:
        BACKENDS["plates"][self._backend].check_arguments(locals())
        super().__init__(
            models_dir=models_dir,
            input_side=input_side,
            score_threshold=score_threshold,
            strict_score_threshold=strict_score_threshold,
            nms_iou=nms_iou,
            class_count=class_count,
            batch_size=batch_size,
            threads=threads,
            licence=licence,
        )


class HyperLprPlateDetector(_OnnxPlates):
    """The plate detector of HyperLPR3: YOLOv5-like, with four corners and two classes, trained on Chinese plates.

    Args:
        models_dir: Folder of the weights.
        score_threshold: Detections below are dropped (0.25 in HyperLPR3).
        strict_score_threshold: The same where ``strict`` is asked for.
        nms_iou: Of two detections that overlap by more than this, the weaker is dropped (0.5 in HyperLPR3).
        threads: Threads per call; 0 takes one per core, at most 4.

    Raises:
        BackendUnavailable: The weights are missing or others.
    """

    _card = HYPERLPR_PLATES
    _backend = "hyperlpr"
    _fill = 0
    _corner_count = 4

    def __init__(
        self,
        *,
        models_dir: Path | None = None,
        score_threshold: float = 0.2,
        strict_score_threshold: float = 0.1,
        nms_iou: float = 0.5,
        threads: int = 0,
    ) -> None:
        BACKENDS["plates"][self._backend].check_arguments(locals())
        super().__init__(
            models_dir=models_dir,
            input_side=640,
            score_threshold=score_threshold,
            strict_score_threshold=strict_score_threshold,
            nms_iou=nms_iou,
            class_count=2,
            batch_size=1,
            threads=threads,
        )


class WpodNetPlateDetector:
    """WPOD-NET (Silva and Jung, ECCV 2018), which finds slanted plates and their outline.

    It was trained on crops of single vehicles, so plates that are small in the whole picture need a large
    ``shorter_side``.

    Args:
        models_dir: Folder of the weights.
        shorter_side: Pixels to which the shorter side is scaled, up or down (at most 608 in the paper's code).
        score_threshold: Detections below are dropped (0.5 in the paper's code).
        strict_score_threshold: The same where ``strict`` is asked for.
        nms_iou: Of two detections that overlap by more than this, the weaker is dropped (0.1 in the paper's code).
        channel_order: ``rgb`` or ``bgr``: what the converted weights expect. The original network was trained on BGR;
            the conversion that is in circulation is used with RGB.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        batch_size: Most pictures in one call.

    Raises:
        BackendUnavailable: The weights are missing or another network's, or the device is not there.
    """

    def __init__(
        self,
        *,
        models_dir: Path | None = None,
        shorter_side: int = 608,
        score_threshold: float = 0.4,
        strict_score_threshold: float = 0.2,
        nms_iou: float = 0.1,
        channel_order: str = "rgb",
        device: str = "auto",
        batch_size: int = 4,
    ) -> None:
        BACKENDS["plates"]["wpod_net"].check_arguments(locals())
        self._shorter_side = shorter_side
        self._score_threshold = score_threshold
        self._strict_score_threshold = strict_score_threshold
        self._nms_iou = nms_iou
        self._reverse = channel_order == "rgb"
        path = locate(WPOD_NET, models_dir)
        self._digest = weights_digest(path)
        self._held = shared_detector(WPOD_NET, path, self._digest, lambda: _wpod_net(path), device=device)
        self._batches = Batches(batch_size, device=self._held.device)

    @property
    def info(self) -> BackendInfo:
        """What runs."""
        return BackendInfo(
            task="plates",
            backend="wpod_net",
            model=WPOD_NET.name,
            weights_sha256=self._digest,
            licence=WPOD_NET.licence,
        )

    def detect(self, images: Sequence[BgrImage], *, strict: bool = False) -> list[Detections]:
        """Plates in each image as upright boxes, strongest first, in its pixels; equal sizes share a call."""
        for image in images:
            check_image(image)
        threshold = self._strict_score_threshold if strict else self._score_threshold
        sizes = [wpod_size(i.shape[1], i.shape[0], shorter_side=self._shorter_side) for i in images]
        found = [Detections.empty()] * len(images)
        for positions in positions_by_size(sizes):
            pictures = (self._prepared(images[position], sizes[position]) for position in positions)
            answers = self._batches.stream(pictures, self._run)
            for position, (chances, transforms) in zip(positions, answers, strict=True):
                corners, scores = decode_affine(chances, transforms, threshold=threshold)
                height, width = images[position].shape[:2]
                corners *= np.array([width / sizes[position][0], height / sizes[position][1]], np.float32)
                boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
                found[position] = suppressed(boxes, scores, iou=self._nms_iou, width=width, height=height)
        return found

    def _run(self, pictures: Sequence[FloatArray]) -> list[tuple[FloatArray, FloatArray]]:
        """Chances and transforms of the cells of each picture; all are of one size."""
        import torch  # type: ignore[import-not-found,unused-ignore]

        with self._held.in_use() as network:
            probability, affine = network(torch.from_numpy(np.stack(pictures)).to(self._held.device))
            return list(zip(probability.cpu().numpy(), affine.cpu().numpy(), strict=True))

    def _prepared(self, image: BgrImage, size: tuple[int, int]) -> FloatArray:
        if size != (image.shape[1], image.shape[0]):
            interpolation = cv2.INTER_AREA if size[0] < image.shape[1] else cv2.INTER_LINEAR
            image = np.asarray(cv2.resize(image, size, interpolation=interpolation), np.uint8)
        ordered = image[..., ::-1] if self._reverse else image
        return np.ascontiguousarray(ordered.transpose(2, 0, 1)).astype(np.float32) / 255


def _wpod_net(path: Path) -> Any:
    from resources.models.wpod_network import WpodNet

    network = WpodNet()
    load_weights(network, path)
    return network


def wpod_size(width: int, height: int, *, shorter_side: int) -> tuple[int, int]:
    """Width and height at which WPOD-NET looks: the shorter side at ``shorter_side``, both multiples of 16."""
    scale = shorter_side / min(width, height)
    return (
        max(1, round(width * scale / _WPOD_STRIDE)) * _WPOD_STRIDE,
        max(1, round(height * scale / _WPOD_STRIDE)) * _WPOD_STRIDE,
    )
