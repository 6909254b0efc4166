"""Corrections are kept in their order, and nothing about them is lost."""

from __future__ import annotations

import datetime as dt
import math
import uuid
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ego_assets.schema.clip import Clip
from ego_assets.schema.corrections import PII_KINDS, Box, Correction, corrections_version, why_outside
from ego_assets.schema.errors import UnknownClip
from resources.corrections import CorrectionLog
from resources.database import Database

DATABASES = ("sqlite", "postgres")
edges = st.floats(-1e4, 1e4, allow_nan=False)


@st.composite
def corrections(draw: st.DrawFn, clip_id: str) -> Correction:
    first = draw(st.integers(0, 10**6))
    left, top = draw(edges), draw(edges)
    box = (left, top, left + draw(st.floats(1, 1e4)), top + draw(st.floats(1, 1e4)))
    return Correction(
        clip_id=clip_id,
        kind=draw(st.sampled_from(PII_KINDS)),
        first_frame=first,
        last_frame=first + draw(st.integers(0, 100)),
        box_xyxy=draw(st.none() | st.just(box)),
        origin=draw(st.sampled_from(["incident:1", "review:7", ""])),
        actor=draw(st.text(max_size=5).filter(lambda text: "\0" not in text)),
        note="a note, Ängste ✓",
        created_at=dt.datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=dt.UTC),
    )


@given(data=st.data())
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_added_comes_back_in_its_order(database: Database, data: st.DataObject) -> None:
    clip_id = str(uuid.uuid4())
    database.add_clip(Clip(clip_id=clip_id, source_name="clip.mp4"))
    orders = data.draw(st.lists(corrections(clip_id), max_size=4))
    log = CorrectionLog(database)
    numbers = [log.add(order) for order in orders]
    assert numbers == sorted(set(numbers))
    assert log.of_clip(clip_id) == orders
    assert corrections_version(log.of_clip(clip_id)) == corrections_version(orders)


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, math.inf, 5),
        (-math.inf, 0, 5, 5),
        (0, math.nan, 5, 5),
        (5, 0, 5, 5),
        (0, 6, 5, 5),
    ],
)
def test_a_box_has_finite_edges_and_an_area(box: Box) -> None:
    with pytest.raises(ValueError, match="finite edges with left < right and top < bottom"):
        Correction(clip_id="clip", kind="faces", first_frame=0, last_frame=3, box_xyxy=box)


@pytest.mark.parametrize(
    ("last_frame", "box", "named"),
    [
        (29, (0, 0, 64, 48), ""),
        (30, (0, 0, 64, 48), "has 30 frames, numbered 0 to 29, so there is no frame 30"),
        (0, (-1, 0, 64, 48), "64 x 48 pixels"),
        (0, (0, -0.5, 64, 48), "64 x 48 pixels"),
        (0, (0, 0, 64.5, 48), "The box 0,0,64.5,48 reaches outside"),
        (0, (0, 0, 64, 49), "64 x 48 pixels"),
    ],
)
def test_what_lies_outside_a_clip_is_named(last_frame: int, box: Box, named: str) -> None:
    clip = Clip(clip_id="clip", source_name="clip.mp4", width=64, height=48, frame_count=30)
    found = why_outside(clip, last_frame=last_frame, boxes_xyxy=[(1, 1, 2, 2), box])
    assert named in found if named else found == ""
    unknown = Clip(clip_id="clip", source_name="clip.mp4")
    assert why_outside(unknown, last_frame=last_frame, boxes_xyxy=[box]) == ""
    assert why_outside(unknown, last_frame=3, boxes_xyxy=[], frame_count=3) != ""


def test_corrections_belong_to_one_clip(database: Database, new_clip: Callable[..., Clip]) -> None:
    first, second = new_clip(), new_clip()
    database.add_clip(first)
    database.add_clip(second)
    log = CorrectionLog(database)
    log.add(Correction(clip_id=first.clip_id, kind="faces", first_frame=0, last_frame=3))
    assert log.of_clip(second.clip_id) == []
    with pytest.raises(UnknownClip):
        log.add(Correction(clip_id=str(uuid.uuid4()), kind="faces", first_frame=0, last_frame=3))


def test_a_correction_is_part_of_the_transaction_around_it(
    database: Database, new_clip: Callable[..., Clip]
) -> None:
    clip = new_clip()
    database.add_clip(clip)
    log = CorrectionLog(database)
    with pytest.raises(RuntimeError), database.transaction():
        log.add(Correction(clip_id=clip.clip_id, kind="text", first_frame=0, last_frame=0))
        assert len(log.of_clip(clip.clip_id)) == 1
        raise RuntimeError
    assert log.of_clip(clip.clip_id) == []
