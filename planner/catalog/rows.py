"""Rows of a file: CSV, JSON, JSON lines or YAML in, one mapping of column to cell at a time.

A row that cannot be read spoils itself, not the others. A CSV header with a column that nobody knows spoils the
file, because a misspelt column would otherwise be a default that nobody asked for.
"""

from __future__ import annotations

import csv
import io
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from planner.catalog.files import decoded, parse_json, parse_yaml, read_bytes
from planner.catalog.values import shown
from planner.errors import BadFile, PlannerError

Record = TypeVar("Record")
DELIMITERS = ",;\t"


class Table(NamedTuple):
    """What the rows of a file are, and how many are read."""

    noun: str  # in the singular, as messages call a row
    check_column: Callable[[str], str]  # raises UnknownName for a column that such a row does not have
    max_rows: int
    max_bytes: int


class Read(NamedTuple, Generic[Record]):
    """A row as read, where it stands, and what is wrong with it: one line, blank when nothing is."""

    scenario: Record
    where: str = ""
    error: str = ""

    def placed(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """Its answer, with an error that says where in the file the row stands."""
        if not (answer["error"] and self.where):
            return dict(answer)
        return {**answer, "error": f"{self.where}: {answer['error']}"}


class Cells(NamedTuple):
    """One row as it stands in the file; where it cannot be read it has no cells, and `error` is one line."""

    cells: Mapping[str, object]
    where: str
    error: str = ""


def read_rows(path: str | Path, table: Table) -> list[Cells]:
    """Rows of a .csv, .tsv, .json, .jsonl or .yaml file; `-` reads standard input and looks at its first character.

    Raises BadFile for a file that cannot be read at all, UnknownName for a column in a CSV header.
    """
    if str(path) == "-":
        data = sys.stdin.buffer.read(table.max_bytes + 1)
        return parse_rows(data, _sniffed(data), "standard input", table)
    return parse_rows(read_bytes(path, table.max_bytes), Path(path).suffix.lower(), str(path), table)


def parse_rows(data: bytes, suffix: str, where: str, table: Table) -> list[Cells]:
    """Rows of a file's bytes; `suffix` says how they are written. Raises as `read_rows` does."""
    readers = {".csv": _csv_rows, ".tsv": _csv_rows, ".json": _json_rows, ".jsonl": _jsonl_rows, ".ndjson": _jsonl_rows}
    reader = readers.get(suffix, _yaml_rows if suffix in (".yaml", ".yml") else None)
    if reader is None:
        raise BadFile(f"{where}: {table.noun}s are read from .csv, .json, .jsonl and .yaml, not {shown(suffix)}")
    rows = list(itertools.islice(reader(data, where, table), table.max_rows + 1))
    if len(rows) > table.max_rows:
        raise BadFile(f"{where}: more than {table.max_rows} {table.noun}s; split the file")
    if not rows:
        raise BadFile(f"{where}: no {table.noun} in it")
    return rows


def _sniffed(data: bytes) -> str:
    """How standard input is written: braces are JSON, a dash or `key: value` is YAML, the rest CSV."""
    first, _, rest = data.lstrip(b"\xef\xbb\xbf \t\r\n").partition(b"\n")
    if first.startswith(b"["):
        return ".json"
    if first.startswith(b"{"):
        return ".jsonl" if first.rstrip().endswith(b"}") and rest.lstrip().startswith(b"{") else ".json"
    return ".yaml" if first.startswith(b"-") or first.partition(b",")[0].rstrip(b"\r").find(b": ") > 0 else ".csv"


def _text(data: bytes, where: str, table: Table) -> str:
    if b"\0" in data:
        raise BadFile(f"{where}: holds zero bytes; save it as UTF-8 text")
    return decoded(data, where, table.max_bytes)


def _csv_rows(data: bytes, where: str, table: Table) -> Iterator[Cells]:
    text = _text(data, where, table)
    head = text.split("\n", 1)[0]
    delimiter = max(DELIMITERS, key=head.count)
    try:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        header = _header(next(lines, []), where, table)
        for cells in lines:
            if any(cells):
                yield _csv_row(header, cells, lines.line_num)
    except csv.Error as error:
        raise BadFile(f"{where}: not CSV ({error})") from None


def _header(cells: list[str], where: str, table: Table) -> list[str]:
    names = [cell.strip() for cell in cells]
    while names and not names[-1]:  # spreadsheets leave empty columns at the end
        names.pop()
    if not names:
        raise BadFile(f"{where}: no {table.noun} in it; the first line names the columns")
    for name in names:
        table.check_column(name)
    if len(set(names)) != len(names):
        raise BadFile(f"{where}: the column {next(n for n in names if names.count(n) > 1)!r} stands twice")
    return names


def _csv_row(header: list[str], cells: list[str], line: int) -> Cells:
    if any(cells[len(header) :]):
        return Cells({}, f"line {line}", f"{len(cells)} cells for {len(header)} columns")
    return Cells(dict(zip(header, cells, strict=False)), f"line {line}")


def _mapping(item: object, where: str, table: Table) -> Cells:
    """A row from JSON or YAML; here a misspelt column spoils only the row that holds it."""
    if not isinstance(item, dict):
        return Cells({}, where, f"{shown(item)} is not an object of columns")
    try:
        return Cells({table.check_column(str(name)): value for name, value in item.items()}, where)
    except PlannerError as error:
        return Cells({}, where, str(error))


def _listed(document: Any, table: Table) -> Iterator[Cells]:
    items = document if isinstance(document, list) else [] if document is None else [document]
    return (_mapping(item, f"row {number}", table) for number, item in enumerate(items, 1))


def _json_rows(data: bytes, where: str, table: Table) -> Iterator[Cells]:
    return _listed(parse_json(data, where, table.max_bytes) if data.strip() else None, table)


def _yaml_rows(data: bytes, where: str, table: Table) -> Iterator[Cells]:
    return _listed(parse_yaml(data, where), table)


def _jsonl_rows(data: bytes, where: str, table: Table) -> Iterator[Cells]:
    for number, line in enumerate(_text(data, where, table).split("\n"), 1):
        if line.strip():
            try:
                item = parse_json(line.encode())
            except BadFile as error:
                yield Cells({}, f"line {number}", str(error))
            else:
                yield _mapping(item, f"line {number}", table)
