"""Extracts the frames of a de-identified video into frame archives."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ego_assets.media.contact_sheet import contact_sheet, encode_jpeg
from ego_assets.media.decode import DecodedFrame, VideoReader
from ego_assets.media.frame_archive import FrameArchiveWriter
from ego_assets.media.orientation import rotate_upright
from ego_assets.media.timeline import read_timeline
from ego_assets.schema.detections import BgrImage
from ego_assets.schema.progress import ProgressCallback, ignore_progress

#: Visually lossless: 47 dB against the decoded frame, the collection guide's ``-q:v 2``.
JPEG_QUALITY = 95

_SHEET_TILES = 8


@dataclass(frozen=True, kw_only=True)
class LosslessOptions:
    """The lossless subsample that the guide asks for beside the JPEG frames.

    Attributes:
        archive: Tar of 16-bit RGB PNG files.
        index: Its index.
        frames_per_second: Rate; the guide's is 5.
    """

    archive: Path
    index: Path
    frames_per_second: float = 5.0


@dataclass(frozen=True, kw_only=True)
class ExtractedFrames:
    """What was extracted.

    Attributes:
        expected_count: Frames that the grid asks for.
        frame_count: Frames in the JPEG archive.
        lossless_count: Frames in the PNG archive.
        checked_count: Stored JPEG files that were decoded again.
        undecodable_frames: Those of them that could not be decoded or came back in another size.
        size: Width and height in pixels.
        contact_sheet: JPEG below 50 KB of frames spread over the clip.
    """

    expected_count: int
    frame_count: int
    lossless_count: int
    checked_count: int
    undecodable_frames: tuple[int, ...]
    size: tuple[int, int]
    contact_sheet: bytes


def extract_frames(
    video: Path,
    *,
    archive: Path,
    index: Path,
    frames_per_second: float = 30.0,
    lossless: LosslessOptions | None = None,
    progress: ProgressCallback = ignore_progress,
) -> ExtractedFrames:
    """Write JPEG frames, and on request lossless ones, of a video, upright.

    Frames are chosen by nearest presentation time on a regular grid; a grid finer than the video takes
    every frame once.

    Args:
        video: De-identified video.
        archive: Tar of JPEG files to write.
        index: Its index.
        frames_per_second: Rate of the grid.
        lossless: Where to write the 16-bit PNG subsample, if anywhere.
        progress: Hears frames done and in total.
    """
    timeline = read_timeline(video)
    grid = timeline.frames_at_rate(frames_per_second)
    lossless_grid = timeline.frames_at_rate(lossless.frames_per_second) if lossless else grid[:0]
    jpeg_wanted, lossless_wanted = set(grid.tolist()), set(lossless_grid.tolist())
    tile_positions = np.linspace(0, len(grid) - 1, min(_SHEET_TILES, len(grid))).round().astype(int)
    tile_wanted = set(grid[tile_positions].tolist())
    tiles: list[BgrImage] = []
    undecodable: list[int] = []
    jpeg_count = lossless_count = 0
    size = (0, 0)
    with ExitStack() as stack:
        jpegs = stack.enter_context(FrameArchiveWriter(archive, index))
        pngs = stack.enter_context(FrameArchiveWriter(lossless.archive, lossless.index)) if lossless else None
        reader = stack.enter_context(VideoReader(video, indices=jpeg_wanted | lossless_wanted))
        for frame in reader.frames():
            if frame.index in jpeg_wanted:
                image = frame.bgr()
                size = (image.shape[1], image.shape[0])
                encoded = encode_jpeg(image, quality=JPEG_QUALITY)
                jpegs.add(frame.index, frame.timestamp_ns, encoded, extension="jpg")
                jpeg_count += 1
                if frame.index in tile_wanted:
                    tiles.append(image)
                    if not _decodes(encoded, size):
                        undecodable.append(frame.index)
            if pngs is not None and frame.index in lossless_wanted:
                pngs.add(frame.index, frame.timestamp_ns, _encode_png16(frame), extension="png")
                lossless_count += 1
            progress(jpeg_count, len(grid))
    return ExtractedFrames(
        expected_count=len(grid),
        frame_count=jpeg_count,
        lossless_count=lossless_count,
        checked_count=len(tiles),
        undecodable_frames=tuple(undecodable),
        size=size,
        contact_sheet=contact_sheet(tiles) if tiles else b"",
    )


def _decodes(encoded: bytes, size: tuple[int, int]) -> bool:
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    return image is not None and (image.shape[1], image.shape[0]) == size


def _encode_png16(frame: DecodedFrame) -> bytes:
    """The frame as a 16-bit RGB PNG, upright."""
    # The planar format: the direct way to rgb48 goes through eight bits.
    rgb = np.asarray(frame.frame.reformat(format="gbrp16le").to_ndarray(), dtype=np.uint16)
    upright = rotate_upright(rgb, frame.rotation_deg)
    # Fast compression: the noise of a camera hardly compresses any better at higher levels.
    encoded, data = cv2.imencode(".png", upright[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not encoded:
        raise ValueError(f"frame {frame.index} could not be encoded as PNG")
    return data.tobytes()
