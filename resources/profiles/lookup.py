"""Finds the backends that profiles name.

Nothing else in this package reads the table of backends, so that who replaces it here replaces it for all of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ego_assets.schema.errors import ConfigurationError
from resources.models.backends import BACKENDS, BackendSpec
from resources.profiles.checks import listed


def all_backends() -> Iterator[BackendSpec]:
    """Every known backend, task by task."""
    for specs in BACKENDS.values():
        yield from specs.values()


def backends_of(task: str) -> Mapping[str, BackendSpec]:
    """Name -> backend, of a task that is known."""
    return BACKENDS[task]


def find_backend(profile_name: str, task: str, backend: str) -> BackendSpec:
    """The backend that a profile names for a task.

    Raises:
        ConfigurationError: There is no such task or backend; the message lists what exists.
    """
    if task not in BACKENDS:
        raise ConfigurationError(
            f"profile {profile_name!r}: unknown task {task!r}; known: {listed(BACKENDS)}."
        )
    if backend not in BACKENDS[task]:
        raise ConfigurationError(
            f"profile {profile_name!r}: {task} has no backend {backend!r}; known: {listed(BACKENDS[task])}."
        )
    return BACKENDS[task][backend]
