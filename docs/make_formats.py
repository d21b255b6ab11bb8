"""Write docs/formats.md from the catalogue: python docs/make_formats.py [FILE]. A test checks that it is up to date."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from planner.catalog.files import read_yaml, write_atomically
from planner.catalog.formats import kv_format, kv_format_ids, parametric_formats, weight_format, weight_format_ids
from planner.catalog.models import model
from planner.catalog.paths import data_dir
from planner.formats import bits_per_weight, is_quantized, packed_bytes, tensor_bytes, weight_bytes
from planner.params import parameters, tensors
from planner.specs.formats import FormatSpec
from planner.specs.model import ModelSpec
from planner.units import GB

LADDER_MODEL = "meta-llama/Meta-Llama-3-70B-Instruct"
GGUF_MODELS = ("meta-llama/Meta-Llama-3.1-8B", "meta-llama/Meta-Llama-3.1-70B", "meta-llama/Meta-Llama-3.1-405B")
NAMED_PARAMETERS = 70e9  # what "70B" says
LADDER = (  # bits of the rule of thumb, formats that are called by them
    (32, ("fp32",)),
    (16, ("bf16", "gguf-f16")),
    (8, ("fp8", "int8-w8a8", "int8-w8a16", "gguf-q8_0")),
    (4, ("awq-int4-g128", "gptq-int4-g128", "bnb-nf4-dq", "nvfp4", "mxfp4", "gguf-q4_k_m", "mlx-4bit-g64")),
    (2, ("gptq-int2-g128", "gguf-q2_k", "gguf-iq2_xxs", "exl3-2")),
)
TILE = 4096  # side of the square matrix whose bits per weight the list shows
CODES = {"N": "native", "W": "weight-only", "E": "unpacked", "-": "no", "?": "?"}
HEAD = """# Weight and KV formats

<!-- Written by docs/make_formats.py from planner/data/formats and planner/data/support.yaml; do not edit. -->

The bytes of a model are a sum over its tensors, each in the bits that the format gives *that* tensor. Three things make
the sum differ from parameters x bits / 8: scales and zero points of the groups; tensors that stay in 16 bit (embeddings
and lm_head in most formats, norms and routers in all); and, in GGUF, other block types for other tensors.

    bytes of a matrix [n, k] = n k bits/8 + groups (scale + zero)/8 + n row/8 + k column/8 + constants
    groups = ceil(n / group_n) ceil(k / group_k)

"""
LADDER_TEXT = """## The ladder

The rule of thumb takes 70 billion parameters times the bits. What Llama-3-70B really takes, in GB (10^9 bytes), and
where the difference comes from: the parameters beyond 70 billion, tensors that stay in 16 bit, and scales (in GGUF:
types with more bits than the name says).

"""
FORMATS_TEXT = f"""## Weight formats

Bits per weight of a {TILE} x {TILE} matrix with everything that belongs to it; `resident` where the engine holds less
or more than the file. Embeddings, lm_head, norms and routers stay in 16 bit unless the note says otherwise, and so does
what a checkpoint's own configuration excludes.

"""
GGUF_TEXT = """## GGUF file types

A file type is a mix: llama-quantize gives attention values, down projections and the output more bits, in layers that
depend on the depth of the model. Bits per weight are therefore no constant. Sizes are those of the stock types;
`UD-` and other dynamic files carry a mix of their own: take `mixed-<bpw>` with the bits per weight that llama.cpp
prints.

"""
KV_TEXT = """## KV cache formats

A pair such as `q8_0/q4_0` gives keys and values their own. Blank or `auto` is 16 bit.

"""
SUPPORT_TEXT = """## Support

native: matrix units take the format's own operands. weight-only: weights stay packed, arithmetic in 16 bit. unpacked:
no memory saved while it runs. ?: no source read, and never guessed. The reasons stand in planner/data/support.yaml.

"""
LIMITS = """## What is left out

- File metadata (tokenizer, headers: about 8 MB for a vocabulary of 128,000), alignment of tensors to 32 bytes.
- Importance matrices: IQ4_XS, IQ4_NL and Q4_0 files made with one are about 1 % smaller or 0.4 % larger than here.
- llama-quantize's own rules for the first Falcon models, and its running count of down projections in IQ1 and IQ2 types
  of models with shared experts (it reaches half as many layers as here).
- MTP layers of a checkpoint: they are no part of the served model.
- MXFP4 experts are padded when they load (to 256 along the model width, 128 along the inner one: vLLM's Marlin kernel);
  Triton on Hopper pads less (gpt-oss-120b 64.4 GiB instead of 65.9), tensor parallelism more.
"""


def table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    names = list(header)
    lines = [names, ["---"] * len(names), *[[str(cell) for cell in row] for row in rows]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n"


def signed(value_bytes: float) -> str:
    return f"{value_bytes / GB:+.1f}" if abs(value_bytes) >= 0.05 * GB else "0"


def ladder_row(spec: ModelSpec, bits: int, fmt: FormatSpec) -> list[object]:
    """Rule of thumb, true size, and the difference in its three parts."""
    rule, true = NAMED_PARAMETERS * bits / 8, weight_bytes(spec, fmt)
    sizes, listed = tensor_bytes(spec, fmt), tensors(spec)
    kept = [not is_quantized(spec, tensor, fmt) and fmt.packing is not None for tensor in listed]
    counts = np.array([tensor.numel for tensor in listed])
    other = float((sizes - counts * bits / 8)[np.array(kept)].sum())
    more = (parameters(spec) - NAMED_PARAMETERS) * bits / 8
    scales = true - rule - more - other
    shown = [f"{rule / GB:.0f}", f"**{true / GB:.1f}**", f"{weight_bytes(spec, fmt, True) / GB:.1f}"]
    return [
        bits,
        f"`{fmt.id}`",
        *shown,
        signed(more),
        signed(other),
        signed(scales),
        f"{bits_per_weight(spec, fmt):.2f}",
    ]


def ladder() -> str:
    spec = model(LADDER_MODEL)
    rows = [ladder_row(spec, bits, weight_format(name)) for bits, names in LADDER for name in names]
    header = ["bits", "format", "rule of thumb", "file", "loaded", "more parameters", "kept in 16 bit",
              "scales and mix", "bits per weight"]  # fmt: skip
    return LADDER_TEXT + table(header, rows)


def tile_bits(fmt: FormatSpec) -> str:
    """Bits per weight of a square matrix, and as it is held where that differs."""
    if fmt.packing is None:
        return "32" if fmt.base_dtype == "fp32" else "16"
    side = np.array([TILE])
    shown = [f"{packed_bytes(p, side, side)[0] * 8 / TILE**2:.4g}" for p in (fmt.packing, fmt.resident) if p]
    return shown[0] if len(set(shown)) == 1 else f"{shown[0]}, resident {shown[1]}"


def formats() -> str:
    plain = [fmt for fmt in map(weight_format, weight_format_ids()) if fmt.gguf is None and fmt.family != "exl3"]
    rows = [
        [f"`{fmt.id}`", tile_bits(fmt), fmt.kernel, fmt.weight_only_kernel, ", ".join(fmt.other_names), fmt.note]
        for fmt in plain
    ]
    rows += [
        [f"`{family['id']}-<bpw>`", f"{family['min_bits']} to {family['max_bits']}", "by bits", "by bits",
         ", ".join(family["other_names"]), family["note"]]
        for family in parametric_formats()
    ]  # fmt: skip
    return FORMATS_TEXT + table(["id", "bits per weight", "kernel", "without units", "also called", "note"], rows)


def gguf() -> str:
    specs = [model(name) for name in GGUF_MODELS]

    def row(fmt: FormatSpec) -> list[object]:
        bits = [f"{bits_per_weight(spec, fmt):.4f}" for spec in specs]
        return [f"`{fmt.id}`", *bits, f"{weight_bytes(specs[1], fmt) / GB:.1f}", ", ".join(fmt.other_names), fmt.note]

    types = [fmt for fmt in map(weight_format, weight_format_ids()) if fmt.gguf is not None]
    header = ["id", "Llama-3.1-8B", "70B", "405B", "70B in GB", "also called", "note"]
    return GGUF_TEXT + table(header, map(row, types))


def kv() -> str:
    found = [kv_format(name)[0] for name in kv_format_ids()]
    rows = [[f"`{f.id}`", f.bytes_per_value, f.head_bytes or "", ", ".join(f.other_names), f.note] for f in found]
    return KV_TEXT + table(["id", "bytes per value", "per head and token", "also called", "note"], rows)


def support_row(rule: dict[str, Any]) -> list[str]:
    names = ", ".join(f"`{name}`" for name in rule.get("formats", rule.get("kv", [])))
    return [names + " (KV)" if "kv" in rule else names, *[CODES[code] for code in rule["levels"].split()]]


def support() -> str:
    data = read_yaml(data_dir() / "support.yaml")
    parts = [
        f"### {engine['name']}\n\n" + table(["format", *data["columns"]], map(support_row, engine["rules"]))
        for engine in data["engines"].values()
    ]
    return SUPPORT_TEXT + "".join(parts)


def document() -> str:
    return HEAD + ladder() + formats() + gguf() + kv() + support() + LIMITS


if __name__ == "__main__":
    write_atomically(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("formats.md"), document())
