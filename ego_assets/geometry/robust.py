"""Least squares that outliers do not spoil."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

_STEP = 1e-6


def robust_least_squares(
    residuals: Callable[[FloatArray], FloatArray],
    start: FloatArray,
    *,
    noise: float,
    iterations: int = 10,
) -> FloatArray:
    """Parameters that make residuals small, by Levenberg-Marquardt with Cauchy weights.

    Args:
        residuals: Parameters ``[P]`` -> residuals ``[N, D]``, one row per observation.
        start: Where to begin, ``float64 [P]``.
        noise: Size of a residual from which an observation loses weight.
        iterations: Steps at most.

    Returns:
        The parameters, ``float64 [P]``; never worse than ``start``.
    """
    parameters = np.asarray(start, np.float64).copy()
    current = residuals(parameters)
    cost = _cauchy_cost(current, noise)
    damping = 1e-3
    for _ in range(iterations):
        jacobian = np.empty((*current.shape, parameters.size))
        for index in range(parameters.size):
            moved = parameters.copy()
            moved[index] += _STEP
            jacobian[..., index] = (residuals(moved) - current) / _STEP
        weights = 1 / (1 + (current**2).sum(axis=1) / noise**2)
        weighted = (jacobian * weights[:, None, None]).reshape(-1, parameters.size)
        normal = weighted.T @ jacobian.reshape(-1, parameters.size)
        gradient = weighted.T @ current.reshape(-1)
        lowered = False
        for _ in range(4):
            damped = normal + damping * np.diag(np.diag(normal)) + 1e-12 * np.eye(parameters.size)
            step = np.linalg.solve(damped, -gradient)
            candidate = residuals(parameters + step)
            candidate_cost = _cauchy_cost(candidate, noise)
            if candidate_cost < cost:
                lowered = True
                break
            damping *= 10
        if not lowered:
            break
        gain = cost - candidate_cost
        parameters, current, cost = parameters + step, candidate, candidate_cost
        damping = max(damping / 10, 1e-9)
        if gain < 1e-6 * cost:
            break
    return parameters


def _cauchy_cost(residuals: FloatArray, noise: float) -> float:
    return float(np.log1p((residuals**2).sum(axis=1) / noise**2).sum())
