"""From detections on some frames to regions on all frames.

Detections are linked to tracks, gaps are filled, and both ends are extended, so that a region that was found
once stays covered until it has left. All of that happens in coordinates in which the camera stands still: between
looks a region moves with the scene when the wearer's head turns. All boxes are xyxy in pixels of the upright
full-size picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ego_assets.privacy.config import PrivacyConfig
from ego_assets.privacy.coverage import covered_share
from ego_assets.privacy.redaction import expand_boxes
from ego_assets.privacy.schedule import FOCUSED_KINDS, LOOKS, Look
from ego_assets.schema.arrays import read_only
from ego_assets.schema.corrections import Correction
from ego_assets.schema.detections import Detections, iou_matrix
from ego_assets.schema.motion import CameraMotion
from ego_assets.schema.timeline import NANOSECONDS

FloatBoxes = npt.NDArray[np.float32]

FloatArray = npt.NDArray[np.float64]

#: Two boxes whose areas differ by more are not linked without overlap.
_REACH_AREA_RATIO = 2.0
#: Seconds over which a velocity is measured: over less, the detector's jitter counts for too much; over more, the
#: region may have turned round.
_VELOCITY_SPAN_S = (0.15, 1.0)
#: Beyond an end, places up to this multiple of the measured motion are covered: what comes in slows down.
_OVERSHOOT = 1.5
#: Longest time in seconds between two clear sightings over which a straight line is as good as a weak sighting in
#: between, whose box may be off.
_STRAIGHT_S = 0.4
#: Detections of one frame at two scales that overlap by more are one region.
_SAME_REGION_IOU = 0.5
#: Box sizes for which the velocity of only two sightings is followed: they may be two regions, and a face that moves
#: is looked at again on the very next frames.
_TWO_SIGHTINGS_REACH = 0.5
#: Share of the margins in time that a region gets whose every sighting was weak: most are none.
_WEAK_MARGIN_SHARE = 0.5
#: Score of regions that people order to be covered.
_ORDERED_SCORE = 1.0


@dataclass(frozen=True, eq=False)
class FrameDetections:
    """What a detector found on one examined frame; also kept where it found nothing.

    Attributes:
        frame_index: The frame.
        detections: Boxes in pixels of the upright full-size picture.
        look: How the frame was looked at.
        found_finely: ``bool [N]``, which of the detections only the fine scale showed, in tiles or in the parts in
            focus; ``None`` for none of them. That an ordinary look before did not find such a region says nothing.
    """

    frame_index: int
    detections: Detections
    look: Look = "ordinary"
    found_finely: npt.NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        if self.frame_index < 0:
            raise ValueError(f"frame_index: expected 0 or more, got {self.frame_index}")
        if self.look not in LOOKS:
            raise ValueError(f"look: expected {' or '.join(LOOKS)}, got {self.look!r}")
        if self.found_finely is None:
            return
        if self.found_finely.shape != (len(self.detections),):
            raise ValueError(
                f"found_finely: expected [{len(self.detections)}], got {list(self.found_finely.shape)}"
            )
        object.__setattr__(self, "found_finely", read_only(self.found_finely))

    @property
    def only_finely(self) -> npt.NDArray[np.bool_]:
        """``bool [N]``, :attr:`found_finely` for every detection."""
        return np.zeros(len(self.detections), np.bool_) if self.found_finely is None else self.found_finely

    @classmethod
    def combined(
        cls, frame_index: int, *, ordinary: Detections, fine: Sequence[Detections], look: Look
    ) -> FrameDetections:
        """What both scales found on one frame: regions that both found get the box around both.

        Args:
            frame_index: The frame.
            ordinary: Boxes found on the downscaled copy, in pixels of the upright full-size picture.
            fine: Boxes found at the fine scale, in the same pixels: of the tiles, or of each part in focus.
            look: ``fine`` where the whole picture was looked at finely.
        """
        boxes = [*ordinary.boxes_xyxy]
        scores = ordinary.scores.tolist()
        for box, score in (
            (b, s) for part in fine for b, s in zip(part.boxes_xyxy, part.scores, strict=True)
        ):
            overlap = iou_matrix(box[None], np.array(boxes, np.float32).reshape(-1, 4))[0]
            if overlap.max(initial=0.0) >= _SAME_REGION_IOU:
                same = int(overlap.argmax())
                low, high = np.minimum(boxes[same][:2], box[:2]), np.maximum(boxes[same][2:], box[2:])
                boxes[same] = np.concatenate([low, high])
                scores[same] = max(scores[same], float(score))
            else:
                boxes.append(box)
                scores.append(float(score))
        found = Detections(np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32))
        return cls(frame_index, found, look, np.arange(len(found)) >= len(ordinary))


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

    def covered_share(
        self, boxes_xyxy: FloatBoxes, frame_index: int, *, margin: float, width: int, height: int
    ) -> npt.NDArray[np.float64]:
        """Share of each box that lies under the redaction of one frame, ``float64 [N]``.

        Args:
            boxes_xyxy: ``float32 [N, 4]`` in pixels of the upright full-size picture.
            frame_index: The frame.
            margin: Share of its size by which redaction moves each side of a region out.
            width: Width of the upright picture in pixels.
            height: Height of the upright picture in pixels.
        """
        redacted = expand_boxes(self.boxes_at(frame_index), margin=margin, width=width, height=height)
        return covered_share(boxes_xyxy, redacted)


@dataclass
class _Sighting:
    """A region on one examined frame; ``box`` is relative to the still scene."""

    frame: int
    time_ns: int
    box: FloatArray
    score: float
    found_finely: bool


@dataclass
class _OpenTrack:
    """A track that may still be continued: its sightings so far, the first one at the start."""

    sightings: list[_Sighting]

    @property
    def last(self) -> _Sighting:
        return self.sightings[-1]

    @property
    def best_score(self) -> float:
        return max(sighting.score for sighting in self.sightings)

    def predicted(self, time_ns: int) -> FloatArray:
        """Where the region would be if it kept its velocity, relative to the still scene."""
        velocity = _end_velocity(self.sightings[::-1])
        return self.last.box + _shift(velocity * (time_ns - self.last.time_ns))


class _Context:
    """What all steps of building the tracks of one kind need."""

    def __init__(
        self,
        examined: Sequence[FrameDetections],
        timestamps_ns: npt.NDArray[np.int64],
        camera: CameraMotion,
        config: PrivacyConfig,
        *,
        kind: str,
    ) -> None:
        self.has_focus = kind in FOCUSED_KINDS
        self.timestamps_ns = timestamps_ns
        self.config = config
        self.offsets = _shift(camera.positions_xy)
        self.scenes = camera.scenes
        self.frames = np.array([entry.frame_index for entry in examined], dtype=np.int64)
        self.fine_frames = np.array(
            [entry.frame_index for entry in examined if entry.look == "fine"], dtype=np.int64
        )


def build_tracks(
    examined: Sequence[FrameDetections],
    *,
    kind: str,
    timestamps_ns: npt.NDArray[np.int64],
    width: int,
    height: int,
    config: PrivacyConfig,
    camera: CameraMotion | None = None,
    first_track_id: int = 1,
) -> list[Track]:
    """Link the detections of one kind and cover every frame in which a region may be visible.

    A track covers all frames from its first to its last detection. At both ends it goes on to the nearest
    examined frame whose look would have found it and did not, and by the configured margin further, half of it
    where it was seen only weakly; there the box is the union of the place in the scene where it was seen last and
    of where its velocity takes it. Everything moves with the camera. Across a scene cut a region is linked only
    where it stays in place, which shows that it was none.

    Args:
        examined: Examined frames in ascending order, including those without detections.
        kind: Task of the detector.
        timestamps_ns: ``int64 [frames]``, presentation time of every frame of the clip.
        width: Width of the upright picture in pixels.
        height: Height of the upright picture in pixels.
        config: Thresholds and margins.
        camera: Motion of the camera over the same frames; ``None`` for a camera that stands still.
        first_track_id: Number of the first track.

    Returns:
        Tracks in the order in which they begin.

    Raises:
        ValueError: Examined frames are out of order or outside the clip, or the camera motion has another length.
    """
    if camera is None:
        camera = CameraMotion.still(timestamps_ns.size)
    if camera.frame_count != timestamps_ns.size:
        raise ValueError(f"camera: expected {timestamps_ns.size} frames, got {camera.frame_count}")
    context = _Context(examined, timestamps_ns, camera, config, kind=kind)
    if context.frames.size > 1 and bool(np.any(np.diff(context.frames) <= 0)):
        raise ValueError("examined: expected ascending unique frame indices")
    if context.frames.size and context.frames[-1] >= timestamps_ns.size:
        raise ValueError(f"examined: expected frames below {timestamps_ns.size}, got {context.frames[-1]}")
    tracks: list[Track] = []
    for linked in _link(examined, context):
        track = _fill(
            linked.sightings,
            context,
            kind=kind,
            track_id=first_track_id + len(tracks),
            size=(width, height),
        )
        if track.frame_indices.size:
            tracks.append(track)
    return tracks


def correction_tracks(
    corrections: Iterable[Correction],
    *,
    frame_count: int,
    width: int,
    height: int,
    first_track_id: int = 1,
) -> list[Track]:
    """What people ordered to be covered, as tracks: the box, or the whole picture where none is given.

    Args:
        corrections: The orders.
        frame_count: Frames of the clip; orders beyond its end are cut off.
        width: Width of the upright picture in pixels.
        height: Height of the upright picture in pixels.
        first_track_id: Number of the first track.

    Returns:
        One track per order, of its kind, all of it with score 1 and ``observed``: a person saw it. An order that
        lies outside the clip or the picture gives none.
    """
    tracks: list[Track] = []
    limits = np.array([width, height] * 2, dtype=np.float32)
    for correction in corrections:
        box = np.clip(np.array(correction.box_xyxy or (0, 0, width, height), np.float32), 0, limits)
        frames = np.arange(
            correction.first_frame, min(correction.last_frame + 1, frame_count), dtype=np.int64
        )
        if not frames.size or np.any(box[2:] <= box[:2]):
            continue
        tracks.append(
            Track(
                track_id=first_track_id + len(tracks),
                kind=correction.kind,
                frame_indices=frames,
                boxes_xyxy=np.tile(box, (frames.size, 1)),
                scores=np.full(frames.size, _ORDERED_SCORE, np.float32),
                observed=np.ones(frames.size, np.bool_),
            )
        )
    return tracks


def _link(examined: Sequence[FrameDetections], context: _Context) -> list[_OpenTrack]:
    finished: list[_OpenTrack] = []
    active: list[_OpenTrack] = []
    for entry in examined:
        time_ns = int(context.timestamps_ns[entry.frame_index])
        ended = [_has_ended(track, time_ns, context.config) for track in active]
        finished.extend(track for track, over in zip(active, ended, strict=True) if over)
        active = [track for track, over in zip(active, ended, strict=True) if not over]
        boxes = entry.detections.boxes_xyxy.astype(np.float64)
        stabilised = boxes - context.offsets[entry.frame_index]
        sightings = [
            _Sighting(entry.frame_index, time_ns, box, score, finely)
            for box, score, finely in zip(
                stabilised, entry.detections.scores.tolist(), entry.only_finely.tolist(), strict=True
            )
        ]
        pairs = _matches(active, boxes, entry.frame_index, time_ns, context)
        for track_index, detection_index in pairs:
            active[track_index].sightings.append(sightings[detection_index])
        matched = {detection_index for _, detection_index in pairs}
        active.extend(_OpenTrack([s]) for index, s in enumerate(sightings) if index not in matched)
    return sorted(finished + active, key=lambda track: track.sightings[0].frame)


def _has_ended(track: _OpenTrack, time_ns: int, config: PrivacyConfig) -> bool:
    """Whether the track was not seen for so long that a new sighting would be another region."""
    weak = track.best_score < config.low_confidence_score
    max_gap_s = config.track_weak_gap_s if weak else config.track_max_gap_s
    return time_ns - track.last.time_ns > max_gap_s * NANOSECONDS


def _matches(
    active: Sequence[_OpenTrack], boxes: FloatArray, frame: int, time_ns: int, context: _Context
) -> list[tuple[int, int]]:
    """Pairs of track and detection: by overlap first, then, for what is left, by nearness.

    A track is looked for where it was seen last in the scene, where its velocity takes it, and where it was in
    the picture, for regions that the wearer carries along and for shifts that were measured wrongly.
    """
    if not active or not len(boxes):
        return []
    offset, config = context.offsets[frame], context.config
    last_frames = np.array([track.last.frame for track in active])
    at_rest = np.stack([track.last.box for track in active])
    places = (
        at_rest + offset,
        np.stack([track.predicted(time_ns) for track in active]) + offset,
        at_rest + context.offsets[last_frames],
    )
    overlap = np.max([_overlap(place, boxes) for place in places], axis=0)
    pairs = _greedy(-overlap, limit=-config.track_iou)
    same_scene = context.scenes[last_frames] == context.scenes[frame]
    taken = {track for track, _ in pairs}
    free_tracks = [track for track in range(len(active)) if track not in taken and same_scene[track]]
    free_boxes = sorted(set(range(len(boxes))) - {box for _, box in pairs})
    if free_tracks and free_boxes:
        distances = [_distance_in_sizes(place[free_tracks], boxes[free_boxes]) for place in places[:2]]
        near = _greedy(np.min(distances, axis=0), limit=config.track_reach_sizes)
        pairs += [(free_tracks[track], free_boxes[box]) for track, box in near]
    return pairs


def _greedy(cost: FloatArray, *, limit: float) -> list[tuple[int, int]]:
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


def _overlap(a: FloatArray, b: FloatArray) -> FloatArray:
    return iou_matrix(a.astype(np.float32), b.astype(np.float32))


def _distance_in_sizes(a: FloatArray, b: FloatArray) -> FloatArray:
    """Distance of the centres, in box sizes (square root of the smaller area); infinite for unlike areas."""
    areas_a = np.maximum((a[:, 2:] - a[:, :2]).prod(axis=1), 1e-6)[:, None]
    areas_b = np.maximum((b[:, 2:] - b[:, :2]).prod(axis=1), 1e-6)[None]
    distance = np.linalg.norm(_centers(a)[:, None] - _centers(b)[None], axis=-1)
    in_sizes = distance / np.sqrt(np.minimum(areas_a, areas_b))
    ratio = np.maximum(areas_a, areas_b) / np.minimum(areas_a, areas_b)
    return np.where(ratio <= _REACH_AREA_RATIO, in_sizes, np.inf)


def _fill(
    sightings: Sequence[_Sighting], context: _Context, *, kind: str, track_id: int, size: tuple[int, int]
) -> Track:
    config = context.config
    seen_frames = np.array([sighting.frame for sighting in sightings], dtype=np.int64)
    seen_boxes = np.stack([sighting.box for sighting in sightings])
    first, last = _covered_range(sightings, context)
    frames = np.arange(first, last + 1, dtype=np.int64)
    # Frames with equal time stamps still follow one another: the index breaks the tie.
    times = (context.timestamps_ns[frames] + frames).astype(np.float64)
    seen_times = times[seen_frames - first]
    boxes = np.stack([np.interp(times, seen_times, seen_boxes[:, side]) for side in range(4)], axis=1)
    scores = np.interp(times, seen_times, np.array([sighting.score for sighting in sightings]))
    _steady_weak_sightings(boxes, times, sightings, seen_times, config)
    _cover_doubtful_links(boxes, frames, times, seen_frames, seen_times, seen_boxes, config)
    for outside, end, ordered in (
        (frames < seen_frames[0], seen_times[0], sightings),
        (frames > seen_frames[-1], seen_times[-1], sightings[::-1]),
    ):
        velocity = _end_velocity(ordered)
        reach = config.track_follow_sizes if len(sightings) > 2 else _TWO_SIGHTINGS_REACH
        _extend(boxes, outside, (times - end)[:, None] * velocity[None], reach)
    _widen(boxes, times, seen_times, config)
    boxes = np.clip(boxes + context.offsets[frames], 0, np.array(size * 2))
    visible = np.all(boxes[:, 2:] > boxes[:, :2], axis=1)
    return Track(
        track_id=track_id,
        kind=kind,
        frame_indices=frames[visible],
        boxes_xyxy=boxes[visible].astype(np.float32),
        scores=scores[visible].astype(np.float32),
        observed=np.isin(frames, seen_frames)[visible],
    )


def _covered_range(sightings: Sequence[_Sighting], context: _Context) -> tuple[int, int]:
    """First and last frame that the track covers."""
    config, stamps = context.config, context.timestamps_ns
    weak = max(sighting.score for sighting in sightings) < config.low_confidence_score
    share = _WEAK_MARGIN_SHARE if weak else 1.0
    before_s, after_s = share * config.margin_before_s, share * config.margin_after_s
    start, end = sightings[0].frame, sightings[-1].frame
    # Only fine looks would have found a region that the downscaled copy does not show. Once it is known, a kind
    # that has a focus has it in focus at every look.
    before = context.fine_frames if sightings[0].found_finely else context.frames
    after = context.fine_frames if sightings[-1].found_finely and not context.has_focus else context.frames
    earlier, later = before[before < start], after[after > end]
    first, last = 0, stamps.size - 1
    if earlier.size:
        start_ns = stamps[earlier[-1]] - round(before_s * NANOSECONDS)
        first = min(int(earlier[-1]), int(np.searchsorted(stamps, start_ns, side="left")))
    if later.size:
        end_ns = stamps[later[0]] + round(after_s * NANOSECONDS)
        last = max(int(later[0]), int(np.searchsorted(stamps, end_ns, side="right")) - 1)
    return first, last


def _steady_weak_sightings(
    boxes: FloatArray,
    times: FloatArray,
    sightings: Sequence[_Sighting],
    seen_times: FloatArray,
    config: PrivacyConfig,
) -> None:
    """Between two clear sightings, also cover the straight line from one to the other, in place.

    Where the picture is blurred a weak sighting lies between them and its box may be off.
    """
    clear = np.array([sighting.score >= config.low_confidence_score for sighting in sightings])
    indices = np.nonzero(clear)[0]
    for start, end in zip(indices.tolist(), indices[1:].tolist(), strict=False):
        span = seen_times[end] - seen_times[start]
        if end - start < 2 or span > _STRAIGHT_S * NANOSECONDS:
            continue
        between = (times > seen_times[start]) & (times < seen_times[end])
        share = ((times[between] - seen_times[start]) / span)[:, None]
        straight = (1 - share) * sightings[start].box + share * sightings[end].box
        boxes[between] = _union(boxes[between], straight)


def _cover_doubtful_links(
    boxes: FloatArray,
    frames: npt.NDArray[np.int64],
    times: FloatArray,
    seen_frames: npt.NDArray[np.int64],
    seen_times: FloatArray,
    seen_boxes: FloatArray,
    config: PrivacyConfig,
) -> None:
    """Between detections that hardly overlap, also cover the place of the nearer one, in place.

    Such a link may join two regions; then each was still where it was seen.
    """
    for index in range(seen_frames.size - 1):
        overlap = _overlap(seen_boxes[index : index + 1], seen_boxes[index + 1 : index + 2])
        if overlap[0, 0] >= config.track_iou:
            continue
        between = (frames > seen_frames[index]) & (frames < seen_frames[index + 1])
        middle = (seen_times[index] + seen_times[index + 1]) / 2
        nearer = np.where((times[between] <= middle)[:, None], seen_boxes[index], seen_boxes[index + 1])
        boxes[between] = _union(boxes[between], nearer)


def _extend(boxes: FloatArray, where: npt.NDArray[np.bool_], offsets: FloatArray, reach_sizes: float) -> None:
    """Union of the resting and the moving box, in place, for the frames beyond one end of a track.

    The motion is followed for ``reach_sizes`` box sizes at most: a velocity is a guess that gets worse.
    """
    resting = boxes[where]
    limit = reach_sizes * np.sqrt((resting[:, 2:] - resting[:, :2]).prod(axis=1, keepdims=True))
    boxes[where] = _union(resting, resting + _shift(np.clip(_OVERSHOOT * offsets[where], -limit, limit)))


def _widen(boxes: FloatArray, times: FloatArray, seen_times: FloatArray, config: PrivacyConfig) -> None:
    """Move the sides out, in place, the more the longer ago the nearest sighting is."""
    after = np.clip(np.searchsorted(seen_times, times), 0, seen_times.size - 1)
    nearest_ns = np.minimum(
        np.abs(times - seen_times[after]), np.abs(times - seen_times[np.maximum(after - 1, 0)])
    )
    share = np.minimum(config.widen_per_s * nearest_ns / NANOSECONDS, config.widen_most)[:, None]
    margin = share * (boxes[:, 2:] - boxes[:, :2])
    boxes[:, :2] -= margin
    boxes[:, 2:] += margin


def _end_velocity(ordered: Sequence[_Sighting]) -> FloatArray:
    """Motion of the centre at the first of ``ordered`` sightings, in pixels per nanosecond, ``float64 [2]``."""
    shortest_ns, longest_ns = (round(span * NANOSECONDS) for span in _VELOCITY_SPAN_S)
    end = ordered[0]
    other = None
    for sighting in ordered[1:]:
        elapsed_ns = abs(sighting.time_ns - end.time_ns)
        if elapsed_ns > longest_ns:
            break
        other = sighting
        if elapsed_ns >= shortest_ns:
            break
    if other is None or other.time_ns == end.time_ns:
        return np.zeros(2)
    moved = _centers(end.box[None])[0] - _centers(other.box[None])[0]
    return np.asarray(moved / (end.time_ns - other.time_ns), dtype=np.float64)


def _shift(offset: FloatArray) -> FloatArray:
    """The same ``[..., 2]`` offset for both corners, ``[..., 4]``."""
    return np.concatenate([offset, offset], axis=-1)


def _centers(boxes: FloatArray) -> FloatArray:
    return np.asarray((boxes[:, :2] + boxes[:, 2:]) / 2, dtype=np.float64)


def _union(a: FloatArray, b: FloatArray) -> FloatArray:
    return np.concatenate([np.minimum(a[:, :2], b[:, :2]), np.maximum(a[:, 2:], b[:, 2:])], axis=1)
