"""Pictures for people: what is near is warm, what is unknown looks like nothing else, names can be read."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ego_assets.media.overlays import depth_picture, draw_box, draw_label, mask_overlay, side_by_side

ALL = np.ones((90, 160), np.bool_)
RAMP = np.broadcast_to(np.linspace(1, 5, 160, dtype=np.float32), (90, 160)).copy()
GREY = np.full((90, 160, 3), 128, np.uint8)
PALETTE = np.zeros((256, 3), np.uint8)
PALETTE[1], PALETTE[2] = (255, 0, 0), (0, 0, 255)


def warmth(picture: np.ndarray) -> np.ndarray:
    """Red minus blue."""
    return picture[..., 2].astype(int) - picture[..., 0]


def test_near_is_warm_and_far_is_cold() -> None:
    picture = depth_picture(RAMP, ALL)
    assert picture.shape == (90, 160, 3) and picture.dtype == np.uint8
    columns = warmth(picture).mean(axis=0)
    assert columns[2] > 150 and columns[-3] < -80
    # Brightness falls all the way: the order can be read without colour as well.
    grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY).mean(axis=0)
    assert (np.diff(grey[5:-5]) <= 1).all()


def test_millimetres_and_metres_look_the_same() -> None:
    as_stored = np.rint(RAMP * 1000).astype(np.uint16)
    difference = depth_picture(RAMP, ALL).astype(int) - depth_picture(as_stored, ALL)
    assert np.abs(difference).max() <= 4


def test_unknown_pixels_are_grey_and_hatched() -> None:
    valid = ALL.copy()
    valid[:, 80:] = False
    picture = depth_picture(RAMP, valid)
    unknown = picture[:, 80:]
    assert (unknown.max(axis=2) == unknown.min(axis=2)).all()
    assert len(np.unique(unknown)) == 2
    known = picture[:, :80].astype(int)
    # No known depth looks like it.
    assert (known.max(axis=2) - known.min(axis=2)).min() > 40


@pytest.mark.parametrize("depth", [np.zeros((90, 160), np.float32), np.full((90, 160), 2, np.float32)])
def test_empty_and_flat_maps_have_a_picture(depth: np.ndarray) -> None:
    picture = depth_picture(depth, ALL)
    is_coloured = picture.max(axis=2) != picture.min(axis=2)
    assert is_coloured.all() if depth.any() else not is_coloured.any()


def test_one_range_makes_pictures_comparable() -> None:
    near = depth_picture(RAMP, ALL, nearest=1, farthest=20)
    far = depth_picture(RAMP + 10, ALL, nearest=1, farthest=20)
    assert warmth(near).mean() > warmth(far).mean() + 50


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="depth, valid"):
        depth_picture(RAMP, ALL[:10])
    with pytest.raises(ValueError, match="ids, palette"):
        mask_overlay(GREY, np.zeros((10, 10), np.uint8), PALETTE)


def test_masks_colour_their_own_pixels_only() -> None:
    ids = np.zeros((90, 160), np.uint8)
    ids[20:60, 20:60], ids[20:60, 60:100] = 1, 2
    picture = mask_overlay(GREY, ids, PALETTE)
    np.testing.assert_array_equal(picture[ids == 0], GREY[ids == 0])
    red, blue = picture[40, 40], picture[40, 80]
    assert red[2] > red[0] and blue[0] > blue[2]
    # The outline between two instances has the full colour.
    assert tuple(picture[40, 59]) == (0, 0, 255) and tuple(picture[40, 60]) == (255, 0, 0)
    assert (GREY == 128).all()


@pytest.mark.parametrize("box", [(40, 40, 120, 80), (-20, -20, 50, 50), (100, 60, 400, 300), (50, 0, 60, 4)])
def test_boxes_and_names_stay_inside_and_leave_the_picture_alone(box: tuple[int, ...]) -> None:
    picture = draw_box(GREY, box, (255, 0, 0), "left: grasp")
    assert picture.shape == GREY.shape and (GREY == 128).all()
    assert (picture[..., 2] > picture[..., 0]).sum() > 100
    unnamed = draw_box(GREY, box, (255, 0, 0))
    assert (picture != GREY).sum() > (unnamed != GREY).sum()


@pytest.mark.parametrize(("width", "tile"), [(1280, 240), (640, 320), (320, 320)])
def test_letters_can_be_read_on_a_tile(width: int, tile: int) -> None:
    image = np.full((width * 9 // 16, width, 3), 128, np.uint8)
    picture = cv2.resize(draw_label(image, "HH"), (tile, tile * 9 // 16), interpolation=cv2.INTER_AREA)
    ink = np.nonzero((picture < 90).all(axis=2))
    assert ink[0].max() - ink[0].min() >= 8


def test_long_names_are_made_to_fit() -> None:
    label = "a name that is far too long for such a small picture"
    picture = draw_label(GREY, label)
    assert picture.shape == GREY.shape
    ink = np.nonzero((picture < 60).all(axis=2))
    # The last letters are there, and not cut off at the edge.
    assert 140 < ink[1].max() < 159


@pytest.mark.parametrize(("colour", "ink"), [((255, 255, 255), 0), ((20, 20, 120), 255)])
def test_ink_differs_from_its_plate(colour: tuple[int, int, int], ink: int) -> None:
    picture = draw_label(np.full((360, 640, 3), 128, np.uint8), "name", colour)
    assert (picture == ink).all(axis=2).any()


def test_pictures_in_a_row_have_one_height() -> None:
    row = side_by_side(GREY, np.full((45, 40, 3), 10, np.uint8), np.full((180, 200, 3), 20, np.uint8))
    assert row.shape[0] == 90 and row.shape[1] >= 160 + 80 + 100
    assert (row[:, -50:] == 20).all()
    with pytest.raises(ValueError, match="at least one"):
        side_by_side()
