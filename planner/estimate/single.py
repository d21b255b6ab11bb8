"""One scenario, priced: where breakdowns, limits and simulations start."""

from __future__ import annotations

from planner.estimate.layout import layouts
from planner.estimate.library import NO_LIBRARY, Library
from planner.estimate.pricing import PricedGroup, priced_rows
from planner.estimate.refine import refined
from planner.estimate.resolve import resolve
from planner.specs.scenario import Scenario


def priced_scenario(scenario: Scenario, library: Library = NO_LIBRARY) -> PricedGroup:
    """A group of one scenario in its best layout. Raises PlannerError as `resolve` does."""
    row = refined(resolve(scenario, library), library)
    return priced_rows(row.engine, [(row, layouts(row))])
