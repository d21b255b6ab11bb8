"""Scores by hand, the goals that hold today, and the page that is made of the rows."""

from __future__ import annotations

import re
from collections import Counter
from math import nan
from pathlib import Path

import pytest

from planner.accuracy import report, rows, score
from planner.accuracy.score import Comparison, compared
from planner.catalog import models
from planner.catalog.files import read_yaml
from planner.catalog.gpus import gpu, gpu_ids
from planner.catalog.paths import data_dir
from planner.catalog.uncertainty import uncertainty

PAGE = Path(__file__).resolve().parent.parent / "docs" / "accuracy.md"
POINTS = 3.0  # by which a printed share may differ from a fresh one


def comparison(
    predicted: float, measured: float = 100.0, low: float = nan, high: float = nan, name: str = "a"
) -> Comparison:
    return Comparison(
        figure="tpot_ms",
        predicted=predicted,
        measured=measured,
        low=low,
        high=high,
        part="closed loop",
        regime="queue-free",
        gpu="b200",
        engine="vllm",
        engine_version="0.15.1",
        kind="full attention, dense",
        evidence="datasheet",
        label=name,
        stated=True,
        note="",
    )


def test_errors_are_relative_to_what_was_measured() -> None:
    assert comparison(150.0).error == 0.5
    assert comparison(100.0, 200.0).error == -0.5


def test_a_score_says_size_sign_and_spread_of_errors() -> None:
    s = score.score([comparison(110.0), comparison(80.0), comparison(130.0), comparison(101.0), comparison(105.0)])
    assert s.median == pytest.approx(0.10)
    assert s.bias == pytest.approx(0.05)
    assert s.mean == pytest.approx((0.10 + 0.20 + 0.30 + 0.01 + 0.05) / 5)
    assert s.p90 == pytest.approx(0.26)  # between the fourth and the fifth of five
    assert s.mean_off == pytest.approx((10 + 20 + 30 + 1 + 5) / 5)


def test_the_worst_row_is_named_with_its_sign() -> None:
    s = score.score([comparison(110.0, name="a"), comparison(20.0, name="b")])
    assert (s.worst, s.worst_label) == (pytest.approx(-0.8), "b")


def test_repeats_of_a_configuration_are_counted_apart_from_rows() -> None:
    s = score.score([comparison(110.0, name="a"), comparison(112.0, name="a"), comparison(90.0, name="b")])
    assert (s.rows, s.configurations) == (3, 2)


def test_coverage_counts_rows_with_an_interval_only() -> None:
    inside, outside = comparison(100.0, low=90.0, high=110.0), comparison(80.0, low=70.0, high=90.0)
    assert score.score([inside, outside, comparison(100.0)]).coverage == 0.5
    assert score.score([comparison(100.0)]).coverage != score.score([comparison(100.0)]).coverage  # not a number


@pytest.mark.parametrize(("ttft_ms", "regime"), [(99.0, "queue-free"), (2600.0, "saturated")])
def test_saturated_rows_wait_a_fifth_of_their_time(ttft_ms: float, regime: str) -> None:
    row = rows.measured_rows("serving")[0]
    scenario = row.scenario.model_copy(update={"output_tokens": 1001})
    assert rows._regime(row._replace(measured={"ttft_ms": ttft_ms, "tpot_ms": 10.0}, scenario=scenario)) == regime


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("meta-llama/Meta-Llama-3-8B", "full attention, dense"),
        ("google/gemma-3-27b-it", "sliding attention, dense"),
        ("openai/gpt-oss-120b", "sliding attention, experts"),
        ("deepseek-ai/DeepSeek-R1", "latent attention, experts"),
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", "hybrid attention, experts"),
        ("BAAI/bge-m3", "encoder"),
    ],
)
def test_models_are_grouped_by_attention_and_experts(model: str, kind: str) -> None:
    assert rows.model_kind(models.model(model)) == kind


def test_every_question_asks_for_a_figure_that_was_measured() -> None:
    for question in rows.questions():
        assert all(measured > 0 for measured in question.figures.values())


def picked(*parts: str, figures: tuple[str, ...]) -> list[Comparison]:
    return [c for c in compared().comparisons if c.part in parts and c.figure in figures]


def test_weights_agree_with_files_and_engines() -> None:
    s = score.score(picked("files", "loaded weights", figures=("file_gib", "weights_gib")))
    assert s.rows >= 160
    assert s.median <= 0.005
    assert s.p90 <= 0.02


def test_weights_that_are_far_off_say_what_is_known_of_them() -> None:
    far = [c for c in picked("files", "loaded weights", figures=("file_gib", "weights_gib")) if abs(c.error) > 0.05]
    assert [c.label for c in far if not c.note] == []


def test_caches_of_llamacpp_are_exact_to_the_mebibyte() -> None:
    caches = picked("llama.cpp memory", figures=("kv_pool_gib",))
    assert caches
    for c in caches:
        assert abs(c.predicted - c.measured) * 1024 < 1, c.label


def test_few_rows_stay_without_an_answer_and_each_has_a_reason() -> None:
    found = compared()
    assert len(found.unanswered) < 0.02 * len(found.comparisons)
    assert all(u.reason for u in found.unanswered)


def test_shares_are_printed_with_one_decimal_below_ten() -> None:
    assert [report.percent(x) for x in (0.0004, 0.034, 0.0996, 1.5, nan)] == ["0.0 %", "3.4 %", "10 %", "150 %", "–"]
    assert report.percent(0.12, sign=True) == "+12 %"
    assert report.percent(-0.0001, sign=True) == "0.0 %"


def shape(page: str) -> list[str]:
    """The page with shares and sizes left out: headings, groups and counts stay."""
    return [re.sub(r"[-+]?\d+(\.\d+)? %.*|\d+\.\d+", "#", line) for line in page.splitlines()]


def test_the_page_in_docs_is_what_the_rows_say_today() -> None:
    fresh, kept = report.markdown(compared()), PAGE.read_text("utf-8")
    assert shape(kept) == shape(fresh), "run: planner accuracy --markdown docs/accuracy.md"
    for was, now in zip(kept.splitlines(), fresh.splitlines(), strict=True):
        shares = [[float(x) for x in re.findall(r"\| ([-+]?[\d.]+) % ", line)] for line in (was, now)]
        assert shares[0] == pytest.approx(shares[1], abs=POINTS, rel=0.03), (
            "run: planner accuracy --markdown docs/accuracy.md"
        )


def test_engines_are_validated_where_runs_are_among_the_rows() -> None:
    """At least five, and twenty are never left out; in between it is whoever adds rows that decides."""
    speeds = {"tpot_ms", "ttft_ms", "e2e_ms", "output_tokens_per_s", "output_tokens_per_s_per_request"}
    runs = {
        (c.engine, gpu(c.gpu).generation, c.label, c.part)
        for c in compared().comparisons
        if c.gpu in gpu_ids() and c.figure in speeds | {"prefill_tokens_per_s"}
    }
    counts = Counter((engine, generation) for engine, generation, *_ in runs)
    stated = {(engine, name) for engine, names in uncertainty().validated.items() for name in names}
    assert {place for place, count in counts.items() if count >= 20} <= stated
    assert all(counts[place] >= 5 for place in stated)


def test_rows_that_shaped_a_constant_are_told_from_the_others() -> None:
    rows = {(c.engine, c.model, c.gpu): c.held_out for c in compared().comparisons if c.held_out}
    assert rows["vllm", "gpt-oss-120b", "b200"] == "no" and rows["sglang", "MiniMax-M2.5", "h100-sxm"] == "yes"
    named = {(one["engine"], one["model"], one["gpu"]) for one in read_yaml(data_dir() / "shaped.yaml")}
    assert {place for place in named if place[1] != "*"} <= set(rows)
