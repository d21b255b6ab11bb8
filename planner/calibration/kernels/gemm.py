"""Products on the tensor cores with operands of 16 or 8 bits: tiles and references of src/gemm.cu."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from planner.calibration.kernels import numbers
from planner.calibration.kernels.grouping import (
    COMPARED_TOKENS,
    SPLITS,
    busiest,
    experts_of,
    group_arguments,
    group_operands,
    pieces,
    rows_of,
    spread,
    tiles_of,
    tokens_at,
    tokens_of,
    used_experts,
)
from planner.calibration.kernels.problem import (
    Array,
    Choice,
    DeviceLimits,
    Fill,
    Gemm,
    Grouped,
    Kernel,
    Operand,
    Pair,
    Problem,
    Role,
    Tile,
    nearest_splits,
)

ROW_BYTES = 128  # of inputs in a stage
SCALE_BLOCK = 128  # inputs, and rows of weights, that share a scale of the blockwise kind
SPLIT_TOKENS = 256  # more tokens give blocks enough without
PART_ROWS = 64  # rows of weights that one comparison looks at


class Operands(NamedTuple):
    """A type of operands: its number in the source, bytes, values, and what rounding the result may show."""

    number: int
    size_bytes: int
    decode: Callable[[Array], Array]
    weights_fill: Fill
    x_fill: Fill
    result: Callable[[Array], Array]
    tolerance: float
    blockwise: bool = False

    @property
    def scaled(self) -> bool:
        return self.size_bytes == 1


# FP8 sums: Hopper's tensor cores keep about 14 bits of a sum of FP8 products (DeepSeek-V3 report, section 3.3.2).
FP16 = Operands(0, 2, numbers.fp16, numbers.normal_fp16, numbers.normal_fp16, numbers.fp16, 2.0**-11)
BF16 = Operands(1, 2, numbers.bf16, numbers.normal_bf16, numbers.normal_bf16, numbers.bf16, 2.0**-8)
INT8 = Operands(2, 1, numbers.int8, numbers.any_bits, numbers.any_bits, numbers.bf16, 2.0**-8)
E4M3 = Operands(3, 1, numbers.e4m3, numbers.normal_e4m3, numbers.normal_e4m3, numbers.bf16, 2.0**-7)
E4M3_BLOCKS = E4M3._replace(blockwise=True)


def _dtype(kind: Operands) -> str:
    return "uint16" if kind.size_bytes == 2 else "uint8"


def _scale_shapes(shape: Gemm | Grouped, kind: Operands) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of weights [experts, ...] and of tokens."""
    if kind.blockwise:
        blocks = -(-shape.k // SCALE_BLOCK)
        return (experts_of(shape), -(-shape.n // SCALE_BLOCK), blocks), (blocks, rows_of(shape))
    return (experts_of(shape), shape.n), (rows_of(shape),)


def operands(shape: Gemm | Grouped, choice: Choice, kind: Operands) -> tuple[Operand, ...]:
    m, experts = rows_of(shape), experts_of(shape)
    tile_m, tile_n = choice.tile["TILE_M"], choice.tile["TILE_N"]
    w_scales, x_scales = _scale_shapes(shape, kind) if kind.scaled else ((1, 1), (1,))
    split = choice.splits > 1
    return (
        Operand("weights", (experts, shape.n, shape.k), _dtype(kind), Role.COLD, kind.weights_fill),
        Operand("x", (tokens_of(shape), shape.k), _dtype(kind), Role.WARM, kind.x_fill),
        Operand("w_scales", w_scales, "float32", Role.COLD, numbers.scale_fp32),
        Operand("x_scales", x_scales, "float32", Role.WARM, numbers.scale_fp32),
        Operand("y", (m, shape.n), "uint16", Role.OUTPUT),
        Operand("parts", (choice.splits, m, shape.n) if split else (1, 1, 1), "float32", Role.SCRATCH),
        Operand("arrived", (tiles_of(shape, tile_m) * -(-shape.n // tile_n),), "uint32", Role.ZERO),
        *group_operands(shape, tile_m),
    )


def _weights(arrays: Mapping[str, Any], expert: int, rows: slice, kind: Operands, k: int) -> Array:
    """Rows of an expert's matrix with its scales, float64."""
    matrix = kind.decode(np.asarray(arrays["weights"][expert, rows]))
    if not kind.scaled:
        return matrix
    if not kind.blockwise:
        return matrix * np.asarray(arrays["w_scales"][expert, rows], np.float64)[:, None]
    blocks = np.asarray(arrays["w_scales"][expert], np.float64)
    per_row = blocks[np.arange(rows.start, rows.stop) // SCALE_BLOCK]
    scales: Array = np.repeat(per_row, SCALE_BLOCK, axis=1)[:, :k]
    return matrix * scales


def _activations(arrays: Mapping[str, Any], tokens: Array, places: Array, kind: Operands) -> Array:
    """Rows of X for results at `places`, with their scales, float64."""
    x = kind.decode(np.asarray(arrays["x"][tokens]))
    if not kind.scaled:
        return x
    scales = np.asarray(arrays["x_scales"][:], np.float64)
    if not kind.blockwise:
        return x * scales[places][:, None]
    return x * np.repeat(scales[:, places].T, SCALE_BLOCK, axis=1)[:, : x.shape[1]]


def _compare(kind: Operands, shape: Gemm | Grouped) -> Callable[[Mapping[str, Any], int], Pair]:
    def compare(arrays: Mapping[str, Any], part: int) -> Pair:
        """One block of rows of weights for some tokens, of every expert that has any."""
        rows = slice(PART_ROWS * part, min(PART_ROWS * (part + 1), shape.n))
        got, want = [], []
        for expert, first, count in pieces(shape):
            places = first + spread(count, COMPARED_TOKENS)
            x = _activations(arrays, tokens_at(arrays, shape, places), places, kind)
            want.append(x @ _weights(arrays, expert, rows, kind, shape.k).T)
            got.append(kind.result(np.asarray(arrays["y"][places, rows])))
        return np.concatenate(got), np.concatenate(want)

    return compare


def least_bytes(shape: Gemm | Grouped, kind: Operands) -> int:
    """Weights of every expert used, activations and scales read once, results written."""
    used, scales = used_experts(shape), 0
    if kind.scaled:
        w_scales, x_scales = _scale_shapes(shape, kind)
        scales = 4 * (used * math.prod(w_scales[1:]) + math.prod(x_scales))
    values = used * shape.n * shape.k + tokens_of(shape) * shape.k
    return values * kind.size_bytes + scales + 2 * rows_of(shape) * shape.n


def _problem(kind: Operands) -> Callable[[Choice, Any], Problem]:
    def problem(choice: Choice, shape: Gemm | Grouped) -> Problem:
        m, tile_m, tile_n = rows_of(shape), choice.tile["TILE_M"], choice.tile["TILE_N"]
        sizes = (np.int32(m), np.int32(shape.n), np.int32(shape.k))
        named = ("weights", "x", "w_scales", "x_scales", "y", "parts", "arrived")
        return Problem(
            (tiles_of(shape, tile_m) * -(-shape.n // tile_n), choice.splits, 1),
            (*named, *sizes, *group_arguments(shape)),
            operands(shape, choice, kind),
            least_bytes(shape, kind),
            2 * m * shape.n * shape.k,
            -(-shape.n // PART_ROWS),
            _compare(kind, shape),
            kind.tolerance,
        )

    return problem


# Tokens and rows of a block, of a warp, stages.
SHAPES = (
    (128, 256, 64, 64, 3),
    (128, 128, 64, 32, 4),
    (128, 128, 64, 32, 3),
    (64, 128, 32, 32, 3),
    (64, 64, 32, 16, 4),
    (32, 64, 16, 32, 6),
    (16, 64, 16, 16, 6),
)


# Where FP8 products are made of 16-bit ones the large tiles do not fit the registers.
FP8_TARGETS = (89, 120, 121)
FP8_SUMS = 32 * 32  # of a warp, beyond which a tile is large


def _tile(shape: tuple[int, int, int, int, int], kind: Operands) -> Tile:
    tile_m, tile_n, warp_m, warp_n, stages = shape
    size = stages * (tile_m + tile_n) * ROW_BYTES + 16
    names = "TILE_M TILE_N WARP_M WARP_N STAGES SHARED_BYTES".split()
    threads = 32 * (tile_m // warp_m) * (tile_n // warp_n)
    large = kind.number == E4M3.number and warp_m * warp_n > FP8_SUMS
    return Tile(tuple(zip(names, (*shape, size), strict=True)), threads, size, 1, tile_m, FP8_TARGETS if large else ())


def _supports(kind: Operands) -> Callable[[Tile, Any], bool]:
    """Rows are copied 16 bytes at a time; a tile that no token fills by half has a smaller sister."""

    def supports(tile: Tile, shape: Gemm | Grouped) -> bool:
        aligned = shape.k * kind.size_bytes % 16 == 0
        smallest = tile.most_rows <= min(row[0] for row in SHAPES)
        return aligned and (smallest or busiest(shape) > tile.most_rows // 2)

    return supports


def _splits(tile: Tile, shape: Gemm | Grouped, limits: DeviceLimits) -> tuple[int, ...]:
    """Those that come nearest to one block per multiprocessor; every part has at least four stages."""
    blocks = -(-rows_of(shape) // tile.most_rows) * -(-shape.n // tile["TILE_N"])
    stages = shape.k // ROW_BYTES
    possible = [n for n in SPLITS if n == 1 or (4 * n <= stages and rows_of(shape) <= SPLIT_TOKENS)]
    return nearest_splits(possible, blocks, limits.multiprocessors)


def _kernel(name: str, family: str, kind: Operands, min_cc: int, grouped: bool = False) -> Kernel:
    macros = (("TYPE", kind.number), ("BLOCKWISE", int(kind.blockwise)), ("GROUPED", int(grouped)))
    shapes = [row for row in SHAPES if not (kind.blockwise and row[2] * row[3] > FP8_SUMS)]  # twice the sums
    tiles = tuple(_tile(row, kind) for row in shapes)
    taken: type[Any] = Grouped if grouped else Gemm
    return Kernel(
        name, family, "gemm.cu", "gemm", min_cc, taken, tiles, _problem(kind), macros, _splits, _supports(kind)
    )


KERNELS = (
    _kernel("mma-bf16", "gemm-16", BF16, 80),
    _kernel("mma-fp16", "gemm-16", FP16, 75),
    _kernel("mma-int8", "gemm-int8", INT8, 80),
    _kernel("mma-fp8", "gemm-fp8", E4M3, 89),
    _kernel("mma-fp8-block", "gemm-fp8-block", E4M3_BLOCKS, 89),
    _kernel("moe-mma-bf16", "moe-gemm-16", BF16, 80, True),
    _kernel("moe-mma-fp8", "moe-gemm-fp8", E4M3, 89, True),
)
