"""Discrete events: every request of a load, step by step through the schedulers of a deployment.

table = StepTable(step_s, reach)               # prices the steps once
run = simulate(service, table, source)      # source: Replay(trace, ...) or Loop(users, ...)
summary(run, warm_up, limits)                  # percentiles, rates, attainment
"""

from planner.events.arrivals import Cached, Lengths, Loop, Replay, Source, Trace, Users, poisson
from planner.events.prices import Prices, Reach, StepTable, StepTime
from planner.events.records import EngineLimits, Pool, Requests, Run, Timeline
from planner.events.simulate import Routing, Service, simulate
from planner.events.summary import RequestLimits, RequestTimes, Spread, Summary, spread, summary, times

__all__ = [
    "Cached",
    "EngineLimits",
    "Lengths",
    "Loop",
    "Pool",
    "Prices",
    "Reach",
    "Replay",
    "RequestLimits",
    "RequestTimes",
    "Requests",
    "Routing",
    "Run",
    "Service",
    "Source",
    "Spread",
    "StepTable",
    "StepTime",
    "Summary",
    "Timeline",
    "Trace",
    "Users",
    "poisson",
    "simulate",
    "spread",
    "summary",
    "times",
]
