"""Attention data-parallel ranks of an engine that prefills first, where each rank starts its own prompts.

All ranks step together: one with a prompt prefills it while the others decode, and the step lasts as long as the
slowest. So a prompt on a request's own rank costs it a whole step, and one on another rank makes its step longer.
Ref: SGLang scheduler_dp_attn_mixin.py, prepare_mlp_sync_batch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from planner.serving.load import Array, Capacity, Load, Scheduling


class Others(NamedTuple):
    """What the other ranks do, as seen from one of them."""

    prefilling: Array  # mean number of them that prefill while it does
    share: Array  # of its decode steps in which at least one of them prefills ...
    met: Array  # ... and how many then do on average
    decoding: Array  # share of all ranks that decode while it prefills


NOBODY = Others(*np.zeros((4, 1)))


def ranks_apart(load: Load, capacity: Capacity, scheduling: Scheduling) -> Array:
    """Ranks that start prompts independently, else 1: a benchmark of equal lengths keeps them in step."""
    in_step = np.isfinite(load.waves) & (load.equal_lengths > 0)
    return np.where(capacity.chunks_mixed | in_step, 1.0, scheduling.attention_ranks)


def others_of(apart: Array, prefills: Array, density: Array) -> Others:
    """The others among `apart` independent ranks, each of which prefills `prefills` times per decode step.

    Prompts in clumps come `density` times as often, in one of `density` steps.
    """
    if not np.any(apart > 1):
        return NOBODY
    share = density * prefills / (1 + density * prefills)
    prefilling, some = (apart - 1) * share, 1 - (1 - share) ** (apart - 1)
    return Others(prefilling, some / density, prefilling / np.where(some > 0, some, 1), 1 - (1 + prefilling) / apart)
