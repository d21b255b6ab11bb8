"""The catalogue of weight and KV formats, and which engine runs which of them on which GPU."""

from __future__ import annotations

import math
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from planner.catalog.files import read_yaml
from planner.catalog.support import support
from planner.errors import BadValue, UnknownName
from planner.specs.formats import FormatSpec, GgmlType, GgufMix, KvFormatSpec, MixedPacking, MixRule, Packing
from planner.specs.gpu import MathType

__all__ = [
    "as_gguf",
    "kv_format",
    "kv_format_ids",
    "parametric_formats",
    "support",
    "weight_format",
    "weight_format_ids",
]

DATA = Path(__file__).resolve().parent.parent / "data" / "formats"
GGUF = "gguf-"
INHERITED = ("family", "roles", "head", "quantizes_vectors", "other_names", "source", "note")
PLAIN_MATH = {"f32": MathType.FP32, "f16": MathType.FP16, "bf16": MathType.BF16}
HINT = "planner formats lists all"


@lru_cache(maxsize=1)
def _weight_data() -> dict[str, Any]:
    return dict(read_yaml(DATA / "weight.yaml"))


@lru_cache(maxsize=1)
def _kv_data() -> dict[str, Any]:
    return dict(read_yaml(DATA / "kv.yaml"))


@lru_cache(maxsize=1)
def _gguf_data() -> dict[str, Any]:
    return dict(read_yaml(DATA / "gguf.yaml"))


def _from_record(record: dict[str, Any]) -> FormatSpec:
    """A FormatSpec from a record of weight.yaml, whose `roles` names a set of roles."""
    roles = _weight_data()["role_sets"][record["roles"]]
    return FormatSpec(quantized_roles=tuple(roles), **{key: value for key, value in record.items() if key != "roles"})


@lru_cache(maxsize=1)
def _mixable() -> tuple[MixedPacking, ...]:
    """Packings of the formats that one checkpoint may hold side by side."""
    records = {record["id"]: record for record in _weight_data()["formats"]}
    found = [records[name] for name in _weight_data()["mixable"]]
    return tuple(MixedPacking(id=r["id"], packing=r["packing"], resident=r.get("resident")) for r in found)


def _mixing(spec: FormatSpec) -> FormatSpec:
    """A format that checkpoints mix with others, with their packings."""
    others = tuple(other for other in _mixable() if other.id != spec.id)
    return spec.model_copy(update={"mixes": others}) if len(others) < len(_mixable()) else spec


@lru_cache(maxsize=1)
def _named() -> dict[str, FormatSpec]:
    plain = [_mixing(_from_record(record)) for record in _weight_data()["formats"]]
    return {spec.id: spec for spec in plain + [_gguf_format(name) for name in _gguf_data()["file_types"]]}


@lru_cache(maxsize=64)
def _ggml_type(name: str) -> GgmlType:
    elements, size, *fallback = _gguf_data()["types"][name]
    return GgmlType(
        id=name, elements=elements, block_bytes=size, fallback=_ggml_type(fallback[0]) if fallback else None
    )


def _rule(record: dict[str, Any]) -> MixRule:
    return MixRule(**{**record, "type": _ggml_type(record["type"])})


def _gguf_mix(record: dict[str, Any]) -> GgufMix:
    """The rules of a file type, those for models of eight experts first."""
    data = _gguf_data()
    rules = list(data["eight_experts"]) if record.get("eight", not record.get("plain_type")) else []
    rules += data["eight_experts_o"] if record.get("wide_o") else []
    return GgufMix(
        base=_ggml_type(record["base"]),
        output=_ggml_type(record.get("output", "q6_k")),
        embedding=_ggml_type(record.get("embedding", record["base"])),
        odd_output=_ggml_type(record["base"] if record.get("plain_type") else data["odd_output"]),
        plain=_ggml_type(data["plain"]),
        half=_ggml_type(data["half"]),
        rules=tuple(_rule(rule) for rule in rules + record.get("rules", [])),
    )


def _gguf_format(name: str) -> FormatSpec:
    data = _gguf_data()
    record = data["file_types"][name]
    if "as" in record:  # another type's rules, with some of its types replaced
        record = {**data["file_types"][record["as"]], "other_names": [], **record}
    plain = bool(record.get("plain_type"))
    return FormatSpec(
        id=GGUF + name,
        name=f"GGUF {name.upper()}",
        family="gguf",
        gguf=_gguf_mix(record),
        quantized_roles=() if plain else tuple(data["quantized_roles"]),
        weight_math=PLAIN_MATH.get(name, MathType.INT8),  # activations are quantized on the fly
        kernel=record["kernel"],
        weight_only_kernel=record["kernel"],
        other_names=tuple(record.get("other_names", ())),
        source=data["source"],
        note=record["note"],
    )


def _kernel_by_bits(bits: float) -> str:
    return next(str(step["kernel"]) for step in _weight_data()["kernels_by_bits"] if bits <= step["bits"])


@lru_cache(maxsize=1024)
def _parametric(family: str, text: str) -> FormatSpec:
    """exl3-<bpw> or mixed-<bpw>. Raises BadValue when the bits are no number or out of the family's range."""
    record = next(record for record in _weight_data()["parametric"] if record["id"] == family)
    bits = float(text) if re.fullmatch(r"\d{1,2}(?:\.\d{1,6})?", text) else math.nan
    low, high = record["min_bits"], record["max_bits"]
    if not low <= bits <= high:
        raise BadValue(f"weight format '{family}-{text[:20]}': bits per weight are {low} to {high}, as {family}-4.5")
    kernel = _kernel_by_bits(bits)
    return _from_record(
        {
            "id": f"{family}-{bits:g}",
            "name": record["name"].format(bits=f"{bits:g}"),
            "packing": Packing(bits=bits, **record["packing"]),
            "kernel": kernel,
            "weight_only_kernel": kernel,
            **{key: record[key] for key in INHERITED if key in record},
        }
    )


_LABEL = re.compile(r"(?:(gguf|ud|unsloth|mostly)[ _-])*(?P<type>i?q\d.*|tq\d.*|b?f16|f32|mxfp4 moe)")
_SPOKEN = ((re.compile(r" ?- [\d.]+ bpw.*"), ""), (re.compile(r" - (small|medium|large|xl)$"), r"_\1"))


def _gguf_id(key: str) -> str:
    """The id behind a GGUF label: Q4_K_M, `GGUF Q4_K - Medium`, `IQ4_XS - 4.25 bpw` as llama.cpp prints, UD-Q4_K_XL."""
    label = _LABEL.fullmatch(key)
    if label is None or (label["type"] in PLAIN_MATH and label[1] is None):
        return ""  # F16 alone may be a checkpoint's type as well
    text = label["type"]
    for pattern, short in _SPOKEN:
        text = pattern.sub(short, text)
    text = re.sub(r"_(small|medium|large)$", lambda word: f"_{word[1][0]}", text.replace(" ", "_").replace("-", "_"))
    return GGUF + {"q2_k_m": "q2_k", "q4_k": "q4_k_m", "q5_k": "q5_k_m", "q3_k": "q3_k_m"}.get(text, text)


@lru_cache(maxsize=1024)
def weight_format(name: str) -> FormatSpec:
    """The weight format of that id or of a label with one meaning, in any case.

    Raises UnknownName with the nearest id, or BadValue.
    """
    key = name.strip().lower()
    family, _, bits = key.partition("-")
    if family in ("exl3", "mixed") and bits:
        return _parametric(family, bits)
    meant = _weight_data()["synonyms"].get(re.sub(r"[\s_]+", "-", key))
    found = _named().get(key) or _named().get(meant or _gguf_id(key))
    if found is None:
        raise UnknownName("weight format", name, weight_format_ids(), _hint(key))
    return found


def as_gguf(fmt: FormatSpec) -> FormatSpec:
    """The GGUF type that a checkpoint in this format is converted to as it stands; itself where there is none."""
    return _named().get(_gguf_data()["converted"].get(fmt.id, ""), fmt)


def _hint(key: str) -> str:
    """Ids whose own words contain the name: `awq`, `smoothquant` or `q4_k_m` are not ids, and mean one."""
    words = {spec.id: " ".join((spec.id, spec.name, *spec.other_names)).lower() for spec in _named().values()}
    words |= {f"{family['id']}-<bpw>": " ".join(family["other_names"]).lower() for family in parametric_formats()}
    meant = [format_id for format_id, text in words.items() if len(key) > 2 and key in text]
    return f"perhaps {', '.join(meant[:4])}; {HINT}" if meant else HINT


def weight_format_ids() -> tuple[str, ...]:
    """Ids of all weight formats, of exl3 the usual sizes; mixed-<bpw> takes any."""
    usual = [f"{record['id']}-{bits:g}" for record in _weight_data()["parametric"] for bits in record["usual"]]
    return tuple(_named()) + tuple(usual)


def parametric_formats() -> list[dict[str, Any]]:
    """Families whose ids name their bits per weight: id, range (min_bits, max_bits), other_names, note, source."""
    return list(_weight_data()["parametric"])


@lru_cache(maxsize=1)
def _kv_named() -> dict[str, KvFormatSpec]:
    return {record["id"]: KvFormatSpec(**record) for record in _kv_data()["formats"]}


def _one_kv_format(name: str) -> KvFormatSpec:
    data = _kv_data()
    key = name.strip().lower()
    key = data["auto"] if key in ("", "auto") else data["synonyms"].get(key, key)
    found = _kv_named().get(key)
    if found is None:
        raise UnknownName("KV format", name, kv_format_ids(), HINT)
    return found


@lru_cache(maxsize=1024)
def kv_format(name: str) -> tuple[KvFormatSpec, KvFormatSpec]:
    """Formats of K and V: one id for both, a pair `q8_0/q4_0`, blank or `auto` for 16 bit. Raises UnknownName."""
    first, slash, second = name.partition("/")
    k = _one_kv_format(first)
    return (k, _one_kv_format(second)) if slash else (k, k)


def kv_format_ids() -> tuple[str, ...]:
    """Ids of all KV formats; any two make a pair K/V."""
    return tuple(_kv_named())
