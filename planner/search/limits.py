"""Objectives, budgets and least figures of a wish: which figure each one bounds, and from which side."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from planner.errors import BadValue
from planner.specs.gpu import GpuSpec
from planner.specs.scenario import Scenario
from planner.specs.wish import Wish


class Bound(NamedTuple):
    """A limit that a wish may hold, on a column of the estimate or of the search."""

    name: str  # of the wish's field
    column: str
    least: bool  # the figure must not be below it; else not above
    words: str
    early: bool = False  # known before anything is priced
    strict: bool = False  # what is not known breaks it
    grows: bool = False  # with every replica


BOUNDS = (
    Bound("max_gpus", "n_gpus", False, "GPUs", True, grows=True),
    Bound("max_usd_per_hour", "usd_per_hour", False, "USD per hour", True, grows=True),
    Bound("max_usd_per_month", "usd_per_month", False, "USD per month", True, grows=True),
    Bound("max_power_w", "power_w", False, "watts", True, grows=True),
    Bound("max_quality_loss_points", "quality_loss_points", False, "points lost", True, True),
    Bound("min_output_tokens_per_s", "output_tokens_per_s", True, "tokens/s"),
    Bound("min_output_tokens_per_s_per_request", "output_tokens_per_s_per_request", True, "tokens/s for each user"),
    Bound("min_requests_per_s", "requests_per_s", True, "requests/s"),
    Bound("min_context_tokens", "max_context_tokens", True, "longest request, tokens"),
)
OBJECTIVES = {"ttft_slo_ms": "TTFT", "tpot_slo_ms": "TPOT", "e2e_slo_ms": "end-to-end time"}


def less_is_better(name: str) -> bool:
    """Whether less of what an objective or a limit bounds is better."""
    return name in OBJECTIVES or any(name.startswith(bound.name) and not bound.least for bound in BOUNDS)


def check_lengths(load: Scenario) -> None:
    """Raises BadValue for a request without prompt and answer."""
    if load.input_tokens == 0 and load.output_tokens == 0:
        raise BadValue("a request needs a prompt or an answer; both lengths are 0")


def under(load: Scenario, wish: Wish) -> Scenario:
    """The load under the wish's objectives and its task, which come before its own. BadValue for a price of zero and
    for requests of no length."""
    check_lengths(load)
    if load.usd_per_gpu_hour == 0:
        raise BadValue(
            "column 'usd_per_gpu_hour': a price of 0 orders nothing; leave it blank or state what an hour costs"
        )
    names = (*OBJECTIVES, "task_family")
    return load.model_copy(update={name: value for name in names if (value := getattr(wish, name)) is not None})


def price_of(gpu: GpuSpec, wish: Wish) -> dict[str, float]:
    """The column of a GPU's price where the wish has one; else none."""
    price = wish.usd_per_gpu_hour.get(gpu.id)
    return {} if price is None else {"usd_per_gpu_hour": price}


def given(wish: Wish) -> Iterator[tuple[Bound, float]]:
    """The limits that the wish holds, with their values."""
    for bound in BOUNDS:
        value = getattr(wish, bound.name)
        if value is not None:
            yield bound, float(value)


def broken(bound: Bound, limit: float, figure: Any) -> Any:
    """Where a figure (a number or an array; nan: not known) breaks the limit."""
    beyond = np.less(figure, limit) if bound.least else np.greater(figure, limit)
    return beyond | np.isnan(figure) if bound.strict else beyond


def said(bound: Bound, limit: float, figure: float) -> str:
    """A broken limit in words."""
    if math.isnan(figure):
        return f"{bound.words}: no evidence, at most {limit:,.4g} asked for"
    return f"{bound.words}: {figure:,.4g} is {'below' if bound.least else 'above'} {limit:,.4g}"


def fault_of(row: Mapping[str, Any], wish: Wish) -> tuple[str, str]:
    """Name and words of the first limit that a row breaks; blank when it breaks none."""
    for bound, limit in given(wish):
        value = math.nan if row[bound.column] is None else float(row[bound.column])
        if broken(bound, limit, value):
            return bound.name, said(bound, limit, value)
    return "", ""
