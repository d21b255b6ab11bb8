"""Requests that a load generator starts together: the first wave, and what the later ones keep of it.

Lengths that vary part requests slowly, so that prompts come in clumps for ten waves and more. Those of one length stay
in step: whole waves where an engine prefills first or one step prefills them all, else groups, one prefilled per step.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from planner.serving.crowding import VARY
from planner.serving.curve import Life, LoadCurve, life
from planner.serving.load import EVEN_VARIANCE, Array, Mask, Request
from planner.serving.offered import Offered
from planner.serving.steps import TINY, Mix, StepTime, Times, batch, in_a_row, lone_tokens, mix, price, step_batches

MOST_DENSE = 0.9  # of a step's room that the prompts of a clump take: beyond, they would wait without end
WHOLE_SHARE = 0.5  # of a step's room: a wave that takes so much stays whole, one that fills it does not, as measured


class Wave(NamedTuple):
    """Requests that start together on an idle engine, seconds."""

    requests: Array
    first_s: Array  # mean time until the prompt of one is prefilled
    all_s: Array  # until all are


def first_wave(offered: Offered, m: Mix, decode_s: Array) -> Wave:
    """The prompts that find all slots empty and are prefilled in full steps.

    One of them has (wave + 1) / 2 prompts to prefill on average, itself included, those of its own attention
    data-parallel rank; of its last step half is over where several prompts end within steps. A step takes time in
    proportion to its tokens between a lone prompt's and a full one's; where chunks are mixed into several steps, half
    of those that will decode beside each other do so already. Where prompts are tokenized more slowly than prefilled,
    they come one by one.
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
    """A closed loop of a load generator: clumps, or of requests of one length whole waves, groups or between them."""
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
    """How many times the mean rate of prompts a request of a later wave meets, because these are not yet far apart.

    After k waves ends are s_k of a cycle apart: s_k^2 = (prefill of all / cycle)^2 / 12 + k v, v a cycle's relative
    variance. One of a normal density meets 1 / (2 sqrt(pi) s_k) times the mean; its mean over k is an integral.
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
    """First tokens take longer by what they do where prompts come denser and as many decode."""
    request, capacity = offered.request, offered.capacity
    most_dense = MOST_DENSE * m.room_tokens / np.maximum(m.prompts * request.prefill_tokens, TINY)
    density_ratio = np.maximum(np.minimum(density(offered, wave, point), most_dense), 1)
    met, even = lived_among(step_s, offered, m, point.times, density_ratio), life(request, capacity, m, point.times)
    clumps = clumps & (wave.requests > 1)
    own_s = np.where(clumps, met.own_prefill_s - even.own_prefill_s, 0)
    queue_s = point.life.queue_s + np.where(clumps, met.queue_s - even.queue_s, 0)
    found = point.life._replace(queue_s=queue_s, own_prefill_s=point.life.own_prefill_s + own_s)
    return point._replace(life=found, held_s=point.held_s + own_s)


def lived_among(step_s: StepTime, offered: Offered, m: Mix, times: Times, dense: Array) -> Life:
    """The life of a request where `dense` times as many prompts come and as many decode: of answers so much shorter."""
    request, capacity = offered.request, offered.capacity
    denser = request._replace(decode_steps=request.decode_steps / dense)
    met = mix(denser, capacity, m.prompts * dense)
    busy_s, own_s = price(step_s, step_batches(denser, capacity, met)[1:])
    return life(denser, capacity, met, times._replace(busy_s=busy_s, own_s=own_s))


def whole_share(request: Request, m: Mix, wave: Wave) -> Array:
    """How far a wave that one step prefills stays together: wholly to WHOLE_SHARE of the step's room, not beyond it."""
    filled = wave.requests * request.prefill_tokens / m.room_tokens
    return np.where(request.rules.group_whole > 0, np.clip((1 - filled) / (1 - WHOLE_SHARE), 0, 1), 0)


def in_lockstep(request: Request, wave: Wave, decode_s: Array, point: LoadCurve, whole: Array) -> LoadCurve:
    """Requests of one length that start together on an engine that prefills first, or in one step, stay together.

    No decode runs before the whole wave is prefilled, then all decode, `decode_s` a step, and end in the same step;
    the next wave starts together again. Those prefilled early wait for the rest before their second token. So far as
    `whole` says, the rest is as at `point`.
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
    """Prompts that one step prefills together beside everybody else's decodes."""

    tokens: Array
    step_s: Array
    fills: Array  # steps that a prompt takes where it is longer than a step's room, else 1
    standing: Array  # requests of all groups


def group_of(step_s: StepTime, offered: Offered, m: Mix, wave: Wave) -> Group:
    """The prompts of a benchmark that stay together from wave to wave, and their step.

    A few or a share of them, in one step's budget (the whole budget while waves are few), at most half, because a group
    waits for another.
    """
    request = offered.request
    room = m.room_tokens / np.maximum(request.prefill_tokens, 1)
    most = np.minimum(room, wave.requests / 2)
    stay = np.maximum(request.rules.group_prompts, request.rules.group_share * wave.requests)
    stay = np.where(offered.load.waves <= request.rules.group_waves, np.inf, stay)
    prompts = np.maximum(np.minimum(stay, most), 1)
    tokens = np.minimum(prompts * request.prefill_tokens, m.room_tokens)
    (found,) = price(step_s, (batch(request, np.maximum(m.decodes - prompts, 0), tokens, m.room_tokens),))
    return Group(tokens, found, np.maximum(1 / room, 1), wave.requests)


def in_groups(offered: Offered, m: Mix, group: Group, point: LoadCurve, several: Mask) -> LoadCurve:
    """Requests of one length on an engine that mixes chunks end in the order in which they were prefilled.

    One group ends per step, so that the prompts that follow it meet the step in which the group before is prefilled;
    prompts of several steps meet whole prompts (`prompts_ahead`). What prompts add to others' steps shrinks as a token
    of a group costs less than one of prompts that come singly, but where a front end that takes requests one after
    another has parted them, and by those for which a request waits before it decodes.
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
    """Steps from the arrival of a request to the first that may prefill it: the running one's rest and late ones."""
    return np.asarray(request.late_steps + 1 / 2)


def prompts_ahead(request: Request, group: Group, decode_s: Array) -> Array:
    """Prompts of several steps that a request of one length finds before its own, on average over a wave.

    Ends come as many steps apart as a prompt takes, so that a queue keeps its length. It forms before the first prompt
    of a wave starts: until then the engine only decodes, and A others end. Of N requests the i-th, from 0, then meets
    min(i, A).
    """
    decoded = request.gap_s / np.maximum(decode_s, TINY) + away_steps(request)
    most = np.minimum(decoded / group.fills, group.standing - 1)
    return np.asarray(most * (1 - (most + 1) / (2 * group.standing)))
