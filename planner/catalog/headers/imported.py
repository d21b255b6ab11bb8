"""A checkpoint's files -> the architecture with its exact weights, and what the files say beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from planner.catalog.files import parse_json, read_bytes
from planner.catalog.formats import weight_format_ids
from planner.catalog.headers.families import config_of
from planner.catalog.headers.gguf import read_gguf, split_names
from planner.catalog.headers.names import place
from planner.catalog.headers.placing import Placement, placed, with_exact
from planner.catalog.headers.records import Header, Stored
from planner.catalog.headers.safetensors import read_safetensors, sharded
from planner.catalog.hf import model_from_config
from planner.errors import BadFile
from planner.params import parameters
from planner.specs.model import ModelSpec, Quantization

MAX_INDEX_BYTES = 64 * 2**20
MAX_ALL_TENSORS = 2**20  # of all files of a checkpoint together
INDEX = "model.safetensors.index.json"
WHOLE_FILES = ("model.safetensors", "consolidated.safetensors")
_FILE_TYPES = {  # general.file_type -> file type, as enum llama_ftype of llama.h
    0: "f32",
    1: "f16",
    2: "q4_0",
    3: "q4_1",
    7: "q8_0",
    8: "q5_0",
    9: "q5_1",
    10: "q2_k",
    11: "q3_k_s",
    12: "q3_k_m",
    13: "q3_k_l",
    14: "q4_k_s",
    15: "q4_k_m",
    16: "q5_k_s",
    17: "q5_k_m",
    18: "q6_k",
    19: "iq2_xxs",
    20: "iq2_xs",
    21: "q2_k_s",
    22: "iq3_xs",
    23: "iq3_xxs",
    24: "iq1_s",
    25: "iq4_nl",
    26: "iq3_s",
    27: "iq3_m",
    28: "iq2_s",
    29: "iq2_m",
    30: "iq4_xs",
    31: "iq1_m",
    32: "bf16",
    36: "tq1_0",
    37: "tq2_0",
    38: "mxfp4_moe",
    39: "nvfp4",
    40: "q1_0",
    41: "q2_0",
}
_LIKE = {"q4_k": "q4_k_m", "q5_k": "q5_k_m", "q3_k": "q3_k_m", "mxfp4": "mxfp4_moe"}  # block type -> usual file type
_UNPACKED = {"f64", "f32", "f16", "bf16"}


class Imported(NamedTuple):
    """A checkpoint as its files state it."""

    model: ModelSpec  # with `exact`
    headers: tuple[Header, ...]
    placement: Placement

    @property
    def stored_bytes(self) -> int:
        """Bytes of all tensors in the files."""
        return sum(tensor.stored_bytes for header in self.headers for tensor in header.tensors)

    @property
    def whole(self) -> bool:
        """Whether the files hold all the data that their headers announce."""
        return all(header.whole for header in self.headers)

    def dtypes(self) -> dict[str, int]:
        """Bytes by stored type."""
        sizes: Counter[str] = Counter()
        for header in self.headers:
            for tensor in header.tensors:
                sizes[tensor.dtype] += tensor.stored_bytes
        return dict(sizes.most_common())


def import_gguf(headers: Sequence[Header], name: str) -> Imported:
    """A GGUF file or all parts of a split one; the first holds the metadata."""
    first = headers[0]
    merged = Header(_joined(headers), first.metadata, first.where, all(header.whole for header in headers))
    model = model_from_config(config_of(merged), name, first.where)
    own = Quantization(weight_format=f"gguf-{_file_type(merged)}", method="gguf")
    model = model.model_copy(update={"quantization": own, "source": first.where, "verbatim": False})
    return _imported(model, headers, own.weight_format, gguf=True)


def import_safetensors(
    config: bytes, headers: Sequence[Header], name: str, quant: Mapping[str, object] | None = None
) -> Imported:
    """Files of a checkpoint under its config.json, `quant` being the hf_quant_config.json beside it."""
    model = model_from_config(config, name, f"{name}: config.json", quant)
    own = model.quantization
    weights = own.weight_format if own else _plain_format(_joined(headers), model)
    model = model if own else model.model_copy(update={"dtype": weights})  # what the files hold, whatever it says
    return _imported(model, headers, weights, gguf=False)


def _imported(model: ModelSpec, headers: Sequence[Header], weights: str, gguf: bool) -> Imported:
    found = placed(model, _joined(headers), gguf, headers[0].where)
    if not found.stored:
        raise BadFile(f"{headers[0].where}: none of its tensors belongs to a {model.model_type or 'known'} model")
    return Imported(with_exact(model, weights, found), tuple(headers), found)


def _joined(headers: Iterable[Header]) -> tuple[Stored, ...]:
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    where = next(iter(headers)).where
    if len(tensors) > MAX_ALL_TENSORS:
        raise BadFile(f"{where}: {len(tensors)} tensors in all files, more than {MAX_ALL_TENSORS}")
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise BadFile(f"{where}: a tensor stands in two of the files")
    return tensors


def _plain_format(tensors: Iterable[Stored], model: ModelSpec) -> str:
    """The format of a checkpoint without quantization: the type that holds the most bytes."""
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        sizes[tensor.dtype] += tensor.stored_bytes
    return {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}.get(sizes.most_common(1)[0][0], model.dtype)


def _file_type(header: Header) -> str:
    """The file type that the metadata state; without that the one named after the type of most bytes."""
    stated = header.metadata.get("general.file_type")
    known = _FILE_TYPES.get(stated) if isinstance(stated, int) else None
    if known is not None:
        return known
    sizes: Counter[str] = Counter()
    for tensor in header.tensors:
        sizes[tensor.dtype] += tensor.stored_bytes
    packed = [dtype for dtype, _ in sizes.most_common() if dtype not in _UNPACKED]
    best = packed[0] if packed else sizes.most_common(1)[0][0]
    named = _LIKE.get(best, best)
    return named if f"gguf-{named}" in weight_format_ids() else "f16"


def read_path(path: Path) -> Imported | None:
    """A .gguf file, a .safetensors file beside its config.json, or a folder; None for what holds no weights."""
    if path.is_dir():
        return _read_folder(path)
    if path.suffix.lower() == ".gguf":
        return _read_gguf(path)
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path.parent, [path.name], path.stem)
    return None


def _read_gguf(path: Path) -> Imported:
    names = split_names(path.name)
    return import_gguf([read_gguf(path.with_name(name), str(path.with_name(name))) for name in names], path.stem)


def _read_folder(folder: Path) -> Imported | None:
    names = weight_files(folder)
    if names:
        return _read_safetensors(folder, names, folder.resolve().name or "model")
    if (folder / "config.json").is_file():
        return None
    models = sorted(path for path in folder.glob("*.gguf") if "mmproj" not in path.name.lower())
    sets = {split_names(path.name)[0] for path in models}
    if len(sets) > 1:
        raise BadFile(f"{folder}: {len(sets)} GGUF models; give one of the files, such as {models[0].name[:120]}")
    return _read_gguf(folder / sets.pop()) if sets else None


def weight_files(folder: Path) -> list[str]:
    """The safetensors files of a checkpoint: as its index lists them, or the only one. [] when there is none."""
    if (folder / INDEX).is_file():
        where = str(folder / INDEX)
        return sharded(parse_json(read_bytes(folder / INDEX, MAX_INDEX_BYTES), where, MAX_INDEX_BYTES), where)
    whole = next((name for name in WHOLE_FILES if (folder / name).is_file()), None)
    if whole:
        return [whole]
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    if len(names) > 1:
        raise BadFile(f"{folder}: {len(names)} .safetensors files without {INDEX}, which says what belongs together")
    return names


def _read_safetensors(folder: Path, names: Sequence[str], name: str) -> Imported:
    if not (folder / "config.json").is_file():
        raise BadFile(f"{folder / names[0]}: no config.json beside it; headers state sizes, not the architecture")
    headers = [read_safetensors(folder / file, str(folder / file)) for file in names]
    beside = folder / "hf_quant_config.json"
    quant = parse_json(read_bytes(beside), str(beside)) if beside.is_file() else None
    return import_safetensors(read_bytes(folder / "config.json"), headers, name, quant)


def import_known(header: Header, bundled: Iterable[ModelSpec], name: str) -> Imported:
    """A safetensors header without a config.json: the bundled architecture that all its tensors fit."""
    embedding = next((tensor for tensor in header.tensors if tensor.name.endswith(_EMBEDDINGS)), None)
    if embedding is None or len(embedding.shape) != 2:
        raise BadFile(f"{name}: a safetensors header without an embedding; give the model's config.json with it")
    layers = 1 + max(place(tensor.name, gguf=False).layer for tensor in header.tensors)
    for model in bundled:
        width = model.embedding_size or model.hidden_size
        if embedding.shape[0] == model.vocab_size and layers in (model.n_layers, model.n_layers + model.mtp_layers):
            found = placed(model, header.tensors, False, name) if embedding.shape[1] == width else None
            if found is not None and _fits(model, header, found):
                own = model.quantization
                weights = own.weight_format if own else _plain_format(header.tensors, model)
                return Imported(with_exact(model, weights, found), (header,), found)
    raise BadFile(f"{name}: no bundled model has these tensors; give the model's config.json with the header")


_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight", "embeddings.weight")


def _fits(model: ModelSpec, header: Header, placement: Placement) -> bool:
    """Whether a 16-bit or 32-bit file holds exactly the architecture's values; packed ones cannot be counted."""
    counted = sum(tensor.values for tensor in header.tensors if tensor.dtype in ("f32", "f16", "bf16"))
    packed = any(tensor.dtype not in ("f32", "f16", "bf16") for tensor in header.tensors)
    return not placement.missing and not placement.unplaced and (packed or counted == parameters(model))
