"""The formulas behind an estimate with this deployment's own numbers, their sources and their evidence.

Each line can be followed with a pocket calculator. Where engines add what no line shows (pages, padding,
windows), the formula says so instead of pretending an equation.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from planner.catalog import engines, gpus
from planner.catalog import formats as format_catalog
from planner.errors import PlannerError
from planner.estimate.columns import EstimateRow
from planner.explain.words import figure, interval
from planner.formats import weight_bytes
from planner.params import parameters
from planner.specs.engine import BudgetRule, EngineSpec
from planner.specs.model import Attention, CompressedAttention, LatentAttention, LinearAttention, Mixer, ModelSpec
from planner.units import GB, GIB, MS_PER_S

CLOSE = 0.01  # a closed form within this share of the engine's figure is shown as an equation


class Formula(NamedTuple):
    """One figure: how it comes about, and who says so."""

    title: str
    lines: tuple[str, ...]
    source: str
    evidence: str


def formulas(row: EstimateRow, model: ModelSpec) -> list[Formula]:
    """Formulas of a row of `Estimate.rows()` for its model; those of speed only when it runs.

    Of a layout that no engine takes nothing is known but the budget of one GPU.
    """
    engine = engines.engine(row["engine"], row["engine_version"], row["backend"])
    if row["weights_gib"] is None:
        return [_budget(row, engine)]
    memory = [_weights(row, model), _kv_token(row, model), _budget(row, engine), _pool(row, engine), _room(row)]
    return memory + (_speed(row) if row["tpot_ms"] or row["ttft_ms"] else [])


def _weights(row: EstimateRow, model: ModelSpec) -> Formula:
    fmt = format_catalog.weight_format(row["weight_format"])
    count, stored = parameters(model), weight_bytes(model, fmt)
    lines = [] if fmt.packing is None else [_rule_of_thumb(count, fmt.packing.bits)]
    lines += [
        f"tensor by tensor: {stored / GB:,.2f} GB = {stored / GIB:,.2f} GiB, {stored * 8 / count:.2f} bit a parameter",
        f"on the fullest GPU of {row['tp']} × {row['pp']} (tp × pp): {interval(row, 'weights_gib')} GiB",
        "norms, routers and what the format excludes stay in 16 bit; what tp cannot divide is on every GPU",
    ]
    return Formula("Weights", tuple(lines), fmt.source or "the format's own layout", row["memory_evidence"])


def _rule_of_thumb(count: int, bits: float) -> str:
    return f"rule of thumb: {count / 1e9:,.2f} B parameters × {bits:g} bit / 8 = {count * bits / 8 / GB:,.1f} GB"


def _kv_token(row: EstimateRow, model: ModelSpec) -> Formula:
    found = [
        _mixer(row, mixer, model.mixer_layers(index) / (row["pp"] or 1)) for index, mixer in enumerate(model.mixers)
    ]
    given = row["kv_bytes_per_token"] or 0.0
    exact = given and abs(sum(size for size, _ in found) / given - 1) < CLOSE
    rest = "" if exact else ", with the engine's pages, windows and padding"
    lines = [line for _, line in found if line] + [f"together {given:,.0f} B for each token and GPU{rest}"]
    source = "config.json of the model; scaling-book ch. 7 for the form"
    return Formula("KV cache of one token", tuple(lines), source, row["memory_evidence"])


def _mixer(row: EstimateRow, mixer: Mixer, layers: float) -> tuple[float, str]:
    """Bytes that one token leaves in the layers of a mixer on one GPU, and the line that says why."""
    if not layers:
        return 0.0, ""
    k, v = format_catalog.kv_format(row["kv_format"])
    if isinstance(mixer, Attention) and not mixer.shares_kv:
        heads = max(mixer.n_kv_heads * (row["attention_dp"] or 1) / (row["tp"] or 1), 1)
        values = mixer.v_head_dim or mixer.head_dim
        more = k.head_bytes + v.head_bytes
        size = layers * heads * (mixer.head_dim * k.bytes_per_value + values * v.bytes_per_value + more)
        tail = f" + {more:g}" if more else ""
        each = f"({mixer.head_dim} × {k.bytes_per_value:g} + {values} × {v.bytes_per_value:g}{tail})"
        reach = f", at most {mixer.window or mixer.chunk:,} tokens" if mixer.window or mixer.chunk else ""
        return size, f"{layers:g} layers × {heads:g} KV heads × {each} B = {size:,.0f} B{reach}"
    if isinstance(mixer, LatentAttention):
        size = layers * (mixer.kv_lora_rank + mixer.qk_rope_head_dim) * k.bytes_per_value
        width = f"({mixer.kv_lora_rank} + {mixer.qk_rope_head_dim}) × {k.bytes_per_value:g}"
        return size, f"{layers:g} layers × {width} B = {size:,.0f} B, the same on every GPU of the group"
    return 0.0, _other_mixer(mixer, layers)


def _other_mixer(mixer: Mixer, layers: float) -> str:
    if isinstance(mixer, LinearAttention):
        return f"{layers:g} layers of linear attention: a fixed state for each sequence, nothing for each token"
    if isinstance(mixer, CompressedAttention):
        ratio = f"then one vector for {mixer.ratio} tokens" if mixer.ratio else "nothing beyond"
        return (
            f"{layers:g} layers of compressed attention: {mixer.head_dim} values in a window of {mixer.window}, {ratio}"
        )
    if isinstance(mixer, Attention):
        return f"{layers:g} layers read another layer's cache"
    return f"{layers:g} layers of state space: a fixed state for each sequence"


def _budget(row: EstimateRow, engine: EngineSpec) -> Formula:
    device, fraction, budget = (row[name] for name in ("device_gib", "gpu_memory_utilization", "budget_gib"))
    name = f"{engine.name} {engine.version}"
    match engine.budget.rule:
        case BudgetRule.TOTAL:
            line = f"{fraction:g} × {device:,.2f} GiB = {budget:,.2f} GiB: {name} takes a fraction of the whole card"
        case BudgetRule.FREE_BEFORE:
            line = f"{fraction:g} × what is free of {device:,.2f} GiB = {budget:,.2f} GiB: {name}, weights and pool"
        case BudgetRule.FREE_AFTER:
            line = f"{budget:,.2f} GiB are free; after loading, {name} gives {fraction:g} of the rest to the cache"
        case _:
            line = f"{name} takes what is free of {device:,.2f} GiB: {budget:,.2f} GiB"
    return Formula(
        "Memory budget of one GPU", (line, _device(row)), _constant(row, "budget.rule"), row["memory_evidence"]
    )


def _device(row: EstimateRow) -> str:
    size = f"{row['device_gib']:,.2f} GiB"
    try:
        known = gpus.profile(row["gpu"]).device_gib
    except PlannerError:
        return f"{size}: from the profile that was given"
    if known and math.isclose(known.value, row["device_gib"], rel_tol=1e-3):
        return f"{size} visible to programs: {known.kind.value}, {known.source}"
    return f"{size} visible to programs: as given, else by the rule of its memory type"


def _pool(row: EstimateRow, engine: EngineSpec) -> Formula:
    rule = engine.budget.rule
    parts = {"weights": row["weights_gib"], "context and libraries": row["non_torch_gib"]}
    if rule is not BudgetRule.FREE_BEFORE:
        parts["activations"] = row["activation_gib"]
    if rule in (BudgetRule.FREE_AFTER, BudgetRule.FREE) or engine.graphs.in_budget:
        parts["CUDA graphs"] = row["cuda_graph_gib"]
    left = row["budget_gib"] - sum(size or 0 for size in parts.values())
    terms = " − ".join(f"{size:,.2f} {name}" for name, size in parts.items() if size)
    share = ""
    if rule is BudgetRule.FREE_AFTER:
        share, left = f" × {row['gpu_memory_utilization']:g}", left * row["gpu_memory_utilization"]
    lines = [f"({row['budget_gib']:,.2f} budget − {terms}){share} = {left:,.2f} GiB"]
    pool = row["kv_pool_gib"] or 0.0
    if abs(left - pool) > max(CLOSE * abs(left), CLOSE):
        lines.append(f"of which the cache takes {pool:,.2f} GiB" if pool else "nothing is left for the cache")
    source = f"{_constant(row, 'activation.logits_bytes')}; {_constant(row, 'process.non_torch_gib')}"
    return Formula("KV pool of one GPU", tuple(lines), source, row["memory_evidence"])


def _room(row: EstimateRow) -> Formula:
    tokens, prompt, answer = row["kv_pool_tokens"], row["input_tokens"], row["output_tokens"]
    copies = (row["dp"] or 1) * (row["copies_per_gpu"] or 1)
    lines = []
    if tokens and prompt + answer:
        plain = math.floor(tokens / (prompt + answer)) * copies
        near = plain and abs(row["max_concurrency"] / plain - 1) <= 2 * CLOSE
        note = "" if near else "; blocks, windows and states change it to what is shown"
        times = f" × {copies} replicas" if copies > 1 else ""
        lines.append(f"{tokens:,} tokens in the pool / ({prompt:,} + {answer:,}){times} = {plain:,}{note}")
    expected = figure(row["max_concurrency_expected"])
    lines.append(
        f"room for {interval(row, 'max_concurrency')} requests at full length, {expected} at their mean length"
    )
    if row["kv_needed_gib"] is not None:
        lines.append(f"this load at full length: {row['kv_needed_gib']:,.2f} GiB of {row['kv_pool_gib'] or 0:,.2f} GiB")
    return Formula("Requests at once", tuple(lines), _constant(row, "cache.layout"), row["memory_evidence"])


def _observed(row: EstimateRow) -> str:
    """What observations of the engine on this GPU did to its times; blank without any."""
    if not row["observations"]:
        return ""
    decode, prefill = row["observed_decode_factor"], row["observed_prefill_factor"]
    return f" ({row['observations']} figures: steps x {decode:.2f}, prompts x {prefill:.2f})"


def _speed(row: EstimateRow) -> list[Formula]:
    evidence = f"operators: {row['speed_evidence']}; engine: {row['engine_evidence']}{_observed(row)}"
    source = "planner/data/efficiency.yaml (rates by generation), docs/equations.md (form)"
    rate, alone = figure(row["prefill_tokens_per_s"]), figure(row["ttft_unloaded_ms"])
    first = (
        f"prompt of {row['input_tokens']:,} tokens / {rate} tokens/s, and the engine's own time: {alone} ms alone",
        f"under this load, queueing included: {interval(row, 'ttft_ms')} ms",
    )
    out = [Formula("Time to first token (TTFT)", first, source, evidence)]
    if row["tpot_ms"]:
        out.append(Formula("Time per further token (TPOT)", _decode_lines(row), source, evidence))
        out.append(Formula("Whole server", _server_lines(row), "Little's law, docs/equations.md", evidence))
    if row["usd_per_million_output_tokens"]:
        out.append(
            Formula(
                "Cost",
                _cost_lines(row),
                "price as entered, else the profile's dated example",
                "an example, not a quotation",
            )
        )
    return out


def _decode_lines(row: EstimateRow) -> tuple[str, ...]:
    return (
        "one step = sum over its operations of start + ((bytes / B)^p + (FLOPs / F)^p)^(1/p), and the engine's time",
        f"mean time between tokens at this load, steps with others' prompts among them: {interval(row, 'tpot_ms')} ms",
        f"each user reads 1000 / {row['tpot_ms']:,.1f} = {row['output_tokens_per_s_per_request']:,.1f} tokens/s",
    )


def _server_lines(row: EstimateRow) -> tuple[str, ...]:
    running = row["requests_per_s"] * row["e2e_ms"] / MS_PER_S
    return (
        f"{running:,.1f} requests in flight / {row['e2e_ms'] / 1e3:,.2f} s = {row['requests_per_s']:,.3f} requests/s",
        f"× {row['output_tokens']:,} tokens = {interval(row, 'output_tokens_per_s')} tokens/s",
    )


def _cost_lines(row: EstimateRow) -> tuple[str, ...]:
    return (
        f"{row['n_gpus']} × {row['usd_per_gpu_hour'] or 0:,.2f} USD = {row['usd_per_hour']:,.2f} USD/h",
        f"{row['usd_per_million_output_tokens']:,.2f} USD for a million answer tokens, "
        f"{row['usd_per_million_input_tokens'] or 0:,.2f} for a million prompt tokens",
    )


def _constant(row: EstimateRow, name: str) -> str:
    """Source of an engine's constant."""
    found = (
        item.constant for item in engines.engine_constants(row["engine"], row["engine_version"]) if item.name == name
    )
    return next((f"{constant.source} ({constant.kind.value})" for constant in found), "planner/data/engines")
