"""How many sequences a cache pool holds, and how long they can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from planner.memory.activation import activation_bytes
from planner.memory.budget import available_bytes
from planner.memory.placement import placements
from planner.memory.stages import Stages, rank_concurrency, stages_of
from planner.memory.table import CacheTable, sequence_bytes, shared_bytes
from planner.memory.terms import Array, Floats, KvCapacity, MemoryInputs, ReplicaLoad, floats, slot_tokens
from planner.specs.engine import Allocation, EngineSpec
from planner.specs.model import ModelSpec

LEAST_PARTS = 8  # into which a range is divided to look for a number in it; more ...
TOGETHER = 512  # ... where so few rows leave calls on small arrays
_TINY = 1e-9  # keeps 0 / 0 out of masked divisions


def usable_bytes(table: CacheTable, engine: EngineSpec, pool_bytes: Floats) -> Floats:
    """(S, R): whole blocks of the pool, the null block taken off."""
    blocks = np.floor(np.maximum(pool_bytes, 0) / np.maximum(table.pool_block_bytes, _TINY))
    whole = np.maximum(blocks - engine.cache.null_blocks, 0) * table.pool_block_bytes
    return np.where(table.pool_block_bytes > 0, whole, np.maximum(pool_bytes, 0))


def load_bytes(table: CacheTable, load: ReplicaLoad, output_part: Array, live: bool) -> tuple[Floats, Floats]:
    """(S, R) bytes of the shared prefix, and of one sequence beside it, `output_part` of its output written."""
    shared = shared_bytes(table, np.minimum(load.shared_prefix_tokens, load.input_tokens))
    once, own = once_and_each(table, load.input_tokens + output_part * floats(load.output_tokens), live)
    return shared + once, np.maximum(own - shared, 0)


def once_and_each(table: CacheTable, tokens: Array, live: bool = False) -> tuple[Floats, Floats]:
    """Bytes that sequences of `tokens` take all together for a step's tokens, and that each takes beside them."""
    own = sequence_bytes(table, tokens, live or table.one_step)
    return (np.zeros_like(own) if live else sequence_bytes(table, tokens) - own), own


def without_states(table: CacheTable) -> CacheTable:
    """The same rules where recurrent states live beside the pool."""
    return table._replace(state_bytes=np.zeros_like(table.state_bytes))


def sequences_that_fit(usable: Floats, shared: Floats, private: Floats) -> Floats:
    """(S, R): (pool - shared prefix) / bytes of one sequence; infinite where a sequence leaves nothing."""
    left = np.maximum(usable - shared, 0)
    return np.where(private > 0, left / np.maximum(private, _TINY), np.inf)


def sequences_held(engine: EngineSpec, inputs: MemoryInputs, stages: Stages, output_part: Array, live: bool) -> Floats:
    """(R,): sequences that the tightest stage holds, a fraction.

    Where states have a part of the memory to themselves, they limit the sequences on their own.
    """
    table, pool = stages.table, stages.available
    if engine.cache.state_share:
        table, pool = without_states(table), stages.pool
    fitting = sequences_that_fit(usable_bytes(table, engine, pool), *load_bytes(table, inputs.load, output_part, live))
    if engine.cache.state_share:
        slots = np.floor(stages.states / np.maximum(stages.table.state_bytes, _TINY))
        fitting = np.where(stages.table.state_bytes > 0, np.minimum(fitting, slots), fitting)
    return floats(np.min(fitting, axis=0))


def largest_fitting(fits: Callable[[Floats], Any], end: Floats) -> Floats:
    """(R,): the largest whole number below `end` (R,) that fits, or 0: what fits does so with all that is less.

    `fits` tells of (N, R) numbers. Looked for between marks, which each time stand closer.
    """
    rows = np.arange(len(end))
    parts = max(LEAST_PARTS, TOGETHER // len(end))
    shares = np.arange(parts + 1)[:, None] / parts
    low, high = np.zeros_like(end), end
    while np.any(high - low > 1):
        marks = np.floor(low + shares * (high - low))
        fitting = np.count_nonzero(fits(marks[1:-1]), axis=0)
        low, high = marks[fitting, rows], marks[fitting + 1, rows]
    return low


def longest_context(table: CacheTable, usable: Floats, sequences: Array, limit: int) -> Floats:
    """(R,): longest sequence of which `sequences` fit at once on every stage, at most `limit`."""

    def fits(tokens: Floats) -> Any:
        once, own = once_and_each(table, tokens[:, None, None])
        return np.all(once + np.maximum(sequences, 1) * own <= usable, axis=1)

    return largest_fitting(fits, np.full(usable.shape[-1], limit + 1.0))


def pool_blocks(stages: Stages) -> Floats:
    """(R,): blocks of the pool; all stages take the fewest that any has."""
    held = np.floor(stages.pool / np.maximum(stages.table.pool_block_bytes, _TINY))
    counts = stages.exists & (stages.table.pool_block_bytes > 0)
    fewest = np.min(np.where(counts, held, np.inf), axis=0)
    return np.where(np.isfinite(fewest), fewest, 0.0)


def concurrency_at(stages: Stages, blocks: Floats, tokens: Array) -> Floats:
    """(R,): sequences of `tokens` in the blocks of the pool, a fraction, as vLLM prints it."""
    table = stages.table
    one = sequence_bytes(table if table.told_bytes is None else table._replace(block_bytes=table.told_bytes), tokens)
    fitting = np.where(one > 0, blocks * stages.table.pool_block_bytes / np.maximum(one, _TINY), np.inf)
    tightest = np.min(fitting, axis=0)
    return np.where(np.isfinite(tightest), tightest, 0.0)


def printed_tokens(engine: EngineSpec, stages: Stages, blocks: Floats, at_max_len: Floats, max_len: Array) -> Floats:
    """(R,): tokens of the pool as the engine prints them.

    blocks / block tables per sequence x tokens of a block; newer vLLM prints concurrency x max_model_len.
    """
    if engine.cache.tokens_from_concurrency:
        return np.floor(at_max_len * max_len)
    if not len(stages.table.block_tokens):
        return np.zeros_like(blocks)
    tables = np.maximum(np.max(stages.table.groups, axis=0), 1)
    return floats(np.floor(blocks / tables) * np.min(stages.table.block_tokens, axis=(0, 1)))


def with_slots(inputs: MemoryInputs, slots: Array) -> MemoryInputs:
    """The same deployments, started for `slots` sequences."""
    return inputs._replace(settings=inputs.settings._replace(max_num_seqs=slots))


def slots_that_fit(model: ModelSpec, engine: EngineSpec, inputs: MemoryInputs, most: Floats) -> Floats:
    """(R,): slots whose whole contexts can be allocated at start, at most `most`; 0 when not even one can.

    Looked for, because the peak of a step grows with the slots too.
    """
    alone = stages_of(model, engine, with_slots(inputs, np.ones_like(most)))
    where = placements(model, engine, inputs, len(most))
    one = sequence_bytes(alone.table, slot_tokens(inputs))
    room = np.min(np.maximum(alone.available, 0) / np.maximum(one, _TINY), axis=0)  # beside the peak of one slot

    def fits(slots: Floats) -> Any:
        slots = slots[:, None]
        activation = activation_bytes(model, engine, with_slots(inputs, np.maximum(slots, 1)), where)
        spent = alone.spent._replace(activation=np.maximum(activation, alone.spent.activation))
        left = available_bytes(engine, alone.budget, inputs.settings.utilization, spent) - slots * one
        return np.all((left >= 0) | ~alone.exists, axis=1)

    return largest_fitting(fits, np.minimum(most, np.floor(room) + 1) + 1)


def capacity(model: ModelSpec, engine: EngineSpec, inputs: MemoryInputs, stages: Stages) -> KvCapacity:
    """What the pool holds."""
    table, settings, ranks = stages.table, inputs.settings, rank_concurrency(inputs)
    blocks = pool_blocks(stages)
    own_context = engine.cache.allocation is Allocation.CONTEXT
    max_len = slot_tokens(inputs) if own_context else settings.max_model_len
    at_max_len = concurrency_at(stages, blocks, max_len)
    guaranteed = np.floor(sequences_held(engine, inputs, stages, 1.0, live=False))
    expected = sequences_held(engine, inputs, stages, inputs.load.written, live=True)
    pooled = table if engine.cache.state_in_pool else without_states(table)
    shared, private = load_bytes(pooled, inputs.load, 1.0, live=False)
    needed = shared + ranks * private
    part = np.where(stages.pool > 0, needed / np.maximum(stages.pool, _TINY), np.inf)
    occupancy = np.where(stages.exists & (needed > 0), part, 0.0)
    usable = usable_bytes(table, engine, stages.available)
    return KvCapacity(
        kv_bytes_per_token=floats(np.max(table.token_bytes, axis=0)),
        kv_needed_bytes=floats(np.max(needed, axis=0)),
        kv_occupancy=floats(np.max(occupancy, axis=0)),
        kv_pool_tokens=printed_tokens(engine, stages, blocks, at_max_len, max_len),
        kv_blocks=blocks,
        max_concurrency=np.minimum(guaranteed, settings.max_num_seqs) * inputs.parallel.attention_dp,
        max_concurrency_at_max_model_len=at_max_len,
        max_concurrency_expected=np.minimum(expected, settings.max_num_seqs) * inputs.parallel.attention_dp,
        max_context_tokens=longest_context(table, usable, ranks, model.max_position),
    )
