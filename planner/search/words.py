"""A recommendation in words: what to run, why it comes first, how close the next one is."""

from __future__ import annotations

import math

from planner.estimate.columns import EstimateRow
from planner.explain import duration, engine_name, figure, format_name, gpu_name, interval, model_name
from planner.explain.quality import distance_in_short, in_short
from planner.search.emptied import failed
from planner.search.order import crawls, patience
from planner.search.recommend import Recommendation
from planner.specs.wish import RankBy, Wish
from planner.units import MS_PER_S

THOUSAND = 1000  # requests, for a price that can be read

ORDERS = {
    RankBy.QUALITY: "should give the best answers",
    RankBy.COST: "costs least for each request",
    RankBy.THROUGHPUT: "gets the most tokens out of each GPU",
    RankBy.LATENCY: "answers soonest",
    RankBy.BLEND: "is best in quality, cost, throughput and latency taken together",
}


def arrangement(row: EstimateRow) -> str:
    """Replicas, GPUs and division of a row: "4 replicas × tp 2 on 8 × H100 SXM"."""
    parts = [
        f"{name.replace('_', ' ')} {row[name]}" for name in ("tp", "pp", "ep", "attention_dp") if (row[name] or 1) > 1
    ]
    replicas = row["replicas"]
    each = ", ".join(parts) or "1 GPU"
    gpus = f"{row['n_gpus']} × {gpu_name(row['gpu'])}"
    return (
        f"{replicas} replicas × {each} on {gpus}"
        if replicas > 1
        else f"{', '.join(parts) + ' on ' if parts else ''}{gpus}"
    )


def settings(row: EstimateRow) -> str:
    """Model, formats and engine of a row."""
    kv = "" if row["kv_format"] in ("bf16", "fp16") else f", KV cache in {row['kv_format']}"
    model = model_name(row["model"])
    engine = f"{engine_name(row['engine'])} {row['engine_version'] or ''}".strip()
    return f"{model} in {format_name(row['weight_format'])}{kv} ({engine})"


def thousand_price(row: EstimateRow) -> str:
    """USD for 1,000 requests, which is what an order by cost compares; a dash where no price is known."""
    usd = row["usd_per_request"]
    return figure(None if usd is None else usd * THOUSAND)


NEEDED = {  # of settings without which it does not start
    "n_cpu_moe": "the experts of {} layers in host memory",
    "n_gpu_layers": "{} layers on the GPU and the rest in host memory",
    "gpu_memory_utilization": "a memory fraction of {}",
    "max_num_seqs": "at most {} sequences",
    "max_num_batched_tokens": "{} tokens a step",
    "enforce_eager": "no CUDA graphs",
}


def needed(row: EstimateRow) -> str:
    """The settings that a row starts with and not without; blank where it starts as is usual."""
    parts = [NEEDED[name].format(f"{row[name]:,}") for name in (row["settings_needed"] or "").split()]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def headline(recommendation: Recommendation) -> str:
    """What to run; or why nothing is left."""
    if not recommendation.candidates:
        return f"No candidate: {recommendation.verdict}."
    best = recommendation.candidates[0]
    return f"{settings(best)}, {arrangement(best)}"


def reasons(recommendation: Recommendation, wish: Wish) -> list[str]:
    """Why the winner comes first: its order, what it does, what it costs in quality and money, and who is close."""
    if not recommendation.candidates:
        return []
    best = recommendation.candidates[0]
    known = in_short(best), distance_in_short(best)
    holding = recommendation.combinations - sum(recommendation.reasons.values())
    said = [
        f"Of the {holding:,} combinations that hold this load, it {ORDERS[wish.rank_by]}."
        if holding > 1
        else "The only combination that holds this load.",
        _speed(best),
        f"Quality of {format_name(best['weight_format'])} weights: {'; '.join(filter(None, known))}.",
    ]
    if needed(best):
        said.insert(1, f"The engine's usual settings do not fit: start it with {needed(best)}.")
    if best["usd_per_gpu_hour"] is None:
        said.append(
            f"No price of {gpu_name(best['gpu'])} is known, so GPUs are counted instead of money; enter what an hour "
            "costs you to rank by money."
        )
    if best["usd_per_request"] is not None:
        tokens = best["usd_per_million_output_tokens"]
        part = f", {figure(tokens)} USD for a million answer tokens" if tokens is not None else ""
        said.append(
            f"It costs {best['usd_per_hour']:,.2f} USD an hour: {thousand_price(best)} USD for 1,000 requests at this "
            f"load{part}."
        )
    return said + _slow(recommendation, wish) + _close(recommendation)


def _slow(recommendation: Recommendation, wish: Wish) -> list[str]:
    """Whether the winner, or some that are listed last, keep their readers waiting."""
    best = recommendation.candidates[0]
    limits = patience(best, wish)
    slow = sum(crawls(row, limits) for row in recommendation.candidates)
    bounds = [f"below {limits.tokens_per_s:g} tokens/s"] if limits.tokens_per_s else []
    bounds += [f"more than {limits.ttft_ms / MS_PER_S:,.0f} s to the first token"] if limits.ttft_ms < math.inf else []
    stated = " or ".join(bounds)
    if crawls(best, limits):
        return [f"It is too slow to wait for ({stated}), but nothing quicker holds the load."]
    if slow:
        are = "one is" if slow == 1 else f"{slow} are"
        return [
            f"Of those listed {are} too slow to wait for ({stated}) and put last; set an objective on speed to judge."
        ]
    return []


def _speed(row: EstimateRow) -> str:
    """How quick each is served and how much all are; models that write nothing only answer."""
    value, ends = duration(row, "ttft_ms")
    first = " ".join(filter(None, (value, ends and f"({ends})")))
    if row["tpot_ms"] is None:
        return f"A request takes {first}; the whole deployment answers {interval(row, 'requests_per_s')} requests/s."
    each, total = interval(row, "output_tokens_per_s_per_request"), interval(row, "output_tokens_per_s")
    return f"Each user sees {each} tokens/s after {first}; the whole deployment gives {total} tokens/s."


def _close(recommendation: Recommendation) -> list[str]:
    """The runner-up, and how many cannot be told from the winner."""
    if len(recommendation.candidates) < 2:
        return ["Nothing else holds the load."]
    second = recommendation.candidates[1]
    said = [f"Runner-up: {settings(second)}, {arrangement(second)}."]
    if recommendation.near_ties:
        count = len(recommendation.near_ties)
        said.append(
            f"Too close to call: {count} other{'s' if count > 1 else ''}, whose 80 % ranges overlap with its own."
        )
    return said


def refusals(recommendation: Recommendation) -> str:
    """How many combinations each filter rejected, in the order in which they apply."""
    return ", ".join(f"{count:,} {fault}" for fault, count in failed(recommendation.reasons))
