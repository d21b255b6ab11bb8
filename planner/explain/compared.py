"""What a comparison says, in a few lines: who holds the load, and who leads in speed, room and cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from planner.estimate.columns import EstimateRow
from planner.explain.words import HOLDING, answer_price, figure, interval, misses

Named = tuple[str, EstimateRow]


def conclusion(labels: Sequence[str], rows: Sequence[EstimateRow]) -> list[str]:
    """The lines, the verdicts first; leaders are sought among those that hold the load."""
    named = list(zip(labels, rows, strict=True))
    holding = [(label, row) for label, row in named if row["verdict"] in HOLDING]
    others = [label for label, row in named if row["verdict"] not in HOLDING]
    if not holding:
        return ["None of these holds the load."]
    lines = [
        f"{len(holding)} of {len(named)} hold the load; not {', '.join(others)}." if others else "All hold the load."
    ]
    missing = [label for label, row in holding if misses(row)]
    lines += [f"Objectives are missed by {', '.join(missing)}."] if missing else []
    if len(holding) == 1:
        return lines
    for words, name, shown in (
        ("Fastest for each user", "output_tokens_per_s_per_request", _speed),
        ("Most room", "max_concurrency", _room),
        ("Cheapest answers", "usd_per_million_output_tokens", _price),
    ):
        leader = _leader(holding, name, shown, least=name.startswith("usd"))
        lines += [f"{words}: {leader}."] if leader else []
    return lines


def _leader(named: Sequence[Named], name: str, shown: Callable[[EstimateRow], str], least: bool) -> str:
    """The best by a column and the next one; those that show the same figure share a place. Blank: nothing differs."""
    known = sorted((item for item in named if item[1][name]), key=lambda item: item[1][name], reverse=not least)
    if len(known) < 2:
        return ""
    best = shown(known[0][1])
    first = [label for label, row in known if shown(row) == best]
    if len(first) == len(known):
        return ""
    label, row = next(item for item in known if item[0] not in first)
    return f"{' and '.join(first)}, {best}; then {label}, {shown(row)}"


def _speed(row: EstimateRow) -> str:
    return f"{interval(row, 'output_tokens_per_s_per_request')} tokens/s"


def _room(row: EstimateRow) -> str:
    return f"{figure(row['max_concurrency'], row['max_concurrency_low'], row['max_concurrency_high'])} requests"


def _price(row: EstimateRow) -> str:
    return f"{answer_price(row)[0]} USD for a million tokens"
