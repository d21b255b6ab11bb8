"""Reader of DeepSeek V4, and the hyper-connections that it shares with GLM-5.3."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from planner.catalog.hf.common import Parts, hidden_size, n_layers, outer, stack
from planner.catalog.hf.config import MAX_CONTEXT, Config
from planner.catalog.hf.mla import indexer
from planner.catalog.hf.moe import experts
from planner.specs.model import CompressedAttention, Mixer

_SPARSE, _HEAVY = 4, 128  # compress_ratios of compressed sparse and of heavily compressed attention


def residual_streams(config: Config) -> int:
    """How many residual streams there are."""
    return config.count("hc_mult", default=4, top=64)


def hyper_connections(config: Config) -> list[dict[str, Any]]:
    """Parallel residual streams: before each mixer and each ffn a projection of all streams gives the weights
    that collapse, expand and mix them."""
    streams = residual_streams(config)
    weights = streams * (streams + 2)
    wide = {"role": "other", "n": weights, "k": streams * hidden_size(config), "matmul": True}
    return [
        {"name": "hyper", "copies": 2, "per_layer": True, **wide},
        {"name": "hyper.scales", "role": "small", "n": weights + 3, "copies": 2, "per_layer": True},
    ]


def _head_connection(config: Config) -> list[dict[str, Any]]:
    """Collapses the streams before the head."""
    streams = residual_streams(config)
    return [
        {"name": "hyper_head", "role": "other", "n": streams, "k": streams * hidden_size(config), "matmul": True},
        {"name": "hyper_head.scales", "role": "small", "n": streams + 1},
    ]


def _ratios(config: Config) -> list[int]:
    """`compress_ratios`: one for each layer, then one for each prediction layer."""
    ratios, count = config.counts("compress_ratios", top=MAX_CONTEXT), n_layers(config)
    if len(ratios) not in (count, count + config.size("num_nextn_predict_layers", top=64)):
        raise config.bad("compress_ratios", f"not one entry for each of {count} layers")
    for ratio in ratios:
        if ratio not in (0, _SPARSE, _HEAVY):
            raise config.bad(
                "compress_ratios", f"with {ratio}, which is not known here (known: 0, {_SPARSE}, {_HEAVY})"
            )
    return ratios[:count]


def deepseek_v4(config: Config) -> Parts:
    """DeepSeek V4: a window, sparse and heavily compressed attention, experts in every layer, four streams."""
    if config.count("num_key_value_heads", default=1) != 1:
        raise config.unknown("num_key_value_heads", "1")
    local = CompressedAttention(
        n_heads=config.count("num_attention_heads"),
        head_dim=config.count("head_dim", default=512),
        q_lora_rank=config.count("q_lora_rank"),
        o_groups=config.count("o_groups"),
        o_lora_rank=config.count("o_lora_rank"),
        window=config.count("sliding_window", top=MAX_CONTEXT),
    )
    if local.n_heads % local.o_groups:
        raise config.bad("o_groups", f"no divisor of num_attention_heads {local.n_heads}")
    picks = indexer(config)
    picks = picks.model_copy(update={"top_k": picks.top_k * _SPARSE, "block": _SPARSE, "pooled": True})
    kinds: dict[int, Mixer] = {
        0: local,
        _SPARSE: local.model_copy(update={"ratio": _SPARSE, "indexer": picks}),
        _HEAVY: local.model_copy(update={"ratio": _HEAVY}),
    }
    ffn = experts(config, router_bias="correction")
    extras = hyper_connections(config) + _head_connection(config)
    mtp = {"mtp_layers": config.size("num_nextn_predict_layers", top=64)}
    block = stack([kinds[ratio] for ratio in _ratios(config)], [ffn] * n_layers(config))
    return outer(config) | mtp | block | {"extras": extras, "residual_streams": residual_streams(config)}


READERS: dict[str, Callable[[Config], Parts]] = {"deepseek_v4": deepseek_v4, "deepseek_ref": deepseek_v4}
