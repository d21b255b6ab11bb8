"""Kinds of attention and of blocks, as configs of real models state them."""

from __future__ import annotations

import pytest

from planner.catalog.hf import model_from_config
from planner.catalog.models import model
from planner.params import active_parameters, parameters, tensors
from planner.specs.model import LatentAttention, MoeFfn, Role, Task
from tests.hf_configs import DEEPSEEK, attention_of, read


def test_head_dim_may_differ_from_hidden_over_heads() -> None:
    assert attention_of(read(head_dim=32), 0).head_dim == 32
    assert attention_of(read(), 0).head_dim == 8


def test_qwen2_has_biases_on_q_k_and_v_alone() -> None:
    mixer = attention_of(read(model_type="qwen2"), 0)
    assert (mixer.qkv_bias, mixer.o_bias) == (True, False)


def test_qwen_windows_start_at_max_window_layers() -> None:
    spec = read(model_type="qwen2", use_sliding_window=True, sliding_window=32, max_window_layers=3)
    assert [attention_of(spec, layer).window for layer in range(4)] == [None, None, None, 32]


def test_gemma_2_slides_on_every_other_layer_and_gemma_3_on_five_of_six() -> None:
    two = read(model_type="gemma2", sliding_window=32)
    three = read(model_type="gemma3_text", sliding_window=32, num_hidden_layers=12)
    assert [attention_of(two, layer).window for layer in range(4)] == [32, None, 32, None]
    assert [layer for layer in range(12) if attention_of(three, layer).window is None] == [5, 11]


def test_a_window_as_long_as_the_context_is_none() -> None:
    assert attention_of(read(model_type="mistral", sliding_window=512), 0).window is None


def test_gpt_oss_alternates_windows_of_128_tokens_and_has_sinks() -> None:
    spec = model("openai/gpt-oss-20b")
    assert [attention_of(spec, layer).window for layer in range(4)] == [128, None, 128, None]
    assert attention_of(spec, 0).sinks and attention_of(spec, 1).sinks


def test_laguna_has_more_query_heads_where_it_slides_and_gates_each() -> None:
    spec = model("poolside/Laguna-S-2.1")
    full, sliding = attention_of(spec, 0), attention_of(spec, 1)
    assert (full.n_heads, full.window, sliding.n_heads, sliding.window) == (48, None, 72, 512)
    assert full.output_gate == sliding.output_gate == "head"


def test_a_table_that_is_looked_up_is_not_active() -> None:
    assert active_parameters(model("google/gemma-4-E2B-it")) == pytest.approx(2.3e9, rel=0.02)  # model card


def test_llama_4_attends_in_chunks_but_for_every_fourth_layer() -> None:
    spec = model("meta-llama/Llama-4-Scout-17B-16E")
    assert [attention_of(spec, layer).chunk for layer in range(4)] == [8192, 8192, 8192, None]


def test_gemma_4_shares_caches_and_widens_the_layers_that_share() -> None:
    # model card: 20 of the 35 layers of E2B share keys and values
    spec = model("google/gemma-4-E2B-it")
    assert sum(attention_of(spec, layer).shares_kv for layer in range(35)) == 20
    assert {ffn.intermediate for ffn in spec.ffns} == {6144, 12288}


def test_gemma_4_uses_one_projection_for_keys_and_values_of_full_layers() -> None:
    spec = model("google/gemma-4-31B-it")
    kinds = {
        (attention_of(spec, i).head_dim, attention_of(spec, i).n_kv_heads, attention_of(spec, i).k_is_v)
        for i in range(60)
    }
    assert kinds == {(256, 16, False), (512, 4, True)}


def test_deepseek_has_dense_layers_first_and_latent_attention_throughout() -> None:
    spec = model_from_config(DEEPSEEK, "tiny")
    assert isinstance(spec.mixers[0], LatentAttention)
    assert [(spec.ffns[run.ffn].kind, run.count) for run in spec.layers] == [("dense", 1), ("moe", 3)]
    moe = next(ffn for ffn in spec.ffns if isinstance(ffn, MoeFfn))
    assert moe.shared_intermediate == 2 * 32


def test_a_query_rank_of_null_is_a_full_projection_and_an_absent_one_the_class_default() -> None:
    without = {key: value for key, value in DEEPSEEK.items() if key != "q_lora_rank"}
    null, absent = (
        model_from_config(config, "tiny").mixers[0] for config in (DEEPSEEK | {"q_lora_rank": None}, without)
    )
    assert isinstance(null, LatentAttention) and null.q_lora_rank is None
    assert isinstance(absent, LatentAttention) and absent.q_lora_rank == 1536


def test_glm_5_2_runs_its_indexer_in_21_of_78_layers() -> None:
    spec = model("zai-org/GLM-5.2")
    indexer = [tensor for tensor in tensors(spec) if tensor.name == "indexer.q"]
    assert sum(len(tensor.layers) for tensor in indexer) == 21


def test_an_image_encoder_stands_apart_from_the_text_model() -> None:
    spec = model("mistralai/Mistral-Small-3.1-24B-Instruct-2503")
    vision = sum(tensor.numel for tensor in tensors(spec) if tensor.role is Role.VISION)
    assert parameters(spec) - vision == parameters(model("mistralai/Mistral-Small-24B-Instruct-2501"))
    assert spec.vision is not None and spec.vision.patch == 14


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("BAAI/bge-m3", Task.EMBED),
        ("Qwen/Qwen3-Embedding-8B", Task.EMBED),
        ("BAAI/bge-reranker-v2-m3", Task.RERANK),
        ("Qwen/Qwen3-Reranker-4B", Task.RERANK),
        ("Qwen/Qwen3-8B", Task.GENERATE),
    ],
)
def test_encoders_and_rerankers_say_what_they_serve(name: str, task: Task) -> None:
    assert model(name).task is task


def test_an_encoder_reads_both_ways_and_has_no_head() -> None:
    spec = model("BAAI/bge-m3")
    assert (spec.causal, spec.lm_head, spec.max_position) == (False, False, 8192)
