"""Whatever a stranger asks for is an answer whose parts agree."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.catalog.engines import engine_ids
from planner.catalog.formats import weight_format_ids
from planner.catalog.gpus import gpu_ids
from planner.catalog.models import model_ids
from planner.estimate import INTERVALS, estimate
from planner.specs.scenario import Scenario
from tests.asking import row


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 400), st.integers(16, 16000), st.integers(32, 2000))
def test_more_at_once_never_lowers_the_server_nor_speeds_up_a_user(at_once: int, prompt: int, answer: int) -> None:
    load = {"input_tokens": prompt, "output_tokens": answer, "enforce_eager": True}  # steps jump where graphs end
    less, more = row(concurrency=at_once, **load), row(concurrency=at_once + 40, **load)
    full = at_once + 40 > more["max_concurrency_expected"]  # the pool then sets requests back and computes them again
    assert more["output_tokens_per_s"] >= less["output_tokens_per_s"] * (0.6 if full else 0.99)
    assert more["tpot_ms"] >= less["tpot_ms"] * 0.99 and more["ttft_ms"] >= less["ttft_ms"] * 0.99


@pytest.mark.parametrize("engine", ["vllm", "sglang", "tensorrt-llm", "llama.cpp", "transformers", "none"])
def test_every_bundled_model_gets_an_answer(engine: str) -> None:
    weights = "gguf-q4_k_m" if engine == "llama.cpp" else None
    scenarios = [
        Scenario(model=name, gpu="h200-sxm", n_gpus=8, engine=engine, weight_format=weights) for name in model_ids()
    ]
    for found in estimate(scenarios).rows():
        assert found["error"] is None
        assert math.isfinite(found["weights_gib"]) and found["weights_gib"] > 0


WILD: dict[str, st.SearchStrategy[Any]] = {  # columns and what a stranger might put there
    "model": st.sampled_from(model_ids()),
    "gpu": st.sampled_from(gpu_ids()),
    "weight_format": st.sampled_from(weight_format_ids()),
    "kv_format": st.sampled_from("bf16 fp16 fp8 int8 nvfp4 q8_0 q4_0 q8_0/q4_0".split()),
    "engine": st.sampled_from(engine_ids()),
    "n_gpus": st.sampled_from([1, 2, 3, 8, 64]),
    "tp": st.sampled_from([1, 2, 3, 8]),
    "pp": st.sampled_from([1, 2, 3, 100]),
    "ep": st.sampled_from([1, 2, 3, 8]),
    "attention_dp": st.sampled_from([1, 2, 3, 8]),
    "dp": st.sampled_from([1, 2, 3]),
    "gpus_per_node": st.sampled_from([1, 4, 72]),
    "interconnect": st.sampled_from(["pcie", "nvlink"]),
    "device_gib": st.floats(0.01, 1e5),
    "reserved_gib": st.sampled_from([0.0, 5.0, 1e5]),
    "copies_per_gpu": st.sampled_from([1, 2, 64]),
    "gpu_memory_utilization": st.sampled_from([1e-6, 0.5, 0.95, 1.0]),
    "max_model_len": st.sampled_from([1, 4096, 2**26]),
    "max_num_seqs": st.sampled_from([1, 64, 2**20]),
    "max_num_batched_tokens": st.sampled_from([1, 512, 2**26]),
    "block_size": st.sampled_from([1, 16, 65536]),
    "enforce_eager": st.booleans(),
    "prefix_caching": st.booleans(),
    "flash_attention": st.booleans(),
    "parallel_slots": st.sampled_from([1, 8, 4096]),
    "input_tokens": st.integers(0, 2000) | st.integers(0, 2**26),
    "output_tokens": st.integers(0, 2000) | st.integers(0, 2**26),
    "input_tokens_p95": st.integers(0, 10**5),
    "output_tokens_p95": st.integers(0, 10**5),
    "concurrency": st.integers(1, 300) | st.integers(1, 10**7),
    "request_rate_per_s": st.floats(1e-4, 1e6),
    "users": st.integers(1, 10**9),
    "think_time_s": st.sampled_from([0.0, 0.001, 30.0, 1e9]),
    "turns": st.sampled_from([1, 5, 10**4]),
    "shared_prefix_tokens": st.integers(0, 10**5),
    "cached_input_fraction": st.floats(0, 1),
    "image_pixels": st.sampled_from([1, 10**6, 10**9]),
    "peak_to_mean": st.sampled_from([1.0, 3.0, 1000.0]),
    "ttft_slo_ms": st.floats(0.01, 1e6),
    "tpot_slo_ms": st.floats(0.01, 1e6),
    "e2e_slo_ms": st.floats(0.01, 1e6),
    "slo_percentile": st.sampled_from([1e-6, 50.0, 99.99999]),
    "usd_per_gpu_hour": st.sampled_from([0.0, 3.0]),
    "draft_model": st.sampled_from(["mtp", "ngram", "Qwen/Qwen3-0.6B"]),
    "speculative_tokens": st.sampled_from([0, 1, 64]),
    "acceptance_rate": st.floats(0, 1),
    "n_gpu_layers": st.sampled_from([0, 10, 999]),
    "n_cpu_moe": st.sampled_from([0, 5, 999]),
    "split_mode": st.sampled_from(["none", "layer", "row"]),
    "backend": st.sampled_from(["cuda", "vulkan", "metal"]),
    "tensor_split": st.sampled_from(["1,1", "0,1", "1,2,3"]),
    "host_memory_gib": st.sampled_from([1.0, 64.0]),
    "host_bandwidth_gb_s": st.sampled_from([100.0, 400.0]),
    "host_link_gb_s": st.sampled_from([2.0, 64.0]),
    "cpu_offload_gib": st.sampled_from([0.0, 5.0, 500.0]),
    "max_loras": st.sampled_from([0, 1, 64]),
    "lora_rank": st.sampled_from([0, 16, 256]),
    "power_limit_w": st.sampled_from([1.0, 300.0]),
}
NAMES = {name: WILD.pop(name) for name in ("model", "gpu")}
wild = st.fixed_dictionaries(NAMES, optional=WILD).map(lambda columns: Scenario(**columns))
CODES = {  # by verdict
    "starts": {"kv_pool_full", "above_capacity"},
    "queues": {"kv_pool_full", "above_capacity"},
    "holds": {None, "slo_missed"},
    "meets_slo": {None},
}


@settings(max_examples=25, deadline=None)
@given(st.lists(wild, min_size=20, max_size=40))
def test_any_scenario_is_an_answer_whose_parts_agree(scenarios: list[Scenario]) -> None:
    for found in estimate(scenarios).rows():
        numbers = [value for value in found.values() if isinstance(value, int | float)]
        assert all(math.isfinite(value) and value >= 0 for value in numbers)
        if found["error"]:
            continue
        verdict, code = found["verdict"], found["reason_code"]
        assert found["fits"] == found["starts"] == (verdict != "no")
        assert found["holds_load"] == (verdict in ("holds", "meets_slo"))
        assert code in CODES[verdict] if verdict in CODES else code
        assert bool(code) == bool(found["reason"])
        assert found["fit_confidence"] != ("yes" if verdict == "no" else "no")


@settings(max_examples=20, deadline=None)
@given(st.lists(wild, min_size=20, max_size=40))
def test_figures_of_any_scenario_are_ordered(scenarios: list[Scenario]) -> None:
    for found in estimate(scenarios).rows():
        for name in INTERVALS:
            low, value, high = (found[f"{name}{end}"] for end in ("_low", "", "_high"))
            assert (low is None) == (value is None) == (high is None)
            assert value is None or low <= value * (1 + 1e-12) <= high * (1 + 1e-9)
        if found["starts"]:
            assert found["max_concurrency"] >= 1 and found["ttft_unloaded_ms"] > 0 and found["requests_per_s"] > 0
        if found["ttft_ms"] is not None:
            assert found["ttft_unloaded_ms"] * (1 - 1e-6) <= found["ttft_ms"] <= found["e2e_ms"] * (1 + 1e-9)
