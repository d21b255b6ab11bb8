"""Steps with prompts on both sides of the largest CUDA graph, where the time of a step jumps.

Prompts arrive one by one, so a step holds one, two or more of them, of different lengths. The mean number of tokens
may lie on one side of the edge while many steps lie on the other.
"""

from __future__ import annotations

import math

import numpy as np

from planner.serving.load import Array, Capacity, Mask, Request

MOST_PROMPTS = 24  # in a step of which the number is followed one by one; of more of them the mean tells enough
LOGISTIC = 0.851  # (1 + tanh(0.851 z)) / 2 is the normal distribution to 0.01
LEAST_SD = 0.5  # tokens
TINY = 1e-9

_COUNTS = np.arange(MOST_PROMPTS, dtype=float)
_LOG_FACTORIALS = np.array([math.lgamma(count + 1) for count in range(MOST_PROMPTS)])


def free_tokens(capacity: Capacity, decodes: Array) -> Array:
    """Tokens of prompts for which the largest graph has room beside `decodes`."""
    return np.asarray((capacity.graph_batch - decodes) * capacity.graph_each)


def straddling(request: Request, capacity: Capacity, decodes: Array) -> Mask:
    """Where steps with one prompt fit in the graph and those with several may not, and prompts do not queue."""
    p, free = request.prefill_tokens, free_tokens(capacity, decodes)
    spread = 1 + 2 * request.prompt_log_sd
    longest_step = np.minimum(free, capacity.max_num_batched_tokens - decodes)
    rules = request.rules
    singly = (rules.ranks * request.ranks_apart * rules.attention_ranks * rules.poll_steps <= 1) & (p > 0)
    return np.asarray(singly & (p <= longest_step * spread) & (p * (MOST_PROMPTS - 1) > free))


def beyond_share(request: Request, capacity: Capacity, prompts: Array, decodes: Array) -> tuple[Array, Array]:
    """Share of the steps with others' and with its own prompts that have more tokens than the largest graph holds.

    Of a Poisson process of L prompts per step a step with others' has at least one of them, and a step with its own
    that one and L others. nan where the mean tokens tell.
    """
    decodes = np.where(capacity.chunks_mixed, decodes, 0)
    rows = straddling(request, capacity, decodes)
    if not np.any(rows):
        return np.asarray(np.nan), np.asarray(np.nan)
    fields = (prompts, request.prefill_tokens, request.prompt_log_sd, free_tokens(capacity, decodes))
    found = np.full((2, *rows.shape), np.nan)
    found[:, rows] = _beyond(*(np.broadcast_to(field, rows.shape)[rows] for field in fields))
    return found[0], found[1]


def _beyond(prompts: Array, p: Array, relative_sd: Array, free: Array) -> Array:
    """The two shares where `free` tokens of the graph are left to prompts of `p` tokens on average, (2, K)."""
    prompts, counts = np.maximum(prompts, TINY), _COUNTS.reshape(-1, 1)
    arriving = np.exp(counts * np.log(prompts) - prompts - _LOG_FACTORIALS.reshape(-1, 1))
    held = counts + 1
    sd = np.maximum(np.sqrt(held) * relative_sd * p, LEAST_SD)
    fits = (1 - np.tanh(LOGISTIC * (held * p - free - 1 / 2) / sd)) / 2
    others = np.sum(arriving[1:] * fits[:-1], axis=0) / -np.expm1(-prompts)
    found: Array = np.clip(1 - np.stack([others, np.sum(arriving * fits, axis=0)]), 0, 1)
    return found
