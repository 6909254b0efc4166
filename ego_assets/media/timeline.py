"""Time stamps of a video, read without decoding, and exact conversion between ticks and nanoseconds."""

from __future__ import annotations

from array import array
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction

import av.error
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from ego_assets.media.source import MediaSource, display_name, open_video, time_base_of
from ego_assets.schema.arrays import read_only
from ego_assets.schema.errors import MediaError
from ego_assets.schema.timeline import NANOSECONDS, Timeline

#: No camera records faster; a container that claims more has only stated its time base.
MAX_FRAME_RATE = 1000

#: Rates that cameras use; a measured rate within 0.1 % of one is taken to be it.
STANDARD_FRAME_RATES = tuple(
    Fraction(rate) * factor
    for rate in (15, 24, 25, 30, 48, 50, 60, 100, 120, 200, 240)
    for factor in (Fraction(1), Fraction(1000, 1001))
)


def ticks_to_ns(ticks: int, time_base: Fraction) -> int:
    """Nanoseconds of a time stamp, rounded half to even."""
    return round(Fraction(ticks * time_base.numerator * NANOSECONDS, time_base.denominator))


def ticks_array_to_ns(ticks: npt.NDArray[np.int64], time_base: Fraction) -> npt.NDArray[np.int64]:
    """:func:`ticks_to_ns` of an ``int64`` array, in exact integer arithmetic."""
    denominator = time_base.denominator
    seconds, part = np.divmod(ticks * time_base.numerator, denominator)
    nanoseconds, rest = np.divmod(part * NANOSECONDS, denominator)
    round_up = (2 * rest > denominator) | ((2 * rest == denominator) & (nanoseconds % 2 == 1))
    return np.asarray(seconds * NANOSECONDS + nanoseconds + round_up, dtype=np.int64)


def ns_to_ticks(timestamp_ns: int, time_base: Fraction) -> int:
    """Nearest tick of a time in nanoseconds; exact for whatever :func:`ticks_to_ns` returned."""
    return round(Fraction(timestamp_ns * time_base.denominator, time_base.numerator * NANOSECONDS))


def packet_stamp(packet: Packet[VideoStream]) -> int | None:
    """Presentation time of a packet in ticks, or ``None`` for one that shows no frame.

    Packets that an edit list trims are flagged by the demuxer; the decoder drops their frames.
    """
    if packet.is_discard:
        return None
    return packet.pts if packet.pts is not None else packet.dts


@dataclass(frozen=True, eq=False)
class PacketIndex:
    """What the packets of a video stream say, in presentation order.

    Attributes:
        ticks: ``int64 [N]``, presentation time of each frame, ascending.
        keyframes: ``int64 [K]``, frame index of each frame that decoding can start at, ascending.
        keyframe_dts: ``int64 [K]``, decoding time of those frames, by which the demuxer seeks.
        time_base: Seconds per tick.
    """

    ticks: npt.NDArray[np.int64]
    keyframes: npt.NDArray[np.int64]
    keyframe_dts: npt.NDArray[np.int64]
    time_base: Fraction

    def __post_init__(self) -> None:
        if self.keyframes.shape != self.keyframe_dts.shape:
            raise ValueError(
                f"keyframe_dts: expected shape {self.keyframes.shape}, got {self.keyframe_dts.shape}"
            )
        for name in ("ticks", "keyframes", "keyframe_dts"):
            object.__setattr__(self, name, read_only(getattr(self, name)))


def read_packet_index(container: InputContainer, stream: VideoStream) -> PacketIndex:
    """Demux the whole stream from the container's present position; a damaged tail ends it early."""
    ticks, key_ticks, key_dts = array("q"), array("q"), array("q")
    with suppress(av.error.InvalidDataError):
        for packet in container.demux(stream):
            stamp = packet_stamp(packet)
            if stamp is None:
                continue
            ticks.append(stamp)
            if packet.is_keyframe:
                key_ticks.append(stamp)
                key_dts.append(packet.dts if packet.dts is not None else stamp)
    sorted_ticks = np.sort(np.frombuffer(ticks, np.int64)) if ticks else np.zeros(0, np.int64)
    keys = np.searchsorted(sorted_ticks, np.array(key_ticks, np.int64))
    order = np.argsort(keys, kind="stable")
    return PacketIndex(
        ticks=sorted_ticks,
        keyframes=keys[order].astype(np.int64),
        keyframe_dts=np.array(key_dts, np.int64)[order],
        time_base=time_base_of(stream),
    )


def read_timeline(source: MediaSource, *, name: str = "") -> Timeline:
    """Presentation times of all frames, found by demuxing only.

    Edit lists are honoured: frames they trim are left out, as decoding leaves them out. A file that
    breaks off yields the time line up to the damage. Memory: three ``int64`` a frame.

    Args:
        source: Local path, or seekable binary file object.
        name: What messages call it.

    Raises:
        MediaError: As :func:`ego_assets.media.source.open_video`, and ``no_frames`` for a video stream
            without a single frame.
    """
    container, stream = open_video(source, name=name)
    with container:
        index = read_packet_index(container, stream)
        if index.ticks.size == 0:
            raise MediaError(
                "no_frames",
                f"{display_name(source, name)} has a video stream without frames: the recording was "
                "probably cut off. Copy it from the camera again.",
            )
        timestamps_ns = ticks_array_to_ns(index.ticks, index.time_base)
        return Timeline(timestamps_ns, _nominal_rate(stream, timestamps_ns), index.time_base)


def declared_rate(stream: VideoStream) -> Fraction | None:
    """Frame rate as the container declares it, or ``None`` where it is absent or absurd."""
    for rate in (stream.guessed_rate, stream.average_rate):
        if rate is not None and 0 < rate <= MAX_FRAME_RATE:
            return rate
    return None


def _nominal_rate(stream: VideoStream, timestamps_ns: npt.NDArray[np.int64]) -> Fraction:
    """The declared rate that agrees with the usual interval, else the rate measured by that interval.

    Intervals near the median are blind to dropped frames, which lower a declared average.
    """
    intervals = np.diff(timestamps_ns)
    intervals = intervals[intervals > 0]
    if intervals.size == 0:
        return declared_rate(stream) or Fraction(30)
    median = np.median(intervals)
    usual = intervals[np.abs(intervals - median) <= 0.1 * median]
    if usual.size == 0:
        usual = intervals
    measured = Fraction(NANOSECONDS * usual.size, int(usual.sum()))
    for rate in (stream.guessed_rate, stream.average_rate):
        if rate is not None and 0 < rate <= MAX_FRAME_RATE and abs(rate / measured - 1) < Fraction(1, 50):
            return rate
    nearest = min(STANDARD_FRAME_RATES, key=lambda rate: abs(rate / measured - 1))
    if abs(nearest / measured - 1) < Fraction(1, 1000):
        return nearest
    return 1 / (1 / measured).limit_denominator(1001) if measured < 1 else measured.limit_denominator(1001)
