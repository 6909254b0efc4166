"""``blurred_video``: the first picture of a clip that may be shown."""

from __future__ import annotations

import re
from dataclasses import asdict
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
from ego_assets.schema.corrections import Correction, corrections_version
from ego_assets.schema.gates import GateOutcome, GateResult
from ego_assets.schema.layers import LayerSpec, RetryPolicySpec
from ego_assets.schema.vocabulary import (
    LocationType,
    PlatesPolicy,
    PrivacyStatus,
    ReviewKind,
    ReviewRisk,
    VaultPurpose,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ego_assets.privacy.config import PrivacyConfig
    from ego_assets.privacy.deidentify import PrivacyResult
    from ego_assets.privacy.report import PiiReport
    from ego_assets.schema.detections import RegionDetector
    from ego_assets.schema.timeline import Timeline
    from ego_assets.settings import EnrichmentSettings
    from resources.storage import StagedLayer

#: Kinds of regions that every profile must be able to find; a profile without one fails, it never skips.
REQUIRED_TASKS = ("faces", "text")

#: Places in which no vehicles are expected, unless the activity names one.
INDOORS = frozenset({LocationType.KITCHEN, LocationType.OFFICE, LocationType.WORKSHOP})

#: Words in an activity that let number plates be expected anywhere.
VEHICLES = re.compile(
    r"\b(cars?|driv\w*|vehicles?|park(ing)?|streets?|traffic|roads?|bikes?|bicycl\w*|cycling|trucks?|vans?|garages?)\b"
)

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
        "Finds faces, text, screens and plates, tracks them and redacts them, at the original's size and time "
        "stamps; drops sound, location and every other stream. The finished video is examined again. Also writes "
        "the proxy that all later layers read, and how the camera moved. What fails a blocking gate is never published."
    ),
    stage=2,
    inputs=("raw_clip", "clip_quality"),
    gates=GATES,
    essential=True,
    reads_original=True,
    follows_corrections=True,
    runs_when_held=True,
    publish_when_blocked=False,
    retry=RetryPolicySpec(max_retries=2, delay_s=5.0),
    tasks=("faces", "text", "plates"),
    pool="privacy",
    estimate_bytes=_estimate_bytes,
)


def make(work: ClipWork, staged: StagedLayer) -> LayerDraft:
    """Run the privacy pass with the detectors of the profile."""
    # Where somebody saw a plate that was not covered, they are looked for whatever the clip says of itself.
    seen = any(order.kind == "plates" for order in work.corrections)
    plates = seen or plates_expected(work.clip, work.platform_settings.plates)
    tasks = (*REQUIRED_TASKS, *(("plates",) if plates else ()))
    detectors = {task: work.models.detector(task) for task in tasks}
    checking = {task: work.models.detector(task, leak_check=True) for task in tasks}
    return render(work, staged, detectors=detectors, leak_detectors=checking)


def plates_expected(clip: Clip, setting: PlatesPolicy) -> bool:
    """Whether number plates are looked for; where the clip does not say where it was recorded, they are."""
    if setting != "auto":
        return setting == "always"
    activity = clip.activity_category.lower()
    return clip.location_type not in INDOORS or VEHICLES.search(activity) is not None


def render(
    work: ClipWork,
    staged: StagedLayer,
    *,
    detectors: Mapping[str, RegionDetector],
    leak_detectors: Mapping[str, RegionDetector],
) -> LayerDraft:
    """Render the de-identified video with these detectors, and judge the result.

    Without any detector the owner of the footage has declared it to be de-identified already.
    """
    import pyarrow.parquet

    from ego_assets.media.motion_table import MOTION_FILE, motion_table
    from ego_assets.media.probe import probe
    from ego_assets.media.timeline import read_timeline
    from ego_assets.privacy.config import PrivacyConfig
    from ego_assets.privacy.deidentify import deidentify
    from ego_assets.privacy.report import tracks_table

    work.input("raw_clip")
    work.input("clip_quality")
    settings = work.platform_settings
    config = PrivacyConfig(method=settings.redaction, audio=settings.audio)
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
            leak_detectors=leak_detectors,
            config=config,
            detector_settings=work.models.settings(detectors),
            leak_settings=work.models.settings(leak_detectors, leak_check=True),
            corrections=work.corrections,
            already_deidentified=not detectors,
            progress=work.progress,
        )
    report = result.report
    staged.path("pii_report.json").write_text(report.to_json())
    tracks = tracks_table(result.tracks, result.timeline.timestamps_ns)
    pyarrow.parquet.write_table(tracks, staged.path("tracks.parquet"))
    motion = motion_table(
        result.camera,
        result.timeline.timestamps_ns,
        measured_on=(found.width, found.height),
        resolution=result.proxy_size,
    )
    pyarrow.parquet.write_table(motion, staged.path(MOTION_FILE))
    staged.path("contact_sheet.jpg").write_bytes(result.contact_sheet)
    verdicts = judge(result, original=timeline, video=video, proxy=proxy, config=config)
    counts = {
        f"{kind}_{what}": getattr(findings, what)
        for kind, findings in report.kinds.items()
        for what in ("detections", "tracks")
    }
    return LayerDraft(
        gates=verdicts,
        config=config.to_dict(),
        backends=tuple(
            dict.fromkeys(detector.info for detector in (*detectors.values(), *leak_detectors.values()))
        ),
        counts={
            "frames": result.timeline.frame_count,
            "lost_frames": timeline.frame_count - result.timeline.frame_count,
            **counts,
        },
        resolution=result.proxy_size,
        clip_updates={"privacy_status": PrivacyStatus.BLURRED},
        reviews=_reviews(verdicts, result, work.clip, work.corrections),
        corrections=_corrections(result, work.clip),
        metadata={
            **counts,
            **{
                f"{kind}_per_minute": findings.detections_per_minute
                for kind, findings in report.kinds.items()
            },
            "low_confidence_frames": len(report.low_confidence_frames),
            "detectors": {
                kind: {**asdict(findings.detector), "settings": dict(findings.settings)}
                for kind, findings in report.kinds.items()
            },
            "leaks_repaired": len(result.leak_check.found) if result.leak_check else 0,
            "corrections": dict(report.corrections),
            "redacted_share": report.redacted_share,
            "removed_streams": [f"{stream.kind} {stream.codec}" for stream in report.removed_streams],
            "removed_metadata": [k for k in report.removed_metadata_keys if k not in NEUTRAL_METADATA_KEYS],
        },
        pictures={"blurred frames": "contact_sheet.jpg"},
    )


def _reviews(
    verdicts: Sequence[GateResult], result: PrivacyResult, clip: Clip, corrections: Sequence[Correction]
) -> list[ReviewRequest]:
    """What people are asked to look at: what gates warned of, leaks that remain, and the random sample."""
    from ego_assets.privacy.sampling import audit_sample

    requests = [
        ReviewRequest(
            kind=kind,
            risk=_risk(kind, result.report),
            reason=verdict.message,
            details={"frames": list(result.report.low_confidence_frames)},
        )
        for verdict in verdicts
        if (kind := REVIEWED_GATES.get(verdict.spec.name)) and verdict.outcome is GateOutcome.WARNED
    ]
    if result.leak_check is not None and result.leak_check.remaining:
        leaks = result.leak_check.remaining
        requests.append(
            ReviewRequest(
                kind=ReviewKind.PII_LEAK,
                risk=ReviewRisk.HIGH,
                reason=(
                    f"{len(leaks)} region(s) of a rendering were in the clear; it was not published. They will be "
                    "covered when the clip is tried again: `ego-assets run --retry-failed` with the same profile. "
                    "Look at the result."
                ),
                details={
                    "frames": sorted({leak.frame_index for leak in leaks}),
                    "leaks": [leak.to_dict() for leak in leaks],
                },
            )
        )
        return requests
    # A corrected rendering is audited on other frames: those that were corrected would flatter it.
    salt = corrections_version(corrections) if corrections else ""
    frames = audit_sample(clip.clip_id, result.timeline.frame_count, salt=salt).tolist()
    requests.append(
        ReviewRequest(
            kind=ReviewKind.RANDOM_AUDIT,
            risk=ReviewRisk.NORMAL,
            reason=f"Random sample: {len(frames)} frame(s) to look at for what was missed.",
            details={"frames": frames},
        )
    )
    return requests


def _corrections(result: PrivacyResult, clip: Clip) -> list[Correction]:
    """Leaks that remained as orders: trying again covers them, whatever the detectors find then."""
    remaining = result.leak_check.remaining if result.leak_check is not None else ()
    return [
        Correction(
            clip_id=clip.clip_id,
            kind=leak.kind,
            first_frame=leak.frame_index,
            last_frame=leak.frame_index,
            box_xyxy=leak.box_xyxy,
            origin="leak_check",
            actor="asset:blurred_video",
            note=f"score {leak.score:.2f}",
        )
        for leak in remaining
    ]


def _risk(kind: ReviewKind, report: PiiReport) -> ReviewRisk:
    """Whether the clip may be delivered while the review is open."""
    examined = max((findings.examined_frames for findings in report.kinds.values()), default=0)
    few = len(report.low_confidence_frames) <= HIGH_RISK_LOW_CONFIDENCE_SHARE * examined
    return ReviewRisk.NORMAL if kind is ReviewKind.PII_LOW_CONFIDENCE and few else ReviewRisk.HIGH


def judge(
    result: PrivacyResult, *, original: Timeline, video: Path, proxy: Path | None, config: PrivacyConfig
) -> list[GateResult]:
    """Verdicts on what a privacy pass has written.

    Args:
        result: The pass.
        original: Time line of the original.
        video: The video that was written.
        proxy: Its proxy, where one was asked for.
        config: Settings of the pass.
    """
    faces = result.report.kinds.get("faces")
    check = result.leak_check
    return judge_privacy(
        original=VideoFacts(timestamps_ns=result.timeline.timestamps_ns),
        video=_facts(video),
        proxy=_facts(proxy) if proxy is not None else None,
        face_detections=faces.detections if faces else 0,
        face_frames_analysed=faces.examined_frames if faces else 0,
        low_confidence_frames=len(result.report.low_confidence_frames),
        leak_checked_frames=check.examined_frames if check else None,
        leaks_repaired=len(check.found) if check else 0,
        leaks_remaining=len(check.remaining) if check else 0,
        audio_kept=config.audio == "keep",
        # A repeated time stamp cannot be stored twice: each repetition moves by one tick.
        tick_ns=round(1e9 * original.time_base),
    )


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
