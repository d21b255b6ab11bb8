"""The one door: what a scenario resolves to, what the estimate says of it, and that batches change nothing."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.catalog.gpus import gpu_from_profile
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


def test_single_stream_conventions_leave_blank_what_has_no_meaning() -> None:
    decode = row(input_tokens=0, output_tokens=128)
    prefill = row(input_tokens=512, output_tokens=1)
    assert decode["prefill_tokens_per_s"] is None and decode["tpot_ms"] > 0
    assert prefill["tpot_ms"] is None and prefill["prefill_tokens_per_s"] > 0


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
    assert names == estimate_columns() and len(set(names)) == len(names)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 400), st.integers(16, 16000), st.integers(2, 2000))
def test_more_at_once_never_lowers_the_server_nor_speeds_up_a_user(at_once: int, prompt: int, answer: int) -> None:
    load = {"input_tokens": prompt, "output_tokens": answer}
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
