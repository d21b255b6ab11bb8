"""Step times by one closed formula, for tests of the steady state and of the events alike."""

from __future__ import annotations

import numpy as np

from planner.ops import Batch


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
