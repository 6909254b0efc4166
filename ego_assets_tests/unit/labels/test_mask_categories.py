"""What an instance is: pictures of it compared with words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from ego_assets.labels.mask_categories import (
    CATEGORY_WORDS,
    TEMPLATES,
    CategoryJudge,
    category_prompts,
    decide,
    instance_crop,
)
from ego_assets.schema.detections import BackendInfo, BgrImage
from ego_assets.schema.embeddings import EMBEDDING_DIMENSIONS
from ego_assets.schema.errors import BackendUnavailable
from ego_assets.schema.masks import MASK_CATEGORIES, MASK_VOCABULARIES


class Colours:
    """A space of three axes: what is blue is food, what is green is a tool, what is red is furniture."""

    space = "colours"
    info = BackendInfo(task="embeddings", backend="colours", model="colours")

    def __init__(self, *, embeds_text: bool = True) -> None:
        self.embeds_text = embeds_text
        self.texts = 0

    def embed_images(self, images: Sequence[BgrImage]) -> npt.NDArray[np.float32]:
        return self._units([image.reshape(-1, 3).mean(axis=0) for image in images])

    def embed_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        if not self.embeds_text:
            raise BackendUnavailable("no words")
        self.texts += len(texts)
        sentences = category_prompts(("food", "tool", "furniture")).values()
        return self._units([[float(text in own) for own in sentences] for text in texts])

    def _units(self, rows: Sequence[Sequence[float] | npt.NDArray[np.float64]]) -> npt.NDArray[np.float32]:
        vectors = np.zeros((len(rows), EMBEDDING_DIMENSIONS), np.float32)
        vectors[:, :3] = np.array(rows).reshape(-1, 3)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.maximum(lengths, 1e-9), dtype=np.float32)


def picture(*bgr: int) -> BgrImage:
    return np.full((12, 10, 3), bgr, np.uint8)


BLUE, GREEN, GREY = picture(250, 5, 5), picture(5, 250, 5), picture(120, 120, 120)
VOCABULARY = ("object", "hand", "tool", "food", "furniture")


def test_instances_are_named_after_what_they_look_like() -> None:
    found = CategoryJudge(Colours(), threshold=0.5).judge({3: [BLUE, BLUE], 7: [GREEN]}, VOCABULARY)
    assert {number: name for number, (name, _) in found.items()} == {3: "food", 7: "tool"}
    assert all(0.5 <= score <= 1 for _, score in found.values())


def test_what_could_be_anything_is_not_named() -> None:
    assert CategoryJudge(Colours(), threshold=0.5).judge({3: [GREY]}, VOCABULARY) == {}


def test_only_words_of_the_vocabulary_are_given() -> None:
    found = CategoryJudge(Colours(), threshold=0.5).judge({3: [BLUE]}, ("object", "tool"))
    assert found.get(3, ("tool",))[0] == "tool"


def test_words_are_computed_once_per_vocabulary() -> None:
    embedder = Colours()
    judge = CategoryJudge(embedder, threshold=0.5)
    judge.judge({3: [BLUE]}, VOCABULARY)
    once = embedder.texts
    judge.judge({4: [GREEN]}, VOCABULARY)
    assert embedder.texts == once > 0
    judge.judge({4: [GREEN]}, ("object", "tool"))
    assert embedder.texts > once


def test_without_words_nothing_is_named() -> None:
    judge = CategoryJudge(Colours(embeds_text=False), threshold=0.5)
    assert not judge.can_judge and judge.info is None
    assert CategoryJudge(Colours(), threshold=0.5).info == Colours.info
    assert judge.judge({3: [BLUE]}, VOCABULARY) == {}


@pytest.mark.parametrize("vocabulary", [("object",), ("object", "hand")])
def test_vocabularies_that_leave_nothing_to_decide(vocabulary: tuple[str, ...]) -> None:
    assert CategoryJudge(Colours(), threshold=0.5).judge({3: [BLUE]}, vocabulary) == {}


def test_instances_without_a_picture_are_not_named() -> None:
    found = CategoryJudge(Colours(), threshold=0.5).judge({3: [], 4: [BLUE], 5: []}, VOCABULARY)
    assert list(found) == [4]


def test_every_category_has_prompts_of_several_templates() -> None:
    for vocabulary in MASK_VOCABULARIES.values():
        prompts = category_prompts(vocabulary)
        assert set(prompts) == set(vocabulary) - {"object", "hand"}
        assert set(prompts) <= set(CATEGORY_WORDS)
        for sentences in prompts.values():
            assert len(sentences) == len(set(sentences)) >= 2 * len(TEMPLATES)
    assert category_prompts(("object", "robot"))["robot"] == [text.format("robot") for text in TEMPLATES]


def test_words_stand_for_one_category_only() -> None:
    words = [word for name in MASK_CATEGORIES for word in CATEGORY_WORDS.get(name, ())]
    assert len(words) == len(set(words))


def test_pictures_of_an_instance_are_averaged() -> None:
    axes = np.eye(2, 5, dtype=np.float32)
    mostly_first = np.stack([axes[0], axes[0], axes[1]])
    decision = decide(mostly_first, ["a", "b"], axes, threshold=0.0)
    assert decision is not None and decision[0] == "a"
    undecided = decide(np.stack([axes[0], axes[1]]), ["a", "b"], axes, threshold=0.6)
    assert undecided is None
    assert decide(np.zeros((0, 5), np.float32), ["a"], axes[:1], threshold=0.0) is None


def test_a_crop_shows_the_instance_and_dims_what_is_around() -> None:
    image = np.full((60, 80, 3), 250, np.uint8)
    mask = np.zeros((60, 80), np.bool_)
    mask[20:40, 30:50] = True
    crop = instance_crop(image, mask)
    assert crop is not None and crop.shape == (26, 26, 3)
    assert (crop[3:23, 3:23] == 250).all()
    assert (crop[:3] < 200).all() and (crop[:, 23:] < 200).all()
    corner = np.zeros((60, 80), np.bool_)
    corner[0, 0] = True
    assert instance_crop(image, corner) is not None
    assert instance_crop(image, np.zeros((60, 80), np.bool_)) is None
