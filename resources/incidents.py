"""The record of privacy incidents."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from typing import Any

from sqlalchemy import select

from ego_assets.schema.corrections import PiiKind
from ego_assets.schema.errors import EgoAssetsError
from ego_assets.schema.incidents import AffectedDelivery, Incident, QuarantinedVersion
from resources.database import Database, IncidentRow, utc_now


class IncidentError(EgoAssetsError):
    """An incident does not exist, or is not in the state that a step needs."""


class IncidentLog:
    """Keeps incidents: each step is recorded once, with its time, and never taken back.

    Args:
        database: The metadata database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        clip_id: str,
        *,
        kind: PiiKind,
        first_frame: int,
        last_frame: int,
        box_xyxy: tuple[float, float, float, float] | None,
        note: str,
        layers: Sequence[str],
        background: bool,
        actor: str,
    ) -> int:
        """Record that something leaked; returns the number of the incident.

        Raises:
            UnknownClip: The clip is not registered.
        """
        with self._database.write_session() as session:
            self._database.lock_clip(clip_id)
            row = IncidentRow(
                clip_id=clip_id,
                kind=kind,
                first_frame=first_frame,
                last_frame=last_frame,
                box_xyxy=None if box_xyxy is None else [float(edge) for edge in box_xyxy],
                note=note,
                background=background,
                layers=list(layers),
                quarantined=[],
                deliveries=[],
                opened_at=utc_now(),
                opened_by=actor,
                resolved_by="",
                resolution="",
            )
            session.add(row)
            session.flush()
            return row.id

    def incident(self, incident_id: int) -> Incident:
        """One incident.

        Raises:
            IncidentError: There is none with this number.
        """
        with self._database.read_session() as session:
            row = session.get(IncidentRow, incident_id, populate_existing=True)
            if row is None:
                raise _unknown(incident_id)
            return _incident(row)

    def incidents(self, *, clip_id: str | None = None, unresolved_only: bool = False) -> list[Incident]:
        """Incidents in the order of their numbers, all or those of one clip."""
        query = select(IncidentRow).order_by(IncidentRow.id).execution_options(populate_existing=True)
        if clip_id is not None:
            query = query.where(IncidentRow.clip_id == clip_id)
        if unresolved_only:
            query = query.where(IncidentRow.resolved_at.is_(None))
        with self._database.read_session() as session:
            return [_incident(row) for row in session.scalars(query)]

    def set_background(self, incident_id: int, background: bool) -> Incident:
        """Say who makes the layers anew: the daemon, or the command that is running."""

        def change(row: IncidentRow) -> None:
            row.background = background

        return self._change(incident_id, change)

    def record_quarantined(
        self,
        incident_id: int,
        *,
        versions: Sequence[QuarantinedVersion],
        deliveries: Sequence[AffectedDelivery],
    ) -> Incident:
        """Note what was moved into quarantine, in addition to what was noted before."""

        def change(row: IncidentRow) -> None:
            row.quarantined = _merged(row.quarantined, versions)
            row.deliveries = _merged(row.deliveries, deliveries)
            row.quarantined_at = row.quarantined_at or utc_now()

        return self._change(incident_id, change)

    def record_corrected(self, incident_id: int) -> Incident:
        """Note that nothing is left to make: the layers were made anew or given up, or nobody wants them."""

        def change(row: IncidentRow) -> None:
            _require(row, "quarantined_at", "its leaking versions are not in quarantine")
            row.corrected_at = row.corrected_at or utc_now()

        return self._change(incident_id, change)

    def record_purged(self, incident_id: int) -> Incident:
        """Note that the quarantined files are gone."""

        def change(row: IncidentRow) -> None:
            _require(row, "corrected_at", "the layers were not made anew")
            row.purged_at = row.purged_at or utc_now()

        return self._change(incident_id, change)

    def record_resolved(self, incident_id: int, *, resolution: str, actor: str) -> Incident:
        """Close an incident.

        Raises:
            IncidentError: It is closed already, or not all was done.
        """

        def change(row: IncidentRow) -> None:
            if row.resolved_at is not None:
                raise IncidentError(
                    f"Incident {row.id} was resolved by {row.resolved_by} already: {row.resolution!r}. "
                    "Open a new one if something was found again."
                )
            _require(row, "purged_at", "its leaking versions were not purged")
            row.resolved_at, row.resolved_by, row.resolution = utc_now(), actor, resolution

        return self._change(incident_id, change)

    def _change(self, incident_id: int, change: Callable[[IncidentRow], None]) -> Incident:
        with self._database.write_session() as session:
            # Its clip before the incident itself, as everywhere; an incident never changes its clip.
            clip_id = session.scalar(select(IncidentRow.clip_id).where(IncidentRow.id == incident_id))
            if clip_id is None:
                raise _unknown(incident_id)
            self._database.lock_clip(clip_id)
            row = session.get_one(IncidentRow, incident_id, populate_existing=True, with_for_update=True)
            change(row)
            session.flush()
            return _incident(row)


def _merged(
    known: Sequence[dict[str, Any]], found: Sequence[QuarantinedVersion] | Sequence[AffectedDelivery]
) -> list[dict[str, Any]]:
    merged = list(known)
    merged += [entry for item in found if (entry := asdict(item)) not in merged]
    return merged


def _require(row: IncidentRow, step: str, otherwise: str) -> None:
    moment: dt.datetime | None = getattr(row, step)
    if moment is None:
        raise IncidentError(
            f"Incident {row.id} of clip {row.clip_id} cannot go on: {otherwise}. "
            f"See what is left with `ego-assets incident show {row.id}`."
        )


def _unknown(incident_id: int) -> IncidentError:
    return IncidentError(
        f"There is no incident {incident_id}. List them with `ego-assets incident list --all`."
    )


def _incident(row: IncidentRow) -> Incident:
    values = {field.name: getattr(row, field.name) for field in fields(Incident)}
    box = row.box_xyxy
    values["box_xyxy"] = None if box is None else tuple(box)
    values["layers"] = tuple(row.layers)
    values["quarantined"] = tuple(QuarantinedVersion(**entry) for entry in row.quarantined)
    values["deliveries"] = tuple(AffectedDelivery(**entry) for entry in row.deliveries)
    return Incident(**values)
