"""Quality score of a clip, version 1.

The score is the weighted mean of five parts, each in 0-1 (collection guide, step 5: blur, exposure, depth
validity, mask coverage and caption relevance). A part that was not evaluated is left out and the other
weights are renormalised; the share of the weight that was evaluated is stated beside the score as its
confidence. A score of low confidence is not a low score: compare scores of equal confidence.

==================  ======  =====================================================================
part                weight  how the measurement becomes 0-1
==================  ======  =====================================================================
blur                0.25    mean over sampled frames of ``min(1, variance / 100)``, working scale
exposure            0.15    1 - share of sampled frames that are over- or under-exposed
depth_validity      0.20    mean share of pixels with a valid depth
mask_coverage       0.20    ``min(1, share of frames with a hand mask / 0.4)``
caption_relevance   0.20    mean over captions of ``min(1, 2.5 * max(0, cosine))``
==================  ======  =====================================================================
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

SCORE_VERSION = "v1"

#: Weight of each part. The raw picture counts for 0.4, what enrichment made of it for 0.6.
WEIGHTS: Mapping[str, float] = MappingProxyType(
    {
        "blur": 0.25,
        "exposure": 0.15,
        "depth_validity": 0.20,
        "mask_coverage": 0.20,
        "caption_relevance": 0.20,
    }
)

#: Laplacian variance from which a frame counts as fully sharp (collection guide, step 2).
SHARP_VARIANCE = 100.0
#: Share of frames with a hand mask from which coverage is full (collection guide, step 5).
FULL_HAND_SHARE = 0.4
#: Factor on the cosine of text and image embeddings, which rarely exceeds 0.4 (CLIPScore, Hessel 2021).
CLIPSCORE_FACTOR = 2.5


@dataclass(frozen=True, kw_only=True)
class ScoreParts:
    """The parts of the score, each in 0-1; ``None`` means not evaluated.

    Attributes:
        blur: See :func:`blur_part`.
        exposure: See :func:`exposure_part`.
        depth_validity: Mean share of pixels with a valid depth.
        mask_coverage: See :func:`mask_coverage_part`.
        caption_relevance: See :func:`caption_relevance_part`.
    """

    blur: float | None = None
    exposure: float | None = None
    depth_validity: float | None = None
    mask_coverage: float | None = None
    caption_relevance: float | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name}: expected 0 to 1 or None, got {value}")

    def to_dict(self) -> dict[str, float | None]:
        """The parts by name."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class QualityScore:
    """A clip's score.

    Attributes:
        value: Score in 0-1, higher is better; ``None`` where no part was evaluated.
        confidence: Share of the weight that was evaluated, 0-1.
        parts: What the score was made of.
        version: Version of the formula.
    """

    value: float | None
    confidence: float
    parts: ScoreParts
    version: str = SCORE_VERSION

    def to_dict(self) -> dict[str, object]:
        """JSON-serialisable form, with the weights."""
        return {
            "value": self.value,
            "confidence": self.confidence,
            "version": self.version,
            "parts": self.parts.to_dict(),
            "weights": dict(WEIGHTS),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> QualityScore:
        """Read what :meth:`to_dict` gave."""
        return cls(
            value=content["value"],
            confidence=content["confidence"],
            parts=ScoreParts(**content["parts"]),
            version=content["version"],
        )


def score_clip(parts: ScoreParts) -> QualityScore:
    """Combine the parts into the score, rounded to six digits."""
    evaluated = {name: part for name, part in parts.to_dict().items() if part is not None}
    weight = math.fsum(WEIGHTS[name] for name in evaluated)
    if weight == 0:
        return QualityScore(value=None, confidence=0.0, parts=parts)
    total = math.fsum(WEIGHTS[name] * part for name, part in evaluated.items())
    return QualityScore(
        value=min(1.0, max(0.0, round(total / weight, 6))),
        confidence=min(1.0, round(weight / math.fsum(WEIGHTS.values()), 6)),
        parts=parts,
    )


def blur_part(variances: npt.ArrayLike) -> float | None:
    """Sharpness in 0-1 from Laplacian variances at the working scale; ``None`` without samples.

    The working scale is used because the score has to be comparable between cameras.

    Args:
        variances: ``float [N]``, one per sampled frame, 0 or more.
    """
    values = np.asarray(variances, dtype=np.float64)
    return None if values.size == 0 else float(np.clip(values / SHARP_VARIANCE, 0, 1).mean())


def exposure_part(badly_exposed_share: float | None) -> float | None:
    """Exposure in 0-1 from the share of sampled frames that are over- or under-exposed."""
    return None if badly_exposed_share is None else _clamped(1 - badly_exposed_share)


def mask_coverage_part(hand_frame_share: float | None) -> float | None:
    """Mask coverage in 0-1 from the share of frames with a hand mask."""
    return None if hand_frame_share is None else _clamped(hand_frame_share / FULL_HAND_SHARE)


def caption_relevance_part(similarities: npt.ArrayLike | None) -> float | None:
    """Caption relevance in 0-1 from cosines between captions and their frames; ``None`` without any."""
    if similarities is None:
        return None
    values = np.asarray(similarities, dtype=np.float64)
    return None if values.size == 0 else float(np.clip(CLIPSCORE_FACTOR * values, 0, 1).mean())


def _clamped(value: float) -> float:
    return float(min(1.0, max(0.0, value)))
