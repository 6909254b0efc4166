"""Dense optical flow by RAFT (Teed and Deng, 2020) on PyTorch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ego_assets.schema.detections import BackendInfo, BgrImage
from ego_assets.schema.flow import FlowField
from resources.models.backends import BACKENDS
from resources.models.boxes import positions_by_size
from resources.models.images import check_image
from resources.models.registry import RAFT_LARGE, RAFT_SMALL_PRINCETON, ModelCard
from resources.models.setting_checks import Compile, Precision
from resources.models.torch_device import torch_device
from resources.models.torch_runtime import Batches, HeldNetwork, Hold, compiles, shared_network
from resources.models.torch_weights import load_weights
from resources.models.weights import card_digest, locate

#: Parts of the names that the authors' small network gives its parameters, and torchvision's for the same.
_PRINCETON_NAMES = (
    (r"^fnet\.", "feature_encoder."),
    (r"^cnet\.", "context_encoder."),
    (r"^(\w+_encoder)\.conv1\.", r"\1.convnormrelu.0."),
    (r"^(\w+_encoder)\.conv2\.", r"\1.conv."),
    (r"^(\w+_encoder\.layer\d\.\d)\.conv(\d)\.", r"\1.convnormrelu\2.0."),
    (r"^update_block\.encoder\.convc1\.", "update_block.motion_encoder.convcorr1.0."),
    (r"^update_block\.encoder\.convf(\d)\.", r"update_block.motion_encoder.convflow\1.0."),
    (r"^update_block\.encoder\.conv\.", "update_block.motion_encoder.conv.0."),
    (r"^update_block\.gru\.", "update_block.recurrent_block.convgru1."),
)


def torchvision_name(name: str) -> str:
    """What torchvision calls a parameter of the small network that its authors published as ``name``."""
    for pattern, replacement in _PRINCETON_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


class RaftFlow:
    """RAFT (Teed and Deng, 2020). Implements :class:`ego_assets.schema.flow.FlowEstimator`.

    Args:
        models_dir: Folder of the weights.
        checkpoint: ``large`` and ``small`` are torchvision's weights, ``small_princeton`` the authors' own.
        iterations: How often the flow is refined; more is slower and more exact (12 in training).
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: Arithmetic of encoders and updates; correlation and coordinates are float32 always.
        compile: Whether ``torch.compile`` prepares the refinement, the part that runs most often.
        batch_size: Most pairs in one call; 0 chooses by the memory that the first pair took.

    Raises:
        BackendUnavailable: The weights are missing or others, or the device is not there.
        ValueError: A setting has a wrong value.
    """

    def __init__(
        self,
        *,
        models_dir: Path | None = None,
        checkpoint: str = "large",
        iterations: int = 12,
        device: str = "auto",
        precision: Precision = "auto",
        compile: Compile = "auto",
        batch_size: int = 0,
    ) -> None:
        spec = BACKENDS["flow"]["raft"]
        spec.check_arguments(locals())
        (card,) = spec.models_for({"checkpoint": checkpoint})
        self._card = card
        path = locate(self._card, models_dir)
        self._digest = card_digest(self._card, models_dir)
        self._iterations = iterations
        self._held = shared_network(
            card,
            path,
            self._digest,
            # Compiled as a whole, each of the refinements would be compiled anew, which takes minutes.
            lambda hold: _load(card, path, hold, compiles_refinement=compiles(compile, torch_device(device))),
            device=device,
            precision=precision,
            compile=compile,
        )
        self._batches = Batches(batch_size, device=self._held.device, is_compiled=self._held.is_compiled)

    @property
    def info(self) -> BackendInfo:
        """What runs."""
        return BackendInfo(
            task="flow",
            backend="raft",
            model=self._card.name,
            weights_sha256=self._digest,
            licence=self._card.licence,
        )

    def flow(self, pairs: Sequence[tuple[BgrImage, BgrImage]]) -> list[FlowField]:
        """One field per pair, in pixels of the pictures given; pairs of equal size share a call.

        Pictures are continued at the borders to multiples of 8 pixels and 128 at least; the fields are cut back.

        Raises:
            ValueError: The pictures of a pair differ in size.
            DeviceMemoryExhausted: A single pair does not fit: the correlation of two pictures needs
                ``1.33 * (width * height / 64) ** 2 * 4`` bytes.
        """
        from resources.models.raft_network import most_pairs

        for number, (first, second) in enumerate(pairs):
            check_image(first)
            check_image(second)
            if first.shape != second.shape:
                raise ValueError(
                    f"pair {number}: expected pictures of one size, got {list(first.shape)} and {list(second.shape)}"
                )
        fields: dict[int, FlowField] = {}
        for numbers in positions_by_size([first.shape for first, _ in pairs]):
            same = [pairs[number] for number in numbers]
            height, width = same[0][0].shape[:2]
            found = self._batches.stream(same, self._run, max_batch=most_pairs(width, height))
            fields.update(zip(numbers, found, strict=True))
        return [fields[number] for number in range(len(pairs))]

    def _run(self, pairs: Sequence[tuple[BgrImage, BgrImage]]) -> list[FlowField]:
        import torch  # type: ignore[import-not-found,unused-ignore]

        def uploaded(pictures: Sequence[BgrImage]) -> Any:
            # Contiguous again after the change of order, so that the compiled network sees one layout only.
            batch = torch.from_numpy(np.stack(pictures)).to(self._held.device)
            return batch.permute(0, 3, 1, 2).flip(1).contiguous()

        with self._held.in_use() as network:
            firsts, seconds = zip(*pairs, strict=True)
            field = network(uploaded(firsts), uploaded(seconds), iterations=self._iterations)
            return list(field.permute(0, 2, 3, 1).contiguous().cpu().numpy())


def _load(card: ModelCard, path: Path, hold: Hold, *, compiles_refinement: bool) -> HeldNetwork:
    from resources.models.raft_network import Raft

    network = Raft("large" if card is RAFT_LARGE else "small")
    load_weights(network.raft, path, renamed=torchvision_name if card is RAFT_SMALL_PRINCETON else None)
    held = hold(network, compile="never", has_compiled_parts=compiles_refinement)
    if compiles_refinement:
        network.refinement.compile()
    return held
