"""Folders: a folder per clip as people look into it, and the same as one ``.tar.gz``."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ego_assets.delivery.clip_source import ClipArchive, DeliveredClip, differing_clips
from ego_assets.delivery.definition import DeliveryDefinition
from ego_assets.delivery.journal import Journal
from ego_assets.schema.artifact import FileEntry
from ego_assets.schema.errors import ArtifactCorrupted
from ego_assets.schema.progress import ProgressCallback, ignore_progress

_BLOCK_BYTES = 1 << 20


def archive_name(clip_id: str) -> str:
    """Path of a clip's archive inside the delivery."""
    return f"{clip_id}.tar.gz"


def tree_name(clip_id: str) -> str:
    """Name of a clip's folder in the list of a delivery's files."""
    return f"{clip_id}/"


def write(
    folder: Path,
    clips: Sequence[DeliveredClip],
    *,
    definition: DeliveryDefinition,
    journal: Journal,
    progress: ProgressCallback = ignore_progress,
) -> Mapping[str, int]:
    """Write the archives, and beside each the folder it holds.

    Args:
        folder: The delivery that is being made.
        clips: Its clips.
        definition: Not asked for anything here.
        journal: Knows the archives and folders that are finished.
        progress: Hears clips done and in total.

    Returns:
        Number of clips, samples, and bytes of the archives.

    Raises:
        ArtifactCorrupted: An archive does not match its digest.
    """
    total_bytes = samples = 0
    for done, clip in enumerate(clips):
        progress(done, len(clips))
        archive = _archive_of(clip)
        total_bytes += archive.entry.bytes
        samples += int(clip.row["step_count"])
        name = archive_name(clip.clip_id)
        if not journal.has(name):
            with (
                journal.create(name, accept=partial(_require_digest, clip, archive)) as sink,
                archive.open() as source,
            ):
                while block := source.read(_BLOCK_BYTES):
                    sink.write(block)
        if not journal.has(tree_name(clip.clip_id)):
            with (
                tarfile.open(folder / name, "r:gz") as tar,
                journal.create_tree(clip.clip_id) as unpacked,
            ):
                tar.extractall(unpacked, filter=_MemberFilter(f"{clip.clip_id}/"))
    progress(len(clips), len(clips))
    return {"clips": len(clips), "samples": samples, "archive_bytes": total_bytes}


def link(
    folder: Path,
    clips: Sequence[DeliveredClip],
    *,
    previous: Path,
    known: Mapping[str, FileEntry],
    journal: Journal,
) -> None:
    """Take clips that have not changed from the version before, as links: deliveries never change.

    A file system without links, or a version from which somebody has removed something, is no error: :func:`write`
    writes what is missing.

    Args:
        folder: The delivery that is being made.
        clips: Its clips.
        previous: The version before.
        known: What that version says of its files, by name.
        journal: Learns what was linked.
    """
    for clip in clips:
        archive, tree = known.get(archive_name(clip.clip_id)), known.get(tree_name(clip.clip_id))
        if archive is None or tree is None or archive.sha256 != clip.package_sha256:
            continue
        if not journal.has(archive.name) and _linked(previous / archive.name, folder / archive.name):
            journal.adopt(archive)
        if not journal.has(tree.name) and _linked(previous / clip.clip_id, folder / clip.clip_id):
            journal.adopt(tree)


def check(folder: Path, *, expected_clips: Collection[str]) -> list[str]:
    """Read what each folder says of itself, open its first picture, and the first file of each archive.

    Returns:
        What is wrong, in words.
    """
    from PIL import Image

    suffix = archive_name("")
    found = {path.name.removesuffix(suffix) for path in folder.glob(f"*{suffix}")}
    problems = differing_clips(expected_clips, found)
    for clip_id in sorted(set(expected_clips) & found):
        try:
            metadata = json.loads((folder / clip_id / "metadata.json").read_text(encoding="utf-8"))
            frames = metadata["time_grid"]["frame_index"]
            pictures = {path.name for path in (folder / clip_id / "rgb").glob("*.jpg")}
            missing = [frame for frame in frames if f"frame_{frame:06d}.jpg" not in pictures]
            if missing:
                problems.append(f"{clip_id}: {len(missing)} of {len(frames)} pictures are missing")
            elif frames:
                with Image.open(folder / clip_id / "rgb" / f"frame_{frames[0]:06d}.jpg") as image:
                    image.load()
            with tarfile.open(folder / archive_name(clip_id), "r:gz") as tar:
                first = tar.next()
                if first is None or not first.name.startswith(f"{clip_id}/"):
                    problems.append(f"{archive_name(clip_id)}: expected files below {clip_id}/")
        except (OSError, ValueError, KeyError, EOFError, tarfile.TarError) as error:
            problems.append(f"{clip_id} cannot be read: {error}")
    return problems


def _archive_of(clip: DeliveredClip) -> ClipArchive:
    if clip.archive is None:
        raise ValueError(f"clip {clip.clip_id}: the folder format needs its archive")
    return clip.archive


def _require_digest(clip: DeliveredClip, archive: ClipArchive, found: str) -> None:
    if found != archive.entry.sha256:
        raise ArtifactCorrupted(
            f"The package of clip {clip.clip_id} is damaged: expected sha256 {archive.entry.sha256}, found {found}. "
            f"Make it again with `ego-assets run --clip {clip.clip_id} --layer clip_package --again`."
        )


class _MemberFilter:
    """Takes the clip's folder off the names, and refuses what would lie elsewhere."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def __call__(self, member: tarfile.TarInfo, destination: str) -> tarfile.TarInfo | None:
        return tarfile.data_filter(
            member.replace(name=member.name.removeprefix(self._prefix), deep=False), destination
        )


def _linked(source: Path, target: Path) -> bool:
    """Link a file, or a folder file by file; nothing is left behind where that was not possible."""
    try:
        with _unless_it_fails(target):
            if source.is_dir():
                shutil.copytree(source, target, copy_function=os.link)
            else:
                os.link(source, target)
    except (OSError, shutil.Error):
        return False
    return True


@contextmanager
def _unless_it_fails(target: Path) -> Iterator[None]:
    """Remove what a killed process left, and what this one leaves half done."""
    _remove(target)
    try:
        yield
    except BaseException:
        _remove(target)
        raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
