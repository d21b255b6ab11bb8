"""Memory beside a model's own weights: adapters, and the model that drafts for it."""

from __future__ import annotations

import numpy as np

from planner.collectives import local_shape
from planner.memory.cache import cache_layers
from planner.memory.placement import Placements, placements
from planner.memory.table import CacheLayers
from planner.memory.terms import Floats, MemoryInputs, Settings, floats
from planner.memory.weights import by_stage, held_bytes, stage_shares, weight_bytes_per_gpu
from planner.params import Tensor, tensors
from planner.specs.engine import EngineSpec
from planner.specs.model import ModelSpec, Role


def adapter_values(tensor: Tensor, inputs: MemoryInputs) -> Floats:
    """Values of one rank-1 adapter on a tensor in all its layers, on one GPU: inputs + outputs of each matrix.

    Behind a split of the outputs A is replicated and B split, behind a split of the inputs the other way
    round; experts have an adapter each.
    """
    local = local_shape(tensor, inputs.parallel)
    return floats(local.copies * (local.n + local.k) * len(tensor.layers))


def adapted_tensors(model: ModelSpec, engine: EngineSpec) -> tuple[Tensor, ...]:
    """The matrices that can have adapters in this engine."""
    return tuple(one for one in tensors(model) if one.role in engine.weights.lora_roles and one.layers and one.op)


def lora_bytes(model: ModelSpec, engine: EngineSpec, inputs: MemoryInputs, where: Placements) -> Floats:
    """(S, R): slots x rank x (inputs + outputs) x bytes over the matrices that can have adapters.

    Slots are allocated at start for the largest rank, whatever is loaded.
    Ref: vllm/lora/layers/base_linear.py create_lora_weights.
    """
    settings = inputs.settings
    slots = floats(settings.lora_slots) * settings.lora_rank
    if not np.any(slots):
        return np.zeros((where.n_stages, 1))
    adapted = set(adapted_tensors(model, engine))
    values = [adapter_values(tensor, inputs) if tensor in adapted else floats(0.0) for tensor in tensors(model)]
    stages = by_stage(where, lambda one: stage_shares(model, one)[:, :-1])
    per_rank = np.stack(np.broadcast_arrays(*values, np.zeros(stages.shape[-1]))[:-1])
    return floats(np.einsum("tsr,tr->sr", stages, per_rank) * slots * inputs.value_bytes)


def draft_inputs(inputs: MemoryInputs) -> MemoryInputs:
    """The draft model's own rows: whole on one stage, no adapters, no offload."""
    draft = inputs.draft
    if draft is None:
        return inputs
    plain = Settings(*inputs.settings)._replace(placement=None, cpu_offload_bytes=0.0, lora_slots=0.0)
    return inputs._replace(
        tensor_bytes=draft.tensor_bytes,
        kv_k_bytes=draft.kv_k_bytes,
        kv_v_bytes=draft.kv_v_bytes,
        settings=plain,
        parallel=inputs.parallel._replace(pp=np.ones_like(inputs.parallel.pp)),
        draft=None,
    )


def draft_weight_bytes(engine: EngineSpec, inputs: MemoryInputs, alone: Placements) -> Floats:
    """(R,): weights of the draft model on one GPU; what it shares with the model it drafts for counts there."""
    draft = inputs.draft
    if draft is None:
        return np.zeros(1)
    own = draft_inputs(inputs)
    held = held_bytes(draft.model, engine, own)
    if not draft.own_vocabulary:
        outer = floats([tensor.role in (Role.EMBEDDING, Role.LM_HEAD) for tensor in tensors(draft.model)])[:, None]
        held = held * (1 - outer)
    return floats(weight_bytes_per_gpu(draft.model, engine, own, held, alone)[0])


def draft_layers(engine: EngineSpec, inputs: MemoryInputs, where: Placements) -> CacheLayers | None:
    """Layers of the draft model that keep a cache, on the last stage of each row; None where nothing drafts."""
    if inputs.draft is None:
        return None
    rows, own = len(where.rows), draft_inputs(inputs)
    layers = cache_layers(inputs.draft.model, engine, own, placements(inputs.draft.model, engine, own, rows))
    last = np.arange(where.n_stages).reshape(-1, 1) == np.broadcast_to(floats(inputs.parallel.pp), (rows,)) - 1
    attention, states = (part._replace(layers=part.layers * last) for part in (layers.attention, layers.states))
    return CacheLayers(attention, layers.reach, states)
