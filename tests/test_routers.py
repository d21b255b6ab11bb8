"""Routers in FP32: which engine multiplies whose, and what their tiles take."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planner.estimate.group import settled_layouts
from planner.estimate.layout import layouts
from planner.estimate.library import NO_LIBRARY
from planner.estimate.resolve import resolve
from planner.ops import Batch, Slot
from planner.ops.router import ROUTER
from planner.roofline import step_seconds
from planner.specs.scenario import Scenario


def clock(**asked: Any) -> Any:
    """The clock of a deployment of MiniMax-M2.5 in vLLM unless told otherwise."""
    given = {"engine": "vllm", "engine_version": "0.20", "model": "minimax-m2.5", "gpu": "b200", "tp": 4}
    row = resolve(Scenario(**(given | asked)), NO_LIBRARY)
    return settled_layouts(row.engine, [(row, layouts(row))])[0].clock


def router_us(tokens: float, **asked: Any) -> float:
    """Microseconds of one layer's router with `tokens` sequences that decode."""
    of = clock(**asked)
    (op,) = (op for op in of.ops(Batch(decode_seqs=np.array([tokens]), decode_context=1000.0)) if op.name == ROUTER)
    return float(step_seconds([op._replace(count=1.0)], of.rates, of.residuals)[0] * 1e6)


@pytest.mark.parametrize(("tokens", "measured_us"), [(1, 7.52), (4, 20.2), (64, 63.3), (256, 77.8), (1024, 111)])
def test_a_router_in_fp32_takes_what_cublas_takes_on_gb200(tokens: float, measured_us: float) -> None:
    """vllm-project/vllm PR 47973: 6144 inputs, 256 experts; here MiniMax-M2.5's 3072, whose tiles take half as long."""
    start_us = 5
    twice = 2 * (router_us(tokens, gpu="gb200") - start_us) + start_us
    assert twice == pytest.approx(measured_us, rel=0.15)


def test_a_router_in_fp32_costs_what_the_same_server_gains_without_it() -> None:
    """vllm-project/vllm PR 41332, MiniMax-M2.5 on one B200: 2582 and 2834 tokens/s with 64 sequences, 62 layers."""
    gained_us = 64 * (1 / 2582.4 - 1 / 2834.3) / 62 * 1e6
    in_16_bit_us = 4.5
    prompts = 64 * 1600 / 600  # tokens of a step beside those that decode
    assert router_us(64 + prompts) - in_16_bit_us == pytest.approx(gained_us, rel=0.15)


def test_few_tiles_take_as_long_as_one() -> None:
    assert router_us(96) == pytest.approx(router_us(32), rel=0.1)


def test_a_kernel_of_the_engines_own_needs_no_tiles_for_few_tokens() -> None:
    assert router_us(32, engine_version="0.23") < 0.3 * router_us(32)
    assert router_us(33, engine_version="0.23") == router_us(33)


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
    ],
)
def test_engines_say_whose_router_they_multiply_in_fp32(asked: dict[str, Any], found: str) -> None:
    assert family(**asked) == found


def test_vllm_multiplies_nemotrons_router_in_16_bit_where_cublas_gives_fp32_from_it() -> None:
    asked = {"model": "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "weight_format": "bf16", "tp": 2}
    assert family(**asked, engine_version="0.16") == "gemm-32"
    assert family(**asked, engine_version="0.17") == "gemm-16"
    assert family(**asked, engine_version="0.17", gpu="a100-80-sxm") == "gemm-32"
