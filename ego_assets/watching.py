"""One look at the upload folder: which files are complete, which still grow, which cannot be accepted.

The uploads sensor calls this at every tick and keeps the observations in its cursor.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ego_assets.media.uploads import (
    UploadDescription,
    UploadObservation,
    describe_upload,
    find_uploads,
    settled,
    sidecar_of,
)
from ego_assets.schema.errors import UploadRejected


@dataclass(frozen=True, kw_only=True)
class UploadScan:
    """What one look at the upload folder found.

    Attributes:
        accepted: Complete files that can be registered, oldest name first, at most the cap.
        rejected: Files that cannot be accepted, with the reason.
        observations: State of the files that are still being watched, by relative path.
        waiting: How many files still grow or exceed the cap.
    """

    accepted: list[UploadDescription] = field(default_factory=list)
    rejected: list[tuple[Path, UploadRejected]] = field(default_factory=list)
    observations: dict[str, UploadObservation] = field(default_factory=dict)
    waiting: int = 0


def scan_uploads(
    root: Path,
    previous: dict[str, UploadObservation],
    *,
    quiet_s: float,
    at_most: int,
    is_known: Callable[[str], bool],
) -> UploadScan:
    """Look at every file below ``root`` once.

    Args:
        root: The upload folder; a folder that does not exist is empty.
        previous: Observations of the look before.
        quiet_s: An upload is complete when it has not changed for this long.
        at_most: Cap on accepted files.
        is_known: Whether the upload with this URI is registered already.
    """
    scan = UploadScan()
    waiting = 0
    for path in find_uploads(root):
        if is_known(path.as_uri()):
            continue
        relative = str(path.relative_to(root))
        if path.is_symlink():
            scan.rejected.append((path, _rejection(root, path)))
            continue
        try:
            now = UploadObservation.of(path)
        except FileNotFoundError:
            continue
        scan.observations[relative] = now
        complete = _is_settled(previous.get(relative), now, quiet_s)
        sidecar = sidecar_of(path)
        if sidecar is not None and not sidecar.is_symlink():
            # A sidecar caught half-written would get its video rejected.
            seen = UploadObservation.of(sidecar)
            name = str(sidecar.relative_to(root))
            scan.observations[name] = seen
            complete = complete and _is_settled(previous.get(name), seen, quiet_s)
        if not complete or len(scan.accepted) >= at_most:
            waiting += 1
            continue
        try:
            scan.accepted.append(describe_upload(root, path))
        except UploadRejected as rejection:
            scan.rejected.append((path, rejection))
            scan.observations.pop(relative)
    return UploadScan(
        accepted=scan.accepted, rejected=scan.rejected, observations=scan.observations, waiting=waiting
    )


def _is_settled(before: UploadObservation | None, now: UploadObservation, quiet_s: float) -> bool:
    return before is not None and settled(before, now, quiet_s=quiet_s)


def _rejection(root: Path, path: Path) -> UploadRejected:
    try:
        describe_upload(root, path)
    except UploadRejected as rejection:
        return rejection
    return UploadRejected("symlink", f"{path.name!r} is a link. Upload the file itself.")


def observations_to_cursor(observations: dict[str, UploadObservation]) -> str:
    """The observations as the sensor's cursor."""
    return json.dumps({name: asdict(observation) for name, observation in sorted(observations.items())})


def observations_from_cursor(cursor: str | None) -> dict[str, UploadObservation]:
    """The observations of the tick before; none for a cursor that is empty or not ours."""
    try:
        stored = json.loads(cursor or "{}")
        return {name: UploadObservation(**values) for name, values in stored.items()}
    except (ValueError, TypeError, AttributeError):
        return {}
