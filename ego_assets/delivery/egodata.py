"""Reads a delivery of first-person clips.

One file, to be copied wherever it is needed; it needs numpy, pyarrow and Pillow. ::

    dataset = Dataset("delivery/manifest.parquet")
    for info in dataset.clips(activity="cooking", min_quality=0.8, complete=["frames"]):
        clip = dataset.load_clip(info["clip_id"])
        image = clip.rgb[0]                      # uint8 [height, width, 3], RGB
    for step in dataset.stream(environment="kitchen"):
        step["rgb"], step["timestamp_ns"]

Clips are read from their folders, or from their ``.tar.gz`` where only that is present.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from PIL import Image

#: Newest formats of the manifest and of ``metadata.json`` that this file can read.
MANIFEST_FORMAT = 1
METADATA_FORMAT = 1

_MANIFEST_NAME = "manifest.parquet"
_BITS_KEY = b"ego_assets.completeness_bits"
_FORMAT_KEY = b"ego_assets.manifest_format"

RgbImage = npt.NDArray[np.uint8]


class EgoDataError(Exception):
    """The delivery cannot be read; the message says what is wrong and what to do."""


class Dataset:
    """A delivery.

    Args:
        path: The delivery's folder, or its ``manifest.parquet``.

    Raises:
        EgoDataError: There is no manifest, or a newer version of this file is needed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        given = Path(path)
        self.manifest_path = given / _MANIFEST_NAME if given.is_dir() else given
        if not self.manifest_path.is_file():
            raise EgoDataError(
                f"No manifest at {self.manifest_path}: give the folder that holds {_MANIFEST_NAME}."
            )
        self.root = self.manifest_path.parent
        table = pq.read_table(self.manifest_path)
        metadata = table.schema.metadata or {}
        _require_format("the manifest", int(metadata.get(_FORMAT_KEY, b"0")), MANIFEST_FORMAT)
        self._bits = _parse_bits(metadata.get(_BITS_KEY, b"").decode())
        self._rows: dict[str, dict[str, Any]] = {row["clip_id"]: row for row in table.to_pylist()}

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names that ``complete`` accepts."""
        return tuple(sorted(self._bits, key=lambda layer: self._bits[layer]))

    def clips(
        self,
        *,
        activity: str | Sequence[str] | None = None,
        environment: str | Sequence[str] | None = None,
        min_quality: float | None = None,
        min_confidence: float | None = None,
        complete: Sequence[str] = (),
        split: str | None = None,
    ) -> list[dict[str, Any]]:
        """Manifest rows of the clips that meet all conditions, sorted by ``clip_id``.

        Args:
            activity: One or several values of ``activity_category``.
            environment: One or several values of ``environment_type``.
            min_quality: Lowest ``quality_score``; clips without a score are left out.
            min_confidence: Lowest ``quality_confidence``.
            complete: Layers that must be there and judged to be good, see :attr:`layers`.
            split: Value of ``split``.

        Raises:
            ValueError: ``complete`` names an unknown layer.
        """
        wanted = self._mask(complete)
        activities, environments = _choices(activity), _choices(environment)
        return [
            dict(row)
            for row in self._rows.values()
            if (activities is None or row["activity_category"] in activities)
            and (environments is None or row["environment_type"] in environments)
            and _at_least(row["quality_score"], min_quality)
            and _at_least(row["quality_confidence"], min_confidence)
            and row["enrichment_completeness"] & wanted == wanted
            and (split is None or row["split"] == split)
        ]

    def load_clip(self, clip_id: str) -> EgoClip:
        """Open one clip; pictures are read when they are asked for.

        Raises:
            KeyError: The delivery has no such clip.
            EgoDataError: Neither its folder nor its archive is there, or they are damaged.
        """
        if clip_id not in self._rows:
            raise KeyError(f"no clip {clip_id!r} among the {len(self)} of {self.manifest_path}")
        row = self._rows[clip_id]
        folder = self.root / (row["clip_path"] or clip_id)
        archive = self.root / (row["package_path"] or f"{clip_id}.tar.gz")
        if (folder / "metadata.json").is_file():
            return EgoClip(row, _Folder(folder))
        if archive.is_file():
            return EgoClip(row, _Archive(archive, clip_id))
        raise EgoDataError(f"Clip {clip_id}: neither {folder} nor {archive} is there. Copy one of them here.")

    def stream(self, **conditions: Any) -> Iterator[dict[str, Any]]:
        """Time steps of the clips that meet all conditions, which are those of :meth:`clips`, clip after clip.

        Yields:
            ``clip_id``, ``step``, ``frame_index``, ``timestamp_ns`` (nanoseconds), ``rgb``
            (``uint8 [height, width, 3]``) and ``metadata`` (of the clip).
        """
        for row in self.clips(**conditions):
            with self.load_clip(row["clip_id"]) as clip:
                yield from clip.steps()

    def _mask(self, layers: Sequence[str]) -> int:
        mask = 0
        for layer in [layers] if isinstance(layers, str) else layers:
            if layer not in self._bits:
                raise ValueError(f"complete: expected some of {list(self.layers)}, got {layer!r}")
            mask |= 1 << self._bits[layer]
        return mask


class EgoClip:
    """One clip of a delivery. Close it, or use it in a ``with``, to free what an archive was unpacked to.

    Attributes:
        info: The clip's row of the manifest.
        metadata: Content of ``metadata.json``.
        frame_index: ``int64 [N]``, frame of each time step in the recording.
        timestamps_ns: ``int64 [N]``, presentation time of each time step in nanoseconds.
        rgb: The pictures, one per time step.
    """

    def __init__(self, info: dict[str, Any], files: _Folder | _Archive) -> None:
        self.info = dict(info)
        self._files = files
        self.metadata: dict[str, Any] = json.loads(files.read("metadata.json"))
        _require_format("metadata.json", int(self.metadata.get("format", 0)), METADATA_FORMAT)
        grid = self.metadata["time_grid"]
        self.frame_index: npt.NDArray[np.int64] = np.array(grid["frame_index"], dtype=np.int64)
        self.timestamps_ns: npt.NDArray[np.int64] = np.array(grid["timestamps_ns"], dtype=np.int64)
        self.rgb = RgbFrames(files, [f"rgb/frame_{index:06d}.jpg" for index in self.frame_index])

    @property
    def clip_id(self) -> str:
        """The clip's UUID."""
        return str(self.info["clip_id"])

    def __len__(self) -> int:
        return len(self.rgb)

    def steps(self) -> Iterator[dict[str, Any]]:
        """The time steps, as :meth:`Dataset.stream` yields them."""
        for step, (frame, time_ns) in enumerate(zip(self.frame_index, self.timestamps_ns, strict=True)):
            yield {
                "clip_id": self.clip_id,
                "step": step,
                "frame_index": int(frame),
                "timestamp_ns": int(time_ns),
                "rgb": self.rgb[step],
                "metadata": self.metadata,
            }

    def close(self) -> None:
        """Free temporary files; pictures cannot be read afterwards."""
        self._files.close()

    def __enter__(self) -> EgoClip:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class RgbFrames(Sequence[RgbImage]):
    """Pictures that are decoded when they are asked for: ``uint8 [height, width, 3]``, RGB."""

    def __init__(self, files: _Folder | _Archive, names: list[str]) -> None:
        self._files = files
        self._names = names

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> RgbImage: ...

    @overload
    def __getitem__(self, index: slice) -> RgbFrames: ...

    def __getitem__(self, index: int | slice) -> RgbImage | RgbFrames:
        if isinstance(index, slice):
            return RgbFrames(self._files, self._names[index])
        with Image.open(io.BytesIO(self._files.read(self._names[index]))) as image:
            return np.asarray(image.convert("RGB"), dtype=np.uint8)


class _Folder:
    """Files of a clip in its folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str) -> bytes:
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            raise EgoDataError(f"{self._folder} lacks {name}: copy the clip again.") from None

    def close(self) -> None:
        pass


class _Archive:
    """Files of a clip in its ``.tar.gz``, uncompressed once into a temporary file and read by position."""

    def __init__(self, archive: Path, clip_id: str) -> None:
        self._archive = archive
        self._temporary = tempfile.TemporaryDirectory(prefix="egodata-")
        self._tar = Path(self._temporary.name) / "clip.tar"
        try:
            with gzip.open(archive) as packed, self._tar.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked, 1 << 20)
            with tarfile.open(self._tar, "r:") as tar:
                prefix = f"{clip_id}/"
                self._positions = {
                    member.name.removeprefix(prefix): (member.offset_data, member.size)
                    for member in tar
                    if member.isfile()
                }
        except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
            self.close()
            raise EgoDataError(f"{archive} cannot be read ({error}): copy it again.") from error

    def read(self, name: str) -> bytes:
        if name not in self._positions:
            raise EgoDataError(f"{self._archive} lacks {name}: copy it again.")
        offset, size = self._positions[name]
        # Opened anew for every read, so that forked data loader workers do not share a position.
        with self._tar.open("rb") as tar:
            tar.seek(offset)
            return tar.read(size)

    def close(self) -> None:
        self._temporary.cleanup()


def _require_format(what: str, found: int, newest: int) -> None:
    if found > newest:
        raise EgoDataError(
            f"{what} has format {found}, this egodata.py reads up to {newest}: use the one beside it."
        )


def _parse_bits(text: str) -> dict[str, int]:
    """``"0=frames,1=depth_maps"`` as ``{"frames": 0, "depth_maps": 1}``."""
    return {layer: int(bit) for bit, layer in (entry.split("=", 1) for entry in text.split(",") if entry)}


def _choices(value: str | Sequence[str] | None) -> set[str] | None:
    if value is None:
        return None
    return {value} if isinstance(value, str) else set(value)


def _at_least(value: float | None, lowest: float | None) -> bool:
    return lowest is None or (value is not None and value >= lowest)
