from __future__ import annotations

import io
import struct
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ego_assets.media.decode import decode_frames
from ego_assets.media.timeline import ns_to_ticks, read_timeline, ticks_array_to_ns, ticks_to_ns
from ego_assets.schema.errors import MediaError

TIME_BASES = st.builds(Fraction, st.integers(1, 1001), st.integers(1001, 1_000_000))


@given(st.lists(st.integers(-(2**32), 2**32), max_size=20), TIME_BASES)
def test_ticks_and_nanoseconds_convert_exactly(ticks: list[int], time_base: Fraction) -> None:
    expected = [round(tick * time_base * 1_000_000_000) for tick in ticks]
    assert [ticks_to_ns(tick, time_base) for tick in ticks] == expected
    assert ticks_array_to_ns(np.array(ticks, np.int64), time_base).tolist() == expected
    assert [ns_to_ticks(value, time_base) for value in expected] == ticks


def test_half_nanoseconds_round_to_even() -> None:
    time_base = Fraction(1, 2_000_000_000)
    assert [ticks_to_ns(tick, time_base) for tick in (1, 3, 5, -1)] == [0, 2, 2, 0]
    assert ticks_array_to_ns(np.array([1, 3, 5, -1]), time_base).tolist() == [0, 2, 2, 0]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mov", "clip.mkv"])
@pytest.mark.parametrize("bframes", [0, 3])
def test_agrees_with_decoding(make_clip, name: str, bframes: int) -> None:
    path = make_clip(name, frames=25, bframes=bframes)
    timeline = read_timeline(path)
    assert timeline.frame_count == 25
    assert timeline.frame_rate == 30
    assert timeline.timestamps_ns.tolist() == [frame.timestamp_ns for frame in decode_frames(path)]
    assert not timeline.is_variable
    assert timeline.missing_count == timeline.duplicate_count == 0


def test_a_file_object_gives_the_same(make_clip) -> None:
    path = make_clip()
    file = io.BytesIO(path.read_bytes())
    file.seek(77)
    assert read_timeline(file).timestamps_ns.tolist() == read_timeline(path).timestamps_ns.tolist()


@pytest.mark.parametrize("trimmed_frames", [1, 4, 13])
@pytest.mark.parametrize("bframes", [0, 2])
def test_frames_trimmed_by_an_edit_list_are_left_out(
    make_clip, patch_box, trimmed_frames: int, bframes: int
) -> None:
    path = make_clip(frames=20, bframes=bframes, options={"video_track_timescale": "15360"})
    content = path.read_bytes()
    start = content.index(b"elst") + 4
    duration, media_time = struct.unpack(">Ii", content[start + 8 : start + 16])
    patch_box(path, b"elst", 8, struct.pack(">Ii", duration, media_time + 512 * trimmed_frames))
    stamps = read_timeline(path).timestamps_ns.tolist()
    decoded = list(decode_frames(path))
    assert len(stamps) == 20 - trimmed_frames
    assert [frame.timestamp_ns for frame in decoded] == stamps
    assert [frame.index for frame in decoded] == list(range(20 - trimmed_frames))
    assert [round((int(f.luma()[0, 0]) - 20) / 3) for f in decoded] == list(range(trimmed_frames, 20))


def test_dropped_frames_do_not_lower_the_rate(make_clip) -> None:
    kept = [index for index in range(60) if index % 6 != 5]
    timeline = read_timeline(make_clip(pts=[512 * index for index in kept]))
    assert timeline.frame_rate == 30
    assert timeline.frame_count == 50


def test_variable_rate(make_clip) -> None:
    pts = [0, 500, 1500, 1700, 9000, 9700, 12000, 40000]
    timeline = read_timeline(make_clip(pts=pts, time_base=Fraction(1, 90000)))
    assert timeline.timestamps_ns.tolist() == [round(Fraction(p, 90000) * 10**9) for p in pts]
    assert timeline.is_variable
    assert 0 < timeline.frame_rate <= 1000


@pytest.mark.parametrize(("interval_s", "rate"), [(2, Fraction(1, 2)), (3600, Fraction(1, 3600))])
def test_time_lapse(make_clip, interval_s: int, rate: Fraction) -> None:
    pts = [index * interval_s * 1000 for index in range(5)]
    assert read_timeline(make_clip(pts=pts, time_base=Fraction(1, 1000))).frame_rate == rate


def test_a_cut_file_ends_early(make_clip, cut_pictures) -> None:
    path = make_clip(frames=40, options={"movflags": "+faststart"})
    whole = read_timeline(path)
    cut = read_timeline(cut_pictures(path))
    assert 0 < cut.frame_count < 40
    assert set(cut.timestamps_ns.tolist()) < set(whole.timestamps_ns.tolist())


def test_a_stream_without_frames(make_clip) -> None:
    path = make_clip(options={"movflags": "+faststart"})
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"mdat") + 4])
    with pytest.raises(MediaError) as caught:
        read_timeline(path)
    assert caught.value.code == "no_frames"
