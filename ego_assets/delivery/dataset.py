"""Writes a version of a delivery: all its formats, the manifest, the SDK and the dataset card.

A version is immutable. It is written beside its final place and renamed, so a half-written one never looks whole. A
write that was interrupted goes on where it was when the same content is asked for again; the same content as that of
the newest version gives that version.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ego_assets import __version__
from ego_assets.delivery import folder as folder_format
from ego_assets.delivery.card import COVERAGE, coverage_picture, dataset_card, sdk_source
from ego_assets.delivery.clip_source import DeliveredClip, layers_recorded
from ego_assets.delivery.corrections import (
    CORRECTIONS,
    ClipCorrection,
    CorrectionReason,
    NeededCorrection,
    read_corrections,
    replace_corrections,
    version_name,
    version_number,
    with_needed,
    write_corrections,
)
from ego_assets.delivery.definition import DeliveryDefinition
from ego_assets.delivery.formats import WRITERS, estimate_bytes
from ego_assets.delivery.journal import JOURNAL, Journal
from ego_assets.delivery.manifest import write_manifest
from ego_assets.delivery.recall import recalled_entries
from ego_assets.schema.artifact import FileEntry, digest_of
from ego_assets.schema.documents import json_document
from ego_assets.schema.errors import ArtifactCorrupted, ArtifactMissing
from ego_assets.schema.progress import ProgressCallback, ignore_progress

#: What a version says of itself.
RECORD = "delivery.json"
#: Raised whenever the meaning of a field of the record changes.
RECORD_FORMAT = 2

_VERSION = re.compile(r"v\d{4,}")
_STAGING = ".staging-"
_ABANDONED_S = 24 * 3600.0


class CardMaker(Protocol):
    """Makes the dataset card, see :func:`ego_assets.delivery.card.dataset_card`."""

    def __call__(
        self,
        rows: Iterator[Mapping[str, Any]],
        *,
        definition: DeliveryDefinition,
        counts: Mapping[str, Mapping[str, int]],
        left_out: Mapping[str, int],
        damaged: int,
        layers: Iterator[Mapping[str, Any]],
    ) -> str:
        """The card in Markdown."""
        ...


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """What a version does not hold.

    Attributes:
        counts: Number of clips by kind of reason.
        damaged: Damaged layers by clip: clips that belong into it and come back once they were made again.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    damaged: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class WrittenDelivery:
    """Where a version lies.

    Attributes:
        folder: Its folder.
        version: Its name, such as ``v0003``.
        bytes: Size of all its files.
        is_new: Whether it was written now; otherwise it existed with the same content.
        counts: What each format holds.
    """

    folder: Path
    version: str
    bytes: int
    is_new: bool
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def write_delivery(
    root: Path,
    definition: DeliveryDefinition,
    clips: Sequence[DeliveredClip],
    *,
    recorded_versions: Collection[str] = (),
    corrections: Sequence[NeededCorrection] = (),
    left_out: LeftOut | None = None,
    before_writing: Callable[[], None] = lambda: None,
    require_space: Callable[[int], None] = lambda needed_bytes: None,
    card: CardMaker = dataset_card,
    progress: ProgressCallback = ignore_progress,
) -> WrittenDelivery:
    """Write the next version of a delivery below ``root``, unless the newest one has the same content.

    Args:
        root: Folder of the delivery's versions.
        definition: What is asked for.
        clips: The clips, with their splits.
        recorded_versions: Versions that were written once, also where their folders are gone: no version is
            written twice.
        corrections: What consumers of earlier versions have to know.
        left_out: What it does not hold.
        before_writing: Called when a version will be written; what it raises ends the call.
        require_space: Raises when the bytes that will be written do not fit.
        card: Makes the dataset card.
        progress: Hears clips done and in total, each format counting every clip.
    """
    root.mkdir(parents=True, exist_ok=True)
    with alone(root):
        return _Writing(
            root=root,
            definition=definition,
            clips=sorted(clips, key=lambda clip: clip.clip_id),
            needed=corrections,
            left_out=left_out or LeftOut(),
            recorded=recorded_versions,
            before_writing=before_writing,
            require_space=require_space,
            card=card,
            progress=progress,
        ).run()


def remove_delivery(root: Path, version: str) -> None:
    """Remove a version that was written and never recorded."""
    with alone(root):
        shutil.rmtree(root / version, ignore_errors=True)


def add_corrections(root: Path, needed: Sequence[NeededCorrection], *, version: str) -> bool:
    """Put what is missing on the list beside the versions; returns whether anything was.

    Call it alone on the folder, see :func:`alone`.

    Args:
        root: Folder of the delivery's versions.
        needed: What has to be on it.
        version: First version that is corrected.
    """
    known = read_corrections(root / CORRECTIONS)
    complete = with_needed(known, needed, version=version, at=dt.datetime.now(dt.UTC))
    if len(complete) == len(known):
        return False
    replace_corrections(root / CORRECTIONS, complete)
    return True


def withdraw_clip(
    root: Path,
    clip_id: str,
    *,
    versions: Collection[str],
    recorded: Collection[str] = (),
    reason: CorrectionReason,
) -> bool:
    """Tell consumers of some versions that a clip must not be used any more; returns whether that was new.

    Call it alone on the folder, see :func:`alone`.

    Args:
        root: Folder of the delivery's versions.
        clip_id: The clip.
        versions: Names of the versions that have it; other names are passed over.
        recorded: Versions that were written once, also where their folders are gone.
        reason: Kind of reason.
    """
    numbered = [name for name in versions if _VERSION.fullmatch(name)]
    if not numbered:
        return False
    last = max(numbered, key=version_number)
    needed = NeededCorrection(clip_id=clip_id, action="withdrawn", reason=reason, last_version=last)
    return add_corrections(root, [needed], version=next_version(root, {*recorded, *numbered}))


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """Keep others from writing below ``root``: the schedule and the command line may both want to."""
    lock = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def versions_in(root: Path) -> list[Path]:
    """Folders of the versions, oldest first."""
    found = [path for path in root.glob("v*") if _VERSION.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: version_number(path.name))


def next_version(root: Path, recorded: Collection[str] = ()) -> str:
    """Name of the version that is written next."""
    taken = [path.name for path in versions_in(root)] + [
        name for name in recorded if _VERSION.fullmatch(name)
    ]
    return version_name(max(map(version_number, taken), default=0) + 1)


def read_record(folder: Path) -> dict[str, Any]:
    """What a version says of itself; nothing where it cannot be read."""
    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def files_in_record(record: Mapping[str, Any]) -> dict[str, FileEntry]:
    """The files that a record lists, by name; none in records of an older format."""
    return {entry["name"]: FileEntry(**entry) for entry in record.get("files", [])}


def clean_staging(root: Path, *, older_than_s: float = _ABANDONED_S, keep: str = "") -> int:
    """Remove what killed runs left behind below ``root``; returns the number of folders.

    Args:
        root: Folder of the delivery's versions.
        older_than_s: Age from which it is abandoned.
        keep: Name of a folder that stays: it is about to be continued.
    """
    removed = 0
    for left in root.glob(f"{_STAGING}*"):
        with contextlib.suppress(FileNotFoundError):
            if left.name != keep and time.time() - _touched(left) >= older_than_s:
                shutil.rmtree(left, ignore_errors=True)
                removed += 1
    return removed


def content_digest(definition: DeliveryDefinition, clips: Sequence[DeliveredClip]) -> str:
    """Equal definitions, clips, packages and manifest rows give an equal digest."""
    lines = sorted(
        digest_of(
            [
                clip.clip_id,
                clip.package_sha256,
                dict(clip.data_versions),
                dict(clip.row),
            ]
        )
        for clip in clips
    )
    return hashlib.sha256("\n".join([str(RECORD_FORMAT), definition.digest, *lines]).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class _Writing:
    """One call of :func:`write_delivery`, alone on the folder."""

    root: Path
    definition: DeliveryDefinition
    clips: Sequence[DeliveredClip]
    needed: Sequence[NeededCorrection]
    left_out: LeftOut
    recorded: Collection[str]
    before_writing: Callable[[], None]
    require_space: Callable[[int], None]
    card: CardMaker
    progress: ProgressCallback

    def run(self) -> WrittenDelivery:
        """Find the version that exists, or write the next."""
        digest = content_digest(self.definition, self.clips)
        existing = versions_in(self.root)
        newest = existing[-1] if existing else None
        stored = read_record(newest) if newest is not None else {}
        version = next_version(self.root, self.recorded)
        if newest is not None and stored.get("content_digest") == digest and not recalled_entries(newest):
            # A process that was killed after the rename left it.
            (newest / JOURNAL).unlink(missing_ok=True)
            add_corrections(self.root, self.needed, version=version)
            return _written(newest, stored, is_new=False)
        self.before_writing()
        software = digest_of([digest, __version__])
        staged = self.root / f"{_STAGING}{software[:32]}"
        clean_staging(self.root, keep=staged.name)
        staged.mkdir(exist_ok=True)
        journal = Journal(staged)
        if newest is not None and "folder" in self.definition.formats:
            folder_format.link(
                staged, self.clips, previous=newest, known=files_in_record(stored), journal=journal
            )
        try:
            self._require_space(staged, journal)
            record = self._write(staged, journal, version, digest)
        except (ArtifactCorrupted, ArtifactMissing):
            # The next attempt is without the clip: nothing of this one is of use.
            shutil.rmtree(staged, ignore_errors=True)
            raise
        final = self.root / version
        staged.rename(final)
        (final / JOURNAL).unlink(missing_ok=True)
        replace_corrections(self.root / CORRECTIONS, read_corrections(final / CORRECTIONS))
        return _written(final, record, is_new=True)

    def _require_space(self, staged: Path, journal: Journal) -> None:
        linked = {name.rstrip("/") for name in journal.entries if name.endswith("/")}
        needed = estimate_bytes(self.clips, self.definition, linked=linked)
        written = sum(
            entry.bytes
            for name, entry in journal.entries.items()
            if name.partition("/")[0] in {writer.folder for writer in WRITERS.values() if writer.folder}
        )
        total = max(0, sum(needed.values()) - written)
        if total == 0 and not journal.entries:
            return
        self.require_space(total)

    def _write(self, staged: Path, journal: Journal, version: str, digest: str) -> dict[str, Any]:
        counts: dict[str, dict[str, int]] = {}
        for position, name in enumerate(self.definition.formats):
            counts[name] = dict(
                WRITERS[name].write(
                    staged,
                    self.clips,
                    definition=self.definition,
                    journal=journal,
                    progress=self._heard(position),
                )
            )
        self._write_documents(staged, journal, version, counts)
        _remove_unfinished(staged, journal.entries)
        record = {
            "format": RECORD_FORMAT,
            "name": self.definition.name,
            "version": version,
            "software": f"ego_assets {__version__}",
            "content_digest": digest,
            "definition": self.definition.to_dict(),
            "clips": len(self.clips),
            "counts": counts,
            "incomplete": bool(self.left_out.damaged),
            "damaged": {clip_id: list(layers) for clip_id, layers in self.left_out.damaged.items()},
            "left_out": dict(self.left_out.counts),
            "packages": {
                clip.clip_id: clip.package_sha256
                for clip in self.clips
                if "folder" in self.definition.formats
            },
            "files": [asdict(entry) for _, entry in sorted(journal.entries.items())],
        }
        # Last, and under its name only when whole: what has it is a delivery.
        partial = staged / f".{RECORD}"
        partial.write_bytes(json_document(record))
        partial.replace(staged / RECORD)
        return record

    def _write_documents(
        self, staged: Path, journal: Journal, version: str, counts: Mapping[str, Mapping[str, int]]
    ) -> None:
        """What is small, and may differ from what an interrupted attempt wrote: the version may be another."""
        final = self.root / version
        with journal.create_path("manifest.parquet") as path, path.open("wb") as out:
            write_manifest(out, (self._row(clip, final) for clip in self.clips))
        card = self.card(
            (clip.row for clip in self.clips),
            definition=self.definition,
            counts=counts,
            left_out=self.left_out.counts,
            damaged=len(self.left_out.damaged),
            layers=layers_recorded(self.clips),
        )
        table = io.BytesIO()
        write_corrections(table, self._corrections(version))
        for name, content in (
            ("egodata.py", sdk_source()),
            ("README.md", card.encode()),
            (COVERAGE, coverage_picture(clip.row for clip in self.clips)),
            (CORRECTIONS, table.getvalue()),
        ):
            with journal.create(name) as file:
                file.write(content)

    def _corrections(self, version: str) -> list[ClipCorrection]:
        known = read_corrections(self.root / CORRECTIONS)
        return with_needed(known, self.needed, version=version, at=dt.datetime.now(dt.UTC))

    def _row(self, clip: DeliveredClip, final: Path) -> dict[str, Any]:
        """The manifest row, with where the clip lies in this version."""
        if "folder" not in self.definition.formats or clip.archive is None:
            return dict(clip.row)
        archive = clip.archive.entry
        return {
            **clip.row,
            "clip_path": clip.clip_id,
            "package_path": archive.name,
            "package_uri": str(final / archive.name),
            "package_sha256": archive.sha256,
            "package_bytes": archive.bytes,
        }

    def _heard(self, position: int) -> ProgressCallback:
        """The progress of one format as that of the whole delivery."""
        each, total = len(self.clips), len(self.clips) * len(self.definition.formats)

        def heard(done: int, of: int) -> None:
            self.progress(position * each + (round(done / of * each) if of else 0), total)

        return heard


def _written(folder: Path, record: Mapping[str, Any], *, is_new: bool) -> WrittenDelivery:
    listed = sum(entry["bytes"] for entry in record["files"])
    return WrittenDelivery(
        folder=folder,
        version=folder.name,
        bytes=listed + (folder / RECORD).stat().st_size,
        is_new=is_new,
        counts=record["counts"],
    )


def _remove_unfinished(staged: Path, entries: Mapping[str, FileEntry]) -> None:
    """Remove what a killed process had begun: nothing is delivered that the record does not list."""
    trees = {name.rstrip("/") for name in entries if name.endswith("/")}
    for parent, folders, files in os.walk(staged):
        base = Path(parent)
        kept = []
        for name in folders:
            relative = (base / name).relative_to(staged).as_posix()
            if relative in trees:
                continue
            if any(entry.startswith(f"{relative}/") for entry in entries):
                kept.append(name)
            else:
                shutil.rmtree(base / name)
        folders[:] = kept
        for name in files:
            relative = (base / name).relative_to(staged).as_posix()
            if relative not in entries and relative != JOURNAL:
                (base / name).unlink()


def _touched(staged: Path) -> float:
    """When something was last finished in a staging folder."""
    journal = staged / JOURNAL
    return max(path.stat().st_mtime for path in (staged, journal) if path.exists())
