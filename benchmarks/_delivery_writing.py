"""WebDataset shards from a local store against a plain copy of them, and deliveries of many small clips.

The plain copy reads the shards in blocks and writes them to new files; both end when the files are on the disk, and
what is read lies in memory in both cases. The writer also finds every member in its archive, hashes everything, makes
headers and keeps a journal. Wall-clock seconds, because waiting for the disk is part of both.

Peaks of memory are those of a fresh process per format and number of clips.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from _harness import Reporter, alternate, median_ratio

from ego_assets.delivered_files import OpenFiles, StoreClipFiles
from ego_assets.delivery.clip_source import ClipArchive, DeliveredClip
from ego_assets.delivery.definition import FORMATS, DeliveryDefinition
from ego_assets.delivery.formats import WRITERS
from ego_assets.delivery.journal import Journal
from ego_assets.delivery.layers import archive_members
from ego_assets.delivery.package import PackageMember, write_package
from ego_assets.media.frame_archive import FrameArchiveWriter
from ego_assets.schema.artifact import ArtifactDocument, FileEntry
from ego_assets.schema.layers import LayerSpec
from ego_assets_tests.delivered_clips import clip_id_of, make_clip
from resources.storage import ArtifactStore

#: Layer: folder of a clip, extension, and size of a file as at 1280x720.
LAYERS: Mapping[str, tuple[str, str, int]] = {
    "frames": ("rgb", "jpg", 150_000),
    "depth_maps": ("depth", "png", 250_000),
    "masks": ("segmentation", "png", 10_000),
}
CLIPS, STEPS = 8, 100
SHARD_BYTES = 100_000_000
SPEED_TARGET, FLAT_TARGET = 0.8, 1.2
STEPS_OF_SMALL = 4
_BLOCK_BYTES = 1 << 20


def run(reporter: Reporter, *, quick: bool) -> None:
    """Shards against a plain copy."""
    runs, steps = (3, STEPS // 4) if quick else (9, STEPS)
    definition = DeliveryDefinition(formats=("webdataset",), shard_bytes=SHARD_BYTES)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as made:
        root = Path(made)
        store = ArtifactStore(str(root / "store"))
        stored = [_stored_clip(store, number, steps) for number in range(CLIPS)]

        def write(folder: Path) -> None:
            folder.mkdir()
            with OpenFiles(store) as files:
                clips = [
                    replace(clip, files=StoreClipFiles(files, package=package, specs=_specs()))
                    for clip, package in stored
                ]
                WRITERS["webdataset"].write(folder, clips, definition=definition, journal=Journal(folder))

        source = root / "source"
        write(source)
        shards = sorted((source / "webdataset").glob("*.tar"))
        size = sum(path.stat().st_size for path in shards)

        def timed_write() -> float:
            taken = _seconds(lambda: write(root / "written"))
            shutil.rmtree(root / "written")
            return taken

        def timed_copy(*, digest: bool) -> float:
            (root / "copied").mkdir()
            taken = _seconds(lambda: [_copy(path, root / "copied" / path.name, digest) for path in shards])
            shutil.rmtree(root / "copied")
            return taken

        seconds = alternate(
            {
                "webdataset": timed_write,
                "copy": lambda: timed_copy(digest=False),
                "copy with digest": lambda: timed_copy(digest=True),
            },
            runs=runs,
        )
    for name, values in seconds.items():
        speed = size / 1e6 / statistics.median(values)
        reporter.report(f"{name}, {size / 1e6:.0f} MB (n={runs})", speed, "MB/s", better="higher")
    for name, target in (("copy", SPEED_TARGET), ("copy with digest", None)):
        ratio = median_ratio(seconds[name], seconds["webdataset"])
        reporter.report(
            f"write, speed of webdataset / {name}", ratio, "ratio", target=target, better="higher"
        )


def run_many(reporter: Reporter, *, quick: bool) -> None:
    """Time and peak memory of every format with many small clips."""
    few, many = (25, 100) if quick else (250, 1_000)
    for name in FORMATS:
        one, other = _measured(name, few), _measured(name, many)
        reporter.report(f"{name}, {many} clips of {STEPS_OF_SMALL} steps", other["seconds"], "seconds")
        reporter.report(f"{name}, {many} clips, peak memory", other["peak_mb"], "MB")
        reporter.report(
            f"{name}, peak memory of {many} / {few} clips",
            other["peak_mb"] / one["peak_mb"],
            "ratio",
            target=FLAT_TARGET,
        )


def write_many(name: str, count: int) -> None:
    """In a process of its own: write so many clips in one format and print what it took."""
    template = make_clip(0, steps=STEPS_OF_SMALL)
    clips = [_small_clip(template, number, archive=name == "folder") for number in range(count)]
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        definition = DeliveryDefinition(formats=(name,))
        journal = Journal(Path(folder))
        seconds = _seconds(
            lambda: WRITERS[name].write(Path(folder), clips, definition=definition, journal=journal)
        )
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mb": peak_mb}))


def _measured(name: str, count: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, name, str(count)], check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _small_clip(template: DeliveredClip, number: int, *, archive: bool) -> DeliveredClip:
    """The template under another id; its files are shared, so that only what writers keep counts."""
    clip_id = clip_id_of(number)

    def packed() -> io.BytesIO:
        file, files = io.BytesIO(), template.files
        members = [
            PackageMember(path=path, size=size, chunks=lambda path=path: [files.read(path)])  # type: ignore[misc]
            for path, size in files.sizes().items()
            if path != "metadata.json"
        ]
        documents = {"metadata.json": files.read("metadata.json")}
        write_package(file, clip_id=clip_id, members=members, documents=documents)
        return io.BytesIO(file.getvalue())

    made = None
    if archive:
        content = packed().getvalue()
        entry = FileEntry(
            name=f"{clip_id}.tar.gz", bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
        )
        made = ClipArchive(entry=entry, open=packed)
    return replace(template, clip_id=clip_id, row={**template.row, "clip_id": clip_id}, archive=made)


def _stored_clip(store: ArtifactStore, number: int, steps: int) -> tuple[DeliveredClip, ArtifactDocument]:
    """A clip whose layers are committed, and its package."""
    clip = make_clip(number, steps=steps, layers=tuple(LAYERS))
    chance = np.random.default_rng(number)
    grid = clip.grid
    inputs = {}
    for layer, (_, extension, size) in LAYERS.items():
        with store.stage(clip.clip_id, layer) as staged:
            with FrameArchiveWriter(staged.path("files.tar"), staged.path("files.parquet")) as writer:
                for frame, time_ns in zip(
                    grid.frame_index.tolist(), grid.timestamps_ns.tolist(), strict=True
                ):
                    # What does not compress, like files that are compressed already.
                    writer.add(frame, time_ns, chance.bytes(size), extension=extension)
            inputs[layer] = staged.commit(config={}, inputs={}).data_version
    with store.stage(clip.clip_id, "clip_package") as staged:
        staged.path("metadata.json").write_bytes(clip.files.read("metadata.json"))
        return clip, staged.commit(config={}, inputs=inputs)


def _specs() -> list[LayerSpec]:
    return [
        LayerSpec(
            name=layer,
            group="enrich",
            description="",
            stage=3,
            deliver=partial(archive_members, folder=folder, archive="files.tar", index="files.parquet"),
        )
        for layer, (folder, _, _) in LAYERS.items()
    ]


def _copy(source: Path, target: Path, digest: bool) -> None:
    hashed = hashlib.sha256()
    with source.open("rb", buffering=0) as read, target.open("wb", buffering=0) as written:
        while block := read.read(_BLOCK_BYTES):
            written.write(block)
            if digest:
                hashed.update(block)
        os.fsync(written.fileno())


def _seconds(work: Callable[[], object]) -> float:
    before = time.perf_counter()
    work()
    return time.perf_counter() - before


if __name__ == "__main__":
    write_many(sys.argv[1], int(sys.argv[2]))
