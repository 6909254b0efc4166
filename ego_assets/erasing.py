"""Erases clips for good: original, layers, records, pictures in the event log, pages, and copies in deliveries.

Begun in one transaction, after which no layer of the clip runs or is recorded; every step after it can be made again,
so that a process that is killed is completed by the next :meth:`Eraser.advance`.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ego_assets.reviewing import page_folder, remove_review_pages
from ego_assets.schema.erasures import Erasure
from ego_assets.schema.errors import EgoAssetsError
from ego_assets.schema.incidents import AffectedDelivery

if TYPE_CHECKING:
    from ego_assets.event_pictures import ErasedEvents, InstanceSource
    from ego_assets.project import Project
    from ego_assets.schema.layers import LayerSpec
    from ego_assets.settings import Settings
    from resources.database import Database
    from resources.erasures import ErasureLog
    from resources.storage import ArtifactStore
    from resources.uploads import BucketUploads
    from resources.vault import Vault

#: How long a run may take, after the last layer of a clip has ended, until its last event about it is written.
SETTLING_S = 60.0
_POLL_S = 0.5


class ErasureRefused(EgoAssetsError):
    """An erasure cannot begin; the message says why."""


class ErasureUnfinished(EgoAssetsError):
    """Something is left to erase that is in use; the next attempt goes on."""

    transient = True
    about_clip = False


@dataclass(frozen=True, kw_only=True)
class ErasurePlan:
    """What would be erased.

    Attributes:
        clip_ids: The clips asked for, and further ones with the same content.
        same_content: The further ones among them.
        layers: Number of committed layers.
        raw_bytes: Size of the originals.
        deliveries: Versions of deliveries that hold one of them.
        kept_content: Clips that have the content of one of these and are not asked for.
    """

    clip_ids: tuple[str, ...]
    same_content: tuple[str, ...]
    layers: int
    raw_bytes: int
    deliveries: tuple[AffectedDelivery, ...]
    kept_content: tuple[str, ...]


def eraser_of(project: Project) -> Eraser:
    """The eraser of a project on this machine."""
    return build_eraser(
        settings=project.settings,
        specs=project.specs,
        database=project.database,
        store=project.store,
        vault=project.vault,
        instance=lambda: project.instance,
    )


def build_eraser(
    *,
    settings: Settings,
    specs: Sequence[LayerSpec],
    database: Database,
    store: ArtifactStore,
    vault: Vault,
    instance: InstanceSource,
) -> Eraser:
    """The eraser over these services; ``instance`` is asked once something has to be removed from its storage."""
    from resources.platform import open_uploads

    def remove_events(clip_ids: Sequence[str], texts: Sequence[str]) -> ErasedEvents:
        from ego_assets import event_pictures

        return event_pictures.remove_clips(instance(), clip_ids, event_pictures.Words(texts))

    return Eraser(
        settings=settings,
        specs=specs,
        database=database,
        store=store,
        vault=vault,
        uploads=open_uploads(settings),
        remove_events=remove_events,
    )


@dataclass(frozen=True, kw_only=True)
class Eraser:
    """Erases clips.

    Attributes:
        settings: Where deliveries, reports and uploads lie.
        specs: All layers.
        database: Keeps the tombstones.
        store: Holds the layers.
        vault: Holds the originals.
        uploads: The bucket that is watched, if there is one.
        remove_events: Removes clips, and texts that describe them, from the orchestrator's storage.
    """

    settings: Settings
    specs: Sequence[LayerSpec]
    database: Database
    store: ArtifactStore
    vault: Vault
    uploads: BucketUploads | None
    remove_events: Callable[[Sequence[str], Sequence[str]], ErasedEvents]

    @property
    def log(self) -> ErasureLog:
        """The record of erasures."""
        from resources.erasures import ErasureLog

        return ErasureLog(self.database)

    # --- asking ---------------------------------------------------------------------------------------

    def plan(self, *, clip_ids: Sequence[str] = (), collector_id: str = "") -> ErasurePlan:
        """What an erasure of some clips, or of all of a collector, would remove.

        Uploads of the same content that were turned away as duplicates go with the clip that has it.

        Raises:
            UnknownClip: A clip is not registered.
            ErasureRefused: The collector has no clips, or a clip was erased already.
        """
        clips = self.database.clips()
        by_id = {clip.clip_id: clip for clip in clips}
        if collector_id:
            wanted = [clip.clip_id for clip in clips if clip.collector_id == collector_id]
            if not wanted:
                raise ErasureRefused(
                    f"No clip of collector {collector_id!r} is registered. Compare the name with `ego-assets status`."
                )
        else:
            wanted = list(dict.fromkeys(clip_ids))
            for clip_id in wanted:
                self.database.clip(clip_id)
                if clip_id not in by_id:
                    raise ErasureRefused(
                        f"Clip {clip_id} was erased already; `ego-assets erase --resume` finishes what is left of it."
                    )
        same = [clip.clip_id for clip in clips if clip.duplicate_of in wanted and clip.clip_id not in wanted]
        chosen = [*wanted, *same]
        held = {
            AffectedDelivery(name=delivery.name, version=delivery.version)
            for clip_id in chosen
            for delivery, _ in self.database.deliveries_of(clip_id)
        }
        return ErasurePlan(
            clip_ids=tuple(chosen),
            same_content=tuple(same),
            layers=sum(len(self.database.artifacts(clip_id)) for clip_id in chosen),
            raw_bytes=sum(by_id[clip_id].raw_bytes for clip_id in chosen),
            deliveries=tuple(sorted(held, key=lambda item: (item.name, item.version))),
            kept_content=tuple(sorted({by_id[clip_id].duplicate_of for clip_id in wanted} - {"", *chosen})),
        )

    def begun_of(self, collector_id: str) -> list[str]:
        """Clips of a collector whose erasure was interrupted.

        Where only the last step is left, nothing says any more whose clip it was: those are among them.
        """
        return [
            erasure.clip_id
            for erasure in self.log.erasures(unfinished_only=True)
            if erasure.pending is None or erasure.pending.collector_id == collector_id
        ]

    # --- doing ----------------------------------------------------------------------------------------

    def erase(
        self,
        clip_ids: Sequence[str],
        *,
        reason: str,
        actor: str,
        on_wait: Callable[[str], object] = lambda message: None,
    ) -> list[Erasure]:
        """Erase clips; returns their tombstones when nothing is left of them.

        Args:
            clip_ids: The clips.
            reason: Why; it stays for good, so it says nothing of anybody.
            actor: Who.
            on_wait: Hears what has to be waited for.

        Raises:
            UnknownClip: A clip is not registered.
            TransientError: Something cannot be reached now; the erasure has begun and is to be resumed.
        """
        for clip_id in sorted({*clip_ids}):
            self.log.begin(clip_id, reason=reason, actor=actor)
        self.advance(clip_ids, on_wait=on_wait)
        return [erasure for clip_id in clip_ids if (erasure := self.log.find(clip_id)) is not None]

    def advance(
        self,
        clip_ids: Iterable[str] | None = None,
        *,
        wait: bool = True,
        on_wait: Callable[[str], object] = lambda message: None,
    ) -> list[Erasure]:
        """Finish erasures that have begun; what does not depend on others that are at work is removed at once.

        Args:
            clip_ids: The clips; by default all whose erasure is not complete.
            wait: Wait for layers of the clips that are being made, and for their runs.
            on_wait: Hears what has to be waited for.

        Returns:
            The erasures as they are then.

        Raises:
            ErasureUnfinished: Only without ``wait``: a layer or a run of a clip is at work.
        """
        wanted = None if clip_ids is None else {*clip_ids}
        erasures = [
            erasure
            for erasure in self.log.erasures(unfinished_only=True)
            if wanted is None or erasure.clip_id in wanted
        ]
        if not erasures:
            return []
        for erasure in erasures:
            self._remove_files(erasure)
        for erasure in erasures:
            self._stop_layers(erasure, wait=wait, on_wait=on_wait)
            # A layer that was about to publish may have done so.
            self._remove_files(erasure)
            if erasure.pending is not None and not erasure.pending.idle_at:
                self.log.record(erasure.clip_id, idle_at=dt.datetime.now(dt.UTC))
        for erasure in erasures:
            self.log.record(erasure.clip_id, deliveries=self._recall(erasure))
        self._remove_reports(erasure.clip_id for erasure in erasures)
        self._remove_events([erasure.clip_id for erasure in erasures], wait=wait, on_wait=on_wait)
        for erasure in erasures:
            self.log.forget(erasure.clip_id)
        self._compact()
        return [self.log.complete(erasure.clip_id) for erasure in erasures]

    # --- files ----------------------------------------------------------------------------------------

    def _remove_files(self, erasure: Erasure) -> None:
        """Original, layers, staging, quarantine, private copies and the upload itself."""
        clip_id = erasure.clip_id
        removed = {"original files": self.vault.erase(clip_id), "layer files": self.store.erase(clip_id)}
        leftover = erasure.pending
        if leftover is not None:
            for number in leftover.incidents:
                with self.vault.quarantine(number) as quarantine:
                    removed["quarantined files"] = removed.get("quarantined files", 0) + quarantine.purge()
            removed["uploads"] = self._remove_upload(leftover.upload_uri)
        self.vault.remove_unfinished()
        self._remove_private_copies()
        if any(removed.values()):
            self.log.record(clip_id, removed={kind: count for kind, count in removed.items() if count})

    def _remove_upload(self, uri: str) -> int:
        """Remove an upload that is still where it is watched; other folders are somebody else's."""
        from ego_assets.media.uploads import sidecar_of, upload_path
        from ego_assets.schema.buckets import is_bucket_url

        if not uri or self.database.clip_with_upload(uri) is not None:
            # The place is used by the upload of another clip.
            return 0
        if is_bucket_url(uri):
            key = self.uploads.key_of(uri) if self.uploads is not None else None
            if self.uploads is None or key is None:
                return 0
            return sum(
                self.uploads.bucket.erase(name)
                for name in (f"{key.rpartition('.')[0]}.json", key)
                if self.uploads.info(name) is not None
            )
        path = upload_path(uri)
        if not path.is_relative_to(self.settings.uploads) or not os.path.lexists(path):
            return 0
        sidecar = sidecar_of(path)
        found = [path] if sidecar is None or sidecar == path else [sidecar, path]
        for one in found:
            one.unlink(missing_ok=True)
        return len(found)

    def _remove_private_copies(self) -> None:
        """Remove the copies of objects that killed processes left; opening a private folder sweeps them."""
        if self.uploads is not None:
            with self.uploads.private_file("erase", b""):
                pass

    def _stop_layers(
        self,
        erasure: Erasure,
        *,
        wait: bool,
        on_wait: Callable[[str], object],
    ) -> None:
        """See to it that no layer of the clip is being made; none starts any more."""
        for spec in self.specs:
            name = f"layer {spec.name} of clip {erasure.clip_id}"
            with contextlib.ExitStack() as own:
                if own.enter_context(self.database.exclusive(name, wait=False)):
                    continue
            if not wait:
                raise ErasureUnfinished(
                    f"Clip {erasure.clip_id} is being erased; its {spec.name} is being made and is dropped at the end."
                )
            on_wait(f"{spec.name} of clip {erasure.clip_id} is being made; waiting until it ends")
            with self.database.exclusive(name):
                pass

    # --- deliveries -----------------------------------------------------------------------------------

    def _recall(self, erasure: Erasure) -> list[AffectedDelivery]:
        """Take the clip out of every delivery, its row of the manifest included, and say so there."""
        from ego_assets.delivery.dataset import alone, withdraw_clip
        from ego_assets.delivery.formats import files_holding
        from ego_assets.delivery.recall import recall_clip, recalled_clips

        clip_id = erasure.clip_id
        roots = {path.resolve() for path in _folders(self.settings.deliveries)}
        recorded: dict[Path, AffectedDelivery] = {}
        for delivery, _ in self.database.deliveries_of(clip_id):
            folder = Path(delivery.uri)
            if folder.is_dir():
                recorded[folder.resolve()] = AffectedDelivery(name=delivery.name, version=delivery.version)
                roots.add(folder.resolve().parent)
        affected = set(recorded.values())
        for root in sorted(roots):
            held: list[str] = []
            with alone(root):
                for folder in _folders(root):
                    named = _manifest_names(folder, clip_id)
                    if not (
                        folder in recorded
                        or named
                        or files_holding(folder, clip_id)
                        or clip_id in recalled_clips(folder)
                    ):
                        continue
                    if folder.name.startswith("."):
                        # It is being written, by nobody at the moment: the next write begins anew.
                        _remove(folder)
                        continue
                    affected.add(recorded.get(folder, AffectedDelivery(name=root.name, version=folder.name)))
                    recall_clip(folder, clip_id, reason={"erased": True}, take=_remove)
                    if named:
                        _remove_row(folder, clip_id)
                    held.append(folder.name)
                # Consumers hear of it at once; the next run writes a corrected version.
                withdraw_clip(
                    root,
                    clip_id,
                    versions=held,
                    recorded=[made.version for made in self.database.deliveries() if made.name == root.name],
                    reason="withdrawn from the collection",
                )
        affected.update(self._recall_published(clip_id))
        return sorted(affected, key=lambda item: (item.name, item.version))

    def _recall_published(self, clip_id: str) -> list[AffectedDelivery]:
        if not self.settings.deliveries_url:
            return []
        from resources.deliveries import PublishedDeliveries

        published = PublishedDeliveries(self.settings.deliveries_url, self.settings.store_access)
        found = [copy.split("/") for copy in published.recall(clip_id, self.settings.deliveries)]
        for root in _folders(self.settings.deliveries):
            published.publish_corrections(root)
        return [AffectedDelivery(name=name, version=version) for name, version in found]

    # --- reports and the orchestrator -----------------------------------------------------------------

    def _remove_reports(self, clip_ids: Iterable[str]) -> None:
        """Remove review pages of the clips, and all reports, which the next run writes anew."""
        reports = self.settings.reports
        for clip_id in clip_ids:
            remove_review_pages(reports, clip_id)
        pages = page_folder(reports, "any").parent
        for path in sorted(reports.iterdir()) if reports.is_dir() else ():
            if path != pages:
                _remove(path)

    def _remove_events(
        self, clip_ids: Sequence[str], *, wait: bool, on_wait: Callable[[str], object]
    ) -> None:
        """Remove the clips from the orchestrator's storage, once more when their runs have ended."""
        from resources.erasures import compact_sqlite

        first = True
        while True:
            erasures = [erasure for clip_id in clip_ids if (erasure := self.log.find(clip_id)) is not None]
            found = self.remove_events(clip_ids, self._texts(erasures))
            if first and (found.runs or found.events):
                self.log.record(clip_ids[0], removed={"runs": found.runs, "events": found.events})
            # No layer of them runs any more, so what a run still writes about them comes within moments, or never.
            if not found.running or all(_has_settled(erasure) for erasure in erasures):
                break
            if not wait:
                raise ErasureUnfinished(
                    f"{len(found.running)} run(s) of clips that are being erased have not ended; what they still write "
                    "is removed then."
                )
            if first:
                on_wait(f"run {', '.join(found.running)} is about to end; waiting for it")
            first = False
            time.sleep(_POLL_S)
        for path in found.files:
            compact_sqlite(path)

    def _texts(self, erasures: Sequence[Erasure]) -> list[str]:
        """What stands for the clips elsewhere, without what stands for other clips as well."""
        others = self.database.clips()
        shared = {
            value for clip in others for value in (clip.source_name, clip.collector_id, clip.upload_uri)
        }
        texts: dict[str, None] = {}
        for erasure in erasures:
            leftover = erasure.pending
            if leftover is None:
                continue
            for text in (
                leftover.source_name,
                leftover.collector_id,
                leftover.upload_uri,
                _path_text(leftover.upload_uri),
                *leftover.texts,
            ):
                # `unknown` is what a clip has whose collector was not given.
                if text and text not in shared and text != "unknown":
                    texts[text] = None
        return list(texts)

    def _compact(self) -> None:
        from resources.erasures import compact

        compact(self.database)


# --- helpers ------------------------------------------------------------------------------------------


def _has_settled(erasure: Erasure) -> bool:
    idle_at = erasure.pending.idle_at if erasure.pending is not None else ""
    if not idle_at:
        return erasure.pending is None
    return (dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(idle_at)).total_seconds() >= SETTLING_S


def _path_text(uri: str) -> str:
    """The upload's address as messages and cursors write it."""
    from ego_assets.media.uploads import upload_path
    from ego_assets.schema.buckets import is_bucket_url

    return "" if not uri or is_bucket_url(uri) else str(upload_path(uri))


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def _manifest(folder: Path) -> Path:
    return folder / "manifest.parquet"


def _manifest_names(folder: Path, clip_id: str) -> bool:
    """Whether the manifest of a delivery has a row of the clip."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    path = _manifest(folder)
    if not path.is_file():
        return False
    try:
        column = pq.read_table(path, columns=["clip_id"])["clip_id"]
    except (OSError, KeyError, pa.ArrowException):
        # One that cannot be read may have it.
        return True
    return bool(pc.any(pc.equal(column, clip_id)).as_py())


def _remove_row(folder: Path, clip_id: str) -> None:
    """Write the manifest of a delivery anew without the clip; one that cannot be read is removed."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    path = _manifest(folder)
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException):
        path.unlink()
        return
    staged = path.with_name(f".{path.name}.erased")
    pq.write_table(table.filter(pc.not_equal(table["clip_id"], clip_id)), staged, compression="zstd")
    staged.replace(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
