"""Answers that articles and forums give to "which size, which precision, on what", as the planner gives them.

Each is explained in docs/recommend.md.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest

from planner import explain
from planner.catalog import formats, models
from planner.catalog.quality import family
from planner.estimate import estimate
from planner.estimate.quality import quality_of, stored_checks
from planner.explain.quality import across_sizes, quality_lines
from planner.formats import bits_per_weight, weight_bytes
from planner.search import RankBy, Recommendation, Space, Wish, default_formats, recommend
from planner.specs.scenario import Scenario
from planner.units import GB, GIB

SEVENTY, THIRTEEN = "meta-llama/Llama-2-70b-hf", "meta-llama/Llama-2-13b-hf"
LLAMA = "meta-llama/Llama-3.3-70B-Instruct"
AWQ, GPTQ = "awq-int4-g128", "gptq-int4-g128"
ONE = Scenario(concurrency=1, input_tokens=1500, output_tokens=500)
SERVED = Scenario(concurrency=128, input_tokens=2000, output_tokens=500)
LONG = Scenario(concurrency=3, input_tokens=32000, output_tokens=768)


def row(**columns: Any) -> dict[str, Any]:
    found = estimate(Scenario(**columns)).rows()[0]
    assert found["error"] is None
    return found


@lru_cache(maxsize=32)
def found(load: Scenario, space: Space, rank_by: RankBy = RankBy.QUALITY) -> Recommendation:
    return recommend(load, space, Wish(rank_by=rank_by))


def kinds(answer: Recommendation) -> list[tuple[str, str]]:
    return [(line["model"], line["weight_format"]) for line in answer.candidates]


@pytest.mark.parametrize("gpu", ["h100-sxm", "a100-80-sxm", "a6000", "l40s"])
def test_70b_at_4_bit_comes_before_13b_at_16_bit_on_80_and_48_gb(gpu: str) -> None:
    space = Space(models=(SEVENTY, THIRTEEN), gpus=(gpu,), formats=("fp16", AWQ), counts=(1,))
    assert kinds(found(ONE, space))[0] == (SEVENTY, AWQ)
    assert (THIRTEEN, "fp16") in kinds(found(ONE, space))
    assert (SEVENTY, "fp16") not in kinds(found(ONE, space))
    told = across_sizes(*found(ONE, space).candidates[:2])
    assert told is None or "MMLU: Llama-2-70b-hf 66.23 against Llama-2-13b-hf 52.86" in told.text


def test_13b_at_16_bit_is_the_quicker_of_the_two() -> None:
    space = Space(models=(SEVENTY, THIRTEEN), gpus=("h100-sxm",), formats=("fp16", AWQ), counts=(1,))
    lines = {(line["model"], line["weight_format"]): line for line in found(ONE, space).candidates}
    speed = "output_tokens_per_s_per_request"
    assert lines[THIRTEEN, "fp16"][speed] > 1.3 * lines[SEVENTY, AWQ][speed]


TWO_CARDS = Space(models=(LLAMA,), gpus=("rtx4090",), counts=(2,), engines=("vllm", "llama.cpp"))


def test_70b_runs_on_two_24_gb_cards_for_one_at_short_context() -> None:
    space = TWO_CARDS.model_copy(update={"formats": (AWQ, "gguf-q4_k_m")})
    lines = found(ONE.model_copy(update={"input_tokens": 7000}), space).candidates
    assert {line["weight_format"] for line in lines} == {AWQ, "gguf-q4_k_m"}
    assert all(line["max_concurrency"] <= 2 for line in lines)


@pytest.mark.parametrize("cache", [(), ("fp8", "q8_0")])
def test_with_32k_for_three_users_two_24_gb_cards_do_not_do(cache: tuple[str, ...]) -> None:
    space = TWO_CARDS.model_copy(update={"formats": (AWQ, "gguf-q4_k_m"), "kv_formats": cache})
    answer = found(LONG, space)
    assert answer.candidates == []
    assert set(answer.reasons) <= {"out_of_kv_cache", "kv_pool_full", "out_of_weights", "unsupported_format"}
    assert any(code in answer.reasons for code in ("out_of_kv_cache", "kv_pool_full"))


def test_four_24_gb_cards_or_one_of_96_do() -> None:
    space = Space(models=(LLAMA,), gpus=("rtx4090", "rtxpro6000"), engines=("vllm",), formats=(AWQ,), counts=(1, 2, 4))
    fewest = {line["gpu"]: line["n_gpus"] for line in reversed(found(LONG, space, RankBy.COST).candidates)}
    assert fewest == {"rtxpro6000": 1, "rtx4090": 4}


def test_what_would_do_for_three_users_with_32k_is_among_the_changes() -> None:
    asked = LONG.model_copy(update={"model": LLAMA, "weight_format": AWQ, "gpu": "rtx4090", "n_gpus": 2})
    changes = explain.changes(asked, estimate(asked).rows()[0], lambda tried: estimate(tried).rows())
    assert any(change.label == "4 × GeForce RTX 4090" and change.verdict == "holds" for change in changes)


def test_a_24_gb_card_runs_8b_in_16_bit_and_13b_only_quantized() -> None:
    chat = ONE.model_copy(update={"input_tokens": 3000})
    space = Space(
        models=("Qwen/Qwen3-8B", THIRTEEN), gpus=("rtx4090",), counts=(1,), formats=("bf16", "fp16", "fp8", AWQ)
    )
    held = set(kinds(found(chat, space)))
    assert ("Qwen/Qwen3-8B", "bf16") in held
    assert (THIRTEEN, AWQ) in held and (THIRTEEN, "fp16") not in held


def test_one_24_gb_card_serves_7_to_13b_to_several() -> None:
    names = ("meta-llama/Llama-2-7b-hf", "meta-llama/Meta-Llama-3.1-8B", "Qwen/Qwen3-14B", LLAMA)
    answer = found(ONE.model_copy(update={"concurrency": 4}), Space(models=names, gpus=("rtx4090",), counts=(1,)))
    assert {line["model"] for line in answer.candidates} == set(names[:3])
    best = answer.candidates[0]
    assert best["model"] == "Qwen/Qwen3-14B" and best["output_tokens_per_s_per_request"] > 30


@pytest.mark.parametrize("gpu", ["apple-m2", "rtx4060"])
def test_3b_runs_on_a_laptop_faster_than_one_reads(gpu: str) -> None:
    best = found(ONE, Space(models=("Qwen/Qwen2.5-3B-Instruct",), gpus=(gpu,), counts=(1,))).candidates[0]
    assert best["output_tokens_per_s_per_request"] > 15
    assert best["engine"] in ("llama.cpp", "vllm")


def test_a_100b_class_moe_runs_on_a_laptop_with_128_gb_of_unified_memory() -> None:
    best = found(ONE, Space(models=("openai/gpt-oss-120b",), gpus=("strix-halo",), counts=(1,))).candidates[0]
    assert best["weight_format"] == "gguf-mxfp4_moe"
    assert best["output_tokens_per_s_per_request"] > 20


@pytest.mark.parametrize(
    ("model", "weights"), [("openai/gpt-oss-120b", "gguf-mxfp4_moe"), ("zai-org/GLM-4.5-Air", "gguf-q4_k_m")]
)
def test_a_100b_class_moe_runs_on_a_24_gb_card_with_its_experts_in_host_memory(model: str, weights: str) -> None:
    asked = {"model": model, "weight_format": weights, "gpu": "rtx4090", "engine": "llama.cpp", "concurrency": 1}
    asked |= {"input_tokens": 2000, "output_tokens": 500, "host_memory_gib": 64}
    assert not row(**asked)["starts"]
    held = row(**asked, n_cpu_moe=36)
    assert held["holds_load"]
    assert held["host_needed_gib"] < 64
    assert held["output_tokens_per_s_per_request"] > 8


def test_a_1t_model_released_in_int4_is_600_gb_and_340_gb_is_its_2_bit_file() -> None:
    kimi = models.model("moonshotai/Kimi-K2.5")
    sizes = {name: weight_bytes(kimi, formats.weight_format(name)) / GB for name in ("int4-g32", "gguf-q2_k_s")}
    assert sizes["int4-g32"] == pytest.approx(595, rel=0.02)
    assert sizes["gguf-q2_k_s"] == pytest.approx(340, rel=0.05)
    native = row(model="moonshotai/Kimi-K2.5", gpu="h200-sxm", n_gpus=8, concurrency=16)
    assert native["weight_format"] == "int4-g32" and native["holds_load"]
    assert native["quality_loss_points"] == 0
    assert not row(model="moonshotai/Kimi-K2.5", gpu="h100-sxm", n_gpus=8, concurrency=16)["starts"]


def test_fp8_wins_on_hopper_in_production() -> None:
    space = Space(models=(LLAMA,), gpus=("h100-sxm",), counts=(4,), formats=("bf16", "fp8", AWQ, "int8-w8a8"))
    for by in (RankBy.COST, RankBy.QUALITY, RankBy.THROUGHPUT):
        assert found(SERVED, space, by).candidates[0]["weight_format"] == "fp8"


def test_4_bit_wins_on_hopper_alone_and_fp8_at_load() -> None:
    speeds = {}
    for name in ("fp8", AWQ):
        for load in (1, 128):
            found_ = row(model=LLAMA, gpu="h100-sxm", tp=4, weight_format=name, concurrency=load)
            speeds[name, load] = found_["output_tokens_per_s"]
    assert speeds[AWQ, 1] > speeds["fp8", 1]
    assert speeds["fp8", 128] > speeds[AWQ, 128]


def test_awq_is_what_is_offered_when_the_domain_is_unknown() -> None:
    assert AWQ in default_formats(LLAMA, "h100-sxm", "vllm")
    assert GPTQ not in default_formats(LLAMA, "h100-sxm", "vllm")


def test_awq_and_gptq_cannot_be_told_apart_and_both_warn_of_their_calibration() -> None:
    space = Space(models=(LLAMA,), gpus=("h100-sxm",), counts=(1,), formats=(AWQ, GPTQ))
    first = found(ONE, space).candidates[0]
    assert first["tie_with"] == [2]
    for name in (AWQ, GPTQ):
        said = quality_lines(
            quality_of(models.model(LLAMA), name, "bf16", family(None), stored_checks()), name, "bf16", None
        )
        assert any(line.warns and "take 8 bit, or AWQ rather than GPTQ" in line.text for line in said)


@pytest.mark.parametrize("engine", ["vllm", "llama.cpp"])
def test_nothing_below_4_bit_is_offered_unless_named(engine: str) -> None:
    spec = models.model("Qwen/Qwen3-32B")
    offered = default_formats(spec.id, "rtx4090", engine)
    assert min(bits_per_weight(spec, formats.weight_format(name)) for name in offered) > 4


def test_a_format_below_4_bit_that_is_named_warns() -> None:
    spec = models.model("Qwen/Qwen3-32B")
    evidence = quality_of(spec, "gguf-q2_k", "fp16", family(None), stored_checks())
    assert any(line.warns and "below 4 bit" in line.text for line in quality_lines(evidence, "gguf-q2_k", "fp16", None))
    space = Space(models=(spec.id, "Qwen/Qwen3-14B"), gpus=("rtx4090",), counts=(1,), engines=("llama.cpp",))
    named = space.model_copy(update={"formats": ("gguf-q2_k", "gguf-q4_k_m")})
    assert kinds(found(ONE.model_copy(update={"input_tokens": 30000}), named))[0] == ("Qwen/Qwen3-14B", "gguf-q4_k_m")


def test_70b_fits_one_h100_quantized_and_only_4_bit_leaves_room_for_many() -> None:
    space = Space(models=(LLAMA,), gpus=("h100-sxm",), counts=(1,), formats=("bf16", "fp8", AWQ))
    many = found(SERVED.model_copy(update={"concurrency": 16}), space)
    assert {line["weight_format"] for line in many.candidates} == {AWQ}
    rooms = {
        name: row(model=LLAMA, gpu="h100-sxm", tp=1, weight_format=name, concurrency=1) for name in ("bf16", "fp8")
    }
    assert not rooms["bf16"]["starts"]
    assert 1 <= rooms["fp8"]["max_concurrency"] < 16
    assert rooms["fp8"]["weights_gib"] < 80 * GB / GIB


def test_the_format_of_the_release_comes_first_where_it_costs_as_good_as_the_same() -> None:
    load = Scenario(model="deepseek-v3.1", gpu="h200-sxm", n_gpus=8, concurrency=64)
    found = recommend(load, Space(), Wish()).candidates
    best, cheapest = found[0], min(found, key=lambda row: row["usd_per_request"])
    assert best["weight_format"] == "fp8-block128" != cheapest["weight_format"]
    assert best["usd_per_request"] <= 1.1 * cheapest["usd_per_request"]
    by_cost = recommend(load, Space(), Wish(rank_by=RankBy.COST)).candidates
    assert by_cost[0]["weight_format"] == cheapest["weight_format"]
