"""Decoded samples through the SDK's stream against a hand-written loop and against ``webdataset``.

All three read the same shards and decode the same members: JPEG to RGB, depth and mask to arrays, two JSON documents
and a caption. CPU seconds, one thread; they take turns in one process, so that drift hits all alike.
"""

from __future__ import annotations

import io
import json
import statistics
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _harness import Reporter, alternate, cpu_seconds, median_ratio
from PIL import Image

TARGET = 0.9
#: Pictures of a phone's proxy video, and small ones, where what is not decoding counts most.
SIZES = ((1280, 720), (320, 240))


def run(reporter: Reporter, *, quick: bool) -> None:
    """Report samples a second and their ratios for every size of picture."""
    for width, height in SIZES:
        steps, runs = (40, 5) if quick else (150, 11)
        if width < 640:
            steps *= 4
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            write_delivery(root, width=width, height=height, clips=4, steps=steps // 4)
            compare(reporter, root, f"{width}x{height}", steps=steps // 4 * 4, runs=runs)


def compare(reporter: Reporter, root: Path, what: str, *, steps: int, runs: int) -> None:
    from ego_assets.delivery.egodata import Dataset

    dataset = Dataset(root)
    shards = sorted((root / "webdataset").glob("*.tar"))
    readers: dict[str, Callable[[], int]] = {
        "sdk": lambda: drained(dataset.stream()),
        "hand-written loop": lambda: drained(by_hand(shards)),
        "webdataset": lambda: drained(by_webdataset(shards)),
    }
    for name, read in readers.items():
        if (found := read()) != steps:
            raise RuntimeError(f"{name}: expected {steps} samples, got {found}")
    values = alternate(
        {name: lambda read=read: cpu_seconds(read) for name, read in readers.items()},  # type: ignore[misc]
        runs=runs,
    )
    for name, seconds in values.items():
        reporter.report(
            f"reading {what}, {name} (n={runs}, {steps} samples)",
            steps / statistics.median(seconds),
            "samples per CPU second",
            better="higher",
        )
    for other in ("hand-written loop", "webdataset"):
        reporter.report(
            f"reading {what}, speed of the SDK / {other}",
            median_ratio(values[other], values["sdk"]),
            "ratio",
            target=TARGET,
            better="higher",
        )


def drained(samples: Any) -> int:
    """Number of samples; each is complete and decoded."""
    count = 0
    for sample in samples:
        count += sample["rgb"].ndim == 3 and sample["depth"].dtype == np.uint16 and sample["mask"].ndim == 2
    return count


def by_hand(shards: list[Path]) -> Any:
    """What somebody would write who knows the members' names."""
    for shard in shards:
        with tarfile.open(shard, "r|") as tar:
            key, sample = "", {}
            for member in tar:
                stem, _, extension = member.name.partition(".")
                if stem != key and sample:
                    yield sample
                    sample = {}
                key = stem
                file = tar.extractfile(member)
                if file is None:
                    continue
                content = file.read()
                if extension == "rgb.jpg":
                    sample["rgb"] = np.array(Image.open(io.BytesIO(content)).convert("RGB"))
                elif extension in ("depth.png", "mask.png"):
                    sample[extension[:-4]] = np.array(Image.open(io.BytesIO(content)))
                elif extension.endswith(".json"):
                    sample[extension[:-5]] = json.loads(content)
                else:
                    sample["caption"] = content.decode()
            if sample:
                yield sample


def by_webdataset(shards: list[Path]) -> Any:
    """The package, with decoders that give the same."""
    import webdataset as wds

    def picture(key: str, content: bytes) -> Any:
        if key.endswith(".jpg"):
            return np.array(Image.open(io.BytesIO(content)).convert("RGB"))
        return np.array(Image.open(io.BytesIO(content))) if key.endswith(".png") else None

    samples = wds.WebDataset([str(shard) for shard in shards], shardshuffle=False).decode(picture)
    return samples.rename(
        rgb="rgb.jpg",
        depth="depth.png",
        mask="mask.png",
        hands="hands.json",
        metadata="metadata.json",
        caption="caption.txt",
    )


def write_delivery(root: Path, *, width: int, height: int, clips: int, steps: int) -> None:
    """A delivery in shards of pictures as they come from a camera: smooth areas, edges and noise."""
    from ego_assets.delivery.clip_source import DeliveredClip
    from ego_assets.delivery.definition import DeliveryDefinition
    from ego_assets.delivery.journal import Journal
    from ego_assets.delivery.manifest import write_manifest
    from ego_assets.delivery.webdataset import write
    from ego_assets.media.rasters import encode_indexed_png, encode_png16
    from ego_assets_tests.delivered_clips import MemoryFiles, make_clip

    chance = np.random.default_rng(1)
    palette = chance.integers(0, 256, (256, 3), dtype=np.uint8)
    made = []
    for number in range(clips):
        clip = make_clip(number, steps=steps)
        contents = {path: clip.files.read(path) for path in clip.files.sizes()}
        picture, depth, mask = scene(chance, width, height)
        for path in contents:
            if path.startswith("rgb/"):
                noisy = np.clip(picture + chance.normal(0, 4, picture.shape), 0, 255).astype(np.uint8)
                buffer = io.BytesIO()
                Image.fromarray(noisy).save(buffer, "JPEG", quality=95)
                contents[path] = buffer.getvalue()
            elif path.startswith("depth/frame_"):
                contents[path] = encode_png16(depth)
            elif path.startswith("segmentation/frame_"):
                contents[path] = encode_indexed_png(mask, palette)
        made.append(
            DeliveredClip(
                clip_id=clip.clip_id,
                row=clip.row,
                metadata=clip.metadata,
                data_versions=clip.data_versions,
                package_sha256=clip.package_sha256,
                files=MemoryFiles(contents),
            )
        )
    with (root / "manifest.parquet").open("wb") as out:
        write_manifest(out, [clip.row for clip in made])
    definition = DeliveryDefinition(formats=("webdataset",))
    write(root, made, definition=definition, journal=Journal(root))


def scene(chance: np.random.Generator, width: int, height: int) -> tuple[Any, Any, Any]:
    """A picture ``float64 [height, width, 3]``, its depth ``uint16`` and its mask ``uint8 [height, width]``."""
    across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    picture = 120 + 80 * np.stack([across, down, 1 - across], axis=-1)
    depth = (1000 + 3000 * down + 5 * chance.normal(size=(height, width))).astype(np.uint16)
    mask = np.zeros((height, width), np.uint8)
    for number in range(1, 9):
        left, top = int(chance.integers(0, width - 40)), int(chance.integers(0, height - 40))
        place = np.s_[top : top + height // 4, left : left + width // 5]
        picture[place] = chance.integers(0, 255, 3)
        depth[place] -= np.uint16(100 * number)
        mask[place] = number
    return picture, depth, mask
