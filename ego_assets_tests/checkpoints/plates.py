"""Plate detectors: small networks of the same interface, and WPOD-NET itself with weights that see what is bright."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ego_assets_tests.checkpoints.egoblur import write_egoblur
from resources.models.registry import EGOBLUR_PLATES, HYPERLPR_PLATES, WPOD_NET, YOLO_PLATES

#: The small YOLO answers for cells of this many pixels.
CELL = 32


# --- a small YOLO, written as ONNX by hand ------------------------------------------------------------


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def message(field: int, content: bytes | str) -> bytes:
    raw = content.encode() if isinstance(content, str) else content
    return varint(field << 3 | 2) + varint(len(raw)) + raw


def tensor(name: str, values: npt.NDArray[Any]) -> bytes:
    kind = 7 if values.dtype == np.int64 else 1
    dims = b"".join(number(1, size) for size in values.shape)
    return dims + number(2, kind) + message(8, name) + message(9, values.tobytes())


def node(operator: str, inputs: list[str], output: str, **integers: list[int] | int) -> bytes:
    attributes = b"".join(
        message(
            5,
            message(1, name)
            + (
                number(3, values) + number(20, 2)
                if isinstance(values, int)
                else b"".join(number(8, value) for value in values) + number(20, 7)
            ),
        )
        for name, values in integers.items()
    )
    return (
        b"".join(message(1, name) for name in inputs) + message(2, output) + message(4, operator) + attributes
    )


def value(name: str, shape: list[int | str]) -> bytes:
    dims = b"".join(
        message(1, number(1, size) if isinstance(size, int) else message(2, size)) for size in shape
    )
    return message(1, name) + message(2, message(1, number(1, 1) + message(2, dims)))


def write_yolo(
    path: Path, *, layout: str, batch: int | str = "batch", side: int = 128, kept: int | None = None
) -> None:
    """A network with maps of stride 16 and 32 that finds a plate in each cell of 32 pixels that is red.

    Args:
        path: File to write.
        layout: ``v8``, ``v5`` or ``corners``: the output of YOLOv8, of YOLOv5, and of one with four corners and two
            classes.
        batch: Pictures in a call, or a name where that is open.
        side: Of the input in pixels.
        kept: Only so many answers are given, as by an export with non-maximum suppression.
    """
    channels = {"v8": 5, "v5": 6, "corners": 15}[layout]
    size: list[int | str] = [batch, 3, side, side]
    nodes = []
    weights = []
    for cell in (16, CELL):
        cells = side // cell
        grid_y, grid_x = np.divmod(np.arange(cells * cells), cells)
        boxes = np.zeros((1, channels, cells * cells), np.float32)
        boxes[0, 0], boxes[0, 1] = (grid_x + 0.5) * cell, (grid_y + 0.5) * cell
        boxes[0, 2], boxes[0, 3] = cell, cell / 2
        kernel = np.zeros((channels, 3, 1, 1), np.float32)
        if cell == CELL:
            # Red minus half of green and blue, so that grey scores nothing.
            kernel[4] = np.array([1, -0.5, -0.5], np.float32).reshape(3, 1, 1)
        if layout != "v8":
            # The probability of the last class.
            boxes[0, -1] = 0.5
        nodes += [
            node("AveragePool", ["images"], f"cells{cell}", kernel_shape=[cell, cell], strides=[cell, cell]),
            node("Conv", [f"cells{cell}", f"kernel{cell}"], f"answers{cell}"),
            node("Reshape", [f"answers{cell}", "shape"], f"flat{cell}"),
            node("Add", [f"flat{cell}", f"boxes{cell}"], f"level{cell}"),
        ]
        weights += [tensor(f"kernel{cell}", kernel), tensor(f"boxes{cell}", boxes)]
    weights.append(tensor("shape", np.array([0, channels, -1], np.int64)))
    nodes.append(node("Concat", ["level16", f"level{CELL}"], "all", axis=2))
    last = "all"
    if kept is not None:
        weights += [
            tensor(name, np.array([number], np.int64))
            for name, number in (("start", 0), ("end", kept), ("axis", 2))
        ]
        nodes.append(node("Slice", ["all", "start", "end", "axis"], "some"))
        last = "some"
    nodes.append(node("Transpose", [last], "output", perm=[0, 1, 2] if layout == "v8" else [0, 2, 1]))
    graph = b"".join(message(1, one) for one in nodes) + message(2, "tiny")
    graph += b"".join(message(5, one) for one in weights)
    graph += message(11, value("images", size)) + message(12, value("output", [batch, "a", "b"]))
    path.write_bytes(number(1, 8) + message(7, graph) + message(8, message(1, "") + number(2, 13)))


# --- WPOD-NET -----------------------------------------------------------------------------------------


def write_wpod_net(path: Path) -> None:
    """Weights of the real architecture that see a plate wherever the picture is bright."""
    import torch

    from resources.models.wpod_network import WpodNet

    state = {name: torch.zeros_like(value) for name, value in WpodNet().state_dict().items()}
    for name in state:
        if name.endswith("running_var"):
            state[name] += 1
        if "bn_layer.weight" in name:
            # Undoes the epsilon, so that what passes through is exact.
            state[name] += (1 + 1e-3) ** 0.5
        # Every convolution outside the residual branches copies its first channel.
        if name.endswith("conv_layer.weight") and "conv_block" not in name:
            state[name][0, 0, 1, 1] = 1
    state["backbone.0.conv_layer.weight"][0, :, 1, 1] = 1 / 3
    state["prob_layer.weight"][0, 0, 1, 1] = 40
    state["prob_layer.bias"][0] = -30
    state["bbox_layer.bias"] += torch.tensor([0.5, 0, 0, 0, 0.25, 0])
    torch.save(state, path)


# --- makers -------------------------------------------------------------------------------------------


def _yolo_plates(models_dir: Path) -> Mapping[str, Any]:
    write_yolo(models_dir / YOLO_PLATES.file, layout="v8")
    return {"threads": 1}


def _hyperlpr(models_dir: Path) -> Mapping[str, Any]:
    write_yolo(models_dir / HYPERLPR_PLATES.file, layout="corners", batch=1, side=640)
    return {"threads": 1}


def _wpod_net(models_dir: Path) -> Mapping[str, Any]:
    path = models_dir / WPOD_NET.file
    path.parent.mkdir(parents=True, exist_ok=True)
    write_wpod_net(path)
    return {"device": "cpu", "shorter_side": 128}


def _egoblur(models_dir: Path) -> Mapping[str, Any]:
    write_egoblur(models_dir / EGOBLUR_PLATES.file)
    return {"device": "cpu", "longer_side": 320}


MAKERS = {
    "yolo_plates": _yolo_plates,
    "hyperlpr": _hyperlpr,
    "wpod_net": _wpod_net,
    "egoblur": _egoblur,
}
