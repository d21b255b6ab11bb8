"""`planner accuracy`: what was predicted against what was measured, by any of the rows' conditions."""

from __future__ import annotations

from typing import Annotated

import typer

from planner.cli.output import Csv, Json, show_table, written
from planner.errors import UnknownName

By = Annotated[
    str,
    typer.Option(metavar="NAMES", help="Group by part, figure, regime, gpu, engine, engine_version, kind, evidence."),
]
Markdown = Annotated[
    str, typer.Option(metavar="PATH", help="Write the whole report as Markdown, as in docs/.", show_default=False)
]


def accuracy(by: By = "part,figure,regime", markdown: Markdown = "", json: Json = False, csv: Csv = "") -> None:
    """Predicted against every measured row that ships: median and p90 error, bias, coverage of the intervals."""
    from planner.accuracy.report import markdown as page
    from planner.accuracy.score import GROUPED, compared, grouped, reasons, score
    from planner.catalog.files import write_atomically

    names = [name.strip() for name in by.split(",") if name.strip()]
    for name in names:
        if name not in GROUPED:
            raise UnknownName("grouping", name, GROUPED, f"known: {', '.join(GROUPED)}")
    found = compared()
    if markdown:
        write_atomically(markdown, page(found))
    groups = grouped(found.comparisons, lambda row: tuple(getattr(row, name) for name in names))
    rows = [dict(zip(names, key, strict=True)) | score(group)._asdict() for key, group in groups.items()]
    if written(list(rows[0]), rows, json, csv):
        return
    show_table({name: name.replace("_", " ") for name in rows[0]}, rows)
    without = reasons(found.unanswered).most_common()
    if without:
        shown = [{"part": part, "reason": reason, "rows": count} for (part, reason), count in without]
        show_table({"part": "rows without an answer", "reason": "reason", "rows": "rows"}, shown)
