"""Continuous batching under load: how long requests take, how many are completed, what is sustainable."""

from planner.serving.load import (
    Capacity,
    Load,
    Overheads,
    conversation,
    log_sd,
    request_shape,
    speculative_tokens_per_step,
)
from planner.serving.steady import ServingPoint, steady_state

__all__ = [
    "Capacity",
    "Load",
    "Overheads",
    "ServingPoint",
    "conversation",
    "log_sd",
    "request_shape",
    "speculative_tokens_per_step",
    "steady_state",
]
