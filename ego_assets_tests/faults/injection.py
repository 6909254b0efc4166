"""What goes wrong inside a process: installed in a child of the harness, never in the platform itself.

Operations that can be hit are counted: opening, renaming, removing and flushing files below the project's folder,
statements and commits of the database. Most come from the interpreter's audit events, so nothing of the platform is
replaced for them.
"""

from __future__ import annotations

import datetime
import errno
import os
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Action = Literal["kill", "error", "memory", "clock", "database"]

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
#: What is counted outside of a layer.
INTAKE, DELIVERY = "(intake)", "(delivery)"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault, as a child installs it.

    Attributes:
        action: ``kill`` ends the process at once; ``error`` fails an operation on files with ``number``; ``memory``
            raises MemoryError; ``clock`` lets the clock jump; ``database`` fails statements as a disk error would.
        layer: Only while this layer is made; empty for everything.
        at: The first operation that is hit, from 1.
        count: How many operations are hit; 0 for all from then on.
        number: ``errno`` of an error.
        below: Only files below this part of the project, such as ``store``.
        jump_s: How far the clock jumps.
        max_file_bytes: Limit of the size of a file from the start on, by the kernel; 0 for none.
        max_memory_bytes: Address space that may be added from the start on, by the kernel; 0 for none.
    """

    action: Action = "kill"
    layer: str = ""
    at: int = 1
    count: int = 1
    number: int = errno.ENOSPC
    below: str = ""
    jump_s: float = 0.0
    max_file_bytes: int = 0
    max_memory_bytes: int = 0


@dataclass
class Injector:
    """Counts operations and lets the fault happen at its time."""

    root: Path
    fault: Fault | None = None
    #: Operations by layer: all, those on files, those that write files, statements of the database.
    counts: dict[str, Counter[str]] = field(
        default_factory=lambda: {kind: Counter() for kind in ("all", "files", "writes", "database")}
    )
    layer: str = INTAKE
    hits: int = 0
    _matching: int = 0
    _quiet: bool = False

    def install(self) -> None:
        """Begin to count; cannot be taken back."""
        from sqlalchemy import Engine, event

        sys.addaudithook(self._audit)
        flush = os.fsync

        def fsync(descriptor: Any) -> None:
            self._reached(writes=True, place=str(self.root))
            flush(descriptor)

        os.fsync = fsync
        event.listen(Engine, "before_cursor_execute", lambda *_: self._reached_database())
        event.listen(Engine, "commit", lambda *_: self._reached_database())
        self._watch_layers()
        if self.fault is not None and self.fault.max_file_bytes:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.fault.max_file_bytes, resource.RLIM_INFINITY))
            self.hits = 1
        if self.fault is not None and self.fault.max_memory_bytes:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            limit = used + self.fault.max_memory_bytes
            resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
            self.hits = 1

    def _watch_layers(self) -> None:
        from ego_assets import execution

        attempt: Callable[..., Any] = execution._attempt

        def watched(work: Any, *arguments: Any, **options: Any) -> Any:
            self.layer = work.spec.name
            try:
                return attempt(work, *arguments, **options)
            finally:
                self.layer = DELIVERY if work.spec.name == "clip_package" else INTAKE

        execution._attempt = watched

    # --- what is counted ------------------------------------------------------------------------------

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            self._reached(writes=bool((flags or 0) & _WRITING), place=path)
        elif event in ("os.rename", "os.link"):
            self._reached(writes=True, place=arguments[1])
        elif event in ("os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate"):
            self._reached(writes=True, place=arguments[0])

    def _reached(self, *, writes: bool, place: Any) -> None:
        if self._quiet or not isinstance(place, str | bytes | os.PathLike):
            return
        path = os.fspath(place)
        path = path.decode(errors="replace") if isinstance(path, bytes) else path
        if not path.startswith(str(self.root)):
            return
        self._count("files", *(["writes"] if writes else []))
        fault = self.fault
        if fault is None or fault.action == "database":
            return
        if fault.action == "error":
            full = fault.number in (errno.ENOSPC, errno.EROFS, errno.EDQUOT)
            if full and not writes:
                return
            if not path.startswith(str(self.root / fault.below)):
                return
        if self._is_hit():
            self._happen(path)

    def _reached_database(self) -> None:
        if self._quiet:
            return
        self._count("database")
        if self.fault is None or self.fault.action == "error":
            return
        if self._is_hit():
            self._happen("database")

    def _count(self, *kinds: str) -> None:
        for kind in ("all", *kinds):
            self.counts[kind][self.layer] += 1

    def _is_hit(self) -> bool:
        fault = self.fault
        assert fault is not None
        if fault.layer and fault.layer != self.layer:
            return False
        self._matching += 1
        if self._matching < fault.at or (fault.count and self._matching >= fault.at + fault.count):
            return False
        if fault.max_file_bytes or fault.max_memory_bytes:
            return False
        self.hits += 1
        return True

    def _happen(self, where: str) -> None:
        fault = self.fault
        assert fault is not None
        if fault.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault.action == "memory":
            raise MemoryError
        if fault.action == "error":
            raise OSError(fault.number, os.strerror(fault.number), where)
        if fault.action == "database":
            import sqlite3

            from sqlalchemy.exc import OperationalError

            raise OperationalError("", None, sqlite3.OperationalError("disk I/O error"))
        if fault.action == "clock":
            shift_clock(fault.jump_s)


def shift_clock(jump_s: float) -> None:
    """Let time of day jump, as far as Python code asks for it; the monotonic clock goes on."""
    real_time, real_datetime = time.time, datetime.datetime

    class Shifted(real_datetime):  # type: ignore[misc, valid-type]
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return real_datetime.fromtimestamp(real_time() + jump_s, tz)

        @classmethod
        def utcnow(cls) -> Any:
            return real_datetime.utcfromtimestamp(real_time() + jump_s)

    time.time = lambda: real_time() + jump_s
    datetime.datetime = Shifted  # type: ignore[misc]
