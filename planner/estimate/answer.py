"""From a priced group to columns: verdicts with their reasons, and figures in the units of the screen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner import billing, serving
from planner.estimate.deployments import Deployment, Floats, Part, column, numbers, replicas
from planner.estimate.loads import DEFAULT_PERCENTILE
from planner.estimate.pricing import PricedGroup
from planner.ops import Batch, Op, OpKind
from planner.roofline import PricedOps, priced
from planner.specs.formats import Level
from planner.units import GIB, MS_PER_S

FINE_MS = 10.0  # below which whole milliseconds are too coarse
MOST_DECIMALS = 6  # of a millisecond
FINE_S = 10.0  # below it a wait is said to a tenth of a second
MANY_S = 120.0  # from here on in minutes
CLOSE_GIB = 0.1  # shortfall below which more digits are given
FIXED_COST = ("usd_per_hour", "usd_per_month")  # due whether the deployment runs or not
WAIT_SHARE = 0.1  # of a request's time spent waiting for a slot, from which the pool is what limits it

Columns = dict[str, NDArray[Any]]


def memory_columns(p: PricedGroup, possible: NDArray[np.bool_]) -> Columns:
    """Columns of memory and KV cache; only the budget of a GPU where the engine refuses the layout (not `possible`)."""
    terms, kv = p.plan.terms, p.plan.kv
    share = replicas(p.deployments)
    gib = {
        "budget_gib": terms.budget_bytes,
        "weights_gib": terms.weights_bytes,
        "kv_pool_gib": terms.kv_pool_bytes,
        "kv_needed_gib": kv.kv_needed_bytes,
        "recurrent_state_gib": terms.recurrent_state_bytes,
        "activation_gib": terms.activation_bytes,
        "non_torch_gib": terms.non_torch_bytes,
        "cuda_graph_gib": terms.cuda_graph_bytes,
        "free_gib": terms.free_bytes,
        "host_needed_gib": terms.host_bytes,
        "load_peak_gib": terms.load_peak_bytes,
    }
    columns = {name: np.asarray(value) / GIB for name, value in gib.items()} | {
        "kv_occupancy": kv.kv_occupancy,
        "kv_bytes_per_token": kv.kv_bytes_per_token,
        "kv_pool_tokens": kv.kv_pool_tokens,
        "kv_blocks": kv.kv_blocks,
        "max_concurrency": kv.max_concurrency * share,
        "max_concurrency_at_max_model_len": kv.max_concurrency_at_max_model_len,
        "max_concurrency_expected": kv.max_concurrency_expected * share,
        "max_context_tokens": kv.max_context_tokens,
    }
    return {
        name: value if name == "budget_gib" else np.where(possible, value, np.nan) for name, value in columns.items()
    }


def speed_columns(p: PricedGroup, runs: NDArray[np.bool_]) -> Columns:
    """Columns of times and rates; blank where the deployment does not run."""
    point = p.point
    gpus = n_gpus(p.deployments)
    columns = {
        "prefill_tokens_per_s": point.prefill_tokens_per_s,
        "ttft_unloaded_ms": point.ttft_unloaded_s * MS_PER_S,
        "ttft_ms": point.ttft_s * MS_PER_S,
        "tpot_ms": point.tpot_s * MS_PER_S,
        "e2e_ms": point.e2e_s * MS_PER_S,
        "output_tokens_per_s": point.output_tokens_per_s,
        "output_tokens_per_s_per_request": point.output_tokens_per_s_per_request,
        "output_tokens_per_s_per_gpu": point.output_tokens_per_s / gpus,
        "requests_per_s": point.requests_per_s,
        "sustainable_concurrency": p.most.concurrency,
        "sustainable_request_rate_per_s": p.most.request_rate_per_s,
    }
    return {name: np.where(runs & np.isfinite(value), value, np.nan) for name, value in columns.items()}


def cost_columns(p: PricedGroup, runs: NDArray[np.bool_]) -> Columns:
    """Columns of money, where a GPU hour has a known price; per request and token only where the deployment runs."""
    price = numbers(p.deployments, "usd_per_gpu_hour", np.nan)
    costs: Columns = billing.cost(price, n_gpus(p.deployments), p.offered.load, p.point)._asdict()
    return {name: value if name in FIXED_COST else np.where(runs, value, np.nan) for name, value in costs.items()}


def n_gpus(deployments: Sequence[Deployment]) -> Floats:
    """GPUs of each deployment."""
    return np.asarray(column(deployments, lambda d: d.layout.n_gpus, Part.LAYOUT))


def mean_batch(p: PricedGroup) -> Batch:
    """The mean step of one pipeline lane: its decoding sequences and the prompts that arrive with each step."""
    request, capacity = p.offered.request, p.offered.capacity
    generates = p.offered.load.output_tokens > 0
    decodes = np.where(generates, np.maximum(p.point.decode_sequences / p.offered.lane.lanes, 1), 0)
    arriving = request.prefill_tokens * np.where(generates, decodes / np.maximum(request.decode_steps, 1), 1)
    prefill = np.minimum(arriving, capacity.max_num_batched_tokens)
    return Batch(decodes, request.decode_context, prefill, request.cached_tokens, np.ones_like(decodes))


class StepParts(NamedTuple):
    """A step taken apart: its operations, the seconds of each (n_ops, R), and what the engine adds (R,)."""

    ops: Sequence[Op]
    seconds: PricedOps
    engine_s: Floats


def step_parts(p: PricedGroup, batch: Batch | None = None) -> StepParts:
    """The step of `batch`, operation by operation; None: the mean step."""
    batch = mean_batch(p) if batch is None else batch
    ops = p.clock.ops(batch)
    seconds = priced(ops, p.clock.rates, p.clock.residuals)
    waits = p.clock.engine_s(batch, ops, seconds.total.sum(axis=0))
    if p.clock.is_refined:
        factor = p.clock.step_s(batch) / (seconds.total.sum(axis=0) + waits)
        seconds, waits = PricedOps(*(part * factor for part in seconds)), waits * factor
    return StepParts(ops, seconds, np.broadcast_to(waits, seconds.total.shape[1:]))


def observation_columns(p: PricedGroup) -> Columns:
    """Columns of the observations of the same engine on the same GPU."""
    decode, prefill, count = p.clock.refined
    return {
        "observations": count,
        "observed_decode_factor": np.where(count > 0, decode, np.nan),
        "observed_prefill_factor": np.where(count > 0, prefill, np.nan),
    }


def bound_column(p: PricedGroup) -> NDArray[np.object_]:
    """What limits the mean step; an operation's time counts as memory or as compute, whichever would take longer."""
    ops, parts, engine_s = step_parts(p)
    network = np.array([op.kind is OpKind.COMMUNICATION for op in ops])[:, None]
    by_memory = parts.memory >= parts.compute
    busy = np.where(network, 0, np.maximum(parts.total - parts.start, 0))
    return serving.dominant_bound(
        np.sum(np.where(by_memory, busy, 0), axis=0),
        np.sum(np.where(by_memory, 0, busy), axis=0),
        np.sum(np.where(network, parts.total, 0), axis=0),
        np.sum(np.where(network, 0, parts.start), axis=0) + engine_s,
        p.point.slot_wait_s > WAIT_SHARE * p.point.e2e_s,
    ).astype(object)


class Answer(NamedTuple):
    """The verdict of a group, as columns."""

    starts: NDArray[np.bool_]
    holds: NDArray[np.bool_]
    meets: NDArray[np.bool_]
    codes: list[str]
    reasons: list[str]


def answer(p: PricedGroup) -> Answer:
    """Whether each row starts, holds its load and meets its objectives, and the first reason why not."""
    starts, holds = p.starts(), p.holds()
    missed = missed_objectives(p)
    meets = holds & np.array([not names for names in missed])
    failures = [("", "")] * len(missed)
    for i in np.flatnonzero(~meets).tolist():
        failures[i] = _reason(p, i, bool(starts[i]), bool(holds[i]), missed[i])
    return Answer(starts, holds, meets, [code for code, _ in failures], [reason for _, reason in failures])


def missed_objectives(p: PricedGroup) -> list[list[str]]:
    """Objectives that each row misses at its percentile, as "p95 TTFT 812 ms is above 500 ms".

    A load generator's first wave waits longer than requests do later; objectives are held against those.
    """
    out: list[list[str]] = [[] for _ in p.deployments]
    if p.tail is None:
        return out
    figures = (
        ("TTFT", "ttft_slo_ms", p.tail.ttft_s),
        ("TPOT", "tpot_slo_ms", p.tail.tpot_s),
        ("end-to-end", "e2e_slo_ms", p.tail.e2e_s),
    )
    percentile = numbers(p.deployments, "slo_percentile", DEFAULT_PERCENTILE)
    for word, name, seconds in figures:
        limits = numbers(p.deployments, name, np.inf)
        for i in np.flatnonzero(np.isfinite(limits) & (seconds * MS_PER_S > limits)):
            later = " after the first wave" if word == "TTFT" and p.deployments[int(i)].row.scenario.waves else ""
            took, most = told_apart_ms(seconds[i] * MS_PER_S, limits[i])
            out[i].append(f"p{percentile[i]:g} {word} {took}{later} is above {most}")
    return out


def told_apart_ms(value: float, limit: float) -> tuple[str, str]:
    """A time and its limit in words, with usual decimals or as many as it takes to tell the two apart."""
    usual = 0 if limit >= FINE_MS else 1
    places = next((n for n in range(usual, MOST_DECIMALS) if f"{value:.{n}f}" != f"{limit:.{n}f}"), MOST_DECIMALS)
    return f"{value:,.{places}f} ms", f"{limit:,.{places}f} ms"


STOPS = {  # what keeps an engine from starting: its code and its words
    "reserved": ("out_of_free_memory", "the engine's share of the card is not free"),
    "weights": ("out_of_weights", "the weights exceed the memory budget"),
    "activation": ("out_of_activation", "weights and activations exceed the memory budget"),
    "kv_cache": ("out_of_kv_cache", "the KV cache of one request does not fit beside the weights"),
    "max_model_len": ("out_of_max_model_len", "the KV cache of one sequence of max_model_len does not fit"),
    "cuda_graphs": ("out_of_cuda_graphs", "CUDA graphs and libraries exceed what is free"),
    "host_memory": ("out_of_host_memory", "what stays on the host exceeds its memory"),
    "context": ("context_too_long", "input and output together exceed max_model_len"),
}


def _wait(seconds: float) -> str:
    if seconds >= 60 * MANY_S:
        return f"{seconds / 3600:,.0f} h"
    if seconds >= MANY_S:
        return f"{seconds / 60:,.0f} min"
    return f"{seconds:,.0f} s" if seconds >= FINE_S else f"{seconds:.1f} s"


def _waiting(p: PricedGroup, i: int) -> str:
    """How many requests wait and how long; or, where only the full length does not fit, that some are recomputed."""
    if p.point.slot_wait_s[i] > 0:
        count = max(round(p.point.waiting_sequences[i]), 1)
        return f"on average {count:,} wait{'s' if count == 1 else ''} for a place, for {_wait(p.point.slot_wait_s[i])}"
    held = p.plan.kv.max_concurrency[i] * replicas(p.deployments[i : i + 1])[0]
    return f"at full length {held:,.0f} fit; beyond that requests are set back and recomputed"


def rate_exceeded(requests_per_s: float, cap: float) -> str:
    """Why a rate is too much: for the deployment, or for the load's own cap on requests in flight."""
    within = f" with at most {cap:,.0f} in flight, as concurrency says" if np.isfinite(cap) else ""
    return f"the rate exceeds what the deployment completes{within} ({requests_per_s:,.3g} requests/s)"


def shortfall(short_bytes: float) -> str:
    """ " (3.2 GiB short)", or blank where nothing is missing."""
    short = short_bytes / GIB
    return f" ({short:,.{1 if short >= CLOSE_GIB else 3}f} GiB short)" if short > 0 else ""


def _reason(p: PricedGroup, i: int, starts: bool, holds: bool, missed: list[str]) -> tuple[str, str]:
    d, plan = p.deployments[i], p.plan
    if d.layout.invalid:
        return "tp_invalid", d.layout.invalid
    if d.row.support.level is Level.UNSUPPORTED:
        return "unsupported_format", d.row.support.reason
    if not starts:
        code, words = STOPS[str(plan.verdict.breaks[i])]
        return code, words + shortfall(plan.verdict.shortfall_bytes[i])
    if not holds:
        if p.point.above_capacity[i]:
            return "above_capacity", rate_exceeded(p.point.requests_per_s[i], p.point.cap[i])
        return "kv_pool_full", _waiting(p, i)
    return ("slo_missed", "; ".join(missed)) if missed else ("", "")
