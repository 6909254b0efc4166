"""Opening a video from a path or a file object, and saying clearly why one cannot be opened."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, cast

import av
import av.error
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from ego_assets.media.mp4 import has_movie_index, is_mp4, is_still_picture
from ego_assets.media.recording import SUPPORTED_EXTENSIONS
from ego_assets.schema.errors import MediaError

#: What a reader accepts: a local path, or a seekable binary file object.
MediaSource = str | os.PathLike[str] | BinaryIO

#: Bytes asked of a file object at a time.
READ_BUFFER_BYTES = 1 << 18

_MATROSKA_MAGIC = b"\x1a\x45\xdf\xa3"
_STILL_CONTAINERS = frozenset({"image2", "gif", "apng", "ico", "mjpeg"})
_PICTURE_STREAMS = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image


def display_name(source: MediaSource, name: str = "") -> str:
    """How messages call the source: ``name`` in quotes, else the base name of a path."""
    if name:
        return repr(name)
    if isinstance(source, str | os.PathLike):
        return repr(Path(source).name)
    return "The file"


@contextmanager
def open_binary(source: MediaSource) -> Iterator[BinaryIO]:
    """A readable file positioned at its start; closed on exit only if it was opened here."""
    if isinstance(source, str | os.PathLike):
        with Path(source).open("rb") as file:
            yield file
    else:
        source.seek(0)
        yield source


def size_bytes(source: MediaSource) -> int:
    """Size of the source in bytes."""
    with open_binary(source) as file:
        return file.seek(0, os.SEEK_END)


def time_base_of(stream: VideoStream) -> Fraction:
    """Seconds per tick of the stream's time stamps."""
    if stream.time_base is None:
        raise ValueError("time_base: expected seconds per tick, got a stream without one")
    return stream.time_base


def open_video(
    source: MediaSource, *, name: str = "", hwaccel: HWAccel | None = None
) -> tuple[InputContainer, VideoStream]:
    """Open a source and select its video stream; the caller closes the container.

    Every other stream is skipped while reading. Pictures attached to an audio file do not count as video.

    Args:
        source: Local path, or seekable binary file object (rewound before use, left open).
        name: What messages call it; the base name of a path by default.
        hwaccel: Device that decodes the stream; the CPU by default.

    Raises:
        MediaError: ``empty``, ``not_a_video``, ``missing_index``, ``no_video_stream``, ``no_codec`` or
            ``unreadable``.
    """
    label = display_name(source, name)
    header = _read_header(source, label)
    if is_still_picture(header):
        raise _not_a_video(label)
    if not isinstance(source, str | os.PathLike):
        source.seek(0)
    file = os.fspath(source) if isinstance(source, str | os.PathLike) else source
    try:
        container = av.open(
            file, "r", buffer_size=READ_BUFFER_BYTES, metadata_errors="replace", hwaccel=hwaccel
        )
    except av.error.FFmpegError as error:
        raise _why_not_opened(source, header, label, error) from error
    try:
        return container, _select_video_stream(container, source, header, label)
    except BaseException:
        container.close()
        raise


def _read_header(source: MediaSource, label: str) -> bytes:
    try:
        with open_binary(source) as file:
            header = file.read(16)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        reason = (error.strerror or "no access").lower()
        raise MediaError("unreadable", f"{label} cannot be opened ({reason}): check the path.") from error
    if not header:
        raise MediaError("empty", f"{label} is empty (0 bytes): copy it from the camera again.")
    return header


def _select_video_stream(
    container: InputContainer, source: MediaSource, header: bytes, label: str
) -> VideoStream:
    format_name = container.format.name
    if format_name in _STILL_CONTAINERS or format_name.endswith("_pipe"):
        raise _not_a_video(label)
    streams = [stream for stream in container.streams.video if not stream.disposition & _PICTURE_STREAMS]
    if not streams:
        if is_mp4(header) and not _index_is_complete(source):
            raise _missing_index(label)
        raise MediaError(
            "no_video_stream",
            f"{label} has no video stream: upload the video itself, not its sound or telemetry.",
        )
    selected = max(streams, key=_importance)
    if not _is_decodable(selected):
        raise MediaError(
            "no_codec",
            f"{label}: its video codec cannot be decoded here. Record or export it as H.264 or HEVC.",
        )
    for stream in container.streams:
        if stream.index != selected.index:
            stream.discard = Discard.all
    return selected


def _importance(stream: VideoStream) -> tuple[bool, int, int]:
    """Order of several video streams: the recording before its preview or its still picture.

    The picture with most pixels is meant, and of equal ones that with most frames. A stream that cannot be decoded
    may be the recording, so it is not passed over silently.
    """
    if not _is_decodable(stream):
        return (True, 0, 0)
    return (False, stream.width * stream.height, stream.frames)


def _is_decodable(stream: VideoStream) -> bool:
    # PyAV gives no codec context where FFmpeg has no decoder, which its type stubs do not say.
    return cast("object | None", stream.codec_context) is not None


def _why_not_opened(
    source: MediaSource, header: bytes, label: str, error: av.error.FFmpegError
) -> MediaError:
    if is_mp4(header):
        if not _index_is_complete(source):
            return _missing_index(label)
    elif not header.startswith(_MATROSKA_MAGIC) and isinstance(
        error, av.error.InvalidDataError | av.error.EOFError
    ):
        return _not_a_video(label)
    return MediaError(
        "unreadable",
        f"{label} is damaged and cannot be opened ({error.strerror}): copy it from the camera again.",
    )


def _index_is_complete(source: MediaSource) -> bool:
    with open_binary(source) as file:
        return has_movie_index(file)


def _missing_index(label: str) -> MediaError:
    return MediaError(
        "missing_index",
        f"{label} has no index of its frames: the recording was probably cut off (battery, full card) or "
        "the copy was interrupted. Copy it again, or repair it by putting the card back into the camera.",
    )


def _not_a_video(label: str) -> MediaError:
    return MediaError(
        "not_a_video",
        f"{label} is not a video, whatever its name says: upload the camera's own "
        f"{', '.join(SUPPORTED_EXTENSIONS)} file.",
    )
