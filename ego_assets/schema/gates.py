"""What a quality gate is and what it can say about a clip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class GateOutcome(StrEnum):
    """The four verdicts. *Not evaluated* is never shown as passed."""

    PASSED = "passed"
    WARNED = "warned"
    FAILED = "failed"
    NOT_EVALUATED = "not_evaluated"


@dataclass(frozen=True, kw_only=True)
class GateSpec:
    """One gate of one layer. It becomes one asset check of the same name.

    Attributes:
        name: Check name, unique within the layer.
        description: One sentence for people: what is judged and why.
        blocking: A failure makes the layer unusable. It stops the clip where the layer is essential, and
            otherwise the layer is given up.
        threshold: The limit, in ``unit``; ``None`` where the gate is a yes/no fact.
        unit: Unit of ``threshold`` and of the measured value.
        source: Where the threshold comes from.
    """

    name: str
    description: str
    blocking: bool = False
    threshold: float | None = None
    unit: str = ""
    source: str = ""

    @property
    def limit(self) -> float:
        """The threshold of a gate that has one.

        Raises:
            ValueError: The gate is a yes/no fact.
        """
        if self.threshold is None:
            raise ValueError(f"gate {self.name}: expected a threshold, got None")
        return self.threshold

    def passed(self, message: str, *, value: float | None = None, **details: object) -> GateResult:
        """A passing verdict of this gate."""
        return self._result(GateOutcome.PASSED, message, value, details)

    def warned(self, message: str, *, value: float | None = None, **details: object) -> GateResult:
        """A verdict that people should see, but that stops nothing."""
        return self._result(GateOutcome.WARNED, message, value, details)

    def failed(self, message: str, *, value: float | None = None, **details: object) -> GateResult:
        """A failing verdict; it stops the clip where the gate is blocking."""
        return self._result(GateOutcome.FAILED, message, value, details)

    def not_evaluated(self, reason: str, **details: object) -> GateResult:
        """The gate could not be judged, for the reason given."""
        return self._result(GateOutcome.NOT_EVALUATED, reason, None, details)

    def _result(
        self, outcome: GateOutcome, message: str, value: float | None, details: Mapping[str, object]
    ) -> GateResult:
        return GateResult(spec=self, outcome=outcome, message=message, value=value, details=dict(details))


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """The verdict of one gate on one clip, with the measured value.

    Attributes:
        spec: The gate that was judged.
        outcome: The verdict.
        message: What was found, worded for the person who has to act on it.
        value: The measured value in ``spec.unit``; ``None`` where there is none.
        details: JSON-serialisable numbers behind the verdict; never pictures.
    """

    spec: GateSpec
    outcome: GateOutcome
    message: str
    value: float | None = None
    details: Mapping[str, object] = field(default_factory=dict)

    @property
    def blocks(self) -> bool:
        """Whether this verdict makes the layer unusable."""
        return self.spec.blocking and self.outcome is GateOutcome.FAILED
