"""Public operator measurements (ai-dynamo/aiconfigurator@095f58a, Apache-2.0) as calibration runs.

    run, held_back = convert(folder, "h200_sxm")

The folder holds gemm_<gpu>.csv, attention_<gpu>.csv, moe_<gpu>.csv and comm_all.csv, extracts of the source's tables.

What is left out, and why: rows faster than 1.02 x the datasheet (caches, or broken timers); weights that stay in
the L2 between replays, unless arithmetic hides them; decode attention whose cache is near the L2 in size, since the
source replays one graph on the same cache; sources known to be bound by the host.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from planner import __version__
from planner.catalog.gpus import gpu
from planner.catalog.rates import peak_rates
from planner.ops.products import distinct_experts
from planner.specs.gpu import GpuSpec
from planner.specs.run import (
    AttentionShape,
    CollectiveShape,
    Environment,
    ExpertShape,
    GemmShape,
    Mode,
    Point,
    Run,
    Shape,
    Timing,
)

SOURCE = "ai-dynamo/aiconfigurator@095f58a (Apache-2.0)"
GPUS = {
    "a100_sxm": "a100-80-sxm",
    "l40s": "l40s",
    "h100_sxm": "h100-sxm",
    "h200_sxm": "h200-sxm",
    "b200_sxm": "b200",
    "b300_sxm": "b300",
    "gb200": "gb200",
    "rtx_pro_6000_server": "rtxpro6000-server",
}
COPIES = {"nvfp4": 1, "fp8_block": 6}  # weight buffers that the source rotates through; 6 for the rest
HEAD_DIM = 128
L2_BYTES = {"b300": 126.5 * 2**20}  # where the profile states none: that of B200
LIMIT = 1.02
HIDDEN_BY_MATH = 2.0  # arithmetic this much longer than memory hides where the weights came from
HOT_CACHE = (0.1, 2.0)  # of the L2: decode attention between is faster than from memory
SHORTEST = 128  # context
MICRO = 1e-6

FEATURES = (512, 1024, 2048, 4096, 6144, 8192, 16384)
HEADS_OUT = 65536  # rows of a language-model head
TOKENS = (1, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 16384)
SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONTEXTS = (128, 512, 2048, 8192, 32768, 131072)
PROMPTS = (64, 256, 1024, 4096, 16384)
HEADS = ((32, 8), (8, 1), (8, 8), (64, 8), (16, 2), (32, 4), (16, 16))
HELD_EXPERTS = 3  # every third geometry is held back


class Precision(NamedTuple):
    """How a data type of the tables is priced: kernel family, bytes per weight, bytes per activation value moved."""

    family: str
    weight: float
    activation: float = 2.0


PRECISIONS = {
    "bfloat16": Precision("gemm-16", 2.0),
    "fp8": Precision("gemm-fp8", 1.0, 4.0),  # read, quantized, written, read
    "fp8_block": Precision("gemm-fp8-block", 1.0002, 4.0),
    "sq": Precision("gemm-int8", 1.0, 4.0),
    "int8_wo": Precision("wo-8", 1.0),
    "int4_wo": Precision("wo-4", 0.5156),
    "nvfp4": Precision("gemm-fp4", 0.5625, 3.125),
    "w4a16_mxfp4": Precision("wo-4", 0.53125),
}


class Reading(NamedTuple):
    """One row of a table, with what it had to move and to compute."""

    family: str
    kernel: str
    dtype: str
    shape: Shape
    bytes: float
    flops: float
    seconds: float

    def point(self, order: int) -> Point:
        one = float(self.seconds)
        timing = Timing(median_s=one, p10_s=one, p90_s=one, reps=6)  # the source keeps a mean of 6 replays
        return Point(
            family=self.family,
            kernel=_word(self.kernel),
            dtype=_word(self.dtype),
            shape=self.shape,
            bytes=self.bytes,
            flops=self.flops,
            timing=timing,
            order=order,
        )


def _word(text: str) -> str:
    return text.lower().replace("_", "-")[:79]


def possible(reading: Reading, card: GpuSpec) -> bool:
    """Not faster than the datasheet allows."""
    bandwidth, peak = peak_rates(card, reading.family)
    return reading.seconds >= max(reading.bytes / bandwidth, reading.flops / peak) / LIMIT


def _l2_bytes(card: GpuSpec) -> float:
    return card.l2_bytes or L2_BYTES.get(card.id, 0.0)


# Products.


def gemm_reading(row: Any) -> Reading:
    kind, m, n, k = PRECISIONS[row.dtype], int(row.m), int(row.n), int(row.k)
    moved = kind.weight * n * k + kind.activation * m * k + 2 * m * n
    return Reading(kind.family, row.src, row.dtype, GemmShape(m=m, n=n, k=k), moved, 2.0 * m * n * k, row.us * MICRO)


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


def in_gemm_grid(shape: Shape) -> bool:
    """Whether the converted run keeps a product; the others are held back."""
    assert isinstance(shape, GemmShape)
    inside = shape.n in FEATURES or shape.n == HEADS_OUT
    return shape.m in TOKENS and shape.k in FEATURES and inside


# Attention.


def attention_reading(row: Any) -> Reading:
    b, nq, nkv, s = int(row.b), int(row.nq), int(row.nkv), int(row.s)
    io = 2.0 * nq * HEAD_DIM * 2
    if row.kind == "decode":
        width = 1.0 if row.kv == "fp8" else 2.0
        family = "attention-decode-8" if row.kv == "fp8" else "attention-decode-16"
        shape = AttentionShape(sequences=b, new=1, cached=s, query_heads=nq, kv_heads=nkv, head_dim=HEAD_DIM)
        moved, pairs = b * s * 2 * nkv * HEAD_DIM * width + b * io, float(b * s)
    else:
        family = "attention-prefill-8" if row.attn == "fp8" else "attention-prefill-16"
        shape = AttentionShape(sequences=b, new=s, cached=0, query_heads=nq, kv_heads=nkv, head_dim=HEAD_DIM)
        moved, pairs = b * s * (2 * nkv * HEAD_DIM * 2.0 + io), b * s * (s + 1) / 2
    flops = pairs * 4 * nq * HEAD_DIM
    return Reading(family, row.src, f"{row.attn}-{row.kv}", shape, moved, flops, row.us * MICRO)


def _outside_the_cache(reading: Reading, card: GpuSpec) -> bool:
    shape = reading.shape
    assert isinstance(shape, AttentionShape)
    if shape.new > 1:
        return True
    low, high = (share * _l2_bytes(card) for share in HOT_CACHE)
    return reading.bytes <= low or reading.bytes >= high


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
            if possible(reading, card) and _outside_the_cache(reading, card):
                yield reading


def in_attention_grid(shape: Shape) -> bool:
    assert isinstance(shape, AttentionShape)
    lengths = shape.cached in CONTEXTS if shape.new == 1 else shape.new in PROMPTS
    return lengths and shape.sequences in SEQUENCES and (shape.query_heads, shape.kv_heads) in HEADS


# Experts.


def expert_reading(row: Any) -> Reading:
    kind = PRECISIONS[row.moe_dtype]
    inner = int(row.inter_size) // int(row.moe_tp_size)
    tokens, active, experts, hidden = (int(v) for v in (row.num_tokens, row.topk, row.num_experts, row.hidden_size))
    shape = ExpertShape(tokens=tokens, hidden=hidden, inner=inner, experts=experts, active=active)
    touched = float(distinct_experts(experts, active, tokens)) * 3 * hidden * inner * kind.weight
    m, n = tokens * active, 3 * inner
    moved = touched + m * hidden * kind.activation + 2 * m * n
    return Reading(
        f"moe-{kind.family}", row.kernel_source, row.moe_dtype, shape, moved, 2.0 * m * n * hidden, row.us * MICRO
    )


def expert_readings(folder: Path, name: str, card: GpuSpec) -> Iterator[Reading]:
    """Balanced routing; tables of some GPUs are missing."""
    path = folder / f"moe_{name}.csv"
    if path.is_file():
        table = pd.read_csv(path)
        table = table[(table.distribution == "balanced") & table.moe_dtype.isin(PRECISIONS)]
        for row in table.itertuples():
            reading = expert_reading(row)
            if possible(reading, card):
                yield reading


def geometry_is_kept(shape: Shape) -> bool:
    """Two of three geometries, all their batches together."""
    assert isinstance(shape, ExpertShape)
    return (shape.hidden // 256 + shape.inner // 128 + shape.experts + shape.active) % HELD_EXPERTS != 0


# Collectives.

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


# The run.


def _kept(readings: Sequence[Reading]) -> list[Reading]:
    keeps = {GemmShape: in_gemm_grid, AttentionShape: in_attention_grid, ExpertShape: geometry_is_kept}
    return [reading for reading in readings if keeps.get(type(reading.shape), lambda shape: True)(reading.shape)]


def readings(folder: Path, name: str) -> list[Reading]:
    """Every trustworthy row of a GPU."""
    card = gpu(GPUS[name])
    found = [*gemm_readings(folder, name, card), *attention_readings(folder, name, card)]
    return found + [*expert_readings(folder, name, card), *collective_readings(folder, name)]


def as_run(found: Sequence[Reading], name: str) -> Run:
    """Readings as a converted run."""
    card = gpu(GPUS[name])
    return Run(
        id=f"aic-095f58a-{card.id}",
        gpu=card.id,
        created="2026-08-21T00:00:00Z",
        planner_version=__version__,
        mode=Mode.CONVERTED,
        source=SOURCE,
        environment=Environment(gpu_name=card.name, device_token="0" * 16),
        points=tuple(reading.point(order) for order, reading in enumerate(found)),
    )


def convert(folder: str | Path, name: str) -> tuple[Run, list[Reading]]:
    """The run of a GPU's grid, and the readings that it holds back."""
    everything = readings(Path(folder), name)
    kept = _kept(everything)
    held = {id(reading) for reading in kept}
    return as_run(kept, name), [reading for reading in everything if id(reading) not in held]
