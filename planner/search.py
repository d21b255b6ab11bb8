"""Which model size at which precision: every model x format (x GPU) priced for one load, ranked, with reasons.

Thin on purpose: quality is represented by the stated prior only (within what holds the load, more
parameters first, then more bits per weight, then speed); evidence of quality loss is a later step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from planner.catalog import formats, gpus, models
from planner.errors import BadValue
from planner.estimate import estimate
from planner.explain import VERDICT_RANK
from planner.params import parameters
from planner.specs.scenario import Scenario

MAX_CANDIDATES = 20_000
SERVER_FORMATS = ("bf16", "fp8", "int8-w8a8", "awq-int4-g128", "nvfp4", "mxfp4")
LLAMA_CPP_FORMATS = ("gguf-f16", "gguf-q8_0", "gguf-q6_k", "gguf-q5_k_m", "gguf-q4_k_m", "gguf-iq4_xs", "gguf-q3_k_m")


class Recommendation(NamedTuple):
    """Rows of `Estimate.rows()`: those that hold the load, best first, and the others with their reason."""

    candidates: list[dict[str, Any]]
    rejected: list[dict[str, Any]]


def recommend(
    load: Scenario, model_ids: Sequence[str], gpu_ids: Sequence[str], format_ids: Sequence[str] = ()
) -> Recommendation:
    """Price every combination under `load`, whose own model, GPU and format are ignored. BadValue when too many."""
    scenarios = combinations(load, model_ids, gpu_ids, format_ids)
    rows = estimate(scenarios).rows()
    accepted = [row for row in rows if row["error"] is None and VERDICT_RANK[row["verdict"]] >= VERDICT_RANK["holds"]]
    rejected = [row for row in rows if row["error"] is not None or VERDICT_RANK[row["verdict"]] < VERDICT_RANK["holds"]]
    return Recommendation(sorted(accepted, key=_rank, reverse=True), sorted(rejected, key=_rank_rejected, reverse=True))


def combinations(
    load: Scenario, model_ids: Sequence[str], gpu_ids: Sequence[str], format_ids: Sequence[str] = ()
) -> list[Scenario]:
    """One scenario per model, GPU and format; a model that is released quantized keeps its own format too."""
    out = []
    for gpu_id in gpu_ids:
        for model_id in model_ids:
            for name in format_ids or default_formats(model_id, gpu_id, load.engine):
                update = {"model": model_id, "gpu": gpu_id, "weight_format": name, "device_gib": None}
                out.append(load.model_copy(update=update))
    if len(out) > MAX_CANDIDATES:
        raise BadValue(f"{len(out):,} combinations, more than {MAX_CANDIDATES:,}: choose fewer models, GPUs or formats")
    return out


def default_formats(model_id: str, gpu_id: str, engine: str | None) -> tuple[str, ...]:
    """Formats worth pricing when nobody names any: the checkpoint's own, then what the engine and GPU run."""
    spec = models.model(model_id)
    own = (spec.quantization.weight_format,) if spec.quantization else ()
    if engine == "llama.cpp" or gpus.gpu(gpu_id).vendor == "Apple":
        return LLAMA_CPP_FORMATS
    return own + tuple(name for name in SERVER_FORMATS if name not in own and not (own and name == "bf16"))


def _rank(row: dict[str, Any]) -> tuple[float, ...]:
    bits = formats.nominal_bits(row["weight_format"])
    return (
        VERDICT_RANK[row["verdict"]],
        row["support"] in ("native", "weight_only"),
        parameters(models.model(row["model"])),
        bits,
        row["output_tokens_per_s"] or 0.0,
    )


def _rank_rejected(row: dict[str, Any]) -> tuple[float, ...]:
    return (VERDICT_RANK.get(row["verdict"] or "no", 0), row["max_concurrency"] or 0.0)
