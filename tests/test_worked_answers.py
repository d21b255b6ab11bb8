"""The cases that articles work through: each comes out, and the planner says why."""

from __future__ import annotations

from typing import Any

import pytest

from planner import explain
from planner.catalog import models, quality
from planner.estimate import estimate
from planner.estimate.quality import quality_of
from planner.explain.quality import across_sizes, quality_lines
from planner.search import RankBy, Recommendation, Space, Wish, default_formats, recommend
from planner.specs.scenario import Scenario

SEVENTY = "meta-llama/Llama-3.3-70B-Instruct"
TWO_SIZES = ("meta-llama/Llama-2-70b-hf", "meta-llama/Llama-2-13b-hf")
SHORT = {"input_tokens": 1000, "output_tokens": 300}


def found(load: dict[str, Any], models: tuple[str, ...], gpu: str, count: int = 1, **space: Any) -> Recommendation:
    return recommend(Scenario(**load), Space(models=models, gpus=(gpu,), counts=(count,), **space), Wish())


def row(**columns: Any) -> dict[str, Any]:
    return estimate(Scenario(**columns)).rows()[0]


@pytest.mark.parametrize("gpu", ["h100-sxm", "l40s"])
def test_70b_in_4_bit_comes_before_13b_in_16_bit_on_80_and_on_48_gb(gpu: str) -> None:
    best = found({"concurrency": 4, **SHORT}, TWO_SIZES, gpu, formats=("awq-int4-g128", "bf16")).candidates
    assert (best[0]["model"], best[0]["weight_format"]) == (TWO_SIZES[0], "awq-int4-g128")
    told = across_sizes(best[0], best[1])
    assert told and "MMLU: Llama-2-70b-hf 66.23 against Llama-2-13b-hf 52.86" in told.text


def test_70b_on_two_24_gb_cards_takes_one_user_and_not_three_with_32k_each() -> None:
    assert found({"concurrency": 1, "input_tokens": 4000, "output_tokens": 500}, (SEVENTY,), "rtx4090", 2).candidates
    long = found({"concurrency": 3, "input_tokens": 32_000, "output_tokens": 500}, (SEVENTY,), "rtx4090", 2)
    assert not long.candidates and "nothing is left after" in long.verdict


def test_what_would_do_for_three_users_with_32k_each_is_said() -> None:
    asked = Scenario(
        model=SEVENTY, weight_format="awq-int4-g128", gpu="rtx4090", n_gpus=2, concurrency=3, input_tokens=32_000
    )
    before = estimate(asked).rows()[0]
    changes = explain.changes(asked, before, lambda tried: estimate(tried).rows())
    assert any(change.label == "4 GPUs" and change.verdict == "holds" for change in changes)


def test_a_24_gb_card_runs_8b_in_16_bit_and_13b_only_quantized() -> None:
    chat = {"concurrency": 1, "input_tokens": 3000, "output_tokens": 500}
    assert row(model="Qwen/Qwen3-8B", gpu="rtx4090", weight_format="bf16", **chat)["verdict"] == "holds"
    held = {one["weight_format"] for one in found(chat, (TWO_SIZES[1],), "rtx4090").candidates}
    assert "bf16" not in held and held & {"fp8", "int8-w8a8", "awq-int4-g128", "gguf-q8_0"}


@pytest.mark.parametrize("gpu", ["apple-m3", "rtx4060"])
def test_3b_runs_on_a_laptop_faster_than_one_reads(gpu: str) -> None:
    best = row(model="meta-llama/Llama-3.2-3B-Instruct", gpu=gpu, weight_format="gguf-q4_k_m", input_tokens=2000)
    assert best["verdict"] == "holds" and best["output_tokens_per_s_per_request"] > 10


def test_a_100b_mixture_runs_on_a_laptop_and_on_a_24_gb_card_with_its_experts_on_the_host() -> None:
    case = {"model": "openai/gpt-oss-120b", "weight_format": "gguf-mxfp4_moe", "engine": "llama.cpp"}
    assert row(gpu="apple-m4-max", **case)["verdict"] == "holds"
    assert row(gpu="rtx4090", **case)["reason_code"] == "out_of_weights"
    hosted = row(gpu="rtx4090", n_cpu_moe=36, host_memory_gib=96, **case)
    assert hosted["verdict"] == "holds" and hosted["host_needed_gib"] > 50


def test_a_1t_model_is_600_gb_in_its_native_int4_and_340_gb_only_below_3_bit() -> None:
    """Kimi K2.5's publisher states about 595 GB; 340 GB is 2.6 bits a parameter."""
    native = row(model="moonshotai/Kimi-K2.5", gpu="b200", tp=8)
    assert 560 < native["weights_gib"] * 8 * 1.0737 < 640 and native["quality_evidence"] == "trained for"
    smaller = row(model="moonshotai/Kimi-K2-Instruct", gpu="b200", n_gpus=8, weight_format="gguf-iq2_xs")
    assert smaller["weights_gib"] * 8 * 1.0737 < 340
    assert quality.format_class("gguf-iq2_xs").bits <= quality.EDGE_BITS  # type: ignore[union-attr]


def test_fp8_comes_first_on_hopper_under_a_production_load() -> None:
    load = Scenario(concurrency=64, input_tokens=2000, output_tokens=500)
    space = Space(models=(SEVENTY,), gpus=("h100-sxm",), counts=(2,))
    best = recommend(load, space, Wish(rank_by=RankBy.THROUGHPUT)).candidates[0]
    assert best["weight_format"] == "fp8" and best["support"] == "native"


def test_where_the_domain_is_unknown_awq_or_8_bit_is_advised_before_gptq() -> None:
    kinds = "gptq-int4-g128", "bf16"
    task = quality.family("chat")
    told = quality_lines(quality_of(models.model(SEVENTY), *kinds, task, ()), *kinds, "chat")
    assert any(said.warns and "take AWQ or 8 bit" in said.text for said in told)


def test_nothing_below_4_bit_is_offered_to_servers() -> None:
    for gpu in ("h100-sxm", "a100-80-sxm", "b200", "mi300x"):
        for name in default_formats(SEVENTY, gpu, "vllm"):
            group = quality.format_class(name)
            assert group is None or group.bits > quality.EDGE_BITS


def test_70b_on_one_h100_takes_quantization() -> None:
    best = found({"concurrency": 8, "input_tokens": 2000, "output_tokens": 500}, (SEVENTY,), "h100-sxm")
    assert {one["weight_format"] for one in best.candidates} == {"awq-int4-g128"}
    assert best.rejected
