"""``frames``: JPEG frames of the de-identified video, as one indexed archive."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ego_assets.execution import ClipWork, LayerDraft
from ego_assets.gates.frames import GATES, judge_frames
from ego_assets.schema.artifact import ArtifactDocument
from ego_assets.schema.clip import PRIVACY_LAYER, Clip
from ego_assets.schema.layers import LayerSpec, RetryPolicySpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from ego_assets.schema.layers import DeliveryMember
    from ego_assets.settings import EnrichmentSettings
    from resources.storage import StagedLayer


def _estimate_bytes(clip: Clip, settings: EnrichmentSettings) -> int:
    """About 1.2 bits a pixel for JPEG (140 KB at 1280x720), and 30 for lossless 16-bit colour."""
    pixels = settings.pixels(clip, settings.frames_input)
    rate = min(settings.frames_per_second, clip.fps or settings.frames_per_second)
    bits_per_s = pixels * (1.2 * rate + 30 * settings.lossless_frames_per_second)
    return int(clip.estimated_duration_s * bits_per_s / 8)


def deliver(document: ArtifactDocument, read: Callable[[str], bytes]) -> list[DeliveryMember]:
    """The frames go into ``rgb/``, copied byte by byte from the archive."""
    from ego_assets.delivery.layers import archive_members

    return archive_members(document, read, folder="rgb", archive="frames.tar", index="frames.parquet")


SPEC = LayerSpec(
    name="frames",
    group="enrich",
    description=(
        "JPEG frames of the de-identified video at 30 frames/s (EGO_FRAMES_PER_SECOND), and on request a "
        "lossless 16-bit PNG subsample, each as one indexed tar."
    ),
    stage=3,
    inputs=(PRIVACY_LAYER,),
    gates=GATES,
    retry=RetryPolicySpec(max_retries=2, delay_s=2.0),
    pool="enrich",
    estimate_bytes=_estimate_bytes,
    deliver=deliver,
)


def make(work: ClipWork, staged: StagedLayer) -> LayerDraft:
    """Extract the frames."""
    from ego_assets.media.frames import JPEG_QUALITY, LosslessOptions, extract_frames

    clip = work.blurred()
    settings = work.settings
    source = "video.mp4" if settings.frames_input == "full" else "proxy.mp4"
    lossless = None
    if settings.lossless_frames_per_second:
        lossless = LosslessOptions(
            archive=staged.path("lossless.tar"),
            index=staged.path("lossless.parquet"),
            frames_per_second=settings.lossless_frames_per_second,
        )
    with clip.local_path(source) as path:
        extracted = extract_frames(
            path,
            archive=staged.path("frames.tar"),
            index=staged.path("frames.parquet"),
            frames_per_second=settings.frames_per_second,
            lossless=lossless,
            progress=work.progress,
        )
    staged.path("contact_sheet.jpg").write_bytes(extracted.contact_sheet)
    return LayerDraft(
        gates=judge_frames(
            expected_count=extracted.expected_count,
            extracted_count=extracted.frame_count,
            checked_count=extracted.checked_count,
            undecodable_frames=extracted.undecodable_frames,
        ),
        config={
            "frames_per_second": settings.frames_per_second,
            "input": settings.frames_input,
            "lossless_frames_per_second": settings.lossless_frames_per_second,
            "jpeg_quality": JPEG_QUALITY,
        },
        counts={"frames": extracted.frame_count, "lossless_frames": extracted.lossless_count},
        resolution=extracted.size,
        facts={"frames_per_second": settings.frames_per_second},
        metadata={"frames": extracted.frame_count, "resolution": "{}x{}".format(*extracted.size)},
        pictures={"frames": "contact_sheet.jpg"},
    )
