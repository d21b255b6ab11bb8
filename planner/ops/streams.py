"""Operations that run beside others on a stream of their own, or inside them, and so cost no start-up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from planner.arrays import PerRow
from planner.ops.records import Op, OpKind, Slot

_QUERIES = "attention.q_b"
_POOLING = ("compressor.pool", "indexer.pool", "indexer.q_b", "indexer.weights")


def _beside(ops: Sequence[Op], share: PerRow, hidden: Callable[[Op], bool], takes: Callable[[Op], bool]) -> list[Op]:
    """The operations where `share` (0 or 1) of the hidden ones run beside those that take over what they move and
    compute.
    """
    taking = sum((op.count for op in ops if takes(op)), np.zeros(1))
    counts = [share / np.maximum(taking, 1.0) * op.count * hidden(op) for op in ops]
    moved = sum(count * op.bytes for count, op in zip(counts, ops, strict=True))
    flops = sum(count * op.flops for count, op in zip(counts, ops, strict=True))
    return [
        op._replace(count=op.count * (1 - share))
        if hidden(op)
        else op._replace(bytes=op.bytes + moved, flops=op.flops + flops)
        if takes(op)
        else op
        for op in ops
    ]


def shared_beside(ops: Sequence[Op], share: PerRow) -> list[Op]:
    """The step where the shared experts run beside the routed ones in a `share` (0 to 1) of such steps.

    What they move and compute falls to the routed experts' kernel; the start-ups of their two products and of the
    activation between them are hidden.
    """
    activations = sum((op.count for op in ops if op.name == "shared.down"), np.zeros(1))
    beside = _beside(ops, share, lambda op: op.rate is Slot.SHARED_GEMM, lambda op: op.kind is OpKind.MOE)
    return [op._replace(count=op.count - share * activations) if op.kind is OpKind.ELEMENTWISE else op for op in beside]


def pools_beside(ops: Sequence[Op], share: PerRow) -> list[Op]:
    """The operations where `share` (0 or 1) of a compressor's and an indexer's products run beside the queries'.

    What they move and compute falls to the queries' second product; their start-ups are hidden.
    """
    return _beside(ops, share, lambda op: op.name in _POOLING, lambda op: op.name == _QUERIES)


def norms_within(ops: Sequence[Op], norms: PerRow) -> list[Op]:
    """The step where the kernels of all-reduces also add the residual and norm the sum, for `norms` of its norms."""
    return [op._replace(count=np.maximum(op.count - norms, 0.0)) if op.name == "elementwise" else op for op in ops]
