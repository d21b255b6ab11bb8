"""Advice on a scenario beside its answer: which format leads at which load, the roofline, what is known of quality."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from advice_charts import crossover_lines, roofline_chart
from answers import Answer, load_axis, rows
from charts import in_flight
from drawing import Chart
from planner.catalog.quality import family, tables
from planner.estimate import Library
from planner.estimate.columns import EstimateRow
from planner.estimate.quality import quality_of, stored_checks
from planner.explain.attained import roofline
from planner.explain.crossover import crossover, crossover_scenarios
from planner.explain.quality import Said, quality_lines
from planner.specs.scenario import Scenario
from words import plain


def formats(found: Answer, library: Library) -> tuple[Chart, str]:
    """Tokens/s in each usual format against the load, on the same GPUs."""
    asked = crossover_scenarios(found.scenario, found.row, load_axis(found.row)[::2])
    return crossover_lines(crossover(rows(asked, library)), in_flight(found.row))


def roofline_of(scenario: Scenario, row: EstimateRow, library: Library) -> tuple[Chart, str]:
    """Prefill and decode of the scenario under the roof of its GPU."""
    return roofline_chart(roofline(scenario, library), row)


def quality(place: Any, row: EstimateRow, library: Library) -> None:
    """What is known of the loss of quality: weights and cache apart, then warnings."""
    task = family(row["task_family"])
    said_lines(place, quality_said(row, library))
    place.caption(
        f"Judged for {plain(task.name)}; a task is chosen under Objectives. A difference below {task.noise_points:g} "
        f"point{'s' if task.noise_points > 1 else ''} is no ranking: {plain(tables().noise_source)}."
    )


def quality_said(row: EstimateRow, library: Library) -> list[Said]:
    """Lines about the quality of a row, a visitor's own checks first."""
    kinds, checks = (row["weight_format"], row["kv_format"] or ""), library.checks + stored_checks()
    found = quality_of(library.model(row["model"]), *kinds, family(row["task_family"]), checks)
    return quality_lines(found, *kinds, row["task_family"])


def said_lines(place: Any, lines: Iterable[Said]) -> None:
    """Lines with their sources, warnings marked."""
    for one in lines:
        place.markdown(f"{':material/warning: ' if one.warns else ''}{plain(one.text)}")
        if one.source:
            place.caption(f"Source: {plain(one.source)}")
