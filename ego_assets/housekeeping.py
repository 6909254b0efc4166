"""Finds what nobody needs any more and removes it: earlier versions, what killed processes left, orphans.

What is young stays: a run may still be reading an earlier version, or writing what looks abandoned.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ego_assets.schema.errors import ArtifactCorrupted, ConfigurationError

if TYPE_CHECKING:
    from resources.database import Database
    from resources.storage import ArtifactStore, StoreVersion
    from resources.vault import Vault

#: How long something stays that could still be in use.
DEFAULT_AGE_S = 7 * 24 * 3600.0
#: How long something counts as being written; a layer takes less.
ABANDONED_S = 24 * 3600.0

_DELIVERY_VERSION = re.compile(r"v\d{4,}")


class WasteKind(StrEnum):
    """What can be removed."""

    #: A version of a layer that no pointer names any more.
    SUPERSEDED = "superseded version"
    #: What a killed process left unfinished, in the store, the vault or a delivery.
    UNFINISHED = "unfinished work"
    #: A delivery that was written and never recorded.
    UNRECORDED = "unrecorded delivery"
    #: Layers of a clip that is not registered.
    ORPHAN = "orphan"
    #: An original of a clip that is not registered; it is named and never removed.
    UNKNOWN_ORIGINAL = "original without a clip (kept)"


@dataclass(frozen=True, kw_only=True)
class Waste:
    """One thing that can be removed.

    Attributes:
        kind: What it is.
        place: Where it lies.
        bytes: What it takes; ``None`` where that is not known.
        clip_id: The clip it belongs to; empty where it belongs to none.
        remove: Removes it.
    """

    kind: WasteKind
    place: str
    bytes: int | None
    clip_id: str = ""
    remove: Callable[[], object] = field(repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """The entry for ``--json``."""
        return {"kind": self.kind, "place": self.place, "bytes": self.bytes, "clip_id": self.clip_id}


@dataclass(frozen=True, kw_only=True)
class Housekeeping:
    """What can be removed of a project.

    Attributes:
        database: Knows the clips, their incidents and the deliveries.
        store: Holds the versions.
        vault: Holds what was not finished when it was taken in.
        deliveries: Folder of the deliveries.
    """

    database: Database
    store: ArtifactStore
    vault: Vault
    deliveries: Path

    def find(self, *, older_than_s: float = DEFAULT_AGE_S, orphans: bool = False) -> Iterator[Waste]:
        """Everything that can be removed.

        Args:
            older_than_s: Versions that were superseded later than this stay, and deliveries written later.
            orphans: Look for layers and originals of clips that are not registered, too.

        Raises:
            ConfigurationError: Orphans are asked for and no clip is registered: the database is another project's.
        """
        known = {clip.clip_id for clip in self.database.clips()}
        if orphans and not known:
            raise ConfigurationError(
                "No clip is registered, so every layer in the store would be an orphan. Check EGO_DATABASE_URL: it "
                "probably names another project's database."
            )
        before = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=older_than_s)
        yield from self._superseded(known, before)
        yield from self._unfinished()
        yield from self._deliveries(before)
        if orphans:
            yield from self._orphans(known)

    def _superseded(self, known: set[str], before: dt.datetime) -> Iterator[Waste]:
        incidents = {clip_id for clip_id in known if self.database.open_incident(clip_id) is not None}
        for version in self.store.superseded():
            # What leaked is for the incident to take.
            if version.clip_id in known - incidents and self._superseded_at(version) < before:
                yield Waste(
                    kind=WasteKind.SUPERSEDED,
                    place=f"{version.clip_id}/{version.layer}/{version.version_id}",
                    bytes=version.bytes,
                    clip_id=version.clip_id,
                    remove=partial(self._remove_version, version),
                )

    def _superseded_at(self, version: StoreVersion) -> dt.datetime:
        """When a version stopped being the current one; a reader may have opened it until then."""
        try:
            current = self.store.document(version.clip_id, version.layer)
        except ArtifactCorrupted:
            return dt.datetime.now(dt.UTC)
        if current is None:
            return version.modified_at
        return max(version.modified_at, dt.datetime.fromisoformat(current.committed_at))

    def _remove_version(self, version: StoreVersion) -> None:
        self.store.remove_version(version.clip_id, version.layer, version.version_id)
        self.database.forget_version(version.clip_id, version.layer, version.version_id)

    def _unfinished(self) -> Iterator[Waste]:
        for folder, size in self.store.abandoned_staging(older_than_s=ABANDONED_S):
            yield Waste(
                kind=WasteKind.UNFINISHED,
                place=str(folder),
                bytes=size,
                remove=partial(self.store.clean_staging, older_than_s=ABANDONED_S),
            )
        left = self.vault.unfinished()
        if left:
            # The vault leaves alone what somebody is writing.
            yield Waste(
                kind=WasteKind.UNFINISHED,
                place=f"{len(left)} file(s) in the vault",
                bytes=None,
                remove=self.vault.remove_unfinished,
            )
        for folder in self.deliveries.glob("*/.staging-*"):
            if time.time() - _newest_change(folder) > ABANDONED_S:
                yield Waste(
                    kind=WasteKind.UNFINISHED,
                    place=str(folder),
                    bytes=_size_of(folder),
                    remove=partial(shutil.rmtree, folder, ignore_errors=True),
                )

    def _deliveries(self, before: dt.datetime) -> Iterator[Waste]:
        from ego_assets.delivery.dataset import remove_delivery

        recorded = {(delivery.name, delivery.version) for delivery in self.database.deliveries()}
        for folder in self.deliveries.glob("*/v*"):
            name, version = folder.parent.name, folder.name
            if not folder.is_dir() or _DELIVERY_VERSION.fullmatch(version) is None:
                continue
            if (name, version) not in recorded and folder.stat().st_mtime < before.timestamp():
                yield Waste(
                    kind=WasteKind.UNRECORDED,
                    place=str(folder),
                    bytes=_size_of(folder),
                    remove=partial(remove_delivery, folder.parent, version),
                )

    def _orphans(self, known: set[str]) -> Iterator[Waste]:
        sizes: dict[str, int] = {}
        for document in self.store.documents(on_error=lambda error: None):
            if document.clip_id not in known:
                size = sum(entry.bytes for entry in document.files)
                sizes[document.clip_id] = sizes.get(document.clip_id, 0) + size
        for version in self.store.superseded():
            if version.clip_id not in known:
                sizes[version.clip_id] = sizes.get(version.clip_id, 0) + version.bytes
        for clip_id in sorted(self.vault.clip_ids() - known):
            yield Waste(
                kind=WasteKind.UNKNOWN_ORIGINAL,
                place=f"originals/{clip_id}",
                bytes=None,
                clip_id=clip_id,
                remove=_keep,
            )
        for clip_id, size in sizes.items():
            yield Waste(
                kind=WasteKind.ORPHAN,
                place=clip_id,
                bytes=size,
                clip_id=clip_id,
                remove=partial(self.store.erase, clip_id),
            )


def _keep() -> None:
    """What cannot be made again stays."""


def _newest_change(folder: Path) -> float:
    return max((path.lstat().st_mtime for path in (folder, *folder.rglob("*"))), default=0.0)


def _size_of(folder: Path) -> int:
    """Bytes that removing a folder gives back: files that have other names too stay on the disk."""
    found = (os.lstat(path) for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(status.st_size for status in found if status.st_nlink == 1)
