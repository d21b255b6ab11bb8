"""DeepSeek V4's cache: vLLM's packed blocks, and what SGLang's two pools hold.

In vLLM one block holds a page of every layer, whatever it is used for. Layers form tables: one of all pooled vectors,
some of windows, some of pools that are still open. Each table draws whole blocks, however little of them it fills.
Ref: vllm/v1/core/kv_cache_utils.py _get_kv_cache_groups_uniform_groups, _get_kv_cache_config_packed
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil, floor, log2
from typing import NamedTuple

from planner.memory.terms import Array, Floats
from planner.specs.model import CompressedAttention, Indexer

BLOCK_TOKENS = 256  # vllm/models/deepseek_v4/sparse_mla.py
WINDOW_TOKENS = 64  # of a block that holds windows, vllm/v1/attention/backends/mla/sparse_swa.py
ALIGNED_BYTES = 576  # pages of 8-bit vectors end on these, vllm/v1/kv_cache_interface.py _apply_alignment_padding
PACKED_VECTOR_BYTES = 584  # 448 FP8 values, a rotary key of 64 in 16 bit and 8 scales; the same file
_STATE_BYTES = 4  # of values and gates of open pools, vllm/models/deepseek_v4/compressor.py


class Table(NamedTuple):
    """A kind of block table that every sequence has."""

    tokens: float  # of one block
    live: float  # tokens behind which it forgets
    copies: int  # tables of this kind
    own_bytes: float  # pages of its layers in one block, all tables of the kind together


class Packed(NamedTuple):
    """The tables, that of pooled vectors first, and bytes of a block of the pool."""

    tables: tuple[Table, ...]
    block_bytes: float


def _series(mixer: CompressedAttention) -> int:
    return 2 if mixer.indexer else 1


def _page(vectors: float, vector_bytes: float, packs: bool) -> float:
    size = vectors * vector_bytes
    return ceil(size / ALIGNED_BYTES) * ALIGNED_BYTES if packs else size


def _tuples(counts: tuple[int, ...]) -> int:
    """Layers of a table: at least as many as pooled ones of a kind, with the fewest left empty, the most of equals."""
    return min(range(counts[0], max(counts) + 1), key=lambda size: (sum(-count % size for count in counts), -size))


@lru_cache(maxsize=512)
def packed(
    mixers: tuple[CompressedAttention, ...], layers: tuple[int, ...], vector_bytes: float, key_byte: float
) -> Packed:
    """Tables of so many layers of each mixer; those behind the mixers' own are heads that draft, with windows alone.

    `key_byte`: of one value of the indexer's keys, scales included. Open pools are kept in FP32, values and gates.
    """
    packs = vector_bytes == PACKED_VECTOR_BYTES
    pooled = [(mixer, count) for mixer, count in zip(mixers, layers, strict=False) if mixer.ratio]
    counts, total = [count for _, count in pooled], sum(layers)
    size = _tuples((max([1, *counts]), total, *counts))
    page = _page(WINDOW_TOKENS, vector_bytes, packs)
    slots: dict[float, int] = {page: ceil(total / max(ceil(total / size), 1))}
    tables, full = [Table(WINDOW_TOKENS, mixers[0].window, ceil(total / size), total * page)], 0.0
    for mixer, count in pooled:
        vectors, keys = BLOCK_TOKENS // mixer.ratio, _key_bytes(mixer.indexer, key_byte)
        pages = [_page(vectors, vector_bytes, packs), *([_page(vectors, keys, True)] if keys else [])]
        for one in pages:
            slots[one] = max(slots.get(one, 0), count)
        full += count * sum(pages)
        token_bytes = 2 * _series(mixer) * mixer.head_dim * _STATE_BYTES
        tokens = 2 ** max(floor(log2(WINDOW_TOKENS * PACKED_VECTOR_BYTES / token_bytes)), 0)
        own = count * (page + sum(pages[1:]))
        tables.append(Table(tokens, _series(mixer) * mixer.ratio, ceil(count / size), own))
    whole = Table(BLOCK_TOKENS, float("inf"), 1, full)
    return Packed((whole, *tables), sum(one * count for one, count in slots.items()))


class Pooled(NamedTuple):
    """What a layer keeps in SGLang."""

    full_bytes: Array  # per token: its share of pooled vectors and keys
    window_bytes: Array  # per token of the windows' pool: a vector, and its share of pools that are open
    slot_bytes: float  # per sequence that may run


def pooled_bytes(mixer: CompressedAttention, vector_bytes: Floats, key_byte: float, slot_pools: bool) -> Pooled:
    """One layer's; `slot_pools`: open pools that no indexer picks from belong to slots.

    Ref: sglang pool_configurator.py DSV4PoolConfigurator._get_bytes_per_full_token
    """
    if not mixer.ratio:
        return Pooled(0.0, vector_bytes, 0.0)
    keys = _key_bytes(mixer.indexer, key_byte)
    width = mixer.head_dim + (mixer.indexer.head_dim if mixer.indexer else 0)
    tokens = _series(mixer) * mixer.ratio
    open_bytes = tokens * 2 * _series(mixer) * width * _STATE_BYTES
    own = slot_pools and not mixer.indexer
    shared = 0.0 if own else open_bytes / mixer.window
    return Pooled((vector_bytes + keys) / mixer.ratio, vector_bytes + shared, open_bytes if own else 0.0)


def _key_bytes(indexer: Indexer | None, key_byte: float) -> float:
    return indexer.head_dim * key_byte if indexer else 0.0
