"""Assembles a memory plan from its terms, for the pipeline stage whose cache holds the fewest sequences."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planner.memory.budget import Spent
from planner.memory.concurrency import capacity, load_bytes
from planner.memory.stages import Stages, stages_of
from planner.memory.terms import Floats, MemoryInputs, MemoryPlan, Terms, floats
from planner.memory.verdict import verdict
from planner.specs.engine import Allocation, EngineSpec
from planner.specs.model import ModelSpec


def limiting_stage(inputs: MemoryInputs, stages: Stages) -> NDArray[np.intp]:
    """(R,): index of the stage that limits the pool; without caches the stage with the least memory left."""
    _, one = load_bytes(stages.table, inputs.load, 1.0, live=False)
    ratio = stages.available / np.where(one > 0, one, 1.0)
    tightest: NDArray[np.intp] = np.argmin(np.where((one > 0) | (stages.available < 0), ratio, np.inf), axis=0)
    return tightest


def _free_bytes(inputs: MemoryInputs, spent: Spent, cache: Floats) -> Floats:
    """What the device has left once the engine runs, at least 0; shortfalls are part of the verdict."""
    used = floats(inputs.device.copies) * (spent.total() + cache) + inputs.device.reserved_bytes
    return np.maximum(inputs.device.total_bytes - used, 0.0)


def memory_plan(model: ModelSpec, engine: EngineSpec, inputs: MemoryInputs) -> MemoryPlan:
    """Memory of R deployments of one model under one engine.

    Formulas raise nothing: what does not fit is `verdict.starts == False`, with the missing bytes and the
    term that breaks.
    """
    stages = stages_of(model, engine, inputs)
    kv = capacity(model, engine, inputs, stages)
    at = limiting_stage(inputs, stages)
    rows = np.arange(len(at))

    def pick(term: Floats) -> Floats:
        return floats(term[at, rows])

    spent = Spent(*(pick(term) for term in stages.spent))
    pool, states = pick(stages.pool), pick(stages.states)
    cache = pool if engine.cache.state_in_pool else pool + states
    if engine.cache.allocation is Allocation.GROWING:
        cache = np.minimum(kv.kv_needed_bytes, pool) + states
    terms = Terms(
        budget_bytes=stages.budget,
        weights_bytes=spent.weights,
        kv_pool_bytes=pool,
        recurrent_state_bytes=states,
        activation_bytes=spent.activation,
        non_torch_bytes=spent.non_torch,
        cuda_graph_bytes=spent.graphs,
        reserved_bytes=np.broadcast_to(floats(inputs.device.reserved_bytes), pool.shape),
        load_peak_bytes=spent.weights + spent.non_torch + stages.largest_layer,
        host_bytes=stages.host,
        free_bytes=_free_bytes(inputs, spent, cache),
    )
    return MemoryPlan(terms, kv, verdict(engine, inputs, stages, kv))
