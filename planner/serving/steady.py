"""Steady state of continuous batching: what a load lives through on a deployment."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from planner.serving.crowding import Crowding, crowding
from planner.serving.curve import (
    TINY,
    LoadCurve,
    Mix,
    PromptSteps,
    StepTime,
    Times,
    batch,
    ceiling_per_s,
    completed_per_s,
    in_a_row,
    lives,
    load_curve,
    lone_chunks,
    lone_tokens,
    mix,
    population,
    position,
    price,
    read,
    resident,
    step_batches,
)
from planner.serving.load import Array, Capacity, Load, Mask, Overheads, Request, request_shape


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


class Part(NamedTuple):
    """The part of a load that one lane of one replica carries."""

    slots: Array
    population: Array  # requests or users; inf where only a rate is given
    request_rate_per_s: Array  # nan: closed loop
    lanes: Array  # of all replicas
    active: Array  # lanes at work; where the load caps what is in flight, no more than that


class Wave(NamedTuple):
    """Requests that start together on an idle engine, seconds."""

    requests: Array
    first_s: Array  # mean time until the prompt of one is prefilled
    all_s: Array  # until all are


class Exact(NamedTuple):
    """Steps priced where the deployment settles, seconds."""

    times: Times
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


def part(load: Load, capacity: Capacity) -> Part:
    """Split a load evenly over replicas and their pipeline lanes; fewer requests than lanes leave some idle."""
    lanes = capacity.replicas * capacity.lanes
    active = np.minimum(lanes, np.maximum(load.concurrency, 1))
    return Part(
        slots=np.maximum(np.minimum(capacity.sequences, capacity.max_num_seqs) / capacity.lanes, 1),
        population=np.maximum(load.concurrency / lanes, 1),
        request_rate_per_s=load.request_rate_per_s / active,
        lanes=lanes,
        active=active,
    )


def aligned(load: Load, capacity: Capacity, overheads: Overheads) -> tuple[Load, Capacity, Overheads]:
    """The same with every field broadcast to one shape (R,)."""
    fields = np.broadcast_arrays(*(np.atleast_1d(np.asarray(f, dtype=float)) for f in (*load, *capacity, *overheads)))
    n, m = len(load), len(load) + len(capacity)
    mixed = fields[n + Capacity._fields.index("chunks_mixed")] > 0
    return Load(*fields[:n]), Capacity(*fields[n:m])._replace(chunks_mixed=mixed), Overheads(*fields[m:])


class Offered(NamedTuple):
    """A load beside the curve of the deployment that it is offered to."""

    load: Load
    capacity: Capacity
    request: Request
    share: Part
    curve: LoadCurve
    prompts: PromptSteps


def offer(step_s: StepTime, load: Load, capacity: Capacity, overheads: Overheads) -> Offered:
    """Price the load curve; `settle` and `sustainable` both read it."""
    load, capacity, overheads = aligned(load, capacity, overheads)
    request, share = request_shape(load, overheads), part(load, capacity)
    capacity = capacity._replace(
        chunks_mixed=capacity.chunks_mixed | (request.decode_steps <= 0),
        chunk_overlap=np.where(share.active <= capacity.replicas, capacity.chunk_overlap, 0),  # else others fill stages
    )
    return Offered(load, capacity, request, share, *load_curve(step_s, request, capacity, share.slots))


def steady_state(step_s: StepTime, load: Load, capacity: Capacity, overheads: Overheads) -> ServingPoint:
    """Where the load settles: Little's law on the load curve, then the steps of that point priced exactly."""
    offered = offer(step_s, load, capacity, overheads)
    return serving_point(offered, settle(step_s, offered))


def settle(step_s: StepTime, offered: Offered) -> Settled:
    """The point of the curve that the closed loop, the slots or the rate asks for, whichever is lowest."""
    load, capacity, request, share, curve, prompts = offered
    capacity = capacity._replace(waits_on=np.minimum(capacity.waits_on, share.active / capacity.replicas))
    full, closed_at = position(resident(curve), share.slots), standing_at(offered)
    ceiling = ceiling_per_s(request, capacity, prompts)
    completed = np.minimum(completed_per_s(curve, share.slots), ceiling)
    crowd = crowding(load, capacity, share.slots, share.population)
    request = request._replace(again_tokens=crowd.again_tokens)
    ceiling = ceiling / (1 + crowd.again_tokens / np.maximum(request.prefill_tokens, 1))
    open_loop = share.request_rate_per_s < read(completed, closed_at)
    at = np.where(open_loop, position(curve.life.others_per_s, share.request_rate_per_s), closed_at)
    m = mix(request, capacity, read(curve.mix.prompts, at))
    times = Times(*price(step_s, step_batches(request, capacity, m)))
    exact = Exact(times, _prompt_s(offered), first_wave(offered, m, times.decode_s))
    point = set_aside(lives(request, capacity, m, times), crowd)
    equal = np.isfinite(load.waves) & (load.equal_lengths > 0) & (request.prefill_tokens > 0) & ~open_loop
    locked = equal & (~capacity.chunks_mixed | whole_wave(request, m, exact.wave))
    grouped = equal & ~locked
    if np.any(locked):
        (together_s,) = price(step_s, (batch(request, exact.wave.requests, 0 * exact.wave.requests, m.room_tokens),))
        point = in_lockstep(request, exact.wave, together_s, point, locked)
    if np.any(grouped):
        group_s = group_step_s(step_s, offered, m, exact.wave)
        point = in_groups(offered, m, exact.wave, group_s, point, grouped)
    point = behind_prompts(point, np.where(open_loop, 0, exact.wave.requests / ceiling))
    standing = np.minimum(share.population, population(curve)[-1] * (1 + crowd.aside))
    most_per_s = most_completed_per_s(capacity, share, completed, full)
    looped = np.minimum(standing / point.cycle_s, share.slots / np.maximum(point.held_s, TINY))
    looped = np.minimum(looped, ceiling)
    below = (at < full) & (share.population > share.slots) & ~locked  # full slots, none completes more
    looped = np.where(below, np.minimum(looped, most_per_s), looped)
    per_s = np.where(open_loop, share.request_rate_per_s, looped)
    return Settled(m, exact, point, open_loop, per_s, most_per_s)


def standing_at(offered: Offered) -> Array:
    """Where on the curve a lane stands with all in flight that the load allows, or all its slots."""
    share, curve = offered.share, offered.curve
    return np.minimum(position(population(curve), share.population), position(resident(curve), share.slots))


def most_completed_per_s(capacity: Capacity, share: Part, completed: Array, full: Array) -> Array:
    """With all slots taken; fewer may complete more beyond the largest CUDA graph, or where a lone prompt overlaps."""
    reached = np.arange(len(completed)).reshape(-1, 1) <= np.ceil(full)
    most = np.where(reached, completed, 0).max(axis=0)
    fewer = (capacity.graph_batch < share.slots) | (capacity.chunk_overlap > 0)
    return np.where(fewer, most, read(completed, full))


def _prompt_s(offered: Offered) -> Array:
    """A lone prompt's seconds; without a prompt the first token comes from a decode step, here of nobody else."""
    p, capacity = offered.request.prefill_tokens, offered.capacity
    alone_s = offered.curve.times.decode_s[0]
    return np.where(p > 0, in_a_row(lone_chunks(p, capacity), capacity) * offered.prompts.lone_s, alone_s)


def first_wave(offered: Offered, m: Mix, decode_s: Array) -> Wave:
    """The prompts that find all slots empty and are prefilled in full steps.

    One of them has (wave + 1) / 2 prompts to prefill on average, itself included; of its last step half is over
    where prompts end within steps. A step takes time in proportion to its tokens between a lone prompt's and a full
    one's; where chunks are mixed into several steps, half of those that will decode beside each other do so already.
    """
    request, share, (lone_s, full_s) = offered.request, offered.share, offered.prompts
    wave, p = np.minimum(share.population, share.slots), request.prefill_tokens
    burst = np.minimum(wave * p, m.room_tokens)
    least, most = lone_tokens(request, offered.capacity), offered.capacity.max_num_batched_tokens
    filled = np.clip((burst - least) / np.maximum(most - least, 1), 0, 1)
    beside = np.maximum(decode_s - offered.curve.times.decode_s[0], 0) / 2
    mixes = offered.capacity.chunks_mixed & (wave * p > m.room_tokens)
    step = lone_s + filled * (full_s - lone_s) + np.where(mixes, beside, 0)
    fills = wave * p / np.maximum(burst, TINY)
    ragged = (m.chunks - p / m.room_tokens) / 2 * (wave * p > m.room_tokens)
    first = np.maximum(fills * (wave + 1) / (2 * wave) + ragged, 1)
    steps = (in_a_row(count, offered.capacity) for count in (first, np.maximum(fills, 1)))
    return Wave(wave, *(count * step for count in steps))


def set_aside(point: LoadCurve, crowd: Crowding) -> LoadCurve:
    """Requests that a full pool sets back wait between their tokens, and hold no cache meanwhile."""
    more_s = crowd.aside * point.life.decode_s
    step = point.life.step_s * (1 + crowd.aside)
    return point._replace(
        life=point.life._replace(step_s=step, decode_s=point.life.decode_s + more_s), cycle_s=point.cycle_s + more_s
    )


def in_lockstep(request: Request, wave: Wave, decode_s: Array, point: LoadCurve, locked: Mask) -> LoadCurve:
    """Requests of one length that start together on an engine that prefills first, or in one step, stay together.

    No decode runs before the whole wave is prefilled, then all decode, `decode_s` a step, and end in the same step;
    the next wave starts together again. Those prefilled early wait for the rest before their second token.
    """
    n = np.maximum(request.decode_steps, 1)
    step = np.where(locked, decode_s + (wave.all_s - wave.first_s) / n, point.life.step_s)
    queue = np.where(locked, np.maximum(wave.first_s - point.life.own_prefill_s, 0), point.life.queue_s)
    held = np.where(locked, wave.all_s + request.decode_steps * decode_s, point.held_s)
    return point._replace(
        life=point.life._replace(step_s=step, decode_s=request.decode_steps * step, queue_s=queue),
        times=point.times._replace(decode_s=np.where(locked, step, point.times.decode_s)),
        held_s=held,
        cycle_s=np.where(locked, request.gap_s + held, point.cycle_s),
    )


def whole_wave(request: Request, m: Mix, wave: Wave) -> Mask:
    """Whether a benchmark's requests of one length all stay together, as one step prefills them all."""
    found: Mask = (request.group_whole > 0) & (wave.requests * request.prefill_tokens <= m.room_tokens)
    return found


def group_step_s(step_s: StepTime, offered: Offered, m: Mix, wave: Wave) -> Array:
    """Seconds of a step that prefills one group of a benchmark's prompts beside everybody else's decodes.

    As many as stay together from wave to wave: a few or a share of them, in one step's budget (the whole budget while
    waves are few), at most half, because a group waits for another.
    """
    request = offered.request
    most = np.minimum(m.room_tokens / np.maximum(request.prefill_tokens, 1), wave.requests / 2)
    prompts = np.maximum(np.minimum(np.maximum(request.group_prompts, request.group_share * wave.requests), most), 1)
    prompts = np.where(offered.load.waves <= request.group_waves, np.maximum(most, 1), prompts)
    tokens = np.minimum(prompts * request.prefill_tokens, m.room_tokens)
    (found,) = price(step_s, (batch(request, np.maximum(m.decodes - prompts, 0), tokens, m.room_tokens),))
    return found


def in_groups(offered: Offered, m: Mix, wave: Wave, group_s: Array, point: LoadCurve, grouped: Mask) -> LoadCurve:
    """Requests of one length on an engine that mixes chunks end in the order in which they were prefilled.

    One group ends per step, so that the prompts that follow it meet the step in which the group before is prefilled.
    """
    several = grouped & (wave.requests > 1) & (offered.request.prefill_tokens > 0)
    own = np.where(several, m.chunks * group_s, point.life.own_prefill_s)
    wait = np.maximum(group_s - offered.request.gap_s, point.life.queue_s + point.life.own_prefill_s - own)
    queue = np.where(several, np.maximum(wait, 0), point.life.queue_s)
    return point._replace(life=point.life._replace(queue_s=queue, own_prefill_s=own))


def behind_prompts(point: LoadCurve, least_s: Array) -> LoadCurve:
    """A cycle lasts at least as long as the prompts of all that stand; what is missing passes before its own prompt."""
    missing = np.maximum(least_s - point.cycle_s, 0)
    life = point.life._replace(queue_s=point.life.queue_s + missing)
    return point._replace(life=life, cycle_s=point.cycle_s + missing)


def multi_server_wait_s(servers: Array, occupancy: Array, service_s: Array) -> Array:
    """Mean wait for one of `servers` slots at Poisson arrivals and nearly constant service; inf at occupancy 1.

    rho^(sqrt(2 (c + 1)) - 1) / (c (1 - rho)) * S / 2. Ref: Sakasegawa 1977, Ann. Inst. Statist. Math. 29.
    """
    free = 1 - np.minimum(occupancy, 1)
    wait = np.minimum(occupancy, 1) ** (np.sqrt(2 * (servers + 1)) - 1) * service_s / (2 * servers)
    return np.where(free > 0, wait / np.where(free > 0, free, 1), np.inf)


def first_wave_share(load: Load, share: Part) -> Array:
    """Share of a benchmark's requests that find the engine empty: one in `waves` where all get a slot at once."""
    found: Array = np.minimum(1, share.slots / share.population) / load.waves
    return found


def slot_wait_s(load: Load, share: Part, s: Settled) -> Array:
    """Mean wait for a slot: what Little's law leaves of a closed loop, a multi-server queue at a rate.

    A benchmark's first wave finds the slots empty, and its rest waits half as long as later requests do. Nobody waits
    where each has a slot: what is left there is the curve's error against the steps priced where the load settles.
    """
    closed = np.maximum(share.population / s.per_s - s.point.cycle_s, 0) * (share.population > share.slots)
    closed = closed * (1 - (1 + np.minimum(1, share.slots / share.population)) / (2 * load.waves))
    occupancy = share.request_rate_per_s * s.point.held_s / share.slots
    return np.where(s.open_loop, multi_server_wait_s(share.slots, occupancy, s.point.held_s), closed)


def decode_step_s(load: Load, share: Part, s: Settled) -> Array:
    """Mean time between decode steps. The first wave prefills before most of it decodes: half its share is missed."""
    step = s.point.life.step_s
    return step - np.maximum(step - s.point.times.decode_s, 0) * first_wave_share(load, share) / 2


def first_token_s(load: Load, share: Part, s: Settled) -> Array:
    """From a slot to the first token; a benchmark's first wave is prefilled all at once."""
    steady = s.point.life.queue_s + s.point.life.own_prefill_s
    return steady + np.maximum(s.exact.wave.first_s - steady, 0) * first_wave_share(load, share)


def serving_point(offered: Offered, s: Settled) -> ServingPoint:
    """The figures of the whole deployment from where one lane settles."""
    load, request, share = offered.load, offered.request, offered.share
    wait, step = slot_wait_s(load, share, s), decode_step_s(load, share, s)
    tpot = np.where(load.output_tokens > 1, step / load.tokens_per_step, np.nan)
    ttft = request.overhead_s + wait + first_token_s(load, share, s)
    requests = s.per_s * share.active
    prompt_s = np.where(load.input_tokens > 0, s.exact.prefill_s, np.nan)
    return ServingPoint(
        ttft_unloaded_s=request.overhead_s + s.exact.prefill_s,
        ttft_s=ttft,
        tpot_s=tpot,
        e2e_s=ttft + request.decode_steps * step,
        prefill_tokens_per_s=request.prefill_tokens / prompt_s,
        output_tokens_per_s=requests * load.output_tokens,
        output_tokens_per_s_per_request=1 / tpot,
        requests_per_s=requests,
        decode_sequences=requests * request.decode_steps * step,
        waiting_sequences=requests * (wait + s.point.life.queue_s),
        slot_wait_s=wait,
        utilisation=np.minimum(s.per_s / s.most_per_s, 1),
        prefill_time_share=prefill_time_share(offered, s),
        above_capacity=~np.isnan(share.request_rate_per_s) & (~s.open_loop | np.isinf(wait)),
        cap=np.where(request.random_arrivals & (share.population < share.slots), load.concurrency, np.inf),
    )


def prefill_time_share(offered: Offered, s: Settled) -> Array:
    """Share of its part of the steps that a prompt adds; its decode steps, shared by all in them, add the rest.

    Of a lone request that is its own prefill against its own decode steps.
    """
    times, n = s.exact.times, offered.request.decode_steps
    base = np.where(offered.capacity.chunks_mixed, times.decode_s, 0)
    prompt_s = s.m.busy_share * np.maximum(times.busy_s - base, 0)
    decode_s = np.maximum(s.m.prompts, TINY) * n / np.maximum(s.m.decodes, 1) * times.decode_s
    return np.where(n > 0, prompt_s / np.maximum(prompt_s + decode_s, TINY**2), 1)
