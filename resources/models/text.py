"""Detection of readable text; nothing is ever read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from ego_assets.schema.detections import BackendInfo, BgrImage, Detections, iou_matrix
from resources.models.images import STRIDE, check_image, fit
from resources.models.onnx_session import cpu_session
from resources.models.registry import PP_OCR_DETECTOR, locate

#: Smallest side in network pixels of a text core and of a finished line, as in PaddleOCR's DB post-processing.
_MIN_CORE_PX = 3
_MIN_LINE_PX = 5

#: Size of the second look relative to the first, and the overlap that confirms a line.
_SECOND_LOOK_SCALE = 0.4
_SECOND_LOOK_IOU = 0.3

#: Means and deviations per channel that PaddleOCR normalises with, in its order, on values of 0-255.
_MEAN = np.array([0.485, 0.456, 0.406], np.float32) * 255
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32) * 255


class TextLines(NamedTuple):
    """Lines of text.

    Attributes:
        boxes_xyxy: ``float32 [N, 4]``, upright boxes in pixels.
        scores: ``float32 [N]``, mean probability of the core.
        heights: ``float32 [N]``, shorter side of the line, which may be slanted, in pixels.
    """

    boxes_xyxy: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    heights: npt.NDArray[np.float32]


class PPOCRTextDetector:
    """The text detector of PP-OCRv6 (small) on ONNX Runtime.

    The network is a differentiable binarizer (Liao et al., 2020): it gives each pixel the probability of lying
    in the shrunken core of a text line. Cores are grown back to lines and returned as upright boxes.

    Args:
        max_side: Longer side in pixels at which the network looks; larger pictures are shrunk to it.
        score_threshold: Lines whose core has a mean probability below are dropped. RapidOCR takes 0.5; missing
            a line costs more here than a needless blur.
        pixel_threshold: Probability from which a pixel belongs to a core (PaddleOCR: 0.3).
        unclip_ratio: How far a core is grown: area times this, divided by perimeter, on each side
            (RapidOCR: 1.6).
        large_line_share: A line is large when its height exceeds this share of the picture's shorter side.
            Where there is no text, the network answers some scenes with one broad blob; so large lines get a
            second look at 40 % of the size, where letters are still letters and the blob is gone. On
            first-person clips that keeps 1 of 162 blobs, and 58 of 58 large lines drawn into them.
        large_line_score: Score that the second look must give.
        threads: Threads per call; 0 takes one per core, at most 4.

    Raises:
        BackendUnavailable: The weights are not installed or damaged.
    """

    def __init__(
        self,
        *,
        max_side: int = 960,
        score_threshold: float = 0.4,
        pixel_threshold: float = 0.3,
        unclip_ratio: float = 1.6,
        large_line_share: float = 0.1,
        large_line_score: float = 0.6,
        threads: int = 0,
    ) -> None:
        if max_side < 32:
            raise ValueError(f"max_side: expected 32 or more, got {max_side}")
        if not 0 < score_threshold < 1 or not 0 < pixel_threshold < 1 or unclip_ratio <= 0:
            raise ValueError(
                "expected score_threshold and pixel_threshold between 0 and 1 and unclip_ratio above 0, got "
                f"{score_threshold}, {pixel_threshold}, {unclip_ratio}"
            )
        self._max_side = max_side
        self._score_threshold = score_threshold
        self._pixel_threshold = pixel_threshold
        self._unclip_ratio = unclip_ratio
        self._large_line_share = large_line_share
        self._large_line_score = large_line_score
        self._session = cpu_session(locate(PP_OCR_DETECTOR), threads=threads)
        self._input = self._session.get_inputs()[0].name

    @property
    def info(self) -> BackendInfo:
        """What runs."""
        return BackendInfo(
            task="text",
            backend="pp_ocr",
            model=PP_OCR_DETECTOR.name,
            weights_sha256=PP_OCR_DETECTOR.sha256,
            licence=PP_OCR_DETECTOR.licence,
        )

    def detect(self, images: Sequence[BgrImage]) -> list[Detections]:
        """Text lines in each image, in its pixels."""
        return [self._detect_one(image) for image in images]

    def _detect_one(self, image: BgrImage) -> Detections:
        check_image(image)
        lines = self._lines(image, max_side=self._max_side)
        large = lines.heights > self._large_line_share * min(image.shape[:2])
        kept = ~large
        if large.any():
            second_side = max(STRIDE, round(_SECOND_LOOK_SCALE * min(self._max_side, max(image.shape[:2]))))
            second = self._lines(image, max_side=second_side)
            certain = second.boxes_xyxy[second.scores >= self._large_line_score]
            kept |= iou_matrix(lines.boxes_xyxy, certain).max(axis=1, initial=0) >= _SECOND_LOOK_IOU
        return Detections(lines.boxes_xyxy[kept], lines.scores[kept])

    def _lines(self, image: BgrImage, *, max_side: int) -> TextLines:
        """Lines found at one size of the network's input, in pixels of the image."""
        height, width = image.shape[:2]
        fitted = fit(image, max_side=max_side)
        normalised = (fitted.astype(np.float32) - _MEAN) / _DEVIATION
        blob = np.ascontiguousarray(normalised.transpose(2, 0, 1)[None])
        (probability,) = self._session.run(None, {self._input: blob})
        lines = lines_from_probability(
            probability[0, 0],
            pixel_threshold=self._pixel_threshold,
            score_threshold=self._score_threshold,
            unclip_ratio=self._unclip_ratio,
        )
        scale_x, scale_y = width / fitted.shape[1], height / fitted.shape[0]
        boxes = lines.boxes_xyxy * np.array([scale_x, scale_y] * 2, dtype=np.float32)
        limits = np.array([width, height] * 2, dtype=np.float32)
        heights = lines.heights * np.float32(min(scale_x, scale_y))
        return TextLines(np.clip(boxes, 0, limits), lines.scores, heights)


def lines_from_probability(
    probability: npt.NDArray[np.float32],
    *,
    pixel_threshold: float,
    score_threshold: float,
    unclip_ratio: float,
) -> TextLines:
    """Text lines of a probability map, in pixels of the map, not clipped to it.

    Args:
        probability: ``float32 [height, width]``.
        pixel_threshold: Probability from which a pixel belongs to a core.
        score_threshold: Least mean probability of a core.
        unclip_ratio: How far a core is grown, see :class:`PPOCRTextDetector`.
    """
    cores = cv2.dilate((probability > pixel_threshold).astype(np.uint8), np.ones((2, 2), np.uint8))
    contours, _ = cv2.findContours(cores, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    boxes: list[npt.NDArray[np.float32]] = []
    scores: list[float] = []
    heights: list[float] = []
    for contour in contours:
        center, (side_a, side_b), angle_deg = cv2.minAreaRect(contour)
        if min(side_a, side_b) < _MIN_CORE_PX:
            continue
        core = np.asarray(cv2.boxPoints((center, (side_a, side_b), angle_deg)), dtype=np.float32)
        score = _mean_inside(probability, core)
        growth = side_a * side_b * unclip_ratio / (2 * (side_a + side_b))
        sides = (side_a + 2 * growth, side_b + 2 * growth)
        if score < score_threshold or min(sides) < _MIN_LINE_PX:
            continue
        corners = np.asarray(cv2.boxPoints((center, sides, angle_deg)), dtype=np.float32)
        boxes.append(np.concatenate([corners.min(axis=0), corners.max(axis=0)]))
        scores.append(score)
        heights.append(min(sides))
    return TextLines(
        np.array(boxes, dtype=np.float32).reshape(-1, 4),
        np.array(scores, dtype=np.float32),
        np.array(heights, dtype=np.float32),
    )


def _mean_inside(probability: npt.NDArray[np.float32], corners: npt.NDArray[np.float32]) -> float:
    """Mean of the map inside a quadrilateral."""
    height, width = probability.shape
    limits = np.array([width - 1, height - 1])
    left, top = np.clip(np.floor(corners.min(axis=0)).astype(int), 0, limits)
    right, bottom = np.clip(np.ceil(corners.max(axis=0)).astype(int), 0, limits)
    mask = np.zeros((bottom - top + 1, right - left + 1), dtype=np.uint8)
    cv2.fillPoly(mask, [(corners - (left, top)).astype(np.int32)], (1,))
    return float(cv2.mean(probability[top : bottom + 1, left : right + 1], mask)[0])
