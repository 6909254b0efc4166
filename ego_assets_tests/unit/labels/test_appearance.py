from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ego_assets.labels.appearance import NEAR_DUPLICATE_SIMILARITY, describe

Image = npt.NDArray[np.uint8]


def scene(seed: int, *, width: int = 320, height: int = 180) -> Image:
    """A made-up room: patches of colour of all sizes, softened, with a grain."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), rng.integers(60, 190, 3), np.float32)
    for _ in range(25):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        axes = (int(rng.integers(6, width // 4)), int(rng.integers(6, height // 3)))
        colour = [float(value) for value in rng.integers(0, 255, 3)]
        cv2.ellipse(image, centre, axes, float(rng.integers(180)), 0, 360, colour, -1)
    image = cv2.GaussianBlur(image, (0, 0), 1.2) + rng.normal(0, 3, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def cosine(first: Image, second: Image) -> float:
    return float(describe(first) @ describe(second))


def compressed(image: Image, quality: int = 20) -> Image:
    encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), dtype=np.uint8)


def cut(image: Image, share: float) -> Image:
    top, left = round(image.shape[0] * share), round(image.shape[1] * share)
    return image[top:, left:]


@pytest.mark.parametrize("seed", range(4))
def test_copies_stay_close_and_other_scenes_far(seed: int) -> None:
    image = scene(seed)
    copies = {
        "compressed": compressed(image),
        "cut by 5 %": cut(image, 0.05),
        "half the size": np.asarray(
            cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), dtype=np.uint8
        ),
        "darker": np.asarray(image * 0.7, dtype=np.uint8),
        "brighter": np.clip(image * 1.2, 0, 255).astype(np.uint8),
    }
    for name, copy in copies.items():
        assert cosine(image, copy) > NEAR_DUPLICATE_SIMILARITY, name
    for other in range(10, 20):
        assert cosine(image, scene(other)) < NEAR_DUPLICATE_SIMILARITY


def test_a_mirrored_picture_is_another_one() -> None:
    image = scene(1)
    assert cosine(image, np.ascontiguousarray(image[:, ::-1])) < NEAR_DUPLICATE_SIMILARITY


def test_colour_alone_tells_pictures_apart() -> None:
    image = scene(2)
    swapped = np.ascontiguousarray(image[..., ::-1])
    assert cosine(image, swapped) < 0.95


@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    seed=st.integers(0, 1000),
    flat=st.booleans(),
)
def test_every_picture_has_one_unit_vector(width: int, height: int, seed: int, flat: bool) -> None:
    rng = np.random.default_rng(seed)
    if flat:
        image = np.broadcast_to(rng.integers(0, 256, 3, dtype=np.uint8), (height, width, 3)).copy()
    else:
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    vector = describe(image)
    assert vector.shape == (768,) and vector.dtype == np.float32
    assert np.isfinite(vector).all() and abs(float(np.linalg.norm(vector)) - 1) < 1e-5
    assert np.array_equal(vector, describe(image.copy()))


def test_flat_grey_pictures_are_nearly_the_same() -> None:
    black = np.zeros((36, 64, 3), np.uint8)
    for value in (20, 128, 255):
        assert cosine(black, np.full((50, 20, 3), value, np.uint8)) > 0.9


def test_a_view_with_strides_gives_what_its_copy_gives() -> None:
    image = scene(3)
    view = image[::2, ::-1]
    assert np.array_equal(describe(view), describe(np.ascontiguousarray(view)))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_what_is_no_picture_is_refused(image: npt.NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        describe(image)
