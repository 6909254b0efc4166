from __future__ import annotations

import io
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.stream import Discard, Disposition

from ego_assets.media.decode import decode_frames
from ego_assets.media.probe import probe
from ego_assets.media.source import open_video
from ego_assets.media.timeline import read_timeline
from ego_assets.schema.errors import MediaError

PICTURE = np.full((48, 64, 3), 90, np.uint8)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mov", "clip.mkv"])
def test_reports_what_the_container_declares(make_clip, name: str) -> None:
    path = make_clip(name, frames=12, audio=True, metadata={"title": "secret"})
    found = probe(path)
    assert (found.codec, found.pixel_format, found.bit_depth) == ("h264", "yuv420p", 8)
    assert (found.width, found.height, found.rotation_deg) == (64, 48, 0)
    assert found.frame_rate == 30
    assert found.size_bytes == path.stat().st_size
    assert [stream.kind for stream in found.other_streams] == ["audio"]
    assert "title" in {key.lower() for key in found.metadata_keys}
    assert "secret" not in repr(found)
    if name != "clip.mkv":
        assert found.declared_frame_count == 12
        assert found.declared_duration_s == pytest.approx(0.4, abs=0.01)


def test_a_file_object_is_read_from_its_start_and_left_open(make_clip) -> None:
    path = make_clip()
    file = io.BytesIO(path.read_bytes())
    file.seek(100)
    assert probe(file) == probe(path)
    assert not file.closed


@pytest.mark.parametrize(
    ("matrix", "rotation_deg"),
    # The track header maps (x, y) to (a x + c y, b x + d y), with y pointing down.
    [((1, 0, 0, 1), 0), ((0, 1, -1, 0), 90), ((-1, 0, 0, -1), 180), ((0, -1, 1, 0), 270)],
)
def test_rotation_of_the_track_header_as_clockwise_turn(
    make_clip, set_display_matrix, matrix: tuple[int, int, int, int], rotation_deg: int
) -> None:
    path = make_clip()
    set_display_matrix(path, *matrix)
    found = probe(path)
    assert found.rotation_deg == rotation_deg
    assert (found.coded_width, found.coded_height) == (64, 48)
    assert (found.width, found.height) == ((48, 64) if rotation_deg in (90, 270) else (64, 48))


def test_an_absurd_declared_duration_is_reported_as_is(make_clip) -> None:
    path = make_clip("clip.mkv", frames=10)
    # Element 0x4489 of Matroska: the duration in milliseconds, a number of 8 bytes.
    content = bytearray(path.read_bytes())
    start = content.index(b"\x44\x89\x88") + 3
    content[start : start + 8] = struct.pack(">d", 86_400_000.0)
    path.write_bytes(content)
    assert probe(path).declared_duration_s == 86_400
    assert read_timeline(path).duration_s < 1


def _jpeg() -> bytes:
    return cv2.imencode(".jpg", PICTURE)[1].tobytes()


NOT_VIDEOS: dict[str, Callable[[], bytes]] = {
    "jpeg": _jpeg,
    "png": lambda: cv2.imencode(".png", PICTURE)[1].tobytes(),
    "webp": lambda: cv2.imencode(".webp", PICTURE)[1].tobytes(),
    "bmp": lambda: cv2.imencode(".bmp", PICTURE)[1].tobytes(),
    "gif": lambda: b"GIF89a" + bytes(300),
    "heic": lambda: struct.pack(">I4s4sI4s", 24, b"ftyp", b"heic", 0, b"mif1") + bytes(400),
    "text": lambda: b"a text that somebody called a video\n" * 40,
    "html": lambda: b"<html><body>404</body></html>" * 20,
    "zip": lambda: b"PK\x03\x04" + bytes(300),
    "zeros": lambda: bytes(4096),
    "short": lambda: b"x",
}


@pytest.mark.parametrize("kind", NOT_VIDEOS)
def test_other_files_under_a_video_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "renamed.mp4"
    path.write_bytes(NOT_VIDEOS[kind]())
    with pytest.raises(MediaError, match=r"'renamed\.mp4' is not a video") as caught:
        probe(path)
    assert caught.value.code == "not_a_video"


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.touch()
    with pytest.raises(MediaError, match="0 bytes") as caught:
        probe(path)
    assert caught.value.code == "empty"


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="check the path") as caught:
        probe(tmp_path / "absent.mp4")
    assert caught.value.code == "unreadable"


def test_recording_cut_off_before_its_index(make_clip) -> None:
    path = make_clip()
    content = path.read_bytes()
    assert content.index(b"mdat") < content.index(b"moov")
    path.write_bytes(content[: content.index(b"moov") - 100])
    with pytest.raises(MediaError, match="cut off") as caught:
        probe(path, name="upload 7")
    assert caught.value.code == "missing_index"
    assert "'upload 7'" in str(caught.value)


def test_index_cut_in_half(make_clip) -> None:
    path = make_clip(options={"movflags": "+faststart"})
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"moov") + 150])
    with pytest.raises(MediaError) as caught:
        probe(path)
    assert caught.value.code == "missing_index"


def test_index_without_pictures(make_clip) -> None:
    path = make_clip(options={"movflags": "+faststart"})
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"mdat") + 4])
    with pytest.raises(MediaError, match="not one picture") as caught:
        probe(path)
    assert caught.value.code == "unreadable"


def test_damaged_matroska_header(make_clip) -> None:
    path = make_clip("clip.mkv")
    path.write_bytes(path.read_bytes()[:20] + bytes(500))
    with pytest.raises(MediaError) as caught:
        probe(path)
    assert caught.value.code == "unreadable"


def _audio_only(path: Path, sound: av.AudioFrame, *, cover: bool) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        picture = container.add_stream("mjpeg", rate=1) if cover else None
        if picture is not None:
            picture.width, picture.height, picture.pix_fmt = 64, 48, "yuvj420p"
            picture.disposition = Disposition.attached_pic
            frame = av.VideoFrame.from_ndarray(PICTURE, "bgr24").reformat(format="yuvj420p")
            container.mux(picture.encode(frame))
            container.mux(picture.encode(None))
        container.mux([*stream.encode(sound), *stream.encode(None)])


@pytest.mark.parametrize("cover", [False, True])
def test_sound_without_video(tmp_path: Path, silent_sound: av.AudioFrame, cover: bool) -> None:
    path = tmp_path / "sound.mp4"
    _audio_only(path, silent_sound, cover=cover)
    with av.open(str(path)) as container:
        assert len(container.streams.video) == int(cover)
    with pytest.raises(MediaError) as caught:
        probe(path)
    assert caught.value.code == "no_video_stream"


def test_codec_that_nobody_knows(make_clip) -> None:
    path = make_clip()
    content = path.read_bytes()
    entry = content.index(b"avc1", content.index(b"stsd"))
    path.write_bytes(content[:entry] + b"zzzz" + content[entry + 4 :])
    with pytest.raises(MediaError, match=r"as H\.264") as caught:
        probe(path)
    assert caught.value.code == "no_codec"


def test_one_frame(make_clip) -> None:
    path = make_clip(frames=1)
    assert probe(path).frame_rate > 0
    assert read_timeline(path).frame_count == 1
    assert [frame.index for frame in decode_frames(path)] == [0]


def test_names_with_spaces_and_unicode(make_clip, tmp_path: Path) -> None:
    path = make_clip().rename(tmp_path / "Küche  löffel 'x' %d.mp4")
    assert probe(path).width == 64


def test_telemetry_and_sound_are_not_read_with_the_video(make_clip) -> None:
    container, stream = open_video(make_clip(audio=True))
    with container:
        assert container.streams.audio[0].discard == Discard.all
        assert stream.discard == Discard.default


def test_rate_is_measured_where_the_declared_one_is_absurd(make_clip) -> None:
    # Intervals of one tick make FFmpeg take the time base for the rate.
    path = make_clip(pts=[0, 500, 1500, 1501, 9000, 9700, 12000, 40000], time_base=Fraction(1, 90000))
    assert 0 < probe(path).frame_rate <= 1000


def test_metadata_of_a_stream_is_named_too(tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.metadata["title"] = "Jane Doe at 52.5N"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        container.mux(stream.encode())
    found = probe(path)
    assert "title" in {key.lower() for key in found.metadata_keys}
    assert not any("Jane" in key for key in found.metadata_keys), "names of entries, never values"
