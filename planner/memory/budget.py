"""The engine's budget: how much of the device it takes, and what is left for the cache."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from planner.collectives import Parallel
from planner.memory.terms import Array, Device, Floats, Settings
from planner.specs.engine import BudgetRule, EngineSpec


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
    """What an idle process sees as free, its own context taken off."""
    total, reserved = np.asarray(device.total_bytes, dtype=float), np.asarray(device.reserved_bytes)
    return np.asarray(total - reserved - engine.budget.context_bytes * np.asarray(device.copies))


def default_utilization(engine: EngineSpec, device: Device, settings: Settings, parallel: Parallel) -> Floats:
    """The engine's default fraction. SGLang derives it from the device; where others share the card and the
    fraction is one of the total, it is lowered in steps of 0.01 to what is free, as a user would.
    """
    total = np.asarray(device.total_bytes, dtype=float)
    if engine.budget.reserve is not None:
        return np.maximum(1 - _static_reserve_bytes(engine, total, settings, parallel) / total, 0.01)
    if engine.budget.rule is not BudgetRule.TOTAL:
        return np.full_like(total, engine.budget.utilization)
    attainable = np.floor(free_bytes(engine, device) / total * 100) / 100
    return np.where(
        np.asarray(device.reserved_bytes) > 0, np.clip(attainable, 0.01, engine.budget.utilization), engine.budget.utilization
    ) + np.zeros_like(total)


def _static_reserve_bytes(engine: EngineSpec, total: Floats, settings: Settings, parallel: Parallel) -> Floats:
    """SGLang: 512 MiB + 1.5 MiB per prefill token + 2 MiB per captured sequence + 128 MiB per GPU."""
    reserve = engine.budget.reserve
    assert reserve is not None
    replicas = np.asarray(parallel.attention_dp, dtype=float)
    graphs = reserve.per_graph_sequence_bytes + np.where(replicas > 1, replicas, 0) * reserve.per_dp_graph_sequence_bytes
    wanted = (
        reserve.fixed_bytes
        + reserve.per_prefill_token_bytes * np.asarray(settings.max_num_batched_tokens)
        + graphs * np.asarray(settings.graph_batch)
        + reserve.per_gpu_bytes * np.asarray(parallel.tp) * np.asarray(parallel.pp)
    )
    return np.asarray(np.where(total > reserve.floor_from_bytes, np.maximum(wanted, reserve.floor_bytes), wanted))


def budget_bytes(engine: EngineSpec, device: Device, utilization: Array) -> Floats:
    """What one deployment may take of the device, copies sharing it equally.

    vLLM: fraction x total. SGLang: fraction x free before loading, for weights and pool. Others: all that is
    free (a fraction of it where the engine holds some back).
    """
    total, fraction = np.asarray(device.total_bytes, dtype=float), np.asarray(utilization, dtype=float)
    free = free_bytes(engine, device)
    whole = {
        BudgetRule.TOTAL: fraction * total,
        BudgetRule.FREE_BEFORE: fraction * free,
        BudgetRule.FREE_AFTER: free + 0 * fraction,
        BudgetRule.FREE: fraction * free,
    }[engine.budget.rule]
    return np.asarray(whole / np.asarray(device.copies))


def available_bytes(engine: EngineSpec, budget: Floats, utilization: Array, spent: Spent) -> Floats:
    """(S, R): what is left of the budget for the cache; negative when nothing is."""
    rule = engine.budget.rule
    if rule is BudgetRule.FREE_BEFORE:
        return budget - spent.weights - spent.non_torch
    if rule is BudgetRule.FREE_AFTER:
        return np.asarray((budget - spent.total()) * np.asarray(utilization))
    graphs = spent.graphs if engine.overheads.graph_in_budget or rule is BudgetRule.FREE else 0.0
    return np.asarray(budget - spent.weights - spent.activation - spent.non_torch - graphs)


def outside_bytes(engine: EngineSpec, spent: Spent) -> Floats:
    """(S, R): what the engine takes beside its budget."""
    if engine.budget.rule is BudgetRule.FREE_BEFORE:
        return spent.activation + spent.graphs
    if engine.budget.rule is BudgetRule.TOTAL and not engine.overheads.graph_in_budget:
        return spent.graphs
    return np.zeros_like(spent.graphs)
