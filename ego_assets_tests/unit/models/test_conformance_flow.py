"""What every flow backend must do."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from ego_assets.schema.errors import BackendUnavailable
from ego_assets.schema.flow import FlowEstimator
from resources.models.backends import BACKENDS
from resources.profiles import BackendConfig, Profile, build_backend

Image = npt.NDArray[np.uint8]


@pytest.fixture(scope="module", params=sorted(BACKENDS["flow"]))
def flow(request: pytest.FixtureRequest) -> FlowEstimator:
    profile = Profile(name="conformance", backends={"flow": BackendConfig(backend=request.param)})
    try:
        estimator: FlowEstimator = build_backend(profile, "flow")
    except BackendUnavailable as error:
        pytest.skip(str(error))
    return estimator


def pattern(width: int, height: int, *, right: int = 0, down: int = 0) -> Image:
    """Smooth noise, whose content lies further to the right and down by so many pixels."""
    coarse = np.random.default_rng(1).random((height // 6 + 12, width // 6 + 12))
    fine = np.kron(coarse, np.ones((6, 6)))
    blurred = sum(np.roll(np.roll(fine, i, 0), j, 1) for i in range(-3, 4) for j in range(-3, 4)) / 49
    part = blurred[20 - down : 20 - down + height, 20 - right : 20 - right + width]
    return np.repeat((part * 255).astype(np.uint8)[..., None], 3, axis=2)


def test_it_names_its_task_and_model(flow: FlowEstimator) -> None:
    assert flow.info.task == "flow"
    assert flow.info.backend in BACKENDS["flow"]
    assert flow.info.model


@pytest.mark.parametrize("size", [(320, 180), (321, 179), (64, 48)])
def test_offsets_lead_from_the_first_picture_to_the_second(
    flow: FlowEstimator, size: tuple[int, int]
) -> None:
    width, height = size
    field = flow.flow([(pattern(width, height), pattern(width, height, right=5, down=-3))])[0]
    assert field.shape == (height, width, 2)
    assert field.dtype == np.float32
    middle = field[height // 4 : -height // 4, width // 4 : -width // 4].reshape(-1, 2)
    assert np.median(middle, axis=0) == pytest.approx([5, -3], abs=0.5)


def test_no_pairs_give_no_fields(flow: FlowEstimator) -> None:
    assert flow.flow([]) == []


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (33, 17)])
def test_small_and_black_pictures_give_finite_fields(flow: FlowEstimator, size: tuple[int, int]) -> None:
    black = np.zeros((size[1], size[0], 3), np.uint8)
    (field,) = flow.flow([(black, black)])
    assert field.shape == (size[1], size[0], 2)
    assert np.isfinite(field).all()


def test_equal_pairs_give_equal_fields_whatever_came_before(flow: FlowEstimator) -> None:
    pair = pattern(160, 90), pattern(160, 90, right=3)
    alone = flow.flow([pair])[0]
    other = pattern(160, 90, down=9), pattern(160, 90)
    again = flow.flow([other, pair])[1]
    assert np.array_equal(alone, again)


def test_sizes_that_differ_are_refused(flow: FlowEstimator) -> None:
    with pytest.raises(ValueError, match="one size"):
        flow.flow([(pattern(64, 48), pattern(48, 64))])
