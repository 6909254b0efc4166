"""Gates of ``actions``: the segments are usable, and say more than chance."""

from __future__ import annotations

from collections.abc import Sequence

from ego_assets.schema.actions import ActionSegment
from ego_assets.schema.gates import GateResult, GateSpec

SEGMENTS = GateSpec(
    name="segments",
    description="Segments are in order, do not overlap, cover the clip, and have known labels and scores from 0 to 1.",
    blocking=True,
    threshold=0,
    unit="segments that are wrong",
    source="follows from the format",
)
CONFIDENCE = GateSpec(
    name="confidence",
    description="The labels are clearly more probable than a draw among all labels, and hands were there to judge by.",
    threshold=2.0,
    unit="mean score, times that of a draw",
    source=(
        "own: below twice the probability of a draw, another label has the better half of what remains "
        "(0.4 for five labels)"
    ),
)

#: All gates of the layer, in the order in which they are judged.
GATES = (SEGMENTS, CONFIDENCE)


def judge_actions(
    segments: Sequence[ActionSegment],
    *,
    labels: Sequence[str],
    known_labels: int,
    start_ns: int,
    end_ns: int,
    has_hands: bool,
    needs_hands: bool,
) -> list[GateResult]:
    """Judge the segments of a clip; one verdict per gate, in the order of :data:`GATES`.

    Args:
        segments: The segments.
        labels: Activities that may occur.
        known_labels: How many activities the backend tells apart, those that were not asked for included.
        start_ns: Where the clip begins.
        end_ns: Where it ends.
        has_hands: Whether hands were there to judge by.
        needs_hands: Whether some of the labels cannot be told without.
    """
    return [
        _judge_segments(segments, labels, start_ns, end_ns),
        _judge_confidence(segments, known_labels, has_hands=has_hands, needs_hands=needs_hands),
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
    segments: Sequence[ActionSegment], known_labels: int, *, has_hands: bool, needs_hands: bool
) -> GateResult:
    length_ns = sum(segment.end_ns - segment.start_ns for segment in segments)
    if not length_ns:
        return CONFIDENCE.not_evaluated("There is no segment.")
    if known_labels < 2:
        return CONFIDENCE.not_evaluated("A backend with a single label has nothing to choose from.")
    mean = sum(segment.score * (segment.end_ns - segment.start_ns) for segment in segments) / length_ns
    value = mean * known_labels
    details: dict[str, object] = {"mean_score": mean, "known_labels": known_labels, "hands": has_hands}
    seen = f"The mean score is {mean:.2f}, that of a draw among {known_labels} labels {1 / known_labels:.2f}."
    if value < CONFIDENCE.limit:
        return CONFIDENCE.warned(f"{seen} Do not rely on these labels.", value=value, **details)
    if needs_hands and not has_hands:
        return CONFIDENCE.warned(
            f"{seen} There is no hand_object layer, so activities of the hands could not be told from others: an "
            "idle segment may show work. Make hand_object, then actions again.",
            value=value,
            **details,
        )
    return CONFIDENCE.passed(seen, value=value, **details)
