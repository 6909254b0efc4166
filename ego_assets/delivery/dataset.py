"""Writes a delivery: clip folders and archives, the manifest, the SDK and the dataset card.

A delivery is immutable. It is written beside its final place and renamed, so a half-written one never looks
whole; the same clips with the same content give the version that exists already.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tarfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ego_assets.delivery.card import dataset_card, sdk_source
from ego_assets.delivery.manifest import write_manifest
from ego_assets.schema.artifact import FileEntry
from ego_assets.schema.progress import ProgressCallback, ignore_progress

_DIGEST_FILE = "delivery.json"
_VERSION = re.compile(r"v\d{4,}")


@dataclass(frozen=True, kw_only=True)
class PackagedClip:
    """One clip of a delivery.

    Attributes:
        clip_id: The clip.
        row: Its row in the manifest.
        package: Name, size and digest of its ``.tar.gz``.
        open_package: Opens it.
    """

    clip_id: str
    row: Mapping[str, Any]
    package: FileEntry
    open_package: Callable[[], BinaryIO]


@dataclass(frozen=True, kw_only=True)
class WrittenDelivery:
    """Where a delivery lies.

    Attributes:
        folder: Its folder.
        version: Name of the version, such as ``v0003``.
        bytes: Size of all its files.
        is_new: Whether it was written now; otherwise it existed with the same content.
    """

    folder: Path
    version: str
    bytes: int
    is_new: bool


def write_delivery(
    root: Path,
    clips: Sequence[PackagedClip],
    *,
    progress: ProgressCallback = ignore_progress,
) -> WrittenDelivery:
    """Write the next version of a delivery below ``root``, unless the newest one has the same content.

    Args:
        root: Folder of the delivery's versions.
        clips: The clips; their order is kept in the manifest.
        progress: Hears clips done and in total.
    """
    digest = _content_digest(clips)
    found = [path for path in root.glob("v*") if _VERSION.fullmatch(path.name) and path.is_dir()]
    existing = sorted(found, key=lambda path: int(path.name[1:]))
    if existing and _digest_of(existing[-1]) == digest:
        newest = existing[-1]
        return WrittenDelivery(folder=newest, version=newest.name, bytes=_size_of(newest), is_new=False)
    number = int(existing[-1].name[1:]) + 1 if existing else 1
    final = root / f"v{number:04d}"
    staged = root / f".staging-{uuid.uuid4().hex}"
    staged.mkdir(parents=True)
    try:
        for done, clip in enumerate(clips):
            progress(done, len(clips))
            _unpack(clip, staged)
        rows = [_row(clip, final) for clip in clips]
        with (staged / "manifest.parquet").open("wb") as out:
            write_manifest(out, rows)
        (staged / "egodata.py").write_bytes(sdk_source())
        (staged / "README.md").write_text(dataset_card(rows))
        content = {"format": 1, "version": final.name, "content_digest": digest, "clips": len(clips)}
        (staged / _DIGEST_FILE).write_text(json.dumps(content, indent=2) + "\n")
        staged.rename(final)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    progress(len(clips), len(clips))
    return WrittenDelivery(folder=final, version=final.name, bytes=_size_of(final), is_new=True)


def _row(clip: PackagedClip, folder: Path) -> dict[str, Any]:
    """The manifest row, with where the clip lies in this delivery."""
    return {
        **clip.row,
        "clip_path": clip.clip_id,
        "package_path": clip.package.name,
        "package_uri": str(folder / clip.package.name),
        "package_sha256": clip.package.sha256,
        "package_bytes": clip.package.bytes,
    }


def _unpack(clip: PackagedClip, folder: Path) -> None:
    """The archive, and beside it the folder it holds."""
    archive = folder / clip.package.name
    with clip.open_package() as source, archive.open("wb") as sink:
        shutil.copyfileobj(source, sink, 1 << 20)
    with tarfile.open(archive, "r:gz") as tar:
        tar.extractall(folder, filter="data")


def _content_digest(clips: Sequence[PackagedClip]) -> str:
    """Equal clips, packages and manifest rows give an equal digest."""
    lines = sorted(
        json.dumps([clip.clip_id, clip.package.sha256, dict(clip.row)], sort_keys=True, default=str)
        for clip in clips
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _digest_of(folder: Path) -> str:
    try:
        return str(json.loads((folder / _DIGEST_FILE).read_text())["content_digest"])
    except (OSError, ValueError, KeyError):
        return ""


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
