"""Attention with heads of 512 values or with sinks, which fused kernels do not take, or not everywhere."""

from __future__ import annotations

import numpy as np
import pytest

from planner.catalog import models
from planner.collectives import Parallel
from planner.estimate import estimate
from planner.estimate.deployments import Deployment, Deployments, limits_of
from planner.estimate.kernels.attention import general_kernel
from planner.estimate.layout import layouts
from planner.estimate.library import NO_LIBRARY
from planner.estimate.resolve import resolve
from planner.estimate.single import priced_scenario
from planner.ops import FUSED_ONLY, Batch, GeneralKernel, OpKind, Slot, Widths, batch_ops, prepare
from planner.params import tensors
from planner.specs.scenario import Scenario

GEMMA = models.model("google/gemma-4-31B-it")  # 50 layers of 16 KV heads of 256 in a window, 10 of 4 heads of 512
TRITON = GeneralKernel(wide=True, segments=16.0, blocks=192.0)
PROMPT = Batch(prefill_tokens=8192.0, prefill_seqs=1.0)


def attention(batch: Batch, general: GeneralKernel = TRITON, kv: float = 2.0):
    """Attention in a window and over everything."""
    widths = Widths(np.zeros((len(tensors(GEMMA)), 1)), kv_k=kv, kv_v=kv, general=general)
    return [op for op in batch_ops(prepare(GEMMA, widths, Parallel()), batch) if op.kind is OpKind.ATTENTION]


def of(sequences: float) -> Batch:
    return Batch(decode_seqs=sequences, decode_context=30000.0)


@pytest.mark.parametrize(("sequences", "idle"), [(1, 3.0), (2, 1.5), (3, 1.0), (64, 1.0)])
def test_few_sequences_read_at_the_share_of_the_bandwidth_that_their_blocks_have(sequences: int, idle: float) -> None:
    (windowed, narrow), (same, wide) = attention(of(sequences), FUSED_ONLY), attention(of(sequences))
    assert same.bytes == windowed.bytes
    assert wide.bytes / narrow.bytes == pytest.approx(idle, rel=1e-2)


def test_a_cache_of_8_bit_is_read_as_one_of_16() -> None:
    (windowed, wide), (full, wide_full) = attention(of(64), kv=1.0), attention(of(64))
    assert wide.bytes == wide_full.bytes
    assert full.bytes == pytest.approx(2 * windowed.bytes, rel=0.01)


def test_only_heads_that_it_takes_run_in_the_general_kernel() -> None:
    for narrow, slots in ((False, [Slot.PREFILL, Slot.GENERAL_PREFILL]), (True, [Slot.GENERAL_PREFILL] * 2)):
        assert [op.rate for op in attention(PROMPT, TRITON._replace(narrow=narrow))] == slots


def test_a_window_saves_little_where_the_kernel_masks_what_lies_behind_it() -> None:
    kernel = TRITON._replace(narrow=True, window_cost=2.0, masked_cost=1.0)
    (inside, _), (masked, _) = attention(PROMPT, FUSED_ONLY), attention(PROMPT, kernel)
    pairs, window = 8192 * 8193 / 2, 8192 * 1024 - 1024 * 1023 / 2
    assert masked.flops / inside.flops == pytest.approx((2 * window + pairs - window) / window, rel=1e-9)


def test_rows_of_two_gpus_run_in_the_kernel_of_their_own() -> None:
    both = attention(of(64), TRITON._replace(wide=np.array([True, False])))
    wide = {op.rate: list(op.count) for op in both[1:]}
    assert wide == {Slot.DECODE: [0, 10], Slot.GENERAL_DECODE: [10, 0]}


@pytest.mark.parametrize(
    ("engine", "version", "gpu", "general"),
    [
        ("sglang", "0.5.12", "b200", True),
        ("sglang", "0.5.16", "b200", False),
        ("sglang", "0.5.16", "h200-sxm", True),
        ("vllm", "0.22.1", "h200-sxm", True),
        ("vllm", "0.24.0", "h200-sxm", False),
        ("vllm", "0.26.0", "gb10", True),
    ],
)
def test_the_version_and_the_gpu_say_what_runs_wide_heads(engine: str, version: str, gpu: str, general: bool) -> None:
    """Gemma 4's kernels: SGLang's server_args, vLLM's Gemma4Config and pull request 42175."""
    row = resolve(Scenario(model=GEMMA.id, engine=engine, engine_version=version, gpu=gpu), NO_LIBRARY)
    found = general_kernel(row.engine, Deployments(Deployment(row, each, limits_of(row)) for each in layouts(row)))
    assert found.wide.tolist() == found.narrow.tolist() == [general] * len(found.wide)


@pytest.mark.parametrize(("model", "layers"), [("google/gemma-4-26B-A4B-it", 5), ("google/gemma-4-31B-it", 10)])
def test_a_cached_token_takes_as_long_with_two_heads_as_with_four(model: str, layers: int) -> None:
    """Measured: 14.5 ns per token and layer in vLLM 0.22.1 on RTX PRO 6000 Max-Q, from 1024 to 32768 tokens."""
    case = {"model": model, "weight_format": "awq-int4-g128", "engine": "vllm", "gpu": "rtxpro6000-maxq"}
    found = estimate(
        [Scenario(**case, input_tokens=tokens, output_tokens=256, concurrency=1) for tokens in (1024, 32768)]
    )
    short, long = (row["tpot_ms"] for row in found.rows())
    assert (long - short) * 1e6 / 31744 / layers == pytest.approx(14.5, rel=0.15)


@pytest.mark.parametrize(("gpu", "cost"), [("a100-80-sxm", 3), ("rtxpro6000-server", 3), ("h100-sxm", 1), ("b200", 1)])
def test_prompts_with_sinks_run_in_a_general_kernel_where_no_fused_one_takes_them(gpu: str, cost: float) -> None:
    priced = priced_scenario(Scenario(model="gpt-oss-120b", engine="vllm", gpu=gpu, tp=1))
    step = priced.clock.ops(Batch(prefill_tokens=4096.0, prefill_seqs=1.0))
    attention = [float(np.max(op.flops)) for op in step if op.kind is OpKind.ATTENTION]
    pairs, heads, flops_per_pair = 4096 * 4097 / 2, 64, 4 * 64
    assert max(attention) == pytest.approx(cost * pairs * heads * flops_per_pair)
