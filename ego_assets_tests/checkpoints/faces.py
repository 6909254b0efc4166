"""Face detectors: the published networks, with heads that answer the same everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ego_assets_tests.checkpoints.egoblur import write_egoblur
from resources.models.registry import EGOBLUR_FACES, RETINAFACE_MOBILENET, RETINAFACE_RESNET50

#: Settings under which the networks take little time on a CPU.
_QUICK = {"device": "cpu", "max_side": 160, "large_face_side": 0}


def answer_alike(state: dict[str, Any], *, level: int | None, prior: int) -> None:
    """Make the heads answer the same everywhere, in place.

    Args:
        state: ``state_dict`` of a RetinaFace.
        level: Map in which one prior of every cell is a face, where it lies; ``None`` for no face at all.
        prior: Which one.
    """
    for name, value in state.items():
        if "Head" in name:
            value.zero_()
        if name.startswith("ClassHead") and name.endswith("bias"):
            # Pairs of background and face.
            value[0::2] = 10.0
            if level is not None and f".{level}." in name:
                value[2 * prior], value[2 * prior + 1] = 0.0, 2.0


def write_retinaface_resnet50(path: Path, *, level: int | None = None, prior: int = 0) -> None:
    """Weights of ``retinaface-pytorch``'s network that answer alike everywhere: a hundred megabytes."""
    import torch
    from retinaface.network import RetinaFace

    state = RetinaFace(
        name="Resnet50",
        pretrained=False,
        return_layers={"layer2": 1, "layer3": 2, "layer4": 3},
        in_channels=256,
        out_channels=256,
    ).state_dict()
    answer_alike(state, level=level, prior=prior)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)


def _retinaface_resnet50(models_dir: Path) -> Mapping[str, Any]:
    write_retinaface_resnet50(models_dir / RETINAFACE_RESNET50.file)
    return _QUICK


def _retinaface_mobilenet(models_dir: Path) -> Mapping[str, Any]:
    import torch

    from resources.models.retinaface_network import RetinaFaceMobileNet

    state = RetinaFaceMobileNet().state_dict()
    answer_alike(state, level=1, prior=1)
    path = models_dir / RETINAFACE_MOBILENET.file
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return _QUICK


def _egoblur(models_dir: Path) -> Mapping[str, Any]:
    write_egoblur(models_dir / EGOBLUR_FACES.file)
    return {"device": "cpu", "longer_side": 320}


MAKERS = {
    "retinaface_resnet50": _retinaface_resnet50,
    "retinaface_mobilenet": _retinaface_mobilenet,
    "egoblur": _egoblur,
}
