"""Profiles: which backend does which task, with which settings.

A profile is a YAML file; the ones beside this module are known by name. Models are loaded when the first
backend of a task is asked for, once per process.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import yaml

from ego_assets.schema.actions import ActionRecognizer
from ego_assets.schema.captions import Captioner
from ego_assets.schema.depth import DepthEstimator
from ego_assets.schema.detections import RegionDetector
from ego_assets.schema.embeddings import Embedder
from ego_assets.schema.errors import BackendUnavailable, ConfigurationError
from ego_assets.schema.flow import FlowEstimator
from ego_assets.schema.hands import HandDetector
from ego_assets.schema.ladder import MAX_FURTHER_ATTEMPTS, Rung
from ego_assets.schema.masks import MaskTracker
from resources.models.backends import BACKENDS, LICENCE_PERMITS, BackendSpec
from resources.models.registry import OWN_LICENCE, ModelCard
from resources.models.torch_device import torch_device
from resources.models.weights import is_installed, locate, locate_unread

_FOLDER = Path(__file__).parent
_PROFILE_KEYS = frozenset({"commercial_use", "frames_per_second", "backends", "leak_check"})
_FALLBACK_KEYS = frozenset({"backend", "settings"})
_BACKEND_KEYS = _FALLBACK_KEYS | {"fallbacks"}

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

#: Tasks that no layer asks for: their backends serve those of other tasks.
SERVING_TASKS = frozenset({"flow"})

#: Tasks whose layers look at a clip at a rate of their own.
SAMPLED_TASKS = frozenset({"depth", "hands", "masks"})

#: No layer looks more often than the fastest camera records.
MAX_FRAMES_PER_SECOND = 240

_built: dict[tuple[Any, ...], Any] = {}
_build_lock = threading.RLock()


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
        _expect_keys(f"profile {self.name!r}, frames_per_second", self.frames_per_second, SAMPLED_TASKS)
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
        entries = [*self.backends.items(), *self.leak_check.items()]
        refusals: list[str] = []
        for task, config in [(task, attempt) for task, entry in entries for attempt in entry.attempts]:
            spec = _spec(self.name, task, config.backend)
            _expect_keys(
                f"profile {self.name!r}, settings of {task} backend {config.backend!r}",
                config.settings,
                frozenset(spec.settings),
            )
            for key, value in config.settings.items():
                if not isinstance(value, str | int | float | bool):
                    raise ConfigurationError(
                        f"profile {self.name!r}: {task}.{key} expects a number or a word, got {value!r}."
                    )
            with _blaming(self.name, spec):
                spec.check(config.settings)
            for used in spec.uses:
                if used not in self.backends:
                    raise ConfigurationError(
                        f"profile {self.name!r}: {task} backend {config.backend!r} uses a backend of {used!r}, and the "
                        f"profile names none. Add one of: {_names(BACKENDS[used])}."
                    )
            if self.commercial_use and (refusal := _licence_refusal(spec, config)):
                refusals.append(refusal)
        if refusals:
            raise ConfigurationError(
                f"profile {self.name!r} demands commercial_use, but " + " ".join(dict.fromkeys(refusals))
            )
        object.__setattr__(self, "backends", MappingProxyType(dict(self.backends)))
        object.__setattr__(self, "leak_check", MappingProxyType(dict(self.leak_check)))
        object.__setattr__(self, "frames_per_second", MappingProxyType(dict(self.frames_per_second)))


#: What a profile does with a backend: it runs it first; or only where that fails; it names it and nothing asks for it;
#: or it does not name it.
Role = Literal["used", "fallback", "idle", "other"]


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
    return _commercial_use(name, _mapping(f"profile {name!r}", _content(name)))


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


def gpu_tasks(name_or_path: str | Path) -> frozenset[str]:
    """Tasks that a profile runs on a GPU where there is one; none where the profile cannot be read.

    A wrong profile is reported by whatever uses it first: the definitions load without it.
    """
    try:
        profile = load_profile(name_or_path)
    except ConfigurationError:
        return frozenset()
    entries = [*profile.backends.items(), *profile.leak_check.items()]
    return frozenset(
        task
        for task, config in entries
        if any(_runs_on_gpu(profile, task, attempt) for attempt in config.attempts)
    )


def _runs_on_gpu(profile: Profile, task: str, config: BackendConfig) -> bool:
    """Whether a backend, or one that it uses, runs on a GPU where there is one."""
    spec = BACKENDS[task][config.backend]
    if spec.uses_gpu and config.settings.get("device") != "cpu":
        return True
    return any(_runs_on_gpu(profile, used, profile.backends[used]) for used in spec.uses)


def used_tasks(profile: Profile, tasks: Collection[str]) -> frozenset[str]:
    """Tasks whose backends are used by those that the profile names for some tasks, fallbacks included."""
    entries = [*profile.backends.items(), *profile.leak_check.items()]
    return frozenset(
        used
        for task, config in entries
        if task in tasks
        for attempt in config.attempts
        for used in BACKENDS[task][attempt.backend].uses
    )


def _described(profile: Profile, task: str, config: BackendConfig) -> dict[str, Any]:
    """A backend with its settings, and those of the backends it uses."""
    spec = _spec(profile.name, task, config.backend)
    used = {name: _described(profile, name, _config(profile, name)) for name in spec.uses}
    return {"backend": config.backend, **config.settings, **used}


def _config(profile: Profile, task: str, *, leak_check: bool = False) -> BackendConfig:
    backends = {**profile.backends, **profile.leak_check} if leak_check else profile.backends
    if task not in backends:
        raise ConfigurationError(
            f"profile {profile.name!r} names no backend for {task!r}, only for {_names(profile.backends)}."
        )
    return backends[task]


def _build_once(profile: Profile, task: str, config: BackendConfig, models_dir: Path | None) -> Any:
    spec = _spec(profile.name, task, config.backend)
    key = _key(profile, task, config, models_dir)
    with _build_lock:
        if key not in _built:
            used = {
                name: _build_once(profile, name, _config(profile, name), models_dir) for name in spec.uses
            }
            _built[key] = _build(profile.name, spec, {**config.settings, **used}, models_dir)
        return _built[key]


def _key(profile: Profile, task: str, config: BackendConfig, models_dir: Path | None) -> tuple[Any, ...]:
    """What a backend depends on, with that of the backends it uses."""
    spec = _spec(profile.name, task, config.backend)
    used = tuple(_key(profile, name, _config(profile, name), models_dir) for name in spec.uses)
    settings = tuple(sorted(config.settings.items()))
    return task, config.backend, models_dir if spec.from_models_dir else None, settings, used


def profile_models(profile: Profile) -> list[ProfileModel]:
    """Every checkpoint that a profile loads under its settings, those of fallbacks last; each key once a backend."""
    found: dict[tuple[str, str, str], ProfileModel] = {}
    for role, task, config in sorted(_attempts(profile), key=lambda attempt: attempt[0] == "fallback"):
        spec = _spec(profile.name, task, config.backend)
        for card in spec.models_for(config.settings):
            model = ProfileModel(task, config.backend, card, _licence(card, config.settings), role)
            found.setdefault((task, config.backend, card.key), model)
    return list(found.values())


def require_permitted(profile_name: str, card: ModelCard) -> None:
    """Refuse a checkpoint for a profile that demands commercial use; its user's own weights are not judged here.

    Raises:
        ConfigurationError: The message names the permitted alternative, where one is known.
    """
    if card.commercial_use or card.licence == OWN_LICENCE:
        return
    instead = f" Use {card.permitted_instead}." if card.permitted_instead else ""
    raise ConfigurationError(
        f"profile {profile_name!r} demands commercial_use, and of {card.name} the "
        f"{_why_refused(card.licence)}.{instead}"
    )


def backend_report(models_dir: Path | None = None, *, profile: Profile | None = None) -> list[BackendStatus]:
    """Whether each known backend can run here; no network is loaded.

    Backends of the profile are judged with its settings, and their weights are read as a whole; of the others only
    presence and size are looked at, with the default settings.

    Args:
        models_dir: Folder of the weights that ship in no package.
        profile: Profile whose backends are judged.
    """
    attempts = _attempts(profile) if profile is not None else []
    profile_name = profile.name if profile is not None else ""
    rows: list[BackendStatus] = []
    for task, specs in BACKENDS.items():
        for spec in specs.values():
            here = [
                (role, config)
                for role, name, config in attempts
                if (name, config.backend) == (task, spec.backend)
            ]
            here.sort(key=lambda attempt: attempt[0] != "used")
            # Attempts that differ in other settings than the checkpoint are the same to the reader.
            found: dict[BackendStatus, Role] = {}
            for role, config in here or [("other", BackendConfig(backend=spec.backend))]:
                row = _status(profile_name, spec, config.settings, models_dir, role)
                found.setdefault(row._replace(role="other"), role)
            rows += [row._replace(role=role) for row, role in found.items()]
    return rows


def _attempts(profile: Profile) -> list[tuple[Role, str, BackendConfig]]:
    """Everything that a profile may build: what for, the task, and how."""
    entries = [*profile.backends.items(), *profile.leak_check.items()]
    used = used_tasks(profile, {task for task, _ in entries})
    found: list[tuple[Role, str, BackendConfig]] = []
    for task, config in entries:
        first: Role = "idle" if task in SERVING_TASKS - used else "used"
        others: Role = "idle" if first == "idle" else "fallback"
        found += [(others if place else first, task, one) for place, one in enumerate(config.attempts)]
    return found


def _licence(card: ModelCard, settings: Mapping[str, Any]) -> str:
    """Licence of a checkpoint; of the user's own weights what the settings state."""
    return str(settings.get("licence", card.licence)) if card.licence == OWN_LICENCE else card.licence


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

    missing = _missing_packages(spec)
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
            _build(profile_name, spec, settings, models_dir)
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
    models = dict.fromkeys(f"{card.name} ({_licence(card, settings)})" for card in cards)
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


def _build(
    profile_name: str, spec: BackendSpec, arguments: Mapping[str, Any], models_dir: Path | None
) -> Any:
    missing = _missing_packages(spec)
    if missing:
        raise BackendUnavailable(
            f"{spec.task} backend {spec.backend!r} needs {', '.join(missing)}: {spec.hint}."
        )
    backend_class = getattr(importlib.import_module(spec.module), spec.class_name)
    place = {"models_dir": models_dir} if spec.from_models_dir else {}
    with _blaming(profile_name, spec):
        backend = backend_class(**place, **arguments)
    if not isinstance(backend, PROTOCOLS[spec.task]):
        raise TypeError(f"{spec.module}.{spec.class_name} does not implement {PROTOCOLS[spec.task].__name__}")
    return backend


@contextmanager
def _blaming(profile_name: str, spec: BackendSpec) -> Iterator[None]:
    """Tell whoever reads what a backend refuses in whose settings of which profile it stands."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"profile {profile_name!r}, settings of {spec.task} backend {spec.backend!r}: "
            f"{str(error).rstrip('.')}."
        ) from error


def _licence_refusal(spec: BackendSpec, config: BackendConfig) -> str:
    """Why a backend is refused where commercial use is demanded, and what may be used instead; empty if it is not.

    Of weights that the user brings, and of a program that the user runs, only the user can know the licence, and may
    state that it permits it.
    """
    permits = config.settings.get(LICENCE_PERMITS) is True
    stated = str(config.settings.get("licence", OWN_LICENCE))
    if LICENCE_PERMITS in spec.settings and not spec.all_models:
        if permits:
            return ""
        loaded, reason, is_own = "runs a model of your own", _why_refused(stated, is_own=True), True
    else:
        refused = [
            card
            for card in spec.models_for(config.settings)
            if not card.commercial_use and not (permits and card.licence == OWN_LICENCE)
        ]
        if not refused:
            return ""
        card = refused[0]
        is_own = card.licence == OWN_LICENCE
        loaded, reason = f"loads {card.name}", _why_refused(_licence(card, config.settings), is_own=is_own)
    if is_own:
        licence = ", and licence," if stated == OWN_LICENCE else ""
        way = f"Set {LICENCE_PERMITS}: true{licence} if yours permits it"
    else:
        way = f"Use {card.permitted_instead}" if card.permitted_instead else ""
    others = [
        f"{name} ({choice})" if choice else name
        for name, other in sorted(BACKENDS[spec.task].items())
        if name != spec.backend and name not in way and (choice := other.permitted_choice) is not None
    ]
    if others:
        way = f"{way}, or choose" if way else "Choose"
        way = f"{way} another backend: {', '.join(others)}"
    return f"{spec.task} backend {spec.backend!r} {loaded}, whose {reason}. {way or 'There is no other backend'}."


def _why_refused(licence: str, *, is_own: bool = False) -> str:
    """Why a licence is no permission; of weights of the user's own, as far as the profile says."""
    if licence == OWN_LICENCE:
        return "licence is not stated"
    if OWN_LICENCE in licence:
        return f"licence is {licence}: nothing permits it"
    if is_own:
        return f"licence {licence} is not said to permit it"
    return f"licence {licence} forbids it"


def _missing_packages(spec: BackendSpec) -> list[str]:
    return [package for package in spec.requires if not is_installed(package)]


def _spec(profile_name: str, task: str, backend: str) -> BackendSpec:
    if task not in BACKENDS:
        raise ConfigurationError(
            f"profile {profile_name!r}: unknown task {task!r}; known: {_names(BACKENDS)}."
        )
    if backend not in BACKENDS[task]:
        raise ConfigurationError(
            f"profile {profile_name!r}: {task} has no backend {backend!r}; known: {_names(BACKENDS[task])}."
        )
    return BACKENDS[task][backend]


def _parse(name: str, content: object) -> Profile:
    top = _mapping(f"profile {name!r}", content)
    _expect_keys(f"profile {name!r}", top, _PROFILE_KEYS)
    return Profile(
        name=name,
        backends=_backends(name, "backends", top.get("backends")),
        leak_check=_backends(name, "leak_check", top.get("leak_check", {})),
        commercial_use=_commercial_use(name, top),
        frames_per_second=_mapping(f"profile {name!r}, frames_per_second", top.get("frames_per_second", {})),
    )


def _commercial_use(name: str, top: Mapping[str, Any]) -> bool:
    value = top.get("commercial_use", False)
    if not isinstance(value, bool):
        raise ConfigurationError(f"profile {name!r}: commercial_use expects true or false, got {value!r}.")
    return value


def _backends(name: str, section: str, content: object) -> dict[str, BackendConfig]:
    backends = {}
    for task, entry in _mapping(f"profile {name!r}, {section}", content).items():
        where = f"profile {name!r}, {section}.{task}"
        entry = _mapping(where, entry)
        _expect_keys(where, entry, _BACKEND_KEYS)
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
        settings={} if settings is None else _mapping(f"{where}.settings", settings),
    )


def _fallback(where: str, item: object, first: BackendConfig) -> BackendConfig:
    """A fallback: another backend, or the same one with some settings changed."""
    entry = _mapping(where, item)
    _expect_keys(where, entry, _FALLBACK_KEYS)
    config = _backend(where, {"backend": first.backend, **entry})
    if config.backend != first.backend:
        return config
    return replace(config, settings={**first.settings, **config.settings})


def _mapping(where: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ConfigurationError(f"{where}: expected a mapping of names, got {value!r}.")
    return value


def _expect_keys(where: str, value: Mapping[str, Any], known: frozenset[str]) -> None:
    unknown = sorted(set(value) - known)
    if unknown:
        raise ConfigurationError(f"{where}: unknown {', '.join(unknown)}; known: {_names(known)}.")


def _names(names: Mapping[str, Any] | frozenset[str]) -> str:
    return ", ".join(sorted(names)) or "none"
