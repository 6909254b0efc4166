"""Answers privacy incidents: takes what leaked out of reach, has it made anew, and purges it.

Every step can be made again: a process that is killed between two of them is completed by the next
:meth:`IncidentDesk.advance`, which `ego-assets incident list` and the incidents sensor call.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ego_assets.execution import stopping_verdicts
from ego_assets.planning import ClipPlan, LayerPlan, plan_clip
from ego_assets.reviewing import remove_review_pages, settle_privacy_status
from ego_assets.schema.clip import PRIVACY_LAYER
from ego_assets.schema.corrections import Box, Correction, PiiKind, check_box, why_outside
from ego_assets.schema.errors import ArtifactCorrupted, EgoAssetsError
from ego_assets.schema.incidents import (
    INCIDENT_WITHDRAWAL,
    AffectedDelivery,
    Incident,
    IncidentState,
    QuarantinedVersion,
)
from ego_assets.schema.vocabulary import PrivacyStatus, ReviewKind, ReviewRisk
from ego_assets.settings import Settings, same_profile_command

if TYPE_CHECKING:
    from ego_assets.event_pictures import InstanceSource
    from ego_assets.project import Project
    from ego_assets.schema.layers import LayerSpec
    from resources.corrections import CorrectionLog
    from resources.database import Database
    from resources.incidents import IncidentLog
    from resources.storage import ArtifactStore
    from resources.vault import Quarantine, Vault

#: What asks for the review of an incident; no layer has this name.
REVIEW_SOURCE = "incident"
_DELIVERIES = "deliveries"


class IncidentRefused(EgoAssetsError):
    """An incident cannot be opened or closed; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class IncidentReport:
    """What a person found.

    Attributes:
        clip_id: The clip.
        kind: What was left uncovered.
        first_frame: First frame in which it shows, as numbered in the blurred video.
        last_frame: Last frame in which it shows, inclusive.
        box_xyxy: Where, in pixels of the upright full-size picture; ``None`` when not said.
        note: What was seen.
    """

    clip_id: str
    kind: PiiKind
    first_frame: int
    last_frame: int
    box_xyxy: Box | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.first_frame <= self.last_frame:
            raise ValueError(
                f"frames: expected 0 <= first <= last, got {self.first_frame} to {self.last_frame}"
            )
        if self.box_xyxy is not None:
            check_box(self.box_xyxy)

    def is_that_of(self, incident: Incident) -> bool:
        """Whether an incident was opened for the same finding."""
        return (self.clip_id, self.kind, self.first_frame, self.last_frame, self.box_xyxy) == (
            incident.clip_id,
            incident.kind,
            incident.first_frame,
            incident.last_frame,
            incident.box_xyxy,
        )


def layers_that_show(specs: Sequence[LayerSpec]) -> tuple[LayerSpec, ...]:
    """The privacy layer and all layers that are made from it, in the order of the chain."""
    showing: dict[str, LayerSpec] = {}
    for spec in sorted(specs, key=lambda item: item.stage):
        if spec.name == PRIVACY_LAYER or showing.keys() & {*spec.inputs, *spec.optional_inputs}:
            showing[spec.name] = spec
    return tuple(showing.values())


def incident_desk(project: Project) -> IncidentDesk:
    """The desk of a project on this machine."""
    return build_desk(
        settings=project.settings,
        specs=project.specs,
        database=project.database,
        store=project.store,
        vault=project.vault,
        instance=lambda: project.instance,
    )


def build_desk(
    *,
    settings: Settings,
    specs: Sequence[LayerSpec],
    database: Database,
    store: ArtifactStore,
    vault: Vault,
    instance: InstanceSource,
) -> IncidentDesk:
    """The desk over these services; ``instance`` is asked once pictures have to be removed from its log."""

    def remove_pictures(clip_id: str, layers: Sequence[str]) -> None:
        from ego_assets import event_pictures

        event_pictures.remove_pictures(instance(), clip_id, layers)

    return IncidentDesk(
        settings=settings,
        specs=specs,
        database=database,
        store=store,
        vault=vault,
        remove_pictures=remove_pictures,
    )


@dataclass(frozen=True, kw_only=True)
class IncidentDesk:
    """Opens, advances and closes incidents.

    Attributes:
        settings: Where deliveries and reports lie, and the profile of what is advised.
        specs: All layers.
        database: Keeps the record.
        store: Holds what leaked.
        vault: Takes it.
        remove_pictures: Removes the pictures of these layers of a clip from the orchestrator's log.
    """

    settings: Settings
    specs: Sequence[LayerSpec]
    database: Database
    store: ArtifactStore
    vault: Vault
    remove_pictures: Callable[[str, Sequence[str]], object]

    @property
    def log(self) -> IncidentLog:
        """The record of incidents."""
        from resources.incidents import IncidentLog

        return IncidentLog(self.database)

    # --- steps ----------------------------------------------------------------------------------------

    def open(self, report: IncidentReport, *, background: bool = False, actor: str) -> Incident:
        """Take a leaking clip out of reach at once.

        In one transaction the incident and the correction that it orders are recorded, the clip is withdrawn,
        and nothing of its layers counts as judged any more, so that no layer reads them. Then everything that
        shows the leak is moved into the vault. The same report of an incident that is not corrected yet goes on
        with that one.

        Args:
            report: What was found.
            background: The daemon makes the layers anew, not the caller.
            actor: Who.

        Raises:
            UnknownClip: There is no such clip.
            IncidentRefused: The clip shows nothing yet, or the frames or the box lie outside it.
        """
        self.database.clip(report.clip_id)
        shown = [
            spec.name
            for spec in layers_that_show(self.specs)
            if self.store.version_ids(report.clip_id, spec.name)
        ]
        with self.database.transaction():
            self.database.lock_clip(report.clip_id)
            unresolved = self.log.incidents(clip_id=report.clip_id, unresolved_only=True)
            same = [item.id for item in unresolved if item.corrected_at is None and report.is_that_of(item)]
            if same:
                incident_id = same[0]
                self.log.set_background(incident_id, background)
            else:
                incident_id = self._record(report, shown, unresolved, background, actor)
        return self.advance(incident_id)

    def advance(self, incident_id: int) -> Incident:
        """Do what can be done now: finish the quarantine; purge it when all layers were made anew."""
        if self.log.incident(incident_id).purged_at is not None:
            return self.log.incident(incident_id)
        with self.vault.quarantine(incident_id) as quarantine:
            # Another process may have been here while this one waited.
            incident = self.log.incident(incident_id)
            if incident.quarantined_at is None:
                incident = self._quarantine(incident, quarantine)
            if incident.corrected_at is None:
                plan = self._plan(incident.clip_id)
                if not _left_to_make(incident, plan):
                    incident = self._correct(incident, quarantine, plan)
            if incident.corrected_at is not None and incident.purged_at is None:
                incident = self._purge(incident, quarantine)
        return incident

    def advance_all(self, *, on_error: Callable[[Incident, Exception], None]) -> list[Incident]:
        """Advance every incident that is not resolved; returns them as they are then.

        ``on_error`` hears of an incident that has to wait; it does not hold up the others.
        """
        advanced = []
        for incident in self.log.incidents(unresolved_only=True):
            try:
                advanced.append(self.advance(incident.id))
            except (EgoAssetsError, OSError) as error:
                on_error(incident, error)
                advanced.append(self.log.incident(incident.id))
        return advanced

    def resolve(self, incident_id: int, *, note: str, actor: str) -> Incident:
        """Close an incident whose layers were made anew, and let the clip into deliveries again.

        The clip stays withdrawn while another incident of it is open, or when somebody withdrew it for another
        reason.

        Raises:
            IncidentError: It does not exist, or is resolved already.
            IncidentRefused: Something is left to do.
        """
        incident = self.advance(incident_id)
        if incident.purged_at is None:
            raise IncidentRefused(
                f"Incident {incident_id} of clip {incident.clip_id} is not corrected yet. "
                + " ".join(self.what_is_left(incident))
            )
        with self.database.transaction():
            self.database.lock_clip(incident.clip_id)
            incident = self.log.record_resolved(incident_id, resolution=note, actor=actor)
            clip = self.database.clip(incident.clip_id)
            others = [item.id for item in self.log.incidents(clip_id=clip.clip_id, unresolved_only=True)]
            if clip.withdrawn and clip.withdrawn_reason.startswith(INCIDENT_WITHDRAWAL):
                self.database.update_clip(
                    clip.clip_id, withdrawn=bool(others), withdrawn_reason=_withdrawal(others)
                )
            if not others:
                for item in self.database.review_items("open", clip.clip_id):
                    if item.layer == REVIEW_SOURCE:
                        self.database.resolve_review_item(item.id, resolution=note, actor=actor)
            # Its random sample may have been looked at meanwhile.
            settle_privacy_status(clip.clip_id, database=self.database, store=self.store)
            self._audit(incident, "incident.resolve", "the new video was watched", actor=actor)
        return incident

    def what_is_left(self, incident: Incident) -> list[str]:
        """What has to happen before the incident is over, in sentences."""
        if incident.state is IncidentState.RESOLVED:
            return []
        if incident.quarantined_at is None:
            return ["The leaking versions are not all in quarantine: run `ego-assets incident list` again."]
        if incident.corrected_at is None:
            plan = self._plan(incident.clip_id)
            left = _left_to_make(incident, plan)
            return [f"To be made anew: {', '.join(left)}. {self._advice(incident, plan)}"] if left else []
        if incident.purged_at is None:
            return ["The quarantined versions are not purged: run `ego-assets incident list` again."]
        return [
            f"Watch frames {incident.first_frame} to {incident.last_frame} of the new video, then close it with "
            f"`ego-assets incident resolve {incident.id} --note ...`."
        ]

    def layers_to_run(self, incident: Incident) -> list[str]:
        """Layers that a run has to make now, in order, those that failed before among them.

        None while the leaking versions are not all in quarantine, and when all were made anew.
        """
        if incident.state is not IncidentState.QUARANTINED:
            return []
        return self._plan(incident.clip_id, retry_failed=True).pending

    # --- opening --------------------------------------------------------------------------------------

    def _record(
        self,
        report: IncidentReport,
        shown: Sequence[str],
        unresolved: Sequence[Incident],
        background: bool,
        actor: str,
    ) -> int:
        """Write the incident and everything that follows from it at once."""
        clip = self.database.clip(report.clip_id)
        if not shown and not unresolved:
            raise IncidentRefused(
                f"Clip {clip.clip_id} has no {PRIVACY_LAYER} yet, so nothing of it can have leaked from here. "
                "Check the clip id with `ego-assets status`."
            )
        boxes = [] if report.box_xyxy is None else [report.box_xyxy]
        outside = why_outside(clip, last_frame=report.last_frame, boxes_xyxy=boxes)
        if outside:
            raise IncidentRefused(outside)
        layers = set(shown).union(*(item.layers for item in unresolved))
        ordered = [spec for spec in layers_that_show(self.specs) if spec.name in layers]
        incident_id = self.log.add(
            clip.clip_id,
            kind=report.kind,
            first_frame=report.first_frame,
            last_frame=report.last_frame,
            box_xyxy=report.box_xyxy,
            note=report.note,
            layers=[spec.name for spec in ordered],
            background=background,
            actor=actor,
        )
        incident = self.log.incident(incident_id)
        self._corrections.add(
            Correction(
                clip_id=clip.clip_id,
                kind=report.kind,
                first_frame=report.first_frame,
                last_frame=report.last_frame,
                box_xyxy=report.box_xyxy,
                origin=incident.origin,
                actor=actor,
                note=report.note,
            )
        )
        self.database.forget_layers(
            clip.clip_id, {spec.name: spec.bit for spec in layers_that_show(self.specs)}
        )
        stopping = stopping_verdicts(self.database, clip.clip_id)
        changes: dict[str, Any] = {
            "privacy_status": PrivacyStatus.PENDING,
            "failed": bool(stopping),
            "failed_reason": " ".join(f"{gate.layer}: {gate.message}" for gate in stopping),
        }
        if not clip.withdrawn or clip.withdrawn_reason.startswith(INCIDENT_WITHDRAWAL):
            numbers = [*(item.id for item in unresolved), incident_id]
            changes |= {"withdrawn": True, "withdrawn_reason": _withdrawal(numbers)}
        self.database.update_clip(clip.clip_id, **changes)
        where = f"frames {report.first_frame} to {report.last_frame}"
        self.database.add_review_item(
            clip.clip_id,
            layer=REVIEW_SOURCE,
            kind=ReviewKind.PII_LEAK,
            risk=ReviewRisk.HIGH,
            reason=f"Incident {incident_id}: {report.kind} uncovered in {where}. {report.note}".strip(),
            details={"incident": incident_id},
        )
        self._audit(incident, "incident.open", f"{report.kind} in {where}", actor=actor)
        return incident_id

    # --- quarantine -----------------------------------------------------------------------------------

    def _quarantine(self, incident: Incident, quarantine: Quarantine) -> Incident:
        """Move everything that shows the leak. No layer of the clip starts before this is recorded."""
        names = [spec.name for spec in layers_that_show(self.specs)]
        # From here on nobody finds a version, however long moving the files takes.
        for layer in names:
            self.store.revoke(incident.clip_id, layer)
        self.store.discard_staging(incident.clip_id)
        for layer in names:
            self._move_versions(incident, layer, quarantine)
        deliveries = self._recall(incident, quarantine)
        self._remove_reports(incident.clip_id)
        self.remove_pictures(incident.clip_id, names)
        quarantine.restrict()
        moved = self._moved(incident, quarantine)
        with self.database.transaction():
            incident = self.log.record_quarantined(incident.id, versions=moved, deliveries=deliveries)
            self._audit(
                incident,
                "incident.quarantine",
                f"{len(incident.quarantined)} version(s), {len(incident.deliveries)} delivery version(s)",
            )
        return incident

    def _move_versions(
        self, incident: Incident, layer: str, quarantine: Quarantine, *, keep: str = ""
    ) -> None:
        """Move the versions of a layer but ``keep``, the current one; without it there is no current one after."""
        for version_id in self.store.version_ids(incident.clip_id, layer):
            if version_id != keep:
                if not keep:
                    # A layer that was about to publish when its pointer was taken away may have put it back.
                    self.store.revoke(incident.clip_id, layer)

                def take(folder: Path, version_id: str = version_id) -> None:
                    quarantine.take(folder, layer, version_id)

                self.store.move_version(incident.clip_id, layer, version_id, take=take)

    def _moved(self, incident: Incident, quarantine: Quarantine) -> list[QuarantinedVersion]:
        """The versions that lie in the quarantine, whichever process moved them."""
        known = {
            (record.layer, record.version_id): record.data_version
            for record in self.database.artifacts(incident.clip_id, current_only=False)
        }
        found = {tuple(name.split("/")[:2]) for name in quarantine.names()}
        versions = {
            (layer, folder.partition("-")[0])
            for layer, folder in found
            if layer != _DELIVERIES and not folder.startswith(".")
        }
        return [
            QuarantinedVersion(layer=layer, version_id=version, data_version=known.get((layer, version), ""))
            for layer, version in sorted(versions)
        ]

    def _recall(self, incident: Incident, quarantine: Quarantine) -> list[AffectedDelivery]:
        """Take the clip out of every delivery on this machine, and say so there."""
        from ego_assets.delivery import dataset
        from ego_assets.delivery.formats import files_holding
        from ego_assets.delivery.recall import recall_clip

        roots = {root.resolve() for root in _folders(self.settings.deliveries)}
        affected = set()
        #: By folder: deliveries of the same name may lie below different roots.
        recorded: dict[Path, AffectedDelivery] = {}
        for delivery, _ in self.database.deliveries_of(incident.clip_id):
            known = AffectedDelivery(name=delivery.name, version=delivery.version)
            affected.add(known)
            folder = Path(delivery.uri)
            if folder.is_dir():
                folder = folder.resolve()
                recorded[folder] = known
                roots.add(folder.parent)
        for root in sorted(roots):
            with dataset.alone(root):
                # A half-written version may show it anywhere, and is written again anyway.
                for staged in root.glob(".staging-*"):
                    for path in files_holding(staged, incident.clip_id):
                        _quarantined(quarantine, root, staged, path)
                    shutil.rmtree(staged, ignore_errors=True)
                held = [
                    folder
                    for folder in _folders(root)
                    if folder in recorded
                    or files_holding(folder, incident.clip_id)
                    or _is_recalled(folder, incident)
                ]
                for folder in held:
                    unrecorded = AffectedDelivery(name=root.name, version=folder.name)
                    affected.add(recorded.get(folder, unrecorded))
                    recall_clip(
                        folder,
                        incident.clip_id,
                        reason={"incident": incident.id},
                        take=partial(_quarantined, quarantine, root, folder),
                    )
                # Consumers hear of it at once; the next run writes a corrected version.
                dataset.withdraw_clip(
                    root,
                    incident.clip_id,
                    versions=[folder.name for folder in held],
                    recorded=[made.version for made in self.database.deliveries() if made.name == root.name],
                    reason="privacy incident",
                )
        affected.update(self._recall_published(incident.clip_id))
        return sorted(affected, key=lambda delivery: (delivery.name, delivery.version))

    def _recall_published(self, clip_id: str) -> list[AffectedDelivery]:
        """Take the clip out of the copies in the bucket, where one is set."""
        if not self.settings.deliveries_url:
            return []
        from resources.deliveries import PublishedDeliveries

        published = PublishedDeliveries(self.settings.deliveries_url, self.settings.store_access)
        found = [copy.split("/") for copy in published.recall(clip_id, self.settings.deliveries)]
        for root in _folders(self.settings.deliveries):
            published.publish_corrections(root)
        return [AffectedDelivery(name=name, version=version) for name, version in found]

    def _remove_reports(self, clip_id: str) -> None:
        """Remove the reports that embed pictures of all clips, which the next run writes anew, and the clip's own."""
        for path in list(self.settings.reports.glob("*.html*")) + list(
            self.settings.reports.glob(".*.html*")
        ):
            path.unlink(missing_ok=True)
        remove_review_pages(self.settings.reports, clip_id)

    # --- correction -----------------------------------------------------------------------------------

    def _plan(self, clip_id: str, *, retry_failed: bool = False) -> ClipPlan:
        return plan_clip(
            clip_id,
            self.specs,
            database=self.database,
            store=self.store,
            retry_failed=retry_failed,
            # What is out of reach for now shows nothing, and holds no incident open.
            retry_postponed=retry_failed,
        )

    def _advice(self, incident: Incident, plan: ClipPlan) -> str:
        """What to do so that the layers are made anew."""
        if not plan.reason:
            return f"Use `{same_profile_command(f'run --clip {incident.clip_id}', self.settings)}`."
        if plan.pending or not self._plan(incident.clip_id, retry_failed=True).pending:
            return plan.reason
        retry = same_profile_command(f"run --retry-failed --clip {incident.clip_id}", self.settings)
        return f"{plan.reason} Try again with `{retry}`."

    def _correct(self, incident: Incident, quarantine: Quarantine, plan: ClipPlan) -> Incident:
        """Record that nothing is left to make; a run that was killed may have left versions from before."""
        self.store.discard_staging(incident.clip_id)
        made = []
        for spec in layers_that_show(self.specs):
            try:
                document = self.store.document(incident.clip_id, spec.name)
            except ArtifactCorrupted:
                document = None
            judged = {gate.data_version for gate in self.database.gates(incident.clip_id, spec.name)}
            if document is None or judged != {document.data_version}:
                self.store.revoke(incident.clip_id, spec.name)
                document = None
            else:
                made.append(spec.name)
            keep = document.version_id if document is not None else ""
            self._move_versions(incident, spec.name, quarantine, keep=keep)
        moved = self._moved(incident, quarantine)
        given_up = [layer for layer in incident.layers if layer not in made]
        if plan.withdrawn:
            detail = f"nothing is made anew any more: {plan.reason}"
        else:
            detail = f"made anew: {', '.join(made)}"
            detail += f"; given up: {', '.join(given_up)}" if given_up else ""
        with self.database.transaction():
            incident = self.log.record_quarantined(incident.id, versions=moved, deliveries=())
            incident = self.log.record_corrected(incident.id)
            self._audit(incident, "incident.correct", detail)
        return incident

    def _purge(self, incident: Incident, quarantine: Quarantine) -> Incident:
        count = quarantine.purge()
        with self.database.transaction():
            incident = self.log.record_purged(incident.id)
            self._audit(incident, "incident.purge", f"{count} file(s) removed from the quarantine")
        return incident

    # --- helpers --------------------------------------------------------------------------------------

    @property
    def _corrections(self) -> CorrectionLog:
        from resources.corrections import CorrectionLog

        return CorrectionLog(self.database)

    def _audit(self, incident: Incident, action: str, detail: str, *, actor: str = "ego-assets") -> None:
        self.database.write_audit(
            actor=actor, action=action, clip_id=incident.clip_id, detail=f"incident {incident.id}: {detail}"
        )


def _left_to_make(incident: Incident, plan: ClipPlan) -> list[str]:
    """Layers that must be made anew, or given up, before the incident is corrected.

    Nothing is made of a clip that somebody withdrew for another reason; there the quarantine is the answer.
    """
    if plan.withdrawn:
        return []
    needed = dict.fromkeys([PRIVACY_LAYER, *incident.layers])
    return [layer for layer in needed if plan.layers.get(layer, LayerPlan.DONE) is not LayerPlan.DONE]


def _withdrawal(incidents: Sequence[int]) -> str:
    """The reason by which a withdrawal is known to come from incidents."""
    return f"{INCIDENT_WITHDRAWAL} {', '.join(map(str, incidents))}" if incidents else ""


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def _quarantined(quarantine: Quarantine, root: Path, folder: Path, path: Path) -> None:
    """Move what a version shows of a clip into the quarantine."""
    quarantine.take(path, _DELIVERIES, root.name, folder.name, *path.relative_to(folder).parts)


def _is_recalled(folder: Path, incident: Incident) -> bool:
    from ego_assets.delivery.recall import recalled_entries

    return any(
        (entry.get("clip_id"), entry.get("incident")) == (incident.clip_id, incident.id)
        for entry in recalled_entries(folder)
    )
