"""Write planner/data/quality from rows of published scores: python docs/make_quality.py EVIDENCE.csv ...

`planner/data/quality/collected.csv` holds rows of the same form that were found later and are read with them.

A row states a score before and after quantizing, of one model on one test. Undocumented articles (trust D), rows over
a range of models and rows against another baseline than 16 bit or the release's own are left out. A loss that is
given as a part of the score counts as if the score were 100: no loss in points can be larger.
"""

from __future__ import annotations

import csv
import io
import math
import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import NamedTuple

from planner.catalog.files import write_atomically
from planner.catalog.models import model
from planner.catalog.paths import data_dir
from planner.catalog.quality import size_class, year
from planner.params import parameters

CLASSES = {  # of evidence, by how its rows name their format
    "fp8": r"FP8( W8A8| block RTN)?",
    "int8": r"(GPTQ )?INT8( W8A8| W8A16)?",
    "int4-awq": r"AWQ( INT4)?|INT4[- ](g128 )?AWQ",
    "int4-gptq": r"GPTQ INT4( g128 experts only)?|INT4 g128 GPTQ|W4A16 INT4( g128)?",
    "int4-rtn": r"INT4 g128 (RTN|HQQ)",
    "nvfp4": r"NVFP4( PTQ| RTN W4A4)?",
    "mxfp4": r"MXFP4 (RTN W4A4|AutoRound)",
    "int3": r"INT3 g128 (GPTQ|AWQ|RTN|HQQ)",
    "int2": r"INT2 g128 AutoRound",
    "gguf-q8_0": r"Q8_0",
    "gguf-q5_k_m": r"Q5_K_M",
    "gguf-q4_k_m": r"Q4_K_M( \(AutoRound-tuned\))?",
    "gguf-3bit": r"Q3_K_S \(AutoRound-tuned\)",
    "gguf-2bit": r"Q2_K_S \(AutoRound-tuned\)",
    "kv-fp8": r"KV fp8_e4m3",
    "kv-q8_0": r"KV q8_0",
    "kv-q4_0": r"KV q4_0",
}
FAMILIES = {
    "knowledge": "knowledge", "maths": "maths", "reasoning": "maths", "code": "code", "tools": "tools",
    "instruction": "chat", "chat": "chat", "long context": "long_context", "agents": "agents", "mixed": "mixed",
}  # fmt: skip
UNITS = {"acc %": False, "points": False, "recovery %": True, "relative %": True, "% relative": True}
OVERALL = ("knowledge", "maths", "code", "tools", "chat", "mixed")
BASELINES = ("BF16", "FP16", "F16", "FP8 (native)", "KV bf16", "KV f16")
FAULTY = "thinking output not stripped"  # a harness that scored 30 where 90 is usual
COLUMNS = "class family size n models median_points worst_points best_points relative_rows worst_case badge sources"
GOOD_SOURCES = GOOD_MODELS = FAIR_MODELS = 3
FAIR_SOURCES = 2
APART = 0.5  # doublings of parameters from which two models tell something of size


class Loss(NamedTuple):
    """Points that one model lost on one test."""

    model: str
    test: str
    points: float
    relative: bool
    source: str


Cells = dict[tuple[str, str, str], list[Loss]]


def cells(rows: Iterable[dict[str, str]]) -> Cells:
    """Losses by class, family and size."""
    found: Cells = defaultdict(list)
    for row in rows:
        name = next((key for key, form in CLASSES.items() if re.fullmatch(form, row["format"])), None)
        family = FAMILIES.get(row["task_family"])
        if not (name and family and row["delta_points"] and row["unit"] in UNITS and row["trust"] != "D"):
            continue
        if not re.fullmatch(r"[\d.]+", row["params_B"]) or row["baseline_format"] not in BASELINES:
            continue
        if FAULTY in row["note"]:
            continue
        if row["benchmark"] == "JSON schema validity rate":
            family = "schema"
        loss = Loss(row["model"], row["benchmark"], -float(row["delta_points"]), UNITS[row["unit"]], row["source"])
        size = size_class(float(row["params_B"]) * 1e9)
        if family != "mixed":
            found[name, family, size].append(loss)
        if family in OVERALL:
            found[name, "overall", size].append(loss)
    return found


def badge(losses: list[Loss]) -> str:
    """How far a cell carries: by its sources and models."""
    sources, models = len({one.source for one in losses}), len({one.model for one in losses})
    if sources >= GOOD_SOURCES and models >= GOOD_MODELS:
        return "good"
    return "fair" if models >= FAIR_MODELS or sources >= FAIR_SOURCES else "thin"


def line(key: tuple[str, str, str], losses: list[Loss]) -> list[str]:
    """A row of losses.csv."""
    points = [one.points for one in losses]
    worst = max(losses, key=lambda one: one.points)
    figures = (f"{value:.2f}" for value in (median(points), max(points), min(points)))
    counts = str(len(losses)), str(len({one.model for one in losses}))
    sources = " | ".join(sorted({one.source for one in losses}))
    return [*key, *counts, *figures, str(sum(one.relative for one in losses)),
            f"{worst.model}, {worst.test}", badge(losses), sources]  # fmt: skip


BUNDLED = {  # models that the evidence names otherwise
    "Llama-2-7B": "meta-llama/Llama-2-7b-hf", "Llama-2-13B": "meta-llama/Llama-2-13b-hf",
    "Llama-2-70B": "meta-llama/Llama-2-70b-hf", "Mistral-7B": "mistralai/Mistral-7B-v0.1",
    "Qwen-7B-Chat": "Qwen/Qwen-7B", "Qwen-14B-Chat": "Qwen/Qwen-14B", "Qwen-72B-Chat": "Qwen/Qwen-72B",
    "Qwen2-7B-Instruct": "Qwen/Qwen2-7B-Instruct", "Qwen2-72B-Instruct": "Qwen/Qwen2-72B-Instruct",
    "Qwen2-0.5B-Instruct": "Qwen/Qwen2-0.5B-Instruct", "Gemma-4-31B": "google/gemma-4-31B-it",
    "Gemma-4-26B-A4B": "google/gemma-4-26B-A4B", "Llama-3-8B": "meta-llama/Meta-Llama-3-8B-Instruct",
    "Llama-3-70B": "meta-llama/Meta-Llama-3-70B-Instruct",
}  # fmt: skip


def base_scores(rows: Iterable[dict[str, str]]) -> list[list[str]]:
    """Scores before quantizing of bundled models that share a source and a test with another."""
    found: dict[tuple[str, str, str], dict[str, str]] = defaultdict(dict)
    for row in rows:
        family, name = FAMILIES.get(row["task_family"]), BUNDLED.get(row["model"])
        if family and name and row["unit"] == "acc %" and row["baseline_format"] in BASELINES and row["baseline"]:
            found[row["source"], row["benchmark"], family][name] = row["baseline"]
    return [
        [name, family, test, score, source]
        for (source, test, family), scores in sorted(found.items())
        if len(scores) > 1
        for name, score in sorted(scores.items())
    ]


def points_per_doubling(lines: Iterable[list[str]]) -> float:
    """Median gain for each doubling of parameters between neighbours of one publisher, year, source and test."""
    tests: dict[tuple[str, ...], list[tuple[float, float]]] = defaultdict(list)
    for name, _, test, score, source in lines:
        key = name.partition("/")[0], str(year(name)), test, source
        tests[key].append((math.log2(parameters(model(name))), float(score)))
    pairs = [pair for points in tests.values() for pair in pairwise(sorted(points))]
    gains = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs if b[0] > a[0] + APART]
    return median(gains)


def text(header: str, lines: Iterable[list[str]]) -> str:
    """CSV text."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header.split())
    writer.writerows(lines)
    return out.getvalue()


def main(*paths: str) -> None:
    """Read the evidence, write losses.csv."""
    rows: list[dict[str, str]] = []
    for path in (*paths, data_dir() / "quality" / "collected.csv"):
        with Path(path).open(encoding="utf-8", newline="") as file:
            rows += csv.DictReader(file)
    found = cells(rows)
    order = [*CLASSES]
    keys = sorted(found, key=lambda key: (order.index(key[0]), *key[1:]))
    body = text(COLUMNS, (line(key, found[key]) for key in keys))
    write_atomically(data_dir() / "quality" / "losses.csv", body)
    scores = base_scores(rows)
    write_atomically(data_dir() / "quality" / "base_scores.csv", text("model family test score source", scores))
    sys.stdout.write(f"points for each doubling of parameters: {points_per_doubling(scores):.1f}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
