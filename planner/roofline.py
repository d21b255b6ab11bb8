"""What an operation costs on a GPU: one calibrated form for every kernel.

    t = t0 + k_s K + ((bytes/B)^p + (FLOPs (1 + k0/K)/F + a)^p)^(1/p)

t0: launch and tail of a kernel. k_s: seconds per input feature, the serial part of a tall inner loop.
B, F: attained bytes/s and FLOP/s, not peaks. p: how sharply the kernel turns from one bound to the other.
k0: inner length at which half of the arithmetic is start-up (K: inputs of a product, tokens attended).
a: start-up of a collective, which hides under its transfer. Source of the form: fits to the operator
measurements of ai-dynamo/aiconfigurator@095f58a (Apache-2.0): 3 to 7 % median on unseen bf16 shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from planner.collectives import Array, p_norm
from planner.ops import Op

BLOCK_ROWS = 4096  # rows priced at a time, so that a block's arrays stay in the cache


class Rates(NamedTuple):
    """Kernel rates by `ops.Slot`; every field has shape (slots, R), or (slots, 1) for one scenario."""

    t0_s: Any
    k_s: Any  # seconds per input feature
    bytes_per_s: Any
    flops_per_s: Any
    p: Any
    k0: Any
    quantize_bytes: Any  # moved per input value to quantize activations before the product
    latency_s: Any  # of a collective


class Priced(NamedTuple):
    """Seconds of every operation in a step, all its executions together (n_ops, R), and their parts.

    Parts are what each bound alone would take: start-up and launches, memory, arithmetic. `total` is not
    their sum but their soft maximum.
    """

    total: Array
    start: Array
    memory: Array
    compute: Array


def _rows(values: Sequence[Any], rows: slice, width: int) -> Array:
    """Stack per-operation scalars and arrays to (n_ops, width)."""
    stacked = np.empty((len(values), width))
    for index, value in enumerate(values):
        stacked[index] = value[rows] if np.ndim(value) and np.size(value) > 1 else value
    return stacked


def _block(ops: Sequence[Op], rates: Rates, rows: slice, width: int) -> Priced:
    """Price one block of rows; the rates and the operations' costs are cut to it here."""
    slots = [op.rate for op in ops]
    rate = Rates(*(field[slots, rows] if field.shape[1] > 1 else field[slots] for field in rates))
    k = _rows([op.k for op in ops], rows, width)
    memory = _rows([op.m for op in ops], rows, width) * k
    memory *= rate.quantize_bytes
    memory += _rows([op.bytes for op in ops], rows, width)
    memory /= rate.bytes_per_s
    compute = rate.k0 / k + 1
    compute *= _rows([op.flops for op in ops], rows, width)
    compute /= rate.flops_per_s
    start = rate.k_s * k
    start += rate.t0_s
    total = p_norm(memory, compute + rate.latency_s, rate.p)
    total += start
    count = _rows([op.count for op in ops], rows, width)
    return Priced(count * total, count * (start + rate.latency_s), count * memory, count * compute)


def _width(ops: Sequence[Op], rates: Rates) -> int:
    """Rows priced together: the longest array among the costs and the rates."""
    return max(int(rates.t0_s.shape[1]), *(np.size(value) for op in ops for value in op[3:]))


def priced(ops: Sequence[Op], rates: Rates) -> Priced:
    """Seconds of every operation in a step and their parts, each (n_ops, R)."""
    width = _width(ops, rates)
    starts = range(0, width, BLOCK_ROWS)
    blocks = [_block(ops, rates, slice(i, i + BLOCK_ROWS), min(BLOCK_ROWS, width - i)) for i in starts]
    return (
        blocks[0] if len(blocks) == 1 else Priced(*(np.concatenate(part, axis=1) for part in zip(*blocks, strict=True)))
    )


def op_seconds(ops: Sequence[Op], rates: Rates) -> Array:
    """Seconds of every operation in a step, all its executions together: (n_ops, R)."""
    return priced(ops, rates).total


def step_seconds(ops: Sequence[Op], rates: Rates) -> Array:
    """Seconds of the step on the accelerator, one operation after the other: (R,)."""
    width = _width(ops, rates)
    total = np.empty(width)
    for i in range(0, width, BLOCK_ROWS):
        rows = slice(i, i + BLOCK_ROWS)
        total[rows] = _block(ops, rates, rows, min(BLOCK_ROWS, width - i)).total.sum(axis=0)
    return total
