"""What binds a deployment, and what its tokens cost."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.serving.load import Array, Load, Mask
from planner.serving.steady import ServingPoint

HOURS_PER_MONTH = 730.0  # 365 days / 12, as clouds bill
SECONDS_PER_HOUR = 3600.0
MILLION = 1e6


class Bound(StrEnum):
    """What a request spends most of its time on."""

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


class Cost(NamedTuple):
    """USD of the whole deployment; nan where a rate is zero or unknown."""

    usd_per_hour: Array
    usd_per_month: Array
    usd_per_request: Array
    usd_per_million_input_tokens: Array
    usd_per_million_output_tokens: Array


def cost(usd_per_gpu_hour: Array, n_gpus: Array, load: Load, point: ServingPoint) -> Cost:
    """Cost of the deployment, of its requests and of their tokens at the load given.

    An hour's price is split by step time: what prefill adds to steps is charged to the input tokens sent,
    cached ones among them, the rest to output tokens.
    """
    hourly = np.asarray(usd_per_gpu_hour, dtype=float) * n_gpus
    per_second = hourly / SECONDS_PER_HOUR
    share = point.prefill_time_share
    return Cost(
        hourly,
        hourly * HOURS_PER_MONTH,
        _each(per_second, point.requests_per_s),
        MILLION * _each(per_second * share, point.requests_per_s * load.input_tokens),
        MILLION * _each(per_second * (1 - share), point.output_tokens_per_s),
    )


def _each(usd_per_s: Array, per_s: Array) -> Array:
    """USD for one request or token; nan where none flow."""
    return usd_per_s / np.where(per_s > 0, per_s, np.nan)
