"""A clip with a fault, from the file to the advice that its collector reads."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
from fractions import Fraction
from pathlib import Path
from unittest import mock

import pytest

from ego_assets.assets import PRIVACY_CHAIN
from ego_assets.cli import main
from ego_assets.execution import LayerState, run_layer
from ego_assets.project import Project
from ego_assets.settings import Settings, load_settings
from ego_assets.synth import SceneSpec, render_clip


def report(*arguments: str) -> list[Path]:
    load_settings.cache_clear()
    out = io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["ego-assets", "collector-report", "--json", *arguments]),
        contextlib.redirect_stdout(out),
        pytest.raises(SystemExit) as stop,
    ):
        main()
    assert stop.value.code in (0, None)
    return [Path(path) for path in json.loads(out.getvalue())]


def test_a_covered_lens_becomes_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EGO_DATA_DIR", str(tmp_path / "data"))
    clip = tmp_path / "covered.mp4"
    spec = SceneSpec(
        width=320, height=180, frame_rate=Fraction(15), duration_s=6.0, hands=False, covered_s=(2.0, 5.0)
    )
    render_clip(spec, clip)
    project = Project(Settings(data_dir=tmp_path / "data"))
    registered = project.register_and_take(
        tmp_path, clip, {"collector_id": "c042", "recording_date": "2026-05-14"}
    )
    for layer, make in PRIVACY_CHAIN[:2]:
        outcome = run_layer(
            layer, make, registered.clip_id, services=project.services_with_vault(), run_id="test",
            log=logging.getLogger("test"), ancestors=(),
        )  # fmt: skip
        assert outcome.state is LayerState.COMMITTED

    (gate,) = [gate for gate in project.database.gates(registered.clip_id) if gate.gate == "lens_covered"]
    assert (str(gate.outcome), gate.value) == ("warned", 3.0)
    (path,) = report()
    assert path == tmp_path / "data" / "reports" / "collectors" / "c042" / "2026-05-14.md"
    assert "## covered.mp4" in path.read_text()
    assert "Nothing can be seen from 2 s to 5 s" in path.read_text()
    assert report("--collector", "c042", "--date", "2026-05-14") == [path]
    assert report("--collector", "c043") == []
    assert path.exists()
