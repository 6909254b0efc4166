"""Writing the de-identified video and its proxy: one decode, every region redacted, both encoded.

Memory does not grow with the clip. Any failure removes both files: nothing half-redacted remains.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Interpolation

from ego_assets.media.decode import decode_frames
from ego_assets.media.encode import VideoWriter
from ego_assets.media.orientation import rotate_upright, upright_size
from ego_assets.media.source import MediaSource
from ego_assets.privacy.config import PrivacyConfig
from ego_assets.privacy.frames import PrivacyPassFailed, checked_frames
from ego_assets.privacy.redaction import as_planar_420, plane_samples, redact_frame
from ego_assets.privacy.tracking import RegionIndex
from ego_assets.schema.detections import BgrImage
from ego_assets.schema.media import MediaProbe
from ego_assets.schema.progress import ProgressCallback, ignore_progress
from ego_assets.schema.timeline import Timeline

#: Longer side in pixels of the pictures that go on the contact sheet.
_SHEET_MAX_SIDE = 480
#: Longer side in cells of the grid on which the redacted area is measured.
_AREA_GRID_SIDE = 320


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """What was written.

    Attributes:
        frame_count: Frames of each video.
        redacted_frames: Frames with at least one redacted region.
        redacted_share: Mean share of the picture that was redacted, on a coarse grid.
        sheet_images: Redacted frames spread over the clip, BGR, for the contact sheet.
    """

    frame_count: int
    redacted_frames: int
    redacted_share: float
    sheet_images: Sequence[BgrImage]


def render(
    source: MediaSource,
    *,
    probe: MediaProbe,
    timeline: Timeline,
    decoded_frames: int,
    regions: RegionIndex,
    video_path: Path,
    proxy_path: Path | None,
    config: PrivacyConfig,
    progress: ProgressCallback = ignore_progress,
) -> Rendering:
    """Redact every region on every frame, and write the video and, where a path is given, its proxy.

    Args:
        source: The original.
        probe: Its probe.
        timeline: Its time stamps.
        decoded_frames: Frames that the first pass could decode; the same number must come again.
        regions: What is covered.
        video_path: The full-size video, with the original's rotation.
        proxy_path: The upright proxy.
        config: Settings.
        progress: Called with frames done and in total.

    Raises:
        PrivacyPassFailed: The clip gave other frames than before.
        MediaError: It cannot be decoded or encoded.
    """
    proxy_size = proxy_size_for(probe.width, probe.height, short_side=config.proxy_short_side)
    sheet_frames = deque(
        np.unique(np.linspace(0, decoded_frames - 1, config.contact_sheet_frames).astype(int)).tolist()
    )
    sheet_images: list[BgrImage] = []
    redacted_frames = frame_count = 0
    redacted_sum = 0.0
    with ExitStack() as stack:
        video = stack.enter_context(
            VideoWriter(
                video_path,
                width=probe.coded_width,
                height=probe.coded_height,
                time_base=timeline.time_base,
                frame_rate=timeline.frame_rate,
                rotation_deg=probe.rotation_deg,
                pixel_aspect=probe.pixel_aspect,
                crf=config.video_crf,
                preset=config.preset,
                threads=config.encoder_threads,
                audio_from=source if config.audio == "keep" else None,
            )
        )
        proxy = proxy_path and stack.enter_context(
            VideoWriter(
                proxy_path,
                width=proxy_size[0],
                height=proxy_size[1],
                pixel_aspect=upright_size(*probe.pixel_aspect, probe.rotation_deg),
                time_base=timeline.time_base,
                frame_rate=timeline.frame_rate,
                crf=config.proxy_crf,
                preset=config.preset,
                gop=config.proxy_gop,
                threads=config.encoder_threads,
                bframes=False,
                # Every enrichment layer decodes it.
                fast_decode=True,
            )
        )
        for frame in checked_frames(decode_frames(source, threads=config.decoder_threads), probe, timeline):
            planar = as_planar_420(frame.frame)
            redacted = redact_frame(
                planar, regions.boxes_at(frame.index), rotation_deg=frame.rotation_deg, style=config.style
            )
            video.write(planar, timestamp_ns=frame.timestamp_ns)
            if proxy:
                small = upright_scaled(planar, size=proxy_size, rotation_deg=frame.rotation_deg)
                proxy.write(small, timestamp_ns=frame.timestamp_ns)
            if _take_until(sheet_frames, frame.index):
                sheet_images.append(dataclasses.replace(frame, frame=planar).bgr(max_side=_SHEET_MAX_SIDE))
            redacted_frames += bool(redacted)
            redacted_sum += _redacted_share_of(redacted, planar.width, planar.height)
            frame_count += 1
            progress(frame.index + 1, timeline.frame_count)
        if frame_count != decoded_frames:
            raise PrivacyPassFailed(
                f"The clip gave {decoded_frames} frames when it was examined and {frame_count} when it was "
                "rendered, so regions may be off. Nothing was written. Run the clip again; if that does not "
                "help, the file is damaged: copy it from the camera again."
            )
    return Rendering(
        frame_count=frame_count,
        redacted_frames=redacted_frames,
        redacted_share=redacted_sum / max(1, frame_count),
        sheet_images=sheet_images,
    )


def _take_until(frames: deque[int], index: int) -> bool:
    """Drop all scheduled frames up to ``index``; whether there were any."""
    due = bool(frames) and frames[0] <= index
    while frames and frames[0] <= index:
        frames.popleft()
    return due


def proxy_size_for(width: int, height: int, *, short_side: int) -> tuple[int, int]:
    """Width and height of the proxy: never larger than the upright picture, both even."""
    scale = min(1.0, short_side / min(width, height))

    def even(side: int) -> int:
        return max(2, 2 * round(side * scale / 2)) if scale < 1 else max(2, side - side % 2)

    return even(width), even(height)


def upright_scaled(frame: av.VideoFrame, *, size: tuple[int, int], rotation_deg: int) -> av.VideoFrame:
    """The frame turned upright and scaled to ``size`` (width, height), in 8-bit planar 4:2:0.

    Args:
        frame: 8-bit planar 4:2:0 in coded orientation.
        size: Even width and height in pixels of the upright result.
        rotation_deg: Clockwise turn that makes the frame upright.
    """
    width, height = upright_size(*size, rotation_deg)
    scaled = frame.reformat(
        width=width, height=height, format=frame.format.name, interpolation=Interpolation.BICUBIC, threads=1
    )
    if rotation_deg == 0:
        return scaled
    turned = [rotate_upright(plane_samples(plane), rotation_deg).reshape(-1) for plane in scaled.planes]
    # A planar 4:2:0 array is the planes one after another, in rows of the picture's width.
    result = av.VideoFrame.from_ndarray(np.concatenate(turned).reshape(-1, size[0]), format=frame.format.name)
    for name in ("color_range", "colorspace", "color_primaries", "color_trc"):
        setattr(result, name, getattr(frame, name))
    return result


def _redacted_share_of(regions: Sequence[tuple[int, int, int, int]], width: int, height: int) -> float:
    """Share of the picture under at least one region, on a coarse grid."""
    if not regions:
        return 0.0
    scale = _AREA_GRID_SIDE / max(width, height)
    grid = np.zeros((max(1, round(height * scale)), max(1, round(width * scale))), dtype=bool)
    for left, top, right, bottom in regions:
        grid[round(top * scale) : round(bottom * scale), round(left * scale) : round(right * scale)] = True
    return float(grid.mean())
