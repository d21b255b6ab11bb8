"""A load and the load curve of the deployment that it is offered to."""

from __future__ import annotations

from itertools import islice
from typing import NamedTuple

import numpy as np

from planner.serving.curve import LoadCurve, completed_per_s, load_curve
from planner.serving.load import (
    AT_ONCE,
    NO_SERVER,
    Array,
    Capacity,
    FrontEnd,
    Load,
    Request,
    Scheduling,
    request_shape,
)
from planner.serving.ranks import ranks_apart
from planner.serving.steps import PromptSteps, StepTime, ceiling_per_s


class Lane(NamedTuple):
    """One pipeline lane of one replica, and the part of the load that it carries."""

    slots: Array
    population: Array  # requests or users; inf where only a rate is given
    request_rate_per_s: Array  # nan: closed loop
    lanes: Array  # of all replicas
    active: Array  # lanes at work; where the load caps what is in flight, no more than that


class Offered(NamedTuple):
    """A load and the load curve of the deployment that it is offered to; arrays (R,), of the curve (K, R)."""

    load: Load
    capacity: Capacity
    request: Request
    lane: Lane
    curve: LoadCurve
    prompts: PromptSteps
    looped_per_s: Array  # requests that a lane completes at each point of the curve


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


def aligned(
    load: Load, capacity: Capacity, scheduling: Scheduling, front_end: FrontEnd
) -> tuple[Load, Capacity, Scheduling, FrontEnd]:
    """The same with every field broadcast to one shape (R,)."""
    parts = (load, capacity, scheduling, front_end)
    values = (np.array(field, dtype=float, copy=None, ndmin=1) for part in parts for field in part)
    fields = iter(np.broadcast_arrays(*values))
    load = Load(*islice(fields, len(load)))
    capacity = Capacity(*islice(fields, len(capacity)))
    capacity = capacity._replace(chunks_mixed=capacity.chunks_mixed > 0)
    return load, capacity, Scheduling(*islice(fields, len(scheduling))), FrontEnd(*fields)


def offer(
    step_s: StepTime,
    load: Load,
    capacity: Capacity,
    scheduling: Scheduling = AT_ONCE,
    front_end: FrontEnd = NO_SERVER,
) -> Offered:
    """Price the load curve; `settle` and `sustainable` both read it."""
    load, capacity, scheduling, front_end = aligned(load, capacity, scheduling, front_end)
    request, lane = request_shape(load, scheduling, front_end), lane_of(load, capacity)
    capacity = capacity._replace(
        chunks_mixed=capacity.chunks_mixed | (request.decode_steps <= 0),
        chunk_overlap=np.where(lane.active <= capacity.replicas, capacity.chunk_overlap, 0),  # else others fill stages
    )
    request = request._replace(ranks_apart=ranks_apart(load, capacity, scheduling))
    curve, prompts = load_curve(step_s, request, capacity, lane.slots)
    looped_per_s = np.minimum(completed_per_s(curve, lane.slots), ceiling_per_s(request, capacity, prompts))
    return Offered(load, capacity, request, lane, curve, prompts, looped_per_s)
