"""Small clips whose frames tell their own index: frame ``i`` is a flat grey of luma ``20 + 3 * i``."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

MakeClip = Callable[..., Path]


def grey_frame(index: int, width: int = 64, height: int = 48) -> av.VideoFrame:
    frame = av.VideoFrame(width, height, "yuv420p")
    for plane, value in zip(frame.planes, (20 + 3 * index, 128, 128), strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    return frame


@pytest.fixture
def make_clip(tmp_path: Path) -> MakeClip:
    """Writes a clip with PyAV alone and returns its path."""

    def make(
        name: str = "clip.mp4",
        *,
        frames: int = 20,
        pts: Sequence[int] | None = None,
        time_base: Fraction = Fraction(1, 15360),
        rate: int = 30,
        gop: int = 10,
        bframes: int = 2,
        codec: str = "libx264",
        codec_options: dict[str, str] | None = None,
        options: dict[str, str] | None = None,
        metadata: dict[str, str] | None = None,
        audio: bool = False,
    ) -> Path:
        path = tmp_path / name
        step = round(1 / (rate * time_base))
        with av.open(str(path), "w", options=options or {}) as container:
            stream = container.add_stream(codec, rate=rate, options=codec_options or {"crf": "10"})
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stream.time_base = stream.codec_context.time_base = time_base
            stream.codec_context.gop_size = gop
            stream.codec_context.max_b_frames = bframes
            container.metadata.update(metadata or {})
            sound = container.add_stream("aac", rate=48000) if audio else None
            for index, stamp in enumerate(pts if pts is not None else range(0, frames * step, step)):
                frame = grey_frame(index)
                frame.pts, frame.time_base = stamp, time_base
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
            if sound is not None:
                container.mux([*sound.encode(silence()), *sound.encode(None)])
        return path

    return make


def silence() -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 24000), np.float32), format="fltp", layout="mono")
    frame.sample_rate, frame.pts = 48000, 0
    return frame


@pytest.fixture
def silent_sound() -> av.AudioFrame:
    return silence()


@pytest.fixture
def frame_of_grey() -> Callable[..., av.VideoFrame]:
    return grey_frame


@pytest.fixture
def cut_pictures() -> Callable[[Path], Path]:
    """Cuts a file whose index comes first in the middle of its pictures."""

    def cut(path: Path) -> Path:
        content = path.read_bytes()
        start = content.index(b"mdat") + 4
        path.write_bytes(content[: (start + len(content)) // 2])
        return path

    return cut


@pytest.fixture
def patch_box() -> Callable[[Path, bytes, int, bytes], None]:
    """Overwrites bytes of an MP4 box, counted from behind its four-character code."""

    def patch(path: Path, kind: bytes, offset: int, data: bytes) -> None:
        content = bytearray(path.read_bytes())
        start = content.index(kind) + 4 + offset
        content[start : start + len(data)] = data
        path.write_bytes(content)

    return patch


@pytest.fixture
def set_display_matrix(patch_box: Callable[[Path, bytes, int, bytes], None]) -> Callable[..., None]:
    """Writes the 2x2 part of the track header's matrix, as cameras do (version 0 of the box)."""

    def set_matrix(path: Path, a: int, b: int, c: int, d: int) -> None:
        one = 1 << 16
        matrix = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
        patch_box(path, b"tkhd", 40, matrix)

    return set_matrix
