"""Two to six scenarios side by side: what they are called, how they differ, what they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
import streamlit as st

from answerbox import BOUND
from defaults import offered_formats, usual
from library import released_format
from links import MAX_PINS, Form
from planner import explain
from planner.estimate import Library
from planner.estimate.columns import EstimateRow
from planner.explain.quality import badge
from planner.specs.formats import Level
from planner.specs.scenario import Scenario
from state import change
from words import COMMON_GPUS, LEVELS

VIEWS = {"pins": "Pinned scenarios", "formats": "Formats", "gpus": "GPUs"}
INPUTS = {
    "model": "Model",
    "weight_format": "Weights",
    "kv_format": "KV cache",
    "engine": "Engine",
    "engine_version": "Version",
    "gpu": "GPU",
    "n_gpus": "GPUs",
    "tp": "tp",
    "pp": "pp",
    "dp": "Replicas",
    "concurrency": "At once",
    "users": "Users",
    "request_rate_per_s": "Requests/s",
    "input_tokens": "Prompt, tokens",
    "output_tokens": "Answer, tokens",
    "gpu_memory_utilization": "Memory fraction",
    "max_model_len": "Longest sequence",
    "max_num_seqs": "Most sequences",
    "max_num_batched_tokens": "Most tokens per step",
    "usd_per_gpu_hour": "USD per GPU and hour",
}
MISSES = "Misses an objective"
BASIS = {"measured": "this GPU", "reference": "published", "datasheet": "datasheet"}
ONE_DECIMAL = ("weights_gib", "kv_pool_gib", "kv_needed_gib")
ANSWERS = {
    "verdict": "Verdict",
    "max_concurrency": "Room, requests",
    "output_tokens_per_s_per_request": "Each user, tok/s",
    "ttft_ms": "First token",
    "tpot_ms": "Between tokens, ms",
    "output_tokens_per_s": "Whole server, tok/s",
    "bound": "Limited by",
    "weights_gib": "Weights, GiB/GPU",
    "kv_pool_gib": "KV pool, GiB/GPU",
    "kv_needed_gib": "KV needed, GiB/GPU",
    "usd_per_hour": "USD per hour",
    "usd_per_million_output_tokens": "USD per M answer tokens",
    "quality_loss_points": "Quality lost, points",
    "quality_evidence": "Evidence of quality",
    "support": "Support",
    "speed_evidence": "Speed from",
    "memory_evidence": "Memory from",
}
SAID: Mapping[str, Callable[[Any], str]] = {  # how values of a column are said, where not as they are
    "support": lambda level: LEVELS[Level(level)],
    "verdict": explain.VERDICT_WORDS.__getitem__,
    "weight_format": explain.format_name,
    "gpu": explain.gpu_name,
    "bound": lambda name: BOUND.get(name, (name, ""))[0],
    "usd_per_hour": "{:,.2f}".format,
    "usd_per_gpu_hour": "{:,.2f}".format,
    "quality_loss_points": "{:.1f}".format,
    "quality_evidence": lambda name: (
        "none" if name == "none" else badge(name).partition(",")[0].removesuffix(" evidence")
    ),
    "speed_evidence": BASIS.__getitem__,
    "memory_evidence": BASIS.__getitem__,
}
COMPARED = frozenset(
    "bf16 fp8 int8-w8a8 awq-int4-g128 nvfp4 mxfp4 bnb-nf4 mlx-4bit-g64 mlx-8bit-g64 gguf-f16 gguf-q8_0 gguf-q6_k "
    "gguf-q5_k_m gguf-q4_k_m gguf-iq4_xs gguf-q3_k_m gguf-q2_k".split()
)  # one of each kind
FORMATS_SHOWN, MOST_GPUS = 8, 9
CHARACTER_PX = 7  # of a table's text, about
WITH_INTERVALS = 4  # columns of a table that leave room for them


class Variant(NamedTuple):
    """A scenario under the name that its column carries."""

    label: str
    scenario: Scenario


def variants(view: str, form: Form, library: Library, others: Sequence[str] = ()) -> list[Variant]:
    """What a view compares; `others` are the GPUs beside the scenario's own, else the common ones."""
    s = form.scenario
    if view == "formats":
        names = offered_formats(s.engine or "vllm", library.gpu(s.gpu or ""), released_format(library, s.model or ""))
        kept = [name for name in names if name in COMPARED or name in (names[0], s.weight_format)]
        return [
            Variant(explain.format_name(n), s.model_copy(update={"weight_format": n})) for n in kept[:FORMATS_SHOWN]
        ]
    if view == "gpus":
        return [_on(name, s, library) for name in dict.fromkeys((s.gpu or "", *(others or COMMON_GPUS[:MOST_GPUS])))]
    return [Variant(f"{number}: {name}", pin) for number, (name, pin) in enumerate(_named(form.pins), 1)]


def _on(gpu: str, s: Scenario, library: Library) -> Variant:
    """The scenario on another GPU, in the format that is usual there when its own does not run."""
    spec = library.gpu(gpu)
    update: dict[str, Any] = {"gpu": gpu, "device_gib": None, "usd_per_gpu_hour": None}
    own = released_format(library, s.model or "")
    if s.weight_format not in offered_formats(s.engine or "vllm", spec, own):
        settings = usual(library.model(s.model or ""), own, spec, s.engine)
        update |= {"weight_format": settings["weight_format"]}
    return Variant(explain.gpu_name(gpu), s.model_copy(update=update))


def _named(pins: Sequence[Scenario]) -> list[tuple[str, Scenario]]:
    """Pins under what tells them apart; all their parts where nothing does."""
    parts = [_parts(pin) for pin in pins]
    told = list(range(len(parts[0]))) if parts else []
    apart = [at for at in told if len({part[at] for part in parts}) > 1] or told
    return [(", ".join(part[at] for at in apart), pin) for part, pin in zip(parts, pins, strict=True)]


def _parts(pin: Scenario) -> tuple[str, ...]:
    kind = explain.format_name(pin.weight_format) if pin.weight_format else "own format"
    load = f"{pin.concurrency or 1:,} at once"
    if pin.request_rate_per_s or pin.users:
        load = f"{pin.request_rate_per_s:g} requests/s" if pin.request_rate_per_s else f"{pin.users:,} users"
    gpus = f"{pin.n_gpus or 1} × {explain.gpu_name(pin.gpu or '')}"
    return explain.model_name(pin.model), kind, gpus, load


def pin_current() -> None:
    """For callbacks: the current scenario is pinned."""
    change(lambda form: form._replace(pins=(*form.pins, form.scenario)[:MAX_PINS]))


def unpin(number: int) -> None:
    """For callbacks: one pin goes."""
    change(lambda form: form._replace(pins=form.pins[:number] + form.pins[number + 1 :]))


def difference_table(labels: Sequence[str], rows: Sequence[EstimateRow]) -> None:
    """Inputs that differ, then answers that differ; a column for each scenario."""
    names = [name for name in (*INPUTS, *ANSWERS) if _differs(rows, name) and not _is_label(labels, rows, name)]
    words = INPUTS | ANSWERS
    lines = [
        {"": words[name]}
        | {label: _shown(row, name, len(rows) <= WITH_INTERVALS) for label, row in zip(labels, rows, strict=True)}
        for name in names
    ]
    faults = [f"{label}: {row['error']}" for label, row in zip(labels, rows, strict=True) if row["error"]]
    if lines:
        st.space("xsmall")  # where fingers point, the tools of a table stand above it
        st.dataframe(
            pd.DataFrame(lines),
            hide_index=True,
            height="content",
            column_config=_columns(labels),
            alt="What differs between the scenarios, inputs first",
        )
    for fault in faults:
        st.text(fault)


def _columns(labels: Sequence[str]) -> dict[str, Any]:
    """The names stay in sight; each scenario is wide enough for its words and scrolls."""
    words = max(len(text) for text in (INPUTS | ANSWERS).values())
    columns: dict[str, Any] = {"": st.column_config.TextColumn("Differs in", pinned=True, width=CHARACTER_PX * words)}
    longest = max(len(BOUND[name][0]) for name in BOUND)
    for label in labels:
        short = label if len(labels) <= WITH_INTERVALS else label.partition(",")[0]
        width = CHARACTER_PX * max(longest, len(short) + 2)  # a header has more room around it
        columns[label] = st.column_config.TextColumn(short, alignment="right", width=width, help=label)
    return columns


def same_table(rows: Sequence[EstimateRow]) -> None:
    """What all scenarios share."""
    words = INPUTS | ANSWERS
    lines = [
        {"": words[name], "all": _shown(rows[0], name)}
        for name in words
        if not _differs(rows, name) and rows[0][name] is not None
    ]
    st.dataframe(pd.DataFrame(lines), hide_index=True, alt="What is the same in all scenarios")


def _is_label(labels: Sequence[str], rows: Sequence[EstimateRow], name: str) -> bool:
    """Whether a line would only repeat the names of the columns."""
    return all(_shown(row, name) == label for label, row in zip(labels, rows, strict=True))


def _differs(rows: Sequence[EstimateRow], name: str) -> bool:
    return len({_shown(row, name) for row in rows}) > 1


def _shown(row: EstimateRow, name: str, ends: bool = False) -> str:
    """A value in words; with `ends`, its interval too."""
    value = row[name]
    if value is None:
        return "–"
    if name == "verdict" and explain.misses(row):
        return MISSES
    if name == "usd_per_million_output_tokens":
        return explain.answer_price(row)[0] or "–"
    if name in SAID:
        return SAID[name](value)
    if name == "ttft_ms":
        text, span = explain.duration(row, name)
        return f"{text} ({span})" if ends and span else text
    if name in ONE_DECIMAL and not ends:
        return f"{value:,.1f}"
    if isinstance(value, str):
        return value
    if isinstance(value, int) and name in INPUTS:
        return f"{value:,}"
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return explain.interval(row, name) if ends else explain.figure(value, low, high)
