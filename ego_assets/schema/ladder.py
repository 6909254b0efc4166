"""The ordered attempts of a layer: what is tried first, and what when the result is refused or an attempt fails."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ego_assets.schema.errors import (
    ClipRefused,
    DeviceMemoryExhausted,
    EgoAssetsError,
    InsufficientDisk,
    TransientError,
)

BackendT = TypeVar("BackendT")

#: After the first attempt a layer is tried this often in other ways before a person is asked (collection guide,
#: frequent questions: two retries).
MAX_FURTHER_ATTEMPTS = 2


@dataclass(frozen=True, kw_only=True)
class Rung(Generic[BackendT]):
    """One way to make a layer.

    Attributes:
        name: Name of the backend, as profiles and reports give it.
        open: Returns the backend, loaded at its first use.
        config: What distinguishes this attempt, JSON-serialisable; recorded with the result.
    """

    name: str
    open: Callable[[], BackendT]
    config: Mapping[str, Any] = field(default_factory=dict)


def refuses_attempt(error: Exception, *, is_first: bool) -> bool:
    """Whether an exception refuses the attempt that it ended, so that the next one is tried.

    One of a model does. Errors that say nothing about the attempt have to be raised at once: those of the platform and
    of the operating system on the first attempt (but for a device without memory, of which a later attempt may need
    less), and what is worth retrying, or forbids the work, on all. A later attempt that cannot be opened, or fails so,
    is refused like any other.

    Args:
        error: What ended the attempt.
        is_first: Whether it was the first one.
    """
    if isinstance(error, ClipRefused | InsufficientDisk | TransientError):
        return False
    return not is_first or isinstance(error, DeviceMemoryExhausted) or not is_of_surroundings(error)


def is_of_surroundings(error: Exception) -> bool:
    """Whether an error is one of the platform or of the operating system and no model's.

    Where such a one refused an attempt, and no attempt left a result that can be used, it is raised in the end.
    """
    return isinstance(error, EgoAssetsError | OSError)


def forget_locals(error: BaseException) -> None:
    """Let go of what a refused attempt still holds: on a GPU it would take the next one's memory."""
    linked: BaseException | None = error
    while linked is not None:
        traceback.clear_frames(linked.__traceback__)
        linked = linked.__cause__ or linked.__context__
