"""What a privacy incident is: something that leaked, and what was done about it and when."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from ego_assets.schema.corrections import PiiKind

#: How the reason of a withdrawal starts that an incident caused. Such a clip is made anew, but not delivered.
INCIDENT_WITHDRAWAL = "privacy incident"


class IncidentState(StrEnum):
    """How far the answer to an incident has come."""

    OPEN = "open"
    QUARANTINED = "quarantined"
    CORRECTED = "corrected"
    RESOLVED = "resolved"


@dataclass(frozen=True, kw_only=True)
class QuarantinedVersion:
    """One version that was moved out of reach.

    Attributes:
        layer: Its layer.
        version_id: Name of its folder.
        data_version: Its data version; empty where the index did not know it.
    """

    layer: str
    version_id: str
    data_version: str


@dataclass(frozen=True, kw_only=True)
class AffectedDelivery:
    """A version of a delivery that held the clip."""

    name: str
    version: str


@dataclass(frozen=True, kw_only=True)
class Incident:
    """One row of ``incidents``.

    Attributes:
        id: Number of the incident.
        clip_id: The clip.
        kind: What was left uncovered.
        first_frame: First frame in which it shows.
        last_frame: Last frame in which it shows, inclusive.
        box_xyxy: Where, in pixels of the upright full-size picture; ``None`` when not said.
        note: What was seen.
        background: Whether the layers are left to the daemon, rather than to the command that opened it.
        layers: Layers that had a version when it was opened, and are to be made anew.
        quarantined: What was moved into the vault.
        deliveries: Deliveries that held the clip.
        opened_at: When (UTC).
        opened_by: Who.
        quarantined_at: When nothing of the leak was readable outside the vault any more.
        corrected_at: When nothing was left to make: all layers were made anew from a corrected ``blurred_video`` or
            given up, or the clip was withdrawn for another reason, so that nothing is made of it any more.
        purged_at: When the quarantined files were removed for good.
        resolved_at: When a person closed it.
        resolved_by: Who; empty until then.
        resolution: What was found; empty until then.
    """

    id: int
    clip_id: str
    kind: PiiKind
    first_frame: int
    last_frame: int
    box_xyxy: tuple[float, float, float, float] | None
    note: str
    background: bool
    layers: tuple[str, ...]
    quarantined: tuple[QuarantinedVersion, ...]
    deliveries: tuple[AffectedDelivery, ...]
    opened_at: dt.datetime
    opened_by: str
    quarantined_at: dt.datetime | None = None
    corrected_at: dt.datetime | None = None
    purged_at: dt.datetime | None = None
    resolved_at: dt.datetime | None = None
    resolved_by: str = ""
    resolution: str = ""

    @property
    def state(self) -> IncidentState:
        """How far the answer has come."""
        if self.resolved_at is not None:
            return IncidentState.RESOLVED
        if self.corrected_at is not None:
            return IncidentState.CORRECTED
        return IncidentState.OPEN if self.quarantined_at is None else IncidentState.QUARANTINED

    @property
    def origin(self) -> str:
        """Origin of the correction that the incident ordered."""
        return f"incident:{self.id}"

    def age_h(self, now: dt.datetime) -> float:
        """Hours from its opening to its resolution, or to ``now``."""
        return ((self.resolved_at or now) - self.opened_at).total_seconds() / 3600

    def as_dict(self) -> dict[str, Any]:
        """The incident for ``--json``."""
        return {**asdict(self), "state": self.state.value}
