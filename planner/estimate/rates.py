"""Kernel rates of every row of a group: what kernels attain, and what the hardware would allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from planner.catalog import support as supports
from planner.catalog.calibrated import Asked, calibrated, residuals
from planner.catalog.formats import weight_format
from planner.catalog.host import Remaining, host_bytes_per_s, pcie_bytes_per_s, remaining
from planner.catalog.kernel_families import Attending, kernel_families
from planner.catalog.links import Topology
from planner.catalog.rates import RateSet, rates_for, stack
from planner.estimate.deployments import (
    Deployment,
    Deployments,
    Floats,
    Part,
    column,
    combinations,
    each,
    number_of_each,
    numbers,
)
from planner.estimate.kernels.attention import picked_attention, prompt_attention
from planner.estimate.kernels.experts import experts_family
from planner.estimate.kernels.routers import router_family
from planner.estimate.kernels.untuned import untuned_s
from planner.estimate.layout import GPUS_PER_NODE
from planner.estimate.resolve import ResolvedRow
from planner.formats import kernel_for, mixed_roles
from planner.identity import Same, distinct
from planner.ops import Slot
from planner.ops.products import groups
from planner.roofline import Rates, Residuals
from planner.specs.formats import FormatSpec, Level
from planner.specs.gpu import GpuSpec
from planner.specs.model import ModelSpec
from planner.units import GB

PACKED = "gguf-"  # families of llama.cpp's own types
HARD = 10.0  # exponent of a roofline without a soft corner
DECISIVE = frozenset({Slot.ATTENTION_GEMM, Slot.ATTENTION_OUT_GEMM, Slot.SSM_GEMM, Slot.MLP_GEMM, Slot.EXPERT_GEMM})


def rate_sets(deployments: Sequence[Deployment]) -> list[RateSet]:
    """Rates of the model's kernels in every row, with what they rest on."""
    return _rate_sets_of(deployments, lambda d: (d.row.model, d.row.weights))


def _rate_sets_of(
    deployments: Sequence[Deployment], parts: Callable[[Deployment], tuple[ModelSpec, FormatSpec]]
) -> list[RateSet]:
    """Rates of the model or of its drafter (`parts`), looked up once for equal GPUs, kernel families and links."""
    kernels = (Part.GPU, Part.WEIGHTS, Part.CACHE, Part.SUPPORT, Part.WORDS)
    families = each(deployments, lambda d: _families(d, *parts(d)), *kernels)
    topologies = each(deployments, _topology, Part.LAYOUT, Part.WORDS)
    read = Deployments.of(deployments)
    sources = (read.numbered(Part.GPU), read.numbered(Part.SOURCE))
    first, at = combinations([*sources, number_of_each(families), number_of_each(topologies)])
    sets = [_rate_set(deployments[i], parts(deployments[i])[0], families[i], topologies[i]) for i in first.tolist()]
    return [sets[index] for index in at.tolist()]


def draft_rate_sets(deployments: Sequence[Deployment]) -> list[RateSet]:
    """`rate_sets` of the draft model; empty where no model drafts."""
    draft = deployments[0].row.draft
    if draft is None or draft.model is None:
        return []
    drafts = draft.model, draft.weights
    return _rate_sets_of(deployments, lambda _: drafts)


def corrections(model_rates: Sequence[RateSet], draft_rates: Sequence[RateSet]) -> Residuals | None:
    """Residual tables of every row; a draft model's slots stand behind the model's own."""
    tables = residuals([*model_rates, *draft_rates])
    if tables is None or not draft_rates:
        return tables
    of_model, of_draft = tables.which[:, : len(model_rates)], tables.which[:, len(model_rates) :]
    return tables._replace(which=np.concatenate([of_model, of_draft]))


def rates(deployments: Sequence[Deployment], model_rates: Sequence[RateSet], draft_rates: Sequence[RateSet]) -> Rates:
    """Rates that the kernels of every row attain, (slots, R); a draft model's slots stand behind the model's own.

    From the rates of their families: less under a power limit and where copies share a card, with the host's memory
    and link in their slots, and with what the engine is known to attain otherwise.
    """
    attained = stack(model_rates)
    if draft_rates:
        attained = Rates(*(np.concatenate(pair) for pair in zip(attained, stack(draft_rates), strict=True)))
    attained = _limited(attained, deployments)
    _set_host_slots(attained.bytes_per_s, deployments)
    attained.k_s[: len(Slot)] += untuned_s(deployments)
    _scale_to_engine(attained, deployments, model_rates)
    return attained


def _limited(full: Rates, deployments: Sequence[Deployment]) -> Rates:
    """The rates under each row's power limit, divided among the copies that share a card."""
    copies = numbers(deployments, "copies_per_gpu", 1)
    on_gpu = np.arange(len(full.t0_s))[:, None] % len(Slot) < Slot.ALL_REDUCE
    compute, moved = (np.where(on_gpu, share, 1.0) / copies for share in _power_left(deployments))
    return full._replace(
        bytes_per_s=full.bytes_per_s * moved,
        flops_per_s=full.flops_per_s * compute,
        few_flops_per_s=full.few_flops_per_s * compute,
    )


def _set_host_slots(bytes_per_s: Floats, deployments: Sequence[Deployment]) -> None:
    """Put the CPU's memory and the link to it in their slots, the link only where a scenario states it."""
    copies = numbers(deployments, "copies_per_gpu", 1)
    link = pcie_bytes_per_s(numbers(deployments, "host_link_gb_s", np.nan) * GB) / copies
    bytes_per_s[Slot.HOST] = _host_bytes_per_s(deployments) / copies
    bytes_per_s[Slot.HOST_COPY] = np.where(np.isnan(link), bytes_per_s[Slot.HOST_COPY], link)


def _scale_to_engine(rates: Rates, deployments: Sequence[Deployment], model_rates: Sequence[RateSet]) -> None:
    """Scale, in place, what the engine attains less of than the families' figures say (`EngineSpec.attained`)."""
    shares = deployments[0].row.engine.attained
    rates.bytes_per_s[Slot.HOST_COPY] *= shares.copied_weights
    rates.flops_per_s[Slot.EXPERT_GEMM] *= shares.expert_arithmetic
    if shares.packed_arithmetic != 1:
        unpacks = column(deployments, lambda d: d.row.gpu.generation in shares.unpacks_on, Part.GPU, dtype=bool)
        kinds, at = distinct(model_rates)
        packed = np.array([[family.startswith(PACKED) for family in rate_set.families] for rate_set in kinds]).T[:, at]
        rates.flops_per_s[: len(packed)] *= np.where(packed & unpacks, shares.packed_arithmetic, 1.0)


def _power_left(deployments: Sequence[Deployment]) -> Remaining:
    """Shares of the full rates that each row's power limit leaves."""
    tdp = column(deployments, lambda d: d.row.gpu.tdp_w or np.nan, Part.GPU)
    return remaining(numbers(deployments, "power_limit_w", np.nan), tdp)


def _host_bytes_per_s(deployments: Sequence[Deployment]) -> Floats:
    """What the CPU attains of the stated memory bandwidth; unified memory is the GPU's own."""

    def attained(d: Deployment) -> Any:
        own = d.row.gpu.bandwidth_bytes_per_s / GB if d.row.gpu.unified_memory else None
        return host_bytes_per_s(d.row.scenario.host_bandwidth_gb_s or own)

    return np.asarray(column(deployments, attained, Part.GPU, Part.WORDS))


def kernel_level(row: ResolvedRow) -> Level:
    """How the engine multiplies the weights; where no source says it, how the hardware could."""
    return _known(row.support.level, row.weights, row.gpu)


def _known(stated: Level, weights: FormatSpec, gpu: GpuSpec) -> Level:
    return supports.support(weights, supports.OWN_RUNNER, gpu).level if stated is Level.UNKNOWN else stated


@lru_cache(maxsize=256)
def _used_slots(model: Same[ModelSpec]) -> frozenset[Slot]:
    """Slots that decide a step's time: the large products, and reading the cache."""
    return frozenset(group.slot for group in groups(model.value)) & DECISIVE | {Slot.DECODE}


def _families(d: Deployment, model: ModelSpec, weights: FormatSpec) -> tuple[str, ...]:
    kernel = kernel_for(weights, kernel_level(d.row))
    attending = Attending(d.row.engine.attention_kernels.shared_heads, prompt_attention(d))
    beside = tuple((role, _kernel_of(d, weight_format(name))) for role, name in mixed_roles(model, weights))
    by_slot = list(kernel_families(model, weights, kernel, d.row.kv[0], attending, beside))
    by_slot[Slot.GATHER] = picked_attention(d.row.engine, d.row.gpu, by_slot[Slot.GATHER])
    by_slot[Slot.EXPERT_GEMM] = experts_family(d.row.engine, model, d.row.gpu, by_slot[Slot.EXPERT_GEMM])
    by_slot[Slot.ROUTER_GEMM] = router_family(d.row.engine, model, d.row.gpu, by_slot[Slot.ROUTER_GEMM])
    return tuple(by_slot)


def _kernel_of(d: Deployment, weights: FormatSpec) -> str:
    stated = supports.support(weights, d.row.engine.id, d.row.gpu).level
    return kernel_for(weights, _known(stated, weights, d.row.gpu))


def _topology(d: Deployment) -> Topology:
    nodes = d.row.scenario.gpus_per_node or GPUS_PER_NODE
    return Topology(d.layout.tp, d.layout.defined.attention_dp, nodes, d.row.scenario.interconnect)


def _rate_set(d: Deployment, model: ModelSpec, families: tuple[str, ...], topology: Topology) -> RateSet:
    if d.row.source is None:
        return rates_for(d.row.gpu, d.row.engine.kernels, families, topology)
    asked = Asked(d.row.gpu, d.row.engine.kernels, families, topology, _used_slots(Same(model)))
    return calibrated(d.row.source, asked)


def peaks(deployments: Sequence[Deployment], rates: Rates) -> Rates:
    """The hardware's own limits in the places of kernels: datasheet bandwidth, the highest dense rate, no start-up.

    Links and the host keep their rates without latency.
    """
    on_gpu = np.arange(len(rates.t0_s))[:, None] % len(Slot) < Slot.ALL_REDUCE
    bandwidth = column(deployments, lambda d: d.row.gpu.bandwidth_bytes_per_s, Part.GPU)
    dense = column(deployments, lambda d: max(d.row.gpu.flops_per_s.values(), default=np.inf), Part.GPU)
    none, one = np.zeros_like(rates.t0_s), np.ones_like(rates.t0_s)
    moved, computed = np.where(on_gpu, bandwidth, rates.bytes_per_s), np.where(on_gpu, dense, np.inf)
    return Rates(none, none, moved, computed, HARD * one, none, none, none, none, one, one, one)
