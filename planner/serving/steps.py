"""What runs in a step while prompts arrive at a given rate per step, and how such steps are priced."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from planner.ops import Batch
from planner.serving.edge import beyond_share
from planner.serving.load import Array, Capacity, Mask, Request
from planner.serving.ranks import Others, others_of

# Seconds of one step of every scenario, (R,) in and out, or of P steps at once, (P, R).
StepTime = Callable[[Batch], Array]

TOGETHER = 2048  # steps times scenarios that are priced in one call, so that its arrays stay in the cache
MOST_AGAIN = 0.95  # largest share of a step's room that prompts take where some are computed again
TINY = 1e-12


class Mix(NamedTuple):
    """What runs in a step while `prompts` of other requests arrive in each; arrays (R,) or (K, R)."""

    prompts: Array  # L
    decodes: Array  # D: sequences decoding, the followed one among them
    room_tokens: Array  # prefill tokens that fit in a step beside the decodes
    chunks: Array  # steps that one prompt takes
    busy_share: Array  # prefill steps per decode step; a share of them where chunks are mixed in
    busy_tokens: Array  # prefilled in such a step
    own_tokens: Array  # prefilled in the steps that prefill the followed request
    backlog_tokens: Array  # waiting to be prefilled before it
    others: Others  # other attention data-parallel ranks
    rank_tokens: Array  # prefilled by each of them that prefills


class Times(NamedTuple):
    """Seconds of the three kinds of step that a request sees."""

    decode_s: Array  # decodes only, on its own rank
    busy_s: Array  # with others' prefill
    own_s: Array  # with its own prefill


def mix(request: Request, capacity: Capacity, prompts: Array) -> Mix:
    """The mix of a step at `prompts` arriving per step."""
    p, n = request.prefill_tokens, request.decode_steps
    mixed, ranks, apart = capacity.chunks_mixed, request.rules.attention_ranks, request.ranks_apart
    decodes = np.where(n > 0, 1 + prompts * n, 0)
    room_tokens = np.maximum(capacity.max_num_batched_tokens - np.where(mixed, decodes, 0), 1)
    own_room_tokens = np.maximum(capacity.max_num_batched_tokens - np.where(mixed & (n > 0), decodes - 1, 0), 1)
    chunks = np.ceil(p * ranks / own_room_tokens)
    most_tokens = np.maximum(MOST_AGAIN * room_tokens / np.maximum(prompts, TINY), p)
    brought_tokens = np.minimum(p + request.again_tokens, most_tokens)
    share, arriving = busy_steps(request, prompts, brought_tokens / room_tokens)
    others = others_of(apart, share, request.density)
    rank_tokens = np.minimum(arriving * brought_tokens, room_tokens) / apart
    alike = (request.rules.ranks > 1) | ((n <= 0) & ~request.random_arrivals)
    in_step = np.where(alike, arriving, 1 + prompts * request.rules.poll_steps / apart)
    chunk_tokens = np.minimum(in_step, ranks / apart) * p / np.maximum(chunks, 1)
    own_tokens = np.where(chunks > 1, chunk_tokens, np.minimum(in_step * p, own_room_tokens / apart))
    backlog_tokens = waiting_tokens(request, mixed, prompts, room_tokens, brought_tokens)
    return Mix(
        prompts=prompts,
        decodes=decodes,
        room_tokens=room_tokens,
        chunks=chunks,
        busy_share=share,
        busy_tokens=rank_tokens * (1 + others.prefilling),
        own_tokens=own_tokens + rank_tokens * others.prefilling,
        backlog_tokens=backlog_tokens * np.where(mixed, 1, 1 + others.prefilling),
        others=others,
        rank_tokens=rank_tokens,
    )


def busy_steps(request: Request, prompts: Array, filled: Array) -> tuple[Array, Array]:
    """Prefill steps per decode step, and prompts in each of them; a prompt fills `filled` steps.

    Where nothing decodes, every step prefills.
    """
    decodes, some = request.decode_steps > 0, np.maximum(prompts, TINY)
    share = np.where(decodes, prefilling_share(request, some, filled), 1) * (request.prefill_tokens > 0)
    alone = np.maximum(prompts + np.where(request.random_arrivals, 0, 1 / 2), 1)  # of 2 L + 1 that stand one half waits
    return share, np.where(decodes, some / np.where(share > 0, share, 1), alone)


def waiting_tokens(request: Request, mixed: Mask, prompts: Array, room_tokens: Array, brought_tokens: Array) -> Array:
    """Prompt tokens that wait ahead of a request.

    Where chunks are mixed in: Pollaczek-Khinchine, L E[P^2] / (2 (room - L P)). In an engine that prefills first a
    request waits only for prompts of the same step, and of its own rank where ranks are independent.
    """
    p, demand = request.prefill_tokens, prompts * brought_tokens / room_tokens
    queued = demand * brought_tokens * request.prefill_square_ratio / (2 * np.maximum(1 - demand, TINY))
    together = prompts * request.rules.poll_steps / request.ranks_apart
    left_over = np.clip((1 + 2 * together) * p - room_tokens / request.ranks_apart, 0, 2 * together * p)
    return np.asarray(np.where(mixed, queued, left_over / 2))


def prefilling_share(request: Request, prompts: Array, filled: Array) -> Array:
    """Share of steps with prefill in them, where L `prompts` come per step and each fills `filled` steps.

    Prompts arrive in steps as a Poisson process. While they are short, 1 - exp(-L) of the steps prefill; L / r counts
    where r ranks start prompts together or each on its own, and one step in n has 1 - exp(-n L) where the scheduler
    looks once in n steps. Where a prompt takes several steps the share is L P / room.
    """
    polls = request.rules.poll_steps
    some = -np.expm1(-prompts * polls / (request.rules.ranks * request.ranks_apart)) / polls
    return np.asarray(np.maximum(some, prompts * filled))


def held_up_share(request: Request, capacity: Capacity, m: Mix) -> Array:
    """Share of a lane's decode steps that last as long as one with prefill, its own or that of a lane before it.

    Lanes pass the stages of a pipeline in order, so that a prompt in one holds up those behind. In its own lane the
    followed request meets all requests of a closed loop but itself, in other lanes all of them.
    """
    others = np.maximum(capacity.waits_on - 1, 0)
    if not np.any(others):
        return m.busy_share
    followed = np.where(request.random_arrivals, 0, 1 / np.maximum(m.chunks + request.decode_steps, 1))
    prompts = m.prompts + followed
    share = np.minimum(prefilling_share(request, prompts, request.prefill_tokens / m.room_tokens), 1)
    return np.where(others > 0, 1 - np.maximum(1 - m.busy_share, 0) * (1 - share) ** others, m.busy_share)


def batch(
    request: Request, decodes: Array, prefill_tokens: Array, room_tokens: Array, beyond: Array | float = np.nan
) -> Batch:
    """A step of `decodes` sequences and `prefill_tokens` of prompts, on average half-way through their chunks."""
    least = np.where(prefill_tokens > 0, prefill_tokens, np.inf)
    chunk = np.minimum(np.minimum(request.prefill_tokens, room_tokens / request.rules.attention_ranks), least)
    context = request.cached_tokens + (request.prefill_tokens - chunk) / 2
    seqs = np.where(prefill_tokens > 0, np.maximum(prefill_tokens / np.maximum(chunk, 1), 1), 0)
    patches = request.image_patches * prefill_tokens / np.maximum(request.prefill_tokens, 1)
    fields = (decodes, request.decode_context, prefill_tokens, context, seqs, patches, request.patches_per_image)
    return Batch(*fields, beyond)


def price(step_s: StepTime, batches: Sequence[Batch]) -> list[Array]:
    """Seconds of every batch, each in its own shape (..., R).

    Steps are priced together, as many as keep a call's arrays in the cache; a part that none of them has is passed
    as a scalar 0.
    """
    shapes = [np.broadcast(*one).shape for one in batches]
    rows = shapes[0][-1]
    ends = np.cumsum([math.prod(shape[:-1]) for shape in shapes]).tolist()
    flat = np.empty((len(Batch._fields), ends[-1], rows))
    for one, shape, start, end in zip(batches, shapes, [0, *ends], ends, strict=False):
        for column, field in zip(flat[:, start:end].reshape(-1, *shape), one, strict=True):
            column[...] = field
    seconds = np.empty(flat[0].shape)
    each = max(TOGETHER // rows, 1)
    for start in range(0, len(seconds), each):
        at = slice(start, start + each) if each > 1 else start
        seconds[at] = step_s(Batch(*(field if field.any() else 0.0 for field in flat[:, at])))
    return [part.reshape(shape) for part, shape in zip(np.split(seconds, ends[:-1]), shapes, strict=True)]


def step_batches(request: Request, capacity: Capacity, m: Mix) -> tuple[Batch, Batch, Batch]:
    """The steps of `Times`, as batches: decodes only, with others' prefill, with its own prefill."""
    mixed = capacity.chunks_mixed
    others = np.where(request.prefill_tokens > 0, np.maximum(m.decodes - 1, 0), m.decodes)
    beside = m.decodes * m.others.decoding
    busy_beyond, own_beyond = beyond_share(request, capacity, m.prompts, m.decodes)
    return (
        batch(request, m.decodes, 0 * m.decodes, m.room_tokens),
        batch(request, np.where(mixed, m.decodes, beside), m.busy_tokens, m.room_tokens, busy_beyond),
        batch(request, np.where(mixed | (m.own_tokens <= 0), others, beside), m.own_tokens, m.room_tokens, own_beyond),
    )


def beside_ranks(step_s: StepTime, request: Request, m: Mix, decode_s: Array) -> Array:
    """Mean seconds of a decode step: longer in those in which other ranks prefill, `decode_s` in the rest."""
    if not np.any(m.others.share):
        return decode_s
    decodes, prefill_tokens = m.decodes * (1 - m.others.met / request.ranks_apart), m.others.met * m.rank_tokens
    (beside_s,) = price(step_s, (batch(request, decodes, prefill_tokens, m.room_tokens),))
    return decode_s + m.others.share * (beside_s - decode_s)


def in_a_row(chunks: Array, capacity: Capacity) -> Array:
    """Steps that the chunks of one prompt take, less where they overlap in the stages of a pipeline.

    C chunks leave L stages after C + L - 1 parts of a step, which is (C + L - 1) / (C L) of running them in a row. An
    engine attains this ratio to a power, 0 where it starts a chunk only when the one before has left the last stage.
    """
    if not np.any(capacity.chunk_overlap):
        return chunks
    filled = (chunks + capacity.lanes - 1) / (np.maximum(chunks, 1) * capacity.lanes)
    return np.asarray(chunks * filled**capacity.chunk_overlap)


class PromptSteps(NamedTuple):
    """Seconds of steps that only prefill, (R,)."""

    lone_s: Array  # one step of a lone prompt
    full_s: Array  # filled with prompts


def prefilled_per_s(request: Request, capacity: Capacity, prompts: PromptSteps) -> Array:
    """Requests per second whose prompts one lane computes when it does nothing else; inf without prompts.

    The curve counts requests by steps, which overlooks that prompts of short answers wait for each other; this is the
    bound.
    """
    room = np.asarray(capacity.max_num_batched_tokens, dtype=float)
    tokens_per_s = np.maximum(room / prompts.full_s, lone_tokens(request, capacity) / np.maximum(prompts.lone_s, TINY))
    p = request.prefill_tokens
    chunks = lone_chunks(request, capacity)
    return np.where(p > 0, tokens_per_s / np.maximum(p, TINY) * chunks / in_a_row(chunks, capacity), np.inf)


def ceiling_per_s(request: Request, capacity: Capacity, prompts: PromptSteps) -> Array:
    """Most requests per second of one lane: what it can prefill, and its share of what the front end can serve."""
    served = 1 / (np.maximum(request.serial_s, TINY) * capacity.lanes)
    return np.asarray(np.minimum(prefilled_per_s(request, capacity, prompts), served))


def lone_tokens(request: Request, capacity: Capacity) -> Array:
    """Tokens prefilled in each step of a prompt that has the engine to itself."""
    tokens: Array = request.prefill_tokens / lone_chunks(request, capacity)
    return tokens


def lone_chunks(request: Request, capacity: Capacity) -> Array:
    """Steps that prefill such a prompt, on one attention data-parallel rank."""
    room = capacity.max_num_batched_tokens / request.rules.attention_ranks
    chunks: Array = np.maximum(np.ceil(request.prefill_tokens / room), 1)
    return chunks


def prompt_batches(request: Request, capacity: Capacity) -> tuple[Batch, Batch]:
    """The steps of `PromptSteps`, as batches."""
    none, room = np.zeros_like(request.prefill_tokens), capacity.max_num_batched_tokens
    lone_beyond = beyond_share(request, capacity, none, none)[1]
    return batch(request, none, lone_tokens(request, capacity), room, lone_beyond), batch(request, none, room, room)


def own_step(request: Request, capacity: Capacity, m: Mix, decode_s: Array, busy_s: Array) -> Array:
    """Seconds of a step with the request's own prefill: the busy step's, in proportion to prefilled tokens."""
    base = np.where(capacity.chunks_mixed, decode_s, 0) * (request.decode_steps > 0)
    line = base + (busy_s - base) * m.own_tokens / np.maximum(m.busy_tokens, TINY)
    return np.where(request.prefill_tokens > 0, line, decode_s)
