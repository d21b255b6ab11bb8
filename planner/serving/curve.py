"""The load curve: how steps and the life of a request depend on how many requests the engine works on.

One request is followed through an engine that serves others like it. Per step L = (D - 1) / n prompts of others
arrive: D - 1 others decode beside it, and each is replaced by a new request after its n decode steps. L decides what
runs in a step, the step's time, the life of the request and, by Little's law, how many requests are in the engine in
all. So no equation is solved: the curve is priced at a few values of L and read off in between.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from planner.serving.load import Array, Capacity, Request
from planner.serving.steps import (
    TINY,
    Mix,
    PromptSteps,
    StepTime,
    Times,
    beside_ranks,
    held_up_share,
    in_a_row,
    mix,
    own_step,
    price,
    prompt_batches,
    step_batches,
)

PRICED = 10  # points of the curve whose steps are priced
SUBDIVIDED = 6  # points read off in each interval between priced ones


class Life(NamedTuple):
    """The life of a request in the engine from its arrival at the scheduler, in seconds."""

    queue_s: Array  # until its prefill: the rest of the running step, steps that it misses, prompts ahead
    missed_s: Array  # part of queue_s: steps that every request misses
    ahead_s: Array  # part of queue_s: prompts ahead
    own_prefill_s: Array
    step_s: Array  # mean time between its decode steps
    step_sd_s: Array
    decode_s: Array  # all its decode steps
    others_per_s: Array  # requests that others complete per second


def life(request: Request, capacity: Capacity, m: Mix, times: Times) -> Life:
    """The life of the followed request.

    A request that arrives at any time waits for the rest of the running step, E[s^2] / (2 E[s]), as a random
    observer does; one sent when a step ends misses the next step and waits for its end. Then comes the backlog
    at full steps, then its own chunks.
    """
    n, base_s = request.decode_steps, base_step_s(request, capacity, times)
    plain_share = np.where(capacity.chunks_mixed, 1 - m.busy_share, 1) * (n > 0)
    mean_step_s = between_steps_s(request, capacity, m, times)
    mean_square_s2 = plain_share * times.decode_s**2 + m.busy_share * times.busy_s**2
    any_step_s = np.where(request.random_arrivals, mean_step_s / (1 + m.busy_share), times.decode_s)
    next_step_s = np.where(capacity.chunks_mixed, mean_step_s, any_step_s)
    random_share = random_share_of(request, next_step_s)
    rest_s = random_share * mean_square_s2 / (2 * np.maximum(mean_step_s, TINY))
    rest_s = rest_s + (1 - random_share) * np.maximum(next_step_s - request.gap_s, 0)
    late_s, polls_s = late_steps(request, m.prompts) * next_step_s, (request.rules.poll_steps - 1) / 2 * next_step_s
    full_step_s = base_s + (times.busy_s - base_s) * m.room_tokens / np.maximum(m.busy_tokens, TINY)
    prefills, found_running = request.prefill_tokens > 0, running(request, m)
    ahead_s = np.where(prefills, m.backlog_tokens / m.room_tokens * full_step_s, 0)
    return Life(
        queue_s=np.where(prefills, found_running * (rest_s + late_s), 0) + ahead_s,
        missed_s=np.where(prefills, found_running * (late_s - polls_s), 0),
        ahead_s=ahead_s,
        own_prefill_s=own_prefill_s(request, capacity, m, times),
        step_s=mean_step_s,
        step_sd_s=np.sqrt(m.busy_share * plain_share) * np.abs(times.busy_s - base_s),
        decode_s=n * mean_step_s,
        others_per_s=m.prompts / np.maximum(mean_step_s, TINY),
    )


def base_step_s(request: Request, capacity: Capacity, times: Times) -> Array:
    """Seconds of a step with prefill that its decodes alone would take."""
    return np.where(capacity.chunks_mixed, times.decode_s, 0) * (request.decode_steps > 0)


def between_steps_s(request: Request, capacity: Capacity, m: Mix, times: Times) -> Array:
    """Mean time between the decode steps of the followed request."""
    prefill_s = times.busy_s - base_step_s(request, capacity, times)
    plain_s = np.where(request.decode_steps > 0, times.decode_s, 0)
    return np.asarray(plain_s + held_up_share(request, capacity, m) * prefill_s)


def own_prefill_s(request: Request, capacity: Capacity, m: Mix, times: Times) -> Array:
    """Seconds of all chunks of the request's own prompt."""
    return np.asarray(np.where(request.prefill_tokens > 0, in_a_row(m.chunks, capacity), 1) * times.own_s)


def held_s(request: Request, capacity: Capacity, m: Mix, times: Times) -> Array:
    """Seconds for which a request holds cache; `load_points` gives the same figure beside all others."""
    decode_s = request.decode_steps * between_steps_s(request, capacity, m, times)
    return own_prefill_s(request, capacity, m, times) + decode_s


def late_steps(request: Request, prompts: Array) -> Array:
    """Steps that a request misses on arrival, waiting for other attention data-parallel ranks included.

    Where ranks start prompts together, each waits until all have one, at most `balance_steps`. With L `prompts` per
    step for r ranks the last gets its prompt after (r / L) (1 + 1/2 ... + 1/r) steps on average; a request waits half.
    Ref: TensorRT-LLM py_executor.py, _balance_adp_requests.
    """
    ranks = request.rules.ranks
    if not np.any(ranks > 1):
        return request.late_steps
    gap_steps = ranks * harmonic(ranks) / np.maximum(prompts, TINY)
    wait_steps = np.where(ranks > 1, np.minimum(gap_steps, request.rules.balance_steps) / 2, 0)
    return np.asarray(request.late_steps + wait_steps)


def harmonic(n: Array) -> Array:
    """1 + 1/2 ... + 1/n, within 2 % from n = 2 on: ln n + Euler's constant + 1 / 2n."""
    return np.asarray(np.log(n) + np.euler_gamma + 1 / (2 * n))


def random_share_of(request: Request, step_s: Array) -> Array:
    """0 to 1: how far a request arrives like a random observer, which it does once the gap before it spans a step."""
    return np.where(request.random_arrivals, 1, np.minimum(request.gap_s / np.maximum(step_s, TINY), 1))


def running(request: Request, m: Mix) -> Array:
    """Probability that a request finds a step of others running when it arrives."""
    return np.minimum(m.prompts * np.maximum(request.decode_steps, 1), 1)


class LoadCurve(NamedTuple):
    """Points of increasing load on one lane of one replica, (K, R).

    A cycle lasts from the end of a user's request to the end of the next.
    """

    mix: Mix
    times: Times
    life: Life
    gap_s: Array  # from the end of a user's request to the arrival of the next
    held_s: Array  # how long a request holds cache
    resident: Array  # sequences that hold cache, the followed one included
    population: Array  # requests in the system, and users that think

    @property
    def cycle_s(self) -> Array:
        """Seconds of a user's whole cycle, without the wait for a slot."""
        return self.gap_s + self.life.queue_s + self.life.own_prefill_s + self.life.decode_s


def fullest(request: Request, capacity: Capacity) -> Array:
    """The L at which prompts, and the decodes that follow from them, would fill every step; inf without prompts."""
    work = np.maximum(request.prefill_tokens + request.decode_steps, TINY)
    most = np.where(capacity.chunks_mixed, (capacity.max_num_batched_tokens - 1) / work, np.inf)
    return np.where(request.prefill_tokens > 0, np.maximum(most, TINY), np.inf)


class Ladder(NamedTuple):
    """A scale of load from 0, a lone request, to 1, full slots or a full token budget.

    It is even in ln((1 + L n) / (1 - L / L_max)), which follows the number of requests in the engine: the numerator
    counts those that decode, the denominator makes room for those that wait for prefill.
    """

    n: Array  # decode steps of a request, at least 1
    fullest: Array  # L_max
    height: Array  # (1 + L n) / (1 - L / L_max) at place 1

    def prompts(self, places: Array) -> Array:
        """L at each place."""
        rungs = self.height**places
        found: Array = (rungs - 1) / (self.n + rungs / self.fullest)
        return found

    def place(self, prompts: Array) -> Array:
        """The place of each L, at most 1."""
        free = np.maximum(1 - prompts / self.fullest, TINY)
        found: Array = np.clip(np.log((1 + prompts * self.n) / free) / np.maximum(np.log(self.height), TINY), 0, 1)
        return found


def ladder(request: Request, capacity: Capacity, slots: Array) -> Ladder:
    """The ladder up to `slots` sequences."""
    n, most = np.maximum(request.decode_steps, 1), fullest(request, capacity)
    last = np.minimum((slots - 1) / n, most * (1 - 1 / (2 * slots + 2)))
    return Ladder(n, most, (1 + last * n) / (1 - last / most))


def priced_places(steps: Ladder, capacity: Capacity, slots: Array) -> Array:
    """PRICED even places, and where slots exceed the largest CUDA graph the two sides of the jump in step time."""
    even = np.broadcast_to(np.linspace(0, 1, PRICED).reshape(-1, 1), (PRICED, len(slots)))
    jumps = capacity.graph_batch < slots
    if not jumps.any():
        return even
    others = np.maximum(capacity.graph_batch - 1, 0)
    sides = np.stack([others, others + 1]) / steps.n
    return np.sort(np.concatenate([even, steps.place(sides * jumps)]), axis=0)


def subdivided(priced: Array) -> Array:
    """K = (P - 1) SUBDIVIDED + 1 points (K, ...) on straight lines between the P `priced` ones (P, ...)."""
    parts = np.arange(SUBDIVIDED).reshape(-1, *(1,) * (priced.ndim - 1)) / SUBDIVIDED
    between = priced[:-1, None] + parts * np.diff(priced, axis=0)[:, None]
    return np.concatenate([between.reshape(-1, *priced.shape[1:]), priced[-1:]])


def load_curve(step_s: StepTime, request: Request, capacity: Capacity, slots: Array) -> tuple[LoadCurve, PromptSteps]:
    """The curve at K loads, from a lone request to full; step times are interpolated between logarithms."""
    steps = ladder(request, capacity, slots)
    places = priced_places(steps, capacity, slots)
    coarse = mix(request, capacity, steps.prompts(places))
    decode_s, busy_s, lone_s, full_s = price(
        step_s, (*step_batches(request, capacity, coarse)[:2], *prompt_batches(request, capacity))
    )
    decode_s = beside_ranks(step_s, request, coarse, decode_s)
    m = mix(request, capacity, steps.prompts(subdivided(places)))
    decode_s, busy_s = (np.exp(subdivided(np.log(np.maximum(seconds, TINY)))) for seconds in (decode_s, busy_s))
    times = Times(decode_s, busy_s, own_step(request, capacity, m, decode_s, busy_s))
    return load_points(request, capacity, m, times), PromptSteps(lone_s, full_s)


def load_points(request: Request, capacity: Capacity, m: Mix, times: Times) -> LoadCurve:
    """Points of the curve at mix `m`, whose steps take `times`.

    Requests are counted by steps, not by seconds, because a long prefill step also gives each of them one token only.
    """
    lived = life(request, capacity, m, times)
    mixed = capacity.chunks_mixed
    own_steps = np.where(request.prefill_tokens > 0, np.where(mixed, 1, m.others.decoding) * m.chunks, 1)
    held_steps = own_steps + request.decode_steps
    random_share = random_share_of(request, np.where(mixed, lived.step_s, times.decode_s))
    missed_steps = random_share * (request.gap_s / np.maximum(lived.step_s, TINY) + 0.5) + (1 - random_share)
    missed_steps = missed_steps + late_steps(request, m.prompts)
    ahead_steps = running(request, m) * missed_steps + np.where(mixed, m.backlog_tokens / m.room_tokens, 0)
    resident, population = 1 + m.prompts * held_steps, 1 + m.prompts * (ahead_steps + held_steps)
    return LoadCurve(m, times, lived, request.gap_s, lived.own_prefill_s + lived.decode_s, resident, population)


def completed_per_s(curve: LoadCurve, slots: Array) -> Array:
    """Requests completed per second at each point by Little's law, X = N / cycle, at most what the slots allow."""
    return np.minimum(curve.population / curve.cycle_s, slots / np.maximum(curve.held_s, TINY))


def position(rising: Array, target: Array) -> Array:
    """Fractional index along axis 0 at which a rising column (K, R) reaches `target`; K - 1 where it never does.

    `target` is (R,), or (N, R) for N targets in every column; the result has its shape.
    """
    column, falls = rising, ~(rising[1:] >= rising[:-1]).all(axis=0)
    if falls.any():
        column = rising.copy()
        column[:, falls] = np.maximum.accumulate(rising[:, falls], axis=0)
    below = column < target if np.ndim(target) < 2 else column[:, None] < target
    above = np.minimum(np.maximum(np.count_nonzero(below, axis=0), 1), len(column) - 1)
    rows = np.arange(column.shape[1])
    low, high = column[above - 1, rows], column[above, rows]
    wanted = np.minimum(np.maximum(target, low), high)
    found: Array = above - 1 + (wanted - low) / np.maximum(high - low, TINY)
    return found


def read(column: Array, at: Array) -> Array:
    """A column (K, R) at fractional indices `at`, (R,) or (N, R), on straight lines between its points."""
    low = np.minimum(at.astype(int), len(column) - 2)
    rows = np.arange(column.shape[1])
    below, above = column[low, rows], column[low + 1, rows]
    value: Array = below + (at - low) * (above - below)
    return value
