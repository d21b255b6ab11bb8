"""The cheapest single changes that make a deployment hold its load, hold more, or cost less."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from planner.catalog import formats, gpus
from planner.errors import PlannerError
from planner.explain.words import VERDICT_RANK, VERDICT_WORDS, Row, figure, format_name
from planner.specs.scenario import Scenario
from planner.units import GIB

Estimator = Callable[[Sequence[Scenario]], list[Row]]

LARGER_GPUS = ("l40s", "a100-80-sxm", "h100-sxm", "h200-sxm", "b200")
LAYOUT = dict.fromkeys(("tp", "pp", "dp", "ep", "attention_dp"))
HOLDS = VERDICT_RANK["holds"]
WORTH = 1.1  # gain in room or speed from which a change is worth a line


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


def proposals(row: Row) -> list[Proposal]:
    """Changes to try for a resolved row, the cheapest first: settings, then formats, then load, then hardware."""
    holds = VERDICT_RANK[row["verdict"]] >= HOLDS
    found = _settings(row) + _formats(row)
    if not holds:
        found += _smaller_load(row)
    return found + _hardware(row, holds)


def chosen(row: Row, tried: Sequence[Proposal], after: Sequence[Row], limit: int = 6) -> list[Change]:
    """Of the tried changes those that help, one of each kind: the first that holds the load, else the first better."""
    found: dict[str, tuple[Proposal, Row]] = {}
    for proposal, then in zip(tried, after, strict=True):
        if then["error"] is None and better(row, then):
            known = found.get(proposal.kind)
            if known is None or VERDICT_RANK[known[1]["verdict"]] < HOLDS <= VERDICT_RANK[then["verdict"]]:
                found[proposal.kind] = proposal, then
    out = [Change(item.label, item.update, effect(row, then), then["verdict"]) for item, then in found.values()]
    return out[:limit]


def changes(scenario: Scenario, row: Row, estimator: Estimator, limit: int = 6) -> list[Change]:
    """Single changes that improve this row, the cheapest first."""
    tried = proposals(row)
    return chosen(row, tried, estimator([scenario.model_copy(update=item.update) for item in tried]), limit)


def _settings(row: Row) -> list[Proposal]:
    out = []
    if row["engine"] == "vllm" and row["enforce_eager"]:
        out.append(Proposal("CUDA graphs on", {"enforce_eager": None}, "graphs"))
    small = "q8_0" if row["engine"] == "llama.cpp" else "fp8"
    if row["kv_format"] in ("bf16", "fp16"):
        out.append(Proposal(f"KV cache in {small}", {"kv_format": small}, "kv"))
    return out


def _formats(row: Row) -> list[Proposal]:
    names: tuple[str, ...] = ("gguf-q8_0", "gguf-q4_k_m", "gguf-q3_k_m") if row["engine"] == "llama.cpp" else ()
    if row["engine"] in ("vllm", "sglang", "tensorrt-llm"):
        names = ("fp8", "int8-w8a8", "awq-int4-g128", "nvfp4")
    now = bits(row["weight_format"])
    small = [name for name in names if bits(name) < 0.8 * now]
    return [
        Proposal(f"weights in {format_name(name)}", {"weight_format": name}, f"format {bits(name):.0f}")
        for name in small
    ]


def _smaller_load(row: Row) -> list[Proposal]:
    out = []
    room = int(row["max_concurrency"] or 0)
    if room >= 1 and row["concurrency"] and room < row["concurrency"]:
        out.append(Proposal(f"at most {room:,} at once", {"concurrency": room}, "load"))
    if row["input_tokens"] > 1024:
        half = row["input_tokens"] // 2
        out.append(Proposal(f"prompts of {half:,} tokens", {"input_tokens": half}, "prompt"))
    return out


def _hardware(row: Row, holds: bool) -> list[Proposal]:
    count = row["n_gpus"] or 1
    out = []
    if holds and count > 1:
        out.append(Proposal(f"{count // 2} GPU{'s' if count > 3 else ''}", {"n_gpus": count // 2} | LAYOUT, "fewer"))
    times = (2,) if holds else (2, 4, 8)
    out += [Proposal(f"{count * n} GPUs", {"n_gpus": count * n} | LAYOUT, "more") for n in times]
    larger = [name for name in LARGER_GPUS if gpus.gpu(name).device_bytes > 1.2 * row["device_gib"] * GIB]
    return out + [
        Proposal(gpus.gpu(name).name, {"gpu": name, "device_gib": None, "usd_per_gpu_hour": None}, "gpu")
        for name in larger
    ]


def bits(name: str) -> float:
    """Bits of one quantized value, scales and zero points left out; inf for an unknown format."""
    try:
        spec = formats.weight_format(name)
    except PlannerError:
        return math.inf
    if spec.packing:
        return spec.packing.bits
    return spec.gguf.base.block_bytes * 8 / spec.gguf.base.elements if spec.gguf else 16.0


def better(before: Row, after: Row) -> bool:
    """Whether a change helps: a better verdict, more room or speed, or the same verdict on fewer GPUs."""
    ranks = VERDICT_RANK[before["verdict"]], VERDICT_RANK[after["verdict"]]
    if ranks[0] != ranks[1]:
        return ranks[1] > ranks[0]
    if ranks[0] == 0 or after["support"] == "emulated":
        return False
    if (after["n_gpus"] or 1) < (before["n_gpus"] or 1):
        return ranks[0] >= HOLDS
    gain = max(_ratio(after, before, "max_concurrency"), _ratio(after, before, "output_tokens_per_s"))
    return gain > WORTH


def _ratio(after: Row, before: Row, name: str) -> float:
    return (after[name] or 0) / before[name] if before[name] else 1.0


def effect(before: Row, after: Row) -> str:
    """What changes, in a phrase."""
    parts = [VERDICT_WORDS[after["verdict"]].lower()] if before["verdict"] != after["verdict"] else []
    if before["max_concurrency"] and after["max_concurrency"]:
        parts.append(f"room {figure(before['max_concurrency'])} → {figure(after['max_concurrency'])}")
    elif after["max_concurrency"]:
        parts.append(f"room for {figure(after['max_concurrency'])}")
    if before["output_tokens_per_s"] and after["output_tokens_per_s"]:
        parts.append(f"{figure(before['output_tokens_per_s'])} → {figure(after['output_tokens_per_s'])} tok/s")
    if before["usd_per_hour"] and after["usd_per_hour"] and before["usd_per_hour"] != after["usd_per_hour"]:
        parts.append(f"{before['usd_per_hour']:.2f} → {after['usd_per_hour']:.2f} $/h")
    return " · ".join(parts)
