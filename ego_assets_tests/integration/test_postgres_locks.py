"""Two writers at once on a real Postgres: nothing is lost, and nobody waits for ever."""

from __future__ import annotations

import datetime as dt
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import create_engine, text

from ego_assets.media.uploads import describe_upload
from ego_assets.schema.artifact import ArtifactDocument, FileEntry
from ego_assets.schema.clip import Clip
from ego_assets.schema.corrections import Correction
from ego_assets.schema.embeddings import Embedding
from ego_assets.schema.gates import GateSpec
from ego_assets.schema.incidents import AffectedDelivery, QuarantinedVersion
from ego_assets.schema.vocabulary import ReviewKind, ReviewRisk
from resources.corrections import CorrectionLog
from resources.database import Database, ReviewItemError
from resources.embeddings import EmbeddingIndex
from resources.frame_reviews import FrameReview, FrameReviewLog
from resources.incidents import IncidentLog
from resources.intake import Intake

GATE = GateSpec(name="fit", description="", blocking=True)
WAIT_S = 30.0


class Scene:
    """A database that two writers open, each with connections of its own."""

    def __init__(self, url: str) -> None:
        self.first, self.second = Database(url), Database(url)
        self._watcher = create_engine(url)
        self.errors: list[BaseException] = []

    def add_clip(self) -> str:
        clip = Clip(clip_id=str(uuid.uuid4()), source_name="clip.mp4")
        self.first.add_clip(clip)
        return clip.clip_id

    def start(self, work: Callable[[], object]) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                self.errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def wait_until_somebody_waits(self, thread: threading.Thread) -> None:
        """Until a statement of the other writer waits for a lock of this one."""
        query = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        deadline = time.monotonic() + WAIT_S
        with self._watcher.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while not connection.scalar(query):
                assert thread.is_alive(), f"it did not wait: {self.errors}"
                assert time.monotonic() < deadline, "nobody waits"
                time.sleep(0.005)

    def interleave(self, first: Callable[[Database], object], second: Callable[[Database], object]) -> None:
        """Let the second writer begin when the first one has done its work, but not committed it."""
        with self.first.transaction():
            first(self.first)
            thread = self.start(lambda: second(self.second))
            self.wait_until_somebody_waits(thread)
        thread.join(WAIT_S)
        assert not thread.is_alive()

    def close(self) -> None:
        self.first.close()
        self.second.close()
        self._watcher.dispose()


@pytest.fixture
def scene(postgres_url: str) -> Iterator[Scene]:
    made = Scene(postgres_url)
    yield made
    made.close()


def document(clip_id: str, version: str, layer: str = "frames") -> ArtifactDocument:
    return ArtifactDocument(
        clip_id=clip_id,
        layer=layer,
        data_version=version * 64,
        version_id=version * 16,
        files=(FileEntry(name="a.bin", bytes=3, sha256="0" * 64),),
        config={},
        config_digest="c" * 64,
        inputs={},
        backends=(),
        committed_at=dt.datetime.now(dt.UTC).isoformat(),
    )


def correction(clip_id: str) -> Correction:
    return Correction(
        clip_id=clip_id,
        kind="faces",
        first_frame=0,
        last_frame=1,
        box_xyxy=None,
        origin="",
        actor="ann",
        note="",
        created_at=dt.datetime.now(dt.UTC),
    )


def frame_review(clip_id: str, frame: int = 0) -> FrameReview:
    return FrameReview(
        clip_id=clip_id,
        data_version="v",
        frame_index=frame,
        reviewer="ann",
        item_id=1,
        sampled=True,
        covered={},
        false_regions={},
    )


def embedding() -> Embedding:
    vector = np.zeros(768, np.float32)
    vector[0] = 1
    return Embedding("test-v1", vector)


def open_incident(database: Database, clip_id: str) -> int:
    return IncidentLog(database).add(
        clip_id,
        kind="faces",
        first_frame=0,
        last_frame=1,
        box_xyxy=None,
        note="",
        layers=["frames"],
        background=False,
        actor="ann",
    )


# --- one after the other ---


def test_two_changes_of_one_clip_are_both_there(scene: Scene) -> None:
    clip_id = scene.add_clip()
    scene.interleave(
        lambda database: database.update_clip(clip_id, chapter=7),
        lambda database: database.update_clip(clip_id, held=True),
    )
    clip = scene.first.clip(clip_id)
    assert scene.errors == [] and (clip.chapter, clip.held) == (7, True)


def test_two_layers_that_end_at_once_both_get_their_bit(scene: Scene) -> None:
    clip_id = scene.add_clip()

    def end(layer: str, bit: int) -> Callable[[Database], object]:
        def record(database: Database) -> None:
            with database.transaction():
                database.record_gates(clip_id, layer, [GATE.passed("")], data_version="", run_id="")
                database.record_artifact(document(clip_id, "a", layer), uri="/a")
                database.record_layer_state(clip_id, layer, "committed")
                database.refresh_progress(clip_id, layer=layer, bit=bit, present=True)

        return record

    scene.interleave(end("frames", 0), end("depth_maps", 1))
    assert scene.errors == []
    assert scene.first.clip(clip_id).completeness == 0b11
    assert [state.layer for state in scene.first.layer_states(clip_id)] == ["depth_maps", "frames"]


def test_of_two_versions_that_are_recorded_at_once_one_is_current(scene: Scene) -> None:
    clip_id = scene.add_clip()
    scene.interleave(
        lambda database: database.record_artifact(document(clip_id, "a"), uri="/a"),
        lambda database: database.record_artifact(document(clip_id, "b"), uri="/b"),
    )
    assert scene.errors == []
    assert [artifact.uri for artifact in scene.first.artifacts(clip_id)] == ["/b"]
    assert len(scene.first.artifacts(clip_id, current_only=False)) == 2


def test_two_requests_for_the_same_review_are_one(scene: Scene) -> None:
    clip_id = scene.add_clip()

    def ask(database: Database) -> None:
        database.add_review_item(
            clip_id, layer="frames", kind=ReviewKind.PII_LEAK, risk=ReviewRisk.HIGH, reason="seen"
        )

    scene.interleave(ask, ask)
    assert scene.errors == [] and len(scene.first.review_items()) == 1


def test_a_review_is_resolved_by_one_of_two(scene: Scene) -> None:
    clip_id = scene.add_clip()
    item = scene.first.add_review_item(
        clip_id, layer="frames", kind=ReviewKind.PII_LEAK, risk=ReviewRisk.HIGH, reason="seen"
    )
    scene.interleave(
        lambda database: database.resolve_review_item(item, resolution="covered", actor="ann"),
        lambda database: database.resolve_review_item(item, resolution="nothing", actor="ben"),
    )
    [error] = scene.errors
    assert isinstance(error, ReviewItemError) and "resolved by ann" in str(error)
    assert scene.first.review_item(item).resolution == "covered"
    assert not scene.first.clip(clip_id).needs_review


def test_an_order_waits_for_the_layer_that_is_being_recorded(scene: Scene) -> None:
    clip_id = scene.add_clip()

    def record(database: Database) -> None:
        database.lock_clip(clip_id)
        assert CorrectionLog(database).of_clip(clip_id) == []

    scene.interleave(record, lambda database: CorrectionLog(database).add(correction(clip_id)))
    assert scene.errors == [] and len(CorrectionLog(scene.first).of_clip(clip_id)) == 1


def test_an_incident_waits_for_the_layer_that_is_being_recorded(scene: Scene) -> None:
    clip_id = scene.add_clip()
    scene.interleave(
        lambda database: database.lock_clip(clip_id), lambda database: open_incident(database, clip_id)
    )
    assert scene.errors == [] and scene.first.open_incident(clip_id) is not None


def test_what_two_processes_quarantine_is_all_on_record(scene: Scene) -> None:
    clip_id = scene.add_clip()
    number = open_incident(scene.first, clip_id)
    versions = [
        QuarantinedVersion(layer=layer, version_id="0" * 16, data_version="0" * 64)
        for layer in ("frames", "masks")
    ]
    scene.interleave(
        lambda database: IncidentLog(database).record_quarantined(
            number, versions=versions[:1], deliveries=[AffectedDelivery(name="dataset", version="v0001")]
        ),
        lambda database: IncidentLog(database).record_quarantined(
            number, versions=versions[1:], deliveries=[]
        ),
    )
    found = IncidentLog(scene.first).incident(number)
    assert scene.errors == [] and set(found.quarantined) == set(versions) and len(found.deliveries) == 1


def test_one_content_belongs_to_one_of_two_clips(scene: Scene) -> None:
    one, two = scene.add_clip(), scene.add_clip()

    def take(clip_id: str) -> Callable[[Database], object]:
        return lambda database: database.record_original(
            clip_id, raw_key=clip_id, raw_sha256="e" * 64, raw_bytes=7
        )

    scene.interleave(take(one), take(two))
    assert scene.errors == []
    assert scene.first.clip(two).duplicate_of == one and scene.first.clip(one).raw_key == one


def test_what_is_known_of_an_original_that_was_taken_meanwhile_stays(scene: Scene, tmp_path: Path) -> None:
    folder = tmp_path / "uploads" / "raw" / "c01" / "2026-05-04"
    folder.mkdir(parents=True)
    path = folder / f"{uuid.uuid4()}.mp4"
    path.write_bytes(b"video")
    description = describe_upload(tmp_path / "uploads", path)
    vault: Any = None  # what is only registered does not get there
    intake = Intake(scene.second, vault)
    clip = intake.register(description, upload_uri=path.as_uri())

    def take(database: Database) -> None:
        digest = "00b9c4ee2f2c2d1f28d8ae0e3b6d1f7f20a7f9bbd2ab6d3a1ab44a65d4b8b1a5"
        database.record_original(clip.clip_id, raw_key="k", raw_sha256=digest, raw_bytes=5)
        database.update_clip(clip.clip_id, activity_category="cooking")

    def register_again(_: Database) -> None:
        path.with_suffix(".json").write_text('{"activity": "painting"}')
        intake.register(describe_upload(tmp_path / "uploads", path), upload_uri=path.as_uri())

    scene.interleave(take, register_again)
    # The bytes differ from the digest on record, so that the second one is refused, not merged.
    assert [getattr(error, "code", error) for error in scene.errors] == ["clip_id_taken"]
    assert scene.first.clip(clip.clip_id).activity_category == "cooking"


def test_rebuilding_the_indexes_waits_for_a_layer_that_is_being_recorded(scene: Scene) -> None:
    clip_id = scene.add_clip()
    EmbeddingIndex(scene.first).put(clip_id, embedding(), data_version="a" * 64)

    def rebuild(database: Database) -> None:
        with database.transaction():
            database.replace_artifact_index([(document(clip_id, "a"), "/a")])
            EmbeddingIndex(database).rebuild([(clip_id, embedding(), "a" * 64)])

    def record(database: Database) -> None:
        database.lock_clip(clip_id)
        database.record_artifact(document(clip_id, "b"), uri="/b")
        EmbeddingIndex(database).put(clip_id, embedding(), data_version="b" * 64)

    scene.interleave(record, rebuild)
    assert scene.errors == []
    found = EmbeddingIndex(scene.first).get(clip_id)
    assert found is not None and found.data_version == "a" * 64
    assert [artifact.uri for artifact in scene.first.artifacts(clip_id)] == ["/a"]


def test_recording_waits_while_the_indexes_are_rebuilt(scene: Scene) -> None:
    clip_id = scene.add_clip()
    EmbeddingIndex(scene.first).put(clip_id, embedding(), data_version="a" * 64)

    def begin(database: Database) -> None:
        database.replace_artifact_index([(document(clip_id, "a"), "/a")])

    def record(database: Database) -> None:
        with database.transaction():
            # It has its clip, and waits for the index; the other one must not need the clip then.
            database.record_layer_state(clip_id, "frames", "committed")
            database.record_artifact(document(clip_id, "b"), uri="/b")
            EmbeddingIndex(database).put(clip_id, embedding(), data_version="b" * 64)

    with scene.first.transaction():
        begin(scene.first)
        thread = scene.start(lambda: record(scene.second))
        scene.wait_until_somebody_waits(thread)
        EmbeddingIndex(scene.first).rebuild([(clip_id, embedding(), "a" * 64)])
    thread.join(WAIT_S)
    assert scene.errors == []
    assert [artifact.uri for artifact in scene.first.artifacts(clip_id)] == ["/b"]


def test_a_reader_sees_one_moment(scene: Scene) -> None:
    clip_id = scene.add_clip()
    with scene.first.read_session():
        assert not scene.first.clip(clip_id).held
        scene.second.update_clip(clip_id, held=True)
        assert not scene.first.clip(clip_id).held
    assert scene.first.clip(clip_id).held


# --- everything at once ---


def test_many_writers_of_all_kinds_never_wait_for_each_other_in_a_circle(scene: Scene) -> None:
    clips = [scene.add_clip() for _ in range(3)]
    rounds, workers = 12, 5
    orders, reviewed = [0] * workers, [0] * workers

    def record(database: Database, chance: random.Random) -> None:
        clip_id = chance.choice(clips)
        with database.transaction():
            database.record_gates(clip_id, "frames", [GATE.passed("")], data_version="", run_id="")
            database.record_artifact(document(clip_id, chance.choice("abcd")), uri="/a")
            EmbeddingIndex(database).put(clip_id, embedding(), data_version="a" * 64)
            database.record_layer_state(clip_id, "frames", "committed")
            database.close_layer_reviews(clip_id, "frames")
            database.refresh_progress(clip_id, layer="frames", bit=0, present=True)
            database.write_audit(actor="t", action="record", clip_id=clip_id)
            database.update_clip(clip_id, failed=False)

    def review(database: Database, chance: random.Random) -> None:
        some = chance.sample(clips, 2)
        FrameReviewLog(database).record([frame_review(clip_id) for clip_id in some])

    def deliver(database: Database, chance: random.Random) -> None:
        some = chance.sample(clips, 2)
        with database.transaction():
            database.lock_clips(some)
            database.add_delivery(
                name="dataset", version=uuid.uuid4().hex, uri="", definition={}, bytes=0,
                clips={clip_id: {} for clip_id in some},
            )  # fmt: skip

    def deliver_alone(database: Database, chance: random.Random) -> None:
        some = chance.sample(clips, 2)
        database.add_delivery(
            name="dataset", version=uuid.uuid4().hex, uri="", definition={}, bytes=0,
            clips={clip_id: {} for clip_id in some},
        )  # fmt: skip

    def incident(database: Database, chance: random.Random) -> None:
        clip_id = chance.choice(clips)
        with database.transaction():
            database.lock_clip(clip_id)
            number = open_incident(database, clip_id)
            CorrectionLog(database).add(correction(clip_id))
            database.forget_layers(clip_id, {"frames": 0, "embeddings": 6})
            database.write_audit(actor="t", action="incident.open", clip_id=clip_id)
        with database.transaction():
            IncidentLog(database).record_quarantined(number, versions=[], deliveries=[])
            database.write_audit(actor="t", action="incident.quarantine", clip_id=clip_id)

    def rebuild(database: Database, chance: random.Random) -> None:
        with database.transaction():
            database.replace_artifact_index([(document(clip_id, "a"), "/a") for clip_id in clips])
            EmbeddingIndex(database).rebuild([(clip_id, embedding(), "a" * 64) for clip_id in clips])

    kinds = [record, record, review, deliver, deliver_alone, incident, rebuild]

    def work(number: int) -> None:
        chance = random.Random(number)
        database = scene.first if number % 2 else scene.second
        for _ in range(rounds):
            kind = chance.choice(kinds)
            kind(database, chance)
            orders[number] += kind is incident
            reviewed[number] += kind in (deliver, deliver_alone)

    threads = [scene.start(lambda number=number: work(number)) for number in range(workers)]  # type: ignore[misc]
    for thread in threads:
        thread.join(120)
    assert scene.errors == []
    assert sum(len(CorrectionLog(scene.first).of_clip(clip_id)) for clip_id in clips) == sum(orders)
    assert len(scene.first.deliveries()) == sum(reviewed)
    for clip_id in clips:
        assert len(scene.first.artifacts(clip_id)) <= 1
