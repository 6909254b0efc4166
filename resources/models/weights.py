"""Finding the files of a checkpoint and checking that they are what they should be.

Digests come from the registry where the publisher states them. Of other files the one that `ego-assets models pull`
or `ego-assets models verify --record` saw first is recorded in ``models.lock.json`` in the folder of weights, and
demanded from then on.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from ego_assets.schema.errors import BackendUnavailable
from resources.models.registry import ModelCard, ModelFile

#: Digests seen first, in the folder of weights: ``{"format": 1, "files": {path: {"sha256": ..., "size_bytes": ...}}}``.
LOCK_FILE = "models.lock.json"


def installation_hint(extra: str) -> str:
    """The command that installs what an extra of this project brings."""
    return f"pip install 'ego-assets[{extra}]'"


def is_installed(package: str) -> bool:
    """Whether a top-level package can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None


def locate(card: ModelCard, models_dir: Path | None = None) -> Path:
    """Path of a checkpoint's weights; the digests of all its files are checked where they are known.

    A package that ships the files is not imported. The digest of an unchanged file is computed once per process.

    Args:
        card: The checkpoint.
        models_dir: Folder of the weights that ship in no package.

    Raises:
        BackendUnavailable: The package or a file is missing, or a file is not the known one.
    """
    paths = [_checked(card, file, models_dir) for file in card.files]
    return paths[0]


def located_folder(card: ModelCard, models_dir: Path | None = None) -> Path:
    """Folder that holds a checkpoint's files, for libraries that load a folder; checked as by :func:`locate`."""
    locate(card, models_dir)
    if models_dir is None or card.shipped_in is not None:
        raise ValueError(f"{card.name}: its files lie in no folder of their own")
    return models_dir / card.folder


def card_digest(card: ModelCard, models_dir: Path | None = None) -> str:
    """SHA-256 of what a checkpoint is: of its one file, or of the digests of all, one per line, in their order.

    Raises:
        BackendUnavailable: As :func:`locate`.
    """
    digests = [weights_digest(_checked(card, file, models_dir)) for file in card.files]
    return digests[0] if len(digests) == 1 else joint_digest(digests)


def joint_digest(digests: Sequence[str]) -> str:
    """One SHA-256 for several files, hexadecimal: that of their digests, one per line, in the order given."""
    return hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode()).hexdigest()


def weights_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal; read once per process as long as size and time of change stay."""
    state = path.stat()
    return _sha256(path, state.st_size, state.st_mtime_ns)


def expected_digest(card: ModelCard, file: ModelFile, models_dir: Path | None) -> str:
    """The digest that a file has to have, or its first digits; empty where nobody stated or recorded one."""
    if file.sha256:
        return file.sha256
    recorded = recorded_digests(models_dir).get(card.path_of(file), "") if models_dir is not None else ""
    return recorded or file.sha256_begins


def recorded_digests(models_dir: Path) -> dict[str, str]:
    """Path relative to the folder of weights -> digest that was recorded there.

    Raises:
        BackendUnavailable: The lock file cannot be read.
    """
    path = models_dir / LOCK_FILE
    try:
        content = json.loads(path.read_text())
        return {name: str(entry["sha256"]) for name, entry in content["files"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackendUnavailable(
            f"{path} cannot be read ({error}). Restore it, or remove it and run `ego-assets models verify --record`."
        ) from error


def _checked(card: ModelCard, file: ModelFile, models_dir: Path | None) -> Path:
    if card.shipped_in is None:
        path = _supplied_path(card, file, models_dir)
        advice = f"The file is damaged or another release: get it again from {card.source}."
    else:
        path = _shipped_path(card, file, card.shipped_in)
        advice = (
            f"The file is damaged or comes from another release of {card.shipped_in}: reinstall it with "
            f"{installation_hint(card.extra)} --force-reinstall."
        )
    expected = expected_digest(card, file, models_dir)
    if expected and not (actual := weights_digest(path)).startswith(expected):
        raise BackendUnavailable(f"{card.name}: {path} has sha256 {actual}, expected {expected}. {advice}")
    return path


def _supplied_path(card: ModelCard, file: ModelFile, models_dir: Path | None) -> Path:
    way = f"`ego-assets models pull {card.key}`" if card.is_downloadable else f"get it from {card.source}"
    if models_dir is None:
        raise BackendUnavailable(
            f"{card.name} ships in no package: {way}, put it into a folder as {card.path_of(file)} and set "
            "EGO_MODELS_DIR to that folder."
        )
    path = models_dir / card.path_of(file)
    if not path.is_file():
        raise BackendUnavailable(
            f"{card.name}: there is no {path}. Use {way}, and put it there as {card.path_of(file)}; EGO_MODELS_DIR "
            "names the folder."
        )
    return path


def _shipped_path(card: ModelCard, file: ModelFile, package: str) -> Path:
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not folders:
        raise BackendUnavailable(
            f"{card.name} needs the package {package}, which is not installed: "
            f"{installation_hint(card.extra)}."
        )
    for folder in folders:
        path = Path(folder) / file.path
        if path.is_file():
            return path
    raise BackendUnavailable(
        f"{card.name}: the installed package {package} carries no {file.path}; this project is tested with "
        f"the release that does: {installation_hint(card.extra)}."
    )


@cache
def _sha256(path: Path, size_bytes: int, changed_ns: int) -> str:
    """Digest of the file as it is; size and time of change make the key of the cache."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
