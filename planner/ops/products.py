"""Matrix products of a forward pass, grouped from `params.tensors`.

Tensors of one op in one layer run as one product; layers with the same shapes share one entry. Experts of
a layer, gate, up and down together, are one fused operation, as engines run them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from planner.arrays import PerRow
from planner.collectives import Parallel, is_by_rank, local_fraction, local_shape
from planner.identity import Same
from planner.ops.records import GroupRules, Op, OpKind, Product, Slot, Widths, Work
from planner.params import Tensor, tensors
from planner.specs.model import LatentAttention, ModelSpec, Role

_SLOTS = {
    Role.ATTENTION: Slot.ATTENTION_GEMM,
    Role.SSM: Slot.SSM_GEMM,
    Role.MLP: Slot.MLP_GEMM,
    Role.SHARED_EXPERT: Slot.SHARED_GEMM,
    Role.EXPERT: Slot.EXPERT_GEMM,
    Role.ROUTER: Slot.ROUTER_GEMM,
    Role.EMBEDDING: Slot.LM_HEAD_GEMM,  # tied
    Role.LM_HEAD: Slot.LM_HEAD_GEMM,
}
EXPANSION = "attention.kv_b"  # of latents to heads
_OUTPUT = "attention.o"  # and, where it has two matrices, attention.o_a and attention.o_b
LAYER_SLOTS = (*{slot for slot in _SLOTS.values() if slot is not Slot.LM_HEAD_GEMM}, Slot.ATTENTION_OUT_GEMM)


# Spread of ln popularity of experts. Fitted to gpt-oss-120b in vLLM 0.15 on B200 at 4 to 128 sequences; gpt-oss on
# H100, Qwen3-235B-A22B in TensorRT-LLM and DeepSeek-R1 in SGLang on H200 say 0.9 to 1.4.
SKEW = 1.0
_DEVIATES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(5)  # of a normal deviate
POPULARITY = np.exp(SKEW * _DEVIATES - SKEW**2 / 2).tolist()
WEIGHTS = (_WEIGHTS / _WEIGHTS.sum()).tolist()
OCTAVES = (0, 1, 2, 3, 4, 5, 6, 7)
LARGEST_DEVIATE = (0, 0.56, 1.03, 1.42, 1.77, 2.07, 2.34, 2.59)  # expected, of 1, 2, 4 ... normal deviates


class Group(NamedTuple):
    """Tensors that run as one product in each of `layers` layers."""

    name: str
    slot: Slot
    indices: tuple[int, ...]  # into `tensors(model)`, of all layers
    members: tuple[Tensor, ...]  # of one layer
    layers: int  # runs in a step: one in each layer, or as many as the layer has copies of the matrix


def slot_of(tensor: Tensor) -> Slot:
    """The slot whose rate prices the product that the tensor is part of."""
    if tensor.role is Role.ATTENTION and tensor.op.startswith(_OUTPUT):
        return Slot.ATTENTION_OUT_GEMM
    return _SLOTS.get(tensor.role, Slot.OTHER_GEMM)


def _key(tensor: Tensor) -> tuple[object, ...]:
    """Tensors with equal keys run as one product: all of a block of experts, else one op of the same layers."""
    return (Role.EXPERT, tensor.layers) if tensor.role is Role.EXPERT else (tensor.op, tensor.layers)


def _shapes(members: tuple[Tensor, ...]) -> tuple[object, ...]:
    return tuple((t.op, t.n, t.k, t.copies, t.active, t.shard, t.units, t.attention) for t in members)


def groups(model: ModelSpec) -> tuple[Group, ...]:
    """Distinct products of the layers and the head, without vision and prediction layers."""
    return _groups(Same(model))


@lru_cache(maxsize=512)
def _groups(model: Same[ModelSpec]) -> tuple[Group, ...]:
    by_layer: dict[tuple[object, ...], list[int]] = {}
    everything = tensors(model.value)
    for index, tensor in enumerate(everything):
        if tensor.op and tensor.role not in (Role.VISION, Role.MTP):
            by_layer.setdefault(_key(tensor), []).append(index)
    merged: dict[tuple[object, ...], Group] = {}
    for indices in by_layer.values():
        members = tuple(everything[i] for i in indices)
        slot = slot_of(members[0])
        experts = slot is Slot.EXPERT_GEMM
        name = "experts" if experts else members[0].op
        layers = max(len(members[0].layers), 1) * (1 if experts else members[0].copies)
        same = merged.get(_shapes(members))
        merged[_shapes(members)] = (
            same._replace(indices=same.indices + tuple(indices), layers=same.layers + layers)
            if same
            else Group(name, slot, tuple(indices), members, layers)
        )
    return tuple(merged.values())


def product(group: Group, widths: Widths, parallel: Parallel, rules: GroupRules = GroupRules()) -> Product:  # noqa: B008
    """The group on one GPU: resident bytes per layer (mean over its layers), outputs and inputs."""
    first, held = group.members[0], (rules.whole, rules.vocab_multiple)
    shapes = [local_shape(tensor, parallel, *held) for tensor in group.members]
    fractions = [local_fraction(tensor, parallel, *held) for tensor in group.members]
    per_layer = sum(
        widths.tensor_bytes[index] * fractions[position % len(fractions)] / group.layers
        for position, index in enumerate(group.indices)
    )
    experts = group.slot is Slot.EXPERT_GEMM
    return Product(
        group.name,
        OpKind.MOE if experts else OpKind.GEMM,
        group.slot,
        group.layers,
        per_layer,
        sum(shape.n * shape.k for shape in shapes) / shapes[0].k,
        shapes[0].k,
        first.copies if experts else 1.0,
        first.active if experts else 1.0,
        busiest_rank(first.copies, parallel.ep) / parallel.ep if experts else 1.0,
        not first.layers,
        is_by_rank(first, rules.whole),
        parallel.ep if experts else 1.0,
    )


def distinct_experts(n_experts: PerRow, active: PerRow, tokens: PerRow) -> PerRow:
    """Experts that at least one of `tokens` tokens is routed to: E (1 - (1 - k/E)^B), routing uniform.

    >>> float(distinct_experts(8, 2, 1)), float(distinct_experts(8, 2, 2))
    (2.0, 3.5)
    """
    return n_experts * (1 - (1 - active / n_experts) ** tokens)


def popular_experts(n_experts: PerRow, active: PerRow, tokens: PerRow) -> PerRow:
    """`distinct_experts` where some experts are chosen more often than others: the mean over their popularity f.

    E mean(1 - (1 - min(f k/E, 1))^B), ln f normal with a spread of SKEW and f of mean 1.
    """
    shares = [distinct_experts(1.0, np.minimum(f * active / n_experts, 1.0), tokens) for f in POPULARITY]
    return n_experts * sum(weight * share for weight, share in zip(WEIGHTS, shares, strict=True))


def busiest_rank(n_experts: PerRow, ep: PerRow) -> PerRow:
    """Tokens of the busiest GPU relative to the mean: 1 + spread of its E/ep experts x largest of ep deviates."""
    spread = np.sqrt(np.expm1(SKEW**2) * ep / n_experts)
    return 1 + spread * _largest_deviate(ep)


def _largest_deviate(ep: PerRow) -> PerRow:
    return np.interp(np.log2(ep), OCTAVES, LARGEST_DEVIATE)


def busiest_share(share: PerRow, n_experts: PerRow, ep: PerRow) -> PerRow:
    """Share of its E/ep experts that the GPU with the most of them reads, where all GPUs read `share` of E on average.

    share + (share (1 - share) ep/E)^0.5 x largest of ep deviates: each expert is read or not, independently.
    """
    spread = np.sqrt(share * (1 - share) * ep / n_experts)
    return np.minimum(share + spread * _largest_deviate(ep), 1.0)


def products(model: ModelSpec, widths: Widths, parallel: Parallel, rules: GroupRules) -> tuple[Product, ...]:
    """Every distinct matrix product of the model on one GPU."""
    return tuple(product(group, widths, parallel, rules) for group in groups(model))


def _tokens(part: Product, work: Work, expanded: PerRow, absorbs: bool) -> PerRow:
    if part.sampled:
        return work.rank_sampled if part.by_rank else work.sampled
    if part.name == EXPANSION:
        return (work.prefill if absorbs else work.rank_tokens) + expanded
    return work.rank_tokens if part.by_rank else work.tokens


def absorbed_ops(mixer: LatentAttention, layers: int, work: Work, parallel: Parallel, value_bytes: PerRow) -> list[Op]:
    """What decodes of latent attention run of kv_b: a product per head before attention, one behind it, each batched.

    Queries are taken to the latent's width, what is attended is taken to the heads', both in 16 bit.
    """
    heads = mixer.n_heads / np.minimum(parallel.attention_group, mixer.n_heads)
    m, rank = work.decode * work.decode_tokens, mixer.kv_lora_rank
    shapes = {"queries": (rank, mixer.qk_nope_head_dim), "values": (mixer.v_head_dim, rank)}
    return [
        Op(
            f"attention.absorbed_{name}",
            OpKind.GEMM,
            Slot.OTHER_GEMM,
            layers * np.sign(m),
            2 * m * heads * n * k,
            heads * (n * k + m * (n + k)) * value_bytes,
            m,
            heads * n,
            k,
        )
        for name, (n, k) in shapes.items()
    ]


def product_op(part: Product, work: Work, activation: PerRow, expanded: PerRow = 0.0, absorbs: bool = False) -> Op:
    """2 m n k FLOPs; weights once (of experts those touched), inputs read and outputs written.

    Chunked prefill of latent attention expands the cached latents of its prompt again: `expanded` more rows
    of kv_b. With `absorbs` tokens that are generated have products of their own in its place.
    """
    tokens = _tokens(part, work, expanded, absorbs)
    m, weights, matrices = tokens, part.weight_bytes, 1.0
    if part.kind is OpKind.MOE:
        m = tokens * part.active * part.experts_local
        reached = popular_experts(part.copies, part.active, tokens)
        weights = weights * busiest_share(reached / part.copies, part.copies, part.shards)
        matrices = np.maximum(reached * part.experts_local, 1.0)
    moved = weights + m * (part.n + part.k) * activation
    flops = 2 * m * part.n * part.k
    return Op(part.name, part.kind, part.rate, part.layers * np.sign(m), flops, moved, m, part.n, part.k, matrices)
