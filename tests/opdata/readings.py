"""A row of a public table of operator measurements, with what it had to move and to compute."""

from __future__ import annotations

from typing import Any, NamedTuple

from planner.catalog.efficiency import peak_rates
from planner.specs.gpu import GpuSpec
from planner.specs.run import AttentionShape, ExpertShape, GemmShape, Point, Shape, Timing

HEAD_DIM = 128
LIMIT = 1.02
MICRO = 1e-6


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


def gemm_reading(row: Any) -> Reading:
    kind, m, n, k = PRECISIONS[row.dtype], int(row.m), int(row.n), int(row.k)
    moved = kind.weight * n * k + kind.activation * m * k + 2 * m * n
    return Reading(kind.family, row.src, row.dtype, GemmShape(m=m, n=n, k=k), moved, 2.0 * m * n * k, row.us * MICRO)


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
