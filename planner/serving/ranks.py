"""Attention data-parallel ranks of an engine that prefills first: each starts prompts for itself.

A step is one of all ranks. A rank with a prompt prefills it while the others decode, and the step lasts as long as the
slowest of them. So a request waits a whole step for a prompt of its own rank, and a longer one for those of others.
Ref: SGLang scheduler_dp_attn_mixin.py, prepare_mlp_sync_batch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from planner.serving.load import Array, Capacity, Load, Scheduling


class Others(NamedTuple):
    """What the other ranks do in a step of one of them."""

    prefilling: Array  # of them, mean, while it prefills
    share: Array  # of its decode steps, in which at least one of them prefills ...
    met: Array  # ... and how many then do
    decoding: Array  # of all ranks the share that decodes while it prefills


NOBODY = Others(*np.zeros((4, 1)))


def ranks_apart(load: Load, capacity: Capacity, scheduling: Scheduling) -> Array:
    """Ranks that start prompts each for itself, else 1: a benchmark of equal lengths keeps them in step."""
    in_step = np.isfinite(load.waves) & (load.equal_lengths > 0)
    return np.where(capacity.chunks_mixed | in_step, 1.0, scheduling.attention_ranks)


def others_of(apart: Array, prefills: Array, density: Array) -> Others:
    """The others of `apart` independent ranks, each of which prefills `prefills` times per decode step.

    Where prompts come in clumps, that is `density` times as often in one of `density` steps.
    """
    if not np.any(apart > 1):
        return NOBODY
    share = density * prefills / (1 + density * prefills)
    prefilling, some = (apart - 1) * share, 1 - (1 - share) ** (apart - 1)
    return Others(prefilling, some / density, prefilling / np.where(some > 0, some, 1), 1 - (1 + prefilling) / apart)
