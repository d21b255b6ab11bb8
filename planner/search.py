"""Which model size at which precision: every model x format (x GPU) priced for one load, ranked, with reasons.

Thin on purpose: quality is represented by the stated prior only (within what holds the load, more
parameters first, then more bits per weight, then speed); evidence of quality loss is a later step.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from planner.catalog import formats, gpus, models
from planner.errors import BadValue, PlannerError
from planner.estimate import estimate
from planner.explain import VERDICT_RANK
from planner.params import parameters
from planner.specs.formats import Level
from planner.specs.gpu import GpuSpec
from planner.specs.scenario import Scenario

MAX_CANDIDATES = 20_000
BATCH = 512  # combinations priced between two calls of `progress`
SERVER_FORMATS = ("bf16", "fp8", "int8-w8a8", "awq-int4-g128", "nvfp4", "mxfp4")
FP4_FORMATS = ("nvfp4", "mxfp4")
LLAMA_CPP_FORMATS = ("gguf-f16", "gguf-q8_0", "gguf-q6_k", "gguf-q5_k_m", "gguf-q4_k_m", "gguf-iq4_xs", "gguf-q3_k_m")
HOLDS = VERDICT_RANK["holds"]

Row = dict[str, Any]
Progress = Callable[[int, int], None]


class Recommendation(NamedTuple):
    """Rows of `Estimate.rows()`: those that hold the load, best first, and the others with their reason."""

    candidates: list[Row]
    rejected: list[Row]


class Found(NamedTuple):
    """The smallest deployment that holds a load, or the largest tried when none does."""

    scenario: Scenario
    row: Row
    holds: bool


def recommend(
    load: Scenario,
    model_ids: Sequence[str],
    gpu_ids: Sequence[str],
    format_ids: Sequence[str] = (),
    progress: Progress | None = None,
) -> Recommendation:
    """Price every combination under `load`, whose own model, GPU and format are ignored.

    `progress` is called with the number of combinations done and their total. BadValue when there are too many.
    """
    scenarios = combinations(load, model_ids, gpu_ids, format_ids)
    rows: list[Row] = []
    for start in range(0, len(scenarios), BATCH):
        rows += estimate(scenarios[start : start + BATCH]).rows()
        if progress:
            progress(len(rows), len(scenarios))
    return ranked(rows)


def ranked(rows: Sequence[Row]) -> Recommendation:
    """Rows that hold their load, best first, and the others, nearest first."""
    accepted = [row for row in rows if _holds(row)]
    rejected = [row for row in rows if not _holds(row)]
    return Recommendation(sorted(accepted, key=_rank, reverse=True), sorted(rejected, key=_rank_rejected, reverse=True))


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


def default_formats(model_id: str, gpu_id: str, engine: str | None) -> tuple[str, ...]:
    """Formats worth pricing when nobody names any: the checkpoint's own, then what the engine and GPU run.

    A model that is released in 4 or 8 bit is not blown up to 16 again.
    """
    gpu = gpus.gpu(gpu_id)
    if engine == "llama.cpp" or (engine is None and gpu.vendor == "Apple"):
        return LLAMA_CPP_FORMATS
    spec = models.model(model_id)
    own = (spec.quantization.weight_format,) if spec.quantization else ()
    usual = own + tuple(name for name in SERVER_FORMATS if name not in own and not (own and name == "bf16"))
    return tuple(name for name in usual if _worth(name, name in own, engine or "vllm", gpu))


def _worth(name: str, own: bool, engine: str, gpu: GpuSpec) -> bool:
    """Whether the engine runs the format; 4-bit floats, which few publish, only where the GPU has units for them."""
    level = formats.support(formats.weight_format(name), engine, gpu).level
    if name in FP4_FORMATS and not own:
        return level is Level.NATIVE
    return level is not Level.UNSUPPORTED


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
