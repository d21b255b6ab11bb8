"""Every weight tensor that an architecture implies: the one list from which parameter counts, bytes in a
format, bytes per GPU and the matrix products of a forward pass are all derived.

Counts follow the publisher's class in transformers: tied embeddings once, multi-token-prediction layers
and buffers (router correction biases, rotary tables) left out.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate

from planner.params.attention import attention_tensors, latent_tensors
from planner.params.compressed import compressed_tensors
from planner.params.ffn import dense_tensors, moe_tensors
from planner.params.recurrent import linear_tensors, mamba_tensors
from planner.params.tensor import Shard, Tensor, bias_of, with_bias
from planner.specs.model import (
    Attention,
    CompressedAttention,
    DenseFfn,
    ExtraTensor,
    Ffn,
    LatentAttention,
    LinearAttention,
    Mixer,
    ModelSpec,
    Role,
)

__all__ = [
    "Shard",
    "Tensor",
    "active_parameters",
    "bias_of",
    "ffn_layers",
    "mixer_layers",
    "parameters",
    "parameters_by_role",
    "tensors",
    "with_bias",
]


def _spans(model: ModelSpec) -> list[tuple[int, int, range]]:
    """(mixer, ffn, layer indices) of each run of equal layers."""
    ends = list(accumulate(layer.count for layer in model.layers))
    return [(run.mixer, run.ffn, range(end - run.count, end)) for run, end in zip(model.layers, ends, strict=True)]


@lru_cache(maxsize=4096)
def mixer_layers(model: ModelSpec, index: int) -> tuple[int, ...]:
    """Indices of the layers that hold mixer `index`."""
    return tuple(layer for mixer, _, span in _spans(model) if mixer == index for layer in span)


@lru_cache(maxsize=4096)
def ffn_layers(model: ModelSpec, index: int) -> tuple[int, ...]:
    """Indices of the layers that hold ffn `index`."""
    return tuple(layer for _, ffn, span in _spans(model) if ffn == index for layer in span)


def _mixer_tensors(mixer: Mixer, model: ModelSpec, layers: tuple[int, ...]) -> list[Tensor]:
    if isinstance(mixer, Attention):
        return attention_tensors(mixer, model, layers)
    if isinstance(mixer, LatentAttention):
        return latent_tensors(mixer, model, layers)
    if isinstance(mixer, CompressedAttention):
        return compressed_tensors(mixer, model, layers)
    if isinstance(mixer, LinearAttention):
        return linear_tensors(mixer, model, layers)
    return mamba_tensors(mixer, model, layers)


def _ffn_tensors(ffn: Ffn, model: ModelSpec, layers: tuple[int, ...]) -> list[Tensor]:
    return dense_tensors(ffn, model, layers) if isinstance(ffn, DenseFfn) else moe_tensors(ffn, model, layers)


def _norm_tensors(name: str, model: ModelSpec, layers: tuple[int, ...], copies: int, width: int) -> list[Tensor]:
    if model.norm == "none" or not copies:
        return []
    scale = Tensor(name, Role.NORM, "", width, 1, layers, copies=copies, active=copies)
    return [scale, scale._replace(name=f"{name}.bias")] if model.norm == "layer" else [scale]


def _outer_tensors(model: ModelSpec) -> list[Tensor]:
    """Embedding, head, and the norms outside and inside the stack.

    A tied embedding is one tensor that also runs as the head; a model without a head (an encoder) only
    looks it up.
    """
    width = model.embedding_size or model.hidden_size
    head_op = "lm_head" if model.tie_embeddings and model.lm_head else ""
    outer = [Tensor("embedding", Role.EMBEDDING, head_op, model.vocab_size, width, (), shard=Shard.VOCAB)]
    if model.lm_head and not model.tie_embeddings:
        outer.append(Tensor("lm_head", Role.LM_HEAD, "lm_head", model.vocab_size, width, (), shard=Shard.VOCAB))
    if model.lm_head and model.lm_head_bias:
        outer.append(Tensor("lm_head.bias", Role.BIAS, "", model.vocab_size, 1, (), shard=Shard.VOCAB))
    stack = tuple(range(model.n_layers))
    outer += _norm_tensors("norm", model, stack, model.norms_per_layer, model.hidden_size)
    outer += _norm_tensors("final_norm", model, (), int(model.final_norm), model.hidden_size)
    return outer + _norm_tensors("embedding_norm", model, (), int(model.embedding_norm), width)


def _extra_tensors(extra: ExtraTensor, model: ModelSpec) -> list[Tensor]:
    layers = tuple(range(model.n_layers)) if extra.per_layer else ()
    op = extra.name if extra.matmul else ""
    active = 0 if extra.role is Role.EMBEDDING else extra.copies  # a token looks up single rows
    tensor = Tensor(extra.name, extra.role, op, extra.n, extra.k, layers, copies=extra.copies, active=active)
    if extra.role is Role.EMBEDDING:
        tensor = tensor._replace(shard=Shard.VOCAB)
    return with_bias([tensor], extra.bias)


@lru_cache(maxsize=512)
def tensors(model: ModelSpec) -> tuple[Tensor, ...]:
    """Every weight tensor of the architecture, outer ones first, then by mixer and by ffn."""
    found = _outer_tensors(model)
    for index, mixer in enumerate(model.mixers):
        found += _mixer_tensors(mixer, model, mixer_layers(model, index))
    for index, ffn in enumerate(model.ffns):
        found += _ffn_tensors(ffn, model, ffn_layers(model, index))
    return tuple(found + [tensor for extra in model.extras for tensor in _extra_tensors(extra, model)])


def parameters(model: ModelSpec) -> int:
    """Parameters in total: tied embeddings once, multi-token-prediction layers left out."""
    return sum(tensor.numel for tensor in tensors(model))


def active_parameters(model: ModelSpec) -> float:
    """Parameters that one generated token uses: of the experts those it is routed to, no image encoder."""
    return sum(tensor.active_numel for tensor in tensors(model) if tensor.role is not Role.VISION)


def parameters_by_role(model: ModelSpec) -> dict[Role, int]:
    """Parameters by class of tensor."""
    counts: dict[Role, int] = {}
    for tensor in tensors(model):
        counts[tensor.role] = counts.get(tensor.role, 0) + tensor.numel
    return counts
