"""Where a load settles on the load curve of one pipeline lane, and the steps that run there."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from planner.serving.crowding import Crowding, crowding
from planner.serving.curve import LoadCurve, load_points, position, read
from planner.serving.load import Array, Capacity, Mask, Request
from planner.serving.offered import Lane, Offered
from planner.serving.open_loop import with_random_arrivals
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


class ExactSteps(NamedTuple):
    """The steps at one mix, priced there and not read off the curve."""

    m: Mix
    times: Times
    beside_s: Array  # of the mean decode step, because other ranks prefill in some


class Place(NamedTuple):
    """Where on the curve a lane settles, as fractional indices (R,), or (N, R) for N loads."""

    at: Array
    full_at: Array  # where all slots are taken
    open_loop: Mask  # the rate is met; elsewhere requests follow each other


class Settled(NamedTuple):
    """Where one lane settles; seconds and requests per second."""

    steps: ExactSteps
    prompt_s: Array  # of a lone prompt
    wave: Wave  # the first, of all that fit in the slots
    point: LoadCurve  # one point of the curve, from the exact steps
    open_loop: Mask
    per_s: Array  # requests that the lane completes
    most_per_s: Array  # the most that it completes, up to full slots


def settle(step_s: StepTime, offered: Offered) -> Settled:
    """Settle a load on its curve and follow a request there.

    The steps of the point are priced exactly. The life of a request then follows in this order: as on the curve; set
    back by a full pool; arriving at random, where a rate is met; in step with the others of a load generator. A closed
    loop completes what this life lets it, at most what prompts, slots and the front end allow; where that is less, the
    difference is waited before a request's own prompt.
    """
    load, lane = offered.load, offered.lane
    place = place_of(offered)
    closed, capacity = ~place.open_loop, _with_lanes_at_work(offered.capacity, lane)
    crowd = crowding(load, capacity, lane.slots, lane.population)
    request = offered.request._replace(again_tokens=crowd.again_tokens)
    prompts = read(offered.curve.mix.prompts, place.at)
    steps = _exact_steps(step_s, request, capacity, prompts)
    if np.any(request.ranks_apart > 1):
        request = _with_density(offered, request, steps, closed)
        steps = _exact_steps(step_s, request, capacity, prompts)
    wave = first_wave(offered, steps.m, steps.times.decode_s)
    point = set_aside(load_points(request, capacity, steps.m, steps.times), crowd)
    random = request._replace(random_arrivals=place.open_loop)
    point = with_random_arrivals(random, capacity, lane.slots, point, offered.prompts.full_s)
    point = in_step(step_s, offered, steps.m, wave, point, closed)
    most_per_s = most_completed_per_s(offered, place.full_at)
    full_per_s = np.where(place.at < place.full_at, most_per_s, np.inf)
    looped_per_s = np.minimum(_looped_per_s(offered, crowd, point, full_per_s), _ceiling_per_s(offered, crowd))
    point = behind_prompts(point, np.where(closed, wave.requests / looped_per_s, 0))
    per_s = np.where(closed, looped_per_s, lane.request_rate_per_s)
    return Settled(steps, _prompt_s(offered), wave, point, place.open_loop, per_s, most_per_s)


def place_of(offered: Offered) -> Place:
    """The point that the closed loop, the slots or the rate asks for, whichever is lowest."""
    curve, rate_per_s = offered.curve, offered.lane.request_rate_per_s
    full_at = position(curve.resident, offered.lane.slots)
    closed_at = standing_at(offered, full_at)
    open_loop = rate_per_s < read(offered.looped_per_s, closed_at)
    return Place(np.where(open_loop, position(curve.life.others_per_s, rate_per_s), closed_at), full_at, open_loop)


def standing_at(offered: Offered, full_at: Array) -> Array:
    """Where on the curve a lane stands with all in flight that the load allows, or all its slots."""
    return np.minimum(position(offered.curve.population, offered.lane.population), full_at)


def _with_lanes_at_work(capacity: Capacity, lane: Lane) -> Capacity:
    """The capacity where a prompt holds up only as many lanes as have requests."""
    return capacity._replace(waits_on=np.minimum(capacity.waits_on, lane.active / capacity.replicas))


def _exact_steps(step_s: StepTime, request: Request, capacity: Capacity, prompts: Array) -> ExactSteps:
    """The steps where `prompts` arrive in each."""
    m = mix(request, capacity, prompts)
    times = Times(*price(step_s, step_batches(request, capacity, m)))
    decode_s = beside_ranks(step_s, request, m, times.decode_s)
    return ExactSteps(m, times._replace(decode_s=decode_s), decode_s - times.decode_s)


def _with_density(offered: Offered, request: Request, steps: ExactSteps, closed: Mask) -> Request:
    """The request among prompts that come in clumps, as those of a benchmark do."""
    wave = first_wave(offered, steps.m, steps.times.decode_s)
    point = load_points(request, offered.capacity, steps.m, steps.times)
    clumps = np.isfinite(offered.load.waves) & closed
    return request._replace(density=np.where(clumps, density(offered, wave, point), 1))


def set_aside(point: LoadCurve, crowd: Crowding) -> LoadCurve:
    """Requests that a full pool sets back wait between their tokens, and hold no cache meanwhile."""
    more_s = crowd.aside * point.life.decode_s
    mean_step_s = point.life.step_s * (1 + crowd.aside)
    return point._replace(life=point.life._replace(step_s=mean_step_s, decode_s=point.life.decode_s + more_s))


def behind_prompts(point: LoadCurve, least_s: Array) -> LoadCurve:
    """A cycle lasts at least `least_s`; what it lacks passes before the request's own prompt."""
    missing_s = np.maximum(least_s - point.cycle_s, 0)
    return point._replace(life=point.life._replace(queue_s=point.life.queue_s + missing_s))


def _looped_per_s(offered: Offered, crowd: Crowding, point: LoadCurve, full_per_s: Array) -> Array:
    """Requests that a closed loop completes: one in a cycle for each that stands, as many as hold the slots.

    Where some wait for a slot, no more than full slots complete (`full_per_s`), but for waves in lockstep.
    """
    load, lane = offered.load, offered.lane
    standing = np.minimum(lane.population, offered.curve.population[-1] * (1 + crowd.aside))
    looped_per_s = np.minimum(standing / point.cycle_s, lane.slots / np.maximum(point.held_s, TINY))
    in_lockstep = ~offered.capacity.chunks_mixed & np.isfinite(load.waves) & (load.equal_lengths > 0)
    queues = (lane.population > lane.slots) & ~in_lockstep
    return np.asarray(np.where(queues, np.minimum(looped_per_s, full_per_s), looped_per_s))


def _ceiling_per_s(offered: Offered, crowd: Crowding) -> Array:
    """Requests whose prompts a lane computes, those that a full pool set back among them, and its front end serves."""
    again = crowd.again_tokens / np.maximum(offered.request.prefill_tokens, 1)
    return ceiling_per_s(offered.request, offered.capacity, offered.prompts) / (1 + again)


def most_completed_per_s(offered: Offered, full_at: Array) -> Array:
    """Requests completed with all slots taken.

    Fewer requests may complete more where slots go beyond the largest CUDA graph, or a lone prompt overlaps in stages.
    """
    capacity, completed = offered.capacity, offered.looped_per_s
    reached = np.arange(len(completed)).reshape(-1, 1) <= np.ceil(full_at)
    most = np.where(reached, completed, 0).max(axis=0)
    fewer = (capacity.graph_batch < offered.lane.slots) | (capacity.chunk_overlap > 0)
    return np.where(fewer, most, read(completed, full_at))


def _prompt_s(offered: Offered) -> Array:
    """A lone prompt's seconds; without a prompt the first token comes from a decode step of nobody else."""
    p, capacity = offered.request.prefill_tokens, offered.capacity
    alone_s = offered.curve.times.decode_s[0]
    return np.where(p > 0, in_a_row(lone_chunks(offered.request, capacity), capacity) * offered.prompts.lone_s, alone_s)
