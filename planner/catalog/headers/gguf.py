"""Headers of GGUF files, version 2 and 3: metadata, then name, shape, block type and place of every tensor.

A scanner that checks a cap before every read and keeps no array that nobody needs: of a tokenizer it takes
the number of entries. Ref: ggml-org/ggml docs/gguf.md; block sizes as gguf-py's GGML_QUANT_SIZES
"""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path
from typing import NamedTuple

from planner.catalog.headers.records import (
    MAX_NAME_BYTES,
    MAX_TENSORS,
    MAX_VALUES,
    Header,
    Stored,
    Value,
    Window,
    opened,
)
from planner.catalog.hf.config import MAX_LAYERS, shown
from planner.errors import BadFile

MAX_HEADER_BYTES = 64 * 2**20
MAX_KEYS = 4096
MAX_DIMS = 4
MAX_STRINGS = 2**21  # in all arrays together: a vocabulary of 2^20 with its merges
MAX_KEPT = 2 * MAX_LAYERS  # entries of an array that is kept: one for each layer
MAX_TEXT_BYTES = 4096  # longer texts (chat templates) are passed over
MAX_ALIGNMENT = 2**20
MAX_SPLITS = 1000
ALIGNMENT = 32
MAGIC = b"GGUF"


class Block(NamedTuple):
    """A block type of ggml: `values` of one row in `size` bytes."""

    name: str
    values: int
    size: int


TYPES = {
    0: Block("f32", 1, 4),
    1: Block("f16", 1, 2),
    2: Block("q4_0", 32, 18),
    3: Block("q4_1", 32, 20),
    6: Block("q5_0", 32, 22),
    7: Block("q5_1", 32, 24),
    8: Block("q8_0", 32, 34),
    9: Block("q8_1", 32, 40),
    10: Block("q2_k", 256, 84),
    11: Block("q3_k", 256, 110),
    12: Block("q4_k", 256, 144),
    13: Block("q5_k", 256, 176),
    14: Block("q6_k", 256, 210),
    15: Block("q8_k", 256, 292),
    16: Block("iq2_xxs", 256, 66),
    17: Block("iq2_xs", 256, 74),
    18: Block("iq3_xxs", 256, 98),
    19: Block("iq1_s", 256, 50),
    20: Block("iq4_nl", 32, 18),
    21: Block("iq3_s", 256, 110),
    22: Block("iq2_s", 256, 82),
    23: Block("iq4_xs", 256, 136),
    24: Block("i8", 1, 1),
    25: Block("i16", 1, 2),
    26: Block("i32", 1, 4),
    27: Block("i64", 1, 8),
    28: Block("f64", 1, 8),
    29: Block("iq1_m", 256, 56),
    30: Block("bf16", 1, 2),
    34: Block("tq1_0", 256, 54),
    35: Block("tq2_0", 256, 66),
    39: Block("mxfp4", 32, 17),
    40: Block("nvfp4", 64, 36),
    41: Block("q1_0", 128, 18),
    42: Block("q2_0", 64, 18),
}

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {i: struct.Struct(f"<{letter}") for i, letter in enumerate("BbHhIif?")} | {
    10: _U64,
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_SPLIT = re.compile(r"^(.*)-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)


class _Cursor:
    """Reads one field after the other."""

    def __init__(self, window: Window) -> None:
        self.window, self.at, self.strings = window, 0, 0

    def number(self, layout: struct.Struct, field: str) -> int | float | bool:
        self.window.reach(self.at + layout.size, field)
        value: int | float | bool = layout.unpack_from(self.window.data, self.at)[0]
        self.at += layout.size
        return value

    def count(self, field: str, top: int, wide: bool = True) -> int:
        value = int(self.number(_U64 if wide else _U32, field))
        if value > top:
            raise self.window.bad(field, f"{value}, more than {top}")
        return value

    def text(self, field: str, top: int = MAX_NAME_BYTES) -> str:
        length = self.count(f"{field}: length", top)
        value = self.window.text(self.at, length, field)
        self.at += length
        return value

    def skip(self, size: int, field: str) -> None:
        self.window.reach(self.at + size, field)
        self.at += size

    def skip_texts(self, count: int, field: str) -> None:
        """Pass over an array of texts without keeping any."""
        self.strings += count
        if self.strings > MAX_STRINGS:
            raise self.window.bad(field, f"an array of {count} texts; {MAX_STRINGS} are read in all")
        window, at = self.window, self.at
        for _ in range(count):
            window.reach(at + 8, field)
            length = _U64.unpack_from(window.data, at)[0]
            at += 8 + length
            if at > window.top or at > window.size:
                window.reach(at, field)
        self.at = at
        window.reach(at, field)


def read_gguf(source: Path | bytes, where: str) -> Header:
    """The header of one GGUF file, or of its first bytes as long as they hold the whole header.

    An array in `metadata` that is not kept stands there as its number of entries. Raises BadFile, one line that
    names the file and the field.
    """
    with opened(source, where, MAX_HEADER_BYTES) as window:
        window.reach(min(4, window.size), "magic")
        if window.data[:4] != MAGIC:
            raise window.bad("magic", f"{window.data[:4]!r}, not {MAGIC!r}: not a GGUF file")
        cursor = _Cursor(window)
        cursor.at = 4
        version = int(cursor.number(_U32, "version"))
        if version not in (2, 3):
            swapped = "; a big-endian file" if version in (2 << 24, 3 << 24) else ""
            raise window.bad("version", f"{version}, only 2 and 3 are read{swapped}")
        n_tensors = cursor.count("tensor_count", MAX_TENSORS)
        n_keys = cursor.count("metadata_kv_count", MAX_KEYS)
        metadata: dict[str, Value] = {}
        for index in range(n_keys):
            key = cursor.text(f"metadata key {index}")
            if key in metadata:
                raise window.bad(f"metadata key {shown(key)}", "stands twice")
            metadata[key] = _value(cursor, shown(key))
        return _header(cursor, n_tensors, metadata)


def _value(cursor: _Cursor, field: str) -> Value:
    kind = int(cursor.number(_U32, f"{field}: type"))
    if kind == _STRING:
        length = cursor.count(f"{field}: length", MAX_HEADER_BYTES)
        if length > MAX_TEXT_BYTES:
            cursor.skip(length, field)
            return ""
        cursor.at -= 8
        return cursor.text(field, MAX_TEXT_BYTES)
    if kind == _ARRAY:
        return _array(cursor, field)
    if kind not in _SCALARS:
        raise cursor.window.bad(f"{field}: type", f"{kind}, not a type of GGUF")
    return cursor.number(_SCALARS[kind], field)


def _array(cursor: _Cursor, field: str) -> Value:
    """A short array of numbers; of any other its number of entries."""
    kind = int(cursor.number(_U32, f"{field}: element type"))
    count = cursor.count(f"{field}: count", MAX_HEADER_BYTES)
    if kind == _STRING:
        cursor.skip_texts(count, field)
        return count
    if kind not in _SCALARS:
        raise cursor.window.bad(f"{field}: element type", f"{kind}, not a number or a text")
    layout = _SCALARS[kind]
    if count > MAX_KEPT or field.startswith("'tokenizer."):
        cursor.skip(count * layout.size, field)
        return count
    return tuple(cursor.number(layout, field) for _ in range(count))


def _header(cursor: _Cursor, n_tensors: int, metadata: dict[str, Value]) -> Header:
    window = cursor.window
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if not isinstance(alignment, int) or not 1 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise window.bad("general.alignment", f"{shown(alignment)}, not a power of two up to {MAX_ALIGNMENT}")
    spans = [_tensor(cursor, index, alignment) for index in range(n_tensors)]
    names = {tensor.name for _, tensor in spans}
    if len(names) != len(spans):
        raise window.bad("tensors", "a name stands twice")
    start = -(-cursor.at // alignment) * alignment
    end = _without_overlap(spans, window)
    return Header(tuple(tensor for _, tensor in spans), metadata, window.where, start + end <= window.size)


def _tensor(cursor: _Cursor, index: int, alignment: int) -> tuple[int, Stored]:
    """(offset, tensor) of one entry."""
    window, name = cursor.window, cursor.text(f"tensor {index}: name")
    field = f"tensor {shown(name)}"
    if not name.isprintable():
        raise window.bad(field, "a name with characters that cannot be shown")
    n_dims = cursor.count(f"{field}: n_dims", MAX_DIMS, wide=False)
    dims = [cursor.count(f"{field}: dimensions", MAX_VALUES) for _ in range(n_dims)]
    kind = int(cursor.number(_U32, f"{field}: type"))
    if kind not in TYPES:
        raise window.bad(f"{field}: type", f"{kind}, not a block type of ggml that is known here")
    block, row, values = TYPES[kind], dims[0] if dims else 1, math.prod(dims)
    if values >= MAX_VALUES:
        raise window.bad(f"{field}: dimensions", f"{values} values, more than {MAX_VALUES}")
    if row % block.values:
        raise window.bad(f"{field}: dimensions", f"rows of {row} are no multiple of {block.name}'s {block.values}")
    offset = int(cursor.number(_U64, f"{field}: offset"))
    if offset % alignment or offset > MAX_VALUES * 8:
        raise window.bad(f"{field}: offset", f"{offset}, not a multiple of {alignment} within the file")
    return offset, Stored(name, block.name, tuple(reversed(dims)), values // block.values * block.size)


def _without_overlap(spans: list[tuple[int, Stored]], window: Window) -> int:
    """Where the data ends, counted from its start."""
    at = 0
    for offset, tensor in sorted(spans, key=lambda span: (span[0], span[1].stored_bytes)):
        if offset < at:
            raise window.bad(f"tensor {shown(tensor.name)}: offset", f"{offset} overlaps the tensor before it")
        at = offset + tensor.stored_bytes
    return at


def split_names(name: str) -> list[str]:
    """Names of all parts of a split file, itself alone where it is none."""
    found = _SPLIT.match(name)
    if not found:
        return [name]
    count = int(found[3])
    if not 1 <= count <= MAX_SPLITS or not 1 <= int(found[2]) <= count:
        raise BadFile(f"{name}: part {int(found[2])} of {count}; up to {MAX_SPLITS} parts are read")
    return [f"{found[1]}-{part:05d}-of-{count:05d}.gguf" for part in range(1, count + 1)]
