"""Would the planner have chosen what measurements choose? Measured rows that differ in one thing, ranked both ways.

A row's worth is generated tokens per second and GPU. Repeats of one configuration count as one, their median.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from planner.accuracy.rows import PARTS, questions
from planner.accuracy.score import architecture, held_out
from planner.estimate import estimate
from planner.estimate.library import NOTHING_OBSERVED
from planner.specs.scenario import Scenario

CLOSED = PARTS["closed"]
FIGURE = "output_tokens_per_s"
AXES = {  # the column in which two configurations differ, and those that may differ with it
    "tp": ("tp", "ep"),
    "format": ("weight_format", "kv_format", "engine_version", "max_num_batched_tokens", "gpu_memory_utilization"),
    "concurrency": ("concurrency",),
}
SAME = (
    "model weight_format kv_format engine engine_version gpu tp pp ep attention_dp dp gpu_memory_utilization "
    "max_num_seqs max_num_batched_tokens input_tokens output_tokens concurrency request_rate_per_s"
).split()
FILES = ("serving", "serving_other")
CHOSEN = ("tp", "ep", "attention_dp", "weight_format", "kv_format")  # what a search chooses, beside what one asks of it
APART = 0.1  # measured difference from which a pair has a winner
REPLICAS = (2, 4, 8)  # loads that so many of the measured replicas serve


class Configuration(NamedTuple):
    """What was run, what it was measured to do and what is predicted: tokens per second, all of its GPUs."""

    scenario: Scenario
    part: str  # closed loop, offline ...
    measured: float
    predicted: float
    held_out: bool = False  # no row of its model on its GPU shaped a constant of its engine

    @property
    def gpus(self) -> int:
        """Of one replica."""
        return (self.scenario.tp or 1) * (self.scenario.pp or 1) * (self.scenario.dp or 1)


class Agreement(NamedTuple):
    """How often two rankings agree; shares of `pairs` and of `groups`."""

    name: str
    pairs: int  # measured to differ by more than APART
    right: float
    groups: int
    within: float  # whose choice is at most APART worse than the best that was measured
    worst_regret: float


class Replicas(NamedTuple):
    """How many replicas a load takes, predicted against measured."""

    measured: int
    configurations: int
    within_one: float
    exact: float


@lru_cache(maxsize=1)
def configurations() -> tuple[Configuration, ...]:
    """Every served row that has tokens per second, those of its protocol or without one apart."""
    asked = [q for q in questions() if q.row.file in FILES and FIGURE in q.figures]
    answers = estimate([q.scenario for q in asked], library=NOTHING_OBSERVED).rows()
    repeats: dict[tuple[Any, ...], list[Configuration]] = defaultdict(list)
    for q, answer in zip(asked, answers, strict=True):
        if answer[FIGURE]:
            key = (q.part, *(getattr(q.scenario, name) for name in SAME))
            out = held_out(str(answer["engine"]), q.scenario.model or "", str(answer["gpu"])) == "yes"
            repeats[key].append(Configuration(q.scenario, q.part, q.figures[FIGURE], answer[FIGURE], out))
    return tuple(map(_median, repeats.values()))


def _median(found: Sequence[Configuration]) -> Configuration:
    measured, predicted = (float(np.median(values)) for values in zip(*(one[2:4] for one in found), strict=True))
    return found[0]._replace(measured=measured, predicted=predicted)


def plain(found: Sequence[Configuration]) -> list[Configuration]:
    """Closed-loop rows of `serving` that surely drafted no tokens."""
    return [one for one in found if one.part == CLOSED]


def unshaped(found: Sequence[Configuration]) -> list[Configuration]:
    """Those of a model and GPU that shaped no constant of their engine: what a forecast is judged by."""
    return [one for one in found if one.held_out]


def halves(found: Sequence[Configuration], column: str) -> Iterator[tuple[str, list[Configuration]]]:
    """The configurations by every other value of a column, in alphabetical order: two halves that share none.

    Checkpoints of one architecture are one model.
    """
    name_of = architecture if column == "model" else str
    values = [name_of(str(getattr(one.scenario, column))) for one in found]
    names = sorted(set(values))
    for half in (names[::2], names[1::2]):
        yield ", ".join(half), [one for one, value in zip(found, values, strict=True) if value in half]


def groups(found: Sequence[Configuration], free: Sequence[str]) -> Iterator[list[Configuration]]:
    """Configurations that differ in the first of the `free` columns, and in no others than these."""
    fixed = [name for name in SAME if name not in free]
    by_key: dict[tuple[Any, ...], list[Configuration]] = defaultdict(list)
    for one in found:
        by_key[one.part, *(getattr(one.scenario, name) for name in fixed)].append(one)
    return (group for group in by_key.values() if len({getattr(one.scenario, free[0]) for one in group}) > 1)


def agreement(name: str, found: Sequence[Configuration], free: Sequence[str]) -> Agreement:
    """Pairs and choices within groups that differ in the `free` columns; pairs of an axis differ in that."""
    right, regrets = [], []
    for group in groups(found, free):
        for one, other in combinations(group, 2):
            if getattr(one.scenario, free[0]) == getattr(other.scenario, free[0]) and name in AXES:
                continue
            measured = (one.measured / one.gpus) / (other.measured / other.gpus)
            predicted = (one.predicted / one.gpus) / (other.predicted / other.gpus)
            if abs(math.log(measured)) > math.log1p(APART):
                right.append((measured > 1) == (predicted > 1))
        best = max(one.measured / one.gpus for one in group)
        choice = max(group, key=lambda one: one.predicted / one.gpus)
        regrets.append(1 - choice.measured / choice.gpus / best)
    within = [regret <= APART for regret in regrets]
    share, kept = (float(np.mean(values)) if values else math.nan for values in (right, within))
    return Agreement(name, len(right), share, len(regrets), kept, max(regrets, default=math.nan))


def agreements(found: Sequence[Configuration]) -> list[Agreement]:
    """tp, format and concurrency apart, and everything that a search chooses together."""
    apart = [agreement(name, found, columns) for name, columns in AXES.items()]
    return [*apart, agreement("all that a search chooses", found, CHOSEN)]


def replicas(found: Sequence[Configuration]) -> list[Replicas]:
    """Replicas that serve as many tokens per second as 2, 4 or 8 of the measured ones do."""
    out = []
    for measured in REPLICAS:
        needed = [math.ceil(measured * one.measured / one.predicted - 1e-9) for one in found]
        off = np.abs(np.array(needed) - measured)
        out.append(Replicas(measured, len(found), float(np.mean(off <= 1)), float(np.mean(off == 0))))
    return out
