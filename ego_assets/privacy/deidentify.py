"""The privacy pass over one clip: find regions, follow them, render the clip without them, and check the result.

The clip is decoded twice. The first time detectors look at the scheduled frames; the second time every frame is
redacted and encoded at full size and as the proxy. Then the finished video is examined again: what is still in
the clear is looked for more closely, and the clip rendered once more. Memory does not grow with the clip, apart
from the boxes. Any failure removes both outputs: nothing half-redacted remains.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ego_assets.media.contact_sheet import contact_sheet
from ego_assets.media.source import MediaSource
from ego_assets.privacy.config import PrivacyConfig
from ego_assets.privacy.coverage import covered_share
from ego_assets.privacy.examine import (
    Examination,
    Looks,
    detectors_for,
    examine,
    examine_closely,
    merge_looks,
)
from ego_assets.privacy.leaks import LEAK_KINDS, Leak, LeakCheck, find_leaks, leak_check_frames
from ego_assets.privacy.redaction import expand_boxes
from ego_assets.privacy.render import Rendering, proxy_size_for, render
from ego_assets.privacy.report import PiiReport, build_report
from ego_assets.privacy.tracking import FrameDetections, RegionIndex, Track, build_tracks, correction_tracks
from ego_assets.schema.corrections import Correction
from ego_assets.schema.detections import Detections, RegionDetector, iou_matrix
from ego_assets.schema.media import MediaProbe
from ego_assets.schema.progress import ProgressCallback, ignore_progress
from ego_assets.schema.timeline import NANOSECONDS, Timeline


@dataclass(frozen=True, kw_only=True)
class PrivacyResult:
    """What one privacy pass made.

    Attributes:
        tracks: Regions over time, in pixels of the upright full-size picture.
        report: The PII report.
        leak_check: What the finished video was examined for; ``None`` where there is no detector to do so.
        timeline: Time stamps of the frames written to each video: those of the original that can be decoded.
        proxy_size: Width and height of the proxy in pixels.
        contact_sheet: JPEG below 50 KB of redacted frames spread over the clip.
    """

    tracks: tuple[Track, ...]
    report: PiiReport
    leak_check: LeakCheck | None
    timeline: Timeline
    proxy_size: tuple[int, int]
    contact_sheet: bytes


def deidentify(
    source: MediaSource,
    *,
    probe: MediaProbe,
    timeline: Timeline,
    video_path: Path,
    proxy_path: Path | None,
    detectors: Mapping[str, RegionDetector],
    config: PrivacyConfig | None = None,
    leak_detectors: Mapping[str, RegionDetector] | None = None,
    detector_settings: Mapping[str, Mapping[str, Any]] | None = None,
    corrections: Sequence[Correction] = (),
    already_deidentified: bool = False,
    progress: ProgressCallback = ignore_progress,
) -> PrivacyResult:
    """Write the de-identified video and its proxy.

    The video has the original's resolution, time stamps and rotation; the proxy is upright, has a shorter side of
    at most ``proxy_short_side`` and keeps every frame and time stamp. Neither has telemetry or metadata, and
    sound only the video where ``config.audio`` keeps it.

    Args:
        source: The original: a path or a seekable binary file.
        probe: Its probe.
        timeline: Its time stamps.
        video_path: Where the full-size video is written.
        proxy_path: Where the proxy is written; ``None`` makes none.
        detectors: Detectors by kind: ``faces``, ``text``, ``plates``.
        config: Settings.
        leak_detectors: Detectors that examine the finished video, by kind; the same ones by default.
        detector_settings: The detectors' settings by kind, for the report.
        corrections: What people ordered to be covered. Those of an incident make the whole pass strict.
        already_deidentified: The owner declares that nothing needs covering; only then may there be no detector.
        progress: Called with frames done and in total; each frame counts once per pass over the clip.

    Raises:
        PrivacyPassFailed: A detector failed on a frame, or the two passes over the clip disagree.
        MediaError: The clip cannot be decoded or encoded.
        ValueError: No detector, or one for an unknown kind.
    """
    if not detectors and not already_deidentified:
        raise ValueError("detectors: expected at least one, got none")
    privacy_pass = _PrivacyPass(
        source,
        probe=probe,
        timeline=timeline,
        paths=(video_path, proxy_path),
        detectors=detectors,
        leak_detectors=detectors if leak_detectors is None else leak_detectors,
        config=config or PrivacyConfig(),
        progress=progress,
    )
    try:
        return privacy_pass.run(corrections, detector_settings or {})
    except BaseException:
        video_path.unlink(missing_ok=True)
        if proxy_path is not None:
            proxy_path.unlink(missing_ok=True)
        raise


class _PrivacyPass:
    """One pass over one clip; holds what all its steps need."""

    def __init__(
        self,
        source: MediaSource,
        *,
        probe: MediaProbe,
        timeline: Timeline,
        paths: tuple[Path, Path | None],
        detectors: Mapping[str, RegionDetector],
        leak_detectors: Mapping[str, RegionDetector],
        config: PrivacyConfig,
        progress: ProgressCallback,
    ) -> None:
        self.source = source
        self.probe = probe
        self.timeline = timeline
        self.video_path, self.proxy_path = paths
        self.detectors = detectors
        self.leak_detectors = leak_detectors
        self.config = config
        self.size = (probe.width, probe.height)
        self._progress = progress
        self._passes = 0

    def run(
        self, corrections: Sequence[Correction], detector_settings: Mapping[str, Mapping[str, Any]]
    ) -> PrivacyResult:
        """All steps."""
        examined = self._examine(strict=False)
        looks, ordered = self._apply(corrections, examined)
        tracks = self._follow(looks, examined, ordered)
        rendering = self._render(tracks, examined)
        leak_check = self._check(tracks, looks, examined)
        if leak_check is not None and leak_check.remaining:
            found = leak_check.remaining
            looks = merge_looks(looks, *self._look_closely(found, examined), _as_looks(found))
            tracks = self._follow(looks, examined, ordered)
            rendering = self._render(tracks, examined)
            leak_check = self._check(tracks, looks, examined, found=found)
        report = build_report(
            examined=looks,
            tracks=tracks,
            # What only a stricter look found is doubtful by nature, and covered because somebody asked for it.
            doubted=self._follow(examined.looks, examined, []),
            detectors={kind: detector.info for kind, detector in self.detectors.items()},
            detector_settings=detector_settings,
            probe=self.probe,
            frame_count=rendering.frame_count,
            duration_s=examined.timeline.duration_s,
            redacted_share=rendering.redacted_share,
            redacted_frames=rendering.redacted_frames,
            leak_check=leak_check,
            corrections=corrections,
            config=self.config,
        )
        return PrivacyResult(
            tracks=tuple(tracks),
            report=report,
            leak_check=leak_check,
            timeline=examined.timeline,
            proxy_size=proxy_size_for(*self.size, short_side=self.config.proxy_short_side),
            contact_sheet=contact_sheet(list(rendering.sheet_images)),
        )

    def _examine(self, *, strict: bool) -> Examination:
        return examine(
            self.source,
            probe=self.probe,
            timeline=self.timeline,
            detectors=self.detectors,
            config=self.config,
            strict=strict,
            progress=self._progress_of_next_pass(),
        )

    def _apply(
        self, corrections: Sequence[Correction], examined: Examination
    ) -> tuple[Looks, list[Correction]]:
        """The looks, with those of the stricter passes that corrections ask for, and what is covered outright."""
        last_frame = examined.timeline.frame_count - 1
        corrections = [order for order in corrections if order.first_frame <= last_frame]
        if not corrections:
            return examined.looks, []
        parts = [examined.looks]
        incident_kinds = {order.kind for order in corrections if order.origin.startswith("incident:")}
        if incident_kinds.intersection(examined.looks):
            strict = self._examine(strict=True).looks
            parts.append({kind: strict[kind] for kind in incident_kinds.intersection(strict)})
        widened = {
            order: self._widened(order.first_frame, order.last_frame, examined.timeline)
            for order in corrections
        }
        closely = self._closely(list(widened.values()), kinds={order.kind for order in corrections})
        before = RegionIndex(self._follow(examined.looks, examined, []))
        ordered = []
        for order in corrections:
            if order.box_xyxy is None:
                parts.append({kind: looks for kind, looks in closely.items() if kind == order.kind})
                # Where it cannot be located, the whole picture is covered.
                if not self._is_located(order, closely, before):
                    ordered.append(order)
            elif order.kind in examined.looks:
                # As sightings they become a track, which goes on until the region has left.
                parts.append(_as_looks_of(order, min(order.last_frame, last_frame)))
                parts.append({order.kind: _near(order.box_xyxy, closely[order.kind], *widened[order])})
                ordered.append(order)
            else:
                first, last = widened[order]
                ordered.append(replace(order, first_frame=first, last_frame=last))
        return merge_looks(*parts), ordered

    def _is_located(self, order: Correction, closely: Looks, before: RegionIndex) -> bool:
        """Whether the closer look found something in these frames that the ordinary pass would leave in the clear."""
        for entry in closely.get(order.kind, ()):
            if order.first_frame <= entry.frame_index <= order.last_frame:
                covered = covered_share(
                    entry.detections.boxes_xyxy, self._redacted(before, entry.frame_index)
                )
                if np.any(covered < self.config.leak_covered_share):
                    return True
        return False

    def _progress_of_next_pass(self) -> ProgressCallback:
        """Progress over all passes: two, and more where something has to be looked for or rendered again."""
        before = self._passes
        self._passes += 1

        def progress(done: int, total: int) -> None:
            self._progress(before * total + done, max(2, before + 1) * total)

        return progress

    def _redacted(self, regions: RegionIndex, frame_index: int) -> Any:
        width, height = self.size
        return expand_boxes(
            regions.boxes_at(frame_index), margin=self.config.box_margin, width=width, height=height
        )

    def _follow(self, looks: Looks, examined: Examination, ordered: Sequence[Correction]) -> list[Track]:
        tracks: list[Track] = []
        for kind, frames in looks.items():
            tracks += build_tracks(
                frames,
                kind=kind,
                timestamps_ns=examined.timeline.timestamps_ns,
                width=self.size[0],
                height=self.size[1],
                config=self.config,
                camera=examined.camera,
                first_track_id=len(tracks) + 1,
            )
        return tracks + correction_tracks(
            ordered,
            frame_count=examined.timeline.frame_count,
            width=self.size[0],
            height=self.size[1],
            first_track_id=len(tracks) + 1,
        )

    def _render(self, tracks: Sequence[Track], examined: Examination) -> Rendering:
        return render(
            self.source,
            probe=self.probe,
            timeline=self.timeline,
            decoded_frames=examined.timeline.frame_count,
            regions=RegionIndex(tracks),
            video_path=self.video_path,
            proxy_path=self.proxy_path,
            config=self.config,
            progress=self._progress_of_next_pass(),
        )

    def _check(
        self, tracks: Sequence[Track], looks: Looks, examined: Examination, *, found: Sequence[Leak] = ()
    ) -> LeakCheck | None:
        """Examine the finished video; after a repair also the frames that leaked before."""
        checked = [kind for kind in LEAK_KINDS if kind in self.leak_detectors]
        if not checked or not self.config.leak_looks_per_s:
            return None
        seen = {entry.frame_index for kind in checked for entry in looks.get(kind, ())}
        frames = leak_check_frames(examined.timeline, examined=seen, looks_per_s=self.config.leak_looks_per_s)
        frames = np.union1d(frames, [leak.frame_index for leak in found]).astype(np.int64)
        remaining = find_leaks(
            self.video_path,
            frames=frames,
            detectors=self.leak_detectors,
            regions=RegionIndex(tracks),
            config=self.config,
        )
        return LeakCheck(examined_frames=int(frames.size), found=tuple(found), remaining=tuple(remaining))

    def _look_closely(self, leaks: Sequence[Leak], examined: Examination) -> list[Looks]:
        """What the stricter detectors see where something leaked, shortly before and after."""
        looks: list[Looks] = []
        for kind in dict.fromkeys(leak.kind for leak in leaks):
            of_kind = [leak for leak in leaks if leak.kind == kind]
            ranges = [
                self._widened(leak.frame_index, leak.frame_index, examined.timeline) for leak in of_kind
            ]
            closely = self._closely(ranges, kinds=(kind,))
            looks += [
                {kind: _near(leak.box_xyxy, closely[kind], *within)}
                for leak, within in zip(of_kind, ranges, strict=True)
            ]
        return looks

    def _closely(self, ranges: Sequence[tuple[int, int]], *, kinds: Collection[str]) -> Looks:
        return examine_closely(
            self.source,
            probe=self.probe,
            timeline=self.timeline,
            ranges=ranges,
            detectors={kind: self.detectors[kind] for kind in detectors_for(kinds) if kind in self.detectors},
            config=self.config,
        )

    def _widened(self, first_frame: int, last_frame: int, timeline: Timeline) -> tuple[int, int]:
        """The range and what lies shortly before and after it."""
        times = timeline.timestamps_ns
        last_frame = min(last_frame, timeline.frame_count - 1)
        around_ns = round(self.config.close_look_s * NANOSECONDS)
        start = int(np.searchsorted(times, times[first_frame] - around_ns, side="left"))
        end = int(np.searchsorted(times, times[last_frame] + around_ns, side="right")) - 1
        return start, end


def _as_looks_of(order: Correction, last_frame: int) -> Looks:
    """A correction with a box as detections on each of its frames."""
    detection = Detections(np.array([order.box_xyxy], np.float32), np.ones(1, np.float32))
    frames = range(order.first_frame, last_frame + 1)
    return {order.kind: [FrameDetections(index, detection) for index in frames]}


def _near(
    box_xyxy: tuple[float, float, float, float],
    looks: Sequence[FrameDetections],
    first_frame: int,
    last_frame: int,
) -> list[FrameDetections]:
    """Of closer looks what lies around one place at that time: lower thresholds find more than what was missed."""
    box = np.array([box_xyxy], np.float32)
    reach = (box[:, 2:] - box[:, :2]).max()
    around = box + np.array([-reach, -reach, reach, reach], np.float32)
    return [
        FrameDetections(
            entry.frame_index,
            Detections(entry.detections.boxes_xyxy[near], entry.detections.scores[near]),
            entry.look,
        )
        for entry in looks
        if first_frame <= entry.frame_index <= last_frame
        for near in [iou_matrix(entry.detections.boxes_xyxy, around)[:, 0] > 0]
    ]


def _as_looks(leaks: Sequence[Leak]) -> Looks:
    """Leaks as detections, so that they are covered even where the closer look does not find them again."""
    looks: dict[str, list[FrameDetections]] = {}
    for leak in leaks:
        detection = Detections(np.array([leak.box_xyxy], np.float32), np.array([leak.score], np.float32))
        looks.setdefault(leak.kind, []).append(FrameDetections(leak.frame_index, detection))
    return looks
