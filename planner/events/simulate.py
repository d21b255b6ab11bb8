"""The clock of a simulation: arrivals, routing to replicas, ends of steps, in the order of their times."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from planner.events.arrivals import Source
from planner.events.engine import Engine
from planner.events.prices import Prices
from planner.events.ranks import Ranks
from planner.events.records import EngineLimits, Request, Requests, Run, Timeline
from planner.events.steps import Plan

SAMPLES = 2048  # of the timeline; halved and spaced twice as far when there are more
SENT, ARRIVAL, STEP_END, STEP_START, FAILURE = range(5)  # in this order when times are equal


class Routing(StrEnum):
    """Which replica takes a request."""

    ROUND_ROBIN = "round-robin"
    LEAST_LOADED = "least-loaded"


class Service(NamedTuple):
    """Equal replicas behind a router, and the time a request spends outside of them.

    A replica has as many lanes as micro-batches in flight, each with a scheduler's share of it.
    """

    limits: EngineLimits  # of one lane
    replicas: int = 1
    lanes: int = 1
    stages_wait: bool = False  # lanes pass the stages of a pipeline in order, so that a long step holds up the others
    routing: Routing = Routing.ROUND_ROBIN
    in_flight: float = float("inf")  # most requests that clients have open at once
    request_s: float = 0.0  # from sent to the scheduler
    per_token_s: float = 0.0  # the same, per token of the prompt
    tokenizer_token_s: float = 0.0  # before it, per token: a front end takes one prompt after another ...
    serial_s: float = 0.0  # ... and a request at most once in so long
    spare: int = 0  # of the replicas, that stand by
    fails_s: float = float("inf")  # when the first replica stops: its requests start again, a spare takes its place


class Sampler:
    """A timeline of bounded length."""

    def __init__(self, engines: Sequence[Engine | Ranks]) -> None:
        """Every event is sampled until there are too many."""
        self._engines, self._every_s, self._next_s = engines, 0.0, 0.0
        self._rows: list[tuple[float, int, int, float]] = []
        self._blocks = max(sum(rank.limits.pool.blocks for engine in engines for rank in engine.ranks), 1)

    def see(self, now_s: float) -> None:
        """Sample, when it is time."""
        if now_s < self._next_s:
            return
        ranks = [rank for engine in self._engines for rank in engine.ranks]
        waiting = sum(len(rank.waiting) + len(rank.unseen) for rank in ranks)
        running = sum(rank.running for rank in ranks)
        free = sum(rank.free for rank in ranks)
        self._rows.append((now_s, waiting, running, 1 - free / self._blocks))
        if len(self._rows) >= SAMPLES:
            self._rows = self._rows[::2]
            self._every_s = (now_s - self._rows[0][0]) / len(self._rows)
        self._next_s = now_s + self._every_s

    def timeline(self) -> Timeline:
        """What was sampled."""
        return Timeline(*np.array(self._rows, dtype=float).reshape(-1, len(Timeline._fields)).T)


class Pipeline:
    """As many stages as lanes, each with an equal part of a step, which enters when the step before has left it."""

    def __init__(self, stages: int) -> None:
        """Nothing is under way."""
        self._free_s = [0.0] * stages

    def passed(self, plan: Plan) -> Plan:
        """The same single step, begun so late that it ends when it has left the last stage."""
        at, each_s = plan.start_s, plan.step_s / len(self._free_s)
        for stage, free_s in enumerate(self._free_s):
            at = self._free_s[stage] = max(at, free_s) + each_s
        return plan._replace(start_s=at - plan.step_s)


class Simulation:
    """One run; `run` drives it to the end."""

    def __init__(self, service: Service, prices: Prices, source: Source) -> None:
        """Idle engines."""
        self._service, self._source = service, source
        scheduler = Ranks if service.limits.ranks_apart > 1 else Engine
        self._engines = [scheduler(service.limits, prices) for _ in range(service.replicas * service.lanes)]
        self._pipelines = [Pipeline(service.lanes) for _ in range(service.replicas)]
        self._events: list[tuple[float, int, int, int, Request | None]] = []  # time, kind, number, engine or stamp
        self._number = 0
        self._plans = [0] * len(self._engines)  # number of the event that ends the plan under way
        self._starting = [False] * len(self._engines)
        self._held: deque[Request] = deque()
        self._open = 0
        self._reading_s = [0.0] * (service.replicas - service.spare)  # until when the front ends take no other request
        self._turn = 0
        self._active = list(range(service.replicas - service.spare))
        self._spares = deque(range(service.replicas - service.spare, service.replicas))
        if service.fails_s < float("inf"):
            self._push(service.fails_s, FAILURE, -1)
        self._refused = 0
        self._restarted = 0
        self._ended: list[tuple[float, ...]] = []
        self._sampler = Sampler(self._engines)

    def run(self) -> Run:
        """Everything that is sent, to its end."""
        arrivals = self._source.first()
        upcoming = next(arrivals, None)
        events = self._events
        while events or upcoming:
            while upcoming and (not events or upcoming.sent_s <= events[0][0]):
                self._send(upcoming)
                upcoming = next(arrivals, None)
            now, kind, number, at, request = heapq.heappop(events)
            if kind == SENT and request is not None:
                self._push(self._read(request), ARRIVAL, -1, request)
            elif request is not None:
                self._arrive(request, now)
            elif kind == FAILURE:
                self._fail(now)
            elif kind == STEP_START:
                self._start(at, now)
            elif number == self._plans[at]:
                self._finish(at)
            if not events or events[0][0] > now:
                self._sampler.see(now)
        table = np.array(self._ended, dtype=float).reshape(-1, len(Requests._fields))
        ranks = [rank for engine in self._engines for rank in engine.ranks]
        busy, preempted = np.array([rank.busy_s for rank in ranks]), sum(rank.preemptions for rank in ranks)
        return Run(Requests(*table.T), self._sampler.timeline(), busy, self._refused, preempted, self._restarted)

    def _read(self, request: Request) -> float:
        """When its prompt is tokenized, by the first of the replicas' front ends that is free, and at the scheduler."""
        starts_s = max(heapq.heappop(self._reading_s), request.sent_s)
        read_s = starts_s + self._service.tokenizer_token_s * request.prompt
        heapq.heappush(self._reading_s, max(read_s, starts_s + self._service.serial_s))
        return read_s + self._service.request_s + self._service.per_token_s * request.prompt

    def _push(self, time_s: float, kind: int, at: int, request: Request | None = None) -> int:
        self._number += 1
        heapq.heappush(self._events, (time_s, kind, self._number, at, request))
        return self._number

    def _send(self, request: Request) -> None:
        self._push(request.sent_s, SENT, -1, request)

    def _arrive(self, request: Request, now_s: float) -> None:
        if not self._engines[0].holds(request):
            self._refused += 1
            request.end_s = now_s
            self._follow(request)
        elif self._open >= self._service.in_flight:
            self._held.append(request)
        else:
            self._route(request, now_s)

    def _route(self, request: Request, now_s: float) -> None:
        self._open += 1
        at = self._chosen()
        engine = self._engines[at]
        request.server = at
        engine.arrive(request, now_s)
        if engine.plan is None:
            self._wake(at, now_s)
        elif engine.plan.steps > 1 and engine.admits():
            self._cut(at, engine.plan, engine.admits_after(now_s))

    def _cut(self, at: int, plan: Plan, steps: int) -> None:
        """End a plan after fewer steps."""
        self._engines[at].replan(plan._replace(steps=steps))
        self._plans[at] = self._push(plan.end_s(steps), STEP_END, at)

    def _chosen(self) -> int:
        """The engine that takes the next request: a replica by the policy, the lane of it with the fewest."""
        engines, lanes, replicas = self._engines, self._service.lanes, self._active
        if self._service.routing is Routing.ROUND_ROBIN:
            replicas = [self._active[self._turn % len(self._active)]]
            self._turn += 1
        candidates = [replica * lanes + lane for replica in replicas for lane in range(lanes)]
        return candidates[0] if len(candidates) == 1 else min(candidates, key=lambda i: engines[i].load())

    def _fail(self, now_s: float) -> None:
        """The first replica stops; clients send its requests again, from the start, and a spare joins."""
        lost = self._active.pop(0)
        if self._spares:
            self._active.append(self._spares.popleft())
        lanes = self._service.lanes
        for at in range(lost * lanes, (lost + 1) * lanes):
            failed, self._plans[at] = self._engines[at], -1
            self._engines[at] = failed.emptied()
            for r in failed.requests():
                self._open -= 1
                self._restarted += 1
                self._route(Request(r.sent_s, r.prompt, r.output, r.cached, r.user, r.turn), now_s)

    def _wake(self, at: int, now_s: float) -> None:
        if not self._starting[at]:
            self._starting[at] = True
            self._push(now_s, STEP_START, at)

    def _start(self, at: int, now_s: float) -> None:
        self._starting[at] = False
        engine, others = self._engines[at], self._beside(at)
        plan = engine.begin(now_s)
        if plan is None:
            return
        if others:
            for other, running in others:
                if running.steps > 1:
                    self._cut(other, running, running.steps_until(now_s))
            plan = self._pipelines[at // self._service.lanes].passed(plan._replace(steps=1))
            engine.replan(plan)
        self._plans[at] = self._push(plan.end_s(plan.steps), STEP_END, at)

    def _beside(self, at: int) -> list[tuple[int, Plan]]:
        """What runs in the other lanes of a pipeline whose stages a lane must wait for."""
        if not self._service.stages_wait:
            return []
        first = at - at % self._service.lanes
        lanes = ((lane, self._engines[lane].plan) for lane in range(first, first + self._service.lanes) if lane != at)
        return [(lane, plan) for lane, plan in lanes if plan]

    def _finish(self, at: int) -> None:
        engine = self._engines[at]
        assert engine.plan is not None
        now, ended = engine.finish(engine.plan.steps)
        for r in ended:
            times = (r.sent_s, r.admitted_s, r.first_s, r.end_s)
            self._ended.append((*times, r.prompt, r.output, r.preemptions, r.server))
            self._open -= 1
            self._follow(r)
            while self._held and self._open < self._service.in_flight:
                self._route(self._held.popleft(), now)
        if self._events and self._events[0][0] <= now:
            self._wake(at, now)
        else:
            self._start(at, now)

    def _follow(self, request: Request) -> None:
        following = self._source.after(request)
        if following:
            self._send(following)


def simulate(service: Service, prices: Prices, source: Source) -> Run:
    """Run a source against a service until everything that is sent has ended."""
    return Simulation(service, prices, source).run()
