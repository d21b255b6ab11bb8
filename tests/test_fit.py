import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares

from planner.calibration.cases import Named, attention, experts, product, stream
from planner.calibration.fit import Fitted, fit, forms, predicted, samples
from planner.calibration.fit.forms import HIGHEST_FRACTION, Freedom, Parameters, Peaks, Samples
from planner.calibration.fit.solve import DELTA, Box, best, minimum, pseudo_huber
from planner.calibration.fit.table import table
from planner.catalog.gpus import gpu
from planner.roofline import SHRINK, table_residual
from planner.specs.calibration import FamilyFit
from planner.specs.run import AttentionShape, CollectiveShape, ExpertShape, GemmShape, Point, Run, Status, Timing
from tests.test_runs import run

H200 = gpu("h200-sxm")
PEAKS = Peaks(4.8e12, 989e12)
TRUE = Parameters(t0_s=3e-6, k_s=2.5e-10, bytes_per_s=4.1e12, flops_per_s=8.1e14, p=2.5, k0=120.0)
SIDES, TOKENS = (512, 2048, 6144, 16384), (1, 4, 16, 64, 256, 1024, 4096, 16384)


def grid() -> Samples:
    n, k, m = np.array(list(itertools.product(SIDES, SIDES, TOKENS)), dtype=float).T
    return Samples(m, n, k, 2 * (n * k + m * (n + k)), 2 * m * n * k, np.ones_like(m))


def noisy(x: Samples, spread: float = 0.02, broken: float = 0.0) -> Samples:
    random = np.random.default_rng(3)
    noise = np.exp(random.normal(0, spread, len(x.m)))
    return x._replace(seconds=forms.seconds(TRUE, x) * np.where(random.random(len(x.m)) < broken, 3.0, noise))


def timed(case, seconds: float, **changes) -> Point:
    timing = Timing(median_s=seconds, p10_s=seconds, p90_s=seconds, reps=9)
    names = ("family", "kernel", "dtype", "shape", "bytes", "flops")
    return Point(**({name: getattr(case, name) for name in names} | {"timing": timing} | changes))


def products(scale: float = 1.0, kernel: str = "torch.mm") -> list[Point]:
    shapes = [GemmShape(m=m, n=n, k=k) for n, k, m in itertools.product(SIDES, SIDES, TOKENS)]
    cases = [product(Named("gemm-16", kernel, "bf16"), shape) for shape in shapes]
    x = noisy(grid())
    return [timed(case, float(seconds) * scale) for case, seconds in zip(cases, x.seconds, strict=True)]


def fitted_run(points: list[Point]) -> Run:
    return run(points=tuple(points))


def errors(found: FamilyFit, x: Samples) -> np.ndarray:
    q = Parameters(found.t0_s, found.k_s, found.bytes_per_s, found.flops_per_s, found.p, found.k0)
    return np.abs(predicted(Fitted(q, found.residual), x) / x.seconds - 1)


def test_exact_times_give_their_parameters_back() -> None:
    x = grid()
    x = x._replace(seconds=forms.seconds(TRUE, x))
    found = forms.fit(x, PEAKS)
    assert np.allclose(found, TRUE, rtol=0.02)


def test_a_tenth_of_wild_points_does_not_move_the_fit() -> None:
    x = noisy(grid(), broken=0.1)
    found = forms.fit(x, PEAKS)
    good = np.abs(forms.seconds(found, x) / x.seconds - 1) < 0.5
    assert found.bytes_per_s == pytest.approx(TRUE.bytes_per_s, rel=0.03)
    assert np.median(np.abs(forms.seconds(found, x) / x.seconds - 1)[good]) < 0.02


def test_rates_never_pass_what_the_profile_allows() -> None:
    x = grid()
    found = forms.fit(x._replace(seconds=forms.seconds(TRUE, x) / 3), PEAKS)
    assert found.bytes_per_s <= HIGHEST_FRACTION * PEAKS.bytes_per_s * 1.0001
    assert found.flops_per_s <= HIGHEST_FRACTION * PEAKS.flops_per_s * 1.0001 and 1 <= found.p <= 4.0001


@pytest.mark.parametrize("seed", range(4))
def test_the_solver_finds_what_scipy_finds(seed: int) -> None:
    random = np.random.default_rng(seed)
    x, truth = np.linspace(0.1, 3, 60), np.array([0.7, -0.4, 1.3])
    y = truth[0] * np.exp(truth[1] * x) + np.log1p(truth[2] ** 2 * x) + random.normal(0, 0.01, 60)
    y[::13] += 0.5

    def residuals(q: np.ndarray) -> np.ndarray:
        return q[0] * np.exp(q[1] * x) + np.log1p(q[2] ** 2 * x) - y

    box = Box(np.array([0.1, -2.0, 0.1]), np.array([2.0, 0.0, 3.0]))
    starts = [np.array([1.0, -1.0, 1.0]), np.array([0.3, -0.1, 2.0])]
    ours = best(residuals, starts, box)

    def huber(z: np.ndarray) -> np.ndarray:
        root = np.sqrt(1 + z)
        return np.stack([2 * (root - 1), 1 / root, -0.5 / root**3])

    theirs = min(
        pseudo_huber(residuals(least_squares(residuals, s, bounds=box, loss=huber, f_scale=DELTA).x)) for s in starts
    )
    assert ours.loss <= 1.001 * theirs


def test_the_solver_stops_at_a_bound() -> None:
    found = minimum(lambda q: q - 5.0, np.array([0.5]), Box(np.array([0.0]), np.array([1.0])))
    assert found.parameters == pytest.approx([1.0])


# Tables.


def test_a_table_says_what_neighbours_share_and_little_of_one_outlier() -> None:
    x = grid()
    shared = np.where(x.m <= 16, 0.1, 0.0)
    single = np.zeros_like(shared)
    single[40] = 0.3
    assert table_residual(table(x.m, x.n, x.k, shared), np.array([8.0]), np.array([4096.0]), np.array([4096.0])) > 0.05
    at = (x.m[40:41], x.n[40:41], x.k[40:41])
    assert 0.03 < float(table_residual(table(x.m, x.n, x.k, single), *at)[0]) < 0.25


def test_a_table_holds_its_edge_and_shrinks_beyond_it() -> None:
    x = grid()
    found = table(x.m, x.n, x.k, np.full(len(x.m), 0.1))
    inside, beyond = (table_residual(found, np.array([1.0]), np.array([n]), np.array([512.0])) for n in (512.0, 64.0))
    assert beyond == pytest.approx(SHRINK * inside)


# From a run.


def test_a_run_gives_rates_with_their_error_on_held_back_shapes() -> None:
    found = fit(fitted_run(products()), H200).family("gemm-16")
    assert found is not None and found.points == len(products())
    assert found.bytes_per_s == pytest.approx(TRUE.bytes_per_s, rel=0.05)
    assert found.held_out is not None and found.held_out.median < 0.03 and found.held_out.p90 < 0.06


def test_the_error_on_held_back_shapes_is_that_on_shapes_never_seen() -> None:
    points = products()
    random = np.random.default_rng(5)
    wobble = dict(zip(itertools.product(SIDES, SIDES), np.exp(random.normal(0, 0.1, 16)), strict=True))

    def scaled(point: Point) -> Point:
        seconds = point.timing.median_s * wobble[point.shape.n, point.shape.k]
        return point.model_copy(update={"timing": point.timing.model_copy(update={"median_s": seconds})})

    found = fit(fitted_run([scaled(point) for point in points]), H200).family("gemm-16")
    unseen = noisy(grid())._replace(n=3072 + 0 * grid().n)
    assert found.held_out.median > 0.03  # what one matrix alone has cannot be told from the others
    assert np.isfinite(errors(found, unseen)).all()


def test_only_trustworthy_points_count() -> None:
    rejected = [p.model_copy(update={"status": Status.REJECTED}) for p in products(0.1)]
    anchors = [p.model_copy(update={"anchor": True}) for p in products(0.1)]
    good = fit(fitted_run(products()), H200).family("gemm-16")
    assert fit(fitted_run([*products(), *rejected, *anchors]), H200).family("gemm-16") == good


def test_the_library_stands_for_a_family_that_engines_run_through_it() -> None:
    both = fit(fitted_run([*products(0.5, "w16a16"), *products()]), H200).family("gemm-16")
    assert both == fit(fitted_run(products()), H200).family("gemm-16")


def test_decode_attention_is_a_start_and_a_bandwidth() -> None:
    shapes = [
        AttentionShape(sequences=b, new=1, cached=s, query_heads=q, kv_heads=kv, head_dim=128)
        for b, s, (q, kv) in itertools.product((1, 4, 16, 64), (128, 512, 2048, 8192, 32768), ((32, 8), (8, 1)))
    ]
    cases = [attention(Named("attention-decode-16", "decode-bf16", "bf16"), shape) for shape in shapes]
    points = [timed(case, 9e-6 + case.bytes / 3.9e12) for case in cases]
    found = fit(fitted_run(points), H200).family("attention-decode-16")
    assert found.t0_s == pytest.approx(9e-6, rel=0.05) and found.bytes_per_s == pytest.approx(3.9e12, rel=0.03)
    assert found.k_s * 32768 < 0.05 * found.t0_s


def test_experts_and_elementwise_kernels_have_families() -> None:
    shapes = [
        ExpertShape(tokens=t, hidden=2048, inner=768, experts=128, active=8) for t in (1, 8, 32, 128, 512, 2048, 8192)
    ]
    moe = [experts(Named("moe-gemm-16", "moe-mma-bf16", "bf16"), shape) for shape in shapes]
    plain = [stream(Named("elementwise", "torch.add", "bf16"), 2**e, 3) for e in range(12, 31, 2)]
    points = [timed(c, 2e-5 + c.bytes / 4e12 + c.flops / 5e14) for c in moe]
    points += [timed(c, 3e-6 + c.bytes / 3.5e12) for c in plain]
    found = fit(fitted_run(points), H200)
    assert found.family("moe-gemm-16").held_out.median < 0.1
    assert found.family("elementwise").bytes_per_s == pytest.approx(3.5e12, rel=0.05)


def test_collectives_are_curves_by_number_of_gpus() -> None:
    sizes = [2**e for e in range(10, 29)]

    def seconds(size: int) -> float:
        return ((5e-6) ** 0.6 + (2 * size * 7 / 8 / 3.5e11) ** 0.6) ** (1 / 0.6)

    points = [
        Point(
            family="all_reduce",
            kernel="nccl",
            dtype="bf16",
            shape=CollectiveShape(ranks=8, size_bytes=size),
            bytes=size,
            flops=0,
            timing=Timing(median_s=seconds(size), p10_s=seconds(size), p90_s=seconds(size), reps=9),
        )
        for size in sizes
    ]
    (found,) = fit(fitted_run(points), H200).links
    assert (found.ranks, found.p) == (8, pytest.approx(0.6, rel=0.05))
    assert found.bytes_per_s == pytest.approx(3.5e11, rel=0.1) and found.held_out.median < 0.02


def test_a_family_with_few_points_keeps_few_parameters() -> None:
    few = [p for p in products() if p.shape.n == p.shape.k == 2048]
    found = fit(fitted_run(few), H200).family("gemm-16")
    assert found.points == 8 and found.k0 == 0 and found.k_s * 16384 < 1e-8
    assert fit(fitted_run(few[:3]), H200).families == ()


def test_the_same_run_gives_the_same_calibration() -> None:
    assert fit(fitted_run(products()), H200) == fit(fitted_run(products()), H200)


def test_terms_that_a_family_lacks_stay_zero() -> None:
    x = noisy(grid())
    found = forms.fit(x, PEAKS, Freedom(k_s=False, k0=False))
    assert found.k0 == pytest.approx(0, abs=1e-9) and found.k_s <= 1e-10 / 1024 * 1.001
    assert samples([]).m.shape == (0,)


AMOUNTS = st.sampled_from((0.0, 1e-300, 1.0, 1e15))
COUNTS = st.sampled_from((1, 64, 2**40))


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from((1e-12, 1e-6, 1.0, 1e4)), AMOUNTS, AMOUNTS, COUNTS, COUNTS), max_size=20))
def test_whatever_a_run_may_hold_has_a_fit_of_finite_figures(rows: list[tuple[float, float, float, int, int]]) -> None:
    name = Named("gemm-16", "torch.mm", "bf16")
    points = [
        timed(product(name, GemmShape(m=m, n=64, k=k)), seconds, bytes=moved, flops=flops)
        for seconds, moved, flops, m, k in rows
    ]
    families = fit(fitted_run(points), H200).families
    assert all(PEAKS.bytes_per_s >= found.bytes_per_s > 0 and found.held_out for found in families)
