"""Files that are wrong: each is read as far as it can be, what is missing is counted, or a clear error says why not."""

from __future__ import annotations

import struct
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from ego_assets.media.decode import MAX_DECODER_BYTES, VideoReader, decode_frames
from ego_assets.media.probe import probe
from ego_assets.media.timeline import read_timeline
from ego_assets.schema.errors import MediaError
from ego_assets_tests.odd_media import (
    Coding,
    Look,
    corner_colours,
    expected_colours,
    rewrap,
    set_block_times,
    set_box,
    shown_number,
    write,
    write_large,
)

H264 = Coding(gop=12)
HEVC = Coding(
    codec="libx265",
    options=(
        ("preset", "ultrafast"),
        ("x265-params", "log-level=none:pools=none:keyint=10:bframes=3:open-gop=1"),
    ),
)


@pytest.mark.parametrize(("suffix", "bframes"), [(".mp4", 2), (".mkv", 0)])
def test_what_precedes_the_first_keyframe_is_counted_as_lost(
    tmp_path: Path, suffix: str, bframes: int
) -> None:
    whole = write(tmp_path / f"whole{suffix}", frames=40, coding=Coding(gop=12, bframes=bframes))
    path = rewrap(whole, tmp_path / f"cut{suffix}", keep=lambda index: index >= 5)
    with VideoReader(path) as reader:
        frames = list(reader.frames())
    assert [shown_number(frame.bgr()) for frame in frames] == list(range(12, 40))
    assert reader.frames_lost == read_timeline(path).frame_count - len(frames) == 7
    stamps = read_timeline(path).timestamps_ns
    assert all(frame.timestamp_ns == stamps[frame.index] for frame in frames)


def test_leading_pictures_of_an_open_gop_without_their_past_are_lost_and_not_shown_broken(
    tmp_path: Path,
) -> None:
    whole = write(tmp_path / "whole.mp4", frames=40, coding=HEVC)
    path = rewrap(whole, tmp_path / "cut.mp4", keep=lambda index: index >= 10)
    with VideoReader(path) as reader:
        frames = list(reader.frames())
    numbers = [shown_number(frame.bgr()) for frame in frames]
    assert numbers == list(range(numbers[0], 40))
    assert reader.frames_lost == 30 - len(frames) > 0


CODINGS = {
    "h264": (".mp4", Look(), H264),
    "hevc": (".mp4", Look(pixel_format="yuv420p10le"), HEVC),
    "vp9": (
        ".mkv",
        Look(),
        Coding(codec="libvpx-vp9", options=(("deadline", "realtime"), ("cpu-used", "8"))),
    ),
    "mpeg2": (".mkv", Look(), Coding(codec="mpeg2video", time_base=Fraction(1, 30))),
    "prores": (".mov", Look(pixel_format="yuv422p10le"), Coding(codec="prores_ks")),
    "mjpeg": (".mov", Look(pixel_format="yuvj420p", full_range=True), Coding(codec="mjpeg")),
}


@pytest.mark.parametrize("name", CODINGS)
def test_noise_in_the_middle_costs_only_what_it_hits(tmp_path: Path, name: str) -> None:
    suffix, look, coding = CODINGS[name]
    path = write(tmp_path / f"clip{suffix}", frames=30, look=look, coding=coding)
    content = bytearray(path.read_bytes())
    # The pictures lie before the index in MP4, and end shortly before the file's end in Matroska.
    end = content.index(b"moov") if suffix != ".mkv" else len(content)
    noise = np.random.default_rng(1).integers(0, 255, 60, np.uint8).tobytes()
    content[end // 2 : end // 2 + len(noise)] = noise
    path.write_bytes(content)
    timeline = read_timeline(path)
    with VideoReader(path, threads=1) as reader:
        frames = list(reader.frames())
    assert [shown_number(frame.bgr()) for frame in frames[:5]] == list(range(5))
    assert reader.frames_lost == timeline.frame_count - len(frames)
    assert all(frame.timestamp_ns == timeline.timestamps_ns[frame.index] for frame in frames)
    assert [frame.index for frame in frames] == sorted({frame.index for frame in frames})


def test_frames_without_any_time_stamp_are_lost_and_counted(tmp_path: Path) -> None:
    """FFmpeg gives Matroska's negative times as none at all, so nobody can say when these frames are shown."""
    path = set_block_times(
        write(tmp_path / "clip.mkv", coding=Coding(bframes=0)), lambda _, old_ms: old_ms - 100
    )
    with VideoReader(path) as reader:
        frames = list(reader.frames())
    assert [shown_number(frame.bgr()) for frame in frames] == list(range(3, 24))
    assert reader.frames_lost == 3
    assert read_timeline(path).frame_count == 21


def test_decoding_times_before_zero_are_no_problem(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4", coding=Coding(bframes=3, gop=8))
    assert [shown_number(frame.bgr()) for frame in decode_frames(path)] == list(range(24))
    assert read_timeline(path).timestamps_ns[0] == 0


def test_a_pause_of_hours_is_kept(tmp_path: Path) -> None:
    pts = [512 * index + (15360 * 7200 if index >= 8 else 0) for index in range(16)]
    path = write(tmp_path / "clip.mp4", pts=pts)
    timeline = read_timeline(path)
    assert timeline.timestamps_ns.tolist() == [round(t * 1e9 / 15360) for t in pts]
    assert timeline.frame_rate == 30
    assert [shown_number(frame.bgr()) for frame in decode_frames(path)] == list(range(16))
    assert timeline.frames_at_rate(30).tolist() == list(range(16))


def test_a_clock_that_counts_from_1970_is_kept(tmp_path: Path) -> None:
    pts = [1_600_000_000_000 + round(1000 * index / 30) for index in range(8)]
    path = write(tmp_path / "clip.mkv", pts=pts, coding=Coding(time_base=Fraction(1, 1000)))
    assert read_timeline(path).timestamps_ns.tolist() == [t * 1_000_000 for t in pts]


def test_frames_that_lie_days_apart_are_refused(tmp_path: Path) -> None:
    pts = [512 * index + (15360 * 86_400 * 3 if index >= 8 else 0) for index in range(16)]
    path = write(tmp_path / "clip.mkv", pts=pts)
    with pytest.raises(MediaError, match="time stamps cannot be right") as caught:
        read_timeline(path)
    assert caught.value.code == "absurd_timestamps"


def test_an_edit_list_that_shows_nothing_of_the_media(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4", coding=Coding(bframes=0))
    # Starts long after the media's end.
    set_box(path, b"elst", 8, struct.pack(">Ii", 1000, 15360 * 500))
    assert list(decode_frames(path)) == []
    with pytest.raises(MediaError, match="without frames") as caught:
        read_timeline(path)
    assert caught.value.code == "no_frames"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_large(tmp_path_factory.mktemp("large") / "clip.mp4", frames=4)


def test_pictures_of_5312_by_2988_in_10_bits(large: Path) -> None:
    found = probe(large)
    assert (found.width, found.height, found.bit_depth, found.codec) == (5312, 2988, 10, "hevc")
    images = [frame.bgr(max_side=960) for frame in decode_frames(large)]
    assert [shown_number(image) for image in images] == [682] * 4
    assert np.abs(corner_colours(images[3]) - expected_colours()).max() < 8
    assert read_timeline(large).frame_count == 4


def test_large_pictures_are_decoded_by_fewer_threads(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    with VideoReader(large) as reader:
        threads = reader._stream.codec_context.thread_count
    assert 2 <= threads <= MAX_DECODER_BYTES // (5312 * 2988 * 3)


@pytest.mark.parametrize(("allowed_pictures", "ahead"), [(3, 3), (100, 8)])
def test_the_queue_of_decoded_frames_is_bounded_in_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed_pictures: int, ahead: int
) -> None:
    path = write(tmp_path / "clip.mp4", frames=40)
    monkeypatch.setattr("ego_assets.media.decode.MAX_PREFETCH_BYTES", allowed_pictures * 192 * 108 * 3 // 2)
    made: list[int] = []
    original = VideoReader._frame

    def counted(self: VideoReader, index: int, *rest: object) -> object:
        made.append(index)
        return original(self, index, *rest)

    monkeypatch.setattr(VideoReader, "_frame", counted)
    with VideoReader(path) as reader:
        frames = reader.frames()
        next(frames)
        deadline = time.monotonic() + 5
        while len(made) < ahead + 1 and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.05)
        assert len(made) == ahead + 1
