"""Attention data-parallel ranks that prefill each for itself, beside ranks that decode."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from planner.events import Cached, EngineLimits, Pool, Replay, Service, Trace, simulate
from planner.ops import Batch
from planner.serving import Load, Scheduling, steady_state, uniform_log_sd
from planner.serving.ranks import others_of
from tests.oracle.attention_ranks import benchmark, replayed
from tests.oracle.continuous_batching import Setting
from tests.oracle.toy_gpu import engine

RANKS, SPREAD = 8, 0.2
START_S, DECODE_S, SHARED_S, OWN_S = (
    0.01,
    5e-5,
    4e-6,
    6e-5,
)  # of a step, a sequence, a token, a token of the busiest rank


def seconds(decodes, context, tokens, before, prompts):
    """Experts take every token, attention the part of the busiest rank."""
    return START_S + DECODE_S * decodes + SHARED_S * tokens + OWN_S * tokens / np.clip(prompts, 1, RANKS)


def step_s(batch: Batch):
    return seconds(*batch[:5])


def served(inputs: int, outputs: int, concurrency: int, budget: int, **more):
    load = Load(inputs, outputs, concurrency, waves=10, **more)
    return steady_state(step_s, load, engine(4096, budget, mixed=False), Scheduling(attention_ranks=float(RANKS)))


CASES = [  # input, output, concurrency, budget of all ranks
    (8192, 1024, 64, 16384),
    (8192, 1024, 256, 16384),
    (4096, 512, 32, 8192),
    (1024, 1024, 64, 16384),
    (1024, 256, 128, 16384),
    (2048, 512, 8, 16384),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_ranks_that_prefill_for_themselves_settle_where_their_schedulers_do(case):
    inputs, outputs, concurrency, budget = case
    point = served(0.9 * inputs, 0.9 * outputs, concurrency, budget, output_log_sd=uniform_log_sd(1 - SPREAD))
    setting = Setting(inputs, outputs, 512, budget // RANKS, mixed=False, spread=SPREAD)
    truth = benchmark(setting, RANKS, seconds, concurrency)
    assert point.tpot_s[0] == pytest.approx(truth.tpot_s, rel=0.03)
    assert point.ttft_s[0] == pytest.approx(truth.ttft_s, rel=0.3)


@pytest.mark.parametrize("case", [case for case in CASES if case[2] >= RANKS], ids=str)
def test_requests_of_one_length_keep_ranks_in_step(case):
    inputs, outputs, concurrency, budget = case
    point = served(inputs, outputs, concurrency, budget, equal_lengths=True)
    truth = benchmark(
        Setting(inputs, outputs, 512, budget // RANKS, mixed=False, spread=0), RANKS, seconds, concurrency
    )
    assert point.tpot_s[0] == pytest.approx(truth.tpot_s, rel=1e-3)
    assert point.ttft_s[0] == pytest.approx(truth.ttft_s, rel=1e-3)


def test_a_prompt_alone_takes_the_part_of_one_rank_in_each_step():
    point = served(8192, 128, 1, 16384, equal_lengths=True)
    assert point.ttft_unloaded_s[0] == pytest.approx(4 * seconds(0, 0, 2048, 0, 1))


def test_one_rank_has_no_others():
    alone = others_of(np.ones(1), np.ones(1), np.ones(1))
    assert (alone.prefilling, alone.share) == (0, 0)


def test_of_two_ranks_the_other_prefills_in_its_share_of_the_steps():
    pair = others_of(np.array([2.0]), np.array([0.25]), np.ones(1))  # once in four decode steps is one step in five
    assert (pair.prefilling[0], pair.share[0]) == pytest.approx((0.2, 0.2))
    clumped = others_of(np.array([2.0]), np.array([0.25]), np.array([4.0]))  # every other step of a quarter of them
    assert (clumped.prefilling[0], clumped.share[0]) == pytest.approx((0.5, 0.125))


class OfRanks:
    """Prices of every step by itself; the slowest rank reads its cache."""

    def decode_s(self, sequences, context):
        return self.mixed_s(sequences, context, 0, 0, 0)

    def straight_until(self, context):
        return float("inf")

    def mixed_s(self, sequences, context, tokens, before, prompts):
        return float(seconds(sequences, context, tokens, before, prompts) + 1e-9 * sequences * context)


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("case", [(300, 40, 40.0), (3000, 100, 8.0), (1500, 300, 2.0)], ids=str)
def test_simulated_ranks_step_together_as_their_schedulers_do(case, mixed):
    inputs, outputs, per_s = case
    random, at, sent = Random(7), 0.0, []
    for _ in range(300):
        at += random.expovariate(per_s)
        sent.append(at)
    setting = Setting(inputs, outputs, slots=6, budget_tokens=512, mixed=mixed)
    truth = sorted(replayed(setting, RANKS, OfRanks().mixed_s, sent), key=lambda request: request.sent_s)
    trace = Trace(*np.array([(r.sent_s, r.prompt, r.output) for r in truth], float).T)
    limits = EngineLimits(6, 512, Pool(10**9, 16), mixed, ranks_apart=RANKS, ranks_in_turn=True)
    seen = simulate(Service(limits), OfRanks(), Replay(trace, Cached())).requests
    order = np.argsort(seen.sent_s)
    assert seen.first_s[order] == pytest.approx(np.array([r.first_s for r in truth]), abs=1e-6)
    assert seen.end_s[order] == pytest.approx(np.array([r.end_s for r in truth]), abs=1e-6)


def test_a_request_goes_to_the_rank_with_the_fewest_where_ranks_take_no_turns():
    trace = Trace(np.array([0.0, 0.2, 0.4, 0.6]), np.full(4, 100.0), np.array([400.0, 10.0, 10.0, 10.0]))
    limits = EngineLimits(1, 512, Pool(10**9, 16), ranks_apart=2)
    turns, fewest = (
        simulate(Service(limits._replace(ranks_in_turn=in_turn)), OfRanks(), Replay(trace, Cached())).requests
        for in_turn in (True, False)
    )
    assert np.max(fewest.admitted_s - fewest.sent_s) < 0.02  # past the long answer ...
    assert np.max(turns.admitted_s - turns.sent_s) > 1  # ... behind which one in two would wait
