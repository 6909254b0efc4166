"""The environment of the reference models holds all that their backends ask for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from resources.models.backends import BACKENDS
from resources.models.packages import is_installed

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(
    not os.environ.get("EGO_TEST_REFERENCE"), reason="`make test-reference` runs these in their environment"
)


def test_every_package_of_the_extra_is_there_and_the_local_models_are_not() -> None:
    needed = {
        package
        for specs in BACKENDS.values()
        for spec in specs.values()
        if spec.extra == "reference"
        for package in spec.requires
    }
    assert {"torch", "torchvision", "transformers", "sam2", "open_clip", "paddle"} <= needed
    assert [package for package in sorted(needed) if not is_installed(package)] == []
    assert not is_installed("mediapipe"), "it pins an older numpy"


def test_the_installed_packages_fit_together() -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_operators_of_torchvision_load_beside_torch() -> None:
    import torch
    import torchvision

    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]])
    kept = torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)
    assert kept.tolist() == [0, 2]


@pytest.mark.parametrize(
    "reason", ["PyTorch belongs to the extra reference", "pip install 'ego-assets[reference]'"]
)
def test_a_test_that_misses_such_a_package_is_an_error(tmp_path: Path, reason: str) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "ego_assets_tests" / "conftest.py").read_text())
    (tmp_path / "test_one.py").write_text(
        f"import pytest\ndef test_one():\n    pytest.skip({reason!r})\n\ndef test_two():\n    pytest.skip('no GPU')\n"
    )
    (tmp_path / "test_file.py").write_text(
        f"import pytest\npytest.importorskip('nothing', reason={reason!r})\n"
    )
    for variable, expected in (("1", "1 failed, 1 skipped, 1 error"), ("", "3 skipped")):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "--continue-on-collection-errors", str(tmp_path)],
            cwd=ROOT,
            env={**os.environ, "EGO_TEST_REFERENCE": variable},
            capture_output=True,
            text=True,
        )
        assert expected in done.stdout
