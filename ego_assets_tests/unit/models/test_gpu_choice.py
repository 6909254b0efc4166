"""Processes share several GPUs without being told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from resources.models.gpu_choice import take_gpu

ROOT = Path(__file__).resolve().parents[3]
CODE = """
import sys
from pathlib import Path
from resources.models.gpu_choice import take_gpu
print(take_gpu(["gpu-a", "gpu-b"], Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CODE, str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def answer(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


def test_processes_take_different_gpus_and_give_them_back_however_they_end(tmp_path: Path) -> None:
    first, second = start(tmp_path), start(tmp_path)
    taken = sorted((answer(first), answer(second)))
    third = start(tmp_path)
    try:
        assert taken == [0, 1]
        assert answer(third) in (0, 1), "more processes than GPUs share them"
        for process in (first, second):
            process.kill()
            process.wait()
        fourth = start(tmp_path)
        assert answer(fourth) == 0
        fourth.kill()
        fourth.wait()
    finally:
        third.kill()
        third.wait()


def test_a_process_keeps_its_gpu(tmp_path: Path) -> None:
    assert [take_gpu(["only"], tmp_path), take_gpu(["only"], tmp_path)] == [0, 0]


def test_the_device_auto_is_that_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch belongs to the extra reference")
    from resources.models import gpu_choice
    from resources.models.torch_device import torch_device

    uuids = ["gpu-a", "gpu-b", "gpu-c"]
    monkeypatch.setattr(gpu_choice, "_default_folder", lambda: tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(uuids))
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda number: SimpleNamespace(uuid=uuids[number])
    )
    other = start(tmp_path)
    try:
        assert answer(other) == 0
        assert torch_device("auto") == torch.device("cuda", 1)
        assert torch_device("auto") == torch.device("cuda", 1)
    finally:
        other.kill()
        other.wait()
