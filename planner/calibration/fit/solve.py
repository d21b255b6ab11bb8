"""Bounded robust least squares for a handful of parameters, in NumPy, so that the planner can fit a run anywhere.

Damped Gauss-Newton (Levenberg-Marquardt) on a pseudo-Huber loss, steps projected into the box.
`tests/test_fit.py` holds it against scipy.optimize.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Residuals = Callable[[Array], Array]

DELTA = 0.02  # a residual of 2 % turns from squared to absolute loss
ROUNDS = 80
DIFFERENCE = 1e-6
DAMPING = (1e-3, 0.3, 8.0, 1e9)  # at the start, after success, after failure, where to give up
ENOUGH = 1e-9  # relative gain below which a round was the last


class Box(NamedTuple):
    """Bounds of every parameter."""

    low: Array
    high: Array


class Solution(NamedTuple):
    """Parameters and their loss."""

    parameters: Array
    loss: float


def pseudo_huber(residuals: Array, delta: float = DELTA) -> float:
    """Sum of 2 d^2 (sqrt(1 + (r/d)^2) - 1): squares near 0, absolute values far from it."""
    return float(np.sum(2 * delta**2 * (np.sqrt(1 + (residuals / delta) ** 2) - 1)))


def _jacobian(residuals: Residuals, at: Array, value: Array, box: Box) -> Array:
    columns = []
    for i in range(len(at)):
        step = DIFFERENCE if at[i] + DIFFERENCE <= box.high[i] else -DIFFERENCE
        moved = at.copy()
        moved[i] += step
        columns.append((residuals(moved) - value) / step)
    return np.stack(columns, axis=1)


def minimum(residuals: Residuals, start: Array, box: Box) -> Solution:
    """The nearest minimum from `start` inside the box."""
    at = np.clip(np.asarray(start, dtype=float), box.low, box.high)
    value = residuals(at)
    loss, (damping, gain, pain, hopeless) = pseudo_huber(value), DAMPING
    for _ in range(ROUNDS):
        jacobian = _jacobian(residuals, at, value, box)
        weight = 1 / np.sqrt(1 + (value / DELTA) ** 2)
        gradient = jacobian.T @ (weight * value)
        normal = jacobian.T @ (weight[:, None] * jacobian)
        stuck = ((at <= box.low) & (gradient > 0)) | ((at >= box.high) & (gradient < 0))
        free = ~stuck
        before = loss
        while damping < hopeless:
            step = np.zeros_like(at)
            scale = np.diag(normal)[free] + np.finfo(float).eps
            step[free] = np.linalg.solve(normal[np.ix_(free, free)] + damping * np.diag(scale), -gradient[free])
            tried = np.clip(at + step, box.low, box.high)
            tried_value = residuals(tried)
            tried_loss = pseudo_huber(tried_value)
            if tried_loss < loss:
                at, value, loss, damping = tried, tried_value, tried_loss, damping * gain
                break
            damping *= pain
        if before - loss <= ENOUGH * before:
            break
    return Solution(at, loss)


def best(residuals: Residuals, starts: list[Array], box: Box) -> Solution:
    """The best of the minima from several starts."""
    return min((minimum(residuals, start, box) for start in starts), key=lambda found: found.loss)
