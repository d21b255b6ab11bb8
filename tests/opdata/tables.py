"""Tables of public operator measurements as readings, without those that cannot be trusted.

What is left out, and why: rows faster than 1.02 x the datasheet (caches, or broken timers); weights that stay in
the L2 between replays, unless arithmetic hides them; decode attention whose cache may stay there, since the source
replays one graph on the same cache, unless reading it is a small part of its time; ungrouped heads in
FlashAttention 2; sources known to be bound by the host.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from planner.catalog.efficiency import peak_rates
from planner.specs.gpu import GpuSpec
from planner.specs.run import AttentionShape, CollectiveShape, GemmShape
from tests.opdata.readings import (
    MICRO,
    PRECISIONS,
    Reading,
    attention_reading,
    expert_precision,
    expert_reading,
    gemm_reading,
    possible,
)

COPIES = {"nvfp4": 1, "fp8_block": 6}  # weight buffers that the source rotates through; 6 for the rest
L2_BYTES = {"b300": 126.5 * 2**20}  # where the profile states none: that of B200
HIDDEN_BY_MATH = 2.0  # arithmetic this much longer than memory hides where the weights came from
BEYOND_L2 = 2.0  # times the L2 from which a replay finds nothing of the cache there
UNSEEN = 0.1  # of a kernel's time, that reading its cache may take wherever it comes from
FLASH_2 = (8, 12)  # major compute capabilities where vLLM reads 16-bit caches with FlashAttention 2
SHORTEST = 128  # context
FEATURES = (512, 1024, 2048, 4096, 6144, 8192, 16384)
PROMPTS = (64, 256, 1024, 4096, 16384)
HEADS_OF_LLAMA_8B = (32, 8)


def _l2_bytes(card: GpuSpec) -> float:
    return card.l2_bytes or L2_BYTES.get(card.id, 0.0)


def _cold(reading: Reading, card: GpuSpec) -> bool:
    assert isinstance(reading.shape, GemmShape)
    weights = PRECISIONS[reading.dtype].weight * reading.shape.n * reading.shape.k
    bandwidth, peak = peak_rates(card, reading.family)
    hidden = reading.flops / peak >= HIDDEN_BY_MATH * reading.bytes / bandwidth
    return hidden or weights * COPIES.get(reading.dtype, 6) > _l2_bytes(card)


def gemm_readings(folder: Path, name: str, card: GpuSpec) -> Iterator[Reading]:
    """Every product of a GPU's table that can be trusted, aligned batches only (engines pad theirs)."""
    table = pd.read_csv(folder / f"gemm_{name}.csv")
    smallest = min(FEATURES)
    aligned = (table.m <= 8) | (table.m % 8 == 0)
    table = table[aligned & (table.n >= smallest) & (table.k >= smallest) & (table.k <= max(FEATURES))]
    for row in table.itertuples():
        reading = gemm_reading(row)
        if possible(reading, card) and _cold(reading, card):
            yield reading


def _from_memory(reading: Reading, card: GpuSpec) -> bool:
    """Whether the time is that of a cache in memory: prompts, caches beyond the L2, and those that hardly count."""
    shape = reading.shape
    assert isinstance(shape, AttentionShape)
    bandwidth, _ = peak_rates(card, reading.family)
    unseen = reading.bytes / bandwidth <= UNSEEN * reading.seconds
    return shape.new > 1 or unseen or reading.bytes >= BEYOND_L2 * _l2_bytes(card)


def _undivided(reading: Reading, card: GpuSpec) -> bool:
    """Decode of ungrouped heads in FlashAttention 2: one multiprocessor reads all of a head's cache, at 22 to 27 GB/s.

    It divides caches of grouped heads alone (flash_api.cpp: `set_params_splitkv` under `seqlenq_ngroups_swapped`).
    """
    shape, major = reading.shape, int(card.compute_capability or 0)
    assert isinstance(shape, AttentionShape)
    ungrouped = shape.new == 1 and shape.query_heads == shape.kv_heads
    return ungrouped and reading.family == "attention-decode-16" and major in FLASH_2


def attention_readings(folder: Path, name: str, card: GpuSpec) -> Iterator[Reading]:
    """Attention of vLLM where there is one, else of the first source."""
    table = pd.read_csv(folder / f"attention_{name}.csv")
    table = table[(table.s >= np.where(table.kind == "decode", SHORTEST, PROMPTS[0]))]
    for _, group in table.groupby(["kind", "attn", "kv"]):
        sources = sorted(group.src.unique(), key=lambda source: (not source.startswith("vllm"), source))
        for row in group[group.src == sources[0]].itertuples():
            if row.kind == "prefill" and row.attn == "bfloat16" and row.kv == "fp8":
                continue  # its arithmetic is that of the 16-bit family, its cache is not
            reading = attention_reading(row)
            if possible(reading, card) and _from_memory(reading, card) and not _undivided(reading, card):
                yield reading


def expert_readings(folder: Path, name: str, card: GpuSpec) -> Iterator[Reading]:
    """Balanced routing; tables of some GPUs are missing."""
    path = folder / f"moe_{name}.csv"
    if path.is_file():
        table = pd.read_csv(path)
        for row in table[table.distribution == "balanced"].itertuples():
            kind = expert_precision(row)
            reading = kind and expert_reading(row, kind)
            if reading and possible(reading, card):
                yield reading


# Small tables of other sources.
class _Product(NamedTuple):
    """A row of a small table, named as the large ones name theirs."""

    src: str
    m: int
    n: int
    k: int
    us: float
    dtype: str = "bfloat16"


class _Decode(NamedTuple):
    """A decode row of a small table, likewise."""

    src: str
    b: int
    s: int
    us: float
    nq: int = HEADS_OF_LLAMA_8B[0]
    nkv: int = HEADS_OF_LLAMA_8B[1]
    kind: str = "decode"
    attn: str = "bfloat16"
    kv: str = "bfloat16"


def small_readings(folder: Path, name: str, card: GpuSpec) -> Iterator[Reading]:
    """A40: linear operators by vidur. RTX 4090: products and decode attention of Llama-3.1-8B, timed inside vLLM."""
    if name == "a40":
        found = [gemm_reading(_Product("vidur", r.m, r.n, r.k, r.us)) for r in _table(folder, "vidur_linear_a40")]
    else:
        dense = [r for r in _table(folder, "llmservingsim_dense") if (r.gpu, r.tp) == ("RTX4090", 1) and r.n and r.k]
        found = [gemm_reading(_Product("vllm-0.19", r.m, r.n, r.k, r.time_us)) for r in dense]
        for r in _table(folder, "llmservingsim_attention"):
            if (r.gpu, r.prefill_chunk) == ("RTX4090", 0) and r.kv_decode >= SHORTEST:
                found.append(attention_reading(_Decode("vllm-0.19", r.n_decode, r.kv_decode, r.time_us)))
    yield from (reading for reading in found if possible(reading, card))


def _table(folder: Path, name: str) -> list[Any]:
    return list(pd.read_csv(folder / f"{name}.csv").itertuples())


COLLECTIVES = {"all_reduce": "all_reduce", "all_gather": "all_gather", "alltoall": "all_to_all"}


def collective_readings(folder: Path, name: str) -> Iterator[Reading]:
    """All-reduce of vLLM where measured, NCCL for the rest; message sizes in elements of 2 bytes."""
    table = pd.read_csv(folder / "comm_all.csv")
    half = table.dtype.isin(("half", "bfloat16", "float16"))
    table = table[(table.gpu == name) & table.op.isin(COLLECTIVES) & half]
    for (op, ranks), group in table.groupby(["op", "n_gpus"]):
        sources = sorted(group.src.unique(), key=lambda source: (not source.startswith("vllm"), source))
        for size, same in group[group.src == sources[0]].groupby("elements"):
            shape = CollectiveShape(ranks=int(ranks), size_bytes=2 * int(size))
            seconds = float(same.us.min()) * MICRO
            yield Reading(COLLECTIVES[op], sources[0], "half", shape, 2.0 * size, 0.0, seconds)
