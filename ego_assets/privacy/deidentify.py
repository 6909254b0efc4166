"""The privacy pass over one clip: find regions, follow them, render the clip without them, and check the result.

The clip is decoded twice. The first time detectors look at the scheduled frames; the second time every frame is
redacted and encoded at full size and as the proxy. Then the finished video is examined again: what is still in
the clear is followed with lower thresholds, and the clip rendered once more. Memory does not grow with the clip,
apart from the boxes. Any failure removes both outputs: nothing half-redacted remains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ego_assets.media.contact_sheet import contact_sheet
from ego_assets.media.source import MediaSource
from ego_assets.privacy.config import PrivacyConfig
from ego_assets.privacy.examine import (
    Examination,
    Looks,
    detectors_for,
    examine,
)
from ego_assets.privacy.frames import PrivacyPassFailed
from ego_assets.privacy.leaks import LEAK_KINDS, Leak, LeakCheck, find_leaks, leak_check_frames
from ego_assets.privacy.render import Rendering, proxy_size_for, render
from ego_assets.privacy.report import PiiReport, build_report
from ego_assets.privacy.tracking import (
    RegionIndex,
    Track,
    build_tracks,
    correction_tracks,
)
from ego_assets.schema.corrections import Correction
from ego_assets.schema.detections import RegionDetector, iou_matrix
from ego_assets.schema.media import MediaProbe
from ego_assets.schema.motion import CameraMotion
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
        camera: How the camera moved, in pixels of the upright full-size picture, on the frames of ``timeline``.
        proxy_size: Width and height of the proxy in pixels.
        contact_sheet: JPEG below 50 KB of redacted frames spread over the clip.
    """

    tracks: tuple[Track, ...]
    report: PiiReport
    leak_check: LeakCheck | None
    timeline: Timeline
    camera: CameraMotion
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
    leak_settings: Mapping[str, Mapping[str, Any]] | None = None,
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
        leak_settings: The same of those that examine the finished video.
        corrections: What people ordered to be covered. Those of an incident make the whole pass strict.
        already_deidentified: The owner declares that nothing needs covering; only then may there be no detector.
        progress: Called with frames done and in total; each frame counts once per pass over the clip.

    Raises:
        PrivacyPassFailed: A detector failed on a frame, or the two passes over the clip disagree.
        MediaError: The clip cannot be decoded or encoded.
        ValueError: No detector, one for an unknown kind, or none that can examine the finished video.
    """
    config = config or PrivacyConfig()
    leak_detectors = detectors if leak_detectors is None else leak_detectors
    if not detectors and not already_deidentified:
        raise ValueError("detectors: expected at least one, got none")
    if not already_deidentified and config.leak_looks_per_s and not set(LEAK_KINDS) & set(leak_detectors):
        raise ValueError(
            f"leak_detectors: expected one of {', '.join(LEAK_KINDS)}, got {list(leak_detectors)}"
        )
    privacy_pass = _PrivacyPass(
        source,
        probe=probe,
        timeline=timeline,
        paths=(video_path, proxy_path),
        detectors=detectors,
        leak_detectors=leak_detectors,
        leak_settings=leak_settings or {},
        config=config,
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
        leak_settings: Mapping[str, Mapping[str, Any]],
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
        self._leak_settings = leak_settings
        self._progress = progress
        self._passes = 0

    def run(
        self, corrections: Sequence[Correction], detector_settings: Mapping[str, Mapping[str, Any]]
    ) -> PrivacyResult:
        """All steps."""
        examined = self._examine(self.detectors)
        first_tracks = self._follow(examined.looks, examined)
        orders = self._within(corrections, examined.timeline)
        tracks = self._with_orders(first_tracks, orders, examined)
        rendering = self._render(tracks, examined)
        leak_check = self._check(tracks, examined)
        if leak_check is not None and leak_check.remaining:
            found = leak_check.remaining
            tracks = self._with_orders(first_tracks, [*orders, *map(_as_order, found)], examined)
            rendering = self._render(tracks, examined)
            leak_check = self._check(tracks, examined, found=found, repaired=tracks[len(first_tracks) :])
        report = build_report(
            examined=examined.looks,
            tracks=tracks,
            # What only a stricter look found is doubtful by nature, and covered because somebody asked for it.
            doubted=first_tracks,
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
            camera=examined.camera,
            proxy_size=proxy_size_for(*self.size, short_side=self.config.proxy_short_side),
            contact_sheet=contact_sheet(list(rendering.sheet_images)),
        )

    def _examine(
        self,
        detectors: Mapping[str, RegionDetector],
        *,
        strict: bool = False,
        config: PrivacyConfig | None = None,
    ) -> Examination:
        return examine(
            self.source,
            probe=self.probe,
            timeline=self.timeline,
            detectors=detectors,
            config=config or self.config,
            strict=strict,
            progress=self._progress_of_next_pass(),
        )

    def _within(self, corrections: Sequence[Correction], timeline: Timeline) -> list[Correction]:
        """The orders within the clip's frames: one beyond its end, which lost frames can cause, covers its last one."""
        last_frame = timeline.frame_count - 1
        return [
            replace(
                order,
                first_frame=min(order.first_frame, last_frame),
                last_frame=min(order.last_frame, last_frame),
            )
            for order in corrections
            if last_frame >= 0
        ]

    def _with_orders(
        self, first_tracks: Sequence[Track], orders: Sequence[Correction], examined: Examination
    ) -> list[Track]:
        """The tracks of the first pass, and what orders and leaks add to them.

        What is named is covered, with what lies shortly before and after; without a place, these frames are covered
        whole. Beyond that the clip is examined again with the lower thresholds, by the detectors that missed
        something and by those of the leak check, each followed on its own: that one of them sees nothing must not
        end what the other sees. Of what they find, an incident takes everything of its kind, another order what
        touches its place.
        """
        if not orders:
            return list(first_tracks)
        tracks = list(first_tracks)
        widened = [self._widened(order, examined.timeline) for order in orders]
        taken = {order.kind for order in orders if order.origin.startswith("incident:")}
        for detectors, config in (
            (self.detectors, self.config),
            (self.leak_detectors, self._config_of_leak_check()),
        ):
            tasks = detectors_for(order.kind for order in orders)
            chosen = {task: detectors[task] for task in tasks if task in detectors}
            if not chosen:
                continue
            found = self._follow(self._examine(chosen, strict=True, config=config).looks, examined)
            tracks += [
                track
                for track in found
                if track.kind in taken or any(_touches(track, order) for order in widened)
            ]
        ordered = correction_tracks(
            widened, frame_count=examined.timeline.frame_count, width=self.size[0], height=self.size[1]
        )
        if len(ordered) < len(widened):
            raise PrivacyPassFailed(
                f"{len(widened) - len(ordered)} of {len(widened)} orders to cover something name a place outside the "
                f"picture of {self.size[0]}x{self.size[1]} pixels. Nothing was written. Order it again with a place "
                "inside the picture, or without one."
            )
        tracks += ordered
        return [replace(track, track_id=number) for number, track in enumerate(tracks, start=1)]

    def _config_of_leak_check(self) -> PrivacyConfig:
        """Settings under which :func:`examine` looks at the scale of the leak check."""
        side = self.config.leak_max_side
        return replace(
            self.config,
            detection_max_side=side,
            fine_tile_side=max(side, self.config.fine_tile_side),
            fine_max_side=max(side, self.config.fine_max_side),
            text_max_side=side,
            text_fine_max_side=max(side, self.config.text_fine_max_side),
        )

    def _progress_of_next_pass(self) -> ProgressCallback:
        """Progress over all passes: two, and more where something has to be looked for or rendered again."""
        before = self._passes
        self._passes += 1

        def progress(done: int, total: int) -> None:
            self._progress(before * total + done, max(2, before + 1) * total)

        return progress

    def _follow(self, looks: Looks, examined: Examination) -> list[Track]:
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
        return tracks

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
        self,
        tracks: Sequence[Track],
        examined: Examination,
        *,
        found: Sequence[Leak] = (),
        repaired: Sequence[Track] = (),
    ) -> LeakCheck | None:
        """Examine the finished video; after a repair also what leaked before, and where the repair ends."""
        checked = [kind for kind in LEAK_KINDS if kind in self.leak_detectors]
        if not checked or not self.config.leak_looks_per_s:
            return None
        last_frame = examined.timeline.frame_count - 1
        seen = {entry.frame_index for kind in checked for entry in examined.looks.get(kind, ())}
        frames = {
            *leak_check_frames(
                examined.timeline, examined=seen, looks_per_s=self.config.leak_looks_per_s
            ).tolist(),
            *(leak.frame_index for leak in found),
            *(max(0, int(track.frame_indices[0]) - 1) for track in repaired),
            *(min(last_frame, int(track.frame_indices[-1]) + 1) for track in repaired),
        }
        remaining = find_leaks(
            self.video_path,
            frames=sorted(frames),
            detectors=self.leak_detectors,
            regions=RegionIndex(tracks),
            config=self.config,
        )
        return LeakCheck(
            detectors={kind: self.leak_detectors[kind].info for kind in checked},
            settings={kind: self._leak_settings[kind] for kind in checked if kind in self._leak_settings},
            examined_frames=len(frames),
            found=tuple(found),
            remaining=tuple(remaining),
        )

    def _widened(self, order: Correction, timeline: Timeline) -> Correction:
        """The order with what lies shortly before and after it."""
        times = timeline.timestamps_ns
        around_ns = round(self.config.order_margin_s * NANOSECONDS)
        start = int(np.searchsorted(times, times[order.first_frame] - around_ns, side="left"))
        end = int(np.searchsorted(times, times[order.last_frame] + around_ns, side="right")) - 1
        return replace(order, first_frame=start, last_frame=end)


def _as_order(leak: Leak) -> Correction:
    """A leak as an order to cover it."""
    return Correction(
        clip_id="",
        kind=leak.kind,
        first_frame=leak.frame_index,
        last_frame=leak.frame_index,
        box_xyxy=leak.box_xyxy,
        origin="leak_check",
    )


def _touches(track: Track, order: Correction) -> bool:
    """Whether a track shows, on a frame of the order, what the order's box or its surroundings hold."""
    if track.kind != order.kind or order.box_xyxy is None:
        return False
    during = (track.frame_indices >= order.first_frame) & (track.frame_indices <= order.last_frame)
    box = np.array([order.box_xyxy], np.float32)
    reach = (box[:, 2:] - box[:, :2]).max() / 2
    around = box + np.array([-reach, -reach, reach, reach], np.float32)
    return bool(np.any(iou_matrix(track.boxes_xyxy[during], around) > 0))
