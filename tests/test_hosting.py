"""Weights and layers in host memory, adapters, drafts and power limits: from a scenario's columns to its answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planner.catalog.gpus import gpu
from planner.catalog.host import host_bytes_per_s, pcie_bytes_per_s, remaining
from planner.collectives import Parallel
from planner.errors import BadValue
from planner.estimate import estimate
from planner.estimate.hosting import shares_of
from planner.ops import Batch, HostShare, Slot, Widths, batch_ops, placed, prepare
from planner.params import tensors
from planner.specs.scenario import Scenario
from planner.units import GB, GIB
from tests.oracle.models import build

LLAMA, QWEN_MOE = "meta-llama/Meta-Llama-3-8B-Instruct", "Qwen/Qwen3-30B-A3B"


def row(**columns: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"model": LLAMA, "gpu": "h100-sxm"} | columns
    return estimate(Scenario(**given)).rows()[0]


def local(**columns: Any) -> dict[str, Any]:
    """The mixture of experts on a consumer card in 4 bit, one user."""
    return row(**{"model": QWEN_MOE, "gpu": "rtx4090", "weight_format": "gguf-q4_k_m", "input_tokens": 200} | columns)


# --- operations ---


def ops_of(share: HostShare, tokens: float = 1.0) -> tuple[float, float, float]:
    """Bytes of products on the GPU, on the host and copied, of a step that decodes `tokens` sequences."""
    model = build()
    prepared = prepare(model, Widths(np.array([[t.numel * 2.0] for t in tensors(model)])), Parallel())
    found = placed(batch_ops(prepared, Batch(tokens, 100.0)), share, 2.0)
    sums = [
        sum(np.sum(op.count * op.bytes) for op in found if chosen(op.rate))
        for chosen in (
            lambda rate: rate < Slot.PREFILL,
            lambda rate: rate == Slot.HOST,
            lambda rate: rate == Slot.HOST_COPY,
        )
    ]
    return sums[0], sums[1], sums[2]


def share(run: float, streamed: float = 0.0) -> HostShare:
    rows = np.zeros((len(Slot), 1))
    rows[: Slot.PREFILL] = 1.0
    return HostShare(run * rows, streamed * rows, np.full((len(Slot), 1), 32.0))


def test_work_is_divided_not_duplicated() -> None:
    whole, half = ops_of(share(0.0)), ops_of(share(0.5))
    assert half[0] + half[1] == pytest.approx(whole[0])
    assert half[0] == pytest.approx(half[1])


def test_small_batches_run_on_the_cpu_and_large_ones_copy_the_weights() -> None:
    assert ops_of(share(1.0), 31.0)[2] == 0
    gpu_bytes, host_bytes, copied = ops_of(share(1.0), 32.0)
    assert host_bytes == 0 and copied > 0 and gpu_bytes > copied


def test_streamed_weights_cross_the_link_once_in_every_step() -> None:
    model = build()
    stack = sum(t.numel * 2.0 for t in tensors(model) if t.op)
    assert ops_of(share(0.0, 1.0))[2] == pytest.approx(stack)


# --- rates ---


def test_host_rates_are_shares_of_what_is_nominal() -> None:
    assert host_bytes_per_s(100.0) < 100 * GB
    assert pcie_bytes_per_s(64 * GB) < 64 * GB


@pytest.mark.parametrize(
    ("watts", "prefill", "decode"), [(300, 9326 / 9893, 72.1 / 72.6), (200, 5941 / 9893, 68.3 / 72.6)]
)
def test_a_power_limit_leaves_what_was_measured(watts: float, prefill: float, decode: float) -> None:
    """llmgarage.ai, RTX 3090 of 350 W."""
    left = remaining(watts, 350.0)
    assert left.compute == pytest.approx(prefill, rel=0.01)
    assert left.bandwidth == pytest.approx(decode, rel=0.01)


def test_a_power_limit_slows_prompts_more_than_answers() -> None:
    full, low = (row(gpu="rtx3090", weight_format="awq-int4-g128", power_limit_w=limit) for limit in (None, 200))
    slower = [low[name] / full[name] for name in ("ttft_unloaded_ms", "tpot_ms")]
    assert slower[0] > slower[1] > 1
    assert row(power_limit_w=2000)["tpot_ms"] == row()["tpot_ms"]


# --- scenarios ---


def test_offloaded_weights_cross_the_link_in_every_step() -> None:
    plain, moved = row(), row(cpu_offload_gib=8)
    assert plain["weights_gib"] - moved["weights_gib"] == pytest.approx(8)
    assert moved["host_needed_gib"] == pytest.approx(8)
    link = pcie_bytes_per_s(gpu("h100-sxm").pcie_bytes_per_s)
    assert (moved["tpot_ms"] - plain["tpot_ms"]) / 1e3 == pytest.approx(8 * GIB / link, rel=0.1)


def test_fewer_layers_on_the_gpu_are_slower_and_hold_less_of_it() -> None:
    found = [local(n_gpu_layers=layers) for layers in (49, 30, 10, 0)]
    assert np.all(np.diff([one["tpot_ms"] for one in found]) > 0)
    assert np.all(np.diff([one["weights_gib"] for one in found]) < 0)
    assert np.all(np.diff([one["host_needed_gib"] for one in found]) > 0)
    assert found[0]["tpot_ms"] == pytest.approx(local()["tpot_ms"])


def test_experts_on_the_host_leave_attention_and_cache_on_the_gpu() -> None:
    plain, moved = local(), local(n_cpu_moe=48)
    assert moved["kv_pool_gib"] == plain["kv_pool_gib"]
    assert moved["weights_gib"] < 0.1 * plain["weights_gib"]
    assert plain["tpot_ms"] < moved["tpot_ms"] < local(n_gpu_layers=0)["tpot_ms"]


def test_a_faster_host_answers_faster() -> None:
    slow, fast = (local(n_cpu_moe=48, host_bandwidth_gb_s=rate)["tpot_ms"] for rate in (50.0, 400.0))
    assert fast < slow


def test_a_narrow_slot_slows_prompts_and_not_decoding() -> None:
    wide, narrow = (local(n_cpu_moe=48, host_link_gb_s=rate) for rate in (31.5, 7.9))
    assert narrow["prefill_tokens_per_s"] < 0.5 * wide["prefill_tokens_per_s"]
    assert narrow["tpot_ms"] == pytest.approx(wide["tpot_ms"])
    assert local(host_link_gb_s=7.9)["prefill_tokens_per_s"] == local()["prefill_tokens_per_s"]


def test_host_memory_is_a_limit() -> None:
    found = local(n_cpu_moe=48, host_memory_gib=8)
    assert (found["reason_code"], found["fits"]) == ("out_of_host_memory", False)
    assert local(n_cpu_moe=48, host_memory_gib=32)["fits"]


def test_shares_of_the_gpus_move_layers() -> None:
    even, uneven = (row(weight_format="gguf-q8_0", n_gpus=2, tensor_split=split) for split in (None, "3,1"))
    assert uneven["weights_gib"] > 1.3 * even["weights_gib"]
    assert row(weight_format="gguf-q8_0", tensor_split="1,1")["pp"] == 2
    assert row(weight_format="gguf-q8_0", n_gpus=2, split_mode="row")["tp"] == 2


@pytest.mark.parametrize("text", ["", "a,b", "0,0", "-1,2", "1,inf", "nan", ",".join(["1"] * 500)])
def test_shares_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(BadValue, match="tensor_split"):
        shares_of(text)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"n_gpu_layers": 3}, "'n_gpu_layers' is for llama.cpp"),
        ({"weight_format": "gguf-q4_k_m", "cpu_offload_gib": 3}, "'cpu_offload_gib' is for vllm and sglang"),
        ({"weight_format": "gguf-q4_k_m", "n_gpus": 2, "split_mode": "none"}, "split_mode none"),
        ({"weight_format": "gguf-q4_k_m", "n_gpus": 2, "tensor_split": "1,1,1"}, "3 shares for 2 GPUs"),
        ({"weight_format": "gguf-q4_k_m", "pp": 2, "tensor_split": "1,1,1"}, "does not name 2 GPUs"),
        ({"weight_format": "gguf-q4_k_m", "tp": 2, "tensor_split": "3,1"}, "'tensor_split' is modelled with"),
        ({"speculative_tokens": 3}, "needs 'draft_model'"),
        ({"draft_model": "mtp"}, "'draft_model': meta-llama/Meta-Llama-3-8B-Instruct has no layers"),
        ({"draft_model": "llama-zero"}, "'draft_model': unknown model"),
        ({"backend": "cuda"}, "'backend' is for llama.cpp"),
        ({"weight_format": "gguf-q4_k_m", "backend": "rocm"}, "is built for cuda or vulkan, not rocm"),
        ({"gpu": "apple-m2-ultra", "power_limit_w": 50}, "'power_limit_w'"),
    ],
)
def test_columns_that_make_no_sense_are_refused_by_name(columns: dict[str, Any], says: str) -> None:
    assert says in row(**columns)["error"]


# --- adapters and drafts ---


def test_adapters_take_memory_and_time() -> None:
    plain, one, four = row(), row(max_loras=1), row(max_loras=4, lora_rank=16)
    assert (one["weights_gib"] - plain["weights_gib"]) * 4 == pytest.approx(four["weights_gib"] - plain["weights_gib"])
    assert plain["tpot_ms"] < one["tpot_ms"] < 1.5 * plain["tpot_ms"]


def test_a_draft_helps_one_user_more_than_a_full_server() -> None:
    gain = []
    for concurrency in (1, 256):
        load: dict[str, Any] = {"model": "Qwen/Qwen3-32B", "n_gpus": 4, "tp": 4, "concurrency": concurrency}
        plain, pair = row(**load), row(**load, draft_model="Qwen/Qwen3-0.6B", speculative_tokens=4, acceptance_rate=0.7)
        gain.append(plain["tpot_ms"] / pair["tpot_ms"])
    assert gain[0] > 1.3 > gain[1]


def test_drafts_that_are_never_accepted_only_cost() -> None:
    plain, pair = row(), row(draft_model="Qwen/Qwen3-0.6B", acceptance_rate=0.0)
    assert pair["tpot_ms"] > plain["tpot_ms"]
    assert pair["kv_pool_gib"] < plain["kv_pool_gib"]


def test_n_grams_draft_without_weights() -> None:
    plain, pair = row(), row(draft_model="ngram", acceptance_rate=1.0, speculative_tokens=3)
    assert pair["weights_gib"] == plain["weights_gib"]
    assert 3 < plain["tpot_ms"] / pair["tpot_ms"] < 4.2  # measured products of 4 rows are up to 4 % quicker than of 1


def test_a_blank_number_of_drafts_and_acceptance_are_echoed() -> None:
    found = row(draft_model="ngram")
    assert (found["speculative_tokens"], found["acceptance_rate"]) == (3, 0.7)


def test_rows_with_and_without_drafts_do_not_mix() -> None:
    scenarios = [Scenario(model=LLAMA, gpu="h100-sxm", draft_model=name) for name in (None, "ngram", "Qwen/Qwen3-0.6B")]
    for scenario, together in zip(scenarios, estimate(scenarios).rows(), strict=True):
        assert together["tpot_ms"] == pytest.approx(estimate(scenario).rows()[0]["tpot_ms"])
