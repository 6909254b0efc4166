"""Detection of readable text; nothing is ever read."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime

from ego_assets.schema.detections import BackendInfo, BgrImage, Detections, iou_matrix
from resources.models.backends import BACKENDS
from resources.models.boxes import check_finite
from resources.models.images import IMAGENET_DEVIATION, IMAGENET_MEAN, STRIDE, check_image, fit
from resources.models.onnx_session import cpu_session
from resources.models.registry import PP_OCR_DETECTOR
from resources.models.weights import locate

#: Smallest side in network pixels of a text core and of a finished line, as in PaddleOCR's DB post-processing.
_MIN_CORE_PX = 3
_MIN_LINE_PX = 5

#: Size of the coarse look relative to the picture, up to this longer side, and the overlap that confirms a line.
_COARSE_SCALE = 0.4
_COARSE_MAX_SIDE = 384
_COARSE_IOU = 0.3
#: Score from which a large line counts that only the coarse look finds. No blob in 228 frames of 19 first-person
#: clips reaches it.
_COARSE_ALONE_SCORE = 0.7
#: Large lines below this score in the first look are blobs: RapidOCR's own threshold is 0.5.
_LARGE_LEAST_SCORE = 0.4
#: Lines that cover more than this share of the picture have to reach the score above in the coarse look, or the second
#: one in a look at half of its size as well: blobs of that size reach 0.65 and 0.53.
_HUGE_LINE_SHARE = 0.4
_HUGE_LINE_SCORE = 0.6
#: A line higher than this share of the picture's shorter side is a blob, whatever its score: nobody films a single
#: word so close.
_MOST_HEIGHT_SHARE = 0.8

#: What PaddleOCR normalises the channels with, on values of 0-255: ImageNet's for RGB, in this order, although its
#: pictures are BGR.
_MEAN = np.array(IMAGENET_MEAN, np.float32) * 255
_DEVIATION = np.array(IMAGENET_DEVIATION, np.float32) * 255


#: The latest pictures, how they were asked about, and the answers: text and plates of one picture cost one look.
_latest_looks: ContextVar[tuple[tuple[BgrImage, tuple[object, ...], Detections], ...]] = ContextVar(
    "latest_looks", default=()
)
#: A frame is looked at on two copies, a coarse and a fine one.
_REMEMBERED_LOOKS = 2


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

    A picture is looked at in the size it is given. Whoever wants a quick look gives a small copy.

    Args:
        max_side: Longer side in pixels at which the network looks at most; larger pictures are shrunk to it.
            Cost grows with its square: 0.06 CPU-s at 640, 0.14 at 960, 0.43 at 1600, 0.63 at 1920. Of words drawn
            into first-person frames that are 20 pixels high or higher at 1080p, 640 covers 93 %, 960 98 % and
            1600 99 %; of those of 14-20 pixels 58 %, 75 % and 88 %.
        score_threshold: Lines whose core has a mean probability below are dropped. RapidOCR takes 0.5; missing
            a line costs more here than a needless blur, and lines of 0.25-0.4 touch 0.02 % of the pixels of
            frames without text.
        strict_score_threshold: The same where a strict search is asked for.
        pixel_threshold: Probability from which a pixel belongs to a core (PaddleOCR: 0.3). Strict searches lower
            it to their score threshold.
        unclip_ratio: How far a core is grown: area times this, divided by perimeter, on each side. RapidOCR
            takes 1.6, which hugs slanted words: their corners stay clear.
        large_line_share: A line is large when its height exceeds this share of the picture's shorter side.
            Where there is no text, the network answers some scenes with one broad blob; so large lines get a
            second, coarse look, where letters are still letters and the blob is gone. In 228 frames of 19
            first-person clips no blob covers more than 3 % of the picture after that, against up to 73 % before;
            of 76 words drawn larger than that into such frames 46 are covered.
        large_line_score: Score that the coarse look must give. Large lines that only the coarse look finds
            count from 0.7: that finds 12 of 27 large words that the first look misses.
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
        pixel_threshold: float = 0.2,
        unclip_ratio: float = 2.0,
        large_line_share: float = 0.1,
        large_line_score: float = 0.5,
        threads: int = 0,
    ) -> None:
        BACKENDS["text"]["pp_ocr"].check_arguments(locals())
        self._max_side = max_side
        self._score_threshold = score_threshold
        self._strict_score_threshold = strict_score_threshold
        self._pixel_threshold = pixel_threshold
        self._unclip_ratio = unclip_ratio
        self._large_line_share = large_line_share
        self._large_line_score = large_line_score
        self._session = text_session(threads)
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

    def detect(self, images: Sequence[BgrImage], *, strict: bool = False) -> list[Detections]:
        """Text lines in each image, in its pixels.

        The answers to the pictures asked about last are remembered, for whoever looks for something else in its text:
        pictures must not be changed after a call.
        """
        return [self._remembered(image, strict=strict) for image in images]

    def _remembered(self, image: BgrImage, *, strict: bool) -> Detections:
        question = (strict, *(value for name, value in vars(self).items() if name != "_session"))
        latest = _latest_looks.get()
        for known_image, known_question, known_answer in latest:
            if known_image is image and known_question == question:
                return known_answer
        answer = self._detect_one(image, strict=strict)
        _latest_looks.set(((image, question, answer), *latest[: _REMEMBERED_LOOKS - 1]))
        return answer

    def _detect_one(self, image: BgrImage, *, strict: bool) -> Detections:
        check_image(image)
        side = min(self._max_side, max(image.shape[:2]))
        lines = self._lines(image, max_side=side, strict=strict)
        coarse_side = max(STRIDE, round(_COARSE_SCALE * min(side, _COARSE_MAX_SIDE / _COARSE_SCALE)))
        coarse = self._lines(image, max_side=coarse_side, strict=False)
        least_height = self._large_line_share * min(image.shape[:2])
        overlaps = iou_matrix(lines.boxes_xyxy, coarse.boxes_xyxy) >= _COARSE_IOU
        confirmation = (overlaps * coarse.scores).max(axis=1, initial=0)
        confirmed = (confirmation >= self._large_line_score) & (lines.scores >= _LARGE_LEAST_SCORE)
        kept = (lines.heights <= least_height) | confirmed
        kept &= lines.heights <= _MOST_HEIGHT_SHARE * min(image.shape[:2])
        sizes = lines.boxes_xyxy[:, 2:] - lines.boxes_xyxy[:, :2]
        huge = sizes.prod(axis=1) > _HUGE_LINE_SHARE * image.shape[0] * image.shape[1]
        doubtful = kept & huge & (confirmation < _COARSE_ALONE_SCORE)
        if doubtful.any():
            coarser = self._lines(image, max_side=max(STRIDE, coarse_side // 2), strict=False)
            certain = coarser.boxes_xyxy[coarser.scores >= _HUGE_LINE_SCORE]
            kept &= ~doubtful | (iou_matrix(lines.boxes_xyxy, certain) >= _COARSE_IOU).any(axis=1)
        # What a kept line covers already is not added again.
        added = (coarse.heights > least_height) & (coarse.scores >= _COARSE_ALONE_SCORE)
        added &= coarse.heights <= _MOST_HEIGHT_SHARE * min(image.shape[:2])
        added &= ~overlaps[kept].any(axis=0)
        return Detections(
            np.concatenate([lines.boxes_xyxy[kept], coarse.boxes_xyxy[added]]),
            np.concatenate([lines.scores[kept], coarse.scores[added]]),
        )

    def _lines(self, image: BgrImage, *, max_side: int, strict: bool) -> TextLines:
        """Lines found at one size of the network's input, in pixels of the image.

        Raises:
            ValueError: The network's answer is not finite.
        """
        height, width = image.shape[:2]
        fitted = fit(image, max_side=max_side)
        normalised = (fitted.astype(np.float32) - _MEAN) / _DEVIATION
        blob = np.ascontiguousarray(normalised.transpose(2, 0, 1)[None])
        (probability,) = self._session.run(None, {self._input: blob})
        check_finite(probability)
        score_threshold = self._strict_score_threshold if strict else self._score_threshold
        lines = lines_from_probability(
            probability[0, 0],
            pixel_threshold=min(self._pixel_threshold, score_threshold) if strict else self._pixel_threshold,
            score_threshold=score_threshold,
            unclip_ratio=self._unclip_ratio,
        )
        scale_x, scale_y = width / fitted.shape[1], height / fitted.shape[0]
        boxes = lines.boxes_xyxy * np.array([scale_x, scale_y] * 2, dtype=np.float32)
        limits = np.array([width, height] * 2, dtype=np.float32)
        heights = lines.heights * np.float32(min(scale_x, scale_y))
        return TextLines(np.clip(boxes, 0, limits), lines.scores, heights)


@cache
def text_session(threads: int) -> onnxruntime.InferenceSession:
    """The text network, loaded once per process and number of threads: text and plates share it."""
    return cpu_session(locate(PP_OCR_DETECTOR), threads=threads)


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
