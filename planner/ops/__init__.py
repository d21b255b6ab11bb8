"""One forward pass as a flat list of operations with array costs: decode, prefill and mixed steps alike.

    prepared = prepare(model, widths, parallel)      # once: weights, shards, states
    ops = batch_ops(prepared, batch)                 # per step: about ten operations, cheap
    ops = forward_ops(model, batch, widths, parallel)  # both in one

Costs are those of one GPU; the sum over the list is the time from the first layer of the first pipeline
stage to the last layer of the last. Left out: the engine's own step overhead, imbalance between ranks and
experts, overlap of communication with computation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from planner.arrays import PerRow
from planner.collectives import Parallel
from planner.ops.adapters import Adapters, adapter_op
from planner.ops.attention import Reading, decode_ops, joined, prefill_ops, readings
from planner.ops.compressed import compressed_readings
from planner.ops.host import HostShare, placed
from planner.ops.products import absorbed_ops, distinct_experts, product_op, products
from planner.ops.records import (
    FUSED_ONLY,
    FUSED_SCORES,
    Batch,
    GeneralKernel,
    GroupRules,
    Op,
    OpKind,
    Product,
    Scores,
    Slot,
    Widths,
    Work,
)
from planner.ops.recurrent import State, Unfused, decode_step_op, prefill_scan_op, recurrent_state, unfused_op
from planner.ops.router import RouterKernels, VectorTiles, routed_by
from planner.ops.streams import norms_within, pools_beside, shared_beside
from planner.ops.traffic import Elementwise, communication_ops, elementwise, elementwise_op
from planner.ops.vision import vision_ops
from planner.specs.model import Attention, CompressedAttention, LatentAttention, LinearAttention, ModelSpec

__all__ = [
    "FUSED_ONLY",
    "FUSED_SCORES",
    "Adapters",
    "Batch",
    "GeneralKernel",
    "GroupRules",
    "HostShare",
    "Op",
    "OpKind",
    "Prepared",
    "RouterKernels",
    "Scores",
    "Slot",
    "Unfused",
    "VectorTiles",
    "Widths",
    "adapter_op",
    "batch_ops",
    "distinct_experts",
    "forward_ops",
    "norms_within",
    "placed",
    "pools_beside",
    "prepare",
    "routed_by",
    "shared_beside",
]


FUSED = Unfused()


class Mixing(NamedTuple):
    """A mixer on one GPU and the number of layers that hold it. It attends (`readings`) or carries a state."""

    layers: int
    readings: tuple[Reading, ...] = ()
    state: State | None = None
    unfused: Unfused = FUSED
    latent: LatentAttention | None = None


class Prepared(NamedTuple):
    """The parts of a forward pass that do not depend on the batch."""

    model: ModelSpec
    widths: Widths
    parallel: Parallel
    products: tuple[Product, ...]
    mixings: tuple[Mixing, ...]
    elementwise: Elementwise
    decode_tokens: PerRow = 1.0  # that each decoding sequence runs in a step: 1 and those drafted for it
    latent_prompts: bool = False  # prompts attend to latents as they are, without expanding them to heads
    rules: GroupRules = GroupRules()
    absorbs: bool = False  # decodes of latent attention run kv_b as batched products of their own


def _mixing(
    model: ModelSpec, index: int, widths: Widths, parallel: Parallel, latent_prompts: bool, unfused: Unfused
) -> Mixing:
    mixer, layers = model.mixers[index], model.mixer_layers(index)
    if isinstance(mixer, CompressedAttention):
        return Mixing(layers, tuple(compressed_readings(mixer, widths, parallel)))
    if isinstance(mixer, Attention | LatentAttention):
        latent = mixer if isinstance(mixer, LatentAttention) else None
        return Mixing(layers, tuple(readings(mixer, widths, parallel, latent_prompts)), latent=latent)
    graph = unfused if isinstance(mixer, LinearAttention) and mixer.is_delta_rule else FUSED
    return Mixing(layers, state=recurrent_state(mixer, widths, parallel), unfused=graph)


def prepare(
    model: ModelSpec,
    widths: Widths,
    parallel: Parallel,
    latent_prompts: bool = False,
    rules: GroupRules = GroupRules(),  # noqa: B008
    unfused: Unfused = FUSED,
) -> Prepared:
    """What one GPU holds and runs of the model, whatever the batch; `widths.tensor_bytes` is (T,) or (T, R)."""
    mixings = tuple(
        _mixing(model, index, widths, parallel, latent_prompts, unfused) for index in range(len(model.mixers))
    )
    return Prepared(
        model,
        widths,
        parallel,
        products(model, widths, parallel, rules),
        mixings,
        elementwise(model, parallel),
        latent_prompts=latent_prompts,
        rules=rules,
    )


def _per_rank(total: PerRow, parallel: Parallel, seqs: PerRow) -> PerRow:
    """Share of the busiest attention-DP rank when `seqs` sequences are spread evenly."""
    return total / np.maximum(np.minimum(parallel.attention_dp, seqs), 1.0)


def work_of(batch: Batch, parallel: Parallel, decode_tokens: PerRow = 1.0) -> Work:
    """Tokens that one GPU works on. With fewer sequences than attention-DP ranks some ranks are idle."""
    decode = _per_rank(batch.decode_seqs, parallel, batch.decode_seqs)
    prefill = _per_rank(batch.prefill_tokens, parallel, batch.prefill_seqs)
    prefill_seqs = _per_rank(batch.prefill_seqs, parallel, batch.prefill_seqs)
    return Work(
        decode,
        batch.decode_context,
        prefill,
        prefill_seqs,
        batch.prefill_context,
        decode * decode_tokens + prefill,
        batch.decode_seqs * decode_tokens + batch.prefill_tokens,
        batch.decode_seqs * decode_tokens + batch.prefill_seqs,
        decode * decode_tokens + prefill_seqs,
        decode_tokens,
    )


def _present(amount: PerRow) -> bool:
    """False for a scalar 0, which says that the batch has no such part."""
    return np.ndim(amount) > 0 or float(amount) > 0


def _readings_ops(mixing: Mixing, ops_of: Callable[[Reading], list[Op]]) -> list[Op]:
    """What a mixer attends to, each in kernels of its own but for what joins the one before."""
    found: list[list[Op]] = []
    for reading in mixing.readings:
        ops = ops_of(reading)
        found = [*found[:-1], joined(found[-1], ops)] if reading.joins else [*found, ops]
    return [op for ops in found for op in ops]


def _mixer_ops(mixing: Mixing, prepared: Prepared, batch: Batch, work: Work) -> list[Op]:
    causal, scores = prepared.model.causal, prepared.widths.scores
    ops: list[Op] = []
    if _present(batch.decode_seqs):
        ops += _readings_ops(mixing, lambda reading: decode_ops(reading, work, mixing.layers, scores))
        if mixing.latent and prepared.absorbs:
            ops += absorbed_ops(mixing.latent, mixing.layers, work, prepared.parallel, prepared.widths.activation)
        if mixing.state:
            ops.append(decode_step_op(mixing.state, work, mixing.layers))
            ops += [unfused_op(mixing.state, mixing.unfused, work, mixing.layers)] if mixing.unfused.kernels else []
    if _present(batch.prefill_tokens):
        ops += _readings_ops(mixing, lambda reading: prefill_ops(reading, causal, work, mixing.layers, scores))
        ops += [prefill_scan_op(mixing.state, work, mixing.layers)] if mixing.state else []
    return ops


def batch_ops(prepared: Prepared, batch: Batch) -> list[Op]:
    """The operations of one step on `batch`."""
    model, widths, parallel = prepared.model, prepared.widths, prepared.parallel
    work = work_of(batch, parallel, prepared.decode_tokens)
    expanded = 0.0 if prepared.latent_prompts else work.prefill_context * work.prefill_seqs
    ops = [product_op(part, work, widths.activation, expanded, prepared.absorbs) for part in prepared.products]
    for mixing in prepared.mixings:
        ops += _mixer_ops(mixing, prepared, batch, work)
    ops.append(elementwise_op(prepared.elementwise, model, widths, work))
    ops += communication_ops(model, widths, parallel, work, prepared.rules)
    if model.vision and _present(batch.image_patches):
        ops += vision_ops(model, batch, widths)
    return ops


def forward_ops(model: ModelSpec, batch: Batch, widths: Widths, parallel: Parallel) -> list[Op]:
    """Prepare and list in one call."""
    return batch_ops(prepare(model, widths, parallel), batch)
