"""What a sequence occupies in memory: bytes per token, blocks, windows and states, by kind of layer."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from planner.identity import Same
from planner.memory.placement import Placements
from planner.memory.pooled import compressed_layers, packed_table, split_table
from planner.memory.table import CacheLayers, CacheTable, LayersAndBytes
from planner.memory.terms import Array, Flags, Floats, MemoryInputs, floats
from planner.memory.weights import cache_group, largest_part, layers_on_stages
from planner.params import mixer_layers
from planner.params.compressed import cached_as
from planner.params.recurrent import recurrent_state
from planner.specs.engine import CacheLayout, EngineSpec
from planner.specs.model import (
    Attention,
    CompressedAttention,
    LatentAttention,
    LinearAttention,
    Mamba,
    Mixer,
    ModelSpec,
)

_BYTES = {"fp32": 4, "bf16": 2}


class CachePart(NamedTuple):
    """A cache that layers of one kind keep for every token, up to `reach` tokens back."""

    mixer: Attention | LatentAttention
    reach: float
    layers: tuple[int, ...]
    joint: bool = False  # keys and values are one tensor


class Kinds(NamedTuple):
    """The distinct caches of a model and the layers that own one."""

    parts: tuple[CachePart, ...]
    states: tuple[tuple[LinearAttention | Mamba, tuple[int, ...]], ...]


def _parts_of(mixer: Mixer, layers: tuple[int, ...], cross: bool, shared: bool) -> list[CachePart]:
    """Caches that grow with a sequence; layers that read another layer's cache own none, unless `shared`.

    `cross`: layers that attend to an image have pages like the others; else what they keep does not grow with the text.
    """
    if isinstance(mixer, CompressedAttention):
        return [part._replace(joint=True) for one in cached_as(mixer) for part in _parts_of(one, layers, cross, shared)]
    if isinstance(mixer, LatentAttention):
        return [CachePart(mixer, np.inf, layers)]
    if isinstance(mixer, Attention) and (shared or not mixer.shares_kv) and (cross or not mixer.cross):
        return [CachePart(mixer, float(mixer.window or mixer.chunk or np.inf), layers)]
    return []


def _same_cache(part: CachePart) -> tuple[object, ...]:
    """Parts with equal keys are one kind of cache."""
    mixer = part.mixer
    if isinstance(mixer, LatentAttention):
        return (part.reach, mixer.kv_lora_rank, mixer.qk_rope_head_dim, mixer.indexer)
    return (part.reach, mixer.n_kv_heads, mixer.head_dim, mixer.v_head_dim, mixer.k_is_v, mixer.indexer)


def cache_kinds(model: ModelSpec, cross: bool = False, shared: bool = False) -> Kinds:
    """Kinds of cache in the model, equal ones of different mixers merged; an encoder has none."""
    return _cache_kinds(Same(model), cross, shared)


@lru_cache(maxsize=512)
def _cache_kinds(same: Same[ModelSpec], cross: bool, shared: bool) -> Kinds:
    model = same.value
    parts: dict[tuple[object, ...], CachePart] = {}
    states: dict[LinearAttention | Mamba, tuple[int, ...]] = {}
    for index, mixer in enumerate(model.mixers):
        layers = mixer_layers(model, index)
        for part in _parts_of(mixer, layers, cross, shared) if model.causal else []:
            before = parts.get(_same_cache(part))
            parts[_same_cache(part)] = part._replace(layers=(before.layers if before else ()) + layers)
        if isinstance(mixer, LinearAttention | Mamba):
            states[mixer] = states.get(mixer, ()) + layers
    return Kinds(tuple(parts.values()), tuple(states.items()))


def kv_bytes_per_token_and_layer(part: CachePart, engine: EngineSpec, inputs: MemoryInputs) -> Array:
    """Bytes that one token leaves in one layer on one GPU.

    Engines store keys and values apart also where one projection gives both: gemma-4-26B fills 84.68 GiB of vLLM
    0.25.1 with 14.92 sequences of 262144 tokens, and 640 MiB of llama.cpp with 32768 cells of its 5 full layers.

    GQA: max(K / group, 1) x (head_dim x k_bytes + v_head_dim x v_bytes); past K ranks the heads are
    replicated, hence the max. MLA: one latent and one rotary key, replicated on every rank of the group.
    """
    mixer = part.mixer
    indexer = _indexer_bytes(mixer, engine)
    if isinstance(mixer, LatentAttention):
        width = mixer.kv_lora_rank + mixer.qk_rope_head_dim
        values_width = mixer.kv_lora_rank if engine.cache.latent_values else 0
        if mixer.indexer is not None and engine.cache.sparse_latent_bytes:
            packed = packed_latents(engine, inputs)
            return np.where(packed, engine.cache.sparse_latent_bytes, width * inputs.kv_k_bytes) + indexer
        return width * inputs.kv_k_bytes + values_width * inputs.kv_v_bytes + indexer
    heads = mixer.n_kv_heads * largest_part(mixer.n_kv_heads, cache_group(engine, inputs.parallel))
    value_width = 0 if part.joint else mixer.v_head_dim or mixer.head_dim
    per_head = mixer.head_dim * inputs.kv_k_bytes + value_width * inputs.kv_v_bytes + inputs.kv_head_bytes
    return heads * per_head + indexer


def packed_latents(engine: EngineSpec, inputs: MemoryInputs) -> Flags:
    """(R,): whether latents that an indexer picks from are cached in 8 bit with scales and a 16-bit rotary key."""
    packs = ~np.asarray(inputs.device.plain_latents, dtype=bool) & bool(engine.cache.sparse_latent_bytes)
    return np.asarray((floats(inputs.kv_k_bytes) == 1) & packs)


def _indexer_bytes(mixer: Attention | LatentAttention, engine: EngineSpec) -> float:
    """Keys that a sparse attention's indexer caches per token (per block, where pooled), on every rank.

    Layers that take an earlier layer's picks have none, but where all layers own pages alike.
    """
    indexer = mixer.indexer
    if indexer is None or (indexer.shared and not engine.cache.shared_layers):
        return 0.0
    return indexer.head_dim * engine.cache.indexer_value_bytes / (indexer.block if indexer.pooled else 1)


def state_bytes_per_sequence_and_layer(
    mixer: LinearAttention | Mamba, group: Array, conv_bytes: float, drafted: Array = 0.0
) -> Array:
    """Bytes of one recurrent state in one layer on one GPU: the state, and the inputs that the convolution keeps,
    those of drafted tokens with them. Heads divide over the group.
    """
    size = recurrent_state(mixer)
    heads = mixer.n_v_heads if isinstance(mixer, LinearAttention) else mixer.n_heads
    units = mixer.inner if isinstance(mixer, Mamba) and mixer.version == 1 else heads
    kept = size.conv_values * (1 + floats(drafted) / max(mixer.conv_width - 1, 1))
    whole = size.state_values * _BYTES[mixer.state_dtype] + kept * conv_bytes
    return whole * largest_part(units, group)


def _margin(engine: EngineSpec, inputs: MemoryInputs) -> Array:
    """In-flight tokens that a window layer keeps on top of its window."""
    if engine.cache.window_margin == "step":
        steps = np.maximum(engine.cache.margin_steps, inputs.parallel.pp) if engine.cache.margin_steps > 1 else 1
        return steps * floats(inputs.settings.max_num_batched_tokens) - 1
    return inputs.settings.n_ubatch if engine.cache.window_margin == "ubatch" else 0.0


def cache_layers(model: ModelSpec, engine: EngineSpec, inputs: MemoryInputs, where: Placements) -> CacheLayers:
    """Kinds of cache of a model with their layers on each stage."""
    kinds = cache_kinds(model, engine.cache.cross_layers, engine.cache.shared_layers)
    rows, group = len(where.rows), cache_group(engine, inputs.parallel)
    conv = engine.cache.conv_value_bytes
    in_pages = engine.cache.draft_state_slots and engine.cache.state_in_pool
    drafted = inputs.settings.draft_tokens if in_pages else 0.0
    return CacheLayers(
        LayersAndBytes(
            layers_on_stages(model, tuple(part.layers for part in kinds.parts), where),
            _stacked([kv_bytes_per_token_and_layer(part, engine, inputs) for part in kinds.parts], rows),
        ),
        floats([part.reach for part in kinds.parts]).reshape(-1, 1, 1),
        LayersAndBytes(
            layers_on_stages(model, tuple(layers for _, layers in kinds.states), where),
            _stacked(
                [state_bytes_per_sequence_and_layer(mixer, group, conv, drafted) for mixer, _ in kinds.states], rows
            ),
        ),
    )


def joined(one: CacheLayers, more: CacheLayers) -> CacheLayers:
    """The layers of two models in one pool; equal kinds are added up."""
    attention, reach = _added(one.attention, more.attention, one.reach, more.reach)
    states, _ = _added(one.states, more.states, *(np.zeros((len(x.states.layers), 1, 1)) for x in (one, more)))
    return CacheLayers(attention, reach, states)


def _added(
    one: LayersAndBytes, more: LayersAndBytes, reach: Floats, more_reach: Floats
) -> tuple[LayersAndBytes, Floats]:
    layers, sizes, reaches = list(one.layers), list(one.unit_bytes), list(reach)
    for count, size, far in zip(more.layers, more.unit_bytes, more_reach, strict=True):
        same = [i for i, known in enumerate(sizes) if reaches[i] == far and np.array_equal(known, size)]
        if same:
            layers[same[0]] = layers[same[0]] + count
        else:
            layers, sizes, reaches = [*layers, count], [*sizes, size], [*reaches, far]
    if not layers:
        return one, reach
    return LayersAndBytes(np.stack(np.broadcast_arrays(*layers)), np.stack(sizes)), np.stack(reaches)


def drafted_states(engine: EngineSpec, inputs: MemoryInputs) -> Floats:
    """States of one sequence that its drafted tokens are verified with."""
    drafts = floats(inputs.settings.draft_tokens)
    return floats(engine.cache.draft_state_slots * drafts + engine.cache.first_state_slots * (drafts > 0))


def cache_table(
    model: ModelSpec, engine: EngineSpec, inputs: MemoryInputs, where: Placements, draft: CacheLayers | None = None
) -> CacheTable:
    """The rules of the engine's cache manager for every row; a draft model's layers share the pool."""
    found = cache_layers(model, engine, inputs, where)
    attention, reach, states = joined(found, draft) if draft else found
    given = inputs.settings.block_tokens
    block = floats(engine.cache.block_tokens if given is None else given)
    windowed = np.isfinite(reach) & (engine.cache.layout is not CacheLayout.FULL)
    table = _plain_table(block, attention, states, np.where(windowed, reach, np.inf))
    slots = engine.cache.state_slots + drafted_states(engine, inputs)
    table = table._replace(
        cap_tokens=table.live_tokens + _margin(engine, inputs),
        spare_blocks=np.where(windowed, engine.cache.spare_blocks, 0.0),
        state_bytes=table.state_bytes * slots,
    )
    mixed = bool(np.any(windowed) and not np.all(windowed))
    pooled = any(isinstance(mixer, CompressedAttention) for mixer in model.mixers)
    if engine.cache.layout is CacheLayout.GROUPED and pooled:
        layers = compressed_layers(model, inputs, where, draft)
        return packed_table(table, engine, layers, _margin(engine, inputs))
    if engine.cache.layout is CacheLayout.GROUPED and (mixed or len(states.layers)):
        table = _grouped(table, block, engine, attention, states)
        return table._replace(state_bytes=table.state_bytes * slots)
    if engine.cache.layout is CacheLayout.SPLIT and pooled and engine.cache.pooled_window_share:
        return split_table(table, engine, inputs, compressed_layers(model, inputs, where, draft))
    return _split(table, engine, windowed) if engine.cache.layout is CacheLayout.SPLIT and mixed else table


def _plain_table(block: Floats, attention: LayersAndBytes, states: LayersAndBytes, live: Floats) -> CacheTable:
    """The rules where every layer has blocks of its own, by one block table."""
    token_bytes = attention.layers * attention.unit_bytes
    return CacheTable(
        block_tokens=np.broadcast_to(block, attention.unit_bytes.shape),
        cap_tokens=live,
        live_tokens=live,
        spare_blocks=np.zeros_like(live),
        block_bytes=token_bytes * block,
        pool_block_bytes=np.sum(token_bytes * block, axis=0),
        token_bytes=np.sum(token_bytes, axis=0),
        state_bytes=np.sum(states.layers * states.unit_bytes, axis=0),
        groups=np.ones(token_bytes.shape[1:]),
    )


def _stacked(values: list[Array], rows: int) -> Floats:
    """(K, 1, R) from K arrays."""
    if not values:
        return np.zeros((0, 1, rows))
    return np.stack([np.broadcast_to(floats(value), (rows,)) for value in values])[:, None, :]


def _grouped(
    table: CacheTable, block: Array, engine: EngineSpec, attention: LayersAndBytes, states: LayersAndBytes
) -> CacheTable:
    """vLLM's hybrid manager: layers of a kind form groups of one size, every group draws pages of one size.

    The group size is the smallest count of layers of a kind (the largest where the counts are close); a last
    group is padded. The page is the largest of any kind: attention blocks grow until a recurrent state fits
    in one, and smaller pages hold more tokens where they divide the page, else they are padded. `state_bytes`
    are those of one state of a sequence. Ref: vllm/v1/core/kv_cache_utils.py.
    """
    counts = np.concatenate([attention.layers, states.layers])
    smallest = np.min(np.where(counts > 0, counts, np.inf), axis=0)
    largest = np.max(counts, axis=0)
    size = np.where(largest < engine.cache.group_slack * smallest, largest, np.where(largest > 0, smallest, 0))
    groups = np.ceil(counts / np.maximum(size, 1))
    attention_page = np.max(attention.unit_bytes, axis=0, initial=0.0) * block
    state_page = np.max(states.unit_bytes, axis=0, initial=0.0)
    stretch = np.maximum(np.ceil(state_page / np.maximum(attention_page, 1)), 1)
    page = np.where(attention_page > 0, attention_page * stretch, state_page)
    ratio = page / np.maximum(attention.unit_bytes * block * stretch, 1e-9)
    per_group = size * page
    n_attention = len(attention.layers)
    return table._replace(
        block_tokens=block * stretch * np.where(ratio == np.floor(ratio), ratio, 1.0),
        block_bytes=groups[:n_attention] * per_group,
        pool_block_bytes=per_group,
        state_bytes=np.sum(groups[n_attention:] * per_group, axis=0),
        groups=np.sum(groups, axis=0),
    )


def _split(table: CacheTable, engine: EngineSpec, windowed: Flags) -> CacheTable:
    """SGLang's two pools: for every token of the full pool the window pool has `window_share`."""
    share = np.where(windowed, engine.cache.window_share, 1.0)
    return table._replace(share=share, pool_block_bytes=np.sum(table.block_bytes * share, axis=0))
