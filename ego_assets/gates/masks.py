"""Gates of ``masks``: is enough segmented, is it more than one blob, are the hands there, do instances hold still?

Every gate judges frame by frame. On the clip, its value is the share of the judged frames that fall through, and its
threshold the share that is allowed; ``hand_presence`` asks for a share of all frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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
#: Share of the frames of a manipulation clip that show a hand (collection guide).
MIN_HAND_FRAMES = 0.40
#: Instances of one frame and those of the frame before, moved with the picture, overlap at least so much. At 5 frames/s
#: the exact masks of rendered clips reach 0.93 to 0.98 on average, ids dealt out anew 0; real clips lie between.
MIN_CONSISTENCY = 0.5

#: Single frames fail at a cut, close to a wall or where the picture is smeared.
ALLOWED = 0.10
#: Things that come and go change the masks rightly; a failing tracker changes them most of the time.
ALLOWED_INCONSISTENT = 0.20

#: A clip is about handling things when a hand reaches, holds or lets go in this share of its frames.
_BUSY_SHARE = 0.10

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
    description=(
        "Hands of the wearer are segmented in enough frames of a clip about handling things: one whose hands reach, "
        f"hold or let go in {_BUSY_SHARE:.0%} of the frames."
    ),
    threshold=MIN_HAND_FRAMES,
    unit="share of frames with a hand, at least",
    source=_GUIDE,
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


@dataclass(frozen=True, eq=False)
class _Test:
    """One criterion on every frame: which frames it can judge, and which of them fall through."""

    judged: npt.NDArray[np.bool_]
    failing: npt.NDArray[np.bool_]

    @property
    def failing_count(self) -> int:
        return int((self.judged & self.failing).sum())

    @property
    def judged_count(self) -> int:
        return int(self.judged.sum())


def judge_masks(measurements: MaskMeasurements, hands: HandObjectTracks | None) -> list[GateResult]:
    """Judge the masks of a clip; one verdict per gate, in the order of :data:`GATES`.

    Args:
        measurements: What was measured on every frame.
        hands: The hand layer; ``None`` where there is none, so that nobody looked for hands.
    """
    if not len(measurements):
        return [gate.not_evaluated("The clip has no frame to segment.") for gate in GATES]
    tests = _tests(measurements)
    return [
        _judge_share(
            SEGMENTED_AREA,
            tests,
            measurements,
            f"with {MIN_SEGMENTED:.0%} or less segmented",
            "Look at the clip: it may be dark or without structure. A finer `merge_threshold`, or another backend for "
            "masks in the profile, may help.",
        ),
        _judge_share(
            LARGEST_INSTANCE,
            tests,
            measurements,
            f"where one instance covers more than {MAX_INSTANCE:.0%}",
            "Look at the clip: it may show one plain surface. A finer `merge_threshold`, or another backend for masks "
            "in the profile, may help.",
        ),
        _judge_presence(measurements, hands),
        _judge_hand_area(tests, measurements),
        _judge_consistency(tests, measurements),
    ]


def frame_verdicts(measurements: MaskMeasurements) -> Mapping[str, tuple[GateOutcome, ...]]:
    """The verdict of every gate on every frame, by name of the gate."""
    failed = {gate.name: GateOutcome.FAILED if gate.blocking else GateOutcome.WARNED for gate in GATES}
    return {
        name: tuple(
            GateOutcome.NOT_EVALUATED if not judged else failed[name] if failing else GateOutcome.PASSED
            for judged, failing in zip(test.judged, test.failing, strict=True)
        )
        for name, test in _tests(measurements).items()
    }


def is_about_handling(hands: HandObjectTracks) -> bool:
    """Whether hands reach, hold or let go in enough of a clip's frames to call it a manipulation clip."""
    if not hands.frame_index.size:
        return False
    busy = [
        any(track.states[place] not in (None, "free") for track in hands.tracks)
        for place in range(hands.frame_index.size)
    ]
    return float(np.mean(busy)) >= _BUSY_SHARE


def _tests(found: MaskMeasurements) -> Mapping[str, _Test]:
    everywhere = np.ones(len(found), np.bool_)
    low, high = HAND_AREA_RANGE
    comparable = np.isfinite(found.consistency)
    return {
        SEGMENTED_AREA.name: _Test(everywhere, found.segmented_share <= MIN_SEGMENTED),
        LARGEST_INSTANCE.name: _Test(everywhere, found.largest_share > MAX_INSTANCE),
        HAND_PRESENCE.name: _Test(everywhere, ~found.has_hand),
        HAND_AREA.name: _Test(found.has_hand, (found.hand_share < low) | (found.hand_share > high)),
        CONSISTENCY.name: _Test(comparable, comparable & (found.consistency < MIN_CONSISTENCY)),
    }


def _judge_share(
    gate: GateSpec, tests: Mapping[str, _Test], found: MaskMeasurements, what: str, advice: str
) -> GateResult:
    test = tests[gate.name]
    share, details = _share(test, found)
    seen = f"{test.failing_count} of {test.judged_count} frames {what}"
    if share > gate.limit:
        return gate.failed(f"{seen}; {gate.limit:.0%} are allowed. {advice}", value=share, **details)
    return gate.passed(f"{seen}.", value=share, **details)


def _judge_presence(found: MaskMeasurements, hands: HandObjectTracks | None) -> GateResult:
    share = float(found.has_hand.mean())
    if hands is None:
        return HAND_PRESENCE.not_evaluated("There is no hand layer, so nobody looked for hands.")
    if not is_about_handling(hands):
        return HAND_PRESENCE.not_evaluated(
            "Hands reach, hold or let go in too few frames to call this a clip about handling things.",
            hand_frame_share=share,
        )
    seen = f"Hands are segmented in {share:.0%} of {len(found)} frames"
    if share < HAND_PRESENCE.limit:
        return HAND_PRESENCE.failed(
            f"{seen}, below {HAND_PRESENCE.limit:.0%}: the camera may point away from the hands. Look at the clip.",
            value=share,
        )
    return HAND_PRESENCE.passed(f"{seen}.", value=share)


def _judge_hand_area(tests: Mapping[str, _Test], found: MaskMeasurements) -> GateResult:
    test = tests[HAND_AREA.name]
    if not test.judged_count:
        return HAND_AREA.not_evaluated("No frame shows a segmented hand.")
    share, details = _share(test, found)
    details["median_hand_share"] = round(float(np.median(found.hand_share[test.judged])), 5)
    seen = f"Hands cover less or more than expected in {test.failing_count} of {test.judged_count} frames with hands"
    if share > HAND_AREA.limit:
        return HAND_AREA.warned(
            f"{seen}; {HAND_AREA.limit:.0%} are allowed. Look at the overlay: the camera may be mounted close to or "
            "far from the hands, or the masks are wrong.",
            value=share,
            **details,
        )
    return HAND_AREA.passed(f"{seen}.", value=share, **details)


def _judge_consistency(tests: Mapping[str, _Test], found: MaskMeasurements) -> GateResult:
    test = tests[CONSISTENCY.name]
    if not test.judged_count:
        return CONSISTENCY.not_evaluated("No two consecutive frames could be compared.")
    share, details = _share(test, found)
    details["mean_consistency"] = round(float(found.consistency[test.judged].mean()), 4)
    seen = f"{test.failing_count} of {test.judged_count} frames overlap the one before by less than {MIN_CONSISTENCY}"
    if share > CONSISTENCY.limit:
        return CONSISTENCY.warned(
            f"{seen}; {CONSISTENCY.limit:.0%} are allowed. Fast motion tears masks apart; where the clip is calm, "
            "the backend cannot follow it.",
            value=share,
            **details,
        )
    return CONSISTENCY.passed(f"{seen}.", value=share, **details)


def _share(test: _Test, found: MaskMeasurements) -> tuple[float, dict[str, object]]:
    share = test.failing_count / test.judged_count if test.judged_count else 0.0
    return share, {
        "judged_frames": test.judged_count,
        "failing_frames": test.failing_count,
        "first_failing_frames": found.frame_index[test.judged & test.failing][:20].tolist(),
    }
