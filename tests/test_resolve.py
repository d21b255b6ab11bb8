"""From columns to specs and layouts: defaults, names, divisions, and what is refused."""

from __future__ import annotations

import pytest

from planner.catalog.gpus import gpu_from_profile
from planner.catalog.models import model
from planner.estimate import Library, estimate
from planner.specs.scenario import Scenario
from tests.asking import LLAMA, LLAMA_70B, row


def test_every_default_is_echoed() -> None:
    found = row()
    echoed = ("weight_format", "kv_format", "engine", "engine_version", "tp", "dp", "n_gpus", "device_gib")
    assert all(found[name] is not None for name in echoed)
    assert (found["weight_format"], found["engine"], found["concurrency"]) == ("bf16", "vllm", 1)


def test_an_echoed_scenario_estimates_the_same() -> None:
    first = estimate(Scenario(model=LLAMA_70B, gpu="h100-sxm", n_gpus=8, concurrency=64))
    again = estimate(first.scenarios[0])
    assert again.rows()[0] == first.rows()[0]


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


def test_where_no_group_starts_the_nearest_to_it_is_shown() -> None:
    found = row(model="deepseek-ai/DeepSeek-R1", gpu="h100-sxm", n_gpus=8)
    assert (found["starts"], found["tp"], found["dp"]) == (False, 8, 1)
    assert found["weights_gib"] < found["device_gib"] + 10  # a GPU of one replica: near, not eight times too much


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


def test_an_unsupported_format_is_an_answer_with_its_reason() -> None:
    found = row(engine="llama.cpp", weight_format="fp8")
    assert (found["error"], found["support"], found["reason_code"]) == (None, "unsupported", "unsupported_format")
    assert found["reason"] and found["tpot_ms"] is None


def test_a_shared_prefix_longer_than_the_prompt_is_refused_in_one_line() -> None:
    found = row(input_tokens=2000, shared_prefix_tokens=3000)
    assert "'shared_prefix_tokens': 3,000" in found["error"] and "0 to 2,000" in found["error"]
    assert "\n" not in found["error"] and not row(input_tokens=2000, shared_prefix_tokens=2000)["error"]


def test_models_and_gpus_that_a_caller_brings_are_used_by_their_names() -> None:
    card = gpu_from_profile(
        {"id": "mine", "name": "Mine", "label_gb": 40, "bandwidth_gb_per_s": 1000, "bf16_tflops": 200}, "upload"
    )
    library = Library(models={"my-model": model(LLAMA)}, gpus={"my-gpu": card})
    found = estimate(Scenario(model="my-model", gpu="my-gpu"), library=library).rows()[0]
    assert (found["error"], found["model"], found["gpu"]) == (None, "my-model", "my-gpu")


def test_servers_load_an_fp32_checkpoint_in_16_bit() -> None:
    served, plain = (row(model="BAAI/bge-m3", engine=engine) for engine in ("vllm", "transformers"))
    assert (served["weight_format"], plain["weight_format"]) == ("fp16", "fp32")
    assert plain["weights_gib"] == pytest.approx(2 * served["weights_gib"], rel=0.01)


def test_an_encoder_writes_nothing_whatever_is_asked_for() -> None:
    found = row(model="BAAI/bge-m3", output_tokens=100)
    assert (found["output_tokens"], found["output_tokens_per_s"], found["tpot_ms"]) == (0, 0, None)
    scenario = Scenario(model="BAAI/bge-m3", gpu="l4", tpot_slo_ms=10)
    assert "'tpot_slo_ms': BAAI/bge-m3 writes no tokens" in str(estimate([scenario]).rows()[0]["error"])


def test_a_checkpoint_s_own_cache_format_holds_where_the_engine_has_it() -> None:
    name = "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-FP8"
    assert row(model=name, gpu="h200-sxm")["kv_format"] == "fp8"
    found = row(model=name, gpu="h200-sxm", engine="llama.cpp", weight_format="gguf-q4_k_m")
    assert (found["kv_format"], found["fits"]) == ("fp16", True)


@pytest.mark.parametrize(
    ("gpu", "engine", "kv"), [("b200", "sglang", "fp8"), ("h200-sxm", "sglang", "bf16"), ("b200", "vllm", "bf16")]
)
def test_sglang_caches_picked_latents_in_fp8_on_blackwell(gpu: str, engine: str, kv: str) -> None:
    asked = {"gpu": gpu, "engine": engine, "tp": 8, "weight_format": "fp8-block128"}
    assert row(model="deepseek-ai/DeepSeek-V3.2", **asked)["kv_format"] == kv
    assert row(model="deepseek-ai/DeepSeek-V3.1", **asked)["kv_format"] == "bf16"


@pytest.mark.parametrize("gpu", ["b200", "h200-sxm"])
def test_sglang_caches_pooled_vectors_in_fp8(gpu: str) -> None:
    assert row(model="deepseek-ai/DeepSeek-V4-Flash", gpu=gpu, engine="sglang", tp=4)["kv_format"] == "fp8"


def test_fp4_of_a_base_model_leaves_in_16_bit_what_its_published_checkpoint_does() -> None:
    asked = {"gpu": "b200", "tp": 8, "concurrency": 4}
    base = Scenario(model="Qwen/Qwen3.5-397B-A17B", weight_format="nvfp4", **asked)
    published = Scenario(model="nvidia/Qwen3.5-397B-A17B-NVFP4", **asked)
    mine, theirs = estimate([base, published]).rows()
    assert mine["checkpoint"] == theirs["checkpoint"] == "nvidia/Qwen3.5-397B-A17B-NVFP4"
    assert mine["weights_gib"] == theirs["weights_gib"] and mine["tpot_ms"] == theirs["tpot_ms"]
