"""The KV cache and recurrent states: bytes of a token, blocks, windows, prefixes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planner.catalog.engines import engine
from planner.catalog.models import model as named
from planner.collectives import Parallel
from planner.memory import memory_plan
from planner.memory.cache import cache_layers, cache_table
from planner.memory.concurrency import concurrency_at, once_and_each, printed_tokens
from planner.memory.placement import placements
from planner.memory.stages import stages_of
from planner.memory.table import sequence_bytes
from planner.memory.terms import Draft
from planner.params import tensors
from planner.specs.model import Layer
from planner.units import GIB
from tests.memory_plans import H100, NONE, VLLM, inputs, plan, table
from tests.oracle.models import GDN, GQA, MIXERS, MOE, build


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


def test_keys_that_serve_as_values_are_stored_twice() -> None:
    once = build(GQA.model_copy(update={"k_is_v": True}))
    assert plan(once, NONE).kv.kv_bytes_per_token[0] == plan(build(), NONE).kv.kv_bytes_per_token[0]


def test_keys_and_values_have_widths_and_formats_of_their_own() -> None:
    model = build(GQA.model_copy(update={"v_head_dim": 32}))
    per_token = plan(model, NONE, kv_k_bytes=34 / 32, kv_v_bytes=18 / 32).kv.kv_bytes_per_token[0]
    assert per_token == 4 * 4 * (64 * 34 / 32 + 32 * 18 / 32)


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


@pytest.mark.parametrize(
    ("version", "drafting", "pool_gib", "max_len", "tokens"),
    [
        ("0.26.0", 3, 86.74, 65536, 913_657),  # B300, three layers of DSpark
        ("0.26.0", 0, 7.70, 121344, 150_000),  # H20, rounded to thousands and more
        ("0.20.1", 0, 23.32, 32768, 240_104),  # GB10, a fork
    ],
)
def test_blocks_of_deepseek_v4_hold_what_its_logs_print(
    version: str, drafting: int, pool_gib: float, max_len: float, tokens: int
) -> None:
    """Every table of a sequence takes whole blocks, those of open pools one for 4 tokens of two steps."""
    spec, model = engine("vllm", version), named("deepseek-ai/DeepSeek-V4-Flash")
    given = inputs(model, kv_k_bytes=1.0, kv_v_bytes=1.0, max_num_batched_tokens=8192.0)
    where = placements(model, spec, given, 1)
    heads = cache_layers(model, spec, given, where)
    none = heads.attention._replace(layers=heads.attention.layers * 0)
    none.layers[0] = drafting
    stages = stages_of(model, spec, given)
    stages = stages._replace(table=cache_table(model, spec, given, where, heads._replace(attention=none)))
    blocks = np.floor(pool_gib * GIB / stages.table.pool_block_bytes[0])
    printed = max_len * concurrency_at(stages, blocks, max_len)[0]
    assert printed == pytest.approx(tokens, rel={0: 0.01, 3: 0.001}[drafting] if version == "0.26.0" else 0.08)


def test_sequences_of_deepseek_v4_share_one_steps_tokens() -> None:
    """A decoding sequence has 62 blocks after 9216 tokens; a prompt's steps fill thousands, but of one at a time."""
    model, spec = named("deepseek-ai/DeepSeek-V4-Flash"), engine("vllm", "0.24.0")
    found = table(model, spec, kv_k_bytes=1.0, kv_v_bytes=1.0)
    assert found.pool_block_bytes[0, 0] == 22 * 37_440 + 21 * 8_640 + 20 * 1_728
    assert sequence_bytes(found, np.array(9216.0), live=True)[0, 0] == 62 * found.pool_block_bytes[0, 0]
    once, each = once_and_each(found, np.array(9216.0))
    assert each[0, 0] == 62 * found.pool_block_bytes[0, 0]
    assert once[0, 0] + each[0, 0] == sequence_bytes(found, np.array(9216.0))[0, 0] > 50 * each[0, 0]


@pytest.mark.parametrize(
    ("version", "states", "held"), [("0.5.14", 20 * 4096, 4096), ("0.5.15", 0, 4096), ("0.5.16", 0, 128)]
)
def test_sglang_gives_windows_of_deepseek_v4_a_tenth(version: str, states: float, held: float) -> None:
    """Bytes per token as its configurator adds them up; until 0.5.16 a prompt's last step stays in windows."""
    model, spec = named("deepseek-ai/DeepSeek-V4-Flash"), engine("sglang", version)
    found = table(model, spec, kv_k_bytes=1.0, kv_v_bytes=1.0, input_tokens=4096.0)
    per_token = 21 * (584 + 132) / 4 + 20 * 584 / 128 + 0.1 * (43 * 584 + 21 * 8 * 10_240 / 128 + states)
    assert found.pool_block_bytes[0, 0] == pytest.approx(per_token)
    assert found.slot_bytes is not None and found.slot_bytes[0, 0] == (0 if states else 20 * 128 * 4096)
    full_tokens = max(4608, held / 0.1)
    assert sequence_bytes(found, np.array(4608.0))[0, 0] == pytest.approx(full_tokens * per_token)


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


@pytest.mark.parametrize(
    ("name", "drafted", "mib"), [("Qwen/Qwen3.6-35B-A3B", 2.0, 188.44), ("Qwen/Qwen3.8-27B", 6.0, 1047.38)]
)
def test_llama_cpp_keeps_a_state_to_go_back_to_for_every_drafted_token(name: str, drafted: float, mib: float) -> None:
    """Logs of llama.cpp#23269 and of a change to a copy of it."""
    states = table(named(name), engine("llama.cpp"), draft_tokens=drafted).state_bytes[0, 0]
    assert states / 2**20 == pytest.approx(mib, abs=0.01)


def test_expected_concurrency_counts_half_of_the_output() -> None:
    kv = plan(build(), NONE, input_tokens=1000.0, output_tokens=2000.0, max_num_seqs=1e9).kv
    assert kv.max_concurrency_expected[0] / kv.max_concurrency[0] == pytest.approx(3000 / 2000, rel=0.01)


def test_an_encoder_caches_nothing() -> None:
    kv = plan(build(causal=False)).kv
    assert kv.kv_bytes_per_token[0] == kv.kv_needed_bytes[0] == 0


def test_a_draft_models_cache_shares_the_pool() -> None:
    model, small = named("Qwen/Qwen3-32B"), named("Qwen/Qwen3-0.6B")
    draft = Draft(small, np.asarray([[tensor.numel * 2.0] for tensor in tensors(small)]), 2.0, 2.0)
    alone, pair = (memory_plan(model, VLLM, inputs(model, Parallel(2))._replace(draft=one)) for one in (None, draft))
    assert pair.kv.kv_bytes_per_token[0] - alone.kv.kv_bytes_per_token[0] == 28 * 4 * 2 * 128 * 2
    assert pair.terms.kv_pool_bytes[0] < alone.terms.kv_pool_bytes[0]


def test_a_row_split_keeps_the_cache_on_the_first_gpu() -> None:
    model, spec = named("meta-llama/Meta-Llama-3-8B-Instruct"), engine("llama.cpp")
    one, two = (plan(model, spec, Parallel(tp)).terms for tp in (1, 2))
    assert two.kv_pool_bytes[0] == one.kv_pool_bytes[0]
    assert two.weights_bytes[0] == pytest.approx(one.weights_bytes[0] / 2, rel=0.01)
