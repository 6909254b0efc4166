"""Networks of the true size on a GPU: alone, and in the whole layer from a 1080p file to the committed archive.

Weights are random, which costs what trained ones cost; they are written to a temporary folder and read by the loading
code of the registry's backends. Every network runs in a process of its own, so that one that fails or crashes leaves
the others alone and memory is counted apart; a row that could not be measured says why. *Model alone* repeats the
largest batch that the backend gave to its network, with the inputs in GPU memory, between two events of the device.
*Whole layer* is the second run of the layer on the committed proxy, as a run of the platform does it; the share of the
time in which the GPU computes is the driver's (NVML). Without a GPU nothing is measured and the status is 1.
"""

from __future__ import annotations

import logging
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import _gpu_decode
from _enrichment_throughput import run_one, synthetic_clip
from _gpu_cases import CASES, Case, Metric, measure
from _gpu_timing import BusyShare
from _harness import Reporter, parse_arguments

PARTS = (*dict.fromkeys(case.part for case in CASES), "decode")

#: A network that takes longer than this, checkpoint and compiling included, is given up.
_CASE_LIMIT_S = 1800.0
#: How long a process that has told everything may take to end.
_END_LIMIT_S = 30.0
_NO_GPU = "PyTorch sees no GPU here"


def main() -> int:
    options = parse_arguments(__doc__, parts=PARTS)
    parts = options.part or PARTS
    reporter = Reporter("gpu")
    cases = [case for case in CASES if case.part in parts and (case.in_quick or not options.quick)]
    missing = _missing()
    if missing:
        print(f"benchmarks/gpu.py: {missing}. Nothing was measured.", file=sys.stderr)
        for case in cases:
            _tell_missing(reporter, case.title, case.metrics, missing)
        if "decode" in parts:
            _tell_missing(reporter, "decode", _decode_metrics(), missing)
        return 1
    import torch  # type: ignore[import-not-found,unused-ignore]

    device = torch.cuda.get_device_properties(0)
    driver = BusyShare(str(device.uuid)).driver or "unknown"
    reporter.machine += (
        f", {device.name} {device.total_memory / 2**30:.0f} GiB, driver {driver}, torch {torch.__version__}"
    )
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="gpu-benchmark-") as name:
        folder = Path(name)
        clip = options.clip or synthetic_clip(folder / "clips", duration_s=3.0 if options.quick else 10.0)
        clip_id, proxy = prepare(folder / "data", clip)
        failed = [
            case.title
            for case in cases
            if not run_case(reporter, case, data_dir=folder / "data", clip_id=clip_id, quick=options.quick)
        ]
        if "decode" in parts:
            failed += [
                title
                for title, video in (("decode, 1080p", clip), ("decode, proxy", proxy))
                if not run_decode(reporter, title, video, runs=2 if options.quick else 5)
            ]
    if failed:
        print(f"benchmarks/gpu.py: not everything was measured: {'; '.join(failed)}.", file=sys.stderr)
    return 1 if failed else 0


def _missing() -> str:
    """Why nothing can be measured; empty where it can."""
    try:
        import torch  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return "PyTorch is not installed; use the reference environment"
    return "" if torch.cuda.is_available() else _NO_GPU


def _tell_missing(reporter: Reporter, title: str, metrics: Sequence[Metric], reason: str) -> None:
    for metric in metrics:
        reporter.report(
            f"{title}: {metric.name}",
            None,
            metric.unit,
            target=metric.target,
            better=metric.better,
            reason=reason,
        )


def _decode_metrics() -> tuple[Metric, ...]:
    targets = {_gpu_decode.ROWS[2][0]: _gpu_decode.MAX_DIFFERENCE}
    return tuple(
        Metric(name=name, unit=unit, better=better, target=targets.get(name))
        for name, unit, better in _gpu_decode.ROWS
    )


def prepare(data_dir: Path, clip: Path) -> tuple[str, Path]:
    """Take a clip into a new project and render its de-identified video, without detection: nobody is in it.

    Returns:
        Identifier of the clip, and its proxy as a file beside the project.
    """
    from ego_assets.assets import PRIVACY_CHAIN
    from ego_assets.assets.blurred_video import render
    from ego_assets.project import Project
    from ego_assets.settings import Settings

    project = Project(Settings(data_dir=data_dir, free_disk_reserve_bytes=0))
    folder = clip.parent.resolve()
    clip_id = project.register_and_take(folder, folder / clip.name, {}).clip_id
    for spec, make in PRIVACY_CHAIN:
        if spec.name == "blurred_video":
            run_one(
                project,
                spec,
                lambda work, staged: render(work, staged, detectors={}, leak_detectors={}),
                clip_id,
            )
        else:
            run_one(project, spec, make, clip_id)
    document = project.store.document(clip_id, "blurred_video")
    if document is None:
        raise RuntimeError("the clip could not be de-identified")
    proxy = data_dir / "proxy.mp4"
    with project.store.local_path(document, "proxy.mp4") as path:
        shutil.copyfile(path, proxy)
    return clip_id, proxy


class _Rows:
    """Reports what is known of a case, and in the end what is not, with the reason."""

    def __init__(self, reporter: Reporter, title: str, metrics: Sequence[Metric]) -> None:
        self._reporter, self._title = reporter, title
        self._open = {metric.name: metric for metric in metrics}

    def tell(self, name: str, value: float | None, reason: str) -> None:
        metric = self._open.pop(name)
        self._reporter.report(
            f"{self._title}: {name}",
            value,
            metric.unit,
            target=metric.target,
            better=metric.better,
            reason=reason,
        )

    def close(self, reason: str) -> bool:
        """Whether everything was told."""
        is_complete = not self._open
        _tell_missing(self._reporter, self._title, list(self._open.values()), reason)
        self._open.clear()
        return is_complete


def run_case(
    reporter: Reporter,
    case: Case,
    *,
    data_dir: Path,
    clip_id: str,
    quick: bool,
    device: str = "cuda",
    limit_s: float = _CASE_LIMIT_S,
) -> bool:
    """Measure a network in a process of its own and report its rows; whether all of them were measured."""
    rows = _Rows(reporter, case.title, case.metrics)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    arguments: dict[str, Any] = {
        "title": case.title,
        "data_dir": data_dir,
        "clip_id": clip_id,
        "quick": quick,
        "device": device,
        # Removed here, so that a process that is ended leaves no weights behind.
        "folder": Path(tempfile.mkdtemp(prefix="gpu-benchmark-case-")),
    }
    process = context.Process(target=_measure_in_child, args=(theirs, arguments))
    process.start()
    theirs.close()
    ends_at = time.monotonic() + limit_s
    reason = ""
    try:
        while not reason and ours.poll(max(0.0, ends_at - time.monotonic())):
            kind, *said = ours.recv()
            if kind == "row":
                rows.tell(*said)
            else:
                reason = said[0]
                process.join(_END_LIMIT_S)
        reason = reason or f"not done after {limit_s:.0f} s"
    except EOFError:
        process.join()
        reason = f"its process ended with status {process.exitcode}"
    finally:
        process.kill()
        process.join()
        ours.close()
        shutil.rmtree(arguments["folder"], ignore_errors=True)
    return rows.close(reason)


def _measure_in_child(connection: Connection, arguments: dict[str, Any]) -> None:
    """Measure a case by its title and send its rows, and in the end why there are no more."""
    logging.disable(logging.CRITICAL)
    title = arguments.pop("title")
    case = next(case for case in CASES if case.title == title)

    def tell(name: str, value: float | None, reason: str) -> None:
        connection.send(("row", name, value, reason))

    end = "not measured"
    try:
        measure(case, tell=tell, **arguments)
    except Exception as error:
        end = f"{type(error).__name__}: {error}"
    connection.send(("end", end))


def run_decode(reporter: Reporter, title: str, video: Path, *, runs: int) -> bool:
    """Compare the decoders on a video and report the rows; whether all of them were measured."""
    rows = _Rows(reporter, title, _decode_metrics())
    end = "not measured"
    try:
        _gpu_decode.measure(video, tell=rows.tell, runs=runs)
    except Exception as error:
        end = f"{type(error).__name__}: {error}"
    return rows.close(end)


if __name__ == "__main__":
    sys.exit(main())
