"""The search: what holds the load comes out, ranked; what does not says why; fewest GPUs means fewest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from planner.catalog import gpus, models
from planner.errors import UnknownName
from planner.estimate import Library, estimate
from planner.explain import VERDICT_RANK
from planner.params import parameters
from planner.search import (
    Space,
    Wish,
    default_formats,
    judged,
    merged,
    recommend,
    sift,
    smallest_count,
    tasks,
)
from planner.specs.quality import QualityResult, Verdict
from planner.specs.scenario import Scenario

LOAD = Scenario(concurrency=16, input_tokens=2000, output_tokens=500)
SIZES = ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-8B", "Qwen/Qwen3-32B", "meta-llama/Llama-3.3-70B-Instruct")


def rows(scenarios: Sequence[Scenario]) -> list[dict[str, Any]]:
    return estimate(scenarios).rows()


def test_every_combination_is_either_a_candidate_or_rejected_with_a_reason() -> None:
    found = recommend(LOAD, Space(models=SIZES, gpus=("l4", "h100-sxm")), Wish())
    assert len(found.candidates) + sum(row["combinations"] for row in found.rejected) == found.combinations
    assert sum(found.reasons.values()) == found.combinations - len(found.candidates)
    assert all(VERDICT_RANK[row["verdict"]] >= VERDICT_RANK["holds"] for row in found.candidates)
    assert all(row["reason_code"] and row["reason"] for row in found.rejected)


def test_the_largest_model_of_a_generation_comes_first() -> None:
    found = recommend(LOAD, Space(models=SIZES[:3], gpus=("h100-sxm",)), Wish())
    assert found.candidates[0]["model"] == max(SIZES[:3], key=lambda name: parameters(models.model(name)))


def test_within_a_model_what_loses_more_comes_later() -> None:
    found = recommend(LOAD, Space(models=("Qwen/Qwen3-8B",), gpus=("h100-sxm",)), Wish())
    scores = [row["quality_score"] for row in found.candidates]
    assert scores == sorted(scores, reverse=True)
    assert found.candidates[-1]["quality_loss_points"] > 1


def test_progress_is_told_to_the_end() -> None:
    told: list[tuple[int, int]] = []
    space = Space(models=SIZES[:2], gpus=("l4",))
    recommend(LOAD, space, Wish(), progress=lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1] > 0


def test_a_checkpoint_released_in_4_bit_is_not_blown_up_to_16() -> None:
    formats = default_formats("openai/gpt-oss-120b", "h100-sxm", None)
    assert formats[0] == "mxfp4"
    assert "bf16" not in formats


def test_4_bit_floats_are_offered_where_the_gpu_has_units_for_them() -> None:
    assert "nvfp4" not in default_formats("Qwen/Qwen3-32B", "h100-sxm", None)
    assert "nvfp4" in default_formats("Qwen/Qwen3-32B", "b200", None)


def test_a_mac_is_offered_gguf() -> None:
    assert all(name.startswith("gguf-") for name in default_formats("Qwen/Qwen3-8B", "apple-m4-max", None))


def test_the_fewest_gpus_hold_the_load_and_half_of_them_do_not() -> None:
    load = Scenario(model=SIZES[3], weight_format="fp8", gpu="h100-sxm", concurrency=200)
    found = smallest_count(load, (1, 2, 4, 8, 16), rows)
    assert found.holds
    assert found.row["n_gpus"] == found.scenario.n_gpus
    half = rows([found.scenario.model_copy(update={"n_gpus": (found.scenario.n_gpus or 2) // 2})])[0]
    assert VERDICT_RANK[half["verdict"]] < VERDICT_RANK["holds"]


def test_an_objective_asks_for_more_gpus_than_room_alone() -> None:
    load = Scenario(model=SIZES[3], weight_format="fp8", gpu="h100-sxm", concurrency=32)
    plain, quick = (
        smallest_count(s, (1, 2, 4, 8, 16), rows) for s in (load, load.model_copy(update={"tpot_slo_ms": 25.0}))
    )
    assert (quick.scenario.n_gpus or 0) > (plain.scenario.n_gpus or 0)


def test_a_time_is_met_by_replicas_of_more_gpus_where_more_replicas_do_not() -> None:
    load = Scenario(model="Qwen/Qwen3-32B", weight_format="fp8", gpu="l40s", concurrency=8)
    alone = rows([load.model_copy(update={"n_gpus": 16, "tp": 1})])[0]
    found = smallest_count(load.model_copy(update={"tpot_slo_ms": 0.8 * alone["tpot_ms"]}), (1, 2, 4, 8, 16), rows)
    assert found.holds and found.row["tp"] > 1


def test_when_no_number_meets_an_objective_the_fewest_that_hold_the_load_come_back() -> None:
    load = Scenario(model="Qwen/Qwen3-8B", weight_format="fp8", gpu="l4", concurrency=4)
    found = smallest_count(load.model_copy(update={"tpot_slo_ms": 0.1}), (1, 2, 4), rows)
    assert (found.holds, found.scenario.n_gpus, found.row["verdict"]) == (False, 1, "holds")


def test_when_nothing_holds_the_nearest_comes_back() -> None:
    found = smallest_count(Scenario(model="deepseek-ai/DeepSeek-V3", gpu="t4", concurrency=1), (1, 2), rows)
    assert not found.holds
    assert found.row["reason"]


def test_an_error_is_a_rejection() -> None:
    found = recommend(LOAD.model_copy(update={"images_per_request": 2}), Space(models=SIZES[:1], gpus=("l4",)), Wish())
    assert found.candidates == []
    assert "no image encoder" in found.rejected[0]["reason"]


def test_parts_put_together_in_steps_are_the_whole() -> None:
    todo = tasks(LOAD, Space(models=SIZES, gpus=("l4", "h100-sxm")), Wish())
    parts = [sift(task) for task in todo]
    together = judged(LOAD, Wish(), parts)
    whole = merged(Wish(), [])
    for part in parts:
        whole = merged(Wish(), [whole, part])
    assert judged(LOAD, Wish(), [whole]) == together


GPU = {"id": "card", "vendor": "NVIDIA", "label_gb": 48, "bandwidth_gb_per_s": 800, "bf16_tflops": 150}
OWN = "upload:own"


def own_library() -> Library:
    """A model and a GPU that no catalogue has."""
    card = gpus.gpu_from_profile(GPU | {"name": "Card", "compute_capability": 8.9}, "card")
    model = models.model("Qwen/Qwen3-14B").model_copy(update={"id": OWN})
    return Library({OWN: model}, {OWN: card.model_copy(update={"id": OWN})})


def test_a_model_and_a_gpu_that_the_caller_brings_are_searched() -> None:
    found = recommend(LOAD, Space(models=(OWN,), gpus=(OWN, "l40s")), Wish(usd_per_gpu_hour={OWN: 0.5}), own_library())
    held = {(row["gpu"], row["weight_format"]) for row in found.candidates}
    assert {(OWN, "fp8"), (OWN, "awq-int4-g128"), ("l40s", "fp8")} <= held
    assert {row["usd_per_gpu_hour"] for row in found.candidates if row["gpu"] == OWN} == {0.5}
    same = recommend(LOAD, Space(models=("Qwen/Qwen3-14B",), gpus=("l40s",)), Wish())
    mine, known = (
        {(r["weight_format"], r["tp"]): r["tpot_ms"] for r in one.candidates if r["gpu"] == "l40s"}
        for one in (found, same)
    )
    assert mine == known


def test_without_the_library_its_names_are_unknown() -> None:
    with pytest.raises(UnknownName, match="unknown model"):
        recommend(LOAD, Space(models=(OWN,), gpus=("l4",)), Wish())


def test_a_check_of_the_callers_own_comes_before_what_is_published() -> None:
    check = QualityResult(
        id="my-own-check", made="2026-11-29T00:00:00Z", model=SIZES[1], weight_format="fp8", verdict=Verdict.CRACKS,
        difference_points=-6.0, low=-8.0, high=-4.0, n=400, tolerance_points=2.0,
    )  # fmt: skip
    space = Space(models=(SIZES[1],), gpus=("h100-sxm",), formats=("bf16", "fp8"))
    plain, checked = (recommend(LOAD, space, Wish(), Library({}, {}, checks=given)) for given in ((), (check,)))
    lost = {row["weight_format"]: row["quality_loss_points"] for row in checked.candidates}
    assert plain.candidates[0]["weight_format"] == "fp8"  # within the noise of 16 bit, and cheaper
    assert lost["fp8"] == 6.0 and checked.candidates[0]["weight_format"] == "bf16"
