"""A config.json from a stranger: files, malformed and hostile values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.catalog.hf import READERS, model_from_config
from planner.catalog.hf.config import MAX_CONTEXT, MAX_HIDDEN, MAX_LAYERS, MAX_VOCAB
from planner.catalog.models import from_bytes, model
from planner.errors import BadFile, BadValue, PlannerError
from planner.params import parameters
from planner.specs.model import Role
from tests.hf_configs import DEEPSEEK, LLAMA, read


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
        ({"model_type": "lfm2", "conv_bias": True}, "conv_bias"),
        ({"model_type": "lfm2", "layer_types": ["conv", "conv", "conv", "linear_attention"]}, "layer_types"),
        ({"model_type": "bailing_hybrid", "no_kda_lora": False}, "no_kda_lora"),
        ({"model_type": "qwen4_exp_text", "indexer_n_heads": 4, "indexer_kv_heads": 2}, "indexer_kv_heads"),
        ({"model_type": "laguna", "gating": "per-layer"}, "gating"),
        ({"model_type": "glm4v_moe", "text_config": LLAMA, "vision_config": {"depth": 2}}, "model_type"),
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
