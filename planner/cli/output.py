"""How rows leave the program: a table for people, one JSON document, or CSV; never two of them on one stream."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from planner.catalog.files import write_atomically
from planner.errors import BadValue
from planner.report import csv_text, json_text

if TYPE_CHECKING:
    from rich.console import Console

NO_VALUE = " "  # metavar of a switch
Json = Annotated[bool, typer.Option("--json", metavar=NO_VALUE, help="One JSON document on standard output.")]
Csv = Annotated[
    str, typer.Option("--csv", metavar="PATH|-", help="CSV to a file, or - for standard output.", show_default=False)
]
Cells = Mapping[str, object]
PIPE_WIDTH = 10_000  # columns where no terminal says how wide it is: a row stays on its line
MAX_SHOWN = 200
BETWEEN = 3  # columns of a terminal between two cells of a table


def console(stderr: bool = False) -> Console:
    """Where people read: colours only on a terminal, text taken literally."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(stderr=stderr, width=width, markup=False, highlight=False, emoji=False, soft_wrap=False)


def check_outputs(json: bool, csv: str) -> None:
    """Raises BadValue where two documents would be written to standard output."""
    if json and csv == "-":
        raise BadValue("--json and --csv - both write to standard output; give --csv a file")


def written(columns: Sequence[str], rows: Sequence[Cells], json: bool, csv: str) -> bool:
    """Write what machines read; False when nothing was asked for, so that people get their table."""
    check_outputs(json, csv)
    if csv == "-":
        sys.stdout.write(csv_text(columns, rows))
    elif csv:
        write_atomically(csv, csv_text(columns, rows))
    if json:
        sys.stdout.write(json_text([{column: row.get(column) for column in columns} for row in rows]))
    return json or bool(csv)


def differing(columns: Iterable[str], rows: Sequence[Cells]) -> list[str]:
    """Columns in which rows differ."""
    return [name for name in columns if len({row[name] for row in rows}) > 1]


def show_many(asked: Iterable[str], compared: Mapping[str, str], rows: Sequence[Cells]) -> None:
    """A row for each answer: what was `asked` of it, then the `compared` columns (name -> heading) that any row has."""
    answered = {name: heading for name, heading in compared.items() if any(row.get(name) for row in rows)}
    show_table({name: name for name in asked} | answered, rows)


def figure(value: object) -> str:
    """A value as people read it: three digits, thousands separated, a dash for what is not known."""
    if value is None or value == "" or value != value:  # NaN too
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if value == 0 or abs(value) >= 100:
            return f"{value:,.0f}"
        return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"
    return str(value)


def exact(value: object) -> str:
    """A catalogue's value as it is written there."""
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:,.10g}" if number else figure(value)


def show_table(
    columns: Mapping[str, str], rows: Sequence[Cells], say: Callable[[object], str] = figure, most: int = MAX_SHOWN
) -> None:
    """A table with `columns` (name -> heading), numbers on the right; longer than `most` it is cut and says so.

    In a terminal too narrow for it every row is a paragraph.
    """
    out = console()
    headings = list(columns.values())
    cells = [[say(row.get(name)) for name in columns] for row in rows[:most]]
    least = [max(map(_longest_word, column)) for column in zip(headings, *cells, strict=True)]
    room = out.width - BETWEEN * len(least)
    numeric = [any(isinstance(row.get(name), int | float) for row in rows[:most]) for name in columns]
    if sum(least) > room:
        _show_paragraphs(out, headings, cells, 1 if numeric[1:2] == [True] else 2)
    else:
        wished = [max(map(_width, column)) for column in zip(headings, *cells, strict=True)]
        _show_grid(out, list(zip(headings, numeric, _squeezed(wished, least, room), strict=True)), cells)
    if len(rows) > most:
        out.print(f"{most} of {len(rows)} rows; --csv or --json gives all")


def _width(text: str) -> int:
    """Columns of a terminal that a text takes."""
    from rich.cells import cell_len

    return cell_len(text)


def _longest_word(text: str) -> int:
    """The same, when it breaks between words only."""
    return max(map(_width, text.split()), default=0)


def _squeezed(wished: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """Widths that fit into `room`, which the least do: the widest column that can gives way first."""
    widths = list(wished)
    while sum(widths) > room:
        widths[max((i for i, width in enumerate(widths) if width > least[i]), key=widths.__getitem__)] -= 1
    return widths


def _show_grid(out: Console, columns: Sequence[tuple[str, bool, int]], cells: Sequence[Sequence[str]]) -> None:
    """A table with columns of (heading, whether it holds numbers, width)."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading, numeric, width in columns:
        table.add_column(heading, justify="right" if numeric else "left", width=width)
    for line in cells:
        table.add_row(*map(Text, line))
    out.print(table)


def _show_paragraphs(out: Console, headings: Sequence[str], cells: Sequence[Sequence[str]], naming: int) -> None:
    """Of every row the first `naming` cells as its title, the others under it with their headings."""
    from rich.padding import Padding
    from rich.text import Text

    out.print()
    for line in cells:
        out.print(Text("  ".join(line[:naming]), style="bold"))
        told = [one for one in zip(headings[naming:], line[naming:], strict=True) if one[1] not in ("", "–")]
        out.print(Padding(Text(" · ".join(map(" ".join, told))), (0, 0, 1, 2)))
