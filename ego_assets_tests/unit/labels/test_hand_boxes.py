"""The whole chain of the hand-object layer behind a detector that gives boxes and contact but no landmarks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby, pairwise
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from ego_assets.labels.hand_object import (
    ARCHIVE,
    INDEX,
    find_hand_objects,
    read_records,
    read_tracks,
    write_tracks,
)
from ego_assets.labels.hand_pictures import draw_hands
from ego_assets.labels.hand_records import record_of, validate_record
from ego_assets.labels.hand_states import is_legal
from ego_assets.schema.detections import BackendInfo
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.hands import LANDMARK_COUNT, HandDetections, HandObjectTracks

WIDTH, HEIGHT, SIDE = 640, 360, 90.0
CUP = np.array([300.0, 120, 360, 200])
#: Where the right hand comes from and goes back to.
HOME = np.array([430.0, 300])
FRAME_NS = 100_000_000

Look = tuple[npt.NDArray[np.float64], float, npt.NDArray[np.float64] | None]


def story(*, misjudged: Iterable[int] = ()) -> list[Look]:
    """Centre of the right hand, contact and object at 10 frames/s: rest, reach, lift, put down, withdraw, rest."""
    grip = (CUP[:2] + CUP[2:]) / 2 + (30, 20)
    looks: list[Look] = [(HOME, 0.04, None)] * 10
    looks += [(HOME + (grip - HOME) * step / 6, 0.1, None) for step in range(1, 6)]
    lift = [np.array([0, -4.0 * min(step, 14 - step)]) for step in range(15)]
    looks += [(grip + by, 0.96, CUP + np.tile(by, 2)) for by in lift]
    looks += [(grip + (HOME - grip) * step / 6, 0.08, None) for step in range(1, 6)]
    looks += [(HOME, 0.05, None)] * 10
    return [
        (centre, 1 - contact, CUP if touched is None else None) if place in misjudged else look
        for place, look in enumerate(looks)
        for centre, contact, touched in [look]
    ]


class Scripted:
    """Answers as the 100DOH detector does: the wearer's hands, and sometimes somebody else's, surest first."""

    def __init__(self, looks: list[Look], *, missed: Iterable[int] = (), other: bool = False) -> None:
        self._looks = looks
        self._missed = set(missed)
        self._other = other
        self._tremble = np.random.default_rng(4)

    @property
    def info(self) -> BackendInfo:
        return BackendInfo(task="hands", backend="scripted", model="none")

    def detect(self, frames: Iterable[ClipFrame]) -> Iterator[HandDetections]:
        for place, (frame, (centre, contact, touched)) in enumerate(zip(frames, self._looks, strict=True)):
            assert frame.size == (WIDTH, HEIGHT)
            yield HandDetections.empty() if place in self._missed else self._found(centre, contact, touched)

    def _found(
        self, centre: npt.NDArray[np.float64], contact: float, touched: npt.NDArray[np.float64] | None
    ) -> HandDetections:
        centres = [centre + self._tremble.normal(0, 1.5, 2)]
        sides, rights, contacts = [SIDE], [0.97], [contact]
        if self._other:
            # Small, at the upper edge, and busy with something of its own.
            centres.append(np.array([200.0, 30]))
            sides, rights, contacts = [*sides, 28.0], [*rights, 0.4], [*contacts, 0.9]
        middle, half = np.array(centres), np.array(sides)[:, None] / 2
        boxes = np.concatenate([middle - half, middle + half], axis=1)
        objects = np.full((len(boxes), 4), np.nan)
        if touched is not None:
            objects[0] = touched
        return HandDetections(
            boxes_xyxy=np.clip(boxes, 0, [WIDTH, HEIGHT] * 2).astype(np.float32),
            scores=np.array([0.99, 0.8][: len(boxes)], np.float32),
            right_scores=np.array(rights, np.float32),
            landmarks_xy=np.full((len(boxes), LANDMARK_COUNT, 2), np.nan, np.float32),
            contact_scores=np.array(contacts, np.float32),
            contact_boxes_xyxy=objects.astype(np.float32),
        )


def table() -> npt.NDArray[np.uint8]:
    coarse = np.random.default_rng(2).integers(40, 200, (24, 42, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC), np.uint8)


def tracks_of(detector: Scripted, count: int) -> HandObjectTracks:
    image = table()
    frames = (ClipFrame(3 * n, n * FRAME_NS, image) for n in range(count))
    return find_hand_objects(frames, detector, resolution=(WIDTH, HEIGHT))


def steps(states: Iterable[str | None]) -> list[tuple[str | None, int]]:
    return [(state, len(list(run))) for state, run in groupby(states)]


def test_reach_hold_and_withdraw() -> None:
    looks = story()
    track = tracks_of(Scripted(looks), len(looks)).right
    assert track.visible.all() and np.isnan(track.landmarks_xy).all()
    found = steps(track.states)
    assert [state for state, _ in found] == ["free", "pre-grasp", "grasp", "post-release", "free"]
    # 10 at rest, 5 on the way, 15 holding, 5 on the way back, 10 at rest; a frame may go to its neighbour.
    assert [count for _, count in found] == pytest.approx([10, 5, 15, 5, 10], abs=2)
    held = np.array([state == "grasp" for state in track.states])
    assert (track.contact_scores[held] > 0.6).all() and (track.contact_scores[~held] <= 0.5).all()
    assert np.isfinite(track.contact_boxes_xyxy).all(axis=1).tolist() == held.tolist()
    # Lifted by 28 pixels in the middle.
    assert track.contact_boxes_xyxy[22].tolist() == pytest.approx([300, 92, 360, 172], abs=8)


def test_single_misjudged_frames_change_no_state() -> None:
    looks = story(misjudged=(4, 20, 21, 40))
    track = tracks_of(Scripted(looks), len(looks)).right
    assert [state for state, _ in steps(track.states)] == [
        "free",
        "pre-grasp",
        "grasp",
        "post-release",
        "free",
    ]
    # The object of frames in which none was told follows from the others of the grasp.
    assert np.isfinite(track.contact_boxes_xyxy[[20, 21]]).all()


def test_missed_frames_are_bridged_and_other_people_are_not_the_wearer() -> None:
    looks = story()
    tracks = tracks_of(Scripted(looks, missed=(5, 18, 19), other=True), len(looks))
    assert tracks.right.visible.all() and not tracks.left.visible.any()
    assert tracks.right.states[18] == "grasp" and np.isfinite(tracks.right.contact_boxes_xyxy[18]).all()
    # Where somebody else's hand was seen.
    assert tracks.other_hands.tolist() == [0 if n in (5, 18, 19) else 1 for n in range(len(looks))]


def test_a_hand_that_rests_beside_things_is_free_and_one_that_always_holds_has_no_reach() -> None:
    for contact, state in ((0.05, "free"), (0.95, "grasp")):
        looks: list[Look] = [(HOME, contact, CUP if contact > 0.5 else None)] * 12
        assert set(tracks_of(Scripted(looks), 12).right.states) == {state}


def test_contact_without_an_object_is_a_grasp_of_something_unknown() -> None:
    looks: list[Look] = [(HOME, 0.95, None)] * 8
    track = tracks_of(Scripted(looks), 8).right
    assert set(track.states) == {"grasp"} and np.isnan(track.contact_boxes_xyxy).all()


def test_records_pictures_and_files_do_without_landmarks(tmp_path: Path) -> None:
    looks = story()
    tracks = tracks_of(Scripted(looks), len(looks))
    assert all(is_legal(a, b) for a, b in pairwise(tracks.right.states))
    for position in range(len(looks)):
        record = record_of(tracks, position)
        assert validate_record(record) == [] and record["right_landmarks"] is None
    drawn = draw_hands(table(), tracks, 20)
    assert drawn.shape == (HEIGHT, WIDTH, 3) and (drawn != table()).any()
    write_tracks(tracks, tmp_path / ARCHIVE, tmp_path / INDEX)
    again = read_tracks(lambda name: (tmp_path / name).read_bytes())
    assert again.right.states == tracks.right.states and np.isnan(again.right.landmarks_xy).all()
    assert len(read_records(lambda name: (tmp_path / name).read_bytes())) == len(looks)
