"""What every pipeline stage spends, and what it has left for the cache."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.memory.activation import activation_bytes, graph_bytes, non_torch_bytes
from planner.memory.budget import Spent, available_bytes, budget_bytes, effective_utilization
from planner.memory.cache import cache_table, drafted_states
from planner.memory.extras import draft_inputs, draft_layers, draft_weight_bytes, lora_bytes
from planner.memory.placement import Placement, Placements, placements
from planner.memory.table import CacheTable, sequence_bytes
from planner.memory.terms import Floats, MemoryInputs, floats, slot_tokens
from planner.memory.weights import (
    held_bytes,
    host_weight_bytes,
    largest_layer_bytes,
    offloaded_bytes,
    weight_bytes_per_gpu,
)
from planner.memory.workspace import unpacked_bytes
from planner.specs.engine import Allocation, EngineSpec
from planner.specs.model import ModelSpec

_ABSENT = 1e30  # bytes: finite, so that products with zero stay zero


class Stages(NamedTuple):
    """Everything known of each pipeline stage, (S, R), before the limiting one is picked."""

    spent: Spent
    budget: Floats  # (R,)
    exists: NDArray[np.bool_]  # whether the row has the stage
    available: Floats  # for pool and states; more than anything needs on stages that do not exist
    states: Floats  # of the sequences that run
    pool: Floats  # what the engine makes its cache of
    table: CacheTable
    largest_layer: Floats  # (R,): the largest tensor of one layer
    host: Floats  # (R,): in host memory, all stages together


def row_count(inputs: MemoryInputs) -> int:
    """R, the number of rows that all inputs broadcast to."""
    groups = (inputs.device, inputs.settings, inputs.load, inputs.parallel)
    own = (inputs.kv_k_bytes, inputs.kv_v_bytes, inputs.kv_head_bytes, inputs.value_bytes, inputs.tensor_bytes[0])
    return np.broadcast(*own, *(value for group in groups for value in group if value is not None)).size


def spent_bytes(model: ModelSpec, engine: EngineSpec, inputs: MemoryInputs, held: Floats, where: Placements) -> Spent:
    """(S, R): weights, activations, libraries and graphs on each stage; `held` as `held_bytes` gives it.

    Adapters and the draft model are loaded with the weights and count as such, as the engine's log does.
    """
    shape = (where.n_stages, len(where.rows))
    last = np.arange(shape[0]).reshape(-1, 1) == floats(inputs.parallel.pp) - 1
    weights = weight_bytes_per_gpu(model, engine, inputs, held, where) + lora_bytes(model, engine, inputs, where)
    weights = weights - offloaded_bytes(model, inputs, held, where) + unpacked_bytes(model, engine, inputs)
    activation = activation_bytes(model, engine, inputs, where)
    if inputs.draft is not None:
        alone = placements(inputs.draft.model, engine, draft_inputs(inputs), shape[1])
        weights = weights + np.where(last, draft_weight_bytes(engine, inputs, alone), 0.0)
        drafting = activation_bytes(inputs.draft.model, engine, draft_inputs(inputs), alone)
        activation = np.where(last, np.maximum(activation, drafting[:1]), activation)
    return Spent(
        np.broadcast_to(weights, shape),
        np.broadcast_to(activation, shape),
        np.broadcast_to(non_torch_bytes(engine, inputs.parallel, inputs.device), shape),
        np.broadcast_to(graph_bytes(model, engine, inputs), shape),
    )


def rank_concurrency(inputs: MemoryInputs) -> Floats:
    """Sequences of the load on one attention group of the replica."""
    return np.ceil(floats(inputs.load.concurrency) / floats(inputs.parallel.attention_dp))


def running_sequences(inputs: MemoryInputs, table: CacheTable, available: Floats) -> Floats:
    """(R,): sequences of the load that run at once: as many as asked for, allowed and held with cache and states."""
    one = sequence_bytes(table, floats(inputs.load.input_tokens) + inputs.load.output_tokens)
    held = np.floor(np.maximum(available, 0) / np.maximum(one, 1))
    fitting = np.min(np.where(one > 0, held, np.inf), axis=0)
    asked = np.minimum(rank_concurrency(inputs), inputs.settings.max_num_seqs)
    return floats(np.minimum(asked, np.maximum(fitting, 1)))


def set_aside_bytes(engine: EngineSpec, inputs: MemoryInputs, table: CacheTable, left: Floats) -> Floats:
    """(S, R): what an engine sets aside of the memory that is left for recurrent states.

    A share of it, less what verifies drafts of more sequences than may run; or the states of the sequences that are
    stated, where no prefixes are cached. Ref: sglang kv_cache_configurator.py _handle_max_mamba_cache.
    """
    budget, most = engine.cache.state_share * left, floats(inputs.settings.max_num_seqs)
    drafted = drafted_states(engine, inputs)
    idle = np.maximum(np.floor(budget / np.maximum(table.state_bytes, 1)) - most, 0)
    shared = budget - idle * table.state_bytes * drafted / (engine.cache.state_slots + drafted)
    asked = np.minimum(most * table.state_bytes, left)
    return np.where(table.state_bytes > 0, np.where(inputs.settings.states_asked, asked, shared), 0.0)


def stages_of(model: ModelSpec, engine: EngineSpec, inputs: MemoryInputs) -> Stages:
    """Spend the budget on every stage and size the cache from the rest."""
    rows = row_count(inputs)
    held, where = held_bytes(model, engine, inputs), placements(model, engine, inputs, rows)
    spent = spent_bytes(model, engine, inputs, held, where)
    table = cache_table(model, engine, inputs, where, draft_layers(engine, inputs, where))
    taken = effective_utilization(model, engine, inputs.device, inputs.settings, inputs.settings.utilization)
    budget = np.broadcast_to(budget_bytes(engine, inputs.device, taken), (rows,))
    stage = np.arange(spent.weights.shape[0]).reshape(-1, 1)
    left = available_bytes(engine, budget, inputs.settings.utilization, spent)
    if table.slot_bytes is not None:
        left = left - table.slot_bytes * inputs.settings.max_num_seqs
    exists = stage < np.broadcast_to(inputs.parallel.pp, (rows,))
    available = np.where(exists, left, _ABSENT)
    states = table.state_bytes * running_sequences(inputs, table, available)
    if engine.cache.state_share:
        states = set_aside_bytes(engine, inputs, table, np.maximum(left, 0))
    pool = available if engine.cache.state_in_pool else available - states
    if engine.cache.allocation is Allocation.CONTEXT:
        slots = floats(inputs.settings.max_num_seqs)
        states = slots * table.state_bytes
        pool = slots * sequence_bytes(table, slot_tokens(inputs)) - states
    return Stages(
        spent=spent,
        budget=budget,
        exists=exists,
        available=available,
        states=states,
        pool=np.maximum(pool, 0),
        table=table,
        largest_layer=largest_layer_bytes(model, held),
        host=host_bytes(model, engine, inputs, held, where),
    )


def host_bytes(model: ModelSpec, engine: EngineSpec, inputs: MemoryInputs, held: Floats, where: Placements) -> Floats:
    """(R,): what one replica keeps in host memory: tables, layers with their cache and states, offloaded weights."""
    moved = np.sum(offloaded_bytes(model, inputs, held, where), axis=0) * floats(inputs.parallel.tp)
    host_bytes = host_weight_bytes(model, inputs, where) + moved + np.zeros(len(where.rows))
    if not any(one.host_layers for one in where.distinct):
        return floats(host_bytes)
    there = Placements(tuple(Placement((one.host_layers,)) for one in where.distinct), where.rows)
    table = cache_table(model, engine, inputs._replace(parallel=inputs.parallel._replace(tp=1, pp=1)), there)
    return floats(host_bytes + inputs.settings.max_num_seqs * sequence_bytes(table, slot_tokens(inputs))[0])
