"""Softmax attention from the common field names, and the dense models that are little more than it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from planner.catalog.hf.common import FULL, SLIDING, Parts, dense, hidden_size, kinds, n_layers, outer, stack
from planner.catalog.hf.config import MAX_CONTEXT, Config
from planner.specs.model import Attention, DenseFfn, Mixer


def attention(config: Config, **changes: Any) -> Attention:
    """Full attention from the common field names, head_dim explicit or hidden / heads.

    `changes` are fields of Attention that the family fixes.
    """
    heads = config.count("num_attention_heads", "n_head")
    if not config.has("head_dim") and hidden_size(config) % heads:
        raise config.bad("num_attention_heads", f"no divisor of hidden_size {hidden_size(config)}; head_dim is missing")
    mixer = Attention(
        n_heads=heads,
        n_kv_heads=config.count("num_key_value_heads", default=heads),
        head_dim=config.count("head_dim", default=hidden_size(config) // heads),
        qkv_bias=config.flag("attention_bias"),
        o_bias=config.flag("attention_bias"),
    )
    if mixer.n_heads % mixer.n_kv_heads:
        raise config.bad("num_key_value_heads", f"no divisor of num_attention_heads {mixer.n_heads}")
    return mixer.model_copy(update=changes)


def window(config: Config) -> int | None:
    """The sliding window in tokens; None where there is none (or 0) or it spans the whole context."""
    tokens = config.size("sliding_window", top=MAX_CONTEXT)
    if not tokens:
        return None
    return tokens if tokens < config.count("max_position_embeddings", top=MAX_CONTEXT) else None


def by_type(config: Config, full: Mixer, sliding: Mixer, types: Sequence[str]) -> list[Mixer]:
    """One mixer for each entry of `layer_types`."""
    return [sliding if kind == SLIDING else full for kind in kinds(config, "layer_types", types, (FULL, SLIDING))]


def layer_types(config: Config, pattern: int) -> list[str]:
    """The kind of each layer as stated; without that every `pattern`-th layer is full, the others slide."""
    if config.has("layer_types"):
        return config.texts("layer_types")
    return [SLIDING if (layer + 1) % pattern else FULL for layer in range(n_layers(config))]


def windowed(config: Config, base: Attention, pattern: int) -> list[Mixer]:
    """Full and sliding layers that differ in nothing but the window."""
    sliding = base.model_copy(update={"window": window(config)})
    return by_type(config, base, sliding, layer_types(config, pattern))


def uniform(config: Config, mixer: Attention, ffn: DenseFfn) -> Parts:
    """The same block in every layer."""
    count = n_layers(config)
    return outer(config) | stack([mixer] * count, [ffn] * count)


def llama(config: Config) -> Parts:
    """Llama, and whatever shares its block: one kind of attention, one gated MLP, two RMS norms."""
    return uniform(config, attention(config), dense(config))


def mistral(config: Config) -> Parts:
    """Mistral and Phi 3: Llama with a window on every layer."""
    return uniform(config, attention(config, window=window(config)), dense(config))


def phi3(config: Config) -> Parts:
    """Phi 3 and 4: as Mistral, without any bias."""
    return uniform(config, attention(config, window=window(config), qkv_bias=False, o_bias=False), dense(config))


def qwen_window(config: Config, base: Attention) -> list[Mixer]:
    """Qwen: `use_sliding_window` puts a window on the layers from `max_window_layers` on."""
    count = n_layers(config)
    sliding = base.model_copy(update={"window": window(config)})
    if not config.flag("use_sliding_window"):
        return [base] * count
    if config.has("layer_types"):
        return by_type(config, base, sliding, config.texts("layer_types"))
    full = min(config.size("max_window_layers"), count)
    return [base if layer < full else sliding for layer in range(count)]


def qwen2(config: Config) -> Parts:
    """Qwen 2, 2.5 and MiMo 7B: biases on q, k and v."""
    base = attention(config, qkv_bias=True, o_bias=False)
    mtp = {"mtp_layers": config.size("num_nextn_predict_layers", top=64)}
    return outer(config) | mtp | stack(qwen_window(config, base), [dense(config)] * n_layers(config))


def qwen3(config: Config) -> Parts:
    """Qwen 3: norms on the heads of q and k."""
    base = attention(config.defaults(head_dim=128), qk_norm="head")
    return outer(config) | stack(qwen_window(config, base), [dense(config)] * n_layers(config))


def seed_oss(config: Config) -> Parts:
    """Seed-OSS: biases on q, k and v, and a switch of its own for the output."""
    config = config.defaults(head_dim=128, attention_bias=True)
    mixer = attention(config, o_bias=config.flag("attention_out_bias"))
    return uniform(config, mixer, dense(config))


def smollm3(config: Config) -> Parts:
    """SmolLM 3: Llama, every fourth layer without rotary embedding; embeddings tied unless stated."""
    config = config.defaults(tie_word_embeddings=True)
    return outer(config) | stack(qwen_window(config, attention(config)), [dense(config)] * n_layers(config))


def internlm2(config: Config) -> Parts:
    """InternLM 2: one switch for every bias of the attention."""
    bias = config.flag("bias")
    return uniform(config, attention(config, qkv_bias=bias, o_bias=bias), dense(config))


def hunyuan(config: Config) -> Parts:
    """Hunyuan dense: norms on the heads of q and k."""
    return uniform(config, attention(config, qk_norm="head"), dense(config))


def apertus(config: Config) -> Parts:
    """Apertus: norms on the heads, a plain MLP whose activation has two learned scalars."""
    scalars = {"name": "mlp.activation", "role": "small", "n": 2, "per_layer": True}
    mixer = attention(config, qk_norm="head")
    ffn = DenseFfn(intermediate=config.count("intermediate_size"), gated=False, bias=config.flag("mlp_bias"))
    return uniform(config, mixer, ffn) | {"extras": [scalars]}


def olmo2(config: Config) -> Parts:
    """OLMo 2: norms over the whole of q and k, norms after the blocks."""
    return uniform(config, attention(config, qk_norm="full"), dense(config))


def olmo3(config: Config) -> Parts:
    """OLMo 3: OLMo 2 with three sliding layers to one full."""
    config = config.defaults(sliding_window=4096)
    mixers = windowed(config, attention(config, qk_norm="full"), 4)
    return outer(config) | stack(mixers, [dense(config)] * n_layers(config))


def olmo(config: Config) -> Parts:
    """OLMo 1: norms without parameters."""
    return llama(config) | {"norm": "none"}


def exaone_mixers(config: Config) -> list[Mixer]:
    """Norms on the heads; `sliding_window_pattern` is a number or letters (L: local, G: global)."""
    base = attention(config, qk_norm="head")
    pattern = config.data.get("sliding_window_pattern")
    if config.has("layer_types") or not config.has("sliding_window"):
        types = config.texts("layer_types") or [FULL] * n_layers(config)
    elif isinstance(pattern, str) and pattern and set(pattern) <= {"L", "G"}:
        types = [SLIDING if pattern[layer % len(pattern)] == "L" else FULL for layer in range(n_layers(config))]
        types[-1] = FULL
    elif not isinstance(pattern, str):
        types = layer_types(config, config.count("sliding_window_pattern", default=4))
    else:
        raise config.unknown("sliding_window_pattern", "a number, or letters L and G")
    return by_type(config, base, base.model_copy(update={"window": window(config)}), types)


def exaone4(config: Config) -> Parts:
    """EXAONE 4: norms behind the blocks, windows on most layers of the larger one."""
    return outer(config) | stack(exaone_mixers(config), [dense(config)] * n_layers(config))


def arcee(config: Config) -> Parts:
    """Arcee Foundation Model: Llama with a plain MLP."""
    mlp = DenseFfn(intermediate=config.count("intermediate_size"), gated=False, bias=config.flag("mlp_bias"))
    return uniform(config, attention(config), mlp)


def muse_glimmer(config: Config) -> Parts:
    """Muse Glimmer (text): a gate per channel, three sliding layers to one full, counted from the last; four norms."""
    count = n_layers(config)
    config = config.defaults(head_dim=128, sliding_window=2048)
    base = attention(config, output_gate="full")
    sliding = base.model_copy(update={"window": window(config)})
    types = config.texts("layer_types") or [SLIDING if (count - 1 - layer) % 4 else FULL for layer in range(count)]
    block = stack(by_type(config, base, sliding, types), [dense(config)] * count)
    return outer(config) | block | {"norms_per_layer": 4}


def cohere(config: Config) -> Parts:
    """Command R and Aya: one norm for attention and MLP in parallel, embeddings tied unless stated."""
    config = config.defaults(tie_word_embeddings=True)
    mixer = attention(config, qk_norm="heads" if config.flag("use_qk_norm") else "none")
    return uniform(config, mixer, dense(config)) | {"norm": "layer_no_bias", "norms_per_layer": 1}


def cohere2(config: Config) -> Parts:
    """Command R7B and A: Cohere with three sliding layers to one full."""
    config = config.defaults(tie_word_embeddings=True, sliding_window=4096)
    mixers = windowed(config, attention(config), config.count("sliding_window_pattern", default=4))
    block = stack(mixers, [dense(config)] * n_layers(config))
    return outer(config) | block | {"norm": "layer_no_bias", "norms_per_layer": 1}


def glm4(config: Config) -> Parts:
    """GLM-4: four norms in a layer, biases on q, k and v alone."""
    mixer = attention(config, o_bias=False)
    return uniform(config, mixer, dense(config)) | {"norms_per_layer": 4}


def glm(config: Config) -> Parts:
    """GLM-4 9B in its first form: biases on q, k and v alone."""
    return uniform(config, attention(config, o_bias=False), dense(config))


def mllama(config: Config) -> Parts:
    """Llama 3.2 Vision (text): `cross_attention_layers` read the image and hold two gates.

    The embedding has eight rows for image tokens that the head has not.
    """
    count, base = n_layers(config), attention(config)
    crossing = set(config.counts("cross_attention_layers", top=count - 1))
    cross = base.model_copy(update={"cross": True, "qk_norm": "head"})
    parts = outer(config) | stack([cross if i in crossing else base for i in range(count)], [dense(config)] * count)
    extras = [
        {"name": "embedding.image", "role": "embedding", "n": 8, "k": parts["hidden_size"]},
        {"name": "cross_gates", "role": "small", "n": 2 * max(len(crossing), 1)},
    ]
    return parts | {"extras": extras}
