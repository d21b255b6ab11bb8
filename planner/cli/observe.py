"""`planner observe`: the result of a benchmark beside what the planner predicts; kept on request."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planner.cli.flags import with_scenario_flags
from planner.cli.output import NO_VALUE, Csv, Json, show_table, written

if TYPE_CHECKING:
    from planner.observe import ComparedResult

COLUMNS = {
    "configuration": "configuration",
    "figure": "figure",
    "predicted": "predicted",
    "measured": "measured",
    "error_percent": "error %",
    "inside": "in interval",
}
REFINED = {"refined": "refined", "refined_error_percent": "refined, error %"}


@with_scenario_flags
def observe(
    flags: Mapping[str, str],
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="The result, or - for standard input.")],
    keep: Annotated[
        bool, typer.Option("--keep", metavar=NO_VALUE, help="Store what is not flagged; later estimates use it.")
    ] = False,
    observations_dir: Annotated[
        str,
        typer.Option(
            metavar="DIR",
            help="Where to store it; blank: PLANNER_OBSERVATIONS_DIR, else the user's data folder.",
            show_default=False,
        ),
    ] = "",
    json: Json = False,
    csv: Csv = "",
) -> int:
    """Compare a benchmark's result with the estimate, figure by figure; keep it with --keep.

    Read are llama-bench (json, jsonl, csv, md), vllm bench serve, latency and throughput, SGLang's bench_serving and
    bench_one_batch, GuideLLM, AIPerf and InferenceX. What a file does not say comes from options, such as --gpu.
    """
    from planner.catalog.observations import read_results
    from planner.catalog.values import value_of
    from planner.observe import compared

    given = {name: value for name, text in flags.items() if (value := value_of(name, text)) is not None}
    found = compared(read_results(file), given)
    rows = [row for one in found for row in _rows(one)]
    names = [*("where", "tool"), *COLUMNS, *REFINED, "flag"]
    shown = written(names, rows, json, csv)
    if not shown:
        show_table(COLUMNS | (REFINED if any(row["refined"] is not None for row in rows) else {}), rows)
    for one in found:
        for fault in one.faults:
            print(f"flagged: {one.reading.where}: {fault}", file=sys.stderr)
    if keep:
        print(_keep(found, observations_dir), file=sys.stderr if shown else sys.stdout)
    return 0


def _rows(one: ComparedResult) -> list[dict[str, Any]]:
    from planner.accuracy.score import label

    return [
        {
            "where": one.reading.where,
            "tool": one.reading.tool.value,
            "configuration": f"{label(one.scenario)} {one.answer['engine']} {one.answer['engine_version']}",
            "figure": figure.name,
            "predicted": figure.predicted,
            "measured": figure.measured,
            "error_percent": _percent(figure.predicted, figure.measured),
            "inside": None
            if figure.low is None or figure.high is None
            else figure.low <= figure.measured <= figure.high,
            "refined": figure.refined,
            "refined_error_percent": _percent(figure.refined, figure.measured),
            "flag": "; ".join(one.faults),
        }
        for figure in one.figures
    ]


def _percent(predicted: float | None, measured: float) -> float | None:
    return None if predicted is None else 100 * (predicted / measured - 1)


def _keep(results: Sequence[ComparedResult], folder: str) -> str:
    """Store everything that is not flagged; what was done in one line."""
    from planner.catalog import observed
    from planner.observe import observation

    good = [observation(one) for one in results if not one.faults]
    new = [path for path, is_new in (observed.keep(one, folder or None) for one in good) if is_new]
    flagged = len(results) - len(good)
    said = f"kept {len(new)} of {len(results)} configurations in {folder or observed.default_dir()}"
    already = f", {len(good) - len(new)} were there" if len(good) > len(new) else ""
    return said + already + (f", {flagged} flagged" if flagged else "")
