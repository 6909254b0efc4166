"""The record of incidents: every step once, in order, and what it means for the clip."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest

from ego_assets.schema.clip import Clip
from ego_assets.schema.errors import UnknownClip
from ego_assets.schema.gates import GateSpec
from ego_assets.schema.incidents import (
    INCIDENT_WITHDRAWAL,
    AffectedDelivery,
    IncidentState,
    QuarantinedVersion,
)
from resources.database import Database
from resources.incidents import IncidentError, IncidentLog

DATABASES = ("sqlite", "postgres")


@pytest.fixture
def clip(database: Database, new_clip: Callable[..., Clip]) -> Clip:
    made = new_clip()
    database.add_clip(made)
    return made


def add(log: IncidentLog, clip_id: str) -> int:
    return log.add(
        clip_id,
        kind="faces",
        first_frame=3,
        last_frame=9,
        box_xyxy=(1.0, 2.0, 3.5, 4.0),
        note="a face",
        layers=["blurred_video", "frames"],
        background=True,
        actor="someone",
    )


VERSION = QuarantinedVersion(layer="frames", version_id="0" * 16, data_version="0" * 64)
DELIVERY = AffectedDelivery(name="dataset", version="v0001")


def test_an_incident_goes_through_its_states_and_keeps_their_times(database: Database, clip: Clip) -> None:
    log = IncidentLog(database)
    number = add(log, clip.clip_id)
    made = log.incident(number)
    assert (made.state, made.box_xyxy, made.layers) == (
        IncidentState.OPEN,
        (1.0, 2.0, 3.5, 4.0),
        ("blurred_video", "frames"),
    )
    quarantined = log.record_quarantined(number, versions=[VERSION], deliveries=[DELIVERY])
    again = log.record_quarantined(number, versions=[VERSION], deliveries=[])
    assert quarantined == again, "said twice, it is on record once, with its first time"
    assert again.state is IncidentState.QUARANTINED
    assert (again.quarantined, again.deliveries) == ((VERSION,), (DELIVERY,))
    assert log.record_corrected(number).state is IncidentState.CORRECTED
    assert log.record_purged(number).purged_at is not None
    done = log.record_resolved(number, resolution="all is covered", actor="someone else")
    assert (done.state, done.resolution, done.resolved_by) == (
        IncidentState.RESOLVED,
        "all is covered",
        "someone else",
    )
    assert log.incidents(unresolved_only=True) == []
    assert log.incidents(clip_id=clip.clip_id) == [done]
    assert done.as_dict()["state"] == "resolved"


def test_no_step_comes_before_its_turn(database: Database, clip: Clip) -> None:
    log = IncidentLog(database)
    number = add(log, clip.clip_id)
    for step in (log.record_corrected, log.record_purged):
        with pytest.raises(IncidentError, match=f"Incident {number}"):
            step(number)
    log.record_quarantined(number, versions=[], deliveries=[])
    with pytest.raises(IncidentError, match="not purged"):
        log.record_resolved(number, resolution="too early", actor="someone")
    assert log.incident(number).state is IncidentState.QUARANTINED


def test_unknown_incidents_and_clips_are_named(database: Database) -> None:
    log = IncidentLog(database)
    with pytest.raises(IncidentError, match="no incident 7"):
        log.incident(7)
    with pytest.raises(IncidentError, match="no incident 7"):
        log.record_corrected(7)
    with pytest.raises(UnknownClip):
        add(log, str(uuid.uuid4()))


def test_a_clip_is_processed_only_when_an_incident_withdrew_it_and_its_leak_is_in_quarantine(
    database: Database, clip: Clip
) -> None:
    log = IncidentLog(database)
    reason = f"{INCIDENT_WITHDRAWAL} 1"

    def refusal() -> str | None:
        return database.refusal(clip.clip_id, inputs=[])

    database.update_clip(clip.clip_id, withdrawn=True, withdrawn_reason=reason)
    assert "withdrawn" in (refusal() or ""), "the words alone open nothing"
    number = add(log, clip.clip_id)
    assert "not all in quarantine" in (refusal() or "")
    assert database.open_incident(clip.clip_id, leaking_only=True) == number
    assert database.standing(clip.clip_id).is_stopped
    log.record_quarantined(number, versions=[], deliveries=[])
    assert refusal() is None
    assert database.open_incident(clip.clip_id, leaking_only=True) is None
    assert database.open_incident(clip.clip_id) == number
    standing = database.standing(clip.clip_id)
    assert not standing.is_stopped and not standing.withdrawn
    database.update_clip(clip.clip_id, withdrawn_reason="the collector asked for it")
    assert "the collector asked" in (refusal() or "")
    standing = database.standing(clip.clip_id)
    assert standing.is_stopped and standing.withdrawn


def test_forgotten_layers_count_as_never_run(database: Database, clip: Clip) -> None:
    fit = GateSpec(name="fit", description="", blocking=True)
    for layer in ("frames", "manifest"):
        database.record_gates(clip.clip_id, layer, [fit.passed("Fine.")], data_version="1", run_id="")
        database.record_layer_state(clip.clip_id, layer, "committed")
        database.refresh_progress(
            clip.clip_id, layer=layer, bit=0 if layer == "frames" else None, present=True
        )
    assert database.clip(clip.clip_id).completeness == 1
    database.forget_layers(clip.clip_id, {"frames": 0})
    assert {gate.layer for gate in database.gates(clip.clip_id)} == {"manifest"}
    assert {state.layer for state in database.layer_states(clip.clip_id)} == {"manifest"}
    assert database.clip(clip.clip_id).completeness == 0
