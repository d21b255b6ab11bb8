from __future__ import annotations

from random import Random

import numpy as np
import pytest

from planner.events import (
    Cached,
    EngineLimits,
    Lengths,
    Loop,
    Pool,
    Reach,
    Replay,
    RequestLimits,
    Routing,
    Service,
    StepTable,
    Trace,
    Users,
    poisson,
    simulate,
    summary,
    times,
)
from planner.events.engine import Engine
from planner.events.records import Request
from tests.oracle.continuous_batching import Setting, run
from tests.oracle.toy_gpu import Exact, seconds, step_s

WIDE = Pool(blocks=10**9, block_tokens=16)


def limits(slots=256, budget=8192, mixed=True, pool=WIDE):
    return EngineLimits(slots, budget, pool, mixed)


NOTHING_CACHED = Cached()


def replayed(trace, service=None, cached=NOTHING_CACHED, prices=None):
    return simulate(service or Service(limits()), prices or Exact(), Replay(trace, cached))


def trace_of(sent, prompt, output):
    return Trace(np.array(sent, float), np.full(len(sent), float(prompt)), np.full(len(sent), float(output)))


def oracle(setting, sent):
    """The step-by-step scheduler on fixed arrivals, and the trace that it saw."""
    done = run(setting, seconds, list(sent), 0)
    done.sort(key=lambda request: request.sent_s)
    lengths = np.array([(r.sent_s, r.prompt, r.output) for r in done], float)
    return Trace(*lengths.T), np.array([(r.sent_s, r.first_s, r.end_s) for r in done])


SETTINGS = [  # input, output, slots, budget, mixed, requests per second
    (1024, 128, 256, 8192, True, 8.0),
    (1024, 128, 8, 2048, True, 4.0),
    (6000, 200, 64, 2048, True, 2.0),
    (300, 40, 16, 8192, False, 30.0),
    (3000, 100, 32, 2048, False, 5.0),
    (1, 300, 64, 512, True, 20.0),
    (500, 1, 64, 2048, True, 20.0),
]


@pytest.mark.parametrize("case", SETTINGS)
def test_every_request_agrees_with_the_scheduler_that_goes_step_by_step(case) -> None:
    setting = Setting(case[0], case[1], case[2], case[3], case[4])
    random, at, sent = Random(7), 0.0, []
    for _ in range(400):
        at += random.expovariate(case[5])
        sent.append(at)
    trace, expected = oracle(setting, sent)
    seen = replayed(trace, Service(limits(case[2], case[3], case[4]))).requests
    order = np.argsort(seen.sent_s)
    found = np.stack([seen.sent_s, seen.first_s, seen.end_s], axis=1)[order]
    assert np.max(np.abs(found - expected)) < 1e-6


class Stepwise(Exact):
    """Prices that let no two steps run as one."""

    def straight_until(self, context):
        return context


TIGHT = Pool(blocks=400, block_tokens=16)


def busy_trace(count=300, seed=3, rate=20.0):
    lengths = Lengths(300, log_sd=0.6), Lengths(200, log_sd=0.6)
    return poisson(np.random.default_rng(seed), rate, lengths, count)


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("pool", [WIDE, TIGHT, TIGHT._replace(fixed_blocks=3, prefix_tokens=40)])
def test_steps_that_run_as_one_end_when_single_steps_do(mixed, pool) -> None:
    service = Service(limits(slots=48, budget=1024, mixed=mixed, pool=pool))
    together, single = (replayed(busy_trace(), service, prices=prices) for prices in (Exact(), Stepwise()))
    assert together.preemptions == single.preemptions
    for one, other in zip(together.requests, single.requests, strict=True):
        assert one == pytest.approx(other, abs=1e-6)


@pytest.mark.parametrize("per_step", [1.0, 2.5])
def test_a_full_pool_preempts_and_everyone_is_served_at_last(per_step) -> None:
    service = Service(limits(pool=TIGHT)._replace(tokens_per_step=per_step))
    run_ = replayed(busy_trace(), service)
    assert run_.preemptions > 0
    assert len(run_.requests.end_s) == 300
    assert run_.preemptions == np.sum(run_.requests.preemptions)
    assert np.all(run_.requests.end_s >= run_.requests.first_s)


def blocks_of(engine: Engine, request: Request) -> int:
    """Counted one by one: a block for every 16 tokens in the cache after the step that is under way."""
    if request.joined < 0:
        return request.blocks
    tokens = request.prompt + request.done + (engine._count - request.joined) - 1
    return max(request.blocks, -(-tokens // 16))


def test_the_pool_holds_what_its_sequences_hold_after_every_step() -> None:
    engine, trace, now, ended = Engine(limits(pool=TIGHT), Stepwise()), busy_trace(60), 0.0, 0
    requests = [Request(0.0, int(p), int(o)) for p, o in zip(trace.prompt, trace.output, strict=True)]
    for request in requests:
        engine.arrive(request, 0.0)
    while plan := engine.begin(now):
        now, done = engine.finish(plan.steps)
        ended += len(done)
        assert engine.free == 400 - sum(blocks_of(engine, r) for r in requests if r.running) >= 0
    assert (ended, engine.free, engine.running) == (60, 400, 0)
    assert engine.preemptions > 0


def test_the_latest_arrival_is_preempted() -> None:
    pool = Pool(blocks=22, block_tokens=16)
    seen = replayed(trace_of([0.0, 0.001, 0.002], 96, 100), Service(limits(pool=pool))).requests
    preempted = dict(zip(seen.sent_s, seen.preemptions, strict=True))
    assert preempted[0.0] == 0
    assert preempted[0.002] >= 1


def test_a_request_longer_than_the_pool_is_refused_and_stops_nobody() -> None:
    trace = Trace(np.zeros(3), np.array([100.0, 50000.0, 100.0]), np.full(3, 10.0))
    run_ = replayed(trace, Service(limits(pool=TIGHT)))
    assert (run_.refused, len(run_.requests.end_s)) == (1, 2)


def test_a_shared_prefix_is_neither_computed_nor_stored_again() -> None:
    trace = trace_of(np.zeros(40), 1000, 50)
    tight = limits(pool=Pool(blocks=500, block_tokens=16, prefix_tokens=900))
    plain = replayed(trace, Service(limits(pool=Pool(500, 16)))).requests
    shared = replayed(trace, Service(tight), Cached(900)).requests
    assert np.max(shared.end_s) < 0.5 * np.max(plain.end_s)


def test_the_slots_are_never_exceeded_and_all_are_used() -> None:
    run_ = replayed(trace_of(np.zeros(200), 100, 50), Service(limits(slots=7)))
    assert np.max(run_.timeline.running) == 7


def test_a_cap_on_requests_in_flight_holds_the_rest_back() -> None:
    run_ = replayed(trace_of(np.zeros(50), 100, 50), Service(limits(), in_flight=5))
    assert np.max(run_.timeline.running + run_.timeline.waiting) <= 5
    assert len(run_.requests.end_s) == 50


def looped(people=20, count=400, seed=0, **more):
    users, lengths = Users(people, **more), (Lengths(500, 0.4), Lengths(100, 0.4))
    return simulate(Service(limits()), Exact(), Loop(users, lengths, Cached(), count, seed))


def test_a_seed_decides_everything() -> None:
    first, again, other = looped(seed=1), looped(seed=1), looped(seed=2)
    assert all(np.array_equal(a, b) for a, b in zip(first.requests, again.requests, strict=True))
    assert not np.array_equal(first.requests.end_s, other.requests.end_s)


def test_users_who_think_obey_the_interactive_response_time_law() -> None:
    run_ = looped(people=30, count=3000, think_s=5.0, start_s=5.0)  # X = N / (R + Z)
    found = summary(run_, slice(300, 2700), RequestLimits())
    assert found.requests_per_s == pytest.approx(30 / (found.e2e.mean_s + 5.0), rel=0.05)


def test_a_rate_obeys_littles_law() -> None:
    trace = poisson(np.random.default_rng(0), 6.0, (Lengths(500), Lengths(100)), 3000)
    run_ = replayed(trace)
    lasts, inside = np.diff(run_.timeline.time_s), (run_.timeline.running + run_.timeline.waiting)[:-1]
    mean = np.sum(lasts * inside) / np.sum(lasts)
    assert mean == pytest.approx(6.0 * np.mean(times(run_.requests).e2e_s), rel=0.05)


def test_a_conversation_grows_and_its_history_is_cached() -> None:
    source = Loop(Users(1, turns=3), (Lengths(100), Lengths(20)), Cached(), 30, 0)
    request = next(source.first())
    while request.turn:
        request = source.after(request)
    second = source.after(request)
    third = source.after(second)
    assert [(r.prompt, r.cached) for r in (request, second, third)] == [(100, 0), (220, 120), (340, 240)]


def test_least_loaded_routing_waits_less_than_round_robin() -> None:
    trace = poisson(np.random.default_rng(5), 4.0, (Lengths(500), Lengths(300, log_sd=1.2)), 1500)
    waits = [
        np.mean(times(replayed(trace, Service(limits(slots=4), 4, routing=routing)).requests).queue_s)
        for routing in (Routing.ROUND_ROBIN, Routing.LEAST_LOADED)
    ]
    assert waits[1] < 0.8 * waits[0]


def test_lengths_have_the_mean_and_the_tail_that_were_asked_for() -> None:
    drawn = Lengths(1000, log_sd=0.5).drawn(np.random.default_rng(0), 200_000)
    assert np.mean(drawn) == pytest.approx(1000, rel=0.01)
    assert np.percentile(drawn, 95) == pytest.approx(1000 * np.exp(1.6449 * 0.5 - 0.125), rel=0.02)
    uniform = Lengths(1000, shortest_fraction=0.8).drawn(np.random.default_rng(0), 100_000)
    assert (uniform.min(), uniform.max()) == (889, 1111) and np.mean(uniform) == pytest.approx(1000, rel=0.01)


def test_the_timeline_is_bounded() -> None:
    run_ = looped(people=40, count=8000)
    assert 500 < len(run_.timeline.time_s) <= 2048


def test_objectives_are_met_by_the_share_of_requests_that_meet_all() -> None:
    run_ = looped()
    seen = times(run_.requests)
    limit = RequestLimits(ttft_s=float(np.median(seen.ttft_s)), e2e_s=1e9)
    assert summary(run_, slice(0, None), limit).slo_attainment == pytest.approx(0.5, abs=0.01)
    assert np.isnan(summary(run_, slice(0, None), RequestLimits()).slo_attainment)


def test_the_table_reads_steps_as_they_are_priced() -> None:
    table, random = StepTable(step_s, Reach(256, 40_000, 8192)), np.random.default_rng(0)
    n, context = random.integers(1, 257, 500), random.uniform(1, 40_000, 500)
    tokens, prompts = random.integers(1, 8193, 500), random.integers(1, 9, 500)
    before = random.uniform(0, 8000, 500) * (prompts == 1)
    decode = [table.decode_s(*x) / seconds(*x, 0, 0, 0) - 1 for x in zip(n, context, strict=True)]
    states = zip(n, context, tokens, before, prompts, strict=True)
    mixed = [table.mixed_s(*x) / seconds(*x) - 1 for x in states]
    assert np.max(np.abs(decode)) < 0.002
    assert np.mean(np.abs(mixed)) < 0.01
    assert np.max(np.abs(mixed)) < 0.05


def test_a_busy_engine_takes_requests_in_some_steps_later() -> None:
    """Four steps ahead of the scheduler, or half of the eight between two of its looks, delay a first token alike."""

    def mean_ttft_s(**late: int) -> float:
        source = Loop(Users(4, start_s=1.0), (Lengths(500), Lengths(100, 0.4)), Cached(), 400, 0)
        run_ = simulate(Service(limits()._replace(**late)), Exact(), source)
        return summary(run_, slice(40, 360), RequestLimits()).ttft.mean_s

    step, soon = Exact().decode_s(4, 550), mean_ttft_s()
    assert mean_ttft_s(late_steps=4) - soon == pytest.approx(4 * step, rel=0.15)
    assert mean_ttft_s(poll_steps=9) - soon == pytest.approx(4 * step, rel=0.3)


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_front_end_takes_a_request_at_most_once_in_its_time(replicas) -> None:
    """One that stands by takes none."""
    service = Service(limits(), replicas + 1, tokenizer_token_s=1e-5, serial_s=0.5, spare=1)
    first_s = np.sort(replayed(trace_of([0.0] * 9, 100, 2), service).requests.first_s)
    assert first_s[-1] - first_s[0] == pytest.approx((9 - 1) // replicas * 0.5, rel=1e-3)


def test_a_spare_takes_the_place_of_a_replica_that_fails() -> None:
    trace = poisson(np.random.default_rng(0), 6.0, (Lengths(500), Lengths(100)), 600)

    def ran(**more):
        return replayed(trace, Service(limits(), replicas=3, **more))

    spare, lost, both = ran(spare=1), ran(fails_s=30.0), ran(spare=1, fails_s=30.0)
    assert set(spare.requests.server) == {0.0, 1.0} and not spare.restarted
    assert lost.restarted > 0 and max(lost.requests.end_s[lost.requests.server == 0]) <= 30
    after = both.requests.sent_s > 31
    assert set(both.requests.server[after]) == {1.0, 2.0}
    assert all(len(run_.requests.end_s) == 600 for run_ in (spare, lost, both))


def test_requests_of_a_failed_replica_start_again() -> None:
    trace = Trace(np.array([0.0, 0.0]), np.full(2, 500.0), np.full(2, 1000.0))
    run_ = replayed(trace, Service(limits(), replicas=2, fails_s=1.0))
    assert run_.restarted == 1
    whole, again = np.sort(run_.requests.end_s)
    assert again > whole and np.max(run_.requests.first_s) > 1.0


def test_an_engine_that_takes_all_blocks_at_the_start_sets_nobody_back() -> None:
    trace = Trace(np.zeros(8), np.full(8, 500.0), np.full(8, 500.0))
    pool = Pool(blocks=200, block_tokens=16)  # 3 sequences of 63 blocks, or 6 prompts of 32
    grows, whole = (replayed(trace, Service(limits(pool=pool._replace(whole=w)))) for w in (False, True))
    assert grows.preemptions > 0 and not whole.preemptions
    assert max(grows.timeline.running) == 6 and max(whole.timeline.running) == 3


@pytest.mark.parametrize("stages", [2, 4])
def test_a_long_step_holds_up_the_lanes_behind_it_once(stages) -> None:
    """One lane decodes; a prompt in another takes the stages for as long as it exceeds a decode step."""
    trace = Trace(np.array([0.0, 0.1001]), np.array([16.0, 8000.0]), np.array([101.0, 1.0]))
    waits, apart = (
        replayed(trace, Service(limits(), lanes=stages, stages_wait=wait)).requests.end_s for wait in (True, False)
    )
    delay = np.max(waits) - np.max(apart)
    assert delay == pytest.approx(seconds(0, 0, 8000, 0, 1) - seconds(1, 66, 0, 0, 0), rel=0.03)


def test_lanes_that_decode_alike_do_not_wait_for_each_other() -> None:
    trace = trace_of([0.0, 0.0, 0.0], 100, 200)
    waits, apart = (replayed(trace, Service(limits(), lanes=3, stages_wait=wait)).requests for wait in (True, False))
    assert np.max(waits.end_s) == pytest.approx(np.max(apart.end_s), rel=0.01)


def test_ranks_start_prompts_in_the_same_step() -> None:
    """The second request waits for the third, so that both ranks have a prompt; alone it waits `balance_steps`."""
    two = Service(limits()._replace(ranks=2, balance_steps=50))
    pair = replayed(trace_of([0.0, 0.1, 0.2], 512, 400), two).requests
    _, second, third = sorted(zip(pair.sent_s, pair.admitted_s, strict=True))
    assert second[1] == third[1] >= 0.2
    lone = replayed(trace_of([0.0, 0.1], 512, 400), two).requests
    step = (lone.end_s[0] - lone.first_s[0]) / 399
    assert max(lone.admitted_s) - 0.1 == pytest.approx(50 * step, rel=0.1)
