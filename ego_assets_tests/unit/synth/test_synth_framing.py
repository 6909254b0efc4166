"""Faults of framing that a scene can be asked to show."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import cv2
import numpy as np
import pytest

from ego_assets.synth import SceneSpec
from ego_assets.synth.render import _recorded
from ego_assets.synth.trajectory import trajectory_of

SPEC = SceneSpec(width=160, height=90, frame_rate=Fraction(10), duration_s=2.0, hands=False)
PICTURE = np.random.default_rng(1).integers(0, 256, (90, 160, 3), dtype=np.uint8)


def test_faults_survive_storage_and_change_nothing_by_default() -> None:
    faulty = replace(SPEC, pitch_down_deg=-50.0, shake_deg=0.5, covered_s=(0.5, 1.0), smudge_xy=(0.2, 0.7))
    assert SceneSpec.from_json_dict(faulty.to_json_dict()) == faulty
    times_s = np.arange(0, 2, 0.05)
    plain, zero = trajectory_of(SPEC), trajectory_of(replace(SPEC, shake_deg=0.0))
    np.testing.assert_array_equal(plain.poses(times_s), zero.poses(times_s))


@pytest.mark.parametrize(
    "wrong",
    [{"pitch_down_deg": 91.0}, {"shake_deg": -1.0}, {"covered_s": (2.0, 1.0)}, {"smudge_xy": (0.5, 1.2)}],
)
def test_wrong_faults_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(SPEC, **wrong)  # type: ignore[arg-type]


def test_the_lens_points_where_it_was_asked_to() -> None:
    for down_deg in (-50.0, 0.0, 80.0):
        forward = trajectory_of(replace(SPEC, camera_motion="still", pitch_down_deg=down_deg)).poses(
            np.zeros(1)
        )[0]
        assert np.degrees(np.arcsin(-forward[2, 2])) == pytest.approx(down_deg)


def test_a_shaken_camera_turns_quickly() -> None:
    times_s = np.arange(0, 2, 0.01)
    steady = trajectory_of(SPEC).angular_velocity_rad_s(times_s)
    shaken = trajectory_of(replace(SPEC, shake_deg=0.5)).angular_velocity_rad_s(times_s)
    assert np.abs(shaken - steady).max() > np.radians(10)


def test_a_covered_lens_shows_nothing_and_only_then() -> None:
    spec = replace(SPEC, covered_s=(0.5, 1.0))
    before, covered = _recorded(PICTURE, spec, 0.4), _recorded(PICTURE, spec, 0.5)
    assert cv2.Laplacian(covered, cv2.CV_64F).std() < 2 < cv2.Laplacian(before, cv2.CV_64F).std()
    np.testing.assert_array_equal(before, _recorded(PICTURE, spec, 1.0))


def test_a_smudge_is_soft_in_one_place() -> None:
    spec = replace(SPEC, width=320, height=180, smudge_xy=(0.25, 0.5))
    large = np.random.default_rng(1).integers(0, 256, (180, 320, 3), dtype=np.uint8)
    edges = np.abs(cv2.Laplacian(_recorded(large, spec), cv2.CV_64F)).mean(axis=2)
    assert edges[75:105, 65:95].mean() < 0.2 * edges[:, 200:].mean()
