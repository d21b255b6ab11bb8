"""Readers of hybrids of softmax and linear attention: Qwen3-Next and 3.5, Kimi Linear and K3, MiniMax-Text-01, GLM-5.3,
Ling 3, LFM2; and of Nemotron NAS, whose layers were searched one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from planner.catalog.hf import compressed, gemma3n, ssm, vision
from planner.catalog.hf.attention import attention
from planner.catalog.hf.common import FULL, Parts, dense, hidden_size, kinds, n_layers, outer, per_layer, stack
from planner.catalog.hf.config import MAX_HIDDEN, MAX_LAYERS, Config
from planner.catalog.hf.mla import indexer, latent
from planner.catalog.hf.moe import experts, mlp_types
from planner.specs.model import Attention, DenseFfn, Ffn, LatentAttention, LinearAttention, Mixer

LINEAR = "linear_attention"


def alternating(config: Config, linear: Mixer, full: Mixer, types: list[str]) -> list[Mixer]:
    """One mixer for each entry of `layer_types`."""
    return [linear if kind == LINEAR else full for kind in kinds(config, "layer_types", types, (LINEAR, FULL))]


def every(config: Config, interval: int) -> list[str]:
    """`layer_types`; without that every `interval`-th layer is full attention."""
    pattern = [LINEAR if (layer + 1) % interval else FULL for layer in range(n_layers(config))]
    return config.texts("layer_types") or pattern


def gated_delta(config: Config) -> LinearAttention:
    """A gated delta net from Qwen's field names."""
    mixer = LinearAttention(
        rule="gated_delta",
        n_k_heads=config.count("linear_num_key_heads"),
        n_v_heads=config.count("linear_num_value_heads"),
        k_head_dim=config.count("linear_key_head_dim"),
        v_head_dim=config.count("linear_value_head_dim"),
        conv_width=config.count("linear_conv_kernel_dim", default=4),
    )
    if mixer.n_v_heads % mixer.n_k_heads:
        raise config.bad("linear_num_key_heads", f"no divisor of linear_num_value_heads {mixer.n_v_heads}")
    return mixer.model_copy(update={"state_dtype": ssm.state_dtype(config, "mamba_ssm_dtype")})


def qwen_next(config: Config) -> Parts:
    """Qwen3-Next, Qwen3.5 and 3.6 (text): three gated delta nets to one gated attention, dense or with experts."""
    if config.flag("attention_bias"):
        raise config.unknown("attention_bias", "false")
    gate = "full" if config.flag("attn_output_gate", True) else "none"
    full = attention(config.defaults(head_dim=256), qk_norm="head", output_gate=gate)
    mixers = alternating(
        config, gated_delta(config), full, every(config, config.count("full_attention_interval", default=4))
    )
    ffns = gated_experts(config) if config.has("num_experts") else [dense(config)] * n_layers(config)
    mtp = {"mtp_layers": config.size("mtp_num_hidden_layers", "num_nextn_predict_layers", top=64)}
    return outer(config) | mtp | stack(mixers, ffns)


def gated_experts(config: Config) -> list[Ffn]:
    """Experts in every `decoder_sparse_step`-th layer but for `mlp_only_layers`; a gated shared expert."""
    shared = config.size("shared_expert_intermediate_size")
    moe = experts(config, shared_intermediate=shared, shared_gate=bool(shared))
    step, plain = config.count("decoder_sparse_step", default=1), set(config.counts("mlp_only_layers", top=MAX_LAYERS))
    sparse = [(layer + 1) % step == 0 and layer not in plain for layer in range(n_layers(config))]
    return [moe if flag else dense(config) for flag in sparse]


def qwen_next_vl(config: Config) -> Parts:
    """Qwen3.5 and 3.6 as published: the text model under Qwen's ViT."""
    return vision.qwen_vl(config, qwen_next)


def _kda(config: Config) -> LinearAttention:
    """Kimi delta attention; sizes in `linear_attn_config` (the publisher) or in fields of their own (the class)."""
    stated = config.sub("linear_attn_config")
    dim = stated.count("head_dim", default=config.count("linear_head_dim", default=128))
    heads = stated.count("num_heads", default=config.count("linear_num_heads", default=32))
    width = stated.count("short_conv_kernel_size", default=config.count("linear_conv_kernel_dim", default=4))
    return LinearAttention(
        rule="kda",
        n_k_heads=heads,
        n_v_heads=heads,
        k_head_dim=dim,
        v_head_dim=dim,
        conv_width=width,
        gate_rank=0 if stated.flag("use_full_rank_gate") else dim,
    )


def _kimi_types(config: Config) -> list[str]:
    """`layer_types`, or the publisher's lists of layers, which count from 1."""
    stated = config.sub("linear_attn_config")
    if config.has("layer_types") or not stated.has("full_attn_layers"):
        return config.texts("layer_types")
    full, linear = (set(stated.counts(name, top=MAX_LAYERS)) for name in ("full_attn_layers", "kda_layers"))
    if full & linear or full | linear != set(range(1, n_layers(config) + 1)):
        raise config.bad("linear_attn_config", f"without exactly one kind for each of {n_layers(config)} layers")
    return [FULL if layer in full else LINEAR for layer in range(1, n_layers(config) + 1)]


def kimi_linear(config: Config) -> Parts:
    """Kimi Linear: KDA and latent attention without rotation, experts behind a first dense layer."""
    config = config.defaults(max_position_embeddings=config.data.get("model_max_length"), q_lora_rank=None)
    count = n_layers(config)
    gate = "full" if config.flag("mla_use_output_gate") else "none"
    mixers = alternating(config, _kda(config), latent(config, output_gate=gate), _kimi_types(config))
    narrow = config.count("routed_expert_hidden_size") if config.has("routed_expert_hidden_size") else None
    norm = narrow is not None and config.flag("latent_moe_use_norm")
    top_k = config.count("num_experts_per_token", "num_experts_per_tok")
    ffn = experts(config.merged(num_experts_per_tok=top_k), router_bias="correction", latent=narrow, latent_norm=norm)
    ffns = mlp_types(config, ffn, dense(config), None if config.has("first_k_dense_replace") else _first_dense(count))
    mtp = {"mtp_layers": config.size("num_nextn_predict_layers", top=64)}
    return outer(config) | mtp | stack(mixers, ffns) | {"extras": _attention_residuals(config)}


def _first_dense(count: int) -> list[str]:
    return ["dense"] + ["sparse"] * (count - 1)


def _attention_residuals(config: Config) -> list[dict[str, Any]]:
    """Attention over the outputs of earlier blocks of layers in place of the residual sum: a norm and a query
    before each mixer, before each ffn and before the head."""
    if not config.has("attn_res_block_size"):
        return []
    hidden = hidden_size(config)
    return [
        {"name": "residual.norm", "role": "norm", "n": hidden, "copies": 2, "per_layer": True},
        {"name": "residual.query", "role": "small", "n": hidden, "copies": 2, "per_layer": True},
        {"name": "residual_head.norm", "role": "norm", "n": hidden},
        {"name": "residual_head.query", "role": "small", "n": hidden},
    ]


def kimi_k3(config: Config) -> Parts:
    """Kimi K3: Kimi Linear with gated attention, latent experts and attention residuals, under MoonViT."""
    eye = config.sub("vision_config")
    known = {
        "norm_type": "rmsnorm",
        "mlp_type": "mlp2",
        "mm_projector_type": "patchmergerv2",
        "attn_bias": False,
        "linear_bias": False,
        "patch_embed_proj_bias": False,
    }
    for field, value in known.items():
        if eye.data.get(field) != value:
            raise eye.unknown(field, str(value))
    shape = vision.Tower(
        hidden=eye.count("vt_hidden_size"),
        layers=eye.count("vt_num_hidden_layers", top=MAX_LAYERS),
        heads=eye.count("vt_num_attention_heads"),
        inner=eye.count("vt_intermediate_size"),
        patch=eye.count("patch_size"),
    )
    merge = (eye.counts("merge_kernel_size", low=1, top=64) or [2])[0]
    text = vision.text_config(config)
    extras = _moonvit_v3(eye, shape, merge, hidden_size(text))
    return vision.with_text(config, kimi_linear, extras, vision.spec(shape, merge))


def _moonvit_v3(eye: Config, shape: vision.Tower, merge: int, width: int) -> vision.Extras:
    hidden, inner = shape.hidden, eye.count("qkv_hidden_size", default=shape.hidden)
    positions = eye.count("init_pos_emb_height", default=64) * eye.count("init_pos_emb_width", default=64)
    wide = hidden * merge**2
    return [
        vision.weight("patch", hidden, 3 * shape.patch**2),
        vision.weight("position", positions, hidden),
        vision.weight("attention", inner, hidden, 4 * shape.layers),
        vision.weight("mlp", shape.inner, hidden, 2 * shape.layers),
        vision.weight("norm", hidden, copies=2 * shape.layers + 1),
        vision.weight("merger.norm", width),
        vision.weight("merger.in", wide, wide),
        vision.weight("merger.out", width, wide),
    ]


def minimax_text(config: Config) -> Parts:
    """MiniMax-Text-01 and M1: seven layers of lightning attention to one of softmax attention, experts everywhere."""
    full = attention(config)
    linear = LinearAttention(
        rule="lightning",
        n_k_heads=full.n_heads,
        n_v_heads=full.n_heads,
        k_head_dim=full.head_dim,
        v_head_dim=full.head_dim,
        state_dtype="bf16",
    )
    types = config.texts("layer_types") or every(config, 2)
    if config.has("attn_type_list"):
        flags = per_layer(config, "attn_type_list", config.counts("attn_type_list", top=1))
        types = [FULL if flag else LINEAR for flag in flags]
    ffn = experts(config.merged(moe_intermediate_size=None))
    return outer(config) | stack(alternating(config, linear, full, types), [ffn] * n_layers(config))


def glm_next(config: Config) -> Parts:
    """GLM-5.3 (text): KDA, and latent attention over pooled keys that an indexer picks; four residual streams."""
    config = config.defaults(first_k_dense_replace=3)
    linear = _kda(config)
    picks = indexer(config).model_copy(update={"block": config.count("index_kpool", default=16), "pooled": True})
    full: LatentAttention = latent(config, indexer=picks)
    types = config.texts("layer_types") or [
        LINEAR if (i + 1) % 4 else "indexed_attention" for i in range(n_layers(config))
    ]
    known = (LINEAR, "indexed_attention")
    mixers: list[Mixer] = [linear if kind == LINEAR else full for kind in kinds(config, "layer_types", types, known)]
    kinds(config, "indexer_types", config.texts("indexer_types") or ["full"] * n_layers(config), ("full",))
    ffns = mlp_types(config, experts(config, router_bias="correction"), dense(config))
    mtp = {"mtp_layers": config.size("num_nextn_predict_layers", top=64)}
    streams = {"extras": compressed.hyper_connections(config), "residual_streams": compressed.residual_streams(config)}
    return outer(config) | mtp | stack(mixers, ffns) | streams


def glm_next_vl(config: Config) -> Parts:
    """GLM-5.3: gated ViT with norms on the heads, a strided convolution and a gated merger."""
    eye = config.sub("vision_config")
    shape = vision.tower(eye)._replace(
        gated=True, bias=eye.flag("attention_bias", True), layer_norm=False, outer_norms=1
    )
    merge, out = eye.count("spatial_merge_size", default=2), eye.count("out_hidden_size")
    inner = eye.count("projection_intermediate_size")
    patch = eye.count("in_channels", default=3) * eye.count("temporal_patch_size", default=2) * shape.patch**2
    extras = [
        vision.weight("patch", shape.hidden, patch, bias=True),
        *vision.blocks(shape),
        vision.weight("head_norm", shape.hidden // shape.heads, copies=2 * shape.layers),
        vision.weight("downsample", out, shape.hidden * merge**2, bias=True),
        vision.weight("merger.project", out, out),
        vision.weight("merger.norm", out, copies=2),
        vision.weight("merger.mlp", inner, out, copies=3),
    ]
    return vision.with_text(config, glm_next, extras, vision.spec(shape, merge, eye.size("image_size")))


def bailing_hybrid(config: Config) -> Parts:
    """Ling 3: KDA with full projections; every `layer_group_size`-th layer latent attention with a gate per head."""
    if not config.flag("no_kda_lora", True):
        raise config.unknown("no_kda_lora", "true")
    config = config.defaults(q_lora_rank=None, head_dim=128, first_k_dense_replace=2, layer_group_size=6)
    heads, dim = config.count("num_attention_heads"), config.count("head_dim")
    linear = LinearAttention(
        rule="kda",
        n_k_heads=heads,
        n_v_heads=heads,
        k_head_dim=dim,
        v_head_dim=dim,
        conv_width=config.count("short_conv_kernel_size", default=4),
        full_decay=True,
    )
    types = every(config, config.count("layer_group_size"))
    mixers = alternating(config, linear, latent(config, output_gate="head"), types)
    mtp = {"mtp_layers": config.size("num_nextn_predict_layers", "num_mtp_layers", top=64)}
    ffns = mlp_types(config, experts(config, router_bias="correction"), dense(config))
    return outer(config) | mtp | stack(mixers, ffns)


def _short_convolutions(config: Config) -> list[Mixer]:
    """Gated short convolutions with attention between them."""
    full = attention(config, qk_norm="head")
    short = LinearAttention(
        rule="short_conv",
        n_k_heads=full.n_heads,
        n_v_heads=full.n_heads,
        k_head_dim=hidden_size(config) // full.n_heads,
        v_head_dim=hidden_size(config) // full.n_heads,
        conv_width=config.count("conv_L_cache", default=3, low=2),
        state_dtype="bf16",
    )
    if config.flag("conv_bias"):
        raise config.unknown("conv_bias", "false")
    known = ("conv", FULL)
    chosen = set(config.counts("full_attn_idxs", top=MAX_LAYERS))
    pattern = [FULL if layer in chosen else known[0] for layer in range(n_layers(config))]
    types = kinds(config, "layer_types", config.texts("layer_types") or pattern, known)
    return [full if kind == FULL else short for kind in types]


def lfm2(config: Config) -> Parts:
    """LFM2 and LFM2.5: the MLP's width is two thirds of what is stated, rounded up, where the config adjusts it."""
    inner = config.count("block_ff_dim", "intermediate_size")
    if config.flag("block_auto_adjust_ff_dim", True):
        multiple = config.count("block_multiple_of", default=256)
        inner = int(config.number("block_ffn_dim_multiplier", 1.0) * int(2 * inner / 3))
        if not 1 <= inner <= MAX_HIDDEN:
            raise config.bad("block_ffn_dim_multiplier", f"not a factor that gives 1..{MAX_HIDDEN} features")
        inner = -(-inner // multiple) * multiple
    tied = config.flag("tie_embedding", True)
    ffn = DenseFfn(intermediate=inner)
    return outer(config, tied) | stack(_short_convolutions(config), [ffn] * n_layers(config))


def lfm2_moe(config: Config) -> Parts:
    """LFM2 with experts behind the first `num_dense_layers` layers."""
    config = config.defaults(first_k_dense_replace=config.size("num_dense_layers", top=MAX_LAYERS))
    bias = "correction" if config.flag("use_expert_bias", True) else "none"
    ffns = mlp_types(config, experts(config, router_bias=bias), dense(config))
    return outer(config, config.flag("tie_embedding", True)) | stack(_short_convolutions(config), ffns)


def _searched_ffn(block: Config, hidden: int) -> Ffn | None:
    """`ffn_mult` times the width, times 2/3 for a gated block, rounded up to a multiple of 256."""
    if block.flag("replace_with_linear") or block.has("sparsify"):
        raise block.unknown("replace_with_linear", "false, with sparsify null")
    if block.flag("no_op"):
        return None
    inner = int(2 * block.number("ffn_mult", 0) * hidden / 3)
    if not 1 <= inner <= MAX_HIDDEN:
        raise block.bad("ffn_mult", f"not a factor that gives 1..{MAX_HIDDEN} features")
    return DenseFfn(intermediate=-(-inner // _NAS_MULTIPLE) * _NAS_MULTIPLE)


_NAS_MULTIPLE = 256  # find_multiple in the publisher's modeling_decilm


def _searched_attention(config: Config, block: Config) -> Attention | None:
    if block.flag("replace_with_linear") or block.has("window_length") or block.has("sparsify"):
        raise block.unknown("replace_with_linear", "false, with window_length and sparsify null")
    if block.flag("no_op"):
        return None
    heads, group = config.count("num_attention_heads"), block.count("n_heads_in_group")
    if heads % group:
        raise block.bad("n_heads_in_group", f"no divisor of num_attention_heads {heads}")
    return attention(config.merged(num_key_value_heads=heads // group))


def nemotron_nas(config: Config) -> Parts:
    """Llama-Nemotron Super and Ultra: Llama whose layers were searched one by one: no attention in some, MLPs of
    many widths."""
    items = per_layer(config, "block_configs", config.items("block_configs"))
    blocks = [Config(item, f"{config.where}: block_configs[{index}]") for index, item in enumerate(items)]
    mixers = [_searched_attention(config, block.sub("attention")) for block in blocks]
    ffns = [_searched_ffn(block.sub("ffn"), hidden_size(config)) for block in blocks]
    norms = sum(part is not None for part in (*mixers, *ffns)) - len(blocks)
    if norms < 1:
        raise config.bad("block_configs", "with more layers left out than are known here")
    second = {"name": "second_norm", "role": "norm", "n": hidden_size(config), "copies": norms}
    return outer(config) | stack(mixers, ffns) | {"norms_per_layer": 1, "extras": [second]}


READERS: dict[str, Callable[[Config], Parts]] = {
    "qwen3_next": qwen_next,
    "qwen3_5": qwen_next_vl,
    "qwen3_5_text": qwen_next,
    "qwen3_5_moe": qwen_next_vl,
    "qwen3_5_moe_text": qwen_next,
    "kimi_linear": kimi_linear,
    "kimi_k3": kimi_k3,
    "minimax": minimax_text,
    "minimax_text_01": minimax_text,
    "glm5_next": glm_next_vl,
    "glm5_next_text": glm_next,
    "nemotron-nas": nemotron_nas,
    "bailing_hybrid": bailing_hybrid,
    "lfm2": lfm2,
    "lfm2_moe": lfm2_moe,
    "gemma3n": gemma3n.gemma3n,
    **compressed.READERS,
    **ssm.READERS,
}
