from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ego_assets.privacy.config import PrivacyConfig
from ego_assets.privacy.schedule import detection_schedule
from ego_assets.schema.timeline import NANOSECONDS, Timeline


def timeline_of(intervals_ms: list[int]) -> Timeline:
    stamps = np.concatenate([[0], np.cumsum(np.array(intervals_ms, np.int64) * 1_000_000)]).astype(np.int64)
    return Timeline(stamps, Fraction(30), Fraction(1, 90000))


@given(
    intervals_ms=st.lists(st.integers(0, 400), max_size=120),
    faces_per_s=st.floats(1, 30),
    text_every_frames=st.integers(1, 60),
)
def test_no_second_goes_by_without_a_look(
    intervals_ms: list[int], faces_per_s: float, text_every_frames: int
) -> None:
    timeline = timeline_of(intervals_ms)
    config = PrivacyConfig(faces_per_s=faces_per_s, text_every_frames=text_every_frames)
    schedule = detection_schedule(("faces", "text", "plates"), timeline, config)
    for frames in schedule.values():
        assert frames[0] == 0
        assert frames[-1] == timeline.frame_count - 1
        assert np.all(np.diff(frames) > 0)
        gaps_ns = np.diff(timeline.timestamps_ns[frames])
        # Looks are taken on the frames nearest to a regular grid, which may lie up to one interval off.
        slack_ns = int(np.max(np.diff(timeline.timestamps_ns), initial=0))
        assert np.max(gaps_ns, initial=0) <= NANOSECONDS + slack_ns


def test_default_rates_at_30_fps() -> None:
    stamps = np.arange(300, dtype=np.int64) * (NANOSECONDS // 30)
    timeline = Timeline(stamps, Fraction(30), Fraction(1, 90000))
    schedule = detection_schedule(("faces", "text"), timeline, PrivacyConfig())
    assert len(schedule["faces"]) == pytest.approx(5 * 10, abs=2)
    assert schedule["text"].tolist()[:4] == [0, 5, 10, 15]
    assert len(schedule["text"]) == 61


def test_a_slow_clip_is_examined_for_text_at_least_once_a_second() -> None:
    stamps = np.arange(20, dtype=np.int64) * NANOSECONDS // 2
    timeline = Timeline(stamps, Fraction(2), Fraction(1, 90000))
    frames = detection_schedule(("text",), timeline, PrivacyConfig(text_every_frames=10))["text"]
    assert frames.tolist() == [*range(0, 20, 2), 19]


def test_an_empty_clip_has_nothing_to_examine() -> None:
    timeline = Timeline(np.zeros(0, np.int64), Fraction(30), Fraction(1, 90000))
    schedule = detection_schedule(("faces", "text"), timeline, PrivacyConfig())
    assert all(frames.size == 0 for frames in schedule.values())


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="faces, text or plates"):
        detection_schedule(("hands",), timeline_of([33] * 3), PrivacyConfig())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("faces_per_s", 0.5),
        ("text_every_frames", 0),
        ("box_margin", 0.1),
        ("blur_min_sigma", 10.0),
        ("track_iou", 0.0),
        ("proxy_crf", 60),
        ("margin_after_s", -0.1),
        ("encoder_threads", 0),
    ],
)
def test_settings_below_the_guides_floor_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        PrivacyConfig(**{name: value})
