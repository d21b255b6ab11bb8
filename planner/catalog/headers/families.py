"""What is particular to each architecture of GGUF: its type in transformers, and the settings beyond the common ones.

Ref: conversion/*.py and src/models/*.cpp of ggml-org/llama.cpp
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from planner.catalog.headers.metadata import FULL, LINEAR, SLIDING, Metadata, Settings, common, window
from planner.catalog.headers.records import Header
from planner.catalog.hf.config import MAX_CONTEXT, MAX_EXPERTS, MAX_LAYERS, Config
from planner.errors import BadValue


def config_of(header: Header) -> Settings:
    """The settings of a config.json. Raises BadValue that names the key which is missing or not known."""
    stated = Config(dict(header.metadata), header.where)
    arch = stated.text("general.architecture")
    if arch == IMAGE_ENCODER:
        raise stated.bad("general.architecture", "an image encoder (mmproj); give the model's own file")
    if arch not in FAMILIES:
        raise stated.unknown("general.architecture", f"{len(FAMILIES)} architectures, listed in docs/checkpoints.md")
    model_type, translated = FAMILIES[arch]
    metadata = Metadata(header, arch)
    settings = {"model_type": model_type, **common(metadata)}
    return settings | (translated(metadata) if translated else {})


IMAGE_ENCODER = "clip"


def _llama(m: Metadata) -> Settings:
    """Llama; with experts Mixtral."""
    return {"model_type": "mixtral"} if m.own.size("expert_count") else {}


def _llama4(m: Metadata) -> Settings:
    return {
        "intermediate_size": m.own.count("expert_feed_forward_length"),
        "intermediate_size_mlp": m.one("feed_forward_length"),
        "interleave_moe_layer_step": m.own.count("interleave_moe_layer_step", default=1),
        "attention_chunk_size": m.own.count("attention.sliding_window", top=MAX_CONTEXT, default=8192),
        "sliding_window": None,
    }


def _qwen_shared(m: Metadata) -> Settings:
    return {"shared_expert_intermediate_size": m.own.size("expert_shared_feed_forward_length")}


def _qwen_next(m: Metadata) -> Settings:
    """Linear layers are those with a decay; ssm keys hold the sizes of the gated delta rule."""
    heads = m.own.count("ssm.time_step_rank")
    recurrent = m.in_layers.get("ssm_a", set())
    return _qwen_shared(m) | {
        "linear_num_key_heads": m.own.count("ssm.group_count"),
        "linear_num_value_heads": heads,
        "linear_key_head_dim": m.own.count("ssm.state_size"),
        "linear_value_head_dim": max(m.own.count("ssm.inner_size") // heads, 1),
        "linear_conv_kernel_dim": m.own.count("ssm.conv_kernel"),
        "layer_types": [LINEAR if layer in recurrent else FULL for layer in range(m.n_layers)],
        "attention_bias": False,
        "mtp_num_hidden_layers": m.n_mtp,
    }


def _olmo2(m: Metadata) -> Settings:
    return {"model_type": "olmo3"} if m.own.size("attention.sliding_window", top=MAX_CONTEXT) else {}


def _gemma3n(m: Metadata) -> Settings:
    return {
        "intermediate_size": m.layers("feed_forward_length"),
        "hidden_size_per_layer_input": m.own.count("embedding_length_per_layer_input"),
        "vocab_size_per_layer_input": m.width("per_layer_token_embd.weight"),
        "num_kv_shared_layers": m.own.size("attention.shared_kv_layers"),
        "altup_num_inputs": m.own.count("altup.num_inputs", default=4),
        "laurel_rank": m.width("blk.0.laurel_l.weight"),
    }


def _gemma4(m: Metadata) -> Settings:
    """Widths of full layers stand in key_length, those of sliding ones in key_length_swa."""
    widths, shared = m.layers("feed_forward_length"), m.own.size("attention.shared_kv_layers")
    kv_heads = m.layers("attention.head_count_kv")
    types = window(m).get("layer_types") or [FULL] * m.n_layers
    full = [heads for heads, kind in zip(kv_heads, types, strict=True) if kind == FULL]
    slides = [heads for heads, kind in zip(kv_heads, types, strict=True) if kind == SLIDING]
    first_full = types.index(FULL) if FULL in types else 0
    settings: Settings = {
        "head_dim": m.own.count("attention.key_length_swa", "attention.key_length"),
        "global_head_dim": m.own.count("attention.key_length"),
        "num_key_value_heads": slides[0] if slides else kv_heads[0],
        "num_global_key_value_heads": full[0] if full else kv_heads[0],
        "attention_k_eq_v": f"blk.{first_full}.attn_v.weight" not in m.shapes,
        "intermediate_size": widths[0],
        "use_double_wide_mlp": len(set(widths)) > 1,
        "num_kv_shared_layers": shared,
        "hidden_size_per_layer_input": m.own.size("embedding_length_per_layer_input"),
    }
    if m.own.size("expert_count"):
        settings |= {"enable_moe_block": True, "top_k_experts": m.own.count("expert_used_count", top=MAX_EXPERTS)}
    return settings


def _falcon(m: Metadata) -> Settings:
    """Two norms before attention and MLP mark the new decoder architecture."""
    kv_heads = m.one("attention.head_count_kv")
    return {
        "new_decoder_architecture": m.any("attn_norm_2.weight"),
        "num_kv_heads": kv_heads,
        "multi_query": kv_heads == 1,
        "bias": m.any("attn_qkv.bias"),
        "ffn_hidden_size": m.one("feed_forward_length"),
    }


def _use_bias(m: Metadata) -> Settings:
    return {"use_bias": m.any("attn_q.bias", "attn_qkv.bias", "ffn_up.bias"), "bias": m.any("attn_q.bias")}


def _mpt(m: Metadata) -> Settings:
    heads = m.one("attention.head_count")
    wide = m.one("feed_forward_length") // m.own.count("embedding_length")
    return {"n_heads": heads, "max_seq_len": m.own.count("context_length", top=MAX_CONTEXT), "expansion_ratio": wide}


def _gpt2(m: Metadata) -> Settings:
    return {"n_inner": m.one("feed_forward_length"), "tie_word_embeddings": True}


def _phi2(m: Metadata) -> Settings:
    return {"n_inner": m.one("feed_forward_length"), "qk_layernorm": m.any("attn_q_norm.weight")}


def _unwindowed(m: Metadata) -> Settings:
    """llama.cpp runs Phi without its windows."""
    return {"sliding_window": None, "lm_head_bias": "output.bias" in m.shapes}


def _granite_hybrid(m: Metadata) -> Settings:
    """Mamba 2 in the layers with a decay; a shared MLP is the MLP where there are no experts."""
    recurrent = m.in_layers.get("ssm_a", set())
    shared = m.own.size("expert_shared_feed_forward_length") or m.one("feed_forward_length")
    return _mamba2(m) | {
        "mamba_n_heads": m.own.count("ssm.time_step_rank"),
        "mamba_n_groups": m.own.count("ssm.group_count", default=1),
        "mamba_d_state": m.own.count("ssm.state_size"),
        "layer_types": ["mamba" if layer in recurrent else "attention" for layer in range(m.n_layers)],
        "num_local_experts": m.own.size("expert_count", top=MAX_EXPERTS),
        "shared_intermediate_size": shared,
    }


def _mamba2(m: Metadata) -> Settings:
    inner, heads = m.own.count("ssm.inner_size"), m.own.count("ssm.time_step_rank")
    return {
        "mamba_d_head": max(inner // heads, 1),
        "conv_kernel": m.own.count("ssm.conv_kernel"),
        "use_conv_bias": m.any("ssm_conv1d.bias"),
        "mamba_proj_bias": m.any("ssm_in.bias"),
    }


def _nemotron_h(m: Metadata) -> Settings:
    """A layer is what its tensors say: Mamba, attention, MLP or experts."""
    kinds = (
        ("mamba", "ssm_a"),
        ("attention", "attn_q.weight"),
        ("moe", "ffn_gate_inp.weight"),
        ("mlp", "ffn_up.weight"),
    )
    types = []
    for layer in range(m.n_layers):
        kind = next((kind for kind, name in kinds if layer in m.in_layers.get(name, ())), None)
        if kind is None:
            raise BadValue(f"{m.where}: layer {layer} holds none of {', '.join(name for _, name in kinds)}")
        types.append(kind)
    latent = m.own.size("moe_latent_size")
    return _mamba2(m) | {
        "layers_block_type": types,
        "mamba_num_heads": m.own.count("ssm.time_step_rank"),
        "n_groups": m.own.count("ssm.group_count", default=1),
        "ssm_state_size": m.own.count("ssm.state_size"),
        "use_bias": m.any("ssm_in.bias"),
        "moe_shared_expert_intermediate_size": m.own.size("expert_shared_feed_forward_length"),
        **({"moe_latent_size": latent} if latent else {}),
    }


def _jamba(m: Metadata) -> Settings:
    """Attention where there are key-value heads, experts where there is a router: both at a period and an offset."""
    attention = sorted(m.in_layers.get("attn_q.weight", ()))
    routed = sorted(m.in_layers.get("ffn_gate_inp.weight", ()))
    hidden = m.own.count("embedding_length")
    return {
        "mamba_d_state": m.own.count("ssm.state_size"),
        "mamba_d_conv": m.own.count("ssm.conv_kernel"),
        "mamba_dt_rank": m.own.count("ssm.time_step_rank"),
        "mamba_expand": max(m.own.count("ssm.inner_size") // hidden, 1),
        "attn_layer_offset": attention[0] if attention else 0,
        "attn_layer_period": _period(attention, m.n_layers),
        "expert_layer_offset": routed[0] if routed else 0,
        "expert_layer_period": _period(routed, m.n_layers),
        "num_experts": m.own.count("expert_count", default=1, top=MAX_EXPERTS),
        "num_experts_per_tok": m.own.count("expert_used_count", default=1, top=MAX_EXPERTS),
    }


def _period(layers: Sequence[int], n_layers: int) -> int:
    return layers[1] - layers[0] if len(layers) > 1 else n_layers


def _latent(m: Metadata) -> Settings:
    """Latent attention: files since 2025 state the heads' widths apart from those of the shared cache."""
    rope = m.own.size("rope.dimension_count")
    keys = m.own.count("attention.key_length_mla", "attention.key_length")
    return {
        "q_lora_rank": m.own.size("attention.q_lora_rank") or None,
        "kv_lora_rank": m.own.count("attention.kv_lora_rank"),
        "qk_rope_head_dim": rope,
        "qk_nope_head_dim": max(keys - rope, 0),
        "v_head_dim": m.own.count("attention.value_length_mla", "attention.value_length"),
        "attention_bias": False,
    }


def _indexed(m: Metadata) -> Settings:
    indexer = "attention.indexer"
    return _latent(m) | {
        "index_n_heads": m.own.count(f"{indexer}.head_count"),
        "index_head_dim": m.own.count(f"{indexer}.key_length"),
        "index_topk": m.own.count(f"{indexer}.top_k", top=MAX_CONTEXT),
        **_indexer_types(m),
    }


def _indexer_types(m: Metadata) -> Settings:
    """Layers without the indexer's projections take the picks of an earlier one."""
    full = m.in_layers.get("indexer.attn_k.weight", set())
    return {"indexer_types": ["full" if layer in full else "shared" for layer in range(m.n_layers)]}


def _kimi_linear(m: Metadata) -> Settings:
    recurrent = m.in_layers.get("ssm_a", set())
    return _latent(m) | {
        "linear_head_dim": m.own.count("kda.head_dim"),
        "linear_num_heads": m.one("attention.head_count"),
        "linear_conv_kernel_dim": m.own.count("ssm.conv_kernel"),
        "layer_types": [LINEAR if layer in recurrent else FULL for layer in range(m.n_layers)],
    }


def _gpt_oss(m: Metadata) -> Settings:
    return {"intermediate_size": m.own.count("expert_feed_forward_length"), "moe_intermediate_size": None}


def _shared_width(m: Metadata) -> Settings:
    """The shared experts by their width together."""
    inner = m.own.count("expert_feed_forward_length")
    return {"n_shared_experts": m.own.size("expert_shared_feed_forward_length") // inner}


def _cohere_moe(m: Metadata) -> Settings:
    """The prefix of dense layers has a width of its own; there may be none."""
    dense = m.own.size("feed_forward_length") or m.own.count("expert_feed_forward_length")
    return {"prefix_dense_intermediate_size": dense, "intermediate_size": dense}


def _mimo(m: Metadata) -> Settings:
    """Sliding layers have key-value heads and sinks of their own; values are narrower than keys."""
    types = window(m).get("layer_types") or [FULL] * m.n_layers
    kv_heads, sinks = m.layers("attention.head_count_kv"), m.in_layers.get("attn_sinks.weight", set())
    slides = [layer for layer, kind in enumerate(types) if kind == SLIDING]
    full = [layer for layer, kind in enumerate(types) if kind == FULL]
    return {
        "v_head_dim": m.own.count("attention.value_length"),
        "num_key_value_heads": kv_heads[full[0] if full else 0],
        "swa_num_key_value_heads": kv_heads[slides[0] if slides else 0],
        "swa_head_dim": m.own.count("attention.key_length"),
        "add_swa_attention_sink_bias": bool(sinks & set(slides)),
        "add_full_attention_sink_bias": bool(sinks & set(full)),
        "n_shared_experts": 0,
    }


def _hunyuan_moe(m: Metadata) -> Settings:
    """Experts and the shared MLP have the width of `intermediate_size`."""
    return {"intermediate_size": m.own.count("expert_feed_forward_length", "feed_forward_length")}


def _ernie_moe(m: Metadata) -> Settings:
    return _use_bias(m) | {
        "moe_layer_start_index": m.own.size("leading_dense_block_count", top=MAX_LAYERS),
        "moe_layer_interval": m.own.count("interleave_moe_layer_step", default=1),
        "moe_num_shared_experts": m.own.size("expert_shared_count", top=MAX_EXPERTS),
    }


def _bert(m: Metadata) -> Settings:
    pooled = "cls.weight" in m.shapes
    architecture = "BertForSequenceClassification" if pooled else "BertModel"
    return {
        "architectures": [architecture],
        "type_vocab_size": m.width("token_types.weight") if "token_types.weight" in m.shapes else 1,
        "max_position_embeddings": m.width("position_embd.weight"),
    }


Translated = Callable[[Metadata], Settings] | None

FAMILIES: dict[str, tuple[str, Translated]] = {  # general.architecture -> (model_type, what is particular)
    "llama": ("llama", _llama),
    "llama4": ("llama4_text", _llama4),
    "mistral3": ("ministral3", None),
    "mistral4": ("mistral4", _latent),
    "qwen": ("qwen", None),
    "qwen2": ("qwen2", None),
    "qwen2vl": ("qwen2", None),
    "qwen2moe": ("qwen2_moe", _qwen_shared),
    "qwen3": ("qwen3", None),
    "qwen3vl": ("qwen3", None),
    "qwen3moe": ("qwen3_moe", None),
    "qwen3vlmoe": ("qwen3_moe", None),
    "qwen3next": ("qwen3_next", _qwen_next),
    "qwen35": ("qwen3_5_text", _qwen_next),
    "qwen35moe": ("qwen3_5_moe_text", _qwen_next),
    "gemma": ("gemma", None),
    "gemma2": ("gemma2", None),
    "gemma3": ("gemma3_text", None),
    "gemma3n": ("gemma3n_text", _gemma3n),
    "gemma4": ("gemma4_text", _gemma4),
    "phi2": ("phi", _phi2),
    "phi3": ("phi3", _unwindowed),
    "phimoe": ("phimoe", _unwindowed),
    "falcon": ("falcon", _falcon),
    "command-r": ("cohere", None),
    "cohere2": ("cohere2", None),
    "starcoder2": ("starcoder2", _use_bias),
    "gpt2": ("gpt2", _gpt2),
    "gptneox": ("gpt_neox", None),
    "mpt": ("mpt", _mpt),
    "olmo": ("olmo", None),
    "olmo2": ("olmo2", _olmo2),
    "olmoe": ("olmoe", None),
    "granite": ("granite", None),
    "granitemoe": ("granitemoe", None),
    "granitehybrid": ("granitemoehybrid", _granite_hybrid),
    "exaone4": ("exaone4", None),
    "smollm3": ("smollm3", None),
    "seed_oss": ("seed_oss", None),
    "internlm2": ("internlm2", _use_bias),
    "apertus": ("apertus", None),
    "hunyuan-dense": ("hunyuan_v1_dense", None),
    "hunyuan-moe": ("hunyuan_v1_moe", _hunyuan_moe),
    "ernie4_5": ("ernie4_5", _use_bias),
    "ernie4_5-moe": ("ernie4_5_moe", _ernie_moe),
    "dots1": ("dots1", None),
    "hy_v3": ("hy_v3", _shared_width),
    "cohere2moe": ("cohere2_moe", _cohere_moe),
    "mimo2": ("mimo_v2_flash", _mimo),
    "glm4": ("glm4", None),
    "chatglm": ("glm", None),
    "glm4moe": ("glm4_moe", None),
    "glm-dsa": ("glm_moe_dsa", _indexed),
    "minimax-m2": ("minimax_m2", _gpt_oss),
    "gpt-oss": ("gpt_oss", _gpt_oss),
    "deepseek2": ("deepseek_v3", _latent),
    "deepseek32": ("deepseek_v32", _indexed),
    "nemotron_h": ("nemotron_h", _nemotron_h),
    "nemotron_h_moe": ("nemotron_h", _nemotron_h),
    "jamba": ("jamba", _jamba),
    "kimi-linear": ("kimi_linear", _kimi_linear),
    "bert": ("bert", _bert),
}
