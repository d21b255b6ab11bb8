"""One mean step of a deployment, operation by operation: what a chart of its time shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from planner.estimate.answer import step_parts
from planner.estimate.group import settled_layouts
from planner.estimate.layout import layouts
from planner.estimate.resolve import Library, resolve
from planner.ops import OpKind
from planner.specs.scenario import Scenario

NO_LIBRARY = Library()


class Part(NamedTuple):
    """All executions of one operation in a step."""

    name: str
    kind: str  # gemm | moe | attention | recurrent | elementwise | communication | engine
    seconds: float
    bound: str  # memory | compute | network | overhead: the largest of what each alone would take
    bytes: float  # moved by one GPU
    flops: float  # done by one GPU
    executions: float


def breakdown(scenario: Scenario, library: Library = NO_LIBRARY) -> list[Part]:
    """Operations of the mean step (its decodes and the prompts that arrive with it), longest first.

    Operations of the same name are one part; the engine's own time is the last kind. Raises PlannerError as
    `resolve` does.
    """
    row = resolve(scenario, library)
    priced, _ = settled_layouts(row.engine, [(row, layouts(row))])
    parts = step_parts(priced)
    found: dict[tuple[str, str], list[Any]] = {}
    for index, op in enumerate(parts.ops):
        count = _first(op.count)
        times = {
            "overhead": _first(parts.seconds.start[index]),
            "memory": _first(parts.seconds.memory[index]),
            "compute": _first(parts.seconds.compute[index]),
        }
        total = _first(parts.seconds.total[index])
        amounts = np.array([total, count * _first(op.bytes), count * _first(op.flops), count])
        if total > 0:
            bound = "network" if op.kind is OpKind.COMMUNICATION else _largest(times)
            known = found.setdefault((op.name, op.kind.value), [bound, np.zeros(4), 0.0])
            if total > known[2]:
                known[0], known[2] = bound, total
            known[1] += amounts
    out = [Part(name, kind, float(v[1][0]), v[0], *v[1][1:].tolist()) for (name, kind), v in found.items()]
    engine_s = _first(parts.engine_s)
    out += [Part("engine", "engine", engine_s, "overhead", 0.0, 0.0, 1.0)] if engine_s > 0 else []
    return sorted(out, key=lambda part: -part.seconds)


def _first(value: Any) -> float:
    return float(np.ravel(value)[0])


def _largest(times: Mapping[str, float]) -> str:
    return max(times, key=lambda name: times[name])
