"""Routers in FP32, which no matrix units multiply: a step waits for the tiles that few multiprocessors hold.

Ref: cuBLAS as vllm-project/vllm PR 47973 times it on GB200, 6144 inputs and 256 experts: 7.5 us for one token, 17 to 22
for 4 to 16, 63 for 32 to 96, 111 for 1024.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from planner.collectives import Number
from planner.ops.records import Op

ROUTER = "moe.router"
FULL_BYTES, HALF_BYTES = 4, 2


class FullRouter(NamedTuple):
    """Which rows multiply their router in FP32, and in which tiles. Scalars or (R,)."""

    full: Any
    multiprocessors: Any  # 0: matrix units multiply FP32 too
    lone_outputs: Any  # of a tile, of one token ...
    few_outputs: Any  # ... of at most `few` tokens ...
    many_outputs: Any  # ... and of more
    few: Any
    own: Any  # tokens to which a kernel of the engine's own works without tiles


def tile_outputs(router: FullRouter, tokens: Number) -> Number:
    """Outputs that one multiprocessor computes before any product of `tokens` tokens is done."""
    several = router.lone_outputs + (router.few_outputs - router.lone_outputs) * np.clip(tokens - 1, 0, 1)
    found = several + (router.many_outputs - router.few_outputs) * np.clip(tokens - router.few, 0, 1)
    return np.where(tokens <= router.own, 0.0, found)


def in_full(ops: Sequence[Op], router: FullRouter) -> list[Op]:
    """The step with its routers in FP32: 2 K (M N + S T) FLOPs for T outputs of a tile on S multiprocessors.

    Inputs are cast to FP32 and read again, weights and results are in FP32.
    """
    found = list(ops)
    for index, op in enumerate(ops):
        if op.name == ROUTER:
            waited = router.multiprocessors * tile_outputs(router, op.m)
            flops = 2 * op.k * (op.m * op.n + waited * np.sign(op.m))
            moved = FULL_BYTES * (op.n * op.k + op.m * (op.n + 2 * op.k)) + HALF_BYTES * op.m * op.k
            found[index] = op._replace(
                flops=np.where(router.full, flops, op.flops), bytes=np.where(router.full, moved, op.bytes)
            )
    return found
