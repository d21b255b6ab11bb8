"""Engines: constants from `planner/data/engines/*.yaml`, resolved for one version.

A file's top level holds the oldest version covered; each entry of `versions` overrides constants from its
`from` on. Keys carry GiB, MiB and ms; the EngineSpec holds bytes and seconds.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, NamedTuple

from pydantic import ValidationError

from planner.catalog.files import read_yaml
from planner.catalog.paths import data_dir
from planner.errors import BadFile, UnknownName, first_fault
from planner.specs.engine import Constant, EngineSpec, Tier
from planner.specs.gpu import GpuSpec
from planner.units import GIB

SERVERS = ("vllm", "sglang", "tensorrt-llm")  # that batch many users' requests
_SCALES = {"_gib": ("_bytes", float(GIB)), "_mib": ("_bytes", 2.0**20), "_ms": ("_s", 1e-3)}
_NAMES = ("id", "name", "version", "note", "kernels")
SECTIONS = tuple(name for name in EngineSpec.model_fields if name not in _NAMES)
_HEADINGS = frozenset("id name aliases oldest newest tags backends backend_constants versions from".split())
_SOURCE_KEYS = ("source", "kind")
_BACKENDS = re.compile(r"cuda|rocm|sycl|metal|mtl|vulkan", re.IGNORECASE)

Version = tuple[int, ...]


class SourcedConstant(NamedTuple):
    """One constant of an engine file, as written there."""

    name: str  # section.key, in the file's unit
    constant: Constant


@lru_cache(maxsize=1)
def engine_ids() -> tuple[str, ...]:
    """Ids of the known engines: the names of their files."""
    return tuple(sorted(path.stem for path in (data_dir() / "engines").glob("*.yaml")))


@lru_cache(maxsize=32)
def _document(id_: str) -> dict[str, Any]:
    return with_known_sections(id_, dict(read_yaml(data_dir() / "engines" / f"{id_}.yaml")))


def with_known_sections(id_: str, document: dict[str, Any]) -> dict[str, Any]:
    """The file of an engine as it is. Raises BadFile for a section that EngineSpec does not have."""
    whole = [document, *document.get("backend_constants", {}).values()]
    for part in (*whole, *(override for one in whole for override in one.get("versions", ()))):
        for unknown in part.keys() - _HEADINGS - set(SECTIONS):
            raise BadFile(f"engine {id_}: no section {unknown!r}; known are {', '.join(SECTIONS)}")
    return document


@lru_cache(maxsize=1)
def _names() -> dict[str, str]:
    return {name: id_ for id_ in engine_ids() for name in (id_, *_document(id_).get("aliases", ()))}


def engine_id(name: str) -> str:
    """The id behind an id or alias, any case. Raises UnknownName."""
    wanted = name.strip().lower()
    if wanted in engine_ids():  # without reading the files of all for their aliases
        return wanted
    id_ = _names().get(wanted)
    if id_ is None:
        raise UnknownName("engine", name, _names(), "planner engines lists all")
    return id_


def parse_version(text: str) -> Version | None:
    """The numbers at the head of a version: v0.10.1.1, 0.26.1rc1.dev156+g0eec, b4000; None: not a version."""
    match = re.match(r"\s*[vb]?(\d{1,6}(?:\.\d{1,6}){0,3})(?![\d])", text.lower())
    return tuple(int(part) for part in match[1].split(".")) if match else None


def _resolve(document: dict[str, Any], version: str | None) -> tuple[str, str]:
    """(version, note): what was asked for, or the newest known where that says nothing."""
    newest = str(document["newest"])
    text = (version or "").strip()
    if not text:
        return newest, ""
    wanted = parse_version(text)
    for tag, known in document.get("tags", {}).items():
        if text.startswith(tag):
            return str(known), f"version {text[:40]!r} is taken as {known}"
    if wanted is None:
        return newest, f"version {text[:40]!r} cannot be parsed; taken as {newest}, the newest known"
    last = parse_version(newest) or ()
    if wanted[: len(last)] > last:
        return text, f"version {text[:40]} is newer than {newest}, the newest known; its constants are used"
    if wanted < (parse_version(str(document.get("oldest", "0"))) or ()):
        return text, f"version {text[:40]} is older than {document['oldest']}, the oldest known; its constants are used"
    return text, ""


def _merged(document: dict[str, Any], version: str, backend: str = "") -> dict[str, Any]:
    """The file's sections with every override up to `version` applied, then those of a back-end."""
    merged: dict[str, Any] = {section: dict(document.get(section, {})) for section in SECTIONS}
    own = document.get("backend_constants", {}).get(backend, {})
    for override in (*_until(version, document), own, *_until(version, own)):
        for section in merged.keys() & override.keys():
            merged[section].update(_joined(merged[section], override[section]))
    return merged


def _joined(before: dict[str, Any], override: dict[str, Any]) -> dict[str, Any]:
    """What an override sets; of a group of constants those that it does not name stay."""
    groups = {key: group for key, group in before.items() if isinstance(group, dict) and "value" not in group}
    return {key: groups[key] | value if key in groups else value for key, value in override.items()}


def _until(version: str, document: dict[str, Any]) -> list[dict[str, Any]]:
    """The overrides of every version up to this one, oldest first."""
    wanted = parse_version(version) or ()
    return [one for one in document.get("versions", ()) if (parse_version(one["from"]) or ()) <= wanted]


def _si(key: str, value: Any) -> tuple[str, Any]:
    """Field name and SI value of a key that carries its unit."""
    for suffix, (unit, factor) in _SCALES.items():
        if key.endswith(suffix):
            return key.removesuffix(suffix) + unit, value * factor
    return key, value


def _plain(node: Any) -> Any:
    """Constants replaced by their values in SI units, sources dropped."""
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, dict):
        return node
    if "value" in node:
        return Constant.model_validate(node).value
    return dict(_si(key, _plain(value)) for key, value in node.items() if key not in _SOURCE_KEYS)


def backends(name: str, vendor: str) -> tuple[str, ...]:
    """What the engine can be built for on GPUs of a vendor, its usual one first; () for an engine without a choice."""
    return tuple(_document(engine_id(name)).get("backends", {}).get(vendor, ()))


def usual_backend(name: str, vendor: str) -> str | None:
    """The first of `backends`; None where there is no choice."""
    return next(iter(backends(name, vendor)), None)


def backend_named(text: str) -> str | None:
    """The back-end that llama.cpp's own words name first: `Metal,BLAS` or `Vulkan0`; None: none that is known."""
    found = _BACKENDS.search(text)
    return "metal" if found and found[0].lower() == "mtl" else found[0].lower() if found else None


def kernels(name: str, backend: str | None) -> str:
    """Whose figures price the engine's kernels: its own, or those of a back-end that has constants of its own."""
    id_ = engine_id(name)
    return f"{id_}/{backend}" if backend in _document(id_).get("backend_constants", {}) else id_


def engine(name: str, version: str | None = None, backend: str | None = None) -> EngineSpec:
    """The engine with its constants at `version` (None: the newest known), built for `backend` (None: the usual).

    A version that cannot be parsed resolves to the newest known, and `note` says so. Raises UnknownName for
    an engine that no file describes, BadFile for a file that does not hold what it should.
    """
    return _engine(kernels(name, backend), version)


@lru_cache(maxsize=256)
def _engine(built: str, version: str | None) -> EngineSpec:
    name, _, backend = built.partition("/")
    document = _document(name)
    resolved, note = _resolve(document, version)
    fields = _plain(_merged(document, resolved, backend))
    try:
        return EngineSpec(
            id=document["id"], name=document["name"], version=resolved, note=note, kernels=built, **fields
        )
    except ValidationError as error:
        raise BadFile(f"engine {document['id']}: {first_fault(error)}") from None


def known_series(name: str) -> tuple[str, ...]:
    """Minor series of the newest major version that the file covers, oldest first; () where versions are builds."""
    document = _document(engine_id(name))
    old, new = (parse_version(str(document.get(key, ""))) or () for key in ("oldest", "newest"))
    if len(old) < 2 or len(new) < 2:
        return ()
    first = old[1] if old[0] == new[0] else 0
    return tuple(f"{new[0]}.{minor}" for minor in range(first, new[1] + 1))


def engine_constants(name: str, version: str | None = None) -> tuple[SourcedConstant, ...]:
    """Every constant of the engine at `version` with its source, as its file writes it."""
    document = _document(engine_id(name))
    return tuple(_sourced("", _merged(document, _resolve(document, version)[0])))


def _sourced(prefix: str, node: Any) -> list[SourcedConstant]:
    if isinstance(node, dict) and "value" in node:
        return [SourcedConstant(prefix, Constant.model_validate(node))]
    children = node.items() if isinstance(node, dict) else []
    return [found for key, child in children for found in _sourced(f"{prefix}.{key}".lstrip("."), child)]


def default_limits(spec: EngineSpec, gpu: GpuSpec, device_bytes: float | None = None) -> Tier:
    """Default limits on this device: the highest tier that its memory reaches and its name is not kept from."""
    memory = gpu.device_bytes if device_bytes is None else device_bytes
    name = f"{gpu.id} {gpu.name}".lower()
    fitting = [
        tier
        for tier in spec.defaults.tiers
        if memory >= tier.from_bytes
        and not any(part in name for part in tier.except_names)
        and not (tier.discrete and gpu.unified_memory)
    ]
    return fitting[-1] if fitting else spec.defaults.tiers[0]
