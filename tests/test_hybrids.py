"""Hybrids: readers, tensors and states of linear attention, state spaces, searched layers and compressed attention."""

from __future__ import annotations

from typing import Any

import pytest

from planner.catalog.hf import model_from_config
from planner.catalog.models import model
from planner.errors import BadValue
from planner.params import active_parameters, parameters, tensors
from planner.params.compressed import cached_as
from planner.params.recurrent import StateSize, recurrent_state
from planner.params.tensor import Shard
from planner.specs.model import (
    Attention,
    CompressedAttention,
    LatentAttention,
    LinearAttention,
    Mamba,
    Mixer,
    ModelSpec,
)

BILLION = 10**9

NEXT: dict[str, Any] = {
    "model_type": "qwen3_next",
    "hidden_size": 64,
    "vocab_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "intermediate_size": 96,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 4,
}
NEMOTRON: dict[str, Any] = {
    "model_type": "nemotron_h",
    "hidden_size": 64,
    "vocab_size": 256,
    "hybrid_override_pattern": "M-M*",
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "intermediate_size": 96,
    "mamba_num_heads": 8,
    "mamba_head_dim": 16,
    "n_groups": 2,
    "ssm_state_size": 8,
}


def read(config: dict[str, Any], **changes: Any) -> ModelSpec:
    """The model of a small config with some settings replaced."""
    return model_from_config({**config, **changes}, "test/model")


def mixers(spec: ModelSpec) -> list[Mixer]:
    """The mixer of each layer that has one."""
    return [spec.mixers[run.mixer] for run in spec.layers for _ in range(run.count) if run.mixer >= 0]


@pytest.mark.parametrize(
    ("name", "layers", "state", "kept"),
    [
        # state shapes as vLLM's MambaStateShapeCalculator gives them at tp 1: channels x (taps - 1)
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", 36, 32 * 128 * 128, 8192 * 3),
        ("Qwen/Qwen3.5-397B-A17B", 45, 64 * 128 * 128, 12288 * 3),
        ("Qwen/Qwen3.5-27B", 48, 48 * 128 * 128, 10240 * 3),
        ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", 23, 4096 * 128, 6144 * 3),
        ("nvidia/Nemotron-H-56B-Base-8K", 54, 16384 * 256, 20480 * 3),
        ("moonshotai/Kimi-K3", 69, 96 * 128 * 128, 3 * 12288 * 3),
        ("MiniMaxAI/MiniMax-Text-01", 70, 64 * 128 * 128, 0),
        ("ai21labs/Jamba-v0.1", 28, 8192 * 16, 8192 * 3),
        ("inclusionAI/Ling-3.0-flash", 35, 32 * 128 * 128, 3 * 4096 * 3),
        ("Qwen/Qwen3.8-Flash-Next", 36, 48 * 128 * 128, 10240 * 3),
        ("LiquidAI/LFM2.5-8B-A1B", 18, 0, 2048 * 2),
    ],
)
def test_states_have_the_shapes_that_engines_keep(name: str, layers: int, state: int, kept: int) -> None:
    found = [mixer for mixer in mixers(model(name)) if isinstance(mixer, LinearAttention | Mamba)]
    assert len(found) == layers
    assert {recurrent_state(mixer) for mixer in found} == {StateSize(state, kept)}


@pytest.mark.parametrize(
    ("name", "published", "tolerance"),
    [
        ("moonshotai/Kimi-K3", 2_779_931_837_184, 1e-6),  # safetensors total on the hub
        ("nvidia/Llama-3_3-Nemotron-Super-49B-v1", 49.9 * BILLION, 0.001),  # model card
        ("moonshotai/Kimi-Linear-48B-A3B-Instruct", 49_122_681_728 - 26 * 256, 0),  # hub total less correction biases
        ("deepseek-ai/DeepSeek-V4-Flash", 284 * BILLION, 0.002),  # model card
        ("deepseek-ai/DeepSeek-V4-Pro", 1600 * BILLION, 0.02),  # model card
        ("meituan-longcat/LongCat-Flash-Chat", 560 * BILLION, 0.002),  # technical report
        ("mistralai/Mistral-Medium-3.5-128B", 127.70 * BILLION, 1e-4),  # safetensors total on the hub
        ("mistralai/Mistral-Large-3-675B-Instruct-2512", 675 * BILLION, 0.002),  # model card
        ("CohereLabs/command-a-plus-05-2026", 218 * BILLION, 0.002),  # model card, image encoder left out
        ("google/gemma-4-12B-it", 11.95 * BILLION, 0.001),  # model card
        ("inclusionAI/Ling-3.0-flash", 124 * BILLION, 0.005),  # model card
        ("Qwen/Qwen3.8-Flash-Next", (125 + 51) * BILLION, 0.01),  # model card: experts and all else, n-grams
        ("LiquidAI/LFM2.5-8B-A1B", 16.9 / 2 * BILLION, 0.005),  # bytes of the checkpoint
        ("poolside/Laguna-S-2.1", 118 * BILLION, 0.005),  # model card
        ("tencent/Hy3", 295 * BILLION, 0.001),  # model card
        ("zai-org/GLM-4.5V", 107.7 * BILLION, 0.001),  # safetensors total on the hub
    ],
)
def test_sizes_meet_the_published_ones(name: str, published: int, tolerance: float) -> None:
    assert parameters(model(name)) == pytest.approx(published, rel=tolerance, abs=0)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("Qwen/Qwen3.5-397B-A17B", 17),
        ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", 3.2),
        ("nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-FP8", 12),
        ("nvidia/NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16", 55),
        ("deepseek-ai/DeepSeek-V4-Flash", 13),
        ("deepseek-ai/DeepSeek-V4-Pro", 49),
        ("moonshotai/Kimi-K3", 104.2),
        ("meituan-longcat/LongCat-Flash-Chat", 27),
        ("ai21labs/Jamba-v0.1", 12),
        ("MiniMaxAI/MiniMax-Text-01", 45.9),
        ("inclusionAI/Ling-3.0-flash", 5.1),
        ("Qwen/Qwen3.8-Flash-Next", 6.6),  # the table of n-grams is looked up
        ("poolside/Laguna-S-2.1", 8),
        ("tencent/Hy3", 20.5),
    ],
)
def test_active_parameters_meet_the_published_ones_without_the_embedding(name: str, published: float) -> None:
    spec = model(name)
    active = active_parameters(spec) - spec.vocab_size * spec.hidden_size
    assert active / BILLION == pytest.approx(published, rel=0.05)


def test_a_gated_delta_layer_holds_the_tensors_of_its_class() -> None:
    linear = [tensor for tensor in tensors(read(NEXT)) if tensor.name.startswith("linear.")]
    per_layer = sum(tensor.numel for tensor in linear) // 3
    projections = 64 * (2 * 16 + 2 * 32 + 2 * 4) + 64 * 32  # q, k, v, gate, beta, decay; out
    assert per_layer == projections + 64 * 4 + 4 + 4 + 8  # convolution, dt_bias, A_log, norm


def test_recurrent_state_stays_in_16_bit_unless_the_config_says_otherwise() -> None:
    assert read(NEXT).mixers[0].state_dtype == "bf16"
    assert read(NEXT, mamba_ssm_dtype="float32").mixers[0].state_dtype == "fp32"


def test_projections_of_a_recurrent_layer_split_by_head_and_keep_groups_whole() -> None:
    parts = {tensor.name: tensor for tensor in tensors(read(NEMOTRON)) if tensor.name.startswith("mamba.")}
    assert parts["mamba.x"].units == 8
    assert parts["mamba.bc"].units == 2
    assert parts["mamba.out"].shard is Shard.ROW


def test_a_nemotron_layer_holds_a_mixer_or_an_ffn_alone() -> None:
    spec = read(NEMOTRON)
    assert [(run.mixer, run.ffn) for run in spec.layers] == [(0, -1), (-1, 0), (0, -1), (1, -1)]
    assert spec.norms_per_layer == 1


def test_names_and_letters_of_layers_mean_the_same() -> None:
    named = read(NEMOTRON, hybrid_override_pattern=None, layers_block_type=["mamba", "mlp", "mamba", "attention"])
    assert named == read(NEMOTRON)


def test_jamba_has_one_attention_in_eight_layers_and_experts_in_every_other() -> None:
    spec = model("ai21labs/Jamba-v0.1")
    kinds = [type(mixer) for mixer in mixers(spec)]
    assert [layer for layer, kind in enumerate(kinds) if kind is Attention] == [4, 12, 20, 28]
    assert spec.ffn_layers(1) == 16


def test_kimi_linear_counts_its_layers_from_one() -> None:
    kinds = [type(mixer) for mixer in mixers(model("moonshotai/Kimi-Linear-48B-A3B-Instruct"))]
    assert [layer + 1 for layer, kind in enumerate(kinds) if kind is LatentAttention] == [4, 8, 12, 16, 20, 24, 27]


def test_searched_layers_may_lack_attention() -> None:
    spec = model("nvidia/Llama-3_3-Nemotron-Super-49B-v1")
    assert len(mixers(spec)) == 49
    assert {ffn.intermediate for ffn in spec.ffns} >= {2816, 5632, 7168, 14336, 28672}


def test_compressed_attention_caches_a_window_and_a_share_of_a_pooled_vector() -> None:
    shape = {"n_heads": 64, "head_dim": 512, "q_lora_rank": 1024, "o_groups": 8, "o_lora_rank": 1024, "window": 128}
    heavy = CompressedAttention(**shape, ratio=128)
    assert [(part.head_dim, part.window) for part in cached_as(heavy)] == [(512, 128), (4, None)]
    assert [part.window for part in cached_as(CompressedAttention(**shape))] == [128]


def test_deepseek_v4_needs_a_tenth_of_the_cache_of_v3() -> None:
    # model card: about 10 % of DeepSeek V3.2's cache at one million tokens for Pro, both at the same width
    parts = [part for mixer in mixers(model("deepseek-ai/DeepSeek-V4-Pro")) for part in cached_as(mixer)]
    per_token = sum(part.head_dim for part in parts if part.window is None)
    assert per_token / (61 * (512 + 64 + 128)) == pytest.approx(0.1, rel=0.2)


@pytest.mark.parametrize(
    ("config", "changes", "field"),
    [
        (NEXT, {"layer_types": ["linear_attention"] * 3 + ["retention"]}, "layer_types"),
        (NEXT, {"layer_types": ["linear_attention"]}, "layer_types"),
        (NEXT, {"linear_num_key_heads": 3}, "linear_num_key_heads"),
        (NEXT, {"mamba_ssm_dtype": "float8"}, "mamba_ssm_dtype"),
        (NEMOTRON, {"hybrid_override_pattern": "M-Q*"}, "layers_block_type"),
        (NEMOTRON, {"hybrid_override_pattern": 7}, "hybrid_override_pattern"),
        (NEMOTRON, {"mlp_hidden_act": "silu"}, "mlp_hidden_act"),
        (NEMOTRON, {"n_groups": 3}, "n_groups"),
    ],
)
def test_what_a_reader_does_not_know_is_an_error_that_names_the_field(
    config: dict[str, Any], changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(BadValue, match=field):
        read(config, **changes)
