"""The hand-object layer: from frames and detections to tracks, and their files.

Files: ``hand_object.tar`` with one JSON record per frame, ``hand_object.parquet`` as its index.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ego_assets.labels.contact import FrameEvidence, observe_contact
from ego_assets.labels.hand_records import record_of, validate_record
from ego_assets.labels.hand_states import HandSignals, judge_states
from ego_assets.labels.hand_tracking import SideTrack, track_wearer_hands
from ego_assets.labels.hands import FloatArray, finger_flexion, palm_centre, palm_length
from ego_assets.media.frame_archive import FrameArchive, FrameArchiveIndex, FrameArchiveWriter
from ego_assets.schema.errors import ArtifactCorrupted
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.hands import (
    LANDMARK_COUNT,
    HandDetections,
    HandDetector,
    HandObjectTracks,
    HandSide,
    HandState,
    HandTrack,
)
from ego_assets.schema.timeline import NANOSECONDS

ARCHIVE, INDEX = "hand_object.tar", "hand_object.parquet"

# An object is looked for in frames up to this far away within one grasp, and its box is the median of what they show.
_OBJECT_WINDOW_S = 0.8
# What is smaller than this is a piece of it, in palms.
_MIN_OBJECT_PALMS = 0.4
# Where nothing was seen to move with the hand, the object is somewhere at the fingertips, this far around, in palms.
_FINGERTIP_MARGIN = 0.3
_FINGERTIPS = (4, 8, 12, 16)
# Boxes narrower than this cannot be drawn or cut out.
_MIN_BOX_PX = 2.0


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
