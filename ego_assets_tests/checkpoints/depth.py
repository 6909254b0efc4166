"""Small Depth Anything V2, written as ``save_pretrained`` writes the large ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resources.models.registry import DEPTH_ANYTHING_METRIC, DEPTH_ANYTHING_RELATIVE, ModelCard

#: Largest depth in metres that the published checkpoints say, indoors and outdoors.
MAX_DEPTH_M = (20, 80)
#: What small networks need: the real size, and a picture of 3x5 patches.
SETTINGS = {"checkpoint": "small", "input_side": 42, "device": "cpu", "batch_size": 2}


def write_depth_anything(
    models_dir: Path,
    card: ModelCard,
    *,
    max_depth: int | None = None,
    says: float | None = None,
) -> None:
    """Write a network of the real architecture with few and narrow layers.

    Args:
        models_dir: Folder of the weights.
        card: Whose place to take.
        max_depth: Largest depth in metres; ``None`` for a network without a scale.
        says: What it answers for every pixel: metres, or inverse depth. Its weights are random by default.
    """
    import torch  # type: ignore[import-not-found,unused-ignore]
    from transformers import (  # type: ignore[import-not-found,unused-ignore]
        DepthAnythingConfig,
        DepthAnythingForDepthEstimation,
        Dinov2Config,
    )

    width, layers = 32, 4
    config = DepthAnythingConfig(
        backbone_config=Dinov2Config(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=2,
            image_size=56,
            patch_size=14,
            out_indices=list(range(1, layers + 1)),
            reshape_hidden_states=False,
        ),
        reassemble_hidden_size=width,
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=8,
        head_hidden_size=8,
        depth_estimation_type="relative" if max_depth is None else "metric",
        max_depth=max_depth or 1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = DepthAnythingForDepthEstimation(config)
        last = network.head.conv3
        if says is not None:
            torch.nn.init.zeros_(last.weight)
            share = says / max_depth if max_depth else None
            torch.nn.init.constant_(last.bias, says if share is None else math.log(share / (1 - share)))
        elif max_depth is None:
            # Random answers are as often negative, which says nothing.
            torch.nn.init.constant_(last.bias, 1.0)
        network.save_pretrained(models_dir / card.folder)


def _metric(models_dir: Path) -> Mapping[str, Any]:
    for card, max_depth in zip(DEPTH_ANYTHING_METRIC["small"], MAX_DEPTH_M, strict=True):
        if not (models_dir / card.folder).exists():
            write_depth_anything(models_dir, card, max_depth=max_depth)
    return SETTINGS


def _relative(models_dir: Path) -> Mapping[str, Any]:
    (card,) = DEPTH_ANYTHING_RELATIVE["small"]
    if not (models_dir / card.folder).exists():
        write_depth_anything(models_dir, card)
    return SETTINGS


MAKERS = {"depth_anything_v2": _metric, "depth_anything_v2_relative": _relative}
