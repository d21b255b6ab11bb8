"""What the host adds to a prompt that no CUDA graph replays, by engine, version and kind of layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planner.catalog.engines import engine
from planner.catalog.host import launch_share
from planner.estimate import estimate
from planner.estimate.single import priced_scenario
from planner.ops import Batch
from planner.specs.scenario import Scenario

LONE = {"input_tokens": 512, "output_tokens": 64, "concurrency": 1}
DEEPSEEK, QWEN = {"model": "deepseek-r1", "tp": 8}, {"model": "qwen3-8b"}


def row(**asked: Any) -> dict[str, Any]:
    return estimate(Scenario(**({"gpu": "b200"} | LONE | asked))).rows()[0]


def test_sglang_launches_a_prompt_kernel_by_kernel_until_graphs_replay_its_pieces() -> None:
    before, after = (row(engine="sglang", engine_version=version, **QWEN) for version in ("0.5.9", "0.5.10"))
    old, new = (engine("sglang", version) for version in ("0.5.9", "0.5.10"))
    assert before["ttft_unloaded_ms"] > 1e3 * 36 * old.launches.layer_s
    assert new.pieces.layer_s < old.launches.layer_s
    assert after["ttft_unloaded_ms"] < 0.7 * before["ttft_unloaded_ms"]


def test_a_longer_prompt_takes_longer_whatever_launches_hide() -> None:
    lengths = (16, 512, 4096, 8000, 8192, 16384, 32768)
    asked = {"engine": "sglang", "engine_version": "0.5.9", "max_num_batched_tokens": 16384, **QWEN}
    found = [row(**asked | {"input_tokens": tokens})["ttft_unloaded_ms"] for tokens in lengths]
    assert found == sorted(found)


@pytest.mark.parametrize(
    ("version", "replayed", "launched"),
    [
        ("0.5.12", {"model": "qwen3-8b"}, {"model": "qwen3-vl-8b-instruct"}),  # takes images
        ("0.5.12", {"model": "qwen3-8b", "tp": 2}, {"model": "qwen3-8b", "tp": 2, "attention_dp": 2}),
        ("0.5.12", {"model": "qwen3-8b", "tp": 2}, {"model": "qwen3-8b", "tp": 1, "pp": 2}),
        ("0.5.12", {"model": "qwen3-8b"}, {"model": "qwen3-8b", "gpu": "mi325x"}),
        ("0.5.12", {"model": "minimax-m2.5", "tp": 4}, {"model": "qwen3-235b-a22b", "tp": 4}),  # TensorRT-LLM's experts
        ("0.5.16", {"model": "minimax-m2.5", "tp": 8}, {"model": "deepseek-r1", "tp": 8}),  # latent attention
    ],
)
def test_sglangs_graphs_replay_no_prompts_where_its_arguments_exclude_them(
    version: str, replayed: dict[str, Any], launched: dict[str, Any]
) -> None:
    asked = {"engine": "sglang", "input_tokens": 32}
    old, new = (
        [row(**asked, engine_version=one, **what)["ttft_unloaded_ms"] for what in (replayed, launched)]
        for one in ("0.5.9", version)
    )
    assert new[0] < 0.6 * old[0]
    assert new[1] == pytest.approx(old[1], rel=0.01)


def test_quantized_inputs_and_recurrent_states_add_launches() -> None:
    asked = {"engine": "sglang", "engine_version": "0.5.9", "input_tokens": 16, "tp": 8, "model": "qwen3.5-397b-a17b"}
    half, eight, four = (
        row(weight_format=fmt, **asked)["ttft_unloaded_ms"] for fmt in ("bf16", "fp8-block128", "nvfp4")
    )
    fixed = engine("sglang", "0.5.9").launches
    assert half > 1e3 * (60 * fixed.layer_s + 45 * fixed.recurrent_layer_s)
    assert eight - half == pytest.approx(1e3 * 60 * fixed.quantized_layer_s, rel=0.1)
    assert four == pytest.approx(eight, rel=0.02)  # of which the experts alone are quantized


@pytest.mark.parametrize(("older", "newer"), [("b200", "b300"), ("mi325x", "mi355x"), ("b200", "gb300")])
def test_hosts_of_newer_boards_launch_faster_but_not_grace(older: str, newer: str) -> None:
    asked = {"engine": "sglang", "engine_version": "0.5.9", "input_tokens": 16, **QWEN}
    before, after = (row(gpu=gpu, **asked)["ttft_unloaded_ms"] for gpu in (older, newer))
    launches_ms = 1e3 * 36 * engine("sglang", "0.5.9").launches.layer_s
    saved_ms = (1 - launch_share(newer)) * launches_ms
    assert launch_share(older) == 1
    assert (saved_ms > 0) == (newer != "gb300")
    assert before - after == pytest.approx(saved_ms, abs=0.1 * launches_ms)


@pytest.mark.parametrize(("model", "layers"), [("qwen3-8b", 36), ("qwen3.5-9b", 32)])
def test_one_request_beyond_the_largest_graph_costs_no_more_than_a_decodes_launches(model: str, layers: int) -> None:
    asked = {"engine": "sglang", "engine_version": "0.5.2", "shortest_fraction": 1, "output_tokens": 512, "tp": 8}
    within, beyond = (row(model=model, concurrency=n, prefix_caching=False, **asked) for n in (512, 513))
    launches_ms = 1e3 * layers * engine("sglang", "0.5.2").launches.decode_layer_s
    assert 0 < beyond["tpot_ms"] - within["tpot_ms"] < launches_ms


def test_latent_layers_launch_slower_in_tensorrt_llm() -> None:
    latent = row(engine="tensorrt-llm", engine_version="1.2", **DEEPSEEK)
    launches_ms = 1e3 * 61 * engine("tensorrt-llm", "1.2").front_end.latent_layer_s
    assert latent["ttft_unloaded_ms"] > launches_ms > 61


def test_layers_that_pick_their_keys_are_launched_between_vllms_graphs() -> None:
    sparse, dense = (row(engine="vllm", tp=8, model=model) for model in ("deepseek-v3.2", "deepseek-r1"))
    launches_ms = 1e3 * 61 * engine("vllm").launches.picking_layer_s
    assert sparse["ttft_unloaded_ms"] > launches_ms > dense["ttft_unloaded_ms"]


def apart_ms(gpu: str, version: str, model: str = "kimi-k2") -> float:
    """What a decode step of a lone stream loses where vLLM's graphs leave latent attention out."""
    asked = {"engine": "vllm", "engine_version": version, "model": model, "gpu": gpu, "tp": 8, **LONE}
    fixed = priced_scenario(Scenario(**asked)).clock.engine_time
    batches = Batch(prefill_tokens=512.0, prefill_seqs=1.0), Batch(decode_seqs=1.0)
    prompt, decode = (float(np.ravel(fixed.apart_s(batch))[0]) for batch in batches)
    assert prompt == 0
    return 1e3 * decode


def test_decodes_of_latents_are_wholly_in_vllms_graphs_from_a_version_on_that_depends_on_the_gpu() -> None:
    lost_ms = 1e3 * 61 * engine("vllm", "0.10").launches.latents_apart_s
    assert lost_ms == pytest.approx(32.0 - 28.9, rel=0.01)  # vllm#42885, A100
    assert apart_ms("h200-sxm", "0.10") == pytest.approx(lost_ms)
    assert apart_ms("a100-80-sxm", "0.20") == pytest.approx(lost_ms * launch_share("a100-80-sxm"))
    assert apart_ms("h200-sxm", "0.11") == apart_ms("a100-80-sxm", "0.22") == apart_ms("mi300x", "0.10") == 0
    assert apart_ms("h200-sxm", "0.10", "qwen3-235b-a22b") == 0


@pytest.mark.parametrize(
    ("tag", "release"),
    [("nightly-dev-20260216-d3bae71e", "0.5.9"), ("nightly-dev-20260402-d7256eb6", "0.5.10"), ("nightly-dev", "0.5.9")],
)
def test_a_nightly_image_is_the_release_of_its_months(tag: str, release: str) -> None:
    spec = engine("sglang", tag)
    assert spec.version == release and f"taken as {release}" in spec.note


def test_experts_of_several_kernels_add_launches_but_not_those_of_one() -> None:
    asked = {"engine": "vllm", "engine_version": "0.18", "input_tokens": 2048, "model": "gpt-oss-120b", "tp": 8}
    hopper, blackwell = (row(gpu=gpu, **asked)["ttft_unloaded_ms"] for gpu in ("h200-sxm", "b200"))
    fixed = engine("vllm", "0.18").launches
    assert hopper > 1e3 * 36 * (fixed.layer_s + fixed.expert_layer_s)
    assert blackwell < 1e3 * 36 * fixed.expert_layer_s


def test_vllms_graphs_replay_prompts_up_to_the_size_that_the_scenario_states() -> None:
    asked = {"engine": "vllm", "input_tokens": 1024, "model": "minimax-m2.5", "gpu": "h200-sxm", "tp": 8, "ep": 8}
    launched, replayed = (row(max_cudagraph_capture_size=size, **asked)["ttft_unloaded_ms"] for size in (None, 2048))
    fixed = engine("vllm", "0.18").launches
    assert replayed < 1e3 * 62 * (fixed.layer_s + fixed.expert_layer_s) < launched


def test_a_layer_that_only_mixes_launches_half_of_one() -> None:
    asked = {"engine": "vllm", "model": "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "gpu": "h100-sxm", **LONE}
    priced = priced_scenario(Scenario(**asked))
    fixed = priced.clock.engine.launches
    kinds_s = 26 * fixed.layer_s + 23 * fixed.expert_layer_s + 23 * fixed.recurrent_layer_s
    assert priced.clock.engine_time.launches.whole_s == pytest.approx(kinds_s)


def captured(gpu: str, version: str, **stated: int) -> float:
    """Most tokens of a step that vLLM's graphs replay for Qwen3-235B."""
    asked = {"engine": "vllm", "engine_version": version, "model": "qwen3-235b-a22b", "gpu": gpu, "tp": 8, **LONE}
    priced = priced_scenario(Scenario(**{**asked, **stated}))
    return float(priced.clock.engine_time.graph_batch[0])


def test_vllm_captures_twice_its_slots() -> None:
    """vllm/config/vllm.py: min(2 x max_num_seqs, 512), and 1024 on B200 from 0.28 on."""
    assert captured("h100-sxm", "0.18", max_num_seqs=16) == 32
    assert captured("b200", "0.18") == captured("h100-sxm", "0.28") == 512
    assert captured("b200", "0.28") == captured("b300", "0.28") == 1024
    assert captured("b300", "0.28", max_num_seqs=16, max_cudagraph_capture_size=64) == 64


def test_vllm_captures_larger_graphs_for_gpt_oss() -> None:
    asked = {"engine": "vllm", "engine_version": "0.18", "model": "gpt-oss-120b", "gpu": "h200-sxm", "tp": 8}
    asked |= {"shortest_fraction": 1}
    within, beyond = (row(input_tokens=tokens, **asked)["ttft_unloaded_ms"] for tokens in (1023, 1025))
    fixed = engine("vllm", "0.18").launches
    assert beyond - within > 1e3 * 36 * fixed.expert_layer_s


def test_a_step_of_few_sequences_does_not_wait_for_the_host_of_every_rank() -> None:
    """Llama-3.1-70B in NIM 1.3 takes 13 ms per token for one user; further GPUs cost 4.5 ms each from 110 on."""
    asked = {"engine": "tensorrt-llm", "model": "llama-3.1-70b-instruct", "gpu": "h100-sxm", "tp": 8}
    lone, full = (
        [row(**asked, engine_version=version, concurrency=many)["tpot_ms"] for version in ("0.9", "0.12")]
        for many in (1, 128)
    )
    assert lone[1] - lone[0] < 1
    assert full[1] - full[0] == pytest.approx(7 * 4.5, rel=0.1)


@pytest.mark.parametrize(("engine_name", "most"), [("vllm", 128), ("sglang", 512)])
def test_drafted_tokens_fill_graphs_that_are_sized_by_tokens(engine_name: str, most: int) -> None:
    """512 tokens of vLLM are 128 sequences with three drafted ones each; SGLang captures 512 sequences."""
    drafting = {"draft_model": "mtp", "speculative_tokens": 3, "acceptance_rate": 0.7, "max_num_seqs": 1024}
    time = priced_scenario(Scenario(gpu="h200-sxm", engine=engine_name, **DEEPSEEK, **drafting)).clock.engine_time
    within, beyond = (float(np.ravel(time.launched_share(Batch(n, 1000.0)))[0]) for n in (most, most + 1))
    assert (within, beyond) == (0, 1)


def test_a_kernel_of_experts_that_chooses_them_leaves_nothing_to_choose() -> None:
    """Nemotron 3 Super takes 22 of 512 experts; SGLang gives it TensorRT-LLM's experts on B200 from 0.5.11 on."""
    asked = {"model": "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-FP8", "engine": "sglang", "tp": 4}
    found = [
        float(np.ravel(priced_scenario(Scenario(**asked, gpu=gpu, engine_version=v)).clock.engine_time.router_s)[0])
        for gpu, v in (("b200", "0.5.10"), ("b200", "0.5.11"), ("h200-sxm", "0.5.11"))
    ]
    assert found == pytest.approx([50e-6, 0, 50e-6])
