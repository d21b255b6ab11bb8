"""The requests that a simulation sends: a closed loop, arrivals at random, a burst or a trace."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from planner.errors import BadValue
from planner.estimate.deployments import only
from planner.estimate.loads import images
from planner.estimate.pricing import PricedGroup
from planner.events import Cached, Lengths, Loop, Replay, Source, Users, poisson
from planner.serving import log_sd
from planner.simulation.protocol import MAX_REQUESTS, Protocol

SHORTEST = 0.8  # of the longest length in a closed loop that states no spread, as load generators draw them
WARM_UP_SHARE = 0.1  # of the requests, before those that are counted
LONGEST_SD = 2.5  # standard deviations above the mean up to which the step table has knots


class Sent(NamedTuple):
    """A source of requests, and which of them count."""

    source: Source
    measured: slice
    sequences: float  # most that are in flight
    longest_tokens: float


def source(p: PricedGroup, protocol: Protocol) -> Sent:
    """The requests that the protocol or the scenario's load sends."""
    load = p.offered.load
    prefix, fraction = int(only(load.shared_prefix_tokens)), only(load.cached_input_fraction)
    closed = np.isnan(only(load.request_rate_per_s)) and protocol.trace is None and not protocol.burst
    if closed:
        return users(p, protocol, prefix)
    run = p.deployments[0].row.scenario.run_requests
    warm = 0 if protocol.trace or protocol.burst or run else math.ceil(WARM_UP_SHARE * protocol.requests)
    count = run or protocol.requests + warm
    _check_count(count)
    lengths = length_spreads(p, protocol, only(load.input_tokens))
    random = np.random.default_rng(protocol.seed)
    if protocol.trace is not None:
        trace = protocol.trace
        longest = float(np.max(trace.prompt + trace.output))
    else:
        rate = math.inf if protocol.burst else only(load.request_rate_per_s)
        trace, longest = poisson(random, rate, lengths, count), _longest(lengths)
    return Sent(Replay(trace, Cached(prefix, fraction)), slice(warm, None), math.inf, longest)


def users(p: PricedGroup, protocol: Protocol, prefix: int) -> Sent:
    """A closed loop of a service or of a load generator.

    A service's first requests are spread over a cycle, and it goes on until all requests that count have ended. A load
    generator offers its waves of requests all at once, and all of them count.
    """
    scenario, point, load = p.deployments[0].row.scenario, p.point, p.offered.load
    people, waves = int(only(load.concurrency)), only(load.waves)
    service = math.isinf(waves)
    warm = people + math.ceil(WARM_UP_SHARE * protocol.requests) if service else 0
    counted = protocol.requests if service else math.ceil(waves * people)
    count = warm + counted + (people if service else 0)
    _check_count(count)
    turns, think = scenario.turns or 1, only(load.think_time_s)
    prompt = float(scenario.input_tokens or 0) + only(images(p.deployments).tokens)
    lengths = length_spreads(p, protocol, prompt)
    cached = Cached(prefix, scenario.cached_input_fraction or 0.0)
    group = Users(people, think, turns, start_s=only(point.e2e_s) + think if service else 0.0)
    longest = _longest(lengths) * turns
    measured = slice(warm, warm + counted)
    return Sent(Loop(group, lengths, cached, count, protocol.seed), measured, people, longest)


def length_spreads(p: PricedGroup, protocol: Protocol, prompt: float) -> tuple[Lengths, Lengths]:
    """Spreads of prompt and output: log-normal where the scenario states a 95th percentile, else uniform or fixed."""
    s, means = p.deployments[0].row.scenario, (prompt, only(p.offered.load.output_tokens))
    closed = s.request_rate_per_s is None and not protocol.burst
    shortest = s.shortest_fraction or (SHORTEST if closed else 1.0)
    leasts = (0, min(round(means[1]), 1))  # an encoder writes nothing
    return tuple(  # type: ignore[return-value]
        Lengths(mean, least=least, shortest_fraction=shortest)
        if tail is None
        else Lengths(mean, only(log_sd(np.array(mean), np.array(tail))), least=least)
        for mean, tail, least in zip(means, (s.input_tokens_p95, s.output_tokens_p95), leasts, strict=True)
    )


def _longest(lengths: tuple[Lengths, Lengths]) -> float:
    return sum(n.mean * 2 / (1 + n.shortest_fraction) * math.exp(LONGEST_SD * n.log_sd) for n in lengths)


def _check_count(count: int) -> None:
    if count > MAX_REQUESTS:
        raise BadValue(f"{count} requests to simulate, at most {MAX_REQUESTS}; fewer --requests, users or concurrency")
