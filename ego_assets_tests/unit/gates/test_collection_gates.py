"""An incident that is open warns, and one that is open for more than a day fails."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ego_assets.gates.collection import INCIDENTS_RESOLVED, is_overdue, judge_incidents
from ego_assets.schema.gates import GateOutcome
from ego_assets.schema.incidents import Incident

NOW = dt.datetime(2026, 3, 29, 12, tzinfo=dt.UTC)


def incident(*, hours: float, resolved: bool = False, number: int = 1) -> Incident:
    opened = NOW - dt.timedelta(hours=hours)
    return Incident(
        id=number,
        clip_id="clip",
        kind="faces",
        first_frame=0,
        last_frame=1,
        box_xyxy=None,
        note="",
        background=False,
        layers=(),
        quarantined=(),
        deliveries=(),
        opened_at=opened,
        opened_by="someone",
        resolved_at=opened + dt.timedelta(hours=1) if resolved else None,
    )


@pytest.mark.parametrize(
    ("hours", "outcome"),
    [(0.0, GateOutcome.WARNED), (24.0, GateOutcome.WARNED), (24.001, GateOutcome.FAILED)],
)
def test_the_limit_is_a_day(hours: float, outcome: GateOutcome) -> None:
    verdict = judge_incidents([incident(hours=hours)], now=NOW)
    assert verdict.outcome is outcome
    assert verdict.value == pytest.approx(hours)
    assert not verdict.blocks


def test_nothing_open_passes() -> None:
    assert judge_incidents([], now=NOW).outcome is GateOutcome.PASSED
    assert judge_incidents([incident(hours=99, resolved=True)], now=NOW).outcome is GateOutcome.PASSED


def test_the_message_names_the_overdue_ones_only() -> None:
    verdict = judge_incidents([incident(hours=1, number=41), incident(hours=30, number=52)], now=NOW)
    assert "52" in verdict.message and "41" not in verdict.message
    assert set(verdict.details) == {"incident 41", "incident 52"}


@given(ages=st.lists(st.floats(0, 1000), max_size=5), resolved=st.lists(st.booleans(), min_size=5))
def test_one_overdue_incident_decides(ages: list[float], resolved: list[bool]) -> None:
    made = [incident(hours=age, resolved=resolved[n], number=n) for n, age in enumerate(ages)]
    overdue = [item for item in made if is_overdue(item, NOW)]
    verdict = judge_incidents(made, now=NOW)
    assert (verdict.outcome is GateOutcome.FAILED) == bool(overdue)
    assert (verdict.outcome is GateOutcome.PASSED) == all(item.resolved_at for item in made)
    assert INCIDENTS_RESOLVED.limit == 24
