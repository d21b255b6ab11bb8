"""Many scenarios at once: grouped by model, engine and drafter, since within a group everything else is an array."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from planner import __version__
from planner.errors import PlannerError
from planner.estimate.bulk import bulk_work
from planner.estimate.columns import FLAGS, INTERVALS, TEXTS, Estimate, estimate_columns
from planner.estimate.group import Outcome, priced_group
from planner.estimate.layout import Layout, layouts
from planner.estimate.resolve import ResolvedRow
from planner.specs.scenario import Scenario

GROUP_ROWS = 4096  # rows priced together, so that memory stays bounded


@bulk_work()
def priced(
    asked: Sequence[Scenario],
    resolved: Callable[[Scenario], ResolvedRow],
    progress: Callable[[int], None] | None = None,
) -> Estimate:
    """The estimate of every scenario; `resolved` looks up the specs behind its names.

    A PlannerError becomes the `error` of its row and stops no other. `progress` is called with the number of rows done
    since its last call.
    """
    errors = [""] * len(asked)
    echoed = list(asked)
    groups: dict[tuple[int, int, int], list[tuple[int, ResolvedRow, Sequence[Layout]]]] = defaultdict(list)
    for index, scenario in enumerate(asked):
        try:
            row = resolved(scenario)
            groups[id(row.model), id(row.engine), id(row.draft)].append((index, row, layouts(row)))
        except PlannerError as error:
            errors[index] = str(error)
    collected = _empty(len(asked))
    for group in groups.values():
        for start in range(0, len(group), GROUP_ROWS):
            part = group[start : start + GROUP_ROWS]
            _collect(collected, echoed, part, priced_group(part[0][1].engine, [(row, ways) for _, row, ways in part]))
            if progress:
                progress(len(part))
    texts = {"error": np.array(errors, dtype=object)}
    low = {name: collected.pop(f"{name}_low") for name in INTERVALS}
    high = {name: collected.pop(f"{name}_high") for name in INTERVALS}
    return Estimate(tuple(echoed), **(collected | texts), low=low, high=high, planner_version=__version__)


def blocks(kinds: Sequence[tuple[str | None, ...]]) -> list[list[int]]:
    """Indices of rows in blocks of GROUP_ROWS, rows of a kind side by side, so that a block has few groups."""
    order = sorted(range(len(kinds)), key=lambda place: [name or "" for name in kinds[place]])
    return [order[start : start + GROUP_ROWS] for start in range(0, len(order), GROUP_ROWS)]


def _empty(rows: int) -> dict[str, Any]:
    names = estimate_columns()
    columns: dict[str, Any] = dict(zip(names, np.full((len(names), rows), np.nan), strict=True))
    columns |= {name: np.full(rows, "", dtype=object) for name in TEXTS}
    columns |= {name: np.zeros(rows, dtype=bool) for name in FLAGS}
    columns.pop("error")
    return columns


def _collect(
    collected: dict[str, Any],
    echoed: list[Scenario],
    part: list[tuple[int, ResolvedRow, Sequence[Layout]]],
    outcome: Outcome,
) -> None:
    places = [index for index, _, _ in part]
    at = slice(None) if len(places) == len(echoed) else np.array(places)
    for name, values in outcome.columns.items():
        collected[name][at] = values
    for index, scenario in zip(places, outcome.scenarios, strict=True):
        echoed[index] = scenario
