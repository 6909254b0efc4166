"""What every backend of the task ``embeddings`` must do, whatever runs behind it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ego_assets.schema.detections import BackendInfo
from ego_assets.schema.embeddings import EMBEDDING_DIMENSIONS, Embedder, Embedding
from ego_assets.schema.errors import BackendUnavailable
from ego_assets_tests.checkpoints import small_backend
from resources.models.backends import BACKENDS

TASK = "embeddings"
Image = npt.NDArray[np.uint8]


@pytest.fixture(scope="module", params=sorted(BACKENDS[TASK]))
def embedder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    backend: Embedder = small_backend(TASK, request.param, tmp_path_factory.mktemp("models"))
    assert isinstance(backend, Embedder) and backend.info.backend == request.param
    return backend


def picture(seed: int = 0, *, width: int = 321, height: int = 179) -> Image:
    """Large patches of colour, so that there is something to see."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 256, (5, 8, 3), dtype=np.uint8)
    return np.ascontiguousarray(
        np.repeat(np.repeat(patches, height // 5 + 1, axis=0), width // 8 + 1, axis=1)[:height, :width]
    )


def check(vectors: npt.NDArray[np.float32], count: int) -> None:
    assert vectors.dtype == np.float32 and vectors.shape == (count, EMBEDDING_DIMENSIONS)
    assert np.isfinite(vectors).all()
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)


def test_says_what_it_is(embedder: Embedder) -> None:
    info = embedder.info
    assert isinstance(info, BackendInfo) and info.task == TASK and info.model
    assert embedder.space and embedder.space == embedder.space.strip()


def test_gives_one_unit_vector_per_picture(embedder: Embedder) -> None:
    vectors = embedder.embed_images([picture(seed) for seed in range(3)])
    check(vectors, 3)
    Embedding(embedder.space, vectors[0])


def test_no_picture_gives_no_vector(embedder: Embedder) -> None:
    check(embedder.embed_images([]), 0)


@pytest.mark.parametrize("size", [(321, 179), (179, 321), (64, 64), (33, 500), (1, 1), (1280, 720)])
def test_takes_any_size(embedder: Embedder, size: tuple[int, int]) -> None:
    check(embedder.embed_images([picture(width=size[0], height=size[1])]), 1)


def test_pictures_of_different_sizes_may_be_mixed(embedder: Embedder) -> None:
    check(embedder.embed_images([picture(), picture(width=64, height=48)]), 2)


@pytest.mark.parametrize("value", [0, 127, 255])
def test_flat_pictures_have_a_vector(embedder: Embedder, value: int) -> None:
    check(embedder.embed_images([np.full((179, 321, 3), value, np.uint8)]), 1)


def test_is_deterministic_and_leaves_the_pictures_alone(embedder: Embedder) -> None:
    image = picture()
    before = image.copy()
    first = embedder.embed_images([image])
    image.setflags(write=False)
    second = embedder.embed_images([image])
    assert np.array_equal(first, second) and np.array_equal(image, before)


def test_remembers_nothing_and_batches_do_not_matter(embedder: Embedder) -> None:
    images = [picture(seed) for seed in range(4)]
    alone = np.concatenate([embedder.embed_images([image]) for image in images])
    embedder.embed_images([np.zeros((90, 160, 3), np.uint8)])
    together = embedder.embed_images(images)
    # Batched kernels may round differently.
    assert np.allclose(alone, together, atol=1e-3)


def test_the_same_picture_is_nearer_than_another(embedder: Embedder) -> None:
    image, brighter, other = picture(1), np.clip(picture(1) * 1.1, 0, 255).astype(np.uint8), picture(2)
    vectors = embedder.embed_images([image, brighter, other])
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]


def test_two_threads_may_ask_at_once(embedder: Embedder) -> None:
    images = [picture(seed) for seed in range(4)]
    expected = embedder.embed_images(images)
    with ThreadPoolExecutor(2) as threads:
        for found in threads.map(embedder.embed_images, [images] * 4):
            assert np.allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize(
    "image", [np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)]
)
def test_anything_else_than_a_picture_is_refused(embedder: Embedder, image: Any) -> None:
    with pytest.raises(ValueError, match="uint8"):
        embedder.embed_images([image])


def test_text_lies_in_the_same_space_or_is_refused(embedder: Embedder) -> None:
    if embedder.embeds_text:
        check(embedder.embed_texts(["a hand cuts an onion", "a corridor"]), 2)
        check(embedder.embed_texts([]), 0)
        check(embedder.embed_texts(["word " * 500, "", "zwölf Äpfel 🍎"]), 3)
        again = embedder.embed_texts(["a hand cuts an onion"])
        assert np.allclose(again, embedder.embed_texts(["a hand cuts an onion", "a corridor"])[:1], atol=1e-3)
    else:
        with pytest.raises(BackendUnavailable, match="text"):
            embedder.embed_texts(["a hand cuts an onion"])
