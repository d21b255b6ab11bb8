"""Readers of Gemma 1 to 4 (text): tied embeddings, alternating windows, shared caches, per-layer embeddings."""

from __future__ import annotations

from typing import Any

from planner.catalog.hf.attention import attention, by_type, layer_types, window, windowed
from planner.catalog.hf.common import FULL, Parts, dense, n_layers, outer, per_layer, stack
from planner.catalog.hf.config import MAX_VOCAB, Config
from planner.errors import BadValue
from planner.specs.model import Attention, DenseFfn, Ffn, Mixer, MoeFfn


def gemma(config: Config) -> Parts:
    """Gemma 1."""
    config = config.defaults(tie_word_embeddings=True, head_dim=256)
    count = n_layers(config)
    return outer(config) | stack([attention(config)] * count, [dense(config)] * count)


def gemma2(config: Config) -> Parts:
    """Gemma 2: a window on every other layer, four norms."""
    config = config.defaults(tie_word_embeddings=True, head_dim=256, sliding_window=4096)
    block = stack(windowed(config, attention(config), 2), [dense(config)] * n_layers(config))
    return outer(config) | block | {"norms_per_layer": 4}


def gemma3(config: Config) -> Parts:
    """Gemma 3 text: five sliding layers to one full, norms on the heads. Publishers leave much to the class."""
    config = config.defaults(
        tie_word_embeddings=True,
        head_dim=256,
        num_attention_heads=8,
        num_key_value_heads=4,
        vocab_size=262208,
        max_position_embeddings=131072,
        sliding_window=4096,
    )
    pattern = config.count("sliding_window_pattern", "_sliding_window_pattern", default=6)
    block = stack(windowed(config, attention(config, qk_norm="head"), pattern), [dense(config)] * n_layers(config))
    return outer(config) | block | {"norms_per_layer": 4}


def _shared_from(config: Config) -> int:
    """The first of the last `num_kv_shared_layers` layers, which read the cache of earlier ones."""
    shared = config.size("num_kv_shared_layers")
    if shared >= n_layers(config):
        raise config.bad("num_kv_shared_layers", f"not less than the {n_layers(config)} layers")
    return n_layers(config) - shared


def _sharing(config: Config, mixers: list[Mixer]) -> list[Mixer]:
    first = _shared_from(config)
    return mixers[:first] + [mixer.model_copy(update={"shares_kv": True}) for mixer in mixers[first:]]


def _per_layer_inputs(config: Config) -> list[dict[str, Any]]:
    """Per-layer embeddings (PLE): one table for all layers, a projection of the input, a gate in each layer."""
    width, hidden = config.size("hidden_size_per_layer_input"), config.count("hidden_size")
    if not width:
        return []
    total = width * n_layers(config)
    vocab = config.count("vocab_size_per_layer_input", "vocab_size", top=MAX_VOCAB)
    return [
        {"name": "per_layer_embedding", "role": "embedding", "n": vocab, "k": total},
        {"name": "per_layer_input", "role": "other", "n": total, "k": hidden, "matmul": True},
        {"name": "per_layer_input_norm", "role": "norm", "n": width},
        {"name": "per_layer_gate", "role": "other", "n": width, "k": hidden, "per_layer": True, "matmul": True},
        {"name": "per_layer_output", "role": "other", "n": hidden, "k": width, "per_layer": True, "matmul": True},
    ]


def _intermediates(config: Config) -> list[int]:
    """`intermediate_size`: one for all layers, or a list of one for each."""
    if isinstance(config.data.get("intermediate_size"), list):
        return list(per_layer(config, "intermediate_size", config.counts("intermediate_size", low=1)))
    return [config.count("intermediate_size")] * n_layers(config)


def gemma3n(config: Config) -> Parts:
    """Gemma 3n text: four residual streams (AltUp), low-rank residuals (LAuReL), per-layer embeddings."""
    config = config.defaults(
        tie_word_embeddings=True,
        vocab_size=262400,
        vocab_size_per_layer_input=262144,
        hidden_size_per_layer_input=256,
        head_dim=256,
        sliding_window=512,
        max_position_embeddings=32768,
        laurel_rank=64,
        altup_num_inputs=4,
        num_kv_shared_layers=15,
    )
    mixers = _sharing(config, windowed(config, attention(config, qk_norm="head"), 5))
    ffns = [DenseFfn(intermediate=size) for size in _intermediates(config)]
    extras = _per_layer_inputs(config) + _altup(config)
    return outer(config) | stack(mixers, ffns) | {"norms_per_layer": 7, "extras": extras}


def _altup(config: Config) -> list[dict[str, Any]]:
    hidden, streams, rank = (
        config.count("hidden_size"),
        config.count("altup_num_inputs", top=64),
        config.count("laurel_rank"),
    )
    layer = {"per_layer": True, "matmul": True}
    others = max(streams - 1, 1)
    return [
        {"name": "laurel_left", "role": "other", "n": rank, "k": hidden, **layer},
        {"name": "laurel_right", "role": "other", "n": hidden, "k": rank, **layer},
        {"name": "altup_router", "role": "other", "n": streams, "k": hidden, **layer},
        {"name": "altup_correct", "role": "other", "n": streams, "k": streams, "per_layer": True},
        {"name": "altup_predict", "role": "other", "n": streams**2, "k": streams, "per_layer": True},
        {"name": "altup_scale", "role": "small", "n": hidden, "per_layer": True},
        {"name": "altup_project", "role": "other", "n": hidden, "k": hidden, "copies": 2 * others, "matmul": True},
    ]


def gemma4(config: Config) -> Parts:
    """Gemma 4 text: full layers with wider heads and fewer of them for K and V (or K alone), shared caches,
    per-layer embeddings, a dense MLP beside the experts."""
    config = config.defaults(
        tie_word_embeddings=True, hidden_size_per_layer_input=256, num_kv_shared_layers=0, sliding_window=512
    )
    if config.text("use_bidirectional_attention") == "all":
        raise config.unknown("use_bidirectional_attention", "vision")
    first = _shared_from(config)
    types = layer_types(config, 6)
    base = attention(config, qk_norm="head")
    mixers = by_type(config, _global(config, base), base.model_copy(update={"window": window(config)}), types)
    mixers = _overridden(config, mixers, types)
    narrow = config.count("intermediate_size")
    wide = narrow * (2 if config.flag("use_double_wide_mlp") else 1)
    dense_ffns: list[Ffn] = [DenseFfn(intermediate=narrow if i < first else wide) for i in range(n_layers(config))]
    moe = _moe(config)
    ffns = [moe] * n_layers(config) if moe else dense_ffns
    extras = _per_layer_inputs(config)
    norms = 4 + bool(extras) + (3 if moe else 0)
    if moe:
        scales = config.count("hidden_size") + moe.n_experts
        extras.append({"name": "moe.router_scales", "role": "small", "n": scales, "per_layer": True})
    return outer(config) | stack(_sharing(config, mixers), ffns) | {"norms_per_layer": norms, "extras": extras}


def _global(config: Config, base: Attention) -> Attention:
    """The full layers' attention."""
    same = config.flag("attention_k_eq_v")
    kv_heads = config.count("num_global_key_value_heads", default=base.n_kv_heads) if same else base.n_kv_heads
    head_dim = config.count("global_head_dim", default=512)
    return base.model_copy(update={"head_dim": head_dim, "n_kv_heads": kv_heads, "k_is_v": same})


def _overridden(config: Config, mixers: list[Mixer], types: list[str]) -> list[Mixer]:
    """`per_layer_config` states head_dim and key-value heads of single layers (newer transformers)."""
    overrides = config.sub("per_layer_config")
    for key in overrides.data:
        if not key.isdigit() or int(key[:9]) >= len(mixers):
            raise BadValue(f"{overrides.where} names layer {key[:40]!r} of {len(mixers)}")
        layer, stated = int(key), overrides.sub(key)
        known = {"head_dim", "num_key_value_heads"}
        if set(stated.data) - known:
            raise BadValue(
                f"{stated.where} holds {sorted(set(stated.data) - known)[0][:60]!r}, which is not known here"
            )
        mixer = mixers[layer]
        if isinstance(mixer, Attention) and types[layer] == FULL:
            mixers[layer] = mixer.model_copy(
                update={
                    "head_dim": stated.count("head_dim", default=mixer.head_dim),
                    "n_kv_heads": stated.count("num_key_value_heads", default=mixer.n_kv_heads),
                }
            )
    return mixers


def _moe(config: Config) -> MoeFfn | None:
    if not config.flag("enable_moe_block"):
        return None
    return MoeFfn(
        n_experts=config.count("num_experts", top=4096),
        top_k=config.count("top_k_experts", top=4096),
        intermediate=config.count("moe_intermediate_size", "expert_intermediate_size"),
        dense_intermediate=config.count("intermediate_size"),
    )
