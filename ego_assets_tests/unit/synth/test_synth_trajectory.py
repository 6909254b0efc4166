"""The simulated inertial unit agrees with the camera poses."""

from __future__ import annotations

import numpy as np
import pytest

from ego_assets.synth import SceneSpec
from ego_assets.synth.spec import CameraMotion
from ego_assets.synth.trajectory import STANDARD_GRAVITY_M_S2, trajectory_of

STEP_S = 1e-4
TIMES_S = np.linspace(0.05, 5.9, 60)


@pytest.mark.parametrize("motion", ["walk", "look_around", "fast"])
@pytest.mark.parametrize("seed", [0, 7])
def test_gyroscope_is_the_derivative_of_the_rotation(motion: CameraMotion, seed: int) -> None:
    trajectory = trajectory_of(SceneSpec(camera_motion=motion, seed=seed))
    before = trajectory.rotation_world_camera(TIMES_S - STEP_S)
    after = trajectory.rotation_world_camera(TIMES_S + STEP_S)
    rotation = trajectory.rotation_world_camera(TIMES_S)
    skew = np.swapaxes(rotation, 1, 2) @ (after - before) / (2 * STEP_S)
    expected = np.stack([skew[:, 2, 1], skew[:, 0, 2], skew[:, 1, 0]], axis=1)
    measured = trajectory.angular_velocity_rad_s(TIMES_S)
    assert np.linalg.norm(expected, axis=1).max() > 0.3
    np.testing.assert_allclose(measured, expected, atol=1e-5)


@pytest.mark.parametrize("motion", ["walk", "look_around", "fast"])
def test_accelerometer_is_the_second_derivative_plus_gravity(motion: CameraMotion) -> None:
    trajectory = trajectory_of(SceneSpec(camera_motion=motion, seed=3))
    positions = [trajectory.position_m(TIMES_S + shift) for shift in (-STEP_S, 0.0, STEP_S)]
    acceleration = (positions[0] - 2 * positions[1] + positions[2]) / STEP_S**2
    specific_force_world = acceleration + np.array([0.0, 0.0, STANDARD_GRAVITY_M_S2])
    rotation = trajectory.rotation_world_camera(TIMES_S)
    expected = np.einsum("nji,nj->ni", rotation, specific_force_world)
    np.testing.assert_allclose(trajectory.linear_acceleration_m_s2(TIMES_S), expected, atol=1e-5)


def test_a_still_camera_measures_only_gravity_pointing_up() -> None:
    trajectory = trajectory_of(SceneSpec(camera_motion="still"))
    assert np.all(trajectory.angular_velocity_rad_s(TIMES_S) == 0)
    force = trajectory.linear_acceleration_m_s2(TIMES_S)
    np.testing.assert_allclose(np.linalg.norm(force, axis=1), STANDARD_GRAVITY_M_S2)
    # y points down in the camera, so that up is negative.
    assert np.all(force[:, 1] < -9.0)


@pytest.mark.parametrize("motion", ["walk", "look_around", "fast", "still"])
def test_poses_are_rigid_and_upright(motion: CameraMotion) -> None:
    poses = trajectory_of(SceneSpec(camera_motion=motion)).poses(TIMES_S)
    rotation = poses[:, :3, :3]
    np.testing.assert_allclose(
        rotation @ np.swapaxes(rotation, 1, 2), np.tile(np.eye(3), (60, 1, 1)), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(rotation), 1.0)
    camera_down_in_world = rotation[:, :, 1]
    assert np.all(camera_down_in_world[:, 2] < -0.7)
