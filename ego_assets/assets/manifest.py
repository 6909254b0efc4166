"""``manifest``: the clip's row in the dataset manifest, with its score and completeness."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ego_assets.execution import ClipWork, LayerDraft, LayerFunction
from ego_assets.gates.manifest import GATES, judge_score
from ego_assets.schema.clip import PRIVACY_LAYER
from ego_assets.schema.layers import LayerSpec, RetryPolicySpec

if TYPE_CHECKING:
    from ego_assets.curation.score import QualityScore
    from resources.storage import StagedLayer


def layer(enrichment: Sequence[LayerSpec]) -> tuple[LayerSpec, LayerFunction]:
    """The layer, which waits for all enrichment layers and takes each as present or given up."""
    spec = LayerSpec(
        name="manifest",
        group="curate",
        description=(
            "The clip's manifest row: quality score with its confidence, completeness bitfield, and digest and "
            "place of every committed layer."
        ),
        stage=6,
        inputs=("clip_quality", PRIVACY_LAYER),
        optional_inputs=tuple(item.name for item in enrichment),
        gates=GATES,
        retry=RetryPolicySpec(max_retries=2, delay_s=1.0),
        pool="curate",
    )
    return spec, make


def make(work: ClipWork, staged: StagedLayer) -> LayerDraft:
    """Score the clip and list its layers."""
    from ego_assets.curation.completeness import layers_in
    from ego_assets.curation.plots import score_plot
    from ego_assets.delivery.grid import common_grid, read_grids
    from ego_assets.delivery.manifest import LayerReference, layer_digest, manifest_row

    score = _score(work)
    for name in work.spec.inputs:
        work.input(name)
    clip = work.database.clip(work.clip.clip_id)
    made = {name: document for name in work.spec.optional_inputs if (document := work.optional_input(name))}
    grids = read_grids(made, lambda name, file: work.store.read_bytes(made[name], file))
    row = manifest_row(
        clip,
        score=score,
        completeness=clip.completeness,
        step_count=int(common_grid(grids).frame_index.size),
        layers={
            name: LayerReference(uri=work.store.uri(document), sha256=layer_digest(document))
            for name, document in made.items()
        },
    )
    content = {"score": score.to_dict(), "row": row}
    staged.path("score.png").write_bytes(score_plot(score))
    staged.path("manifest.json").write_text(json.dumps(content, indent=2, sort_keys=True, default=str) + "\n")
    return LayerDraft(
        gates=judge_score(score.value, confidence=score.confidence, parts=score.parts.to_dict()),
        config={"score_version": score.version},
        pictures={"score": "score.png"},
        clip_updates={
            "quality_score": score.value,
            "quality_confidence": score.confidence,
            "score_version": score.version,
        },
        metadata={
            "quality_score": score.value if score.value is not None else "not evaluated",
            "quality_confidence": score.confidence,
            "enrichment_completeness": clip.completeness,
            "layers": list(layers_in(clip.completeness)),
        },
    )


def _score(work: ClipWork) -> QualityScore:
    """The score from everything that was measured on the clip so far."""
    from ego_assets.curation.score import (
        ScoreParts,
        blur_part,
        exposure_part,
        mask_coverage_part,
        score_clip,
    )
    from ego_assets.quality.assessment import QualityReport

    content = work.store.read_bytes(work.input("clip_quality"), "quality.json").decode()
    report = QualityReport.from_json(content)
    return score_clip(
        ScoreParts(
            blur=blur_part(report.blur.working_scale),
            exposure=exposure_part(report.badly_exposed_share),
            depth_validity=_count(work, "depth_maps", "valid_share"),
            mask_coverage=mask_coverage_part(_count(work, "masks", "hand_frame_share")),
            caption_relevance=_count(work, "captions", "caption_relevance"),
        )
    )


def _count(work: ClipWork, layer: str, name: str) -> float | None:
    """A number that a layer states about itself; ``None`` where it was not made or could not tell."""
    document = work.optional_input(layer)
    return document.counts.get(name) if document is not None else None
