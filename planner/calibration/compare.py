"""Two runs side by side: what became slower or faster, family by family."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from planner.specs.run import Point, Run


class Change(NamedTuple):
    """How the times of a kernel changed from one run to another, over the shapes that both hold."""

    family: str
    kernel: str
    points: int
    median_change_percent: float
    p10_change_percent: float
    p90_change_percent: float


def _times(run: Run) -> dict[tuple[str, str, str], float]:
    """Median seconds by family, kernel and shape; of the anchor its first measurement."""
    found: dict[tuple[str, str, str], float] = {}
    for point in run.timed():
        assert point.timing
        found.setdefault(_key(point), point.timing.median_s)
    return found


def _key(point: Point) -> tuple[str, str, str]:
    return point.family, point.kernel, point.shape.model_dump_json()


def compared(first: Run, second: Run) -> list[Change]:
    """Changes of the second run against the first, positive where it is slower."""
    before, after = _times(first), _times(second)
    ratios: dict[tuple[str, str], list[float]] = {}
    for key in before.keys() & after.keys():
        ratios.setdefault(key[:2], []).append(after[key] / before[key])
    rows = []
    for (family, kernel), values in sorted(ratios.items()):
        low, middle, high = (100 * (float(value) - 1) for value in np.quantile(values, [0.1, 0.5, 0.9]))
        rows.append(Change(family, kernel, len(values), middle, low, high))
    return rows
