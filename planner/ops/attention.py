"""Softmax and latent attention: what a step reads from the cache and computes on it.

Attended tokens are counted exactly for one prompt of `length` new tokens after `cached` ones; a batch of
prompts is represented by its mean length. Ref: [scaling-book ch. 4], FlashMLA and DeepSeek-V3.2 for MLA and DSA.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from planner.arrays import PerRow
from planner.collectives import Parallel
from planner.ops.records import FUSED_ONLY, FUSED_SCORES, GeneralKernel, Op, OpKind, Scores, Slot, Widths, Work
from planner.specs.model import Attention, Indexer, LatentAttention, Mixer

SCORE_BYTES = 4  # of one score, as it stands between products
NARROW = 256  # values of the widest head that FlashAttention and FlashInfer take


class Heads(NamedTuple):
    """One kind of attention on one GPU."""

    queries: PerRow  # query heads
    flops_per_pair: PerRow  # of a (query token, key token) pair, all heads
    cache_bytes: PerRow  # of one token
    io_bytes: PerRow  # queries in and outputs out, per token


def causal_pairs(cached: PerRow, length: PerRow, reach: PerRow = np.inf) -> PerRow:
    """(query, key) pairs when each of `length` new tokens sees itself and at most `reach - 1` before it.

    >>> float(causal_pairs(0, 4)), float(causal_pairs(100, 4, reach=16))  # 1 + 2 + 3 + 4, and 4 x 16
    (10.0, 64.0)
    """
    return _pairs_before(cached + length, reach) - _pairs_before(cached, reach)


def _pairs_before(end: PerRow, reach: PerRow) -> PerRow:
    """Pairs of the tokens 0 .. end-1: a triangle up to `reach`, then a band of that width."""
    inside = np.minimum(end, reach)
    return inside * (inside + 1) / 2 + inside * (end - inside)


def chunked_pairs(cached: PerRow, length: PerRow, chunk: PerRow) -> PerRow:
    """Pairs when a token sees only what precedes it in its own chunk (Llama 4)."""

    def before(end: PerRow) -> PerRow:
        whole, rest = np.floor(end / chunk), np.mod(end, chunk)
        return whole * chunk * (chunk + 1) / 2 + rest * (rest + 1) / 2

    return before(cached + length) - before(cached)


class Reading(NamedTuple):
    """One thing that a mixer attends to: its own keys and values, or the keys of an indexer."""

    name: str
    decode: Heads
    prefill: Heads
    reach: float = np.inf  # the most cached tokens that one new token reads
    chunk: int | None = None  # of block-local attention
    gather: Heads | None = None  # of prompts whose tokens read keys of their own each ...
    gathers_from: PerRow = np.inf  # ... where they see more than so many tokens
    idle: PerRow = 0.0  # sequences that would keep all of a GPU reading, where fewer leave parts of it idle
    runs_general: PerRow = False  # rows in which it runs in the general kernel ...
    general: GeneralKernel = FUSED_ONLY  # ... which is this one
    joins: bool = False  # the kernel of the reading before it reads this too


def mean_length(work: Work) -> PerRow:
    """New tokens of one prompt in this step."""
    return work.prefill / np.maximum(work.prefill_seqs, 1.0)


def attended_pairs(reading: Reading, work: Work, causal: bool) -> PerRow:
    """(query, key) pairs of one prompt of mean length in this step."""
    length = mean_length(work)
    if not causal:
        return length * (work.prefill_context + length)
    if reading.chunk:
        return chunked_pairs(work.prefill_context, length, reading.chunk)
    return causal_pairs(work.prefill_context, length, reading.reach)


def reach_tokens(mixer: Attention | LatentAttention) -> float:
    """The most cached tokens that one new token reads. Inside a chunk that is its end, an upper bound."""
    picked = mixer.indexer.top_k if mixer.indexer else np.inf
    if isinstance(mixer, LatentAttention):
        return picked
    return min(mixer.window or np.inf, mixer.chunk or np.inf, picked)


def attention_heads(mixer: Attention, widths: Widths, parallel: Parallel) -> Heads:
    """Grouped-query heads, keys stored apart from values; past as many GPUs as KV heads the cache is replicated."""
    group = parallel.attention_group
    queries = mixer.n_heads / np.minimum(group, mixer.n_heads)
    kv_heads = mixer.n_kv_heads / np.minimum(group, mixer.n_kv_heads)
    v_dim = mixer.v_head_dim or mixer.head_dim
    cache = kv_heads * (mixer.head_dim * widths.kv_k + v_dim * widths.kv_v)
    pair, io = 2 * queries * (mixer.head_dim + v_dim), queries * (mixer.head_dim + v_dim) * widths.activation
    return Heads(queries, pair, cache, io)


def is_wide(mixer: Mixer) -> bool:
    """Whether its heads have more values than FlashAttention and FlashInfer take."""
    return isinstance(mixer, Attention) and mixer.head_dim > NARROW


def general_reading(mixer: Attention, own: Reading, widths: Widths, parallel: Parallel) -> Reading:
    """The reading in a kernel for any heads: its blocks each read at their share of the bandwidth, in 16 bit or more.

    Shaped like that: a cached token of Gemma 4 takes 14.5 ns per layer on RTX PRO 6000 with two heads as with four.
    """
    kernel, wide = widths.general, is_wide(mixer)
    runs = kernel.wide if wide else kernel.narrow
    kv_heads = mixer.n_kv_heads / np.minimum(parallel.attention_group, mixer.n_kv_heads)
    at_least = kv_heads * (mixer.head_dim + (mixer.v_head_dim or mixer.head_dim)) * widths.activation
    cached, pair = own.decode.cache_bytes, own.prefill.flops_per_pair
    return own._replace(
        decode=own.decode._replace(cache_bytes=np.where(runs, np.maximum(cached, at_least), cached)),
        prefill=own.prefill._replace(flops_per_pair=pair * np.where(runs, 1.0, kernel.fused_cost if wide else 1.0)),
        idle=np.where(runs, kernel.blocks / (kv_heads * kernel.segments), 0.0),
        runs_general=runs,
        general=kernel,
    )


def absorbed_heads(mixer: LatentAttention, widths: Widths, parallel: Parallel) -> Heads:
    """Decode of MLA: every head reads the latent itself, keys of latent + rope and values of latent width."""
    queries = mixer.n_heads / np.minimum(parallel.attention_group, mixer.n_heads)
    key = mixer.kv_lora_rank + mixer.qk_rope_head_dim
    values = queries * (key + mixer.kv_lora_rank)
    return Heads(queries, 2 * values, key * widths.kv_k, values * widths.activation)


def expanded_heads(mixer: LatentAttention, widths: Widths, parallel: Parallel) -> Heads:
    """Prefill of MLA: keys and values expanded to full heads (by kv_b), then ordinary attention."""
    queries = mixer.n_heads / np.minimum(parallel.attention_group, mixer.n_heads)
    key = mixer.qk_nope_head_dim + mixer.qk_rope_head_dim
    values = queries * (key + mixer.v_head_dim)
    return Heads(queries, 2 * values, values * widths.activation, values * widths.activation)


def indexer_heads(indexer: Indexer, widths: Widths) -> Heads:
    """Scores of a sparse indexer: one shared key per token, or per pooled block, replicated on every GPU."""
    values, pool = indexer.n_heads * indexer.head_dim, indexer.block if indexer.pooled else 1
    scored = (values + indexer.n_heads) * widths.activation
    return Heads(indexer.n_heads, 2 * values / pool, indexer.head_dim * widths.index / pool, scored)


def readings(
    mixer: Attention | LatentAttention, widths: Widths, parallel: Parallel, latent_prompts: bool = False
) -> list[Reading]:
    """The attention itself and, unless it takes an earlier layer's picks, the indexer that scores every token.

    `latent_prompts`: prompts attend to the latents of MLA as generated tokens do.
    """
    reach = reach_tokens(mixer)
    if isinstance(mixer, Attention):
        heads = attention_heads(mixer, widths, parallel)
        own = Reading("attention", heads, heads, reach, mixer.chunk)
        if widths.general is not FUSED_ONLY:
            own = general_reading(mixer, own, widths, parallel)
        elif mixer.sinks:
            own = own._replace(prefill=heads._replace(flops_per_pair=widths.sink_cost * heads.flops_per_pair))
    else:
        decode = absorbed_heads(mixer, widths, parallel)
        prefill = decode if latent_prompts else expanded_heads(mixer, widths, parallel)
        own = Reading("attention", decode, prefill, reach, gather=decode, gathers_from=reach)
    if mixer.indexer is None or mixer.indexer.shared:
        return [own]
    scores = indexer_heads(mixer.indexer, widths)
    return [own, Reading("indexer", scores, scores)]


def score_traffic_bytes(scores: Scores, pairs: PerRow) -> PerRow:
    """Bytes that the scores of `pairs` (query, key, head) move: all of the traffic beyond what the cache C keeps.

    T n S / (S + C), S = 4 n bytes of scores. Shaped like that: growth from 512 to 4096 tokens in llama.cpp is 1.4 times
    smaller on RTX 4090 (72 MiB) than on RTX 3090 (6 MiB) at the same bandwidth.
    """
    if scores is FUSED_SCORES:
        return 0.0
    held = SCORE_BYTES * pairs
    return scores.traffic * pairs * held / np.maximum(held + scores.cache, 1.0)


def _in_kernels(fused: Op, general: Op, runs_general: PerRow) -> list[Op]:
    """The operation in the kernels that some row runs it in; each has no work in the others' rows."""
    found = [fused._replace(count=fused.count * ~np.asarray(runs_general))] if not np.all(runs_general) else []
    return found + ([general._replace(count=general.count * runs_general)] if np.any(runs_general) else [])


def decode_ops(reading: Reading, work: Work, layers: int, scores: Scores = FUSED_SCORES) -> list[Op]:
    """New tokens of each sequence (one, and those drafted) against min(context, reach) cached ones, read once."""
    heads, read = reading.decode, np.minimum(work.decode_context, reading.reach)
    keys = work.decode * read
    tokens = work.decode * work.decode_tokens
    moved = keys * heads.cache_bytes * np.maximum(reading.idle / np.maximum(work.decode, 1.0), 1.0)
    moved = moved + tokens * heads.io_bytes + score_traffic_bytes(scores, tokens * read * heads.queries)
    flops, count = keys * work.decode_tokens * heads.flops_per_pair, layers * np.sign(work.decode)
    name, k = f"{reading.name}.decode", np.maximum(read, 1.0)
    fused = Op(name, OpKind.ATTENTION, Slot.DECODE, count, flops, moved, work.decode, heads.queries, k)
    if reading.general is FUSED_ONLY:
        return [fused]
    return _in_kernels(fused, fused._replace(rate=Slot.GENERAL_DECODE), reading.runs_general)


def joined(ops: Sequence[Op], more: Sequence[Op]) -> list[Op]:
    """The operations of two readings in one kernel, as FlashMLA takes a window and further keys beside it."""
    pairs = zip(ops, more, strict=True)
    return [one._replace(flops=one.flops + x.flops, bytes=one.bytes + x.bytes, k=one.k + x.k) for one, x in pairs]


def general_pairs(reading: Reading, work: Work, pairs: PerRow) -> PerRow:
    """Pairs of one prompt as the general kernel pays for them: it masks what lies behind a window and goes on."""
    if np.isinf(reading.reach):
        return pairs
    length, kernel = mean_length(work), reading.general
    masked = causal_pairs(0.0, length) - causal_pairs(0.0, length, reading.reach)
    return pairs * kernel.window_cost + masked * kernel.masked_cost


def prefill_ops(reading: Reading, causal: bool, work: Work, layers: int, scores: Scores = FUSED_SCORES) -> list[Op]:
    """Every prompt's keys and values are read once, its pairs are computed; or every pair's key is read, if gathered.

    Attention that is not fused writes the scores of every query against every key of its reach, masked ones too.
    """
    heads, length = reading.prefill, mean_length(work)
    pairs = attended_pairs(reading, work, causal)
    keys = work.prefill_seqs * (work.prefill_context + length)
    scored = work.prefill * (np.minimum(work.prefill_context, reading.reach) + length)
    moved = keys * heads.cache_bytes + work.prefill * heads.io_bytes
    moved = moved + score_traffic_bytes(scores, scored * heads.queries)
    flops, count = work.prefill_seqs * pairs * heads.flops_per_pair, layers * np.sign(work.prefill)
    name, k = f"{reading.name}.prefill", np.maximum(pairs / np.maximum(length, 1.0), 1.0)
    dense = Op(name, OpKind.ATTENTION, Slot.PREFILL, count, flops, moved, work.prefill, heads.queries, k)
    if reading.gather is None:
        if reading.general is FUSED_ONLY:
            return [dense]
        paid = work.prefill_seqs * general_pairs(reading, work, pairs) * heads.flops_per_pair
        return _in_kernels(dense, dense._replace(rate=Slot.GENERAL_PREFILL, flops=paid), reading.runs_general)
    gathers, each = np.greater(work.prefill_context + length, reading.gathers_from), reading.gather
    read = work.prefill_seqs * pairs
    moved, flops = read * each.cache_bytes + work.prefill * each.io_bytes, read * each.flops_per_pair
    sparse = dense._replace(rate=Slot.GATHER, count=count * gathers, flops=flops, bytes=moved, n=each.queries)
    return [dense._replace(count=count * ~gathers), sparse]
