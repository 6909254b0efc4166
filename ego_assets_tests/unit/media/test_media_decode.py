from __future__ import annotations

import io
import threading
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ego_assets.media.decode import DecodedFrame, VideoReader, decode_frames
from ego_assets.media.timeline import read_timeline
from ego_assets.schema.errors import MediaError


def shown_index(frame: DecodedFrame) -> int:
    """Which frame the picture says it is."""
    return round((float(frame.luma().mean()) - 20) / 3)


def decoder_threads() -> int:
    return sum(thread.name == "video-decode" for thread in threading.enumerate())


@pytest.mark.parametrize("prefetch", [0, 1, 8])
@pytest.mark.parametrize("threads", [0, 1, 3])
def test_all_frames_in_presentation_order(make_clip, prefetch: int, threads: int) -> None:
    path = make_clip(frames=30, bframes=3)
    frames = list(decode_frames(path, prefetch=prefetch, threads=threads))
    assert [frame.index for frame in frames] == list(range(30))
    assert [shown_index(frame) for frame in frames] == list(range(30))
    assert [frame.timestamp_ns for frame in frames] == read_timeline(path).timestamps_ns.tolist()
    assert decoder_threads() == 0


def test_a_file_object_is_rewound_and_left_open(make_clip) -> None:
    file = io.BytesIO(make_clip(frames=10).read_bytes())
    for _ in range(2):
        assert sum(1 for _ in decode_frames(file)) == 10
    assert not file.closed


@pytest.fixture(params=["clip.mp4", "clip.mkv"])
def long_clip(make_clip, request: pytest.FixtureRequest) -> Path:
    return make_clip(request.param, frames=75, gop=9, bframes=2)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.integers(0, 74), max_size=6))
def test_chosen_frames_are_the_true_ones(long_clip: Path, indices: set[int]) -> None:
    with VideoReader(long_clip, indices=indices) as reader:
        frames = list(reader.frames())
    assert [frame.index for frame in frames] == sorted(indices)
    assert [shown_index(frame) for frame in frames] == sorted(indices)
    stamps = read_timeline(long_clip).timestamps_ns
    assert [frame.timestamp_ns for frame in frames] == stamps[sorted(indices)].tolist()
    assert reader.frames_lost == 0


@pytest.mark.parametrize("open_gop", ["0", "1"])
def test_seeking_saves_decoding(make_clip, monkeypatch: pytest.MonkeyPatch, open_gop: str) -> None:
    path = make_clip(
        frames=75, gop=10, codec_options={"crf": "10", "x264-params": f"open-gop={open_gop}:scenecut=0"}
    )
    seeks = []
    original = VideoReader._seek
    monkeypatch.setattr(
        VideoReader,
        "_seek",
        lambda self, packets, index: seeks.append(index) or original(self, packets, index),
    )
    assert [shown_index(frame) for frame in decode_frames(path, indices=[3, 5, 12, 70, 74])] == [
        3,
        5,
        12,
        70,
        74,
    ]
    assert seeks == [3, 70]


def test_indices_outside_the_video(make_clip) -> None:
    path = make_clip(frames=5)
    for indices in ([5], [-1, 2]):
        with pytest.raises(ValueError, match="expected 0 to 4"):
            list(decode_frames(path, indices=indices))
    assert list(decode_frames(path, indices=[])) == []


def test_abandoning_ends_the_thread_and_closes_the_file(make_clip) -> None:
    frames = decode_frames(make_clip(frames=60), prefetch=2)
    assert next(frames).index == 0
    assert decoder_threads() == 1
    frames.close()
    assert decoder_threads() == 0


def test_closing_the_reader_ends_its_iterators(make_clip) -> None:
    reader = VideoReader(make_clip(frames=60), prefetch=2)
    frames = reader.frames()
    next(frames)
    reader.close()
    assert list(frames) == []
    with pytest.raises(RuntimeError, match="second"):
        reader.frames()


def test_an_error_of_the_file_object_reaches_the_caller(make_clip, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(io.BytesIO):
        failing = False

        def read(self, size: int | None = -1) -> bytes:
            if self.failing:
                raise ConnectionError("the store went away")
            return super().read(size)

    monkeypatch.setattr("ego_assets.media.source.READ_BUFFER_BYTES", 256)
    file = Failing(make_clip(frames=40).read_bytes())
    with VideoReader(file) as reader:
        file.failing = True
        with pytest.raises(ConnectionError, match="went away"):
            list(reader.frames())
    assert decoder_threads() == 0


def damaged(path: Path, parts: int = 3) -> Path:
    """Overwrites stretches of the picture data with noise."""
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    noise = np.random.default_rng(0).integers(0, 255, 200, np.uint8).tobytes()
    for part in range(1, parts + 1):
        at = start + (len(content) - start) * part // (parts + 1)
        content[at : at + len(noise)] = noise
    path.write_bytes(content)
    return path


def test_damage_inside_leaves_gaps_and_shifts_nothing(make_clip) -> None:
    path = damaged(make_clip(frames=60, gop=8, options={"movflags": "+faststart"}))
    stamps = read_timeline(path).timestamps_ns
    with VideoReader(path, threads=1) as reader:
        frames = list(reader.frames())
    assert reader.decode_errors > 0
    assert len(frames) > 30
    assert reader.frames_lost == 60 - len(frames)
    assert all(frame.timestamp_ns == stamps[frame.index] for frame in frames)
    assert [frame.index for frame in frames] == sorted({frame.index for frame in frames})
    with pytest.raises(MediaError, match="damaged") as caught:
        list(decode_frames(path, strict=True))
    assert caught.value.code == "damaged"


def test_a_cut_file_yields_frames_up_to_the_damage(make_clip, cut_pictures) -> None:
    path = cut_pictures(make_clip(frames=60, options={"movflags": "+faststart"}))
    with VideoReader(path) as reader:
        frames = list(reader.frames())
    assert 5 < len(frames) < 60
    assert [shown_index(frame) for frame in frames[:5]] == list(range(5))
    with VideoReader(path, indices=[0, len(frames) - 1]) as reader:
        assert [frame.index for frame in reader.frames()] == [0, len(frames) - 1]


def test_a_cut_matroska_file_has_lost_its_seek_table(make_clip) -> None:
    path = make_clip("clip.mkv", frames=75, gop=9)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    count = read_timeline(path).frame_count
    assert 20 < count < 75
    chosen = [0, count // 2, count - 5]
    assert [shown_index(frame) for frame in decode_frames(path, indices=chosen)] == chosen


def test_luma_is_a_read_only_view(make_clip) -> None:
    frame = next(decode_frames(make_clip(frames=3)))
    assert frame.luma().shape == (48, 64)
    assert not frame.luma().flags.writeable
    assert np.shares_memory(frame.luma(), np.frombuffer(frame.frame.planes[0], np.uint8))


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuvj444p", "yuv420p10le", "nv12", "gray"])
def test_luma_keeps_coded_values(pixel_format: str) -> None:
    source = av.VideoFrame(50, 30, pixel_format)
    deep = pixel_format.endswith("10le")
    values = np.arange(256).repeat(8)[: 50 * 30].astype(np.uint8).reshape(30, 50)
    plane = source.planes[0]
    rows = np.zeros((30, plane.line_size // (2 if deep else 1)), np.uint16 if deep else np.uint8)
    rows[:, :50] = values.astype(np.uint16) << 2 if deep else values
    plane.update(rows.tobytes())
    assert np.array_equal(DecodedFrame(0, 0, source, 0).luma(), values)


def test_luma_of_rgb_pictures() -> None:
    source = av.VideoFrame.from_ndarray(np.full((30, 50, 3), 200, np.uint8), "bgr24")
    luma = DecodedFrame(0, 0, source, 0).luma()
    assert luma.shape == (30, 50)
    assert abs(int(luma[10, 10]) - 200) <= 2


def marked_picture() -> np.ndarray:
    """Red upper left quarter, blue elsewhere, 64x48."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[..., 0] = 200
    picture[:24, :32] = (0, 0, 200)
    return picture


@pytest.mark.parametrize(
    ("rotation_deg", "corner", "shape"),
    [(0, (2, 2), (48, 64)), (90, (2, 45), (64, 48)), (180, (45, 61), (48, 64)), (270, (61, 2), (64, 48))],
)
def test_bgr_turns_upright(rotation_deg: int, corner: tuple[int, int], shape: tuple[int, int]) -> None:
    coded = av.VideoFrame.from_ndarray(marked_picture(), "bgr24").reformat(format="yuv444p")
    frame = DecodedFrame(0, 0, coded, rotation_deg)
    upright = frame.bgr()
    assert upright.shape == (*shape, 3)
    assert upright[corner][2] > 150 and upright[corner][0] < 60
    assert frame.bgr(upright=False)[2, 2][2] > 150


@pytest.mark.parametrize(
    ("max_side", "shape"), [(None, (48, 64)), (100, (48, 64)), (32, (24, 32)), (1, (1, 1))]
)
def test_bgr_is_reduced_and_never_enlarged(max_side: int | None, shape: tuple[int, int]) -> None:
    coded = av.VideoFrame.from_ndarray(marked_picture(), "bgr24").reformat(format="yuv420p")
    assert DecodedFrame(0, 0, coded, 0).bgr(max_side=max_side).shape[:2] == shape
    with pytest.raises(ValueError, match="max_side"):
        DecodedFrame(0, 0, coded, 0).bgr(max_side=0)
