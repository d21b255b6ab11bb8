"""What a deployment is worth by the quality of its answers: one number to order by, and what it rests on."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from planner.catalog.quality import CONFLICTING, NONE, Evidence, expected_points, family, worst_known_points
from planner.estimate.quality import Results, quality_of, stored_checks
from planner.formats.identity import Same
from planner.params import active_parameters, parameters
from planner.specs.evidence import Family
from planner.specs.model import ModelSpec
from planner.specs.quality import Verdict

CONFLICTING_POINTS = 10.0  # for an order, where sources disagree by far more: behind what nobody disputes


class Judged(NamedTuple):
    """`score` orders candidates, higher is better; `loss_points` is None where nobody measured."""

    score: float
    loss_points: float | None = None
    evidence: str = NONE


def judge(
    model: ModelSpec, weight_format: str, kv_format: str, task_family: str | None = None, checks: Results | None = None
) -> Judged:
    """What is expected of the model, less the larger of what its formats lose.

    The two losses are not added: no source measured both. A loss below the noise of its tests is none. `checks` of
    the user's own, where many calls share them; None: look now.
    """
    return _judged(Same(model), weight_format, kv_format, task_family, stored_checks() if checks is None else checks)


@lru_cache(maxsize=65536)
def _judged(
    model: Same[ModelSpec], weight_format: str, kv_format: str, task_family: str | None, checks: Results
) -> Judged:
    spec, task = model.value, family(task_family)
    found = quality_of(spec, weight_format, kv_format, task, checks)
    expected = expected_points(spec, parameters(spec), active_parameters(spec))
    lost = max(lost_points(found.weights, task), 0.0 if found.weights.own else lost_points(found.kv, task))
    return Judged(expected - lost, found.weights.loss_points, found.weights.badge)


def lost_points(found: Evidence, task: Family) -> float:
    """The loss that an order counts: what is known beyond the noise; without evidence the worst of as few bits, and
    no less than the noise."""
    if found.own and found.own.verdict is Verdict.HOLDS:
        return 0.0
    if found.loss_points is None:
        floor = CONFLICTING_POINTS if found.badge == CONFLICTING else task.noise_points
        return max(worst_known_points(found.group, found.size), floor)
    return found.loss_points if found.loss_points >= task.noise_points else 0.0
