"""A full pool on an engine that admits by the prompt: the latest requests are set back and computed again.

When a request ends, its blocks go to the next prompts at once, so the pool stays full. The growth of the running
answers must then come from requests that are set back. Per request that ends (prompt p, output n) that is:

    tokens set back       = n        (p + n leave, p enter, so the growth of n is taken from others)
    set back at a time    = (n / (p + n))^2 of those that run, where lengths are equal; the fewer, the more they vary

The first is exact; of it a prefix cache saves what nobody has overwritten. The second is read off discrete events
(60 cases: prompts and answers of 200 to 4000 tokens, pools of 5 to 150 requests).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from planner.serving.load import VARY, Array, Capacity, Load

PARTING = 8.0  # how fast the share set back falls with the spread of ln length, an exponent


class Crowding(NamedTuple):
    """What a full pool costs every request; 0 where the pool has room."""

    again_tokens: Array  # of prompts computed again, per request that ends
    aside: Array  # requests set back at a time, per running one


def crowding(load: Load, capacity: Capacity, slots: Array, population: Array) -> Crowding:
    """Crowding of one lane where `population` requests stand and the pool holds `slots`.

    Only a closed loop is taken to keep a pool full; with few more requests than it holds, few are set back.
    """
    prompt = np.maximum(load.input_tokens - load.shared_prefix_tokens, 0)
    grows = load.output_tokens / np.maximum(prompt + load.output_tokens, 1)
    spread = np.where(load.equal_lengths > 0, 0, np.where(load.output_log_sd > 0, load.output_log_sd, VARY))
    aside = grows**2 * np.exp(-PARTING * spread)
    full = (capacity.sequences < capacity.max_num_seqs) & np.isnan(load.request_rate_per_s)
    part = np.clip((population / slots - 1) / np.maximum(grows**2, 1 / slots), 0, 1) * full
    part = part * (capacity.computed_again > 0)
    return Crowding(part * capacity.computed_again * load.output_tokens, part * aside)
