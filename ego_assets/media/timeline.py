"""Time stamps of a video, read without decoding, and exact conversion between ticks and nanoseconds."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction

import av.error
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ego_assets.media.source import MediaSource, display_name, open_video, time_base_of
from ego_assets.schema.arrays import read_only
from ego_assets.schema.errors import MediaError
from ego_assets.schema.timeline import NANOSECONDS, Timeline

#: No camera records faster; a container that claims more has only stated its time base.
MAX_FRAME_RATE = 1000

#: Longest time from the first frame to the last: no camera that is worn records for more than two days.
MAX_SPAN_S = 2 * 86_400

#: Latest time of a frame, a century: nanoseconds of a camera's clock that counts from 1970 still fit 64 bits.
MAX_TIME_S = 100 * 365 * 86_400

#: Damaged reads in a row after which the rest of a file is given up.
_MAX_READ_ERRORS = 16

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
        stepped_back: Whether time stamps step back, so that they do not tell the order of the frames.
    """

    ticks: npt.NDArray[np.int64]
    keyframes: npt.NDArray[np.int64]
    keyframe_dts: npt.NDArray[np.int64]
    time_base: Fraction
    stepped_back: bool = False

    def __post_init__(self) -> None:
        if self.keyframes.shape != self.keyframe_dts.shape:
            raise ValueError(
                f"keyframe_dts: expected shape {self.keyframes.shape}, got {self.keyframe_dts.shape}"
            )
        for name in ("ticks", "keyframes", "keyframe_dts"):
            object.__setattr__(self, name, read_only(getattr(self, name)))


def packets_of(
    container: InputContainer, stream: VideoStream, *, on_damage: Callable[[Exception], None] | None = None
) -> Iterator[Packet[VideoStream]]:
    """Packets from the present position up to the end, the flushing one included, across damaged stretches.

    Args:
        container: The opened file.
        stream: Its video stream.
        on_damage: Told of every read that failed; reading goes on behind it, up to :data:`_MAX_READ_ERRORS` times.
    """
    for _ in range(_MAX_READ_ERRORS):
        try:
            yield from container.demux(stream)
        except av.error.InvalidDataError as error:
            if on_damage is not None:
                on_damage(error)
        else:
            return


class OrderCheck:
    """Finds time stamps that step back, packet by packet in decoding order.

    Frames are decoded before others that are shown earlier, but no more of them than the codec's reorder depth
    says. A packet behind more than that many later ones has a time stamp that the clock has been set back for.

    Args:
        stream: The stream the packets come from.
    """

    def __init__(self, stream: VideoStream) -> None:
        self._depth = stream.codec_context.reorder_depth
        self._latest: list[int] = []
        #: Whether a time stamp stepped back so far.
        self.stepped_back = False

    def add(self, stamp: int) -> None:
        """Take in the presentation time of the next packet, in ticks."""
        if len(self._latest) <= self._depth:
            heapq.heappush(self._latest, stamp)
            return
        if stamp < self._latest[0]:
            self.stepped_back = True
        heapq.heappushpop(self._latest, stamp)


class StampRepair:
    """Makes a clock that is set back go on, frame by frame in presentation order.

    A frame that lies before the one shown before it follows that one after the stream's usual interval, and the
    frames behind it keep their distance to it, until the clock is ahead of the repaired one again. So one wrong
    stamp moves one frame, and a clock that starts anew moves all that follow. Repeated stamps stay repeated.

    Args:
        stream: The stream the time stamps come from.
    """

    def __init__(self, stream: VideoStream) -> None:
        rate = declared_rate(stream) or Fraction(30)
        self._interval = max(1, round(1 / (rate * time_base_of(stream))))
        self._last: int | None = None
        self._offset = 0

    def repaired(self, stamp: int) -> int:
        """Where a frame with this time stamp belongs, in ticks."""
        if self._last is None or stamp > self._last:
            self._offset = 0
        elif stamp + self._offset < self._last:
            self._offset = self._last + self._interval - stamp
        self._last = stamp + self._offset
        return self._last


def frame_stamp(frame: VideoFrame) -> int | None:
    """Presentation time of a decoded frame in ticks, or ``None`` where the file gives none."""
    return frame.pts if frame.pts is not None else frame.dts


def read_packet_index(container: InputContainer, stream: VideoStream) -> PacketIndex:
    """Demux the whole stream from the container's present position."""
    ticks, key_ticks, key_dts = array("q"), array("q"), array("q")
    order_check = OrderCheck(stream)
    for packet in packets_of(container, stream):
        stamp = packet_stamp(packet)
        if stamp is None:
            continue
        ticks.append(stamp)
        order_check.add(stamp)
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
        stepped_back=order_check.stepped_back,
    )


def read_timeline(source: MediaSource, *, name: str = "") -> Timeline:
    """Presentation times of all frames, found by demuxing only.

    What counts is what a player shows, and when. Edit lists are honoured: frames they trim are left out, as
    decoding leaves them out, and an empty edit makes the first frame late. A file that breaks off yields the
    time line up to the damage. Memory: three ``int64`` a frame.

    Where time stamps step back, as after a clock was set, they do not tell the order of the frames. The file is
    then decoded once: the decoder's order counts, and :class:`StampRepair` lets the clock go on. No frame is lost,
    ``stepped_back_count`` tells how many were moved.

    Args:
        source: Local path, or seekable binary file object.
        name: What messages call it.

    Raises:
        MediaError: As :func:`ego_assets.media.source.open_video`, ``no_frames`` for a video stream
            without a single frame, and ``absurd_timestamps`` for frames that lie days apart.
    """
    container, stream = open_video(source, name=name)
    with container:
        index = read_packet_index(container, stream)
        rates = _declared_rates(stream)
        if index.ticks.size == 0:
            raise MediaError(
                "no_frames",
                f"{display_name(source, name)} has a video stream without frames: the recording was "
                "probably cut off. Copy it from the camera again.",
            )
    ticks, stepped_back_count = index.ticks, 0
    if index.stepped_back:
        ticks, stepped_back_count = _decoded_ticks(source, name=name)
        if ticks.size == 0:
            raise MediaError(
                "unreadable",
                f"{display_name(source, name)}: not one picture can be decoded, and its time stamps step back. Copy "
                "it from the camera again.",
            )
    _check_plausible(ticks, index.time_base, display_name(source, name))
    timestamps_ns = ticks_array_to_ns(ticks, index.time_base)
    rate = _nominal_rate(rates, timestamps_ns)
    return Timeline(timestamps_ns, rate, index.time_base, stepped_back_count)


def _decoded_ticks(source: MediaSource, *, name: str) -> tuple[npt.NDArray[np.int64], int]:
    """Repaired time stamps in the order in which the decoder shows the frames, and how many were moved."""
    container, stream = open_video(source, name=name)
    ticks, moved = array("q"), 0
    repair = StampRepair(stream)
    with container:
        for packet in packets_of(container, stream):
            with suppress(av.error.InvalidDataError):
                for frame in packet.decode():
                    if (stamp := frame_stamp(frame)) is not None:
                        ticks.append(repair.repaired(stamp))
                        moved += ticks[-1] != stamp
    return np.array(ticks, np.int64), moved


def _check_plausible(ticks: npt.NDArray[np.int64], time_base: Fraction, label: str) -> None:
    """Refuse time stamps that no recording has and that nanoseconds or MP4 cannot hold."""
    latest_s = max(abs(int(ticks[0])), abs(int(ticks[-1]))) * time_base
    span_s = (int(ticks[-1]) - int(ticks[0])) * time_base
    if span_s > MAX_SPAN_S or latest_s > MAX_TIME_S:
        raise MediaError(
            "absurd_timestamps",
            f"{label}: its time stamps cannot be right: the last frame lies {float(span_s):,.0f} s after the first, "
            f"and {float(latest_s):,.0f} s from zero. Copy the file from the camera again, or re-wrap it with new time "
            "stamps.",
        )


def declared_rate(stream: VideoStream) -> Fraction | None:
    """Frame rate as the container declares it, or ``None`` where it is absent or absurd."""
    return next(iter(_declared_rates(stream)), None)


def _declared_rates(stream: VideoStream) -> tuple[Fraction, ...]:
    rates = (stream.guessed_rate, stream.average_rate)
    return tuple(rate for rate in rates if rate is not None and 0 < rate <= MAX_FRAME_RATE)


def _nominal_rate(rates: Sequence[Fraction], timestamps_ns: npt.NDArray[np.int64]) -> Fraction:
    """The declared rate that agrees with the usual interval, else the rate measured by that interval.

    Intervals near the median are blind to dropped frames, which lower a declared average.
    """
    intervals = np.diff(timestamps_ns)
    intervals = intervals[intervals > 0]
    if intervals.size == 0:
        return next(iter(rates), Fraction(30))
    median = np.median(intervals)
    usual = intervals[np.abs(intervals - median) <= 0.1 * median]
    if usual.size == 0:
        usual = intervals
    measured = Fraction(NANOSECONDS * usual.size, int(usual.sum()))
    for rate in rates:
        if abs(rate / measured - 1) < Fraction(1, 50):
            return rate
    nearest = min(STANDARD_FRAME_RATES, key=lambda rate: abs(rate / measured - 1))
    if abs(nearest / measured - 1) < Fraction(1, 1000):
        return nearest
    return 1 / (1 / measured).limit_denominator(1001) if measured < 1 else measured.limit_denominator(1001)
