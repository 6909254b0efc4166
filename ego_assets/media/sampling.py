"""The frames of a video that a layer looks at: on its time grid, upright, in order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ego_assets.media.decode import DecodedFrame, Decoder, decode_frames
from ego_assets.media.probe import probe
from ego_assets.media.timeline import read_timeline
from ego_assets.schema.arrays import read_only
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.progress import ProgressCallback, ignore_progress
from ego_assets.schema.timeline import Timeline

#: Decodes the frames of a video that have these indices, ascending.
FrameDecoder = Callable[[Path, Sequence[int]], Generator[DecodedFrame]]


def _decode(video: Path, indices: Sequence[int], *, decoder: Decoder = "cpu") -> Generator[DecodedFrame]:
    yield from decode_frames(video, indices=indices, decoder=decoder)


@dataclass(frozen=True, eq=False, kw_only=True)
class SampledFrames:
    """The frames of a time grid. The video is decoded whenever :meth:`stream` is iterated.

    Attributes:
        video: The video.
        timeline: All of its frames.
        frame_index: ``int64 [N]``, the frames of the grid, ascending.
        size: Width and height of the upright pictures, in pixels.
        progress: Hears frames done and in total.
        decode: Decodes the frames of some indices, ascending, once per call.
    """

    video: Path
    timeline: Timeline
    frame_index: npt.NDArray[np.int64]
    size: tuple[int, int]
    progress: ProgressCallback = ignore_progress
    decode: FrameDecoder = _decode

    def __post_init__(self) -> None:
        object.__setattr__(self, "frame_index", read_only(self.frame_index))

    @property
    def timestamps_ns(self) -> npt.NDArray[np.int64]:
        """``int64 [N]``, presentation times of the frames of the grid."""
        return self.timeline.timestamps_ns[self.frame_index]

    def stream(self, *, indices: Collection[int] | None = None) -> Iterator[ClipFrame]:
        """Decode the frames in order, once per call.

        Args:
            indices: Frames of the video to decode instead of those of the grid.
        """
        wanted = self.frame_index.tolist() if indices is None else sorted(set(indices))
        for done, frame in enumerate(self.decode(self.video, wanted), 1):
            yield ClipFrame(frame.index, frame.timestamp_ns, frame.bgr())
            self.progress(done, len(wanted))


def sample_frames(
    video: Path,
    *,
    frames_per_second: float | None,
    progress: ProgressCallback = ignore_progress,
    decoder: Decoder = "cpu",
) -> SampledFrames:
    """Choose the frames nearest to a regular grid in time.

    Args:
        video: De-identified video.
        frames_per_second: Rate of the grid; ``None`` for every frame.
        progress: Hears frames done and in total while frames are decoded.
        decoder: What decodes, as :class:`ego_assets.media.decode.VideoReader` has it.
    """
    timeline = read_timeline(video)
    grid = (
        np.arange(timeline.frame_count, dtype=np.int64)
        if frames_per_second is None
        else timeline.frames_at_rate(frames_per_second)
    )
    found = probe(video)
    return SampledFrames(
        video=video,
        timeline=timeline,
        frame_index=grid,
        size=(found.width, found.height),
        progress=progress,
        decode=partial(_decode, decoder=decoder),
    )
