"""Bytes of packed weights against the layouts that papers and file formats define."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.catalog.formats import (
    as_gguf,
    kv_format,
    kv_format_ids,
    parametric_formats,
    weight_format,
    weight_format_ids,
)
from planner.errors import BadValue, UnknownName
from planner.formats import is_quantized, kernel_for, packed_bytes, tensor_bytes, weight_bytes
from planner.params import parameters, tensors
from planner.specs.formats import Level
from planner.specs.model import Attention, DenseFfn, Layer, ModelSpec, MoeFfn, Quantization, Role

KNOWN_IDS = (
    "fp32 fp16 bf16 fp8 fp8-block128 mxfp8 int8-w8a8 int8-w8a16 bnb-int8 bnb-nf4 bnb-nf4-dq gptq-int4-g128 "
    "gptq-int3-g128 gptq-int2-g128 awq-int4-g128 w4a16-g128 int4-g32 hqq-4bit-g64 torchao-int4-g128 mxfp4 nvfp4 "
    "mlx-4bit-g64 mlx-8bit-g64 exl3-4.0 mixed-4.5 gguf-q4_k_m gguf-q8_0 gguf-f16 gguf-iq4_xs"
).split()
KERNELS = {
    "gemm-16", "gemm-bf16", "gemm-32", "gemm-fp8", "gemm-fp8-block", "gemm-int8", "gemm-fp4", "wo-8", "wo-4", "wo-3",
    "wo-2", "wo-mx4", "wo-nv4",
    "gguf-legacy", "gguf-k", "gguf-k3", "gguf-iq", "gguf-iq1", "nf4",
}  # fmt: skip
BITS = {  # bits per weight of a 4096 x 4096 matrix, by the definition of each format
    "fp8-block128": 8 + 32 / 128**2,  # DeepSeek-V3: an FP32 scale per 128 x 128
    "mxfp8": 8 + 8 / 32,  # OCP MX v1.0
    "mxfp4": 4 + 8 / 32,  # OCP MX v1.0
    "bnb-nf4": 4 + 32 / 64,  # QLoRA (arXiv:2305.14314) section 3
    "bnb-nf4-dq": 4 + 8 / 64 + 32 / (64 * 256),  # the same: 0.127 bits instead of 0.5
    "gptq-int4-g128": 4 + 16 / 128 + 4 / 128 + 32 / 4096,  # scales, packed zeros, g_idx
    "awq-int4-g128": 4 + 16 / 128 + 4 / 128,
    "w4a16-g128": 4 + 16 / 128,
    "int4-g32": 4 + 16 / 32,
    "hqq-4bit-g64": 4 + 32 / 64,
    "torchao-int4-g128": 4 + 32 / 128,
    "nvfp4": 4 + 8 / 16,
}
PUBLISHED_NAMES = {
    "SmoothQuant": "int8-w8a8", "W8A8": "int8-w8a8", "LLM.int8": "bnb-int8", "QLoRA": "bnb-nf4", "NF4": "bnb-nf4",
    "FP8_DYNAMIC": "fp8", "DeepSeek FP8": "fp8-block128", "Marlin": "gptq-int4-g128", "AutoRound": "w4a16-g128",
    "INT4 QAT": "int4-g32", "NVIDIA FP4": "nvfp4", "ExLlama": "gptq-int4-g128",
}  # fmt: skip


def small(**changes: object) -> ModelSpec:
    """A dense model of two layers with an untied head."""
    fields: dict[str, object] = {
        "id": "small",
        "hidden_size": 4096,
        "vocab_size": 32000,
        "max_position": 4096,
        "mixers": (Attention(n_heads=32, n_kv_heads=8, head_dim=128),),
        "ffns": (DenseFfn(intermediate=14336),),
        "layers": (Layer(mixer=0, ffn=0, count=2),),
    }
    return ModelSpec(**{**fields, **changes})  # type: ignore[arg-type]


def bytes_by_name(model: ModelSpec, name: str, resident: bool = False) -> dict[str, float]:
    sizes = tensor_bytes(model, weight_format(name), resident)
    return dict(zip([tensor.name for tensor in tensors(model)], sizes, strict=True))


@pytest.mark.parametrize("name", KNOWN_IDS)
def test_every_promised_format_can_be_named_in_either_case(name: str) -> None:
    assert weight_format(name.upper()).id == weight_format(name).id
    assert weight_bytes(small(), weight_format(name)) > 0


@pytest.mark.parametrize("name", BITS)
def test_a_matrix_has_the_bits_per_weight_of_its_format(name: str) -> None:
    packing = weight_format(name).packing
    assert packing is not None
    size = packed_bytes(packing, np.array([4096]), np.array([4096]))[0] - packing.tensor_bytes
    assert size * 8 / 4096**2 == pytest.approx(BITS[name], rel=1e-12)


def test_sixteen_bits_are_two_bytes_per_parameter() -> None:
    model = small()
    assert weight_bytes(model, weight_format("bf16")) == 2 * parameters(model)
    assert weight_bytes(model, weight_format("fp32")) == 4 * parameters(model)


def test_a_group_that_is_not_full_still_has_its_scale() -> None:
    packing = weight_format("w4a16-g128").packing
    assert packing is not None
    one, two = packed_bytes(packing, np.array([1, 1]), np.array([128, 129])) - packing.tensor_bytes
    assert one == 128 / 2 + 2
    assert two == 129 / 2 + 2 * 2


def test_blocks_of_128_are_counted_along_both_axes() -> None:
    packing = weight_format("fp8-block128").packing
    assert packing is not None
    assert packed_bytes(packing, np.array([129]), np.array([257]))[0] == 129 * 257 + 2 * 3 * 4


def test_head_embedding_norms_and_router_stay_in_16_bits() -> None:
    model = small(id="moe", ffns=(MoeFfn(n_experts=8, top_k=2, intermediate=1024),))
    sizes, plain = bytes_by_name(model, "awq-int4-g128"), bytes_by_name(model, "bf16")
    for name in ("embedding", "lm_head", "norm", "moe.router"):
        assert sizes[name] == plain[name]
    assert sizes["experts.up"] < plain["experts.up"] / 3


def test_mlx_packs_embedding_and_head_too() -> None:
    sizes = bytes_by_name(small(), "mlx-4bit-g64")
    assert sizes["embedding"] == sizes["lm_head"] == 32000 * 4096 * 4.5 / 8


def test_marlin_holds_less_than_a_gptq_checkpoint() -> None:
    checkpoint, resident = (bytes_by_name(small(), "gptq-int4-g128", kept)["mlp.up"] for kept in (False, True))
    assert resident == 2 * 14336 * 4096 * 4.125 / 8
    assert checkpoint - resident == 2 * (14336 * 32 * 4 / 8 + 4096 * 4)  # zero points and g_idx


def test_an_exl3_head_has_six_bits_and_a_tied_one_is_stored_beside_the_embedding() -> None:
    head = 32000 * 4096 * 6 / 8 + (32000 + 4096) * 2
    assert bytes_by_name(small(), "exl3-4")["lm_head"] == head
    tied = small(id="tied", tie_embeddings=True)
    assert bytes_by_name(tied, "exl3-4")["embedding"] == 32000 * 4096 * 2 + head


def test_a_mix_has_exactly_its_mean_bits() -> None:
    model = small()
    assert weight_bytes(model, weight_format("mixed-4.83")) == pytest.approx(parameters(model) * 4.83 / 8)


def test_a_checkpoint_in_its_own_format_packs_what_it_says() -> None:
    own = Quantization(weight_format="mxfp4", quantized=(Role.EXPERT,))
    ffn = MoeFfn(n_experts=32, top_k=4, intermediate=2880)
    model = small(id="gpt-oss-like", hidden_size=2880, ffns=(ffn,), quantization=own)
    sizes = bytes_by_name(model, "mxfp4")
    assert sizes["experts.down"] == 2 * 32 * 2880 * 2880 * 4.25 / 8
    assert sizes["attention.q"] == 2 * 4096 * 2880 * 2
    assert bytes_by_name(model, "awq-int4-g128")["attention.q"] < sizes["attention.q"] / 3


def test_layers_and_tensors_that_a_checkpoint_leaves_whole_count_two_bytes() -> None:
    own = Quantization(weight_format="fp8", layers_16bit=(0,), tensors_16bit=("attention.o",))
    sizes = bytes_by_name(small(id="own", quantization=own), "fp8")
    assert sizes["mlp.down"] == 4096 * 14336 * 2 + 4096 * 14336 + 2 * 4096
    assert sizes["attention.o"] == 2 * 4096 * 4096 * 2


def test_a_checkpoint_may_hold_roles_in_another_format() -> None:
    own = Quantization(weight_format="nvfp4", mixed=((Role.ATTENTION, "fp8"),))
    sizes = bytes_by_name(small(id="mixed", quantization=own), "nvfp4")
    assert sizes["attention.o"] == 2 * (4096 * 4096 + 2 * 4096)
    assert sizes["mlp.down"] == 2 * (4096 * 14336 * 4.5 / 8 + 8)


def test_vectors_are_never_packed() -> None:
    model = small(id="bias", mixers=(Attention(n_heads=32, n_kv_heads=8, head_dim=128, qkv_bias=True),))
    for name in ("awq-int4-g128", "gguf-q4_k_m", "fp8"):
        assert not any(is_quantized(model, t, weight_format(name)) for t in tensors(model) if t.k == 1)


def test_the_same_array_is_given_again_and_cannot_be_written() -> None:
    model, fmt = small(), weight_format("fp8")
    sizes = tensor_bytes(model, fmt)
    assert tensor_bytes(model, fmt) is sizes
    with pytest.raises(ValueError, match="read-only"):
        sizes[0] = 0


@given(bits=st.floats(1, 8), more=st.floats(0.01, 2))
def test_more_bits_take_more_bytes(bits: float, more: float) -> None:
    low, high = (weight_format(f"mixed-{value:.3f}") for value in (bits, bits + more))
    assert weight_bytes(small(), low) < weight_bytes(small(), high)


@given(n=st.integers(1, 5000), k=st.integers(1, 5000), name=st.sampled_from(sorted(BITS)))
def test_bytes_of_an_array_of_shapes_are_those_of_each_shape(n: int, k: int, name: str) -> None:
    packing = weight_format(name).packing
    assert packing is not None
    both = packed_bytes(packing, np.array([n, 64]), np.array([k, 64]))
    assert both[0] == packed_bytes(packing, np.array([n]), np.array([k]))[0]
    assert both[0] >= n * k * packing.bits / 8


def test_every_format_names_kernel_families_that_the_time_model_prices() -> None:
    for name in weight_format_ids():
        fmt = weight_format(name)
        assert {fmt.kernel, fmt.weight_only_kernel} <= KERNELS


def test_formats_with_their_own_arithmetic_fall_back_to_weight_only_kernels() -> None:
    assert kernel_for(weight_format("fp8"), Level.NATIVE) == "gemm-fp8"
    assert kernel_for(weight_format("fp8"), Level.WEIGHT_ONLY) == "wo-8"
    assert kernel_for(weight_format("nvfp4"), Level.EMULATED) == "gemm-16"
    assert kernel_for(weight_format("gguf-q4_k_m"), Level.WEIGHT_ONLY) == "gguf-k"


@pytest.mark.parametrize("word", PUBLISHED_NAMES)
def test_the_fields_other_words_are_named(word: str) -> None:
    assert any(word in name for name in weight_format(PUBLISHED_NAMES[word]).other_names)


def test_unsloth_dynamic_files_are_mixes() -> None:
    mixed = next(family for family in parametric_formats() if family["id"] == "mixed")
    assert "Unsloth dynamic" in mixed["other_names"]


def test_every_format_has_a_plain_note_and_a_source() -> None:
    for fmt in [weight_format(name) for name in weight_format_ids()] + [kv_format(name)[0] for name in kv_format_ids()]:
        assert fmt.note
        assert fmt.source


def test_an_unknown_format_names_what_was_meant() -> None:
    with pytest.raises(UnknownName, match="perhaps awq-int4-g128"):
        weight_format("awq")
    with pytest.raises(UnknownName, match="mixed-<bpw>"):
        weight_format("Unsloth dynamic")


@pytest.mark.parametrize("name", ["mixed-99", "exl3-0.5", "exl3-nan", "mixed-1e3", "exl3-", "mixed"])
def test_bits_out_of_range_are_refused(name: str) -> None:
    with pytest.raises((BadValue, UnknownName)):
        weight_format(name)


def test_kv_formats_pair_keys_and_values() -> None:
    keys, values = kv_format("q8_0/q4_0")
    assert (keys.bytes_per_value, values.bytes_per_value) == (34 / 32, 18 / 32)
    assert kv_format("auto") == kv_format("") == kv_format("bf16")


def test_kv_formats_know_their_engines_words() -> None:
    assert kv_format("fp8_e4m3")[0].id == "fp8"
    assert kv_format("f16/q8_0")[0].id == "fp16"
    with pytest.raises(UnknownName, match="q8_0"):
        kv_format("q8_1")


def test_mxfp4_experts_are_padded_as_marlin_holds_them() -> None:
    # gpt-oss-120b loads 65.97 GiB on one GPU (vllm#23278) and 17.22 GiB on each of four, where 60.8 are stored
    own = Quantization(weight_format="mxfp4", quantized=(Role.EXPERT,))
    ffn = MoeFfn(n_experts=128, top_k=4, intermediate=2880)
    model = small(id="gpt-oss", hidden_size=2880, ffns=(ffn,), quantization=own)
    fmt, names = weight_format("mxfp4"), [tensor.name for tensor in tensors(small(id="n", ffns=(ffn,)))]
    one, four = (tensor_bytes(model, fmt, True, shards)[names.index("experts.up")] for shards in (1, 4))
    assert one == 2 * 128 * 3072 * 2944 * 4.25 / 8
    assert four == 2 * 128 * 3072 * 3072 * 4.25 / 8


def test_the_ladder_that_articles_teach_stands_beside_the_true_sizes(root: Path) -> None:
    text = (root / "docs" / "formats.md").read_text("utf-8")
    rules = {int(cells[1]): cells[3].strip() for cells in ladder_cells(text)}
    assert rules == {32: "280", 16: "140", 8: "70", 4: "35", 2: "18"}


def test_the_parts_of_the_ladder_add_up(root: Path) -> None:
    for cells in ladder_cells((root / "docs" / "formats.md").read_text("utf-8")):
        true_gb = float(cells[4].strip(" *"))
        parts_gb = sum(float(cell) for cell in cells[6:9])
        assert 70 * int(cells[1]) / 8 + parts_gb == pytest.approx(true_gb, abs=0.2)


def ladder_cells(text: str) -> list[list[str]]:
    section = text.partition("## The ladder")[2].partition("\n## ")[0]
    return [line.split("|") for line in section.splitlines() if re.match(r"\| \d", line)]


def test_the_document_is_what_the_catalogue_says(root: Path) -> None:
    script = runpy.run_path(str(root / "docs" / "make_formats.py"))
    assert (root / "docs" / "formats.md").read_text("utf-8") == script["document"](), "run python docs/make_formats.py"


@pytest.mark.parametrize(
    ("label", "format_id"),
    [
        ("Q4_K_M", "gguf-q4_k_m"),
        ("GGUF Q4_K - Medium", "gguf-q4_k_m"),
        ("IQ4_XS - 4.25 bpw", "gguf-iq4_xs"),
        ("UD-Q4_K_XL", "gguf-q4_k_xl"),
        ("mostly Q4_0", "gguf-q4_0"),
        ("GGUF F16", "gguf-f16"),
        ("AWQ-INT4", "awq-int4-g128"),
        ("FP8_DYNAMIC", "fp8"),
    ],
)
def test_labels_of_tables_and_logs_are_formats(label: str, format_id: str) -> None:
    assert weight_format(label).id == format_id


def test_llamacpp_converts_what_it_does_not_quantize() -> None:
    assert [as_gguf(weight_format(name)).id for name in ("bf16", "mxfp4", "fp8")] == [
        "gguf-bf16",
        "gguf-mxfp4_moe",
        "fp8",
    ]
