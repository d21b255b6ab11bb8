"""Order among candidates: by one wish or a blend, the Pareto front, and near ties. Works on rows of an estimate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.catalog.quality import NATIVE, TRAINED, family
from planner.estimate.columns import EstimateRow
from planner.search.records import Kept
from planner.specs.wish import RankBy, Wish

Floats = NDArray[np.float64]
TINY = 1e-12
IN_REACH = 20.0  # points of expected quality, some 2.5 doublings of size, that a blend weighs against money and time
FACTOR = 16.0  # times the money or the time of the best that count as much as those points
HUGE, BEHIND = 1e6, -1e9  # of a figure that is not known; of what is not in reach
NO_PRICE = -1e12  # worth of a GPU without a price, so that fewer come first
READ_TOKENS_PER_S = 5.0  # about 230 words a minute
WAITED_MS, WAITED_TOKENS = 60e3, 8000  # for a first token by one who sits before it, for each so many of the prompt
RELEASED = (NATIVE, TRAINED)  # what is known of a format below 16 bit in which a model was released
ALIKE = 1.1  # times the money or the time; measurements less than a tenth apart have no winner either
METRICS = {  # what each order compares, and whether less of it is better
    RankBy.QUALITY: ("quality_score", False),
    RankBy.COST: ("usd_per_request", True),
    RankBy.THROUGHPUT: ("output_tokens_per_s_per_gpu", False),
    RankBy.LATENCY: ("e2e_ms", True),
}
FRONT = (RankBy.QUALITY, RankBy.COST, RankBy.LATENCY)
AFTER = {  # what decides between equals
    RankBy.QUALITY: (RankBy.COST, RankBy.LATENCY),
    RankBy.COST: (RankBy.QUALITY, RankBy.LATENCY),
    RankBy.THROUGHPUT: (RankBy.QUALITY, RankBy.LATENCY),
    RankBy.LATENCY: (RankBy.QUALITY, RankBy.COST),
    RankBy.BLEND: (RankBy.QUALITY,),
}


def worth(row: EstimateRow, by: RankBy) -> float:
    """A figure as "more is better"; the worst where it is not known. Cost without prices counts GPUs."""
    name, less = METRICS[by]
    value = row[name]
    if value is None and by is RankBy.COST:
        return NO_PRICE * float(row["n_gpus"] or 1)
    if value is None:
        return -math.inf
    return -float(value) if less else float(value)


def scores(columns: Mapping[str, Floats], by: RankBy) -> Floats:
    """`worth` of many rows at once, from their columns."""
    name, less = METRICS[by]
    values = -columns[name] if less else columns[name]
    unknown = NO_PRICE * columns["n_gpus"] if by is RankBy.COST else -np.inf
    return np.where(np.isnan(values), unknown, values)


def front_mask(columns: Mapping[str, Floats]) -> NDArray[np.bool_]:
    """Rows that none of the same quality beats in cost and latency: all of the Pareto front, and few more."""
    points = np.stack([scores(columns, by) for by in FRONT], axis=1)
    order = np.lexsort(tuple(-points[:, axis] for axis in reversed(range(len(FRONT)))))
    front = np.zeros(len(order), dtype=bool)
    front[order] = _fronts(points[order])
    return front


def _fronts(points: Floats) -> NDArray[np.bool_]:
    """Of points sorted by all axes, best first: which are quicker than all before them of the same first axis."""
    borders = [0, *(np.flatnonzero(np.diff(points[:, 0])) + 1), len(points)]
    front = np.zeros(len(points), dtype=bool)
    for start, end in pairwise(borders if len(points) else []):
        last = points[start:end, -1]
        best = np.maximum.accumulate(np.concatenate([[-np.inf], last[:-1]]))
        front[start:end] = last > best
        front[start] = True
    return front


def blended(rows: Sequence[EstimateRow], wish: Wish) -> list[float]:
    """Weighted sum of how near each figure comes to the best one: 1 there, 0 at IN_REACH points of quality less, or at
    FACTOR times the money or the time; below 0 beyond.

    Where quality counts, what is not in reach of the best is no measure of the others and comes after them: a model of
    a hundredth of the size is always the quicker and the cheaper.
    """
    shares = wish.weights.model_dump()
    whole = sum(shares.values()) or 1.0
    qualities = [worth(row, RankBy.QUALITY) for row in rows]
    least = max(qualities, default=0.0) - IN_REACH if shares[RankBy.QUALITY.value] else -math.inf
    total = [0.0 if quality >= least else BEHIND for quality in qualities]
    for by in METRICS:
        values = [_scaled(row, by) for row in rows]
        best = max((value for value, quality in zip(values, qualities, strict=True) if quality >= least), default=0.0)
        span = IN_REACH if by is RankBy.QUALITY else math.log(FACTOR)
        for index, value in enumerate(values):
            total[index] += shares[by.value] / whole * (1 + (max(value, -HUGE) - max(best, -HUGE)) / span)
    return total


def _scaled(row: EstimateRow, by: RankBy) -> float:
    value = worth(row, by)
    if by is RankBy.QUALITY or not math.isfinite(value):
        return value
    size = math.log(max(abs(value), TINY))
    return -size if value < 0 else size


class Patience(NamedTuple):
    """What comes last where the best answers are sought and nothing says how quick they must be."""

    tokens_per_s: float = 0.0  # fewer for each user
    ttft_ms: float = math.inf  # longer until the first


ENDLESS = Patience()


def patience(load: Mapping[str, Any], wish: Wish) -> Patience:
    """The patience of who reads; without end where the load's objectives or the wish say what must be."""
    if wish.rank_by not in (RankBy.QUALITY, RankBy.BLEND) or load["e2e_slo_ms"]:
        return Patience()
    paced = load["tpot_slo_ms"] or wish.min_output_tokens_per_s_per_request is not None
    waited = math.inf if load["ttft_slo_ms"] else WAITED_MS * max((load["input_tokens"] or 0) / WAITED_TOKENS, 1)
    return Patience(0.0 if paced else READ_TOKENS_PER_S, waited)


def crawls(row: EstimateRow, limits: Patience) -> bool:
    """Whether nobody would sit before this."""
    each, first = row["output_tokens_per_s_per_request"], row["ttft_ms"]
    return (each is not None and each < limits.tokens_per_s) or (first is not None and first > limits.ttft_ms)


def ordered(rows: Sequence[EstimateRow], wish: Wish, limits: Patience = ENDLESS) -> list[EstimateRow]:
    """Rows, best first; those that are too slow for one's patience after all others."""
    quick, slow = [row for row in rows if not crawls(row, limits)], [row for row in rows if crawls(row, limits)]
    return _ordered(quick, wish) + _ordered(slow, wish)


def plainest_first(rows: Sequence[EstimateRow], wish: Wish) -> list[EstimateRow]:
    """Rows in order, but first of each model what starts as is usual, and in the format in which it was released,
    where that costs and takes as good as the same: nothing to set, nothing lost and nothing to make."""
    left, seen = list(rows), set[str]()
    if wish.rank_by not in (RankBy.QUALITY, RankBy.BLEND):
        return left
    for index in range(len(left)):
        first = left[index]
        if first["model"] in seen:
            continue
        seen.add(first["model"])
        alike = [other for other in range(index, len(left)) if _alike(left[other], first)]
        plainest = max(alike, key=lambda other: (_plainness(left[other]), -other))
        left.insert(index, left.pop(plainest))
    return left


def _plainness(row: EstimateRow) -> tuple[bool, bool]:
    return not row["settings_needed"], row["quality_evidence"] in RELEASED


def _alike(row: EstimateRow, first: EstimateRow) -> bool:
    same = all(row[name] == first[name] for name in ("model", "gpu", "n_gpus"))
    names = ("usd_per_request", "e2e_ms")
    close = all((row[name] or 0.0) <= ALIKE * (first[name] or 0.0) for name in names)
    return same and close and row["quality_score"] >= first["quality_score"]


def _ordered(rows: Sequence[EstimateRow], wish: Wish) -> list[EstimateRow]:
    first = blended(rows, wish) if wish.rank_by is RankBy.BLEND else [worth(row, wish.rank_by) for row in rows]
    keys = [(value, *(worth(row, by) for by in AFTER[wish.rank_by])) for value, row in zip(first, rows, strict=True)]
    return [rows[index] for index in sorted(range(len(rows)), key=keys.__getitem__, reverse=True)]


def pareto(rows: Sequence[EstimateRow]) -> list[int]:
    """Indices of rows that no other row beats in quality, cost and latency at once."""
    points = np.array([[worth(row, by) for by in FRONT] for row in rows]).reshape(-1, len(FRONT))
    order = np.lexsort(tuple(-points[:, axis] for axis in reversed(range(len(FRONT)))))
    likely = _fronts(points[order])
    front: list[int] = []
    for index in order[likely].tolist():  # whoever dominates a point stands before it
        beaten = np.all(points[front] >= points[index], axis=1) & np.any(points[front] > points[index], axis=1)
        if not np.any(beaten):
            front.append(index)
    return sorted(front)


def interval_of(row: EstimateRow, by: RankBy) -> tuple[float, float]:
    """80 % interval of what the order compares; cost has that of the requests it is divided by, quality the noise of
    its tests."""
    name, _ = METRICS[by]
    value = row[name]
    if value is None:
        return -math.inf, math.inf
    if by is RankBy.QUALITY:
        noise = family(row["task_family"]).noise_points / 2
        return value - noise, value + noise
    if by is RankBy.COST:
        low, high, served = row["requests_per_s_low"], row["requests_per_s_high"], row["requests_per_s"]
        return (value * served / high, value * served / low) if low and high and served else (value, value)
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return (value if low is None else low, value if high is None else high)


def near_ties(rows: Sequence[EstimateRow], by: RankBy, most: int) -> list[list[int]]:
    """Of each of the first `most` rows, in order: which of them its intervals overlap, by index.

    Quality and blends compare money too: equal answers for less are no tie.
    """
    metrics = (RankBy.QUALITY, RankBy.COST) if by in (RankBy.QUALITY, RankBy.BLEND) else (by,)
    spans = np.array([[interval_of(row, metric) for metric in metrics] for row in rows[:most]])
    spans = spans.reshape(-1, len(metrics), 2)
    low, high = spans[..., 0], spans[..., 1]
    overlap = np.all((low[:, None] <= high) & (low <= high[:, None]), axis=-1)
    return [[j for j in np.flatnonzero(line).tolist() if j != i] for i, line in enumerate(overlap)]


def foremost(kept: Sequence[Kept], wish: Wish, most: int, limits: Patience = ENDLESS) -> list[Kept]:
    """The first `most` by the wish, a third of them at most for the Pareto front's sake."""
    if len(kept) <= most:
        return list(kept)
    rows: list[EstimateRow] = [one.figures | {"index": index} for index, one in enumerate(kept)]
    front = ordered([rows[index] for index in pareto(rows)], wish, limits)[: most // 3]
    chosen = {row["index"]: None for row in front}
    for row in ordered(rows, wish, limits):
        if len(chosen) >= most:
            break
        chosen.setdefault(row["index"])
    return [kept[index] for index in chosen]
