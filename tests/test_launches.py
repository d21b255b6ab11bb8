"""What the host adds to a prompt that no CUDA graph replays, by engine, version and kind of layer."""

from __future__ import annotations

from typing import Any

import pytest

from planner.catalog.engines import engine
from planner.estimate import estimate
from planner.specs.scenario import Scenario

LONE = {"input_tokens": 512, "output_tokens": 64, "concurrency": 1}
DEEPSEEK, QWEN = {"model": "deepseek-r1", "tp": 8}, {"model": "qwen3-8b"}


def row(**asked: Any) -> dict[str, Any]:
    return estimate(Scenario(gpu="b200", **(LONE | asked))).rows()[0]


def test_sglang_launches_a_prompt_before_the_gpu_starts_until_graphs_replay_it() -> None:
    before, after = (row(engine="sglang", engine_version=version, **QWEN) for version in ("0.5.9", "0.5.10"))
    fixed, later = (engine("sglang", version).overheads for version in ("0.5.9", "0.5.10"))
    saved_s = 36 * (fixed.per_layer_s - later.per_layer_s)
    assert before["ttft_unloaded_ms"] - after["ttft_unloaded_ms"] == pytest.approx(1e3 * saved_s, rel=0.01)


def test_launches_of_full_steps_hide_behind_the_step_before() -> None:
    budget = {"input_tokens": 16384, "max_num_batched_tokens": 16384}
    full, part = (row(engine="sglang", engine_version="0.5.9", **QWEN, **more) for more in (budget, {}))
    launches_ms = 1e3 * 36 * engine("sglang", "0.5.9").overheads.per_layer_s
    assert part["ttft_unloaded_ms"] > launches_ms
    later = row(engine="sglang", engine_version="0.5.10", **QWEN, **budget)
    assert full["ttft_unloaded_ms"] == pytest.approx(later["ttft_unloaded_ms"], rel=0.01)


def test_one_request_beyond_the_largest_graph_costs_no_more_than_a_decodes_launches() -> None:
    asked = {"engine": "sglang", "engine_version": "0.5.2", "shortest_fraction": 1, "output_tokens": 512, "tp": 8}
    within, beyond = (row(model="qwen3-8b", concurrency=concurrency, **asked) for concurrency in (512, 513))
    launches_ms = 1e3 * 36 * engine("sglang", "0.5.2").overheads.decode_layer_s
    assert 0 < beyond["tpot_ms"] - within["tpot_ms"] < launches_ms


def test_latent_layers_launch_slower_in_tensorrt_llm() -> None:
    latent = row(engine="tensorrt-llm", engine_version="1.2", **DEEPSEEK)
    launches_ms = 1e3 * 61 * engine("tensorrt-llm", "1.2").overheads.latent_layer_s
    assert latent["ttft_unloaded_ms"] > launches_ms > 61


def test_layers_that_pick_their_keys_are_launched_between_vllms_graphs() -> None:
    sparse, dense = (row(engine="vllm", tp=8, model=model) for model in ("deepseek-v3.2", "deepseek-r1"))
    launches_ms = 1e3 * 61 * engine("vllm").overheads.picking_layer_s
    assert sparse["ttft_unloaded_ms"] > launches_ms > dense["ttft_unloaded_ms"]


def test_a_nightly_image_is_the_release_of_its_months() -> None:
    spec = engine("sglang", "nightly-dev-20260402-d7256eb6")
    assert spec.version == "0.5.9" and "taken as 0.5.9" in spec.note
