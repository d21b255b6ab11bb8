"""What limits a deployment."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from planner.serving.load import Array, Mask


class Bound(StrEnum):
    """What most of a step's time goes into, or the KV pool."""

    MEMORY = "memory"
    COMPUTE = "compute"
    NETWORK = "network"
    OVERHEAD = "overhead"
    KV_POOL = "kv_pool"


def dominant_bound(
    memory_s: Array, compute_s: Array, network_s: Array, overhead_s: Array, pool_limited: Mask
) -> NDArray[np.str_]:
    """The largest part of a step's seconds, or the KV pool where requests wait for a place in it.

    Parts: what memory traffic, arithmetic, messages between GPUs, and launches with engine overheads would
    each take alone. `pool_limited`: `ServingPoint.slot_wait_s` > 0 and the pool, not max_num_seqs, is the limit.
    """
    parts = np.broadcast_arrays(memory_s, compute_s, network_s, overhead_s)
    names = np.array([Bound.MEMORY, Bound.COMPUTE, Bound.NETWORK, Bound.OVERHEAD], dtype=np.str_)
    return np.where(pool_limited, str(Bound.KV_POOL), names[np.argmax(np.stack(parts), axis=0)])
