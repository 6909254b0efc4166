"""Gates of ``frames``: every frame of the grid is there, and what is there can be decoded."""

from __future__ import annotations

from collections.abc import Sequence

from ego_assets.schema.gates import GateResult, GateSpec

FRAME_COUNT = GateSpec(
    name="frame_count",
    description="As many frames were extracted as the time grid asks for.",
    blocking=True,
    threshold=0.005,
    unit="share of frames missing or surplus",
    source="as completeness of clip_quality",
)
DECODABLE = GateSpec(
    name="decodable",
    description="A sample of the stored images can be decoded and has the stated size.",
    blocking=True,
    threshold=0,
    unit="images that cannot be decoded",
)

#: All gates of the layer, in the order in which they are judged.
GATES = (FRAME_COUNT, DECODABLE)


def judge_frames(
    *, expected_count: int, extracted_count: int, checked_count: int, undecodable_frames: Sequence[int]
) -> list[GateResult]:
    """Judge extracted frames; one verdict per gate, in the order of :data:`GATES`.

    Args:
        expected_count: Frames on the time grid.
        extracted_count: Images that were stored.
        checked_count: Stored images that were decoded again.
        undecodable_frames: Frame indices of those that could not be decoded or have another size.
    """
    return [
        _judge_count(expected_count, extracted_count),
        _judge_decodable(checked_count, undecodable_frames),
    ]


def _judge_count(expected: int, extracted: int) -> GateResult:
    seen = f"{extracted} of {expected} frames were extracted."
    details: dict[str, object] = {"expected_count": expected, "extracted_count": extracted}
    if expected <= 0:
        return FRAME_COUNT.failed(
            "The time grid holds no frame: look at the clip's frame count and rate.", value=None, **details
        )
    difference = abs(extracted - expected) / expected
    if difference > FRAME_COUNT.limit:
        advice = "Materialize frames again; if it repeats, blurred_video is damaged and has to be made again."
        return FRAME_COUNT.failed(f"{seen} {advice}", value=difference, **details)
    return FRAME_COUNT.passed(seen, value=difference, **details)


def _judge_decodable(checked: int, undecodable: Sequence[int]) -> GateResult:
    if checked <= 0:
        return DECODABLE.not_evaluated("No image was checked.")
    details: dict[str, object] = {"checked_count": checked, "undecodable_frames": list(undecodable[:20])}
    if len(undecodable) > DECODABLE.limit:
        return DECODABLE.failed(
            f"{len(undecodable)} of {checked} checked images cannot be decoded, frame {undecodable[0]} "
            "first. Materialize frames again.",
            value=len(undecodable),
            **details,
        )
    return DECODABLE.passed(f"All {checked} checked images can be decoded.", value=0, **details)
