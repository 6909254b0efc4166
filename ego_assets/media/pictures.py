"""Making decoded pictures what every later step expects: whole frames, not mirrored, of standard dynamic range.

* **Interlaced** pictures are two moments woven line by line. Detectors and models are trained on whole pictures and
  see combs wherever something moves, so the fields are separated and each frame's earlier field is completed to a
  whole picture (FFmpeg's ``bwdif``, one frame out for each frame in). Frame count and time stamps stay; the half of
  the moments that the later fields show is given up. Pictures that are not flagged as interlaced pass unchanged, even
  where the flag is wrong.
* **Mirrored** pictures (a display matrix with negative determinant) are mirrored back; what is left is a turn.
* **HDR** (PQ and HLG, ITU-R BT.2100) and BT.2020 colours become BT.709, in 8 bits and limited range, by libswscale.
  White at 203 cd/m2 (ITU-R BT.2408) becomes white, darker tones keep their distance to it, and highlights above it
  clip, as they do in an ordinary recording with the same exposure. Unmapped, PQ would look grey and pale to a
  detector; a tone curve up to the mastering display's peak would show hands and faces at half their brightness, and
  differently from file to file, so the file's mastering metadata is left aside.

10-bit pictures of standard range keep their bits here; whoever needs 8 bits rounds them.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from threading import Lock
from typing import Final, cast

import av.error
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter

from ego_assets.media.orientation import Orientation
from ego_assets.schema.errors import MediaError
from ego_assets.schema.media import Transfer

_TRANSFERS: Final[dict[int, Transfer]] = {ColorTrc.SMPTE2084: "pq", ColorTrc.ARIB_STD_B67: "hlg"}

#: FFmpeg's number of the luma-chroma matrix of BT.2020 with non-constant luminance, and of "not stated".
_BT2020_NCL, _UNSPECIFIED = 9, 2

#: Pictures at least this long are taken for HD.
_HD_LONGER_SIDE = 1280

_GRAPH_TICK = Fraction(1, 25)

#: Width, height, transfer and primaries that a converter is set up for.
_Key = tuple[int, int, int, int]

#: Converters not in use. Each has computed a table, which takes two seconds of CPU time.
_idle_converters: list[tuple[_Key, VideoReformatter]] = []
_idle_lock = Lock()
_MAX_IDLE_CONVERTERS = 2


def orientation_of(frame: VideoFrame) -> Orientation:
    """How the picture has to be mirrored and turned, from the display matrix that comes with the frame."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return Orientation()
    return Orientation.from_display_matrix(struct.unpack("=9i", cast("bytes", matrix)))


def transfer_of(frame: VideoFrame) -> Transfer:
    """The transfer characteristic that the frame is tagged with."""
    return _TRANSFERS.get(frame.color_trc, "sdr")


def has_wide_colours(frame: VideoFrame) -> bool:
    """Whether the frame is HDR or has BT.2020 colours, and so is mapped to BT.709."""
    return frame.color_trc in _TRANSFERS or frame.color_primaries == ColorPrimaries.BT2020


def has_full_range(frame: VideoFrame) -> bool:
    """Whether luma spans all values in the pictures that :class:`PictureNormaliser` makes of such frames."""
    if has_wide_colours(frame):
        return False
    name = frame.format.name
    return frame.color_range == ColorRange.JPEG or frame.format.is_rgb or name.startswith(("yuvj", "gray"))


class PictureNormaliser:
    """Makes frames whole, unmirrored and of standard range; frames go in and come out in presentation order.

    It holds back one frame from the first interlaced one on, because the lines in between are judged by the frames
    on both sides. So the first frame that is read after a seek is completed from itself and the next one alone, and
    can differ in moving lines from the same frame read in a row.

    Args:
        mirrored: Whether to mirror the pictures.
    """

    def __init__(self, *, mirrored: bool = False) -> None:
        self._mirrored = mirrored
        self._interlaced = False
        self._graph: Graph | None = None
        self._graph_is_for: tuple[object, ...] = ()
        self._given = 0
        self._waiting: deque[tuple[int, Fraction | None]] = deque()

    def add(self, stamp: int, frame: VideoFrame) -> Iterator[tuple[int, VideoFrame]]:
        """Take in a frame; yields those that are ready, with their time stamps."""
        _assume_colours(frame)
        self._interlaced |= frame.interlaced_frame
        filters = self._filters_for(frame)
        wanted = (frame.width, frame.height, frame.format.name, filters)
        if wanted != self._graph_is_for:
            yield from self.finish()
            self._graph, self._graph_is_for = (_graph(frame, filters) if filters else None), wanted
        if self._graph is None:
            yield stamp, _to_standard_range(frame)
            return
        # The graph's own clock counts frames: time stamps of files may repeat.
        self._waiting.append((stamp, frame.time_base))
        frame.pts, frame.time_base = self._given, _GRAPH_TICK
        self._given += 1
        self._graph.push(frame)
        yield from self._ready()

    def _filters_for(self, frame: VideoFrame) -> tuple[tuple[str, str], ...]:
        """Filters of libavfilter that the frame needs, with their options."""
        chosen = {
            ("bwdif", "mode=send_frame:parity=auto:deint=interlaced"): self._interlaced,
            ("hflip", ""): self._mirrored,
            # libswscale would bend the tone curve by the mastering metadata.
            ("sidedata", "mode=delete"): has_wide_colours(frame),
        }
        return tuple(entry for entry, is_needed in chosen.items() if is_needed)

    def finish(self) -> Iterator[tuple[int, VideoFrame]]:
        """The frames that were held back."""
        if self._graph is not None:
            self._graph.push(None)
            yield from self._ready()
        self._graph, self._graph_is_for = None, ()
        self._waiting.clear()

    def _ready(self) -> Iterator[tuple[int, VideoFrame]]:
        while self._graph is not None and self._waiting:
            try:
                made = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            stamp, time_base = self._waiting.popleft()
            if isinstance(made, VideoFrame):
                made.pts, made.time_base = stamp, time_base or _GRAPH_TICK
                yield stamp, _to_standard_range(made)


def _graph(frame: VideoFrame, filters: tuple[tuple[str, str], ...]) -> Graph:
    graph = Graph()
    graph.threads = 1
    source = (
        f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base={_GRAPH_TICK}:"
        f"colorspace={frame.colorspace}:range={frame.color_range}"
    )
    nodes = [
        graph.add("buffer", source),
        *(graph.add(name, options or None) for name, options in filters),
        # A filter must not change the format.
        graph.add("format", frame.format.name),
        graph.add("buffersink"),
    ]
    graph.link_nodes(*nodes).configure()
    return graph


def _assume_colours(frame: VideoFrame) -> None:
    """State the matrix of a frame whose file does not: players take BT.709 for HD, libswscale BT.601 for all."""
    if frame.colorspace != _UNSPECIFIED or frame.format.is_rgb:
        return
    if has_wide_colours(frame):
        frame.colorspace = _BT2020_NCL
    elif max(frame.width, frame.height) >= _HD_LONGER_SIDE:
        frame.colorspace = Colorspace.ITU709


def _to_standard_range(frame: VideoFrame) -> VideoFrame:
    """The frame itself, or one with BT.709 colours in its place."""
    if not has_wide_colours(frame):
        return frame
    if frame.color_primaries == _UNSPECIFIED:
        frame.color_primaries = ColorPrimaries.BT2020
    key = (frame.width, frame.height, frame.color_trc, frame.color_primaries)
    with _converter(key) as converter:
        return _bt709(converter, frame)


def _bt709(converter: VideoReformatter, frame: VideoFrame) -> VideoFrame:
    try:
        return converter.reformat(
            frame,
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            dst_color_trc=ColorTrc.BT709,
            dst_color_primaries=ColorPrimaries.BT709,
            threads=1,
        )
    except av.error.FFmpegError as error:
        raise MediaError(
            "colours",
            f"The video's HDR colours cannot be converted (matrix {frame.colorspace}, primaries "
            f"{frame.color_primaries}, transfer {frame.color_trc}). Export it with standard range colours (BT.709).",
        ) from error


@contextmanager
def _converter(key: _Key) -> Iterator[VideoReformatter]:
    """A converter for the caller alone, if possible one that is set up already."""
    with _idle_lock:
        fitting = next((entry for entry in _idle_converters if entry[0] == key), None)
        if fitting is not None:
            _idle_converters.remove(fitting)
    converter = fitting[1] if fitting is not None else VideoReformatter()
    try:
        yield converter
    finally:
        with _idle_lock:
            _idle_converters.append((key, converter))
            del _idle_converters[:-_MAX_IDLE_CONVERTERS]
