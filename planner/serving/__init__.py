"""Continuous batching under load: how long requests take, how many are completed, what is sustainable.

    offered = offer(step_s, load, capacity, scheduling, front_end)  # prices steps along the load curve
    settled = settle(step_s, offered)         # finds where this load settles
    point = serving_point(offered, settled)   # its figures; `steady_state` does all three
    sustainable(offered, objectives)          # the largest load that meets objectives

`step_s` is a function from `ops.Batch` to seconds, such as `estimate.clock.Clock.step_s`. docs/serving.md derives the
formulas.
"""

from planner.serving.bound import Bound, dominant_bound
from planner.serving.load import (
    AT_ONCE,
    NO_SERVER,
    Capacity,
    Conversation,
    FrontEnd,
    Load,
    Scheduling,
    conversation,
    log_sd,
    request_shape,
    speculative_tokens_per_step,
    uniform_log_sd,
)
from planner.serving.objectives import Objectives, Sustainable, Tail, margin, settled_tail, sustainable, tail
from planner.serving.offered import Offered, offer
from planner.serving.settle import Settled, settle
from planner.serving.steady import ServingPoint, serving_point, slot_wait_s, steady_state

__all__ = [
    "AT_ONCE",
    "NO_SERVER",
    "Bound",
    "Capacity",
    "Conversation",
    "FrontEnd",
    "Load",
    "Objectives",
    "Offered",
    "Scheduling",
    "ServingPoint",
    "Settled",
    "Sustainable",
    "Tail",
    "conversation",
    "dominant_bound",
    "log_sd",
    "margin",
    "offer",
    "request_shape",
    "serving_point",
    "settle",
    "settled_tail",
    "slot_wait_s",
    "speculative_tokens_per_step",
    "steady_state",
    "sustainable",
    "tail",
    "uniform_log_sd",
]
