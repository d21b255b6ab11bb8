"""Readers of models with multi-head latent attention: DeepSeek V2 and V3, Kimi K2, GLM-5, Mistral 4, LongCat."""

from __future__ import annotations

from typing import Any

from planner.catalog.hf.common import Parts, dense, kinds, n_layers, outer, per_layer, stack
from planner.catalog.hf.config import MAX_CONTEXT, MAX_EXPERTS, MAX_LAYERS, Config
from planner.catalog.hf.moe import experts, mlp_types
from planner.specs.model import DenseFfn, Ffn, Indexer, LatentAttention, Mixer

_INDEXED = ("indexed_attention", "deepseek_sparse_attention")


def latent(config: Config, **changes: Any) -> LatentAttention:
    """Latent attention from the common field names. A `q_lora_rank` of null is a full query projection."""
    mixer = LatentAttention(
        n_heads=config.count("num_attention_heads"),
        q_lora_rank=config.count("q_lora_rank") if config.has("q_lora_rank") else None,
        kv_lora_rank=config.count("kv_lora_rank"),
        qk_nope_head_dim=config.size("qk_nope_head_dim"),
        qk_rope_head_dim=config.size("qk_rope_head_dim"),
        v_head_dim=config.count("v_head_dim"),
        bias=config.flag("attention_bias"),
    )
    return mixer.model_copy(update=changes)


def _class_rank(config: Config, rank: int) -> Config:
    """`q_lora_rank` as the class has it when the config leaves it out; null stays null."""
    return config if "q_lora_rank" in config.data else config.merged(q_lora_rank=rank)


def indexer(config: Config) -> Indexer:
    """The indexer of DeepSeek sparse attention."""
    return Indexer(
        n_heads=config.count("index_n_heads"),
        head_dim=config.count("index_head_dim"),
        top_k=config.count("index_topk", top=MAX_CONTEXT),
    )


def indexed(config: Config, base: LatentAttention, types: list[str]) -> list[Mixer]:
    """One mixer a layer: `full` layers run the indexer, `shared` ones take the picks of the last full one."""
    kinds(config, "layer_types", config.texts("layer_types") or [_INDEXED[0]] * n_layers(config), _INDEXED)
    full = base.model_copy(update={"indexer": indexer(config)})
    shared = base.model_copy(update={"indexer": indexer(config).model_copy(update={"shared": True})})
    return [full if kind == "full" else shared for kind in kinds(config, "indexer_types", types, ("full", "shared"))]


def _indexer_types(config: Config) -> list[str]:
    """Indexer mode of each layer: a list, letters F and S, or every `index_topk_freq`-th layer."""
    if config.has("indexer_types"):
        return config.texts("indexer_types")
    if config.has("index_topk_pattern"):
        return [{"F": "full", "S": "shared"}.get(letter, letter) for letter in config.text("index_topk_pattern")]
    freq, offset = config.count("index_topk_freq", default=1), config.count("index_skip_topk_offset", default=2, low=0)
    return ["shared" if max(i - offset + 1, 0) % freq else "full" for i in range(n_layers(config))]


def _ffns(config: Config) -> list[Ffn]:
    ffn = experts(config, router_bias="correction" if config.text("scoring_func") != "softmax" else "none")
    freq = config.count("moe_layer_freq", default=1)
    if freq != 1:
        raise config.unknown("moe_layer_freq", "1")
    return mlp_types(config, ffn, dense(config))


def _mtp(config: Config) -> Parts:
    return {"mtp_layers": config.size("num_nextn_predict_layers", top=64)}


def deepseek(config: Config) -> Parts:
    """DeepSeek V2, V3, R1 and Kimi K2."""
    config = _class_rank(config, 1536)
    return outer(config) | _mtp(config) | stack([latent(config)] * n_layers(config), _ffns(config))


def deepseek_v32(config: Config) -> Parts:
    """DeepSeek V3.2: V3 with sparse attention picked by an indexer in every layer."""
    mixers = indexed(config, latent(config), ["full"] * n_layers(config))
    return outer(config) | _mtp(config) | stack(mixers, _ffns(config))


def glm_dsa(config: Config) -> Parts:
    """GLM-5: DeepSeek V3.2 whose layers may share their picks."""
    mixers = indexed(config, latent(config), _indexer_types(config))
    return outer(config) | _mtp(config) | stack(mixers, _ffns(config))


def glm_lite(config: Config) -> Parts:
    """GLM-4.7 Flash: latent attention, the first layer dense."""
    config = _class_rank(config.defaults(first_k_dense_replace=1, n_shared_experts=1), 768)
    return outer(config) | _mtp(config) | stack([latent(config)] * n_layers(config), _ffns(config))


def mistral4(config: Config) -> Parts:
    """Mistral Small 4: latent attention and experts in every layer."""
    config = _class_rank(config, 1024)
    ffns = mlp_types(config, experts(config), dense(config))
    return outer(config) | stack([latent(config)] * n_layers(config), ffns)


def mistral_large4(config: Config) -> Parts:
    """Mistral Large 4: sparse latent attention; every fourth layer has no rotary part; learned softmax scales."""
    count = n_layers(config)
    sources = config.counts("kv_source_layers", top=MAX_LAYERS)
    if sources and sources != list(range(count)):
        raise config.unknown("kv_source_layers", "a cache of its own in every layer")
    rotary = config.counts("no_rope_layers", top=1) or [int((layer + 1) % 4 != 0) for layer in range(count)]
    picks = indexer(config)
    scales = 2 * (config.count("num_attention_heads") + config.count("hidden_size") + picks.n_heads)
    base = latent(config.defaults(q_lora_rank=None), small=scales)
    rope = base.qk_rope_head_dim
    plain = base.model_copy(update={"qk_nope_head_dim": base.qk_nope_head_dim + rope, "qk_rope_head_dim": 0})
    types = _indexer_types(config)
    pairs = zip(indexed(config, base, types), indexed(config, plain, types), strict=True)
    flags = per_layer(config, "no_rope_layers", rotary)
    mixers = [with_rope if flag else without for flag, (with_rope, without) in zip(flags, pairs, strict=True)]
    return outer(config) | stack(mixers, mlp_types(config, experts(config), dense(config)))


def longcat(config: Config) -> Parts:
    """LongCat Flash: two attentions and two MLPs in a layer, the experts beside the first MLP.

    A layer is read as two: attention, MLP and experts; attention and MLP.
    """
    doubled = config.merged(num_hidden_layers=2 * config.count("num_layers", "num_hidden_layers", top=MAX_LAYERS // 2))
    width = config.count("ffn_hidden_size")
    zero = config.size("zero_expert_num", top=MAX_EXPERTS)
    ffn = experts(config, zero_experts=zero, dense_intermediate=width, router_bias="correction")
    mlp = DenseFfn(intermediate=width)
    ffns: list[Ffn] = [mlp if layer % 2 else ffn for layer in range(n_layers(doubled))]
    return outer(doubled) | stack([latent(config)] * n_layers(doubled), ffns)


def hy_v4(config: Config) -> Parts:
    """Hunyuan 4: gated sparse latent attention with sinks, residual streams mixed by hyper-connections."""
    config = config.defaults(first_k_dense_replace=1, hc_mult=4)
    types = config.texts("indexer_types") or [
        "shared" if i and (i - 1) % 4 else "full" for i in range(n_layers(config))
    ]
    mixers = indexed(config, latent(config, sinks=True, output_gate="full"), types)
    streams, hidden = config.count("hc_mult", top=64), config.count("hidden_size")
    wide = {"role": "other", "k": streams * hidden, "matmul": True}
    extras = [
        {"name": "hyper", "n": 2 * streams, "copies": 2, "per_layer": True, **wide},
        {"name": "hyper.scales", "role": "small", "n": 2 * streams + 2, "copies": 2, "per_layer": True},
        {"name": "hyper_head", "n": streams, **wide},
        {"name": "hyper_head.scales", "role": "small", "n": streams + 1},
    ]
    ffns = mlp_types(config, experts(config, router_bias="correction"), dense(config))
    return outer(config) | stack(mixers, ffns) | {"extras": extras, "residual_streams": streams}
