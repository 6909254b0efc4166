"""Reads profiles from YAML files; those beside this module are known by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from ego_assets.schema.errors import ConfigurationError
from ego_assets.schema.ladder import MAX_FURTHER_ATTEMPTS
from resources.profiles.checks import expect_keys, expect_mapping
from resources.profiles.profile import BackendConfig, Profile

_FOLDER = Path(__file__).parent
_PROFILE_KEYS = frozenset({"commercial_use", "frames_per_second", "backends", "leak_check"})
_FALLBACK_KEYS = frozenset({"backend", "settings"})
_BACKEND_KEYS = _FALLBACK_KEYS | {"fallbacks"}


def profile_names() -> list[str]:
    """Names of the profiles that come with the package."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_profile(name_or_path: str | Path) -> Profile:
    """Read a profile by name, such as ``local``, or from a YAML file.

    Raises:
        ConfigurationError: There is no such profile, or it is wrong; the message lists what exists.
    """
    return _parse(str(name_or_path), _content(str(name_or_path)))


def demands_commercial_use(name_or_path: str | Path) -> bool:
    """Whether a profile demands it, also one that is refused for what it names.

    Raises:
        ConfigurationError: There is no such profile, or it cannot be read.
    """
    name = str(name_or_path)
    return _commercial_use(name, expect_mapping(f"profile {name!r}", _content(name)))


def profile_file(name_or_path: str | Path) -> Path:
    """Where a profile is read from, whether it is there or not."""
    path = Path(name_or_path)
    return path if path.suffix in (".yaml", ".yml") else _FOLDER / f"{name_or_path}.yaml"


def _content(text: str) -> object:
    path = profile_file(text)
    if not path.is_file():
        raise ConfigurationError(
            f"There is no profile {text!r}. Give the path of a .yaml file or one of: {', '.join(profile_names())}."
        )
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"profile {text!r} is not valid YAML: {error}") from error


def _parse(name: str, content: object) -> Profile:
    top = expect_mapping(f"profile {name!r}", content)
    expect_keys(f"profile {name!r}", top, _PROFILE_KEYS)
    return Profile(
        name=name,
        backends=_backends(name, "backends", top.get("backends")),
        leak_check=_backends(name, "leak_check", top.get("leak_check", {})),
        commercial_use=_commercial_use(name, top),
        frames_per_second=expect_mapping(
            f"profile {name!r}, frames_per_second", top.get("frames_per_second", {})
        ),
    )


def _commercial_use(name: str, top: Mapping[str, Any]) -> bool:
    value = top.get("commercial_use", False)
    if not isinstance(value, bool):
        raise ConfigurationError(f"profile {name!r}: commercial_use expects true or false, got {value!r}.")
    return value


def _backends(name: str, section: str, content: object) -> dict[str, BackendConfig]:
    backends = {}
    for task, entry in expect_mapping(f"profile {name!r}, {section}", content).items():
        where = f"profile {name!r}, {section}.{task}"
        entry = expect_mapping(where, entry)
        expect_keys(where, entry, _BACKEND_KEYS)
        fallbacks = entry.get("fallbacks", [])
        if not isinstance(fallbacks, list) or len(fallbacks) > MAX_FURTHER_ATTEMPTS:
            raise ConfigurationError(
                f"{where}.fallbacks: expected a list of at most {MAX_FURTHER_ATTEMPTS}, got {fallbacks!r}."
            )
        first = _backend(where, entry)
        others = [
            _fallback(f"{where}.fallbacks[{place}]", item, first) for place, item in enumerate(fallbacks)
        ]
        backends[task] = replace(first, fallbacks=tuple(others))
    return backends


def _backend(where: str, entry: Mapping[str, Any]) -> BackendConfig:
    if not isinstance(entry.get("backend"), str):
        raise ConfigurationError(f"{where}: expected `backend: NAME`, got {entry.get('backend')!r}.")
    settings = entry.get("settings")
    return BackendConfig(
        backend=entry["backend"],
        settings={} if settings is None else expect_mapping(f"{where}.settings", settings),
    )


def _fallback(where: str, item: object, first: BackendConfig) -> BackendConfig:
    """A fallback: another backend, or the same one with some settings changed."""
    entry = expect_mapping(where, item)
    expect_keys(where, entry, _FALLBACK_KEYS)
    config = _backend(where, {"backend": first.backend, **entry})
    if config.backend != first.backend:
        return config
    return replace(config, settings={**first.settings, **config.settings})
