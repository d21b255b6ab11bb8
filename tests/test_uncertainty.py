from __future__ import annotations

import numpy as np
import pytest

from planner.catalog.uncertainty import BY_MEMORY, uncertainty, widths
from planner.estimate import estimate
from planner.specs.scenario import Scenario
from planner.uncertainty import (
    Interval,
    MemoryParts,
    Shares,
    combined,
    fit_confidence,
    interval,
    pool_interval,
    sequences_interval,
    time_widths,
)

Z80 = 1.2815515655446004  # half an 80 % interval in standard deviations
# not by level of evidence
OTHERWISE = {"front_s", "own_kernels", "decode_engines", "validated", "kernel_rows", "memory_logs"}
PARTS = MemoryParts(70e9, 40e9, 5e9, 1e9, 0.0, 24e9)


def some(level=0):
    return widths(
        {part: [("measured", "reference", "datasheet")[level]] for part in BY_MEMORY},
        [("measured", "reference", "datasheet")[level]],
        [("observed", "transferred", "assumed")[level]],
    )


def test_an_interval_is_a_factor_either_way():
    low, high = interval(np.array([2.0, np.nan, np.inf]), 0.25)
    assert low[0] == 1.6 and high[0] == 2.5
    assert np.isnan(low[1]) and np.isinf(high[2])


def test_combined_width_covers_80_percent_of_products():
    random = np.random.default_rng(1)
    given = (0.1, 0.3, 0.05)
    errors = sum(random.normal(0, np.log1p(w) / Z80, 200_000) for w in given)
    assert np.mean(np.abs(errors) < np.log1p(combined(*given))) == pytest.approx(0.8, abs=0.005)


def test_pool_interval_covers_80_percent_of_differences():
    random, w = np.random.default_rng(2), some()
    of_terms = (np.hypot(w.device, w.budget), w.weights, w.activation, w.non_torch)
    terms = zip(PARTS[:4], of_terms, (1, -1, -1, -1), strict=True)
    pools = sum(sign * size * (1 + random.normal(0, width / Z80, 200_000)) for size, width, sign in terms)
    low, high = pool_interval(PARTS, w)
    assert np.mean((pools > low) & (pools < high)) == pytest.approx(0.8, abs=0.005)


def test_a_small_pool_is_relatively_less_certain():
    wide, tight = (pool_interval(PARTS._replace(pool=pool), some()) for pool in (2e9, 24e9))
    assert wide.high / wide.low > tight.high / tight.low


def test_a_pool_that_may_be_empty_may_hold_nothing():
    low, high = sequences_interval(np.array([3.0]), PARTS._replace(pool=0.1e9), some(2))
    assert low[0] == 0 and high[0] > 3


def test_no_pool_holds_no_sequences():
    low, high = sequences_interval(np.array([0.0]), PARTS._replace(pool=-8e9), some())
    assert low[0] == 0 and high[0] == 0


def test_fit_is_tight_where_the_line_crosses_the_interval():
    pool = Interval(np.full(3, 8.0), np.full(3, 10.0))
    assert list(fit_confidence(np.array([7.0, 9.0, 11.0]), pool)) == ["yes", "tight", "no"]


@pytest.mark.parametrize("quantity", sorted({*uncertainty().__class__.model_fields} - OTHERWISE))
def test_weaker_evidence_is_never_narrower_and_names_its_source(quantity):
    assert_rising(getattr(uncertainty(), quantity))


@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_a_lone_stream_is_never_surer_on_cards_or_models_that_fewer_rows_are_of(phase):
    assert_rising(getattr(uncertainty().own_kernels, phase))


def assert_rising(quantity):
    levels = list(dict(quantity).values())
    assert [level.value for level in levels] == sorted(level.value for level in levels)
    assert all(len(level.source) > 20 for level in levels)


def test_rows_get_the_width_of_their_own_level():
    found = widths({part: ["measured", "datasheet"] for part in BY_MEMORY}, ["reference"] * 2, ["assumed", "observed"])
    assert found.weights[1] > found.weights[0]
    assert found.decode_engine[0] > found.decode_engine[1]
    assert found.decode_operators[0] == found.decode_operators[1]


def test_an_engine_without_runs_on_such_gpus_says_so_and_is_less_sure():
    def row(gpu):
        return estimate(Scenario(model="llama-3.1-8b", gpu=gpu, engine="vllm", concurrency=8)).rows()[0]

    known, unknown = row("mi300x"), row("arc-pro-b60")
    assert (known["engine_validation"], unknown["engine_validation"]) == ("validated", "not validated")
    assert known["engine_evidence"] == unknown["engine_evidence"] == "assumed"
    assert unknown["tpot_ms_high"] / unknown["tpot_ms"] > 1.2 * known["tpot_ms_high"] / known["tpot_ms"]


def test_an_engine_is_less_sure_of_latents_before_the_version_whose_runs_are_measured():
    def row(model, version):
        scenario = Scenario(model=model, gpu="h200-sxm", n_gpus=8, engine="vllm", engine_version=version)
        return estimate(scenario).rows()[0]

    early, later, plain = row("deepseek-r1", "0.9"), row("deepseek-r1", "0.10"), row("llama-3.1-8b", "0.9")
    assert [one["engine_evidence"] for one in (early, later, plain)] == ["assumed", "transferred", "transferred"]
    assert early["tpot_ms_high"] / early["tpot_ms"] > 1.2 * later["tpot_ms_high"] / later["tpot_ms"]


def test_an_engine_with_rows_enough_has_a_width_of_its_own():
    def spread(engine):
        row = estimate(Scenario(model="llama-3.1-8b", gpu="h100-sxm", engine=engine, concurrency=8)).rows()[0]
        return row["tpot_ms_high"] / row["tpot_ms"] - 1

    squares = np.log1p(spread("vllm")) ** 2 - np.log1p(spread("tensorrt-llm")) ** 2
    width, own = uncertainty().decode_engine.transferred, uncertainty().decode_engines["tensorrt-llm"]
    assert squares == pytest.approx(np.log1p(width.value) ** 2 - np.log1p(own.value) ** 2)


def test_waiting_for_a_slot_makes_ttft_less_certain_as_the_pool_is():
    queued = Shares(30.0, 0.1, 29.0, 40.0)
    sure, unsure = (time_widths(queued, some(), np.array([pool])) for pool in (0.0, 0.1))
    assert unsure.ttft[0] > sure.ttft[0] + 0.02
    assert unsure.tpot[0] == sure.tpot[0]


def test_end_to_end_is_as_certain_as_what_it_is_made_of():
    found = time_widths(Shares(0.2, 0.1, 0.0, 5.0), some(), np.zeros(1))
    assert min(found.tpot[0], found.ttft[0]) <= found.e2e[0] <= max(found.tpot[0], found.ttft[0])


def test_a_rate_is_not_as_uncertain_as_the_queue_it_leaves_behind():
    """Where requests wait for slots, tokens per second are those of the slots, however long the wait."""
    alike = [time_widths(Shares(wait + 0.2, 0.1, wait, wait + 5.0), some(), np.zeros(1)).e2e[0] for wait in (0.0, 50.0)]
    assert alike[1] == pytest.approx(alike[0])
    fewer = time_widths(Shares(50.2, 0.1, 50.0, 55.0), some(), np.array([0.3]))
    assert fewer.e2e[0] > alike[1]


def test_a_first_token_may_come_later_by_what_stands_before_the_engine_however_short_it_is():
    row = estimate(Scenario(model="llama-3.1-8b", gpu="h100-sxm", input_tokens=16, concurrency=1)).rows()[0]
    front_ms = uncertainty().front_s.value * 1e3
    assert row["ttft_ms_high"] - front_ms > row["ttft_ms"] > row["ttft_ms_low"] > 0
