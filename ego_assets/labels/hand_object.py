"""The hand-object layer: from frames and detections to tracks, and their files.

Files: ``hand_object.tar`` with one JSON record per frame, ``hand_object.parquet`` as its index, ``verdicts.parquet``.
"""

from __future__ import annotations

import io
import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ego_assets.labels.contact import FrameEvidence, observe_contact
from ego_assets.labels.hand_states import HandSignals, is_legal, judge_states
from ego_assets.labels.hand_tracking import SideTrack, track_wearer_hands
from ego_assets.labels.hands import FloatArray, finger_flexion, palm_centre, palm_length
from ego_assets.media.frame_archive import FrameArchive, FrameArchiveIndex, FrameArchiveWriter
from ego_assets.schema.errors import ArtifactCorrupted
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.hands import (
    HAND_SIDES,
    HAND_STATES,
    LANDMARK_COUNT,
    HandDetections,
    HandDetector,
    HandObjectTracks,
    HandSide,
    HandState,
    HandTrack,
)
from ego_assets.schema.timeline import NANOSECONDS

ARCHIVE, INDEX, VERDICTS = "hand_object.tar", "hand_object.parquet", "verdicts.parquet"

#: Criteria that every frame is judged by; columns of ``verdicts.parquet``.
CRITERIA = ("record_valid", "boxes_inside", "states_legal", "hand_visible")

# An object is looked for in frames up to this far away within one grasp, and its box is the median of what they show.
_OBJECT_WINDOW_S = 0.8
# What is smaller than this is a piece of it, in palms.
_MIN_OBJECT_PALMS = 0.4
# Where nothing was seen to move with the hand, the object is somewhere at the fingertips, this far around, in palms.
_FINGERTIP_MARGIN = 0.3
_FINGERTIPS = (4, 8, 12, 16)
# Boxes narrower than this cannot be drawn or cut out.
_MIN_BOX_PX = 2.0
_BOX_DIGITS, _SCORE_DIGITS = 1, 4


# ------------------------------------------------------------------ making


def find_hand_objects(
    frames: Iterable[ClipFrame],
    detector: HandDetector,
    *,
    resolution: tuple[int, int],
    cuts: npt.NDArray[np.bool_] | None = None,
) -> HandObjectTracks:
    """Look at all frames once, and make tracks of the wearer's hands with their states and objects.

    Args:
        frames: The frames in order; a few are held at a time.
        detector: Finds hands, and contact where it can.
        resolution: Width and height of the frames in pixels.
        cuts: ``bool [N]``, frames on which a new scene begins.
    """
    shown, kept = itertools.tee(frames)
    indices: list[int] = []
    times: list[int] = []
    detections: list[HandDetections] = []

    def looks() -> Iterable[tuple[ClipFrame, HandDetections]]:
        for found, frame in zip(detector.detect(shown), kept, strict=True):
            indices.append(frame.frame_index)
            times.append(frame.timestamp_ns)
            detections.append(found)
            yield frame, found

    evidence = list(observe_contact(looks()))
    return assemble_tracks(
        np.array(indices, dtype=np.int64),
        np.array(times, dtype=np.int64),
        detections,
        evidence,
        resolution=resolution,
        cuts=cuts,
    )


def assemble_tracks(
    frame_index: npt.NDArray[np.int64],
    timestamps_ns: npt.NDArray[np.int64],
    detections: Sequence[HandDetections],
    evidence: Sequence[FrameEvidence],
    *,
    resolution: tuple[int, int],
    cuts: npt.NDArray[np.bool_] | None = None,
) -> HandObjectTracks:
    """Tracks from what was detected in every frame and what the frames say about contact.

    Args:
        frame_index: ``int64 [N]``.
        timestamps_ns: ``int64 [N]``.
        detections: One per frame.
        evidence: One per frame, of the same hands.
        resolution: Width and height of the frames in pixels.
        cuts: ``bool [N]``, frames on which a new scene begins.
    """
    width, height = resolution
    hands = track_wearer_hands(detections, timestamps_ns, width=width, height=height, cuts=cuts)
    tracks = {
        track.side: _with_states(track, timestamps_ns, detections, evidence, resolution)
        for track in (hands.left, hands.right)
    }
    return HandObjectTracks(
        frame_index=frame_index,
        timestamps_ns=timestamps_ns,
        resolution=resolution,
        left=tracks["left"],
        right=tracks["right"],
        other_hands=hands.other_hands,
    )


def _with_states(
    track: SideTrack,
    timestamps_ns: npt.NDArray[np.int64],
    detections: Sequence[HandDetections],
    evidence: Sequence[FrameEvidence],
    resolution: tuple[int, int],
) -> HandTrack:
    count = track.visible.size
    times_s = (timestamps_ns - (timestamps_ns[0] if count else 0)) / NANOSECONDS
    states: list[HandState | None] = [None] * count
    state_scores, contact_scores = np.full(count, np.nan), np.full(count, np.nan)
    objects = np.full((count, 4), np.nan)
    for run in track.runs:
        judged = judge_states(_signals(track, run, times_s, detections, evidence))
        states[run] = judged.states
        state_scores[run], contact_scores[run] = judged.state_scores, judged.contact_scores
        holds = np.array([state == "grasp" for state in judged.states])
        objects[run] = _object_boxes(track, run, holds, times_s, detections, evidence, resolution)
    return HandTrack(
        side=track.side,
        visible=track.visible.copy(),
        boxes_xyxy=track.boxes_xyxy.astype(np.float32),
        scores=track.scores.astype(np.float32),
        landmarks_xy=track.landmarks_xy.astype(np.float32),
        states=tuple(states),
        state_scores=state_scores.astype(np.float32),
        contact_boxes_xyxy=objects.astype(np.float32),
        contact_scores=contact_scores.astype(np.float32),
    )


def _signals(
    track: SideTrack,
    run: slice,
    times_s: FloatArray,
    detections: Sequence[HandDetections],
    evidence: Sequence[FrameEvidence],
) -> HandSignals:
    frames = range(run.start, run.stop)
    anchors = [_anchor(track, frame) for frame in frames]
    # Where a hand is in the scene as it lay in the first frame of the run.
    to_start = np.zeros(2)
    places = []
    for frame, (centre, _) in zip(frames, anchors, strict=True):
        scene_map = evidence[frame].scene_map
        if frame > run.start and scene_map is not None:
            to_start = to_start + scene_map @ np.append(centre, 1.0) - centre
        places.append(centre + to_start)
    flexion, together, speed, camera, distinct, contact = (np.full(len(frames), np.nan) for _ in range(6))
    for row, frame in enumerate(frames):
        if np.isfinite(track.landmarks_xy[frame]).all():
            flexion[row] = finger_flexion(track.landmarks_xy[frame]).mean()
        place = track.detection[frame]
        if place >= 0:
            seen = evidence[frame].hands[place]
            together[row], distinct[row] = seen.together, seen.distinct
            speed[row], camera[row] = seen.speed_palms, seen.camera_palms
            contact[row] = detections[frame].contact_scores[place]
    return HandSignals(
        times_s=times_s[run],
        places_xy=np.array(places),
        palm_px=float(np.median([palm for _, palm in anchors])),
        flexion=flexion,
        together=together,
        speed_palms=speed,
        camera_palms=camera,
        distinct=distinct,
        contact_scores=contact,
    )


def _anchor(track: SideTrack, frame: int) -> tuple[FloatArray, float]:
    """A place on the hand and a length that boxes are given relative to."""
    points = track.landmarks_xy[frame]
    if np.isfinite(points).all():
        return palm_centre(points), palm_length(points)
    box = track.boxes_xyxy[frame]
    return (box[:2] + box[2:]) / 2, max(float((box[2:] - box[:2]).max()) / 2, 1.0)


def _object_boxes(
    track: SideTrack,
    run: slice,
    holds: npt.NDArray[np.bool_],
    times_s: FloatArray,
    detections: Sequence[HandDetections],
    evidence: Sequence[FrameEvidence],
    resolution: tuple[int, int],
) -> FloatArray:
    """Box of the object in each frame of a run in which the hand holds one.

    An object keeps its place relative to the hand while it is held, so each box is the median, relative to the hand,
    of what the frames of the same grasp around it show.
    """
    count = run.stop - run.start
    relative = np.full((count, 4), np.nan)
    for row in np.flatnonzero(holds):
        frame = run.start + int(row)
        place = track.detection[frame]
        if place < 0:
            continue
        told = detections[frame].contact_boxes_xyxy[place].astype(np.float64)
        box = told if np.isfinite(told).all() else evidence[frame].hands[place].object_xyxy
        centre, palm = _anchor(track, frame)
        if np.isfinite(told).all() or (box[2:] - box[:2]).max() >= _MIN_OBJECT_PALMS * palm:
            relative[row] = (box - np.tile(centre, 2)) / palm
    boxes = np.full((count, 4), np.nan)
    grasp = np.cumsum(np.diff(np.concatenate([[False], holds]).astype(np.int8)) == 1)
    times, known = times_s[run], np.isfinite(relative).all(axis=1)
    limits = np.array([*resolution, *resolution], dtype=np.float64)
    for row in np.flatnonzero(holds):
        frame = run.start + int(row)
        around = known & holds & (grasp == grasp[row]) & (np.abs(times - times[row]) <= _OBJECT_WINDOW_S)
        centre, palm = _anchor(track, frame)
        if around.any():
            box = np.median(relative[around], axis=0) * palm + np.tile(centre, 2)
        else:
            box = _fingertip_box(track.landmarks_xy[frame], palm)
        box = np.clip(box, 0, limits)
        if np.isfinite(box).all() and (box[2:] - box[:2]).min() >= _MIN_BOX_PX:
            boxes[row] = box
    return boxes


def _fingertip_box(points: FloatArray, palm: float) -> FloatArray:
    tips = points[list(_FINGERTIPS)]
    margin = _FINGERTIP_MARGIN * palm
    return np.concatenate([tips.min(axis=0) - margin, tips.max(axis=0) + margin])


# ------------------------------------------------------------------ records


def record_of(tracks: HandObjectTracks, position: int) -> dict[str, Any]:
    """The JSON record of one covered frame; see :func:`validate_record` for its form."""
    record: dict[str, Any] = {
        "frame_index": int(tracks.frame_index[position]),
        "timestamp_ns": int(tracks.timestamps_ns[position]),
        "resolution": list(tracks.resolution),
    }
    for track in tracks.tracks:
        record[f"{track.side}_hand_state"] = track.states[position]
    for track in tracks.tracks:
        record[f"{track.side}_contact_object_bbox"] = _box(track.contact_boxes_xyxy[position])
    for track in tracks.tracks:
        side, seen = track.side, bool(track.visible[position])
        record[f"{side}_hand_bbox"] = _box(track.boxes_xyxy[position]) if seen else None
        record[f"{side}_hand_score"] = _score(track.scores[position])
        record[f"{side}_state_score"] = _score(track.state_scores[position])
        record[f"{side}_contact_score"] = _score(track.contact_scores[position])
        points = track.landmarks_xy[position].astype(np.float64)
        known = seen and np.isfinite(points).all()
        record[f"{side}_landmarks"] = np.round(points, _BOX_DIGITS).tolist() if known else None
    record["other_hands"] = int(tracks.other_hands[position])
    return record


def _box(box: npt.NDArray[np.float32]) -> list[float] | None:
    if not np.isfinite(box).all():
        return None
    return [round(float(value), _BOX_DIGITS) for value in box]


def _score(value: np.float32) -> float | None:
    return None if math.isnan(value) else round(float(value), _SCORE_DIGITS)


_SIDE_FIELDS = (
    "hand_state",
    "contact_object_bbox",
    "hand_bbox",
    "hand_score",
    "state_score",
    "contact_score",
    "landmarks",
)
_FIELDS = frozenset(
    {
        "frame_index",
        "timestamp_ns",
        "resolution",
        "other_hands",
        *(f"{side}_{field}" for side in HAND_SIDES for field in _SIDE_FIELDS),
    }
)


def validate_record(record: Mapping[str, Any]) -> list[str]:
    """What is wrong with a record; empty where nothing is.

    A record has exactly these fields: ``frame_index`` and ``timestamp_ns`` (integers of 0 or more), ``resolution``
    (width and height in pixels that all boxes and landmarks refer to), ``other_hands`` (integer of 0 or more), and for
    ``left`` and ``right``:

    - ``{side}_hand_state``: ``free``, ``pre-grasp``, ``grasp`` or ``post-release``; null where the hand is not visible,
    - ``{side}_hand_bbox``: ``[left, top, right, bottom]`` in pixels; null exactly where the hand is not visible,
    - ``{side}_contact_object_bbox``: the same for the object, null where there is none; only with ``grasp``,
    - ``{side}_hand_score``, ``{side}_state_score``, ``{side}_contact_score``: 0-1 or null,
    - ``{side}_landmarks``: 21 points ``[x, y]`` in pixels, which may lie outside the picture, or null.
    """
    problems = [f"{name} is missing" for name in sorted(_FIELDS - record.keys())]
    problems += [f"{name} is not known" for name in sorted(record.keys() - _FIELDS)]
    if problems:
        return problems
    for name in ("frame_index", "timestamp_ns", "other_hands"):
        if not _is_count(record[name]):
            problems.append(f"{name}: expected an integer of 0 or more, got {record[name]!r}")
    size = record["resolution"]
    if not (isinstance(size, list) and len(size) == 2 and all(_is_count(side) and side for side in size)):
        problems.append(f"resolution: expected two integers above 0, got {size!r}")
    for side in HAND_SIDES:
        problems += _side_problems(record, side)
    return problems


def _side_problems(record: Mapping[str, Any], side: HandSide) -> list[str]:
    problems = []
    state = record[f"{side}_hand_state"]
    if state is not None and state not in HAND_STATES:
        problems.append(f"{side}_hand_state: expected one of {HAND_STATES} or null, got {state!r}")
    for name in ("hand_bbox", "contact_object_bbox"):
        box = record[f"{side}_{name}"]
        if box is not None and not (_numbers(box, 4) and box[0] <= box[2] and box[1] <= box[3]):
            problems.append(f"{side}_{name}: expected [left, top, right, bottom] or null, got {box!r}")
    if (state is None) != (record[f"{side}_hand_bbox"] is None):
        problems.append(f"{side}_hand_bbox: expected a box exactly where there is a state")
    if record[f"{side}_contact_object_bbox"] is not None and state != "grasp":
        problems.append(f"{side}_contact_object_bbox: expected null in state {state!r}")
    for name in ("hand_score", "state_score", "contact_score"):
        score = record[f"{side}_{name}"]
        if score is not None and not (_is_number(score) and 0 <= score <= 1):
            problems.append(f"{side}_{name}: expected 0-1 or null, got {score!r}")
    points = record[f"{side}_landmarks"]
    if points is not None and not (
        isinstance(points, list)
        and len(points) == LANDMARK_COUNT
        and all(_numbers(point, 2) for point in points)
    ):
        problems.append(f"{side}_landmarks: expected {LANDMARK_COUNT} points [x, y] or null")
    return problems


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _numbers(value: object, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(_is_number(each) for each in value)


# ------------------------------------------------------------------ files


def write_tracks(tracks: HandObjectTracks, archive: Path, index: Path) -> None:
    """Write one record per covered frame into an archive with its index."""
    with FrameArchiveWriter(archive, index) as writer:
        for position in range(tracks.frame_index.size):
            record = record_of(tracks, position)
            data = json.dumps(record, separators=(",", ":"), allow_nan=False).encode()
            writer.add(record["frame_index"], record["timestamp_ns"], data, extension="json")


def read_records(read: Callable[[str], bytes]) -> list[dict[str, Any]]:
    """The stored records in frame order.

    Args:
        read: Returns the content of a file of the layer.

    Raises:
        ArtifactCorrupted: The archive or a record cannot be read.
    """
    archive = FrameArchive(io.BytesIO(read(ARCHIVE)), FrameArchiveIndex.read(io.BytesIO(read(INDEX))))
    records = []
    for entry in archive:
        try:
            record = json.loads(archive.read(entry.frame_index))
        except ValueError as error:
            raise ArtifactCorrupted(
                f"{entry.name} of hand_object is not JSON ({error}): make the layer again."
            ) from error
        if not isinstance(record, dict):
            raise ArtifactCorrupted(f"{entry.name} of hand_object is no record: make the layer again.")
        records.append(record)
    return records


def read_tracks(read: Callable[[str], bytes]) -> HandObjectTracks:
    """The tracks of a committed layer; numbers are as precise as the records: 0.1 pixel, scores 0.0001.

    Args:
        read: Returns the content of a file of the layer.

    Raises:
        ArtifactCorrupted: The archive or a record cannot be read.
    """
    records = read_records(read)
    for record in records:
        problems = validate_record(record)
        if problems:
            raise ArtifactCorrupted(
                f"A record of hand_object is damaged ({problems[0]}): make the layer again."
            )
    sizes = {tuple(record["resolution"]) for record in records}
    if len(sizes) != 1:
        raise ArtifactCorrupted(
            f"The records of hand_object name {len(sizes)} resolutions, expected one: make the layer again."
        )
    return HandObjectTracks(
        frame_index=np.array([record["frame_index"] for record in records], dtype=np.int64),
        timestamps_ns=np.array([record["timestamp_ns"] for record in records], dtype=np.int64),
        resolution=sizes.pop(),
        left=_read_track(records, "left"),
        right=_read_track(records, "right"),
        other_hands=np.array([record["other_hands"] for record in records], dtype=np.int64),
    )


def _read_track(records: Sequence[Mapping[str, Any]], side: HandSide) -> HandTrack:
    def numbers(field: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        empty = np.full(shape, np.nan)
        values = [record[f"{side}_{field}"] for record in records]
        return np.array([empty if value is None else value for value in values], dtype=np.float32).reshape(
            len(records), *shape
        )

    states = tuple(record[f"{side}_hand_state"] for record in records)
    return HandTrack(
        side=side,
        visible=np.array([state is not None for state in states], dtype=np.bool_),
        boxes_xyxy=numbers("hand_bbox", (4,)),
        scores=numbers("hand_score", ()),
        landmarks_xy=numbers("landmarks", (LANDMARK_COUNT, 2)),
        states=states,
        state_scores=numbers("state_score", ()),
        contact_boxes_xyxy=numbers("contact_object_bbox", (4,)),
        contact_scores=numbers("contact_score", ()),
    )


# ------------------------------------------------------------------ verdicts


@dataclass(frozen=True, kw_only=True)
class RecordCheck:
    """What the stored records are like, for the gates.

    Attributes:
        verdicts: One row per record: frame, time and whether each of :data:`CRITERIA` holds.
        first_problem: What is wrong with the first bad record; empty where none is.
        boxes: Boxes of hands and objects.
        boxes_outside: Those that leave the picture.
        steps: Pairs of neighbouring records in which a hand is visible, counted per hand.
        illegal_steps: Those that no hand can go through.
        state_counts: How often each state occurs, both hands together.
    """

    verdicts: pa.Table
    first_problem: str
    boxes: int
    boxes_outside: int
    steps: int
    illegal_steps: int
    state_counts: Mapping[str, int]

    def share(self, criterion: str) -> float | None:
        """Share of the records for which a criterion holds; ``None`` without records."""
        values = self.verdicts[criterion].to_numpy(zero_copy_only=False)
        return float(values.mean()) if values.size else None

    def count(self, criterion: str) -> int:
        """Number of records for which a criterion holds."""
        return int(self.verdicts[criterion].to_numpy(zero_copy_only=False).sum())


def check_records(records: Sequence[Mapping[str, Any]]) -> RecordCheck:
    """Judge every stored record by itself, and its states against the record before."""
    columns: dict[str, list[bool]] = {name: [] for name in CRITERIA}
    first_problem = ""
    boxes = outside = steps = illegal = 0
    counts: dict[str, int] = dict.fromkeys(HAND_STATES, 0)
    before: Mapping[str, Any] | None = None
    for number, record in enumerate(records):
        problems = validate_record(record)
        if problems:
            first_problem = first_problem or f"record {number}: {problems[0]}"
            for name in CRITERIA:
                columns[name].append(False)
            before = None
            continue
        here = [box for side in HAND_SIDES for box in _boxes_of(record, side)]
        leaving = sum(not _inside(box, record["resolution"]) for box in here)
        states = [record[f"{side}_hand_state"] for side in HAND_SIDES]
        pairs = (
            []
            if before is None
            else [
                (before[f"{side}_hand_state"], state) for side, state in zip(HAND_SIDES, states, strict=True)
            ]
        )
        wrong = sum(not is_legal(earlier, later) for earlier, later in pairs)
        for state in states:
            if state is not None:
                counts[state] += 1
        boxes, outside = boxes + len(here), outside + leaving
        steps += sum(earlier is not None and later is not None for earlier, later in pairs)
        illegal += wrong
        columns["record_valid"].append(True)
        columns["boxes_inside"].append(leaving == 0)
        columns["states_legal"].append(wrong == 0)
        columns["hand_visible"].append(any(state is not None for state in states))
        before = record
    table = pa.table(
        {
            "frame_index": pa.array([_whole(record.get("frame_index")) for record in records], pa.int64()),
            "timestamp_ns": pa.array([_whole(record.get("timestamp_ns")) for record in records], pa.int64()),
            **{name: pa.array(values, pa.bool_()) for name, values in columns.items()},
        }
    )
    return RecordCheck(
        verdicts=table,
        first_problem=first_problem,
        boxes=boxes,
        boxes_outside=outside,
        steps=steps,
        illegal_steps=illegal,
        state_counts=counts,
    )


def write_verdicts(check: RecordCheck, path: Path) -> None:
    """Write the verdict per frame."""
    pq.write_table(check.verdicts, path)


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _boxes_of(record: Mapping[str, Any], side: HandSide) -> list[list[float]]:
    found = (record[f"{side}_hand_bbox"], record[f"{side}_contact_object_bbox"])
    return [box for box in found if box is not None]


def _inside(box: Sequence[float], resolution: Sequence[int]) -> bool:
    width, height = resolution
    return 0 <= box[0] <= box[2] <= width and 0 <= box[1] <= box[3] <= height
