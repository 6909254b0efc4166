"""Hands and their landmarks with MediaPipe Hands, whose weights ship in its wheel.

The graph finds palms in a small copy of the picture, cuts each hand out and places 21 landmarks on it (Zhang et al.,
MediaPipe Hands: On-device Real-time Hand Tracking, 2020). Within one call it follows the hands it has, which finds more
of them than looking at each picture alone; every call starts a new graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ego_assets.labels.hands import hand_box, palm_centre, palm_length
from ego_assets.media.resize import shrink
from ego_assets.schema.detections import BackendInfo, iou_matrix
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.hands import LANDMARK_COUNT, HandDetections
from resources.models.backends import BACKENDS
from resources.models.images import check_image
from resources.models.mediapipe_runtime import without_start_messages
from resources.models.registry import (
    HAND_LANDMARKS_FULL,
    HAND_LANDMARKS_LITE,
    PALM_DETECTION_FULL,
    PALM_DETECTION_LITE,
)
from resources.models.weights import joint_digest, locate

_GRAPH = "mediapipe/modules/hand_landmark/hand_landmark_tracking_cpu.binarypb"
_OUTPUTS = ("multi_hand_landmarks", "multi_handedness", "palm_detections")

# Two findings whose palms lie closer together than this, in lengths of the palm, and whose boxes overlap by more than
# this, are one hand: the networks also place a left hand's landmarks on a right hand.
_SAME_PALM, _SAME_BOX_IOU = 0.5, 0.4
# Sides of the pictures of the second look, as share of height and width: two squares in the lower corners.
_CLOSE_HEIGHT, _CLOSE_WIDTH = 0.85, 0.6
# The network was trained on people seen from the front; on hands of a wearer it names the right side in half to three
# quarters of the cases, however sure it says it is.
_SIDE_RELIABILITY = 0.65
# The wearer has two hands: a picture that shows both needs no second look.
_ENOUGH_HANDS = 2


class MediaPipeHandDetector:
    """MediaPipe Hands on the whole picture, and once more on its lower corners where hands are missing.

    The palm network sees 192 pixels, in which a hand at the end of an outstretched arm is small. The lower corners are
    where the wearer's hands come from, so they are looked at enlarged when the first look finds fewer than two hands.

    MediaPipe names sides as in a mirrored selfie; in the picture of a head-mounted camera its "left" is a right hand.
    It judges contact by nothing, so contact is NaN.

    Args:
        max_hands: Most hands in one picture: the wearer's two and those of others.
        max_side: Longer side in pixels of the picture that hands are cut from; larger pictures are shrunk to it.
        model_complexity: 0 for the light networks, 1 for the full ones. They cost a quarter more, and over many clips
            find about as many hands: more blurred ones, fewer unusual ones.
        detection_confidence: Score from which a palm is one, 0-1.
        tracking_confidence: Score from which landmarks are on a hand, 0-1.
        second_look: Whether the lower corners are looked at enlarged.

    Raises:
        BackendUnavailable: The weights are not installed or damaged.
    """

    def __init__(
        self,
        *,
        max_hands: int = 4,
        max_side: int = 960,
        model_complexity: int = 0,
        detection_confidence: float = 0.4,
        tracking_confidence: float = 0.5,
        second_look: bool = True,
    ) -> None:
        BACKENDS["hands"]["mediapipe_hands"].check_arguments(locals())
        self._max_hands = max_hands
        self._max_side = max_side
        self._model_complexity = model_complexity
        self._detection_confidence = detection_confidence
        self._tracking_confidence = tracking_confidence
        self._second_look = second_look
        self._landmark_card = HAND_LANDMARKS_FULL if model_complexity else HAND_LANDMARKS_LITE
        self._palm_card = PALM_DETECTION_FULL if model_complexity else PALM_DETECTION_LITE
        for card in (self._landmark_card, self._palm_card):
            locate(card)

    @property
    def info(self) -> BackendInfo:
        """What runs; the digest is that of both networks' digests."""
        return BackendInfo(
            task="hands",
            backend="mediapipe_hands",
            model=f"{self._landmark_card.name}, {self._palm_card.name}",
            weights_sha256=joint_digest([card.sha256 for card in (self._landmark_card, self._palm_card)]),
            licence=self._landmark_card.licence,
        )

    def detect(self, frames: Iterable[ClipFrame]) -> Iterator[HandDetections]:
        """Hands in each frame, surest first. Frames of one call follow one another in time."""
        with ExitStack() as graphs:
            whole: _Graph | None = None
            close: _Graph | None = None
            for frame in frames:
                check_image(frame.image)
                scale = min(1.0, self._max_side / max(frame.size))
                rgb = np.asarray(
                    cv2.cvtColor(shrink(frame.image, self._max_side), cv2.COLOR_BGR2RGB), np.uint8
                )
                if whole is None:
                    whole = graphs.enter_context(self._graph(follows=True, hands=self._max_hands))
                found = whole.hands(rgb)
                if self._second_look and len(found) < min(_ENOUGH_HANDS, self._max_hands):
                    if close is None:
                        close = graphs.enter_context(self._graph(follows=False, hands=_ENOUGH_HANDS))
                    found = found + _closer(close, rgb)
                yield _detections(
                    found, scale=scale, width=frame.size[0], height=frame.size[1], most=self._max_hands
                )

    def _graph(self, *, follows: bool, hands: int) -> _Graph:
        return _Graph(
            hands=hands,
            follows=follows,
            model_complexity=self._model_complexity,
            detection_confidence=self._detection_confidence,
            tracking_confidence=self._tracking_confidence,
        )


#: Landmarks ``float64 [21, 2]`` in pixels, score and probability that it is a right hand.
_Hand = tuple[npt.NDArray[np.float64], float, float]


class _Graph:
    """One MediaPipe graph; a context manager that ends it."""

    def __init__(
        self,
        *,
        hands: int,
        follows: bool,
        model_complexity: int,
        detection_confidence: float,
        tracking_confidence: float,
    ) -> None:
        self._hands = hands
        self._follows = follows
        self._model_complexity = model_complexity
        self._detection_confidence = detection_confidence
        self._tracking_confidence = tracking_confidence
        self._solution: Any = None
        self._has_spoken = False

    def __enter__(self) -> _Graph:
        return self

    def __exit__(self, *_: object) -> None:
        if self._solution is not None:
            self._solution.close()

    def _process(self, rgb: npt.NDArray[np.uint8]) -> Any:
        if self._has_spoken:
            return self._solution.process({"image": rgb})
        # The graph, its first picture and its first hand each have something to say.
        with without_start_messages():
            if self._solution is None:
                self._solution = self._start()
            answer = self._solution.process({"image": rgb})
        self._has_spoken = bool(answer.multi_hand_landmarks)
        return answer

    def _start(self) -> Any:
        from mediapipe.python.solution_base import SolutionBase

        return SolutionBase(
            binary_graph_path=_GRAPH,
            side_inputs={
                "model_complexity": self._model_complexity,
                "num_hands": self._hands,
                "use_prev_landmarks": self._follows,
            },
            calculator_params={
                "palmdetectioncpu__TensorsToDetectionsCalculator.min_score_thresh": self._detection_confidence,
                "handlandmarkcpu__ThresholdingCalculator.threshold": self._tracking_confidence,
            },
            outputs=list(_OUTPUTS),
        )

    def hands(self, rgb: npt.NDArray[np.uint8]) -> list[_Hand]:
        """Hands in an RGB picture, in its pixels."""
        answer = self._process(rgb)
        height, width = rgb.shape[:2]
        size = np.array([width, height], dtype=np.float64)
        palms = [
            (_palm_centre(palm, size), float(palm.score[0]))
            for palm in answer.palm_detections or ()
            if palm.score
        ]
        hands = []
        for points, sides in zip(
            answer.multi_hand_landmarks or (), answer.multi_handedness or (), strict=True
        ):
            landmarks = np.array([[point.x, point.y] for point in points.landmark]) * size
            if landmarks.shape != (LANDMARK_COUNT, 2) or not np.isfinite(landmarks).all():
                continue
            inside = ((landmarks >= 0) & (landmarks < size)).all(axis=1)
            if 2 * np.count_nonzero(inside) < LANDMARK_COUNT:
                continue
            side = sides.classification[0]
            right = float(side.score) if side.label == "Left" else 1 - float(side.score)
            right = min(max(right, 1 - _SIDE_RELIABILITY), _SIDE_RELIABILITY)
            hands.append((landmarks, self._score(landmarks, palms), right))
        return hands

    def _score(
        self, landmarks: npt.NDArray[np.float64], palms: list[tuple[npt.NDArray[np.float64], float]]
    ) -> float:
        """Score of the palm it was found by; a hand that was only followed has passed the lower bar of tracking."""
        centre = palm_centre(landmarks)
        reach = palm_length(landmarks)
        near = [score for place, score in palms if np.linalg.norm(place - centre) <= reach]
        return min(max([self._tracking_confidence, *near]), 1.0)


def _closer(graph: _Graph, rgb: npt.NDArray[np.uint8]) -> list[_Hand]:
    """Hands in the two lower corners, in pixels of the whole picture."""
    height, width = rgb.shape[:2]
    side = max(1, round(min(_CLOSE_HEIGHT * height, _CLOSE_WIDTH * width)))
    top = height - side
    found: list[_Hand] = []
    for left in dict.fromkeys((0, width - side)):
        crop = np.ascontiguousarray(rgb[top:, left : left + side])
        corner = np.array([left, top])
        found.extend((points + corner, score, right) for points, score, right in graph.hands(crop))
    return found


def _detections(found: list[_Hand], *, scale: float, width: int, height: int, most: int) -> HandDetections:
    """What was found, without repetitions, in pixels of the frame."""
    kept: list[_Hand] = []
    for hand in sorted(found, key=lambda each: -each[1]):
        if len(kept) < most and not any(_same_hand(hand[0], other[0]) for other in kept):
            kept.append(hand)
    if not kept:
        return HandDetections.empty()
    # Pixel centres lie on whole numbers in the frame and in its smaller copy.
    landmarks = np.stack([points for points, _, _ in kept]) / scale
    boxes = np.stack([hand_box(points, width=width, height=height) for points in landmarks])
    count = len(kept)
    return HandDetections(
        boxes_xyxy=boxes.astype(np.float32),
        scores=np.array([score for _, score, _ in kept], dtype=np.float32),
        right_scores=np.array([right for _, _, right in kept], dtype=np.float32),
        landmarks_xy=landmarks.astype(np.float32),
        contact_scores=np.full(count, np.nan, dtype=np.float32),
        contact_boxes_xyxy=np.full((count, 4), np.nan, dtype=np.float32),
    )


def _same_hand(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> bool:
    apart = float(np.linalg.norm(palm_centre(a) - palm_centre(b)))
    if apart > _SAME_PALM * max(palm_length(a), palm_length(b)):
        return False
    boxes = np.array([[*points.min(axis=0), *points.max(axis=0)] for points in (a, b)], dtype=np.float32)
    return float(iou_matrix(boxes[:1], boxes[1:])[0, 0]) > _SAME_BOX_IOU


def _palm_centre(palm: Any, size: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    box = palm.location_data.relative_bounding_box
    return np.array([box.xmin + box.width / 2, box.ymin + box.height / 2]) * size
