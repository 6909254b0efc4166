"""What every part of a profile is checked for, with messages that name the place."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ego_assets.schema.errors import ConfigurationError
from resources.models.backends import BackendSpec


def expect_mapping(where: str, value: object) -> Mapping[str, Any]:
    """A value that has to map names to something.

    Raises:
        ConfigurationError: It does not; the message begins with ``where``.
    """
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ConfigurationError(f"{where}: expected a mapping of names, got {value!r}.")
    return value


def expect_keys(where: str, value: Mapping[str, Any], known: frozenset[str]) -> None:
    """Refuse names that nothing knows.

    Raises:
        ConfigurationError: There are some; the message begins with ``where`` and lists the known ones.
    """
    unknown = sorted(set(value) - known)
    if unknown:
        raise ConfigurationError(f"{where}: unknown {', '.join(unknown)}; known: {listed(known)}.")


def listed(names: Collection[str]) -> str:
    """Names for a message, in alphabetical order."""
    return ", ".join(sorted(names)) or "none"


@contextmanager
def blaming(profile_name: str, spec: BackendSpec) -> Iterator[None]:
    """Tell whoever reads what a backend refuses in whose settings of which profile it stands.

    Raises:
        ConfigurationError: In place of a ``ValueError`` or ``TypeError`` raised within.
    """
    try:
        yield
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"profile {profile_name!r}, settings of {spec.task} backend {spec.backend!r}: "
            f"{str(error).rstrip('.')}."
        ) from error
