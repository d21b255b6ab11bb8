"""Readers of encoders for embedding and reranking: BERT, RoBERTa and XLM-R, ModernBERT; heads on decoders."""

from __future__ import annotations

from typing import Any

from planner.catalog.hf.attention import attention
from planner.catalog.hf.common import Parts, dense, hidden_size, n_layers, outer, stack
from planner.catalog.hf.config import MAX_CONTEXT, Config
from planner.specs.model import DenseFfn


def _architecture(config: Config) -> str:
    return next(iter(config.texts("architectures")), "")


def _labels(config: Config) -> int:
    """Outputs of a classification head: `num_labels`, else the entries of `id2label`, else transformers' two."""
    return config.count("num_labels", default=len(config.sub("id2label").data) or 2)


def _embeddings(config: Config) -> list[dict[str, Any]]:
    width = hidden_size(config)
    return [
        {"name": "position", "role": "position", "n": config.count("max_position_embeddings"), "k": width},
        {"name": "token_type", "role": "position", "n": config.count("type_vocab_size", default=2), "k": width},
    ]


def _heads(config: Config, pooled: bool) -> tuple[list[dict[str, Any]], str]:
    """The head that the class puts on top, and the task it serves."""
    width, architecture = hidden_size(config), _architecture(config)
    square = {"role": "other", "n": width, "k": width, "bias": True}
    if architecture.endswith("ForSequenceClassification"):
        out = {"name": "classifier", "role": "other", "n": _labels(config), "k": width, "bias": True}
        return [{"name": "pooler" if pooled else "classifier.dense", **square}, out], "rerank"
    if not architecture or architecture.endswith("Model"):
        return [{"name": "pooler", **square}], "embed"
    raise config.unknown("architectures", "...Model, ...ForSequenceClassification")


def bert(config: Config, pooled: bool = True) -> Parts:
    """BERT: learned positions, biases everywhere, norms after the blocks, no logits over the vocabulary."""
    config = config.defaults(
        vocab_size=30522,
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=3072,
        max_position_embeddings=512,
    )
    if config.text("position_embedding_type", "absolute") != "absolute":
        raise config.unknown("position_embedding_type", "absolute")
    heads, task = _heads(config, pooled)
    mixer = attention(config, qkv_bias=True, o_bias=True)
    ffn = DenseFfn(intermediate=config.count("intermediate_size"), gated=False, bias=True)
    count = n_layers(config)
    return (
        outer(config)
        | stack([mixer] * count, [ffn] * count)
        | {"norm": "layer", "embedding_norm": True, "final_norm": False, "lm_head": False, "causal": False}
        | {"tie_embeddings": False, "extras": _embeddings(config) + heads, "task": task}
    )


def roberta(config: Config) -> Parts:
    """RoBERTa and XLM-R: BERT whose first positions are taken by the padding."""
    parts = bert(config.defaults(vocab_size=50265, type_vocab_size=1), pooled=False)
    padding = config.count("pad_token_id", default=1, low=0, top=MAX_CONTEXT)
    return parts | {"max_position": max(parts["max_position"] - padding - 1, 1)}


def modernbert(config: Config) -> Parts:
    """ModernBERT: rotary positions, gated MLP, no biases, every third layer global.

    The first layer takes the embedding's norm for its own, so the two are counted once.
    """
    config = config.defaults(
        vocab_size=50368,
        hidden_size=768,
        num_hidden_layers=22,
        num_attention_heads=12,
        intermediate_size=1152,
        max_position_embeddings=8192,
        local_attention=128,
        global_attn_every_n_layers=3,
    )
    if _architecture(config) and not _architecture(config).endswith("Model"):
        raise config.unknown("architectures", "ModernBertModel")
    for field in ("norm_bias", "mlp_bias"):
        if config.flag(field):
            raise config.unknown(field, "false")
    every, base = config.count("global_attn_every_n_layers"), attention(config)
    local = base.model_copy(update={"window": config.count("local_attention", top=MAX_CONTEXT)})
    mixers = [local if layer % every else base for layer in range(n_layers(config))]
    return (
        outer(config)
        | stack(mixers, [dense(config)] * n_layers(config))
        | {"norm": "layer_no_bias", "lm_head": False, "causal": False, "tie_embeddings": False, "task": "embed"}
    )


def on_decoder(config: Config, parts: Parts) -> Parts:
    """A decoder under a class without logits over the vocabulary: ...Model embeds, ...ForSequenceClassification
    scores with one matrix."""
    architecture = _architecture(config)
    if parts.get("lm_head") is False:
        return parts
    bare = {"lm_head": False, "tie_embeddings": False}
    if architecture.endswith("ForSequenceClassification"):
        score = {"name": "score", "role": "other", "n": _labels(config), "k": parts["hidden_size"]}
        return parts | bare | {"task": "rerank", "extras": [*parts.get("extras", []), score]}
    if architecture.endswith("Model"):
        return parts | bare | {"task": "embed"}
    return parts
