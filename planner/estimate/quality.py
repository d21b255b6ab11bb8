"""Quality lost to weight and KV formats, as columns: from a user's own check, else from published evidence."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.catalog import models, quality_results
from planner.catalog.quality import Evidence, family, kv_evidence, own_evidence, weight_evidence
from planner.errors import PlannerError
from planner.estimate.deployments import Deployment, Deployments, Part
from planner.identity import Same
from planner.params import parameters
from planner.specs.evidence import Family
from planner.specs.model import ModelSpec
from planner.specs.quality import QualityResult

Results = tuple[QualityResult, ...]


class WeightsAndCache(NamedTuple):
    """Evidence of a deployment's weights and of its KV cache."""

    weights: Evidence
    kv: Evidence


def quality_columns(deployments: Sequence[Deployment]) -> dict[str, NDArray[np.generic]]:
    """Points lost to the weight format and to the KV format, in separate columns: no source measured both together."""
    kinds, at = Deployments.of(deployments).alike(Part.WEIGHTS, Part.FAMILY, Part.WORDS)
    judged = [
        quality_of(d.row.model, d.row.weights.id, d.row.scenario.kv_format or "", d.row.family, d.row.checks)
        for d in kinds
    ]
    numbers = {
        "quality_loss_points": [one.weights.loss_points for one in judged],
        "quality_worst_points": [one.weights.worst_points for one in judged],
        "kv_quality_loss_points": [one.kv.loss_points for one in judged],
    }
    texts = {
        "quality_evidence": [one.weights.badge for one in judged],
        "kv_quality_evidence": [one.kv.badge for one in judged],
    }
    columns: dict[str, NDArray[np.generic]] = {
        name: np.array([np.nan if value is None else value for value in values])[at] for name, values in numbers.items()
    }
    return columns | {name: np.array(values, dtype=object)[at] for name, values in texts.items()}


def quality_of(model: ModelSpec, weight_format: str, kv_format: str, task: Family, checks: Results) -> WeightsAndCache:
    """Evidence for one deployment; a user's own check measured weights and cache together."""
    for check in checks:
        if _speaks_of(check, model.id, weight_format, kv_format, task):
            own = own_evidence(check)
            return WeightsAndCache(own, own._replace(loss_points=None, worst_points=None))
    return _published(Same(model), weight_format, kv_format, Same(task))


@lru_cache(maxsize=65536)
def _published(model: Same[ModelSpec], weight_format: str, kv_format: str, task: Same[Family]) -> WeightsAndCache:
    total = float(parameters(model.value))
    return WeightsAndCache(
        weight_evidence(model.value, total, weight_format, task.value), kv_evidence(total, kv_format, task.value)
    )


def _speaks_of(check: QualityResult, model_id: str, weight_format: str, kv_format: str, task: Family) -> bool:
    if check.weight_format != weight_format or check.kv_format not in (None, kv_format):
        return False
    if check.task_family and _family_id(check.task_family) != task.id:
        return False
    return check.model == model_id or _model_id(check.model) == model_id


@lru_cache(maxsize=1024)
def _model_id(name: str) -> str:
    with contextlib.suppress(PlannerError):
        return models.resolve(name).model.id
    return name


@lru_cache(maxsize=64)
def _family_id(name: str) -> str:
    with contextlib.suppress(PlannerError):
        return family(name).id
    return name


def stored_checks() -> Results:
    """Results of the user's own checks on this machine, newest first; the folder is read again when it changes."""
    try:
        stamp = quality_results.results_dir().stat().st_mtime_ns
    except OSError:
        return ()
    return _stored(str(quality_results.results_dir()), stamp)


@lru_cache(maxsize=4)
def _stored(folder: str, stamp: int) -> Results:
    return quality_results.stored_results().results
