"""Hands: what they cost, how many are found, how well landmarks, sides and states agree with what is known."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _harness import Reporter, cpu_seconds
from _privacy_material import INDICATIVE_BELOW, TESTDATA, no_material, read_image

from ego_assets.labels.hand_object import find_hand_objects
from ego_assets.labels.hand_states import is_legal
from ego_assets.media.sampling import sample_frames
from ego_assets.privacy.coverage import wilson_interval
from ego_assets.schema.detections import iou_matrix
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.hands import HAND_SIDES, HAND_STATES, HandDetector, HandObjectTracks, HandState
from ego_assets.synth import GroundTruth, SceneSpec, render_clip
from resources.profiles import build_backend, load_profile

RATE_HZ = 10.0
#: Share of the local enrichment's budget of 6 CPU-seconds per video-second that hands may take.
CPU_TARGET = 1.0
#: A hand counts as found when its box and the labelled one overlap by this much.
FOUND_IOU = 0.3
#: A landmark counts as right within this share of the longer side of the labelled box (PCK@0.2).
PCK_SHARE = 0.2

GROUPS = {"epic": "epic_tile_*.mp4", "ego4d": "ego4d_*.mp4", "hawor": "hawor_*.mp4", "lavila": "lavila_*.mp4"}
KEYPOINT_SETS = {"freihand": "mmpose_freihand", "onehand10k": "mmpose_onehand10k"}


def run(reporter: Reporter, *, quick: bool, clip: Path | None) -> None:
    """Report all rows; a quick run leaves out the real clips."""
    detector: HandDetector = build_backend(load_profile("local"), "hands")
    with tempfile.TemporaryDirectory() as folder:
        rendered = _synthetic(Path(folder), quick=quick)
        _cost(reporter, detector, clip or rendered[0][0])
        _against_truth(reporter, detector, rendered)
    _keypoints(reporter, detector)
    _hands23(reporter, detector)
    if not quick:
        _clips(reporter, detector)


def tracks_of(detector: HandDetector, video: Path) -> HandObjectTracks:
    """The layer's tracks of a whole clip."""
    frames = sample_frames(video, frames_per_second=RATE_HZ)
    return find_hand_objects(frames.stream(), detector, resolution=frames.size)


def _cost(reporter: Reporter, detector: HandDetector, video: Path) -> None:
    frames = sample_frames(video, frames_per_second=RATE_HZ)
    duration_s = float(np.ptp(frames.timeline.timestamps_ns)) / 1e9

    def decode() -> None:
        for _ in frames.stream():
            pass

    # The first call loads the networks.
    list(detector.detect(iter([ClipFrame(0, 0, np.zeros((64, 64, 3), np.uint8))])))
    total = min(cpu_seconds(lambda: tracks_of(detector, video)) for _ in range(2))
    decoding = min(cpu_seconds(decode) for _ in range(2))
    size = "{}x{}".format(*frames.size)
    how = f"{size}, {duration_s:.1f} s, {frames.frame_index.size} frames at {RATE_HZ:g} a second, decoding included"
    reporter.report("hands_cpu", total / duration_s, "CPU-s per video-s", target=CPU_TARGET, reason=how)
    reporter.report("hands_cpu_decoding", decoding / duration_s, "CPU-s per video-s", reason=how)


def _synthetic(folder: Path, *, quick: bool) -> list[tuple[Path, GroundTruth]]:
    specs = [
        SceneSpec(seed=11, duration_s=6.0),
        SceneSpec(seed=5, width=960, height=540, duration_s=5.0, camera_motion="still"),
        SceneSpec(seed=21, width=960, height=540, duration_s=6.0, location="office"),
        SceneSpec(seed=53, width=960, height=540, duration_s=5.0, location="office", camera_motion="still"),
        SceneSpec(seed=64, width=960, height=540, duration_s=5.0),
    ]
    rendered = []
    for number, spec in enumerate(specs[: 1 if quick else None]):
        path = folder / f"{number}.mp4"
        rendered.append((path, render_clip(spec, path)))
    return rendered


def _against_truth(
    reporter: Reporter, detector: HandDetector, rendered: Sequence[tuple[Path, GroundTruth]]
) -> None:
    """Rendered hands look like wooden ones; what is found of them says little about real hands."""
    shown = found = right_state = contact = legal = steps = 0
    pairs: list[tuple[HandState, HandState]] = []
    for path, truth in rendered:
        tracks = tracks_of(detector, path)
        for side in HAND_SIDES:
            track = tracks.left if side == "left" else tracks.right
            states = truth.left_hand_state if side == "left" else truth.right_hand_state
            for row, frame in enumerate(tracks.frame_index.tolist()):
                boxes = truth.boxes_at(frame, "hand_left" if side == "left" else "hand_right")
                if not boxes or boxes[0].visible_fraction < 0.3:
                    continue
                shown += 1
                state = track.states[row]
                true_box = np.array([boxes[0].box_xyxy], np.float32)
                if state is None or iou_matrix(track.boxes_xyxy[row : row + 1], true_box)[0, 0] < FOUND_IOU:
                    continue
                found += 1
                pairs.append((states[frame], state))
            for before, after in zip(track.states, track.states[1:], strict=False):
                steps += before is not None and after is not None
                legal += before is not None and after is not None and is_legal(before, after)
    right_state = sum(truth_state == state for truth_state, state in pairs)
    contact = sum((truth_state == "grasp") == (state == "grasp") for truth_state, state in pairs)
    clips = f"{len(rendered)} rendered clips"
    _share(reporter, "hands_synthetic_found_on_their_side", found, shown, clips)
    _share(reporter, "hands_synthetic_state_right", right_state, found, f"of hands found, {clips}")
    for name in HAND_STATES:
        truly = [state for truth_state, state in pairs if truth_state == name]
        _share(
            reporter,
            f"hands_synthetic_recall_{name}",
            truly.count(name),
            len(truly),
            f"of hands found in this state, {clips}",
        )
    _share(reporter, "hands_synthetic_contact_right", contact, found, f"of hands found, {clips}")
    _share(reporter, "hands_synthetic_steps_legal", legal, steps, clips)


def _keypoints(reporter: Reporter, detector: HandDetector) -> None:
    for name, folder_name in KEYPOINT_SETS.items():
        folder = TESTDATA / "hands" / folder_name
        labels = next(iter(sorted(folder.glob("*.json"))), None)
        if labels is None:
            for metric in ("found", "pck", "error"):
                reporter.report(
                    f"hands_{name}_{metric}", None, "share", better="higher", reason=no_material()
                )
            continue
        content = json.loads(labels.read_text())
        names = {image["id"]: image["file_name"] for image in content["images"]}
        found, errors = 0, []
        for label in content["annotations"]:
            (hands,) = detector.detect(_still(folder / names[label["image_id"]]))
            points = np.array(label["keypoints"], dtype=np.float64).reshape(-1, 3)
            known = points[:, 2] > 0
            left, top, width, height = label["bbox"]
            box = np.array([[left, top, left + width, top + height]], np.float32)
            overlaps = iou_matrix(hands.boxes_xyxy, box)[:, 0]
            if not overlaps.size or overlaps.max() < FOUND_IOU:
                continue
            found += 1
            landmarks = hands.landmarks_xy[int(overlaps.argmax())]
            apart = np.linalg.norm(landmarks - points[:, :2], axis=1)[known]
            errors.extend((apart / max(width, height)).tolist())
        total = len(content["annotations"])
        _share(reporter, f"hands_{name}_found", found, total, "stills, hand-labelled")
        right = int(sum(error <= PCK_SHARE for error in errors))
        _share(reporter, f"hands_{name}_pck", right, len(errors), f"landmarks within {PCK_SHARE} of the box")
        mean = float(np.mean(errors)) if errors else None
        reporter.report(
            f"hands_{name}_error", mean, "mean distance / longer side of the box", reason=f"n={len(errors)}"
        )


@dataclass
class _Agreement:
    total: int = 0
    found: int = 0
    side: int = 0
    contact: int = 0


def _hands23(reporter: Reporter, detector: HandDetector) -> None:
    """Agreement with another detector, not with people. A still shows no motion, so contact is a guess from looks."""
    folder = TESTDATA / "hands" / "hands23"
    names = ("found", "side_agrees", "contact_agrees")
    if not (folder / "result.json").is_file():
        for name in names:
            reporter.report(f"hands_hands23_{name}", None, "share", better="higher", reason=no_material())
        return
    agreement = _Agreement()
    for image in json.loads((folder / "result.json").read_text())["images"]:
        path = folder / image["file_name"]
        height, width = read_image(path).shape[:2]
        tracks = find_hand_objects(_still(path), detector, resolution=(width, height))
        for told in image["predictions"]:
            agreement.total += 1
            box = np.array([[float(value) for value in told["hand_bbox"]]], np.float32)
            for track in tracks.tracks:
                if track.visible[0] and iou_matrix(track.boxes_xyxy, box)[0, 0] >= FOUND_IOU:
                    agreement.found += 1
                    agreement.side += told["hand_side"].startswith(track.side)
                    touches = told["contact_state"] != "no_contact"
                    agreement.contact += touches == (track.states[0] == "grasp")
    note = "predictions of a detector, not labels; stills"
    _share(reporter, "hands_hands23_found", agreement.found, agreement.total, note)
    _share(reporter, "hands_hands23_side_agrees", agreement.side, agreement.found, note)
    _share(reporter, "hands_hands23_contact_agrees", agreement.contact, agreement.found, note)


def _clips(reporter: Reporter, detector: HandDetector) -> None:
    """Not recall: some frames show no hand. It tells how much a user gets, and whether a change loses some."""
    for name, pattern in GROUPS.items():
        paths = sorted((TESTDATA / "ego_video").glob(pattern))
        if not paths:
            reporter.report(f"hands_in_frames_{name}", None, "share", better="higher", reason=no_material())
            continue
        visible = total = agrees = sides = changes = 0
        states: Counter[HandState] = Counter()
        seconds = 0.0
        for path in paths:
            recorded = _Recorder(detector)
            tracks = tracks_of(recorded, path)  # type: ignore[arg-type]
            visible += int((tracks.left.visible | tracks.right.visible).sum())
            total += tracks.frame_index.size
            seconds += float(np.ptp(tracks.timestamps_ns)) / 1e9
            agreed, judged = recorded.opinions(tracks)
            agrees, sides = agrees + agreed, sides + judged
            for track in tracks.tracks:
                states.update(state for state in track.states if state is not None)
                pairs = zip(track.states, track.states[1:], strict=False)
                changes += sum(None not in pair and pair[0] != pair[1] for pair in pairs)
        _share(
            reporter, f"hands_in_frames_{name}", visible, total, f"frames of {len(paths)} clips with a hand"
        )
        _share(
            reporter,
            f"hands_side_of_network_{name}",
            agrees,
            sides,
            "hands whose side the network names as the tracks do",
        )
        # Not accuracy: nobody has labelled the states of these clips.
        for state in HAND_STATES:
            reporter.report(
                f"hands_state_share_{name}_{state}",
                states[state] / states.total() if states else None,
                "share",
                reason=f"n={states.total()} hands in {len(paths)} clips",
            )
        reporter.report(
            f"hands_state_changes_{name}",
            changes / seconds,
            "changes per second",
            reason=f"{len(paths)} clips",
        )


class _Recorder:
    """Hands on what a detector says and keeps it."""

    def __init__(self, detector: HandDetector) -> None:
        self._detector = detector
        self._found: list[Any] = []

    @property
    def info(self) -> Any:
        return self._detector.info

    def detect(self, frames: Iterator[ClipFrame]) -> Iterator[Any]:
        for found in self._detector.detect(frames):
            self._found.append(found)
            yield found

    def opinions(self, tracks: HandObjectTracks) -> tuple[int, int]:
        """How often the network named the side that the hand's track has, and how often it was asked."""
        agreed = judged = 0
        for row, found in enumerate(self._found):
            for track in tracks.tracks:
                if not track.visible[row] or not len(found):
                    continue
                overlaps = iou_matrix(found.boxes_xyxy, track.boxes_xyxy[row : row + 1])[:, 0]
                place = int(overlaps.argmax())
                if overlaps[place] > 0.5:
                    judged += 1
                    agreed += (found.right_scores[place] > 0.5) == (track.side == "right")
        return agreed, judged


def _still(path: Path) -> Iterator[ClipFrame]:
    return iter([ClipFrame(0, 0, read_image(path))])


def _share(reporter: Reporter, metric: str, hits: int, total: int, note: str) -> None:
    if not total:
        reporter.report(metric, None, "share", better="higher", reason=f"n=0; {note}")
        return
    low, high = wilson_interval(hits, total)
    notes = [f"n={total}", f"95 % Wilson interval {low:.3f}-{high:.3f}", note]
    if total < INDICATIVE_BELOW:
        notes.append(f"indicative: n below {INDICATIVE_BELOW}")
    reporter.report(metric, hits / total, "share", better="higher", reason="; ".join(notes))
