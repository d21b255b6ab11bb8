"""Packed sizes against the libraries that write them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planner.catalog.formats import weight_format
from planner.formats import packed_bytes

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
SHAPES = [(256, 512), (4096, 1536), (96, 2048)]
PRESETS = {
    "W4A16": "w4a16-g128",
    "W8A16": "int8-w8a16",
    "W8A8": "int8-w8a8",
    "FP8_DYNAMIC": "fp8",
    "NVFP4": "nvfp4",
    "MXFP4": "mxfp4",
    "MXFP8": "mxfp8",
}


def planned(name: str, n: int, k: int) -> float:
    packing = weight_format(name).packing
    assert packing is not None
    return float(packed_bytes(packing, np.array([n]), np.array([k]))[0])


def stored(tensors: dict[str, Any]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("preset", PRESETS)
def test_compressed_tensors_stores_as_many_bytes(preset: str, shape: tuple[int, int]) -> None:
    pytest.importorskip("compressed_tensors")
    import torch
    from compressed_tensors.compressors import compress_module
    from compressed_tensors.quantization import QuantizationStatus, preset_name_to_scheme
    from compressed_tensors.quantization.lifecycle import initialize_module_for_quantization

    linear = torch.nn.Linear(shape[1], shape[0], bias=False, dtype=torch.bfloat16)
    initialize_module_for_quantization(linear, preset_name_to_scheme(preset, ["Linear"]))
    linear.weight_scale.data.fill_(1)
    if hasattr(linear, "weight_global_scale"):
        linear.weight_global_scale.data.fill_(1)
    linear.quantization_status = QuantizationStatus.FROZEN
    compress_module(linear)
    assert stored(linear.state_dict()) == planned(PRESETS[preset], *shape)


@pytest.mark.parametrize("shape", [*SHAPES, (100, 120), (33, 77)])
@pytest.mark.parametrize("nested", [False, True])
def test_bitsandbytes_stores_as_many_bytes_in_nf4(shape: tuple[int, int], nested: bool) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    import torch

    weight = torch.randn(shape)
    codes, state = functional.quantize_4bit(weight, blocksize=64, compress_statistics=nested, quant_type="nf4")
    parts = {"codes": codes, "absmax": state.absmax, "code": state.code}
    if nested:
        parts |= {"offset": state.offset, "absmax2": state.state2.absmax, "code2": state.state2.code}
    odd_code = (shape[0] * shape[1] % 2) / 2  # the last byte of an odd number of codes is half full
    assert stored(parts) == planned("bnb-nf4-dq" if nested else "bnb-nf4", *shape) + odd_code


@pytest.mark.parametrize("shape", SHAPES)
def test_bitsandbytes_stores_as_many_bytes_in_int8(shape: tuple[int, int]) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    import torch

    codes, scales, _ = functional.int8_vectorwise_quant(torch.randn(shape).half())
    assert stored({"codes": codes, "scales": scales}) == planned("bnb-int8", *shape)
