"""Fine-tuning runs from files and flags. A cell that cannot be read spoils its row only."""

from __future__ import annotations

import csv
import io
import itertools
import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from planner.catalog.files import decoded, parse_json, parse_yaml, read_bytes
from planner.catalog.values import shown, stepped
from planner.errors import BadFile, BadValue, UnknownName
from planner.specs.finetune import FinetuneScenario

MAX_BYTES = 4 * 2**20
MAX_RUNS = 10_000
HOLDS_COMMAS = ("name", "lora_targets")  # text columns in which a comma does not start a list


class Run(NamedTuple):
    """A run as read, where it stands, and what is wrong with it: one line, blank when nothing is."""

    scenario: FinetuneScenario
    where: str = ""
    error: str = ""


def check_column(name: str) -> str:
    """The name of a column. Raises UnknownName with the nearest one."""
    if name not in FinetuneScenario.model_fields:
        raise UnknownName("column", name, FinetuneScenario.model_fields, "'planner finetune --help' lists them")
    return name


def run_of(cells: Mapping[str, Any]) -> FinetuneScenario:
    """The run with these values; blank text is a blank column. Raises UnknownName, BadValue for the first fault."""
    given = {check_column(name): _stripped(value) for name, value in cells.items()}
    try:
        return FinetuneScenario.model_validate(
            {name: value for name, value in given.items() if value not in ("", None)}
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        meant = first["msg"].removeprefix("Input ").removeprefix("Value error, ")
        raise BadValue(f"{first['loc'][0]} {shown(first['input'])} {meant}") from None


def _stripped(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


def runs_from_flags(flags: Mapping[str, str]) -> list[FinetuneScenario]:
    """The grid that flags span: a comma list or a range (`1:64:x2`, `512:4096:+512`) is an axis."""
    axes = {check_column(name): _axis(name, text) for name, text in flags.items() if text}
    size = math.prod(len(axis) for axis in axes.values())
    if size > MAX_RUNS:
        raise BadValue(f"the ranges span {size} runs, more than the {MAX_RUNS} that are estimated at once")
    return [run_of(dict(zip(axes, point, strict=True))) for point in itertools.product(*axes.values())]


def _axis(column: str, text: str) -> list[str]:
    if column in HOLDS_COMMAS or column in ("model", "gpu"):
        return text.split(",") if column in ("model", "gpu") else [text]
    parts = ([part] if ":" not in part else map(str, stepped(column, part, True)) for part in text.split(","))
    return list(itertools.chain.from_iterable(parts))


def read_runs(path: str) -> list[Run]:
    """Runs of a .csv, .json, .jsonl or .yaml file; `-` reads CSV or JSON from standard input. Raises BadFile."""
    data = sys.stdin.buffer.read(MAX_BYTES + 1) if path == "-" else read_bytes(path, MAX_BYTES)
    where = "standard input" if path == "-" else path
    suffix = (".json" if data.lstrip()[:1] in (b"[", b"{") else ".csv") if path == "-" else Path(path).suffix.lower()
    runs = [_run(cells, f"row {number}") for number, cells in enumerate(_rows(data, suffix, where), 1)]
    if not runs or len(runs) > MAX_RUNS:
        raise BadFile(f"{where}: {len(runs)} runs in it; 1 to {MAX_RUNS} are read")
    return runs


def _rows(data: bytes, suffix: str, where: str) -> Iterable[Any]:
    if suffix == ".csv":
        return _csv_rows(data, where)
    if suffix == ".jsonl":
        return [parse_json(line, where, MAX_BYTES) for line in data.splitlines() if line.strip()]
    if suffix not in (".json", ".yaml", ".yml"):
        raise BadFile(f"{where}: runs are read from .csv, .json, .jsonl and .yaml, not {shown(suffix)}")
    document = parse_json(data, where, MAX_BYTES) if suffix == ".json" else parse_yaml(data, where)
    return document if isinstance(document, list) else [document]


def _csv_rows(data: bytes, where: str) -> list[dict[str, Any]]:
    try:
        reader = csv.DictReader(io.StringIO(decoded(data, where), newline=""), strict=True)
        for name in reader.fieldnames or ():
            check_column(name)
        return list(reader)
    except csv.Error as error:
        raise BadFile(f"{where}: not CSV ({error})") from None


def _run(cells: Any, where: str) -> Run:
    if not isinstance(cells, dict) or None in cells:
        return Run(FinetuneScenario(), where, f"{shown(cells)} is not a row of columns")
    try:
        return Run(run_of(cells), where)
    except (BadValue, UnknownName) as error:
        return Run(FinetuneScenario(), where, str(error))
