"""Connections to Postgres on which nothing waits for ever.

The server is told how long a statement, a lock and an idle transaction may take. A server that does not answer at all
cannot keep to that, so every wait for it is watched here as well, and cut off after a little longer.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg2.extensions  # type: ignore[import-untyped]
from sqlalchemy import text
from sqlalchemy.engine import URL, Connection

#: How long one statement may take. The longest, rebuilding an index of 100,000 clips, is sent in blocks of a second.
STATEMENT_TIMEOUT_S = 60.0
#: How long a transaction may do nothing while it holds locks: some read a document from a bucket in between.
IDLE_IN_TRANSACTION_TIMEOUT_S = 600.0
#: How long the server may take to accept a connection.
CONNECT_TIMEOUT_S = 10
#: How much longer than the server itself this side waits for its answer.
ANSWER_MARGIN_S = 15.0

#: Parameters of a URL whose values are secrets.
_SECRET_PARAMETERS = ("password", "sslpassword", "passfile")


def connect_arguments(url: URL, *, lock_timeout_s: float) -> dict[str, Any]:
    """What a connection is opened with; what the URL itself says wins.

    Args:
        url: The URL of the database.
        lock_timeout_s: How long a statement may wait for a lock.
    """
    timeouts = {
        "statement_timeout": STATEMENT_TIMEOUT_S,
        "lock_timeout": lock_timeout_s,
        "idle_in_transaction_session_timeout": IDLE_IN_TRANSACTION_TIMEOUT_S,
    }
    options = [f"-c {name}={round(1000 * seconds)}" for name, seconds in timeouts.items()]
    given = url.query.get("options", ())
    # Of a setting that is given twice the server takes the last one.
    options += [given] if isinstance(given, str) else given
    arguments: dict[str, Any] = {
        "application_name": "ego_assets",
        "connect_timeout": CONNECT_TIMEOUT_S,
        # A peer that vanished without a word is noticed after about a minute.
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 60_000,
    }
    own = {name: value for name, value in arguments.items() if name not in url.query}
    return {**own, "options": " ".join(options), "connection_factory": WatchedConnection}


def shown_url(url: URL) -> str:
    """The URL without its secrets, for messages."""
    secrets = {name: "***" for name in _SECRET_PARAMETERS if name in url.query}
    return url.update_query_dict(secrets).render_as_string(hide_password=True).replace("%2A%2A%2A", "***")


@contextlib.contextmanager
def unhurried(connection: Connection) -> Iterator[None]:
    """Let the statements of a transaction take as long as they need."""
    driver: Any = connection.connection.driver_connection
    connection.execute(text("SET LOCAL statement_timeout = 0"))
    driver.is_watched = False
    try:
        yield
    finally:
        driver.is_watched = True


class _Watch:
    """Cuts off connections whose server does not answer in time, from a thread of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[int, tuple[float, Any]] = {}
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def waiting(self, connection: Any) -> Iterator[None]:
        """Let the connection wait for an answer inside the ``with``, but not for ever."""
        if not connection.is_watched:
            yield
            return
        key = threading.get_ident()
        deadline = time.monotonic() + STATEMENT_TIMEOUT_S + ANSWER_MARGIN_S
        with self._lock:
            outer = self._waiting.get(key)
            self._waiting[key] = (deadline, connection)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="postgres-watch", daemon=True)
                self._thread.start()
        self._wake.set()
        try:
            yield
        finally:
            with self._lock:
                if outer is None:
                    self._waiting.pop(key, None)
                else:
                    self._waiting[key] = outer

    def _run(self) -> None:
        while True:
            self._wake.wait()
            now = time.monotonic()
            with self._lock:
                if not self._waiting:
                    self._wake.clear()
                for key, (deadline, connection) in list(self._waiting.items()):
                    if deadline <= now:
                        self._waiting.pop(key)
                        _cut_off(connection)
            time.sleep(min(1.0, STATEMENT_TIMEOUT_S))


def _cut_off(connection: Any) -> None:
    """End the conversation at the socket, which wakes whoever waits for an answer."""
    with (
        contextlib.suppress(OSError, psycopg2.Error),
        socket.socket(fileno=os.dup(connection.fileno())) as own,
    ):
        own.shutdown(socket.SHUT_RDWR)


_watch = _Watch()


def _forget_after_fork() -> None:
    # The thread stayed with the parent.
    global _watch
    _watch = _Watch()


os.register_at_fork(after_in_child=_forget_after_fork)


class _WatchedCursor(psycopg2.extensions.cursor):  # type: ignore[misc]
    """A cursor whose statements are watched."""

    def execute(self, *arguments: Any, **options: Any) -> None:
        """As in the base class."""
        with _watch.waiting(self.connection):
            super().execute(*arguments, **options)

    def executemany(self, *arguments: Any, **options: Any) -> None:
        """As in the base class."""
        with _watch.waiting(self.connection):
            super().executemany(*arguments, **options)

    def fetchmany(self, *arguments: Any, **options: Any) -> Any:
        """As in the base class; a cursor on the server is asked for rows here."""
        with _watch.waiting(self.connection):
            return super().fetchmany(*arguments, **options)


class WatchedConnection(psycopg2.extensions.connection):  # type: ignore[misc]
    """A connection that is cut off when the server does not answer.

    Attributes:
        is_watched: Whether it is at the moment.
    """

    is_watched = True

    def cursor(self, *arguments: Any, **options: Any) -> Any:
        """As in the base class, with watched statements."""
        options.setdefault("cursor_factory", _WatchedCursor)
        return super().cursor(*arguments, **options)

    def commit(self) -> None:
        """As in the base class."""
        with _watch.waiting(self):
            super().commit()

    def rollback(self) -> None:
        """As in the base class."""
        with _watch.waiting(self):
            super().rollback()
