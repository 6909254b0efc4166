"""Gates of ``clip_quality``: can the clip be read, is it whole, sharp and well exposed?

Messages are worded for the person who wore the camera: what was seen, and what to do.
"""

from __future__ import annotations

from ego_assets.quality.assessment import QualityReport
from ego_assets.quality.exposure import BRIGHT_LUMA, CLIPPED_LUMA, DARK_LUMA
from ego_assets.schema.errors import MediaError
from ego_assets.schema.gates import GateResult, GateSpec

_GUIDE = "collection guide, step 2"

PARSE = GateSpec(
    name="parse",
    description="Container, codec, duration and frames can be read.",
    blocking=True,
    threshold=2,
    unit="frames at least",
    source=_GUIDE,
)
COMPLETENESS = GateSpec(
    name="completeness",
    description="The frames that duration and rate promise can be decoded.",
    blocking=True,
    threshold=0.005,
    unit="share of expected frames missing",
    source=f"{_GUIDE}; 0.5 % tolerates rounding of duration and rate",
)
BLUR = GateSpec(
    name="blur",
    description="Most sampled frames are sharp: Laplacian variance of 100 or more at native scale.",
    threshold=0.30,
    unit="share of sampled frames blurred",
    source=_GUIDE,
)
BLUR_WORKING_SCALE = GateSpec(
    name="blur_working_scale",
    description=(
        "The same at one fixed scale, because the native value depends on resolution and compression. "
        "For information: it shows whether a native verdict is about focus or about resolution."
    ),
    threshold=0.30,
    unit="share of sampled frames blurred",
    source=f"{_GUIDE}, applied at the working scale",
)
EXPOSURE = GateSpec(
    name="exposure",
    description=(
        f"Most sampled frames are well exposed: at most a quarter of the pixels at {CLIPPED_LUMA} or above, "
        f"half at {BRIGHT_LUMA} or above, half at {DARK_LUMA} or below."
    ),
    threshold=0.20,
    unit="share of sampled frames over- or under-exposed",
    source=_GUIDE,
)

#: All gates of the layer, in the order in which they are judged.
GATES = (PARSE, COMPLETENESS, BLUR, BLUR_WORKING_SCALE, EXPOSURE)

#: Gates whose warning is a flag in the guide's sense: ``hold_flagged`` stops a clip that has one.
FLAG_GATES = (BLUR.name, EXPOSURE.name)


def judge_quality(report: QualityReport) -> list[GateResult]:
    """Judge a clip that could be opened; one verdict per gate, in the order of :data:`GATES`."""
    parse = _judge_parse(report)
    if report.decoded_frame_count == 0:
        reason = "Not judged: no frame could be decoded."
        return [parse, *(gate.not_evaluated(reason) for gate in GATES[1:])]
    return [
        parse,
        _judge_completeness(report),
        _judge_blur(report),
        _judge_blur_working_scale(report),
        _judge_exposure(report),
    ]


def judge_unreadable(error: MediaError) -> list[GateResult]:
    """Verdicts on a file that is no readable video: ``parse`` failed, the others were not judged."""
    reason = "Not judged: the file could not be read as a video."
    return [
        PARSE.failed(str(error), error_code=error.code),
        *(gate.not_evaluated(reason) for gate in GATES[1:]),
    ]


def _judge_parse(report: QualityReport) -> GateResult:
    frames = report.decoded_frame_count
    if frames == 0:
        return PARSE.failed(
            "Not one frame could be decoded. Copy the file from the camera again; if that does not help, "
            "record the clip again.",
            value=0,
            decode_errors=report.decode_errors,
        )
    if frames < PARSE.limit:
        return PARSE.failed(
            "The file holds a single frame, which is a photo rather than a video. Switch the camera to video "
            "mode and record again.",
            value=frames,
        )
    return PARSE.passed(
        f"{report.codec} video, {report.width}x{report.height}, {frames} frames, "
        f"{_duration(report.duration_s)}.",
        value=frames,
    )


def _judge_completeness(report: QualityReport) -> GateResult:
    decoded, expected, missing = report.decoded_frame_count, report.expected_frame_count, report.missing_share
    details: dict[str, object] = {
        "decoded_frame_count": decoded,
        "expected_frame_count": expected,
        "listed_frame_count": report.listed_frame_count,
        "gap_frame_count": report.gap_frame_count,
        "decode_errors": report.decode_errors,
        "declared_duration_s": report.declared_duration_s,
        "duration_s": report.duration_s,
        "rate_hz": report.rate_hz,
        "variable_rate": report.variable_rate,
    }
    if missing <= COMPLETENESS.limit:
        return COMPLETENESS.passed(f"{decoded} of {expected} expected frames.", value=missing, **details)
    seen = f"{decoded} of {expected} expected frames could be decoded ({_percent(missing)} missing)."
    return COMPLETENESS.failed(f"{seen} {_completeness_advice(report)}", value=missing, **details)


def _completeness_advice(report: QualityReport) -> str:
    """The most likely cause of missing frames, and what to do about it."""
    declared_s = report.declared_duration_s
    listed_missing = report.listed_frame_count - report.decoded_frame_count
    lost = report.expected_frame_count - report.decoded_frame_count
    if report.decode_errors or listed_missing > lost / 2:
        return "The file is damaged: copy it from the camera again and compare the file sizes."
    if report.gap_frame_count > lost / 2:
        return (
            "The camera left frames out. Use a faster memory card, let the camera cool down, and record at a "
            "lower resolution or rate if it happens again."
        )
    if declared_s is not None and declared_s > report.duration_s:
        return (
            f"The file says that it lasts {_duration(declared_s)}, but holds {_duration(report.duration_s)}: "
            "the recording was cut off, or its header is wrong. Copy it from the camera again, or let the "
            "camera repair it."
        )
    return "Copy the file from the camera again; if frames are still missing, record the clip again."


def _judge_blur(report: QualityReport) -> GateResult:
    share = report.blurred_share
    if share is None:
        return BLUR.not_evaluated("No frame was sampled.")
    details = _blur_details(report)
    if share <= BLUR.limit:
        return BLUR.passed(f"{_percent(share)} of the sampled frames are blurred.", value=share, **details)
    if (report.blurred_share_working_scale or 0.0) <= BLUR_WORKING_SCALE.limit:
        advice = (
            "Reduced in size they are sharp, so focus and lens are probably fine: the camera's resolution or "
            "compression exceeds the detail it records. Choose a higher bit rate if the camera offers one."
        )
    else:
        advice = (
            "Wipe the lens, check that nothing covers it and that the camera has focused, and move the head "
            "more slowly; more light shortens the exposure and with it the smear."
        )
    return BLUR.warned(
        f"{_percent(share)} of the sampled frames are blurred. {advice}", value=share, **details
    )


def _judge_blur_working_scale(report: QualityReport) -> GateResult:
    share = report.blurred_share_working_scale
    if share is None:
        return BLUR_WORKING_SCALE.not_evaluated("No frame was sampled.")
    seen = (
        f"{_percent(share)} of the sampled frames are blurred when reduced to "
        f"{report.config.working_short_side_px} pixels."
    )
    details = _blur_details(report)
    if share <= BLUR_WORKING_SCALE.limit:
        return BLUR_WORKING_SCALE.passed(seen, value=share, **details)
    advice = "So the lens, the focus or fast movement is the cause, not the resolution."
    return BLUR_WORKING_SCALE.warned(f"{seen} {advice}", value=share, **details)


def _judge_exposure(report: QualityReport) -> GateResult:
    over, under, bad = report.over_exposed_share, report.under_exposed_share, report.badly_exposed_share
    if over is None or under is None or bad is None:
        return EXPOSURE.not_evaluated("No frame was sampled.")
    details: dict[str, object] = {
        "over_exposed_share": over,
        "under_exposed_share": under,
        "sampled_frames": int(report.exposure.frame_index.size),
    }
    if bad <= EXPOSURE.limit:
        seen = f"{_percent(bad)} of the sampled frames are over- or under-exposed."
        return EXPOSURE.passed(seen, value=bad, **details)
    found = []
    if under > 0:
        found.append(
            f"{_percent(under)} of the sampled frames are too dark. More light: switch on the lamps, or "
            "check that nothing covers the lens."
        )
    if over > 0:
        found.append(
            f"{_percent(over)} of the sampled frames are too bright. Turn away from windows and lamps, or "
            "set the camera's exposure to automatic."
        )
    return EXPOSURE.warned(" ".join(found), value=bad, **details)


def _blur_details(report: QualityReport) -> dict[str, object]:
    summary = report.summary()
    return {
        "median_native": summary["blur_median"],
        "median_working_scale": summary["blur_median_working_scale"],
        "sampled_frames": int(report.blur.frame_index.size),
        "blurred_below": report.config.blurred_below,
    }


def _percent(share: float) -> str:
    return f"{share:.1%}" if 0 < share < 0.1 else f"{share:.0%}"


def _duration(seconds: float) -> str:
    """A duration as people say it: ``2.0 s``, ``3 min 20 s``, ``10 h 0 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
