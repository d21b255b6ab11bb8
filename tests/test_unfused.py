"""Steps of llama.cpp whose kernels are not fused: attention with its scores in memory, a delta rule as a graph."""

from __future__ import annotations

import numpy as np
import pytest

from planner.catalog import models
from planner.catalog.engines import engine
from planner.collectives import Parallel
from planner.estimate import estimate
from planner.ops import Batch, Scores, Slot, Unfused, Widths, batch_ops, prepare
from planner.ops.attention import score_traffic_bytes
from planner.params import tensors
from planner.specs.scenario import Scenario

MIB = 2**20
ONE = Parallel()
DELTA = models.model("Qwen/Qwen3.5-9B")  # 24 of 32 layers, 32 value heads of 128 x 128 in FP32: 2 MiB a layer


FUSED, FUSED_SCORES = Unfused(), Scores()


def op_named(name: str, batch: Batch, scores: Scores = FUSED_SCORES, unfused: Unfused = FUSED):
    widths = Widths(np.zeros((len(tensors(DELTA)), 1)), scores=scores)
    return next((op for op in batch_ops(prepare(DELTA, widths, ONE, unfused=unfused), batch) if op.name == name), None)


PROMPT = Batch(prefill_tokens=512.0, prefill_seqs=1.0)


def test_scores_are_written_for_every_query_key_and_head_masked_ones_too() -> None:
    fused, plain = (op_named("attention.prefill", PROMPT, scores) for scores in (Scores(), Scores(traffic=20.0)))
    assert plain.bytes - fused.bytes == pytest.approx(20 * 512 * 512 * 16)
    assert plain.flops == fused.flops


def test_a_cache_as_large_as_the_scores_keeps_half_of_their_traffic() -> None:
    pairs = 512 * 512 * 16
    assert score_traffic_bytes(Scores(20.0, 4.0 * pairs), pairs) == pytest.approx(10 * pairs)


def test_an_unfused_delta_rule_passes_over_its_state_in_kernels_of_its_own() -> None:
    step = Batch(decode_seqs=1.0, decode_context=100.0)
    op = op_named("recurrent.unfused", step, unfused=Unfused(12, 15))
    assert (op.count, op.rate) == (24 * 12, Slot.ELEMENTWISE)
    assert op.count * op.bytes == pytest.approx(24 * 15 * 2 * MIB, rel=0.05)  # the convolution's inputs beside it
    assert op_named("recurrent.unfused", step) is None


def test_builds_from_march_2026_fuse_the_delta_rule() -> None:
    old, new = engine("llama.cpp", "b8207").unfused_state, engine("llama.cpp", "b8300").unfused_state
    assert (old.kernels, old.passes) == (12, 15)
    assert (new.kernels, new.passes) == (0, 0)


def speeds(figure: str, *rows: dict[str, object]) -> list[float]:
    base = {"engine": "llama.cpp", "concurrency": 1}
    return [row[figure] for row in estimate([Scenario(**{**base, **row}) for row in rows]).rows()]


def test_unfused_attention_loses_more_the_longer_the_prompt() -> None:
    row = {"model": "Qwen/Qwen3.5-9B", "weight_format": "gguf-q8_0", "gpu": "rtx4090", "output_tokens": 1}
    rows = [row | {"input_tokens": n, "flash_attention": fused} for n in (1024, 32768) for fused in (True, False)]
    short, short_plain, long, long_plain = speeds("prefill_tokens_per_s", *rows)
    assert 1 > short_plain / short > long_plain / long


def test_micro_batches_of_dense_models_overlap_on_nvidia_cards_alone() -> None:
    row = {"weight_format": "gguf-q4_k_m", "n_gpus": 2, "input_tokens": 8192, "output_tokens": 1}
    rows = [{"model": "Qwen/Qwen3.5-27B", "gpu": "rtx3090"}, {"model": "Qwen/Qwen3.5-27B", "gpu": "r9700"}]
    rows += [{"model": "Qwen/Qwen3.5-35B-A3B", "gpu": "rtx3090"}]
    two = speeds("prefill_tokens_per_s", *(row | one for one in rows))
    one = speeds("prefill_tokens_per_s", *(row | one | {"n_gpus": 1} for one in rows))
    gains = [several / alone for several, alone in zip(two, one, strict=True)]
    assert gains[0] > 1.2
    assert gains[1:] == pytest.approx([1, 1], abs=0.03)


def test_bf16_has_no_matrix_units_under_vulkan_and_fp16_has() -> None:
    row = {"model": "meta-llama/Meta-Llama-3-8B", "gpu": "r9700", "input_tokens": 2048, "output_tokens": 1}
    kinds = [(name, fmt) for name in ("vulkan", "rocm") for fmt in ("gguf-f16", "gguf-bf16")]
    rows = [row | {"backend": name, "weight_format": fmt} for name, fmt in kinds]
    f16, bf16, rocm_f16, rocm_bf16 = speeds("prefill_tokens_per_s", *rows)
    assert f16 > 1.5 * bf16
    assert rocm_f16 == pytest.approx(rocm_bf16, rel=0.01)


def test_a_lone_stream_is_surer_where_many_cards_were_measured() -> None:
    row = {"weight_format": "gguf-q4_k_m", "input_tokens": 512, "output_tokens": 128}
    dense, experts = {"model": "Qwen/Qwen3-8B"}, {"model": "Qwen/Qwen3-30B-A3B"}
    rows = [dense | {"gpu": "rtx4090"}, experts | {"gpu": "rtx4090"}, dense | {"gpu": "rx7900xtx"}]
    rows += [dense | {"gpu": "rtx4090", "concurrency": 2}]
    asked = [row | one for one in rows]
    name = "output_tokens_per_s_per_request"
    widths = [high / middle for high, middle in zip(speeds(f"{name}_high", *asked), speeds(name, *asked), strict=True)]
    assert widths[0] < widths[1] < widths[2]
    assert widths[0] < widths[3]


@pytest.mark.parametrize("gpu", ["mi100", "mi210", "mi300x"])
def test_attention_without_matrix_units_is_no_faster_than_later_builds_with_them(gpu: str) -> None:
    row = {"model": "meta-llama/Meta-Llama-3-8B", "weight_format": "gguf-q4_k_m", "gpu": gpu, "output_tokens": 1}
    rows = [row | {"input_tokens": 8192, "engine_version": version} for version in ("b8000", "b9500")]
    vector, matrix = speeds("prefill_tokens_per_s", *rows)
    assert vector < 0.9 * matrix
