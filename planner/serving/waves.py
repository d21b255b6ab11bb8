"""Requests that a load generator starts together: the first wave, and how far later requests stay in step.

Requests of varying lengths drift apart slowly, so that their prompts come in clumps for ten waves and more. Requests of
one length stay in step: as whole waves where an engine prefills first or one step prefills the wave, else in groups of
which one is prefilled per step.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from planner.serving.curve import Life, LoadCurve, life
from planner.serving.load import EVEN_VARIANCE, VARY, Array, Mask, Request
from planner.serving.offered import Offered
from planner.serving.steps import TINY, Mix, StepTime, Times, batch, in_a_row, lone_tokens, mix, price, step_batches

MOST_DENSE = 0.9  # largest share of a step's room that the prompts of a clump take, short of an endless queue
WHOLE_SHARE = 0.5  # of a step's room up to which a wave stays whole; one that fills the room does not, as measured


class Wave(NamedTuple):
    """Requests that start together on an idle engine, and seconds."""

    requests: Array
    first_s: Array  # mean time until the prompt of one is prefilled
    all_s: Array  # until all are


def first_wave(offered: Offered, m: Mix, decode_s: Array) -> Wave:
    """The prompts that find all slots empty and are prefilled in full steps.

    On average (wave + 1) / 2 prompts of its attention data-parallel rank are prefilled until a request's first token,
    its own included; where prompts end within steps, half a step less. The time of a step is interpolated by tokens
    between a lone prompt's and a full one's. Where chunks are mixed in over several steps, half of the sequences that
    will decode together already do. Where prompts are tokenized more slowly than prefilled, they arrive one by one.
    """
    request, lane, (lone_s, full_s) = offered.request, offered.lane, offered.prompts
    wave, p = np.minimum(lane.population, lane.slots), request.prefill_tokens
    rank_room = m.room_tokens / request.rules.attention_ranks
    burst = np.minimum(wave * np.minimum(p, rank_room), m.room_tokens)
    least, most = lone_tokens(request, offered.capacity), offered.capacity.max_num_batched_tokens
    filled = np.clip((burst - least) / np.maximum(most - least, 1), 0, 1)
    beside = np.maximum(decode_s - offered.curve.times.decode_s[0], 0) / 2
    mixes = offered.capacity.chunks_mixed & (wave * p > m.room_tokens)
    step = lone_s + filled * (full_s - lone_s) + np.where(mixes, beside, 0)
    fills = wave * p / np.maximum(burst, TINY)
    ragged = (m.chunks - p / rank_room) / 2 * (wave * p > m.room_tokens) * np.minimum(wave - 1, 1)
    turns = wave / np.minimum(wave, request.rules.attention_ranks)
    first = np.maximum(fills * (turns + 1) / (2 * turns) + ragged, 1)
    steps = (in_a_row(count, offered.capacity) for count in (first, np.maximum(fills, 1)))
    first_s, all_s = (count * step for count in steps)
    own_s = in_a_row(np.maximum(m.chunks, 1), offered.capacity) * lone_s
    last_s = (wave - 1) * request.tokenizing_s  # until the last is tokenized, after the first
    return Wave(wave, np.maximum(first_s, last_s / 2 + own_s), np.maximum(all_s, last_s + own_s))


def in_step(step_s: StepTime, offered: Offered, m: Mix, wave: Wave, point: LoadCurve, closed: Mask) -> LoadCurve:
    """The points of a load generator's closed loop: in clumps, or with requests of one length in waves or groups."""
    load, request = offered.load, offered.request
    generated = closed & np.isfinite(load.waves) & (request.prefill_tokens > 0)
    equal = load.equal_lengths > 0
    equal, clumps = generated & equal, generated & ~equal & (request.decode_steps > 0)
    if np.any(clumps):
        point = in_clumps(step_s, offered, m, wave, point, clumps)
    whole = np.where(offered.capacity.chunks_mixed, whole_share(request, m, wave), 1) * equal
    if np.any(equal & (whole < 1)):
        point = in_groups(offered, m, group_of(step_s, offered, m, wave), point, equal & (wave.requests > 1))
    if np.any(whole > 0):
        (together_s,) = price(step_s, (batch(request, wave.requests, 0 * wave.requests, m.room_tokens),))
        point = in_lockstep(request, wave, together_s, point, whole)
    return point


def density(offered: Offered, wave: Wave, point: LoadCurve) -> Array:
    """Rate of prompts that a request of a later wave meets, relative to the mean rate; at least 1.

    After k waves the ends of requests have a standard deviation of s_k cycles: s_k^2 = (prefill of all / cycle)^2 / 12
    + k v, v being the relative variance of a cycle. A request of a normal density meets 1 / (2 sqrt(pi) s_k) times the
    mean rate; the mean of that over all later waves is taken as an integral over k.
    """
    waves, cycle_s = offered.load.waves, np.maximum(point.cycle_s, TINY)
    later = np.where(np.isfinite(waves), np.maximum(waves - 1, TINY), 1)
    prefill_variance = EVEN_VARIANCE * (wave.all_s / cycle_s / 2) ** 2
    log_sd = np.where(offered.load.output_log_sd > 0, offered.load.output_log_sd, VARY)
    cycle_variance = np.maximum(np.expm1(log_sd**2) * (point.life.decode_s / cycle_s) ** 2, TINY)
    first_sd = np.sqrt(prefill_variance + cycle_variance / 2)
    last_sd = np.sqrt(prefill_variance + (later + 1 / 2) * cycle_variance)
    mean_inverse_sd = (last_sd - first_sd) * 2 / (cycle_variance * later)
    return np.asarray(np.maximum(1 / (2 * np.sqrt(np.pi)) * mean_inverse_sd, 1))


def in_clumps(step_s: StepTime, offered: Offered, m: Mix, wave: Wave, point: LoadCurve, clumps: Mask) -> LoadCurve:
    """The points with first tokens as late as among denser prompts, where as many sequences decode."""
    request, capacity = offered.request, offered.capacity
    most_dense = MOST_DENSE * m.room_tokens / np.maximum(m.prompts * request.prefill_tokens, TINY)
    density_ratio = np.maximum(np.minimum(density(offered, wave, point), most_dense), 1)
    met, even = lived_among(step_s, offered, m, point.times, density_ratio), life(request, capacity, m, point.times)
    clumps = clumps & (wave.requests > 1)
    own_s = np.where(clumps, met.own_prefill_s - even.own_prefill_s, 0)
    queue_s = point.life.queue_s + np.where(clumps, met.queue_s - even.queue_s, 0)
    clumped = point.life._replace(queue_s=queue_s, own_prefill_s=point.life.own_prefill_s + own_s)
    return point._replace(life=clumped, held_s=point.held_s + own_s)


def lived_among(step_s: StepTime, offered: Offered, m: Mix, times: Times, dense: Array) -> Life:
    """The life of a request among `dense` times as many prompts, with shorter answers so that as many decode."""
    request, capacity = offered.request, offered.capacity
    denser = request._replace(decode_steps=request.decode_steps / dense)
    met = mix(denser, capacity, m.prompts * dense)
    busy_s, own_s = price(step_s, step_batches(denser, capacity, met)[1:])
    return life(denser, capacity, met, times._replace(busy_s=busy_s, own_s=own_s))


def whole_share(request: Request, m: Mix, wave: Wave) -> Array:
    """0 to 1: how far a wave stays together, wholly up to WHOLE_SHARE of a step's room, not at all if it fills it."""
    filled = wave.requests * request.prefill_tokens / m.room_tokens
    return np.where(request.rules.group_whole > 0, np.clip((1 - filled) / (1 - WHOLE_SHARE), 0, 1), 0)


def in_lockstep(request: Request, wave: Wave, decode_s: Array, point: LoadCurve, whole: Array) -> LoadCurve:
    """The points of waves of one length that stay together; `whole` (0 to 1) weighs them against `point`.

    No decode runs before the whole wave is prefilled. Then all decode in steps of `decode_s` and end in the same step,
    so that the next wave starts together again. Requests prefilled early wait for the rest before their second token.
    """

    def part(together: Array, apart: Array) -> Array:
        return apart + whole * (together - apart)

    life, n = point.life, request.decode_steps
    mean_step_s = part(decode_s + (wave.all_s - wave.first_s) / np.maximum(n, 1), life.step_s)
    queue_s = part(np.maximum(wave.first_s - life.own_prefill_s, 0), life.queue_s)
    return point._replace(
        life=life._replace(step_s=mean_step_s, decode_s=n * mean_step_s, queue_s=queue_s),
        times=point.times._replace(decode_s=part(mean_step_s, point.times.decode_s)),
        held_s=part(wave.all_s + n * decode_s, point.held_s),
    )


class Group(NamedTuple):
    """Prompts that one step prefills together, beside the decodes of all others."""

    tokens: Array
    step_s: Array
    fills: Array  # steps that one prompt takes, at least 1
    standing: Array  # requests of all groups


def group_of(step_s: StepTime, offered: Offered, m: Mix, wave: Wave) -> Group:
    """The prompts of a benchmark that stay together from wave to wave, and the step that prefills them.

    Their number is the engine's rule (`Scheduling.group_prompts`, `group_share`, `group_waves`), at most what a step
    has room for, and at most half of all requests, because one group waits for another.
    """
    request = offered.request
    room = m.room_tokens / np.maximum(request.prefill_tokens, 1)
    most = np.minimum(room, wave.requests / 2)
    stay = np.maximum(request.rules.group_prompts, request.rules.group_share * wave.requests)
    stay = np.where(offered.load.waves <= request.rules.group_waves, np.inf, stay)
    prompts = np.maximum(np.minimum(stay, most), 1)
    tokens = np.minimum(prompts * request.prefill_tokens, m.room_tokens)
    (group_s,) = price(step_s, (batch(request, np.maximum(m.decodes - prompts, 0), tokens, m.room_tokens),))
    return Group(tokens, group_s, np.maximum(1 / room, 1), wave.requests)


def in_groups(offered: Offered, m: Mix, group: Group, point: LoadCurve, several: Mask) -> LoadCurve:
    """The points of requests of one length on an engine that mixes chunks: they end in the order of their prefill.

    One group ends per step, and the prompts that follow it meet the step that prefills the group before; prompts of
    several steps meet whole prompts (`prompts_ahead`). Prompts add less to others' steps than single ones do: a token
    of a group costs less, unless a front end that takes requests one by one has parted them, and prompts for which a
    request waits before it decodes do not delay it again.
    """
    request, life, n = offered.request, point.life, offered.request.decode_steps
    plain_s, single_s = point.times.decode_s, np.maximum(point.times.busy_s - point.times.decode_s, TINY)
    own_s = np.where(several, m.chunks * group.step_s, life.own_prefill_s)
    ahead = np.where(group.fills > 1, prompts_ahead(request, group, plain_s), 0)
    behind_s = away_steps(request) * plain_s + ahead * group.fills * (group.step_s - plain_s)
    met_s = np.where(group.fills > 1, behind_s, group.step_s - request.gap_s)
    wait_s = np.maximum(met_s, life.queue_s + life.own_prefill_s - own_s)
    queue_s = np.where(several, np.maximum(wait_s, 0), life.queue_s)
    cheaper = np.maximum(group.step_s - plain_s, 0) / np.maximum(group.tokens, 1) * m.busy_tokens / single_s
    beside = 1 - ahead / np.maximum(group.standing - 1, 1) * (1 - 1 / offered.load.waves)  # the first wave follows none
    shared_s = plain_s + np.minimum(cheaper, 1) * beside * (life.step_s - plain_s)
    together = several & (n > 0) & (m.busy_tokens > 0) & (request.serial_s <= 0)
    more_s = np.where(together, shared_s - life.step_s, 0)
    life = life._replace(queue_s=queue_s, own_prefill_s=own_s)
    life = life._replace(step_s=life.step_s + more_s, decode_s=life.decode_s + n * more_s)
    return point._replace(life=life, held_s=point.held_s + own_s - point.life.own_prefill_s + n * more_s)


def away_steps(request: Request) -> Array:
    """Steps from the arrival of a request to the first that may prefill it: half of the running one, and late steps."""
    return np.asarray(request.late_steps + 1 / 2)


def prompts_ahead(request: Request, group: Group, decode_s: Array) -> Array:
    """Prompts of several steps that a request of one length finds ahead of its own, on average over a wave.

    Requests end as many steps apart as a prompt takes, so a queue keeps its length. It forms before the first prompt of
    a wave starts, while the engine only decodes and A other requests end. Of N requests the i-th, counted from 0, then
    finds min(i, A) ahead.
    """
    decoded = request.gap_s / np.maximum(decode_s, TINY) + away_steps(request)
    most = np.minimum(decoded / group.fills, group.standing - 1)
    return np.asarray(most * (1 - (most + 1) / (2 * group.standing)))
