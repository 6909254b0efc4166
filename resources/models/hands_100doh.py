"""Hands and the objects they touch with the 100DOH detector, on PyTorch and torchvision's operators.

Shan, Geng, Shu and Fouhey, Understanding Human Hands in Contact at Internet Scale, CVPR 2020.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ego_assets.schema.detections import BackendInfo, BgrImage
from ego_assets.schema.errors import BackendUnavailable
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.hands import LANDMARK_COUNT, HandDetections
from resources.models.backends import BACKENDS
from resources.models.images import check_image
from resources.models.registry import HANDS_100DOH
from resources.models.setting_checks import Compile, Precision
from resources.models.torch_runtime import Batches, shared_network
from resources.models.torch_weights import read_state
from resources.models.weights import card_digest, locate

#: Means that the weights were trained with, BGR.
_MEANS = (102.9801, 115.9465, 122.7717)
#: The longer side is at most this many times the shorter one in the published settings (1000 to 600 pixels).
_LONGEST_OVER_SHORTEST = 1000 / 600
#: The network's first stages need so many pixels.
_LEAST_SIDE = 16
#: Contact states in which a hand touches an object, portable or stationary. A hand that touches its owner or another
#: person holds nothing.
_ON_OBJECT = [3, 4]


class HundredDaysOfHandsDetector:
    """The 100DOH detector: hands, their side, whether they touch an object, and its box. It gives no landmarks.

    Args:
        models_dir: Folder of the weights.
        shorter_side: Shorter side in pixels at which the network looks, at most 10/6 of it for the longer one.
        score_threshold: Hands below are dropped.
        object_threshold: Objects below are dropped.
        nms_iou: Of two boxes of a kind that overlap by more than this, the weaker is dropped.
        max_hands: Most hands, and most objects, in one picture.
        proposals: Places of a picture that are looked at closely; cost grows with them.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        compile: ``auto``, ``always`` or ``never``.
        batch_size: Most pictures in one call; 0 chooses by the memory.

    Raises:
        BackendUnavailable: The weights are missing or others, or the device is not there.
        ValueError: A setting has a wrong value.
    """

    def __init__(
        self,
        *,
        models_dir: Path | None = None,
        shorter_side: int = 600,
        score_threshold: float = 0.5,
        object_threshold: float = 0.5,
        nms_iou: float = 0.3,
        max_hands: int = 10,
        proposals: int = 300,
        device: str = "auto",
        precision: Precision = "auto",
        compile: Compile = "auto",
        batch_size: int = 0,
    ) -> None:
        BACKENDS["hands"]["hands_100doh"].check_arguments(locals())
        path = locate(HANDS_100DOH, models_dir)
        self._digest = card_digest(HANDS_100DOH, models_dir)
        self._shorter_side = shorter_side
        self._held = shared_network(
            HANDS_100DOH,
            path,
            self._digest,
            lambda hold: hold(_network(path)),
            device=device,
            precision=precision,
            compile=compile,
        )
        from resources.models.hands_100doh_network import HandObjectOptions

        self._options = HandObjectOptions(
            proposals=proposals,
            score_threshold=score_threshold,
            object_threshold=object_threshold,
            nms_iou=nms_iou,
            max_hands=max_hands,
        )
        self._batches = Batches(batch_size, device=self._held.device, is_compiled=self._held.is_compiled)

    @property
    def info(self) -> BackendInfo:
        """What runs."""
        return BackendInfo(
            task="hands",
            backend="hands_100doh",
            model=HANDS_100DOH.name,
            weights_sha256=self._digest,
            licence=HANDS_100DOH.licence,
        )

    def detect(self, frames: Iterable[ClipFrame]) -> Iterator[HandDetections]:
        """Hands in each frame, surest first, with the objects they touch; landmarks are NaN.

        Raises:
            ValueError: A picture is no ``uint8 [height, width, 3]``, or the network answers with NaN.
            DeviceMemoryExhausted: A single picture does not fit into the device's memory.
        """
        images = (_checked(frame) for frame in frames)
        for _, equal in groupby(images, key=lambda image: image.shape):
            yield from self._batches.stream(equal, self._detect)

    def _detect(self, images: Sequence[BgrImage]) -> list[HandDetections]:
        height, width = images[0].shape[:2]
        with self._held.in_use() as network:
            pictures, scale = self._prepared(images)
            answer = network(pictures, self._options)
            # One copy each; the GPU is waited for at the first.
            found = {name: values.cpu().numpy() for name, values in answer._asdict().items()}
        if not found["finite"].all():
            raise ValueError("expected finite values from the network, got NaN or infinite ones")
        return [
            _detections(
                {name: values[number] for name, values in found.items()}, scale, width=width, height=height
            )
            for number in range(len(images))
        ]

    def _prepared(self, images: Sequence[BgrImage]) -> tuple[Any, npt.NDArray[np.float32]]:
        """The network's input, and by how much boxes in it are divided: ``float32 [4]``."""
        import torch  # type: ignore[import-not-found,unused-ignore]
        from torch.nn import functional  # type: ignore[import-not-found,unused-ignore]

        height, width = images[0].shape[:2]
        rows, columns = input_size(height, width, shorter_side=self._shorter_side)
        device = self._held.device
        pictures = torch.from_numpy(np.stack(images)).to(device).permute(0, 3, 1, 2).float()
        # Without smoothing, as the network was trained.
        pictures = functional.interpolate(
            pictures, size=(rows, columns), mode="bilinear", align_corners=False
        )
        pictures -= torch.tensor(_MEANS, device=device)[:, None, None]
        scale = np.array([columns / width, rows / height] * 2, np.float32)
        return pictures.to(self._held.dtype), scale


def _network(path: Path) -> Any:
    import torch  # type: ignore[import-not-found,unused-ignore]

    from resources.models.hands_100doh_network import HandObjectNetwork

    # Without random weights, which would be replaced.
    with torch.device("meta"):
        network = HandObjectNetwork()
    load_published(network, path)
    return network


def _checked(frame: ClipFrame) -> BgrImage:
    check_image(frame.image)
    return frame.image


def input_size(height: int, width: int, *, shorter_side: int) -> tuple[int, int]:
    """Height and width at which the network looks at a picture.

    The shorter side gets ``shorter_side`` pixels, or fewer where the longer one would get more than 10/6 of that.
    """
    scale = shorter_side / min(height, width)
    longest = round(_LONGEST_OVER_SHORTEST * shorter_side)
    if round(scale * max(height, width)) > longest:
        scale = longest / max(height, width)
    return max(_LEAST_SIDE, round(scale * height)), max(_LEAST_SIDE, round(scale * width))


def _detections(
    found: Mapping[str, npt.NDArray[Any]], scale: npt.NDArray[np.float32], *, width: int, height: int
) -> HandDetections:
    """What the network says of one picture, in its pixels."""
    limits = np.array([width, height] * 2, np.float32)
    hands, objects = int(found["hand_counts"]), int(found["object_counts"])
    boxes = np.clip(found["hand_boxes"][:hands] / scale, 0, limits)
    contact = found["contact_scores"][:hands][:, _ON_OBJECT].sum(axis=1)
    touched = touched_objects(
        boxes,
        np.clip(found["object_boxes"][:objects] / scale, 0, limits),
        found["offsets"][:hands],
        touches=contact >= 0.5,
    )
    seen = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    count = int(np.count_nonzero(seen))
    return HandDetections(
        boxes_xyxy=boxes[seen],
        scores=found["hand_scores"][:hands][seen],
        right_scores=found["right_scores"][:hands][seen],
        landmarks_xy=np.full((count, LANDMARK_COUNT, 2), np.nan, np.float32),
        contact_scores=np.minimum(contact, 1)[seen],
        contact_boxes_xyxy=touched[seen],
    )


def touched_objects(
    hands_xyxy: npt.NDArray[np.float32],
    objects_xyxy: npt.NDArray[np.float32],
    offsets_xy: npt.NDArray[np.float32],
    *,
    touches: npt.NDArray[np.bool_],
) -> npt.NDArray[np.float32]:
    """The object of each hand: the one whose centre lies nearest to where the hand's offset points.

    Args:
        hands_xyxy: ``float32 [N, 4]``.
        objects_xyxy: ``float32 [M, 4]``.
        offsets_xy: ``float32 [N, 2]``, from the centre of a hand to that of its object.
        touches: ``bool [N]``, hands that have one; two hands may share it.

    Returns:
        ``float32 [N, 4]``, NaN where a hand touches nothing, or nothing was found that it could touch.
    """
    found = np.full((len(hands_xyxy), 4), np.nan, np.float32)
    if not len(objects_xyxy):
        return found
    places = (objects_xyxy[:, :2] + objects_xyxy[:, 2:]) / 2
    expected = (hands_xyxy[:, :2] + hands_xyxy[:, 2:]) / 2 + offsets_xy
    nearest = np.linalg.norm(expected[:, None] - places[None], axis=2).argmin(axis=1)
    found[touches] = objects_xyxy[nearest[touches]]
    return found


def load_published(network: Any, path: Path) -> None:
    """Fill the network with the weights of a published file.

    The file holds ``{"model": state_dict, "pooling_mode": "align", "class_agnostic": False, ...}``, with what training
    needed to go on (its optimiser) and, from training on several GPUs, names that begin with ``module.``; a plain
    ``state_dict`` is taken as well. Counters of batch normalisation are of no use here and may be missing. Nothing in
    the file is executed.

    Raises:
        BackendUnavailable: The file is damaged, belongs to another network, or lacks a part of this one.
    """
    import torch  # type: ignore[import-not-found,unused-ignore]

    content = read_state(path)
    state = content.get("model", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise _refused(path, "expected {'model': state_dict, ...}")
    for name, expected in (("pooling_mode", "align"), ("class_agnostic", False)):
        if content.get(name, expected) != expected:
            raise _refused(path, f"expected {name} {expected!r}, got {content[name]!r}")
    state = {name.removeprefix("module."): value for name, value in state.items()}
    own = network.state_dict()
    missing = [name for name in own if name not in state and not _is_counter(name)]
    unknown = [name for name in state if name not in own and not _is_counter(name)]
    shapes = [
        f"{name} {list(state[name].shape)} instead of {list(value.shape)}"
        for name, value in own.items()
        if name in state and state[name].shape != value.shape
    ]
    for problem, names in (("it lacks", missing), ("it has other shapes:", shapes), ("it also has", unknown)):
        if names:
            raise _refused(path, f"{problem} {_some(names)}")
    weights = {
        name: state[name].contiguous() if name in state else torch.zeros(value.shape, dtype=value.dtype)
        for name, value in own.items()
    }
    network.load_state_dict(weights, assign=True)


def _is_counter(name: str) -> bool:
    return name.endswith(".num_batches_tracked")


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _refused(path: Path, problem: str) -> BackendUnavailable:
    return BackendUnavailable(
        f"{path} does not hold the weights of {HANDS_100DOH.name}: {problem}. Get the file from {HANDS_100DOH.source}."
    )
