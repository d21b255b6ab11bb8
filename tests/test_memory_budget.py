"""What an engine may use, and what it takes beside weights and cache: activations, graphs, libraries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planner.catalog.engines import engine
from planner.catalog.models import model as named
from planner.collectives import Parallel
from planner.estimate import estimate
from planner.memory import Device, Runs, Settings, default_utilization
from planner.memory.activation import encoder_bytes, non_torch_bytes
from planner.memory.budget import Spent, available_bytes, budget_bytes
from planner.memory.workspace import unpacked_bytes, workspace_bytes
from planner.specs.scenario import Scenario
from planner.units import GIB
from tests.memory_plans import H100, NONE, VLLM, inputs, plan, table
from tests.oracle.models import MOE, build


def test_groups_without_a_multicasting_switch_hold_little() -> None:
    def taken(version: str, tp: int, **device: bool) -> float:
        return float(non_torch_bytes(engine("vllm", version), Parallel(tp), Device(H100, **device)) / GIB)

    assert taken("0.19.0", 2) == pytest.approx(2.07, abs=0.01)  # llm-d-planner report, H100
    assert taken("0.19.0", 2, multicast=False, early=True) < 0.2
    assert taken("0.10.0", 4) - taken("0.10.0", 2) == pytest.approx(1.65)


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


@pytest.mark.parametrize(
    ("name", "version", "device", "shape", "fraction"),
    [
        ("moonshotai/Kimi-K2.5", "0.5.8", Device(287.98 * GIB, aiter=True), (16384.0, 512.0, 8), 0.826),  # logged
        ("Qwen/Qwen3-30B-A3B", "0.5.17", Device(H100), (8192.0, 256.0, 1), 0.83),  # 58 sizes of prompts
    ],
)
def test_sglang_default_fraction_follows_the_model(
    name: str, version: str, device: Device, shape: tuple[float, float, int], fraction: float
) -> None:
    settings = Settings(0.0, 1.0, shape[0], 8192.0, graph_batch=shape[1])
    runs = Runs(named(name), replayed=0.0 if device.aiter else np.inf)
    found = default_utilization(engine("sglang", version), device, settings, Parallel(shape[2]), runs)
    assert found == pytest.approx(fraction, abs=1.5e-3)


@pytest.mark.parametrize(("captured", "per_sequence_mib"), [(256.0, 3.0), (512.0, 4.5)])
def test_sglang_reserves_more_for_every_rank_that_captures_many_sequences(
    captured: float, per_sequence_mib: float
) -> None:
    settings = Settings(0.0, 1.0, 8192.0, 8192.0, graph_batch=captured)
    device, sglang = Device(140 * GIB), engine("sglang", "0.5.6")
    alone, ranks = (default_utilization(sglang, device, settings, Parallel(8, attention_dp=dp)) for dp in (1, 8))
    assert 140 * GIB * (alone - ranks) == pytest.approx(8 * captured * per_sequence_mib * 2**20, rel=0.02)


def test_sglang_lowers_any_fraction_for_long_contexts_on_instinct() -> None:
    """Qwen3-0.6B on MI355X at 0.6: 145.30 GB of pool."""
    pools = [
        plan(
            named("Qwen/Qwen3-0.6B"), engine("sglang", "0.5.17"), utilization=0.6, aiter=aiter, total_bytes=287.98 * GIB
        )
        for aiter in (True, False)
    ]
    instinct, others = (pool.terms.kv_pool_bytes[0] for pool in pools)
    assert instinct == others  # 8192 tokens are not long
    long = plan(
        named("Qwen/Qwen3-0.6B"),
        engine("sglang", "0.5.17"),
        utilization=0.6,
        aiter=True,
        total_bytes=287.98 * GIB,
        max_model_len=40960.0,
    )
    assert long.terms.kv_pool_bytes[0] / GIB == pytest.approx(145.30, rel=5e-3)


@pytest.mark.parametrize(("gpu", "share"), [("mi300x", 0.85), ("r9700", 1.0), ("h100-sxm", 1.0)])
def test_amds_kernels_for_instinct_do_not_run_on_other_cards(gpu: str, share: float) -> None:
    asked = {"model": "qwen3-0.6b", "engine": "sglang", "gpu": gpu, "gpu_memory_utilization": 0.6}
    long, short = (estimate(Scenario(**asked, max_model_len=most)).rows()[0] for most in (40960, 8192))
    assert long["budget_gib"] == pytest.approx(share * short["budget_gib"], rel=0.01)


def test_vllm_packs_the_latents_that_an_indexer_picks_from() -> None:
    """GLM-5.2 on GH200 in FP8: 53,950 bytes per token by its log."""
    cells = table(named("zai-org/GLM-5.2"), engine("vllm", "0.23.1"), Parallel(4), kv_k_bytes=1.0, kv_v_bytes=1.0)
    assert cells.token_bytes[0, 0] == pytest.approx(53_950, rel=1e-3)


def test_vllm_caches_those_latents_without_scales_where_flashinfer_reads_them() -> None:
    """GLM-5.2 on GB200 in FP8: 47,700 bytes per token by its log."""
    cached = {"kv_k_bytes": 1.0, "kv_v_bytes": 1.0, "plain_latents": True}
    cells = table(named("zai-org/GLM-5.2"), engine("vllm", "0.26"), Parallel(4), **cached)
    assert cells.token_bytes[0, 0] == pytest.approx(47_700, rel=1e-3)


def test_an_indexer_gathers_keys_by_the_longest_sequence_in_the_buffer_of_the_experts() -> None:
    """40 x max_model_len keys of 132 bytes, where that is more than experts need; 512 MiB of scores beside it."""
    glm, vllm = named("zai-org/GLM-5.2"), engine("vllm", "0.26")

    def buffer(tokens: float, **changes: Any) -> float:
        return float(workspace_bytes(glm, vllm, inputs(glm, Parallel(4, ep=4), max_model_len=tokens, **changes)))

    assert buffer(819_200.0) == 40 * 819_200 * 132
    assert buffer(8192.0) == buffer(4096.0) > 40 * 8192 * 132
    peaks = [plan(glm, vllm, Parallel(8), max_model_len=most).terms.activation_bytes[0] for most in (4e5, 8e5)]
    assert peaks[1] - peaks[0] == pytest.approx(40 * 4e5 * 132)


def test_unpacked_latents_count_as_weights_and_leave_less_to_grow() -> None:
    """flashmla_sparse.py: five sequences of 576 values in 16 bit, made before the weights are counted."""
    glm, vllm = named("zai-org/GLM-5.2"), engine("vllm", "0.26")
    cached = {"kv_k_bytes": 1.0, "kv_v_bytes": 1.0, "max_model_len": 400_000.0}
    packed, plain = (inputs(glm, Parallel(4), **cached, plain_latents=plain) for plain in (False, True))
    made = 5 * 400_000 * 576 * 2
    assert float(unpacked_bytes(glm, vllm, packed)) == made
    assert float(unpacked_bytes(glm, vllm, plain)) == 0
    grown = [float(workspace_bytes(glm, vllm, asked)) for asked in (packed, plain)]
    assert grown == [0, 40 * 400_000 * 132]
    spent = [plan(glm, vllm, Parallel(4), **cached, plain_latents=plain).terms for plain in (False, True)]
    assert spent[0].weights_bytes[0] - spent[1].weights_bytes[0] == pytest.approx(made)


def test_the_first_captured_decode_allocates_the_workspace_of_flashinfer() -> None:
    vllm, small = engine("vllm", "0.23.1"), {"kv_k_bytes": 1.0, "kv_v_bytes": 1.0}

    def graphs(**changes: Any) -> float:
        return float(plan(build(), vllm, **changes).terms.cuda_graph_bytes[0])

    plain, workspace = graphs(), 394 * 2**20
    assert graphs(flashinfer=True) - plain == workspace
    assert graphs(flashinfer_8bit=True, **small) - plain == workspace
    assert graphs(flashinfer_8bit=True) == graphs(**small) == plain
    assert graphs(flashinfer=True, draft_tokens=3.0) == graphs(draft_tokens=3.0)
    assert graphs(flashinfer=True, enforce_eager=True) == 0


def test_sglang_caches_keys_of_an_indexer_in_every_layer() -> None:
    """memory_pool.py DSATokenToKVPool: 78 layers of GLM-5.2, though 57 take the picks of another."""
    cells = table(named("zai-org/GLM-5.2"), engine("sglang", "0.5.15"), Parallel(8), kv_k_bytes=1.0, kv_v_bytes=1.0)
    assert cells.token_bytes[0, 0] == pytest.approx(78 * (576 + 132))


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


def test_sglang_keeps_states_of_the_sequences_that_are_stated_where_no_prefixes_are_cached() -> None:
    """Qwen3.8-27B with 32 sequences on GB10, 8 GiB of it taken: 535,124 tokens of 64 KiB by its log."""
    asked = {"model": "Qwen/Qwen3.8-27B", "weight_format": "bf16", "gpu": "gb10", "reserved_gib": 7.97}
    started = {"engine": "sglang", "gpu_memory_utilization": 0.8, "max_num_seqs": 32, "max_num_batched_tokens": 8192}
    plain, cached = (estimate([Scenario(**asked, **started, prefix_caching=on)]).rows()[0] for on in (False, True))
    assert plain["kv_pool_tokens"] == pytest.approx(535_124, rel=0.02)
    assert plain["max_concurrency"] == 32 and plain["recurrent_state_gib"] < cached["recurrent_state_gib"] / 3


def test_sglang_keeps_states_that_verify_drafts_for_no_more_sequences_than_run() -> None:
    hybrid, sglang = named("Qwen/Qwen3-Next-80B-A3B-Instruct"), engine("sglang")

    def states(most: float, drafts: float) -> float:
        found = plan(hybrid, sglang, Parallel(tp=4), utilization=0.85, max_num_seqs=most, draft_tokens=drafts)
        return float(found.terms.recurrent_state_bytes[0])

    assert states(4.0, 3.0) < 0.8 * states(1e4, 3.0)
    assert states(4.0, 0.0) == states(1e4, 0.0) == pytest.approx(states(1e4, 3.0))


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


def test_profiled_drafts_double_the_rows_of_logits() -> None:
    """vLLM 0.17.1, Llama-3.1-8B FP8, 512 sequences: 2.04 GiB with 3 or 5 n-gram tokens, 1.6 without."""
    model = named("meta-llama/Llama-3.1-8B-Instruct")
    shape: dict[str, Any] = {"max_num_seqs": 512.0, "max_num_batched_tokens": 16384.0}
    spec = engine("vllm", "0.17.1")
    found = [plan(model, spec, draft_tokens=k, **shape).terms.activation_bytes[0] / GIB for k in (3.0, 5.0)]
    assert found == pytest.approx([2.035, 2.035], rel=0.05)


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


def test_an_engine_for_text_alone_neither_profiles_images_nor_loads_their_encoder() -> None:
    """Qwen3-VL-8B: an encoder of 0.58 B parameters; vLLM before 0.17 loads it all the same."""

    def taken(version: str, images: int | None) -> tuple[float, float]:
        seen = {"model": "Qwen/Qwen3-VL-8B-Instruct", "gpu": "l40s", "engine": "vllm", "images_per_request": images}
        found = estimate([Scenario(engine_version=version, **seen)]).rows()[0]
        return found["weights_gib"], found["activation_gib"]

    (weights, activation), (fewer, less) = taken("0.19.0", None), taken("0.19.0", 0)
    assert weights - fewer == pytest.approx(0.58e9 * 2 / GIB, rel=0.05)
    assert activation > 2 > less + 1
    assert taken("0.11.0", 0)[0] == taken("0.11.0", None)[0]
    assert taken("0.11.0", 0)[1] < taken("0.11.0", None)[1]


def test_a_row_split_keeps_what_layers_compute_on_the_first_gpu() -> None:
    """llama.cpp, common/arg.cpp: with split mode row the main GPU holds intermediate results and the cache."""
    spec = engine("llama.cpp")
    for model in (build(), build(ffn=MOE)):
        one, four = (plan(model, spec, Parallel(tp), flash_attention=False).terms.activation_bytes[0] for tp in (1, 4))
        assert one == four


def test_a_server_that_drafts_keeps_states_of_its_48_sequences_where_no_prefixes_are_cached() -> None:
    """sglang _handle_max_mamba_cache comes after _handle_speculative_decoding, which sets max_running_requests."""
    asked = {"model": "Qwen/Qwen3.5-397B-A17B", "gpu": "h200-sxm", "tp": 8, "engine": "sglang", "weight_format": "fp8"}
    drafting = {"draft_model": "mtp", "speculative_tokens": 3, "prefix_caching": False}
    left, stated = (estimate([Scenario(**asked, **drafting, max_num_seqs=n)]).rows()[0] for n in (None, 48))
    assert left["max_num_seqs"] == 48
    assert left["recurrent_state_gib"] == pytest.approx(stated["recurrent_state_gib"])
