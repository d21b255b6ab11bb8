"""Measured rows that ship with the planner: scenario columns, what was measured, and where it was published.

A file holds scenario columns (docs/nomenclature.md), `measured_*` columns, and columns about the row: `source`,
`note`, and for times `protocol` (closed, offline, static, rate, single, micro, unstated) and `tier` (a: scored, b:
with doubt, c: for sanity only). `engine_starts` and `single_stream_later` were found after the constants of memory
and of llama.cpp had been set; `held_out` says which of them shaped nothing since. The `blind_*` files hold rows that
were scored before anybody had looked at one of their errors; `held_out` says the same of them.
"""

from __future__ import annotations

import csv
import io
from functools import lru_cache
from typing import NamedTuple

from planner.catalog.files import read_bytes
from planner.catalog.paths import data_dir
from planner.catalog.values import columns, number_of, scenario_of, value_of
from planner.errors import BadFile, PlannerError
from planner.specs.scenario import Scenario

MEMORY_FILES = ("weights", "engine_memory", "engine_starts", "llamacpp_memory")
BLIND_MEMORY = ("blind_memory", "blind_starts", "blind_llamacpp")
BLIND_SERVED = ("blind_speed", "blind_serving", "blind_fourth", "blind_fifth", "blind_sixth")
BLIND_SPEED = (*BLIND_SERVED, "blind_single", "blind_spark")
BLIND_FILES = (*BLIND_MEMORY, *BLIND_SPEED)
SPEED_FILES = ("serving", "serving_other", "single_stream", "single_stream_later", *BLIND_SPEED)
FILES = (*MEMORY_FILES, *SPEED_FILES, *BLIND_MEMORY)
MEASURED = "measured_"
NOT_NUMBERS = ("measured_starts", "measured_on")  # yes or no, a date
MAX_BYTES = 8 * 2**20


class MeasuredRow(NamedTuple):
    """One row: what was asked, what was measured (by column, without the prefix), and the remaining columns."""

    file: str
    line: int
    scenario: Scenario
    measured: dict[str, float]
    about: dict[str, str]

    @property
    def where(self) -> str:
        """The row's place, as an error message names it."""
        return f"{self.file}.csv line {self.line}"


@lru_cache(maxsize=len(FILES))
def measured_rows(file: str) -> tuple[MeasuredRow, ...]:
    """Rows of one file of planner/data/truth. Raises BadFile for a cell that cannot be read."""
    path = data_dir() / "truth" / f"{file}.csv"
    lines = csv.DictReader(io.StringIO(read_bytes(path, MAX_BYTES).decode("utf-8"), newline=""))
    return tuple(_row(file, line, cells) for line, cells in enumerate(lines, 2))


def _row(file: str, line: int, cells: dict[str, str]) -> MeasuredRow:
    asked = {name: text for name, text in cells.items() if name in columns()}
    figures = {name: text for name, text in cells.items() if name.startswith(MEASURED) and name not in NOT_NUMBERS}
    try:
        values = {name: value_of(name, text) for name, text in asked.items()}
        scenario = scenario_of({name: value for name, value in values.items() if value is not None})
        measured = {name.removeprefix(MEASURED): number_of(name, text) for name, text in figures.items() if text}
    except PlannerError as error:
        raise BadFile(f"{file}.csv line {line}: {error}") from None
    about = {name: text for name, text in cells.items() if name not in asked and name not in figures}
    return MeasuredRow(file, line, scenario, measured, about)


class Excluded(NamedTuple):
    """Rows of a source that are not used, counted by reason."""

    file: str
    reason: str
    rows: int


@lru_cache(maxsize=1)
def excluded_rows() -> tuple[Excluded, ...]:
    """What was left out when the rows were made, and why."""
    text = read_bytes(data_dir() / "truth" / "excluded.csv").decode("utf-8")
    return tuple(Excluded(row["file"], row["reason"], int(row["rows"])) for row in csv.DictReader(io.StringIO(text)))
