"""Memory read, memory copy and the empty kernel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from planner.calibration.kernels.numbers import any_words
from planner.calibration.kernels.problem import (
    Array,
    Choice,
    DeviceLimits,
    Kernel,
    Nothing,
    Operand,
    Pair,
    Problem,
    Role,
    Stream,
    Tile,
)

VECTOR_BYTES = 16
THREADS = 256
BLOCKS_PER_MULTIPROCESSOR = (8, 16, 32, 4)
WORD = "uint32"


def _flat(value: Array) -> Array:
    return np.asarray(value).ravel().astype(np.float64)


def _read(choice: Choice, shape: Stream) -> Problem:
    """Every block's words are combined by exclusive or: `splits` blocks, one word per thread."""
    vectors = shape.size_bytes // VECTOR_BYTES

    def compare(arrays: Mapping[str, Any], part: int) -> Pair:
        got = np.bitwise_xor.reduce(np.asarray(arrays["sink"][:]).ravel())
        return _flat(got), _flat(np.bitwise_xor.reduce(np.asarray(arrays["source"][:]).ravel()))

    operands = (
        Operand("source", (vectors, 4), WORD, Role.COLD, any_words),
        Operand("sink", (choice.splits, THREADS), WORD, Role.OUTPUT),
    )
    arguments = ("source", np.uint64(vectors), "sink")
    return Problem((choice.splits, 1, 1), arguments, operands, shape.size_bytes, 0, 1, compare, 0.0)


def _copy(choice: Choice, shape: Stream) -> Problem:
    """Bytes count once read and once written."""
    vectors = shape.size_bytes // VECTOR_BYTES
    parts = min(vectors, 8)

    def compare(arrays: Mapping[str, Any], part: int) -> Pair:
        piece = slice(vectors * part // parts, vectors * (part + 1) // parts)
        return _flat(arrays["target"][piece]), _flat(arrays["source"][piece])

    operands = (
        Operand("source", (vectors, 4), WORD, Role.COLD, any_words),
        Operand("target", (vectors, 4), WORD, Role.OUTPUT),
    )
    arguments = ("source", "target", np.uint64(vectors))
    return Problem((choice.splits, 1, 1), arguments, operands, 2 * shape.size_bytes, 0, parts, compare, 0.0)


def _empty(choice: Choice, shape: Nothing) -> Problem:
    def compare(arrays: Mapping[str, Any], part: int) -> Pair:
        raise IndexError(part)

    return Problem((1, 1, 1), (), (), 0, 0, 0, compare, 0.0)


def _blocks(tile: Tile, shape: Stream, limits: DeviceLimits) -> tuple[int, ...]:
    """Blocks of the grid: several per multiprocessor, but no block without work."""
    most = -(-shape.size_bytes // (VECTOR_BYTES * THREADS * tile["UNROLL"]))
    return tuple(dict.fromkeys(min(most, n * limits.multiprocessors) for n in BLOCKS_PER_MULTIPROCESSOR))


_UNROLLED = tuple(Tile((("UNROLL", n),), THREADS, 0, 4) for n in (8, 4))

KERNELS = (
    Kernel("stream-read", "read", "stream.cu", "stream_read", 70, Stream, _UNROLLED, _read, splits=_blocks),
    Kernel("stream-copy", "copy", "stream.cu", "stream_copy", 70, Stream, _UNROLLED, _copy, splits=_blocks),
    Kernel("empty", "launch", "stream.cu", "empty", 70, Nothing, (Tile((), 32),), _empty),
)
