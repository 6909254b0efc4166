from __future__ import annotations

import hashlib
import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ego_assets.curation.completeness import bitfield_of
from ego_assets.curation.score import ScoreParts, score_clip
from ego_assets.delivery.dataset import PackagedClip, write_delivery
from ego_assets.delivery.manifest import manifest_row
from ego_assets.delivery.metadata import TimeGrid, clip_metadata, metadata_json
from ego_assets.delivery.package import PackageMember, write_package
from ego_assets.schema.artifact import FileEntry
from ego_assets.schema.clip import Clip

ROOT = Path(__file__).resolve().parents[3]
IDS = [f"0b5e6bbd-4bb5-4cf2-9c3a-00000000000{number}" for number in range(3)]
STEPS = np.array([0, 6])


def packaged(number: int, *, level: int = 100, **row: Any) -> PackagedClip:
    """A clip of two red frames."""
    clip = Clip(
        clip_id=IDS[number],
        source_name=f"{number}.mp4",
        duration_s=2.0,
        fps=30.0,
        width=32,
        height=24,
        activity_category="cooking",
    )
    score = score_clip(ScoreParts(blur=0.9))
    picture = io.BytesIO()
    Image.fromarray(np.full((24, 32, 3), (level, 0, 0), np.uint8)).save(picture, "JPEG", quality=95)
    content = picture.getvalue()
    grid = TimeGrid(name="test", rate_hz=5.0, frame_index=STEPS, timestamps_ns=STEPS * 33_333_333)
    archive = io.BytesIO()
    write_package(
        archive,
        clip_id=clip.clip_id,
        members=[
            PackageMember(path=f"rgb/frame_{step:06d}.jpg", size=len(content), chunks=lambda: [content])
            for step in STEPS
        ],
        documents={
            "metadata.json": metadata_json(
                clip_metadata(clip, score=score, gates=[], artifacts={}, grid=grid)
            )
        },
    )
    data = archive.getvalue()
    return PackagedClip(
        clip_id=clip.clip_id,
        row={
            **manifest_row(
                clip, score=score, completeness=bitfield_of(["frames"]), step_count=len(STEPS), layers={}
            ),
            **row,
        },
        data_versions={"clip_package": f"version of {clip.clip_id}"},
        package=FileEntry(
            name=f"{clip.clip_id}.tar.gz", bytes=len(data), sha256=hashlib.sha256(data).hexdigest()
        ),
        open_package=lambda: io.BytesIO(data),
    )


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_delivery_holds_what_its_card_says(tmp_path: Path) -> None:
    delivery = write_delivery(tmp_path, [packaged(0), packaged(1)])
    assert (delivery.folder, delivery.version, delivery.is_new) == (tmp_path / "v0001", "v0001", True)
    files = content_of(delivery.folder)
    assert delivery.bytes == sum(map(len, files.values()))
    expected = {"manifest.parquet", "egodata.py", "README.md", "delivery.json"}
    for clip_id in IDS[:2]:
        expected |= {f"{clip_id}.tar.gz", f"{clip_id}/metadata.json"}
        expected |= {f"{clip_id}/rgb/frame_{step:06d}.jpg" for step in STEPS}
    assert set(files) == expected
    rows = pq.read_table(delivery.folder / "manifest.parquet").to_pylist()
    for row in rows:
        assert row["package_path"] == f"{row['clip_id']}.tar.gz"
        package = files[row["package_path"]]
        assert (row["package_bytes"], row["package_sha256"]) == (
            len(package),
            hashlib.sha256(package).hexdigest(),
        )
        assert row["package_uri"] == str(delivery.folder / row["package_path"])
    assert len(json.loads(files["delivery.json"])["packages"]) == len(rows) == 2


READ = """
from egodata import Dataset

dataset = Dataset(".")
for info in dataset.clips(activity="cooking", complete=["frames"]):
    clip = dataset.load_clip(info["clip_id"])
    print(clip.clip_id, len(clip.rgb), clip.rgb[0].shape, int(clip.rgb[0][0, 0, 0]) // 50)
"""


def test_the_sdk_beside_it_opens_it(tmp_path: Path) -> None:
    folder = write_delivery(tmp_path, [packaged(0, level=75), packaged(1, level=225)]).folder
    # -I keeps the project's own packages out of reach; the delivery's folder is all it gets.
    code = f"import sys; sys.path.insert(0, {str(folder)!r})\n{READ}"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{IDS[0]} 2 (24, 32, 3) 1\n{IDS[1]} 2 (24, 32, 3) 4\n"


def test_equal_content_is_the_same_version_in_any_order(tmp_path: Path) -> None:
    first = write_delivery(tmp_path, [packaged(0), packaged(1)])
    again = write_delivery(tmp_path, [packaged(1), packaged(0)])
    assert not again.is_new
    assert replace(again, is_new=True) == first
    assert [path.name for path in tmp_path.iterdir()] == ["v0001"]


@pytest.mark.parametrize(
    "change",
    [
        lambda: [packaged(0)],
        lambda: [packaged(0), packaged(1), packaged(2)],
        lambda: [packaged(0), packaged(1, level=200)],
        lambda: [packaged(0), packaged(1, licence="CC-BY-4.0")],
        lambda: [],
    ],
    ids=["a clip less", "a clip more", "other frames", "another licence", "none"],
)
def test_any_change_is_a_new_version_and_the_old_one_stays(
    tmp_path: Path, change: Callable[[], list[PackagedClip]]
) -> None:
    before = content_of(write_delivery(tmp_path, [packaged(0), packaged(1)]).folder)
    second = write_delivery(tmp_path, change())
    assert (second.version, second.is_new) == ("v0002", True)
    assert content_of(tmp_path / "v0001") == before
    third = write_delivery(tmp_path, [packaged(0), packaged(1)])
    assert third.version == "v0003", "a version is never reused, not even for content that was there before"


def test_versions_are_counted_as_numbers(tmp_path: Path) -> None:
    for name in ("v9999", "v10000", "v0001 (copy)", "vault", "v2"):
        (tmp_path / name).mkdir()
    (tmp_path / "v20000").touch()
    assert write_delivery(tmp_path, [packaged(0)]).version == "v10001"


def test_a_version_without_its_record_is_not_trusted(tmp_path: Path) -> None:
    first = write_delivery(tmp_path, [packaged(0)])
    (first.folder / "delivery.json").write_text("{")
    assert write_delivery(tmp_path, [packaged(0)]).version == "v0002"


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def unreadable() -> io.BytesIO:
        raise OSError("the store is gone")

    clips = [packaged(0), replace(packaged(1), open_package=unreadable)]
    with pytest.raises(OSError, match="the store is gone"):
        write_delivery(tmp_path, clips)
    assert list(tmp_path.iterdir()) == []


def test_an_archive_cannot_write_outside_its_delivery(tmp_path: Path) -> None:
    import tarfile

    evil = io.BytesIO()
    with tarfile.open(fileobj=evil, mode="w:gz") as archive:
        member = tarfile.TarInfo("../../outside.txt")
        member.size = 4
        archive.addfile(member, io.BytesIO(b"evil"))
    clip = replace(packaged(0), open_package=lambda: io.BytesIO(evil.getvalue()))
    with pytest.raises(tarfile.TarError):
        write_delivery(tmp_path / "deliveries", [clip])
    assert not (tmp_path / "outside.txt").exists()
    assert list((tmp_path / "deliveries").iterdir()) == []


KILL = """
import os, signal, sys
from pathlib import Path

sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]) / "ego_assets_tests/unit/delivery")]
from ego_assets.delivery import dataset
from test_dataset import packaged

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[3] == "before the rename":
    Path.rename = die
clips = [packaged(0), packaged(1)]
progress = (lambda done, total: die() if done == 1 else None) if sys.argv[3] == "half-way" else die
if sys.argv[3] == "before the rename":
    progress = lambda done, total: None
dataset.write_delivery(Path(sys.argv[2]), clips, progress=progress)
"""


@pytest.mark.parametrize("instant", ["half-way", "before the rename"])
def test_kill_9_leaves_nothing_that_looks_whole(tmp_path: Path, instant: str) -> None:
    first = write_delivery(tmp_path, [packaged(0)])
    before = content_of(first.folder)
    done = subprocess.run(
        [sys.executable, "-c", KILL, str(ROOT), str(tmp_path), instant], capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    visible = [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")]
    assert visible == ["v0001"] and content_of(first.folder) == before
    after = write_delivery(tmp_path, [packaged(0), packaged(1)])
    assert (after.version, after.is_new) == ("v0002", True)


def test_progress_counts_clips(tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    write_delivery(tmp_path, [packaged(0), packaged(1)], progress=lambda *step: heard.append(step))
    assert heard == [(0, 2), (1, 2), (2, 2)]
