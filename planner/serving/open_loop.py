"""Requests that arrive at random: a long step is met by more of them than a short one.

In a closed loop a request arrives when another ends, so that long and short steps bring equally many; the load curve
counts that way, and this module corrects it.
"""

from __future__ import annotations

import numpy as np

from planner.serving.curve import LoadCurve
from planner.serving.load import Array, Capacity, Request
from planner.serving.steps import TINY

MOST_BUSY = 1 - 1e-6  # largest share of the time that prompts take, short of an endless queue


def multi_server_wait_s(servers: Array, occupancy: Array, service_s: Array) -> Array:
    """Mean wait for one of `servers` slots at Poisson arrivals and nearly constant service; inf at occupancy 1.

    rho^(sqrt(2 (c + 1)) - 1) / (c (1 - rho)) * S / 2. Ref: Sakasegawa 1977, Ann. Inst. Statist. Math. 29.
    """
    free = 1 - np.minimum(occupancy, 1)
    wait_s = np.minimum(occupancy, 1) ** (np.sqrt(2 * (servers + 1)) - 1) * service_s / (2 * servers)
    return np.where(free > 0, wait_s / np.where(free > 0, free, 1), np.inf)


def with_random_arrivals(
    request: Request, capacity: Capacity, slots: Array, point: LoadCurve, full_s: Array
) -> LoadCurve:
    """The same points where requests arrive at random: they wait by time, not by steps, before and after their prefill.

    `full_s`: seconds of a step that prompts fill.
    """
    if not np.any(request.random_arrivals):
        return point
    return followed(request, capacity, slots, queued(request, capacity, slots, point, full_s), full_s)


def queued(request: Request, capacity: Capacity, slots: Array, point: LoadCurve, full_s: Array) -> LoadCurve:
    """The wait for prompts ahead of one that arrives at random; each takes S, the full steps that it fills.

    A multi-server queue over the lanes, which for one lane is Pollaczek and Khinchine's. The running step is left out,
    rho min(S, step) / 2, since `Life.queue_s` counts its rest already. At most as many wait as have slots.
    """
    life = point.life
    service_s = np.maximum(request.prefill_tokens / point.mix.room_tokens * full_s, TINY)
    busy = np.minimum(life.others_per_s * service_s, MOST_BUSY)
    wait_s = multi_server_wait_s(capacity.lanes, busy, service_s) * request.prefill_square_ratio
    running_s = (1 - busy) * np.minimum(full_s / service_s, 1) / request.prefill_square_ratio * wait_s
    wait_s = np.minimum(wait_s - running_s, (slots - 1) * service_s)
    ahead_s = np.where(request.random_arrivals & (request.prefill_tokens > 0), wait_s, life.ahead_s)
    return point._replace(life=life._replace(queue_s=life.queue_s - life.ahead_s + ahead_s, ahead_s=ahead_s))


def followed(request: Request, capacity: Capacity, slots: Array, point: LoadCurve, full_s: Array) -> LoadCurve:
    """What a request waits in its decode steps for prompts that arrived during its own prefill.

    Its prefill is longer than a mean step by `longer_s`, in which more prompts arrive than the curve counts. Each takes
    c, and prompts that arrive meanwhile take more: c (1 + rho + ... + rho^n) over the n steps that are left. Where
    chunks are mixed in, n steps hold at most n full ones; nowhere are there more prompts than slots.
    """
    life, n = point.life, np.maximum(request.decode_steps - request.late_steps, 0)
    share = np.clip(1 - point.times.decode_s / np.maximum(life.step_s, TINY), 0, 1 - TINY)
    longer_s = np.maximum(life.ahead_s + life.own_prefill_s - life.step_s, 0) * request.random_arrivals
    each_s = share / np.maximum(life.others_per_s, TINY) * (1 - share**n) / (1 - share)
    most = np.maximum(n * (full_s - life.step_s), 0) / np.maximum(each_s, TINY)
    others = life.others_per_s * longer_s * capacity.lanes
    arrived = (others - some_of(others, capacity.lanes - 1)) / capacity.lanes  # the other lanes take theirs first
    most = np.minimum(np.where(capacity.chunks_mixed, most, np.inf), slots - 1)
    decode_s = life.decode_s + each_s * some_of(arrived, most)
    step_s = np.where(request.decode_steps > 0, decode_s / np.maximum(request.decode_steps, TINY), life.step_s)
    return point._replace(life=life._replace(step_s=step_s, decode_s=decode_s))


def some_of(mean: Array, most: Array) -> Array:
    """E[min(K, most)] of a Poisson number K of this mean, within 9 %: a soft minimum, sharper for a larger `most`."""
    part, whole = np.minimum(most, 1), np.maximum(most, 1)
    less, more = np.minimum(mean, whole), np.maximum(mean, whole)
    sharp = whole + 1 / 2
    soft_minimum: Array = part * less * (1 + (less / more) ** sharp) ** (-1 / sharp)
    return soft_minimum
