"""Connections to a real Postgres: how many there are, how long they wait, and what is said when they fail."""

from __future__ import annotations

import os
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import make_url, text

from ego_assets.schema.clip import Clip
from ego_assets.schema.errors import ConfigurationError, EgoAssetsError, TransientError
from ego_assets.settings import Settings
from ego_assets_tests.postgres_server import PostgresServer
from resources import database as database_module
from resources import postgres
from resources.database import Database
from resources.platform import open_database


@pytest.fixture
def connect(postgres_url: str) -> Iterator[Callable[..., Database]]:
    """Opens the test's database, with what is to be different in its URL."""
    opened: list[Database] = []

    def open_(*, query: dict[str, str] | None = None, **options: Any) -> Database:
        url = make_url(postgres_url).update_query_dict(query or {})
        opened.append(Database(url.render_as_string(hide_password=False), **options))
        return opened[-1]

    yield open_
    for database in opened:
        database.close()


def add_clip(database: Database) -> str:
    clip = Clip(clip_id=str(uuid.uuid4()), source_name="clip.mp4")
    database.add_clip(clip)
    return clip.clip_id


def show(database: Database, name: str) -> Any:
    with database.read_session() as session:
        return session.scalar(text(f"SHOW {name}"))


# --- the pool ---


def test_more_threads_than_connections_share_them(connect: Callable[..., Database]) -> None:
    database = connect(pool_size=2, max_overflow=1)
    clip_id = add_clip(database)
    counts: list[int] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(5):
                with database.transaction():
                    database.update_clip(clip_id, chapter=database.update_clip(clip_id).chapter + 1)
                with database.read_session() as session:
                    counts.append(
                        session.scalar(
                            text(
                                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                                "AND application_name = 'ego_assets'"
                            )
                        )
                    )
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert database.clip(clip_id).chapter == 60
    assert 1 <= max(counts) <= 3


def test_who_gets_no_connection_is_told_what_to_raise(
    connect: Callable[..., Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    database = connect(pool_size=1, max_overflow=0)
    monkeypatch.setattr(database.engine.pool, "_timeout", 0.05)
    raised: list[BaseException] = []

    def read() -> None:
        try:
            database.clips()
        except BaseException as error:
            raised.append(error)

    with database.transaction():
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
    assert isinstance(raised[0], TransientError) and "EGO_DATABASE_MAX_OVERFLOW" in str(raised[0])
    assert database.clips() == []


def test_the_settings_reach_the_pool(postgres_url: str) -> None:
    settings = Settings(database_url=postgres_url, database_pool_size=3, database_max_overflow=4)
    database = open_database(settings)
    pool: Any = database.engine.pool
    assert (pool.size(), pool._max_overflow) == (3, 4)
    assert open_database(settings) is database
    database.close()


def test_a_forked_process_opens_connections_of_its_own(connect: Callable[..., Database]) -> None:
    database = connect()
    clip_id = add_clip(database)

    def backend() -> int:
        with database.read_session() as session:
            return int(session.scalar(text("SELECT pg_backend_pid()")) or 0)

    before = backend()
    reading, writing = os.pipe()
    with database.transaction():
        database.update_clip(clip_id, chapter=1)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                # Neither the connections of the parent nor the transaction that it is in.
                os.write(writing, f"{backend()} {database.clip(clip_id).chapter}".encode())
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        database.update_clip(clip_id, chapter=2)
    said = os.read(reading, 100).split()
    assert int(said[0]) != before and int(said[1]) == 0
    assert backend() == before, "the connection of the parent still works"
    assert database.clip(clip_id).chapter == 2


# --- waiting ---


def test_the_server_knows_the_limits(connect: Callable[..., Database]) -> None:
    database = connect()
    assert show(database, "application_name") == "ego_assets"
    assert show(database, "statement_timeout") == "1min"
    assert show(database, "lock_timeout") == "30s"
    assert show(database, "idle_in_transaction_session_timeout") == "10min"


def test_what_the_url_says_wins(connect: Callable[..., Database]) -> None:
    database = connect(query={"options": "-c statement_timeout=1234", "application_name": "desk"})
    assert show(database, "statement_timeout") == "1234ms"
    assert show(database, "lock_timeout") == "30s"
    assert show(database, "application_name") == "desk"


def test_a_statement_that_takes_too_long_is_worth_retrying(
    connect: Callable[..., Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "STATEMENT_TIMEOUT_S", 0.1)
    database = connect()
    with pytest.raises(TransientError, match="statement timeout"), database.write_session() as session:
        session.execute(text("SELECT pg_sleep(60)"))
    assert database.clips() == []


def test_a_lock_that_is_not_given_back_is_worth_retrying(
    connect: Callable[..., Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = connect()
    clip_id = add_clip(holder)
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT_S", 0.1)
    other = connect()
    with holder.transaction():
        holder.lock_clip(clip_id)
        with pytest.raises(TransientError, match="lock timeout"):
            other.update_clip(clip_id, chapter=1)
        assert other.clip(clip_id).chapter == 0, "a reader does not wait"
    assert other.update_clip(clip_id, chapter=1).chapter == 1


def test_a_transaction_that_does_nothing_is_ended(
    connect: Callable[..., Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "IDLE_IN_TRANSACTION_TIMEOUT_S", 0.1)
    database = connect()
    clip_id = add_clip(database)
    with pytest.raises(TransientError), database.transaction():
        database.update_clip(clip_id, chapter=1)
        time.sleep(0.5)
        database.update_clip(clip_id, held=True)
    clip = database.clip(clip_id)
    assert (clip.chapter, clip.held) == (0, False)


@pytest.mark.parametrize("inside", ["a transaction", "a commit", "nothing"])
def test_a_server_that_answers_nothing_is_not_waited_for(
    connect: Callable[..., Database],
    postgres_server: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
    inside: str,
) -> None:
    if not postgres_server.is_ours:
        pytest.skip("the server that EGO_TEST_POSTGRES_URL names is not ours to stop")
    database = connect()
    clip_id = add_clip(database)
    monkeypatch.setattr(postgres, "STATEMENT_TIMEOUT_S", 0.2)
    monkeypatch.setattr(postgres, "ANSWER_MARGIN_S", 0.1)
    monkeypatch.setattr(postgres, "CONNECT_TIMEOUT_S", 1)
    database.close()
    database.clips()
    if inside == "nothing":
        with postgres_server.frozen(), pytest.raises(TransientError, match=r"at the moment|was lost"):
            database.clips()
    else:
        stopped: Any = None
        with pytest.raises(TransientError, match=r"at the moment|was lost"):
            try:
                with database.transaction():
                    database.update_clip(clip_id, chapter=1)
                    stopped = postgres_server.frozen()
                    stopped.__enter__()
                    if inside == "a transaction":
                        database.update_clip(clip_id, chapter=2)
            finally:
                stopped.__exit__(None, None, None)
        # Whether a commit that nobody answered took place only the server knows.
        assert database.clip(clip_id).chapter in ((0,) if inside == "a transaction" else (0, 1))
    assert database.clip(clip_id).clip_id == clip_id


def test_migrations_may_take_longer(
    connect: Callable[..., Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    from alembic import command

    monkeypatch.setattr(postgres, "STATEMENT_TIMEOUT_S", 0.1)
    monkeypatch.setattr(postgres, "ANSWER_MARGIN_S", 0.05)
    database = connect()

    def slow(config: Any, revision: str) -> None:
        config.attributes["connection"].execute(text("SELECT pg_sleep(1.5)"))

    monkeypatch.setattr(command, "upgrade", slow)
    database._migrate("upgrade", "head")
    assert show(database, "statement_timeout") == "100ms"


# --- messages ---


def test_ssl_parameters_reach_the_driver(connect: Callable[..., Database]) -> None:
    with pytest.raises(ConfigurationError, match="does not support SSL"):
        connect(query={"sslmode": "require"}).clips()
    with pytest.raises(ConfigurationError, match="invalid sslmode"):
        connect(query={"sslmode": "perhaps"}).clips()
    assert connect(query={"sslmode": "prefer"}).clips() == []


SECRET = "s3cr3t-of-ann"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"password": SECRET}, ConfigurationError),
        ({"password": SECRET, "database": "nowhere"}, ConfigurationError),
        ({"password": SECRET, "username": "nobody"}, ConfigurationError),
        ({"password": SECRET, "port": 1}, TransientError),
        ({"password": SECRET, "query": {"no_such_option": "1"}}, ConfigurationError),
        ({"password": None, "query": {"password": SECRET}}, ConfigurationError),
    ],
)
def test_no_message_shows_a_password(
    postgres_url: str, change: dict[str, Any], expected: type[EgoAssetsError]
) -> None:
    database = Database(make_url(postgres_url).set(**change).render_as_string(hide_password=False))
    assert SECRET not in database.url and SECRET not in repr(database)
    for call in (database.upgrade, database.clips):
        with pytest.raises(expected) as caught:
            call()
        whole = "".join(traceback.format_exception(caught.value))
        assert SECRET not in whole
        assert "EGO_DATABASE_URL" in str(caught.value) or expected is TransientError


@pytest.mark.parametrize(
    "url", [f"postgresql://ann:{SECRET}@x:y@host/name", f"{SECRET}", f"ann:{SECRET}@host"]
)
def test_a_url_that_cannot_be_read_is_not_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError, match="EGO_DATABASE_URL") as caught:
        Database(url)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
