"""The 80 % intervals of an estimate's figures, and how sure it is that the engine starts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from planner import uncertainty
from planner.catalog.uncertainty import BY_MEMORY, NOT_VALIDATED, widths
from planner.catalog.uncertainty import uncertainty as shipped
from planner.estimate.answer import Columns
from planner.estimate.deployments import Deployment, Part, column, each, numbers
from planner.estimate.memory_plans import HOPPER
from planner.estimate.pricing import PricedGroup
from planner.memory.cache import cache_kinds
from planner.specs.engine import Allocation, BudgetRule, EngineSpec
from planner.specs.model import Attention
from planner.specs.uncertainty import StreamLevels
from planner.uncertainty import HalfWidths, Interval, MemoryParts, Shares
from planner.units import GIB, MS_PER_S

PLAIN = ("bf16", "fp16", "fp32")
SAME = 1e-6  # relative: a device as its profile has it
SURE = 1.96 / 1.2816  # of a 95 % interval in half-widths of the 80 % one
BY_TPOT = ("tpot_ms", "output_tokens_per_s_per_request")
BY_PREFILL = ("ttft_unloaded_ms", "prefill_tokens_per_s")
FIRST_TOKENS = ("ttft_ms", "ttft_unloaded_ms")
BY_LIFE = ("e2e_ms", "output_tokens_per_s", "output_tokens_per_s_per_gpu", "requests_per_s")


def evidence_widths(texts: dict[str, NDArray[np.object_]], deployments: Sequence[Deployment]) -> HalfWidths:
    """Half-widths at each row's levels of evidence."""
    kinds = cache_kinds(deployments[0].row.model)
    uniform = len(kinds.parts) == 1 and not kinds.states
    levels = each(deployments, lambda d: memory_levels(d, uniform), Part.GPU, Part.WEIGHTS, Part.WORDS)
    memory = {part: [level[part] for level in levels] for part in BY_MEMORY}
    engines = [_engine_level(*said) for said in zip(texts["engine_evidence"], texts["engine_validation"], strict=True)]
    half_widths = widths(memory, list(texts["speed_evidence"]), engines)
    if known := shipped().decode_engines.get(deployments[0].row.engine.id):
        transferred = texts["engine_evidence"] == "transferred"
        half_widths = half_widths._replace(decode_engine=np.where(transferred, known.value, half_widths.decode_engine))
    half_widths = _with_own_kernels(half_widths, texts, deployments)
    hosted, host = on_host(deployments), shipped().host
    return half_widths._replace(
        decode_engine=uncertainty.combined(half_widths.decode_engine, np.where(hosted, host.decode.value, 0.0)),
        prefill_engine=uncertainty.combined(half_widths.prefill_engine, np.where(hosted, host.prefill.value, 0.0)),
    )


def _engine_level(evidence: str, validation: str) -> str:
    return "unvalidated" if (evidence, validation) == ("assumed", NOT_VALIDATED) else evidence


def _with_own_kernels(
    half_widths: HalfWidths, texts: dict[str, NDArray[np.object_]], deployments: Sequence[Deployment]
) -> HalfWidths:
    """One width for operators and engine, where a lone request meets kernels that were fitted in that engine."""
    own, row = shipped().own_kernels, deployments[0].row
    if row.engine.id != own.engine:
        return half_widths
    experts = row.model.has_experts
    known = column(deployments, lambda d: d.row.gpu.generation in own.generations, Part.GPU, dtype=bool)
    lone = (numbers(deployments, "concurrency", 1) == 1) & np.isnan(numbers(deployments, "request_rate_per_s", np.nan))
    applies = lone & (texts["speed_evidence"] != "measured") & (texts["engine_evidence"] != "observed")

    def width(levels: StreamLevels) -> NDArray[np.float64]:
        near, far = (levels.known_experts, levels.elsewhere_experts) if experts else (levels.known, levels.elsewhere)
        return np.where(known, near.value, far.value)

    return half_widths._replace(
        decode_operators=np.where(applies, 0.0, half_widths.decode_operators),
        prefill_operators=np.where(applies, 0.0, half_widths.prefill_operators),
        decode_engine=np.where(applies, width(own.decode), half_widths.decode_engine),
        prefill_engine=np.where(applies, width(own.prefill), half_widths.prefill_engine),
    )


def on_host(deployments: Sequence[Deployment]) -> NDArray[np.bool_]:
    """Whether a row leaves layers, experts or weights in host memory."""
    on_gpu = numbers(deployments, "n_gpu_layers", np.inf)
    left = numbers(deployments, "n_cpu_moe", 0) + numbers(deployments, "cpu_offload_gib", 0)
    return np.asarray((on_gpu < deployments[0].row.model.n_layers + 1) | (left > 0))


def memory_levels(d: Deployment, uniform: bool) -> dict[str, str]:
    """How each part of a deployment's memory is known: measured | reference | datasheet, and system for a budget.

    `uniform`: all layers keep one kind of cache. What an engine's logs state apart (`memory_logs`) is best known, then
    what other figures of its logs bound, then what no log of it covers. 16-bit weights are what was loaded; packed ones
    are repacked by the engine. Libraries take what is known of them from Hopper on; least is known of them where the
    host shares the memory.
    """
    gpu, engine = d.row.gpu, d.row.engine
    stated_device = abs((d.row.scenario.device_gib or 0) * GIB / gpu.device_bytes - 1) > SAME
    device = "measured" if stated_device else "reference" if gpu.device_bytes_kind == "measured" else "datasheet"
    logged, stated = engine.id in shipped().memory_logs, shipped().memory_logs.get(engine.id, ())
    by_log = "reference" if logged else "datasheet"
    known_weights = "measured" if d.row.weights.id in PLAIN else "reference"
    modern = (gpu.compute_capability or 0) >= HOPPER and not gpu.unified_memory
    return {
        "budget": _budget_level(d, uniform, "budget" in stated),
        "device": device,
        "weights": known_weights if "weights" in stated else "datasheet",
        "activation": "measured" if "activation" in stated else by_log,
        "non_torch": "measured" if modern and logged else "datasheet" if gpu.unified_memory else "reference",
        "cuda_graph": by_log,
        "sequence": "measured" if uniform else by_log,
    }


def _budget_level(d: Deployment, uniform: bool, logged: bool) -> str:
    """Known best where the engine allocates what it is told to, or logs its budget and runs nothing but attention."""
    gpu, engine, model = d.row.gpu, d.row.engine, d.row.model
    if engine.cache.allocation is not Allocation.POOL:
        return "measured"
    if gpu.unified_memory or gpu.compute_capability is None:
        return "system"
    if not logged:
        return "datasheet"
    plain = uniform and model.vision is None and all(isinstance(mixer, Attention) for mixer in model.mixers)
    return "measured" if plain else "reference"


def interval_columns(engine: EngineSpec, p: PricedGroup, columns: Columns, width: HalfWidths) -> Columns:
    """Lower and upper ends by column, in the column's unit."""
    parts = _memory_parts(engine, p)
    pool = _pool_interval(engine, parts, width)
    relative = np.where(parts.pool > 0, (pool.high - pool.low) / (2 * np.maximum(parts.pool, 1)), 0)
    times = uncertainty.time_widths(_weighed_times(p), width, relative)
    half = dict.fromkeys(BY_TPOT, times.tpot) | dict.fromkeys(BY_PREFILL, times.ttft_unloaded)
    half |= dict.fromkeys(BY_LIFE, times.e2e)
    half |= {"ttft_ms": times.ttft, "weights_gib": width.weights, "activation_gib": width.activation}
    plain = uncertainty.interval(np.array([columns[name] for name in half]), np.array(list(half.values())))
    plain.high[[name in FIRST_TOKENS for name in half]] += shipped().front_s.value * MS_PER_S
    sequences = _sequences_interval(engine, parts, columns, width)
    names = (*half, "kv_pool_gib", "max_concurrency")
    known = ~np.isnan([columns[name] for name in names])
    ends = {
        "low": np.array((*plain.low, pool.low / GIB, sequences.low)),
        "high": np.array((*plain.high, pool.high / GIB, sequences.high)),
    }
    return {
        f"{name}_{which}": value
        for which, values in ends.items()
        for name, value in zip(names, np.where(known & np.isfinite(values), values, np.nan), strict=True)
    }


def _weighed_times(p: PricedGroup) -> Shares:
    """The times by which widths are weighed; 0 where a queue grows, whose interval then stays blank."""
    point = p.point
    seconds = (point.ttft_s, point.ttft_unloaded_s, point.slot_wait_s, point.e2e_s)
    return Shares(*(np.where(point.above_capacity, 0.0, value) for value in seconds))


def _sequences_interval(engine: EngineSpec, parts: MemoryParts, columns: Columns, width: HalfWidths) -> Interval:
    """Interval of the sequences that the pool holds; exact where an engine allocates every slot at start."""
    if engine.cache.allocation is Allocation.CONTEXT:
        return Interval(columns["max_concurrency"], columns["max_concurrency"])
    low, high = uncertainty.sequences_interval(columns["max_concurrency"], parts, width)
    return Interval(np.floor(low), np.ceil(high))


def _pool_interval(engine: EngineSpec, parts: MemoryParts, width: HalfWidths) -> Interval:
    """Interval of the pool in bytes: what the budget leaves, or what slots take that are allocated at start."""
    if engine.cache.allocation is Allocation.CONTEXT:
        return uncertainty.interval(np.asarray(parts.pool), width.sequence)
    return uncertainty.pool_interval(parts, width)


def _memory_parts(engine: EngineSpec, p: PricedGroup) -> MemoryParts:
    """What the budget is spent on, as the engine counts it: some leave graphs out, SGLang activations."""
    terms = p.plan.terms
    graphs = terms.cuda_graph_bytes if engine.graphs.in_budget else np.zeros_like(terms.cuda_graph_bytes)
    beside = engine.budget.rule is BudgetRule.FREE_BEFORE
    activation = np.zeros_like(terms.activation_bytes) if beside else terms.activation_bytes
    spent = (terms.weights_bytes, activation, terms.non_torch_bytes)
    return MemoryParts(terms.budget_bytes, *spent, graphs, terms.kv_pool_bytes)


def fit_confidence(engine: EngineSpec, p: PricedGroup, width: HalfWidths) -> NDArray[np.str_]:
    """yes | tight | no: whether the margin of the tightest condition could be a shortfall, or the reverse, at 95 %."""
    verdict = p.plan.verdict
    half = SURE * uncertainty.pool_half_width_bytes(_memory_parts(engine, p), width)
    margin = np.where(verdict.starts, verdict.margin_bytes, -verdict.shortfall_bytes)
    return uncertainty.fit_confidence(np.zeros_like(margin), Interval(margin - half, margin + half))
