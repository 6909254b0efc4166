"""``ego-assets doctor``: what is installed, what can run, what is missing and how to get it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import stat
import sys
from collections.abc import Container
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from ego_assets.schema.errors import BackendUnavailable, ConfigurationError, EgoAssetsError
from ego_assets.settings import Settings

if TYPE_CHECKING:
    from resources.models.registry import ModelCard

_BASE = ("dagster", "dagster-webserver", "av", "numpy", "pandas", "pyarrow", "sqlalchemy", "webdataset")
_OPENCV = (
    "opencv-contrib-python-headless",
    "opencv-contrib-python",
    "opencv-python",
    "opencv-python-headless",
)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: What.
        state: ``ok``; ``note`` for what works but should be known; ``missing`` or ``wrong`` for what stops work.
        found: What was found.
        advice: What to do, a line for each thing; empty when nothing needs doing.
        in_use: Whether the profile names it, of backends; ``True`` for the rest.
    """

    subject: str
    state: Literal["ok", "note", "missing", "wrong"]
    found: str
    advice: str = ""
    in_use: bool = True

    @property
    def stops_work(self) -> bool:
        """Whether something has to be done before work can begin."""
        return self.state in ("missing", "wrong")

    def as_dict(self) -> dict[str, Any]:
        """The finding for ``--json``."""
        return asdict(self)


def examine(settings: Settings) -> list[Finding]:
    """Look at Python, packages, OpenCV, the GPU, backends, the caption endpoint, database, vault and disk."""
    return [
        _python(),
        *_packages(),
        _opencv(),
        *_gpu(settings),
        *_backends(settings),
        *_weights(settings),
        _caption_endpoint(settings),
        _database(settings),
        _vault(settings),
        _vault_encryption(settings),
        _disk(settings),
    ]


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] == (3, 11):
        return Finding(subject="Python", state="ok", found=version)
    return Finding(subject="Python", state="note", found=version, advice="Tested with Python 3.11 only.")


def _packages() -> list[Finding]:
    findings = []
    for name in _BASE:
        version = _version(name)
        findings.append(
            Finding(subject=name, state="ok", found=version)
            if version
            else Finding(subject=name, state="missing", found="-", advice="Run `make setup`.")
        )
    return findings


def _opencv() -> Finding:
    installed = [name for name in _OPENCV if _brings_cv2(name)]
    try:
        import cv2
    except ImportError as error:
        return Finding(subject="OpenCV", state="missing", found=str(error), advice="Run `make setup`.")
    if len(installed) > 1:
        return Finding(
            subject="OpenCV",
            state="note",
            found=f"{cv2.__version__} from {', '.join(installed)}",
            advice="Several distributions lie over one another; `make setup` leaves the one that needs no libGL.",
        )
    origin = installed[0] if installed else cv2.__file__
    return Finding(subject="OpenCV", state="ok", found=f"{cv2.__version__} from {origin}")


def _brings_cv2(distribution: str) -> bool:
    """Whether it is installed with files of ``cv2``; `make setup` leaves empty ones under the other names."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return False
    return any(path.parts[0] == "cv2" for path in files)


def _gpu(settings: Settings) -> list[Finding]:
    """The GPU that PyTorch sees, where the profile has work for one and PyTorch is there to be asked."""
    from resources.models.packages import installation_hint, is_installed
    from resources.profiles import gpu_tasks

    if not gpu_tasks(settings.profile) or not is_installed("torch"):
        return []
    try:
        import torch  # type: ignore[import-not-found,unused-ignore]
    except (ImportError, OSError) as error:
        found = f"PyTorch cannot be loaded: {error}"
        advice = f"Mend what that names, or in a new environment: {installation_hint('reference')}"
        return [Finding(subject="GPU", state="missing", found=found, advice=advice)]
    if torch.cuda.is_available():
        device = torch.cuda.get_device_properties(0)
        found = f"{device.name}, {device.total_memory / 2**30:.0f} GiB"
        return [Finding(subject="GPU", state="ok", found=found)]
    advice = (
        "With `device: auto` networks run on the CPU, slowly. Where there is a GPU, look at nvidia-smi: the driver may "
        f"be too old for PyTorch {torch.__version__}."
    )
    return [Finding(subject="GPU", state="note", found="none that PyTorch sees", advice=advice)]


def _backends(settings: Settings) -> list[Finding]:
    """All known backends; only what the active profile runs first is missed when it cannot run."""
    from resources.profiles import backend_report, load_profile, profile_file

    try:
        profile = load_profile(settings.profile)
    except EgoAssetsError as error:
        subject = f"profile {settings.profile}"
        if not profile_file(settings.profile).is_file():
            return [Finding(subject=subject, state="missing", found="-", advice=str(error))]
        return [Finding(subject=subject, state="wrong", found="cannot be used", advice=str(error))]
    findings = []
    for row in backend_report(settings.models, profile=profile):
        kind = f" ({row.checkpoint})" if row.checkpoint else ""
        subject = f"{row.task}: {row.backend}{kind}"
        in_use = row.role != "other"
        if row.available:
            findings.append(Finding(subject=subject, state="ok", found=row.detail, in_use=in_use))
            continue
        state: Literal["note", "missing"] = "missing" if row.role == "used" else "note"
        found = {
            "used": "-",
            "fallback": "a fallback of the profile",
            "idle": "no other backend of the profile asks for it",
            "other": "the profile does not use it",
        }
        findings.append(
            Finding(subject=subject, state=state, found=found[row.role], advice=row.detail, in_use=in_use)
        )
    return findings


def _weights(settings: Settings) -> list[Finding]:
    """What has to be done by hand for the weights that the profile lacks."""
    from resources.models.downloads import is_offline

    missing = _missing_weights(settings)
    advice = []
    if is_offline() and any(card.is_downloadable for card in missing):
        advice.append(
            "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE tells this machine to be offline, so `ego-assets models pull` "
            "fetches nothing here. Pull on another machine and copy its folder of weights with models.lock.json to "
            f"{settings.models}, or bring the files that `ego-assets models where KEY` names, and run `ego-assets "
            "models verify KEY --record`."
        )
    if by_hand := [card.key for card in missing if not card.is_downloadable]:
        advice.append(
            "Once the files that come by hand are in their places, run `ego-assets models verify "
            f"{' '.join(by_hand)} --record`."
        )
    if not advice:
        return []
    found = f"{len(missing)} checkpoint(s) of the profile are not here"
    return [Finding(subject="weights", state="note", found=found, advice="\n".join(advice))]


def downloads_missing(settings: Settings) -> list[str]:
    """Keys of the checkpoints that ``ego-assets models pull`` would fetch for the profile; none where it may not."""
    from resources.models.downloads import is_offline

    if is_offline():
        return []
    return [card.key for card in _missing_weights(settings) if card.is_downloadable]


def _missing_weights(settings: Settings) -> list[ModelCard]:
    """Checkpoints outside of packages that the profile loads and that are not here as a whole, each once."""
    from resources.models.weights import locate_unread
    from resources.profiles import load_profile, needed_models

    try:
        needed = needed_models(load_profile(settings.profile))
    except ConfigurationError:
        return []
    missing = []
    for card in needed:
        if card.shipped_in is not None:
            continue
        try:
            locate_unread(card, settings.models)
        except BackendUnavailable:
            missing.append(card)
    return missing


def _caption_endpoint(settings: Settings) -> Finding:
    """The settings of the endpoint; nothing is sent to it."""
    from ego_assets.assets.captions import endpoint_attempts

    subject, captions = "caption endpoint", settings.for_enrichment().captions
    if not captions.base_url:
        return Finding(subject=subject, state="ok", found="none; the profile's backend writes captions")
    try:
        _, rungs, _ = endpoint_attempts(captions)
    except EgoAssetsError as error:
        return Finding(subject=subject, state="missing", found="-", advice=str(error))
    found = f"{captions.base_url} (not contacted): {'; '.join(rung.name for rung in rungs)}"
    return Finding(subject=subject, state="ok", found=found)


def _database(settings: Settings) -> Finding:
    from resources.platform import open_database

    try:
        count = len(open_database(settings).clips())
    except Exception as error:
        return Finding(
            subject="database",
            state="missing",
            found=f"{type(error).__name__}: {error}",
            advice="Check EGO_DATABASE_URL, and that the server answers.",
        )
    return Finding(subject="database", state="ok", found=f"{count} clip(s)")


def _vault(settings: Settings) -> Finding:
    if settings.vault_url:
        return Finding(subject="vault", state="ok", found=f"{settings.vault_root} (not contacted)")
    folder = settings.vault
    if not folder.exists():
        return Finding(subject="vault", state="ok", found=f"{folder} (made at the first ingest)")
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o077:
        return Finding(
            subject="vault",
            state="note",
            found=f"{folder} has mode {mode:04o}",
            advice=f"Others may read originals. Run: chmod 700 {folder}",
        )
    if not os.access(folder, os.R_OK | os.W_OK):
        return Finding(
            subject="vault", state="missing", found=f"{folder} cannot be written", advice="Check its owner."
        )
    return Finding(subject="vault", state="ok", found=str(folder))


def _vault_encryption(settings: Settings) -> Finding:
    """Whether the vault is encrypted, with which keys; a bucket is not contacted for it."""
    from resources.platform import open_vault_keys

    subject = "vault encryption"
    try:
        keys = open_vault_keys(settings)
        present, known = keys.present(), keys.known()
    except EgoAssetsError as error:
        return Finding(subject=subject, state="missing", found="-", advice=str(error))
    source = "EGO_VAULT_KEY" if keys.source == "environment" else f"key file {keys.file}"
    key = f"key {present.key_id} from {source}" if present else f"{source} is made with the first original"
    found, clear, earlier, unknown = _vault_files(settings, present.key_id if present else "", known)
    found = f"{settings.vault_encryption}; {key}{found}"
    if unknown:
        return Finding(
            subject=subject,
            state="missing",
            found=found,
            advice=f"Nobody can read what needs key {', '.join(unknown)}: give it in EGO_VAULT_PREVIOUS_KEYS, or "
            "restore the key file from its backup.",
        )
    advice = []
    if settings.vault_encryption == "off":
        advice.append("New originals are readable on the disk: remove EGO_VAULT_ENCRYPTION=off.")
    if "without their" in found:
        advice.append("Restore the missing envelopes: `ego-assets vault status` names them.")
    if clear:
        advice.append("Encrypt what is clear: `ego-assets vault encrypt`.")
    if earlier:
        advice.append("Let the present key open everything: `ego-assets vault rotate`.")
    if keys.file.exists() and (mode := stat.S_IMODE(keys.file.stat().st_mode)) & 0o077:
        advice.append(f"Others may read the key file (mode {mode:04o}). Run: chmod 600 {keys.file}")
    return Finding(subject=subject, state="note" if advice else "ok", found=found, advice=" ".join(advice))


def _vault_files(
    settings: Settings, present: str, known: Container[str]
) -> tuple[str, int, list[str], list[str]]:
    """The files of a local vault in words; how many are clear; ids of earlier keys and of keys nobody knows here."""
    from resources.platform import open_database, open_vault

    if settings.vault_url or not settings.vault.exists():
        return "", 0, [], []
    try:
        status = open_vault(settings, open_database(settings)).status()
    except Exception as error:
        return f"; its files cannot be counted ({error})", 0, [], []
    counts = [f"{count} file(s) with key {key_id}" for key_id, count in status.encrypted.items()]
    counts += [f"{status.clear} clear"] if status.clear else []
    counts += [f"{len(status.without_key)} without their key envelope"] if status.without_key else []
    unknown = [key_id for key_id in status.encrypted if key_id not in known]
    earlier = [key_id for key_id in status.encrypted if key_id not in (present, *unknown)]
    return "".join(f"; {text}" for text in counts), status.clear, earlier, unknown


def _disk(settings: Settings) -> Finding:
    folder = settings.root
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    found = f"{free / 1e9:.1f} GB free at {folder}"
    if free < settings.free_disk_reserve_bytes:
        return Finding(subject="disk", state="missing", found=found, advice="Free some space.")
    return Finding(subject="disk", state="ok", found=found)


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""
