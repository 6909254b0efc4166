"""SAM 2.1: how clips are followed, by a network that sees perfectly; and the real one on small random weights."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import yaml

from ego_assets.labels.mask_hands import INNER_LANDMARKS
from ego_assets.labels.mask_records import record_masks
from ego_assets.labels.mask_tracking import HAND_IDS
from ego_assets.schema.detections import BackendInfo, BgrImage
from ego_assets.schema.embeddings import EMBEDDING_DIMENSIONS
from ego_assets.schema.errors import BackendUnavailable
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.masks import MASK_CATEGORIES, MaskFrame
from ego_assets_tests.checkpoints import any_digest, small_backend
from ego_assets_tests.checkpoints.masks import small_configuration
from ego_assets_tests.unit.models.test_conformance_masks import STEP_NS, check, clip, hands_on

torch = pytest.importorskip("torch", reason="PyTorch belongs to the extra reference")
pytest.importorskip("sam2", reason="SAM 2 belongs to the extra reference")

from ego_assets.schema.errors import DeviceMemoryExhausted  # noqa: E402
from resources.models import sam2_masks, sam2_network  # noqa: E402
from resources.models.embeddings import AppearanceEmbedder  # noqa: E402
from resources.models.sam2_masks import Sam2MaskTracker, published_configuration  # noqa: E402
from resources.models.sam2_network import (  # noqa: E402
    BOX,
    CERTAIN_LOGIT,
    INSIDE,
    Memory,
    Proposals,
    Sam2Network,
)

WIDTH, HEIGHT, SIDE = 96, 64, 32
#: Left, top, right, bottom and grey level of things; levels are known by the network below.
Thing = tuple[int, int, int, int, int]
CUP, BOTTLE, KNIFE = (10, 10, 26, 30, 60), (60, 12, 80, 50, 120), (30, 40, 52, 54, 200)


def scene(*shown: Sequence[Thing]) -> list[ClipFrame]:
    """A frame for every list of things."""
    frames = []
    for number, things in enumerate(shown):
        image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        for left, top, right, bottom, level in things:
            image[top:bottom, left:right] = level
        frames.append(ClipFrame(number, number * STEP_NS, image))
    return frames


class PerfectNetwork(Sam2Network):
    """Sees every grey level of a picture as a thing, and follows it by its level."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.precision, self.is_compiled = "float32", False
        self.begun: list[tuple[list[int], int]] = []
        self.proposed: list[int] = []

    @property
    def mask_side(self) -> int:
        return SIDE

    def reporting_loss(self) -> AbstractContextManager[None]:
        return nullcontext()

    def encode(self, frames: Iterable[ClipFrame]) -> Iterator[tuple[ClipFrame, Any]]:
        for frame in frames:
            levels = torch.from_numpy(frame.image[..., 0].astype(np.float32))[None, None]
            yield frame, torch.nn.functional.interpolate(levels, size=(SIDE, SIDE), mode="nearest")[0, 0]

    def prompted(self, features: Any, points_xy: Any, labels: Any) -> Any:
        # Nothing: the outline that the hand layer knows has to stand.
        return torch.full((len(points_xy), SIDE, SIDE), -CERTAIN_LOGIT)

    def propose(self, features: Any, **thresholds: float) -> Proposals:
        levels = [level for level in torch.unique(features).tolist() if level]
        self.proposed.append(len(levels))
        masks = [(features == level).float() * 2 * CERTAIN_LOGIT - CERTAIN_LOGIT for level in levels]
        logits = torch.stack(masks) if masks else torch.zeros((0, SIDE, SIDE))
        return Proposals(logits=logits, scores=np.full(len(masks), 0.75, np.float32))

    def begin(self, at: Sequence[tuple[int, Any, Any]]) -> Memory:
        memory = Memory(count=len(at[0][2]))
        found = [0.0] * memory.count
        for _, features, logits in at:
            for place, mask in enumerate(logits > 0):
                if mask.any():
                    found[place] = float(torch.mode(features[mask]).values)
        self.begun.append(([position for position, _, _ in at], memory.count))
        memory.begun[0] = {"levels": found}
        return memory

    def follow(self, memory: Memory, position: int, features: Any) -> Any:
        levels = torch.tensor(memory.begun[0]["levels"])[:, None, None]
        return ((features == levels) & (levels > 0)).float() * 2 * CERTAIN_LOGIT - CERTAIN_LOGIT


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> PerfectNetwork:
    perfect = PerfectNetwork()
    monkeypatch.setattr(sam2_masks, "Sam2Network", lambda *a, **k: perfect)
    monkeypatch.setattr(sam2_masks, "shared_network", lambda *a, **k: None)
    monkeypatch.setattr(sam2_masks, "_files", lambda *a: (Path(), Path()))
    monkeypatch.setattr(sam2_masks, "card_digest", lambda *a: "0" * 64)
    return perfect


def tracked(shown: Sequence[ClipFrame], **arguments: Any) -> list[MaskFrame]:
    words = {"vocabulary", "cuts", "hands"}
    settings: dict[str, Any] = {
        "reseed_interval_s": 100.0,
        "lost_coverage": 1.0,
        "embeddings": AppearanceEmbedder(),
    }
    settings |= {name: value for name, value in arguments.items() if name not in words}
    tracker = Sam2MaskTracker(**settings)
    found = list(tracker.track(iter(shown), **{k: v for k, v in arguments.items() if k in words}))
    check(found, shown, arguments.get("vocabulary", MASK_CATEGORIES))
    return found


def id_at(masks: MaskFrame, thing: Thing) -> int:
    return int(masks.instance_ids[(thing[1] + thing[3]) // 2, (thing[0] + thing[2]) // 2])


def moved(thing: Thing, by: int) -> Thing:
    return thing[0] + by, thing[1], thing[2] + by, thing[3], thing[4]


# --- How clips are followed ---------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_frames", [1, 2, 5, 100])
def test_ids_stay_over_any_number_of_chunks(network: PerfectNetwork, chunk_frames: int) -> None:
    shown = scene(*[[moved(CUP, 2 * k), moved(BOTTLE, -k)] for k in range(14)])
    found = tracked(shown, chunk_frames=chunk_frames, overlap_frames=min(3, chunk_frames))
    for thing, step in ((CUP, 2), (BOTTLE, -1)):
        ids = {id_at(masks, moved(thing, step * k)) for k, masks in enumerate(found)}
        assert len(ids) == 1 and 0 not in ids
    assert [masks.reseeded for masks in found] == [True] + [False] * 13
    assert len(network.begun) == 1 + 13 // chunk_frames


def test_what_enters_is_found_after_the_interval_and_nothing_gets_a_second_id(
    network: PerfectNetwork,
) -> None:
    shown = scene(*[[CUP, BOTTLE] if k < 4 else [CUP, BOTTLE, KNIFE] for k in range(12)])
    found = tracked(shown, reseed_interval_s=1.0)
    assert [masks.frame_index for masks in found if masks.reseeded] == [0, 5, 10]
    assert [id_at(masks, KNIFE) for masks in found] == [0] * 5 + [5] * 7
    assert {id_at(masks, CUP) for masks in found} | {id_at(masks, BOTTLE) for masks in found} == {3, 4}
    assert {item.score for masks in found for item in masks.instances} == {0.75}


def test_lost_coverage_asks_for_a_new_search_but_not_again_and_again(network: PerfectNetwork) -> None:
    large: Thing = (0, 0, 96, 40, 90)
    shown = scene(*[[large, KNIFE] if k < 3 else [KNIFE] for k in range(12)])
    found = tracked(shown, lost_coverage=0.2)
    assert [masks.frame_index for masks in found if masks.reseeded] == [0, 3]


def test_what_is_hidden_at_the_end_of_a_chunk_keeps_its_id(network: PerfectNetwork) -> None:
    shown = scene(*[[CUP, BOTTLE] if k not in (3, 4) else [BOTTLE] for k in range(8)])
    found = tracked(shown, chunk_frames=4, overlap_frames=4)
    assert id_at(found[4], CUP) == 0
    assert id_at(found[5], CUP) == id_at(found[0], CUP) > 0
    assert network.begun[1][0] == [1, 4], "a chunk begins with the latest frame and with one before"


def test_what_left_long_ago_is_not_followed_any_more(network: PerfectNetwork) -> None:
    shown = scene(*[[CUP, BOTTLE] if k < 2 else [BOTTLE] for k in range(9)])
    tracked(shown, chunk_frames=4, overlap_frames=2)
    assert [count for _, count in network.begun] == [2, 1, 1]


def test_a_cut_ends_everything(network: PerfectNetwork) -> None:
    found = tracked(scene(*[[CUP, BOTTLE]] * 6), cuts=frozenset({3}))
    assert [masks.reseeded for masks in found] == [True, False, False, True, False, False]
    assert id_at(found[3], CUP) != id_at(found[2], CUP)


def test_no_more_instances_than_allowed(network: PerfectNetwork) -> None:
    things: list[Thing] = [(12 * k, 4, 12 * k + 9, 20 + 4 * k, 20 + 30 * k) for k in range(7)]
    found = tracked(scene(*[things] * 4), max_objects=3)
    assert all(len(masks.instances) == 3 for masks in found)
    assert id_at(found[0], things[6]) and not id_at(found[0], things[0]), "the largest are kept"


def test_pictures_without_things_ask_again_only_when_it_is_time(network: PerfectNetwork) -> None:
    found = tracked(scene(*[[]] * 12), reseed_interval_s=1.0)
    assert all(not masks.instances for masks in found)
    assert network.proposed == [0, 0, 0] and not network.begun


def test_a_hand_is_no_object_and_is_followed_for_a_while(network: PerfectNetwork) -> None:
    hand: Thing = (60, 33, 76, 60, 170)
    shown = scene(*[[CUP, hand]] * 14)
    hands = hands_on(shown[:4], resolution=(WIDTH, HEIGHT))
    found = tracked(shown, hands=hands, reseed_interval_s=1.0)
    for masks in found[:9]:
        assert [(item.instance_id, item.side) for item in masks.instances] == [(2, "right"), (3, "")]
    # Somebody's hand that the hand layer does not see any more is a thing like others.
    assert 2 not in {item.instance_id for item in found[13].instances}
    without = tracked(shown, hands=hands, vocabulary=("object", "tool"))
    assert all(item.category == "object" and not item.side for m in without for item in m.instances)


def test_of_overlapping_hands_both_are_seen(network: PerfectNetwork) -> None:
    shown = scene([CUP])
    hands = hands_on(shown, resolution=(WIDTH, HEIGHT))
    right = hands.right
    box = right.boxes_xyxy + np.array([-20, -20, 15, 0], np.float32)
    fields = {name: getattr(right, name) for name in type(right).__dataclass_fields__}
    left = type(right)(**{**fields, "side": "left", "boxes_xyxy": box})
    both = type(hands)(**{**{k: getattr(hands, k) for k in type(hands).__dataclass_fields__}, "left": left})
    found = tracked(shown, hands=both)
    assert sorted(item.side for item in found[0].instances) == ["", "left", "right"]


def test_a_cut_leaves_nothing_of_the_scene_before(network: PerfectNetwork) -> None:
    hand: Thing = (60, 33, 76, 60, 170)
    shown = scene(*[[CUP, hand]] * 6)
    hands = hands_on(shown[:3], resolution=(WIDTH, HEIGHT))
    found = tracked(shown, hands=hands, cuts=frozenset({3}), chunk_frames=100, overlap_frames=3)
    assert [positions for positions, _ in network.begun] == [[0], [3]]
    assert [[item.instance_id for item in masks.instances] for masks in found] == [[2, 3]] * 3 + [[4, 5]] * 3


def test_small_things_are_left_out_as_told(network: PerfectNetwork) -> None:
    # The cup takes 5% of the picture and the bottle 12%.
    shown = scene([CUP, BOTTLE])
    assert len(tracked(shown, min_share=0.04)[0].instances) == 2
    (masks,) = tracked(shown, min_share=0.08)
    assert not id_at(masks, CUP) and [item.instance_id for item in masks.instances] == [id_at(masks, BOTTLE)]


def test_a_search_takes_up_no_more_than_what_is_followed_leaves_room_for(network: PerfectNetwork) -> None:
    small: list[Thing] = [(4, 4, 16, 14, 30), (4, 20, 16, 30, 60)]
    large: list[Thing] = [(20 + 26 * k, 4, 42 + 26 * k, 60, 100 + 40 * k) for k in range(3)]
    shown = scene(*[small if k < 5 else [*small, *large] for k in range(7)])
    found = tracked(shown, max_objects=3, reseed_interval_s=1.0)
    assert [masks.reseeded for masks in found] == [True, *[False] * 4, True, False]
    assert [len(masks.instances) for masks in found] == [2] * 5 + [3] * 2
    assert {id_at(found[6], thing) for thing in small} == {id_at(found[0], thing) for thing in small}


def test_what_is_hidden_takes_no_room(network: PerfectNetwork) -> None:
    shown = scene(*[[CUP, BOTTLE] if k < 3 else [BOTTLE, KNIFE] for k in range(7)])
    found = tracked(shown, max_objects=2, reseed_interval_s=1.0)
    assert found[5].reseeded and id_at(found[5], KNIFE) == 5
    assert [item.instance_id for item in found[6].instances] == [id_at(found[0], BOTTLE), 5]


def test_what_was_followed_in_part_is_whole_after_the_next_search(
    network: PerfectNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow = network.follow

    def in_part(memory: Memory, position: int, features: Any) -> Any:
        logits = follow(memory, position, features)
        if position <= 5:
            # The lower half of the bottle is lost.
            logits[:, SIDE // 2 :] = -CERTAIN_LOGIT
        return logits

    monkeypatch.setattr(network, "follow", in_part)
    lower = (60, 34, 80, 50, 120)
    found = tracked(scene(*[[BOTTLE]] * 7), reseed_interval_s=1.0)
    assert [id_at(masks, lower) for masks in found] == [3, 0, 0, 0, 0, 3, 3]


def test_after_lost_coverage_half_a_second_passes_until_the_next_search(network: PerfectNetwork) -> None:
    left, right, small = (0, 0, 30, 64, 90), (34, 0, 64, 64, 150), (70, 8, 90, 40, 200)
    shown = scene([left, right, small], *[[right, small]] * 3, *[[small]] * 8)
    found = tracked(shown, lost_coverage=0.2)
    # 0.2 s from frame to frame: coverage is lost at 1 and at 4.
    assert [masks.frame_index for masks in found if masks.reseeded] == [0, 3, 6]


def test_an_object_that_turns_out_to_be_a_hand_is_followed_no_longer(network: PerfectNetwork) -> None:
    hand: Thing = (58, 32, 77, 61, 170)
    shown = scene(*[[CUP, hand]] * 12)
    hands = hands_on(shown[3:], resolution=(WIDTH, HEIGHT))
    found = tracked(shown, hands=hands, reseed_interval_s=1.0)
    # The corners are not of the ellipse that stands for the hand.
    corners = [int(masks.instance_ids[34, 61]) for masks in found]
    other = id_at(found[0], hand)
    assert other > 2 and corners[:5] == [other] * 5 and set(corners[5:]) == {0}
    assert [item.instance_id for item in found[-1].instances] == [2, id_at(found[0], CUP)]
    # A hand and a cup, instead of a hand and two objects.
    assert [count for _, count in network.begun] == [2, 2, 2]


def test_of_what_a_hand_covers_only_the_rest_is_known(
    network: PerfectNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes out on the other side of a hand belongs to the object of which the hand hides a part."""

    def begin(at: Sequence[tuple[int, Any, Any]]) -> Memory:
        return Memory(count=len(at[-1][2]), begun={0: {"logits": at[-1][2]}})

    monkeypatch.setattr(network, "begin", begin)
    # It sees nothing move.
    monkeypatch.setattr(network, "follow", lambda memory, *_: memory.begun[0]["logits"].clone())
    before, after = (40, 34, 76, 60, 90), (30, 34, 58, 60, 90)
    shown = scene(*[[before] if k < 5 else [after] for k in range(6)])
    found = tracked(shown, hands=hands_on(shown[5:], resolution=(WIDTH, HEIGHT)), reseed_interval_s=1.0)
    assert found[5].reseeded and int(found[5].instance_ids[46, 67]) == 2
    assert [int(found[5].instance_ids[46, x]) for x in (34, 48)] == [id_at(found[0], before)] * 2


def test_hands_are_asked_for_by_their_boxes_and_inner_landmarks(
    network: PerfectNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, Any]] = []
    answer = network.prompted

    def prompted(features: Any, points_xy: Any, labels: Any) -> Any:
        asked.append((points_xy, labels))
        return answer(features, points_xy, labels)

    monkeypatch.setattr(network, "prompted", prompted)
    shown = scene([CUP])
    hands = hands_on(shown, resolution=(WIDTH, HEIGHT))
    landmarks = np.random.default_rng(1).uniform((60, 34), (74, 58), (1, 21, 2)).astype(np.float32)
    box = np.array([[6, 32, 30, 60]], np.float32)
    left = replace(hands.right, side="left", boxes_xyxy=box, landmarks_xy=landmarks)
    tracked(shown, hands=replace(hands, left=left))
    ((points, labels),) = asked
    size, inner = np.array([WIDTH, HEIGHT]), landmarks[0, list(INNER_LANDMARKS)]
    assert points.dtype == np.float32 and labels.dtype == np.int32
    np.testing.assert_allclose(points[0] * size, [[6, 32], [30, 60], *inner], rtol=1e-5)
    np.testing.assert_allclose(points[1, :2], [[0.6, 0.5], [0.8, 0.95]], rtol=1e-5)
    # 1 is a point inside, 2 and 3 are the corners of a box, and -1 is nothing.
    count = len(INNER_LANDMARKS)
    assert labels.tolist() == [[2, 3, *[1] * count], [2, 3, *[-1] * count]]


def test_the_thresholds_of_the_profile_are_those_of_the_search(
    network: PerfectNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, float]] = []
    propose = network.propose

    def noted(features: Any, **thresholds: float) -> Proposals:
        asked.append(thresholds)
        return propose(features, **thresholds)

    monkeypatch.setattr(network, "propose", noted)
    settings = {"points_per_side": 7, "predicted_iou_threshold": 0.61, "stability_threshold": 0.43}
    tracked(scene([CUP]), **settings)
    assert asked == [settings]


def test_however_many_masks_are_drawn_each_pixel_gets_the_number_of_its_own() -> None:
    expected = np.zeros((SIDE, SIDE), np.uint8)
    for place in range(20):
        row, column = divmod(place, 5)
        expected[8 * row : 8 * row + 6, 6 * column : 6 * column + 5] = place + 1
    masks = torch.from_numpy(expected) == torch.arange(1, 21)[:, None, None]
    logits = masks.float() * 2 * CERTAIN_LOGIT - CERTAIN_LOGIT
    drawn = PerfectNetwork().index_map(logits, width=SIDE, height=SIDE)
    np.testing.assert_array_equal(drawn, expected)


class Levels:
    """A text side that takes dark things for food and light ones for tools."""

    space, embeds_text = "levels", True
    info = BackendInfo(task="embeddings", backend="levels", model="levels")

    def __init__(self) -> None:
        self.pictures: list[int] = []

    def embed_images(self, images: Sequence[BgrImage]) -> npt.NDArray[np.float32]:
        self.pictures.append(len(images))
        vectors = np.zeros((len(images), EMBEDDING_DIMENSIONS), np.float32)
        for place, image in enumerate(images):
            vectors[place, int(image.max() > 100)] = 1
        return vectors

    def embed_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        vectors = np.zeros((len(texts), EMBEDDING_DIMENSIONS), np.float32)
        vectors[: len(texts) // 2, 1] = 1
        vectors[len(texts) // 2 :, 0] = 1
        return vectors


def test_categories_are_decided_once_on_a_few_pictures(network: PerfectNetwork) -> None:
    shown = scene(*[[CUP, BOTTLE] if k < 7 else [CUP, BOTTLE, KNIFE] for k in range(12)])
    embedder = Levels()
    found = tracked(shown, embeddings=embedder, vocabulary=("object", "alpha", "beta"), reseed_interval_s=1.0)
    said = {item.instance_id: item.category for masks in found for item in masks.instances}
    assert said == {3: "alpha", 4: "beta", 5: "alpha"}
    # Three looks at two things; one thing was seen for two looks before the clip ended.
    assert embedder.pictures == [6, 1]


def test_doubtful_categories_stay_object(network: PerfectNetwork) -> None:
    class Undecided(Levels):
        def embed_images(self, images: Sequence[BgrImage]) -> npt.NDArray[np.float32]:
            vectors = np.zeros((len(images), EMBEDDING_DIMENSIONS), np.float32)
            vectors[:, :2] = np.sqrt(0.5)
            return vectors

    shown = scene(*[[CUP, BOTTLE]] * 3)
    vocabulary = ("object", "alpha", "beta")
    found = tracked(shown, embeddings=Undecided(), vocabulary=vocabulary, category_threshold=0.6)
    assert {item.category for masks in found for item in masks.instances} == {"object"}


def test_results_wait_for_categories_only_a_few_frames(network: PerfectNetwork) -> None:
    taken = 0

    def endless() -> Iterator[ClipFrame]:
        nonlocal taken
        while True:
            yield ClipFrame(taken, taken * STEP_NS, scene([CUP])[0].image)
            taken += 1

    found = Sam2MaskTracker(embeddings=Levels()).track(endless())
    for number in range(30):
        assert next(found).frame_index == number
        assert taken <= number + 4


def test_it_says_whose_words_name_instances(network: PerfectNetwork) -> None:
    assert Sam2MaskTracker(embeddings=Levels()).category_info == Levels.info
    assert Sam2MaskTracker(embeddings=AppearanceEmbedder()).category_info is None


def test_that_nothing_can_be_named_is_said_once(
    network: PerfectNetwork, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Sam2MaskTracker(embeddings=AppearanceEmbedder())
    with caplog.at_level(logging.INFO, "resources.models.sam2_masks"):
        for _ in range(2):
            list(tracker.track(iter(scene([CUP]))))
    assert sum("knows no words" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"points_per_side": 0},
        {"predicted_iou_threshold": 1.5},
        {"stability_threshold": -0.1},
        {"min_share": 2.0},
        {"max_objects": 0},
        {"max_objects": 101},
        {"reseed_interval_s": 0.0},
        {"lost_coverage": -1.0},
        {"chunk_frames": 0},
        {"chunk_frames": 3, "overlap_frames": 4},
        {"category_threshold": 1.1},
        {"vos_optimized": "maybe"},
        {"checkpoint": "huge"},
    ],
)
def test_wrong_settings_are_refused(network: PerfectNetwork, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(reversed(wrong))):
        Sam2MaskTracker(embeddings=AppearanceEmbedder(), **wrong)


# --- The network itself -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def small(models_dir: Path, **settings: Any) -> Sam2MaskTracker:
    tracker: Sam2MaskTracker = small_backend("masks", "sam2", models_dir, settings=settings)
    return tracker


def ids_of(tracker: Sam2MaskTracker, shown: Sequence[ClipFrame]) -> list[npt.NDArray[np.uint16]]:
    return [masks.instance_ids for masks in tracker.track(iter(shown))]


def same(first: Sequence[npt.NDArray[np.uint16]], second: Sequence[npt.NDArray[np.uint16]]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_small_weights_draw_and_follow_something(models_dir: Path) -> None:
    found = ids_of(small(models_dir), clip(5))
    assert len(np.unique(found[0])) > 2, "otherwise the tests of this network would test nothing"
    assert set(np.unique(found[2])) & set(np.unique(found[0])) - {0}


@pytest.mark.parametrize("limit", [1, 3])
def test_out_of_memory_takes_longer_and_changes_nothing(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    shown = clip(5)
    expected = ids_of(small(models_dir, licence="measured"), shown)
    tracker = small(models_dir, licence=f"limit {limit}")
    network = tracker._network
    refused = {"pictures": 0, "points": 0, "instances": 0}

    def limited(kind: str, count: int) -> None:
        if count > limit:
            refused[kind] += 1
            raise torch.OutOfMemoryError("injected")

    encode, track, decode = network._encode, network._track, network._plain.sam_mask_decoder.forward

    def encode_few(frames: Sequence[ClipFrame]) -> Any:
        limited("pictures", len(frames))
        return encode(frames)

    def track_few(memory: Memory, position: int, features: Any, masks: Any, window: slice) -> Any:
        limited("instances", window.stop - window.start)
        return track(memory, position, features, masks, window)

    def decode_few(**arguments: Any) -> Any:
        if arguments["multimask_output"] and arguments["repeat_image"]:
            limited("points", arguments["sparse_prompt_embeddings"].shape[0])
        return decode(**arguments)

    monkeypatch.setattr(network, "_encode", encode_few)
    monkeypatch.setattr(network, "_track", track_few)
    monkeypatch.setattr(network._plain.sam_mask_decoder, "forward", decode_few)
    found = ids_of(tracker, shown)
    assert all(refused.values())
    # Batches of another size add up in another order: a pixel on an edge may fall to the other side.
    assert max(float((a != b).mean()) for a, b in zip(found, expected, strict=True)) < 0.01


def test_a_picture_that_does_not_fit_is_told(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = small(models_dir, licence="too small")

    def never(frames: Sequence[ClipFrame]) -> Any:
        raise torch.OutOfMemoryError("injected")

    monkeypatch.setattr(tracker._network, "_encode", never)
    with pytest.raises(DeviceMemoryExhausted):
        ids_of(tracker, clip(1))


def test_the_memory_of_a_long_clip_is_bounded(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = small(models_dir, chunk_frames=1000, reseed_interval_s=1e6, lost_coverage=1.0)
    kept: list[int] = []
    follow = tracker._network.follow

    def counted(memory: Memory, position: int, features: Any) -> Any:
        found = follow(memory, position, features)
        kept.append(len(memory.followed))
        return found

    monkeypatch.setattr(tracker._network, "follow", counted)
    frames = clip(2, (64, 48))
    shown = [ClipFrame(k, k * STEP_NS, frames[k % 2].image) for k in range(40)]
    assert len(ids_of(tracker, shown)) == 40
    assert len(kept) == 39 and max(kept) == kept[-1] <= 20


def test_what_the_network_looks_back_at_is_kept(models_dir: Path) -> None:
    """Frames that are forgotten must make no difference to the network."""
    shown = clip(24, (64, 48))
    settings = {"chunk_frames": 1000, "reseed_interval_s": 1e6, "lost_coverage": 1.0}
    expected = ids_of(small(models_dir, **settings), shown)
    everything = small(models_dir, licence="remembers all", **settings)
    everything._network._kept = 1000
    assert same(ids_of(everything, shown), expected)


def test_instances_are_followed_as_the_package_follows_them(models_dir: Path) -> None:
    """The predictor of the package, which takes one instance after another and keeps all frames."""
    network = small(models_dir)._network
    shown = clip(20, (64, 64))
    features = [found for _, found in network.encode(iter(shown))]
    side = network.mask_side
    logits = torch.full((3, side, side), -CERTAIN_LOGIT)
    for place in range(3):
        logits[place, 4 + 6 * place : 14 + 6 * place, 8:20] = CERTAIN_LOGIT
    memory = network.begin([(0, features[0], logits)])
    ours = [network.follow(memory, position, features[position]) for position in range(1, 20)]

    model = network._plain
    with torch.inference_mode():
        images = network._input(np.stack([frame.image for frame in shown]))
        state: dict[str, Any] = {
            "images": images,
            "num_frames": len(images),
            "video_height": side,
            "video_width": side,
            "device": torch.device("cpu"),
            "storage_device": torch.device("cpu"),
        }
        for name in ("cached_features", "constants", "obj_id_to_idx", "obj_idx_to_id"):
            state[name] = {}
        for name in ("point_inputs", "mask_inputs", "output_dict", "temp_output_dict", "frames_tracked"):
            state[f"{name}_per_obj"] = {}
        state["obj_ids"] = []
        large = torch.nn.functional.interpolate(logits[:, None], size=(4 * side, 4 * side), mode="bilinear")
        for place in range(3):
            model.add_new_mask(state, 0, place, large[place, 0] > 0)
        theirs = [masks[:, 0] for position, _, masks in model.propagate_in_video(state) if position]
    different = [float(((a > 0) != (b > 0)).float().mean()) for a, b in zip(ours, theirs, strict=True)]
    # The package keeps memories in half precision.
    assert max(different) < 0.01 and all(float((masks > 0).float().mean()) > 0.01 for masks in ours)
    assert max(float((a - b).abs().mean() / b.std()) for a, b in zip(ours, theirs, strict=True)) < 0.05


def test_prompts_are_answered_as_the_package_answers_them(models_dir: Path) -> None:
    """The predictor of the package for single pictures, which takes them in RGB."""
    from sam2.sam2_image_predictor import (  # type: ignore[import-not-found,unused-ignore]
        SAM2ImagePredictor,
    )
    from sam2.utils.amg import (  # type: ignore[import-not-found,unused-ignore]
        calculate_stability_score,
    )

    network = small(models_dir)._network
    width, height = 240, 160
    image = np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)
    ((_, features),) = network.encode([ClipFrame(0, 0, image)])
    predictor = SAM2ImagePredictor(network._plain)
    predictor._bb_feat_sizes = [tuple(level.shape[-2:]) for level in features.levels]
    predictor.set_image(np.ascontiguousarray(image[..., ::-1]))

    box, inner = np.array([40, 30, 150, 120]), np.array([[90, 70]])
    _, _, theirs = predictor.predict(inner, np.array([INSIDE]), box, multimask_output=False)
    points = np.concatenate([box.reshape(2, 2), inner]) / (width, height)
    labels = np.array([[*BOX, INSIDE]], np.int32)
    ours = network.prompted(features, points[None].astype(np.float32), labels)
    np.testing.assert_allclose(ours.clamp(-32, 32), theirs, atol=1e-4)

    steps = (np.arange(3) + 0.5) / 3
    grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 1, 2) * (width, height)
    _, quality, logits = predictor.predict(grid, np.ones((9, 1)), multimask_output=True)
    stability = calculate_stability_score(torch.from_numpy(logits), 0.0, 1.0).numpy()
    assert quality.shape == stability.shape == (9, 3) and stability.std() > 0.01 < quality.std()
    for least_quality, least_stability in (
        (0.0, 0.0),
        (float(np.median(quality)), 0.0),
        (0.0, float(np.median(stability))),
    ):
        good = (quality >= least_quality) & (stability >= least_stability) & (stability > 0)
        found = network.propose(
            features,
            points_per_side=3,
            predicted_iou_threshold=least_quality - 1e-5,
            stability_threshold=least_stability - 1e-5,
        )
        best = np.argsort(-(quality * stability)[good])
        np.testing.assert_allclose(found.scores, (quality * stability)[good][best], atol=1e-4)
        # They are kept in half precision for a while.
        np.testing.assert_allclose(found.logits.clamp(-32, 32), logits[good][best], atol=0.02)


def test_the_settings_after_training_replace_those_of_the_configuration(tmp_path: Path) -> None:
    content = small_configuration()
    content["model"]["sam_mask_decoder_extra_args"] = {
        "dynamic_multimask_via_stability": False,
        "dynamic_multimask_stability_delta": 0.5,
        "dynamic_multimask_stability_thresh": 0.5,
    }
    content["model"]["binarize_mask_from_pts_for_mem_enc"] = False
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(content))
    network = sam2_network.random_network(tmp_path / "model.yaml", vos_optimized=False)
    decoder = network.sam_mask_decoder
    assert decoder.dynamic_multimask_via_stability and network.binarize_mask_from_pts_for_mem_enc
    assert decoder.dynamic_multimask_stability_delta == 0.05
    assert decoder.dynamic_multimask_stability_thresh == 0.98


def test_compiled_components_see_few_shapes_and_draw_the_same(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: dict[str, set[int]] = {}
    modes: set[str] = set()

    def compiled(function: Any, **options: Any) -> Any:
        name = type(function.__self__).__name__

        def call(*arguments: Any, **named: Any) -> Any:
            first = next(v for v in [*arguments, *named.values()] if v is not None)
            first = first[0] if isinstance(first, tuple | list) else first
            # The memory's attention takes tokens first.
            shapes.setdefault(name, set()).add(first.shape[1 if name == "MemoryAttention" else 0])
            modes.add(options["mode"])
            return function(*arguments, **named)

        return call

    shown = clip(5)
    expected = ids_of(small(models_dir), shown)
    monkeypatch.setattr(torch, "compile", compiled)
    tracker = small(models_dir, vos_optimized="always")
    found = ids_of(tracker, shown)
    assert max(float((a != b).mean()) for a, b in zip(found, expected, strict=True)) < 0.01
    assert shapes["ImageEncoder"] == {16}
    assert shapes["MemoryEncoder"] == shapes["MemoryAttention"] == shapes["MaskDecoder"]
    assert shapes["MaskDecoder"] <= {4, 8}
    # CUDA graphs would belong to one thread, and keep memory that nobody can give back.
    assert modes == {"max-autotune-no-cudagraphs"}


@pytest.mark.parametrize(("count", "filled"), [(0, 0), (3, 4), (34, 64), (64, 64), (65, 68), (102, 128)])
def test_however_many_instances_there_are_few_counts_are_compiled(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch, count: int, filled: int
) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    assert small(models_dir, vos_optimized="always")._network._filled(count) == filled


def test_attempts_share_the_network_and_its_lock(models_dir: Path) -> None:
    first = small(models_dir, licence="first")
    second = small(models_dir, predicted_iou_threshold=0.88, reseed_interval_s=0.001, batch_size=2)
    assert second._network is not first._network
    assert second._network.loaded is first._network.loaded
    coarse = small(models_dir, precision="bfloat16")._network
    assert coarse.precision == "bfloat16" and first._network.precision == "float32"
    assert coarse.loaded is first._network.loaded, "parameters are float32 always"


def test_two_attempts_at_once_draw_the_same(models_dir: Path) -> None:
    trackers, shown = [small(models_dir, licence=f"attempt {n}") for n in range(2)], clip(4)
    expected = ids_of(trackers[0], shown)
    with ThreadPoolExecutor(2) as threads:
        for found in threads.map(lambda tracker: ids_of(tracker, shown), trackers):
            assert same(found, expected)


def test_as_many_compilations_are_permitted_as_counts_and_checkpoints_need(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._dynamo import config

    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    network = small(models_dir, vos_optimized="always")._network
    with network._running():
        assert config.recompile_limit >= 2 * len(sam2_network._COMPILED_COUNTS) > 8


def test_what_is_remembered_keeps_no_more_than_it_shows(models_dir: Path) -> None:
    """A view of one picture or one instance would keep the tensors of all."""
    network = small(models_dir, batch_size=4)._network
    (_, features), *_ = list(network.encode(clip(4)))
    memory = network.begin(
        [(0, features, network.on_device(np.eye(4, dtype=bool)[:, None].repeat(4, axis=1)))]
    )
    (begun,) = memory.begun.values()
    for tensor in (*features.positions, *begun["maskmem_pos_enc"]):
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def test_as_many_instances_as_by_default_are_not_filled_up() -> None:
    followed = inspect.signature(Sam2MaskTracker).parameters["max_objects"].default + len(HAND_IDS)
    assert followed in sam2_network._COMPILED_COUNTS


def test_building_a_compiled_network_prints_nothing(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    small(models_dir)
    sam2_network.random_network(models_dir / "own-masks" / "model.yaml", vos_optimized=True)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("value", ["never", "auto"])
def test_nothing_is_compiled_on_a_cpu_by_itself(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setattr(torch, "compile", lambda *a, **k: pytest.fail("compiled"))
    assert not small(models_dir, vos_optimized=value, device="cpu")._network.is_compiled


def test_a_clip_is_stored_as_it_was_followed(models_dir: Path, tmp_path: Path) -> None:
    shown, tracker = clip(7), small(models_dir)
    recorded = record_masks(
        iter(shown),
        lambda frames: tracker.track(frames, hands=hands_on(shown, resolution=(321, 179))),
        frame_index=[frame.frame_index for frame in shown],
        vocabulary=MASK_CATEGORIES,
        path=lambda name: tmp_path / name,
    )
    assert recorded.counts["frames"] == 7 and recorded.counts["hand_frame_share"] == 1
    assert {item.side for item in recorded.instances} == {"right", ""}
    assert recorded.reseeded_frames[0] == 0 and recorded.contact_sheet


def test_half_precision_runs(models_dir: Path) -> None:
    shown = clip(4)
    tracker = small(models_dir, precision="bfloat16")
    check(list(tracker.track(iter(shown))), shown, MASK_CATEGORIES)
    with pytest.raises(Exception, match="precision"):
        small(models_dir, precision="int8")


def test_frames_of_two_sizes_are_refused(models_dir: Path) -> None:
    with pytest.raises(ValueError, match="one size"):
        ids_of(small(models_dir), [*clip(1), *clip(1, (64, 48))])


def test_own_weights_say_what_they_are(models_dir: Path) -> None:
    info = small(models_dir, licence="MIT").info
    assert info.model == "own SAM 2.1" and info.licence == "MIT" and len(info.weights_sha256) == 64


# --- Files --------------------------------------------------------------------------------------------


def own_folder(tmp_path: Path, models_dir: Path) -> Path:
    small(models_dir)
    folder = tmp_path / "own-masks"
    folder.mkdir()
    for name in ("model.pt", "model.yaml"):
        (folder / name).write_bytes((models_dir / "own-masks" / name).read_bytes())
    return folder


def built(folder: Path) -> Sam2MaskTracker:
    return Sam2MaskTracker(
        models_dir=folder.parent, embeddings=AppearanceEmbedder(), checkpoint="own", device="cpu"
    )


def test_missing_and_damaged_weights_are_told(tmp_path: Path, models_dir: Path) -> None:
    folder = own_folder(tmp_path, models_dir)
    state = torch.load(folder / "model.pt", weights_only=True)
    (folder / "model.pt").write_bytes(b"not weights")
    with pytest.raises(BackendUnavailable, match="does not hold weights"):
        built(folder)
    torch.save(state["model"], folder / "model.pt")
    with pytest.raises(BackendUnavailable, match="model"):
        built(folder)
    state["model"].pop("no_obj_ptr")
    torch.save(state, folder / "model.pt")
    with pytest.raises(BackendUnavailable, match="no_obj_ptr"):
        built(folder)
    (folder / "model.pt").unlink()
    with pytest.raises(BackendUnavailable, match=r"model\.pt"):
        built(folder)


def test_a_configuration_makes_nothing_but_parts_of_the_network(tmp_path: Path, models_dir: Path) -> None:
    folder = own_folder(tmp_path, models_dir)
    content = small_configuration()
    content["model"]["image_encoder"]["trunk"] = {"_target_": "os.system", "command": "false"}
    (folder / "model.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(BackendUnavailable, match=r"os\.system"):
        built(folder)
    (folder / "model.yaml").write_text("model: [1, 2")
    with pytest.raises(BackendUnavailable, match="does not describe"):
        built(folder)


def test_every_published_configuration_is_there() -> None:
    for checkpoint in sam2_masks.CONFIGURATIONS:
        content = yaml.safe_load(published_configuration(checkpoint).read_text())
        assert content["model"]["image_size"] == 1024


def test_published_weights_load_under_the_names_the_package_gives_them(tmp_path: Path) -> None:
    from sam2.build_sam import (  # type: ignore[import-not-found,unused-ignore]
        build_sam2_video_predictor,
    )

    published = build_sam2_video_predictor("configs/sam2.1/sam2.1_hiera_t.yaml", device="cpu")
    shapes = {name: value.shape for name, value in published.state_dict().items()}
    own = sam2_network.random_network(published_configuration("tiny"), vos_optimized=False)
    assert {name: value.shape for name, value in own.state_dict().items()} == shapes
    assert type(own) is type(published)
    for name in ("delta", "thresh"):
        option = f"dynamic_multimask_stability_{name}"
        assert getattr(own.sam_mask_decoder, option) == getattr(published.sam_mask_decoder, option)
    # One number stands for each parameter, so that the file is small.
    state = {name: torch.full((1,), 0.01).expand(shape) for name, shape in shapes.items()}
    path = tmp_path / "sam2.1" / "sam2.1_hiera_tiny.pt"
    path.parent.mkdir()
    torch.save({"model": state}, path)
    with any_digest():
        tracker = Sam2MaskTracker(
            models_dir=tmp_path, embeddings=AppearanceEmbedder(), checkpoint="tiny", device="cpu"
        )
    assert tracker.info.model == "SAM 2.1 Hiera tiny" and tracker.info.licence == "Apache-2.0"
    assert tracker._network.mask_side == 256
    parameters = list(tracker._network._plain.parameters())
    assert all(float(value.flatten()[-1]) == pytest.approx(0.01) for value in parameters)
