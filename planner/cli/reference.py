"""docs/cli.md from the program itself: `python -m planner.cli.reference docs/cli.md` (make docs)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import typer

from planner.catalog.files import write_atomically
from planner.cli.main import program

HEADER = """# The command line

Generated from the program's own help by `make docs`; a test keeps it so.

Exit codes: 0 an answer, also "does not fit"; 2 bad input, one line on standard error; 3 an unmet `--require`;
130 interrupted. Files are written whole or not at all.
"""


def document() -> str:
    """The whole reference as Markdown."""
    group: Any = typer.main.get_command(program())
    parts = [HEADER]
    for name, command in group.commands.items():
        arguments = [f"[{item.metavar}]" for item in command.params if _positional(item)]
        usage = " ".join(["planner", name, *arguments, "[OPTIONS]"])
        parts.append(f"\n## planner {name}\n\n{_paragraphs(command.help)}\n\n    {usage}\n")
        parts += _tables(command.params)
    return "".join(parts)


def _positional(item: Any) -> bool:
    return bool(item.param_type_name == "argument")


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _tables(options: list[Any]) -> Iterator[str]:
    """Options in a table per group."""
    panels: dict[str, list[Any]] = {}
    for item in options:
        if not _positional(item):
            panels.setdefault(item.rich_help_panel or "Options", []).append(item)
    for panel, items in panels.items():
        yield f"\n| {panel} | | |\n|---|---|---|\n"
        for item in items:
            kind = "" if item.is_flag else f"`{item.metavar or str(item.type_descriptor.annotation.__name__)}`"
            yield f"| `{item.opts[0]}` | {kind.replace('|', chr(92) + '|')} | {item.help} |\n"


if __name__ == "__main__":
    write_atomically(sys.argv[1], document())
