"""Start lines: what the planner writes, it reads back as the same deployment."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from planner.catalog.commands import scenario_from_command
from planner.estimate import estimate
from planner.report.launch import launch_command
from planner.specs.scenario import Scenario

LLAMA = "meta-llama/Llama-3.3-70B-Instruct"
READ_BACK = {
    "vllm": (
        "tp",
        "pp",
        "ep",
        "attention_dp",
        "gpu_memory_utilization",
        "max_num_seqs",
        "max_num_batched_tokens",
        "kv_format",
    ),
    "sglang": (
        "tp",
        "pp",
        "ep",
        "attention_dp",
        "gpu_memory_utilization",
        "max_num_seqs",
        "max_num_batched_tokens",
        "kv_format",
    ),
    "tensorrt-llm": ("tp", "pp", "ep", "gpu_memory_utilization", "max_num_seqs", "max_num_batched_tokens", "kv_format"),
    "llama.cpp": ("parallel_slots", "n_ubatch", "kv_format"),
}
BLANK = {"tp": 1, "pp": 1, "ep": 1, "attention_dp": 1}


def row(**columns: Any) -> dict[str, Any]:
    found = estimate(Scenario(**columns)).rows()[0]
    assert found["error"] is None
    return found


CASES = [
    {"model": LLAMA, "weight_format": "fp8", "gpu": "h100-sxm", "tp": 2, "kv_format": "fp8", "concurrency": 32},
    {"model": "Qwen/Qwen3-32B-AWQ", "gpu": "l40s", "tp": 2, "pp": 2, "max_num_seqs": 64, "enforce_eager": True},
    {"model": "deepseek-ai/DeepSeek-V3", "gpu": "h200-sxm", "tp": 8, "ep": 8, "engine": "sglang", "attention_dp": 8},
    {"model": LLAMA, "weight_format": "bf16", "gpu": "h100-sxm", "tp": 4, "engine": "tensorrt-llm", "kv_format": "fp8"},
    {
        "model": LLAMA,
        "weight_format": "gguf-q4_k_m",
        "gpu": "rtx5090",
        "pp": 2,
        "kv_format": "q8_0/q4_0",
        "parallel_slots": 4,
    },
]


@pytest.mark.parametrize("columns", CASES, ids=lambda c: f"{c.get('engine', '')}{c['model']}")
def test_a_start_line_is_read_back_as_the_same_deployment(columns: dict[str, Any]) -> None:
    asked = row(**columns)
    line = launch_command(asked)
    found = scenario_from_command(line)
    assert found.not_considered == ()
    assert found.scenario.engine == asked["engine"]
    for name in READ_BACK[asked["engine"]]:
        read = getattr(found.scenario, name)
        written = asked[name]
        assert read == written or (read is None and written in (BLANK.get(name), None, "bf16", "fp16")), name


def test_the_line_survives_a_shell() -> None:
    words = shlex.split(launch_command(row(**CASES[0])).replace("\\\n", " "))
    assert words[:3] == ["vllm", "serve", LLAMA]
    assert words[words.index("--quantization") + 1] == "fp8"


def test_a_name_that_a_shell_would_run_is_quoted() -> None:
    evil = row(**CASES[0]) | {"checkpoint": "a/b;rm$(x)`y`"}
    assert shlex.split(launch_command(evil).replace("\\\n", " "))[2] == "a/b;rm$(x)`y`"


def test_replicas_are_started_one_by_one() -> None:
    line = launch_command(row(model=LLAMA, weight_format="fp8", gpu="h100-sxm", tp=2, dp=3, concurrency=8))
    assert line.startswith("# 3 of these, each on 2 GPUs of its own")
    assert "data-parallel" not in line


def test_a_length_is_stated_when_the_checkpoints_own_does_not_fit() -> None:
    """vLLM refuses to start when one sequence of max_model_len exceeds the pool."""
    tight = row(model=LLAMA, weight_format="fp8", gpu="h100-sxm", n_gpus=1, concurrency=1)
    assert tight["max_concurrency_at_max_model_len"] < 1
    assert "--max-model-len 2560" in launch_command(tight)


def test_a_format_without_a_known_checkpoint_names_a_folder_to_fill() -> None:
    assert "./Llama-3.3-70B-Instruct-nvfp4" in launch_command(row(model=LLAMA, weight_format="nvfp4", gpu="b200"))


def test_a_library_has_no_start_line() -> None:
    assert launch_command(row(model=LLAMA, gpu="h200-sxm", engine="transformers")) == ""
