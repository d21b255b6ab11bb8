"""A whole memory plan: what breaks first, what it holds, and physics as properties."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.catalog.engines import engine
from planner.catalog.models import model as named
from planner.collectives import Parallel
from planner.memory.table import sequence_bytes
from planner.units import GIB
from tests.memory_plans import NONE, VLLM, plan, table
from tests.oracle.models import MIXERS, MOE, build


@pytest.mark.parametrize(
    ("changes", "breaks"),
    [
        ({}, ""),
        ({"reserved_bytes": 20 * GIB}, "reserved"),
        ({"total_bytes": 0.1 * GIB, "enforce_eager": True}, "reserved"),
        ({"total_bytes": 10 * GIB}, "weights"),
        ({"total_bytes": 17.5 * GIB}, "activation"),
        ({"input_tokens": 500_000.0}, "kv_cache"),
        ({"max_model_len": 2_000_000.0, "max_model_len_given": True}, "max_model_len"),
        ({"utilization": 0.993}, "cuda_graphs"),
        ({"max_model_len": 1500.0, "max_model_len_given": True}, "context"),
    ],
)
def test_the_first_term_that_does_not_fit_is_named(changes: dict[str, Any], breaks: str) -> None:
    verdict = plan(named("meta-llama/Meta-Llama-3-8B-Instruct"), **changes).verdict
    assert verdict.breaks[0] == breaks
    assert verdict.starts[0] == (breaks == "")
    assert (verdict.shortfall_bytes[0] > 0) == (breaks not in ("", "context"))


def test_the_shortfall_is_what_the_budget_lacks() -> None:
    model = named("meta-llama/Meta-Llama-3-8B-Instruct")
    result = plan(model, total_bytes=10 * GIB)
    assert result.verdict.shortfall_bytes[0] == result.terms.weights_bytes[0] - 9 * GIB


def test_more_load_than_the_pool_holds_queues_but_starts() -> None:
    result = plan(build(), concurrency=10_000.0)
    assert result.verdict.starts[0]
    assert not result.verdict.holds_load[0]
    assert result.kv.kv_occupancy[0] > 1


def test_the_longest_context_fits_and_one_token_more_does_not() -> None:
    model = build(MIXERS["gqa"], max_position=2**20)
    kv = plan(model, NONE, concurrency=7.0, total_bytes=2 * GIB, max_num_batched_tokens=64.0).kv
    longest = float(kv.max_context_tokens[0])
    shape: dict[str, Any] = {
        "output_tokens": 0.0,
        "total_bytes": 2 * GIB,
        "max_num_batched_tokens": 64.0,
        "utilization": 0.9,
    }
    assert plan(model, NONE, input_tokens=longest, **shape).kv.max_concurrency[0] == 7
    assert plan(model, NONE, input_tokens=longest + 1, **shape).kv.max_concurrency[0] == 6


@pytest.mark.parametrize("id_", ["vllm", "sglang", "tensorrt-llm", "llama.cpp", "transformers", "mlx", "none"])
@pytest.mark.parametrize("kind", list(MIXERS))
def test_every_engine_plans_every_kind_of_layer(id_: str, kind: str) -> None:
    result = plan(build(MIXERS[kind], MOE), engine(id_), Parallel(np.array([1, 2, 4]), np.array([1, 2, 1])))
    for value in (*result.terms, *result.kv):
        assert np.shape(value) == (3,)
        assert np.all(np.isfinite(value))
        assert np.all(np.asarray(value) >= 0)
    assert np.all(result.verdict.starts)


def test_scalar_equals_vector() -> None:
    model, tp, pp = named("openai/gpt-oss-20b"), np.array([1, 2, 4, 1]), np.array([1, 1, 2, 3])
    many = plan(model, parallel=Parallel(tp, pp), concurrency=np.array([1.0, 9.0, 40.0, 700.0]))
    for row, load in enumerate((1.0, 9.0, 40.0, 700.0)):
        one = plan(model, parallel=Parallel(int(tp[row]), int(pp[row])), concurrency=load)
        for vector, scalar in zip((*many.terms, *many.kv), (*one.terms, *one.kv), strict=True):
            assert np.broadcast_to(vector, (4,))[row] == pytest.approx(float(np.ravel(scalar)[0]))


@given(short=st.integers(1, 30_000), more=st.integers(0, 30_000), kind=st.sampled_from(sorted(MIXERS)))
def test_a_longer_sequence_never_takes_less(short: int, more: int, kind: str) -> None:
    rules = table(build(MIXERS[kind]), VLLM)
    assert sequence_bytes(rules, float(short + more))[0, 0] >= sequence_bytes(rules, float(short))[0, 0]


@given(low=st.floats(0.3, 0.95), more=st.floats(0, 0.05))
def test_a_larger_budget_never_holds_less(low: float, more: float) -> None:
    small, large = (plan(build(), utilization=share).kv.max_concurrency[0] for share in (low, low + more))
    assert large >= small


def test_host_memory_that_is_too_small_is_named() -> None:
    model = named("meta-llama/Meta-Llama-3-8B-Instruct")
    verdict = plan(model, cpu_offload_bytes=4e9, host_bytes=2e9).verdict
    assert verdict.breaks[0] == "host_memory"
    assert verdict.shortfall_bytes[0] == 2e9
