"""SAM 2.1 (Ravi et al., 2024, "SAM 2: Segment Anything in Images and Videos") as steps on single frames.

The package's own predictor loads a whole video, and follows one instance after another. Here frames come one by one,
all instances of a frame run in one batch, the picture is encoded once for everything that is asked about it, and the
memory that the network attends to is all that is kept.
"""

from __future__ import annotations

import copy
import io
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ego_assets.schema.errors import BackendUnavailable
from ego_assets.schema.frames import ClipFrame
from resources.models.images import IMAGENET_DEVIATION, IMAGENET_MEAN
from resources.models.setting_checks import Precision
from resources.models.torch_runtime import Batches, HeldNetwork, resolved_precision
from resources.models.torch_weights import error_summary, read_state

#: Pictures and points in one call, where the profile leaves it open.
_PICTURES, _POINTS = 8, 64
#: How the predictor of the published package changes the configuration for masks that are looked at.
_AFTER_TRAINING: Mapping[str, Any] = {
    "sam_mask_decoder_extra_args": {
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    },
    "binarize_mask_from_pts_for_mem_enc": True,
}
_PREDICTOR = "sam2.sam2_video_predictor.SAM2VideoPredictor"
#: A configuration may make objects of this package and of no other.
_OWN_PACKAGE = "sam2."
#: By how much the cut-off of the logits moves when a mask's stability is measured (Kirillov et al., 2023).
_STABILITY_STEP = 1.0
#: Proposals that are compared with one another, the best first.
_MOST_PROPOSALS = 512
#: The clip never ends: the network asks for its length only to limit what it looks back at.
_FRAMES = 1 << 30
#: Logits of pixels that surely belong, or do not belong, to a mask, as the network itself sets them.
CERTAIN_LOGIT = 10.0
#: Instances that are drawn at the size of the frame at once.
_DRAWN_AT_ONCE = 8
#: Components of the network that are compiled, and whether for many shapes at once: how much is remembered varies.
_COMPILED_PARTS: Mapping[str, bool] = {
    "image_encoder": False,
    "memory_encoder": False,
    "memory_attention": True,
    "sam_prompt_encoder": False,
    "sam_mask_decoder": False,
}
#: As the package compiles them, but without CUDA graphs: before PyTorch 2.15 these belong to the thread that imported
#: it, while clips are followed in threads of their own, and the memory that they hold cannot be given back.
_COMPILED_MODE = "max-autotune-no-cudagraphs"
#: Counts of instances that the compiled network is prepared for; others are filled up.
_COMPILED_COUNTS = (4, 8, 16, 32, 64)

#: Labels of a prompt's points: padding, a point inside, and two corners of a box.
PADDING, INSIDE, BOX = -1, 1, (2, 3)


@dataclass(frozen=True, eq=False, kw_only=True)
class Features:
    """What the image encoder says of one picture, the finest level first.

    Attributes:
        levels: Tensors ``[1, channels, height, width]``.
        positions: The position encodings of the last level, which alone are asked for.
    """

    levels: tuple[Any, ...]
    positions: tuple[Any, ...]


@dataclass(eq=False, kw_only=True)
class Memory:
    """What is remembered of the instances that are followed.

    Attributes:
        count: Instances, with those that only fill up a batch.
        begun: Position in the clip -> what the network made of the masks that it was given there.
        followed: Position -> what it made of the frames since then; only those that it still looks at.
    """

    count: int
    begun: dict[int, dict[str, Any]] = field(default_factory=dict)
    followed: dict[int, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, kw_only=True)
class Proposals:
    """Masks that a grid of points found in one picture, the best first.

    Attributes:
        logits: Tensor ``[M, side, side]``, above 0 inside.
        scores: ``float32 [M]``, quality that the network foresees, times how little the mask depends on the cut-off.
    """

    logits: Any
    scores: npt.NDArray[np.float32]


def build_network(configuration: Path, weights: Path, *, vos_optimized: bool) -> Any:
    """The network of a configuration, filled with the weights of a file, on the CPU.

    Args:
        configuration: Hydra configuration with the entry ``model``, as the package ``sam2`` ships them.
        weights: File with a mapping whose entry ``model`` is the ``state_dict``; nothing in it is executed.
        vos_optimized: Take the class that compiles all components when they first run.

    Raises:
        BackendUnavailable: One of the files is damaged, or they do not belong together.
    """
    network = random_network(configuration, vos_optimized=vos_optimized)
    state = read_state(weights)
    try:
        network.load_state_dict(state["model"])
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise BackendUnavailable(
            f"{weights} does not hold the weights of the network that {configuration.name} describes: "
            f"{error_summary(error)}. Put the published file there."
        ) from error
    return network


def random_network(configuration: Path, *, vos_optimized: bool) -> Any:
    """The network of a configuration with random weights; arguments and errors as :func:`build_network`."""
    from hydra.utils import instantiate  # type: ignore[import-not-found,unused-ignore]
    from omegaconf import OmegaConf  # type: ignore[import-not-found,unused-ignore]

    try:
        content: Any = OmegaConf.to_container(OmegaConf.load(configuration), resolve=True)
        model = content["model"]
        for target in _targets(model):
            if not target.startswith(_OWN_PACKAGE):
                raise ValueError(f"_target_: expected one of the package sam2, got {target!r}")
        for name, value in _AFTER_TRAINING.items():
            model[name] = {**(model.get(name) or {}), **value} if isinstance(value, Mapping) else value
        model["_target_"] = f"{_PREDICTOR}VOS" if vos_optimized else _PREDICTOR
        model["compile_image_encoder"] = False
        # The class that compiles prints that it will; networks are loaded one after the other, so nothing else is lost.
        with redirect_stdout(io.StringIO()) if vos_optimized else nullcontext():
            network = instantiate(OmegaConf.create(model), _recursive_=True)
    # Hydra raises errors of its own and of whatever it calls.
    except Exception as error:
        raise BackendUnavailable(
            f"{configuration} does not describe a SAM 2.1 network: {error_summary(error)}. Compare "
            "it with configs/sam2.1 of the package sam2."
        ) from error
    if vos_optimized:
        _compile(network)
    return network


def _compile(network: Any) -> None:
    """Compile the components; this happens when they first run."""
    import torch  # type: ignore[import-not-found,unused-ignore]

    for name, is_dynamic in _COMPILED_PARTS.items():
        component = getattr(network, name)
        # What the package wrapped, in its own mode.
        component.__dict__.pop("forward", None)
        component.forward = torch.compile(
            component.forward, mode=_COMPILED_MODE, fullgraph=True, dynamic=is_dynamic
        )


def _targets(node: Any) -> Iterator[str]:
    children = (
        node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    )
    for name, child in children:
        if name == "_target_":
            yield str(child)
        yield from _targets(child)


class LoadedSam2:
    """One network on one device, in single precision; trackers with other settings share it.

    Args:
        network: ``SAM2VideoPredictor`` in evaluation mode, on the CPU.
        device: As of :func:`resources.models.torch_device.torch_device`.
        is_compiled: Whether the network compiles its components.
        name: For messages.

    Attributes:
        held: The network.
        plain: The same network, as it was written: prompts come in many shapes, and compiling each would take longer
            than it saves.
        lock: Whoever uses the network holds it.
    """

    def __init__(
        self, network: Any, *, device: str = "auto", is_compiled: bool = False, name: str = "SAM 2.1"
    ) -> None:
        # Parameters stay as they are: the network mixes them with numbers that it makes in single precision.
        self.held = HeldNetwork(
            network,
            device=device,
            precision="float32",
            compile="never",
            has_compiled_parts=is_compiled,
            name=name,
        )
        self.plain = _uncompiled(network) if is_compiled else network
        self.lock = threading.RLock()


class Sam2Network:
    """Steps of a network; may be used by several threads, one call after the other.

    Logits of masks are square, a quarter of the network's picture to a side, whatever the shape of the frame.

    Args:
        loaded: The network.
        precision: Arithmetic; below float32 the network decides where it may be used (autocast).
        batch_size: Most pictures, points or instances in one call; 0 takes 8 pictures, 64 points and 64 instances.
            Less where memory does not hold them.
    """

    def __init__(self, loaded: LoadedSam2, *, precision: Precision = "auto", batch_size: int = 0) -> None:
        self.loaded = loaded
        self._held = loaded.held
        self.device = self._held.device
        self.precision = resolved_precision(precision, self.device)
        self.is_compiled = self._held.is_compiled
        self._compiled, self._plain = self._held.network, loaded.plain
        self._pictures = Batches(batch_size or _PICTURES, device=self.device)
        self._points = Batches(batch_size or _POINTS, device=self.device)
        self._instances = Batches(batch_size or _COMPILED_COUNTS[-1], device=self.device)
        looked_back = self._plain.num_maskmem * self._plain.memory_temporal_stride_for_eval
        self._kept = max(looked_back, self._plain.max_obj_ptrs_in_encoder) + 1

    @property
    def mask_side(self) -> int:
        """Pixels of a side of the logits."""
        return int(self._plain.image_size) // 4

    def _arithmetic(self) -> AbstractContextManager[Any]:
        import torch  # type: ignore[import-not-found,unused-ignore]

        if self.precision == "float32":
            return nullcontext()
        autocast: AbstractContextManager[Any] = torch.autocast(
            self.device.type, dtype=getattr(torch, self.precision)
        )
        return autocast

    def reporting_loss(self) -> AbstractContextManager[None]:
        """As of :meth:`resources.models.torch_runtime.HeldNetwork.reporting_loss`."""
        return self._held.reporting_loss()

    @contextmanager
    def _running(self) -> Iterator[None]:
        with self.loaded.lock, self._held.in_use(), self._arithmetic():
            yield

    # ------------------------------------------------------------------ pictures

    def encode(self, frames: Iterable[ClipFrame]) -> Iterator[tuple[ClipFrame, Features]]:
        """Every frame with what the image encoder says of it, in order; frames are taken a batch at a time."""
        return self._pictures.stream(frames, self._encode)

    def _encode(self, frames: Sequence[ClipFrame]) -> list[tuple[ClipFrame, Features]]:
        images = [frame.image for frame in frames]
        if self.is_compiled:
            images += images[-1:] * (self._pictures.size - len(images))
        with self._running():
            found = self._compiled.forward_image(self._input(np.stack(images)))
            count = self._compiled.num_feature_levels
            levels = found["backbone_fpn"][-count:]
            # The same for all pictures; a view of the first would keep those of all.
            positions = (found["vision_pos_enc"][-1][:1].clone(),)
            return [
                (
                    frame,
                    Features(
                        levels=tuple(level[place : place + 1] for level in levels),
                        positions=positions,
                    ),
                )
                for place, frame in enumerate(frames)
            ]

    def _input(self, images: npt.NDArray[np.uint8]) -> Any:
        """``float32 [batch, 3, side, side]``: RGB, ImageNet mean and deviation, stretched to a square."""
        import torch  # type: ignore[import-not-found,unused-ignore]

        side = self._compiled.image_size
        pixels = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).flip(1).float() / 255
        sized = torch.nn.functional.interpolate(
            pixels, size=(side, side), mode="bilinear", align_corners=False, antialias=True
        )
        # Without waiting for what the device has still to do.
        mean, deviation = (
            torch.tensor(values).to(self.device, non_blocking=True)
            for values in (IMAGENET_MEAN, IMAGENET_DEVIATION)
        )
        return (sized - mean[:, None, None]) / deviation[:, None, None]

    # ------------------------------------------------------------------ prompts

    def prompted(
        self, features: Features, points_xy: npt.NDArray[np.float32], labels: npt.NDArray[np.int32]
    ) -> Any:
        """Masks that prompts ask for, without looking at other frames, as logits ``[B, side, side]``.

        Args:
            features: The picture.
            points_xy: ``float32 [B, P, 2]``, 0-1 over the picture.
            labels: ``int32 [B, P]``: :data:`PADDING`, :data:`INSIDE`, or the corners of a :data:`BOX`, these first.
        """
        with self._running():
            logits, _ = self._decode(features, points_xy, labels, several=False)
            return logits[:, 0].float()

    def _decode(
        self,
        features: Features,
        points_xy: npt.NDArray[np.float32],
        labels: npt.NDArray[np.int32],
        *,
        several: bool,
    ) -> tuple[Any, Any]:
        """Logits ``[B, 1 or 3, side, side]`` and the quality that the network foresees, ``[B, 1 or 3]``."""
        import torch  # type: ignore[import-not-found,unused-ignore]

        model = self._plain
        coordinates = torch.from_numpy(points_xy).to(self.device) * model.image_size
        sparse, dense = model.sam_prompt_encoder(
            points=(coordinates, torch.from_numpy(labels).to(self.device)), boxes=None, masks=None
        )
        embedding = features.levels[-1]
        if model.directly_add_no_mem_embed:
            embedding = embedding + model.no_mem_embed.permute(1, 2, 0)[..., None]
        logits, quality, _, _ = model.sam_mask_decoder(
            image_embeddings=embedding,
            image_pe=model.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=several,
            repeat_image=True,
            high_res_features=list(features.levels[:-1]) or None,
        )
        return logits, quality

    def propose(
        self,
        features: Features,
        *,
        points_per_side: int,
        predicted_iou_threshold: float,
        stability_threshold: float,
    ) -> Proposals:
        """Masks around the points of a grid: three for every point, those that are good enough.

        Args:
            features: The picture.
            points_per_side: Points in a row and in a column.
            predicted_iou_threshold: Least intersection over union that the network foresees.
            stability_threshold: Least intersection over union of the masks at a higher and at a lower cut-off.
        """
        import torch  # type: ignore[import-not-found,unused-ignore]

        steps = (np.arange(points_per_side, dtype=np.float32) + 0.5) / points_per_side
        grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)

        def call(points: Sequence[npt.NDArray[np.float32]]) -> list[tuple[Any, Any]]:
            asked = np.stack(points)[:, None]
            with self._running():
                logits, quality = self._decode(
                    features, asked, np.full(asked.shape[:2], INSIDE, np.int32), several=True
                )
                logits, quality = logits.float(), quality.float()
                inner = (logits > _STABILITY_STEP).sum((-1, -2))
                outer = (logits > -_STABILITY_STEP).sum((-1, -2))
                stability = inner / outer.clamp(min=1)
                good = (quality >= predicted_iou_threshold) & (stability >= stability_threshold) & (inner > 0)
                scores = (quality * stability).clamp(0, 1)
                # All at once: every choice by a mask waits for the device.
                chosen = good.nonzero(as_tuple=True)
                counts = good.sum(dim=1).tolist()
                # Half the bytes are enough until the few that are needed are chosen.
                found = logits[chosen].half().split(counts), scores[chosen].split(counts)
                return list(zip(*found, strict=True))

        found = self._points.run(list(grid), call)
        logits, scores = torch.cat([item[0] for item in found]), torch.cat([item[1] for item in found])
        best = torch.argsort(scores, descending=True, stable=True)[:_MOST_PROPOSALS]
        return Proposals(logits=logits[best].float(), scores=scores[best].cpu().numpy())

    def shared_pixels(self, a: Any, b: Any) -> npt.NDArray[np.int64]:
        """``int64 [M, N]``, pixels that masks ``bool [M, side, side]`` and ``bool [N, side, side]`` share."""
        # Single precision counts to 16 million, more than a mask has pixels.
        products = a.flatten(1).float() @ b.flatten(1).float().T
        return np.asarray(products.cpu().numpy().round(), dtype=np.int64)

    # ------------------------------------------------------------------ following

    def begin(self, at: Sequence[tuple[int, Features, Any]]) -> Memory:
        """Begin to follow instances from their masks.

        Args:
            at: Position in the clip, the picture there, and the logits of the instances, ``[N, side, side]``, in the
                same order everywhere; an instance that is not seen in a picture has none above 0 there.
        """
        import torch  # type: ignore[import-not-found,unused-ignore]

        count = int(at[0][2].shape[0])
        memory = Memory(count=self._filled(count))
        side = self._plain.image_size
        for position, features, logits in at:
            with torch.inference_mode():
                large = torch.nn.functional.interpolate(
                    logits[:, None].float(), size=(side, side), mode="bilinear", align_corners=False
                )
                masks = (large > 0).float()
                masks = torch.cat([masks, masks.new_zeros(memory.count - count, 1, side, side)])
            memory.begun[position], _ = self._step(memory, position, features, masks)
        return memory

    def follow(self, memory: Memory, position: int, features: Features) -> Any:
        """Masks of the instances in the next frame, as logits ``[N, side, side]``; is remembered."""
        memory.followed[position], logits = self._step(memory, position, features, None)
        for old in [key for key in memory.followed if key <= position - self._kept]:
            del memory.followed[old]
        return logits[:, 0].float()

    def _filled(self, count: int) -> int:
        if not self.is_compiled:
            return count
        whole, rest = divmod(count, _COMPILED_COUNTS[-1])
        return whole * _COMPILED_COUNTS[-1] + next(
            filled for filled in (0, *_COMPILED_COUNTS) if filled >= rest
        )

    def _step(
        self, memory: Memory, position: int, features: Features, masks: Any
    ) -> tuple[dict[str, Any], Any]:
        """What is to be remembered, and the logits of all instances, ``[N, 1, side, side]``."""

        def call(places: Sequence[int]) -> list[tuple[dict[str, Any], int]]:
            window = slice(places[0], places[-1] + 1)
            found = self._track(memory, position, features, masks, window)
            return [(found, place) for place in range(len(places))]

        found = self._instances.run(range(memory.count), call)
        outputs = _joined([output for output, place in found if place == 0])
        return outputs, outputs.pop("pred_masks")

    def _track(
        self, memory: Memory, position: int, features: Features, masks: Any, window: slice
    ) -> dict[str, Any]:
        count = window.stop - window.start
        # Masks that are given go straight to the memory; only what is followed has one shape.
        model = self._compiled if masks is None else self._plain
        with self._running():
            output = model.track_step(
                frame_idx=position,
                is_init_cond_frame=masks is not None,
                current_vision_feats=[_tokens(level, count) for level in features.levels],
                current_vision_pos_embeds=[_tokens(level, count) for level in features.positions],
                feat_sizes=[tuple(level.shape[-2:]) for level in features.levels],
                point_inputs=None,
                mask_inputs=None if masks is None else masks[window],
                output_dict={
                    "cond_frame_outputs": {t: _part(kept, window) for t, kept in memory.begun.items()},
                    "non_cond_frame_outputs": {t: _part(kept, window) for t, kept in memory.followed.items()},
                },
                num_frames=_FRAMES,
                run_mem_encoder=True,
            )
        return {
            "maskmem_features": output["maskmem_features"],
            # The same for all instances; a view of the first would keep those of all.
            "maskmem_pos_enc": [encoding[:1].clone() for encoding in output["maskmem_pos_enc"]],
            "pred_masks": output["pred_masks"],
            "obj_ptr": output["obj_ptr"],
        }

    # ------------------------------------------------------------------ drawing

    def on_device(self, masks: npt.NDArray[np.bool_]) -> Any:
        """Masks of a frame, ``bool [n, h, w]``, as logits ``[n, side, side]``."""
        import torch  # type: ignore[import-not-found,unused-ignore]

        size = (self.mask_side, self.mask_side)
        if not len(masks):
            return torch.zeros((0, *size), device=self.device)
        with torch.inference_mode():
            shares = torch.nn.functional.interpolate(
                torch.from_numpy(masks).to(self.device)[:, None].float(), size=size, mode="area"
            )
            return (shares[:, 0] * 2 - 1) * CERTAIN_LOGIT

    def drawn(self, logits: Any, *, width: int, height: int) -> npt.NDArray[np.bool_]:
        """Masks at the size of a frame, ``bool [n, h, w]``, each for itself."""
        import torch  # type: ignore[import-not-found,unused-ignore]

        with torch.inference_mode():
            return np.asarray(_enlarged(logits, width, height).gt(0).cpu().numpy(), dtype=np.bool_)

    def index_map(self, logits: Any, *, width: int, height: int) -> npt.NDArray[np.uint8]:
        """Which mask each pixel of a frame belongs to, counted from 1; 0 for none: ``uint8 [h, w]``.

        Where masks overlap, the one that is surer of the pixel has it.
        """
        import torch  # type: ignore[import-not-found,unused-ignore]

        with torch.inference_mode():
            best = torch.zeros((height, width), device=self.device)
            indices = torch.zeros((height, width), dtype=torch.uint8, device=self.device)
            for start in range(0, logits.shape[0], _DRAWN_AT_ONCE):
                sure, index = _enlarged(logits[start : start + _DRAWN_AT_ONCE], width, height).max(dim=0)
                better = sure > best
                indices = torch.where(better, (index + start + 1).to(torch.uint8), indices)
                best = torch.where(better, sure, best)
            return np.asarray(indices.cpu().numpy(), dtype=np.uint8)


def _enlarged(logits: Any, width: int, height: int) -> Any:
    import torch  # type: ignore[import-not-found,unused-ignore]

    return torch.nn.functional.interpolate(
        logits[:, None].float(), size=(height, width), mode="bilinear", align_corners=False
    )[:, 0]


def _tokens(level: Any, count: int) -> Any:
    """``[1, channels, h, w]`` as ``[h * w, count, channels]``."""
    return level.flatten(2).permute(2, 0, 1).expand(-1, count, -1)


def _part(kept: Mapping[str, Any], window: slice) -> dict[str, Any]:
    """What is remembered of some of the instances."""
    count = window.stop - window.start
    part = {name: value[window] for name, value in kept.items() if name != "maskmem_pos_enc"}
    encodings = [encoding.expand(count, -1, -1, -1) for encoding in kept["maskmem_pos_enc"]]
    return {**part, "maskmem_pos_enc": encodings}


def _joined(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    import torch  # type: ignore[import-not-found,unused-ignore]

    if len(parts) == 1:
        return dict(parts[0])
    joined = {
        name: torch.cat([part[name] for part in parts]) for name in parts[0] if name != "maskmem_pos_enc"
    }
    return {**joined, "maskmem_pos_enc": parts[0]["maskmem_pos_enc"]}


def _uncompiled(network: Any) -> Any:
    """The same network, with the same parameters, whose components run as they were written."""
    plain = copy.copy(network)
    plain._modules = dict(network._modules)
    for name, module in network._modules.items():
        if "forward" in getattr(module, "__dict__", {}):
            plain._modules[name] = twin = copy.copy(module)
            del twin.__dict__["forward"]
    return plain
