"""The focal length, where it is only assumed, from how the picture moves when the camera turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
#: Corresponding points of two pictures, ``float64 [N, 2]`` each, in the camera's pixels.
PointPair = tuple[FloatArray, FloatArray]

#: The corrected focal length lies within this factor of the assumed one, either way.
MAX_FACTOR = float(np.exp(0.6))
#: Logarithms of the factors that are tried: fields of view of about 45 to 115 degrees around 75.
_LOGARITHMS = np.linspace(-np.log(MAX_FACTOR), np.log(MAX_FACTOR), 13)
#: Standard deviation of the assumed focal length, as a natural logarithm: cameras worn on head and chest lie within.
_PRIOR_DEVIATION = 0.25
#: Errors of flow hang together: a pair of pictures weighs as much as this many independent points.
_POINTS_PER_PAIR = 60
#: Fewer pairs than this cannot be split into halves that check each other.
_MIN_PAIRS = 4
#: Two halves of the pairs, each for itself, must agree within this difference of logarithms.
_MAX_DISAGREEMENT = 0.15
#: Share of the pairs that must have their best focal length within the range: where parallax or things that move
#: outweigh the turn, costs fall towards an end.
_MIN_TELLING = 0.5
#: Parallax makes the focal length look longer than it is, by a few per cent: the second search looks around the first.
_FINE_LOGARITHMS = np.log(np.linspace(0.9, 1.04, 6))
_FINE_DEVIATION = 0.05
#: A very wrong focal length spoils the comparison of pictures itself: after a larger correction they are compared anew.
_SMALL_CORRECTION = 0.04
_POINTS_USED = 300
#: Parallax of far points counts as noise here.
_PARALLAX_NOISE_PX = 1.0


def calibrated(
    assumed: PinholeCamera, compare: Callable[[PinholeCamera], Sequence[PointPair]]
) -> PinholeCamera:
    """The camera with the focal length that explains some pairs of pictures best, or the assumed one as it is.

    First by how a turn bends the flow, with parallax as noise; then, near that, by what a turn and a step leave
    as distance from the epipolar lines. The assumed value stays where the pairs do not tell: the camera does not turn,
    the best value lies at the end of the range, or two halves of the pairs disagree.

    Args:
        assumed: The assumed camera; its principal point is kept.
        compare: Gives the pairs' corresponding points, with a camera as a first guess of how they are found.

    Returns:
        A camera within :data:`MAX_FACTOR` of the assumed one, whose ``source`` is ``estimated``; or ``assumed``.
    """
    camera, logarithm = assumed, 0.0
    for _ in range(2):
        pairs = [_thinned(*pair) for pair in compare(camera) if len(pair[0]) >= MIN_POINTS]
        found = _from_turns(assumed, pairs)
        if found is None:
            return assumed
        before, camera, logarithm = camera, _zoomed(assumed, found), found
        if abs(np.log(camera.fx / before.fx)) < _SMALL_CORRECTION:
            break
    costs = [
        _motion_costs(camera, *pair, two)
        for pair in pairs
        if (two := relative_pose(*pair, camera)).kind == "moved"
    ]
    if costs:
        prior = (_FINE_LOGARITHMS / _FINE_DEVIATION) ** 2 / 2
        logarithm += _lowest(_FINE_LOGARITHMS, np.sum(costs, axis=0) * _POINTS_PER_PAIR + prior)
    return _zoomed(assumed, float(np.clip(logarithm, _LOGARITHMS[0], _LOGARITHMS[-1])))


def _from_turns(assumed: PinholeCamera, pairs: Sequence[PointPair]) -> float | None:
    """Logarithm of the factor on the assumed focal length; ``None`` where the pairs do not tell."""
    if len(pairs) < _MIN_PAIRS:
        return None
    costs = np.array([_turn_costs(assumed, *pair) for pair in pairs]) * _POINTS_PER_PAIR
    if np.mean([_is_within(cost) for cost in costs]) < _MIN_TELLING:
        return None
    halves = [costs[::2].sum(axis=0), costs[1::2].sum(axis=0)]
    total = costs.sum(axis=0) + (_LOGARITHMS / _PRIOR_DEVIATION) ** 2 / 2
    if not all(_is_within(cost) for cost in (*halves, total)):
        return None
    one, other = (_lowest(_LOGARITHMS, half) for half in halves)
    return _lowest(_LOGARITHMS, total) if abs(one - other) < _MAX_DISAGREEMENT else None


def _is_within(costs: FloatArray) -> bool:
    """Whether the least cost lies inside the range, clearly below both its ends."""
    least = costs.min() + 1
    return bool(costs[0] > least and costs[-1] > least)


def _lowest(logarithms: FloatArray, costs: FloatArray) -> float:
    """Where costs are lowest; between the values tried, by a parabola."""
    best = int(np.argmin(costs))
    found = float(logarithms[best])
    if 0 < best < costs.size - 1:
        before, here, after = costs[best - 1 : best + 2]
        step = float(logarithms[1] - logarithms[0])
        found += step * float((before - after) / max(2 * (before - 2 * here + after), 1e-9))
    return found


def _thinned(points_a: FloatArray, points_b: FloatArray) -> PointPair:
    chosen = np.linspace(0, len(points_a) - 1, min(_POINTS_USED, len(points_a))).astype(np.intp)
    return points_a[chosen], points_b[chosen]


def _zoomed(camera: PinholeCamera, logarithm: float) -> PinholeCamera:
    factor = float(np.exp(logarithm))
    return replace(camera, fx=camera.fx * factor, fy=camera.fy * factor, source="estimated")


def _turn_costs(camera: PinholeCamera, points_a: FloatArray, points_b: FloatArray) -> FloatArray:
    """What a mere turn leaves unexplained, for every focal length."""
    costs = []
    turn = np.zeros(3)
    for logarithm in _LOGARITHMS:
        tried = _zoomed(camera, float(logarithm))
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
    for logarithm in _FINE_LOGARITHMS:
        tried = _zoomed(camera, float(logarithm))
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
