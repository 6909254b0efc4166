"""Small models of OpenCLIP, written as the folders of published ones are laid out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resources.models import registry

#: Sentences that the small tokenizers are made from.
SENTENCES = (
    "a person pours water from a kettle into a cup",
    "two hands cut an onion on a wooden board in a kitchen",
    "somebody walks through a long corridor with white walls",
)

#: A text tower of CLIP's own vocabulary, narrow.
_CLIP_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}

#: The structure of OpenAI's ViT-L/14, narrow and shallow; its vectors have 768 numbers.
VIT_CONFIG: Mapping[str, Any] = {
    "model_cfg": {
        "embed_dim": 768,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 56, "layers": 2, "width": 64, "head_width": 32, "patch_size": 14},
        "text_cfg": _CLIP_TEXT,
    },
    "preprocess_cfg": {
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
}

#: The structure of SigLIP: a tower of timm with attention pooling, a tokenizer in the folder, pictures squashed.
SIGLIP_CONFIG: Mapping[str, Any] = {
    "model_cfg": {
        "embed_dim": 64,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 160,
            "timm_model_name": "test_vit",
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": {
            "context_length": 16,
            "vocab_size": 128,
            "hf_tokenizer_name": "timm/ViT-B-16-SigLIP",
            "tokenizer_kwargs": {"clean": "canonicalize"},
            "width": 64,
            "heads": 2,
            "layers": 1,
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "norm_kwargs": {"eps": 1e-6},
        },
    },
    "preprocess_cfg": {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "squash",
    },
}

#: The structure of MobileCLIP, with the smallest FastViT; 512 numbers.
MOBILECLIP_CONFIG: Mapping[str, Any] = {
    "model_cfg": {
        "embed_dim": 512,
        "vision_cfg": {
            "timm_model_name": "fastvit_t8",
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": None,
            "timm_drop": 0.0,
            "timm_drop_path": 0.0,
            "image_size": 128,
        },
        "text_cfg": {**_CLIP_TEXT, "no_causal_mask": True},
        "custom_text": True,
    },
    "preprocess_cfg": {
        "mean": [0.0, 0.0, 0.0],
        "std": [1.0, 1.0, 1.0],
        "interpolation": "bilinear",
        "resize_mode": "shortest",
    },
}


def write_open_clip(folder: Path, config: Mapping[str, Any], *, seed: int = 0) -> None:
    """Write a model of random weights as ``open_clip_model.safetensors``, its configuration and its tokenizer."""
    import open_clip  # type: ignore[import-not-found,unused-ignore]
    import torch  # type: ignore[import-not-found,unused-ignore]
    from safetensors.torch import save_file  # type: ignore[import-not-found,unused-ignore]

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2))
    if config["model_cfg"]["text_cfg"].get("hf_tokenizer_name"):
        write_unigram_tokenizer(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")


def write_unigram_tokenizer(folder: Path) -> None:
    """Write a tokenizer of the kind that SigLIP uses: SentencePiece's unigram model, in the format of T5."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers  # type: ignore[import-not-found,unused-ignore]
    from transformers import PreTrainedTokenizerFast  # type: ignore[import-not-found,unused-ignore]

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=100, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="</s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    # What the published folder says; a class of its own, not the general one.
    described = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**described, "tokenizer_class": "T5Tokenizer"}))
    special = {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))


def make_open_clip(models_dir: Path) -> Mapping[str, Any]:
    """The checkpoint ``vit_l_14``."""
    folder = models_dir / registry.CLIP_VIT_L_14.folder
    if not folder.is_dir():
        write_open_clip(folder, VIT_CONFIG)
    return {"checkpoint": "vit_l_14", "device": "cpu", "compile": "never"}


def make_siglip(models_dir: Path) -> Mapping[str, Any]:
    """The checkpoint ``siglip_b_16``."""
    write_open_clip(models_dir / registry.SIGLIP_B_16.folder, SIGLIP_CONFIG)
    return {"checkpoint": "siglip_b_16", "device": "cpu", "compile": "never"}


def make_mobileclip(models_dir: Path) -> Mapping[str, Any]:
    """The checkpoint ``mobileclip_s2``."""
    write_open_clip(models_dir / registry.MOBILECLIP_S2.folder, MOBILECLIP_CONFIG)
    return {"checkpoint": "mobileclip_s2", "device": "cpu", "compile": "never"}


MAKERS = {"open_clip": make_open_clip}
