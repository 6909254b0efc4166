"""What every depth backend must do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import chain

import numpy as np
import numpy.typing as npt
import pytest

from ego_assets.schema.camera import PinholeCamera, Scale
from ego_assets.schema.depth import MEASURED_FROM, DepthEstimator, DepthFrame
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.vocabulary import LocationType
from ego_assets.synth import SceneSpec
from ego_assets.synth.scene import Scene
from ego_assets_tests.checkpoints import small_backend
from resources.models.backends import BACKENDS

RATE = 5
#: The largest difference that a completed or measured pixel may have from the truth, as a share, at the median.
TOLERANCE = 0.15


@pytest.fixture(scope="module", params=sorted(BACKENDS["depth"]))
def depth(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DepthEstimator:
    estimator: DepthEstimator = small_backend("depth", request.param, tmp_path_factory.mktemp("models"))
    return estimator


@cache
def clip(
    motion: str, width: int = 480, height: int = 270, count: int = 6
) -> tuple[tuple[ClipFrame, ...], tuple[npt.NDArray[np.float32], ...], PinholeCamera]:
    spec = SceneSpec(seed=3, width=width, height=height, camera_motion=motion, hands=False)  # type: ignore[arg-type]
    scene = Scene(spec)
    frames, truths = [], []
    for number in range(count):
        rendering = scene.frame(number / RATE, number * 6).rendering
        frames.append(ClipFrame(number * 6, number * 200_000_000, rendering.image))
        truths.append((1 / np.maximum(rendering.inverse_depth, 1e-6)).astype(np.float32))
    matrix = scene.intrinsics
    camera = PinholeCamera(
        width=width,
        height=height,
        fx=matrix[0, 0],
        fy=matrix[1, 1],
        cx=matrix[0, 2],
        cy=matrix[1, 2],
        source="sidecar",
    )
    return tuple(frames), tuple(truths), camera


def camera_of(width: int, height: int) -> PinholeCamera:
    return PinholeCamera(
        width=width, height=height, fx=width / 2, fy=width / 2, cx=(width - 1) / 2, cy=(height - 1) / 2
    )


def still_frames(image: npt.NDArray[np.uint8], count: int) -> list[ClipFrame]:
    return [ClipFrame(number, number * 200_000_000, image) for number in range(count)]


def test_it_names_its_task_and_model(depth: DepthEstimator) -> None:
    assert depth.info.task == "depth"
    assert depth.info.backend in BACKENDS["depth"]
    assert depth.info.model


def test_one_map_per_frame_in_order(depth: DepthEstimator) -> None:
    frames, _, camera = clip("walk")
    # Streams may be iterated once.
    results = list(depth.estimate(iter(frames), camera=camera))
    assert [result.frame_index for result in results] == [frame.frame_index for frame in frames]
    assert [result.timestamp_ns for result in results] == [frame.timestamp_ns for frame in frames]
    for frame, result in zip(frames, results, strict=True):
        assert result.depth.shape == frame.image.shape[:2]


def test_maps_are_right_up_to_scale(depth: DepthEstimator) -> None:
    frames, truths, camera = clip("walk")
    if depth.info.weights_sha256:
        pytest.skip("small random weights see nothing")
    results = list(depth.estimate(frames, camera=camera))
    estimated = [number for number, result in enumerate(results) if result.status == "estimated"]
    assert len(estimated) >= len(frames) - 2
    for number in estimated:
        result, truth = results[number], truths[number]
        known = result.depth > 0
        ratio = truth[known] / result.depth[known]
        assert np.median(np.abs(ratio / np.median(ratio) - 1)) < TOLERANCE


def test_equal_clips_give_equal_maps_whatever_came_before(depth: DepthEstimator) -> None:
    frames, _, camera = clip("walk")
    first = list(depth.estimate(frames[:4], camera=camera))
    list(depth.estimate(frames[2:], camera=camera))
    second = list(depth.estimate(frames[:4], camera=camera))
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.depth, other.depth)
        assert np.array_equal(one.confidence, other.confidence)


def test_no_frames_give_no_maps(depth: DepthEstimator) -> None:
    assert list(depth.estimate([], camera=camera_of(64, 48))) == []


@pytest.mark.parametrize("size", [(321, 179), (5, 3), (1, 1)])
def test_odd_sizes_and_a_single_frame(depth: DepthEstimator, size: tuple[int, int]) -> None:
    width, height = size
    image = np.random.default_rng(2).integers(0, 255, (height, width, 3), dtype=np.uint8)
    (result,) = depth.estimate(still_frames(image, 1), camera=camera_of(width, height))
    assert result.depth.shape == (height, width)
    if not depth.is_dense:
        assert result.status != "estimated"
        assert not result.depth.any()
    else:
        assert result.status == "estimated" and result.depth.all()
    results = list(depth.estimate(still_frames(image, 3), camera=camera_of(width, height)))
    assert len(results) == 3


def test_a_dense_backend_knows_every_pixel_of_a_black_frame_too(depth: DepthEstimator) -> None:
    if not depth.is_dense:
        pytest.skip("depth from motion knows what it saw")
    black = np.zeros((54, 96, 3), np.uint8)
    for result in depth.estimate(still_frames(black, 3), camera=camera_of(96, 54)):
        assert (result.depth > 0).all() and (result.confidence >= MEASURED_FROM).all()


@pytest.mark.parametrize("location", list(LocationType))
def test_every_place_is_taken(depth: DepthEstimator, location: LocationType) -> None:
    image = np.full((48, 64, 3), 90, np.uint8)
    (result,) = depth.estimate(still_frames(image, 1), camera=camera_of(64, 48), location=location)
    assert result.depth.shape == (48, 64)


def test_two_clips_at_once_get_their_own_maps(depth: DepthEstimator) -> None:
    frames, _, camera = clip("walk")
    clips = [frames[:3], frames[3:]]
    alone = [list(depth.estimate(part, camera=camera)) for part in clips]
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(lambda part: list(depth.estimate(part, camera=camera)), clips))
    for one, other in zip(chain(*alone), chain(*together), strict=True):
        assert one.frame_index == other.frame_index
        assert np.array_equal(one.depth, other.depth)


def test_the_unit_of_a_segment_is_the_median_of_its_first_map(depth: DepthEstimator) -> None:
    frames, _, camera = clip("walk")
    results = list(depth.estimate(frames[:4], camera=camera))
    seen = set()
    for result in results:
        if result.scale is Scale.UNKNOWN and result.depth.any() and result.segment not in seen:
            seen.add(result.segment)
            measured = result.depth[result.confidence >= MEASURED_FROM]
            assert np.median(measured) == pytest.approx(1, rel=0.02)
    assert seen or {result.scale for result in results} == {Scale.METRIC}


def assert_nothing_said(results: list[DepthFrame]) -> None:
    assert {result.status for result in results} <= {"no_parallax", "failed"}
    assert not any(result.depth.any() or result.confidence.any() for result in results)


def test_black_frames_and_still_cameras_say_nothing(depth: DepthEstimator) -> None:
    if depth.is_dense:
        pytest.skip("a network judges single pictures")
    black = np.zeros((120, 160, 3), np.uint8)
    assert_nothing_said(list(depth.estimate(still_frames(black, 4), camera=camera_of(160, 120))))
    frames, _, camera = clip("still")
    assert_nothing_said(list(depth.estimate(frames, camera=camera)))


def test_unrelated_pictures_say_nothing_of_each_other(depth: DepthEstimator) -> None:
    if depth.is_dense:
        pytest.skip("a network judges single pictures")
    rooms = [Scene(SceneSpec(seed=seed, width=480, height=270, hands=False)) for seed in range(1, 7)]
    pictures = [room.frame(0.0, 0).rendering.image for room in rooms]
    frames = [ClipFrame(number, number * 200_000_000, picture) for number, picture in enumerate(pictures)]
    *_, camera = clip("walk")
    results = list(depth.estimate(frames, camera=camera))
    assert_nothing_said(results)
    assert {result.status for result in results} == {"failed"}


def test_maps_of_two_scenes_know_nothing_of_each_other(depth: DepthEstimator) -> None:
    frames, _, camera = clip("walk")
    cut = frames[3].frame_index
    whole = list(depth.estimate(frames, camera=camera, cuts=frozenset({cut})))
    parts = [*depth.estimate(frames[:3], camera=camera), *depth.estimate(frames[3:], camera=camera)]
    for one, other in zip(whole, parts, strict=True):
        assert np.array_equal(one.depth, other.depth)


def test_a_known_distance_makes_metres(depth: DepthEstimator) -> None:
    frames, _, camera = clip("walk")
    if depth.is_dense:
        pytest.skip("a network has its own scale")
    unknown = list(depth.estimate(frames, camera=camera))
    assert {result.scale for result in unknown} == {Scale.UNKNOWN}
    near, far = (list(depth.estimate(frames, camera=camera, baseline_m=metres)) for metres in (0.1, 0.2))
    assert {result.scale for result in near} == {Scale.METRIC}
    for one, other in zip(near, far, strict=True):
        np.testing.assert_allclose(other.depth, 2 * one.depth, rtol=1e-4)
