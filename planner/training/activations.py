"""What the forward pass keeps for the backward pass, per token: closed form by kind of layer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planner.specs.finetune import Layer
from planner.specs.model import (
    Attention,
    CompressedAttention,
    DenseFfn,
    Ffn,
    LatentAttention,
    LinearAttention,
    Mamba,
    Mixer,
    ModelSpec,
)

Array = float | NDArray[np.float64]

VALUE_BYTES = 2  # of the compute type, fp16 or bf16


def attention_values(mixer: Mixer) -> float:
    """Values of one token that a mixer keeps: queries, keys, values and result of softmax attention; what the
    convolution and the recurrence of a state-space layer read and write.
    """
    if isinstance(mixer, Attention):
        return (mixer.n_heads + mixer.n_kv_heads) * (mixer.head_dim + (mixer.v_head_dim or mixer.head_dim))
    if isinstance(mixer, LatentAttention):
        wide = mixer.qk_nope_head_dim + mixer.qk_rope_head_dim
        return 2 * mixer.n_heads * (wide + mixer.v_head_dim) + mixer.qk_rope_head_dim
    if isinstance(mixer, CompressedAttention):
        return 2 * (mixer.n_heads + 1) * mixer.head_dim + mixer.q_lora_rank + mixer.o_groups * mixer.o_lora_rank
    if isinstance(mixer, LinearAttention):
        keys, values = mixer.n_k_heads * mixer.k_head_dim, mixer.n_v_heads * mixer.v_head_dim
        return 2 * (2 * keys + values) + 3 * values
    assert isinstance(mixer, Mamba)
    return 2 * (mixer.inner + 2 * mixer.n_groups * mixer.state) + 3 * mixer.inner


def normed_values(mixer: Mixer) -> int:
    """Query and key values of one token that pass a norm of their own."""
    if isinstance(mixer, Attention) and mixer.qk_norm != "none":
        return (mixer.n_heads + mixer.n_kv_heads) * mixer.head_dim
    return mixer.kv_lora_rank + (mixer.q_lora_rank or 0) if isinstance(mixer, LatentAttention) else 0


def score_values(mixer: Mixer, seq_len: Array) -> Array:
    """Attention scores of one token against its sequence, all heads, where they are materialised."""
    heads = mixer.n_heads if isinstance(mixer, Attention | LatentAttention | CompressedAttention) else 0
    return heads * seq_len


def ffn_values(ffn: Ffn, layer: Layer, hidden: int) -> float:
    """Values of one token that a feed-forward block keeps; each routed copy of it also keeps its input and result."""
    copies = layer.inner_copies if ffn.gated else layer.plain_inner_copies
    if isinstance(ffn, DenseFfn):
        return copies * ffn.intermediate
    routed = ffn.top_k * (copies * ffn.intermediate + 2 * (ffn.latent or hidden))
    return routed + copies * (ffn.shared_intermediate + ffn.dense_intermediate)


def layer_bytes(model: ModelSpec, layer: Layer, adapter_inputs: float, scores_bytes: Array) -> tuple[Array, Array]:
    """Bytes per token (all layers together, the widest layer alone) that autograd keeps:
    norms x norm bytes x D + 2 (D + mixer + feed-forward + adapters' inputs) + scores.

    `adapter_inputs` are input values of a mean layer's adapters, `scores_bytes` those of one head's row.
    Ref: Korthikanti et al. (arXiv:2205.05198) section 4 for the accounting, the framework's classes for the copies.
    """
    total: Array = 0.0
    widest: Array = 0.0
    norms = model.norms_per_layer * model.hidden_size
    for run in model.layers:
        mixer = model.mixers[run.mixer] if run.mixer >= 0 else None
        values = layer.adapter_inputs * adapter_inputs
        values += attention_values(mixer) if mixer else 0
        values += ffn_values(model.ffns[run.ffn], layer, model.hidden_size) if run.ffn >= 0 else 0
        normed = norms + (normed_values(mixer) if mixer else 0)
        one = layer.norm_bytes * normed + VALUE_BYTES * values + (score_values(mixer, scores_bytes) if mixer else 0)
        total, widest = total + run.count * one, np.maximum(widest, one)
    return total, widest


def input_bytes(model: ModelSpec) -> int:
    """Bytes per token of one layer's input: all that checkpointing keeps of it."""
    return VALUE_BYTES * model.hidden_size


def widest_inner(model: ModelSpec) -> float:
    """Inner values of one token in the widest feed-forward block."""
    return max((ffn.intermediate if isinstance(ffn, DenseFfn) else _routed(ffn) for ffn in model.ffns), default=0)


def _routed(ffn: Ffn) -> float:
    assert not isinstance(ffn, DenseFfn)
    return ffn.top_k * ffn.intermediate + ffn.shared_intermediate + ffn.dense_intermediate
