"""What is known of an engine's speed beside its model: factors from observations, and the level of evidence."""

from __future__ import annotations

from typing import NamedTuple

from planner.arrays import PerRow
from planner.catalog.uncertainty import rests_on_rows
from planner.specs.engine import EngineSpec
from planner.specs.model import ModelSpec


class Refined(NamedTuple):
    """Factors on the time of a step, and how many observations they rest on; scalars of a row or arrays (R,)."""

    decode: PerRow = 1.0
    prefill: PerRow = 1.0
    observations: PerRow = 0


NOT_REFINED = Refined()


def engine_evidence(engine: EngineSpec, model: ModelSpec, vendor: str, refined: Refined = NOT_REFINED) -> str:
    """observed | transferred | assumed: how the engine's kernels and overheads are known, with this model on this GPU.

    An engine's first versions with latent attention are assumed: the rows behind its rates came later.
    """
    if refined.observations:
        return "observed"
    early = model.has_latents and not engine.attention_kernels.latents_measured
    return "transferred" if rests_on_rows(engine.id, vendor) and not early else "assumed"
