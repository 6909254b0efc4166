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
from ego_assets_tests.checkpoints.plates import write_wpod_net, write_yolo
from resources.models.plate_networks import (
    HyperLprPlateDetector,
    WpodNetPlateDetector,
    YoloPlateDetector,
    is_grid_output,
)
from resources.models.registry import HYPERLPR_PLATES, WPOD_NET, YOLO_PLATES

TESTDATA = Path(os.environ.get("EGO_TESTDATA", Path(__file__).parents[4] / "shared" / "testdata"))

Image = npt.NDArray[np.uint8]


def street(width: int = 256, height: int = 128, *, plate: tuple[int, int] = (64, 0)) -> Image:
    """Grey, with a red square of 64 pixels."""
    image = np.full((height, width, 3), 90, np.uint8)
    left, top = plate
    image[top : top + 64, left : left + 64] = (0, 0, 255)
    return image


@pytest.mark.parametrize("layout", ["v8", "v5"])
@pytest.mark.parametrize("batch", [1, "batch"])
def test_a_plate_is_found_through_both_layouts(tmp_path: Path, layout: str, batch: int | str) -> None:
    write_yolo(tmp_path / YOLO_PLATES.file, layout=layout, batch=batch)
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
    write_yolo(tmp_path / YOLO_PLATES.file, layout="v8")
    detector = YoloPlateDetector(models_dir=tmp_path, threads=1)
    faint = street()
    faint[:64, 64:128] = (90, 90, 130)
    assert [len(detector.detect([faint], strict=strict)[0]) for strict in (False, True)] == [0, 1]


def test_a_batch_is_one_call_where_the_file_allows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for batch, expected in ((1, [1, 1, 1]), ("batch", [2, 1])):
        write_yolo(tmp_path / YOLO_PLATES.file, layout="v8", batch=batch)
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
    write_yolo(path, layout="v8")
    info = YoloPlateDetector(models_dir=tmp_path, licence="AGPL-3.0-only", threads=1).info
    assert (info.task, info.backend, info.licence) == ("plates", "yolo_plates", "AGPL-3.0-only")
    assert info.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_wrong_number_of_classes_is_noticed(tmp_path: Path) -> None:
    write_yolo(tmp_path / YOLO_PLATES.file, layout="v8")
    detector = YoloPlateDetector(models_dir=tmp_path, class_count=3, threads=1)
    with pytest.raises(ValueError, match="check class_count"):
        detector.detect([street()])


@pytest.mark.parametrize("layout", ["v8", "v5"])
def test_an_export_with_suppression_in_it_is_refused(tmp_path: Path, layout: str) -> None:
    write_yolo(tmp_path / YOLO_PLATES.file, layout=layout, kept=30)
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
    write_yolo(tmp_path / YOLO_PLATES.file, layout="v8")
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


def test_wpod_net_loads_finds_and_batches(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="PyTorch belongs to the extra reference")
    write_wpod_net(tmp_path / WPOD_NET.file)
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


def test_wpod_net_strict_has_its_own_threshold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="PyTorch belongs to the extra reference")
    write_wpod_net(tmp_path / WPOD_NET.file)
    detector = WpodNetPlateDetector(models_dir=tmp_path, shorter_side=64, device="cpu")
    chances = np.zeros((4, 4), np.float32)
    chances[2, 1] = 0.3
    transforms = np.zeros((6, 4, 4), np.float32)
    transforms[[0, 4]] = 0.1
    monkeypatch.setattr(detector, "_run", lambda pictures: [(chances, transforms)] * len(pictures))
    image = np.zeros((64, 64, 3), np.uint8)
    assert [len(detector.detect([image], strict=strict)[0]) for strict in (False, True)] == [0, 1]


def test_pictures_are_prepared_a_batch_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="PyTorch belongs to the extra reference")
    write_wpod_net(tmp_path / WPOD_NET.file)
    detector = WpodNetPlateDetector(models_dir=tmp_path, shorter_side=64, device="cpu", batch_size=2)
    prepare, run = detector._prepared, detector._run
    done: list[str] = []

    def prepared(image: Any, size: Any) -> Any:
        done.append("prepared")
        return prepare(image, size)

    def ran(pictures: Any) -> Any:
        done.append(f"ran {len(pictures)}")
        return run(pictures)

    monkeypatch.setattr(detector, "_prepared", prepared)
    monkeypatch.setattr(detector, "_run", ran)
    assert len(detector.detect([np.zeros((64, 128, 3), np.uint8)] * 3)) == 3
    assert done == ["prepared", "prepared", "ran 2", "prepared", "ran 1"]


def test_wpod_net_takes_its_channels_in_the_order_of_the_weights(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch belongs to the extra reference")
    write_wpod_net(tmp_path / WPOD_NET.file)
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
    with pytest.raises(BackendUnavailable, match=r"does not hold (the )?weights"):
        WpodNetPlateDetector(models_dir=tmp_path, device="cpu")
    (tmp_path / WPOD_NET.file).write_bytes(struct.pack("<8d", *range(8)))
    with pytest.raises(BackendUnavailable, match=r"does not hold (the )?weights"):
        WpodNetPlateDetector(models_dir=tmp_path, device="cpu")
