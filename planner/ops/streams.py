"""Operations that run beside others, on a stream of their own, or within them, and so need no time to start."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from planner.collectives import Number
from planner.ops.records import Op, OpKind, Slot


def shared_beside(ops: Sequence[Op], share: Number) -> list[Op]:
    """The operations where `share` (0 or 1) of the shared experts runs beside the routed ones.

    What they move and compute falls to the routed experts' kernel; the start-ups of their two products and of the
    activation between them are hidden.
    """
    routed = sum((op.count for op in ops if op.kind is OpKind.MOE), np.zeros(1))
    beside = [op for op in ops if op.rate is Slot.SHARED_GEMM]
    per_layer = [share / np.maximum(routed, 1.0) * op.count for op in beside]
    moved = sum(count * op.bytes for count, op in zip(per_layer, beside, strict=True))
    activations = sum((op.count for op in beside if op.name == "shared.down"), np.zeros(1))
    flops = sum(count * op.flops for count, op in zip(per_layer, beside, strict=True))
    out: list[Op] = []
    for op in ops:
        if op.rate is Slot.SHARED_GEMM:
            out.append(op._replace(count=op.count * (1 - share)))
        elif op.kind is OpKind.MOE:
            out.append(op._replace(bytes=op.bytes + moved, flops=op.flops + flops))
        elif op.kind is OpKind.ELEMENTWISE:
            out.append(op._replace(count=op.count - share * activations))
        else:
            out.append(op)
    return out


def norms_within(ops: Sequence[Op], norms: Number) -> list[Op]:
    """The operations where the kernels of all-reduces add the residual and norm the sum for `norms` of a step."""
    return [op._replace(count=np.maximum(op.count - norms, 0.0)) if op.name == "elementwise" else op for op in ops]
