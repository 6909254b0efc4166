"""The record of one frame of the hand-object layer: how it is written, what makes it valid, what all of them show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ego_assets.labels.hand_states import is_legal
from ego_assets.schema.arrays import read_only
from ego_assets.schema.hands import (
    HAND_SIDES,
    HAND_STATES,
    LANDMARK_COUNT,
    HandObjectTracks,
    HandSide,
    HandState,
)

#: Records give pixels to a tenth and scores to a ten-thousandth.
_BOX_DIGITS, _SCORE_DIGITS = 1, 4


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
    - ``{side}_hand_score``, ``{side}_state_score``, ``{side}_contact_score``: 0-1 or null; the state's score tells how
      sure contact is in ``grasp`` and its absence in ``free``, and may be null in the other two states,
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


@dataclass(frozen=True, eq=False, kw_only=True)
class RecordCheck:
    """What the stored records are like, for the gates; arrays have one value per record.

    Attributes:
        is_valid: ``bool [N]``, as :func:`validate_record` says; what is not is judged by nothing else.
        boxes_inside: ``bool [N]``, whether no box leaves the picture.
        has_step: ``bool [N]``, whether a hand is visible here and in the record before.
        step_is_legal: ``bool [N]``, whether every such hand can get from its state there to that here.
        has_hand: ``bool [N]``, whether a hand of the wearer is visible.
        first_problem: What is wrong with the first bad record; empty where none is.
        boxes: Boxes of hands and objects.
        boxes_outside: Those that leave the picture.
        steps: Pairs of neighbouring records in which a hand is visible, counted per hand.
        illegal_steps: Those that no hand can go through.
        state_counts: How often each state occurs, both hands together.
    """

    is_valid: npt.NDArray[np.bool_]
    boxes_inside: npt.NDArray[np.bool_]
    has_step: npt.NDArray[np.bool_]
    step_is_legal: npt.NDArray[np.bool_]
    has_hand: npt.NDArray[np.bool_]
    first_problem: str
    boxes: int
    boxes_outside: int
    steps: int
    illegal_steps: int
    state_counts: Mapping[str, int]

    def __post_init__(self) -> None:
        for name in ("is_valid", "boxes_inside", "has_step", "step_is_legal", "has_hand"):
            values = getattr(self, name)
            if values.shape != self.is_valid.shape or values.ndim != 1:
                raise ValueError(f"{name}: expected [{self.is_valid.size}], got {list(values.shape)}")
            object.__setattr__(self, name, read_only(values))

    @property
    def hand_share(self) -> float:
        """Share of the valid records with a hand of the wearer, 0-1; 0 without such records."""
        return float(self.has_hand[self.is_valid].mean()) if self.is_valid.any() else 0.0


def check_records(records: Sequence[Mapping[str, Any]]) -> RecordCheck:
    """Judge every stored record by itself, and its states against the record before."""
    names = ("is_valid", "boxes_inside", "has_step", "step_is_legal", "has_hand")
    columns = {name: np.zeros(len(records), np.bool_) for name in names}
    first_problem = ""
    boxes = outside = steps = illegal = 0
    counts: dict[str, int] = dict.fromkeys(HAND_STATES, 0)
    before: Mapping[str, Any] | None = None
    for number, record in enumerate(records):
        problems = validate_record(record)
        if problems:
            first_problem = first_problem or f"record {number}: {problems[0]}"
            before = None
            continue
        here = [box for side in HAND_SIDES for box in _boxes_of(record, side)]
        leaving = sum(not _inside(box, record["resolution"]) for box in here)
        states = [record[f"{side}_hand_state"] for side in HAND_SIDES]
        taken = _steps(before, record)
        wrong = sum(not is_legal(earlier, later) for earlier, later in taken)
        for state in states:
            if state is not None:
                counts[state] += 1
        boxes, outside = boxes + len(here), outside + leaving
        steps, illegal = steps + len(taken), illegal + wrong
        columns["is_valid"][number] = True
        columns["boxes_inside"][number] = leaving == 0
        columns["has_step"][number] = bool(taken)
        columns["step_is_legal"][number] = wrong == 0
        columns["has_hand"][number] = any(state is not None for state in states)
        before = record
    return RecordCheck(
        **columns,
        first_problem=first_problem,
        boxes=boxes,
        boxes_outside=outside,
        steps=steps,
        illegal_steps=illegal,
        state_counts=counts,
    )


def _steps(before: Mapping[str, Any] | None, record: Mapping[str, Any]) -> list[tuple[HandState, HandState]]:
    """The states before and now of every hand that is visible in both records."""
    if before is None:
        return []
    pairs = [(before[f"{side}_hand_state"], record[f"{side}_hand_state"]) for side in HAND_SIDES]
    return [(earlier, later) for earlier, later in pairs if earlier is not None and later is not None]


def _boxes_of(record: Mapping[str, Any], side: HandSide) -> list[list[float]]:
    found = (record[f"{side}_hand_bbox"], record[f"{side}_contact_object_bbox"])
    return [box for box in found if box is not None]


def _inside(box: Sequence[float], resolution: Sequence[int]) -> bool:
    width, height = resolution
    return 0 <= box[0] <= box[2] <= width and 0 <= box[1] <= box[3] <= height
