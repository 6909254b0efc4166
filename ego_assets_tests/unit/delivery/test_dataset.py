"""Versions of a delivery: immutable, resumed where they were interrupted, and never half of one."""

from __future__ import annotations

import errno
import io
import json
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ego_assets.delivery import dataset, formats
from ego_assets.delivery.clip_source import DeliveredClip
from ego_assets.delivery.corrections import CORRECTIONS, NeededCorrection, read_corrections
from ego_assets.delivery.dataset import LeftOut, WrittenDelivery, clean_staging
from ego_assets.delivery.definition import FORMATS, DeliveryDefinition
from ego_assets.delivery.diff import diff_versions
from ego_assets.delivery.recall import recall_clip
from ego_assets.delivery.verify import check_formats, compare_digests, find_traces
from ego_assets.schema.errors import ArtifactCorrupted, InsufficientDisk
from ego_assets_tests.delivered_clips import clip_id_of, make_clip, with_archive

ROOT = Path(__file__).resolve().parents[3]
IDS = [clip_id_of(number) for number in range(3)]
FOLDER = DeliveryDefinition(name="small")
ALL = DeliveryDefinition(name="all", formats=tuple(FORMATS))


def packaged(number: int, **options: Any) -> DeliveredClip:
    return with_archive(make_clip(number, steps=2, **options))


def changed(clip: DeliveredClip, **row: Any) -> DeliveredClip:
    return replace(clip, row={**clip.row, **row})


def write(
    root: Path, clips: Sequence[DeliveredClip], definition: DeliveryDefinition = FOLDER, **options: Any
) -> WrittenDelivery:
    return dataset.write_delivery(root, definition, clips, **options)


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def visible(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if not path.name.startswith("."))


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> WrittenDelivery:
    """Two clips in all formats; nobody changes it."""
    clips = [packaged(0, split="train"), packaged(1, split="test", collector_id="c002")]
    return write(tmp_path_factory.mktemp("all"), clips, ALL)


# --- versions -----------------------------------------------------------------------------------------


def test_every_format_holds_the_same_clips_and_is_listed(delivered: WrittenDelivery) -> None:
    record = json.loads((delivered.folder / "delivery.json").read_text())
    assert list(check_formats(delivered.folder)) == [] and list(compare_digests(delivered.folder)) == []
    assert {name: counts.get("samples", 4) for name, counts in record["counts"].items()} == dict.fromkeys(
        FORMATS, 4
    )
    assert record["format"] == 2 and record["definition"]["formats"] == list(FORMATS)
    assert delivered.bytes == sum(map(len, content_of(delivered.folder).values()))
    names = {entry["name"] for entry in record["files"]}
    assert {
        f"{IDS[0]}/",
        f"{IDS[0]}.tar.gz",
        "manifest.parquet",
        "README.md",
        "coverage.png",
        CORRECTIONS,
    } <= names
    assert not [name for name in names if name.startswith(f"{IDS[0]}/rgb")], "a folder is one entry"


def test_rows_say_where_the_clip_lies(tmp_path: Path, delivered: WrittenDelivery) -> None:
    rows = pq.read_table(delivered.folder / "manifest.parquet").to_pylist()
    assert [(row["clip_id"], row["split"]) for row in rows] == [(IDS[0], "train"), (IDS[1], "test")]
    assert rows[0]["package_uri"] == str(delivered.folder / f"{IDS[0]}.tar.gz")
    streamed = write(tmp_path, [packaged(0)], replace(FOLDER, formats=("webdataset",)))
    [row] = pq.read_table(streamed.folder / "manifest.parquet").to_pylist()
    assert row["package_path"] is None and row["clip_path"] is None
    assert not (streamed.folder / IDS[0]).exists()


def test_equal_content_is_the_same_version_in_any_order(tmp_path: Path) -> None:
    first = write(tmp_path, [packaged(0), packaged(1)])
    again = write(tmp_path, [packaged(1), packaged(0)])
    assert not again.is_new
    assert replace(again, is_new=True) == first
    assert visible(tmp_path) == [CORRECTIONS, "v0001"]


@pytest.mark.parametrize(
    "change",
    [
        lambda: [packaged(0)],
        lambda: [packaged(0), packaged(1), packaged(2)],
        lambda: [packaged(0), packaged(1, layers=("frames",))],
        lambda: [packaged(0), changed(packaged(1), licence="CC0-1.0")],
        lambda: [packaged(0), changed(packaged(1), split="test")],
        lambda: [],
    ],
    ids=["a clip less", "a clip more", "fewer layers", "another licence", "another split", "none"],
)
def test_any_change_is_a_new_version_and_the_old_one_stays(
    tmp_path: Path, change: Callable[[], list[DeliveredClip]]
) -> None:
    before = content_of(write(tmp_path, [packaged(0), packaged(1)]).folder)
    second = write(tmp_path, change())
    assert (second.version, second.is_new) == ("v0002", True)
    assert content_of(tmp_path / "v0001") == before
    third = write(tmp_path, [packaged(0), packaged(1)])
    assert third.version == "v0003", "a version is never reused, not even for content that was there before"


def test_versions_are_counted_as_numbers(tmp_path: Path) -> None:
    for name in ("v9999", "v10000", "v0001 (copy)", "vault", "v2"):
        (tmp_path / name).mkdir()
    (tmp_path / "v20000").touch()
    assert write(tmp_path, [packaged(0)]).version == "v10001"


def test_a_version_without_its_record_is_not_trusted(tmp_path: Path) -> None:
    first = write(tmp_path, [packaged(0)])
    (first.folder / "delivery.json").write_text("{")
    assert write(tmp_path, [packaged(0)]).version == "v0002"


def test_what_has_not_changed_is_linked(tmp_path: Path) -> None:
    first = write(tmp_path, [packaged(0)]).folder
    second = write(tmp_path, [packaged(0), packaged(1)]).folder
    for name in (f"{IDS[0]}.tar.gz", f"{IDS[0]}/metadata.json"):
        assert (first / name).stat().st_ino == (second / name).stat().st_ino
    assert list(compare_digests(second)) == []


def test_the_cards_of_a_version_name_the_models_that_made_the_labels(tmp_path: Path) -> None:
    backend = {"task": "hands", "backend": "hands_100doh", "model": "100DOH", "licence": "not stated"}
    layers = {"hand_object": {"backends": [{**backend, "weights_sha256": "e" * 64}]}}
    plain = packaged(0)
    clips = [replace(plain, metadata={**plain.metadata, "layers": layers}), packaged(1)]
    folder = write(tmp_path, clips, ALL).folder
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("README.md")) == [
        "README.md",
        "hf/README.md",
    ]
    for name in ("README.md", "hf/README.md"):
        assert "| hand_object | 100DOH | not stated | `eeeeeeeeeeee` |" in (folder / name).read_text(), name


def test_damage_is_said_in_the_record_and_on_the_card(tmp_path: Path) -> None:
    left_out = LeftOut(counts={"damaged": 1, "withdrawn": 2}, damaged={IDS[2]: ["frames"]})
    folder = write(tmp_path, [packaged(0)], left_out=left_out).folder
    record = json.loads((folder / "delivery.json").read_text())
    assert record["incomplete"] and record["damaged"] == {IDS[2]: ["frames"]}
    card = (folder / "README.md").read_text()
    assert "**Incomplete:** 1 clip(s)" in card and "Not inside: 1 damaged, 2 withdrawn." in card


def test_nothing_is_written_where_it_does_not_fit(tmp_path: Path) -> None:
    def full(needed: int) -> None:
        raise InsufficientDisk(f"{needed} bytes")

    clips = [packaged(0), packaged(1)]
    sizes = 2 * sum(clip.archive.entry.bytes for clip in clips if clip.archive)
    with pytest.raises(InsufficientDisk, match=str(sizes)):
        write(tmp_path, clips, require_space=full)
    assert visible(tmp_path) == []


def test_the_estimate_is_near_the_size(tmp_path: Path) -> None:
    clips = [packaged(number) for number in range(2)]
    estimated = formats.estimate_bytes(clips, ALL)
    folder = write(tmp_path, clips, ALL).folder
    for name, writer in formats.WRITERS.items():
        if writer.folder:
            size = sum(len(content) for content in content_of(folder / writer.folder).values())
            assert size / 6 < estimated[name] < 6 * size, name


# --- interruptions ------------------------------------------------------------------------------------


def test_a_full_disk_is_resumed_by_the_same_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    clips = [packaged(0), packaged(1)]
    with monkeypatch.context() as patched:
        patched.setattr("ego_assets.delivery.hdf5.write", full)
        with pytest.raises(OSError, match="No space"):
            write(tmp_path, clips, ALL)
    assert visible(tmp_path) == []
    [staged] = tmp_path.glob(".staging-*")
    shard = staged / "webdataset/all-000000.tar"
    written = shard.stat().st_mtime_ns
    (staged / ".part-left").write_text("half a file")
    delivery = write(tmp_path, clips, ALL)
    assert (delivery.folder / "webdataset/all-000000.tar").stat().st_mtime_ns == written, "not written again"
    assert list(check_formats(delivery.folder)) == [] and list(compare_digests(delivery.folder)) == []
    assert not list(tmp_path.glob(".staging-*")) and not list(delivery.folder.glob(".*"))


def test_a_damaged_package_leaves_nothing(tmp_path: Path) -> None:
    clip = packaged(1)
    assert clip.archive is not None
    cut = replace(clip, archive=replace(clip.archive, open=lambda: io.BytesIO(b"not it")))
    with pytest.raises(ArtifactCorrupted, match=IDS[1]):
        write(tmp_path, [packaged(0), cut])
    assert list(tmp_path.iterdir()) == []


def test_an_archive_cannot_write_outside_its_delivery(tmp_path: Path) -> None:
    import hashlib

    evil = io.BytesIO()
    with tarfile.open(fileobj=evil, mode="w:gz") as archive:
        member = tarfile.TarInfo("../../outside.txt")
        member.size = 4
        archive.addfile(member, io.BytesIO(b"evil"))
    content = evil.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    clip = packaged(0)
    assert clip.archive is not None
    entry = replace(clip.archive.entry, sha256=digest, bytes=len(content))
    clip = replace(
        clip,
        package_sha256=digest,
        archive=replace(clip.archive, entry=entry, open=lambda: io.BytesIO(content)),
    )
    with pytest.raises(tarfile.TarError):
        write(tmp_path / "deliveries", [clip])
    assert not list(tmp_path.rglob("outside.txt")) and visible(tmp_path / "deliveries") == []


def test_abandoned_work_goes_and_what_is_continued_stays(tmp_path: Path) -> None:
    for name in (".staging-a", ".staging-b"):
        (tmp_path / name).mkdir()
    assert clean_staging(tmp_path, older_than_s=0, keep=".staging-b") == 1
    assert [path.name for path in tmp_path.iterdir()] == [".staging-b"]
    assert clean_staging(tmp_path) == 0


KILL = """
import os, signal, sys
from pathlib import Path

sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]) / "ego_assets_tests/unit/delivery")]
from test_dataset import packaged, write

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def progress(done, total):
    if sys.argv[3] == "half-way" and done == 1:
        die()

if sys.argv[3] == "before the rename":
    Path.rename = die
write(Path(sys.argv[2]), [packaged(0), packaged(1)], progress=progress)
"""


@pytest.mark.parametrize("instant", ["half-way", "before the rename"])
def test_kill_9_leaves_nothing_that_looks_whole(tmp_path: Path, instant: str) -> None:
    first = write(tmp_path, [packaged(0)])
    before = content_of(first.folder)
    done = subprocess.run(
        [sys.executable, "-c", KILL, str(ROOT), str(tmp_path), instant], capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert visible(tmp_path) == [CORRECTIONS, "v0001"] and content_of(first.folder) == before
    after = write(tmp_path, [packaged(0), packaged(1)])
    assert (after.version, after.is_new) == ("v0002", True)
    assert list(compare_digests(after.folder)) == [] and not list(tmp_path.glob(".staging-*"))


def test_progress_counts_clips_in_every_format(tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    asked = replace(FOLDER, formats=("folder", "egovid"))
    write(tmp_path, [packaged(0), packaged(1)], asked, progress=lambda *step: heard.append(step))
    assert heard[0] == (0, 4) and heard[-1] == (4, 4) and heard == sorted(heard)


# --- corrections --------------------------------------------------------------------------------------


def withdrawn(number: int, last_version: str) -> NeededCorrection:
    return NeededCorrection(
        clip_id=IDS[number], action="withdrawn", reason="privacy incident", last_version=last_version
    )


def test_corrections_are_cumulative_and_current_beside_the_versions(tmp_path: Path) -> None:
    write(tmp_path, [packaged(0), packaged(1), packaged(2)])
    second = write(tmp_path, [packaged(0), packaged(2)], corrections=[withdrawn(1, "v0001")])
    third = write(tmp_path, [packaged(0)], corrections=[withdrawn(1, "v0001"), withdrawn(2, "v0002")])
    listed = [(entry.clip_id, entry.version) for entry in read_corrections(tmp_path / CORRECTIONS)]
    assert listed == [(IDS[1], "v0002"), (IDS[2], "v0003")]
    assert len(read_corrections(second.folder / CORRECTIONS)) == 1, "a version never changes"
    assert len(read_corrections(third.folder / CORRECTIONS)) == 2


def test_a_clip_that_only_an_old_version_has_needs_no_new_version(tmp_path: Path) -> None:
    write(tmp_path, [packaged(0), packaged(1)])
    write(tmp_path, [packaged(0)])
    again = write(tmp_path, [packaged(0)], corrections=[withdrawn(1, "v0001")])
    assert not again.is_new and again.version == "v0002"
    [entry] = read_corrections(tmp_path / CORRECTIONS)
    assert (entry.clip_id, entry.version) == (IDS[1], "v0003")


def test_a_recalled_clip_is_in_no_file_any_more(tmp_path: Path) -> None:
    folder = write(tmp_path, [packaged(0), packaged(1)], ALL).folder

    def take(path: Path) -> None:
        path.rename(tmp_path / f"taken-{path.name}")

    names = recall_clip(folder, IDS[1], reason={"incident": 7}, take=take)
    assert {f"{IDS[1]}/", f"{IDS[1]}.tar.gz", f"hdf5/{IDS[1]}.h5", "webdataset/all-000000.tar"} <= set(names)
    left = {path.relative_to(folder).parts[0] for path in folder.rglob("*") if path.is_file()}
    assert IDS[0] in left and IDS[1] not in left
    assert not list(folder.glob("webdataset/*.tar")) and not list(folder.glob("hf/data/*"))
    assert not list(folder.glob("lerobot/*/**/*.*")) and not list(folder.glob("egovid/*"))
    assert recall_clip(folder, IDS[1], reason={"incident": 7}, take=take) == []
    assert len(json.loads((folder / "RECALLED.json").read_text())["recalled"]) == 1
    # What was recalled is no damage; what goes missing beside it is.
    assert list(compare_digests(folder)) == [] and list(check_formats(folder)) == []
    (folder / f"{IDS[0]}.tar.gz").unlink()
    assert f"{IDS[0]}.tar.gz is missing" in list(compare_digests(folder))
    assert write(tmp_path, [packaged(0), packaged(1)], ALL).version == "v0002", (
        "what lost a clip is not whole"
    )


# --- verify, traces, diff -----------------------------------------------------------------------------


def copied(delivered: WrittenDelivery, target: Path) -> Path:
    import shutil

    shutil.copytree(delivered.folder, target / "v0001")
    return target / "v0001"


@pytest.mark.parametrize(
    "name",
    [
        f"{IDS[0]}/metadata.json",
        "webdataset/train-000000.tar",
        "manifest.parquet",
        f"hdf5/{IDS[1]}.h5",
        "README.md",
    ],
)
def test_a_changed_byte_is_found(delivered: WrittenDelivery, tmp_path: Path, name: str) -> None:
    folder = copied(delivered, tmp_path)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    assert any(problem.startswith(name.partition("/metadata")[0]) for problem in compare_digests(folder))


def test_what_is_missing_or_strange_is_named(delivered: WrittenDelivery, tmp_path: Path) -> None:
    folder = copied(delivered, tmp_path)
    (folder / f"hdf5/{IDS[0]}.h5").unlink()
    (folder / "notes.txt").write_text("hello")
    found = "; ".join(compare_digests(folder))
    assert f"hdf5/{IDS[0]}.h5 is missing" in found and "notes.txt does not belong" in found
    assert any("hdf5" in problem for problem in check_formats(folder))


def test_traces_are_found_wherever_they_are(delivered: WrittenDelivery, tmp_path: Path) -> None:
    secrets = {"name of an upload": {"secret_upload_name.mp4"}}
    folder = copied(delivered, tmp_path)
    assert list(find_traces(folder, secrets=secrets)) == []
    document = folder / IDS[0] / "captions.json"
    document.write_text(document.read_text().replace("A hand", "secret_upload_name.mp4"))
    assert list(find_traces(folder, secrets=secrets)) == [f"{IDS[0]}/captions.json holds a name of an upload"]


def test_a_place_in_a_video_and_exif_in_a_picture_are_found(
    delivered: WrittenDelivery, tmp_path: Path
) -> None:
    import av
    from PIL import Image

    folder = copied(delivered, tmp_path)
    [video, *_] = folder.glob("lerobot/videos/**/*.mp4")
    moved = tmp_path / "moved.mp4"
    with av.open(str(video)) as source, av.open(str(moved), "w") as target:
        target.metadata["location"] = "+47.1+8.5/"
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    moved.replace(video)
    exif = Image.Exif()
    exif[0x9003] = "2026:05:14 10:00:00"
    for path in folder.glob(f"{IDS[0]}/rgb/*.jpg"):
        with Image.open(path) as image:
            image.save(path, exif=exif)
    found = list(find_traces(folder, secrets={}))
    assert any("location" in problem and ".mp4" in problem for problem in found)


def test_the_difference_of_two_versions(tmp_path: Path) -> None:
    before = [packaged(0), packaged(1)]
    after = [
        changed(before[1], split="test", depth_maps_sha256="f" * 64),
        packaged(2),
    ]
    first, second = write(tmp_path, before).folder, write(tmp_path, after).folder
    found = diff_versions(first, second)
    assert (found.added, found.removed, found.unchanged) == ((IDS[2],), (IDS[0],), 0)
    [change] = found.changed
    assert (change.clip_id, change.layers, change.facts) == (
        IDS[1],
        ("depth_maps",),
        {"split": (None, "test")},
    )
    assert found.after.splits == {"test": 1} and found.before.clips == 2
