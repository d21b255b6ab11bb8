"""What can go wrong with data from outside.

    PlannerError
    ├── UnknownName      a model, GPU, format, engine or field that no catalogue holds
    ├── BadValue         a value that is malformed, non-finite or out of range
    └── BadFile          a file that cannot be read, is too large or holds the wrong thing

Every message is one line: what, where, what is known, what to do. A scenario that does not fit is an
answer, not an error: formulas raise nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class PlannerError(Exception):
    """Base of all errors that a user's input can cause; shown as one line, exit code 2."""


class UnknownName(PlannerError):
    """A name that no catalogue holds; the message carries the nearest known one."""

    def __init__(self, what: str, name: str, known: Iterable[str], hint: str = "") -> None:
        shown = name if len(name) <= 80 else name[:77] + "..."
        forms = {form: full for full in known for form in (full.lower(), full.lower().rpartition("/")[2])}
        near = [forms[form] for form in difflib.get_close_matches(name[:80].lower(), list(forms), n=1, cutoff=0.5)]
        suggestion = f"; did you mean '{near[0]}'?" if near else ""
        super().__init__(f"unknown {what} {shown!r}{suggestion}{f' ({hint})' if hint else ''}")


class BadValue(PlannerError):
    """A value that is malformed, non-finite or out of range."""


class BadFile(PlannerError):
    """A file that cannot be read, is too large or does not hold what it should."""


def first_fault(error: ValidationError) -> str:
    """The first thing that is wrong with a record, on one line: its field and what was expected there."""
    first = error.errors(include_url=False)[0]
    field, said = ".".join(map(str, first["loc"]))[:80], first["msg"].removeprefix("Value error, ")[:160]
    return f"{field}: {said}" if field else said
