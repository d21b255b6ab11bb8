"""One group: deployments of one model in one engine, from layouts to columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.catalog.uncertainty import validation
from planner.estimate.answer import (
    Answer,
    Columns,
    answer,
    bound_column,
    cost_columns,
    memory_columns,
    observation_columns,
    speed_columns,
)
from planner.estimate.bounds import evidence_widths, fit_confidence, interval_columns
from planner.estimate.deployments import Deployment, Part, column, each, replicas
from planner.estimate.factors import engine_evidence
from planner.estimate.layout import Layout
from planner.estimate.loads import objectives
from planner.estimate.memory_plans import server_slots
from planner.estimate.pricing import PricedGroup, priced_rows
from planner.estimate.quality import quality_columns
from planner.estimate.resolve import ResolvedRow
from planner.specs.engine import EngineSpec
from planner.specs.scenario import Scenario

SIZES = ("tp", "pp", "ep", "attention_dp", "dp", "n_gpus")


class Outcome(NamedTuple):
    """Columns of a group's rows and their scenarios as resolved."""

    columns: Columns
    scenarios: list[Scenario]


def priced_group(engine: EngineSpec, rows: Sequence[tuple[ResolvedRow, Sequence[Layout]]]) -> Outcome:
    """Choose each row's layout, then say everything of it."""
    p = priced_rows(engine, rows)
    verdict = answer(p)
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
