"""Weights per GPU: which part of every tensor a rank holds, and which layers a pipeline stage."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from planner.collectives import Parallel
from planner.memory.terms import Array, Floats, MemoryInputs, floats
from planner.params import Shard, Tensor, tensors
from planner.specs.engine import EngineSpec
from planner.specs.model import Attention, LatentAttention, ModelSpec, Role

_ABSORBED = "attention.kv_b"  # MLA's expansion of the latent, which serving folds into Q and the output


def largest_part(units: Array, parts: Array) -> Array:
    """Fraction that the fullest of `parts` holds of `units` indivisible ones: ceil(units / parts) / units.

    Past `units` parts the rest are replicas, hence at least one unit each.
    """
    return np.maximum(np.ceil(units / floats(parts)), 1) / units


def shard_fraction(tensor: Tensor, parallel: Parallel, engine: EngineSpec) -> Array:
    """Fraction of a tensor that the fullest rank of its tensor-parallel group holds.

    Attention is divided by tp / attention_dp, experts first whole over ep and then each over tp / ep, the
    vocabulary after padding; norms and routers are replicated.
    """
    tp, group = floats(parallel.tp), attention_group(parallel)
    parts = group if tensor.attention or tensor.role in engine.attention_dp_roles else tp
    if tensor.shard is Shard.VOCAB:
        return padded(tensor.n, engine.weights.vocab_multiple) / tensor.n / parts
    if tensor.shard is Shard.EXPERT:
        return largest_part(tensor.copies, parallel.ep) * floats(parallel.ep) / tp
    if tensor.shard in (Shard.COLUMN, Shard.ROW):
        return largest_part(tensor.units, parts)
    return 1.0


def attention_group(parallel: Parallel) -> Floats:
    """GPUs that share one sequence's attention."""
    return floats(parallel.tp) / floats(parallel.attention_dp)


def padded(vocab: int, multiple: int) -> int:
    """The vocabulary rounded up to a multiple."""
    return -(-vocab // multiple) * multiple


@lru_cache(maxsize=1024)
def stage_layers(n_layers: int, pp: int) -> tuple[int, ...]:
    """Layers of each pipeline stage; those left over go to the stages before the last, which holds the head."""
    counts = [n_layers // pp] * pp
    for extra in range(n_layers % pp):
        counts[-2 - extra] += 1
    return tuple(counts)


@lru_cache(maxsize=1024)
def _stage_of_layer(n_layers: int, pp: int) -> Floats:
    return np.repeat(np.arange(pp), stage_layers(n_layers, pp)).astype(float)


@lru_cache(maxsize=256)
def stage_shares(model: ModelSpec, pp: int) -> Floats:
    """(T, pp): part of each tensor that each stage holds.

    Embedding and positions stand on the first stage, head and final norm on the last; a tied embedding on
    both.
    """
    listed = tensors(model)
    shares = np.zeros((len(listed), pp))
    stages = _stage_of_layer(model.n_layers, pp)
    for row, tensor in enumerate(listed):
        if tensor.layers:
            held = np.bincount(stages[list(tensor.layers)].astype(int), minlength=pp)
            shares[row] = held / len(tensor.layers)
        else:
            shares[row, list(_ends(tensor, model, pp))] = 1
    return shares


def _ends(tensor: Tensor, model: ModelSpec, pp: int) -> set[int]:
    if tensor.role in (Role.LM_HEAD, Role.NORM) or tensor.name.startswith("lm_head"):
        return {pp - 1}
    return {0, pp - 1} if tensor.role is Role.EMBEDDING and model.tie_embeddings else {0}


@lru_cache(maxsize=256)
def _layer_counts(model: ModelSpec, kinds: tuple[tuple[int, ...], ...], pp: int) -> Floats:
    stages = _stage_of_layer(model.n_layers, pp).astype(int)
    counts = [np.bincount(stages[list(layers)], minlength=pp) for layers in kinds]
    return floats(counts).reshape(len(kinds), pp)


def by_stage(pp: Array, table_of: Callable[[int], Floats]) -> Floats:
    """Stack per-pp tables (N, pp) into (N, S, R), S the largest pp, zero beyond a row's own stages."""
    distinct, rows = np.unique(np.atleast_1d(np.asarray(pp, dtype=int)), return_inverse=True)
    tables = [table_of(int(one)) for one in distinct]
    stacked = np.zeros((len(tables), tables[0].shape[0], int(distinct[-1])))
    for index, table in enumerate(tables):
        stacked[index, :, : table.shape[1]] = table
    return stacked.transpose(1, 2, 0)[..., rows]


def layers_on_stages(model: ModelSpec, kinds: tuple[tuple[int, ...], ...], pp: Array) -> Floats:
    """(K, S, R): how many layers of each kind each stage holds."""
    return by_stage(pp, lambda one: _layer_counts(model, kinds, one))


def held_bytes(model: ModelSpec, engine: EngineSpec, inputs: MemoryInputs) -> Floats:
    """(T, R): bytes of each tensor on the fullest rank of its tensor-parallel group, all stages together."""
    listed = tensors(model)
    fraction = _fractions(listed, inputs.parallel, engine)
    copied = floats([tensor.numel if tensor.name == _ABSORBED else 0 for tensor in listed])[:, None]
    absorbed = copied * engine.weights.latent_copies * inputs.value_bytes
    resident = floats([not _in_host_memory(tensor, model, engine) for tensor in listed])[:, None]
    held = (np.atleast_2d(inputs.tensor_bytes.T).T + absorbed) * fraction * resident
    return floats(held + _rounding_bytes(model, engine, held))


def _in_host_memory(tensor: Tensor, model: ModelSpec, engine: EngineSpec) -> bool:
    """Whether the engine looks a table up on the CPU; a tied embedding is on the GPU as the head."""
    tied = tensor.role is Role.EMBEDDING and model.tie_embeddings
    return tensor.role in engine.weights.host_roles and not tied


def _fractions(listed: tuple[Tensor, ...], parallel: Parallel, engine: EngineSpec) -> Floats:
    """(T, R or 1): shard_fraction of every tensor, equal ones computed once."""
    known: dict[tuple[object, ...], Floats] = {}
    for tensor in listed:
        key = _sharding(tensor)
        if key not in known:
            known[key] = np.atleast_1d(floats(shard_fraction(tensor, parallel, engine)))
    return np.stack(np.broadcast_arrays(*(known[_sharding(tensor)] for tensor in listed)))


def _sharding(tensor: Tensor) -> tuple[object, ...]:
    """Tensors with equal keys are divided alike."""
    vocabulary = tensor.n if tensor.shard is Shard.VOCAB else 0
    return (tensor.shard, tensor.units, tensor.copies, tensor.attention, tensor.role, vocabulary)


@lru_cache(maxsize=256)
def _allocations(model: ModelSpec) -> tuple[Floats, NDArray[np.intp]]:
    """(G, T) which tensors share an allocation in each layer (q, k and v; all experts), and (G,) its first one.

    Tensors of one operation are loaded into one parameter.
    """
    listed = tensors(model)
    names = [(tensor.op or tensor.name, tensor.layers) for tensor in listed]
    distinct = list(dict.fromkeys(names))
    member = floats([[name == one for name in names] for one in distinct])
    return member, np.asarray([names.index(one) for one in distinct], dtype=np.intp)


def _rounding_bytes(model: ModelSpec, engine: EngineSpec, held: Floats) -> Floats:
    """(T, R): what the allocator's granularity adds; large blocks are rounded up, small remainders are lost."""
    block = engine.weights.block_bytes
    if not block:
        return np.zeros_like(held)
    member, first = _allocations(model)
    layers = floats([max(len(tensor.layers), 1) for tensor in tensors(model)])[:, None]
    size = member @ (held / layers)
    spare = np.ceil(size / block) * block - size
    lost = np.where((size >= engine.weights.block_from_bytes) & (spare <= engine.weights.block_slack_bytes), spare, 0)
    added = np.zeros_like(held)
    added[first] = lost * layers[first]
    return added


def rope_bytes(model: ModelSpec, engine: EngineSpec, value_bytes: Array) -> Array:
    """Tables of cosines and sines that every rank holds: positions x rotary dimensions x bytes."""
    if not engine.weights.rope_cache:
        return 0.0
    widths = {mixer.qk_rope_head_dim for mixer in model.mixers if isinstance(mixer, LatentAttention)}
    widths |= {mixer.head_dim for mixer in model.mixers if isinstance(mixer, Attention)}
    return model.max_position * sum(widths) * floats(value_bytes)


def weight_bytes_per_gpu(model: ModelSpec, engine: EngineSpec, inputs: MemoryInputs, held: Floats) -> Floats:
    """(S, R): weight bytes on the fullest rank of each pipeline stage.

    sum over tensors of bytes x shard_fraction x the part of its layers that the stage holds (`held_bytes`),
    with what the engine's process adds: rotary tables, absorbed MLA projections, the allocator's rounding.
    """
    stages = by_stage(inputs.parallel.pp, lambda one: stage_shares(model, one))
    return floats(np.einsum("tsr,tr->sr", stages, held) + rope_bytes(model, engine, inputs.value_bytes))


def largest_layer_bytes(model: ModelSpec, held: Floats) -> Floats:
    """(R,): the largest tensor of one layer, of which a second copy lives while it is repacked."""
    layers = floats([max(len(tensor.layers), 1) for tensor in tensors(model)])[:, None]
    return floats(np.max(held / layers, axis=0))
