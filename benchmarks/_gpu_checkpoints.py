"""Checkpoints of the true size with random weights, under the published names: they cost what trained ones cost.

Every function writes what the loading code of a backend expects below a folder of weights. Sizes are those of the
published configurations. Digests cannot be those of the registry, so :func:`any_digest` switches their comparison off.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

#: Depth Anything V2: encoder DINOv2 and head DPT (Yang et al., 2024).
DEPTH_ANYTHING: Mapping[str, Mapping[str, Any]] = {
    "small": {"width": 384, "layers": 12, "heads": 6, "out": [3, 6, 9, 12], "neck": [48, 96, 192, 384], "fusion": 64},
    "base": {"width": 768, "layers": 12, "heads": 12, "out": [3, 6, 9, 12], "neck": [96, 192, 384, 768], "fusion": 128},
    "large": {
        "width": 1024,
        "layers": 24,
        "heads": 16,
        "out": [5, 12, 18, 24],
        "neck": [256, 512, 1024, 1024],
        "fusion": 256,
    },
}  # fmt: skip

#: Name of the architecture in open_clip, and of OpenAI's activation, which those weights were trained with.
CLIP_ARCHITECTURE = "ViT-L-14"

#: VideoMAE base (Tong et al., 2022), fine-tuned on Kinetics-400.
VIDEOMAE: Mapping[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}


@contextmanager
def any_digest() -> Iterator[None]:
    """Accept weights whose digest is not that of the published checkpoint."""
    with mock.patch("resources.models.weights.expected_digest", return_value=""):
        yield


def write_depth_anything(models_dir: Path, size: str) -> None:
    """The metric checkpoints for indoor and outdoor scenes, of equal weights."""
    from transformers import (  # type: ignore[import-not-found,unused-ignore]
        DepthAnythingConfig,
        DepthAnythingForDepthEstimation,
        Dinov2Config,
    )

    from resources.models.registry import DEPTH_ANYTHING_METRIC

    dimensions = DEPTH_ANYTHING[size]
    config = DepthAnythingConfig(
        backbone_config=Dinov2Config(
            image_size=518,
            patch_size=14,
            hidden_size=dimensions["width"],
            num_hidden_layers=dimensions["layers"],
            num_attention_heads=dimensions["heads"],
            out_indices=dimensions["out"],
            apply_layernorm=True,
            reshape_hidden_states=False,
        ),
        patch_size=14,
        reassemble_hidden_size=dimensions["width"],
        neck_hidden_sizes=dimensions["neck"],
        fusion_hidden_size=dimensions["fusion"],
        head_hidden_size=32,
        depth_estimation_type="metric",
        max_depth=20,
    )
    indoor, outdoor = (models_dir / card.folder for card in DEPTH_ANYTHING_METRIC[size])
    DepthAnythingForDepthEstimation(config).save_pretrained(indoor)
    shutil.copytree(indoor, outdoor)
    path = outdoor / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_depth": 80}))


def write_sam2(models_dir: Path, checkpoint: str) -> None:
    """SAM 2.1 as it is published: the state of the network under ``model``."""
    import torch  # type: ignore[import-not-found,unused-ignore]
    from sam2.build_sam import build_sam2  # type: ignore[import-not-found,unused-ignore]

    from resources.models.registry import SAM2
    from resources.models.sam2_masks import published_configuration

    (card,) = SAM2[checkpoint]
    path = models_dir / card.file
    path.parent.mkdir(parents=True, exist_ok=True)
    network = build_sam2(
        f"configs/sam2.1/{published_configuration(checkpoint).name}", ckpt_path=None, device="cpu"
    )
    torch.save({"model": sam2_state(network)}, path)


def sam2_state(network: Any) -> dict[str, Any]:
    """State of a random SAM 2.1, with weights of its decoder enlarged: as they are, it answers one value everywhere."""
    return {
        name: value * 3.0 if name.startswith("sam_mask_decoder.") and value.dim() > 1 else value
        for name, value in network.state_dict().items()
    }


def write_clip(models_dir: Path) -> None:
    """CLIP ViT-L/14 in the layout of ``open_clip``."""
    import open_clip  # type: ignore[import-not-found,unused-ignore]
    from safetensors.torch import save_file  # type: ignore[import-not-found,unused-ignore]

    from resources.models.open_clip_embeddings import CLIP_DEVIATION, CLIP_MEAN
    from resources.models.registry import CLIP_VIT_L_14

    config = {**open_clip.get_model_config(CLIP_ARCHITECTURE), "quick_gelu": True}
    folder = models_dir / CLIP_VIT_L_14.folder
    folder.mkdir(parents=True)
    network = open_clip.create_model(CLIP_ARCHITECTURE, pretrained=None)
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    preparation = {
        "mean": CLIP_MEAN,
        "std": CLIP_DEVIATION,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    document = {"model_cfg": config, "preprocess_cfg": preparation}
    (folder / "open_clip_config.json").write_text(json.dumps(document))


def write_videomae(models_dir: Path) -> None:
    """VideoMAE base with the classes of Kinetics-400, which the label map asks for, and its preprocessing."""
    from torchvision.models.video import R3D_18_Weights  # type: ignore[import-not-found,unused-ignore]
    from transformers import (  # type: ignore[import-not-found,unused-ignore]
        VideoMAEConfig,
        VideoMAEForVideoClassification,
        VideoMAEImageProcessor,
    )

    from resources.models.images import IMAGENET_DEVIATION, IMAGENET_MEAN
    from resources.models.registry import VIDEOMAE_KINETICS

    classes = R3D_18_Weights.DEFAULT.meta["categories"]
    config = VideoMAEConfig(
        **VIDEOMAE,
        use_mean_pooling=True,
        id2label=dict(enumerate(classes)),
        label2id={name: number for number, name in enumerate(classes)},
    )
    folder = models_dir / VIDEOMAE_KINETICS.folder
    VideoMAEForVideoClassification(config).save_pretrained(folder)
    VideoMAEImageProcessor(
        size={"shortest_edge": 224},
        crop_size={"height": 224, "width": 224},
        image_mean=list(IMAGENET_MEAN),
        image_std=list(IMAGENET_DEVIATION),
    ).save_pretrained(folder)


def write_raft(models_dir: Path) -> None:
    """RAFT as torchvision publishes it."""
    import torch  # type: ignore[import-not-found,unused-ignore]
    from torchvision.models.optical_flow import raft_large  # type: ignore[import-not-found,unused-ignore]

    from resources.models.registry import RAFT_LARGE

    path = models_dir / RAFT_LARGE.file
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(raft_large(weights=None).state_dict(), path)
