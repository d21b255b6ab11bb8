"""What a deployment is worth by the quality of its answers: one number to order by, and what it rests on."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

from planner.catalog import formats, models
from planner.errors import PlannerError
from planner.formats import weight_bytes
from planner.params import parameters


class Judged(NamedTuple):
    """`score` orders candidates, higher is better; loss and badge are None and "" where nobody measured."""

    score: float
    loss_points: float | None = None
    evidence: str = ""


@lru_cache(maxsize=65536)
def judge(model: str, weight_format: str, kv_format: str, task_family: str | None = None) -> Judged:
    """The stated prior: more parameters first, within a size more bits for each weight.

    log2(parameters), and a fraction of one step for the bytes of a weight, so that a format never outweighs a size.
    """
    try:
        spec = models.model(model)
        held = weight_bytes(spec, formats.weight_format(weight_format))
    except PlannerError:  # an uploaded model is ranked behind those of the catalogue
        return Judged(0.0)
    count = parameters(spec)
    return Judged(math.log2(count) + min(held / count, 4) * _STEP)


_STEP = 0.01  # of a doubling of parameters, for each byte of a weight
