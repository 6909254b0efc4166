"""What a profile asks for: its tasks, its attempts at them and the checkpoints that these load."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal, NamedTuple

from ego_assets.schema.errors import ConfigurationError
from resources.models.registry import ModelCard
from resources.profiles.licences import licence_of
from resources.profiles.lookup import find_backend
from resources.profiles.profile import BackendConfig, Profile
from resources.profiles.reading import load_profile

#: Tasks that no layer asks for: their backends serve those of other tasks.
SERVING_TASKS = frozenset({"flow"})

#: What a profile does with a backend: it runs it first; or only where that fails; it names it and nothing asks for it;
#: or it does not name it.
Role = Literal["used", "fallback", "idle", "other"]


class ProfileModel(NamedTuple):
    """One checkpoint that a profile loads.

    Attributes:
        task: Task of the profile.
        backend: Name of the backend that loads it.
        card: The checkpoint.
        licence: Its licence; of the user's own weights what the profile states.
        role: Whether it is loaded first, or only by a fallback, or by nothing in this profile.
    """

    task: str
    backend: str
    card: ModelCard
    licence: str
    role: Role


def gpu_tasks(name_or_path: str | Path) -> frozenset[str]:
    """Tasks that a profile runs on a GPU where there is one; none where the profile cannot be read.

    A wrong profile is reported by whatever uses it first: the definitions load without it.
    """
    try:
        profile = load_profile(name_or_path)
    except ConfigurationError:
        return frozenset()
    return frozenset(
        task
        for task, config in profile.entries
        if any(_runs_on_gpu(profile, task, attempt) for attempt in config.attempts)
    )


def _runs_on_gpu(profile: Profile, task: str, config: BackendConfig) -> bool:
    """Whether a backend, or one that it uses, runs on a GPU where there is one."""
    spec = find_backend(profile.name, task, config.backend)
    if spec.uses_gpu and config.settings.get("device") != "cpu":
        return True
    return any(_runs_on_gpu(profile, used, profile.backends[used]) for used in spec.uses)


def used_tasks(profile: Profile, tasks: Collection[str]) -> frozenset[str]:
    """Tasks whose backends are used by those that the profile names for some tasks, fallbacks included."""
    return frozenset(
        used
        for task, config in profile.entries
        if task in tasks
        for attempt in config.attempts
        for used in find_backend(profile.name, task, attempt.backend).uses
    )


def profile_models(profile: Profile) -> list[ProfileModel]:
    """Every checkpoint that a profile loads under its settings, those of fallbacks last; each key once a backend."""
    found: dict[tuple[str, str, str], ProfileModel] = {}
    for role, task, config in sorted(attempts_of(profile), key=lambda attempt: attempt[0] == "fallback"):
        spec = find_backend(profile.name, task, config.backend)
        for card in spec.models_for(config.settings):
            model = ProfileModel(task, config.backend, card, licence_of(card, config.settings), role)
            found.setdefault((task, config.backend, card.key), model)
    return list(found.values())


def needed_models(profile: Profile) -> list[ModelCard]:
    """Checkpoints that something in a profile asks for, also where only a fallback does; each once."""
    cards = [model.card for model in profile_models(profile) if model.role != "idle"]
    return list({card.key: card for card in cards}.values())


def attempts_of(profile: Profile) -> list[tuple[Role, str, BackendConfig]]:
    """Everything that a profile may build: what for, the task, and how."""
    used = used_tasks(profile, {task for task, _ in profile.entries})
    found: list[tuple[Role, str, BackendConfig]] = []
    for task, config in profile.entries:
        first: Role = "idle" if task in SERVING_TASKS - used else "used"
        others: Role = "idle" if first == "idle" else "fallback"
        found += [(others if place else first, task, one) for place, one in enumerate(config.attempts)]
    return found
