"""The example trains from shards of a real delivery, and learns."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from pathlib import Path

import pytest

from ego_assets_tests.consumers.conftest import DeliveredVersion

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_depth.py"


@pytest.mark.parametrize("reader", ["egodata", "webdataset"])
def test_a_depth_model_learns_in_a_hundred_steps(
    delivery: DeliveredVersion, consumers_python: Path, reader: str
) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [consumers_python, EXAMPLE, delivery.folder, "--reader", reader, "--split", "train", "--json"],
        env={**environment, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    losses = json.loads(done.stdout.splitlines()[-1])
    assert len(losses) == 100
    assert statistics.mean(losses[-20:]) < 0.7 * statistics.mean(losses[:20])
