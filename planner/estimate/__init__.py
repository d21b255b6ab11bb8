"""The one door: `estimate(scenarios)` says everything of each scenario. CLI, app, search and reports call it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from planner.estimate.batch import priced
from planner.estimate.columns import INTERVALS, Estimate, documented, estimate_columns
from planner.estimate.evidence import folder_stamp
from planner.estimate.library import NO_LIBRARY, Library
from planner.estimate.quality import stored_checks
from planner.estimate.refine import refined, stored
from planner.estimate.resolve import Known, resolve
from planner.specs.scenario import Scenario

__all__ = ["INTERVALS", "NO_LIBRARY", "Estimate", "Library", "documented", "estimate", "estimate_columns"]


def estimate(
    scenarios: Scenario | Sequence[Scenario],
    progress: Callable[[int], None] | None = None,
    library: Library = NO_LIBRARY,
) -> Estimate:
    """Estimate one scenario or many.

    A scenario that names something unknown or contradicts itself gets an `error` and stops no other.
    `progress` is called with the number of scenarios done since its last call. `library` holds models and GPUs
    that no catalogue does.
    """
    asked = [scenarios] if isinstance(scenarios, Scenario) else list(scenarios)
    known = stored() if library.observations is None else library.observations
    library = library._replace(stamp=folder_stamp(), checks=library.checks + stored_checks(), observations=known)
    named: Known = {}
    return priced(asked, lambda scenario: refined(resolve(scenario, library, named), library), progress)
