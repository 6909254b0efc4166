"""``ego-assets blur`` and ``detect``: the privacy pass without a project."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from ego_assets.cli import app
from ego_assets.media.decode import decode_frames
from ego_assets.synth import SceneSpec, render_clip, textures

runner = CliRunner()


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "in.mp4"
    spec = SceneSpec(
        width=480,
        height=270,
        frame_rate=Fraction(15),
        duration_s=1.0,
        faces=1,
        audio=True,
        location_metadata=True,
    )
    render_clip(spec, path)
    return path


def kinds(path: Path) -> list[str]:
    with av.open(str(path)) as container:
        return [stream.type for stream in container.streams]


def test_one_file_is_blurred_without_a_project(clip: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    result = runner.invoke(app, ["blur", str(clip), "out.mp4", "--report", str(report), "--json"])
    assert result.exit_code == 0, result.output
    assert kinds(tmp_path / "out.mp4") == ["video"]
    assert len(list(decode_frames(tmp_path / "out.mp4"))) == 15
    told = json.loads(result.stdout)
    assert told["gates"]["no_leak"] == told["gates"]["deidentified"] == "passed"
    assert json.loads(report.read_text()) == told["report"]
    assert set(told["report"]["kinds"]) == {"faces", "text", "screens", "plates"}
    assert told["report"]["kinds"]["faces"]["settings"]["score_threshold"] > 0
    assert told["report"]["leak_check"]["settings"]["faces"]["max_side"] == 1280
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "out.mp4", "report.json"]


def test_sound_and_method_are_chosen(clip: Path, tmp_path: Path) -> None:
    options = ["--audio", "keep", "--redaction", "solid", "--no-plates", "--json"]
    result = runner.invoke(app, ["blur", str(clip), "out.mp4", *options])
    assert result.exit_code == 0, result.output
    assert sorted(kinds(tmp_path / "out.mp4")) == ["audio", "video"]
    told = json.loads(result.stdout)["report"]
    assert "plates" not in told["kinds"]
    assert told["config"]["method"] == "solid"
    assert "audio" not in {stream["kind"] for stream in told["removed_streams"]}


def test_nothing_is_written_when_a_gate_fails(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ego_assets.privacy.leaks import Leak

    leak = Leak(kind="faces", frame_index=3, box_xyxy=(10, 10, 40, 40), score=0.9)
    monkeypatch.setattr("ego_assets.privacy.deidentify.find_leaks", lambda *_, **__: [leak])
    left = Path(".ego-assets-blur-killed")
    left.mkdir()
    (left / "video.mp4").write_bytes(b"left by a killed run")
    result = runner.invoke(app, ["blur", str(clip), "out.mp4", "--report", "report.json"])
    assert result.exit_code != 0
    assert "not released" in str(result.exception) and "faces on frame 3" in str(result.exception)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "report.json"]
    assert json.loads(Path("report.json").read_text())["leak_check"]["remaining"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gone.mp4", "out.mp4"], "gone.mp4 is not a file"),
        (["in.mp4", "out.avi"], "ends in .mp4"),
        (["in.mp4", "nowhere/out.mp4"], "does not exist"),
        (["in.mp4", "in.mp4"], "is the original itself"),
        (["in.mp4", "out.mp4", "--report", "in.mp4", "--overwrite"], "is the original itself"),
        (["in.mp4", "out.mp4", "--report", "nowhere/r.json"], "does not exist"),
        (["in.mp4", "out.mp4", "--report", "out.mp4"], "names of their own"),
        (["in.mp4", "taken.mp4"], "--overwrite"),
    ],
)
def test_wrong_paths_are_named(clip: Path, arguments: list[str], said: str) -> None:
    before = clip.read_bytes()
    Path("taken.mp4").write_bytes(b"precious")
    result = runner.invoke(app, ["blur", *arguments])
    assert Path("taken.mp4").read_bytes() == b"precious"
    assert result.exit_code != 0 and said in str(result.exception)
    assert clip.read_bytes() == before


def test_the_folder_of_a_run_that_goes_on_is_left_alone(tmp_path: Path) -> None:
    from ego_assets.single_file import _workshop

    with _workshop(tmp_path) as first:
        (first / "video.mp4").write_bytes(b"at work")
        assert first.stat().st_mode & 0o077 == 0
        with _workshop(tmp_path) as second:
            assert second != first
        assert (first / "video.mp4").read_bytes() == b"at work"
    assert list(tmp_path.iterdir()) == []


def test_pictures_are_searched_in_their_own_pixels(tmp_path: Path) -> None:
    portrait = textures.installed_picture("astronaut.png")
    page = np.full((400, 900, 3), 240, np.uint8)
    cv2.putText(page, "AB 1234 CD", (60, 220), cv2.FONT_HERSHEY_SIMPLEX, 2.0, (20, 20, 20), 4)
    for name, image in (("face.png", portrait), ("page.png", page)):
        cv2.imwrite(str(tmp_path / name), image)
    (tmp_path / "notes.txt").write_text("no picture")
    paths = [str(tmp_path / name) for name in ("face.png", "page.png", "notes.txt")]
    result = runner.invoke(app, ["detect", *paths, "--json"])
    assert result.exit_code == 1
    face, text = json.loads(result.stdout)
    assert (face["width"], face["height"]) == portrait.shape[1::-1]
    (found,) = face["faces"]
    centre = np.array(textures.PORTRAIT_FACE_XYXY).reshape(2, 2).mean(axis=0)
    left, top, right, bottom = found["box_xyxy"]
    assert left < centre[0] < right and top < centre[1] < bottom and found["score"] > 0.5
    assert text["text"] and text["plates"] and not text["faces"]
    assert text["text"][0]["box_xyxy"][0] == pytest.approx(60, abs=30)
    assert "no picture that can be read" in result.stderr
