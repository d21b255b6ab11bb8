"""The image encoder: bidirectional attention within an image, dense layers over all patches.

Its weights are the model's VISION tensors; projectors count as part of it. Engines run it on every GPU of a
tensor-parallel group alike or shard it; here it is replicated, the slower of the two.
"""

from __future__ import annotations

import numpy as np

from planner.ops.records import Batch, Op, OpKind, Slot, Widths
from planner.params import tensors
from planner.specs.model import ModelSpec, Role

PRODUCTS_PER_LAYER = 4  # qkv, output, and two of the MLP


def vision_ops(model: ModelSpec, batch: Batch, widths: Widths) -> list[Op]:
    """Two operations: all matrix products (mean of each), and attention per layer."""
    vision = model.vision
    if vision is None:
        return []
    seeing = (pair for pair in enumerate(tensors(model)) if pair[1].role is Role.VISION)
    kept = [(index, tensor) for index, tensor in seeing if not tensor.name.startswith("audio.")]
    weights = sum(tensor.numel for _, tensor in kept)
    resident = sum(widths.tensor_bytes[index] for index, _ in kept)
    kernels = vision.n_layers * PRODUCTS_PER_LAYER
    patches = batch.image_patches
    width = np.sqrt(weights / kernels)
    moved = resident / kernels + 2 * patches * width * widths.activation
    busy = np.sign(patches)
    gemm = Op(
        "vision.gemm",
        OpKind.GEMM,
        Slot.OTHER_GEMM,
        kernels * busy,
        2 * patches * weights / kernels,
        moved,
        patches,
        width,
        width,
    )
    pairs = patches * batch.patches_per_image
    attention = Op(
        "vision.attention",
        OpKind.ATTENTION,
        Slot.PREFILL,
        vision.n_layers * busy,
        2 * 2 * pairs * vision.hidden,
        2 * 2 * patches * vision.hidden * widths.activation,
        patches,
        vision.n_heads,
        np.maximum(batch.patches_per_image, 1.0),
    )
    return [gemm, attention]
