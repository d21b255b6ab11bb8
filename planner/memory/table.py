"""What an engine's cache manager makes of a sequence.

A `CacheTable` reduces every cache manager to one formula: a sequence of n tokens takes
`sum over kinds of (ceil(min(n, cap) / block) + spare) * block_bytes + state_bytes` of its pool.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from planner.memory.terms import Array, Floats, floats

KINDS = -3  # axis of the kinds of cache, before those of stages and rows


class CacheTable(NamedTuple):
    """The cache manager's rules for these rows. K kinds of cache x S stages x R rows."""

    block_tokens: Floats  # (K, 1, R)
    cap_tokens: Floats  # (K, 1, R): most tokens of a sequence that the engine keeps room for
    live_tokens: Floats  # (K, 1, R): most tokens that a decoding sequence holds
    spare_blocks: Floats  # (K, 1, 1)
    block_bytes: Floats  # (K, S, R): one block in all layers of the kind, as the pool pays it
    pool_block_bytes: Floats  # (S, R): one block id of the pool
    token_bytes: Floats  # (S, R): one token in all layers, windows and padding aside
    state_bytes: Floats  # (S, R): recurrent states of one sequence
    groups: Floats  # (S, R): block tables per sequence
    share: Floats | None = None  # (K, 1, 1): tokens of each kind's own pool per token of the full one
    told_bytes: Floats | None = None  # (K, S, R): one block as the engine counts it where it tells what fits
    slot_bytes: Floats | None = None  # (S, R): beside the pool, of every sequence that may run
    one_step: bool = False  # in-flight tokens of all sequences together are those of a step, not of each


class LayersAndBytes(NamedTuple):
    """Kinds of cache: how many layers of each a stage holds, and bytes of one token or state in one layer."""

    layers: Floats  # (K, S, R)
    unit_bytes: Floats  # (K, 1, R)


class CacheLayers(NamedTuple):
    """All layers that keep something: kinds of attention with their reach in tokens, and kinds of recurrent state."""

    attention: LayersAndBytes
    reach: Floats  # (K, 1, 1)
    states: LayersAndBytes


def sequence_bytes(table: CacheTable, tokens: Array, live: bool = False) -> Floats:
    """(S, R): bytes of the pool that one sequence of `tokens` takes, its states included; (N, S, R) of (N, 1, 1, R).

    `live`: what it holds while it decodes; else what the engine keeps room for, in-flight tokens included.
    """
    cap = table.live_tokens if live else table.cap_tokens
    held = np.ceil(np.minimum(floats(tokens), cap) / table.block_tokens) + table.spare_blocks
    if table.share is None:
        return floats((held * table.block_bytes).sum(axis=KINDS) + table.state_bytes)
    return floats(np.max(held / table.share, axis=KINDS) * table.pool_block_bytes + table.state_bytes)


def shared_bytes(table: CacheTable, prefix_tokens: Array) -> Floats:
    """(S, R): bytes of a prefix that live sequences share, whole blocks of the layers that see all of it."""
    blocks = np.floor(floats(prefix_tokens) / table.block_tokens)
    return floats(np.sum(np.where(np.isinf(table.live_tokens), blocks * table.block_bytes, 0.0), axis=0))
