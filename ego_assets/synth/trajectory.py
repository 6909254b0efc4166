"""The camera's motion as sums of sinusoids, so that velocities and accelerations are exact.

The world is right-handed with x to the right, y forward and z up, in metres; gravity points along -z. Camera
axes follow OpenCV: x right, y down, z forward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ego_assets.synth.spec import CameraMotion, SceneSpec

FloatArray = npt.NDArray[np.float64]

#: Standard gravity, m/s2 (ISO 80000-3).
STANDARD_GRAVITY_M_S2 = 9.80665

#: Height of a chest-mounted camera above the floor.
CAMERA_HEIGHT_M = 1.4

# Columns are the camera's axes in the world when heading, pitch and roll are zero.
_LEVEL_CAMERA = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])


@dataclass(frozen=True)
class Sinusoid:
    """``amplitude * sin(2 pi frequency_hz t + phase_rad)``."""

    amplitude: float
    frequency_hz: float
    phase_rad: float = 0.0


@dataclass(frozen=True)
class Channel:
    """A constant plus sinusoids, with its first two derivatives."""

    constant: float = 0.0
    terms: tuple[Sinusoid, ...] = ()

    def derivative(self, times_s: FloatArray, order: int) -> FloatArray:
        """Value (``order`` 0) or derivative of the channel at ``times_s``, ``float64 [N]``."""
        total = np.full(times_s.shape, self.constant if order == 0 else 0.0)
        for term in self.terms:
            angular = 2 * math.pi * term.frequency_hz
            # Every derivative of a sine is the sine a quarter turn ahead, times the angular frequency.
            phase = angular * times_s + term.phase_rad + order * math.pi / 2
            total += term.amplitude * angular**order * np.sin(phase)
        return total


@dataclass(frozen=True, kw_only=True)
class CameraTrajectory:
    """Position in metres, and heading (to the right), pitch (downwards) and roll in radians, over time."""

    x: Channel
    y: Channel
    z: Channel
    heading: Channel
    pitch_down: Channel
    roll: Channel

    def position_m(self, times_s: FloatArray, order: int = 0) -> FloatArray:
        """Position in the world or its derivative of the given order, ``float64 [N, 3]``."""
        channels = (self.x, self.y, self.z)
        return np.stack([channel.derivative(times_s, order) for channel in channels], axis=-1)

    def rotation_world_camera(self, times_s: FloatArray) -> FloatArray:
        """Rotations that take camera axes to the world, ``float64 [N, 3, 3]``."""
        heading = _rotation_about("z", -self.heading.derivative(times_s, 0))
        pitch = _rotation_about("x", -self.pitch_down.derivative(times_s, 0))
        roll = _rotation_about("z", self.roll.derivative(times_s, 0))
        return np.asarray(heading @ _LEVEL_CAMERA @ pitch @ roll)

    def poses(self, times_s: FloatArray) -> FloatArray:
        """``T_world_camera`` at ``times_s``, ``float64 [N, 4, 4]``."""
        poses = np.tile(np.eye(4), (times_s.size, 1, 1))
        poses[:, :3, :3] = self.rotation_world_camera(times_s)
        poses[:, :3, 3] = self.position_m(times_s)
        return poses

    def angular_velocity_rad_s(self, times_s: FloatArray) -> FloatArray:
        """What a gyroscope in the camera measures, in camera axes, ``float64 [N, 3]``."""
        pitch = _rotation_about("x", -self.pitch_down.derivative(times_s, 0))
        roll = _rotation_about("z", self.roll.derivative(times_s, 0))
        world_up_in_camera = np.swapaxes(_LEVEL_CAMERA @ pitch @ roll, -1, -2) @ np.array([0.0, 0.0, 1.0])
        pitch_axis_in_camera = np.swapaxes(roll, -1, -2) @ np.array([1.0, 0.0, 0.0])
        return np.asarray(
            -self.heading.derivative(times_s, 1)[:, None] * world_up_in_camera
            - self.pitch_down.derivative(times_s, 1)[:, None] * pitch_axis_in_camera
            + self.roll.derivative(times_s, 1)[:, None] * np.array([0.0, 0.0, 1.0])
        )

    def linear_acceleration_m_s2(self, times_s: FloatArray) -> FloatArray:
        """What an accelerometer in the camera measures: specific force in camera axes, ``float64 [N, 3]``.

        At rest it points upwards with the magnitude of gravity.
        """
        specific_force = self.position_m(times_s, 2) + np.array([0.0, 0.0, STANDARD_GRAVITY_M_S2])
        rotation = self.rotation_world_camera(times_s)
        return np.asarray(np.einsum("nji,nj->ni", rotation, specific_force))


def _rotation_about(axis: str, angle_rad: FloatArray) -> FloatArray:
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    matrices = np.zeros((*angle_rad.shape, 3, 3))
    first, second = {"x": (1, 2), "z": (0, 1)}[axis]
    fixed = 3 - first - second
    matrices[..., fixed, fixed] = 1.0
    matrices[..., first, first] = cos
    matrices[..., second, second] = cos
    matrices[..., first, second] = -sin
    matrices[..., second, first] = sin
    return matrices


def trajectory_of(spec: SceneSpec) -> CameraTrajectory:
    """The camera's motion in a clip; time 0 is the first nominal frame."""
    generator = np.random.default_rng([spec.seed, 1])
    # With people or signs around, the camera looks ahead; otherwise it looks at the wearer's hands.
    looks_ahead = spec.faces + spec.text_panels + spec.plates > 0 or not spec.hands
    usual_deg = 12.0 if looks_ahead else 22.0
    pitch_down = math.radians(usual_deg if spec.pitch_down_deg is None else spec.pitch_down_deg)
    shaken = tuple(
        tuple(Sinusoid(math.radians(spec.shake_deg) * share, hz, phase) for share, hz, phase in swings)
        for swings in (_SHAKE if spec.shake_deg else ((), ()))
    )
    if spec.camera_motion == "still":
        fixed = Channel()
        return CameraTrajectory(
            x=fixed,
            y=fixed,
            z=Channel(CAMERA_HEIGHT_M),
            heading=Channel(0.0, shaken[0]),
            pitch_down=Channel(pitch_down, shaken[1]),
            roll=fixed,
        )

    def phase() -> float:
        return float(generator.uniform(0, 2 * math.pi))

    heading_amplitude, heading_period_s, pitch_amplitude, step_m = _MOTIONS[spec.camera_motion]
    if heading_period_s is None:
        # One full turn to either side in a clip of ordinary length, never hectic in a short one.
        heading_period_s = max(4.0, spec.duration_s)
    return CameraTrajectory(
        x=Channel(0.0, (Sinusoid(step_m, 1 / 7.0), Sinusoid(0.012, 0.95, phase()))),
        y=Channel(0.0, (Sinusoid(0.4 * step_m, 1 / 5.0, phase()), Sinusoid(0.008, 1.9, phase()))),
        z=Channel(CAMERA_HEIGHT_M, (Sinusoid(0.018, 1.9, phase()),)),
        heading=Channel(
            0.0,
            (
                Sinusoid(math.radians(heading_amplitude), 1 / heading_period_s),
                Sinusoid(math.radians(0.8), 0.95, phase()),
                *shaken[0],
            ),
        ),
        pitch_down=Channel(
            pitch_down,
            (
                Sinusoid(math.radians(pitch_amplitude), 0.31, phase()),
                Sinusoid(math.radians(0.5), 1.9, phase()),
                *shaken[1],
            ),
        ),
        roll=Channel(0.0, (Sinusoid(math.radians(1.2), 0.95, phase()),)),
    )


#: Share of the amplitude, frequency (Hz) and phase of the swings of a loose mount: of heading and of pitch.
_SHAKE = (((0.8, 5.3, 0.4), (0.4, 7.1, 2.0)), ((0.8, 5.9, 1.1), (0.4, 3.7, 0.2)))

#: Heading amplitude (degrees) and period (s), pitch amplitude (degrees), sideways amplitude (m).
_MOTIONS: dict[CameraMotion, tuple[float, float | None, float, float]] = {
    "walk": (40.0, None, 2.0, 0.25),
    "look_around": (70.0, None, 5.0, 0.05),
    "fast": (45.0, 1.1, 9.0, 0.15),
}
