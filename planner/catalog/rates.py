"""Kernel rates of a GPU: datasheet peaks times the typical efficiency of its generation.

    families = kernel_families(model, fmt, kernel, kv_format)     # which kernel serves which slot: `kernel_families`
    rate_set = rates_for(gpu, engine_id, families, topology)      # one scenario
    rates = stack(rate_sets)                                      # many, for `planner.roofline`

A RateSet is the one record that the time model takes: fits to published operators and calibrations of one's
own GPU are other sources of the same record, with another `evidence`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.catalog.efficiency import KernelRate, SourcedRate, sourced_rate
from planner.catalog.host import assumed, host_bytes_per_s, pcie_bytes_per_s
from planner.catalog.links import Topology, check_interconnect, collective_rate
from planner.identity import Same, distinct
from planner.ops import Slot
from planner.roofline import Rates
from planner.specs.base import Kind
from planner.specs.calibration import ResidualTable
from planner.specs.gpu import GpuSpec

TERA = 1e12
COLLECTIVES = (Slot.ALL_REDUCE, Slot.ALL_GATHER, Slot.ALL_TO_ALL, Slot.SEND)
HOST_SLOTS = (Slot.HOST, Slot.HOST_COPY)


class Evidence(StrEnum):
    """Where a set of rates comes from, best first."""

    MEASURED = "measured"
    REFERENCE = "reference"
    DATASHEET = "datasheet"


class RateSet(NamedTuple):
    """Rates of one scenario: a KernelRate per slot as columns of `values` (fields, slots), and their origin."""

    values: NDArray[np.float64]
    families: tuple[str, ...]  # by slot
    kinds: tuple[Kind, ...]  # by slot: fitted where the source measured this generation
    sources: tuple[str, ...]  # by slot
    evidence: Evidence = Evidence.DATASHEET
    tables: tuple[ResidualTable | None, ...] = ()  # by slot, where a calibration has them
    calibration_id: str = ""


def stack(rate_sets: Sequence[RateSet]) -> Rates:
    """Many scenarios as one `Rates` of shape (slots, R)."""
    known, at = distinct(rate_sets)
    return Rates(*np.take(np.stack([rate_set.values for rate_set in known], axis=-1), at, axis=-1))


def _host_rate(gpu: GpuSpec, slot: Slot) -> SourcedRate:
    """The CPU at the assumed host's memory bandwidth, or copies over the GPU's own link."""
    source = assumed("host_bandwidth_gb_s" if slot is Slot.HOST else "pcie_attained")
    attained = host_bytes_per_s() if slot is Slot.HOST else pcie_bytes_per_s(gpu.pcie_bytes_per_s)
    rate = KernelRate(0.0, 0.0, attained, assumed("host_tflops").value * TERA, 1.0)
    return SourcedRate(rate, source.kind, source.source)


def _slot_rate(gpu: Same[GpuSpec], engine_id: str, family: str, slot: Slot, topology: Topology) -> SourcedRate:
    if slot in COLLECTIVES:
        return collective_rate(gpu, engine_id, slot, topology)
    return _host_rate(gpu.value, slot) if slot in HOST_SLOTS else sourced_rate(gpu, engine_id, family)


@lru_cache(maxsize=8192)
def _rate_set(gpu: Same[GpuSpec], engine_id: str, families: tuple[str, ...], topology: Topology) -> RateSet:
    sourced = [_slot_rate(gpu, engine_id, families[slot], slot, topology) for slot in Slot]
    values = np.array([one.rate for one in sourced]).T
    values.setflags(write=False)
    return RateSet(values, families, tuple(one.kind for one in sourced), tuple(one.source for one in sourced))


def rates_for(gpu: GpuSpec, engine_id: str, families: tuple[str, ...], topology: Topology | None = None) -> RateSet:
    """Datasheet-level rates of a GPU in an engine for `kernel_families`. Raises as `check_interconnect` does.

    Generations without figures take those of the generation named in `efficiency.yaml`, marked as assumed.
    """
    topology = topology or Topology()
    check_interconnect(gpu, topology.interconnect)
    return _rate_set(Same(gpu), engine_id, families, topology)
