"""``corrections.parquet``: which clips of earlier versions must not be used any more, and which were replaced.

It lies in the delivery's folder, beside the versions, and is complete there at any time; each version has a copy from
when it was written. A row concerns every version before the one that it names.
"""

from __future__ import annotations

import datetime as dt
import os
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from ego_assets.schema.errors import EgoAssetsError

CORRECTIONS = "corrections.parquet"
#: Raised whenever the meaning of a column changes; stored in the file's metadata.
CORRECTIONS_FORMAT = 1

CorrectionAction = Literal["withdrawn", "replaced"]
#: Why, in words that say nothing of anybody.
CorrectionReason = Literal[
    "privacy incident", "withdrawn from the collection", "taken back from this delivery", "de-identified anew"
]

CORRECTIONS_SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), False, {"description": "UUID of the clip"}),
        pa.field(
            "action",
            pa.string(),
            False,
            {"description": "withdrawn: do not use it; replaced: a later version has it anew"},
        ),
        pa.field(
            "version",
            pa.string(),
            False,
            {"description": "first version that is corrected; all before it are concerned"},
        ),
        pa.field("reason", pa.string(), False, {"description": "kind of reason"}),
        pa.field("at", pa.timestamp("us", tz="UTC"), False, {"description": "when it was recorded"}),
    ],
    metadata={"ego_assets.corrections_format": str(CORRECTIONS_FORMAT)},
)


class CorrectionsUnreadable(EgoAssetsError):
    """The list of corrections of a delivery is damaged."""


@dataclass(frozen=True, kw_only=True)
class ClipCorrection:
    """What became of a clip that a version had.

    Attributes:
        clip_id: The clip.
        action: Whether it must not be used any more, or a later version has it anew.
        version: First version that is corrected; all before it are concerned.
        reason: Kind of reason.
        at: When it was recorded (UTC).
    """

    clip_id: str
    action: CorrectionAction
    version: str
    reason: CorrectionReason
    at: dt.datetime

    def __post_init__(self) -> None:
        if self.action not in get_args(CorrectionAction) or self.reason not in get_args(CorrectionReason):
            raise ValueError(f"correction of {self.clip_id}: unknown action or reason in {self}")
        version_number(self.version)


@dataclass(frozen=True, kw_only=True)
class NeededCorrection:
    """A correction that has to be on the list.

    Attributes:
        clip_id: The clip.
        action: See :class:`ClipCorrection`.
        reason: Kind of reason.
        last_version: Last version that it concerns.
    """

    clip_id: str
    action: CorrectionAction
    reason: CorrectionReason
    last_version: str


def version_number(version: str) -> int:
    """``3`` of ``v0003``.

    Raises:
        ValueError: It is no version.
    """
    digits = version.removeprefix("v")
    if version == digits or not digits.isdecimal():
        raise ValueError(f"version: expected a name such as v0003, got {version!r}")
    return int(digits)


def version_name(number: int) -> str:
    """``v0003`` of ``3``."""
    return f"v{number:04d}"


def read_corrections(path: Path) -> list[ClipCorrection]:
    """The list in the order in which it grew; empty where there is none.

    Raises:
        CorrectionsUnreadable: It is damaged.
    """
    if not path.exists():
        return []
    try:
        return [ClipCorrection(**row) for row in pq.read_table(path).to_pylist()]
    except (OSError, pa.ArrowException, TypeError, ValueError) as error:
        raise CorrectionsUnreadable(
            f"{path} cannot be read ({error}): put a copy back, such as that of the newest version."
        ) from error


def write_corrections(out: BinaryIO, corrections: Iterable[ClipCorrection]) -> None:
    """Write the list as Parquet."""
    rows = [asdict(entry) for entry in corrections]
    pq.write_table(pa.Table.from_pylist(rows, schema=CORRECTIONS_SCHEMA), out)


def replace_corrections(path: Path, corrections: Sequence[ClipCorrection]) -> None:
    """Put a list in the place of another; readers see the one or the other."""
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with staged.open("wb") as out:
            write_corrections(out, corrections)
            out.flush()
            os.fsync(out.fileno())
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


def with_needed(
    known: Sequence[ClipCorrection], needed: Iterable[NeededCorrection], *, version: str, at: dt.datetime
) -> list[ClipCorrection]:
    """The list with what it still lacks.

    Args:
        known: The list.
        needed: What has to be on it.
        version: First version that is corrected.
        at: Now (UTC).
    """
    reached: dict[tuple[str, str], int] = {}
    for entry in known:
        key = (entry.clip_id, entry.action)
        reached[key] = max(reached.get(key, 0), version_number(entry.version))
    added = [
        ClipCorrection(
            clip_id=entry.clip_id, action=entry.action, version=version, reason=entry.reason, at=at
        )
        for entry in sorted(needed, key=lambda one: (one.clip_id, one.action))
        if reached.get((entry.clip_id, entry.action), 0) <= version_number(entry.last_version)
    ]
    return [*known, *added]
