"""The README's table of predictions and what its commands print: `python docs/make_readme.py` (make docs)."""

from __future__ import annotations

import io
import re
import shlex
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

import planner
from planner.catalog.files import write_atomically
from planner.cli.main import run

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- prediction:begin -->", "<!-- prediction:end -->"
CONSOLE = re.compile(r"```console\n\$ planner (.*)\n[^`]*```")
MOST_LINES = 16  # of what a command prints; of more only the first paragraphs


class Case(NamedTuple):
    """A measured deployment, its conditions in words, and its figures: column -> (words, measured value)."""

    scenario: planner.Scenario
    conditions: str
    figures: dict[str, tuple[str, float]]


CASES = (
    Case(
        planner.Scenario(
            model="Qwen/Qwen3-235B-A22B-FP8",
            gpu="h100-sxm",
            tp=8,
            engine="vllm",
            engine_version="0.10.0",
            kv_format="fp8",
            max_model_len=32768,
            max_num_batched_tokens=8192,
        ),
        "Qwen3-235B-A22B-FP8 on 8 × H100 SXM, tp 8, FP8 KV cache, vLLM 0.10.0: what its start-up log printed "
        "(DaisukeTakai/eval_dataset@0577085, vllm_judge.log)",
        {
            "weights_gib": ("weights per GPU, GiB", 27.6656),
            "kv_pool_tokens": ("tokens in the KV cache", 1_594_928),
            "max_concurrency_at_max_model_len": ("requests of 32,768 tokens at once", 48.67),
        },
    ),
    Case(
        planner.Scenario(
            model="openai/gpt-oss-120b",
            gpu="h100-sxm",
            tp=2,
            engine="vllm",
            engine_version="0.18.0",
            input_tokens=922,
            output_tokens=922,
            concurrency=32,
        ),
        "gpt-oss-120b on 2 × H100 SXM, tp 2, vLLM 0.18.0, 32 requests at once of 922 + 922 tokens: means of 2026-03-27 "
        "(InferenceX sweeps in ai-dynamo/aiconfigurator, Apache-2.0)",
        {"ttft_ms": ("time to first token, ms", 119.36), "tpot_ms": ("time per output token, ms", 10.94)},
    ),
)


def table() -> str:
    """The table as Markdown, and under it the conditions of its rows."""
    lines = ["| | predicted | 80 % interval | measured |", "|---|---:|---:|---:|"]
    rows = planner.estimate([case.scenario for case in CASES]).rows()
    for number, (case, row) in enumerate(zip(CASES, rows, strict=True), 1):
        for column, (words, measured) in case.figures.items():
            low, high = row.get(f"{column}_low"), row.get(f"{column}_high")
            interval = "" if low is None or high is None else f"{_figure(low)} to {_figure(high)}"
            lines.append(f"| ({number}) {words} | {_figure(row[column])} | {interval} | {_figure(measured)} |")
    notes = [f"({number}) {case.conditions}." for number, case in enumerate(CASES, 1)]
    return "\n".join([*lines, "", *notes, "Every measured row: `planner accuracy`."])


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def printed(command: str) -> str:
    """What a command prints: whole paragraphs, as many as stay short."""
    out = io.StringIO()
    with redirect_stdout(out):
        if run(shlex.split(command)):
            raise SystemExit(f"the README's command fails: planner {command}")
    lines = [line.rstrip() for line in out.getvalue().strip("\n").splitlines()]
    ends = [index for index, line in enumerate(lines) if not line] + [len(lines)]
    kept = max((end for end in ends if end <= MOST_LINES), default=MOST_LINES)
    whole = "\n".join(lines[:kept]).rstrip("\n")
    return whole if kept == len(lines) else f"{whole}\n..."


def readme() -> str:
    """The README with its table and its commands' output as they should be."""
    text = README.read_text("utf-8")
    head, tail = text.split(BEGIN)[0], text.split(END)[1]
    tail = CONSOLE.sub(lambda found: f"```console\n$ planner {found[1]}\n{printed(found[1])}\n```", tail)
    return f"{head}{BEGIN}\n{table()}\n{END}{tail}"


if __name__ == "__main__":
    write_atomically(README, readme())
