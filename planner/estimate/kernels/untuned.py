"""Block FP8 products of shapes for which the engine's kernel has no tuned tiles."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from planner.collectives import Parallel, local_shape
from planner.estimate.deployments import Deployment, Floats, Part, column
from planner.formats import is_quantized
from planner.identity import Same
from planner.ops import Slot
from planner.ops.products import Group, groups
from planner.specs.formats import FormatSpec
from planner.specs.model import ModelSpec

BLOCK_FP8 = "gemm-fp8-block"
STEP = 1024  # inputs that the constant counts
BLOCK = 128  # outputs that share a scale; matrices with fewer stay in 16 bit


def untuned_s(deployments: Sequence[Deployment]) -> Floats:
    """Seconds per input feature that every slot's products take longer, (slots, R).

    A product without tiles of its own takes `inputs_1024_s` more for every 1024 inputs, whatever its outputs and rows:
    its few tiles walk through all inputs one after the other. The products of a slot share one rate, so each gets
    the share of the slot's inputs that are untuned; their sum is that of the products one by one.
    """
    own = deployments[0].row.engine.untuned_products
    none = np.zeros((len(Slot), len(deployments)))
    if not own.inputs_1024_s or not column(deployments, _concerned, Part.GPU, Part.WEIGHTS).any():
        return none
    shares = column(deployments, _untuned_shares, Part.GPU, Part.WEIGHTS, Part.LAYOUT)
    return np.asarray(shares.T * own.inputs_1024_s / STEP)


def _concerned(d: Deployment) -> bool:
    return d.row.weights.kernel == BLOCK_FP8 and d.row.gpu.generation in d.row.engine.untuned_products.untuned_on


def _untuned_shares(d: Deployment) -> tuple[float, ...]:
    if not _concerned(d):
        return (0.0,) * len(Slot)
    split = Parallel(*d.layout.defined[:5])
    return _shares(Same(d.row.model), Same(d.row.weights), split, d.row.engine.untuned_products.tuned)


@lru_cache(maxsize=1024)
def _shares(
    model: Same[ModelSpec], weights: Same[FormatSpec], split: Parallel, tuned: tuple[str, ...]
) -> tuple[float, ...]:
    """Share of every slot's input features, over all layers, that untuned products read."""
    untuned, every = np.zeros(len(Slot)), np.zeros(len(Slot))
    for group in groups(model.value):
        outputs, inputs = _shape(group, split)
        every[group.slot] += inputs * group.layers
        if _in_blocks(group, model.value, weights.value) and f"{outputs:g}x{inputs:g}" not in tuned:
            untuned[group.slot] += inputs * group.layers
    return tuple((untuned / np.maximum(every, 1.0)).tolist())


def _in_blocks(group: Group, model: ModelSpec, weights: FormatSpec) -> bool:
    """Whether the product runs in block FP8; experts have kernels of their own."""
    packed = all(is_quantized(model, tensor, weights) and tensor.n >= BLOCK for tensor in group.members)
    return packed and group.slot is not Slot.EXPERT_GEMM


def _shape(group: Group, split: Parallel) -> tuple[float, float]:
    """Outputs and inputs of the product on one GPU."""
    shapes = [local_shape(tensor, split) for tensor in group.members]
    return float(sum(shape.n * shape.k for shape in shapes) / shapes[0].k), float(shapes[0].k)
