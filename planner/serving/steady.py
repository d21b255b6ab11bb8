"""The figures of a deployment from where its load settles: TTFT, TPOT, end-to-end time, rates."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from planner.serving.curve import position, read
from planner.serving.load import AT_ONCE, NO_SERVER, Array, Capacity, FrontEnd, Load, Mask, Scheduling
from planner.serving.offered import Lane, Offered, offer
from planner.serving.open_loop import multi_server_wait_s
from planner.serving.settle import Settled, settle
from planner.serving.steps import TINY, StepTime


class ServingPoint(NamedTuple):
    """Means at the given load; arrays (R,). Rates and counts are of the whole deployment.

    nan: no such figure (TPOT of a single output token, prefill of an empty prompt). inf: the queue grows.
    """

    ttft_unloaded_s: Array
    ttft_s: Array
    tpot_s: Array
    e2e_s: Array
    prefill_tokens_per_s: Array  # of a lone prompt, on one replica
    output_tokens_per_s: Array
    output_tokens_per_s_per_request: Array  # 1 / TPOT
    requests_per_s: Array
    decode_sequences: Array
    waiting_sequences: Array  # for a slot or behind other prompts
    slot_wait_s: Array  # part of TTFT spent waiting for a place in the KV pool or under max_num_seqs
    utilisation: Array  # requests per second over the most that the deployment completes
    prefill_time_share: Array  # of the time in steps, a request's own prefill among them
    above_capacity: Mask  # the rate asked for is more than is ever completed, or takes all slots all the time
    cap: Array  # requests in flight that a load with a rate allows, where these are fewer than the slots; else inf


def steady_state(
    step_s: StepTime,
    load: Load,
    capacity: Capacity,
    scheduling: Scheduling = AT_ONCE,
    front_end: FrontEnd = NO_SERVER,
) -> ServingPoint:
    """The figures of a load: its curve is priced, it settles there, the steps of that point are priced exactly."""
    offered = offer(step_s, load, capacity, scheduling, front_end)
    return serving_point(offered, settle(step_s, offered))


def first_wave_share(load: Load, lane: Lane) -> Array:
    """Share of a benchmark's requests that start on an idle engine: one in `waves` where all get a slot at once."""
    found: Array = np.minimum(1, lane.slots / lane.population) / load.waves
    return found


def slot_wait_s(load: Load, lane: Lane, s: Settled) -> Array:
    """Mean wait for a slot: in a closed loop what Little's law leaves of a cycle, at a rate a multi-server queue.

    In a benchmark the requests that start on an idle engine do not wait, and the rest of the first wave waits half as
    long as later requests. Nobody waits where there is a slot for each: Little's law would there only give the
    difference between the curve and the exactly priced steps.
    """
    closed_s = np.maximum(lane.population / s.per_s - s.point.cycle_s, 0) * (lane.population > lane.slots)
    closed_s = closed_s * (1 - (1 + np.minimum(1, lane.slots / lane.population)) / (2 * load.waves))
    occupancy = lane.request_rate_per_s * s.point.held_s / lane.slots
    return np.where(s.open_loop, multi_server_wait_s(lane.slots, occupancy, s.point.held_s), closed_s)


def decode_step_s(load: Load, lane: Lane, s: Settled) -> Array:
    """Mean time between decode steps over a run.

    A first wave is prefilled before most of it decodes, so it meets half of what prompts add to steps, and nothing of
    what other ranks' prompts add: all ranks prefill theirs in the same steps.
    """
    steady_s = s.point.life.step_s
    missed_s = np.maximum(steady_s - s.point.times.decode_s, 0) / 2 + s.steps.beside_s
    return steady_s - missed_s * first_wave_share(load, lane)


def first_token_s(load: Load, lane: Lane, s: Settled) -> Array:
    """From getting a slot to the first token, on average over a run whose first wave is prefilled all at once."""
    steady_s = s.point.life.queue_s + s.point.life.own_prefill_s
    return steady_s + np.maximum(s.wave.first_s - steady_s, 0) * first_wave_share(load, lane)


def completed_in_run_per_s(offered: Offered, s: Settled, e2e_s: Array) -> Array:
    """Requests per second of one lane over a whole run; for a service, where it settles.

    A closed loop in which everybody has a slot: Little's law with the end-to-end time of the run. A run at a rate
    lasts until its last request is sent, and that request's own time.
    """
    load, lane, think_s = offered.load, offered.lane, offered.request.gap_s - offered.request.overhead_s
    everybody = ~s.open_loop & (lane.population <= lane.slots)
    looped_per_s = lane.population * _rounds_filled(offered) / np.where(everybody, e2e_s + think_s, 1)
    ends = s.open_loop & np.isfinite(load.run_requests)
    sent = np.where(ends, load.run_requests, 1)
    lasts_s = np.where(ends, (sent - 1) / load.request_rate_per_s + e2e_s, 1)
    return np.where(everybody, looped_per_s, np.where(ends, sent / lasts_s / lane.active, s.per_s))


def _rounds_filled(offered: Offered) -> Array:
    """Answers of one length come in rounds, of which the last may be of few: the waves of a run in rounds of all.

    Its steps are those of so many: 1.25 waves of 64 end as late as a round of 64 and one of 16.
    """
    load, curve, population = offered.load, offered.curve, offered.lane.population
    waves = np.where(np.isfinite(load.waves) & (load.equal_lengths > 0), load.waves, 1)
    whole = np.floor(waves)
    begun = (waves > whole) & np.isfinite(population)
    everybody = np.where(begun, population, 1)
    few = (waves - whole) * everybody + ~begun
    last_s, round_s = (read(curve.cycle_s, position(curve.population, n)) for n in (few, everybody))
    filled: Array = waves / (whole + np.where(begun, last_s / np.maximum(round_s, TINY), 0))
    return filled


def serving_point(offered: Offered, s: Settled) -> ServingPoint:
    """The figures of the whole deployment from where one lane settles."""
    load, request, lane = offered.load, offered.request, offered.lane
    wait_s, mean_step_s = slot_wait_s(load, lane, s), decode_step_s(load, lane, s)
    tpot_s = np.where(load.output_tokens > 1, mean_step_s / load.tokens_per_step, np.nan)
    ttft_s = request.overhead_s + wait_s + first_token_s(load, lane, s)
    e2e_s = ttft_s + request.decode_steps * mean_step_s
    requests_per_s = completed_in_run_per_s(offered, s, e2e_s) * lane.active
    prompt_s = np.where(load.input_tokens > 0, s.prompt_s, np.nan)
    return ServingPoint(
        ttft_unloaded_s=request.overhead_s + s.prompt_s,
        ttft_s=ttft_s,
        tpot_s=tpot_s,
        e2e_s=e2e_s,
        prefill_tokens_per_s=request.prefill_tokens / prompt_s,
        output_tokens_per_s=requests_per_s * load.output_tokens,
        output_tokens_per_s_per_request=1 / tpot_s,
        requests_per_s=requests_per_s,
        decode_sequences=requests_per_s * request.decode_steps * mean_step_s,
        waiting_sequences=requests_per_s * (wait_s + s.point.life.queue_s),
        slot_wait_s=wait_s,
        utilisation=np.minimum(s.per_s / s.most_per_s, 1),
        prefill_time_share=prefill_time_share(offered, s),
        above_capacity=~np.isnan(lane.request_rate_per_s) & (~s.open_loop | np.isinf(wait_s)),
        cap=np.where(request.random_arrivals & (lane.population < lane.slots), load.concurrency, np.inf),
    )


def prefill_time_share(offered: Offered, s: Settled) -> Array:
    """Share of a request's step time that its prompt causes, 0 to 1.

    The prompt causes what it adds to steps; the rest is its decode steps, shared with the sequences that run in them.
    """
    (m, times, beside_s), n = s.steps, offered.request.decode_steps
    base_s = np.where(offered.capacity.chunks_mixed, times.decode_s, 0)
    prompt_s = m.busy_share * np.maximum(times.busy_s - base_s, 0) + beside_s
    decode_s = np.maximum(m.prompts, TINY) * n / np.maximum(m.decodes, 1) * (times.decode_s - beside_s)
    return np.where(n > 0, prompt_s / np.maximum(prompt_s + decode_s, TINY**2), 1)
