"""The 80 % intervals of an estimate's figures, and how sure it is that the engine starts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from planner import uncertainty
from planner.catalog.uncertainty import widths
from planner.estimate.answer import Columns, Priced
from planner.specs.engine import Allocation, EngineSpec
from planner.uncertainty import Budget, Interval, Shares, Widths
from planner.units import GIB

BY_TPOT = ("tpot_ms", "output_tokens_per_s_per_request")
BY_PREFILL = ("ttft_unloaded_ms", "prefill_tokens_per_s")
BY_LIFE = ("e2e_ms", "output_tokens_per_s", "output_tokens_per_s_per_gpu", "requests_per_s")


def evidence_widths(texts: dict[str, NDArray[np.object_]]) -> Widths:
    """Half-widths at each row's levels of evidence."""
    levels: list[Sequence[str]] = [list(texts[f"{name}_evidence"]) for name in ("memory", "speed", "engine")]
    return widths(*levels)


def interval_columns(engine: EngineSpec, p: Priced, columns: Columns, width: Widths) -> Columns:
    """Lower and upper ends by column, in the column's unit."""
    parts = _budget(engine, p)
    pool = _pool(engine, parts, width)
    relative = np.where(parts.pool > 0, (pool.high - pool.low) / (2 * np.maximum(parts.pool, 1)), 0)
    times = uncertainty.time_widths(_shares(p), width, relative)
    half = dict.fromkeys(BY_TPOT, times.tpot) | dict.fromkeys(BY_PREFILL, times.ttft_unloaded)
    half |= dict.fromkeys(BY_LIFE, times.e2e)
    half |= {"ttft_ms": times.ttft, "weights_gib": width.weights, "activation_gib": width.activation}
    found = {name: uncertainty.interval(columns[name], value) for name, value in half.items()}
    found["kv_pool_gib"] = Interval(pool.low / GIB, pool.high / GIB)
    found["max_concurrency"] = _sequences(engine, p, parts, columns, width)
    out: Columns = {}
    for name, ends in found.items():
        for end, value in ends._asdict().items():
            out[f"{name}_{end}"] = np.where(np.isfinite(value) & ~np.isnan(columns[name]), value, np.nan)
    return out


def _shares(p: Priced) -> Shares:
    """The times that widths are weighed by; a queue that grows has none, and its interval stays blank."""
    point = p.point
    seconds = (point.ttft_s, point.ttft_unloaded_s, point.slot_wait_s, point.e2e_s)
    return Shares(*(np.where(point.above_capacity, 0.0, value) for value in seconds))


def _sequences(engine: EngineSpec, p: Priced, parts: Budget, columns: Columns, width: Widths) -> Interval:
    """Whole sequences; an engine that allocates every slot at start holds exactly those."""
    if engine.cache.allocation is Allocation.CONTEXT:
        return Interval(columns["max_concurrency"], columns["max_concurrency"])
    low, high = uncertainty.sequences_interval(columns["max_concurrency"], parts, width)
    return Interval(np.floor(low), np.ceil(high))


def _pool(engine: EngineSpec, parts: Budget, width: Widths) -> Interval:
    """The pool is what the budget leaves, or what the slots' contexts take where they are allocated at start."""
    if engine.cache.allocation is Allocation.CONTEXT:
        return uncertainty.interval(np.asarray(parts.pool), width.sequence)
    return uncertainty.pool_interval(parts, width)


def _budget(engine: EngineSpec, p: Priced) -> Budget:
    terms = p.plan.terms
    graphs = terms.cuda_graph_bytes if engine.overheads.graph_in_budget else np.zeros_like(terms.cuda_graph_bytes)
    spent = (terms.weights_bytes, terms.activation_bytes, terms.non_torch_bytes)
    return Budget(terms.budget_bytes, *spent, graphs, terms.kv_pool_bytes)


def fit_confidence(engine: EngineSpec, p: Priced, width: Widths) -> NDArray[np.str_]:
    """yes | tight | no: whether what the tightest condition leaves could as well be a shortfall."""
    verdict = p.plan.verdict
    half = uncertainty.pool_half_width_bytes(_budget(engine, p), width)
    margin = np.where(verdict.starts, verdict.margin_bytes, -verdict.shortfall_bytes)
    return uncertainty.fit_confidence(np.zeros_like(margin), Interval(margin - half, margin + half))
