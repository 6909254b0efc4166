"""What the media probe finds out about a file."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

#: How light becomes sample values: as screens always did it, or one of the two ways of ITU-R BT.2100.
Transfer = Literal["sdr", "pq", "hlg"]


@dataclass(frozen=True, kw_only=True)
class StreamInfo:
    """A stream beside the video: audio, telemetry, time code, attached pictures.

    Attributes:
        index: Position in the container.
        kind: ``audio``, ``data``, ``subtitle``, ``attachment`` or ``video``.
        codec: Codec name, or the container's tag where there is no codec.
        handler: The container's name for it, such as ``GoPro MET``.
    """

    index: int
    kind: str
    codec: str
    handler: str = ""


@dataclass(frozen=True, kw_only=True)
class MediaProbe:
    """Container and video stream as declared; nothing is decoded.

    Attributes:
        container: Container format, such as ``mov,mp4,m4a,3gp,3g2,mj2``.
        codec: Video codec.
        pixel_format: Pixel format of the coded pictures.
        bit_depth: Bits per component.
        coded_width: Width in pixels as coded, before rotation.
        coded_height: Height in pixels as coded, before rotation.
        rotation_deg: Clockwise turn in degrees (0, 90, 180, 270) that makes the coded picture upright.
        frame_rate: Nominal frames per second.
        declared_duration_s: Duration as declared; ``None`` where absent.
        declared_frame_count: Frame count as declared; ``None`` where absent.
        size_bytes: Size of the file.
        other_streams: Everything beside the video stream.
        metadata_keys: Names (never values) of the metadata entries of the container and of its streams.
        mirrored: Whether the display matrix mirrors the picture; the reader undoes it, and ``rotation_deg`` is the
            turn that is left.
        pixel_aspect: Width to height of one coded pixel; other than (1, 1) where pixels are not square.
        interlaced: Whether the first picture is woven of two fields.
        transfer: Transfer characteristic; HDR (``pq``, ``hlg``) is mapped to SDR where pictures are read.
        full_range: Whether luma spans all values of the decoded pictures (0-255) rather than 16-235.
    """

    container: str
    codec: str
    pixel_format: str
    bit_depth: int
    coded_width: int
    coded_height: int
    rotation_deg: int
    frame_rate: Fraction
    declared_duration_s: float | None
    declared_frame_count: int | None
    size_bytes: int
    other_streams: tuple[StreamInfo, ...] = ()
    metadata_keys: tuple[str, ...] = ()
    mirrored: bool = False
    pixel_aspect: tuple[int, int] = (1, 1)
    interlaced: bool = False
    transfer: Transfer = "sdr"
    full_range: bool = False

    @property
    def width(self) -> int:
        """Width of the upright picture."""
        return self.coded_height if self.rotation_deg in (90, 270) else self.coded_width

    @property
    def height(self) -> int:
        """Height of the upright picture."""
        return self.coded_width if self.rotation_deg in (90, 270) else self.coded_height
