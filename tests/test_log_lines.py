"""An estimate in the words of an engine's log: what is printed is what the reader of logs reads back."""

from __future__ import annotations

from typing import Any

import pytest

from planner import explain
from planner.catalog.logs import read_log
from planner.estimate import estimate
from planner.specs.scenario import Scenario

ENGINES = {
    "vllm": {"model": "Qwen/Qwen3-32B", "gpu": "h100-sxm", "weight_format": "fp8", "max_model_len": 32768},
    "sglang": {"model": "Qwen/Qwen3-32B", "gpu": "h100-sxm", "weight_format": "fp8"},
    "tensorrt-llm": {"model": "Qwen/Qwen3-8B", "gpu": "l40s", "weight_format": "bf16"},
    "llama.cpp": {"model": "Qwen/Qwen3-8B", "gpu": "rtx4090", "weight_format": "gguf-q4_k_m"},
}


def row_of(engine: str) -> dict[str, Any]:
    return estimate(Scenario(engine=engine, **ENGINES[engine])).rows()[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_lines_are_read_back_as_the_terms_that_they_state(engine: str) -> None:
    row = row_of(engine)
    lines = explain.log_lines(row)
    log = read_log("\n".join(line.text.replace("N secs", "9 secs") for line in lines))
    assert log.engine == engine
    read = {term.columns: term.value for term in log.terms}
    assert len(read) >= 3
    assert {line.column for line in lines} <= {columns[0] for columns in read}
    for columns, value in read.items():
        assert value == pytest.approx(sum(row[column] for column in columns), abs=0.006)


def test_an_engine_that_prints_nothing_has_no_lines() -> None:
    assert explain.log_lines(row_of("vllm") | {"engine": "transformers"}) == []


def test_a_line_carries_the_interval_of_its_figure() -> None:
    row = row_of("vllm")
    weights = next(line for line in explain.log_lines(row) if line.column == "weights_gib")
    assert weights.span == explain.interval(row, "weights_gib")
