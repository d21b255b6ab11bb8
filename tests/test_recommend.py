"""What a recommendation puts first and why, and what it says when nothing is left."""

from __future__ import annotations

import math
from typing import Any

import pytest

from planner.errors import BadValue
from planner.estimate import estimate
from planner.search import RankBy, Space, Weights, Wish, recommend, words
from planner.search.order import blended, crawls, near_ties, ordered, pareto, patience
from planner.specs.scenario import Scenario

SPACE = Space(models=("Qwen/Qwen3-8B", "Qwen/Qwen3-32B"), gpus=("h100-sxm",))
LOAD = Scenario(concurrency=16, input_tokens=2000, output_tokens=500)


def test_one_replica_less_does_not_meet_what_the_winner_meets() -> None:
    load = LOAD.model_copy(update={"concurrency": 600, "tpot_slo_ms": 30.0})
    best = recommend(load, SPACE.model_copy(update={"tps": (1,), "formats": ("fp8",)}), Wish()).candidates[-1]
    fewer = (best["replicas"] - 1,)
    less = recommend(load, SPACE.model_copy(update={"tps": (1,), "formats": ("fp8",), "replicas": fewer}), Wish())
    assert best["replicas"] > 1
    assert best["model"] not in {row["model"] for row in less.candidates}


@pytest.mark.parametrize(
    ("wish", "filtered"),
    [
        (Wish(max_usd_per_hour=0.5), "would exceed a budget"),
        (Wish(min_output_tokens_per_s=1e7), "would stay below a minimum that was set"),
        (Wish(min_context_tokens=1e9), "would stay below a minimum that was set"),
        (Wish(ttft_slo_ms=1), "would be slower than the objectives"),
    ],
)
def test_an_empty_set_says_which_filter_emptied_it(wish: Wish, filtered: str) -> None:
    found = recommend(LOAD, SPACE, wish)
    assert found.candidates == []
    assert found.verdict.endswith(filtered)


def test_a_format_that_nothing_runs_is_the_filter() -> None:
    found = recommend(LOAD, SPACE.model_copy(update={"formats": ("gguf-q4_k_m",), "engines": ("vllm",)}), Wish())
    assert found.verdict.endswith("would use a format that the engine or the GPU does not support")


def test_budgets_hold_for_every_candidate() -> None:
    wish = Wish(max_gpus=4, max_usd_per_hour=9, max_power_w=2100, min_output_tokens_per_s_per_request=30)
    found = recommend(LOAD.model_copy(update={"concurrency": 200}), SPACE, wish)
    assert found.candidates
    for row in found.candidates:
        assert row["n_gpus"] <= 4 and row["usd_per_hour"] <= 9 and row["power_w"] <= 2100
        assert row["output_tokens_per_s_per_request"] >= 30


def test_what_nobody_measured_does_not_pass_a_limit_on_what_is_lost() -> None:
    space = Space(models=("Qwen/Qwen3-8B",), gpus=("rtx4090",), formats=("gguf-f16", "gguf-iq4_nl"))
    found = recommend(Scenario(concurrency=1), space, Wish(max_quality_loss_points=0))
    assert {row["weight_format"] for row in found.candidates} == {"gguf-f16"}
    assert any("no evidence" in row["reason"] for row in found.rejected)


def test_a_price_of_ones_own_takes_the_place_of_the_examples() -> None:
    found = recommend(LOAD, SPACE, Wish(usd_per_gpu_hour={"h100-sxm": 1.25}))
    assert all(row["usd_per_hour"] == pytest.approx(1.25 * row["n_gpus"]) for row in found.candidates)


@pytest.mark.parametrize("by", [by for by in RankBy if by is not RankBy.BLEND])
def test_an_order_is_kept_by_what_it_orders(by: RankBy) -> None:
    rows = recommend(LOAD, SPACE, Wish(rank_by=by)).candidates
    column = {"quality": "quality_score", "cost": "usd_per_request"}
    column |= {"throughput": "output_tokens_per_s_per_gpu", "latency": "e2e_ms"}
    values = [row[column[by.value]] for row in rows]
    assert values == sorted(values, reverse=by in (RankBy.QUALITY, RankBy.THROUGHPUT))


def test_of_equal_hours_the_one_that_completes_more_is_cheaper() -> None:
    load = Scenario(concurrency=256, input_tokens=1500, output_tokens=400)
    space = Space(models=("openai/gpt-oss-120b",), gpus=("h100-sxm",), counts=(8,), engines=("vllm",))
    rows = recommend(load, space, Wish(rank_by=RankBy.COST)).candidates
    assert len({row["tp"] for row in rows}) > 1 and len({row["usd_per_hour"] for row in rows}) == 1
    served = [row["requests_per_s"] for row in rows]
    assert served == sorted(served, reverse=True)


def test_a_blend_of_one_wish_is_that_wish() -> None:
    only = Weights(quality=0, cost=1, throughput=0, latency=0)
    rows = recommend(LOAD, SPACE, Wish()).candidates
    blend, cost = (
        ordered(rows, wish) for wish in (Wish(rank_by=RankBy.BLEND, weights=only), Wish(rank_by=RankBy.COST))
    )
    money = "usd_per_request"
    assert [row[money] for row in blend] == [row[money] for row in cost]


def test_nothing_beats_the_front_and_the_front_beats_the_rest() -> None:
    rows = recommend(LOAD, SPACE, Wish()).candidates
    points = [(row["quality_score"], -row["usd_per_request"], -row["e2e_ms"]) for row in rows]
    front = {points[index] for index in pareto(rows)}

    def beaten(point: tuple[float, ...]) -> bool:
        return any(other != point and all(a >= b for a, b in zip(other, point, strict=True)) for other in points)

    assert front == {point for point in points if not beaten(point)}


def test_ties_are_mutual_and_overlap() -> None:
    rows = recommend(LOAD, SPACE, Wish(rank_by=RankBy.LATENCY)).candidates
    ties = near_ties(rows, RankBy.LATENCY, 50)
    assert any(ties)
    for one, others in enumerate(ties):
        for other in others:
            assert one in ties[other]
            assert rows[one]["e2e_ms_low"] <= rows[other]["e2e_ms_high"]


HOME = Scenario(concurrency=1, input_tokens=2000, output_tokens=500)
GPT, AIR = "openai/gpt-oss-120b", "zai-org/GLM-4.5-Air"


def test_a_mixture_of_100_b_comes_out_with_the_fewest_experts_in_host_memory() -> None:
    space = Space(models=(GPT, AIR), gpus=("rtx4090",), counts=(1,))
    hosted = HOME.model_copy(update={"host_memory_gib": 64})
    assert recommend(HOME, space, Wish()).candidates == []
    found = recommend(hosted, space, Wish()).candidates
    assert {row["model"] for row in found} == {GPT, AIR}
    for row in found:
        assert row["settings_needed"] == "n_cpu_moe" and row["verdict"] == "holds"
        fewer = {name: row[name] for name in ("model", "weight_format", "kv_format", "engine", "gpu")}
        fewer |= {"n_cpu_moe": row["n_cpu_moe"] - 1, "n_gpus": 1}
        assert estimate(hosted.model_copy(update=fewer)).rows()[0]["verdict"] == "no"


def test_what_is_written_slower_than_one_reads_is_admitted_by_an_objective_alone() -> None:
    space = Space(models=("meta-llama/Llama-3.3-70B-Instruct",), gpus=("rtx4090",), formats=("gguf-q4_k_m",))
    space = space.model_copy(update={"counts": (1,)})
    load = HOME.model_copy(update={"host_memory_gib": 64})
    found = recommend(load, space, Wish())
    assert found.candidates == [] and found.reasons["slower_than_read"] == 1
    assert "slower than one reads" in found.rejected[0]["reason"]
    slow = recommend(load, space, Wish(tpot_slo_ms=2000)).candidates[0]
    assert slow["settings_needed"] == "n_gpu_layers" and 0 < slow["n_gpu_layers"] < 81


def test_too_little_host_memory_is_said() -> None:
    space = Space(models=(GPT,), gpus=("rtx4090",), engines=("llama.cpp",), counts=(1,))
    found = recommend(HOME.model_copy(update={"host_memory_gib": 24}), space, Wish())
    assert found.candidates == [] and found.reasons == {"out_of_weights": 1}


def test_vllm_starts_with_less_set_aside_where_that_decides() -> None:
    name, kind = "Qwen/Qwen2.5-72B-Instruct", "awq-int4-g128"
    usual = HOME.model_copy(update={"model": name, "weight_format": kind, "gpu": "l40s", "n_gpus": 1})
    assert estimate(usual).rows()[0]["verdict"] == "no"
    found = recommend(HOME, Space(models=(name,), gpus=("l40s",), formats=(kind,), counts=(1,)), Wish())
    best = found.candidates[0]
    assert best["settings_needed"].startswith("gpu_memory_utilization") and best["verdict"] == "holds"
    assert f"a memory fraction of {best['gpu_memory_utilization']:g}" in " ".join(words.reasons(found, Wish()))


H100 = Space(models=("Qwen/Qwen3-32B",), gpus=("h100-sxm",))
SMALL_CARD = Space(models=("meta-llama/Llama-3.3-70B-Instruct",), gpus=("rtx3060-12",), formats=("gguf-q4_k_m",))


@pytest.mark.parametrize(
    ("load", "space", "wish", "says"),
    [
        (
            {},
            H100,
            Wish(max_usd_per_hour=0.01),
            "USD per hour: at most 0.01 is out of reach: one replica alone takes 2.69",
        ),
        ({"n_gpus": 4}, H100, Wish(max_gpus=2), "GPUs: at most 2 is out of reach: the least is 4"),
        ({"users": 10**7}, H100, Wish(), "GPUs or more (Qwen3-32B"),
        (
            {},
            H100,
            Wish(min_context_tokens=1e7),
            "longest request, tokens: at least 10,000,000 is out of reach: the best",
        ),
        ({"n_gpus": 1}, H100, Wish(min_output_tokens_per_s=1e8), "tokens/s: at least 100,000,000 is out of reach"),
        ({"input_tokens": 200_000}, H100, Wish(), "longer than the 40,960 that the model was made for"),
        (
            {"tp": 3, "n_gpus": 3},
            H100,
            Wish(),
            "the nearest, Qwen3-32B in BF16 on H100 SXM5 80GB: the padded vocabulary",
        ),
        ({}, H100.model_copy(update={"formats": ("gguf-q4_k_m",)}), Wish(), "use llama.cpp"),
        (
            {"concurrency": 1, "n_gpus": 1},
            SMALL_CARD,
            Wish(),
            "state the memory of the computer (host_memory_gib)",
        ),
    ],
)
def test_an_empty_answer_says_which_limit_and_what_is_reachable(
    load: dict[str, Any], space: Space, wish: Wish, says: str
) -> None:
    found = recommend(Scenario(**load), space, wish)
    assert found.candidates == [] and says in found.verdict and "\n" not in found.verdict


def test_a_request_of_no_length_is_no_question() -> None:
    with pytest.raises(BadValue, match="both lengths are 0"):
        recommend(Scenario(input_tokens=0, output_tokens=0), H100, Wish())


def test_a_stretched_model_is_searched_where_its_length_is_stated() -> None:
    load = Scenario(input_tokens=100_000, output_tokens=500, concurrency=1, max_model_len=131_072, n_gpus=1)
    assert recommend(load, H100, Wish()).candidates


def test_a_blend_does_not_pick_a_model_of_a_hundredth_of_the_size() -> None:
    names = ("google/gemma-3-270m-it", "Qwen/Qwen3-8B", "Qwen/Qwen3-32B", "Qwen/Qwen3-30B-A3B-Instruct-2507")
    space = Space(models=names, gpus=("h100-sxm",), counts=(1,))
    order = [row["model"] for row in recommend(LOAD, space, Wish(rank_by=RankBy.BLEND)).candidates]
    assert order[0] != names[0] and order[-1] == names[0]


def test_a_blend_is_the_same_whatever_far_worse_candidates_there_are() -> None:
    row = {"quality_score": 100.0, "usd_per_request": 1.0, "output_tokens_per_s_per_gpu": 100.0, "e2e_ms": 1000.0}
    rows: list[dict[str, Any]] = [row, row | {"quality_score": 95.0, "usd_per_request": 0.5}]
    slow = row | {"usd_per_request": 50.0, "e2e_ms": 1e6, "output_tokens_per_s_per_gpu": 1.0}
    assert blended([*rows, slow], Wish())[:2] == blended(rows, Wish())


class TestUsable:
    """The best answers are those that one would use."""

    def test_what_is_slower_than_one_reads_comes_last_unless_an_objective_admits_it(self) -> None:
        """A dense model of 111 B writes 3 tokens/s there, a mixture of 106 B, not much later, some 20."""
        load = Scenario(gpu="strix-halo", n_gpus=1, concurrency=1)
        space = Space(models=("CohereForAI/c4ai-command-a-03-2025", "zai-org/GLM-4.5-Air"))
        found = recommend(load, space, Wish())
        paces = [row["output_tokens_per_s_per_request"] for row in found.candidates]
        assert paces[0] > 5 > paces[-1]
        assert all(pace < 5 for pace in paces[next(i for i, pace in enumerate(paces) if pace < 5) :])
        assert any("too slow to wait for" in line for line in words.reasons(found, Wish()))
        patient = recommend(load, space, Wish(tpot_slo_ms=5000))
        assert patient.candidates[0]["output_tokens_per_s_per_request"] < 5

    def test_what_starts_as_is_usual_comes_before_what_has_to_be_set_for_as_good_as_the_same(self) -> None:
        load = Scenario(gpu="rtx4090", n_gpus=1, concurrency=1, input_tokens=12000, output_tokens=1024)
        found = recommend(load, Space(models=("Qwen/Qwen3-32B",)), Wish()).candidates
        assert not found[0]["settings_needed"] and found[1]["settings_needed"]
        assert found[1]["usd_per_request"] < found[0]["usd_per_request"] < 1.1 * found[1]["usd_per_request"]

    def test_a_wait_that_nobody_sits_out_comes_last_and_longer_prompts_are_waited_for(self) -> None:
        load = Scenario(concurrency=1, input_tokens=7168).model_dump()
        assert patience(load, Wish()).ttft_ms == 60_000
        assert patience(load | {"input_tokens": 80_000}, Wish()).ttft_ms == 600_000
        assert patience(load | {"ttft_slo_ms": 1000}, Wish()).ttft_ms == math.inf
        assert patience(load, Wish(rank_by=RankBy.COST)) == patience(load | {"e2e_slo_ms": 1}, Wish()) == (0, math.inf)
        rows = [
            {"output_tokens_per_s_per_request": pace, "ttft_ms": first}
            for pace, first in ((9, 61e3), (9, 1), (None, 1))
        ]
        assert [crawls(row, patience(load, Wish())) for row in rows] == [True, False, False]
