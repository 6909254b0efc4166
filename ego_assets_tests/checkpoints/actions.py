"""A small VideoMAE with random weights, as ``save_pretrained`` writes it; it has the 400 classes of Kinetics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resources.models import registry
from resources.models.registry import ModelCard

#: Small, and a multiple of the patches' side.
SIDE, PATCH = 32, 8


def kinetics_classes() -> list[str]:
    """The 400 classes in their order, as torchvision lists them for its own video networks."""
    from torchvision.models.video import R3D_18_Weights  # type: ignore[import-not-found,unused-ignore]

    return list(R3D_18_Weights.DEFAULT.meta["categories"])


def make_videomae(models_dir: Path) -> Mapping[str, Any]:
    """The checkpoint fine-tuned on Kinetics-400, but small."""
    save_videomae(models_dir, registry.VIDEOMAE_KINETICS, kinetics_classes())
    return {}


def save_videomae(models_dir: Path, card: ModelCard, classes: Sequence[str], *, frames: int = 16) -> Path:
    """Write a small VideoMAE classifier and its preprocessing to a card's folder, which is returned."""
    import torch  # type: ignore[import-not-found,unused-ignore]
    from transformers import (  # type: ignore[import-not-found,unused-ignore]
        VideoMAEConfig,
        VideoMAEForVideoClassification,
        VideoMAEImageProcessor,
    )

    config = VideoMAEConfig(
        image_size=SIDE,
        patch_size=PATCH,
        num_frames=frames,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        id2label=dict(enumerate(classes)),
        label2id={name: number for number, name in enumerate(classes)},
        # Larger than usual, so that different pictures are answered differently.
        initializer_range=0.5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        network = VideoMAEForVideoClassification(config)
    folder = models_dir / card.folder
    network.save_pretrained(folder)
    # Mean and deviation of the published checkpoint; those of the library are others.
    VideoMAEImageProcessor(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)
    return folder


MAKERS = {"videomae": make_videomae}
