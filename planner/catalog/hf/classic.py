"""Readers of the first generation: learned positions, LayerNorm, plain MLPs, attention and MLP in parallel."""

from __future__ import annotations

from planner.catalog.hf.attention import attention, uniform, window
from planner.catalog.hf.common import Parts, hidden_size
from planner.catalog.hf.config import MAX_CONTEXT, Config
from planner.specs.model import DenseFfn


def phi(config: Config) -> Parts:
    """Phi 1.5 and 2: biases everywhere, plain MLP, one norm for attention and MLP in parallel."""
    width = hidden_size(config)
    ffn = DenseFfn(intermediate=config.count("intermediate_size", "n_inner", default=4 * width), gated=False, bias=True)
    mixer = attention(config, qkv_bias=True, o_bias=True, qk_norm="head" if config.flag("qk_layernorm") else "none")
    return uniform(config, mixer, ffn) | {"norm": "layer", "norms_per_layer": 1, "lm_head_bias": True}


def gpt2(config: Config) -> Parts:
    """GPT-2: learned positions, biases everywhere, plain MLP, embeddings tied unless stated."""
    config = config.defaults(tie_word_embeddings=True)
    ffn = DenseFfn(intermediate=config.count("n_inner", default=4 * hidden_size(config)), gated=False, bias=True)
    parts = uniform(config, attention(config, qkv_bias=True, o_bias=True), ffn) | {"norm": "layer"}
    positions = {"name": "position", "role": "position", "n": parts["max_position"], "k": parts["hidden_size"]}
    return parts | {"extras": [positions]}


def starcoder2(config: Config) -> Parts:
    """StarCoder 2: biases everywhere, plain MLP, LayerNorm, a window on every layer."""
    config = config.defaults(tie_word_embeddings=True, use_bias=True)
    bias = config.flag("use_bias")
    ffn = DenseFfn(intermediate=config.count("intermediate_size"), gated=False, bias=bias)
    mixer = attention(config, window=window(config), qkv_bias=bias, o_bias=bias)
    return uniform(config, mixer, ffn) | {"norm": "layer"}


def falcon(config: Config) -> Parts:
    """Falcon: multi-query, or grouped with two norms (new decoder architecture); embeddings tied unless stated.

    Mixer and ffn stand side by side; vLLM and TensorRT-LLM add both up before one all-reduce.
    """
    if config.flag("alibi"):
        raise config.unknown("alibi", "false")
    config = config.defaults(tie_word_embeddings=True, parallel_attn=True, max_position_embeddings=2048)
    bias, new = config.flag("bias"), config.flag("new_decoder_architecture")
    heads = config.count("num_attention_heads")
    kv_heads = (
        config.count("num_kv_heads", default=heads) if new else (1 if config.flag("multi_query", True) else heads)
    )
    mixer = attention(config.merged(num_key_value_heads=kv_heads), qkv_bias=bias, o_bias=bias)
    width = config.count("ffn_hidden_size", default=4 * hidden_size(config))
    norms = 2 if new or not config.flag("parallel_attn") else 1
    ffn = DenseFfn(intermediate=width, gated=False, bias=bias)
    joined = new or config.flag("parallel_attn")
    return uniform(config, mixer, ffn) | {"norm": "layer", "norms_per_layer": norms, "joined_reduce": joined}


def gptj(config: Config) -> Parts:
    """GPT-J: rotary, one norm for attention and MLP in parallel, biases in the MLP and the head alone."""
    ffn = DenseFfn(intermediate=config.count("n_inner", default=4 * hidden_size(config)), gated=False, bias=True)
    parts = uniform(config, attention(config, qkv_bias=False, o_bias=False), ffn)
    return parts | {"norm": "layer", "norms_per_layer": 1, "lm_head_bias": True}


def gpt_neox(config: Config) -> Parts:
    """GPT-NeoX and Pythia: rotary, biases everywhere but in the head."""
    bias = config.flag("attention_bias", True)
    ffn = DenseFfn(intermediate=config.count("intermediate_size"), gated=False, bias=True)
    return uniform(config, attention(config, qkv_bias=bias, o_bias=bias), ffn) | {"norm": "layer"}


def mpt(config: Config) -> Parts:
    """MPT: linear position biases, norms without bias, embeddings tied."""
    if not config.flag("no_bias", True):
        raise config.unknown("no_bias", "true")
    config = config.defaults(
        tie_word_embeddings=True,
        num_attention_heads=config.data.get("n_heads"),
        max_position_embeddings=config.count("max_seq_len", top=MAX_CONTEXT, default=2048),
    )
    width = config.count("expansion_ratio", default=4) * hidden_size(config)
    return uniform(config, attention(config), DenseFfn(intermediate=width, gated=False)) | {"norm": "layer_no_bias"}


def qwen(config: Config) -> Parts:
    """Qwen in its first form: biases on q, k and v; `intermediate_size` counts gate and up together."""
    if not config.flag("no_bias", True):
        raise config.unknown("no_bias", "true")
    width = config.count("intermediate_size")
    if width % 2:
        raise config.bad("intermediate_size", "odd: it counts gate and up together")
    return uniform(config, attention(config, qkv_bias=True, o_bias=False), DenseFfn(intermediate=width // 2))
