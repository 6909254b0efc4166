"""How long-running domain functions report how far they are."""

from __future__ import annotations

from collections.abc import Callable

#: Called with (units done, units in total); the total is 0 where it is not known.
ProgressCallback = Callable[[int, int], None]


def ignore_progress(done: int, total: int) -> None:
    """The default: nobody listens."""
