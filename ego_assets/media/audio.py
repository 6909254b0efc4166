"""The sound of a recording as it was coded, for :class:`ego_assets.media.encode.VideoWriter` to pass on."""

from __future__ import annotations

import os
import tempfile
from array import array
from contextlib import suppress
from fractions import Fraction
from typing import cast

import av
import av.error
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard

from ego_assets.media.source import MediaSource, display_name, open_video
from ego_assets.schema.errors import MediaError

#: Codecs that are passed on: those that MP4 holds and players expect there.
MP4_AUDIO_CODECS = frozenset({"aac", "mp3", "opus", "alac"})

#: Sound up to this size is held in memory, more in a temporary file.
_MAX_BYTES_IN_MEMORY = 1 << 24


def read_audio(
    source: MediaSource, *, folder: str | os.PathLike[str] | None = None, name: str = ""
) -> AudioTrack | None:
    """The first sound stream of a recording, or ``None`` where it has none.

    Args:
        source: Local path, or seekable binary file object that nobody else moves during this call.
        folder: Where sound too long for memory is put; the system's folder for temporary files by default.
        name: What messages call the source.

    Raises:
        MediaError: ``audio_codec``: MP4 cannot hold the sound as it is. Others as
            :func:`ego_assets.media.source.open_video`.
    """
    container, video = open_video(source, name=name)
    try:
        if not container.streams.audio:
            container.close()
            return None
        stream = container.streams.audio[0]
        _check_codec(stream, display_name(source, name))
        video.discard = Discard.all
        stream.discard = Discard.default
        return AudioTrack(container, stream, folder=folder)
    except BaseException:
        container.close()
        raise


class AudioTrack:
    """The coded packets of a sound stream, from :func:`read_audio`; close it after use.

    The packets are copied out at once, because a file object has one reading position, which the decoder of the
    pictures needs for itself. They lie in memory or in an unnamed temporary file, which is gone when the
    process ends, however it ends. Packets that step back in time and a damaged tail are left out.

    Args:
        container: The opened recording, which is closed with the track.
        stream: Its sound stream.
        folder: Where the temporary file lies.
    """

    def __init__(
        self, container: InputContainer, stream: AudioStream, *, folder: str | os.PathLike[str] | None
    ) -> None:
        #: The stream in the recording: codec, sample rate, channels and position among its streams.
        self.stream = stream
        self._container = container
        self._time_base = stream.time_base or Fraction(1, stream.codec_context.sample_rate)
        self._ticks, self._decode_ticks = array("q"), array("q")
        self._durations, self._sizes = array("q"), array("q")
        self._next = 0
        self._file = tempfile.SpooledTemporaryFile(  # noqa: SIM115 - lives as long as the track, see close()
            max_size=_MAX_BYTES_IN_MEMORY, dir=None if folder is None else os.fspath(folder)
        )
        try:
            self._copy_packets()
            self._file.seek(0)
        except BaseException:
            self._file.close()
            raise

    def packets_until(self, time_s: Fraction | None) -> list[Packet[AudioStream]]:
        """The next packets up to a presentation time in seconds, each once; all that are left for ``None``."""
        packets = []
        while self._next < len(self._ticks):
            ticks = self._ticks[self._next]
            if time_s is not None and ticks * self._time_base > time_s:
                break
            packet = Packet(self._file.read(self._sizes[self._next]))
            packet.time_base = self._time_base
            packet.pts, packet.dts = ticks, self._decode_ticks[self._next]
            packet.duration = self._durations[self._next]
            packet.is_keyframe = True
            packets.append(cast("Packet[AudioStream]", packet))
            self._next += 1
        return packets

    def _copy_packets(self) -> None:
        with suppress(av.error.InvalidDataError):
            for packet in self._container.demux(self.stream):
                decode_ticks = packet.dts if packet.dts is not None else packet.pts
                if not packet.size or decode_ticks is None:
                    continue
                if self._decode_ticks and decode_ticks <= self._decode_ticks[-1]:
                    continue
                self._decode_ticks.append(decode_ticks)
                self._ticks.append(packet.pts if packet.pts is not None else decode_ticks)
                self._durations.append(packet.duration or 0)
                self._sizes.append(packet.size)
                self._file.write(bytes(packet))

    def close(self) -> None:
        """Give up the packets and close the recording."""
        self._file.close()
        self._container.close()


def _check_codec(stream: AudioStream, label: str) -> None:
    # PyAV gives no codec context where FFmpeg has no decoder, which its type stubs do not say.
    context = cast("object | None", stream.codec_context)
    codec = stream.codec_context.codec.canonical_name if context is not None else "unknown"
    if codec not in MP4_AUDIO_CODECS:
        raise MediaError(
            "audio_codec",
            f"{label}: its sound is coded as {codec}, which MP4 does not carry as it is (it carries "
            f"{', '.join(sorted(MP4_AUDIO_CODECS))}). Use audio=drop, or have the sound coded as AAC first.",
        )
