"""Figures of the fit on public operator data: `python -m tests.opdata.figures FOLDER [--write planner/data/reference]`.

A fit sees the converted run alone. Everything else in the tables is predicted: other products, other batches, other
heads and contexts, other geometries of experts. Layer sums are of layers of which no product was in the fit.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from planner.calibration.fit import Fitted, fit, predicted, samples
from planner.calibration.fit.forms import Parameters
from planner.catalog.efficiency import figures, is_half_rate, peak_rates
from planner.catalog.files import write_atomically
from planner.catalog.gpus import gpu
from planner.specs.calibration import Calibration, FamilyFit, HeldOut, ResidualTable
from planner.specs.run import GemmShape
from tests.opdata.convert import GPUS, as_run, convert
from tests.opdata.readings import Reading

# Hidden size, qkv outputs, heads' inputs to the output projection, inner size, and a tensor-parallel group. The tables
# hold these sizes: Llama-3.2 1B and 3B, Llama-3.1 8B, Qwen3 0.6B, 1.7B and 8B, Gemma-2 9B.
LAYERS = {
    "llama-3.2-1b": (2048, 3072, 2048, 8192, (1, 2, 4)),
    "llama-3.2-3b": (3072, 5120, 3072, 8192, (1, 2)),
    "llama-3.1-8b": (4096, 6144, 4096, 14336, (4,)),
    "qwen3-8b": (4096, 6144, 4096, 12288, (2, 4, 8)),
    "qwen3-1.7b": (2048, 4096, 2048, 6144, (1, 2)),
    "qwen3-0.6b": (1024, 4096, 2048, 3072, (1,)),
    "gemma-2-9b": (3584, 8192, 4096, 14336, (4,)),
}
SMALL_BATCH = 64
# Left out of the references: sources whose kernels engines no longer use; tables of one copy of the weights, which
# stays in the cache; on B200 block FP8, whose quantizer is timed from the host (17 us at any size), and MXFP4 experts,
# in a variant of vLLM's that runs quantizer and permutation apart. What misses held-back rows by WIDE is no figure.
OLD_SOURCES = ("trtllm-1.0.0", "trtllm-1.2.0rc5", "sglang-0.5.6")
NOT_SHIPPED = {"gemm-fp4": GPUS, "gemm-fp8-block": ("b200_sxm",), "moe-mx4": ("b200_sxm",)}
WIDE = 0.15  # median
NEIGHBOURS = {"b300": "b200", "gb200": "b200"}  # lend the families that a GPU's own tables lack, by peaks
DECIMALS = 3  # of a residual


class Errors(NamedTuple):
    """Relative errors of predictions, and how many."""

    points: int
    median: float
    p90: float


def errors(predicted_s: Sequence[float], measured_s: Sequence[float]) -> Errors:
    ratio = np.abs(np.asarray(predicted_s) / np.asarray(measured_s) - 1)
    return Errors(len(ratio), float(np.median(ratio)), float(np.quantile(ratio, 0.9)))


def seconds(found: FamilyFit, readings: Sequence[Reading]) -> np.ndarray:
    """What the fit says of readings of its family."""
    q = Parameters(found.t0_s, found.k_s, found.bytes_per_s, found.flops_per_s, found.p, found.k0)
    return predicted(Fitted(q, found.residual), samples([reading.point(0) for reading in readings]))


def on_held_back(calibration: Calibration, held: Sequence[Reading]) -> dict[str, Errors]:
    """Error of every family on the readings that the run does not hold."""
    found = {}
    for family in calibration.families:
        own = [reading for reading in held if reading.family == family.family]
        if own:
            found[family.family] = errors(seconds(family, own).tolist(), [reading.seconds for reading in own])
    return found


def layer_products(hidden: int, qkv: int, heads: int, inner: int, tp: int) -> tuple[tuple[int, int], ...]:
    """(n, k) of a layer's four products on one of `tp` GPUs."""
    return (qkv // tp, hidden), (hidden, heads // tp), (2 * inner // tp, hidden), (hidden, inner // tp)


def layers() -> Iterator[tuple[tuple[int, int], ...]]:
    for *sizes, groups in LAYERS.values():
        yield from (layer_products(*sizes, tp) for tp in groups)  # type: ignore[arg-type,misc]


def is_layer_product(reading: Reading) -> bool:
    """Whether a reading belongs to one of the layers, so that a fit for their sums must not see it."""
    shape = reading.shape
    return isinstance(shape, GemmShape) and any((shape.n, shape.k) in products for products in layers())


def layer_sums(name: str, run_readings: Sequence[Reading], held: Sequence[Reading]) -> list[tuple[int, float, float]]:
    """(tokens, predicted, measured) seconds of whole layers in 16 bit, by a fit that saw none of their products."""
    sixteen = [r for r in (*run_readings, *held) if r.family == "gemm-16"]
    seen = [r for r in run_readings if r.family == "gemm-16" and not is_layer_product(r)]
    found = fit(as_run(seen, name), gpu(GPUS[name])).family("gemm-16")
    if found is None:
        return []
    table = {(r.shape.m, r.shape.n, r.shape.k): r for r in sixteen if isinstance(r.shape, GemmShape)}
    sums = []
    for products in layers():
        for tokens in sorted({m for m, _, _ in table}):
            parts = [table.get((tokens, n, k)) for n, k in products]
            if all(parts):
                whole = [part for part in parts if part]
                sums.append((tokens, float(seconds(found, whole).sum()), sum(part.seconds for part in whole)))
    return sums


def identified(calibration: Calibration) -> Calibration:
    """Decode attention moves so much that its tables do not tell its arithmetic: the datasheet level's stands in."""
    card = gpu(calibration.gpu)
    families = []
    for family in calibration.families:
        if family.family.startswith("attention-decode"):
            sheet = figures(card.generation, is_half_rate(card), "", family.family)
            family = family.model_copy(update={"flops_per_s": sheet.math * peak_rates(card, family.family)[1]})
        families.append(family)
    return calibration.model_copy(update={"families": tuple(families)})


def reference(name: str, calibration: Calibration, held: dict[str, Errors]) -> Calibration:
    """What ships: families that engines use, with their error on held-back rows of the tables.

    No collectives: over PCIe they are the host's, two collections of one GPU differ by up to ten times; those of NVLink
    are in `efficiency.yaml`, by link.
    """
    families = []
    for family in calibration.families:
        old = any(source in family.kernel for source in OLD_SOURCES)
        measured = held.get(family.family)
        error = HeldOut(**measured._asdict()) if measured else family.held_out
        if old or name in NOT_SHIPPED.get(family.family, ()) or error is None or error.median > WIDE:
            continue
        rounded = {k: float(f"{getattr(family, k):.5g}") for k in Parameters._fields}
        error = error.model_copy(update={k: round(getattr(error, k), DECIMALS) for k in ("median", "p90")})
        families.append(family.model_copy(update={"held_out": error, "residual": _short(family.residual), **rounded}))
    return calibration.model_copy(update={"families": tuple(families), "links": ()})


def _short(table: ResidualTable | None) -> ResidualTable | None:
    if table is None:
        return None
    return table.model_copy(update={"values": tuple(round(value, DECIMALS) for value in table.values)})


def lent(own: Calibration, neighbour: Calibration) -> Calibration:
    """The calibration with the neighbour's families that it lacks, at this GPU's peaks; their kernels say whose."""
    mine, theirs = gpu(own.gpu), gpu(neighbour.gpu)
    borrowed = []
    for family in neighbour.families:
        if own.family(family.family) is None:
            here, there = peak_rates(mine, family.family), peak_rates(theirs, family.family)
            rates = {
                "bytes_per_s": float(f"{family.bytes_per_s * here[0] / there[0]:.5g}"),
                "flops_per_s": float(f"{family.flops_per_s * here[1] / there[1]:.5g}"),
                "kernel": f"{family.kernel} of {neighbour.gpu}",
                "held_out": None,
            }
            borrowed.append(family.model_copy(update=rates))
    return own.model_copy(update={"families": own.families + tuple(borrowed)})


def write(found: dict[str, Calibration], out: Path) -> None:
    """One file per GPU, without whatever is at its default."""
    for calibration in found.values():
        neighbour = found.get(NEIGHBOURS.get(calibration.gpu, ""))
        whole = lent(calibration, neighbour) if neighbour else calibration
        text = whole.model_dump_json(exclude_defaults=True)
        write_atomically(out / f"{whole.gpu}.json", json.dumps(json.loads(text), separators=(",", ":")) + "\n")


def _row(*cells: object) -> None:
    print("| " + " | ".join(f"{100 * c:.1f}" if isinstance(c, float) else str(c) for c in cells) + " |")


def main(folder: Path, out: Path | None) -> None:
    """Print the tables; with `out`, write the reference calibrations there."""
    _row("GPU", "family", "points fitted", "held back", "median %", "p90 %")
    _row(*["---"] * 6)
    sums: list[tuple[int, float, float]] = []
    shipped: dict[str, Calibration] = {}
    for name in GPUS:
        run, held = convert(folder, name)
        kept = _readings(run.points)
        calibration = identified(fit(run, gpu(run.gpu)))
        found = on_held_back(calibration, held)
        for family in calibration.families:
            if family.family in found:
                _row(run.gpu, family.family, family.points, *found[family.family])
        sums += layer_sums(name, kept, held)
        shipped[run.gpu] = reference(name, calibration, found)
    if out:
        write(shipped, out)
    for label, most in (("all batches", 1 << 30), (f"at most {SMALL_BATCH} tokens", SMALL_BATCH)):
        chosen = [(p, m) for tokens, p, m in sums if tokens <= most]
        _row("all", f"16-bit layer sums, {label}", "", *errors(*zip(*chosen, strict=True)))


def _readings(points: Sequence[object]) -> list[Reading]:
    """A run's points as readings again."""
    names = ("family", "kernel", "dtype", "shape", "bytes", "flops")
    return [Reading(*(getattr(p, name) for name in names), p.timing.median_s) for p in points]  # type: ignore[attr-defined]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[3]) if "--write" in sys.argv else None)
