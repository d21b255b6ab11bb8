"""Weights on one GPU: division, adapters, drafts, and what stays in host memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.catalog.engines import engine
from planner.catalog.models import model as named
from planner.collectives import Parallel
from planner.memory import memory_plan
from planner.memory.placement import host_placement, shared_layers, stage_layers
from planner.memory.stages import stages_of
from planner.memory.terms import Draft
from planner.memory.weights import held_bytes, largest_part, padded, shard_fraction
from planner.params import tensors
from planner.params.prediction import prediction_head
from planner.specs.model import Role
from planner.units import GIB
from tests.memory_plans import NONE, VLLM, inputs, plan
from tests.oracle.models import MOE, build


@given(units=st.integers(1, 4096), parts=st.integers(1, 128))
def test_the_fullest_part_holds_at_least_its_share(units: int, parts: int) -> None:
    assert 1 / parts <= largest_part(units, parts) + 1e-12
    assert largest_part(units, parts) <= 1


def test_vocabularies_pad_to_64() -> None:
    assert padded(151_936, 64) == 151_936
    assert padded(50_257, 64) == 50_304  # nanoGPT's own padded vocabulary


def test_norms_are_replicated_and_experts_spread_over_ep_then_tp() -> None:
    listed = {tensor.name: tensor for tensor in tensors(build(ffn=MOE))}
    group = Parallel(tp=8, pp=1, ep=4)
    assert shard_fraction(listed["norm"], group, VLLM) == 1
    assert shard_fraction(listed["experts.up"], group, VLLM) == pytest.approx(1 / 8)
    assert shard_fraction(listed["experts.up"], Parallel(tp=8, pp=1, ep=8), VLLM) == pytest.approx(1 / 8)


def test_data_parallel_attention_replicates_attention() -> None:
    q = next(tensor for tensor in tensors(build()) if tensor.name == "attention.q")
    fractions = [shard_fraction(q, Parallel(tp=8, attention_dp=groups), VLLM) for groups in (1, 2, 8)]
    assert fractions == [1 / 8, 1 / 4, 1]


def test_a_tensor_is_divided_by_its_own_rule_whatever_stands_beside_it() -> None:
    """An encoder's matrices are divided, its biases and positions replicated; all are of one role."""
    model, group = named("google/gemma-3-27b-it"), Parallel(tp=4)
    once, fourth = held_bytes(model, VLLM, inputs(model)), held_bytes(model, VLLM, inputs(model, group))
    for tensor, whole, part in zip(tensors(model), once[:, 0], fourth[:, 0], strict=True):
        if tensor.role is Role.VISION:
            assert part / whole == pytest.approx(shard_fraction(tensor, group, VLLM), rel=0.01)


def test_two_ranks_halve_what_shards() -> None:
    model = named("meta-llama/Meta-Llama-3-8B-Instruct")
    one, two = (plan(model, NONE, Parallel(tp)).terms.weights_bytes[0] for tp in (1, 2))
    assert two == pytest.approx(one / 2, rel=1e-3)


@pytest.mark.parametrize(
    ("layers", "pp", "counts"),
    [(32, 4, (8, 8, 8, 8)), (61, 4, (15, 15, 16, 15)), (62, 4, (15, 16, 16, 15)), (7, 4, (2, 2, 2, 1))],
)
def test_left_over_layers_go_to_the_stages_before_the_last(layers: int, pp: int, counts: tuple[int, ...]) -> None:
    assert stage_layers(layers, pp) == counts


def test_pipeline_stages_hold_the_whole_model_once() -> None:
    model = named("meta-llama/Meta-Llama-3-8B-Instruct")
    whole = plan(model, NONE).terms.weights_bytes[0]
    parts = stages_of(model, NONE, inputs(model, Parallel(1, 4))).spent.weights
    assert parts.sum() == pytest.approx(whole)
    assert parts[0, 0] > parts[1, 0]  # the embedding is on the first stage, the head on the last


def test_offloaded_weights_leave_the_gpu() -> None:
    plain, offloaded = plan(build()), plan(build(), cpu_offload_bytes=1e8)
    assert plain.terms.weights_bytes[0] - offloaded.terms.weights_bytes[0] == 1e8


def test_an_adapter_slot_is_rank_times_inputs_and_outputs_of_every_matrix() -> None:
    """Llama-3-8B, rank 16, 16 bit: 32 layers x 16 x 2 x (q 4096+4096, k and v 4096+1024, o 4096+4096,
    gate and up 4096+14336, down 14336+4096) = 80 MiB: 41.9 M parameters, as peft counts them.
    """
    model = named("meta-llama/Meta-Llama-3-8B-Instruct")
    none, one, four = (
        plan(model, lora_slots=slots, lora_rank=16.0).terms.weights_bytes[0] for slots in (0.0, 1.0, 4.0)
    )
    assert one - none == 2 * 41_943_040
    assert four - none == 4 * (one - none)


def test_tensor_parallel_adapters_split_one_side_and_replicate_the_other() -> None:
    model = named("meta-llama/Meta-Llama-3-8B-Instruct")
    slot = [
        plan(model, NONE, Parallel(tp), lora_slots=1.0, lora_rank=16.0).terms.weights_bytes[0]
        - plan(model, NONE, Parallel(tp)).terms.weights_bytes[0]
        for tp in (1, 2)
    ]
    assert slot[0] / 2 < slot[1] < slot[0]


def test_offload_stops_at_the_weights_of_the_layers() -> None:
    model = named("meta-llama/Meta-Llama-3-8B-Instruct")
    terms = plan(model, cpu_offload_bytes=1e12).terms
    outside = 2 * 128_256 * 4096 * 2
    assert terms.weights_bytes[0] == pytest.approx(outside, rel=0.01)
    assert terms.host_bytes[0] == pytest.approx(16.06e9 - outside, rel=0.01)


def test_a_head_that_predicts_holds_its_layer_and_in_sglang_a_vocabulary_of_its_own() -> None:
    """Qwen3.5's 27B head: 0.80 GiB of its own, 5.53 with embedding and head, sglang#38147."""
    model = named("Qwen/Qwen3.5-27B")
    head = prediction_head(model)
    for own, gib in ((False, 0.80), (True, 5.53)):
        bytes_16bit = np.asarray([[tensor.numel * 2.0] for tensor in tensors(head)])
        given = inputs(model)._replace(draft=Draft(head, bytes_16bit, 2.0, 2.0, own))
        bare = memory_plan(model, NONE, inputs(model)).terms.weights_bytes[0]
        assert (memory_plan(model, NONE, given).terms.weights_bytes[0] - bare) / GIB == pytest.approx(gib, abs=0.01)


@pytest.mark.parametrize("name", ["deepseek-ai/DeepSeek-V3", "zai-org/GLM-4.5-Air", "Qwen/Qwen3.5-27B"])
def test_a_prediction_head_has_the_parameters_of_the_checkpoint(name: str) -> None:
    model = named(name)
    head = prediction_head(model)
    inside = sum(tensor.numel for tensor in tensors(head) if tensor.role not in (Role.EMBEDDING, Role.LM_HEAD))
    assert inside == pytest.approx(model.mtp_params, rel=1e-3)


def test_layers_on_the_host_leave_weights_and_cache_on_the_gpus_and_there() -> None:
    model, spec = named("meta-llama/Meta-Llama-3-8B-Instruct"), engine("llama.cpp")
    where = np.empty(2, dtype=object)
    where[:] = [host_placement(32, layers, (1.0,), 0, spec.weights.host_roles) for layers in (999, 17)]
    both = plan(model, spec, placement=where, max_model_len_given=True)
    assert both.terms.kv_pool_bytes[1] == both.terms.kv_pool_bytes[0] / 2
    on_host = 16 * 218_112_000 * 2 + both.terms.kv_pool_bytes[1]
    assert both.terms.host_bytes[1] - both.terms.host_bytes[0] == pytest.approx(on_host, rel=1e-3)


@given(layers=st.integers(1, 128), gpus=st.integers(1, 16))
def test_shared_layers_are_all_placed(layers: int, gpus: int) -> None:
    assert sum(shared_layers(layers, (1.0,) * gpus)) == layers


def test_layers_follow_the_shares_of_the_gpus() -> None:
    assert shared_layers(32, (3.0, 1.0)) == (25, 7)
