"""A database that goes away: killed and started again, locked, or on a full disk. Nothing half-done stays."""

from __future__ import annotations

import logging
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from ego_assets.execution import ClipWork, LayerDraft, LayerOutcome, LayerState, Services, run_layer
from ego_assets.schema.clip import Clip
from ego_assets.schema.errors import ConfigurationError, TransientError
from ego_assets.schema.gates import GateSpec
from ego_assets.schema.layers import LayerSpec, RetryPolicySpec
from ego_assets.schema.vocabulary import ReviewKind, ReviewRisk
from ego_assets.settings import Settings
from ego_assets_tests.postgres_server import PostgresServer
from resources import database as module
from resources.database import Database
from resources.storage import ArtifactStore

GATE = GateSpec(name="fit", description="", blocking=True)
SPEC = LayerSpec(
    name="frames",
    group="t",
    description="",
    stage=3,
    gates=(GATE,),
    retry=RetryPolicySpec(max_retries=2, delay_s=0.0),
)
LOG = logging.getLogger("restarts")


@pytest.fixture
def server(postgres_server: PostgresServer) -> PostgresServer:
    if not postgres_server.is_ours:
        pytest.skip("the server that EGO_TEST_POSTGRES_URL names is not ours to kill")
    return postgres_server


@pytest.fixture
def database(server: PostgresServer, postgres_url: str) -> Iterator[Database]:
    database = Database(postgres_url)
    yield database
    server.start()
    database.close()


def services_of(database: Database, tmp_path: Path) -> Services:
    models: Any = None
    store = ArtifactStore(str(tmp_path / "store"))
    return Services(settings=Settings(data_dir=tmp_path), database=database, store=store, models=models)


def add_clip(database: Database, **fields: Any) -> str:
    clip = Clip(clip_id=str(uuid.uuid4()), source_name="clip.mp4", **fields)
    database.add_clip(clip)
    return clip.clip_id


def make(work: ClipWork, staged: Any) -> LayerDraft:
    staged.path("a.txt").write_text("content")
    return LayerDraft(gates=[GATE.passed("")])


def run(services: Services, clip_id: str, make: Callable[..., LayerDraft] = make) -> LayerOutcome:
    return run_layer(
        SPEC, make, clip_id, services=services, run_id="r", log=LOG, ancestors=(), sleep=lambda _: None
    )


def recorded(database: Database, clip_id: str) -> tuple[Any, ...]:
    """Everything that recording a layer touches."""
    clip = database.clip(clip_id)
    return (
        [state.state for state in database.layer_states(clip_id)],
        [gate.outcome.value for gate in database.gates(clip_id)],
        [artifact.version_id for artifact in database.artifacts(clip_id)],
        len(database.review_items(clip_id=clip_id)),
        (clip.completeness, clip.failed, clip.updated_at),
    )


# --- Postgres is killed ---


def test_a_restart_between_two_calls_is_not_noticed(database: Database, server: PostgresServer) -> None:
    clip_id = add_clip(database)
    with database.transaction():
        database.update_clip(clip_id, chapter=1)
    server.restart()
    assert database.update_clip(clip_id, held=True).chapter == 1
    server.restart()
    assert database.clip(clip_id).held


def test_a_server_that_is_away_is_worth_retrying(database: Database, server: PostgresServer) -> None:
    clip_id = add_clip(database)
    server.kill()
    for call in (
        database.clips,
        database.upgrade,
        lambda: database.update_clip(clip_id, chapter=1),
        lambda: add_clip(database),
    ):
        with pytest.raises(TransientError, match="cannot be used at the moment"):
            call()
    server.start()
    assert [clip.chapter for clip in database.clips()] == [0]


@pytest.mark.parametrize("back", [True, False])
def test_a_restart_inside_a_transaction_leaves_nothing_of_it(
    database: Database, server: PostgresServer, back: bool
) -> None:
    clip_id = add_clip(database)
    before = recorded(database, clip_id)
    with pytest.raises(TransientError), database.transaction():
        database.update_clip(clip_id, chapter=1)
        database.record_layer_state(clip_id, "frames", "committed")
        database.add_review_item(
            clip_id, layer="frames", kind=ReviewKind.PII_LEAK, risk=ReviewRisk.HIGH, reason="seen"
        )
        server.kill()
        if back:
            server.start()
        database.update_clip(clip_id, chapter=2)
    server.start()
    assert recorded(database, clip_id) == before
    assert database.clip(clip_id).chapter == 0
    assert database.update_clip(clip_id, chapter=3).chapter == 3


def test_a_restart_at_the_commit_leaves_all_or_nothing(database: Database, server: PostgresServer) -> None:
    clip_id = add_clip(database)
    event.listen(database.engine, "commit", lambda connection: server.restart(), once=True)
    with pytest.raises(TransientError), database.transaction():
        database.update_clip(clip_id, chapter=1)
        database.record_layer_state(clip_id, "frames", "committed")
    assert (database.clip(clip_id).chapter, database.layer_states(clip_id)) == (0, [])


def test_a_layer_goes_on_after_a_restart_while_it_is_made(
    database: Database, server: PostgresServer, tmp_path: Path
) -> None:
    clip_id = add_clip(database)

    def slow(work: ClipWork, staged: Any) -> LayerDraft:
        server.restart()
        return make(work, staged)

    outcome = run(services_of(database, tmp_path), clip_id, slow)
    assert (outcome.state, outcome.attempts) == (LayerState.COMMITTED, 1)
    assert recorded(database, clip_id)[0] == ["committed"]


METHODS = ["record_gates", "record_artifact", "record_layer_state", "refresh_progress", "update_clip"]


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_is_recorded_as_a_whole_whenever_the_server_restarts(
    database: Database, server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    clip_id = add_clip(database)
    services = services_of(database, tmp_path)
    original, calls = getattr(Database, method), 0

    def restarting(self: Database, *arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            server.restart()
        return original(self, *arguments, **options)

    monkeypatch.setattr(Database, method, restarting)
    outcome = run(services, clip_id)
    assert (outcome.state, outcome.attempts) == (LayerState.COMMITTED, 2)
    document = services.store.document(clip_id, "frames")
    assert document is not None
    states, gates, artifacts, reviews, clip = recorded(database, clip_id)
    assert (states, gates, artifacts, reviews) == (["committed"], ["passed"] * 2, [document.version_id], 0)
    assert clip[:2] == (1, False)


def test_a_server_that_stays_away_ends_the_run_and_leaves_the_layer_to_do(
    database: Database, server: PostgresServer, tmp_path: Path
) -> None:
    clip_id = add_clip(database)
    services = services_of(database, tmp_path)
    before = recorded(database, clip_id)

    def unlucky(work: ClipWork, staged: Any) -> LayerDraft:
        server.kill()
        return make(work, staged)

    with pytest.raises(TransientError):
        run(services, clip_id, unlucky)
    with pytest.raises(TransientError):
        run(services, clip_id)
    server.start()
    assert recorded(database, clip_id) == before
    assert run(services, clip_id).state is LayerState.COMMITTED


# --- SQLite ---


@pytest.fixture
def sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.setattr(module, "BUSY_TIMEOUT_S", 0.05)
    database = Database(f"sqlite:///{tmp_path / 'm.db'}")
    database.upgrade()
    yield database
    database.close()


def test_a_locked_file_is_waited_for_and_the_layer_tried_again(sqlite: Database, tmp_path: Path) -> None:
    clip_id = add_clip(sqlite)
    services = services_of(sqlite, tmp_path)
    other = sqlite3.connect(tmp_path / "m.db", isolation_level=None)
    waits: list[float] = []

    def blocked(work: ClipWork, staged: Any) -> LayerDraft:
        if not waits:
            other.execute("BEGIN IMMEDIATE")
        return make(work, staged)

    def sleep(delay: float) -> None:
        waits.append(delay)
        other.execute("ROLLBACK")

    outcome = run_layer(
        SPEC, blocked, clip_id, services=services, run_id="r", log=LOG, ancestors=(), sleep=sleep
    )
    other.close()
    assert (outcome.state, outcome.attempts, len(waits)) == (LayerState.COMMITTED, 2, 1)
    assert recorded(sqlite, clip_id)[:2] == (["committed"], ["passed", "passed"])


def test_a_full_disk_leaves_nothing_of_a_transaction(sqlite: Database, tmp_path: Path) -> None:
    clip_id = add_clip(sqlite)
    before = recorded(sqlite, clip_id)
    services = services_of(sqlite, tmp_path)
    full = [True]

    def limit(connection: Any, *_: Any) -> None:
        cursor = connection.cursor()
        pages = cursor.execute("PRAGMA page_count").fetchone()[0]
        cursor.execute(f"PRAGMA max_page_count = {pages + 1 if full[0] else 1_000_000}")
        cursor.close()

    event.listen(sqlite.engine, "checkout", limit)
    with pytest.raises(TransientError, match=r"disk is full.*disk has space"), sqlite.transaction():
        sqlite.update_clip(clip_id, chapter=1)
        for number in range(100):
            sqlite.write_audit(actor="t", action=str(number), detail="x" * 2000)
    assert recorded(sqlite, clip_id) == before and sqlite.audit_log() == []
    assert sqlite.clip(clip_id).chapter == 0

    def fail(work: ClipWork, staged: Any) -> LayerDraft:
        raise ConfigurationError("a long story " * 2000)

    with pytest.raises(TransientError, match="disk is full"):
        # It cannot even be recorded that it failed.
        run(services, clip_id, fail)
    assert recorded(sqlite, clip_id) == before
    full[0] = False
    assert run(services, clip_id, make).state is LayerState.COMMITTED


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.db").write_bytes(b"this is no database, but it is long enough" * 200)
    with pytest.raises(ConfigurationError, match=r"m\.db is damaged"):
        Database(f"sqlite:///{tmp_path / 'm.db'}").clips()
    with pytest.raises(ConfigurationError, match=r"m\.db is damaged"):
        Database(f"sqlite:///{tmp_path / 'm.db'}").upgrade()
