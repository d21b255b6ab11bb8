"""How many sequences a pool holds, and how long they can be."""

from __future__ import annotations

import numpy as np

from planner.memory.cache import CacheTable, sequence_bytes, shared_bytes
from planner.memory.terms import Array, Floats, Load
from planner.specs.engine import EngineSpec

_BISECTIONS = 27  # halvings of 2^26 tokens


def usable_bytes(table: CacheTable, engine: EngineSpec, pool_bytes: Floats) -> Floats:
    """(S, R): whole blocks of the pool, the null block taken off."""
    block = np.maximum(table.pool_block_bytes, 1e-9)
    blocks = np.floor(np.maximum(pool_bytes, 0) / block) - engine.cache.null_blocks
    return np.where(table.pool_block_bytes > 0, np.maximum(blocks, 0) * block, np.maximum(pool_bytes, 0))


def load_bytes(table: CacheTable, load: Load, output_part: float, live: bool) -> tuple[Floats, Floats]:
    """(S, R) bytes of the shared prefix, and of one sequence beside it, `output_part` of the output written."""
    shared = shared_bytes(table, np.minimum(load.shared_prefix_tokens, load.input_tokens))
    tokens = np.asarray(load.input_tokens) + output_part * np.asarray(load.output_tokens)
    return shared, np.maximum(sequence_bytes(table, tokens, live) - shared, 0)


def sequences_that_fit(usable: Floats, shared: Floats, private: Floats) -> Floats:
    """(S, R): (pool - shared prefix) / bytes of one sequence; infinite where a sequence leaves nothing."""
    left = np.maximum(usable - shared, 0)
    return np.where(private > 0, left / np.maximum(private, 1e-9), np.inf)


def longest_context(table: CacheTable, usable: Floats, sequences: Array, limit: int) -> Floats:
    """(R,): longest sequence of which `sequences` fit at once on every stage, by bisection, at most `limit`."""
    low = np.zeros(usable.shape[-1])
    high = np.full_like(low, limit + 1.0)
    budget = usable / np.maximum(np.asarray(sequences, dtype=float), 1)
    for _ in range(_BISECTIONS):
        middle = np.floor((low + high) / 2)
        fits = np.all(sequence_bytes(table, middle) <= budget, axis=0)
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
    return np.minimum(low, limit)
