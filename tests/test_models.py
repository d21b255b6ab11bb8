"""Models by name, path and hostile config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.catalog.files import read_json
from planner.catalog.formats import weight_format_ids
from planner.catalog.hf import READERS, model_from_config
from planner.catalog.hf.config import MAX_CONTEXT, MAX_HIDDEN, MAX_LAYERS, MAX_VOCAB
from planner.catalog.models import file_name, from_bytes, model, model_ids, model_index, resolve
from planner.catalog.paths import data_dir
from planner.errors import BadFile, BadValue, PlannerError, UnknownName
from planner.params import active_parameters, parameters, tensors
from planner.specs.model import Attention, LatentAttention, ModelSpec, MoeFfn, Role, Task

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 256,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
DEEPSEEK: dict[str, Any] = LLAMA | {
    "model_type": "deepseek_v3",
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "n_routed_experts": 16,
    "n_shared_experts": 2,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "num_nextn_predict_layers": 1,
}


def read(**changes: Any) -> ModelSpec:
    return model_from_config(LLAMA | changes, "tiny")


def attention_of(spec: ModelSpec, layer: int) -> Attention:
    """The attention in a layer."""
    mixer = spec.mixers[[run.mixer for run in spec.layers for _ in range(run.count)][layer]]
    assert isinstance(mixer, Attention)
    return mixer


# The catalogue.


def test_at_least_120_architectures_are_bundled() -> None:
    assert len(model_ids()) >= 120


def test_the_index_is_what_the_files_say() -> None:
    assert sorted(file_name(name) for name in model_ids()) == sorted(
        path.name for path in (data_dir() / "models").glob("*--*.json")
    )
    for entry in model_index():
        spec = model(entry.id)
        own = spec.quantization.weight_format if spec.quantization else None
        expected = (parameters(spec), round(active_parameters(spec)), spec.max_position, spec.task, own)
        assert entry[1:] == expected, entry.id


@pytest.mark.parametrize("name", model_ids())
def test_a_bundled_model_says_where_it_comes_from(name: str) -> None:
    spec = model(name)
    assert spec.id == name
    assert len(spec.source) > 10
    assert spec.model_type in READERS


def test_every_stated_weight_format_is_a_known_one() -> None:
    known = set(weight_format_ids())
    own = {entry.weight_format for entry in model_index()} - {None}
    table = read_json(data_dir() / "model_aliases.json")
    by_rule = {weight for _, weight in table["suffixes"]} - {"", "gguf"}
    assert own | by_rule <= known
    checkpoints = read_json(data_dir() / "models" / "checkpoints.json").values()
    assert {entry["quantization"]["weight_format"] for entry in checkpoints} <= known


def test_every_alias_and_checkpoint_leads_to_a_bundled_model() -> None:
    names = [
        *read_json(data_dir() / "model_aliases.json")["aliases"],
        *read_json(data_dir() / "models/checkpoints.json"),
    ]
    assert all(resolve(name).model.id in model_ids() for name in names)


def test_loading_one_model_opens_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    from planner.catalog import models

    opened: list[str] = []
    monkeypatch.setattr(models, "read_json", lambda path: opened.append(Path(path).name) or read_json(path))
    models._bundled.cache_clear()
    model("Qwen/Qwen3-8B")
    assert set(opened) <= {"index.json", "model_aliases.json", "checkpoints.json", "Qwen--Qwen3-8B.json"}


def test_the_documentation_lists_every_type_that_is_read(root: Path) -> None:
    text = (root / "docs" / "models.md").read_text(encoding="utf-8")
    assert [kind for kind in READERS if f"`{kind}`" not in text] == []


# Names.


@pytest.mark.parametrize(
    ("name", "model_id", "weight_format"),
    [
        ("Llama 3 8B", "meta-llama/Meta-Llama-3-8B-Instruct", None),
        ("llama-3.1-8b", "meta-llama/Meta-Llama-3.1-8B", None),
        ("META-LLAMA/LLAMA-3.1-8B-INSTRUCT", "meta-llama/Meta-Llama-3.1-8B", None),
        ("unsloth/Meta-Llama-3.1-8B", "meta-llama/Meta-Llama-3.1-8B", None),
        ("nvidia/DeepSeek-R1-NVFP4", "deepseek-ai/DeepSeek-R1", "nvfp4"),
        ("nvidia/DeepSeek-V3.1-NVFP4", "deepseek-ai/DeepSeek-V3", "nvfp4"),
        ("nvidia/Qwen3-32B-NVFP4", "Qwen/Qwen3-32B", "nvfp4"),
        ("Qwen/Qwen3-8B-AWQ", "Qwen/Qwen3-8B", "awq-int4-g128"),
        ("Qwen/Qwen3-32B-FP8", "Qwen/Qwen3-32B", "fp8-block128"),
        ("Qwen/Qwen3-8B-FP8", "Qwen/Qwen3-8B", "fp8-block128"),
        ("Qwen2.5-7B-Instruct-GPTQ-Int4", "Qwen/Qwen2.5-7B-Instruct", "gptq-int4-g128"),
        ("casperhansen/llama-3-8b-instruct-awq", "meta-llama/Meta-Llama-3-8B-Instruct", "awq-int4-g128"),
        ("RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w8a8", "meta-llama/Meta-Llama-3.1-8B", "int8-w8a8"),
        ("RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w4a16", "meta-llama/Meta-Llama-3.1-8B", "w4a16-g128"),
        ("RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic", "meta-llama/Llama-3.3-70B-Instruct", "fp8"),
        ("unsloth/mistral-7b-instruct-v0.3-bnb-4bit", "mistralai/Mistral-7B-Instruct-v0.3", "bnb-nf4-dq"),
        ("llama-2-7b.Q4_0", "meta-llama/Llama-2-7b-hf", "gguf-q4_0"),
        ("Qwen_Qwen3.5-27B-Q4_K_M.gguf", "Qwen/Qwen3.5-27B", "gguf-q4_k_m"),
        ("ggml-org/Qwen3-Coder-30B-A3B-Instruct-Q8_0-GGUF", "Qwen/Qwen3-Coder-30B-A3B-Instruct", "gguf-q8_0"),
        ("unsloth/Qwen3-14B-GGUF:IQ4_XS", "Qwen/Qwen3-14B", "gguf-iq4_xs"),
        ("unsloth/Qwen3.6-27B-GGUF", "Qwen/Qwen3.5-27B", "gguf-q4_k_m"),
        ("mlx-community/Qwen3-8B-4bit", "Qwen/Qwen3-8B", "mlx-4bit-g64"),
        ("openai/gpt-oss-20b", "openai/gpt-oss-20b", None),
        ("unsloth/gpt-oss-20b-GGUF", "openai/gpt-oss-20b", None),
        ("moonshotai/Kimi-K2-Thinking", "moonshotai/Kimi-K2-Instruct", "int4-g32"),
    ],
)
def test_a_name_resolves_to_its_architecture_and_format(name: str, model_id: str, weight_format: str | None) -> None:
    found = resolve(name)
    assert (found.model.id, found.weight_format) == (model_id, weight_format)


@pytest.mark.parametrize("name", ["h", "", "Qwen/Qwen3-9B", "foo/Qwen3-8B", "Qwen3-8B-4bit", "x" * 5000, "a\0b"])
def test_an_unknown_name_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(UnknownName) as error:
        resolve(name)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'Qwen/Qwen3-8B'"):
        resolve("qwen/qwen3-8bb")


def test_a_checkpoint_in_another_format_drops_the_exclusions_of_the_first() -> None:
    assert resolve("DeepSeek-R1-0528-AWQ").model.quantization is None
    assert model("deepseek-ai/DeepSeek-R1").quantization is not None


def test_a_quantized_checkpoint_keeps_what_its_config_excludes() -> None:
    own = model("nvidia/DeepSeek-V3.1-NVFP4").quantization
    assert own is not None and own.kv_format == "fp8"
    assert set(own.tensors_16bit) == {"attention.q_a", "attention.q_b", "attention.kv_a", "attention.kv_b"}


def test_the_checkpoint_is_the_name_one_downloads() -> None:
    assert resolve("unsloth/Qwen3-14B").checkpoint == "unsloth/Qwen3-14B"
    assert resolve("Llama 3.1 8B").checkpoint == "meta-llama/Meta-Llama-3.1-8B"


# Files.


def test_a_config_is_read_by_path_and_by_folder(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    assert model(str(folder)) == model(str(folder / "config.json"))
    assert model(str(folder)).id == "my-model"


def test_modelopt_states_the_format_in_a_file_beside(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    quantized = {"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(quantized))
    own = model(str(tmp_path)).quantization
    assert own is not None
    assert (own.weight_format, own.kv_format, own.roles_16bit) == ("nvfp4", "fp8", (Role.LM_HEAD,))


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{", b"null", b"\xff\xfe", b"PK\x03\x04", b'{"a":1,"a":2}', b"[" * 10**5]
)
def test_a_malformed_file_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(data)
    with pytest.raises((BadFile, BadValue)) as error:
        model(str(path))
    assert "\n" not in str(error.value)


def test_an_uploaded_config_is_named_in_its_faults() -> None:
    assert from_bytes(json.dumps(LLAMA).encode(), "mine").id == "mine"
    with pytest.raises(BadValue, match=r"mine: \[\]|mine: a list"):
        from_bytes(b"[]", "mine")


def test_an_infinity_that_nothing_reads_is_no_fault() -> None:
    data = json.dumps(LLAMA)[:-1].encode() + b', "time_step_limit": [0.0, Infinity], "note": "Infinity \\" -Infinity"}'
    assert model_from_config(data, "tiny").hidden_size == 64


# Hostile configs.


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", MAX_LAYERS + 1),
        ("num_hidden_layers", 0),
        ("num_hidden_layers", "4"),
        ("num_hidden_layers", 4.0),
        ("num_hidden_layers", True),
        ("num_hidden_layers", None),
        ("hidden_size", -64),
        ("hidden_size", MAX_HIDDEN + 1),
        ("hidden_size", [64]),
        ("hidden_size", float("nan")),
        ("vocab_size", MAX_VOCAB + 1),
        ("vocab_size", 10**400),
        ("max_position_embeddings", MAX_CONTEXT + 1),
        ("num_attention_heads", 7),
        ("num_key_value_heads", 3),
        ("intermediate_size", {}),
        ("tie_word_embeddings", "yes"),
        ("torch_dtype", "int3"),
        ("model_type", "llamma"),
        ("model_type", 7),
        ("quantization_config", {"quant_method": "bitnet"}),
    ],
)
def test_a_bad_value_is_refused_by_the_name_of_its_field(field: str, value: Any) -> None:
    with pytest.raises(BadValue) as error:
        read(**{field: value})
    assert field in str(error.value) or next(iter(value)) in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "qwen3", "use_sliding_window": True, "layer_types": ["full", "x", "x", "x"]}, "layer_types"),
        ({"model_type": "exaone4", "sliding_window": 64, "sliding_window_pattern": "LLX"}, "sliding_window_pattern"),
        ({"model_type": "gemma4_text", "use_bidirectional_attention": "all"}, "use_bidirectional_attention"),
        ({"model_type": "bert", "position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "architectures"),
        ({"model_type": "mpt", "no_bias": False}, "no_bias"),
        ({"model_type": "gemma3", "text_config": LLAMA}, "vision_config"),
        ({"model_type": "glm4_moe", "num_experts_per_tok": 9, "n_routed_experts": 8}, "num_experts_per_tok"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 96}}, "group_size"),
        ({"quantization_config": {"quant_method": "modelopt", "quant_algo": "W1A1"}}, "quant_algo"),
        ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [64, 64]}}, "weight_block_size"),
        (
            {"quantization_config": {"quant_method": "fp8", "modules_to_not_convert": ["re:(a+)+b"]}},
            "quantization_config",
        ),
        (
            {"quantization_config": {"quant_method": "fp8", "modules_to_not_convert": ["re:(?=x)"]}},
            "quantization_config",
        ),
    ],
)
def test_an_unknown_kind_names_its_field(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(BadValue, match=named):
        read(**changes)


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.integers(0, 64),
    st.floats(),
    st.text(max_size=12),
    st.lists(st.one_of(st.integers(-1, 2**70), st.text(max_size=4), st.none()), max_size=6),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=3),
)


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(sorted(READERS)), changes=st.dictionaries(st.sampled_from(sorted(DEEPSEEK)), JUNK, max_size=4)
)
def test_whatever_stands_in_a_config_gives_a_model_or_one_line(kind: str, changes: dict[str, Any]) -> None:
    config = DEEPSEEK | {"model_type": kind, "text_config": DEEPSEEK, "vision_config": DEEPSEEK} | changes
    try:
        assert parameters(model_from_config(config, "tiny")) > 0
    except PlannerError as error:
        assert "\n" not in str(error)


# Kinds of attention and of blocks.


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


# A checkpoint's own quantization.


@pytest.mark.parametrize(
    ("stated", "weight_format"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8-block128"),
        ({"quant_method": "fp8", "activation_scheme": "static"}, "fp8"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptq-int4-g128"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "awq-int4-g128"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True}, "bnb-nf4-dq"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bnb-int8"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
        ({"quant_method": "exl3", "bits": 3.5}, "exl3-3.5"),
        ({"bits": 4, "group_size": 64}, "mlx-4bit-g64"),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp8_e4m3"}}}, "fp8"),
    ],
)
def test_a_quantization_config_names_its_format(stated: dict[str, Any], weight_format: str) -> None:
    own = read(quantization_config=stated).quantization
    assert own is not None and own.weight_format == weight_format


@pytest.mark.parametrize(
    ("weights", "inputs", "weight_format"),
    [
        ({"num_bits": 8, "type": "float", "strategy": "channel"}, {"num_bits": 8}, "fp8"),
        ({"num_bits": 8, "type": "float", "strategy": "block"}, {"num_bits": 8}, "fp8-block128"),
        ({"num_bits": 8, "type": "int", "strategy": "channel"}, {"num_bits": 8}, "int8-w8a8"),
        ({"num_bits": 8, "type": "int", "strategy": "group"}, None, "int8-w8a16"),
        ({"num_bits": 4, "type": "int", "group_size": 128}, None, "w4a16-g128"),
        ({"num_bits": 4, "type": "int", "group_size": 32}, None, "int4-g32"),
        ({"num_bits": 4, "type": "float", "group_size": 16}, {"num_bits": 4}, "nvfp4"),
        ({"num_bits": 4, "type": "float", "group_size": 32}, None, "mxfp4"),
    ],
)
def test_compressed_tensors_name_their_format(weights: dict[str, Any], inputs: Any, weight_format: str) -> None:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    stated = {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}, "ignore": ["lm_head"]}
    own = read(quantization_config=stated).quantization
    assert own is not None and (own.weight_format, own.roles_16bit) == (weight_format, (Role.LM_HEAD,))


@pytest.mark.parametrize(
    "excluded",
    [
        ["re:.*self_attn.*"],
        ["*.self_attn.*"],
        ["self_attn"],
        [f"model.layers.{layer}.self_attn*" for layer in range(4)],
        [f"model.layers.{layer}.self_attn.{name}_proj" for layer in range(4) for name in "qkvo"],
        ["re:.*self_attn\\.(q|k|v|o)_proj$"],
        ["model.layers.*.self_attn"],
    ],
)
def test_exclusions_are_understood_in_every_style(excluded: list[str]) -> None:
    own = read(quantization_config={"quant_method": "fp8", "modules_to_not_convert": excluded}).quantization
    assert own is not None
    assert (own.roles_16bit, own.tensors_16bit, own.layers_16bit) == ((Role.ATTENTION,), (), ())


def test_a_layer_left_whole_in_16_bit_is_named() -> None:
    stated = {"quant_method": "fp8", "modules_to_not_convert": ["model.layers.0", "model.layers.3.*", "lm_head"]}
    own = read(quantization_config=stated).quantization
    assert own is not None and (own.layers_16bit, own.roles_16bit) == ((0, 3), (Role.LM_HEAD,))


def test_a_tensor_left_in_16_bit_everywhere_is_named() -> None:
    stated = {"quant_method": "fp8", "modules_to_not_convert": ["o_proj"]}
    own = read(quantization_config=stated).quantization
    assert own is not None and (own.tensors_16bit, own.roles_16bit) == (("attention.o",), ())


def test_deepseek_v4_keeps_fp4_experts_beside_fp8() -> None:
    own = model("deepseek-ai/DeepSeek-V4-Flash").quantization
    assert own is not None
    assert (own.weight_format, own.quantized) == ("mxfp4", (Role.EXPERT,))
    assert dict(own.mixed)[Role.ATTENTION] == "fp8-block128"


def test_kimi_k2_5_quantizes_its_routed_experts_alone() -> None:
    own = model("moonshotai/Kimi-K2.5").quantization
    assert own is not None and own.weight_format == "int4-g32"
    assert {Role.ATTENTION, Role.SHARED_EXPERT, Role.LM_HEAD} <= set(own.roles_16bit)
