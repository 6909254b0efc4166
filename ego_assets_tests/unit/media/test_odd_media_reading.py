"""Reading odd files: what the platform sees, against what was meant and against FFmpeg's own numbers."""

from __future__ import annotations

import io
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from ego_assets.media.decode import DecodedFrame, VideoReader, decode_frames
from ego_assets.media.probe import probe
from ego_assets.media.sampling import sample_frames
from ego_assets.media.timeline import read_timeline
from ego_assets.schema.timeline import NANOSECONDS
from ego_assets_tests.odd_media import (
    ODD_CLIPS,
    OddClip,
    corner_colours,
    expected_colours,
    odd_clip,
    shown_number,
)

#: Files whose clock is set back: FFmpeg passes the stamps on as they are, so its numbers are not a time line.
#: The platform's is the right one to train with: it ascends, and the order of the pictures is kept.
SET_BACK = {"jumps_back", "jumps_back_b_frames", "one_stamp_jumps_back"}


@dataclass(frozen=True)
class Reference:
    """What FFmpeg says through PyAV alone.

    Attributes:
        packets: Packets of the video stream that are shown.
        pts: Presentation times of the decoded frames, in their order.
        time_base: Seconds per tick.
        declared_frames: Frames as the container declares them, 0 for unknown.
        duration_s: Duration of the container.
        size: Width and height as coded.
        streams: Number of streams.
    """

    packets: int
    pts: tuple[int, ...]
    time_base: Fraction
    declared_frames: int
    duration_s: float | None
    size: tuple[int, int]
    streams: int


def reference(path: Path) -> Reference:
    with av.open(str(path)) as container:
        # The last one is the recording in every file here that has two.
        stream = max(container.streams.video, key=lambda s: s.width)
        packets = sum(1 for p in container.demux(stream) if p.size and not p.is_discard)
    with av.open(str(path)) as container:
        stream = max(container.streams.video, key=lambda s: s.width)
        pts = tuple(frame.pts for frame in container.decode(stream))
        assert None not in pts
        return Reference(
            packets=packets,
            pts=pts,
            time_base=stream.time_base,
            declared_frames=stream.frames,
            duration_s=None if container.duration is None else container.duration / 1e6,
            size=(stream.width, stream.height),
            streams=len(container.streams),
        )


@pytest.fixture(params=ODD_CLIPS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def clip(name: str) -> OddClip:
    return odd_clip(name)


def check_pictures(frames: list[DecodedFrame], clip: OddClip, numbers: list[int]) -> None:
    """Order and completeness, orientation and colours, all from the pixels."""
    assert [shown_number(frame.bgr()) for frame in frames] == numbers
    found = np.mean([corner_colours(frame.bgr()) for frame in frames], axis=0)
    assert np.abs(found - expected_colours()).max() <= clip.tolerance, found.round()


def test_every_frame_is_read_in_order_upright_and_in_its_colours(clip: OddClip) -> None:
    with VideoReader(clip.path) as reader:
        frames = list(reader.frames())
    check_pictures(frames, clip, list(clip.numbers))
    assert {frame.rotation_deg for frame in frames} == {clip.rotation_deg}
    assert (reader.decode_errors, reader.frames_lost) == (0, 0)
    assert [frame.index for frame in frames] == list(range(len(clip.numbers)))


def test_the_time_line_is_the_one_meant_and_the_one_of_the_reader(clip: OddClip) -> None:
    timeline = read_timeline(clip.path)
    assert timeline.timestamps_ns.tolist() == [frame.timestamp_ns for frame in decode_frames(clip.path)]
    if clip.times_s is not None:
        assert timeline.timestamps_ns.tolist() == [round(time_s * NANOSECONDS) for time_s in clip.times_s]
        assert timeline.stepped_back_count == 0


def test_frame_count_and_stamps_agree_with_ffmpeg(name: str, clip: OddClip) -> None:
    timeline, own = read_timeline(clip.path), reference(clip.path)
    assert timeline.frame_count == own.packets == len(own.pts)
    assert timeline.time_base == own.time_base
    if name not in SET_BACK:
        assert timeline.timestamps_ns.tolist() == [
            round(pts * own.time_base * NANOSECONDS) for pts in own.pts
        ]


def test_the_probe_agrees_with_ffmpeg(clip: OddClip) -> None:
    found, own = probe(clip.path), reference(clip.path)
    assert (found.coded_width, found.coded_height) == own.size
    assert (found.declared_frame_count or 0) == own.declared_frames
    assert len(found.other_streams) == own.streams - 1
    assert found.rotation_deg == clip.rotation_deg
    if own.duration_s is None:
        assert found.declared_duration_s is None
    elif own.streams == 1 and found.declared_duration_s is not None:
        # An empty edit counts for FFmpeg's stream and not for its container.
        late_s = float((clip.times_s or (Fraction(0),))[0])
        assert found.declared_duration_s == pytest.approx(own.duration_s, abs=0.002 + late_s)


def test_chosen_frames_are_the_true_ones(clip: OddClip) -> None:
    last = len(clip.numbers) - 1
    chosen = sorted({0, 1, last // 3, last - 1, last})
    with VideoReader(clip.path, indices=chosen) as reader:
        frames = list(reader.frames())
    assert [frame.index for frame in frames] == chosen
    assert [shown_number(frame.bgr()) for frame in frames] == [clip.numbers[index] for index in chosen]
    stamps = read_timeline(clip.path).timestamps_ns
    assert [frame.timestamp_ns for frame in frames] == stamps[chosen].tolist()
    assert reader.frames_lost == 0


def test_sampling_takes_the_frames_nearest_to_the_grid(clip: OddClip) -> None:
    sampled = sample_frames(clip.path, frames_per_second=10)
    stamps = read_timeline(clip.path).timestamps_ns
    grid = np.arange(stamps[0], stamps[-1] + 1, NANOSECONDS // 10)
    nearest = np.abs(stamps[:, None] - grid).min(axis=0)
    assert (np.abs(stamps[sampled.frame_index][:, None] - grid).min(axis=0) <= nearest).all()
    pictures = list(sampled.stream())
    assert [shown_number(picture.image) for picture in pictures] == [
        clip.numbers[index] for index in sampled.frame_index
    ]


def test_a_file_object_is_read_like_a_path(clip: OddClip) -> None:
    file = io.BytesIO(clip.path.read_bytes())
    assert probe(file) == probe(clip.path)
    from_file = [(f.index, f.timestamp_ns) for f in decode_frames(file)]
    assert from_file == [(f.index, f.timestamp_ns) for f in decode_frames(clip.path)]


def test_time_line_of_repeated_stamps() -> None:
    timeline = read_timeline(odd_clip("repeats_stamps").path)
    assert timeline.duplicate_count == 2
    assert timeline.stepped_back_count == 0


@pytest.mark.parametrize(
    ("name", "moved"), [("jumps_back", 12), ("jumps_back_b_frames", 8), ("one_stamp_jumps_back", 1)]
)
def test_a_clock_that_is_set_back_goes_on(name: str, moved: int) -> None:
    timeline = read_timeline(odd_clip(name).path)
    assert timeline.stepped_back_count == moved
    intervals_ms = np.diff(timeline.timestamps_ns) / 1e6
    assert intervals_ms == pytest.approx(np.full(23, 100 / 3), abs=1.4), "milliseconds of Matroska, rounded"


def test_probe_names_what_is_unusual() -> None:
    found = {name: probe(odd_clip(name).path) for name in ODD_CLIPS}
    assert {name for name, p in found.items() if p.transfer == "pq"} == {"hdr_pq"}
    assert {name for name, p in found.items() if p.transfer == "hlg"} == {"hdr_hlg"}
    assert {name for name, p in found.items() if p.interlaced} == {
        name for name in ODD_CLIPS if name.startswith("interlaced")
    }
    assert {name for name, p in found.items() if p.full_range} == {
        "full_range",
        "full_range_10_bit",
        "mjpeg",
    }
    assert {name for name, p in found.items() if p.mirrored} == {
        "mirrored",
        "mirrored_90",
        "mirrored_270",
        "upside_down_mirrored",
    }
    assert found["wide_pixels"].pixel_aspect == (4, 3)
    assert found["interlaced_dv"].pixel_aspect == (16, 15)
    assert found["hevc_10_bit"].bit_depth == found["prores"].bit_depth == 10
    assert {s.kind for s in found["time_code_track"].other_streams} == {"audio", "data"}
    assert [s.kind for s in found["telemetry_track"].other_streams] == ["data"]
    assert [s.kind for s in found["thumbnail_track"].other_streams] == ["video"]


@pytest.mark.parametrize("name", [name for name in ODD_CLIPS if name.startswith("interlaced")])
def test_interlaced_pictures_show_one_moment(name: str) -> None:
    """The woven picture has a comb where the bar moves, the frames that the platform reads have none."""
    path = odd_clip(name).path
    with av.open(str(path)) as container:
        woven = [_combing(frame.reformat(format="gray").to_ndarray()) for frame in container.decode(video=0)]
    whole = [_combing(frame.luma()) for frame in decode_frames(path)]
    assert min(woven[2:-2]) > 30
    assert max(whole[2:-2]) < 6
    # The earlier field counts: picture 2 n + 0 shows the bar at an even eighth of the width.
    for frame in list(decode_frames(path))[2:-2]:
        bar = frame.luma()[round(frame.frame.height * 0.7)].reshape(8, -1).mean(axis=1)
        assert int(bar.argmax()) == 2 * frame.index % 8


def _combing(luma: np.ndarray) -> float:
    """How much neighbouring lines differ more than every second one, where the bar moves."""
    height = luma.shape[0]
    band = luma[round(height * 0.65) : round(height * 0.73)].astype(float)
    neighbours, seconds = np.abs(np.diff(band, axis=0)), np.abs(band[2:] - band[:-2])
    return float((neighbours[1:] - seconds).clip(0).max(axis=0).mean())
