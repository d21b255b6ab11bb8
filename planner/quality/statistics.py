"""What a paired comparison of pass and fail can say: differences with intervals, exact tests, power, noise.

A pair is one example answered by both sides. A loss passed before and fails after; a gain is the reverse. Rates and
differences are fractions; a difference is candidate minus baseline, so a drop is negative. SciPy is imported when
first used (extra `quality`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95  # two-sided; its upper and lower limit are one-sided limits at 97.5 %
ALPHA = (1 - CONFIDENCE) / 2  # one-sided
POWER = 0.8  # chance of seeing a drop that is there
MOST_EXAMPLES = 1_000_000  # where the search for a sample size ends
_EDGE = 1e-9
_REACH_SIGMA = 9.0  # binomial mass further out is below 1e-18

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Interval(NamedTuple):
    """An estimate and its 95 % interval, fractions."""

    estimate: float
    low: float
    high: float


class Noise(NamedTuple):
    """How much one and the same side differs from itself, from its repeats."""

    flip_fraction: float  # chance that two answers of one side to one example differ in pass or fail
    floor: float  # difference of the two sides' rates that repeats alone explain, 95 %


def tango_interval(gains: int, losses: int, n: int) -> Interval:
    """Score interval of a paired difference of proportions; also right without any flip, where Wald's is empty.

    The limits are the differences d at which |gains - losses - n d| = z sqrt(n (2 q + d (1 - d))), q the restricted
    maximum-likelihood estimate of the loss rate. Ref: Tango (1998), Statistics in Medicine 17, 891-908.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    z = float(norm.ppf(1 - ALPHA))
    estimate = (gains - losses) / n

    def excess(d: float, side: float) -> float:
        b = -gains - losses + (2 * n - gains + losses) * d
        q = (np.sqrt(max(b * b + 8 * n * losses * d * (1 - d), 0.0)) - b) / (4 * n)
        return float(gains - losses - n * d + side * z * np.sqrt(max(n * (2 * q + d * (1 - d)), 0.0)))

    if not gains and not losses:  # n d^2 = z^2 |d| (1 - |d|), beside the root at 0
        half = z * z / (n + z * z)
        return Interval(0.0, -half, half)
    inner = float(np.clip(estimate, -1.0 + _EDGE, 1.0 - _EDGE))  # at -1 and 1 themselves the variance is 0
    low = -1.0 if losses == n else float(brentq(excess, -1.0, inner, args=(-1.0,)))
    high = 1.0 if gains == n else float(brentq(excess, inner, 1.0, args=(1.0,)))
    return Interval(estimate, low, high)


def mean_interval(differences: Floats) -> Interval:
    """Student's interval of the mean difference per example, never narrower than that of as many pairs without a flip.

    For repeated answers, whose differences lie between -1 and 1 in steps of 1 / repeats.
    """
    from scipy.stats import norm

    n = len(differences)
    mean = float(differences.mean())
    z2 = float(norm.ppf(1 - ALPHA)) ** 2
    least = z2 / (n + z2)
    half = max(t_half_width(differences) if n > 1 else 1.0, least)
    return Interval(mean, max(mean - half, -1.0), min(mean + half, 1.0))


def t_half_width(values: Floats) -> float:
    """Half the width of Student's 95 % interval of the mean."""
    from scipy.stats import t

    n = len(values)
    return float(values.std(ddof=1) / np.sqrt(n) * t.ppf(1 - ALPHA, n - 1))


def mcnemar_exact(gains: int, losses: int) -> float:
    """Two-sided exact McNemar p value: the flips go either way with chance 1/2."""
    from scipy.stats import binomtest

    return float(binomtest(gains, gains + losses).pvalue) if gains + losses else 1.0


def sign_flip_p(steps: Ints) -> float:
    """One-sided exact p value of a drop: the chance of a sum this low when each difference's sign is a fair coin.

    `steps` are differences per example in whole steps (+-1 without repeats, where this is the one-sided exact McNemar
    test). Identical sides may swap their answers to an example, whatever the example: the test holds its level.
    """
    from scipy.stats import binom

    sizes, counts = np.unique(np.abs(steps[steps != 0]), return_counts=True)
    chances = np.ones(1)  # of sum = index * 2 - total, built up one size of difference at a time
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        spaced = np.zeros(size * count + 1)
        spaced[::size] = binom.pmf(np.arange(count + 1), count, 0.5)
        chances = _convolved(chances, spaced)
    up = (int(np.abs(steps).sum()) + int(steps.sum())) // 2  # steps that went up
    return float(min(chances[: up + 1].sum(), 1.0))


def _convolved(a: Floats, b: Floats) -> Floats:
    from scipy.signal import convolve

    both: Floats = np.maximum(convolve(a, b, method="auto"), 0.0)
    return both


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values of a family of tests, in their order: max over the smaller ones of (m - rank) p.

    Ref: Holm (1979), Scandinavian Journal of Statistics 6, 65-70.
    """
    order = np.argsort(p_values)
    scaled = np.maximum.accumulate(np.asarray(p_values, float)[order] * np.arange(len(p_values), 0, -1))
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(scaled, 1.0)
    return adjusted.tolist()


def power(n: int, drop: float, gain_rate: float) -> float:
    """Chance that the one-sided exact test at 2.5 % sees a `drop` with n pairs, when `gain_rate` flip upwards.

    Sums over the number m of flips ~ Binomial(n, drop + 2 gain_rate), of which losses ~ Binomial(m, share).
    """
    from scipy.stats import binom

    loss_rate = drop + gain_rate
    flips = min(loss_rate + gain_rate, 1.0)
    middle, reach = n * flips, _REACH_SIGMA * np.sqrt(n * flips * (1 - flips)) + _REACH_SIGMA
    m = np.arange(max(0, int(middle - reach)), min(n, int(middle + reach)) + 1)
    most_gains = binom.ppf(ALPHA, m, 0.5)
    most_gains = np.where(binom.cdf(most_gains, m, 0.5) <= ALPHA, most_gains, most_gains - 1)
    seen = np.where(most_gains >= 0, binom.cdf(most_gains, m, gain_rate / max(flips, 1e-300)), 0.0)
    return float((binom.pmf(m, n, flips) * seen).sum())


def smallest_visible_drop(n: int, gain_rate: float) -> float | None:
    """The drop that n pairs show with a chance of 80 %; None when not even the largest possible one is."""
    most = 1 - 2 * gain_rate
    if most <= 0 or power(n, most, gain_rate) < POWER:
        return None
    low, high = 0.0, most
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if power(n, middle, gain_rate) >= POWER else (middle, high)
    return high


def examples_needed(drop: float, gain_rate: float) -> int | None:
    """How many pairs show a `drop` with a chance of 80 %; None beyond a million."""
    if drop + 2 * gain_rate > 1:
        return None
    low, high = 0, 8
    while power(high, drop, gain_rate) < POWER:
        low, high = high, high * 2
        if high > MOST_EXAMPLES:
            return None
    while high - low > max(1, high // 500):
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle, drop, gain_rate) >= POWER else (middle, high)
    return high


def noise(baseline: Sequence[Sequence[bool]], candidate: Sequence[Sequence[bool]]) -> Noise | None:
    """Noise of both sides from passes per example and repeat; None when no example was answered twice.

    Within an example the variance of one answer is p (1 - p) k / (k - 1), and two answers differ with twice that.
    """
    from scipy.stats import norm

    single = [_answer_variance(passes) for side in (baseline, candidate) for passes in side if len(passes) > 1]
    if not single:
        return None
    n = len(baseline)
    variance = float(np.mean(single))
    of_means = sum(variance / len(passes) for side in (baseline, candidate) for passes in side) / n**2
    return Noise(2 * variance, float(norm.ppf(1 - ALPHA)) * of_means**0.5)


def _answer_variance(passes: Sequence[bool]) -> float:
    k, p = len(passes), sum(passes) / len(passes)
    return p * (1 - p) * k / (k - 1)
