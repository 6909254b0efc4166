"""What changed between two versions of a delivery, from their manifests alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ego_assets.schema.errors import EgoAssetsError
from ego_assets.schema.layers import COMPLETENESS_BITS

#: Columns whose change says something of a clip that is no layer.
_FACTS = (
    "activity_category",
    "environment_type",
    "quality_score",
    "enrichment_completeness",
    "privacy_status",
    "licence",
    "consent_scope",
    "split",
    "duration_s",
)


class ManifestUnreadable(EgoAssetsError):
    """The manifest of a version is missing or damaged."""


@dataclass(frozen=True, kw_only=True)
class ClipChange:
    """What is different of one clip.

    Attributes:
        clip_id: The clip.
        layers: Layers that were added, removed or made anew.
        facts: Value before and after, by column.
    """

    clip_id: str
    layers: tuple[str, ...]
    facts: Mapping[str, tuple[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class VersionSize:
    """What a version holds.

    Attributes:
        clips: Number of clips.
        hours: Their duration.
        splits: Number of clips by split; empty where there are none.
    """

    clips: int
    hours: float
    splits: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class DeliveryDiff:
    """What changed.

    Attributes:
        before: Size of the first version.
        after: Size of the second.
        added: Clips that only the second has.
        removed: Clips that only the first has.
        changed: Clips that are different in both.
        unchanged: Number of the others.
    """

    before: VersionSize
    after: VersionSize
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[ClipChange, ...]
    unchanged: int

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


def diff_versions(before: Path, after: Path) -> DeliveryDiff:
    """Compare two versions.

    Args:
        before: Folder of the first.
        after: Folder of the second.

    Raises:
        ManifestUnreadable: One cannot be read.
    """
    first, second = _rows(before), _rows(after)
    changed = []
    for clip_id in sorted(first.keys() & second.keys()):
        change = _change(first[clip_id], second[clip_id])
        if change.layers or change.facts:
            changed.append(change)
    return DeliveryDiff(
        before=_size(first),
        after=_size(second),
        added=tuple(sorted(second.keys() - first.keys())),
        removed=tuple(sorted(first.keys() - second.keys())),
        changed=tuple(changed),
        unchanged=len(first.keys() & second.keys()) - len(changed),
    )


def _rows(folder: Path) -> dict[str, dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = ["clip_id", *_FACTS, *(f"{layer}_sha256" for layer in COMPLETENESS_BITS)]
    try:
        rows = pq.read_table(folder / "manifest.parquet").to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise ManifestUnreadable(f"{folder / 'manifest.parquet'} cannot be read: {error}") from error
    return {row["clip_id"]: {name: row.get(name) for name in columns} for row in rows}


def _change(before: Mapping[str, Any], after: Mapping[str, Any]) -> ClipChange:
    layers = [layer for layer in COMPLETENESS_BITS if before[f"{layer}_sha256"] != after[f"{layer}_sha256"]]
    facts = {name: (before[name], after[name]) for name in _FACTS if before[name] != after[name]}
    return ClipChange(clip_id=str(after["clip_id"]), layers=tuple(layers), facts=facts)


def _size(rows: Mapping[str, Mapping[str, Any]]) -> VersionSize:
    splits: dict[str, int] = {}
    for row in rows.values():
        if row["split"]:
            splits[row["split"]] = splits.get(row["split"], 0) + 1
    return VersionSize(
        clips=len(rows), hours=sum(row["duration_s"] or 0.0 for row in rows.values()) / 3600, splits=splits
    )
