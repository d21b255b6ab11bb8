"""What the kernels of a GPU attain: curves as the estimator prices them, beside the points of a run.

    source = source_for(gpu)                       # a run, a reference, or None: the datasheet
    curve = product_curve(gpu, source, "fp8", Matrix(8192, 8192))

Every curve comes out of `planner.roofline` with the rates that estimates use.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.catalog.calibrated import Asked, Source, calibrated, residuals
from planner.catalog.efficiency import peak_rates
from planner.catalog.formats import weight_format
from planner.catalog.kernel_families import STAND_INS
from planner.catalog.links import Topology
from planner.catalog.rates import RateSet, rates_for, stack
from planner.catalog.support import support
from planner.explain.words import figure, format_name
from planner.formats import HALF_BYTES, kernel_for
from planner.formats.packing import packed_bytes
from planner.ops import Slot
from planner.ops.products import product_op
from planner.ops.records import Op, OpKind, Product, Work
from planner.roofline import op_seconds
from planner.specs.calibration import Calibration, FamilyFit, LinkFit
from planner.specs.formats import FormatSpec, Level
from planner.specs.gpu import GpuSpec
from planner.specs.run import LIBRARY, GemmShape, Mode, Point, Run, StreamShape

Array = NDArray[np.float64]

TOKENS = 2.0 ** np.arange(0, 14.5, 0.5)  # of a product's curve
SIZES = 2.0 ** np.arange(16, 32.5, 0.5)  # bytes of a pass over memory
COMPARED = ("bf16", "fp8", "int8-w8a8", "awq-int4-g128", "nvfp4")  # formats of the crossover, where they run
RUNNER = ""  # no engine: kernels alone
READS, INPUTS = "gemm-16", 8192.0  # whose reading of weights is drawn, and inputs of those weights
NO_ARITHMETIC = 1e17  # FLOP/s that no kernel reaches: the family computes next to nothing
RUNS = (Level.NATIVE, Level.WEIGHT_ONLY, Level.UNKNOWN)
CLEAR = 0.02
PRODUCTS = {"gemm-16": "16-bit products", "gemm-fp8": "FP8 products"}


class Matrix(NamedTuple):
    """Weights [n, k] of one product."""

    n: int
    k: int


LARGE = Matrix(8192, 8192)


class Curve(NamedTuple):
    """A line of a chart: arrays (P,)."""

    name: str
    family: str
    tokens: Array
    seconds: Array
    flops: Array
    bytes: Array
    evidence: str


class Reading(NamedTuple):
    """A measured point."""

    family: str
    kernel: str
    label: str
    bytes: float
    flops: float
    seconds: float


class Lead(NamedTuple):
    """From how many tokens on a format is the fastest."""

    tokens: float
    name: str


def rate_set_of(gpu: GpuSpec, source: Source | None, family: str, slot: Slot) -> RateSet:
    """The rates with which estimates price a kernel family, in every slot."""
    families, topology = (family,) * len(Slot), Topology()
    if source is None:
        return rates_for(gpu, RUNNER, families, topology)
    return calibrated(source, Asked(gpu, RUNNER, families, topology, frozenset({slot})))


def _seconds(op: Op, rate_set: RateSet) -> Array:
    return np.asarray(op_seconds([op], stack([rate_set]), residuals([rate_set]))[0])


def _matrix_bytes(fmt: FormatSpec, matrix: Matrix) -> float:
    packing = fmt.resident or fmt.packing
    if packing is None:
        return HALF_BYTES * matrix.n * matrix.k
    return float(packed_bytes(packing, np.array(matrix.n), np.array(matrix.k)))


def _product(rate_set: RateSet, weight_bytes: Any, matrix: tuple[Any, Any], tokens: Array) -> tuple[Op, Array]:
    """One product as the estimator prices it; weights, outputs and tokens may be arrays (P,)."""
    n, k = matrix
    part = Product("product", OpKind.GEMM, Slot.MLP_GEMM, 1, weight_bytes, n, k, 1.0, 1.0, 1.0, False, False)
    none = np.zeros_like(tokens)
    op = product_op(part, Work(none, none, none, none, none, tokens, tokens, tokens, tokens), HALF_BYTES)
    return op, _seconds(op, rate_set)


def product_curve(gpu: GpuSpec, source: Source | None, format_id: str, matrix: Matrix) -> Curve:
    """Time of one product against tokens, in the kernel that runs the format on this GPU."""
    fmt = weight_format(format_id)
    family = kernel_for(fmt, support(fmt, "vllm", gpu).level)
    rate_set = rate_set_of(gpu, source, family, Slot.MLP_GEMM)
    op, seconds = _product(rate_set, _matrix_bytes(fmt, matrix), matrix, TOKENS)
    name, level = format_name(format_id), rate_set.evidence.value
    return Curve(name, family, TOKENS, seconds, np.asarray(op.flops), np.asarray(op.bytes), level)


def weight_read_curve(gpu: GpuSpec, source: Source | None) -> Curve:
    """Reading 16-bit weights for one token, which is what decoding does most, against their bytes."""
    outputs = SIZES / (HALF_BYTES * INPUTS)
    rate_set = rate_set_of(gpu, source, READS, Slot.MLP_GEMM)
    op, seconds = _product(rate_set, HALF_BYTES * outputs * INPUTS, (outputs, INPUTS), np.ones_like(outputs))
    level = rate_set.evidence.value
    return Curve("weights for one token", READS, outputs, seconds, np.asarray(op.flops), np.asarray(op.bytes), level)


def format_curves(gpu: GpuSpec, source: Source | None, matrix: Matrix) -> list[Curve]:
    """A curve for each kernel family that this GPU runs a format in, 16 bit first."""
    runs = [name for name in COMPARED if support(weight_format(name), "vllm", gpu).level in RUNS]
    found: dict[str, Curve] = {}
    for name in runs or ("bf16",):
        curve = product_curve(gpu, source, name, matrix)
        own = source is not None and source.calibration.family(curve.family)
        found.setdefault(curve.family if own else STAND_INS.get(curve.family, curve.family), curve)
    return list(found.values())


def leads(curves: Sequence[Curve]) -> list[Lead]:
    """Which format is fastest from how many tokens on; a lead of less than CLEAR changes nothing."""
    found: list[Lead] = []
    leader = curves[0]
    for at, tokens in enumerate(curves[0].tokens):
        best = min(curves, key=lambda curve: curve.seconds[at])
        if not found or best.seconds[at] < (1 - CLEAR) * leader.seconds[at]:
            leader = best
            found.append(Lead(float(tokens), leader.name))
    return found


def stream_curve(gpu: GpuSpec, source: Source | None) -> Curve:
    """A pass of an elementwise kernel over memory against its bytes."""
    rate_set = rate_set_of(gpu, source, "elementwise", Slot.ELEMENTWISE)
    one = np.ones_like(SIZES)
    op = Op("pass", OpKind.ELEMENTWISE, Slot.ELEMENTWISE, one, 0 * one, SIZES, one, one, one)
    return Curve("elementwise", "elementwise", one, _seconds(op, rate_set), 0 * one, SIZES, rate_set.evidence.value)


def readings(run: Run) -> list[Reading]:
    """Points of products and of passes over memory; the others have no place in these charts."""
    return [
        _reading(point) for point in run.timed() if point.bytes and isinstance(point.shape, GemmShape | StreamShape)
    ]


def _reading(point: Point) -> Reading:
    assert point.timing
    shape = point.shape
    label = f"{shape.m} × {shape.n} × {shape.k}" if isinstance(shape, GemmShape) else f"{point.bytes:,.0f} B"
    return Reading(point.family, point.kernel, label, point.bytes, point.flops, point.timing.median_s)


def peaks(gpu: GpuSpec, family: str) -> tuple[float, float]:
    """Bandwidth in bytes/s and dense rate in FLOP/s by the datasheet."""
    return peak_rates(gpu, family)


class Attained(NamedTuple):
    """The best that a kind of work attains: bytes/s or FLOP/s, and the share of the datasheet's figure."""

    name: str
    per_s: float
    fraction: float
    unit: str


def attained(gpu: GpuSpec, source: Source | None) -> list[Attained]:
    """Reading weights, 16-bit products, and FP8 products where the GPU has them."""
    reads, bandwidth = weight_read_curve(gpu, source), gpu.bandwidth_bytes_per_s
    best = float(np.max(reads.bytes / reads.seconds))
    found = [Attained("Reading weights", best, best / bandwidth, "B/s")]
    for curve in format_curves(gpu, source, LARGE):
        if curve.family in PRODUCTS:
            best = float(np.max(curve.flops / curve.seconds))
            found.append(Attained(PRODUCTS[curve.family], best, best / peaks(gpu, curve.family)[1], "FLOP/s"))
    return found


# A fit as a table.


def fit_rows(calibration: Calibration) -> list[dict[str, object]]:
    """Every family with its rates and its error on held-back points, collectives last."""
    return [_family_row(fit) for fit in calibration.families] + [_link_row(link) for link in calibration.links]


def _family_row(fit: FamilyFit) -> dict[str, object]:
    computes = fit.flops_per_s < NO_ARITHMETIC
    return {
        "family": fit.family,
        "kernel": fit.kernel,
        "points": fit.points,
        "t0_us": fit.t0_s * 1e6,
        "gb_per_s": fit.bytes_per_s / 1e9,
        "tflops": fit.flops_per_s / 1e12 if computes else None,
    } | _held_out(fit)


def _link_row(link: LinkFit) -> dict[str, object]:
    return {
        "family": f"{link.family} of {link.ranks}",
        "kernel": "nccl",
        "points": link.points,
        "t0_us": link.latency_s * 1e6,
        "gb_per_s": link.bytes_per_s / 1e9,
        "tflops": None,
    } | _held_out(link)


def _held_out(fit: FamilyFit | LinkFit) -> dict[str, object]:
    found = fit.held_out
    return {
        "held_out_median_percent": found.median * 100 if found else None,
        "held_out_p90_percent": found.p90 * 100 if found else None,
    }


def anchor_drift_percent(run: Run) -> float | None:
    """Spread of the repeated shape over the run: how much the GPU changed while it was measured."""
    times = [point.timing.median_s for point in run.timed() if point.anchor and point.timing]
    return 100 * (max(times) / min(times) - 1) if len(times) > 1 else None


def launches(run: Run) -> str:
    """What starting a kernel takes, in words: as a node of a graph, and from the host as eager code starts it."""
    times = {p.kernel.startswith(LIBRARY): p.timing.median_s for p in run.timed() if p.family == "launch" and p.timing}
    names = {False: "in a graph", True: "from the host"}
    return ", ".join(f"{figure(1e6 * times[eager])} µs {name}" for eager, name in names.items() if eager in times)


def without_libraries(run: Run) -> str:
    """What a run of the bundled kernels alone leaves to others, in words; blank for a run with torch's."""
    if run.mode is Mode.CONVERTED or any(point.kernel.startswith(LIBRARY) for point in run.points):
        return ""
    return (
        "Bundled kernels alone: products in 16 bit, FP8 and INT8, prompts and small operations are torch's to time, "
        "and keep the GPU's reference or datasheet."
    )


def middle_error_percent(calibration: Calibration) -> float | None:
    """Median over the families of their median error on held-back points."""
    errors = [fit.held_out.median for fit in calibration.families if fit.held_out]
    return 100 * float(np.median(errors)) if errors and math.isfinite(sum(errors)) else None
