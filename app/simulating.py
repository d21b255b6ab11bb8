"""A simulation as a page needs it: run in the server's pool, and cut to what is drawn."""

from __future__ import annotations

from typing import Any, BinaryIO, NamedTuple

import numpy as np

from planner.catalog.traces import parse_trace
from planner.estimate import Library
from planner.events import Timeline, times
from planner.simulation import TIMES, Protocol, simulation
from planner.specs.scenario import Scenario
from planner.units import MS_PER_S

POINTS = 201  # of a distribution


class Asked(NamedTuple):
    """What is simulated."""

    scenario: Scenario
    protocol: Protocol
    library: Library


class Seen(NamedTuple):
    """What was seen: the columns of `planner simulate`, times by share of requests in ms, the state over time."""

    row: dict[str, Any]
    shares: list[float]  # percent of requests
    spreads: dict[str, list[float]]  # of `TIMES`, ms at each share; empty where no request has the time
    timeline: Timeline | None  # None: the engine does not start


def with_trace(asked: Asked, file: BinaryIO | None) -> Asked:
    """The same with the requests of an uploaded trace. Raises BadFile, one line that names the line of the file."""
    if file is None:
        return asked
    file.seek(0)
    trace = parse_trace(file, file.name[:80], asked.protocol.requests)
    return asked._replace(protocol=asked.protocol._replace(trace=trace))


def simulated(asked: Asked) -> Seen:
    """Run the simulation. Raises PlannerError for a scenario that cannot be read."""
    found = simulation(asked.scenario, asked.protocol, asked.library)
    shares = np.linspace(0, 100, POINTS)
    if found.run is None:
        return Seen(found.row, shares.tolist(), {name: [] for name in TIMES}, None)
    requests = type(found.run.requests)(*(column[found.measured] for column in found.run.requests))
    spreads = {}
    for name, seconds in zip(TIMES, times(requests)[: len(TIMES)], strict=True):
        known = seconds[~np.isnan(seconds)]
        spreads[name] = (MS_PER_S * np.percentile(known, shares)).tolist() if known.size else []
    return Seen(found.row, shares.tolist(), spreads, found.run.timeline)
