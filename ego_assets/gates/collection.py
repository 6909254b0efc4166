"""Gates over the whole collection that are no statistics: what people have to answer in time."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from ego_assets.schema.gates import GateResult, GateSpec
from ego_assets.schema.incidents import Incident, IncidentState

INCIDENTS_RESOLVED = GateSpec(
    name="incidents_resolved",
    description=(
        "Every privacy incident is resolved within a day: what leaked is in quarantine, the clip was made anew, "
        "and a person has looked at it."
    ),
    threshold=24,
    unit="hours since an incident was opened",
    source="collection guide, pitfalls: privacy",
)


def is_overdue(incident: Incident, now: dt.datetime) -> bool:
    """Whether an incident is unresolved for longer than the gate allows."""
    return incident.state is not IncidentState.RESOLVED and incident.age_h(now) > INCIDENTS_RESOLVED.limit


def judge_incidents(incidents: Sequence[Incident], *, now: dt.datetime) -> GateResult:
    """Judge the incidents of a collection; the value is the age of the oldest unresolved one.

    Args:
        incidents: All incidents, or all that are unresolved.
        now: The present moment, with its time zone.
    """
    waiting = [item for item in incidents if item.state is not IncidentState.RESOLVED]
    if not waiting:
        return INCIDENTS_RESOLVED.passed("No privacy incident is open.", value=0.0)
    oldest_h = max(item.age_h(now) for item in waiting)
    details: dict[str, object] = {
        f"incident {item.id}": {
            "clip_id": item.clip_id,
            "state": item.state.value,
            "age_h": round(item.age_h(now), 2),
        }
        for item in waiting
    }
    overdue = [item for item in waiting if is_overdue(item, now)]
    if overdue:
        names = ", ".join(f"{item.id} ({item.state.value}, {item.age_h(now):.1f} h)" for item in overdue)
        return INCIDENTS_RESOLVED.failed(
            f"Unresolved for more than {INCIDENTS_RESOLVED.limit:g} h: incident {names}. What is left to do, says "
            "`ego-assets incident list`.",
            value=oldest_h,
            **details,
        )
    return INCIDENTS_RESOLVED.warned(
        f"{len(waiting)} privacy incident(s) open, the oldest for {oldest_h:.1f} h. What is left to do, says "
        "`ego-assets incident list`.",
        value=oldest_h,
        **details,
    )
