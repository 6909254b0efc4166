"""What every backend of task ``masks`` must do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.hands import HandObjectTracks, HandSide, HandTrack
from ego_assets.schema.masks import MASK_CATEGORIES, MaskFrame, MaskTracker
from ego_assets_tests.checkpoints import maker_of, small_backend
from resources.models.backends import BACKENDS

STEP_NS = 200_000_000
#: Most frames that a backend may take ahead of its results.
AHEAD = 24


@pytest.fixture(scope="module", params=sorted(BACKENDS["masks"]))
def tracker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MaskTracker:
    built: MaskTracker = small_backend("masks", request.param, tmp_path_factory.mktemp("models"))
    return built


@pytest.fixture
def trained(tracker: MaskTracker) -> MaskTracker:
    if maker_of("masks", tracker.info.backend) is not None:
        pytest.skip("small random weights see nothing")
    return tracker


def clip(count: int, size: tuple[int, int] = (321, 179), *, level: float = 1.0) -> list[ClipFrame]:
    """Things of different colours on a table, seen by a camera that moves to the right."""
    width, height = size
    wide = np.full((height, width + 4 * count, 3), (96, 128, 150), np.uint8)
    wide[: height // 3] = (190, 180, 170)
    cv2.circle(wide, (width // 2, height // 2), height // 5, (50, 60, 190), -1)
    cv2.rectangle(wide, (width // 8, height // 2), (width // 4, 4 * height // 5), (170, 80, 40), -1)
    noise = np.random.default_rng(4).integers(-5, 6, wide.shape)
    wide = (np.clip(wide.astype(int) + noise, 0, 255) * level).astype(np.uint8)
    return [
        ClipFrame(
            3 * number, number * STEP_NS, np.ascontiguousarray(wide[:, 4 * number : 4 * number + width])
        )
        for number in range(count)
    ]


def hands_on(shown: Sequence[ClipFrame], *, resolution: tuple[int, int]) -> HandObjectTracks:
    count = len(shown)
    width, height = resolution

    def track(side: HandSide, visible: bool) -> HandTrack:
        box = np.array([0.6, 0.5, 0.8, 0.95], np.float32) * np.array([width, height] * 2, np.float32)
        return HandTrack(
            side=side,
            visible=np.full(count, visible),
            boxes_xyxy=np.tile(box if visible else np.full(4, np.nan, np.float32), (count, 1)),
            scores=np.full(count, 0.9, np.float32),
            landmarks_xy=np.full((count, 21, 2), np.nan, np.float32),
            states=("free" if visible else None,) * count,
            state_scores=np.full(count, 0.9, np.float32),
            contact_boxes_xyxy=np.full((count, 4), np.nan, np.float32),
            contact_scores=np.zeros(count, np.float32),
        )

    return HandObjectTracks(
        frame_index=np.array([frame.frame_index for frame in shown], np.int64),
        timestamps_ns=np.array([frame.timestamp_ns for frame in shown], np.int64),
        resolution=resolution,
        left=track("left", False),
        right=track("right", True),
        other_hands=np.zeros(count, np.int64),
    )


def check(found: Sequence[MaskFrame], shown: Sequence[ClipFrame], vocabulary: Sequence[str]) -> None:
    assert [masks.frame_index for masks in found] == [frame.frame_index for frame in shown]
    assert [masks.timestamp_ns for masks in found] == [frame.timestamp_ns for frame in shown]
    said: dict[int, tuple[str, str]] = {}
    for masks, frame in zip(found, shown, strict=True):
        assert masks.instance_ids.shape == frame.image.shape[:2] and masks.instance_ids.dtype == np.uint16
        for item in masks.instances:
            assert item.category in vocabulary and 0 <= item.score <= 1
            assert (item.side in ("left", "right")) == (item.category == "hand")
            assert said.setdefault(item.instance_id, (item.category, item.side)) == (item.category, item.side)


@pytest.mark.parametrize("size", [(321, 179), (180, 321), (640, 360), (64, 48)])
def test_every_frame_gets_its_masks(tracker: MaskTracker, size: tuple[int, int]) -> None:
    shown = clip(3, size)
    check(list(tracker.track(iter(shown))), shown, MASK_CATEGORIES)


def test_instances_are_found_and_keep_their_ids(trained: MaskTracker) -> None:
    shown = clip(5)
    found = list(trained.track(iter(shown)))
    assert all(float((masks.instance_ids > 0).mean()) > 0.2 for masks in found)
    disc = {int(masks.instance_ids[90, 160 - 4 * number]) for number, masks in enumerate(found)}
    assert len(disc) == 1 and 0 not in disc


@pytest.mark.parametrize("factor", [1, 2])
def test_hands_of_the_hand_layer_are_instances_with_a_side(tracker: MaskTracker, factor: int) -> None:
    shown = clip(3)
    hands = hands_on(shown, resolution=(321 * factor, 179 * factor))
    found = list(tracker.track(iter(shown), hands=hands))
    check(found, shown, MASK_CATEGORIES)
    for masks in found:
        own = [item for item in masks.instances if item.category == "hand"]
        assert [item.side for item in own] == ["right"]
        rows, columns = np.nonzero(masks.instance_ids == own[0].instance_id)
        assert 0.55 * 321 < columns.mean() < 0.85 * 321 and rows.mean() > 0.45 * 179


def test_only_words_of_the_vocabulary_are_used(tracker: MaskTracker) -> None:
    shown = clip(3)
    vocabulary = ("object", "surface")
    check(list(tracker.track(iter(shown), vocabulary=vocabulary)), shown, vocabulary)


def test_equal_clips_give_equal_masks_and_nothing_is_remembered(tracker: MaskTracker) -> None:
    shown, other = clip(4), clip(2, (200, 150), level=0.5)
    first = list(tracker.track(iter(shown)))
    list(tracker.track(iter(other)))
    again = list(tracker.track(iter(shown)))
    for before, after in zip(first, again, strict=True):
        assert np.array_equal(before.instance_ids, after.instance_ids)
        assert before.instances == after.instances


def test_two_clips_at_once_do_not_disturb_each_other(tracker: MaskTracker) -> None:
    shown, other = clip(3), clip(3, (200, 150), level=0.5)
    alone = [masks.instance_ids for masks in tracker.track(iter(shown))]
    pairs = zip(tracker.track(iter(shown)), tracker.track(iter(other)), strict=True)
    assert all(np.array_equal(a, b.instance_ids) for a, (b, _) in zip(alone, pairs, strict=True))


def test_two_threads_do_not_disturb_each_other(tracker: MaskTracker) -> None:
    clips = [clip(3), clip(3, (200, 150), level=0.5)]
    alone = [[masks.instance_ids for masks in tracker.track(iter(shown))] for shown in clips]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda shown: [m.instance_ids for m in tracker.track(iter(shown))], clips))
    for before, after in zip(alone, found, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_frames_are_taken_as_they_are_needed(tracker: MaskTracker) -> None:
    taken = 0

    def endless() -> Iterator[ClipFrame]:
        nonlocal taken
        shown = clip(8, (96, 64))
        while True:
            frame = shown[taken % 8]
            yield ClipFrame(taken, taken * STEP_NS, frame.image)
            taken += 1

    found = tracker.track(endless())
    for number in range(40):
        assert next(found).frame_index == number
        assert taken <= number + AHEAD


def test_nothing_is_followed_into_a_new_scene(tracker: MaskTracker) -> None:
    first, second = clip(3), clip(3)
    later = [ClipFrame(100 + f.frame_index, 10**9 + f.timestamp_ns, f.image[:, ::-1].copy()) for f in second]
    shown = [*first, *later]
    found = list(tracker.track(iter(shown), cuts=frozenset({100})))
    check(found, shown, MASK_CATEGORIES)
    before, after = (
        {item.instance_id for masks in part for item in masks.instances} for part in (found[:3], found[3:])
    )
    assert found[3].reseeded and not before & after


def test_vocabularies_without_object_are_refused(tracker: MaskTracker) -> None:
    with pytest.raises(ValueError, match="object"):
        list(tracker.track(iter(clip(1)), vocabulary=("hand",)))


def test_no_frames_give_no_masks(tracker: MaskTracker) -> None:
    assert list(tracker.track(iter(()))) == []


def test_one_frame_and_black_frames(tracker: MaskTracker) -> None:
    one = clip(1)
    check(list(tracker.track(iter(one))), one, MASK_CATEGORIES)
    pixel = [ClipFrame(0, 0, np.full((1, 1, 3), 90, np.uint8))]
    check(list(tracker.track(iter(pixel))), pixel, MASK_CATEGORIES)
    black = clip(3, level=0.0)
    check(list(tracker.track(iter(black))), black, MASK_CATEGORIES)


def test_it_says_what_it_is(tracker: MaskTracker) -> None:
    info = tracker.info
    assert info.task == "masks" and info.backend in BACKENDS["masks"] and info.model
    # The embeddings backend beside it reads no texts.
    assert tracker.category_info is None
