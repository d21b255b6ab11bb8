"""Headers of safetensors files: a length, then JSON with dtype, shape and place of every tensor.

Everything is bounded before it is parsed and checked before it is believed: sizes follow from dtype and
shape, places lie in the file, do not overlap and leave no holes.
Ref: github.com/huggingface/safetensors, README "Format"
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from planner.catalog.headers.records import MAX_NAME_BYTES, MAX_TENSORS, MAX_VALUES, Header, Stored, Window, opened
from planner.catalog.hf.config import shown
from planner.errors import BadFile

MAX_HEADER_BYTES = 32 * 2**20  # 100,000 tensors take about 15 MB; the format itself allows 100 MB
MAX_DIMS = 8
BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
LENGTH = struct.Struct("<Q")
_FIELDS = {"dtype", "shape", "data_offsets"}
_COMMAS_PER_TENSOR = 16  # three fields, eight dimensions, two offsets


def read_safetensors(source: Path | bytes, where: str) -> Header:
    """The header of a safetensors file, or of its first bytes as long as they hold the whole header.

    Raises BadFile, one line that names the file and the field.
    """
    with opened(source, where, 8 + MAX_HEADER_BYTES) as window:
        length = window.unpack(LENGTH, 0, "header length")
        if not 2 <= length <= MAX_HEADER_BYTES:
            raise window.bad("header length", f"{length} bytes, outside 2..{MAX_HEADER_BYTES}; not a safetensors file?")
        window.reach(8 + length, "header")
        if window.data[8:9] != b"{":
            raise window.bad("header", "does not begin with '{'; not a safetensors file")
        return _header(window, length)


def _header(window: Window, length: int) -> Header:
    text = window.data[8 : 8 + length]
    for mark, most in ((b"{", MAX_TENSORS), (b",", MAX_TENSORS * _COMMAS_PER_TENSOR)):
        if text.count(mark) > most + 2:
            raise window.bad("header", f"more than {MAX_TENSORS} tensors")
    found = _parsed(text, window)
    metadata = _metadata(found.pop("__metadata__", None), window)
    if not found:
        raise window.bad("header", "no tensors")
    spans = [_span(name, entry, window) for name, entry in found.items()]
    end = _without_gaps(spans, window)
    held = window.size - 8 - length
    if held > end:
        raise window.bad("file size", f"{held - end} bytes beyond the last tensor")
    return Header(tuple(tensor for _, _, tensor in spans), metadata, window.where, held == end)


def _parsed(text: bytes, window: Window) -> dict[str, Any]:
    """The JSON object, every key in it once. Nesting is bounded by the interpreter's own recursion limit."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise window.bad("header", "a key stands twice")
        return found

    try:
        found: dict[str, Any] = json.loads(text.decode(), object_pairs_hook=unique)  # an object: it begins with {
    except json.JSONDecodeError as error:
        raise window.bad("header", f"not JSON (byte {8 + error.pos}: {error.msg})") from None
    except RecursionError:
        raise window.bad("header", "nested too deep to read") from None
    except ValueError:
        raise window.bad("header", "not UTF-8 text, or a number too long to read") from None
    return found


def _metadata(found: Any, window: Window) -> dict[str, str]:
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise window.bad("__metadata__", "not an object of texts")
    return {key: value for key, value in found.items() if len(key) + len(value) <= MAX_NAME_BYTES}


def _sizes(value: Any, most: int) -> bool:
    """Whether a list holds at most so many sizes."""
    return type(value) is list and len(value) <= most and all(type(n) is int and 0 <= n < MAX_VALUES for n in value)


def _span(name: str, entry: Any, window: Window) -> tuple[int, int, Stored]:
    """(begin, end, tensor) of one entry."""
    if len(name) > MAX_NAME_BYTES or not name.isprintable():
        raise _bad(window, name, f"a name of more than {MAX_NAME_BYTES} characters, or with some that cannot be shown")
    if type(entry) is not dict or entry.keys() != _FIELDS:
        raise _bad(window, name, "not an object of dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    bits = BITS.get(dtype) if type(dtype) is str else None
    if bits is None:
        raise _bad(window, name, f"dtype is {shown(dtype)}, not one of {', '.join(BITS)}")
    if not _sizes(shape, MAX_DIMS):
        raise _bad(window, name, f"shape is {_list(shape)}, not up to {MAX_DIMS} sizes")
    if not _sizes(offsets, 2) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _bad(window, name, f"data_offsets is {_list(offsets)}, not a begin and an end")
    values, size = math.prod(shape), offsets[1] - offsets[0]
    if values >= MAX_VALUES or bits * values != 8 * size:
        raise _bad(window, name, f"data_offsets span {size} bytes for shape {_list(shape)} of {dtype}")
    return offsets[0], offsets[1], Stored(name, dtype.lower(), tuple(shape), size)


def _bad(window: Window, name: str, why: str) -> BadFile:
    return window.bad(f"tensor {shown(name)}", why)


def _list(value: Any) -> str:
    """A short list in full, anything else as `shown` does."""
    short = isinstance(value, list) and len(value) <= MAX_DIMS
    return f"[{', '.join(shown(item) for item in value)}]" if short else shown(value)


def _without_gaps(spans: list[tuple[int, int, Stored]], window: Window) -> int:
    """Where the data ends; tensors must follow each other without holes."""
    at = 0
    for begin, end, tensor in sorted(spans):
        if begin != at:
            how = "overlaps the tensor before it" if begin < at else "leaves a hole before it"
            raise window.bad(f"tensor {shown(tensor.name)}", f"begins at {begin}, which {how} (ends at {at})")
        at = end
    return at


def sharded(index: Any, where: str) -> list[str]:
    """Names of the files that a model.safetensors.index.json lists, in order."""
    table = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(table, dict) or not table:
        raise BadFile(f"{where}: weight_map is missing or empty; it names the file of every tensor")
    names = sorted(set(map(str, table.values())))
    for name in names:
        if not name.endswith(".safetensors") or "/" in name or "\\" in name or len(name) > MAX_NAME_BYTES:
            raise BadFile(f"{where}: weight_map names {shown(name)}, not a .safetensors file beside it")
    return names
