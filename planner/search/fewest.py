"""One load over models and formats, and the fewest GPUs that hold it: what the pages ask while somebody waits."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from planner.catalog import models
from planner.errors import BadValue, PlannerError
from planner.estimate import estimate
from planner.explain import VERDICT_RANK
from planner.params import parameters
from planner.search.usual import default_formats
from planner.specs.scenario import Scenario

MAX_CANDIDATES = 20_000
HOLDS = VERDICT_RANK["holds"]

Row = dict[str, Any]


class Found(NamedTuple):
    """The smallest deployment that holds a load, or the largest tried when none does."""

    scenario: Scenario
    row: Row
    holds: bool


def ranked(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Rows that hold their load, best first, and the others, nearest first."""
    accepted = [row for row in rows if _holds(row)]
    rejected = [row for row in rows if not _holds(row)]
    return sorted(accepted, key=_rank, reverse=True), sorted(rejected, key=_rank_rejected, reverse=True)


def combinations(
    load: Scenario, model_ids: Sequence[str], gpu_ids: Sequence[str], format_ids: Sequence[str] = ()
) -> list[Scenario]:
    """One scenario per model, GPU and format; a model that is released quantized keeps its own format too."""
    out = []
    for gpu_id in gpu_ids:
        for model_id in model_ids:
            for name in format_ids or default_formats(model_id, gpu_id, load.engine):
                engine = load.engine or ("llama.cpp" if name.startswith("gguf-") else None)
                update = {"model": model_id, "gpu": gpu_id, "weight_format": name, "engine": engine, "device_gib": None}
                out.append(load.model_copy(update=update))
    if len(out) > MAX_CANDIDATES:
        raise BadValue(f"{len(out):,} combinations, more than {MAX_CANDIDATES:,}: choose fewer models, GPUs or formats")
    return out


def smallest_count(
    scenario: Scenario, counts: Sequence[int], estimator: Callable[[Sequence[Scenario]], list[Row]]
) -> Found:
    """The fewest GPUs of the scenario's kind that hold its load and meet its objectives; all counts in one call."""
    tried = [scenario.model_copy(update={"n_gpus": count}) for count in counts]
    priced = list(zip(tried, estimator(tried), strict=True))
    for asked, row in priced:
        if _holds(row) and row["meets_slo"]:
            return Found(asked, row, True)
    best = max(priced, key=lambda pair: (pair[1]["error"] is None, *_rank_rejected(pair[1])))
    return Found(*best, holds=False)


def _holds(row: Row) -> bool:
    return row["error"] is None and VERDICT_RANK[row["verdict"]] >= HOLDS


def _rank(row: Row) -> tuple[float, ...]:
    return (
        VERDICT_RANK[row["verdict"]],
        row["support"] in ("native", "weight_only"),
        _parameters(row["model"]),
        row["weights_gib"] * (row["tp"] or 1) * (row["pp"] or 1),  # more bits for each weight
        row["output_tokens_per_s"] or 0.0,
    )


def _parameters(name: str) -> int:
    try:
        return parameters(models.model(name))
    except PlannerError:  # an uploaded model: ranked behind those of the catalogue
        return 0


def _rank_rejected(row: Row) -> tuple[float, ...]:
    return (VERDICT_RANK.get(row["verdict"] or "no", 0), row["max_concurrency"] or 0.0)


def follow_parent() -> None:
    """In a process of its own: end when the parent ends, however it ends."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def priced(scenarios: Sequence[Scenario]) -> list[Row]:
    """Rows of scenarios: what a process of its own runs."""
    return estimate(scenarios).rows()


def smallest_of(rows: Sequence[Row], tried: int) -> list[Row]:
    """Of every `tried` rows in a row, which differ in their GPUs alone: the first that holds, else the best."""
    groups = (rows[at : at + tried] for at in range(0, len(rows), tried))
    return [
        next((row for row in group if _holds(row) and row["meets_slo"]), max(group, key=_nearness)) for group in groups
    ]


def _nearness(row: Row) -> tuple[float, ...]:
    return (row["error"] is None, *_rank_rejected(row))
