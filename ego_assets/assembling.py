"""Makes versions of deliveries: chooses the clips, writes them, records what was delivered, copies it to the bucket.

Every delivery goes this way: the default one that holds everything, those that somebody asked for by name, and the
corrected versions of both.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ego_assets.delivering import (
    DATASET,
    DELIVERY_NAME,
    OmissionKind,
    Selection,
    changed_since,
    record_damaged,
    select_clips,
)
from ego_assets.delivery.definition import DeliveryDefinition
from ego_assets.disk import require_space
from ego_assets.schema.clip import PRIVACY_LAYER
from ego_assets.schema.errors import ArtifactCorrupted, ArtifactMissing, ConfigurationError, TransientError
from ego_assets.schema.incidents import INCIDENT_WITHDRAWAL
from ego_assets.schema.progress import ProgressCallback, ignore_progress

if TYPE_CHECKING:
    from ego_assets.delivered_files import OpenFiles
    from ego_assets.delivering import DeliverableClip
    from ego_assets.delivery.clip_source import DeliveredClip
    from ego_assets.delivery.corrections import CorrectionReason, NeededCorrection
    from ego_assets.delivery.dataset import WrittenDelivery
    from ego_assets.settings import Settings
    from resources.database import Database, Delivery
    from resources.storage import ArtifactStore

#: How often a version is written whose clips change meanwhile, before it is left to the next run.
MAX_ATTEMPTS = 3
#: Who recalled what a person took back, as a version notes it.
BY_SENDER = "sender"
#: Kinds of reasons for which a delivery that has such a clip is corrected.
_CORRECTED = (OmissionKind.WITHDRAWN, OmissionKind.INCIDENT, OmissionKind.TAKEN_BACK)


class DeliveryOutdated(TransientError):
    """Clips changed each time while a delivery was written."""

    def __init__(self, reasons: str) -> None:
        super().__init__(
            f"Clips changed while the delivery was written, {MAX_ATTEMPTS} times: {reasons}. Nothing was delivered. "
            "Use `ego-assets run` when these clips are at rest."
        )


class UnknownDelivery(ConfigurationError):
    """There is no delivery of this name, or it has no such version."""


@dataclass(frozen=True, kw_only=True)
class MadeDelivery:
    """A version that exists now.

    Attributes:
        written: The version.
        selection: What was chosen.
        published: URL of its copy, or empty.
    """

    written: WrittenDelivery
    selection: Selection
    published: str


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What a delivery would be.

    Attributes:
        selection: What would be chosen.
        splits: Split by collector; empty without splits.
        bytes: Estimated size by format.
    """

    selection: Selection
    splits: Mapping[str, str]
    bytes: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class DeliveryMaker:
    """Makes the deliveries of one data folder.

    Attributes:
        settings: Where deliveries go.
        database: Keeps the record.
        store: Holds what is delivered.
        log: Hears what a person should know.
    """

    settings: Settings
    database: Database
    store: ArtifactStore
    log: Callable[[str], object] = lambda message: None

    # --- making ---------------------------------------------------------------------------------------

    def make(
        self,
        definition: DeliveryDefinition,
        *,
        only: Collection[str] | None = None,
        progress: ProgressCallback = ignore_progress,
    ) -> MadeDelivery:
        """Write the next version, unless the newest one has the same content.

        Args:
            definition: What it holds.
            only: Ids of clips to choose from; ``None`` for all.
            progress: Hears how far writing is.

        Raises:
            DeliveryOutdated: Its clips never rested.
            InsufficientDisk: It does not fit.
        """
        from ego_assets.delivery.dataset import remove_delivery

        root, removed = self.root(definition.name), set[str]()
        reasons = ""
        for attempt in range(MAX_ATTEMPTS):
            selection = self.select(definition, only=only)
            splits = self._splits(selection)
            taken = {*(made.version for made in self._recorded(definition.name)), *removed}
            try:
                written = self._write(selection, splits, taken, progress)
            except (ArtifactCorrupted, ArtifactMissing) as error:
                reasons = " ".join(record_damaged(selection, self.database, self.store)) or str(error)
                if attempt == MAX_ATTEMPTS - 1:
                    raise
                self.log(f"The delivery is written without damaged clips: {reasons}")
                continue
            with self.database.transaction():
                changed = changed_since(selection, self.database, self.store)
                if not changed:
                    self._record(selection, splits, written)
                    break
                recorded = {made.version for made in self._recorded(definition.name)}
            if written.version not in recorded:
                remove_delivery(root, written.version)
                removed.add(written.version)
            reasons = "; ".join(f"clip {clip_id}: {reason}" for clip_id, reason in sorted(changed.items()))
            self.log(f"Version {written.version} is not delivered, it is written again: {reasons}")
        else:
            raise DeliveryOutdated(reasons)
        return MadeDelivery(
            written=written, selection=selection, published=self.publish(written.folder, corrections=True)
        )

    def make_named(
        self, definition: DeliveryDefinition, *, progress: ProgressCallback = ignore_progress
    ) -> MadeDelivery:
        """As :meth:`make`, for a delivery that somebody asks for.

        Raises:
            ConfigurationError: Its name is that of the default delivery, or no clip is left to deliver.
        """
        require_name(definition)
        self.require_fitting(self.select(definition))
        return self.make(definition, progress=progress)

    def select(self, definition: DeliveryDefinition, *, only: Collection[str] | None = None) -> Selection:
        """What the delivery would hold."""
        return select_clips(
            self.database,
            self.store,
            definition,
            only=only,
            taken_back=self._taken_back(definition.name),
        )

    def preview(self, definition: DeliveryDefinition) -> Preview:
        """What the delivery would hold and how large it would be, written from scratch."""
        from ego_assets.delivered_files import OpenFiles
        from ego_assets.delivery.formats import estimate_bytes

        selection = self.select(definition)
        splits = self._splits(selection)
        with OpenFiles(self.store) as files:
            estimated = estimate_bytes(self._delivered(selection, splits, files), definition)
        return Preview(selection=selection, splits=splits if definition.split else {}, bytes=estimated)

    def require_fitting(self, selection: Selection) -> None:
        """Stop when the filter leaves nothing.

        Raises:
            ConfigurationError: It says what there is.
        """
        if selection.clips:
            return
        where = selection.definition.where
        outside = sum(one.kind is OmissionKind.FILTER for one in selection.omitted.values())
        if where and outside == len(selection.omitted):
            clips = self.database.clips()
            raise ConfigurationError(
                f"No clip fits the filter {where!r}. There are {len(clips)} clip(s); activities: "
                f"{_counted(clip.activity_category or 'not given' for clip in clips)}; environments: "
                f"{_counted(clip.location_type.value for clip in clips)}; collectors: "
                f"{_counted(clip.collector_id or 'not given' for clip in clips)}."
            )
        kinds = _counted(one.kind.value for one in selection.omitted.values())
        raise ConfigurationError(
            f"No clip may be delivered: {kinds or 'there are no clips'}. `--dry-run` says why for each of them."
        )

    def root(self, name: str) -> Path:
        """Folder of a delivery's versions."""
        return self.settings.deliveries / name

    def _write(
        self,
        selection: Selection,
        splits: Mapping[str, str],
        taken_versions: Collection[str],
        progress: ProgressCallback,
    ) -> WrittenDelivery:
        """Write a version that holds the chosen clips."""
        from ego_assets.delivered_files import OpenFiles
        from ego_assets.delivery import dataset
        from ego_assets.delivery.card import dataset_card
        from ego_assets.recall import recall_of

        definition = selection.definition
        root = self.root(definition.name)
        renderings = {one.clip.clip_id: one.data_versions.get(PRIVACY_LAYER, "") for one in selection.clips}
        counted = Counter(one.kind.value for one in selection.omitted.values())
        damaged = {
            clip_id: omission.layers
            for clip_id, omission in selection.omitted.items()
            if omission.kind is OmissionKind.DAMAGED
        }
        with OpenFiles(self.store) as files:
            clips = self._delivered(selection, splits, files)

            def card(rows: Iterable[Mapping[str, Any]], **facts: Any) -> str:
                return dataset_card(
                    rows,
                    detected=_detected(clips),
                    measured_recall=recall_of(renderings, self.database),
                    **facts,
                )

            return dataset.write_delivery(
                root,
                definition,
                clips,
                recorded_versions=taken_versions,
                corrections=self._needed_corrections(selection),
                left_out=dataset.LeftOut(counts=counted, damaged=damaged),
                before_writing=partial(self._require_intact, selection),
                require_space=partial(
                    require_space,
                    root,
                    reserve_bytes=self.settings.free_disk_reserve_bytes,
                    what="The delivery",
                ),
                card=card,
                progress=progress,
            )

    def _require_intact(self, selection: Selection) -> None:
        """Compare what formats are written from with its digests; the folder format does so while it copies."""
        if set(selection.definition.formats) == {"folder"}:
            return
        damaged = record_damaged(selection, self.database, self.store)
        if damaged:
            raise ArtifactCorrupted(" ".join(damaged))

    def _delivered(
        self, selection: Selection, splits: Mapping[str, str], files: OpenFiles
    ) -> list[DeliveredClip]:
        """The chosen clips as the formats read them; their content stays in the store."""
        return [
            self._delivered_clip(chosen, selection.definition, splits, files) for chosen in selection.clips
        ]

    def _delivered_clip(
        self,
        chosen: DeliverableClip,
        definition: DeliveryDefinition,
        splits: Mapping[str, str],
        files: OpenFiles,
    ) -> DeliveredClip:
        from ego_assets.assets import ENRICHMENT
        from ego_assets.assets.clip_package import package_name
        from ego_assets.delivered_files import StoreClipFiles, StoredMetadata
        from ego_assets.delivery.clip_source import ClipArchive, DeliveredClip

        clip, archive = chosen.clip, package_name(chosen.clip.clip_id)
        row = json.loads(self.store.read_bytes(chosen.manifest, "manifest.json"))["row"]
        return DeliveredClip(
            clip_id=clip.clip_id,
            row={
                **row,
                "recording_date": clip.recording_date,
                "privacy_status": clip.privacy_status.value,
                "split": splits[clip.collector_id] if definition.split else None,
            },
            metadata=StoredMetadata(files, chosen.package),
            data_versions=chosen.data_versions,
            package_sha256=chosen.package.file(archive).sha256,
            files=StoreClipFiles(files, package=chosen.package, specs=[spec for spec, _ in ENRICHMENT]),
            archive=ClipArchive(
                entry=chosen.package.file(archive), open=partial(self.store.open, chosen.package, archive)
            ),
        )

    def _splits(self, selection: Selection) -> dict[str, str]:
        """Split by collector, of this version and of everybody who was in an earlier one."""
        from ego_assets.delivery.splits import assign_splits

        recorded = self._recorded(selection.definition.name)
        before: dict[str, str] = dict(recorded[-1].definition.get("splits", {})) if recorded else {}
        if selection.definition.split is None:
            return before
        duration_s: defaultdict[str, float] = defaultdict(float)
        for chosen in selection.clips:
            duration_s[chosen.clip.collector_id] += chosen.clip.duration_s or 0.0
        assigned = assign_splits(
            duration_s, selection.definition.split, seed=selection.definition.seed, before=before
        )
        return {**before, **assigned}

    def _record(self, selection: Selection, splits: Mapping[str, str], written: WrittenDelivery) -> None:
        definition = selection.definition
        self.database.add_delivery(
            name=definition.name,
            version=written.version,
            uri=str(written.folder),
            definition={
                **definition.to_dict(),
                "left_out": dict(selection.left_out),
                "splits": dict(splits),
            },
            bytes=written.bytes,
            clips={chosen.clip.clip_id: chosen.data_versions for chosen in selection.clips},
        )

    def _recorded(self, name: str) -> list[Delivery]:
        """The recorded versions of a delivery, oldest first."""
        return [made for made in self.database.deliveries() if made.name == name]

    def publish(self, folder: Path, *, corrections: bool = False) -> str:
        """Copy a version to the bucket, where one is set; a copy that was interrupted is continued."""
        if not self.settings.deliveries_url:
            return ""
        from resources.deliveries import PublishedDeliveries

        published = PublishedDeliveries(self.settings.deliveries_url, self.settings.store_access)
        if corrections:
            published.publish_corrections(folder.parent)
        return published.publish(folder)

    # --- corrections ----------------------------------------------------------------------------------

    def outdated(self) -> dict[str, str]:
        """Deliveries beside the default one that hold what must be corrected, each with the reason."""
        found = {}
        for name, newest in self._newest().items():
            if name != DELIVERY_NAME and (reason := self._why_corrected(newest)):
                found[name] = reason
        return found

    def correct_all(self) -> list[MadeDelivery]:
        """Write corrected versions of the deliveries beside the default one, as far as there is something to correct.

        A corrected version has the clips of earlier versions, as they are now: without those that were withdrawn and
        with those that were replaced. New clips come in only when somebody asks for the delivery again.
        """
        from ego_assets.delivery import dataset

        made = []
        for name, newest in self._newest().items():
            if name == DELIVERY_NAME:
                continue
            definition = definition_of(newest)
            if reason := self._why_corrected(newest):
                self.log(f"Delivery {name} is corrected: {reason}")
                made.append(self.make(definition, only=self._ever(name)))
                continue
            root = self.root(name)
            needed = self._needed_corrections(self.select(definition, only=self._ever(name)))
            if needed and root.is_dir():
                versions = [version.version for version in self._recorded(name)]
                with dataset.alone(root):
                    added = dataset.add_corrections(
                        root, needed, version=dataset.next_version(root, versions)
                    )
                if added:
                    self._publish_corrections(root)
        return made

    def _newest(self) -> dict[str, Delivery]:
        return {made.name: made for made in self.database.deliveries()}

    def _ever(self, name: str) -> set[str]:
        """Ids of all clips that any version of a delivery had."""
        return {
            clip.clip_id for made in self._recorded(name) for clip in self.database.delivery_clips(made.id)
        }

    def _why_corrected(self, newest: Delivery) -> str:
        """What in the newest version must be corrected; empty when nothing."""
        from ego_assets.delivery.recall import recalled_entries

        selection = self.select(definition_of(newest), only=self._ever(newest.name))
        present = {one.clip.clip_id: one.data_versions.get(PRIVACY_LAYER) for one in selection.clips}
        delivered = {
            clip.clip_id: clip.data_versions.get(PRIVACY_LAYER)
            for clip in self.database.delivery_clips(newest.id)
        }
        recalled = recalled_entries(Path(newest.uri))
        taken_back = {entry.get("clip_id") for entry in recalled if entry.get("by") == BY_SENDER}
        if delivered and delivered.keys() <= taken_back:
            # It was taken back as a whole, and comes back only when somebody asks for it.
            return ""
        leaked = [entry["clip_id"] for entry in recalled if entry.get("by") != BY_SENDER]
        if leaked:
            return f"clip {leaked[0]} was recalled, and files went with it"
        for clip_id, version in delivered.items():
            omission = selection.omitted.get(clip_id)
            if omission is not None and omission.kind in _CORRECTED:
                return f"clip {clip_id}: {omission.reason}"
            if clip_id in present and present[clip_id] != version:
                return f"clip {clip_id} was de-identified anew"
        withdrawn = {entry.clip_id for entry in self._corrections(newest.name) if entry.action == "withdrawn"}
        back = sorted((withdrawn & present.keys()) - delivered.keys())
        return f"clip {back[0]} may be delivered again" if back else ""

    def _corrections(self, name: str) -> list[Any]:
        from ego_assets.delivery.corrections import CORRECTIONS, read_corrections

        return list(read_corrections(self.root(name) / CORRECTIONS))

    def _taken_back(self, name: str) -> set[str]:
        """Clips that somebody took back from this delivery for good."""
        return {
            entry.clip_id
            for entry in self._corrections(name)
            if entry.reason == "taken back from this delivery"
        }

    def _needed_corrections(self, selection: Selection) -> list[NeededCorrection]:
        """What consumers of earlier versions have to know, whether it is on the list already or not."""
        from ego_assets.delivery.corrections import NeededCorrection

        name = selection.definition.name
        recorded = self._recorded(name)
        if not recorded:
            return []
        needed = []
        for clip in self.database.clips():
            if not clip.withdrawn and self.database.open_incident(clip.clip_id) is None:
                continue
            leaked = not clip.withdrawn or clip.withdrawn_reason.startswith(INCIDENT_WITHDRAWAL)
            reason: CorrectionReason = "privacy incident" if leaked else "withdrawn from the collection"
            if last := self._versions_with(clip.clip_id, name):
                needed.append(
                    NeededCorrection(
                        clip_id=clip.clip_id, action="withdrawn", reason=reason, last_version=last[-1][0]
                    )
                )
        newest = {clip.clip_id: clip.data_versions for clip in self.database.delivery_clips(recorded[-1].id)}
        for chosen in selection.clips:
            clip_id, rendering = chosen.clip.clip_id, chosen.data_versions.get(PRIVACY_LAYER)
            if clip_id in newest and newest[clip_id].get(PRIVACY_LAYER) == rendering:
                continue
            other = [version for version, shown in self._versions_with(clip_id, name) if shown != rendering]
            if other:
                needed.append(
                    NeededCorrection(
                        clip_id=clip_id,
                        action="replaced",
                        reason="de-identified anew",
                        last_version=other[-1],
                    )
                )
        return needed

    def _versions_with(self, clip_id: str, name: str) -> list[tuple[str, str | None]]:
        """Versions of a delivery that had a clip, oldest first, each with the rendering that it showed."""
        return [
            (made.version, clip.data_versions.get(PRIVACY_LAYER))
            for made, clip in self.database.deliveries_of(clip_id)
            if made.name == name
        ]

    def _publish_corrections(self, root: Path) -> None:
        if self.settings.deliveries_url:
            from resources.deliveries import PublishedDeliveries

            PublishedDeliveries(self.settings.deliveries_url, self.settings.store_access).publish_corrections(
                root
            )

    # --- taking back ----------------------------------------------------------------------------------

    def versions(self, name: str, version: str = "") -> list[Delivery]:
        """The recorded versions of a delivery, or one of them.

        Raises:
            UnknownDelivery: There is none; the message says what exists.
        """
        recorded = self._recorded(name)
        if not recorded:
            names = ", ".join(sorted(self._newest())) or "none yet"
            raise UnknownDelivery(f"There is no delivery {name!r}. There are: {names}.")
        found = [made for made in recorded if not version or made.version == version]
        if not found:
            known = ", ".join(made.version for made in recorded)
            raise UnknownDelivery(f"Delivery {name} has no version {version!r}. There are: {known}.")
        return found

    def take_back(
        self, name: str, *, version: str = "", clip_ids: Sequence[str] = (), actor: str
    ) -> dict[str, list[str]]:
        """Take clips out of a delivery for good, or whole versions.

        Clips leave all versions, or the one that is named, and no later version has them. Of a version that is taken
        back as a whole, the record, the manifest and the card stay, and say so.

        Args:
            name: The delivery.
            version: One version; empty for all.
            clip_ids: The clips; none for everything in these versions.
            actor: Who.

        Returns:
            What was removed, by version.

        Raises:
            UnknownDelivery: There is no such delivery or version.
            ConfigurationError: A clip was never in it.
        """
        from ego_assets.delivery import dataset
        from ego_assets.delivery.corrections import NeededCorrection
        from ego_assets.delivery.recall import recall_clip

        versions, root = self.versions(name, version), self.root(name)
        held = {
            made.id: {clip.clip_id for clip in self.database.delivery_clips(made.id)} for made in versions
        }
        strange = set(clip_ids) - set().union(*held.values())
        if strange:
            raise ConfigurationError(
                f"Not in {name}: {', '.join(sorted(strange))}. See `ego-assets deliveries show`."
            )
        removed: dict[str, list[str]] = {}
        root.mkdir(parents=True, exist_ok=True)
        with dataset.alone(root):
            if clip_ids:
                last = versions[-1].version
                needed = [
                    NeededCorrection(
                        clip_id=clip_id,
                        action="withdrawn",
                        reason="taken back from this delivery",
                        last_version=last,
                    )
                    for clip_id in clip_ids
                ]
                recorded = [made.version for made in self._recorded(name)]
                dataset.add_corrections(root, needed, version=dataset.next_version(root, recorded))
            for made in versions:
                folder = Path(made.uri)
                if not folder.is_dir():
                    continue
                chosen = [
                    clip_id for clip_id in clip_ids or sorted(held[made.id]) if clip_id in held[made.id]
                ]
                names: list[str] = []
                for clip_id in chosen:
                    names += recall_clip(folder, clip_id, reason={"by": BY_SENDER}, take=_remove)
                removed[made.version] = names
            for staged in root.glob(".staging-*"):
                shutil.rmtree(staged, ignore_errors=True)
        for made in versions:
            what = ", ".join(clip_ids) or "all clips"
            self.database.write_audit(
                actor=actor, action="delivery.withdraw", clip_id="", detail=f"{name} {made.version}: {what}"
            )
            if Path(made.uri).is_dir():
                self.publish(Path(made.uri), corrections=True)
        return removed


def require_name(definition: DeliveryDefinition) -> None:
    """Refuse the name of the default delivery.

    Raises:
        ConfigurationError: It has that name.
    """
    if definition.name == DELIVERY_NAME:
        raise ConfigurationError(
            f"name: {DELIVERY_NAME!r} is the delivery of all clips, which `ego-assets run` makes. Choose another name."
        )


def definition_of(delivery: Delivery) -> DeliveryDefinition:
    """What a recorded version was asked to hold."""
    values = {key: value for key, value in delivery.definition.items() if key not in ("left_out", "splits")}
    if "formats" not in values:
        # Recorded before there were definitions: the default delivery.
        return replace(DATASET, name=delivery.name)
    return DeliveryDefinition.from_dict(values)


def _detected(clips: Iterable[DeliveredClip]) -> dict[str, int]:
    """What the privacy pass found in these clips, by kind."""
    suffix = "_detections"
    found: Counter[str] = Counter()
    for clip in clips:
        for name, count in clip.metadata.get("privacy", {}).items():
            if name.endswith(suffix) and isinstance(count, int | float) and math.isfinite(count):
                found[name.removesuffix(suffix)] += int(count)
    return dict(found)


def _counted(values: Iterable[str]) -> str:
    return ", ".join(f"{value} ({count})" for value, count in Counter(values).most_common())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
