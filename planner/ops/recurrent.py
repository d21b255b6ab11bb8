"""Linear attention and state spaces: a fixed state per sequence, read and written by every decode step.

Prefill runs in chunks: within a chunk every pair of tokens meets, between chunks only the state passes.
Ref: gated delta networks (flash-linear-attention), Mamba-2 state-space duality.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from planner.arrays import PerRow
from planner.collectives import Parallel
from planner.ops.records import Op, OpKind, Slot, Widths, Work
from planner.specs.model import LinearAttention, Mamba

STATE_BYTES = {"fp32": 4.0, "bf16": 2.0}
LINEAR_CHUNK = 64  # tokens; flash-linear-attention's kernels
MAMBA_CHUNK = 256  # tokens; chunk_size of the published Mamba-2 configs
DELTA_STEP = 7  # FLOPs per state value of a delta rule: decay, read, update, query
PLAIN_STEP = 5  # without the delta rule's read
GATED_VALUES = 4  # of a short convolution, per channel: both gates and the input in, the product out
SCAN_STEP = 6  # of a selective scan: decay, input, sum, query


class State(NamedTuple):
    """One recurrent kind on one GPU."""

    values: PerRow  # of a sequence's state
    state_bytes: PerRow  # of a sequence, convolution included
    step_flops: PerRow  # one token of decode
    chunk_flops: PerRow  # one token of prefill
    token_bytes: PerRow  # inputs and outputs of one token
    chunk: int  # tokens


def linear_state(mixer: LinearAttention, widths: Widths, parallel: Parallel) -> State:
    """A matrix [k_dim, v_dim] per value head."""
    group = parallel.attention_group
    heads = mixer.n_v_heads / np.minimum(group, mixer.n_v_heads)
    k_heads = mixer.n_k_heads / np.minimum(group, mixer.n_k_heads)
    values = heads * mixer.k_head_dim * mixer.v_head_dim
    inputs = 2 * k_heads * mixer.k_head_dim + heads * mixer.v_head_dim
    convolution = inputs * max(mixer.conv_width - 1, 0) * widths.activation
    delta = mixer.is_delta_rule
    intra = 2 * heads * LINEAR_CHUNK * (mixer.k_head_dim + mixer.v_head_dim)
    return State(
        values,
        values * STATE_BYTES[mixer.state_dtype] + convolution,
        values * (DELTA_STEP if delta else PLAIN_STEP),
        2 * 2 * values + intra * (2 if delta else 1),  # a delta rule also solves for its updates
        (inputs + heads * mixer.v_head_dim) * widths.activation,
        LINEAR_CHUNK,
    )


def convolution_state(mixer: LinearAttention, widths: Widths, parallel: Parallel) -> State:
    """A gated short convolution: the last inputs of each channel, `conv_width` taps and a gate on either side."""
    channels = mixer.n_v_heads * mixer.v_head_dim / np.minimum(parallel.attention_group, mixer.n_v_heads)
    kept = channels * max(mixer.conv_width - 1, 1)
    flops = channels * (2 * mixer.conv_width + 2)
    return State(
        kept, kept * widths.activation, flops, flops, GATED_VALUES * channels * widths.activation, LINEAR_CHUNK
    )


def mamba_state(mixer: Mamba, widths: Widths, parallel: Parallel) -> State:
    """`state` values per channel. Version 1 scans token by token, version 2 multiplies chunk by chunk."""
    group = parallel.attention_group
    inner = mixer.inner / group
    values = inner * mixer.state
    shared = 2 * mixer.n_groups / np.minimum(group, mixer.n_groups) * mixer.state
    convolution = (inner + shared) * (mixer.conv_width - 1) * widths.activation
    chunked = 2 * 2 * values + MAMBA_CHUNK * (shared + 2 * inner)
    return State(
        values,
        values * STATE_BYTES[mixer.state_dtype] + convolution,
        values * SCAN_STEP,
        chunked if mixer.version == 2 else values * SCAN_STEP,
        (2 * inner + shared) * widths.activation,
        MAMBA_CHUNK,
    )


def recurrent_state(mixer: LinearAttention | Mamba, widths: Widths, parallel: Parallel) -> State:
    """The state of any kind."""
    if isinstance(mixer, LinearAttention) and mixer.rule == "short_conv":
        return convolution_state(mixer, widths, parallel)
    if isinstance(mixer, LinearAttention):
        return linear_state(mixer, widths, parallel)
    return mamba_state(mixer, widths, parallel)


class Unfused(NamedTuple):
    """By how much the graph of a delta rule's update exceeds one kernel: more kernels, more passes over the state."""

    kernels: float = 0.0
    passes: float = 0.0


def unfused_op(state: State, unfused: Unfused, work: Work, layers: int) -> Op:
    """Element-wise kernels of a delta rule's update beside its own, for every generated token."""
    tokens = work.decode * work.decode_tokens
    moved = unfused.passes * tokens * state.state_bytes / max(unfused.kernels, 1.0)
    count = layers * unfused.kernels * np.sign(work.decode)
    return Op("recurrent.unfused", OpKind.RECURRENT, Slot.ELEMENTWISE, count, 0.0, moved, tokens, state.values, 1.0)


def decode_step_op(state: State, work: Work, layers: int) -> Op:
    """Every sequence's state is read once, and written after each of its tokens."""
    count = layers * np.sign(work.decode)
    tokens = work.decode * work.decode_tokens
    moved = (work.decode + tokens) * state.state_bytes + tokens * state.token_bytes
    flops = tokens * state.step_flops
    return Op("recurrent.decode", OpKind.RECURRENT, Slot.RECURRENT, count, flops, moved, work.decode, state.values, 1.0)


def prefill_scan_op(state: State, work: Work, layers: int) -> Op:
    """Chunk by chunk; the state between chunks is written and read again."""
    count = layers * np.sign(work.prefill)
    moved = work.prefill * (state.token_bytes + 2 * state.state_bytes / state.chunk)
    flops = work.prefill * state.chunk_flops
    return Op(
        "recurrent.prefill", OpKind.RECURRENT, Slot.RECURRENT, count, flops, moved, work.prefill, state.values, 1.0
    )
