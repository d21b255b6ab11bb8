"""Attention data-parallel ranks that prefill each for itself, beside ranks that decode."""

from __future__ import annotations

import numpy as np
import pytest

from planner.ops import Batch
from planner.serving import Load, Scheduling, steady_state, uniform_log_sd
from planner.serving.ranks import others_of
from tests.oracle.attention_ranks import benchmark
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
