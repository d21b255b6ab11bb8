"""The load curve: everything that depends on how many requests an engine works on, as explicit functions.

One request is followed through an engine that serves others like it. Per step, L = (D - 1) / n of the others'
prompts arrive, because D - 1 of them decode beside it and each is replaced after its n decode steps. From L
follow the mix of a step, its time, the request's life and, by Little's law, how many requests stand in all:
no equation is solved. The curve is priced at a few values of L and read off in between.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from planner.ops import Batch
from planner.serving.load import Array, Capacity, Request

# Seconds of one step of every scenario, (R,) in and out, or of P steps at once, (P, R).
StepTime = Callable[[Batch], Array]

PRICED = 10  # points of the curve at which steps are priced
REFINED = 6  # points read off per priced interval
TOGETHER = 2048  # steps times scenarios that are priced in one call, so that its arrays stay in the cache
BESIDE = 1e-6  # sequences; on which side of the largest CUDA graph a batch is
MOST_AGAIN = 0.95  # of a step's room that prompts take where some are computed again
TINY = 1e-12


class Mix(NamedTuple):
    """What runs in a step while `prompts` of others arrive in each."""

    prompts: Array  # L
    decodes: Array  # D: sequences decoding, the followed one among them
    room_tokens: Array  # prefill tokens that fit in a step beside the decodes
    chunks: Array  # steps that one prompt takes
    busy_share: Array  # prefill steps per decode step; a share of them where chunks are mixed in
    busy_tokens: Array  # prefilled in such a step
    own_tokens: Array  # prefilled in the steps that prefill the followed request
    backlog_tokens: Array  # waiting to be prefilled before it


class Times(NamedTuple):
    """Seconds of the three steps that a request sees."""

    decode_s: Array  # decodes only
    busy_s: Array  # with others' prefill
    own_s: Array  # with its own prefill


class Life(NamedTuple):
    """The life of a request in the engine, from its arrival at the scheduler."""

    queue_s: Array  # rest of the running step, steps that it misses, prompts ahead
    missed_s: Array  # of these the steps that every request misses alike
    own_prefill_s: Array
    step_s: Array  # mean time between its decode steps
    step_sd_s: Array
    decode_s: Array  # all its decode steps
    others_per_s: Array  # requests that the others complete meanwhile


def mix(request: Request, capacity: Capacity, prompts: Array) -> Mix:
    """The mix of a step at `prompts` arriving per step.

    Prompts arrive as a Poisson process of steps, so 1 - exp(-L) of the steps prefill while prompts are short (of n
    steps one with 1 - exp(-n L), where the scheduler looks once in n; 1 - exp(-L / r), where r ranks start prompts
    together), and L P / room where a prompt takes several.
    Backlog of a mixed engine: Pollaczek-Khinchine,
    L E[P^2] / (2 (room - L P)); an engine that prefills first only waits for prompts of the same step.
    """
    p, n = request.prefill_tokens, request.decode_steps
    mixed = capacity.chunks_mixed
    decodes = np.where(n > 0, 1 + prompts * n, 0)
    room = np.maximum(capacity.max_num_batched_tokens - np.where(mixed, decodes, 0), 1)
    chunks = np.ceil(p / room)
    brought = np.minimum(p + request.again_tokens, np.maximum(MOST_AGAIN * room / np.maximum(prompts, TINY), p))
    demand = prompts * brought / room
    some, together = np.maximum(prompts, TINY), prompts * request.poll_steps
    share = np.where(n > 0, prefilling_share(request, some, brought / room), 1) * (p > 0)
    arriving = np.where(n > 0, some / np.where(share > 0, share, 1), np.maximum(prompts, 1))
    beside = np.where((request.ranks > 1) & (n > 0), arriving, 1 + together)
    left_over = np.clip((1 + 2 * together) * p - room, 0, 2 * together * p)
    waiting = demand * brought * request.prefill_square_ratio / (2 * np.maximum(1 - demand, TINY))
    return Mix(
        prompts=prompts,
        decodes=decodes,
        room_tokens=room,
        chunks=chunks,
        busy_share=share,
        busy_tokens=np.minimum(arriving * brought, room),
        own_tokens=np.where(chunks > 1, p / np.maximum(chunks, 1), np.minimum(beside * p, room)),
        backlog_tokens=np.where(mixed, waiting, left_over / 2),
    )


def prefilling_share(request: Request, prompts: Array, filled: Array) -> Array:
    """Share of steps with prefill in them where `prompts` come per step and each fills that much of a step."""
    some = -np.expm1(-prompts * request.poll_steps / request.ranks) / request.poll_steps
    return np.asarray(np.maximum(some, prompts * filled))


def held_up_share(request: Request, capacity: Capacity, m: Mix) -> Array:
    """Share of a lane's decode steps that take as long as one with prefill, its own or that of a lane before it.

    Lanes pass the stages of a pipeline in order. In its own lane the followed request sees the others of a closed loop,
    in other lanes all of them.
    """
    followed = np.where(request.random_arrivals, 0, 1 / np.maximum(m.chunks + request.decode_steps, 1))
    prompts = m.prompts + followed
    share = np.minimum(prefilling_share(request, prompts, request.prefill_tokens / m.room_tokens), 1)
    others = np.maximum(capacity.waits_on - 1, 0)
    return np.where(others > 0, 1 - np.maximum(1 - m.busy_share, 0) * (1 - share) ** others, m.busy_share)


def batch(request: Request, decodes: Array, prefill_tokens: Array, room_tokens: Array) -> Batch:
    """A step of `decodes` sequences and `prefill_tokens` of prompts that stand half-way through their chunks."""
    chunk = np.minimum(request.prefill_tokens, room_tokens)
    context = request.cached_tokens + (request.prefill_tokens - chunk) / 2
    seqs = np.where(prefill_tokens > 0, np.maximum(prefill_tokens / np.maximum(chunk, 1), 1), 0)
    patches = request.image_patches * prefill_tokens / np.maximum(request.prefill_tokens, 1)
    fields = (decodes, request.decode_context, prefill_tokens, context, seqs, patches, request.patches_per_image)
    return Batch(*fields)


def price(step_s: StepTime, batches: Sequence[Batch]) -> list[Array]:
    """Seconds of every batch, each in its own shape (..., R).

    Steps are priced together, as many as keep a call's arrays in the cache; a part that none of them has is passed
    as a scalar 0.
    """
    shapes = [np.broadcast_shapes(*(np.shape(field) for field in one)) for one in batches]
    rows = shapes[0][-1]
    ends = np.cumsum([math.prod(shape[:-1]) for shape in shapes]).tolist()
    flat = np.empty((len(Batch._fields), ends[-1], rows))
    for one, shape, start, end in zip(batches, shapes, [0, *ends], ends, strict=False):
        for column, field in zip(flat, one, strict=True):
            column[start:end].reshape(shape)[...] = field
    found = np.empty(flat[0].shape)
    each = max(TOGETHER // rows, 1)
    for start in range(0, len(found), each):
        at = slice(start, start + each) if each > 1 else start
        found[at] = step_s(Batch(*(field[at] if field[at].any() else 0.0 for field in flat)))
    return [part.reshape(shape) for part, shape in zip(np.split(found, ends[:-1]), shapes, strict=True)]


def step_batches(request: Request, capacity: Capacity, m: Mix) -> tuple[Batch, Batch, Batch]:
    """The steps of `Times`, as batches: decodes only, with others' prefill, with its own prefill."""
    mixed = capacity.chunks_mixed
    others = np.where(request.prefill_tokens > 0, np.maximum(m.decodes - 1, 0), m.decodes)
    return (
        batch(request, m.decodes, 0 * m.decodes, m.room_tokens),
        batch(request, np.where(mixed, m.decodes, 0), m.busy_tokens, m.room_tokens),
        batch(request, np.where(mixed | (m.own_tokens <= 0), others, 0), m.own_tokens, m.room_tokens),
    )


def life(request: Request, capacity: Capacity, m: Mix, times: Times) -> Life:
    """What the followed request lives through, in seconds.

    A request that arrives at any time waits for the rest of the running step, E[s^2] / (2 E[s]), as a random
    observer does; one sent when a step ends misses the next step and waits for its end. Then comes the backlog
    at full steps, then its own chunks.
    """
    n = request.decode_steps
    base = np.where(capacity.chunks_mixed, times.decode_s, 0) * (n > 0)
    plain = np.where(capacity.chunks_mixed, 1 - m.busy_share, 1) * (n > 0)
    step = np.where(n > 0, times.decode_s, 0) + held_up_share(request, capacity, m) * (times.busy_s - base)
    squares = plain * times.decode_s**2 + m.busy_share * times.busy_s**2
    follows = np.where(capacity.chunks_mixed, step, times.decode_s)
    random = at_random(request, follows)
    rest = random * squares / (2 * np.maximum(step, TINY)) + (1 - random) * np.maximum(follows - request.gap_s, 0)
    late, polls = request.late_steps * follows, (request.poll_steps - 1) / 2 * follows
    full = base + (times.busy_s - base) * m.room_tokens / np.maximum(m.busy_tokens, TINY)
    prefills = request.prefill_tokens > 0
    return Life(
        queue_s=np.where(prefills, running(request, m) * (rest + late) + m.backlog_tokens / m.room_tokens * full, 0),
        missed_s=np.where(prefills, running(request, m) * (late - polls), 0),
        own_prefill_s=np.where(prefills, in_a_row(m.chunks, capacity), 1) * times.own_s,
        step_s=step,
        step_sd_s=np.sqrt(m.busy_share * plain) * np.abs(times.busy_s - base),
        decode_s=n * step,
        others_per_s=m.prompts / np.maximum(step, TINY),
    )


def in_a_row(chunks: Array, capacity: Capacity) -> Array:
    """Steps that the chunks of one prompt take where they overlap in the stages of a pipeline.

    C chunks leave L stages after C + L - 1 parts of a step, (C + L - 1) / (C L) of one after the other. An engine
    attains a power of that, 0 where it starts a chunk when the one before has left the last stage.
    """
    filled = (chunks + capacity.lanes - 1) / (np.maximum(chunks, 1) * capacity.lanes)
    return np.asarray(chunks * filled**capacity.chunk_overlap)


def at_random(request: Request, step_s: Array) -> Array:
    """How much like a random observer a request arrives: fully once the gap before it spans a step."""
    return np.where(request.random_arrivals, 1, np.minimum(request.gap_s / np.maximum(step_s, TINY), 1))


def running(request: Request, m: Mix) -> Array:
    """Chance that a request finds others' steps running when it arrives."""
    return np.minimum(m.prompts * np.maximum(request.decode_steps, 1), 1)


class LoadCurve(NamedTuple):
    """Points of increasing load, shape (K, R), of one lane of one replica.

    A cycle lasts from the end of a user's request to the end of the next. Steps are those that decode.
    """

    mix: Mix
    times: Times
    life: Life
    held_s: Array  # how long a request holds cache
    held_steps: Array
    cycle_s: Array  # slot wait not counted
    cycle_steps: Array


def fullest(request: Request, capacity: Capacity) -> Array:
    """L at which prompts and the decodes that they lead to would fill every step."""
    work = np.maximum(request.prefill_tokens + request.decode_steps, TINY)
    most = np.where(capacity.chunks_mixed, (capacity.max_num_batched_tokens - 1) / work, np.inf)
    return np.where(request.prefill_tokens > 0, np.maximum(most, TINY), np.inf)


class Ladder(NamedTuple):
    """Places 0 to 1 from a lone request to full slots or a full token budget, even in ln((1 + L n) / (1 - L / L_max)).

    That follows the number of requests that stand: the first factor counts those that decode, the second those that
    wait for prefill.
    """

    n: Array
    fullest: Array
    height: Array  # of the top

    def prompts(self, places: Array) -> Array:
        """L at each place."""
        rungs = self.height**places
        found: Array = (rungs - 1) / (self.n + rungs / self.fullest)
        return found

    def place(self, prompts: Array) -> Array:
        """Where L stands, at most 1."""
        free = np.maximum(1 - prompts / self.fullest, TINY)
        found: Array = np.clip(np.log((1 + prompts * self.n) / free) / np.maximum(np.log(self.height), TINY), 0, 1)
        return found


def ladder(request: Request, capacity: Capacity, slots: Array) -> Ladder:
    """The ladder up to `slots` sequences."""
    n, most = np.maximum(request.decode_steps, 1), fullest(request, capacity)
    last = np.minimum((slots - 1) / n, most * (1 - 1 / (2 * slots + 2)))
    return Ladder(n, most, (1 + last * n) / (1 - last / most))


def priced_places(steps: Ladder, capacity: Capacity, slots: Array) -> Array:
    """PRICED even places, and one on each side of the largest CUDA graph where slots go beyond: a step jumps there."""
    even = np.broadcast_to(np.linspace(0, 1, PRICED).reshape(-1, 1), (PRICED, len(slots)))
    jumps = capacity.graph_batch < slots
    if not jumps.any():
        return even
    others = np.maximum(capacity.graph_batch - 1, 0)
    sides = np.stack([np.maximum(others - BESIDE, 0), others + BESIDE]) / steps.n
    return np.sort(np.concatenate([even, steps.place(sides * jumps)]), axis=0)


def refined(priced: Array) -> Array:
    """K = (P - 1) REFINED + 1 points off the `priced` ones (P, ...), on straight lines between them."""
    parts = np.arange(REFINED).reshape(-1, *(1,) * (priced.ndim - 1)) / REFINED
    between = priced[:-1, None] + parts * np.diff(priced, axis=0)[:, None]
    return np.concatenate([between.reshape(-1, *priced.shape[1:]), priced[-1:]])


class PromptSteps(NamedTuple):
    """Seconds of steps that only prefill, (R,)."""

    lone_s: Array  # one step of a lone prompt
    full_s: Array  # filled with prompts


def load_curve(step_s: StepTime, request: Request, capacity: Capacity, slots: Array) -> tuple[LoadCurve, PromptSteps]:
    """The life of a request at K loads, from alone to full; step times are interpolated log to log."""
    steps = ladder(request, capacity, slots)
    places = priced_places(steps, capacity, slots)
    coarse = mix(request, capacity, steps.prompts(places))
    decode_s, busy_s, lone_s, full_s = price(
        step_s, (*step_batches(request, capacity, coarse)[:2], *prompt_batches(request, capacity))
    )
    m = mix(request, capacity, steps.prompts(refined(places)))
    decode_s, busy_s = (np.exp(refined(np.log(np.maximum(seconds, TINY)))) for seconds in (decode_s, busy_s))
    times = Times(decode_s, busy_s, own_step(request, capacity, m, decode_s, busy_s))
    return lives(request, capacity, m, times), PromptSteps(lone_s, full_s)


def prefilled_per_s(request: Request, capacity: Capacity, prompts: PromptSteps) -> Array:
    """Requests per second whose prompts one lane computes when it does nothing else; inf without prompts.

    Counting others by steps overlooks that prompts before short answers wait for each other; this bounds it.
    """
    room = np.asarray(capacity.max_num_batched_tokens, dtype=float)
    tokens_per_s = np.maximum(room / prompts.full_s, lone_tokens(request, capacity) / np.maximum(prompts.lone_s, TINY))
    p = request.prefill_tokens
    chunks = lone_chunks(p, capacity)
    return np.where(p > 0, tokens_per_s / np.maximum(p, TINY) * chunks / in_a_row(chunks, capacity), np.inf)


def ceiling_per_s(request: Request, capacity: Capacity, prompts: PromptSteps) -> Array:
    """Requests per second that one lane completes at most: its prompts', and its share of the front end's."""
    served = 1 / (np.maximum(request.server_s, TINY) * capacity.lanes)
    return np.asarray(np.minimum(prefilled_per_s(request, capacity, prompts), served))


def lone_tokens(request: Request, capacity: Capacity) -> Array:
    """Prefilled in one step of a prompt that has the engine to itself."""
    p = request.prefill_tokens
    found: Array = p / lone_chunks(p, capacity)
    return found


def lone_chunks(prefill_tokens: Array, capacity: Capacity) -> Array:
    """Steps that prefill such a prompt."""
    found: Array = np.maximum(np.ceil(prefill_tokens / capacity.max_num_batched_tokens), 1)
    return found


def prompt_batches(request: Request, capacity: Capacity) -> tuple[Batch, Batch]:
    """The steps of `PromptSteps`, as batches."""
    none, room = np.zeros_like(request.prefill_tokens), capacity.max_num_batched_tokens
    return batch(request, none, lone_tokens(request, capacity), room), batch(request, none, room, room)


def own_step(request: Request, capacity: Capacity, m: Mix, decode_s: Array, busy_s: Array) -> Array:
    """The step of the own prefill by straight line from the busy step, in proportion to prefilled tokens."""
    base = np.where(capacity.chunks_mixed, decode_s, 0) * (request.decode_steps > 0)
    line = base + (busy_s - base) * m.own_tokens / np.maximum(m.busy_tokens, TINY)
    return np.where(request.prefill_tokens > 0, line, decode_s)


def lives(request: Request, capacity: Capacity, m: Mix, times: Times) -> LoadCurve:
    """The life of a request at mix `m`.

    Others are counted by steps, not by seconds: a long prefill step, too, brings each of them one token only.
    """
    one = life(request, capacity, m, times)
    shared = capacity.chunks_mixed
    held_s = one.own_prefill_s + one.decode_s
    held = np.where(request.prefill_tokens > 0, np.where(shared, m.chunks, 0), 1) + request.decode_steps
    random = at_random(request, np.where(shared, one.step_s, times.decode_s))
    missed = random * (request.gap_s / np.maximum(one.step_s, TINY) + 0.5) + (1 - random) + request.late_steps
    ahead = running(request, m) * missed + np.where(shared, m.backlog_tokens / m.room_tokens, 0)
    return LoadCurve(m, times, one, held_s, held, request.gap_s + one.queue_s + held_s, ahead + held)


def resident(curve: LoadCurve) -> Array:
    """Sequences that hold cache: the followed one and the others."""
    return 1 + curve.mix.prompts * curve.held_steps


def population(curve: LoadCurve) -> Array:
    """Requests in the system and users that think."""
    return 1 + curve.mix.prompts * curve.cycle_steps


def completed_per_s(curve: LoadCurve, slots: Array) -> Array:
    """Requests completed per second at each point, at most what the slots allow: X = N / (R + Z)."""
    return np.minimum(population(curve) / curve.cycle_s, slots / np.maximum(curve.held_s, TINY))


def position(rising: Array, target: Array) -> Array:
    """Where along axis 0 a rising column (K, R) reaches `target`: fractional index, K - 1 where never.

    `target` is (R,), or (N, R) for N targets in every column.
    """
    column, falls = rising, ~np.all(rising[1:] >= rising[:-1], axis=0)
    if np.any(falls):
        column = rising.copy()
        column[:, falls] = np.maximum.accumulate(rising[:, falls], axis=0)
    below = column < target if np.ndim(target) < 2 else column[:, None] < target
    above = np.clip(np.count_nonzero(below, axis=0), 1, len(column) - 1)
    rows = np.arange(column.shape[1])
    low, high = column[above - 1, rows], column[above, rows]
    wanted = np.clip(target, low, high)
    found: Array = above - 1 + (wanted - low) / np.maximum(high - low, TINY)
    return found


def read(column: Array, at: Array) -> Array:
    """A column (K, R) at the fractional index `at` (R,) or (N, R)."""
    low = np.minimum(at.astype(int), len(column) - 2)
    rows = np.arange(column.shape[1])
    below, above = column[low, rows], column[low + 1, rows]
    value: Array = below + (at - low) * (above - below)
    return value
