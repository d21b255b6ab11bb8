"""Charts: what plotly would refuse is refused here, and the words beside a chart say what it shows."""

from __future__ import annotations

from functools import cache

import plotly.graph_objects as go
import pytest

import bars
import charts
import simcharts
from answers import Answer, answer, context_curve
from drawing import Drawn
from planner.estimate import NO_LIBRARY
from planner.estimate.breakdown import breakdown
from planner.simulation import Protocol
from planner.specs.scenario import Scenario
from simulating import Asked, simulated

LIBRARY = NO_LIBRARY
LLAMA = "meta-llama/Llama-3.3-70B-Instruct"
SCENARIOS = (
    Scenario(
        model=LLAMA, weight_format="fp8", gpu="h100-sxm", n_gpus=2, concurrency=32, ttft_slo_ms=500, tpot_slo_ms=50
    ),
    Scenario(model=LLAMA, weight_format="gguf-q4_k_m", gpu="rtx4090", concurrency=8),
    Scenario(model="Qwen/Qwen3-Embedding-0.6B", gpu="l4", concurrency=8),
    Scenario(model="google/gemma-3-27b-it", gpu="h100-sxm", concurrency=3000),
    Scenario(model="Qwen/Qwen3-8B", gpu="l40s", users=500, think_time_s=30),
    Scenario(model="Qwen/Qwen3-8B", gpu="l40s", request_rate_per_s=2.5, output_tokens=1),
    Scenario(model="Qwen/Qwen3.5-27B", weight_format="fp8", gpu="h100-sxm", concurrency=32, engine="sglang"),
    Scenario(model="Qwen/Qwen3.5-27B", weight_format="fp8", gpu="h100-sxm", concurrency=32, engine="vllm"),
)


@cache
def found(index: int) -> Answer:
    return answer(SCENARIOS[index], "hardware", LIBRARY)


ALL = pytest.mark.parametrize("index", range(len(SCENARIOS)))


def drawings(index: int) -> list[tuple[charts.Chart, str]]:
    asked = found(index)
    out = [bars.memory_bar(asked.row), bars.memory_bar(asked.row, dark=True)]
    if asked.row["ttft_ms"] is not None:
        out += [charts.load_speed(asked.curve, asked.row), bars.step_bars(breakdown(asked.scenario))]
    return out + [charts.kv_context(context_curve(asked.scenario, asked.row, LIBRARY), asked.row)]


@ALL
def test_plotly_accepts_every_chart(index: int) -> None:
    for chart, _ in drawings(index):
        go.Figure(chart)
        assert Drawn(chart).to_dict() is chart


@ALL
def test_words_say_figures_and_no_unknown(index: int) -> None:
    for _, words in drawings(index):
        assert any(c.isdigit() for c in words)
        assert "None" not in words and "nan" not in words and "inf " not in words


@ALL
def test_the_segments_of_one_gpu_add_up_to_its_memory(index: int) -> None:
    row = found(index).row
    total = sum(size for _, size, _ in bars.memory_parts(row))
    if row["starts"]:
        assert total == pytest.approx(row["device_gib"], rel=0.01)
    else:
        assert total > row["budget_gib"]


@ALL
def test_the_load_itself_is_a_point_of_the_curve(index: int) -> None:
    asked = found(index)
    if asked.row["concurrency"]:
        assert asked.row["concurrency"] in [row["concurrency"] for row in asked.curve]
    if asked.row["ttft_ms"] is not None:
        marks = [trace for trace in charts.load_speed(asked.curve, asked.row)[0]["data"] if trace["mode"] == "markers"]
        assert [mark["y"][0] for mark in marks][-1] == asked.row["ttft_ms"] / 1e3


def test_users_and_rates_are_marked_at_the_requests_that_are_in_flight() -> None:
    row = found(5).row
    assert charts.in_flight(row) == pytest.approx(2.5 * row["e2e_ms"] / 1e3)


def test_the_curve_keeps_the_layout_of_the_answer() -> None:
    assert {row["tp"] for row in found(0).curve} == {2}


def test_objectives_and_the_full_pool_are_lines_with_their_values() -> None:
    chart, _ = charts.load_speed(found(0).curve, found(0).row)
    notes = " ".join(note["text"] for note in chart["layout"]["annotations"])
    assert "KV full: " in notes and "objective 20" in notes and "objective 0.5" in notes


def test_the_longest_prompt_that_is_marked_is_where_the_curve_meets_the_pool() -> None:
    asked = found(0)
    longest = asked.row["max_context_tokens"] - asked.row["output_tokens"]
    at, beyond = (
        context_curve(asked.scenario.model_copy(update={"input_tokens": n}), asked.row | {"input_tokens": n}, LIBRARY)
        for n in (longest, longest + 100)
    )
    needed = [next(r for r in rows if r["input_tokens"] == n) for rows, n in ((at, longest), (beyond, longest + 100))]
    assert needed[0]["kv_needed_gib"] <= needed[0]["kv_pool_gib"] < needed[1]["kv_needed_gib"]


def test_the_largest_part_of_a_step_is_a_part_of_the_whole() -> None:
    parts = breakdown(found(0).scenario)
    _, words = bars.step_bars(parts)
    assert f"; {100 * parts[0].seconds / sum(part.seconds for part in parts):.0f} % of it " in words


def test_a_simulation_is_drawn_and_told() -> None:
    seen = simulated(Asked(Scenario(model="Qwen/Qwen3-8B", gpu="l40s", concurrency=8), Protocol(100), LIBRARY))
    (spread, told), (over, state) = simcharts.spread(seen), simcharts.over_time(seen)
    go.Figure(spread), go.Figure(over)
    assert f"99 % within {charts.figure(seen.row['ttft_p99_ms'])} ms" in told
    assert "at most 8 requests ran" in state
