"""Times below which no engine runs a scenario: a measured figure below them is not believed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from planner.estimate.library import Library
from planner.estimate.single import priced_scenario
from planner.ops import Batch
from planner.specs.scenario import Scenario


class Floors(NamedTuple):
    """Seconds of one generated token and of one prompt at the datasheet's bandwidth and highest dense rate.

    For one sequence alone; a step of more takes at least as long. Start-up, launches and links count as nothing.
    """

    decode_s: float
    prefill_s: float


def floors(scenario: Scenario, library: Library) -> Floors:
    """The limits of a scenario in its best layout. Raises PlannerError as `resolve` does."""
    group = priced_scenario(scenario, library)
    clock, s = group.clock, group.deployments[0].row.scenario
    prompt, cached = float(s.input_tokens or 0), float(s.cached_input_fraction or 0) * (s.input_tokens or 0)
    one = np.ones(1)
    decode = clock.floor_s(Batch(decode_seqs=one, decode_context=prompt * one))
    if prompt <= cached:
        return Floors(float(decode[0]), 0.0)
    new = Batch(prefill_tokens=(prompt - cached) * one, prefill_context=cached * one, prefill_seqs=one)
    return Floors(float(decode[0]), float(clock.floor_s(new)[0]))
