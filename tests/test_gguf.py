"""GGUF file types against llama.cpp's own figures and the gguf library."""

from __future__ import annotations

import numpy as np
import pytest

from planner.catalog.files import read_yaml
from planner.catalog.formats import weight_format, weight_format_ids
from planner.catalog.paths import data_dir
from planner.formats import bits_per_weight, tensor_bytes, weight_bytes
from planner.formats.gguf import gguf_tensor_bytes, row_bytes
from planner.params import tensors
from planner.specs.model import Attention, DenseFfn, ExtraTensor, LatentAttention, Layer, ModelSpec, MoeFfn, Role
from planner.units import GIB

README_BITS = {  # bits per weight of Llama-3.1-8B, ggml-org/llama.cpp@311c2c9f0ebd tools/quantize/README.md
    "iq1_s": 2.0042, "iq1_m": 2.1460, "iq2_xxs": 2.3824, "iq2_xs": 2.5882, "iq2_s": 2.7403, "iq2_m": 2.9294,
    "iq3_xxs": 3.2548, "iq3_xs": 3.4977, "iq3_s": 3.6606, "iq3_m": 3.7628, "iq4_xs": 4.4597, "iq4_nl": 4.6818,
    "q2_k_s": 2.9697, "q2_k": 3.1593, "q3_k_s": 3.6429, "q3_k_m": 3.9960, "q3_k_l": 4.2979, "q4_k_s": 4.6672,
    "q4_k_m": 4.8944, "q5_k_s": 5.5704, "q5_k_m": 5.7036, "q6_k": 6.5633, "q8_0": 8.5008, "f16": 16.0005,
}  # fmt: skip
CARD_GB = {  # bartowski/Llama-3.1-Nemotron-70B-Instruct-HF-GGUF (as quoted at ozeki.chat/p_8590), GB = 10^9
    "q8_0": 74.98, "q6_k": 57.89, "q5_k_l": 50.60, "q5_k_m": 49.95, "q5_k_s": 48.66, "q4_k_l": 43.30, "q4_k_m": 42.52,
    "q4_k_s": 40.35, "q3_k_xl": 38.06, "q3_k_l": 37.14, "q3_k_m": 34.27, "iq3_m": 31.94, "q3_k_s": 30.91,
}  # fmt: skip


def llama(layers: int, hidden: int, inner: int, heads: int, kv_heads: int = 8) -> ModelSpec:
    """A Llama 3.1, with the 64 rotary factors that its GGUF stores as a tensor."""
    return ModelSpec(
        id=f"llama-{layers}",
        hidden_size=hidden,
        vocab_size=128256,
        max_position=131072,
        mixers=(Attention(n_heads=heads, n_kv_heads=kv_heads, head_dim=128),),
        ffns=(DenseFfn(intermediate=inner),),
        layers=(Layer(mixer=0, ffn=0, count=layers),),
        extras=(ExtraTensor(name="rope_freqs", role=Role.SMALL, n=64),),
    )


def mixture(experts: int, tied: bool = False, hidden: int = 4096) -> ModelSpec:
    return ModelSpec(
        id=f"moe-{experts}-{tied}-{hidden}",
        hidden_size=hidden,
        vocab_size=32000,
        max_position=32768,
        tie_embeddings=tied,
        mixers=(Attention(n_heads=32, n_kv_heads=8, head_dim=128),),
        ffns=(MoeFfn(n_experts=experts, top_k=2, intermediate=14336),),
        layers=(Layer(mixer=0, ffn=0, count=32),),
    )


LLAMA_8B = llama(32, 4096, 14336, 32)
LLAMA_70B = llama(80, 8192, 28672, 64)
MIXTRAL = mixture(8)


def bytes_by_name(model: ModelSpec, file_type: str) -> dict[str, float]:
    fmt = weight_format(f"gguf-{file_type}")
    return dict(zip([tensor.name for tensor in tensors(model)], tensor_bytes(model, fmt), strict=True))


@pytest.mark.parametrize("file_type", README_BITS)
def test_llama_8b_has_the_bits_per_weight_that_llama_cpp_publishes(file_type: str) -> None:
    assert round(bits_per_weight(LLAMA_8B, weight_format(f"gguf-{file_type}")), 4) == README_BITS[file_type]


@pytest.mark.parametrize("file_type", CARD_GB)
def test_llama_70b_files_are_as_large_as_their_card_says(file_type: str) -> None:
    metadata_gb = 0.015  # the tokenizer and two rounded digits
    size_gb = weight_bytes(LLAMA_70B, weight_format(f"gguf-{file_type}")) / 1e9
    assert size_gb == pytest.approx(CARD_GB[file_type], abs=metadata_gb)


def test_llama_405b_is_as_large_as_llama_bench_prints() -> None:
    # lhl/strix-halo-testing@5ee14b5b0ecf: llama ?B Q4_K - Medium, 226.37 GiB, 405.85 B
    model = llama(126, 16384, 53248, 128)
    assert weight_bytes(model, weight_format("gguf-q4_k_m")) / GIB == pytest.approx(226.37, abs=0.01)


def test_the_70b_rule_gives_value_projections_more_bits() -> None:
    values = bytes_by_name(LLAMA_70B, "q3_k_s")["attention.v"]
    assert values == 80 * 1024 * 8192 * 5.5 / 8


def test_mixtral_keeps_keys_and_values_in_eight_bits() -> None:
    sizes = bytes_by_name(MIXTRAL, "q4_k_m")
    assert sizes["attention.k"] == sizes["attention.v"] == 32 * 1024 * 4096 * 8.5 / 8
    assert sizes["attention.o"] == 32 * 4096 * 4096 * 5.5 / 8


def test_mixtral_q4_0_is_as_large_as_its_published_file() -> None:
    # TheBloke/dolphin-2.5-mixtral-8x7b-GGUF lists 26.44 GB for Q4_0
    assert weight_bytes(MIXTRAL, weight_format("gguf-q4_0")) / 1e9 == pytest.approx(26.44, abs=0.01)


def test_routers_and_norms_stay_in_32_bits() -> None:
    sizes = bytes_by_name(MIXTRAL, "q2_k")
    assert sizes["moe.router"] == 32 * 8 * 4096 * 4
    assert sizes["norm"] == 32 * 2 * 4096 * 4


def test_a_tied_embedding_takes_the_type_of_the_output() -> None:
    assert bytes_by_name(mixture(8, tied=True), "q4_k_m")["embedding"] == 32000 * 4096 * 6.5625 / 8
    assert bytes_by_name(MIXTRAL, "q4_k_m")["embedding"] == 32000 * 4096 * 4.5 / 8


def test_rows_that_blocks_of_256_do_not_divide_take_blocks_of_32() -> None:
    sizes = bytes_by_name(mixture(16, hidden=2880), "q4_k_m")
    assert sizes["attention.q"] == 32 * 4096 * 2880 * 5.5 / 8  # Q4_K -> Q5_0
    assert sizes["lm_head"] == 32000 * 2880 * 8.5 / 8  # Q6_K -> Q8_0


def test_rows_that_no_block_divides_stay_in_16_bits() -> None:
    mix = weight_format("gguf-q4_k_m").gguf
    assert mix is not None
    assert row_bytes(mix.base, 100) == 200


def test_only_experts_are_mxfp4_in_mxfp4_moe() -> None:
    sizes = bytes_by_name(mixture(32), "mxfp4_moe")
    assert sizes["experts.up"] == 32 * 32 * 14336 * 4096 * 4.25 / 8
    assert sizes["attention.q"] == 32 * 4096 * 4096 * 8.5 / 8


def test_latent_attention_splits_its_up_projection_and_its_keys_fall_back() -> None:
    latent = LatentAttention(
        n_heads=16, q_lora_rank=None, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128
    )
    model = MIXTRAL.model_copy(update={"id": "mla", "mixers": (latent,)})
    keys, values = 16 * 512 * 128 * 5.5 / 8, 16 * 128 * 512 * 4.5 / 8  # rows of 128: Q5_0; rows of 512: Q4_K
    assert bytes_by_name(model, "q4_k_m")["attention.kv_b"] == 32 * (keys + values)


def test_every_file_type_lies_between_its_smallest_and_largest_block() -> None:
    for name in (name for name in weight_format_ids() if name.startswith("gguf-")):
        mix = weight_format(name).gguf
        assert mix is not None
        types = [mix.base, mix.output, mix.embedding, mix.plain, *(rule.type for rule in mix.rules)]
        bits = [8 * block.block_bytes / block.elements for block in types]
        assert min(bits) <= bits_per_weight(LLAMA_8B, weight_format(name)) <= max(bits)


def test_bytes_stand_in_the_order_of_the_tensors() -> None:
    fmt = weight_format("gguf-q6_k")
    assert fmt.gguf is not None
    np.testing.assert_array_equal(tensor_bytes(LLAMA_8B, fmt), gguf_tensor_bytes(LLAMA_8B, fmt.gguf))


def test_a_gguf_file_of_the_8b_model_fits_its_published_size() -> None:
    assert weight_bytes(LLAMA_8B, weight_format("gguf-q4_k_m")) / GIB == pytest.approx(4.58, abs=0.005)


def test_block_sizes_are_those_of_the_gguf_library() -> None:
    gguf = pytest.importorskip("gguf")
    for name, (elements, size, *_) in read_yaml(data_dir() / "formats" / "gguf.yaml")["types"].items():
        known = getattr(gguf.GGMLQuantizationType, name.upper(), None)
        if known is not None:  # the library may be older than the newest types
            assert gguf.GGML_QUANT_SIZES[known] == (elements, size)


def test_the_gguf_library_knows_nearly_all_block_types() -> None:
    gguf = pytest.importorskip("gguf")
    names = set(read_yaml(data_dir() / "formats" / "gguf.yaml")["types"])
    missing = {name for name in names if not hasattr(gguf.GGMLQuantizationType, name.upper())}
    assert missing <= {"mxfp4", "nvfp4", "q1_0", "q2_0"}


def test_every_file_type_of_llama_quantize_is_known() -> None:
    gguf = pytest.importorskip("gguf")
    mostly = [t.name.removeprefix("MOSTLY_").lower() for t in gguf.LlamaFileType if t.name.startswith("MOSTLY_")]
    assert {f"gguf-{name}" for name in mostly} <= set(weight_format_ids())
