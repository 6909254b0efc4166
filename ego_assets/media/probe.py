"""What a container declares about itself and its video stream."""

from __future__ import annotations

from itertools import islice
from typing import cast

import av.error
from av.container import InputContainer
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ego_assets.media.source import MediaSource, display_name, open_video, size_bytes, time_base_of
from ego_assets.media.timeline import declared_rate, read_timeline
from ego_assets.schema.errors import MediaError
from ego_assets.schema.media import MediaProbe, StreamInfo

#: Packets tried before a stream counts as undecodable: ten seconds at 30 frames a second.
_MAX_PACKETS_TO_FIRST_FRAME = 300


def frame_rotation_deg(frame: VideoFrame) -> int:
    """Clockwise turn (0, 90, 180, 270) that makes a decoded frame upright, from its display matrix.

    FFmpeg states the counter-clockwise angle; other angles are rounded to a quarter turn.
    """
    return round(-frame.rotation / 90) * 90 % 360


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
        context = stream.codec_context
        frame = _first_frame(container, stream)
        if frame is None:
            raise MediaError(
                "unreadable",
                f"{display_name(source, name)}: not one picture can be decoded. The recording was probably cut "
                "off or damaged in copying: copy it from the camera again.",
            )
        duration_s = None
        if stream.duration is not None:
            duration_s = float(stream.duration * time_base_of(stream))
        elif container.duration is not None:
            duration_s = container.duration / 1_000_000
        frame_rate = declared_rate(stream)
        declared = {
            "container": container.format.name,
            "codec": context.codec.canonical_name,
        }
        others = tuple(_stream_info(other) for other in container.streams if other.index != stream.index)
        metadata_keys = tuple(sorted(container.metadata))
        declared_frame_count = stream.frames or None
    if frame_rate is None:
        frame_rate = read_timeline(source, name=name).frame_rate
    return MediaProbe(
        container=declared["container"],
        codec=declared["codec"],
        pixel_format=frame.format.name,
        bit_depth=max(component.bits for component in frame.format.components),
        coded_width=frame.width,
        coded_height=frame.height,
        rotation_deg=frame_rotation_deg(frame),
        frame_rate=frame_rate,
        declared_duration_s=duration_s,
        declared_frame_count=declared_frame_count,
        size_bytes=size_bytes(source),
        other_streams=others,
        metadata_keys=metadata_keys,
    )
