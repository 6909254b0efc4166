"""``benchmarks/reference_cpu.py`` on tiny pictures: what it reports, not how long anything takes."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from resources.models.packages import is_installed

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
#: Width and height of the pictures.
SIZE = (112, 56)
QUICK_FRAMES = 60


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The benchmark silences the log and lets PyTorch use one thread; both would stay."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    if is_installed("torch"):
        monkeypatch.setattr("torch.set_num_threads", lambda count: None)
    disabled = logging.root.manager.disable
    yield
    logging.disable(disabled)


def test_the_overhead_is_cpu_milliseconds_of_a_frame(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import reference_cpu

    monkeypatch.setattr(sys, "argv", ["reference_cpu.py", "--quick"])
    monkeypatch.setattr(reference_cpu, "SIDE", SIZE[1])
    monkeypatch.setattr(reference_cpu, "SIZES", {"tiny": SIZE, "larger": (SIZE[0], SIZE[1] + 28)})
    # As if every run of all frames took 0.12 s.
    monkeypatch.setattr(reference_cpu, "cpu_seconds", lambda work: 0.12)
    reference_cpu.main()
    rows = {row["metric"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    for what in ("beside the network", "everything on the CPU"):
        row = rows[f"depth: {what}, tiny: overhead"]
        assert (row["unit"], row["target"], row["better"]) == ("CPU ms a frame", 15, "lower")
        assert rows[f"depth: {what}, larger: overhead"]["target"] is None
        if row["value"] is None:
            assert "reference environment" in row["reason"] and what == "everything on the CPU"
        else:
            assert row["value"] == pytest.approx(1000 * 0.12 / QUICK_FRAMES) and row["ok"]
            assert rows[f"depth: {what}, tiny: throughput"]["better"] == "higher"
    assert rows["decoding to BGR, tiny"]["value"] == pytest.approx(1000 * 0.12 / QUICK_FRAMES)
    # 8 maps are encoded.
    assert rows["depth to a 16-bit PNG, tiny"]["value"] == pytest.approx(1000 * 0.12 / 8)
