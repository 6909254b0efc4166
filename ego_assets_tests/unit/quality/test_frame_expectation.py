from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ego_assets.quality.completeness import count_gap_frames, expect_frames
from ego_assets.schema.media import MediaProbe, StreamInfo
from ego_assets.schema.timeline import Timeline

AUDIO = StreamInfo(index=1, kind="audio", codec="aac")


def probe(duration_s, rate=Fraction(30), **fields):
    return MediaProbe(
        container="mp4", codec="h264", pixel_format="yuv420p", bit_depth=8, coded_width=160, coded_height=120,
        rotation_deg=0, frame_rate=rate, declared_duration_s=duration_s, declared_frame_count=None, size_bytes=1,
        **fields,
    )  # fmt: skip


def grid(count, rate=Fraction(30), *, tick_s=Fraction(1, 90000), start_s=0):
    """Time stamps of a constant rate, rounded to ticks as containers do."""
    seconds = [start_s + i / rate for i in range(count)]
    return np.array([round(round(s / tick_s) * tick_s * 1_000_000_000) for s in seconds], dtype=np.int64)


def timeline(stamps, rate=Fraction(30)):
    return Timeline(np.asarray(stamps, dtype=np.int64), Fraction(rate), Fraction(1, 90000))


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), 24, 50, 60, 120, 240])
@pytest.mark.parametrize("tick_s", [Fraction(1, 90000), Fraction(1, 1000)])
def test_a_whole_clip_misses_nothing(rate, tick_s):
    rate = Fraction(rate)
    found = expect_frames(timeline(grid(200, rate, tick_s=tick_s), rate), probe(float(200 / rate), rate))
    assert (found.expected_frame_count, found.gap_frame_count) == (200, 0)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(40, 200).flatmap(
        lambda n: st.tuples(st.just(n), st.sets(st.integers(1, n - 2), min_size=1, max_size=n // 5))
    ),
    st.sampled_from([Fraction(1, 90000), Fraction(1, 1000)]),
)
def test_dropped_frames_are_counted(clip, tick_s):
    count, dropped = clip
    stamps = np.delete(grid(count, tick_s=tick_s), sorted(dropped))
    assert count_gap_frames(stamps) == len(dropped)
    assert expect_frames(timeline(stamps), probe(count / 30)).expected_frame_count == count


def test_every_third_frame_dropped_is_seen():
    stamps = grid(90)[[i for i in range(90) if i % 3 != 1]]
    assert count_gap_frames(stamps) == 30


def test_a_steady_lower_rate_is_not_loss():
    stamps = np.concatenate([grid(60), grid(30, Fraction(15), start_s=2)])
    assert count_gap_frames(stamps) == 0


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), spread=st.floats(0.02, 0.35), count=st.integers(40, 200))
def test_jitter_is_not_loss(seed, spread, count):
    factors = np.random.default_rng(seed).uniform(1 - spread, 1 + spread, count)
    stamps = np.concatenate([[0], np.cumsum((33_333_333 * factors).astype(np.int64))])
    assert count_gap_frames(stamps) == 0


def test_a_pause_in_footage_without_a_grid_is_loss():
    intervals = np.random.default_rng(0).uniform(20e6, 60e6, 80).astype(np.int64)
    intervals[40] = 1_000_000_000
    assert count_gap_frames(np.concatenate([[0], np.cumsum(intervals)])) > 10


def test_duplicates_and_single_frames_do_not_break_it():
    assert count_gap_frames(np.zeros(5, np.int64)) == 0
    assert expect_frames(timeline([0]), probe(1 / 30)).expected_frame_count == 1
    assert expect_frames(timeline([0, 0, 0]), probe(None)).expected_frame_count == 3


def test_a_cut_off_file_is_expected_to_have_its_declared_length():
    assert expect_frames(timeline(grid(60)), probe(4.0)).expected_frame_count == 120


def test_an_absurd_declared_duration_expects_absurdly_many():
    found = expect_frames(timeline(grid(60)), probe(36_000.0))
    assert found.expected_frame_count == 1_080_000
    assert found.duration_s == 36_000.0


def test_an_edit_list_that_shows_less_expects_less():
    assert expect_frames(timeline(grid(90)), probe(2.0)).expected_frame_count == 60


@pytest.mark.parametrize("declared", [None, 0.0, -3.0, float("nan"), float("inf")])
def test_unusable_durations_are_ignored(declared):
    found = expect_frames(timeline(grid(60)), probe(declared))
    assert found.expected_frame_count == 60
    assert found.duration_s == pytest.approx(2.0, abs=0.01)


def test_rounding_and_sound_that_ends_later_are_tolerated():
    assert expect_frames(timeline(grid(60)), probe(2.034)).expected_frame_count == 60
    assert expect_frames(timeline(grid(60)), probe(2.09, other_streams=(AUDIO,))).expected_frame_count == 60
    assert expect_frames(timeline(grid(60)), probe(2.09)).expected_frame_count > 60


def test_a_duration_counted_from_zero_is_understood():
    assert expect_frames(timeline(grid(60, start_s=1)), probe(3.0)).expected_frame_count == 60


def test_without_time_stamps_the_declaration_counts():
    assert expect_frames(timeline([]), probe(2.0)).expected_frame_count == 60
    assert expect_frames(timeline([]), probe(None)).expected_frame_count == 0
