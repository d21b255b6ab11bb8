"""The roofline of a scenario: what its prefill and decode steps attain against what the GPU could."""

from __future__ import annotations

from typing import NamedTuple

from planner.estimate import Library
from planner.estimate.breakdown import Peaks, Phase, phases
from planner.estimate.columns import EstimateRow
from planner.explain.words import figure, gpu_name
from planner.specs.scenario import Scenario

TERA = 1e12


class Point(NamedTuple):
    """A phase on the roofline of one GPU."""

    name: str
    flops_per_byte: float
    flops_per_s: float  # attained
    limit_flops_per_s: float  # the roof above it
    bound: str  # memory | compute


class Roofline(NamedTuple):
    """The two limits of a GPU and the phases under them."""

    limits: Peaks
    ridge_flops_per_byte: float  # from here on arithmetic is the limit
    points: tuple[Point, ...]


def roofline(scenario: Scenario, library: Library) -> Roofline:
    """Prefill and decode of a scenario under the roof of its GPU. Raises PlannerError."""
    limits, found = phases(scenario, library)
    ridge = limits.flops_per_s / limits.bytes_per_s
    return Roofline(limits, ridge, tuple(_point(phase, limits, ridge) for phase in found))


def _point(phase: Phase, limits: Peaks, ridge: float) -> Point:
    intensity = phase.flops / phase.bytes
    roof = min(limits.flops_per_s, intensity * limits.bytes_per_s)
    return Point(phase.name, intensity, phase.flops / phase.seconds, roof, "memory" if intensity < ridge else "compute")


def roofline_words(found: Roofline, row: EstimateRow) -> str:
    """What the picture says."""
    name, math = gpu_name(row["gpu"]), found.limits.math.upper()
    parts = [
        f"{point.name} does {point.flops_per_byte:,.0f} FLOPs for each byte and reaches "
        f"{figure(point.flops_per_s / TERA)} TFLOP/s, {100 * point.flops_per_s / point.limit_flops_per_s:.0f} % of "
        f"what {'memory' if point.bound == 'memory' else 'arithmetic'} allows there"
        for point in found.points
    ]
    ridge = f"On one {name} arithmetic in {math} is the limit from {found.ridge_flops_per_byte:,.0f} FLOPs per byte on"
    return f"{ridge}: {'; '.join(parts)}."
