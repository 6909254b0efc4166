"""A 1,000-frame archive through the local store against a plain file of the same bytes; one frame of it from S3.

Plain means: the same members written one after another to one file that is synced to the disk, and read back one after
another. The store also writes headers and an index, hashes everything, syncs folders and replaces the pointer.
Wall-clock seconds, because waiting for the disk is part of both.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _harness import Reporter, alternate, median_ratio

from ego_assets.media.frame_archive import FrameArchive, FrameArchiveIndex, FrameArchiveWriter, read_member
from ego_assets.schema.artifact import ArtifactDocument
from resources.storage import ArtifactStore

FRAMES = 1_000
#: About a JPEG frame of 1280x720.
FRAME_BYTES = 60_000
TARGET = 0.8
LAYER = "frames"
ARCHIVE, INDEX = "frames.tar", "frames.parquet"


def run(reporter: Reporter, *, quick: bool) -> None:
    """Writing and reading on the local store."""
    frames = make_frames()
    runs = 5 if quick else 15
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        store, plain = ArtifactStore(str(Path(folder) / "store")), Path(folder) / "plain.bin"
        document = write_to_store(store, frames)
        write_plain(plain, frames)
        written = alternate(
            {
                "store": lambda: time_store(store, frames),
                "plain": lambda: time_plain(plain.with_name("new"), frames),
                "plain with digest": lambda: time_plain(plain.with_name("new"), frames, digest=True),
            },
            runs=runs,
        )
        read = alternate(
            {
                "store": lambda: seconds(lambda: read_from_store(store, document)),
                "plain": lambda: seconds(lambda: read_plain(plain)),
                "plain with digest": lambda: seconds(lambda: read_plain(plain, digest=True)),
                "store with digest": lambda: seconds(
                    lambda: (store.verify(document), read_from_store(store, document))
                ),
            },
            runs=runs,
        )
    for what, values in (("write", written), ("read", read)):
        for name, samples in values.items():
            reporter.report(
                f"{what} {FRAMES} frames, {name} (n={runs})", statistics.median(samples), "seconds"
            )
    both = [
        [w + r for w, r in zip(written[name], read[name], strict=True)]
        for name in ("plain", "store", "plain with digest")
    ]
    reporter.report(
        "write, speed of the store / plain", median_ratio(written["plain"], written["store"]), "ratio"
    )
    reporter.report(
        "write, speed of the store / plain with digest",
        median_ratio(written["plain with digest"], written["store"]),
        "ratio",
    )
    reporter.report(
        "read, speed of the store / plain",
        median_ratio(read["plain"], read["store"]),
        "ratio",
        target=TARGET,
        better="higher",
    )
    reporter.report(
        "read, speed of the store with digest / plain with digest",
        median_ratio(read["plain with digest"], read["store with digest"]),
        "ratio",
    )
    reporter.report(
        "write and read, speed of the store / plain",
        median_ratio(both[0], both[1]),
        "ratio",
        target=TARGET,
        better="higher",
    )
    reporter.report(
        "write and read, speed of the store / plain with digest", median_ratio(both[2], both[1]), "ratio"
    )


def run_range(reporter: Reporter, *, quick: bool) -> None:
    """One frame of the archive from an S3 service on loopback, its index at hand."""
    from ego_assets_tests.bucket_server import serve_s3

    frames = make_frames()
    latencies, requests = [], []
    with serve_s3() as server:
        store = ArtifactStore(f"s3://{server.make_bucket()}/store", server.access())
        document = write_to_store(store, frames)
        with store.open(document, INDEX) as file:
            index = FrameArchiveIndex.read(file)
        archive = FrameArchive(lambda start, size: store.read_range(document, ARCHIVE, start, size), index)
        for number in range(0, FRAMES, 50 if quick else 10):
            server.faults.reset()
            latencies.append(seconds(lambda number=number: archive.read(number)))  # type: ignore[misc]
            requests.append(server.faults.count())
            if archive.read(number) != frames[number]:
                raise RuntimeError(f"frame {number} is not what was written")
    reporter.report(
        f"requests for one frame from S3 (n={len(requests)})", max(requests), "requests", target=1
    )
    reporter.report("one frame from S3 on loopback, median", statistics.median(latencies) * 1e3, "ms")


def make_frames() -> list[bytes]:
    """Contents that do not compress, as JPEG files."""
    content = np.random.default_rng(5).bytes(FRAMES * FRAME_BYTES)
    return [content[start : start + FRAME_BYTES] for start in range(0, len(content), FRAME_BYTES)]


def write_to_store(store: ArtifactStore, frames: list[bytes]) -> ArtifactDocument:
    """A new clip's layer: staged, hashed, published."""
    with store.stage(str(uuid.uuid4()), LAYER) as staged:
        with FrameArchiveWriter(staged.path(ARCHIVE), staged.path(INDEX)) as writer:
            for number, frame in enumerate(frames):
                writer.add(number, number * 33_333_333, frame, extension="jpg")
        return staged.commit(config={}, inputs={})


def time_store(store: ArtifactStore, frames: list[bytes]) -> float:
    """Seconds to write a new version; as the plain file it is removed afterwards, which does not count."""
    written: list[ArtifactDocument] = []
    taken = seconds(lambda: written.append(write_to_store(store, frames)))
    store.erase(written[0].clip_id)
    return taken


def time_plain(path: Path, frames: list[bytes], *, digest: bool = False) -> float:
    """Seconds to write a new plain file."""
    taken = seconds(lambda: write_plain(path, frames, digest=digest))
    path.unlink()
    return taken


def read_from_store(store: ArtifactStore, document: ArtifactDocument) -> int:
    with store.open(document, INDEX) as file:
        index = FrameArchiveIndex.read(file)
    with store.open(document, ARCHIVE) as file:
        return sum(len(read_member(file, entry)) for entry in index)


def write_plain(path: Path, frames: list[bytes], *, digest: bool = False) -> None:
    hashed = hashlib.sha256()
    with path.open("wb") as file:
        for frame in frames:
            file.write(frame)
            if digest:
                hashed.update(frame)
        file.flush()
        os.fsync(file.fileno())


def read_plain(path: Path, *, digest: bool = False) -> int:
    hashed, total = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(FRAME_BYTES):
            total += len(block)
            if digest:
                hashed.update(block)
    return total


def seconds(work: Callable[[], object]) -> float:
    before = time.perf_counter()
    work()
    return time.perf_counter() - before
