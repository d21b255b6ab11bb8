"""What a step of every row runs: operations of the model, its adapters and its drafter, and the host's share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from planner import memory
from planner.arrays import PerRow
from planner.estimate.deployments import Deployment, Floats, Part, column
from planner.estimate.drafting import draft_ops
from planner.estimate.hosting import host_share
from planner.estimate.kernels.attention import general_kernel, scores, sink_cost
from planner.estimate.kernels.launches import QUANTIZED
from planner.estimate.kernels.merged import Merging, merging
from planner.estimate.kernels.routers import router_kernels
from planner.estimate.memory_plans import draft_columns, kv_widths
from planner.estimate.rates import kernel_level
from planner.formats import HALF_BYTES, kernel_for
from planner.memory import MemoryInputs
from planner.ops import (
    Adapters,
    Batch,
    GroupRules,
    HostShare,
    Op,
    Prepared,
    RouterKernels,
    Unfused,
    Widths,
    adapter_op,
    batch_ops,
    placed,
    prepare,
    routed_by,
)
from planner.specs.engine import EngineSpec
from planner.specs.model import ModelSpec


class StepWork(NamedTuple):
    """The parts of a step that do not depend on its batch."""

    prepared: Prepared  # the model's own operations
    routers: RouterKernels | None  # where others than plain products multiply them
    merging: Merging  # kernels that the engine merges
    adapters: Adapters | None
    host: HostShare | None  # what the CPU runs or the GPU reads from host memory
    draft: Prepared | None  # the draft model's operations
    draft_tokens: PerRow  # drafted per step

    def ops(self, batch: Batch, launched_share: Callable[[Batch], PerRow]) -> list[Op]:
        """Every operation of a step on `batch`; no CUDA graph replays `launched_share` of such steps."""
        ops = batch_ops(self.prepared, batch)
        if self.routers is not None:
            ops = routed_by(ops, self.routers)
        tokens = batch.decode_seqs * self.prepared.decode_tokens + batch.prefill_tokens
        ops = self.merging.merged(ops, batch, tokens, launched_share)
        if self.adapters is not None:
            ops.append(adapter_op(self.adapters, tokens, batch.decode_seqs + batch.prefill_seqs))
        if self.host is not None:
            ops = placed(ops, self.host, self.prepared.widths.activation)
        return ops if self.draft is None else ops + draft_ops(self.draft, batch, self.draft_tokens)


def step_work(engine: EngineSpec, deployments: Sequence[Deployment], inputs: MemoryInputs) -> StepWork:
    """The work of deployments that share a model, an engine and a drafter."""
    row, drafted = deployments[0].row, inputs.settings.draft_tokens
    unfused = Unfused(engine.unfused_state.kernels, engine.unfused_state.passes)
    prepared = prepare(
        row.model,
        _widths(engine, deployments, inputs),
        inputs.parallel,
        engine.cache.latent_prompts,
        _group_rules(engine),
        unfused,
    )
    return StepWork(
        prepared=prepared._replace(
            decode_tokens=1.0 + drafted if row.draft else 1.0, absorbs=engine.attention_kernels.absorbs
        ),
        routers=router_kernels(engine, deployments),
        merging=merging(engine, deployments),
        adapters=_adapters(engine, row.model, inputs),
        host=host_share(deployments, inputs),
        draft=_prepared_draft(deployments, inputs),
        draft_tokens=drafted,
    )


def _widths(engine: EngineSpec, deployments: Sequence[Deployment], inputs: MemoryInputs) -> Widths:
    """Bytes per value of what the model's operations read and write, and the variants of attention kernels."""
    kv = kv_widths(deployments)
    return Widths(
        *(inputs.tensor_bytes, kv.key, kv.value),
        scores=scores(deployments),
        general=general_kernel(engine, deployments),
        sink_cost=sink_cost(engine, deployments),
        dispatch=_dispatch_bytes(deployments),
    )


def _group_rules(engine: EngineSpec) -> GroupRules:
    """How the engine divides a model over a tensor-parallel group."""
    division, routing = engine.division, engine.routing
    return GroupRules(
        whole=frozenset(division.attention_dp_roles),
        gathered=routing.tokens_gathered,
        summed=routing.tokens_summed,
        vocab_multiple=division.vocab_multiple,
    )


def _dispatch_bytes(deployments: Sequence[Deployment]) -> Floats:
    """Bytes per value of tokens sent to experts: engines quantize first what the experts multiply in 8 or 4 bit."""
    return np.asarray(
        column(
            deployments,
            lambda d: QUANTIZED.get(kernel_for(d.row.weights, kernel_level(d.row)), HALF_BYTES),
            *(Part.WEIGHTS, Part.SUPPORT, Part.GPU),
        )
    )


def _adapters(engine: EngineSpec, model: ModelSpec, inputs: MemoryInputs) -> Adapters | None:
    slots, rank = inputs.settings.lora_slots, inputs.settings.lora_rank
    if not np.any(slots):
        return None
    adapted = memory.adapted_tensors(model, engine)
    values = sum((memory.adapter_values(tensor, inputs) for tensor in adapted), np.zeros(1))
    products = {(tensor.op, layer) for tensor in adapted for layer in tensor.layers}
    return Adapters(values, len(products), slots, rank)


def _prepared_draft(deployments: Sequence[Deployment], inputs: MemoryInputs) -> Prepared | None:
    """The draft model, whole on one pipeline stage; None where no model drafts."""
    draft = deployments[0].row.draft
    if draft is None or draft.model is None:
        return None
    kv = kv_widths(deployments)
    return prepare(draft.model, Widths(draft_columns(deployments), kv.key, kv.value), inputs.parallel._replace(pp=1.0))
