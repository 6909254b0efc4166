from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ego_assets.privacy.config import PrivacyConfig
from ego_assets.privacy.tracking import (
    FrameDetections,
    RegionIndex,
    Track,
    build_tracks,
    correction_tracks,
)
from ego_assets.schema.corrections import Correction
from ego_assets.schema.detections import Detections, iou_matrix
from ego_assets.schema.motion import CameraMotion
from ego_assets.schema.timeline import NANOSECONDS

WIDTH, HEIGHT, FPS, FRAMES = 640, 360, 30, 60
STAMPS = np.arange(FRAMES, dtype=np.int64) * (NANOSECONDS // FPS)
EXACT = PrivacyConfig(margin_before_s=0, margin_after_s=0, widen_per_s=0)


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
    # Of two sightings the velocity is followed for half a box size.
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


def camera_at(positions_x: npt.NDArray[np.float64], cuts: tuple[int, ...] = ()) -> CameraMotion:
    is_cut = np.zeros(FRAMES, np.bool_)
    is_cut[list(cuts)] = True
    return CameraMotion(
        positions_xy=np.stack([positions_x, np.zeros(FRAMES)], axis=1),
        change=is_cut.astype(np.float32),
        is_cut=is_cut,
    )


def track_with(
    camera: CameraMotion, looks: list[FrameDetections], config: PrivacyConfig = EXACT
) -> list[Track]:
    return build_tracks(
        looks, kind="faces", timestamps_ns=STAMPS, width=WIDTH, height=HEIGHT, config=config, camera=camera
    )


def looks_at(sightings: dict[int, Detections], examined: range) -> list[FrameDetections]:
    return [FrameDetections(index, sightings.get(index, Detections.empty())) for index in examined]


@settings(max_examples=30, deadline=None)
@given(
    amplitude=st.floats(20, 120),
    period=st.integers(8, 40),
    left=st.floats(200, 350),
    size=st.floats(12, 60),
)
def test_a_still_region_is_covered_while_the_head_turns_between_looks(
    amplitude: float, period: int, left: float, size: float
) -> None:
    positions = amplitude * np.sin(2 * np.pi * np.arange(FRAMES) / period)

    def box(frame: int) -> tuple[float, float, float, float]:
        return left + positions[frame], 100.0, left + size + positions[frame], 100 + size

    tracks = track_with(
        camera_at(positions), looks_at({i: found(box(i)) for i in range(0, 60, 12)}, range(0, 60, 12))
    )
    index = RegionIndex(tracks)
    for frame in range(FRAMES):
        truth = np.array([box(frame)], np.float32)
        assert iou_matrix(truth, index.boxes_at(frame)).max(initial=0.0) > 0.95


def test_both_ends_of_a_track_move_with_the_camera() -> None:
    positions = 3.0 * np.arange(FRAMES)
    looks = looks_at({24: found((200.0, 100.0, 240.0, 140.0))}, range(0, 60, 12))
    (only,) = track_with(camera_at(positions), looks)
    assert only.frame_indices[[0, -1]].tolist() == [12, 36]
    assert only.boxes_xyxy[0].tolist() == pytest.approx([164, 100, 204, 140])
    assert only.boxes_xyxy[-1].tolist() == pytest.approx([236, 100, 276, 140])


def test_a_region_that_the_wearer_carries_is_one_track() -> None:
    positions = 10.0 * np.arange(FRAMES)
    box = (300.0, 200.0, 360.0, 260.0)
    (only,) = track_with(
        camera_at(positions), looks_at({i: found(box) for i in range(0, 60, 6)}, range(0, 60, 6))
    )
    assert only.observed.sum() == 10


def test_a_region_does_not_cross_a_cut_by_nearness() -> None:
    seen = {12: found((100.0, 100.0, 140.0, 140.0)), 18: found((150.0, 100.0, 190.0, 140.0))}
    together = track_with(camera_at(np.zeros(FRAMES)), looks_at(seen, range(0, 60, 6)))
    apart = track_with(camera_at(np.zeros(FRAMES), cuts=(15,)), looks_at(seen, range(0, 60, 6)))
    assert (len(together), len(apart)) == (1, 2)
    for t, (start, end) in zip(apart, ((6, 18), (12, 24)), strict=True):
        assert t.frame_indices[[0, -1]].tolist() == [start, end]


def test_a_region_that_stays_in_place_crosses_what_only_looked_like_a_cut() -> None:
    box = (100.0, 100.0, 140.0, 140.0)
    seen = {12: found(box), 18: found(box)}
    assert len(track_with(camera_at(np.zeros(FRAMES), cuts=(15,)), looks_at(seen, range(0, 60, 6)))) == 1


def test_a_weak_sighting_gets_half_of_the_margins() -> None:
    config = PrivacyConfig(margin_before_s=0.3, margin_after_s=0.3)
    box = (100.0, 100.0, 140.0, 140.0)
    (weak,) = track({24: found(box, score=0.3)}, range(0, 60, 6), config)
    assert weak.frame_indices[[0, -1]].tolist() == [14, 34]
    (clear,) = track({24: found(box, score=0.8)}, range(0, 60, 6), config)
    assert clear.frame_indices[[0, -1]].tolist() == [9, 39]


def test_weak_sightings_far_apart_are_not_joined() -> None:
    box = (100.0, 100.0, 140.0, 140.0)
    config = PrivacyConfig(margin_before_s=0, margin_after_s=0, track_weak_gap_s=0.5)
    assert len(track({6: found(box, score=0.3), 36: found(box, score=0.3)}, range(0, 60, 6), config)) == 2
    assert len(track({6: found(box, score=0.9), 36: found(box, score=0.3)}, range(0, 60, 6), config)) == 1


def test_ordinary_looks_do_not_disprove_what_only_the_fine_scale_shows() -> None:
    box = found((100.0, 100.0, 112.0, 112.0))
    looks = [
        FrameDetections(0, Detections.empty(), "fine"),
        FrameDetections(10, Detections.empty(), "ordinary"),
        FrameDetections(20, Detections.empty(), "ordinary"),
        FrameDetections(30, box, "fine", np.array([True])),
        FrameDetections(40, Detections.empty(), "ordinary"),
        FrameDetections(59, Detections.empty(), "fine"),
    ]
    (only,) = track_with(CameraMotion.still(FRAMES), looks)
    # From the fine look before it on; afterwards it is in focus at every look.
    assert only.frame_indices[[0, -1]].tolist() == [0, 40]


def test_both_scales_of_a_look_are_combined() -> None:
    ordinary = found((100.0, 100.0, 200.0, 200.0), score=0.4)
    fine = [found((105.0, 95.0, 205.0, 195.0), (400.0, 100.0, 410.0, 110.0), score=0.7)]
    combined = FrameDetections.combined(3, ordinary=ordinary, fine=fine, look="fine")
    assert combined.detections.boxes_xyxy.tolist() == [[100, 95, 205, 200], [400, 100, 410, 110]]
    assert combined.detections.scores.tolist() == pytest.approx([0.7, 0.7])
    assert combined.found_finely is not None
    assert combined.found_finely.tolist() == [False, True]


def test_a_weak_and_shifted_sighting_between_clear_ones_is_covered_along_with_the_straight_line() -> None:
    clear = (100.0, 100.0, 140.0, 140.0)
    seen = {0: found(clear), 3: found((115.0, 115.0, 155.0, 155.0), score=0.25), 6: found(clear)}
    (only,) = track(seen, range(0, 60, 3))
    assert only.boxes_xyxy[3].tolist() == [100, 100, 155, 155]


def test_boxes_grow_with_the_time_since_the_nearest_sighting() -> None:
    config = PrivacyConfig(margin_before_s=0, margin_after_s=0, widen_per_s=0.5, widen_most=0.2)
    box = (100.0, 100.0, 140.0, 140.0)
    (only,) = track({0: found(box), 42: found(box)}, range(0, 60, 6), config)
    widths = only.boxes_xyxy[:, 2] - only.boxes_xyxy[:, 0]
    assert widths[0] == 40 and widths[42] == 40
    assert widths[6] == pytest.approx(40 * (1 + 2 * 0.5 * 6 / 30), abs=0.1)
    assert widths.max() == pytest.approx(40 * 1.4, abs=0.1)


def test_orders_of_people_become_tracks() -> None:
    def order(first: int, last: int, box: tuple[float, float, float, float] | None = None) -> Correction:
        return Correction(clip_id="c", kind="other", first_frame=first, last_frame=last, box_xyxy=box)

    orders = [
        order(3, 5, (10.0, 20.0, 9000.0, 60.0)),
        order(58, 900),
        order(60, 70),
        order(0, 3, (5000.0, 0.0, 6000.0, 10.0)),
    ]
    tracks = correction_tracks(orders, frame_count=FRAMES, width=WIDTH, height=HEIGHT, first_track_id=7)
    assert [t.track_id for t in tracks] == [7, 8]
    assert [t.kind for t in tracks] == ["other", "other"]
    assert tracks[0].frame_indices.tolist() == [3, 4, 5]
    assert tracks[0].boxes_xyxy.tolist() == [[10, 20, WIDTH, 60]] * 3
    assert tracks[1].frame_indices.tolist() == [58, 59]
    assert tracks[1].boxes_xyxy.tolist() == [[0, 0, WIDTH, HEIGHT]] * 2
    assert all(t.observed.all() and t.scores.min() == 1 for t in tracks)


def test_wrong_looks_and_cameras_are_refused() -> None:
    with pytest.raises(ValueError, match="look"):
        FrameDetections(0, Detections.empty(), "coarse")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="found_finely"):
        FrameDetections(0, Detections.empty(), "fine", np.array([True]))
    with pytest.raises(ValueError, match="camera"):
        track_with(CameraMotion.still(FRAMES - 1), looks_at({}, range(0, 60, 6)))
    with pytest.raises(ValueError, match="below"):
        track_with(CameraMotion.still(FRAMES), [FrameDetections(FRAMES, Detections.empty())])
