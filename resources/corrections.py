"""Corrections: what people ordered to be covered, in the order in which they ordered it."""

from __future__ import annotations

from dataclasses import asdict
from typing import cast

from sqlalchemy import select

from ego_assets.schema.corrections import Correction, PiiKind
from resources.database import CorrectionRow, Database


class CorrectionLog:
    """Keeps corrections. None is ever changed or taken back: what was covered once stays covered.

    Args:
        database: The metadata database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, correction: Correction) -> int:
        """Record an order; returns its number.

        Raises:
            UnknownClip: The clip is not registered.
        """
        box = None if correction.box_xyxy is None else [float(edge) for edge in correction.box_xyxy]
        with self._database.write_session() as session:
            # A layer that is being recorded waits, and then sees the order.
            self._database.lock_clip(correction.clip_id)
            row = CorrectionRow(**{**asdict(correction), "box_xyxy": box})
            session.add(row)
            session.flush()
            return row.id

    def of_clip(self, clip_id: str) -> list[Correction]:
        """All orders for a clip, oldest first."""
        query = select(CorrectionRow).where(CorrectionRow.clip_id == clip_id).order_by(CorrectionRow.id)
        with self._database.read_session() as session:
            return [_correction(row) for row in session.scalars(query)]


def _correction(row: CorrectionRow) -> Correction:
    box = row.box_xyxy
    return Correction(
        clip_id=row.clip_id,
        kind=cast(PiiKind, row.kind),
        first_frame=row.first_frame,
        last_frame=row.last_frame,
        box_xyxy=None if box is None else (box[0], box[1], box[2], box[3]),
        origin=row.origin,
        actor=row.actor,
        note=row.note,
        created_at=row.created_at,
    )
