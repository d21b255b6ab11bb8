"""Decode attention over a paged cache: layouts, tiles and references of src/attention.cu."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from planner.calibration.kernels import numbers
from planner.calibration.kernels.problem import (
    TURING,
    Array,
    Choice,
    Decode,
    DeviceLimits,
    Fill,
    Fixed,
    Kernel,
    Operand,
    Pair,
    Problem,
    Role,
    Tile,
    nearest_splits,
)

PAGE = 16  # tokens
HEADS = 16  # query heads of a block
SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
LOG2_E = math.log2(math.e)
HEAD_DIMS = (64, 128, 256)
PAGE_STRIDE = 5  # consecutive pages of a sequence lie that many apart, as far as the count allows
TOLERANCE = 2.0**-7  # probabilities and results are rounded to 8 bits of fraction


class Cache(NamedTuple):
    """A type of cached values: its number in the source, bytes, and the scales that go with it."""

    number: int
    size_bytes: int
    decode: Callable[[Array], Array]
    fill: Fill
    key_scale: float = 1.0  # of the whole tensor
    value_scale: float = 1.0
    stored_scale: float = 1.0  # what the kernel's way of widening leaves out
    per_token: bool = False  # a further fp32 scale per token and head


BF16 = Cache(0, 2, numbers.bf16, numbers.normal_bf16)
E4M3 = Cache(1, 1, numbers.e4m3, numbers.normal_e4m3, 0.125, 0.0625, 256.0)
INT8 = Cache(2, 1, numbers.int8, numbers.any_bits, per_token=True)


def pages_of(shape: Decode) -> int:
    return -(-shape.context // PAGE)


def _strided(count: int) -> Array:
    """0 .. count - 1 in an order that jumps."""
    stride = next(n for n in range(PAGE_STRIDE, 2 * PAGE_STRIDE + count) if math.gcd(n, count) == 1)
    return (np.arange(count) * stride % count).astype(np.int32)


def page_table(seqs: int, pages: int) -> Array:
    """Which page holds which part of each sequence (seqs, pages): all different, none beside its neighbour."""
    return _strided(seqs * pages).reshape(seqs, pages)


def operands(shape: Decode, choice: Choice, cache: Cache) -> tuple[Operand, ...]:
    seqs, _, q_heads, kv_heads, dim = shape
    pages = pages_of(shape) * seqs
    dtype = "uint16" if cache.size_bytes == 2 else "uint8"
    table = page_table(seqs, pages_of(shape))
    scales = (pages, kv_heads, PAGE) if cache.per_token else (1, 1, 1)
    splits = choice.splits if choice.splits > 1 else 0
    blocks = kv_heads * -(-(q_heads // kv_heads) // HEADS)
    return (
        Operand("q", (seqs, q_heads, dim), "uint16", Role.WARM, numbers.normal_bf16),
        Operand("keys", (pages, PAGE, kv_heads, dim), dtype, Role.COLD, cache.fill),
        Operand("values", (pages, PAGE, kv_heads, dim), dtype, Role.COLD, cache.fill),
        Operand("key_scales", scales, "float32", Role.COLD, numbers.scale_fp32),
        Operand("value_scales", scales, "float32", Role.COLD, numbers.scale_fp32),
        Operand("tables", table.shape, "int32", Role.WARM, Fixed(table)),
        Operand("contexts", (seqs,), "int32", Role.WARM, Fixed(np.full(seqs, shape.context, np.int32))),
        Operand("out", (seqs, q_heads, dim), "uint16", Role.OUTPUT),
        Operand("parts", (max(splits, 1), seqs if splits else 1, q_heads, dim + 2), "float32", Role.SCRATCH),
        Operand("arrived", (seqs, blocks), "uint32", Role.ZERO),
    )


def softmax(scores: Array) -> Array:
    """Over the last axis, float64."""
    shares: Array = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    return shares


def _cached(arrays: Mapping[str, Any], name: str, pages: Array, cache: Cache) -> Array:
    """(tokens, heads, dim) of some pages, with scales per token but not those of the tensor."""
    found = cache.decode(np.asarray(arrays[f"{name}s"][pages]))
    if cache.per_token:
        found = found * np.asarray(arrays[f"{name}_scales"][pages], np.float64).swapaxes(1, 2)[..., None]
    return found.reshape(-1, *found.shape[2:])


def _compare(shape: Decode, cache: Cache) -> Callable[[Mapping[str, Any], int], Pair]:
    def compare(arrays: Mapping[str, Any], part: int) -> Pair:
        """One sequence, all heads."""
        context = int(np.asarray(arrays["contexts"][part : part + 1])[0])
        pages = np.asarray(arrays["tables"][part])[: -(-context // PAGE)].astype(np.int64)
        keys = _cached(arrays, "key", pages, cache)[:context] * cache.key_scale
        values = _cached(arrays, "value", pages, cache)[:context] * cache.value_scale
        group = shape.q_heads // shape.kv_heads
        q = numbers.bf16(np.asarray(arrays["q"][part])).reshape(shape.kv_heads, group, -1)
        scores = np.einsum("hgd,thd->hgt", q, keys) / math.sqrt(shape.head_dim)
        want = np.einsum("hgt,thd->hgd", softmax(scores), values).reshape(shape.q_heads, -1)
        return numbers.bf16(np.asarray(arrays["out"][part])), want

    return compare


def least_bytes(shape: Decode, cache: Cache) -> int:
    """Keys and values of the context (not of its last page's rest), scales, queries, results, the table."""
    seqs, context, q_heads, kv_heads, dim = shape
    per_token = 2 * kv_heads * (dim * cache.size_bytes + (4 if cache.per_token else 0))
    return seqs * (context * per_token + 2 * 2 * q_heads * dim + 4 * pages_of(shape))


def _problem(cache: Cache) -> Callable[[Choice, Decode], Problem]:
    def problem(choice: Choice, shape: Decode) -> Problem:
        seqs, context, q_heads, kv_heads, dim = shape
        score_scale = LOG2_E / math.sqrt(dim) * cache.key_scale * cache.stored_scale
        names = "q keys values key_scales value_scales tables contexts out parts arrived".split()
        sizes = (np.int32(q_heads), np.int32(kv_heads), np.int32(pages_of(shape)))
        scales = (np.float32(score_scale), np.float32(cache.value_scale * cache.stored_scale))
        slices = -(-(q_heads // kv_heads) // HEADS)
        return Problem(
            (kv_heads * slices, choice.splits, seqs),
            (*names, *sizes, *scales),
            operands(shape, choice, cache),
            least_bytes(shape, cache),
            4 * seqs * q_heads * dim * context,
            seqs,
            _compare(shape, cache),
            TOLERANCE,
        )

    return problem


def shared_bytes(cache: Cache, dim: int, warps: int, stages: int) -> int:
    """As the source lays it out: a ring per warp, reused to join the warps, then a flag."""
    scales = PAGE * 4 if cache.per_token else 0
    ring = warps * stages * 2 * (PAGE * dim * cache.size_bytes + scales)
    return max(ring, warps * HEADS * (dim + 2) * 4) + 16


FROM_AMPERE = (80, 86, 87, 89, 90, 100, 103, 110, 120, 121)  # heads of 256 do not fit Turing's registers
# Warps and stages by bytes of a page's keys: each fills most of 99 KiB or of 227 KiB, at once or in two blocks.
LAYOUTS = {
    1024: ((8, 6), (4, 8), (8, 4)),
    2048: ((4, 6), (4, 4), (8, 3)),
    4096: ((4, 3), (4, 2), (8, 3), (4, 4)),
    8192: ((2, 3), (4, 3), (2, 4)),
}


TURING_LAYOUTS = {1024: ((4, 6),), 2048: ((4, 3),)}  # a block has 64 KiB there, the flag at its end included


def _tiles(cache: Cache, min_cc: int) -> tuple[Tile, ...]:
    found = []
    for dim in HEAD_DIMS:
        page = PAGE * dim * cache.size_bytes
        everywhere: tuple[int, ...] = FROM_AMPERE if dim == max(HEAD_DIMS) else ()
        layouts: list[tuple[tuple[int, int], tuple[int, ...]]] = [(layout, everywhere) for layout in LAYOUTS[page]]
        if min_cc <= TURING:
            layouts += [(layout, (TURING,)) for layout in TURING_LAYOUTS.get(page, ())]
        for (warps, stages), targets in layouts:
            size = shared_bytes(cache, dim, warps, stages)
            macros = (("HEAD_DIM", dim), ("WARPS", warps), ("STAGES", stages), ("SHARED_BYTES", size))
            found.append(Tile(macros, 32 * warps, size, targets=targets))
    return tuple(found)


def _supports(tile: Tile, shape: Decode) -> bool:
    return tile["HEAD_DIM"] == shape.head_dim and shape.q_heads % shape.kv_heads == 0 and shape.context > 0


def _splits(tile: Tile, shape: Decode, limits: DeviceLimits) -> tuple[int, ...]:
    """Those that come nearest to two blocks per multiprocessor; every warp has a page at least."""
    blocks = shape.seqs * shape.kv_heads * -(-(shape.q_heads // shape.kv_heads) // HEADS)
    possible = [n for n in SPLITS if n == 1 or n * tile["WARPS"] <= pages_of(shape)]
    return nearest_splits(possible, blocks, 2 * limits.multiprocessors)


def _kernel(name: str, family: str, cache: Cache, min_cc: int = 80) -> Kernel:
    tiles, problem = _tiles(cache, min_cc), _problem(cache)
    return Kernel(
        name,
        family,
        "attention.cu",
        "attention",
        min_cc,
        Decode,
        tiles,
        problem,
        (("KV", cache.number),),
        _splits,
        _supports,
    )


KERNELS = (
    _kernel("decode-bf16", "attention-decode-16", BF16),
    _kernel("decode-fp8", "attention-decode-8", E4M3, 75),
    _kernel("decode-int8", "attention-decode-8", INT8),
)
