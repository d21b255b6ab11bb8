"""Whether the engine starts: its conditions, in the order in which it would fail on them."""

from __future__ import annotations

import numpy as np

from planner.memory.budget import available_bytes, free_bytes, outside_bytes
from planner.memory.concurrency import without_states
from planner.memory.stages import Stages
from planner.memory.table import sequence_bytes
from planner.memory.terms import Array, Floats, KvCapacity, MemoryInputs, StartVerdict, floats, slot_tokens
from planner.specs.engine import Allocation, BudgetRule, EngineSpec

# What can keep an engine from starting with this load, in the order in which it meets them; "context" is a
# sequence longer than the max_model_len that was given.
BREAKS = ("reserved", "weights", "activation", "kv_cache", "max_model_len", "cuda_graphs", "host_memory")

OWN = ("weights", "activation", "kv_cache", "max_model_len", "cuda_graphs")  # conditions on what the engine takes


def sequence_lacks(engine: EngineSpec, stages: Stages, tokens: Array) -> Floats:
    """(S, R): bytes that one sequence of `tokens` lacks in the cache; its states have a part of their own in SGLang."""
    null = engine.cache.null_blocks * stages.table.pool_block_bytes
    if not engine.cache.state_share:
        return sequence_bytes(stages.table, tokens) + null - stages.available
    cached = sequence_bytes(without_states(stages.table), tokens) + null
    return np.maximum(cached - stages.pool, stages.table.state_bytes - stages.states)


def missing_bytes(engine: EngineSpec, inputs: MemoryInputs, stages: Stages) -> Floats:
    """(B, R): bytes that each condition of BREAKS lacks on the worst stage; 0 or less where it is met.

    vLLM refuses a budget above what is free; others need something to be free. Weights must fit the budget,
    then the peak of a step; the rest must hold one sequence of the load, and one of max_model_len where it was
    given (the whole context where the engine allocates it at start). What lives beside the budget must fit on
    the device, and what stays in host memory there.
    """
    spent, copies = stages.spent, floats(inputs.device.copies)
    free = free_bytes(engine, inputs.device)
    tokens = floats(inputs.load.input_tokens) + inputs.load.output_tokens
    whole = sequence_lacks(engine, stages, np.maximum(slot_tokens(inputs), tokens))
    if engine.cache.allocation is Allocation.CONTEXT:
        whole = stages.pool + stages.states - stages.available
    refused = copies * stages.budget - free if engine.budget.rule is BudgetRule.TOTAL else -free
    conditions = (
        refused,
        spent.weights - stages.budget,
        -available_bytes(engine, stages.budget, 1.0, spent),
        sequence_lacks(engine, stages, tokens),
        whole,
        copies * (stages.budget + outside_bytes(engine, spent)) - free,
        copies * stages.host - inputs.device.host_bytes,
    )
    return np.stack([np.max(np.where(stages.exists, condition, -np.inf), axis=0) for condition in conditions])


def _own(engine: EngineSpec, missing: Floats, stages: Stages) -> Floats:
    """(len(OWN), R): bytes that each of the engine's own conditions lacks.

    Where nothing lives beside the budget, that condition compares two known figures and says nothing of a margin.
    """
    beside = np.any(outside_bytes(engine, stages.spent) > 0, axis=0)
    own = missing[[BREAKS.index(name) for name in OWN]]
    own[OWN.index("cuda_graphs")] = np.where(beside, own[OWN.index("cuda_graphs")], -np.inf)
    return own


def verdict(engine: EngineSpec, inputs: MemoryInputs, stages: Stages, kv: KvCapacity) -> StartVerdict:
    """Whether the engine starts and holds the load, else the first condition that is not met and what it lacks."""
    missing = missing_bytes(engine, inputs, stages)
    broken = missing > 0
    any_broken = np.any(broken, axis=0)
    first = np.argmax(broken, axis=0)
    tokens = floats(inputs.load.input_tokens) + inputs.load.output_tokens
    too_long = (tokens > slot_tokens(inputs)) & ~any_broken
    starts = ~any_broken & ~too_long
    breaks = np.where(too_long, "context", np.where(any_broken, np.asarray(BREAKS)[first], ""))
    lacking = np.take_along_axis(missing, first[None], axis=0)[0]
    return StartVerdict(
        starts=starts,
        holds_load=starts & (floats(inputs.load.concurrency) <= kv.max_concurrency),
        shortfall_bytes=np.where(any_broken, lacking, 0.0),
        margin_bytes=-np.max(_own(engine, missing, stages), axis=0),
        breaks=breaks,
    )
