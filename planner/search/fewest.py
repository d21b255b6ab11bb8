"""The fewest GPUs that hold a load: what the pages ask while somebody waits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from planner.explain import VERDICT_RANK
from planner.specs.scenario import Scenario

HOLDS = VERDICT_RANK["holds"]

Row = dict[str, Any]


class Found(NamedTuple):
    """The smallest deployment that holds a load, or the largest tried when none does."""

    scenario: Scenario
    row: Row
    holds: bool


def smallest_count(
    scenario: Scenario, counts: Sequence[int], estimator: Callable[[Sequence[Scenario]], list[Row]]
) -> Found:
    """The fewest GPUs of the scenario's kind that hold its load and meet its objectives; all counts in one call."""
    tried = [scenario.model_copy(update={"n_gpus": count}) for count in counts]
    priced = list(zip(tried, estimator(tried), strict=True))
    for asked, row in priced:
        if row["error"] is None and VERDICT_RANK[row["verdict"]] >= HOLDS and row["meets_slo"]:
            return Found(asked, row, True)
    return Found(*max(priced, key=lambda pair: _nearness(pair[1])), holds=False)


def _nearness(row: Row) -> tuple[float, ...]:
    return row["error"] is None, VERDICT_RANK.get(row["verdict"] or "no", 0), row["max_concurrency"] or 0.0
