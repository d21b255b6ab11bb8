"""Tensors: published parameter counts, what tensor parallelism may split, what runs as one matrix product."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.catalog.models import model, model_ids
from planner.params import (
    Shard,
    Tensor,
    active_parameters,
    ffn_layers,
    mixer_layers,
    parameters,
    parameters_by_role,
    tensors,
)
from planner.specs.model import Attention, DenseFfn, ExtraTensor, LatentAttention, Layer, ModelSpec, MoeFfn, Role


def tiny(**changes: object) -> ModelSpec:
    """Two layers of eight heads."""
    fields = {
        "id": "tiny",
        "hidden_size": 64,
        "vocab_size": 100,
        "max_position": 128,
        "mixers": (Attention(n_heads=8, n_kv_heads=2, head_dim=8),),
        "ffns": (DenseFfn(intermediate=96),),
        "layers": (Layer(mixer=0, ffn=0, count=2),),
    }
    return ModelSpec.model_validate(fields | changes)


def named(model_: ModelSpec, name: str) -> Tensor:
    return next(tensor for tensor in tensors(model_) if tensor.name == name)


# Totals of the safetensors index or the paper of each model; the publishers' repositories state them.
PUBLISHED = {
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Llama-2-70b-hf": 68_976_648_192,
    "meta-llama/Meta-Llama-3-8B": 8_030_261_248,
    "meta-llama/Meta-Llama-3-70B": 70_553_706_496,
    "meta-llama/Llama-3.1-405B": 405_853_388_800,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-11B-Vision": 10_670_220_835,
    "meta-llama/Llama-4-Scout-17B-16E": 108_641_793_536,
    "meta-llama/Llama-4-Maverick-17B-128E": 401_583_781_376,
    "Qwen/Qwen2-0.5B": 494_032_768,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen2.5-VL-7B-Instruct": 8_292_166_656,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-30B-A3B": 30_532_122_624,
    "Qwen/Qwen3-235B-A22B": 235_093_634_560,
    "Qwen/Qwen3-Embedding-8B": 7_567_295_488,
    "Qwen/Qwen3-VL-8B-Instruct": 8_767_123_696,
    "deepseek-ai/DeepSeek-V2": 235_741_434_880,
    "deepseek-ai/DeepSeek-V2-Lite": 15_706_484_224,
    "deepseek-ai/DeepSeek-V3": 671_026_404_352,
    "openai/gpt-oss-20b": 20_914_757_184,
    "openai/gpt-oss-120b": 116_829_156_672,
    "google/gemma-2-9b": 9_241_705_984,
    "google/gemma-3-27b-it": 27_432_406_640,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "mistralai/Mistral-Small-3.1-24B-Instruct-2503": 24_011_361_280,
    "mistralai/Mixtral-8x7B-v0.1": 46_702_792_704,
    "microsoft/Phi-3.5-MoE-instruct": 41_873_153_344,
    "microsoft/phi-2": 2_779_683_840,
    "01-ai/Yi-34B": 34_388_917_248,
    "CohereForAI/c4ai-command-r-plus": 103_810_674_688,
    "tencent/Hunyuan-A13B-Instruct": 80_393_183_232,
    "nvidia/Llama-3_3-Nemotron-Super-49B-v1": 49_867_145_216,
    "openai-community/gpt2": 124_439_808,
    "BAAI/bge-m3": 567_754_752,
    "BAAI/bge-reranker-v2-m3": 567_755_777,
    "sentence-transformers/all-MiniLM-L6-v2": 22_713_216,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_that_the_publisher_states(name: str) -> None:
    assert parameters(model(name)) == PUBLISHED[name]


@pytest.mark.parametrize(
    ("name", "billions", "source"),
    [
        ("deepseek-ai/DeepSeek-V3", 37, "model card: 37B activated"),
        ("Qwen/Qwen3-30B-A3B", 3.3, "model card: 3.3B activated"),
        ("Qwen/Qwen3-235B-A22B", 22, "model card: 22B activated"),
        ("mistralai/Mixtral-8x7B-v0.1", 12.9, "paper: 12.9B active"),
        ("mistralai/Mixtral-8x22B-v0.1", 39, "announcement: 39B active"),
        ("meta-llama/Llama-4-Scout-17B-16E", 17, "model card: 17B activated"),
        ("allenai/OLMoE-1B-7B-0924", 1.3, "paper: 1.3B active"),
        ("deepseek-ai/DeepSeek-V2", 21, "paper: 21B activated"),
    ],
)
def test_active_parameters_are_those_of_the_model_card(name: str, billions: float, source: str) -> None:
    assert active_parameters(model(name)) / 1e9 == pytest.approx(billions, rel=0.06), source


@pytest.mark.parametrize(("name", "billions"), [("openai/gpt-oss-120b", 5.1), ("openai/gpt-oss-20b", 3.6)])
def test_gpt_oss_counts_its_active_parameters_without_the_embedding(name: str, billions: float) -> None:
    # model card, table 1: the unembedding is counted as active, the embedding is not
    spec = model(name)
    active = active_parameters(spec) - named(spec, "embedding").numel
    assert active / 1e9 == pytest.approx(billions, abs=0.05)


@pytest.mark.parametrize(
    ("name", "with_mtp"),
    [
        # totals of the safetensors index, which hold a copy of embedding and head for the MTP layer
        ("zai-org/GLM-4.5-Air", 110_468_824_832),
        ("zai-org/GLM-4.5", 358_337_791_296),
    ],
)
def test_prediction_layers_are_counted_apart(name: str, with_mtp: int) -> None:
    spec = model(name)
    copies = named(spec, "embedding").numel + named(spec, "lm_head").numel
    buffers = sum(ffn.n_experts for ffn in spec.ffns if isinstance(ffn, MoeFfn)) * (spec.n_layers + 1)
    total = parameters(spec) + spec.mtp_params + copies
    assert 0 <= with_mtp - total <= buffers  # router correction biases, which are no parameters


def test_deepseek_v3_prediction_layer_holds_eleven_and_a_half_billion() -> None:
    # README_WEIGHTS: 11.5B unique parameters
    assert model("deepseek-ai/DeepSeek-V3").mtp_params / 1e9 == pytest.approx(11.5, abs=0.15)


def test_a_tied_embedding_is_counted_once_and_runs_as_the_head() -> None:
    tied, untied = tiny(tie_embeddings=True), tiny()
    assert parameters(untied) - parameters(tied) == 100 * 64
    assert named(tied, "embedding").op == "lm_head"
    assert named(untied, "embedding").op == ""


def test_an_encoder_has_no_head() -> None:
    assert not any(tensor.op == "lm_head" for tensor in tensors(tiny(lm_head=False, tie_embeddings=True)))


def test_query_key_and_value_run_as_one_product() -> None:
    assert {t.name for t in tensors(tiny()) if t.op == "attention.qkv"} == {"attention.q", "attention.k", "attention.v"}


def test_keys_split_into_as_many_parts_as_there_are_key_heads() -> None:
    assert named(tiny(), "attention.k")[8:10] == (Shard.COLUMN, 2)
    assert named(tiny(), "attention.q")[8:10] == (Shard.COLUMN, 8)
    assert named(tiny(), "attention.o")[8:10] == (Shard.ROW, 8)


def test_latent_attention_replicates_its_down_projections_and_splits_heads() -> None:
    spec = model("deepseek-ai/DeepSeek-V3")
    assert named(spec, "attention.kv_a").shard is named(spec, "attention.q_a").shard is Shard.REPLICATED
    assert named(spec, "attention.kv_b").units == named(spec, "attention.q_b").units == 128


def test_experts_are_divided_and_routers_are_not() -> None:
    spec = model("Qwen/Qwen3-30B-A3B")
    assert named(spec, "experts.up").shard is Shard.EXPERT
    assert (named(spec, "experts.up").copies, named(spec, "experts.up").active) == (128, 8)
    assert named(spec, "moe.router").shard is Shard.REPLICATED


def test_shared_caches_take_no_key_projection() -> None:
    shared = Attention(n_heads=8, n_kv_heads=2, head_dim=8, shares_kv=True, qk_norm="head")
    assert {t.name for t in tensors(tiny(mixers=(shared,))) if t.name.startswith("attention.k")} == set()


def test_a_full_gate_doubles_the_query_projection() -> None:
    gated = Attention(n_heads=8, n_kv_heads=2, head_dim=8, output_gate="full")
    assert named(tiny(mixers=(gated,)), "attention.q").n == 2 * named(tiny(), "attention.q").n


def test_identity_experts_take_their_share_of_the_top_k() -> None:
    ffn = MoeFfn(n_experts=6, zero_experts=2, top_k=4, intermediate=16)
    assert named(tiny(ffns=(ffn,)), "experts.up").active == 3
    assert named(tiny(ffns=(ffn,)), "moe.router").n == 8


def test_an_extra_tensor_in_every_layer_is_counted_in_every_layer() -> None:
    extra = ExtraTensor(name="gate", role=Role.OTHER, n=3, k=5, per_layer=True, matmul=True, bias=True)
    assert parameters(tiny(extras=(extra,))) - parameters(tiny()) == 2 * (15 + 3)


def test_layers_without_a_mixer_hold_only_their_ffn() -> None:
    spec = tiny(layers=(Layer(mixer=0, ffn=-1), Layer(mixer=-1, ffn=0, count=3), Layer(mixer=0, ffn=0)))
    assert (mixer_layers(spec, 0), ffn_layers(spec, 0)) == ((0, 4), (1, 2, 3, 4))
    assert (spec.mixer_layers(0), spec.ffn_layers(0)) == (2, 4)


@pytest.mark.parametrize("name", model_ids())
def test_names_are_unique_within_a_layer(name: str) -> None:
    seen: set[tuple[str, int]] = set()
    for tensor in tensors(model(name)):
        here = {(tensor.name, layer) for layer in tensor.layers or (-1,)}
        assert not here & seen, tensor.name
        seen |= here


@pytest.mark.parametrize("name", model_ids())
def test_layers_stand_inside_the_stack(name: str) -> None:
    spec = model(name)
    assert all(0 <= layer < spec.n_layers for tensor in tensors(spec) for layer in tensor.layers)


@given(
    heads=st.sampled_from([1, 2, 4, 8]),
    kv_heads=st.sampled_from([1, 2]),
    dim=st.integers(1, 64),
    layers=st.integers(1, 9),
    bias=st.booleans(),
)
def test_roles_add_up_to_the_total(heads: int, kv_heads: int, dim: int, layers: int, bias: bool) -> None:
    mixer = Attention(n_heads=2 * heads, n_kv_heads=kv_heads, head_dim=dim, qkv_bias=bias, qk_norm="full")
    spec = tiny(mixers=(mixer,), layers=(Layer(mixer=0, ffn=0, count=layers),))
    assert sum(parameters_by_role(spec).values()) == parameters(spec) == sum(t.numel for t in tensors(spec))
    assert active_parameters(spec) == parameters(spec)


def test_latent_attention_counts_as_the_deepseek_v2_paper_does() -> None:
    # table of hyper-parameters: 128 heads of 128, ranks 1536 and 512, rotary 64, hidden 5120
    mixer = LatentAttention(
        n_heads=128, q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128
    )
    spec = tiny(hidden_size=5120, mixers=(mixer,), layers=(Layer(mixer=0, ffn=0),))
    projections = [t.numel for t in tensors(spec) if t.role is Role.ATTENTION]
    by_hand = 5120 * 1536 + 1536 * 128 * 192 + 5120 * 576 + 512 * 128 * 256 + 128 * 128 * 5120
    assert sum(projections) == by_hand
