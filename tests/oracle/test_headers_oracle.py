"""Our bounded scanners against the libraries that write these files: names, types, shapes and bytes agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planner.catalog.headers.gguf import TYPES, read_gguf
from planner.catalog.headers.imported import read_path
from planner.catalog.headers.safetensors import read_safetensors

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
ROWS, ROW = 6, 512


def written(path: Path) -> Any:
    """A file with a tensor of every block type, metadata of every kind and a tokenizer."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(4096)
    writer.add_embedding_length(ROW)
    writer.add_head_count_kv([2, 0, 2])
    writer.add_rope_freq_base(1e6)
    writer.add_causal_attention(True)
    writer.add_int64("llama.negative", -5)
    writer.add_token_list([f"token {index}" for index in range(1000)])
    writer.add_token_scores([0.5] * 1000)
    for kind, (values, size) in gguf.GGML_QUANT_SIZES.items():
        data = np.zeros((ROWS, ROW // values * size), dtype=np.uint8)
        writer.add_tensor(f"blk.0.{kind.name.lower()}.weight", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return gguf


def test_block_types_are_those_of_gguf_py() -> None:
    gguf = pytest.importorskip("gguf")
    theirs = {int(kind): (kind.name.lower(), *sizes) for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert {number: tuple(block) for number, block in TYPES.items() if number in theirs} == theirs


def test_our_scanner_and_gguf_reader_agree(tmp_path: Path) -> None:
    path = tmp_path / "all.gguf"
    gguf = written(path)
    header = read_gguf(path, "all.gguf")
    theirs = {
        tensor.name: (tensor.tensor_type.name.lower(), tuple(int(n) for n in reversed(tensor.shape)), tensor.n_bytes)
        for tensor in gguf.GGUFReader(path).tensors
    }
    assert header.whole
    assert {tensor.name: tensor[1:] for tensor in header.tensors} == theirs


def test_metadata_agree_and_of_a_tokenizer_only_its_size_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "all.gguf"
    gguf = written(path)
    ours = read_gguf(path, "all.gguf").metadata
    for name, field in gguf.GGUFReader(path).fields.items():
        if not name.startswith(("GGUF.", "tokenizer.")):
            value = field.contents()
            assert ours[name] == (tuple(value) if isinstance(value, list) else value)
    assert ours["tokenizer.ggml.tokens"] == ours["tokenizer.ggml.scores"] == 1000


def test_quantized_rows_take_the_bytes_that_gguf_py_packs() -> None:
    gguf = pytest.importorskip("gguf")
    values = np.random.default_rng(0).standard_normal((ROWS, ROW)).astype(np.float32)
    for number in (2, 3, 6, 7, 8, 30, 34, 35):
        packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType(number))
        assert packed.nbytes == ROWS * ROW // TYPES[number].values * TYPES[number].size


def test_a_cut_file_is_a_header_alone(tmp_path: Path) -> None:
    path = tmp_path / "all.gguf"
    written(path)
    data = path.read_bytes()
    assert not read_gguf(data[: len(data) - 4096], "cut").whole


def test_our_scanner_and_safetensors_agree(tmp_path: Path) -> None:
    torch, safetensors = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch")
    types = "float64 float32 float16 bfloat16 float8_e4m3fn float8_e5m2 int64 int32 int16 int8 uint8 bool".split()
    tensors = {f"t.{name}": torch.zeros((3, 5), dtype=getattr(torch, name)) for name in types}
    tensors |= {"scalar": torch.zeros(()), "empty": torch.zeros((0, 4))}
    path = tmp_path / "model.safetensors"
    safetensors.save_file(tensors, path, metadata={"format": "pt"})
    header = read_safetensors(path, "model.safetensors")
    ours = {tensor.name: (tensor.shape, tensor.stored_bytes) for tensor in header.tensors}
    assert header.whole
    assert ours == {name: (tuple(t.shape), t.numel() * t.element_size()) for name, t in tensors.items()}


CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 16},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16, "num_key_value_heads": 2},
    "falcon": {"num_kv_heads": 2, "new_decoder_architecture": True},
    "deepseek_v3": {
        "kv_lora_rank": 16,
        "q_lora_rank": 24,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
    },
    "qwen3_next": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "head_dim": 16,
        "num_key_value_heads": 2,
        "num_hidden_layers": 4,
    },
}
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 320,
    "pad_token_id": 0,
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_saved_models_every_byte_has_a_place(kind: str, tmp_path: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(kind, **(SMALL | CONFIGS[kind]))
    with torch.no_grad():
        transformers.AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(tmp_path)
    stated = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({key: v for key, v in stated.items() if v is not None}))
    found = read_path(tmp_path)
    assert found is not None
    assert found.model.exact is not None
    assert not found.placement.unplaced
    assert not found.placement.missing
    assert found.model.exact.total_bytes == found.stored_bytes
    assert found.stored_bytes == sum(
        tensor.stored_bytes for tensor in read_safetensors(tmp_path / "model.safetensors", "m").tensors
    )


def test_a_bitsandbytes_layers_parts_all_belong_to_its_matrix(tmp_path: Path) -> None:
    torch, bnb = pytest.importorskip("torch"), pytest.importorskip("bitsandbytes")
    from planner.catalog.headers.names import Names, place

    layer = bnb.nn.Linear4bit(128, 64, bias=True, quant_type="nf4")
    quantized = layer.to("cpu")
    quantized(torch.zeros(1, 128))
    parts = [f"model.layers.3.mlp.up_proj.{name}" for name in quantized.state_dict()]
    names = Names(gguf=False, where="f")
    assert len(parts) > 3
    assert {("mlp.up",)} <= {group for part in parts for group in names.targets(place(part, gguf=False))}
    assert all(("mlp.up",) in names.targets(place(part, gguf=False)) for part in parts)
