"""Low-rank adapters at work: two thin products beside each adapted one."""

from __future__ import annotations

import numpy as np

from planner.collectives import Number
from planner.ops.records import Op, OpKind, Slot

PRODUCTS = 2  # down to the rank and up again


def adapter_op(values: Number, products: int, adapters: tuple[Number, Number], work: tuple[Number, Number]) -> Op:
    """All adapters of a step as one operation: `values` of a rank-1 adapter on one GPU, over `products` products.

    adapters: (resident, rank). work: (tokens, sequences); as many adapters are read as sequences can name.
    """
    (slots, rank), (tokens, seqs) = adapters, work
    count = PRODUCTS * products * np.sign(slots * rank) * np.sign(tokens)
    each = np.maximum(PRODUCTS * products, 1)
    width = values / each
    moved = np.minimum(slots, seqs) * rank * width * 2 + tokens * width * 2
    flops, k = 2 * tokens * rank * width, np.maximum(rank, 1)
    return Op("adapters", OpKind.GEMM, Slot.OTHER_GEMM, count, flops, moved, tokens, width, k)
