"""Scenarios from files and flags: CSV, JSON, JSON lines and YAML in, one row at a time.

A cell that cannot be read spoils its row, not the others; a column that nobody knows spoils the file, because
a misspelt column would otherwise be a default that nobody asked for.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from planner.catalog.files import decoded, parse_json, parse_yaml, read_bytes
from planner.catalog.values import Value, check_column, columns, scenario_of, shown, stepped, valid_part, value_of
from planner.errors import BadFile, BadValue, PlannerError
from planner.specs.scenario import Scenario

MAX_BYTES = 16 * 2**20
MAX_ROWS = 100_000
_DELIMITERS = ",;\t"
_HOLDS_COMMAS = ("name", "tensor_split")  # text columns in which a comma does not start a list


class Row(NamedTuple):
    """A scenario as read, where it stands, and what is wrong with it: one line, blank when nothing is."""

    scenario: Scenario
    where: str = ""
    error: str = ""


def read_scenarios(path: str | Path) -> list[Row]:
    """Rows of a .csv, .json, .jsonl or .yaml file; `-` reads standard input and looks at its first character.

    Raises BadFile for a file that cannot be read at all, UnknownName for a column that is not in CONTRACT.
    """
    if str(path) == "-":
        data = sys.stdin.buffer.read(MAX_BYTES + 1)
        return parse_scenarios(data, _sniffed(data), "standard input")
    return parse_scenarios(read_bytes(path, MAX_BYTES), Path(path).suffix.lower(), str(path))


def parse_scenarios(data: bytes, suffix: str, where: str) -> list[Row]:
    """Rows of a file's bytes; `suffix` says how they are written."""
    readers = {".csv": _csv_rows, ".tsv": _csv_rows, ".json": _json_rows, ".jsonl": _jsonl_rows, ".ndjson": _jsonl_rows}
    reader = readers.get(suffix, _yaml_rows if suffix in (".yaml", ".yml") else None)
    if reader is None:
        raise BadFile(f"{where}: scenarios are read from .csv, .json, .jsonl and .yaml, not {shown(suffix)}")
    rows = list(itertools.islice(reader(data, where), MAX_ROWS + 1))
    if len(rows) > MAX_ROWS:
        raise BadFile(f"{where}: more than {MAX_ROWS} scenarios; split the file")
    if not rows:
        raise BadFile(f"{where}: no scenario in it")
    return rows


def _sniffed(data: bytes) -> str:
    """How standard input is written: braces are JSON, a dash or `key: value` is YAML, the rest CSV."""
    first, _, rest = data.lstrip(b"\xef\xbb\xbf \t\r\n").partition(b"\n")
    if first.startswith(b"["):
        return ".json"
    if first.startswith(b"{"):
        return ".jsonl" if first.rstrip().endswith(b"}") and rest.lstrip().startswith(b"{") else ".json"
    return ".yaml" if first.startswith(b"-") or first.partition(b",")[0].rstrip(b"\r").find(b": ") > 0 else ".csv"


def _text(data: bytes, where: str) -> str:
    if b"\0" in data:
        raise BadFile(f"{where}: holds zero bytes; save it as UTF-8 text")
    return decoded(data, where, MAX_BYTES)


def _csv_rows(data: bytes, where: str) -> Iterator[Row]:
    text = _text(data, where)
    head = text.split("\n", 1)[0]
    delimiter = max(_DELIMITERS, key=head.count)
    try:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        header = _header(next(lines, []), where)
        for cells in lines:
            if any(cells):
                yield _csv_row(header, cells, lines.line_num)
    except csv.Error as error:
        raise BadFile(f"{where}: not CSV ({error})") from None


def _header(cells: list[str], where: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    while names and not names[-1]:  # spreadsheets leave empty columns at the end
        names.pop()
    if not names:
        raise BadFile(f"{where}: no scenario in it; the first line names the columns")
    for name in names:
        check_column(name)
    if len(set(names)) != len(names):
        raise BadFile(f"{where}: the column {next(n for n in names if names.count(n) > 1)!r} stands twice")
    return names


def _csv_row(header: list[str], cells: list[str], line: int) -> Row:
    if any(cells[len(header) :]):
        return Row(Scenario(), f"line {line}", f"{len(cells)} cells for {len(header)} columns")
    return _row(zip(header, cells, strict=False), f"line {line}")


def _row(pairs: Iterable[tuple[str, object]], where: str) -> Row:
    values: dict[str, Value] = {}
    faults = []
    for column, given in pairs:
        try:
            value = value_of(column, given)
        except BadValue as error:
            faults.append(str(error))
            continue
        if value is not None:
            values[column] = value
    scenario, fault = valid_part(values)
    faults += [fault] if fault else []
    return Row(scenario, where, faults[0] if faults else "")


def _mapping_row(item: object, where: str) -> Row:
    """A row from JSON or YAML; here a misspelt column spoils only the row that holds it."""
    if not isinstance(item, dict):
        return Row(Scenario(), where, f"{shown(item)} is not an object of columns")
    try:
        return _row(((check_column(str(name)), value) for name, value in item.items()), where)
    except PlannerError as error:
        return Row(Scenario(), where, str(error))


def _listed(document: Any) -> Iterator[Row]:
    items = document if isinstance(document, list) else [] if document is None else [document]
    return (_mapping_row(item, f"row {number}") for number, item in enumerate(items, 1))


def _json_rows(data: bytes, where: str) -> Iterator[Row]:
    return _listed(parse_json(data, where, MAX_BYTES) if data.strip() else None)


def _yaml_rows(data: bytes, where: str) -> Iterator[Row]:
    return _listed(parse_yaml(data, where))


def _jsonl_rows(data: bytes, where: str) -> Iterator[Row]:
    for number, line in enumerate(_text(data, where).split("\n"), 1):
        if line.strip():
            try:
                item = parse_json(line.encode())
            except BadFile as error:
                yield Row(Scenario(), f"line {number}", str(error))
            else:
                yield _mapping_row(item, f"line {number}")


def scenarios_from_flags(flags: Mapping[str, str]) -> list[Scenario]:
    """The grid that flags span: a comma list or a range (`1:256:x2`, `1:100:+10`) is an axis.

    The last column varies fastest. Raises BadValue, UnknownName, or BadValue beyond MAX_ROWS scenarios.
    """
    given = {name: flags[name] for name in columns() if flags.get(name)}
    for name in flags:
        check_column(name)
    axes = {name: axis(name, text) for name, text in given.items()}
    size = math.prod(map(len, axes.values()))
    if size > MAX_ROWS:
        raise BadValue(f"the ranges span {size} scenarios, more than the {MAX_ROWS} that are priced at once")
    return [scenario_of(dict(zip(axes, point, strict=True))) for point in itertools.product(*axes.values())]


def axis(column: str, text: str) -> list[Value]:
    """The values of a flag: one, a comma list, or a range. Raises BadValue."""
    kind = columns()[column]
    parts = [text] if column in _HOLDS_COMMAS else text.split(",")
    found: list[Value] = []
    for part in parts:
        if kind in (int, float) and ":" in part:
            found += stepped(column, part, kind is int)
        elif (value := value_of(column, part)) is None:
            raise BadValue(f"{column} {shown(text)} has an empty entry")
        else:
            found.append(value)
    return found
