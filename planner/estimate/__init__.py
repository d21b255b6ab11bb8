"""The estimator: `estimate(scenarios)` is what the command line, the pages, the search and the reports call.

    resolve -> layouts -> pricing -> answer, bounds -> columns

    resolve        a scenario's names become specs, blanks become defaults
    layout         ways to divide it over GPUs
    pricing        memory_plans says what fits; clock times a step (step_work, rates, engine_time);
                   loads and capacity say what is asked and allowed; planner.serving settles the load
    answer         verdicts, reasons and columns; bounds adds intervals, quality the evidence of formats
    columns        the record that callers get

Rows of one model and one engine are computed together, as arrays (R,). docs/architecture.md has the whole map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from planner.estimate.batch import blocks, priced
from planner.estimate.columns import INTERVALS, Estimate, documented, estimate_columns, joined
from planner.estimate.evidence import folder_stamp
from planner.estimate.library import NO_LIBRARY, Library
from planner.estimate.quality import stored_checks
from planner.estimate.refine import refined, stored
from planner.estimate.resolve import Known, resolve
from planner.specs.scenario import Scenario
from planner.workers import mapped, usable

LONG = 20_000  # scenarios from which it pays to start other processes

__all__ = ["INTERVALS", "NO_LIBRARY", "Estimate", "Library", "documented", "estimate", "estimate_columns"]


def estimate(
    scenarios: Scenario | Sequence[Scenario],
    progress: Callable[[int], None] | None = None,
    library: Library = NO_LIBRARY,
    processes: int | None = None,
) -> Estimate:
    """Estimate one scenario or many: R scenarios in, a record of columns out, each an array (R,).

    Raises nothing for what scenarios say: one that names something unknown or contradicts itself gets an `error`, which
    is one line, and stops no other. `progress` is called with the number of scenarios done since its last call.
    `library` holds models, GPUs, runs and checks that no catalogue does. From LONG scenarios on other processes take
    their share, if this one has more than one processor; `processes=1` keeps them all here.

    KV bytes per token of Llama-3.1-8B: 2 x 32 layers x 8 heads x 128 x 2 bytes; over two GPUs half of it each.

    >>> asked = [Scenario(model="llama-3.1-8b", gpu="h100-sxm", tp=tp) for tp in (1, 2)]
    >>> answer = estimate([*asked, Scenario(model="llama-3.1-8", gpu="h100-sxm")])
    >>> answer.kv_bytes_per_token
    array([131072.,  65536.,     nan])
    >>> answer.rows()[2]["error"].partition(";")[0]
    "unknown model 'llama-3.1-8'"
    """
    asked = [scenarios] if isinstance(scenarios, Scenario) else list(scenarios)
    if strange := {type(one).__name__ for one in asked if not isinstance(one, Scenario)}:
        raise TypeError(f"estimate takes a Scenario or a sequence of them, not {', '.join(sorted(strange))}")
    known = stored() if library.observations is None else library.observations
    library = library._replace(stamp=folder_stamp(), checks=library.checks + stored_checks(), observations=known)
    if len(asked) < LONG:
        return _alone(library, asked, progress)
    places = blocks([(scenario.model, scenario.engine) for scenario in asked])
    parts = []
    work, items = partial(_alone, library), [[asked[i] for i in block] for block in places]
    for part in mapped(work, items, usable() if processes is None else processes):
        parts.append(part)
        if progress:
            progress(len(part))
    return joined(parts, np.argsort(np.concatenate(places)))


def _alone(library: Library, asked: Sequence[Scenario], progress: Callable[[int], None] | None = None) -> Estimate:
    """All of them in this process."""
    named: Known = {}
    return priced(asked, lambda scenario: refined(resolve(scenario, library, named), library), progress)
