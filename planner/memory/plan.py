"""Assembles a memory plan from its terms: which stage limits, what the pool holds, what breaks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from planner.memory.activation import activation_bytes, graph_bytes, non_torch_bytes
from planner.memory.budget import Spent, available_bytes, budget_bytes, free_bytes, outside_bytes
from planner.memory.cache import CacheTable, cache_table, sequence_bytes
from planner.memory.concurrency import load_bytes, longest_context, sequences_that_fit, usable_bytes
from planner.memory.terms import Floats, KvCapacity, MemoryInputs, MemoryPlan, Terms, Verdict
from planner.memory.weights import largest_layer_bytes, weight_bytes_per_gpu
from planner.specs.engine import Allocation, BudgetRule, EngineSpec
from planner.specs.model import ModelSpec

_TINY = 1e-9  # keeps 0 / 0 out of masked divisions

# What can keep an engine from starting, in the order in which it meets them.
BREAKS = ("reserved", "weights", "activation", "kv_cache", "max_model_len", "cuda_graphs")


class Stages(NamedTuple):
    """Everything known of each pipeline stage, (S, R), before the limiting one is picked."""

    spent: Spent
    budget: Floats  # (R,)
    available: Floats  # for pool and states; infinite on stages that a row does not have
    states: Floats  # of the sequences that run
    pool: Floats  # what the engine makes its cache of
    table: CacheTable


def row_count(inputs: MemoryInputs) -> int:
    """R, the number of rows that all inputs broadcast to."""
    groups = (inputs.device, inputs.settings, inputs.load, inputs.parallel)
    shapes = [np.shape(value) for group in groups for value in group if value is not None]
    shapes += [np.shape(inputs.kv_k_bytes), np.shape(inputs.kv_v_bytes), np.shape(inputs.kv_head_bytes)]
    shapes += [np.shape(inputs.value_bytes), np.shape(inputs.tensor_bytes)[1:]]
    return int(np.prod(np.broadcast_shapes(*shapes)))


def spent_bytes(model: ModelSpec, engine: EngineSpec, inputs: MemoryInputs, rows: int) -> Spent:
    """(S, R): weights, activations, libraries and graphs on each stage."""
    weights = weight_bytes_per_gpu(model, engine, inputs.tensor_bytes, inputs.parallel)
    weights = np.maximum(weights - np.asarray(inputs.settings.cpu_offload_bytes), 0)
    shape = (weights.shape[0], rows)
    return Spent(
        np.broadcast_to(weights, shape),
        np.broadcast_to(activation_bytes(model, engine, inputs, shape[0]), shape),
        np.broadcast_to(non_torch_bytes(engine, inputs.parallel), shape),
        np.broadcast_to(graph_bytes(model, engine, inputs), shape),
    )


def rank_concurrency(inputs: MemoryInputs) -> Floats:
    """Sequences of the load on one attention group of the replica."""
    return np.ceil(np.asarray(inputs.load.concurrency, dtype=float) / np.asarray(inputs.parallel.attention_dp))


def slot_tokens(inputs: MemoryInputs) -> Floats:
    """Context of one slot: max_model_len where it was given, else what the load needs."""
    needed = np.asarray(inputs.load.input_tokens, dtype=float) + np.asarray(inputs.load.output_tokens)
    return np.where(inputs.settings.max_model_len_given, inputs.settings.max_model_len, needed)


def stages_of(model: ModelSpec, engine: EngineSpec, inputs: MemoryInputs) -> Stages:
    """Spend the budget on every stage and size the cache from the rest."""
    rows = row_count(inputs)
    spent = spent_bytes(model, engine, inputs, rows)
    table = cache_table(model, engine, inputs, rows)
    budget = np.broadcast_to(budget_bytes(engine, inputs.device, inputs.settings.utilization), (rows,))
    stage = np.arange(spent.weights.shape[0]).reshape(-1, 1)
    exists = stage < np.broadcast_to(np.asarray(inputs.parallel.pp), (rows,))
    left = available_bytes(engine, budget, inputs.settings.utilization, spent)
    available = np.where(exists, left, np.inf)
    running = np.minimum(rank_concurrency(inputs), inputs.settings.max_num_seqs)
    states = table.state_bytes * running
    if engine.cache.state_share:
        states = np.where(table.state_bytes > 0, engine.cache.state_share * np.maximum(left, 0), 0.0)
    pool = available - (0.0 if engine.cache.state_in_pool else states)
    if engine.cache.allocation is Allocation.CONTEXT:
        slots = np.asarray(inputs.settings.max_num_seqs, dtype=float)
        pool = slots * (sequence_bytes(table, slot_tokens(inputs)) - table.state_bytes)
        states = slots * table.state_bytes
    return Stages(spent, budget, available, states, np.maximum(pool, 0), table)


def _sequences(engine: EngineSpec, inputs: MemoryInputs, stages: Stages, output_part: float, live: bool) -> Floats:
    """(S, R): sequences that each stage holds, a fraction."""
    table, pool = stages.table, stages.available
    if engine.cache.state_share:
        table = table._replace(state_bytes=np.zeros_like(table.state_bytes))
        pool = stages.pool
    shared, private = load_bytes(table, inputs.load, output_part, live)
    fitting = sequences_that_fit(usable_bytes(table, engine, pool), shared, private)
    if engine.cache.state_share:
        held = np.floor(stages.states / np.maximum(stages.table.state_bytes, _TINY))
        fitting = np.where(stages.table.state_bytes > 0, np.minimum(fitting, held), fitting)
    return fitting


def _capacity(model: ModelSpec, engine: EngineSpec, inputs: MemoryInputs, stages: Stages) -> KvCapacity:
    table, settings = stages.table, inputs.settings
    groups = np.asarray(inputs.parallel.attention_dp, dtype=float)
    blocks = np.floor(stages.pool / np.maximum(table.pool_block_bytes, _TINY))
    blocks = np.min(np.where(table.pool_block_bytes > 0, blocks, np.inf), axis=0)
    blocks = np.where(np.isfinite(blocks), blocks, 0.0)
    full = np.maximum(sequence_bytes(table, settings.max_model_len), _TINY)
    at_full = np.min(np.where(full > _TINY, blocks * table.pool_block_bytes / full, np.inf), axis=0)
    at_full = np.where(np.isfinite(at_full), at_full, 0.0)
    block_tokens = np.min(table.block_tokens, axis=(0, 1)) if len(table.block_tokens) else np.zeros_like(blocks)
    tokens = np.floor(blocks / np.maximum(np.max(table.groups, axis=0), 1)) * block_tokens
    if engine.cache.tokens_from_concurrency:
        tokens = np.floor(at_full * np.asarray(settings.max_model_len))
    guaranteed = np.floor(np.min(_sequences(engine, inputs, stages, 1.0, live=False), axis=0))
    expected = np.min(_sequences(engine, inputs, stages, 0.5, live=True), axis=0)
    shared, private = load_bytes(table, inputs.load, 1.0, live=False)
    needed = np.max(shared + rank_concurrency(inputs) * private, axis=0)
    longest = longest_context(
        table, usable_bytes(table, engine, stages.available), rank_concurrency(inputs), model.max_position
    )
    pool = np.min(np.where(np.isfinite(stages.available), stages.pool, np.inf), axis=0)
    return KvCapacity(
        kv_bytes_per_token=np.max(table.token_bytes, axis=0),
        kv_needed_bytes=needed,
        kv_occupancy=np.where(pool > 0, needed / np.maximum(pool, _TINY), np.where(needed > 0, np.inf, 0.0)),
        kv_pool_tokens=tokens,
        kv_blocks=blocks,
        max_concurrency=np.minimum(guaranteed, settings.max_num_seqs) * groups,
        max_concurrency_at_max_model_len=at_full,
        max_concurrency_expected=np.minimum(expected, settings.max_num_seqs) * groups,
        max_context_tokens=longest,
    )


def _limiting(stages: Stages, inputs: MemoryInputs) -> Floats:
    """(1, R): the stage whose cache holds the fewest sequences."""
    _, one = load_bytes(stages.table, inputs.load, 1.0, live=False)
    ratio = np.where(one > 0, stages.available / np.maximum(one, _TINY), np.where(stages.available < 0, -np.inf, np.inf))
    return np.argmin(ratio, axis=0)[None, :]


def _verdict(engine: EngineSpec, inputs: MemoryInputs, stages: Stages, kv: KvCapacity) -> Verdict:
    """The first term that does not fit, in the order in which the engine meets them."""
    spent, available = stages.spent, stages.available
    on_stages = np.isfinite(available)
    copies = np.asarray(inputs.device.copies, dtype=float)
    free = free_bytes(engine, inputs.device)
    length = slot_tokens(inputs)
    needed_tokens = np.asarray(inputs.load.input_tokens) + np.asarray(inputs.load.output_tokens)
    start = sequence_bytes(stages.table, np.maximum(length, needed_tokens))
    if engine.cache.allocation is Allocation.CONTEXT:
        start = stages.pool + stages.states
    one = sequence_bytes(stages.table, needed_tokens)
    null = engine.cache.null_blocks * stages.table.pool_block_bytes
    outside = stages.budget * copies + outside_bytes(engine, spent) * copies - free
    before = available_bytes(engine, stages.budget, 1.0, spent)
    missing = np.stack(
        [
            np.broadcast_to((stages.budget * copies - free), available.shape),
            spent.weights - stages.budget,
            -before,
            one + null - available,
            start + null - available,
            outside,
        ]
    )
    missing[0] = missing[0] if engine.budget.rule is BudgetRule.TOTAL else 0.0
    missing = np.max(np.where(on_stages, missing, 0.0), axis=1)
    too_long = np.where(np.asarray(inputs.settings.max_model_len_given), needed_tokens > length, False)
    broken = missing > 0
    starts = ~np.any(broken, axis=0) & ~too_long
    first = np.argmax(broken, axis=0)
    names = np.asarray(BREAKS)
    code = np.where(starts, "", np.where(np.any(broken, axis=0), names[first], "context"))
    shortfall = np.where(np.any(broken, axis=0), np.take_along_axis(missing, first[None], axis=0)[0], 0.0)
    holds = starts & (np.asarray(inputs.load.concurrency) <= kv.max_concurrency)
    return Verdict(starts, holds, shortfall, code)


def memory_plan(model: ModelSpec, engine: EngineSpec, inputs: MemoryInputs) -> MemoryPlan:
    """Memory of R deployments of one model under one engine.

    Formulas raise nothing: what does not fit is `verdict.starts == False`, with the missing bytes and the
    term that breaks.
    """
    stages = stages_of(model, engine, inputs)
    kv = _capacity(model, engine, inputs, stages)
    at = _limiting(stages, inputs)
    spent = Spent(*(np.take_along_axis(term, at, axis=0)[0] for term in stages.spent))
    pool, states = (np.take_along_axis(term, at, axis=0)[0] for term in (stages.pool, stages.states))
    copies, total = np.asarray(inputs.device.copies, dtype=float), np.asarray(inputs.device.total_bytes)
    reserved = np.broadcast_to(np.asarray(inputs.device.reserved_bytes, dtype=float), pool.shape)
    used = spent.total() + pool + (0.0 if engine.cache.state_in_pool else states)
    if engine.cache.allocation is Allocation.GROWING:
        used = spent.total() + np.minimum(kv.kv_needed_bytes, pool) + states
    terms = Terms(
        budget_bytes=stages.budget,
        weights_bytes=spent.weights,
        kv_pool_bytes=pool,
        recurrent_state_bytes=states,
        activation_bytes=spent.activation,
        non_torch_bytes=spent.non_torch,
        cuda_graph_bytes=spent.graphs,
        reserved_bytes=reserved,
        load_peak_bytes=spent.weights + spent.non_torch + largest_layer_bytes(model, engine, inputs),
        free_bytes=np.maximum(total - reserved - copies * used, 0.0),
    )
    return MemoryPlan(terms, kv, _verdict(engine, inputs, stages, kv))
