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
from planner.catalog.files import write_atomically
from planner.catalog.gpus import gpu
from planner.specs.calibration import Calibration, FamilyFit, HeldOut
from planner.specs.run import GemmShape
from tests.opdata.convert import GPUS, SOURCE, Reading, as_run, convert

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
# Left out of the references: sources whose kernels engines no longer use.
OLD_SOURCES = ("trtllm-1.0.0", "trtllm-1.2.0rc5", "sglang-0.5.6")
HOT = ("gemm-fp4",)  # one copy of the weights: in the cache
EXPERTS = "moe-"  # too wide a spread between geometries to stand for a GPU


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


def reference(calibration: Calibration, held: dict[str, Errors]) -> Calibration:
    """What ships: families that engines use, with their error on held-back rows of the tables.

    No collectives: over PCIe they are the host's, two collections of one GPU differ by up to ten times.
    """
    families = []
    for family in calibration.families:
        old = any(source in family.kernel for source in OLD_SOURCES)
        if old or family.family in HOT or family.family.startswith(EXPERTS):
            continue
        measured = held.get(family.family)
        error = HeldOut(**measured._asdict()) if measured else family.held_out
        rounded = {k: float(f"{getattr(family, k):.5g}") for k in Parameters._fields}
        families.append(family.model_copy(update={"held_out": error, **rounded}))
    return calibration.model_copy(update={"families": tuple(families), "links": (), "source": SOURCE})


def _row(*cells: object) -> None:
    print("| " + " | ".join(f"{100 * c:.1f}" if isinstance(c, float) else str(c) for c in cells) + " |")


def main(folder: Path, out: Path | None) -> None:
    """Print the tables; with `out`, write the reference calibrations there."""
    _row("GPU", "family", "points fitted", "held back", "median %", "p90 %")
    _row(*["---"] * 6)
    sums: list[tuple[int, float, float]] = []
    for name in GPUS:
        run, held = convert(folder, name)
        kept = _readings(run.points)
        calibration = fit(run, gpu(run.gpu))
        found = on_held_back(calibration, held)
        for family in calibration.families:
            if family.family in found:
                _row(run.gpu, family.family, family.points, *found[family.family])
        sums += layer_sums(name, kept, held)
        if out:
            text = reference(calibration, found).model_dump_json(exclude_defaults=True)
            write_atomically(out / f"{run.gpu}.json", json.dumps(json.loads(text), separators=(",", ":")) + "\n")
    for label, most in (("all batches", 1 << 30), (f"at most {SMALL_BATCH} tokens", SMALL_BATCH)):
        chosen = [(p, m) for tokens, p, m in sums if tokens <= most]
        _row("all", f"16-bit layer sums, {label}", "", *errors(*zip(*chosen, strict=True)))


def _readings(points: Sequence[object]) -> list[Reading]:
    """A run's points as readings again."""
    names = ("family", "kernel", "dtype", "shape", "bytes", "flops")
    return [Reading(*(getattr(p, name) for name in names), p.timing.median_s) for p in points]  # type: ignore[attr-defined]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[3]) if "--write" in sys.argv else None)
