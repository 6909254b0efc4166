"""The uploads sensor on a bucket and a queue over HTTP: from an object to a clip in the vault."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest
from dagster import (
    AssetKey,
    DagsterInstance,
    Definitions,
    ExecuteInProcessResult,
    SensorEvaluationContext,
)
from dagster._core.definitions.sensor_definition import SensorExecutionData
from typer.testing import CliRunner

from ego_assets import bucket_uploads
from ego_assets.cli import app
from ego_assets.definitions import build_definitions
from ego_assets.jobs import PROCESS_CLIP_JOB
from ego_assets.partitions import clip_partitions
from ego_assets.schema.clip import Clip
from ego_assets.schema.errors import ConfigurationError, InsufficientDisk, TransientError, UploadRejected
from ego_assets.settings import Settings, load_settings
from ego_assets_tests.bucket_server import BucketServer
from ego_assets_tests.clips import write_clip
from ego_assets_tests.vault_contents import clear_contents
from resources import upload_queue
from resources.platform import build_resources, open_uploads

FOLDER = "raw/c042/2026-05-14"
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass
class Drop:
    """A watched bucket with its sensor; ticks are evaluated as the daemon does it."""

    settings: Settings
    instance: DagsterInstance
    server: BucketServer
    bucket: str
    cursor: str | None = None
    queue: str = ""

    @cached_property
    def definitions(self) -> Definitions:
        return build_definitions(self.settings)

    @property
    def pictures(self) -> bytes:
        """Content of its own: clips of other tests are known to the same Dagster instance."""
        return f"pictures of {self.bucket}".encode()

    @property
    def s3(self) -> Any:
        return self.server.client("s3")

    @property
    def resources(self) -> dict[str, Any]:
        return build_resources(self.settings)

    @property
    def clips(self) -> list[Clip]:
        clips: list[Clip] = self.resources["database"].get().clips()
        return clips

    def upload(self, name: str, content: bytes | None = None, *, folder: str = FOLDER) -> str:
        """Write an object; returns its key relative to the watched prefix."""
        key = f"{folder}/{name}".lstrip("/")
        self.s3.put_object(
            Bucket=self.bucket, Key=f"in/{key}", Body=self.pictures if content is None else content
        )
        return key

    def keys(self) -> set[str]:
        """Names of what lies in the bucket."""
        found = self.s3.list_objects_v2(Bucket=self.bucket).get("Contents", ())
        return {item["Key"].rpartition("/")[2] for item in found}

    def tick(self, *, arrives: bool = True) -> SensorExecutionData:
        """One tick; without ``arrives`` the daemon dies before it has done what the sensor asks for."""
        repository = self.definitions.get_repository_def()
        resources = repository.get_top_level_resources()
        with SensorEvaluationContext(
            instance_ref=self.instance.get_ref(),
            instance=self.instance,
            last_tick_completion_time=None,
            last_run_key=None,
            cursor=self.cursor,
            repository_name=repository.name,
            repository_def=repository,
            resources={key: resources[key] for key in ("settings", "database", "vault")},
        ) as context:
            result = repository.get_sensor_def("uploads_sensor").evaluate_tick(context)
        if arrives:
            self.cursor = result.cursor
            for request in result.dynamic_partitions_requests or []:
                self.instance.add_dynamic_partitions(
                    request.partitions_def_name, list(request.partition_keys)
                )
        return result

    def accepted(self, **options: Any) -> list[str]:
        """Clips whose runs a tick asks for."""
        return [str(request.partition_key) for request in self.tick(**options).run_requests or []]

    def ingest(self, clip_id: str) -> ExecuteInProcessResult:
        """The run that takes the clip into the vault."""
        job = self.definitions.resolve_job_def(PROCESS_CLIP_JOB)
        return job.execute_in_process(
            instance=self.instance,
            partition_key=clip_id,
            asset_selection=[AssetKey("raw_clip")],
            raise_on_error=False,
            run_config=QUIET,
        )

    def take(self, clip_id: str) -> Clip:
        clip: Clip = self.resources["vault"].intake().take_upload(clip_id, actor="test")
        return clip

    def kept(self) -> dict[str, bytes]:
        """Content of what was rejected, by name."""
        contents = clear_contents(self.resources["vault"].get(), "rejected/")
        return {key.rpartition("/")[2]: content for key, content in contents.items()}

    def rejected(self) -> dict[str, dict[str, Any]]:
        """What is said of rejected uploads, by their names."""
        found = (self.settings.vault / "rejected").rglob("*.reason.json")
        return {path.name.removesuffix(".reason.json"): json.loads(path.read_text()) for path in found}

    def leftovers(self) -> list[Path]:
        return [path for path in self.settings.vault.glob("incoming/*")]

    def notify(
        self, *keys: str, bucket: str = "", event: str = "ObjectCreated:Put", sns: bool = False
    ) -> None:
        """A message as S3 sends it."""
        records = [
            {
                "eventSource": "aws:s3",
                "eventName": event,
                "s3": {
                    "bucket": {"name": bucket or self.bucket},
                    "object": {"key": quote_plus(f"in/{key}", safe="/"), "size": 1, "eTag": "abc"},
                },
            }
            for key in keys
        ]
        body = json.dumps({"Records": records})
        self.send(json.dumps({"Type": "Notification", "Message": body}) if sns else body)

    def send(self, body: str) -> None:
        self.server.client("sqs").send_message(QueueUrl=self.queue, MessageBody=body)

    def waiting(self) -> int:
        """Messages in the queue, hidden ones included."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.server.client("sqs").get_queue_attributes(QueueUrl=self.queue, AttributeNames=names)
        return sum(int(found["Attributes"][name]) for name in names)


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterInstance]:
    """An instance on disk: partitions of one in memory are not seen by a tick."""
    with DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster"))) as instance:
        yield instance


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_clip(tmp_path_factory.mktemp("video") / "clip.mp4").read_bytes()


@pytest.fixture
def make_drop(tmp_path: Path, instance: DagsterInstance, bucket_server: BucketServer) -> Callable[..., Drop]:
    def make(*, queue: bool = False, **options: Any) -> Drop:
        bucket = bucket_server.make_bucket()
        address = bucket_server.make_queue(f"queue-{bucket}") if queue else ""
        settings = Settings(
            data_dir=tmp_path / "data",
            uploads_url=f"s3://{bucket}/in",
            uploads_queue_url=address,
            uploads_s3_endpoint_url=bucket_server.endpoint_url,
            uploads_s3_region=bucket_server.region,
            uploads_aws_access_key_id=bucket_server.access_key_id,
            uploads_aws_secret_access_key=bucket_server.secret_access_key,
            **{"upload_quiet_s": 0, "bucket_max_attempts": 3, "bucket_timeout_s": 5, **options},
        )
        return Drop(settings, instance, bucket_server, bucket, queue=address)

    return make


@pytest.fixture
def drop(make_drop: Callable[..., Drop]) -> Drop:
    return make_drop()


@pytest.fixture
def queued(make_drop: Callable[..., Drop], monkeypatch: pytest.MonkeyPatch) -> Drop:
    """A bucket with a queue, whose full look is over."""
    monkeypatch.setattr(bucket_uploads, "UNUSABLE_HIDDEN_S", 0)
    monkeypatch.setattr(bucket_uploads, "MAX_RECEIVES", 1)
    drop = make_drop(queue=True)
    assert drop.accepted() == []
    drop.server.faults.reset()
    return drop


# --- from the bucket into the vault -----------------------------------------------------------------


def test_an_object_becomes_a_clip_and_leaves_the_bucket(drop: Drop, video: bytes) -> None:
    key = drop.upload("my clip +é.mp4", video)
    drop.upload("my clip +é.json", b'{"activity": "cooking"}')
    result = drop.tick()
    [request] = result.run_requests or []
    [clip] = drop.clips
    assert request.run_key == request.partition_key == clip.clip_id
    assert request.tags["ego_assets/clip"] == clip.clip_id and not request.asset_selection
    assert clip.upload_uri == f"s3://{drop.bucket}/in/{key}"
    assert (clip.source_name, clip.collector_id) == ("my clip +é.mp4", "c042")
    assert clip.activity_category == "cooking" and drop.keys() == {"my clip +é.mp4", "my clip +é.json"}
    assert drop.instance.has_dynamic_partition(clip_partitions.name or "", clip.clip_id)
    assert drop.accepted() == []

    assert drop.ingest(clip.clip_id).success
    [taken] = drop.clips
    assert taken.frame_count == 15 and taken.raw_bytes == len(video)
    vault = drop.resources["vault"].get()
    contents = clear_contents(vault, f"originals/{clip.clip_id}/")
    assert contents["original.mp4"] == video and json.loads(contents["sidecar.json"]) == {
        "activity": "cooking"
    }
    assert drop.keys() == set() and drop.leftovers() == [] and drop.rejected() == {}
    assert drop.accepted() == []


def test_a_sidecar_counts_that_comes_between_registering_and_taking(drop: Drop) -> None:
    drop.upload("a.mp4")
    [clip_id] = drop.accepted()
    drop.upload("a.json", b'{"activity": "painting", "collector_id": "c007"}')
    clip = drop.take(clip_id)
    assert (clip.activity_category, clip.collector_id) == ("painting", "c007") and drop.keys() == set()


def test_a_wrong_sidecar_that_comes_late_leaves_the_upload_where_it_is(drop: Drop) -> None:
    drop.upload("a.mp4")
    [clip_id] = drop.accepted()
    drop.upload("a.json", b'{"location": "moon"}')
    with pytest.raises(UploadRejected, match="moon"):
        drop.take(clip_id)
    assert drop.keys() == {"a.mp4", "a.json"} and drop.leftovers() == []
    drop.upload("a.json", b'{"location": "office"}')
    assert drop.take(clip_id).location_type == "office"


def test_the_same_content_twice_is_one_clip(drop: Drop) -> None:
    drop.upload("a.mp4")
    drop.upload("b.mp4")
    first, second = drop.accepted()
    drop.take(first)
    assert not drop.ingest(second).success
    clips = {clip.clip_id: clip for clip in drop.clips}
    assert clips[second].duplicate_of == first and drop.keys() == set()
    assert drop.kept() == {"b.mp4": drop.pictures}
    assert drop.rejected()["b.mp4"]["source"] == f"s3://{drop.bucket}/in/{FOLDER}/b.mp4"
    drop.upload("b.mp4")
    assert drop.accepted() == [], "the very object again"


def test_taking_again_after_the_object_is_gone_is_harmless(drop: Drop) -> None:
    drop.upload("a.mp4")
    [clip_id] = drop.accepted()
    drop.take(clip_id)
    assert drop.take(clip_id).raw_key
    drop.upload("b.mp4", b"more pictures")
    [other] = drop.accepted()
    drop.s3.delete_object(Bucket=drop.bucket, Key=f"in/{FOLDER}/b.mp4")
    with pytest.raises(UploadRejected, match="no longer"):
        drop.take(other)


def test_what_a_killed_run_left_in_the_bucket_is_cleared_away(drop: Drop, video: bytes) -> None:
    name = f"{uuid.uuid4()}.mp4"
    drop.upload(name, video)
    [clip_id] = drop.accepted()
    assert drop.ingest(clip_id).success
    drop.upload(name, video, folder="raw/c042/2026-05-15")
    [request] = drop.tick().run_requests or []
    assert request.partition_key == clip_id and request.asset_selection == [AssetKey("raw_clip")]
    assert request.run_key != clip_id
    assert drop.ingest(clip_id).success
    assert drop.keys() == set() and drop.rejected() == {} and drop.leftovers() == []
    assert drop.clips[0].raw_bytes == len(video)


def test_other_content_under_a_used_id_is_rejected_by_the_run(drop: Drop, video: bytes) -> None:
    name = f"{uuid.uuid4()}.mp4"
    drop.upload(name, video)
    [clip_id] = drop.accepted()
    assert drop.ingest(clip_id).success
    drop.upload(name, b"other pictures")
    assert drop.accepted() == [clip_id]
    assert drop.ingest(clip_id).success, "the clip has nothing to do with it"
    assert drop.keys() == set() and drop.kept() == {name: b"other pictures"}
    assert drop.rejected()[name]["code"] == "clip_id_taken"
    contents = clear_contents(drop.resources["vault"].get(), f"originals/{clip_id}/")
    assert contents["original.mp4"] == video


def test_the_next_card_is_not_mistaken_for_the_last_one(drop: Drop, video: bytes) -> None:
    drop.upload("GX010001.MP4", video)
    [first] = drop.accepted()
    assert drop.ingest(first).success
    drop.upload("GX010001.MP4", b"the next card")
    assert drop.ingest(first).success, "made again by hand"
    assert drop.keys() == {"GX010001.MP4"}
    [second] = drop.accepted()
    assert second != first and drop.take(second).raw_bytes == len(b"the next card")


def test_what_cannot_be_accepted_is_moved_with_its_reason(drop: Drop) -> None:
    drop.upload("empty.mp4", b"")
    drop.upload("notes.txt", b"text")
    drop.upload("bad.mp4", b"video")
    drop.upload("bad.json", b'{"location_type": "moon"}')
    drop.upload("", b"")
    drop.upload(".hidden.mp4")
    drop.upload("good.mp4")
    result = drop.tick()
    [clip] = drop.clips
    assert clip.source_name == "good.mp4" and len(result.run_requests or []) == 1
    reasons = drop.rejected()
    assert set(reasons) == {"empty.mp4", "notes.txt", "bad.mp4"}
    assert (
        "location_type is 'moon'" in reasons["bad.mp4"]["reason"]
        and "0 bytes" in reasons["empty.mp4"]["reason"]
    )
    kept = drop.kept()
    assert (kept["bad.mp4"], kept["notes.txt"], kept["empty.mp4"]) == (b"video", b"text", b"")
    assert drop.keys() == {"", ".hidden.mp4", "good.mp4"}
    audit = drop.resources["database"].get().audit_log()
    assert sum(row.action == "vault.reject" for row in audit) == 3


@pytest.mark.parametrize(
    "name",
    ["a b+c.mp4", "台所 é 😀.mp4", "a%2Fb?c#d&e=f.mp4", "x" * 700 + ".mp4", 'it\'s "this".mp4', "-rf.mp4"],
)
def test_odd_names_arrive(drop: Drop, name: str) -> None:
    drop.upload(name, name.encode())
    [clip_id] = drop.accepted()
    clip = drop.take(clip_id)
    assert clip.source_name == name and clip.raw_bytes == len(name.encode()) and drop.keys() == set()


def test_keys_that_cannot_be_read_are_recorded_and_stay(drop: Drop) -> None:
    drop.upload("a.mp4", folder="raw//c042")
    assert drop.accepted() == [] and "Rename" in drop.rejected()["a.mp4"]["reason"]
    assert drop.keys() == {"a.mp4"}


# --- failures -----------------------------------------------------------------------------------------


def test_answers_that_fail_once_are_asked_for_again(drop: Drop, video: bytes) -> None:
    faults = drop.server.faults
    drop.upload("a.mp4", video)
    faults.fail(1, status=500, method="GET", contains="list-type")
    faults.fail(1, status=503, method="HEAD")
    [clip_id] = drop.accepted()
    faults.fail(2, status=500, method="GET")
    faults.cut(1, method="GET")
    faults.fail(1, status=503, method="DELETE")
    assert drop.ingest(clip_id).success
    assert faults.injected["cut"] == 1 and faults.injected["status"] == 5
    assert drop.keys() == set() and drop.clips[0].frame_count == 15


def test_a_bucket_that_is_down_costs_ticks_and_no_clip(make_drop: Callable[..., Drop]) -> None:
    drop = make_drop(bucket_max_attempts=1)
    drop.upload("a.mp4")
    drop.server.faults.down = True
    assert drop.accepted() == [] and drop.clips == []
    drop.server.faults.down = False
    [clip_id] = drop.accepted()
    drop.server.faults.down = True
    with pytest.raises(TransientError):
        drop.take(clip_id)
    assert drop.leftovers() == []
    drop.server.faults.down = False
    assert drop.take(clip_id).raw_key and drop.keys() == set()


def test_an_answer_that_comes_too_late_is_asked_for_again(make_drop: Callable[..., Drop]) -> None:
    drop = make_drop(bucket_timeout_s=0.5)
    drop.upload("a.mp4")
    drop.server.faults.slow(1, delay_s=1.5, method="GET")
    assert len(drop.accepted()) == 1
    assert drop.server.faults.injected["slow"] == 1


def test_an_object_stays_when_it_cannot_be_taken(make_drop: Callable[..., Drop]) -> None:
    drop = make_drop(free_disk_reserve_bytes=1 << 60)
    drop.upload("a.mp4")
    [clip_id] = drop.accepted()
    with pytest.raises(InsufficientDisk, match=r"a\.mp4 into the vault"):
        drop.take(clip_id)
    assert drop.keys() == {"a.mp4"} and drop.server.faults.count("GET", f"in/{FOLDER}/a.mp4") == 0


def test_an_object_that_cannot_be_removed_is_cleared_away_later(drop: Drop, video: bytes) -> None:
    drop.upload("a.mp4", video)
    [clip_id] = drop.accepted()
    drop.server.faults.fail(100, status=503, method="DELETE")
    with pytest.raises(TransientError):
        drop.take(clip_id)
    assert drop.keys() == {"a.mp4"} and drop.clips[0].raw_key
    drop.server.faults.reset()
    assert drop.ingest(clip_id).success and drop.keys() == set()


def test_wrong_credentials_fail_the_tick_with_words(make_drop: Callable[..., Drop]) -> None:
    drop = make_drop()
    drop.s3.delete_bucket(Bucket=drop.bucket)
    with pytest.raises(Exception, match="EGO_") as caught:
        drop.tick()
    assert isinstance(caught.value.__cause__, ConfigurationError) or isinstance(
        caught.value, ConfigurationError
    )


def test_a_tick_lists_and_fetches_nothing(make_drop: Callable[..., Drop]) -> None:
    drop = make_drop(uploads_per_tick=3)
    for number in range(12):
        drop.upload(f"{number:02}.mp4", b"%d" % number)
    drop.server.faults.reset()
    assert len(drop.accepted()) == 3
    faults = drop.server.faults
    assert faults.count("GET", "list-type") == faults.count("GET") == 1
    assert faults.count("HEAD", f"in/{FOLDER}") == 3, "per accepted object one question for its sidecar"


def test_a_slow_tick_of_another_daemon_is_harmless(drop: Drop) -> None:
    drop.upload("a.mp4")
    [lost] = drop.accepted(arrives=False)
    assert drop.accepted() == [lost] and len(drop.clips) == 1
    uploads = open_uploads(drop.settings)
    with uploads.fetched(f"{FOLDER}/a.mp4") as other:
        assert drop.take(lost).raw_key and drop.keys() == set()
        assert other is not None and other.path.exists()
    assert drop.take(lost).raw_key


def test_several_runs_of_one_clip_at_once_are_harmless(drop: Drop) -> None:
    drop.upload("a.mp4")
    [clip_id] = drop.accepted()

    def take(number: int) -> str:
        for _ in range(5):
            try:
                return drop.take(clip_id).raw_sha256
            except TransientError:
                # Another one removed the object while this one copied it; a run tries again.
                continue
        return ""

    with ThreadPoolExecutor(4) as threads:
        digests = set(threads.map(take, range(4)))
    assert digests == {hashlib.sha256(drop.pictures).hexdigest()}
    contents = clear_contents(drop.resources["vault"].get(), f"originals/{clip_id}/")
    assert contents["original.mp4"] == drop.pictures
    assert drop.keys() == set() and drop.leftovers() == [] and drop.rejected() == {}


# --- notifications ------------------------------------------------------------------------------------


def test_the_same_notification_thrice_is_one_clip(queued: Drop, video: bytes) -> None:
    key = queued.upload("a b+ü.mp4", video)
    queued.notify(key)
    queued.notify(key, sns=True)
    [clip_id] = queued.accepted()
    assert queued.server.faults.count("GET", "list-type") == 0, "no listing"
    assert queued.accepted() == [] and queued.waiting() == 0
    assert queued.ingest(clip_id).success
    queued.notify(key)
    assert queued.accepted() == [] and queued.accepted() == []
    assert queued.waiting() == 0 and len(queued.clips) == 1 and queued.rejected() == {}
    assert queued.keys() == set()


def test_a_notification_is_removed_by_the_tick_after_the_one_that_was_committed(queued: Drop) -> None:
    queued.notify(queued.upload("a.mp4"))
    [lost] = queued.accepted(arrives=False)
    assert queued.waiting() == 1
    assert queued.accepted() == [], "hidden for now"
    client = queued.server.client("sqs")
    client.purge_queue(QueueUrl=queued.queue)
    queued.notify(f"{FOLDER}/a.mp4")
    assert queued.accepted() == [lost] and queued.waiting() == 1
    assert queued.accepted() == [] and queued.waiting() == 0
    assert len(queued.clips) == 1


def test_messages_that_say_nothing_are_removed(queued: Drop) -> None:
    queued.send(json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": queued.bucket}))
    queued.notify(f"{FOLDER}/a.mp4", event="ObjectRemoved:Delete")
    queued.notify(queued.upload("a.json", b"{}"), queued.upload("b.mp4.part"))
    queued.notify("../elsewhere/a.mp4", "x/../a.mp4")
    queued.accepted()
    queued.accepted()
    assert queued.waiting() == 0 and queued.clips == [] and queued.rejected() == {}


def test_a_notification_waits_with_its_upload(make_drop: Callable[..., Drop]) -> None:
    drop = make_drop(queue=True, upload_quiet_s=600)
    drop.accepted()
    drop.notify(drop.upload("a.mp4"))
    assert drop.accepted() == [] and drop.accepted() == [] and drop.waiting() == 0
    drop = replace(drop, settings=drop.settings.model_copy(update={"upload_quiet_s": 0.0}))
    assert len(drop.accepted()) == 1, "the cursor knows it"


@pytest.mark.parametrize("what", ["no json", "other bucket", "gone"])
def test_poison_is_set_aside_after_some_deliveries(queued: Drop, what: str) -> None:
    if what == "no json":
        queued.send("hello <&> there")
    else:
        queued.notify(f"{FOLDER}/gone.mp4", bucket="other" if what == "other bucket" else "")
    good = queued.upload("good.mp4")
    queued.notify(good)
    assert len(queued.accepted()) == 1, "the others go on"
    ticks = 0
    while queued.waiting() and ticks < 10:
        assert queued.rejected() == {}
        queued.accepted()
        ticks += 1
    assert 1 <= ticks <= bucket_uploads.MAX_RECEIPTS
    [reason] = queued.rejected().values()
    assert reason["code"] == "notification" and reason["source"] == queued.queue
    assert {"no json": "not JSON", "other bucket": "'other'", "gone": "gone.mp4"}[what] in reason["reason"]
    [content] = queued.kept().values()
    assert (content == b"hello <&> there") is (what == "no json")
    audit = queued.resources["database"].get().audit_log()
    assert sum(row.action == "vault.reject" for row in audit) == 1


def test_poison_is_left_to_the_queue_where_it_has_a_policy(queued: Drop) -> None:
    sqs = queued.server.client("sqs")
    dead = sqs.create_queue(QueueName=f"dead-{queued.bucket}")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": bucket_uploads.MAX_RECEIPTS + 2})
    sqs.set_queue_attributes(QueueUrl=queued.queue, Attributes={"RedrivePolicy": policy})
    queued.send("hello")
    for _ in range(bucket_uploads.MAX_RECEIPTS + 4):
        queued.accepted()
    assert queued.rejected() == {} and queued.waiting() == 0
    assert [message["Body"] for message in sqs.receive_message(QueueUrl=dead)["Messages"]] == ["hello"]


def test_the_full_look_finds_what_no_notification_came_for(queued: Drop) -> None:
    queued.upload("a.mp4")
    assert queued.accepted() == []
    stored = json.loads(queued.cursor or "")
    stored["looked_at"] = time.time() - bucket_uploads.FULL_LOOK_S - 1
    queued.cursor = json.dumps(stored)
    assert len(queued.accepted()) == 1
    assert queued.accepted() == []


def test_a_queue_that_is_down_costs_ticks_and_no_clip(make_drop: Callable[..., Drop]) -> None:
    drop = make_drop(queue=True, bucket_max_attempts=1)
    drop.accepted()
    drop.notify(drop.upload("a.mp4"))
    drop.server.faults.fail(1, status=500, method="POST")
    assert drop.accepted() == []
    assert len(drop.accepted()) == 1


def test_many_notifications_are_taken_on_part_by_part(make_drop: Callable[..., Drop]) -> None:
    drop = make_drop(queue=True, uploads_per_tick=7)
    drop.accepted()
    for number in range(60):
        drop.notify(drop.upload(f"{number:02}.mp4", b"%d" % number))
    found: list[str] = []
    while len(found) < 60:
        taken = drop.accepted()
        assert 1 <= len(taken) <= 7 and len(json.loads(drop.cursor or "")["pending"]) <= 2 * 7 + 20
        found += taken
    assert len(set(found)) == 60 and drop.accepted() == [] and drop.waiting() == 0


def test_a_queue_that_is_not_there_fails_the_tick_with_words(make_drop: Callable[..., Drop]) -> None:
    drop = make_drop(queue=True)
    drop.server.client("sqs").delete_queue(QueueUrl=drop.queue)
    with pytest.raises(Exception, match="EGO_UPLOADS_QUEUE_URL"):
        drop.tick()


def test_a_region_is_read_from_the_address() -> None:
    assert upload_queue._region_of("https://sqs.eu-west-1.amazonaws.com/1234/uploads") == "eu-west-1"
    assert upload_queue._region_of("http://127.0.0.1:5000/1234/uploads") == "us-east-1"


def test_a_queue_needs_a_bucket_of_the_same_service(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="EGO_UPLOADS_QUEUE_URL"):
        Settings(data_dir=tmp_path, uploads_queue_url="https://sqs.eu-west-1.amazonaws.com/1/q")
    with pytest.raises(ValueError, match="s3://"):
        Settings(data_dir=tmp_path, uploads_url="gs://drop", uploads_queue_url="https://sqs.x/1/q")


# --- the command line ---------------------------------------------------------------------------------


@pytest.fixture
def command(
    drop: Drop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[..., tuple[int, dict[str, Any]]]]:
    """Runs `ego-assets ingest` on the drop's settings; gives its exit status and its JSON."""
    values = {
        "DATA_DIR": str(drop.settings.data_dir),
        "UPLOADS_S3_ENDPOINT_URL": drop.server.endpoint_url,
        "UPLOADS_S3_REGION": drop.server.region,
        "UPLOADS_AWS_ACCESS_KEY_ID": drop.server.access_key_id,
        "UPLOADS_AWS_SECRET_ACCESS_KEY": drop.server.secret_access_key,
    }
    for name, value in values.items():
        monkeypatch.setenv(f"EGO_{name}", value)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    load_settings.cache_clear()

    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        result = CliRunner().invoke(app, ["ingest", *arguments, "--json"])
        return result.exit_code, json.loads(result.stdout)

    yield run
    load_settings.cache_clear()


def test_one_object_is_copied(drop: Drop, command: Callable[..., tuple[int, dict[str, Any]]]) -> None:
    key = drop.upload("a.mp4")
    drop.upload("a.json", b'{"activity": "cooking", "collector_id": "c1"}')
    address = f"s3://{drop.bucket}/in/{key}"
    for _ in range(2):
        status, found = command(address, "--collector", "c2")
        assert status == 0 and [item["path"] for item in found["ingested"]] == [address]
    [clip] = drop.clips
    assert (clip.activity_category, clip.collector_id) == ("cooking", "c2") and clip.raw_key
    assert drop.keys() == {"a.mp4", "a.json"} and drop.leftovers() == []


def test_a_prefix_is_copied_and_says_what_it_refuses(
    drop: Drop, command: Callable[..., tuple[int, dict[str, Any]]]
) -> None:
    for name, content in {"a.mp4": b"1", "b.mp4": b"1", "c.txt": b"3", "d.mp4": b"4"}.items():
        drop.upload(name, content)
    status, found = command(f"s3://{drop.bucket}/in")
    assert status == 1 and len(found["ingested"]) == 2
    assert [item["path"].rpartition("/")[2] for item in found["duplicates"]] == ["b.mp4"]
    assert [item["code"] for item in found["rejected"]] == ["extension"]
    assert set(drop.rejected()) == {"c.txt"} and drop.kept() == {}
    assert drop.keys() == {"a.mp4", "b.mp4", "c.txt", "d.mp4"}
    assert {clip.collector_id for clip in drop.clips} == {"c042"}
