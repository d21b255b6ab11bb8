"""Seconds of an operation on a GPU: one calibrated form for every kernel.

    t = t0 + k_s K + ((bytes/B)^p + (FLOPs (1 + k0/K)/F + a)^p)^(1/p)

t0: launch and tail of a kernel. k_s: seconds per input feature, the serial part of a tall inner loop.
B, F: attained bytes/s and FLOP/s, not peaks. p: how sharply the kernel turns from one bound to the other.
k0: inner length at which half of the arithmetic is start-up (K: inputs of a product, tokens attended).
a: start-up of a collective, which hides under its transfer. Source of the form: fits to the operator
measurements of ai-dynamo/aiconfigurator@095f58a (Apache-2.0): 3 to 7 % median on unseen bf16 shapes.

`Rates` also describes kernels for few rows and kernels that work in whole tiles. A calibrated family may carry a table
of residuals R: its time is then multiplied by exp(R(log m, log n, log k)).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.arrays import PerRow
from planner.collectives import TINY, Array, p_norm
from planner.ops import Op, Slot
from planner.specs.calibration import ResidualTable

BLOCK_ROWS = 2048  # rows priced at a time, so that a block's arrays stay in the cache
SHRINK = 0.7  # of a residual outside of the grid that was measured
SLACK_OCTAVES = 0.2  # beyond a grid's last node that still count as inside
# The common grid of residuals: first and last octave of m, n and k, and nodes per octave.
FIRST, LAST, PER_OCTAVE = (0, 7, 6), (17, 18, 17), (1, 2, 2)
NODES = tuple((last - first) * each + 1 for first, last, each in zip(FIRST, LAST, PER_OCTAVE, strict=True))


GRID = np.array([FIRST, PER_OCTAVE, NODES])
# Offsets of a cell's corners in a flat table, k fastest.
CORNERS = np.array([(m * NODES[1] + n) * NODES[2] + k for m in (0, 1) for n in (0, 1) for k in (0, 1)])


class Rates(NamedTuple):
    """Kernel rates by `ops.Slot`; every field has shape (slots, R), or (slots, 1) for one scenario."""

    t0_s: PerRow
    k_s: PerRow  # seconds per input feature
    bytes_per_s: PerRow
    flops_per_s: PerRow
    p: PerRow
    k0: PerRow
    quantize_bytes: PerRow  # moved per input value to quantize activations before the product
    latency_s: PerRow  # of a collective
    few_rows: PerRow  # products of at most this many rows per matrix run in a kernel of vectors ...
    few_flops_per_s: PerRow  # ... whose arithmetic this bounds
    tile_rows: PerRow  # of the other kernel: its arithmetic is done for whole tiles
    tile_spare: PerRow  # of a tile that one of many matrices leaves half empty: at most so many times what it fills


class PricedOps(NamedTuple):
    """Seconds of every operation in a step, all its executions together (n_ops, R), and their parts.

    Parts are what each bound alone would take: start-up and launches, memory, arithmetic. `total` is not
    their sum but their soft maximum.
    """

    total: Array
    start: Array
    memory: Array
    compute: Array


class Residuals(NamedTuple):
    """Tables on the common grid (T, nodes), table 0 being all zeros, and which one corrects a slot in a row.

    `which` has shape (slots, R) or (slots, 1).
    """

    tables: Array
    which: NDArray[np.int64]


def _cells(x: Array, nodes: Array) -> tuple[NDArray[np.int64], Array, NDArray[np.bool_]]:
    """Cell of each x among the nodes, position in it (0..1), and whether x lies beyond them."""
    inside = np.clip(x, nodes[0], nodes[-1])
    cell = np.clip(np.searchsorted(nodes, inside, side="right") - 1, 0, max(len(nodes) - 2, 0))
    width = np.diff(nodes, append=nodes[-1] + 1)[cell]
    return cell, (inside - nodes[cell]) / width, np.abs(x - inside) > SLACK_OCTAVES


def table_residual(table: ResidualTable, m: PerRow, n: PerRow, k: PerRow) -> Array:
    """Trilinear residual at (m, n, k): held at the edge of the table, and shrunk beyond it."""
    axes = [np.array(axis) for axis in (table.m, table.n, table.k)]
    grid = np.array(table.values).reshape([len(axis) for axis in axes])
    places = [_cells(np.log2(np.maximum(x, 1.0)), axis) for x, axis in zip((m, n, k), axes, strict=True)]
    total = np.zeros(np.broadcast_shapes(*(np.shape(cell) for cell, _, _ in places)))
    for corner in np.ndindex(2, 2, 2):
        at = [np.minimum(p[0] + up, len(axis) - 1) for p, up, axis in zip(places, corner, axes, strict=True)]
        weight = [p[1] if up else 1 - p[1] for p, up in zip(places, corner, strict=True)]
        total = total + weight[0] * weight[1] * weight[2] * grid[tuple(at)]
    beyond = places[0][2] | places[1][2] | places[2][2]
    return np.asarray(np.where(beyond, SHRINK * total, total))


def on_common_grid(table: ResidualTable) -> Array:
    """The table at every node of the common grid, flat: what `Residuals.tables` holds."""
    axes = [np.linspace(first, last, count) for first, last, count in zip(FIRST, LAST, NODES, strict=True)]
    m, n, k = np.meshgrid(*(2**axis for axis in axes), indexing="ij")
    return table_residual(table, m, n, k).ravel()


def _correction(residuals: Residuals, at: NDArray[np.int64], axes: Array) -> Array:
    """exp(R) for operations whose m, n, k are `axes` (3, ...) and whose tables are `at`, all of one shape."""
    first, each, count = GRID.reshape(3, 3, *(1,) * (axes.ndim - 1))
    place = np.clip((np.log2(np.maximum(axes, 1.0)) - first) * each, 0, count - 1)
    whole = np.minimum(place.astype(np.int64), count - 2)
    (m, n, k), (fm, fn, fk) = whole, place - whole
    cell = at * residuals.tables.shape[1] + (m * NODES[1] + n) * NODES[2] + k
    found = np.take(residuals.tables, cell + CORNERS.reshape(8, *(1,) * cell.ndim))
    for position in (fk, fn, fm):
        low = found[0::2]
        found = low + position * (found[1::2] - low)
    return np.asarray(np.exp(found[0]))


def _corrected(total: Array, ops: Sequence[Op], m: Array, k: Array, residuals: Residuals, rows: slice) -> Array:
    """The block's times, those of slots with a table multiplied by it.

    n of the tables: outputs of a product; of decode attention the bytes of one cached token.
    """
    slots = _slots(ops)
    used = np.flatnonzero(residuals.which[slots].any(axis=1))
    if len(used):
        own, slots, shape = [ops[i] for i in used.tolist()], slots[used], total.shape[1:]
        axes = np.array((m[used], _rows([op.n for op in own], rows, shape), k[used]))
        decodes = np.flatnonzero(slots % len(Slot) == Slot.DECODE)
        moved = _rows([own[i].bytes for i in decodes.tolist()], rows, shape)
        axes[1, decodes] = moved / np.maximum(axes[0, decodes] * axes[2, decodes], 1.0)
        at = residuals.which[slots]
        at = at[:, rows] if at.shape[1] > 1 else at
        at = at if len(shape) == 1 else at[:, None, :]
        total[used] *= _correction(residuals, at, axes)
    return total


def _slots(ops: Sequence[Op]) -> NDArray[np.int64]:
    return np.array([op.rate for op in ops])


def _rows(values: Sequence[PerRow], rows: slice, shape: tuple[int, ...]) -> Array:
    """Stack per-operation scalars and arrays to (n_ops, *shape); only one-dimensional arrays are cut to `rows`."""
    stacked = np.empty((len(values), *shape))
    for index, value in enumerate(values):
        stacked[index] = value[rows] if len(shape) == 1 and getattr(value, "size", 1) > 1 else value
    return stacked


class _Parts(NamedTuple):
    """Of one execution of every operation: its time, and what each bound alone would take."""

    total: Array
    start: Array
    memory: Array
    compute: Array
    times: Array  # that it is executed


def _useful_share(rate: Rates, rows: Array, matrices: Array) -> Array:
    """Useful arithmetic over the full rate on `rows` rows of each of `matrices`; all of it where there are no tiles.

    Few rows run in a kernel of their own. One matrix fills ceil(rows / tile) tiles; of many, each leaves half a tile
    empty, at most `tile_spare` times what it fills.
    """
    half = rate.tile_rows / 2
    filled = half / rate.tile_spare
    whole = rows / (np.ceil(np.maximum(rows, 1.0) / rate.tile_rows) * rate.tile_rows)
    tiles = np.where(matrices > 1, 1 / (1 + half / np.maximum(rows, filled)), np.minimum(whole, 1.0))
    tiles = np.where(rate.tile_rows > 1, tiles, 1.0)
    found = np.where(rows <= rate.few_rows, rate.few_flops_per_s / rate.flops_per_s, np.maximum(tiles, TINY))
    return np.asarray(found)


def _block(ops: Sequence[Op], rates: Rates, residuals: Residuals | None, rows: slice, shape: tuple[int, ...]) -> _Parts:
    """Price one block of rows; the rates and the operations' costs are cut to it here."""
    slots = _slots(ops)
    rate = Rates(*((field[:, rows] if field.shape[1] > 1 else field)[slots] for field in rates))
    if len(shape) > 1:
        rate = Rates(*(field[:, None, :] for field in rate))
    k = _rows([op.k for op in ops], rows, shape)
    m = _rows([op.m for op in ops], rows, shape)
    memory = m * k
    memory *= rate.quantize_bytes
    memory += _rows([op.bytes for op in ops], rows, shape)
    memory /= rate.bytes_per_s
    compute = rate.k0 / k + 1
    compute *= _rows([op.flops for op in ops], rows, shape)
    compute /= rate.flops_per_s
    tiled = np.flatnonzero(np.any(((rate.few_rows > 0) | (rate.tile_rows != 1)).reshape(len(ops), -1), axis=1))
    if len(tiled):
        matrices = _rows([ops[i].matrices for i in tiled.tolist()], rows, shape)
        compute[tiled] /= _useful_share(Rates(*(field[tiled] for field in rate)), m[tiled] / matrices, matrices)
    start = rate.k_s * k
    start += rate.t0_s
    total = p_norm(memory, compute + rate.latency_s, rate.p)
    total += start
    if residuals is not None:
        total = _corrected(total, ops, m, k, residuals, rows)
    start += rate.latency_s
    return _Parts(total, start, memory, compute, _rows([op.count for op in ops], rows, shape))


def _whole(parts: _Parts) -> PricedOps:
    """All executions of every operation together."""
    return PricedOps(*(parts.times * part for part in parts[:-1]))


def _shape(ops: Sequence[Op], rates: Rates) -> tuple[int, ...]:
    """(R,), or (P, R) where a batch holds P steps of every row: the largest among the costs and the rates."""
    shapes = {value.shape for op in ops for value in op[3:] if isinstance(value, np.ndarray)}
    return np.broadcast_shapes((int(rates.t0_s.shape[1]),), *shapes)


def _blocks(shape: tuple[int, ...]) -> list[slice]:
    """Row blocks of a one-dimensional pricing; several steps at once are few enough to go together."""
    return [slice(i, i + BLOCK_ROWS) for i in range(0, shape[0], BLOCK_ROWS)] if len(shape) == 1 else [slice(None)]


def _cut(shape: tuple[int, ...], rows: slice) -> tuple[int, ...]:
    return (len(range(*rows.indices(shape[0]))),) if len(shape) == 1 else shape


def priced(ops: Sequence[Op], rates: Rates, residuals: Residuals | None = None) -> PricedOps:
    """Seconds of every operation in a step and their parts, each (n_ops, R) or (n_ops, P, R)."""
    shape = _shape(ops, rates)
    blocks = [_whole(_block(ops, rates, residuals, rows, _cut(shape, rows))) for rows in _blocks(shape)]
    return (
        blocks[0]
        if len(blocks) == 1
        else PricedOps(*(np.concatenate(part, axis=1) for part in zip(*blocks, strict=True)))
    )


def op_seconds(ops: Sequence[Op], rates: Rates, residuals: Residuals | None = None) -> Array:
    """Seconds of every operation in a step, all its executions together: (n_ops, R)."""
    return priced(ops, rates, residuals).total


def step_seconds(ops: Sequence[Op], rates: Rates, residuals: Residuals | None = None) -> Array:
    """Seconds of the step on the accelerator, one operation after the other: (R,), or (P, R) for P steps at once."""
    shape = _shape(ops, rates)
    total = np.empty(shape)
    for rows in _blocks(shape):
        parts = _block(ops, rates, residuals, rows, _cut(shape, rows))
        total[rows] = np.einsum("o...,o...->...", parts.times, parts.total)
    return total
