"""Public operator measurements as calibration runs.

    run, held_back = convert(folder, "h200_sxm")

The folder holds extracts of the sources' tables: gemm_<gpu>.csv, attention_<gpu>.csv, moe_<gpu>.csv and comm_all.csv of
ai-dynamo/aiconfigurator@095f58a (Apache-2.0), vidur_linear_a40.csv of microsoft/vidur (MIT), and
llmservingsim_{dense,attention}.csv of casys-kaist/LLMServingSim (MIT), timings inside vLLM 0.19.

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

AIC = "ai-dynamo/aiconfigurator@095f58a (Apache-2.0)"
SOURCES = {"a40": "microsoft/vidur (MIT)", "rtx4090": "casys-kaist/LLMServingSim (MIT), in vLLM 0.19"}
GPUS = {
    "a100_sxm": "a100-80-sxm",
    "l40s": "l40s",
    "h100_sxm": "h100-sxm",
    "h200_sxm": "h200-sxm",
    "b200_sxm": "b200",
    "b300_sxm": "b300",
    "gb200": "gb200",
    "rtx_pro_6000_server": "rtxpro6000-server",
    "a40": "a40",
    "rtx4090": "rtx4090",
}
COPIES = {"nvfp4": 1, "fp8_block": 6}  # weight buffers that the source rotates through; 6 for the rest
HEAD_DIM = 128
L2_BYTES = {"b300": 126.5 * 2**20}  # where the profile states none: that of B200
LIMIT = 1.02
HIDDEN_BY_MATH = 2.0  # arithmetic this much longer than memory hides where the weights came from
HOT_CACHE = (0.1, 2.0)  # of the L2: decode attention between is faster than from memory
SHORTEST = 128  # context
STRAGGLER = 1.25  # times what more rows take
MICRO = 1e-6

FEATURES = (512, 1024, 2048, 4096, 6144, 8192, 16384)
HEADS_OUT = 65536  # rows of a language-model head
TOKENS = (1, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 16384)
SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONTEXTS = (128, 512, 2048, 8192, 32768, 131072)
PROMPTS = (64, 256, 1024, 4096, 16384)
HEADS = ((32, 8), (8, 1), (8, 8), (64, 8), (16, 2), (32, 4), (16, 16))
HELD = 3  # every third geometry of experts, and every third matrix of small tables, is held back
HEADS_OF_LLAMA_8B = (32, 8)


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
}
# Experts by kernel: those that engines pick, and how each is priced. Others are left out: FP8 per tensor on Hopper (its
# kernel of vLLM 0.24 attains a sixth of the bandwidth), MXFP4 with 16-bit activations on B200 (engines quantize them).
# Activations are read, sorted or quantized, written and read again, as `efficiency.yaml` counts them.
EXPERTS = {
    ("bfloat16", "triton"): Precision("moe-gemm-16", 2.0, 4.0),
    ("bfloat16", "flashinfer_trtllm"): Precision("moe-gemm-16", 2.0, 4.0),
    ("bfloat16", "flashinfer_cutlass"): Precision("moe-gemm-16", 2.0, 4.0),
    ("fp8", "triton"): Precision("moe-gemm-fp8", 1.0, 4.0),
    ("fp8", "flashinfer_trtllm"): Precision("moe-gemm-fp8", 1.0, 4.0),
    ("fp8_block", "triton"): Precision("moe-gemm-fp8-block", 1.0002, 4.0),
    ("fp8_block", "trtllmfp8expertsmonolithic"): Precision("moe-gemm-fp8-block", 1.0002, 4.0),
    ("nvfp4", "trtllmnvfp4expertsmonolithic"): Precision("moe-gemm-fp4", 0.5625, 4.0),
    ("nvfp4", "flashinfer_cutlass"): Precision("moe-gemm-fp4", 0.5625, 4.0),
    ("int4_wo", "marlin"): Precision("moe-wo-4", 0.53125, 4.0),
    ("w4a16_mxfp4", "gptossmxfp4moe_triton"): Precision("moe-mx4", 0.53125, 4.0),
    ("w4a16_mxfp4", "gptossmxfp4moe_marlin"): Precision("moe-mx4", 0.53125, 4.0),
    ("w4a8_mxfp4_mxfp8", "trtllm"): Precision("moe-mx4", 0.53125, 4.0),
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


def expert_precision(row: Any) -> Precision | None:
    """How the row's kernel is priced; None for kernels that engines do not pick."""
    kernels = ((kernel, kind) for (dtype, kernel), kind in EXPERTS.items() if dtype == row.moe_dtype)
    return next((kind for kernel, kind in kernels if kernel in row.kernel_source), None)


def expert_reading(row: Any, kind: Precision) -> Reading:
    """Balanced routing gives every token other experts until all are taken: min(E, k M) are touched."""
    inner = int(row.inter_size) // int(row.moe_tp_size)
    tokens, active, experts, hidden = (int(v) for v in (row.num_tokens, row.topk, row.num_experts, row.hidden_size))
    shape = ExpertShape(tokens=tokens, hidden=hidden, inner=inner, experts=experts, active=active)
    touched = min(experts, active * tokens) * 3 * hidden * inner * kind.weight
    m, n = tokens * active, 3 * inner
    moved = touched + m * hidden * kind.activation + 2 * m * n
    return Reading(kind.family, row.kernel_source, row.moe_dtype, shape, moved, 2.0 * m * n * hidden, row.us * MICRO)


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


def geometry_is_kept(shape: Shape) -> bool:
    """Two of three geometries, all their batches together."""
    assert isinstance(shape, ExpertShape)
    return (shape.hidden // 256 + shape.inner // 128 + shape.experts + shape.active) % HELD != 0


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


def _is_kept(shape: Shape) -> bool:
    """Two of three matrices, all their batches together; of attention two of three contexts."""
    if isinstance(shape, GemmShape):
        return shape.m in TOKENS and (shape.n // 64 + shape.k // 64) % HELD != 0
    assert isinstance(shape, AttentionShape)
    return round(np.log2(shape.cached)) % HELD != 0


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


def without_stragglers(found: Sequence[Reading]) -> list[Reading]:
    """The same without products that take much longer than more rows by the same kernel with the same weights.

    The tables scatter by up to two times at small batches (B200, FP8: 44 us for 1 row, 29 us for 64).
    """
    least: dict[tuple[object, ...], float] = {}
    out = []
    for reading in sorted(found, key=_rows, reverse=True):
        if isinstance(reading.shape, GemmShape):
            key = reading.family, reading.kernel, reading.shape.n, reading.shape.k
            least[key] = min(reading.seconds, least.get(key, reading.seconds))
            if reading.seconds > STRAGGLER * least[key]:
                continue
        out.append(reading)
    return out


def _rows(reading: Reading) -> int:
    return reading.shape.m if isinstance(reading.shape, GemmShape) else 0


def readings(folder: Path, name: str) -> list[Reading]:
    """Every trustworthy row of a GPU."""
    card = gpu(GPUS[name])
    if name in SOURCES:
        return list(small_readings(folder, name, card))
    found = [*gemm_readings(folder, name, card), *attention_readings(folder, name, card)]
    return found + [*expert_readings(folder, name, card), *collective_readings(folder, name)]


def _kept(found: Sequence[Reading], name: str) -> list[Reading]:
    keeps = {GemmShape: in_gemm_grid, AttentionShape: in_attention_grid, ExpertShape: geometry_is_kept}
    if name in SOURCES:
        keeps = {GemmShape: _is_kept, AttentionShape: _is_kept}
    return [reading for reading in found if keeps.get(type(reading.shape), lambda shape: True)(reading.shape)]


def as_run(found: Sequence[Reading], name: str) -> Run:
    """Readings as a converted run."""
    card, source = gpu(GPUS[name]), SOURCES.get(name, AIC)
    return Run(
        id=f"{source.split('/')[1].split(' ')[0].split('@')[0].lower()}-{card.id}",
        gpu=card.id,
        created="2026-08-21T00:00:00Z",
        planner_version=__version__,
        mode=Mode.CONVERTED,
        source=source,
        environment=Environment(gpu_name=card.name, device_token="0" * 16),
        points=tuple(reading.point(order) for order, reading in enumerate(found)),
    )


def convert(folder: str | Path, name: str) -> tuple[Run, list[Reading]]:
    """The run of a GPU's grid without stragglers, and the readings that it holds back, as they are."""
    everything = readings(Path(folder), name)
    kept = _kept(everything, name)
    held = {id(reading) for reading in kept}
    return as_run(without_stragglers(kept), name), [reading for reading in everything if id(reading) not in held]
