"""`planner quality-check`: a user's own examples before and after quantizing, and what they show."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planner.cli.exits import BAD_INPUT
from planner.cli.flags import Flag, grouped_flags, with_flags
from planner.cli.output import NO_VALUE, Csv, Json, check_outputs, console, show_table
from planner.errors import BadValue
from planner.quality.session import Settings

if TYPE_CHECKING:
    from planner.quality.runner import Progress

PANELS = {
    "baseline": "Sides",
    "judge": "Judge",
    "scorer": "Verdict",
    "repeats": "Answers",
    "journal": "Files",
    "attach": "Own test",
}
TAG_COLUMNS = {
    "tag": "tag",
    "examples": "examples",
    "baseline_percent": "baseline %",
    "candidate_percent": "candidate %",
    "difference_points": "difference",
    "difference_points_low": "from",
    "difference_points_high": "to",
    "worse": "worse",
    "better": "better",
    "p": "p",
    "verdict": "verdict",
}
MANNER_COLUMNS = {"figure": "", "baseline": "baseline", "candidate": "candidate"}


def _settings_flags() -> tuple[Flag, ...]:
    """A flag for every setting, its default in the help."""
    made = grouped_flags(Settings.model_fields, PANELS)
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    shown = (f" (default {defaults[one.name]})" if defaults[one.name] not in ("", None) else "" for one in made)
    return tuple(one._replace(says=f"{one.says}{default}") for one, default in zip(made, shown, strict=True))


with_settings = with_flags(_settings_flags())


@with_settings
def quality_check(
    flags: Mapping[str, str],
    file: Annotated[str, typer.Argument(metavar="EXAMPLES", help="Your examples, .jsonl or .csv.")] = "",
    template: Annotated[bool, typer.Option("--template", metavar=NO_VALUE, help="Print a sample file.")] = False,
    run_tests: Annotated[
        bool, typer.Option("--run-tests", metavar=NO_VALUE, help="Allow unit_test, which runs the answers' code.")
    ] = False,
    json: Json = False,
    csv: Csv = "",
) -> int:
    """Your own examples before and after quantizing: holds, cracks, or cannot tell.

    Without sides the file is checked and what it can show is said. Keys come from the environment only; answers are
    kept as they come, and a rerun asks only what is missing.
    """
    from planner.catalog.quality_results import keep
    from planner.quality.document import as_result, document
    from planner.quality.examples import TEMPLATE
    from planner.quality.session import run

    if template:
        sys.stdout.write(TEMPLATE.read_text("utf-8"))
        return 0
    if not file:
        raise BadValue("which examples? planner quality-check FILE; --template prints a sample")
    settings = _settings(flags)
    if not settings.baseline and not settings.candidate:
        return _describe(file, settings, run_tests)
    about = _about(settings)
    with _progress() as listener:
        done = run(file, settings, run_tests, listener)
    code = _say(done, settings, json, csv)
    if about:
        path = keep(as_result(document(done.check, {}), about))
        print(f"kept as your own test of {about['model']} in {about['weight_format']}: {path}", file=sys.stderr)
    return code


def _about(settings: Settings) -> dict[str, Any] | None:
    """What the verdict is to be attached to. Raises UnknownName, BadValue, before anything is asked."""
    from planner.catalog import formats, models, quality
    from planner.catalog.quality_results import new_id

    if not settings.attach:
        return None
    found = models.resolve(settings.attach)
    weight_format = settings.weight_format or found.weight_format
    if not weight_format:
        raise BadValue(f"--attach {settings.attach}: in which format? --weight-format ID (planner formats lists them)")
    if settings.kv_format:
        formats.kv_format(settings.kv_format)
    name, made = new_id()
    return {
        "id": name,
        "made": made,
        "model": found.model.id,
        "weight_format": formats.weight_format(weight_format).id,
        "kv_format": settings.kv_format or None,
        "task_family": quality.family(settings.task_family).id if settings.task_family else None,
    }


def _settings(flags: Mapping[str, str]) -> Settings:
    from pydantic import ValidationError

    try:
        return Settings.model_validate(flags)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0]).replace("_", "-")
        raise BadValue(f"--{name} {str(first['input'])[:60]!r}: {str(first['msg']).lower()}") from None


def _describe(file: str, settings: Settings, run_tests: bool) -> int:
    """What a file of examples holds, and how large a drop it shows at best."""
    from planner.quality.session import prepared
    from planner.quality.statistics import examples_needed, smallest_visible_drop

    examples, scorers = prepared(file, settings, run_tests)
    n, tolerance = len(examples), settings.tolerance_points
    kinds = sorted({scorer.kind.value for own in scorers.values() for scorer in own})
    tags = sorted({tag for example in examples for tag in example.tags})
    visible, needed = smallest_visible_drop(n, 0.0), examples_needed(tolerance / 100, 0.0)
    print(f"{n} examples, scored by {', '.join(kinds)}; tags: {', '.join(tags) or 'none'}")
    if visible is not None:
        print(f"a drop of {100 * visible:.1f} points or more shows with a chance of 80 %, where nothing else flips")
    if needed is not None and needed > n:
        print(f"{n} examples cannot see {tolerance:g} points; {needed:,} can")
    print("next: --baseline and --candidate, each an endpoint's URL or a file of answers")
    return 0


def _say(done: Any, settings: Settings, json: bool, csv: str) -> int:
    from planner.catalog.files import write_atomically
    from planner.quality.check import EXAMPLE_COLUMNS, example_rows
    from planner.quality.document import document, manner_rows
    from planner.quality.verdict import rows
    from planner.report import csv_text, json_text

    check = done.check
    check_outputs(json, csv)
    _write_files(done, settings)
    if csv == "-":
        sys.stdout.write(csv_text(EXAMPLE_COLUMNS, example_rows(check)))
    elif csv:
        write_atomically(csv, csv_text(EXAMPLE_COLUMNS, example_rows(check)))
    if json:
        sys.stdout.write(json_text(document(check, done.observations)))
    elif csv != "-":
        print(check.finding.headline)
        print("\n".join(check.finding.sentences))
        show_table(TAG_COLUMNS, rows(check.finding))
        show_table(MANNER_COLUMNS, manner_rows(check))
    for name, why in list(check.failed.items())[:10]:
        print(f"no answer: {name}: {why}", file=sys.stderr)
    return BAD_INPUT if check.failed else 0


def _write_files(done: Any, settings: Settings) -> None:
    """The report, and the candidate's speed, where they are asked for."""
    from planner.catalog.files import write_atomically
    from planner.report import json_text
    from planner.report.quality import html_report

    if settings.html:
        write_atomically(settings.html, html_report(done.check))
    speed = done.observations.get("candidate")
    if settings.observation and speed is None:
        print("no observation: the candidate was not asked in one go, or counts no tokens", file=sys.stderr)
    elif settings.observation:
        write_atomically(settings.observation, json_text(speed))


@contextmanager
def _progress() -> Iterator[Callable[[str], Progress] | None]:
    """A bar per side on standard error, on a terminal only."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import Progress as Bars

    with Bars(console=console(stderr=True), transient=True) as bars:

        def listener(side: str) -> Progress:
            task = bars.add_task(side, total=None)

            def tell(done: int, total: int, failed: int) -> None:
                words = f"{side}, {failed} failed" if failed else side
                bars.update(task, completed=done, total=total, description=words)

            return tell

        yield listener
