"""Rows priced in their best layouts: memory planned, steps timed, the load settled on its curve.

group = priced_rows(engine, rows)         # many rows of one model and engine
group = priced_scenario(scenario)         # one
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from planner import serving
from planner.estimate.capacity import has_room, offered_to, room
from planner.estimate.clock import Clock, clock
from planner.estimate.deployments import Deployment, Deployments, Floats, Part, column, limits_of, replicas
from planner.estimate.layout import Layout
from planner.estimate.loads import is_closed, load_of, objectives
from planner.estimate.memory_plans import Planned, planned
from planner.estimate.resolve import ResolvedRow
from planner.memory import MemoryInputs, MemoryPlan
from planner.serving import Load, ServingPoint, Sustainable, Tail
from planner.serving.offered import Offered
from planner.specs.engine import EngineSpec
from planner.specs.formats import Level

Bools = NDArray[np.bool_]
Record = TypeVar("Record")


class PricedGroup(NamedTuple):
    """Deployments of one model in one engine, with everything that was computed for them; arrays (R,)."""

    deployments: Sequence[Deployment]
    inputs: MemoryInputs
    plan: MemoryPlan
    clock: Clock
    offered: Offered
    point: ServingPoint
    tail: Tail | None  # at the percentile of the objectives; None: no row has any
    most: Sustainable
    in_flight: Floats  # requests in flight on the whole deployment

    def starts(self) -> Bools:
        """Rows whose layout and formats the engine takes and whose memory suffices to start."""
        invalid = column(self.deployments, lambda d: d.layout.invalid, Part.LAYOUT, dtype=bool)
        unsupported = column(self.deployments, _is_unsupported, Part.SUPPORT, dtype=bool)
        return np.asarray(self.plan.verdict.starts & ~invalid & ~unsupported)

    def holds(self) -> Bools:
        """Rows that start and hold their load."""
        held = room(self.plan.kv, self.offered.load) * replicas(self.deployments)
        return np.asarray(self.starts() & has_room(self.point, self.in_flight, held))


def _is_unsupported(d: Deployment) -> bool:
    return d.row.support.level is Level.UNSUPPORTED


def priced_rows(engine: EngineSpec, rows: Sequence[tuple[ResolvedRow, Sequence[Layout]]]) -> PricedGroup:
    """Every row priced in the best of its layouts.

    A closed loop's layout follows from memory alone, so only the chosen ones are timed. A rate or thinking
    users leave the requests in flight to the time model, so there every layout is timed.
    """
    limits = [limits_of(row) for row, _ in rows]
    ways = Deployments(
        Deployment(row, layout, limit) for (row, layouts), limit in zip(rows, limits, strict=True) for layout in layouts
    )
    counts = [len(layouts) for _, layouts in rows]
    load = load_of(ways)
    closed = is_closed(load)
    in_flight = np.where(closed, load.concurrency, 1.0)
    memory = planned(engine, ways, in_flight)
    if len(ways) > len(rows) and np.all(closed):
        at = best_layouts(counts, memory.plan.verdict.holds_load, memory.plan, ways)
        ways = ways.taken(at)
        load, in_flight, memory = taken((load, in_flight, memory), at)
    group = timed(engine, ways, load, in_flight, memory)
    if len(ways) > len(rows):
        at = best_layouts(counts, group.holds(), group.plan, ways)
        chosen = ways.taken(at)
        load, in_flight, memory = taken((load, group.in_flight, Planned(group.inputs, group.plan)), at)
        group = timed(engine, chosen, load, in_flight, memory)
    return group


def timed(
    engine: EngineSpec, deployments: Sequence[Deployment], load: Load, in_flight: Floats, memory: Planned
) -> PricedGroup:
    """Settle the load on planned deployments; where only that says what is in flight, plan memory again for it."""
    closed = is_closed(load)
    steps = clock(engine, deployments, memory.inputs)
    offered = offered_to(engine, deployments, memory, load, steps.step_s)
    settled = serving.settle(steps.step_s, offered)
    point = serving.serving_point(offered, settled)
    if not np.all(closed):
        full = memory.plan.kv.max_concurrency_expected * replicas(deployments)
        standing = np.where(point.above_capacity, full, point.requests_per_s * point.e2e_s)
        standing = np.minimum(standing, load.concurrency)
        in_flight = np.where(closed, in_flight, np.maximum(standing, 1.0))
        memory = planned(engine, deployments, in_flight)
    wishes = objectives(deployments)
    return PricedGroup(
        deployments,
        memory.inputs,
        memory.plan,
        steps,
        offered,
        point,
        serving.settled_tail(offered, settled, wishes.percentile) if wishes.given else None,
        serving.sustainable(offered, wishes),
        in_flight,
    )


def best_layouts(
    counts: Sequence[int], holds: Bools, plan: MemoryPlan, ways: Sequence[Deployment]
) -> NDArray[np.int64]:
    """Of each row's layouts the first that holds the load; else that with most room, or nearest to starting.

    `ways` are all rows' layouts in a row, `counts` of them each. (R,): the place of the best of each row.
    """
    room, starts = (plan.kv.max_concurrency * replicas(ways)).tolist(), plan.verdict.starts.tolist()
    short, holding = plan.verdict.shortfall_bytes.tolist(), holds.tolist()
    best, start = [], 0
    for count in counts:
        places = range(start, start + count)
        nearest = max(places, key=lambda i: (starts[i], room[i] if starts[i] else -short[i]))
        best.append(next((i for i in places if holding[i]), nearest))
        start += count
    return np.array(best)


def taken(record: Record, at: NDArray[np.int64]) -> Record:
    """The same record with only the rows `at`: every array is cut along its last axis."""
    if isinstance(record, np.ndarray):
        return record[..., at]  # type: ignore[return-value]
    if isinstance(record, tuple):
        parts = [taken(part, at) for part in record]
        return type(record)(*parts) if hasattr(record, "_fields") else tuple(parts)  # type: ignore[return-value]
    return record
