"""The metadata database: clip state, gates, layers, reviews, audit and deliveries.

SQLite in WAL mode by default; Postgres needs only its URL. Callers get frozen dataclasses, never ORM objects,
so nothing they hold is tied to a connection. Every method is one transaction; :meth:`Database.transaction`
joins several into one.

Locks are taken in one order everywhere, so that two writers never wait for each other: the digest of an original; rows
of clips, by id; what belongs to the clips, artifacts before embeddings; the name of a delivery; last the audit log.
Whoever has written an audit row locks nothing more than what is locked already, and commits soon: all others who
write one wait. SQLite has one writer at a time and needs no order.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import json
import math
import os
import re
import sqlite3
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Engine,
    Enum,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    create_engine,
    delete,
    event,
    func,
    inspect,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DBAPIError,
    IntegrityError,
    OperationalError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import NullPool
from sqlalchemy.types import TypeDecorator

from ego_assets.media.uploads import is_clip_id
from ego_assets.schema.artifact import ArtifactDocument
from ego_assets.schema.clip import Clip
from ego_assets.schema.embeddings import EMBEDDINGS_LAYER
from ego_assets.schema.errors import (
    ClipErased,
    ConfigurationError,
    EgoAssetsError,
    TransientError,
    UnknownClip,
)
from ego_assets.schema.gates import GateOutcome, GateResult
from ego_assets.schema.incidents import INCIDENT_WITHDRAWAL
from ego_assets.schema.layers import derive_processing_status
from ego_assets.schema.vocabulary import (
    ConsentScope,
    LocationType,
    PrivacyStatus,
    ProcessingStatus,
    ReviewKind,
    ReviewRisk,
    SourceCamera,
)

#: The newest migration; :meth:`Database.upgrade` does nothing when the database has it.
SCHEMA_REVISION = "0006"

#: How long a writer waits for another one before it gives up.
BUSY_TIMEOUT_S = 30.0
#: How often somebody who waits for :meth:`Database.exclusive` asks again on Postgres.
_ASK_AGAIN_S = 0.5
#: How many bound values, or locked rows, one statement has at most.
_SLICE = 500

_MIGRATIONS = Path(__file__).parent / "migrations"
#: Names the lock that one upgrade at a time holds on Postgres; any fixed number will do.
_UPGRADE_LOCK = 0x65676F617373
#: Execution option that marks connections of writing transactions.
_WRITES = "ego_assets_writes"
#: State of a layer that the next run tries again.
_POSTPONED = "postponed"
#: What no text column of Postgres takes, and what no UTF-8 can say.
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")

RecordT = TypeVar("RecordT")


class ClipExists(EgoAssetsError):
    """A clip with this id is registered already."""

    def __init__(self, clip_id: str) -> None:
        super().__init__(
            f"Clip {clip_id} is registered already, and a clip_id is never reused. "
            "Give the new recording another name, or continue with the registered clip."
        )
        self.clip_id = clip_id


class ReviewItemError(EgoAssetsError):
    """A review item does not exist or is resolved already."""


class DeliveryExists(EgoAssetsError):
    """A delivery of this name and version exists with other content."""


class ReviewStatus(StrEnum):
    """Whether somebody still has to look."""

    OPEN = "open"
    RESOLVED = "resolved"


# --- what callers get ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class GateRecord:
    """The latest verdict of one gate of one layer on one clip.

    Attributes:
        clip_id: The clip.
        layer: The layer the gate belongs to.
        gate: Name of the gate.
        outcome: The verdict.
        blocking: Whether a failure stops the clip.
        value: The measured value in ``unit``; ``None`` where there is none.
        threshold: The limit in ``unit``; ``None`` for a yes/no fact.
        unit: Unit of value and threshold.
        message: What was found, worded for the person who has to act on it.
        details: Numbers behind the verdict.
        data_version: Data version of the judged artifact; empty when none was made.
        run_id: Dagster run.
        evaluated_at: When (UTC).
    """

    clip_id: str
    layer: str
    gate: str
    outcome: GateOutcome
    blocking: bool
    value: float | None
    threshold: float | None
    unit: str
    message: str
    details: Mapping[str, Any]
    data_version: str
    run_id: str
    evaluated_at: dt.datetime

    @property
    def blocks(self) -> bool:
        """Whether this verdict stops the clip."""
        return self.blocking and self.outcome is GateOutcome.FAILED


@dataclass(frozen=True, kw_only=True)
class LayerStateRecord:
    """How a layer last ended on a clip.

    Attributes:
        clip_id: The clip.
        layer: The layer.
        state: Such as ``committed``, ``blocked``, ``given_up``, ``postponed`` or ``failed``.
        reason: Why; empty for a committed layer.
        attempts: Attempts that were made.
        run_id: Dagster run.
        duration_s: Wall time of all attempts; ``None`` when not measured.
        updated_at: When (UTC).
    """

    clip_id: str
    layer: str
    state: str
    reason: str
    attempts: int
    run_id: str
    duration_s: float | None
    updated_at: dt.datetime


@dataclass(frozen=True, kw_only=True)
class ArtifactRecord:
    """One version of one layer as the index of the store knows it.

    Attributes:
        clip_id: The clip.
        layer: The layer.
        version_id: Name of the version folder.
        data_version: Hash of content, configuration and inputs.
        uri: Where the version lies.
        bytes: Size of all its files.
        backends: Models that took part, as :class:`~ego_assets.schema.detections.BackendInfo` fields.
        current: Whether the layer's pointer names this version.
        committed_at: When (UTC).
    """

    clip_id: str
    layer: str
    version_id: str
    data_version: str
    uri: str
    bytes: int
    backends: Sequence[Mapping[str, Any]]
    current: bool
    committed_at: dt.datetime


@dataclass(frozen=True, kw_only=True)
class ReviewItem:
    """A reason for a person to look at a clip.

    Attributes:
        id: Number of the item.
        clip_id: The clip.
        layer: The layer that asked.
        kind: What kind of reason.
        risk: High-risk items keep the clip out of deliveries while they are open.
        reason: What to look for.
        details: Numbers behind it.
        status: Open or resolved.
        resolution: What was decided; empty while open.
        created_at: When it was added (UTC).
        resolved_at: When it was resolved (UTC); ``None`` while open.
        resolved_by: Who resolved it; empty while open.
    """

    id: int
    clip_id: str
    layer: str
    kind: ReviewKind
    risk: ReviewRisk
    reason: str
    details: Mapping[str, Any]
    status: ReviewStatus
    resolution: str
    created_at: dt.datetime
    resolved_at: dt.datetime | None
    resolved_by: str


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    """One row of the audit log, which is only ever appended to.

    Attributes:
        id: Number of the row.
        at: When (UTC).
        actor: Who: an asset, a command or a person.
        action: What, such as ``vault.open``.
        purpose: Why an original was opened; empty for other actions.
        clip_id: The clip; empty when the action concerns none.
        detail: Further particulars.
        run_id: Dagster run; empty outside one.
        previous_digest: Digest of the row before; see :mod:`resources.audit`.
        digest: Digest of this row's content and of ``previous_digest``.
    """

    id: int
    at: dt.datetime
    actor: str
    action: str
    purpose: str
    clip_id: str
    detail: str
    run_id: str
    previous_digest: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """One version of one delivery.

    Attributes:
        id: Number of the delivery.
        name: Name of the delivery.
        version: Its version; unique within the name.
        uri: Where it lies.
        definition: What was asked for: filter, layers, format.
        clip_count: Number of clips in it.
        bytes: Its size.
        created_at: When (UTC).
    """

    id: int
    name: str
    version: str
    uri: str
    definition: Mapping[str, Any]
    clip_count: int
    bytes: int
    created_at: dt.datetime


@dataclass(frozen=True, kw_only=True)
class DeliveryClip:
    """A clip inside a delivery.

    Attributes:
        delivery_id: The delivery.
        clip_id: The clip.
        data_versions: Data version of every delivered layer, by layer name.
    """

    delivery_id: int
    clip_id: str
    data_versions: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class ClipStanding:
    """What decides whether a clip may go on, as it is at one moment.

    Attributes:
        clip: The clip.
        gates: The latest verdicts of all its gates.
        leaking_incident: Its oldest incident whose leaking versions are not all in quarantine, or ``None``.
        withdrawn: Whether it was withdrawn for another reason than an incident. A clip that only an incident
            withdrew is processed, because its leaking layers must be made anew.
        erased: Whether its erasure has begun.
        postponed: Layers that were not made because something around the clip was missing or out of reach.
    """

    clip: Clip
    gates: Sequence[GateRecord]
    leaking_incident: int | None
    withdrawn: bool
    erased: bool = False
    postponed: frozenset[str] = frozenset()

    @property
    def is_stopped(self) -> bool:
        """Whether no layer at all may run."""
        return (
            self.erased or self.leaking_incident is not None or self.withdrawn or bool(self.clip.duplicate_of)
        )

    def refusal(self, *, inputs: Sequence[str], held_stops: bool = True) -> str | None:
        """As :meth:`Database.refusal`."""
        clip = self.clip
        if self.erased:
            return str(ClipErased(clip.clip_id))
        if self.leaking_incident is not None:
            return (
                f"Clip {clip.clip_id} has a privacy incident ({self.leaking_incident}) whose leaking versions are "
                "not all in quarantine yet. Finish that with `ego-assets incident list`."
            )
        if self.withdrawn:
            reason = _because(clip.withdrawn_reason)
            return f"Clip {clip.clip_id} was withdrawn{reason}. It is not processed any further."
        if clip.duplicate_of:
            return (
                f"Clip {clip.clip_id} has the same content as clip {clip.duplicate_of}. "
                "Use that clip; nothing else needs to be done."
            )
        if clip.held and held_stops:
            return (
                f"Clip {clip.clip_id} is held{_because(clip.held_reason)}. Look at it and release it, "
                "or record it again."
            )
        failed = [gate for gate in self.gates if gate.layer in inputs and gate.blocks]
        waiting = [gate for gate in failed if gate.layer in self.postponed]
        if failed and len(waiting) == len(failed):
            found = " ".join(_sentence(gate.message) for gate in waiting)
            return (
                f"Clip {clip.clip_id} waits: {found} The next run with the same profile tries again; it goes on once "
                "what is missing is there."
            )
        if failed:
            found = " ".join(
                f"{gate.gate} of {gate.layer} failed: {_sentence(gate.message)}" for gate in failed
            )
            layers = ", ".join(dict.fromkeys(gate.layer for gate in failed))
            return (
                f"Clip {clip.clip_id} stopped at a blocking gate: {found} Correct the cause and materialize "
                f"{layers} again, or upload a better recording under a new name."
            )
        return None


# --- tables -------------------------------------------------------------------------------------------


class UtcDateTime(TypeDecorator[dt.datetime]):
    """A moment in UTC, aware of its zone on both sides whatever the database keeps."""

    impl = DateTime(timezone=True)
    cache_ok = True

    @property
    def python_type(self) -> type[dt.datetime]:
        """What callers give and get."""
        return dt.datetime

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        """Convert to UTC; ``ValueError`` for a moment without a zone."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"expected a moment with a time zone, got {value!r}")
        return value.astimezone(dt.UTC)

    def process_result_value(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        """Give the zone back that SQLite does not keep."""
        if value is None:
            return None
        return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)


class StorableText(TypeDecorator[str]):
    """Text as both databases can keep it; see :func:`storable_text`."""

    impl = Text()
    cache_ok = True

    @property
    def python_type(self) -> type[str]:
        """What callers give and get."""
        return str

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Replace what cannot be kept."""
        return None if value is None else storable_text(value)


def storable_text(value: str) -> str:
    """The text with a replacement character for every NUL and every half of a surrogate pair.

    Both occur in what others wrote: a sidecar may hold the one, a file name that is not UTF-8 becomes the other.
    """
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", value)


def vocabulary_column(vocabulary: type[StrEnum]) -> Enum:
    """A text column that holds the words of a closed vocabulary."""
    return Enum(
        vocabulary,
        native_enum=False,
        create_constraint=False,
        length=32,
        validate_strings=True,
        values_callable=lambda members: [member.value for member in members],
    )


class Base(DeclarativeBase):
    """Base of all tables; the migrations in ``migrations/`` create them."""

    type_annotation_map = {  # noqa: RUF012 (read by SQLAlchemy)
        dt.datetime: UtcDateTime(),
        str: StorableText(),
        dict[str, Any]: JSON(none_as_null=True),
        list[dict[str, Any]]: JSON(none_as_null=True),
        SourceCamera: vocabulary_column(SourceCamera),
        LocationType: vocabulary_column(LocationType),
        ConsentScope: vocabulary_column(ConsentScope),
        PrivacyStatus: vocabulary_column(PrivacyStatus),
        ProcessingStatus: vocabulary_column(ProcessingStatus),
        GateOutcome: vocabulary_column(GateOutcome),
        ReviewKind: vocabulary_column(ReviewKind),
        ReviewRisk: vocabulary_column(ReviewRisk),
        ReviewStatus: vocabulary_column(ReviewStatus),
    }


_ID = String(36)
_DIGEST = String(64)
_SIZE = BigInteger().with_variant(Integer(), "sqlite")
_NAME = String(200)


class ClipRow(Base):
    """``clips``: one column per field of :class:`~ego_assets.schema.clip.Clip`."""

    __tablename__ = "clips"
    __table_args__ = (
        Index("ix_clips_collector_id", "collector_id"),
        Index("ix_clips_raw_sha256", "raw_sha256"),
        Index("ix_clips_upload_uri", "upload_uri"),
        Index("ix_clips_created_at", "created_at"),
    )

    clip_id: Mapped[str] = mapped_column(_ID, primary_key=True)
    source_name: Mapped[str]
    source_camera: Mapped[SourceCamera]
    collector_id: Mapped[str]
    recording_date: Mapped[dt.date | None]
    location_type: Mapped[LocationType]
    activity_category: Mapped[str]
    consent_scope: Mapped[ConsentScope]
    licence: Mapped[str]
    camera_intrinsics: Mapped[dict[str, Any] | None]
    recording_id: Mapped[str]
    chapter: Mapped[int]
    upload_uri: Mapped[str]
    raw_key: Mapped[str]
    raw_sha256: Mapped[str] = mapped_column(String(64))
    raw_bytes: Mapped[int] = mapped_column(_SIZE)
    duration_s: Mapped[float | None]
    width: Mapped[int | None]
    height: Mapped[int | None]
    fps: Mapped[float | None]
    frame_count: Mapped[int | None]
    rotation_deg: Mapped[int]
    privacy_status: Mapped[PrivacyStatus]
    processing_status: Mapped[ProcessingStatus | None]
    failed: Mapped[bool]
    failed_reason: Mapped[str]
    needs_review: Mapped[bool]
    needs_review_reason: Mapped[str]
    withdrawn: Mapped[bool]
    withdrawn_reason: Mapped[str]
    held: Mapped[bool]
    held_reason: Mapped[str]
    duplicate_of: Mapped[str] = mapped_column(_ID)
    quality_score: Mapped[float | None]
    quality_confidence: Mapped[float | None]
    score_version: Mapped[str]
    completeness: Mapped[int]
    created_at: Mapped[dt.datetime]
    updated_at: Mapped[dt.datetime]
    #: When its erasure began: what is left is a shell that other tables refer to; no field of a clip.
    erased_at: Mapped[dt.datetime | None]


class ArtifactRow(Base):
    """``artifacts``: an index of the store that can be rebuilt from it, so it may name unknown clips."""

    __tablename__ = "artifacts"

    clip_id: Mapped[str] = mapped_column(_ID, primary_key=True)
    layer: Mapped[str] = mapped_column(_NAME, primary_key=True)
    version_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    data_version: Mapped[str] = mapped_column(String(64))
    uri: Mapped[str]
    bytes: Mapped[int] = mapped_column(_SIZE)
    backends: Mapped[list[dict[str, Any]]]
    current: Mapped[bool]
    committed_at: Mapped[dt.datetime]


class GateRow(Base):
    """``gate_results``: the latest verdict of every gate."""

    __tablename__ = "gate_results"

    clip_id: Mapped[str] = mapped_column(_ID, ForeignKey("clips.clip_id"), primary_key=True)
    layer: Mapped[str] = mapped_column(_NAME, primary_key=True)
    gate: Mapped[str] = mapped_column(_NAME, primary_key=True)
    outcome: Mapped[GateOutcome]
    blocking: Mapped[bool]
    value: Mapped[float | None]
    threshold: Mapped[float | None]
    unit: Mapped[str]
    message: Mapped[str]
    details: Mapped[dict[str, Any]]
    data_version: Mapped[str] = mapped_column(String(64))
    run_id: Mapped[str]
    evaluated_at: Mapped[dt.datetime]


class LayerStateRow(Base):
    """``layer_states``: how every layer last ended on every clip."""

    __tablename__ = "layer_states"

    clip_id: Mapped[str] = mapped_column(_ID, ForeignKey("clips.clip_id"), primary_key=True)
    layer: Mapped[str] = mapped_column(_NAME, primary_key=True)
    state: Mapped[str] = mapped_column(String(32))
    reason: Mapped[str]
    attempts: Mapped[int]
    run_id: Mapped[str]
    duration_s: Mapped[float | None]
    updated_at: Mapped[dt.datetime]


class ReviewRow(Base):
    """``review_items``: at most one open item per clip, layer and kind."""

    __tablename__ = "review_items"
    __table_args__ = (
        Index("ix_review_items_clip_id", "clip_id"),
        Index("ix_review_items_status", "status"),
    )

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    clip_id: Mapped[str] = mapped_column(_ID, ForeignKey("clips.clip_id"))
    layer: Mapped[str] = mapped_column(_NAME)
    kind: Mapped[ReviewKind]
    risk: Mapped[ReviewRisk]
    reason: Mapped[str]
    details: Mapped[dict[str, Any]]
    status: Mapped[ReviewStatus]
    resolution: Mapped[str]
    created_at: Mapped[dt.datetime]
    resolved_at: Mapped[dt.datetime | None]
    resolved_by: Mapped[str]


class AuditRow(Base):
    """``audit_log``: triggers refuse changes and removals, and each row holds the digest of the one before."""

    __tablename__ = "audit_log"
    __table_args__ = (
        Index("ix_audit_log_clip_id", "clip_id"),
        # Two rows never follow the same one.
        Index("ix_audit_log_previous_digest", "previous_digest", unique=True),
    )

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    at: Mapped[dt.datetime]
    actor: Mapped[str]
    action: Mapped[str]
    purpose: Mapped[str]
    clip_id: Mapped[str] = mapped_column(_ID)
    detail: Mapped[str]
    run_id: Mapped[str]
    previous_digest: Mapped[str] = mapped_column(_DIGEST)
    digest: Mapped[str] = mapped_column(_DIGEST)


class DeliveryRow(Base):
    """``deliveries``: one row per version of a delivery."""

    __tablename__ = "deliveries"
    __table_args__ = (UniqueConstraint("name", "version", name="uq_deliveries_name_version"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    name: Mapped[str] = mapped_column(_NAME)
    version: Mapped[str] = mapped_column(_NAME)
    uri: Mapped[str]
    definition: Mapped[dict[str, Any]]
    clip_count: Mapped[int]
    bytes: Mapped[int] = mapped_column(_SIZE)
    created_at: Mapped[dt.datetime]


class DeliveryClipRow(Base):
    """``delivery_clips``: what a delivery contains."""

    __tablename__ = "delivery_clips"
    __table_args__ = (Index("ix_delivery_clips_clip_id", "clip_id"),)

    delivery_id: Mapped[int] = mapped_column(ForeignKey("deliveries.id"), primary_key=True)
    clip_id: Mapped[str] = mapped_column(_ID, ForeignKey("clips.clip_id"), primary_key=True)
    data_versions: Mapped[dict[str, Any]]


class CorrectionRow(Base):
    """``corrections``: what people ordered to be covered; rows are only ever added."""

    __tablename__ = "corrections"
    __table_args__ = (Index("ix_corrections_clip_id", "clip_id"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    clip_id: Mapped[str] = mapped_column(_ID, ForeignKey("clips.clip_id"))
    kind: Mapped[str] = mapped_column(String(32))
    first_frame: Mapped[int]
    last_frame: Mapped[int]
    box_xyxy: Mapped[list[float] | None] = mapped_column(JSON(none_as_null=True))
    origin: Mapped[str]
    actor: Mapped[str]
    note: Mapped[str]
    created_at: Mapped[dt.datetime]


class IncidentRow(Base):
    """``incidents``: what leaked, and what was done about it and when."""

    __tablename__ = "incidents"
    __table_args__ = (
        Index("ix_incidents_clip_id", "clip_id"),
        Index("ix_incidents_resolved_at", "resolved_at"),
    )

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    clip_id: Mapped[str] = mapped_column(_ID, ForeignKey("clips.clip_id"))
    kind: Mapped[str] = mapped_column(String(32))
    first_frame: Mapped[int]
    last_frame: Mapped[int]
    box_xyxy: Mapped[list[float] | None] = mapped_column(JSON(none_as_null=True))
    note: Mapped[str]
    background: Mapped[bool]
    layers: Mapped[list[str]] = mapped_column(JSON())
    quarantined: Mapped[list[dict[str, Any]]]
    deliveries: Mapped[list[dict[str, Any]]]
    opened_at: Mapped[dt.datetime]
    opened_by: Mapped[str]
    quarantined_at: Mapped[dt.datetime | None]
    corrected_at: Mapped[dt.datetime | None]
    purged_at: Mapped[dt.datetime | None]
    resolved_at: Mapped[dt.datetime | None]
    resolved_by: Mapped[str]
    resolution: Mapped[str]


class FrameReviewRow(Base):
    """``frame_reviews``: the latest finding of every reviewer on every frame of every rendering."""

    __tablename__ = "frame_reviews"
    __table_args__ = (
        UniqueConstraint(
            "clip_id", "data_version", "frame_index", "reviewer", name="uq_frame_reviews_frame_reviewer"
        ),
        Index("ix_frame_reviews_data_version", "data_version"),
    )

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    clip_id: Mapped[str] = mapped_column(_ID, ForeignKey("clips.clip_id"))
    data_version: Mapped[str] = mapped_column(String(64))
    frame_index: Mapped[int]
    reviewer: Mapped[str] = mapped_column(_NAME)
    item_id: Mapped[int]
    sampled: Mapped[bool]
    covered: Mapped[dict[str, Any]]
    false_regions: Mapped[dict[str, Any]]
    missed: Mapped[list[dict[str, Any]]]
    reviewed_at: Mapped[dt.datetime]


class EmbeddingRow(Base):
    """``embeddings``: an index of the vectors in the store, one per clip, that can be rebuilt from it.

    On Postgres with pgvector the column ``vector`` is of its type; see :mod:`resources.embeddings`.
    """

    __tablename__ = "embeddings"
    __table_args__ = (Index("ix_embeddings_space", "space"),)

    clip_id: Mapped[str] = mapped_column(_ID, ForeignKey("clips.clip_id"), primary_key=True)
    space: Mapped[str] = mapped_column(_NAME)
    data_version: Mapped[str] = mapped_column(String(64))
    vector: Mapped[bytes] = mapped_column(LargeBinary())


class ErasureRow(Base):
    """``erasures``: one row per clip that was erased; ``pending`` is emptied at the end."""

    __tablename__ = "erasures"

    clip_id: Mapped[str] = mapped_column(_ID, ForeignKey("clips.clip_id"), primary_key=True)
    begun_at: Mapped[dt.datetime]
    completed_at: Mapped[dt.datetime | None]
    actor: Mapped[str]
    reason: Mapped[str]
    content_salt: Mapped[str] = mapped_column(String(64))
    content_digest: Mapped[str] = mapped_column(String(64))
    removed: Mapped[dict[str, Any]]
    deliveries: Mapped[list[dict[str, Any]]]
    pending: Mapped[dict[str, Any] | None]


_CLIP_FIELDS = tuple(field.name for field in fields(Clip))
_FIXED_CLIP_FIELDS = ("clip_id", "created_at", "updated_at")

# --- the database -------------------------------------------------------------------------------------

_instances: weakref.WeakSet[Database] = weakref.WeakSet()


class Database:
    """All access to the metadata database.

    An instance may be shared by threads. Connections are opened at first use and kept until :meth:`close`; a process
    that is forked opens its own.

    Args:
        url: SQLAlchemy URL, such as ``sqlite:///ego_data/metadata.db`` (relative to the working directory at
            this moment) or ``postgresql://user:password@host/name``. What else its query says, such as ``sslmode``,
            goes to the driver.
        pool_size: Connections to Postgres that are kept open.
        max_overflow: Connections beyond those, while many threads want one; a thread that gets none waits.

    Raises:
        ConfigurationError: The URL cannot be read, or names a database in memory, which no other process
            of a run could see.
    """

    def __init__(self, url: str, *, pool_size: int = 5, max_overflow: int = 10) -> None:
        self._url = _normalised_url(url)
        self._pool = {"pool_size": pool_size, "max_overflow": max_overflow}
        self._engine: Engine | None = None
        #: The same for reading: on one consistent state.
        self._reader: Engine | None = None
        #: One that keeps no connections, for those that a lock needs for itself.
        self._unpooled: Engine | None = None
        #: Engines of the process that this one was forked from: not to be used, and not to be closed either.
        self._inherited: list[Engine] = []
        self._lock = threading.Lock()
        self._joined = threading.local()
        _instances.add(self)

    @property
    def url(self) -> str:
        """The URL with its secrets hidden, for messages."""
        if self.is_sqlite:
            return self._url.render_as_string(hide_password=True)
        from resources.postgres import shown_url

        return shown_url(self._url)

    @property
    def is_sqlite(self) -> bool:
        """Whether this is SQLite rather than a database server."""
        return self._url.get_backend_name() == "sqlite"

    @property
    def engine(self) -> Engine:
        """The SQLAlchemy engine, made at first use; for diagnosis, not for queries of other modules."""
        with self._lock:
            if self._engine is None:
                self._engine = self._make_engine()
            return self._engine

    @property
    def _read_engine(self) -> Engine:
        engine = self.engine
        if self.is_sqlite:
            return engine
        with self._lock:
            if self._reader is None:
                self._reader = engine.execution_options(
                    isolation_level="REPEATABLE READ", postgresql_readonly=True
                )
            return self._reader

    def close(self) -> None:
        """Close all connections; the next call opens new ones."""
        with self._lock:
            if self._engine is not None:
                self._engine.dispose()
                self._engine = self._reader = None

    def _forget_connections(self) -> None:
        """Begin anew in a process that was just forked; the connections belong to the other one."""
        if self._engine is not None:
            self._inherited.append(self._engine)
        self._engine = self._reader = self._unpooled = None
        self._lock = threading.Lock()
        self._joined = threading.local()

    # --- schema ---------------------------------------------------------------------------------------

    def upgrade(self) -> None:
        """Bring the tables to the newest revision; several processes may do so at once.

        Raises:
            ConfigurationError: A newer version of this package made the database.
            TransientError: The database cannot be reached.
        """
        with self._errors():
            if self.is_sqlite:
                self._enable_wal()
            if self._revision() == SCHEMA_REVISION:
                return
            self._migrate("upgrade", "head")

    def downgrade(self, revision: str) -> None:
        """Take the tables back to ``revision`` (``base`` removes all); what newer tables hold is lost."""
        with self._errors():
            self._migrate("downgrade", revision)

    def _revision(self) -> str | None:
        with self.engine.connect() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
            return found

    def _migrate(self, direction: str, revision: str) -> None:
        # Importing Alembic takes longer than everything else here, and a database is rarely out of date.
        from alembic import command
        from alembic.config import Config
        from alembic.util.exc import CommandError

        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        with (
            self.engine.execution_options(**{_WRITES: True}).begin() as connection,
            self._sole_upgrade(connection),
        ):
            config.attributes["connection"] = connection
            try:
                if direction == "upgrade":
                    command.upgrade(config, revision)
                else:
                    command.downgrade(config, revision)
            except CommandError as error:
                raise ConfigurationError(
                    f"The metadata database {self.url} cannot be brought to revision {revision}: {error}. "
                    "Either a newer version of ego_assets made it: upgrade ego_assets. Or another program keeps its "
                    "tables there too: Dagster's storage needs a database of its own."
                ) from error

    @contextlib.contextmanager
    def _sole_upgrade(self, connection: Connection) -> Iterator[None]:
        """Let the statements of one upgrade at a time take as long as they need."""
        if self.is_sqlite:
            # The transaction itself keeps the others out.
            yield
            return
        from resources.postgres import unhurried

        while not connection.scalar(select(func.pg_try_advisory_xact_lock(_UPGRADE_LOCK))):
            time.sleep(_ASK_AGAIN_S)
        with unhurried(connection):
            yield

    def _enable_wal(self) -> None:
        """Switch to write-ahead logging, which the file remembers."""
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                with contextlib.closing(self.engine.raw_connection()) as connection:
                    cursor = connection.cursor()
                    if cursor.execute("PRAGMA journal_mode").fetchone() != ("wal",):
                        cursor.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                # The switch needs the file for itself, and unlike a statement it does not wait for others.
                if "locked" not in str(error) or time.monotonic() >= deadline:
                    raise OperationalError("PRAGMA journal_mode", None, error) from error
                time.sleep(0.02)
            except sqlite3.DatabaseError as error:
                raise DatabaseError("PRAGMA journal_mode", None, error) from error

    # --- connections and transactions -----------------------------------------------------------------

    def _make_engine(self) -> Engine:
        if not self.is_sqlite:
            return create_engine(self._url, pool_pre_ping=True, **self._pool, **self._postgres_options())
        path = Path(self._url.database or "")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"The folder {path.parent} of the metadata database cannot be made ({error.strerror}). "
                "Check EGO_DATA_DIR or EGO_DATABASE_URL."
            ) from error
        engine = create_engine(self._url, json_serializer=_to_json, connect_args={"timeout": BUSY_TIMEOUT_S})
        event.listen(engine, "connect", _prepare_sqlite_connection)
        event.listen(engine, "begin", _begin_sqlite_transaction)
        return engine

    def _postgres_options(self) -> dict[str, Any]:
        from resources.postgres import connect_arguments

        return {
            "json_serializer": _to_json,
            "connect_args": connect_arguments(self._url, lock_timeout_s=BUSY_TIMEOUT_S),
        }

    @contextlib.contextmanager
    def exclusive(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        """Keep everybody else out of what follows under this name: other threads and other processes.

        It lasts for hours where it has to, holds up nobody who does not ask for it, and ends with the process. On
        Postgres it also ends with the connection, when the server is restarted: what must not be lost then needs a
        transaction besides. The same thread cannot enter it twice.

        Args:
            name: What is done.
            wait: Whether to wait until nobody else does it.

        Yields:
            Whether it is ours; ``False`` only without ``wait``.

        Raises:
            RuntimeError: It is asked for inside a transaction, whose locks others might be waiting for.
            TransientError: The database cannot be reached.
        """
        if getattr(self._joined, "session", None) is not None:
            raise RuntimeError(f"exclusive({name!r}): expected to be outside of a transaction")
        with (
            self._exclusive_file(name, wait)
            if self.is_sqlite
            else self._exclusive_session(name, wait) as ours
        ):
            yield ours

    @contextlib.contextmanager
    def _exclusive_file(self, name: str, wait: bool) -> Iterator[bool]:
        """A file beside the database that one holds at a time."""
        database = Path(self._url.database or "")
        path = database.with_name(f"{database.name}.locks") / f"{uuid.uuid5(uuid.NAMESPACE_OID, name)}.lock"
        with self._errors():
            try:
                descriptor = _lock_file(path, wait=wait)
            except OSError as error:
                raise TransientError(
                    f"{path} cannot be made or locked ({error.strerror}). Check that the disk has space and that the "
                    "folder may be written to, then try again."
                ) from error
        if descriptor is None:
            yield False
            return
        try:
            yield True
        finally:
            # Whoever waits for it sees that it is gone, and makes a new one.
            path.unlink(missing_ok=True)
            os.close(descriptor)

    @contextlib.contextmanager
    def _exclusive_session(self, name: str, wait: bool) -> Iterator[bool]:
        """A lock of the server on a connection of its own, of which the pool has no need to know."""
        with self._lock:
            if self._unpooled is None:
                self._unpooled = create_engine(self._url, poolclass=NullPool, **self._postgres_options())
            engine = self._unpooled
        number = _lock_number(f"exclusive {name}")
        with contextlib.ExitStack() as stack:
            with self._errors():
                connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
                stack.callback(_give_back, connection)
                while (
                    not (ours := bool(connection.scalar(select(func.pg_try_advisory_lock(number))))) and wait
                ):
                    time.sleep(_ASK_AGAIN_S)
            if not ours:
                stack.close()
            yield ours

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Join everything this thread does inside the ``with`` into one transaction; nesting is allowed."""
        with self.write_session():
            yield

    @contextlib.contextmanager
    def write_session(self) -> Iterator[Session]:
        """A session whose changes become visible together at the end, or not at all."""
        joined: Session | None = getattr(self._joined, "session", None)
        if joined is not None:
            yield joined
            return
        with self._errors(), Session(self.engine.execution_options(**{_WRITES: True})) as session:
            self._joined.session = session
            try:
                with session.begin():
                    # Taking the write lock now rather than at the first change: a reader that turns into a
                    # writer is refused at once when somebody else wrote in between.
                    session.connection()
                    yield session
            finally:
                self._joined.session = None

    @contextlib.contextmanager
    def read_session(self) -> Iterator[Session]:
        """A session on one consistent state; inside a transaction it sees that transaction's changes."""
        joined: Session | None = getattr(self._joined, "session", None) or getattr(
            self._joined, "reader", None
        )
        if joined is not None:
            yield joined
            return
        with self._errors(), Session(self._read_engine) as session:
            self._joined.reader = session
            try:
                yield session
            finally:
                self._joined.reader = None

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Translate failures of the database into errors that say what to do."""
        try:
            yield
        except PoolTimeoutError as error:
            raise TransientError(
                f"All {sum(self._pool.values())} connections to the metadata database {self.url} are in use. "
                "Try again, or raise EGO_DATABASE_MAX_OVERFLOW."
            ) from error
        except (OperationalError, ProgrammingError) as error:
            if _is_missing_table(error):
                raise ConfigurationError(
                    f"The metadata database {self.url} has no tables yet. Every `ego-assets` command makes "
                    "them; from code call Database.upgrade() first."
                ) from error
            if _is_refused(error):
                raise ConfigurationError(
                    f"The metadata database {self.url} does not let us in ({_said(error)}). "
                    "Check EGO_DATABASE_URL."
                ) from error
            if isinstance(error, ProgrammingError):
                raise
            raise TransientError(
                f"The metadata database {self.url} cannot be used at the moment ({_said(error)}). "
                "Check that it is reachable and that its disk has space, then try again."
            ) from error
        except DBAPIError as error:
            if error.connection_invalidated:
                raise TransientError(
                    f"The connection to the metadata database {self.url} was lost ({_said(error)}). "
                    "Try again."
                ) from error
            if _is_damaged(error):
                raise ConfigurationError(
                    f"The file of the metadata database {self.url} is damaged, or no database ({error.orig}). "
                    "Restore it from a backup; `ego-assets reindex` then finds what the store holds."
                ) from error
            raise

    # --- clips ----------------------------------------------------------------------------------------

    def add_clip(self, clip: Clip) -> None:
        """Register a clip.

        Raises:
            ClipExists: The id is taken.
        """
        if not is_clip_id(clip.clip_id):
            raise ValueError(f"clip_id: expected a lower-case UUID, got {clip.clip_id!r}")
        values = {name: _column_value(name, getattr(clip, name)) for name in _CLIP_FIELDS}
        with self.write_session() as session:
            if session.get(ClipRow, clip.clip_id) is not None:
                raise ClipExists(clip.clip_id)
            try:
                # Of a transaction that this one is part of nothing else is lost.
                with session.begin_nested():
                    session.add(ClipRow(**values))
            except IntegrityError as error:
                raise ClipExists(clip.clip_id) from error

    def clip(self, clip_id: str) -> Clip:
        """The clip; :class:`UnknownClip` when it is not registered."""
        found = self.find_clip(clip_id)
        if found is None:
            raise UnknownClip(clip_id)
        return found

    def find_clip(self, clip_id: str) -> Clip | None:
        """The clip, or ``None`` when it is not registered."""
        with self.read_session() as session:
            return _maybe(Clip, session.get(ClipRow, clip_id, populate_existing=True))

    def source_names(self, clip_ids: Iterable[str]) -> dict[str, str]:
        """Names of the uploaded files by clip; clips that are not registered are left out."""
        wanted = sorted({*clip_ids})
        found: dict[str, str] = {}
        with self.read_session() as session:
            for start in range(0, len(wanted), _SLICE):
                query = select(ClipRow.clip_id, ClipRow.source_name).where(
                    ClipRow.clip_id.in_(wanted[start : start + _SLICE])
                )
                found |= {clip_id: name for clip_id, name in session.execute(query)}
        return found

    def clips(self, *, collector_id: str | None = None) -> list[Clip]:
        """All clips, or those of one collector, in the order of their registration; erased ones are left out."""
        query = (
            select(ClipRow).where(ClipRow.erased_at.is_(None)).order_by(ClipRow.created_at, ClipRow.clip_id)
        )
        if collector_id is not None:
            query = query.where(ClipRow.collector_id == collector_id)
        with self.read_session() as session:
            return [record_of(Clip, row) for row in session.scalars(query)]

    def update_clip(self, clip_id: str, **changes: Any) -> Clip:
        """Set fields of a clip and its ``updated_at``, and return it as it is then.

        Raises:
            UnknownClip: It is not registered.
            ValueError: A field does not exist, is fixed, or has a value of the wrong type.
        """
        allowed = [name for name in _CLIP_FIELDS if name not in _FIXED_CLIP_FIELDS]
        unknown = sorted(set(changes) - set(allowed))
        if unknown:
            raise ValueError(
                f"clip {clip_id}: cannot set {', '.join(unknown)}; fields are {', '.join(allowed)}"
            )
        values = {name: _column_value(name, value) for name, value in changes.items()}
        with self.write_session() as session:
            row = self._clip_row(session, clip_id)
            for name, value in values.items():
                setattr(row, name, value)
            row.updated_at = utc_now()
            session.flush()
            return record_of(Clip, row)

    def clip_with_digest(self, sha256: str) -> Clip | None:
        """The earliest clip with this original that is not itself a duplicate, or ``None``."""
        with self.read_session() as session:
            return _maybe(Clip, _holder(session, sha256))

    def is_erased(self, clip_id: str) -> bool:
        """Whether the erasure of a clip has begun; what is left of it is a shell that keeps its id from being used."""
        with self.read_session() as session:
            query = select(ClipRow.erased_at).where(ClipRow.clip_id == clip_id)
            return session.scalar(query) is not None

    def clip_with_upload(self, upload_uri: str) -> Clip | None:
        """The clip that was last registered from this upload, or ``None``."""
        query = (
            select(ClipRow)
            .where(ClipRow.upload_uri == upload_uri)
            .order_by(ClipRow.created_at.desc(), ClipRow.clip_id)
            .limit(1)
        )
        with self.read_session() as session:
            return _maybe(Clip, session.scalars(query).first())

    def record_original(self, clip_id: str, *, raw_key: str, raw_sha256: str, raw_bytes: int) -> Clip:
        """Note that the original of a clip is in the vault, unless another clip has the same content.

        Of several clips with the same content that are ingested at once exactly one gets it; for the others
        ``duplicate_of`` is set and the ``raw_*`` fields stay as they were.

        Returns:
            The clip as it is then; ``duplicate_of`` tells which case it was.
        """
        with self.write_session() as session:
            if not self.is_sqlite:
                session.execute(select(func.pg_advisory_xact_lock(int(raw_sha256[:15], 16))))
            row = self._clip_row(session, clip_id)
            holder = _holder(session, raw_sha256, other_than=clip_id)
            if holder is not None:
                row.duplicate_of = holder.clip_id
            else:
                row.duplicate_of = ""
                row.raw_key, row.raw_sha256, row.raw_bytes = raw_key, raw_sha256, raw_bytes
            row.updated_at = utc_now()
            session.flush()
            return record_of(Clip, row)

    def lock_clip(self, clip_id: str) -> None:
        """Keep other writers away from a clip until the end of the transaction that this is called in.

        Raises:
            UnknownClip: The clip is not registered.
        """
        with self.write_session() as session:
            self._clip_row(session, clip_id)

    def _clip_row(self, session: Session, clip_id: str) -> ClipRow:
        """The row, locked until the end of the transaction; :class:`ClipErased` when the clip was erased."""
        row = self._find_clip_row(session, clip_id)
        if row is None:
            raise UnknownClip(clip_id)
        return row

    def _find_clip_row(self, session: Session, clip_id: str) -> ClipRow | None:
        # Its key stays as it is, so whoever adds a row that refers to it need not wait.
        row = session.get(ClipRow, clip_id, populate_existing=True, with_for_update={"key_share": True})
        # Here rather than before: a layer that began earlier records nothing of a clip that was erased meanwhile.
        if row is not None and row.erased_at is not None:
            raise ClipErased(clip_id)
        return row

    def lock_clips(self, clip_ids: Iterable[str]) -> None:
        """As :meth:`lock_clip` for several clips, in the order in which everybody locks them, erased ones too.

        Raises:
            UnknownClip: One is not registered.
        """
        wanted = sorted({*clip_ids})
        with self.write_session() as session:
            for start in range(0, len(wanted), _SLICE):
                part = wanted[start : start + _SLICE]
                query = select(ClipRow).where(ClipRow.clip_id.in_(part)).order_by(ClipRow.clip_id)
                found = session.scalars(_fresh(query).with_for_update(key_share=True))
                missing = sorted({*part} - {row.clip_id for row in found})
                if missing:
                    raise UnknownClip(missing[0])

    # --- gates, layers, artifacts ---------------------------------------------------------------------

    def record_gates(
        self,
        clip_id: str,
        layer: str,
        results: Sequence[GateResult],
        *,
        data_version: str,
        run_id: str,
        replace_layer: bool = False,
    ) -> None:
        """Replace the latest verdicts of these gates.

        Args:
            clip_id: The clip.
            layer: The layer the gates belong to.
            results: The verdicts.
            data_version: Data version of the judged artifact; empty when none was made.
            run_id: Dagster run.
            replace_layer: ``results`` are all gates that the layer has: verdicts of gates that it had once
                are dropped, so that they stop no clip for ever.

        Raises:
            UnknownClip: The clip is not registered.
        """
        now = utc_now()
        rows = [
            {
                "clip_id": clip_id,
                "layer": layer,
                "gate": result.spec.name,
                "outcome": result.outcome,
                "blocking": result.spec.blocking,
                "value": _finite(result.value),
                "threshold": _finite(result.spec.threshold),
                "unit": result.spec.unit,
                "message": result.message,
                "details": dict(result.details),
                "data_version": data_version,
                "run_id": run_id,
                "evaluated_at": now,
            }
            for result in results
        ]
        with self.write_session() as session:
            self._clip_row(session, clip_id)
            if replace_layer:
                session.execute(
                    delete(GateRow).where(
                        GateRow.clip_id == clip_id,
                        GateRow.layer == layer,
                        GateRow.gate.not_in([row["gate"] for row in rows]),
                    )
                )
            self._upsert(session, GateRow, rows)

    def gates(self, clip_id: str | None = None, layer: str | None = None) -> list[GateRecord]:
        """The latest verdicts, of all clips and layers or of the given ones."""
        query = select(GateRow).order_by(GateRow.clip_id, GateRow.layer, GateRow.gate)
        if clip_id is not None:
            query = query.where(GateRow.clip_id == clip_id)
        if layer is not None:
            query = query.where(GateRow.layer == layer)
        with self.read_session() as session:
            return [record_of(GateRecord, row) for row in session.scalars(_fresh(query))]

    def record_layer_state(
        self,
        clip_id: str,
        layer: str,
        state: str,
        *,
        reason: str = "",
        attempts: int = 1,
        run_id: str = "",
        duration_s: float | None = None,
    ) -> None:
        """Record how a layer ended on a clip; it replaces what was recorded before.

        Raises:
            UnknownClip: The clip is not registered.
        """
        row = {
            "clip_id": clip_id,
            "layer": layer,
            "state": str(state),
            "reason": reason,
            "attempts": attempts,
            "run_id": run_id,
            "duration_s": _finite(duration_s),
            "updated_at": utc_now(),
        }
        with self.write_session() as session:
            self._clip_row(session, clip_id)
            self._upsert(session, LayerStateRow, [row])

    def layer_states(self, clip_id: str | None = None) -> list[LayerStateRecord]:
        """How the layers last ended, on all clips or on one."""
        query = select(LayerStateRow).order_by(LayerStateRow.clip_id, LayerStateRow.layer)
        if clip_id is not None:
            query = query.where(LayerStateRow.clip_id == clip_id)
        with self.read_session() as session:
            return [record_of(LayerStateRecord, row) for row in session.scalars(_fresh(query))]

    def record_artifact(self, document: ArtifactDocument, *, uri: str) -> None:
        """Index a committed version as the current one of its layer."""
        with self.write_session() as session:
            # Of two versions that are recorded at once the second one is current.
            self._find_clip_row(session, document.clip_id)
            session.execute(
                update(ArtifactRow)
                .where(ArtifactRow.clip_id == document.clip_id, ArtifactRow.layer == document.layer)
                .values(current=False)
            )
            self._upsert(session, ArtifactRow, [_artifact_values(document, uri)])

    def artifacts(self, clip_id: str | None = None, current_only: bool = True) -> list[ArtifactRecord]:
        """The indexed versions, current ones only or all, by clip, layer and time of commit."""
        query = select(ArtifactRow).order_by(
            ArtifactRow.clip_id, ArtifactRow.layer, ArtifactRow.committed_at, ArtifactRow.version_id
        )
        if clip_id is not None:
            query = query.where(ArtifactRow.clip_id == clip_id)
        if current_only:
            query = query.where(ArtifactRow.current)
        with self.read_session() as session:
            return [record_of(ArtifactRecord, row) for row in session.scalars(_fresh(query))]

    def replace_artifact_index(self, documents: Iterable[tuple[ArtifactDocument, str]]) -> int:
        """Rebuild the index from the current documents of the store and their URIs; returns their number."""
        rows = [_artifact_values(document, uri) for document, uri in documents]
        with self.write_session() as session:
            if not self.is_sqlite:
                # Before any row is locked: who records a version has locked its clip, and waits here.
                session.execute(text("LOCK TABLE artifacts IN EXCLUSIVE MODE"))
            session.execute(delete(ArtifactRow))
            self._upsert(session, ArtifactRow, rows)
        return len(rows)

    def forget_layers(self, clip_id: str, bits: Mapping[str, int | None]) -> None:
        """Take back everything that is recorded of some layers of a clip, as if they had not run yet.

        Their versions stay in the index, none of them as the current one. Whether the clip failed is for the
        caller to say: a gate that stopped it may be gone now.

        Args:
            clip_id: The clip.
            bits: Position in the completeness bitfield by layer; ``None`` for a layer that has none.

        Raises:
            UnknownClip: The clip is not registered.
        """
        with self.write_session() as session:
            self._clip_row(session, clip_id)
            for table in (GateRow, LayerStateRow):
                session.execute(delete(table).where(table.clip_id == clip_id, table.layer.in_(list(bits))))
            session.execute(
                update(ArtifactRow)
                .where(ArtifactRow.clip_id == clip_id, ArtifactRow.layer.in_(list(bits)))
                .values(current=False)
            )
            if EMBEDDINGS_LAYER in bits:
                session.execute(delete(EmbeddingRow).where(EmbeddingRow.clip_id == clip_id))
            for layer, bit in bits.items():
                self.refresh_progress(clip_id, layer=layer, bit=bit, present=False)

    def forget_version(self, clip_id: str, layer: str, version_id: str) -> None:
        """Take a version that is gone from the store, and is not the current one, out of the index."""
        with self.write_session() as session:
            session.execute(
                delete(ArtifactRow).where(
                    ArtifactRow.clip_id == clip_id,
                    ArtifactRow.layer == layer,
                    ArtifactRow.version_id == version_id,
                    ArtifactRow.current.is_(False),
                )
            )

    def refresh_progress(self, clip_id: str, *, layer: str, bit: int | None, present: bool) -> Clip:
        """Derive a clip's completeness bit of ``layer`` and its display status from what is recorded.

        The bit is set when the layer is present and each of its blocking gates was evaluated and did not
        fail.

        Args:
            clip_id: The clip.
            layer: The layer that just ended.
            bit: Position of the layer in the bitfield; ``None`` for a layer that has none.
            present: Whether the layer is committed.
        """
        with self.write_session() as session:
            row = self._clip_row(session, clip_id)
            if bit is not None:
                unproven = session.scalar(
                    select(func.count()).where(
                        GateRow.clip_id == clip_id,
                        GateRow.layer == layer,
                        GateRow.blocking,
                        GateRow.outcome.in_([GateOutcome.FAILED, GateOutcome.NOT_EVALUATED]),
                    )
                )
                mask = 1 << bit
                row.completeness = (
                    row.completeness | mask if present and not unproven else row.completeness & ~mask
                )
            committed = session.scalars(
                select(ArtifactRow.layer).where(ArtifactRow.clip_id == clip_id, ArtifactRow.current)
            ).all()
            row.processing_status = derive_processing_status(
                committed, delivered=_is_delivered(session, clip_id)
            )
            row.updated_at = utc_now()
            session.flush()
            return record_of(Clip, row)

    def refusal(self, clip_id: str, *, inputs: Sequence[str], held_stops: bool = True) -> str | None:
        """Why a clip may not go on, as a sentence that says what to do, or ``None`` when it may.

        Args:
            clip_id: The clip.
            inputs: Layers whose failed blocking gates stop it.
            held_stops: Whether a clip that is held is refused.

        Raises:
            UnknownClip: It is not registered.
        """
        return self.standing(clip_id).refusal(inputs=inputs, held_stops=held_stops)

    def standing(self, clip_id: str) -> ClipStanding:
        """What decides whether a clip may go on.

        Raises:
            UnknownClip: It is not registered.
        """
        with self.read_session():
            clip = self.clip(clip_id)
            by_incident = (
                clip.withdrawn
                and clip.withdrawn_reason.startswith(INCIDENT_WITHDRAWAL)
                and self.open_incident(clip_id) is not None
            )
            return ClipStanding(
                clip=clip,
                gates=self.gates(clip_id),
                leaking_incident=self.open_incident(clip_id, leaking_only=True),
                withdrawn=clip.withdrawn and not by_incident,
                erased=self.is_erased(clip_id),
                postponed=frozenset(
                    state.layer for state in self.layer_states(clip_id) if state.state == _POSTPONED
                ),
            )

    def open_incident(self, clip_id: str, *, leaking_only: bool = False) -> int | None:
        """Number of the clip's oldest incident that is not resolved, or ``None``.

        Args:
            clip_id: The clip.
            leaking_only: Only one whose leaking versions are not all in quarantine.
        """
        query = select(func.min(IncidentRow.id)).where(
            IncidentRow.clip_id == clip_id, IncidentRow.resolved_at.is_(None)
        )
        if leaking_only:
            query = query.where(IncidentRow.quarantined_at.is_(None))
        with self.read_session() as session:
            found: int | None = session.scalar(query)
            return found

    # --- reviews --------------------------------------------------------------------------------------

    def add_review_item(
        self,
        clip_id: str,
        *,
        layer: str,
        kind: ReviewKind,
        risk: ReviewRisk,
        reason: str,
        details: Mapping[str, Any] | None = None,
    ) -> int:
        """Ask for a person to look at a clip, and mark the clip.

        An open item of the same clip, layer and kind is updated instead; its risk is never lowered that way.

        Returns:
            The number of the item.

        Raises:
            UnknownClip: The clip is not registered.
        """
        with self.write_session() as session:
            clip = self._clip_row(session, clip_id)
            item = session.scalars(
                select(ReviewRow).where(
                    ReviewRow.clip_id == clip_id,
                    ReviewRow.layer == layer,
                    ReviewRow.kind == kind,
                    ReviewRow.status == ReviewStatus.OPEN,
                )
            ).first()
            if item is None:
                item = ReviewRow(
                    clip_id=clip_id,
                    layer=layer,
                    kind=kind,
                    risk=risk,
                    status=ReviewStatus.OPEN,
                    resolution="",
                    created_at=utc_now(),
                    resolved_by="",
                )
                session.add(item)
            elif risk is ReviewRisk.HIGH:
                item.risk = risk
            item.reason, item.details = reason, dict(details or {})
            session.flush()
            self._mark_clip(session, clip)
            return item.id

    def review_items(
        self, status: ReviewStatus | str | None = None, clip_id: str | None = None
    ) -> list[ReviewItem]:
        """Review items in the order of their numbers, all or those of one status and clip."""
        query = select(ReviewRow).order_by(ReviewRow.id)
        if status is not None:
            query = query.where(ReviewRow.status == ReviewStatus(status))
        if clip_id is not None:
            query = query.where(ReviewRow.clip_id == clip_id)
        with self.read_session() as session:
            return [record_of(ReviewItem, row) for row in session.scalars(_fresh(query))]

    def review_item(self, item_id: int) -> ReviewItem:
        """One review item.

        Raises:
            ReviewItemError: There is no such item.
        """
        with self.read_session() as session:
            found = _maybe(ReviewItem, session.get(ReviewRow, item_id, populate_existing=True))
        if found is None:
            raise ReviewItemError(f"There is no review item {item_id}. List them with `ego-assets review`.")
        return found

    def resolve_review_item(self, item_id: int, *, resolution: str, actor: str) -> ReviewItem:
        """Close an item; the clip's ``needs_review`` is cleared when no other one is open.

        Raises:
            ReviewItemError: There is no such item, or it is resolved already.
        """
        with self.write_session() as session:
            item = session.get(ReviewRow, item_id, populate_existing=True)
            if item is None:
                raise ReviewItemError(
                    f"There is no review item {item_id}. List them with `ego-assets review`."
                )
            self._clip_row(session, item.clip_id)
            session.refresh(item)
            if item.status is ReviewStatus.RESOLVED:
                raise ReviewItemError(
                    f"Review item {item_id} was resolved by {item.resolved_by} already: {item.resolution!r}. "
                    "A resolution is not changed afterwards."
                )
            self._resolve(session, [item], resolution=resolution, actor=actor)
            return record_of(ReviewItem, item)

    def close_layer_reviews(self, clip_id: str, layer: str) -> int:
        """Resolve the open items that said the layer or its gates had failed, because now it passed.

        Items about personal data stay open: only a person resolves those. Returns the number resolved.
        """
        with self.write_session() as session:
            self._clip_row(session, clip_id)
            items = session.scalars(
                select(ReviewRow).where(
                    ReviewRow.clip_id == clip_id,
                    ReviewRow.layer == layer,
                    ReviewRow.kind.in_([ReviewKind.LAYER_FAILED, ReviewKind.GATE_FAILED]),
                    ReviewRow.status == ReviewStatus.OPEN,
                )
            ).all()
            self._resolve(session, items, resolution="The layer passed later.", actor="ego-assets")
            return len(items)

    def _resolve(self, session: Session, items: Sequence[ReviewRow], *, resolution: str, actor: str) -> None:
        for item in items:
            item.status, item.resolution = ReviewStatus.RESOLVED, resolution
            item.resolved_at, item.resolved_by = utc_now(), actor
        session.flush()
        for clip_id in sorted({item.clip_id for item in items}):
            self._mark_clip(session, self._clip_row(session, clip_id))
        session.flush()

    def _mark_clip(self, session: Session, clip: ClipRow) -> None:
        """Derive ``needs_review``: every clip has a random audit, which is no reason to worry about this one."""
        newest_open = session.scalars(
            select(ReviewRow)
            .where(
                ReviewRow.clip_id == clip.clip_id,
                ReviewRow.status == ReviewStatus.OPEN,
                or_(ReviewRow.kind != ReviewKind.RANDOM_AUDIT, ReviewRow.risk == ReviewRisk.HIGH),
            )
            .order_by(ReviewRow.id.desc())
            .limit(1)
        ).first()
        clip.needs_review = newest_open is not None
        clip.needs_review_reason = newest_open.reason if newest_open is not None else ""
        clip.updated_at = utc_now()

    # --- audit ----------------------------------------------------------------------------------------

    def write_audit(
        self,
        *,
        actor: str,
        action: str,
        purpose: str = "",
        clip_id: str = "",
        detail: str = "",
        run_id: str = "",
    ) -> None:
        """Append a row to the audit log; see :meth:`resources.audit.AuditLog.append`.

        Raises:
            ValueError: Actor or action is empty.
        """
        from resources.audit import AuditLog

        AuditLog(self).append(
            actor=actor, action=action, purpose=str(purpose), clip_id=clip_id, detail=detail, run_id=run_id
        )

    def audit_log(
        self,
        clip_id: str | None = None,
        *,
        actor: str = "",
        action: str = "",
        since: dt.datetime | None = None,
    ) -> list[AuditEntry]:
        """The audit log, oldest first; :meth:`resources.audit.AuditLog.entries` has more filters.

        Args:
            clip_id: Only rows about this clip.
            actor: Only rows whose actor contains this, in upper or lower case.
            action: Only rows whose action contains this, in upper or lower case.
            since: Only rows from this moment on.
        """
        from resources.audit import AuditFilter, AuditLog

        wanted = AuditFilter(clip_id=clip_id, actor=actor, action=action, since=since)
        with self.read_session():
            return list(AuditLog(self).entries(wanted))

    # --- deliveries -----------------------------------------------------------------------------------

    def add_delivery(
        self,
        *,
        name: str,
        version: str,
        uri: str,
        definition: Mapping[str, Any],
        bytes: int,
        clips: Mapping[str, Mapping[str, str]],
    ) -> int:
        """Record a finished delivery and give its clips the status *delivered*.

        Recording the same content again returns the same number.

        Args:
            name: Name of the delivery.
            version: Version, unique within the name.
            uri: Where it lies.
            definition: What was asked for, JSON-serialisable.
            bytes: Size.
            clips: Data version of every delivered layer, by clip and layer.

        Raises:
            DeliveryExists: The version exists with other content.
            UnknownClip: A clip is not registered.
        """
        with self.write_session() as session:
            self.lock_clips(clips)
            if not self.is_sqlite:
                session.execute(select(func.pg_advisory_xact_lock(_lock_number(name))))
            row = session.scalars(
                select(DeliveryRow).where(DeliveryRow.name == name, DeliveryRow.version == version)
            ).first()
            if row is not None:
                known = {clip.clip_id: dict(clip.data_versions) for clip in self.delivery_clips(row.id)}
                if known != {clip_id: dict(versions) for clip_id, versions in clips.items()}:
                    raise DeliveryExists(
                        f"Delivery {name!r} has a version {version!r} with other clips or other data "
                        "versions, and a delivery never changes. Choose a new version."
                    )
                return row.id
            row = DeliveryRow(
                name=name,
                version=version,
                uri=uri,
                definition=dict(definition),
                clip_count=len(clips),
                bytes=int(bytes),
                created_at=utc_now(),
            )
            session.add(row)
            session.flush()
            for clip_id, versions in sorted(clips.items()):
                clip = self._clip_row(session, clip_id)
                clip.processing_status, clip.updated_at = ProcessingStatus.DELIVERED, utc_now()
                session.add(
                    DeliveryClipRow(delivery_id=row.id, clip_id=clip_id, data_versions=dict(versions))
                )
            session.flush()
            return row.id

    def deliveries(self) -> list[Delivery]:
        """All deliveries, oldest first."""
        with self.read_session() as session:
            return [
                record_of(Delivery, row)
                for row in session.scalars(select(DeliveryRow).order_by(DeliveryRow.id))
            ]

    def deliveries_of(self, clip_id: str) -> list[tuple[Delivery, DeliveryClip]]:
        """The deliveries that hold a clip, oldest first, each with what it holds of it."""
        query = (
            select(DeliveryRow, DeliveryClipRow)
            .join(DeliveryClipRow, DeliveryClipRow.delivery_id == DeliveryRow.id)
            .where(DeliveryClipRow.clip_id == clip_id)
            .order_by(DeliveryRow.id)
        )
        with self.read_session() as session:
            return [
                (record_of(Delivery, delivery), record_of(DeliveryClip, clip))
                for delivery, clip in session.execute(query)
            ]

    def delivery_clips(self, delivery_id: int) -> list[DeliveryClip]:
        """The clips of a delivery, by id; empty for an unknown delivery."""
        query = (
            select(DeliveryClipRow)
            .where(DeliveryClipRow.delivery_id == delivery_id)
            .order_by(DeliveryClipRow.clip_id)
        )
        with self.read_session() as session:
            return [record_of(DeliveryClip, row) for row in session.scalars(query)]

    def _upsert(self, session: Session, table: type[Base], rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert rows, replacing those with the same primary key."""
        insert: Callable[..., Any] = sqlite_insert if self.is_sqlite else postgresql_insert
        keys = [column.name for column in inspect(table).primary_key]
        # In one order everywhere, so that two writers never wait for each other; in slices, because the
        # number of bound values of one statement is limited.
        ordered = sorted(rows, key=lambda row: tuple(str(row[key]) for key in keys))
        for start in range(0, len(ordered), _SLICE):
            statement = insert(table).values(ordered[start : start + _SLICE])
            changed = {name: statement.excluded[name] for name in ordered[start] if name not in keys}
            session.execute(statement.on_conflict_do_update(index_elements=keys, set_=changed))


# --- helpers ------------------------------------------------------------------------------------------


def _forget_connections_after_fork() -> None:
    for database in list(_instances):
        database._forget_connections()


os.register_at_fork(after_in_child=_forget_connections_after_fork)


def _normalised_url(url: str) -> URL:
    """The URL with its driver named, and the path of a SQLite file made absolute."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # What was wrong with it may hold a part of the password.
        raise ConfigurationError(
            "EGO_DATABASE_URL is no database URL: expected something like sqlite:///ego_data/metadata.db or "
            "postgresql://user:password@host:port/name, with %40 for an @ and %3A for a : in the password."
        ) from None
    backend = parsed.get_backend_name()
    if backend in ("postgres", "postgresql"):
        plain = parsed.drivername in ("postgres", "postgresql")
        return parsed.set(drivername="postgresql+psycopg2") if plain else parsed
    if backend != "sqlite":
        raise ConfigurationError(
            f"EGO_DATABASE_URL names {backend!r}: expected sqlite:///path or postgresql://user:password@host/name."
        )
    if not parsed.database or parsed.database == ":memory:":
        raise ConfigurationError(
            "EGO_DATABASE_URL names a SQLite database in memory, which other processes of a run cannot see: "
            "give a path, such as sqlite:///ego_data/metadata.db."
        )
    return parsed.set(database=str(Path(parsed.database).expanduser().absolute()))


def _prepare_sqlite_connection(connection: Any, _record: Any) -> None:
    # The driver would otherwise begin transactions on its own, and only before some statements.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite_transaction(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _is_missing_table(error: DBAPIError) -> bool:
    if "no such table" in str(error.orig):
        return True
    return getattr(error.orig, "pgcode", None) == "42P01"


def _is_refused(error: DBAPIError) -> bool:
    """Whether the server answered that it does not want us, which asking again does not change."""
    if getattr(error.orig, "pgcode", None) is not None or isinstance(error.orig, sqlite3.Error):
        return False
    # A connection that was not made has no code, only a text.
    refusals = (
        "password authentication failed",
        "no password supplied",
        "no pg_hba.conf entry",
        "does not exist",
        "invalid dsn",
        "invalid sslmode",
        "certificate",
        "server does not support SSL",
    )
    return any(refusal in str(error.orig) for refusal in refusals)


def _said(error: DBAPIError) -> str:
    """What the database said, in one line."""
    return " ".join(str(error.orig).split())


def _is_damaged(error: DBAPIError) -> bool:
    known = ("malformed", "file is not a database")
    return isinstance(error, DatabaseError) and any(sign in str(error.orig) for sign in known)


def _lock_file(path: Path, *, wait: bool) -> int | None:
    """Make a file that one process and thread holds at a time; ``None`` when somebody else does and we do not wait.

    Returns:
        Its descriptor; closing it gives it back, and so does the end of the process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who held it before removes it, and then others no longer find the one that we have.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _give_back(connection: Connection) -> None:
    """Give back the locks of a connection and close it; where the server is gone, they are gone too."""
    with contextlib.suppress(DBAPIError):
        connection.execute(select(func.pg_advisory_unlock_all()))
    with contextlib.suppress(DBAPIError):
        # Closed at once, without asking the server for anything else.
        connection.invalidate()
        connection.close()


def record_of(kind: type[RecordT], row: Base) -> RecordT:
    """The row as the dataclass that callers get."""
    return kind(**{field.name: getattr(row, field.name) for field in fields(kind)})  # type: ignore[arg-type]


def _maybe(kind: type[RecordT], row: Base | None) -> RecordT | None:
    return None if row is None else record_of(kind, row)


def _fresh(query: Any) -> Any:
    """The query, reading rows anew that the session of a transaction has seen before an upsert."""
    return query.execution_options(populate_existing=True)


def _holder(session: Session, sha256: str, other_than: str = "") -> ClipRow | None:
    """The earliest clip whose original has this digest."""
    query = (
        select(ClipRow)
        .where(ClipRow.raw_sha256 == sha256, ClipRow.duplicate_of == "", ClipRow.clip_id != other_than)
        .order_by(ClipRow.created_at, ClipRow.clip_id)
        .limit(1)
    )
    return session.scalars(query).first() if sha256 else None


def _is_delivered(session: Session, clip_id: str) -> bool:
    query = select(func.count()).where(DeliveryClipRow.clip_id == clip_id)
    return bool(session.scalar(query))


def _artifact_values(document: ArtifactDocument, uri: str) -> dict[str, Any]:
    return {
        "clip_id": document.clip_id,
        "layer": document.layer,
        "version_id": document.version_id,
        "data_version": document.data_version,
        "uri": uri,
        "bytes": sum(entry.bytes for entry in document.files),
        "backends": [asdict(backend) for backend in document.backends],
        "current": True,
        "committed_at": dt.datetime.fromisoformat(document.committed_at),
    }


def _column_value(name: str, value: Any) -> Any:
    """``value`` in the plain Python type of a column of ``clips``, which drivers need.

    Raises:
        ValueError: The value is of another kind.
    """
    column = inspect(ClipRow).columns[name]
    try:
        if value is None:
            if not column.nullable:
                raise ValueError("may not be empty")
            return None
        kind = column.type
        if isinstance(kind, Enum):
            return kind.enum_class(value)  # type: ignore[misc]
        if isinstance(kind, Float):
            return _finite(value)
        if isinstance(kind, JSON):
            return dict(value)
        expected = kind.python_type
        if expected is int and not isinstance(value, bool | str | float):
            return int(value)
        if expected is bool and hasattr(value, "dtype"):
            return bool(value)
        if type(value) is not expected and not (expected is str and isinstance(value, str)):
            raise TypeError(f"expected {expected.__name__}")
        return str(value) if expected is str else value
    except (TypeError, ValueError) as error:
        raise ValueError(f"clip field {name}: {error}, got {value!r}") from None


def _finite(value: float | None) -> float | None:
    """A plain float; ``None`` for what is no number, which SQLite cannot tell from an absent value."""
    if value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def _to_json(value: Any) -> str:
    """JSON that every database accepts: NumPy scalars become numbers, and what is not finite ``null``."""
    return json.dumps(_plain(value), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return _finite(value)
    if value is None or isinstance(value, str | int):
        return value
    return str(value)


def _lock_number(name: str) -> int:
    return uuid.uuid5(uuid.NAMESPACE_OID, name).int >> 66


def utc_now() -> dt.datetime:
    """This moment, with its time zone."""
    return dt.datetime.now(dt.UTC)


def _because(reason: str) -> str:
    return f" ({reason})" if reason else ""


def _sentence(message: str) -> str:
    return message if message.endswith((".", "!", "?")) else f"{message}."
