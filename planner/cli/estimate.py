"""`planner estimate`: scenarios from flags, a file or a start line; answers as a table, JSON or CSV."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from planner.catalog.rows import Read
from planner.catalog.scenarios import read_cells, scenarios_from_flags
from planner.cli.batch import LONG_CSV, Asked, Tally, export, shown, stated_columns, tallied, version_notes
from planner.cli.exits import BAD_INPUT, UNMET
from planner.cli.flags import with_scenario_flags
from planner.cli.output import Csv, Json, written
from planner.errors import BadValue, UnknownName
from planner.specs.scenario import Scenario

REQUIREMENTS = ("fits", "starts", "holds_load", "meets_slo")


@with_scenario_flags
def estimate(
    flags: Mapping[str, str],
    scenarios: Annotated[
        str,
        typer.Option(metavar="FILE|-", help="Scenarios from a .csv, .jsonl, .json or .yaml file.", show_default=False),
    ] = "",
    from_command: Annotated[
        str,
        typer.Option(
            metavar="LINE",
            help='An engine\'s start line: "vllm serve MODEL -tp 2", sglang, llama-server or trtllm-serve.',
            show_default=False,
        ),
    ] = "",
    require: Annotated[
        str,
        typer.Option(metavar="NAMES", help="Exit 3 unless these hold: holds_load,meets_slo,fits.", show_default=False),
    ] = "",
    json: Json = False,
    csv: Csv = "",
) -> int:
    """Price one scenario, a file of them, or a grid: memory, room for requests, TTFT, TPOT, tokens/s.

    Every option of the groups below is a column of a scenario. Lists and ranges span a grid:
    --concurrency 1:256:x2, --input-tokens 1000:9000:+2000, --weight-format fp8,awq-int4-g128.
    """
    required = _requirements(require)
    rows = _rows(flags, scenarios, from_command)
    if csv and not json and len(rows) > LONG_CSV:
        return _outcome(export(rows, csv, required), required)
    answers = shown(rows)
    tally = tallied(answers, required)
    if tally.errors and len(answers) == 1 and not scenarios:
        raise BadValue(tally.first_error)
    for note in version_notes(rows, answers):
        print(f"note: {note}", file=sys.stderr)
    if not written(list(answers[0]), answers, json, csv):
        from planner.cli.answer_text import show_answer, show_answers

        one = len(answers) == 1 and not tally.errors
        show_answer(answers[0]) if one else show_answers(answers, stated_columns(rows))
    return _outcome(tally, required)


def _rows(flags: Mapping[str, str], file: str, line: str) -> Sequence[Asked]:
    if file and (flags or line):
        raise BadValue("--scenarios takes no other scenario options; put the columns into the file")
    if file:
        return read_cells(file)
    if not line:
        return [Read(scenario) for scenario in scenarios_from_flags(flags)]
    from planner.catalog.commands import scenario_from_command

    command = scenario_from_command(line)
    if command.not_considered:
        print(f"note: not considered: {', '.join(command.not_considered)}", file=sys.stderr)
    stated = command.scenario.model_dump(exclude_none=True)
    return [
        Read(Scenario.model_validate(stated | given.model_dump(exclude_none=True)))
        for given in scenarios_from_flags(flags)
    ]


def _requirements(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in REQUIREMENTS:
            raise UnknownName("requirement", name, REQUIREMENTS, f"known: {', '.join(REQUIREMENTS)}")
    return names


def _outcome(tally: Tally, required: Sequence[str]) -> int:
    """The exit code; standard error says in a line what is wrong."""
    if tally.errors:
        print(f"error: {tally.errors} of {tally.answers} scenarios: {tally.first_error}", file=sys.stderr)
        return BAD_INPUT
    missing = [f"{name} in {n} of {tally.answers}" for name, n in zip(required, tally.missing, strict=True) if n]
    if not missing:
        return 0
    print(f"not met: {', '.join(missing)} scenarios", file=sys.stderr)
    return UNMET
