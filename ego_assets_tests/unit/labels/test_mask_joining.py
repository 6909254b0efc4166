"""Which proposed masks are whole objects, and which are known instances."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ego_assets.labels.mask_joining import join_by_overlap, whole_objects

SIDE = 40
Masks = npt.NDArray[np.bool_]


def box(left: int, top: int, right: int, bottom: int) -> npt.NDArray[np.bool_]:
    mask = np.zeros((SIDE, SIDE), np.bool_)
    mask[top:bottom, left:right] = True
    return mask


def shared(a: Masks, b: Masks) -> npt.NDArray[np.int64]:
    flat_a, flat_b = (masks.reshape(len(masks), SIDE**2).astype(np.int64) for masks in (a, b))
    return np.asarray(flat_a @ flat_b.T)


def chosen(*masks: npt.NDArray[np.bool_], scores: list[float] | None = None, most: int = 10) -> list[int]:
    stack = np.stack(masks)
    found = whole_objects(
        shared(stack, stack),
        np.array(scores or [0.9] * len(masks)),
        pixels=SIDE**2,
        min_share=0.005,
        max_count=most,
    )
    return [int(place) for place in found]


@st.composite
def boxes(draw: st.DrawFn) -> Masks:
    count = draw(st.integers(1, 8))
    places = st.integers(0, SIDE - 4)
    sizes = st.integers(1, SIDE)
    drawn = [(draw(places), draw(places), draw(sizes), draw(sizes)) for _ in range(count)]
    return np.stack([box(left, top, left + width, top + height) for left, top, width, height in drawn])


def test_a_part_gives_way_to_its_whole() -> None:
    mug, handle, bottle = box(2, 2, 14, 12), box(10, 4, 14, 10), box(20, 20, 26, 34)
    assert chosen(handle, mug, bottle, scores=[0.99, 0.9, 0.8]) == [1, 2]


def test_things_on_a_surface_are_things() -> None:
    table, cup = box(0, 15, 40, 40), box(5, 20, 11, 27)
    assert chosen(cup, table) == [1, 0]


def test_of_equal_masks_the_best_stands() -> None:
    assert chosen(box(2, 2, 12, 12), box(2, 2, 12, 13), box(2, 2, 13, 12), scores=[0.8, 0.9, 0.7]) == [1]


def test_specks_and_the_whole_picture_are_no_objects() -> None:
    assert chosen(box(0, 0, SIDE, SIDE), box(3, 3, 5, 5), box(10, 10, 20, 20)) == [2]


def test_the_largest_are_taken_where_there_are_too_many() -> None:
    masks = [box(10 * k, 0, 10 * k + 3 + k, 8) for k in range(4)]
    assert chosen(*masks, most=2) == [3, 2]


@given(masks=boxes(), most=st.integers(1, 6), seed=st.integers(0, 99))
def test_objects_are_different_whole_and_few(masks: Masks, most: int, seed: int) -> None:
    scores = np.random.default_rng(seed).random(len(masks))
    pixels = shared(masks, masks)
    found = whole_objects(pixels, scores, pixels=SIDE**2, min_share=0.01, max_count=most).tolist()
    areas = np.diagonal(pixels)
    assert len(set(found)) == len(found) <= most
    assert [areas[k] for k in found] == sorted((areas[k] for k in found), reverse=True)
    for place, small in enumerate(found):
        assert 0.01 * SIDE**2 <= areas[small] <= 0.8 * SIDE**2
        for large in found[:place]:
            union = areas[small] + areas[large] - pixels[small, large]
            assert pixels[small, large] <= 0.5 * union
            if areas[large] <= 0.25 * SIDE**2:
                assert pixels[small, large] < 0.8 * areas[small]


def joined(new: Masks, known: Masks) -> tuple[list[int], list[bool]]:
    found = join_by_overlap(shared(new, known), new.sum(axis=(1, 2)), known.sum(axis=(1, 2)), pixels=SIDE**2)
    return [int(k) for k in found.known], [bool(k) for k in found.is_new]


def test_what_moved_a_little_is_still_the_same() -> None:
    known = np.stack([box(2, 2, 12, 12), box(20, 20, 30, 30)])
    new = np.stack([box(21, 20, 31, 30), box(3, 2, 13, 12)])
    assert joined(new, known) == ([1, 0], [False, False])


def test_what_came_into_view_is_new() -> None:
    assert joined(np.stack([box(20, 2, 30, 12)]), np.stack([box(2, 2, 12, 12)])) == ([-1], [True])


def test_what_was_half_hidden_is_the_same_thing() -> None:
    assert joined(np.stack([box(2, 2, 22, 12)]), np.stack([box(2, 2, 9, 12)])) == ([0], [False])


def test_a_group_or_a_part_of_known_things_is_nothing_new() -> None:
    known = np.stack([box(2, 2, 12, 12), box(12, 2, 22, 12)])
    assert joined(np.stack([box(2, 2, 22, 12), box(3, 3, 6, 6)]), known)[1] == [False, False]


def test_a_thing_on_a_known_table_is_new() -> None:
    assert joined(np.stack([box(5, 20, 11, 27)]), np.stack([box(0, 15, 40, 40)])) == ([-1], [True])


def test_nothing_is_joined_with_nothing() -> None:
    nothing = np.zeros((0, SIDE, SIDE), np.bool_)
    assert joined(nothing, np.stack([box(0, 0, 5, 5)])) == ([], [])
    assert joined(np.stack([box(0, 0, 5, 5)]), nothing) == ([-1], [True])


def test_counts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        join_by_overlap(np.zeros((2, 3), int), np.zeros(2, int), np.zeros(2, int), pixels=100)


@given(masks=boxes(), seed=st.integers(0, 99))
def test_joining_is_one_to_one_and_knows_what_did_not_change(masks: Masks, seed: int) -> None:
    labels = np.zeros((SIDE, SIDE), np.int64)
    for number, mask in enumerate(masks):
        labels[mask] = number + 1
    known = np.stack([labels == number for number in np.unique(labels) if number])
    order = np.random.default_rng(seed).permutation(len(known))
    found, is_new = joined(known[order], known)
    assert found == order.tolist(), "the same masks in any order are the same instances"
    assert not any(is_new)
    found, is_new = joined(masks, known)
    given_away = [place for place in found if place >= 0]
    assert len(set(given_away)) == len(given_away)
    assert not any(new and place >= 0 for new, place in zip(is_new, found, strict=True))
