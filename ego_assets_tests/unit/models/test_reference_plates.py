"""Plate detectors whose weights the user supplies, on small networks of the same interface."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from ego_assets.schema.detections import RegionDetector
from ego_assets.schema.errors import BackendUnavailable
from resources.models.plate_networks import (
    HyperLprPlateDetector,
    WpodNetPlateDetector,
    YoloPlateDetector,
    is_grid_output,
)
from resources.models.registry import HYPERLPR_PLATES, WPOD_NET, YOLO_PLATES

TESTDATA = Path(os.environ.get("EGO_TESTDATA", Path(__file__).parents[4] / "shared" / "testdata"))

Image = npt.NDArray[np.uint8]

#: The small network answers for cells of this many pixels.
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


def tiny_yolo(
    path: Path, *, layout: str, batch: int | str = "batch", side: int = 128, kept: int | None = None
) -> None:
    """A network with maps of stride 16 and 32 that finds a plate in each cell of 32 pixels that is red.

    With ``kept`` only so many answers are given, as by an export with non-maximum suppression.
    """
    channels = 5 if layout == "v8" else 6
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
        if layout == "v5":
            boxes[0, 5] = 0.5
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


def street(width: int = 256, height: int = 128, *, plate: tuple[int, int] = (64, 0)) -> Image:
    """Grey, with a red square of 64 pixels."""
    image = np.full((height, width, 3), 90, np.uint8)
    left, top = plate
    image[top : top + 64, left : left + 64] = (0, 0, 255)
    return image


@pytest.mark.parametrize("layout", ["v8", "v5"])
@pytest.mark.parametrize("batch", [1, "batch"])
def test_a_plate_is_found_through_both_layouts(tmp_path: Path, layout: str, batch: int | str) -> None:
    tiny_yolo(tmp_path / YOLO_PLATES.file, layout=layout, batch=batch)
    detector = YoloPlateDetector(models_dir=tmp_path, threads=1)
    assert isinstance(detector, RegionDetector)
    # Shrunk by half into the square of 128, with 32 pixels of grey above: the plate is one cell there.
    first, empty, second = detector.detect(
        [street(), street(plate=(500, 0)), street(128, 256, plate=(0, 128))], strict=True
    )
    assert first.boxes_xyxy.tolist() == [[64, 16, 128, 48]]
    assert first.scores.tolist() == [pytest.approx(1.0 if layout == "v8" else 0.5, abs=0.01)]
    assert len(empty) == 0
    assert second.boxes_xyxy.tolist() == [[0, 144, 64, 176]]
    assert detector.detect([]) == []


def test_strict_finds_what_the_normal_threshold_leaves_out(tmp_path: Path) -> None:
    tiny_yolo(tmp_path / YOLO_PLATES.file, layout="v8")
    detector = YoloPlateDetector(models_dir=tmp_path, threads=1)
    faint = street()
    faint[:64, 64:128] = (90, 90, 130)
    assert [len(detector.detect([faint], strict=strict)[0]) for strict in (False, True)] == [0, 1]


def test_a_batch_is_one_call_where_the_file_allows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for batch, expected in ((1, [1, 1, 1]), ("batch", [2, 1])):
        tiny_yolo(tmp_path / YOLO_PLATES.file, layout="v8", batch=batch)
        detector = YoloPlateDetector(models_dir=tmp_path, batch_size=2, threads=1)
        calls: list[int] = []
        run = detector._run

        def counted(fitted: Any, run: Any = run, calls: list[int] = calls) -> Any:
            calls.append(len(fitted))
            return run(fitted)

        monkeypatch.setattr(detector, "_run", counted)
        assert len(detector.detect([street()] * 3)) == 3
        assert calls == expected


def test_the_record_names_the_users_file_and_licence(tmp_path: Path) -> None:
    path = tmp_path / YOLO_PLATES.file
    tiny_yolo(path, layout="v8")
    info = YoloPlateDetector(models_dir=tmp_path, licence="AGPL-3.0-only", threads=1).info
    assert (info.task, info.backend, info.licence) == ("plates", "yolo_plates", "AGPL-3.0-only")
    assert info.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_wrong_number_of_classes_is_noticed(tmp_path: Path) -> None:
    tiny_yolo(tmp_path / YOLO_PLATES.file, layout="v8")
    detector = YoloPlateDetector(models_dir=tmp_path, class_count=3, threads=1)
    with pytest.raises(ValueError, match="check class_count"):
        detector.detect([street()])


@pytest.mark.parametrize("layout", ["v8", "v5"])
def test_an_export_with_suppression_in_it_is_refused(tmp_path: Path, layout: str) -> None:
    tiny_yolo(tmp_path / YOLO_PLATES.file, layout=layout, kept=30)
    with pytest.raises(ValueError, match="export without non-maximum suppression"):
        YoloPlateDetector(models_dir=tmp_path, threads=1).detect([street()])


@pytest.mark.parametrize(
    ("count", "side"), [(25200, 640), (8400, 640), (102000, 1280), (34000, 640), (2535, 416)]
)
def test_known_networks_have_these_numbers_of_answers(count: int, side: int) -> None:
    assert is_grid_output(count, width=side, height=side)
    assert not is_grid_output(300, width=side, height=side)


def test_a_file_that_is_no_network_is_refused(tmp_path: Path) -> None:
    (tmp_path / YOLO_PLATES.file).write_bytes(b"garbage" * 20)
    with pytest.raises(BackendUnavailable, match=r"no ONNX model that can run here.*Export it anew"):
        YoloPlateDetector(models_dir=tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {"threads": -1},
        {"class_count": 0},
        {"batch_size": 0},
        {"input_side": 8},
        {"strict_score_threshold": 0.9},
    ],
)
def test_settings_out_of_range_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    tiny_yolo(tmp_path / YOLO_PLATES.file, layout="v8")
    with pytest.raises(ValueError, match="expected"):
        YoloPlateDetector(models_dir=tmp_path, **options)


@pytest.mark.testdata
@pytest.mark.skipif(not TESTDATA.is_dir(), reason=f"no real footage in {TESTDATA} (EGO_TESTDATA)")
def test_hyperlpr_finds_real_plates(tmp_path: Path) -> None:
    shutil.copy(TESTDATA / "weights" / "hyperlpr" / HYPERLPR_PLATES.file, tmp_path)
    detector = HyperLprPlateDetector(models_dir=tmp_path, threads=1)
    covered = []
    for truth in sorted((TESTDATA / "privacy_faces_plates" / "openalpr_eu").glob("eu*.txt")):
        name, left, top, width, height, *_ = truth.read_text().split("\t")
        image = cv2.imread(str(truth.parent / name))
        mask = np.zeros(image.shape[:2], bool)
        for box in detector.detect([image])[0].boxes_xyxy:
            grow = 0.2 * (box[2:] - box[:2])
            start, end = (
                np.clip(np.floor(box[:2] - grow), 0, None).astype(int),
                np.ceil(box[2:] + grow).astype(int),
            )
            mask[start[1] : end[1], start[0] : end[0]] = True
        region = mask[int(top) : int(top) + int(height), int(left) : int(left) + int(width)]
        covered.append(region.mean() >= 0.9)
    assert len(covered) >= 5
    assert np.mean(covered) >= 0.9


# --- WPOD-NET, with weights made here -----------------------------------------------------------------


def wpod_weights(path: Path) -> None:
    """Weights of the real architecture that see a plate wherever the picture is bright."""
    torch = pytest.importorskip("torch", reason="PyTorch belongs to the extra reference")
    from resources.models.torch_networks import WpodNet

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


def test_wpod_net_loads_finds_and_batches(tmp_path: Path) -> None:
    wpod_weights(tmp_path / WPOD_NET.file)
    detector = WpodNetPlateDetector(models_dir=tmp_path, shorter_side=128, device="cpu")
    assert isinstance(detector, RegionDetector)
    image = np.zeros((128, 256, 3), np.uint8)
    image[64:80, 128:144] = 255
    large = cv2.resize(image, (512, 256), interpolation=cv2.INTER_NEAREST)
    found, empty, twice = detector.detect([image, np.zeros_like(image), large])
    # The centre of the bright cell, half and a quarter of the mean side of 124 pixels.
    assert found.boxes_xyxy[0] == pytest.approx([136 - 31, 72 - 15.5, 136 + 31, 72 + 15.5], abs=0.1)
    assert len(empty) == 0
    assert twice.boxes_xyxy[0] == pytest.approx(2 * found.boxes_xyxy[0], abs=0.2)
    assert detector.info.weights_sha256 == hashlib.sha256((tmp_path / WPOD_NET.file).read_bytes()).hexdigest()


def test_wpod_net_takes_its_channels_in_the_order_of_the_weights(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch belongs to the extra reference")
    wpod_weights(tmp_path / WPOD_NET.file)
    state = torch.load(tmp_path / WPOD_NET.file)
    state["backbone.0.conv_layer.weight"][0, :, 1, 1] = torch.tensor([1.0, 0, 0])
    torch.save(state, tmp_path / WPOD_NET.file)
    red = np.zeros((128, 128, 3), np.uint8)
    red[48:64, 48:64, 2] = 255
    for order, expected in (("rgb", 1), ("bgr", 0)):
        detector = WpodNetPlateDetector(
            models_dir=tmp_path, shorter_side=128, channel_order=order, device="cpu"
        )
        assert len(detector.detect([red])[0]) == expected


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch belongs to the extra reference")
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / WPOD_NET.file)
    with pytest.raises(BackendUnavailable, match="does not hold the weights of WpodNet"):
        WpodNetPlateDetector(models_dir=tmp_path, device="cpu")
    (tmp_path / WPOD_NET.file).write_bytes(struct.pack("<8d", *range(8)))
    with pytest.raises(BackendUnavailable, match="does not hold the weights of WpodNet"):
        WpodNetPlateDetector(models_dir=tmp_path, device="cpu")
