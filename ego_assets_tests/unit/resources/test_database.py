from __future__ import annotations

import dataclasses
import datetime as dt
import math
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from ego_assets.schema.artifact import ArtifactDocument, FileEntry
from ego_assets.schema.clip import Clip
from ego_assets.schema.detections import BackendInfo
from ego_assets.schema.errors import ConfigurationError, TransientError, UnknownClip
from ego_assets.schema.gates import GateOutcome, GateSpec
from ego_assets.schema.vocabulary import (
    ConsentScope,
    LocationType,
    PrivacyStatus,
    ProcessingStatus,
    ReviewKind,
    ReviewRisk,
    SourceCamera,
)
from resources import database as module
from resources.database import (
    SCHEMA_REVISION,
    Base,
    ClipExists,
    ClipRow,
    Database,
    DeliveryExists,
    ReviewItemError,
    ReviewStatus,
)

ROOT = Path(__file__).resolve().parents[3]
DATABASES = ("sqlite", "postgres")
NewClip = Callable[..., Clip]

BLOCKING = GateSpec(name="parses", description="", blocking=True, threshold=1.0, unit="count")
WARNING = GateSpec(name="sharp", description="")


def document(clip_id: str, layer: str = "frames", version: str = "a" * 16) -> ArtifactDocument:
    return ArtifactDocument(
        clip_id=clip_id,
        layer=layer,
        data_version=version * 4,
        version_id=version,
        files=(
            FileEntry(name="a.bin", bytes=3, sha256="0" * 64),
            FileEntry(name="b.bin", bytes=4, sha256="1" * 64),
        ),
        config={},
        config_digest="c" * 64,
        inputs={},
        backends=(BackendInfo(task="faces", backend="centerface", model="CenterFace"),),
        committed_at=dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC).isoformat(),
    )


def add(database: Database, clip: Clip) -> str:
    database.add_clip(clip)
    return clip.clip_id


# --- schema ---


@pytest.mark.filterwarnings("ignore:Did not recognize type 'vector'")
def test_upgrade_makes_what_the_models_describe(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
        assert context.get_current_revision() == SCHEMA_REVISION


def test_the_constant_names_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(ROOT / "resources" / "migrations"))
    assert ScriptDirectory.from_config(config).get_current_head() == SCHEMA_REVISION


def test_downgrade_to_base_and_up_again(database: Database, new_clip: NewClip) -> None:
    clip_id = add(database, new_clip())
    database.record_gates(clip_id, "raw_clip", [BLOCKING.passed("fine")], data_version="", run_id="")
    database.write_audit(actor="test", action="look", clip_id=clip_id)
    database.downgrade("base")
    with pytest.raises(ConfigurationError, match="no tables"):
        database.clips()
    database.upgrade()
    assert database.clips() == []
    add(database, new_clip())


def test_several_threads_and_processes_upgrade_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new' / 'm.db'}"
    code = f"from resources.database import Database; Database({url!r}).upgrade()"
    processes = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for _ in range(2)]
    errors: list[BaseException] = []

    def upgrade() -> None:
        try:
            Database(url).upgrade()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=upgrade) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [process.wait(60) for process in processes] == [0, 0]
    assert Database(url).clips() == []


def test_upgrade_does_not_touch_a_database_that_is_up_to_date(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Database, "_migrate", lambda *_: pytest.fail("migrated again"))
    database.upgrade()


def test_a_database_of_a_newer_version_is_refused(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigurationError, match=r"newer version.*Dagster"):
        database.upgrade()


def test_a_failed_upgrade_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alembic import command

    path = tmp_path / "m.db"
    database = Database(f"sqlite:///{path}")
    complete = command.upgrade

    def fail_at_the_end(config: Config, revision: str) -> None:
        complete(config, revision)
        raise OSError("power failure")

    monkeypatch.setattr(command, "upgrade", fail_at_the_end)
    with pytest.raises(OSError, match="power failure"):
        database.upgrade()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []


def test_sqlite_is_set_up(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'm.db'}")
    database.upgrade()
    with database.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 30_000


# --- urls ---


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://user:secret@host/name", "postgresql+psycopg2://user:***@host/name"),
        ("postgresql+psycopg2://user@host/name", "postgresql+psycopg2://user@host/name"),
        ("sqlite:////data/m.db", "sqlite:////data/m.db"),
        (
            "postgresql://host/name?user=u&password=secret&sslmode=require",
            "postgresql+psycopg2://host/name?password=***&sslmode=require&user=u",
        ),
    ],
)
def test_urls(url: str, expected: str) -> None:
    assert Database(url).url == expected


@pytest.mark.parametrize("url", ["", "nonsense", "sqlite://", "sqlite:///:memory:", "mysql://host/name"])
def test_unusable_urls(url: str) -> None:
    with pytest.raises(ConfigurationError, match="EGO_DATABASE_URL"):
        Database(url)


def test_a_relative_path_means_the_same_after_a_change_of_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    database = Database("sqlite:///inner/m.db")
    monkeypatch.chdir("/")
    database.upgrade()
    assert (tmp_path / "inner" / "m.db").is_file()


def test_a_database_that_cannot_be_opened_is_worth_retrying(tmp_path: Path) -> None:
    (tmp_path / "m.db").mkdir()
    with pytest.raises(TransientError, match=r"m\.db"):
        Database(f"sqlite:///{tmp_path / 'm.db'}").upgrade()


# --- clips ---


def test_columns_are_the_fields_of_a_clip() -> None:
    own = [f.name for f in dataclasses.fields(Clip)]
    # The mark of an erased clip, which nobody outside the database sees, is no field of a clip.
    assert [c.name for c in ClipRow.__table__.columns] == [*own, "erased_at"]


def test_every_field_survives(database: Database, new_clip: NewClip) -> None:
    clip = new_clip(
        source_name="Küche 台所 😀.mp4",
        source_camera=SourceCamera.ARIA,
        collector_id="c'01; --",
        recording_date=dt.date(2026, 2, 3),
        location_type=LocationType.KITCHEN,
        activity_category="cooking",
        consent_scope=ConsentScope.COMMERCIAL,
        licence="CC-BY-4.0",
        camera_intrinsics={"fx": 1.5, "名": [1, 2]},
        recording_id="day/GX0001",
        chapter=2,
        upload_uri="file:///a%20b",
        raw_key="originals/x",
        raw_sha256="f" * 64,
        raw_bytes=5_000_000_000,
        duration_s=1.25,
        width=1920,
        height=1080,
        fps=29.97,
        frame_count=300,
        rotation_deg=90,
        privacy_status=PrivacyStatus.BLURRED,
        processing_status=ProcessingStatus.INGESTED,
        failed=True,
        failed_reason="f",
        needs_review=True,
        needs_review_reason="n",
        withdrawn=True,
        withdrawn_reason="w",
        held=True,
        held_reason="h",
        duplicate_of="d",
        quality_score=0.5,
        quality_confidence=0.25,
        score_version="1",
        completeness=257,
        created_at=dt.datetime(2026, 1, 1, 12, 30, 15, 123456, tzinfo=dt.timezone(dt.timedelta(hours=5))),
    )
    defaults = Clip(clip_id=clip.clip_id, source_name="")
    assert all(
        getattr(clip, f.name) != getattr(defaults, f.name)
        for f in dataclasses.fields(Clip)
        if f.name != "clip_id"
    )
    database.add_clip(clip)
    stored = database.clip(clip.clip_id)
    assert stored == clip
    assert stored.created_at.utcoffset() == dt.timedelta(0)
    assert isinstance(stored.source_camera, SourceCamera)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    name=st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0")),
    size=st.integers(0, 2**60),
)
def test_any_text_and_size_survives(database: Database, new_clip: NewClip, name: str, size: int) -> None:
    clip_id = add(database, new_clip(source_name=name, raw_bytes=size))
    assert (database.clip(clip_id).source_name, database.clip(clip_id).raw_bytes) == (name, size)


def test_what_no_database_can_keep_is_replaced(database: Database, new_clip: NewClip) -> None:
    # A NUL from a sidecar, and half a surrogate pair from a file name that is not UTF-8.
    clip_id = add(database, new_clip(activity_category="a\0b", source_name="clip\udcff.mp4"))
    clip = database.clip(clip_id)
    assert (clip.activity_category, clip.source_name) == ("a\ufffdb", "clip\ufffd.mp4")
    database.update_clip(clip_id, failed_reason="\ud800\0")
    database.record_layer_state(clip_id, "frames", "failed", reason="no \0")
    database.record_gates(
        clip_id, "frames", [BLOCKING.failed("not \udcff", said="\udcff")], data_version="", run_id=""
    )
    ask(database, clip_id, reason="\0", details={"name": "\0\udcff"})
    database.write_audit(actor="t", action="a", detail="\0")
    assert database.clip(clip_id).failed_reason == "\ufffd\ufffd"
    assert database.layer_states(clip_id)[0].reason == "no \ufffd"
    assert database.gates(clip_id)[0].message == "not \ufffd"
    assert database.audit_log()[0].detail == "\ufffd"
    assert database.clip_with_upload("\0") is None


def test_a_clip_id_is_used_once(database: Database, new_clip: NewClip) -> None:
    clip = new_clip()
    database.add_clip(clip)
    with pytest.raises(ClipExists, match=clip.clip_id):
        database.add_clip(clip)


def test_a_taken_id_does_not_spoil_the_transaction_around_it(database: Database, new_clip: NewClip) -> None:
    clip, other = new_clip(), new_clip()
    with database.transaction():
        database.add_clip(clip)
        database.write_audit(actor="t", action="before")
        with pytest.raises(ClipExists):
            database.add_clip(clip)
        database.add_clip(other)
    assert {found.clip_id for found in database.clips()} == {clip.clip_id, other.clip_id}
    assert [entry.action for entry in database.audit_log()] == ["before"]


@pytest.mark.parametrize("clip_id", ["", "x", "../../etc", "3B241101-E2BB-4255-8CAF-4136C566A962"])
def test_malformed_ids_are_refused(database: Database, new_clip: NewClip, clip_id: str) -> None:
    with pytest.raises(ValueError, match="clip_id"):
        database.add_clip(new_clip(clip_id=clip_id))


def test_unknown_clips(database: Database, new_clip: NewClip) -> None:
    missing = new_clip().clip_id
    assert database.find_clip(missing) is None
    for call in (
        lambda: database.clip(missing),
        lambda: database.update_clip(missing, chapter=1),
        lambda: database.refusal(missing, inputs=[]),
        lambda: database.record_gates(missing, "raw_clip", [], data_version="", run_id=""),
        lambda: database.record_layer_state(missing, "raw_clip", "failed"),
        lambda: database.add_review_item(
            missing, layer="x", kind=ReviewKind.PII_LEAK, risk=ReviewRisk.HIGH, reason="r"
        ),
    ):
        with pytest.raises(UnknownClip, match=missing):
            call()


def test_clips_come_in_the_order_of_registration(database: Database, new_clip: NewClip) -> None:
    moment = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    late = add(database, new_clip(created_at=moment + dt.timedelta(days=1), collector_id="a"))
    early = add(database, new_clip(created_at=moment, collector_id="b"))
    assert [clip.clip_id for clip in database.clips()] == [early, late]
    assert [clip.clip_id for clip in database.clips(collector_id="a")] == [late]


def test_update(database: Database, new_clip: NewClip) -> None:
    before = new_clip()
    database.add_clip(before)
    after = database.update_clip(
        before.clip_id,
        width=np.int64(640),
        fps=np.float32(30.0),
        failed=np.bool_(True),
        privacy_status="blurred",
        quality_score=math.nan,
    )
    assert (after.width, after.fps, after.failed) == (640, 30.0, True)
    assert after.privacy_status is PrivacyStatus.BLURRED
    assert after.quality_score is None
    assert after.updated_at > before.updated_at
    assert after == database.clip(before.clip_id)


@pytest.mark.parametrize(
    "change",
    [
        {"colour": "red"},
        {"created_at": dt.datetime.now(dt.UTC)},
        {"privacy_status": "hidden"},
        {"width": "640"},
        {"failed": 1},
        {"failed_reason": None},
        {"recording_date": "2026-01-01"},
    ],
)
def test_wrong_updates_change_nothing(
    database: Database, new_clip: NewClip, change: dict[str, object]
) -> None:
    clip = new_clip()
    database.add_clip(clip)
    with pytest.raises(ValueError, match=next(iter(change))):
        database.update_clip(clip.clip_id, chapter=3, **change)
    assert database.clip(clip.clip_id) == clip


def test_clip_with_digest_is_the_earliest_that_is_no_duplicate(database: Database, new_clip: NewClip) -> None:
    moment = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    digest = "a" * 64
    add(database, new_clip(raw_sha256=digest, created_at=moment, duplicate_of="x"))
    add(database, new_clip(raw_sha256=digest, created_at=moment + dt.timedelta(2)))
    first = add(database, new_clip(raw_sha256=digest, created_at=moment + dt.timedelta(1)))
    found = database.clip_with_digest(digest)
    assert found is not None and found.clip_id == first
    assert database.clip_with_digest("b" * 64) is None
    add(database, new_clip())
    assert database.clip_with_digest("") is None


def test_clip_with_upload(database: Database, new_clip: NewClip) -> None:
    clip_id = add(database, new_clip(upload_uri="file:///a.mp4"))
    found = database.clip_with_upload("file:///a.mp4")
    assert found is not None and found.clip_id == clip_id
    assert database.clip_with_upload("file:///b.mp4") is None


def test_of_several_clips_with_one_content_exactly_one_gets_it(database: Database, new_clip: NewClip) -> None:
    clip_ids = [add(database, new_clip()) for _ in range(4)]
    threads = [
        threading.Thread(
            target=database.record_original,
            args=(clip_id,),
            kwargs={"raw_key": f"originals/{clip_id}", "raw_sha256": "e" * 64, "raw_bytes": 7},
        )
        for clip_id in clip_ids
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    clips = database.clips()
    owners = [clip.clip_id for clip in clips if clip.raw_sha256]
    assert len(owners) == 1
    assert {clip.duplicate_of for clip in clips if clip.clip_id not in owners} == set(owners)


# --- gates, layers, artifacts ---


def test_the_latest_verdict_of_a_gate_counts(database: Database, new_clip: NewClip) -> None:
    clip_id = add(database, new_clip())
    database.record_gates(
        clip_id,
        "clip_quality",
        [
            BLOCKING.failed("two of three", value=np.float64(0.5), numbers=[1.0, math.nan]),
            WARNING.warned("soft"),
        ],
        data_version="v1",
        run_id="r1",
    )
    database.record_gates(
        clip_id, "clip_quality", [BLOCKING.passed("all", value=1)], data_version="v2", run_id="r2"
    )
    parses, sharp = database.gates(clip_id)
    assert (parses.gate, parses.outcome, parses.value, parses.data_version, parses.run_id) == (
        "parses",
        GateOutcome.PASSED,
        1.0,
        "v2",
        "r2",
    )
    assert (parses.blocking, parses.threshold, parses.unit, parses.blocks) == (True, 1.0, "count", False)
    assert (sharp.outcome, sharp.data_version) == (GateOutcome.WARNED, "v1")
    assert database.gates(clip_id, "frames") == []
    assert len(database.gates(layer="clip_quality")) == 2


def test_details_that_are_no_json_are_stored_as_json(database: Database, new_clip: NewClip) -> None:
    clip_id = add(database, new_clip())
    details = {
        "array": np.arange(2),
        "scalar": np.float32(0.5),
        "nan": math.nan,
        "path": Path("a"),
        "set": {1},
    }
    database.record_gates(clip_id, "frames", [WARNING.passed("", **details)], data_version="", run_id="")
    (gate,) = database.gates(clip_id)
    assert gate.details == {"array": [0, 1], "scalar": 0.5, "nan": None, "path": "a", "set": [1]}


def test_replacing_a_layers_gates_drops_those_it_no_longer_has(database: Database, new_clip: NewClip) -> None:
    clip_id = add(database, new_clip())
    both = [BLOCKING.failed("no"), WARNING.passed("yes")]
    database.record_gates(clip_id, "clip_quality", both, data_version="", run_id="")
    database.record_gates(clip_id, "frames", both, data_version="", run_id="")
    database.record_gates(
        clip_id, "clip_quality", [WARNING.passed("yes")], data_version="", run_id="", replace_layer=True
    )
    assert [(gate.layer, gate.gate) for gate in database.gates()] == [
        ("clip_quality", "sharp"),
        ("frames", "parses"),
        ("frames", "sharp"),
    ]


def test_layer_states(database: Database, new_clip: NewClip) -> None:
    clip_id = add(database, new_clip())
    database.record_layer_state(clip_id, "frames", "failed", reason="no space", attempts=3, run_id="r")
    database.record_layer_state(clip_id, "frames", "committed", duration_s=1.5)
    database.record_layer_state(clip_id, "raw_clip", "committed")
    frames, raw = database.layer_states(clip_id)
    assert (frames.state, frames.reason, frames.attempts, frames.duration_s) == ("committed", "", 1, 1.5)
    assert (raw.layer, raw.duration_s) == ("raw_clip", None)


def test_one_artifact_version_is_current(database: Database, new_clip: NewClip) -> None:
    clip_id = new_clip().clip_id
    for version in ("a" * 16, "b" * 16, "a" * 16):
        database.record_artifact(document(clip_id, version=version), uri=f"/store/{version}")
    (current,) = database.artifacts(clip_id)
    assert (current.version_id, current.bytes, current.current) == ("a" * 16, 7, True)
    assert current.backends[0]["model"] == "CenterFace"
    assert current.committed_at == dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC)
    assert len(database.artifacts(clip_id, current_only=False)) == 2


def test_the_index_of_artifacts_can_be_rebuilt(database: Database, new_clip: NewClip) -> None:
    database.record_artifact(document(new_clip().clip_id), uri="/gone")
    clip_ids = {new_clip().clip_id for _ in range(600)}
    assert database.replace_artifact_index([(document(clip_id), "/store") for clip_id in clip_ids]) == 600
    assert {artifact.clip_id for artifact in database.artifacts()} == clip_ids
    assert database.replace_artifact_index([]) == 0
    assert database.artifacts() == []


def test_progress_is_derived(database: Database, new_clip: NewClip) -> None:
    clip_id = add(database, new_clip())
    gate = GateSpec(name="complete", description="", blocking=True)
    database.record_artifact(document(clip_id, "raw_clip"), uri="/a")
    database.refresh_progress(clip_id, layer="raw_clip", bit=None, present=True)
    assert database.clip(clip_id).processing_status is ProcessingStatus.INGESTED
    assert database.clip(clip_id).completeness == 0

    database.record_artifact(document(clip_id, "frames"), uri="/b")
    for verdict, expected in (
        (gate.passed("yes"), 1),
        (gate.not_evaluated("no text encoder"), 0),
        (gate.passed("yes"), 1),
        (gate.failed("no"), 0),
    ):
        database.record_gates(clip_id, "frames", [verdict], data_version="", run_id="")
        clip = database.refresh_progress(clip_id, layer="frames", bit=0, present=True)
        assert clip.completeness == expected
    assert clip.processing_status is ProcessingStatus.FRAMES_EXTRACTED

    database.record_gates(clip_id, "captions", [], data_version="", run_id="")
    assert database.refresh_progress(clip_id, layer="captions", bit=5, present=True).completeness == 32
    assert database.refresh_progress(clip_id, layer="captions", bit=5, present=False).completeness == 0


# --- refusals ---


def test_a_clip_that_passed_may_go_on(database: Database, new_clip: NewClip) -> None:
    clip_id = add(database, new_clip())
    assert database.refusal(clip_id, inputs=["raw_clip"]) is None
    verdicts = [BLOCKING.passed("fine"), WARNING.failed("soft, but does not block")]
    database.record_gates(clip_id, "raw_clip", verdicts, data_version="", run_id="")
    assert database.refusal(clip_id, inputs=["raw_clip"]) is None


def test_a_failed_blocking_gate_of_an_input_stops_a_clip(database: Database, new_clip: NewClip) -> None:
    clip_id = add(database, new_clip())
    database.record_gates(
        clip_id, "clip_quality", [BLOCKING.failed("The file ends after 2 s")], data_version="", run_id=""
    )
    refusal = database.refusal(clip_id, inputs=["raw_clip", "clip_quality"])
    assert refusal is not None
    for part in (
        clip_id,
        "parses of clip_quality",
        "The file ends after 2 s.",
        "materialize clip_quality again",
    ):
        assert part in refusal
    assert database.refusal(clip_id, inputs=["raw_clip"]) is None


def test_a_blocking_gate_that_was_not_evaluated_does_not_stop_a_clip(
    database: Database, new_clip: NewClip
) -> None:
    clip_id = add(database, new_clip())
    database.record_gates(
        clip_id, "captions", [BLOCKING.not_evaluated("no encoder")], data_version="", run_id=""
    )
    assert database.refusal(clip_id, inputs=["captions"]) is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"withdrawn": True, "withdrawn_reason": "consent revoked"}, "was withdrawn (consent revoked)"),
        ({"withdrawn": True}, "was withdrawn."),
        ({"duplicate_of": "the-first"}, "same content as clip the-first"),
        ({"held": True, "held_reason": "dark"}, "is held (dark)"),
    ],
)
def test_state_that_stops_a_clip(
    database: Database, new_clip: NewClip, changes: dict[str, object], expected: str
) -> None:
    clip_id = add(database, new_clip())
    database.update_clip(clip_id, **changes)
    refusal = database.refusal(clip_id, inputs=[])
    assert refusal is not None and expected in refusal and clip_id in refusal


def test_a_held_clip_may_run_what_comes_before_enrichment(database: Database, new_clip: NewClip) -> None:
    clip_id = add(database, new_clip(held=True))
    assert database.refusal(clip_id, inputs=[], held_stops=False) is None
    database.update_clip(clip_id, withdrawn=True)
    assert database.refusal(clip_id, inputs=[], held_stops=False) is not None


# --- reviews ---


def ask(database: Database, clip_id: str, **changes: object) -> int:
    values: dict[str, object] = {
        "layer": "blurred_video",
        "kind": ReviewKind.PII_DENSITY,
        "risk": ReviewRisk.NORMAL,
        "reason": "many faces",
        **changes,
    }
    return database.add_review_item(clip_id, **values)  # type: ignore[arg-type]


def test_an_equal_open_item_is_updated(database: Database, new_clip: NewClip) -> None:
    clip_id = add(database, new_clip())
    first = ask(database, clip_id)
    assert ask(database, clip_id, reason="more faces", risk=ReviewRisk.HIGH, details={"n": 3}) == first
    assert ask(database, clip_id, reason="fewer faces") == first
    (item,) = database.review_items()
    assert (item.reason, item.details, item.status) == ("fewer faces", {}, ReviewStatus.OPEN)
    assert item.risk is ReviewRisk.HIGH, "asking again must not let the clip into deliveries"
    others = {
        ask(database, clip_id, kind=ReviewKind.PII_LEAK),
        ask(database, clip_id, layer="captions"),
        ask(database, add(database, new_clip())),
    }
    assert first not in others and len(others) == 3


def test_resolving_clears_the_clip_when_nothing_is_open(database: Database, new_clip: NewClip) -> None:
    clip_id = add(database, new_clip())
    first, second = ask(database, clip_id), ask(database, clip_id, kind=ReviewKind.PII_LEAK, reason="leak")
    clip = database.clip(clip_id)
    assert (clip.needs_review, clip.needs_review_reason) == (True, "leak")
    database.resolve_review_item(second, resolution="blurred", actor="anna")
    clip = database.clip(clip_id)
    assert (clip.needs_review, clip.needs_review_reason) == (True, "many faces")
    item = database.resolve_review_item(first, resolution="fine", actor="anna")
    assert (item.status, item.resolution, item.resolved_by) == (ReviewStatus.RESOLVED, "fine", "anna")
    assert item.resolved_at is not None and item.resolved_at >= item.created_at
    clip = database.clip(clip_id)
    assert (clip.needs_review, clip.needs_review_reason) == (False, "")
    assert database.review_items(status=ReviewStatus.OPEN) == []
    assert ask(database, clip_id) not in (first, second), "a resolved item is not opened again"


def test_a_random_audit_marks_a_clip_only_once_something_was_found(
    database: Database, new_clip: NewClip
) -> None:
    clip_id = add(database, new_clip())
    number = ask(database, clip_id, kind=ReviewKind.RANDOM_AUDIT, risk=ReviewRisk.NORMAL)
    assert not database.clip(clip_id).needs_review
    assert ask(database, clip_id, kind=ReviewKind.RANDOM_AUDIT, risk=ReviewRisk.HIGH) == number
    assert database.clip(clip_id).needs_review
    database.resolve_review_item(number, resolution="covered", actor="anna")
    assert not database.clip(clip_id).needs_review


def test_items_are_resolved_once(database: Database, new_clip: NewClip) -> None:
    item = ask(database, add(database, new_clip()))
    database.resolve_review_item(item, resolution="fine", actor="anna")
    with pytest.raises(ReviewItemError, match="anna"):
        database.resolve_review_item(item, resolution="not fine", actor="ben")
    with pytest.raises(ReviewItemError, match="no review item 4711"):
        database.resolve_review_item(4711, resolution="", actor="ben")


def test_a_layer_that_passes_closes_its_failures_only(database: Database, new_clip: NewClip) -> None:
    clip_id = add(database, new_clip())
    ask(database, clip_id, kind=ReviewKind.LAYER_FAILED)
    ask(database, clip_id, kind=ReviewKind.GATE_FAILED)
    leak = ask(database, clip_id, kind=ReviewKind.PII_LEAK, reason="leak")
    other = ask(database, clip_id, kind=ReviewKind.GATE_FAILED, layer="clip_quality", reason="dark")
    assert database.close_layer_reviews(clip_id, "blurred_video") == 2
    assert {item.id for item in database.review_items(status="open")} == {leak, other}
    assert database.clip(clip_id).needs_review_reason == "dark"
    assert database.close_layer_reviews(clip_id, "blurred_video") == 0


# --- audit, deliveries ---


def test_the_audit_log_keeps_what_is_written(database: Database, new_clip: NewClip) -> None:
    clip_id = new_clip().clip_id
    database.write_audit(
        actor="anna", action="look", purpose="review", clip_id=clip_id, detail="é", run_id="r"
    )
    database.write_audit(actor="ben", action="list")
    entry = database.audit_log(clip_id)[0]
    assert (entry.actor, entry.action, entry.purpose, entry.detail, entry.run_id) == (
        "anna",
        "look",
        "review",
        "é",
        "r",
    )
    assert [e.actor for e in database.audit_log()] == ["anna", "ben"]
    with pytest.raises(ValueError, match="actor"):
        database.write_audit(actor="", action="look")


def test_the_audit_log_is_filtered_by_the_database(database: Database, new_clip: NewClip) -> None:
    clip_id = new_clip().clip_id
    for actor, action in (("cli:anna", "vault.open"), ("cli:ben", "review_open"), ("asset:x", "vault%open")):
        database.write_audit(actor=actor, action=action, clip_id=clip_id)

    def actions(**filters: Any) -> list[str]:
        return [entry.action for entry in database.audit_log(**filters)]

    assert actions(actor="ANNA") == ["vault.open"] and actions(actor="cli:") == ["vault.open", "review_open"]
    assert actions(action="w_o") == ["review_open"] and actions(action="%") == ["vault%open"]
    assert actions(clip_id=clip_id, actor="ben", action="open") == ["review_open"]
    second = database.audit_log()[1].at
    assert actions(since=second) == ["review_open", "vault%open"]
    assert actions(since=second.astimezone(dt.timezone(dt.timedelta(hours=5)))) == [
        "review_open",
        "vault%open",
    ]
    assert actions(since=second + dt.timedelta(days=1)) == []


def test_names_are_those_of_the_clips_asked_for(database: Database, new_clip: NewClip) -> None:
    first, second = new_clip(), new_clip()
    add(database, first)
    add(database, second)
    assert database.source_names([first.clip_id, "", "unknown"]) == {first.clip_id: first.source_name}
    assert database.source_names([]) == {}


@pytest.mark.parametrize("statement", ["DELETE FROM audit_log", "UPDATE audit_log SET actor = 'x'"])
def test_the_audit_log_cannot_be_changed(database: Database, statement: str) -> None:
    database.write_audit(actor="anna", action="look")
    with pytest.raises(DBAPIError, match="append-only"), database.engine.begin() as connection:
        connection.execute(text(statement))
    assert [entry.actor for entry in database.audit_log()] == ["anna"]


def deliver(database: Database, clips: dict[str, dict[str, str]], version: str = "1") -> int:
    return database.add_delivery(
        name="pilot", version=version, uri="/d", definition={"layers": ["frames"]}, bytes=9, clips=clips
    )


def test_deliveries(database: Database, new_clip: NewClip) -> None:
    clip_id = add(database, new_clip())
    first = deliver(database, {clip_id: {"frames": "v1"}})
    assert deliver(database, {clip_id: {"frames": "v1"}}) == first
    with pytest.raises(DeliveryExists, match="new version"):
        deliver(database, {clip_id: {"frames": "v2"}})
    deliver(database, {clip_id: {"frames": "v2"}}, version="2")
    one, two = database.deliveries()
    assert (one.id, one.version, one.clip_count, one.bytes, one.definition) == (
        first,
        "1",
        1,
        9,
        {"layers": ["frames"]},
    )
    assert database.delivery_clips(two.id)[0].data_versions == {"frames": "v2"}
    assert database.clip(clip_id).processing_status is ProcessingStatus.DELIVERED
    database.refresh_progress(clip_id, layer="frames", bit=0, present=True)
    assert database.clip(clip_id).processing_status is ProcessingStatus.DELIVERED


def test_the_deliveries_of_a_clip(database: Database, new_clip: NewClip) -> None:
    first, second = add(database, new_clip()), add(database, new_clip())
    deliver(database, {first: {"frames": "v1"}, second: {"frames": "w1"}})
    deliver(database, {second: {"frames": "w2"}}, version="2")
    deliver(database, {first: {"frames": "v2"}}, version="3")
    found = database.deliveries_of(first)
    assert [(made.version, held.data_versions) for made, held in found] == [
        ("1", {"frames": "v1"}),
        ("3", {"frames": "v2"}),
    ]
    assert {held.clip_id for _, held in found} == {first}
    assert database.deliveries_of(new_clip().clip_id) == []


def test_a_delivery_of_an_unknown_clip_leaves_nothing(database: Database, new_clip: NewClip) -> None:
    known, unknown = add(database, new_clip()), new_clip().clip_id
    with pytest.raises(UnknownClip):
        deliver(database, {known: {}, unknown: {}})
    assert database.deliveries() == []
    assert database.clip(known).processing_status is None


# --- transactions ---


def test_a_transaction_is_all_or_nothing(database: Database, new_clip: NewClip) -> None:
    clip_id = add(database, new_clip())
    with pytest.raises(RuntimeError, match="stop"), database.transaction():
        database.update_clip(clip_id, chapter=5)
        ask(database, clip_id)
        assert database.clip(clip_id).chapter == 5
        assert len(database.review_items()) == 1
        raise RuntimeError("stop")
    assert database.clip(clip_id).chapter == 0
    assert database.review_items() == []
    with database.transaction():
        database.record_gates(clip_id, "frames", [BLOCKING.failed("no")], data_version="", run_id="")
        assert database.gates()[0].outcome is GateOutcome.FAILED
        with database.transaction():
            database.record_gates(clip_id, "frames", [BLOCKING.passed("yes")], data_version="", run_id="")
        assert database.gates()[0].outcome is GateOutcome.PASSED
    assert database.gates()[0].outcome is GateOutcome.PASSED


def test_writers_wait_for_one_another(database: Database, new_clip: NewClip) -> None:
    clip_id = add(database, new_clip(chapter=0))
    errors: list[BaseException] = []

    def count() -> None:
        try:
            for _ in range(10):
                with database.transaction():
                    database.write_audit(actor="t", action="count")
                    database.update_clip(clip_id, chapter=database.update_clip(clip_id).chapter + 1)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=count) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert database.clip(clip_id).chapter == 60
    assert len(database.audit_log()) == 60


def test_a_reader_is_not_held_up_by_a_writer(database: Database, new_clip: NewClip) -> None:
    clip_id = add(database, new_clip())
    seen: list[int] = []
    with database.transaction():
        database.update_clip(clip_id, chapter=9)
        reader = threading.Thread(target=lambda: seen.append(database.clip(clip_id).chapter))
        reader.start()
        reader.join(20)
    assert seen == [0], "another thread must see the state before the transaction"


def test_a_lock_that_is_never_released_is_worth_retrying(
    tmp_path: Path, new_clip: NewClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUSY_TIMEOUT_S", 0.05)
    database = Database(f"sqlite:///{tmp_path / 'm.db'}")
    database.upgrade()
    other = sqlite3.connect(tmp_path / "m.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(TransientError, match="locked"):
        database.add_clip(new_clip())
    other.execute("ROLLBACK")
    other.close()
    add(database, new_clip())


def test_foreign_keys_hold(database: Database, new_clip: NewClip) -> None:
    clip_id = add(database, new_clip())
    database.record_layer_state(clip_id, "frames", "committed")
    with pytest.raises(DBAPIError), database.engine.begin() as connection:
        connection.execute(text("DELETE FROM clips"))
    assert len(database.clips()) == 1


def test_it_works_again_after_close(database: Database, new_clip: NewClip) -> None:
    clip_id = add(database, new_clip())
    database.close()
    database.close()
    assert database.clip(clip_id).clip_id == clip_id
