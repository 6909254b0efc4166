from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ego_assets.geometry.calibration import MAX_FACTOR, calibrated
from ego_assets.geometry.inverse_depth import Gathered, triangulate
from ego_assets.geometry.two_view import (
    KnownPoints,
    pixels,
    pose_from_depth,
    rays,
    relative_pose,
    rigid_inverse,
    rotation_of,
)
from ego_assets.schema.camera import PinholeCamera

Array = npt.NDArray[np.float64]
CAMERA = PinholeCamera(width=400, height=300, fx=260, fy=255, cx=198, cy=151, source="sidecar")


def scene(
    turn: Array, step: Array, *, seed: int = 0, count: int = 600, noise_px: float = 0.2
) -> tuple[Array, Array, Array]:
    """Points of two pictures, and their depth in the first."""
    random = np.random.default_rng(seed)
    points = random.uniform([5, 5], [395, 295], (count, 2))
    depth = random.uniform(1, 6, count)
    there = rays(points, CAMERA) * depth[:, None] @ rotation_of(turn).T + step
    return points, pixels(there, CAMERA) + random.normal(0, noise_px, points.shape), depth


def degrees_between(a: Array, b: Array) -> float:
    return float(np.degrees(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))))


directions = st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: np.linalg.norm(v) > 0.3)


@settings(max_examples=15, deadline=None)
@given(step=directions, turn=directions, seed=st.integers(0, 1000))
def test_motion_is_found(step: tuple[float, ...], turn: tuple[float, ...], seed: int) -> None:
    true_step = 0.15 * np.array(step) / np.linalg.norm(step)
    true_turn = 0.08 * np.array(turn)
    first, second, _ = scene(true_turn, true_step, seed=seed)
    found = relative_pose(first, second, CAMERA)
    assert found.kind == "moved"
    off = np.arccos(np.clip((np.trace(found.rotation @ rotation_of(true_turn).T) - 1) / 2, -1, 1))
    assert np.degrees(off) < 0.5
    assert degrees_between(found.direction, true_step) < 8


@settings(max_examples=15, deadline=None)
@given(turn=directions, seed=st.integers(0, 1000), hand=st.booleans())
def test_a_turning_camera_shows_no_parallax_even_with_a_hand(
    turn: tuple[float, ...], seed: int, hand: bool
) -> None:
    first, second, _ = scene(0.1 * np.array(turn), np.zeros(3), seed=seed)
    if hand:
        second = np.where((first[:, 0] < 120)[:, None], second + np.array([14.0, -6.0]), second)
    assert relative_pose(first, second, CAMERA).kind == "rotation_only"


def test_a_turn_is_no_parallax_with_a_wrong_focal_length() -> None:
    first, second, _ = scene(np.array([0.02, 0.12, 0.01]), np.zeros(3))
    wrong = PinholeCamera(width=400, height=300, fx=340, fy=334, cx=198, cy=151)
    assert relative_pose(first, second, wrong).kind == "rotation_only"


def test_noise_and_few_points_give_no_motion() -> None:
    random = np.random.default_rng(5)
    anywhere = random.uniform(0, 300, (2, 500, 2))
    assert relative_pose(anywhere[0], anywhere[1], CAMERA).kind != "moved"
    first, second, _ = scene(np.zeros(3), np.array([0.2, 0, 0]), count=20)
    assert relative_pose(first, second, CAMERA).kind == "failed"


def test_points_of_known_depth_place_the_camera_in_spite_of_outliers() -> None:
    turn, step = np.array([0.02, -0.08, 0.03]), np.array([0.1, 0.02, 0.2])
    first, second, depth = scene(turn, step)
    second[::4] += 30
    known = KnownPoints(points=first, inverse_depth=1 / depth, targets=second, T_anchor_first=np.eye(4))
    pose, share = pose_from_depth([known], np.eye(4), CAMERA)
    assert pose[:3, 3] == pytest.approx(step, abs=0.01)
    assert pose[:3, :3] == pytest.approx(rotation_of(turn), abs=0.003)
    assert 0.7 < share < 0.8


@pytest.mark.parametrize("factor", [0.75, 1.0, 1.3])
def test_the_focal_length_is_corrected_where_the_camera_turns(factor: float) -> None:
    assumed = PinholeCamera(width=400, height=300, fx=260 * factor, fy=255 * factor, cx=198, cy=151)
    pairs = [
        scene(np.array([0.02, 0.1 * sign, 0.01]), np.array([0.05, 0.01, 0.0]), seed=seed)[:2]
        for seed, sign in enumerate([1, -1, 1, -1])
    ]
    found = calibrated(assumed, lambda _: pairs)
    assert found.fx == pytest.approx(260, rel=0.06)
    assert found.source == "estimated"


def turned(factor: float, *, seed: int = 0) -> tuple[Array, Array]:
    """A turn of a camera whose focal length is ``factor`` times that of ``CAMERA``."""
    random = np.random.default_rng(seed)
    camera = replace(CAMERA, fx=CAMERA.fx * factor, fy=CAMERA.fy * factor)
    first = random.uniform((0, 0), (400, 300), (500, 2))
    second = pixels(rays(first, camera) @ rotation_of(np.array([0.02, 0.12, 0.0])).T, camera)
    return first, second + random.normal(0, 0.2, first.shape)


@pytest.mark.parametrize(
    "pairs",
    [
        pytest.param([], id="no pairs"),
        pytest.param([scene(np.zeros(3), np.zeros(3), seed=n)[:2] for n in range(6)], id="no turn"),
        pytest.param([turned(2.6, seed=n) for n in range(6)], id="best at the end of the range"),
        pytest.param([turned([0.75, 1.3][n % 2], seed=n) for n in range(6)], id="halves disagree"),
        pytest.param([turned(1.2)], id="one pair, which nothing checks"),
    ],
)
def test_where_pairs_do_not_tell_the_focal_length_the_assumed_one_stays(
    pairs: list[tuple[Array, Array]],
) -> None:
    assumed = replace(CAMERA, source="assumed")
    assert calibrated(assumed, lambda _: pairs) is assumed


@pytest.mark.parametrize("step", [0.65, 1.5])
def test_comparing_anew_does_not_carry_the_focal_length_away(step: float) -> None:
    """Pairs that ask for another correction on top, whatever the camera, as parallax does."""
    assumed = replace(CAMERA, source="assumed")
    assert abs(np.log(step)) < np.log(MAX_FACTOR) < 2 * abs(np.log(step))
    asked: list[float] = []

    def compare(camera: PinholeCamera) -> list[tuple[Array, Array]]:
        asked.append(camera.fx / assumed.fx)
        return [turned(asked[-1] * step, seed=n) for n in range(6)]

    assert calibrated(assumed, compare) is assumed
    assert asked == pytest.approx([1, step], rel=0.05)


def plane_flow(step: Array, depth: float) -> npt.NDArray[np.float32]:
    grid = np.stack(np.meshgrid(np.arange(400.0), np.arange(300.0)), axis=-1).reshape(-1, 2)
    there = pixels(rays(grid, CAMERA) * depth + step, CAMERA)
    return there.reshape(300, 400, 2).astype(np.float32)


def test_triangulation_measures_still_points_and_calls_the_others_moving() -> None:
    pose = np.eye(4)
    pose[:3, 3] = [-0.2, 0, 0]
    places = plane_flow(pose[:3, 3], 2.5)
    places[100:150, 100:150] += [0, 6]
    places[200:250, 200:250, 0] = np.arange(200, 250) + 8
    found = triangulate(places, np.ones((300, 400), bool), pose, CAMERA)
    assert found.moving[100:150, 100:150].all()
    assert found.moving[200:250, 200:250].all()
    assert found.moving.sum() == 5000
    still = ~found.moving
    np.testing.assert_allclose(found.inverse_depth[still], 0.4, rtol=1e-3)
    assert np.isinf(found.variance[found.moving]).all()


def test_gathering_averages_what_agrees_and_counts_what_does_not() -> None:
    pose = np.eye(4)
    pose[:3, 3] = [-0.2, 0, 0]
    everywhere = np.ones((300, 400), bool)
    gathered = Gathered(400, 300)
    one = triangulate(plane_flow(pose[:3, 3], 2.5), everywhere, pose, CAMERA)
    gathered.add(one)
    gathered.add(triangulate(plane_flow(pose[:3, 3], 2.6), everywhere, pose, CAMERA))
    assert (gathered.support == 2).all()
    assert (gathered.inverse_depth < 0.4).all()
    assert (gathered.inverse_depth > 1 / 2.6).all()
    assert (gathered.variance < one.variance).all()
    gathered.add(triangulate(plane_flow(pose[:3, 3], 1.0), everywhere, pose, CAMERA))
    assert (gathered.against == 1).all()


def test_rigid_inverse() -> None:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation_of(np.array([0.3, -0.2, 0.9])), [1, 2, 3]
    assert rigid_inverse(pose) @ pose == pytest.approx(np.eye(4), abs=1e-12)
