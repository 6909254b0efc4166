"""Similarity search over the clips' embeddings, in the metadata database.

The vectors are an index of what lies in the store, one per clip. Search is exact: on SQLite by NumPy over the vectors
as bytes; on Postgres by pgvector's ``<=>`` where the extension can be had, and as on SQLite where it cannot. Who
installs pgvector later runs ``ego-assets reindex``, which adopts it. Approximate indexes are not used: a project holds
up to about 100,000 clips, whose vectors are 300 MB.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import (
    Dialect,
    Float,
    String,
    bindparam,
    cast,
    delete,
    func,
    insert,
    select,
    text,
    type_coerce,
)
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.types import UserDefinedType

from ego_assets.schema.embeddings import EMBEDDING_DIMENSIONS, Embedding
from resources.database import ClipRow, Database, EmbeddingRow

_EXTENSION = "vector"
#: Vectors that are compared, or stored, at once.
_BLOCK_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """A clip that looks like another.

    Attributes:
        clip_id: The clip.
        similarity: Cosine similarity, -1 to 1.
    """

    clip_id: str
    similarity: float


@dataclass(frozen=True, kw_only=True)
class IndexedEmbedding:
    """What the index holds of a clip.

    Attributes:
        clip_id: The clip.
        embedding: Its vector and the space of that.
        data_version: Data version of the layer it comes from.
    """

    clip_id: str
    embedding: Embedding
    data_version: str


class PgVector(UserDefinedType[Any]):
    """pgvector's type, whose values travel as text such as ``[0.5,-0.25]``."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """The name of the type."""
        return f"vector({EMBEDDING_DIMENSIONS})"

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        """Text to ``float32 [768]``."""
        return lambda value: np.array(value.strip("[]").split(","), dtype=np.float32)


class EmbeddingIndex:
    """Reads and writes ``embeddings``, and finds clips that look alike.

    Args:
        database: The metadata database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, clip_id: str, embedding: Embedding, *, data_version: str) -> None:
        """Store the vector of a clip in place of the one before.

        Raises:
            UnknownClip: The clip is not registered.
        """
        with self._database.write_session() as session:
            self._database.lock_clip(clip_id)
            session.execute(delete(EmbeddingRow).where(EmbeddingRow.clip_id == clip_id))
            _insert(session, [(clip_id, embedding, data_version)], pgvector=_has_pgvector(session))

    def get(self, clip_id: str) -> IndexedEmbedding | None:
        """What is stored of a clip, or ``None``."""
        with self._database.read_session() as session:
            query = select(EmbeddingRow.space, EmbeddingRow.data_version, _vector_column(session)).where(
                EmbeddingRow.clip_id == clip_id
            )
            row = session.execute(query).first()
        if row is None:
            return None
        embedding = Embedding(row[0], _as_array(row[2]))
        return IndexedEmbedding(clip_id=clip_id, embedding=embedding, data_version=row[1])

    def spaces(self) -> dict[str, int]:
        """Space to the number of clips, of those that are not withdrawn, with a vector in it."""
        query = (
            select(EmbeddingRow.space, func.count())
            .join(ClipRow, ClipRow.clip_id == EmbeddingRow.clip_id)
            .where(ClipRow.withdrawn.is_(False))
            .group_by(EmbeddingRow.space)
        )
        with self._database.read_session() as session:
            return {space: int(count) for space, count in session.execute(query)}

    def remove(self, clip_id: str) -> bool:
        """Forget the vector of a clip; returns whether there was one."""
        with self._database.write_session() as session:
            found: Any = session.execute(delete(EmbeddingRow).where(EmbeddingRow.clip_id == clip_id))
            return bool(found.rowcount)

    def rebuild(self, entries: Sequence[tuple[str, Embedding, str]]) -> int:
        """Replace everything, and adopt pgvector where it can be had by now.

        Args:
            entries: Clip, vector and data version; clips that are not registered are left out.

        Returns:
            The number of vectors stored.
        """
        with self._database.write_session() as session:
            if not self._database.is_sqlite:
                # Before any row is locked, and for readers too: the type of the column may change.
                session.execute(text("LOCK TABLE embeddings IN ACCESS EXCLUSIVE MODE"))
            session.execute(delete(EmbeddingRow))
            adopt_pgvector(session.connection())
            known = set(session.scalars(select(ClipRow.clip_id)))
            kept = [entry for entry in entries if entry[0] in known]
            pgvector = _has_pgvector(session)
            for start in range(0, len(kept), _BLOCK_ROWS):
                _insert(session, kept[start : start + _BLOCK_ROWS], pgvector=pgvector)
        return len(kept)

    def nearest(
        self,
        embedding: Embedding,
        *,
        limit: int = 10,
        min_similarity: float = -1.0,
        leave_out: Collection[str] = (),
    ) -> list[Neighbour]:
        """The clips most similar to a vector, among those of its space; withdrawn clips are never among them.

        Args:
            embedding: The vector to compare with.
            limit: Clips to return at most.
            min_similarity: Clips that are less similar are left out.
            leave_out: Clips that do not count, such as the one in question.

        Returns:
            The most similar clip first; equally similar ones by id.

        Raises:
            ValueError: ``limit`` is below 1.
        """
        if limit < 1:
            raise ValueError(f"limit: expected 1 or more, got {limit}")
        with self._database.read_session() as session:
            search = _nearest_by_pgvector if _has_pgvector(session) else _nearest_by_numpy
            # One more for each clip that is left out, so that as many remain.
            found = search(session, embedding, limit + len(leave_out), min_similarity)
        return [neighbour for neighbour in found if neighbour.clip_id not in leave_out][:limit]


def adopt_pgvector(connection: Connection) -> bool:
    """Give the empty table's column pgvector's type where the extension is there or can be made.

    Nothing is lost without it, so what this database or this user does not permit is left alone.

    Returns:
        Whether the column is of that type now.
    """
    if connection.dialect.name != "postgresql":
        return False
    available = text("SELECT 1 FROM pg_available_extensions WHERE name = :name")
    if connection.scalar(available, {"name": _EXTENSION}) is None:
        return False
    try:
        with connection.begin_nested():
            connection.execute(text(f"CREATE EXTENSION IF NOT EXISTS {_EXTENSION}"))
            if not _column_is_pgvector(connection):
                connection.execute(
                    text(
                        f"ALTER TABLE embeddings ALTER COLUMN vector TYPE vector({EMBEDDING_DIMENSIONS}) "
                        "USING NULL"
                    )
                )
    except DBAPIError:
        return False
    return True


def _column_is_pgvector(connection: Connection) -> bool:
    query = text(
        "SELECT format_type(atttypid, NULL) FROM pg_attribute "
        "WHERE attrelid = to_regclass('embeddings') AND attname = 'vector'"
    )
    return str(connection.scalar(query)).endswith("vector")


def _has_pgvector(session: Session) -> bool:
    connection = session.connection()
    return connection.dialect.name == "postgresql" and _column_is_pgvector(connection)


def _vector_column(session: Session) -> Any:
    """The column as the database holds it."""
    return type_coerce(EmbeddingRow.vector, PgVector()) if _has_pgvector(session) else EmbeddingRow.vector


def _pgvector_value(vector: npt.NDArray[np.float32]) -> Any:
    return cast(bindparam(None, _as_text(vector), type_=String), PgVector())


def _insert(session: Session, entries: Sequence[tuple[str, Embedding, str]], *, pgvector: bool) -> None:
    """Store vectors of clips that have none."""
    statement = insert(EmbeddingRow)
    if pgvector:
        statement = statement.values(vector=cast(bindparam("text", type_=String), PgVector()))
    session.execute(
        statement,
        [
            {
                "clip_id": clip_id,
                "space": embedding.space,
                "data_version": data_version,
                **(
                    {"text": _as_text(embedding.vector)}
                    if pgvector
                    else {"vector": _as_bytes(embedding.vector)}
                ),
            }
            for clip_id, embedding, data_version in entries
        ],
    )


def _as_text(vector: npt.NDArray[np.float32]) -> str:
    return f"[{','.join(map(repr, vector.tolist()))}]"


def _as_bytes(vector: npt.NDArray[np.float32]) -> bytes:
    return vector.astype("<f4").tobytes()


def _as_array(stored: Any) -> npt.NDArray[np.float32]:
    """``float32 [768]`` from what either kind of column gives."""
    if isinstance(stored, np.ndarray):
        return stored
    return np.frombuffer(stored, dtype="<f4").astype(np.float32)


def _nearest_by_pgvector(
    session: Session, embedding: Embedding, limit: int, min_similarity: float
) -> list[Neighbour]:
    column = type_coerce(EmbeddingRow.vector, PgVector())
    distance = column.op("<=>", return_type=Float())(_pgvector_value(embedding.vector))
    query = (
        select(EmbeddingRow.clip_id, 1 - distance)
        .join(ClipRow, ClipRow.clip_id == EmbeddingRow.clip_id)
        .where(
            EmbeddingRow.space == embedding.space,
            ClipRow.withdrawn.is_(False),
            1 - distance >= min_similarity,
        )
        .order_by(distance, EmbeddingRow.clip_id)
        .limit(limit)
    )
    return [
        Neighbour(clip_id=clip_id, similarity=float(similarity))
        for clip_id, similarity in session.execute(query)
    ]


def _nearest_by_numpy(
    session: Session, embedding: Embedding, limit: int, min_similarity: float
) -> list[Neighbour]:
    query = (
        select(EmbeddingRow.clip_id, EmbeddingRow.vector)
        .join(ClipRow, ClipRow.clip_id == EmbeddingRow.clip_id)
        .where(EmbeddingRow.space == embedding.space, ClipRow.withdrawn.is_(False))
    )
    best: list[tuple[float, str]] = []
    for block in session.execute(query.execution_options(yield_per=_BLOCK_ROWS)).partitions():
        vectors = np.frombuffer(b"".join(row[1] for row in block), dtype="<f4")
        similarity = vectors.reshape(-1, EMBEDDING_DIMENSIONS) @ embedding.vector
        found = [
            (-float(value), row[0])
            for value, row in zip(similarity, block, strict=True)
            if value >= min_similarity
        ]
        best = heapq.nsmallest(limit, [*best, *found])
    return [Neighbour(clip_id=clip_id, similarity=-negative) for negative, clip_id in best]
