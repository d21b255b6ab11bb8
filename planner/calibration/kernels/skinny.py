"""Products of few tokens with weights of 16, 8 or 4 bits: layouts, tiles and references of src/skinny.cu."""

from __future__ import annotations

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
    TURING,
    Array,
    Choice,
    DeviceLimits,
    Fill,
    Gemm,
    Grouped,
    InBlocks,
    Kernel,
    Operand,
    Pair,
    Problem,
    Role,
    Tile,
    nearest_splits,
)

ROWS = COLUMNS = 64  # of a contiguous block of weights
STEPS = 4
LEAST_TOKENS, MOST_TOKENS = 8, 64  # of one block
BLOCKS_WANTED = 2  # per multiprocessor: less leaves some idle, much more is tail and reduction


class Weights(NamedTuple):
    """A weight format of the kernel: bits, scales per group of inputs, how codes become numbers."""

    number: int  # in the source
    bits: int
    decode: Callable[[Array], Array]  # codes -> float64
    fill: Fill
    group: int = 0  # inputs that share a scale; 0: one scale per row
    scale_bytes: int = 0  # of one row in one group block
    scale_fill: Fill | None = None
    zeros: bool = False
    one_scale: bool = False  # a further one for the whole tensor
    in_pairs: bool = False  # a register's two codes lie side by side, not in a word's two halves
    places: tuple[tuple[int, ...], ...] = ()  # bits of half a word that make each code, lowest first; none: in a row

    @property
    def block_columns(self) -> int:
        """Inputs whose scales lie together: a block's 64, or a whole group where that is longer."""
        return max(COLUMNS, self.group)

    @property
    def meta_bytes(self) -> int:
        """Scales and zero points of 64 rows in one group block."""
        return ROWS * self.scale_bytes + (ROWS // 2 if self.zeros else 0)


class Activations(NamedTuple):
    """The 16-bit type of activations and results."""

    number: int
    name: str
    decode: Callable[[Array], Array]
    fill: Fill
    scale_fill: Fill
    epsilon: float


BF16 = Activations(1, "bf16", numbers.bf16, numbers.normal_bf16, numbers.scale_bf16, 2.0**-8)
FP16 = Activations(0, "fp16", numbers.fp16, numbers.normal_fp16, numbers.scale_fp16, 2.0**-11)


def codes_of(blocks: Array, weights: Weights) -> Array:
    """Packed blocks (..., chunks, words) -> codes (..., 64 rows, chunks * 64), lowest `bits` of an unsigned integer.

    A lane (g, t) holds rows g and g + 8 of each 16, inputs 16 s + 4 t + j of step s: pairs (j = 0, 1) and (2, 3) of
    a row are the halves of a register, so that a word's low codes are j = 0, 2 and its high codes j = 1, 3; with
    `in_pairs` they lie side by side.
    """
    bits = weights.bits
    words = bits // 4
    lead, chunks = blocks.shape[:-2], blocks.shape[-2]
    lanes = blocks.reshape(*lead, chunks, 4, words, 8, 4, 4)  # tile, vector, g, t, word
    lanes = np.moveaxis(lanes, -4, -2).reshape(*lead, chunks, 4, 8, 4, STEPS, words)  # tile, g, t, step, word
    if not weights.places:
        shifts = np.arange(32 // bits, dtype=np.uint32) * np.uint32(bits)
        codes = (lanes[..., None] >> shifts) & np.uint32(2**bits - 1)  # word, place in it: (high or low, register)
    else:
        half = np.array(weights.places, dtype=np.uint32)
        places = np.concatenate([half, half + np.uint32(16)])
        found = (lanes[..., None, None] >> places) & np.uint32(1)
        codes = np.sum(found << np.arange(bits, dtype=np.uint32), axis=-1, dtype=np.uint32)
    if not weights.in_pairs:
        codes = np.moveaxis(codes.reshape(*lead, chunks, 4, 8, 4, STEPS, words, 2, 16 // bits), -2, -1)
    registers = codes.reshape(*lead, chunks, 4, 8, 4, STEPS, 2, 2, 2)  # pair, half of rows, j
    n = len(lead)
    order = [*range(n), *(n + axis for axis in (1, 6, 2, 0, 4, 3, 5, 7))]
    rows: Array = registers.transpose(order).reshape(*lead, ROWS, chunks * COLUMNS)
    return rows


def _rows_of(values: Array) -> Array:
    """Values in lane order (..., 8 g, 8 of tile and half, ...) -> (..., 64 rows, ...) for values (G, 8, 8, ...)."""
    groups, rest = values.shape[0], values.shape[3:]
    tiles = values.reshape(groups, 8, 4, 2, *rest)
    return np.moveaxis(tiles, 1, 3).reshape(groups, ROWS, *rest)


def scales_of(meta: Array, weights: Weights, activations: Activations) -> Array:
    """Scale and zero-point bytes (group blocks, bytes) of 64 rows -> scales (64, groups)."""
    found = _rows_of(np.ascontiguousarray(meta[:, : ROWS * weights.scale_bytes]).reshape(len(meta), 8, 8, -1))
    if weights.scale_fill is None:  # 16 bits, of the activations' type
        return activations.decode(np.ascontiguousarray(found).view(np.uint16))[..., 0].T
    if weights.scale_fill is numbers.scale_fp32:
        return np.asarray(np.ascontiguousarray(found).view(np.float32)[..., 0].T, np.float64)
    decode = numbers.e8m0 if weights.scale_fill is numbers.scale_e8m0 else numbers.e4m3
    return np.moveaxis(decode(found), 0, 1).reshape(ROWS, -1)


def zeros_of(meta: Array, weights: Weights) -> Array:
    """Zero points (64, groups)."""
    packed = meta[:, ROWS * weights.scale_bytes :].reshape(len(meta), 8, 4)
    nibbles = np.stack([packed & 15, packed >> 4], axis=-1)  # byte: tile; nibble: half
    return _rows_of(nibbles.reshape(len(meta), 8, 8)).T


def matrix_of(blocks: Array, meta: Array, weights: Weights, activations: Activations) -> Array:
    """64 rows of the matrix as the kernel should see it, without scales per row or tensor: (64, k) float64."""
    codes = codes_of(blocks, weights)
    if weights.number == 0:
        return activations.decode(codes.astype(np.uint16))
    values = weights.decode(codes)
    if not weights.group:
        return values
    if weights.zeros:
        values = values + 8 - np.repeat(zeros_of(meta, weights), weights.group, axis=1)
    scales: Array = np.repeat(scales_of(meta, weights, activations), weights.group, axis=1)
    return values * scales


def _fields(tile: Tile) -> tuple[int, int]:
    """Rows of weights and tokens that one block serves."""
    return ROWS * tile["WARPS_N"], 8 * tile["TOKENS"]


def meta_fill(weights: Weights, activations: Activations) -> Fill | None:
    """Random scale and zero-point bytes."""
    if not weights.group:
        return None
    scales = weights.scale_fill or activations.scale_fill

    def fill(rng: np.random.Generator, count: int) -> Array:
        blocks = -(-count // weights.meta_bytes)
        width = scales(rng, 1).itemsize
        found = scales(rng, blocks * ROWS * weights.scale_bytes // width).view(np.uint8).reshape(blocks, -1)
        zeros = rng.integers(0, 256, (blocks, weights.meta_bytes - found.shape[1]), dtype=np.uint8)
        return np.concatenate([found, zeros], axis=1).ravel()[:count]

    return InBlocks(weights.meta_bytes, fill)


def operands(shape: Gemm | Grouped, choice: Choice, weights: Weights, activations: Activations) -> tuple[Operand, ...]:
    m, n, k, experts = rows_of(shape), shape.n, shape.k, experts_of(shape)
    chunks, row_blocks = k // COLUMNS, n // ROWS
    groups = (k // weights.block_columns, row_blocks, weights.meta_bytes) if weights.group else (1, 1, 16)
    rows, tokens = _fields(choice.tile)
    split = choice.splits > 1
    return (
        Operand("weights", (experts, row_blocks, chunks, 128 * weights.bits), "uint32", Role.COLD, weights.fill),
        Operand("meta", (experts, *groups), "uint8", Role.COLD, META_FILLS[weights, activations]),
        Operand("row_scales", (experts, n), "float32", Role.COLD, numbers.scale_fp32),
        Operand("x", (tokens_of(shape), k), "uint16", Role.WARM, activations.fill),
        Operand("y", (m, n), "uint16", Role.OUTPUT),
        Operand("parts", (choice.splits, m, n) if split else (1, 1, 1), "float32", Role.SCRATCH),
        Operand("arrived", (-(-n // rows) * tiles_of(shape, tokens),), "uint32", Role.ZERO),
        *group_operands(shape, tokens),
    )


def _rows_of_expert(
    arrays: Mapping[str, Any], expert: int, part: int, weights: Weights, activations: Activations
) -> Array:
    """One block of 64 rows of an expert's matrix with all its scales, float64."""
    meta = np.asarray(arrays["meta"][expert, :, part]) if weights.group else np.zeros((0, 0), np.uint8)
    matrix = matrix_of(np.asarray(arrays["weights"][expert, part]), meta, weights, activations)
    scales = np.asarray(arrays["row_scales"][expert], np.float64)
    if weights.bits == 8:
        return matrix * scales[ROWS * part : ROWS * (part + 1), None]
    return matrix * scales[0] if weights.one_scale else matrix


def _compare(
    weights: Weights, activations: Activations, shape: Gemm | Grouped
) -> Callable[[Mapping[str, Any], int], Pair]:
    def compare(arrays: Mapping[str, Any], part: int) -> Pair:
        """One block of 64 rows for some tokens, of every expert that has any."""
        rows = slice(ROWS * part, ROWS * (part + 1))
        got, want = [], []
        for expert, first, count in pieces(shape):
            places = first + spread(count, COMPARED_TOKENS)
            x = activations.decode(np.asarray(arrays["x"][tokens_at(arrays, shape, places)]))
            want.append(x @ _rows_of_expert(arrays, expert, part, weights, activations).T)
            got.append(activations.decode(np.asarray(arrays["y"][places, rows])))
        return np.concatenate(got), np.concatenate(want)

    return compare


def least_bytes(shape: Gemm | Grouped, weights: Weights) -> int:
    """Weights of every expert used with their scales, activations read once, results written."""
    n, k = shape.n, shape.k
    groups = k // weights.block_columns * (n // ROWS) * weights.meta_bytes if weights.group else 0
    matrix = n * k * weights.bits // 8 + groups + (4 * n if weights.bits == 8 else 0)
    return used_experts(shape) * matrix + 2 * tokens_of(shape) * k + 2 * rows_of(shape) * n


def tolerance(activations: Activations, tokens: int, weights: Weights) -> float:
    """Rounding of the result, and of scaled weights where scales multiply those."""
    return activations.epsilon * (2.0 if weights.group and tokens > 4 else 1.0)


def _problem(weights: Weights, activations: Activations) -> Callable[[Choice, Any], Problem]:
    def problem(choice: Choice, shape: Gemm | Grouped) -> Problem:
        m, n, k = rows_of(shape), shape.n, shape.k
        rows, tokens = _fields(choice.tile)
        named = ("weights", "meta", "row_scales", "x", "y", "parts", "arrived")
        return Problem(
            (-(-n // rows), choice.splits, tiles_of(shape, tokens)),
            (*named, np.int32(m), np.int32(n), np.int32(k), *group_arguments(shape)),
            operands(shape, choice, weights, activations),
            least_bytes(shape, weights),
            2 * m * n * k,
            n // ROWS,
            _compare(weights, activations, shape),
            tolerance(activations, choice.tile["TOKENS"], weights),
        )

    return problem


def shared_bytes(weights: Weights, warps_n: int, warps_k: int, tokens: int, stages: int) -> int:
    """As the source lays it out: a ring of stages, reused for the sums of all warps, then a flag."""
    block = ROWS * COLUMNS * weights.bits // 8 + weights.meta_bytes
    stage = warps_n * warps_k * block + 8 * tokens * (2 * COLUMNS * warps_k + 32)
    return max(stages * stage, warps_n * warps_k * ROWS * 8 * tokens * 4) + 16


# Warps along rows, warps along inputs, stages: by bits of a weight and eights of tokens. One of each fits 99 KiB of
# shared memory (compute capability 8.6, 8.9, 12.x), the others want what data center parts have.
LAYOUTS = {
    4: (
        (1, ((4, 2, 4), (2, 4, 4), (1, 8, 3))),
        (2, ((4, 2, 4), (2, 4, 4), (2, 4, 3))),
        (4, ((4, 2, 3), (2, 4, 3))),
        (8, ((4, 1, 3), (4, 2, 3))),
    ),
    8: (
        (1, ((2, 2, 4), (2, 4, 3), (1, 4, 4))),
        (2, ((2, 2, 4), (2, 4, 3), (1, 4, 4))),
        (4, ((2, 2, 3), (2, 4, 3))),
        (8, ((4, 1, 3), (2, 2, 3))),
    ),
    16: (
        (1, ((2, 2, 3), (2, 4, 3), (1, 4, 2))),
        (2, ((2, 2, 3), (2, 4, 3), (1, 4, 2))),
        (4, ((2, 2, 3), (2, 2, 2))),
        (8, ((2, 1, 3), (4, 1, 2))),
    ),
}


TURING_LAYOUTS = ((1, (2, 2, 4)), (2, (2, 2, 4)), (4, (2, 2, 3)), (8, (2, 1, 3)))


def _tile(weights: Weights, tokens: int, layout: tuple[int, int, int], targets: tuple[int, ...] = ()) -> Tile:
    warps_n, warps_k, stages = layout
    size = shared_bytes(weights, warps_n, warps_k, tokens, stages)
    names = "WARPS_N WARPS_K STAGES TOKENS SHARED_BYTES".split()
    macros = tuple(zip(names, (*layout, tokens, size), strict=True))
    return Tile(macros, 32 * warps_n * warps_k, size, 1, 8 * tokens, targets)


def _tiles(weights: Weights, activations: Activations) -> tuple[Tile, ...]:
    found = [_tile(weights, tokens, layout) for tokens, layouts in LAYOUTS[weights.bits] for layout in layouts]
    if _first_target(weights, activations) == TURING:
        found += [_tile(weights, tokens, layout, (TURING,)) for tokens, layout in TURING_LAYOUTS]
    return tuple(found)


def _first_target(weights: Weights, activations: Activations) -> int:
    """Turing's tensor cores know fp16, not bf16."""
    return TURING if activations is FP16 and weights.bits == 4 else 80


def _supports(weights: Weights) -> Callable[[Tile, Any], bool]:
    """A tile that no expert's tokens fill by half has a smaller sister; only the widest serves more than it holds."""

    def supports(tile: Tile, shape: Gemm | Grouped) -> bool:
        least, tokens = tile.most_rows // 2 if tile.most_rows > LEAST_TOKENS else 0, busiest(shape)
        fits = least < tokens and (tokens <= tile.most_rows or tile.most_rows == MOST_TOKENS)
        return fits and shape.n % ROWS == 0 and shape.k % weights.block_columns == 0

    return supports


def _splits(tile: Tile, shape: Gemm | Grouped, limits: DeviceLimits) -> tuple[int, ...]:
    """Those that come nearest to the wanted number of blocks; every part has at least two steps."""
    blocks = -(-shape.n // (ROWS * tile["WARPS_N"])) * tiles_of(shape, tile.most_rows)
    steps = -(-shape.k // (COLUMNS * tile["WARPS_K"]))
    possible = [n for n in SPLITS if n == 1 or (2 * n <= steps and tokens_of(shape) <= MOST_TOKENS)]
    return nearest_splits(possible, blocks, BLOCKS_WANTED * limits.multiprocessors)


def _int4(codes: Array) -> Array:
    return codes.astype(np.float64) - 8


# Mantissa, exponent and sign of the four FP4 codes in half a word: where src/skinny.cu needs one shift for both.
FP4_PLACES = ((6, 7, 8, 15), (3, 4, 5, 12), (0, 1, 2, 9), (10, 11, 13, 14))

W16 = Weights(0, 16, numbers.bf16, numbers.normal_words)
INT8 = Weights(1, 8, numbers.int8, numbers.any_words)
E4M3 = Weights(2, 8, numbers.e4m3, numbers.e4m3_words)
INT4 = Weights(3, 4, _int4, numbers.any_words, 128, 2)
INT4_ZERO = Weights(4, 4, _int4, numbers.any_words, 128, 2, zeros=True)
MXFP4 = Weights(5, 4, numbers.e2m1, numbers.any_words, 32, 2, numbers.scale_e8m0, places=FP4_PLACES)
NVFP4 = Weights(6, 4, numbers.e2m1, numbers.any_words, 16, 4, numbers.scale_e4m3, one_scale=True, places=FP4_PLACES)
NF4 = Weights(7, 4, numbers.nf4, numbers.any_words, 64, 4, numbers.scale_fp32, in_pairs=True)
FORMATS = (W16, INT8, E4M3, INT4, INT4_ZERO, MXFP4, NVFP4, NF4)
# One function per format, as the launcher keeps a pool of values per function.
META_FILLS = {(weights, x): meta_fill(weights, x) for weights in FORMATS for x in (BF16, FP16)}


def _kernel(name: str, family: str, weights: Weights, activations: Activations = BF16, grouped: bool = False) -> Kernel:
    macros = (("WEIGHTS", weights.number), ("ACTIVATIONS", activations.number), ("GROUPED", int(grouped)))
    tiles, problem = _tiles(weights, activations), _problem(weights, activations)
    shape: type[Any] = Grouped if grouped else Gemm
    supports, first = _supports(weights), _first_target(weights, activations)
    return Kernel(name, family, "skinny.cu", "skinny", first, shape, tiles, problem, macros, _splits, supports)


KERNELS = (
    _kernel("w16a16", "gemm-16", W16),
    _kernel("w8a16-int8", "wo-8", INT8),
    _kernel("w8a16-fp8", "wo-8", E4M3),
    _kernel("w4a16", "wo-4", INT4),
    _kernel("w4a16-zeros", "wo-4", INT4_ZERO),
    _kernel("w4a16-fp16", "wo-4", INT4, FP16),
    _kernel("w4a16-mxfp4", "wo-mx4", MXFP4),
    _kernel("w4a16-nvfp4", "wo-nv4", NVFP4),
    _kernel("nf4", "nf4", NF4),
    _kernel("moe-w16a16", "moe-gemm-16", W16, grouped=True),
    _kernel("moe-w8a16-fp8", "moe-wo-8", E4M3, grouped=True),
    _kernel("moe-w4a16", "moe-wo-4", INT4, grouped=True),
    _kernel("moe-w4a16-mxfp4", "moe-mx4", MXFP4, grouped=True),
)
