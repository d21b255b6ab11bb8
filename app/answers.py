"""What a page asks of the estimator: one call for the answer, one for everything that is drawn beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from planner import explain
from planner.estimate import Library, estimate
from planner.estimate.columns import EstimateRow
from planner.search import smallest_count
from planner.specs.scenario import Scenario

LEAST_POINTS, MOST_POINTS = 12, 25
AXIS = tuple(round(2 ** (n / 2)) for n in range(28))  # 1, 1, 2, 3, 4, 6, 8, 11, 16 ... 11585
LAYOUT = ("n_gpus", "tp", "pp", "ep", "attention_dp", "dp")
COUNTS = (1, 2, 4, 8, 16, 32, 64)


class Answer(NamedTuple):
    """The row of the scenario, rows along its load, and changes that would help."""

    scenario: Scenario  # as priced: behind the door of a load, with the GPUs that it needs
    row: EstimateRow
    curve: list[EstimateRow]
    changes: list[explain.Change]


def rows(scenarios: Sequence[Scenario], library: Library) -> list[EstimateRow]:
    """Estimate scenarios that may name uploads of this session."""
    return estimate(scenarios, library=library).rows()


def first_answer(scenario: Scenario, door: str, library: Library) -> Answer:
    """The answer alone, at once; `row` carries an `error` where nothing can be said."""
    if door == "load":
        scenario = scenario.model_copy(update=dict.fromkeys(LAYOUT))
        found = smallest_count(scenario, COUNTS, lambda asked: rows(asked, library))
        return Answer(found.scenario, found.row, [], [])
    return Answer(scenario, rows([scenario], library)[0], [], [])


def answer(scenario: Scenario, door: str, library: Library) -> Answer:
    """The answer with its load curve and the changes that would help."""
    return with_curve(first_answer(scenario, door, library), library)


def with_curve(found: Answer, library: Library) -> Answer:
    """The answer with everything that is drawn beside it, in one call."""
    scenario, row = found.scenario, found.row
    if row["error"]:
        return found
    along = load_axis(row)
    fixed = {name: row[name] for name in LAYOUT} | {"concurrency": None, "users": None, "request_rate_per_s": None}
    curve = [scenario.model_copy(update=fixed | {"concurrency": n}) for n in along]
    tried = explain.proposals(row)
    variants = [scenario.model_copy(update=item.update) for item in tried]
    priced = rows(curve + variants, library)
    changes = explain.chosen(row, tried, priced[len(curve) :])
    return Answer(scenario, row, priced[: len(curve)], changes)


def load_axis(row: EstimateRow) -> list[int]:
    """Loads to draw: from one request to twice what is asked for or fits, the load itself among them."""
    asked = row["concurrency"] or 1
    most = max(2 * asked, 2 * (row["max_concurrency"] or 0), 2 ** (LEAST_POINTS // 2))
    points = {n for n in AXIS if n <= most} | {asked}
    return sorted(points)[-MOST_POINTS:] if len(points) > MOST_POINTS else sorted(points)


def context_curve(scenario: Scenario, row: EstimateRow, library: Library) -> list[EstimateRow]:
    """The same deployment at prompts from 256 tokens to twice what fits or the model's limit."""
    limit = library.model(scenario.model or "").max_position
    fixed = {name: row[name] for name in LAYOUT}
    most = min(max(limit, row["input_tokens"]), 2**24)
    lengths = sorted({round(256 * 2 ** (n / 2)) for n in range(34)} | {row["input_tokens"], most})
    chosen = [n for n in lengths if 0 < n <= most]
    none = {"input_tokens_p95": None, "max_model_len": None}
    return rows([scenario.model_copy(update=fixed | none | {"input_tokens": n}) for n in chosen], library)
