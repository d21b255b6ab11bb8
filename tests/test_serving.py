from __future__ import annotations

import math

import numpy as np
import pytest

from planner.serving import (
    AT_ONCE,
    FrontEnd,
    Load,
    Scheduling,
    dominant_bound,
    offer,
    request_shape,
    settle,
    steady_state,
    tail,
    uniform_log_sd,
)
from planner.serving.curve import late_steps, life
from planner.serving.open_loop import multi_server_wait_s
from planner.serving.steps import Times, mix
from tests.oracle.continuous_batching import Setting, benchmark, closed_loop, open_loop, run
from tests.oracle.toy_gpu import Exact, engine, seconds, serve, step_s

SPREAD = 0.2  # of the oracle's lengths, so that their mean is 0.9 of nominal
DELAY = FrontEnd(0.005)
WAVES = {"waves": 10, "output_log_sd": uniform_log_sd(1 - SPREAD)}
CASES = [  # input, output, concurrency, slots, token budget
    (1024, 128, 4, 256, 8192),
    (1024, 128, 64, 256, 8192),
    (1024, 128, 128, 48, 8192),  # the pool holds fewer than stand
    (1024, 128, 256, 256, 2048),  # the token budget is full
    (1024, 512, 64, 256, 2048),
    (256, 512, 16, 256, 8192),
    (4096, 128, 16, 256, 2048),  # prompts of several chunks
    (4096, 128, 64, 24, 8192),
    (8192, 128, 16, 256, 2048),
    (128, 512, 128, 64, 8192),
    (2048, 32, 16, 256, 2048),
]


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_closed_loop_settles_where_a_step_by_step_scheduler_does(case, mixed):
    inputs, outputs, concurrency, slots, budget = case
    point = serve(Load(0.9 * inputs, 0.9 * outputs, concurrency), engine(slots, budget, mixed), front_end=DELAY)
    setting = Setting(inputs, outputs, slots, budget, mixed, delay_s=0.005, spread=SPREAD)
    truth = closed_loop(setting, seconds, concurrency, point.e2e_s[0], waves=30 if concurrency < 16 else 10)
    assert point.tpot_s[0] == pytest.approx(truth.tpot_s, rel=0.05)
    assert point.output_tokens_per_s[0] == pytest.approx(truth.output_tokens_per_s, rel=0.05)
    assert point.ttft_s[0] == pytest.approx(truth.ttft_s, rel=0.2)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_benchmark_of_ten_waves_has_its_first_queue_in_the_mean(case):
    inputs, outputs, concurrency, slots, budget = case
    point = serve(Load(0.9 * inputs, 0.9 * outputs, concurrency, **WAVES), engine(slots, budget), front_end=DELAY)
    setting = Setting(inputs, outputs, slots, budget, delay_s=0.005, spread=SPREAD)
    truth = benchmark(setting, seconds, concurrency)
    assert point.tpot_s[0] == pytest.approx(truth.tpot_s, rel=0.05)
    assert point.ttft_s[0] == pytest.approx(truth.ttft_s, rel=0.2)


@pytest.mark.parametrize("case", [case for case in CASES if case[2] > 4], ids=str)
def test_requests_of_one_length_stay_in_waves_on_an_engine_that_prefills_first(case):
    inputs, outputs, concurrency, slots, budget = case
    point = serve(
        Load(inputs, outputs, concurrency, waves=10, equal_lengths=True),
        engine(slots, budget, mixed=False),
        front_end=FrontEnd(0.001),
    )
    truth = benchmark(Setting(inputs, outputs, slots, budget, mixed=False, spread=0), seconds, concurrency)
    assert point.tpot_s[0] == pytest.approx(truth.tpot_s, rel=0.05)
    assert point.ttft_s[0] == pytest.approx(truth.ttft_s, rel=0.05)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_requests_of_one_length_keep_the_groups_that_a_step_makes_where_chunks_are_mixed(case):
    inputs, outputs, concurrency, slots, budget = case
    load = Load(inputs, outputs, concurrency, waves=10, equal_lengths=True)
    point = serve(load, engine(slots, budget), Scheduling(group_waves=10), DELAY)
    truth = benchmark(Setting(inputs, outputs, slots, budget, delay_s=0.005, spread=0), seconds, concurrency)
    assert point.tpot_s[0] == pytest.approx(truth.tpot_s, rel=0.06)
    assert point.ttft_s[0] == pytest.approx(truth.ttft_s, rel=0.2)


@pytest.mark.parametrize("requests", [40, 72, 100, 128])
def test_a_run_of_one_length_ends_with_a_round_of_those_left(requests):
    load = Load(1024, 1024, 32, waves=requests / 32, equal_lengths=True)
    point = serve(load, scheduling=Scheduling(group_waves=10), front_end=DELAY)
    done = run(Setting(1024, 1024, 256, 8192, delay_s=0.005, spread=0), seconds, [0.0] * 32, requests - 32)
    truth = requests * 1024 / max(r.end_s for r in done)
    assert point.output_tokens_per_s[0] == pytest.approx(truth, rel=0.05)


@pytest.mark.parametrize("outputs", [128, 1024])
def test_a_group_waits_for_the_step_of_the_group_before_however_long_its_answers(outputs):
    load = Load(1024, outputs, 32, waves=1e9, equal_lengths=True)
    point = serve(load, scheduling=Scheduling(group_prompts=2))
    step = seconds(30, 1024 + outputs / 2, 2048, 0, 2)
    assert point.ttft_s[0] == pytest.approx(2 * step, rel=0.02)


def test_prompts_that_share_a_step_share_its_launches():
    launch_s, load = 0.05, Load(1024, 128, 64, waves=10, equal_lengths=True)

    def launched(batch):
        return step_s(batch) + launch_s * (np.asarray(batch.prefill_tokens) > 0)

    def truth_s(decodes, context, tokens, *rest):
        return seconds(decodes, context, tokens, *rest) + launch_s * (tokens > 0)

    point = steady_state(launched, load, engine(), Scheduling(group_waves=10), DELAY)
    truth = benchmark(Setting(1024, 128, 256, 8192, delay_s=0.005, spread=0), truth_s, 64)
    assert point.tpot_s[0] == pytest.approx(truth.tpot_s, rel=0.15)
    parted = steady_state(launched, load._replace(equal_lengths=False), engine(), front_end=DELAY)
    assert parted.tpot_s[0] > 1.5 * point.tpot_s[0]


def test_a_wave_that_one_step_prefills_stays_whole_and_waits_for_nobody():
    load = Load(128, 128, 32, waves=1e9, equal_lengths=True)
    point = serve(load, scheduling=Scheduling(group_whole=True))
    assert point.ttft_s[0] == pytest.approx(seconds(0, 0, 32 * 128, 0, 32), rel=0.05)
    parted = serve(load._replace(equal_lengths=False), scheduling=Scheduling(group_whole=True))
    assert parted.ttft_s[0] < point.ttft_s[0] / 2


@pytest.mark.parametrize("share", [0.1, 0.4, 0.7])
@pytest.mark.parametrize("mixed", [True, False])
def test_random_arrivals_settle_where_a_step_by_step_scheduler_does(share, mixed):
    most = serve(Load(922, 115, 1e6), engine(mixed=mixed)).requests_per_s[0]
    point = serve(Load(922, 115, request_rate_per_s=share * most), engine(mixed=mixed))
    truth = open_loop(Setting(1024, 128, 256, 8192, mixed), seconds, share * most, 2000)
    assert point.tpot_s[0] == pytest.approx(truth.tpot_s, rel=0.05)
    assert point.ttft_s[0] == pytest.approx(truth.ttft_s, rel=0.2)


def test_a_lone_request_takes_its_prefill_and_its_steps():
    point = serve(Load(1000, 11, 1))
    steps = seconds(1, 1000 + 11 / 2, 0, 0, 0)
    assert point.ttft_s[0] == pytest.approx(seconds(0, 0, 1000, 0, 1), rel=1e-9)
    assert point.ttft_unloaded_s[0] == pytest.approx(point.ttft_s[0], rel=1e-9)
    assert point.tpot_s[0] == pytest.approx(steps, rel=1e-9)
    assert point.e2e_s[0] == pytest.approx(point.ttft_s[0] + 10 * steps, rel=1e-9)


@pytest.mark.parametrize("inputs", [1023, 1024, 1025, 2048, 4096])
def test_a_prompt_of_a_lone_benchmark_waits_for_no_step_beyond_its_own(inputs):
    load = Load(inputs, 100, 1, waves=1, equal_lengths=True)
    point = serve(load, engine(budget=1024, mixed=True))
    assert point.ttft_s[0] == pytest.approx(point.ttft_unloaded_s[0], rel=0.01)


def test_a_long_prompt_is_prefilled_in_chunks_of_the_budget():
    point = serve(Load(4096, 1, 1), engine(budget=1024))
    chunks = sum(seconds(0, 0, 1024, done, 1) for done in (0, 1024, 2048, 3072))
    assert point.ttft_unloaded_s[0] == pytest.approx(chunks, rel=1e-3)
    assert point.prefill_tokens_per_s[0] == pytest.approx(4096 / chunks, rel=1e-3)


@pytest.mark.parametrize("case", [(128, 128, 31), (1000, 500, 4), (2000, 100, 2)], ids=str)
def test_a_whole_wave_waits_for_its_prompts_once(case):
    load = Load(*case, waves=1e9, equal_lengths=True)
    point = serve(load, scheduling=Scheduling(group_whole=True))
    inputs, outputs, concurrency = case
    assert point.tpot_s[0] == pytest.approx(seconds(concurrency, inputs + outputs / 2, 0, 0, 0), rel=0.02)
    assert point.requests_per_s[0] * point.e2e_s[0] == pytest.approx(concurrency, rel=0.02)


@pytest.mark.parametrize("budget", [512, 2048, 8192])
@pytest.mark.parametrize("slots", [4, 16, 64])
def test_nobody_waits_for_a_slot_where_each_has_one(slots, budget):
    load = Load(500, 500, slots)
    assert serve(load, engine(slots, budget)).slot_wait_s[0] == 0
    assert serve(load, engine(slots, budget)).ttft_s[0] == pytest.approx(
        serve(load, engine(2 * slots, budget)).ttft_s[0]
    )


@pytest.mark.parametrize("mixed", [True, False])
def test_without_prompts_requests_of_one_length_wait_for_no_wave(mixed):
    load = Load(0, 10, 16, waves=10)
    apart, together = (
        serve(load._replace(equal_lengths=equal), engine(mixed=mixed), Scheduling(group_whole=True))
        for equal in (False, True)
    )
    assert together.e2e_s[0] == pytest.approx(apart.e2e_s[0])


def test_an_unloaded_answer_without_a_prompt_has_no_company():
    alone, busy = serve(Load(0, 200, 1)), serve(Load(0, 200, 64))
    assert busy.ttft_unloaded_s[0] == pytest.approx(alone.ttft_s[0]) and busy.ttft_s[0] > alone.ttft_s[0]


def test_one_output_token_has_no_tpot_and_an_empty_prompt_no_prefill():
    prompt, stream = serve(Load(512, 1, 1)), serve(Load(0, 128, 1))
    assert math.isnan(prompt.tpot_s[0]) and math.isnan(prompt.output_tokens_per_s_per_request[0])
    assert math.isnan(stream.prefill_tokens_per_s[0])
    assert stream.e2e_s[0] == pytest.approx(128 * stream.tpot_s[0], rel=1e-9)
    assert stream.output_tokens_per_s[0] == pytest.approx(stream.output_tokens_per_s_per_request[0], rel=1e-9)


def test_embedding_is_prefill_only_and_fills_its_steps():
    point = serve(Load(512, 0, 64), engine(budget=8192))
    full = 8192 / 512 / seconds(0, 0, 8192, 0, 16)
    assert point.output_tokens_per_s[0] == 0
    assert point.requests_per_s[0] == pytest.approx(full, rel=0.1)


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("outputs", [1, 2, 3, 10])
def test_prompts_of_short_answers_are_not_prefilled_faster_than_alone(outputs, mixed):
    """Counting others by steps alone let engines that prefill first complete twice what their prompts take."""
    point = serve(Load(2000, outputs, 64), engine(mixed=mixed))
    filled_s = seconds(0, 0, 8192, 0, 4)
    assert point.requests_per_s[0] * 2000 <= 8192 / filled_s * 1.001
    assert pytest.approx(point.requests_per_s[0] * point.e2e_s[0], rel=1e-6) == 64


@pytest.mark.parametrize("case", [(7, 2, 31, 23), (2, 2, 103, 77)], ids=str)
def test_partly_taken_slots_complete_no_more_than_all_of_them(case):
    inputs, outputs, concurrency, slots = case
    point = serve(Load(inputs, outputs, np.array([concurrency, 8 * concurrency])), engine(slots, mixed=False))
    assert point.requests_per_s[0] <= point.requests_per_s[1] * 1.001


def test_slots_beyond_the_largest_graph_do_not_slow_a_load_below_it():
    """Of 300 slots 256 are replayed as a graph; beyond, the host launches every kernel."""

    def launched_s(batch):
        return step_s(batch) + 0.05 * (batch.decode_seqs > 256)

    load = Load(200, 400, np.array([100.0, 200.0, 250.0, 300.0]))
    beyond, within = engine(300, graph_batch=256), engine(255)
    found, expected = (steady_state(launched_s, load, capacity) for capacity in (beyond, within))
    assert found.requests_per_s[:3] == pytest.approx(expected.requests_per_s[:3], rel=0.01)
    assert found.requests_per_s[3] < 0.8 * expected.requests_per_s[3]


def test_requests_beyond_the_pool_wait_and_add_no_throughput():
    point = serve(Load(1024, 256, np.array([32, 64, 128])), engine(slots=32))
    assert point.slot_wait_s[0] == pytest.approx(0, abs=0.05 * point.e2e_s[0])
    assert point.requests_per_s[2] == pytest.approx(point.requests_per_s[1], rel=1e-6)
    assert point.slot_wait_s[2] - point.slot_wait_s[1] == pytest.approx(64 / point.requests_per_s[1], rel=1e-6)


def test_a_rate_beyond_capacity_has_no_finite_ttft_unless_concurrency_caps_it():
    most = serve(Load(1024, 256, 1e6)).requests_per_s[0]
    free, capped = (serve(Load(1024, 256, cap, 2 * most)) for cap in (np.inf, 64))
    assert free.above_capacity[0] and np.isinf(free.ttft_s[0])
    assert free.requests_per_s[0] == pytest.approx(most, rel=0.01)
    assert capped.above_capacity[0] and np.isfinite(capped.ttft_s[0])
    assert capped.requests_per_s[0] == pytest.approx(serve(Load(1024, 256, 64)).requests_per_s[0], rel=0.02)


def test_a_rate_within_capacity_is_completed():
    point = serve(Load(1024, 256, np.inf, np.array([1.0, 4.0])))
    assert not point.above_capacity.any()
    assert point.requests_per_s == pytest.approx([1.0, 4.0])
    assert point.ttft_s[1] > point.ttft_s[0] > point.ttft_unloaded_s[0]


def test_a_run_at_a_rate_lasts_until_its_last_request_has_ended():
    service, run = (serve(Load(1024, 256, np.inf, 4.0, run_requests=count)) for count in (np.inf, 200))
    lasts_s = 199 / 4 + run.e2e_s[0]
    assert run.requests_per_s[0] == pytest.approx(200 / lasts_s) and service.requests_per_s[0] == 4
    assert run.ttft_s[0] == service.ttft_s[0]


def test_users_who_think_obey_the_interactive_response_time_law():
    point = serve(Load(1024, 256, 100, think_time_s=20.0))
    assert point.requests_per_s[0] == pytest.approx(100 / (point.e2e_s[0] + 20), rel=1e-3)
    assert point.decode_sequences[0] < serve(Load(1024, 256, 100)).decode_sequences[0] / 3


def test_replicas_split_the_load():
    two, one = serve(Load(1024, 256, 64), engine(replicas=2)), serve(Load(1024, 256, 32))
    assert two.tpot_s[0] == pytest.approx(one.tpot_s[0], rel=1e-9)
    assert two.output_tokens_per_s[0] == pytest.approx(2 * one.output_tokens_per_s[0], rel=1e-9)


def test_fewer_requests_than_replicas_leave_some_idle():
    lone, one = serve(Load(1024, 256, 1), engine(replicas=4)), serve(Load(1024, 256, 1))
    assert lone.output_tokens_per_s[0] == pytest.approx(one.output_tokens_per_s[0], rel=1e-9)


def test_speculation_shortens_the_time_per_token_not_the_step():
    plain, fast = serve(Load(1024, 257, 1)), serve(Load(1024, 257, 1, tokens_per_step=2.0))
    assert fast.tpot_s[0] == pytest.approx(plain.tpot_s[0] / 2, rel=1e-9)


def test_one_server_waits_as_pollaczek_and_khinchine_say():
    assert multi_server_wait_s(1.0, 0.8, 2.0) == pytest.approx(0.8 * 2.0 / (2 * (1 - 0.8)))
    assert np.isinf(multi_server_wait_s(4.0, 1.0, 2.0))


def test_a_lone_request_pays_for_its_own_prefill():
    point = serve(Load(8000, 100, 1), engine(mixed=False))
    decode_s = point.e2e_s[0] - point.ttft_s[0]
    assert point.prefill_time_share[0] == pytest.approx(point.ttft_s[0] / (point.ttft_s[0] + decode_s), rel=0.05)


def test_prompts_alone_wait_for_no_late_steps():
    late = Scheduling(late_steps=3)
    with_late, without = (serve(Load(2000, 1, 4), scheduling=one).ttft_s[0] for one in (late, AT_ONCE))
    assert with_late == without
    assert serve(Load(2000, 100, 4), None, late).ttft_s[0] > serve(Load(2000, 100, 4)).ttft_s[0]


def test_the_largest_part_binds_unless_requests_wait_for_the_pool():
    parts = np.array([[3.0, 1.0, 0.1], [1.0, 3.0, 0.1], [0.5, 0.5, 0.2], [0.2, 0.2, 0.3]])
    assert list(dominant_bound(*parts, np.array([False, False, False]))) == ["memory", "compute", "overhead"]
    assert list(dominant_bound(*parts, np.array([True, False, True]))) == ["kv_pool", "compute", "kv_pool"]


@pytest.mark.parametrize(("inputs", "concurrency"), [(200, 8), (200, 64), (4000, 64)])
def test_a_scheduler_that_seldom_looks_settles_where_events_do(inputs, concurrency):
    """Prompts wait for the next look and are prefilled together."""
    from planner.events import (
        Cached,
        EngineLimits,
        Lengths,
        Loop,
        Pool,
        RequestLimits,
        Service,
        Users,
        simulate,
        summary,
    )

    load = Load(inputs, 400, concurrency)
    point = steady_state(step_s, load, engine(mixed=False), Scheduling(late_steps=3, poll_steps=20), FrontEnd(0.001))
    limits = EngineLimits(256, 8192, Pool(10**9, 16), mixed=False, late_steps=3, poll_steps=20)
    lengths = (Lengths(inputs, shortest_fraction=0.8), Lengths(400, shortest_fraction=0.8))
    source = Loop(Users(concurrency, start_s=float(point.e2e_s[0])), lengths, Cached(), 20 * concurrency + 400, 0)
    seen = summary(
        simulate(Service(limits, request_s=0.001), Exact(), source),
        slice(4 * concurrency, -concurrency),
        RequestLimits(),
    )
    assert point.tpot_s[0] == pytest.approx(seen.tpot.mean_s, rel=0.05)
    assert point.ttft_s[0] == pytest.approx(seen.ttft.mean_s, rel=0.2)


@pytest.mark.parametrize("stages", [2, 4, 8])
def test_a_prompt_in_a_pipeline_holds_up_every_lane(stages):
    """A pipeline played stage by stage: lanes step as long as the longest step among them."""
    decode_s, busy_s, rounds = 1.0, 5.0, 4000
    request = request_shape(Load(1000, 1001, 32))
    capacity = engine(lanes=stages, waits_on=stages)
    m = mix(request, capacity, np.array([0.05]))
    random = np.random.default_rng(0)
    free, ready = np.zeros(stages), np.zeros(stages)
    for _ in range(rounds):
        for lane in range(stages):
            each = (busy_s if random.uniform() < m.busy_share[0] else decode_s) / stages
            at = ready[lane]
            for stage in range(stages):
                at = free[stage] = max(at, free[stage]) + each
            ready[lane] = at
    times = Times(*(np.array([seconds]) for seconds in (decode_s, busy_s, busy_s)))
    assert life(request, capacity, m, times).step_s[0] == pytest.approx(ready.max() / rounds, rel=0.08)


def test_a_front_end_that_takes_requests_one_by_one_bounds_them_and_they_wait_before_their_first_token():
    load = Load(1024, 256, 128)
    free, bound = (serve(load, engine(256), front_end=FrontEnd(0.005, serial_s=serial_s)) for serial_s in (0.0, 0.1))
    assert free.requests_per_s[0] > 10
    assert bound.requests_per_s[0] == pytest.approx(10)
    assert bound.requests_per_s[0] * bound.e2e_s[0] == pytest.approx(128)
    assert bound.tpot_s[0] == pytest.approx(free.tpot_s[0])
    assert bound.ttft_s[0] > free.ttft_s[0]


def test_ranks_wait_for_each_other_as_draws_say_and_no_longer_than_they_may():
    random = np.random.default_rng(0)
    drawn = random.exponential(4 / 0.5, (20000, 4)).max(axis=1).mean()  # 4 ranks, half a prompt per step among them
    waits = [
        late_steps(request_shape(Load(1024, 256), Scheduling(ranks=4.0, balance_steps=limit)), np.array([0.5]))[0]
        for limit in (1000.0, 10.0)
    ]
    assert waits == pytest.approx([drawn / 2, 5], rel=0.02)


def test_steps_that_all_miss_alike_have_no_tail():
    load = Load(1024, 128, 16, waves=np.inf)
    offered = offer(step_s, load, engine(), Scheduling(late_steps=50))
    one = settle(step_s, offered).point.life
    p50, p99 = (tail(load, offered.request, one, np.zeros(1), p).ttft_s[0] for p in (50.0, 99.0))
    assert one.missed_s[0] == pytest.approx(50 * one.step_s[0], rel=0.05)
    assert p99 - p50 < one.missed_s[0]
