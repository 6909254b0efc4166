"""Starts the real webserver, daemon and code server on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Platform:
    """A running `dagster dev` on its own data."""

    data: Path
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def query(self, query: str, **variables: Any) -> Any:
        """Ask the GraphQL endpoint."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            result = json.load(answer)
        assert "errors" not in result, result["errors"]
        return result["data"]

    def wait(self, what: str, condition: Callable[[], Any], *, timeout_s: float) -> Any:
        """Poll until the condition holds; on a time-out show the end of the server's log."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                if value := condition():
                    return value
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                pass
            time.sleep(1.0)
        tail = self.log.read_text(errors="replace")[-6000:]
        pytest.fail(f"{what} did not happen within {timeout_s:.0f} s. End of the log:\n{tail}")


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    """`ego-assets ui` on a free port and in a temporary folder."""
    with running_platform(tmp_path) as running:
        yield running


@contextlib.contextmanager
def running_platform(folder: Path, **variables: str) -> Iterator[Platform]:
    """`ego-assets ui` on a free port and below ``folder``, with these variables of the environment besides."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = folder / "data"
    environment = {
        **os.environ,
        "EGO_DATA_DIR": str(data),
        "EGO_UPLOAD_QUIET_S": "0.5",
        "EGO_FREE_DISK_RESERVE_BYTES": "0",
        "PYTHONWARNINGS": "ignore",
    }
    environment.pop("DAGSTER_HOME", None)
    environment |= variables
    log = folder / "ui.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "ego_assets.cli", "ui", "--port", str(port)],
            cwd=ROOT,
            env=environment,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    running = Platform(data=data, port=port, process=process, log=log)
    try:
        running.wait(
            "the code location",
            lambda: running.query(
                "{ repositoriesOrError { ... on RepositoryConnection { nodes { name } } } }"
            )["repositoriesOrError"].get("nodes"),
            timeout_s=120,
        )
        yield running
    finally:
        os.killpg(process.pid, signal.SIGINT)
        try:
            # What was tested is over; after runs the code server takes half a minute to end on its own.
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
