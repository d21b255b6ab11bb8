"""`planner estimate`: scenarios from flags, a file or a start line; answers as a table, JSON or CSV."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from planner.catalog.scenarios import Row, read_scenarios, scenarios_from_flags
from planner.catalog.values import columns
from planner.cli.flags import with_scenario_flags
from planner.cli.output import Csv, Json, console, written
from planner.errors import BadValue, UnknownName
from planner.specs.scenario import Scenario

LONG_BATCH = 2000  # scenarios from which a progress bar is worth its line
BAD_INPUT = 2
UNMET = 3
REQUIREMENTS = ("fits", "starts", "holds_load", "meets_slo")

Answer = dict[str, Any]


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
    answers = priced(rows)
    errors = [answer["error"] for answer in answers if answer["error"]]
    if errors and len(answers) == 1 and not scenarios:
        raise BadValue(errors[0])
    if not written(list(answers[0]), answers, json, csv):
        from planner.cli.answer import show_answer, show_answers

        show_answer(answers[0]) if len(answers) == 1 and not errors else show_answers(answers)
    if errors:
        print(f"error: {len(errors)} of {len(answers)} scenarios: {errors[0]}", file=sys.stderr)
        return BAD_INPUT
    return _unmet(required, answers)


def _rows(flags: Mapping[str, str], file: str, line: str) -> list[Row]:
    if file and (flags or line):
        raise BadValue("--scenarios takes no other scenario options; put the columns into the file")
    if file:
        return read_scenarios(file)
    if not line:
        return [Row(scenario) for scenario in scenarios_from_flags(flags)]
    from planner.catalog.commands import scenario_from_command

    command = scenario_from_command(line)
    if command.not_considered:
        print(f"note: not considered: {', '.join(command.not_considered)}", file=sys.stderr)
    stated = command.scenario.model_dump(exclude_none=True)
    return [
        Row(Scenario.model_validate(stated | given.model_dump(exclude_none=True)))
        for given in scenarios_from_flags(flags)
    ]


def priced(rows: Sequence[Row]) -> list[Answer]:
    """An answer per row in the rows' order; a row that could not be read answers with its error."""
    answers = iter(_estimated([row.scenario for row in rows if not row.error]))
    return [_spoilt(row) if row.error else _placed(row, next(answers)) for row in rows]


def _estimated(scenarios: list[Scenario]) -> list[Answer]:
    from planner.estimate import estimate

    if len(scenarios) < LONG_BATCH or not sys.stderr.isatty():
        return estimate(scenarios).rows() if scenarios else []
    from rich.progress import Progress

    with Progress(console=console(stderr=True), transient=True) as bar:
        task = bar.add_task("pricing", total=len(scenarios))
        return estimate(scenarios, progress=lambda done: bar.advance(task, done)).rows()


def _placed(row: Row, answer: Answer) -> Answer:
    """An error says where in the file its row stands."""
    return answer | {"error": f"{row.where}: {answer['error']}"} if answer["error"] and row.where else answer


def _spoilt(row: Row) -> Answer:
    from planner.estimate.columns import estimate_columns

    known = {name: getattr(row.scenario, name) for name in columns()}
    return {**known, **dict.fromkeys(estimate_columns()), "error": f"{row.where}: {row.error}"}


def _requirements(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in REQUIREMENTS:
            raise UnknownName("requirement", name, REQUIREMENTS, f"known: {', '.join(REQUIREMENTS)}")
    return names


def _unmet(required: Sequence[str], answers: Sequence[Answer]) -> int:
    missing = {name: sum(not answer[name] for answer in answers) for name in required}
    missing = {name: count for name, count in missing.items() if count}
    if not missing:
        return 0
    said = ", ".join(f"{name} in {count} of {len(answers)}" for name, count in missing.items())
    print(f"not met: {said} scenarios", file=sys.stderr)
    return UNMET
