"""A load as one request of it: lengths, what is cached, conversations, drafted tokens."""

from __future__ import annotations

import numpy as np
import pytest

from planner.serving import (
    Load,
    Scheduling,
    conversation,
    log_sd,
    request_shape,
    speculative_tokens_per_step,
    uniform_log_sd,
)
from planner.serving.steps import batch


def test_a_cached_history_saves_prefill_and_keeps_the_context():
    fresh = request_shape(Load(8000.0, 200.0))
    cached = request_shape(Load(8000.0, 200.0, shared_prefix_tokens=2000.0, cached_input_fraction=0.5))
    assert cached.prefill_tokens == 3000 and cached.cached_tokens == 5000
    assert cached.decode_context == fresh.decode_context


def test_a_wholly_cached_prompt_still_computes_its_last_token():
    assert request_shape(Load(8000.0, 200.0, cached_input_fraction=1.0)).prefill_tokens == 1


def test_a_conversation_of_three_turns_sends_its_history():
    prompts = [100 + 500, 2 * 100 + 500 + 300, 3 * 100 + 500 + 600]  # 500 of system prompt, 300 per answer
    talk = conversation(600, 300, 3, 500)
    assert talk.input_tokens == pytest.approx(np.mean(prompts))
    assert talk.input_tokens - talk.cached_tokens == 600


@pytest.mark.parametrize(("rate", "drafted"), [(0.0, 3), (0.8, 4), (1.0, 5)])
def test_speculation_yields_the_expected_run_of_accepted_tokens(rate, drafted):
    run = sum((i + 1) * rate**i * (1 - rate) for i in range(drafted)) + (drafted + 1) * rate**drafted
    assert speculative_tokens_per_step(rate, drafted) == pytest.approx(run)


def test_spread_of_lengths_follows_from_their_95th_percentile():
    lengths = np.random.default_rng(0).lognormal(6, 0.7, 200_000)
    assert log_sd(lengths.mean(), np.quantile(lengths, 0.95)) == pytest.approx(0.7, rel=0.02)
    assert log_sd(1000.0, np.nan) == 0 and log_sd(1000.0, 900.0) == 0


@pytest.mark.parametrize("shortest", [0.1, 0.8])
def test_spread_of_uniform_lengths_keeps_their_mean_square(shortest):
    lengths = np.random.default_rng(0).uniform(shortest, 1, 200_000)
    assert np.exp(uniform_log_sd(shortest) ** 2) == pytest.approx((lengths**2).mean() / lengths.mean() ** 2, rel=0.01)
    assert uniform_log_sd(1.0) == 0


def test_a_prompt_gets_no_more_of_a_step_than_one_rank_takes() -> None:
    """Eight attention data-parallel ranks hold a chunk of eight prompts, not two whole prompts on two of them."""
    one = np.ones(1)
    for ranks, sequences in ((1, 2), (2, 2), (8, 8), (16, 16)):
        request = request_shape(Load(8192 * one, 1024 * one, 64 * one), Scheduling(attention_ranks=float(ranks)))
        assert batch(request, 0 * one, 16384 * one, 16384 * one).prefill_seqs == pytest.approx(sequences)
