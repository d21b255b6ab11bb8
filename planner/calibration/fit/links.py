"""Collectives: (a^p + (wire bytes / rate)^p)^(1/p) per collective and number of GPUs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from planner.calibration.fit.solve import Box, best
from planner.collectives import Link, all_gather_wire_bytes, all_reduce_wire_bytes, all_to_all_wire_bytes, transfer_s
from planner.specs.calibration import HeldOut, LinkFit
from planner.specs.run import CollectiveShape, Point

Array = NDArray[np.float64]

WIRE_BYTES = {
    "all_reduce": all_reduce_wire_bytes,
    "all_gather": all_gather_wire_bytes,
    "all_to_all": all_to_all_wire_bytes,
}
FEWEST = 5  # points that make a curve
# Bounds of the three parameters: seconds, bytes/s, sharpness of the bend.
LATENCY_S = (1e-7, 1e-2)
RATE = (1e7, 1e13)
P = (0.3, 4.0)
STARTS = ((1.0, 1.0, 0.6), (0.5, 1.5, 1.0), (1.0, 0.7, 2.0))  # of the fastest time, of the best rate, p


def _seconds(theta: Array, wire: Array) -> Array:
    latency, rate, p = np.exp(theta)
    return np.asarray(transfer_s(wire, Link(latency, rate, p)))


def _solved(wire: Array, seconds: Array) -> Array:
    box = Box(*np.log(np.array([LATENCY_S, RATE, P])).T)
    floor, rate = float(seconds.min()), float(np.max(wire / seconds))
    starts = [np.clip(np.log([a * floor, b * rate, p]), box.low, box.high) for a, b, p in STARTS]
    return best(lambda theta: np.log(_seconds(theta, wire) / seconds), starts, box).parameters


def link_fit(points: Sequence[Point], family: str, ranks: int) -> LinkFit | None:
    """One curve; held back one message size at a time. None with too few sizes."""
    own = [(p.shape, p.timing.median_s) for p in points if p.timing]
    sized = [(shape.size_bytes, seconds) for shape, seconds in own if isinstance(shape, CollectiveShape)]
    if len(sized) < FEWEST:
        return None
    sizes, seconds = np.array(sorted(sized), dtype=float).T
    wire = np.asarray(WIRE_BYTES[family](sizes, ranks))
    theta = _solved(wire, seconds)
    rows = np.arange(len(wire))
    out = [float(_seconds(_solved(wire[rows != i], seconds[rows != i]), wire[i : i + 1])[0]) for i in rows]
    median, p90 = (round(float(value), 4) for value in np.quantile(np.abs(np.array(out) / seconds - 1), [0.5, 0.9]))
    latency, rate, p = (float(value) for value in np.exp(theta))
    error = HeldOut(points=len(wire), median=median, p90=p90)
    return LinkFit(
        family=family, ranks=ranks, latency_s=latency, bytes_per_s=rate, p=p, points=len(wire), held_out=error
    )


def link_fits(points: Sequence[Point]) -> tuple[LinkFit, ...]:
    """A curve for every collective and number of GPUs that was measured."""
    groups: dict[tuple[str, int], list[Point]] = {}
    for point in points:
        if isinstance(point.shape, CollectiveShape) and point.family in WIRE_BYTES:
            groups.setdefault((point.family, point.shape.ranks), []).append(point)
    found = [link_fit(members, *key) for key, members in groups.items()]
    return tuple(link for link in found if link is not None)
