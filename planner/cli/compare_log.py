"""`planner compare-log`: an engine's start-up log beside what the planner says of the same deployment."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planner.cli.flags import with_scenario_flags
from planner.cli.output import Csv, Json, show_table, written

if TYPE_CHECKING:
    from planner.estimate.logs import ComparedTerm

COLUMNS = {
    "term": "term",
    "predicted": "predicted",
    "measured": "in the log",
    "error_percent": "error %",
    "line": "line",
}
WRITTEN = ("term", "meaning", "predicted", "measured", "error_percent", "line", "text")


@with_scenario_flags
def compare_log(
    flags: Mapping[str, str],
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="The log, or - for standard input.")],
    json: Json = False,
    csv: Csv = "",
) -> int:
    """Compare a start-up log of vLLM, SGLang, TensorRT-LLM or llama.cpp with the estimate, term by term.

    Model, parallelism, memory fraction and lengths are read from the log where it states them; options replace
    or add to them. Figures are those of the GPU that limits the deployment.
    """
    from planner.catalog.logs import read_log
    from planner.catalog.values import value_of
    from planner.estimate.logs import compare, scenario_of_log

    log = read_log(_start_up(file), file)
    given = {name: value for name, text in flags.items() if (value := value_of(name, text)) is not None}
    found = compare(log, scenario_of_log(log, given))
    rows = [_row(one) for one in found.terms]
    if written(WRITTEN, rows, json, csv):
        return 0
    answer = found.answer
    print(
        f"{answer['model']} ({answer['weight_format']}) on {answer['n_gpus']} x {answer['gpu']}, "
        f"{answer['engine']} {answer['engine_version']}"
    )
    show_table(COLUMNS, rows)
    if log.fault:
        says = "starts by the estimate" if answer["starts"] else "does not start either"
        print(f"the log's engine did not start (line {log.fault.number}): {log.fault.text}")
        print(f"here it {says}" + (f": {answer['reason']}" if answer["reason"] else ""))
    return 0


def _start_up(file: str) -> bytes:
    """The log's first lines: an engine starts at its head, however much it served after."""
    from planner.catalog.files import first_bytes
    from planner.catalog.logs import MAX_BYTES

    data = sys.stdin.buffer.read(MAX_BYTES + 1) if file == "-" else first_bytes(file, MAX_BYTES + 1)
    if len(data) <= MAX_BYTES:
        return data
    print(f"note: the first {MAX_BYTES:,} bytes are read, where the engine starts", file=sys.stderr)
    return data[:MAX_BYTES].rpartition(b"\n")[0]


def _row(one: ComparedTerm) -> dict[str, Any]:
    return {
        "term": one.term,
        "meaning": one.meaning,
        "predicted": one.predicted,
        "measured": one.measured,
        "error_percent": None if one.error is None else 100 * one.error,
        "line": one.line.number,
        "text": one.line.text,
    }
