"""What an estimate means, in words: the verdict, its margin, and the cheapest changes that improve it.

Everything here reads rows of `Estimate.rows()`; the only arithmetic is choosing what to say.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from planner.catalog import formats, gpus
from planner.errors import PlannerError
from planner.estimate import estimate
from planner.specs.scenario import Scenario

VERDICT_RANK = {"no": 0, "starts": 1, "queues": 2, "holds": 3, "meets_slo": 4}
VERDICT_WORDS = {
    "no": "Does not start",
    "starts": "Starts, for one at a time",
    "queues": "Queues",
    "holds": "Holds the load",
    "meets_slo": "Meets your objectives",
}
LARGER_GPUS = ("l40s", "a100-80-sxm", "h100-sxm", "h200-sxm", "b200")


class Verdict(NamedTuple):
    """The answer first: a state, its headline and one sentence with the margin."""

    state: str
    headline: str
    sentence: str


class Change(NamedTuple):
    """One change of the scenario and what it would do."""

    label: str
    update: dict[str, Any]  # scenario columns to set
    effect: str
    verdict: str


def figure(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """A number with as many digits as its interval deserves: half the width decides the last digit shown."""
    if value is None or not math.isfinite(value):
        return "–"
    width = abs((high or value) - (low or value)) / 2 if low is not None and high is not None else abs(value) / 100
    digits = max(0, -math.floor(math.log10(width))) if width > 0 else 0
    step = 10 ** max(0, math.floor(math.log10(width))) if width >= 1 else 1
    return f"{round(value / step) * step:,.{min(digits, 3)}f}"


def verdict(row: dict[str, Any]) -> Verdict:
    """The verdict of one row with its margin. The words are those of the page, the report and the CLI."""
    state = row["verdict"]
    headline = VERDICT_WORDS[state]
    if row["fit_confidence"] == "tight":
        headline += " – tight: likely, not certain"
    elif state in ("holds", "meets_slo") and row["kv_occupancy"] is not None and row["kv_occupancy"] < 0.7:
        headline += ", with room"
    return Verdict(state, headline + ".", f"{deployment(row)} {_margin(row)}")


def deployment(row: dict[str, Any]) -> str:
    """Model, format, GPUs and engine of a row in one phrase."""
    count = row["n_gpus"] or 1
    split = [f"{name} {row[name]}" for name in ("tp", "pp", "ep", "attention_dp") if (row[name] or 1) > 1]
    replicas = f"{row['dp']} replicas" if (row["dp"] or 1) > 1 else ""
    how = ", ".join(filter(None, [replicas, *split, f"{row['engine']} {row['engine_version']}"]))
    return f"{row['model']} in {row['weight_format']} on {count} × {gpus.gpu(row['gpu']).name} ({how})"


def _margin(row: dict[str, Any]) -> str:
    lengths = f"{row['input_tokens']:,} + {row['output_tokens']:,} tokens"
    asked = row["concurrency"]
    room = interval(row, "max_concurrency")
    match row["verdict"]:
        case "no":
            return f"does not start: {row['reason']}."
        case "starts":
            return f"holds one request of {lengths} at a time; {asked:,} were asked for."
        case "queues":
            return f"holds {room} requests of {lengths}; {row['reason']}."
        case _:
            return f"keeps {asked:,} requests of {lengths}; room for {room}."


def interval(row: dict[str, Any], name: str) -> str:
    """A column with its 80 % interval: 74 (61–88)."""
    value, low, high = row[name], row.get(f"{name}_low"), row.get(f"{name}_high")
    text = figure(value, low, high)
    return text if low is None or high is None else f"{text} ({figure(low, low, high)}–{figure(high, low, high)})"


def changes(scenario: Scenario, row: dict[str, Any], limit: int = 6) -> list[Change]:
    """Single changes that improve this row, the cheapest first: settings, then formats, then hardware."""
    proposals = [(label, update) for label, update in _proposals(row) if _known(scenario, update)]
    if not proposals:
        return []
    variants = [scenario.model_copy(update=update) for _, update in proposals]
    found = []
    for (label, update), after in zip(proposals, estimate(variants).rows(), strict=True):
        if after["error"] is None and _better(row, after):
            found.append(Change(label, update, _effect(row, after), after["verdict"]))
    return found[:limit]


def _known(scenario: Scenario, update: dict[str, Any]) -> bool:
    return any(getattr(scenario, name) != value for name, value in update.items())


def _proposals(row: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    llama_cpp = row["engine"] == "llama.cpp"
    small_kv = "q8_0" if llama_cpp else "fp8"
    out: list[tuple[str, dict[str, Any]]] = []
    if row["kv_format"] in ("bf16", "fp16"):
        out.append((f"KV cache in {small_kv}", {"kv_format": small_kv}))
    for name in ("gguf-q8_0", "gguf-q4_k_m") if llama_cpp else ("fp8", "int8-w8a8", "awq-int4-g128"):
        if row["weight_format"] != name and _smaller(name, row["weight_format"]):
            out.append((f"weights in {name}", {"weight_format": name}))
    if row["verdict"] in ("starts", "queues") and (row["max_concurrency"] or 0) >= 1 and row["concurrency"]:
        least = int(row["max_concurrency"] * (row["dp"] or 1))
        out.append((f"at most {least:,} requests at once", {"concurrency": least}))
    if row["input_tokens"] > 1024:
        out.append((f"prompts of {row['input_tokens'] // 2:,} tokens", {"input_tokens": row["input_tokens"] // 2}))
    more = 2 * (row["n_gpus"] or 1)
    out.append((f"{more} GPUs", {"n_gpus": more, "tp": None, "pp": None, "dp": None, "ep": None, "attention_dp": None}))
    here = gpus.gpu(row["gpu"]).device_bytes
    out += [(gpus.gpu(name).name, {"gpu": name, "device_gib": None}) for name in LARGER_GPUS if _larger(name, here)]
    return out


def _larger(name: str, device_bytes: float) -> bool:
    return gpus.gpu(name).device_bytes > 1.2 * device_bytes


def _smaller(name: str, than: str) -> bool:
    try:
        return formats.nominal_bits(name) < 0.8 * formats.nominal_bits(than)
    except PlannerError:
        return False


def _better(before: dict[str, Any], after: dict[str, Any]) -> bool:
    if VERDICT_RANK[after["verdict"]] != VERDICT_RANK[before["verdict"]]:
        return VERDICT_RANK[after["verdict"]] > VERDICT_RANK[before["verdict"]]
    if before["verdict"] == "no":
        return False
    gain = max(_ratio(after, before, "max_concurrency"), _ratio(after, before, "output_tokens_per_s"))
    return gain > 1.1


def _ratio(after: dict[str, Any], before: dict[str, Any], name: str) -> float:
    return (after[name] or 0) / before[name] if before[name] else math.inf


def _effect(before: dict[str, Any], after: dict[str, Any]) -> str:
    parts = [f"room {figure(before['max_concurrency'])} → {figure(after['max_concurrency'])}"]
    if before["output_tokens_per_s"] and after["output_tokens_per_s"]:
        parts.append(f"{figure(before['output_tokens_per_s'])} → {figure(after['output_tokens_per_s'])} tokens/s")
    if before["verdict"] != after["verdict"]:
        parts.insert(0, VERDICT_WORDS[after["verdict"]].lower())
    return ", ".join(parts)
