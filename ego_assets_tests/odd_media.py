"""Small files as unusual cameras write them; every picture tells its number, its corners and its colours.

The pictures are computed here in floating point, and PyAV only codes them, so that what the platform reads out of a
file is compared with what was meant to be in it. A picture has a coloured patch in each corner and, across its
middle, its number as ten black or white blocks, highest bit first.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Literal

import av
import numpy as np
import numpy.typing as npt
from av.codec.context import Flags
from av.filter import Graph

FloatArray = npt.NDArray[np.float64]
Fields = Literal["tff", "bff"]

BITS = 10
#: Patches as R, G, B from 0 to 1: top left, top right, bottom left, bottom right.
CORNERS = ((0.8, 0.1, 0.1), (0.1, 0.7, 0.2), (0.15, 0.2, 0.8), (0.7, 0.7, 0.1))
_BACKGROUND = 0.35

#: Red and blue weights of the luma of each matrix, by FFmpeg's number for it (BT.709, BT.601, BT.2020).
_WEIGHTS = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}
#: Linear light from BT.709 primaries to those of BT.2020 (ITU-R BT.2087).
_TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
PQ, HLG = 16, 18
#: Brightness of white in HDR pictures, in candela per square metre (ITU-R BT.2408).
WHITE_NITS = 203.0


def picture(number: int, width: int, height: int) -> FloatArray:
    """Picture ``number`` as R, G, B from 0 to 1, ``[height, width, 3]``."""
    rgb = np.full((height, width, 3), _BACKGROUND)
    rows, columns = height // 4, width // 5
    for (down, across), colour in zip(((0, 0), (0, 1), (1, 0), (1, 1)), CORNERS, strict=True):
        top, left = (height - rows) * down, (width - columns) * across
        rgb[top : top + rows, left : left + columns] = colour
    block = width // (BITS + 2)
    for bit in range(BITS):
        left = (bit + 1) * block
        rgb[3 * height // 8 : 5 * height // 8, left : left + block] = number >> (BITS - 1 - bit) & 1
    return rgb


def shown_number(bgr: npt.NDArray[np.uint8]) -> int:
    """The number that an upright picture tells."""
    height, width = bgr.shape[:2]
    block = width // (BITS + 2)
    columns = [round((bit + 1.5) * block) for bit in range(BITS)]
    row = bgr[round(height * 0.45) : round(height * 0.55) + 1].mean(axis=(0, 2))
    bits = [row[column - 1 : column + 2].mean() > 128 for column in columns]
    return sum(int(bit) << (BITS - 1 - place) for place, bit in enumerate(bits))


def corner_colours(bgr: npt.NDArray[np.uint8]) -> FloatArray:
    """R, G, B from 0 to 255 in the middle of each patch, in the order of :data:`CORNERS`."""
    height, width = bgr.shape[:2]
    rows, columns = (height // 8, height - 1 - height // 8), (width // 10, width - 1 - width // 10)
    return np.array(
        [bgr[r - 1 : r + 2, c - 1 : c + 2].mean(axis=(0, 1))[::-1] for r in rows for c in columns]
    )


def expected_colours() -> FloatArray:
    return 255 * np.array(CORNERS)


@dataclass(frozen=True, kw_only=True)
class Look:
    """How pictures become samples."""

    pixel_format: str = "yuv420p"
    width: int = 192
    height: int = 108
    matrix: int = 1
    full_range: bool = False
    transfer: int = 1
    fields: Fields | None = None
    #: Number of a picture to what is on it, for files that show something else than the number alone.
    draw: Callable[[int, int, int], FloatArray] = picture


def coded_frame(number: int, look: Look) -> av.VideoFrame:
    """Picture ``number`` as samples, tagged with what they mean."""
    frame = av.VideoFrame(look.width, look.height, look.pixel_format)
    planes = _samples(look.draw(number, look.width, look.height), look, frame.format)
    for plane, samples in zip(frame.planes, planes, strict=True):
        rows = np.zeros((plane.height, plane.line_size // samples.itemsize), samples.dtype)
        rows[:, : samples.shape[1]] = samples
        plane.update(rows.tobytes())
    frame.colorspace, frame.color_range = look.matrix, 2 if look.full_range else 1
    frame.color_trc = look.transfer
    frame.color_primaries = 9 if look.matrix == 9 else 1
    return frame


def _samples(rgb: FloatArray, look: Look, pixel_format: av.VideoFormat) -> list[npt.NDArray[np.generic]]:
    bits = pixel_format.components[0].bits
    light = _transferred(rgb, look.transfer)
    red, blue = _WEIGHTS[look.matrix]
    luma = light @ np.array([red, 1 - red - blue, blue])
    blue_difference = (light[..., 2] - luma) / (2 * (1 - blue))
    red_difference = (light[..., 0] - luma) / (2 * (1 - red))
    scale, top = 1 << (bits - 8), (1 << bits) - 1
    if look.full_range:
        planes = [luma * top, *(c * top + (top + 1) / 2 for c in (blue_difference, red_difference))]
    else:
        planes = [
            (16 + 219 * luma) * scale,
            *((128 + 224 * c) * scale for c in (blue_difference, red_difference)),
        ]
    dtype = np.dtype(np.uint8 if bits == 8 else np.uint16)
    shapes = [(c.height, c.width) for c in pixel_format.components]
    return [
        np.clip(np.rint(_reduced(plane, *shape)), 0, top).astype(dtype)
        for plane, shape in zip(planes, shapes, strict=True)
    ]


def _reduced(plane: FloatArray, height: int, width: int) -> FloatArray:
    """A plane averaged down to chroma resolution; a last odd row or column counts twice."""
    down, across = -(-plane.shape[0] // height), -(-plane.shape[1] // width)
    padded = np.pad(
        plane, ((0, height * down - plane.shape[0]), (0, width * across - plane.shape[1])), mode="edge"
    )
    return np.asarray(padded.reshape(height, down, width, across).mean(axis=(1, 3)))


def _transferred(rgb: FloatArray, transfer: int) -> FloatArray:
    """Pictures meant for a screen, brought into the transfer characteristic of HDR."""
    if transfer not in (PQ, HLG):
        return rgb
    # BT.1886: a screen shows the coded value to the power of 2.4; the two HDR transfers start from its light.
    light = np.clip(np.clip(rgb, 0, 1) ** 2.4 @ _TO_BT2020.T, 0, 1)
    if transfer == PQ:  # SMPTE ST 2084
        y = (light * WHITE_NITS / 10_000) ** 0.1593017578125
        return np.asarray(((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375)
    # ITU-R BT.2100: HLG on a display of 1,000 candela, whose scene light has the power 1 / 1.2 of what it shows.
    luma = np.maximum(light @ np.array([0.2627, 0.678, 0.0593]), 1e-9) * WHITE_NITS / 1000
    scene = light * WHITE_NITS / 1000 * (luma ** (1 / 1.2 - 1))[..., None]
    high = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.asarray(np.where(scene <= 1 / 12, np.sqrt(3 * scene), high))


def moving_bar(number: int, width: int, height: int) -> FloatArray:
    """The picture with a white bar that moves by an eighth of the width from one picture to the next."""
    rgb = picture(number // 2, width, height)
    left = (number % 8) * width // 8
    rgb[5 * height // 8 + 2 : 6 * height // 8, left : left + width // 8] = 1.0
    return rgb


@dataclass(frozen=True, kw_only=True)
class Coding:
    """How a file is coded and wrapped."""

    codec: str = "libx264"
    rate: Fraction = Fraction(30)
    time_base: Fraction = Fraction(1, 15360)
    options: tuple[tuple[str, str], ...] = ()
    container_options: tuple[tuple[str, str], ...] = ()
    gop: int = 12
    bframes: int | None = None
    pixel_aspect: Fraction | None = None
    audio_s: float = 0.0
    thumbnail: Literal["track", "attached"] | None = None
    time_code: str = ""


def write(
    path: Path,
    *,
    frames: int = 24,
    pts: Sequence[int] | None = None,
    look: Look | None = None,
    coding: Coding | None = None,
) -> Path:
    """Code pictures 0, 1, 2, ... with PyAV alone, at a steady rate or at the given time stamps."""
    look, coding = look or Look(), coding or Coding()
    step = round(1 / (coding.rate * coding.time_base))
    stamps = list(pts) if pts is not None else [index * step for index in range(frames)]
    with av.open(str(path), "w", options=dict(coding.container_options)) as container:
        thumbnail = _thumbnail_stream(container, coding.thumbnail) if coding.thumbnail == "track" else None
        stream = container.add_stream(coding.codec, rate=coding.rate, options=dict(coding.options))
        stream.width, stream.height, stream.pix_fmt = look.width, look.height, look.pixel_format
        context = stream.codec_context
        stream.time_base = context.time_base = coding.time_base
        context.gop_size = coding.gop
        if coding.bframes is not None:
            context.max_b_frames = coding.bframes
        context.colorspace, context.color_range = look.matrix, 2 if look.full_range else 1
        context.color_trc, context.color_primaries = look.transfer, 9 if look.matrix == 9 else 1
        if coding.pixel_aspect is not None:
            context.sample_aspect_ratio = coding.pixel_aspect
        if coding.time_code:
            stream.metadata["timecode"] = coding.time_code
        if look.fields:
            context.flags |= Flags.interlaced_dct | Flags.interlaced_me
        if coding.thumbnail == "attached":
            thumbnail = _thumbnail_stream(container, coding.thumbnail)
        sound = container.add_stream("aac", rate=48000) if coding.audio_s else None
        if thumbnail is not None:
            container.mux(thumbnail.encode(_thumbnail()))
            container.mux(thumbnail.encode(None))
        for frame, stamp in zip(_frames(len(stamps), look), stamps, strict=True):
            frame.pts, frame.time_base = stamp, coding.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            container.mux([*_sound_packets(sound, coding.audio_s), *sound.encode(None)])
    return path


def _frames(count: int, look: Look) -> Iterable[av.VideoFrame]:
    if look.fields is None:
        yield from (coded_frame(number, look) for number in range(count))
        return
    graph = Graph()
    source = graph.add_buffer(
        width=look.width, height=look.height, format=look.pixel_format, time_base=Fraction(1, 25)
    )
    fields, sink = graph.add("setfield", look.fields), graph.add("buffersink")
    graph.link_nodes(source, fields, sink).configure()
    for number in range(count):
        # Each field shows a moment of its own.
        earlier, later = (coded_frame(2 * number + second, look) for second in (0, 1))
        woven = earlier
        for into, of_later in zip(woven.planes, later.planes, strict=True):
            rows = np.frombuffer(into, np.uint8).reshape(-1, into.line_size)
            first = 1 if look.fields == "tff" else 0
            rows[first::2] = np.frombuffer(of_later, np.uint8).reshape(-1, of_later.line_size)[first::2]
        woven.pts = number
        graph.push(woven)
        marked = graph.pull()
        assert isinstance(marked, av.VideoFrame)
        yield marked


def _thumbnail() -> av.VideoFrame:
    frame = coded_frame(0, Look(pixel_format="yuvj420p", width=64, height=36, full_range=True))
    frame.pts, frame.time_base = 0, Fraction(1, 30)
    return frame


def _thumbnail_stream(
    container: av.container.OutputContainer, kind: Literal["track", "attached"] | None
) -> av.VideoStream:
    stream = container.add_stream("mjpeg", rate=30)
    stream.width, stream.height, stream.pix_fmt = 64, 36, "yuvj420p"
    stream.codec_context.color_range = 2
    if kind == "attached":
        stream.disposition = av.stream.Disposition.attached_pic
    return stream


def _sound_packets(stream: av.AudioStream, duration_s: float) -> list[av.Packet[av.AudioStream]]:
    packets = []
    for start in range(0, int(48000 * duration_s), 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        packets += stream.encode(frame)
    return packets


def write_large(path: Path, *, frames: int = 12) -> Path:
    """5.3K HEVC in 10 bits (5312x2988): the same picture, enlarged, many times."""
    look = Look(pixel_format="yuv420p10le", width=1328, height=746)
    small = coded_frame(682, look)
    large = small.reformat(width=5312, height=2988, interpolation="POINT")
    parameters = "log-level=none:bframes=0:pools=none:frame-threads=1:ctu=64"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx265", rate=30, options={"preset": "ultrafast", "x265-params": parameters}
        )
        stream.width, stream.height, stream.pix_fmt = 5312, 2988, "yuv420p10le"
        stream.codec_context.colorspace = stream.codec_context.color_range = 1
        for index in range(frames):
            large.pts, large.time_base = index, Fraction(1, 30)
            container.mux(stream.encode(large))
        container.mux(stream.encode(None))
    return path


def rewrap(
    source: Path,
    path: Path,
    *,
    stamps: Callable[[int, int, int], tuple[int, int]] | None = None,
    keep: Callable[[int], bool] = lambda index: True,
    options: dict[str, str] | None = None,
) -> Path:
    """Copy the coded packets of the video into another file.

    Args:
        source: File to copy from.
        path: File to write.
        stamps: New presentation and decoding time from position in decoding order and the two old ones.
        keep: Which packets to copy, by position in decoding order.
        options: Options of the muxer.
    """
    with av.open(str(source)) as given, av.open(str(path), "w", options=options or {}) as written:
        stream = written.add_stream_from_template(given.streams.video[0])
        for index, packet in enumerate(p for p in given.demux(video=0) if p.size):
            if not keep(index):
                continue
            if stamps is not None:
                assert packet.pts is not None and packet.dts is not None
                packet.pts, packet.dts = stamps(index, packet.pts, packet.dts)
            packet.stream = stream
            written.mux(packet)
    return path


def set_box(path: Path, kind: bytes, offset: int, data: bytes) -> Path:
    """Overwrite bytes of the first MP4 box of a kind, counted from behind its four-character code."""
    content = bytearray(path.read_bytes())
    start = content.index(kind) + 4 + offset
    content[start : start + len(data)] = data
    path.write_bytes(content)
    return path


def set_display_matrix(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """Write the 2x2 part of the track header's matrix: (x, y) is shown at (a x + c y, b x + d y)."""
    one = 1 << 16
    matrix = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    return set_box(path, b"tkhd", 40, matrix)


def replace_edits(path: Path, edits: Sequence[tuple[int, int]]) -> Path:
    """Give the only track of an MP4 file, whose index is at its end, other edits.

    Args:
        path: The file.
        edits: Duration in ticks of the movie and start in ticks of the media, -1 for an empty edit.
    """
    content = path.read_bytes()
    moov, edts = content.index(b"moov") - 4, content.index(b"edts") - 4
    old_size = struct.unpack(">I", content[edts : edts + 4])[0]
    entries = b"".join(struct.pack(">IiHH", duration, start, 1, 0) for duration, start in edits)
    elst = struct.pack(">I4sII", 16 + len(entries), b"elst", 0, len(edits)) + entries
    box = struct.pack(">I4s", 8 + len(elst), b"edts") + elst
    grown = bytearray(content[:edts] + box + content[edts + old_size :])
    trak = content.index(b"trak") - 4
    for parent in (moov, trak):
        size = struct.unpack(">I", content[parent : parent + 4])[0] + len(box) - old_size
        grown[parent : parent + 4] = struct.pack(">I", size)
    path.write_bytes(grown)
    return path


def set_block_times(path: Path, change: Callable[[int, int], int]) -> Path:
    """Change the relative times (milliseconds) of the blocks of a Matroska file with one cluster.

    Args:
        path: The file, written with blocks of known size (``live`` files are not supported).
        change: New relative time from position in decoding order and the old one.
    """
    content = bytearray(path.read_bytes())
    at, index = content.index(b"\x1f\x43\xb6\x75") + 4, 0
    at += _number_length(content[at])
    while at < len(content) and content[at] in (0xBF, 0xE7, 0xA3, 0xAB, 0xEC):
        kind, at = content[at], at + 1
        length = _number_length(content[at])
        size = int.from_bytes(content[at : at + length], "big") & ((1 << (7 * length)) - 1)
        at += length
        if kind == 0xA3:
            old = struct.unpack(">h", content[at + 1 : at + 3])[0]
            content[at + 1 : at + 3] = struct.pack(">h", change(index, old))
            index += 1
        at += size
    assert index > 1, "no block was found"
    path.write_bytes(content)
    return path


def _number_length(first: int) -> int:
    return 9 - first.bit_length()


@dataclass(frozen=True, kw_only=True)
class OddClip:
    """A file, and what is meant to be seen of it.

    Attributes:
        path: The file.
        numbers: Numbers of the pictures in the order in which they are shown.
        times_s: When, in seconds; ``None`` where the container's own numbers say it all.
        rotation_deg: Clockwise turn that makes the coded pictures upright.
        tolerance: Greatest difference of a colour, out of 255.
    """

    path: Path
    numbers: tuple[int, ...]
    times_s: tuple[Fraction, ...] | None = None
    rotation_deg: int = 0
    tolerance: float = 8.0


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="odd-media-")


def _path(name: str) -> Path:
    return Path(_folder().name) / name


def _plain(
    name: str,
    *,
    frames: int = 24,
    look: Look | None = None,
    coding: Coding | None = None,
    tolerance: float = 8.0,
    first: int = 0,
) -> OddClip:
    """A file at a steady rate, from zero or so many frames later."""
    rate = (coding or Coding()).rate
    path = write(_path(name), frames=frames, look=look, coding=coding)
    times = tuple((index + first) / rate for index in range(frames))
    if path.suffix == ".mkv":
        times = _in_milliseconds(times)
    return OddClip(path=path, numbers=tuple(range(frames)), times_s=times, tolerance=tolerance)


def _in_milliseconds(times_s: Sequence[Fraction]) -> tuple[Fraction, ...]:
    """Times as Matroska stores them."""
    return tuple(Fraction(round(1000 * time_s), 1000) for time_s in times_s)


def _x265(*parameters: str) -> Coding:
    joined = ":".join(("log-level=none", "pools=none", "frame-threads=1", *parameters))
    return Coding(codec="libx265", options=(("preset", "ultrafast"), ("x265-params", joined)))


def _x264(*parameters: str) -> Coding:
    return Coding(options=(("preset", "veryfast"), ("x264-params", ":".join(parameters))))


_MASTERING = (
    "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1):max-cll=1000,400"
)


def _turned(name: str, matrix: tuple[int, int, int, int], rotation_deg: int) -> OddClip:
    """A file whose coded pictures are turned or mirrored so that its display matrix undoes it."""
    a, b, c, d = matrix
    swaps = a == 0
    width, height = (108, 192) if swaps else (192, 108)

    def draw(number: int, width: int, height: int) -> FloatArray:
        shown = picture(number, *((height, width) if swaps else (width, height)))
        rows, columns = np.mgrid[:height, :width]
        x, y = a * columns + c * rows, b * columns + d * rows
        return shown[y - y.min(), x - x.min()]

    path = write(_path(name), frames=6, look=Look(width=width, height=height, draw=draw))
    set_display_matrix(path, a, b, c, d)
    times = tuple(Fraction(index, 30) for index in range(6))
    return OddClip(path=path, numbers=tuple(range(6)), times_s=times, rotation_deg=rotation_deg)


def _interlaced(name: str, fields: Fields, codec: str, **options: str) -> OddClip:
    height, width = (576, 720) if codec == "dvvideo" else (128, 192)
    look = Look(width=width, height=height, fields=fields, draw=moving_bar, matrix=6)
    rate = Fraction(25)
    coding = Coding(codec=codec, rate=rate, time_base=1 / rate, options=tuple(options.items()))
    path = write(_path(name), frames=8, look=look, coding=coding)
    times = tuple(index / rate for index in range(8))
    return OddClip(path=path, numbers=tuple(range(8)), times_s=times, tolerance=12)


def _variable() -> OddClip:
    rng = np.random.default_rng(5)
    pts = np.cumsum(np.concatenate([[0], rng.integers(200, 1800, 23)])).tolist()
    path = write(_path("variable.mp4"), pts=pts)
    return OddClip(path=path, numbers=tuple(range(24)), times_s=tuple(Fraction(t, 15360) for t in pts))


def _edited(
    name: str, edits: Sequence[tuple[int, int]], shown: Sequence[tuple[int, int]], *, bframes: int = 0
) -> OddClip:
    """A file at 30 fps with a keyframe each eight frames, and a list of edits.

    Args:
        name: File name.
        edits: Duration and start in frames of each edit, start -1 for an empty one.
        shown: Frame and the position, in frames, at which it is shown.
        bframes: Most B frames in a row.
    """
    coding = Coding(
        gop=8,
        bframes=bframes,
        container_options=(("movie_timescale", "15360"), ("video_track_timescale", "15360")),
    )
    path = write(_path(name), frames=24, coding=coding)
    content = path.read_bytes()
    # With B frames the media's own clock starts before the first picture is shown.
    begin = struct.unpack(">i", content[content.index(b"elst") + 16 :][:4])[0]
    replace_edits(path, [(512 * count, 512 * start + begin if start >= 0 else -1) for count, start in edits])
    return OddClip(
        path=path,
        numbers=tuple(number for number, _ in shown),
        times_s=tuple(Fraction(position, 30) for _, position in shown),
    )


def _late() -> OddClip:
    pts = [15360 * 3 + 512 * index for index in range(24)]
    path = write(_path("late.mkv"), pts=pts)
    times = _in_milliseconds([Fraction(t, 15360) for t in pts])
    return OddClip(path=path, numbers=tuple(range(24)), times_s=times)


def _changed_clock(name: str, change: Callable[[int, int], int], *, bframes: int = 0) -> OddClip:
    path = write(_path(name), coding=Coding(bframes=bframes, gop=8))
    set_block_times(path, change)
    return OddClip(path=path, numbers=tuple(range(24)))


_ODD: dict[str, Callable[[], OddClip]] = {
    "hevc_10_bit": lambda: _plain(
        "hevc10.mp4", look=Look(pixel_format="yuv420p10le"), coding=_x265("bframes=3")
    ),
    "hdr_pq": lambda: _plain(
        "pq.mp4",
        frames=6,
        look=Look(pixel_format="yuv420p10le", matrix=9, transfer=PQ),
        coding=_x265("hdr10=1", "repeat-headers=1", _MASTERING),
        tolerance=20,
    ),
    "hdr_hlg": lambda: _plain(
        "hlg.mov",
        frames=6,
        look=Look(pixel_format="yuv420p10le", matrix=9, transfer=HLG),
        coding=_x265(),
        tolerance=12,
    ),
    "4_2_2": lambda: _plain("422.mp4", look=Look(pixel_format="yuv422p")),
    "4_2_2_10_bit": lambda: _plain("422_10.mp4", look=Look(pixel_format="yuv422p10le")),
    "4_4_4": lambda: _plain("444.mp4", look=Look(pixel_format="yuv444p")),
    "full_range": lambda: _plain("full.mp4", look=Look(pixel_format="yuvj420p", full_range=True)),
    "full_range_10_bit": lambda: _plain(
        "full10.mp4", look=Look(pixel_format="yuv420p10le", full_range=True), coding=_x265("range=full")
    ),
    "bt_601": lambda: _plain("601.mp4", look=Look(matrix=6)),
    "interlaced_h264_tff": lambda: _interlaced("tff.mp4", "tff", "libx264", **{"x264-params": "tff=1"}),
    "interlaced_h264_bff": lambda: _interlaced("bff.mov", "bff", "libx264", **{"x264-params": "bff=1"}),
    "interlaced_mpeg2": lambda: _interlaced("mpeg2.mkv", "tff", "mpeg2video", b="4000000"),
    "interlaced_dv": lambda: _interlaced("dv.mov", "bff", "dvvideo"),
    "av1": lambda: _plain(
        "av1.mp4",
        frames=12,
        coding=Coding(codec="libsvtav1", options=(("preset", "9"), ("crf", "12"), ("svtav1-params", "lp=1"))),
    ),
    "prores": lambda: _plain(
        "prores.mov", frames=12, look=Look(pixel_format="yuv422p10le"), coding=Coding(codec="prores_ks")
    ),
    "vp9": lambda: _plain(
        "vp9.mkv",
        frames=12,
        coding=Coding(codec="libvpx-vp9", options=(("deadline", "realtime"), ("cpu-used", "8"))),
    ),
    "mjpeg": lambda: _plain(
        "mjpeg.mov",
        look=Look(pixel_format="yuvj422p", full_range=True, matrix=6),
        coding=Coding(codec="mjpeg", options=(("qscale", "2"),)),
    ),
    "turned_90": lambda: _turned("turned90.mp4", (0, 1, -1, 0), 90),
    "turned_180": lambda: _turned("turned180.mp4", (-1, 0, 0, -1), 180),
    "turned_270": lambda: _turned("turned270.mp4", (0, -1, 1, 0), 270),
    "mirrored": lambda: _turned("mirrored.mp4", (-1, 0, 0, 1), 0),
    "upside_down_mirrored": lambda: _turned("flipped.mp4", (1, 0, 0, -1), 180),
    "mirrored_90": lambda: _turned("mirrored90.mp4", (0, -1, -1, 0), 90),
    "mirrored_270": lambda: _turned("mirrored270.mp4", (0, 1, 1, 0), 270),
    "variable_rate": _variable,
    "edit_trims_start": lambda: _edited(
        "trimmed.mp4", [(20, 4)], [(number, number - 4) for number in range(4, 24)]
    ),
    "edit_starts_late": lambda: _edited(
        "empty_edit.mp4", [(15, -1), (24, 0)], [(number, number + 15) for number in range(24)]
    ),
    "several_edits": lambda: _edited(
        "edits.mp4",
        [(6, 2), (10, 12)],
        [(number, number - 2) for number in range(2, 8)] + [(number, number - 6) for number in range(12, 22)],
    ),
    "several_edits_b_frames": lambda: _edited(
        "edits_b.mp4",
        [(6, 2), (10, 12)],
        [(number, number - 2) for number in range(2, 8)] + [(number, number - 6) for number in range(12, 22)],
        bframes=2,
    ),
    "edit_shown_twice": lambda: _edited(
        "twice.mp4", [(8, 0), (8, 0)], [(position % 8, position) for position in range(16)]
    ),
    "edits_swap_parts": lambda: _edited(
        "swapped.mp4",
        [(6, 16), (8, 2)],
        [(number, number - 16) for number in range(16, 22)]
        + [(number, number + 4) for number in range(2, 10)],
    ),
    "open_gop_h264": lambda: _plain("open264.mp4", coding=_x264("open-gop=1", "bframes=3", "b-adapt=0")),
    "open_gop_hevc": lambda: _plain(
        "open265.mp4", coding=_x265("open-gop=1", "bframes=3", "b-adapt=0", "keyint=8")
    ),
    "time_code_track": lambda: _plain("time_code.mov", coding=Coding(time_code="10:00:00:00", audio_s=0.8)),
    "starts_late": _late,
    "repeats_stamps": lambda: _changed_clock(
        "repeats.mkv", lambda index, old: old if index not in (7, 8) else 200
    ),
    "jumps_back": lambda: _changed_clock("jumps.mkv", lambda index, old: old if index < 12 else old - 300),
    "jumps_back_b_frames": lambda: _changed_clock(
        "jumps_b.mkv", lambda index, old: old if index < 16 else old - 300, bframes=2
    ),
    "one_stamp_jumps_back": lambda: _changed_clock(
        "glitch.mkv", lambda index, old: old if index != 12 else old - 250
    ),
    "60_fps": lambda: _plain(
        "60.mp4", coding=Coding(rate=Fraction(60000, 1001), time_base=Fraction(1, 60000))
    ),
    "120_fps": lambda: _plain("120.mp4", coding=Coding(rate=Fraction(120), time_base=Fraction(1, 120000))),
    "240_fps": lambda: _plain("240.mov", coding=Coding(rate=Fraction(240), time_base=Fraction(1, 240))),
    "wide_pixels": lambda: _plain("wide_pixels.mp4", coding=Coding(pixel_aspect=Fraction(4, 3))),
    "odd_size": lambda: _plain("odd_size.mp4", look=Look(pixel_format="yuv444p", width=191, height=107)),
    # Written without an edit list, so the delay of two frames that B frames need stays visible.
    "fragmented": lambda: _plain(
        "fragmented.mp4",
        first=2,
        coding=Coding(container_options=(("movflags", "frag_keyframe+empty_moov+default_base_moof"),)),
    ),
    "index_at_start": lambda: _plain(
        "faststart.mp4", coding=Coding(container_options=(("movflags", "+faststart"),))
    ),
    "no_duration": lambda: _without_duration(),
    "thumbnail_track": lambda: _plain("thumbnail.mov", coding=Coding(thumbnail="track")),
    "attached_picture": lambda: _plain("attached.mp4", coding=Coding(thumbnail="attached")),
    "longer_sound": lambda: _plain("sound.mp4", coding=Coding(audio_s=2.5)),
    "telemetry_track": lambda: _with_telemetry(),
}

#: Names of all files; :func:`odd_clip` makes one.
ODD_CLIPS = tuple(_ODD)


@cache
def odd_clip(name: str) -> OddClip:
    """The file of that name, made once in a test run."""
    return _ODD[name]()


def _with_telemetry() -> OddClip:
    """A data track as GoPro cameras write it: the time code track under the telemetry's name."""
    clip = _plain("telemetry.mov", coding=Coding(time_code="10:00:00:00"))
    clip.path.write_bytes(clip.path.read_bytes().replace(b"tmcd", b"gpmd"))
    return clip


def _without_duration() -> OddClip:
    """Matroska as it is written to a pipe: no duration, no table to seek by."""
    path = write(_path("live.mkv"), coding=Coding(container_options=(("live", "1"),)))
    times = _in_milliseconds([Fraction(index, 30) for index in range(24)])
    return OddClip(path=path, numbers=tuple(range(24)), times_s=times)
