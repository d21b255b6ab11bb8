"""`planner simulate`: a scenario as discrete events; percentiles of TTFT, TPOT and whole requests."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, NamedTuple

import typer

from planner.catalog.files import write_atomically
from planner.catalog.scenarios import scenarios_from_flags
from planner.catalog.traces import read_trace
from planner.catalog.values import columns
from planner.cli.answer_text import VERDICTS, deployment
from planner.cli.flags import with_choices, with_scenario_flags
from planner.cli.output import NO_VALUE, Csv, Json, console, differing, show_many, show_table, written
from planner.errors import BadValue
from planner.events import Routing, Timeline
from planner.report import csv_text
from planner.simulation import MAX_REQUESTS, SPREAD, Protocol, Simulated, simulation

DEFAULT = Protocol()
SPREADS = {
    "ttft": "time to first token, ms",
    "tpot": "time per output token, ms",
    "e2e": "whole request, ms",
    "queue": "until its first step, ms",
}
FIGURES = {
    "simulated_output_tokens_per_s": "tokens/s, whole deployment",
    "simulated_requests_per_s": "requests/s",
    "queue_p99": "requests in the queue, p99 over time",
    "utilisation": "share of the time in steps",
    "slo_attainment": "share of requests that meet the objectives",
    "preemptions": "preemptions",
    "refused": "requests longer than the engine takes",
    "restarted": "requests started again after the failure",
    "simulated_requests": "requests counted",
}
COMPARED = {
    "verdict": "verdict",
    "ttft_p50_ms": "TTFT p50 ms",
    "ttft_p99_ms": "TTFT p99 ms",
    "tpot_p50_ms": "TPOT p50 ms",
    "tpot_p99_ms": "TPOT p99 ms",
    "simulated_output_tokens_per_s": "tok/s all",
    "queue_p99": "queue p99",
    "preemptions": "preemptions",
    "slo_attainment": "meets objectives",
}


class Choices(NamedTuple):
    """Options of a simulation beside the scenario's columns."""

    trace: Annotated[
        str,
        typer.Option(
            metavar="FILE|-",
            help="Requests from a CSV file with the columns time (seconds), input, output (tokens); replaces the load.",
            show_default=False,
        ),
    ] = ""
    burst: Annotated[bool, typer.Option("--burst", metavar=NO_VALUE, help="All requests arrive at once.")] = False
    requests: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MAX_REQUESTS,
            help=f"Requests to count after a warm-up, or the first of a trace; blank: {DEFAULT.requests}, all of it.",
            show_default=False,
        ),
    ] = None
    seed: Annotated[
        int, typer.Option(min=0, max=2**32, help="Decides lengths and arrivals; the same seed, the same run.")
    ] = DEFAULT.seed
    routing: Annotated[Routing, typer.Option(help="Which replica takes a request.")] = DEFAULT.routing
    spare_replicas: Annotated[
        int, typer.Option(min=0, max=65535, help="Of the dp replicas so many stand by and serve only after a failure.")
    ] = DEFAULT.spare_replicas
    fail_at_s: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1e9,
            help="A replica stops for good at this second; its requests start again on others, a spare joins.",
            show_default=False,
        ),
    ] = None
    timeline: Annotated[
        str,
        typer.Option(metavar="PATH", help="Queue, running requests and KV use over time, as CSV.", show_default=False),
    ] = ""


@with_scenario_flags
@with_choices(Choices)
def simulate(flags: Mapping[str, str], choices: Choices, json: Json = False, csv: Csv = "") -> int:
    """Replay a load request by request through the engines' schedulers: percentiles, queue, preemptions.

    Requests arrive as the load says: --concurrency keeps so many in flight (with --waves as a load generator does, all
    offered at once), --request-rate-per-s is Poisson, --users with --think-time-s and --turns converse; --trace and
    --burst replace it. Lists and ranges span a grid.
    """
    if choices.trace and choices.burst:
        raise BadValue("--trace and --burst both say when requests arrive; give one of them")
    protocol = protocol_of(choices)
    scenarios = scenarios_from_flags(flags)
    found = [simulation(scenario, protocol) for scenario in scenarios]
    if choices.timeline:
        write_timeline(choices.timeline, found)
    answers = [each.row for each in found]
    if not written(list(answers[0]), answers, json, csv):
        stated = [name for name in columns() if any(getattr(scenario, name) is not None for scenario in scenarios)]
        show(found[0]) if len(found) == 1 else show_many(differing(stated, answers), COMPARED, answers)
    return 0


def protocol_of(choices: Choices) -> Protocol:
    """The options as a protocol; the trace is read."""
    return Protocol(
        requests=choices.requests or DEFAULT.requests,
        seed=choices.seed,
        routing=choices.routing,
        burst=choices.burst,
        spare_replicas=choices.spare_replicas,
        fail_at_s=math.inf if choices.fail_at_s is None else choices.fail_at_s,
        trace=read_trace(choices.trace, choices.requests or MAX_REQUESTS) if choices.trace else None,
    )


def write_timeline(path: str, simulated: list[Simulated]) -> None:
    """The timelines of all scenarios in one file, each named by its number."""
    rows = [
        {"scenario": number, **dict(zip(Timeline._fields, values, strict=True))}
        for number, each in enumerate(simulated, start=1)
        if each.run
        for values in zip(*(column.tolist() for column in each.run.timeline), strict=True)
    ]
    write_atomically(path, csv_text(("scenario", *Timeline._fields), rows))


def show(simulated: Simulated) -> None:
    """One scenario: what it is, percentiles of its times, then the other figures."""
    from rich.text import Text

    out, answer = console(), simulated.row
    words, colour = VERDICTS[answer["verdict"]]
    out.print(Text(f"{words}.", style=f"bold {colour}"))
    if answer["reason"]:
        out.print(Text(str(answer["reason"])))
    out.print(Text(deployment(answer), style="dim"))
    if simulated.run is None:
        return
    rows = [{"time": label} | {part: answer[f"{name}_{part}_ms"] for part in SPREAD} for name, label in SPREADS.items()]
    show_table({"time": ""} | dict(zip(SPREAD, SPREAD, strict=True)), rows)
    figures = [{"what": label, "value": answer[name]} for name, label in FIGURES.items() if answer[name] is not None]
    show_table({"what": "", "value": "simulated"}, figures)
    out.print(Text("Every column: --json or --csv -", style="dim"))
