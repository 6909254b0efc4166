"""The audit log: who did what, when and why, as a chain of rows.

The database refuses to change or remove a row of ``audit_log``. Who administers it can switch that off, so every row
also holds a SHA-256 digest of its content and of the digest before it: one altered, removed, inserted or moved row
no longer fits its neighbours.

What the chain alone does not show: that the newest rows were cut off, or that somebody computed all of it anew. That
takes a head, the number and the digest of the newest row at some moment, kept where that person cannot write. Every
row up to a head that is still found is the one that was there when the head was taken.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Select, Text, func, select, type_coerce

from resources.database import AuditEntry, AuditRow, ClipRow, Database, record_of, storable_text, utc_now

#: What the first row holds as the digest before it.
NO_DIGEST = "0" * 64
#: The action of whoever opens an original.
OPENED = "vault.open"

#: Number of the canonical encoding. Rows are never encoded anew: a later one comes beside it, not instead of it.
_FORMAT = 1
#: Names the lock that everybody who appends takes on Postgres; any fixed number will do.
_APPEND_LOCK = 0x65676F61756474
#: How many rows are in memory at a time.
_PAGE = 1000
_HEAD = re.compile(r"(0|[1-9][0-9]{0,17}):([0-9a-f]{64})")


@dataclass(frozen=True, kw_only=True)
class AuditHead:
    """The newest row of the audit log at some moment; as text ``ID:DIGEST``.

    Attributes:
        id: Number of the row; 0 for a log without rows.
        digest: Its digest, 64 hexadecimal digits; only zeros for a log without rows. Somebody may have written
            something else into the row.
    """

    id: int
    digest: str

    def __str__(self) -> str:
        return f"{self.id}:{self.digest}"

    @classmethod
    def parse(cls, text: str) -> AuditHead:
        """A head from its text.

        Raises:
            ValueError: The text is none.
        """
        found = _HEAD.fullmatch(text.strip().lower())
        if found is None:
            raise ValueError(f"expected ID:DIGEST with 64 hexadecimal digits, got {text!r}")
        return cls(id=int(found[1]), digest=found[2])


#: The head of a log without rows.
NO_HEAD = AuditHead(id=0, digest=NO_DIGEST)


@dataclass(frozen=True, kw_only=True)
class AuditFilter:
    """Which rows of the audit log are wanted; what is not given does not restrict.

    Attributes:
        clip_id: Only rows about this clip.
        collector_id: Only rows about clips of this collector.
        actor: Only rows whose actor contains this, in upper or lower case.
        action: Only rows whose action contains this, in upper or lower case.
        purpose: Only rows whose purpose contains this, in upper or lower case.
        opens_only: Only rows of opened originals.
        since: Only rows from this moment on.
        until: Only rows before this moment.
    """

    clip_id: str | None = None
    collector_id: str | None = None
    actor: str = ""
    action: str = ""
    purpose: str = ""
    opens_only: bool = False
    since: dt.datetime | None = None
    until: dt.datetime | None = None


class AuditFault(StrEnum):
    """What is wrong with a row."""

    #: Its content is not what its digest was computed from.
    ALTERED = "altered"
    #: It does not follow the row before it.
    UNLINKED = "unlinked"
    #: A head names it, and it is not there.
    MISSING = "missing"
    #: A head names it, and it is another one now.
    REPLACED = "replaced"


@dataclass(frozen=True, kw_only=True)
class AuditFinding:
    """A row of the audit log with which something is wrong.

    Attributes:
        id: Number of the row.
        fault: What is wrong with it.
        message: The same for a person.
    """

    id: int
    fault: AuditFault
    message: str


@dataclass(frozen=True, kw_only=True)
class AuditVerification:
    """What a verification of the audit log found.

    Attributes:
        rows: How many rows were read.
        head: The newest of them.
        broken: The first row that breaks the chain; ``None`` when it is whole.
        broken_rows: How many rows break it.
        unmet: One finding for each expected head that is not in the log.
        expected: How many heads were expected.
    """

    rows: int
    head: AuditHead
    broken: AuditFinding | None
    broken_rows: int
    unmet: tuple[AuditFinding, ...]
    expected: int

    @property
    def findings(self) -> tuple[AuditFinding, ...]:
        """All of them, by row."""
        found = (*([self.broken] if self.broken is not None else []), *self.unmet)
        return tuple(sorted(found, key=lambda finding: finding.id))

    @property
    def intact(self) -> bool:
        """Whether nothing was found."""
        return self.broken is None and not self.unmet


def entry_digest(
    *,
    previous_digest: str,
    id: int,
    at: dt.datetime,
    actor: str,
    action: str,
    purpose: str,
    clip_id: str,
    detail: str,
    run_id: str,
) -> str:
    """SHA-256 over the canonical encoding of a row and the digest before it, as 64 hexadecimal digits.

    The encoding is JSON in ASCII without spaces, its keys sorted, the moment in UTC with microseconds, and texts as
    both databases keep them: a row has the same digest in SQLite and in Postgres.

    Raises:
        TypeError: A value has another type.
        ValueError: The moment has no time zone.
    """
    if at.tzinfo is None:
        raise ValueError(f"expected a moment with a time zone, got {at!r}")
    content = {
        "format": _FORMAT,
        "previous_digest": previous_digest,
        "id": id,
        "at": at.astimezone(dt.UTC).isoformat(timespec="microseconds"),
        "actor": storable_text(actor),
        "action": storable_text(action),
        "purpose": storable_text(purpose),
        "clip_id": storable_text(clip_id),
        "detail": storable_text(detail),
        "run_id": storable_text(run_id),
    }
    encoded = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(encoded.encode("ascii")).hexdigest()


class AuditLog:
    """Appends to ``audit_log``, reads it and verifies it.

    Args:
        database: The metadata database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(
        self,
        *,
        actor: str,
        action: str,
        purpose: str = "",
        clip_id: str = "",
        detail: str = "",
        run_id: str = "",
    ) -> AuditHead:
        """Append a row; inside a transaction it is there when that ends, or not at all.

        Until then nobody else can append. Therefore it comes last: what is locked after it has to be locked already.

        Returns:
            The new head.

        Raises:
            ValueError: Actor or action is empty.
        """
        if not actor or not action:
            raise ValueError(f"audit: expected an actor and an action, got {actor!r} and {action!r}")
        with self._database.write_session() as session:
            if not self._database.is_sqlite:
                # A statement of its own: the next one sees what was committed while this one waited.
                session.execute(select(func.pg_advisory_xact_lock(_APPEND_LOCK)))
            head = self.head()
            content: dict[str, Any] = {
                "id": head.id + 1,
                "at": utc_now(),
                "actor": storable_text(actor),
                "action": storable_text(action),
                "purpose": storable_text(purpose),
                "clip_id": storable_text(clip_id),
                "detail": storable_text(detail),
                "run_id": storable_text(run_id),
                "previous_digest": head.digest,
            }
            digest = entry_digest(**content)
            session.add(AuditRow(**content, digest=digest))
            session.flush()
            return AuditHead(id=head.id + 1, digest=digest)

    def head(self) -> AuditHead:
        """The newest row, or :data:`NO_HEAD`."""
        query = select(AuditRow.id, AuditRow.digest).order_by(AuditRow.id.desc()).limit(1)
        with self._database.read_session() as session:
            newest = session.execute(query).first()
        return NO_HEAD if newest is None else AuditHead(id=newest.id, digest=newest.digest)

    def entries(self, wanted: AuditFilter | None = None) -> Iterator[AuditEntry]:
        """The rows that a filter lets through, oldest first, however many there are."""
        query = select(AuditRow)
        for page in self._pages(_filtered(query, wanted or AuditFilter()), scalars=True):
            for row in page:
                yield record_of(AuditEntry, row)

    def verify(self, expected: Iterable[AuditHead] = ()) -> AuditVerification:
        """Read all rows and compare each with its digest and with the row before it.

        Args:
            expected: Heads from earlier, each of which has to be in the log still.
        """
        wanted: dict[int, set[str]] = {}
        for one in expected:
            if one != NO_HEAD:
                wanted.setdefault(one.id, set()).add(one.digest)
        count = sum(map(len, wanted.values()))
        rows, broken_rows = 0, 0
        head, broken = NO_HEAD, None
        unmet: list[AuditFinding] = []
        for page in self._pages(_raw_rows(), scalars=False):
            for row in page:
                finding = _fault(row, head)
                if finding is not None:
                    broken, broken_rows = broken or finding, broken_rows + 1
                rows += 1
                head = _head_of(row)
                for digest in sorted(wanted.pop(row.id, set()) - {row.digest}):
                    unmet.append(_replaced(AuditHead(id=row.id, digest=digest), head))
        for number in sorted(wanted):
            for digest in sorted(wanted[number]):
                unmet.append(_missing(AuditHead(id=number, digest=digest), head))
        return AuditVerification(
            rows=rows, head=head, broken=broken, broken_rows=broken_rows, unmet=tuple(unmet), expected=count
        )

    def _pages(self, query: Select[Any], *, scalars: bool) -> Iterator[list[Any]]:
        """The rows by number, some at a time; appended ones come with the last page.

        Nothing is locked and no transaction is open in between: rows are numbered in the order of their commits.
        """
        page = query.order_by(AuditRow.id).limit(_PAGE)
        while True:
            with self._database.read_session() as session:
                found: list[Any] = list(session.scalars(page) if scalars else session.execute(page))
            if found:
                yield found
            if len(found) < _PAGE:
                return
            page = query.where(AuditRow.id > found[-1].id).order_by(AuditRow.id).limit(_PAGE)


def _filtered(query: Select[Any], wanted: AuditFilter) -> Select[Any]:
    if wanted.clip_id is not None:
        query = query.where(AuditRow.clip_id == wanted.clip_id)
    if wanted.collector_id is not None:
        of_collector = select(ClipRow.clip_id).where(ClipRow.collector_id == wanted.collector_id)
        query = query.where(AuditRow.clip_id.in_(of_collector))
    if wanted.opens_only:
        query = query.where(AuditRow.action == OPENED)
    for column, part in (
        (AuditRow.actor, wanted.actor),
        (AuditRow.action, wanted.action),
        (AuditRow.purpose, wanted.purpose),
    ):
        if part:
            query = query.where(column.icontains(part, autoescape=True))
    if wanted.since is not None:
        query = query.where(AuditRow.at >= wanted.since)
    if wanted.until is not None:
        query = query.where(AuditRow.at < wanted.until)
    return query


def _raw_rows() -> Select[Any]:
    """All columns, with the moment as the database keeps it: SQLite may hold one there that is none."""
    columns = [column for column in AuditRow.__table__.columns if column.name != "at"]
    return select(*columns, type_coerce(AuditRow.at, Text).label("at"))


def _head_of(row: Any) -> AuditHead:
    return AuditHead(id=row.id, digest=row.digest)


def _fault(row: Any, before: AuditHead) -> AuditFinding | None:
    """What is wrong with a row that follows ``before``."""
    content = dict(row._mapping)
    digest = content.pop("digest")
    try:
        content["at"] = _moment(content["at"])
        altered = entry_digest(**content) != digest
    except (TypeError, ValueError):
        # Not a value that was ever written here.
        altered = True
    if altered:
        return AuditFinding(
            id=row.id,
            fault=AuditFault.ALTERED,
            message=f"Row {row.id} was altered: its digest does not belong to its content and its number.",
        )
    if row.previous_digest == before.digest:
        return None
    place = f"row {before.id}, which comes before it" if before != NO_HEAD else "the beginning of the log"
    return AuditFinding(
        id=row.id,
        fault=AuditFault.UNLINKED,
        message=(
            f"Row {row.id} does not follow {place}: rows before it were removed, inserted, moved, or rewritten "
            "together with their digest."
        ),
    )


def _replaced(expected: AuditHead, found: AuditHead) -> AuditFinding:
    return AuditFinding(
        id=expected.id,
        fault=AuditFault.REPLACED,
        message=(
            f"Row {expected.id} is not the one that it was: expected {expected}, found {found}. It or rows before it "
            "were rewritten, or removed and written anew."
        ),
    )


def _missing(expected: AuditHead, newest: AuditHead) -> AuditFinding:
    end = f"the log ends with row {newest.id}" if newest != NO_HEAD else "the log is empty"
    found = end if newest.id < expected.id else "others are there"
    return AuditFinding(
        id=expected.id,
        fault=AuditFault.MISSING,
        message=f"Row {expected.id} is missing: expected {expected}, but {found}. Rows were removed.",
    )


def _moment(value: Any) -> dt.datetime:
    """A moment as a database hands it out; SQLite keeps it as text in UTC."""
    if isinstance(value, str):
        value = dt.datetime.fromisoformat(value)
    found: dt.datetime = value
    return found.replace(tzinfo=dt.UTC) if found.tzinfo is None else found
