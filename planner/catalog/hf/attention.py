"""Readers of dense models with MHA, GQA or MQA: Llama, Qwen and their relatives."""

from __future__ import annotations

from planner.catalog.hf.common import Parts, dense, hidden_size, n_layers, outer, per_layer, stack
from planner.catalog.hf.config import MAX_CONTEXT, Config
from planner.specs.model import Attention


def attention(config: Config) -> Attention:
    """Full attention from the common field names, head_dim explicit or hidden / heads."""
    heads = config.count("num_attention_heads", "n_head")
    if not config.has("head_dim") and hidden_size(config) % heads:
        raise config.bad("num_attention_heads", f"no divisor of hidden_size {hidden_size(config)}; head_dim is missing")
    return Attention(
        n_heads=heads,
        n_kv_heads=config.count("num_key_value_heads", default=heads),
        head_dim=config.count("head_dim", default=hidden_size(config) // heads),
        qkv_bias=config.flag("attention_bias"),
        o_bias=config.flag("attention_bias"),
    )


def window(config: Config) -> int | None:
    """The sliding window in tokens."""
    return config.count("sliding_window", "sliding_window_size", top=MAX_CONTEXT) if config.has("sliding_window") else None


def windowed(config: Config, base: Attention, kinds: list[str]) -> list[Attention]:
    """One mixer for each entry of `layer_types`."""
    mixers = []
    sliding = base.model_copy(update={"window": window(config)})
    for kind in per_layer(config, "layer_types", kinds):
        if kind not in ("full_attention", "sliding_attention"):
            raise config.bad("layer_types", f"with the kind {kind!r} that is not known here "
                             "(known: full_attention, sliding_attention)")
        mixers.append(sliding if kind == "sliding_attention" else base)
    return mixers


def llama(config: Config) -> Parts:
    """Llama, and whatever shares its block: one kind of attention, one gated MLP, two RMS norms."""
    count = n_layers(config)
    return outer(config) | stack([attention(config)] * count, [dense(config)] * count)


def mistral(config: Config) -> Parts:
    """Mistral: Llama with a window on every layer."""
    count = n_layers(config)
    mixer = attention(config).model_copy(update={"window": window(config)})
    return outer(config) | stack([mixer] * count, [dense(config)] * count)


def qwen_window(config: Config, base: Attention) -> list[Attention]:
    """Qwen: `use_sliding_window` puts a window on the layers from `max_window_layers` on."""
    count = n_layers(config)
    if not config.flag("use_sliding_window"):
        return [base] * count
    if config.has("layer_types"):
        return windowed(config, base, config.texts("layer_types"))
    full = min(config.count("max_window_layers", default=count, low=0), count)
    return [base] * full + [base.model_copy(update={"window": window(config)})] * (count - full)


def qwen2(config: Config) -> Parts:
    """Qwen 2 and 2.5: biases on q, k and v."""
    base = attention(config).model_copy(update={"qkv_bias": True, "o_bias": False})
    return outer(config) | stack(qwen_window(config, base), [dense(config)] * n_layers(config))


def qwen3(config: Config) -> Parts:
    """Qwen 3: norms on the heads of q and k."""
    base = attention(config.merged(head_dim=config.count("head_dim", default=128)))
    base = base.model_copy(update={"qk_norm": "head"})
    return outer(config) | stack(qwen_window(config, base), [dense(config)] * n_layers(config))
