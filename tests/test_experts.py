"""Whose kernels run a model's experts where an engine chooses by model."""

from __future__ import annotations

from typing import Any

import pytest

from planner.estimate.kernels.experts import product_family
from planner.estimate.kernels.launches import QUANTIZED
from planner.estimate.single import priced_scenario
from planner.ops import Slot
from planner.specs.scenario import Scenario


def experts_family(**asked: Any) -> str:
    """The kernel family of the experts, in SGLang on eight GPUs unless told otherwise."""
    priced = priced_scenario(Scenario(**{"engine": "sglang", "gpu": "b200", "tp": 8} | asked))
    return priced.clock.rate_sets[0].families[Slot.EXPERT_GEMM]


@pytest.mark.parametrize(
    ("asked", "family"),
    [
        ({"model": "deepseek-r1"}, "moe-gemm-fp8-block"),
        ({"model": "minimax-m2.5"}, "moe-triton-fp8-block"),
        ({"model": "minimax-m2.5", "gpu": "h200-sxm"}, "moe-gemm-fp8-block"),  # Triton's are that family's on Hopper
        ({"model": "minimax-m2.5", "engine": "vllm"}, "moe-gemm-fp8-block"),
        ({"model": "qwen3-235b-a22b", "weight_format": "bf16", "engine_version": "0.5.8"}, "moe-triton-16"),
        ({"model": "qwen3-235b-a22b", "weight_format": "bf16", "engine_version": "0.5.9"}, "moe-gemm-16"),
        ({"model": "gpt-oss-120b"}, "moe-mx4"),
    ],
)
def test_sglang_runs_tensorrt_llms_experts_for_some_models_on_blackwell(asked: dict[str, Any], family: str) -> None:
    assert experts_family(**asked) == family


@pytest.mark.parametrize(
    ("version", "block", "half"),
    [
        ("0.14", "triton-fp8-block", "triton-16"),
        ("0.16", "gemm-fp8-block", "triton-16"),
        ("0.24", "gemm-fp8-block", "gemm-16"),
    ],
)
def test_vllm_runs_tensorrt_llms_experts_on_blackwell_from_some_version_on(version: str, block: str, half: str) -> None:
    asked = {"engine": "vllm", "engine_version": version, "gpu": "b300"}
    assert experts_family(model="minimax-m2.5", **asked) == f"moe-{block}"
    assert experts_family(model="qwen3-235b-a22b", weight_format="bf16", **asked) == f"moe-{half}"


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_experts_of_amds_mxfp4_checkpoints_quantize_their_inputs_where_the_gpu_multiplies_fp4(engine: str) -> None:
    asked = {"engine": engine, "model": "qwen3.5-397b-a17b", "weight_format": "mxfp4"}
    assert experts_family(gpu="mi355x", **asked) == "moe-gemm-fp4"
    assert experts_family(gpu="mi300x", **asked) == "moe-mx4"
    assert experts_family(engine=engine, gpu="mi355x", model="gpt-oss-120b") == "moe-mx4"


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
@pytest.mark.parametrize(
    ("gpu", "model", "family"),
    [
        ("h200-sxm", "deepseek-v4-flash", "moe-wo-4"),
        ("h200-sxm", "gpt-oss-120b", "moe-mx4"),
        ("b200", "deepseek-v4-flash", "moe-mx4"),
    ],
)
def test_hopper_has_a_kernel_of_mxfp4_for_gpt_oss_alone(engine: str, gpu: str, model: str, family: str) -> None:
    """Marlin runs DeepSeek-V4's experts: vLLM issue 57772, SGLang pull request 25923."""
    assert experts_family(engine=engine, gpu=gpu, model=model, weight_format="mxfp4") == family


@pytest.mark.parametrize(
    ("experts", "products"),
    [
        ("moe-triton-fp8-block", "gemm-fp8-block"),
        ("moe-triton-fp8", "gemm-fp8"),
        ("moe-triton-16", "gemm-16"),
        ("moe-gemm-fp4", "gemm-fp4"),
    ],
)
def test_experts_in_any_kernel_quantize_their_inputs_as_products_of_their_types(experts: str, products: str) -> None:
    assert product_family(experts) == products
    assert (products in QUANTIZED) == (products != "gemm-16")
