"""What every depth backend must do."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import pytest

from ego_assets.schema.camera import PinholeCamera, Scale
from ego_assets.schema.depth import DepthEstimator, DepthFrame
from ego_assets.schema.errors import BackendUnavailable
from ego_assets.schema.frames import ClipFrame
from ego_assets.synth import SceneSpec
from ego_assets.synth.scene import Scene
from resources.models.backends import BACKENDS
from resources.profiles import BackendConfig, Profile, build_backend

RATE = 5
#: The largest difference that a completed or measured pixel may have from the truth, as a share, at the median.
TOLERANCE = 0.15


@pytest.fixture(scope="module", params=sorted(BACKENDS["depth"]))
def depth(request: pytest.FixtureRequest) -> DepthEstimator:
    used = {task: BackendConfig(backend="dis") for task in BACKENDS["depth"][request.param].uses}
    profile = Profile(name="conformance", backends={"depth": BackendConfig(backend=request.param), **used})
    try:
        estimator: DepthEstimator = build_backend(profile, "depth")
    except BackendUnavailable as error:
        pytest.skip(str(error))
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


def test_one_map_per_frame_in_order_and_right_up_to_scale(depth: DepthEstimator) -> None:
    frames, truths, camera = clip("walk")
    results = list(depth.estimate(frames, camera=camera))
    assert [result.frame_index for result in results] == [frame.frame_index for frame in frames]
    assert [result.timestamp_ns for result in results] == [frame.timestamp_ns for frame in frames]
    estimated = [number for number, result in enumerate(results) if result.status == "estimated"]
    assert len(estimated) >= len(frames) - 2
    for number in estimated:
        result, truth = results[number], truths[number]
        assert result.depth.shape == frames[number].image.shape[:2]
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
    results = list(depth.estimate(still_frames(image, 3), camera=camera_of(width, height)))
    assert len(results) == 3


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
