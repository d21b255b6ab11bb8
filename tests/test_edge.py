"""Shares of steps beyond the largest CUDA graph, against steps whose lengths are drawn evenly from 0.8 to 1."""

from __future__ import annotations

import numpy as np
import pytest

from planner.serving import Load, uniform_log_sd
from planner.serving.edge import beyond_share
from planner.serving.load import request_shape
from tests.oracle.toy_gpu import engine

GRAPH, BUDGET = 512, 8192


def shares(p: float, log_sd: float, prompts: float, decodes: float, **more) -> tuple[float, float]:
    request = request_shape(Load(*np.atleast_1d(p, 100.0, 8.0), input_log_sd=np.array([log_sd])))
    capacity = engine(**{"budget": BUDGET, "graph_batch": np.array([GRAPH])} | more)
    others, own = beyond_share(request, capacity, np.array([prompts]), np.array([decodes]))
    return float(np.ravel(others)[0]), float(np.ravel(own)[0])


@pytest.mark.parametrize(
    ("p", "prompts", "decodes"),
    [(400, 0.3, 64), (400, 0.3, 110), (300, 1.2, 36), (150, 2.0, 64), (128, 0.5, 300), (40, 6.0, 200), (505, 1e-6, 1)],
)
def test_shares_are_those_of_drawn_steps(p, prompts, decodes) -> None:
    random, count = np.random.default_rng(0), 100_000
    held = random.poisson(prompts, count) if prompts > 1e-3 else np.zeros(count, int)
    lengths = random.uniform(0.8, 1, (count, 32)) * p / 0.9
    tokens = decodes + np.where(np.arange(32) < np.arange(33)[held][:, None], lengths, 0).sum(axis=1)
    others, own = shares(p, float(uniform_log_sd(np.array(0.8))), prompts, decodes)
    with_own = tokens + random.uniform(0.8, 1, count) * p / 0.9
    assert own == pytest.approx(np.mean(with_own > GRAPH), abs=0.05)
    if np.any(held):
        assert others == pytest.approx(np.mean(tokens[held > 0] > GRAPH), abs=0.05)


@pytest.mark.parametrize(
    ("p", "decodes"),
    [(900, 10), (10, 100), (300, 400)],
    ids=["a prompt beyond the graph", "more prompts than are followed", "no room beside the decodes"],
)
def test_the_mean_tells_where_all_steps_lie_on_one_side(p, decodes) -> None:
    assert np.isnan(shares(p, 0.06, 1.0, decodes)).all()


def test_where_prompts_have_steps_of_their_own_decodes_take_none_of_the_graph() -> None:
    assert shares(400, 0.0, 0.5, 200, mixed=False) == shares(400, 0.0, 0.5, 0)


def test_drafted_tokens_leave_prompts_less_of_the_graph() -> None:
    plain = shares(400, 0.06, 0.3, 4 * 20)
    assert shares(400, 0.06, 0.3, 20, graph_each=4.0, graph_batch=GRAPH / 4) == plain
