"""Looks at a bucket in memory: what is noticed, what is remembered, and how small the cursor stays."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ego_assets.bucket_uploads import (
    FULL_LOOK_S,
    MAX_LOOKS,
    MAX_REJECTED_BYTES,
    MAX_SEEN,
    MAX_TRIES,
    OVERLAP_S,
    BucketCursor,
    BucketLook,
    BucketWatch,
    summary,
)
from ego_assets.schema.buckets import BucketAccess
from ego_assets.schema.clip import Clip
from ego_assets.schema.errors import TransientError
from resources.buckets import Bucket, ObjectInfo
from resources.intake import Intake
from resources.uploads import BucketUploads, identity

NOW = dt.datetime(2026, 5, 14, 12, tzinfo=dt.UTC)
FOLDER = "raw/c042/2026-05-14"


def stamped(key: str, age_s: float = 60.0, *, content: bytes = b"pictures") -> ObjectInfo:
    return ObjectInfo(
        key=key,
        bytes=len(content),
        etag=hashlib.md5(content, usedforsecurity=False).hexdigest(),
        modified_at=NOW - dt.timedelta(seconds=age_s),
    )


def nobody(key: str) -> bool:
    return False


def notice(cursor: BucketCursor, listed: list[ObjectInfo], *, room: int = 40) -> list[str]:
    """Keys that one listing adds; they count as handled at once."""
    cursor.notice(listed, room=room, is_known=nobody)
    added = list(cursor.pending)
    cursor.pending.clear()
    return added


# --- the window -----------------------------------------------------------------------------------


def test_an_object_is_noticed_once() -> None:
    cursor = BucketCursor()
    listed = [stamped("b.mp4", 60), stamped("a.mp4", 60), stamped("c.mp4", 90)]
    assert notice(cursor, listed) == ["a.mp4", "b.mp4", "c.mp4"]
    assert notice(cursor, listed) == []
    listed += [stamped("d.mp4", 60), stamped("e.mp4", 3600)]
    assert notice(cursor, listed) == ["d.mp4", "e.mp4"], "the same second, and one stamped an hour before"
    listed[0] = stamped("b.mp4", 10, content=b"the next card")
    assert notice(cursor, listed) == ["b.mp4"], "overwritten"


def test_older_objects_than_the_window_wait_for_the_full_look() -> None:
    cursor = BucketCursor()
    listed = [stamped("a.mp4", 60)]
    assert notice(cursor, listed) == ["a.mp4"]
    listed.append(stamped("slow upload.mp4", 60 + OVERLAP_S + 1))
    assert notice(cursor, listed) == []
    cursor.start_full_look(NOW.timestamp())
    assert notice(cursor, listed) == ["a.mp4", "slow upload.mp4"]


@pytest.mark.parametrize("age_s", [[60.0], [60.0, 61.0], [float(n) for n in range(50)]])
def test_thousands_of_objects_are_noticed_part_by_part(age_s: list[float]) -> None:
    listed = [stamped(f"{number:04}.mp4", age_s[number % len(age_s)]) for number in range(2000)]
    cursor, found = BucketCursor(), []
    for _ in range(50):
        added = notice(cursor, listed)
        assert len(added) == 40
        found += added
        assert len(cursor.seen) <= MAX_SEEN and len(cursor.to_text()) < 20_000
    assert sorted(found) == [info.key for info in listed], "every one once"
    assert not cursor.looking and notice(cursor, listed) == []


def test_a_look_asks_only_so_often_whether_an_object_is_known() -> None:
    listed = [stamped(f"{number:04}.mp4") for number in range(3 * MAX_LOOKS)]
    asked: list[str] = []

    def known(key: str) -> bool:
        asked.append(key)
        return True

    cursor = BucketCursor()
    for expected in (MAX_LOOKS, 2 * MAX_LOOKS, 3 * MAX_LOOKS):
        cursor.notice(listed, room=40, is_known=known)
        assert len(asked) == expected and cursor.pending == {}
    assert not cursor.looking and len(set(asked)) == 3 * MAX_LOOKS


@settings(max_examples=60)
@given(
    arrivals=st.lists(
        st.lists(st.tuples(st.integers(0, 60), st.integers(0, int(OVERLAP_S) // 2)), max_size=30), max_size=12
    ),
    room=st.integers(1, 12),
)
def test_whatever_arrives_within_the_overlap_is_noticed(
    arrivals: list[list[tuple[int, int]]], room: int
) -> None:
    """Stamps may lie up to half an overlap behind the newest one, and objects may be overwritten."""
    cursor, bucket = BucketCursor(), dict[str, ObjectInfo]()
    noticed: set[str] = set()
    for number, arriving in enumerate([*arrivals, *([[]] * 400)]):
        for name, late_s in arriving:
            stamp_s = OVERLAP_S - 60 * number + late_s - OVERLAP_S / 2
            bucket[f"{name}.mp4"] = stamped(f"{name}.mp4", stamp_s, content=f"{number} {late_s}".encode())
        for key in notice(cursor, list(bucket.values()), room=room):
            noticed.add(identity(bucket[key]))
        cursor = BucketCursor.from_text(cursor.to_text())
        if number >= len(arrivals) and not cursor.looking:
            break
    assert noticed >= {identity(info) for info in bucket.values()}


@pytest.mark.parametrize(
    "text",
    [None, "", "not json", "[]", "3", "{}", '{"format": 2}', '{"format": 1}', '{"a.mp4": {"size": 1}}',
     '{"format":1,"since":[],"seen":{},"pending":{},"receipts":[],"looked_at":0,"looking":false}',
     '{"format":1,"since":[0,""],"seen":3,"pending":{},"receipts":[],"looked_at":0,"looking":false}'],
)  # fmt: skip
def test_a_cursor_that_is_not_ours_is_a_new_one(text: str | None) -> None:
    assert BucketCursor.from_text(text) == BucketCursor()


def test_a_cursor_comes_back_as_it_was() -> None:
    cursor = BucketCursor(
        since=(3.5, "x"),
        seen={"y": 4.0},
        pending={"台/ä b+.mp4": 2},
        receipts=["r"],
        looked_at=5.0,
        looking=True,
    )
    assert BucketCursor.from_text(cursor.to_text()) == cursor
    assert json.loads(cursor.to_text())["format"] == 1


# --- a bucket in memory ---------------------------------------------------------------------------


@dataclass
class Objects:
    """Enough of a bucket; ``before`` is called before every request with its name and the key."""

    contents: dict[str, bytes] = field(default_factory=dict)
    infos: dict[str, ObjectInfo] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    before: Callable[[str, str], None] = lambda request, key: None

    def drop(self, name: str, content: bytes = b"pictures", *, age_s: float = 60.0) -> str:
        key = f"{FOLDER}/{name}"
        self.contents[key] = content
        self.infos[key] = stamped(key, age_s, content=content)
        return key

    def _note(self, request: str, key: str = "") -> None:
        self.requests.append((request, key))
        self.before(request, key)

    def count(self, request: str) -> int:
        return sum(name == request for name, _ in self.requests)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        self._note("list")
        yield from sorted(self.infos.values(), key=lambda info: info.key)

    def info(self, key: str) -> ObjectInfo | None:
        self._note("info", key)
        return self.infos.get(key)

    def get(self, key: str) -> bytes | None:
        self._note("get", key)
        return self.contents.get(key)

    def get_range(self, key: str, start: int, size: int) -> bytes:
        self._note("get_range", key)
        return self.contents[key][start : start + size]

    def get_file(self, key: str, path: Path) -> None:
        self._note("get_file", key)
        path.write_bytes(self.contents[key])

    def remove(self, key: str) -> bool:
        self._note("remove", key)
        self.infos.pop(key, None)
        return self.contents.pop(key, None) is not None


class Clips:
    """Enough of database and intake."""

    def __init__(self, uploads: BucketUploads) -> None:
        self.uploads = uploads
        self.clips: dict[str, Clip] = {}
        self.rejected: dict[str, str] = {}

    def clip_with_upload(self, uri: str) -> Clip | None:
        found = [clip for clip in self.clips.values() if clip.upload_uri == uri]
        return found[-1] if found else None

    def register(self, facts: Any, *, upload_uri: str) -> Clip:
        known = self.clips.get(facts.clip_id)
        clip = known or Clip(
            clip_id=facts.clip_id, source_name=facts.source_name, upload_uri=upload_uri, **facts.fields
        )
        self.clips[clip.clip_id] = clip
        return clip

    def reject_object(
        self, uploads: BucketUploads, info: ObjectInfo, rejection: Exception, *, actor: str
    ) -> None:
        self.rejected[info.key.rpartition("/")[2]] = str(rejection)
        uploads.bucket.remove(info.key)

    def reject_unread(self, uri: str, rejection: Exception, *, actor: str) -> None:
        self.rejected[uri.rpartition("/")[2]] = str(rejection)


@dataclass
class Bench:
    objects: Objects
    clips: Clips
    uploads: BucketUploads
    partitions: set[str] = field(default_factory=set)
    cursor: str = ""
    now_s: float = NOW.timestamp()
    at_most: int = 20

    def look(self, *, arrives: bool = True) -> BucketLook:
        watch = BucketWatch(
            uploads=self.uploads,
            queue=None,
            intake=cast(Intake, self.clips),
            database=cast(Any, self.clips),
            quiet_s=5.0,
            at_most=self.at_most,
            has_partition=self.partitions.__contains__,
            log=logging.getLogger("test"),
            now=lambda: self.now_s,
        )
        look = watch.look(BucketCursor.from_text(self.cursor))
        if arrives:
            self.cursor = look.cursor.to_text()
            self.partitions |= {run.clip.clip_id for run in look.runs}
        return look

    def names(self, **options: Any) -> list[str]:
        return [run.clip.source_name for run in self.look(**options).runs]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    objects = Objects()
    uploads = BucketUploads(
        "s3://drop/in",
        BucketAccess(),
        workspace=tmp_path / "vault" / "incoming",
        require_space=lambda needed, what: None,
        bucket=cast(Bucket, objects),
    )
    return Bench(objects, Clips(uploads), uploads)


def test_an_object_is_accepted_once_it_was_left_alone(bench: Bench) -> None:
    bench.objects.drop("new.mp4", age_s=3)
    bench.objects.drop("ahead.mp4", age_s=-30)
    bench.objects.drop("far ahead.mp4", age_s=-3600)
    bench.objects.drop("old.mp4")
    assert bench.names() == ["far ahead.mp4", "old.mp4"], "a clock that is an hour off says nothing"
    bench.now_s += 3
    assert bench.names() == ["new.mp4"]
    bench.now_s += 60
    assert bench.names() == ["ahead.mp4"]
    assert bench.names() == []
    clip = next(clip for clip in bench.clips.clips.values() if clip.source_name == "old.mp4")
    assert clip.upload_uri == f"s3://drop/in/{FOLDER}/old.mp4"
    assert (clip.collector_id, str(clip.recording_date)) == ("c042", "2026-05-14")


def test_ten_thousand_objects_are_not_fetched(bench: Bench) -> None:
    for number in range(10_000):
        bench.objects.drop(f"{number:05}.mp4")
    look = bench.look()
    assert len(look.runs) == 20 and look.cursor.looking
    assert bench.objects.count("list") == 1 and bench.objects.count("get_file") == 0
    assert len(bench.objects.requests) <= 1 + 20, "per accepted object one question for its sidecar"
    assert len(bench.cursor) < 10_000
    assert "still being listed" in summary(look)


def test_a_sidecar_counts_that_came_after_its_video(bench: Bench) -> None:
    bench.objects.drop("a.mp4", age_s=1)
    assert bench.names() == []
    bench.objects.drop("a.json", b'{"activity": "cooking"}', age_s=0)
    bench.now_s += 10
    [run] = bench.look().runs
    assert run.clip.activity_category == "cooking"


def test_a_lost_tick_asks_for_the_same_again(bench: Bench) -> None:
    bench.objects.drop("a.mp4")
    [lost] = bench.look(arrives=False).runs
    [again] = bench.look().runs
    assert (again.run_key, again.clip.clip_id) == (lost.run_key, lost.clip.clip_id)
    assert again.run_key == again.clip.clip_id and not again.clears
    assert bench.look().runs == []


def test_a_clip_that_waits_is_not_asked_for_by_a_full_look(bench: Bench) -> None:
    bench.objects.drop("a.mp4")
    [run] = bench.look().runs
    bench.now_s += FULL_LOOK_S + 1
    assert bench.look().runs == []
    bench.partitions.clear()
    bench.now_s += FULL_LOOK_S + 1
    [again] = bench.look().runs
    assert again.run_key == run.run_key


def test_the_next_card_uses_the_same_names(bench: Bench) -> None:
    key = bench.objects.drop("GX010001.MP4", b"first card")
    [first] = bench.look().runs
    clip = replace(first.clip, raw_key="k", raw_sha256="s")
    bench.clips.clips[clip.clip_id] = clip
    bench.objects.remove(key)
    bench.objects.drop("GX010001.MP4", b"second card", age_s=30)
    [second] = bench.look().runs
    assert second.clip.clip_id != first.clip.clip_id and second.run_key == second.clip.clip_id


def test_an_upload_of_a_clip_in_the_vault_is_cleared_by_a_run_once_an_hour(bench: Bench) -> None:
    bench.objects.drop("a.mp4")
    [first] = bench.look().runs
    clip = replace(first.clip, raw_key="k", raw_sha256="s")
    bench.clips.clips[clip.clip_id] = clip
    assert bench.look().runs == []
    keys = set()
    for _ in range(2):
        bench.now_s += FULL_LOOK_S + 1
        [again] = bench.look().runs
        assert again.clears and again.clip.clip_id == clip.clip_id
        keys.add(again.run_key)
    assert len(keys | {first.run_key}) == 3, "Dagster launches a run key once"


def test_what_cannot_be_accepted_is_rejected(bench: Bench) -> None:
    bench.objects.drop("empty.mp4", b"")
    bench.objects.drop("notes.txt", b"text")
    bench.objects.drop("bad.mp4")
    bench.objects.drop("bad.json", b'{"location_type": "moon"}')
    bench.objects.drop("good.mp4")
    for ignored in ("a.part", ".hidden.mp4", "lonely.json", "GX010001.THM"):
        bench.objects.drop(ignored)
    bench.objects.drop("", b"")
    look = bench.look()
    assert [run.clip.source_name for run in look.runs] == ["good.mp4"] and look.rejected == 3
    assert set(bench.clips.rejected) == {"empty.mp4", "notes.txt", "bad.mp4"}


def test_large_rejected_objects_stay_where_they_are(bench: Bench) -> None:
    key = bench.objects.drop("backup.zip")
    bench.objects.infos[key] = ObjectInfo(
        key=key, bytes=MAX_REJECTED_BYTES + 1, etag="e", modified_at=NOW - dt.timedelta(hours=1)
    )
    assert bench.look().rejected == 1 and "no video" in bench.clips.rejected["backup.zip"]
    assert bench.look().rejected == 0 and key in bench.objects.infos


@pytest.mark.parametrize("key", ["raw/../a.mp4", "raw//a.mp4", "/a.mp4"])
def test_keys_that_cannot_be_read_stay_where_they_are(bench: Bench, key: str) -> None:
    bench.objects.contents[key] = b"pictures"
    bench.objects.infos[key] = stamped(key)
    assert bench.look().rejected == 1 and "Rename" in bench.clips.rejected["a.mp4"]
    assert bench.look().rejected == 0 and key in bench.objects.infos
    assert {request for request, _ in bench.objects.requests} == {"list"}


def test_one_tick_rejects_only_so_much(bench: Bench) -> None:
    for name in ("a.zip", "b.zip", "c.zip"):
        key = bench.objects.drop(name)
        bench.objects.infos[key] = ObjectInfo(
            key=key, bytes=MAX_REJECTED_BYTES // 2, etag="e", modified_at=NOW - dt.timedelta(hours=1)
        )
    assert [bench.look().rejected for _ in range(3)] == [2, 1, 0]


def test_an_object_that_always_fails_does_not_hold_up_the_others(bench: Bench) -> None:
    bench.objects.drop("a.mp4")
    bench.objects.drop("b.mp4")
    sidecar = f"{FOLDER}/a.json"

    def fails(request: str, key: str) -> None:
        if key == sidecar:
            raise TransientError("cut off")

    bench.objects.before = fails
    assert bench.names() == [] and bench.names() == ["b.mp4"]
    for _ in range(MAX_TRIES):
        assert bench.names() == []
    bench.objects.before = lambda request, key: None
    assert bench.names() == [], "given up until the next full look"
    bench.now_s += FULL_LOOK_S + 1
    assert bench.names() == ["a.mp4"]


def test_a_bucket_that_cannot_be_listed_costs_one_tick(bench: Bench) -> None:
    bench.at_most = 1
    bench.objects.drop("a.mp4")
    bench.objects.drop("b.mp4")
    assert bench.names() == ["a.mp4"]

    def fails(request: str, key: str) -> None:
        if request == "list":
            raise TransientError("no answer")

    bench.objects.before = fails
    bench.objects.drop("c.mp4")
    assert bench.names() == ["b.mp4"], "what was noticed before goes on"
    assert bench.names() == []
    bench.objects.before = lambda request, key: None
    assert bench.names() == ["c.mp4"]


@pytest.mark.parametrize(
    "name", ["a b+c.mp4", "台所 é 😀.mp4", "x" * 900 + ".mp4", "a%2Fb?c#d.mp4", "-rf.mp4"]
)
def test_odd_names(bench: Bench, name: str) -> None:
    bench.objects.drop(name)
    assert bench.names() == [name] and bench.names() == []


# --- private copies -------------------------------------------------------------------------------


def test_a_private_copy_is_private_and_goes_away(bench: Bench) -> None:
    key = bench.objects.drop("x" * 900 + ".MP4")
    bench.objects.drop("x" * 900 + ".json", b"{}")
    workspace = bench.uploads.missing_file(key).parents[1]
    with pytest.raises(RuntimeError), bench.uploads.fetched(key) as fetched:
        assert fetched is not None and fetched.path.read_bytes() == b"pictures"
        assert fetched.path.suffix == ".MP4" and fetched.path.with_suffix(".json").read_bytes() == b"{}"
        for path in workspace.rglob("*"):
            assert path.stat().st_mode & 0o077 == 0, path
        raise RuntimeError("the run ends here")
    assert list(workspace.iterdir()) == [] and workspace.stat().st_mode & 0o777 == 0o700


def test_what_a_killed_process_left_goes_and_what_another_one_uses_stays(bench: Bench) -> None:
    key = bench.objects.drop("a.mp4")
    workspace = bench.uploads.missing_file(key).parents[1]
    left = workspace / "left"
    left.mkdir(parents=True)
    (left / ".lock").touch()
    (left / "a.mp4").write_bytes(b"pictures")
    (workspace / "torn").mkdir()
    with bench.uploads.fetched(key) as first:
        assert not left.exists() and not (workspace / "torn").exists()
        with bench.uploads.fetched(key) as second:
            assert first is not None and second is not None
            assert first.path.exists() and second.path.exists()


@pytest.mark.parametrize("what", ["overwritten", "removed"])
def test_an_object_that_changes_while_it_is_copied_is_tried_again(bench: Bench, what: str) -> None:
    key = bench.objects.drop("a.mp4")

    def changes(request: str, named: str) -> None:
        if request == "get_file":
            if what == "overwritten":
                bench.objects.drop("a.mp4", b"PICTURES")
            else:
                bench.objects.infos.pop(key)

    bench.objects.before = changes
    with pytest.raises(TransientError, match="overwritten or removed"), bench.uploads.fetched(key):
        raise AssertionError("nothing to work with")


def test_an_object_that_was_overwritten_meanwhile_is_not_removed(bench: Bench) -> None:
    key = bench.objects.drop("a.mp4")
    bench.objects.drop("a.json", b"{}")
    with bench.uploads.fetched(key) as fetched:
        assert fetched is not None
        bench.objects.drop("a.mp4", b"the next card")
        bench.uploads.remove(fetched)
        assert set(bench.objects.contents) == {key, f"{FOLDER}/a.json"}, "the sidecar was not taken either"
        bench.objects.drop("a.mp4")
        fetched.path.with_suffix(".json").unlink()
        bench.uploads.remove(fetched)
        assert bench.objects.contents == {}
    with bench.uploads.fetched(key) as gone:
        assert gone is None


def test_a_sidecar_that_is_far_too_large_is_not_read(bench: Bench) -> None:
    bench.objects.drop("a.mp4")
    bench.objects.drop("a.json", b" " * 2_000_000)
    assert bench.look().rejected == 1
    assert "1000000 bytes" in bench.clips.rejected["a.mp4"] and bench.objects.count("get") == 0


@pytest.mark.parametrize(
    ("uri", "key"),
    [
        ("s3://drop/in/a.mp4", "a.mp4"),
        ("s3://drop/in/raw/a b?#%.mp4", "raw/a b?#%.mp4"),
        ("s3://drop/in/", None),
        ("s3://drop/inside/a.mp4", None),
        ("s3://other/in/a.mp4", None),
        ("file:///drop/in/a.mp4", None),
    ],
)
def test_addresses(bench: Bench, uri: str, key: str | None) -> None:
    assert bench.uploads.key_of(uri) == key
    if key is not None:
        assert bench.uploads.uri(key) == uri
