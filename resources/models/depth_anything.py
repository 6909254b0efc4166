"""Depth Anything V2 (Yang et al., 2024) through transformers: a depth for every pixel of every frame.

PyTorch is imported when an estimator is built. Resizing and normalisation, and the way back to the frame's size, run on
the device as well; pictures go there as bytes.
"""

from __future__ import annotations

import copy
import json
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ego_assets.schema.camera import CameraTrajectory, PinholeCamera, Scale
from ego_assets.schema.depth import MEASURED_FROM, DepthFrame, constant_confidence, is_outdoors
from ego_assets.schema.detections import BackendInfo
from ego_assets.schema.errors import BackendUnavailable
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.vocabulary import LocationType
from resources.models.backends import BACKENDS
from resources.models.images import IMAGENET_DEVIATION, IMAGENET_MEAN
from resources.models.registry import ModelCard
from resources.models.setting_checks import Compile, Precision
from resources.models.torch_runtime import Batches, HeldNetwork, Hold, shared_network
from resources.models.torch_weights import load_pretrained
from resources.models.weights import card_digest, joint_digest, located_folder

#: Side in pixels of the patches that the networks see; sides of their input are multiples of it.
PATCH = 14
#: Shorter side in pixels of the pictures that the networks were trained with.
DEFAULT_SIDE = 518
#: Longer to shorter side of the network's input at most; pictures that are longer are squeezed.
LARGEST_ASPECT = 4
#: Depth of pixels that a network without a scale calls infinitely far away: the largest that is stored.
FARTHEST_RELATIVE = 65.535

#: Most bytes of the float32 maps of a batch in the computer's memory, where the batch is chosen by memory. Two batches
#: are on their way at once; a power of two, because pinned memory is handed out so.
_MAX_MAP_BYTES = 1 << 28
# The unit of a relative map is set by every fourth pixel both ways.
_STRIDE = 4


def network_input_size(width: int, height: int, *, input_side: int) -> tuple[int, int]:
    """Width and height of a network's input: the shorter side as told, the aspect kept to the nearest patch.

    Args:
        width: Of the picture.
        height: Of the picture.
        input_side: Shorter side of the input, a multiple of :data:`PATCH`.
    """
    scale = input_side / min(width, height)
    longest = input_side * LARGEST_ASPECT
    sides = (round(scale * side / PATCH) * PATCH for side in (width, height))
    input_width, input_height = (min(max(side, input_side), longest) for side in sides)
    return input_width, input_height


class DepthNetwork:
    """One network on its device: frames in, maps out, a batch computed while the one before is taken.

    Args:
        held: Takes ``[N, 3, height, width]``, RGB, normalised by ImageNet, and gives an object whose
            ``predicted_depth`` is ``[N, height, width]``.
        to_depth: Makes depth at the frame's size of ``float32 [N, height, width]`` as the network gives it, on the
            device, with a function that resizes such arrays to that size; NaN where nothing is known.
        scale: Unit of the depth.
        own_segments: Whether every map has a unit of its own.
        input_side: Shorter side of the network's input.
        batch_size: Most frames in a batch; 0 chooses by memory.
    """

    def __init__(
        self,
        held: HeldNetwork,
        to_depth: Callable[[Any, Callable[[Any], Any]], Any],
        *,
        scale: Scale,
        own_segments: bool = False,
        input_side: int = DEFAULT_SIDE,
        batch_size: int = 0,
    ) -> None:
        self._held = held
        self._to_depth = to_depth
        self._scale = scale
        self._own_segments = own_segments
        self._input_side = input_side
        self._is_chosen_by_memory = batch_size == 0
        self._batches = Batches(batch_size, device=held.device, is_compiled=held.is_compiled)

    def run(self, frames: Iterable[ClipFrame]) -> Iterator[DepthFrame]:
        """One map per frame, in order.

        Raises:
            BackendUnavailable: The GPU failed.
            DeviceMemoryExhausted: A single frame does not fit into the device's memory.
        """
        # A GPU works on a batch while Python waits for the one before and hands its maps out.
        begun: deque[tuple[_Batch, int]] = deque()
        number = 0
        source = iter(frames)
        first = next(source, None)
        if first is None:
            return
        stream = self._batches.stream(chain((first,), source), self._begin, max_batch=self._most(first))
        with self._held.reporting_loss():
            for item in stream:
                begun.append(item)
                while begun[0][0] is not item[0]:
                    yield self._finish(begun, number)
                    number += 1
            while begun:
                yield self._finish(begun, number)
                number += 1

    def _most(self, frame: ClipFrame) -> int | None:
        """Most frames of this size in a batch, so that maps, and the pictures on their way there, stay small."""
        width, height = frame.size
        return max(1, _MAX_MAP_BYTES // (4 * width * height)) if self._is_chosen_by_memory else None

    def _finish(self, begun: deque[tuple[_Batch, int]], number: int) -> DepthFrame:
        batch, index = begun.popleft()
        frame = batch.frames[index]
        depth, is_whole = batch.map(index)
        confidence = (
            constant_confidence(*depth.shape)
            if is_whole
            else np.where(depth > 0, np.uint8(MEASURED_FROM), np.uint8(0))
        )
        return DepthFrame(
            frame_index=frame.frame_index,
            timestamp_ns=frame.timestamp_ns,
            depth=depth,
            confidence=confidence,
            scale=self._scale,
            status="estimated" if is_whole or depth.any() else "failed",
            segment=number if self._own_segments else 0,
        )

    def _begin(self, frames: Sequence[ClipFrame]) -> list[tuple[_Batch, int]]:
        """Hand a batch to the device; on a GPU this returns before it is computed."""
        with self._held.in_use() as network:
            pictures = _uploaded(frames, self._held.device)
            width, height = frames[0].size
            size = network_input_size(width, height, input_side=self._input_side)
            answer = network(_prepared(pictures, size).to(self._held.dtype)).predicted_depth
            del pictures
            depth = self._to_depth(answer.float(), partial(_resized, size=(width, height)))
            depth = depth.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0).clamp_(min=0)
            batch = _Batch(frames, depth, depth.flatten(1).amin(dim=1) > 0)
        return [(batch, index) for index in range(len(frames))]


class _Batch:
    """Maps on their way from the device."""

    def __init__(self, frames: Sequence[ClipFrame], depth: Any, is_whole: Any) -> None:
        self.frames = frames
        self._depth, self._is_whole = _downloading(depth), _downloading(is_whole)
        self._arrived: Any = None
        if depth.is_cuda:
            import torch  # type: ignore[import-not-found,unused-ignore]

            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(depth.device))

    def map(self, index: int) -> tuple[np.ndarray[Any, np.dtype[np.float32]], bool]:
        """``float32 [height, width]``, 0 where nothing is known, and whether everything is known."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._depth[index].numpy(), bool(self._is_whole[index])


def _downloading(values: Any) -> Any:
    """A copy in the computer's memory; of a GPU's, it is complete when the stream has come to it."""
    if not values.is_cuda:
        return values
    import torch  # type: ignore[import-not-found,unused-ignore]

    copied = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return copied.copy_(values, non_blocking=True)


def _uploaded(frames: Sequence[ClipFrame], device: Any) -> Any:
    """``uint8 [N, 3, height, width]``, RGB, on the device."""
    import torch  # type: ignore[import-not-found,unused-ignore]

    width, height = frames[0].size
    on_gpu = device.type == "cuda"
    pictures = torch.empty((len(frames), 3, height, width), dtype=torch.uint8, pin_memory=on_gpu)
    for (red, green, blue), frame in zip(pictures.numpy(), frames, strict=True):
        cv2.split(frame.image, (blue, green, red))
    return pictures.to(device, non_blocking=True)


def _prepared(pictures: Any, size: tuple[int, int]) -> Any:
    """``float32 [N, 3, height, width]``, RGB: resized as by Pillow's bicubic filter, normalised by ImageNet."""
    import torch  # type: ignore[import-not-found,unused-ignore]

    values = pictures.float()
    if (values.shape[3], values.shape[2]) != size:
        values = torch.nn.functional.interpolate(
            values, (size[1], size[0]), mode="bicubic", align_corners=False, antialias=True
        ).clamp_(0, 255)
    # Without waiting for the batch before, on which the device still works.
    mean, deviation = (
        (255 * torch.tensor(numbers)).to(values.device, non_blocking=True)[:, None, None]
        for numbers in (IMAGENET_MEAN, IMAGENET_DEVIATION)
    )
    return values.mul_(1 / deviation).sub_(mean / deviation)


def _resized(maps: Any, size: tuple[int, int]) -> Any:
    """``[N, height, width]`` at another size, corner to corner as the authors do."""
    import torch  # type: ignore[import-not-found,unused-ignore]

    if (maps.shape[2], maps.shape[1]) == size:
        return maps
    return torch.nn.functional.interpolate(
        maps[:, None], (size[1], size[0]), mode="bilinear", align_corners=True
    )[:, 0]


def metric_depth(answer: Any, resize: Callable[[Any], Any], *, farthest_m: float) -> Any:
    """Metres of a metric network's answer; NaN where it is not finite, or not in front of the camera.

    Args:
        answer: ``float32 [N, height, width]``.
        resize: Brings such an array to the frame's size.
        farthest_m: Largest depth that the network can say, in metres; resizing may round beyond it.
    """
    import torch  # type: ignore[import-not-found,unused-ignore]

    # NaN spreads when it is resized, where 0 would pass for nearness.
    finite = answer.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    known = torch.nn.functional.threshold(finite, 0.0, float("nan"), inplace=True)
    return resize(known).clamp_(max=farthest_m)


def relative_depth(answer: Any, resize: Callable[[Any], Any]) -> Any:
    """Depth of inverse depth, each map in a unit of its own: its median is 1.

    The networks give inverse depth up to an unknown factor *and* an unknown shift. The factor cancels; the shift is
    taken for 0, so that the order of depths is what the network says and their proportions are approximate. Where it
    says 0, the pixel is farther than anything else in the picture: :data:`FARTHEST_RELATIVE`.

    Args:
        answer: ``float32 [N, height, width]``, larger is nearer.
        resize: Brings such an array to the frame's size: inverse depth, as the authors do.

    Returns:
        ``float32 [N, height, width]``; NaN where the answer is not finite, and in maps that say nothing but 0.
    """
    disparity = resize(answer)
    sample = disparity[:, ::_STRIDE, ::_STRIDE].flatten(1)
    sample = sample.where(sample.isfinite(), float("nan"))
    middle = sample.nanmedian(dim=1).values
    # More than half of the picture is sky.
    positive = sample.where(sample > 0, float("nan")).nanmedian(dim=1).values
    middle = middle.where(middle > 0, positive)[:, None, None]
    depth = (middle / disparity.clamp(min=0)).clamp_(max=FARTHEST_RELATIVE)
    return depth.where(disparity.isfinite(), float("nan"))


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """Where, how exactly and at which size the networks of one estimator run, and how many frames at once."""

    device: str
    precision: Precision
    compile: Compile
    input_side: int
    batch_size: int


class _DepthAnything:
    """What metric and relative checkpoints share: where weights lie, and that each is loaded once, when needed."""

    _backend: str
    #: What the file ``config.json`` calls the checkpoints' kind.
    _kind: str

    def __init__(
        self,
        *,
        models_dir: Path | None = None,
        checkpoint: str = "large",
        input_side: int = DEFAULT_SIDE,
        device: str = "auto",
        precision: Precision = "auto",
        compile: Compile = "auto",
        batch_size: int = 0,
    ) -> None:
        spec = BACKENDS["depth"][self._backend]
        spec.check_arguments(locals())
        self._settings = _Settings(
            device=device, precision=precision, compile=compile, input_side=input_side, batch_size=batch_size
        )
        self._cards = spec.models_for({"checkpoint": checkpoint})
        self._folders = [located_folder(card, models_dir) for card in self._cards]
        self._digests = [card_digest(card, models_dir) for card in self._cards]
        self._digest = self._digests[0] if len(self._digests) == 1 else joint_digest(self._digests)
        self._networks: dict[int, DepthNetwork] = {}
        self._loading = threading.Lock()

    @property
    def info(self) -> BackendInfo:
        """What runs; of several checkpoints the digest is that of all, one per line."""
        return BackendInfo(
            task="depth",
            backend=self._backend,
            model=" and ".join(card.name for card in self._cards),
            weights_sha256=self._digest,
            licence=self._cards[0].licence,
        )

    @property
    def is_dense(self) -> bool:
        """A network gives every pixel a depth."""
        return True

    def estimate(
        self,
        frames: Iterable[ClipFrame],
        *,
        camera: PinholeCamera,
        poses: CameraTrajectory | None = None,
        baseline_m: float | None = None,
        cuts: frozenset[int] = frozenset(),
        location: LocationType = LocationType.OTHER,
    ) -> Iterator[DepthFrame]:
        """One map per frame, in order; each picture is judged on its own, without camera, poses or cuts.

        Raises:
            BackendUnavailable: The weights cannot be read, or the device is not there.
            DeviceMemoryExhausted: A single frame does not fit into the device's memory.
        """
        source = iter(frames)
        first = next(source, None)
        # Without frames nothing is loaded.
        if first is not None:
            yield from self._network(self._place(location)).run(chain((first,), source))

    def _place(self, location: LocationType) -> int:
        """Which of the checkpoints suits a place."""
        return 0

    def _network(self, place: int) -> DepthNetwork:
        with self._loading:
            if place not in self._networks:
                card, folder, settings = self._cards[place], self._folders[place], self._settings
                held = shared_network(
                    card,
                    folder,
                    self._digests[place],
                    lambda hold: _held(_network(card, folder, kind=self._kind), hold),
                    device=settings.device,
                    precision=settings.precision,
                    compile=settings.compile,
                )
                self._networks[place] = self._runner(held)
            return self._networks[place]

    def _runner(self, held: HeldNetwork) -> DepthNetwork:
        raise NotImplementedError


class MetricDepthAnything(_DepthAnything):
    """Depth in metres. Implements :class:`ego_assets.schema.depth.DepthEstimator`.

    Two checkpoints of a size are used: the one trained on Hypersim (rooms, up to 20 m) and, for clips whose
    ``location_type`` is ``outdoor``, the one trained on Virtual KITTI 2 (streets, up to 80 m). Each is loaded when the
    first clip needs it. The metres hold for cameras like those of the training material; intrinsics are not used.

    Args:
        models_dir: Folder of the weights.
        checkpoint: ``large``, ``base`` or ``small``.
        input_side: Shorter side in pixels at which the network looks, a multiple of 14; the aspect is kept. Cost grows
            with more than its square.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        compile: ``auto``, ``always`` or ``never``.
        batch_size: Most frames in a batch; 0 chooses by memory.

    Raises:
        BackendUnavailable: Weights are missing or others.
    """

    _backend = "depth_anything_v2"
    _kind = "metric"

    def _place(self, location: LocationType) -> int:
        return 1 if is_outdoors(location) else 0

    def _runner(self, held: HeldNetwork) -> DepthNetwork:
        return DepthNetwork(
            held,
            partial(metric_depth, farthest_m=float(held.network.config.max_depth)),
            scale=Scale.METRIC,
            input_side=self._settings.input_side,
            batch_size=self._settings.batch_size,
        )


class RelativeDepthAnything(_DepthAnything):
    """Depth without a scale. Implements :class:`ego_assets.schema.depth.DepthEstimator`.

    The networks see more kinds of scenes than the metric ones, and give inverse depth of each picture for itself: every
    map is a segment of its own; see :func:`relative_depth`.

    Args:
        models_dir: Folder of the weights.
        checkpoint: ``large``, ``base`` or ``small``.
        input_side: Shorter side in pixels at which the network looks, a multiple of 14; the aspect is kept. Cost grows
            with more than its square.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        compile: ``auto``, ``always`` or ``never``.
        batch_size: Most frames in a batch; 0 chooses by memory.

    Raises:
        BackendUnavailable: Weights are missing or others.
    """

    _backend = "depth_anything_v2_relative"
    _kind = "relative"

    def _runner(self, held: HeldNetwork) -> DepthNetwork:
        return DepthNetwork(
            held,
            relative_depth,
            scale=Scale.UNKNOWN,
            own_segments=True,
            input_side=self._settings.input_side,
            batch_size=self._settings.batch_size,
        )


def _held(network: Any, hold: Hold) -> HeldNetwork:
    last = copy.deepcopy(network.head.conv3)
    held = hold(network)
    # In bfloat16, neighbouring depths of 5 m would lie centimetres apart: the last layer stays float32.
    last.register_forward_pre_hook(_as_float32)
    network.head.conv3 = last.requires_grad_(False)
    return held


def _as_float32(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.float() for value in inputs)


def _network(card: ModelCard, folder: Path, *, kind: str) -> Any:
    """The network of a folder, on the CPU in float32.

    Raises:
        BackendUnavailable: The files are damaged, or those of another network.
    """
    import torch  # type: ignore[import-not-found,unused-ignore]
    from transformers import (  # type: ignore[import-not-found,unused-ignore]
        DepthAnythingForDepthEstimation,
    )

    path = folder / "config.json"
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        found = described.get("model_type"), described.get("depth_estimation_type", "relative")
    except (OSError, ValueError, AttributeError) as error:
        raise _other_files(card, path, f"it cannot be read ({error})") from error
    # Metric and relative checkpoints, and those of other networks like it, load into one class.
    if found != ("depth_anything", kind):
        raise _other_files(card, path, f"expected depth_anything, {kind}, got {', '.join(map(str, found))}")
    return load_pretrained(
        DepthAnythingForDepthEstimation,
        card,
        folder,
        dtype=torch.float32,
        # The token of masked pictures is used in training only.
        is_optional=lambda name: name.endswith("mask_token"),
    )


def _other_files(card: ModelCard, path: Path, problem: str) -> BackendUnavailable:
    return BackendUnavailable(
        f"{path} does not describe {card.name}: {problem}. Get it again with `ego-assets models pull {card.key}`."
    )
