"""Tables of DeepSeek V4's cache: vLLM's packed blocks, SGLang's two pools."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from planner.memory.packed import PACKED_VECTOR_BYTES, Table, packed, pooled_bytes
from planner.memory.placement import Placements
from planner.memory.table import CacheLayers, CacheTable
from planner.memory.terms import Array, Floats, MemoryInputs, floats
from planner.memory.weights import layers_on_stages
from planner.params import mixer_layers
from planner.specs.engine import EngineSpec
from planner.specs.model import CompressedAttention, ModelSpec


class Compressed(NamedTuple):
    """Layers of compressed attention."""

    mixers: tuple[CompressedAttention, ...]
    given: Floats  # (M + 2, S, R): layers of each mixer, layers of heads that draft, bytes of a vector


def compressed_layers(
    model: ModelSpec, inputs: MemoryInputs, where: Placements, draft: CacheLayers | None
) -> Compressed:
    """Of a model that has such layers."""
    mixers = tuple(mixer for mixer in model.mixers if isinstance(mixer, CompressedAttention))
    at = tuple(mixer_layers(model, index) for index, one in enumerate(model.mixers) if one in mixers)
    drafting = np.sum(draft.attention.layers, axis=0) if draft else 0.0
    plain = mixers[0].head_dim * floats(inputs.kv_k_bytes)
    vector = np.where(floats(inputs.kv_k_bytes) == 1, PACKED_VECTOR_BYTES, plain)
    return Compressed(mixers, np.stack(np.broadcast_arrays(*layers_on_stages(model, at, where), drafting, vector)))


def packed_table(table: CacheTable, engine: EngineSpec, layers: Compressed, margin: Array) -> CacheTable:
    """vLLM's blocks of compressed attention, in which every layer has a page; see `planner.memory.packed`."""
    mixers, given = layers
    kinds, back = np.unique(given.reshape(len(given), -1), axis=1, return_inverse=True)
    key_byte = engine.cache.indexer_value_bytes
    blocks = [packed(mixers, tuple(int(count) for count in one[:-1]), float(one[-1]), key_byte) for one in kinds.T]
    tables = floats([one.tables for one in blocks])[back].reshape(*given.shape[1:], -1, len(Table._fields))
    tokens, live, copies, own = np.moveaxis(tables, (-1, -2), (0, 1))
    pool = floats([one.block_bytes for one in blocks])[back].reshape(given.shape[1:])
    limited = np.isfinite(live)
    counted = np.where(own[0] > 0, pool * own / np.maximum(own[0], 1), 0.0)
    return table._replace(
        block_tokens=tokens,
        live_tokens=live,
        cap_tokens=live + np.where(limited, margin, 0.0),
        spare_blocks=np.where(limited, engine.cache.spare_blocks, 0.0),
        block_bytes=copies * pool,
        pool_block_bytes=pool,
        groups=np.sum(copies, axis=0),
        told_bytes=counted if engine.cache.own_pages_told else None,
        one_step=True,
    )


def split_table(table: CacheTable, engine: EngineSpec, inputs: MemoryInputs, layers: Compressed) -> CacheTable:
    """SGLang's pools of compressed attention: of pooled vectors, and for a part of their tokens of windows.

    With `keeps_chunk` a running sequence keeps all of its prompt's last step in the windows' pool.
    """
    mixers, given = layers
    rules, counts, drafting, vector = engine.cache, given[:-2], given[-2], given[-1]
    pools = [pooled_bytes(one, vector, rules.indexer_value_bytes, rules.pooled_slots) for one in mixers]
    full, window, slot = (
        np.sum([count * one[part] for count, one in zip(counts, pools, strict=True)], axis=0) for part in range(3)
    )
    step = inputs.settings.max_num_batched_tokens
    step = step if engine.scheduler.rank_budget else step / floats(inputs.parallel.attention_dp)
    kept = np.minimum(step, inputs.load.input_tokens) if rules.keeps_chunk else 0.0
    held = np.broadcast_to(np.maximum(mixers[0].window, floats(kept)), full.shape[-1:])[None]
    live = np.stack([np.full_like(held, np.inf), held])
    unit = np.stack([full, window + drafting * vector])
    share = floats([1.0, rules.pooled_window_share]).reshape(2, 1, 1)
    block = table.block_tokens[:1]
    per_token = np.sum(unit * share, axis=0)
    return table._replace(
        block_tokens=np.broadcast_to(block, live.shape),
        live_tokens=live,
        cap_tokens=live,
        spare_blocks=np.zeros((2, 1, 1)),
        block_bytes=unit * block,
        pool_block_bytes=per_token * block[0],
        token_bytes=per_token,
        share=share,
        slot_bytes=slot,
    )
