"""Gates of ``depth_maps``: is there depth, of enough pixels, in a plausible range, and does it hold still?

Every gate judges map by map. On the clip, its value is the share of the judged maps that fall through, and its
threshold the share that is allowed. Maps of a camera that was seen not to move are not judged: nobody could tell
their depth from motion. Frames that could not be compared with any other are: their maps are empty. Range and
stability are lengths, and judged in metres only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from ego_assets.gates.per_frame import FrameTest
from ego_assets.schema.depth import DepthMeasurements, is_outdoors
from ego_assets.schema.gates import GateOutcome, GateResult, GateSpec
from ego_assets.schema.vocabulary import LocationType

_GUIDE = "collection guide, step 5 and frequent questions"

#: A map of a backend that sees every pixel is good from this share of known pixels on (collection guide).
MIN_VALID_DENSE = 0.85
#: The same for depth from motion, which knows only what has texture and parallax; this platform's own limit.
MIN_VALID_FROM_MOTION = 0.4
#: Where the farthest point of a map may lie, in metres (collection guide).
MAXIMUM_RANGE_M = (0.5, 20.0)
#: The same for clips recorded outdoors: houses across the street are farther than any room. This platform's own limit,
#: the farthest that the networks trained on streets say.
MAXIMUM_RANGE_OUTDOORS_M = (0.5, 80.0)
#: Most that maps of a still camera may differ, in metres (collection guide).
MAX_CHANGE_M = 0.3

#: The camera is still from one map to the next when it moved by less than this, in metres: it changes distances by a
#: tenth of the limit at most.
STILL_CAMERA_M = 0.03
#: ... and when the picture moved by less than this share of its width: edges of things then sweep over few pixels.
STILL_PICTURE = 0.005

#: Maps fail at cuts, quick turns and where the picture is smeared, and readers see the zeros; more says that the
#: backend cannot work with the clip.
EMPTY_ALLOWED = 0.25
#: Turns of the head and things passing close by spoil single maps; a wrong scale or a failing model spoils most.
ALLOWED = 0.10
#: Depth from motion leaves plain surfaces open on every real clip: it is a finding only where most maps are mostly
#: holes.
SPARSE_ALLOWED = 0.50
#: Where fewer maps than this have parallax, they say nothing about the clip.
MIN_SHARE_TO_JUDGE = 0.05
#: A layer that says nothing about more than half of the clip deserves a warning.
MIN_SHARE_WITH_PARALLAX = 0.5

NOT_EMPTY = GateSpec(
    name="not_empty",
    description="Maps are not all zero.",
    blocking=True,
    threshold=EMPTY_ALLOWED,
    unit="share of maps that are all zero",
    source=f"{_GUIDE}; own share, for cuts, quick turns and smeared frames",
)
VALIDITY = GateSpec(
    name="validity",
    description=(
        f"Most pixels have a depth: {MIN_VALID_DENSE:.0%} of a map of a dense backend, {MIN_VALID_FROM_MOTION:.0%} "
        "of a map from motion, measured and completed pixels together."
    ),
    threshold=ALLOWED,
    unit="share of maps with too few known pixels",
    source=f"{_GUIDE} for dense backends; own limit for depth from motion",
)
#: The same gate for depth from motion.
VALIDITY_FROM_MOTION = replace(VALIDITY, threshold=SPARSE_ALLOWED)
RANGE = GateSpec(
    name="range",
    description=(
        f"The farthest point of a map lies {MAXIMUM_RANGE_M[0]} to {MAXIMUM_RANGE_M[1]:g} m away, outdoors up to "
        f"{MAXIMUM_RANGE_OUTDOORS_M[1]:g} m; the farthest thousandth of its pixels does not count."
    ),
    blocking=True,
    threshold=ALLOWED,
    unit="share of metric maps whose maximum is outside",
    source=f"{_GUIDE}; own limit outdoors",
)
STABILITY = GateSpec(
    name="stability",
    description=(
        f"While the camera is still, one map differs from the next by less than {MAX_CHANGE_M} m on average. Still "
        f"means: moved by less than {STILL_CAMERA_M} m, and the picture by less than {STILL_PICTURE:.1%} of its "
        "width, as far as either is known."
    ),
    threshold=ALLOWED,
    unit="share of metric maps of a still camera that changed more",
    source=_GUIDE,
)

#: All gates of the layer, in the order in which they are judged.
GATES = (NOT_EMPTY, VALIDITY, RANGE, STABILITY)


def judge_depth(
    measurements: DepthMeasurements, *, is_dense: bool, location: LocationType = LocationType.OTHER
) -> list[GateResult]:
    """Judge the maps of a clip; one verdict per gate, in the order of :data:`GATES`.

    Args:
        measurements: What was measured on every map.
        is_dense: Whether the backend gives every pixel a depth.
        location: Where the clip was recorded.
    """
    total = len(measurements.status)
    without_parallax = total - int(measurements.can_be_judged.sum())
    # Failures alone say little of a clip that is still for the most part.
    enough = MIN_SHARE_TO_JUDGE if (measurements.valid_share > 0).any() else EMPTY_ALLOWED
    if total - without_parallax <= enough * total:
        failed = measurements.status.count("failed")
        reason = (
            f"The camera did not move enough to tell depth from motion: {without_parallax} of {total} frames have no "
            f"parallax{f', and {failed} could not be compared with others' if failed else ''}. Nothing needs to be "
            "done; a dense depth backend in the profile would give maps of this clip too."
        )
        return [gate.not_evaluated(reason, frames_without_parallax=without_parallax) for gate in GATES]
    tests = _tests(measurements, is_dense, location)
    return [
        _judge_not_empty(tests[NOT_EMPTY.name], measurements),
        _judge_validity(tests[VALIDITY.name], measurements, is_dense),
        _judge_range(tests[RANGE.name], measurements, location),
        _judge_stability(tests[STABILITY.name], measurements),
    ]


def map_verdicts(
    measurements: DepthMeasurements, *, is_dense: bool, location: LocationType = LocationType.OTHER
) -> Mapping[str, tuple[GateOutcome, ...]]:
    """The verdict of every gate on every map, by name of the gate; arguments as those of :func:`judge_depth`."""
    tests = _tests(measurements, is_dense, location)
    return MappingProxyType({name: test.outcomes() for name, test in tests.items()})


def refusal(verdicts: Sequence[GateResult], *, is_dense: bool) -> str:
    """Why another attempt is worth while; empty where it is not.

    That is what makes the layer unusable, and with a dense backend also too few known pixels. Depth from motion knows
    what the clip lets it know.
    """
    return " ".join(
        verdict.message
        for verdict in verdicts
        if verdict.blocks or (is_dense and verdict.spec == VALIDITY and verdict.outcome is GateOutcome.FAILED)
    )


def _range_m(location: LocationType) -> tuple[float, float]:
    return MAXIMUM_RANGE_OUTDOORS_M if is_outdoors(location) else MAXIMUM_RANGE_M


def _tests(measurements: DepthMeasurements, is_dense: bool, location: LocationType) -> dict[str, FrameTest]:
    judged = measurements.can_be_judged
    valid_share = measurements.valid_share
    # Comparisons with NaN are false: what is not known is not judged.
    metric = judged & measurements.is_metric & (valid_share > 0)
    low, high = _range_m(location)
    outside = (measurements.maximum < low) | (measurements.maximum > high)
    still = metric & _is_still(measurements) & np.isfinite(measurements.change)
    too_few = valid_share < _min_valid(is_dense)
    changed = ~(measurements.change < MAX_CHANGE_M)
    tests = (
        FrameTest(gate=NOT_EMPTY, judged=judged, failing=valid_share <= 0),
        FrameTest(gate=VALIDITY, judged=judged, failing=too_few)
        if is_dense
        else FrameTest(gate=VALIDITY_FROM_MOTION, judged=judged, failing=too_few, outcome=GateOutcome.WARNED),
        FrameTest(gate=RANGE, judged=metric, failing=outside),
        FrameTest(gate=STABILITY, judged=still, failing=changed, outcome=GateOutcome.WARNED),
    )
    return {test.gate.name: test for test in tests}


def _is_still(measurements: DepthMeasurements) -> npt.NDArray[np.bool_]:
    """Whether the camera is known to have stood still since the map before."""
    moved, shifted = measurements.camera_motion, measurements.picture_shift
    known: npt.NDArray[np.bool_] = np.isfinite(moved) | np.isfinite(shifted)
    return known & ~(moved >= STILL_CAMERA_M) & ~(shifted >= STILL_PICTURE)


def _min_valid(is_dense: bool) -> float:
    return MIN_VALID_DENSE if is_dense else MIN_VALID_FROM_MOTION


def _judge_not_empty(test: FrameTest, measurements: DepthMeasurements) -> GateResult:
    details = test.details(measurements.frame_index)
    details["failed_frames"] = sum(status == "failed" for status in measurements.status)
    seen = f"{test.failing_count} of {test.judged_count} depth maps are all zero."
    if test.failing_share > NOT_EMPTY.limit:
        return NOT_EMPTY.failed(
            f"{seen} {details['failed_frames']} of these frames could not be compared with others: they are dark, "
            "smeared or plain, the camera turns too quickly, or nothing in view stands still. If the clip looks sharp "
            "and well exposed, name another depth backend in the profile.",
            value=test.failing_share,
            **details,
        )
    return NOT_EMPTY.passed(seen, value=test.failing_share, **details)


def _judge_validity(test: FrameTest, measurements: DepthMeasurements, is_dense: bool) -> GateResult:
    judged = test.judged
    measured = float(measurements.measured_share[judged].mean())
    completed = float(measurements.completed_share[judged].mean())
    with_parallax = test.judged_count / judged.size
    details = test.details(measurements.frame_index) | {
        "mean_measured_share": measured,
        "mean_completed_share": completed,
        "min_valid_share": _min_valid(is_dense),
        "is_dense": is_dense,
        "frames_without_parallax": judged.size - test.judged_count,
    }
    seen = (
        f"{measured:.0%} of the pixels were measured and {completed:.0%} completed, on average over "
        f"{test.judged_count} maps."
    )
    if test.failing_share > test.gate.limit:
        return test.fell_through(
            f"{seen} {test.failing_count} map(s) know less than {_min_valid(is_dense):.0%}: dark, overexposed or "
            "blurred frames, plain surfaces and a camera that hardly moves do that. Use the confidence maps, or leave "
            "the depth of this clip out.",
            value=test.failing_share,
            **details,
        )
    if with_parallax < MIN_SHARE_WITH_PARALLAX:
        return test.gate.warned(
            f"{seen} On the other {judged.size - test.judged_count} of {judged.size} frames the camera did not "
            "move enough to tell depth.",
            value=test.failing_share,
            **details,
        )
    return test.gate.passed(seen, value=test.failing_share, **details)


def _judge_range(test: FrameTest, measurements: DepthMeasurements, location: LocationType) -> GateResult:
    if not test.judged_count:
        return RANGE.not_evaluated(_not_metric(measurements))
    maxima, (low, high) = measurements.maximum[test.judged], _range_m(location)
    details = test.details(measurements.frame_index) | {
        "median_maximum_m": float(np.median(maxima)),
        "range_m": [low, high],
    }
    seen = f"The farthest points of the maps lie {maxima.min():.2f} to {maxima.max():.2f} m away."
    if test.failing_share > RANGE.limit:
        return RANGE.failed(
            f"{seen} {test.failing_count} of {test.judged_count} are outside {low}-{high:g} m: the scale is wrong, the "
            "backend does not suit the scene, or the clip's location_type is not that of the place. Check it, "
            "EGO_DEPTH_BASELINE_M and the camera's intrinsics, or name another depth backend in the profile.",
            value=test.failing_share,
            **details,
        )
    return RANGE.passed(seen, value=test.failing_share, **details)


def _judge_stability(test: FrameTest, measurements: DepthMeasurements) -> GateResult:
    if not (measurements.is_metric & (measurements.valid_share > 0)).any():
        return STABILITY.not_evaluated(_not_metric(measurements))
    if not test.judged_count:
        return STABILITY.not_evaluated(
            "There are no two neighbouring maps between which the camera was still."
        )
    change = float(measurements.change[test.judged].mean())
    details = test.details(measurements.frame_index) | {"mean_change_m": change}
    seen = (
        f"While the camera was still, maps changed by {change:.2f} m on average ({test.judged_count} pairs)."
    )
    if test.failing_share > STABILITY.limit:
        return STABILITY.warned(
            f"{seen} {test.failing_count} of them changed by {MAX_CHANGE_M} m or more: the depth flickers, or much "
            "moved in front of the camera.",
            value=test.failing_share,
            **details,
        )
    return STABILITY.passed(seen, value=test.failing_share, **details)


def _not_metric(measurements: DepthMeasurements) -> str:
    if not (measurements.valid_share > 0).any():
        return "No map knows any depth."
    return (
        "The scale is unknown, so nothing can be said in metres. Set EGO_DEPTH_BASELINE_M where the camera's motion is "
        "known, or use a metric depth backend."
    )
