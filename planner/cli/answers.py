"""Answers to rows of scenarios, in the rows' order, and how they stand."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any, NamedTuple

from planner.catalog.files import write_atomically
from planner.catalog.rows import Read
from planner.catalog.values import columns
from planner.cli.output import console
from planner.report import csv_text
from planner.specs.scenario import Scenario

LONG_BATCH = 2000  # scenarios from which a progress bar is worth its line
PART_ROWS = 10_000  # answers of a long CSV that are held at a time, some 25 kB each

Answer = dict[str, Any]


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


def answered(rows: Sequence[Read[Scenario]]) -> list[Answer]:
    """An answer per row; a row that could not be read answers with its error."""
    answers = iter(_estimated([row.scenario for row in rows if not row.error]))
    return [_spoilt(row) if row.error else row.placed(next(answers)) for row in rows]


def tallied(answers: Sequence[Answer], required: Sequence[str]) -> Tally:
    """How the answers stand; a row with an error meets nothing."""
    errors = [answer["error"] for answer in answers if answer["error"]]
    missing = tuple(sum(not answer[name] for answer in answers) for name in required)
    return Tally(len(answers), len(errors), errors[0] if errors else "", missing)


def export(rows: Sequence[Read[Scenario]], path: str, required: Sequence[str]) -> Tally:
    """Answer R > 0 rows into a CSV file, - being standard output, a part at a time so that memory stays bounded."""
    tallies: list[Tally] = []

    def text() -> Iterator[str]:
        for start in range(0, len(rows), PART_ROWS):
            answers = answered(rows[start : start + PART_ROWS])
            yield csv_text(list(answers[0]), answers, header=not tallies)
            tallies.append(tallied(answers, required))

    if path == "-":
        sys.stdout.writelines(text())
    else:
        write_atomically(path, text())
    return reduce(Tally.plus, tallies)


def _estimated(scenarios: list[Scenario]) -> list[Answer]:
    from planner.estimate import estimate

    if len(scenarios) < LONG_BATCH or not sys.stderr.isatty():
        return estimate(scenarios).rows() if scenarios else []
    from rich.progress import Progress

    with Progress(console=console(stderr=True), transient=True) as bar:
        task = bar.add_task("pricing", total=len(scenarios))
        return estimate(scenarios, progress=lambda done: bar.advance(task, done)).rows()


def _spoilt(row: Read[Scenario]) -> Answer:
    from planner.estimate.columns import answer_columns

    known = {name: getattr(row.scenario, name) for name in columns()}
    return {**dict.fromkeys(answer_columns()), **known, "error": f"{row.where}: {row.error}"}
