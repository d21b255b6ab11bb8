"""Words, figures and changes: no digit too many, no equation that does not hold, no change that does not help."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner import explain
from planner.catalog import models
from planner.estimate import estimate
from planner.estimate.breakdown import breakdown
from planner.explain.changes import bits
from planner.explain.compared import conclusion
from planner.specs.scenario import Scenario

LLAMA = "meta-llama/Llama-3.3-70B-Instruct"
SERVER = Scenario(model=LLAMA, weight_format="fp8", gpu="h100-sxm", n_gpus=2, concurrency=32)
VARIETY = (
    SERVER,
    Scenario(model="deepseek-ai/DeepSeek-V3", gpu="h200-sxm", n_gpus=8, concurrency=64),
    Scenario(model=LLAMA, engine="llama.cpp", weight_format="gguf-q4_k_m", gpu="rtx4090"),
    Scenario(model="google/gemma-3-27b-it", gpu="h100-sxm", concurrency=300),
    Scenario(model="Qwen/Qwen3-Next-80B-A3B-Instruct", gpu="h100-sxm", engine="sglang", n_gpus=4, weight_format="fp8"),
    Scenario(model="Qwen/Qwen3-32B", gpu="b200", engine="tensorrt-llm", concurrency=16),
    Scenario(model="openai/gpt-oss-20b", gpu="rtx5090", concurrency=3),
    Scenario(model="Qwen/Qwen3-Embedding-0.6B", gpu="l4", concurrency=8),
)


@cache
def row(scenario: Scenario) -> dict[str, Any]:
    found = estimate(scenario).rows()[0]
    assert found["error"] is None
    return found


def rows(scenarios: Sequence[Scenario]) -> list[dict[str, Any]]:
    return estimate(scenarios).rows()


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (38.4, 33, 43, "38"),
        (1123.0, 980, 1260, "1,120"),
        (0.3121, 0.2, 0.5, "0.31"),
        (74, 61, 88, "74"),
        (88, 84, 93, "88"),
    ],
)
def test_a_figure_has_the_digits_that_its_interval_deserves(value: float, low: float, high: float, text: str) -> None:
    assert explain.figure(value, low, high) == text


@given(st.floats(1e-6, 1e12), st.floats(1.001, 10))
def test_rounding_moves_a_figure_by_less_than_its_interval(value: float, factor: float) -> None:
    shown = float(explain.figure(value, value / factor, value * factor).replace(",", ""))
    assert abs(shown - value) <= (value * factor - value / factor) / 2


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_what_is_not_known_is_a_dash(value: float | None) -> None:
    assert explain.figure(value) == "–"


@pytest.mark.parametrize(
    ("ms", "text"), [(4.25, "4.25 ms"), (310, "0.310 s"), (57_000, "57.0 s"), (333_000, "5.55 min")]
)
def test_a_time_is_said_in_the_unit_that_reads_best(ms: float, text: str) -> None:
    assert explain.duration({"x": ms}, "x")[0] == text


@pytest.mark.parametrize("scenario", VARIETY, ids=lambda s: f"{s.model}-{s.engine}")
def test_the_verdict_says_what_where_and_how_much_room(scenario: Scenario) -> None:
    said = explain.verdict(row(scenario))
    assert said.headline.startswith(explain.VERDICT_WORDS[said.state])
    assert explain.gpu_name(scenario.gpu or "") in said.sentence
    assert said.state == "no" or "room for" in said.sentence or "one request" in said.sentence
    assert "None" not in said.sentence and "nan" not in said.sentence


def test_a_load_near_the_end_of_the_rooms_interval_is_tight_and_one_far_from_it_is_not() -> None:
    room = row(SERVER)["max_concurrency"]
    near, far = (row(SERVER.model_copy(update={"concurrency": n})) for n in (room, room // 2))
    assert explain.tight(near) == "likely, not certain" and not explain.tight(far)
    assert explain.tight(row(SERVER.model_copy(update={"concurrency": room + 1}))) == "it might hold the load"


def test_what_llama_cpp_holds_with_gigabytes_to_spare_is_not_tight() -> None:
    small = Scenario(model="Qwen/Qwen3-8B", engine="llama.cpp", weight_format="gguf-q4_k_m", gpu="rtx4090")
    assert row(small)["free_gib"] > 10 and not explain.tight(row(small))


def test_an_objective_that_is_missed_stands_in_the_headline() -> None:
    said = explain.verdict(row(SERVER.model_copy(update={"ttft_slo_ms": 1.0})))
    assert said.headline == "Holds the load, but misses an objective."


def test_a_missed_objective_is_answered_with_the_load_that_meets_it() -> None:
    missed = SERVER.model_copy(update={"concurrency": 64, "tpot_slo_ms": 25.0})
    found = explain.changes(missed, row(missed), rows)
    fewer = next(change for change in found if change.label.startswith("at most "))
    assert explain.misses(row(missed)) and fewer.verdict == "meets_slo"


def test_a_change_says_how_many_gpus_and_how_the_model_lies_on_them() -> None:
    found = {change.label: change.effect for change in explain.changes(SERVER, row(SERVER), rows)}
    assert found["2 × H200 SXM 141GB"].startswith("2 replicas of tp 1 · ")
    assert found["4 × H100 SXM5 80GB, all in one replica"].startswith("tp 4 · ")


def test_what_is_too_large_for_a_card_may_leave_layers_to_the_host() -> None:
    found = explain.changes(VARIETY[2], row(VARIETY[2]), rows)
    assert any("layers on the GPU" in change.label and "tok/s" in change.effect for change in found)


def test_a_price_is_as_sure_as_the_speed_that_it_comes_from() -> None:
    usd, span = explain.answer_price(row(SERVER))
    low, high = map(float, span.split("–"))
    assert low < float(usd) < high
    assert high / low == pytest.approx(
        row(SERVER)["output_tokens_per_s_high"] / row(SERVER)["output_tokens_per_s_low"], rel=0.05
    )


def test_a_deployment_that_does_not_start_says_which_term_breaks_the_budget() -> None:
    said = explain.verdict(row(VARIETY[2]))
    assert said.state == "no"
    assert re.search(r"weights exceed the memory budget \(\d+\.\d GiB short\)", said.sentence)


@pytest.mark.parametrize("scenario", VARIETY, ids=lambda s: f"{s.model}-{s.engine}")
def test_every_change_that_is_proposed_helps(scenario: Scenario) -> None:
    before = row(scenario)
    for change in explain.changes(scenario, before, rows):
        after = row(scenario.model_copy(update=change.update))
        gains = [(after[name] or 0) > 1.05 * (before[name] or 0) for name in ("max_concurrency", "output_tokens_per_s")]
        better = explain.VERDICT_RANK[after["verdict"]] > explain.VERDICT_RANK[before["verdict"]]
        sooner = any((after[name] or 0) < 0.95 * (before[name] or 0) for name in ("ttft_ms", "tpot_ms"))
        assert better or sooner or any(gains) or after["n_gpus"] < before["n_gpus"]
        assert after["verdict"] == change.verdict


def test_what_does_not_start_is_offered_a_way_to_start() -> None:
    found = explain.changes(VARIETY[2], row(VARIETY[2]), rows)
    assert any(explain.VERDICT_RANK[change.verdict] >= explain.VERDICT_RANK["holds"] for change in found)


def test_the_rule_of_thumb_and_the_true_size_stand_side_by_side() -> None:
    """70B: 35 GB at 4 bit by the rule that articles teach; its packed checkpoints are larger."""
    lines = explain.formulas(row(SERVER.model_copy(update={"weight_format": "awq-int4-g128"})), models.model(LLAMA))[
        0
    ].lines
    assert "70.55 B parameters × 4 bit / 8 = 35.3 GB" in lines[0]
    true_gb = float(re.search(r"tensor by tensor: ([\d.]+) GB", lines[1])[1])  # type: ignore[index]
    assert 38 < true_gb < 42


def test_the_kv_formula_of_llama_70b_is_the_books() -> None:
    """2 x 80 layers x 8 heads x 128 x 2 bytes = 320 KiB a token (scaling-book, ch. 7); half of it at tp 2."""
    lines = explain.formulas(row(SERVER), models.model(LLAMA))[1].lines
    assert lines[0] == "80 layers × 4 KV heads × (128 × 2 + 128 × 2) B = 163,840 B"


EQUATION = re.compile(r"^\(?([\d.,]+) (budget|×)(.*) = ([\d.,]+) GiB", re.MULTILINE)


@pytest.mark.parametrize("scenario", VARIETY, ids=lambda s: f"{s.model}-{s.engine}")
def test_the_pools_equation_adds_up_as_it_is_shown(scenario: Scenario) -> None:
    pool = next(
        item for item in explain.formulas(row(scenario), models.model(scenario.model or "")) if "pool" in item.title
    )
    left, _, right = pool.lines[0].partition(" = ")
    terms = left[1 : left.index(")")].split(" − ")
    first, *rest = (float(term.split()[0].replace(",", "")) for term in terms)
    share = float(left.partition("×")[2] or 1)
    assert (first - sum(rest)) * share == pytest.approx(float(right.split()[0].replace(",", "")), abs=0.03)


@pytest.mark.parametrize("scenario", VARIETY, ids=lambda s: f"{s.model}-{s.engine}")
def test_every_formula_names_a_source_and_no_unknown(scenario: Scenario) -> None:
    for formula in explain.formulas(row(scenario), models.model(scenario.model or "")):
        text = " ".join((formula.title, *formula.lines, formula.source, formula.evidence or ""))
        assert formula.source
        assert not re.search(r"\bNone\b|\bnan\b|\binf\b", text)


def test_of_a_layout_that_no_engine_takes_only_the_budget_is_explained() -> None:
    refused = row(SERVER.model_copy(update={"tp": 3, "n_gpus": 3}))
    assert [item.title for item in explain.formulas(refused, models.model(LLAMA))] == ["Memory budget of one GPU"]


@pytest.mark.parametrize("scenario", [s for s in VARIETY if s.gpu != "rtx4090"], ids=lambda s: f"{s.model}-{s.engine}")
def test_the_parts_of_a_step_are_positive_and_sorted(scenario: Scenario) -> None:
    parts = breakdown(scenario)
    seconds = [part.seconds for part in parts]
    assert seconds == sorted(seconds, reverse=True)
    assert min(seconds) > 0
    assert {part.bound for part in parts} <= {"memory", "compute", "network", "overhead", "prompts"}


RANKS = Scenario(
    model="deepseek-r1", engine="sglang", gpu="b200", n_gpus=8, tp=8, ep=8, attention_dp=8, concurrency=256
)
WAYS = (
    SERVER,
    RANKS,
    SERVER.model_copy(update={"n_gpus": 4, "tp": 2, "pp": 2}),
    SERVER.model_copy(update={"engine": "tensorrt-llm", "concurrency": 200}),
)


@pytest.mark.parametrize("scenario", WAYS, ids=lambda s: f"{s.model}-{s.engine}-{s.pp}")
def test_the_parts_of_a_step_add_up_to_the_time_between_tokens(scenario: Scenario) -> None:
    assert sum(part.seconds for part in breakdown(scenario)) * 1e3 == pytest.approx(row(scenario)["tpot_ms"])


def test_the_parts_of_a_step_with_drafts_add_up_to_the_time_of_the_tokens_that_it_brings() -> None:
    drafts = SERVER.model_copy(update={"draft_model": "ngram", "speculative_tokens": 3, "acceptance_rate": 0.5})
    tokens = 1 + 0.5 + 0.5**2 + 0.5**3
    assert sum(part.seconds for part in breakdown(drafts)) * 1e3 == pytest.approx(row(drafts)["tpot_ms"] * tokens)


def test_a_step_of_a_lone_request_has_no_prompts_of_others() -> None:
    alone = SERVER.model_copy(update={"concurrency": 1, "input_tokens": 1, "output_tokens": 500})
    assert "prompts" in {part.kind for part in breakdown(SERVER)}
    assert "prompts" not in {part.kind for part in breakdown(alone)}


def test_formats_are_ordered_by_their_bits() -> None:
    names = ["bf16", "fp8", "awq-int4-g128", "gptq-int3-g128"]
    assert [bits(name) for name in names] == [16, 8, 4, 3]
    assert 4 < bits("gguf-q4_k_m") < 5
    assert bits("no-such-format") == math.inf


def test_a_request_longer_than_the_model_was_made_for_is_said() -> None:
    long = Scenario(model="llama-3.1-8b-instruct", gpu="h100-sxm", input_tokens=200_000)
    assert "131,072" in explain.verdict(row(long)).sentence
    assert explain.beyond_the_model(row(long.model_copy(update={"input_tokens": 2000}))) == ""
    assert explain.beyond_the_model(row(long.model_copy(update={"max_model_len": 262_144}))) == ""


def test_replicas_that_hold_one_request_each_hold_more_than_one() -> None:
    shared = Scenario(model="llama-3.1-8b-instruct", gpu="h100-sxm", copies_per_gpu=4, concurrency=16)
    assert row(shared)["verdict"] == "queues"


class TestCompared:
    """What a comparison concludes."""

    def rows(self, *gpus: str) -> list[dict[str, Any]]:
        asked = [Scenario(model="Qwen/Qwen3-8B", weight_format="bf16", gpu=gpu, concurrency=16) for gpu in gpus]
        return estimate(asked).rows()

    def test_who_holds_and_who_leads(self) -> None:
        lines = conclusion(("H100", "L40S", "T4"), self.rows("h100-sxm", "l40s", "t4"))
        assert lines[0] == "2 of 3 hold the load; not T4."
        assert lines[1].startswith("Fastest for each user: H100, ") and "; then L40S, " in lines[1]
        assert len(lines) == 4

    def test_equals_share_a_place_and_nothing_is_said_where_nothing_differs(self) -> None:
        lines = conclusion(("one", "two"), self.rows("h100-sxm", "h100-sxm"))
        assert lines == ["All hold the load."]

    def test_figures_that_read_the_same_share_a_place_wherever_they_stand(self) -> None:
        usual = self.rows("h100-sxm")[0]
        widened = usual | {"output_tokens_per_s_per_request_high": 999.0}
        lines = conclusion(("a", "b", "c"), [usual, widened, usual])
        assert lines[1].startswith("Fastest for each user: a and c, ") and "; then b, " in lines[1]

    def test_who_misses_an_objective_is_named(self) -> None:
        usual = self.rows("h100-sxm")[0]
        lines = conclusion(("one", "two"), [usual, usual | {"reason": "p95 TTFT 812 ms is above 500 ms"}])
        assert lines == ["All hold the load.", "Objectives are missed by two."]

    def test_none_holds(self) -> None:
        assert conclusion(("one", "two"), self.rows("t4", "t4")) == ["None of these holds the load."]
