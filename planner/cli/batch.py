"""Answers to rows of scenarios, in the rows' order, and how they stand."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from planner.catalog.files import write_atomically
from planner.catalog.rows import Cells, Read
from planner.catalog.scenarios import scenario_in
from planner.catalog.values import columns
from planner.cli.output import console
from planner.estimate import estimate
from planner.estimate.batch import blocks
from planner.estimate.columns import EstimateRow, answer_columns
from planner.report import csv_lines, csv_text
from planner.specs.scenario import Scenario
from planner.workers import mapped, usable

LONG_BATCH = 2000  # scenarios from which a progress bar is worth its line
LONG_CSV = 10_000  # from which it is written by parts and processes: answers that are held take some 25 kB each

Asked = Cells | Read[Scenario]  # a row as it stands in a file, or as it was read


class Tally(NamedTuple):
    """How many answers there are, how many of them are errors, and how many miss what each requirement asks."""

    answers: int
    errors: int
    first_error: str
    missing: tuple[int, ...]  # in the order of the requirements

    def plus(self, other: Tally) -> Tally:
        """Both together, `other` being of later rows."""
        missing = tuple(a + b for a, b in zip(self.missing, other.missing, strict=True))
        first = self.first_error or other.first_error
        return Tally(self.answers + other.answers, self.errors + other.errors, first, missing)


def answered(rows: Sequence[Asked], told: Callable[[int], None] | None = None) -> list[EstimateRow]:
    """An answer per row; a row that could not be read answers with its error. `told` as `estimate`'s progress."""
    read = [scenario_in(row) if isinstance(row, Cells) else row for row in rows]
    answers = iter(estimate([row.scenario for row in read if not row.error], told).rows())
    return [_spoilt(row) if row.error else row.placed(next(answers)) for row in read]


def shown(rows: Sequence[Asked]) -> list[EstimateRow]:
    """The same with a bar where it takes long."""
    with _bar(len(rows)) as told:
        return answered(rows, told)


def tallied(answers: Sequence[EstimateRow], required: Sequence[str]) -> Tally:
    """How the answers stand; a row with an error meets nothing."""
    errors = [answer["error"] for answer in answers if answer["error"]]
    missing = tuple(sum(not answer[name] for answer in answers) for name in required)
    return Tally(len(answers), len(errors), errors[0] if errors else "", missing)


class Part(NamedTuple):
    """Answers of a part of a file as they are written, and how they stand."""

    lines: list[str]
    errors: list[str]  # of each; blank where there is none
    tally: Tally


def export(rows: Sequence[Asked], path: str, required: Sequence[str]) -> Tally:
    """Answer R > 0 rows into a CSV file, - being standard output: a part at a time, of which only lines are kept."""
    places = blocks([_kind(row) for row in rows])
    lines, errors = [""] * len(rows), [""] * len(rows)
    tally = Tally(0, 0, "", (0,) * len(required))
    with _bar(len(rows)) as told:
        parts = mapped(partial(_part, required), [[rows[i] for i in block] for block in places], usable())
        for block, part in zip(places, parts, strict=True):
            for i, line, error in zip(block, part.lines, part.errors, strict=True):
                lines[i], errors[i] = line, error
            tally = tally.plus(part.tally)
            told(len(block))
    text = itertools.chain([csv_text(answer_columns(), ())], lines)
    if path == "-":
        sys.stdout.writelines(text)
    else:
        write_atomically(path, text)
    return tally._replace(first_error=next(filter(None, errors), ""))


def _part(required: Sequence[str], rows: Sequence[Asked]) -> Part:
    answers = answered(rows)
    errors = [answer["error"] or "" for answer in answers]
    return Part(list(csv_lines(answer_columns(), answers)), errors, tallied(answers, required))


def stated_columns(rows: Sequence[Asked]) -> set[str]:
    """Columns that any of the rows states."""
    return {name for row in rows for name, value in _as_written(row).items() if value not in (None, "")}


def version_notes(rows: Sequence[Asked], answers: Sequence[EstimateRow]) -> list[str]:
    """What became of engine versions that are not known as they were written, a line each."""
    from planner.catalog.engines import engine

    asked = {
        (str(answer["engine"]), str(version))
        for row, answer in zip(rows, answers, strict=True)
        if not answer["error"] and (version := _as_written(row).get("engine_version"))
    }
    return [f"{name}: {note}" for name, version in sorted(asked) if (note := engine(name, version).note)]


def _as_written(row: Asked) -> Mapping[str, object]:
    return row.cells if isinstance(row, Cells) else vars(row.scenario)


def _kind(row: Asked) -> tuple[str, str]:
    """Model and engine as they stand there: what rows must share to be priced together."""
    named = _as_written(row)
    return str(named.get("model")), str(named.get("engine"))


@contextmanager
def _bar(total: int) -> Iterator[Callable[[int], None]]:
    """Told how many more are done, it moves on; there is none for little work and where nobody looks."""
    if total < LONG_BATCH or not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.progress import Progress

    with Progress(console=console(stderr=True), transient=True) as bar:
        task = bar.add_task("pricing", total=total)
        yield lambda done: bar.advance(task, done)


def _spoilt(row: Read[Scenario]) -> EstimateRow:
    known = {name: getattr(row.scenario, name) for name in columns()}
    return {**dict.fromkeys(answer_columns()), **known, "error": f"{row.where}: {row.error}"}
