from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ego_assets.privacy.config import PrivacyConfig
from ego_assets.privacy.tracking import FrameDetections, RegionIndex, Track, build_tracks
from ego_assets.schema.detections import Detections, iou_matrix
from ego_assets.schema.timeline import NANOSECONDS

WIDTH, HEIGHT, FPS, FRAMES = 640, 360, 30, 60
STAMPS = np.arange(FRAMES, dtype=np.int64) * (NANOSECONDS // FPS)
EXACT = PrivacyConfig(margin_before_s=0, margin_after_s=0)


def found(*boxes: tuple[float, float, float, float], score: float = 0.9) -> Detections:
    return Detections(np.array(boxes, np.float32).reshape(-1, 4), np.full(len(boxes), score, np.float32))


def track(
    sightings: dict[int, Detections], examined: range | list[int], config: PrivacyConfig = EXACT
) -> list[Track]:
    frames = [FrameDetections(index, sightings.get(index, Detections.empty())) for index in examined]
    return build_tracks(frames, kind="faces", timestamps_ns=STAMPS, width=WIDTH, height=HEIGHT, config=config)


boxes = st.tuples(st.floats(0, 500), st.floats(0, 250), st.floats(8, 140), st.floats(8, 110)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@settings(max_examples=60, deadline=None)
@given(
    sightings=st.dictionaries(st.integers(0, 11), st.lists(boxes, max_size=4), max_size=12),
    step=st.integers(1, 5),
)
def test_every_detection_is_covered_on_its_own_frame(
    sightings: dict[int, list[tuple[float, float, float, float]]], step: int
) -> None:
    by_frame = {position * step: found(*boxes) for position, boxes in sightings.items()}
    tracks = track(by_frame, range(0, 12 * step, step), PrivacyConfig())
    index = RegionIndex(tracks)
    for frame, detections in by_frame.items():
        covering = index.boxes_at(frame)
        for box in detections.boxes_xyxy:
            contained = np.all(covering[:, :2] <= box[:2] + 1e-2, axis=1) & np.all(
                covering[:, 2:] >= box[2:] - 1e-2, axis=1
            )
            assert contained.any()


@settings(max_examples=60, deadline=None)
@given(
    sightings=st.dictionaries(st.integers(0, 11), st.lists(boxes, max_size=4), max_size=12),
    step=st.integers(1, 5),
)
def test_tracks_have_no_holes_and_stay_in_the_picture(
    sightings: dict[int, list[tuple[float, float, float, float]]], step: int
) -> None:
    by_frame = {position * step: found(*boxes) for position, boxes in sightings.items()}
    tracks = track(by_frame, range(0, 12 * step, step), PrivacyConfig())
    assert sum(int(t.observed.sum()) for t in tracks) == sum(len(d) for d in by_frame.values())
    assert [t.track_id for t in tracks] == list(range(1, len(tracks) + 1))
    for t in tracks:
        assert np.all(np.diff(t.frame_indices) == 1)
        assert t.boxes_xyxy.min() >= 0
        assert np.all(t.boxes_xyxy[:, 2] <= WIDTH) and np.all(t.boxes_xyxy[:, 3] <= HEIGHT)
        assert t.frame_indices[0] >= 0 and t.frame_indices[-1] < FRAMES


@settings(max_examples=40, deadline=None)
@given(
    start=st.tuples(st.floats(50, 200), st.floats(50, 150)),
    velocity=st.tuples(st.floats(-6, 6), st.floats(-4, 4)),
    size=st.tuples(st.floats(30, 60), st.floats(30, 60)),
)
def test_steady_motion_is_followed_between_looks(
    start: tuple[float, float], velocity: tuple[float, float], size: tuple[float, float]
) -> None:
    def box_at(frame: int) -> tuple[float, float, float, float]:
        left, top = start[0] + velocity[0] * frame, start[1] + velocity[1] * frame
        return left, top, left + size[0], top + size[1]

    looks = range(0, 31, 6)
    visible = [frame for frame in range(31) if box_at(frame)[0] >= 0 and box_at(frame)[1] >= 0]
    seen = {frame: found(box_at(frame)) for frame in looks if frame in visible}
    tracks = track(seen, list(looks))
    index = RegionIndex(tracks)
    for frame in visible:
        truth = np.array([box_at(frame)], np.float32)
        clipped = np.clip(truth, 0, [WIDTH, HEIGHT, WIDTH, HEIGHT])
        if frame <= max(seen, default=-1):
            covering = index.boxes_at(frame)
            inside = np.all(covering[:, :2] <= clipped[:, :2] + 0.01, axis=1) & np.all(
                covering[:, 2:] >= clipped[:, 2:] - 0.01, axis=1
            )
            assert inside.any()


def test_a_missed_look_stays_covered() -> None:
    box = (100.0, 100.0, 160.0, 160.0)
    (only,) = track({0: found(box), 12: found(box)}, range(0, 60, 6))
    assert {6, 9} <= set(only.frame_indices.tolist())
    assert not only.observed[6]


def test_a_region_unseen_for_longer_than_the_gap_starts_a_new_track() -> None:
    box = (100.0, 100.0, 160.0, 160.0)
    config = PrivacyConfig(margin_before_s=0, margin_after_s=0, track_max_gap_s=0.5)
    tracks = track({0: found(box), 30: found(box)}, range(0, 60, 6), config)
    assert [int(t.frame_indices[-1]) for t in tracks] == [6, 36]
    assert [int(t.frame_indices[0]) for t in tracks] == [0, 24]


def test_both_ends_reach_the_next_look_and_the_margin_beyond() -> None:
    config = PrivacyConfig(margin_before_s=0.1, margin_after_s=0.2)
    (only,) = track({24: found((10.0, 10.0, 50.0, 50.0))}, range(0, 60, 6), config)
    assert only.frame_indices[0] == 18 - 3
    assert only.frame_indices[-1] == 30 + 6
    assert only.observed.sum() == 1


def test_a_region_seen_at_the_last_look_is_covered_to_the_end() -> None:
    (only,) = track({48: found((10.0, 10.0, 50.0, 50.0))}, range(0, 49, 6))
    assert only.frame_indices[-1] == FRAMES - 1


def test_a_leaving_region_is_followed_with_its_velocity_and_where_it_was() -> None:
    seen = {0: found((100.0, 100.0, 160.0, 160.0)), 6: found((130.0, 100.0, 190.0, 160.0))}
    (only,) = track(seen, range(0, 60, 6))
    last = only.boxes_xyxy[only.frame_indices == 12][0]
    assert last.tolist() == pytest.approx([130, 100, 220, 160], abs=0.5)


def test_a_jump_without_overlap_covers_both_places_until_it_is_decided() -> None:
    seen = {0: found((100.0, 100.0, 140.0, 140.0)), 6: found((150.0, 100.0, 190.0, 140.0))}
    (only,) = track(seen, range(0, 12, 6))
    early = only.boxes_xyxy[only.frame_indices == 2][0]
    late = only.boxes_xyxy[only.frame_indices == 5][0]
    assert early[0] == pytest.approx(100) and early[2] > 140
    assert late[2] == pytest.approx(190) and late[0] < 150


def test_two_close_regions_keep_their_tracks() -> None:
    left, right = (100.0, 100.0, 150.0, 150.0), (160.0, 100.0, 210.0, 150.0)
    tracks = track({0: found(left, right), 6: found(right, left), 12: found(left, right)}, range(0, 60, 6))
    assert len(tracks) == 2
    for t in tracks:
        assert np.ptp(t.boxes_xyxy[:, 0]) == 0


def test_a_very_different_size_is_not_the_same_region() -> None:
    seen = {0: found((100.0, 100.0, 120.0, 120.0)), 6: found((110.0, 121.0, 310.0, 321.0))}
    assert len(track(seen, range(0, 60, 6))) == 2


def test_frames_with_equal_time_stamps_are_covered() -> None:
    stamps = STAMPS.copy()
    stamps[4:8] = stamps[4]
    frames = [FrameDetections(i, found((10.0 + i, 10.0, 50.0 + i, 50.0))) for i in (0, 5, 7, 12)]
    (only,) = build_tracks(
        frames, kind="text", timestamps_ns=stamps, width=WIDTH, height=HEIGHT, config=EXACT
    )
    assert np.isfinite(only.boxes_xyxy).all()
    assert only.boxes_xyxy[5].tolist() == pytest.approx([15, 10, 55, 50])


def test_examined_frames_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="ascending"):
        track({}, [6, 0])


def test_the_index_returns_regions_of_one_frame_only() -> None:
    seen = {0: found((0.0, 0.0, 10.0, 10.0)), 30: found((200.0, 200.0, 210.0, 210.0))}
    config = PrivacyConfig(margin_before_s=0, margin_after_s=0, track_max_gap_s=0.1)
    index = RegionIndex(track(seen, range(0, 60, 3), config))
    assert index.boxes_at(0).tolist() == [[0, 0, 10, 10]]
    assert index.boxes_at(30).tolist() == [[200, 200, 210, 210]]
    assert index.boxes_at(15).shape == (0, 4)
    assert RegionIndex([]).boxes_at(0).shape == (0, 4)


def test_iou_of_known_boxes() -> None:
    a = np.array([[0, 0, 10, 10], [5, 5, 5, 5]], np.float32)
    b = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]], np.float32)
    assert iou_matrix(a, b).tolist() == [[1.0, pytest.approx(1 / 3), 0.0], [0.0, 0.0, 0.0]]
