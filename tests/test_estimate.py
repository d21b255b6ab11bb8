"""The one door: what a scenario resolves to, what the estimate says of it, and that batches change nothing."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.catalog.engines import engine_ids
from planner.catalog.formats import weight_format_ids
from planner.catalog.gpus import gpu_from_profile, gpu_ids
from planner.catalog.models import model, model_ids
from planner.estimate import INTERVALS, Library, documented, estimate, estimate_columns
from planner.specs.scenario import Scenario

LLAMA = "meta-llama/Meta-Llama-3.1-8B"
LLAMA_70B = "meta-llama/Meta-Llama-3.1-70B"


def row(**columns: Any) -> dict[str, Any]:
    """The estimate of one scenario, as the CSV has it."""
    given_columns: dict[str, Any] = {"model": LLAMA, "gpu": "h100-sxm"} | columns
    return estimate(Scenario(**given_columns)).rows()[0]


def test_every_default_is_echoed() -> None:
    found = row()
    echoed = ("weight_format", "kv_format", "engine", "engine_version", "tp", "dp", "n_gpus", "device_gib")
    assert all(found[name] is not None for name in echoed)
    assert (found["weight_format"], found["engine"], found["concurrency"]) == ("bf16", "vllm", 1)


def test_an_echoed_scenario_estimates_the_same() -> None:
    first = estimate(Scenario(model=LLAMA_70B, gpu="h100-sxm", n_gpus=8, concurrency=64))
    again = estimate(first.scenarios[0])
    assert again.rows()[0] == first.rows()[0]


def test_a_row_of_a_mixed_batch_equals_the_row_alone() -> None:
    scenarios = [
        Scenario(model=LLAMA, gpu=gpu, weight_format=weights, concurrency=concurrency)
        for gpu in ("h100-sxm", "l40s", "rtx4090")
        for weights in ("bf16", "fp8", "awq-int4-g128")
        for concurrency in (1, 300)
    ]
    for alone, together in zip(map(estimate, scenarios), estimate(scenarios).rows(), strict=True):
        for name, value in alone.rows()[0].items():
            assert together[name] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value)


def test_a_bad_row_stops_no_other() -> None:
    good, bad = estimate([Scenario(model=LLAMA, gpu="h100-sxm"), Scenario(model="llama-3.1-8", gpu="h100-sxm")]).rows()
    assert good["error"] is None and good["fits"]
    assert "did you mean" in bad["error"] and bad["verdict"] is None


@pytest.mark.parametrize("column", ["draft_model", "n_cpu_moe", "tensor_split"])
def test_a_column_that_is_not_modelled_is_refused_by_name(column: str) -> None:
    assert column in row(**{column: "1" if column != "n_cpu_moe" else 1})["error"]


@pytest.mark.parametrize("missing", ["model", "gpu"])
def test_a_scenario_without_model_or_gpu_says_which_is_blank(missing: str) -> None:
    assert f"'{missing}' is blank" in row(**{missing: None})["error"]


def test_sizes_that_contradict_are_refused() -> None:
    assert row(n_gpus=4, tp=2, dp=3)["error"] == "n_gpus 4 is not tp 2 x pp 1 x dp 3"


def test_the_smallest_group_that_holds_the_load_is_chosen_and_the_rest_are_replicas() -> None:
    bf16 = row(model=LLAMA_70B, n_gpus=8, concurrency=64)
    fp8 = row(model=LLAMA_70B, n_gpus=8, concurrency=64, weight_format="fp8")
    assert (bf16["tp"], bf16["dp"]) == (4, 2)  # 141 GB of weights do not fit beside a cache on two cards
    assert (fp8["tp"], fp8["dp"]) == (2, 4)
    assert not row(model=LLAMA_70B, n_gpus=2, tp=2, concurrency=32)["holds_load"]


def test_heads_that_do_not_divide_are_an_answer() -> None:
    found = row(tp=3)
    assert (found["error"], found["verdict"], found["reason_code"]) == (None, "no", "tp_invalid")


@pytest.mark.parametrize("sizes", [{"attention_dp": 3}, {"ep": 3}, {"pp": 100}, {"tp": 4, "attention_dp": 8}])
def test_groups_that_do_not_divide_are_an_answer_without_figures(sizes: dict[str, int]) -> None:
    found = row(model="openai/gpt-oss-20b", **sizes)
    assert (found["error"], found["verdict"], found["reason_code"]) == (None, "no", "tp_invalid")
    assert found["weights_gib"] is None and found["max_concurrency"] is None


def test_more_ranks_than_experts_are_refused() -> None:
    assert row(model="mistralai/Mixtral-8x7B-v0.1", tp=16, ep=16)["reason"] == "ep 16 exceeds the model's 8 experts"


def test_llama_cpp_splits_rows_and_layers_over_any_number_of_gpus() -> None:
    rows = row(weight_format="gguf-q4_k_m", gpu="rtx3090", tp=3, pp=1)
    layers = row(weight_format="gguf-q4_k_m", gpu="rtx3090", n_gpus=40)
    assert rows["fits"] and layers["fits"]


def test_a_link_that_the_card_does_not_have_is_refused_and_stops_no_other() -> None:
    asked = [Scenario(model=LLAMA, gpu="rtx4090", interconnect="nvlink"), Scenario(model=LLAMA, gpu="h100-sxm")]
    refused, good = estimate(asked).rows()
    assert "choose pcie" in refused["error"] and good["fits"]


def test_a_cache_that_the_engine_does_not_have_is_unsupported() -> None:
    found = row(kv_format="q8_0")
    assert (found["verdict"], found["reason_code"]) == ("no", "unsupported_format")
    assert "KV cache in q8_0" in found["reason"]


def test_a_card_that_others_fill_says_so() -> None:
    for engine in engine_ids():
        weights = "gguf-q4_k_m" if engine == "llama.cpp" else None
        found = row(engine=engine, weight_format=weights, reserved_gib=200)
        assert found["budget_gib"] >= 0 and found["reason_code"] in ("out_of_free_memory", "unsupported_format")


def test_an_empty_prompt_and_one_token_take_one_step() -> None:
    found = row(input_tokens=0, output_tokens=1)
    assert found["ttft_ms"] > 0 and found["tpot_ms"] is None and found["prefill_tokens_per_s"] is None


def test_what_does_not_run_has_no_price_per_token() -> None:
    found = row(model=LLAMA_70B, usd_per_gpu_hour=2)
    assert found["usd_per_hour"] == 2 and found["usd_per_million_output_tokens"] is None
    assert found["usd_per_request"] is None


def test_a_request_has_a_price_where_nothing_is_written() -> None:
    found = row(model="Qwen/Qwen3-Embedding-0.6B", concurrency=8, usd_per_gpu_hour=2)
    assert found["usd_per_million_output_tokens"] is None
    assert found["usd_per_request"] == pytest.approx(2 / 3600 / found["requests_per_s"])


def test_an_unsupported_format_is_an_answer_with_its_reason() -> None:
    found = row(engine="llama.cpp", weight_format="fp8")
    assert (found["error"], found["support"], found["reason_code"]) == (None, "unsupported", "unsupported_format")
    assert found["reason"] and found["tpot_ms"] is None


def test_more_load_than_the_pool_holds_queues_but_still_fits() -> None:
    found = row(gpu="l4", concurrency=200)
    assert found["fits"] and not found["holds_load"] and found["verdict"] == "queues"
    assert found["ttft_ms"] > 10 * found["ttft_unloaded_ms"]


def test_weights_beyond_the_card_do_not_start_and_say_by_how_much() -> None:
    found = row(model=LLAMA_70B, gpu="rtx4090")
    assert (found["verdict"], found["fit_confidence"]) == ("no", "no")
    assert "GiB" in found["reason"]


def test_llama_cpp_starts_as_many_slots_as_fit() -> None:
    found = row(model="Qwen/Qwen3-32B", gpu="rtx4090", weight_format="gguf-q4_k_m", concurrency=32)
    assert found["engine"] == "llama.cpp" and found["fits"] and not found["holds_load"]
    assert found["max_num_seqs"] == found["max_concurrency"] < 32


@pytest.mark.parametrize("prompt", [8000, 100_000])
def test_llama_cpp_has_room_for_as_many_slots_as_it_starts_with(prompt: int) -> None:
    load = {"gpu": "rtx4090", "weight_format": "gguf-q4_k_m", "input_tokens": prompt, "output_tokens": 500}
    room = row(**load)["max_concurrency"]
    assert room >= 1 and row(**load, parallel_slots=room)["fits"]
    assert not row(**load, parallel_slots=room + 1)["fits"]


def test_single_stream_conventions_leave_blank_what_has_no_meaning() -> None:
    decode = row(input_tokens=0, output_tokens=128)
    prefill = row(input_tokens=512, output_tokens=1)
    assert decode["prefill_tokens_per_s"] is None and decode["tpot_ms"] > 0
    assert prefill["tpot_ms"] is None and prefill["prefill_tokens_per_s"] > 0


def test_a_shared_prefix_longer_than_the_prompt_is_refused_in_one_line() -> None:
    found = row(input_tokens=2000, shared_prefix_tokens=3000)
    assert "'shared_prefix_tokens': 3,000" in found["error"] and "0 to 2,000" in found["error"]
    assert "\n" not in found["error"] and not row(input_tokens=2000, shared_prefix_tokens=2000)["error"]


def test_a_cap_below_a_rate_is_what_stands_and_what_is_blamed() -> None:
    free, capped, two = (row(request_rate_per_s=5, concurrency=cap, n_gpus=2, dp=2) for cap in (None, 1, 2))
    assert free["holds_load"] and not capped["holds_load"]
    one = row(concurrency=1, n_gpus=2, dp=2)
    assert capped["kv_needed_gib"] == pytest.approx(one["kv_needed_gib"])
    assert capped["reason_code"] == "above_capacity" and "at most 1 in flight" in capped["reason"]
    assert capped["requests_per_s"] == pytest.approx(one["requests_per_s"], rel=0.02)
    most = capped["sustainable_request_rate_per_s"]
    assert most == pytest.approx(capped["requests_per_s"], rel=0.02)
    assert row(request_rate_per_s=0.95 * most, concurrency=1, n_gpus=2, dp=2)["holds_load"]
    assert two["sustainable_request_rate_per_s"] > 1.9 * most


def test_a_cap_above_the_slots_blames_the_deployment() -> None:
    found = row(request_rate_per_s=500, concurrency=10**6)
    assert found["reason"] == row(request_rate_per_s=500)["reason"] and "in flight" not in found["reason"]


def test_a_rate_above_capacity_says_what_is_sustainable() -> None:
    found = row(request_rate_per_s=500)
    assert found["reason_code"] == "above_capacity" and found["ttft_ms"] is None
    assert 1 < found["sustainable_request_rate_per_s"] < 500


def test_a_sustainable_rate_is_sustained() -> None:
    most = row()["sustainable_request_rate_per_s"]
    assert row(request_rate_per_s=0.95 * most)["holds_load"]


def test_thinking_users_load_less_than_requests_that_never_pause() -> None:
    users = row(users=100, think_time_s=30)
    assert users["requests_per_s"] < row(concurrency=100)["requests_per_s"]


def test_objectives_that_are_missed_are_named_with_both_figures() -> None:
    found = row(concurrency=64, tpot_slo_ms=1)
    assert found["verdict"] == "holds" and not found["meets_slo"]
    assert "TPOT" in found["reason"] and "above 1 ms" in found["reason"]


def test_an_encoder_has_a_rate_and_generates_nothing() -> None:
    found = row(model="Qwen/Qwen3-Embedding-8B", input_tokens=512)
    assert found["task"] == "embed" and found["output_tokens"] == 0
    assert found["requests_per_s"] > 1 and found["tpot_ms"] is None


def test_images_lengthen_the_prompt_and_need_an_encoder() -> None:
    seen, blind = (row(model="Qwen/Qwen3-VL-8B-Instruct", images_per_request=count) for count in (4, 0))
    assert seen["ttft_unloaded_ms"] > 1.5 * blind["ttft_unloaded_ms"]
    assert "no image encoder" in row(images_per_request=1)["error"]


def test_models_and_gpus_that_a_caller_brings_are_used_by_their_names() -> None:
    card = gpu_from_profile(
        {"id": "mine", "name": "Mine", "label_gb": 40, "bandwidth_gb_per_s": 1000, "bf16_tflops": 200}, "upload"
    )
    library = Library(models={"my-model": model(LLAMA)}, gpus={"my-gpu": card})
    found = estimate(Scenario(model="my-model", gpu="my-gpu"), library=library).rows()[0]
    assert (found["error"], found["model"], found["gpu"]) == (None, "my-model", "my-gpu")


def test_copies_on_one_card_share_it() -> None:
    one, two = (row(weight_format="fp8", concurrency=16, copies_per_gpu=copies) for copies in (1, 2))
    assert two["kv_pool_gib"] < one["kv_pool_gib"] / 2
    assert two["output_tokens_per_s"] < one["output_tokens_per_s"] * 1.1


def test_intervals_hold_their_figure() -> None:
    found = row(concurrency=32)
    for name in INTERVALS:
        assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"]


def test_rows_are_json_without_nan() -> None:
    rows = estimate([Scenario(model=LLAMA, gpu="h100-sxm"), Scenario(model="?", gpu="?")]).rows()
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def test_every_column_is_documented_once() -> None:
    names = [name for name, says in documented() if says]
    assert tuple(names) == estimate_columns() and len(set(names)) == len(names)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 400), st.integers(16, 16000), st.integers(32, 2000))
def test_more_at_once_never_lowers_the_server_nor_speeds_up_a_user(at_once: int, prompt: int, answer: int) -> None:
    load = {"input_tokens": prompt, "output_tokens": answer, "enforce_eager": True}  # steps jump where graphs end
    less, more = row(concurrency=at_once, **load), row(concurrency=at_once + 40, **load)
    assert more["output_tokens_per_s"] >= less["output_tokens_per_s"] * 0.99
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
    "tensor_split": st.sampled_from(["1,1", "0,1", "1,2,3"]),
    "host_memory_gib": st.sampled_from([1.0, 64.0]),
    "host_bandwidth_gb_s": st.sampled_from([100.0, 400.0]),
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


def test_servers_load_an_fp32_checkpoint_in_16_bit() -> None:
    served, plain = (row(model="BAAI/bge-m3", engine=engine) for engine in ("vllm", "transformers"))
    assert (served["weight_format"], plain["weight_format"]) == ("fp16", "fp32")
    assert plain["weights_gib"] == pytest.approx(2 * served["weights_gib"], rel=0.01)


def test_an_encoder_writes_nothing_whatever_is_asked_for() -> None:
    found = row(model="BAAI/bge-m3", output_tokens=100)
    assert (found["output_tokens"], found["output_tokens_per_s"], found["tpot_ms"]) == (0, 0, None)


def test_llama_cpp_loads_the_image_encoder_for_images_only() -> None:
    columns = {"model": "google/gemma-3-12b-it", "gpu": "rtx4090", "weight_format": "gguf-q4_k_m"}
    blind, seeing = (row(**columns, images_per_request=count)["weights_gib"] for count in (0, 1))
    assert seeing - blind == pytest.approx(0.42 * 2e9 / 2**30, rel=0.05)  # 0.42 B parameters of SigLIP, 16 bit


def test_answers_that_vary_in_length_leave_room_for_fewer() -> None:
    even, varied = (row(output_tokens=500, output_tokens_p95=p95) for p95 in (None, 1500))
    assert varied["max_concurrency_expected"] < even["max_concurrency_expected"]
    assert varied["max_concurrency"] == even["max_concurrency"]


def test_a_checkpoint_s_own_cache_format_holds_where_the_engine_has_it() -> None:
    name = "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-FP8"
    assert row(model=name, gpu="h200-sxm")["kv_format"] == "fp8"
    found = row(model=name, gpu="h200-sxm", engine="llama.cpp", weight_format="gguf-q4_k_m")
    assert (found["kv_format"], found["fits"]) == ("fp16", True)


def test_an_old_build_of_llamacpp_starts_its_kernels_later() -> None:
    asked = Scenario(model="llama-3-8b", weight_format="gguf-q4_k_m", gpu="rtx4090", input_tokens=0, output_tokens=128)
    old, new = estimate([asked.model_copy(update={"engine_version": build}) for build in ("b2824", "b7000")]).tpot_ms
    assert 1.1 < old / new < 1.5


def test_old_builds_of_llamacpp_start_experts_one_after_another_on_cuda_only() -> None:
    def decode(gpu: str, version: str) -> float:
        asked = {"gpu": gpu, "engine": "llama.cpp", "engine_version": version, "weight_format": "gguf-q4_0"}
        found = row(model="deepseek-ai/DeepSeek-V2-Lite", input_tokens=256, **asked)
        return float(found["tpot_ms"])

    routed = 26 * 6  # layers with experts, experts per token
    assert decode("rtx3090", "b5100") - decode("rtx3090", "b5250") == pytest.approx(routed * 0.04, rel=0.05)
    assert decode("apple-m2-ultra", "b5100") == pytest.approx(decode("apple-m2-ultra", "b5250"))


def test_fp4_of_a_base_model_leaves_in_16_bit_what_its_published_checkpoint_does() -> None:
    asked = {"gpu": "b200", "tp": 8, "concurrency": 4}
    base = Scenario(model="Qwen/Qwen3.5-397B-A17B", weight_format="nvfp4", **asked)
    published = Scenario(model="nvidia/Qwen3.5-397B-A17B-NVFP4", **asked)
    mine, theirs = estimate([base, published]).rows()
    assert mine["checkpoint"] == theirs["checkpoint"] == "nvidia/Qwen3.5-397B-A17B-NVFP4"
    assert mine["weights_gib"] == theirs["weights_gib"] and mine["tpot_ms"] == theirs["tpot_ms"]
