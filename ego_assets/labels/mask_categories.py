"""What an instance is: pictures of it compared with words, in a space that holds both (CLIP, Radford et al., 2021)."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ego_assets.labels.regions import Mask
from ego_assets.schema.detections import BackendInfo, BgrImage
from ego_assets.schema.embeddings import Embedder
from ego_assets.schema.masks import BACKGROUND_CATEGORY, HAND_CATEGORY, PERSON_CATEGORY, UNKNOWN_CATEGORY

Vectors = npt.NDArray[np.float32]

#: What people call the things of a category; a category that is not here is called by its name.
CATEGORY_WORDS: Mapping[str, tuple[str, ...]] = {
    "tool": (
        "tool",
        "hand tool",
        "kitchen utensil",
        "knife",
        "spoon",
        "screwdriver",
        "hammer",
        "pair of pliers",
        "pair of scissors",
        "brush",
        "pen",
        "power drill",
    ),
    "food": ("food", "vegetable", "piece of fruit", "loaf of bread", "piece of meat", "meal", "ingredient"),
    "container": (
        "container",
        "cup",
        "mug",
        "bowl",
        "bottle",
        "plate",
        "cooking pot",
        "pan",
        "jar",
        "cardboard box",
        "basket",
        "bag",
        "bucket",
    ),
    "appliance": (
        "household appliance",
        "stove",
        "refrigerator",
        "microwave oven",
        "kettle",
        "washing machine",
        "dishwasher",
        "computer screen",
        "laptop",
        "machine",
    ),
    "furniture": (
        "piece of furniture",
        "table",
        "chair",
        "cupboard",
        "drawer",
        "shelf",
        "sofa",
        "bed",
        "desk",
    ),
    PERSON_CATEGORY: ("person", "person's arm", "person's legs", "person's hand", "person's clothes"),
    BACKGROUND_CATEGORY: ("wall", "floor", "ceiling", "window", "door", "sky", "street", "lawn"),
    "surface": ("table top", "worktop", "countertop", "cutting board", "floor covering"),
}
#: Sentences around a word; their vectors are averaged.
TEMPLATES = (
    "a photo of a {}.",
    "a close-up photo of a {}.",
    "a blurry photo of a {}.",
    "a photo of a {} in somebody's hand.",
    "a photo of a {} seen by the person who uses it.",
)
#: By how much CLIP multiplies the cosine before the softmax.
_LOGIT_SCALE = 100.0
#: A picture of an instance shows this share of its box's sides around it, and what is not the instance this weakly.
_MARGIN, _DIMMED = 0.15, 0.4
_GREY = 118.0


def category_prompts(vocabulary: Sequence[str]) -> dict[str, list[str]]:
    """Sentences that describe each category which pictures can decide about.

    ``object`` is what stays where nothing fits, and hands of the wearer are found by the hand layer: neither has any.
    """
    decided = [name for name in vocabulary if name not in (UNKNOWN_CATEGORY, HAND_CATEGORY)]
    return {
        name: [text.format(word) for word in CATEGORY_WORDS.get(name, (name,)) for text in TEMPLATES]
        for name in decided
    }


def instance_crop(image: BgrImage, mask: Mask) -> BgrImage | None:
    """A picture of one instance: its box with a margin, what is around it dimmed; ``None`` where the mask is empty.

    Args:
        image: ``uint8 [h, w, 3]``, BGR.
        mask: ``bool [h, w]``.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    height, width = mask.shape
    margin = max(2, round(_MARGIN * max(rows[-1] - rows[0], columns[-1] - columns[0])))
    window = (
        slice(max(0, rows[0] - margin), min(height, rows[-1] + margin + 1)),
        slice(max(0, columns[0] - margin), min(width, columns[-1] + margin + 1)),
    )
    crop, inside = image[window], mask[window][..., None]
    dimmed = _GREY + _DIMMED * (crop.astype(np.float32) - _GREY)
    return np.ascontiguousarray(np.where(inside, crop, np.rint(dimmed).astype(np.uint8)))


def decide(
    pictures: Vectors, categories: Sequence[str], directions: Vectors, *, threshold: float
) -> tuple[str, float] | None:
    """The category of one instance and how sure it is; ``None`` where no category is likely enough.

    Args:
        pictures: ``float32 [K, D]``, unit vectors of pictures of the instance.
        categories: Names.
        directions: ``float32 [C, D]``, unit vector of each category.
        threshold: Probability that the best category has to have.
    """
    if not len(pictures) or not categories:
        return None
    mean = pictures.astype(np.float64).mean(axis=0)
    logits = _LOGIT_SCALE * (directions.astype(np.float64) @ mean) / max(float(np.linalg.norm(mean)), 1e-9)
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    best = int(probabilities.argmax())
    sure = min(1.0, float(probabilities[best]))
    return (categories[best], sure) if sure >= threshold else None


class CategoryJudge:
    """Decides what instances are.

    Args:
        embedder: Turns pictures and words into vectors; without a text side nothing is decided.
        threshold: Probability that the best category has to have.
    """

    def __init__(self, embedder: Embedder, *, threshold: float) -> None:
        self._embedder, self._threshold = embedder, threshold
        self._known: dict[tuple[str, ...], tuple[list[str], Vectors]] = {}
        self._lock = threading.Lock()

    @property
    def can_judge(self) -> bool:
        """Whether it knows words at all."""
        return self._embedder.embeds_text

    @property
    def info(self) -> BackendInfo | None:
        """The backend whose words decide; ``None`` where it knows none."""
        return self._embedder.info if self.can_judge else None

    def judge(
        self, crops: Mapping[int, Sequence[BgrImage]], vocabulary: Sequence[str]
    ) -> dict[int, tuple[str, float]]:
        """Category and certainty of the instances that a category is likely enough for.

        Args:
            crops: Instance to its pictures; see :func:`instance_crop`.
            vocabulary: Categories that may be given.
        """
        images = [image for pictures in crops.values() for image in pictures]
        if not self.can_judge or not images:
            return {}
        categories, directions = self._directions(tuple(vocabulary))
        if not categories:
            return {}
        vectors = self._embedder.embed_images(images)
        found, start = {}, 0
        for instance_id, pictures in crops.items():
            own = vectors[start : start + len(pictures)]
            start += len(pictures)
            decision = decide(own, categories, directions, threshold=self._threshold)
            if decision is not None:
                found[instance_id] = decision
        return found

    def _directions(self, vocabulary: tuple[str, ...]) -> tuple[list[str], Vectors]:
        """Categories and their unit vectors, ``float32 [C, D]``; computed once per vocabulary."""
        with self._lock:
            if vocabulary not in self._known:
                prompts = category_prompts(vocabulary)
                texts = [text for sentences in prompts.values() for text in sentences]
                vectors = self._embedder.embed_texts(texts) if texts else np.zeros((0, 1), np.float32)
                ends = np.cumsum([len(sentences) for sentences in prompts.values()])
                means = [part.mean(axis=0) for part in np.split(vectors, ends[:-1])] if texts else []
                units = [mean / max(float(np.linalg.norm(mean)), 1e-9) for mean in means]
                self._known[vocabulary] = list(prompts), np.array(units, np.float32)
            return self._known[vocabulary]
