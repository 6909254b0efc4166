"""The focal length, where it is only assumed, from how the picture moves when the camera turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ego_assets.geometry.robust import robust_least_squares
from ego_assets.geometry.two_view import (
    FLOW_NOISE_PX,
    MIN_POINTS,
    TwoView,
    pixels,
    rays,
    relative_pose,
    rotation_of,
    signed_sampson_px,
)
from ego_assets.schema.camera import PinholeCamera

FloatArray = npt.NDArray[np.float64]

#: Focal lengths that are tried, as factors on the assumed one: fields of view of about 45 to 115 degrees around 75.
_FACTORS = np.exp(np.linspace(-0.6, 0.6, 13))
#: Standard deviation of the assumed focal length, as a natural logarithm: cameras worn on head and chest lie within.
_PRIOR_DEVIATION = 0.25
#: Errors of flow hang together: a pair of pictures weighs as much as this many independent points.
_POINTS_PER_PAIR = 60
#: Parallax makes the focal length look longer than it is, by a few per cent: the second search looks around the first.
_COARSE_DEVIATION = 0.05
_FINE_FACTORS = np.exp(np.linspace(-0.1, 0.04, 6))
_POINTS_USED = 300
#: Parallax of far points counts as noise here.
_PARALLAX_NOISE_PX = 1.0


def calibrated(camera: PinholeCamera, pairs: Sequence[tuple[FloatArray, FloatArray]]) -> PinholeCamera:
    """The camera with the focal length that explains some pairs of pictures best.

    First by how a turn bends the flow, with parallax as noise; then, near that, by what a turn and a step leave
    as distance from the epipolar lines. Where the camera does not turn, the assumed value stays.

    Args:
        camera: The assumed camera; its principal point is kept.
        pairs: Corresponding points of two pictures each, ``float64 [N, 2]`` in the camera's pixels.
    """
    pairs = [_thinned(*pair) for pair in pairs if len(pair[0]) >= MIN_POINTS]
    coarse = [_turn_costs(camera, *pair) for pair in pairs]
    camera = _best(camera, _FACTORS, coarse, _PRIOR_DEVIATION)
    fine = [
        _motion_costs(camera, *pair, two)
        for pair in pairs
        if (two := relative_pose(*pair, camera)).kind == "moved"
    ]
    return _best(camera, _FINE_FACTORS, fine, _COARSE_DEVIATION)


def _thinned(points_a: FloatArray, points_b: FloatArray) -> tuple[FloatArray, FloatArray]:
    chosen = np.linspace(0, len(points_a) - 1, min(_POINTS_USED, len(points_a))).astype(np.intp)
    return points_a[chosen], points_b[chosen]


def _zoomed(camera: PinholeCamera, factor: float) -> PinholeCamera:
    return replace(camera, fx=camera.fx * factor, fy=camera.fy * factor, source="estimated")


def _best(
    camera: PinholeCamera, factors: FloatArray, costs: Sequence[FloatArray], deviation: float
) -> PinholeCamera:
    """The camera whose focal length costs least; between the factors, by a parabola."""
    if not costs:
        return camera
    logarithms = np.log(factors)
    total = np.sum(costs, axis=0) * _POINTS_PER_PAIR + (logarithms / deviation) ** 2 / 2
    best = int(np.argmin(total))
    factor = float(logarithms[best])
    if 0 < best < total.size - 1:
        before, here, after = total[best - 1 : best + 2]
        step = float(logarithms[1] - logarithms[0])
        factor += step * float((before - after) / max(2 * (before - 2 * here + after), 1e-9))
    return _zoomed(camera, float(np.exp(factor)))


def _turn_costs(camera: PinholeCamera, points_a: FloatArray, points_b: FloatArray) -> FloatArray:
    """What a mere turn leaves unexplained, for every focal length."""
    costs = []
    turn = np.zeros(3)
    for factor in _FACTORS:
        tried = _zoomed(camera, float(factor))
        directions = rays(points_a, tried)

        def residuals(parameters: FloatArray) -> FloatArray:
            return pixels(directions @ rotation_of(parameters).T, tried) - points_b  # noqa: B023

        turn = robust_least_squares(residuals, turn, noise=_PARALLAX_NOISE_PX, iterations=8)
        costs.append(_mean_cost(residuals(turn), _PARALLAX_NOISE_PX))
    return np.asarray(costs)


def _motion_costs(
    camera: PinholeCamera, points_a: FloatArray, points_b: FloatArray, two: TwoView
) -> FloatArray:
    """What a turn and a step leave unexplained, for focal lengths near the camera's."""
    across = np.linalg.svd(two.direction[None])[2][1:]
    costs = []
    for factor in _FINE_FACTORS:
        tried = _zoomed(camera, float(factor))
        rays_a, rays_b = rays(points_a, tried), rays(points_b, tried)

        def residuals(parameters: FloatArray) -> FloatArray:
            moved = two.direction + parameters[3:] @ across
            turned = rotation_of(parameters[:3]) @ two.rotation
            directions = rays_a, rays_b  # noqa: B023
            step = moved / np.linalg.norm(moved)
            return signed_sampson_px(*directions, turned, step, tried)[:, None]  # noqa: B023

        best = robust_least_squares(residuals, np.zeros(5), noise=FLOW_NOISE_PX, iterations=8)
        costs.append(_mean_cost(residuals(best), FLOW_NOISE_PX))
    return np.asarray(costs)


def _mean_cost(residuals: FloatArray, noise: float) -> float:
    return float(np.log1p((residuals**2).sum(axis=1) / noise**2).mean())
