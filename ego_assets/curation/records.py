"""The columns of the metadata database that curation and delivery read."""

from __future__ import annotations

from typing import Protocol


class GateRecord(Protocol):
    """One verdict as stored, with the attributes of ``gate_results``."""

    @property
    def clip_id(self) -> str:
        """The clip."""
        ...

    @property
    def layer(self) -> str:
        """The layer the gate belongs to."""
        ...

    @property
    def gate(self) -> str:
        """Name of the gate."""
        ...

    @property
    def outcome(self) -> str:
        """A value of :class:`ego_assets.schema.gates.GateOutcome`."""
        ...

    @property
    def blocking(self) -> bool:
        """Whether a failure stops the clip."""
        ...

    @property
    def value(self) -> float | None:
        """Measured value."""
        ...

    @property
    def threshold(self) -> float | None:
        """Limit at the time of the verdict."""
        ...

    @property
    def message(self) -> str:
        """What was found, and what to do."""
        ...


class LayerStateRecord(Protocol):
    """How a layer last ended on a clip."""

    @property
    def clip_id(self) -> str:
        """The clip."""
        ...

    @property
    def layer(self) -> str:
        """The layer."""
        ...

    @property
    def state(self) -> str:
        """``committed``, ``blocked``, ``given_up``, ``postponed`` or ``failed``."""
        ...

    @property
    def reason(self) -> str:
        """Why, where it was not committed."""
        ...

    @property
    def duration_s(self) -> float | None:
        """How long the work took, in seconds."""
        ...
