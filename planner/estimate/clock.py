"""The clock of a group: what a step of every row runs, and how long the GPU, the host and the engine take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from planner import memory
from planner.catalog import support as supports
from planner.catalog.calibrated import Asked, calibrated, residuals
from planner.catalog.host import Remaining, host_bytes_per_s, pcie_bytes_per_s, remaining
from planner.catalog.rates import RateSet, Topology, kernel_families, rates_for, stack
from planner.collectives import p_norm
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
    parallel,
)
from planner.estimate.drafting import draft_ops
from planner.estimate.experts import experts_family
from planner.estimate.factors import NOT_REFINED, Refined
from planner.estimate.fusing import on_matrix_units, scores, wide_heads
from planner.estimate.hosting import host_share
from planner.estimate.launches import NO_LAUNCHES, QUANTIZED, Launches, launches
from planner.estimate.layout import GPUS_PER_NODE
from planner.estimate.merging import APART, Merging, merging
from planner.estimate.price import HALF_BYTES, captured, draft_columns, kv_widths
from planner.estimate.resolve import Row
from planner.formats import kernel_for
from planner.formats.identity import Same
from planner.memory import MemoryInputs
from planner.ops import (
    Batch,
    HostShare,
    Op,
    OpKind,
    Prepared,
    Ranks,
    Slot,
    Unfused,
    Widths,
    adapter_op,
    batch_ops,
    placed,
    prepare,
)
from planner.ops.products import groups
from planner.roofline import Rates, Residuals, step_seconds
from planner.specs.engine import EngineSpec
from planner.specs.formats import FormatSpec, Level
from planner.specs.gpu import GpuSpec
from planner.specs.model import ModelSpec
from planner.units import GB

TINY = 1e-9  # tokens
PACKED = "gguf-"  # families of llama.cpp's own types
HARD = 10.0  # exponent of a roofline without a soft corner
SOFT = 2.0  # of the GPU's time and its host's, which hide in each other in part
DECISIVE = frozenset({Slot.ATTENTION_GEMM, Slot.SSM_GEMM, Slot.MLP_GEMM, Slot.EXPERT_GEMM})


def rate_sets(deployments: Sequence[Deployment]) -> list[RateSet]:
    """The kernels' rates of every row and what they rest on; the draft model's are not among them."""
    return _rate_sets_of(deployments, lambda d: (d.row.model, d.row.weights))


def _rate_sets_of(
    deployments: Sequence[Deployment], parts: Callable[[Deployment], tuple[ModelSpec, FormatSpec]]
) -> list[RateSet]:
    """Rates of one part of every deployment, found once for each GPU, its kernels and how it is joined to others."""
    kernels = (Part.GPU, Part.WEIGHTS, Part.CACHE, Part.SUPPORT, Part.WORDS)
    families = each(deployments, lambda d: _families(d, *parts(d)), *kernels)
    topologies = each(deployments, _topology, Part.LAYOUT, Part.WORDS)
    read = Deployments.of(deployments)
    sources = (read.numbered(Part.GPU), read.numbered(Part.SOURCE))
    first, at = combinations([*sources, number_of_each(families), number_of_each(topologies)])
    found = [_rate_set(deployments[i], parts(deployments[i])[0], families[i], topologies[i]) for i in first.tolist()]
    return [found[index] for index in at.tolist()]


def _draft_rate_sets(deployments: Sequence[Deployment]) -> list[RateSet]:
    draft = deployments[0].row.draft
    if draft is None or draft.model is None:
        return []
    drafts = draft.model, draft.weights
    return _rate_sets_of(deployments, lambda _: drafts)


def corrections(own: Sequence[RateSet], drafts: Sequence[RateSet]) -> Residuals | None:
    """Residual tables of every row, those of the draft model's slots behind the model's own."""
    found = residuals([*own, *drafts])
    if found is None or not drafts:
        return found
    mine, theirs = found.which[:, : len(own)], found.which[:, len(own) :]
    return found._replace(which=np.concatenate([mine, theirs]))


def rates(deployments: Sequence[Deployment], own: Sequence[RateSet], drafts: Sequence[RateSet]) -> Rates:
    """Kernel rates of every row; copies that share a card share its bandwidth and arithmetic."""
    found = stack(own)
    if drafts:
        found = Rates(*(np.concatenate(pair) for pair in zip(found, stack(drafts), strict=True)))
    copies = numbers(deployments, "copies_per_gpu", 1)
    left = _power_left(deployments)
    on_gpu = np.arange(len(found.t0_s))[:, None] % len(Slot) < Slot.ALL_REDUCE
    compute, moved = (np.where(on_gpu, share, 1.0) / copies for share in left)
    found = found._replace(
        bytes_per_s=found.bytes_per_s * moved,
        flops_per_s=found.flops_per_s * compute,
        few_flops_per_s=found.few_flops_per_s * compute,
    )
    found.bytes_per_s[Slot.HOST] = _host_bytes_per_s(deployments) / copies
    link = pcie_bytes_per_s(numbers(deployments, "host_link_gb_s", np.nan) * GB) / copies
    found.bytes_per_s[Slot.HOST_COPY] = np.where(np.isnan(link), found.bytes_per_s[Slot.HOST_COPY], link)
    overheads = deployments[0].row.engine.overheads
    found.bytes_per_s[Slot.HOST_COPY] *= overheads.copied_weights
    found.flops_per_s[Slot.EXPERT_GEMM] *= overheads.expert_arithmetic
    if overheads.packed_arithmetic != 1:
        unpacked = column(deployments, lambda d: d.row.gpu.generation in overheads.unpacks, Part.GPU, dtype=bool)
        packed = np.array([[family.startswith(PACKED) for family in rate_set.families] for rate_set in own]).T
        found.flops_per_s[: len(packed)] *= np.where(packed & unpacked, overheads.packed_arithmetic, 1.0)
    return found


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


def kernel_level(row: Row) -> Level:
    """How the weights are multiplied; where no source says what the engine does, as the hardware would."""
    stated = row.support.level
    return supports.support(row.weights, supports.OWN_RUNNER, row.gpu).level if stated is Level.UNKNOWN else stated


@lru_cache(maxsize=256)
def _used_slots(model: Same[ModelSpec]) -> frozenset[Slot]:
    """Slots that decide a step's time: the large products, and reading the cache."""
    return frozenset(group.slot for group in groups(model.value)) & DECISIVE | {Slot.DECODE}


def _families(d: Deployment, model: ModelSpec, weights: FormatSpec) -> tuple[str, ...]:
    kernel = kernel_for(weights, kernel_level(d.row))
    shared = d.row.engine.overheads.shared_heads
    found = list(kernel_families(model, weights, kernel, d.row.kv[0], shared, on_matrix_units(d)))
    found[Slot.EXPERT_GEMM] = experts_family(d.row.engine, model, d.row.gpu, found[Slot.EXPERT_GEMM])
    return tuple(found)


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


class Clock(NamedTuple):
    """What prices a step of every row: operations on the accelerator, then the engine's own time."""

    prepared: Prepared
    rates: Rates
    engine: EngineSpec
    host: HostShare | None = None
    draft: Prepared | None = None
    draft_tokens: Any = 0.0
    adapters: Adapters | None = None
    residuals: Residuals | None = None
    rate_sets: Sequence[RateSet] = ()  # what the rates of every row rest on
    graph_batch: Any = np.inf  # largest batch that a CUDA graph replays
    launches: Launches = NO_LAUNCHES
    peaks: Rates | None = None  # of the hardware, as rates
    refined: Refined = NOT_REFINED  # factors on steps, arrays (R,)
    merging: Merging = APART
    replays: Any = True  # whether the GPU has such graphs; where it has none, start-up is of launched kernels

    def ops(self, batch: Batch) -> list[Op]:
        """Everything that a step runs: the model, its adapters, what the host does of it, and the drafts."""
        found = self.merging.merged(batch_ops(self.prepared, batch), batch)
        if self.adapters is not None:
            tokens = batch.decode_seqs * self.prepared.decode_tokens + batch.prefill_tokens
            work = (tokens, batch.decode_seqs + batch.prefill_seqs)
            found.append(adapter_op(self.adapters.values, self.adapters.products, self.adapters[2:], work))
        if self.host is not None:
            found = placed(found, self.host, self.prepared.widths.activation)
        return found if self.draft is None else found + draft_ops(self.draft, batch, self.draft_tokens)

    def is_launched(self, batch: Batch) -> Any:
        """Whether the host launches the kernels of a step one by one, because no CUDA graph replays them."""
        graphs, tokens = self.engine.overheads.graphs, np.asarray(batch.decode_seqs + batch.prefill_tokens)
        prefills = np.asarray(batch.prefill_tokens) > 0
        eager = (graphs == "none") | (prefills & (graphs == "decode")) | ((tokens > 1) & (graphs == "single"))
        return eager | (tokens > self.graph_batch)

    def launch_s(self, batch: Batch) -> Any:
        """Seconds in which the host launches the kernels of such a step, else those of its prompts between graphs."""
        prompts = np.asarray(batch.prefill_tokens)
        by_hand_s = np.where(prompts > 0, self.launches.prompt_s(prompts), self.launches.decode_s)
        between_s = self.launches.between_s * (prompts > 0)
        return np.where(self.is_launched(batch), self.engine.overheads.launch_s + by_hand_s, between_s)

    def gap_s(self, batch: Batch, ops: Sequence[Op]) -> Any:
        """Seconds by which kernels of such a step start later than those that a graph replays, else 0."""
        factor = self.engine.overheads.start_factor
        if factor == 1:
            return 0.0
        starts_s = sum(op.count * self.rates.t0_s[op.rate] for op in ops)
        later = self.is_launched(batch) & (self.replays | (self.engine.overheads.graphs == "none"))
        return np.where(later, (factor - 1) * starts_s, 0.0)

    def experts_s(self, ops: Sequence[Op]) -> Any:
        """Seconds that the host takes to choose experts and to start them one after another, else 0."""
        fixed, experts = self.engine.overheads, [op for op in ops if op.kind is OpKind.MOE]
        if not (fixed.per_expert_s or fixed.router_s or fixed.routed_row_s):
            return 0.0
        found = sum(
            op.count * (fixed.per_expert_s * op.matrices + fixed.router_s + fixed.routed_row_s * op.m) for op in experts
        )
        return np.where(self.replays, found, 0.0)

    def hosted_s(self, ops: Sequence[Op]) -> Any:
        """Seconds in which neither works, where the CPU runs experts between products of the GPU."""
        return self.engine.overheads.host_expert_s * sum(
            op.count * np.sign(op.m) for op in ops if op.kind is OpKind.MOE and op.rate is Slot.HOST
        )

    def engine_s(self, batch: Batch, ops: Sequence[Op], accelerator_s: Floats) -> Any:
        """Seconds of a step of `ops` in which the accelerator waits: for scheduling, sampling and late launches."""
        fixed = self.engine.overheads
        sequences = fixed.per_sequence_s * batch.decode_seqs
        per_rank = batch.decode_seqs / self.prepared.parallel.attention_dp
        beside_s = self.launch_s(batch) + fixed.host_sequence_s * per_rank
        if fixed.stage_sequence_s:
            stages = np.asarray(self.prepared.parallel.pp)
            planned_s = np.where(stages > 1, fixed.stage_sequence_s * per_rank * stages, 0.0)
            beside_s = np.maximum(beside_s, p_norm(accelerator_s, planned_s, SOFT))
        both_s = np.maximum(accelerator_s, beside_s)
        if fixed.prompts_hide:
            hidden_s = p_norm(accelerator_s, beside_s, fixed.prompts_hide)
            both_s = np.where(np.asarray(batch.prefill_tokens) > 0, hidden_s, both_s)
        late_s = both_s - accelerator_s + self.gap_s(batch, ops) + self.experts_s(ops)
        ranks_s = fixed.rank_s * (np.asarray(self.prepared.parallel.tp) - 1)
        return fixed.step_s + ranks_s + sequences + late_s + self.hosted_s(ops)

    def floor_s(self, batch: Batch) -> Floats:
        """Seconds below which no engine runs the step: bytes at full bandwidth, products at the highest rate."""
        assert self.peaks is not None
        return step_seconds(self.ops(batch), self.peaks)

    @property
    def is_refined(self) -> bool:
        """Whether observations change any row."""
        return bool(np.any(self.refined.observations))

    def factor(self, batch: Batch) -> Any:
        """What observations of this engine on this GPU put on the step, decodes and prompts by their tokens."""
        prompts = batch.prefill_tokens / np.maximum(batch.prefill_tokens + batch.decode_seqs, TINY)
        return self.refined.prefill**prompts * self.refined.decode ** (1 - prompts)

    def step_s(self, batch: Batch) -> Floats:
        """Seconds of the whole step, (R,); where observations refine it, not below the hardware's limit."""
        ops = self.ops(batch)
        accelerator_s = step_seconds(ops, self.rates, self.residuals)
        found = np.asarray(accelerator_s + self.engine_s(batch, ops, accelerator_s))
        if not self.is_refined:
            return found
        return np.asarray(np.maximum(found * self.factor(batch), np.minimum(self.floor_s(batch), found)))


def _replays(gpu: GpuSpec, engine: EngineSpec) -> bool:
    """Whether CUDA graphs replay steps on this GPU; where none do, its figures are of launched kernels."""
    return gpu.vendor == "NVIDIA" and gpu.generation not in engine.overheads.graphless


def refined_columns(deployments: Sequence[Deployment]) -> Refined:
    """What observations say of every row, as arrays."""
    return Refined(*(column(deployments, attrgetter(f"row.refined.{name}"), Part.REFINED) for name in Refined._fields))


class Adapters(NamedTuple):
    """Low-rank adapters: values of a rank-1 adapter on one GPU, the products beside which they run, slots, rank."""

    values: Any
    products: int
    slots: Any
    rank: Any


def _adapters(engine: EngineSpec, model: ModelSpec, inputs: MemoryInputs) -> Adapters | None:
    slots, rank = inputs.settings.lora_slots, inputs.settings.lora_rank
    if not np.any(slots):
        return None
    adapted = memory.adapted_tensors(model, engine)
    values = sum((memory.adapter_values(tensor, inputs) for tensor in adapted), np.zeros(1))
    runs = {(tensor.op, layer) for tensor in adapted for layer in tensor.layers}
    return Adapters(values, len(runs), slots, rank)


def _dispatch(deployments: Sequence[Deployment]) -> Floats:
    """Bytes per value of tokens sent to experts: engines quantize first what the experts multiply in 8 or 4 bit."""
    return np.asarray(
        column(
            deployments,
            lambda d: QUANTIZED.get(kernel_for(d.row.weights, kernel_level(d.row)), HALF_BYTES),
            *(Part.WEIGHTS, Part.SUPPORT, Part.GPU),
        )
    )


def clock(engine: EngineSpec, deployments: Sequence[Deployment], inputs: MemoryInputs) -> Clock:
    """The step clock of rows that share a model, an engine and a drafter."""
    k, v, _ = kv_widths(deployments)
    row, split, drafted = deployments[0].row, parallel(deployments), inputs.settings.draft_tokens
    own, drafts = rate_sets(deployments), _draft_rate_sets(deployments)
    held = Widths(
        *(inputs.tensor_bytes, k, v),
        scores=scores(deployments),
        wide_heads=wide_heads(engine, deployments),
        dispatch=_dispatch(deployments),
    )
    ranks = Ranks(frozenset(engine.attention_dp_roles), engine.tokens_gathered)
    unfused = Unfused(engine.overheads.state_kernels, engine.overheads.state_passes)
    prepared = prepare(row.model, held, split, engine.cache.latent_prompts, ranks, unfused)
    attained = rates(deployments, own, drafts)
    found = Clock(
        prepared._replace(decode_tokens=1.0 + drafted if row.draft else 1.0),
        attained,
        engine,
        host_share(deployments, inputs),
        draft_tokens=drafted,
        adapters=_adapters(engine, row.model, inputs),
        residuals=corrections(own, drafts),
        rate_sets=own,
        graph_batch=captured(inputs),
        launches=launches(engine, deployments, own),
        peaks=peaks(deployments, attained),
        refined=refined_columns(deployments),
        merging=merging(engine, deployments),
        replays=column(deployments, lambda d: _replays(d.row.gpu, engine), Part.GPU, dtype=bool),
    )
    if row.draft is None or row.draft.model is None:
        return found
    return found._replace(
        draft=prepare(row.draft.model, Widths(draft_columns(deployments), k, v), split._replace(pp=1.0))
    )
