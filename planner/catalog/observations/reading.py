"""What every reader of a benchmark's result gives: columns, figures, what the file calls things, what is wrong."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from planner.specs.observation import Tool

Document = Mapping[str, Any]
MOST_TOKENS = 2**26


class Reading(NamedTuple):
    """One configuration of a result file. `model` and `gpu` are as the file names them, blank where it does not."""

    tool: Tool
    where: str
    columns: dict[str, Any]  # of the scenario, by name
    measured: dict[str, float]  # by estimate column
    model: str = ""
    gpu: str = ""
    faults: tuple[str, ...] = ()  # why its figures are not those of plain decoding


def number(value: Any) -> float | None:
    """A finite number, from a number or its text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def positive(value: Any) -> float | None:
    """A number above zero."""
    found = number(value)
    return found if found is not None and found > 0 else None


def whole(value: Any) -> int | None:
    """A number of things, rounded: lengths are means."""
    found = number(value)
    return round(found) if found is not None and 0 <= found <= MOST_TOKENS else None


def figures(**values: Any) -> dict[str, float]:
    """The figures that a file states."""
    return {name: found for name, value in values.items() if (found := positive(value)) is not None}


def stated(**values: Any) -> dict[str, Any]:
    """The columns that a file states."""
    return {name: value for name, value in values.items() if value is not None and value != ""}


def load(requests: Any, at_once: Any, rate: Any) -> dict[str, Any]:
    """How requests arrive: at a rate, or all offered and `at_once` of them in flight; all in flight without a cap."""
    total, cap, per_s = positive(requests), positive(at_once), positive(rate)
    if per_s is not None:
        return stated(request_rate_per_s=per_s, concurrency=whole(cap), run_requests=whole(total), waves=0.0)
    together = cap if total is None or (cap is not None and cap < total) else total
    if together is None:
        return {}
    return stated(concurrency=whole(together), waves=max(total / together, 1.0) if total else None)


def version(text: Any) -> str | None:
    """A version as an engine states it."""
    found = re.search(r"\d+\.\d+(?:\.\d+)*\w*", str(text or ""))
    return found[0] if found else None


def section(document: Any, *keys: str) -> Any:
    """What lies under these keys, or an empty mapping."""
    for key in keys:
        document = document.get(key) if isinstance(document, Mapping) else None
    return document if document is not None else {}
