"""Weight tensors of softmax attention and of latent attention, as the transformers classes hold them."""

from __future__ import annotations

from planner.params.tensor import Shard, Tensor, with_bias
from planner.specs.model import Attention, Indexer, LatentAttention, ModelSpec, Role


def _column(name: str, op: str, shape: tuple[int, int], layers: tuple[int, ...], units: int) -> Tensor:
    n, k = shape
    return Tensor(name, Role.ATTENTION, op, n, k, layers, shard=Shard.COLUMN, units=units, attention=True)


def _copy(name: str, role: Role, op: str, shape: tuple[int, int], layers: tuple[int, ...]) -> Tensor:
    n, k = shape
    return Tensor(name, role, op, n, k, layers, attention=True)


def _norm(name: str, width: int, layers: tuple[int, ...]) -> Tensor:
    return _copy(name, Role.NORM, "", (width, 1), layers)


def _output(model: ModelSpec, heads: int, v_dim: int, layers: tuple[int, ...]) -> Tensor:
    out = Tensor("attention.o", Role.ATTENTION, "attention.o", model.hidden_size, heads * v_dim, layers)
    return out._replace(shard=Shard.ROW, units=heads, attention=True)


def _sinks(heads: int, layers: tuple[int, ...]) -> Tensor:
    return _column("attention.sinks", "", (heads, 1), layers, heads)._replace(role=Role.SMALL)


def attention_tensors(mixer: Attention, model: ModelSpec, layers: tuple[int, ...]) -> list[Tensor]:
    """Projections, biases, norms and sinks of an Attention. A full output gate doubles the query projection."""
    hidden, heads, kv_heads = model.hidden_size, mixer.n_heads, mixer.n_kv_heads
    v_dim = mixer.v_head_dim or mixer.head_dim
    q_width = heads * mixer.head_dim * (2 if mixer.output_gate == "full" else 1)
    qkv = [_column("attention.q", "attention.qkv", (q_width, hidden), layers, heads)]
    if not mixer.shares_kv:
        qkv.append(_column("attention.k", "attention.qkv", (kv_heads * mixer.head_dim, hidden), layers, kv_heads))
        if not mixer.k_is_v:
            qkv.append(_column("attention.v", "attention.qkv", (kv_heads * v_dim, hidden), layers, kv_heads))
    tensors = with_bias(qkv, mixer.qkv_bias) + with_bias([_output(model, heads, v_dim, layers)], mixer.o_bias)
    if mixer.output_gate == "head":
        tensors.append(_column("attention.gate", "attention.gate", (heads, hidden), layers, heads))
    if mixer.sinks:
        tensors.append(_sinks(heads, layers))
    return tensors + _qk_norms(mixer, layers) + _indexer(mixer.indexer, model, hidden, layers)


def _qk_norms(mixer: Attention, layers: tuple[int, ...]) -> list[Tensor]:
    if mixer.qk_norm == "none":
        return []
    full = mixer.qk_norm in ("heads", "full")
    norms = [_norm("attention.q_norm", mixer.head_dim * (mixer.n_heads if full else 1), layers)]
    if not mixer.shares_kv:
        norms.append(_norm("attention.k_norm", mixer.head_dim * (mixer.n_kv_heads if full else 1), layers))
    return norms


def latent_tensors(mixer: LatentAttention, model: ModelSpec, layers: tuple[int, ...]) -> list[Tensor]:
    """Down and up projections, norms and, where there is one, the indexer of a LatentAttention."""
    hidden, heads, rank = model.hidden_size, mixer.n_heads, mixer.kv_lora_rank
    q_input = mixer.q_lora_rank or hidden
    kv_a = (rank + mixer.qk_rope_head_dim, hidden)
    down = [_copy("attention.kv_a", Role.ATTENTION, "attention.a", kv_a, layers)]
    norms = [_norm("attention.kv_a_norm", rank, layers)]
    if mixer.q_lora_rank:
        down.insert(0, _copy("attention.q_a", Role.ATTENTION, "attention.a", (mixer.q_lora_rank, hidden), layers))
        norms.append(_norm("attention.q_a_norm", mixer.q_lora_rank, layers))
    out = with_bias([_output(model, heads, mixer.v_head_dim, layers)], mixer.bias)
    tensors = with_bias(down, mixer.bias) + norms + _latent_up(mixer, layers, q_input) + out
    if mixer.output_gate != "none":
        width = heads * (mixer.v_head_dim if mixer.output_gate == "full" else 1)
        tensors.append(_column("attention.gate", "attention.gate", (width, hidden), layers, heads))
    if mixer.sinks:
        tensors.append(_sinks(heads, layers))
    if mixer.small:
        tensors.append(_copy("attention.scales", Role.SMALL, "", (mixer.small, 1), layers))
    return tensors + _indexer(mixer.indexer, model, q_input, layers)


def _latent_up(mixer: LatentAttention, layers: tuple[int, ...], q_input: int) -> list[Tensor]:
    heads = mixer.n_heads
    q = (heads * (mixer.qk_nope_head_dim + mixer.qk_rope_head_dim), q_input)
    kv = (heads * (mixer.qk_nope_head_dim + mixer.v_head_dim), mixer.kv_lora_rank)
    return [
        _column("attention.q_b", "attention.q_b", q, layers, heads),
        _column("attention.kv_b", "attention.kv_b", kv, layers, heads),
    ]


def _indexer(indexer: Indexer | None, model: ModelSpec, q_input: int, layers: tuple[int, ...]) -> list[Tensor]:
    """Projections of the indexer's queries (from `q_input`) and keys; every rank scores with all its heads."""
    if indexer is None or indexer.shared:
        return []
    heads, dim, hidden = indexer.n_heads, indexer.head_dim, model.hidden_size
    tensors = [
        _copy("indexer.q", Role.ATTENTION, "indexer.q", (heads * dim, q_input), layers),
        _copy("indexer.k", Role.ATTENTION, "indexer.k", (dim, hidden), layers),
        _norm("indexer.k_norm", dim, layers),
    ]
    if indexer.pooled:
        tensors.append(_copy("indexer.pool_gate", Role.ATTENTION, "indexer.k", (dim, hidden), layers))
        tensors.append(_copy("indexer.pool_position", Role.SMALL, "", (dim, indexer.block), layers))
    if not indexer.learned_weights:
        return [*tensors, _norm("indexer.q_norm", dim, layers)]
    weights = _copy("indexer.weights", Role.ATTENTION, "indexer.weights", (heads, hidden), layers)
    return [*tensors, _norm("indexer.k_norm.bias", dim, layers), weights]
