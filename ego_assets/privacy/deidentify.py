"""The privacy pass over one clip: find regions, follow them, and render the clip without them.

The clip is decoded twice. The first time detectors look at one downscaled copy of the scheduled frames; the
second time every frame is redacted and encoded at full size and as the proxy. Memory does not grow with
the clip, apart from the boxes. Any failure removes both outputs: nothing half-blurred remains.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation

from ego_assets.media.contact_sheet import contact_sheet
from ego_assets.media.decode import DecodedFrame, decode_frames
from ego_assets.media.encode import VideoWriter
from ego_assets.media.orientation import rotate_upright, upright_size
from ego_assets.media.source import MediaSource
from ego_assets.privacy.config import PrivacyConfig
from ego_assets.privacy.redaction import as_planar_420, blur_frame, plane_samples
from ego_assets.privacy.report import PiiReport, build_report
from ego_assets.privacy.schedule import detection_schedule
from ego_assets.privacy.tracking import FrameDetections, RegionIndex, Track, build_tracks
from ego_assets.schema.detections import BgrImage, Detections, RegionDetector
from ego_assets.schema.errors import EgoAssetsError, MediaError
from ego_assets.schema.media import MediaProbe
from ego_assets.schema.progress import ProgressCallback, ignore_progress
from ego_assets.schema.timeline import NANOSECONDS, Timeline

#: Longer side in pixels of the pictures that go on the contact sheet.
_SHEET_MAX_SIDE = 480
#: Longer side in cells of the grid on which the redacted area is measured.
_AREA_GRID_SIDE = 320


class PrivacyPassFailed(EgoAssetsError):
    """A clip could not be de-identified; no output was left behind."""


@dataclass(frozen=True, kw_only=True)
class PrivacyResult:
    """What one privacy pass made.

    Attributes:
        tracks: Regions over time, in pixels of the upright full-size picture.
        report: The PII report.
        timeline: Time stamps of the frames written to each video: those of the original that can be decoded.
        proxy_size: Width and height of the proxy in pixels.
        contact_sheet: JPEG below 50 KB of blurred frames spread over the clip.
    """

    tracks: tuple[Track, ...]
    report: PiiReport
    timeline: Timeline
    proxy_size: tuple[int, int]
    contact_sheet: bytes


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What the first pass over a clip found.

    Attributes:
        looks: Kind -> examined frames in ascending order, boxes in pixels of the upright full-size picture.
        timeline: Time stamps of the frames that were decoded.
    """

    looks: Mapping[str, Sequence[FrameDetections]]
    timeline: Timeline


@dataclass(frozen=True, kw_only=True)
class _Rendered:
    frame_count: int
    redacted_frames: int
    redacted_share: float
    sheet_images: list[BgrImage]


def deidentify(
    source: MediaSource,
    *,
    probe: MediaProbe,
    timeline: Timeline,
    video_path: Path,
    proxy_path: Path,
    detectors: Mapping[str, RegionDetector],
    config: PrivacyConfig | None = None,
    detector_settings: Mapping[str, Mapping[str, Any]] | None = None,
    already_deidentified: bool = False,
    progress: ProgressCallback = ignore_progress,
) -> PrivacyResult:
    """Write the de-identified video and its proxy.

    The video has the original's resolution, time stamps and rotation; the proxy is upright, has a shorter side of
    at most ``proxy_short_side`` and keeps every frame and time stamp. Neither has sound, telemetry or metadata.

    Args:
        source: The original: a path or a seekable binary file.
        probe: Its probe.
        timeline: Its time stamps.
        video_path: Where the full-size video is written.
        proxy_path: Where the proxy is written.
        detectors: Detectors by kind: ``faces``, ``text``, ``plates``.
        config: Settings.
        detector_settings: The detectors' settings by kind, for the report.
        already_deidentified: The owner declares that nothing needs covering; only then may there be no detector.
        progress: Called with frames done and in total; each frame counts once per pass over the clip.

    Raises:
        PrivacyPassFailed: A detector failed on a frame, or the two passes over the clip disagree.
        MediaError: The clip cannot be decoded or encoded.
        ValueError: No detector, or one for an unknown kind.
    """
    if not detectors and not already_deidentified:
        raise ValueError("detectors: expected at least one, got none")
    config = config or PrivacyConfig()
    total = 2 * timeline.frame_count
    try:
        examined = examine(
            source,
            probe=probe,
            timeline=timeline,
            detectors=detectors,
            config=config,
            progress=lambda done, _: progress(done, total),
        )
        decoded = examined.timeline
        tracks = _follow(examined.looks, decoded, (probe.width, probe.height), config)
        proxy_size = proxy_size_for(probe.width, probe.height, short_side=config.proxy_short_side)
        rendered = _render(
            source,
            probe=probe,
            timeline=timeline,
            regions=RegionIndex(tracks),
            decoded=decoded,
            paths=(video_path, proxy_path),
            proxy_size=proxy_size,
            config=config,
            progress=lambda done, _: progress(timeline.frame_count + done, total),
        )
        report = build_report(
            examined=examined.looks,
            tracks=tracks,
            detectors={kind: detector.info for kind, detector in detectors.items()},
            detector_settings=detector_settings or {},
            probe=probe,
            resolution=(probe.width, probe.height),
            frame_count=rendered.frame_count,
            duration_s=decoded.duration_s,
            redacted_share=rendered.redacted_share,
            redacted_frames=rendered.redacted_frames,
            config=config,
        )
        return PrivacyResult(
            tracks=tuple(tracks),
            report=report,
            timeline=decoded,
            proxy_size=proxy_size,
            contact_sheet=contact_sheet(rendered.sheet_images),
        )
    except BaseException:
        video_path.unlink(missing_ok=True)
        proxy_path.unlink(missing_ok=True)
        raise


def examine(
    source: MediaSource,
    *,
    probe: MediaProbe,
    timeline: Timeline,
    detectors: Mapping[str, RegionDetector],
    config: PrivacyConfig,
    progress: ProgressCallback = ignore_progress,
) -> Examination:
    """Let each detector look at its scheduled frames; all of them see the same downscaled copy.

    A scheduled frame that cannot be decoded is replaced by the next one that can, and at the end by the last.

    Raises:
        PrivacyPassFailed: A detector failed, or the clip has more frames than its time line.
        MediaError: The picture's size or rotation changes.
    """
    schedule = detection_schedule(detectors, timeline, config)
    pending = {kind: deque(frames.tolist()) for kind, frames in schedule.items()}
    looks: dict[str, list[FrameDetections]] = {kind: [] for kind in detectors}

    def look(frame: DecodedFrame, kinds: Sequence[str]) -> None:
        image = frame.bgr(max_side=config.detection_max_side)
        for kind in kinds:
            looks[kind].append(FrameDetections(frame.index, _detect(detectors[kind], kind, image, frame)))

    last: DecodedFrame | None = None
    timestamps_ns = array("q")
    for frame in _checked(decode_frames(source, threads=config.decoder_threads), probe, timeline):
        due = [kind for kind, frames in pending.items() if _take_until(frames, frame.index)]
        if due:
            look(frame, due)
        last = frame
        timestamps_ns.append(frame.timestamp_ns)
        progress(frame.index + 1, timeline.frame_count)
    if last is not None:
        missed = [kind for kind in detectors if not looks[kind] or looks[kind][-1].frame_index < last.index]
        if missed:
            look(last, missed)
    decoded = dataclasses.replace(timeline, timestamps_ns=np.array(timestamps_ns, np.int64))
    return Examination(looks=looks, timeline=decoded)


def proxy_size_for(width: int, height: int, *, short_side: int) -> tuple[int, int]:
    """Width and height of the proxy: never larger than the upright picture, both even."""
    scale = min(1.0, short_side / min(width, height))

    def even(side: int) -> int:
        return max(2, 2 * round(side * scale / 2)) if scale < 1 else max(2, side - side % 2)

    return even(width), even(height)


def _take_until(frames: deque[int], index: int) -> bool:
    """Drop all scheduled frames up to ``index``; whether there were any."""
    due = bool(frames) and frames[0] <= index
    while frames and frames[0] <= index:
        frames.popleft()
    return due


def _detect(detector: RegionDetector, kind: str, image: BgrImage, frame: DecodedFrame) -> Detections:
    where = f"frame {frame.index} ({frame.timestamp_ns / NANOSECONDS:.3f} s)"
    try:
        results = detector.detect([image])
    except Exception as error:
        raise PrivacyPassFailed(
            f"The {kind} detector {detector.info.backend!r} failed on {where}: {type(error).__name__}: {error}. "
            "Nothing was written. Run the clip again, or choose another backend in the profile."
        ) from error
    if len(results) != 1 or not np.isfinite(results[0].boxes_xyxy).all():
        raise PrivacyPassFailed(
            f"The {kind} detector {detector.info.backend!r} gave no usable answer on {where}: expected one set of "
            "finite boxes. Nothing was written. Choose another backend in the profile."
        )
    width, height = upright_size(frame.frame.width, frame.frame.height, frame.rotation_deg)
    return results[0].scaled(width / image.shape[1], height / image.shape[0])


def _follow(
    examined: Mapping[str, Sequence[FrameDetections]],
    timeline: Timeline,
    size: tuple[int, int],
    config: PrivacyConfig,
) -> list[Track]:
    tracks: list[Track] = []
    for kind, frames in examined.items():
        tracks += build_tracks(
            frames,
            kind=kind,
            timestamps_ns=timeline.timestamps_ns,
            width=size[0],
            height=size[1],
            config=config,
            first_track_id=len(tracks) + 1,
        )
    return tracks


def _render(
    source: MediaSource,
    *,
    probe: MediaProbe,
    timeline: Timeline,
    decoded: Timeline,
    regions: RegionIndex,
    paths: tuple[Path, Path],
    proxy_size: tuple[int, int],
    config: PrivacyConfig,
    progress: ProgressCallback,
) -> _Rendered:
    sheet_frames = deque(
        np.unique(np.linspace(0, decoded.frame_count - 1, config.contact_sheet_frames).astype(int)).tolist()
    )
    sheet_images: list[BgrImage] = []
    redacted_frames = frame_count = 0
    redacted_sum = 0.0
    with ExitStack() as stack:
        video = stack.enter_context(
            VideoWriter(
                paths[0],
                width=probe.coded_width,
                height=probe.coded_height,
                time_base=timeline.time_base,
                frame_rate=timeline.frame_rate,
                rotation_deg=probe.rotation_deg,
                crf=config.video_crf,
                preset=config.preset,
                threads=config.encoder_threads,
            )
        )
        proxy = stack.enter_context(
            VideoWriter(
                paths[1],
                width=proxy_size[0],
                height=proxy_size[1],
                time_base=timeline.time_base,
                frame_rate=timeline.frame_rate,
                crf=config.proxy_crf,
                preset=config.preset,
                gop=config.proxy_gop,
                threads=config.encoder_threads,
                bframes=False,
            )
        )
        for frame in _checked(decode_frames(source, threads=config.decoder_threads), probe, timeline):
            planar = as_planar_420(frame.frame)
            blurred = blur_frame(
                planar,
                regions.boxes_at(frame.index),
                rotation_deg=frame.rotation_deg,
                box_margin=config.box_margin,
                min_sigma=config.blur_min_sigma,
                sigma_per_size=config.blur_sigma_per_size,
            )
            video.write(planar, timestamp_ns=frame.timestamp_ns)
            small = upright_scaled(planar, size=proxy_size, rotation_deg=frame.rotation_deg)
            proxy.write(small, timestamp_ns=frame.timestamp_ns)
            if _take_until(sheet_frames, frame.index):
                sheet_images.append(dataclasses.replace(frame, frame=planar).bgr(max_side=_SHEET_MAX_SIDE))
            redacted_frames += bool(blurred)
            redacted_sum += _covered_share(blurred, planar.width, planar.height)
            frame_count += 1
            progress(frame.index + 1, timeline.frame_count)
        if frame_count != decoded.frame_count:
            raise PrivacyPassFailed(
                f"The clip gave {decoded.frame_count} frames when it was examined and {frame_count} when it was "
                "rendered, so regions may be off. Nothing was written. Run the clip again; if that does not "
                "help, the file is damaged: copy it from the camera again."
            )
    return _Rendered(
        frame_count=frame_count,
        redacted_frames=redacted_frames,
        redacted_share=redacted_sum / max(1, frame_count),
        sheet_images=sheet_images,
    )


def _checked(frames: Iterator[DecodedFrame], probe: MediaProbe, timeline: Timeline) -> Iterator[DecodedFrame]:
    """Frames that are what the probe and the time line say; fail rather than go on with others.

    They are numbered in decoded order, which is the index in everything that is made from them: where a
    damaged original lacks a frame, the renderings have no gap.
    """
    for position, frame in enumerate(frames):
        size = (frame.frame.width, frame.frame.height, frame.rotation_deg)
        expected = (probe.coded_width, probe.coded_height, probe.rotation_deg)
        if size != expected:
            raise MediaError(
                "resolution_changes",
                f"Frame {frame.index} has width, height and rotation {size}, the clip {expected}. Cut the recording "
                "where its format changes and upload the parts.",
            )
        if frame.index >= timeline.frame_count:
            raise PrivacyPassFailed(
                f"Frame {frame.index} was decoded, but the clip's time line ends after {timeline.frame_count} frames, "
                "so nobody looked at it. Nothing was written. Re-wrap the file (ffmpeg -c copy) and upload it again."
            )
        yield dataclasses.replace(frame, index=position)


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


def _covered_share(regions: Sequence[tuple[int, int, int, int]], width: int, height: int) -> float:
    """Share of the picture under at least one region, on a coarse grid."""
    if not regions:
        return 0.0
    scale = _AREA_GRID_SIDE / max(width, height)
    grid = np.zeros((max(1, round(height * scale)), max(1, round(width * scale))), dtype=bool)
    for left, top, right, bottom in regions:
        grid[round(top * scale) : round(bottom * scale), round(left * scale) : round(right * scale)] = True
    return float(grid.mean())
