"""The ordered attempts of a layer: what is tried first, and what when the result is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

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
