"""Instances followed through a clip."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pytest

from ego_assets.labels.mask_tracking import (
    HAND_IDS,
    TrackingOptions,
    _Look,
    _Tracker,
    _Unseen,
    trace_back,
    track_masks,
)
from ego_assets.labels.masks import FoundPerson
from ego_assets.schema.detections import BgrImage
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.hands import HandObjectTracks, HandSide, HandTrack
from ego_assets.schema.masks import MASK_CATEGORIES, MaskFrame

WIDTH, HEIGHT, STEP_NS = 240, 136, 200_000_000
_TEXTURE = np.random.default_rng(3).integers(-18, 19, (HEIGHT // 4, 3 * WIDTH // 4))


def scene(position: int, *, colour: tuple[int, int, int] = (40, 40, 200), camera: int = 0) -> BgrImage:
    """A textured wall with a square on it; both move with the camera, the square also alone."""
    texture = cv2.resize(_TEXTURE.astype(np.float32), (3 * WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    wall = np.clip(130 + texture[..., None], 0, 255).repeat(3, axis=2).astype(np.uint8)
    wall[:, : 3 * WIDTH // 2] = np.clip(wall[:, : 3 * WIDTH // 2] + np.array([0, 0, 60]), 0, 255)
    left = WIDTH + position
    wall[50:90, left : left + 40] = colour
    return np.ascontiguousarray(wall[:, WIDTH + camera : 2 * WIDTH + camera])


def frames(images: Sequence[BgrImage]) -> list[ClipFrame]:
    return [ClipFrame(number * 6, number * STEP_NS, image) for number, image in enumerate(images)]


def square_id(masks: MaskFrame, position: int, camera: int = 0) -> int:
    return int(masks.instance_ids[70, position - camera + 20])


def overlap(masks: MaskFrame, instance_id: int, position: int) -> float:
    true = np.zeros((HEIGHT, WIDTH), bool)
    true[50:90, position : position + 40] = True
    found = masks.instance_ids == instance_id
    return float((found & true).sum() / (found | true).sum())


def hands_at(
    boxes: dict[HandSide, list[tuple[int, int, int, int] | None]],
    *,
    contact: list[tuple[int, int, int, int] | None] | None = None,
    resolution: tuple[int, int] = (WIDTH, HEIGHT),
) -> HandObjectTracks:
    count = max(len(places) for places in boxes.values())

    def rows(places: Sequence[tuple[int, int, int, int] | None]) -> np.ndarray:
        return np.array([[np.nan] * 4 if box is None else box for box in places], np.float32)

    def track(side: HandSide) -> HandTrack:
        places = boxes.get(side, [None] * count)
        touched = contact if contact is not None and side in boxes else [None] * count
        return HandTrack(
            side=side,
            visible=np.array([box is not None for box in places]),
            boxes_xyxy=rows(places),
            scores=np.full(count, 0.8, np.float32),
            landmarks_xy=np.full((count, 21, 2), np.nan, np.float32),
            states=tuple(None if box is None else "free" for box in places),
            state_scores=np.full(count, 0.8, np.float32),
            contact_boxes_xyxy=rows(touched),
            contact_scores=np.array([0.0 if box is None else 0.9 for box in touched], np.float32),
        )

    return HandObjectTracks(
        frame_index=np.arange(count, dtype=np.int64) * 6,
        timestamps_ns=np.arange(count, dtype=np.int64) * STEP_NS,
        resolution=resolution,
        left=track("left"),
        right=track("right"),
        other_hands=np.zeros(count, np.int64),
    )


class Crowd:
    """Finds what it is told, look after look."""

    def __init__(self, looks: Sequence[np.ndarray | None]) -> None:
        self.looks = list(looks)
        self.asked = 0

    def find(self, image: BgrImage) -> Sequence[FoundPerson]:
        mask = self.looks[min(self.asked, len(self.looks) - 1)]
        self.asked += 1
        return [] if mask is None else [FoundPerson(mask=mask, score=0.9)]


def standing() -> np.ndarray:
    mask = np.zeros((HEIGHT // 2, WIDTH // 2), bool)
    mask[10:60, 80:110] = True
    return mask


def track(images: Sequence[BgrImage], **options: object) -> list[MaskFrame]:
    vocabulary = options.pop("vocabulary", MASK_CATEGORIES)
    return list(track_masks(iter(frames(images)), vocabulary=vocabulary, **options))  # type: ignore[arg-type]


def test_a_thing_that_moves_keeps_its_id_and_its_edges() -> None:
    places = [20 + 6 * number for number in range(10)]
    found = track([scene(place) for place in places])
    ids = {square_id(masks, place) for masks, place in zip(found, places, strict=True)}
    assert len(ids) == 1
    assert min(overlap(masks, min(ids), place) for masks, place in zip(found, places, strict=True)) > 0.85
    assert found[0].reseeded and not all(masks.reseeded for masks in found)


def test_ids_survive_the_search_for_new_regions() -> None:
    found = track([scene(60)] * 8, options=TrackingOptions(reseed_interval_s=0.2))
    assert all(masks.reseeded for masks in found)
    assert len({square_id(masks, 60) for masks in found}) == 1


@pytest.mark.parametrize(("memory_s", "is_known"), [(4.0, True), (0.0, False)])
def test_a_thing_that_comes_back_soon_has_its_old_id(memory_s: float, is_known: bool) -> None:
    hidden = scene(400)
    options = TrackingOptions(reseed_interval_s=0.2, id_memory_s=memory_s)
    found = track([scene(60)] * 3 + [hidden] * 3 + [scene(70)] * 3, options=options)
    before, after = square_id(found[2], 60), square_id(found[-1], 70)
    assert before not in {item.instance_id for item in found[5].instances}
    assert (before == after) == is_known


@pytest.mark.parametrize("other", [scene(60, colour=(200, 60, 40)), scene(170)], ids=["colour", "place"])
def test_another_thing_does_not_get_the_id_of_one_that_is_gone(other: BgrImage) -> None:
    found = track(
        [scene(60)] * 3 + [scene(400)] * 3 + [other] * 3, options=TrackingOptions(reseed_interval_s=0.2)
    )
    assert square_id(found[2], 60) not in {item.instance_id for item in found[-1].instances}


def test_where_a_lost_thing_would_be_moves_with_the_camera() -> None:
    tracker = _Tracker(hands=None, contacts=None, people=None, options=TrackingOptions(reseed_interval_s=0.2))
    shown = frames([scene(60), scene(400), *(scene(400, camera=8 * number) for number in (1, 2, 3))])
    first = tracker.step(shown[0])
    for frame in shown[1:]:
        tracker.step(frame)
    look, _ = tracker._unseen.looks[square_id(first, 60)]
    assert look.centre_xy == pytest.approx([80 - 24, 70], abs=2.5) and look.area == pytest.approx(
        1600, rel=0.1
    )


def test_a_lost_thing_is_recalled_once_where_it_would_be_and_not_for_ever() -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[50:90, 60:100] = True
    look = _Look.of(scene(60), mask)
    unseen = _Unseen(memory_ns=STEP_NS, looks={7: (look, 0)})
    unseen.move(np.array([-100.0, 0.0]), STEP_NS)
    assert unseen.take(look, longer_side=WIDTH) == 0
    moved = _Look.of(np.roll(scene(60), -50, axis=1), np.roll(mask, -50, axis=1))
    assert unseen.take(moved, longer_side=WIDTH) == 7
    assert unseen.take(moved, longer_side=WIDTH) == 0
    forgotten = _Unseen(memory_ns=STEP_NS, looks={7: (look, 0)})
    forgotten.move(np.zeros(2), 2 * STEP_NS)
    assert forgotten.take(look, longer_side=WIDTH) == 0


def test_a_turning_camera_brings_new_instances_and_keeps_the_known() -> None:
    found = track([scene(60, camera=8 * number) for number in range(8)])
    assert len({square_id(masks, 60, 8 * number) for number, masks in enumerate(found)}) == 1
    assert min(float((masks.instance_ids > 0).mean()) for masks in found) > 0.9


def test_after_a_cut_everything_has_a_new_id() -> None:
    other = np.random.default_rng(8).integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
    mosaic = cv2.resize(other, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST)
    found = track([scene(60)] * 3 + [mosaic] * 2)
    assert found[3].reseeded
    assert not {item.instance_id for item in found[2].instances} & {
        item.instance_id for item in found[3].instances
    }


def test_hands_have_fixed_ids_and_sides_and_scale_with_the_picture() -> None:
    box = (140, 40, 180, 90)
    image = scene(20)
    cv2.ellipse(image, (160, 65), (18, 23), 0, 0, 360, (90, 130, 210), -1)
    half = tuple(value // 2 for value in box)
    found = track([image] * 3, hands=hands_at({"right": [half] * 3}, resolution=(WIDTH // 2, HEIGHT // 2)))  # type: ignore[list-item]
    for masks in found:
        hand = [item for item in masks.instances if item.category == "hand"]
        assert [(item.instance_id, item.side) for item in hand] == [(HAND_IDS["right"], "right")]
        assert hand[0].score == pytest.approx(0.8)
        rows, columns = np.nonzero(masks.instance_ids == HAND_IDS["right"])
        assert abs(columns.mean() - 160) < 5 and abs(rows.mean() - 65) < 5


def test_a_lost_hand_is_followed_for_a_while_and_then_given_up() -> None:
    image = scene(20)
    cv2.ellipse(image, (160, 65), (18, 23), 0, 0, 360, (90, 130, 210), -1)
    hands = hands_at({"left": [(140, 40, 180, 90)] * 2 + [None] * 6})
    found = track([image] * 8, hands=hands, options=TrackingOptions(hand_memory_s=0.45))
    seen = [bool((masks.instance_ids == HAND_IDS["left"]).any()) for masks in found]
    assert seen == [True] * 4 + [False] * 4


def test_without_hand_in_the_vocabulary_there_are_no_hands() -> None:
    hands = hands_at({"left": [(140, 40, 180, 90)] * 2})
    found = track([scene(20)] * 2, hands=hands, vocabulary=("person", "object"))
    assert {item.category for masks in found for item in masks.instances} == {"object"}


def test_the_vocabulary_must_offer_a_word_for_the_unknown() -> None:
    with pytest.raises(ValueError, match="object"):
        track([scene(20)], vocabulary=("hand", "person"))


def test_the_thing_in_a_hand_is_one_instance_though_it_has_two_colours() -> None:
    image = scene(60)
    image[50:90, 60:80] = (200, 60, 40)
    contact = [(56, 46, 104, 94)] * 4
    hands = hands_at({"right": [(108, 60, 130, 80)] * 4}, contact=[None, None, *contact[:2]])
    found = track([image] * 4, hands=hands)
    assert found[0].instance_ids[70, 70] != found[0].instance_ids[70, 90]
    assert found[2].reseeded and found[2].instance_ids[70, 70] == found[2].instance_ids[70, 90]


def test_a_held_thing_shares_its_id_with_nothing_else() -> None:
    tracker = _Tracker(hands=None, contacts=None, people=None, options=TrackingOptions())
    regions = np.zeros((100, 100), np.int32)
    regions[40:60, 40:60] = 1
    first, second = tracker._new_id(0.5), tracker._new_id(0.5)
    tracker._held = {"left": first}
    # The background took over the id of what the hand held before.
    ids = np.array([first, second], np.int32)
    box = np.array([38, 38, 62, 62], np.float32)
    assert tracker._hold("left", box, regions, ids, np.zeros((100, 100), np.int32))
    assert ids[1] == first and ids[0] not in (0, first, second)


def test_a_thing_like_the_table_is_cut_out_at_its_box() -> None:
    image = scene(20)
    image[30:110, 125:225] = (118, 126, 134)
    image[55:85, 160:190] = (104, 116, 128)
    hands = hands_at({"right": [(200, 60, 220, 80)] * 3}, contact=[(155, 50, 195, 90)] * 3)
    options = TrackingOptions()
    coarse = TrackingOptions(regions=type(options.regions)(merge_threshold=60.0))
    found = track([image] * 3, hands=hands, options=coarse)
    held = found[0].instance_ids[70, 175]
    assert held != found[0].instance_ids[100, 140]
    assert {masks.instance_ids[70, 175] for masks in found} == {held}


def test_a_person_is_believed_at_the_second_look_and_keeps_the_id() -> None:
    people = Crowd([standing()])
    found = track([scene(20)] * 8, people=people, options=TrackingOptions(person_interval_s=0.4))
    persons = [[item.instance_id for item in masks.instances if item.category == "person"] for masks in found]
    assert persons[:2] == [[], []] and len({tuple(ids) for ids in persons[2:]}) == 1 and persons[2]
    assert people.asked == 4


@pytest.mark.parametrize("looks", [[standing(), None], [np.ones((8, 8), bool)]], ids=["once", "everywhere"])
def test_a_person_seen_once_or_everywhere_is_not_believed(looks: list[np.ndarray | None]) -> None:
    found = track([scene(20)] * 8, people=Crowd(looks), options=TrackingOptions(person_interval_s=0.4))
    assert not any(item.category == "person" for masks in found for item in masks.instances)


def test_a_person_who_is_gone_is_forgotten_and_the_id_is_not_used_again() -> None:
    people = Crowd([standing(), standing(), None])
    found = track([scene(20)] * 16, people=people, options=TrackingOptions(person_interval_s=0.4))
    said: dict[int, set[str]] = {}
    for masks in found:
        for item in masks.instances:
            said.setdefault(item.instance_id, set()).add(item.category)
    assert all(len(categories) == 1 for categories in said.values())
    assert any(item.category == "person" for item in found[3].instances)
    assert not any(item.category == "person" for item in found[-1].instances)


def test_the_wearers_arms_are_no_person() -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[60:, 130:200] = True
    hands = hands_at({"right": [(140, 60, 180, 100)] * 8})
    found = track(
        [scene(20)] * 8, people=Crowd([mask]), hands=hands, options=TrackingOptions(person_interval_s=0.4)
    )
    assert not any(item.category == "person" for masks in found for item in masks.instances)


@pytest.mark.parametrize("size", [(20, 320), (31, 31), (136, 240)])
def test_unrelated_pictures_are_not_believable_however_flat(size: tuple[int, int]) -> None:
    noise = [np.random.default_rng(seed).integers(0, 255, size, dtype=np.uint8) for seed in (1, 2)]
    _, believable = trace_back(noise[0], noise[1], preset="medium")
    assert believable.mean() < 0.25
    places, believable = trace_back(noise[0], noise[0], preset="medium")
    assert believable.mean() > 0.9 and np.abs(places[10, 10] - 10).max() < 0.5


def test_a_cut_between_flat_pictures_is_seen() -> None:
    noise = [
        np.random.default_rng(seed).integers(0, 255, (24, 320, 3), dtype=np.uint8).astype(np.uint8)
        for seed in (1, 2)
    ]
    found = track([noise[0], noise[0], noise[1]], options=TrackingOptions(reseed_interval_s=60))
    ids = [{item.instance_id for item in masks.instances} for masks in found]
    assert ids[0] & ids[1] and not ids[1] & ids[2]


def test_pictures_that_change_their_size_are_refused() -> None:
    with pytest.raises(ValueError, match="one size"):
        track([scene(20), scene(20)[:, :100]])


@pytest.mark.parametrize(
    "option",
    [
        {"max_side": 10},
        {"reseed_interval_s": 0},
        {"hand_memory_s": -1},
        {"id_memory_s": -1},
        {"min_covered": 2},
    ],
)
def test_wrong_options_are_refused(option: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        TrackingOptions(**option)  # type: ignore[arg-type]
