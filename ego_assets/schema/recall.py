"""What reviewers found on frames of blurred videos, as counts, and the recall that follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ReviewedFrame:
    """What one reviewer found on one frame.

    Attributes:
        clip_id: The clip.
        frame_index: The frame.
        covered: Regions that are covered and show personal data, by kind.
        missed: Regions that show personal data and are not covered, by kind.
    """

    clip_id: str
    frame_index: int
    covered: Mapping[str, int]
    missed: Mapping[str, int]

    def __post_init__(self) -> None:
        if self.frame_index < 0:
            raise ValueError(f"frame_index: expected 0 or more, got {self.frame_index}")
        for name in ("covered", "missed"):
            wrong = {kind: count for kind, count in getattr(self, name).items() if count < 0}
            if wrong:
                raise ValueError(f"{name}: expected counts of 0 or more, got {wrong}")


@dataclass(frozen=True, kw_only=True)
class RecallEstimate:
    """Share of the regions of one kind that are covered, as people found it.

    Attributes:
        kind: Kind of region, such as ``faces``.
        covered: Covered regions in the reviewed frames.
        missed: Regions left uncovered in the reviewed frames.
        frames: Reviewed frames, with regions of the kind or without.
        clips: Clips that these frames belong to.
        clips_with_regions: Clips that show the kind, covered or not.
        low: Lower end of the 95 % interval, 0-1; ``None`` where no region was seen.
        high: Upper end of the interval, 0-1; ``None`` where no region was seen.
    """

    kind: str
    covered: int
    missed: int
    frames: int
    clips: int
    clips_with_regions: int
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if min(self.covered, self.missed, self.frames, self.clips, self.clips_with_regions) < 0:
            raise ValueError(f"recall of {self.kind}: expected counts of 0 or more, got {self}")
        if (self.low is None) != (self.regions == 0) or (self.high is None) != (self.regions == 0):
            raise ValueError(f"recall of {self.kind}: expected an interval exactly where regions were seen")

    @property
    def regions(self) -> int:
        """Regions that were there."""
        return self.covered + self.missed

    @property
    def recall(self) -> float | None:
        """Covered share, 0-1; ``None`` where no region was seen."""
        return self.covered / self.regions if self.regions else None

    def described(self) -> str:
        """The figure with everything needed to judge it, on one line."""
        seen = f"{self.frames} reviewed frame(s) of {self.clips} clip(s)"
        if self.recall is None or self.low is None or self.high is None:
            return f"no region in {seen}"
        return (
            f"{self.recall:.3f} (95 % interval {self.low:.3f}-{self.high:.3f}; "
            f"{self.covered} of {self.regions} regions in {seen})"
        )
