"""What an erasure is: a clip that was removed for good, and what stands in its place."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ego_assets.schema.incidents import AffectedDelivery

#: Reason of the withdrawal of every clip that is erased.
ERASED = "erased"
#: Code of an upload whose content was erased.
ERASED_UPLOAD = "erased"


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """What has to be known of a clip until its erasure is complete, and is forgotten then.

    Attributes:
        source_name: File name as uploaded.
        collector_id: Who wore the camera.
        upload_uri: Where the upload lay.
        texts: Other texts about it that may stand elsewhere, such as notes of people.
        incidents: Numbers of its incidents.
        idle_at: When no layer of it was being made any more (UTC, ISO 8601); empty before.
    """

    source_name: str = ""
    collector_id: str = ""
    upload_uri: str = ""
    texts: tuple[str, ...] = ()
    incidents: tuple[int, ...] = ()
    idle_at: str = ""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Leftover:
        """The counterpart of :meth:`as_dict`."""
        sequences = {name: tuple(values.get(name, ())) for name in ("texts", "incidents")}
        return cls(**{**values, **sequences})

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "texts": list(self.texts), "incidents": list(self.incidents)}


@dataclass(frozen=True, kw_only=True)
class Erasure:
    """The tombstone of a clip.

    Attributes:
        clip_id: The clip; never used again.
        begun_at: When nothing of it could be made, read or delivered any more (UTC).
        completed_at: When nothing of it was left (UTC); ``None`` while something is left to do.
        actor: Who.
        reason: Why.
        removed: How much was removed, by kind.
        deliveries: Versions of deliveries that held it.
        pending: What is left to find; ``None`` when that was forgotten.
    """

    clip_id: str
    begun_at: dt.datetime
    completed_at: dt.datetime | None
    actor: str
    reason: str
    removed: Mapping[str, int] = field(default_factory=dict)
    deliveries: tuple[AffectedDelivery, ...] = ()
    pending: Leftover | None = None

    def as_dict(self) -> dict[str, Any]:
        """The tombstone for ``--json``, without what is to be forgotten."""
        described = asdict(self)
        del described["pending"]
        return described
