"""PaddleOCR's text detector: against a stand-in for the package, and the package itself where it is installed."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ego_assets.schema.detections import RegionDetector
from ego_assets.schema.errors import BackendUnavailable
from ego_assets_tests.checkpoints.text import write_paddle_text
from resources.models import paddle_text
from resources.models.paddle_text import PaddleTextDetector
from resources.models.registry import PADDLE_TEXT

ROOT = Path(__file__).resolve().parents[3]
MODEL = "PP-OCRv5_server_det"


def put_files(folder: Path) -> None:
    for file in PADDLE_TEXT.files:
        path = folder / PADDLE_TEXT.path_of(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"model")


class StandIn:
    """The part of ``paddleocr.TextDetection`` (3.4) that is used."""

    made: Any = None

    def __init__(self, **options: Any) -> None:
        if not Path(options["model_dir"]).is_dir():
            raise AssertionError("model_dir does not exist")
        self.options = options
        self.source_check = os.environ.get("PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK")
        self.calls: list[tuple[int, int, float]] = []
        StandIn.made = self

    def predict(self, images: list[Any], *, batch_size: int, box_thresh: float) -> list[dict[str, Any]]:
        self.calls.append((len(images), batch_size, box_thresh))
        answers = []
        for image in images:
            brightest = float(image.max()) / 255
            rows, columns = np.nonzero(image[..., 0])
            if not len(rows) or brightest < box_thresh:
                answers.append({"dt_polys": np.zeros((0, 4, 2), np.int16), "dt_scores": []})
                continue
            left, top, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            polygon = [[left, top], [right, top], [right, bottom], [left, bottom]]
            answers.append({"dt_polys": np.array([polygon], np.int16), "dt_scores": [brightest]})
        return answers


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("paddleocr")
    module.TextDetection = StandIn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "paddleocr", module)
    stand_in_paddle(monkeypatch, gpus=0, is_for_gpus=False)
    paddle_text._warn_of_cpu.cache_clear()
    # Set and taken back, so that what the backend sets is taken back as well.
    monkeypatch.setenv("PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK", "")
    monkeypatch.delenv("PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK")


def stand_in_paddle(monkeypatch: pytest.MonkeyPatch, *, gpus: int, is_for_gpus: bool = True) -> None:
    """The part of ``paddle`` (3.2) that is used."""
    module: Any = types.ModuleType("paddle")
    module.__version__ = "3.2.0"
    module.is_compiled_with_cuda = lambda: is_for_gpus
    module.device = types.SimpleNamespace(cuda=types.SimpleNamespace(device_count=lambda: gpus))
    monkeypatch.setitem(sys.modules, "paddle", module)


def line(brightness: int = 255) -> Any:
    image = np.zeros((100, 200, 3), np.uint8)
    image[40:60, 20:180] = brightness
    return image


def test_the_local_model_is_loaded_and_no_host_is_asked(package: None, tmp_path: Path) -> None:
    put_files(tmp_path)
    detector = PaddleTextDetector(models_dir=tmp_path)
    assert isinstance(detector, RegionDetector)
    options = StandIn.made.options
    assert (options["model_name"], options["model_dir"]) == (MODEL, str(tmp_path / MODEL))
    assert (options["limit_side_len"], options["limit_type"], options["device"]) == (1280, "max", "cpu")
    assert StandIn.made.source_check == "True"
    assert (detector.info.task, detector.info.backend, len(detector.info.weights_sha256)) == (
        "text",
        "paddleocr",
        64,
    )


@pytest.mark.parametrize(
    ("gpus", "is_for_gpus", "why"),
    [
        (0, False, "PaddlePaddle 3.2.0 is built without CUDA: install paddlepaddle-gpu"),
        (0, True, "PaddlePaddle 3.2.0 finds no GPU"),
    ],
)
def test_the_cpu_is_taken_with_a_warning(
    package: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    gpus: int,
    is_for_gpus: bool,
    why: str,
) -> None:
    put_files(tmp_path)
    stand_in_paddle(monkeypatch, gpus=gpus, is_for_gpus=is_for_gpus)
    for _ in range(2):
        PaddleTextDetector(models_dir=tmp_path)
        assert StandIn.made.options["device"] == "cpu"
    assert len(caplog.messages) == 1 and why in caplog.messages[0], "told once a process"
    PaddleTextDetector(models_dir=tmp_path, device="gpu:3")
    assert StandIn.made.options["device"] == "gpu:3", "what is asked for is left to PaddlePaddle"


def test_text_is_looked_for_on_the_gpu_of_the_other_networks(
    package: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_files(tmp_path)
    stand_in_paddle(monkeypatch, gpus=4)
    monkeypatch.setattr(paddle_text, "torch_device", lambda name: types.SimpleNamespace(type="cuda", index=2))
    PaddleTextDetector(models_dir=tmp_path)
    assert StandIn.made.options["device"] == "gpu:2"


def test_equal_sizes_share_a_call_and_answers_keep_their_order(package: None, tmp_path: Path) -> None:
    put_files(tmp_path)
    detector = PaddleTextDetector(models_dir=tmp_path, batch_size=2)
    images = [line(), line()[:80].copy(), np.zeros_like(line()), line()]
    found = detector.detect(images)
    assert [one.boxes_xyxy.tolist() for one in found] == [
        [[20, 40, 180, 60]],
        [[20, 40, 180, 60]],
        [],
        [[20, 40, 180, 60]],
    ]
    assert sorted(call[:2] for call in StandIn.made.calls) == [(1, 1), (1, 1), (2, 2)]
    assert detector.detect([]) == []


def test_strict_lowers_the_threshold_of_the_call(package: None, tmp_path: Path) -> None:
    put_files(tmp_path)
    detector = PaddleTextDetector(models_dir=tmp_path, score_threshold=0.6, strict_score_threshold=0.3)
    faint = line(brightness=110)
    assert [len(detector.detect([faint], strict=strict)[0]) for strict in (False, True)] == [0, 1]
    assert [call[2] for call in StandIn.made.calls] == [0.6, 0.3]


def test_where_paddle_runs_out_of_memory_batches_are_halved_and_nothing_is_lost(
    package: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="PyTorch belongs to the extra reference")
    put_files(tmp_path)
    detector = PaddleTextDetector(models_dir=tmp_path, batch_size=4)
    predict, tried = StandIn.made.predict, []

    def crowded(images: list[Any], **options: Any) -> Any:
        tried.append(len(images))
        if len(images) > 1:
            # As PaddlePaddle raises it: no RuntimeError.
            raise SystemError("ResourceExhaustedError: Out of memory error on GPU 0. Cannot allocate 2 GB")
        return predict(images, **options)

    monkeypatch.setattr(StandIn.made, "predict", crowded)
    images = [line(), np.zeros_like(line()), line(), line(200)]
    found = detector.detect(images)
    assert [len(one) for one in found] == [1, 0, 1, 1] and found[3].scores[0] < found[0].scores[0]
    assert tried[0] == 4 and tried[-4:] == [1] * 4


def test_other_errors_of_paddle_stay_what_they_are(
    package: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="PyTorch belongs to the extra reference")
    put_files(tmp_path)
    detector = PaddleTextDetector(models_dir=tmp_path)

    def broken(images: list[Any], **options: Any) -> Any:
        raise SystemError("InvalidArgumentError: expected 3 channels")

    monkeypatch.setattr(StandIn.made, "predict", broken)
    with pytest.raises(SystemError, match="3 channels"):
        detector.detect([line()])


def test_a_model_without_its_configuration_says_what_is_missing(package: None, tmp_path: Path) -> None:
    put_files(tmp_path)
    (tmp_path / MODEL / "inference.yml").unlink()
    with pytest.raises(BackendUnavailable, match=r"PP-OCRv5_server_det/inference\.yml; EGO_MODELS_DIR"):
        PaddleTextDetector(models_dir=tmp_path)


def test_a_model_that_cannot_be_loaded_says_what_to_do(
    package: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(**options: Any) -> Any:
        raise RuntimeError("no engine")

    put_files(tmp_path)
    monkeypatch.setattr(sys.modules["paddleocr"], "TextDetection", broken)
    with pytest.raises(BackendUnavailable, match=r"no engine\. Put the published.*install paddlepaddle"):
        PaddleTextDetector(models_dir=tmp_path)


@pytest.mark.parametrize(
    "options", [{"pixel_threshold": 0.0}, {"unclip_ratio": 0.0}, {"max_side": 8}, {"batch_size": 0}]
)
def test_settings_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        PaddleTextDetector(**options)


def test_the_real_package_runs_a_small_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("paddle", reason="paddlepaddle is installed beside the extra reference")
    monkeypatch.setenv("PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK", "True")
    pytest.importorskip("paddleocr", reason="paddleocr belongs to the extra reference")
    write_paddle_text(tmp_path)
    detector = PaddleTextDetector(models_dir=tmp_path, device="cpu")
    found, empty, cut = detector.detect([line(), np.zeros_like(line()), line()[:80].copy()])
    assert len(found) == 1 and len(cut) == 1 and len(empty) == 0
    left, top, right, bottom = found.boxes_xyxy[0]
    # The core grows by its area times 1.6, divided by its perimeter: 14 pixels.
    assert (left, top, right, bottom) == pytest.approx((6, 26, 194, 74), abs=6)


def test_loading_it_leaves_the_log_of_the_process_alone(tmp_path: Path) -> None:
    pytest.importorskip("paddle", reason="paddlepaddle is installed beside the extra reference")
    write_paddle_text(tmp_path)
    code = (
        "import logging, sys; from pathlib import Path; from resources.models.paddle_text import PaddleTextDetector;"
        "PaddleTextDetector(models_dir=Path(sys.argv[1]), device='auto');"
        "print(logging.getLogger().handlers, logging.getLogger().level)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == f"[] {logging.WARNING}"
