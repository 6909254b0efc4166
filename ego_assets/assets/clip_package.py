"""``clip_package``: the clip's delivered folder as one archive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from ego_assets.execution import ClipWork, LayerDraft, LayerFunction
from ego_assets.schema.clip import PRIVACY_LAYER, Clip
from ego_assets.schema.layers import DeliveryMember, LayerSpec, RetryPolicySpec

if TYPE_CHECKING:
    from ego_assets.settings import EnrichmentSettings
    from resources.storage import StagedLayer

_CHUNK_BYTES = 1 << 20


def package_name(clip_id: str) -> str:
    """Name of the archive."""
    return f"{clip_id}.tar.gz"


def layer(enrichment: Sequence[LayerSpec]) -> tuple[LayerSpec, LayerFunction]:
    """The layer, which packs what every enrichment layer delivers that was not given up."""

    def estimate_bytes(clip: Clip, settings: EnrichmentSettings) -> int:
        return sum(item.estimate_bytes(clip, settings) for item in enrichment if item.deliver)

    spec = LayerSpec(
        name="clip_package",
        group="deliver",
        description=(
            "`{clip_id}.tar.gz`: the clip's folder as consumers receive it, `rgb/` and the other layers' folders "
            "beside `metadata.json`. Files are copied from the committed layers, never encoded again."
        ),
        stage=7,
        inputs=("clip_quality", PRIVACY_LAYER, "manifest"),
        optional_inputs=tuple(item.name for item in enrichment),
        retry=RetryPolicySpec(max_retries=2, delay_s=2.0),
        pool="deliver",
        estimate_bytes=estimate_bytes,
    )
    deliverable = [item for item in enrichment if item.deliver is not None]

    def make(work: ClipWork, staged: StagedLayer) -> LayerDraft:
        return _pack(work, staged, deliverable)

    return spec, make


def _pack(work: ClipWork, staged: StagedLayer, deliverable: Sequence[LayerSpec]) -> LayerDraft:
    """Write the archive."""
    from ego_assets.curation.score import QualityScore
    from ego_assets.delivery.grid import common_grid, read_grids
    from ego_assets.delivery.metadata import clip_metadata, metadata_json
    from ego_assets.delivery.package import resolve_members, write_package

    clip = work.database.clip(work.clip.clip_id)
    manifest = work.read_json(work.input("manifest"), "manifest.json")
    score = QualityScore.from_dict(manifest["score"])
    privacy = work.input(PRIVACY_LAYER)
    artifacts = {"clip_quality": work.input("clip_quality"), PRIVACY_LAYER: privacy}
    members: list[DeliveryMember] = []
    for item in deliverable:
        document = work.optional_input(item.name)
        if document is None or item.deliver is None:
            continue
        # Members are read from the middle of files: each file as a whole is compared with its digest before.
        work.store.verify(document)
        artifacts[item.name] = document
        members += item.deliver(document, partial(work.store.read_bytes, document))
    grids = read_grids(artifacts, lambda name, file: work.store.read_bytes(artifacts[name], file))
    metadata = clip_metadata(
        clip,
        score=score,
        gates=[gate for gate in work.database.gates(clip.clip_id) if gate.layer != work.spec.name],
        artifacts=artifacts,
        grid=common_grid(grids),
        layer_grids=grids,
        privacy=dict(privacy.counts),
    )

    def read(layer_name: str, file: str, offset: int, size: int) -> Iterator[bytes]:
        with work.store.open(artifacts[layer_name], file) as source:
            source.seek(offset)
            while size:
                piece = source.read(min(size, _CHUNK_BYTES))
                if not piece:
                    return
                size -= len(piece)
                yield piece

    with staged.path(package_name(clip.clip_id)).open("wb") as out:
        summary = write_package(
            out,
            clip_id=clip.clip_id,
            members=resolve_members(members, artifacts=artifacts, read=read),
            documents={"metadata.json": metadata_json(metadata)},
        )
    staged.path("metadata.json").write_bytes(metadata_json(metadata))
    # The privacy layer's contact sheet shows blurred frames, which is what the package holds.
    sheet = work.store.read_bytes(privacy, "contact_sheet.jpg")
    staged.path("contact_sheet.jpg").write_bytes(sheet)
    return LayerDraft(
        pictures={"blurred frames": "contact_sheet.jpg"},
        counts={"files": summary.file_count, "bytes": summary.bytes},
        metadata={
            "files": summary.file_count,
            "layers": [m.name for m in deliverable if m.name in artifacts],
        },
    )
