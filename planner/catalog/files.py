"""Reading and writing files from outside: bounded before they are parsed, whole or not at all.

JSON and YAML are read into plain dicts, lists, strings, numbers and booleans. Refused with one line:
files beyond `max_bytes`, nesting beyond MAX_DEPTH, duplicate keys, NaN and infinities, YAML aliases and
tags, archives. YAML scalars follow the JSON rules (1e12 is a float, `no` and 1:30 are strings).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from planner.errors import BadFile

MAX_BYTES = 4 * 2**20
MAX_DEPTH = 40
_ARCHIVES = (b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"\x28\xb5\x2f\xfd")


def read_bytes(path: str | Path, max_bytes: int = MAX_BYTES) -> bytes:
    """The file's bytes. Raises BadFile when it is missing, not a plain file or larger than `max_bytes`."""
    data = first_bytes(path, max_bytes + 1)
    if len(data) > max_bytes:
        raise BadFile(f"{path}: {Path(path).stat().st_size} bytes, more than the {max_bytes} that are read")
    return data


def first_bytes(path: str | Path, most: int) -> bytes:
    """The file's first bytes, at most so many. Raises BadFile when it is missing or not a plain file."""
    path = Path(path)
    try:
        if not path.is_file():
            raise BadFile(f"{path}: {'not a plain file' if path.exists() else 'no such file'}")
        with path.open("rb") as file:
            return file.read(most)
    except (OSError, ValueError) as error:
        raise BadFile(f"{str(path)[:200]}: cannot be read ({type(error).__name__})") from None


def decoded(data: bytes, where: str, max_bytes: int = MAX_BYTES) -> str:
    """UTF-8 text. Raises BadFile for other bytes, for archives and beyond `max_bytes`."""
    if len(data) > max_bytes:
        raise BadFile(f"{where}: {len(data)} bytes, more than the {max_bytes} that are read")
    if data.startswith(_ARCHIVES):
        raise BadFile(f"{where}: an archive, not text; unpack it first")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadFile(f"{where}: not UTF-8 text (byte {error.start})") from None


def _pairs(where: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise BadFile(f"{where}: the key {twice[:80]!r} stands twice")
        return found

    return unique


def _refuse_constant(where: str) -> Any:
    def refuse(text: str) -> float:
        raise BadFile(f"{where}: {text} is not a number that can be used")

    return refuse


def _finite(where: str) -> Any:
    def parse(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            raise BadFile(f"{where}: {text[:40]} is out of range")
        return value

    return parse


# A string that never closes is one token up to the end: matching it again from each quote inside would be quadratic.
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)


def _depth(text: str) -> int:
    """Deepest nesting of brackets outside strings, counted without recursion."""
    deepest = depth = 0
    for token in _TOKEN.finditer(text):
        if token[0] in "[{":
            depth += 1
            deepest = max(deepest, depth)
            if depth > MAX_DEPTH:
                return depth
        elif token[0] in "]}":
            depth -= 1
    return deepest


def parse_json(data: bytes, where: str = "JSON", max_bytes: int = MAX_BYTES, infinite: bool = False) -> Any:
    """Bounded, strict JSON. Raises BadFile with the line and column of the fault.

    `infinite`: NaN and infinities are None instead of a fault, for files of tools that write them.
    """
    text = decoded(data, where, max_bytes)
    if _depth(text) > MAX_DEPTH:
        raise BadFile(f"{where}: nested deeper than {MAX_DEPTH} levels")
    try:
        return json.loads(
            text,
            object_pairs_hook=_pairs(where),
            parse_constant=(lambda _: None) if infinite else _refuse_constant(where),
            parse_float=_finite(where),
        )
    except json.JSONDecodeError as error:
        raise BadFile(f"{where}: not JSON (line {error.lineno}, column {error.colno}: {error.msg})") from None
    except (RecursionError, ValueError):
        raise BadFile(f"{where}: a number too long or nesting too deep to read") from None


class _Loader(yaml.CSafeLoader):
    """YAML 1.2 scalars, no duplicate keys, no infinities."""

    where = "YAML"

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [str(key.value) for key, _ in node.value]
        if len(set(keys)) != len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise BadFile(f"{self.where}: the key {twice[:80]!r} stands twice")
        return super().construct_mapping(node, deep)

    def construct_finite(self, node: Any) -> float:
        return float(_finite(self.where)(node.value))


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("tag:yaml.org,2002:bool", r"^(?:true|false|True|False)$", "tfTF"),
    ("tag:yaml.org,2002:null", r"^(?:null|~|)$", ["n", "~", ""]),
    ("tag:yaml.org,2002:int", r"^[-+]?\d{1,18}$", "-+0123456789"),
    ("tag:yaml.org,2002:float", r"^[-+]?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d{1,3})?$", "-+0123456789."),
):
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), list(_first))
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_finite)


def _check_events(text: str, where: str) -> None:
    """Walk the flat event stream, so that nothing is built from a file that must be refused."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise BadFile(f"{where}: YAML aliases are not read; write the value out")
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise BadFile(f"{where}: YAML tags are not read ({str(tag)[:60]})")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise BadFile(f"{where}: nested deeper than {MAX_DEPTH} levels")


def parse_yaml(data: bytes, where: str = "YAML", max_bytes: int = 2**20) -> Any:
    """Bounded, strict YAML. Raises BadFile with the line of the fault."""
    text = decoded(data, where, max_bytes)
    try:
        _check_events(text, where)
        loader = type("Loader", (_Loader,), {"where": where})(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark else ""
        raise BadFile(f"{where}: not YAML{line}") from None
    except (RecursionError, ValueError, OverflowError):
        raise BadFile(f"{where}: a value too long or nesting too deep to read") from None


def read_json(path: str | Path, max_bytes: int = MAX_BYTES) -> Any:
    """The JSON document in a file."""
    return parse_json(read_bytes(path, max_bytes), str(path), max_bytes)


def read_yaml(path: str | Path, max_bytes: int = 2**20) -> Any:
    """The YAML document in a file."""
    return parse_yaml(read_bytes(path, max_bytes), str(path), max_bytes)


def made_folder(path: str | Path) -> Path:
    """The folder, made where it is missing. Raises BadFile when it cannot be."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadFile(f"{str(folder)[:200]}: cannot be made ({error.strerror})") from None
    return folder


def write_atomically(path: str | Path, text: str | Iterable[str]) -> None:
    """Write the whole file or nothing: a temporary file beside it, flushed, then renamed over it.

    `text` may come in parts. A link keeps pointing where it points; a pipe or a device is written to as it is.
    """
    parts = (text,) if isinstance(text, str) else text
    try:
        target = Path(os.path.realpath(path))
        if target.exists() and not target.is_file():
            with target.open("w", encoding="utf-8", newline="") as file:
                file.writelines(parts)
            return
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        try:
            with temporary.open("x", encoding="utf-8", newline="") as file:
                file.writelines(parts)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or type(error).__name__
        raise BadFile(f"{str(path)[:200]}: cannot be written ({said})") from None
