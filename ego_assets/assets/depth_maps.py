"""``depth_maps``: depth and confidence of every sampled frame, as two indexed archives of PNG."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ego_assets.execution import ClipWork, LayerDraft, ReviewRequest
from ego_assets.gates.depth_maps import GATES, judge_depth, map_verdicts, refusal
from ego_assets.ladder import blocking_refusal, climb
from ego_assets.schema.artifact import ArtifactDocument
from ego_assets.schema.clip import PRIVACY_LAYER, Clip
from ego_assets.schema.layers import DeliveryMember, LayerSpec, RetryPolicySpec
from ego_assets.schema.vocabulary import ReviewKind, ReviewRisk

if TYPE_CHECKING:
    from collections.abc import Callable

    from ego_assets.media.depth_archive import DepthArchive
    from ego_assets.schema.depth import DepthEstimator
    from ego_assets.schema.gates import GateResult
    from ego_assets.schema.ladder import Rung
    from ego_assets.settings import EnrichmentSettings
    from resources.storage import StagedLayer

_TASK = "depth"
#: Depth and confidence as PNG take about this many bits a pixel together.
_BITS_PER_PIXEL = 4.5


def _estimate_bytes(clip: Clip, settings: EnrichmentSettings) -> int:
    return settings.raster_bytes(clip, _TASK, bits_per_pixel=_BITS_PER_PIXEL)


def deliver(document: ArtifactDocument, read: Callable[[str], bytes]) -> list[DeliveryMember]:
    """Maps go into ``depth/``, how sure they are into ``depth/confidence/``, and what they mean beside them."""
    from ego_assets.delivery.layers import archive_members

    return [
        *archive_members(document, read, folder="depth", archive="depth.tar", index="depth.parquet"),
        *archive_members(
            document, read, folder="depth/confidence", archive="confidence.tar", index="confidence.parquet"
        ),
        *(
            DeliveryMember(path=f"depth/{name}", layer=document.layer, file=name)
            for name in ("depth.json", "verdicts.parquet")
        ),
    ]


SPEC = LayerSpec(
    name="depth_maps",
    group="enrich",
    description=(
        "Depth of every sampled frame with its confidence, as 16-bit and 8-bit PNG in indexed tars: millimetres "
        "where the scale is known, otherwise relative; 0 where nothing is known. Measured and completed pixels are "
        "counted apart."
    ),
    stage=3,
    inputs=(PRIVACY_LAYER,),
    gates=GATES,
    retry=RetryPolicySpec(max_retries=3, delay_s=2.0),
    tasks=(_TASK,),
    pool="enrich",
    estimate_bytes=_estimate_bytes,
    deliver=deliver,
)


def make(work: ClipWork, staged: StagedLayer) -> LayerDraft:
    """Estimate depth with the backends of the profile, until one result is accepted."""
    from ego_assets.geometry.camera import camera_for
    from ego_assets.media.depth_archive import (
        cuts_at,
        depth_document,
        write_depth_archive,
        write_map_verdicts,
    )
    from ego_assets.media.verdict_table import VERDICTS_FILE
    from ego_assets.schema.documents import json_document

    settings, location = work.settings, work.clip.location_type
    with work.sampled_frames(work.frames_per_second(_TASK)) as sampled:
        motion, _ = work.camera_motion(sampled.size)
        cuts = cuts_at(motion, sampled.frame_index)
        camera = camera_for(work.clip.camera_intrinsics, work.clip.source_camera, *sampled.size)

        def attempt(rung: Rung[DepthEstimator]) -> tuple[DepthEstimator, DepthArchive, list[GateResult]]:
            estimator = rung.open()
            archive = write_depth_archive(
                sampled.stream(),
                lambda frames: estimator.estimate(
                    frames,
                    camera=camera,
                    baseline_m=settings.depth_baseline_m,
                    cuts=cuts,
                    location=location,
                ),
                frame_index=sampled.frame_index,
                path=staged.path,
                motion=motion,
            )
            verdicts = judge_depth(archive.measurements, is_dense=estimator.is_dense, location=location)
            return estimator, archive, verdicts

        climbed = climb(
            work.models.ladder(_TASK),
            attempt,
            refusal=lambda made: refusal(made[2], is_dense=made[0].is_dense),
            usable=lambda made: float(not blocking_refusal(made[2])),
            log=work.log,
        )
    estimator, archive, verdicts = climbed.result
    found, is_dense = archive.measurements, estimator.is_dense
    camera = archive.camera or camera
    rate = work.frames_per_second(_TASK)
    document = depth_document(
        found,
        camera=camera,
        backend=estimator.info,
        is_dense=is_dense,
        frames_per_second=rate,
        baseline_m=settings.depth_baseline_m,
    )
    staged.path("depth.json").write_bytes(json_document(document))
    per_map = map_verdicts(found, is_dense=is_dense, location=location)
    write_map_verdicts(found, per_map, staged.path(VERDICTS_FILE))
    staged.path("contact_sheet.jpg").write_bytes(archive.contact_sheet)
    return LayerDraft(
        gates=verdicts,
        config={
            "attempt": dict(climbed.rung.config),
            "frames_per_second": rate,
            "input": settings.enrichment_input,
            "baseline_m": settings.depth_baseline_m,
            "location": location.value,
            "camera": document["camera"],
        },
        backends=(estimator.info,),
        attempts=climbed.attempts,
        counts=archive.counts,
        resolution=sampled.size,
        facts={
            "frames_per_second": rate,
            "scale": document["scale"],
            "unit": document["unit"],
            "camera": document["camera"],
        },
        reviews=_reviews(climbed.accepted, verdicts, is_dense),
        metadata={
            **archive.counts,
            "scale": found.scale.value,
            "intrinsics": camera.source,
            "attempts": len(climbed.attempts) + climbed.accepted,
        },
        pictures={"frames with depth": "contact_sheet.jpg"},
    )


def _reviews(accepted: bool, verdicts: list[GateResult], is_dense: bool) -> list[ReviewRequest]:
    """A person looks where every attempt was refused; what failed a blocking gate is asked for anyway."""
    if accepted or blocking_refusal(verdicts):
        return []
    reason = refusal(verdicts, is_dense=is_dense)
    return [ReviewRequest(kind=ReviewKind.GATE_FAILED, risk=ReviewRisk.NORMAL, reason=reason)]
