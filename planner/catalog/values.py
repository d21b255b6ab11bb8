"""Text to the value of a scenario column: strict numbers, plain booleans, one line for what cannot be read.

CSV cells, command-line flags and the parameters of a link all come through here, so that they agree.
"""

from __future__ import annotations

import difflib
import math
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from planner.errors import BadValue, UnknownName
from planner.specs.scenario import Scenario

Value = str | int | float | bool
Checked = TypeVar("Checked", bound=BaseModel)
MOST_VALUES = 100_000  # of one range
MOST_SHARES = 128  # GPUs of one `tensor_split`

_WHOLE = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
_TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_EXACT_INTEGERS = 2.0**53


@lru_cache(maxsize=1)
def columns() -> dict[str, type]:
    """Type of every scenario column: str, int, float or bool."""
    return {name: plain_type(field.annotation) for name, field in Scenario.model_fields.items()}


def plain_type(annotation: Any) -> type:
    """The plain type under Optional, Annotated and Literal."""
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return type(typing.get_args(annotation)[0])
    if origin is typing.Annotated:
        return plain_type(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return plain_type(next(part for part in typing.get_args(annotation) if part is not type(None)))
    return typing.cast(type, annotation)


def check_column(name: str) -> str:
    """The name of a column. Raises UnknownName with the nearest one."""
    if name not in columns():
        raise UnknownName("column", name, columns(), "'planner schema' lists them; nothing is ignored")
    return name


def shown(value: object) -> str:
    """A value as an error message quotes it: short, on one line."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def value_of(column: str, given: object) -> Value | None:
    """The value of a column from a cell, a flag or a JSON scalar; None when blank. Raises BadValue."""
    if given is None:
        return None
    if isinstance(given, str):
        text = given.strip()
        return _READERS[columns()[column]](column, text) if text else None
    return _from_scalar(column, given)


def _from_scalar(column: str, given: object) -> Value:
    kind = columns()[column]
    if kind is bool or isinstance(given, bool):
        if kind is bool and isinstance(given, bool):
            return given
    elif isinstance(given, int):
        return str(given) if kind is str else given
    elif isinstance(given, float) and kind in (int, float):
        return given if kind is float else _integral(column, given, given)
    elif isinstance(given, float):
        raise BadValue(f"{column} {shown(given)} is a number where text is meant; write it in quotes")
    raise BadValue(f"{column} {shown(given)} is not {_MEANT[kind]}")


def _text(column: str, text: str) -> str:
    if not text.isprintable():
        raise BadValue(f"{column} {shown(text)} holds a control character")
    return text


def _integer(column: str, text: str) -> int:
    if _WHOLE.fullmatch(text):
        return int(text)
    return _integral(column, number_of(column, text), text)


def _integral(column: str, number: float, given: object) -> int:
    if not number.is_integer():
        raise BadValue(f"{column} {shown(given)} is not a whole number")
    if abs(number) > _EXACT_INTEGERS:
        raise BadValue(f"{column} {shown(given)} is out of range")
    return int(number)


def number_of(column: str, text: str) -> float:
    """A finite decimal number. Raises BadValue that names the column."""
    if not _NUMBER.fullmatch(text) or not math.isfinite(number := float(text)):
        raise BadValue(f"{column} {shown(text)} is not a number (decimal point, no thousands separators, no unit)")
    return number


def _truth(column: str, text: str) -> bool:
    if (value := _TRUTH.get(text.lower())) is None:
        raise BadValue(f"{column} {shown(text)} is not a yes or no (true, false)")
    return value


_READERS: dict[type, Callable[[str, str], Value]] = {str: _text, int: _integer, float: number_of, bool: _truth}
_MEANT = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def scenario_of(values: Mapping[str, Value]) -> Scenario:
    """The scenario with these values. Raises BadValue for the first that is out of range."""
    return checked(Scenario, values)


def checked(kind: type[Checked], values: Mapping[str, Any]) -> Checked:
    """A record from outside. Raises BadValue for the first value that is out of range."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise BadValue(next(_faults(error))) from None


def valid_part(values: Mapping[str, Value]) -> tuple[Scenario, str]:
    """The scenario of those values that are in range, and what is wrong with the first of the others."""
    try:
        return Scenario.model_validate(values), ""
    except ValidationError as error:
        bad = {str(item["loc"][0]) for item in error.errors()}
        rest = {name: value for name, value in values.items() if name not in bad}
        return Scenario.model_validate(rest), next(_faults(error))


def _faults(error: ValidationError) -> Iterator[str]:
    for item in error.errors(include_url=False):
        column, limits = item["loc"][0], item.get("ctx", {})
        yield f"{column} {shown(item['input'])} {_fault(item['type'], limits, str(item['input']))}"


def _fault(kind: str, limits: Mapping[str, Any], given: str) -> str:
    match kind:
        case "finite_number":
            return "is not a finite number"
        case "greater_than_equal":
            return f"is below {limits['ge']:,.12g}"
        case "greater_than":
            return f"must be above {limits['gt']:,.12g}"
        case "less_than_equal":
            return f"is above {limits['le']:,.12g}"
        case "less_than":
            return f"must be below {limits['lt']:,.12g}"
        case "string_too_long":
            return f"is longer than {limits['max_length']} characters"
        case "literal_error":
            known = re.findall(r"'([^']*)'", limits["expected"])
            near = difflib.get_close_matches(given[:80], known, n=1)
            return f"is not one of {', '.join(known)}" + (f"; did you mean '{near[0]}'?" if near else "")
    return "cannot be used"


def shares_of(text: str) -> tuple[float, ...]:
    """The share of each GPU in `tensor_split`, such as 3,1. Raises BadValue."""
    try:
        shares = tuple(float(part) for part in text.replace("/", ",").split(",")[: MOST_SHARES + 1])
    except ValueError:
        shares = ()
    if not 0 < len(shares) <= MOST_SHARES or not all(0 <= share < math.inf for share in shares) or sum(shares) <= 0:
        raise BadValue(f"column 'tensor_split': {text[:40]!r} is not a list of shares such as 3,1")
    return shares


def stepped(column: str, text: str, whole: bool) -> list[Value]:
    """`first:last:xFACTOR` or `first:last:+STEP`, both ends included where the steps reach them. Raises BadValue."""
    parts = text.split(":")
    if len(parts) != 3 or parts[2][:1] not in ("x", "+"):
        raise BadValue(f"{column} {shown(text)} is not a range; write first:last:x2 or first:last:+10")
    first, last, step = (number_of(column, part.strip()) for part in (parts[0], parts[1], parts[2][1:]))
    factor = parts[2][0] == "x"
    if first > last or step <= (1 if factor else 0) or (factor and first <= 0):
        raise BadValue(f"{column} {shown(text)} never gets from {parts[0]} to {parts[1]}")
    steps = math.log(last / first, step) if factor else (last - first) / step
    if steps > MOST_VALUES:
        raise BadValue(f"{column} {shown(text)} has more than {MOST_VALUES} values")
    points = [first * step**i if factor else first + i * step for i in range(int(steps + 1e-9) + 1)]
    return list(dict.fromkeys(round(point) if whole else float(f"{point:.12g}") for point in points))
