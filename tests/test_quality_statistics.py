"""Statistics against published worked examples, other libraries and brute-force enumeration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

pytest.importorskip("scipy")
pytest.importorskip("statsmodels")

from scipy.optimize import minimize_scalar
from scipy.stats import binomtest, permutation_test
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from planner.quality import statistics as st


def test_the_published_interval_of_airway_hyperresponsiveness_is_met() -> None:
    # Bentur et al. (2009), table 1 1 / 7 12; limits in Fagerland, Lydersen and Laake (2014), Statistics in Medicine 33
    found = st.tango_interval(gains=1, losses=7, n=21)
    assert found.estimate == pytest.approx(-0.286, abs=5e-4)
    assert (found.low, found.high) == pytest.approx((-0.517, -0.026), abs=1e-3)


def test_the_published_approval_ratings_give_the_published_interval() -> None:
    # Agresti, Categorical Data Analysis, section 10.1: 794 150 / 86 570; difference -0.04, 95 % (-0.06, -0.02)
    found = st.tango_interval(gains=86, losses=150, n=1600)
    assert [round(value, 2) for value in found] == [-0.04, -0.06, -0.02]


def test_the_published_exact_p_value_is_met() -> None:
    # The same 1 against 7 flips: exact conditional McNemar p = 0.070 (Fagerland et al. 2013, BMC Med Res Methodol 13)
    assert st.mcnemar_exact(gains=1, losses=7) == pytest.approx(0.0703, abs=5e-5)


@pytest.mark.parametrize(("gains", "losses"), [(0, 0), (0, 5), (3, 3), (2, 9), (40, 70)])
def test_exact_tests_are_those_of_scipy_and_statsmodels(gains: int, losses: int) -> None:
    flips = gains + losses
    steps = np.array([1] * gains + [-1] * losses + [0] * 7)
    one_sided = binomtest(gains, flips, alternative="less").pvalue if flips else 1.0
    two_sided = mcnemar([[0, losses], [gains, 0]], exact=True).pvalue
    assert st.sign_flip_p(steps) == pytest.approx(one_sided, rel=1e-9)
    assert st.mcnemar_exact(gains, losses) == pytest.approx(two_sided, rel=1e-9)


@pytest.mark.parametrize("steps", [[-3, 1, -2, 0, -1], [2, -2, 3, -3, 1], [-1] * 6, [-2, -2, 1, 1, -3, 2, 0]])
def test_the_sign_flip_test_counts_every_assignment_of_signs(steps: list[int]) -> None:
    sums = [
        sum(s * d for s, d in zip(signs, steps, strict=True)) for signs in itertools.product((1, -1), repeat=len(steps))
    ]
    brute = sum(total <= sum(steps) for total in sums) / len(sums)
    assert st.sign_flip_p(np.array(steps)) == pytest.approx(brute, abs=1e-12)


def test_the_sign_flip_test_agrees_with_scipys_permutations() -> None:
    steps = np.array([-3, 1, -2, 4, -1, -1, 2, -5])
    done = permutation_test((steps,), np.sum, permutation_type="samples", alternative="less", n_resamples=np.inf)
    assert st.sign_flip_p(steps) == pytest.approx(float(done.pvalue), abs=1e-12)


def test_the_interval_without_a_flip_is_that_of_the_closed_form() -> None:
    # With no flip the score equation reads n d^2 = z^2 |d| (1 - |d|), so |d| = z^2 / (n + z^2)
    found = st.tango_interval(0, 0, 50)
    assert found.high == -found.low == pytest.approx(3.8415 / 53.8415, abs=1e-4)


def score(d: float, gains: int, losses: int, n: int) -> float:
    """The score statistic of a difference, with the rates under it maximised numerically."""
    counts = np.array([gains, losses, n - gains - losses])

    def unlikely(loss: float) -> float:
        rates = np.clip([loss + d, loss, 1 - 2 * loss - d], 1e-300, 1)
        return -float((counts * np.log(rates)).sum())

    found = minimize_scalar(unlikely, bounds=(max(0.0, -d), (1 - d) / 2), method="bounded", options={"xatol": 1e-12})
    return (gains - losses - n * d) / math.sqrt(n * (2 * found.x + d * (1 - d)))


@pytest.mark.parametrize(
    ("gains", "losses", "n"), [(0, 3, 3), (4, 0, 4), (0, 12, 12), (1, 11, 12), (2, 9, 40), (0, 6, 50), (5, 0, 30)]
)
def test_the_limits_are_where_the_maximised_score_is_the_quantile(gains: int, losses: int, n: int) -> None:
    found = st.tango_interval(gains, losses, n)
    for limit, side in ((found.low, 1), (found.high, -1)):
        if abs(limit) < 1:
            assert score(limit, gains, losses, n) == pytest.approx(side * 1.95996, abs=1e-3)
    mirrored = st.tango_interval(losses, gains, n)
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low), abs=1e-6)
    assert found.high - found.low > 0.1


@pytest.mark.parametrize("n", [1, 2, 7, 12, 120, 1003, 10_000])
def test_every_table_has_an_interval_around_its_estimate(n: int) -> None:
    edges = {0, 1, n // 3, n - 1, n}
    for gains, losses in itertools.product(edges, edges):
        if min(gains, losses) >= 0 and gains + losses <= n:
            found = st.tango_interval(gains, losses, n)
            assert -1 <= found.low <= found.estimate <= found.high <= 1 and found.low < found.high


@pytest.mark.parametrize(("n", "loss", "gain"), [(30, 0.1, 0.05), (60, 0.02, 0.02), (200, 0.05, 0.03)])
def test_the_interval_covers_the_truth_nineteen_times_in_twenty(n: int, loss: float, gain: float) -> None:
    rng = np.random.default_rng(1)
    tables = rng.multinomial(n, [gain, loss, 1 - gain - loss], 1500)
    found = [st.tango_interval(int(g), int(b), n) for g, b, _ in tables]
    covered = np.mean([one.low <= gain - loss <= one.high for one in found])
    assert 0.935 <= covered <= 0.985


@pytest.mark.parametrize(("n", "drop", "gain"), [(12, 0.5, 0.0), (12, 0.4, 0.1), (9, 0.6, 0.2)])
def test_power_is_the_sum_over_all_tables(n: int, drop: float, gain: float) -> None:
    brute = 0.0
    for losses in range(n + 1):
        for gains in range(n + 1 - losses):
            ways = math.comb(n, losses) * math.comb(n - losses, gains)
            chance = ways * (drop + gain) ** losses * gain**gains * (1 - drop - 2 * gain) ** (n - losses - gains)
            flips = losses + gains
            brute += chance * bool(flips and binomtest(gains, flips, alternative="less").pvalue <= 0.025)
    assert st.power(n, drop, gain) == pytest.approx(brute, abs=1e-9)


def test_fifty_examples_cannot_see_two_points() -> None:
    # Six losses and no gain are the first significant result (2^-6 < 0.025): P(Binomial(50, d) >= 6) = 0.8 at 15.4 %
    visible = st.smallest_visible_drop(50, 0.0)
    assert visible == pytest.approx(0.154, abs=0.002)
    assert st.power(50, 0.02, 0.0) < 0.001


@pytest.mark.parametrize(("drop", "gain"), [(0.02, 0.0), (0.02, 0.03), (0.1, 0.05)])
def test_the_examples_needed_see_the_drop(drop: float, gain: float) -> None:
    n = st.examples_needed(drop, gain)
    assert n is not None and st.power(n, drop, gain) >= 0.8
    assert st.power(int(n * 0.97) - 1, drop, gain) < 0.82
    assert st.smallest_visible_drop(n, gain) == pytest.approx(drop, rel=0.03)


def test_seldom_drops_need_more_than_a_million_examples() -> None:
    assert st.examples_needed(1e-6, 0.2) is None
    assert st.smallest_visible_drop(5, 0.0) is None


def test_holm_gives_what_statsmodels_gives() -> None:
    p = np.random.default_rng(2).random(30) ** 3
    assert st.holm(p.tolist()) == pytest.approx(multipletests(p, method="holm")[1].tolist())
    assert st.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert st.holm([]) == []


def test_the_mean_interval_is_students_on_a_textbook_sample() -> None:
    # Student's sleep data (1908), differences of ten patients: 95 % interval 0.70 to 2.46
    sleep = np.array([1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4])
    found = st.mean_interval(sleep / 100)
    assert st.t_half_width(sleep) == pytest.approx((2.46 - 0.70) / 2, abs=0.005)
    assert found.low <= 0.0158 <= found.high and found.high - found.low > 0.1


def test_noise_comes_from_repeats_alone() -> None:
    rng = np.random.default_rng(3)
    sides = [[[bool(v) for v in row] for row in rng.random((4000, 3)) < 0.8] for _ in range(2)]
    found = st.noise(*sides)
    assert found is not None
    assert found.flip_fraction == pytest.approx(2 * 0.8 * 0.2, abs=0.01)
    assert found.floor == pytest.approx(1.96 * math.sqrt(2 * 0.16 / 3 / 4000), rel=0.05)
    assert st.noise([[True]], [[False]]) is None
    assert st.noise([[True, True]], [[True, True]]) == st.Noise(0.0, 0.0)
