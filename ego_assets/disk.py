"""Estimates of disk space, before work starts that would run out of it."""

from __future__ import annotations

import shutil
from pathlib import Path

from ego_assets.schema.errors import InsufficientDisk


def require_space(folder: Path, needed_bytes: int, *, reserve_bytes: int, what: str) -> None:
    """Stop before the work starts when its result will not fit.

    Args:
        folder: Where the result goes; it need not exist yet.
        needed_bytes: Estimate of what will be written.
        reserve_bytes: Space to leave free.
        what: What needs the space, as the beginning of a sentence.

    Raises:
        InsufficientDisk: The message says how much is needed and how much there is.
    """
    if needed_bytes == 0:
        return
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free_bytes = shutil.disk_usage(existing).free
    if needed_bytes + reserve_bytes > free_bytes:
        raise InsufficientDisk(
            f"{what} will need about {needed_bytes / 1e9:.1f} GB, and {reserve_bytes / 1e9:.1f} GB are kept free, "
            f"but {existing} has only {free_bytes / 1e9:.1f} GB left. Free some space, or lower "
            "EGO_FREE_DISK_RESERVE_BYTES."
        )
