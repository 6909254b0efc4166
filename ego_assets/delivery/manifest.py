"""``manifest.parquet``: the entry point of a delivery, one row per clip."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ego_assets.curation.score import QualityScore
from ego_assets.schema.artifact import ArtifactDocument, digest_of
from ego_assets.schema.clip import Clip
from ego_assets.schema.layers import COMPLETENESS_BITS

#: Raised whenever the meaning of a column changes; stored in the file's metadata.
MANIFEST_FORMAT = 1

#: Rows that are in memory at a time.
_ROWS_PER_GROUP = 1024

_LAYERS = tuple(sorted(COMPLETENESS_BITS, key=lambda layer: COMPLETENESS_BITS[layer]))

#: Column name, type, whether it may be null, and what it means.
_COLUMNS: tuple[tuple[str, pa.DataType, bool, str], ...] = (
    ("clip_id", pa.string(), False, "UUID of the clip"),
    ("duration_s", pa.float64(), True, "duration in seconds"),
    ("duration", pa.float64(), True, "same as duration_s"),
    ("activity_category", pa.string(), False, "what was done; empty when not given"),
    ("environment_type", pa.string(), False, "kind of place"),
    ("location_type", pa.string(), False, "same as environment_type"),
    ("quality_score", pa.float64(), True, "score in 0-1; null where nothing could be evaluated"),
    ("quality_confidence", pa.float64(), True, "share of the score's weight that was evaluated, 0-1"),
    ("score_version", pa.string(), False, "version of the score's formula"),
    ("frame_count", pa.int64(), True, "frames of the recording"),
    ("step_count", pa.int64(), False, "time steps delivered"),
    ("fps", pa.float64(), True, "frames a second of the recording"),
    ("width", pa.int32(), True, "width of the upright recording in pixels"),
    ("height", pa.int32(), True, "height of the upright recording in pixels"),
    (
        "enrichment_completeness",
        pa.int32(),
        False,
        "bitfield of the layers that were judged and found usable",
    ),
    ("privacy_status", pa.string(), False, "blurred, or reviewed by a person"),
    ("licence", pa.string(), False, "licence of the clip; empty when not given"),
    ("consent_scope", pa.string(), False, "what the people concerned agreed to"),
    ("split", pa.string(), True, "train, validation or test; null where none was made"),
    ("source_camera", pa.string(), False, "camera"),
    ("recording_date", pa.date32(), True, "day of the recording"),
    ("collector_id", pa.string(), False, "who wore the camera; split by it"),
    ("clip_path", pa.string(), True, "folder of the clip, relative to this file; null where only packed"),
    (
        "package_path",
        pa.string(),
        True,
        "archive of the clip, relative to this file; null where only unpacked",
    ),
    ("package_uri", pa.string(), True, "where the archive was written"),
    ("package_sha256", pa.string(), True, "digest of the archive"),
    ("package_bytes", pa.int64(), True, "size of the archive"),
    *(
        column
        for layer in _LAYERS
        for column in (
            (f"{layer}_uri", pa.string(), True, f"where the layer {layer} is stored; null where absent"),
            (f"{layer}_sha256", pa.string(), True, f"digest of the layer {layer}"),
        )
    ),
)

MANIFEST_SCHEMA = pa.schema(
    [pa.field(name, kind, nullable, {"description": text}) for name, kind, nullable, text in _COLUMNS],
    metadata={
        "ego_assets.manifest_format": str(MANIFEST_FORMAT),
        "ego_assets.completeness_bits": ",".join(f"{COMPLETENESS_BITS[layer]}={layer}" for layer in _LAYERS),
    },
)


@dataclass(frozen=True, kw_only=True)
class LayerReference:
    """Where a layer is stored.

    Attributes:
        uri: Location of the layer's version.
        sha256: Digest, see :func:`layer_digest`.
    """

    uri: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class PackageReference:
    """Where a clip's delivery lies.

    Attributes:
        clip_path: Folder relative to the manifest, or ``None``.
        package_path: Archive relative to the manifest, or ``None``.
        package_uri: Absolute location of the archive, or ``None``.
        package_sha256: Digest of the archive, or ``None``.
        package_bytes: Size of the archive, or ``None``.
    """

    clip_path: str | None = None
    package_path: str | None = None
    package_uri: str | None = None
    package_sha256: str | None = None
    package_bytes: int | None = None


def layer_digest(document: ArtifactDocument) -> str:
    """SHA-256 of a layer: of its file, or of the list of names and digests where it has several."""
    if len(document.files) == 1:
        return document.files[0].sha256
    return digest_of([[entry.name, entry.sha256] for entry in document.files])


def manifest_row(
    clip: Clip,
    *,
    score: QualityScore,
    completeness: int,
    step_count: int,
    layers: Mapping[str, LayerReference],
    package: PackageReference | None = None,
    split: str | None = None,
) -> dict[str, Any]:
    """One row of the manifest.

    Args:
        clip: The clip.
        score: Its quality score.
        completeness: Bitfield of its layers, see :mod:`ego_assets.curation.completeness`.
        step_count: Time steps that are delivered.
        layers: Where its layers are stored, by name; layers without a completeness bit are not accepted.
        package: Where its delivery lies; ``None`` before it is built.
        split: Name of its split, or ``None``.

    Raises:
        ValueError: A layer has no completeness bit.
    """
    unknown = sorted(set(layers) - set(_LAYERS))
    if unknown:
        raise ValueError(f"layers: expected some of {list(_LAYERS)}, got {unknown}")
    package = package or PackageReference()
    row: dict[str, Any] = {
        "clip_id": clip.clip_id,
        "duration_s": clip.duration_s,
        "duration": clip.duration_s,
        "activity_category": clip.activity_category,
        "environment_type": clip.location_type.value,
        "location_type": clip.location_type.value,
        "quality_score": score.value,
        "quality_confidence": score.confidence,
        "score_version": score.version,
        "frame_count": clip.frame_count,
        "step_count": step_count,
        "fps": clip.fps,
        "width": clip.width,
        "height": clip.height,
        "enrichment_completeness": completeness,
        "privacy_status": clip.privacy_status.value,
        "licence": clip.licence,
        "consent_scope": clip.consent_scope.value,
        "split": split,
        "source_camera": clip.source_camera.value,
        "recording_date": clip.recording_date,
        "collector_id": clip.collector_id,
        "clip_path": package.clip_path,
        "package_path": package.package_path,
        "package_uri": package.package_uri,
        "package_sha256": package.package_sha256,
        "package_bytes": package.package_bytes,
    }
    for layer in _LAYERS:
        reference = layers.get(layer)
        row[f"{layer}_uri"] = reference.uri if reference else None
        row[f"{layer}_sha256"] = reference.sha256 if reference else None
    return row


def manifest_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """The rows as a table in :data:`MANIFEST_SCHEMA`, sorted by ``clip_id``.

    Raises:
        ValueError: A row lacks a column or has an unknown one, a value may not be null, or two rows
            describe the same clip.
    """
    ordered = sorted(rows, key=lambda row: str(row["clip_id"]))
    return pa.Table.from_pylist(list(_checked(ordered)), schema=MANIFEST_SCHEMA)


def write_manifest(out: BinaryIO, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write the manifest as Parquet, a group of rows at a time, and return the number of rows.

    Args:
        out: Where to write; stays open.
        rows: In the order of ``clip_id``.

    Raises:
        ValueError: As :func:`manifest_table`, or the rows are not in order.
    """
    count = 0
    with pq.ParquetWriter(out, MANIFEST_SCHEMA, compression="zstd") as writer:
        checked = _checked(rows)
        while group := list(itertools.islice(checked, _ROWS_PER_GROUP)):
            count += len(group)
            writer.write_table(pa.Table.from_pylist(group, schema=MANIFEST_SCHEMA))
    return count


def _checked(rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows, each compared with the schema and with the one before it."""
    names, required = (
        set(MANIFEST_SCHEMA.names),
        [field.name for field in MANIFEST_SCHEMA if not field.nullable],
    )
    before = ""
    for row in rows:
        clip_id = str(row["clip_id"])
        if set(row) != names:
            raise ValueError(f"clip {clip_id}: unexpected or missing columns {sorted(set(row) ^ names)}")
        if empty := [name for name in required if row[name] is None]:
            raise ValueError(f"clip {clip_id}: expected a value in {empty}, got null")
        if clip_id == before:
            raise ValueError("clip_id: expected one row per clip, got several for the same one")
        if clip_id < before:
            raise ValueError(f"clip_id: expected rows in order, got {clip_id} after {before}")
        before = clip_id
        yield dict(row)
