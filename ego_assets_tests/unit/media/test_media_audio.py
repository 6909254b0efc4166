from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from ego_assets.media import audio as audio_module
from ego_assets.media.audio import read_audio
from ego_assets.media.decode import decode_frames
from ego_assets.media.encode import VideoWriter
from ego_assets.media.probe import probe
from ego_assets.media.source import MediaSource
from ego_assets.media.timeline import read_timeline
from ego_assets.schema.errors import MediaError

RATE = 48000


def tone(seconds: float, sample_format: str) -> av.AudioFrame:
    """A tone that rises, so that no two stretches sound alike."""
    time_s = np.arange(round(seconds * RATE)) / RATE
    wave = (9000 * np.sin(2 * np.pi * (300 + 400 * time_s) * time_s)).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
    frame.sample_rate, frame.pts = RATE, 0
    (converted,) = av.AudioResampler(format=sample_format, layout="mono", rate=RATE).resample(frame)
    converted.pts, converted.time_base = 0, Fraction(1, RATE)
    return converted


def write_recording(
    path: Path,
    *,
    codec: str = "aac",
    sample_format: str = "fltp",
    video_start: int = 0,
    sound_start: int = 0,
    codec_options: dict[str, str] | None = None,
) -> Path:
    """A second of video with sound, tagged as cameras and phones tag theirs."""
    with av.open(str(path), "w") as container:
        container.metadata.update({"title": "at home", "location": "+48.2082+016.3738/"})
        video = container.add_stream("libx264", rate=30, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.time_base = video.codec_context.time_base = Fraction(1, 15360)
        sound = container.add_stream(codec, rate=RATE, options=codec_options or {})
        sound.codec_context.format = sample_format
        sound.codec_context.layout = "mono"
        sound.metadata.update({"language": "deu", "handler_name": "my phone", "title": "my voice"})
        video.metadata["handler_name"] = "my phone"
        for index in range(30):
            picture = av.VideoFrame(64, 48, "yuv420p")
            for plane in picture.planes:
                plane.update(bytes([20 + 7 * index]) * plane.buffer_size)
            picture.pts, picture.time_base = video_start + 512 * index, Fraction(1, 15360)
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        samples = tone(1.0, sample_format)
        packets = []
        fifo = av.AudioFifo()
        fifo.write(samples)
        while (frame := fifo.read(sound.codec_context.frame_size or 1024, partial=True)) is not None:
            packets += sound.encode(frame)
        for packet in [*packets, *sound.encode(None)]:
            packet.pts += sound_start
            packet.dts += sound_start
            container.mux(packet)
    return path


def pass_on(source: MediaSource, path: Path) -> Path:
    timeline = read_timeline(source)
    with VideoWriter(
        path,
        width=64,
        height=48,
        time_base=timeline.time_base,
        frame_rate=timeline.frame_rate,
        preset="ultrafast",
        threads=2,
        audio_from=source,
    ) as writer:
        for frame in decode_frames(source):
            writer.write(frame.frame, timestamp_ns=frame.timestamp_ns)
    return path


def sound_packets(path: Path) -> list[tuple[float, bytes]]:
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        return [(float(p.pts * p.time_base), bytes(p)) for p in container.demux(stream) if p.size]


def heard(path: Path) -> tuple[list[float], np.ndarray]:
    """Time stamps and samples of the decoded sound."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
        return [float(f.pts * f.time_base) for f in frames], np.concatenate(
            [f.to_ndarray().reshape(-1) for f in frames]
        )


CODECS = [("aac", "fltp"), ("libmp3lame", "fltp"), ("libopus", "s16"), ("alac", "s16p")]


@pytest.mark.parametrize(("codec", "sample_format"), CODECS)
def test_packets_are_the_same_and_in_step_with_the_pictures(
    tmp_path: Path, codec: str, sample_format: str
) -> None:
    source = write_recording(tmp_path / "source.mp4", codec=codec, sample_format=sample_format)
    made = pass_on(source, tmp_path / "made.mp4")
    assert sound_packets(made) == sound_packets(source)
    for got, expected in zip(heard(made), heard(source), strict=True):
        assert np.array_equal(got, expected)
    assert read_timeline(made).timestamps_ns.tolist() == read_timeline(source).timestamps_ns.tolist()


@pytest.mark.parametrize(
    ("video_start", "sound_start"), [(0, 441), (777, 0), (15360, 96000), (3 * 15360, RATE)]
)
def test_late_starts_of_either_are_kept(tmp_path: Path, video_start: int, sound_start: int) -> None:
    source = write_recording(tmp_path / "source.mp4", video_start=video_start, sound_start=sound_start)
    made = pass_on(source, tmp_path / "made.mp4")
    assert read_timeline(made).timestamps_ns.tolist() == read_timeline(source).timestamps_ns.tolist()
    expected, _ = heard(source)
    assert heard(made)[0] == pytest.approx(expected, abs=1 / RATE)


@pytest.mark.parametrize("suffix", [".mkv", ".ts"])
def test_sound_of_other_containers(tmp_path: Path, suffix: str) -> None:
    source = write_recording(tmp_path / f"source{suffix}")
    made = pass_on(source, tmp_path / "made.mp4")
    (expected_times, expected), (times, samples) = heard(source), heard(made)
    picture_lag = read_timeline(made).timestamps_ns[0] - read_timeline(source).timestamps_ns[0]
    assert picture_lag == 0
    # MP4 states the encoder's run-in, which the others leave for the player to hear.
    shift = round((times[0] - expected_times[0]) * RATE)
    assert abs(shift) <= 1024
    count = min(samples.size, expected.size - max(shift, 0))
    assert np.allclose(samples[:count], expected[max(shift, 0) :][:count], atol=1e-3)


def test_nothing_but_sound_and_pictures_and_always_the_same_bytes(tmp_path: Path) -> None:
    source = write_recording(tmp_path / "source.mp4", codec_options={"flags": "+bitexact"})
    made = pass_on(source, tmp_path / "made.mp4")
    content = made.read_bytes()
    with source.open("rb") as file:
        assert pass_on(file, tmp_path / "again.mp4").read_bytes() == content
    found = probe(made)
    assert [stream.kind for stream in found.other_streams] == ["audio"]
    brands = {"major_brand", "minor_version", "compatible_brands"}
    assert set(found.metadata_keys) == brands | {"language", "handler_name"}
    with av.open(str(made)) as container:
        assert {s.metadata["language"] for s in container.streams} == {"und"}
        assert [s.metadata["handler_name"] for s in container.streams] == ["VideoHandler", "SoundHandler"]
    for trace in (b"my phone", b"my voice", b"at home", b"+48.2082", b"Lavf"):
        assert trace not in content
    assert content.index(b"moov") < content.index(b"mdat")
    start = 0
    for _ in range(2):
        start = content.index(b"mdhd", start) + 8
        assert content[start : start + 8] == bytes(8), "creation and modification time"


def test_sound_lies_beside_its_pictures_in_the_file(tmp_path: Path) -> None:
    made = pass_on(write_recording(tmp_path / "source.mp4"), tmp_path / "made.mp4")
    with av.open(str(made)) as container:
        kinds = [packet.stream.type for packet in container.demux() if packet.size]
    first_half = kinds[: len(kinds) // 2]
    assert first_half.count("audio") >= 0.25 * kinds.count("audio")
    assert first_half.count("video") >= 0.25 * kinds.count("video")


def test_a_recording_without_sound_gives_a_file_without(tmp_path: Path, make_clip) -> None:
    source = make_clip(frames=5)
    assert read_audio(source) is None
    assert probe(pass_on(source, tmp_path / "made.mp4")).other_streams == ()


def test_sound_that_mp4_cannot_hold_is_refused_before_a_file_is_made(tmp_path: Path) -> None:
    source = write_recording(tmp_path / "source.mov", codec="pcm_s16le", sample_format="s16")
    with pytest.raises(MediaError, match="audio=drop") as caught:
        pass_on(source, tmp_path / "made.mp4")
    assert caught.value.code == "audio_codec"
    assert "source.mov" in str(caught.value) and "pcm_s16le" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source.mov"]


def test_long_sound_goes_to_a_file_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_recording(tmp_path / "source.mp4")
    monkeypatch.setattr(audio_module, "_MAX_BYTES_IN_MEMORY", 1000)
    folder = tmp_path / "work"
    folder.mkdir()
    track = read_audio(source, folder=folder)
    assert track is not None
    assert list(folder.iterdir()) == []
    got = [(float(p.pts * p.time_base), bytes(p)) for p in track.packets_until(None)]
    assert got == sound_packets(source)
    assert track.packets_until(None) == []
    track.close()


def test_packets_come_up_to_the_time_asked_for_and_once(tmp_path: Path) -> None:
    source = write_recording(tmp_path / "source.mp4")
    track = read_audio(source)
    assert track is not None
    early = track.packets_until(Fraction(1, 2))
    late = track.packets_until(None)
    track.close()
    assert max(p.pts * p.time_base for p in early) <= Fraction(1, 2) < late[0].pts * late[0].time_base
    assert [bytes(p) for p in [*early, *late]] == [data for _, data in sound_packets(source)]


def test_a_tail_that_is_missing_ends_the_sound_early(tmp_path: Path, cut_pictures) -> None:
    whole = pass_on(write_recording(tmp_path / "source.mp4"), tmp_path / "whole.mp4")
    expected = [data for _, data in sound_packets(whole)]
    track = read_audio(cut_pictures(whole))
    assert track is not None
    got = [bytes(p) for p in track.packets_until(None)]
    track.close()
    assert 0 < len(got) < len(expected)
    assert got[:-1] == expected[: len(got) - 1]
