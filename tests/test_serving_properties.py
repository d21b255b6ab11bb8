"""What holds of any load: Little's law, order along every axis, and the same figures as discrete events.

The toy GPU's step takes longer with every token in it, so that what is out of order is the serving model's own.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from planner.events import (
    Cached,
    EngineLimits,
    Lengths,
    Loop,
    Pool,
    Replay,
    RequestLimits,
    Service,
    Users,
    poisson,
    simulate,
)
from planner.events import summary as summarized
from planner.serving import FrontEnd, Load, Scheduling, uniform_log_sd
from tests.oracle.toy_gpu import Exact, engine, serve

SERVER = FrontEnd(0.003)
LOOSE = 1.005  # of what is interpolated on the curve
bounded = settings(max_examples=40, deadline=None)
inputs, outputs = st.integers(1, 20_000), st.integers(1, 4096)
requests, slots, budgets = st.integers(1, 1000), st.integers(1, 1024), st.sampled_from([512, 2048, 8192])
mixes = st.booleans()  # chunks beside decodes, or prefill first

loads = st.tuples(inputs, outputs, requests, slots, mixes)


@given(loads)
@settings(max_examples=60, deadline=None)
def test_littles_law_holds_in_a_closed_loop(case):
    inputs, outputs, concurrency, slots, mixed = case
    point = serve(Load(inputs, outputs, concurrency), engine(slots, mixed=mixed), front_end=SERVER)
    assert point.requests_per_s[0] * point.e2e_s[0] == pytest.approx(concurrency, rel=1e-6)


@given(loads.filter(lambda case: case[1] >= 32))  # shorter answers leave too few steps for means over them
@settings(max_examples=60, deadline=None)
def test_more_requests_are_never_faster_for_each_nor_fewer_for_all(case):
    inputs, outputs, concurrency, slots, mixed = case
    point = serve(Load(inputs, outputs, np.array([concurrency, 2 * concurrency])), engine(slots, mixed=mixed))
    assert point.tpot_s[1] >= point.tpot_s[0] * 0.995
    assert point.e2e_s[1] >= point.e2e_s[0] * 0.995
    assert point.output_tokens_per_s[1] >= point.output_tokens_per_s[0] * 0.97


@given(st.lists(loads, min_size=2, max_size=5))
@settings(max_examples=20, deadline=None)
def test_rows_of_a_batch_equal_rows_alone(cases):
    columns = np.array(cases, dtype=float).T
    together = serve(Load(columns[0], columns[1], columns[2]), engine(columns[3], mixed=columns[4]))
    for i, (inputs, outputs, concurrency, slots, mixed) in enumerate(cases):
        alone = serve(Load(inputs, outputs, concurrency), engine(slots, mixed=mixed))
        assert np.allclose([f[i] for f in together], [f[0] for f in alone], rtol=1e-9, equal_nan=True)


@given(loads, st.sampled_from([np.inf, 10, 3, 1]), st.booleans(), st.booleans())
@bounded
def test_littles_law_holds_for_load_generators_too(case, waves, equal, whole) -> None:
    """With a slot for each; the rest of a wave for which there is none waits less long than later requests do."""
    prompt, answer, concurrency, _, mixed = case
    load = Load(prompt, answer, concurrency, waves=waves, equal_lengths=equal)
    point = serve(load, engine(1024, mixed=mixed), Scheduling(group_whole=whole, group_prompts=1.75), SERVER)
    assert point.requests_per_s[0] * point.e2e_s[0] == pytest.approx(concurrency, rel=1e-6)


@given(loads, budgets, st.sampled_from([np.inf, 10]))
@example((8192, 2, 1, 64, True), 8192, np.inf)
@example((16384, 45, 2, 64, True), 8192, np.inf)
@bounded
def test_company_brings_no_first_token_sooner(case, budget, waves) -> None:
    prompt, answer, concurrency, slots, mixed = case
    point = serve(Load(prompt, answer, concurrency, waves=waves), engine(slots, budget, mixed), front_end=SERVER)
    assert point.ttft_s[0] >= point.ttft_unloaded_s[0] / LOOSE


@given(loads, st.floats(1.01, 3))
@bounded
def test_longer_prompts_take_longer_and_fewer_complete(case, longer) -> None:
    prompt, answer, concurrency, slots, mixed = case
    point = serve(Load(np.array([prompt, np.ceil(longer * prompt)]), answer, concurrency), engine(slots, mixed=mixed))
    assert point.ttft_s[1] >= point.ttft_s[0] / LOOSE
    assert point.e2e_s[1] >= point.e2e_s[0] / LOOSE
    assert point.requests_per_s[1] <= point.requests_per_s[0] * LOOSE


@given(loads.filter(lambda case: case[4] or case[1] >= 8), st.floats(1.01, 3))
@bounded
def test_longer_answers_take_longer_and_fewer_complete(case, longer) -> None:
    """Not so of a few tokens on an engine that prefills first, where requests of one length come together."""
    prompt, answer, concurrency, slots, mixed = case
    point = serve(Load(prompt, np.array([answer, np.ceil(longer * answer)]), concurrency), engine(slots, mixed=mixed))
    assert point.e2e_s[1] >= point.e2e_s[0] * 0.98
    assert point.requests_per_s[1] <= point.requests_per_s[0] * 1.02


@given(loads, st.floats(0.05, 0.75))
@bounded
def test_a_higher_rate_is_slower_for_each(case, share) -> None:
    prompt, answer, _, slots, mixed = case
    most = serve(Load(prompt, answer, 1e6), engine(slots, mixed=mixed)).requests_per_s[0]
    load = Load(prompt, answer, request_rate_per_s=most * share * np.array([1.0, 1.1]))
    point = serve(load, engine(slots, mixed=mixed))
    assert point.ttft_s[1] >= point.ttft_s[0] / LOOSE
    assert point.e2e_s[1] >= point.e2e_s[0] / LOOSE
    if answer > 1:
        assert point.tpot_s[1] >= point.tpot_s[0] / LOOSE


def simulated(case, source, measured):
    _, _, _, budget, mixed = case
    limits = EngineLimits(256, budget, Pool(10**9, 16), mixed)
    return summarized(simulate(Service(limits, request_s=0.003), Exact(), source), measured, RequestLimits())


def lengths(case):
    return Lengths(case[0], shortest_fraction=0.8), Lengths(case[1], shortest_fraction=0.8)


few = st.tuples(st.integers(16, 8000), st.integers(32, 400), st.integers(1, 40), st.sampled_from([2048, 8192]), mixes)


@given(few.filter(lambda case: case[1] >= 64 or case[0] <= case[3]))
@settings(max_examples=15, deadline=None, phases=[Phase.generate])
def test_a_closed_loop_settles_where_events_do(case) -> None:
    """Not so of prompts of several steps with answers of fewer than 64 tokens: steps do little else than prefill."""
    prompt, answer, concurrency, budget, mixed = case
    point = serve(Load(prompt, answer, concurrency), engine(256, budget, mixed), front_end=SERVER)
    count = max(10 * concurrency, 200)
    source = Loop(Users(concurrency, start_s=float(point.e2e_s[0])), lengths(case), Cached(), count, 0)
    seen = simulated(case, source, slice(3 * concurrency, -concurrency))
    assert point.tpot_s[0] == pytest.approx(seen.tpot.mean_s, rel=0.08)
    assert point.requests_per_s[0] == pytest.approx(seen.requests_per_s, rel=0.08)


answers = st.tuples(st.integers(16, 4000), st.integers(64, 400), st.just(0), budgets, mixes)


@given(answers.filter(lambda case: case[4] or case[0] >= 500), st.floats(0.1, 0.4))
@settings(max_examples=10, deadline=None, phases=[Phase.generate])
def test_random_arrivals_settle_where_events_do(case, share) -> None:
    """Not so of short prompts on an engine that prefills first: what one step brings is the next step's, and so on."""
    prompt, answer, _, budget, mixed = case
    most = serve(Load(prompt, answer, 1e6), engine(256, budget, mixed), front_end=SERVER).requests_per_s[0]
    point = serve(Load(prompt, answer, request_rate_per_s=share * most), engine(256, budget, mixed), front_end=SERVER)
    source = Replay(poisson(np.random.default_rng(0), share * most, lengths(case), 4000), Cached())
    seen = simulated(case, source, slice(400, -200))
    assert point.tpot_s[0] == pytest.approx(seen.tpot.mean_s, rel=0.08)
    assert point.ttft_s[0] == pytest.approx(seen.ttft.mean_s, rel=0.2)


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize(("prompt", "answer"), [(5000, 16), (1200, 32)])
def test_what_came_during_its_prefill_holds_up_the_answer_after_it(prompt, answer, mixed) -> None:
    """A long step brings more prompts than the mean one; a closed loop brings as many per step."""
    case = (prompt, answer, 0, 8192, mixed)
    most = serve(Load(prompt, answer, 1e6), engine(256, 8192, mixed)).requests_per_s[0]
    point = serve(Load(prompt, answer, request_rate_per_s=0.4 * most), engine(256, 8192, mixed), front_end=SERVER)
    source = Replay(poisson(np.random.default_rng(1), 0.4 * most, lengths(case), 6000), Cached())
    seen = simulated(case, source, slice(600, -200))
    assert point.tpot_s[0] == pytest.approx(seen.tpot.mean_s, rel=0.08)


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("load", [(1000, 900, 64), (4000, 900, 32), (4000, 900, 64), (2000, 300, 32)], ids=str)
def test_ten_waves_of_a_benchmark_come_in_clumps_to_the_end(load, mixed) -> None:
    case = (*load, 8192, mixed)
    asked = Load(*load, waves=10, output_log_sd=uniform_log_sd(0.8))
    point, service = (serve(one, engine(256, 8192, mixed), front_end=SERVER) for one in (asked, Load(*load)))
    source = Loop(Users(load[2]), lengths(case), Cached(), 10 * load[2], 0)
    seen = simulated(case, source, slice(0, None))
    assert point.ttft_s[0] == pytest.approx(seen.ttft.mean_s, rel=0.05)
    assert point.tpot_s[0] == pytest.approx(seen.tpot.mean_s, rel=0.02)
    assert point.ttft_s[0] > 1.2 * service.ttft_s[0]
