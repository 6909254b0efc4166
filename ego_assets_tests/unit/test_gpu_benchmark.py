"""``benchmarks/gpu.py`` where there is no GPU: it refuses, and its code runs on the CPU with small checkpoints."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def _benchmarks_can_be_imported() -> Iterator[None]:
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def torch_or_skip() -> Any:
    return pytest.importorskip("torch", reason="needs the reference environment")


def test_without_a_gpu_nothing_is_reported() -> None:
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "gpu.py"],
        capture_output=True,
        text=True,
        env={"CUDA_VISIBLE_DEVICES": "", "PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert done.returncode == 1
    assert "Nothing was measured" in done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["value"] for row in rows} == {None}
    assert all(row["reason"] for row in rows)
    targets = {row["metric"]: row["target"] for row in rows if row["target"] is not None}
    assert targets["depth, Depth Anything V2 ViT-L: model alone"] == 300
    assert targets["depth, Depth Anything V2 ViT-L: whole layer / model alone"] == 0.7
    assert targets["masks, SAM 2.1 large: model alone"] == 60
    assert targets["embeddings, CLIP ViT-L/14: model alone"] == 3000
    assert {row["metric"].split(":")[0] for row in rows} >= {
        "depth, Depth Anything V2 ViT-S",
        "depth, Depth Anything V2 ViT-B",
        "masks, SAM 2.1 tiny",
        "masks, SAM 2.1 base+",
        "actions, VideoMAE base",
        "flow, RAFT large",
        "decode",
    }


@pytest.fixture(scope="module")
def project_of_one_clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Path]:
    torch_or_skip()
    from gpu import prepare

    from ego_assets_tests.clips import write_clip

    folder = tmp_path_factory.mktemp("gpu-benchmark")
    clip = write_clip(folder / "clips" / "clip.mp4", frames=8, rate=4)
    clip_id, proxy = prepare(folder / "data", clip)
    return folder / "data", clip_id, proxy


#: Case -> settings that make the small checkpoint quick, besides those that its maker asks for.
SMALL = {
    "depth, Depth Anything V2 ViT-S": {},
    "masks, SAM 2.1 tiny": {"points_per_side": 2, "max_objects": 2},
    "embeddings, CLIP ViT-L/14": {},
    "actions, VideoMAE base": {},
    "flow, RAFT large": {"iterations": 1},
}


@pytest.mark.parametrize("title", SMALL)
def test_every_part_runs_on_a_cpu(
    title: str,
    project_of_one_clip: tuple[Path, str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch_or_skip().set_num_threads(2)
    import _gpu_cases
    from _gpu_cases import CASES, measure

    from ego_assets_tests.checkpoints import maker_of

    for name, value in {"_FOLLOWED_OBJECTS": 2, "_FLOW_SIZE": (128, 128)}.items():
        monkeypatch.setattr(_gpu_cases, name, value)
    monkeypatch.setattr(_gpu_cases, "_QUICK_RUNS", 1)
    monkeypatch.setattr(_gpu_cases, "_QUICK_WARM_UP", 0)
    data_dir, clip_id, _ = project_of_one_clip
    case = next(case for case in CASES if case.title == title)
    made: dict[str, Mapping[str, Any]] = {}

    def write(models_dir: Path) -> None:
        for task, entry in case.backends.items():
            make = maker_of(task, entry["backend"])
            made[task] = dict(make(models_dir)) if make is not None else {}
        made[case.task] = {**made[case.task], **SMALL[title]}
        if case.task == "flow":
            made["depth"] = {"max_side": 128, "window_frames": 2}

    told: dict[str, tuple[float | None, str]] = {}
    measure(
        replace(case, write=write),
        data_dir=data_dir,
        clip_id=clip_id,
        folder=tmp_path,
        tell=lambda name, value, reason: told.update({name: (value, reason)}),
        device="cpu",
        quick=True,
        settings=made,
    )
    assert list(told) == [metric.name for metric in case.metrics]
    unknown = {name for name, (value, _) in told.items() if value is None}
    assert unknown <= {
        "memory peak of the model alone",
        "share of the layer's time in which the GPU computes",
    }
    assert all(value > 0 for value, _ in told.values() if value is not None)
    assert told["memory peak of the model alone"] == (None, "not counted on a CPU")
    # Where NVML is missing, it says so; where it is there, this process uses no GPU.
    assert told["share of the layer's time in which the GPU computes"][1]


def rows_of(text: str) -> dict[str, Any]:
    return {row["metric"]: row for row in map(json.loads, text.splitlines())}


def test_a_part_that_fails_says_why_and_the_others_go_on(
    project_of_one_clip: tuple[Path, str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    """In processes of their own: one finds no such device, one is cut short."""
    from _gpu_cases import CASES
    from _harness import Reporter
    from gpu import run_case

    data_dir, clip_id, _ = project_of_one_clip
    case = next(case for case in CASES if case.part == "flow")
    reporter = Reporter("gpu")
    assert not run_case(reporter, case, data_dir=data_dir, clip_id=clip_id, quick=True, device="cuda:7")
    found = rows_of(capfd.readouterr().out)
    assert len(found) == len(case.metrics)
    assert all(row["value"] is None and "cuda:7" in row["reason"] for row in found.values())
    assert not run_case(reporter, case, data_dir=data_dir, clip_id=clip_id, quick=True, limit_s=0.05)
    found = rows_of(capfd.readouterr().out)
    assert all("not done after" in row["reason"] for row in found.values())


def test_a_process_that_dies_is_told(
    project_of_one_clip: tuple[Path, str, Path],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import gpu
    from _gpu_cases import CASES
    from _harness import Reporter

    monkeypatch.setattr(gpu, "_measure_in_child", die)
    case = CASES[0]
    assert not gpu.run_case(Reporter("gpu"), case, data_dir=Path(), clip_id="", quick=True)
    found = rows_of(capfd.readouterr().out)
    assert found[f"{case.title}: model alone"]["value"] == 12.5
    assert found[f"{case.title}: whole layer"]["reason"] == "its process ended with status 3"


def die(connection: Any, arguments: Mapping[str, Any]) -> None:
    import os

    connection.send(("row", "model alone", 12.5, "batch 4"))
    os._exit(3)


def test_decoders_are_compared(project_of_one_clip: tuple[Path, str, Path]) -> None:
    import _gpu_decode

    told: dict[str, float | None] = {}
    _gpu_decode.measure(
        project_of_one_clip[2],
        tell=lambda name, value, reason: told.update({name: value}),
        decoder="cpu",
        runs=1,
    )
    assert list(told) == [row[0] for row in _gpu_decode.ROWS]
    assert told["largest difference between the two"] == 0


def test_what_the_cpu_decodes_is_told_where_the_gpu_cannot(
    project_of_one_clip: tuple[Path, str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    if torch_or_skip().cuda.is_available():
        pytest.skip("this machine has a GPU")
    from _harness import Reporter
    from gpu import run_decode

    assert not run_decode(Reporter("gpu"), "decode, proxy", project_of_one_clip[2], runs=1)
    found = rows_of(capfd.readouterr().out)
    assert "EGO_DECODER=cpu" in found["decode, proxy: decode on the GPU"]["reason"]


class FakeNvml:
    """Answers as the driver's library does."""

    def __init__(self, *, fails: str = "") -> None:
        self.fails = fails
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def answer(*arguments: Any) -> int:
            self.asked.append(name)
            if name == self.fails:
                return 3
            if name == "nvmlSystemGetDriverVersion":
                arguments[0].value = b"570.1"
            if name == "nvmlDeviceGetHandleByUUID":
                assert arguments[0] == b"GPU-1234"
            if name == "nvmlDeviceGetUtilizationRates":
                arguments[1]._obj.gpu = 90 if self.asked.count(name) % 2 else 70
            return 0

        return answer


def test_the_busy_share_is_the_mean_of_what_the_driver_says(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    from _gpu_timing import BusyShare

    library = FakeNvml()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    with BusyShare("1234", settling_s=0) as busy:
        while library.asked.count("nvmlDeviceGetUtilizationRates") < 2:
            time.sleep(0.01)
    assert busy.driver == "570.1"
    assert busy.share == pytest.approx(0.8, abs=0.04)


def test_samples_of_the_time_before_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    from _gpu_timing import BusyShare

    library = FakeNvml()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    with BusyShare("1234", settling_s=1000) as busy:
        while library.asked.count("nvmlDeviceGetUtilizationRates") < 2:
            pass
    assert busy.share is None and busy.reason == "the layer ended before the first sample"


@pytest.mark.parametrize("function", ["nvmlInit_v2", "nvmlDeviceGetUtilizationRates"])
def test_a_driver_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    import time

    from _gpu_timing import BusyShare

    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeNvml(fails=function))
    with BusyShare("GPU-1234") as busy:
        time.sleep(0.12)
    assert busy.share is None
    assert busy.reason == f"{function} answered 3"


def test_the_largest_batch_is_repeated() -> None:
    torch = torch_or_skip()
    from _gpu_timing import median_seconds, recorded_calls

    from resources.models.torch_runtime import HeldNetwork

    class Network(torch.nn.Module):
        sizes: list[int]

        def forward(self, pictures: Any, *, scale: float = 1.0) -> Any:
            if len(pictures) > 5:
                raise torch.OutOfMemoryError("CUDA out of memory")
            self.sizes.append(len(pictures))
            return pictures * scale

        def encode(self, pictures: Any) -> Any:
            return self.forward(pictures)

    network = Network()
    network.sizes = []
    held = HeldNetwork(network, device="cpu", compile="never")
    with recorded_calls() as recorder:
        for size in (1, 3, 2):
            with held.in_use() as call:
                call(torch.ones(size, 2), scale=2.0)
        with held.in_use() as call:
            assert call.encode(pictures=torch.ones(5, 2)).shape == (5, 2)
            assert call.sizes is network.sizes
            with pytest.raises(torch.OutOfMemoryError):
                call(torch.ones(6, 2))
    assert recorder.largest is not None
    assert recorder.largest.items == 5
    assert recorder.largest.method == "encode"
    network.sizes.clear()
    assert median_seconds(SimpleNamespace(type="cpu"), recorder.largest.repeat, runs=2, warm_up=1) > 0
    assert network.sizes == [5, 5, 5]
    # Afterwards nobody listens.
    with held.in_use() as call:
        assert call is network
