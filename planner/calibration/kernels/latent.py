"""Decode attention over a paged latent cache (MLA): tiles and references of src/latent.cu."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from planner.calibration.kernels import numbers
from planner.calibration.kernels.attention import LOG2_E, PAGE, TOLERANCE, page_table, softmax
from planner.calibration.kernels.problem import (
    Choice,
    DeviceLimits,
    Fixed,
    Kernel,
    Latent,
    Operand,
    Pair,
    Problem,
    Role,
    Tile,
    nearest_splits,
)

HEADS = 16  # of a block
LATENT, ROPE = 512, 64  # DeepSeek-V2, V3 and their kin
THREADS = 256
SPLITS = (1, 2, 4, 8, 16, 32, 64)


def operands(shape: Latent, choice: Choice) -> tuple[Operand, ...]:
    seqs, context, heads = shape
    pages = -(-context // PAGE)
    table = page_table(seqs, pages)
    split = choice.splits if choice.splits > 1 else 0
    return (
        Operand("q", (seqs, heads, LATENT + ROPE), "uint16", Role.WARM, numbers.normal_bf16),
        Operand("cache", (seqs * pages, PAGE, LATENT + ROPE), "uint16", Role.COLD, numbers.normal_bf16),
        Operand("tables", table.shape, "int32", Role.WARM, Fixed(table)),
        Operand("contexts", (seqs,), "int32", Role.WARM, Fixed(np.full(seqs, context, np.int32))),
        Operand("out", (seqs, heads, LATENT), "uint16", Role.OUTPUT),
        Operand("parts", (max(split, 1), seqs if split else 1, heads, LATENT + 2), "float32", Role.SCRATCH),
        Operand("arrived", (seqs, -(-heads // HEADS)), "uint32", Role.ZERO),
    )


def _compare(arrays: Mapping[str, Any], part: int) -> Pair:
    """One sequence, all heads."""
    context = int(np.asarray(arrays["contexts"][part : part + 1])[0])
    pages = np.asarray(arrays["tables"][part])[: -(-context // PAGE)].astype(np.int64)
    cached = numbers.bf16(np.asarray(arrays["cache"][pages])).reshape(-1, LATENT + ROPE)[:context]
    q = numbers.bf16(np.asarray(arrays["q"][part]))
    shares = softmax(q @ cached.T / math.sqrt(LATENT + ROPE))
    return numbers.bf16(np.asarray(arrays["out"][part])), shares @ cached[:, :LATENT]


def _problem(choice: Choice, shape: Latent) -> Problem:
    seqs, context, heads = shape
    pages = -(-context // PAGE)
    arguments = ("q", "cache", "tables", "contexts", "out", "parts", "arrived")
    sizes = (np.int32(heads), np.int32(pages), np.float32(LOG2_E / math.sqrt(LATENT + ROPE)))
    cached_bytes = 2 * context * (LATENT + ROPE) + 4 * pages
    return Problem(
        (-(-heads // HEADS), choice.splits, seqs),
        (*arguments, *sizes),
        operands(shape, choice),
        seqs * (cached_bytes + 2 * heads * (2 * LATENT + ROPE)),
        2 * seqs * heads * context * (2 * LATENT + ROPE),
        seqs,
        _compare,
        TOLERANCE,
    )


def _tile(tokens: int, stages: int) -> Tile:
    size = stages * tokens * (2 * (LATENT + ROPE) + 16) + THREADS // 32 * HEADS * tokens * 4 + 16
    names = "TOKENS STAGES LATENT ROPE SHARED_BYTES".split()
    return Tile(tuple(zip(names, (tokens, stages, LATENT, ROPE, size), strict=True)), THREADS, size)


def _splits(tile: Tile, shape: Latent, limits: DeviceLimits) -> tuple[int, ...]:
    """Those that come nearest to one block per multiprocessor; every block has a stage at least."""
    blocks = shape.seqs * -(-shape.heads // HEADS)
    possible = [n for n in SPLITS if n == 1 or n * tile["TOKENS"] <= shape.context]
    return nearest_splits(possible, blocks, limits.multiprocessors)


KERNELS = (
    Kernel(
        "decode-mla-bf16",
        "attention-decode-latent",
        "latent.cu",
        "latent",
        80,
        Latent,
        (_tile(32, 4), _tile(32, 2), _tile(16, 4)),
        _problem,
        splits=_splits,
    ),
)
