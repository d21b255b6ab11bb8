"""Step times by one closed formula, and a deployment that takes them: for tests of the steady state and the events."""

from __future__ import annotations

import numpy as np

from planner.ops import Batch
from planner.serving import AT_ONCE, NO_SERVER, Capacity, Load, ServingPoint, steady_state


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


def engine(slots=256, budget=8192, mixed=True, **more) -> Capacity:
    return Capacity(slots, slots, budget, mixed, **more)


def serve(load: Load, capacity=None, scheduling=AT_ONCE, front_end=NO_SERVER) -> ServingPoint:
    return steady_state(step_s, load, capacity or engine(), scheduling, front_end)
