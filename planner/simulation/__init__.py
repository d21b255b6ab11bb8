"""Simulate one scenario as discrete events (`planner.events`), with steps priced as the estimate prices them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from planner import events
from planner.errors import BadValue
from planner.estimate import NO_LIBRARY, Library, estimate
from planner.estimate.capacity import front_end_of
from planner.estimate.deployments import only
from planner.estimate.loads import objectives
from planner.estimate.pricing import PricedGroup
from planner.estimate.single import priced_scenario
from planner.events import EngineLimits, Reach, RequestLimits, Run, Service, StepTable, StepTime, Summary
from planner.ops import Batch
from planner.simulation.limits import engine_limits
from planner.simulation.protocol import MAX_REQUESTS, Protocol
from planner.simulation.requests import Sent, source
from planner.specs.scenario import Scenario
from planner.units import MS_PER_S

__all__ = [
    "MAX_REQUESTS",
    "SPREAD",
    "TIMES",
    "Protocol",
    "Simulated",
    "engine_limits",
    "simulate_columns",
    "simulation",
    "step_time",
]

TIMES = ("ttft", "tpot", "e2e")
SPREAD = ("mean", "p50", "p90", "p99")  # columns of each time


class Simulated(NamedTuple):
    """The estimate of the scenario and what the simulation saw; `run` is None where the engine does not start."""

    row: dict[str, Any]  # estimate columns and those of `columns`
    run: Run | None
    measured: slice


def simulation(scenario: Scenario, protocol: Protocol = Protocol(), library: Library = NO_LIBRARY) -> Simulated:  # noqa: B008
    """Simulate one scenario: its estimate's columns, with percentiles in ms and counts of what was seen beside them.

    Raises PlannerError for a scenario that cannot be read, as `estimate` explains, and BadValue for more requests than
    MAX_REQUESTS. The same seed draws the same.

    >>> asked = Scenario(model="llama-3.1-8b", gpu="h100-sxm", request_rate_per_s=2)
    >>> row = simulation(asked, Protocol(requests=100, seed=1)).row
    >>> row["simulated_requests"], row["ttft_unloaded_ms"] < row["ttft_p50_ms"] < row["ttft_p99_ms"]
    (100, True)
    """
    if scenario.waves is None:
        scenario = scenario.model_copy(update={"waves": 0.0})
    row = estimate(scenario, library=library).rows()[0]
    if row["error"]:
        raise BadValue(row["error"])
    if not row["starts"]:
        return Simulated(row | dict.fromkeys(simulate_columns()), None, slice(0))
    p = priced_scenario(scenario, library)
    sent, limits = source(p, protocol), engine_limits(p)
    table = StepTable(step_time(p), _reach(p, sent, limits))
    run = events.simulate(_service(p, protocol, limits), table, sent.source)
    return Simulated(row | columns(p, run, sent.measured), run, sent.measured)


def _reach(p: PricedGroup, sent: Sent, limits: EngineLimits) -> Reach:
    """The ranges that the table of step times must cover."""
    request, ranks = p.offered.request, limits.ranks_apart
    graph_tokens = only(p.offered.capacity.graph_batch * p.offered.capacity.graph_each)
    return Reach(
        sequences=int(max(min(ranks * min(limits.slots, limits.pool.blocks), sent.sequences), 1)),
        context_tokens=sent.longest_tokens,
        prefill_tokens=ranks * limits.budget_tokens,
        patches_per_token=only(request.image_patches / np.maximum(request.prefill_tokens, 1)),
        patches_per_image=only(request.patches_per_image),
        graph_tokens=int(min(graph_tokens, ranks * limits.budget_tokens)),
        ranks=ranks,
    )


def _service(p: PricedGroup, protocol: Protocol, limits: EngineLimits) -> Service:
    """The deployment's replicas behind a router. Raises BadValue where none would be left to serve."""
    capacity, front_end = p.offered.capacity, front_end_of(p.clock.engine, p.deployments)
    replicas = int(only(capacity.replicas))
    if protocol.spare_replicas >= replicas:
        raise BadValue(
            f"spare_replicas {protocol.spare_replicas}: the deployment has {replicas}, one must serve; set dp"
        )
    if replicas < 2 and protocol.fail_at_s < math.inf:
        raise BadValue("fail_at_s: the deployment has one replica, nothing would be left; set dp")
    return Service(
        limits,
        replicas,
        int(only(capacity.lanes)),
        only(capacity.waits_on) > 1,
        protocol.routing,
        in_flight=only(p.offered.load.concurrency) if protocol.trace is None and not protocol.burst else math.inf,
        request_s=only(front_end.request_s),
        per_token_s=only(front_end.input_token_s),
        tokenizer_token_s=only(front_end.tokenizer_token_s),
        serial_s=only(front_end.serial_s),
        spare=protocol.spare_replicas,
        fails_s=protocol.fail_at_s,
    )


def step_time(p: PricedGroup) -> StepTime:
    """Seconds of K steps of the one deployment of a group."""
    return lambda batch: p.clock.step_s(Batch(*(np.reshape(field, (-1, 1)) for field in batch)))[:, 0]


def simulate_columns() -> tuple[str, ...]:
    """Names that a simulation adds to the columns of an estimate."""
    spreads = tuple(f"{name}_{part}_ms" for name in (*TIMES, "queue") for part in SPREAD)
    rates = ("simulated_output_tokens_per_s", "simulated_requests_per_s")
    counts = ("queue_p99", "preemptions", "refused", "restarted", "slo_attainment", "utilisation", "simulated_requests")
    return spreads + rates + counts


def columns(p: PricedGroup, run: Run, measured: slice) -> dict[str, float | int | None]:
    """What the simulation saw, in the units of the screen; None where there is no such figure."""
    wishes = objectives(p.deployments)
    found: Summary = events.summary(run, measured, RequestLimits(*(only(limit) for limit in wishes[:3])))
    values = [value * MS_PER_S for spread in (found.ttft, found.tpot, found.e2e, found.queue) for value in spread]
    values += [
        found.output_tokens_per_s,
        found.requests_per_s,
        found.queue_p99,
        found.preemptions,
        found.refused,
        found.restarted,
    ]
    values += [found.slo_attainment, found.utilisation, found.requests]
    named = dict(zip(simulate_columns(), values, strict=True))
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in named.items()
    }
