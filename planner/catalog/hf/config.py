"""A config.json under bounds: every value is checked for type and range before it is used.

All faults are a BadValue of one line that names the file and the field.
"""

from __future__ import annotations

import math
from typing import Any

from planner.errors import BadValue

MAX_LAYERS = 4096
MAX_HIDDEN = 2**20
MAX_VOCAB = 2**22
MAX_EXPERTS = 4096
MAX_CONTEXT = 2**26


def shown(value: Any) -> str:
    """A value for a message, cut to a readable length."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**40:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value) if not isinstance(value, dict | list) else f"a {type(value).__name__} of {len(value)}"
    return text if len(text) <= 60 else text[:57] + "..."


class Config:
    """A mapping from outside. `where` names it in messages."""

    def __init__(self, data: Any, where: str) -> None:
        if not isinstance(data, dict):
            raise BadValue(f"{where}: {shown(data)}, not a JSON object of settings")
        self.data: dict[str, Any] = data
        self.where = where

    def bad(self, field: str, why: str) -> BadValue:
        """The error for a field: what stands there and why it cannot be used."""
        return BadValue(f"{self.where}: {field} is {shown(self.data.get(field))}, {why}")

    def unknown(self, field: str, known: str) -> BadValue:
        """The error for a kind that no reader knows."""
        return self.bad(field, f"a kind that is not known here (known: {known})")

    def has(self, field: str) -> bool:
        """Whether the field stands there and is not null."""
        return self.data.get(field) is not None

    def _first(self, fields: tuple[str, ...]) -> str | None:
        return next((field for field in fields if self.has(field)), None)

    def count(self, *fields: str, top: int = MAX_HIDDEN, default: int | None = None, low: int = 1) -> int:
        """The first of `fields` that is there, an integer in low..top."""
        field = self._first(fields)
        if field is None:
            if default is None:
                raise BadValue(f"{self.where}: {fields[0]} is missing")
            return default
        value = self.data[field]
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.bad(field, "not an integer")
        if not low <= value <= top:
            raise self.bad(field, f"outside {low}..{top}")
        return value

    def size(self, *fields: str, top: int = MAX_HIDDEN) -> int:
        """Like `count`, where zero and absence both mean none."""
        return self.count(*fields, top=top, default=0, low=0)

    def number(self, field: str, default: float) -> float:
        """A finite number."""
        value = self.data.get(field)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.bad(field, "not a finite number")
        return value

    def flag(self, field: str, default: bool = False) -> bool:
        """True or false."""
        value = self.data.get(field)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.bad(field, "neither true nor false")
        return value

    def text(self, field: str, default: str = "") -> str:
        """A string of at most 200 characters."""
        value = self.data.get(field)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.bad(field, "not a text")
        if len(value) > 200:
            raise self.bad(field, "longer than 200 characters")
        return value

    def counts(self, field: str, top: int = MAX_HIDDEN, low: int = 0) -> list[int]:
        """A list of integers in low..top; [] when absent."""
        values = self.items(field)
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= top:
                raise BadValue(f"{self.where}: {field} holds {shown(value)}, not an integer in {low}..{top}")
        return values

    def texts(self, field: str, top: int = 2 * MAX_LAYERS) -> list[str]:
        """A list of at most `top` strings; [] when absent."""
        values = self.items(field, top)
        for value in values:
            if not isinstance(value, str):
                raise BadValue(f"{self.where}: {field} holds {shown(value)}, not a text")
        return values

    def items(self, field: str, top: int = 2 * MAX_LAYERS) -> list[Any]:
        """A list of at most `top` entries; [] when absent."""
        value = self.data.get(field)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.bad(field, "not a list")
        if len(value) > top:
            raise self.bad(field, f"more than {top} entries")
        return value

    def sub(self, field: str) -> Config:
        """A nested object; empty when absent."""
        value = self.data.get(field)
        return Config({} if value is None else value, f"{self.where}: {field}")

    def defaults(self, **values: Any) -> Config:
        """The same settings, with what the publisher leaves to the model's class filled in."""
        return Config({**values, **{key: value for key, value in self.data.items() if value is not None}}, self.where)

    def merged(self, **changes: Any) -> Config:
        """The same settings with some replaced."""
        return Config({**self.data, **changes}, self.where)
