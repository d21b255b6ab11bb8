"""The search itself: every valid combination of a space under one load, ranked, each rejected with its first reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from planner.catalog import gpus
from planner.errors import BadValue, PlannerError
from planner.estimate import estimate
from planner.explain import VERDICT_RANK
from planner.search.judge import judge
from planner.search.order import counted, near_ties, ordered, pareto
from planner.search.usual import default_formats
from planner.specs.scenario import Scenario
from planner.specs.wish import RankBy, Space, Wish

Row = dict[str, Any]
Progress = Callable[[int, int], None]
BATCH = 512
MAX_COMBINATIONS = 20_000
MOST_TIED = 50


class Recommendation(NamedTuple):
    """Rows of `Estimate.rows()` with what the search adds.

    Candidates, best first: `rank` from 1, `replicas`, `gpus_per_replica`, `power_w`, `quality_score`,
    `quality_loss_points`, `quality_evidence`, `pareto`, `tie_with` (ranks whose intervals overlap).
    Rejected: `reason_code` and `reason`, the first that applies; figures only where it was priced.
    """

    candidates: list[Row]
    rejected: list[Row]
    pareto: list[int]  # ranks
    near_ties: list[int]  # ranks that tie with the winner
    reasons: Mapping[str, int]  # combinations by why they were rejected
    combinations: int  # all, masked ones among them
    priced: int


def recommend(load: Scenario, space: Space, wish: Wish, progress: Progress | None = None) -> Recommendation:
    """Rank what `space` allows under `load`, whose own model, GPU, format and layout are ignored where the space
    names others.

    `progress` is called with the number of combinations done and their total. BadValue for an empty space.
    """
    asked = _with_objectives(load, wish)
    scenarios = _scenarios(asked, space)
    if not scenarios:
        raise BadValue("nothing to choose from: name at least one model and one GPU")
    if len(scenarios) > MAX_COMBINATIONS:
        raise BadValue(f"{len(scenarios):,} combinations, more than {MAX_COMBINATIONS:,}: narrow an axis")
    rows: list[Row] = []
    for start in range(0, len(scenarios), BATCH):
        rows += estimate(scenarios[start : start + BATCH]).rows()
        if progress:
            progress(len(rows), len(scenarios))
    return judged([_with_worth(row, wish) for row in rows], wish)


def judged(rows: Sequence[Row], wish: Wish) -> Recommendation:
    """Split priced rows by what rejects them, and order the rest."""
    faults = [refusal(row, wish) for row in rows]
    refused = [
        row | {"reason_code": code, "reason": why} for row, (code, why) in zip(rows, faults, strict=True) if code
    ]
    kept = ordered([row for row, (code, _) in zip(rows, faults, strict=True) if not code], wish)
    ties = near_ties(kept, _tie_metric(wish), MOST_TIED)
    front = {index + 1 for index in pareto(kept)}
    for index, row in enumerate(kept):
        row |= {
            "rank": index + 1,
            "pareto": index + 1 in front,
            "tie_with": [other + 1 for other in ties.get(index, [])],
        }
    refused.sort(
        key=lambda row: (VERDICT_RANK.get(row["verdict"] or "no", 0), row["max_concurrency"] or 0), reverse=True
    )
    return Recommendation(
        kept,
        refused,
        sorted(front),
        kept[0]["tie_with"] if kept else [],
        counted([row["reason_code"] for row in refused]),
        len(rows),
        len(rows),
    )


def refusal(row: Row, wish: Wish) -> tuple[str, str]:
    """Code and words of the first reason against a priced row; blank for a candidate."""
    if row["error"]:
        return "error", row["error"]
    if row["verdict"] not in ("holds", "meets_slo") or not row["meets_slo"]:
        return row["reason_code"], row["reason"]
    for name, column, least, words in LIMITS:
        bound, value = getattr(wish, name), row[column]
        if bound is None or value is None:
            continue
        if (value < bound) if least else (value > bound):
            side = "below" if least else "above"
            return name, f"{words} {value:,.4g} is {side} {bound:,.4g}"
    return "", ""


LIMITS = (
    ("max_gpus", "n_gpus", False, "GPUs:"),
    ("max_usd_per_hour", "usd_per_hour", False, "USD per hour:"),
    ("max_usd_per_month", "usd_per_month", False, "USD per month:"),
    ("max_power_w", "power_w", False, "watts:"),
    ("min_output_tokens_per_s", "output_tokens_per_s", True, "tokens/s:"),
    ("min_output_tokens_per_s_per_request", "output_tokens_per_s_per_request", True, "tokens/s for each user:"),
    ("min_requests_per_s", "requests_per_s", True, "requests/s:"),
    ("min_context_tokens", "max_context_tokens", True, "longest request, tokens:"),
    ("max_quality_loss_points", "quality_loss_points", False, "points lost:"),
)


def _tie_metric(wish: Wish) -> RankBy:
    return RankBy.COST if wish.rank_by in (RankBy.BLEND, RankBy.QUALITY) else wish.rank_by


def _with_worth(row: Row, wish: Wish) -> Row:
    """The row with its replicas, its watts and its quality."""
    found = judge(row["model"], row["weight_format"] or "", row["kv_format"] or "", wish.task_family)
    return row | {
        "replicas": row["dp"] or 1,
        "gpus_per_replica": (row["tp"] or 1) * (row["pp"] or 1),
        "power_w": _watts(row),
        "quality_score": found.score,
        "quality_loss_points": found.loss_points,
        "quality_evidence": found.evidence or None,
    }


def _watts(row: Row) -> float | None:
    try:
        board = row["power_limit_w"] or gpus.gpu(row["gpu"]).tdp_w
    except PlannerError:
        return None
    return None if board is None else board * (row["n_gpus"] or 1)


def _with_objectives(load: Scenario, wish: Wish) -> Scenario:
    """The load under the wish's objectives, which come before its own."""
    names = ("ttft_slo_ms", "tpot_slo_ms", "e2e_slo_ms")
    return load.model_copy(update={name: value for name in names if (value := getattr(wish, name)) is not None})


def _scenarios(load: Scenario, space: Space) -> list[Scenario]:
    """Every combination as a scenario; without counts, up to 64 replicas of each layout."""
    out = []
    kinds = space.kv_formats or (load.kv_format,)
    for model, gpu in product(space.models or (load.model or "",), space.gpus or (load.gpu or "",)):
        for engine in space.engines or (load.engine,):
            for name, kv in product(space.formats or default_formats(model, gpu, engine), kinds):
                runs = engine or ("llama.cpp" if name.startswith("gguf-") else None)
                base = {"model": model, "gpu": gpu, "weight_format": name, "kv_format": kv, "engine": runs}
                for layout, concurrency in product(_layouts(space), space.concurrencies or (load.concurrency,)):
                    out.append(load.model_copy(update=base | layout | {"concurrency": concurrency}))
    return out


def _layouts(space: Space) -> list[dict[str, int | None]]:
    split = product(space.pps or (None,), space.eps or (None,), space.attention_dps or (None,))
    axes = list(product(space.counts or (None,), space.tps or (None,), split))
    return [
        {"n_gpus": count, "tp": tp, "pp": pp, "ep": ep, "attention_dp": ranks, "dp": None}
        for count, tp, (pp, ep, ranks) in axes
    ]
