"""Gates of ``hand_object``: its records are what they claim to be, and the hands are there where they should be."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ego_assets.gates.handling import HAND_FRAMES_SOURCE, MIN_HAND_FRAMES_SHARE, is_about_handling
from ego_assets.gates.per_frame import FrameTest
from ego_assets.schema.gates import GateOutcome, GateResult, GateSpec
from ego_assets.schema.hands import HAND_STATES

SCHEMA = GateSpec(
    name="schema",
    description="Every stored record has the documented fields with values of the documented kind.",
    blocking=True,
    threshold=0,
    unit="records that are not valid",
)
BOXES_INSIDE = GateSpec(
    name="boxes_inside",
    description="Boxes of hands and objects lie inside the frame.",
    blocking=True,
    threshold=0,
    unit="boxes that leave the frame",
)
STATES = GateSpec(
    name="states",
    description=(
        "Every hand goes through states that follow one another: free, pre-grasp, grasp, post-release. In a clip about "
        "handling things that shows hands for 5 s, more than one state is reached."
    ),
    threshold=0,
    unit="share of steps that no hand can take",
)
HANDS_VISIBLE = GateSpec(
    name="hands_visible",
    description=(
        "In a clip about handling things, a hand of the wearer is found in enough frames; fewer mean a camera that "
        "points elsewhere, or hands that the detector misses."
    ),
    threshold=MIN_HAND_FRAMES_SHARE,
    unit="share of frames with a hand, at least",
    source=HAND_FRAMES_SOURCE,
)

#: How long hands have to be seen, both counted, before all four states can be expected to come up (own: a reach, a
#: hold and a withdrawal together take 2-3 s).
MIN_SEEN_FOR_STATES_S = 5.0

#: All gates of the layer, in the order in which they are judged.
GATES = (SCHEMA, BOXES_INSIDE, STATES, HANDS_VISIBLE)


def judge_hand_object(
    *,
    records: int,
    valid_records: int,
    first_problem: str,
    boxes: int,
    boxes_outside: int,
    steps: int,
    illegal_steps: int,
    state_counts: Mapping[str, int],
    hand_share: float,
    contact_share: float | None,
    activity: str,
    frames_per_second: float = 10.0,
) -> list[GateResult]:
    """Judge the stored records; one verdict per gate, in the order of :data:`GATES`.

    Args:
        records: Stored records.
        valid_records: Those that are as documented.
        first_problem: What is wrong with the first one that is not.
        boxes: Boxes of hands and objects.
        boxes_outside: Those that leave the frame.
        steps: Pairs of neighbouring records that show the same hand.
        illegal_steps: Those with states that cannot follow one another.
        state_counts: How often each state occurs.
        hand_share: Share of the valid records with a hand of the wearer, 0-1.
        contact_share: Share of them in which a hand reaches, holds or lets go, 0-1; ``None`` without any.
        activity: What the clip says it is about; empty where it does not say.
        frames_per_second: How many records cover a second.
    """
    about_handling = is_about_handling(activity, contact_share=contact_share)
    return [
        _judge_schema(records, valid_records, first_problem),
        _judge_boxes(boxes, boxes_outside, judged=valid_records),
        _judge_states(
            steps,
            illegal_steps,
            state_counts,
            many_hands=MIN_SEEN_FOR_STATES_S * frames_per_second if about_handling else None,
        ),
        _judge_visible(valid_records, hand_share, contact_share, activity),
    ]


def _judge_schema(records: int, valid: int, first_problem: str) -> GateResult:
    if not records:
        return SCHEMA.failed("The layer holds no record. Materialize hand_object again.")
    wrong = records - valid
    if wrong > SCHEMA.limit:
        return SCHEMA.failed(
            f"{wrong} of {records} records are not valid; the first: {first_problem}. Materialize hand_object again; "
            "if it repeats, the backend named by the profile is at fault.",
            value=wrong,
            first_problem=first_problem,
        )
    return SCHEMA.passed(f"All {records} records are valid.", value=0)


def _judge_boxes(boxes: int, outside: int, *, judged: int) -> GateResult:
    if not judged:
        return BOXES_INSIDE.not_evaluated("There is no valid record.")
    if outside > BOXES_INSIDE.limit:
        return BOXES_INSIDE.failed(
            f"{outside} of {boxes} boxes leave the frame: the backend answers in another resolution than it states.",
            value=outside,
            boxes=boxes,
        )
    return BOXES_INSIDE.passed(f"All {boxes} boxes lie inside the frame.", value=0, boxes=boxes)


def _judge_states(
    steps: int, illegal: int, counts: Mapping[str, int], *, many_hands: float | None
) -> GateResult:
    """``many_hands``: hands seen from which on one state alone is suspicious; ``None`` where it never is."""
    if not steps:
        return STATES.not_evaluated("No hand is seen in two neighbouring frames.", state_counts=dict(counts))
    share = illegal / steps
    if share > STATES.limit:
        return STATES.failed(
            f"{illegal} of {steps} steps lead from a state to one that cannot follow it.",
            value=share,
            state_counts=dict(counts),
        )
    reached = [state for state in HAND_STATES if counts.get(state, 0)]
    seen = sum(counts.values())
    if many_hands is not None and seen >= many_hands and len(reached) == 1:
        missing = [state for state in HAND_STATES if state not in reached]
        return STATES.warned(
            f"All {seen} hands seen are in the state {reached[0]}; never reached: {', '.join(missing)}. In a clip "
            "about handling things hands reach, hold and let go: look whether that is so, or contact is misjudged.",
            value=share,
            state_counts=dict(counts),
            never_reached=missing,
        )
    return STATES.passed(
        f"All {steps} steps are ones that a hand can take.", value=share, state_counts=dict(counts)
    )


def _judge_visible(records: int, share: float, contact_share: float | None, activity: str) -> GateResult:
    if not records:
        return HANDS_VISIBLE.not_evaluated("There is no valid record.")
    seen = f"A hand of the wearer is found in {share:.0%} of {records} frames."
    details: dict[str, object] = {"activity": activity, "contact_share": contact_share}
    if not is_about_handling(activity, contact_share=contact_share):
        return HANDS_VISIBLE.not_evaluated(
            f"{seen} Neither the clip's activity nor the hands say that it is about handling things, so nothing is "
            "expected.",
            share=share,
            **details,
        )
    if share < HANDS_VISIBLE.limit:
        return HANDS_VISIBLE.warned(
            f"{seen} In a clip about handling things at least {HANDS_VISIBLE.limit:.0%} are expected: look whether the "
            "camera points at the hands, or whether it is dark or blurred.",
            value=share,
            **details,
        )
    return HANDS_VISIBLE.passed(seen, value=share, **details)


def frame_verdicts(
    *,
    is_valid: npt.NDArray[np.bool_],
    boxes_inside: npt.NDArray[np.bool_],
    has_step: npt.NDArray[np.bool_],
    step_is_legal: npt.NDArray[np.bool_],
    has_hand: npt.NDArray[np.bool_],
    about_handling: bool | None,
) -> Mapping[str, tuple[GateOutcome, ...]]:
    """The verdict of every gate on every record, by name of the gate.

    Args:
        is_valid: ``bool [N]``, whether a record is as documented; what is not can be judged by nothing else.
        boxes_inside: ``bool [N]``.
        has_step: ``bool [N]``, whether a hand is visible here and in the record before.
        step_is_legal: ``bool [N]``, whether it can get from the state there to that here.
        has_hand: ``bool [N]``, whether a hand of the wearer is visible.
        about_handling: Whether hands are expected; otherwise their absence is no verdict.
    """
    expected = is_valid & bool(about_handling)
    tests = (
        FrameTest(gate=SCHEMA, judged=np.ones_like(is_valid), failing=~is_valid),
        FrameTest(gate=BOXES_INSIDE, judged=is_valid, failing=~boxes_inside),
        FrameTest(gate=STATES, judged=is_valid & has_step, failing=~step_is_legal),
        FrameTest(gate=HANDS_VISIBLE, judged=expected, failing=~has_hand, outcome=GateOutcome.WARNED),
    )
    return {test.gate.name: test.outcomes() for test in tests}
