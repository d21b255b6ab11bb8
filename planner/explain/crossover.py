"""Where one weight format stops being the fastest and another takes over, as requests at once grow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from planner.estimate.columns import EstimateRow
from planner.explain.words import format_name
from planner.specs.scenario import Scenario

COMPARED_IN = {"llama.cpp": ("gguf-f16", "gguf-q8_0", "gguf-q6_k", "gguf-q4_k_m")}
COMPARED_IN_SERVERS = ("bf16", "fp8", "int8-w8a8", "awq-int4-g128", "nvfp4")  # any other engine
SPEED = "output_tokens_per_s"
SILENT = ("no", None)  # verdicts without a speed
EVEN = 1.02  # leads below this are none


class Series(NamedTuple):
    """Tokens/s of the deployment in one format against requests at once, with 80 % intervals."""

    weight_format: str
    concurrency: tuple[int, ...]
    speed: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    support: str  # native | weight_only | ...


class LeadChange(NamedTuple):
    """Where the fastest format changes; between `earliest` and `latest` the intervals of the two overlap."""

    concurrency: float
    before: str
    after: str
    earliest: int | None  # None: they overlap from the first load on
    latest: int | None  # None: to the last


class Crossover(NamedTuple):
    """Formats on one deployment, and every change of the lead."""

    series: tuple[Series, ...]
    changes: tuple[LeadChange, ...]
    evidence: str


def formats_to_compare(row: EstimateRow) -> tuple[str, ...]:
    """The row's own format and those that its engine is usually asked for."""
    usual = COMPARED_IN.get(row["engine"], COMPARED_IN_SERVERS)
    return (row["weight_format"], *(name for name in usual if name != row["weight_format"]))


def crossover_scenarios(scenario: Scenario, row: EstimateRow, axis: Sequence[int]) -> list[Scenario]:
    """Every format at every load of the axis, on the GPUs and the layout of the row."""
    layout = {name: row[name] for name in ("n_gpus", "tp", "pp", "dp")}
    closed: dict[str, Any] = {"users": None, "request_rate_per_s": None, "think_time_s": None}
    return [
        scenario.model_copy(update=layout | closed | {"weight_format": name, "concurrency": count})
        for name in formats_to_compare(row)
        for count in axis
    ]


def crossover(rows: Sequence[EstimateRow]) -> Crossover:
    """Series and lead changes from priced rows of `crossover_scenarios`, in their order."""
    found: dict[str, list[EstimateRow]] = {}
    for row in rows:
        if row["error"] is None and row["verdict"] not in SILENT and row[SPEED] and row["support"] != "emulated":
            found.setdefault(row["weight_format"], []).append(row)
    series = tuple(_series(name, kept) for name, kept in found.items())
    said = rows[0] if rows else {}
    evidence = f"operators: {said.get('speed_evidence')}; engine: {said.get('engine_evidence')}"
    return Crossover(series, tuple(_changes(series)), evidence)


def _series(name: str, rows: Sequence[EstimateRow]) -> Series:
    mid, low, high = (tuple(float(row[f"{SPEED}{end}"] or row[SPEED]) for row in rows) for end in ("", "_low", "_high"))
    return Series(name, tuple(row["concurrency"] for row in rows), mid, low, high, rows[0]["support"])


def _changes(series: Sequence[Series]) -> list[LeadChange]:
    """The fastest at every load; a change counts once the new one leads by more than rounding."""
    speeds = {one.weight_format: dict(zip(one.concurrency, one.speed, strict=True)) for one in series}
    out: list[LeadChange] = []
    leader = ""
    for count in sorted({count for one in series for count in one.concurrency}):
        here = {name: values[count] for name, values in speeds.items() if count in values}
        first = max(here, key=here.__getitem__)
        if leader in here and here[first] < EVEN * here[leader]:
            first = leader
        if leader and first != leader:
            at = _crossing(speeds[leader], speeds[first], count)
            out.append(LeadChange(at, leader, first, *_doubt(series, leader, first, at)))
        leader = first
    return out


def _crossing(before: Mapping[int, float], after: Mapping[int, float], now: int) -> float:
    """Load up to `now` at which both are equally fast, on a log scale between two loads; `now` where they never are."""
    shared = [count for count in sorted(before) if count in after and count <= now]
    gaps = [math.log(after[count] / before[count]) for count in shared]
    behind = [index for index, gap in enumerate(gaps) if gap <= 0]
    if not behind or behind[-1] + 1 == len(gaps):
        return float(now)
    low, high = behind[-1], behind[-1] + 1
    share = -gaps[low] / (gaps[high] - gaps[low])
    return float(shared[low] * (shared[high] / shared[low]) ** share)


def _doubt(series: Sequence[Series], before: str, after: str, at: float) -> tuple[int | None, int | None]:
    """Last load before the change at which the old leader is surely faster, first after it at which the new one is."""
    old, new = (next(one for one in series if one.weight_format == name) for name in (before, after))
    ends = {name: dict(zip(one.concurrency, zip(one.low, one.high, strict=True), strict=True))
            for name, one in ((before, old), (after, new))}  # fmt: skip
    shared = [count for count in old.concurrency if count in ends[after]]
    sure_old = [count for count in shared if count <= at and ends[before][count][0] > ends[after][count][1]]
    sure_new = [count for count in shared if count >= at and ends[after][count][0] > ends[before][count][1]]
    return (max(sure_old) if sure_old else None), (min(sure_new) if sure_new else None)


def crossover_words(crossing: Crossover) -> str:
    """Who leads from where to where, and how sure that is."""
    if not crossing.series:
        return "No format runs here."
    if not crossing.changes:
        fastest = max(crossing.series, key=lambda one: one.speed[-1])
        span = f"from {fastest.concurrency[0]:,} to {fastest.concurrency[-1]:,} requests at once"
        return f"{format_name(fastest.weight_format)} is the fastest {span}: the lead never changes."
    return " ".join(_change_words(change) for change in crossing.changes) + f" Basis: {crossing.evidence}."


def _change_words(change: LeadChange) -> str:
    said = (
        f"{format_name(change.before)} leads up to about {change.concurrency:,.0f} requests at once, then "
        f"{format_name(change.after)}"
    )
    if change.earliest is None and change.latest is None:
        return f"{said}; their intervals overlap throughout, so this is likely, not certain."
    first = f"surely after {change.earliest:,}" if change.earliest is not None else "perhaps earlier"
    last = f"surely before {change.latest:,}" if change.latest is not None else "perhaps later"
    return f"{said}; {first}, {last}."
