"""One group: deployments of one model in one engine, from layouts to columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from planner import serving
from planner.catalog.uncertainty import validation
from planner.estimate.answer import (
    DEFAULT_PERCENTILE,
    Answer,
    Columns,
    PricedGroup,
    answer,
    bound_column,
    cost_columns,
    memory_columns,
    observation_columns,
    speed_columns,
)
from planner.estimate.bounds import evidence_widths, fit_confidence, interval_columns
from planner.estimate.capacity import offered_to
from planner.estimate.clock import clock
from planner.estimate.deployments import (
    Deployment,
    Deployments,
    Floats,
    Part,
    column,
    each,
    limits_of,
    numbers,
    replicas,
)
from planner.estimate.factors import engine_evidence
from planner.estimate.layout import Layout
from planner.estimate.loads import is_closed, load_of
from planner.estimate.memory_plans import Planned, planned, server_slots
from planner.estimate.quality import quality_columns
from planner.estimate.resolve import ResolvedRow
from planner.memory import MemoryPlan
from planner.serving import Load
from planner.serving.steady import slot_wait_s
from planner.specs.engine import EngineSpec
from planner.specs.scenario import Scenario
from planner.units import MS_PER_S

SIZES = ("tp", "pp", "ep", "attention_dp", "dp", "n_gpus")

Record = TypeVar("Record")


class Outcome(NamedTuple):
    """Columns of a group's rows and their scenarios as resolved."""

    columns: Columns
    scenarios: list[Scenario]


def priced_group(engine: EngineSpec, rows: Sequence[tuple[ResolvedRow, Sequence[Layout]]]) -> Outcome:
    """Choose each row's layout, then say everything of it."""
    p, in_flight = settled_layouts(engine, rows)
    verdict = answer(p, in_flight)
    possible = column(p.deployments, lambda d: not d.layout.invalid, Part.LAYOUT, dtype=bool)
    memory = memory_columns(p, possible)
    speed = speed_columns(p, verdict.starts)
    texts = _texts(p, verdict)
    width = evidence_widths(texts, p.deployments)
    intervals = interval_columns(engine, p, memory | speed, width)
    sure = fit_confidence(engine, p, width)
    runnable = np.array([code not in ("tp_invalid", "unsupported_format") for code in verdict.codes])
    texts["fit_confidence"] = np.where(runnable, sure, "no").astype(object)
    texts["bound"] = np.where(verdict.starts, bound_column(p), "")
    flags = {"fits": verdict.starts, "starts": verdict.starts, "holds_load": verdict.holds, "meets_slo": verdict.meets}
    columns = memory | speed | cost_columns(p, verdict.starts) | intervals | texts | flags
    columns |= quality_columns(p.deployments) | observation_columns(p)
    return Outcome(columns, _echoes(p))


def settled_layouts(
    engine: EngineSpec, rows: Sequence[tuple[ResolvedRow, Sequence[Layout]]]
) -> tuple[PricedGroup, Floats]:
    """Every row priced in its best layout, and its requests in flight on the whole deployment.

    A closed loop's layout follows from memory alone, so only the chosen ones are timed. A rate or thinking
    users leave the requests in flight to the time model, so there every layout is timed.
    """
    limits = [limits_of(row) for row, _ in rows]
    ways = Deployments(
        Deployment(row, layout, limit) for (row, found), limit in zip(rows, limits, strict=True) for layout in found
    )
    counts = [len(found) for _, found in rows]
    load = load_of(ways)
    closed = is_closed(load)
    in_flight = np.where(closed, load.concurrency, 1.0)
    memory = planned(engine, ways, in_flight)
    if len(ways) > len(rows) and np.all(closed):
        at = best_layouts(counts, memory.plan.verdict.holds_load, memory.plan, ways)
        ways = ways.taken(at)
        load, in_flight, memory = taken((load, in_flight, memory), at)
    p, in_flight = timed(engine, ways, load, in_flight, memory)
    if len(ways) > len(rows):
        at = best_layouts(counts, answer(p, in_flight).holds, p.plan, ways)
        chosen = ways.taken(at)
        load, in_flight, memory = taken((load, in_flight, Planned(p.inputs, p.plan)), at)
        p, in_flight = timed(engine, chosen, load, in_flight, memory)
    return p, in_flight


def timed(
    engine: EngineSpec, deployments: Sequence[Deployment], load: Load, in_flight: Floats, memory: Planned
) -> tuple[PricedGroup, Floats]:
    """Settle the load on planned deployments; where only that says what is in flight, plan memory again for it."""
    closed = is_closed(load)
    steps = clock(engine, deployments, memory.inputs)
    offered = offered_to(engine, deployments, memory, load, steps.step_s)
    settled = serving.settle(steps.step_s, offered)
    point = serving.serving_point(offered, settled)
    if not np.all(closed):
        full = memory.plan.kv.max_concurrency_expected * replicas(deployments)
        standing = np.where(point.above_capacity, full, point.requests_per_s * point.e2e_s)
        standing = np.minimum(standing, load.concurrency)
        in_flight = np.where(closed, in_flight, np.maximum(standing, 1.0))
        memory = planned(engine, deployments, in_flight)
    wishes = objectives(deployments)
    wait = slot_wait_s(offered.load, offered.lane, settled)
    found = serving.tail(offered.load, offered.request, settled.point.life, wait, wishes.percentile)
    most = serving.sustainable(offered, wishes)
    return PricedGroup(deployments, memory.inputs, memory.plan, steps, offered, point, found, most), in_flight


def best_layouts(
    counts: Sequence[int], holds: NDArray[np.bool_], plan: MemoryPlan, ways: Sequence[Deployment]
) -> NDArray[np.int64]:
    """Of each row's layouts the first that holds the load; else that with most room, or nearest to starting."""
    room, starts = (plan.kv.max_concurrency * replicas(ways)).tolist(), plan.verdict.starts.tolist()
    short, holds = plan.verdict.shortfall_bytes.tolist(), holds.tolist()
    best, start = [], 0
    for count in counts:
        at = range(start, start + count)
        holding = [i for i in at if holds[i]]
        best.append(holding[0] if holding else max(at, key=lambda i: (starts[i], room[i] if starts[i] else -short[i])))
        start += count
    return np.array(best)


def taken(record: Record, at: NDArray[np.int64]) -> Record:
    """The same record with only the rows `at`: every array is cut along its last axis."""
    if isinstance(record, np.ndarray):
        return record[..., at]  # type: ignore[return-value]
    if isinstance(record, tuple):
        parts = [taken(part, at) for part in record]
        return type(record)(*parts) if hasattr(record, "_fields") else tuple(parts)  # type: ignore[return-value]
    return record


def objectives(deployments: Sequence[Deployment]) -> serving.Objectives:
    """Limits on the percentile of each time; none where the scenario states none."""
    return serving.Objectives(
        ttft_s=numbers(deployments, "ttft_slo_ms", np.nan) / MS_PER_S,
        tpot_s=numbers(deployments, "tpot_slo_ms", np.nan) / MS_PER_S,
        e2e_s=numbers(deployments, "e2e_slo_ms", np.nan) / MS_PER_S,
        percentile=numbers(deployments, "slo_percentile", DEFAULT_PERCENTILE),
    )


def _texts(p: PricedGroup, verdict: Answer) -> dict[str, NDArray[np.object_]]:
    asked = ~np.all([np.isnan(limit) for limit in objectives(p.deployments)[:3]], axis=0)
    one = p.plan.kv.max_concurrency * replicas(p.deployments) <= 1
    conditions = [~verdict.starts, verdict.meets & asked, verdict.holds, one]
    columns = {
        "verdict": np.select(conditions, ["no", "meets_slo", "holds", "starts"], "queues"),
        "reason_code": verdict.codes,
        "reason": verdict.reasons,
        "checkpoint": each(p.deployments, lambda d: d.row.checkpoint, Part.CHECKPOINT),
        "support": each(p.deployments, lambda d: d.row.support.level.value, Part.SUPPORT),
        "memory_evidence": each(p.deployments, memory_evidence, Part.GPU),
        "speed_evidence": [rate_set.evidence.value for rate_set in p.clock.rate_sets],
        "calibration_id": [rate_set.calibration_id for rate_set in p.clock.rate_sets],
        "engine_evidence": each(
            p.deployments,
            lambda d: engine_evidence(d.row.engine, d.row.model, d.row.gpu.vendor, d.row.refined),
            *(Part.GPU, Part.REFINED),
        ),
        "engine_validation": each(p.deployments, engine_validation, Part.GPU),
    }
    return {name: np.array(values, dtype=object) for name, values in columns.items()}


def engine_validation(d: Deployment) -> str:
    """Whether measured runs of the engine on GPUs of this generation ship."""
    return validation(d.row.engine.id, d.row.gpu.generation)


def memory_evidence(d: Deployment) -> str:
    """Whether the device's memory comes from a log or from the rule of its memory type."""
    return "reference" if d.row.gpu.device_bytes_kind == "measured" else "datasheet"


def _stated_slots(p: PricedGroup) -> NDArray[np.float64]:
    """Most sequences as a scenario would state them to this engine: of one attention-DP rank, or of all together."""
    slots = np.asarray(p.inputs.settings.max_num_seqs, dtype=float)
    if p.deployments[0].row.engine.scheduler.rank_slots:
        return slots
    together = server_slots(p.deployments[0].row.engine, p.deployments)
    return np.where(np.isnan(together), slots * np.asarray(p.inputs.parallel.attention_dp), together)


def _echoes(p: PricedGroup) -> list[Scenario]:
    """The scenarios with every default that was filled in."""
    sizes = each(p.deployments, lambda d: dict(zip(SIZES, (*d.layout[:5], d.layout.n_gpus), strict=True)), Part.LAYOUT)
    settings = p.inputs.settings
    shares = (settings.utilization, _stated_slots(p), settings.max_num_batched_tokens, settings.block_tokens)
    columns = (np.asarray(column).tolist() for column in shares)
    return [
        d.row.scenario.filled(
            {
                **size,
                "gpu_memory_utilization": round(utilization, 4),
                "max_num_seqs": int(sequences),
                "max_num_batched_tokens": int(tokens),
                "block_size": int(block),
                "enforce_eager": bool(d.row.scenario.enforce_eager),
            }
        )
        for d, size, utilization, sequences, tokens, block in zip(p.deployments, sizes, *columns, strict=True)
    ]
