"""Gates that judge frame by frame: a clip falls through when more than a share of its judged frames does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ego_assets.schema.arrays import read_only
from ego_assets.schema.gates import GateOutcome, GateResult, GateSpec

#: So many frames are named in the details of a verdict.
_NAMED_FRAMES = 20


@dataclass(frozen=True, eq=False, kw_only=True)
class FrameTest:
    """One gate's criterion on every frame, and with it on the clip.

    A frame and the clip that fall through get the same outcome.

    Attributes:
        gate: The gate; its threshold is the share of the judged frames that may fall through.
        judged: ``bool [N]``, the frames that the criterion can judge.
        failing: ``bool [N]``, those that fall through; what it says of other frames does not count.
        outcome: What falling through is called.
    """

    gate: GateSpec
    judged: npt.NDArray[np.bool_]
    failing: npt.NDArray[np.bool_]
    outcome: Literal[GateOutcome.FAILED, GateOutcome.WARNED] = GateOutcome.FAILED

    def __post_init__(self) -> None:
        if self.judged.ndim != 1 or self.judged.shape != self.failing.shape:
            raise ValueError(
                f"judged, failing: expected [N] and [N], got {list(self.judged.shape)} and {list(self.failing.shape)}"
            )
        object.__setattr__(self, "failing", read_only(self.judged & self.failing))
        object.__setattr__(self, "judged", read_only(self.judged))

    @property
    def judged_count(self) -> int:
        """Frames that can be judged."""
        return int(self.judged.sum())

    @property
    def failing_count(self) -> int:
        """Those of them that fall through."""
        return int(self.failing.sum())

    @property
    def failing_share(self) -> float:
        """Share of the judged frames that fall through; 0 where none can be judged."""
        return self.failing_count / self.judged_count if self.judged_count else 0.0

    def outcomes(self) -> tuple[GateOutcome, ...]:
        """The verdict on every frame."""
        return tuple(
            GateOutcome.NOT_EVALUATED if not judged else self.outcome if failing else GateOutcome.PASSED
            for judged, failing in zip(self.judged.tolist(), self.failing.tolist(), strict=True)
        )

    def details(self, frame_index: npt.NDArray[np.int64]) -> dict[str, object]:
        """The numbers behind the verdict on the clip.

        Args:
            frame_index: ``int64 [N]``, indices of the frames in the clip.
        """
        return {
            "judged_frames": self.judged_count,
            "failing_frames": self.failing_count,
            "first_failing_frames": frame_index[self.failing][:_NAMED_FRAMES].tolist(),
        }

    def fell_through(self, message: str, *, value: float, **details: object) -> GateResult:
        """The clip's verdict where it falls through."""
        judge = self.gate.failed if self.outcome is GateOutcome.FAILED else self.gate.warned
        return judge(message, value=value, **details)

    def verdict(
        self, frame_index: npt.NDArray[np.int64], *, seen: str, advice: str, **details: object
    ) -> GateResult:
        """The clip's verdict by the share rule.

        Args:
            frame_index: ``int64 [N]``, indices of the frames in the clip.
            seen: What was found, without a full stop.
            advice: What to do where the clip falls through, as whole sentences.
            **details: More numbers behind the verdict.
        """
        numbers = self.details(frame_index) | details
        share = self.failing_share
        if share > self.gate.limit:
            message = f"{seen}; {self.gate.limit:.0%} are allowed. {advice}"
            return self.fell_through(message, value=share, **numbers)
        return self.gate.passed(f"{seen}.", value=share, **numbers)
