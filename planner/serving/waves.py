"""Requests that a load generator starts together: the first wave, and those of one length, which stay in step.

Where an engine prefills first, or one step prefills them all, a whole wave of equal requests stays together. Where
chunks are mixed in they come apart into groups, one prefilled per step.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from planner.serving.curve import LoadCurve
from planner.serving.load import Array, Mask, Request
from planner.serving.offered import Offered
from planner.serving.steps import TINY, Mix, StepTime, batch, in_a_row, lone_tokens, price

WHOLE_SHARE = 0.5  # of a step's room: a wave that takes so much stays whole, one that fills it does not, as measured


class Wave(NamedTuple):
    """Requests that start together on an idle engine, seconds."""

    requests: Array
    first_s: Array  # mean time until the prompt of one is prefilled
    all_s: Array  # until all are


def first_wave(offered: Offered, m: Mix, decode_s: Array) -> Wave:
    """The prompts that find all slots empty and are prefilled in full steps.

    One of them has (wave + 1) / 2 prompts to prefill on average, itself included; of its last step half is over
    where several prompts end within steps. A step takes time in proportion to its tokens between a lone prompt's and a
    full one's; where chunks are mixed into several steps, half of those that will decode beside each other do so
    already.
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
    ragged = (m.chunks - p / m.room_tokens) / 2 * (wave * p > m.room_tokens) * np.minimum(wave - 1, 1)
    first = np.maximum(fills * (wave + 1) / (2 * wave) + ragged, 1)
    steps = (in_a_row(count, offered.capacity) for count in (first, np.maximum(fills, 1)))
    return Wave(wave, *(count * step for count in steps))


def in_step(step_s: StepTime, offered: Offered, m: Mix, wave: Wave, point: LoadCurve, closed: Mask) -> LoadCurve:
    """A closed loop of a load generator whose requests are all of one length: whole waves, groups, or between them."""
    load, request = offered.load, offered.request
    equal = closed & np.isfinite(load.waves) & (load.equal_lengths > 0) & (request.prefill_tokens > 0)
    whole = np.where(offered.capacity.chunks_mixed, whole_share(request, m, wave), 1) * equal
    if np.any(equal & (whole < 1)):
        point = in_groups(offered, m, group_of(step_s, offered, m, wave), point, equal & (wave.requests > 1))
    if np.any(whole > 0):
        (together_s,) = price(step_s, (batch(request, wave.requests, 0 * wave.requests, m.room_tokens),))
        point = in_lockstep(request, wave, together_s, point, whole)
    return point


def whole_share(request: Request, m: Mix, wave: Wave) -> Array:
    """How far a wave that one step prefills stays together: wholly to WHOLE_SHARE of the step's room, not beyond it."""
    filled = wave.requests * request.prefill_tokens / m.room_tokens
    return np.where(request.group_whole > 0, np.clip((1 - filled) / (1 - WHOLE_SHARE), 0, 1), 0)


def in_lockstep(request: Request, wave: Wave, decode_s: Array, point: LoadCurve, whole: Array) -> LoadCurve:
    """Requests of one length that start together on an engine that prefills first, or in one step, stay together.

    No decode runs before the whole wave is prefilled, then all decode, `decode_s` a step, and end in the same step;
    the next wave starts together again. Those prefilled early wait for the rest before their second token. So far as
    `whole` says, the rest is as at `point`.
    """

    def part(together: Array, apart: Array) -> Array:
        return apart + whole * (together - apart)

    life, n = point.life, request.decode_steps
    step = part(decode_s + (wave.all_s - wave.first_s) / np.maximum(n, 1), life.step_s)
    queue = part(np.maximum(wave.first_s - life.own_prefill_s, 0), life.queue_s)
    return point._replace(
        life=life._replace(step_s=step, decode_s=n * step, queue_s=queue),
        times=point.times._replace(decode_s=part(step, point.times.decode_s)),
        held_s=part(wave.all_s + n * decode_s, point.held_s),
    )


class Group(NamedTuple):
    """Prompts that one step prefills together beside everybody else's decodes."""

    tokens: Array
    step_s: Array


def group_of(step_s: StepTime, offered: Offered, m: Mix, wave: Wave) -> Group:
    """The prompts of a benchmark that stay together from wave to wave, and their step.

    A few or a share of them, in one step's budget (the whole budget while waves are few), at most half, because a group
    waits for another.
    """
    request = offered.request
    most = np.minimum(m.room_tokens / np.maximum(request.prefill_tokens, 1), wave.requests / 2)
    prompts = np.maximum(np.minimum(np.maximum(request.group_prompts, request.group_share * wave.requests), most), 1)
    prompts = np.where(offered.load.waves <= request.group_waves, np.maximum(most, 1), prompts)
    tokens = np.minimum(prompts * request.prefill_tokens, m.room_tokens)
    (found,) = price(step_s, (batch(request, np.maximum(m.decodes - prompts, 0), tokens, m.room_tokens),))
    return Group(tokens, found)


def in_groups(offered: Offered, m: Mix, group: Group, point: LoadCurve, several: Mask) -> LoadCurve:
    """Requests of one length on an engine that mixes chunks end in the order in which they were prefilled.

    One group ends per step, so that the prompts that follow it meet the step in which the group before is prefilled.
    What prompts add to others' steps shrinks as a token of a group costs less than one of prompts that come singly, but
    where a front end that takes requests one after another has parted them.
    """
    life, n = point.life, offered.request.decode_steps
    own = np.where(several, m.chunks * group.step_s, life.own_prefill_s)
    wait = np.maximum(group.step_s - offered.request.gap_s, life.queue_s + life.own_prefill_s - own)
    queue = np.where(several, np.maximum(wait, 0), life.queue_s)
    plain, single_s = point.times.decode_s, np.maximum(point.times.busy_s - point.times.decode_s, TINY)
    cheaper = np.maximum(group.step_s - plain, 0) / np.maximum(group.tokens, 1) * m.busy_tokens / single_s
    shared = plain + np.minimum(cheaper, 1) * (life.step_s - plain)
    together = several & (n > 0) & (m.busy_tokens > 0) & (offered.request.server_s <= 0)
    more = np.where(together, shared - life.step_s, 0)
    life = life._replace(queue_s=queue, step_s=life.step_s + more, decode_s=life.decode_s + n * more, own_prefill_s=own)
    return point._replace(life=life, held_s=point.held_s + own - point.life.own_prefill_s + n * more)
