"""From detections on some frames to regions on all frames.

Detections are linked to tracks, gaps are filled, and both ends are extended, so that a region that was found
once stays covered until it has left. All boxes are xyxy in pixels of the upright full-size picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ego_assets.privacy.config import PrivacyConfig
from ego_assets.schema.arrays import read_only
from ego_assets.schema.detections import Detections, iou_matrix
from ego_assets.schema.timeline import NANOSECONDS

FloatBoxes = npt.NDArray[np.float32]

#: Two boxes whose areas differ by more are not linked without overlap.
_REACH_AREA_RATIO = 2.0


@dataclass(frozen=True, eq=False)
class FrameDetections:
    """What a detector found on one examined frame; also kept where it found nothing.

    Attributes:
        frame_index: The frame.
        detections: Boxes in pixels of the upright full-size picture.
    """

    frame_index: int
    detections: Detections


@dataclass(frozen=True, eq=False, kw_only=True)
class Track:
    """One region over time.

    Attributes:
        track_id: Unique within the clip, from 1.
        kind: Task of the detector: ``faces``, ``text``, ``plates``.
        frame_indices: ``int64 [N]``, covered frames, ascending.
        boxes_xyxy: ``float32 [N, 4]``, the region without margin, clipped to the picture.
        scores: ``float32 [N]``; between and beyond detections carried over from them.
        observed: ``bool [N]``, whether the detector found the region on that very frame.
    """

    track_id: int
    kind: str
    frame_indices: npt.NDArray[np.int64]
    boxes_xyxy: FloatBoxes
    scores: npt.NDArray[np.float32]
    observed: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        count = self.frame_indices.size
        if self.boxes_xyxy.shape != (count, 4):
            raise ValueError(f"boxes_xyxy: expected [{count}, 4], got {list(self.boxes_xyxy.shape)}")
        if self.scores.shape != (count,) or self.observed.shape != (count,):
            raise ValueError(
                f"scores and observed: expected [{count}], got {list(self.scores.shape)}, {list(self.observed.shape)}"
            )
        if count > 1 and bool(np.any(np.diff(self.frame_indices) <= 0)):
            raise ValueError("frame_indices: expected ascending unique indices")
        for name in ("frame_indices", "boxes_xyxy", "scores", "observed"):
            object.__setattr__(self, name, read_only(getattr(self, name)))


class RegionIndex:
    """Boxes of all tracks by frame.

    Args:
        tracks: The tracks.
    """

    def __init__(self, tracks: Iterable[Track]) -> None:
        listed = list(tracks)
        frames = np.concatenate([np.zeros(0, np.int64), *(track.frame_indices for track in listed)])
        boxes = np.concatenate([np.zeros((0, 4), np.float32), *(track.boxes_xyxy for track in listed)])
        order = np.argsort(frames, kind="stable")
        self._frames, self._boxes = frames[order], boxes[order]

    def boxes_at(self, frame_index: int) -> FloatBoxes:
        """``float32 [N, 4]``, all regions of one frame."""
        first, last = np.searchsorted(self._frames, [frame_index, frame_index + 1]).tolist()
        return np.asarray(self._boxes[first:last], dtype=np.float32)


@dataclass
class _OpenTrack:
    """A track that may still be continued: its detections so far."""

    frames: list[int]
    times_ns: list[int]
    boxes: list[FloatBoxes]
    scores: list[float]

    def add(self, frame: int, time_ns: int, box: FloatBoxes, score: float) -> None:
        self.frames.append(frame)
        self.times_ns.append(time_ns)
        self.boxes.append(box)
        self.scores.append(score)

    def predicted(self, time_ns: int) -> FloatBoxes:
        """Where the region would be if it kept its velocity."""
        if len(self.boxes) < 2:
            return self.boxes[-1]
        velocity = _velocity(self.boxes[-2], self.boxes[-1], self.times_ns[-1] - self.times_ns[-2])
        moved = self.boxes[-1] + _shift(velocity * (time_ns - self.times_ns[-1]))
        return np.asarray(moved, dtype=np.float32)


def build_tracks(
    examined: Sequence[FrameDetections],
    *,
    kind: str,
    timestamps_ns: npt.NDArray[np.int64],
    width: int,
    height: int,
    config: PrivacyConfig,
    first_track_id: int = 1,
) -> list[Track]:
    """Link the detections of one kind and cover every frame in which a region may be visible.

    A track covers all frames from its first to its last detection. At both ends it goes on to the nearest
    examined frame without it, and by the configured margin further; there the box is the union of the place
    where it was seen last and of where its velocity takes it.

    Args:
        examined: Examined frames in ascending order, including those without detections.
        kind: Task of the detector.
        timestamps_ns: ``int64 [frames]``, presentation time of every frame of the clip.
        width: Width of the upright picture in pixels.
        height: Height of the upright picture in pixels.
        config: Thresholds and margins.
        first_track_id: Number of the first track.

    Returns:
        Tracks in the order in which they begin.
    """
    examined_frames = np.array([entry.frame_index for entry in examined], dtype=np.int64)
    if examined_frames.size > 1 and bool(np.any(np.diff(examined_frames) <= 0)):
        raise ValueError("examined: expected ascending unique frame indices")
    tracks: list[Track] = []
    for linked in _link(examined, timestamps_ns, config):
        track = _fill(
            linked,
            kind=kind,
            track_id=first_track_id + len(tracks),
            examined_frames=examined_frames,
            timestamps_ns=timestamps_ns,
            size=(width, height),
            config=config,
        )
        if track.frame_indices.size:
            tracks.append(track)
    return tracks


def _link(
    examined: Sequence[FrameDetections], timestamps_ns: npt.NDArray[np.int64], config: PrivacyConfig
) -> list[_OpenTrack]:
    finished: list[_OpenTrack] = []
    active: list[_OpenTrack] = []
    max_gap_ns = config.track_max_gap_s * NANOSECONDS
    for entry in examined:
        time_ns = int(timestamps_ns[entry.frame_index])
        kept = [track for track in active if time_ns - track.times_ns[-1] <= max_gap_ns]
        finished.extend(track for track in active if time_ns - track.times_ns[-1] > max_gap_ns)
        active = kept
        boxes, scores = entry.detections.boxes_xyxy, entry.detections.scores
        unmatched = set(range(len(entry.detections)))
        for track_index, detection_index in _matches(active, boxes, time_ns, config):
            unmatched.remove(detection_index)
            active[track_index].add(
                entry.frame_index, time_ns, boxes[detection_index], float(scores[detection_index])
            )
        for index in sorted(unmatched):
            active.append(_OpenTrack([entry.frame_index], [time_ns], [boxes[index]], [float(scores[index])]))
    return sorted(finished + active, key=lambda track: track.frames[0])


def _matches(
    active: Sequence[_OpenTrack], boxes: FloatBoxes, time_ns: int, config: PrivacyConfig
) -> list[tuple[int, int]]:
    """Pairs of track and detection: by overlap first, then, for what is left, by nearness."""
    if not active or not len(boxes):
        return []
    predicted = np.stack([track.predicted(time_ns) for track in active])
    last = np.stack([track.boxes[-1] for track in active])
    overlap = np.maximum(iou_matrix(predicted, boxes), iou_matrix(last, boxes))
    pairs = _greedy(-overlap, limit=-config.track_iou)
    free_tracks = sorted(set(range(len(active))) - {track for track, _ in pairs})
    free_boxes = sorted(set(range(len(boxes))) - {box for _, box in pairs})
    if free_tracks and free_boxes:
        distance = np.minimum(
            _distance_in_sizes(predicted[free_tracks], boxes[free_boxes]),
            _distance_in_sizes(last[free_tracks], boxes[free_boxes]),
        )
        near = _greedy(distance, limit=config.track_reach_sizes)
        pairs += [(free_tracks[track], free_boxes[box]) for track, box in near]
    return pairs


def _greedy(cost: npt.NDArray[np.float64], *, limit: float) -> list[tuple[int, int]]:
    """Cheapest pairs of row and column first, each used once, none above ``limit``."""
    rows, columns = np.nonzero(cost <= limit)
    order = np.argsort(cost[rows, columns], kind="stable")
    pairs: list[tuple[int, int]] = []
    used_rows: set[int] = set()
    used_columns: set[int] = set()
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in used_rows and column not in used_columns:
            pairs.append((row, column))
            used_rows.add(row)
            used_columns.add(column)
    return pairs


def _distance_in_sizes(a: FloatBoxes, b: FloatBoxes) -> npt.NDArray[np.float64]:
    """Distance of the centres, in box sizes (square root of the smaller area); infinite for unlike areas."""
    centers_a, centers_b = _centers(a).astype(np.float64), _centers(b).astype(np.float64)
    areas_a = np.maximum((a[:, 2:] - a[:, :2]).prod(axis=1).astype(np.float64), 1e-6)[:, None]
    areas_b = np.maximum((b[:, 2:] - b[:, :2]).prod(axis=1).astype(np.float64), 1e-6)[None]
    distance = np.linalg.norm(centers_a[:, None] - centers_b[None], axis=-1)
    in_sizes = distance / np.sqrt(np.minimum(areas_a, areas_b))
    ratio = np.maximum(areas_a, areas_b) / np.minimum(areas_a, areas_b)
    return np.where(ratio <= _REACH_AREA_RATIO, in_sizes, np.inf)


def _fill(
    linked: _OpenTrack,
    *,
    kind: str,
    track_id: int,
    examined_frames: npt.NDArray[np.int64],
    timestamps_ns: npt.NDArray[np.int64],
    size: tuple[int, int],
    config: PrivacyConfig,
) -> Track:
    seen_frames = np.array(linked.frames, dtype=np.int64)
    seen_boxes = np.stack(linked.boxes)
    first, last = _covered_range(seen_frames, examined_frames, timestamps_ns, config)
    frames = np.arange(first, last + 1, dtype=np.int64)
    # Frames with equal time stamps still follow one another: the index breaks the tie.
    times = (timestamps_ns[frames] + frames).astype(np.float64)
    seen_times = (timestamps_ns[seen_frames] + seen_frames).astype(np.float64)
    boxes = np.stack([np.interp(times, seen_times, seen_boxes[:, side]) for side in range(4)], axis=1)
    scores = np.interp(times, seen_times, np.array(linked.scores))
    _cover_doubtful_links(boxes, frames, times, seen_frames, seen_times, seen_boxes, config)
    if seen_frames.size > 1:
        span_start = float(seen_times[1] - seen_times[0])
        span_end = float(seen_times[-1] - seen_times[-2])
        before, after = frames < seen_frames[0], frames > seen_frames[-1]
        velocity_start = _velocity(seen_boxes[0], seen_boxes[1], span_start)
        velocity_end = _velocity(seen_boxes[-2], seen_boxes[-1], span_end)
        reach = config.track_reach_sizes
        _extend(boxes, before, (times - seen_times[0])[:, None] * velocity_start[None], reach)
        _extend(boxes, after, (times - seen_times[-1])[:, None] * velocity_end[None], reach)
    boxes = np.clip(boxes, 0, np.array(size * 2))
    visible = np.all(boxes[:, 2:] > boxes[:, :2], axis=1)
    return Track(
        track_id=track_id,
        kind=kind,
        frame_indices=frames[visible],
        boxes_xyxy=boxes[visible].astype(np.float32),
        scores=scores[visible].astype(np.float32),
        observed=np.isin(frames, seen_frames)[visible],
    )


def _covered_range(
    seen_frames: npt.NDArray[np.int64],
    examined_frames: npt.NDArray[np.int64],
    timestamps_ns: npt.NDArray[np.int64],
    config: PrivacyConfig,
) -> tuple[int, int]:
    """First and last frame that the track covers."""
    earlier = examined_frames[examined_frames < seen_frames[0]]
    later = examined_frames[examined_frames > seen_frames[-1]]
    first, last = 0, timestamps_ns.size - 1
    if earlier.size:
        start_ns = timestamps_ns[earlier[-1]] - round(config.margin_before_s * NANOSECONDS)
        first = min(int(earlier[-1]), int(np.searchsorted(timestamps_ns, start_ns, side="left")))
    if later.size:
        end_ns = timestamps_ns[later[0]] + round(config.margin_after_s * NANOSECONDS)
        last = max(int(later[0]), int(np.searchsorted(timestamps_ns, end_ns, side="right")) - 1)
    return first, last


def _cover_doubtful_links(
    boxes: npt.NDArray[np.float64],
    frames: npt.NDArray[np.int64],
    times: npt.NDArray[np.float64],
    seen_frames: npt.NDArray[np.int64],
    seen_times: npt.NDArray[np.float64],
    seen_boxes: FloatBoxes,
    config: PrivacyConfig,
) -> None:
    """Between detections that hardly overlap, also cover the place of the nearer one, in place.

    Such a link may join two regions; then each was still where it was seen.
    """
    for index in range(seen_frames.size - 1):
        overlap = iou_matrix(seen_boxes[index : index + 1], seen_boxes[index + 1 : index + 2])
        if overlap[0, 0] >= config.track_iou:
            continue
        between = (frames > seen_frames[index]) & (frames < seen_frames[index + 1])
        middle = (seen_times[index] + seen_times[index + 1]) / 2
        nearer = np.where((times[between] <= middle)[:, None], seen_boxes[index], seen_boxes[index + 1])
        boxes[between] = _union(boxes[between], nearer)


def _extend(
    boxes: npt.NDArray[np.float64],
    where: npt.NDArray[np.bool_],
    offsets: npt.NDArray[np.float64],
    reach_sizes: float,
) -> None:
    """Union of the resting and the moving box, in place, for the frames beyond one end of a track.

    The motion is followed for ``reach_sizes`` box sizes at most: a velocity is a guess that gets worse.
    """
    resting = boxes[where]
    limit = reach_sizes * np.sqrt((resting[:, 2:] - resting[:, :2]).prod(axis=1, keepdims=True))
    boxes[where] = _union(resting, resting + _shift(np.clip(offsets[where], -limit, limit)))


def _velocity(earlier: FloatBoxes, later: FloatBoxes, elapsed_ns: float) -> npt.NDArray[np.float64]:
    """Motion of the centre in pixels per nanosecond, ``float64 [2]``."""
    if elapsed_ns <= 0:
        return np.zeros(2)
    moved = _centers(later[None])[0].astype(np.float64) - _centers(earlier[None])[0]
    return np.asarray(moved / elapsed_ns, dtype=np.float64)


def _shift(offset: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """The same ``[..., 2]`` offset for both corners, ``[..., 4]``."""
    return np.concatenate([offset, offset], axis=-1).astype(np.float32)


def _centers(boxes: FloatBoxes) -> npt.NDArray[np.float32]:
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def _union(a: npt.NDArray[np.float64], b: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return np.concatenate([np.minimum(a[:, :2], b[:, :2]), np.maximum(a[:, 2:], b[:, 2:])], axis=1)
