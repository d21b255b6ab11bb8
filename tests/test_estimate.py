"""What an estimate says of a scenario, and that batches change nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from planner.catalog.engines import engine_ids
from planner.estimate import INTERVALS, NO_LIBRARY, documented, estimate, estimate_columns
from planner.estimate.answer import mean_batch
from planner.estimate.resolve import resolve
from planner.estimate.single import priced_scenario
from planner.ops import Batch
from planner.specs.scenario import Scenario
from tests.asking import LLAMA, LLAMA_70B, row

HYBRID = "Qwen/Qwen3-Next-80B-A3B-Instruct"


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


def test_a_card_that_others_fill_says_so() -> None:
    for engine in engine_ids():
        weights = "gguf-q4_k_m" if engine == "llama.cpp" else None
        found = row(engine=engine, weight_format=weights, reserved_gib=200)
        assert found["budget_gib"] >= 0 and found["reason_code"] in ("out_of_free_memory", "unsupported_format")


def test_an_empty_prompt_and_one_token_take_one_step() -> None:
    found = row(input_tokens=0, output_tokens=1)
    assert found["ttft_ms"] > 0 and found["tpot_ms"] is None and found["prefill_tokens_per_s"] is None


def test_an_empty_prompt_in_a_runner_without_overheads_takes_no_time_and_warns_of_nothing() -> None:
    found = row(engine="none", input_tokens=0, output_tokens=2, concurrency=32)
    assert found["tpot_ms"] > 0 and not found["error"]


def test_what_does_not_run_has_no_price_per_token() -> None:
    found = row(model=LLAMA_70B, usd_per_gpu_hour=2)
    assert found["usd_per_hour"] == 2 and found["usd_per_million_output_tokens"] is None
    assert found["usd_per_request"] is None


def test_a_request_has_a_price_where_nothing_is_written() -> None:
    found = row(model="Qwen/Qwen3-Embedding-0.6B", concurrency=8, usd_per_gpu_hour=2)
    assert found["usd_per_million_output_tokens"] is None
    assert found["usd_per_request"] == pytest.approx(2 / 3600 / found["requests_per_s"])


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
    assert "TPOT" in found["reason"] and "above 1.0 ms" in found["reason"]


def test_an_encoder_has_a_rate_and_generates_nothing() -> None:
    found = row(model="Qwen/Qwen3-Embedding-8B", input_tokens=512)
    assert found["task"] == "embed" and found["output_tokens"] == 0
    assert found["requests_per_s"] > 1 and found["tpot_ms"] is None


def test_images_lengthen_the_prompt_and_need_an_encoder() -> None:
    seen, blind = (row(model="Qwen/Qwen3-VL-8B-Instruct", images_per_request=count) for count in (4, 0))
    assert seen["ttft_unloaded_ms"] > 1.5 * blind["ttft_unloaded_ms"]
    assert "no image encoder" in row(images_per_request=1)["error"]


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


def test_llama_cpp_loads_the_image_encoder_for_images_only() -> None:
    columns = {"model": "google/gemma-3-12b-it", "gpu": "rtx4090", "weight_format": "gguf-q4_k_m"}
    blind, seeing = (row(**columns, images_per_request=count)["weights_gib"] for count in (0, 1))
    assert seeing - blind == pytest.approx(0.42 * 2e9 / 2**30, rel=0.05)  # 0.42 B parameters of SigLIP, 16 bit


def test_answers_that_vary_in_length_leave_room_for_fewer() -> None:
    even, varied = (row(output_tokens=500, output_tokens_p95=p95) for p95 in (None, 1500))
    assert varied["max_concurrency_expected"] < even["max_concurrency_expected"]
    assert varied["max_concurrency"] == even["max_concurrency"]


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


def mean_step(**columns: Any) -> Batch:
    """The mean step of one scenario."""
    priced = priced_scenario(Scenario(**{"model": LLAMA, "gpu": "rtx4090", "weight_format": "gguf-q4_k_m"} | columns))
    return mean_batch(priced)


def test_a_mean_step_prefills_no_more_than_one_pass_of_the_engine_takes() -> None:
    assert mean_step(input_tokens=8000, output_tokens=0).prefill_tokens == 512  # llama.cpp's physical batch


def test_tokens_that_are_guessed_bring_prompts_sooner() -> None:
    load = {"input_tokens": 400, "output_tokens": 401, "concurrency": 1, "weight_format": "bf16", "gpu": "h100-sxm"}
    plain, drafted = (
        mean_step(**load, draft_model=name, speculative_tokens=k, acceptance_rate=a)
        for name, k, a in ((None, None, None), ("ngram", 1, 1.0))
    )
    assert (plain.prefill_tokens, drafted.prefill_tokens) == (pytest.approx(1.0), pytest.approx(2.0))


def test_states_whose_prefixes_are_cached_take_more_room() -> None:
    """As resolve_max_num_reqs of SGLang divides its pool of states: by three, five or, without a radix cache, one."""
    asked = {"model": HYBRID, "gpu": "b200", "tp": 2, "engine": "sglang", "gpu_memory_utilization": 0.8}
    held = [row(**asked, engine_version=version)["max_concurrency"] for version in ("0.5.9", "0.5.16")]
    assert 3 * held[0] == pytest.approx(5 * held[1], rel=0.01)
    plain = {row(**asked, engine_version=v, prefix_caching=False)["max_concurrency"] for v in ("0.5.9", "0.5.16")}
    assert len(plain) == 1 and plain.pop() > 2 * held[0]


def test_steps_of_states_whose_prefixes_are_cached_did_not_overlap_in_some_versions_of_sglang() -> None:
    """sglang#13057; the released change of the default to extra_buffer ends it."""
    more_ms = {}
    for model, version in ((HYBRID, "0.5.8"), (HYBRID, "0.5.16"), (LLAMA, "0.5.8")):
        asked = {"model": model, "gpu": "b200", "tp": 2, "engine": "sglang", "engine_version": version}
        more_ms[model, version] = row(**asked)["tpot_ms"] - row(**asked, prefix_caching=False)["tpot_ms"]
    assert list(more_ms.values()) == pytest.approx([0.32, 0, 0], abs=0.03)


def test_sglang_chooses_experts_in_several_kernels_where_none_of_its_own_takes_so_many() -> None:
    """topk.py: 256 in one group were too many before 0.5.8, 160 with a shared one and 22 of 512 still are."""
    several = {
        "zai-org/GLM-4.6": [50, 50, 50, 50],
        "zai-org/GLM-4.5-Air": [50, 50, 0, 0],
        "zai-org/GLM-5": [50, 0, 0, 0],
        "MiniMaxAI/MiniMax-M2.5": [0, 0, 0, 0],
        "deepseek-ai/DeepSeek-R1": [0, 0, 0, 0],
        "Qwen/Qwen3-30B-A3B": [0, 0, 0, 0],
        "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": [50, 0, 0, 0],
        "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-FP8": [50, 50, 50, 50],
    }
    for name, expected_us in several.items():
        asked = [
            Scenario(model=name, gpu="h200-sxm", engine="sglang", engine_version=v)
            for v in ("0.5.7", "0.5.8", "0.5.12", "0.5.16")
        ]
        found_us = [resolve(each, NO_LIBRARY, {}).engine.routing.router_s * 1e6 for each in asked]
        assert found_us == pytest.approx(expected_us)


def test_vllm_chooses_corrected_experts_in_one_kernel_from_0_15_on() -> None:
    router_us = {}
    for name in ("zai-org/GLM-4.6", "deepseek-ai/DeepSeek-R1", "Qwen/Qwen3-235B-A22B"):
        row = Scenario(model=name, engine="vllm", gpu="h200-sxm", n_gpus=8)
        asked = (row.model_copy(update={"engine_version": version}) for version in ("0.11.0", "0.14.1", "0.15.1"))
        router_us[name] = [round(resolve(one, NO_LIBRARY, {}).engine.routing.router_s * 1e6) for one in asked]
    assert list(router_us.values()) == [[20, 20, 0], [20, 20, 0], [0, 0, 0]]


def test_sglang_divides_its_sequences_among_attention_ranks() -> None:
    sharded = {"model": "deepseek-ai/DeepSeek-V3.2", "gpu": "h200-sxm", "tp": 8, "attention_dp": 8, "concurrency": 512}
    most = {name: row(**sharded, engine=name, max_num_seqs=60)["max_concurrency"] for name in ("vllm", "sglang")}
    assert most == {"vllm": 480, "sglang": 56}  # 60 a rank; 60 of all, so 7 a rank
    blank = row(**sharded, engine="sglang")
    again = row(**sharded, engine="sglang", max_num_seqs=blank["max_num_seqs"])
    assert again["tpot_ms"] == blank["tpot_ms"] and again["max_num_seqs"] == blank["max_num_seqs"]


def test_sglang_serves_few_sequences_while_drafting_unless_told_otherwise() -> None:
    drafts = {"model": "Qwen/Qwen3.6-27B", "gpu": "h200-sxm", "draft_model": "mtp", "speculative_tokens": 3}
    asked = ({"engine": "sglang"}, {"engine": "sglang", "max_num_seqs": 320}, {"engine": "vllm"})
    assert [row(**drafts, **more, concurrency=64)["max_num_seqs"] for more in asked] == [48, 320, 1024]


def test_sglang_serves_few_sequences_of_deepseek_v4_unless_told_otherwise() -> None:
    sharded = {"model": "deepseek-ai/DeepSeek-V4-Flash", "gpu": "b200", "tp": 8, "engine": "sglang", "concurrency": 64}
    most = [row(**sharded, **more)["max_num_seqs"] for more in ({}, {"attention_dp": 8}, {"max_num_seqs": 320})]
    assert most == [256, 256, 320]
    ranks = row(**sharded, attention_dp=8)
    assert ranks["max_concurrency"] == 256  # 32 a rank
    assert row(**sharded | {"model": "deepseek-ai/DeepSeek-V3.2"})["max_num_seqs"] == 4096
