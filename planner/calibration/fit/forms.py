"""What a kernel's time is fitted with: the planner's own roofline form, in logarithms, inside physical bounds.

    t = t0 + k_s K + ((bytes/B)^p + (FLOPs (1 + k0/K)/F)^p)^(1/p)

B <= 0.97 of the profile's bandwidth and F <= 0.97 of the profile's dense rate; 1 <= p <= 4.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.calibration.fit.solve import Box, best
from planner.catalog.efficiency import K_STEP
from planner.collectives import p_norm

Array = NDArray[np.float64]

# Bounds of the six parameters: shares of the profile's bandwidth and rate, seconds, exponents, input features.
HIGHEST_FRACTION = 0.97
LOWEST_FRACTION = 0.005
T0_S = (1e-8, 1e-3)
STEP_S = (1e-10, 1e-4)  # k_s times K_STEP
P = (1.0, 4.0)
K0 = (1.0, 2000.0)
STARTS = ((0.85, 2.0, 50, 0.5), (0.6, 1.2, 10, 0.9), (0.9, 3.5, 150, 0.2), (0.4, 1.0, 400, 0.7))
START_STEP_S = 200e-9
FREE_FLOPS = 1e3  # times the peak: arithmetic that costs nothing, for families without any


class Samples(NamedTuple):
    """Measured points of one family; all arrays (N,)."""

    m: Array
    n: Array
    k: Array
    bytes: Array
    flops: Array
    seconds: Array

    def at(self, rows: NDArray[np.bool_]) -> Samples:
        """Only these rows."""
        return Samples(*(column[rows] for column in self))


class Peaks(NamedTuple):
    """What the hardware can at most: the profile's bandwidth, and its dense rate for the family's type."""

    bytes_per_s: float
    flops_per_s: float


class Parameters(NamedTuple):
    """The six parameters in SI units."""

    t0_s: float
    k_s: float
    bytes_per_s: float
    flops_per_s: float
    p: float
    k0: float


class Freedom(NamedTuple):
    """Which terms a family has: seconds per input feature, start-up of the inner loop, arithmetic."""

    k_s: bool = True
    k0: bool = True
    flops: bool = True
    lowest_p: float = P[0]


def seconds(q: Parameters, x: Samples) -> Array:
    """The form: seconds of every sample."""
    compute = x.flops * (1 + q.k0 / np.maximum(x.k, 1)) / q.flops_per_s
    return np.asarray(q.t0_s + q.k_s * x.k + p_norm(x.bytes / q.bytes_per_s, compute, q.p))


def _unpack(theta: Array) -> Parameters:
    t0, step, rate, flops, p, k0 = np.exp(theta)
    return Parameters(float(t0), float(step) / K_STEP, float(rate), float(flops), float(p), float(k0 - 1))


def _box(peaks: Peaks, freedom: Freedom) -> Box:
    lowest, highest = LOWEST_FRACTION, HIGHEST_FRACTION
    free = FREE_FLOPS * peaks.flops_per_s
    bounds = [
        T0_S,
        STEP_S if freedom.k_s else (STEP_S[0], STEP_S[0]),
        (lowest * peaks.bytes_per_s, highest * peaks.bytes_per_s),
        (lowest * peaks.flops_per_s, highest * peaks.flops_per_s) if freedom.flops else (free, free),
        (freedom.lowest_p, P[1]),
        K0 if freedom.k0 else (K0[0], K0[0]),
    ]
    low, high = np.log(np.array(bounds)).T
    return Box(low, high)


def _starts(x: Samples, peaks: Peaks, box: Box) -> list[Array]:
    """From the fastest sample's time, several efficiencies and bends."""
    floor = max(float(np.min(x.seconds)), T0_S[0])
    found = []
    for fraction, p, k0, share in STARTS:
        theta = np.log(
            [share * floor, START_STEP_S, fraction * peaks.bytes_per_s, fraction * peaks.flops_per_s, p, 1.0 + k0]
        )
        found.append(np.clip(theta, box.low, box.high))
    return found


def fit(x: Samples, peaks: Peaks, freedom: Freedom | None = None, start: Parameters | None = None) -> Parameters:
    """Parameters that minimise the pseudo-Huber loss of ln(form / measured); `start` spares the search."""
    box = _box(peaks, freedom or Freedom())
    target = np.log(x.seconds)

    def residuals(theta: Array) -> Array:
        return np.asarray(np.log(seconds(_unpack(theta), x)) - target)

    if start is None:
        starts = _starts(x, peaks, box)
    else:
        known = start._replace(k_s=max(start.k_s * K_STEP, STEP_S[0]), k0=start.k0 + 1)
        starts = [np.log(np.array(known))]
    return _unpack(best(residuals, starts, box).parameters)
