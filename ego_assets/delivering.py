"""Which clips may be delivered now, and why the others may not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ego_assets.execution import LayerState, layers_done_without, record_damage
from ego_assets.reviewing import correction_pending
from ego_assets.schema.artifact import ArtifactDocument
from ego_assets.schema.clip import PRIVACY_LAYER, Clip
from ego_assets.schema.errors import ArtifactCorrupted, ArtifactMissing
from ego_assets.schema.vocabulary import PrivacyStatus, ReviewRisk

if TYPE_CHECKING:
    from resources.database import Database
    from resources.storage import ArtifactStore

#: Name of the delivery that holds every clip that may be delivered.
DELIVERY_NAME = "dataset"


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
        clips: Clips that may be delivered, oldest first.
        left_out: Reason by id of every other clip.
    """

    clips: tuple[DeliverableClip, ...]
    left_out: Mapping[str, str]


def select_clips(database: Database, store: ArtifactStore) -> Selection:
    """Choose the clips whose gates passed, whose package is that of their present layers, and that nobody holds."""
    clips: list[DeliverableClip] = []
    left_out: dict[str, str] = {}
    for clip in database.clips():
        found = _deliverable(clip, database, store)
        if isinstance(found, DeliverableClip):
            clips.append(found)
        else:
            left_out[clip.clip_id] = found
    return Selection(clips=tuple(clips), left_out=left_out)


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
            reason = _reason_to_leave_out(database.clip(clip_id), database)
            if not reason:
                reason = _reason_of_rendering(clip_id, rendering, database)
            if not reason and chosen.data_versions.get(PRIVACY_LAYER) != _data_version(rendering):
                reason = "it was de-identified anew while the delivery was written"
        except (ArtifactCorrupted, ArtifactMissing) as error:
            reason = str(error)
        if reason:
            changed[clip_id] = reason
    return changed


def record_damaged_packages(selection: Selection, database: Database, store: ArtifactStore) -> list[str]:
    """Compare what is delivered with its digests; what differs is recorded, so that the next run makes it again.

    Returns:
        What is damaged, in words; the clips are left out of the next selection.
    """
    damaged = []
    for chosen in selection.clips:
        for document in (chosen.package, chosen.manifest):
            try:
                store.verify(document)
            except ArtifactCorrupted as error:
                record_damage(database, document.clip_id, document.layer, str(error))
                damaged.append(str(error))
    return damaged


def _deliverable(clip: Clip, database: Database, store: ArtifactStore) -> DeliverableClip | str:
    """The clip as it may be delivered, or why it may not."""
    reason = _reason_to_leave_out(clip, database)
    if reason:
        return reason
    try:
        package = store.document(clip.clip_id, "clip_package")
        manifest = store.document(clip.clip_id, "manifest")
        if package is None or manifest is None:
            return "it is not packaged yet"
        states = database.layer_states(clip.clip_id)
        for state in states:
            if state.state == LayerState.DAMAGED and state.layer in (package.layer, manifest.layer):
                return f"{state.reason} The next `ego-assets run` does so."
        left_out = layers_done_without(states)
        for layer in package_inputs():
            present = None if layer in left_out else store.document(clip.clip_id, layer)
            if package.inputs.get(layer) != _data_version(present):
                return f"{layer} has changed since it was packaged: use `ego-assets run`"
            if layer == PRIVACY_LAYER and (reason := _reason_of_rendering(clip.clip_id, present, database)):
                return reason
        for document in (package, manifest):
            for entry in document.files:
                store.open(document, entry.name).close()
    except (ArtifactCorrupted, ArtifactMissing) as error:
        return str(error)
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


def _reason_to_leave_out(clip: Clip, database: Database) -> str:
    """Why the clip's state keeps it out; empty when it does not."""
    if clip.withdrawn:
        return f"it was withdrawn: {clip.withdrawn_reason}"
    incident = database.open_incident(clip.clip_id)
    if incident is not None:
        return f"privacy incident {incident} is not resolved: see `ego-assets incident show {incident}`"
    if clip.duplicate_of:
        return f"it is a duplicate of {clip.duplicate_of}"
    if clip.failed:
        return clip.failed_reason
    if clip.held:
        return f"it is held: {clip.held_reason}"
    if clip.privacy_status not in (PrivacyStatus.BLURRED, PrivacyStatus.REVIEWED):
        return "it is not de-identified"
    risky = [item for item in database.review_items("open", clip.clip_id) if item.risk == ReviewRisk.HIGH]
    return f"a review is open: {risky[0].reason}" if risky else ""
