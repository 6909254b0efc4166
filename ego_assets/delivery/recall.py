"""What was taken out of a version after it was written: the list beside it, and how a clip is taken out."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ego_assets.delivery.formats import files_holding

#: In the folder of a version: the clips that were recalled from it, and the files that went with them.
RECALLED = "RECALLED.json"


def recall_clip(
    folder: Path, clip_id: str, *, reason: Mapping[str, Any], take: Callable[[Path], object]
) -> list[str]:
    """Take everything that shows a clip out of a version, and say so there.

    It is noted first, so that a process that is killed is completed by the same call.

    Args:
        folder: The version.
        clip_id: The clip.
        reason: What is noted beside the clip, such as ``{"incident": 3}``.
        take: Takes a file or folder away.

    Returns:
        What was taken, relative to the version; folders end in ``/``.
    """
    held = files_holding(folder, clip_id)
    names = [path.relative_to(folder).as_posix() + ("/" if path.is_dir() else "") for path in held]
    _note(folder, clip_id, reason, names)
    for path in held:
        take(path)
    return names


def recalled_entries(folder: Path) -> list[dict[str, Any]]:
    """What was recalled from a version, oldest first; nothing where the list cannot be read."""
    try:
        entries = json.loads((folder / RECALLED).read_text(encoding="utf-8"))["recalled"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def recalled_clips(folder: Path) -> set[str]:
    """The clips that were recalled from a version."""
    return {str(entry.get("clip_id")) for entry in recalled_entries(folder)}


def recalled_files(folder: Path) -> set[str]:
    """Names of the files and folders that went with them."""
    return {str(name) for entry in recalled_entries(folder) for name in entry.get("files", [])}


def _note(folder: Path, clip_id: str, reason: Mapping[str, Any], names: list[str]) -> None:
    """Add the clip to the list, or files to its entry."""
    entries = recalled_entries(folder)
    same = [
        entry
        for entry in entries
        if entry.get("clip_id") == clip_id and all(entry.get(key) == value for key, value in reason.items())
    ]
    if same:
        known = list(same[0].get("files", []))
        added = [name for name in names if name not in known]
        if not added:
            return
        same[0]["files"] = [*known, *added]
    else:
        at = dt.datetime.now(dt.UTC).isoformat()
        entries.append({"clip_id": clip_id, **reason, "recalled_at": at, "files": names})
    staged = folder / f".{RECALLED}.{uuid.uuid4().hex}"
    staged.write_text(json.dumps({"format": 1, "recalled": entries}, indent=2) + "\n", encoding="utf-8")
    staged.replace(folder / RECALLED)
