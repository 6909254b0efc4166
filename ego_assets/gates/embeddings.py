"""Gates of ``embeddings``: the vector can be compared, and stands for the whole clip."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ego_assets.schema.embeddings import EMBEDDED_FRAMES, EMBEDDING_DIMENSIONS, UNIT_NORM_TOLERANCE
from ego_assets.schema.gates import GateResult, GateSpec

VECTOR = GateSpec(
    name="vector",
    description=f"The clip has one vector of {EMBEDDING_DIMENSIONS} finite values and unit length.",
    blocking=True,
    threshold=UNIT_NORM_TOLERANCE,
    unit="difference of the length from 1",
    source="collection guide, step 4; the tolerance is far above the rounding of single precision",
)
FRAMES = GateSpec(
    name="frames",
    description=f"{EMBEDDED_FRAMES} frames, evenly spread over the clip, make up the vector.",
    threshold=EMBEDDED_FRAMES,
    unit="frames",
    source="collection guide, step 4",
)

#: All gates of the layer, in the order in which they are judged.
GATES = (VECTOR, FRAMES)


def judge_embedding(
    vector: npt.NDArray[np.floating[Any]], *, used_frames: int, clip_frames: int
) -> list[GateResult]:
    """Judge a clip's vector; one verdict per gate, in the order of :data:`GATES`.

    Args:
        vector: The clip's vector.
        used_frames: Frames that make it up.
        clip_frames: Frames that the clip has.
    """
    return [_judge_vector(vector, used_frames), _judge_frames(used_frames, clip_frames)]


def _judge_vector(vector: npt.NDArray[np.floating[Any]], used_frames: int) -> GateResult:
    finite = int(np.isfinite(vector).sum())
    details: dict[str, object] = {"dimensions": list(vector.shape), "finite_values": finite}
    if used_frames == 0:
        return VECTOR.failed(
            "No frame could be decoded, so there is no vector. Materialize blurred_video again.",
            value=None,
            **details,
        )
    if vector.shape != (EMBEDDING_DIMENSIONS,) or finite != EMBEDDING_DIMENSIONS:
        return VECTOR.failed(
            f"The vector has the shape {list(vector.shape)} and {finite} finite values, expected "
            f"{EMBEDDING_DIMENSIONS} of each. Name another embeddings backend in the profile.",
            value=None,
            **details,
        )
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if abs(norm - 1) > VECTOR.limit:
        return VECTOR.failed(
            f"The vector has the length {norm:.4g}, expected 1. Name another embeddings backend in the profile.",
            value=abs(norm - 1),
            **details,
        )
    return VECTOR.passed(f"{EMBEDDING_DIMENSIONS} finite values of length 1.", value=abs(norm - 1), **details)


def _judge_frames(used: int, available: int) -> GateResult:
    details: dict[str, object] = {"used_frames": used, "clip_frames": available}
    if used >= FRAMES.limit:
        return FRAMES.passed(f"{used} frames make up the vector.", value=used, **details)
    if available < FRAMES.limit:
        why = f"the clip has only {available}"
    else:
        why = "the others could not be decoded, or lie at one place in time"
    return FRAMES.warned(
        f"{used} of {EMBEDDED_FRAMES} frames make up the vector: {why}.", value=used, **details
    )
