"""Gates of ``hand_object``: its records are what they claim to be, and the hands are there where they should be."""

from __future__ import annotations

from collections.abc import Mapping

from ego_assets.schema.gates import GateResult, GateSpec

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
    description="Every hand goes through states that follow one another: free, pre-grasp, grasp, post-release.",
    threshold=0,
    unit="share of steps that no hand can take",
)
HANDS_VISIBLE = GateSpec(
    name="hands_visible",
    description=(
        "In a clip about handling things, a hand of the wearer is found in enough frames; fewer mean a camera that "
        "points elsewhere, or hands that the detector misses."
    ),
    threshold=0.4,
    unit="share of frames with a hand",
    source="collection guide: hands in at least 40 % of frames of manipulation-focused data",
)

#: All gates of the layer, in the order in which they are judged.
GATES = (SCHEMA, BOXES_INSIDE, STATES, HANDS_VISIBLE)

#: Words of an activity that is not about handling things; any other activity that is given is taken to be.
_HANDS_FREE_WORDS = (
    "walk",
    "hik",
    "run",
    "jog",
    "commut",
    "travel",
    "driv",
    "rid",
    "cycl",
    "sightsee",
    "tour",
    "conversation",
    "talk",
    "meeting",
    "watch",
    "navigat",
)


def is_about_handling(activity: str) -> bool | None:
    """Whether an activity is one of handling things; ``None`` where none is given.

    Args:
        activity: Free text of the clip, such as ``cooking``.
    """
    words = activity.lower().replace("_", " ").replace("-", " ").split()
    if not words:
        return None
    return not any(word.startswith(_HANDS_FREE_WORDS) for word in words)


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
    frames_with_hand: int,
    activity: str,
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
        frames_with_hand: Records with a hand of the wearer.
        activity: What the clip says it is about; empty where it does not say.
    """
    return [
        _judge_schema(records, valid_records, first_problem),
        _judge_boxes(boxes, boxes_outside, judged=valid_records),
        _judge_states(steps, illegal_steps, state_counts),
        _judge_visible(valid_records, frames_with_hand, activity),
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


def _judge_states(steps: int, illegal: int, counts: Mapping[str, int]) -> GateResult:
    if not steps:
        return STATES.not_evaluated("No hand is seen in two neighbouring frames.", state_counts=dict(counts))
    share = illegal / steps
    if share > STATES.limit:
        return STATES.failed(
            f"{illegal} of {steps} steps lead from a state to one that cannot follow it.",
            value=share,
            state_counts=dict(counts),
        )
    return STATES.passed(
        f"All {steps} steps are ones that a hand can take.", value=share, state_counts=dict(counts)
    )


def _judge_visible(records: int, with_hand: int, activity: str) -> GateResult:
    if not records:
        return HANDS_VISIBLE.not_evaluated("There is no valid record.")
    share = with_hand / records
    seen = f"A hand of the wearer is found in {share:.0%} of {records} frames."
    about_handling = is_about_handling(activity)
    if about_handling is None:
        return HANDS_VISIBLE.not_evaluated(
            f"{seen} The clip does not say what it is about, so nothing is expected.", share=share
        )
    if not about_handling:
        return HANDS_VISIBLE.not_evaluated(f"{seen} {activity!r} needs none.", share=share)
    if share < HANDS_VISIBLE.limit:
        return HANDS_VISIBLE.warned(
            f"{seen} For {activity!r} at least {HANDS_VISIBLE.limit:.0%} are expected: look whether the camera points "
            "at the hands, or whether it is dark or blurred.",
            value=share,
        )
    return HANDS_VISIBLE.passed(seen, value=share)
