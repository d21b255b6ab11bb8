"""From a run to a calibration: rates by kernel family with their error on held-back points. A pure function.

    calibration = fit(run, gpu)        # planner.specs.calibration.Calibration

Every family is fitted with the planner's own form (`forms`), then its residuals with a table (`table`), kept
where it predicts held-back shapes better than the form alone. Held back: each of FOLDS parts of the shapes is
predicted by a fit to the others; products are held back by weight matrix, all its batches together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.calibration.fit import forms
from planner.calibration.fit.forms import Freedom, Parameters, Peaks, Samples
from planner.calibration.fit.links import link_fits
from planner.calibration.fit.table import table
from planner.catalog.efficiency import peak_rates
from planner.roofline import table_residual
from planner.specs.calibration import Calibration, FamilyFit, HeldOut, ResidualTable
from planner.specs.gpu import GpuSpec
from planner.specs.run import (
    LIBRARY,
    AttentionShape,
    CollectiveShape,
    ExpertShape,
    GemmShape,
    Mode,
    Point,
    Run,
    StreamShape,
)

__all__ = ["family_fit", "fit", "held_out", "predicted", "samples"]

Array = NDArray[np.float64]
FOLDS = 5
FEWEST = 4  # points that make a family
ENOUGH_FOR_ALL = 10  # points from which every parameter is free
ENOUGH_FOR_TABLE = 12
MOST_ERROR = 100.0  # that a calibration states: a run of nonsense is still a run, and one that nobody should use
PLAIN = Freedom(k_s=False, k0=False, flops=False)
NOT_PRICED = ("launch", "read", "copy", "l2-read")  # shown, never part of a forward pass
OF_LIBRARIES = ("gemm-16", "gemm-fp8", "gemm-int8")  # engines call the library: the bundled kernels are no comparison


class Fitted(NamedTuple):
    """Parameters and, where it helps, a table of residuals."""

    parameters: Parameters
    table: ResidualTable | None


# What a point is to the form.


def _axes(point: Point) -> tuple[float, float, float]:
    """m, n, k as the planner's operations count them (`planner.ops`)."""
    shape = point.shape
    if isinstance(shape, GemmShape):
        return shape.m, shape.n, shape.k
    if isinstance(shape, AttentionShape):
        if shape.new == 1:
            keys = shape.sequences * max(shape.cached, 1)
            return shape.sequences, point.bytes / keys, max(shape.cached, 1)
        return shape.sequences * shape.new, shape.query_heads, shape.cached + (shape.new + 1) / 2
    if isinstance(shape, ExpertShape):
        return shape.tokens * shape.active, 3 * shape.inner, shape.hidden
    return 1.0, 1.0, 1.0


def samples(points: Sequence[Point]) -> Samples:
    """Timed points as columns."""
    rows = [(*_axes(point), point.bytes, point.flops, point.timing.median_s) for point in points if point.timing]
    return Samples(*np.array(rows, dtype=float).reshape(-1, len(Samples._fields)).T)


def chosen(points: Sequence[Point]) -> list[Point]:
    """One point per shape, of the library's kernels where there are some, else of the kernel with the fullest grid.

    Kernels of one family differ in what they hold (with zero points, in FP16): a mixture would be none of them.
    """
    library = [point for point in points if point.kernel.startswith(LIBRARY)]
    counts = Counter(point.kernel for point in points)
    fullest = min(counts, key=lambda kernel: (-counts[kernel], kernel))
    best: dict[object, Point] = {}
    for point in library or [point for point in points if point.kernel == fullest]:
        assert point.timing
        known = best.get((point.shape, point.bytes))
        if known is None or not known.timing or point.timing.median_s < known.timing.median_s:
            best[point.shape, point.bytes] = point
    return list(best.values())


def _freedom(point: Point, count: int) -> Freedom:
    shape = point.shape
    if isinstance(shape, StreamShape) or point.flops == 0:
        return PLAIN
    if isinstance(shape, AttentionShape):
        return Freedom(k_s=False, k0=shape.new > 1)
    return Freedom() if count >= ENOUGH_FOR_ALL else Freedom(k_s=False, k0=False)


# Fit and prediction.


def predicted(found: Fitted, x: Samples) -> Array:
    """Seconds of every sample: the form times what the table says of its neighbourhood."""
    base = forms.seconds(found.parameters, x)
    return base if found.table is None else base * np.exp(table_residual(found.table, x.m, x.n, x.k))


def _with_table(parameters: Parameters, x: Samples) -> Fitted:
    if len(x.m) < ENOUGH_FOR_TABLE:
        return Fitted(parameters, None)
    return Fitted(parameters, table(x.m, x.n, x.k, np.log(x.seconds / forms.seconds(parameters, x))))


def _groups(x: Samples, by_matrix: bool) -> NDArray[np.int64]:
    """Samples that are held back together."""
    if by_matrix:
        keys, number = np.unique(np.stack([x.n, x.k]), axis=1, return_inverse=True)
        if keys.shape[1] >= FOLDS:
            return np.asarray(number.ravel(), dtype=np.int64)
    return np.arange(len(x.m))


def _folds(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Fold of every sample: groups dealt out in a fixed random order."""
    count = int(groups.max()) + 1
    dealt = np.random.default_rng(0).permutation(count) % min(FOLDS, count)
    return np.asarray(dealt[groups])


def _errors(seconds: Array, x: Samples) -> HeldOut:
    error = np.abs(seconds / x.seconds - 1)
    median, p90 = (round(float(value), 4) for value in np.minimum(np.quantile(error, [0.5, 0.9]), MOST_ERROR))
    return HeldOut(points=len(x.m), median=median, p90=p90)


def held_out(x: Samples, peaks: Peaks, freedom: Freedom, start: Parameters, by_matrix: bool) -> tuple[HeldOut, HeldOut]:
    """Error on shapes that were held back: of the form alone, and of the form with its table."""
    folds = _folds(_groups(x, by_matrix))
    plain, tabled = np.empty_like(x.seconds), np.empty_like(x.seconds)
    for fold in np.unique(folds):
        out = folds == fold
        train = x.at(~out)
        parameters = forms.fit(train, peaks, freedom, start)
        plain[out] = forms.seconds(parameters, x.at(out))
        tabled[out] = predicted(_with_table(parameters, train), x.at(out))
    return _errors(plain, x), _errors(tabled, x)


def family_fit(points: Sequence[Point], peaks: Peaks) -> FamilyFit | None:
    """The fit of one family's points; None when there are too few."""
    used = chosen(points)
    if len(used) < FEWEST:
        return None
    x, first = samples(used), used[0]
    freedom = _freedom(first, len(used))
    parameters = forms.fit(x, peaks, freedom)
    plain, tabled = held_out(x, peaks, freedom, parameters, isinstance(first.shape, GemmShape))
    useful = tabled.median < plain.median and freedom is not PLAIN
    found = _with_table(parameters, x) if useful else Fitted(parameters, None)
    kernels = "+".join(sorted({point.kernel for point in used}))
    return FamilyFit(
        family=first.family,
        kernel=kernels,
        **parameters._asdict(),
        residual=found.table,
        points=len(used),
        held_out=tabled if useful else plain,
    )


def by_family(points: Sequence[Point]) -> dict[str, list[Point]]:
    """Timed points of every family, in the order of the run."""
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(point.family, []).append(point)
    return found


def _is_engines(run: Run, family: str, points: Sequence[Point]) -> bool:
    """Whether engines run what was measured: of families that libraries serve, a run without torch has its own."""
    own = run.mode is not Mode.CONVERTED and family in OF_LIBRARIES
    return not own or any(point.kernel.startswith(LIBRARY) for point in points)


def fit(run: Run, gpu: GpuSpec, peaks: Callable[[GpuSpec, str], tuple[float, float]] = peak_rates) -> Calibration:
    """Everything that a run says of a GPU. Families that were not measured, or hardly, are absent."""
    timed = [point for point in run.timed() if not point.anchor]
    priced = by_family([p for p in timed if not isinstance(p.shape, CollectiveShape) and p.family not in NOT_PRICED])
    known = {family: points for family, points in priced.items() if _is_engines(run, family, points)}
    fits = [family_fit(points, Peaks(*peaks(gpu, family))) for family, points in known.items()]
    return Calibration(
        id=run.id,
        gpu=run.gpu,
        created=run.created,
        source=run.source,
        bandwidth_bytes_per_s=gpu.bandwidth_bytes_per_s,
        families=tuple(found for found in fits if found is not None),
        links=link_fits([point for point in timed if isinstance(point.shape, CollectiveShape)]),
    )
