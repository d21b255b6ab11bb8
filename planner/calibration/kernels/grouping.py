"""Which tokens meet which expert: rows sorted by expert, cut into the segments that blocks work on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from planner.calibration.kernels.problem import Array, Fixed, Gemm, Grouped, Operand, Role

SPLITS = (1, 2, 3, 4, 6, 8, 12, 16)  # parts into which a product's inputs may be cut
COMPARED_TOKENS = 48  # of each expert, that a check looks at


def segments(shape: Grouped, tokens: int) -> list[tuple[int, int, int]]:
    """(expert, first row, rows) with at most `tokens` rows each; experts without rows have none."""
    found, first = [], 0
    for expert, count in enumerate(shape.counts_used):
        found += [(expert, first + at, min(tokens, count - at)) for at in range(0, count, tokens)]
        first += count
    return found


def rows_of(shape: Gemm | Grouped) -> int:
    """Of the result."""
    return shape.m if isinstance(shape, Gemm) else shape.rows


def tokens_of(shape: Gemm | Grouped) -> int:
    """Rows of the activations."""
    return shape.m if isinstance(shape, Gemm) else shape.tokens


def experts_of(shape: Gemm | Grouped) -> int:
    return 1 if isinstance(shape, Gemm) else shape.experts


def used_experts(shape: Gemm | Grouped) -> int:
    """Experts that any row goes to."""
    return 1 if isinstance(shape, Gemm) else sum(count > 0 for count in shape.counts_used)


def busiest(shape: Gemm | Grouped) -> int:
    """Rows of the expert that has most."""
    return shape.m if isinstance(shape, Gemm) else max(shape.counts_used)


def tiles_of(shape: Gemm | Grouped, tokens: int) -> int:
    """Blocks along the rows, `tokens` each at most."""
    return -(-shape.m // tokens) if isinstance(shape, Gemm) else len(segments(shape, tokens))


def pieces(shape: Gemm | Grouped) -> list[tuple[int, int, int]]:
    """(expert, first row, rows), one per expert that has any; a plain product has one."""
    return [(0, 0, shape.m)] if isinstance(shape, Gemm) else segments(shape, shape.rows)


def group_operands(shape: Gemm | Grouped, tokens: int) -> tuple[Operand, ...]:
    return () if isinstance(shape, Gemm) else (segment_operand(shape, tokens), order_operand(shape))


def group_arguments(shape: Gemm | Grouped) -> tuple[str, ...]:
    return () if isinstance(shape, Gemm) else ("segments", "order")


def tokens_at(arrays: Mapping[str, Any], shape: Gemm | Grouped, places: Array) -> Array:
    """Which rows of the activations meet these rows of the result."""
    return places if isinstance(shape, Gemm) else np.asarray(arrays["order"][:]).astype(np.int64)[places]


def spread(count: int, most: int) -> Array:
    """At most that many indices over 0 .. count - 1, the ends among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def segment_operand(shape: Grouped, tokens: int) -> Operand:
    values = np.array(segments(shape, tokens), np.int32)
    return Operand("segments", values.shape, "int32", Role.WARM, Fixed(values))


def order_operand(shape: Grouped) -> Operand:
    """Which token stands in each sorted row; tokens follow one another in every expert's rows."""
    values = (np.arange(shape.rows) * 7 % shape.tokens).astype(np.int32)
    return Operand("order", values.shape, "int32", Role.WARM, Fixed(values))
