"""Weights and layers in host memory: what the CPU runs, and what is copied over PCIe for the GPU to run.

Copying a product's weights is an operation of its own, before the product. Engines that overlap the two are faster, by
at most the shorter of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from planner.arrays import PerRow
from planner.ops.records import Op, OpKind, Slot

WEIGHTED = (OpKind.GEMM, OpKind.MOE)


class HostShare(NamedTuple):
    """Parts of the work by slot, (slots, R), whose weights are in host memory."""

    run: PerRow  # executions that the CPU runs; products of at least `copied_from` rows run on the GPU, weights copied
    streamed: PerRow  # of the weights: the GPU reads them over PCIe whatever the batch
    copied_from: PerRow  # rows


def weight_bytes(op: Op, activation: PerRow) -> PerRow:
    """Bytes of a product without its inputs and outputs."""
    return np.maximum(op.bytes - op.m * (op.n + op.k) * activation, 0.0)


def placed(ops: Sequence[Op], share: HostShare, activation: PerRow) -> list[Op]:
    """The step with each operation divided between GPU and host, and the copies of weights between them."""
    out: list[Op] = []
    for op in ops:
        run, streamed = share.run[op.rate], share.streamed[op.rate]
        if not (np.any(run) or np.any(streamed)):
            out.append(op)
            continue
        copies = np.where(op.m >= share.copied_from[op.rate], run, 0.0) if op.kind in WEIGHTED else 0.0 * run
        out.append(op._replace(count=op.count * (1 - run + copies)))
        out.append(op._replace(name=f"{op.name} on the host", rate=Slot.HOST, count=op.count * (run - copies)))
        if op.kind in WEIGHTED:
            moved = (copies + streamed) * op.count
            copy = Op("weights from host", op.kind, Slot.HOST_COPY, moved, 0.0, 0.0, op.m, op.n, op.k)
            out.append(copy._replace(bytes=weight_bytes(op, activation)))
    return out
