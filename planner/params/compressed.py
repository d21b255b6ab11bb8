"""DeepSeek V4's compressed attention: its weight tensors, and what it caches."""

from __future__ import annotations

from planner.params.tensor import Shard, Tensor
from planner.specs.model import Attention, CompressedAttention, ModelSpec, Role


def cached_as(mixer: CompressedAttention) -> tuple[Attention, ...]:
    """The caches of one layer as attentions of one head whose key is the value too: the last `window` tokens in
    full, and for every token its share of a pooled vector and of the indexer's pooled key.

    Left out: the tokens of pools that are still open, at most `ratio` (CSA: twice that) a layer and sequence.
    Ref: transformers DeepseekV4HCACache and DeepseekV4CSACache
    """
    local = Attention(n_heads=mixer.n_heads, n_kv_heads=1, head_dim=mixer.head_dim, k_is_v=True, window=mixer.window)
    if not mixer.ratio:
        return (local,)
    width = mixer.head_dim + (mixer.indexer.head_dim if mixer.indexer else 0)
    return (local, local.model_copy(update={"window": None, "head_dim": -(-width // mixer.ratio)}))


def _series(mixer: CompressedAttention) -> int:
    """Pooled series: two that overlap where an indexer picks among them, else one."""
    return 2 if mixer.indexer else 1


def compressed_tensors(mixer: CompressedAttention, model: ModelSpec, layers: tuple[int, ...]) -> list[Tensor]:
    """Low-rank queries and outputs, one key-value projection, sinks, and the compressor."""
    hidden, width, heads, out = model.hidden_size, mixer.head_dim, mixer.n_heads, mixer.o_groups * mixer.o_lora_rank
    groups = mixer.o_groups
    return [
        _copy("attention.q_a", "attention.a", mixer.q_lora_rank, hidden, layers),
        _copy("attention.kv", "attention.a", width, hidden, layers),
        _norm("attention.q_a_norm", mixer.q_lora_rank, layers),
        _norm("attention.kv_norm", width, layers),
        _split(_copy("attention.q_b", "attention.q_b", heads * width, mixer.q_lora_rank, layers), heads),
        _split(_copy("attention.o_a", "attention.o_a", out, heads * width // groups, layers), groups),
        _split(_copy("attention.o_b", "attention.o_b", hidden, out, layers), groups, Shard.ROW),
        _split(_small("attention.sinks", heads, 1, layers), heads),
        *_compressor(mixer, hidden, layers),
    ]


def _split(tensor: Tensor, units: int, shard: Shard = Shard.COLUMN) -> Tensor:
    return tensor._replace(shard=shard, units=units)


def _compressor(mixer: CompressedAttention, hidden: int, layers: tuple[int, ...]) -> list[Tensor]:
    if not mixer.ratio:
        return []
    tensors = _pool("compressor", mixer.head_dim, mixer, hidden, layers)
    if mixer.indexer is None:
        return tensors
    heads, dim = mixer.indexer.n_heads, mixer.indexer.head_dim
    return [
        *tensors,
        *_pool("indexer", dim, mixer, hidden, layers),
        _copy("indexer.q_b", "indexer.q_b", heads * dim, mixer.q_lora_rank, layers),
        _copy("indexer.weights", "indexer.weights", heads, hidden, layers),
    ]


def _pool(name: str, width: int, mixer: CompressedAttention, hidden: int, layers: tuple[int, ...]) -> list[Tensor]:
    """Values, their gates, a learned position within the pool, and a norm."""
    wide = _series(mixer) * width
    return [
        _copy(f"{name}.kv", f"{name}.pool", wide, hidden, layers),
        _copy(f"{name}.gate", f"{name}.pool", wide, hidden, layers),
        _small(f"{name}.position", wide, mixer.ratio, layers),
        _norm(f"{name}.norm", width, layers),
    ]


def _copy(name: str, op: str, n: int, k: int, layers: tuple[int, ...]) -> Tensor:
    return Tensor(name, Role.ATTENTION, op, n, k, layers, attention=True)


def _small(name: str, n: int, k: int, layers: tuple[int, ...]) -> Tensor:
    return Tensor(name, Role.SMALL, "", n, k, layers, attention=True)


def _norm(name: str, n: int, layers: tuple[int, ...]) -> Tensor:
    return Tensor(name, Role.NORM, "", n, 1, layers, attention=True)
