"""What every flow backend must do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest

from ego_assets.schema.flow import FlowEstimator
from ego_assets_tests.checkpoints import maker_of, small_backend
from resources.models.backends import BACKENDS

Image = npt.NDArray[np.uint8]


@pytest.fixture(scope="module", params=sorted(BACKENDS["flow"]))
def flow(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FlowEstimator:
    built: FlowEstimator = small_backend("flow", request.param, tmp_path_factory.mktemp("models"))
    return built


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
    if maker_of("flow", flow.info.backend) is not None:
        pytest.skip("small random weights see nothing")
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


def test_pairs_of_several_sizes_keep_their_order(flow: FlowEstimator) -> None:
    sizes = [(64, 48), (33, 17), (64, 48), (90, 160)]
    pairs = [(pattern(*size), pattern(*size, right=number)) for number, size in enumerate(sizes)]
    fields = flow.flow(pairs)
    assert [field.shape for field in fields] == [(height, width, 2) for width, height in sizes]
    for pair, field in zip(pairs, fields, strict=True):
        assert np.array_equal(flow.flow([pair])[0], field)


def test_nothing_that_was_given_is_changed(flow: FlowEstimator) -> None:
    first, second = pattern(64, 48), pattern(64, 48, right=2)
    before = first.copy(), second.copy()
    flow.flow([(first, second)])
    assert np.array_equal(first, before[0]) and np.array_equal(second, before[1])


def test_two_threads_get_what_one_would(flow: FlowEstimator) -> None:
    pairs = [(pattern(160, 90), pattern(160, 90, right=number)) for number in range(4)]
    alone = [flow.flow([pair])[0] for pair in pairs]
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(lambda pair: flow.flow([pair])[0], pairs))
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one, other)


def test_sizes_that_differ_are_refused(flow: FlowEstimator) -> None:
    with pytest.raises(ValueError, match="one size"):
        flow.flow([(pattern(64, 48), pattern(48, 64))])
