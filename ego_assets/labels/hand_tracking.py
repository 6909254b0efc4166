"""Which detections are the wearer's left and right hand, frame by frame.

Detections are linked into tracklets by position and size. Each tracklet is judged as a whole, because single frames are
often misjudged: is it the wearer's, and which side is it? The wearer's forearms come from below, the right one from the
right; hands of others come from above or from the side, and are smaller. That is surer in first-person pictures than
what a detector trained on pictures of people says, so the detector's own opinion about the side is one vote among
several.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from ego_assets.labels.hands import (
    MAX_GAP_S,
    FloatArray,
    forearm_direction,
    hand_box,
    palm_centre,
    palm_length,
    smooth_landmarks,
)
from ego_assets.schema.hands import HAND_SIDES, LANDMARK_COUNT, HandDetections, HandSide
from ego_assets.schema.timeline import NANOSECONDS

# A hand reaches 1 to 2 m/s, one palm length (10 cm) or two in a tenth of a second; the prediction takes most of it.
_MAX_STEP_PALMS = 2.0
_MAX_SIZE_RATIO = 1.8
_FORBIDDEN_COST = 1e6
# A hand that is lost for longer is still the same one when it is found at the place where it was.
_STITCH_GAP_S, _STITCH_PALMS = 1.5, 1.0
# One sighting alone must be this sure; detectors find hands in single frames of any texture.
_SURE_ALONE = 0.75

# Votes are log-odds; their sizes say how much each is worth, in the order in which first-person hands obey them.
_MAX_LOG_ODDS = 4.6
_SIDE_BY_EXIT, _SIDE_BY_LEAN, _SIDE_BY_PLACE, _SIDE_BY_NEIGHBOUR = 2.5, 1.2, 1.2, 1.5
# The wrist of a bent hand says little about its forearm; the wearer's comes from below, which this adds to the unit
# vector along the forearm.
_DOWNWARDS = 0.7
# A neighbour that is seen this often has a whole vote.
_SETTLED_SIGHTINGS = 10
_WEARER_BY_FOREARM, _WEARER_BY_EXIT, _WEARER_BY_HEIGHT, _WEARER_BY_SIZE = 2.5, 2.0, 1.5, 3.5
# Palm of a hand at arm's length, as share of the picture's mean side: 10 cm at 0.6 m under a field of view of 90
# degrees make 0.08; beyond a table, at 1.2 m, half of that.
_WEARER_PALM_SHARE = 0.055
# Where a hand may be taken for the other side because its own is occupied: below this it has no firm opinion.
_FIRM_LOG_ODDS = 3.0
# Share of its frames in which a tracklet may meet a stronger one of its side before it counts as another hand.
_MAX_CONFLICT_SHARE = 0.3


@dataclass(frozen=True, eq=False, kw_only=True)
class SideTrack:
    """One hand of the wearer before its state is known; NaN where it is not visible.

    Attributes:
        side: Whose left or right.
        detection: ``int64 [N]``, place of the detection among those of the frame; -1 where there is none.
        visible: ``bool [N]``, also true over gaps that were bridged.
        boxes_xyxy: ``float64 [N, 4]``, inside the picture.
        scores: ``float64 [N]``.
        landmarks_xy: ``float64 [N, 21, 2]``, smoothed.
    """

    side: HandSide
    detection: npt.NDArray[np.int64]
    visible: npt.NDArray[np.bool_]
    boxes_xyxy: FloatArray
    scores: FloatArray
    landmarks_xy: FloatArray

    @property
    def runs(self) -> list[slice]:
        """Stretches of frames without interruption in which the hand is visible."""
        edges = np.flatnonzero(np.diff(np.concatenate([[False], self.visible, [False]]).astype(np.int8)))
        return [slice(int(start), int(end)) for start, end in zip(edges[::2], edges[1::2], strict=True)]


@dataclass(frozen=True, eq=False, kw_only=True)
class WearerHands:
    """The wearer's two hands, and how many others each frame shows (``int64 [N]``)."""

    left: SideTrack
    right: SideTrack
    other_hands: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Sighting:
    """One detection with what its tracklet is judged by."""

    frame: int
    place: int
    centre: FloatArray
    size: float
    score: float
    right: float
    wearer: float


@dataclass(eq=False)
class _Tracklet:
    sightings: list[_Sighting] = field(default_factory=list)
    neighbour_votes: float = 0.0

    @property
    def last(self) -> _Sighting:
        return self.sightings[-1]

    @property
    def weight(self) -> float:
        return sum(sighting.score for sighting in self.sightings)

    @property
    def wearer(self) -> float:
        return float(np.mean([sighting.wearer for sighting in self.sightings]))

    @property
    def right(self) -> float:
        """Log-odds of being the right hand."""
        return float(np.mean([sighting.right for sighting in self.sightings])) + self.neighbour_votes / len(
            self.sightings
        )

    @property
    def is_credible(self) -> bool:
        return len(self.sightings) > 1 or self.last.score >= _SURE_ALONE

    def expected_centre(self, time_s: float, times_s: FloatArray) -> FloatArray:
        """Where it should be, if it went on as over its last two sightings."""
        if len(self.sightings) < 2:
            return self.last.centre
        before, last = self.sightings[-2:]
        passed = times_s[last.frame] - times_s[before.frame]
        ahead = min((time_s - times_s[last.frame]) / max(passed, 1e-6), 2.0)
        # Half the step: hands turn back as often as they go on.
        return np.asarray(last.centre + 0.5 * ahead * (last.centre - before.centre))


def track_wearer_hands(
    detections: Sequence[HandDetections],
    timestamps_ns: npt.NDArray[np.int64],
    *,
    width: int,
    height: int,
    cuts: npt.NDArray[np.bool_] | None = None,
) -> WearerHands:
    """Find the wearer's hands among all detections of a clip.

    Args:
        detections: One per frame.
        timestamps_ns: ``int64 [N]``, ascending.
        width: Width of the frames in pixels.
        height: Height of the frames in pixels.
        cuts: ``bool [N]``, frames on which a new scene begins: no hand is carried over into them.
    """
    if len(detections) != timestamps_ns.size:
        raise ValueError(f"detections: expected {timestamps_ns.size}, got {len(detections)}")
    times_s = (timestamps_ns - (timestamps_ns[0] if timestamps_ns.size else 0)) / NANOSECONDS
    scenes = np.zeros(len(detections), np.int64) if cuts is None else np.cumsum(cuts, dtype=np.int64)
    tracklets = [
        tracklet
        for tracklet in _stitch(
            _link(_sightings(detections, width, height), times_s, scenes), times_s, scenes
        )
        if tracklet.is_credible or len(detections) == 1
    ]
    _vote_among_neighbours(tracklets)
    chosen = {side: np.full(len(detections), -1, np.int64) for side in HAND_SIDES}
    other_hands = np.zeros(len(detections), np.int64)
    for tracklet in sorted(tracklets, key=lambda each: (-each.weight, each.sightings[0].frame)):
        frames = np.array([sighting.frame for sighting in tracklet.sightings])
        places = np.array([sighting.place for sighting in tracklet.sightings])
        side = _free_side(tracklet, frames, chosen)
        if side is None:
            other_hands[frames] += 1
            continue
        free = chosen[side][frames] < 0
        chosen[side][frames[free]] = places[free]
        other_hands[frames[~free]] += 1
    tracks = {
        side: _side_track(side, detections, chosen[side], times_s, scenes, width, height)
        for side in HAND_SIDES
    }
    return WearerHands(left=tracks["left"], right=tracks["right"], other_hands=other_hands)


def _sightings(detections: Sequence[HandDetections], width: int, height: int) -> list[list[_Sighting]]:
    return [
        [_sighting(frame, place, found, width, height) for place in range(len(found))]
        for frame, found in enumerate(detections)
    ]


def _sighting(frame: int, place: int, found: HandDetections, width: int, height: int) -> _Sighting:
    points = found.landmarks_xy[place].astype(np.float64)
    box = found.boxes_xyxy[place].astype(np.float64)
    if np.isfinite(points).all():
        centre, size, forearm = palm_centre(points), palm_length(points), forearm_direction(points)
    else:
        # A palm is a little less than half as long as the box around a hand.
        centre = (box[:2] + box[2:]) / 2
        size = max(0.45 * math.sqrt(max(float((box[2:] - box[:2]).prod()), 1.0)), 1.0)
        forearm = np.zeros(2)
    right, wearer = _votes(centre, size, forearm, width=width, height=height)
    opinion = float(found.right_scores[place])
    if math.isfinite(opinion):
        right += _log_odds(opinion)
    limit = _MAX_LOG_ODDS
    return _Sighting(
        frame=frame,
        place=place,
        centre=centre,
        size=size,
        score=float(found.scores[place]),
        right=min(max(right, -limit), limit),
        wearer=min(max(wearer, -limit), limit),
    )


def _votes(
    centre: FloatArray, size: float, forearm: FloatArray, *, width: int, height: int
) -> tuple[float, float]:
    """Log-odds of being a right hand and of being the wearer's, from where a hand is and where its forearm lies."""
    x, y = 2 * centre[0] / width - 1, 2 * centre[1] / height - 1
    mean_side = math.sqrt(width * height)
    nearness = min(max(math.log2(size / (_WEARER_PALM_SHARE * mean_side)), -1.5), 1.5)
    right = _SIDE_BY_PLACE * x
    wearer = _WEARER_BY_SIZE * nearness + _WEARER_BY_HEIGHT * y
    if not forearm.any():
        return right, wearer
    elbow_x, _ = _exit(centre, forearm + np.array([0, _DOWNWARDS]), width=width, height=height)
    right += _SIDE_BY_LEAN * float(forearm[0]) + _SIDE_BY_EXIT * elbow_x
    # The higher a forearm leaves the picture, the less it can be the wearer's.
    _, exit_y = _exit(centre, forearm, width=width, height=height)
    wearer += _WEARER_BY_FOREARM * float(forearm[1]) + _WEARER_BY_EXIT * (exit_y - 0.2)
    return right, wearer


def _exit(centre: FloatArray, forearm: FloatArray, *, width: int, height: int) -> tuple[float, float]:
    """Where the forearm leaves the picture, each coordinate from -1 (left, top) to 1 (right, bottom)."""
    half = np.array([width, height], dtype=np.float64) / 2
    start = np.clip((centre - half) / half, -1, 1)
    step = forearm / half
    reach = [
        (math.copysign(1.0, float(step[axis])) - float(start[axis])) / float(step[axis])
        for axis in (0, 1)
        if abs(step[axis]) > 1e-9
    ]
    out = np.clip(start + min(reach) * step, -1, 1)
    return float(out[0]), float(out[1])


def _log_odds(probability: float) -> float:
    probability = min(max(probability, 0.01), 0.99)
    return math.log(probability / (1 - probability))


def _link(
    frames: Sequence[list[_Sighting]], times_s: FloatArray, scenes: npt.NDArray[np.int64]
) -> list[_Tracklet]:
    """Tracklets in the order in which they begin."""
    finished: list[_Tracklet] = []
    active: list[_Tracklet] = []
    for frame, sightings in enumerate(frames):
        now = float(times_s[frame])
        still: list[_Tracklet] = []
        for tracklet in active:
            known = tracklet.last.frame
            # One frame may always be bridged to the next, however slowly frames follow one another.
            recent = now - times_s[known] <= MAX_GAP_S or frame - known == 1
            (still if recent and scenes[known] == scenes[frame] else finished).append(tracklet)
        active = still
        unlinked = set(range(len(sightings)))
        if active and sightings:
            costs = np.array([[_cost(each, new, now, times_s) for new in sightings] for each in active])
            for row, column in zip(*linear_sum_assignment(costs), strict=True):
                if costs[row, column] < _FORBIDDEN_COST:
                    active[row].sightings.append(sightings[column])
                    unlinked.discard(int(column))
        active.extend(_Tracklet([sightings[number]]) for number in sorted(unlinked))
    return sorted([*finished, *active], key=lambda each: (each.sightings[0].frame, each.sightings[0].place))


def _stitch(
    tracklets: Sequence[_Tracklet], times_s: FloatArray, scenes: npt.NDArray[np.int64]
) -> list[_Tracklet]:
    """Join tracklets of a hand that was lost for a while and found again where it had been."""
    joined: list[_Tracklet] = []
    for tracklet in tracklets:
        first = tracklet.sightings[0]
        nearest, distance = None, _STITCH_PALMS
        for earlier in joined:
            last = earlier.last
            gap_s = times_s[first.frame] - times_s[last.frame]
            if not 0 < gap_s <= _STITCH_GAP_S or scenes[first.frame] != scenes[last.frame]:
                continue
            apart = float(np.linalg.norm(first.centre - last.centre)) / max(first.size, last.size)
            ratio = max(first.size, last.size) / min(first.size, last.size)
            if apart < distance and ratio <= _MAX_SIZE_RATIO:
                nearest, distance = earlier, apart
        if nearest is None:
            joined.append(_Tracklet(list(tracklet.sightings)))
        else:
            nearest.sightings.extend(tracklet.sightings)
    return joined


def _cost(tracklet: _Tracklet, new: _Sighting, now: float, times_s: FloatArray) -> float:
    """How badly a sighting continues a tracklet, in palms."""
    ratio = max(new.size, tracklet.last.size) / min(new.size, tracklet.last.size)
    missed = max(new.frame - tracklet.last.frame, 1)
    apart = float(np.linalg.norm(new.centre - tracklet.expected_centre(now, times_s)))
    apart /= max(new.size, tracklet.last.size)
    if ratio > _MAX_SIZE_RATIO or apart > _MAX_STEP_PALMS * math.sqrt(missed):
        return _FORBIDDEN_COST
    return apart + math.log(ratio)


def _vote_among_neighbours(tracklets: Sequence[_Tracklet]) -> None:
    """Of two hands of the wearer in one frame, the one whose forearm comes from farther right is the right one."""
    by_frame: dict[int, list[tuple[_Tracklet, float]]] = {}
    for tracklet in tracklets:
        if tracklet.wearer > 0:
            for sighting in tracklet.sightings:
                by_frame.setdefault(sighting.frame, []).append((tracklet, sighting.right))
    for seen in by_frame.values():
        if len(seen) == 2:
            (a, a_right), (b, b_right) = seen
            vote = _SIDE_BY_NEIGHBOUR * min(max(a_right - b_right, -1.0), 1.0)
            a.neighbour_votes += vote * min(len(b.sightings) / _SETTLED_SIGHTINGS, 1.0)
            b.neighbour_votes -= vote * min(len(a.sightings) / _SETTLED_SIGHTINGS, 1.0)


def _free_side(
    tracklet: _Tracklet, frames: npt.NDArray[np.int64], chosen: dict[HandSide, npt.NDArray[np.int64]]
) -> HandSide | None:
    """The side a tracklet takes; ``None`` where it is another person's, or where both are taken."""
    if tracklet.wearer <= 0:
        return None
    preferred: HandSide = "right" if tracklet.right > 0 else "left"
    opposite: HandSide = "left" if preferred == "right" else "right"
    if np.mean(chosen[preferred][frames] >= 0) <= _MAX_CONFLICT_SHARE:
        return preferred
    if abs(tracklet.right) < _FIRM_LOG_ODDS and not (chosen[opposite][frames] >= 0).any():
        return opposite
    return None


def _side_track(
    side: HandSide,
    detections: Sequence[HandDetections],
    chosen: npt.NDArray[np.int64],
    times_s: FloatArray,
    scenes: npt.NDArray[np.int64],
    width: int,
    height: int,
) -> SideTrack:
    count = len(detections)
    boxes, scores = np.full((count, 4), np.nan), np.full(count, np.nan)
    landmarks = np.full((count, LANDMARK_COUNT, 2), np.nan)
    for frame in np.flatnonzero(chosen >= 0):
        found, place = detections[frame], chosen[frame]
        boxes[frame], scores[frame] = found.boxes_xyxy[place], found.scores[place]
        landmarks[frame] = found.landmarks_xy[place]
    visible = chosen >= 0
    seen = np.flatnonzero(visible)
    for before, after in pairwise(seen.tolist()):
        if after - before > 1 and _bridges(before, after, boxes, times_s, scenes):
            _interpolate(before, after, times_s, boxes, landmarks, scores)
            visible[before : after + 1] = True
    track = SideTrack(
        side=side,
        detection=chosen,
        visible=visible,
        boxes_xyxy=boxes,
        scores=scores,
        landmarks_xy=landmarks,
    )
    for run in track.runs:
        if np.isfinite(landmarks[run]).all():
            landmarks[run] = smooth_landmarks(landmarks[run], times_s[run])
            for frame in range(run.start, run.stop):
                boxes[frame] = hand_box(landmarks[frame], width=width, height=height)
    boxes[visible] = np.clip(boxes[visible], 0, [width, height, width, height])
    return track


def _bridges(
    before: int, after: int, boxes: FloatArray, times_s: FloatArray, scenes: npt.NDArray[np.int64]
) -> bool:
    """Whether a hand was only missed between two sightings: a short time, one scene, about one place."""
    if times_s[after] - times_s[before] > MAX_GAP_S + 1e-9 or scenes[before] != scenes[after]:
        return False
    sides = [math.sqrt(max(float((boxes[f, 2:] - boxes[f, :2]).prod()), 1.0)) for f in (before, after)]
    centres = [(boxes[f, :2] + boxes[f, 2:]) / 2 for f in (before, after)]
    return float(np.linalg.norm(centres[1] - centres[0])) <= max(sides)


def _interpolate(
    before: int,
    after: int,
    times_s: FloatArray,
    boxes: FloatArray,
    landmarks: FloatArray,
    scores: FloatArray,
) -> None:
    """Fill a gap in place, with half the score of the weaker sighting beside it."""
    for frame in range(before + 1, after):
        share = (times_s[frame] - times_s[before]) / (times_s[after] - times_s[before])
        boxes[frame] = (1 - share) * boxes[before] + share * boxes[after]
        landmarks[frame] = (1 - share) * landmarks[before] + share * landmarks[after]
        scores[frame] = min(scores[before], scores[after]) / 2
