"""Percentiles of a deployment's times, and the largest load that meets objectives on them."""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from planner.arrays import PerRow
from planner.serving.curve import Life, held_s, load_points, position, read
from planner.serving.load import Array, Load, Request
from planner.serving.offered import Offered
from planner.serving.open_loop import multi_server_wait_s, with_random_arrivals
from planner.serving.settle import Settled, standing_at
from planner.serving.steady import slot_wait_s
from planner.serving.steps import TINY

ROUNDING = 1e-6  # requests; keeps an exact whole number whole


class Objectives(NamedTuple):
    """Upper limits in seconds on a percentile (0 to 100, exclusive) of each time; nan where there is none."""

    ttft_s: PerRow = np.nan
    tpot_s: PerRow = np.nan
    e2e_s: PerRow = np.nan
    percentile: PerRow = 95.0

    @property
    def given(self) -> bool:
        """Whether there is any limit in any row."""
        return not np.all(np.isnan(self[:3]))


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


def tail(load: Load, request: Request, lived: Life, slot_s: Array, percentile: Array) -> Tail:
    """A percentile of TTFT, TPOT and end-to-end time, by these rules.

    TTFT: a request's own prefill grows with a log-normal prompt; waiting has an exponential tail, -ln(1 - p) times its
    mean, except for the steps that all requests miss. `slot_s`, the wait for a slot, hardly varies in a closed loop and
    counts as constant there.
    TPOT: a mean over n steps, so its deviation is that of one step over sqrt(n).
    End to end: deviations of TTFT, TPOT and of a log-normal output length are independent and add in squares.
    """
    percentile = np.broadcast_to(np.asarray(percentile, dtype=float), np.shape(load.input_tokens))
    z, means = normal_quantile(percentile), -np.log1p(-percentile / 100)
    varies, grows = request.random_arrivals, np.isinf(slot_s)
    finite_slot_s = np.where(grows, 0, slot_s)
    alike_s = np.minimum(lived.missed_s, lived.queue_s)
    waiting_s = lived.queue_s - alike_s + np.where(varies, finite_slot_s, 0)
    mean_ttft_s = request.overhead_s + np.where(varies, 0, finite_slot_s) + lived.own_prefill_s + alike_s + waiting_s
    longer_prefill_s = lived.own_prefill_s * (np.exp(z * load.input_log_sd - load.input_log_sd**2 / 2) - 1)
    later_s = longer_prefill_s + waiting_s * (means - 1)
    slower_step_s = z * lived.step_sd_s / np.sqrt(np.maximum(request.decode_steps, 1))
    longer_decode_s = lived.decode_s * (np.exp(z * load.output_log_sd - load.output_log_sd**2 / 2) - 1)
    apart_s = np.sqrt(later_s**2 + (slower_step_s * request.decode_steps) ** 2 + longer_decode_s**2)
    return Tail(
        np.where(grows, np.inf, mean_ttft_s + later_s),
        np.where(load.output_tokens > 1, (lived.step_s + slower_step_s) / load.tokens_per_step, np.nan),
        np.where(grows, np.inf, mean_ttft_s + lived.decode_s + np.sign(z) * apart_s),
    )


def settled_tail(offered: Offered, settled: Settled, percentile: Array) -> Tail:
    """A percentile of each time where the load settles."""
    wait_s = slot_wait_s(offered.load, offered.lane, settled)
    return tail(offered.load, offered.request, settled.point.life, wait_s, percentile)


def margin(times: Tail, objectives: Objectives) -> Array:
    """The largest ratio of a time to its limit; 0 where no objective applies (a single token has no TPOT)."""
    first, between = times.ttft_s / objectives.ttft_s, times.tpot_s / objectives.tpot_s
    return np.asarray(np.fmax(np.fmax(first, between), np.fmax(times.e2e_s / objectives.e2e_s, 0.0)))


def slots_taken(standing: Array, slots: Array) -> Array:
    """Share of the slots that requests arriving at random take on average, from none to all, (K, R).

    The curve's counts include the followed request, which random arrivals do not. With a single slot they are the same
    everywhere, so the share rises evenly instead.
    """
    even = np.linspace(0, 1, len(standing)).reshape(-1, 1)
    return np.where(slots > 1 + ROUNDING, (standing - 1) / np.maximum(slots - 1, ROUNDING), even)


def sustainable(offered: Offered, objectives: Objectives) -> Sustainable:
    """Read the largest sustainable load off the load curve, for a closed loop and for random arrivals.

    Along the curve both are limited by their slots and by the objectives, as shares that reach 1 there.
    """
    load, capacity, request, lane, curve, prompts, looped_per_s = offered
    arriving = request._replace(random_arrivals=np.ones_like(request.random_arrivals))
    arriving_s = held_s(arriving, capacity, curve.mix, curve.times)
    occupancy = slots_taken(curve.resident, lane.slots)
    closed_share, open_share = curve.resident / lane.slots, occupancy
    if objectives.given:
        no_wait_s, wait_s = np.zeros_like(curve.held_s), multi_server_wait_s(lane.slots, occupancy, arriving_s)
        arrivals = load_points(arriving, capacity, curve.mix, curve.times)
        lived = with_random_arrivals(arriving, capacity, lane.slots, arrivals, prompts.full_s).life
        closed_tail = tail(load, request, curve.life, no_wait_s, objectives.percentile)
        open_tail = tail(load, arriving, lived, wait_s, objectives.percentile)
        closed_share = np.maximum(margin(closed_tail, objectives), closed_share)
        open_share = np.maximum(margin(open_tail, objectives), open_share)
    whole = np.ones_like(lane.slots)
    standing = read(curve.population, position(closed_share, whole)) * lane.lanes
    full_at = position(curve.resident, lane.slots)
    most_per_s = read(looped_per_s, np.where(request.random_arrivals, standing_at(offered, full_at), full_at))
    open_per_s = occupancy * lane.slots / np.maximum(arriving_s, TINY)
    per_s = np.minimum(read(open_per_s, position(open_share, whole)), most_per_s)
    return Sustainable(
        concurrency=np.where(closed_share[0] > 1 + ROUNDING, 0, np.floor(standing + ROUNDING)),
        request_rate_per_s=per_s * np.where(request.random_arrivals, lane.active, lane.lanes),
    )
