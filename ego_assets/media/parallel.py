"""Work on streams in threads: several items at once in order, or a few items ahead of whoever takes them.

Threads help where the work lets go of the interpreter, as OpenCV, NumPy and PyTorch do for all but small arrays.
Context variables are those of the thread that iterates.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import Any, TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

#: More threads than this do not pay: handing over and the interpreter itself then take the time.
MAX_WORKERS = 16


def available_cores() -> int:
    """Cores that this process may use, at most :data:`MAX_WORKERS`."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # Not on every system.
        count = os.cpu_count() or 1
    return min(count, MAX_WORKERS)


def ordered_map(
    function: Callable[[ItemT], ResultT],
    items: Iterable[ItemT],
    *,
    workers: int = 0,
    ahead: int = 0,
    name: str = "worker",
) -> Generator[ResultT, None, None]:
    """``map`` in threads: results in the order of the items, of which a bounded number is held.

    Items are taken in the thread that iterates, while the others work. Errors of ``function`` and of ``items`` are
    raised in their place, after the results before them. However the iteration ends, also when it is abandoned, the
    threads have ended then; work that was not begun is dropped.

    Args:
        function: What to do with an item; called from several threads at once.
        items: What to work on.
        workers: Threads; 0 takes one per core.
        ahead: Most items that are taken and whose result was not yielded; 0 takes two per thread.
        name: Of the threads, for people who look at a running process.

    Raises:
        ValueError: ``workers`` or ``ahead`` is negative.
    """
    if workers < 0 or ahead < 0:
        raise ValueError(f"workers, ahead: expected 0 or more, got {workers}, {ahead}")
    workers = workers or available_cores()
    return _ordered_map(function, items, workers, ahead or 2 * workers, name)


def _ordered_map(
    function: Callable[[ItemT], ResultT], items: Iterable[ItemT], workers: int, ahead: int, name: str
) -> Generator[ResultT, None, None]:
    pool = ThreadPoolExecutor(workers, thread_name_prefix=name)
    pending: deque[Future[ResultT]] = deque()
    try:
        source = iter(items)
        failure: BaseException | None = None
        while True:
            try:
                item = next(source)
            except StopIteration:
                break
            except Exception as error:  # Raised again below, after the results of the items before.
                failure = error
                break
            pending.append(pool.submit(copy_context().run, function, item))
            del item
            while pending and (len(pending) >= ahead or pending[0].done()):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
        if failure is not None:
            raise failure
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def run_ahead(items: Iterable[ItemT], *, ahead: int = 2, name: str = "ahead") -> Generator[ItemT, None, None]:
    """The same items, made in a thread of their own that runs a bounded number of items ahead.

    Errors are raised in their place. When the iteration ends, or is abandoned, the thread finishes the item it is at,
    closes ``items`` where it is a generator, and has ended then. The thread begins with the first item that is asked
    for.

    Args:
        items: What to iterate, in the thread.
        ahead: Most items that are being made or wait to be taken.
        name: Of the thread, for people who look at a running process.

    Raises:
        ValueError: ``ahead`` is less than 1.
    """
    if ahead < 1:
        raise ValueError(f"ahead: expected 1 or more, got {ahead}")
    return _run_ahead(items, ahead, name)


def _run_ahead(items: Iterable[ItemT], ahead: int, name: str) -> Generator[ItemT, None, None]:
    made: SimpleQueue[tuple[ItemT] | BaseException | None] = SimpleQueue()
    free = Semaphore(ahead)
    stopped = False

    def run() -> None:
        last: BaseException | None = None
        source: Any = None
        try:
            source = iter(items)
            while True:
                free.acquire()
                if stopped:
                    break
                try:
                    item = next(source)
                except StopIteration:
                    break
                made.put((item,))
                del item
        except BaseException as error:  # Raised again in the thread that iterates.
            last = error
        finally:
            try:
                if hasattr(source, "close"):
                    source.close()
            except BaseException as error:
                last = last or error
            made.put(last)

    thread = Thread(target=copy_context().run, args=(run,), name=name, daemon=True)
    thread.start()
    try:
        while True:
            found = made.get()
            if found is None:
                return
            if isinstance(found, BaseException):
                raise found
            free.release()
            yield found[0]
            del found
    finally:
        stopped = True
        free.release()
        thread.join()
