"""What the reference backends do before and after the network, in plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from resources.models.boxes import (
    decode_priors,
    letterbox,
    positions_by_size,
    prior_boxes,
    suppressed,
    xywh_to_xyxy,
)
from resources.models.egoblur import egoblur_size
from resources.models.paddle_text import boxes_of_polygons
from resources.models.plate_networks import decode_affine, decode_yolo, wpod_size
from resources.models.retinaface import decode_faces

SIDES = ((16, 32), (64, 128), (256, 512))


def test_priors_lie_where_the_maps_say() -> None:
    priors = prior_boxes(width=64, height=32, strides=(8, 16, 32), sides=SIDES)
    assert priors.shape == (2 * (8 * 4 + 4 * 2 + 2 * 1), 4) and priors.dtype == np.float32
    # Cells by row, two sides in each cell, the finest map first.
    assert priors[:3].tolist() == [[4, 4, 16, 16], [4, 4, 32, 32], [12, 4, 16, 16]]
    assert priors[2 * 8].tolist() == [4, 12, 16, 16]
    assert priors[-1].tolist() == [48, 16, 512, 512]


def test_an_incomplete_cell_at_the_edge_has_priors() -> None:
    assert len(prior_boxes(width=65, height=32, strides=(32,), sides=((16,),))) == 3


@given(
    box=st.tuples(st.floats(0, 300), st.floats(0, 300), st.floats(4, 200), st.floats(4, 200)),
    index=st.integers(0, 83),
)
def test_decoding_undoes_the_encoding_of_the_paper(box: tuple[float, ...], index: int) -> None:
    prior = prior_boxes(width=64, height=32, strides=(8, 16, 32), sides=SIDES)[index]
    center_x, center_y, width, height = box
    regression = [
        (center_x - prior[0]) / prior[2] / 0.1,
        (center_y - prior[1]) / prior[3] / 0.1,
        np.log(width / prior[2]) / 0.2,
        np.log(height / prior[3]) / 0.2,
    ]
    (decoded,) = decode_priors(prior[None], np.array([regression], np.float32))
    expected = [center_x - width / 2, center_y - height / 2, center_x + width / 2, center_y + height / 2]
    assert decoded == pytest.approx(expected, abs=0.02)


def test_faces_below_the_threshold_are_left_out_and_nan_is_not() -> None:
    priors = prior_boxes(width=32, height=32, strides=(8, 16, 32), sides=SIDES)
    scores = np.zeros(len(priors), np.float32)
    scores[5], scores[7], scores[9] = 0.5, 0.3, np.nan
    regression = np.zeros((len(priors), 4), np.float32)
    boxes, kept = decode_faces(regression, scores, width=32, height=32, prior_sides=SIDES, threshold=0.5)
    assert kept[0] == 0.5 and np.isnan(kept[1]) and len(kept) == 2
    center_x, center_y, side, _ = priors[5]
    assert boxes[0].tolist() == [
        center_x - side / 2,
        center_y - side / 2,
        center_x + side / 2,
        center_y + side / 2,
    ]
    with pytest.raises(ValueError, match="expected 42 anchors for 32 x 32 pixels, got"):
        decode_faces(regression[1:], scores[1:], width=32, height=32, prior_sides=SIDES, threshold=0.5)


@given(
    boxes=hnp.arrays(
        np.float32, st.tuples(st.integers(0, 12), st.just(4)), elements=st.floats(-50, 250, width=32)
    ),
    scores=st.lists(st.floats(0, 1, width=32), min_size=12, max_size=12),
)
def test_suppression_keeps_boxes_inside_apart_and_strongest_first(
    boxes: np.ndarray, scores: list[float]
) -> None:
    from ego_assets.schema.detections import iou_matrix

    found = suppressed(boxes, np.array(scores[: len(boxes)], np.float32), iou=0.4, width=200, height=100)
    kept = found.boxes_xyxy
    assert np.all(kept >= 0) and np.all(kept[:, ::2] <= 200) and np.all(kept[:, 1::2] <= 100)
    assert np.all(kept[:, 2:] > kept[:, :2])
    assert np.all(np.diff(found.scores) <= 0)
    overlap = iou_matrix(kept, kept) - np.eye(len(kept))
    assert overlap.max(initial=0) <= 0.4 + 1e-4


def test_what_is_not_finite_is_refused() -> None:
    box = np.array([[0, 0, 10, 10]], np.float32)
    with pytest.raises(ValueError, match="finite"):
        suppressed(box, np.array([np.nan], np.float32), iou=0.4, width=20, height=20)
    with pytest.raises(ValueError, match="finite"):
        suppressed(np.full((1, 4), np.inf, np.float32), np.ones(1, np.float32), iou=0.4, width=20, height=20)


@given(
    width=st.integers(1, 700),
    height=st.integers(1, 700),
    side=st.sampled_from([(640, 640), (640, 352), (32, 64)]),
)
def test_a_box_survives_the_letterbox(width: int, height: int, side: tuple[int, int]) -> None:
    fitted = letterbox(np.zeros((height, width, 3), np.uint8), width=side[0], height=side[1], fill=114)
    assert fitted.canvas.shape == (side[1], side[0], 3)
    offset = np.array([fitted.left, fitted.top] * 2, np.float32)
    truth = np.array([[0, 0, width, height]], np.float32)
    assert fitted.to_picture(truth * np.float32(fitted.scale) + offset) == pytest.approx(truth, abs=0.05)


def test_the_letterbox_centres_the_picture_on_grey() -> None:
    fitted = letterbox(np.full((20, 40, 3), 200, np.uint8), width=80, height=80, fill=114)
    assert (fitted.scale, fitted.left, fitted.top) == (2, 0, 20)
    assert np.all(fitted.canvas[20:60] == 200)
    assert np.all(fitted.canvas[:20] == 114) and np.all(fitted.canvas[60:] == 114)


@given(sizes=st.lists(st.sampled_from([(1, 2), (2, 1), (3, 3)]), max_size=20))
def test_groups_hold_all_of_a_size_and_come_as_the_sizes_do(sizes: list[tuple[int, int]]) -> None:
    groups = list(positions_by_size(size for size in sizes))
    assert sorted(position for group in groups for position in group) == list(range(len(sizes)))
    assert [sizes[group[0]] for group in groups] == list(dict.fromkeys(sizes))
    assert all({sizes[position] for position in group} == {sizes[group[0]]} for group in groups)
    assert all(group == sorted(group) for group in groups)


# --- YOLO ---------------------------------------------------------------------------------------------

CENTERED = [100.0, 50.0, 40.0, 20.0]
CORNERS = [80.0, 40.0, 120.0, 60.0]


def test_both_yolo_layouts_say_the_same() -> None:
    plain = np.zeros((6, 30), np.float32)
    plain[:, 3] = [*CENTERED, 0.1, 0.8]
    anchored = np.zeros((30, 7), np.float32)
    anchored[3] = [*CENTERED, 0.9, 0.25, 0.5]
    boxes, scores = decode_yolo(plain, class_count=2)
    assert boxes.shape == (30, 4) and boxes[3].tolist() == CORNERS
    assert scores[3] == pytest.approx(0.8) and scores.sum() == pytest.approx(0.8)
    boxes, scores = decode_yolo(anchored, class_count=2)
    assert boxes.shape == (30, 4) and boxes[3].tolist() == CORNERS
    assert scores[3] == pytest.approx(0.45) and scores.sum() == pytest.approx(0.45)


def test_corners_between_box_and_classes_are_no_classes() -> None:
    output = np.zeros((10, 15), np.float32)
    output[2] = [*CENTERED, 0.5, *[300.0] * 8, 0.25, 0.75]
    boxes, scores = decode_yolo(output, class_count=2, corner_count=4)
    assert boxes[2].tolist() == CORNERS and scores[2] == pytest.approx(0.375)


@pytest.mark.parametrize("shape", [(8, 30), (30, 8), (30,), (300, 4)])
def test_another_yolo_output_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected a YOLO output of \[5, N\] or \[N, 6\] for 1 class"):
        decode_yolo(np.zeros(shape, np.float32), class_count=1)


def test_centre_and_size_become_corners() -> None:
    assert xywh_to_xyxy(np.array([CENTERED], np.float32)).tolist() == [CORNERS]


# --- WPOD-NET -----------------------------------------------------------------------------------------


def test_an_affine_cell_is_the_plate_it_means() -> None:
    probability = np.zeros((4, 6), np.float32)
    probability[1, 2] = 0.9
    affine = np.zeros((6, 4, 6), np.float32)
    # 0.8 and 0.2 of the mean side, sheared, and moved by 0.1 of it to the right.
    affine[:, 1, 2] = [0.8, 0.1, 0.1, 0.05, 0.2, 0.0]
    corners, scores = decode_affine(probability, affine, threshold=0.5)
    assert scores.tolist() == [pytest.approx(0.9)]
    side = 7.75 * 16
    center = np.array([2.5 * 16 + 0.1 * side, 1.5 * 16])
    expected = [
        center + side * np.array([0.8 * x + 0.1 * y, 0.05 * x + 0.2 * y])
        for x, y in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))
    ]
    assert corners[0] == pytest.approx(np.array(expected), abs=1e-3)


def test_a_mirrored_plate_has_no_size() -> None:
    affine = np.zeros((6, 1, 1), np.float32)
    affine[:, 0, 0] = [-0.8, 0, 0, 0, -0.2, 0]
    corners, _ = decode_affine(np.ones((1, 1), np.float32), affine, threshold=0.5)
    assert corners[0].tolist() == [[8, 8]] * 4


def test_cells_below_the_threshold_are_left_out() -> None:
    corners, scores = decode_affine(
        np.full((2, 2), 0.4, np.float32), np.zeros((6, 2, 2), np.float32), threshold=0.5
    )
    assert corners.shape == (0, 4, 2) and scores.shape == (0,)


@given(width=st.integers(16, 4000), height=st.integers(16, 4000))
def test_the_shorter_side_is_what_was_asked_for(width: int, height: int) -> None:
    size = wpod_size(width, height, shorter_side=608)
    assert min(size) == 608 and all(side % 16 == 0 for side in size)


@pytest.mark.parametrize(
    ("size", "expected"), [((1920, 1080), (1200, 675)), ((300, 400), (900, 1200)), ((5000, 1), (1200, 1))]
)
def test_egoblur_scales_the_longer_side(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert egoblur_size(*size, longer_side=1200) == expected


# --- text ---------------------------------------------------------------------------------------------


def test_polygons_become_upright_boxes_inside_the_picture() -> None:
    slanted = np.array([[10, 20], [60, 10], [62, 20], [12, 30]], np.int16)
    outside = [[90, 90], [130, 90], [130, 95], [90, 95]]
    gone = [[120, 5], [140, 5], [140, 9], [120, 9]]
    found = boxes_of_polygons([slanted, outside, gone], [0.9, 0.5, 0.4], width=100, height=100)
    assert found.boxes_xyxy.tolist() == [[10, 10, 62, 30], [90, 90, 100, 95]]
    assert found.scores.tolist() == [pytest.approx(0.9), 0.5]
    assert len(boxes_of_polygons([], [], width=5, height=5)) == 0
