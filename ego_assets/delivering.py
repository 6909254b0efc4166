"""Which clips may be delivered now, and why the others may not."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from ego_assets.choosing import clips_where
from ego_assets.delivery.definition import DeliveryDefinition
from ego_assets.execution import LayerState, layers_done_without, record_damage
from ego_assets.reviewing import correction_pending
from ego_assets.schema.artifact import ArtifactDocument
from ego_assets.schema.clip import PRIVACY_LAYER, Clip
from ego_assets.schema.errors import ArtifactCorrupted, ArtifactMissing
from ego_assets.schema.incidents import INCIDENT_WITHDRAWAL
from ego_assets.schema.vocabulary import PrivacyStatus, ReviewKind, ReviewRisk

if TYPE_CHECKING:
    from resources.database import Database, ReviewItem
    from resources.storage import ArtifactStore

#: Name of the delivery that holds every clip that may be delivered.
DELIVERY_NAME = "dataset"
#: What it holds: doubtful single sightings occur in most real clips, so that only reviews of high risk hold one back.
DATASET = DeliveryDefinition(name=DELIVERY_NAME, include_unreviewed=True)


class OmissionKind(StrEnum):
    """Why a clip is not in a delivery, as the dataset card counts it."""

    FILTER = "outside the filter"
    WITHDRAWN = "withdrawn"
    TAKEN_BACK = "taken back from this delivery"
    INCIDENT = "in a privacy incident"
    DUPLICATE = "the same as another"
    STOPPED = "stopped at a gate"
    HELD = "held back"
    REVIEW = "under privacy review"
    UNREADY = "not finished"
    DAMAGED = "damaged"


@dataclass(frozen=True, kw_only=True)
class Omission:
    """Why one clip is not in a delivery.

    Attributes:
        kind: Kind of reason.
        reason: What happened and what to do.
        layers: Layers that are damaged.
    """

    kind: OmissionKind
    reason: str
    layers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DeliverableClip:
    """A clip that may be delivered, with what is delivered of it.

    Attributes:
        clip: The clip.
        package: Its committed ``clip_package``.
        manifest: Its committed ``manifest``.
    """

    clip: Clip
    package: ArtifactDocument
    manifest: ArtifactDocument

    @property
    def data_versions(self) -> Mapping[str, str]:
        """Data version of the package and of every layer inside."""
        return {"clip_package": self.package.data_version, **self.package.inputs}


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a delivery made now would hold.

    Attributes:
        definition: What was asked for.
        clips: Clips that may be delivered, oldest first.
        omitted: Why each other clip is not among them, by id.
    """

    definition: DeliveryDefinition
    clips: tuple[DeliverableClip, ...]
    omitted: Mapping[str, Omission]

    @property
    def left_out(self) -> Mapping[str, str]:
        """Reason by id of every clip that fits and is not chosen."""
        return {
            clip_id: omission.reason
            for clip_id, omission in self.omitted.items()
            if omission.kind is not OmissionKind.FILTER
        }


def select_clips(
    database: Database,
    store: ArtifactStore,
    definition: DeliveryDefinition | None = None,
    *,
    only: Collection[str] | None = None,
    taken_back: Collection[str] = (),
) -> Selection:
    """Choose the clips whose gates passed, whose package is that of their present layers, and that nobody holds.

    Args:
        database: What is known of the clips.
        store: Holds their layers.
        definition: What is asked for; the default delivery where it is not given.
        only: Ids of clips to choose from; ``None`` for all.
        taken_back: Ids of clips that were taken back from this delivery.

    Raises:
        FilterError: The filter cannot be read.
    """
    from ego_assets.assets import LAYERS

    asked = definition or DATASET
    known = [clip for clip in database.clips() if only is None or clip.clip_id in only]
    layers = [spec.name for spec, _ in LAYERS]
    fitting = {
        clip.clip_id
        for clip in clips_where(asked.where, known, layers=layers, database=database, store=store)
    }
    clips: list[DeliverableClip] = []
    omitted: dict[str, Omission] = {}
    for clip in known:
        if clip.clip_id not in fitting:
            omitted[clip.clip_id] = Omission(kind=OmissionKind.FILTER, reason="it does not fit the filter")
            continue
        if clip.clip_id in taken_back:
            omitted[clip.clip_id] = Omission(
                kind=OmissionKind.TAKEN_BACK, reason="it was taken back from this delivery"
            )
            continue
        found = _deliverable(clip, asked, database, store)
        if isinstance(found, DeliverableClip):
            clips.append(found)
        else:
            omitted[clip.clip_id] = found
    return Selection(definition=asked, clips=tuple(clips), omitted=omitted)


def changed_since(selection: Selection, database: Database, store: ArtifactStore) -> dict[str, str]:
    """The chosen clips that may not be delivered any more as they were chosen, each with the reason.

    Call it in the transaction that records the delivery: it keeps other writers away from the clips, so that what is
    found in them from then on is found in something delivered.
    """
    changed: dict[str, str] = {}
    database.lock_clips(chosen.clip.clip_id for chosen in selection.clips)
    for chosen in selection.clips:
        clip_id = chosen.clip.clip_id
        try:
            rendering = store.document(clip_id, PRIVACY_LAYER)
            omission = _reason_to_leave_out(database.clip(clip_id), selection.definition, database)
            reason = omission.reason if omission is not None else ""
            if not reason:
                reason = _reason_of_rendering(clip_id, rendering, database)
            if not reason and chosen.data_versions.get(PRIVACY_LAYER) != _data_version(rendering):
                reason = "it was de-identified anew while the delivery was written"
        except (ArtifactCorrupted, ArtifactMissing) as error:
            reason = str(error)
        if reason:
            changed[clip_id] = reason
    return changed


def record_damaged(selection: Selection, database: Database, store: ArtifactStore) -> list[str]:
    """Compare what is delivered with its digests; what differs is recorded, so that the next run makes it again.

    The files of the layers are compared where a format is written from them and not from the package.

    Returns:
        What is damaged, in words; the clips are left out of the next selection.
    """
    damaged = []
    for chosen in selection.clips:
        documents = [chosen.package, chosen.manifest]
        for layer in _layers_read(selection.definition):
            try:
                document = store.document(chosen.clip.clip_id, layer)
            except ArtifactCorrupted as error:
                record_damage(database, chosen.clip.clip_id, layer, str(error))
                damaged.append(str(error))
                continue
            if document is not None and chosen.package.inputs.get(layer) == document.data_version:
                documents.append(document)
        for document in documents:
            try:
                store.verify(document)
            except ArtifactCorrupted as error:
                record_damage(database, document.clip_id, document.layer, str(error))
                damaged.append(str(error))
    return damaged


def _layers_read(definition: DeliveryDefinition) -> tuple[str, ...]:
    """Layers whose files are read when a delivery is written, beside the package."""
    from ego_assets.assets import ENRICHMENT

    if set(definition.formats) == {"folder"}:
        return ()
    return tuple(spec.name for spec, _ in ENRICHMENT if spec.deliver is not None)


def _deliverable(
    clip: Clip, definition: DeliveryDefinition, database: Database, store: ArtifactStore
) -> DeliverableClip | Omission:
    """The clip as it may be delivered, or why it may not."""
    omission = _reason_to_leave_out(clip, definition, database)
    if omission is not None:
        return omission

    def unready(reason: str) -> Omission:
        return Omission(kind=OmissionKind.UNREADY, reason=reason)

    try:
        package = store.document(clip.clip_id, "clip_package")
        manifest = store.document(clip.clip_id, "manifest")
        if package is None or manifest is None:
            return unready("it is not packaged yet")
        states = database.layer_states(clip.clip_id)
        read = {package.layer, manifest.layer, *_layers_read(definition)}
        damaged = [state for state in states if state.state == LayerState.DAMAGED and state.layer in read]
        if damaged:
            return Omission(
                kind=OmissionKind.DAMAGED,
                reason=f"{damaged[0].reason} The next `ego-assets run` does so.",
                layers=tuple(state.layer for state in damaged),
            )
        left_out = layers_done_without(states)
        for layer in package_inputs():
            present = None if layer in left_out else store.document(clip.clip_id, layer)
            if package.inputs.get(layer) != _data_version(present):
                return unready(f"{layer} has changed since it was packaged: use `ego-assets run`")
            if layer == PRIVACY_LAYER and (reason := _reason_of_rendering(clip.clip_id, present, database)):
                return unready(reason)
        for document in (package, manifest):
            for entry in document.files:
                store.open(document, entry.name).close()
    except (ArtifactCorrupted, ArtifactMissing) as error:
        return Omission(kind=OmissionKind.DAMAGED, reason=str(error))
    return DeliverableClip(clip=clip, package=package, manifest=manifest)


def package_inputs() -> tuple[str, ...]:
    """All layers that a package is made of, present or not."""
    from ego_assets.assets import LAYERS

    return next((*spec.inputs, *spec.optional_inputs) for spec, _ in LAYERS if spec.name == "clip_package")


def _data_version(document: ArtifactDocument | None) -> str | None:
    return None if document is None else document.data_version


def _reason_of_rendering(clip_id: str, rendering: ArtifactDocument | None, database: Database) -> str:
    """Why the clip's blurred video keeps it out; empty when it does not."""
    if rendering is not None and correction_pending(clip_id, rendering, database):
        return "something was found that is not covered yet: use `ego-assets run`"
    return ""


def _reason_to_leave_out(clip: Clip, definition: DeliveryDefinition, database: Database) -> Omission | None:
    """Why the clip's state keeps it out; ``None`` when it does not."""
    if clip.withdrawn:
        leaked = clip.withdrawn_reason.startswith(INCIDENT_WITHDRAWAL)
        return Omission(
            kind=OmissionKind.INCIDENT if leaked else OmissionKind.WITHDRAWN,
            reason=f"it was withdrawn: {clip.withdrawn_reason}",
        )
    incident = database.open_incident(clip.clip_id)
    if incident is not None:
        return Omission(
            kind=OmissionKind.INCIDENT,
            reason=f"privacy incident {incident} is not resolved: see `ego-assets incident show {incident}`",
        )
    if clip.duplicate_of:
        return Omission(kind=OmissionKind.DUPLICATE, reason=f"it is a duplicate of {clip.duplicate_of}")
    if clip.failed:
        return Omission(kind=OmissionKind.STOPPED, reason=clip.failed_reason)
    if clip.held:
        return Omission(kind=OmissionKind.HELD, reason=f"it is held: {clip.held_reason}")
    if clip.privacy_status not in (PrivacyStatus.BLURRED, PrivacyStatus.REVIEWED):
        return Omission(kind=OmissionKind.UNREADY, reason="it is not de-identified")
    holding = [item for item in database.review_items("open", clip.clip_id) if holds_back(item, definition)]
    if holding:
        return Omission(kind=OmissionKind.REVIEW, reason=f"a review is open: {holding[0].reason}")
    return None


def holds_back(item: ReviewItem, definition: DeliveryDefinition) -> bool:
    """Whether an open review keeps its clip out of a delivery: the one rule, for every delivery.

    High risk always does. Of normal risk, what the privacy pass was unsure of does, unless the delivery includes
    unreviewed clips. The random sample that is drawn from every clip measures the pass as a whole and holds nothing
    back, and reviews that are not about privacy do not either.
    """
    if item.risk == ReviewRisk.HIGH:
        return True
    unsure = item.kind in (ReviewKind.PII_DENSITY, ReviewKind.PII_LOW_CONFIDENCE, ReviewKind.PII_LEAK)
    return unsure and not definition.include_unreviewed
