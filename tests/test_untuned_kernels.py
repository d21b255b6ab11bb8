"""Block FP8 products without tiles of their own: against a trace of DeepSeek-R1 on MI325X (InferenceX issue 863)."""

import numpy as np
import pytest

from planner.estimate.breakdown import breakdown
from planner.specs.scenario import Scenario

DEEPSEEK = {"model": "deepseek-ai/DeepSeek-R1-0528", "weight_format": "fp8-block128", "tp": 8}
LOAD = {"concurrency": 64, "input_tokens": 1024, "output_tokens": 1024}
BETWEEN_US = 3.0  # between kernels of a graph, which a trace does not count
QUANTIZE_US = 4.8  # the kernel before that quantizes the inputs, which a trace counts apart


def products_us(**stated: object) -> dict[str, float]:
    served = {"engine": "sglang", "engine_version": "0.5.9", "gpu": "mi325x"}
    parts = breakdown(Scenario.model_validate(DEEPSEEK | LOAD | served | stated))
    return {part.name: part.seconds / part.executions * 1e6 for part in parts if part.executions}


def test_products_of_attention_take_together_what_a_trace_says():
    found = products_us()
    predicted = sum(found[f"attention.{name}"] for name in ("a", "q_b", "o"))
    measured = 123 + 30 + 34 + 3 * (BETWEEN_US + QUANTIZE_US)
    assert predicted == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize("stated", [{"engine_version": "0.5.5"}, {"engine_version": "0.5.11"}, {"engine": "vllm"}])
def test_another_kernel_or_a_shape_with_tiles_takes_a_third_of_that(stated):
    version = {"engine_version": None} if "engine" in stated else {}
    assert products_us(**version, **stated)["attention.a"] < products_us()["attention.a"] / 3


def test_shapes_of_another_group_have_no_tiles():
    tuned, untuned = (products_us(engine_version="0.5.13", tp=tp)["attention.o"] for tp in (8, 4))
    assert untuned > 2 * tuned


def test_other_gpus_and_formats_have_kernels_of_their_own():
    for other in ({"gpu": "mi355x"}, {"gpu": "h200-sxm"}):
        assert products_us(**other)["attention.a"] < 50
    llama = {"model": "meta-llama/Llama-3.1-8B-Instruct", "weight_format": "bf16", "tp": 1}
    assert np.isclose(products_us(**llama)["mlp.down"], products_us(**llama, engine_version="0.5.5")["mlp.down"])
