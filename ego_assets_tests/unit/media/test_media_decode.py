from __future__ import annotations

import io
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ego_assets.media import decode
from ego_assets.media.decode import DecodedFrame, VideoReader, as_decoded_by_cpu, decode_frames
from ego_assets.media.source import open_video
from ego_assets.media.timeline import packets_of, read_timeline
from ego_assets.schema.errors import BackendUnavailable, MediaError


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


def has_gpu_decoder(path: Path) -> bool:
    try:
        VideoReader(path, decoder="cuda").close()
    except BackendUnavailable:
        return False
    return True


def test_a_gpu_that_is_not_there_is_refused(make_clip) -> None:
    path = make_clip(frames=3)
    if has_gpu_decoder(path):
        pytest.skip("this machine has a GPU's decoder")
    with pytest.raises(BackendUnavailable, match=r"no GPU decoder.*Set EGO_DECODER=cpu"):
        VideoReader(path, decoder="cuda")


def test_a_gpu_gives_the_pictures_of_the_cpu(make_clip) -> None:
    path = make_clip(frames=30, bframes=3)
    if not has_gpu_decoder(path):
        pytest.skip("this machine has no GPU's decoder")
    pairs = zip(decode_frames(path), decode_frames(path, decoder="cuda"), strict=True)
    assert all(np.array_equal(ours.bgr(), theirs.bgr()) for ours, theirs in pairs)


def test_what_is_wrong_with_a_file_is_not_laid_to_the_gpu(tmp_path: Path) -> None:
    path = tmp_path / "notes.mp4"
    path.write_bytes(b"no video at all, but some words")
    with pytest.raises(MediaError):
        VideoReader(path, decoder="cuda")


class CopiedPacket:
    """A packet whose frames come as a GPU gives them: chroma in one plane."""

    def __init__(self, packet: av.Packet, *, pixel_format: str = "nv12", fails: bool = False) -> None:
        self._packet, self._format, self._fails = packet, pixel_format, fails

    def __getattr__(self, name: str) -> object:
        return getattr(self._packet, name)

    def decode(self) -> list[av.VideoFrame]:
        if self._fails:
            raise av.error.ExternalError(-1, "no decoding surface")
        return [frame.reformat(format=self._format) for frame in self._packet.decode()]


@pytest.fixture
def stand_in_gpu(monkeypatch: pytest.MonkeyPatch):
    """Replaces the GPU's decoder by the CPU's, in the GPU's layout."""

    def replace(**options: object) -> None:
        monkeypatch.setattr(decode, "_opened_on_gpu", lambda source, name: open_video(source, name=name))

        def copied(container, stream, *, on_damage):
            for number, packet in enumerate(packets_of(container, stream, on_damage=on_damage)):
                yield CopiedPacket(
                    packet,
                    **{key: value(number) if callable(value) else value for key, value in options.items()},
                )

        monkeypatch.setattr(decode, "packets_of", copied)

    return replace


@pytest.mark.parametrize("indices", [None, {3, 17, 29}])
def test_frames_copied_from_a_gpu_are_those_of_the_cpu(make_clip, stand_in_gpu, indices) -> None:
    path = make_clip(frames=30, bframes=3)
    expected = [
        (frame.index, frame.timestamp_ns, frame.bgr()) for frame in decode_frames(path, indices=indices)
    ]
    stand_in_gpu()
    found = list(decode_frames(path, indices=indices, decoder="cuda"))
    assert len(found) == len(expected)
    for frame, (index, timestamp_ns, picture) in zip(found, expected, strict=True):
        assert (frame.index, frame.timestamp_ns) == (index, timestamp_ns)
        assert np.array_equal(frame.bgr(), picture)
        assert shown_index(frame) == index


def test_frames_that_a_gpu_cannot_decode_are_not_passed_over(make_clip, stand_in_gpu) -> None:
    path = make_clip(frames=30)
    stand_in_gpu(fails=lambda number: number == 12)
    with pytest.raises(BackendUnavailable, match=r"cannot read it .*no decoding surface.*EGO_DECODER=cpu"):
        list(decode_frames(path, decoder="cuda"))


def test_layouts_that_a_gpu_gives_for_other_videos_are_refused(make_clip, stand_in_gpu) -> None:
    path = make_clip(frames=5)
    stand_in_gpu(pixel_format="p010le")
    with pytest.raises(BackendUnavailable, match="8-bit 4:2:0, and the GPU gave p010le"):
        list(decode_frames(path, decoder="cuda"))


@pytest.mark.parametrize("colour_range", [1, 2])
@pytest.mark.parametrize("size", [(64, 48), (66, 50), (322, 182)])
def test_weaving_planes_apart_changes_no_pixel(size: tuple[int, int], colour_range: int) -> None:
    noise = np.random.default_rng(5).integers(16, 235, (size[1] * 3 // 2, size[0]), dtype=np.uint8)
    frame = av.VideoFrame.from_ndarray(noise, format="yuv420p")
    frame.pts, frame.time_base, frame.color_range, frame.colorspace = 7, Fraction(1, 30), colour_range, 1
    copied = frame.reformat(format="nv12")
    back = as_decoded_by_cpu(copied)
    assert np.array_equal(back.to_ndarray(), frame.to_ndarray())
    assert (back.pts, back.time_base) == (7, Fraction(1, 30))
    assert (back.color_range, back.colorspace) == (colour_range, 1)
    assert np.array_equal(DecodedFrame(0, 0, back, 0).bgr(), DecodedFrame(0, 0, frame, 0).bgr())


def test_a_codec_that_the_gpu_has_no_decoder_for(make_clip, monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg then opens the stream for the CPU, which must not pass unnoticed."""
    path = make_clip(frames=3)
    monkeypatch.setattr(
        decode, "open_video", lambda source, *, name="", hwaccel=None: open_video(source, name=name)
    )
    with pytest.raises(BackendUnavailable, match="the GPU has no decoder for h264"):
        VideoReader(path, decoder="cuda")
