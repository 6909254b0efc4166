"""Instance masks without weights for instances: hands, people and regions followed through a clip.

People come from MediaPipe's selfie segmentation. It was made for video calls and also marks arms, bowls and trees, so
each area it marks is shown to MediaPipe's pose network, and counts where that sees a body in it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ego_assets.labels.mask_tracking import TrackingOptions, track_masks
from ego_assets.labels.masks import FoundPerson
from ego_assets.labels.regions import Mask, RegionOptions
from ego_assets.schema.detections import BackendInfo, BgrImage
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.hands import HandObjectTracks
from ego_assets.schema.masks import MASK_CATEGORIES, MaskFrame
from resources.models.backends import BACKENDS
from resources.models.images import check_image
from resources.models.mediapipe_runtime import without_start_messages
from resources.models.registry import POSE_DETECTION, POSE_LANDMARKS_FULL, SELFIE_SEGMENTATION
from resources.models.weights import joint_digest, locate

#: Each of them decides about people.
_PERSON_WEIGHTS = (SELFIE_SEGMENTATION, POSE_DETECTION, POSE_LANDMARKS_FULL)
#: Width and height of the segmentation network's input and answer.
_SEGMENTATION_SIZE = (256, 144)
_POSE_GRAPH = "mediapipe/modules/pose_landmark/pose_landmark_cpu.binarypb"
#: Smaller areas are not asked about, nor more than these in one picture, the largest first.
_MIN_SHARE, _MAX_LOOKS = 0.01, 4
#: The pose network sees an area with this much of its surroundings on each side.
_SURROUNDINGS = 0.25
#: Nose, shoulders and hips among the 33 landmarks; so many of them have to lie in the area.
_BODY, _BODY_INSIDE = (0, 11, 12, 23, 24), 3
_SHOULDERS = (11, 12)


class SelfiePersonFinder:
    """People: selfie segmentation (MediaPipe), confirmed by the body landmarks of BlazePose (Bazarevsky et al., 2020).

    Args:
        score_threshold: Probability from which a pixel is taken for a person.
        pose_confidence: How sure the pose network has to be that there is a body, and of its shoulders.

    Raises:
        BackendUnavailable: The weights are not installed or damaged.
    """

    def __init__(self, *, score_threshold: float = 0.8, pose_confidence: float = 0.9) -> None:
        self._score_threshold = score_threshold
        self._pose_confidence = pose_confidence
        self._network = cv2.dnn.readNetFromTFLite(str(locate(SELFIE_SEGMENTATION)))
        for card in _PERSON_WEIGHTS:
            locate(card)
        self._pose: Any = None
        # Neither network may be used by two threads at once.
        self._lock = threading.Lock()

    def find(self, image: BgrImage) -> Sequence[FoundPerson]:
        """The people in one picture, the largest area first; masks have the segmentation network's resolution."""
        check_image(image)
        with self._lock:
            probability = self._segment(image)
            likely = (probability > self._score_threshold).astype(np.uint8)
            count, pieces, stats, _ = cv2.connectedComponentsWithStats(likely, connectivity=4)
            areas = stats[:count, cv2.CC_STAT_AREA]
            order = [int(piece) for piece in np.argsort(-areas, kind="stable") if piece]
            wanted = [piece for piece in order if areas[piece] >= _MIN_SHARE * likely.size][:_MAX_LOOKS]
            found = []
            for piece in wanted:
                mask = np.asarray(pieces == piece, dtype=np.bool_)
                seen = self._body_in(image, mask)
                if seen:
                    found.append(FoundPerson(mask=mask, score=min(seen, float(probability[mask].mean()))))
        return found

    def _segment(self, image: BgrImage) -> npt.NDArray[np.float32]:
        blob = cv2.dnn.blobFromImage(image, 1 / 255, _SEGMENTATION_SIZE, swapRB=True)
        self._network.setInput(blob)
        answer = np.asarray(self._network.forward(), dtype=np.float32)
        return answer.reshape(_SEGMENTATION_SIZE[::-1])

    def _body_in(self, image: BgrImage, mask: Mask) -> float:
        """How sure the pose network is of a body whose trunk lies in the mask; 0 where it sees none there."""
        height, width = image.shape[:2]
        rows, columns = np.nonzero(mask)
        scale = np.array([width / mask.shape[1], height / mask.shape[0]])
        low = np.array([columns.min(), rows.min()]) * scale
        high = np.array([columns.max() + 1, rows.max() + 1]) * scale
        margin = _SURROUNDINGS * (high - low)
        left, top = np.maximum(np.floor(low - margin), 0).astype(int)
        right, bottom = np.minimum(np.ceil(high + margin), (width, height)).astype(int)
        crop = np.asarray(cv2.cvtColor(image[top:bottom, left:right], cv2.COLOR_BGR2RGB), dtype=np.uint8)
        answer = self._ask_pose(crop)
        if answer is None:
            return 0.0
        landmarks = answer.landmark
        places = np.array([[landmarks[k].x, landmarks[k].y] for k in _BODY]) * (right - left, bottom - top)
        cells = np.floor((places + np.array([left, top])) / scale).astype(int)
        inside = (cells >= 0).all(axis=1) & (cells < mask.shape[::-1]).all(axis=1)
        hits = sum(bool(mask[row, column]) for column, row in cells[inside])
        seen = min(landmarks[k].visibility for k in _SHOULDERS)
        return float(seen) if hits >= _BODY_INSIDE and seen >= self._pose_confidence else 0.0

    def _ask_pose(self, crop: npt.NDArray[np.uint8]) -> Any:
        if self._pose is not None:
            return self._pose.process({"image": crop}).pose_landmarks
        from mediapipe.python.solution_base import SolutionBase

        with without_start_messages():
            self._pose = SolutionBase(
                binary_graph_path=_POSE_GRAPH,
                side_inputs={
                    "model_complexity": 1,
                    "smooth_landmarks": False,
                    "enable_segmentation": False,
                    "smooth_segmentation": False,
                    # Nothing is remembered from one picture to the next.
                    "use_prev_landmarks": False,
                },
                outputs=["pose_landmarks"],
            )
            # The networks are loaded with the first picture.
            return self._pose.process({"image": crop}).pose_landmarks


class RegionsFlowTracker:
    """Hands from their landmarks, people from two networks, regions by colour and texture; all carried by flow.

    Implements :class:`ego_assets.schema.masks.MaskTracker`. What a region is this backend cannot tell: it is
    ``object``, and its score says how clearly it stands out from what is around it.

    Args:
        max_side: Longer side in pixels at which pictures are segmented and followed.
        merge_threshold: Neighbours merge while their difference, in units of CIELAB, is below; smaller values give
            more and smaller instances.
        min_share: Smallest region, as share of the picture.
        max_regions: Most regions found on one key frame.
        reseed_interval_s: Regions are searched anew after this time at the latest.
        hand_memory_s: A hand that the hand layer loses is followed by flow for this long.
        id_memory_s: An instance that comes back within this time gets its old id.
        people: Whether to look for people.
        person_interval_s: Time between two looks for people.
        person_threshold: Probability from which a pixel is taken for a person.
        pose_confidence: How sure the pose network has to be that there is a body.

    Raises:
        BackendUnavailable: The weights are not installed or damaged.
    """

    def __init__(
        self,
        *,
        max_side: int = 480,
        merge_threshold: float = 8.0,
        min_share: float = 0.004,
        max_regions: int = 40,
        reseed_interval_s: float = 2.0,
        hand_memory_s: float = 1.0,
        id_memory_s: float = 4.0,
        people: bool = True,
        person_interval_s: float = 0.6,
        person_threshold: float = 0.8,
        pose_confidence: float = 0.9,
    ) -> None:
        BACKENDS["masks"]["regions_flow"].check_arguments(locals())
        self._options = TrackingOptions(
            max_side=max_side,
            regions=RegionOptions(
                merge_threshold=merge_threshold, min_share=min_share, max_regions=max_regions
            ),
            reseed_interval_s=reseed_interval_s,
            hand_memory_s=hand_memory_s,
            id_memory_s=id_memory_s,
            person_interval_s=person_interval_s,
        )
        self._people = (
            SelfiePersonFinder(score_threshold=person_threshold, pose_confidence=pose_confidence)
            if people
            else None
        )

    @property
    def info(self) -> BackendInfo:
        """What runs; the digest is that of the digests of all weights, in the order in which they are named."""
        model = "SLIC regions and DIS flow"
        if self._people is None:
            return BackendInfo(task="masks", backend="regions_flow", model=model)
        return BackendInfo(
            task="masks",
            backend="regions_flow",
            model="; ".join([model, *(card.name for card in _PERSON_WEIGHTS)]),
            weights_sha256=joint_digest([card.sha256 for card in _PERSON_WEIGHTS]),
            licence=SELFIE_SEGMENTATION.licence,
        )

    @property
    def category_info(self) -> None:
        """No other model says what an instance is."""
        return None

    def track(
        self,
        frames: Iterable[ClipFrame],
        *,
        hands: HandObjectTracks | None = None,
        vocabulary: Sequence[str] = MASK_CATEGORIES,
        cuts: frozenset[int] = frozenset(),
    ) -> Iterator[MaskFrame]:
        """One result per frame, in order."""
        return track_masks(
            _checked(frames),
            hands=hands,
            people=self._people,
            vocabulary=vocabulary,
            options=self._options,
            cuts=cuts,
        )


def _checked(frames: Iterable[ClipFrame]) -> Iterator[ClipFrame]:
    for frame in frames:
        check_image(frame.image)
        yield frame
