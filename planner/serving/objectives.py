"""What a deployment sustains: percentiles of its times, and the largest load that meets objectives on them."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from planner.serving.curve import Life, completed_per_s, lives, population, position, read, resident
from planner.serving.load import Array, Load, Mask, Request
from planner.serving.offered import Offered
from planner.serving.open_loop import at_random, multi_server_wait_s
from planner.serving.steady import Settled, slot_wait_s, standing_at
from planner.serving.steps import TINY, ceiling_per_s

ROUNDING = 1e-6  # requests; keeps an exact whole number whole


class Objectives(NamedTuple):
    """Upper limits in seconds on a percentile (0 to 100, exclusive) of each time; nan where there is none."""

    ttft_s: Any = np.nan
    tpot_s: Any = np.nan
    e2e_s: Any = np.nan
    percentile: Any = 95.0


class Tail(NamedTuple):
    """A percentile of each time, seconds."""

    ttft_s: Array
    tpot_s: Array
    e2e_s: Array


class Sustainable(NamedTuple):
    """The largest load of the whole deployment without growing queues that meets the objectives; 0 if none."""

    concurrency: Array  # requests, or users where they think between requests; a whole number
    request_rate_per_s: Array  # arrivals at random; below this, queues stay finite, also before a cap of the load's own


def normal_quantile(percentile: Array) -> Array:
    """Standard normal quantile of a percentile in (0, 100)."""
    flat = np.ravel(percentile).tolist()
    known = {value: NormalDist().inv_cdf(value / 100) for value in set(flat)}
    return np.array([known[value] for value in flat]).reshape(np.shape(percentile))


def tail(load: Load, request: Request, one: Life, slot_s: Array, percentile: Array) -> Tail:
    """A percentile of TTFT, TPOT and end-to-end time by three stated rules.

    TTFT: its own prefill grows with a log-normal prompt, waiting has an exponential tail, -ln(1 - p) means; the steps
    that all miss alike have none.
    TPOT: a mean over the request's n steps, so its deviation is that of a step over sqrt(n).
    End to end: deviations of TTFT, TPOT and of a log-normal output length are independent and add in squares.
    `slot_s` waits for a slot in the closed loop, where it hardly varies, are constant.
    """
    percentile = np.broadcast_to(np.asarray(percentile, dtype=float), np.shape(load.input_tokens))
    z, waits = normal_quantile(percentile), -np.log1p(-percentile / 100)
    varies, grows = request.random_arrivals, np.isinf(slot_s)
    slot = np.where(grows, 0, slot_s)
    alike = np.minimum(one.missed_s, one.queue_s)
    waiting = one.queue_s - alike + np.where(varies, slot, 0)
    mean_ttft = request.overhead_s + np.where(varies, 0, slot) + one.own_prefill_s + alike + waiting
    longer = one.own_prefill_s * (np.exp(z * load.input_log_sd - load.input_log_sd**2 / 2) - 1)
    later = longer + waiting * (waits - 1)
    slower = z * one.step_sd_s / np.sqrt(np.maximum(request.decode_steps, 1))
    outputs = one.decode_s * (np.exp(z * load.output_log_sd - load.output_log_sd**2 / 2) - 1)
    apart = np.sqrt(later**2 + (slower * request.decode_steps) ** 2 + outputs**2)
    return Tail(
        np.where(grows, np.inf, mean_ttft + later),
        np.where(load.output_tokens > 1, (one.step_s + slower) / load.tokens_per_step, np.nan),
        np.where(grows, np.inf, mean_ttft + one.decode_s + np.sign(z) * apart),
    )


def margin(found: Tail, objectives: Objectives) -> Array:
    """The largest of figure over limit; 0 where no objective applies (no TPOT of a single token)."""
    first, between = found.ttft_s / objectives.ttft_s, found.tpot_s / objectives.tpot_s
    return np.asarray(np.fmax(np.fmax(first, between), np.fmax(found.e2e_s / objectives.e2e_s, 0.0)))


def meets(offered: Offered, settled: Settled, objectives: Objectives) -> Mask:
    """Whether the load as it settles meets the objectives; never where its queue grows."""
    load, request, lane = offered.load, offered.request, offered.lane
    wait = slot_wait_s(load, lane, settled)
    found = tail(load, request, settled.point.life, wait, objectives.percentile)
    return np.isfinite(wait) & (margin(found, objectives) <= 1)


def slots_taken(standing: Array, slots: Array) -> Array:
    """Share of the slots that requests arriving at random take on average, from none to all, (K, R).

    The curve counts the followed request among those that stand, which random arrivals do not; of a single slot
    it has one point only, and the share rises evenly instead.
    """
    even = np.linspace(0, 1, len(standing)).reshape(-1, 1)
    return np.where(slots > 1 + ROUNDING, (standing - 1) / np.maximum(slots - 1, ROUNDING), even)


def sustainable(offered: Offered, objectives: Objectives) -> Sustainable:
    """Read the largest sustainable load off the load curve, for a closed loop and for random arrivals."""
    load, capacity, request, lane, curve, prompts = offered
    closed = resident(curve) / lane.slots
    apart = request._replace(random_arrivals=np.ones_like(request.random_arrivals))
    random = lives(apart, capacity, curve.mix, curve.times)
    occupancy = slots_taken(resident(curve), lane.slots)
    rate = occupancy * lane.slots / np.maximum(random.held_s, TINY)
    open_loop = occupancy
    if not np.all(np.isnan(objectives[:3])):
        none, wait = np.zeros_like(curve.held_s), multi_server_wait_s(lane.slots, occupancy, random.held_s)
        lived = at_random(apart, capacity, lane.slots, random, prompts.full_s).life
        closed = np.maximum(margin(tail(load, request, curve.life, none, objectives.percentile), objectives), closed)
        missed = margin(tail(load, apart, lived, wait, objectives.percentile), objectives)
        open_loop = np.maximum(missed, occupancy)
    most = read(population(curve), position(closed, np.ones_like(lane.slots))) * lane.lanes
    full = position(resident(curve), lane.slots)
    completed = np.minimum(completed_per_s(curve, lane.slots), ceiling_per_s(request, capacity, prompts))
    completed_most = read(completed, np.where(request.random_arrivals, standing_at(offered), full))
    per_s = np.minimum(read(rate, position(open_loop, np.ones_like(lane.slots))), completed_most)
    return Sustainable(
        concurrency=np.where(closed[0] > 1 + ROUNDING, 0, np.floor(most + ROUNDING)),
        request_rate_per_s=per_s * np.where(request.random_arrivals, lane.active, lane.lanes),
    )
