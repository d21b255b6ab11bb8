"""Memory formulas against books, papers and worked examples; physics as properties."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.catalog.engines import engine
from planner.catalog.models import model as named
from planner.collectives import Parallel
from planner.memory import Device, Load, MemoryInputs, MemoryPlan, Settings, default_utilization, memory_plan
from planner.memory.activation import encoder_bytes, non_torch_bytes
from planner.memory.budget import Spent, available_bytes, budget_bytes
from planner.memory.cache import CacheTable, cache_table, sequence_bytes
from planner.memory.concurrency import concurrency_at, printed_tokens
from planner.memory.placement import host_placement, shared_layers, stage_layers
from planner.memory.stages import stages_of
from planner.memory.terms import Draft
from planner.memory.weights import largest_part, padded, shard_fraction
from planner.params import tensors
from planner.params.prediction import prediction_head
from planner.specs.engine import EngineSpec
from planner.specs.model import Layer, ModelSpec, Role
from planner.units import GIB
from tests.oracle.models import GDN, GQA, MIXERS, MOE, build

VLLM, NONE = engine("vllm", "0.19.0"), engine("none")
H100 = 79.19 * GIB


def inputs(model: ModelSpec, parallel: Parallel | None = None, **changes: Any) -> MemoryInputs:
    """A 16-bit model on an H100, one thousand tokens in and out; `changes` go to whichever record has the field."""
    settings = Settings(0.9, 256.0, 8192.0, 8192.0)
    device, load = Device(H100), Load(1000.0, 1000.0)
    weights = np.array([tensor.numel * 2.0 for tensor in tensors(model)])
    base = MemoryInputs(weights, 2.0, 2.0, device, settings, load, parallel or Parallel())
    for name, value in changes.items():
        holder = next((part for part in ("device", "settings", "load") if name in getattr(base, part)._fields), None)
        base = base._replace(**({holder: getattr(base, holder)._replace(**{name: value})} if holder else {name: value}))
    return base


def plan(model: ModelSpec, spec: EngineSpec = VLLM, parallel: Parallel | None = None, **changes: Any) -> MemoryPlan:
    return memory_plan(model, spec, inputs(model, parallel, **changes))


def table(model: ModelSpec, spec: EngineSpec, parallel: Parallel | None = None, **changes: Any) -> CacheTable:
    return cache_table(model, spec, inputs(model, parallel, **changes), 1)


# --- what one token leaves ---


@pytest.mark.parametrize(
    ("name", "bytes_per_token"),
    [
        ("meta-llama/Llama-2-7b-hf", 512 * 2**10),  # vLLM paper, section 3, for a 7B of this shape: 0.5 MiB
        ("meta-llama/Meta-Llama-3-8B-Instruct", 128 * 2**10),  # scaling book, chapter 7
        ("deepseek-ai/DeepSeek-V3", 70_272),  # DeepSeek-V3 report, table 1 of the ISCA paper: 70.272 kB
        ("openai/gpt-oss-120b", 73_728),  # vLLM's own figure at max_model_len 1, hf-mem#60
        ("mistralai/Mistral-Small-3.1-24B-Instruct-2503", 163_840),  # vLLM's log: 40 layers x 8 heads x 128
    ],
)
def test_kv_bytes_per_token_match_published_figures(name: str, bytes_per_token: int) -> None:
    model = named(name)
    assert plan(model, NONE).kv.kv_bytes_per_token[0] == bytes_per_token


def test_kv_heads_are_replicated_beyond_their_number() -> None:
    per_token = [plan(build(), parallel=Parallel(tp)).kv.kv_bytes_per_token[0] for tp in (1, 2, 4, 8)]
    assert per_token == [per_token[0], per_token[0] / 2, per_token[0] / 4, per_token[0] / 4]


def test_a_latent_is_replicated_on_every_rank() -> None:
    model = build(MIXERS["mla"])
    per_token = plan(model, parallel=Parallel(np.array([1, 2, 8]))).kv.kv_bytes_per_token
    assert per_token.tolist() == [4 * (512 + 64) * 2] * 3


def test_attention_data_parallelism_multiplies_what_a_replica_of_latents_holds() -> None:
    model, shape = build(MIXERS["mla"], MOE), dict[str, Any](utilization=0.5, max_num_seqs=1e6)
    held = [plan(model, NONE, Parallel(8, 1, 8, groups), **shape).kv.max_concurrency[0] for groups in (1, 8)]
    assert held[1] / held[0] == pytest.approx(8, rel=0.05)


def test_layers_that_read_another_cache_own_none() -> None:
    sharing = GQA.model_copy(update={"shares_kv": True})
    layers = (Layer(mixer=0, ffn=0, count=2), Layer(mixer=1, ffn=0, count=2))
    both = build(mixers=(GQA, sharing)).model_copy(update={"layers": layers})
    assert plan(both, NONE).kv.kv_bytes_per_token[0] == plan(build(layers=2), NONE).kv.kv_bytes_per_token[0]


def test_layers_that_attend_to_an_image_own_pages_in_vllm() -> None:
    """vllm#12126: 6001 blocks of 16 tokens in 14.65 GiB, all 40 layers."""
    found = plan(named("meta-llama/Llama-3.2-11B-Vision"), engine("vllm", "0.6.6")).kv.kv_bytes_per_token[0]
    assert 6001 * 16 * found / GIB == pytest.approx(14.65, abs=0.01)


def test_groups_without_a_multicasting_switch_hold_little() -> None:
    def taken(version: str, tp: int, **device: bool) -> float:
        return float(non_torch_bytes(engine("vllm", version), Parallel(tp), Device(H100, **device)) / GIB)

    assert taken("0.19.0", 2) == pytest.approx(2.07, abs=0.01)  # llm-d-planner report, H100
    assert taken("0.19.0", 2, multicast=False, early=True) < 0.2
    assert taken("0.10.0", 4) - taken("0.10.0", 2) == pytest.approx(1.65)


def test_keys_that_serve_as_values_are_stored_twice() -> None:
    once = build(GQA.model_copy(update={"k_is_v": True}))
    assert plan(once, NONE).kv.kv_bytes_per_token[0] == plan(build(), NONE).kv.kv_bytes_per_token[0]


def test_keys_and_values_have_widths_and_formats_of_their_own() -> None:
    model = build(GQA.model_copy(update={"v_head_dim": 32}))
    per_token = plan(model, NONE, kv_k_bytes=34 / 32, kv_v_bytes=18 / 32).kv.kv_bytes_per_token[0]
    assert per_token == 4 * 4 * (64 * 34 / 32 + 32 * 18 / 32)


# --- vLLM's blocks ---


def test_gpt_oss_120b_groups_give_the_blocks_tokens_and_concurrency_of_its_log() -> None:
    """A100, tp 4, vLLM 0.10.1.1: 330,018 blocks print as 2,640,144 tokens and 284.25x."""
    spec, model = engine("vllm", "0.10.1.1"), named("openai/gpt-oss-120b")
    given_ = inputs(model, Parallel(4), max_model_len=16384.0, max_num_batched_tokens=2048.0)
    stages, blocks = stages_of(model, spec, given_), np.array([330_018.0])
    assert stages.table.pool_block_bytes[0, 0] == 16 * 512 * 18
    concurrency = concurrency_at(stages, blocks, 16384.0)
    assert concurrency[0] == pytest.approx(284.25, abs=0.005)
    assert printed_tokens(spec, stages, blocks, concurrency, 16384.0)[0] == 2_640_144


def test_gpt_oss_20b_on_013_prints_its_logged_tokens() -> None:
    spec, model = engine("vllm", "0.13.0"), named("openai/gpt-oss-20b")
    stages = stages_of(model, spec, inputs(model, max_num_batched_tokens=2048.0))
    blocks = np.array([35_328.0])
    concurrency = concurrency_at(stages, blocks, 8192.0)
    assert concurrency[0] == pytest.approx(54.44, abs=0.01)
    assert printed_tokens(spec, stages, blocks, concurrency, 8192.0)[0] == 282_624


@pytest.mark.parametrize(
    ("name", "tp", "tokens"),
    [
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", 1, 544),  # start-up log of vLLM 0.10.2
        ("Qwen/Qwen3.5-35B-A3B", 2, 1056),  # start-up log of vLLM 0.17.1
    ],
)
def test_attention_blocks_grow_until_a_recurrent_state_fits(name: str, tp: int, tokens: int) -> None:
    blocks = table(named(name), engine("vllm", "0.17.1"), Parallel(tp)).block_tokens
    assert blocks.ravel().tolist() == [tokens]


def test_gemma_3_pads_its_last_group_of_window_layers() -> None:
    """52 window and 10 full layers: groups of 10, six and one, as vLLM's own comment counts them."""
    assert table(named("google/gemma-3-27b-it"), VLLM).groups[0, 0] == 7


def test_newer_vllm_prints_tokens_that_follow_from_concurrency() -> None:
    kv = plan(named("openai/gpt-oss-20b"), engine("vllm", "0.26"), max_model_len=4096.0).kv
    assert kv.kv_pool_tokens[0] == np.floor(kv.max_concurrency_at_max_model_len[0] * 4096)


def test_one_block_of_the_pool_is_never_handed_out() -> None:
    tiny = build(layers=1)
    one_sequence = sequence_bytes(table(tiny, VLLM), 2000.0)[0, 0]
    block = table(tiny, VLLM).pool_block_bytes[0, 0]
    spent = sum(plan(tiny).terms[index][0] for index in (1, 4, 5))
    exact = (spent + 3 * one_sequence) / H100
    assert plan(tiny, utilization=exact).kv.max_concurrency[0] == 2
    assert plan(tiny, utilization=exact + 2 * block / H100).kv.max_concurrency[0] == 3


# --- windows, prefixes, states ---


def test_window_layers_stop_growing_behind_their_window() -> None:
    window = table(build(MIXERS["window"]), NONE)
    assert sequence_bytes(window, 128.0)[0, 0] == sequence_bytes(window, 30000.0)[0, 0]


def test_before_010_window_layers_keep_the_whole_sequence() -> None:
    model, old = build(MIXERS["window"]), engine("vllm", "0.9.2")
    assert sequence_bytes(table(model, old), 8000.0)[0, 0] == sequence_bytes(table(build(), old), 8000.0)[0, 0]


def test_llama_cpp_keeps_the_window_and_a_micro_batch_in_cells_of_256() -> None:
    window = table(build(GQA.model_copy(update={"window": 1000})), engine("llama.cpp"), n_ubatch=512.0)
    cells = sequence_bytes(window, 20000.0)[0, 0] / window.token_bytes[0, 0]
    assert cells == 1536


def test_a_shared_prefix_is_held_once() -> None:
    model = build()
    shape: dict[str, Any] = {"input_tokens": 4000.0, "output_tokens": 96.0, "max_num_seqs": 1e6}
    alone, shared = (plan(model, NONE, shared_prefix_tokens=prefix, **shape).kv for prefix in (0.0, 3072.0))
    assert shared.max_concurrency[0] / alone.max_concurrency[0] == pytest.approx(4, rel=0.01)
    assert shared.kv_needed_bytes[0] == alone.kv_needed_bytes[0]


def test_recurrent_states_do_not_grow_with_the_sequence() -> None:
    states = table(build(GDN), NONE)
    assert sequence_bytes(states, 10.0)[0, 0] == sequence_bytes(states, 30000.0)[0, 0] == states.state_bytes[0, 0]


def test_a_gated_delta_state_is_its_matrix_and_its_convolution() -> None:
    """16 heads x 128 x 128 in fp32 and 3 inputs of 4096 channels in 16 bit, in each of 4 layers."""
    assert table(build(GDN), NONE).state_bytes[0, 0] == 4 * (16 * 128 * 128 * 4 + 3 * 4096 * 2)


def test_expected_concurrency_counts_half_of_the_output() -> None:
    kv = plan(build(), NONE, input_tokens=1000.0, output_tokens=2000.0, max_num_seqs=1e9).kv
    assert kv.max_concurrency_expected[0] / kv.max_concurrency[0] == pytest.approx(3000 / 2000, rel=0.01)


def test_an_encoder_caches_nothing() -> None:
    kv = plan(build(causal=False)).kv
    assert kv.kv_bytes_per_token[0] == kv.kv_needed_bytes[0] == 0


# --- weights ---


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


# --- budgets ---


def test_vllm_takes_a_fraction_of_the_whole_device() -> None:
    assert plan(build()).terms.budget_bytes[0] == 0.9 * H100


def test_the_terms_of_vllm_fill_its_budget() -> None:
    terms = plan(build()).terms
    spent = terms.weights_bytes + terms.activation_bytes + terms.non_torch_bytes + terms.kv_pool_bytes
    assert spent[0] == pytest.approx(terms.budget_bytes[0])


def test_graphs_are_inside_the_budget_from_021() -> None:
    before, after = (plan(build(), engine("vllm", version)).terms for version in ("0.20", "0.21"))
    assert before.kv_pool_bytes[0] - after.kv_pool_bytes[0] == pytest.approx(after.cuda_graph_bytes[0])
    assert plan(build(), enforce_eager=True).terms.cuda_graph_bytes[0] == 0


def test_sglang_default_fraction_follows_the_device() -> None:
    """H100, tp 1: 512 MiB + 1.5 x 8192 + 2 x 256 + 128 MiB = 13,440 MiB of 79.19 GiB, server_args.py."""
    settings = Settings(0.0, 1.0, 8192.0, 8192.0, graph_batch=256.0)
    fraction = default_utilization(engine("sglang"), Device(H100), settings, Parallel())
    assert fraction == pytest.approx(1 - 13_440 / (79.19 * 1024), abs=1e-3)


def test_sglang_pool_is_what_its_fraction_leaves_after_the_weights() -> None:
    terms = plan(build(), engine("sglang"), utilization=0.8).terms
    free = H100 - 0.5 * GIB
    assert terms.kv_pool_bytes[0] == pytest.approx(0.8 * free - terms.weights_bytes[0] - terms.non_torch_bytes[0])


def test_sglang_qwen3_235b_holds_the_tokens_of_its_log() -> None:
    """4 x H100, fraction 0.93: 16.46 GiB of K and V are 367,404 tokens, vllm#21348."""
    cells = table(named("Qwen/Qwen3-235B-A22B"), engine("sglang"), Parallel(4))
    assert 367_404 * cells.token_bytes[0, 0] / GIB == pytest.approx(16.46, abs=0.01)


def test_tensorrt_llm_takes_its_fraction_of_what_is_left() -> None:
    nine, all_ = (plan(build(), engine("trtllm"), utilization=share).terms.kv_pool_bytes[0] for share in (0.9, 1.0))
    assert nine == pytest.approx(0.9 * all_)


@pytest.mark.parametrize("name", ["vllm", "sglang", "tensorrt-llm", "llama.cpp", "transformers", "none"])
def test_a_card_without_free_memory_has_a_budget_and_nothing_in_it(name: str) -> None:
    found = plan(named("Qwen/Qwen3-8B"), engine(name), reserved_bytes=2 * H100)
    assert found.terms.budget_bytes >= 0 and found.verdict.breaks == "reserved"
    assert found.verdict.shortfall_bytes >= H100


def test_states_are_set_aside_for_the_sequences_that_run_and_not_for_those_that_wait() -> None:
    hybrid = named("Qwen/Qwen3.5-27B")
    few, many = (plan(hybrid, NONE, concurrency=at_once, input_tokens=2e4) for at_once in (4.0, 1e6))
    held = many.kv.max_concurrency[0]
    assert many.terms.kv_pool_bytes[0] >= held * (2e4 + 1000) * many.kv.kv_bytes_per_token[0]
    assert few.terms.recurrent_state_bytes[0] / 4 == pytest.approx(many.terms.recurrent_state_bytes[0] / held)


def test_sglang_starts_only_where_a_sequence_fits_the_part_that_is_not_set_aside_for_states() -> None:
    hybrid, sglang = named("Qwen/Qwen3-Next-80B-A3B-Instruct"), engine("sglang")
    for tokens in (1e6, 2e6, 4e6, 8e6):
        found = plan(hybrid, sglang, Parallel(tp=4), utilization=0.85, input_tokens=tokens)
        assert found.verdict.starts == (found.kv.max_concurrency >= 1)


def test_tensorrt_llm_pool_is_what_its_log_says() -> None:
    """H200: a peak of 91.46 of 139.81 GiB leaves 41.11 GiB at a fraction of 0.85, peak with the context."""
    spec, device = engine("trtllm"), Device(139.81 * GIB)
    peak = np.asarray(91.46 * GIB) - spec.budget.context_bytes
    spent = Spent(peak, *(np.zeros(()) for _ in range(3)))
    pool = available_bytes(spec, budget_bytes(spec, device, 0.85), 0.85, spent)
    assert pool / GIB == pytest.approx(41.11, abs=0.02)


def test_llama_cpp_allocates_the_whole_context_of_every_slot() -> None:
    terms = plan(build(), engine("llama.cpp"), max_num_seqs=4.0, max_model_len_given=True).terms
    assert terms.kv_pool_bytes[0] == 4 * 8192 * plan(build(), NONE).kv.kv_bytes_per_token[0]


def test_a_plan_without_a_pool_is_full_not_a_number() -> None:
    kv = plan(named("meta-llama/Meta-Llama-3-8B-Instruct"), total_bytes=10 * GIB).kv
    assert np.isinf(kv.kv_occupancy[0])
    assert kv.max_concurrency[0] == kv.kv_pool_tokens[0] == kv.max_context_tokens[0] == 0


def test_copies_share_the_device() -> None:
    one, four = (plan(build(), copies=copies).terms.budget_bytes[0] for copies in (1.0, 4.0))
    assert one == 4 * four


def test_a_default_fraction_makes_room_for_others_on_the_card() -> None:
    shared = default_utilization(VLLM, Device(24 * GIB, 4 * GIB), inputs(build()).settings, Parallel())
    assert shared == pytest.approx(0.80)  # 19.5 of 24 GiB are free, and one hundredth is left to graphs
    assert plan(build(), total_bytes=24 * GIB, reserved_bytes=4 * GIB, utilization=shared).verdict.breaks[0] == ""


# --- verdict ---


@pytest.mark.parametrize(
    ("changes", "breaks"),
    [
        ({}, ""),
        ({"reserved_bytes": 20 * GIB}, "reserved"),
        ({"total_bytes": 0.1 * GIB, "enforce_eager": True}, "reserved"),
        ({"total_bytes": 10 * GIB}, "weights"),
        ({"total_bytes": 17.5 * GIB}, "activation"),
        ({"input_tokens": 500_000.0}, "kv_cache"),
        ({"max_model_len": 2_000_000.0, "max_model_len_given": True}, "max_model_len"),
        ({"utilization": 0.993}, "cuda_graphs"),
        ({"max_model_len": 1500.0, "max_model_len_given": True}, "context"),
    ],
)
def test_the_first_term_that_does_not_fit_is_named(changes: dict[str, Any], breaks: str) -> None:
    verdict = plan(named("meta-llama/Meta-Llama-3-8B-Instruct"), **changes).verdict
    assert verdict.breaks[0] == breaks
    assert verdict.starts[0] == (breaks == "")
    assert (verdict.shortfall_bytes[0] > 0) == (breaks not in ("", "context"))


def test_the_shortfall_is_what_the_budget_lacks() -> None:
    model = named("meta-llama/Meta-Llama-3-8B-Instruct")
    result = plan(model, total_bytes=10 * GIB)
    assert result.verdict.shortfall_bytes[0] == result.terms.weights_bytes[0] - 9 * GIB


def test_more_load_than_the_pool_holds_queues_but_starts() -> None:
    result = plan(build(), concurrency=10_000.0)
    assert result.verdict.starts[0]
    assert not result.verdict.holds_load[0]
    assert result.kv.kv_occupancy[0] > 1


def test_the_longest_context_fits_and_one_token_more_does_not() -> None:
    model = build(MIXERS["gqa"], max_position=2**20)
    kv = plan(model, NONE, concurrency=7.0, total_bytes=2 * GIB, max_num_batched_tokens=64.0).kv
    longest = float(kv.max_context_tokens[0])
    shape: dict[str, Any] = {
        "output_tokens": 0.0,
        "total_bytes": 2 * GIB,
        "max_num_batched_tokens": 64.0,
        "utilization": 0.9,
    }
    assert plan(model, NONE, input_tokens=longest, **shape).kv.max_concurrency[0] == 7
    assert plan(model, NONE, input_tokens=longest + 1, **shape).kv.max_concurrency[0] == 6


# --- arrays ---


@pytest.mark.parametrize("id_", ["vllm", "sglang", "tensorrt-llm", "llama.cpp", "transformers", "mlx", "none"])
@pytest.mark.parametrize("kind", list(MIXERS))
def test_every_engine_plans_every_kind_of_layer(id_: str, kind: str) -> None:
    result = plan(build(MIXERS[kind], MOE), engine(id_), Parallel(np.array([1, 2, 4]), np.array([1, 2, 1])))
    for value in (*result.terms, *result.kv):
        assert np.shape(value) == (3,)
        assert np.all(np.isfinite(value))
        assert np.all(np.asarray(value) >= 0)
    assert np.all(result.verdict.starts)


def test_scalar_equals_vector() -> None:
    model, tp, pp = named("openai/gpt-oss-20b"), np.array([1, 2, 4, 1]), np.array([1, 1, 2, 3])
    many = plan(model, parallel=Parallel(tp, pp), concurrency=np.array([1.0, 9.0, 40.0, 700.0]))
    for row, load in enumerate((1.0, 9.0, 40.0, 700.0)):
        one = plan(model, parallel=Parallel(int(tp[row]), int(pp[row])), concurrency=load)
        for vector, scalar in zip((*many.terms, *many.kv), (*one.terms, *one.kv), strict=True):
            assert np.broadcast_to(vector, (4,))[row] == pytest.approx(float(np.ravel(scalar)[0]))


@given(short=st.integers(1, 30_000), more=st.integers(0, 30_000), kind=st.sampled_from(sorted(MIXERS)))
def test_a_longer_sequence_never_takes_less(short: int, more: int, kind: str) -> None:
    rules = table(build(MIXERS[kind]), VLLM)
    assert sequence_bytes(rules, float(short + more))[0, 0] >= sequence_bytes(rules, float(short))[0, 0]


@given(low=st.floats(0.3, 0.95), more=st.floats(0, 0.05))
def test_a_larger_budget_never_holds_less(low: float, more: float) -> None:
    small, large = (plan(build(), utilization=share).kv.max_concurrency[0] for share in (low, low + more))
    assert large >= small


# --- adapters, offload, drafts ---


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


def test_a_draft_models_cache_shares_the_pool() -> None:
    model, small = named("Qwen/Qwen3-32B"), named("Qwen/Qwen3-0.6B")
    draft = Draft(small, np.asarray([[tensor.numel * 2.0] for tensor in tensors(small)]), 2.0, 2.0)
    alone, pair = (memory_plan(model, VLLM, inputs(model, Parallel(2))._replace(draft=one)) for one in (None, draft))
    assert pair.kv.kv_bytes_per_token[0] - alone.kv.kv_bytes_per_token[0] == 28 * 4 * 2 * 128 * 2
    assert pair.terms.kv_pool_bytes[0] < alone.terms.kv_pool_bytes[0]


def test_profiled_drafts_double_the_rows_of_logits() -> None:
    """vLLM 0.17.1, Llama-3.1-8B FP8, 512 sequences: 2.04 GiB with 3 or 5 n-gram tokens, 1.6 without."""
    model = named("meta-llama/Llama-3.1-8B-Instruct")
    shape: dict[str, Any] = {"max_num_seqs": 512.0, "max_num_batched_tokens": 16384.0}
    spec = engine("vllm", "0.17.1")
    found = [plan(model, spec, draft_tokens=k, **shape).terms.activation_bytes[0] / GIB for k in (3.0, 5.0)]
    assert found == pytest.approx([2.035, 2.035], rel=0.05)


def test_host_memory_that_is_too_small_is_named() -> None:
    model = named("meta-llama/Meta-Llama-3-8B-Instruct")
    verdict = plan(model, cpu_offload_bytes=4e9, host_bytes=2e9).verdict
    assert verdict.breaks[0] == "host_memory"
    assert verdict.shortfall_bytes[0] == 2e9


def test_layers_on_the_host_leave_weights_and_cache_on_the_gpus_and_there() -> None:
    model, spec = named("meta-llama/Meta-Llama-3-8B-Instruct"), engine("llama.cpp")
    where = np.empty(2, dtype=object)
    where[:] = [host_placement(32, layers, (1.0,), 0, spec.weights.host_roles) for layers in (999, 17)]
    both = plan(model, spec, placement=where, max_model_len_given=True)
    assert both.terms.kv_pool_bytes[1] == both.terms.kv_pool_bytes[0] / 2
    on_host = 16 * 218_112_000 * 2 + both.terms.kv_pool_bytes[1]
    assert both.terms.host_bytes[1] - both.terms.host_bytes[0] == pytest.approx(on_host, rel=1e-3)


def test_a_row_split_keeps_the_cache_on_the_first_gpu() -> None:
    model, spec = named("meta-llama/Meta-Llama-3-8B-Instruct"), engine("llama.cpp")
    one, two = (plan(model, spec, Parallel(tp)).terms for tp in (1, 2))
    assert two.kv_pool_bytes[0] == one.kv_pool_bytes[0]
    assert two.weights_bytes[0] == pytest.approx(one.weights_bytes[0] / 2, rel=0.01)


@given(layers=st.integers(1, 128), gpus=st.integers(1, 16))
def test_shared_layers_are_all_placed(layers: int, gpus: int) -> None:
    assert sum(shared_layers(layers, (1.0,) * gpus)) == layers


def test_layers_follow_the_shares_of_the_gpus() -> None:
    assert shared_layers(32, (3.0, 1.0)) == (25, 7)


# --- image encoders ---


def test_the_encoders_profiled_run_holds_the_largest_image() -> None:
    """Qwen2.5-VL-7B, vLLM with one sequence: 2.71 GiB of peak activation for one image of 16,384 tokens."""
    model, spec = named("Qwen/Qwen2.5-VL-7B-Instruct"), engine("vllm", "0.9.2")
    found = plan(model, spec, max_num_seqs=1.0, max_num_batched_tokens=2048.0).terms.activation_bytes[0]
    assert found / GIB == pytest.approx(2.71, rel=0.08)


def test_as_many_images_are_profiled_as_the_token_budget_holds() -> None:
    """Gemma-3: 256 tokens of 64 x 64 patches each, 32 in a budget of 8192."""
    model, spec = named("google/gemma-3-27b-it"), engine("vllm", "0.11.0")
    one, many = (encoder_bytes(model, spec, inputs(model, max_num_seqs=seqs)).running for seqs in (1.0, 1024.0))
    assert many == 32 * one
    assert one == 4096 * (5 * 1152 + 2 * 4304) * 2 + 256 * 5376 * 2
