from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ego_assets.media.decode import decode_frames
from ego_assets.media.encode import VideoWriter
from ego_assets.media.probe import probe
from ego_assets.media.timeline import read_timeline, ticks_array_to_ns
from ego_assets.schema.errors import MediaError


def textured(index: int, width: int = 64, height: int = 48, pixel_format: str = "yuv420p") -> av.VideoFrame:
    picture = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    frame = av.VideoFrame.from_ndarray(np.roll(picture, 3 * index, axis=1), "bgr24")
    return frame.reformat(format=pixel_format)


def write(
    path: Path, pts: list[int], time_base: Fraction, rate: Fraction = Fraction(30), **options: object
) -> Path:
    size = {"width": 64, "height": 48} | {k: options.pop(k) for k in ("width", "height") if k in options}
    with VideoWriter(path, time_base=time_base, frame_rate=rate, **size, **options) as writer:
        for index, stamp in enumerate(pts):
            writer.write(textured(index, **size), pts=stamp)
    return path


SEQUENCES = {
    "constant": ([512 * i for i in range(20)], Fraction(1, 15360), Fraction(30)),
    "ntsc": ([1001 * i for i in range(20)], Fraction(1, 30000), Fraction(30000, 1001)),
    "ntsc_ticks": (list(range(20)), Fraction(1001, 30000), Fraction(30000, 1001)),
    "sixty": ([1000 * i for i in range(30)], Fraction(1, 60000), Fraction(60)),
    "late": ([777 + 1001 * i for i in range(20)], Fraction(1, 30000), Fraction(30000, 1001)),
    # No whole number of milliseconds, to which edit lists round by default.
    "late_90000": (
        [round(0.1234567 * 90000) + 3000 * i for i in range(10)],
        Fraction(1, 90000),
        Fraction(30),
    ),
    "late_15360": ([round(0.1234567 * 15360) + 512 * i for i in range(10)], Fraction(1, 15360), Fraction(30)),
    "hours_late": ([90000 * 7200 + 3003 * i for i in range(5)], Fraction(1, 90000), Fraction(30)),
    "variable": (
        [0, 500, 1500, 1501, 9000, 9700, 12000, 40000, 40001, 40002],
        Fraction(1, 90000),
        Fraction(30),
    ),
    "milliseconds": ([17, 50, 84, 117, 150, 184], Fraction(1, 1000), Fraction(30)),
    "nanoseconds": ([i * 33_333_333 for i in range(6)], Fraction(1, 10**9), Fraction(30)),
    "one": ([4], Fraction(1, 30), Fraction(30)),
}


@pytest.mark.parametrize("bframes", [True, False])
@pytest.mark.parametrize("name", SEQUENCES)
def test_time_stamps_come_back_exactly(tmp_path: Path, name: str, bframes: bool) -> None:
    pts, time_base, rate = SEQUENCES[name]
    path = write(tmp_path / "out.mp4", pts, time_base, rate, bframes=bframes)
    expected = ticks_array_to_ns(np.array(pts, np.int64), time_base).tolist()
    timeline = read_timeline(path)
    assert timeline.time_base == Fraction(1, time_base.denominator)
    assert timeline.timestamps_ns.tolist() == expected
    assert [frame.timestamp_ns for frame in decode_frames(path)] == expected
    if name not in ("variable", "one"):
        assert abs(timeline.frame_rate / rate - 1) < 0.02


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.integers(1, 5000), min_size=1, max_size=12),
    start=st.integers(0, 10**6),
    time_base=st.sampled_from(
        [Fraction(1, 600), Fraction(1, 1000), Fraction(1, 90000), Fraction(1001, 24000)]
    ),
    bframes=st.booleans(),
)
def test_any_ascending_stamps_in_nanoseconds_come_back(
    tmp_path: Path, steps: list[int], start: int, time_base: Fraction, bframes: bool
) -> None:
    stamps_ns = ticks_array_to_ns(start + np.cumsum(steps), time_base).tolist()
    path = tmp_path / "any.mp4"
    with VideoWriter(
        path,
        width=16,
        height=16,
        time_base=time_base,
        frame_rate=Fraction(30),
        preset="ultrafast",
        bframes=bframes,
    ) as writer:
        for index, stamp in enumerate(stamps_ns):
            writer.write(textured(index, 16, 16), timestamp_ns=stamp)
    assert read_timeline(path).timestamps_ns.tolist() == stamps_ns
    assert writer.moved_frames == 0


def test_repeated_stamps_keep_every_frame(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with VideoWriter(
        path, width=64, height=48, time_base=Fraction(1, 1000), frame_rate=Fraction(30)
    ) as writer:
        for index, stamp in enumerate([0, 33, 33, 33, 66]):
            writer.write(textured(index), pts=stamp)
    assert writer.moved_frames == 2
    assert (read_timeline(path).timestamps_ns // 10**6).tolist() == [0, 33, 34, 35, 66]


@pytest.mark.parametrize("rotation_deg", [0, 90, 180, 270])
def test_rotation_comes_back(tmp_path: Path, rotation_deg: int) -> None:
    path = write(tmp_path / "out.mp4", [0, 1], Fraction(1, 30), rotation_deg=rotation_deg)
    assert probe(path).rotation_deg == rotation_deg
    assert (probe(path).coded_width, probe(path).coded_height) == (64, 48)
    assert {frame.rotation_deg for frame in decode_frames(path)} == {rotation_deg}


@pytest.mark.parametrize(("width", "height"), [(65, 48), (64, 47), (33, 17)])
def test_odd_sizes_are_kept(tmp_path: Path, width: int, height: int) -> None:
    path = write(tmp_path / "out.mp4", [0, 1, 2], Fraction(1, 30), width=width, height=height)
    found = probe(path)
    assert (found.width, found.height, found.pixel_format) == (width, height, "yuv444p")


def test_equal_input_gives_equal_bytes_and_no_metadata(tmp_path: Path) -> None:
    first = write(tmp_path / "a.mp4", list(range(10)), Fraction(1, 30))
    second = write(tmp_path / "b.mp4", list(range(10)), Fraction(1, 30))
    content = first.read_bytes()
    assert content == second.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    # The last two are what the container writes for every track: "und" and "VideoHandler".
    brands = {"major_brand", "minor_version", "compatible_brands"}
    assert set(probe(first).metadata_keys) == brands | {"language", "handler_name"}
    assert probe(first).other_streams == ()
    assert b"Lavf" not in content and b"Lavc" not in content
    for box in (b"mvhd", b"tkhd", b"mdhd"):
        start = content.index(box) + 8
        assert content[start : start + 8] == bytes(8), "creation and modification time"


def test_bytes_do_not_depend_on_what_memory_held_before() -> None:
    code = """
import hashlib, pathlib, tempfile
from ego_assets_tests.clips import write_clip

for width, height in ((160, 120), (320, 180)):
    with tempfile.TemporaryDirectory() as folder:
        clip = write_clip(pathlib.Path(folder, "clip.mp4"), width=width, height=height)
        print(width, height, hashlib.sha256(clip.read_bytes()).hexdigest())
"""

    def digests(fill: str) -> list[str]:
        # The C library of Linux fills fresh memory with a byte that depends on this number.
        environment = os.environ | {"MALLOC_PERTURB_": fill, "PYTHONPATH": os.pathsep.join(sys.path)}
        out = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        return out.stdout.splitlines()

    first = digests("85")
    assert [line.split()[:2] for line in first] == [["160", "120"], ["320", "180"]]
    assert digests("255") == first


def test_captions_inside_the_source_are_not_carried_over(tmp_path: Path, make_clip) -> None:
    path = tmp_path / "out.mp4"
    with VideoWriter(path, width=64, height=48, time_base=Fraction(1, 30), frame_rate=Fraction(30)) as writer:
        for frame in decode_frames(make_clip(frames=5)):
            writer.write(frame.frame, pts=frame.index)
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    # H.264 SEI payload 4: registered user data (ITU-T T.35), which holds closed captions.
    assert not any(b"\x06\x04" in packet[:64] for packet in packets)


def test_coding_types_of_the_source_are_not_obeyed(tmp_path: Path, make_clip) -> None:
    path = tmp_path / "out.mp4"
    source = make_clip(frames=12, gop=1, bframes=0)
    with VideoWriter(
        path, width=64, height=48, time_base=Fraction(1, 30), frame_rate=Fraction(30), bframes=False
    ) as writer:
        for frame in decode_frames(source):
            writer.write(frame.frame, pts=frame.index)
    with av.open(str(path)) as container:
        assert sum(packet.is_keyframe for packet in container.demux(video=0) if packet.size) == 1


@pytest.mark.parametrize(("gop", "expected"), [(None, [0]), (5, [0, 5, 10, 15])])
def test_keyframe_interval(tmp_path: Path, frame_of_grey, gop: int | None, expected: list[int]) -> None:
    path = tmp_path / "out.mp4"
    with VideoWriter(
        path, width=64, height=48, time_base=Fraction(1, 30), frame_rate=Fraction(30), gop=gop
    ) as writer:
        for index in range(20):
            writer.write(frame_of_grey(index), pts=index)
    with av.open(str(path)) as container:
        assert [p.pts for p in container.demux(video=0) if p.size and p.is_keyframe] == expected


@pytest.mark.parametrize("pixel_format", ["yuvj420p", "yuv420p10le", "bgr24", "yuv422p"])
def test_pictures_survive_whatever_their_format(tmp_path: Path, pixel_format: str) -> None:
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:, :32] = (30, 60, 220)
    picture[:, 32:] = (240, 250, 245)
    source = av.VideoFrame.from_ndarray(picture, "bgr24").reformat(format=pixel_format)
    path = tmp_path / "out.mp4"
    with VideoWriter(
        path, width=64, height=48, time_base=Fraction(1, 30), frame_rate=Fraction(30), crf=5
    ) as writer:
        writer.write(source, pts=0)
    shown = next(decode_frames(path)).bgr()
    assert np.abs(shown.astype(int) - picture)[:, 4:28].mean() < 6
    assert np.abs(shown.astype(int) - picture)[:, 36:60].mean() < 6
    assert probe(path).pixel_format == ("yuvj420p" if pixel_format == "yuvj420p" else "yuv420p")


def test_colour_tags_are_kept(tmp_path: Path) -> None:
    source = textured(0)
    source.colorspace = source.color_primaries = source.color_trc = 1  # BT.709
    source.color_range = 1
    path = tmp_path / "out.mp4"
    with VideoWriter(path, width=64, height=48, time_base=Fraction(1, 30), frame_rate=Fraction(30)) as writer:
        writer.write(source, pts=0)
    frame = next(decode_frames(path)).frame
    assert (frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range) == (1, 1, 1, 1)


def test_an_exception_removes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with (
        pytest.raises(KeyError),
        VideoWriter(path, width=64, height=48, time_base=Fraction(1, 30), frame_rate=Fraction(30)) as writer,
    ):
        writer.write(textured(0), pts=0)
        raise KeyError("of the caller")
    assert list(tmp_path.iterdir()) == []


def test_nothing_written_is_no_video(tmp_path: Path) -> None:
    with (
        pytest.raises(MediaError) as caught,
        VideoWriter(
            tmp_path / "out.mp4", width=64, height=48, time_base=Fraction(1, 30), frame_rate=Fraction(30)
        ),
    ):
        pass
    assert caught.value.code == "no_frames"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("frame", "stamp", "error", "message"),
    [
        (textured(1), {"pts": 4}, ValueError, "expected 5 ticks or later, got 4"),
        (textured(1), {"pts": 7, "timestamp_ns": 7}, ValueError, "exactly one"),
        (textured(1), {}, ValueError, "exactly one"),
        (textured(1, 32, 48), {"pts": 7}, ValueError, "expected 64x48, got 32x48"),
    ],
)
def test_wrong_frames_are_refused(tmp_path: Path, frame, stamp, error, message: str) -> None:
    with (
        pytest.raises(error, match=message),
        VideoWriter(
            tmp_path / "out.mp4", width=64, height=48, time_base=Fraction(1, 30), frame_rate=Fraction(30)
        ) as writer,
    ):
        writer.write(textured(0), pts=5)
        writer.write(frame, **stamp)


def test_time_before_zero_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(MediaError) as caught,
        VideoWriter(
            tmp_path / "out.mp4", width=64, height=48, time_base=Fraction(1, 30), frame_rate=Fraction(30)
        ) as writer,
    ):
        writer.write(textured(0), pts=-1)
    assert caught.value.code == "negative_timestamp"


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": 0},
        {"time_base": Fraction(0)},
        {"time_base": Fraction(1, 2**31)},
        {"frame_rate": Fraction(0)},
        {"crf": 52},
        {"gop": 0},
        {"rotation_deg": 45},
    ],
)
def test_wrong_options_are_refused_before_a_file_is_made(tmp_path: Path, wrong: dict[str, object]) -> None:
    options = {"width": 64, "height": 48, "time_base": Fraction(1, 30), "frame_rate": Fraction(30)} | wrong
    with pytest.raises(ValueError, match=next(iter(wrong))):
        VideoWriter(tmp_path / "out.mp4", **options)
    assert list(tmp_path.iterdir()) == []


def test_fast_decoding_keeps_the_picture_and_leaves_out_what_is_slow(tmp_path: Path) -> None:
    pts = [512 * i for i in range(10)]
    plain = write(tmp_path / "plain.mp4", pts, Fraction(1, 15360), crf=16)
    fast = write(tmp_path / "fast.mp4", pts, Fraction(1, 15360), crf=16, fast_decode=True)
    # x264 writes its settings into the stream.
    assert b"cabac=1 " in plain.read_bytes() and b"deblock=1:" in plain.read_bytes()
    assert b"cabac=0 " in fast.read_bytes() and b"deblock=0:" in fast.read_bytes()
    for index, (ours, theirs) in enumerate(zip(decode_frames(fast), decode_frames(plain), strict=True)):
        truth = textured(index).to_ndarray()[:48].astype(float)
        error, other = (np.abs(frame.frame.to_ndarray()[:48] - truth).mean() for frame in (ours, theirs))
        assert error < other + 1.5
