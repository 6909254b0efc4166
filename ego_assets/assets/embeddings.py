"""``embeddings``: one vector per clip, to find near-duplicates and clips that look alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ego_assets.execution import ClipWork, LayerDraft
from ego_assets.gates.embeddings import GATES, judge_embedding
from ego_assets.schema.clip import PRIVACY_LAYER
from ego_assets.schema.embeddings import EMBEDDINGS_LAYER
from ego_assets.schema.layers import DeliveryMember, LayerSpec, RetryPolicySpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from ego_assets.labels.embeddings import ClipEmbedding
    from ego_assets.schema.artifact import ArtifactDocument
    from ego_assets.schema.clip import Clip
    from ego_assets.schema.embeddings import Embedder
    from ego_assets.schema.gates import GateResult
    from ego_assets.schema.ladder import Rung
    from ego_assets.settings import EnrichmentSettings
    from resources.storage import StagedLayer

TASK = "embeddings"
_TABLE = "embedding.parquet"
_PICTURE = "contact_sheet.jpg"


def _estimate_bytes(clip: Clip, settings: EnrichmentSettings) -> int:
    """Six vectors and a picture, whatever the length of the clip."""
    return 100_000


def deliver(document: ArtifactDocument, read: Callable[[str], bytes]) -> list[DeliveryMember]:
    """The table, as it is."""
    return [DeliveryMember(path=_TABLE, layer=document.layer, file=_TABLE)]


SPEC = LayerSpec(
    name=EMBEDDINGS_LAYER,
    group="enrich",
    description=(
        "A unit vector of 768 numbers: the normalised mean over five frames evenly spread over the clip, kept in the "
        "metadata database for similarity search and as Parquet. Its space is recorded; vectors of different spaces "
        "are never compared."
    ),
    stage=3,
    inputs=(PRIVACY_LAYER,),
    gates=GATES,
    retry=RetryPolicySpec(max_retries=2, delay_s=2.0),
    tasks=(TASK,),
    pool="enrich",
    estimate_bytes=_estimate_bytes,
    deliver=deliver,
)


def make(work: ClipWork, staged: StagedLayer) -> LayerDraft:
    """Embed five frames."""
    from ego_assets.labels.embeddings import embed_frames, embedding_table, uniform_frames
    from ego_assets.ladder import blocking_refusal, climb
    from ego_assets.media.contact_sheet import contact_sheet

    with work.sampled_frames(None) as sampled:
        wanted = uniform_frames(sampled.timeline)
        frames = list(sampled.stream(indices=wanted.tolist()))
        clip_frames, size = sampled.timeline.frame_count, sampled.size

    def attempt(rung: Rung[Embedder]) -> tuple[Embedder, ClipEmbedding, list[GateResult]]:
        embedder = rung.open()
        found = embed_frames(embedder, frames)
        return (
            embedder,
            found,
            judge_embedding(found.vector, used_frames=len(frames), clip_frames=clip_frames),
        )

    climbed = climb(
        work.models.ladder(TASK), attempt, refusal=lambda made: blocking_refusal(made[2]), log=work.log
    )
    embedder, embedding, gates = climbed.result
    staged.path(_TABLE).write_bytes(embedding_table(work.clip.clip_id, embedding))
    if frames:
        sheet = contact_sheet([frame.image for frame in frames], columns=len(frames))
        staged.path(_PICTURE).write_bytes(sheet)
    times = ", ".join(f"{frame.timestamp_ns / 1e9:.1f} s" for frame in frames)
    return LayerDraft(
        gates=gates,
        config=dict(climbed.rung.config),
        backends=(embedder.info,),
        attempts=climbed.attempts,
        counts={"frames": len(frames)},
        resolution=size,
        facts={"space": embedding.space},
        embedding=embedding.embedding if climbed.accepted else None,
        metadata={"space": embedding.space, "frames": times},
        pictures={"embedded frames": _PICTURE} if frames else {},
    )
