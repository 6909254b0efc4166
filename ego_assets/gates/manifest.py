"""Gate of ``manifest``: clips of low quality are pointed out, never stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ego_assets.schema.gates import GateResult, GateSpec

SCORE = GateSpec(
    name="score",
    description="Clips with a low quality score wait for a decision: process again, collect again, discard.",
    threshold=0.4,
    unit="quality score, 0-1",
    source="default; set it to the bottom tenth of the collection (collection guide, step 5)",
)

#: All gates of the layer.
GATES = (SCORE,)


def judge_score(
    value: float | None,
    *,
    confidence: float,
    parts: Mapping[str, float | None],
    low_score: float | None = None,
) -> list[GateResult]:
    """Judge a clip's quality score.

    Args:
        value: Score in 0-1; ``None`` where nothing could be evaluated.
        confidence: Share of the score's weight that was evaluated, 0-1.
        parts: The parts of the score; ``None`` for those that were not evaluated.
        low_score: Score below which to warn; the gate's threshold by default.
    """
    spec = SCORE if low_score is None else replace(SCORE, threshold=low_score)
    if value is None or confidence <= 0:
        return [spec.not_evaluated("No part of the score could be evaluated.")]
    evaluated = {name: part for name, part in parts.items() if part is not None}
    seen = f"Score {value:.2f}, from {confidence:.0%} of its weight."
    details: dict[str, object] = {"confidence": confidence, "parts": dict(parts)}
    if value < spec.limit:
        weakest = min(evaluated, key=lambda name: evaluated[name]) if evaluated else ""
        advice = f" The weakest part is {weakest.replace('_', ' ')}." if weakest else ""
        return [
            spec.warned(
                f"{seen}{advice} Decide whether to process or collect it again.", value=value, **details
            )
        ]
    return [spec.passed(seen, value=value, **details)]
