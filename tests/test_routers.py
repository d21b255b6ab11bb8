"""Routers in FP32 and in kernels for few tokens: which engine multiplies whose how, and what it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planner.catalog.efficiency import kernel_rate, tiles_of_many, vector_tiles
from planner.catalog.gpus import gpu as known_gpu
from planner.estimate import estimate
from planner.estimate.single import priced_scenario
from planner.ops import Batch, Op, OpKind, Slot, VectorTiles
from planner.ops.router import ROUTER, in_full
from planner.roofline import Rates, step_seconds
from planner.specs.scenario import Scenario


def full_us(gpu: str, tokens: float, experts: float, inputs: float) -> float:
    """Microseconds of a product in FP32 with its cast."""
    card, found = known_gpu(gpu), vector_tiles()
    held = found.lone, found.few, tiles_of_many(card.generation), found.few_rows
    plain = Op(ROUTER, OpKind.GEMM, Slot.ROUTER_GEMM, 1.0, 0.0, 0.0, tokens, experts, inputs)
    rates = Rates(*(np.full((len(Slot), 1), value) for value in kernel_rate(card, "vllm", "gemm-32")))
    return float(step_seconds([in_full(plain, VectorTiles(card.sm_count, *held))], rates)[0] * 1e6)


@pytest.mark.parametrize(("tokens", "measured_us"), [(1, 7.52), (4, 20.2), (64, 63.3), (256, 77.8), (1024, 111)])
def test_a_router_in_fp32_takes_what_cublas_takes_on_gb200(tokens: float, measured_us: float) -> None:
    """vllm-project/vllm PR 47973."""
    assert full_us("gb200", tokens, 256, 6144) == pytest.approx(measured_us, rel=0.1)


@pytest.mark.parametrize(
    ("tokens", "experts", "inputs", "measured_us"),
    [(1, 768, 6144, 10.1), (64, 768, 6144, 35.6), (512, 768, 6144, 120.4), (8192, 768, 6144, 1661)]
    + [(64, 384, 3072, 23.1), (512, 384, 3072, 44.1), (8192, 384, 3072, 487.8)],
)
def test_a_router_in_fp32_takes_what_cublas_takes_on_h200(
    tokens: float, experts: float, inputs: float, measured_us: float
) -> None:
    """sgl-project/sglang PR 30247 and 32642."""
    assert full_us("h200-sxm", tokens, experts, inputs) == pytest.approx(measured_us, rel=0.3)


def clock(**asked: Any) -> Any:
    """The clock of a deployment of MiniMax-M2.5 in vLLM unless told otherwise."""
    given = {"engine": "vllm", "engine_version": "0.20", "model": "minimax-m2.5", "gpu": "b200", "tp": 4}
    return priced_scenario(Scenario(**(given | asked))).clock


def router_us(tokens: float, **asked: Any) -> float:
    """Microseconds of one layer's router with `tokens` sequences that decode."""
    of = clock(**asked)
    ops = [op for op in of.ops(Batch(decode_seqs=np.array([tokens]), decode_context=1000.0)) if op.name == ROUTER]
    return float(step_seconds(ops, of.rates, of.residuals)[0] / sum(op.count for op in ops)[0] * 1e6)


def test_a_router_in_fp32_costs_what_the_same_server_gains_without_it() -> None:
    """vllm-project/vllm PR 41332, MiniMax-M2.5 on one B200: 2582 and 2834 tokens/s with 64 sequences, 62 layers."""
    gained_us = 64 * (1 / 2582.4 - 1 / 2834.3) / 62 * 1e6
    in_16_bit_us = 4.5
    prompts = 64 * 1600 / 600  # tokens of a step beside those that decode
    assert router_us(64 + prompts) - in_16_bit_us == pytest.approx(gained_us, rel=0.15)


def test_a_kernel_of_the_engines_own_needs_no_tiles_for_few_tokens() -> None:
    assert router_us(32, engine_version="0.23") < 0.3 * router_us(32)
    assert router_us(33, engine_version="0.23") == router_us(33)


@pytest.mark.parametrize(("tokens", "measured_us"), [(1, 1.76), (2, 2.21), (4, 2.67), (8, 3.62)])
def test_deepseeks_router_has_a_kernel_for_few_tokens(tokens: float, measured_us: float) -> None:
    """vllm-project/vllm PR 44217, 7168 inputs and 256 experts on B200; a plain product takes 4.7 to 5.1 us."""
    assert router_us(tokens, model="deepseek-r1", tp=8) == pytest.approx(measured_us, rel=0.15)
    assert router_us(tokens, model="deepseek-r1", tp=8, engine_version="0.16") > 4


def family(**asked: Any) -> str:
    return str(clock(**asked).rate_sets[0].families[Slot.ROUTER_GEMM])


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, "gemm-32"),
        ({"model": "deepseek-r1", "tp": 8}, "gemm-16"),
        ({"model": "qwen3-235b-a22b"}, "gemm-16"),
        ({"model": "glm-4.6", "tp": 8, "engine_version": "0.11"}, "gemm-32"),
        ({"model": "glm-4.6", "tp": 8, "engine": "sglang", "engine_version": "0.5.9"}, "gemm-16"),
        ({"model": "glm-4.6", "tp": 8, "engine": "sglang", "engine_version": "0.5.10"}, "gemm-32"),
        ({"model": "poolside/Laguna-S-2.1", "engine": "sglang", "engine_version": "0.5.12"}, "gemm-32"),
        ({"model": "poolside/Laguna-S-2.1", "engine_version": "0.24"}, "gemm-16"),
        ({"model": "upstage/Solar-Open-100B", "engine_version": "0.16"}, "gemm-32"),
    ],
)
def test_engines_say_whose_router_they_multiply_in_fp32(asked: dict[str, Any], found: str) -> None:
    assert family(**asked) == found


def test_vllm_multiplies_nemotrons_router_in_16_bit_where_cublas_gives_fp32_from_it() -> None:
    asked = {"model": "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "weight_format": "bf16", "tp": 2}
    assert family(**asked, engine_version="0.16") == "gemm-32"
    assert family(**asked, engine_version="0.17") == "gemm-16"
    assert family(**asked, engine_version="0.17", gpu="a100-80-sxm") == "gemm-32"


@pytest.mark.parametrize(
    ("asked", "more"),
    [
        ({"engine": "vllm", "engine_version": "0.10.2"}, 2),  # in FP32 from this version on
        ({"engine": "vllm", "engine_version": "0.10.1"}, 0),
        ({"engine": "sglang", "engine_version": "0.5.12"}, 0),  # cast in the first step, behind the pool
    ],
)
def test_a_router_in_fp32_is_loaded_whole_on_every_rank(asked: dict[str, Any], more: int) -> None:
    held = [
        estimate(Scenario(gpu="h200-sxm", tp=8, input_tokens=512, model="glm-4.6", **one)).rows()[0]["weights_gib"]
        for one in (asked, asked | {"engine_version": "0.10.1" if more else asked["engine_version"]})
    ]
    assert held[0] - held[1] == pytest.approx(more * 89 * 160 * 5120 / 2**30, rel=0.05)
