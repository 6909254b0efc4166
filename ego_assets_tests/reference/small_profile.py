"""The reference profile on small checkpoints: a folder of weights for all it names, and settings a CPU can bear."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

import resources.profiles
from ego_assets_tests.checkpoints import maker_of
from resources.models.backends import BACKENDS

SHIPPED = Path(resources.profiles.__file__).with_name("reference.yaml")

#: Backend to the settings that its small checkpoint needs.
_Needed = dict[tuple[str, str], Mapping[str, Any]]


def write_small_profile(folder: Path) -> Path:
    """Make the weights of every backend that the reference profile names, below ``folder/models``.

    Returns:
        The profile as it ships, but for the settings that the small checkpoints need: ``folder/reference.yaml``.
    """
    content = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    needed: _Needed = {}
    for section in ("backends", "leak_check"):
        for task, entry in content.get(section, {}).items():
            for attempt in (entry, *entry.get("fallbacks", ())):
                backend = attempt.get("backend", entry["backend"])
                if (task, backend) not in needed:
                    needed[task, backend] = _make(task, backend, folder / "models")
                # A fallback of the same backend inherits the settings that it does not change.
                if attempt is entry or "backend" in attempt:
                    attempt["settings"] = {**(attempt.get("settings") or {}), **needed[task, backend]}
    path = folder / "reference.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def _make(task: str, backend: str, models_dir: Path) -> Mapping[str, Any]:
    make = maker_of(task, backend)
    if make is not None:
        return make(models_dir)
    assert not BACKENDS[task][backend].from_models_dir, f"no small checkpoint of {task} backend {backend}"
    return {}
