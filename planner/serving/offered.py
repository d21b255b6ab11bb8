"""A load beside the curve of the deployment that it is offered to."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from planner.serving.curve import LoadCurve, load_curve
from planner.serving.load import Array, Capacity, Load, Overheads, Request, request_shape
from planner.serving.steps import PromptSteps, StepTime


class Lane(NamedTuple):
    """One pipeline lane of one replica, and the part of the load that it carries."""

    slots: Array
    population: Array  # requests or users; inf where only a rate is given
    request_rate_per_s: Array  # nan: closed loop
    lanes: Array  # of all replicas
    active: Array  # lanes at work; where the load caps what is in flight, no more than that


class Offered(NamedTuple):
    """A load beside the curve of the deployment that it is offered to."""

    load: Load
    capacity: Capacity
    request: Request
    lane: Lane
    curve: LoadCurve
    prompts: PromptSteps


def lane_of(load: Load, capacity: Capacity) -> Lane:
    """Split a load evenly over replicas and their pipeline lanes; fewer requests than lanes leave some idle."""
    lanes = capacity.replicas * capacity.lanes
    active = np.minimum(lanes, np.maximum(load.concurrency, 1))
    return Lane(
        slots=np.maximum(np.minimum(capacity.sequences, capacity.max_num_seqs) / capacity.lanes, 1),
        population=np.maximum(load.concurrency / lanes, 1),
        request_rate_per_s=load.request_rate_per_s / active,
        lanes=lanes,
        active=active,
    )


def aligned(load: Load, capacity: Capacity, overheads: Overheads) -> tuple[Load, Capacity, Overheads]:
    """The same with every field broadcast to one shape (R,)."""
    fields = np.broadcast_arrays(*(np.atleast_1d(np.asarray(f, dtype=float)) for f in (*load, *capacity, *overheads)))
    n, m = len(load), len(load) + len(capacity)
    mixed = fields[n + Capacity._fields.index("chunks_mixed")] > 0
    return Load(*fields[:n]), Capacity(*fields[n:m])._replace(chunks_mixed=mixed), Overheads(*fields[m:])


def offer(step_s: StepTime, load: Load, capacity: Capacity, overheads: Overheads) -> Offered:
    """Price the load curve; `settle` and `sustainable` both read it."""
    load, capacity, overheads = aligned(load, capacity, overheads)
    request, lane = request_shape(load, overheads), lane_of(load, capacity)
    capacity = capacity._replace(
        chunks_mixed=capacity.chunks_mixed | (request.decode_steps <= 0),
        chunk_overlap=np.where(lane.active <= capacity.replicas, capacity.chunk_overlap, 0),  # else others fill stages
    )
    return Offered(load, capacity, request, lane, *load_curve(step_s, request, capacity, lane.slots))
