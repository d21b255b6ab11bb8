"""Which tokens meet which expert: rows sorted by expert, cut into the segments that blocks work on."""

from __future__ import annotations

import numpy as np

from planner.calibration.kernels.problem import Array, Grouped, Operand, Role


def segments(shape: Grouped, tokens: int) -> list[tuple[int, int, int]]:
    """(expert, first row, rows) with at most `tokens` rows each; experts without rows have none."""
    found, first = [], 0
    for expert, count in enumerate(shape.counts_used):
        found += [(expert, first + at, min(tokens, count - at)) for at in range(0, count, tokens)]
        first += count
    return found


def used_experts(shape: Grouped) -> int:
    return sum(count > 0 for count in shape.counts_used)


def segment_operand(shape: Grouped, tokens: int) -> Operand:
    values = np.array(segments(shape, tokens), np.int32)

    def fill(rng: np.random.Generator, count: int) -> Array:
        return values.ravel()

    return Operand("segments", values.shape, "int32", Role.WARM, fill)


def order_operand(shape: Grouped) -> Operand:
    """Which token stands in each sorted row; tokens follow one another in every expert's rows."""
    values = (np.arange(shape.rows) * 7 % shape.tokens).astype(np.int32)

    def fill(rng: np.random.Generator, count: int) -> Array:
        return values

    return Operand("order", values.shape, "int32", Role.WARM, fill)
