"""The quality to expect of a deployment's answers, as one number to order by, and the evidence behind it."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from planner.catalog.quality import (
    CONFLICTING,
    NONE,
    THIN,
    Evidence,
    distant_points,
    expected_points,
    family,
    worst_known_points,
)
from planner.estimate.quality import Results, quality_of, stored_checks
from planner.identity import Same
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
    quality = quality_of(spec, weight_format, kv_format, task, checks)
    expected = expected_points(spec, parameters(spec), active_parameters(spec))
    lost = max(
        lost_points(quality.weights, task, weight_format), 0.0 if quality.weights.own else lost_points(quality.kv, task)
    )
    return Judged(expected - lost, quality.weights.loss_points, quality.weights.badge)


def lost_points(evidence: Evidence, task: Family, weight_format: str = "") -> float:
    """The loss that an order counts: what is known beyond the noise.

    Of a format with thin evidence or none also where its distance from 16 bit puts it, else the worst of as few bits;
    with neither figure nor distance no less than the noise.
    """
    if evidence.own and evidence.own.verdict is Verdict.HOLDS:
        return 0.0
    loss, floor = evidence.loss_points or 0.0, 0.0
    if evidence.badge in (THIN, NONE, CONFLICTING):
        placed = distant_points(weight_format, evidence.group, evidence.size, task.id)
        if placed is None:
            placed = worst_known_points(evidence.group, evidence.size, task.id)
            floor = 0.0 if evidence.badge == THIN else task.noise_points
        loss = max(loss, placed)
    if evidence.badge == CONFLICTING:
        floor = CONFLICTING_POINTS
    return max(loss if loss >= task.noise_points else 0.0, floor)
