"""The peak of a fine-tuning step: states that stay, and the largest of its moments, never their sum."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.specs.finetune import Layer, Loss, Shared
from planner.specs.model import ModelSpec
from planner.training.activations import VALUE_BYTES, input_bytes, layer_bytes, widest_inner
from planner.training.adapters import Targets, adapter_input_values, head_parameters, largest_matrix
from planner.training.states import States, accumulated_bytes

Array = float | NDArray[np.float64]
PHASES = ("loss", "backward", "gradients", "optimizer step")


class Pass(NamedTuple):
    """How a micro-batch runs: what is kept, what is computed again, and how the loss is taken."""

    layer: Layer
    loss: Loss
    targets: Targets | None  # None: every weight is trained
    checkpointing: str
    scores: bool  # attention keeps its score matrix
    unpacks: bool  # a quantized base is unpacked matrix by matrix


class Batch(NamedTuple):
    """Numbers of a run, scalars or arrays (R,)."""

    sequences: Array
    seq_len: Array
    accumulation: Array
    device_bytes: Array = np.inf  # of one GPU, for losses that fit themselves into what is free

    @property
    def tokens(self) -> Array:
        """Tokens of one micro-batch."""
        return self.sequences * self.seq_len


class Moments(NamedTuple):
    """Bytes of what comes and goes in a step, arrays (R,)."""

    kept: Array  # activations of the whole forward pass, or the layers' inputs under checkpointing
    layer: Array  # one layer's activations, computed again, and its gradients
    loss: Array  # logits and what the loss makes of them
    peaks: tuple[Array, Array, Array, Array]  # above the weights and states, by PHASES
    largest: Array  # the highest of these


def kept_bytes(model: ModelSpec, run: Pass, batch: Batch, shared: Shared) -> tuple[Array, Array]:
    """(kept over the whole forward pass, computed again for one layer) in bytes."""
    inputs = adapter_input_values(model, run.targets) if run.targets else 0.0
    scores = shared.score_bytes.value * batch.seq_len if run.scores else 0.0
    total, widest = layer_bytes(model, run.layer, inputs, scores)
    if run.checkpointing == "none":
        return total * batch.tokens, 0.0 * batch.tokens
    layers = model.n_layers if run.checkpointing == "full" else min(shared.offload_layers.value, model.n_layers)
    return layers * input_bytes(model) * batch.tokens, widest * batch.tokens


def chunks(loss: Loss, logits: Array, free_bytes: Array) -> Array:
    """Into how many chunks a loss cuts `logits` values so that one stays below its target."""
    if loss.target_bytes is None:
        return 1.0
    target = np.minimum(loss.target_bytes.value, loss.target_share * np.maximum(free_bytes, 1))
    wanted = loss.target_logit_bytes * logits / target
    return np.where(wanted > 1, np.ceil(wanted / loss.chunks_in) * loss.chunks_in, 1.0)


def loss_bytes(model: ModelSpec, run: Pass, batch: Batch, free_bytes: Array) -> Array:
    """Head and loss at their peak: tokens x (bytes x vocabulary / chunks + bytes x hidden), the last norm, and a
    trained head's gradients where chunks of logits add up to them.
    """
    logits = batch.tokens * (model.vocab_size if model.lm_head else 0)
    hidden = (run.loss.hidden_bytes if model.lm_head else 0) + run.layer.norm_bytes
    head = run.loss.head_gradients * VALUE_BYTES * head_parameters(model) if run.targets is None else 0
    held = run.loss.logit_bytes * logits / chunks(run.loss, logits, free_bytes)
    return held + batch.tokens * hidden * model.hidden_size + head


def working_bytes(model: ModelSpec, run: Pass, batch: Batch, shared: Shared) -> Array:
    """Gradients alive at once inside a layer's backward pass, and one unpacked matrix of a quantized base."""
    inner = shared.backward_inner.value * widest_inner(model)
    hidden = shared.backward_hidden.value * model.hidden_size
    unpacked = VALUE_BYTES * largest_matrix(model) if run.unpacks else 0
    return VALUE_BYTES * (inner + hidden) * batch.tokens + unpacked


def moments(model: ModelSpec, run: Pass, states: States, batch: Batch, shared: Shared) -> Moments:
    """Peaks above what stays: before the backward pass (all activations and the loss), in its first layer, in its
    last (all gradients, no other activations), and in the optimizer's step.

    Gradients of earlier micro-batches stand beside the first two when gradients accumulate.
    """
    kept, again = kept_bytes(model, run, batch, shared)
    layer = again + working_bytes(model, run, batch, shared)
    free = batch.device_bytes - shared.context_bytes.value - states.weights - states.adapters - kept
    loss = loss_bytes(model, run, batch, free)
    before = accumulated_bytes(states, batch.accumulation)
    peaks = (
        before + kept + loss,
        before + kept + layer,
        states.gradients + layer,
        states.gradients + states.step,
    )
    largest = np.maximum.reduce(np.broadcast_arrays(*peaks))
    return Moments(kept, layer, loss, peaks, largest)
