"""What all benchmarks share: arguments, JSON lines, CPU seconds, medians over alternating runs."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

Better = Literal["lower", "higher"]


def parse_arguments(description: str | None, *, parts: Sequence[str] = ()) -> argparse.Namespace:
    """``[--clip PATH] [--quick]``, the same for every benchmark; ``[--part NAME]`` where it has several."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--clip", type=Path, help="real clip instead of a synthetic one, where the benchmark needs a clip"
    )
    parser.add_argument("--quick", action="store_true", help="end within a minute")
    if parts:
        parser.add_argument("--part", choices=parts, action="append", help="only this part; may be repeated")
    return parser.parse_args()


def machine() -> str:
    """Processor, cores and Python, so that rows of different machines are not compared."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"


class Reporter:
    """Prints one JSON object per metric."""

    def __init__(self, benchmark: str) -> None:
        self.benchmark = benchmark
        self.machine = machine()

    def report(
        self,
        metric: str,
        value: float | None,
        unit: str,
        *,
        target: float | None = None,
        better: Better = "lower",
        reason: str = "",
    ) -> None:
        """Print a metric; ``reason`` says why a value is missing."""
        ok = None
        if value is not None and target is not None:
            ok = value <= target if better == "lower" else value >= target
        row: dict[str, object] = {
            "benchmark": self.benchmark,
            "metric": metric,
            "value": None if value is None else round(value, 4),
            "unit": unit,
            "target": target,
            "better": better,
            "ok": ok,
            "machine": self.machine,
        }
        if reason:
            row["reason"] = reason
        print(json.dumps(row), flush=True)


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process, all threads, while ``work`` runs."""
    before = time.process_time()
    work()
    return time.process_time() - before


def child_cpu_seconds(command: list[str], *, quiet: bool = False) -> float:
    """CPU seconds of a command and its children; ``quiet`` hides what it prints."""
    actions = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)] if quiet else []
    pid = os.posix_spawn(command[0], command, os.environ, file_actions=actions)
    _, status, usage = os.wait4(pid, 0)
    if status != 0:
        raise RuntimeError(f"{command} ended with status {status}")
    return usage.ru_utime + usage.ru_stime


def alternate(measures: Mapping[str, Callable[[], float]], *, runs: int) -> dict[str, list[float]]:
    """Take every measure in turn, ``runs`` times after one warm-up, so that drift hits all alike."""
    values: dict[str, list[float]] = {name: [] for name in measures}
    for run in range(runs + 1):
        for name, measure in measures.items():
            value = measure()
            if run:
                values[name].append(value)
    return values


def median_ratio(ours: list[float], theirs: list[float]) -> float:
    """Median of the ratios, pair by pair."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
