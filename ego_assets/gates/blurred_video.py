"""Gates of ``blurred_video``: nothing of the original but blurred pictures may be left, frame for frame."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ego_assets.schema.arrays import read_only
from ego_assets.schema.gates import GateResult, GateSpec

DEIDENTIFIED = GateSpec(
    name="deidentified",
    description=(
        "The blurred video and the proxy have the original's frames at the original's times, one video "
        "stream and nothing else (the video its sound where the settings keep it), and no metadata."
    ),
    blocking=True,
    source="collection guide, step 3",
)
NO_LEAK = GateSpec(
    name="no_leak",
    description=(
        "The finished video was examined again, on other frames and at another scale than the first pass: no "
        "face and no plate is left in the clear."
    ),
    threshold=0,
    unit="faces and plates in the clear",
    blocking=True,
    source="collection guide, step 3 and pitfalls: privacy",
)
PII_DENSITY = GateSpec(
    name="pii_density",
    description="Clips that show many faces are watched by a person.",
    threshold=50,
    unit="face detections a minute, at one analysed frame a second",
    source="collection guide, step 3",
)
LOW_CONFIDENCE = GateSpec(
    name="low_confidence",
    description="A person watches the frames in which a detector was unsure: misses are likeliest there.",
    threshold=0,
    unit="frames with a low-confidence detection",
    source="collection guide, step 3",
)

#: Share of the examined frames with a low-confidence sighting above which a clip stays out of deliveries until
#: somebody has looked. Below it the clip is queued for review and goes on: single doubtful sightings occur in
#: most real clips.
HIGH_RISK_LOW_CONFIDENCE_SHARE = 0.05

#: All gates of the layer, in the order in which they are judged.
GATES = (DEIDENTIFIED, NO_LEAK, PII_DENSITY, LOW_CONFIDENCE)

#: Entries that a muxer writes by itself and that say nothing about the recording.
NEUTRAL_METADATA_KEYS = frozenset(
    {
        "major_brand",
        "minor_version",
        "compatible_brands",
        "encoder",
        "language",
        "handler_name",
        "vendor_id",
        "duration",
    }
)

#: Time stamps count as equal within this many nanoseconds: containers round them to their own ticks, and the
#: coarsest that is written (1/10000 s) is off by up to 50 microseconds. Repeated time stamps add one tick each.
TIMESTAMP_TOLERANCE_NS = 100_000


@dataclass(frozen=True, eq=False, kw_only=True)
class VideoFacts:
    """What is compared between the original and what was made of it.

    Attributes:
        timestamps_ns: ``int64 [N]``, presentation time of every frame, in nanoseconds.
        stream_kinds: Kind of every stream in the file, such as ``("video", "audio")``.
        metadata_keys: Names of the metadata entries of the container and its streams.
    """

    timestamps_ns: npt.NDArray[np.int64]
    stream_kinds: tuple[str, ...] = ("video",)
    metadata_keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        stamps = self.timestamps_ns
        if stamps.ndim != 1 or stamps.dtype != np.int64:
            raise ValueError(f"timestamps_ns: expected int64 [N], got {stamps.dtype} {list(stamps.shape)}")
        object.__setattr__(self, "timestamps_ns", read_only(stamps))


def judge_privacy(
    *,
    original: VideoFacts,
    video: VideoFacts,
    proxy: VideoFacts | None,
    face_detections: int,
    face_frames_analysed: int,
    low_confidence_frames: int,
    leak_checked_frames: int | None,
    leaks_repaired: int,
    leaks_remaining: int,
    tick_ns: int = 0,
    audio_kept: bool = False,
) -> list[GateResult]:
    """Judge the privacy pass; one verdict per gate, in the order of :data:`GATES`.

    Args:
        original: The original, as decoded.
        video: The blurred video at full resolution.
        proxy: The blurred proxy; ``None`` where none was asked for.
        face_detections: Faces that the detector found, summed over the analysed frames.
        face_frames_analysed: Frames on which the face detector ran.
        low_confidence_frames: Frames with a detection of low confidence.
        leak_checked_frames: Frames of the finished video that were examined again; ``None`` where nobody looked,
            because the owner declared the clip to be de-identified already.
        leaks_repaired: Leaks of the first rendering that the last one covers.
        leaks_remaining: Leaks of the last rendering.
        tick_ns: Resolution of the original's time stamps, in nanoseconds.
        audio_kept: Whether the settings keep the sound of the full-size video.
    """
    return [
        _judge_deidentified(original, video, proxy, tick_ns, audio_kept),
        _judge_leaks(leak_checked_frames, leaks_repaired, leaks_remaining),
        _judge_density(face_detections, face_frames_analysed),
        _judge_low_confidence(low_confidence_frames),
    ]


def _judge_deidentified(
    original: VideoFacts, video: VideoFacts, proxy: VideoFacts | None, tick_ns: int, audio_kept: bool
) -> GateResult:
    problems = [
        f"{name}: {problem}"
        for name, made, allowed in (("video", video, {"video", "audio"}), ("proxy", proxy, {"video"}))
        if made is not None
        for problem in _problems(original, made, tick_ns, allowed if audio_kept else {"video"})
    ]
    frames = int(original.timestamps_ns.size)
    details: dict[str, object] = {
        "original_frames": frames,
        "video_frames": int(video.timestamps_ns.size),
        "proxy_frames": int(proxy.timestamps_ns.size) if proxy is not None else None,
        "problems": problems,
    }
    if problems:
        return DEIDENTIFIED.failed(
            f"The blurred clip may not be used: {'; '.join(problems)}. Run it again.",
            value=None,
            **details,
        )
    gone = (
        "other streams and metadata are gone" if audio_kept else "sound, other streams and metadata are gone"
    )
    message = f"All {frames} frames kept their time stamps; {gone}."
    return DEIDENTIFIED.passed(message, value=None, **details)


def _judge_leaks(checked_frames: int | None, repaired: int, remaining: int) -> GateResult:
    if checked_frames is None:
        return NO_LEAK.not_evaluated(
            "Nobody examined the finished video: the clip was declared to be de-identified already, or the "
            "settings leave the check out."
        )
    details: dict[str, object] = {"examined_frames": checked_frames, "repaired": repaired}
    if remaining > NO_LEAK.limit:
        return NO_LEAK.failed(
            f"{remaining} face(s) or plate(s) are in the clear even after a second rendering with stricter "
            "settings, so nothing was published.",
            value=remaining,
            **details,
        )
    seen = f"Nothing in the clear on {checked_frames} frames of the finished video"
    return NO_LEAK.passed(
        f"{seen}; {repaired} leak(s) of the first rendering were repaired." if repaired else f"{seen}.",
        value=remaining,
        **details,
    )


def _problems(
    original: VideoFacts, made: VideoFacts, tick_ns: int, allowed_kinds: AbstractSet[str]
) -> list[str]:
    found = []
    repeated = int(np.sum(np.diff(original.timestamps_ns) == 0))
    tolerance_ns = TIMESTAMP_TOLERANCE_NS + repeated * tick_ns
    expected, got = original.timestamps_ns, made.timestamps_ns
    if expected.size == 0:
        found.append("the original has no frames")
    if got.size != expected.size:
        found.append(f"{got.size} frames instead of {expected.size}")
    elif got.size:
        worst_ns = int(np.max(np.abs(got - expected)))
        if worst_ns > tolerance_ns:
            found.append(f"time stamps are off by up to {worst_ns / 1e6:.3g} ms")
    if made.stream_kinds.count("video") != 1 or not set(made.stream_kinds) <= allowed_kinds:
        expected_kinds = "one video stream" + (" with sound" if "audio" in allowed_kinds else "")
        found.append(f"streams {', '.join(made.stream_kinds) or 'none'} instead of {expected_kinds}")
    left = sorted(set(made.metadata_keys) - NEUTRAL_METADATA_KEYS)
    if left:
        found.append(f"metadata left: {', '.join(left)}")
    return found


def _judge_density(face_detections: int, face_frames_analysed: int) -> GateResult:
    if face_frames_analysed <= 0:
        return PII_DENSITY.not_evaluated("No frame was searched for faces.")
    # The guide counts at one analysed frame a second; the density must not grow with the detector's schedule.
    per_minute = 60 * face_detections / face_frames_analysed
    details: dict[str, object] = {
        "face_detections": face_detections,
        "face_frames_analysed": face_frames_analysed,
    }
    seen = f"{per_minute:.0f} face detections a minute"
    if per_minute > PII_DENSITY.limit:
        return PII_DENSITY.warned(
            f"{seen}: watch the blurred clip at double speed and flag every face or text that is left.",
            value=per_minute,
            **details,
        )
    return PII_DENSITY.passed(f"{seen}.", value=per_minute, **details)


def _judge_low_confidence(frames: int) -> GateResult:
    if frames > LOW_CONFIDENCE.limit:
        return LOW_CONFIDENCE.warned(
            f"A detector was unsure in {frames} frame(s): watch these first, pii_report.json lists them.",
            value=frames,
        )
    return LOW_CONFIDENCE.passed("No detection of low confidence.", value=frames)
