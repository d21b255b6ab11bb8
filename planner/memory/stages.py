"""What every pipeline stage spends, and what is left to it for the cache."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.memory.activation import activation_bytes, graph_bytes, non_torch_bytes
from planner.memory.budget import Spent, available_bytes, budget_bytes
from planner.memory.cache import CacheTable, cache_table, sequence_bytes
from planner.memory.terms import Floats, MemoryInputs, floats, slot_tokens
from planner.memory.weights import held_bytes, largest_layer_bytes, weight_bytes_per_gpu
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


def row_count(inputs: MemoryInputs) -> int:
    """R, the number of rows that all inputs broadcast to."""
    groups = (inputs.device, inputs.settings, inputs.load, inputs.parallel)
    shapes = [np.shape(value) for group in groups for value in group if value is not None]
    shapes += [np.shape(inputs.kv_k_bytes), np.shape(inputs.kv_v_bytes), np.shape(inputs.kv_head_bytes)]
    shapes += [np.shape(inputs.value_bytes), np.shape(inputs.tensor_bytes)[1:]]
    return int(np.prod(np.broadcast_shapes(*shapes)))


def spent_bytes(model: ModelSpec, engine: EngineSpec, inputs: MemoryInputs, held: Floats) -> Spent:
    """(S, R): weights, activations, libraries and graphs on each stage; `held` as `held_bytes` gives it."""
    weights = np.maximum(weight_bytes_per_gpu(model, engine, inputs, held) - inputs.settings.cpu_offload_bytes, 0)
    shape = (weights.shape[0], row_count(inputs))
    return Spent(
        np.broadcast_to(weights, shape),
        np.broadcast_to(activation_bytes(model, engine, inputs, shape[0]), shape),
        np.broadcast_to(non_torch_bytes(engine, inputs.parallel), shape),
        np.broadcast_to(graph_bytes(model, engine, inputs), shape),
    )


def rank_concurrency(inputs: MemoryInputs) -> Floats:
    """Sequences of the load on one attention group of the replica."""
    return np.ceil(floats(inputs.load.concurrency) / floats(inputs.parallel.attention_dp))


def stages_of(model: ModelSpec, engine: EngineSpec, inputs: MemoryInputs) -> Stages:
    """Spend the budget on every stage and size the cache from the rest."""
    rows = row_count(inputs)
    held = held_bytes(model, engine, inputs)
    spent, table = spent_bytes(model, engine, inputs, held), cache_table(model, engine, inputs, rows)
    budget = np.broadcast_to(budget_bytes(engine, inputs.device, inputs.settings.utilization), (rows,))
    stage = np.arange(spent.weights.shape[0]).reshape(-1, 1)
    left = available_bytes(engine, budget, inputs.settings.utilization, spent)
    exists = stage < np.broadcast_to(inputs.parallel.pp, (rows,))
    available = np.where(exists, left, _ABSENT)
    running = np.minimum(rank_concurrency(inputs), inputs.settings.max_num_seqs)
    states = table.state_bytes * running
    if engine.cache.state_share:
        states = np.where(table.state_bytes > 0, engine.cache.state_share * np.maximum(left, 0), 0.0)
    pool = available if engine.cache.state_in_pool else available - states
    if engine.cache.allocation is Allocation.CONTEXT:
        slots = floats(inputs.settings.max_num_seqs)
        states = slots * table.state_bytes
        pool = slots * sequence_bytes(table, slot_tokens(inputs)) - states
    return Stages(
        spent, budget, exists, available, states, np.maximum(pool, 0), table, largest_layer_bytes(model, held)
    )
