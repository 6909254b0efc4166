"""Reads a delivery of first-person clips. One file, to be copied anywhere; it needs numpy, pyarrow and Pillow.

dataset = Dataset("path/of/delivery")  # or https://..., s3://..., gs://...
for info in dataset.clips(activity="cooking", min_quality=0.8, complete=["depth"]):
    clip = dataset.load_clip(info["clip_id"])  # clip.rgb[0], clip.depth[0], clip.mask[0], clip.captions
for batch in dataset.stream(batch=8, shuffle=1000, split="train"):  # batch["rgb"]: uint8 [8, height, width, 3]
loader = torch.utils.data.DataLoader(dataset.as_torch(fields=["rgb", "depth"]), batch_size=8, num_workers=4)
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import json
import random
import tarfile
import tempfile
import urllib.request
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import fs, parquet

MANIFEST_FORMAT = METADATA_FORMAT = SHARDS_FORMAT = 1  # the newest that this file reads
#: Field of a step: its layer in the manifest, its files in a clip, its member in a shard.
_FIELDS = {
    "rgb": ("frames", "rgb/frame_{:06d}.jpg", "rgb.jpg"),
    "depth": ("depth_maps", "depth/frame_{:06d}.png", "depth.png"),
    "mask": ("masks", "segmentation/frame_{:06d}.png", "mask.png"),
    "hands": ("hand_object", "hand_object/frame_{:06d}.json", "hands.json"),
}
_SAID = "clip_id", "step", "frame_index", "timestamp_ns", "caption", "action"
_ALIASES = {"segmentation": "masks", **{field: places[0] for field, places in _FIELDS.items()}}
_COLUMNS = {"activity": "activity_category", "environment": "environment_type"}
Names = str | Sequence[str]
Limit = float | None
Part = tuple[int, int]


class EgoDataError(Exception):
    """The delivery cannot be read; the message says what is wrong and what to do."""


class AbsentError(EgoDataError):
    """There is no such file."""


class Dataset:
    """A delivery, by its folder or address; withdrawn clips are left out unless ``include_withdrawn``."""

    def __init__(self, path: object, *, include_withdrawn: bool = False) -> None:
        self._files = files = _Files(path)
        said = (table := files.get("manifest.parquet")).schema.metadata or {}
        _require_format("manifest.parquet", said.get(b"ego_assets.manifest_format", 0), MANIFEST_FORMAT)
        bits = said.get(b"ego_assets.completeness_bits", b"").decode().split(",")
        self._bits = {name: int(bit) for bit, _, name in (entry.partition("=") for entry in bits) if name}
        self.layers = tuple(sorted(self._bits, key=lambda layer: self._bits[layer]))
        self._columns, self._rows = table.column_names, {row["clip_id"]: row for row in table.to_pylist()}
        # Withdrawn in a later version, as the folder of all versions says, or recalled from this one.
        version = int(files.get("delivery.json", {}).get("version", "v0")[1:])
        above = files.root.rpartition("/")[0].rstrip(":/") or files.root
        lists = (_Files(at, files.system).get("corrections.parquet", None) for at in (files.root, above))
        rows = [row for table in lists if table is not None for row in table.to_pylist()]
        gone = {r["clip_id"] for r in rows if r["action"] == "withdrawn" and int(r["version"][1:]) > version}
        gone |= {entry["clip_id"] for entry in files.get("RECALLED.json", {}).get("recalled", [])}
        if not include_withdrawn and (gone := gone & set(self._rows)):
            warnings.warn(f"{len(gone)} clips were withdrawn and are left out: {sorted(gone)}", stacklevel=2)
            self._rows = {clip_id: row for clip_id, row in self._rows.items() if clip_id not in gone}

    def __len__(self) -> int:
        return len(self._rows)

    def clips(
        self, *, complete: Names = (), min_quality: Limit = None, min_confidence: Limit = None, **equal: Any
    ) -> list[dict[str, Any]]:
        """Manifest rows of the clips whose ``complete`` layers are usable and whose columns have one of the values."""
        wanted = [_ALIASES.get(n, n) for n in ([complete] if isinstance(complete, str) else complete)]
        among = {_COLUMNS.get(name, name): value for name, value in equal.items() if value is not None}
        for given, known in ((wanted, self.layers), (among, self._columns)):
            if unknown := sorted(set(given) - set(known)):
                raise ValueError(f"expected some of {list(known)}, got {unknown}")
        lowest = {"quality_score": min_quality, "quality_confidence": min_confidence}
        return [
            dict(row)
            for row in self._rows.values()
            if all(row["enrichment_completeness"] >> self._bits[layer] & 1 for layer in wanted)
            and all(row[k] in (v if isinstance(v, list | tuple | set) else [v]) for k, v in among.items())
            and all(low is None or (row[k] is not None and row[k] >= low) for k, low in lowest.items())
        ]

    def load_clip(self, clip_id: str) -> EgoClip:
        """Open one clip, from its folder or its ``.tar.gz``; files are read when they are asked for."""
        if clip_id not in self._rows:
            raise KeyError(f"no clip {clip_id!r} among the {len(self)} of {self._files.root}")
        row, files = self._rows[clip_id], self._files
        with contextlib.suppress(AbsentError):
            return EgoClip(row, _Files(f"{files.root}/{row['clip_path'] or clip_id}", files.system))
        unpacked = tempfile.TemporaryDirectory(prefix="egodata-")
        with files.open(row["package_path"] or f"{clip_id}.tar.gz") as file:
            packed = pa.CompressedInputStream(file, "gzip")
            with tarfile.open(fileobj=packed, mode="r|") as tar:
                tar.extractall(unpacked.name, filter="data")
            packed.read()  # to the end, where the checksum is
        return EgoClip(row, _Files(f"{unpacked.name}/{clip_id}"), unpacked.cleanup)

    def stream(
        self, *, batch: int = 0, shuffle: int = 0, seed: int = 0, part: Part = (0, 1), **conditions: Any
    ) -> Iterator[dict[str, Any]]:
        """Time steps of the clips that meet the conditions of :meth:`clips`, from shards where there are any.

        They have clip_id, step, frame_index, timestamp_ns, caption, action, metadata, and what there is of rgb, depth,
        mask and hands; or all of ``fields``, and steps that lack one are left out. ``batch`` joins so many: arrays of
        one shape and numbers are stacked, the rest are lists. ``shuffle`` mixes shards or clips, and so many steps at a
        time, undecoded; ``seed`` decides. Readers with ``part`` (0, n) to (n - 1, n) share the steps, each once.
        """
        fields = [given] if isinstance(given := conditions.pop("fields", ()), str) else list(given)
        if unknown := set(fields) - set(_FIELDS):
            raise ValueError(f"fields: expected some of {list(_FIELDS)}, got {sorted(unknown)}")
        clip_ids = {row["clip_id"] for row in self.clips(**conditions)}
        index, names = self._files.get("webdataset/index.json", None), sorted(clip_ids)
        if index is not None:
            _require_format("webdataset/index.json", index["format"], SHARDS_FORMAT)
            names = [shard["name"] for shard in index["shards"] if clip_ids.intersection(shard["clips"])]
        few = len(names) < part[1]  # then every reader goes through all, and takes its share of the steps
        chance = random.Random(f"{seed} {part[0]}")
        names = names if few else names[part[0] :: part[1]]
        names = chance.sample(names, len(names)) if shuffle and not few else names
        samples = (sample for name in names for sample in self._samples(name, fields or _FIELDS, clip_ids))
        mine = itertools.islice(samples, part[0], None, part[1]) if few else samples
        whole = (sample for sample in mine if not fields or len(sample[1]) == len(fields))
        blocks = iter(lambda: list(itertools.islice(whole, shuffle or 1)), [])
        mixed = (sample for block in blocks for sample in chance.sample(block, len(block)))
        steps = (
            {**{name: said[name] for name in _SAID}, "metadata": said}
            | {field: _decode(_FIELDS[field][2], content) for field, content in files.items()}
            for said, files in mixed
        )
        return map(_joined, iter(lambda: list(itertools.islice(steps, batch)), [])) if batch else steps

    def as_torch(self, *, seed: int | None = None, part: Part = (0, 1), **options: Any) -> Any:
        """An ``IterableDataset`` over :meth:`stream`, without hands and metadata, shared out among a loader's workers.

        Name ``fields`` where clips differ. Depth is int32. ``seed`` fixes the order; ``part`` is (rank, world size).
        """
        import torch

        def steps(_: object) -> Iterator[dict[str, Any]]:
            worker = torch.utils.data.get_worker_info()
            number, count = (worker.id, worker.num_workers) if worker else (0, 1)
            mine, order = (part[0] * count + number, part[1] * count), int(torch.randint(2**31, ()))
            for step in self.stream(seed=order if seed is None else seed, part=mine, **options):
                wide = {"depth": step["depth"].astype(np.int32)} if "depth" in step else {}
                yield {k: wide.get(k, v) for k, v in step.items() if k not in ("hands", "metadata")}

        again = functools.partial(self.as_torch, seed=seed, part=part, **options)  # to pickle, for workers
        methods = {"__iter__": steps, "__reduce__": lambda _: (again, ())}
        return type("Steps", (torch.utils.data.IterableDataset,), methods)()

    def _samples(self, name: str, fields: Iterable[str], clip_ids: set[str]) -> Iterator[Any]:
        if name in clip_ids:
            with self.load_clip(name) as clip:
                yield from (clip._sample(step, fields) for step in range(len(clip)))
            return
        with self._files.open(f"webdataset/{name}") as file, tarfile.open(None, "r|", file) as tar:
            for key, group in itertools.groupby(tar, key=lambda member: member.name.partition(".")[0]):
                if key.partition("_")[0] in clip_ids:
                    found = {m.name.partition(".")[2]: tar.fileobject(tar, m).read() for m in group}
                    said = _decode(f"{key}.metadata.json", found["metadata.json"])
                    said["action"] = said["action"] or ""
                    said["caption"] = found.get("caption.txt", b"").decode()
                    yield said, {f: found[_FIELDS[f][2]] for f in fields if _FIELDS[f][2] in found}


class EgoClip(contextlib.ExitStack):
    """One clip; use it in a ``with``, or ``close()`` it, to free what an archive was unpacked to.

    ``info`` (manifest row), ``metadata``, ``captions``, ``actions``; for N steps ``frame_index``, ``timestamps_ns`` and
    lazily ``rgb`` (uint8 [height, width, 3]), ``depth`` (uint16, 0: unknown; unit in ``depth_info``), ``confidence``,
    ``mask`` (ids; ``categories`` names them), ``hands``; ``all_frames["rgb"]`` has those between steps too.
    """

    def __init__(self, info: dict[str, Any], files: _Files, free: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.callback(free)
        self.info, self.clip_id, self._files, self.table = dict(info), info["clip_id"], files, files.get
        self.metadata = files.get("metadata.json")
        _require_format("metadata.json", self.metadata.get("format", 0), METADATA_FORMAT)
        grid, layers = self.metadata["time_grid"], self.metadata["layers"]
        own = {field: layers.get(place[0], {}).get("time_grid", grid) for field, place in _FIELDS.items()}
        self.all_frames = {field: Frames(files, _FIELDS[field][1], own[field]) for field in _FIELDS}
        self.rgb, self.depth, self.mask, self.hands = (Frames(files, f[1], grid) for f in _FIELDS.values())
        self.confidence = Frames(files, "depth/confidence/frame_{:06d}.png", grid)
        self.frame_index, self.timestamps_ns = self.rgb.frame_index, self.rgb.timestamps_ns
        self.depth_info = files.get("depth/depth.json", {})
        instances = files.get("segmentation/categories.json", {}).get("instances", {})
        self.categories = {number: instance["category"] for number, instance in instances.items()}
        self.captions = [item for item in files.get("captions.json", {}).get("captions", []) if item["text"]]
        self.actions = files.get("actions.json", {}).get("segments", [])

    def __len__(self) -> int:
        return len(self.rgb)

    def _sample(self, step: int, fields: Iterable[str]) -> tuple[dict[str, Any], dict[str, bytes]]:
        frame, time_ns = int(self.frame_index[step]), int(self.timestamps_ns[step])
        said = {**self.metadata, "step": step, "frame_index": frame, "timestamp_ns": time_ns}
        said |= {"depth": self.depth_info, "categories": self.categories}
        for name, key, spans in (("caption", "text", self.captions), ("action", "label", self.actions)):
            said[name] = next((s[key] for s in spans if s["start_ns"] <= time_ns < s["end_ns"]), "")
        present = {f: _FIELDS[f][1].format(frame) for f in fields if self.info[f"{_FIELDS[f][0]}_sha256"]}
        files = {field: self._files.get(name, None, raw=True) for field, name in present.items()}
        return said, {field: content for field, content in files.items() if content is not None}


class Frames(Sequence[Any]):
    """Files of one layer, one per entry of ``frame_index``, decoded when they are asked for."""

    def __init__(self, files: _Files, pattern: str, grid: dict[str, Any]) -> None:
        self._files, self._pattern = files, pattern
        self.frame_index = np.array(grid["frame_index"], np.int64)
        self.timestamps_ns = np.array(grid["timestamps_ns"], np.int64)

    def __len__(self) -> int:
        return len(self.frame_index)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return self._files.get(self._pattern.format(self.frame_index[index]))


class _Files:
    """Files below a folder, a part of a bucket or a web address."""

    def __init__(self, root: object, system: Any = None) -> None:
        self.root, self.system = str(root), system
        if system is None and not self.root.startswith(("http://", "https://")):
            uri = self.root if "://" in self.root else str(Path(self.root).expanduser().absolute())
            self.system, self.root = fs.FileSystem.from_uri(uri)
        self.root = self.root.removesuffix("manifest.parquet").rstrip("/")

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[Any]:
        path = f"{self.root}/{name}"
        try:
            if self.system is None:
                stream = urllib.request.urlopen(path, timeout=60)
            else:
                stream = self.system.open_input_stream(path, compression=None, buffer_size=1 << 20)
            with stream as file:
                yield file
        except Exception as error:  # servers that list nothing say "forbidden" of what is absent
            forbidden = getattr(error, "code", 0) in (403, 404) or "ACCESS_DENIED" in str(error)
            if forbidden or isinstance(error, FileNotFoundError | NotADirectoryError):
                raise AbsentError(f"{path} is not there: the clip lacks it, or copy it again.") from error
            raise EgoDataError(f"{path} cannot be read ({error}): copy it again.") from error

    def get(self, name: str, *default: Any, raw: bool = False) -> Any:
        """What a file holds, or its bytes; or the default where it is absent."""
        try:
            with self.open(name) as file:
                content = file.read()
        except AbsentError:
            if not default:
                raise
            return default[0]
        return content if raw else _decode(f"{self.root}/{name}", content)


def _decode(name: str, content: bytes) -> Any:
    """What a file holds: a table, a JSON document, a picture of three channels, or a raster as it is stored."""
    try:
        if name.endswith(".parquet"):
            return parquet.read_table(pa.BufferReader(content))
        if name.endswith(".json"):
            return json.loads(content)
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.array(image.convert("RGB") if name.endswith(".jpg") else image)
            return pixels.astype(np.uint16 if image.mode.startswith("I") else np.uint8, copy=False)
    except Exception as error:
        raise EgoDataError(f"{name} is damaged ({error}): copy it again.") from error


def _joined(steps: list[dict[str, Any]]) -> dict[str, Any]:
    batch: dict[str, Any] = {name: [s.get(name) for s in steps] for name in itertools.chain(*steps)}
    for name, values in batch.items():
        shapes = {np.shape(v) if isinstance(v, np.ndarray | int) else None for v in values}
        batch[name] = np.stack(values) if len(shapes) == 1 and None not in shapes else values
    return batch


def _require_format(what: str, found: Any, newest: int) -> None:
    if int(found) > newest:
        raise EgoDataError(f"{what} has format {int(found)}, not {newest} or lower: take a newer egodata.py.")
