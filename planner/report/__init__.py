"""Rows as CSV and JSON: the same values in both, nothing that a spreadsheet would run, never NaN."""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

_RUN_BY_SPREADSHEETS = ("=", "+", "-", "@", "\t", "\r", "\0")


def safe_cell(value: object) -> object:
    """A value as a CSV cell: text that a spreadsheet would run as a formula gets a leading apostrophe.

    Numbers stay numbers, negative ones too; None is an empty cell. Ref: OWASP ASVS 1.2.10.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return value if math.isfinite(value) else ""
    if isinstance(value, int):
        return value
    text = str(value)
    return f"'{text}" if text.startswith(_RUN_BY_SPREADSHEETS) else text


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    """RFC 4180 text with a header; a column that a row lacks is an empty cell."""
    header = dict(zip(columns, columns, strict=True))
    return "".join(csv_lines(columns, itertools.chain([header], rows)))


def csv_lines(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> Iterator[str]:
    """The same text line by line, without a header."""
    writer = csv.writer(_Line, lineterminator="\r\n")
    for row in rows:
        yield writer.writerow([safe_cell(row.get(column)) for column in columns])


class _Line:
    """What a CSV writer writes to: it hands the line back."""

    @staticmethod
    def write(text: str) -> str:
        return text


def json_text(document: object) -> str:
    """One JSON document; a number that is not finite becomes null."""
    return json.dumps(_finite(document), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
