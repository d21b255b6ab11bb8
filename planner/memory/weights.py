"""Weights per GPU: the part of every tensor that a rank holds, and the layers that a pipeline stage holds."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from planner.collectives import Parallel
from planner.formats.packing import padded
from planner.identity import Same, distinct
from planner.memory.placement import Placement, Placements, stage_of_layer
from planner.memory.terms import Array, Floats, MemoryInputs, floats
from planner.params import Shard, Tensor, tensors
from planner.specs.engine import EngineSpec
from planner.specs.model import Attention, LatentAttention, ModelSpec, Role

_SPLIT_IN_ENCODER = ("vision.attention", "vision.mlp.up", "vision.mlp.down", "vision.merger.in", "vision.merger.out")
_ROUTER = "moe.router"
_ABSORBED = "attention.kv_b"  # MLA's expansion of the latent, which serving folds into Q and the output


def largest_part(units: Array, parts: Array) -> Array:
    """Fraction that the fullest of `parts` holds of `units` indivisible ones: ceil(units / parts) / units.

    Past `units` parts the rest are replicas, hence at least one unit each.

    >>> largest_part(8, np.array([2, 3, 16])).tolist()  # 4, 3 and 1 of 8 KV heads
    [0.5, 0.375, 0.125]
    """
    return np.maximum(np.ceil(units / floats(parts)), 1) / units


def shard_fraction(tensor: Tensor, parallel: Parallel, engine: EngineSpec) -> Array:
    """Fraction of a tensor that the fullest rank of its tensor-parallel group holds.

    Attention is divided by tp / attention_dp, experts first whole over ep and then each over tp / ep, the
    vocabulary after padding; norms and routers are replicated.
    """
    tp = floats(parallel.tp)
    divided = tensor.attention or tensor.role in engine.division.attention_dp_roles
    parts = floats(parallel.attention_group) if divided else tp
    if tensor.shard is Shard.VOCAB:
        return padded(tensor.n, engine.division.vocab_multiple) / tensor.n / parts
    if tensor.shard is Shard.EXPERT:
        return largest_part(tensor.copies, parallel.ep) * floats(parallel.ep) / tp
    if tensor.role is Role.VISION and engine.division.encoder_split and tensor.name in _SPLIT_IN_ENCODER:
        return 1 / tp
    if tensor.shard in (Shard.COLUMN, Shard.ROW):
        return largest_part(tensor.units, parts)
    return 1.0


def cache_group(engine: EngineSpec, parallel: Parallel) -> Floats:
    """GPUs that share one sequence's cache and attention; llama.cpp keeps both on the first when it splits matrices."""
    group = floats(parallel.attention_group)
    return group if engine.cache.sharded else np.ones_like(group)


def result_ways(engine: EngineSpec, parallel: Parallel) -> Floats:
    """GPUs over which what a layer computes is divided; llama.cpp gathers it on the first when it splits matrices."""
    return floats(parallel.tp) if engine.cache.sharded else np.ones_like(floats(parallel.tp))


def stage_shares(model: ModelSpec, placement: Placement) -> Floats:
    """(T, S + 1): part of each tensor that each GPU holds, and in the last column what host memory holds.

    Embedding and positions stand on the first stage, head and final norm on the last; a tied embedding on
    both.
    """
    return _stage_shares(Same(model), placement)


@lru_cache(maxsize=1024)
def _stage_shares(same: Same[ModelSpec], placement: Placement) -> Floats:
    model = same.value
    listed, n_stages = tensors(model), len(placement.stages)
    shares = np.zeros((len(listed), n_stages + 1))
    owner = stage_of_layer(placement, model.n_layers)
    experts = np.where(np.arange(model.n_layers) < placement.host_expert_layers, -1, owner)
    for row, tensor in enumerate(listed):
        if tensor.layers:
            stages = (experts if tensor.role is Role.EXPERT else owner)[list(tensor.layers)]
            held = np.bincount(np.where(stages < 0, n_stages, stages), minlength=n_stages + 1)
            shares[row] = held / len(tensor.layers)
        else:
            shares[row, list(_ends(tensor, model, placement))] = 1
    return shares


def _ends(tensor: Tensor, model: ModelSpec, placement: Placement) -> set[int]:
    """Columns of `stage_shares` that hold a tensor outside the stack.

    llama.cpp looks the embedding up in host memory and keeps other tables with the head.
    """
    host = len(placement.stages)
    first, last = 0, host if placement.host_head else host - 1
    if tensor.role in (Role.LM_HEAD, Role.NORM) or tensor.name.startswith("lm_head"):
        return {last}
    if tensor.role in placement.host_roles:
        first = host if tensor.name == "embedding" or tensor.role is Role.POSITION else last
    return {first, last} if tensor.name == "embedding" and model.tie_embeddings else {first}


def by_stage(where: Placements, table_of: Callable[[Placement], Floats]) -> Floats:
    """Stack tables (N, stages) of each placement into (N, S, R), zero beyond a row's own stages."""
    tables = [table_of(one) for one in where.distinct]
    stacked = np.zeros((len(tables), tables[0].shape[0], where.n_stages))
    for index, table in enumerate(tables):
        stacked[index, :, : table.shape[1]] = table
    return stacked.transpose(1, 2, 0)[..., where.rows]


@lru_cache(maxsize=1024)
def _layer_counts(n_layers: int, kinds: tuple[tuple[int, ...], ...], placement: Placement) -> Floats:
    owner, n_stages = stage_of_layer(placement, n_layers), len(placement.stages)
    counts = [np.bincount(owner[list(layers)][owner[list(layers)] >= 0], minlength=n_stages) for layers in kinds]
    return floats(counts).reshape(len(kinds), n_stages)


def layers_on_stages(model: ModelSpec, kinds: tuple[tuple[int, ...], ...], where: Placements) -> Floats:
    """(K, S, R): how many layers of each kind each stage holds."""
    return by_stage(where, lambda one: _layer_counts(model.n_layers, kinds, one))


def held_bytes(model: ModelSpec, engine: EngineSpec, inputs: MemoryInputs) -> Floats:
    """(T, R): bytes of each tensor on the fullest rank of its tensor-parallel group, all stages together."""
    listed = tensors(model)
    fraction = _fractions(model, inputs.parallel, engine)
    copied = floats([tensor.numel if tensor.name == _ABSORBED else 0 for tensor in listed])[:, None]
    absorbed = copied * engine.weights.latent_copies * inputs.value_bytes
    routing = floats([tensor.numel if tensor.name == _ROUTER else 0 for tensor in listed])[:, None]
    held = (np.atleast_2d(inputs.tensor_bytes.T).T + absorbed + routing * inputs.router_bytes) * fraction
    return floats(held + _rounding_bytes(model, engine, held))


def _fractions(model: ModelSpec, parallel: Parallel, engine: EngineSpec) -> Floats:
    """(T, R or 1): shard_fraction of every tensor, equal ones computed once."""
    kinds, at = _divided_alike(Same(model))
    fractions = [np.atleast_1d(floats(shard_fraction(tensor, parallel, engine))) for tensor in kinds]
    return np.stack(np.broadcast_arrays(*fractions))[at]


@lru_cache(maxsize=512)
def _divided_alike(model: Same[ModelSpec]) -> tuple[list[Tensor], NDArray[np.intp]]:
    """One tensor for each way of dividing, and for every tensor the index of the one that is divided like it."""
    listed = tensors(model.value)
    return distinct(listed, [_sharding(tensor) for tensor in listed])


def _sharding(tensor: Tensor) -> tuple[object, ...]:
    """Tensors with equal keys are divided alike."""
    vocabulary = tensor.n if tensor.shard is Shard.VOCAB else 0
    in_encoder = tensor.name in _SPLIT_IN_ENCODER
    return (tensor.shard, tensor.units, tensor.copies, tensor.attention, tensor.role, vocabulary, in_encoder)


@lru_cache(maxsize=256)
def _allocations(model: Same[ModelSpec]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(T,) tensors in the order of their allocations in each layer (q, k and v; all experts), and where each begins.

    Tensors of one operation are loaded into one parameter.
    """
    together: dict[tuple[object, ...], list[int]] = {}
    for index, tensor in enumerate(tensors(model.value)):
        together.setdefault((tensor.op or tensor.name, tensor.layers), []).append(index)
    sizes = [len(indices) for indices in together.values()]
    return np.concatenate(list(together.values())), np.cumsum([0, *sizes[:-1]])


def _rounding_bytes(model: ModelSpec, engine: EngineSpec, held: Floats) -> Floats:
    """(T, R): what the allocator's granularity adds; large blocks are rounded up, small remainders are lost."""
    block = engine.weights.block_bytes
    if not block:
        return np.zeros_like(held)
    order, begins = _allocations(Same(model))
    layers = floats([max(len(tensor.layers), 1) for tensor in tensors(model)])[:, None]
    size, first = np.add.reduceat((held / layers)[order], begins, axis=0), order[begins]
    spare = np.ceil(size / block) * block - size
    lost = np.where((size >= engine.weights.block_from_bytes) & (spare <= engine.weights.block_slack_bytes), spare, 0)
    added = np.zeros_like(held)
    added[first] = lost * layers[first]
    return added


def rope_bytes(model: ModelSpec, engine: EngineSpec, value_bytes: Array) -> Array:
    """Tables of cosines and sines that every rank holds: positions x rotary dimensions x bytes.

    Models that give images positions of their own have longer ones.
    """
    rules = engine.weights
    if not rules.rope_cache:
        return 0.0
    positions = model.max_position * (rules.rope_longer if model.model_type in rules.rope_longer_types else 1)
    widths = {mixer.qk_rope_head_dim for mixer in model.mixers if isinstance(mixer, LatentAttention)}
    widths |= {mixer.head_dim for mixer in model.mixers if isinstance(mixer, Attention)}
    return positions * sum(widths) * floats(rules.rope_value_bytes or value_bytes)


def level_bytes(model: ModelSpec, engine: EngineSpec, inputs: MemoryInputs) -> Array:
    """Buffers for what an image encoder hands to inner layers: levels x tokens of a step x hidden x bytes.

    Such an encoder has a merger for each level beside the one of its output.
    """
    if not engine.weights.image_levels:
        return 0.0
    mergers = sum(tensor.copies for tensor in tensors(model) if tensor.name == "vision.merger.out")
    tokens = floats(inputs.settings.max_num_batched_tokens)
    return max(mergers - 1, 0) * tokens * model.hidden_size * inputs.value_bytes


def weight_bytes_per_gpu(
    model: ModelSpec, engine: EngineSpec, inputs: MemoryInputs, held: Floats, where: Placements
) -> Floats:
    """(S, R): weight bytes on the fullest rank of each pipeline stage.

    sum over tensors of bytes x shard_fraction x the part of its layers that the stage holds (`held_bytes`),
    with what the engine's process adds: rotary tables, buffers for images, absorbed MLA projections, routers
    in FP32, the allocator's rounding.
    """
    stages = by_stage(where, lambda one: stage_shares(model, one)[:, :-1])
    added = rope_bytes(model, engine, inputs.value_bytes) + level_bytes(model, engine, inputs)
    return floats(np.einsum("tsr,tr->sr", stages, held) + added)


def offloaded_bytes(model: ModelSpec, inputs: MemoryInputs, held: Floats, where: Placements) -> Floats:
    """(S, R): weights of layers that stay in host memory by the gigabyte, of what the stage's layers have.

    vLLM moves parameters of decoder layers, one after the other, until the amount is reached; embedding and
    head stay.
    """
    if not np.any(inputs.settings.cpu_offload_bytes):
        return np.zeros((where.n_stages, 1))
    in_layers = floats([bool(tensor.layers) for tensor in tensors(model)])[:, None]
    stages = by_stage(where, lambda one: stage_shares(model, one)[:, :-1])
    return floats(np.minimum(inputs.settings.cpu_offload_bytes, np.einsum("tsr,tr->sr", stages, held * in_layers)))


def _host_shares(model: ModelSpec, where: Placements) -> Floats:
    """(T, R): part of each tensor that host memory holds."""
    return np.stack([stage_shares(model, one)[:, -1] for one in where.distinct], axis=-1)[:, where.rows]


def host_weight_bytes(model: ModelSpec, inputs: MemoryInputs, where: Placements) -> Floats:
    """(R,): tensors in host memory, whole: tables that are looked up there, and layers that run there."""
    return floats(np.sum(_host_shares(model, where) * np.atleast_2d(inputs.tensor_bytes.T).T, axis=0))


def streamed_tensor_bytes(model: ModelSpec, inputs: MemoryInputs, where: Placements) -> Floats:
    """(R,): the largest matrix in host memory, of which a GPU keeps a copy while it multiplies with it."""
    if not any(one.host_layers or one.host_expert_layers or one.host_head for one in where.distinct):
        return np.zeros(len(where.rows))
    listed = tensors(model)
    layers = floats([max(len(tensor.layers), 1) for tensor in listed])[:, None]
    multiplied = floats([bool(tensor.op) and tensor.role is not Role.EMBEDDING for tensor in listed])[:, None]
    one = np.atleast_2d(inputs.tensor_bytes.T).T / layers * multiplied
    return floats(np.max(np.where(_host_shares(model, where) > 0, one, 0.0), axis=0))


def largest_layer_bytes(model: ModelSpec, held: Floats) -> Floats:
    """(R,): the largest tensor of one layer; while it is repacked there are two copies of it."""
    layers = floats([max(len(tensor.layers), 1) for tensor in tensors(model)])[:, None]
    return floats(np.max(held / layers, axis=0))
