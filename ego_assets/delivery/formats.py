"""The formats of a delivery: who writes and checks each, how large it will be, and which files hold a clip."""

from __future__ import annotations

import csv
import importlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ego_assets.delivery.clip_source import DeliveredClip
from ego_assets.delivery.definition import DeliveryDefinition
from ego_assets.delivery.journal import Journal
from ego_assets.schema.progress import ProgressCallback, ignore_progress

#: What the head of a file and the space that it fills up cost in a tar, on average.
_TAR_MEMBER_BYTES = 768
#: Facts of a sample that shards and tables repeat.
_SAMPLE_BYTES = 2_000
#: Table row of a clip.
_CLIP_BYTES = 4_000
_TABLE_ROW_BYTES = 500
#: LeRobot's statistics and rows of a step.
_LEROBOT_STEP_BYTES = 1_000
#: Decoded rasters that are compressed anew, against their PNG files.
_HDF5_RASTERS = 1.3


@dataclass(frozen=True)
class FormatWriter:
    """The module of one format, imported when it is needed.

    Attributes:
        module: Its name below ``ego_assets.delivery``.
        folder: Folder that it writes, or empty where it writes a folder per clip.
    """

    module: str
    folder: str

    def write(
        self,
        folder: Path,
        clips: Sequence[DeliveredClip],
        *,
        definition: DeliveryDefinition,
        journal: Journal,
        progress: ProgressCallback = ignore_progress,
    ) -> Mapping[str, int]:
        """Write the clips below ``folder``; returns counts."""
        counts: Mapping[str, int] = self._module.write(
            folder, clips, definition=definition, journal=journal, progress=progress
        )
        return counts

    def check(self, folder: Path, *, expected_clips: Collection[str]) -> list[str]:
        """Open what was written; returns what is wrong, in words."""
        problems: list[str] = self._module.check(folder, expected_clips=expected_clips)
        return problems

    @property
    def _module(self) -> Any:
        return importlib.import_module(f"ego_assets.delivery.{self.module}")


#: By the names of :data:`ego_assets.delivery.definition.FORMATS`.
WRITERS: Mapping[str, FormatWriter] = {
    "folder": FormatWriter("folder", ""),
    "webdataset": FormatWriter("webdataset", "webdataset"),
    "hf": FormatWriter("huggingface", "hf"),
    "lerobot": FormatWriter("lerobot", "lerobot"),
    "egovid": FormatWriter("egovid", "egovid"),
    "hdf5": FormatWriter("hdf5", "hdf5"),
}


def estimate_bytes(
    clips: Iterable[DeliveredClip], definition: DeliveryDefinition, *, linked: Collection[str] = ()
) -> dict[str, int]:
    """How much each format will take about, in bytes.

    Args:
        clips: The clips.
        definition: Which formats.
        linked: Clips whose folders are links to the version before.
    """
    needed = dict.fromkeys(definition.formats, 0)
    streamed = set(definition.formats) - {"folder"}
    for clip in clips:
        if "folder" in needed and clip.archive is not None and clip.clip_id not in linked:
            # Archive and folder; pictures do not get smaller in the archive.
            needed["folder"] += 2 * clip.archive.entry.bytes
        if not streamed:
            continue
        sizes, files = _by_folder(clip)
        steps = int(clip.row["step_count"])
        pictures = sum(sizes[name] for name in ("rgb", "depth", "segmentation"))
        for name, amount in (
            (
                "webdataset",
                pictures + sizes["hand_object"] + files * _TAR_MEMBER_BYTES + steps * _SAMPLE_BYTES,
            ),
            ("hf", pictures + sizes["depth/confidence"] + sizes["hand_object"] + steps * 200 + _CLIP_BYTES),
            ("lerobot", sizes["rgb"] + steps * _LEROBOT_STEP_BYTES + _CLIP_BYTES),
            ("egovid", _TABLE_ROW_BYTES),
            (
                "hdf5",
                sizes["rgb"]
                + round(_HDF5_RASTERS * (sizes["depth"] + sizes["depth/confidence"] + sizes["segmentation"]))
                + steps * _SAMPLE_BYTES
                + 10 * _CLIP_BYTES,
            ),
        ):
            if name in needed:
                needed[name] += amount
    return needed


def files_holding(folder: Path, clip_id: str) -> list[Path]:
    """What shows a clip in one version of a delivery: to recall it, all of these have to go.

    Its own folder, archive and HDF5 file; shards, Parquet files, EgoVid tables and LeRobot datasets that it is in, as
    whole files, because nothing can be cut out of them. Where an index cannot be read, all files of its format. The
    manifest stays: it shows nothing.
    """
    own = [*folder.glob(f"{clip_id}*"), *folder.glob(f"hdf5/{clip_id}*")]
    return sorted({*own, *_shards(folder, clip_id), *_tables(folder, clip_id), *_datasets(folder, clip_id)})


def format_of(name: str) -> str:
    """The format that a file of a delivery belongs to; empty for what belongs to none.

    Args:
        name: Path relative to the delivery; folders end in ``/``.
    """
    first, _, rest = name.partition("/")
    for writer_name, writer in WRITERS.items():
        if writer.folder and first == writer.folder and rest:
            return writer_name
    return "folder" if "/" in name or name.endswith(".tar.gz") else ""


def _by_folder(clip: DeliveredClip) -> tuple[Counter[str], int]:
    """Bytes of the files of a clip's time steps by folder, and their number."""
    sizes: Counter[str] = Counter()
    count = 0
    steps = {f"frame_{frame:06d}" for frame in clip.grid.frame_index.tolist()}
    for path, size in clip.files.sizes().items():
        folder, _, name = path.rpartition("/")
        if not name.startswith("frame_") or name.partition(".")[0] in steps:
            sizes[folder] += size
            count += 1
    return sizes, count


def _shards(folder: Path, clip_id: str) -> Iterator[Path]:
    shards = folder / "webdataset"
    try:
        index = json.loads((shards / "index.json").read_text(encoding="utf-8"))
        yield from (
            shards / shard["name"]
            for shard in index["shards"]
            if clip_id in shard["clips"] and (shards / shard["name"]).exists()
        )
    except (OSError, ValueError, KeyError, TypeError):
        yield from shards.glob("*.tar")


def _tables(folder: Path, clip_id: str) -> Iterator[Path]:
    for path in (*folder.glob("hf/data/*.parquet"), *folder.glob("hf/clips/*.parquet")):
        if _names(path, clip_id):
            yield path
    for path in folder.glob("egovid/*.csv"):
        try:
            with path.open(encoding="utf-8", newline="") as file:
                named = any(clip_id in (row.get("video_id") or "") for row in csv.DictReader(file))
        except (OSError, ValueError, csv.Error):
            named = True
        if named:
            yield path


def _datasets(folder: Path, clip_id: str) -> Iterator[Path]:
    for meta in (*folder.glob("lerobot/meta"), *folder.glob("lerobot/other/*/meta")):
        episodes = list(meta.glob("episodes/*/*.parquet"))
        if not episodes or any(_names(path, clip_id) for path in episodes):
            yield from (path for name in ("data", "meta", "videos") if (path := meta.parent / name).exists())


def _names(path: Path, clip_id: str) -> bool:
    """Whether a Parquet file has a row of the clip; one that cannot be read may have."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        column = pq.read_table(path, columns=["clip_id"])["clip_id"]
        return bool(pc.any(pc.equal(column, clip_id)).as_py())
    except (OSError, KeyError, pa.ArrowException):
        return True
