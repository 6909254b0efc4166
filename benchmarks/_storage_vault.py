"""What the vault's encryption costs: against a bare decode of the same clip, and in GB/s of one core."""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import av
import numpy as np
from _harness import Reporter, alternate, cpu_seconds, median_ratio

if TYPE_CHECKING:
    from resources.vault import Vault

TESTDATA = Path(os.environ.get("EGO_TESTDATA", Path(__file__).resolve().parents[2] / "shared" / "testdata"))
TARGET_RATIO = 0.3
#: Head cameras record 1080p with 30 to 60 Mbit/s (GoPro HERO12: 60); the more bytes a frame has, the more there is
#: to decrypt for one decode.
CAMERA_BITS_PER_SECOND = 60_000_000

_CLIP = "00000000-0000-4000-8000-000000000001"
_READ_BYTES = 1 << 20


def run(reporter: Reporter, *, quick: bool) -> None:
    """Measure and report.

    Args:
        reporter: Takes the rows.
        quick: End within a minute.
    """
    runs = 3 if quick else 7
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, clip in _clips(root, quick=quick):
            _against_decode(reporter, name, clip, root, runs=runs)
        if not (TESTDATA / "ego_video").is_dir():
            reason = f"no real material in {TESTDATA} (EGO_TESTDATA)"
            reporter.report("vault decryption / bare decode, real clips", None, "ratio", reason=reason)
        _throughput(reporter, root, megabytes=64 if quick else 256, runs=runs)


def _against_decode(reporter: Reporter, name: str, clip: Path, root: Path, *, runs: int) -> None:
    with _vault(root / f"vault of {name}", clip, encrypts=True) as sealed:
        values = alternate(
            {
                "bare decode": lambda: cpu_seconds(lambda: _decode(str(clip))),
                "read through the vault": lambda: cpu_seconds(lambda: _read(sealed)),
                "decode through the vault": lambda: cpu_seconds(lambda: _decode_original(sealed)),
            },
            runs=runs,
        )
    with av.open(str(clip)) as container:
        reporter.report(f"bit rate, {name}", container.bit_rate / 1e6, "Mbit/s", better="higher")
    for measure, samples in values.items():
        reporter.report(f"{measure}, {name}", statistics.median(samples), "CPU seconds")
    decode = values["bare decode"]
    reporter.report(
        f"vault decryption / bare decode, {name}",
        median_ratio(values["read through the vault"], decode),
        "ratio",
        target=TARGET_RATIO,
    )
    reporter.report(
        f"decode through the vault / bare decode, {name}",
        median_ratio(values["decode through the vault"], decode),
        "ratio",
        target=1 + TARGET_RATIO,
    )


def _throughput(reporter: Reporter, root: Path, *, megabytes: int, runs: int) -> None:
    """GB/s of CPU time: reading, and taking in, which reads, digests, writes, reads back and digests again."""
    content = root / "content.mp4"
    content.write_bytes(os.urandom(1 << 20) * megabytes)
    gigabytes = content.stat().st_size / 1e9
    with (
        _vault(root / "sealed", content, encrypts=True) as sealed,
        _vault(root / "clear", content, encrypts=False) as clear,
    ):
        counter = iter(range(1_000_000))
        values = alternate(
            {
                "read, encrypted": lambda: cpu_seconds(lambda: _read(sealed)),
                "read, clear": lambda: cpu_seconds(lambda: _read(clear)),
                "take, encrypted": lambda: cpu_seconds(lambda: _take(sealed, content, next(counter))),
                "take, clear": lambda: cpu_seconds(lambda: _take(clear, content, next(counter))),
            },
            runs=runs,
        )
    for measure, samples in values.items():
        reporter.report(
            f"vault throughput: {measure}",
            gigabytes / statistics.median(samples),
            "GB per CPU second",
            better="higher",
        )


def _clips(folder: Path, *, quick: bool) -> Iterator[tuple[str, Path]]:
    """A synthetic scene as the other benchmarks use it, one with a camera's bit rate, and a real clip."""
    from ego_assets.synth import SceneSpec, render_clip

    duration_s = 4.0 if quick else 10.0
    scene = folder / "scene.mp4"
    render_clip(SceneSpec(width=1920, height=1080, frame_rate=Fraction(30), duration_s=duration_s), scene)
    yield "synthetic 1080p", scene
    noisy = folder / "noisy.mp4"
    _add_noise(scene, noisy, at_most=30 if quick else 150)
    yield "synthetic 1080p with a camera's bit rate", noisy
    real = TESTDATA / "ego_video" / "aria2_carpark_lp.mp4"
    if real.is_file():
        yield "real 2560x1920", real


def _add_noise(source: Path, target: Path, *, at_most: int) -> None:
    """The same scene with a sensor's noise, encoded at the bit rate of a camera."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 6, (1080 + 64, 1920 + 64, 3)).astype(np.int16)
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        stream = writer.add_stream("libx264", rate=30, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
        stream.bit_rate = CAMERA_BITS_PER_SECOND
        for index, frame in enumerate(reader.decode(video=0)):
            if index == at_most:
                break
            down, right = rng.integers(0, 64, 2)
            picture = frame.to_ndarray(format="rgb24") + noise[down : down + 1080, right : right + 1920]
            noisy = av.VideoFrame.from_ndarray(np.clip(picture, 0, 255).astype(np.uint8), format="rgb24")
            writer.mux(stream.encode(noisy))
        writer.mux(stream.encode())


@contextmanager
def _vault(folder: Path, clip: Path, *, encrypts: bool) -> Iterator[Vault]:
    """A vault that holds the clip."""
    from resources.database import Database
    from resources.keys import VaultKeys
    from resources.vault import Vault

    folder.mkdir()
    database = Database(f"sqlite:///{folder / 'metadata.db'}")
    database.upgrade()
    try:
        keys = VaultKeys(folder / "vault.key", encrypts=encrypts)
        vault = Vault(folder / "vault", database, keys=keys)
        vault.take(_CLIP, clip, move=False, actor="benchmark")
        yield vault
    finally:
        database.close()


def _take(vault: Vault, source: Path, number: int) -> None:
    clip_id = f"00000000-0000-4000-9000-{number:012d}"
    vault.take(clip_id, source, move=False, actor="benchmark")
    vault.erase(clip_id)


def _read(vault: Vault) -> None:
    from ego_assets.schema.vocabulary import VaultPurpose

    with vault.open(_CLIP, purpose=VaultPurpose.INGEST, actor="benchmark") as original:
        while original.read(_READ_BYTES):
            pass


def _decode_original(vault: Vault) -> None:
    from ego_assets.schema.vocabulary import VaultPurpose

    with vault.open(_CLIP, purpose=VaultPurpose.INGEST, actor="benchmark") as original:
        _decode(original)


def _decode(source: str | BinaryIO) -> None:
    """The least that reading every frame costs."""
    with av.open(source) as container:
        container.streams.video[0].thread_type = "AUTO"
        for _ in container.decode(video=0):
            pass
