"""One at a time under one name, across threads and processes, on both databases."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from ego_assets.schema.errors import TransientError
from ego_assets_tests.postgres_server import PostgresServer
from resources import database as module
from resources.database import Database

ROOT = Path(__file__).resolve().parents[3]
DATABASES = ("sqlite", "postgres")

HOLDER = """
import sys
from resources.database import Database

database = Database({url!r})
with database.exclusive("work") as ours:
    print(ours, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def ask_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ASK_AGAIN_S", 0.01)


@contextlib.contextmanager
def holding_process(database: Database) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds ``work``."""
    code = HOLDER.format(url=database._url.render_as_string(hide_password=False))
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "True\n"
            yield process
        finally:
            process.kill()


def is_free(database: Database, name: str = "work") -> bool:
    with database.exclusive(name, wait=False) as ours:
        return ours


def test_names_do_not_disturb_each_other(database: Database) -> None:
    with database.exclusive("work") as ours:
        assert ours is True
        assert not is_free(database) and is_free(database, "play")
    assert is_free(database)


def test_it_is_given_back_after_a_failure(database: Database) -> None:
    with pytest.raises(OSError, match="broke"), database.exclusive("work"):
        raise OSError("broke")
    assert is_free(database)


def test_threads_enter_one_after_the_other(database: Database) -> None:
    inside, most, done = 0, 0, 0
    guard = threading.Lock()
    errors: list[BaseException] = []

    def work() -> None:
        nonlocal inside, most, done
        try:
            for _ in range(4):
                with database.exclusive("work"):
                    with guard:
                        inside += 1
                        most = max(most, inside)
                    time.sleep(0.002)
                    with guard:
                        inside -= 1
                        done += 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and (most, done) == (1, 24)


def test_another_process_keeps_us_out_until_it_ends(database: Database) -> None:
    with holding_process(database) as process:
        assert not is_free(database)
        entered = threading.Event()

        def wait() -> None:
            with database.exclusive("work"):
                entered.set()

        waiter = threading.Thread(target=wait)
        waiter.start()
        assert not entered.wait(0.1)
        process.send_signal(signal.SIGKILL)
        waiter.join(30)
    assert entered.is_set()


def test_it_is_no_transaction_and_not_inside_one(database: Database) -> None:
    with database.exclusive("work"):
        database.write_audit(actor="t", action="a")
        assert len(database.audit_log()) == 1
    with database.transaction(), pytest.raises(RuntimeError, match="outside"), database.exclusive("work"):
        pass
    assert is_free(database)


def test_nothing_is_left_behind(database: Database, tmp_path: Path) -> None:
    for _ in range(3):
        with database.exclusive("a name / with everything: \N{GRINNING FACE}"):
            pass
    assert not list(tmp_path.rglob("*.lock"))
    if not database.is_sqlite:
        with database.read_session() as session:
            assert session.scalar(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")) == 0


def test_waiting_takes_no_connection_from_the_pool(postgres_url: str) -> None:
    database = Database(postgres_url, pool_size=1, max_overflow=0)
    with database.exclusive("a"), database.exclusive("b"), database.exclusive("c"):
        assert database.clips() == []
    database.close()


def test_a_server_that_restarts_ends_it_without_a_word(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    if not postgres_server.is_ours:
        pytest.skip("the server that EGO_TEST_POSTGRES_URL names is not ours to restart")
    database = Database(postgres_url)
    with database.exclusive("work"):
        postgres_server.restart()
        assert is_free(database)
    postgres_server.kill()
    with pytest.raises(TransientError, match="metadata database"), database.exclusive("work"):
        pass
    postgres_server.start()
    assert is_free(database)
    database.close()


def test_a_folder_that_takes_no_lock_file_is_worth_retrying(tmp_path: Path) -> None:
    (tmp_path / "m.db.locks").write_text("in the way")
    with pytest.raises(TransientError, match="cannot be made or locked"):
        is_free(Database(f"sqlite:///{tmp_path / 'm.db'}"))
