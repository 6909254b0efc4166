"""A clip as all formats of a delivery read it: its delivered files by path, and its time steps."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO, Protocol

import numpy as np

from ego_assets.delivery.metadata import TimeGrid
from ego_assets.schema.artifact import FileEntry


class ClipFiles(Protocol):
    """The files of a clip's delivered folder, wherever they lie; nothing is encoded again."""

    def sizes(self) -> Mapping[str, int]:
        """Size in bytes by path relative to the clip's folder, such as ``rgb/frame_000000.jpg``."""
        ...

    def read(self, path: str) -> bytes:
        """Content of a file.

        Raises:
            ArtifactCorrupted: It is damaged or gone.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class ClipArchive:
    """The ``.tar.gz`` of a clip.

    Attributes:
        entry: Its name, size and digest.
        open: Opens it.
    """

    entry: FileEntry
    open: Callable[[], BinaryIO]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One time step of a clip.

    Attributes:
        index: Position among the clip's steps, from 0.
        frame_index: Frame of the video.
        timestamp_ns: Its presentation time in nanoseconds.
        rgb: Path of its JPEG.
        depth: Path of its 16-bit PNG, or ``None``.
        confidence: Path of the 8-bit PNG of how sure the depth is, or ``None``.
        mask: Path of its indexed PNG, or ``None``.
        hands: Path of its JSON record of the hands, or ``None``.
        caption: The caption whose interval contains it, or ``None``.
        action: The activity whose segment contains it, or ``None``.
    """

    index: int
    frame_index: int
    timestamp_ns: int
    rgb: str
    depth: str | None
    confidence: str | None
    mask: str | None
    hands: str | None
    caption: str | None
    action: str | None


@dataclass(frozen=True, kw_only=True, eq=False)
class DeliveredClip:
    """One clip of a delivery.

    Attributes:
        clip_id: The clip.
        row: Its row of the manifest, with its split.
        metadata: Its ``metadata.json``.
        data_versions: Data version of the package and of every layer inside.
        package_sha256: Digest of its archive.
        files: What is delivered of it.
        archive: Its ``.tar.gz``; only the folder format asks for it.
    """

    clip_id: str
    row: Mapping[str, Any]
    metadata: Mapping[str, Any]
    data_versions: Mapping[str, str]
    package_sha256: str
    files: ClipFiles
    archive: ClipArchive | None = None

    @property
    def split(self) -> str | None:
        """Its split, or ``None``."""
        split: str | None = self.row["split"]
        return split

    @cached_property
    def grid(self) -> TimeGrid:
        """Its time steps."""
        stored = self.metadata["time_grid"]
        return TimeGrid(
            name=stored["name"],
            rate_hz=stored["rate_hz"],
            frame_index=np.array(stored["frame_index"], np.int64),
            timestamps_ns=np.array(stored["timestamps_ns"], np.int64),
        )

    @cached_property
    def captions(self) -> Sequence[Mapping[str, Any]]:
        """Captions that were answered, in the order of time; empty where there are none."""
        found = self._document("captions.json").get("captions", [])
        return [caption for caption in found if caption["text"]]

    @cached_property
    def frame_similarity(self) -> Mapping[str, Any]:
        """How captions and frames go together, as ``captions.json`` says; empty where nobody could tell."""
        return self._document("captions.json").get("frame_similarity") or {}

    @cached_property
    def actions(self) -> Sequence[Mapping[str, Any]]:
        """Activity segments in the order of time; empty where there are none."""
        segments: Sequence[Mapping[str, Any]] = self._document("actions.json").get("segments", [])
        return segments

    def steps(self) -> Iterator[Step]:
        """The time steps; a layer that has nothing on a step is ``None`` there."""
        present = self.files.sizes()

        def member(folder: str, frame: int, extension: str) -> str | None:
            path = f"{folder}/frame_{frame:06d}.{extension}"
            return path if path in present else None

        for index, (frame, time_ns) in enumerate(
            zip(self.grid.frame_index.tolist(), self.grid.timestamps_ns.tolist(), strict=True)
        ):
            rgb = member("rgb", frame, "jpg")
            if rgb is None:
                raise ValueError(f"clip {self.clip_id}: expected a picture at step {index}, frame {frame}")
            yield Step(
                index=index,
                frame_index=frame,
                timestamp_ns=time_ns,
                rgb=rgb,
                depth=member("depth", frame, "png"),
                confidence=member("depth/confidence", frame, "png"),
                mask=member("segmentation", frame, "png"),
                hands=member("hand_object", frame, "json"),
                caption=interval_value(self.captions, time_ns, "text"),
                action=interval_value(self.actions, time_ns, "label"),
            )

    def _document(self, path: str) -> dict[str, Any]:
        """A JSON document, or an empty one where the clip has none."""
        if path not in self.files.sizes():
            return {}
        found: dict[str, Any] = json.loads(self.files.read(path))
        return found


def layers_recorded(clips: Iterable[DeliveredClip]) -> Iterator[Mapping[str, Any]]:
    """What the metadata of each clip says of how its layers were made, by name."""
    return (clip.metadata["layers"] for clip in clips)


def differing_clips(expected: Collection[str], found: Collection[str], *, where: str = "") -> list[str]:
    """Which clips a format lacks or has too much, in words that begin with ``where``."""
    prefix = f"{where}: " if where else ""
    return [
        f"{prefix}clip {clip_id} is {'missing' if clip_id not in found else 'unexpected'}"
        for clip_id in sorted(set(expected) ^ set(found))
    ]


def interval_value(intervals: Sequence[Mapping[str, Any]], time_ns: int, key: str) -> str | None:
    """The value of the interval that contains a moment.

    Args:
        intervals: In the order of ``start_ns``, not overlapping; each ends before ``end_ns``.
        time_ns: The moment.
        key: Name of the value.
    """
    position = bisect_right(intervals, time_ns, key=lambda interval: interval["start_ns"]) - 1
    if position < 0 or time_ns >= intervals[position]["end_ns"]:
        return None
    return str(intervals[position][key])
