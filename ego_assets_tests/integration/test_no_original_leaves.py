"""No picture of an original leaves the vault: a planted face is searched for everywhere else."""

from __future__ import annotations

import base64
import io
import re
import sqlite3
import tarfile
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest

from ego_assets.media.contact_sheet import contact_sheet
from ego_assets.project import Project
from ego_assets.reviewing import write_review_page
from ego_assets.schema.vocabulary import ReviewKind
from ego_assets.settings import Settings
from ego_assets.synth import GroundTruth, SceneSpec, render_clip

Image = npt.NDArray[np.uint8]

#: The planted face counts as shown above this normalised correlation. Frames of the original give 0.95 or more,
#: at full size and on a contact sheet; the best chance match is about 0.7, at the smallest scale.
SHOWN = 0.8

_DATA_URI = re.compile(rb"data:image/(?:png|jpeg);base64,([A-Za-z0-9+/=]+)")


def pictures_in(name: str, content: bytes) -> Iterator[tuple[str, Image]]:
    """Every picture that a file holds: images, videos, archives, data URIs, database cells."""
    if name.endswith((".tar", ".tar.gz")):
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in archive.getmembers():
                if member.isfile():
                    inner = archive.extractfile(member)
                    assert inner is not None
                    yield from pictures_in(f"{name}/{member.name}", inner.read())
    elif name.endswith((".mp4", ".mov", ".mkv")):
        with av.open(io.BytesIO(content)) as container:
            for index, frame in enumerate(container.decode(video=0)):
                if index % 5 == 0:
                    yield f"{name}#{index}", frame.to_ndarray(format="gray")
    elif content[:3] == b"\xff\xd8\xff" or content[:4] == b"\x89PNG":
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE)
        if picture is not None:
            yield name, np.asarray(picture, dtype=np.uint8)
    for number, match in enumerate(_DATA_URI.finditer(content)):
        yield from pictures_in(f"{name}:data-uri-{number}", base64.b64decode(match.group(1)))


def cells(database: Path) -> Iterator[bytes]:
    """Every value in a SQLite database."""
    with sqlite3.connect(database) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            for row in connection.execute(f'SELECT * FROM "{table}"'):
                for value in row:
                    if isinstance(value, str):
                        yield value.encode()
                    elif isinstance(value, bytes):
                        yield value


def everything_outside_the_vault(root: Path) -> Iterator[tuple[str, Image]]:
    vault = root / "vault"
    for path in sorted(root.rglob("*")):
        if not path.is_file() or path.is_relative_to(vault):
            continue
        name = str(path.relative_to(root))
        if path.suffix == ".db":
            for number, value in enumerate(cells(path)):
                yield from pictures_in(f"{name}[{number}]", value)
        else:
            yield from pictures_in(name, path.read_bytes())


def likeness(face: Image, picture: Image, frame_width: int) -> float:
    """Best normalised correlation of the face with any place of the picture, at every likely scale."""
    best = -1.0
    # Contact sheets and plots show frames smaller; the face is looked for at each tile size.
    for scale in (1.0, picture.shape[1] / frame_width, 240 / frame_width, 320 / frame_width):
        template = cv2.resize(face, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        if (
            min(template.shape) < 12
            or template.shape[0] > picture.shape[0]
            or template.shape[1] > picture.shape[1]
        ):
            continue
        best = max(best, float(cv2.matchTemplate(picture, template, cv2.TM_CCOEFF_NORMED).max()))
    return best


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GroundTruth]:
    folder = tmp_path_factory.mktemp("planted")
    spec = SceneSpec(
        seed=5, width=960, height=540, duration_s=1.0, faces=1, hands=False, camera_motion="still"
    )
    return folder / "clip.mp4", render_clip(spec, folder / "clip.mp4")


def planted_face(path: Path, truth: GroundTruth) -> Image:
    """The face as the original shows it, cut out of its middle frame."""
    boxes = {
        box.frame_index: box for box in truth.boxes if box.kind == "face" and box.visible_fraction > 0.95
    }
    assert boxes, "the scene shows no face"
    index = sorted(boxes)[len(boxes) // 2]
    left, top, right, bottom = (round(value) for value in boxes[index].box_xyxy)
    with av.open(str(path)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number == index:
                return np.asarray(frame.to_ndarray(format="gray")[top:bottom, left:right], dtype=np.uint8)
    raise AssertionError(f"no frame {index}")


def test_the_face_is_nowhere_but_in_the_vault(
    planted: tuple[Path, GroundTruth], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    path, truth = planted
    face = planted_face(path, truth)
    project = Project(Settings(data_dir=tmp_path / "data"))
    clip = project.ingest(path.parent, path, {})
    assert project.run_clip(clip.clip_id, [spec.name for spec in project.specs]).success
    assert project.run_collection() == ""
    [audit] = [item for item in project.database.review_items() if item.kind is ReviewKind.RANDOM_AUDIT]
    page = write_review_page(
        audit.id,
        database=project.database,
        store=project.store,
        reports=project.settings.reports,
        actor="test",
    )
    assert list(page.parent.rglob("*.jpg"))

    original = path.read_bytes()
    frames = [picture for _, picture in pictures_in("original.mp4", original)]
    sheet = contact_sheet([cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR) for frame in frames])
    [(_, sheet_picture)] = pictures_in("sheet.jpg", sheet)
    for shown_openly in (frames[0], sheet_picture):
        assert likeness(face, shown_openly, 960) > 0.9, "the search must find the face where it is shown"

    searched = [
        (name, likeness(face, picture, 960))
        for name, picture in everything_outside_the_vault(project.settings.root)
    ]
    kinds = {name.split("/")[0].split("[")[0] for name, _ in searched}
    assert {"store", "reports", "dagster_home"} <= kinds, f"nothing was searched in some places: {kinds}"
    assert len(searched) > 40
    shown = {name: round(value, 2) for name, value in searched if value > SHOWN}
    assert not shown
    for file in project.settings.root.rglob("*"):
        if file.is_file() and not file.is_relative_to(project.settings.vault):
            assert original[1000:3000] not in file.read_bytes(), f"{file} holds bytes of the original"


def test_before_the_privacy_pass_there_are_numbers_and_plots_only(
    planted: tuple[Path, GroundTruth], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    path, truth = planted
    face = planted_face(path, truth)
    project = Project(Settings(data_dir=tmp_path / "data"))
    clip = project.ingest(path.parent, path, {})
    assert project.run_clip(clip.clip_id, ["raw_clip", "clip_quality"]).success
    found = list(everything_outside_the_vault(project.settings.root))
    assert {Path(name).name for name, _ in found if name.startswith("store")} == {
        "intervals.png",
        "quality.png",
    }
    assert all(likeness(face, picture, 960) < SHOWN for _, picture in found)
