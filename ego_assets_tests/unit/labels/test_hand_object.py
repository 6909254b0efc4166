"""Contact as the picture shows it, tracks as they are stored, and what is wrong with records."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from ego_assets.geometry.flow import dense_flow
from ego_assets.labels.contact import FrameEvidence, observe_contact
from ego_assets.labels.hand_object import (
    ARCHIVE,
    INDEX,
    find_hand_objects,
    read_records,
    read_tracks,
    write_tracks,
)
from ego_assets.labels.hand_pictures import draw_hands, draw_sheet_tiles, frames_to_show
from ego_assets.labels.hand_records import check_records, record_of, validate_record
from ego_assets.labels.hands import hand_box
from ego_assets.schema.detections import BackendInfo
from ego_assets.schema.errors import ArtifactCorrupted
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.hands import HandDetections, HandObjectTracks

WIDTH, HEIGHT, PALM = 384, 216, 30.0
Image = npt.NDArray[np.uint8]


def texture(seed: int, height: int, width: int, *, grain: int, low: int, high: int) -> Image:
    """Soft patches of colour, ``grain`` pixels wide."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(low, high, (height // grain + 3, width // grain + 3, 3), dtype=np.uint8)
    size = (grain * coarse.shape[1], grain * coarse.shape[0])
    fine = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
    return np.asarray(fine[:height, :width], dtype=np.uint8)


SCENE = texture(1, HEIGHT + 80, WIDTH + 80, grain=12, low=50, high=140)
OBJECT = texture(2, 60, 60, grain=8, low=10, high=250)
SKIN = texture(3, HEIGHT, 80, grain=8, low=0, high=30) + np.array((110, 140, 190), np.uint8)


def landmarks(x: float, y: float) -> npt.NDArray[np.float64]:
    points = [(0.0, 0.0), (-0.3, -0.3), (-0.5, -0.55), (-0.6, -0.8), (-0.55, -1.05)]
    for column in (-0.3, -0.1, 0.1, 0.3):
        points += [(column, -1.0), (column, -1.2), (column, -1.4), (column, -1.5)]
    return np.asarray(np.array(points) * PALM + (x, y))


def picture(
    hand_x: float, *, object_x: float | None = None, camera: tuple[int, int] = (0, 0)
) -> tuple[Image, npt.NDArray[np.float64]]:
    """A hand over a textured scene, with an object at its fingertips or where ``object_x`` says."""
    image = SCENE[camera[1] : camera[1] + HEIGHT, camera[0] : camera[0] + WIDTH].copy()
    points = landmarks(hand_x, 170)
    if object_x is not None:
        left = round(object_x) - 30
        image[76:136, left : left + 60] = OBJECT
    shape = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.fillConvexPoly(shape, cv2.convexHull(np.rint(points).astype(np.int32)), (1,))
    cv2.rectangle(shape, (round(hand_x) - 12, 165), (round(hand_x) + 12, HEIGHT), (1,), -1)
    skin = np.zeros_like(image)
    start = round(hand_x) - 40
    skin[:, start : start + 80] = SKIN
    image[shape > 0] = skin[shape > 0]
    return image, points


def found_in(points: npt.NDArray[np.float64], **values: Any) -> HandDetections:
    options: dict[str, Any] = {
        "boxes_xyxy": hand_box(points, width=WIDTH, height=HEIGHT)[None].astype(np.float32),
        "scores": np.array([0.9], np.float32),
        "right_scores": np.array([0.6], np.float32),
        "landmarks_xy": points[None].astype(np.float32),
        "contact_scores": np.array([np.nan], np.float32),
        "contact_boxes_xyxy": np.full((1, 4), np.nan, np.float32),
    }
    return HandDetections(**(options | values))


def clip(
    count: int, place: Callable[[int], tuple[float, float | None, tuple[int, int]]]
) -> list[tuple[ClipFrame, HandDetections]]:
    looks = []
    for number in range(count):
        hand_x, object_x, camera = place(number)
        image, points = picture(hand_x, object_x=object_x, camera=camera)
        looks.append((ClipFrame(3 * number, number * 100_000_000, image), found_in(points)))
    return looks


def evidence(looks: Iterable[tuple[ClipFrame, HandDetections]]) -> list[FrameEvidence]:
    return list(observe_contact(looks))


HELD = clip(8, lambda n: (200 + 5 * n, 195 + 5 * n, (0, 0)))
FREE = clip(8, lambda n: (200 + 5 * n, None, (0, 0)))
PAST = clip(8, lambda n: (200 + 5 * n, 205.0, (0, 0)))


class Recorded:
    """A detector that says what was recorded."""

    def __init__(self, looks: list[tuple[ClipFrame, HandDetections]]) -> None:
        self._answers = [found for _, found in looks]

    @property
    def info(self) -> BackendInfo:
        return BackendInfo(task="hands", backend="recorded", model="none")

    def detect(self, frames: Iterable[ClipFrame]) -> Iterator[HandDetections]:
        for found, _ in zip(self._answers, frames, strict=True):
            yield found


def tracks_of(looks: list[tuple[ClipFrame, HandDetections]]) -> HandObjectTracks:
    return find_hand_objects((frame for frame, _ in looks), Recorded(looks), resolution=(WIDTH, HEIGHT))


# --- contact ------------------------------------------------------------------------------------------


def test_an_object_that_is_held_moves_with_the_hand() -> None:
    held = [each.hands[0] for each in evidence(HELD)[1:]]
    free = [each.hands[0] for each in evidence(FREE)[1:]]
    past = [each.hands[0] for each in evidence(PAST)[1:]]
    assert np.nanmedian([each.together for each in held]) > 0.5
    assert np.nanmedian([each.together for each in free]) < 0.1
    assert np.nanmedian([each.together for each in past]) < 0.15
    assert np.median([each.speed_palms for each in held]) == pytest.approx(5 / PALM, abs=0.05)


def test_the_box_of_the_object_covers_what_is_seen_of_it() -> None:
    left, top, right, bottom = np.nanmedian(
        [each.hands[0].object_xyxy for each in evidence(HELD)[1:]], axis=0
    )
    # The object of the middle pair of frames, without what the hand hides.
    assert abs(left - 185) < 12 and abs(right - 245) < 12 and abs(top - 76) < 10 and bottom <= 140


def test_the_motion_of_the_camera_is_taken_out() -> None:
    with_camera = evidence(clip(6, lambda n: (200, 195.0, (4 * n, 2 * n))))
    assert with_camera[0].scene_map is None
    assert with_camera[3].scene_map is not None
    assert with_camera[3].scene_map[:, 2] == pytest.approx([4, 2], abs=0.7)
    hand = with_camera[3].hands[0]
    assert hand.camera_palms == pytest.approx(np.hypot(4, 2) / PALM, abs=0.04)
    # Hand and object stand still in the picture, so both move against the scene.
    assert hand.together > 0.5


def test_frames_that_cannot_be_compared_say_nothing() -> None:
    black = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    tiny = np.zeros((9, 7, 3), np.uint8)
    found = found_in(landmarks(200, 170))
    for image in (black, tiny):
        told = evidence([(ClipFrame(n, n, image), found) for n in range(3)])
        assert all(np.isnan(each.hands[0].together) for each in told)
    sizes = evidence([(ClipFrame(0, 0, black), found), (ClipFrame(1, 1, tiny), HandDetections.empty())])
    assert sizes[1].scene_map is None and sizes[1].hands == ()
    assert evidence([]) == []


def test_no_motion_is_measured_while_no_hand_can_be_carried_on(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []

    def counted(*pictures: Any, **options: Any) -> Any:
        measured.append(len(told))
        return dense_flow(*pictures, **options)

    monkeypatch.setattr("ego_assets.labels.contact.dense_flow", counted)
    told: list[FrameEvidence] = []
    # Frames 2 and 3 show a hand; gaps up to 0.35 s are bridged later on, and need the camera's motion.
    looks = clip(10, lambda n: (200, None, (2 * n, 0)))
    shown = [
        (frame, found if n in (2, 3) else HandDetections.empty()) for n, (frame, found) in enumerate(looks)
    ]
    for each in observe_contact(shown):
        told.append(each)
    assert measured == [2, 3, 4, 5, 6]
    assert [each.scene_map is not None for each in told] == [False] * 2 + [True] * 5 + [False] * 3


# --- tracks and files -----------------------------------------------------------------------------------


def test_states_and_objects_of_a_moving_hand() -> None:
    held, free = tracks_of(HELD), tracks_of(FREE)
    assert held.right.states == ("grasp",) * 8 and free.right.states == ("free",) * 8
    assert np.isfinite(held.right.contact_boxes_xyxy).all()
    assert np.isnan(free.right.contact_boxes_xyxy).all()
    # The box goes with the hand instead of jumping.
    assert np.diff(held.right.contact_boxes_xyxy[:, 0]) == pytest.approx(np.full(7, 5.0), abs=2.5)
    assert not held.left.visible.any()


def test_a_detector_that_tells_contact_is_believed() -> None:
    box = np.array([[150, 60, 390, 150]], np.float32)
    told = [
        (
            frame,
            found_in(
                found.landmarks_xy[0].astype(np.float64),
                contact_scores=np.array([0.95], np.float32),
                contact_boxes_xyxy=box,
            ),
        )
        for frame, found in FREE
    ]
    track = tracks_of(told).right
    assert track.states == ("grasp",) * 8
    # Inside the picture, although the detector's box was not.
    assert (track.contact_boxes_xyxy[:, 2] <= WIDTH).all()
    assert track.contact_boxes_xyxy[4, :2] == pytest.approx([150, 60], abs=12)


def test_a_detector_that_loses_frames_is_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        find_hand_objects((frame for frame, _ in HELD), Recorded(HELD[:-1]), resolution=(WIDTH, HEIGHT))


def store(tracks: HandObjectTracks, folder: Path) -> Callable[[str], bytes]:
    write_tracks(tracks, folder / ARCHIVE, folder / INDEX)
    return lambda name: (folder / name).read_bytes()


def test_tracks_are_read_back_as_they_were(tmp_path: Path) -> None:
    tracks = tracks_of(HELD)
    again = read_tracks(store(tracks, tmp_path))
    assert again.resolution == tracks.resolution
    for name in ("frame_index", "timestamps_ns", "other_hands"):
        assert np.array_equal(getattr(again, name), getattr(tracks, name))
    for mine, theirs in zip(again.tracks, tracks.tracks, strict=True):
        assert mine.states == theirs.states and np.array_equal(mine.visible, theirs.visible)
        for name in ("boxes_xyxy", "landmarks_xy", "contact_boxes_xyxy"):
            assert np.allclose(getattr(mine, name), getattr(theirs, name), atol=0.051, equal_nan=True)
        for name in ("scores", "state_scores", "contact_scores"):
            assert np.allclose(getattr(mine, name), getattr(theirs, name), atol=1e-4, equal_nan=True)


def test_records_have_the_fields_of_the_guide(tmp_path: Path) -> None:
    records = read_records(store(tracks_of(HELD), tmp_path))
    assert [record["frame_index"] for record in records] == [0, 3, 6, 9, 12, 15, 18, 21]
    first = records[0]
    assert first["right_hand_state"] == "grasp" and first["left_hand_state"] is None
    assert len(first["right_contact_object_bbox"]) == 4 and first["left_contact_object_bbox"] is None
    assert first["resolution"] == [WIDTH, HEIGHT] and len(first["right_landmarks"]) == 21


def test_damaged_archives_say_so(tmp_path: Path) -> None:
    store(tracks_of(HELD), tmp_path)
    content = (tmp_path / ARCHIVE).read_bytes()
    (tmp_path / ARCHIVE).write_bytes(content.replace(b'"grasp"', b'"grusp"'))
    with pytest.raises(ArtifactCorrupted, match="right_hand_state"):
        read_tracks(lambda name: (tmp_path / name).read_bytes())
    (tmp_path / ARCHIVE).write_bytes(content.replace(b'{"frame', b'["frame'))
    with pytest.raises(ArtifactCorrupted, match="make the layer again"):
        read_tracks(lambda name: (tmp_path / name).read_bytes())


# --- records --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    restored: dict[str, Any] = json.loads(json.dumps(record_of(tracks_of(HELD), 3)))
    return restored


def test_a_record_as_written_is_valid(record: dict[str, Any]) -> None:
    assert validate_record(record) == []


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("right_hand_state", "holding", "right_hand_state: expected one of"),
        ("right_hand_state", None, "right_hand_bbox: expected a box exactly where"),
        ("right_hand_state", "free", "right_contact_object_bbox: expected null"),
        ("right_hand_bbox", [10, 10, 5, 20], "right_hand_bbox: expected"),
        ("right_hand_bbox", [10, 10, float("nan"), 20], "right_hand_bbox: expected"),
        ("right_contact_object_bbox", [1, 2, 3], "right_contact_object_bbox: expected"),
        ("right_hand_score", 1.5, "right_hand_score: expected 0-1"),
        ("right_landmarks", [[0, 0]] * 20, "right_landmarks: expected 21 points"),
        ("left_hand_state", "free", "left_hand_bbox: expected a box"),
        ("frame_index", -1, "frame_index: expected an integer"),
        ("other_hands", True, "other_hands: expected an integer"),
        ("resolution", [0, 5], "resolution: expected two integers"),
    ],
)
def test_wrong_values_are_named(record: dict[str, Any], field: str, value: Any, expected: str) -> None:
    problems = validate_record(record | {field: value})
    assert any(problem.startswith(expected) for problem in problems), problems


def test_missing_and_unknown_fields_are_named(record: dict[str, Any]) -> None:
    assert validate_record({**record, "mood": 1}) == ["mood is not known"]
    del (less := dict(record))["left_hand_state"]
    assert validate_record(less) == ["left_hand_state is missing"]


def test_every_record_is_judged_by_itself_and_against_the_one_before(record: dict[str, Any]) -> None:
    free = record | {"right_hand_state": "free", "right_contact_object_bbox": None}
    outside = record | {"right_hand_bbox": [-1, 0, 5, 5]}
    withdrawn = free | {"right_hand_state": "post-release"}
    check = check_records([record, free, withdrawn, outside, record | {"other_hands": "two"}])
    assert check.is_valid.tolist() == [True] * 4 + [False]
    assert check.boxes_inside.tolist() == [True, True, True, False, False]
    assert check.has_step.tolist() == [False, True, True, True, False]
    # From free to post-release is no step that a hand can take.
    assert check.step_is_legal.tolist() == [True, True, False, True, False]
    assert check.has_hand.tolist() == [True] * 4 + [False]
    assert (check.steps, check.illegal_steps, check.boxes_outside) == (3, 1, 1)
    assert check.first_problem.startswith("record 4: other_hands")
    assert check.state_counts == {"free": 1, "pre-grasp": 0, "grasp": 2, "post-release": 1}
    assert check.hand_share == 1.0 and check_records([]).hand_share == 0.0


# --- pictures -------------------------------------------------------------------------------------------


def test_pictures_show_frames_with_hands_and_leave_the_frame_alone() -> None:
    tracks = tracks_of(HELD)
    frame = HELD[3][0]
    before = frame.image.copy()
    drawn = draw_hands(frame.image, tracks, 3)
    assert np.array_equal(frame.image, before) and drawn.shape == before.shape
    left, top, right, bottom = tracks.right.boxes_xyxy[3].astype(int)
    assert (drawn[top:bottom, left:right] != before[top:bottom, left:right]).any()
    assert frames_to_show(tracks, 3) == [0, 4, 7]
    tiles = draw_sheet_tiles((look for look, _ in HELD), tracks, max_side=192)
    assert len(tiles) == 8 and tiles[0].shape == (108, 192, 3)
    nothing = tracks_of([(look, HandDetections.empty()) for look, _ in HELD])
    assert frames_to_show(nothing, 2) == [0, 7]
    assert (draw_hands(frame.image, nothing, 3) != before).any(), "it says that there is no hand"
