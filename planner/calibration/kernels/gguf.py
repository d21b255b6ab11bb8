"""Products with weights in the layout of GGUF files: blocks, tiles and references of src/gguf.cu.

Block layouts: ggml-org/llama.cpp, ggml-common.h (MIT), as published in the GGUF specification.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from planner.calibration.kernels import numbers
from planner.calibration.kernels.problem import (
    Array,
    Choice,
    DeviceLimits,
    Fill,
    Gemm,
    InBlocks,
    Kernel,
    Operand,
    Pair,
    Problem,
    Role,
    Tile,
)

SUPER = 256  # values of a super-block
RUN = 1024  # values a warp takes in one step
ROUND = 32  # activations that share a scale
PART_ROWS = 64
THREADS = 128
TOKENS = (1, 2, 4, 8)
STAGES, ROWS = (6, 3), 2  # rows that a warp works on at once
BLOCKS_PER_MULTIPROCESSOR = (3, 6, 2)
TOLERANCE = 2.0**-18  # integers are exact, sums fp32
HALF = "<f2"


class Blocks(NamedTuple):
    """A GGUF type: its number in the source, bytes per super-block, its values, random blocks."""

    number: int
    size_bytes: int
    decode: Callable[[Array], Array]  # (..., bytes) -> (..., 256) float64
    fill: Fill


def _half(block: Array, at: int) -> Array:
    return np.ascontiguousarray(block[..., at : at + 2]).view(HALF)[..., 0].astype(np.float64)


def q8_0(block: Array) -> Array:
    parts = block.reshape(*block.shape[:-1], 8, 34)
    values = np.ascontiguousarray(parts[..., 2:]).view(np.int8) * _half(parts, 0)[..., None]
    return np.asarray(values).reshape(*block.shape[:-1], SUPER)


def q4_k(block: Array) -> Array:
    low, high = block[..., 4:8], block[..., 8:12]
    rest = block[..., 12:16]
    scales = np.concatenate([low & 63, (rest & 15) | (low >> 6 << 4)], axis=-1)
    minima = np.concatenate([high & 63, (rest >> 4) | (high >> 6 << 4)], axis=-1)
    codes = block[..., 16:].reshape(*block.shape[:-1], 4, 1, 32)
    values = np.concatenate([codes & 15, codes >> 4], axis=-2).reshape(*block.shape[:-1], 8, 32)
    scaled = (_half(block, 0)[..., None] * scales)[..., None] * values
    return np.asarray(scaled - (_half(block, 2)[..., None] * minima)[..., None]).reshape(*block.shape[:-1], SUPER)


def q6_k(block: Array) -> Array:
    lead = block.shape[:-1]
    low = block[..., :128].reshape(*lead, 2, 1, 2, 32)
    low = np.concatenate([low & 15, low >> 4], axis=-3).reshape(*lead, 2, 4, 32)  # half, quarter, place
    high = block[..., 128:192].reshape(*lead, 2, 1, 32) >> (2 * np.arange(4, dtype=np.uint8))[:, None] & 3
    values = (low | high << 4).astype(np.float64).reshape(*lead, 16, 16) - 32
    scales = np.ascontiguousarray(block[..., 192:208]).view(np.int8) * _half(block, 208)[..., None]
    return np.asarray(values * scales[..., None]).reshape(*lead, SUPER)


def _filled(size_bytes: int, halves: tuple[int, ...]) -> Fill:
    """Random bytes with random small scales at the offsets given."""

    def fill(rng: np.random.Generator, count: int) -> Array:
        blocks = rng.integers(0, 256, (-(-count // size_bytes), size_bytes), dtype=np.uint8)
        for at in halves:
            scale = (0.0005 + 0.001 * rng.random(len(blocks))).astype(HALF)
            blocks[:, at : at + 2] = scale.view(np.uint8).reshape(-1, 2)
        return blocks.ravel()[:count]

    return InBlocks(size_bytes, fill)


Q8_0 = Blocks(0, 272, q8_0, _filled(34, (0,)))
Q4_K = Blocks(1, 144, q4_k, _filled(144, (0, 2)))
Q6_K = Blocks(2, 210, q6_k, _filled(210, (208,)))


def _small_sums(rng: np.random.Generator, count: int) -> Array:
    return rng.standard_normal(count).astype(np.float32)


def operands(shape: Gemm, blocks: Blocks) -> tuple[Operand, ...]:
    m, n, k = shape
    return (
        Operand("weights", (n, k // SUPER, blocks.size_bytes), "uint8", Role.COLD, blocks.fill),
        Operand("q8", (m, k), "uint8", Role.WARM, numbers.any_bits),
        Operand("q8_scales", (m, k // ROUND), "float32", Role.WARM, numbers.scale_fp32),
        Operand("q8_sums", (m, k // ROUND), "float32", Role.WARM, _small_sums),
        Operand("y", (m, n), "float32", Role.OUTPUT),
    )


def _compare(blocks: Blocks) -> Callable[[Mapping[str, Any], int], Pair]:
    def compare(arrays: Mapping[str, Any], part: int) -> Pair:
        """Some rows for all tokens. Minima multiply the sums that are given, not those of the activations."""
        rows = slice(PART_ROWS * part, PART_ROWS * (part + 1))
        raw = np.asarray(arrays["weights"][rows])
        matrix = blocks.decode(raw).reshape(len(raw), -1)
        scales = np.asarray(arrays["q8_scales"][:], np.float64)
        x = numbers.int8(np.asarray(arrays["q8"][:])) * np.repeat(scales, ROUND, axis=1)
        want = x @ matrix.T
        if blocks is Q4_K:
            cleared = raw.copy()
            cleared[..., 2:4] = 0  # the factor of all minima
            plain = blocks.decode(cleared).reshape(len(raw), -1)
            minima = (plain - matrix).reshape(len(raw), -1, ROUND)[..., 0]
            want = x @ plain.T - np.asarray(arrays["q8_sums"][:], np.float64) @ minima.T
        return np.asarray(arrays["y"][:, rows], np.float64), want

    return compare


def _problem(blocks: Blocks) -> Callable[[Choice, Gemm], Problem]:
    def problem(choice: Choice, shape: Gemm) -> Problem:
        m, n, k = shape
        weight_bytes = n * (k // SUPER) * blocks.size_bytes
        arguments = ("weights", np.uint64(weight_bytes), "q8", "q8_scales", "q8_sums", "y")
        return Problem(
            (choice.splits, 1, 1),
            (*arguments, *map(np.int32, shape)),
            operands(shape, blocks),
            weight_bytes + m * k + 2 * 4 * m * (k // ROUND) + 4 * m * n,
            2 * m * n * k,
            -(-n // PART_ROWS),
            _compare(blocks),
            TOLERANCE,
        )

    return problem


def _tiles(blocks: Blocks) -> tuple[Tile, ...]:
    stage = (RUN // SUPER * blocks.size_bytes + 30) // 16 * 16
    sizes = [(tokens, stages, THREADS // 32 * stages * ROWS * stage) for tokens in TOKENS for stages in STAGES]
    names = "TOKENS STAGES SHARED_BYTES".split()
    return tuple(Tile(tuple(zip(names, row, strict=True)), THREADS, row[-1], 1, row[0]) for row in sizes)


def _supports(tile: Tile, shape: Gemm) -> bool:
    """The last 16 bytes that a copy touches must be the tensor's own: its size is a multiple of 16."""
    return tile.most_rows // 2 < shape.m <= tile.most_rows and shape.k % SUPER == 0 and shape.n % 8 == 0


def _grids(tile: Tile, shape: Gemm, limits: DeviceLimits) -> tuple[int, ...]:
    """Blocks: several per multiprocessor, no warp without a row."""
    most = max(1, shape.n // (ROWS * tile.threads // 32))
    return tuple(dict.fromkeys(min(most, n * limits.multiprocessors) for n in BLOCKS_PER_MULTIPROCESSOR))


def _kernel(name: str, family: str, blocks: Blocks) -> Kernel:
    macros = (("GGUF", blocks.number),)
    return Kernel(
        name, family, "gguf.cu", "gguf", 75, Gemm, _tiles(blocks), _problem(blocks), macros, _grids, _supports
    )


KERNELS = (
    _kernel("gguf-q8_0", "gguf-legacy", Q8_0),
    _kernel("gguf-q4_k", "gguf-k", Q4_K),
    _kernel("gguf-q6_k", "gguf-k", Q6_K),
)
