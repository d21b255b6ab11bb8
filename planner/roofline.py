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


def _rows(values: Sequence[Any], rows: slice, shape: tuple[int, ...]) -> Array:
    """Stack per-operation scalars and arrays to (n_ops, *shape); only one-dimensional arrays are cut to `rows`."""
    stacked = np.empty((len(values), *shape))
    for index, value in enumerate(values):
        stacked[index] = value[rows] if len(shape) == 1 and getattr(value, "size", 1) > 1 else value
    return stacked


def _block(ops: Sequence[Op], rates: Rates, rows: slice, shape: tuple[int, ...]) -> Priced:
    """Price one block of rows; the rates and the operations' costs are cut to it here."""
    slots = [op.rate for op in ops]
    rate = Rates(*(field[slots, rows] if field.shape[1] > 1 else field[slots] for field in rates))
    if len(shape) > 1:
        rate = Rates(*(field[:, None, :] for field in rate))
    k = _rows([op.k for op in ops], rows, shape)
    memory = _rows([op.m for op in ops], rows, shape) * k
    memory *= rate.quantize_bytes
    memory += _rows([op.bytes for op in ops], rows, shape)
    memory /= rate.bytes_per_s
    compute = rate.k0 / k + 1
    compute *= _rows([op.flops for op in ops], rows, shape)
    compute /= rate.flops_per_s
    start = rate.k_s * k
    start += rate.t0_s
    total = p_norm(memory, compute + rate.latency_s, rate.p)
    total += start
    count = _rows([op.count for op in ops], rows, shape)
    return Priced(count * total, count * (start + rate.latency_s), count * memory, count * compute)


def _shape(ops: Sequence[Op], rates: Rates) -> tuple[int, ...]:
    """(R,), or (P, R) where a batch holds P steps of every row: the largest among the costs and the rates."""
    shapes = {value.shape for op in ops for value in op[3:] if isinstance(value, np.ndarray)}
    return np.broadcast_shapes((int(rates.t0_s.shape[1]),), *shapes)


def _blocks(shape: tuple[int, ...]) -> list[slice]:
    """Row blocks of a one-dimensional pricing; several steps at once are few enough to go together."""
    return [slice(i, i + BLOCK_ROWS) for i in range(0, shape[0], BLOCK_ROWS)] if len(shape) == 1 else [slice(None)]


def _cut(shape: tuple[int, ...], rows: slice) -> tuple[int, ...]:
    return (len(range(*rows.indices(shape[0]))),) if len(shape) == 1 else shape


def priced(ops: Sequence[Op], rates: Rates) -> Priced:
    """Seconds of every operation in a step and their parts, each (n_ops, R) or (n_ops, P, R)."""
    shape = _shape(ops, rates)
    blocks = [_block(ops, rates, rows, _cut(shape, rows)) for rows in _blocks(shape)]
    return (
        blocks[0] if len(blocks) == 1 else Priced(*(np.concatenate(part, axis=1) for part in zip(*blocks, strict=True)))
    )


def op_seconds(ops: Sequence[Op], rates: Rates) -> Array:
    """Seconds of every operation in a step, all its executions together: (n_ops, R)."""
    return priced(ops, rates).total


def step_seconds(ops: Sequence[Op], rates: Rates) -> Array:
    """Seconds of the step on the accelerator, one operation after the other: (R,), or (P, R) for P steps at once."""
    shape = _shape(ops, rates)
    total = np.empty(shape)
    for rows in _blocks(shape):
        total[rows] = _block(ops, rates, rows, _cut(shape, rows)).total.sum(axis=0)
    return total
