"""``ego-assets doctor``: what is installed, what can run, what is missing and how to get it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import stat
import sys
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ego_assets.schema.errors import EgoAssetsError
from ego_assets.settings import Settings

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
        state: ``ok``; ``note`` for what works but should be known; ``missing`` for what stops work.
        found: What was found.
        advice: What to do; empty when nothing needs doing.
    """

    subject: str
    state: Literal["ok", "note", "missing"]
    found: str
    advice: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The finding for ``--json``."""
        return asdict(self)


def examine(settings: Settings) -> list[Finding]:
    """Look at Python, packages, OpenCV, backends, the caption endpoint, folders, database and disk."""
    return [
        _python(),
        *_packages(),
        _opencv(),
        *_backends(settings),
        _caption_endpoint(settings),
        _database(settings),
        _vault(settings),
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
    installed = [name for name in _OPENCV if _version(name)]
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


def _backends(settings: Settings) -> list[Finding]:
    """All known backends; only one that the active profile uses is missed when it cannot run."""
    from resources.profiles import backend_report, load_profile

    try:
        profile = load_profile(settings.profile)
        chosen = (*profile.backends.items(), *profile.leak_check.items())
        used = {(task, config.backend) for task, config in chosen}
    except EgoAssetsError as error:
        return [Finding(subject=f"profile {settings.profile}", state="missing", found="-", advice=str(error))]
    findings = []
    for row in backend_report(settings.models):
        subject = f"{row.task}: {row.backend}"
        if row.available:
            findings.append(Finding(subject=subject, state="ok", found=row.detail))
        else:
            needed: Literal["note", "missing"] = "missing" if (row.task, row.backend) in used else "note"
            findings.append(Finding(subject=subject, state=needed, found="-", advice=row.detail))
    return findings


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
