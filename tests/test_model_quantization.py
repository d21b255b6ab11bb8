"""What a checkpoint's config says of its own quantization."""

from __future__ import annotations

from typing import Any

import pytest

from planner.catalog.models import model
from planner.errors import BadValue
from planner.specs.model import Role
from tests.hf_configs import read


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
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp4", "group_size": 32}}}, "mxfp4"),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "int8"}}}, "int8-w8a8"),
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


def test_quark_names_other_formats_by_module() -> None:
    fp4 = {"dtype": "fp4", "qscheme": "per_group", "group_size": 32}
    fp8 = {"dtype": "fp8_e4m3", "qscheme": "per_tensor"}
    stated = {
        "quant_method": "quark",
        "global_quant_config": {"weight": fp4, "input_tensors": fp4},
        "layer_quant_config": {"*self_attn*": {"weight": fp8, "input_tensors": fp8}},
        "exclude": ["lm_head"],
    }
    own = read(quantization_config=stated).quantization
    assert own is not None and own.weight_format == "mxfp4"
    assert own.mixed == ((Role.ATTENTION, "fp8"),) and own.roles_16bit == (Role.LM_HEAD,)
    experts = {"quant_method": "quark", "layer_quant_config": {"*mlp*": {"weight": fp4}}, "global_quant_config": {}}
    own = read(quantization_config=experts).quantization
    assert own is not None and (own.weight_format, own.quantized) == ("mxfp4", (Role.MLP,))


def test_quark_refuses_a_width_that_is_not_known() -> None:
    with pytest.raises(BadValue, match="fp4 in groups of 32"):
        read(quantization_config={"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp6_e3m2"}}})
