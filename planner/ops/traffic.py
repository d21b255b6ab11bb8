"""Traffic beside weights and caches: element-wise kernels, and messages between GPUs.

Element-wise kernels are counted as engines fuse them: residual addition with its norm, activation with its
gate, rotation with the write to the cache; logits are cast, normalised and sampled in a few passes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from planner.arrays import PerRow
from planner.collectives import Parallel, all_gather_wire_bytes, all_reduce_wire_bytes
from planner.ops.records import GroupRules, Op, OpKind, Slot, Widths, Work
from planner.specs.model import (
    Attention,
    CompressedAttention,
    DenseFfn,
    Ffn,
    LatentAttention,
    LinearAttention,
    Mixer,
    ModelSpec,
    Role,
)

NORM_VALUES = 4  # per value: input and residual in, normed and residual out
JOINED = 2  # of these the input and the normed output, one each however many residual streams there are
STREAM_VALUES = 3  # of every stream: read and written as the last result joins it, read again as all are collapsed
STREAM_KERNELS = 1  # more of a norm then: the result joins in one, another collapses and norms (vLLM, SGLang: mhc_post)
LOGIT_BYTES = 10  # per logit: 16 bit in, FP32 out, read once more for the sample
LOGIT_KERNELS = 4  # that cast, normalise and sample
ROTATION = 1  # kernels of a mixer: rotation and the write to the cache
LATENT_NORMS = 2  # of the query's and of the cache's latent
FULL_NORMS = 2  # of queries and keys over all heads at once; norms per head are part of the rotation
SQUARES_BYTES = 2 * 4  # per token: FP32 sums of squares of queries and keys
INDEXER_KERNELS = 5  # norm and rotation of its keys, quantizing queries and keys, picking the top
STATE_KERNELS = 2  # taking the projections apart, the gated norm of the result


def _mixer_width(mixer: Mixer, parallel: Parallel) -> PerRow:
    """Values per token that are rotated, gated or written to the cache, on one GPU."""
    group = parallel.attention_group
    if isinstance(mixer, Attention):
        return (mixer.n_heads * mixer.head_dim) / np.minimum(group, mixer.n_heads) + (
            2 * mixer.n_kv_heads * mixer.head_dim
        ) / np.minimum(group, mixer.n_kv_heads)
    if isinstance(mixer, LatentAttention):
        rotated = mixer.n_heads / np.minimum(group, mixer.n_heads) * mixer.qk_rope_head_dim
        return rotated + mixer.kv_lora_rank + mixer.qk_rope_head_dim
    if isinstance(mixer, CompressedAttention):
        return mixer.n_heads * mixer.head_dim / np.minimum(group, mixer.n_heads) + mixer.head_dim
    if isinstance(mixer, LinearAttention):
        return mixer.n_v_heads * mixer.v_head_dim / group
    return mixer.inner / group


def _mixer_kernels(mixer: Mixer) -> int:
    """Element-wise kernels of a mixer beside its products, attention and state kernels."""
    if isinstance(mixer, Attention):
        return ROTATION + FULL_NORMS * _normed_whole(mixer) + _indexer_kernels(mixer)
    if isinstance(mixer, LatentAttention | CompressedAttention):
        return ROTATION + LATENT_NORMS + _indexer_kernels(mixer)
    return STATE_KERNELS


def _normed_whole(mixer: Mixer) -> bool:
    """Whether queries and keys are normed over all heads, so that each GPU of a group holds only part of the norm."""
    return isinstance(mixer, Attention) and mixer.qk_norm == "full"


def _indexer_kernels(mixer: Attention | LatentAttention | CompressedAttention) -> int:
    return INDEXER_KERNELS if mixer.indexer and not mixer.indexer.shared else 0


def _ffn_kernels(ffn: Ffn) -> int:
    """Element-wise kernels of an ffn: its activation, and adding the results of shared and routed experts."""
    if isinstance(ffn, DenseFfn):
        return 1
    return 1 + bool(ffn.shared_intermediate or ffn.dense_intermediate)


def _ffn_width(ffn: Ffn, parallel: Parallel) -> PerRow:
    """Values per token of the hidden activation on one GPU: gate and up in, product out."""
    if isinstance(ffn, DenseFfn):
        return (3 if ffn.gated else 2) * ffn.intermediate / parallel.tp
    return (3 if ffn.gated else 2) * (ffn.shared_intermediate + ffn.dense_intermediate) / parallel.tp


class Elementwise(NamedTuple):
    """The element-wise kernels of a step: their number, and the values that they move on one GPU."""

    kernels: int
    rank_values: PerRow  # per token of an attention data-parallel rank
    values: PerRow  # per token of the whole replica


def elementwise(model: ModelSpec, parallel: Parallel) -> Elementwise:
    """All of a model's; the activation inside routed experts belongs to the expert kernel."""
    norms = model.n_layers * model.norms_per_layer
    streams = model.residual_streams
    normed = NORM_VALUES if streams == 1 else JOINED + STREAM_VALUES * streams
    kernels = norms * (1 if streams == 1 else 1 + STREAM_KERNELS) + LOGIT_KERNELS
    rank_values: PerRow = norms * normed * model.hidden_size + 2 * (model.embedding_size or model.hidden_size)
    values: PerRow = 0.0
    for index, mixer in enumerate(model.mixers):
        rank_values = rank_values + model.mixer_layers(index) * 2 * _mixer_width(mixer, parallel)
        kernels += model.mixer_layers(index) * _mixer_kernels(mixer)
    for index, ffn in enumerate(model.ffns):
        values = values + model.ffn_layers(index) * _ffn_width(ffn, parallel)
        kernels += model.ffn_layers(index) * _ffn_kernels(ffn)
    return Elementwise(kernels, rank_values, values)


def elementwise_op(own: Elementwise, model: ModelSpec, widths: Widths, work: Work) -> Op:
    """All element-wise kernels as one operation: their number, and their mean bytes."""
    logit_bytes = model.vocab_size * work.sampled * LOGIT_BYTES if model.lm_head else 0.0
    total_bytes = (own.rank_values * work.rank_tokens + own.values * work.tokens) * widths.activation + logit_bytes
    return Op(
        "elementwise",
        OpKind.ELEMENTWISE,
        Slot.ELEMENTWISE,
        own.kernels * np.sign(work.tokens),
        0.0,
        total_bytes / own.kernels,
        work.tokens,
        model.hidden_size,
        1.0,
    )


def _message(name: str, slot: Slot, count: PerRow, wire_bytes: PerRow, tokens: PerRow, width: PerRow) -> Op:
    return Op(name, OpKind.COMMUNICATION, slot, count * np.sign(wire_bytes), 0.0, wire_bytes, tokens, width, 1.0)


def communication_ops(
    model: ModelSpec,
    widths: Widths,
    parallel: Parallel,
    work: Work,
    rules: GroupRules = GroupRules(),  # noqa: B008
) -> list[Op]:
    """Messages of one step; none where a group has one GPU.

    Tensor parallelism: an all-reduce behind each mixer and each ffn, one behind the embedding, one of the sums of
    squares where queries and keys are normed over all heads, a gather of the logits. Attention data-parallel: the
    ffn's all-reduce becomes a dispatch and a combine of the ranks' tokens, and each rank keeps the logits of its own
    sequences; a dense ffn that each rank holds stays inside it. Pipeline: hidden states cross pp - 1 borders.
    """
    ops: list[Op] = []
    if _divided(parallel.tp):
        ops += _tensor_parallel_ops(model, widths, parallel, work, rules)
    if _divided(parallel.attention_dp):
        ops += _exchange(model, widths, parallel, work, rules)
    if _divided(parallel.pp):
        sent_bytes = work.tokens * model.hidden_size * widths.activation
        ops.append(_message("send", Slot.SEND, parallel.pp - 1, sent_bytes, work.tokens, model.hidden_size))
    return ops


def _tensor_parallel_ops(
    model: ModelSpec, widths: Widths, parallel: Parallel, work: Work, rules: GroupRules
) -> list[Op]:
    """All-reduces within an attention data-parallel rank and over the whole group, and the gather of the logits."""
    hidden, row_bytes = model.hidden_size, model.hidden_size * widths.activation
    mixers = sum(model.mixer_layers(index) for index in range(len(model.mixers)))
    ffns = 0 if model.joined_reduce else sum(model.ffn_layers(index) for index in range(len(model.ffns)))
    apart = np.where(np.asarray(parallel.attention_dp) > 1, 1.0, 0.0)
    inner = mixers + apart * _own_ffn_layers(model, rules)
    inside_bytes = all_reduce_wire_bytes(work.rank_tokens * row_bytes, parallel.attention_group)
    whole_bytes = all_reduce_wire_bytes(work.tokens * row_bytes, parallel.tp) * (1 - apart)
    ops = [
        _message("all_reduce.mixer", Slot.ALL_REDUCE, inner, inside_bytes, work.rank_tokens, hidden),
        _message("all_reduce.ffn", Slot.ALL_REDUCE, ffns + 1, whole_bytes, work.tokens, hidden),
    ]
    normed = sum(model.mixer_layers(i) for i, mixer in enumerate(model.mixers) if _normed_whole(mixer))
    if normed:
        squares_bytes = all_reduce_wire_bytes(work.rank_tokens * SQUARES_BYTES, parallel.attention_group)
        ops.append(_message("all_reduce.qk_norm", Slot.ALL_REDUCE, normed, squares_bytes, work.rank_tokens, 2))
    if model.lm_head:
        logits_bytes = work.sampled * model.vocab_size * widths.activation
        gathered_bytes = all_gather_wire_bytes(logits_bytes, parallel.tp) * (1 - apart)
        ops.append(_message("all_gather.logits", Slot.ALL_GATHER, 1, gathered_bytes, work.sampled, model.vocab_size))
    return ops


def remote_gpus(routes: PerRow, ep: PerRow, tp: PerRow) -> PerRow:
    """Other GPUs that one token is sent to: its distinct expert ranks, each `tp / ep` GPUs wide.

    ep (1 - (1 - 1/ep)^k) ranks are met by k routes at random, of which 1 in tp is home; ep = 1 reaches everybody.
    """
    return ep * (1 - (1 - 1 / ep) ** routes) * tp / ep * (1 - 1 / tp)


class _Routes(NamedTuple):
    """How one token reaches an ffn that ranks share."""

    count: PerRow
    ranks: PerRow  # among which the routes lead
    value_bytes: PerRow  # of a value on its way


def _routes(ffn: Ffn, widths: Widths, parallel: Parallel) -> _Routes:
    """A token goes to its experts, or to a dense ffn once."""
    if isinstance(ffn, DenseFfn):
        return _Routes(1.0, 1.0, widths.activation)
    return _Routes(ffn.top_k, parallel.ep, widths.dispatch)


def _own_ffn_layers(model: ModelSpec, rules: GroupRules) -> int:
    """Layers whose ffn each attention data-parallel rank runs on its own tokens."""
    dense = [index for index, ffn in enumerate(model.ffns) if isinstance(ffn, DenseFfn)]
    return sum(model.ffn_layers(index) for index in dense) if Role.MLP in rules.whole else 0


def _exchange(model: ModelSpec, widths: Widths, parallel: Parallel, work: Work, rules: GroupRules) -> list[Op]:
    """Dispatch and combine around every ffn that ranks share: tokens go to the GPUs that compute them, and return.

    By all-gather and reduce-scatter every other GPU is reached. Ranks that prefill hold tokens of any number: an engine
    that adds up buffers of all tokens, in which each rank has filled its own, sends two all-reduces instead.
    """
    ops, slot = [], Slot.ALL_GATHER if rules.gathered else Slot.ALL_TO_ALL
    apart = np.where(np.asarray(parallel.attention_dp) > 1, 1.0, 0.0)
    summed = np.sign(work.prefill) if rules.summed else 0.0
    own = apart * work.rank_tokens * parallel.attention_dp / parallel.tp * model.hidden_size
    whole = apart * all_reduce_wire_bytes(work.tokens * model.hidden_size * widths.activation, parallel.tp)
    for index, ffn in enumerate(model.ffns):
        if isinstance(ffn, DenseFfn) and Role.MLP in rules.whole:
            continue
        routes = _routes(ffn, widths, parallel)
        ranks = 1.0 if rules.gathered else routes.ranks
        width = widths.activation if rules.summed else routes.value_bytes
        sent, layers = own * remote_gpus(routes.count, ranks, parallel.tp), model.ffn_layers(index)
        for name, wire in (("dispatch", sent * width), ("combine", sent * widths.activation)):
            count = layers * (1 - summed)
            ops.append(_message(f"{name}.{ffn.kind}", slot, count, wire, work.rank_tokens, model.hidden_size))
        if rules.summed:
            count = 2 * layers * summed
            ops.append(_message(f"sum.{ffn.kind}", Slot.ALL_REDUCE, count, whole, work.tokens, model.hidden_size))
    return ops


def _divided(ways: PerRow) -> bool:
    """Whether any row divides; else the messages are left out."""
    return bool((np.asarray(ways) > 1).any())
