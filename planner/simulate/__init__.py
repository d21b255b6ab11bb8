"""Discrete events: every request of a load, step by step through the schedulers of a deployment.

table = StepTable(step_s, reach)               # prices the steps once
run = simulate(deployment, table, source)      # source: Replay(trace, ...) or Loop(users, ...)
summary(run, warm_up, limits)                  # percentiles, rates, attainment
"""

from planner.simulate.arrivals import Cached, Lengths, Loop, Replay, Source, Trace, Users, poisson
from planner.simulate.events import Deployment, Routing, simulate
from planner.simulate.prices import Prices, Reach, StepTable, StepTime
from planner.simulate.records import EngineLimits, Pool, Requests, Run, Timeline
from planner.simulate.summary import Limits, Spread, Summary, Times, spread, summary, times

__all__ = [
    "Cached",
    "Deployment",
    "EngineLimits",
    "Lengths",
    "Limits",
    "Loop",
    "Pool",
    "Prices",
    "Reach",
    "Replay",
    "Requests",
    "Routing",
    "Run",
    "Source",
    "Spread",
    "StepTable",
    "StepTime",
    "Summary",
    "Timeline",
    "Times",
    "Trace",
    "Users",
    "poisson",
    "simulate",
    "spread",
    "summary",
    "times",
]
