"""Single changes that make a deployment hold its load, hold more, answer sooner or cost less, the best first."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from planner.catalog import formats, gpus, models
from planner.catalog.engines import SERVERS
from planner.errors import PlannerError
from planner.estimate.columns import EstimateRow
from planner.explain.quality import in_short, kv_in_short
from planner.explain.words import (
    VERDICT_RANK,
    VERDICT_WORDS,
    answer_price,
    duration,
    figure,
    format_name,
    gpu_name,
    layout,
)
from planner.specs.scenario import Scenario
from planner.units import GIB

Estimator = Callable[[Sequence[Scenario]], list[EstimateRow]]

LARGER_GPUS = ("l40s", "a100-80-sxm", "h100-sxm", "h200-sxm", "b200")
DESK_GPUS = ("rtx5090", "rtxpro6000", "apple-m3-ultra")  # for those who have one on or under a desk
ON_GPU = (7 / 8, 3 / 4, 1 / 2, 1 / 4)  # parts of the layers to keep on a card that cannot hold all
LAYOUT = dict.fromkeys(("tp", "pp", "dp", "ep", "attention_dp"))
HOLDS = VERDICT_RANK["holds"]
WORTH = 1.1  # gain in room or speed from which a change is worth a line
FULLER = 0.95  # memory fraction to try: what is left holds the driver's own needs
SHARED = 0.5  # part of the prompt that all requests have in common, to show what a prefix cache would do
FEW_SEQUENCES, SMALL_CHUNK = 16, 2048  # what leaves an engine more for its cache
LEAST_PROMPT = 1024  # tokens from which a shorter or a shared prompt is worth a try
GAINS = (("max_concurrency", 1), ("output_tokens_per_s", 1), ("ttft_ms", -1), ("tpot_ms", -1))  # and what is better


class Change(NamedTuple):
    """One change of the scenario and what it would do."""

    label: str
    update: dict[str, Any]  # scenario columns to set
    effect: str
    verdict: str


class Proposal(NamedTuple):
    """A change to try; of those with the same `kind` only one is shown."""

    label: str
    update: dict[str, Any]
    kind: str


def proposals(row: EstimateRow) -> list[Proposal]:
    """Changes to try for a resolved row, the cheapest first: settings, then formats, then load, then hardware."""
    holds = VERDICT_RANK[row["verdict"]] >= HOLDS
    return _settings(row) + _formats(row) + _load(row, holds) + _hardware(row, holds)


def chosen(row: EstimateRow, tried: Sequence[Proposal], after: Sequence[EstimateRow], limit: int = 6) -> list[Change]:
    """Of the tried changes those that help, one of each kind, the most effective first.

    Of a kind the first that holds the load, else the first better. Effective is a better verdict, then what is
    gained for the same money, or number of GPUs where no price is known.
    """
    found: dict[str, tuple[Proposal, EstimateRow]] = {}
    for proposal, then in zip(tried, after, strict=True):
        if then["error"] is None and better(row, then) and not _repeats(proposal, then, found):
            known = found.get(proposal.kind)
            if known is None or VERDICT_RANK[known[1]["verdict"]] < HOLDS <= VERDICT_RANK[then["verdict"]]:
                found[proposal.kind] = proposal, then
    ordered = sorted(found.values(), key=lambda pair: _effectiveness(row, pair[1]), reverse=True)
    return [Change(item.label, item.update, effect(row, then), then["verdict"]) for item, then in ordered[:limit]]


def _repeats(proposal: Proposal, then: EstimateRow, before: dict[str, tuple[Proposal, EstimateRow]]) -> bool:
    """Whether one group over twice the GPUs is what the planner chooses of twice the GPUs anyway."""
    if proposal.kind != "tp" or "more" not in before:
        return False
    other = before["more"][1]
    return bool(other["n_gpus"] == then["n_gpus"] and layout(other) == layout(then))


def _effectiveness(before: EstimateRow, after: EstimateRow) -> tuple[float, ...]:
    price = "usd_per_hour" if before["usd_per_hour"] and after["usd_per_hour"] else "n_gpus"
    return VERDICT_RANK[after["verdict"]], _gain(before, after) / _ratio(after, before, price)


def _gain(before: EstimateRow, after: EstimateRow) -> float:
    """The largest factor by which a figure of the row gets better."""
    return max(_ratio(after, before, name) ** power for name, power in GAINS)


def changes(scenario: Scenario, row: EstimateRow, estimator: Estimator, limit: int = 6) -> list[Change]:
    """Single changes that improve this row, the most effective first."""
    tried = proposals(row)
    return chosen(row, tried, estimator([scenario.model_copy(update=item.update) for item in tried]), limit)


def _settings(row: EstimateRow) -> list[Proposal]:
    out = []
    if row["engine"] == "vllm" and row["enforce_eager"]:
        out.append(Proposal("CUDA graphs on", {"enforce_eager": None}, "graphs"))
    small = "q8_0" if row["engine"] == "llama.cpp" else "fp8"
    if row["kv_format"] in ("bf16", "fp16"):
        out.append(Proposal(f"KV cache in {small}", {"kv_format": small}, "kv"))
    if row["engine"] == "vllm" and (row["gpu_memory_utilization"] or 1) < FULLER:
        out.append(Proposal(f"memory fraction {FULLER:g}", {"gpu_memory_utilization": FULLER}, "fraction"))
    if row["engine"] in SERVERS and row["verdict"] == "no":
        fewer = {"max_num_seqs": FEW_SEQUENCES, "max_num_batched_tokens": SMALL_CHUNK}
        words = f"at most {FEW_SEQUENCES} sequences, {SMALL_CHUNK:,} tokens a step"
        out.append(Proposal(words, fewer, "less aside"))
        out.append(Proposal(f"{words}, no CUDA graphs", fewer | {"enforce_eager": True}, "less aside"))
    chunk = row["max_num_batched_tokens"] or 0
    if row["engine"] in SERVERS and row["verdict"] != "no" and chunk and row["input_tokens"] > chunk:
        out.append(Proposal(f"steps of {2 * chunk:,} tokens", {"max_num_batched_tokens": 2 * chunk}, "chunk"))
    most, asked = row["max_num_seqs"], row["concurrency"] or 0
    if row["engine"] in SERVERS and most and most * (row["dp"] or 1) < asked:
        out.append(Proposal(f"up to {asked:,} sequences at once", {"max_num_seqs": asked}, "sequences"))
    if (row["dp"] or 1) > 1 and row["engine"] in SERVERS:
        wider = {"tp": (row["tp"] or 1) * 2, "dp": None, "n_gpus": row["n_gpus"], "ep": None, "attention_dp": None}
        out.append(Proposal(f"tp {wider['tp']}, fewer replicas", wider, "tp"))
    return out


def _formats(row: EstimateRow) -> list[Proposal]:
    names: tuple[str, ...] = ("gguf-q8_0", "gguf-q4_k_m", "gguf-q3_k_m") if row["engine"] == "llama.cpp" else ()
    if row["engine"] in SERVERS:
        names = ("fp8", "int8-w8a8", "awq-int4-g128", "nvfp4")
    now = bits(row["weight_format"])
    small = [name for name in names if bits(name) < 0.8 * now]
    return [
        Proposal(f"weights in {format_name(name)}", {"weight_format": name}, f"format {bits(name):.0f}")
        for name in small
    ]


def _load(row: EstimateRow, holds: bool) -> list[Proposal]:
    out = []
    asked = row["concurrency"] or 0
    meets, room = (int(row[name] or 0) for name in ("sustainable_concurrency", "max_concurrency"))
    fewer = ([meets] if row["verdict"] != "meets_slo" else []) + ([] if holds else [room])
    out += [Proposal(f"at most {n:,} at once", {"concurrency": n}, "load") for n in fewer if 1 <= n < asked]
    if row["input_tokens"] > LEAST_PROMPT:
        half = row["input_tokens"] // 2
        out.append(Proposal(f"prompts of {half:,} tokens", {"input_tokens": half}, "prompt"))
        if row["engine"] in SERVERS and not (row["shared_prefix_tokens"] or row["cached_input_fraction"]):
            same = round(row["input_tokens"] * SHARED)
            label = f"prefix cache, if {same:,} tokens are the same in every prompt"
            out.append(Proposal(label, {"shared_prefix_tokens": same}, "prefix"))
    return out


def _hardware(row: EstimateRow, holds: bool) -> list[Proposal]:
    count, name = row["n_gpus"] or 1, gpu_name(row["gpu"])
    unified, desk = _at_home(row["gpu"])
    out = [] if unified or row["verdict"] != "no" else _layers(row)
    if holds and count > 1:
        out.append(Proposal(f"{count // 2} × {name}", {"n_gpus": count // 2} | LAYOUT, "fewer"))
    times = () if unified else (2,) if holds else (2, 4, 8)
    out += [Proposal(f"{count * n} × {name}", {"n_gpus": count * n} | LAYOUT, "more") for n in times]
    if row["engine"] in SERVERS and row["gpu"] and (row["dp"] or 1) == 1 and not unified:
        wide = {"tp": (row["tp"] or 1) * 2, "n_gpus": count * 2, "dp": None, "ep": None, "attention_dp": None}
        out.append(Proposal(f"{count * 2} × {name}, all in one replica", wide, "tp"))
    others = DESK_GPUS if desk else LARGER_GPUS
    larger = [other for other in others if gpus.gpu(other).device_bytes > 1.2 * row["device_gib"] * GIB]
    return out + [
        Proposal(f"{count} × {gpu_name(other)}", {"gpu": other, "device_gib": None, "usd_per_gpu_hour": None}, "gpu")
        for other in larger
    ]


def _at_home(name: str) -> tuple[bool, bool]:
    """Whether a GPU shares the memory of its computer, which cannot be doubled, and whether it stands on a desk."""
    try:
        spec = gpus.gpu(name)
    except PlannerError:  # a GPU that its caller brought along
        return False, False
    return spec.unified_memory, spec.unified_memory or spec.name.startswith("GeForce")


def _layers(row: EstimateRow) -> list[Proposal]:
    """Some layers in the memory of the host, as llama.cpp takes them; of a mixture their experts alone."""
    if row["engine"] != "llama.cpp" or row["n_gpu_layers"] is not None or row["n_cpu_moe"] is not None:
        return []
    try:
        model = models.model(row["model"])
    except PlannerError:  # a model that its caller brought along
        return []
    total = model.n_layers
    kept = [math.floor(total * part) for part in ON_GPU]
    if model.has_experts:
        moved = [total - n for n in (*kept, 0)]
        words = "experts of {} of {} layers in host memory"
        return [Proposal(words.format(n, total), {"n_cpu_moe": n}, "layers") for n in moved]
    return [Proposal(f"{n} of {total} layers on the GPU", {"n_gpu_layers": n}, "layers") for n in kept]


def bits(name: str) -> float:
    """Bits of one quantized value, scales and zero points left out; inf for an unknown format."""
    try:
        spec = formats.weight_format(name)
    except PlannerError:
        return math.inf
    if spec.packing:
        return spec.packing.bits
    return spec.gguf.base.block_bytes * 8 / spec.gguf.base.elements if spec.gguf else 16.0


def better(before: EstimateRow, after: EstimateRow) -> bool:
    """Whether a change helps: a better verdict, more room or speed, or the same verdict on fewer GPUs."""
    ranks = VERDICT_RANK[before["verdict"]], VERDICT_RANK[after["verdict"]]
    if ranks[0] != ranks[1]:
        return ranks[1] > ranks[0]
    if ranks[0] == 0 or after["support"] == "emulated":
        return False
    if (after["n_gpus"] or 1) < (before["n_gpus"] or 1):
        return ranks[0] >= HOLDS
    return _gain(before, after) > WORTH


def _ratio(after: EstimateRow, before: EstimateRow, name: str) -> float:
    return after[name] / before[name] if before[name] and after[name] else 1.0


def effect(before: EstimateRow, after: EstimateRow) -> str:
    """What changes in memory, speed, quality and cost, in a phrase."""
    parts = [VERDICT_WORDS[after["verdict"]].lower()] if before["verdict"] != after["verdict"] else []
    parts += [layout(after)] if layout(after) != layout(before) else []
    if after["max_concurrency"]:
        parts.append(
            _step(before, after, "max_concurrency", "room for {}") or f"room for {figure(after['max_concurrency'])}"
        )
    parts.append(_step(before, after, "output_tokens_per_s", "{} tok/s"))
    if (_ratio(before, after, "ttft_ms")) > WORTH:
        first, then = duration(before, "ttft_ms")[0], duration(after, "ttft_ms")[0]
        parts.append(f"first token {first} → {then}" if first != then else "")
    if (
        before["quality_loss_points"] != after["quality_loss_points"]
        or after["weight_format"] != before["weight_format"]
    ):
        parts.append(f"quality: {in_short(after)}")
    if before["kv_format"] != after["kv_format"]:
        parts.append(f"quality with this cache: {kv_in_short(after)}")
    first, then = answer_price(before)[0], answer_price(after)[0]
    if first and then:
        parts.append(f"{first} → {then} USD/M tokens" if first != then else "")
    else:
        hour, hours = (f"{row['usd_per_hour'] or 0:,.2f}" for row in (before, after))
        parts.append(
            f"{hour} → {hours} USD/h" if before["usd_per_hour"] and after["usd_per_hour"] and hour != hours else ""
        )
    return " · ".join(part for part in parts if part)


def _step(before: EstimateRow, after: EstimateRow, name: str, words: str) -> str:
    """before → after, after alone where nothing ran before, blank where both read the same."""
    first, then = (
        figure(row[name], row.get(f"{name}_low"), row.get(f"{name}_high")) if row[name] else ""
        for row in (before, after)
    )
    if not then or first == then:
        return ""
    return words.format(f"{first} → {then}" if first else then)
