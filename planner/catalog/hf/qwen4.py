"""Reader of Qwen4 (experimental; Qwen3.8-Flash-Next): Qwen3.5's hybrid with sparse attention, low-rank
hyper-connections and tables of hashed n-grams."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from planner.catalog.hf import vision
from planner.catalog.hf.attention import attention
from planner.catalog.hf.common import FULL, Parts, hidden_size, kinds, outer, stack
from planner.catalog.hf.config import MAX_CONTEXT, MAX_LAYERS, MAX_VOCAB, Config
from planner.catalog.hf.hybrid import LINEAR, every, gated_delta, gated_experts
from planner.specs.model import Indexer, Mixer

_INDEXED = "indexed_attention"


def _indexer(config: Config) -> Indexer | None:
    """Scores keys averaged over `indexer_compress_ratio` tokens and picks `indexer_budget` tokens in such blocks."""
    if not config.has("indexer_n_heads"):
        return None
    if config.count("indexer_kv_heads") != 1:
        raise config.unknown("indexer_kv_heads", "1")
    return Indexer(
        n_heads=config.count("indexer_n_heads"),
        head_dim=config.count("indexer_head_dim"),
        top_k=config.count("indexer_budget", top=MAX_CONTEXT),
        block=config.count("indexer_compress_ratio"),
        learned_weights=False,
    )


def _streams(config: Config) -> int:
    """How many residual streams there are."""
    return config.count("hc_count", default=4, low=2, top=64)


def _hyper_connections(config: Config) -> list[dict[str, Any]]:
    """Residual streams that a low-rank product of all of them mixes before each mixer, each ffn and the head; each is
    normed, where the stack counts one norm as wide as a layer's input."""
    streams, rank, hidden = _streams(config), config.count("hc_lowrank", default=320), hidden_size(config)
    wide = streams * hidden
    extras: list[dict[str, Any]] = []
    for name, where in (("hyper", {"copies": 2, "per_layer": True}), ("hyper_head", {})):
        extras += [
            {"name": f"{name}.down", "role": "other", "n": rank, "k": wide, "matmul": True, **where},
            {"name": f"{name}.up", "role": "other", "n": wide, "k": rank, "matmul": True, **where},
            {"name": f"{name}.norm", "role": "norm", "n": wide - hidden, **where},
        ]
    inject = {"name": "hyper.inject", "role": "other", "n": streams, "k": wide, "matmul": True}
    return [*extras, inject | {"copies": 2, "per_layer": True}]


def _primes_from(start: int) -> Iterator[int]:
    """Primes that are at least `start`, which is small enough for trial division."""
    for number in range(max(start, 2), 2 * start + 3):
        if all(number % divisor for divisor in range(2, int(number**0.5) + 1)):
            yield number


def _ngram_tables(config: Config) -> list[dict[str, Any]]:
    """Embeddings of hashed n-grams in the layers of `ple_layer_ids`: one table of heads whose rows are the next primes,
    a key and a value projection, a convolution over all streams and three norms."""
    layers = len(config.counts("ple_layer_ids", top=MAX_LAYERS, low=1))
    if not layers:
        return []
    heads = (config.count("ngram_size", default=3, low=2, top=16) - 1) * config.count(
        "heads_per_ngram", default=8, top=64
    )
    base = config.count("ngram_vocab_size_base", default=20_000_000, top=16 * MAX_VOCAB)
    multiple = config.count("make_ngram_vocab_size_divisible_by", default=128)
    hidden = hidden_size(config)
    width = config.count("ple_embed_dim", default=hidden)
    if width % heads:
        raise config.bad("ple_embed_dim", f"no multiple of {heads} heads of n-grams")
    primes = _primes_from(base)
    rows = [-(-sum(next(primes) for _ in range(heads)) // multiple) * multiple for _ in range(layers)]
    wide = _streams(config) * hidden
    taps = config.count("ple_conv_kernel_size", default=4)
    table = {"name": "ngram_embedding", "role": "embedding", "k": width // heads, "copies": layers * heads}
    return [
        table | {"n": -(-sum(rows) // (layers * heads))},
        {"name": "ngram.key", "role": "other", "n": wide, "k": width, "copies": layers, "matmul": True},
        {"name": "ngram.value", "role": "other", "n": hidden, "k": width, "copies": layers, "matmul": True},
        {"name": "ngram.conv", "role": "small", "n": wide, "k": taps, "copies": layers},
        {"name": "ngram.norm", "role": "norm", "n": wide, "copies": 3 * layers},
    ]


def qwen4(config: Config) -> Parts:
    """Qwen4 (text): three gated delta nets to one gated attention that picks its tokens."""
    if config.flag("attention_bias"):
        raise config.unknown("attention_bias", "false")
    full = attention(config.defaults(head_dim=256), qk_norm="head", output_gate="full", indexer=_indexer(config))
    types = every(config, config.count("full_attention_interval", default=4))
    known = (LINEAR, FULL, _INDEXED)  # publishers say full_attention where an indexer picks
    linear = gated_delta(config)
    mixers: list[Mixer] = [linear if kind == LINEAR else full for kind in kinds(config, "layer_types", types, known)]
    extras = _hyper_connections(config) + _ngram_tables(config)
    streams = {"extras": extras, "residual_streams": _streams(config)}
    mtp = {"mtp_layers": config.size("mtp_num_hidden_layers", "num_nextn_predict_layers", top=64)}
    return outer(config) | mtp | stack(mixers, gated_experts(config)) | streams


def qwen4_vl(config: Config) -> Parts:
    """Qwen4 as published: the text model under Qwen's ViT."""
    return vision.qwen_vl(config, qwen4)


READERS: dict[str, Callable[[Config], Parts]] = {"qwen4_exp": qwen4_vl, "qwen4_exp_text": qwen4}
