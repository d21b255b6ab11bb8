"""What a format costs in quality: figures where somebody measured, nothing where nobody did."""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from pathlib import Path

import pytest

from planner.catalog import models, quality
from planner.catalog.models import model_index
from planner.catalog.quality_results import keep
from planner.errors import UnknownName
from planner.estimate import estimate
from planner.estimate.quality import quality_of
from planner.explain.quality import across_sizes, quality_lines
from planner.search import judge
from planner.specs.quality import QualityResult, Verdict
from planner.specs.scenario import Scenario

EIGHT, SEVENTY = "meta-llama/Meta-Llama-3.1-8B", "meta-llama/Meta-Llama-3.1-70B"
AWQ, LARGE = "awq-int4-g128", "meta-llama/Llama-3.3-70B-Instruct"


def row(**columns: object) -> dict[str, object]:
    found: dict[str, object] = estimate(Scenario(gpu="h100-sxm", **columns)).rows()[0]  # type: ignore[arg-type]
    return found


def test_published_loss_is_the_median_of_its_cell() -> None:
    """MMLU of Qwen2-72B 82.3 to 80.5, its C-Eval 83.8 to 83.9, Llama-2-70B 66.23 to 65.79, Llama-3.1-70B -1.07 %."""
    found = row(model=SEVENTY, weight_format=AWQ, task_family="knowledge")
    losses = sorted([1.8, -0.1, 0.44, 1.07])
    assert found["quality_loss_points"] == pytest.approx((losses[1] + losses[2]) / 2, abs=0.01)
    assert found["quality_worst_points"] == pytest.approx(1.8)
    assert found["quality_evidence"] == "good"


def test_a_cell_without_evidence_has_no_figure() -> None:
    found = row(model=EIGHT, weight_format=AWQ, task_family="rag")
    assert found["quality_loss_points"] is None
    assert found["quality_evidence"] == "none"


def test_no_figure_crosses_the_three_bit_edge() -> None:
    """Only classes with 3 or 2 bits speak for formats of 3 or 2 bits."""
    for group in quality.tables().classes:
        if group.bits <= quality.EDGE_BITS:
            assert not any(part in group.id for part in ("int4", "q4", "fp4", "nf4"))
    assert row(model=EIGHT, weight_format="gptq-int3-g128", task_family="code")["quality_loss_points"] is None


def test_small_models_lose_more_than_large_ones_at_four_bits() -> None:
    small, large = (row(model=name, weight_format=AWQ)["quality_loss_points"] for name in (EIGHT, SEVENTY))
    assert isinstance(small, float) and isinstance(large, float) and small > 2 * large


@pytest.mark.parametrize(
    ("model", "weight_format", "badge"),
    [
        ("openai/gpt-oss-20b", "mxfp4", "trained for"),
        ("openai/gpt-oss-120b", "gguf-mxfp4_moe", "trained for"),
        ("deepseek-ai/DeepSeek-V3", "fp8-block128", "native"),
        ("google/gemma-3-27b-it", "gguf-q4_0", "trained for"),
        (EIGHT, "bf16", "reference"),
    ],
)
def test_what_a_publisher_released_loses_nothing(model: str, weight_format: str, badge: str) -> None:
    found = row(model=model, weight_format=weight_format, n_gpus=8, task_family="tools")
    assert (found["quality_loss_points"], found["quality_evidence"]) == (0.0, badge)


def test_a_release_that_was_quantized_afterwards_is_not_its_own_reference() -> None:
    found = row(model="nvidia/MiniMax-M3-NVFP4", n_gpus=8, task_family="knowledge")
    assert found["quality_evidence"] not in ("native", "trained for", "reference")


@pytest.mark.parametrize(
    "asked", [{"model": "zai-org/GLM-5.1", "weight_format": "nvfp4"}, {"model": "nvidia/GLM-5.1-NVFP4"}]
)
def test_what_others_quantized_is_no_release_of_the_publisher(asked: dict[str, str]) -> None:
    found = row(n_gpus=8, **asked)
    assert found["weight_format"] == "nvfp4"
    assert found["quality_evidence"] == "fair" and float(str(found["quality_loss_points"])) > 0


def test_the_cache_is_judged_apart_from_the_weights() -> None:
    found = row(model=SEVENTY, weight_format="fp8", kv_format="fp8", n_gpus=2, task_family="long_context")
    assert found["kv_quality_loss_points"] == pytest.approx(2.5)
    assert found["quality_loss_points"] == pytest.approx(0.8)


def test_nothing_is_known_of_a_pair_of_unlike_cache_formats() -> None:
    found = row(model=EIGHT, weight_format="gguf-q4_k_m", kv_format="q8_0/q4_0", task_family="knowledge")
    assert found["kv_quality_loss_points"] is None


def test_task_families_are_known_by_their_usual_names() -> None:
    assert row(model=EIGHT, task_family="Long context")["task_family"] == "long_context"
    with pytest.raises(UnknownName, match="did you mean 'code'"):
        quality.family("codee")


def test_every_class_of_the_figures_and_of_the_statements_is_one_of_the_table() -> None:
    table = quality.tables()
    classes = {one.id for one in (*table.classes, *table.kv_classes)}
    families = {one.id for one in (*table.families, table.overall)}
    assert {key[0] for key in quality.cells()} <= classes
    assert {key[1] for key in quality.cells()} <= families
    assert {name for one in table.statements for name in one.classes} <= classes


def test_of_two_patterns_the_longer_dates_a_model() -> None:
    april, july = (quality.published_months(f"Qwen/Qwen3-30B-A3B{name}") for name in ("", "-Instruct-2507"))
    assert july - april == 3 and quality.year("Qwen/Qwen3-32B") == 2025


def test_a_mixture_of_the_same_reach_that_came_months_later_is_not_behind() -> None:
    older, later = (models.model(name) for name in ("Qwen/Qwen3-32B", "openai/gpt-oss-120b"))
    assert judge(later, "mxfp4", "bf16").score >= judge(older, "bf16", "bf16").score


def test_every_bundled_model_that_writes_has_a_month() -> None:
    table = quality.tables().published
    undated = [
        one.id
        for one in model_index()
        if one.task == "generate"
        and not any(quality.fnmatchcase(one.id, name) for names in table.values() for name in names)
    ]
    assert not undated


def test_of_one_generation_the_larger_model_in_four_bits_comes_first() -> None:
    larger = judge(models.model("meta-llama/Llama-2-70b-hf"), AWQ, "bf16")
    assert larger.score > judge(models.model("meta-llama/Llama-2-13b-hf"), "bf16", "bf16").score


def test_of_one_generation_a_smaller_model_beats_a_larger_one_in_two_bits() -> None:
    larger = judge(models.model("meta-llama/Llama-2-13b-hf"), "gptq-int2-g128", "bf16")
    assert larger.score < judge(models.model("meta-llama/Llama-2-7b-hf"), "bf16", "bf16").score


def test_a_recent_mid_size_model_comes_before_a_large_one_of_2023() -> None:
    assert (
        judge(models.model("Qwen/Qwen3-14B"), "bf16", "bf16").score
        > judge(models.model("meta-llama/Llama-2-70b-hf"), "bf16", "bf16").score
    )


def test_a_difference_within_the_noise_is_no_order() -> None:
    assert judge(models.model(SEVENTY), "fp8", "bf16").score == judge(models.model(SEVENTY), "bf16", "bf16").score


@pytest.fixture
def own_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> QualityResult:
    monkeypatch.setenv("PLANNER_QUALITY_DIR", str(tmp_path))
    result = QualityResult(
        id="20261129t000000z-0123abcd", made=datetime(2026, 11, 29, tzinfo=UTC), model=EIGHT, weight_format=AWQ,
        task_family="tools", verdict=Verdict.CRACKS, difference_points=-9.0, low=-14.0, high=-4.0, n=120,
        tolerance_points=2.0,
    )  # fmt: skip
    keep(result, tmp_path)
    return result


def test_an_own_check_stands_before_what_is_published(own_result: QualityResult) -> None:
    found = row(model=EIGHT, weight_format=AWQ, task_family="tools")
    assert (found["quality_loss_points"], found["quality_evidence"]) == (9.0, "own test")
    assert row(model=EIGHT, weight_format=AWQ, task_family="knowledge")["quality_evidence"] == "good"
    assert (
        judge(models.model(EIGHT), AWQ, "bf16", "tools").score
        < judge(models.model(EIGHT), "fp8", "bf16", "tools").score
    )


def test_an_own_check_of_another_format_says_nothing(own_result: QualityResult) -> None:
    assert row(model=EIGHT, weight_format="fp8", task_family="tools")["quality_evidence"] == "none"


def lines(model: str, weight_format: str, kv_format: str = "bf16", task: str | None = None) -> list[str]:
    found = quality_of(models.model(model), weight_format, kv_format, quality.family(task), ())
    return [said.text for said in quality_lines(found, weight_format, kv_format, task)]


def test_a_cell_is_said_with_its_count_and_worst_case() -> None:
    assert lines(SEVENTY, AWQ, task="knowledge")[0] == (
        "Weights: INT4 AWQ, knowledge, models of at least 60B: 0.76 points lost, within the noise of 1 (median of 4 "
        "scores of 3 models; worst 1.8: Qwen2-72B-Instruct, MMLU; 1 given as a part of the "
        "score); good evidence"
    )


def test_gguf_formats_come_with_their_distance_from_16_bit() -> None:
    assert any("perplexity +2.8%" in text for text in lines(EIGHT, "gguf-q4_k_m", task="code"))


def test_formats_that_are_fitted_to_texts_come_with_a_warning() -> None:
    assert any("sample texts" in text for text in lines(EIGHT, AWQ, task="knowledge"))
    assert not any("sample texts" in text for text in lines(EIGHT, "fp8", task="knowledge"))


def test_where_calls_must_not_break_and_nobody_measured_the_next_step_up_is_said() -> None:
    assert any("8 bit is the next step up" in text for text in lines(SEVENTY, AWQ, task="tools"))
    assert not any("8 bit is the next step up" in text for text in lines(SEVENTY, AWQ, task="knowledge"))


def test_sizes_are_compared_by_one_test_or_by_the_prior() -> None:
    same = [row(model=f"meta-llama/Llama-2-{size}-hf", weight_format="bf16", n_gpus=4) for size in ("70b", "13b")]
    told = across_sizes(*same)
    assert told and told.text == "Before quantizing, MMLU: Llama-2-70b-hf 66.23 against Llama-2-13b-hf 52.86"
    told = across_sizes(same[0], row(model="Qwen/Qwen3-14B"))
    assert told and told.text.startswith("Of one generation, the larger model in 4 bit")


def test_more_bits_of_one_family_never_stand_behind_fewer() -> None:
    for name in ("Qwen/Qwen3-1.7B", "Qwen/Qwen3-8B", "Qwen/Qwen3-32B", LARGE):
        kinds = ("bf16", "gguf-q8_0", "gguf-q6_k", "gguf-q5_k_m", "gguf-q4_k_m", "gguf-q4_0")
        scores = [judge(models.model(name), kind, "bf16").score for kind in kinds]
        assert scores == sorted(scores, reverse=True)


def test_two_scores_of_a_tuned_file_do_not_put_four_bits_before_what_is_better_known() -> None:
    model = models.model("Qwen/Qwen3-8B")
    thin, good, eight = (judge(model, kind, "bf16").score for kind in ("gguf-q4_k_m", AWQ, "fp8"))
    assert thin <= good < eight


def test_every_collected_row_names_its_source_and_agrees_with_its_own_scores() -> None:
    path = Path(quality.__file__).parent.parent / "data" / "quality" / "collected.csv"
    rows = list(csv.DictReader(path.read_text("utf-8").splitlines()))
    assert len(rows) >= 18
    for one in rows:
        assert one["source"] and one["date"] and one["benchmark"]
        assert float(one["value"]) - float(one["baseline"]) == pytest.approx(float(one["delta_points"]), abs=0.11)
