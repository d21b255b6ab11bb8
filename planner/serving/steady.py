"""Steady state of continuous batching: what a load lives through on a deployment."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from planner.serving.crowding import Crowding, crowding
from planner.serving.curve import LoadCurve, load_points, position, read
from planner.serving.load import AT_ONCE, NO_SERVER, Array, Capacity, FrontEnd, Load, Mask, Request, Scheduling
from planner.serving.offered import Lane, Offered, offer
from planner.serving.open_loop import multi_server_wait_s, with_random_arrivals
from planner.serving.steps import (
    TINY,
    Mix,
    StepTime,
    Times,
    beside_ranks,
    ceiling_per_s,
    in_a_row,
    lone_chunks,
    mix,
    price,
    step_batches,
)
from planner.serving.waves import Wave, density, first_wave, in_step


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


class Exact(NamedTuple):
    """Steps priced where the deployment settles, seconds."""

    times: Times
    beside_s: Array  # of the decode step, because other ranks prefill in some
    prefill_s: Array  # of a lone prompt
    wave: Wave  # all that fit in the slots


class Settled(NamedTuple):
    """Where one lane settles."""

    m: Mix
    exact: Exact
    point: LoadCurve  # one point of it, priced exactly
    open_loop: Mask  # the rate is met
    per_s: Array  # requests that the lane completes
    most_per_s: Array  # the most requests that the lane completes, up to full slots


def steady_state(
    step_s: StepTime,
    load: Load,
    capacity: Capacity,
    scheduling: Scheduling = AT_ONCE,
    front_end: FrontEnd = NO_SERVER,
) -> ServingPoint:
    """Where the load settles: Little's law on the load curve, then the steps of that point priced exactly."""
    offered = offer(step_s, load, capacity, scheduling, front_end)
    return serving_point(offered, settle(step_s, offered))


def settle(step_s: StepTime, offered: Offered) -> Settled:
    """The point of the curve that the closed loop, the slots or the rate asks for, whichever is lowest."""
    load, capacity, request, lane, curve, prompts, along_per_s = offered
    capacity = capacity._replace(waits_on=np.minimum(capacity.waits_on, lane.active / capacity.replicas))
    full_at = position(curve.resident, lane.slots)
    closed_at = standing_at(offered, full_at)
    crowd = crowding(load, capacity, lane.slots, lane.population)
    request = request._replace(again_tokens=crowd.again_tokens)
    open_loop = lane.request_rate_per_s < read(along_per_s, closed_at)
    at = np.where(open_loop, position(curve.life.others_per_s, lane.request_rate_per_s), closed_at)
    prompts_per_step = read(curve.mix.prompts, at)
    m, times, beside_s = _steps(step_s, request, capacity, prompts_per_step)
    if np.any(request.ranks_apart > 1):
        request = _told_density(offered, request, m, times, ~open_loop)
        m, times, beside_s = _steps(step_s, request, capacity, prompts_per_step)
    exact = Exact(times, beside_s, _prompt_s(offered), first_wave(offered, m, times.decode_s))
    point = set_aside(load_points(request, capacity, m, times), crowd)
    point = with_random_arrivals(
        request._replace(random_arrivals=open_loop), capacity, lane.slots, point, prompts.full_s
    )
    point = in_step(step_s, offered, m, exact.wave, point, ~open_loop)
    most_per_s = most_completed_per_s(capacity, lane, along_per_s, full_at)
    bound_per_s = ceiling_per_s(request, capacity, prompts) / (
        1 + crowd.again_tokens / np.maximum(request.prefill_tokens, 1)
    )
    full_per_s = np.where(at < full_at, most_per_s, np.inf)
    looped_per_s = np.minimum(_looped_per_s(offered, crowd, point, full_per_s), bound_per_s)
    point = behind_prompts(point, np.where(open_loop, 0, exact.wave.requests / looped_per_s))
    return Settled(m, exact, point, open_loop, np.where(open_loop, lane.request_rate_per_s, looped_per_s), most_per_s)


def _told_density(offered: Offered, request: Request, m: Mix, times: Times, closed: Mask) -> Request:
    """The same request, which knows how dense prompts come in the clumps of a benchmark."""
    wave, lived = first_wave(offered, m, times.decode_s), load_points(request, offered.capacity, m, times)
    clumps = np.isfinite(offered.load.waves) & closed
    return request._replace(density=np.where(clumps, density(offered, wave, lived), 1))


class _Steps(NamedTuple):
    """The steps at a mix."""

    m: Mix
    times: Times
    beside_s: Array  # of a decode step, because other ranks prefill


def _steps(step_s: StepTime, request: Request, capacity: Capacity, prompts: Array) -> _Steps:
    """The steps where `prompts` arrive in each."""
    m = mix(request, capacity, prompts)
    times = Times(*price(step_s, step_batches(request, capacity, m)))
    decode_s = beside_ranks(step_s, request, m, times.decode_s)
    return _Steps(m, times._replace(decode_s=decode_s), decode_s - times.decode_s)


def _looped_per_s(offered: Offered, crowd: Crowding, point: LoadCurve, full_per_s: Array) -> Array:
    """Requests that a closed loop completes: each that stands one in a cycle, as many as hold the slots.

    Where some wait for a slot, no more than full slots complete (`full_per_s`), but for waves in lockstep.
    """
    load, lane = offered.load, offered.lane
    standing = np.minimum(lane.population, offered.curve.population[-1] * (1 + crowd.aside))
    looped_per_s = np.minimum(standing / point.cycle_s, lane.slots / np.maximum(point.held_s, TINY))
    in_lockstep = ~offered.capacity.chunks_mixed & np.isfinite(load.waves) & (load.equal_lengths > 0)
    queues = (lane.population > lane.slots) & ~in_lockstep
    return np.asarray(np.where(queues, np.minimum(looped_per_s, full_per_s), looped_per_s))


def standing_at(offered: Offered, full_at: Array) -> Array:
    """Where on the curve a lane stands with all in flight that the load allows, or all its slots."""
    return np.minimum(position(offered.curve.population, offered.lane.population), full_at)


def most_completed_per_s(capacity: Capacity, lane: Lane, completed: Array, full: Array) -> Array:
    """With all slots taken; fewer may complete more beyond the largest CUDA graph, or where a lone prompt overlaps."""
    reached = np.arange(len(completed)).reshape(-1, 1) <= np.ceil(full)
    most = np.where(reached, completed, 0).max(axis=0)
    fewer = (capacity.graph_batch < lane.slots) | (capacity.chunk_overlap > 0)
    return np.where(fewer, most, read(completed, full))


def _prompt_s(offered: Offered) -> Array:
    """A lone prompt's seconds; without a prompt the first token comes from a decode step, here of nobody else."""
    p, capacity = offered.request.prefill_tokens, offered.capacity
    alone_s = offered.curve.times.decode_s[0]
    return np.where(p > 0, in_a_row(lone_chunks(offered.request, capacity), capacity) * offered.prompts.lone_s, alone_s)


def set_aside(point: LoadCurve, crowd: Crowding) -> LoadCurve:
    """Requests that a full pool sets back wait between their tokens, and hold no cache meanwhile."""
    more_s = crowd.aside * point.life.decode_s
    mean_step_s = point.life.step_s * (1 + crowd.aside)
    return point._replace(life=point.life._replace(step_s=mean_step_s, decode_s=point.life.decode_s + more_s))


def behind_prompts(point: LoadCurve, least_s: Array) -> LoadCurve:
    """A cycle lasts as long as all that stand take to complete; what is missing passes before its own prompt."""
    missing_s = np.maximum(least_s - point.cycle_s, 0)
    return point._replace(life=point.life._replace(queue_s=point.life.queue_s + missing_s))


def first_wave_share(load: Load, lane: Lane) -> Array:
    """Share of a benchmark's requests that find the engine empty: one in `waves` where all get a slot at once."""
    found: Array = np.minimum(1, lane.slots / lane.population) / load.waves
    return found


def slot_wait_s(load: Load, lane: Lane, s: Settled) -> Array:
    """Mean wait for a slot: what Little's law leaves of a closed loop, a multi-server queue at a rate.

    A benchmark's first wave finds the slots empty, and its rest waits half as long as later requests do. Nobody waits
    where each has a slot: what is left there is the curve's error against the steps priced where the load settles.
    """
    closed_s = np.maximum(lane.population / s.per_s - s.point.cycle_s, 0) * (lane.population > lane.slots)
    closed_s = closed_s * (1 - (1 + np.minimum(1, lane.slots / lane.population)) / (2 * load.waves))
    occupancy = lane.request_rate_per_s * s.point.held_s / lane.slots
    return np.where(s.open_loop, multi_server_wait_s(lane.slots, occupancy, s.point.held_s), closed_s)


def decode_step_s(load: Load, lane: Lane, s: Settled) -> Array:
    """Mean time between decode steps. The first wave prefills before most of it decodes: half its share is missed.

    All ranks prefill theirs in the same steps, so that nobody decodes beside it.
    """
    steady_s = s.point.life.step_s
    missed_s = np.maximum(steady_s - s.point.times.decode_s, 0) / 2 + s.exact.beside_s
    return steady_s - missed_s * first_wave_share(load, lane)


def first_token_s(load: Load, lane: Lane, s: Settled) -> Array:
    """From a slot to the first token; a benchmark's first wave is prefilled all at once."""
    steady_s = s.point.life.queue_s + s.point.life.own_prefill_s
    return steady_s + np.maximum(s.exact.wave.first_s - steady_s, 0) * first_wave_share(load, lane)


def completed_in_run_per_s(offered: Offered, s: Settled, e2e_s: Array) -> Array:
    """Requests per second of one lane over a whole run; of a service, as it settles.

    A closed loop: Little's law where everybody has a slot, its first wave counted. A rate: the time until the last of
    the run is sent, and its own.
    """
    load, lane, think_s = offered.load, offered.lane, offered.request.gap_s - offered.request.overhead_s
    everybody = ~s.open_loop & (lane.population <= lane.slots)
    looped_per_s = lane.population * _rounds_filled(load) / np.where(everybody, e2e_s + think_s, 1)
    ends = s.open_loop & np.isfinite(load.run_requests)
    sent = np.where(ends, load.run_requests, 1)
    lasts_s = np.where(ends, (sent - 1) / load.request_rate_per_s + e2e_s, 1)
    return np.where(everybody, looped_per_s, np.where(ends, sent / lasts_s / lane.active, s.per_s))


def _rounds_filled(load: Load) -> Array:
    """Answers of one length come in rounds, and a run lasts whole ones: 3.1 waves as long as 4."""
    rounds = np.ceil(np.where(np.isfinite(load.waves), load.waves, 1))
    filled: Array = np.where(np.isfinite(load.waves) & (load.equal_lengths > 0), load.waves / np.maximum(rounds, 1), 1)
    return filled


def serving_point(offered: Offered, s: Settled) -> ServingPoint:
    """The figures of the whole deployment from where one lane settles."""
    load, request, lane = offered.load, offered.request, offered.lane
    wait_s, mean_step_s = slot_wait_s(load, lane, s), decode_step_s(load, lane, s)
    tpot_s = np.where(load.output_tokens > 1, mean_step_s / load.tokens_per_step, np.nan)
    ttft_s = request.overhead_s + wait_s + first_token_s(load, lane, s)
    e2e_s = ttft_s + request.decode_steps * mean_step_s
    requests_per_s = completed_in_run_per_s(offered, s, e2e_s) * lane.active
    prompt_s = np.where(load.input_tokens > 0, s.exact.prefill_s, np.nan)
    return ServingPoint(
        ttft_unloaded_s=request.overhead_s + s.exact.prefill_s,
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
    """Share of its part of the steps that a prompt adds; its decode steps, shared by all in them, add the rest.

    Of a lone request that is its own prefill against its own decode steps.
    """
    times, n = s.exact.times, offered.request.decode_steps
    base_s = np.where(offered.capacity.chunks_mixed, times.decode_s, 0)
    prompt_s = s.m.busy_share * np.maximum(times.busy_s - base_s, 0) + s.exact.beside_s
    decode_s = np.maximum(s.m.prompts, TINY) * n / np.maximum(s.m.decodes, 1) * (times.decode_s - s.exact.beside_s)
    return np.where(n > 0, prompt_s / np.maximum(prompt_s + decode_s, TINY**2), 1)
