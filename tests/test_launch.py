"""Start lines: what the planner writes, it reads back as the same deployment."""

from __future__ import annotations

import math
import random
import shlex
from functools import lru_cache
from typing import Any

import pytest
import yaml

from planner.catalog import models
from planner.catalog.commands import scenario_from_command
from planner.catalog.formats import weight_format
from planner.errors import BadValue
from planner.estimate import estimate
from planner.formats import weight_bytes
from planner.report.compose import compose_file
from planner.report.launch import checkpoint, launch_command
from planner.search import Space, Wish, sift, tasks
from planner.specs.scenario import Scenario

LLAMA = "meta-llama/Llama-3.3-70B-Instruct"
SERVED = (
    "tp",
    "pp",
    "ep",
    "attention_dp",
    "gpu_memory_utilization",
    "max_num_seqs",
    "max_num_batched_tokens",
    "kv_format",
)
READ_BACK = {
    "vllm": SERVED,
    "sglang": SERVED,
    "tensorrt-llm": ("tp", "pp", "ep", "gpu_memory_utilization", "max_num_seqs", "max_num_batched_tokens", "kv_format"),
    "llama.cpp": ("parallel_slots", "n_ubatch", "kv_format", "backend"),
}
BLANK = {"tp": 1, "pp": 1, "ep": 1, "attention_dp": 1, "backend": "cuda"}


def row(**columns: Any) -> dict[str, Any]:
    found = estimate(Scenario(**columns)).rows()[0]
    assert found["error"] is None
    return found


CASES = [
    {"model": LLAMA, "weight_format": "fp8", "gpu": "h100-sxm", "tp": 2, "kv_format": "fp8", "concurrency": 32},
    {"model": "Qwen/Qwen3-32B-AWQ", "gpu": "l40s", "tp": 2, "pp": 2, "max_num_seqs": 64, "enforce_eager": True},
    {
        "model": "Qwen/Qwen3-Next-80B-A3B-Instruct",
        "gpu": "h100-sxm",
        "tp": 4,
        "engine": "sglang",
        "prefix_caching": False,
    },
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
    {"model": LLAMA, "weight_format": "gguf-q8_0", "gpu": "r9700", "backend": "vulkan", "parallel_slots": 2},
]


@pytest.mark.parametrize("columns", CASES, ids=lambda c: f"{c.get('engine', '')}{c['model']}")
def test_a_start_line_is_read_back_as_the_same_deployment(columns: dict[str, Any]) -> None:
    asked = row(**columns)
    line = launch_command(asked)
    found = scenario_from_command(line)
    assert found.not_considered == UNREAD.get(asked["engine"], ())
    assert found.scenario.engine == asked["engine"]
    for name in READ_BACK[asked["engine"]]:
        read = getattr(found.scenario, name)
        written = asked[name]
        assert read == written or (read is None and written in (BLANK.get(name), None, "bf16", "fp16")), name


def test_an_image_encoder_that_is_not_needed_is_left_out_where_the_engine_can() -> None:
    seeing, reading = {"model": "Qwen/Qwen3-VL-8B-Instruct", "gpu": "l40s"}, {"model": LLAMA, "gpu": "l40s"}
    alone = {"engine": "vllm", "images_per_request": 0}
    told = [
        launch_command(row(**columns, **alone)) for columns in (seeing, reading, seeing | {"engine_version": "0.11"})
    ]
    assert ["--language-model-only" in line for line in told] == [True, False, False]
    assert scenario_from_command(told[0]).scenario.images_per_request == 0


def test_what_tensorrt_llm_takes_from_a_file_stands_above_the_line() -> None:
    experts = {"model": "gpt-oss-120b", "gpu": "b200", "tp": 4, "ep": 4, "attention_dp": 4, "concurrency": 64}
    lines = launch_command(row(engine="tensorrt-llm", **experts)).splitlines()
    assert lines[:2] == [
        "# options.yaml holds:",
        "#   cuda_graph_config: {enable_padding: true, max_batch_size: 2048}",
    ]
    assert lines[2] == "#   stream_interval: 10"
    assert lines[3:5] == ["#   enable_attention_dp: true", "#   attention_dp_config: {enable_balance: true}"]
    assert lines[5].startswith("trtllm-serve openai/gpt-oss-120b")


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


def test_a_llama_server_is_asked_for_no_more_slots_than_fit() -> None:
    """Its context is taken whole at the start: three slots of 16k on this card would not start."""
    asked = {"engine": "llama.cpp", "model": "Qwen/Qwen3-32B", "weight_format": "gguf-q4_k_m", "gpu": "rtx4090"}
    found = row(**asked, concurrency=3, input_tokens=16_000, output_tokens=1024)
    assert found["max_concurrency"] < 3
    assert f"--parallel {found['max_concurrency']} " in launch_command(found)


@pytest.mark.parametrize("load", [{"request_rate_per_s": 1.0}, {"users": 80, "think_time_s": 20.0}], ids=str)
def test_llama_server_starts_as_many_slots_as_random_arrivals_take(load) -> None:
    asked = {"model": "llama-3.3-70b", "gpu": "h200-sxm", "engine": "llama.cpp", "weight_format": "gguf-q4_k_m"}
    found = row(**asked, input_tokens=100, output_tokens=400, **load)
    started = scenario_from_command(launch_command(found)).scenario.parallel_slots
    assert started == found["max_num_seqs"] < load.get("users", 300)
    again = row(**asked, input_tokens=100, output_tokens=400, parallel_slots=started, **load)
    assert found["holds_load"] and again["holds_load"]
    assert again["ttft_ms"] == pytest.approx(found["ttft_ms"], rel=0.1)


def test_instances_on_one_gpu_share_the_engines_fraction() -> None:
    """Four engines that each ask for 0.92 of the card: the second does not start."""
    shared = row(model="llama-3.2-1b-instruct", gpu="h100-sxm", n_gpus=None, tp=None, copies_per_gpu=4)
    assert "--gpu-memory-utilization 0.23" in launch_command(shared)


def test_a_length_is_stated_when_the_checkpoints_own_does_not_fit() -> None:
    """vLLM refuses to start when one sequence of max_model_len exceeds the pool."""
    tight = row(model=LLAMA, weight_format="fp8", gpu="h100-sxm", n_gpus=1, concurrency=1)
    assert tight["max_concurrency_at_max_model_len"] < 1
    assert "--max-model-len 2560" in launch_command(tight)


def test_a_format_without_a_known_checkpoint_names_a_folder_to_fill() -> None:
    assert "./Llama-3.3-70B-Instruct-nvfp4" in launch_command(row(model=LLAMA, weight_format="nvfp4", gpu="b200"))


def test_a_library_has_no_start_line() -> None:
    assert launch_command(row(model=LLAMA, gpu="h200-sxm", engine="transformers")) == ""


LOAD = Scenario(input_tokens=2000, output_tokens=500, concurrency=16)
FORMATS = (
    "bf16 fp8 fp8-block128 int8-w8a8 awq-int4-g128 gptq-int4-g128 nvfp4 mxfp4 bnb-nf4 w4a16-g128 gguf-q4_k_m gguf-q8_0 "
    "gguf-iq4_xs gguf-f16"
).split()
UNREAD = {"tensorrt-llm": ("--extra_llm_api_options",)}  # a file
CACHES = {"vllm": ("bf16", "fp8"), "sglang": ("bf16", "fp8"), "llama.cpp": ("fp16", "q8_0", "q8_0/q4_0")}
SAME = "tp pp ep attention_dp max_num_seqs max_num_batched_tokens gpu_memory_utilization block_size n_ubatch".split()
FIGURES = "weights_gib kv_pool_gib max_concurrency tpot_ms ttft_ms output_tokens_per_s".split()


@lru_cache(maxsize=8)
def searched(engine: str) -> list[dict[str, Any]]:
    """Rows of every kind that a search may put first, all layouts and formats of some models."""
    chance = random.Random(engine)
    named = [entry.id for entry in models.model_index() if entry.task == "generate"]
    space = Space(
        models=tuple(chance.sample(named, 16)),
        gpus=("h100-sxm", "b200", "rtx4090", "a100-80-sxm"),
        engines=(engine,),
        formats=tuple(FORMATS),
        kv_formats=CACHES.get(engine, ()),
        tps=(1, 2, 4, 8),
        pps=(1, 2),
        eps=(1, 2, 8),
        attention_dps=(1,) if engine == "tensorrt-llm" else (1, 2),  # which has no flag for it, but a file
        replicas=(1, 2),
    )
    kept = [one for task in tasks(LOAD, space, Wish()) for one in sift(task).kept]
    asked = [LOAD.model_copy(update=one.columns) for one in chance.sample(kept, min(len(kept), 100))]
    return estimate(asked).rows()


def read_back(asked: dict[str, Any], line: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The row as started, and the row of what its line says on the same GPUs under the same load."""
    command = scenario_from_command(line)
    assert command.not_considered == UNREAD.get(asked["engine"], ())
    where = {name: asked[name] for name in ("gpu", "dp", "engine_version")} | LOAD.model_dump(exclude_none=True)
    if asked["engine"] == "llama.cpp":  # its line states slots and their length, which a search leaves to the load
        started = {name: getattr(command.scenario, name) for name in ("parallel_slots", "max_model_len")}
        names = ("model", "weight_format", "kv_format", "engine", "tp", "pp", "n_gpus")
        asked = estimate(Scenario(**{name: asked[name] for name in names}, **where, **started)).rows()[0]
    return asked, estimate(command.scenario.model_copy(update=where)).rows()[0]


def agree(asked: dict[str, Any], again: dict[str, Any]) -> None:
    assert again["error"] is None
    assert models.model(asked["model"]).id == models.model(again["model"]).id
    assert asked["kv_format"].replace("fp16", "bf16") == again["kv_format"].replace("fp16", "bf16")
    assert _type(asked) == _type(again)
    assert [asked[name] for name in SAME] == [again[name] for name in SAME]
    for name in FIGURES:
        assert asked[name] == again[name] or math.isclose(asked[name], again[name], rel_tol=1e-9), name


def _type(row: dict[str, Any]) -> str:
    """The weight format; trtllm-serve has no flag for the kind of 16 bit."""
    name = str(row["weight_format"])
    return name.replace("fp16", "bf16") if row["engine"] == "tensorrt-llm" else name


@pytest.mark.parametrize("engine", ["vllm", "sglang", "tensorrt-llm", "llama.cpp"])
def test_whatever_a_search_finds_is_started_and_read_back_as_the_same_scenario(engine: str) -> None:
    rows = [row for row in searched(engine) if not _published_mix(row)]
    assert len(rows) > 50
    for row in rows:
        agree(*read_back(row, launch_command(row)))


def _published_mix(row: dict[str, Any]) -> bool:
    """A published checkpoint that is known tensor by tensor: read back it is more exact than its format."""
    name, fmt = checkpoint(row), weight_format(row["weight_format"])
    return bool(name) and weight_bytes(models.model(name), fmt) != weight_bytes(models.model(row["model"]), fmt)


@pytest.mark.parametrize("engine", ["vllm", "sglang", "tensorrt-llm", "llama.cpp"])
def test_a_compose_file_starts_what_its_start_line_starts(engine: str) -> None:
    for row in searched(engine)[::6]:
        services = yaml.safe_load(compose_file(row))["services"]
        assert len(services) == row["dp"]
        given = [one["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] for one in services.values()]
        assert sorted(int(i) for ids in given for i in ids) == list(range(row["n_gpus"]))
        service = next(iter(services.values()))
        words = [*service["entrypoint"], *(word.replace("$$", "$") for word in service["command"])]
        mine = scenario_from_command(shlex.join(words)).scenario
        theirs = scenario_from_command(launch_command(row)).scenario
        own = ("model", "weight_format") if "./" in launch_command(row) else ()
        assert all(getattr(mine, name) == getattr(theirs, name) for name in Scenario.model_fields if name not in own)


def test_a_dollar_in_a_name_is_no_variable_of_compose() -> None:
    evil = row(**CASES[0]) | {"checkpoint": "a/$HOME"}
    assert "a/$$HOME" in compose_file(evil)


def test_a_mac_has_no_compose_file() -> None:
    with pytest.raises(BadValue, match="NVIDIA"):
        compose_file(row(model="Qwen/Qwen3-8B", gpu="apple-m4-max", weight_format="gguf-q4_k_m"))


def test_the_repository_that_was_asked_for_is_started_not_the_base_that_shares_its_shape() -> None:
    asked = "meta-llama/Llama-3.1-8B-Instruct"
    assert f"vllm serve {asked} " in launch_command(row(model=asked, gpu="l40s", weight_format="fp8"))
    gguf = row(model=asked, gpu="rtx4090", engine="llama.cpp", weight_format="gguf-q3_k_m")
    assert gguf["checkpoint"].startswith(f"quantize {asked}:") or "Instruct" in gguf["checkpoint"]


@pytest.mark.parametrize(
    "setting",
    [
        {"gpu": "rtx4090", "engine": "llama.cpp", "weight_format": "gguf-q4_k_m", "n_gpu_layers": 40},
        {"gpu": "l40s", "engine": "vllm", "max_loras": 8, "lora_rank": 64, "cpu_offload_gib": 4.0},
        {"gpu": "l40s", "engine": "sglang", "max_loras": 8, "lora_rank": 64},
    ],
)
def test_layers_on_the_host_and_adapters_are_in_the_start_line(setting: dict[str, Any]) -> None:
    read = scenario_from_command(launch_command(row(model="meta-llama/Llama-3.1-8B-Instruct", **setting))).scenario
    names = ("n_gpu_layers", "max_loras", "lora_rank", "cpu_offload_gib")
    assert {name: getattr(read, name) for name in names} == {name: setting.get(name) for name in names}
