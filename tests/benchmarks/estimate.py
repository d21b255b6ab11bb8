"""How long estimates take: `python -m tests.benchmarks.estimate`.

Prints figures, asserts none: 10,000 mixed scenarios from CSV to CSV as a process, a scenario from flags as a
process, one warm estimate, and 100,000 scenarios in one call.
"""

from __future__ import annotations

import csv
import io
import itertools
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from planner import estimate
from planner.catalog.scenarios import parse_scenarios
from planner.specs.scenario import Scenario

ROOT = Path(__file__).resolve().parents[2]
ROWS = 10_000
MANY = 100_000
SERVED = (  # models, their formats, engines and cards that serve them
    (
        "meta-llama/Llama-3.1-8B-Instruct Qwen/Qwen3-32B Qwen/Qwen3-30B-A3B meta-llama/Llama-3.3-70B-Instruct".split(),
        "bf16 fp8 awq-int4-g128 int8-w8a8".split(),
        "vllm sglang tensorrt-llm".split(),
        "h100-sxm h200-sxm a100-80-sxm l40s b200 rtxpro6000".split(),
    ),
    (
        "deepseek-ai/DeepSeek-R1 openai/gpt-oss-120b Qwen/Qwen3.5-397B-A17B zai-org/GLM-4.5-Air".split(),
        ["", "nvfp4"],
        "vllm sglang".split(),
        "b200 h200-sxm".split(),
    ),
    (
        "google/gemma-3-12b-it Qwen/Qwen3-8B microsoft/phi-4 mistralai/Mistral-7B-Instruct-v0.3".split(),
        "gguf-q4_k_m gguf-q8_0 gguf-iq4_xs".split(),
        ["llama.cpp"],
        "rtx4090 rtx3090 rtx5090 apple-m2-ultra strix-halo".split(),
    ),
)


def mixed(rows: int) -> str:
    """Scenarios over models, formats, engines, cards, sizes and loads, as CSV; the same every time."""
    chance = random.Random(0)
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow("name model weight_format engine gpu n_gpus input_tokens output_tokens concurrency".split())
    for number in range(rows):
        models, formats, engines, cards = chance.choice(SERVED)
        names = [chance.choice(axis) for axis in (models, formats, engines, cards)]
        load = [chance.randrange(100, 16_000), chance.randrange(1, 4000), 2 ** chance.randrange(9)]
        writer.writerow([f"row {number}", *names, 2 ** chance.randrange(4), *load])
    return out.getvalue()


def seconds(action: Callable[[], object], repeats: int) -> float:
    """The best of some runs."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        best = min(best, time.perf_counter() - start)
    return best


def process(*arguments: str) -> None:
    """One run of the program; it exits 2 when rows of a batch cannot be estimated."""
    command = [sys.executable, "-m", "planner", "estimate", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 2):
        raise SystemExit(done.stderr)


def say(what: str, value: float, unit: str) -> None:
    sys.stdout.write(f"{what:58} {value:10,.2f} {unit}\n")


def main() -> None:
    """Print the table."""
    flags = "--model meta-llama/Llama-3.1-8B-Instruct --gpu h100-sxm --concurrency 32".split()
    say("one scenario from flags, a process", seconds(lambda: process(*flags), 3), "s")
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "asked.csv", Path(folder) / "answered.csv"
        asked.write_text(mixed(ROWS), "utf-8")
        batch = ("--scenarios", str(asked), "--csv", str(answered))
        say(f"{ROWS:,} mixed scenarios, CSV to CSV, a process", seconds(lambda: process(*batch), 3), "s")
    rows = [row.scenario for row in parse_scenarios(mixed(ROWS).encode(), ".csv", "benchmark")]
    estimate(rows[:1000])
    say(
        "one warm estimate, median row",
        sorted(seconds(lambda r=row: estimate(r), 3) for row in rows[:200])[100] * 1e3,
        "ms",
    )  # type: ignore[misc]
    fixed = Scenario(model=flags[1], gpu=flags[3], tp=1, concurrency=32)
    say("one warm estimate, tensor parallel size given", seconds(lambda: estimate(fixed), 50) * 1e3, "ms")
    say(f"{ROWS:,} mixed scenarios in one call", seconds(lambda: estimate(rows), 3), "s")
    many = list(itertools.islice(itertools.cycle(rows), MANY))
    say(f"{MANY:,} mixed scenarios in one call", seconds(lambda: estimate(many), 1), "s")


if __name__ == "__main__":
    main()
