"""What a container declares about itself and its video stream."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from itertools import islice

import av
import av.error
from av.container import InputContainer
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ego_assets.media.pictures import has_full_range, orientation_of, transfer_of
from ego_assets.media.source import MediaSource, display_name, open_video, size_bytes, time_base_of
from ego_assets.media.timeline import declared_rate, read_timeline
from ego_assets.schema.errors import MediaError
from ego_assets.schema.media import MediaProbe, StreamInfo

#: Packets tried before a stream counts as undecodable: ten seconds at 30 frames a second.
_MAX_PACKETS_TO_FIRST_FRAME = 300


def probe(source: MediaSource, *, name: str = "") -> MediaProbe:
    """Read what a file declares; only the first frame is decoded, for its orientation.

    Declarations are reported as they are, however absurd; whether they fit the content is for the
    quality gates to judge.

    Args:
        source: Local path, or seekable binary file object.
        name: What messages call it; the base name of a path by default.

    Raises:
        MediaError: As :func:`ego_assets.media.source.open_video`; also ``unreadable`` when no frame can
            be decoded. Messages carry nothing of the file's content.
    """
    container, stream = open_video(source, name=name)
    with container:
        frame = _first_frame(container, stream)
        if frame is None:
            raise MediaError(
                "unreadable",
                f"{display_name(source, name)}: not one picture can be decoded. The recording was probably "
                "cut off or damaged in copying: copy it from the camera again.",
            )
        frame_rate = declared_rate(stream)
        orientation = orientation_of(frame)
        found = MediaProbe(
            container=container.format.name,
            codec=stream.codec_context.codec.canonical_name,
            pixel_format=frame.format.name,
            bit_depth=max(component.bits for component in frame.format.components),
            coded_width=frame.width,
            coded_height=frame.height,
            rotation_deg=orientation.rotation_deg,
            frame_rate=frame_rate or Fraction(0),
            declared_duration_s=_declared_duration_s(container, stream),
            declared_frame_count=stream.frames or None,
            size_bytes=size_bytes(source),
            other_streams=tuple(
                _stream_info(other) for other in container.streams if other.index != stream.index
            ),
            metadata_keys=_metadata_keys(container),
            mirrored=orientation.mirrored,
            pixel_aspect=_pixel_aspect(stream),
            interlaced=frame.interlaced_frame,
            transfer=transfer_of(frame),
            full_range=has_full_range(frame),
        )
    return found if frame_rate else replace(found, frame_rate=read_timeline(source, name=name).frame_rate)


def _first_frame(container: InputContainer, stream: VideoStream) -> VideoFrame | None:
    for packet in islice(container.demux(stream), _MAX_PACKETS_TO_FIRST_FRAME):
        with suppress(av.error.InvalidDataError):
            for frame in packet.decode():
                return frame
    return None


def _pixel_aspect(stream: VideoStream) -> tuple[int, int]:
    """Width to height of a pixel as the container states it, else the codec; square where both are silent."""
    aspect = stream.sample_aspect_ratio
    return (aspect.numerator, aspect.denominator) if aspect else (1, 1)


def _declared_duration_s(container: InputContainer, stream: VideoStream) -> float | None:
    if stream.duration is not None:
        return float(stream.duration * time_base_of(stream))
    if container.duration is not None:
        return container.duration / av.time_base
    return None


def _metadata_keys(container: InputContainer) -> tuple[str, ...]:
    """Names of the metadata entries of the container and of all its streams, sorted."""
    keys = set(container.metadata)
    for stream in container.streams:
        keys.update(stream.metadata)
    return tuple(sorted(keys))


def _stream_info(stream: Stream) -> StreamInfo:
    handler = "".join(c for c in stream.metadata.get("handler_name", "") if c.isprintable()).strip()
    return StreamInfo(index=stream.index, kind=stream.type, codec=stream.name or "unknown", handler=handler)
