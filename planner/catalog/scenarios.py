"""Scenarios from files and flags. A cell that cannot be read spoils its row, not the others."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path

from planner.catalog.rows import Cells, Read, Table, parse_rows, read_rows
from planner.catalog.values import Value, check_column, columns, scenario_of, shown, stepped, valid_part, value_of
from planner.errors import BadValue
from planner.specs.scenario import Scenario

MAX_BYTES = 16 * 2**20
MAX_ROWS = 100_000
SCENARIOS = Table("scenario", check_column, MAX_ROWS, MAX_BYTES)
_HOLDS_COMMAS = ("name", "tensor_split")  # text columns in which a comma does not start a list


def read_cells(path: str | Path) -> list[Cells]:
    """Rows of a file as they stand there, or of standard input for `-`. Raises as `rows.read_rows` does."""
    return read_rows(path, SCENARIOS)


def parse_scenarios(data: bytes, suffix: str, where: str) -> list[Read[Scenario]]:
    """Rows of a file's bytes; `suffix` says how they are written."""
    return [scenario_in(cells) for cells in parse_rows(data, suffix, where, SCENARIOS)]


def scenario_in(read: Cells) -> Read[Scenario]:
    """The row with the values that can be read, and what is wrong with the first of the others."""
    values: dict[str, Value] = {}
    faults = [read.error] if read.error else []
    for column, given in read.cells.items():
        try:
            value = value_of(column, given)
        except BadValue as error:
            faults.append(str(error))
            continue
        if value is not None:
            values[column] = value
    scenario, fault = valid_part(values)
    faults += [fault] if fault else []
    return Read(scenario, read.where, faults[0] if faults else "")


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
