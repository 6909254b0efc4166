"""The record of erasures: what it removes, what stays, and what is refused afterwards."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import MetaData, text

from ego_assets.media.uploads import describe_upload
from ego_assets.schema.clip import Clip
from ego_assets.schema.corrections import Correction
from ego_assets.schema.embeddings import Embedding
from ego_assets.schema.errors import ClipErased, UnknownClip, UploadRejected
from ego_assets.schema.gates import GateSpec
from ego_assets.schema.incidents import AffectedDelivery
from ego_assets.schema.vocabulary import ReviewKind, ReviewRisk
from resources.corrections import CorrectionLog
from resources.database import Database
from resources.embeddings import EmbeddingIndex
from resources.erasures import ErasureLog, compact
from resources.incidents import IncidentLog
from resources.intake import Intake
from resources.vault import Vault

DATABASES = ("sqlite", "postgres")
NewClip = Callable[..., Clip]
SHA256 = "ab" * 32
#: Words that stand for a person.
MARKERS = ("Marisol Quellbach", "MARKER_0001.mp4", "tattoo of a heron", "loupe 7731", "knife drawer")
GATE = GateSpec(name="fit", description="", blocking=True)


def cells(database: Database) -> list[str]:
    """Every value of every table as text, the audit log left out."""
    metadata = MetaData()
    metadata.reflect(database.engine)
    found = []
    with database.engine.connect() as connection:
        for table in metadata.sorted_tables:
            if table.name != "audit_log":
                for row in connection.execute(text(f"SELECT * FROM {table.name}")):
                    found += [str(value) for value in row]
    return found


def described(database: Database, new_clip: NewClip) -> str:
    """A clip about which everything is recorded that can be."""
    clip = new_clip(
        source_name="MARKER_0001.mp4",
        collector_id="Marisol Quellbach",
        camera_intrinsics={"serial": "loupe 7731"},
        activity_category="knife drawer",
        upload_uri="file:///in/Marisol%20Quellbach/MARKER_0001.mp4",
        raw_sha256=SHA256,
        raw_key="originals/x/original.mp4",
        raw_bytes=5,
        recording_date=dt.date(2026, 1, 2),
    )
    database.add_clip(clip)
    clip_id = clip.clip_id
    database.record_gates(clip_id, "frames", [GATE.failed("tattoo of a heron")], data_version="d", run_id="r")
    database.record_layer_state(clip_id, "frames", "failed", reason="tattoo of a heron")
    database.add_review_item(
        clip_id,
        layer="frames",
        kind=ReviewKind.PII_LEAK,
        risk=ReviewRisk.HIGH,
        reason="tattoo of a heron",
        details={"who": "Marisol Quellbach"},
    )
    CorrectionLog(database).add(
        Correction(clip_id=clip_id, kind="faces", first_frame=0, last_frame=1, note="tattoo of a heron")
    )
    EmbeddingIndex(database).put(
        clip_id, Embedding("test-v1", np.eye(768, dtype=np.float32)[3]), data_version="d" * 64
    )
    IncidentLog(database).add(
        clip_id,
        kind="faces",
        first_frame=0,
        last_frame=1,
        box_xyxy=(1, 2, 3, 4),
        note="tattoo of a heron",
        layers=["frames"],
        background=False,
        actor="ann",
    )
    database.add_delivery(
        name="dataset", version="v0001", uri="/d", definition={}, bytes=1, clips={clip_id: {"frames": "d"}}
    )
    database.add_delivery(
        name="dataset",
        version="v0002",
        uri="/d",
        definition={"left_out": {clip_id: "review: tattoo of a heron", "other": "kept"}},
        bytes=1,
        clips={},
    )
    return clip_id


def test_nothing_but_the_id_is_left(database: Database, new_clip: NewClip) -> None:
    clip_id = described(database, new_clip)
    other = new_clip(source_name="other.mp4", collector_id="c2")
    database.add_clip(other)
    before = database.clip(other.clip_id)
    log = ErasureLog(database)
    assert all(any(marker in value for value in cells(database)) for marker in MARKERS)
    begun = log.begin(clip_id, reason="asked for", actor="ann")
    assert begun.deliveries == (AffectedDelivery(name="dataset", version="v0001"),)
    assert begun.pending is not None and begun.pending.source_name == "MARKER_0001.mp4"
    log.record(clip_id, removed={"layer files": 2})
    log.record(clip_id, removed={"layer files": 3})
    log.forget(clip_id)
    compact(database)
    done = log.complete(clip_id)
    assert done.completed_at is not None and done.pending is None
    assert done.removed["layer files"] == 5 and done.removed["corrections"] == 1
    assert done.removed["embeddings"] == 1 and done.removed["review items"] == 1
    assert not [value for value in cells(database) for marker in (*MARKERS, SHA256) if marker in value]
    assert database.clips() == [before] == [database.clip(other.clip_id)]
    assert database.clip(clip_id).withdrawn and database.clip(clip_id).source_name == ""
    assert database.deliveries()[1].definition == {"left_out": {clip_id: "erased", "other": "kept"}}
    [incident] = IncidentLog(database).incidents(clip_id=clip_id)
    assert incident.resolved_at is not None and incident.note == "" and incident.box_xyxy is None
    assert database.open_incident(clip_id) is None
    audit = [(row.action, row.clip_id, row.detail) for row in database.audit_log(action="erase")]
    assert audit[0] == ("erase.begin", clip_id, "asked for")
    assert audit[1][0] == "erase.complete" and "5 layer files" in audit[1][2]
    assert log.begin(clip_id, reason="again", actor="bob") == done, "the tombstone never changes"
    assert log.complete(clip_id) == done and len(database.audit_log(action="erase")) == 2
    assert json.dumps(done.as_dict(), default=str)


def test_the_files_of_sqlite_hold_nothing_of_it(tmp_path: Path, new_clip: NewClip) -> None:
    database = Database(f"sqlite:///{tmp_path / 'metadata.db'}")
    database.upgrade()
    clip_id = described(database, new_clip)
    log = ErasureLog(database)
    log.begin(clip_id, reason="asked for", actor="ann")

    def found() -> list[str]:
        content = b"".join(path.read_bytes() for path in tmp_path.glob("metadata.db*") if path.is_file())
        return [marker for marker in MARKERS if marker.encode() in content]

    log.forget(clip_id)
    assert found(), "removed rows stay in the file and in its log"
    compact(database)
    assert found() == []
    database.close()


def test_nothing_is_recorded_of_an_erased_clip(database: Database, new_clip: NewClip) -> None:
    clip = new_clip()
    database.add_clip(clip)
    clip_id = clip.clip_id
    ErasureLog(database).begin(clip_id, reason="r", actor="ann")
    calls: list[Callable[[], Any]] = [
        lambda: database.record_gates(clip_id, "frames", [GATE.passed("")], data_version="", run_id=""),
        lambda: database.record_layer_state(clip_id, "frames", "committed"),
        lambda: database.update_clip(clip_id, source_name="again"),
        lambda: database.record_original(clip_id, raw_key="k", raw_sha256=SHA256, raw_bytes=1),
        lambda: database.lock_clip(clip_id),
        lambda: CorrectionLog(database).add(
            Correction(clip_id=clip_id, kind="faces", first_frame=0, last_frame=1)
        ),
        lambda: database.add_delivery(
            name="d", version="1", uri="", definition={}, bytes=0, clips={clip_id: {}}
        ),
    ]
    for call in calls:
        with pytest.raises(ClipErased, match=clip_id):
            call()
    standing = database.standing(clip_id)
    assert standing.erased and standing.is_stopped and "erased" in (standing.refusal(inputs=[]) or "")
    assert database.is_erased(clip_id) and not database.is_erased("other")
    with pytest.raises(UnknownClip):
        ErasureLog(database).begin("0" * 8 + "-0000-4000-8000-" + "0" * 12, reason="r", actor="a")


def test_content_is_recognised_without_its_digest(database: Database, new_clip: NewClip) -> None:
    log = ErasureLog(database)
    assert not log.has_content() and not log.is_erased_content(SHA256)
    for _ in range(2):
        clip = new_clip(raw_sha256=SHA256)
        database.add_clip(clip)
        log.begin(clip.clip_id, reason="r", actor="ann")
    assert log.has_content() and log.is_erased_content(SHA256) and not log.is_erased_content("cd" * 32)
    with database.engine.connect() as connection:
        rows = connection.execute(text("SELECT content_salt, content_digest FROM erasures")).all()
    assert len({row[0] for row in rows}) == len({row[1] for row in rows}) == 2
    assert all(SHA256 not in row for row in rows)


# --- uploads ------------------------------------------------------------------------------------------


def upload(root: Path, name: str, content: bytes) -> Path:
    path = root / "raw" / "c1" / "2026-01-02" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.with_suffix(".json").write_text('{"activity": "cooking"}')
    return path


@pytest.mark.parametrize("same_name", [True, False])
def test_the_same_content_is_not_taken_again(
    database: Database, vault: Vault, tmp_path: Path, same_name: bool
) -> None:
    root = tmp_path / "uploads"
    intake, log = Intake(database, vault, uploads_folder=root), ErasureLog(database)
    path = upload(root, "00000000-0000-4000-8000-000000000001.mp4", b"a person")
    clip = intake.register(describe_upload(root, path), upload_uri=path.as_uri())
    intake.take(clip.clip_id, path, move=True, actor="t")
    log.begin(clip.clip_id, reason="r", actor="ann")
    assert vault.erase(clip.clip_id) == 2
    name = path.name if same_name else "GX99.mp4"
    again = upload(root, name, b"a person")
    with pytest.raises(UploadRejected) as refused:
        found = intake.register(describe_upload(root, again), upload_uri=again.as_uri())
        intake.take(found.clip_id, again, move=True, actor="t")
    assert refused.value.code == "erased" and name not in str(refused.value)
    if same_name:
        assert intake.reject(again, refused.value, move=True, actor="t") == ""
    assert not again.exists() and not again.with_suffix(".json").exists()
    files = [item for item in (tmp_path / "vault").rglob("*") if item.is_file() and "originals" in item.parts]
    assert files == [] and not list((tmp_path / "vault").rglob("rejected/*/*"))
    assert database.clips() == [], "what was registered of it goes as well"
    assert all(name not in row.detail for row in database.audit_log())


def test_an_erased_id_is_not_used_again(database: Database, vault: Vault, tmp_path: Path) -> None:
    root = tmp_path / "uploads"
    intake = Intake(database, vault, uploads_folder=root)
    path = upload(root, "00000000-0000-4000-8000-000000000001.mp4", b"a person")
    clip = intake.register(describe_upload(root, path), upload_uri=path.as_uri())
    ErasureLog(database).begin(clip.clip_id, reason="r", actor="ann", content_sha256=SHA256)
    path.write_bytes(b"somebody else")
    with pytest.raises(UploadRejected) as refused:
        intake.register(describe_upload(root, path), upload_uri=path.as_uri())
    assert refused.value.code == "clip_id_taken"
    assert intake.reject(path, refused.value, move=True, actor="t").startswith("rejected/"), "it is kept"


def test_an_original_that_is_taken_during_the_erasure_does_not_stay(
    database: Database, vault: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "uploads"
    intake = Intake(database, vault, uploads_folder=root)
    path = upload(root, "a.mp4", b"a person")
    clip = intake.register(describe_upload(root, path), upload_uri=path.as_uri())
    record = database.record_original

    def erased_first(clip_id: str, **values: Any) -> Clip:
        ErasureLog(database).begin(clip_id, reason="r", actor="ann")
        return record(clip_id, **values)

    monkeypatch.setattr(database, "record_original", erased_first)
    with pytest.raises(ClipErased):
        intake.take(clip.clip_id, path, move=True, actor="t")
    assert not [item for item in (tmp_path / "vault" / "originals").rglob("*") if item.is_file()]


def test_rows_of_the_audit_log_name_no_upload(database: Database, vault: Vault, tmp_path: Path) -> None:
    path = upload(tmp_path, "MARKER_0001.mp4", b"x")
    key = vault.reject(path, code="c", reason="r", move=True, actor="t")
    from ego_assets.schema.vocabulary import VaultPurpose

    with vault.open_rejected(key, purpose=VaultPurpose.INGEST, actor="t"):
        pass
    assert len(database.audit_log()) == 2
    assert all("MARKER" not in row.detail for row in database.audit_log())
