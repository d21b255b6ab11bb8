"""Headers of checkpoints: what they say is believed to the byte."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from planner.catalog.formats import weight_format
from planner.catalog.headers.families import FAMILIES, config_of
from planner.catalog.headers.gguf import read_gguf, split_names
from planner.catalog.headers.imported import Imported, import_gguf, import_safetensors, read_path
from planner.catalog.headers.records import Header, Stored
from planner.catalog.headers.safetensors import read_safetensors
from planner.catalog.hf import model_from_config
from planner.catalog.models import resolve
from planner.errors import BadFile, BadValue
from planner.formats import tensor_bytes, weight_bytes
from planner.params import parameters, tensors
from planner.specs.model import LinearAttention, Mamba, ModelSpec, Role
from tests.header_files import (
    LLAMA,
    LLAMA_METADATA,
    gguf_bytes,
    llama_shapes,
    llama_tensors,
    safetensors_bytes,
    safetensors_header,
)

GOLDEN = Path(__file__).parent / "golden" / "gguf.json"
CONFIG = json.dumps(LLAMA).encode()

# What a GGUF file says otherwise than the config it was made from, on purpose.
WINDOWLESS = {"phi3", "starcoder2"}  # llama.cpp runs them without their windows
OWN_CONTEXT = {"granitehybriddense", "nvidia-nemotron-3-nano-30b-a3b-bf16"}  # the converter states 2^20
NO_POOLER = {"bert"}
FROM_CONFIG_ALONE = {"id", "source", "verbatim", "quantization", "architecture", "model_type", "dtype", "mtp_layers"}
WITHOUT_BYTES_OF = {  # published for image input as well, of which llama.cpp keeps another file
    "vision",
    "mtp_params",
}


@cache
def golden() -> dict[str, Any]:
    models: dict[str, Any] = json.loads(GOLDEN.read_text(encoding="utf-8"))["models"]
    return models


def header_of(entry: dict[str, Any]) -> Header:
    """What llama.cpp's converter wrote, as our scanner would read it."""
    bytes_of = {"f16": 2, "f32": 4}
    stored = []
    for kind, names in entry["tensors"].items():
        dtype, _, sizes = kind.partition(" ")
        shape = tuple(int(size) for size in sizes.split("x"))
        for name, layers in names.items():
            full = [f"blk.{layer}.{name}" for layer in layers.split()] or [name]
            stored += [Stored(each, dtype, shape, bytes_of[dtype] * math.prod(shape)) for each in full]
    metadata = {key: tuple(v) if isinstance(v, list) else v for key, v in entry["metadata"].items()}
    return Header(tuple(stored), metadata, "golden.gguf", True)


def compared(model: ModelSpec, name: str) -> dict[str, Any]:
    """A spec's fields as far as both sources state them; recurrent states are 32 bit in llama.cpp."""
    mixers = [
        m.model_copy(update={"state_dtype": "fp32"}) if isinstance(m, LinearAttention | Mamba) else m
        for m in model.mixers
    ]
    left = model.model_copy(update={"mixers": tuple(mixers)}).model_dump(exclude=FROM_CONFIG_ALONE | WITHOUT_BYTES_OF)
    if name in WINDOWLESS:
        left["mixers"] = [mixer | {"window": None} for mixer in left["mixers"]]
    return left | ({"max_position": 0} if name in OWN_CONTEXT else {})


@pytest.mark.parametrize("name", golden())
def test_metadata_of_gguf_say_what_the_config_said(name: str) -> None:
    entry = golden()[name]
    from_gguf = model_from_config(config_of(header_of(entry)), name)
    assert compared(from_gguf, name) == compared(model_from_config(entry["config"], name), name)


@pytest.mark.parametrize("name", golden())
def test_every_tensor_of_a_converted_model_has_its_place(name: str) -> None:
    found = import_gguf([header_of(golden()[name])], name)
    assert not found.placement.unplaced
    assert found.placement.missing == (("pooler",) if name in NO_POOLER else ())
    assert weight_bytes(found.model, weight_format("gguf-f16")) == found.stored_bytes - found.placement.mtp_bytes


def test_most_architectures_have_been_through_llama_cpps_converter() -> None:
    converted = {entry["metadata"]["general.architecture"] for entry in golden().values()}
    assert len(converted & set(FAMILIES)) >= 40


def imported_llama(dtype: str = "BF16") -> Imported:
    header = read_safetensors(safetensors_bytes(safetensors_header(llama_shapes(), dtype)), "model.safetensors")
    return import_safetensors(CONFIG, [header], "tiny")


def test_a_header_alone_is_enough() -> None:
    found = imported_llama()
    assert not found.whole
    assert found.model.exact is not None
    assert found.model.exact.total_bytes == 2 * parameters(found.model)


def test_sixteen_bit_tensors_take_what_the_closed_form_says() -> None:
    found = imported_llama().model
    plain = found.model_copy(update={"exact": None})
    fmt = weight_format("bf16")
    assert list(tensor_bytes(found, fmt)) == list(tensor_bytes(plain, fmt))


def test_a_checkpoint_without_quantization_has_the_format_of_its_tensors() -> None:
    model = imported_llama("F32").model
    assert model.exact is not None
    assert model.exact.weight_format == model.dtype == "fp32"


def test_exact_bytes_hold_for_the_checkpoints_own_format_alone() -> None:
    found = imported_llama().model
    plain = found.model_copy(update={"exact": None})
    assert weight_bytes(found, weight_format("fp8")) == weight_bytes(plain, weight_format("fp8"))


def test_packed_types_count_by_their_bytes_and_not_by_their_elements() -> None:
    shapes = {name: shape for name, shape in llama_shapes().items() if "mlp.up_proj" not in name}
    header = safetensors_header(shapes)
    at = max(entry["data_offsets"][1] for entry in header.values())
    for layer in range(2):
        for leaf, dtype, shape, size in (("qweight", "I32", [8, 128], 4096), ("scales", "F16", [1, 128], 256)):
            header[f"model.layers.{layer}.mlp.up_proj.{leaf}"] = {
                "dtype": dtype,
                "shape": shape,
                "data_offsets": [at, at + size],
            }
            at += size
    model = import_safetensors(CONFIG, [read_safetensors(safetensors_bytes(header), "f")], "tiny").model
    place = [tensor.name for tensor in tensors(model)].index("mlp.up")
    assert tensor_bytes(model, weight_format("bf16"))[place] == 2 * (4096 + 256)


def test_fused_projections_are_shared_out_by_size() -> None:
    shapes = {name: shape for name, shape in llama_shapes().items() if "_proj" not in name or "o_proj" in name}
    for layer in range(2):
        shapes[f"model.layers.{layer}.self_attn.qkv_proj.weight"] = (128, 64)
        shapes[f"model.layers.{layer}.mlp.gate_up_proj.weight"] = (256, 64)
        shapes[f"model.layers.{layer}.mlp.down_proj.weight"] = (64, 128)
    header = read_safetensors(safetensors_bytes(safetensors_header(shapes)), "f")
    model = import_safetensors(CONFIG, [header], "tiny").model
    assert list(tensor_bytes(model, weight_format("bf16"))) == [2 * tensor.numel for tensor in tensors(model)]


def test_what_the_architecture_does_not_imply_is_loaded_beside_it() -> None:
    header = read_safetensors(safetensors_bytes(safetensors_header(llama_shapes() | {"odd.thing": (32, 10)})), "f")
    found = import_safetensors(CONFIG, [header], "tiny")
    assert [tensor.name for tensor in found.placement.unplaced] == ["odd.thing"]
    assert weight_bytes(found.model, weight_format("bf16")) == found.stored_bytes


def test_prediction_layers_and_computed_buffers_are_not_loaded() -> None:
    more = {"model.layers.2.mlp.up_proj.weight": (128, 64), "model.layers.0.self_attn.rotary_emb.inv_freq": (8,)}
    header = read_safetensors(safetensors_bytes(safetensors_header(llama_shapes() | more)), "f")
    exact = import_safetensors(CONFIG, [header], "tiny").model.exact
    assert exact is not None
    assert (exact.mtp_bytes, exact.unloaded_bytes) == (2 * 128 * 64, 16)


def test_a_tied_head_that_is_stored_again_is_not_loaded() -> None:
    config = json.dumps(LLAMA | {"tie_word_embeddings": True}).encode()
    header = read_safetensors(safetensors_bytes(safetensors_header(llama_shapes())), "f")
    exact = import_safetensors(config, [header], "tiny").model.exact
    assert exact is not None
    assert exact.unloaded_bytes == 2 * 256 * 64


def test_a_sharded_folder_is_read_through_its_index(tmp_path: Path) -> None:
    shapes = llama_shapes()
    files = {name: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, name in enumerate(shapes)}
    for file in set(files.values()):
        part = safetensors_header({name: shape for name, shape in shapes.items() if files[name] == file})
        (tmp_path / file).write_bytes(safetensors_bytes(part, data=True))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    (tmp_path / "config.json").write_bytes(CONFIG)
    found = read_path(tmp_path)
    assert found is not None
    assert found.whole
    assert found.stored_bytes == 2 * parameters(found.model)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_bytes(CONFIG)
    with pytest.raises(BadFile, match=r"model-00001-of-00001\.safetensors: no such file"):
        read_path(tmp_path)


def test_a_gguf_files_tensors_are_its_weights(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    file.write_bytes(gguf_bytes(LLAMA_METADATA, llama_tensors(), data=True))
    found = resolve(str(file))
    assert found.weight_format == "gguf-q4_k_m"
    # 4.5 and 6.5625 bits per weight in blocks of 256, norms in 32 bit
    four = 300 * 256 + 2 * (2 * 256 * 256 + 128 * 256 + 2 * 512 * 256)
    six = 300 * 256 + 2 * (128 * 256 + 512 * 256)
    expected = four * 144 // 256 + six * 210 // 256 + 5 * 256 * 4
    assert weight_bytes(found.model, weight_format("gguf-q4_k_m")) == expected


def test_tied_embeddings_of_gguf_are_those_without_an_output() -> None:
    header = read_gguf(gguf_bytes(LLAMA_METADATA, llama_tensors(tied=True)), "f")
    model = import_gguf([header], "tiny").model
    assert model.tie_embeddings
    assert Role.LM_HEAD not in {tensor.role for tensor in tensors(model)}


def test_all_parts_of_a_split_file_are_read(tmp_path: Path) -> None:
    whole = llama_tensors()
    for part, held in enumerate((whole[:9], whole[9:]), 1):
        metadata = LLAMA_METADATA if part == 1 else {"split.no": 1}
        (tmp_path / f"tiny-0000{part}-of-00002.gguf").write_bytes(gguf_bytes(metadata, held))
    found = read_path(tmp_path / "tiny-00002-of-00002.gguf")
    assert found is not None
    assert len(found.headers) == 2
    assert not found.placement.missing


def test_split_names_count_from_one() -> None:
    assert split_names("m-00002-of-00003.gguf") == [f"m-0000{part}-of-00003.gguf" for part in (1, 2, 3)]
    assert split_names("m.gguf") == ["m.gguf"]


def test_a_files_own_type_stands_in_where_the_metadata_state_none() -> None:
    metadata = {key: value for key, value in LLAMA_METADATA.items() if key != "general.file_type"}
    exact = import_gguf([read_gguf(gguf_bytes(metadata, llama_tensors()), "f")], "tiny").model.exact
    assert exact is not None
    assert exact.weight_format == "gguf-q4_k_m"


def test_version_two_reads_as_version_three() -> None:
    versions = [read_gguf(gguf_bytes(LLAMA_METADATA, llama_tensors(), version=v), "f") for v in (2, 3)]
    assert versions[0] == versions[1]


def test_an_unknown_architecture_is_one_line_that_names_the_key() -> None:
    header = read_gguf(gguf_bytes(LLAMA_METADATA | {"general.architecture": "novel"}, llama_tensors()), "f.gguf")
    with pytest.raises(BadValue, match=r"^f\.gguf: general\.architecture is 'novel', a kind that is not known"):
        import_gguf([header], "tiny")


def test_an_image_encoder_is_not_taken_for_a_model() -> None:
    header = read_gguf(gguf_bytes({"general.architecture": "clip"}, llama_tensors()), "mmproj.gguf")
    with pytest.raises(BadValue, match=r"mmproj\.gguf: general\.architecture is 'clip', an image encoder"):
        import_gguf([header], "tiny")


def test_the_documentation_lists_every_architecture(root: Path) -> None:
    listed = (root / "docs" / "checkpoints.md").read_text("utf-8").partition("<!-- architectures -->")[2]
    assert {name.strip("` \n") for name in listed.split(",")} == set(FAMILIES)
