"""Rates of a calibrated GPU: what was fitted takes the place of datasheet figures, family by family.

    rate_set = calibrated(rates_for(gpu, ...), source, asked)

An engine with kernels of its own (llama.cpp) keeps them: its figures are scaled by what the calibration says of
the GPU against what the datasheet level does. A calibration of another GPU of the generation is scaled by peaks.
Beside a run stands the GPU's reference, where there is one: for what the run did not measure, and for engines' expert
kernels, since a run's are the bundled ones, whose arithmetic is another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.catalog.efficiency import (
    KernelRate,
    has_own_figures,
    kernel_rate,
    peak_rates,
    usable_bandwidth_bytes_per_s,
)
from planner.catalog.kernel_families import STAND_INS
from planner.catalog.links import Topology
from planner.catalog.rates import Evidence, RateSet, rates_for
from planner.catalog.support import OWN_RUNNER
from planner.identity import Same, distinct
from planner.ops import Slot
from planner.roofline import Residuals, on_common_grid
from planner.specs.base import Kind
from planner.specs.calibration import Calibration, FamilyFit, LinkFit, ResidualTable
from planner.specs.gpu import GpuSpec

GENERIC = ""  # an engine without kernels of its own
EXPERTS = "moe-"  # families of grouped expert products


class Source(NamedTuple):
    """A calibration, the GPU that it was measured on, and what its figures count as."""

    calibration: Calibration
    gpu: GpuSpec
    evidence: Evidence
    reference: Calibration | None = None  # of this GPU's engines, where the calibration is of a run


class Asked(NamedTuple):
    """Whose rates: the GPU, the engine, the kernel families by slot, how GPUs are joined, which slots are used."""

    gpu: GpuSpec
    engine_id: str
    families: tuple[str, ...]
    topology: Topology
    used: frozenset[Slot]


class Measured(NamedTuple):
    """A slot's rate by a calibration, and its residuals where the engine runs the very kernel that was measured."""

    rate: KernelRate
    by: Calibration
    table: ResidualTable | None = None


def _scales(source: Source, gpu: GpuSpec, family: str) -> tuple[float, float]:
    """Bandwidth and arithmetic of the asked GPU over those of the measured one: 1 for the same GPU."""
    if source.gpu.id == gpu.id:
        return 1.0, 1.0
    moved, theirs = usable_bandwidth_bytes_per_s(gpu), usable_bandwidth_bytes_per_s(source.gpu)
    return moved / theirs, peak_rates(gpu, family)[1] / peak_rates(source.gpu, family)[1]


@lru_cache(maxsize=8192)
def _kernel(source: Same[Source], gpu: Same[GpuSpec], engine_id: str, family: str) -> Measured | None:
    """A measured kernel family on the asked GPU, as the engine runs it."""
    speaks = _speaks(source.value, engine_id, family)
    fit = _family(speaks, family)
    if fit is None:
        return None
    moved, computed = _scales(source.value, gpu.value, fit.family)
    sheet = kernel_rate(gpu.value, engine_id, family)
    rates = (fit.bytes_per_s * moved, fit.flops_per_s * computed, fit.p, fit.k0)
    rate = KernelRate(fit.t0_s, fit.k_s, *rates, sheet.quantize_bytes, sheet.latency_s)
    if has_own_figures(gpu.value, engine_id, family):
        return Measured(_engine_kernel(rate, sheet, kernel_rate(gpu.value, GENERIC, family)), speaks)
    return Measured(rate, speaks, fit.residual)


def _engine_kernel(measured: KernelRate, sheet: KernelRate, generic: KernelRate) -> KernelRate:
    """An engine's own kernel on this GPU: its form, its rates times measured over datasheet."""
    return sheet._replace(
        bytes_per_s=sheet.bytes_per_s * measured.bytes_per_s / generic.bytes_per_s,
        flops_per_s=sheet.flops_per_s * measured.flops_per_s / generic.flops_per_s,
    )


@lru_cache(maxsize=8192)
def _link(source: Same[Source], gpu: Same[GpuSpec], slot: Slot, topology: Topology) -> Measured | None:
    """A measured collective of the group's size, or between the sizes next to it; only within one node."""
    group, links = topology.tp, source.value.calibration.links
    if source.value.gpu.id != gpu.value.id or topology.interconnect or not 1 < group <= topology.gpus_per_node:
        return None
    curves = sorted((c for c in links if c.family == slot.name.lower()), key=lambda c: c.ranks)
    if not curves or group > curves[-1].ranks:
        return None
    return Measured(_between(curves, group), source.value.calibration)


def _between(curves: Sequence[LinkFit], ranks: int) -> KernelRate:
    at = [math.log2(curve.ranks) for curve in curves]
    columns = zip(*((c.latency_s, c.bytes_per_s, c.p) for c in curves), strict=True)
    latency, rate, p = (float(np.interp(math.log2(ranks), at, column)) for column in columns)
    return KernelRate(0.0, 0.0, rate, 1.0, p, latency_s=latency)


def _speaks(source: Source, engine_id: str, family: str) -> Calibration:
    """What speaks for a family in an engine: the calibration, or the reference beside it."""
    reference = source.reference
    if reference is None or _family(reference, family) is None:
        return source.calibration
    lent = family.startswith(EXPERTS) and engine_id != OWN_RUNNER
    return reference if lent or _family(source.calibration, family) is None else source.calibration


def _family(calibration: Calibration, family: str) -> FamilyFit | None:
    """The family's fit, or that of the family that stands in for it."""
    return calibration.family(family) or calibration.family(STAND_INS.get(family, family))


def calibrated(source: Source, asked: Asked) -> RateSet:
    """Rates with everything that the source measured; the slots that it did not stay at their datasheet level.

    The evidence is the source's when all the slots in use rest on it, else the datasheet's.
    """
    return _calibrated(Same(source), Same(asked.gpu), *asked[1:])


@lru_cache(maxsize=8192)
def _calibrated(
    same: Same[Source],
    gpu: Same[GpuSpec],
    engine_id: str,
    families: tuple[str, ...],
    topology: Topology,
    used: frozenset[Slot],
) -> RateSet:
    source, sheet = same.value, rates_for(gpu.value, engine_id, families, topology)
    values, kinds, sources = sheet.values.copy(), list(sheet.kinds), list(sheet.sources)
    tables: list[ResidualTable | None] = [None] * len(Slot)
    rests: set[Slot] = set()
    borrowed = False
    for slot in Slot:
        found = _kernel(same, gpu, engine_id, families[slot]) or _link(same, gpu, slot, topology)
        if found is not None:
            values[:, slot], tables[slot] = found.rate, found.table
            kinds[slot], sources[slot] = Kind.FITTED, said(source._replace(calibration=found.by), gpu.value)
            rests.add(slot)
            borrowed |= found.by is not source.calibration and slot in used
    values.setflags(write=False)
    level = (Evidence.REFERENCE if borrowed else source.evidence) if used <= rests else Evidence.DATASHEET
    name = source.calibration.id if rests & used else ""
    return RateSet(values, sheet.families, tuple(kinds), tuple(sources), level, tuple(tables), name)


def said(source: Source, gpu: GpuSpec) -> str:
    """The source in a few words."""
    what = f"{source.calibration.source or 'planner calibrate'}, {source.calibration.id}"
    return what if source.gpu.id == gpu.id else f"{what}, transferred from {source.gpu.id}"


# Residual tables of many rows.


@lru_cache(maxsize=256)
def _grid(table: Same[ResidualTable]) -> NDArray[np.float64]:
    return on_common_grid(table.value)


def residuals(rate_sets: Sequence[RateSet]) -> Residuals | None:
    """The tables of many scenarios, each once; None where nobody has one."""
    known, at = distinct(rate_sets)
    if not any(any(rate_set.tables) for rate_set in known):
        return None
    number: dict[Same[ResidualTable], int] = {}
    which = np.zeros((len(Slot), len(known)), dtype=np.int64)
    for row, rate_set in enumerate(known):
        for slot, table in enumerate(rate_set.tables):
            if table is not None:
                which[slot, row] = number.setdefault(Same(table), len(number) + 1)
    return Residuals(_stacked(tuple(number)), np.take(which, at, axis=-1))


@lru_cache(maxsize=64)
def _stacked(tables: tuple[Same[ResidualTable], ...]) -> NDArray[np.float64]:
    grids = [_grid(table) for table in tables]
    return np.stack([np.zeros_like(grids[0]), *grids])
