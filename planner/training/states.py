"""What stays from step to step: weights, adapters, master weights, optimizer states, gradients; and how
ZeRO and FSDP divide them over GPUs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.formats import FP32_BYTES
from planner.specs.finetune import Optimizer, Shared, Widths

Array = float | NDArray[np.float64]

ZERO = ("zero1", "zero2", "zero3")
SHARDS_STATES = ("zero1", "zero2", "zero3", "fsdp")
SHARDS_GRADIENTS = ("zero2", "zero3", "fsdp")
SHARDS_WEIGHTS = ("zero3", "fsdp")


class Division(NamedTuple):
    """How states are spread over GPUs."""

    sharding: str
    n_gpus: Array
    offload_optimizer: bool = False
    in_backward: bool = False  # each parameter is stepped as its gradient arrives


class Trained(NamedTuple):
    """What is trained in one precision, in parameters."""

    parameters: float
    factored: float  # rows and columns of their matrices
    largest: float  # of one tensor
    widths: Widths


class States(NamedTuple):
    """Bytes on one GPU, arrays (R,)."""

    weights: Array  # frozen base, or the trained weights themselves
    adapters: Array  # trained parameters beside a frozen base
    gradients: Array  # at the end of the backward pass
    optimizer: Array  # its states, master weights included
    buffers: Array  # of the sharding library: buckets, gathered parameters
    step: Array  # for a moment, while the optimizer steps
    model_states: Array  # weights, gradients, optimizer: what the ZeRO paper counts


def shard(sharding: str, sharded: tuple[str, ...], n_gpus: Array) -> Array:
    """Share of a state that one GPU holds."""
    return 1 / np.asarray(n_gpus, float) if sharding in sharded else np.ones_like(np.asarray(n_gpus, float))


def optimizer_bytes(trained: Trained, optimizer: Optimizer) -> float:
    """States of all trained parameters: parameters x states x width; rows and columns for Adafactor; master beside."""
    width = optimizer.state_bytes or trained.widths.state
    states = FP32_BYTES * trained.factored if optimizer.factored else optimizer.states * width * trained.parameters
    return (0.0 if optimizer.paged else states) + trained.widths.master * trained.parameters


def step_bytes(trained: Trained, optimizer: Optimizer, division: Division, shared: Shared) -> Array:
    """Temporaries of the step. DeepSpeed flattens and widens gradients: all of a GPU's share under ZeRO-1 and -2,
    a sub-group of them under ZeRO-3.
    """
    if division.in_backward or division.offload_optimizer:
        return 0.0
    mine = trained.parameters * shard(division.sharding, SHARDS_STATES, division.n_gpus)
    temporaries = optimizer.temporaries * trained.widths.state * mine
    widened = FP32_BYTES + trained.widths.gradient
    if division.sharding in ("zero1", "zero2"):
        return temporaries + widened * mine
    group = np.minimum(mine, shared.step_values.value) if division.sharding == "zero3" else 0.0
    return temporaries + widened * group


def buffer_bytes(total: float, layer: float, trained: float, division: Division, shared: Shared) -> Array:
    """What the sharding library holds: DDP's buckets are a copy of the gradients, ZeRO-1 and -2 fill two buckets,
    ZeRO-3 keeps parameters gathered, FSDP two layers. `total`, `layer`: bytes in 16 bit; `trained`: gradient bytes.
    """
    many = np.asarray(division.n_gpus) > 1
    group = np.where(many, shared.group_bytes.value, 0.0)
    if division.sharding == "ddp":
        return group + np.where(many, trained, 0.0)
    if division.sharding in ("zero1", "zero2"):
        return group + 2 * shared.bucket_values.value
    if division.sharding == "zero3":
        return group + np.where(many, np.minimum(total, 2 * shared.live_values.value), 0.0)
    return group + np.where(many, 2 * layer, 0.0) if division.sharding == "fsdp" else group


def gradient_bytes(trained: Trained, division: Division) -> Array:
    """Gradients at the end of the backward pass; of one tensor only when each is stepped as it arrives."""
    if division.in_backward:
        return trained.widths.gradient * trained.largest * np.ones_like(np.asarray(division.n_gpus, float))
    whole = trained.widths.gradient * trained.parameters
    return whole * shard(division.sharding, SHARDS_GRADIENTS, division.n_gpus)


def accumulated_bytes(states: States, accumulation: Array) -> Array:
    """Gradients of earlier micro-batches that stand while the next one runs."""
    return np.where(np.asarray(accumulation) > 1, states.gradients, 0.0)
