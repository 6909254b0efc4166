"""``blurred_video``: the first picture of a clip that may be shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ego_assets.execution import ClipWork, LayerDraft, ReviewRequest
from ego_assets.gates.blurred_video import (
    GATES,
    HIGH_RISK_LOW_CONFIDENCE_SHARE,
    LOW_CONFIDENCE,
    NEUTRAL_METADATA_KEYS,
    PII_DENSITY,
    VideoFacts,
    judge_privacy,
)
from ego_assets.schema.clip import PRIVACY_LAYER, Clip
from ego_assets.schema.gates import GateOutcome
from ego_assets.schema.layers import LayerSpec, RetryPolicySpec
from ego_assets.schema.vocabulary import PrivacyStatus, ReviewKind, ReviewRisk, VaultPurpose

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ego_assets.privacy.report import PiiReport
    from ego_assets.schema.detections import RegionDetector
    from ego_assets.settings import EnrichmentSettings
    from resources.storage import StagedLayer

#: Kinds of regions that every profile must be able to find; a profile without one fails, it never skips.
REQUIRED_TASKS = ("faces", "text")

#: Gates whose warning puts the clip in the review queue.
REVIEWED_GATES = {
    PII_DENSITY.name: ReviewKind.PII_DENSITY,
    LOW_CONFIDENCE.name: ReviewKind.PII_LOW_CONFIDENCE,
}


def _estimate_bytes(clip: Clip, _settings: EnrichmentSettings) -> int:
    """The rendering is rarely larger than the original; the proxy adds about 1 MB per second."""
    return 2 * clip.raw_bytes + int(1_000_000 * clip.estimated_duration_s)


SPEC = LayerSpec(
    name=PRIVACY_LAYER,
    group="privacy",
    description=(
        "Finds faces and text, tracks them and blurs them, at the original's size and time stamps; drops "
        "audio, location and every other stream. Also writes the proxy that all later layers read. What "
        "fails its gate is never published."
    ),
    stage=2,
    inputs=("raw_clip", "clip_quality"),
    gates=GATES,
    essential=True,
    reads_original=True,
    runs_when_held=True,
    publish_when_blocked=False,
    retry=RetryPolicySpec(max_retries=2, delay_s=5.0),
    pool="privacy",
    estimate_bytes=_estimate_bytes,
)


def make(work: ClipWork, staged: StagedLayer) -> LayerDraft:
    """Run the privacy pass with the detectors of the profile."""
    detectors = {task: work.models.detector(task) for task in REQUIRED_TASKS}
    return render(work, staged, detectors=detectors)


def render(work: ClipWork, staged: StagedLayer, *, detectors: Mapping[str, RegionDetector]) -> LayerDraft:
    """Render the de-identified video with these detectors, and judge the result.

    Without any detector the owner of the footage has declared it to be de-identified already.
    """
    import pyarrow.parquet

    from ego_assets.media.probe import probe
    from ego_assets.media.timeline import read_timeline
    from ego_assets.privacy.config import PrivacyConfig
    from ego_assets.privacy.deidentify import deidentify
    from ego_assets.privacy.report import tracks_table

    work.input("raw_clip")
    work.input("clip_quality")
    config = PrivacyConfig()
    video, proxy = staged.path("video.mp4"), staged.path("proxy.mp4")
    with work.open_original(VaultPurpose.DEIDENTIFY) as original:
        found = probe(original, name=work.clip.source_name)
        timeline = read_timeline(original)
        result = deidentify(
            original,
            probe=found,
            timeline=timeline,
            video_path=video,
            proxy_path=proxy,
            detectors=detectors,
            config=config,
            detector_settings=work.models.settings(detectors),
            already_deidentified=not detectors,
            progress=work.progress,
        )
    report = result.report
    staged.path("pii_report.json").write_text(report.to_json())
    tracks = tracks_table(result.tracks, result.timeline.timestamps_ns)
    pyarrow.parquet.write_table(tracks, staged.path("tracks.parquet"))
    staged.path("contact_sheet.jpg").write_bytes(result.contact_sheet)
    faces = report.kinds.get("faces")
    verdicts = judge_privacy(
        original=VideoFacts(timestamps_ns=result.timeline.timestamps_ns),
        video=_facts(video),
        proxy=_facts(proxy),
        face_detections=faces.detections if faces else 0,
        face_frames_analysed=faces.examined_frames if faces else 0,
        low_confidence_frames=len(report.low_confidence_frames),
        # A repeated time stamp cannot be stored twice: each repetition moves by one tick.
        tick_ns=round(1e9 * timeline.time_base),
    )
    counts = {
        f"{kind}_{what}": getattr(findings, what)
        for kind, findings in report.kinds.items()
        for what in ("detections", "tracks")
    }
    return LayerDraft(
        gates=verdicts,
        config=config.to_dict(),
        backends=tuple(detector.info for detector in detectors.values()),
        counts={
            "frames": result.timeline.frame_count,
            "lost_frames": timeline.frame_count - result.timeline.frame_count,
            **counts,
        },
        resolution=result.proxy_size,
        clip_updates={"privacy_status": PrivacyStatus.BLURRED},
        reviews=[
            ReviewRequest(kind=kind, risk=_risk(kind, report), reason=verdict.message)
            for verdict in verdicts
            if (kind := REVIEWED_GATES.get(verdict.spec.name)) and verdict.outcome is GateOutcome.WARNED
        ],
        metadata={
            **counts,
            "redacted_share": report.redacted_share,
            "removed_streams": [f"{stream.kind} {stream.codec}" for stream in report.removed_streams],
            "removed_metadata": [k for k in report.removed_metadata_keys if k not in NEUTRAL_METADATA_KEYS],
        },
        pictures={"blurred frames": "contact_sheet.jpg"},
    )


def _risk(kind: ReviewKind, report: PiiReport) -> ReviewRisk:
    """Whether the clip may be delivered while the review is open."""
    examined = max((findings.examined_frames for findings in report.kinds.values()), default=0)
    few = len(report.low_confidence_frames) <= HIGH_RISK_LOW_CONFIDENCE_SHARE * examined
    return ReviewRisk.NORMAL if kind is ReviewKind.PII_LOW_CONFIDENCE and few else ReviewRisk.HIGH


def _facts(rendered: Path) -> VideoFacts:
    """What the gate compares with the original."""
    from ego_assets.media.probe import probe
    from ego_assets.media.timeline import read_timeline

    found = probe(rendered)
    return VideoFacts(
        timestamps_ns=read_timeline(rendered).timestamps_ns,
        stream_kinds=("video", *(stream.kind for stream in found.other_streams)),
        metadata_keys=found.metadata_keys,
    )
