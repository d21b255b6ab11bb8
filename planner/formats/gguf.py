"""Bytes of a model in a GGUF file type: llama-quantize gives every tensor its own block type, by its
place in the layer, the layer's place in the stack, and the shape of the model.

Ref: src/llama-quant.cpp of ggml-org/llama.cpp; block sizes as gguf-py's GGML_QUANT_SIZES.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.params import Tensor, tensors
from planner.specs.formats import GgmlType, GgufMix, MixRule
from planner.specs.model import Attention, LatentAttention, ModelSpec, MoeFfn, Role

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
Category = Literal["v", "k", "q", "o", "up", "gate", "down", "expert", "other"]

CATEGORIES: dict[str, Category] = {  # llama.cpp's categories by our tensors' last name
    "attention.v": "v",
    "attention.k": "k",
    "attention.q": "q",
    "attention.o": "o",
    "linear.q": "v",  # linear attention's q, k and v are one attn_qkv, which counts as an attn_v
    "linear.k": "v",
    "linear.v": "v",
}
TOGETHER = (
    "phi3",
    "phi-msft",
    "gpt2",
    "gpt_neox",
    "mpt",
    "falcon",
)  # model types whose q, k and v are one attn_qkv as well
FFN_CATEGORIES: dict[str, Category] = {"up": "up", "gate": "gate", "down": "down"}
KEPT = ("per_layer_input",)  # matrices that llama-quantize leaves as they are
PLAIN_ROLES = (Role.NORM, Role.BIAS, Role.SMALL, Role.ROUTER, Role.POSITION)  # kept in F32 by the converter


class Shape(NamedTuple):
    """What the rules ask of a model."""

    n_layers: int
    gqa: int  # query heads per KV head of the first attention layers
    n_experts: int
    v_layers: Ints  # layers that hold an attn_v, in order


def _shape(model: ModelSpec) -> Shape:
    attention = next((mixer for mixer in model.mixers if isinstance(mixer, Attention)), None)
    experts = next((ffn.n_experts for ffn in model.ffns if isinstance(ffn, MoeFfn)), 0)
    v_layers = {layer for tensor in tensors(model) if category(tensor, model) == "v" for layer in tensor.layers}
    gqa = attention.n_heads // attention.n_kv_heads if attention else 1
    return Shape(model.n_layers, gqa, experts, np.array(sorted(v_layers), dtype=np.int64))


def category(tensor: Tensor, model: ModelSpec) -> Category:
    """The tensor's place in a layer, as llama-quantize names it."""
    if tensor.op == "attention.qkv" and model.model_type in TOGETHER:
        return "v"
    prefix, _, last = tensor.name.rpartition(".")
    if prefix in ("mlp", "experts", "shared"):
        return FFN_CATEGORIES.get(last, "other")
    return CATEGORIES.get(tensor.name, "other")


def _holds(condition: str, shape: Shape) -> bool:
    """Whether a rule's condition on the model holds. An 80-layer GQA model without experts is a "70B"."""
    return {
        "gqa_4": shape.gqa >= 4,
        "gqa_below_4": shape.gqa < 4,
        "moe_4": shape.n_experts >= 4,
        "moe_below_4": shape.n_experts < 4,
        "moe_8": shape.n_experts == 8,
        "not_moe_8": shape.n_experts != 8,
        "layers_80": shape.n_layers == 80 and shape.gqa > 1 and shape.n_experts == 0,
    }[condition]


def _in_layers(layers: str, i: Ints, n: int) -> Mask:
    """Which of the running indices `i` of `n` tensors a rule takes; `more` is llama.cpp's use_more_bits."""
    first, last = i < n // 8, i >= 7 * n // 8
    masks: dict[str, Mask] = {
        "all": np.ones_like(i, dtype=bool),
        "first_2": i < 2,
        "first_4": i < 4,
        "first_16th": i < n // 16,
        "first_8th": first,
        "middle": ~first & ~last,
        "more": first | last | ((i - n // 8) % 3 == 2),
    }
    return masks[layers]


def _applies(rule: MixRule, place: Category, expert: bool, shape: Shape) -> bool:
    here = place in rule.tensors or (expert and "expert" in rule.tensors)
    return here and all(_holds(condition, shape) for condition in rule.when)


def row_bytes(block: GgmlType, k: int) -> float:
    """Bytes of one row of k values, in the first fallback type whose blocks divide it."""
    while k % block.elements and block.fallback is not None:
        block = block.fallback
    return k / block.elements * block.block_bytes


def _stack_bytes(tensor: Tensor, mix: GgufMix, place: Category, shape: Shape) -> float:
    """All copies of a matrix inside the stack: layer by layer, the first rule that holds gives its type."""
    expert = tensor.role is Role.EXPERT
    layers = np.array(tensor.layers, dtype=np.int64)
    index, count = layers, shape.n_layers
    if place == "v":
        index, count = np.searchsorted(shape.v_layers, layers), len(shape.v_layers)
    left = np.ones_like(layers, dtype=bool)
    total = 0.0
    for rule in mix.rules:
        if _applies(rule, place, expert, shape):
            taken = left & _in_layers(rule.layers, index, count)
            left &= ~taken
            total += int(taken.sum()) * row_bytes(rule.type, tensor.k)
    total += int(left.sum()) * row_bytes(mix.base, tensor.k)
    return total * tensor.n * tensor.copies


def _latent_bytes(tensor: Tensor, mix: GgufMix, model: ModelSpec) -> float:
    """The key and value up-projections of latent attention stand apart, the keys' one transposed."""
    mixer = next(m for m in model.mixers if isinstance(m, LatentAttention))
    block = next((rule.type for rule in mix.rules if "expert" in rule.tensors), mix.base)
    keys = mixer.n_heads * tensor.k * row_bytes(block, mixer.qk_nope_head_dim)
    values = mixer.n_heads * mixer.v_head_dim * row_bytes(block, tensor.k)
    return (keys + values) * tensor.matrices


def _outer_type(tensor: Tensor, mix: GgufMix, model: ModelSpec) -> GgmlType:
    """Type of embedding and head: a tied embedding is the head."""
    tied = model.tie_embeddings or not model.lm_head
    if tensor.role is Role.EMBEDDING and not tied:
        return mix.embedding
    return mix.odd_output if tensor.k % mix.base.elements else mix.output


def _bytes_of(tensor: Tensor, mix: GgufMix, model: ModelSpec, shape: Shape) -> float:
    if tensor.k == 1 or tensor.role in PLAIN_ROLES:
        return tensor.numel * float(mix.plain.block_bytes)
    if tensor.role is Role.VISION or tensor.name in KEPT:
        return tensor.numel * float(mix.half.block_bytes)
    if tensor.role in (Role.EMBEDDING, Role.LM_HEAD):
        return tensor.matrices * tensor.n * row_bytes(_outer_type(tensor, mix, model), tensor.k)
    if tensor.name == "attention.kv_b":
        return _latent_bytes(tensor, mix, model)
    if not tensor.layers:
        return tensor.matrices * tensor.n * row_bytes(mix.base, tensor.k)
    return _stack_bytes(tensor, mix, category(tensor, model), shape)


def gguf_tensor_bytes(model: ModelSpec, mix: GgufMix) -> NDArray[np.float64]:
    """Bytes of all copies of each tensor of `tensors(model)`, shape (T,), without the file's metadata."""
    shape = _shape(model)
    return np.array([_bytes_of(tensor, mix, model, shape) for tensor in tensors(model)])
