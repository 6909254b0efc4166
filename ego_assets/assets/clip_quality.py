"""``clip_quality``: can the original be decoded, is it complete, sharp, well exposed, steady and well framed?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ego_assets.execution import ClipWork, LayerDraft
from ego_assets.gates.clip_quality import FLAG_GATES, GATES, judge_quality, judge_unreadable
from ego_assets.schema.errors import MediaError
from ego_assets.schema.gates import GateOutcome
from ego_assets.schema.layers import LayerSpec, RetryPolicySpec
from ego_assets.schema.vocabulary import VaultPurpose

if TYPE_CHECKING:
    from ego_assets.quality.assessment import QualityReport
    from resources.storage import StagedLayer

SPEC = LayerSpec(
    name="clip_quality",
    group="ingest",
    description=(
        "Decodes the original once and measures frame completeness, blur, exposure, shake and framing. Parse and "
        "completeness stop a clip; the others warn. Shows numbers and plots only."
    ),
    stage=1,
    inputs=("raw_clip",),
    gates=GATES,
    essential=True,
    reads_original=True,
    runs_when_held=True,
    retry=RetryPolicySpec(max_retries=2, delay_s=2.0),
    pool="ingest",
)


def make(work: ClipWork, staged: StagedLayer) -> LayerDraft:
    """Measure the original and judge it."""
    work.input("raw_clip")
    try:
        report = _measure(work)
    except MediaError as error:
        verdicts = judge_unreadable(error)
        content = {"error": {"code": error.code, "message": str(error)}}
        staged.path("quality.json").write_text(json.dumps(content, indent=2) + "\n")
        return LayerDraft(gates=verdicts, metadata={"problem": str(error)})

    from ego_assets.quality.plots import quality_plot

    verdicts = judge_quality(report)
    staged.path("quality.json").write_text(report.to_json())
    staged.path("quality.png").write_bytes(quality_plot(report))
    updates: dict[str, Any] = {"held": False, "held_reason": ""}
    flags = [v.message for v in verdicts if v.spec.name in FLAG_GATES and v.outcome is GateOutcome.WARNED]
    if flags and work.platform_settings.hold_flagged:
        updates = {"held": True, "held_reason": " ".join(flags)}
    return LayerDraft(
        gates=verdicts,
        config={"thresholds": {gate.name: gate.threshold for gate in GATES}},
        counts={"decoded_frames": report.decoded_frame_count},
        clip_updates=updates,
        metadata={name: value for name, value in report.summary().items() if value is not None},
        pictures={"measurements": "quality.png"},
    )


def _measure(work: ClipWork) -> QualityReport:
    """Decode every frame of the original once."""
    from ego_assets.media.decode import VideoReader
    from ego_assets.media.probe import probe
    from ego_assets.media.timeline import read_timeline
    from ego_assets.quality.assessment import QualityAssessor, QualityConfig

    with work.open_original(VaultPurpose.RAW_QUALITY) as original:
        found = probe(original, name=work.clip.source_name)
        timeline = read_timeline(original)
        assessor = QualityAssessor(
            timeline, found, QualityConfig(focal_share=_focal_share(work, found.width, found.height))
        )
        with VideoReader(original) as reader:
            for frame in reader.frames():
                wanted = assessor.wants(frame.index, frame.timestamp_ns)
                assessor.add(frame.index, frame.timestamp_ns, frame.luma() if wanted else None)
                if frame.index % 30 == 0:
                    work.progress(frame.index, timeline.frame_count)
        # Frames that were concealed are there; only those that never came out of the decoder are missing.
        return assessor.finish(decode_errors=reader.frames_lost)


def _focal_share(work: ClipWork, width: int, height: int) -> float:
    """Focal length over the longer side, from the sidecar's intrinsics or assumed for the camera."""
    from ego_assets.geometry.camera import camera_for
    from ego_assets.quality.assessment import FOCAL_SHARES

    camera = camera_for(work.clip.camera_intrinsics, work.clip.source_camera, width, height)
    return float(min(max(camera.fx / max(width, height), FOCAL_SHARES[0]), FOCAL_SHARES[1]))
