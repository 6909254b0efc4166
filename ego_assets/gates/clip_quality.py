"""Gates of ``clip_quality``: can the clip be read, is it whole, sharp, well exposed, steady and well framed?

Messages are worded for the person who wore the camera: what was seen, and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ego_assets.quality.assessment import QualityReport
from ego_assets.quality.exposure import BRIGHT_LUMA, CLIPPED_LUMA, DARK_LUMA
from ego_assets.quality.framing import (
    CEILING_UP_DEG,
    FLOOR_DOWN_DEG,
    MIN_SMUDGE_LOOKS,
    MIN_STILL_S,
    Stretch,
    Tilt,
)
from ego_assets.quality.stability import SHAKE_LIMIT, SHAKE_SPAN_S
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
_MEASURED = "measured on worn and on altered clips, see docs/benchmarks.md"

SHAKE = GateSpec(
    name="shake",
    description=(
        f"The picture seldom shakes: in most seconds it lies within {SHAKE_LIMIT:.1%} of its width of where smooth "
        f"motion over {2 * SHAKE_SPAN_S:.2f} s would put it."
    ),
    threshold=0.30,
    unit="share of seconds that shake",
    source=f"{_GUIDE}, share of blurred frames; the distance: {_MEASURED}",
)
LENS_COVERED = GateSpec(
    name="lens_covered",
    description="The lens is never covered: no stretch of a lit clip shows nothing at all.",
    threshold=1,
    unit="whole seconds in a row without anything to see",
    source="a blink of a hand over the lens is shorter",
)
CAMERA_TILT = GateSpec(
    name="camera_tilt",
    description=(
        "The camera points at neither the ceiling nor the floor: the picture slides sideways when the wearer turns, "
        "rather than turning about its middle."
    ),
    threshold=0.20,
    unit=f"share of the judged time more than {CEILING_UP_DEG:g} degrees up or {FLOOR_DOWN_DEG:g} down",
    source=f"{_GUIDE} names the fault, the share is that of bad exposure; the angles: see quality/framing.py",
)
CAMERA_WORN = GateSpec(
    name="camera_worn",
    description="The camera is worn from the first to the last second: it neither stands still nor tumbles there.",
    threshold=2,
    unit="whole seconds at the beginning or the end",
    source=f"{_GUIDE} names the fault; the motion: {_MEASURED}",
)
SMUDGES = GateSpec(
    name="smudges",
    description=(
        "No place of the picture stays soft while what is around it is sharp; judged where the picture moved enough "
        "to show different things in every place."
    ),
    threshold=1,
    unit="neighbouring tiles (of 16x9) that stay soft",
    source=f"{_GUIDE} names the fault; the softness: {_MEASURED}",
)

#: All gates of the layer, in the order in which they are judged.
GATES = (
    PARSE,
    COMPLETENESS,
    BLUR,
    BLUR_WORKING_SCALE,
    EXPOSURE,
    SHAKE,
    LENS_COVERED,
    CAMERA_TILT,
    CAMERA_WORN,
    SMUDGES,
)

#: Fewest seconds with known motion by which a clip is judged.
_MIN_JUDGED_S = 2
#: A message names this many stretches of a clip.
_MAX_SHOWN_STRETCHES = 3
_NO_SECONDS = "Not measured: the report was written by an earlier version. Run clip_quality again."

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
        _judge_shake(report),
        _judge_lens_covered(report),
        _judge_camera_tilt(report),
        _judge_camera_worn(report),
        _judge_smudges(report),
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
        "duplicate_count": report.duplicate_count,
        "stepped_back_count": report.stepped_back_count,
        "decode_errors": report.decode_errors,
        "declared_duration_s": report.declared_duration_s,
        "duration_s": report.duration_s,
        "rate_hz": report.rate_hz,
        "variable_rate": report.variable_rate,
    }
    if missing <= COMPLETENESS.limit:
        seen = f"{decoded} of {expected} expected frames.{_clock_faults(report)}"
        return COMPLETENESS.passed(seen, value=missing, **details)
    seen = f"{decoded} of {expected} expected frames could be decoded ({_percent(missing)} missing)."
    return COMPLETENESS.failed(f"{seen} {_completeness_advice(report)}", value=missing, **details)


def _clock_faults(report: QualityReport) -> str:
    """What is wrong with the time stamps of frames that are there, or nothing."""
    faults = []
    if report.stepped_back_count:
        faults.append(
            f" The camera's clock was set back while it recorded: {report.stepped_back_count} frames were given "
            "time stamps that continue. Set the clock before recording."
        )
    if report.duplicate_count:
        faults.append(f" {report.duplicate_count} frames repeat the time stamp of the one before.")
    return "".join(faults)


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


def _judge_shake(report: QualityReport) -> GateResult:
    shake = report.view.shake
    known = np.isfinite(shake)
    if 0 < report.rate_hz < 1 / SHAKE_SPAN_S - 0.5:
        return SHAKE.not_evaluated(
            f"Shake cannot be told from movement at {report.rate_hz:.1f} frames a second; record at "
            f"{round(2 / SHAKE_SPAN_S)} or more.",
            rate_hz=report.rate_hz,
        )
    if known.sum() < max(_MIN_JUDGED_S, shake.size / 2):
        return SHAKE.not_evaluated(
            f"Too little could be followed from frame to frame: {known.sum()} of {shake.size} seconds."
        )
    shaking = known & (shake > SHAKE_LIMIT)
    share = float(shaking.sum() / known.sum())
    details: dict[str, object] = {
        "median_share_of_width": float(np.median(shake[known])),
        "limit_share_of_width": SHAKE_LIMIT,
        "judged_s": int(known.sum()),
    }
    if share <= SHAKE.limit:
        return SHAKE.passed(
            f"The picture shakes in {_percent(share)} of the seconds.", value=share, **details
        )
    return SHAKE.warned(
        f"The picture shakes in {_percent(share)} of the seconds ({_when(report.view.stretches(shaking))}). Tighten "
        "the strap or the mount so that the camera cannot swing, and switch the camera's stabilisation on.",
        value=share,
        **details,
    )


def _judge_lens_covered(report: QualityReport) -> GateResult:
    view = report.view
    if not view.featureless.size:
        return LENS_COVERED.not_evaluated(_NO_SECONDS)
    covered = view.covered
    longest = view.longest(covered)
    value = longest.length_s if longest else 0.0
    dark = int(view.too_dark_to_tell.sum())
    details: dict[str, object] = {"covered_s": int(covered.sum()), "too_dark_to_tell_s": dark}
    if value > LENS_COVERED.limit:
        stretches = [stretch for stretch in view.stretches(covered) if stretch.length_s > LENS_COVERED.limit]
        return LENS_COVERED.warned(
            f"Nothing can be seen {_when(stretches)}: something covered the lens, or it faced a bare surface from "
            "close by. Keep hair, sleeves, straps and hands away from the lens, and check the picture before "
            "you start.",
            value=value,
            **details,
        )
    if dark > LENS_COVERED.limit:
        return LENS_COVERED.not_evaluated(
            f"{dark} of {covered.size} seconds are so dark that a covered lens looks the same; see exposure.",
            **details,
        )
    return LENS_COVERED.passed("The lens is free.", value=value, **details)


def _judge_camera_tilt(report: QualityReport) -> GateResult:
    tilts = report.view.tilts(report.config.focal_share)
    if not tilts:
        return CAMERA_TILT.not_evaluated(
            "The wearer turned too little, or too unevenly, to tell a view of the floor or the ceiling from another."
        )
    judged_s = sum(tilt.when.length_s for tilt in tilts)
    away = [tilt for tilt in tilts if tilt.points_away]
    share = sum(tilt.when.length_s for tilt in away) / judged_s
    details: dict[str, object] = {
        "judged_s": judged_s,
        "focal_share": report.config.focal_share,
        "down_deg": [round(tilt.down_deg) for tilt in tilts],
    }
    if share <= CAMERA_TILT.limit:
        return CAMERA_TILT.passed(_tilt_of(tilts), value=share, **details)
    place, advice = _place_of(away)
    return CAMERA_TILT.warned(
        f"The camera points at {place} {_when([tilt.when for tilt in away])}. {advice} until your hands are in "
        "the lower half of the picture while you work, and tighten the mount.",
        value=share,
        **details,
    )


def _place_of(away: Sequence[Tilt]) -> tuple[str, str]:
    """What the camera points at, and which way to tilt it."""
    down = sum(tilt.down_deg > 0 for tilt in away)
    if all(tilt.is_upside_unclear for tilt in away):
        return "the floor or the ceiling", "Tilt the camera"
    if 2 * down >= len(away):
        return "the floor", "Tilt the camera up"
    return "the ceiling", "Tilt the camera down"


def _tilt_of(tilts: Sequence[Tilt]) -> str:
    down_deg = round(float(np.median([tilt.down_deg for tilt in tilts])))
    return f"The camera points about {abs(down_deg)} degrees {'down' if down_deg >= 0 else 'up'}."


def _judge_camera_worn(report: QualityReport) -> GateResult:
    view = report.view
    seconds = view.known.size
    if seconds < 2 * MIN_STILL_S:
        return CAMERA_WORN.not_evaluated(
            f"The clip is too short to tell a beginning from the rest: {_duration(report.duration_s)}."
        )
    if (view.known | view.covered | view.handled).sum() < seconds / 2:
        return CAMERA_WORN.not_evaluated("Too little could be followed from frame to frame.")
    before, after = view.not_worn()
    value = float(max(before, after))
    details: dict[str, object] = {
        "beginning_s": before,
        "end_s": after,
        "still_s": int(view.still.sum()),
        "handled_s": int(view.handled.sum()),
    }
    if value <= CAMERA_WORN.limit:
        return CAMERA_WORN.passed("The camera is worn throughout.", value=value, **details)
    if view.stands_throughout:
        return CAMERA_WORN.warned(
            f"The camera stands still for {before} of {seconds} s: it was not worn. Put it on before you start, or "
            "leave out recordings from a stand.",
            value=value,
            **details,
        )
    found = []
    if before > CAMERA_WORN.limit:
        found.append(
            f"The first {before} s were recorded before the camera was worn: put it on first, then start recording."
        )
    if after > CAMERA_WORN.limit:
        found.append(
            f"The last {after} s were recorded after it was taken off: stop recording before you take it off."
        )
    return CAMERA_WORN.warned(" ".join(found), value=value, **details)


def _judge_smudges(report: QualityReport) -> GateResult:
    tiles = report.tiles
    details: dict[str, object] = {
        "looks": tiles.looks,
        "travel_x": tiles.travel_x,
        "travel_y": tiles.travel_y,
    }
    if not tiles.moved_enough:
        return SMUDGES.not_evaluated(
            f"The picture moved too little, or the clip is too short ({MIN_SMUDGE_LOOKS} s at least), to tell a smudge "
            "from a thing that is soft itself.",
            **details,
        )
    smudge = tiles.largest_smudge()
    value = float(smudge.sum())
    if value <= SMUDGES.limit:
        return SMUDGES.passed("No place of the picture stays soft.", value=value, **details)
    return SMUDGES.warned(
        f"The picture stays soft in one place ({tiles.place(smudge)}) throughout the clip, while the rest is sharp. "
        "Wipe the lens and its cover with a soft cloth before every recording.",
        value=value,
        **details,
    )


def _when(stretches: Sequence[Stretch]) -> str:
    """The first stretches in words, such as ``from 3 s to 8 s``."""
    shown = [f"from {_clock(s.start_s)} to {_clock(s.end_s)}" for s in stretches[:_MAX_SHOWN_STRETCHES]]
    rest = len(stretches) - len(shown)
    return ", ".join(shown) + (f" and {rest} more times" if rest else "")


def _clock(seconds: float) -> str:
    """A position in the clip: ``8 s``, ``2 min 5 s``."""
    return f"{seconds:.0f} s" if seconds < 60 else _duration(seconds)


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
