"""Consumers need environments of their own: `make test-delivery` makes them and sets EGO_TEST_DELIVERY."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ego_assets_tests.consumers.truth import Truth, render_clips, serve_folder, truth_of

if os.environ.get("EGO_TEST_DELIVERY") != "1":
    collect_ignore_glob = ["test_*.py"]

FORMATS = "folder,webdataset,hf,lerobot,egovid,hdf5"


@dataclass(frozen=True, kw_only=True)
class DeliveredVersion:
    """A version that the real command made, and what must be in it."""

    folder: Path
    truth: Truth


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data folder in which four clips of four people were processed."""
    root = tmp_path_factory.mktemp("project")
    render_clips(root / "uploads")
    _ego_assets(root / "data", "demo", "--clips", str(root / "uploads"))
    return root / "data"


@pytest.fixture(scope="session")
def delivery(data: Path) -> DeliveredVersion:
    """All of them, delivered in all formats by the command line."""
    arguments = ["--where", "activity=='cooking'", "--formats", FORMATS, "--split", "0.5/0.25/0.25"]
    _ego_assets(data, "deliver", "--name", "kitchen", *arguments)
    return _version(data, "kitchen")


@pytest.fixture(scope="session")
def other(data: Path) -> DeliveredVersion:
    """Another one whose train split has all of them."""
    _ego_assets(data, "deliver", "--name", "other", "--formats", "hf", "--split", "1/0/0")
    return _version(data, "other")


def _ego_assets(data: Path, *arguments: str) -> None:
    environment = {
        **os.environ,
        "EGO_DATA_DIR": str(data),
        "EGO_FREE_DISK_RESERVE_BYTES": "0",
        "DAGSTER_HOME": str(data / "dagster_home"),
    }
    command = [Path(sys.executable).with_name("ego-assets"), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{arguments}: {done.stdout[-4000:]}\n{done.stderr[-4000:]}"


def _version(data: Path, name: str) -> DeliveredVersion:
    return DeliveredVersion(folder=data / "deliveries" / name / "v0001", truth=truth_of(data, name=name))


@pytest.fixture(scope="session")
def address(delivery: DeliveredVersion) -> Iterator[str]:
    """The same version over HTTP on loopback."""
    with serve_folder(delivery.folder) as url:
        yield url


def _interpreter(variable: str) -> Path:
    path = os.environ.get(variable, "")
    if not path:
        pytest.fail(f"{variable} is not set: use `make test-delivery`")
    # Not resolved: the link is what makes it the environment's interpreter.
    return Path(path).absolute()


@pytest.fixture(scope="session")
def consumers_python() -> Path:
    """Interpreter that has lerobot, datasets 4, webdataset, h5py, torch and pandas."""
    return _interpreter("EGO_DELIVERY_PYTHON")


@pytest.fixture(scope="session")
def datasets3_python() -> Path:
    """Interpreter that has datasets 3."""
    return _interpreter("EGO_DATASETS3_PYTHON")
