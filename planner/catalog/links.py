"""How the GPUs of a replica are connected, and what collectives attain on their links: planner/data/efficiency.yaml."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from planner.catalog.efficiency import MICRO, KernelRate, SourcedRate, efficiency, is_half_rate
from planner.collectives import hierarchical_bytes_per_s
from planner.errors import BadValue
from planner.identity import Same
from planner.ops import Slot
from planner.specs.base import Kind
from planner.specs.gpu import GpuSpec, uses_link
from planner.units import GB

INTERCONNECTS = ("nvlink", "pcie")


class Topology(NamedTuple):
    """How the GPUs of one replica are connected; scalars of one scenario."""

    tp: int = 1
    attention_dp: int = 1
    gpus_per_node: int = 8
    interconnect: str | None = None  # nvlink | pcie; None: NVLink where the GPU has it


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
def collective_rate(gpu: Same[GpuSpec], engine_id: str, slot: Slot, topology: Topology) -> SourcedRate:
    """A collective of the tensor-parallel group; past one node the network carries its share."""
    data = efficiency()
    name, link, joins = _ways(gpu.value, topology)
    network, spans = data["network"], topology.tp > joins
    if slot is Slot.SEND:
        send = data["send"] | data["engine_send"].get(engine_id.partition("/")[0], {})
        rate = KernelRate(0.0, 0.0, link * send["fraction"], 1.0, 1.0, latency_s=send["latency_us"] * MICRO)
        return SourcedRate(rate, Kind(send["kind"]), data["sources"].get(send["source"], send["source"]))
    entry = data["collectives"][name]
    table = _collective_table(name, engine_id, slot)
    start, fraction, p = _between(table, min(topology.tp, joins))
    outside = network["gb_per_s"] * GB * network["fraction"]
    attained = float(hierarchical_bytes_per_s(topology.tp, joins, link * fraction, outside))
    latency = (start + (network["latency_us"] if spans else 0)) * MICRO
    kind = Kind.ASSUMED if spans else Kind(entry["kind"])
    rate = KernelRate(0.0, 0.0, attained, 1.0, p, latency_s=latency)
    return SourcedRate(rate, kind, data["sources"][entry["source"]])
