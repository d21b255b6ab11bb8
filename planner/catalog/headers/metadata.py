"""Metadata of a GGUF file -> the settings that the same model's config.json would state.

llama.cpp's converter maps every family to the same keys; this is the way back. Flags that the metadata leave out
(biases, norms on the heads, tied embeddings, which layers are recurrent) follow from the tensors that are there.
Ref: conversion/*.py and src/models/*.cpp of ggml-org/llama.cpp
"""

from __future__ import annotations

import re
from typing import Any

from planner.catalog.headers.records import Header, Value
from planner.catalog.hf.config import MAX_CONTEXT, MAX_EXPERTS, MAX_LAYERS, Config
from planner.errors import BadValue

Settings = dict[str, Any]
SLIDING, FULL, LINEAR = "sliding_attention", "full_attention", "linear_attention"
_SIGMOID = 2  # expert_gating_func
_LAYER = re.compile(r"blk\.(\d{1,4})\.(.+)")


class Metadata:
    """Metadata of one architecture (keys without its name in front) and the shapes of the file's tensors."""

    def __init__(self, header: Header, arch: str) -> None:
        self.where, self.arch, prefix = header.where, arch, f"{arch}."
        own = {key[len(prefix) :]: value for key, value in header.metadata.items() if key.startswith(prefix)}
        self.own = Config({key: _plain(value) for key, value in own.items()}, f"{header.where}: {arch}")
        self.shapes = {tensor.name: tensor.shape for tensor in header.tensors}
        self.in_layers: dict[str, set[int]] = {}
        for name in self.shapes:
            found = _LAYER.match(name)
            if found:
                self.in_layers.setdefault(found[2], set()).add(int(found[1]))
        self.n_mtp = self.own.size("nextn_predict_layers", top=64)
        self.n_layers = self.own.count("block_count", top=MAX_LAYERS) - self.n_mtp
        if self.n_layers < 1:
            raise self.own.bad("block_count", f"of which {self.n_mtp} are for prediction; none is left")

    def any(self, *names: str) -> bool:
        """Whether some layer holds one of these tensors."""
        return any(name in self.in_layers for name in names)

    def width(self, name: str, axis: int = 0) -> int:
        """A size of a tensor that must be there, along an axis as torch counts them."""
        if name not in self.shapes or len(self.shapes[name]) <= axis:
            raise BadValue(f"{self.where}: tensor {name} is missing; it states the size of {self.arch}")
        return self.shapes[name][axis]

    def layers(self, field: str, top: int = 2**20) -> list[int]:
        """A value for each layer, from one number or from an array."""
        value = self.own.data.get(field)
        if isinstance(value, list):
            values = self.own.counts(field, top=top)
            if len(values) < self.n_layers:
                raise self.own.bad(field, f"not one entry for each of {self.n_layers} layers")
            return values[: self.n_layers]
        return [self.own.count(field, top=top, low=0)] * self.n_layers

    def one(self, field: str) -> int:
        """A number, or the largest of an array (layers without any state 0)."""
        return max(self.layers(field))


def _plain(value: Value) -> Any:
    return list(value) if isinstance(value, tuple) else value


def common(m: Metadata) -> Settings:
    """Settings that every architecture has."""
    own, hidden = m.own, m.own.count("embedding_length")
    settings: Settings = {
        "architectures": [m.arch],
        "num_hidden_layers": m.n_layers,
        "num_nextn_predict_layers": m.n_mtp,
        "hidden_size": hidden,
        "vocab_size": m.width("token_embd.weight"),
        "max_position_embeddings": own.count("context_length", top=MAX_CONTEXT),
        "tie_word_embeddings": "output.weight" not in m.shapes,
        "attention_bias": m.any("attn_q.bias", "attn_qkv.bias"),
        "mlp_bias": m.any("ffn_up.bias"),
        "use_qk_norm": m.any("attn_q_norm.weight"),
        "mamba_ssm_dtype": "float32",  # llama.cpp keeps recurrent states so
        "mamba_ssm_cache_dtype": "float32",
    }
    if own.has("attention.head_count"):
        heads = m.one("attention.head_count")
        width = own.count("attention.key_length", default=max(hidden // max(heads, 1), 1))
        kv_heads = m.one("attention.head_count_kv") if own.has("attention.head_count_kv") else heads
        settings |= {
            "num_attention_heads": heads,
            "head_dim": width,
            "num_key_value_heads": kv_heads or _kv_heads(m, width),
        }
    if own.has("feed_forward_length"):
        settings["intermediate_size"] = max(m.one("feed_forward_length"), 1)
    return settings | window(m) | experts(m)


def _kv_heads(m: Metadata, width: int) -> int:
    """Key-value heads by the width of a key projection, where the metadata count none."""
    layer = min(m.in_layers.get("attn_k.weight", {0}))
    name = f"blk.{layer}.attn_k.weight"
    return m.width(name) // width if name in m.shapes else 1


def window(m: Metadata) -> Settings:
    """Sliding windows: their length, and which layers have one: a flag for each, or every n-th has none."""
    window = m.own.size("attention.sliding_window", top=MAX_CONTEXT)
    settings: Settings = {"sliding_window": window or None}
    pattern = m.own.data.get("attention.sliding_window_pattern")
    if isinstance(pattern, list):
        if len(pattern) < m.n_layers:
            raise m.own.bad("attention.sliding_window_pattern", f"not one entry for each of {m.n_layers} layers")
        settings["layer_types"] = [SLIDING if flag else FULL for flag in pattern[: m.n_layers]]
    elif pattern is not None:
        settings["sliding_window_pattern"] = m.own.count("attention.sliding_window_pattern", top=MAX_LAYERS)
    return settings


def experts(m: Metadata) -> Settings:
    """Settings of a mixture of experts."""
    count = m.own.size("expert_count", top=MAX_EXPERTS)
    if not count:
        return {}
    inner = m.own.size("expert_feed_forward_length") or m.one("feed_forward_length")
    used = m.own.count("expert_used_count", top=MAX_EXPERTS)
    settings: Settings = {"num_experts": count, "num_local_experts": count, "num_experts_per_tok": used}
    settings |= {"moe_intermediate_size": inner, "n_shared_experts": m.own.size("expert_shared_count", top=MAX_EXPERTS)}
    return settings | {
        "first_k_dense_replace": min(m.in_layers.get("ffn_gate_inp.weight", {0})),
        "scoring_func": "sigmoid" if m.own.size("expert_gating_func") == _SIGMOID else "softmax",
    }
