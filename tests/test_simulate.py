from __future__ import annotations

from random import Random

import numpy as np
import pytest

from planner.ops import Batch
from planner.simulate import (
    Cached,
    Deployment,
    EngineLimits,
    Lengths,
    Limits,
    Loop,
    Pool,
    Reach,
    Replay,
    Routing,
    StepTable,
    Trace,
    Users,
    poisson,
    simulate,
    summary,
    times,
)
from planner.simulate.engine import Engine
from planner.simulate.records import Request
from tests.oracle.continuous_batching import Setting, run

WIDE = Pool(blocks=10**9, block_tokens=16)


def seconds(decodes, context, tokens, before, prompts):
    """An 8B model in 16 bit on a GPU of 2.6 TB/s and 600 TFLOP/s: weights or arithmetic, then the cache."""
    flops = 16e9 * (decodes + tokens) + 524288.0 * tokens * (before + tokens / np.maximum(prompts, 1) / 2)
    products = ((flops / 600e12) ** 3 + (16e9 / 2.6e12) ** 3) ** (1 / 3)
    return 2e-3 + products + decodes * context * 131072.0 / 2.6e12


def step_s(batch: Batch):
    return seconds(*batch[:5])


class Exact:
    """Prices every step by itself."""

    def decode_s(self, sequences, context):
        return float(seconds(sequences, context, 0, 0, 0))

    def straight_until(self, context):
        return float("inf")

    def mixed_s(self, sequences, context, tokens, before, prompts):
        return float(seconds(sequences, context, tokens, before, prompts))


def limits(slots=256, budget=8192, mixed=True, pool=WIDE):
    return EngineLimits(slots, budget, pool, mixed)


def replayed(trace, deployment=None, cached=Cached()):
    return simulate(deployment or Deployment(limits()), Exact(), Replay(trace, cached))


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
    seen = replayed(trace, Deployment(limits(case[2], case[3], case[4]))).requests
    order = np.argsort(seen.sent_s)
    found = np.stack([seen.sent_s, seen.first_s, seen.end_s], axis=1)[order]
    assert np.max(np.abs(found - expected)) < 1e-6
