"""Fine-tuning runs from files and flags. A cell that cannot be read spoils its row only."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from planner.catalog.rows import Cells, Read, Table, read_rows
from planner.catalog.values import shown, stepped
from planner.errors import BadValue, UnknownName
from planner.specs.finetune import FinetuneScenario

MAX_BYTES = 4 * 2**20
MAX_RUNS = 10_000
HOLDS_COMMAS = ("name", "lora_targets")  # text columns in which a comma does not start a list


def check_column(name: str) -> str:
    """The name of a column. Raises UnknownName with the nearest one."""
    if name not in FinetuneScenario.model_fields:
        raise UnknownName("column", name, FinetuneScenario.model_fields, "'planner finetune --help' lists them")
    return name


RUNS = Table("run", check_column, MAX_RUNS, MAX_BYTES)


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


def read_runs(path: str) -> list[Read[FinetuneScenario]]:
    """Runs of a file, or of standard input for `-`. Raises as `rows.read_rows` does."""
    return [_run(cells) for cells in read_rows(path, RUNS)]


def _run(read: Cells) -> Read[FinetuneScenario]:
    try:
        return Read(run_of(read.cells), read.where, read.error)
    except BadValue as error:
        return Read(FinetuneScenario(), read.where, str(error))
