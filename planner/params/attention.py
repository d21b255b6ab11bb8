"""Weight tensors of softmax attention and of latent attention, as the transformers classes hold them."""

from __future__ import annotations

from planner.params.tensor import Shard, Tensor, with_bias
from planner.specs.model import Attention, LatentAttention, ModelSpec, Role


def _column(name: str, op: str, n: int, k: int, layers: tuple[int, ...], units: int) -> Tensor:
    return Tensor(name, Role.ATTENTION, op, n, k, layers, shard=Shard.COLUMN, units=units, attention=True)


def _copy(name: str, role: Role, op: str, n: int, k: int, layers: tuple[int, ...]) -> Tensor:
    return Tensor(name, role, op, n, k, layers, attention=True)


def attention_tensors(mixer: Attention, model: ModelSpec, layers: tuple[int, ...]) -> list[Tensor]:
    """Projections, biases, norms and sinks of an Attention."""
    hidden, heads, kv_heads = model.hidden_size, mixer.n_heads, mixer.n_kv_heads
    v_dim = mixer.v_head_dim or mixer.head_dim
    q_width = heads * mixer.head_dim * (2 if mixer.output_gate == "full" else 1)
    qkv = [_column("attention.q", "attention.qkv", q_width, hidden, layers, heads)]
    if not mixer.shares_kv:
        qkv.append(_column("attention.k", "attention.qkv", kv_heads * mixer.head_dim, hidden, layers, kv_heads))
        if not mixer.k_is_v:
            qkv.append(_column("attention.v", "attention.qkv", kv_heads * v_dim, hidden, layers, kv_heads))
    out = Tensor("attention.o", Role.ATTENTION, "attention.o", hidden, heads * v_dim, layers)
    out = out._replace(shard=Shard.ROW, units=heads, attention=True)
    tensors = with_bias(qkv, mixer.qkv_bias) + with_bias([out], mixer.o_bias)
    if mixer.output_gate == "head":
        tensors.append(_column("attention.gate", "attention.gate", heads, hidden, layers, heads))
    if mixer.sinks:
        tensors.append(_column("attention.sinks", "", heads, 1, layers, heads)._replace(role=Role.SMALL))
    return tensors + _qk_norms(mixer, layers)


def _qk_norms(mixer: Attention, layers: tuple[int, ...]) -> list[Tensor]:
    if mixer.qk_norm == "none":
        return []
    full = mixer.qk_norm == "full"
    norms = [_copy("attention.q_norm", Role.NORM, "", mixer.head_dim * (mixer.n_heads if full else 1), 1, layers)]
    if not mixer.shares_kv:
        width = mixer.head_dim * (mixer.n_kv_heads if full else 1)
        norms.append(_copy("attention.k_norm", Role.NORM, "", width, 1, layers))
    return norms


def latent_tensors(mixer: LatentAttention, model: ModelSpec, layers: tuple[int, ...]) -> list[Tensor]:
    """Down and up projections, norms and, where there is one, the indexer of a LatentAttention."""
    hidden, heads, rank = model.hidden_size, mixer.n_heads, mixer.kv_lora_rank
    q_width = heads * (mixer.qk_nope_head_dim + mixer.qk_rope_head_dim)
    q_input = mixer.q_lora_rank or hidden
    down = [_copy("attention.kv_a", Role.ATTENTION, "attention.a", rank + mixer.qk_rope_head_dim, hidden, layers)]
    norms = [_copy("attention.kv_a_norm", Role.NORM, "", rank, 1, layers)]
    if mixer.q_lora_rank:
        down.insert(0, _copy("attention.q_a", Role.ATTENTION, "attention.a", mixer.q_lora_rank, hidden, layers))
        norms.append(_copy("attention.q_a_norm", Role.NORM, "", mixer.q_lora_rank, 1, layers))
    kv_width = heads * (mixer.qk_nope_head_dim + mixer.v_head_dim)
    up = [
        _column("attention.q_b", "attention.q_b", q_width, q_input, layers, heads),
        _column("attention.kv_b", "attention.kv_b", kv_width, rank, layers, heads),
    ]
    out = Tensor("attention.o", Role.ATTENTION, "attention.o", hidden, heads * mixer.v_head_dim, layers)
    out = out._replace(shard=Shard.ROW, units=heads, attention=True)
    return with_bias(down, mixer.bias) + norms + up + with_bias([out], mixer.bias) + _indexer(mixer, model, layers)


def _indexer(mixer: LatentAttention, model: ModelSpec, layers: tuple[int, ...]) -> list[Tensor]:
    if mixer.indexer is None:
        return []
    heads, dim, hidden = mixer.indexer.n_heads, mixer.indexer.head_dim, model.hidden_size
    q_input = mixer.q_lora_rank or hidden
    return [
        _copy("indexer.q_b", Role.ATTENTION, "indexer.q_b", heads * dim, q_input, layers),
        _copy("indexer.k", Role.ATTENTION, "indexer.k", dim, hidden, layers),
        _copy("indexer.k_norm", Role.NORM, "", dim, 1, layers),
        _copy("indexer.k_norm.bias", Role.NORM, "", dim, 1, layers),
        _copy("indexer.weights", Role.ATTENTION, "indexer.weights", heads, hidden, layers),
    ]
