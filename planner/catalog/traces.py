"""Traces of requests: CSV with a time in seconds, prompt and output tokens per line, read line by line."""

from __future__ import annotations

import csv
import math
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from planner.errors import BadFile
from planner.events import Trace

MAX_ROWS = 1_000_000
MAX_LINE_BYTES = 10_000
MAX_TOKENS = 2**26
COLUMNS = {"time": "time_s", "input": "input_tokens", "output": "output_tokens"}  # and what else each is called
EXAMPLE = "time,input,output"


def read_trace(path: str | Path, most: int = MAX_ROWS) -> Trace:
    """At most `most` requests of a trace in the order of their times; `-` reads standard input.

    Raises BadFile naming the line: a time that is negative or not a number, a length below 1, a missing column,
    more than MAX_ROWS lines. What is kept of a line is 24 bytes.
    """
    where = "standard input" if str(path) == "-" else str(path)
    try:
        if str(path) == "-":
            return parse_trace(sys.stdin.buffer, where, most)
        if not Path(path).is_file():
            raise BadFile(f"{where}: no such file")
        with Path(path).open("rb") as lines:
            return parse_trace(lines, where, most)
    except (OSError, ValueError) as error:
        raise BadFile(f"{where[:200]}: cannot be read ({type(error).__name__})") from None


def parse_trace(lines: BinaryIO, where: str, most: int = MAX_ROWS) -> Trace:
    """The same from an open file."""
    rows = csv.reader(_text(lines, where))
    at = _positions(next(rows, []), where)
    times, prompts, outputs = array("d"), array("d"), array("d")
    for row in rows:
        if not row:
            continue
        if len(times) >= MAX_ROWS:
            raise BadFile(f"{where}: more than {MAX_ROWS} requests; split the file")
        here = f"{where} line {rows.line_num}"
        if len(row) <= max(at):
            raise BadFile(f"{here}: {len(row)} cells; {EXAMPLE} are needed")
        times.append(_time(row[at[0]], here))
        prompts.append(_tokens(row[at[1]], "input", here))
        outputs.append(_tokens(row[at[2]], "output", here))
        if len(times) >= most:
            break
    if not times:
        raise BadFile(f"{where}: no request in it")
    columns = [np.frombuffer(column, dtype=float) for column in (times, prompts, outputs)]
    order = np.argsort(columns[0], kind="stable")
    return Trace(*(column[order] for column in columns))


def _text(lines: BinaryIO, where: str) -> Iterator[str]:
    """Lines as text, none longer than MAX_LINE_BYTES."""
    number = 0
    while line := lines.readline(MAX_LINE_BYTES):
        number += 1
        if len(line) >= MAX_LINE_BYTES or b"\0" in line:
            raise BadFile(f"{where} line {number}: not a line of a CSV file")
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise BadFile(f"{where} line {number}: not UTF-8 text") from None


def _positions(header: list[str], where: str) -> tuple[int, int, int]:
    names = [name.strip().lower() for name in header]
    found = []
    for name, other in COLUMNS.items():
        matching = [i for i, given in enumerate(names) if given in (name, other)]
        if len(matching) != 1:
            count = "twice" if matching else "no"
            raise BadFile(f"{where}: {count} column {name!r} in its first line; it should hold {EXAMPLE}")
        found += matching
    return found[0], found[1], found[2]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _time(text: str, here: str) -> float:
    value = _number(text)
    if not (math.isfinite(value) and value >= 0):
        raise BadFile(f"{here}: time {text[:40]!r} is not a number of seconds from 0 on")
    return value


def _tokens(text: str, name: str, here: str) -> float:
    value = _number(text)
    if not (1 <= value <= MAX_TOKENS and value == int(value)):
        raise BadFile(f"{here}: {name} {text[:40]!r} is not a whole number of tokens from 1 to {MAX_TOKENS}")
    return value
