"""A leak is reported on a delivered clip: the command line takes it out, makes it anew and keeps the record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ego_assets_tests.clips import write_clip


class Shell:
    """Runs ``ego-assets`` as a user does, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self._folder = folder
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("EGO_", "DAGSTER_"))
        }
        self._environment = {**inherited, "EGO_DATA_DIR": str(self.data), "EGO_FREE_DISK_RESERVE_BYTES": "0"}

    def __call__(self, *arguments: str, code: int = 0) -> str:
        result = subprocess.run(
            [sys.executable, "-m", "ego_assets.cli", *arguments],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert result.returncode == code, result.stdout + result.stderr
        return result.stdout

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", code=code))


@pytest.fixture
def ego(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def showing_files(data: Path, clip_id: str) -> dict[Path, bytes]:
    """All files outside the vault that show the clip."""
    return {
        path: path.read_bytes()
        for path in data.rglob("*")
        if path.is_file()
        and clip_id in str(path)
        and "vault" not in path.relative_to(data).parts
        and path.suffix in (".mp4", ".tar", ".gz", ".jpg")
    }


def pictures(files: dict[Path, bytes]) -> set[bytes]:
    """Those in which people could be seen; depth and hand records of a clip may be alike before and after."""
    return {content for path, content in files.items() if path.suffix != ".tar" or path.name == "frames.tar"}


def test_a_reported_leak_is_taken_out_corrected_and_recorded(ego: Shell, tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", frames=12, rate=6)
    clip_id = ego.json("ingest", "clip.mp4")["ingested"][0]["clip_id"]
    ego("run")
    leaking = showing_files(ego.data, clip_id)
    assert any("deliveries" in path.parts for path in leaking)

    opened = ego.json(
        "incident", "open", clip_id, "--frames", "3-5", "--kind", "face", "--box", "10,10,60,50", "--note", "seen",
        "--no-run",
    )  # fmt: skip
    number = str(opened["id"])
    assert showing_files(ego.data, clip_id) == {}, "nothing that shows the clip is left outside the vault"
    (recalled,) = ego.data.rglob("RECALLED.json")
    assert clip_id in recalled.read_text()
    assert clip_id in ego("status", "--json")
    ego("incident", "resolve", number, "--note", "too early", code=1)

    ego("run")
    made_anew = showing_files(ego.data, clip_id)
    assert made_anew and not pictures(leaking) & pictures(made_anew)
    shown = ego.json("incident", "show", number)
    assert shown["corrected_at"] and shown["purged_at"] and not shown["resolved_at"]
    assert not any((ego.data / "vault" / "quarantine").rglob("*.mp4"))
    (report,) = (ego.data / "store" / clip_id / "blurred_video").glob("*/pii_report.json")
    assert json.loads(report.read_text())["corrections"] == {"faces": 1}
    assert not any("v0002" in str(path) for path in made_anew), "withdrawn until somebody has looked"

    assert ego.json("incident", "resolve", number, "--note", "covered")["resolved_at"]
    ego("run")
    assert any("deliveries" in path.parts for path in showing_files(ego.data, clip_id))
    audit = {row["action"] for row in ego.json("audit", "--clip", clip_id)}
    assert {"vault.open", "incident.open", "incident.resolve"} <= audit
