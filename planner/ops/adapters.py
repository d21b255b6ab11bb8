"""Low-rank adapters at work: two thin products beside each adapted one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from planner.arrays import PerRow
from planner.ops.records import Op, OpKind, Slot

PRODUCTS = 2  # down to the rank and up again


class Adapters(NamedTuple):
    """The adapters that one GPU holds; scalars or (R,)."""

    values: PerRow  # of one adapter of rank 1, over all products that it adapts
    products: int  # that an adapter adapts
    slots: PerRow  # adapters resident at once
    rank: PerRow


def adapter_op(adapters: Adapters, tokens: PerRow, sequences: PerRow) -> Op:
    """All adapters of a step as one operation; at most as many of them are read as there are sequences to name one."""
    slots, rank = adapters.slots, adapters.rank
    thin_products = PRODUCTS * adapters.products
    count = thin_products * np.sign(slots * rank) * np.sign(tokens)
    width = adapters.values / np.maximum(thin_products, 1)
    moved = np.minimum(slots, sequences) * rank * width * 2 + tokens * width * 2
    flops, k = 2 * tokens * rank * width, np.maximum(rank, 1)
    return Op("adapters", OpKind.GEMM, Slot.OTHER_GEMM, count, flops, moved, tokens, width, k)
