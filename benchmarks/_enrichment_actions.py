"""Activities: right per second on synthetic clips, what they say about real ones, and what they cost."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
from _harness import Reporter, cpu_seconds
from _privacy_material import TESTDATA, no_material

from ego_assets.gates.actions import least_score
from ego_assets.labels.action_chart import action_chart
from ego_assets.labels.actions import ActionSteps, action_segments
from ego_assets.labels.hand_object import find_hand_objects
from ego_assets.media.decode import decode_frames
from ego_assets.media.sampling import sample_frames
from ego_assets.privacy.motion import MotionMeter
from ego_assets.schema.actions import ActionRecognizer
from ego_assets.schema.errors import BackendUnavailable
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.hands import HandDetector, HandObjectTracks, HandSide, HandTrack
from ego_assets.schema.motion import CameraMotion
from ego_assets.synth.ground_truth import GroundTruth
from ego_assets.synth.render import render_clip
from ego_assets.synth.spec import CameraMotion as CameraMotionKind
from ego_assets.synth.spec import SceneSpec
from resources.profiles import build_backend, load_profile

#: Synthetic clips: camera, length in seconds, whether hands are shown, and what the wearer does with free hands and
#: with something in one. A camera that looks around turns by 70 degrees to either side once in the clip, and goes up
#: and down as in walking: in the longer clip the turn is no faster than a walker's, and the rhythm decides.
_SCENES: tuple[tuple[CameraMotionKind, float, bool, str, str], ...] = (
    ("still", 12.0, False, "idle", "idle"),
    ("still", 16.0, True, "idle", "manipulating"),
    ("walk", 12.0, False, "walking", "walking"),
    ("walk", 16.0, True, "walking", "carrying"),
    ("look_around", 6.0, False, "looking around", "looking around"),
    ("look_around", 12.0, False, "looking around", "looking around"),
)
_HANDS_PER_S = 10
#: What a person sees on real clips, and what the manifest of the test material says: labels that fit. Clips in which
#: the activity changes are left out.
_REAL: dict[str, tuple[str, ...]] = {
    **{
        f"ego_video/epic_tile_{name}.mp4": ("manipulating",)
        for name in ("r0c0", "r0c1", "r1c2", "r2c1", "r3c0", "r3c1", "r3c2")
    },
    "ego_video/ego4d_cmuafrica.mp4": ("manipulating",),
    "ego_video/lavila_3c0dffd0_012_014.mp4": ("manipulating",),
    "ego_video/aria2_carpark_lp.mp4": ("walking", "carrying"),
    "ego_video/ego4d_losandes.mp4": ("walking", "carrying", "looking around"),
    "gopro_imu/hero7.mp4": ("walking", "carrying"),
}
_COST_DURATION_S = 600


@dataclass(frozen=True, eq=False)
class _Measured:
    """The motion of one video."""

    motion: CameraMotion
    timestamps_ns: npt.NDArray[np.int64]
    resolution: tuple[int, int]


def run(reporter: Reporter, *, quick: bool, clip: Path | None) -> None:
    """Report accuracy on synthetic clips, agreement on real ones, and cost."""
    recognizer: ActionRecognizer = build_backend(load_profile("local"), "actions")
    _synthetic(reporter, recognizer, quick=quick)
    _cost(reporter, recognizer)
    if not quick:
        _real(reporter, recognizer, clip)


def _synthetic(reporter: Reporter, recognizer: ActionRecognizer, *, quick: bool) -> None:
    """Share of seconds whose label is that of the truth, with the true hands at 10 frames/s."""
    right, total = 0, 0
    seeds = (1,) if quick else (1, 2)
    for camera, duration_s, hands, free, holding in _SCENES:
        found: list[bool] = []
        for seed in seeds:
            spec = SceneSpec(
                seed=seed,
                width=320,
                height=180,
                frame_rate=Fraction(20),
                duration_s=duration_s,
                camera_motion=camera,
                hands=hands,
            )
            with tempfile.TemporaryDirectory() as folder:
                video = Path(folder) / "clip.mp4"
                truth = render_clip(spec, video)
                measured = _measure(video)
            labels, _, steps = _labels(recognizer, measured, true_hands(truth))
            expected = _true_labels(truth, steps, free=free, holding=holding)
            found += [label == true for label, true in zip(labels, expected, strict=True)]
        name = f"{camera}, {'hands' if hands else 'no hands'}, {duration_s:g} s"
        unit = f"share of {len(found)} seconds, synthetic clips with true hands"
        reporter.report(f"actions: right on {name}", float(np.mean(found)), unit, better="higher")
        right, total = right + sum(found), total + len(found)
    unit = f"share of {total} seconds, synthetic clips with true hands"
    reporter.report("actions: right, all scenes", right / total, unit, better="higher")


def _real(reporter: Reporter, recognizer: ActionRecognizer, clip: Path | None) -> None:
    """What the labels say about clips whose activity is plain to see; an eye check, not a ground truth."""
    if not TESTDATA.is_dir() and clip is None:
        reporter.report("actions: fit on real clips", None, "share", better="higher", reason=no_material())
        return
    try:
        detector: HandDetector | None = build_backend(load_profile("local"), "hands")
        reason = ""
    except BackendUnavailable as error:
        detector, reason = None, str(error)
    clips = {clip: ()} if clip is not None else {TESTDATA / name: fits for name, fits in _REAL.items()}
    fitting: dict[str, list[bool]] = {}
    least = least_score(len(recognizer.labels))
    for path, fits in clips.items():
        if not path.is_file():
            reporter.report(f"actions: {path.stem}", None, "share of seconds", reason=no_material())
            continue
        measured = _measure(path)
        hands = None if detector is None else _found_hands(path, detector)
        labels, scores, _ = _labels(recognizer, measured, hands)
        shares = ", ".join(f"{label} {labels.count(label)}" for label in dict.fromkeys(labels))
        unit = f"share of {len(labels)} seconds with a label that fits ({shares}); eye check"
        good = [label in fits for label in labels]
        value = float(np.mean(good)) if fits else None
        reporter.report(
            f"actions: {path.stem}",
            value,
            unit,
            better="higher",
            reason=reason or ("" if fits else "nobody has said what fits"),
        )
        kind = "work with the hands" if "manipulating" in fits else "walking"
        fitting.setdefault(kind, []).extend(good if fits else [])
        sure = [fit for fit, score in zip(good, scores, strict=True) if score >= least]
        fitting.setdefault(f"{kind}, where the score is {least:g} or more", []).extend(sure if fits else [])
    for kind, good in fitting.items():
        if good:
            unit = f"share of {len(good)} seconds; eye check, clips differ in length"
            reporter.report(f"actions: fit, {kind}", float(np.mean(good)), unit, better="higher")


def _cost(reporter: Reporter, recognizer: ActionRecognizer) -> None:
    """CPU seconds per second of video at 30 frames/s, from stored motion and hands to segments and picture."""
    count = 30 * _COST_DURATION_S
    rng = np.random.default_rng(1)
    motion = CameraMotion(
        positions_xy=rng.normal(0, 3, (count, 2)).cumsum(axis=0),
        change=rng.uniform(0, 0.1, count).astype(np.float32),
        is_cut=np.zeros(count, np.bool_),
    )
    times = np.rint(np.arange(count) * 1e9 / 30).astype(np.int64)
    measured = _Measured(motion, times, (1280, 720))
    index = np.arange(0, count, 3, dtype=np.int64)
    hands = _tracks(index, times[index], (1280, 720), {"left": {}, "right": {}})

    def work() -> None:
        steps = ActionSteps.of(times)
        scores = _score(recognizer, measured, hands, steps)
        segments = action_segments(scores, steps=steps, labels=recognizer.labels)
        action_chart(segments, scores, steps=steps, labels=recognizer.labels)

    work()
    value = cpu_seconds(work) / _COST_DURATION_S
    unit = f"CPU-s per video-second, {_COST_DURATION_S} s at 30 frames/s, nothing decoded"
    reporter.report("actions: cost", value, unit, target=0.01)


def _measure(video: Path) -> _Measured:
    """What the privacy pass stores of a video."""
    meter = MotionMeter()
    times: list[int] = []
    for frame in decode_frames(video):
        meter.measure(frame)
        times.append(frame.timestamp_ns)
    size = sample_frames(video, frames_per_second=1).size
    return _Measured(meter.camera_motion(), np.array(times, np.int64), size)


def _score(
    recognizer: ActionRecognizer, measured: _Measured, hands: HandObjectTracks | None, steps: ActionSteps
) -> npt.NDArray[np.float32]:
    return recognizer.score(
        steps.times_ns,
        frames=(),
        hands=hands,
        motion=measured.motion,
        timestamps_ns=measured.timestamps_ns,
        resolution=measured.resolution,
    )


def _labels(
    recognizer: ActionRecognizer, measured: _Measured, hands: HandObjectTracks | None
) -> tuple[list[str], list[float], ActionSteps]:
    """The label of each second, after smoothing, and the score of its segment."""
    steps = ActionSteps.of(measured.timestamps_ns)
    scores = _score(recognizer, measured, hands, steps)
    segments = action_segments(scores, steps=steps, labels=recognizer.labels)
    told = [
        (segment.label, segment.score)
        for time in steps.times_ns.tolist()
        for segment in segments
        if segment.start_ns <= time < segment.end_ns
    ]
    return [label for label, _ in told], [score for _, score in told], steps


def _found_hands(video: Path, detector: HandDetector) -> HandObjectTracks:
    sampled = sample_frames(video, frames_per_second=_HANDS_PER_S)

    def frames() -> Iterator[ClipFrame]:
        yield from sampled.stream()

    return find_hand_objects(frames(), detector, resolution=sampled.size)


def true_hands(truth: GroundTruth) -> HandObjectTracks:
    """The true boxes and states of the hands of a synthetic clip, at 10 frames/s."""
    step = max(1, round(float(truth.spec.frame_rate) / _HANDS_PER_S))
    index = np.arange(0, truth.frame_count, step, dtype=np.int64)
    seen: dict[HandSide, dict[int, tuple[npt.NDArray[np.float32], str]]] = {"left": {}, "right": {}}
    for place, frame in enumerate(index.tolist()):
        for box in truth.boxes_at(frame, "hand_left", "hand_right"):
            side: HandSide = "left" if box.kind == "hand_left" else "right"
            states = truth.left_hand_state if side == "left" else truth.right_hand_state
            seen[side][place] = np.array(box.box_xyxy, np.float32), states[frame]
    return _tracks(index, truth.timestamps_ns[index], (truth.spec.width, truth.spec.height), seen)


def _tracks(
    index: npt.NDArray[np.int64],
    timestamps_ns: npt.NDArray[np.int64],
    resolution: tuple[int, int],
    seen: dict[HandSide, dict[int, tuple[npt.NDArray[np.float32], str]]],
) -> HandObjectTracks:
    count = index.size

    def track(side: HandSide) -> HandTrack:
        visible = np.isin(np.arange(count), list(seen[side]))
        boxes = np.full((count, 4), np.nan, np.float32)
        states: list[str | None] = [None] * count
        for place, (box, state) in seen[side].items():
            boxes[place], states[place] = box, state
        return HandTrack(
            side=side,
            visible=visible,
            boxes_xyxy=boxes,
            scores=visible.astype(np.float32),
            landmarks_xy=np.full((count, 21, 2), np.nan, np.float32),
            states=tuple(states),  # type: ignore[arg-type]
            state_scores=visible.astype(np.float32),
            contact_boxes_xyxy=np.full((count, 4), np.nan, np.float32),
            contact_scores=np.zeros(count, np.float32),
        )

    return HandObjectTracks(
        frame_index=index,
        timestamps_ns=timestamps_ns,
        resolution=resolution,
        left=track("left"),
        right=track("right"),
        other_hands=np.zeros(count, np.int64),
    )


def _true_labels(truth: GroundTruth, steps: ActionSteps, *, free: str, holding: str) -> list[str]:
    """What the wearer does at each second: what the hands are doing on most of its frames decides."""
    busy = {"grasp"} if holding == "carrying" else {"pre-grasp", "grasp", "post-release"}
    at_work = np.array(
        [
            bool(truth.left_hand_state)
            and (truth.left_hand_state[frame] in busy or truth.right_hand_state[frame] in busy)
            for frame in range(truth.frame_count)
        ]
    )
    edges = np.searchsorted(truth.timestamps_ns, steps.edges_ns)
    return [
        holding if at_work[first:last].mean() >= 0.5 else free
        for first, last in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    ]
