"""The clock of a group: what a step of every row runs, and how long the GPU, the host and the engine take."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from planner import memory
from planner.catalog.rates import RateSet
from planner.collectives import p_norm
from planner.estimate.capacity import captured
from planner.estimate.deployments import (
    Deployment,
    Floats,
    Part,
    column,
    parallel,
)
from planner.estimate.drafting import draft_ops
from planner.estimate.factors import NOT_REFINED, Refined
from planner.estimate.hosting import host_share
from planner.estimate.kernels.attention import general_kernel, scores, sink_cost
from planner.estimate.kernels.launches import NO_LAUNCHES, QUANTIZED, Launches, launches
from planner.estimate.kernels.merged import APART, Merging, merging
from planner.estimate.memory_plans import draft_columns, kv_widths
from planner.estimate.rates import corrections, draft_rate_sets, kernel_level, peaks, rate_sets, rates
from planner.formats import HALF_BYTES, kernel_for
from planner.memory import MemoryInputs
from planner.ops import (
    Batch,
    GroupRules,
    HostShare,
    Op,
    OpKind,
    Prepared,
    Slot,
    Unfused,
    Widths,
    adapter_op,
    batch_ops,
    placed,
    prepare,
)
from planner.roofline import Rates, Residuals, step_seconds
from planner.specs.engine import EngineSpec
from planner.specs.gpu import GpuSpec
from planner.specs.model import ModelSpec

TINY = 1e-9  # tokens
SOFT = 2.0  # of the GPU's time and its host's, which hide in each other in part


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
        found = self.merging.merged(batch_ops(self.prepared, batch), batch, self.launched_share(batch))
        if self.adapters is not None:
            tokens = batch.decode_seqs * self.prepared.decode_tokens + batch.prefill_tokens
            work = (tokens, batch.decode_seqs + batch.prefill_seqs)
            found.append(adapter_op(self.adapters.values, self.adapters.products, self.adapters[2:], work))
        if self.host is not None:
            found = placed(found, self.host, self.prepared.widths.activation)
        return found if self.draft is None else found + draft_ops(self.draft, batch, self.draft_tokens)

    def launched_share(self, batch: Batch) -> Any:
        """How many of such steps the host launches kernel by kernel, because no CUDA graph replays them.

        A mean of 1.4 sequences is one in 0.6 of the steps and two in 0.4.
        """
        graphs, tokens = self.engine.graphs.steps, np.asarray(batch.decode_seqs + batch.prefill_tokens)
        prefills = np.asarray(batch.prefill_tokens) > 0
        eager = (graphs == "none") | (prefills & (graphs == "decode"))
        beyond = tokens - np.minimum(self.graph_batch, 1 if graphs == "single" else np.inf)
        return np.where(eager, 1, np.where(prefills, beyond > 0, np.clip(beyond, 0, 1)))

    def launch_s(self, batch: Batch) -> Any:
        """Seconds in which the host launches the kernels of such a step, else those of its prompts between graphs."""
        prompts = np.asarray(batch.prefill_tokens)
        by_hand_s = np.where(prompts > 0, self.launches.prompt_s(prompts), self.launches.decode_s)
        between_s = self.launches.between_s * (prompts > 0)
        launched = self.launched_share(batch)
        return launched * (self.engine.launches.step_s + by_hand_s) + (1 - launched) * between_s

    def gap_s(self, batch: Batch, ops: Sequence[Op]) -> Any:
        """Seconds by which kernels of such a step start later than those that a graph replays, else 0."""
        factor = self.engine.launches.start_factor
        if factor == 1:
            return 0.0
        starts_s = sum(op.count * self.rates.t0_s[op.rate] for op in ops)
        later = self.launched_share(batch) * (self.replays | (self.engine.graphs.steps == "none"))
        return later * (factor - 1) * starts_s

    def experts_s(self, ops: Sequence[Op]) -> Any:
        """Seconds that the host takes to choose experts and to start them one after another, else 0."""
        routing, experts = self.engine.routing, [op for op in ops if op.kind is OpKind.MOE]
        if not (routing.expert_s or routing.router_s or routing.row_s):
            return 0.0
        found = sum(
            op.count * (routing.expert_s * op.matrices + routing.router_s + routing.row_s * op.m) for op in experts
        )
        return np.where(self.replays, found, 0.0)

    def hosted_s(self, ops: Sequence[Op]) -> Any:
        """Seconds in which neither works, where the CPU runs experts between products of the GPU."""
        return self.engine.routing.cpu_product_s * sum(
            op.count * np.sign(op.m) for op in ops if op.kind is OpKind.MOE and op.rate is Slot.HOST
        )

    def engine_s(self, batch: Batch, ops: Sequence[Op], accelerator_s: Floats) -> Any:
        """Seconds of a step of `ops` in which the accelerator waits: for scheduling, sampling and late launches."""
        host, prompts_hide = self.engine.host, self.engine.launches.prompts_hide
        sequences_s = host.sequence_s * batch.decode_seqs
        per_rank = batch.decode_seqs / self.prepared.parallel.attention_dp
        beside_s = self.launch_s(batch) + host.beside_sequence_s * per_rank
        if host.stage_sequence_s:
            stages = np.asarray(self.prepared.parallel.pp)
            planned_s = np.where(stages > 1, host.stage_sequence_s * per_rank * stages, 0.0)
            beside_s = np.maximum(beside_s, p_norm(accelerator_s, planned_s, SOFT))
        both_s = np.maximum(accelerator_s, beside_s)
        if prompts_hide:
            hidden_s = p_norm(accelerator_s, beside_s, prompts_hide)
            both_s = np.where(np.asarray(batch.prefill_tokens) > 0, hidden_s, both_s)
        late_s = both_s - accelerator_s + self.gap_s(batch, ops) + self.experts_s(ops)
        return host.step_s + self.ranks_s(batch) + sequences_s + late_s + self.hosted_s(ops)

    def ranks_s(self, batch: Batch) -> Any:
        """Seconds in which the host serves the further GPUs of a tensor-parallel group, all of them from so many on."""
        host = self.engine.host
        busy = np.minimum(np.asarray(batch.decode_seqs) / host.rank_sequences, 1)
        return host.rank_s * (np.asarray(self.prepared.parallel.tp) - 1) * busy

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
    return gpu.runs_cuda and gpu.generation not in engine.graphs.none_on


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
    own, drafts = rate_sets(deployments), draft_rate_sets(deployments)
    held = Widths(
        *(inputs.tensor_bytes, k, v),
        scores=scores(deployments),
        general=general_kernel(engine, deployments),
        sink_cost=sink_cost(engine, deployments),
        dispatch=_dispatch(deployments),
    )
    division, routing = engine.division, engine.routing
    sent = routing.tokens_gathered, routing.tokens_summed
    rules = GroupRules(frozenset(division.attention_dp_roles), *sent, vocab_multiple=division.vocab_multiple)
    unfused = Unfused(engine.unfused_state.kernels, engine.unfused_state.passes)
    prepared = prepare(row.model, held, split, engine.cache.latent_prompts, rules, unfused)
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
