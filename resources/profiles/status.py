"""Whether the backends can run on this machine, and what to do about those that cannot."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ego_assets.schema.errors import BackendUnavailable, ConfigurationError
from resources.models.backends import BackendSpec
from resources.models.torch_device import torch_device
from resources.models.weights import locate, locate_unread
from resources.profiles.building import missing_packages, new_backend
from resources.profiles.licences import licence_of
from resources.profiles.lookup import all_backends
from resources.profiles.profile import BackendConfig, Profile
from resources.profiles.usage import Role, attempts_of


class BackendStatus(NamedTuple):
    """Whether one backend can run here.

    Attributes:
        task: Task of the profile.
        backend: Name used in profiles.
        available: Whether its packages and weights are there and intact.
        detail: The models it loads, or what is missing and how to get it.
        role: What the profile does with it.
        checkpoint: Weights that it was judged with, for backends that have a choice.
    """

    task: str
    backend: str
    available: bool
    detail: str
    role: Role = "other"
    checkpoint: str = ""


def backend_report(models_dir: Path | None = None, *, profile: Profile | None = None) -> list[BackendStatus]:
    """Whether each known backend can run here; no network is loaded.

    Backends of the profile are judged with its settings, and their weights are read as a whole; of the others only
    presence and size are looked at, with the default settings.

    Args:
        models_dir: Folder of the weights that ship in no package.
        profile: Profile whose backends are judged.
    """
    attempts = attempts_of(profile) if profile is not None else []
    profile_name = profile.name if profile is not None else ""
    rows: list[BackendStatus] = []
    for spec in all_backends():
        here = [
            (role, config)
            for role, task, config in attempts
            if (task, config.backend) == (spec.task, spec.backend)
        ]
        here.sort(key=lambda attempt: attempt[0] != "used")
        # Attempts that differ in other settings than the checkpoint are the same to the reader.
        found: dict[BackendStatus, Role] = {}
        for role, config in here or [("other", BackendConfig(backend=spec.backend))]:
            row = _status(profile_name, spec, config.settings, models_dir, role)
            found.setdefault(row._replace(role="other"), role)
        rows += [row._replace(role=role) for row, role in found.items()]
    return rows


def _status(
    profile_name: str, spec: BackendSpec, settings: Mapping[str, Any], models_dir: Path | None, role: Role
) -> BackendStatus:
    checkpoint = str(settings.get("checkpoint", next(iter(spec.checkpoints)))) if spec.checkpoints else ""

    def status(available: bool, detail: str) -> BackendStatus:
        return BackendStatus(
            task=spec.task,
            backend=spec.backend,
            available=available,
            detail=detail,
            role=role,
            checkpoint=checkpoint,
        )

    missing = missing_packages(spec)
    if missing:
        return status(False, f"not installed: {', '.join(missing)}; {spec.hint}")
    unset = {name: what for name, what in spec.needed_settings.items() if not settings.get(name)}
    if unset:
        found = " ".join(f"Set {name} of {spec.task}: {what}." for name, what in unset.items())
        return status(False, found)
    cards = spec.models_for(settings)
    if role != "other" and not cards and not spec.uses:
        # Without weights it costs nothing to build, and says itself what it needs besides, such as a program.
        try:
            new_backend(profile_name, spec, settings, models_dir)
        except (BackendUnavailable, ConfigurationError) as error:
            return status(False, str(error))
        except (ImportError, OSError) as error:
            return status(False, _broken_package(spec, error))
    lacking = []
    if role != "other" and (reason := _lacking_gpu(spec, settings)):
        lacking.append(reason)
    for card in cards:
        try:
            if role == "other":
                locate_unread(card, models_dir)
            else:
                locate(card, models_dir)
        except BackendUnavailable as error:
            lacking.append(str(error))
    if lacking:
        return status(False, "\n".join(lacking))
    models = dict.fromkeys(f"{card.name} ({licence_of(card, settings)})" for card in cards)
    return status(True, ", ".join(models))


def _lacking_gpu(spec: BackendSpec, settings: Mapping[str, Any]) -> str:
    """Why a backend cannot have the GPU that the profile demands by name; empty where it can, or none is demanded."""
    device = str(settings.get("device", "auto"))
    if device in ("auto", "cpu"):
        return ""
    try:
        if "paddle" not in spec.requires:
            torch_device(device)
            return ""
        paddle = importlib.import_module("paddle")
        count = paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0
    except BackendUnavailable as error:
        return str(error)
    except (ImportError, OSError) as error:
        return _broken_package(spec, error)
    if int(device.partition(":")[2] or 0) < count:
        return ""
    return (
        f"device {device!r}: PaddlePaddle can use {count} GPU(s). Set `device: auto` or `cpu`, check the driver with "
        "nvidia-smi, or install paddlepaddle-gpu."
    )


def _broken_package(spec: BackendSpec, error: Exception) -> str:
    """What to say of a package that is there and cannot be imported, such as one that lacks a library of the system."""
    return f"it cannot be loaded ({error}); mend what that names, or in a new environment: {spec.hint}"
