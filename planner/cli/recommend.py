"""`planner recommend`: which model, at which precision, on what, for a load, objectives and budgets."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, NamedTuple

import typer

from planner.catalog.files import write_atomically
from planner.catalog.values import checked, number_of, shown
from planner.cli.flags import with_choices, with_scenario_flags
from planner.cli.output import Csv, Json, check_outputs, console, show_table, written
from planner.errors import BadValue
from planner.specs.scenario import Scenario
from planner.specs.wish import RankBy, Space, Wish
from planner.units import BILLION

AXES = {  # columns that may hold several values, and the axis of the space that they are
    "model": "models",
    "gpu": "gpus",
    "weight_format": "formats",
    "kv_format": "kv_formats",
    "engine": "engines",
    "n_gpus": "counts",
    "dp": "replicas",
    "tp": "tps",
    "pp": "pps",
    "ep": "eps",
    "attention_dp": "attention_dps",
}
LIMITS = (
    "max_gpus max_usd_per_hour max_usd_per_month max_power_w max_quality_loss_points min_output_tokens_per_s "
    "min_output_tokens_per_s_per_request min_requests_per_s min_context_tokens"
).split()
SHOWN = 10  # candidates of the table
TABLE = {
    "rank": "#",
    "model": "model",
    "weight_format": "weights",
    "where": "on",
    "engine": "engine",
    "output_tokens_per_s_per_request": "tok/s user",
    "ttft_ms": "TTFT ms",
    "output_tokens_per_s": "tok/s all",
    "price": "USD/1000 req",
    "usd_per_million_output_tokens": "USD/M tok",
    "quality": "quality",
    "ties": "ties",
}


def _text(metavar: str, says: str) -> Any:
    return typer.Option(metavar=metavar, help=says, show_default=False)


def _limit(name: str) -> Any:
    return _text("X", str(Wish.model_fields[name].description))


class Choices(NamedTuple):
    """Options of a search beside the scenario's columns."""

    preset: Annotated[
        str, _text("NAME", "Start from a common load: chat, rag, code, reasoning, batch, documents, swarm.")
    ] = ""
    rank_by: Annotated[RankBy | None, typer.Option(help="What comes first; blank: quality.", show_default=False)] = None
    blend: Annotated[str, _text("SHARES", "Shares of a blend, such as quality=0.5,cost=0.3,latency=0.2.")] = ""
    price: Annotated[str, _text("PRICES", "USD per GPU hour, such as h100-sxm=2.5,l4=0.4.")] = ""
    parameters: Annotated[str, _text("FROM:TO", "Only models of this size, billion parameters, such as 7:80.")] = ""
    max_gpus: Annotated[str, _limit("max_gpus")] = ""
    max_usd_per_hour: Annotated[str, _limit("max_usd_per_hour")] = ""
    max_usd_per_month: Annotated[str, _limit("max_usd_per_month")] = ""
    max_power_w: Annotated[str, _limit("max_power_w")] = ""
    max_quality_loss_points: Annotated[str, _limit("max_quality_loss_points")] = ""
    min_output_tokens_per_s: Annotated[str, _limit("min_output_tokens_per_s")] = ""
    min_output_tokens_per_s_per_request: Annotated[str, _limit("min_output_tokens_per_s_per_request")] = ""
    min_requests_per_s: Annotated[str, _limit("min_requests_per_s")] = ""
    min_context_tokens: Annotated[str, _limit("min_context_tokens")] = ""
    html: Annotated[str, _text("PATH", "The choice as a report that needs nothing else.")] = ""
    compose: Annotated[str, _text("PATH", "A docker compose file that starts the winner.")] = ""


@with_scenario_flags
@with_choices(Choices)
def recommend(flags: Mapping[str, str], choices: Choices, json: Json = False, csv: Csv = "") -> int:
    """Rank every model, format, engine and layout for a load: the best that holds it, and why the others do not.

    Hardware first: --gpu rtx4090 --n-gpus 2 --concurrency 8. Load first, without --n-gpus: as many GPUs as it takes,
    --gpu h100-sxm,l40s --users 200 --think-time-s 20 --tpot-slo-ms 40. Hardware options, --model, --weight-format,
    --kv-format and --engine take lists; blank means what is usual. Without --gpu: those of 24 GB and more with a known
    price.
    """
    from planner.search import recommend as search

    check_outputs(json, csv)
    load, space, wish = question(flags, choices)
    found = search(load, space, wish, progress=_progress())
    if choices.html:
        from planner.report.choice import choice_report

        write_atomically(choices.html, choice_report(found, wish))
    if choices.compose:
        _write_compose(choices.compose, found)
    columns = columns_of()
    if csv:
        written(columns, found.candidates, False, csv)
    if json:
        from planner.report import json_text

        candidates = [{name: row.get(name) for name in columns} for row in found.candidates]
        sys.stdout.write(json_text({"candidates": candidates, "rejected": found.rejected} | _summary(found, wish)))
    elif csv != "-":
        _show(found, wish)
    return 0


def columns_of() -> list[str]:
    """Columns of a candidate, in the order of a CSV."""
    from planner.estimate.columns import estimate_columns
    from planner.search.records import ADDED_COLUMNS

    return [*ADDED_COLUMNS, *Scenario.model_fields, *estimate_columns(), "planner_version", "schema_version"]


def question(flags: Mapping[str, str], choices: Choices) -> tuple[Scenario, Space, Wish]:
    """Load, space and wish from options, over those of a preset. Raises PlannerError for what cannot be read."""
    from planner.catalog.presets import preset
    from planner.catalog.scenarios import axis
    from planner.catalog.values import check_column

    begin = preset(choices.preset) if choices.preset else None
    values = begin.load.model_dump(exclude_none=True) if begin else {}
    wishes = begin.wish.model_dump(exclude_unset=True) if begin else {}
    axes: dict[str, tuple[Any, ...]] = {}
    for name, text in flags.items():
        found = axis(check_column(name), text)
        if name in AXES:
            axes[AXES[name]] = tuple(found)
            values.pop(name, None)
        elif name == "concurrency" and len(found) > 1:
            axes["concurrencies"] = tuple(found)
        elif len(found) > 1:
            raise BadValue(f"{name} {shown(text)}: one value; only {', '.join(AXES)} and concurrency take a list")
        else:
            values[name] = found[0]
    if flags.keys() & {"request_rate_per_s", "users"} and "concurrency" not in flags:
        values.pop("concurrency", None)
    if choices.parameters:
        if "models" in axes:
            raise BadValue("--parameters chooses models by size, --model by name: give one of them")
        axes["models"] = sized(choices.parameters)
    return checked(Scenario, values), checked(Space, axes), _wish(wishes, choices, axes.get("gpus", ()))


def _wish(values: dict[str, Any], choices: Choices, named: Iterable[str]) -> Wish:
    for name in LIMITS:
        if text := getattr(choices, name):
            values[name] = number_of(name, text)
    if choices.blend:
        shares = _pairs("blend", choices.blend)
        values |= {
            "rank_by": RankBy.BLEND,
            "weights": {"quality": 0, "cost": 0, "throughput": 0, "latency": 0} | shares,
        }
        _known_shares(shares)
    if choices.rank_by:
        values["rank_by"] = choices.rank_by
    if choices.price:
        from planner.catalog import gpus

        prices = _pairs("price", choices.price)
        for name, price in prices.items():
            if price <= 0:
                raise BadValue(f"price {name}={price:g} must be above 0")
        ids = {gpus.gpu(name).id for name in named}  # of profile files, which the catalogue does not know
        values["usd_per_gpu_hour"] = {
            name if name in ids else gpus.gpu(name).id: price for name, price in prices.items()
        }
    return checked(Wish, values)


def _known_shares(shares: Mapping[str, float]) -> None:
    known = [by.value for by in RankBy if by is not RankBy.BLEND]
    for name, share in shares.items():
        if name not in known or not 0 <= share <= 1:
            raise BadValue(f"blend {name}={share:g}: shares are 0 to 1 of {', '.join(known)}")
    if not sum(shares.values()):
        raise BadValue("blend: at least one share must be above 0")


def _pairs(name: str, text: str) -> dict[str, float]:
    found = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise BadValue(f"{name} {shown(text)} is not a list such as name=1.5,other=2")
        found[key.strip()] = number_of(f"{name} {key.strip()}", value.strip())
    return found


def sized(text: str) -> tuple[str, ...]:
    """Models of the catalogue that write text, FROM:TO billion parameters. BadValue when there are none."""
    from planner.catalog import models

    low, colon, high = text.partition(":")
    least = number_of("parameters", low.strip()) if low.strip() else 0.0
    most = number_of("parameters", high.strip()) if high.strip() else (least if not colon else float("inf"))
    found = tuple(
        entry.id
        for entry in models.model_index()
        if entry.task == "generate" and least * BILLION <= entry.parameters <= most * BILLION
    )
    if not found:
        raise BadValue(f"parameters {shown(text)}: no bundled model has {least:g} to {most:g} billion parameters")
    return found


def _progress() -> Any:
    """Called with models done and all of them; where somebody watches, a line that is written over."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        sys.stderr.write(f"\r{done} of {total} models" + ("\r\033[K" if done == total else ""))
        sys.stderr.flush()

    return show


def _summary(found: Any, wish: Wish) -> dict[str, Any]:
    from planner.search import words

    best = {name: {"value": one.value} | one.columns for name, one in found.best.items()}
    return {
        "verdict": words.headline(found),
        "why": words.reasons(found, wish),
        "rank_by": wish.rank_by.value,
        "pareto": found.pareto,
        "near_ties": found.near_ties,
        "reasons": dict(found.reasons),
        "best_reached": best,
        "combinations": found.combinations,
        "priced": found.priced,
        "launch": _launch(found),
    }


def _launch(found: Any) -> str | None:
    from planner.report.launch import launch_command

    return launch_command(found.candidates[0]) or None if found.candidates else None


def _write_compose(path: str, found: Any) -> None:
    from planner.report.compose import compose_file

    if not found.candidates:
        raise BadValue(f"--compose: {found.verdict}")
    write_atomically(path, compose_file(found.candidates[0]))


def _show(found: Any, wish: Wish) -> None:
    from rich.text import Text

    from planner.explain.quality import in_short
    from planner.search import words

    out = console()
    out.print(Text(words.headline(found), style="bold green" if found.candidates else "bold yellow"))
    for line in words.reasons(found, wish):
        out.print(Text(line))
    if found.candidates:
        rows = [
            row
            | {"where": words.arrangement(row), "price": words.thousand_price(row)}
            | {"quality": in_short(row), "ties": "~" if 1 in row["tie_with"] else ""}
            for row in found.candidates[:SHOWN]
        ]
        show_table(TABLE, rows)
        command = _launch(found)
        if command:
            out.print(Text(f"Start it:\n{command}\n"))
    if found.candidates and found.reasons:
        out.print(Text(f"Rejected of {found.combinations:,}: {words.refusals(found)}.", style="dim"))
    out.print(Text("Every candidate and every reason: --json, --csv PATH, --html PATH", style="dim"))
