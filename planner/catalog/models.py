"""Models by name: bundled architectures, their aliases, re-uploaded and quantized checkpoints, files and folders.

`planner/data/models` holds one small file for each architecture and `index.json`, which lists them;
`planner/data/model_aliases.json` the other names. Loading a model opens its own file alone.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from planner.catalog.files import MAX_BYTES, parse_json, read_bytes, read_json
from planner.catalog.paths import data_dir
from planner.errors import BadFile, PlannerError, UnknownName, first_fault
from planner.specs.model import ModelSpec, Quantization

__all__ = ["Entry", "Resolved", "from_bytes", "known", "model", "model_ids", "model_index", "resolve"]


_HUBS = r"(?:huggingface\.co|hf\.co|modelscope\.cn/models)"
_ADDRESS = re.compile(rf"(?:https?://)?(?:www\.)?{_HUBS}/([\w.-]+/[\w.-]+)", re.ASCII)
_GGUF = "gguf"  # of a suffix: the block type is the ending's own


class Resolved(NamedTuple):
    """What a name stands for."""

    model: ModelSpec
    weight_format: str | None  # the name's own; None: as the model's `quantization` says, else 16 bit
    checkpoint: str  # what one downloads: the name as given, or the bundled id


class Entry(NamedTuple):
    """A line of the index."""

    id: str
    parameters: int
    active_parameters: int
    max_position: int
    task: str
    weight_format: str | None  # of the publisher's checkpoint where it is quantized


@lru_cache(maxsize=1)
def model_index() -> tuple[Entry, ...]:
    """Every bundled architecture with the figures that lists show, in alphabetical order."""
    return tuple(Entry(*row) for row in read_json(data_dir() / "models" / "index.json"))


@lru_cache(maxsize=1)
def model_ids() -> tuple[str, ...]:
    """Ids of the bundled architectures."""
    return tuple(entry.id for entry in model_index())


def file_name(model_id: str) -> str:
    """The file that holds a bundled architecture."""
    return model_id.replace("/", "--") + ".json"


def without_host(name: str) -> str:
    """The repository that a hub's web address shows; any other name as it is."""
    found = _ADDRESS.match(name.strip())
    return found[1] if found else name


def key_of(name: str) -> str:
    """A name as it is compared: case, blanks and underscores do not matter."""
    return re.sub(r"[\s_]+", "-", name.strip().lower())


class _Names(NamedTuple):
    full: dict[str, str]  # key of an id -> id
    bare: dict[str, str]  # the same without the owner
    aliases: dict[str, str | dict[str, Any]]  # key of another name -> id or an entry
    published: dict[str, str]  # key of another name without its owner -> that repository
    suffixes: tuple[tuple[re.Pattern[str], str], ...]  # rule: ending of a name -> weight format
    owners: dict[str, dict[str, str]]  # who uploads checkpoints of others -> formats of their own endings
    prefixes: tuple[str, ...]  # every owner, as file names carry it in front


@lru_cache(maxsize=1)
def _names() -> _Names:
    table = read_json(data_dir() / "model_aliases.json")
    checkpoints = read_json(data_dir() / "models" / "checkpoints.json")
    full = {key_of(model_id): model_id for model_id in model_ids()}
    bare = {key.rpartition("/")[2]: model_id for key, model_id in full.items()}
    aliases = {key_of(name): entry for name, entry in (checkpoints | table["aliases"]).items()}
    published: dict[str, str] = {}
    for name in filter(_is_repository, checkpoints | table["aliases"]):
        published.setdefault(key_of(name).rpartition("/")[2], name)
    for name in list(aliases):
        aliases.setdefault(name.rpartition("/")[2], aliases[name])
    suffixes = tuple((re.compile(f"[-.:](?:{pattern})$"), weight) for pattern, weight in table["suffixes"])
    owners = {key_of(owner): {key_of(k): v for k, v in formats.items()} for owner, formats in table["owners"].items()}
    prefixes = tuple(sorted({f"{key.partition('/')[0]}-" for key in full} | {f"{owner}-" for owner in owners}))
    return _Names(full, bare, aliases, published, suffixes, owners, prefixes)


@lru_cache(maxsize=512)
def _bundled(model_id: str) -> ModelSpec:
    return ModelSpec.model_validate(read_json(data_dir() / "models" / file_name(model_id)))


def _known(key: str) -> Resolved | None:
    """The architecture or alias with this key, with or without the owner."""
    names = _names()
    owner, _, bare = key.rpartition("/")
    keys = [key] if owner and owner not in names.owners else [key, bare, *_joined(bare, names)]
    for candidate in keys:
        found = names.full.get(candidate) or (names.bare.get(candidate) if "/" not in candidate else None)
        if found is not None:
            return Resolved(_bundled(found), None, found)
        alias = names.aliases.get(candidate)
        if alias is not None:
            return _aliased(alias)
    return None


def _joined(bare: str, names: _Names) -> list[str]:
    """The names that remain when an owner stands before with a blank or underscore (bartowski's Qwen_Qwen3-8B)."""
    return [bare[len(prefix) :] for prefix in names.prefixes if bare.startswith(prefix)]


def _aliased(alias: str | dict[str, Any]) -> Resolved:
    if isinstance(alias, str):
        return Resolved(_bundled(alias), None, alias)
    spec, weight_format = _bundled(alias["model"]), alias.get("weight_format")
    if "quantization" in alias:
        own = Quantization.model_validate(alias["quantization"])
        return Resolved(spec.model_copy(update={"quantization": own}), own.weight_format, alias["model"])
    return Resolved(_in_format(spec, weight_format), weight_format, alias["model"])


def _in_format(spec: ModelSpec, weight_format: str | None) -> ModelSpec:
    """The architecture without the exclusions of a checkpoint in another format."""
    own = spec.quantization
    if weight_format is None or own is None or own.weight_format == weight_format:
        return spec
    return spec.model_copy(update={"quantization": None})


def _by_suffix(key: str) -> Resolved | None:
    """The rule for quantized checkpoints: a known name, then an ending that states the weight format.

    An owner may mean something of its own by an ending: Qwen's -FP8 is FP8 in blocks, mlx-community's -4bit MLX.
    """
    names = _names()
    for pattern, weight_format in names.suffixes:
        ending = pattern.search(key)
        base = _known(key[: ending.start()]) if ending else None
        if ending and base:
            owner = key.rpartition("/")[0] or key_of(base.checkpoint).partition("/")[0]
            weight = names.owners.get(owner, {}).get(ending[0][1:], weight_format)
            if not weight:
                continue
            if weight == _GGUF:
                weight = f"gguf-{ending[1].replace('-', '_')}"
            return Resolved(_in_format(base.model, weight), weight, base.checkpoint)
    return None


def _from_path(path: Path) -> Resolved:
    """A checkpoint whose headers can be read, a config.json with the hf_quant_config.json beside it, or a spec of
    ours (`planner import-model --out`)."""
    from planner.catalog.headers import imported  # here, so that a start of the program does not wait for it

    found = imported.read_path(path)
    if found is not None:
        return _stored(found.model, str(path))
    file = path / "config.json" if path.is_dir() else path
    data = read_bytes(file, MAX_BYTES)
    if _is_spec(data):
        return _stored(_spec(data, str(file)), str(path))
    from planner.catalog.hf import model_from_config

    quantized = file.with_name("hf_quant_config.json")
    beside = read_json(quantized) if file.name == "config.json" and quantized.is_file() else None
    name = file.resolve().parent.name if file.name == "config.json" else file.stem
    return Resolved(model_from_config(data, name or "model", str(file), beside), None, str(path))


def _stored(spec: ModelSpec, checkpoint: str) -> Resolved:
    return Resolved(spec, spec.exact.weight_format if spec.exact else None, checkpoint)


def _is_spec(data: bytes) -> bool:
    """Whether a JSON document is a model spec of ours: no config.json lists mixers and ffns."""
    return b'"mixers"' in data and b'"ffns"' in data


def _spec(data: bytes, where: str) -> ModelSpec:
    try:
        return ModelSpec.model_validate(parse_json(data, where))
    except ValidationError as error:
        raise BadFile(f"{where}: not a model spec: {first_fault(error)}") from None


def from_upload(name: str, data: bytes, config: bytes | None = None) -> ModelSpec:
    """An uploaded file by what it holds: a config.json, a model spec of ours, or the header of a GGUF or safetensors
    file (its first bytes, as long as the header is whole).

    A safetensors header states sizes, not the architecture: that comes from `config`, else from the bundled model
    whose tensors it holds. Raises BadFile or BadValue, one line that names the field.
    """
    from planner.catalog.headers import gguf, imported, safetensors

    if data[: len(gguf.MAGIC)] == gguf.MAGIC:
        return imported.import_gguf([gguf.read_gguf(data, name)], name).model
    if data[:1] == b"{" or data.lstrip()[:1] == b"{" or data[:3] == b"\xef\xbb\xbf":
        return _spec(data, name) if _is_spec(data) else from_bytes(data, name)
    if data.lstrip()[:1] == b"[" and data[8:9] != b"{":  # the latter: a header whose length begins with this byte
        raise BadFile(f"{name}: a list, where a config.json is an object: {{ ... }}")
    header = safetensors.read_safetensors(data, name)
    if config is not None:
        return imported.import_safetensors(config, [header], name).model
    return imported.import_known(header, (_bundled(model_id) for model_id in model_ids()), name).model


def resolve(name: str) -> Resolved:
    """The model that a name or a path stands for, and the weight format that the name states.

    Case, blanks and underscores do not matter. In this order: a bundled id or alias; the path of a
    config.json, of a checkpoint's folder or file, or of a model spec; a known name with an ending such as
    -AWQ, -FP8-dynamic or .Q4_K_M.
    Raises UnknownName with the nearest id, BadFile and BadValue for what a path holds.
    """
    name = without_host(name)
    key = key_of(name)
    found = _known(key)
    if found is None and _is_path(name):
        return _from_path(Path(name))
    found = found or _by_suffix(key)
    if found is None:
        raise UnknownName("model", name, model_ids(), f"planner models lists all; {_PATHS}")
    own = key_of(found.checkpoint).rpartition("/")[2]
    published = "" if key in own else _names().published.get(key, "")
    return found._replace(checkpoint=name.strip() if _is_repository(name) else published or found.checkpoint)


_PATHS = "the path of a config.json, a checkpoint folder or a .gguf file works too"


def known(name: str, on_disk: bool) -> Resolved | None:
    """What a name or, `on_disk`, a path stands for; None where it is not known."""
    with contextlib.suppress(PlannerError):
        if on_disk or not _is_path(name):
            return resolve(name)
    return None


def read(path: Path) -> ModelSpec:
    """What a path holds: see `resolve`."""
    return _from_path(path).model


def _is_repository(name: str) -> bool:
    return "/" in name


def _is_path(name: str) -> bool:
    """Whether a name is the path of something that holds a model."""
    try:
        path = Path(name)
        return (
            path.is_file()
            or (path / "config.json").is_file()
            or any(path.glob("*.gguf"))
            or any(path.glob("*.safetensors"))
        )
    except (OSError, ValueError):
        return False


def model(name: str) -> ModelSpec:
    """The architecture that a name or a path stands for: see `resolve`."""
    return resolve(name).model


def from_bytes(config: bytes | Mapping[str, Any], name: str) -> ModelSpec:
    """An uploaded config.json. Raises as `model_from_config` does, with `name` in front of the fault."""
    from planner.catalog.hf import model_from_config

    return model_from_config(config, name, name)
