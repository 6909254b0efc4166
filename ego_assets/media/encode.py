"""Writing H.264 video with exactly the time stamps it is given, on request with sound, and nothing else."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import av
from av.audio.stream import AudioStream
from av.codec.context import Flags
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ego_assets.media.audio import AudioTrack, read_audio
from ego_assets.media.orientation import check_rotation
from ego_assets.media.source import MediaSource
from ego_assets.media.timeline import ns_to_ticks
from ego_assets.schema.errors import MediaError

Preset = Literal[
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"
]
PixelFormat = Literal["yuv420p", "yuv444p"]

#: Without a stated ``gop``, a keyframe at least this often.
DEFAULT_KEYFRAME_INTERVAL_S = 2

_MAX_TIMESCALE = 2**31 - 1

# x264's AVX-512 code for the macroblock tree takes eight macroblocks of a row at a time, and the last step of a
# row that is no multiple of that reads beyond it: into the next row, and after the last into memory that
# nobody has written, which makes the bytes differ from call to call.
_MACROBLOCK_TREE_STEP_PX = 8 * 16

#: Same samples, but marked as using the full range of values.
_FULL_RANGE = {"yuv420p": "yuvj420p", "yuv444p": "yuvj444p"}


def _reproducible(width: int) -> dict[str, str]:
    """Options of x264 without which pictures of this width are not coded to equal bytes each time."""
    coded_width = -(-width // 16) * 16
    return {"mbtree": "0"} if coded_width % _MACROBLOCK_TREE_STEP_PX else {}


def _movie_timescale(time_base: Fraction, audio: AudioTrack | None) -> int:
    """Ticks a second of the clock that both streams' starts are stated in: whole ones for both if possible."""
    if audio is None:
        return time_base.denominator
    common = math.lcm(time_base.denominator, audio.stream.codec_context.sample_rate)
    return common if common <= _MAX_TIMESCALE else time_base.denominator


class VideoWriter:
    """Writes an MP4 file with one H.264 stream, no metadata and on request sound; use it as a context manager.

    The file is finished on leaving the ``with`` block and removed if that is left by an exception.
    Equal input, options, thread count and library version give equal bytes; for that, x264's macroblock
    tree is switched off at the widths at which it depends on chance. Colour tags and range are those of the
    first frame; captions and other side data of frames are not carried over.

    Time stamps are kept exactly, constant or not, from whatever start; only a frame that repeats the
    time stamp of the one before, which MP4 cannot store, moves to the next tick
    (:attr:`moved_frames` counts them), so that every frame stays. Written stamps must not step back.

    4:2:0 H.264 has even sides only. For an odd width or height the same resolution is kept by writing
    4:4:4 (High 4:4:4 profile), which FFmpeg-based players and Chromium play and some hardware does not.

    Args:
        path: File to create or replace.
        width: Width in pixels, as coded.
        height: Height in pixels, as coded.
        time_base: Seconds per tick of the stamps; that of the source keeps them exact.
        frame_rate: Nominal rate in frames per second.
        rotation_deg: Clockwise turn (0, 90, 180, 270) that players apply, stored as display matrix.
        pixel_aspect: Width to height of a coded pixel; players stretch the picture by it.
        crf: Constant rate factor of x264, 0 (lossless) to 51.
        preset: Speed preset of x264.
        gop: Most frames from one keyframe to the next; two seconds' worth by default.
        threads: Encoder threads; 0 for automatic, which makes the bytes depend on the machine.
        pixel_format: Chroma subsampling; frames in another format are converted.
        bframes: Allow B frames; without them coding order is presentation order.
        fast_decode: Leave out what makes decoding slow (arithmetic coding, deblocking, weighted prediction): half the
            CPU time to decode, a little less to encode, and about a sixth more bytes at the same ``crf``.
        audio_from: Recording whose first sound stream is passed on as it is coded, at its own time stamps; by
            default, and where it has none, the file has no sound. A file object is read before this returns.

    Raises:
        ValueError: An option is out of range.
        MediaError: As :func:`ego_assets.media.audio.read_audio`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        width: int,
        height: int,
        time_base: Fraction,
        frame_rate: Fraction,
        rotation_deg: int = 0,
        pixel_aspect: tuple[int, int] = (1, 1),
        crf: int = 18,
        preset: Preset = "veryfast",
        gop: int | None = None,
        threads: int = 0,
        pixel_format: PixelFormat = "yuv420p",
        bframes: bool = True,
        fast_decode: bool = False,
        audio_from: MediaSource | None = None,
    ) -> None:
        if width < 1 or height < 1:
            raise ValueError(f"width, height: expected 1 or more pixels, got {width}x{height}")
        if time_base <= 0 or time_base.denominator > _MAX_TIMESCALE:
            raise ValueError(f"time_base: expected 1/{_MAX_TIMESCALE} s or coarser, got {time_base}")
        if frame_rate <= 0:
            raise ValueError(f"frame_rate: expected more than 0, got {frame_rate}")
        if not 0 <= crf <= 51:
            raise ValueError(f"crf: expected 0 to 51, got {crf}")
        if gop is not None and gop < 1:
            raise ValueError(f"gop: expected 1 or more frames, got {gop}")
        check_rotation(rotation_deg)
        if min(pixel_aspect) < 1:
            raise ValueError(f"pixel_aspect: expected two positive numbers, got {pixel_aspect}")
        self.path = Path(path)
        #: Frames moved to the next tick because they repeated a time stamp.
        self.moved_frames = 0
        #: Frames written.
        self.frame_count = 0
        self._size = (width, height)
        self._time_base = time_base
        self._pixel_format = "yuv444p" if width % 2 or height % 2 else pixel_format
        self._given_ticks: int | None = None
        self._written_ticks = -1
        self._audio = None if audio_from is None else read_audio(audio_from, folder=self.path.parent)
        self._container: OutputContainer = av.open(
            os.fspath(path),
            "w",
            format="mp4",
            options={
                "movflags": "+faststart",
                "fflags": "+bitexact",
                # Both clocks of the file tick as the source does: a late first frame keeps its exact time.
                "movie_timescale": str(_movie_timescale(time_base, self._audio)),
                "video_track_timescale": str(time_base.denominator),
            },
        )
        self._stream: VideoStream = self._container.add_stream(
            "libx264",
            rate=frame_rate,
            options={"preset": preset, "crf": str(crf), "a53cc": "0"}
            | ({"tune": "fastdecode"} if fast_decode else {})
            | _reproducible(width),
        )
        context = self._stream.codec_context
        self._stream.width, self._stream.height = width, height
        self._stream.time_base = context.time_base = time_base
        context.flags |= Flags.bitexact
        context.thread_count = threads
        if pixel_aspect != (1, 1):
            context.sample_aspect_ratio = Fraction(*pixel_aspect)
        context.gop_size = gop or max(1, round(DEFAULT_KEYFRAME_INTERVAL_S * frame_rate))
        if not bframes:
            context.max_b_frames = 0
        if rotation_deg:
            self._stream.set_display_rotation(-rotation_deg)
        self._audio_stream: AudioStream | None = None
        if self._audio is not None:
            self._audio_stream = self._container.add_stream_from_template(self._audio.stream)

    def write(self, frame: VideoFrame, *, timestamp_ns: int | None = None, pts: int | None = None) -> None:
        """Append a frame; its own time stamp and coding type are overwritten, its picture is not.

        Args:
            frame: Picture of the stated size, in any pixel format.
            timestamp_ns: Presentation time in nanoseconds, rounded to the nearest tick.
            pts: Presentation time in ticks of the time base, in place of ``timestamp_ns``.

        Raises:
            ValueError: Another size, a time stamp before the previous one, or not exactly one of
                ``timestamp_ns`` and ``pts``.
            MediaError: ``negative_timestamp``: MP4 has no time before zero. ``not_encodable``: the encoder or MP4
                refuses the frame, such as one that comes more than 2^31 ticks after the last.
        """
        if timestamp_ns is not None and pts is None:
            pts = ns_to_ticks(timestamp_ns, self._time_base)
        elif pts is None or timestamp_ns is not None:
            raise ValueError("timestamp_ns, pts: expected exactly one of the two")
        if (frame.width, frame.height) != self._size:
            raise ValueError(
                f"frame: expected {self._size[0]}x{self._size[1]}, got {frame.width}x{frame.height}"
            )
        ticks = self._next_ticks(pts)
        if self.frame_count == 0:
            self._take_colours(frame)
        if frame.format.name != self._stream.codec_context.pix_fmt:
            frame = frame.reformat(format=self._stream.codec_context.pix_fmt, threads=1)
        frame.pts, frame.time_base = ticks, self._time_base
        frame.pict_type = 0  # A decoded frame carries its old coding type, which x264 would obey.
        with self._explained():
            self._container.mux(self._stream.encode(frame))
            self._pass_on_audio(until_s=ticks * self._time_base)
        self.frame_count += 1

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say what FFmpeg's refusal of a frame means; a full disk and lacking memory stay what they are."""
        try:
            yield
        except (MemoryError, OSError):
            raise
        except av.error.FFmpegError as error:
            raise MediaError(
                "not_encodable",
                f"{self.path.name}: frame {self.frame_count} cannot be written ({error.strerror}): its time stamp lies "
                "too far behind the one before, or its format changes. Cut the recording there, or re-wrap it with "
                "new time stamps.",
            ) from error

    def _pass_on_audio(self, *, until_s: Fraction | None) -> None:
        if self._audio is None or self._audio_stream is None:
            return
        for packet in self._audio.packets_until(until_s):
            packet.stream = self._audio_stream
            self._container.mux(packet)

    def _next_ticks(self, ticks: int) -> int:
        if ticks < 0:
            raise MediaError(
                "negative_timestamp",
                f"{self.path.name}: a frame lies {-ticks * self._time_base} s before zero, which MP4 cannot "
                "store. Re-wrap the source so that its time stamps start at zero.",
            )
        if self._given_ticks is not None and ticks < self._given_ticks:
            raise ValueError(f"time stamp: expected {self._given_ticks} ticks or later, got {ticks}")
        self._given_ticks = ticks
        if ticks <= self._written_ticks:
            ticks = self._written_ticks + 1
            self.moved_frames += 1
        self._written_ticks = ticks
        return ticks

    def _take_colours(self, frame: VideoFrame) -> None:
        context = self._stream.codec_context
        full_range = _FULL_RANGE[self._pixel_format]
        context.pix_fmt = full_range if frame.format.name.startswith("yuvj") else self._pixel_format
        if frame.format.is_rgb:
            return
        context.color_range = frame.color_range
        context.colorspace = frame.colorspace
        context.color_primaries = frame.color_primaries
        context.color_trc = frame.color_trc

    def close(self) -> None:
        """Finish the file.

        Raises:
            MediaError: ``no_frames``: nothing was written, or ``not_encodable`` as :meth:`write`. The file is removed.
        """
        if self.frame_count == 0:
            self.discard()
            raise MediaError("no_frames", f"{self.path.name}: no frame was written, so there is no video.")
        try:
            with self._explained():
                self._container.mux(self._stream.encode(None))
                self._pass_on_audio(until_s=None)
                self._container.close()
        except BaseException:
            self.discard()
            raise
        self._release_audio()

    def _release_audio(self) -> None:
        if self._audio is not None:
            self._audio.close()

    def discard(self) -> None:
        """Give the file up and remove it."""
        self._release_audio()
        with suppress(av.error.FFmpegError):
            self._container.close()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is None:
            self.close()
        else:
            self.discard()
