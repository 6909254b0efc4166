"""Masks: what they cost, and how well they overlap rendered, drawn and photographed truth.

Hands come from the hand layer's own code, so that its misses count here too. "Instance overlap" is the intersection
over union of a true instance with the one mask that fits it best.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from _harness import Better, Reporter
from _privacy_material import TESTDATA, no_material, read_image

from ego_assets.labels.hand_object import find_hand_objects
from ego_assets.labels.mask_records import motion_compensated_iou, record_masks
from ego_assets.labels.masks import LearntColours, hand_mask
from ego_assets.media.sampling import sample_frames
from ego_assets.schema.detections import BgrImage
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.hands import HandObjectTracks
from ego_assets.schema.masks import MASK_CATEGORIES, MaskFrame
from ego_assets.synth.render import render_clip
from ego_assets.synth.scene import Scene
from ego_assets.synth.spec import SceneSpec
from resources.models.hands import MediaPipeHandDetector
from resources.models.masks import RegionsFlowTracker

RATE, HAND_RATE = 5.0, 10.0
#: CPU seconds for a second of video that the layer may cost, decoding included.
TARGET_COST = 1.5
#: Smaller true instances are not counted, in pixels.
MIN_PIXELS = 150
#: From this overlap on a true instance counts as followed, and a change of its mask's id as a switch.
FOLLOWED_IOU = 0.3

#: First-person clips in which nobody but the wearer is seen, by eye on six frames of each.
NOBODY_ELSE = (
    "ego_video/epic_tile_r0c0.mp4",
    "ego_video/epic_tile_r0c1.mp4",
    "ego_video/epic_tile_r1c1.mp4",
    "ego_video/epic_tile_r1c2.mp4",
    "ego_video/epic_tile_r2c1.mp4",
    "ego_video/epic_tile_r3c0.mp4",
    "ego_video/epic_tile_r3c1.mp4",
    "ego_video/epic_tile_r3c2.mp4",
    "ego_video/ego4d_cmuafrica.mp4",
    "ego_video/ego4d_kaust.mp4",
    "ego_video/ego4d_tokyo.mp4",
    "ego_video/hawor_video_0.mp4",
    "ego_video/aria2_carpark_lp.mp4",
    "neg_quality_video/17734.mp4",
    "neg_quality_video/sample-5s.mp4",
)
#: Clips with other people in nearly every frame.
WITH_PEOPLE = (
    "ego_video/ego4d_georgiatech.mp4",
    "ego_video/ego4d_nus.mp4",
    "neg_quality_video/05_default_juggle.mp4",
)
DRAWN_CLIPS = ("ego_video/visor_cut_0.mp4", "ego_video/visor_cut_1.mp4")

Mask = npt.NDArray[np.bool_]


def run(reporter: Reporter, *, quick: bool, clip: Path | None) -> None:
    """Report cost on ``clip`` or a rendered one, and accuracy on rendered and real material."""
    with tempfile.TemporaryDirectory(prefix="masks-benchmark-") as folder:
        _cost(reporter, Path(folder), quick=quick, clip=clip)
        _rendered(reporter, Path(folder), quick=quick)
    if not TESTDATA.is_dir():
        for metric in ("drawn instance overlap", "photographed hand overlap", "needless persons"):
            reporter.report(metric, None, "share", reason=no_material())
        return
    _photographed_hands(reporter)
    _drawn(reporter, quick=quick)
    _people(reporter, quick=quick)


def _cost(reporter: Reporter, folder: Path, *, quick: bool, clip: Path | None) -> None:
    path = clip
    if path is None:
        path = folder / "cost.mp4"
        render_clip(SceneSpec(seed=5, duration_s=2.0 if quick else 6.0, faces=1), path)
    tracker, hands = RegionsFlowTracker(), _hands(path)
    tracker_ready = [*tracker.track(_frames(path, count=2), hands=hands)]
    assert tracker_ready
    sampled = sample_frames(path, frames_per_second=RATE)
    before = time.process_time()
    recorded = record_masks(
        sampled.stream(),
        lambda frames: tracker.track(frames, hands=hands),
        frame_index=sampled.frame_index,
        vocabulary=MASK_CATEGORIES,
        path=folder.joinpath,
    )
    cost = time.process_time() - before
    duration_s = len(recorded.measurements) / RATE
    width, height = sampled.size
    reporter.report(
        f"masks at {RATE:g} frames/s on {width}x{height}: cost, decoding and storing included",
        cost / duration_s,
        "CPU seconds a second of video",
        target=TARGET_COST,
        reason=f"n={len(recorded.measurements)} frames, {len(recorded.reseeded_frames)} of them searched anew",
    )


@dataclass
class _Followed:
    """Overlaps of one kind of true instance, and how often its mask's id changed."""

    overlaps: list[float] = field(default_factory=list)
    switches: int = 0

    def add(self, truths: Iterable[Mask], found: Iterable[MaskFrame]) -> None:
        """Take up one true instance over the frames of a clip."""
        last = 0
        for truth, masks in zip(truths, found, strict=True):
            if truth.sum() < MIN_PIXELS:
                continue
            overlap, instance_id = best_overlap(truth, masks.instance_ids)
            self.overlaps.append(overlap)
            if overlap >= FOLLOWED_IOU:
                self.switches += bool(last) and last != instance_id
                last = instance_id

    def report(self, reporter: Reporter, name: str, *, how: str) -> None:
        count = len(self.overlaps)
        value = float(np.mean(self.overlaps)) if count else None
        followed = float(np.mean(np.array(self.overlaps) >= FOLLOWED_IOU)) if count else None
        reporter.report(
            name, value, "mean IOU", better="higher", reason=f"n={count} instances in frames; {how}"
        )
        reporter.report(f"{name}: at least {FOLLOWED_IOU}", followed, "share of instances", better="higher")


def _rendered(reporter: Reporter, folder: Path, *, quick: bool) -> None:
    scenes = (("walk", "kitchen"), ("still", "workshop"), ("look_around", "office"))
    hands, things = _Followed(), _Followed()
    own, exact, seconds = [], [], 0.0
    for seed, (motion, location) in enumerate(scenes[: 1 if quick else None], 1):
        path = folder / f"{motion}.mp4"
        spec = SceneSpec(
            seed=seed, width=640, height=360, duration_s=6.0, camera_motion=motion, location=location, faces=1
        )
        truth = render_clip(spec, path)
        frames = list(_frames(path))
        found = list(RegionsFlowTracker().track(iter(frames), hands=_hands(path)))
        scene = Scene(spec)
        maps = [
            scene.frame(truth.scene_time_s(frame.frame_index), frame.frame_index).rendering.owner
            for frame in frames
        ]
        groups = [quad.group for quad in scene._quads]
        for number, side in ((-2, "left"), (-3, "right")):
            hands.add((owner == number for owner in maps), found)
            quads = [place for place, group in enumerate(groups) if group == f"object_{side}"]
            things.add((np.isin(owner, quads) for owner in maps), found)
        seconds += len(frames) / RATE
        for place in range(1, len(frames)):
            pictures = frames[place - 1].image, frames[place].image
            ids = found[place - 1].instance_ids, found[place].instance_ids
            own.append(motion_compensated_iou(*ids, *pictures))
            exact.append(motion_compensated_iou(*(_ids(maps[k]) for k in (place - 1, place)), *pictures))
    how = "rendered clips of 640x360, hands as the hand layer finds them"
    hands.report(reporter, "rendered hands: instance overlap", how=how)
    things.report(
        reporter, "rendered things that hands take, about 1 % of the frame: instance overlap", how=how
    )
    minutes = seconds / 60
    reporter.report(
        "rendered hands and things: id switches",
        (hands.switches + things.switches) / minutes,
        "switches a minute of video",
        reason=f"{seconds:.0f} s with four instances each",
    )
    for name, values in (("found masks", own), ("exact masks of every surface", exact)):
        known = [value for value in values if np.isfinite(value)]
        reporter.report(
            f"motion-compensated overlap of consecutive frames, {name}",
            float(np.mean(known)),
            "mean IOU",
            better="higher",
            reason=f"n={len(known)} pairs, {len(values) - len(known)} not comparable; lowest tenth "
            f"{np.percentile(known, 10):.3f}",
        )


def _photographed_hands(reporter: Reporter) -> None:
    """Hands in photographs with a mask; the masks of Hands23 are predictions, and one photograph shows the forearm."""
    detector, folder = MediaPipeHandDetector(), TESTDATA / "hands"
    overlaps, precisions, missed = [], [], 0
    photographs = [(folder / "minghuam/rgb.jpg", [folder / "minghuam/msk.jpg"])]
    for path in sorted((folder / "hands23").glob("*.jpg")):
        photographs.append((path, sorted((folder / "hands23/masks").glob(f"2_*_{path.stem}.png"))))
    for path, files in photographs:
        image = read_image(path)
        truths = [read_image(file)[..., 0] > 127 for file in files]
        found = next(iter(detector.detect([ClipFrame(0, 0, image)])))
        masks = [
            hand_mask(
                image,
                box_xyxy=found.boxes_xyxy[place],
                landmarks_xy=found.landmarks_xy[place],
                colours=LearntColours(),
            )
            for place in range(len(found))
        ]
        for truth in truths:
            fits = max(masks, key=lambda mask: (mask & truth).sum(), default=None)
            if fits is None or not (fits & truth).any():
                missed += 1
                continue
            overlaps.append(float((fits & truth).sum() / (fits | truth).sum()))
            precisions.append(float((fits & truth).sum() / fits.sum()))
    reason = f"n={len(overlaps)}, {missed} not found by the hand detector; some truth includes the forearm"
    value = float(np.mean(overlaps)) if overlaps else None
    reporter.report("photographed hand overlap", value, "mean IOU", better="higher", reason=reason)
    reporter.report(
        "photographed hand precision",
        float(np.mean(precisions)) if precisions else None,
        "share of the mask",
        better="higher",
        reason=reason,
    )


def _drawn(reporter: Reporter, *, quick: bool) -> None:
    """Overlap with masks that are burnt into the picture.

    Truth is derived from their flat, saturated colours over a picture that is nearly grey: red and green for hands with
    their arms, other hues for things. The paint makes edges easier than in a plain picture, and takes from the hand
    detector what it knows hands by.
    """
    hands, things = _Followed(), _Followed()
    frames_count = hand_frames = 0
    for name in DRAWN_CLIPS[: 1 if quick else None]:
        path = TESTDATA / name
        frames = list(_frames(path))
        found = list(RegionsFlowTracker(people=False).track(iter(frames), hands=_hands(path)))
        truths = [drawn_instances(frame.image) for frame in frames]
        for colour in ("red", "green"):
            hands.add((truth[colour] for truth in truths), found)
        for colour in ("orange", "teal", "purple"):
            things.add((truth[colour] for truth in truths), found)
        frames_count += len(frames)
        hand_frames += sum(any(item.category == "hand" for item in masks.instances) for masks in found)
    hands.report(
        reporter, "drawn hands with arms: instance overlap", how="truth from burnt-in colours, which help"
    )
    things.report(
        reporter, "drawn things in use: instance overlap", how="truth from burnt-in colours, which help"
    )
    reporter.report(
        "drawn hands: frames in which the hand layer finds one",
        hand_frames / frames_count,
        "share of frames",
        better="higher",
        reason=f"n={frames_count}; flat paint hides what the detector knows hands by",
    )


def drawn_instances(image: BgrImage) -> dict[str, Mask]:
    """Areas of the burnt-in colours by name, ``bool [h, w]`` each."""
    hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2HSV))
    # Hue of OpenCV, 0 to 180.
    ranges = {"red": (172, 6), "orange": (14, 26), "green": (48, 72), "teal": (86, 102), "purple": (118, 142)}
    found = {}
    for name, (low, high) in ranges.items():
        inside = (hue >= low) & (hue <= high) if low <= high else (hue >= low) | (hue <= high)
        painted = inside & (saturation > (60 if name in ("teal", "purple") else 140)) & (value > 90)
        opened = cv2.morphologyEx(painted.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
        closed = cv2.morphologyEx(opened, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
        count, pieces, stats, _ = cv2.connectedComponentsWithStats(closed)
        keep = stats[:count, cv2.CC_STAT_AREA] >= 2 * MIN_PIXELS
        keep[0] = False
        found[name] = np.asarray(keep[pieces], np.bool_)
    return found


def _people(reporter: Reporter, *, quick: bool) -> None:
    cases: tuple[tuple[str, tuple[str, ...], Better], ...] = (
        ("needless persons: frames with one, in clips without other people", NOBODY_ELSE, "lower"),
        ("persons: frames with one, in clips with people", WITH_PEOPLE, "higher"),
    )
    for metric, clips, better in cases:
        names = clips[: 3 if quick else None]
        frames_count = hits = 0
        where = []
        for name in names:
            path = TESTDATA / name
            found = RegionsFlowTracker().track(_frames(path), hands=_hands(path))
            seen = [any(item.category == "person" for item in masks.instances) for masks in found]
            frames_count += len(seen)
            hits += sum(seen)
            if any(seen):
                where.append(f"{Path(name).stem} {sum(seen)} of {len(seen)}")
        reporter.report(
            metric,
            hits / frames_count,
            "share of frames",
            better=better,
            reason=f"n={frames_count} frames of {len(names)} clips; {', '.join(where) or 'none'}",
        )


def best_overlap(truth: Mask, ids: npt.NDArray[np.uint16]) -> tuple[float, int]:
    """IOU of a true instance with the mask that fits it best, and that mask's id; 0 where nothing overlaps."""
    sizes = np.bincount(ids.ravel())
    common = np.bincount(ids[truth], minlength=sizes.size)
    common[0] = 0
    overlaps = common / np.maximum(sizes + truth.sum() - common, 1)
    best = int(overlaps.argmax())
    return float(overlaps[best]), best if overlaps[best] else 0


def _ids(owner: npt.NDArray[np.int16]) -> npt.NDArray[np.uint16]:
    return (owner.astype(np.int32) + 10).astype(np.uint16)


def _frames(path: Path, *, rate: float = RATE, count: int | None = None) -> Iterator[ClipFrame]:
    """Frames of a clip at a rate, at the size of the proxy."""
    for number, frame in enumerate(sample_frames(path, frames_per_second=rate).stream()):
        if number == count:
            return
        yield ClipFrame(frame.frame_index, frame.timestamp_ns, _proxy_size(frame.image))


def _proxy_size(image: BgrImage) -> BgrImage:
    scale = 720 / min(image.shape[:2])
    if scale >= 1:
        return image
    return np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)


def _hands(path: Path) -> HandObjectTracks:
    """The wearer's hands as the hand layer finds them."""
    frames: Sequence[ClipFrame] = list(_frames(path, rate=HAND_RATE))
    return find_hand_objects(iter(frames), MediaPipeHandDetector(), resolution=frames[0].size)
