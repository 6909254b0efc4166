"""What a profile says, checked against the backends that exist."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ego_assets.schema.errors import ConfigurationError
from resources.profiles.checks import blaming, expect_keys, listed
from resources.profiles.licences import licence_refusal
from resources.profiles.lookup import backends_of, find_backend

#: Tasks whose layers look at a clip at a rate of their own.
SAMPLED_TASKS = frozenset({"depth", "hands", "masks"})

#: No layer looks more often than the fastest camera records.
MAX_FRAMES_PER_SECOND = 240


@dataclass(frozen=True, kw_only=True)
class BackendConfig:
    """The backend of one task.

    Attributes:
        backend: Name in :data:`resources.models.backends.BACKENDS`.
        settings: Keyword arguments of the backend's class.
        fallbacks: What is tried, in order, when the result is refused; at most two, and none has its own.
    """

    backend: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    fallbacks: tuple[BackendConfig, ...] = ()

    @property
    def attempts(self) -> tuple[BackendConfig, ...]:
        """This one and its fallbacks, in order."""
        return self, *self.fallbacks


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One profile, checked against the backends that exist.

    Attributes:
        name: Name, or path of the file it was read from.
        backends: Task -> backend.
        leak_check: Task -> backend that examines the finished video, where it is another than in ``backends``: a
            second opinion finds what the first one missed.
        commercial_use: Refuse weights whose licence forbids commercial use.
        frames_per_second: Task in :data:`SAMPLED_TASKS` -> rate at which it looks at a clip; those that are left out
            see every frame.

    Raises:
        ConfigurationError: A task, backend or setting does not exist, a value cannot be, or a backend uses a task for
            which none is named; or licences are refused, which are named all at once.
    """

    name: str
    backends: Mapping[str, BackendConfig]
    leak_check: Mapping[str, BackendConfig] = field(default_factory=dict)
    commercial_use: bool = False
    frames_per_second: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        expect_keys(f"profile {self.name!r}, frames_per_second", self.frames_per_second, SAMPLED_TASKS)
        for task, rate in self.frames_per_second.items():
            if (
                isinstance(rate, bool)
                or not isinstance(rate, int | float)
                or not 0 < rate <= MAX_FRAMES_PER_SECOND
            ):
                raise ConfigurationError(
                    f"profile {self.name!r}: frames_per_second.{task} expects a number above 0, at most "
                    f"{MAX_FRAMES_PER_SECOND}, got {rate!r}."
                )
        refusals: list[str] = []
        for task, config in [(task, attempt) for task, entry in self.entries for attempt in entry.attempts]:
            spec = find_backend(self.name, task, config.backend)
            expect_keys(
                f"profile {self.name!r}, settings of {task} backend {config.backend!r}",
                config.settings,
                frozenset(spec.settings),
            )
            for key, value in config.settings.items():
                if not isinstance(value, str | int | float | bool):
                    raise ConfigurationError(
                        f"profile {self.name!r}: {task}.{key} expects a number or a word, got {value!r}."
                    )
            with blaming(self.name, spec):
                spec.check(config.settings)
            for used in spec.uses:
                if used not in self.backends:
                    raise ConfigurationError(
                        f"profile {self.name!r}: {task} backend {config.backend!r} uses a backend of {used!r}, and the "
                        f"profile names none. Add one of: {listed(backends_of(used))}."
                    )
            if self.commercial_use and (refusal := licence_refusal(spec, config.settings)):
                refusals.append(refusal)
        if refusals:
            raise ConfigurationError(
                f"profile {self.name!r} demands commercial_use, but " + " ".join(dict.fromkeys(refusals))
            )
        object.__setattr__(self, "backends", MappingProxyType(dict(self.backends)))
        object.__setattr__(self, "leak_check", MappingProxyType(dict(self.leak_check)))
        object.__setattr__(self, "frames_per_second", MappingProxyType(dict(self.frames_per_second)))

    @property
    def entries(self) -> list[tuple[str, BackendConfig]]:
        """Task and backend of everything that is named, those of the leak check last."""
        return [*self.backends.items(), *self.leak_check.items()]
