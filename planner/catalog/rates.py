"""Kernel rates of a GPU: datasheet peaks times the typical efficiency of its generation.

    families = kernel_families(model, fmt, kernel, kv_format)     # which kernel serves which slot: `kernel_families`
    rate_set = rates_for(gpu, engine_id, families, topology)      # one scenario
    rates = stack(rate_sets)                                      # many, for `planner.roofline`

A RateSet is the one record that the time model takes: fits to published operators and calibrations of one's
own GPU are other sources of the same record, with another `evidence`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from planner.catalog.files import read_yaml
from planner.catalog.host import assumed, host_bytes_per_s, pcie_bytes_per_s
from planner.catalog.paths import data_dir
from planner.collectives import hierarchical_bytes_per_s
from planner.errors import BadValue
from planner.formats.identity import Same, distinct
from planner.ops import Slot
from planner.roofline import Rates
from planner.specs.base import Kind, Spec
from planner.specs.calibration import ResidualTable
from planner.specs.gpu import GpuSpec, MathType, uses_link
from planner.units import GB

MICRO, NANO, TERA = 1e-6, 1e-9, 1e12
K_STEP = 1024.0  # input features that `k_ns` counts
INTERCONNECTS = ("nvlink", "pcie")
COLLECTIVES = (Slot.ALL_REDUCE, Slot.ALL_GATHER, Slot.ALL_TO_ALL, Slot.SEND)
HOST_SLOTS = (Slot.HOST, Slot.HOST_COPY)


class Evidence(StrEnum):
    """Where a set of rates comes from, best first."""

    MEASURED = "measured"
    REFERENCE = "reference"
    DATASHEET = "datasheet"


class Figures(Spec):
    """What one kernel family attains on one generation, as fractions of the datasheet."""

    t0_us: Annotated[float, Field(ge=0, le=1e5)]  # launch and tail
    k_ns: Annotated[float, Field(ge=0, le=1e5)] = 0  # per K_STEP input features
    memory: Annotated[float, Field(gt=0, le=1)]  # of the bandwidth
    math: Annotated[float, Field(gt=0, le=1.2)]  # of the dense rate of the family's operands
    p: Annotated[float, Field(ge=0.3, le=10)] = 1  # sharpness of the turn from memory to arithmetic
    of: MathType | None = None  # what `math` is a fraction of, where it is not the family's operand type
    k0: Annotated[float, Field(ge=0, le=1e4)] = 0  # inner length at which half of the arithmetic is start-up
    quantize: Annotated[float, Field(ge=0, le=8)] = 0  # bytes moved per input value to quantize it first
    few: Annotated[float, Field(ge=0, le=256)] = 0  # rows per matrix up to which a kernel of vectors runs ...
    few_math: Annotated[float, Field(gt=0, le=1.2)] = 1  # ... and what that attains of the dense rate
    tile: Annotated[float, Field(ge=1, le=256)] = 1  # rows in which the other kernel does its arithmetic
    spare: Annotated[float, Field(ge=1, le=16)] = 1  # most waste of half-empty tiles, times what they hold
    kind: Kind = Kind.ASSUMED
    source: str = "guess"


class Topology(NamedTuple):
    """How the GPUs of one replica stand to each other; scalars of one scenario."""

    tp: int = 1
    attention_dp: int = 1
    gpus_per_node: int = 8
    interconnect: str | None = None  # nvlink | pcie; None: NVLink where the GPU has it


class KernelRate(NamedTuple):
    """The fields of `roofline.Rates` for one slot of one scenario."""

    t0_s: float
    k_s: float
    bytes_per_s: float
    flops_per_s: float
    p: float
    k0: float = 0.0
    quantize_bytes: float = 0.0
    latency_s: float = 0.0
    few_rows: float = 0.0
    few_flops_per_s: float = 1.0
    tile_rows: float = 1.0
    tile_spare: float = 1.0


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


@lru_cache(maxsize=1)
def efficiency() -> dict[str, Any]:
    """What kernels attain, as `efficiency.yaml` has it: by generation, engine and family, with the sources."""
    return dict(read_yaml(data_dir() / "efficiency.yaml"))


def family_ids() -> tuple[str, ...]:
    """Kernel families that can be priced."""
    data = efficiency()
    return tuple({**data["generations"]["custom"], **data["substitutes"]})


def _engine_places(names: Sequence[str], engine_id: str) -> Iterator[dict[str, Any]]:
    """Figures of a back-end (`llama.cpp/vulkan`) come before those of its engine."""
    for built in dict.fromkeys((engine_id, engine_id.partition("/")[0])):
        kernels = efficiency()["engines"].get(built, {})
        for name in (*names, "default"):
            while name in kernels:
                yield kernels[name]
                name = kernels[name].get("like", "")


def _generation_places(name: str) -> Iterator[dict[str, Any]]:
    generations = efficiency()["generations"]
    while name:
        yield generations.get(name, {"like": "custom"})
        name = generations.get(name, {"like": "custom"}).get("like", "")


@lru_cache(maxsize=8192)
def figures(generation: str, geforce: bool, engine_id: str, family: str) -> Figures:
    """What `family` attains on a generation in an engine; inherited or substituted figures are assumed."""
    half = f"{generation}-geforce"
    names = [half, generation] if geforce and half in efficiency()["generations"] else [generation]
    while True:
        for place in _engine_places(names, engine_id):
            if family in place:
                return Figures(**place[family])
        for depth, place in enumerate(_generation_places(names[0])):
            if family in place:
                found = Figures(**place[family])
                return found if depth == 0 else found.model_copy(update={"kind": Kind.ASSUMED})
        family = efficiency()["substitutes"][family]


def _peak(gpu: GpuSpec, math_type: str) -> tuple[float, bool]:
    """Dense rate of an operand type, and whether the profile states it; else derived from one that it states."""
    known: Mapping[Any, float] = gpu.flops_per_s
    if math_type in known:
        return known[math_type], True
    for other, factor in efficiency()["rate_rules"][math_type]:
        if other in known:
            return known[other] * factor, False
    return gpu.bandwidth_bytes_per_s * efficiency()["flops_per_byte"]["value"], False


def is_half_rate(gpu: GpuSpec) -> bool:
    """Whether the card's matrix units accumulate in FP32 at half their rate, as GeForce cards do."""
    known = gpu.flops_per_s
    matrix = known.get(MathType.BF16) or known.get(MathType.FP16)
    vector = known.get(MathType.FP32)
    return bool(matrix and vector and matrix < efficiency()["half_rate"]["ratio"] * vector)


@lru_cache(maxsize=8192)
def _kernel_rate(same: Same[GpuSpec], engine_id: str, family: str) -> tuple[KernelRate, Kind, str]:
    gpu = same.value
    found = figures(gpu.generation, is_half_rate(gpu), engine_id, family)
    peak, stated = _peak(gpu, efficiency()["peaks"].get(family, efficiency()["other_peak"]))
    full, stated = _peak(gpu, found.of) if found.of else (peak, stated)
    checked = efficiency()["inline_ecc"].get(engine_id.partition("/")[0], 1) if gpu.inline_ecc else 1
    rate = KernelRate(
        found.t0_us * MICRO,
        found.k_ns * NANO / K_STEP,
        found.memory * checked * usable_bandwidth_bytes_per_s(gpu),
        found.math * full,
        found.p,
        found.k0,
        found.quantize,
        few_rows=found.few,
        few_flops_per_s=found.few_math * peak,
        tile_rows=found.tile,
        tile_spare=found.spare,
    )
    return rate, found.kind if stated else Kind.ASSUMED, efficiency()["sources"].get(found.source, found.source)


def kernel_rate(gpu: GpuSpec, engine_id: str, family: str) -> KernelRate:
    """The datasheet-level rate of one kernel family on a GPU in an engine."""
    return _kernel_rate(Same(gpu), engine_id, family)[0]


def _host_rate(gpu: GpuSpec, slot: Slot) -> tuple[KernelRate, Kind, str]:
    """The CPU at the assumed host's memory bandwidth, or copies over the GPU's own link."""
    source = assumed("host_bandwidth_gb_s" if slot is Slot.HOST else "pcie_attained")
    attained = host_bytes_per_s() if slot is Slot.HOST else pcie_bytes_per_s(gpu.pcie_bytes_per_s)
    return KernelRate(0.0, 0.0, attained, assumed("host_tflops").value * TERA, 1.0), source.kind, source.source


# Collectives.


def check_interconnect(gpu: GpuSpec, interconnect: str | None) -> None:
    """Raises BadValue for an unknown interconnect, and for a link that the GPU does not have."""
    if interconnect not in (None, *INTERCONNECTS):
        raise BadValue(f"interconnect {str(interconnect)[:40]!r}: expected one of {', '.join(INTERCONNECTS)}")
    if interconnect == "nvlink" and not gpu.link_bytes_per_s:
        raise BadValue(f"interconnect 'nvlink': the profile of {gpu.id} has no such link; choose pcie")


class _Ways(NamedTuple):
    """How a group exchanges: kind of link, bytes/s of a GPU on it, how many GPUs it joins before the network."""

    name: str
    bytes_per_s: float
    joins: int


def _ways(gpu: GpuSpec, topology: Topology) -> _Ways:
    """The GPUs' own link where it joins the whole group of a node, else PCIe: through host memory for GeForce."""
    data = efficiency()
    inside, reach = min(topology.tp, topology.gpus_per_node), gpu.link_gpus or topology.gpus_per_node
    if gpu.link_bytes_per_s and uses_link(gpu.link_apart, topology.interconnect) and reach >= inside:
        name = str(data["links"].get(gpu.generation, "fabric"))
        return _Ways(name, gpu.link_bytes_per_s, max(topology.gpus_per_node, reach))
    attained = gpu.pcie_bytes_per_s or data["pcie_gb_per_s"]["value"] * GB
    through_host = is_half_rate(gpu) and gpu.generation in data["without_peers"]
    return _Ways("pcie-host" if through_host else "pcie", attained, topology.gpus_per_node)


def _between(table: dict[int, list[float]], n: float) -> tuple[float, float, float]:
    """Start-up, fraction and p for n GPUs, linear in log2 n, held beyond the ends."""
    sizes = sorted(table)
    at = [math.log2(size) for size in sizes]
    columns = zip(*(table[size] for size in sizes), strict=True)
    start, fraction, p = (float(np.interp(math.log2(max(n, 2)), at, column)) for column in columns)
    return start, fraction, p


def _collective_table(name: str, engine_id: str, slot: Slot) -> dict[int, list[float]]:
    """Start-up, fraction and p by number of GPUs: the engine's own all-reduce where it brings one along."""
    data = efficiency()
    own = data["engine_all_reduce"].get(engine_id, {}) if slot is Slot.ALL_REDUCE else {}
    return dict(own.get(name) or data["collectives"][name][slot.name.lower()])


@lru_cache(maxsize=8192)
def _collective_rate(
    gpu: Same[GpuSpec], engine_id: str, slot: Slot, topology: Topology
) -> tuple[KernelRate, Kind, str]:
    """A collective of the tensor-parallel group; past one node the network carries its share."""
    data = efficiency()
    name, link, joins = _ways(gpu.value, topology)
    network, spans = data["network"], topology.tp > joins
    if slot is Slot.SEND:
        send = data["send"] | data["engine_send"].get(engine_id.partition("/")[0], {})
        rate = KernelRate(0.0, 0.0, link * send["fraction"], 1.0, 1.0, latency_s=send["latency_us"] * MICRO)
        return rate, Kind(send["kind"]), data["sources"].get(send["source"], send["source"])
    entry = data["collectives"][name]
    table = _collective_table(name, engine_id, slot)
    start, fraction, p = _between(table, min(topology.tp, joins))
    outside = network["gb_per_s"] * GB * network["fraction"]
    attained = float(hierarchical_bytes_per_s(topology.tp, joins, link * fraction, outside))
    latency = (start + (network["latency_us"] if spans else 0)) * MICRO
    kind = Kind.ASSUMED if spans else Kind(entry["kind"])
    return KernelRate(0.0, 0.0, attained, 1.0, p, latency_s=latency), kind, data["sources"][entry["source"]]


def _slot_rate(
    gpu: Same[GpuSpec], engine_id: str, family: str, where: tuple[Slot, Topology]
) -> tuple[KernelRate, Kind, str]:
    slot, topology = where
    if slot in COLLECTIVES:
        return _collective_rate(gpu, engine_id, slot, topology)
    return _host_rate(gpu.value, slot) if slot in HOST_SLOTS else _kernel_rate(gpu, engine_id, family)


@lru_cache(maxsize=8192)
def _rate_set(gpu: Same[GpuSpec], engine_id: str, families: tuple[str, ...], topology: Topology) -> RateSet:
    found = [_slot_rate(gpu, engine_id, families[slot], (slot, topology)) for slot in Slot]
    values = np.array([rate for rate, _, _ in found]).T
    values.setflags(write=False)
    return RateSet(values, families, tuple(kind for _, kind, _ in found), tuple(source for _, _, source in found))


def rates_for(gpu: GpuSpec, engine_id: str, families: tuple[str, ...], topology: Topology | None = None) -> RateSet:
    """Datasheet-level rates of a GPU in an engine for `kernel_families`. Raises as `check_interconnect` does.

    Generations without figures take those of the generation named in `efficiency.yaml`, marked as assumed.
    """
    topology = topology or Topology()
    check_interconnect(gpu, topology.interconnect)
    return _rate_set(Same(gpu), engine_id, families, topology)


def usable_bandwidth_bytes_per_s(gpu: GpuSpec) -> float:
    """The datasheet's bandwidth, less what a card of half the usual power does not use of it."""
    return float(gpu.bandwidth_bytes_per_s * efficiency()["low_power"].get(gpu.id, 1))


def peak_rates(gpu: GpuSpec, family: str) -> tuple[float, float]:
    """Datasheet bandwidth in bytes/s and dense rate in FLOP/s that bound a kernel family on a GPU."""
    return gpu.bandwidth_bytes_per_s, _peak(gpu, efficiency()["peaks"].get(family, efficiency()["other_peak"]))[0]


def has_own_figures(gpu: GpuSpec, engine_id: str, family: str) -> bool:
    """Whether an engine runs this family with kernels of its own."""
    place = gpu.generation, is_half_rate(gpu)
    return figures(*place, engine_id, family) != figures(*place, "", family)
