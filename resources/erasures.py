"""The record of erasures: takes a clip's rows out of the metadata database, and keeps its tombstone."""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import secrets
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, fields, replace
from pathlib import Path

from sqlalchemy import delete, select, text, update
from sqlalchemy.orm import Session

from ego_assets.schema.clip import Clip
from ego_assets.schema.erasures import ERASED, Erasure, Leftover
from ego_assets.schema.errors import TransientError
from ego_assets.schema.incidents import AffectedDelivery
from resources.database import (
    BUSY_TIMEOUT_S,
    ArtifactRow,
    Base,
    ClipRow,
    CorrectionRow,
    Database,
    DeliveryClipRow,
    DeliveryRow,
    EmbeddingRow,
    ErasureRow,
    FrameReviewRow,
    GateRow,
    IncidentRow,
    LayerStateRow,
    ReviewRow,
    utc_now,
)

#: What describes a clip, by what the tombstone calls it. Corrections and findings are boxes around people.
_DESCRIBES: Mapping[str, type[Base]] = {
    "gate verdicts": GateRow,
    "layer states": LayerStateRow,
    "artifact records": ArtifactRow,
    "embeddings": EmbeddingRow,
    "review items": ReviewRow,
    "frame reviews": FrameReviewRow,
    "corrections": CorrectionRow,
}
_FIXED = ("clip_id", "created_at")
#: Bytes of the salt of a content's digest.
_SALT_BYTES = 16
#: Shorter texts are said of many things.
_SHORTEST_TEXT = 4


class ErasureLog:
    """Keeps erasures: what was erased, by whom and why, and nothing that says what it was.

    Args:
        database: The metadata database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- reading --------------------------------------------------------------------------------------

    def find(self, clip_id: str) -> Erasure | None:
        """The erasure of a clip, or ``None``."""
        with self._database.read_session() as session:
            row = session.get(ErasureRow, clip_id, populate_existing=True)
            return None if row is None else _erasure(row)

    def erasures(self, *, unfinished_only: bool = False) -> list[Erasure]:
        """All erasures, oldest first, or those that are not complete."""
        query = select(ErasureRow).order_by(ErasureRow.begun_at, ErasureRow.clip_id)
        if unfinished_only:
            query = query.where(ErasureRow.completed_at.is_(None))
        with self._database.read_session() as session:
            rows = session.scalars(query.execution_options(populate_existing=True))
            return [_erasure(row) for row in rows]

    def is_erased_content(self, sha256: str) -> bool:
        """Whether a file with this digest was erased.

        Every tombstone has a salt of its own, so that nobody can look digests up in it, or compare two of them.
        """
        query = select(ErasureRow.content_salt, ErasureRow.content_digest).where(
            ErasureRow.content_digest != ""
        )
        with self._database.read_session() as session:
            return any(
                hmac.compare_digest(_salted(sha256, salt), digest) for salt, digest in session.execute(query)
            )

    def has_content(self) -> bool:
        """Whether any content is refused."""
        with self._database.read_session() as session:
            query = select(ErasureRow.clip_id).where(ErasureRow.content_digest != "").limit(1)
            return session.scalar(query) is not None

    # --- steps ----------------------------------------------------------------------------------------

    def begin(self, clip_id: str, *, reason: str, actor: str, content_sha256: str = "") -> Erasure:
        """Take everything that describes a clip out of the database, in one transaction; again, nothing happens.

        From then on no layer of it runs or is recorded, no delivery takes it, and it is in no list.

        Args:
            clip_id: The clip.
            reason: Why; it stays for good.
            actor: Who.
            content_sha256: Digest of its content, where its row does not say.

        Raises:
            UnknownClip: There is no such clip.
        """
        known = self.find(clip_id)
        if known is not None:
            return known
        self._database.clip(clip_id)
        with self._database.write_session() as session:
            row = self._locked(session, clip_id)
            found = session.get(ErasureRow, clip_id, populate_existing=True)
            if found is not None:
                return _erasure(found)
            sha256 = row.raw_sha256 or content_sha256
            salt = secrets.token_hex(_SALT_BYTES)
            incidents = session.scalars(select(IncidentRow).where(IncidentRow.clip_id == clip_id)).all()
            leftover = Leftover(
                source_name=row.source_name,
                collector_id=row.collector_id,
                upload_uri=row.upload_uri,
                texts=self._texts(session, row, incidents),
                incidents=tuple(incident.id for incident in incidents),
            )
            erasure = ErasureRow(
                clip_id=clip_id,
                begun_at=utc_now(),
                completed_at=None,
                actor=actor,
                reason=reason,
                content_salt=salt if sha256 else "",
                content_digest=_salted(sha256, salt) if sha256 else "",
                removed=self._remove_rows(session, clip_id),
                deliveries=[asdict(delivery) for delivery in self._deliveries(session, clip_id)],
                pending=leftover.as_dict(),
            )
            session.add(erasure)
            for incident in incidents:
                self._close(incident, actor)
            self._forget_reasons(session, clip_id)
            self._blank(row)
            session.flush()
            self._database.write_audit(actor=actor, action="erase.begin", clip_id=clip_id, detail=reason)
            return _erasure(erasure)

    def record(
        self,
        clip_id: str,
        *,
        removed: Mapping[str, int] | None = None,
        deliveries: Iterable[AffectedDelivery] = (),
        idle_at: dt.datetime | None = None,
    ) -> Erasure:
        """Add to what the tombstone says."""
        with self._database.write_session() as session:
            row = self._locked_erasure(session, clip_id)
            row.removed = _added(row.removed, removed or {})
            known = list(row.deliveries)
            row.deliveries = known + [entry for item in deliveries if (entry := asdict(item)) not in known]
            if idle_at is not None and row.pending is not None:
                leftover = Leftover.from_dict(row.pending)
                row.pending = replace(leftover, idle_at=idle_at.isoformat()).as_dict()
            session.flush()
            return _erasure(row)

    def forget(self, clip_id: str) -> Erasure:
        """Remove what was recorded meanwhile, and what had to be known of the clip until now."""
        with self._database.write_session() as session:
            clip = self._locked(session, clip_id)
            row = self._locked_erasure(session, clip_id)
            row.removed = _added(row.removed, self._remove_rows(session, clip_id))
            row.pending = None
            self._forget_reasons(session, clip_id)
            self._blank(clip)
            session.flush()
            return _erasure(row)

    def complete(self, clip_id: str) -> Erasure:
        """Record that nothing is left."""
        with self._database.write_session() as session:
            self._locked(session, clip_id)
            row = self._locked_erasure(session, clip_id)
            if row.completed_at is None:
                row.completed_at = utc_now()
                session.flush()
                removed = ", ".join(f"{count} {kind}" for kind, count in sorted(row.removed.items()) if count)
                self._database.write_audit(
                    actor=row.actor, action="erase.complete", clip_id=clip_id, detail=removed or "nothing"
                )
            return _erasure(row)

    # --- parts ----------------------------------------------------------------------------------------

    def _locked(self, session: Session, clip_id: str) -> ClipRow:
        return session.get_one(ClipRow, clip_id, populate_existing=True, with_for_update={"key_share": True})

    def _locked_erasure(self, session: Session, clip_id: str) -> ErasureRow:
        return session.get_one(ErasureRow, clip_id, populate_existing=True, with_for_update=True)

    def _texts(self, session: Session, row: ClipRow, incidents: Sequence[IncidentRow]) -> tuple[str, ...]:
        """What people and layers wrote about the clip, which messages elsewhere may repeat."""
        written: list[str] = [
            row.recording_id,
            row.needs_review_reason,
            row.withdrawn_reason,
            row.held_reason,
        ]
        for incident in incidents:
            written += [incident.note, incident.resolution]
        for item in session.scalars(select(ReviewRow).where(ReviewRow.clip_id == row.clip_id)):
            written += [item.reason, item.resolution]
        written += session.scalars(select(CorrectionRow.note).where(CorrectionRow.clip_id == row.clip_id))
        return tuple(dict.fromkeys(entry for entry in written if len(entry) >= _SHORTEST_TEXT))

    def _remove_rows(self, session: Session, clip_id: str) -> dict[str, int]:
        # Artifacts before embeddings, as everywhere.
        return {
            kind: session.execute(delete(table).where(table.clip_id == clip_id)).rowcount  # type: ignore[attr-defined]
            for kind, table in _DESCRIBES.items()
        }

    def _deliveries(self, session: Session, clip_id: str) -> list[AffectedDelivery]:
        query = (
            select(DeliveryRow.name, DeliveryRow.version)
            .join(DeliveryClipRow, DeliveryClipRow.delivery_id == DeliveryRow.id)
            .where(DeliveryClipRow.clip_id == clip_id)
            .order_by(DeliveryRow.id)
        )
        return [AffectedDelivery(name=name, version=version) for name, version in session.execute(query)]

    def _close(self, incident: IncidentRow, actor: str) -> None:
        """Leave of an incident that it was, when, and what was recalled."""
        now = utc_now()
        if incident.resolved_at is None:
            incident.resolved_at, incident.resolved_by = now, actor
        for moment in ("quarantined_at", "corrected_at", "purged_at"):
            if getattr(incident, moment) is None:
                setattr(incident, moment, now)
        incident.note, incident.box_xyxy, incident.resolution = "", None, "The clip was erased."
        incident.quarantined = []

    def _forget_reasons(self, session: Session, clip_id: str) -> None:
        """Reasons why the clip was left out of deliveries repeat what people wrote."""
        for delivery in session.scalars(select(DeliveryRow).order_by(DeliveryRow.id)):
            definition = _without_reason(delivery.definition, clip_id)
            if definition != delivery.definition:
                session.execute(
                    update(DeliveryRow).where(DeliveryRow.id == delivery.id).values(definition=definition)
                )

    def _blank(self, row: ClipRow) -> None:
        """Leave an empty shell, which other tables refer to."""
        empty = Clip(
            clip_id=row.clip_id, source_name="", collector_id="", withdrawn=True, withdrawn_reason=ERASED
        )
        for field in fields(Clip):
            if field.name not in _FIXED:
                setattr(row, field.name, getattr(empty, field.name))
        row.erased_at = row.erased_at or utc_now()


def compact(database: Database) -> None:
    """Let nothing that was removed from the metadata database be read from its files any more.

    SQLite only marks what is removed as free space and keeps it in the log of changes: the file is written anew, and
    the log emptied. On Postgres removed rows are given up, so that their space is used again; its write-ahead log and
    backups keep them until they are removed.

    Raises:
        TransientError: Somebody uses the database all the time, or the disk is full.
    """
    if database.is_sqlite:
        compact_sqlite(Path(database.engine.url.database or ""))
        return
    tables = sorted(
        {*(table.__tablename__ for table in _DESCRIBES.values()), "clips", "incidents", "erasures"}
    )
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for table in [*tables, "deliveries"]:
            connection.execute(text(f"VACUUM {table}"))


def compact_sqlite(path: Path) -> None:
    """Write a SQLite file anew without what was removed from it, and empty its log of changes.

    Raises:
        TransientError: Somebody uses it all the time, or the disk is full.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as connection:
            connection.execute("PRAGMA secure_delete=ON")
            connection.execute("VACUUM")
            while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                if time.monotonic() >= deadline:
                    raise sqlite3.OperationalError("its log of changes is being read all the time")
                time.sleep(0.05)
    except sqlite3.OperationalError as error:
        raise TransientError(
            f"{path} still holds remains of what was erased: it could not be written anew ({error}). Try again with "
            "`ego-assets erase --resume`; the disk needs as much free space as the file takes."
        ) from error


def _without_reason(definition: Mapping[str, object], clip_id: str) -> dict[str, object]:
    left_out = definition.get("left_out")
    if not isinstance(left_out, Mapping) or clip_id not in left_out:
        return dict(definition)
    return {**definition, "left_out": {**left_out, clip_id: ERASED}}


def _salted(sha256: str, salt: str) -> str:
    return hmac.new(bytes.fromhex(salt), sha256.encode("ascii"), hashlib.sha256).hexdigest()


def _added(known: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    total = Counter(known)
    total.update(more)
    return dict(total)


def _erasure(row: ErasureRow) -> Erasure:
    return Erasure(
        clip_id=row.clip_id,
        begun_at=row.begun_at,
        completed_at=row.completed_at,
        actor=row.actor,
        reason=row.reason,
        removed=dict(row.removed),
        deliveries=tuple(AffectedDelivery(**entry) for entry in row.deliveries),
        pending=None if row.pending is None else Leftover.from_dict(row.pending),
    )
