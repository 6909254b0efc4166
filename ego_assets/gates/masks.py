"""Gates of ``masks``: is enough segmented, is it more than one blob, are the hands there, do instances hold still?

Every gate judges frame by frame. On the clip, its value is the share of the judged frames that fall through, and its
threshold the share that is allowed; ``hand_presence`` asks for a share of all frames.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ego_assets.gates.handling import (
    HAND_FRAMES_SOURCE,
    MIN_HAND_FRAMES_SHARE,
    contact_share,
    is_about_handling,
)
from ego_assets.gates.per_frame import FrameTest
from ego_assets.schema.gates import GateOutcome, GateResult, GateSpec
from ego_assets.schema.hands import HandObjectTracks
from ego_assets.schema.masks import MaskMeasurements

_GUIDE = "collection guide, step 5 and frequent questions"

#: Less segmented than this share of a frame is nearly empty (collection guide).
MIN_SEGMENTED = 0.20
#: An instance larger than this share of a frame fills it (collection guide).
MAX_INSTANCE = 0.80
#: Where the area of the hands lies when they are visible, as share of the frame (collection guide).
HAND_AREA_RANGE = (0.005, 0.15)
#: Instances of one frame and those of the frame before, moved with the picture, overlap at least so much. At 5 frames/s
#: the exact masks of rendered clips reach 0.92 to 0.98 on average, ids dealt out anew 0; real clips lie between.
MIN_CONSISTENCY = 0.5

#: Single frames fail at a cut, close to a wall or where the picture is smeared.
ALLOWED = 0.10
#: Things that come and go change the masks rightly; a failing tracker changes them most of the time.
ALLOWED_INCONSISTENT = 0.20

SEGMENTED_AREA = GateSpec(
    name="segmented_area",
    description=f"More than {MIN_SEGMENTED:.0%} of a frame belongs to instances.",
    blocking=True,
    threshold=ALLOWED,
    unit="share of frames with less",
    source=f"{_GUIDE}; the share allows for cuts and smeared frames",
)
LARGEST_INSTANCE = GateSpec(
    name="largest_instance",
    description=f"No instance covers more than {MAX_INSTANCE:.0%} of a frame.",
    blocking=True,
    threshold=ALLOWED,
    unit="share of frames that one instance fills",
    source=f"{_GUIDE}; the share allows for moments in front of a wall",
)
HAND_PRESENCE = GateSpec(
    name="hand_presence",
    description="Hands of the wearer are segmented in enough frames of a clip about handling things.",
    threshold=MIN_HAND_FRAMES_SHARE,
    unit="share of frames with a hand, at least",
    source=HAND_FRAMES_SOURCE,
)
HAND_AREA = GateSpec(
    name="hand_area",
    description=(
        f"Visible hands cover {HAND_AREA_RANGE[0]:.1%} to {HAND_AREA_RANGE[1]:.0%} of the frame, both together."
    ),
    threshold=ALLOWED,
    unit="share of frames with hands where they cover less or more",
    source=_GUIDE,
)
CONSISTENCY = GateSpec(
    name="consistency",
    description=(
        f"Instances overlap those of the frame before, moved with the picture, by {MIN_CONSISTENCY} or more "
        "(intersection over union, mean by area). Frames that flow cannot link, such as cuts, are not judged."
    ),
    threshold=ALLOWED_INCONSISTENT,
    unit="share of frames below",
    source=f"{_GUIDE} names the measure; the limit is measured on synthetic clips",
)

#: All gates of the layer, in the order in which they are judged.
GATES = (SEGMENTED_AREA, LARGEST_INSTANCE, HAND_PRESENCE, HAND_AREA, CONSISTENCY)


def judge_masks(
    measurements: MaskMeasurements, hands: HandObjectTracks | None, *, activity: str
) -> list[GateResult]:
    """Judge the masks of a clip; one verdict per gate, in the order of :data:`GATES`.

    Args:
        measurements: What was measured on every frame.
        hands: The hand layer; ``None`` where there is none, so that nobody looked for hands.
        activity: What the clip says it is about; empty where it does not say.
    """
    if not len(measurements):
        return [gate.not_evaluated("The clip has no frame to segment.") for gate in GATES]
    tests = _tests(measurements, hands, activity)
    frame_index = measurements.frame_index
    area, largest = tests[SEGMENTED_AREA.name], tests[LARGEST_INSTANCE.name]
    return [
        area.verdict(
            frame_index,
            seen=f"{_of(area)} with {MIN_SEGMENTED:.0%} or less segmented",
            advice="Look at the clip: it may be dark or without structure. A finer `merge_threshold`, or another "
            "backend for masks in the profile, may help.",
        ),
        largest.verdict(
            frame_index,
            seen=f"{_of(largest)} where one instance covers more than {MAX_INSTANCE:.0%}",
            advice="Look at the clip: it may show one plain surface. A finer `merge_threshold`, or another backend for "
            "masks in the profile, may help.",
        ),
        _judge_presence(tests[HAND_PRESENCE.name], measurements, hands),
        _judge_hand_area(tests[HAND_AREA.name], measurements),
        _judge_consistency(tests[CONSISTENCY.name], measurements),
    ]


def frame_verdicts(
    measurements: MaskMeasurements, hands: HandObjectTracks | None, *, activity: str
) -> Mapping[str, tuple[GateOutcome, ...]]:
    """The verdict of every gate on every frame, by name of the gate; arguments as of :func:`judge_masks`."""
    tests = _tests(measurements, hands, activity)
    return {name: test.outcomes() for name, test in tests.items()}


def _tests(found: MaskMeasurements, hands: HandObjectTracks | None, activity: str) -> Mapping[str, FrameTest]:
    everywhere = np.ones(len(found), np.bool_)
    low, high = HAND_AREA_RANGE
    tests = (
        FrameTest(gate=SEGMENTED_AREA, judged=everywhere, failing=found.segmented_share <= MIN_SEGMENTED),
        FrameTest(gate=LARGEST_INSTANCE, judged=everywhere, failing=found.largest_share > MAX_INSTANCE),
        FrameTest(
            gate=HAND_PRESENCE,
            judged=np.full(len(found), _expects_hands(hands, activity)),
            failing=~found.has_hand,
        ),
        FrameTest(
            gate=HAND_AREA,
            judged=found.has_hand,
            failing=(found.hand_share < low) | (found.hand_share > high),
            outcome=GateOutcome.WARNED,
        ),
        FrameTest(
            gate=CONSISTENCY,
            judged=np.isfinite(found.consistency),
            failing=found.consistency < MIN_CONSISTENCY,
            outcome=GateOutcome.WARNED,
        ),
    )
    return {test.gate.name: test for test in tests}


def _expects_hands(hands: HandObjectTracks | None, activity: str) -> bool:
    """Whether hands were looked for in a clip that is about handling things."""
    return hands is not None and is_about_handling(activity, contact_share=contact_share(hands)) is True


def _of(test: FrameTest) -> str:
    return f"{test.failing_count} of {test.judged_count} frames"


def _judge_presence(test: FrameTest, found: MaskMeasurements, hands: HandObjectTracks | None) -> GateResult:
    share = float(found.has_hand.mean())
    if hands is None:
        return HAND_PRESENCE.not_evaluated("There is no hand layer, so nobody looked for hands.")
    seen = f"Hands are segmented in {share:.0%} of {len(found)} frames"
    if not test.judged_count:
        return HAND_PRESENCE.not_evaluated(
            f"{seen}. Neither its activity nor what its hands do makes this a clip about handling things.",
            hand_frame_share=share,
        )
    if share < HAND_PRESENCE.limit:
        return test.fell_through(
            f"{seen}, below {HAND_PRESENCE.limit:.0%}: the camera may point away from the hands. Look at the clip.",
            value=share,
        )
    return HAND_PRESENCE.passed(f"{seen}.", value=share)


def _judge_hand_area(test: FrameTest, found: MaskMeasurements) -> GateResult:
    if not test.judged_count:
        return HAND_AREA.not_evaluated("No frame shows a segmented hand.")
    return test.verdict(
        found.frame_index,
        seen=f"Hands cover less or more than expected in {_of(test)} with hands",
        advice="Look at the overlay: the camera may be mounted close to or far from the hands, or the masks are wrong.",
        median_hand_share=round(float(np.median(found.hand_share[test.judged])), 5),
    )


def _judge_consistency(test: FrameTest, found: MaskMeasurements) -> GateResult:
    if not test.judged_count:
        return CONSISTENCY.not_evaluated("No two consecutive frames could be compared.")
    return test.verdict(
        found.frame_index,
        seen=f"{_of(test)} overlap the one before by less than {MIN_CONSISTENCY}",
        advice="Fast motion tears masks apart; where the clip is calm, the backend cannot follow it.",
        mean_consistency=round(float(found.consistency[test.judged].mean()), 4),
    )
