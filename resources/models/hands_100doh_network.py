"""The network of the 100DOH hand-object detector on torchvision's operators. Importing this module imports PyTorch.

Shan, Geng, Shu and Fouhey, Understanding Human Hands in Contact at Internet Scale, CVPR 2020: Faster R-CNN on a
ResNet-101 that is cut after its third stage (the C4 structure of Ren et al., 2015), and heads for the side of a hand,
its contact state and the offset to the object it touches. Parameters are named as in the published weights, so that
these load as they are.

Boxes follow the conventions that the weights were trained with: the right edge is a pixel, so a box from 0 to 15 is 16
wide, except that a decoded box keeps its full width. Boxes, proposals and their scores are float32 in any precision.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch  # type: ignore[import-not-found,unused-ignore]
from torch import nn  # type: ignore[import-not-found,unused-ignore]
from torch.nn import functional  # type: ignore[import-not-found,unused-ignore]
from torchvision.ops import nms, roi_align  # type: ignore[import-not-found,import-untyped,unused-ignore]

#: Classes of the network; 0 is background.
OBJECT_CLASS, HAND_CLASS = 1, 2
#: Contact states in the order of the network: none, self, other person, portable object, stationary object.
CONTACT_STATES = ("N", "S", "O", "P", "F")

_STRIDE = 16
_ANCHOR_SCALES, _ANCHOR_RATIOS = (8, 16, 32, 64), (0.5, 1.0, 2.0)
_ANCHOR_COUNT = len(_ANCHOR_SCALES) * len(_ANCHOR_RATIOS)
_PROPOSALS_BEFORE_NMS, _PROPOSAL_NMS_IOU = 6000, 0.7
_POOLED_SIDE = 7
#: Deviations that the regression of boxes was normalised with.
_BOX_DEVIATIONS = (0.1, 0.1, 0.2, 0.2)
#: Boxes of hands are enlarged by this share of their sides, on each side, where contact is judged.
_CONTACT_MARGIN = 0.3
#: The magnitude of an offset is learnt in thousands of pixels.
_OFFSET_UNIT_PX = 1000.0
#: exp() of more than this would overflow; the largest scene over the smallest anchor is far below.
_MAX_LOG_SCALE = math.log(1000.0)


class HandObjectOptions(NamedTuple):
    """What is taken for a hand or an object.

    Attributes:
        proposals: Most places a picture is looked at.
        score_threshold: Hands have a higher probability than this.
        object_threshold: Objects have a higher probability than this.
        nms_iou: Of two boxes of a class that overlap by more, the weaker is dropped.
        max_hands: Most hands and most objects of a picture.
    """

    proposals: int
    score_threshold: float
    object_threshold: float
    nms_iou: float
    max_hands: int


class HandObjectAnswer(NamedTuple):
    """What the network says of a batch; entries beyond the counts are zero.

    Attributes:
        hand_counts: ``int64 [B]``.
        hand_boxes: ``float32 [B, K, 4]`` xyxy in pixels of the input, surest first.
        hand_scores: ``float32 [B, K]``.
        right_scores: ``float32 [B, K]``, probability of a right hand.
        contact_scores: ``float32 [B, K, 5]``, probabilities of :data:`CONTACT_STATES`.
        offsets: ``float32 [B, K, 2]``, from the centre of the hand to that of the object, in pixels of the picture.
        object_counts: ``int64 [B]``.
        object_boxes: ``float32 [B, K, 4]``.
        finite: ``bool [B]``, false where the network broke down.
    """

    hand_counts: Any
    hand_boxes: Any
    hand_scores: Any
    right_scores: Any
    contact_scores: Any
    offsets: Any
    object_counts: Any
    object_boxes: Any
    finite: Any


class _Bottleneck(nn.Module):  # type: ignore[misc,unused-ignore]
    """Residual block whose first convolution has the stride, as in Caffe's ResNet."""

    def __init__(self, inputs: int, width: int, *, stride: int = 1) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1 = nn.Conv2d(inputs, width, 1, stride, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: Any = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Any) -> Any:
        kept = x if self.downsample is None else self.downsample(x)
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.relu(self.bn2(self.conv2(x)))
        return functional.relu(self.bn3(self.conv3(x)) + kept)


def _stage(inputs: int, width: int, *, blocks: int, stride: int) -> Any:
    first = _Bottleneck(inputs, width, stride=stride)
    return nn.Sequential(first, *(_Bottleneck(4 * width, width) for _ in range(blocks - 1)))


class _ProposalHeads(nn.Module):  # type: ignore[misc,unused-ignore]
    """Where something may be: per place and anchor, background or not, and the shift to the box."""

    def __init__(self) -> None:
        super().__init__()
        self.RPN_Conv = nn.Conv2d(1024, 512, 3, padding=1)
        self.RPN_cls_score = nn.Conv2d(512, 2 * _ANCHOR_COUNT, 1)
        self.RPN_bbox_pred = nn.Conv2d(512, 4 * _ANCHOR_COUNT, 1)

    def forward(self, features: Any) -> Any:
        """``float32 [B, h * w * A]`` probabilities and ``[B, h * w * A, 4]`` deltas, places row by row."""
        hidden = functional.relu(self.RPN_Conv(features))
        # All anchors' background comes first, then all their foreground.
        background, foreground = self.RPN_cls_score(hidden).float().split(_ANCHOR_COUNT, dim=1)
        scores = torch.sigmoid(foreground - background).permute(0, 2, 3, 1).flatten(1)
        deltas = self.RPN_bbox_pred(hidden).float().permute(0, 2, 3, 1).reshape(len(scores), -1, 4)
        return scores, deltas


class _HandHeads(nn.Module):  # type: ignore[misc,unused-ignore]
    """Contact state, offset to the object, side."""

    def __init__(self) -> None:
        super().__init__()
        self.hand_contact_state_layer = nn.Sequential(
            nn.Linear(2048, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, len(CONTACT_STATES))
        )
        self.hand_dydx_layer = nn.Linear(2048, 3)
        self.hand_lr_layer = nn.Linear(2048, 1)


class HandObjectNetwork(nn.Module):  # type: ignore[misc,unused-ignore]
    """The detector from normalised pictures to boxes.

    Shapes depend on the input only, never on what is found, so that it can be compiled; the two steps between which
    this is not so, suppression among proposals and among boxes, run as they are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.RCNN_rpn = _ProposalHeads()
        self.extension_layer = _HandHeads()
        self.RCNN_base = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            _stage(64, 64, blocks=3, stride=1),
            _stage(256, 128, blocks=4, stride=2),
            _stage(512, 256, blocks=23, stride=2),
        )
        self.RCNN_top = nn.Sequential(_stage(1024, 512, blocks=3, stride=2))
        self.RCNN_cls_score = nn.Linear(2048, 3)
        self.RCNN_bbox_pred = nn.Linear(2048, 4 * 3)

    def forward(self, pictures: Any, options: HandObjectOptions) -> HandObjectAnswer:
        """Hands and objects in ``[B, 3, height, width]``, BGR minus the means."""
        height, width = pictures.shape[2:]
        features = self.RCNN_base(pictures)
        scores, deltas = self.RCNN_rpn(features)
        sound = torch.isfinite(scores).all(1) & torch.isfinite(deltas).flatten(1).all(1)
        # Boxes that are no numbers would be read from anywhere.
        deltas = torch.nan_to_num(deltas)
        anchor_boxes = anchors(features.shape[2], features.shape[3], device=features.device)
        boxes, valid = self._proposed(
            scores, clipped(decoded(anchor_boxes, deltas), height=height, width=width), options
        )
        # The coordinates of places need float32.
        features = features.float()
        seen = self._roi_features(features, boxes)
        probabilities = torch.softmax(self.RCNN_cls_score(seen).float(), dim=2)
        deviations = torch.tensor(_BOX_DEVIATIONS, device=seen.device)
        regressed = self.RCNN_bbox_pred(seen).float().unflatten(2, (3, 4)) * deviations
        hands, objects = self._kept(
            boxes, valid, probabilities, regressed, options, height=height, width=width
        )
        chosen = hands.indices[:, :, None]
        right = self.extension_layer.hand_lr_layer(
            torch.gather(seen, 1, chosen.expand(-1, -1, seen.shape[2]))
        )
        around = enlarged(torch.gather(boxes, 1, chosen.expand(-1, -1, 4)), height=height, width=width)
        context = self._roi_features(features, around)
        contact = self.extension_layer.hand_contact_state_layer(context).float()
        offset = self.extension_layer.hand_dydx_layer(context).float()
        offsets = _OFFSET_UNIT_PX * offset[:, :, :1] * functional.normalize(offset[:, :, 1:], dim=2)
        return HandObjectAnswer(
            hand_counts=hands.counts,
            hand_boxes=hands.boxes,
            hand_scores=hands.scores,
            right_scores=torch.sigmoid(right.float()[:, :, 0]),
            contact_scores=torch.softmax(contact, dim=2),
            offsets=offsets,
            object_counts=objects.counts,
            object_boxes=objects.boxes,
            finite=sound
            & torch.isfinite(probabilities).flatten(1).all(1)
            & torch.isfinite(regressed).flatten(1).all(1)
            & torch.isfinite(contact).flatten(1).all(1)
            & torch.isfinite(offsets).flatten(1).all(1),
        )

    def _roi_features(self, features: Any, boxes: Any) -> Any:
        """``[B, K, 2048]`` of boxes ``[B, K, 4]``."""
        batch, count = boxes.shape[:2]
        number = torch.arange(batch, device=boxes.device, dtype=boxes.dtype).repeat_interleave(count)
        rows = torch.cat([number[:, None], boxes.reshape(-1, 4)], dim=1)
        # No shift by half a pixel, and as many samples as pixels, as it was trained.
        pooled = roi_align(features, rows, _POOLED_SIDE, 1 / _STRIDE, sampling_ratio=0, aligned=False)
        seen = self.RCNN_top(pooled.to(self.RCNN_cls_score.weight.dtype))
        return seen.mean(dim=(2, 3)).unflatten(0, (batch, count))

    @torch.compiler.disable  # type: ignore[untyped-decorator,unused-ignore]
    def _proposed(self, scores: Any, boxes: Any, options: HandObjectOptions) -> tuple[Any, Any]:
        """The best boxes, ``[B, P, 4]``, and which of them are any, ``bool [B, P]``."""
        # A small picture has few anchors, and so few boxes; the shape stays.
        found = boxes.new_zeros((len(boxes), options.proposals, 4))
        valid = torch.zeros(found.shape[:2], dtype=torch.bool, device=boxes.device)
        order = scores.argsort(dim=1, descending=True, stable=True)[:, :_PROPOSALS_BEFORE_NMS]
        for picture, ranked in enumerate(order):
            candidates = boxes[picture, ranked]
            kept = suppressed(candidates, scores[picture, ranked], iou=_PROPOSAL_NMS_IOU)
            kept = kept[: options.proposals]
            found[picture, : len(kept)] = candidates[kept]
            valid[picture, : len(kept)] = True
        return found, valid

    @torch.compiler.disable  # type: ignore[untyped-decorator,unused-ignore]
    def _kept(
        self,
        boxes: Any,
        valid: Any,
        probabilities: Any,
        regressed: Any,
        options: HandObjectOptions,
        *,
        height: int,
        width: int,
    ) -> tuple[_Kept, _Kept]:
        """Hands, and objects."""
        hands, objects = (
            self._kept_of(
                valid,
                probabilities[:, :, number],
                clipped(decoded(boxes, regressed[:, :, number]), height=height, width=width),
                options,
                threshold=threshold,
            )
            for number, threshold in (
                (HAND_CLASS, options.score_threshold),
                (OBJECT_CLASS, options.object_threshold),
            )
        )
        return hands, objects

    def _kept_of(
        self, valid: Any, probabilities: Any, boxes: Any, options: HandObjectOptions, *, threshold: float
    ) -> _Kept:
        """The boxes of a class that are above its threshold and do not overlap a stronger one."""
        batch = len(boxes)
        found = boxes.new_zeros((batch, options.max_hands, 4))
        scores = boxes.new_zeros((batch, options.max_hands))
        indices = torch.zeros(scores.shape, dtype=torch.int64, device=boxes.device)
        counts = torch.zeros(batch, dtype=torch.int64, device=boxes.device)
        for picture, probability in enumerate(probabilities):
            rows = torch.nonzero(valid[picture] & (probability > threshold))[:, 0]
            rows = rows[probability[rows].argsort(descending=True, stable=True)]
            kept = rows[suppressed(boxes[picture, rows], probability[rows], iou=options.nms_iou)]
            kept = kept[: options.max_hands]
            found[picture, : len(kept)] = boxes[picture, kept]
            scores[picture, : len(kept)] = probability[kept]
            indices[picture, : len(kept)] = kept
            counts[picture] = len(kept)
        return _Kept(counts, found, scores, indices)


class _Kept(NamedTuple):
    counts: Any
    boxes: Any
    scores: Any
    #: Which proposal each came from.
    indices: Any


def anchors(rows: int, columns: int, *, device: Any = "cpu") -> Any:
    """Boxes that proposals are told relative to, ``float32 [rows * columns * 12, 4]``, place by place, row by row.

    Each ratio of height to width comes with all scales. The sides of a ratio are rounded before they are scaled.
    """
    cell = []
    for ratio in _ANCHOR_RATIOS:
        width = round(math.sqrt(_STRIDE**2 / ratio))
        # Python rounds a half to the even number, as NumPy does.
        height = round(width * ratio)
        for scale in _ANCHOR_SCALES:
            half_width, half_height = (width * scale - 1) / 2, (height * scale - 1) / 2
            centre = (_STRIDE - 1) / 2
            cell.append(
                (centre - half_width, centre - half_height, centre + half_width, centre + half_height)
            )
    across = _STRIDE * torch.arange(columns, dtype=torch.float32, device=device)
    down = _STRIDE * torch.arange(rows, dtype=torch.float32, device=device)
    y, x = torch.meshgrid(down, across, indexing="ij")
    corners = torch.stack([x, y, x, y], dim=2).reshape(-1, 1, 4)
    return (corners + torch.tensor(cell, dtype=torch.float32, device=device)).reshape(-1, 4)


def decoded(boxes: Any, deltas: Any) -> Any:
    """Boxes ``[..., 4]`` moved and scaled by deltas ``[..., 4]`` (x, y, logarithms of width and height)."""
    sizes = boxes[..., 2:] - boxes[..., :2] + 1
    centres = boxes[..., :2] + sizes / 2 + deltas[..., :2] * sizes
    halves = torch.exp(deltas[..., 2:].clamp(max=_MAX_LOG_SCALE)) * sizes / 2
    return torch.cat([centres - halves, centres + halves], dim=-1)


def clipped(boxes: Any, *, height: int, width: int) -> Any:
    """Boxes inside the picture, whose last pixel is the largest coordinate."""
    x = boxes[..., 0::2].clamp(0, width - 1)
    y = boxes[..., 1::2].clamp(0, height - 1)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], dim=-1)


def suppressed(boxes: Any, scores: Any, *, iou: float) -> Any:
    """Positions of the boxes that overlap no stronger one by more than ``iou``, strongest first."""
    # The right edge is a pixel, and torchvision counts it as a line.
    return nms(boxes + boxes.new_tensor([0, 0, 1, 1]), scores, iou)


def enlarged(boxes: Any, *, height: int, width: int) -> Any:
    """Boxes with a margin in which contact is judged.

    The published code limits the right edge by the height of the picture and the lower edge by its width. The heads
    were trained on what they see that way, so it is kept.
    """
    margins = _CONTACT_MARGIN * (boxes[..., 2:] - boxes[..., :2])
    first = (boxes[..., :2] - margins).clamp(min=0)
    last = boxes[..., 2:] + margins
    return torch.cat(
        [first, last[..., :1].clamp(max=height), last[..., 1:].clamp(max=width)],
        dim=-1,
    )
