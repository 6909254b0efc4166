"""Detection of readable text; nothing is ever read."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from ego_assets.schema.detections import BackendInfo, BgrImage, Detections
from resources.models.images import check_image, fit
from resources.models.onnx_session import cpu_session
from resources.models.registry import PP_OCR_DETECTOR, locate

#: Smallest side in network pixels of a text core and of a finished box, as in PaddleOCR's DB post-processing.
_MIN_CORE_PX = 3
_MIN_BOX_PX = 5

#: Means and deviations per channel that PaddleOCR normalises with, in its order, on values of 0-255.
_MEAN = np.array([0.485, 0.456, 0.406], np.float32) * 255
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32) * 255


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
        large_line_score: Large lines need this score. Without text to look at, the network answers some
            scenes with one broad uncertain blob (at most 0.72 on first-person clips), while it is sure of
            large letters (0.75 and more, also out of focus).
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
        large_line_share: float = 0.25,
        large_line_score: float = 0.75,
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
        height, width = image.shape[:2]
        fitted = fit(image, max_side=self._max_side)
        normalised = (fitted.astype(np.float32) - _MEAN) / _DEVIATION
        blob = np.ascontiguousarray(normalised.transpose(2, 0, 1)[None])
        (probability,) = self._session.run(None, {self._input: blob})
        boxes, scores = boxes_from_probability(
            probability[0, 0],
            pixel_threshold=self._pixel_threshold,
            score_threshold=self._score_threshold,
            unclip_ratio=self._unclip_ratio,
            large_line_share=self._large_line_share,
            large_line_score=self._large_line_score,
        )
        scale = np.array([width / fitted.shape[1], height / fitted.shape[0]] * 2, dtype=np.float32)
        limits = np.array([width, height] * 2, dtype=np.float32)
        return Detections(np.clip(boxes * scale, 0, limits), scores)


def boxes_from_probability(
    probability: npt.NDArray[np.float32],
    *,
    pixel_threshold: float,
    score_threshold: float,
    unclip_ratio: float,
    large_line_share: float,
    large_line_score: float,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Upright boxes around the text cores of a probability map.

    Args:
        probability: ``float32 [height, width]``.
        pixel_threshold: Probability from which a pixel belongs to a core.
        score_threshold: Least mean probability of a core.
        unclip_ratio: How far a core is grown, see :class:`PPOCRTextDetector`.
        large_line_share: Share of the map's shorter side from which a line is large.
        large_line_score: Least mean probability of a large line.

    Returns:
        ``float32 [N, 4]`` xyxy in pixels of the map, not clipped, and ``float32 [N]``.
    """
    cores = cv2.dilate((probability > pixel_threshold).astype(np.uint8), np.ones((2, 2), np.uint8))
    contours, _ = cv2.findContours(cores, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    boxes: list[tuple[float, float, float, float]] = []
    scores: list[float] = []
    for contour in contours:
        center, (side_a, side_b), angle_deg = cv2.minAreaRect(contour)
        if min(side_a, side_b) < _MIN_CORE_PX:
            continue
        score = _mean_inside(probability, cv2.boxPoints((center, (side_a, side_b), angle_deg)))
        growth = side_a * side_b * unclip_ratio / (2 * (side_a + side_b))
        sides = (side_a + 2 * growth, side_b + 2 * growth)
        is_large = min(sides) > large_line_share * min(probability.shape)
        needed = max(score_threshold, large_line_score) if is_large else score_threshold
        if score < needed or min(sides) < _MIN_BOX_PX:
            continue
        corners = cv2.boxPoints((center, sides, angle_deg))
        left, top = corners.min(axis=0)
        right, bottom = corners.max(axis=0)
        boxes.append((left, top, right, bottom))
        scores.append(score)
    return np.array(boxes, dtype=np.float32).reshape(-1, 4), np.array(scores, dtype=np.float32)


def _mean_inside(probability: npt.NDArray[np.float32], corners: npt.NDArray[np.float32]) -> float:
    """Mean of the map inside a quadrilateral."""
    height, width = probability.shape
    limits = np.array([width - 1, height - 1])
    left, top = np.clip(np.floor(corners.min(axis=0)).astype(int), 0, limits)
    right, bottom = np.clip(np.ceil(corners.max(axis=0)).astype(int), 0, limits)
    mask = np.zeros((bottom - top + 1, right - left + 1), dtype=np.uint8)
    cv2.fillPoly(mask, [(corners - (left, top)).astype(np.int32)], 1)
    return float(cv2.mean(probability[top : bottom + 1, left : right + 1], mask)[0])
