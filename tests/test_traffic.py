"""How a step is divided over GPUs, and the messages that this takes."""

import itertools

import numpy as np
import pytest

from planner.collectives import Parallel
from planner.ops import Batch, GroupRules, Op, OpKind, Slot, batch_ops, prepare
from planner.ops.traffic import remote_gpus
from planner.specs.model import Ffn, Role
from tests.oracle.models import (
    DENSE,
    GQA,
    LLAMA_8B,
    MOE,
    build,
    by_name,
    listed,
    widths,
)

PREFILL = Batch(prefill_tokens=4096.0, prefill_seqs=1.0)


def test_two_gpus_halve_what_is_sharded() -> None:
    one, two = (listed(LLAMA_8B, Batch(32.0, 4000.0), Parallel(tp=tp)) for tp in (1, 2))
    for name in ("attention.qkv", "attention.o", "mlp.gate_up", "mlp.down", "lm_head", "attention.decode"):
        assert by_name(two, name).flops == by_name(one, name).flops / 2
        assert by_name(two, name).bytes == pytest.approx(by_name(one, name).bytes / 2, rel=0.01)


def test_one_gpu_sends_nothing_and_two_send_two_messages_per_layer() -> None:
    assert not [op for op in listed(LLAMA_8B, PREFILL) if op.kind is OpKind.COMMUNICATION]
    reduces = [op for op in listed(LLAMA_8B, PREFILL, Parallel(tp=2)) if op.name.startswith("all_reduce")]
    assert sum(op.count for op in reduces) == 2 * 32 + 1  # and one behind the split embedding
    assert reduces[0].bytes == 4096 * 4096 * 2  # 2 (n-1)/n of tokens x hidden x 2 bytes, n = 2


def test_mixer_and_ffn_side_by_side_send_one_message_per_layer() -> None:
    model = build(GQA).model_copy(update={"joined_reduce": True})
    reduces = [op for op in listed(model, PREFILL, Parallel(tp=2)) if op.name.startswith("all_reduce")]
    assert sum(op.count for op in reduces) == model.n_layers + 1


@pytest.mark.parametrize(("tp", "messages"), [(1, 0), (2, 4)])
def test_a_norm_over_all_heads_adds_up_its_squares_over_the_group(tp: int, messages: int) -> None:
    model = build(GQA.model_copy(update={"qk_norm": "full"}))
    sums = [op for op in listed(model, PREFILL, Parallel(tp=tp)) if op.name == "all_reduce.qk_norm"]
    assert sum(int(np.sum(op.count)) for op in sums) == messages


def test_attention_data_parallelism_exchanges_instead_of_reducing() -> None:
    ops = listed(build(ffn=MOE), Batch(64.0, 100.0), Parallel(tp=8, ep=8, attention_dp=8))
    counts = {op.name: float(op.count) for op in ops if op.kind is OpKind.COMMUNICATION}
    assert counts["all_reduce.mixer"] == counts["all_reduce.ffn"] == 0
    assert counts["dispatch.moe"] == counts["combine.moe"] == 4
    assert by_name(ops, "attention.decode").m == 8


def on_ranks(ffn: Ffn, rules: GroupRules, batch: Batch = Batch(64.0, 100.0)) -> list[Op]:  # noqa: B008
    model, parallel = build(ffn=ffn), Parallel(tp=8, ep=8, attention_dp=8)
    return batch_ops(prepare(model, widths(model), parallel, rules=rules), batch)


def test_gathered_tokens_reach_every_other_gpu() -> None:
    routed, gathered = (by_name(on_ranks(MOE, GroupRules(gathered=asked)), "dispatch.moe") for asked in (False, True))
    assert gathered.bytes == 8 * 7 * build().hidden_size * 2  # eight tokens of each rank to seven others, 16 bit
    assert routed.bytes < gathered.bytes
    assert gathered.rate is Slot.ALL_GATHER


def test_tokens_of_steps_with_prompts_are_added_up_by_two_all_reduces() -> None:
    summed = GroupRules(gathered=True, summed=True)
    decodes = by_name(on_ranks(MOE, summed), "dispatch.moe")
    prompts = on_ranks(MOE, summed, Batch(64.0, 100.0, 1024.0, 0.0, 8.0))
    assert (decodes.count, by_name(prompts, "dispatch.moe").count) == (build().n_layers, 0)
    sums = by_name(prompts, "sum.moe")
    assert (sums.rate, sums.count) == (Slot.ALL_REDUCE, 2 * build().n_layers)
    assert sums.bytes == 2 * 7 / 8 * (64 + 1024) * build().hidden_size * 2  # of all tokens in 16 bit, there and back


def test_a_dense_layer_that_each_rank_holds_reads_it_whole_and_sends_nothing() -> None:
    shared, own = (on_ranks(DENSE, GroupRules(whole)) for whole in (frozenset[Role](), frozenset({Role.MLP})))
    assert by_name(shared, "dispatch.dense").bytes > 0
    assert not [op for op in own if op.name.startswith("dispatch")]
    assert by_name(own, "mlp.down").flops == pytest.approx(by_name(shared, "mlp.down").flops)
    assert by_name(own, "mlp.down").bytes > 4 * by_name(shared, "mlp.down").bytes


@pytest.mark.parametrize(
    ("routes", "ep", "tp", "gpus"), [(8, 1, 8, 7.0), (1, 8, 8, 0.875), (2, 2, 2, 0.75), (8, 8, 8, 4.5947)]
)
def test_a_token_is_sent_once_to_every_gpu_that_holds_one_of_its_experts(
    routes: int, ep: int, tp: int, gpus: float
) -> None:
    ranks = [set(choice) for choice in itertools.product(range(ep), repeat=routes)] if ep**routes < 1000 else []
    reached = np.mean([len(met) for met in ranks]) * tp / ep * (1 - 1 / tp) if ranks else gpus
    assert remote_gpus(routes, ep, tp) == pytest.approx(reached, abs=1e-4)
    assert reached == pytest.approx(gpus, abs=1e-4)


def test_a_pipeline_adds_its_borders() -> None:
    ops = listed(LLAMA_8B, Batch(4.0, 10.0), Parallel(pp=4))
    assert by_name(ops, "send").count == 3
    assert by_name(ops, "mlp.down").count == 32
