"""Findings of reviewers in the database."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from ego_assets.schema.clip import Clip
from ego_assets.schema.errors import UnknownClip
from resources.database import Database
from resources.frame_reviews import FrameReview, FrameReviewLog

DATABASES = ("sqlite", "postgres")
NewClip = Callable[..., Clip]
MISS = {"kind": "faces", "box_xyxy": [1.0, 2.0, 3.0, 4.0]}


def review(clip_id: str, frame: int, **changes: object) -> FrameReview:
    values: dict[str, object] = {
        "clip_id": clip_id,
        "data_version": "v1",
        "frame_index": frame,
        "reviewer": "ann",
        "item_id": 1,
        "sampled": True,
        "covered": {"faces": 3},
        "false_regions": {},
        **changes,
    }
    return FrameReview(**values)  # type: ignore[arg-type]


@pytest.fixture
def clip_id(database: Database, new_clip: NewClip) -> str:
    clip = new_clip()
    database.add_clip(clip)
    return clip.clip_id


def test_findings_come_back_as_they_were_recorded(database: Database, clip_id: str) -> None:
    log = FrameReviewLog(database)
    recorded = [review(clip_id, 3, false_regions={"faces": 1}, missed=(MISS,)), review(clip_id, 9)]
    log.record(recorded)
    found = log.reviews(clip_id=clip_id)
    assert [(item.frame_index, item.covered, item.false_regions) for item in found] == [
        (3, {"faces": 3}, {"faces": 1}),
        (9, {"faces": 3}, {}),
    ]
    assert list(found[0].missed) == [MISS] and found[0].sampled
    assert found[0].reviewed_at is not None and found[0].reviewed_at.tzinfo is not None
    assert found[0].counts.covered == {"faces": 2} and found[0].counts.missed == {"faces": 1}
    assert log.reviews(data_version="v2") == []


def test_a_later_finding_of_the_same_reviewer_replaces_and_the_log_keeps_both(
    database: Database, clip_id: str
) -> None:
    log = FrameReviewLog(database)
    log.record([review(clip_id, 3, missed=(MISS,)), review(clip_id, 4)])
    log.record([review(clip_id, 3)])
    log.record([review(clip_id, 3, reviewer="bob"), review(clip_id, 3, data_version="v2", reviewer="bob")])
    kept = {(item.frame_index, item.data_version, item.reviewer): item.missed for item in log.reviews()}
    assert set(kept) == {(3, "v1", "ann"), (4, "v1", "ann"), (3, "v1", "bob"), (3, "v2", "bob")}
    assert not kept[(3, "v1", "ann")]
    entries = [entry for entry in database.audit_log(clip_id) if entry.action == "review.record"]
    assert [entry.actor for entry in entries] == ["ann", "ann", "bob", "bob"]
    first = json.loads(entries[0].detail)
    assert first["frames"] == [3, 4]
    assert first["findings"] == [{"frame": 3, "missed": [MISS], "false": {}}]


def test_all_or_nothing_is_recorded(database: Database, clip_id: str) -> None:
    log = FrameReviewLog(database)
    with pytest.raises(UnknownClip):
        log.record([review(clip_id, 3), review("3b241101-e2bb-4255-8caf-4136c566a962", 3)])
    with pytest.raises(ValueError, match="one finding per frame"):
        log.record([review(clip_id, 3), review(clip_id, 3)])
    assert log.reviews() == [] and database.audit_log(clip_id) == []


def test_the_clips_are_locked_first_and_in_one_order(
    database: Database, new_clip: NewClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = sorted([new_clip().clip_id, new_clip().clip_id])
    for clip_id in clips:
        database.add_clip(Clip(clip_id=clip_id, source_name="clip.mp4"))
    log, locked = FrameReviewLog(database), []
    lock = database.lock_clips

    def observed(clip_ids: list[str]) -> None:
        locked.append((list(clip_ids), log.reviews()))
        lock(clip_ids)

    monkeypatch.setattr(database, "lock_clips", observed)
    log.record([review(clip_id, 3) for clip_id in reversed(clips)])
    assert locked == [(clips, [])]


def test_only_sampled_frames_of_the_clips_asked_for_are_read(database: Database, new_clip: NewClip) -> None:
    first, second = new_clip(), new_clip()
    database.add_clip(first)
    database.add_clip(second)
    log = FrameReviewLog(database)
    log.record([review(first.clip_id, 3), review(first.clip_id, 4, sampled=False), review(second.clip_id, 5)])
    assert [item.frame_index for item in log.sampled([first.clip_id, "unknown"])] == [3]
    many = [str(number) for number in range(1100)]
    both = log.sampled([*many, second.clip_id, first.clip_id])
    assert sorted(item.frame_index for item in both) == [3, 5]
    assert log.sampled([]) == []


def test_many_frames_are_replaced_at_once(database: Database, clip_id: str) -> None:
    log = FrameReviewLog(database)
    frames = [review(clip_id, number) for number in range(1100)]
    log.record(frames)
    log.record(frames)
    assert len(log.reviews(clip_id=clip_id)) == 1100


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"reviewer": ""}, "reviewer"),
        ({"frame_index": -1}, "frame_index"),
        ({"false_regions": {"faces": 4}}, "false_regions"),
        ({"false_regions": {"plates": 1}}, "false_regions"),
        ({"missed": ({"kind": "cats", "box_xyxy": [1, 2, 3, 4]},)}, "missed"),
        ({"missed": ({"kind": "faces"},)}, "missed"),
    ],
)
def test_impossible_findings_are_refused(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        review("clip", 1, **changes)
