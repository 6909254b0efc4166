"""Gates of ``actions``: the segments are usable, and say more than chance."""

from __future__ import annotations

from collections.abc import Sequence

from ego_assets.schema.actions import OTHER_ACTION, ActionSegment
from ego_assets.schema.gates import GateResult, GateSpec

SEGMENTS = GateSpec(
    name="segments",
    description="Segments are in order, do not overlap, cover the clip, and have known labels and scores from 0 to 1.",
    blocking=True,
    threshold=0,
    unit="segments that are wrong",
    source="follows from the format",
)
#: A label says something from this many times the probability of a draw among all labels on: with five labels, when it
#: is more probable than all others together.
MIN_TIMES_DRAW = 2.5
#: Share of a clip whose segments may have labels that say nothing.
ALLOWED_UNSURE = 0.2

CONFIDENCE = GateSpec(
    name="confidence",
    description=(
        f"Most of the clip has labels that are {MIN_TIMES_DRAW:g} times as probable as a draw, or more than all others "
        "together, and name an activity; hands were there to judge by."
    ),
    threshold=ALLOWED_UNSURE,
    unit="share of the clip with labels that say nothing",
    source="own: 0.5 for five labels is where one is more probable than the rest",
)

#: All gates of the layer, in the order in which they are judged.
GATES = (SEGMENTS, CONFIDENCE)


def least_score(known_labels: int) -> float:
    """Score from which on a segment's label says something; below it, hardly more than a draw would.

    Args:
        known_labels: How many activities the backend tells apart.
    """
    return min(0.5, MIN_TIMES_DRAW / known_labels)


def judge_actions(
    segments: Sequence[ActionSegment],
    *,
    labels: Sequence[str],
    known_labels: int,
    start_ns: int,
    end_ns: int,
    hand_share: float | None,
    needs_hands: bool,
) -> list[GateResult]:
    """Judge the segments of a clip; one verdict per gate, in the order of :data:`GATES`.

    Args:
        segments: The segments.
        labels: Activities that may occur.
        known_labels: How many activities the backend tells apart, those that were not asked for included.
        start_ns: Where the clip begins.
        end_ns: Where it ends.
        hand_share: Share of the frames of the hand layer that show a hand, 0-1; ``None`` without that layer.
        needs_hands: Whether some of the labels cannot be told without hands.
    """
    return [
        _judge_segments(segments, labels, start_ns, end_ns),
        _judge_confidence(segments, known_labels, hand_share=hand_share, needs_hands=needs_hands),
    ]


def _judge_segments(
    segments: Sequence[ActionSegment], labels: Sequence[str], start_ns: int, end_ns: int
) -> GateResult:
    if not segments:
        return SEGMENTS.failed("There is no segment. Materialize actions again.", value=1)
    # Segment and edge that must be met: where the one before ends, or where the clip begins.
    edges = [start_ns, *(segment.end_ns for segment in segments)]
    wrong: dict[int, str] = {}
    for number, (segment, edge) in enumerate(zip(segments, edges, strict=False)):
        if segment.start_ns != edge:
            what = "overlaps the one before" if segment.start_ns < edge else "leaves a gap before it"
            wrong[number] = f"{what}: begins at {segment.start_ns} ns, expected {edge} ns"
        elif segment.label not in labels:
            wrong[number] = f"has the label {segment.label!r}, expected one of {', '.join(labels)}"
        elif not 0 <= segment.score <= 1:
            wrong[number] = f"has the score {segment.score}, expected 0 to 1"
    if edges[-1] != end_ns:
        wrong.setdefault(len(segments) - 1, f"ends at {edges[-1]} ns, expected the clip's end, {end_ns} ns")
    details: dict[str, object] = {"segments": len(segments), "wrong": list(wrong)[:20]}
    if wrong:
        number, what = next(iter(wrong.items()))
        return SEGMENTS.failed(
            f"{len(wrong)} of {len(segments)} segments are wrong. Number {number + 1} {what}. Look at the backend "
            "of task actions.",
            value=len(wrong),
            **details,
        )
    return SEGMENTS.passed(f"{len(segments)} segment(s) cover the clip.", value=0, **details)


def _judge_confidence(
    segments: Sequence[ActionSegment], known_labels: int, *, hand_share: float | None, needs_hands: bool
) -> GateResult:
    length_ns = sum(segment.end_ns - segment.start_ns for segment in segments)
    if not length_ns:
        return CONFIDENCE.not_evaluated("There is no segment.")
    if known_labels < 2:
        return CONFIDENCE.not_evaluated("A backend with a single label has nothing to choose from.")
    least = least_score(known_labels)
    # Much goes into what is none of the activities: it is likely without being seen, and says nothing where it is.
    unsure_ns = sum(
        segment.end_ns - segment.start_ns
        for segment in segments
        if segment.score < least or segment.label == OTHER_ACTION
    )
    unsure = unsure_ns / length_ns
    mean = sum(segment.score * (segment.end_ns - segment.start_ns) for segment in segments) / length_ns
    details: dict[str, object] = {
        "mean_score": mean,
        "least_score": least,
        "known_labels": known_labels,
        "hand_share": hand_share,
    }
    named = f" or are {OTHER_ACTION!r}" if any(segment.label == OTHER_ACTION for segment in segments) else ""
    seen = f"Labels score below {least:.2g}{named} in {unsure:.0%} of the clip; the mean score is {mean:.2f}."
    if needs_hands and hand_share is None:
        return CONFIDENCE.warned(
            f"{seen} There is no hand_object layer, so activities of the hands could not be told from others: an "
            "idle segment may show work. Make hand_object, then actions again.",
            value=unsure,
            **details,
        )
    if unsure > CONFIDENCE.limit:
        why = (
            " No hand was found in any frame, so work cannot be told from idleness."
            if hand_share == 0
            else ""
        )
        return CONFIDENCE.warned(
            f"{seen}{why if needs_hands else ''} Do not rely on such labels.",
            value=unsure,
            **details,
        )
    return CONFIDENCE.passed(seen, value=unsure, **details)
