"""Small deliveries as folders, for tests of what reads them."""

from __future__ import annotations

import datetime as dt
import io
import json
from collections.abc import Collection, Sequence
from pathlib import Path

from ego_assets.delivery.card import sdk_source
from ego_assets.delivery.clip_source import DeliveredClip
from ego_assets.delivery.corrections import ClipCorrection, CorrectionAction, write_corrections
from ego_assets.delivery.definition import DeliveryDefinition
from ego_assets.delivery.journal import Journal
from ego_assets.delivery.manifest import PackageReference, write_manifest
from ego_assets.delivery.package import PackageMember, write_package
from ego_assets.delivery.webdataset import write as write_shards

FORMATS = ("folder", "archive", "webdataset")


def write_delivery(
    root: Path,
    clips: Sequence[DeliveredClip],
    *,
    formats: Collection[str] = FORMATS,
    version: str = "v0001",
    shard_bytes: int = 1_000_000,
) -> None:
    """Write a delivery: of ``folder``, ``archive`` and ``webdataset`` those that are asked for."""
    root.mkdir(parents=True, exist_ok=True)
    rows = []
    for clip in sorted(clips, key=lambda clip: clip.clip_id):
        contents = {path: clip.files.read(path) for path in clip.files.sizes()}
        place = PackageReference(
            clip_path=clip.clip_id if "folder" in formats else None,
            package_path=f"{clip.clip_id}.tar.gz" if "archive" in formats else None,
        )
        rows.append({**clip.row, "clip_path": place.clip_path, "package_path": place.package_path})
        if "folder" in formats:
            for path, content in contents.items():
                (root / clip.clip_id / path).parent.mkdir(parents=True, exist_ok=True)
                (root / clip.clip_id / path).write_bytes(content)
        if "archive" in formats:
            metadata = contents.pop("metadata.json")
            members = [
                PackageMember(path=path, size=len(content), chunks=lambda content=content: [content])
                for path, content in contents.items()
            ]
            with (root / f"{clip.clip_id}.tar.gz").open("wb") as out:
                write_package(
                    out, clip_id=clip.clip_id, members=members, documents={"metadata.json": metadata}
                )
    with (root / "manifest.parquet").open("wb") as manifest:
        write_manifest(manifest, rows)
    (root / "delivery.json").write_text(json.dumps({"format": 2, "version": version}))
    (root / "egodata.py").write_bytes(sdk_source())
    if "webdataset" in formats:
        definition = DeliveryDefinition(formats=("webdataset",), seed=1, shard_bytes=shard_bytes)
        write_shards(root, clips, definition=definition, journal=Journal(root))


def write_correction(
    path: Path, clip_id: str, *, version: str, action: CorrectionAction = "withdrawn"
) -> None:
    """Write a list of corrections with one entry."""
    entry = ClipCorrection(
        clip_id=clip_id,
        action=action,
        version=version,
        reason="privacy incident",
        at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    )
    buffer = io.BytesIO()
    write_corrections(buffer, [entry])
    path.write_bytes(buffer.getvalue())
