"""Routers in kernels other than those of plain products: in FP32, or made for few tokens.

Ref: cuBLAS in FP32 with its cast as vllm-project/vllm PR 47973 (GB200) and sgl-project/sglang PR 30247 (H200) time it;
kernels for few tokens as vllm PR 44217 and 47973 do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from planner.arrays import PerRow
from planner.formats import FP32_BYTES, HALF_BYTES
from planner.ops.records import Op, Slot

ROUTER = "moe.router"


class VectorTiles(NamedTuple):
    """Outputs of one tile of a product in FP32, which one multiprocessor computes alone. Scalars or (R,)."""

    multiprocessors: PerRow  # 0: matrix units multiply FP32 too
    lone_outputs: PerRow  # with one token ...
    few_outputs: PerRow  # ... with at most `few` ...
    many_outputs: PerRow  # ... and with more
    few: PerRow


class RouterKernels(NamedTuple):
    """The kernels that multiply a model's router. Scalars or (R,)."""

    full: PerRow  # rows that multiply in FP32
    tiles: VectorTiles
    own: PerRow  # most tokens for which the engine has a kernel of its own


def tile_outputs(tiles: VectorTiles, tokens: PerRow) -> PerRow:
    """Outputs that all multiprocessors could compute while one of them computes a tile."""
    several = tiles.lone_outputs + (tiles.few_outputs - tiles.lone_outputs) * np.clip(tokens - 1, 0, 1)
    outputs = several + (tiles.many_outputs - tiles.few_outputs) * np.clip(tokens - tiles.few, 0, 1)
    return tiles.multiprocessors * outputs * np.sign(tokens)


def in_full(op: Op, tiles: VectorTiles) -> Op:
    """A product in FP32: 2 K (M N + S T) FLOPs for T outputs of a tile on S multiprocessors.

    Inputs are cast and read again, weights and results are in FP32.
    """
    flops = 2 * op.k * (op.m * op.n + tile_outputs(tiles, op.m))
    moved = FP32_BYTES * (op.n * op.k + op.m * (op.n + 2 * op.k)) + HALF_BYTES * op.m * op.k
    return op._replace(flops=flops, bytes=moved)


def routed_by(ops: Sequence[Op], kernels: RouterKernels) -> list[Op]:
    """The step with its routers in these kernels."""
    routed: list[Op] = []
    for op in ops:
        if op.name != ROUTER:
            routed.append(op)
            continue
        own, full = op.m <= kernels.own, in_full(op, kernels.tiles)
        plain = op._replace(
            flops=np.where(kernels.full, full.flops, op.flops), bytes=np.where(kernels.full, full.bytes, op.bytes)
        )
        wider = np.where(kernels.full, FP32_BYTES / HALF_BYTES, 1.0)
        routed.append(plain._replace(count=np.where(own, 0.0, op.count)))
        routed.append(op._replace(rate=Slot.FEW_ROUTER, count=np.where(own, op.count, 0.0), bytes=wider * op.bytes))
    return routed
