"""The fewest GPUs that hold a load: what the pages ask while somebody waits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from planner.estimate.columns import EstimateRow
from planner.explain import VERDICT_RANK
from planner.search.limits import OBJECTIVES
from planner.specs.scenario import Scenario

HOLDS = VERDICT_RANK["holds"]
WIDTHS = (2, 4, 8)  # GPUs of one replica to try


class Fewest(NamedTuple):
    """The smallest deployment that holds a load and meets its objectives, else the nearest to it."""

    scenario: Scenario
    row: EstimateRow
    holds: bool


def smallest_count(
    scenario: Scenario, counts: Sequence[int], estimator: Callable[[Sequence[Scenario]], list[EstimateRow]]
) -> Fewest:
    """The fewest GPUs of the scenario's kind that hold its load and meet its objectives; all counts in one call.

    Where objectives bound times, replicas of more GPUs are tried too: more replicas do not make a request quicker. If
    none meets them, the fewest that hold the load.
    """
    tried = [
        scenario.model_copy(update={"n_gpus": count} | split) for count in counts for split in _splits(scenario, count)
    ]
    priced = list(zip(tried, estimator(tried), strict=True))
    holding = [(s, row) for s, row in priced if row["error"] is None and VERDICT_RANK[row["verdict"]] >= HOLDS]
    meeting = [(s, row) for s, row in holding if row["meets_slo"]]
    if meeting or holding:
        return Fewest(*(meeting or holding)[0], holds=bool(meeting))
    return Fewest(*max(priced, key=lambda pair: _nearness(pair[1])), holds=False)


def _splits(scenario: Scenario, count: int) -> list[dict[str, int]]:
    """The usual division of the GPUs, then wider ones where a time is bounded and no width is given."""
    bounded = any(getattr(scenario, name) for name in OBJECTIVES) and scenario.tp is None
    return [{}, *({"tp": width} for width in WIDTHS if bounded and width <= count)]


def _nearness(row: EstimateRow) -> tuple[float, ...]:
    return row["error"] is None, VERDICT_RANK.get(row["verdict"] or "no", 0), row["max_concurrency"] or 0.0
