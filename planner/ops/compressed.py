"""DeepSeek V4's attention: a window of tokens, and pooled vectors beyond it that stand for `ratio` tokens each.

A pooled vector costs what a token costs; counted in tokens its price is divided by the ratio.
"""

from __future__ import annotations

import numpy as np

from planner.collectives import Parallel
from planner.ops.attention import Heads, Reading, indexer_heads
from planner.ops.records import Widths
from planner.specs.model import CompressedAttention

GATHERED_HEADS = 64


def window_heads(mixer: CompressedAttention, widths: Widths, parallel: Parallel) -> Heads:
    """Every head reads the one cached vector of a token, as key and as value."""
    queries = mixer.n_heads / np.minimum(parallel.attention_group, mixer.n_heads)
    values = 2 * queries * mixer.head_dim
    return Heads(queries, 2 * values, mixer.head_dim * widths.kv_k, values * widths.activation)


def gathering(heads: Heads) -> Heads:
    """What a kernel computes that gathers keys: at least `GATHERED_HEADS`, empty ones too (FlashMLA pads to 64)."""
    padded = np.maximum(GATHERED_HEADS / heads.queries, 1.0)
    return heads._replace(flops_per_pair=padded * heads.flops_per_pair)


def pooled(heads: Heads, ratio: int) -> Heads:
    """Prices of one token where a vector stands for `ratio` of them; queries and results went with the window."""
    return Heads(heads.queries, heads.flops_per_pair / ratio, heads.cache_bytes / ratio, 0.0)


def compressed_readings(mixer: CompressedAttention, widths: Widths, parallel: Parallel) -> list[Reading]:
    """Window, pooled vectors (all, or those that the indexer picks), and the indexer's scores.

    Every token of a prompt gathers the vectors of its own window and pool, whatever the prompt's length.
    """
    local = window_heads(mixer, widths, parallel)
    each = gathering(local)
    readings = [Reading("window", local, local, mixer.window, gather=each, gathers_from=0)]
    if mixer.ratio:
        vectors = pooled(local, mixer.ratio)
        reach = mixer.indexer.top_k if mixer.indexer else np.inf
        gathered = pooled(each, mixer.ratio)
        readings.append(Reading("pooled", vectors, vectors, reach, gather=gathered, gathers_from=0, joins=True))
    if mixer.ratio and mixer.indexer:
        scores = indexer_heads(mixer.indexer, widths)
        readings.append(Reading("indexer", scores, scores))
    return readings
