"""What a simulated engine may run: slots, tokens of a step and the blocks of its pool, from the plan of its memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from planner.estimate.deployments import only
from planner.estimate.pricing import PricedGroup
from planner.events import EngineLimits, Pool
from planner.memory.concurrency import usable_bytes, without_states
from planner.memory.stages import Stages, stages_of
from planner.memory.table import CacheTable, sequence_bytes, shared_bytes
from planner.specs.engine import Allocation

UNLIMITED = 10**9  # blocks, where sequences leave nothing in the pool


def engine_limits(p: PricedGroup) -> EngineLimits:
    """Limits of one lane of one replica, or of each attention rank of it, from the plan of its memory."""
    capacity, engine, settings = p.offered.capacity, p.clock.engine, p.inputs.settings
    lanes, slots = only(capacity.lanes), only(capacity.max_num_seqs)
    reserved = engine.cache.allocation is Allocation.CONTEXT
    stages = stages_of(p.deployments[0].row.model, engine, p.inputs)
    bounded = not reserved or bool(np.all(settings.max_model_len_given))  # else slots are as long as requests need
    longest = settings.max_model_len if bounded else np.inf
    if reserved or engine.cache.state_share:
        slots = min(slots, only(capacity.sequences) if reserved else state_slots(stages) * _ranks(p))
    apart = 1 if engine.scheduler.ranks_together else round(_ranks(p))
    slots = max(int(slots / lanes / apart), 1)
    polls = only(p.offered.request.rules.poll_steps)
    return EngineLimits(
        slots=slots,
        budget_tokens=int(only(capacity.max_num_batched_tokens) / apart),
        pool=Pool(slots, 1, fixed_blocks=1, grows=False) if reserved else pool(p, stages, _ranks(p) / apart),
        mixed=engine.scheduler.chunks_mixed,
        tokens_per_step=only(p.offered.load.tokens_per_step),
        longest_tokens=only(longest),
        late_steps=round(only(p.offered.request.late_steps) - (polls - 1) / 2),
        poll_steps=round(polls),
        ranks=round(only(p.offered.request.rules.ranks)),
        balance_steps=only(p.offered.request.rules.balance_steps),
        ranks_apart=apart,
        ranks_in_turn=engine.scheduler.ranks_in_turn,
    )


def _ranks(p: PricedGroup) -> float:
    return only(p.inputs.parallel.attention_dp)


def state_slots(stages: Stages) -> float:
    """Sequences for whose recurrent states there is room, where these have memory of their own."""
    held = np.where(stages.table.state_bytes > 0, stages.states / np.maximum(stages.table.state_bytes, 1), np.inf)
    return float(np.floor(np.min(held)))


def pool(p: PricedGroup, stages: Stages, ranks: float) -> Pool:
    """The pool of so many attention ranks of one lane, on the stage that holds the fewest sequences.

    Of a cache with windows or states, bytes of a sequence are a straight line through those after the mean prompt
    and after the mean output.
    """
    engine, load = p.clock.engine, p.inputs.load
    beside = bool(engine.cache.state_share)
    table = without_states(stages.table) if beside else stages.table
    usable = usable_bytes(table, engine, stages.pool if beside else stages.available)
    block, prefix = only(p.inputs.settings.block_tokens), only(np.minimum(load.shared_prefix_tokens, load.input_tokens))
    prompt = math.ceil(max(only(load.input_tokens), 1) / block) * block
    end = prompt + math.ceil(max(only(load.output_tokens), 1) / block) * block
    shared = shared_bytes(table, np.array([prefix]))
    at_prompt, at_end = (_bytes(table, tokens) - shared for tokens in (prompt, end))
    ratio = np.where(at_end > 0, (usable - shared) / np.maximum(at_end, 1), np.inf)
    stage = int(np.argmin(ratio[:, 0]))
    room = max(float((usable - shared)[stage, 0]), 0.0) * ranks / only(p.offered.capacity.lanes)
    first, last = float(at_prompt[stage, 0]), float(at_end[stage, 0])
    grown = (last - first) / (end - prompt) * block
    if grown <= 0:
        return Pool(int(room / last) if last > 0 else UNLIMITED, int(block), 1, int(prefix), grows=False)
    fixed = max(round((first - grown * (prompt - prefix) / block) / grown), 0)
    again = engine.cache.computed_again or 1.0
    return Pool(int(room / grown), int(block), fixed, int(prefix), True, engine.cache.reserves_full, again)


def _bytes(table: CacheTable, tokens: float) -> Any:
    return sequence_bytes(table, np.array([tokens]), live=True)
