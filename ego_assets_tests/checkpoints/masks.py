"""A small SAM 2.1: the published architecture with few channels and a small picture, random weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks._gpu_checkpoints import sam2_state

#: Pixels of a side of its picture, of the coarsest level that masks are made from, and channels.
_SIDE, _LEVEL, _CHANNELS, _MEMORY_CHANNELS = 128, 8, 32, 16


def _attention(**more: Any) -> dict[str, Any]:
    return {
        "_target_": "sam2.modeling.sam.transformer.RoPEAttention",
        "rope_theta": 10000.0,
        "feat_sizes": [_LEVEL, _LEVEL],
        "embedding_dim": _CHANNELS,
        "num_heads": 1,
        "downsample_rate": 1,
        "dropout": 0.1,
        **more,
    }


def _positions(channels: int) -> dict[str, Any]:
    return {
        "_target_": "sam2.modeling.position_encoding.PositionEmbeddingSine",
        "num_pos_feats": channels,
        "normalize": True,
        "scale": None,
        "temperature": 10000,
        "image_size": _SIDE,
    }


def small_configuration() -> dict[str, Any]:
    """A Hydra configuration with the entries of ``sam2.1_hiera_t.yaml``."""
    encoder = {
        "_target_": "sam2.modeling.backbones.image_encoder.ImageEncoder",
        "scalp": 1,
        "trunk": {
            "_target_": "sam2.modeling.backbones.hieradet.Hiera",
            "embed_dim": 8,
            "num_heads": 1,
            "stages": [1, 1, 2, 1],
            "global_att_blocks": [3],
            "window_spec": [4, 4, 4, 2],
            "window_pos_embed_bkg_spatial_size": [4, 4],
        },
        "neck": {
            "_target_": "sam2.modeling.backbones.image_encoder.FpnNeck",
            "position_encoding": _positions(_CHANNELS),
            "d_model": _CHANNELS,
            "backbone_channel_list": [64, 32, 16, 8],
            "fpn_top_down_levels": [2, 3],
            "fpn_interp_model": "nearest",
        },
    }
    attention = {
        "_target_": "sam2.modeling.memory_attention.MemoryAttention",
        "d_model": _CHANNELS,
        "pos_enc_at_input": True,
        "layer": {
            "_target_": "sam2.modeling.memory_attention.MemoryAttentionLayer",
            "activation": "relu",
            "dim_feedforward": 32,
            "dropout": 0.1,
            "pos_enc_at_attn": False,
            "self_attention": _attention(),
            "d_model": _CHANNELS,
            "pos_enc_at_cross_attn_keys": True,
            "pos_enc_at_cross_attn_queries": False,
            "cross_attention": _attention(rope_k_repeat=True, kv_in_dim=_MEMORY_CHANNELS),
        },
        "num_layers": 1,
    }
    memory = {
        "_target_": "sam2.modeling.memory_encoder.MemoryEncoder",
        "in_dim": _CHANNELS,
        "out_dim": _MEMORY_CHANNELS,
        "position_encoding": _positions(_MEMORY_CHANNELS),
        "mask_downsampler": {
            "_target_": "sam2.modeling.memory_encoder.MaskDownSampler",
            "embed_dim": _CHANNELS,
            "kernel_size": 3,
            "stride": 2,
            "padding": 1,
        },
        "fuser": {
            "_target_": "sam2.modeling.memory_encoder.Fuser",
            "layer": {
                "_target_": "sam2.modeling.memory_encoder.CXBlock",
                "dim": _CHANNELS,
                "kernel_size": 7,
                "padding": 3,
                "layer_scale_init_value": 1e-6,
                "use_dwconv": True,
            },
            "num_layers": 1,
        },
    }
    flags = (
        "use_mask_input_as_output_without_sam",
        "directly_add_no_mem_embed",
        "no_obj_embed_spatial",
        "use_high_res_features_in_sam",
        "multimask_output_in_sam",
        "iou_prediction_use_sigmoid",
        "use_obj_ptrs_in_encoder",
        "add_tpos_enc_to_obj_ptrs",
        "proj_tpos_enc_in_obj_ptrs",
        "use_signed_tpos_enc_to_obj_ptrs",
        "only_obj_ptrs_in_the_past_for_eval",
        "pred_obj_scores",
        "pred_obj_scores_mlp",
        "fixed_no_obj_ptr",
        "multimask_output_for_tracking",
        "use_multimask_token_for_obj_ptr",
        "use_mlp_for_obj_ptr_proj",
    )
    return {
        "model": {
            "_target_": "sam2.modeling.sam2_base.SAM2Base",
            "image_encoder": encoder,
            "memory_attention": attention,
            "memory_encoder": memory,
            "num_maskmem": 3,
            "image_size": _SIDE,
            "sigmoid_scale_for_mem_enc": 20.0,
            "sigmoid_bias_for_mem_enc": -10.0,
            "multimask_min_pt_num": 0,
            "multimask_max_pt_num": 1,
            **dict.fromkeys(flags, True),
            "compile_image_encoder": False,
        }
    }


def make_sam2(models_dir: Path) -> Mapping[str, Any]:
    """Write ``own-masks/model.pt`` and ``model.yaml``."""
    import torch  # type: ignore[import-not-found,unused-ignore]
    import yaml
    from hydra.utils import instantiate  # type: ignore[import-not-found,unused-ignore]

    folder = models_dir / "own-masks"
    settings = {
        "checkpoint": "own",
        "points_per_side": 4,
        # Random weights foresee nothing.
        "predicted_iou_threshold": 0.0,
        "stability_threshold": 0.0,
        "max_objects": 6,
        "reseed_interval_s": 0.5,
        "chunk_frames": 3,
        "overlap_frames": 2,
        "vos_optimized": "never",
        "batch_size": 16,
    }
    if not folder.exists():
        folder.mkdir(parents=True)
        configuration = small_configuration()
        torch.manual_seed(2)
        network = instantiate(configuration["model"], _recursive_=True)
        torch.save({"model": sam2_state(network)}, folder / "model.pt")
        (folder / "model.yaml").write_text(yaml.safe_dump(configuration))
    return settings


MAKERS = {"sam2": make_sam2}
