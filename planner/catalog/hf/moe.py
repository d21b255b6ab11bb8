"""Readers of mixtures of experts with softmax attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from planner.catalog.hf.attention import (
    attention,
    by_type,
    exaone_mixers,
    layer_types,
    qwen_window,
    window,
    windowed,
)
from planner.catalog.hf.common import FULL, SLIDING, Parts, dense, kinds, n_layers, outer, per_layer, stack
from planner.catalog.hf.config import MAX_CONTEXT, MAX_EXPERTS, MAX_LAYERS, Config
from planner.specs.model import Attention, DenseFfn, Ffn, Indexer, Mixer, MoeFfn

_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_TOP_K = ("num_experts_per_tok", "experts_per_token", "moe_k", "moe_topk", "moe_top_k")


def experts(config: Config, **changes: Any) -> MoeFfn:
    """Routed and shared experts from the common field names; `changes` are what the family fixes."""
    intermediate = config.count("moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size")
    ffn = MoeFfn(
        n_experts=config.count(*_EXPERTS, top=MAX_EXPERTS),
        top_k=config.count(*_TOP_K, top=MAX_EXPERTS),
        intermediate=intermediate,
        shared_intermediate=config.size("n_shared_experts", "num_shared_experts", top=MAX_EXPERTS) * intermediate,
    )
    if ffn.top_k > ffn.n_experts:
        raise config.bad(next(f for f in _TOP_K if config.has(f)), f"more than the {ffn.n_experts} experts")
    return ffn.model_copy(update=changes)


def mlp_types(config: Config, ffn: MoeFfn, dense_ffn: DenseFfn, default: Sequence[str] | None = None) -> list[Ffn]:
    """One ffn for each entry of `mlp_layer_types`; without that the first `first_k_dense_replace` are dense."""
    count = n_layers(config)
    if default is None:
        first = min(config.size("first_k_dense_replace", top=MAX_LAYERS), count)
        default = ["dense"] * first + ["sparse"] * (count - first)
    types = config.texts("mlp_layer_types") or default
    return [
        ffn if kind == "sparse" else dense_ffn for kind in kinds(config, "mlp_layer_types", types, ("dense", "sparse"))
    ]


def _freq(config: Config, field: str) -> list[str] | None:
    """A list of 0 (dense) and 1 (sparse) for each layer, as MiMo and MiniMax state it."""
    if not isinstance(config.data.get(field), list):
        return None
    return ["sparse" if flag else "dense" for flag in per_layer(config, field, config.counts(field, top=1))]


def mixtral(config: Config) -> Parts:
    """Mixtral, Granite MoE: experts in every layer."""
    count = n_layers(config)
    return outer(config) | stack([attention(config, window=window(config))] * count, [experts(config)] * count)


def phimoe(config: Config) -> Parts:
    """Phi 3.5 MoE: Mixtral with LayerNorm and optional biases."""
    return mixtral(config) | {"norm": "layer", "lm_head_bias": config.flag("lm_head_bias")}


def olmoe(config: Config) -> Parts:
    """OLMoE: norms over the whole of q and k."""
    count = n_layers(config)
    return outer(config) | stack([attention(config, qk_norm="full")] * count, [experts(config)] * count)


def _sparse_step(config: Config, ffn: MoeFfn) -> list[Ffn]:
    """Qwen: experts in every `decoder_sparse_step`-th layer but for `mlp_only_layers`."""
    step = config.count("decoder_sparse_step", default=1)
    plain = set(config.counts("mlp_only_layers", top=MAX_LAYERS))
    mlp = dense(config)
    return [mlp if i in plain or (i + 1) % step else ffn for i in range(n_layers(config))]


def qwen2_moe(config: Config) -> Parts:
    """Qwen 1.5 and 2 MoE: a gated shared expert, biases on q, k and v."""
    config = config.defaults(shared_expert_intermediate_size=5632, decoder_sparse_step=1)
    base = attention(config, qkv_bias=config.flag("qkv_bias", True), o_bias=False)
    shared = config.count("shared_expert_intermediate_size")
    ffn = experts(config, shared_intermediate=shared, shared_gate=True)
    return outer(config) | stack(qwen_window(config, base), _sparse_step(config, ffn))


def qwen3_moe(config: Config) -> Parts:
    """Qwen 3 MoE: norms on the heads, no shared expert."""
    base = attention(config, qk_norm="head")
    return outer(config) | stack(qwen_window(config, base), _sparse_step(config, experts(config)))


def gpt_oss(config: Config) -> Parts:
    """gpt-oss: sinks, biases on everything, a window on every other layer."""
    config = config.defaults(head_dim=64, attention_bias=True, sliding_window=128)
    mixers = windowed(config, attention(config, sinks=True), 2)
    return outer(config) | stack(mixers, [experts(config, bias=True, router_bias="linear")] * n_layers(config))


def llama4(config: Config) -> Parts:
    """Llama 4 text: chunked attention but for every fourth layer, a shared expert, alternating dense layers."""
    config = config.defaults(num_local_experts=16, num_experts_per_tok=1, interleave_moe_layer_step=1)
    count = n_layers(config)
    full = attention(config)
    chunked = full.model_copy(update={"chunk": config.count("attention_chunk_size", top=MAX_CONTEXT, default=8192)})
    rope = config.counts("no_rope_layers", top=1) or [int((layer + 1) % 4 != 0) for layer in range(count)]
    types = config.texts("layer_types") or ["chunked_attention" if flag else FULL for flag in rope]
    known = ("chunked_attention", FULL)
    mixers = [full if kind == FULL else chunked for kind in kinds(config, "layer_types", types, known)]
    step = config.count("interleave_moe_layer_step")
    routed = set(config.counts("moe_layers", top=MAX_LAYERS) or range(step - 1, count, step))
    ffn = experts(config, shared_intermediate=config.count("intermediate_size"))
    mlp = DenseFfn(intermediate=config.count("intermediate_size_mlp", "intermediate_size"))
    return outer(config) | stack(mixers, [ffn if layer in routed else mlp for layer in range(count)])


def minimax_m2(config: Config) -> Parts:
    """MiniMax M2: norms over the whole of q and k, a correction bias on the router."""
    ffn = experts(config.merged(moe_intermediate_size=None), router_bias="correction", shared_intermediate=0)
    count = n_layers(config)
    return outer(config) | stack([attention(config, qk_norm="full")] * count, [ffn] * count)


def minimax_m3(config: Config) -> Parts:
    """MiniMax M3: block-sparse attention by an indexer, a shared expert, the first layers dense."""
    if config.flag("attention_output_gate"):
        raise config.unknown("attention_output_gate", "false")
    sparse = config.sub("sparse_attention_config")
    full = attention(config, qk_norm="head")
    indexer = Indexer(
        n_heads=sparse.count("sparse_num_index_heads"),
        head_dim=sparse.count("sparse_index_dim"),
        top_k=sparse.count("sparse_topk_blocks") * sparse.count("sparse_block_size"),
        block=sparse.count("sparse_block_size"),
        learned_weights=False,
    )
    picked = full.model_copy(update={"indexer": indexer})
    flags = per_layer(config, "sparse_attention_config", sparse.counts("sparse_attention_freq", top=1))
    mixers: list[Mixer] = [picked if flag else full for flag in flags]
    ffn = experts(config.merged(moe_intermediate_size=None), router_bias="correction")
    ffn = ffn.model_copy(update={"shared_intermediate": config.size("shared_intermediate_size")})
    mlp = DenseFfn(intermediate=config.count("dense_intermediate_size"))
    mtp = {"mtp_layers": config.size("num_nextn_predict_layers", top=64)}
    return outer(config) | mtp | stack(mixers, mlp_types(config, ffn, mlp, _freq(config, "moe_layer_freq")))


def glm4_moe(config: Config) -> Parts:
    """GLM-4.5 and 4.6: optional norms on the heads, biases on q, k and v, shared expert."""
    config = config.defaults(n_shared_experts=1, first_k_dense_replace=1)
    mixer = attention(config, o_bias=False, qk_norm="head" if config.flag("use_qk_norm") else "none")
    mtp = {"mtp_layers": config.size("num_nextn_predict_layers", top=64)}
    ffns = mlp_types(config, experts(config, router_bias="correction"), dense(config))
    return outer(config) | mtp | stack([mixer] * n_layers(config), ffns)


def dots1(config: Config) -> Parts:
    """dots.llm1: norms on the heads, shared experts, the first layers dense."""
    if config.has("sliding_window") and SLIDING in config.texts("layer_types"):
        raise config.unknown("layer_types", FULL)
    ffns = mlp_types(config, experts(config, router_bias="correction"), dense(config))
    return outer(config) | stack([attention(config, qk_norm="head")] * n_layers(config), ffns)


def ernie(config: Config) -> Parts:
    """ERNIE 4.5 MoE: experts from `moe_layer_start_index` on; one switch for all biases."""
    config = config.defaults(
        tie_word_embeddings=True, moe_num_shared_experts=2, moe_layer_start_index=1, moe_layer_interval=1
    )
    count, bias = n_layers(config), config.flag("use_bias")
    start, step = config.size("moe_layer_start_index", top=MAX_LAYERS), config.count("moe_layer_interval")
    end = config.count("moe_layer_end_index", default=-1, low=-1, top=MAX_LAYERS)
    last = count - 1 if end == -1 else end
    shared = config.size("moe_num_shared_experts", top=MAX_EXPERTS) * config.count("moe_intermediate_size")
    ffn = experts(config, router_bias="linear", shared_intermediate=shared)
    mlp = dense(config, bias)
    mixer = attention(config, qkv_bias=bias, o_bias=bias)
    ffns = [ffn if start <= layer <= last and (layer + 1) % step == 0 else mlp for layer in range(count)]
    return outer(config) | stack([mixer] * count, ffns) | {"lm_head_bias": bias}


def ernie_dense(config: Config) -> Parts:
    """ERNIE 4.5 dense: one switch for all biases."""
    config = config.defaults(tie_word_embeddings=True, head_dim=128)
    bias, count = config.flag("use_bias"), n_layers(config)
    return outer(config) | stack([attention(config, qkv_bias=bias, o_bias=bias)] * count, [dense(config, bias)] * count)


def hunyuan_moe(config: Config) -> Parts:
    """Hunyuan A13B: norms on the heads, one shared MLP of the experts' width."""
    if any(isinstance(config.data.get(field), list) for field in ("moe_topk", "num_experts", "moe_intermediate_size")):
        config = config.merged(
            **{field: _same(config, field) for field in ("moe_topk", "num_experts", "moe_intermediate_size")}
        )
    ffn = experts(config.merged(moe_intermediate_size=None), shared_intermediate=config.count("intermediate_size"))
    count = n_layers(config)
    return outer(config) | stack([attention(config, qk_norm="head")] * count, [ffn] * count)


def _same(config: Config, field: str) -> Any:
    """The one value of a list that repeats it for each layer."""
    value = config.data.get(field)
    if not isinstance(value, list):
        return value
    if not value or any(item != value[0] for item in value):
        raise config.bad(field, "not the same in every layer, which is not known here")
    return value[0]


def hy_v3(config: Config) -> Parts:
    """Hunyuan 3: norms on the heads, shared expert, the first layer dense."""
    config = config.defaults(first_k_dense_replace=1, num_shared_experts=1)
    ffns = mlp_types(config, experts(config, router_bias="correction"), dense(config))
    mtp = {"mtp_layers": config.size("num_nextn_predict_layers", top=64)}
    return outer(config) | mtp | stack([attention(config, qk_norm="head")] * n_layers(config), ffns)


def cohere2_moe(config: Config) -> Parts:
    """Command A Plus: Cohere 2 with experts; the first layers dense with a window pattern of their own."""
    config = config.defaults(tie_word_embeddings=True, sliding_window=4096)
    first = min(config.size("first_k_dense_replace", top=MAX_LAYERS), n_layers(config))
    prefix, rest = (config.count(f, default=d) for f, d in _COHERE_PATTERNS)
    types = [SLIDING if (i + 1) % prefix else FULL for i in range(first)]
    types += [SLIDING if (i + 1) % rest else FULL for i in range(n_layers(config) - first)]
    base = attention(config)
    sliding = base.model_copy(update={"window": window(config)})
    mixers = by_type(config, base, sliding, config.texts("layer_types") or types)
    mlp = DenseFfn(intermediate=config.count("prefix_dense_intermediate_size", "intermediate_size"))
    block = stack(mixers, mlp_types(config, experts(config), mlp))
    norm = "rms" if config.has("rms_norm_eps") else "layer_no_bias"
    return outer(config) | block | {"norm": norm, "norms_per_layer": 1}


_COHERE_PATTERNS = (("prefix_dense_sliding_window_pattern", 1), ("sliding_window_pattern", 4))


def step3(config: Config) -> Parts:
    """Step 3.5 and 3.7 Flash: a gate per head, more heads in sliding layers, a shared expert."""
    config = config.defaults(
        share_expert_dim=1280, num_key_value_heads=config.data.get("num_attention_groups"), head_dim=128
    )
    count = n_layers(config)
    other = config.sub("attention_other_setting")
    gate = "full" if config.data.get("gating") not in (None, True, "per-head") else "head"
    if gate == "full":
        raise config.unknown("gating", "per-head")
    base = attention(config, qk_norm="head", output_gate="head")
    heads = other.count(
        "num_attention_heads", default=config.count("num_sliding_attention_heads", default=base.n_heads)
    )
    sliding = base.model_copy(update={"window": window(config), "n_heads": heads})
    types = layer_types(config, 1)[:count] if config.has("layer_types") else [FULL] * count
    ffn = experts(config, router_bias="correction", shared_intermediate=config.count("share_expert_dim"))
    default = _step_sparse(config, count)
    mtp = {"mtp_layers": config.size("num_nextn_predict_layers", top=64)}
    mixers = by_type(config, base, sliding, types)
    return outer(config) | mtp | stack(mixers, mlp_types(config, ffn, dense(config), default))


def _step_sparse(config: Config, count: int) -> list[str]:
    """Layers with experts: as `moe_layers_enum` lists them, else from `first_k_dense_replace` (3) on."""
    text = config.text("moe_layers_enum")
    if text:
        if not all(part.strip().isdigit() for part in text.split(",")):
            raise config.bad("moe_layers_enum", "not a list of layers")
        routed = {int(part) for part in text.split(",")}
    else:
        routed = set(range(config.size("first_k_dense_replace", top=MAX_LAYERS) or 3, count))
    return ["sparse" if layer in routed else "dense" for layer in range(count)]


def mimo_v2(config: Config) -> Parts:
    """MiMo V2 Flash: five sliding layers with sinks and more key-value heads to one full; V narrower than K."""
    config = config.defaults(head_dim=192, v_head_dim=128)
    base = attention(config, v_head_dim=config.count("v_head_dim"), sinks=config.flag("add_full_attention_sink_bias"))
    sliding = Attention(
        n_heads=config.count("swa_num_attention_heads", default=base.n_heads),
        n_kv_heads=config.count("swa_num_key_value_heads", default=base.n_kv_heads),
        head_dim=config.count("swa_head_dim", default=base.head_dim),
        v_head_dim=config.count("swa_v_head_dim", default=base.v_head_dim or base.head_dim),
        window=window(config),
        qkv_bias=base.qkv_bias,
        o_bias=base.o_bias,
        sinks=config.flag("add_swa_attention_sink_bias"),
    )
    types = config.texts("layer_types")
    if not types:
        pattern = per_layer(config, "hybrid_layer_pattern", config.counts("hybrid_layer_pattern", top=1))
        types = [SLIDING if flag else FULL for flag in pattern]
    ffn = experts(config, router_bias="correction")
    ffns = mlp_types(config, ffn, dense(config), _freq(config, "moe_layer_freq"))
    return outer(config) | stack(by_type(config, base, sliding, types), ffns)


def laguna(config: Config) -> Parts:
    """Laguna: a gate per head or channel, more query heads in sliding layers, a shared expert, one dense layer."""
    config = config.defaults(head_dim=128, sliding_window=512)
    count = n_layers(config)
    granularity = config.data.get("gating", True)
    if granularity not in (True, "per-head", "per-element"):
        raise config.unknown("gating", "per-head, per-element")
    gate = "full" if granularity == "per-element" else "head"
    base = attention(config, qk_norm="head", output_gate=gate)
    heads = config.counts("num_attention_heads_per_layer", low=1) or [base.n_heads] * count
    types = kinds(config, "layer_types", config.texts("layer_types") or [FULL] * count, (FULL, SLIDING))
    mixers = [
        base.model_copy(update={"n_heads": n, "window": window(config) if kind == SLIDING else None})
        for n, kind in zip(per_layer(config, "num_attention_heads_per_layer", heads), types, strict=True)
    ]
    if any(mixer.n_heads % mixer.n_kv_heads for mixer in mixers):
        raise config.bad("num_attention_heads_per_layer", f"not multiples of num_key_value_heads {base.n_kv_heads}")
    first = set(config.counts("mlp_only_layers", top=MAX_LAYERS) or [0])
    ffn = experts(
        config,
        router_bias="correction",
        shared_intermediate=config.count("shared_expert_intermediate_size", default=512),
    )
    plain = ["dense" if layer in first else "sparse" for layer in range(count)]
    return outer(config) | stack(mixers, mlp_types(config, ffn, dense(config), plain))


def bailing(config: Config) -> Parts:
    """Ling and Ring, first and second generation: in the second norms on the heads and a correction bias."""
    mixer = attention(
        config,
        qkv_bias=config.flag("use_qkv_bias"),
        o_bias=config.flag("use_bias"),
        qk_norm="head" if config.flag("use_qk_norm") else "none",
    )
    bias = "correction" if config.flag("moe_router_enable_expert_bias") else "none"
    mtp = {"mtp_layers": config.size("num_nextn_predict_layers", top=64)}
    ffns = mlp_types(config, experts(config, router_bias=bias), dense(config))
    return outer(config) | mtp | stack([mixer] * n_layers(config), ffns)


def solar_open(config: Config) -> Parts:
    """Solar Open: experts and a shared one in every layer."""
    config = config.defaults(head_dim=128, n_shared_experts=1)
    count = n_layers(config)
    return outer(config) | stack([attention(config)] * count, [experts(config, router_bias="correction")] * count)


def mellum(config: Config) -> Parts:
    """Mellum 2: Qwen 3 MoE with windows where `layer_types` says so."""
    config = config.defaults(head_dim=128, sliding_window=1024)
    base, count = attention(config, qk_norm="head"), n_layers(config)
    sliding = base.model_copy(update={"window": window(config)})
    mixers = by_type(config, base, sliding, config.texts("layer_types") or [FULL] * count)
    mtp = {"mtp_layers": config.size("num_mtp_layers", top=64)}
    return outer(config) | mtp | stack(mixers, mlp_types(config, experts(config), dense(config), ["sparse"] * count))


def exaone_moe(config: Config) -> Parts:
    """K-EXAONE: EXAONE 4's attention, a shared expert, the first layer dense."""
    config = config.defaults(sliding_window=4096, first_k_dense_replace=1, num_shared_experts=1)
    mtp = {"mtp_layers": config.size("num_nextn_predict_layers", top=64)}
    ffns = mlp_types(config, experts(config, router_bias="correction"), dense(config))
    return outer(config) | mtp | stack(exaone_mixers(config), ffns)


def afmoe(config: Config) -> Parts:
    """Trinity (Arcee): a gate per channel, norms on the heads and around both blocks, shared experts."""
    config = config.defaults(
        head_dim=128, sliding_window=1024, first_k_dense_replace=config.data.get("num_dense_layers", 1)
    )
    mixers = windowed(
        config,
        attention(config, qk_norm="head", output_gate="full"),
        config.count("global_attn_every_n_layers", default=4),
    )
    ffns = mlp_types(config, experts(config, router_bias="correction"), dense(config))
    return outer(config) | stack(mixers, ffns) | {"norms_per_layer": 4}
