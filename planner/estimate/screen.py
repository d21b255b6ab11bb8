"""The figures that a search decides by, for many deployments under many loads: those of an estimate, without its
texts, intervals and breakdowns.

    found = curves(engine, deployments, planned(engine, deployments, in_flight))
    screened = screen(found, loads)   # arrays (loads, deployments)

A deployment's memory and its load curve do not depend on how many requests are offered, so they are computed once
and read at every load.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner import billing, serving
from planner.estimate.answer import n_gpus
from planner.estimate.capacity import has_room, offered_to, room
from planner.estimate.clock import clock
from planner.estimate.deployments import Deployment, Floats, numbers
from planner.estimate.loads import is_closed, load_of, objectives
from planner.estimate.memory_plans import Planned
from planner.serving import Offered, ServingPoint, Tail
from planner.serving.offered import lane_of
from planner.specs.engine import Allocation, EngineSpec

Bools = NDArray[np.bool_]
ROUNDING = 1e-9


class Loads(NamedTuple):
    """Loads to try on every deployment, each (N, 1) or (N, C)."""

    concurrency: Floats  # requests in flight on all replicas; nan: as the scenario says
    replicas: Floats


class Screened(NamedTuple):
    """Figures (N, C) of N loads on C deployments, replicas included, in SI units."""

    holds: Bools
    meets: Bools
    above_capacity: Bools
    tail: Tail  # of TTFT, TPOT, end-to-end at the percentile of the objectives, seconds
    point: ServingPoint
    cost: billing.Cost


def shares_memory(engine: EngineSpec) -> bool:
    """Whether the engine sizes its pool and profiles a step at start, so that memory does not depend on the load."""
    running = engine.activation.logit_rows == "running" or engine.activation.whole_prompt
    return not running and engine.cache.allocation is not Allocation.GROWING


def replicas_needed(priced: Curves, most: serving.Sustainable, concurrency: Floats) -> Floats:
    """(N, C): replicas that hold `concurrency` (N, 1) requests, or the scenario's own load, and meet its objectives.

    `most` is the largest load of one replica. Where not even one request meets the objectives: as many replicas as hold
    the load.
    """
    load = priced.offered.load
    asked = np.where(np.isnan(concurrency), load.concurrency, concurrency)
    thinks = np.asarray(load.think_time_s) > 0
    each = np.where(most.concurrency >= 1, most.concurrency, np.inf)
    each = np.where(thinks, each, np.minimum(each, np.maximum(priced.room, 1)))
    by_requests = np.ceil(asked / each - ROUNDING)
    each_rate = np.where(most.request_rate_per_s > 0, most.request_rate_per_s, np.inf)
    by_rate = np.ceil(load.request_rate_per_s / each_rate - ROUNDING)
    return np.maximum(np.where(np.isnan(load.request_rate_per_s), by_requests, by_rate), 1.0)


class Curves(NamedTuple):
    """One replica of every deployment with its load curve, (C,)."""

    deployments: Sequence[Deployment]
    step_s: Any
    offered: Offered
    room: Floats  # requests of one replica
    wishes: serving.Objectives

    def most(self) -> serving.Sustainable:
        """The largest load of one replica that meets the objectives; a rate's cap on requests in flight is left out."""
        load = self.offered.load
        load = load._replace(concurrency=np.where(np.isnan(load.request_rate_per_s), load.concurrency, np.inf))
        lane = lane_of(load, self.offered.capacity)
        return serving.sustainable(self.offered._replace(load=load, lane=lane), self.wishes)


def curves(engine: EngineSpec, deployments: Sequence[Deployment], memory: Planned) -> Curves:
    """Price the load curve of deployments that start."""
    steps, plan = clock(engine, deployments, memory.inputs), memory.plan
    offered = offered_to(engine, deployments, memory, load_of(deployments), steps.step_s)
    return Curves(deployments, steps.step_s, offered, room(plan.kv, offered.load), objectives(deployments))


def screen(priced: Curves, loads: Loads) -> Screened:
    """Every load settled on every deployment."""
    offered = with_loads(priced, loads)
    settled = serving.settle(priced.step_s, offered)
    point = serving.serving_point(offered, settled)
    tail = serving.settled_tail(offered, settled, priced.wishes.percentile)
    copies = offered.capacity.replicas
    standing = np.where(is_closed(offered.load), offered.load.concurrency, point.requests_per_s * point.e2e_s)
    holds = has_room(point, np.maximum(standing, 1), priced.room * copies)
    missed = [seconds > limit for seconds, limit in zip(tail, priced.wishes[: len(tail)], strict=True)]
    price = numbers(priced.deployments, "usd_per_gpu_hour", np.nan)
    gpus = n_gpus(priced.deployments) * loads.replicas
    return Screened(
        holds,
        holds & ~np.any(missed, axis=0),
        point.above_capacity,
        tail,
        point,
        billing.cost(price, gpus, offered.load, point),
    )


def with_loads(priced: Curves, loads: Loads) -> Offered:
    """The same curves, offered every load: arrays (N, C) where a load decides."""
    offered = priced.offered
    asked = np.where(np.isnan(loads.concurrency), offered.load.concurrency, loads.concurrency)
    load = offered.load._replace(concurrency=asked)
    capacity = offered.capacity._replace(replicas=loads.replicas * offered.capacity.replicas)
    return offered._replace(load=load, capacity=capacity, lane=lane_of(load, capacity))
