"""Threaded decoding with prefetch: the only way the platform reads pictures out of a video."""

from __future__ import annotations

import heapq
import os
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Semaphore, Thread
from types import TracebackType
from typing import Literal, Self, cast

import av.error
import numpy as np
import numpy.typing as npt
from av.codec.context import ThreadType
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from av.video.stream import VideoStream

from ego_assets.media.orientation import Orientation, rotate_upright
from ego_assets.media.pictures import PictureNormaliser, orientation_of
from ego_assets.media.source import MediaSource, display_name, open_video, time_base_of
from ego_assets.media.timeline import (
    OrderCheck,
    PacketIndex,
    StampRepair,
    frame_stamp,
    packet_stamp,
    packets_of,
    read_packet_index,
    ticks_to_ns,
)
from ego_assets.schema.arrays import ScalarT, read_only
from ego_assets.schema.detections import BgrImage
from ego_assets.schema.errors import BackendUnavailable, MediaError

#: What decodes: the processor, or the decoder of an NVIDIA GPU (NVDEC).
Decoder = Literal["cpu", "cuda"]

#: Fewest frames that seeking must save. A seek throws away the frames that decoder threads have begun,
#: one per thread, so below this it costs more than it saves.
MIN_FRAMES_SAVED_BY_SEEK = 16

#: Most bytes of pictures that wait to be taken, and that the decoder's threads hold, however large pictures are.
MAX_PREFETCH_BYTES = 128 << 20
MAX_DECODER_BYTES = 256 << 20

#: FFmpeg's own limit of automatic threads; each holds one frame more.
MAX_DECODER_THREADS = 16


@dataclass(frozen=True, slots=True, eq=False)
class DecodedFrame:
    """One frame of a video.

    Attributes:
        index: Position in the video's time line, from 0.
        timestamp_ns: Presentation time in nanoseconds.
        frame: The picture in coded orientation, as :mod:`ego_assets.media.pictures` makes it: whole, not mirrored,
            of standard range. The decoder may still refer to it: call ``frame.make_writable()`` before changing it.
        rotation_deg: Clockwise turn (0, 90, 180, 270) that makes it upright.
    """

    index: int
    timestamp_ns: int
    frame: VideoFrame
    rotation_deg: int

    def luma(self) -> npt.NDArray[np.uint8]:
        """Brightness as coded, ``uint8 [height, width]``, in coded orientation and range.

        A read-only view without a copy for 8-bit planar YUV; deeper formats lose their lowest bits;
        others (RGB, packed) are converted. Valid as long as the frame is.
        """
        pixel_format = self.frame.format
        bits = pixel_format.components[0].bits
        if pixel_format.is_rgb or not (pixel_format.is_planar or pixel_format.name.startswith("gray")):
            picture = np.asarray(self.frame.reformat(format="gray", threads=1).to_ndarray(), dtype=np.uint8)
        elif bits == 8:
            picture = self._first_plane(np.dtype(np.uint8))
        else:
            picture = (self._first_plane(np.dtype(np.uint16)) >> (bits - 8)).astype(np.uint8)
        return read_only(picture)

    def _first_plane(self, dtype: np.dtype[ScalarT]) -> npt.NDArray[ScalarT]:
        plane = self.frame.planes[0]
        rows = np.frombuffer(cast("bytes", plane), dtype).reshape(-1, plane.line_size // dtype.itemsize)
        return rows[: self.frame.height, : self.frame.width]

    def bgr(self, *, max_side: int | None = None, upright: bool = True) -> BgrImage:
        """The picture as ``uint8 [height, width, 3]``, BGR.

        Args:
            max_side: Longest allowed side in pixels; larger pictures are reduced, none is enlarged.
            upright: Turn by :attr:`rotation_deg`; otherwise coded orientation.
        """
        width, height = self.frame.width, self.frame.height
        interpolation = Interpolation.BILINEAR
        if max_side is not None and max(width, height) > max_side:
            if max_side < 1:
                raise ValueError(f"max_side: expected 1 or more pixels, got {max_side}")
            scale = max_side / max(width, height)
            width, height = max(1, round(width * scale)), max(1, round(height * scale))
            interpolation = Interpolation.AREA
        converted = self.frame.reformat(
            width=width, height=height, format="bgr24", interpolation=interpolation, threads=1
        )
        image = np.asarray(converted.to_ndarray(), dtype=np.uint8)
        return rotate_upright(image, self.rotation_deg) if upright else image


class VideoReader:
    """Decodes a video in presentation order, in a background thread that keeps a few frames ahead.

    A damaged file yields what can be decoded; :attr:`decode_errors` and :attr:`frames_lost` tell what
    could not. Frame indices are positions in :func:`ego_assets.media.timeline.read_timeline`, so that a
    lost frame leaves a gap and never shifts the frames behind it; time stamps are those of the time line, also where
    the file's own step back. Memory is bounded by ``prefetch`` plus one frame per decoder thread, and large pictures
    have fewer of both: about 0.4 GB beside the codec's reference frames.

    Args:
        source: Local path, or seekable binary file object that nobody else moves meanwhile.
        indices: Frames to yield; all by default. Stretches without any are skipped by seeking where that
            is worth it.
        threads: Decoder threads; 0 for as many as the machine has cores and memory allows.
        prefetch: Most frames decoded ahead; 0 decodes in the calling thread.
        strict: Raise ``MediaError`` (``damaged``) at the first damage instead of going on.
        name: What messages call the source.
        decoder: ``cpu``, or ``cuda`` for the decoder of the first GPU. Pictures are copied to system memory and are
            the same. What that decoder cannot read is refused, never decoded elsewhere: it takes fewer codecs and
            pixel formats, and its damage cannot be told from that.

    Raises:
        MediaError: As :func:`ego_assets.media.source.open_video`.
        BackendUnavailable: There is no such decoder, or it cannot read this video (also while frames are read).
        ValueError: ``indices`` outside the video (when iteration begins).
    """

    def __init__(
        self,
        source: MediaSource,
        *,
        indices: Collection[int] | None = None,
        threads: int = 0,
        prefetch: int = 8,
        strict: bool = False,
        name: str = "",
        decoder: Decoder = "cpu",
    ) -> None:
        if threads < 0 or prefetch < 0:
            raise ValueError(f"threads, prefetch: expected 0 or more, got {threads}, {prefetch}")
        self._label = display_name(source, name)
        self._indices = None if indices is None else sorted(set(indices))
        self._strict = strict
        self._decoder = decoder
        self._started = False
        self._orientation: Orientation | None = None
        self._stepped_back = False
        self._listed = self._unstamped = 0
        self._prefetcher: _Prefetcher | None = None
        #: Times that reading or decoding reported damage, known when iteration has ended.
        self.decode_errors = 0
        #: Frames that the container holds (or ``indices`` asked for) and that could not be decoded, or have no place
        #: because they lack any time stamp.
        self.frames_lost = 0
        self._container, self._stream = open_video(source, name=name)
        if decoder != "cpu":
            # What is wrong with the file itself was said before.
            self._container.close()
            self._container, self._stream = _opened_on_gpu(source, name)
        self._time_base = time_base_of(self._stream)
        frame_bytes = max(1, _frame_bytes(self._stream))
        self._prefetch = min(prefetch, max(2, MAX_PREFETCH_BYTES // frame_bytes))
        # Threads of the processor would take turns at the one device.
        self._stream.codec_context.thread_count = (
            1
            if decoder != "cpu"
            else threads
            or min(os.cpu_count() or 1, MAX_DECODER_THREADS, max(2, MAX_DECODER_BYTES // frame_bytes))
        )
        self._stream.codec_context.thread_type = ThreadType.AUTO

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop decoding, end the background thread and close the container."""
        if self._prefetcher is not None:
            self._prefetcher.close()
        self._container.close()

    def frames(self) -> Iterator[DecodedFrame]:
        """The frames, once; a second call raises ``RuntimeError``."""
        if self._started:
            raise RuntimeError("frames: expected one iteration for each VideoReader, got a second one")
        self._started = True
        frames = self._all_frames() if self._indices is None else self._chosen_frames(self._indices)
        if not self._prefetch:
            return frames
        self._prefetcher = _Prefetcher(frames, self._prefetch)
        return iter(self._prefetcher)

    def _all_frames(self) -> Iterator[DecodedFrame]:
        waiting: list[int] = []  # Time stamps of the frames that were read and not shown yet, as a heap.
        index = yielded = 0
        for stamp, frame in self._decoded(waiting):
            if self._stepped_back:
                # Stamps do not identify frames any more: they count in the order in which they come.
                yield self._frame(index, stamp, frame)
                index += 1
                yielded += 1
                continue
            while waiting and waiting[0] < stamp:
                heapq.heappop(waiting)
                index += 1
            if waiting and waiting[0] == stamp:
                heapq.heappop(waiting)
            yield self._frame(index, stamp, frame)
            index += 1
            yielded += 1
        self.frames_lost = max(self._listed, index) - yielded + self._unstamped

    def _chosen_of_all(self, indices: list[int]) -> Iterator[DecodedFrame]:
        wanted = set(indices)
        for frame in self._all_frames():
            if frame.index in wanted:
                wanted.discard(frame.index)
                yield frame
        self.frames_lost = len(wanted)

    def _chosen_frames(self, indices: list[int]) -> Iterator[DecodedFrame]:
        packets = read_packet_index(self._container, self._stream)
        if indices and not 0 <= indices[0] <= indices[-1] < packets.ticks.size:
            raise ValueError(
                f"indices: expected 0 to {packets.ticks.size - 1}, got {indices[0]} to {indices[-1]}"
            )
        if packets.stepped_back:
            self._container.seek(int(packets.ticks[0]), stream=self._stream, backward=True)
            yield from self._chosen_of_all(indices)
            return
        wanted = deque(indices)
        while wanted:
            position = self._seek(packets, wanted[0])
            for index, stamp, frame in self._indexed(packets, position):
                position = index + 1
                while wanted and wanted[0] < index:
                    wanted.popleft()
                    self.frames_lost += 1
                if wanted and wanted[0] == index:
                    wanted.popleft()
                    yield self._frame(index, stamp, frame)
                if not wanted or _start_for(packets, wanted[0])[0] - position >= MIN_FRAMES_SAVED_BY_SEEK:
                    break
            else:
                self.frames_lost += len(wanted)
                return

    def _seek(self, packets: PacketIndex, index: int) -> int:
        """Continue at the keyframe from which frame ``index`` decodes; its index is returned."""
        start, start_dts = _start_for(packets, index)
        self._container.seek(start_dts, stream=self._stream, backward=True)
        return start

    def _indexed(self, packets: PacketIndex, start: int) -> Iterator[tuple[int, int, VideoFrame]]:
        """Frames from index ``start`` on; what a seek decodes before it may lack its references."""
        latest = -1
        for stamp, frame in self._decoded(None):
            index = int(np.searchsorted(packets.ticks, stamp))
            if index <= latest < packets.ticks.size - 1 and packets.ticks[latest + 1] == stamp:
                index = latest + 1  # Another frame with the same time stamp.
            if index >= start and index < packets.ticks.size:
                latest = index
                yield index, stamp, frame

    def _decoded(self, waiting: list[int] | None) -> Iterator[tuple[int, VideoFrame]]:
        """Decode and normalise from the present position on; time stamps of packets are pushed on ``waiting``.

        Time stamps ascend: a frame that lies before the one shown before it is moved where the file's clock steps
        back, and dropped as damaged where only this frame is wrong.
        """
        order_check, repair = OrderCheck(self._stream), StampRepair(self._stream)
        normaliser: PictureNormaliser | None = None
        latest: int | None = None
        self._listed = 0
        for packet in packets_of(self._container, self._stream, on_damage=self._damage):
            if packet.is_corrupt:
                self._damage(None)
            stamp = packet_stamp(packet)
            if stamp is not None:
                self._listed += 1
                order_check.add(stamp)
                self._stepped_back = order_check.stepped_back
                if waiting is not None and not self._stepped_back:
                    heapq.heappush(waiting, stamp)
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                if isinstance(error, MemoryError):
                    raise
                self._damage(error)
                continue
            for frame in frames:
                stamp = frame_stamp(frame)
                if frame.is_corrupt or stamp is None:
                    self._damage(None)
                if stamp is None:
                    self._unstamped += 1
                    continue
                if not self._stepped_back and latest is not None and stamp < latest:
                    self._damage(None)
                    continue
                latest = repair.repaired(stamp)
                if self._orientation is None:
                    self._orientation = orientation_of(frame)
                if normaliser is None:
                    normaliser = PictureNormaliser(mirrored=self._orientation.mirrored)
                picture = frame if self._decoder == "cpu" else as_decoded_by_cpu(frame)
                yield from normaliser.add(latest, picture)
        if normaliser is not None:
            yield from normaliser.finish()

    def _damage(self, error: Exception | None) -> None:
        self.decode_errors += 1
        if self._decoder != "cpu":
            raise BackendUnavailable(
                f"{self._label}: the GPU's decoder cannot read it{f' ({error})' if error else ''}. Set EGO_DECODER=cpu."
            ) from error
        if self._strict:
            raise MediaError(
                "damaged", f"{self._label} is damaged: copy it from the camera again."
            ) from error

    def _frame(self, index: int, stamp: int, frame: VideoFrame) -> DecodedFrame:
        rotation_deg = self._orientation.rotation_deg if self._orientation is not None else 0
        return DecodedFrame(index, ticks_to_ns(stamp, self._time_base), frame, rotation_deg)


def _opened_on_gpu(source: MediaSource, name: str) -> tuple[InputContainer, VideoStream]:
    """A video that opens on the CPU, opened for the GPU's decoder and no other."""
    advice = "Set EGO_DECODER=cpu, or check the driver with nvidia-smi."
    label = display_name(source, name)
    hwaccel = HWAccel("cuda", allow_software_fallback=False)
    try:
        container, stream = open_video(source, name=name, hwaccel=hwaccel)
    except (MediaError, RuntimeError, NotImplementedError) as error:
        cause = error.__cause__ or error
        raise BackendUnavailable(f"{label}: no GPU decoder (cuda) for it here: {cause}. {advice}") from error
    if not stream.codec_context.is_hwaccel:
        container.close()
        codec = stream.codec_context.name
        raise BackendUnavailable(f"{label}: the GPU has no decoder for {codec}. {advice}")
    return container, stream


def as_decoded_by_cpu(frame: VideoFrame) -> VideoFrame:
    """A frame copied from a GPU, whose chroma planes are woven into one, in the layout that the CPU's decoders give.

    Raises:
        BackendUnavailable: It is not 8-bit 4:2:0, or interlaced; no de-identified video with the defaults is.
    """
    if frame.format.name != "nv12" or frame.interlaced_frame:
        kind = f"{'interlaced ' if frame.interlaced_frame else ''}{frame.format.name}"
        raise BackendUnavailable(
            f"EGO_DECODER=cuda reads whole pictures of 8-bit 4:2:0, and the GPU gave {kind}. Set EGO_DECODER=cpu."
        )
    planar = frame.reformat(format="yuv420p", threads=1)
    planar.pts, planar.time_base = frame.pts, frame.time_base
    planar.color_trc, planar.color_primaries = frame.color_trc, frame.color_primaries
    return planar


def _frame_bytes(stream: VideoStream) -> int:
    """Bytes of a decoded picture, 4:2:0, as far as the file's header tells."""
    bits = max((component.bits for component in stream.format.components), default=8) if stream.format else 8
    return stream.width * stream.height * (2 if bits > 8 else 1) * 3 // 2


def decode_frames(
    source: MediaSource,
    *,
    indices: Collection[int] | None = None,
    threads: int = 0,
    prefetch: int = 8,
    strict: bool = False,
    name: str = "",
    decoder: Decoder = "cpu",
) -> Iterator[DecodedFrame]:
    """The frames of a video in presentation order; see :class:`VideoReader` for the options.

    The video is opened when iteration begins, and closed when it ends or is abandoned.
    """
    with VideoReader(
        source,
        indices=indices,
        threads=threads,
        prefetch=prefetch,
        strict=strict,
        name=name,
        decoder=decoder,
    ) as reader:
        yield from reader.frames()


def _start_for(packets: PacketIndex, index: int) -> tuple[int, int]:
    """Index and decoding time of the keyframe from which frame ``index`` can be decoded."""
    key = int(np.searchsorted(packets.keyframes, index, side="right")) - 1
    if key < 0:
        return 0, int(packets.ticks[0])
    return int(packets.keyframes[key]), int(packets.keyframe_dts[key])


class _Prefetcher:
    """Runs an iterator in a thread, a bounded number of items ahead."""

    def __init__(self, frames: Iterator[DecodedFrame], depth: int) -> None:
        self._items: SimpleQueue[DecodedFrame | BaseException | None] = SimpleQueue()
        self._free = Semaphore(depth)
        self._stopped = False
        self._thread = Thread(target=self._run, args=(frames,), name="video-decode", daemon=True)
        self._thread.start()

    def _run(self, frames: Iterator[DecodedFrame]) -> None:
        try:
            while True:
                self._free.acquire()
                frame = None if self._stopped else next(frames, None)
                self._items.put(frame)
                if frame is None:
                    return
        except BaseException as error:  # Raised again in the thread that iterates.
            self._items.put(error)

    def __iter__(self) -> Iterator[DecodedFrame]:
        while (item := self._items.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            self._free.release()
            yield item

    def close(self) -> None:
        """Let the thread finish the frame it is at, wait for it, and end the iteration."""
        self._stopped = True
        self._free.release()
        self._thread.join()
        while not self._items.empty():
            self._items.get()
        self._items.put(None)
