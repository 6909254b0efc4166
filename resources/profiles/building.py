"""Makes the backends of a profile. Models are loaded when a backend is first asked for, once per process."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ego_assets.schema.actions import ActionRecognizer
from ego_assets.schema.captions import Captioner
from ego_assets.schema.depth import DepthEstimator
from ego_assets.schema.detections import RegionDetector
from ego_assets.schema.embeddings import Embedder
from ego_assets.schema.errors import BackendUnavailable, ConfigurationError
from ego_assets.schema.flow import FlowEstimator
from ego_assets.schema.hands import HandDetector
from ego_assets.schema.ladder import Rung
from ego_assets.schema.masks import MaskTracker
from resources.models.backends import BackendSpec
from resources.models.packages import is_installed
from resources.profiles.checks import blaming, listed
from resources.profiles.lookup import find_backend
from resources.profiles.profile import BackendConfig, Profile

#: What the backends of each task implement.
PROTOCOLS: Mapping[str, type] = MappingProxyType(
    {
        "faces": RegionDetector,
        "text": RegionDetector,
        "plates": RegionDetector,
        "flow": FlowEstimator,
        "depth": DepthEstimator,
        "hands": HandDetector,
        "masks": MaskTracker,
        "actions": ActionRecognizer,
        "captions": Captioner,
        "embeddings": Embedder,
    }
)

_built: dict[tuple[Any, ...], Any] = {}
_build_lock = threading.RLock()


def build_backend(
    profile: Profile, task: str, *, models_dir: Path | None = None, leak_check: bool = False
) -> Any:
    """The backend that a profile names for a task, loaded once per process and settings.

    Args:
        profile: The profile.
        task: Task, such as ``faces``.
        models_dir: Folder of the weights that ship in no package.
        leak_check: The one that examines the finished video.

    Returns:
        An implementation of the task's protocol in :data:`PROTOCOLS`.

    Raises:
        ConfigurationError: The profile names no backend for the task, or a setting has a wrong value.
        BackendUnavailable: The backend cannot run here; the message says what to install.
    """
    return _build_once(profile, task, _config(profile, task, leak_check=leak_check), models_dir)


def build_ladder(profile: Profile, task: str, *, models_dir: Path | None = None) -> Sequence[Rung[Any]]:
    """The profile's attempts at a task, in order; each backend is loaded when its attempt begins.

    Raises:
        ConfigurationError: The profile names no backend for the task.
    """
    return tuple(
        Rung(
            name=config.backend,
            open=partial(_build_once, profile, task, config, models_dir),
            config=_described(profile, task, config),
        )
        for config in _config(profile, task).attempts
    )


def _described(profile: Profile, task: str, config: BackendConfig) -> dict[str, Any]:
    """A backend with its settings, and those of the backends it uses."""
    spec = find_backend(profile.name, task, config.backend)
    used = {name: _described(profile, name, _config(profile, name)) for name in spec.uses}
    return {"backend": config.backend, **config.settings, **used}


def _config(profile: Profile, task: str, *, leak_check: bool = False) -> BackendConfig:
    backends = {**profile.backends, **profile.leak_check} if leak_check else profile.backends
    if task not in backends:
        raise ConfigurationError(
            f"profile {profile.name!r} names no backend for {task!r}, only for {listed(profile.backends)}."
        )
    return backends[task]


def _build_once(profile: Profile, task: str, config: BackendConfig, models_dir: Path | None) -> Any:
    spec = find_backend(profile.name, task, config.backend)
    key = _key(profile, task, config, models_dir)
    with _build_lock:
        if key not in _built:
            used = {
                name: _build_once(profile, name, _config(profile, name), models_dir) for name in spec.uses
            }
            _built[key] = new_backend(profile.name, spec, {**config.settings, **used}, models_dir)
        return _built[key]


def _key(profile: Profile, task: str, config: BackendConfig, models_dir: Path | None) -> tuple[Any, ...]:
    """What a backend depends on, with that of the backends it uses."""
    spec = find_backend(profile.name, task, config.backend)
    used = tuple(_key(profile, name, _config(profile, name), models_dir) for name in spec.uses)
    settings = tuple(sorted(config.settings.items()))
    return task, config.backend, models_dir if spec.from_models_dir else None, settings, used


def new_backend(
    profile_name: str, spec: BackendSpec, arguments: Mapping[str, Any], models_dir: Path | None
) -> Any:
    """A backend of its own, which nothing else is handed.

    Args:
        profile_name: Profile that is named where a setting is refused.
        spec: What to make.
        arguments: Keyword arguments of the backend's class: settings, and the backends that it uses.
        models_dir: Folder of the weights that ship in no package.

    Raises:
        ConfigurationError: A setting has a wrong value.
        BackendUnavailable: The backend cannot run here; the message says what to install.
    """
    missing = missing_packages(spec)
    if missing:
        raise BackendUnavailable(
            f"{spec.task} backend {spec.backend!r} needs {', '.join(missing)}: {spec.hint}."
        )
    backend_class = getattr(importlib.import_module(spec.module), spec.class_name)
    place = {"models_dir": models_dir} if spec.from_models_dir else {}
    with blaming(profile_name, spec):
        backend = backend_class(**place, **arguments)
    if not isinstance(backend, PROTOCOLS[spec.task]):
        raise TypeError(f"{spec.module}.{spec.class_name} does not implement {PROTOCOLS[spec.task].__name__}")
    return backend


def missing_packages(spec: BackendSpec) -> list[str]:
    """Packages that a backend needs and that cannot be found here."""
    return [package for package in spec.requires if not is_installed(package)]
