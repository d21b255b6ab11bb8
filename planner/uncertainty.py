"""80 % intervals of the figures of an estimate, from half-widths by level of evidence.

A factor's error is log-normal: a figure x with relative half-width w lies in [x / (1 + w), x (1 + w)].
Independent errors add in squares of ln(1 + w); what is a difference of sizes adds in squares of bytes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
TINY = np.finfo(np.float64).tiny


class HalfWidths(NamedTuple):
    """Relative half-widths of 80 % intervals; arrays (R,) or scalars."""

    budget: Any  # what is taken of it that no term explains
    device: Any
    weights: Any
    activation: Any
    non_torch: Any
    cuda_graph: Any
    sequence: Any  # cache bytes of one sequence
    decode_operators: Any
    prefill_operators: Any
    decode_engine: Any
    prefill_engine: Any
    queue: Any


class Interval(NamedTuple):
    """The 80 % interval of a figure, in its unit."""

    low: Array
    high: Array


def combined(*widths: Array) -> Array:
    """Half-width of a product of independent factors: ln(1 + w) adds in squares."""
    squares = sum(np.log1p(np.asarray(width, dtype=float)) ** 2 for width in widths)
    return np.asarray(np.expm1(np.sqrt(squares)))


def interval(value: Array, width: Array) -> Interval:
    """[x / (1 + w), x (1 + w)]; nan and inf stay what they are."""
    factor = 1 + np.asarray(width, dtype=float)
    return Interval(np.asarray(value / factor), np.asarray(value * factor))


class MemoryParts(NamedTuple):
    """What a GPU's memory is spent on, bytes; arrays (R,)."""

    budget: Any
    weights: Any
    activation: Any
    non_torch: Any
    cuda_graph: Any  # 0 where the engine takes graphs from outside the budget
    pool: Any  # what is left for the cache


def pool_half_width_bytes(parts: MemoryParts, widths: HalfWidths) -> Array:
    """Half-width of the pool in bytes: errors of the terms that it is the difference of add in squares.

    The last is what no term explains: a share of the budget, because that is what engines lose whole parts of, to
    workspaces, samplers, temporaries of the loader or pages of the system, however small the terms or the pool are.
    """
    squares = (
        ((np.asarray(widths.device) ** 2 + np.asarray(widths.budget) ** 2) * np.asarray(parts.budget) ** 2)
        + (widths.weights * parts.weights) ** 2
        + (widths.activation * parts.activation) ** 2
        + (widths.non_torch * parts.non_torch) ** 2
        + (widths.cuda_graph * parts.cuda_graph) ** 2
    )
    return np.asarray(np.sqrt(squares))


def pool_interval(parts: MemoryParts, widths: HalfWidths) -> Interval:
    """Interval of the KV pool in bytes, at least 0."""
    half = pool_half_width_bytes(parts, widths)
    return Interval(np.maximum(parts.pool - half, 0), np.maximum(parts.pool + half, 0))


def sequences_interval(sequences: Array, parts: MemoryParts, widths: HalfWidths) -> Interval:
    """Interval of how many sequences the pool holds, from those of the pool and of one sequence's cache."""
    holds = np.asarray(parts.pool) > 0
    half = pool_half_width_bytes(parts, widths) / np.where(holds, parts.pool, 1)
    up = np.where(holds, combined(half, widths.sequence), 0)
    left = np.clip(1 - half, 0, 1)
    down = np.where(left > 0, combined(half / np.where(left > 0, left, 1), widths.sequence), np.inf)
    return Interval(np.where(holds, sequences / (1 + down), 0), sequences * (1 + up))


def fit_confidence(needed_bytes: Array, pool: Interval) -> NDArray[np.str_]:
    """yes: fits at the low end of the pool's interval; no: not even at its high end; tight: the line is inside."""
    sure, hopeless = needed_bytes <= pool.low, needed_bytes > pool.high
    return np.where(sure, "yes", np.where(hopeless, "no", "tight"))


class Shares(NamedTuple):
    """The parts of TTFT and of end-to-end time by which their intervals are weighed, seconds; arrays (R,)."""

    ttft_s: Any
    ttft_unloaded_s: Any
    slot_wait_s: Any
    e2e_s: Any


class TimeWidths(NamedTuple):
    """Relative half-widths of the times and rates of an estimate."""

    tpot: Array
    ttft_unloaded: Array  # and prefill tokens/s
    ttft: Array
    e2e: Array  # and a closed loop's rates


def time_widths(shares: Shares, widths: HalfWidths, pool_width: Array) -> TimeWidths:
    """Half-widths of times.

    TTFT: what a lone prompt does not take is queueing. A wait for a slot lasts as the steps of others do, and is the
    difference between the whole loop's time, which falls as the pool grows, and the rest: `pool_width` counts
    (wait + rest) / TTFT times. End to end: what a slot is held for, TTFT and decode weighted by their times as if their
    errors went together; where requests wait for slots, the rate goes with how many there are.
    """
    tpot = combined(widths.decode_operators, widths.decode_engine)
    alone = combined(widths.prefill_operators, widths.prefill_engine)
    ttft_s = np.maximum(shares.ttft_s, TINY)
    queued = np.clip(1 - shares.ttft_unloaded_s / ttft_s, 0, 1)
    waited = np.clip(np.asarray(shares.slot_wait_s) / ttft_s, 0, 1)
    slots = np.where(waited > 0, np.minimum(shares.e2e_s / ttft_s, 1 / np.maximum(queued, TINY)) * pool_width, 0)
    ttft = combined(waited * tpot + (1 - waited) * alone, queued * widths.queue, slots)
    return TimeWidths(tpot, alone, ttft, _held(shares, widths, pool_width, tpot, alone))


def _held(shares: Shares, widths: HalfWidths, pool_width: Array, tpot: Array, alone: Array) -> Array:
    wait_s, e2e_s = np.asarray(shares.slot_wait_s), np.maximum(shares.e2e_s, TINY)
    first_s, held_s = np.maximum(shares.ttft_s - wait_s, TINY), np.maximum(e2e_s - wait_s, TINY)
    queued = np.clip(1 - shares.ttft_unloaded_s / first_s, 0, 1)
    first = np.clip(first_s / held_s, 0, 1)
    slots = np.minimum(pool_width, wait_s / held_s)
    return combined(first * combined(alone, queued * widths.queue) + (1 - first) * tpot, slots)
