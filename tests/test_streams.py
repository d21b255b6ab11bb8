"""Shared experts beside the routed ones: the same work, fewer start-ups."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planner.catalog import models
from planner.collectives import Parallel
from planner.estimate.single import priced_scenario
from planner.ops import (
    Batch,
    Op,
    OpKind,
    Slot,
    Widths,
    batch_ops,
    norms_within,
    pools_beside,
    prepare,
    shared_beside,
)
from planner.params import tensors
from planner.specs.scenario import Scenario
from tests.oracle.models import MOE, build


def ops() -> list[Op]:
    model = build(ffn=MOE)
    widths = Widths(np.array([[t.numel * 2.0] for t in tensors(model)]))
    return batch_ops(prepare(model, widths, Parallel()), Batch(8.0, 100.0))


def total(found: list[Op], of: str) -> float:
    return float(sum(np.sum(op.count * getattr(op, of)) for op in found if op.kind in (OpKind.GEMM, OpKind.MOE)))


def executions(found: list[Op], kind: OpKind) -> float:
    return float(sum(np.sum(op.count) for op in found if op.kind is kind))


@pytest.mark.parametrize("of", ["bytes", "flops"])
def test_the_experts_kernel_takes_over_their_work(of: str) -> None:
    beside = shared_beside(ops(), np.ones(1))
    assert total(beside, of) == pytest.approx(total(ops(), of))
    assert not any(np.any(op.count) for op in beside if op.rate is Slot.SHARED_GEMM)


def test_two_products_and_an_activation_of_every_layer_start_no_more() -> None:
    beside = shared_beside(ops(), np.ones(1))
    fewer = [executions(ops(), kind) - executions(beside, kind) for kind in (OpKind.GEMM, OpKind.ELEMENTWISE)]
    assert fewer == [2 * 4, 4]


def shared_products(gpu: str, batch: Batch, **asked: Any) -> float:
    """Executions of shared experts' products in a step of SGLang."""
    priced = priced_scenario(Scenario(**({"model": "deepseek-r1", "tp": 8, "gpu": gpu, "engine": "sglang"} | asked)))
    return float(sum(np.sum(op.count) for op in priced.clock.ops(batch) if op.rate is Slot.SHARED_GEMM))


def test_only_steps_that_cuda_graphs_replay_hide_them() -> None:
    decodes, prompts = Batch(8.0, 100.0), Batch(8.0, 100.0, np.full(1, 512.0), 0.0, np.ones(1))
    assert shared_products("b200", decodes) == 0
    assert shared_products("b200", prompts) == shared_products("b200", decodes, enforce_eager=True) == 2 * 58


def test_models_that_extend_a_class_hide_what_it_hides() -> None:
    """glm4v_moe.py and mistral_large_3.py of SGLang."""
    assert shared_products("h200-sxm", Batch(8.0, 100.0), model="zai-org/GLM-4.6V", tp=4) == 0
    assert shared_products("b200", Batch(8.0, 100.0), model="mistralai/Mistral-Large-3-675B-Instruct-2512") == 0


def test_every_attention_rank_replays_a_graph_of_its_own() -> None:
    beyond_one = Batch(1000.0, 100.0)  # the largest graph holds 512 sequences
    assert shared_products("b200", beyond_one) == 2 * 58
    assert shared_products("b200", beyond_one, attention_dp=8) == 0


def test_on_amd_they_are_routed_experts_of_every_step_from_the_versions_that_say_so() -> None:
    decodes, prompts = Batch(8.0, 100.0), Batch(8.0, 100.0, np.full(1, 512.0), 0.0, np.ones(1))
    assert shared_products("mi355x", decodes) == shared_products("mi300x", prompts) == 0
    qwen = {"model": "qwen3.5-397b-a17b", "gpu": "mi355x", "batch": prompts}
    assert shared_products(engine_version="0.5.11", **qwen) == 0
    assert shared_products(engine_version="0.5.10", **qwen) == 2 * 60
    assert shared_products("mi355x", decodes, model="kimi-k2-instruct") == 2 * 60


def elementwise_kernels(version: str, **asked: Any) -> float:
    """Element-wise kernels of a step of eight sequences in SGLang."""
    scenario = {"model": "deepseek-r1", "gpu": "h200-sxm", "tp": 8, "engine": "sglang"} | asked
    priced = priced_scenario(Scenario(engine_version=version, **scenario))
    return executions(priced.clock.ops(Batch(8.0, 100.0)), OpKind.ELEMENTWISE)


def test_sglangs_all_reduces_take_norms_along_where_its_arguments_say_so() -> None:
    apart = elementwise_kernels("0.5.9")
    assert apart - elementwise_kernels("0.5.12") == 2 * 61
    assert elementwise_kernels("0.5.12", attention_dp=8) == apart
    dense = {"model": "llama-3.3-70b", "tp": 4}
    assert elementwise_kernels("0.5.12", **dense) == elementwise_kernels("0.5.9", **dense)


def test_a_step_without_tokens_has_no_norms_to_take_along() -> None:
    idle = [op for op in norms_within(ops(), np.ones(1)) if op.name == "elementwise"]
    none = norms_within([idle[0]._replace(count=np.zeros(1))], np.full(1, 4.0))
    assert float(np.sum(none[0].count)) == 0


def compressed_ops(ways: Parallel, batch: Batch) -> list[Op]:
    model = models.model("deepseek-ai/DeepSeek-V4-Flash")
    widths = Widths(np.array([[t.numel * 2.0] for t in tensors(model)]))
    return batch_ops(prepare(model, widths, ways), batch)


@pytest.mark.parametrize("of", ["bytes", "flops"])
def test_products_of_compressor_and_indexer_hide_beside_the_queries(of: str) -> None:
    whole = compressed_ops(Parallel(), Batch(8.0, 9000.0))
    beside = pools_beside(whole, np.ones(1))
    assert total(beside, of) == pytest.approx(total(whole, of))
    fewer = executions(whole, OpKind.GEMM) - executions(beside, OpKind.GEMM)
    assert fewer == 41 + 3 * 21  # 41 layers pool, 21 of them for an indexer with three products


DRAFTED = {"draft_model": "mtp", "speculative_tokens": 3, "acceptance_rate": 0.7}  # four tokens of a sequence


def pooling_products(engine: str, gpu: str, decodes: float, **asked: Any) -> float:
    """Executions of the compressor's products in a step of `decodes` sequences."""
    scenario = Scenario(model="deepseek-ai/DeepSeek-V4-Flash", tp=4, gpu=gpu, engine=engine, **asked)
    ops = priced_scenario(scenario).clock.ops(Batch(decodes, 9000.0))
    return float(sum(np.sum(op.count) for op in ops if op.name == "compressor.pool"))


@pytest.mark.parametrize(
    ("asked", "products"),
    [
        ({"engine": "sglang", "gpu": "h200-sxm", "decodes": 64.0}, 0),
        ({"engine": "sglang", "gpu": "h200-sxm", "decodes": 65.0}, 41),
        ({"engine": "sglang", "gpu": "b200", "decodes": 128.0}, 0),
        ({"engine": "sglang", "gpu": "b200", "decodes": 500.0, "attention_dp": 4}, 0),
        ({"engine": "sglang", "gpu": "b200", "decodes": 64.0, "enforce_eager": True}, 41),
        ({"engine": "sglang", "gpu": "b200", "decodes": 32.0, **DRAFTED}, 0),
        ({"engine": "sglang", "gpu": "b200", "decodes": 33.0, **DRAFTED}, 41),
        ({"engine": "vllm", "gpu": "b200", "decodes": 256.0, "engine_version": "0.24"}, 0),
        ({"engine": "vllm", "gpu": "b200", "decodes": 256.0, "engine_version": "0.20"}, 41),
        ({"engine": "vllm", "gpu": "mi355x", "decodes": 64.0, "engine_version": "0.24"}, 41),
    ],
)
def test_pools_are_hidden_in_small_steps_that_graphs_replay(asked: dict[str, Any], products: float) -> None:
    assert pooling_products(**asked) == products
