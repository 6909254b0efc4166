"""Finding the files of a checkpoint and checking that they are what they should be.

Digests come from the registry where the publisher states them. Of other files the one that `ego-assets models pull`
or `ego-assets models verify --record` saw first is recorded in ``models.lock.json`` in the folder of weights, and
demanded from then on. So are files that no card names, such as the second shard of a model or its tokenizer. What lies
in a checkpoint's own folder and was not recorded with the rest is not loaded.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from ego_assets.schema.errors import BackendUnavailable
from resources.models.packages import installation_hint
from resources.models.registry import EXTRA_THAT_SHIPS_WEIGHTS, ModelCard, ModelFile

#: What was recorded of the files in a folder of weights. ``format`` is 1; ``files`` maps a path relative to the folder
#: to its ``sha256``, ``size_bytes`` and the ``models`` (keys) it belongs to; ``repositories`` maps the key of a model
#: that came from a hub to its ``hub``, ``revision`` and ``commit``.
LOCK_FILE = "models.lock.json"
_LOCK_FORMAT = 1

#: Weights that libraries load from a folder although no card names them: the shards of large models.
_SHARDS = "*.safetensors"
#: What belongs to a checkpoint beside its weights, and is loaded from its folder: configuration, tokenizer, templates.
COMPANIONS = frozenset({".json", ".txt", ".model", ".jinja", ".yml", ".yaml", ".tiktoken"})


@dataclass(frozen=True, kw_only=True)
class RecordedFile:
    """What the lock file says of one file.

    Attributes:
        sha256: Digest, hexadecimal.
        size_bytes: Size.
        models: Keys of the checkpoints it belongs to.
    """

    sha256: str
    size_bytes: int
    models: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RecordedRepository:
    """Where the files of a checkpoint came from.

    Attributes:
        hub: Repository, ``owner/name``.
        revision: Branch, tag or commit that was asked for.
        commit: What that was at the time.
    """

    hub: str
    revision: str
    commit: str


@dataclass(frozen=True, kw_only=True)
class Lock:
    """The content of a lock file; paths are relative to the folder of weights."""

    files: Mapping[str, RecordedFile]
    repositories: Mapping[str, RecordedRepository]


@dataclass(frozen=True, kw_only=True)
class FileState:
    """One file of a checkpoint as it is on this machine.

    Attributes:
        path: Where it is, or has to be.
        state: ``ok``; ``unknown`` where nobody stated or recorded its digest; ``damaged`` where it is another one than
            expected; ``missing``.
        expected: Digest that it has to have, or its first digits; empty where nobody knows.
        actual: Digest that it has; empty where there is none to compare it with.
        advice: What to do about a damaged or missing one, as sentences; empty for others.
    """

    path: Path
    state: Literal["ok", "unknown", "damaged", "missing"]
    expected: str = ""
    actual: str = ""
    advice: str = ""


def locate(card: ModelCard, models_dir: Path | None = None) -> Path:
    """Path of a checkpoint's weights; the digests of all its files are checked where they are known.

    A package that ships the files is not imported. The digest of an unchanged file is computed once per process.

    Args:
        card: The checkpoint.
        models_dir: Folder of the weights that ship in no package.

    Raises:
        BackendUnavailable: The package or a file is missing, or a file is not the known one; or others of its folder
            were recorded, and one that would be loaded was not.
    """
    paths = [_checked(card, file, models_dir) for file in all_files(card, models_dir)]
    require_recorded(card, models_dir)
    return paths[0]


def require_recorded(card: ModelCard, models_dir: Path | None) -> None:
    """Refuse what a library would load unchecked from a folder of which the rest was recorded.

    Raises:
        BackendUnavailable: There is such a file; or the lock file cannot be read.
    """
    if models_dir is None or not _is_recorded(card, models_dir):
        return
    loaded = COMPANIONS | {PurePosixPath(_SHARDS).suffix}
    others = [
        file.path for file in unrecorded_files(card, models_dir) if PurePosixPath(file.path).suffix in loaded
    ]
    if others:
        raise BackendUnavailable(
            f"{card.name}: {models_dir / card.folder} holds {', '.join(others)}, which nobody recorded with the rest. "
            f"If it belongs there, run `ego-assets models verify {card.key} --record`; otherwise remove it."
        )


def locate_unread(card: ModelCard, models_dir: Path | None = None) -> None:
    """Check by presence and size that a checkpoint's files are there; files of packages are read, they are small.

    Raises:
        BackendUnavailable: The package or a file is missing, or has another size than the known one.
    """
    if card.shipped_in is not None:
        locate(card)
        return
    recorded = read_lock(models_dir).files if models_dir is not None else {}
    for file in all_files(card, models_dir):
        path = _supplied_path(card, file, models_dir)
        entry = recorded.get(card.path_of(file))
        expected = file.size_bytes or (entry.size_bytes if entry else 0)
        if expected and path.stat().st_size != expected:
            raise BackendUnavailable(
                f"{card.name}: {path} has {path.stat().st_size} bytes, expected {expected}. {_again(card, file)}"
            )


def located_folder(card: ModelCard, models_dir: Path | None = None) -> Path:
    """Folder that holds a checkpoint's files, for libraries that load a folder; checked as by :func:`locate`."""
    locate(card, models_dir)
    if models_dir is None or card.shipped_in is not None:
        raise ValueError(f"{card.name}: its files lie in no folder of their own")
    return models_dir / card.folder


def card_digest(card: ModelCard, models_dir: Path | None = None) -> str:
    """SHA-256 of what a checkpoint is: of its one file, or of the digests of all, one per line, in their order.

    The files are those of the card and, behind them, the shards that lie in its folder by name.

    Raises:
        BackendUnavailable: As :func:`locate`.
    """
    digests = [weights_digest(_checked(card, file, models_dir)) for file in card.files]
    named = {card.path_of(file) for file in card.files}
    if models_dir is not None and card.has_own_folder:
        found = sorted((models_dir / card.folder).glob(_SHARDS))
        shards = [path for path in found if str(PurePosixPath(card.folder) / path.name) not in named]
        digests += [weights_digest(path) for path in shards]
    return digests[0] if len(digests) == 1 else joint_digest(digests)


def all_files(card: ModelCard, models_dir: Path | None = None) -> tuple[ModelFile, ...]:
    """The files of a card, and behind them those that were recorded for it, by path.

    Where the card's pattern of weights matches none, the pattern itself is the last: a file that is missing.
    """
    if models_dir is None or card.shipped_in is not None:
        return card.files
    named = {card.path_of(file) for file in card.files}
    others = [
        ModelFile(path=str(PurePosixPath(path).relative_to(card.folder)), size_bytes=entry.size_bytes)
        for path, entry in sorted(read_lock(models_dir).files.items())
        if card.key in entry.models and path not in named and PurePosixPath(path).is_relative_to(card.folder)
    ]
    if card.weights_pattern and not any((models_dir / card.folder).glob(card.weights_pattern)):
        others.append(ModelFile(path=card.weights_pattern))
    return (*card.files, *others)


def unrecorded_files(card: ModelCard, models_dir: Path) -> tuple[ModelFile, ...]:
    """What else lies unhidden in a checkpoint's own folder, by path: no card names it and nobody recorded it."""
    known = {card.path_of(file) for file in all_files(card, models_dir)}
    return tuple(
        ModelFile(path=str(PurePosixPath(name).relative_to(card.folder)))
        for name in sorted(_names_in_own_folder(card, models_dir) - known)
    )


def file_states(card: ModelCard, models_dir: Path | None = None) -> list[FileState]:
    """What every file of a checkpoint is like; those whose digest is known are read as a whole.

    Raises:
        BackendUnavailable: The lock file cannot be read.
    """
    states = []
    for file in all_files(card, models_dir):
        expected = expected_digest(card, file, models_dir)
        try:
            path = _place(card, file, models_dir)
        except BackendUnavailable as error:
            shown = path_on_disk(card, file, models_dir) or Path(card.path_of(file))
            states.append(FileState(path=shown, state="missing", expected=expected, advice=str(error)))
            continue
        if not expected:
            states.append(FileState(path=path, state="unknown"))
            continue
        actual = weights_digest(path)
        is_right = actual.startswith(expected)
        states.append(
            FileState(
                path=path,
                state="ok" if is_right else "damaged",
                expected=expected,
                actual=actual,
                advice="" if is_right else _again(card, file),
            )
        )
    return states


def path_on_disk(card: ModelCard, file: ModelFile, models_dir: Path | None = None) -> Path | None:
    """Where a file is, or has to be; ``None`` where its package, or the folder of weights, is not there."""
    if card.shipped_in is None:
        return models_dir / card.path_of(file) if models_dir is not None else None
    try:
        return _shipped_path(card, file, card.shipped_in)
    except BackendUnavailable:
        return None


def joint_digest(digests: Sequence[str]) -> str:
    """One SHA-256 for several files, hexadecimal: that of their digests, one per line, in the order given."""
    return hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode()).hexdigest()


def weights_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal; read once per process as long as size and time of change stay."""
    path = path.resolve()
    state = path.stat()
    return _sha256(path, state.st_size, state.st_mtime_ns)


def expected_digest(card: ModelCard, file: ModelFile, models_dir: Path | None) -> str:
    """The digest that a file has to have, or its first digits; empty where nobody stated or recorded one."""
    if file.sha256:
        return file.sha256
    recorded = read_lock(models_dir).files.get(card.path_of(file)) if models_dir is not None else None
    return recorded.sha256 if recorded else file.sha256_begins


def read_lock(models_dir: Path) -> Lock:
    """What was recorded of the files in a folder of weights.

    Raises:
        BackendUnavailable: The lock file cannot be read.
    """
    path = models_dir / LOCK_FILE
    try:
        state = path.stat()
        return _read_lock(path, state.st_size, state.st_mtime_ns, state.st_ino)
    except (FileNotFoundError, NotADirectoryError):
        return Lock(files={}, repositories={})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackendUnavailable(
            f"{path} cannot be read ({error}). Restore it, or remove it and run `ego-assets models verify --record`."
        ) from error


@contextmanager
def changed_lock(
    models_dir: Path,
) -> Iterator[tuple[dict[str, RecordedFile], dict[str, RecordedRepository]]]:
    """Change what is recorded: the block changes ``files`` and ``repositories``, and both are written at its end.

    One process at a time; a reader sees the state before or after, never half of it.

    Raises:
        BackendUnavailable: The lock file cannot be read, or the folder cannot be written.
    """
    require_writable(models_dir)
    with only_one(models_dir / f".{LOCK_FILE}.lock"):
        lock = read_lock(models_dir)
        files, repositories = dict(lock.files), dict(lock.repositories)
        yield files, repositories
        content = {
            "format": _LOCK_FORMAT,
            "files": {path: asdict(files[path]) for path in sorted(files)},
            "repositories": {key: asdict(repositories[key]) for key in sorted(repositories)},
        }
        path = models_dir / LOCK_FILE
        part = path.with_name(f".{LOCK_FILE}.new")
        with part.open("w", encoding="utf-8") as file:
            file.write(json.dumps(content, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)


def require_writable(models_dir: Path) -> None:
    """Make the folder of weights where it is missing.

    Raises:
        BackendUnavailable: It cannot be made or written.
    """
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(models_dir, os.R_OK | os.W_OK | os.X_OK) else "no right to write there"
    except OSError as error:
        reason = error.strerror or type(error).__name__
    if reason:
        raise BackendUnavailable(
            f"{models_dir} cannot be written: {reason}. Set EGO_MODELS_DIR to a folder of yours, or ask whoever "
            "keeps it."
        )


@contextmanager
def only_one(path: Path, *, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock that a file stands for; other processes wait. The system frees it when a process ends.

    Args:
        path: The file.
        on_wait: Called before this process waits for another one.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def record(card: ModelCard, models_dir: Path, *, replace: bool = False) -> list[Path]:
    """Record the digests of a checkpoint's files: those of its card, and what else lies in its own folder unhidden.

    Args:
        card: The checkpoint.
        models_dir: Folder of the weights.
        replace: Forget what was recorded of it before, also the commit that it came from; otherwise that stays, and
            only other files are added.

    Returns:
        The files of which something new was recorded.

    Raises:
        BackendUnavailable: The lock file cannot be read.
    """
    paths = {card.path_of(file) for file in card.files} | _names_in_own_folder(card, models_dir)
    found_now = {
        path: RecordedFile(
            sha256=weights_digest(models_dir / path),
            size_bytes=(models_dir / path).stat().st_size,
            models=(card.key,),
        )
        for path in sorted(paths)
        if (models_dir / path).is_file()
    }
    if not found_now and not _is_recorded(card, models_dir):
        # A folder that may be a wrong one is not made.
        return []
    with changed_lock(models_dir) as (files, repositories):
        if replace:
            forget(card, files)
            repositories.pop(card.key, None)
        new = [path for path in found_now if path not in files or card.key not in files[path].models]
        for path in new:
            files[path] = found_now[path]
    return [models_dir / path for path in new]


def forget(card: ModelCard, files: dict[str, RecordedFile]) -> None:
    """Take out of the content of a lock file what belongs to a checkpoint."""
    named = {card.path_of(file) for file in card.files}
    for path in [path for path, entry in files.items() if card.key in entry.models or path in named]:
        del files[path]


def _checked(card: ModelCard, file: ModelFile, models_dir: Path | None) -> Path:
    path = _place(card, file, models_dir)
    expected = expected_digest(card, file, models_dir)
    if expected and not (actual := weights_digest(path)).startswith(expected):
        raise BackendUnavailable(
            f"{card.name}: {path} has sha256 {actual}, expected {expected}. {_again(card, file)}"
        )
    return path


def _is_recorded(card: ModelCard, models_dir: Path) -> bool:
    return any(card.key in entry.models for entry in read_lock(models_dir).files.values())


def _names_in_own_folder(card: ModelCard, models_dir: Path) -> set[str]:
    """Unhidden files of a checkpoint's own folder, relative to the folder of weights."""
    if not card.has_own_folder:
        return set()
    found = (models_dir / card.folder).rglob("*")
    names = [path.relative_to(models_dir) for path in found if path.is_file()]
    return {str(name) for name in names if not any(part.startswith(".") for part in name.parts)}


def _place(card: ModelCard, file: ModelFile, models_dir: Path | None) -> Path:
    if card.shipped_in is None:
        return _supplied_path(card, file, models_dir)
    return _shipped_path(card, file, card.shipped_in)


def _supplied_path(card: ModelCard, file: ModelFile, models_dir: Path | None) -> Path:
    way = f"Run `ego-assets models pull {card.key}`" if card.is_downloadable else f"Get it from {card.source}"
    if models_dir is None:
        raise BackendUnavailable(
            f"{card.name} ships in no package. {way}, put it into a folder as {card.path_of(file)} and set "
            "EGO_MODELS_DIR to that folder."
        )
    path = models_dir / card.path_of(file)
    if not path.is_file():
        by_hand = ", or" if card.is_downloadable else " and"
        raise BackendUnavailable(
            f"{card.name}: there is no {path}. {way}{by_hand} put it there as {card.path_of(file)}; EGO_MODELS_DIR "
            f"names the folder.{f' {card.hint}' if card.hint else ''}"
        )
    return path


def _again(card: ModelCard, file: ModelFile) -> str:
    """What to do about a file that is not the expected one."""
    if card.shipped_in is not None:
        return (
            f"The file is damaged or comes from another release of {card.shipped_in}: reinstall it with "
            f"{installation_hint(EXTRA_THAT_SHIPS_WEIGHTS)} --force-reinstall."
        )
    damaged = "The file is damaged or another release"
    if card.is_downloadable:
        return f"{damaged}: run `ego-assets models pull {card.key}`."
    if file.sha256:
        return f"{damaged}: get it again from {card.source}."
    return (
        f"{damaged}: get it again from {card.source}. If you replaced it on purpose, run `ego-assets models verify "
        f"{card.key} --record --replace`."
    )


def _shipped_path(card: ModelCard, file: ModelFile, package: str) -> Path:
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not folders:
        raise BackendUnavailable(
            f"{card.name} needs the package {package}, which is not installed: "
            f"{installation_hint(EXTRA_THAT_SHIPS_WEIGHTS)}."
        )
    for folder in folders:
        path = Path(folder) / file.path
        if path.is_file():
            return path
    raise BackendUnavailable(
        f"{card.name}: the installed package {package} carries no {file.path}; this project is tested with "
        f"the release that does: {installation_hint(EXTRA_THAT_SHIPS_WEIGHTS)}."
    )


@cache
def _sha256(path: Path, size_bytes: int, changed_ns: int) -> str:
    """Digest of the file as it is; size and time of change make the key of the cache."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def _read_lock(path: Path, size_bytes: int, changed_ns: int, inode: int) -> Lock:
    """The lock file as it is; size, time of change and inode make the key of the cache."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if content["format"] != _LOCK_FORMAT:
        raise ValueError(f"expected format {_LOCK_FORMAT}, got {content['format']!r}")
    return Lock(
        files={
            name: RecordedFile(
                sha256=str(entry["sha256"]),
                size_bytes=int(entry["size_bytes"]),
                models=tuple(entry.get("models", ())),
            )
            for name, entry in content["files"].items()
        },
        repositories={
            key: RecordedRepository(**entry) for key, entry in content.get("repositories", {}).items()
        },
    )
