"""Memory of a fine-tuning step on one GPU: what stays, and the highest of what comes and goes.

    peak = weights + adapters + optimizer + buffers + max(loss, backward, gradients, optimizer step)

A run's names are specs, its numbers scalars or arrays. Image encoders are counted as frozen weights only.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.formats import FP32_BYTES, HALF_BYTES, is_quantized, tensor_bytes
from planner.params import parameters, tensors
from planner.specs.finetune import Framework, Loss, Optimizer, Shared, Widths
from planner.specs.formats import FormatSpec
from planner.specs.model import ModelSpec
from planner.training.adapters import (
    Targets,
    adapter_parameters,
    factored_values,
    largest_tensor,
    layer_parameters,
    table_parameters,
    trained_parameters,
)
from planner.training.peak import PHASES, Batch, Moments, Pass, moments
from planner.training.states import (
    SHARDS_STATES,
    SHARDS_WEIGHTS,
    Division,
    States,
    Trained,
    buffer_bytes,
    gradient_bytes,
    optimizer_bytes,
    shard,
    step_bytes,
)

__all__ = [
    "PHASES",
    "Array",
    "Batch",
    "Division",
    "Moments",
    "Plan",
    "Recipe",
    "Targets",
    "finetune_plan",
    "trained_count",
]

Array = float | NDArray[np.float64]


class Recipe(NamedTuple):
    """Everything about a run that has a name rather than a number."""

    base: FormatSpec
    method: str  # full, lora, qlora
    targets: Targets
    rank: int
    tables: bool  # embedding and head trained beside adapters
    widths: Widths
    table_widths: Widths  # of embedding and head
    optimizer: Optimizer
    loss: Loss
    framework: Framework
    checkpointing: str
    scores: bool
    compiled: bool


class Plan(NamedTuple):
    """Bytes on one GPU, arrays (R,)."""

    states: States
    moments: Moments
    loaded: Array  # reserved once model and adapters are on the GPU
    allocated: Array  # peak of PyTorch's tensors
    reserved: Array  # peak that its allocator holds
    device: Array  # peak that nvidia-smi shows
    phase: Array  # index into PHASES of the highest moment


def trained_count(model: ModelSpec, recipe: Recipe) -> int:
    """Parameters that the run updates."""
    if recipe.method == "full":
        return trained_parameters(model)
    tables = table_parameters(model) if recipe.tables else 0
    return adapter_parameters(model, recipe.targets, recipe.rank) + tables


def base_bytes(model: ModelSpec, recipe: Recipe) -> float:
    """Weights that stay frozen, as the framework holds them; PEFT widens what is not quantized to fp32."""
    held = tensor_bytes(model, recipe.base)
    if recipe.method != "qlora" or not recipe.framework.upcasts_frozen or recipe.base.family not in ("nf4", "int8"):
        return float(held.sum())
    plain = [not is_quantized(model, tensor, recipe.base) for tensor in tensors(model)]
    return float(np.where(plain, held * FP32_BYTES / HALF_BYTES, held).sum())


def trained_parts(model: ModelSpec, recipe: Recipe) -> list[Trained]:
    """What is trained, by the precision that it is trained in."""
    targets = None if recipe.method == "full" else recipe.targets
    factored = factored_values(model, targets, recipe.rank)
    if targets is None:
        return [Trained(trained_parameters(model), factored, largest_tensor(model), recipe.widths)]
    adapters = adapter_parameters(model, recipe.targets, recipe.rank)
    parts = [Trained(adapters, factored, 0, recipe.widths)]
    tables = table_parameters(model)
    if recipe.tables:
        parts.append(Trained(tables, tables / model.hidden_size, tables, recipe.table_widths))
    return parts


def finetune_states(model: ModelSpec, recipe: Recipe, division: Division, shared: Shared) -> States:
    """What one GPU holds from step to step, and what its optimizer step adds."""
    parts = trained_parts(model, recipe)
    full = recipe.method == "full"
    mine = shard(division.sharding, SHARDS_WEIGHTS, division.n_gpus)
    casts = division.sharding not in SHARDS_WEIGHTS  # sharded weights are cast as they are gathered
    trained_weights = sum((p.widths.parameter + casts * p.widths.cast) * p.parameters for p in parts)
    weights = trained_weights if full else base_bytes(model, recipe)
    on_gpu = 0.0 if division.offload_optimizer else 1.0
    optimizer = on_gpu * sum(optimizer_bytes(p, recipe.optimizer) for p in parts)
    gradients = sum((gradient_bytes(p, division) for p in parts), start=np.zeros(()))
    buffers = buffer_bytes(
        HALF_BYTES * parameters(model),
        HALF_BYTES * layer_parameters(model),
        sum(p.widths.gradient * p.parameters for p in parts),
        division,
        shared,
    )
    step = sum((step_bytes(p, recipe.optimizer, division, shared) for p in parts), start=np.zeros(()))
    adapters = np.zeros_like(mine) if full else trained_weights * mine
    states = optimizer * shard(division.sharding, SHARDS_STATES, division.n_gpus)
    total = weights * mine + adapters + gradients + states
    return States(weights * mine, adapters, gradients, states, buffers, step, total)


def finetune_plan(model: ModelSpec, recipe: Recipe, division: Division, batch: Batch, shared: Shared) -> Plan:
    """Memory of one GPU: weights + adapters + optimizer + buffers + the highest moment of a step."""
    states = finetune_states(model, recipe, division, shared)
    layer = recipe.framework.compiled if recipe.compiled else recipe.framework.layer
    targets = None if recipe.method == "full" else recipe.targets
    unpacks = recipe.base.packing is not None and recipe.method != "full"
    run = Pass(layer, recipe.loss, targets, recipe.checkpointing, recipe.scores, unpacks)
    found = moments(model, run, states, batch, shared)
    stays = states.weights + states.adapters + states.optimizer + states.buffers
    allocated = stays + found.largest
    reserved = allocated * (1 + recipe.framework.fragmentation.value) + recipe.framework.load_bytes.value
    loaded = states.weights + states.adapters + recipe.framework.load_bytes.value
    device = reserved + shared.context_bytes.value
    phase = np.argmax(np.stack(np.broadcast_arrays(*found.peaks)), axis=0)
    return Plan(states, found, loaded, allocated, reserved, device, phase)
