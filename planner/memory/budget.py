"""The engine's budget: how much of the device it takes, and what is left for the cache."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from planner.collectives import Parallel
from planner.memory.terms import Array, Device, Floats, Settings, floats
from planner.specs.engine import BudgetRule, EngineSpec, StaticReserve

_SMALLEST_FRACTION = 0.01


class Spent(NamedTuple):
    """(S, R) bytes that are gone before the cache is sized."""

    weights: Floats
    activation: Floats
    non_torch: Floats
    graphs: Floats

    def total(self) -> Floats:
        """All four."""
        return self.weights + self.activation + self.non_torch + self.graphs


def free_bytes(engine: EngineSpec, device: Device) -> Floats:
    """What an idle process sees as free, the contexts of all copies taken off."""
    return floats(device.total_bytes) - device.reserved_bytes - engine.budget.context_bytes * floats(device.copies)


def default_utilization(engine: EngineSpec, device: Device, settings: Settings, parallel: Parallel) -> Floats:
    """The engine's default fraction; SGLang derives it from the device.

    Where others share the card and the fraction is one of the total, it is lowered to whole hundredths of
    what is free, as a user would: the engine refuses to start otherwise.
    """
    total, default = floats(device.total_bytes), engine.budget.utilization
    if engine.budget.reserve is not None:
        kept = _static_reserve_bytes(engine.budget.reserve, total, settings, parallel)
        return np.maximum(np.round(1 - kept / total, 3), _SMALLEST_FRACTION)
    if engine.budget.rule is not BudgetRule.TOTAL:
        return np.full_like(total, default)
    beside = 0.0 if engine.overheads.graph_in_budget else _SMALLEST_FRACTION
    attainable = np.floor(free_bytes(engine, device) / total * 100) / 100 - beside
    lowered = np.clip(attainable, _SMALLEST_FRACTION, default)
    return np.where(floats(device.reserved_bytes) > 0, lowered, default) + np.zeros_like(total)


def _static_reserve_bytes(reserve: StaticReserve, total: Floats, settings: Settings, parallel: Parallel) -> Floats:
    """SGLang: 512 MiB + 1.5 MiB per prefill token + 2 MiB per captured sequence + 128 MiB per GPU."""
    groups = floats(parallel.attention_dp)
    per_sequence = reserve.per_graph_sequence_bytes + reserve.per_dp_graph_sequence_bytes * np.where(
        groups > 1, groups, 0
    )
    wanted = (
        reserve.fixed_bytes
        + reserve.per_prefill_token_bytes * floats(settings.max_num_batched_tokens)
        + per_sequence * settings.graph_batch
        + reserve.per_gpu_bytes * floats(parallel.tp) * parallel.pp
    )
    return floats(np.where(total > reserve.floor_from_bytes, np.maximum(wanted, reserve.floor_bytes), wanted))


def budget_bytes(engine: EngineSpec, device: Device, utilization: Array) -> Floats:
    """What one deployment may take of the device, copies sharing it equally.

    vLLM: fraction x total. SGLang: fraction x free before loading, for weights and pool. TensorRT-LLM: all
    that is free; its fraction applies to what is left after loading. Others: fraction x free.
    """
    rule = engine.budget.rule
    free = np.maximum(free_bytes(engine, device), 0)
    base = floats(device.total_bytes) if rule is BudgetRule.TOTAL else free
    fraction = 1.0 if rule is BudgetRule.FREE_AFTER else utilization
    return floats(base * fraction / device.copies)


def available_bytes(engine: EngineSpec, budget: Floats, utilization: Array, spent: Spent) -> Floats:
    """(S, R): what is left of the budget for the cache; negative when nothing is."""
    rule = engine.budget.rule
    if rule is BudgetRule.FREE_BEFORE:
        return budget - spent.weights - spent.non_torch
    if rule is BudgetRule.FREE_AFTER:
        return floats((budget - spent.total()) * utilization)
    graphs = spent.graphs if engine.overheads.graph_in_budget or rule is BudgetRule.FREE else 0.0
    return floats(budget - spent.weights - spent.activation - spent.non_torch - graphs)


def outside_bytes(engine: EngineSpec, spent: Spent) -> Floats:
    """(S, R): what the engine takes beside its budget."""
    if engine.budget.rule is BudgetRule.FREE_BEFORE:
        return spent.activation + spent.graphs
    if engine.budget.rule is BudgetRule.TOTAL and not engine.overheads.graph_in_budget:
        return spent.graphs
    return np.zeros_like(spent.graphs)
