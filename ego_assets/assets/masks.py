"""``masks``: instances of every sampled frame with ids that stay, as one indexed archive of PNG."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ego_assets.execution import ClipWork, LayerDraft
from ego_assets.gates.masks import GATES, frame_verdicts, judge_masks
from ego_assets.ladder import blocking_refusal, climb
from ego_assets.schema.artifact import ArtifactDocument
from ego_assets.schema.clip import PRIVACY_LAYER, Clip
from ego_assets.schema.layers import DeliveryMember, LayerSpec, RetryPolicySpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from ego_assets.labels.mask_records import RecordedMasks
    from ego_assets.schema.gates import GateResult
    from ego_assets.schema.ladder import Rung
    from ego_assets.schema.masks import MaskTracker
    from ego_assets.settings import EnrichmentSettings
    from resources.storage import StagedLayer

_TASK = "masks"
_HANDS = "hand_object"
#: A PNG of instance ids takes about this many bits a pixel.
_BITS_PER_PIXEL = 0.4


def _estimate_bytes(clip: Clip, settings: EnrichmentSettings) -> int:
    return settings.raster_bytes(clip, _TASK, bits_per_pixel=_BITS_PER_PIXEL)


def deliver(document: ArtifactDocument, read: Callable[[str], bytes]) -> list[DeliveryMember]:
    """Masks go into ``segmentation/``, with what their ids mean, where instances are, and the verdicts."""
    from ego_assets.delivery.layers import archive_members

    return [
        *archive_members(document, read, folder="segmentation", archive="masks.tar", index="masks.parquet"),
        *(
            DeliveryMember(path=f"segmentation/{name}", layer=document.layer, file=name)
            for name in ("categories.json", "tracks.parquet", "verdicts.parquet")
        ),
    ]


SPEC = LayerSpec(
    name="masks",
    group="enrich",
    description=(
        "Instances of every sampled frame, with ids that stay through the clip: the wearer's hands, people and other "
        "regions. PNG in an indexed tar (pixel = instance id), a sidecar from id to category, and a table of where "
        "each instance is. What a backend cannot name is `object`."
    ),
    stage=4,
    inputs=(PRIVACY_LAYER,),
    optional_inputs=(_HANDS,),
    gates=GATES,
    retry=RetryPolicySpec(max_retries=3, delay_s=2.0),
    tasks=(_TASK,),
    pool="enrich",
    estimate_bytes=_estimate_bytes,
    deliver=deliver,
)


def make(work: ClipWork, staged: StagedLayer) -> LayerDraft:
    """Segment and follow instances with the backends of the profile, until one result is accepted."""
    from ego_assets.labels.mask_records import CATEGORIES, categories_document, record_masks, write_verdicts
    from ego_assets.media.depth_archive import cuts_at
    from ego_assets.media.verdict_table import VERDICTS_FILE
    from ego_assets.schema.documents import json_document

    vocabulary = work.settings.mask_vocabulary
    hands, activity = work.hand_tracks(), work.clip.activity_category
    with work.sampled_frames(work.frames_per_second(_TASK)) as sampled:
        motion, _ = work.camera_motion(sampled.size)
        cuts = cuts_at(motion, sampled.frame_index)

        def attempt(rung: Rung[MaskTracker]) -> tuple[MaskTracker, RecordedMasks, list[GateResult]]:
            tracker = rung.open()
            recorded = record_masks(
                sampled.stream(),
                lambda frames: tracker.track(frames, hands=hands, vocabulary=vocabulary, cuts=cuts),
                frame_index=sampled.frame_index,
                vocabulary=vocabulary,
                path=staged.path,
            )
            return tracker, recorded, judge_masks(recorded.measurements, hands, activity=activity)

        climbed = climb(
            work.models.ladder(_TASK),
            attempt,
            refusal=lambda made: blocking_refusal(made[2]),
            log=work.log,
        )
    tracker, recorded, verdicts = climbed.result
    rate = work.frames_per_second(_TASK)
    document = categories_document(
        recorded,
        vocabulary=vocabulary,
        backend=tracker.info,
        resolution=sampled.size,
        frames_per_second=rate,
    )
    staged.path(CATEGORIES).write_bytes(json_document(document))
    by_frame = frame_verdicts(recorded.measurements, hands, activity=activity)
    write_verdicts(recorded.measurements, by_frame, staged.path(VERDICTS_FILE))
    staged.path("contact_sheet.jpg").write_bytes(recorded.contact_sheet)
    return LayerDraft(
        gates=verdicts,
        config={
            "attempt": dict(climbed.rung.config),
            "frames_per_second": rate,
            "input": work.settings.enrichment_input,
            "vocabulary": list(vocabulary),
            "hands": hands is not None,
        },
        backends=tuple(info for info in (tracker.info, tracker.category_info) if info is not None),
        attempts=climbed.attempts,
        counts=recorded.counts,
        resolution=sampled.size,
        facts={
            "frames_per_second": rate,
            "bit_depth": recorded.bit_depth,
            "categories": list(vocabulary),
            "hands": hands is not None,
        },
        metadata={
            **recorded.counts,
            "bit_depth": recorded.bit_depth,
            "reseeded_frames": len(recorded.reseeded_frames),
            "attempts": len(climbed.attempts) + climbed.accepted,
        },
        pictures={"frames with masks": "contact_sheet.jpg"},
    )
